package fluxly

import (
	"context"
	"slices"
	"strings"

	"github.com/getfluxly/fluxly/internal/dnsmsg"
)

// DomainAlignment says whether mail through Postmark carries a domain that
// counts for DMARC: a pass of DKIM or SPF helps only when its domain belongs
// to the domain of From.
type DomainAlignment struct {
	DKIM AlignmentReport `json:"dkim"`
	SPF  AlignmentReport `json:"spf"`
}

// AlignmentReport is one leg of DMARC.
type AlignmentReport struct {
	// Domain is the one that the check passes for: d= of the signature, or
	// the envelope sender.
	Domain string `json:"domain,omitempty"`
	// Mode is "relaxed" or "strict", as the policy asks.
	Mode string `json:"mode,omitempty"`
	// Aligned is true when it passes and counts.
	Aligned bool `json:"aligned"`
	// Reason says why, in words.
	Reason string `json:"reason"`
}

// align runs when DKIM, Return-Path and DMARC are known.
func (k *checker) align() {
	r := k.report
	a := &r.Alignment
	a.DKIM = AlignmentReport{Mode: r.DMARC.DKIMMode, Reason: "no DKIM selector was given"}
	a.SPF = AlignmentReport{Mode: r.DMARC.SPFMode, Domain: r.ReturnPath.Want}
	unknown := false
	if d := signingKey(r.DKIM); d != nil {
		a.DKIM.Domain = d.Domain
		same, known := k.sameOrganization(d.Domain)
		switch {
		case d.State == "unknown":
			unknown = true
			a.DKIM.Reason = "the key could not be asked for"
		case d.State == "broken":
			a.DKIM.Reason = "the key at " + d.Host + " is not right"
		case d.State != "ok":
			a.DKIM.Reason = "the key at " + d.Host + " is " + d.State
		case a.DKIM.Mode == "strict" && d.Domain != k.domain:
			a.DKIM.Reason = "the policy is strict (adkim=s), and " + d.Domain + " is not exactly " + k.domain
		case !known:
			unknown = true
			a.DKIM.Reason = "whether " + d.Domain + " belongs to " + k.domain + " could not be told"
		case !same:
			a.DKIM.Reason = k.stranger(d.Domain)
		default:
			a.DKIM.Aligned = true
			a.DKIM.Reason = "mail is signed for " + d.Domain
		}
		if i := slices.IndexFunc(r.DKIM, func(p DKIMReport) bool { return p.Role == "pending" && p.State == "ok" }); d.Role == "current" && d.State != "ok" && i >= 0 {
			a.DKIM.Reason += "; the new one at " + r.DKIM[i].Host + " counts once Postmark has seen it and signs with it"
		}
	}
	st := r.ReturnPath
	same, known := k.sameOrganization(st.Host)
	spfUnknown := st.State == "unknown"
	switch {
	case st.State == "unknown":
		a.SPF.Reason = "the Return-Path alias could not be asked for"
	case st.State != "ok":
		a.SPF.Reason = "bounces go to Postmark's own domain, for which SPF passes without counting for " + k.domain
	case a.SPF.Mode == "strict" && st.Host != k.domain:
		a.SPF.Domain = st.Host
		a.SPF.Reason = "the policy is strict (aspf=s), and " + st.Host + " is not exactly " + k.domain
		k.add("align_spf_strict", DomainFinding{
			Name: r.DMARC.Host, Type: "TXT", Found: []string{r.DMARC.Record},
			Summary: "With aspf=s, SPF never counts for your mail: the bounce address is at " + st.Host + ", a subdomain. DMARC rests on DKIM alone.",
			Fix:     "Take aspf=s out if you want SPF as a second leg.",
		})
	case !known:
		spfUnknown = true
		a.SPF.Domain = st.Host
		a.SPF.Reason = "whether " + st.Host + " belongs to " + k.domain + " could not be told"
	case !same:
		a.SPF.Domain = st.Host
		a.SPF.Reason = k.stranger(st.Host)
	default:
		a.SPF.Domain, a.SPF.Aligned = st.Host, true
		a.SPF.Reason = "the envelope sender is at " + st.Host + ", and SPF passes through its alias"
	}
	k.alignUnknown = len(r.DKIM) == 0 || unknown || spfUnknown
	if (unknown || spfUnknown) && r.DMARC.State == "ok" && !r.DMARC.Inherited && k.orgUnasked != nil { // else it has been said
		k.unasked("dmarc_unasked", "a DMARC record further up, which would tell what belongs to "+k.domain, *k.orgUnasked)
	}
	for i, name := range []string{a.DKIM.Domain, st.Host} {
		if u := k.apart[name].unasked; u != nil && r.DMARC.State == "ok" && (i == 0 || name != a.DKIM.Domain) {
			k.unasked("dmarc_unasked", "the DMARC record that would tell whether "+name+" belongs to "+k.domain, *u)
		}
	}
	k.judgeReturnPath(a.DKIM.Aligned || unknown || len(r.DKIM) == 0)
	switch {
	case a.DKIM.Aligned && a.SPF.Aligned:
		k.note("Alignment", "DKIM and SPF both align")
	case a.DKIM.Aligned:
		k.note("Alignment", "DKIM aligns, which is enough; SPF does not")
	case len(r.DKIM) == 0 || unknown:
	case a.SPF.Aligned:
		k.add("align_dkim", DomainFinding{
			Summary: "DKIM does not count for " + k.domain + ": " + a.DKIM.Reason + ". Mail rests on SPF alone, which breaks when it is forwarded.",
			Fix:     "Do what is said of DKIM.",
		})
	case !spfUnknown:
		k.add("align_none", DomainFinding{
			Summary: "Nothing proves to receivers that mail comes from " + k.domain + ". DKIM: " + a.DKIM.Reason + ". SPF: " + a.SPF.Reason + ".",
			Fix:     "Do what is said of DKIM and of the Return-Path; DKIM first, because it decides.",
		})
	}
}

