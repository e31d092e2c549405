package fluxly

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/getfluxly/fluxly/internal/dnsmsg"
	"github.com/getfluxly/fluxly/internal/spf"
)

// ReturnPathState is what was found at the host to which bounces go.
type ReturnPathState struct {
	Host string `json:"host"`
	// Want is where its alias must point.
	Want string `json:"want"`
	// Target is where it points; empty when there is no alias.
	Target string `json:"target,omitempty"`
	// State is "ok", "missing", "wrong", "address" (an address instead of an
	// alias) or "unknown".
	State string `json:"state"`
	// Wildcard is true when what was found comes from a wildcard record of
	// the zone ("*"), which answers for every name that has no record.
	Wildcard bool `json:"wildcard,omitempty"`
}

func (k *checker) checkReturnPath(ctx context.Context) {
	st := ReturnPathState{Host: k.ReturnPath, Want: k.ReturnPathTarget, State: "unknown"}
	defer func() { k.report.ReturnPath = st }()
	// The question is for TXT, as receivers ask it for SPF: the reply shows the
	// alias, and what stands beside it.
	typ := "TXT"
	if k.ask.querier == nil {
		typ = "CNAME"
	}
	r := k.look(ctx, k.ReturnPath, typ)
	target := ""
	switch {
	case typ == "CNAME" && r.state == dnsFound:
		target = r.records[0].Target
	case len(r.chain) > 0:
		target = r.chain[0]
	case r.state == dnsFailed && typ == "CNAME":
		k.unasked("returnpath_unasked", "the Return-Path alias", r)
		return
	case r.state == dnsFailed:
		// The fault may lie with the target, which is not ours to judge here.
		c := k.ask.ask(ctx, k.ReturnPath, "CNAME")
		if c.state == dnsFailed {
			k.unasked("returnpath_unasked", "the Return-Path alias", r)
			return
		}
		if c.state == dnsFound {
			target = c.records[0].Target
		}
	}
	for _, v := range r.own {
		if t, ok := strings.CutPrefix(v, "CNAME "); ok {
			target = t
		}
	}
	if target == "" && typ == "TXT" && r.state == dnsFound && !(r.authoritative && k.asksZone(r.name)) {
		// A name with both answers with either; the cache may have the alias still
		// that the zone has no more.
		if c := k.ask.ask(ctx, k.ReturnPath, "CNAME"); c.state == dnsFound {
			target = c.records[0].Target
			r.own = append(slices.Clone(r.own), c.own...)
		}
	}
	if target != "" {
		st.Target = strings.TrimSuffix(strings.ToLower(target), ".")
		same, end := k.sameHost(ctx, st.Target)
		switch {
		case end.state == dnsFailed:
			k.add("returnpath_unasked", DomainFinding{
				Name: k.ReturnPath, Type: "CNAME", Found: []string{st.Target},
				Summary: "The alias at " + k.ReturnPath + " leads to " + st.Target + "; whether " + st.Want + " leads there too could not be asked: " + end.why + ".",
				Fix:     "Run the check again. This says nothing about whether the alias is right.",
			})
			return
		case !same:
			all := k.wildcard(ctx, k.ReturnPath, "CNAME")
			st.State, st.Wildcard = "wrong", slices.Equal(all.show(), []string{st.Target})
			return
		}
		st.State = "ok"
		k.note("Return-Path", st.Host+" points to "+st.Target)
		// Other records at the name of an alias (RFC 1034 section 3.6.2).
		if len(r.own) > 1 {
			k.add("returnpath_beside", DomainFinding{
				Name: k.ReturnPath, Type: typ, Found: r.own,
				Summary: "Other records stand beside the alias at " + k.ReturnPath + ".",
				Fix:     "Remove every record at " + k.ReturnPath + " except the CNAME.",
			})
		}
		return
	}
	// Only now is it worth knowing whether a panel published an address in
	// place of the alias, and what else is in its way.
	a := k.ask.addrs(ctx, k.ReturnPath)
	if r.authoritative && k.asksZone(r.name) {
		q := keyQuestion{dnsmsg.Canonical(k.ReturnPath), "A"}
		a = k.lookBoth(ctx, q)
		q.typ = "AAAA"
		a = bothFamilies(a, k.lookBoth(ctx, q))
	}
	if r.state != dnsNXDomain {
		if typ != "TXT" {
			r = k.ask.ask(ctx, k.ReturnPath, "TXT")
		}
		k.inPlace = k.inTheWay(ctx, r)
		for _, typ := range []string{"MX", "NS"} {
			k.inPlace = append(k.inPlace, k.inTheWay(ctx, k.ask.ask(ctx, k.ReturnPath, typ))...)
		}
	}
	switch {
	case a.state == dnsFound && len(a.chain) == 0:
		own := k.inTheWay(ctx, a)
		st.State, st.Wildcard = "address", len(own) == 0
		k.inPlace = append(k.inPlace, own...)
	case a.state == dnsFailed:
		if k.ask.querier == nil {
			k.unasked("returnpath_unasked", "the Return-Path alias", a)
			return
		}
		st.State = "missing"
	default: // an alias that a cache still has leads to addresses, too
		st.State = "missing"
	}
}

