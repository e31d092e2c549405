package fluxly

import (
	"context"
	"slices"
	"strings"

	"github.com/getfluxly/fluxly/internal/dnsmsg"
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
}

func (k *checker) checkReturnPath(ctx context.Context) {
	st := ReturnPathState{Host: k.ReturnPath, Want: k.ReturnPathTarget, State: "unknown"}
	defer func() { k.report.ReturnPath = st }()
	alias := k.ask.ask(ctx, k.ReturnPath, "CNAME")
	switch alias.state {
	case dnsFailed:
		k.unasked("returnpath_unasked", "the Return-Path alias", alias)
		return
	case dnsFound:
		st.Target = strings.TrimSuffix(strings.ToLower(alias.records[0].Target), ".")
		if k.sameHost(ctx, st.Target) {
			st.State = "ok"
			k.note("Return-Path", st.Host+" points to "+st.Target)
			k.besideAlias(ctx)
			return
		}
		st.State = "wrong"
		return
	}
	// Only now is it worth knowing whether a panel published an address in
	// place of the alias.
	if a := k.ask.addrs(ctx, k.ReturnPath); a.state == dnsFound {
		st.State = "address"
		return
	} else if a.state == dnsFailed && k.ask.querier == nil {
		k.unasked("returnpath_unasked", "the Return-Path alias", a)
		return
	}
	st.State = "missing"
}

// sameHost compares the target. The standard resolver gives the end of a chain
// of aliases, so there the ends are compared.
func (k *checker) sameHost(ctx context.Context, target string) bool {
	if target == k.ReturnPathTarget {
		return true
	}
	if k.ask.querier != nil {
		return false
	}
	end := k.ask.ask(ctx, k.ReturnPathTarget, "CNAME")
	return end.state == dnsFound && strings.EqualFold(strings.TrimSuffix(end.records[0].Target, "."), target)
}

// besideAlias: other records at the host of an alias make servers answer
// differently (RFC 1034 section 3.6.2).
func (k *checker) besideAlias(ctx context.Context) {
	if k.ask.querier == nil {
		return
	}
	txt := k.ask.ask(ctx, k.ReturnPath, "TXT")
	if slices.ContainsFunc(txt.records, func(r dnsmsg.Record) bool { return dnsmsg.Canonical(r.Name) == txt.name }) {
		k.add("returnpath_beside", DomainFinding{
			Name: k.ReturnPath, Type: "TXT", Found: txt.show(),
			Summary: "Other records stand beside the alias at " + k.ReturnPath + ".",
			Fix:     "Remove every record at " + k.ReturnPath + " except the CNAME.",
		})
	}
}

// judgeReturnPath runs when it is known whether DKIM aligns: then the alias is
// a second leg to stand on, else it is the only one.
func (k *checker) judgeReturnPath(dkimAligned bool) {
	st := k.report.ReturnPath
	f := DomainFinding{
		Name: st.Host, Type: "CNAME", Level: DomainFail,
		Publish:  []DomainRecord{{Name: st.Host, Type: "CNAME", Value: st.Want}},
		Optional: dkimAligned,
	}
	if dkimAligned {
		f.Level = DomainInfo
	}
	switch st.State {
	case "missing":
		f.Summary = "There is no alias at " + st.Host + ", so mail goes out with Postmark's own bounce address and SPF does not align with your domain."
		f.Fix = "Publish the CNAME record, then press Verify in Postmark."
		k.add("returnpath_missing", f)
	case "wrong":
		f.Found = []string{st.Target}
		f.Publish[0].Replaces = []string{st.Target}
		f.Summary = "The alias at " + st.Host + " points to " + st.Target + " instead of " + st.Want + "."
		f.Fix = "Change the CNAME record."
		k.add("returnpath_wrong_target", f)
	case "address":
		f.Summary = st.Host + " has an address of its own instead of an alias; a proxy in the DNS panel may be switched on for it."
		f.Fix = "Publish a CNAME record and switch the proxy off for it (\"DNS only\")."
		k.add("returnpath_address", f)
	}
}