// signingKey is the key that Postmark signs with: the current one, until the
// pending one was seen and has taken its place; nil when none was looked at.
func signingKey(rs []DKIMReport) *DKIMReport {
	for _, role := range []string{"current", "pending"} {
		if i := slices.IndexFunc(rs, func(r DKIMReport) bool { return r.Role == role }); i >= 0 {
			return &rs[i]
		}
	}
	return nil
}

// stranger says that a name is not of the domain's organisation.
func (k *checker) stranger(name string) string {
	s := name + " does not belong to " + k.domain
	if strings.HasSuffix(name, "."+k.domain) {
		s += " for DMARC, because of a psd tag in a record"
	}
	return s
}

// sameOrganization is relaxed alignment. The organisational domain that the walk
// from the domain found settles it, unless the other name is an organisation of
// its own.
func (k *checker) sameOrganization(other string) (same, known bool) {
	if a := k.apart[other]; a.is || a.unasked != nil {
		return false, a.is
	}
	return belongs(k.domain, k.report.DMARC.Organizational, other)
}

// belongs reports whether a name belongs to the organisation of domain. org is
// "" when the walk could not find it out: then a name below the domain belongs
// to it, one that shares no more than the last label does not, and of the rest
// nothing is known.
func belongs(domain, org, other string) (same, known bool) {
	switch {
	case other == domain, strings.HasSuffix(other, "."+domain):
		return true, true
	case org != "":
		return other == org || strings.HasSuffix(other, "."+org), true
	}
	labels := strings.Split(domain, ".")
	return false, !inZone(dnsmsg.Canonical(other), strings.Join(labels[max(0, len(labels)-2):], "."))
}

// checkMailHost: replies and bounces go to the domain of From.
func (k *checker) checkMailHost(ctx context.Context) {
	mx := k.look(ctx, k.domain, "MX")
	switch {
	case mx.state == dnsFailed:
		k.unasked("mail_unasked", "the mail host", mx)
		return
	case mx.state == dnsFound:
		if slices.Equal(mx.show(), []string{""}) {
			k.add("mail_null_mx", DomainFinding{
				Name: k.domain, Type: "MX", Found: []string{"."},
				Summary: k.domain + " says that it takes no mail at all (a null MX), so replies to your mail are lost.",
				Fix:     "Replace that record by the MX record that your mail provider names, or send from a domain that takes mail.",
			})
			return
		}
		k.note("Mail host", "replies go to "+strings.Join(mx.show(), ", "))
		return
	}
	a := k.lookAddrs(ctx, k.domain)
	switch {
	case a.state == dnsFailed:
		k.unasked("mail_unasked", "the mail host", a)
	case a.state == dnsFound:
		k.note("Mail host", "no MX; replies go to the address of "+k.domain)
	default:
		k.add("mail_no_host", DomainFinding{
			Name: k.domain, Type: "MX",
			Summary: k.domain + " has neither an MX nor an address record, so replies to your mail are lost, and some receivers refuse mail from such a domain.",
			Fix:     "Publish the MX record that your mail provider names.",
		})
	}
}