// inTheWay are the records of a reply that must go before an alias is published
// at their name (RFC 1034 section 3.6.2): those that do not come from a wildcard.
func (k *checker) inTheWay(ctx context.Context, r dnsReply) (out []ReplacedRecord) {
	if r.state != dnsFound || len(r.chain) > 0 {
		return nil
	}
	all := map[string][]string{}
	for i, text := range r.show() {
		typ := r.records[i].Type
		if _, ok := all[typ.String()]; !ok {
			all[typ.String()] = k.wildcard(ctx, k.ReturnPath, typ.String()).show()
		}
		if slices.Contains(all[typ.String()], text) {
			continue
		}
		if typ == dnsmsg.MX {
			text = strconv.Itoa(int(r.records[i].Preference)) + " " + text
		}
		out = append(out, ReplacedRecord{typ.String(), text})
	}
	return out
}

// wildcard asks for a name beside one that nobody publishes, to see whether the
// zone answers for all names. It is asked only where something is wrong.
func (k *checker) wildcard(ctx context.Context, name, typ string) dnsReply {
	_, parent, _ := strings.Cut(name, ".")
	return k.ask.ask(ctx, "fluxly-wildcard-test."+parent, typ)
}

// sameHost compares the target. The standard resolver gives the end of a chain
// of aliases, so there the ends are compared; end is the reply about the one
// that is wanted, and when it failed nothing is known.
func (k *checker) sameHost(ctx context.Context, target string) (same bool, end dnsReply) {
	if target == k.ReturnPathTarget || k.ask.querier != nil {
		return target == k.ReturnPathTarget, end
	}
	end = k.ask.ask(ctx, k.ReturnPathTarget, "CNAME")
	return end.state == dnsFound && strings.EqualFold(strings.TrimSuffix(end.records[0].Target, "."), target), end
}

// returnPathHost refuses a host at which no alias may stand: an alias takes the
// place of all other records (RFC 1034 section 3.6.2), so it must not be the
// domain, one above it, or a name that is made for records of another kind.
func (k *checker) returnPathHost(field, given string) error {
	host := k.ReturnPath
	switch {
	case host == k.domain:
		return fieldErrorf(field, given, "is the domain itself, where an alias would take the place of all other records; give a host below it such as pm-bounces.%s", k.domain)
	case strings.HasSuffix(k.domain, "."+host):
		return fieldErrorf(field, given, "is a domain above %s, where an alias would take the place of all other records; give a host such as pm-bounces.%s", k.domain, k.domain)
	}
	for label := range strings.SplitSeq(strings.TrimSuffix(host, "."+k.domain), ".") {
		if strings.HasPrefix(label, "_") {
			return fieldErrorf(field, given, "has the part %q, which begins with an underscore: such names hold records of another kind, and none of them is a host for bounces; give one such as pm-bounces.%s", label, k.domain)
		}
	}
	return nil
}

