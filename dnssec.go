package fluxly

import (
	"context"
	"slices"
)

// UncheckedQuerier asks a resolver not to validate (the CD bit, RFC 4035
// section 3.2.2). It is found by type assertion on a [Resolver]. With it a
// reply that fails because of DNSSEC is told from one that just fails.
type UncheckedQuerier interface {
	QueryUnchecked(ctx context.Context, name, typ string) (DNSAnswer, error)
}

// bogus reports whether the resolver answers for the domain only when it is
// asked not to validate. A server that is merely broken fails both times.
// Nothing is asked while the resolver answers.
func (k *checker) bogus(ctx context.Context) bool {
	if k.ask.unchecked == nil {
		return false
	}
	for _, q := range []dnsKey{{name: k.domain, typ: "TXT"}, {name: "_dmarc." + k.domain, typ: "TXT"}} {
		if k.ask.ask(ctx, q.name, q.typ).servfail && k.ask.askUnchecked(ctx, q.name, q.typ).state != dnsFailed {
			return true
		}
	}
	return false
}

// checkBogus runs in every check: a domain whose signatures are wrong does not
// exist for receivers that validate, whatever its records say.
func (k *checker) checkBogus(ctx context.Context) {
	if !k.bogus(ctx) {
		return
	}
	area := "Zone"
	if slices.Contains(k.Profiles, DNSSEC) {
		area = string(DNSSEC)
	}
	k.add("dnssec_bogus", DomainFinding{
		Area: area, Name: k.domain, Type: "TXT",
		Summary: "The DNSSEC signatures of " + k.domain + " are wrong: the resolver refuses its records (SERVFAIL), and gives them when it is asked not to check signatures.",
		Fix:     "Ask whoever runs the DNS of the domain to sign it anew. Until then, have the DS record removed where the domain is registered; mail works without DNSSEC.",
	})
}

// dnssec is the profile: a zone is signed when its parent holds a DS record
// for it.
func (k *checker) dnssec(ctx context.Context) {
	area := string(DNSSEC)
	unasked := func(name, summary, fix string) {
		k.add("dnssec_unasked", DomainFinding{Area: area, Name: name, Type: "DS", Summary: summary, Fix: fix})
	}
	if k.ask.querier == nil {
		unasked(k.domain, "DNSSEC could not be looked at, because the resolver given hides it.", "Check with a DNSClient as resolver.")
		return
	}
	apex := k.domain
	if z := k.zone(); z.apex != "" {
		apex = z.apex
	}
	ds := k.ask.ask(ctx, apex, "DS")
	own := k.ask.ask(ctx, k.domain, "TXT")
	switch {
	case own.servfail && k.bogus(ctx): // filed by checkBogus
	case own.secure:
		k.note(area, "signed, and validated by the resolver")
	case ds.state == dnsFailed:
		unasked(apex, "Could not ask whether "+apex+" is signed: "+ds.why+".", "Run the check again.")
	case ds.absent():
		k.add("dnssec_unsigned", DomainFinding{Area: area, Name: apex, Type: "DS", Summary: "The zone " + apex + " is not signed with DNSSEC."})
	case own.state == dnsFailed:
		unasked(apex, "The zone "+apex+" is signed; whether its signatures are right could not be told: "+own.why+".", "Run the check again.")
	default:
		k.note(area, "signed; the resolver does not say that it validates")
	}
}
