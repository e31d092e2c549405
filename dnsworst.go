package fluxly

import (
	"cmp"
	"slices"
	"strings"

	"github.com/getfluxly/fluxly/internal/dnsmsg"
	"github.com/getfluxly/fluxly/internal/spf"
)

// within is a server's reply up to where its aliases leave the zone: what it
// holds of other zones it need not be the owner of.
func (r dnsReply) within(apex string) dnsReply {
	for i, n := range r.chain {
		if !inZone(n, apex) && r.state != dnsFailed {
			r.chain, r.records, r.state, r.cutAlias = slices.Clone(r.chain[:i+1]), nil, dnsNoData, true
			break
		}
	}
	return r
}

// said is what a reply says of its name, to compare replies by: what stands
// there, and what stands behind an alias as far as it stays in the zone.
func (r dnsReply) said(apex string) []string {
	if len(r.chain) == 0 || !inZone(r.chain[0], apex) {
		return r.own
	}
	out := slices.Clone(r.own)
	last := len(r.chain) - 1
	for i, n := range r.chain[:last] {
		out = append(out, strings.TrimSuffix(n, ".")+": CNAME "+strings.TrimSuffix(r.chain[i+1], "."))
		if !inZone(r.chain[i+1], apex) {
			return out
		}
	}
	if r.cutAlias {
		return out
	}
	end := strings.TrimSuffix(r.chain[last], ".") + ": "
	if len(r.records) == 0 {
		return append(out, end+"nothing")
	}
	for _, text := range r.show() {
		out = append(out, end+text)
	}
	return out
}

// agrees compares what two replies say. Where one of them was not followed to the
// end of its alias they agree as far as it goes.
func (r dnsReply) agrees(other dnsReply, apex string) bool {
	x, y := r.said(apex), other.said(apex)
	switch {
	case r.cutAlias && len(x) < len(y):
		y = y[:len(x)]
	case other.cutAlias && len(y) < len(x):
		x = x[:len(y)]
	}
	return slices.Equal(x, y)
}

// worst gives the worst of the authoritative answers, by which the verdict
// goes while servers disagree: receivers get it by chance. With equal ones the
// order of their texts decides, so that each run says the same.
func (k *checker) worst(q keyQuestion, replies []dnsReply) (worst dnsReply, ok bool) {
	at, differ, apex := 0, false, k.zone().apex
	for i, r := range replies {
		if r.state == dnsFailed || !r.authoritative {
			continue
		}
		if !ok {
			worst, at, ok = r, i, true
			continue
		}
		if r.agrees(worst, apex) {
			if worst.cutAlias { // who followed the alias knows more
				worst, at = r, i
			}
			continue
		}
		differ = true
		if c := cmp.Compare(k.badness(q, r), k.badness(q, worst)); c > 0 || c == 0 && slices.Compare(r.said(apex), worst.said(apex)) < 0 {
			worst, at = r, i
		}
	}
	if differ {
		k.mu.Lock()
		k.sayer[strings.TrimSuffix(q.name, ".")] = k.zone().servers[at].Name
		k.mu.Unlock()
	}
	return worst, ok
}

// badness ranks answers to one question; 0 is what is best for mail.
func (k *checker) badness(q keyQuestion, r dnsReply) int {
	texts := r.texts()
	targets, _ := k.dkimTargets()
	target := slices.IndexFunc(targets, func(t dkimTarget) bool { return dnsmsg.Canonical(t.host) == q.name })
	switch {
	case q.name == dnsmsg.Canonical(k.ReturnPath):
		switch {
		case len(r.chain) == 0:
			return 2
		case r.chain[0] != dnsmsg.Canonical(k.ReturnPathTarget):
			return 1
		}
		return 0
	case r.cutAlias:
		return 1 // an alias out of the zone, which is followed only when it is the answer taken
	case q.typ != "TXT":
		return min(1, max(0, 1-len(r.records)))
	case target >= 0:
		keys := slices.DeleteFunc(slices.Clone(texts), func(s string) bool { return !looksLikeDKIM(s) })
		if len(keys) == 0 {
			return 3
		}
		key, want := parseDKIMKey(keys[0]), parseDKIMKey(targets[target].value)
		broken := slices.ContainsFunc(key.problems, func(p dkimProblem) bool { return findingCatalogue[p.code].level == DomainFail })
		if len(texts) > 1 || broken || key.revoked || targets[target].value != "" && key.p != want.p {
			return 2
		}
		return 0
	case strings.HasPrefix(q.name, "_dmarc."):
		records := slices.DeleteFunc(texts, func(s string) bool { return !isDMARC(s) })
		switch {
		case len(records) == 0:
			return len(dmarcPolicies) + 1
		case len(records) > 1 || !parseDMARC(records[0]).usable:
			return len(dmarcPolicies)
		}
		return len(dmarcPolicies) - 1 - slices.Index(dmarcPolicies, parseDMARC(records[0]).p)
	}
	records := slices.DeleteFunc(texts, func(s string) bool { return !spf.Is(s) })
	switch {
	case len(records) > 1 || len(records) == 1 && len(spf.Parse(records[0]).Faults) > 0:
		return 2
	case len(records) == 0:
		return 1
	}
	return 0
}

// decides reports whether the answer to q is one of those that [DomainReport.Ready]
// rests on.
func (k *checker) decides(q keyQuestion) bool {
	targets, _ := k.dkimTargets()
	// Postmark signs with the current key as long as there is one.
	signs := "pending"
	if slices.ContainsFunc(targets, func(t dkimTarget) bool { return t.role == "current" }) {
		signs = "current"
	}
	return strings.HasPrefix(q.name, "_dmarc.") || slices.ContainsFunc(targets, func(t dkimTarget) bool { return t.role == signs && dnsmsg.Canonical(t.host) == q.name })
}