// lost says what goes when an alias takes the place of the records at its name.
func (k *checker) lost() string {
	host := k.ReturnPath
	var out []string
	add := func(s string) {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	for _, r := range k.inPlace {
		switch {
		case r.Type == "MX":
			add("mail to addresses at " + host + " no longer arrives (MX)")
		case r.Type == "TXT" && spf.Is(r.Value):
			add("its SPF record no longer counts for others that send with " + host + " in the envelope")
		case (r.Type == "A" || r.Type == "AAAA") && host != "pm-bounces."+k.domain:
			add("nothing is reached under " + host + " any more (" + r.Type + ")")
		}
	}
	if len(out) == 0 {
		return ""
	}
	return " What is lost with it: " + strings.Join(out, "; ") + ". If any of that is in use, leave it as it is and choose another host for the Return-Path in Postmark."
}

// judgeReturnPath runs when it is known whether DKIM aligns: then the alias is
// a second leg to stand on, else it is the only one.
func (k *checker) judgeReturnPath(dkimAligned bool) {
	st := k.report.ReturnPath
	f := DomainFinding{
		Name: st.Host, Type: "CNAME", Level: DomainFail,
		Publish:  []DomainRecord{{Name: st.Host, Type: "CNAME", Value: st.Want, Replaces: k.inPlace}},
		Optional: dkimAligned,
	}
	if dkimAligned {
		f.Level = DomainInfo
	}
	if slices.ContainsFunc(k.inPlace, func(r ReplacedRecord) bool { return r.Type == "NS" }) && (st.State == "missing" || st.State == "address") {
		f.Publish = nil
		f.Summary = "There is no alias at " + st.Host + ", and none can stand there: the name is a zone of its own (it has NS records). So mail goes out with Postmark's own bounce address, and SPF does not count for your domain."
		f.Fix = "Delete nothing there. Choose another host below " + k.domain + " for the Return-Path in Postmark, and publish its alias."
		k.add("returnpath_missing", f)
		return
	}
	switch st.State {
	case "missing":
		f.Summary = "There is no alias at " + st.Host + ", so mail goes out with Postmark's own bounce address, and SPF does not count for your domain."
		f.Fix = "Publish the CNAME record, then press Verify in Postmark."
		if len(k.inPlace) > 0 {
			f.Fix = "Delete what stands there, publish the CNAME record, then press Verify in Postmark. Nothing may stand beside a CNAME record." + k.lost()
		}
		k.add("returnpath_missing", f)
	case "wrong":
		f.Found = []string{st.Target}
		f.Publish[0].Replaces = []ReplacedRecord{{"CNAME", st.Target}}
		f.Summary = "The alias at " + st.Host + " points to " + st.Target + " instead of " + st.Want + "."
		f.Fix = "Change the CNAME record."
		if st.Wildcard {
			f.Publish[0].Replaces = nil
			f.Summary = "There is no alias at " + st.Host + "; a wildcard record (*) of the zone answers in its place and points to " + st.Target + "."
			f.Fix = "Publish the CNAME record, then press Verify in Postmark. The wildcard record may stay."
		}
		k.add("returnpath_wrong_target", f)
	case "address":
		f.Summary = st.Host + " has an address (A record) where an alias (CNAME record) should stand; a proxy may be switched on for it in the DNS panel."
		f.Fix = "Delete the A record, add the CNAME record, and switch the proxy off for it (\"DNS only\"). Then press Verify in Postmark." + k.lost()
		if st.Wildcard {
			f.Summary = "There is no alias at " + st.Host + "; a wildcard record (*) of the zone answers in its place with an address."
			f.Fix = "Publish the CNAME record, then press Verify in Postmark. The wildcard record may stay."
		}
		k.add("returnpath_address", f)
	}
}
