package fluxly

import (
	"context"
	"slices"
	"strings"
	"sync"

	"github.com/getfluxly/fluxly/internal/dnsmsg"
)

// UncheckedQuerier asks a resolver not to validate (the CD bit, RFC 4035
// section 3.2.2). It is found by type assertion on a [Resolver]. With it a
// reply that fails because of DNSSEC is told from one that just fails.
type UncheckedQuerier interface {
	QueryUnchecked(ctx context.Context, name, typ string) (DNSAnswer, error)
}

// bogusName is a name for which the resolver answers only when it is asked not
// to validate. Behind an alias the fault may lie at its target.
type bogusName struct{ name, target string }

// bogus lists those names, the domain itself first and the Return-Path last. A
// server that is merely broken fails both times. Nothing is asked while the
// resolver answers.
func (k *checker) bogus(ctx context.Context) (names []bogusName) {
	if k.ask.unchecked == nil || k.ask.querier == nil {
		return nil
	}
	var qs []keyQuestion
	for _, q := range k.keys {
		if q.name == dnsmsg.Canonical(k.domain) || k.decides(q) {
			qs = append(qs, q)
		}
	}
	qs = append(qs, keyQuestion{dnsmsg.Canonical(k.ReturnPath), "TXT"})
	wrong := make([]*bogusName, len(qs))
	var wg sync.WaitGroup
	for i, q := range qs {
		wg.Go(func() {
			if !k.ask.ask(ctx, q.name, q.typ).servfail {
				return
			}
			r := k.ask.askUnchecked(ctx, q.name, q.typ)
			if r.state == dnsFailed {
				return
			}
			wrong[i] = &bogusName{name: strings.TrimSuffix(q.name, ".")}
			// What comes after the name at fault is answered.
			for _, n := range slices.Backward(r.chain) {
				if k.ask.ask(ctx, n, q.typ).servfail {
					if !k.nearby(n) {
						wrong[i].target = strings.TrimSuffix(n, ".")
					}
					break
				}
			}
		})
	}
	wg.Wait()
	for _, w := range wrong {
		if w != nil {
			names = append(names, *w)
		}
	}
	return names
}

// checkBogus runs in every check: a domain whose signatures are wrong does not
// exist for receivers that validate, whatever its records say.
func (k *checker) checkBogus(ctx context.Context) {
	var own []string
	for _, n := range k.bogus(ctx) {
		if n.target == "" {
			own = append(own, n.name)
			continue
		}
		fix := "Ask the owner of " + n.target + " to have that zone signed anew"
		if n.name != k.ReturnPath { // which must be an alias
			fix += ", or publish the record at " + n.name + " itself in place of the alias"
		}
		k.addBogus(n.name, DomainFinding{
			Summary: "The DNSSEC signatures at " + n.target + ", of which " + n.name + " is an alias, are wrong: the resolver refuses the records there (SERVFAIL), and gives them when it is asked not to check signatures.",
			Fix:     fix + ".",
		})
	}
	if len(own) > 0 {
		k.addBogus(own[0], DomainFinding{
			Summary: "The DNSSEC signatures at " + strings.Join(own, ", ") + " are wrong: the resolver refuses the records there (SERVFAIL), and gives them when it is asked not to check signatures.",
			Fix:     "Ask whoever runs the DNS of the domain to sign it anew. Until then, have the DS record removed where the domain is registered; mail works without DNSSEC.",
		})
	}
}

func (k *checker) addBogus(name string, f DomainFinding) {
	f.Area, f.Name, f.Type = "Zone", name, "TXT"
	if slices.Contains(k.Profiles, DNSSEC) {
		f.Area = string(DNSSEC)
	}
	if name == k.ReturnPath {
		f.Level = DomainWarn // DKIM is there all the same
	}
	k.add("dnssec_bogus", f)
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
	apex, _, why := k.cut(ctx)
	if apex == "" {
		unasked(k.domain, "Which zone holds "+k.domain+" could not be told, so neither whether it is signed: "+why+".", "Run the check again.")
		return
	}
	ds := k.ask.ask(ctx, apex, "DS")
	own := k.ask.ask(ctx, k.domain, "TXT")
	switch {
	case own.servfail && len(k.bogus(ctx)) > 0: // filed by checkBogus
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
