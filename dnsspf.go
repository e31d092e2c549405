package fluxly

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/getfluxly/fluxly/internal/dnsmsg"
	"github.com/getfluxly/fluxly/internal/spf"
)

// SPFReport is what was found of SPF at the domain itself.
//
// It does not decide whether mail through Postmark passes: a receiver checks
// SPF against the envelope sender, which is Postmark's own domain or the
// Return-Path alias, never the domain after the @ of From. So the include that
// is often asked for is an offer here, and its absence is never a fault.
type SPFReport struct {
	// State is "ok", "missing", "multiple", "broken" or "unknown".
	State string `json:"state"`
	// Records are the SPF records found, sorted.
	Records []string `json:"records,omitempty"`
	// Include says how the record stands to Postmark's include: "present",
	// "absent", "qualified" (there, but not as a pass) or "unknown".
	Include string `json:"include"`
	// Lookups and Voids count the whole tree; of 10 and 2 allowed (RFC 7208
	// section 4.6.4). They are lower bounds when Complete is false.
	Lookups  int  `json:"lookups"`
	Voids    int  `json:"voids"`
	Complete bool `json:"complete"`
	// Proposal is the record with the include merged in; empty when there is
	// nothing to propose.
	Proposal string `json:"proposal,omitempty"`
	// Tree is the record with all that it pulls in, and what each term costs.
	Tree *SPFNode `json:"tree,omitempty"`
	// Addresses are the results for the addresses that were asked for.
	Addresses []SPFResult `json:"addresses,omitempty"`
}

// SPFResult is how a receiver would judge one address.
type SPFResult struct {
	Address netip.Addr `json:"address"`
	// Result is a result of RFC 7208 section 2.6: "pass", "fail", ...; or
	// "unknown" for a record that is sound and yet cannot be evaluated here.
	Result string `json:"result"`
	Reason string `json:"reason,omitempty"`
	// Lookups is how many of the 10 look-ups it takes at most. A mail that
	// matches early takes fewer than the whole tree.
	Lookups int `json:"lookups"`
}

func (k *checker) checkSPF(ctx context.Context) {
	rep := SPFReport{State: "unknown", Include: "unknown"}
	defer func() { k.report.SPF = rep }()
	src := spfSource{k}
	apex := k.look(ctx, k.domain, "TXT")
	var tree *spf.Node
	var type99 dnsReply
	var wg sync.WaitGroup
	wg.Go(func() { tree = spf.Walk(ctx, src, k.domain, spf.Identity{}) })
	if k.ask.querier != nil {
		wg.Go(func() { type99 = k.askType99(ctx) })
	}
	wg.Wait()
	if apex.state == dnsFailed {
		k.unasked("spf_unasked", "the SPF record", apex)
		return
	}
	if type99.state == dnsFound && len(type99.records) > 0 {
		k.add("spf_type99", DomainFinding{
			Name: k.domain, Type: "SPF", Found: type99.show(),
			Summary: "A record of the old type SPF (99) is left at " + k.domain + "; nobody reads it.",
			Fix:     "Delete it and keep the TXT record.",
		})
	}
	rep.Records, rep.Lookups, rep.Voids, rep.Complete = tree.Texts, tree.Lookups, tree.Voids, tree.Complete()
	rep.Tree = publicTree(tree)
	near := k.spfTexts(ctx, apex, tree.State != spf.None)
	switch tree.State {
	case spf.None:
		rep.State = "missing"
		rep.Include = "absent"
		k.spfMissing(ctx, &rep, near)
	case spf.Multiple:
		rep.State = "multiple"
		k.spfMultiple(ctx, &rep, tree)
	default:
		rep.State = "ok"
		rep.Include = k.includeState(tree)
		issues := spf.Lint(tree)
		mended := k.spfMended(ctx, apex, tree, issues)
		if k.spfLint(tree, issues, mended) {
			rep.State = "broken"
		}
		k.spfInclude(ctx, &rep, tree, issues, offerBase(tree, issues, mended))
		if rep.State == "ok" {
			k.note("SPF", k.spfCost(tree))
		}
	}
	for _, a := range k.Addresses {
		rep.Addresses = append(rep.Addresses, k.evaluateSPF(ctx, tree, a, k.domain, "postmaster@"+k.domain))
	}
}

// askType99 asks for a record of the old type, which decides nothing. Some servers
// and firewalls drop the question, so it is not waited for as the others are.
func (k *checker) askType99(ctx context.Context) dnsReply {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	return k.ask.ask(ctx, k.domain, "SPF")
}

// spfCost is the note on a sound record.
func (k *checker) spfCost(tree *spf.Node) string {
	gap := tree.Gap()
	if gap == "" {
		return fmt.Sprintf("one record, %d of 10 look-ups", tree.Lookups)
	}
	s := fmt.Sprintf("one record, at least %d of 10 look-ups: %s", tree.Lookups, gap)
	if k.includeState(tree) == "unknown" {
		s += "; whether it includes " + k.SPFInclude + " is not known"
	}
	return s
}

// spfTexts looks at the TXT records that are not SPF but were meant to be, and
// at the size of the set. It returns the record that is proposed in place of such
// a text.
func (k *checker) spfTexts(ctx context.Context, apex dnsReply, others bool) (proposed string) {
	size := apex.size
	for _, t := range apex.texts() {
		if apex.size == 0 {
			size += len(t) + 15
		}
		if spf.Is(t) {
			continue
		}
		if strings.HasPrefix(strings.ToLower(t), "spf2.0/") {
			k.add("spf_sender_id", DomainFinding{
				Name: k.domain, Type: "TXT", Found: []string{t},
				Summary: "A Sender ID record (spf2.0) is left; nobody reads it.", Fix: "Delete it.",
			})
		} else if why := nearSPF(t); why != "" {
			f := DomainFinding{
				Name: k.domain, Type: "TXT", Found: []string{t},
				Summary: "A TXT record looks like SPF but is not read as such: " + why + ".",
				Fix:     "Delete it, after a look at whether the SPF record beside it names all of its senders.",
			}
			if !others {
				f.Fix = "Correct or delete it."
				if m, ok := mendNearSPF(t); ok && k.spfSound(ctx, m.Text) {
					f.Fix = "Replace it by the record below." + mendingNote(m)
					f.Publish = []DomainRecord{txtRecord(k.domain, m.Text, t)}
					proposed = cmp.Or(proposed, m.Text)
				}
			}
			k.add("spf_near_miss", f)
		}
	}
	limit := 1232
	if size <= limit {
		limit = 512
	}
	if size > limit {
		k.add("spf_large_set", DomainFinding{
			Name: k.domain, Type: "TXT",
			Summary: fmt.Sprintf("The TXT records of %s take %d bytes in one reply; over %d some receivers must ask a second time over TCP, and a few do not.", k.domain, size, limit),
			Fix:     "Delete verification records that are no longer needed.",
		})
	}
	return proposed
}

// nearSPF says why a text that was meant as SPF is not one, or returns "".
func nearSPF(s string) string {
	t := strings.TrimLeft(s, " \t\"'\\\u201c\u201d\u201e\u2018\u2019\u00ab\u00a0\ufeff")
	lower := strings.ToLower(t)
	switch {
	case strings.HasPrefix(lower, "v=spf1") && len(t) != len(s):
		if strings.TrimLeft(s, " \t") == t {
			return "a blank stands before v=spf1"
		}
		return "a quotation mark or another invisible character stands before v=spf1"
	case strings.HasPrefix(lower, "v=spf1"):
		return "v=spf1 must be followed by a blank"
	case strings.HasPrefix(lower, "v=spf") || strings.HasPrefix(lower, "v= spf1") || strings.HasPrefix(lower, "v =spf1") || strings.HasPrefix(lower, "v = spf1"):
		return "it must begin with exactly v=spf1 and a blank"
	case strings.HasPrefix(lower, "spf1 ") || strings.HasPrefix(lower, "=spf1 "):
		return "v= is missing at the start"
	}
	// Letters of other alphabets that look the same.
	head, _, _ := strings.Cut(t, " ")
	if runes := []rune(head); len(runes) == 6 && len(head) > 6 && strings.ContainsRune("=\uff1d", runes[1]) && strings.ContainsRune("1\uff11", runes[5]) {
		for i, c := range runes {
			if c < 0x80 && c|0x20 != rune("v=spf1"[i])|0x20 {
				return ""
			}
		}
		return "v=spf1 is written with letters of another alphabet that only look the same"
	}
	return ""
}

// spfLint files what the linter says, with the mended record for what that
// corrects; it reports whether one of it makes the record a
// permanent error.
func (k *checker) spfLint(tree *spf.Node, issues []spf.Issue, mended spfMending) (broken bool) {
	for _, i := range issues {
		code := "spf_" + i.Code
		if findingCatalogue[code].level == DomainFail && i.Code != "pass_all" && i.Code != "wide_network" {
			broken = true
		}
		f := DomainFinding{Name: i.Domain, Type: "TXT", Summary: sentence(i.Text), Fix: spfFixes[i.Code]}
		if r := i.Record(); r != nil {
			f.Found = []string{r.Text}
			if r != tree.Record {
				f.Found[0] = clip(r.Text, questionBytes)
			}
		}
		if i.End > 0 && i.Code == "syntax" {
			at := utf8.RuneCountInString(i.Record().Text[:i.Pos]) + 1
			f.Summary = fmt.Sprintf("The SPF record of %s has a mistake at character %d: %s.", i.Domain, at, i.Text)
		}
		if i.Record() != tree.Record && f.Fix != "" && i.Code != "too_many_lookups" {
			f.Fix += " The record belongs to " + i.Domain + "; if that is not yours, tell its owner or take its include out."
		}
		if i.Code == "too_many_lookups" {
			f.Fix += " " + costText(tree)
		}
		if i.Code == "unasked" && k.includeState(tree) == "unknown" {
			f.Fix += " Until then it is not known whether the record includes " + k.SPFInclude + "."
		}
		if mended.text != "" && ownIssue(tree, i) && !mended.remains[faultOf(i)] {
			f.Publish = []DomainRecord{txtRecord(k.domain, mended.text, tree.Texts...)}
			if i.Code == "after_all" {
				f.Fix = "Publish the record below." + mended.note
			} else {
				f.Fix += " The record to publish has it corrected." + mended.note
			}
		}
		k.add(code, f)
	}
	return broken
}

// sentence makes a finding's text out of a linter's clause.
func sentence(s string) string {
	if s == "" {
		return s
	}
	if c := s[0]; 'a' <= c && c <= 'z' && !strings.Contains(strings.SplitN(s, " ", 2)[0], ".") && !strings.ContainsAny(strings.SplitN(s, " ", 2)[0], ":/") {
		s = string(c-'a'+'A') + s[1:]
	}
	return s + "."
}

// costText lists what each term of the domain's own record costs, the dearest
// of very many.
func costText(tree *spf.Node) string {
	const most = 40
	var costly []*spf.Step
	for _, s := range tree.Steps {
		if s.Lookups > 0 {
			costly = append(costly, s)
		}
	}
	rest := ""
	if n := len(costly) - most; n > 0 {
		slices.SortStableFunc(costly, func(a, b *spf.Step) int { return b.Lookups - a.Lookups })
		costly = costly[:most]
		rest = fmt.Sprintf(", and %d more that cost as much as the last or less", n)
	}
	var parts []string
	for _, s := range costly {
		parts = append(parts, fmt.Sprintf("%s costs %d", clip(s.Term.Text, 100), s.Lookups))
	}
	return "Each term with all that it pulls in: " + strings.Join(parts, ", ") + rest + "."
}

func (k *checker) spfMissing(ctx context.Context, rep *SPFReport, near string) {
	f := DomainFinding{Name: k.domain, Type: "TXT", Optional: true, Summary: "There is no SPF record at " + k.domain + "."}
	if near != "" {
		f.Fix = "Correct the text that looks like one, as said above."
		rep.Proposal = near
		if m, ok := spf.Propose([]string{near}, k.SPFInclude); ok && k.spfSound(ctx, m.Text) {
			rep.Proposal = m.Text
		}
	} else {
		m, _ := spf.Propose(nil, k.SPFInclude)
		rep.Proposal = m.Text
		f.Fix = "If the domain should have one, publish this. It ends in ~all and not in -all, because other systems may send for the domain."
		f.Publish = []DomainRecord{txtRecord(k.domain, m.Text)}
	}
	k.add("spf_missing", f)
	for _, host := range []string{"_spf." + k.domain, "www." + k.domain} {
		// A record that names nobody is meant for the host itself: nothing sends
		// for it.
		if r := k.ask.ask(ctx, host, "TXT"); slices.ContainsFunc(r.texts(), func(t string) bool { return spf.Is(t) && spfNames(t) }) {
			publish := spfPublish(k.domain, r.texts())
			for i := range publish {
				publish[i] = txtRecord(k.domain, softAll(publish[i].Value))
			}
			if len(publish) > 0 && !k.spfSound(ctx, publish[0].Value) {
				publish = nil
			}
			k.add("spf_wrong_host", DomainFinding{
				Name: host, Type: "TXT", Found: r.show(),
				Summary: "An SPF record stands at " + host + ", but receivers look at " + k.domain + " itself.",
				Fix:     "In the DNS panel, enter @ (or leave the host empty) for the SPF record. If no machine sends for " + host + " itself, remove the one there.",
				Publish: publish, Optional: true,
			})
		}
	}
}

func (k *checker) spfMultiple(ctx context.Context, rep *SPFReport, tree *spf.Node) {
	f := DomainFinding{
		Name: k.domain, Type: "TXT", Found: tree.Texts,
		Summary: fmt.Sprintf("There are %d SPF records at %s; receivers then use none of them.", len(tree.Texts), k.domain),
		Fix:     "Replace them all by one record.",
	}
	m, ok := spf.Join(tree.Texts)
	if ok {
		switch why, gap := k.tryProposal(ctx, m.Text, nil, 0); {
		case why != "":
			f.Fix += " Joined, they would not be sound: " + why + "."
		case gap != "":
			f.Fix += " No joined record is proposed, because what it would cost is not known: " + gap + "."
		default:
			rep.Proposal = m.Text
			if with, ok := spf.Propose(tree.Texts, k.SPFInclude); ok {
				if why, gap := k.tryProposal(ctx, with.Text, nil, 0); why == "" && gap == "" {
					rep.Proposal = with.Text
				}
			}
			f.Publish = []DomainRecord{txtRecord(k.domain, m.Text, tree.Texts...)}
			f.Fix = "Replace them all by the one record below, after a look at whether each sender in it is still yours."
			var unreached []string
			for _, t := range tree.Texts {
				unreached = append(unreached, spf.Parse(t).Unreached()...)
			}
			f.Fix += leftOut(unreached)
			if slices.ContainsFunc(tree.Texts, func(t string) bool { all := spf.Parse(t).All(); return all != nil && all.Qualifier == '+' }) {
				f.Fix += " It does not end in +all as one of them does: that lets every machine in the world send as this domain."
			}
		}
	} else if m.Review != "" {
		f.Fix += " No joined record is proposed: " + m.Review + "."
	} else {
		f.Fix += " One of them breaks the grammar, so no joined record is proposed."
	}
	k.add("spf_multiple", f)
}

// includeState is how the tree stands to the include, as SPFReport.Include.
func (k *checker) includeState(tree *spf.Node) string {
	switch qualifiers, found := tree.FindInclude(k.SPFInclude); {
	case found && strings.Trim(qualifiers, "+") == "":
		return "present"
	case !tree.AllRead():
		return "unknown" // it may stand, or stand as a pass, in what was not read
	case found:
		return "qualified"
	}
	return "absent"
}

func (k *checker) spfInclude(ctx context.Context, rep *SPFReport, tree *spf.Node, issues []spf.Issue, corrected string) {
	switch rep.Include {
	case "present", "unknown":
		return
	case "qualified":
		f := DomainFinding{
			Name: k.domain, Type: "TXT", Found: tree.Texts,
			Summary: "include:" + k.SPFInclude + " stands in the record with a qualifier other than \"+\", so it does not authorise Postmark.",
			Fix:     "Remove the sign in front of the include.",
		}
		if !slices.ContainsFunc(tree.Steps, func(s *spf.Step) bool {
			return s.Term.Name == "include" && dnsmsg.Canonical(s.Target) == dnsmsg.Canonical(k.SPFInclude)
		}) {
			f.Summary = "The record reaches include:" + k.SPFInclude + " by way of others and with a qualifier other than \"+\", so it does not authorise Postmark."
			f.Fix = "If the sign stands in a record that is not yours, tell its owner, or put the include into your own record."
		}
		k.add("spf_include_qualified", f)
		return
	}
	f := DomainFinding{
		Name: k.domain, Type: "TXT", Found: tree.Texts, Optional: true,
		Summary: "The SPF record does not include " + k.SPFInclude + ". Mail through Postmark does not need it.",
	}
	texts, also := tree.Texts, ""
	if corrected != "" {
		texts, also = []string{corrected}, ", but for the correction above"
	}
	m, ok := spf.Propose(texts, k.SPFInclude)
	all := tree.Record.All()
	if !ok || rep.State == "broken" && tree.Lookups <= spf.MaxLookups || all != nil && all.Qualifier == '+' {
		f.Fix = "Nothing is proposed before the record itself is correct."
		k.add("spf_include_absent", f)
		return
	}
	switch why, gap := k.tryProposal(ctx, m.Text, issues, tree.MostVoids()); {
	case why != "":
		f.Fix = "Leave it out: with it " + why + ". " + costText(tree)
		k.add("spf_include_absent", f)
		return
	case gap != "":
		f.Fix = "Nothing is proposed, because what it would cost is not known: " + gap + "."
		k.add("spf_include_absent", f)
		return
	}
	rep.Proposal = m.Text
	f.Publish = []DomainRecord{txtRecord(k.domain, m.Text, tree.Texts...)}
	f.Fix = "If you want it all the same, change the record to this; nothing else in it is touched" + also + "."
	if m.Review != "" {
		f.Fix += " Note that " + m.Review + "."
	}
	k.add("spf_include_absent", f)
}

// overlay serves a proposed record in place of the published ones.
type overlay struct {
	spf.Source
	domain, text string
}

func (o overlay) TXT(ctx context.Context, name string) ([]string, spf.Status) {
	if dnsmsg.Canonical(name) == dnsmsg.Canonical(o.domain) {
		return []string{o.text}, spf.Found
	}
	return o.Source.TXT(ctx, name)
}

// walkAs walks the tree as it would be with text at the domain.
func (k *checker) walkAs(ctx context.Context, text string) *spf.Node {
	return spf.Walk(ctx, overlay{spfSource{k}, k.domain, text}, k.domain, spf.Identity{})
}

// tryProposal walks the tree as it would be, and says in words why the
// proposal must not be made, if so, or what is not known of it.
func (k *checker) tryProposal(ctx context.Context, text string, before []spf.Issue, voids int) (why, gap string) {
	tree := k.walkAs(ctx, text)
	why = newFault(tree, before)
	switch {
	case why != "":
	case tree.Lookups > spf.MaxLookups:
		why = fmt.Sprintf("evaluating the record takes %d DNS look-ups of %d allowed", tree.Lookups, spf.MaxLookups)
	case tree.MostVoids() > max(voids, spf.MaxVoids):
		why = fmt.Sprintf("up to %d look-ups find nothing for some mails, and over %d a check may end in an error", tree.MostVoids(), spf.MaxVoids)
	}
	return why, tree.Gap()
}

// spfFault is one thing that is wrong: the same kind of fault at another host, or
// in another term, is another one.
type spfFault struct{ code, domain, term string }

func faultOf(i spf.Issue) spfFault {
	f := spfFault{code: i.Code, domain: strings.ToLower(i.Domain)}
	switch r := i.Record(); {
	case i.Code == "loop":
		f.term = i.Text // by way of whom
	case r != nil:
		f.term = r.Text[i.Pos:i.End]
	}
	return f
}

func spfFaults(issues []spf.Issue) map[spfFault]bool {
	out := map[spfFault]bool{}
	for _, i := range issues {
		out[faultOf(i)] = true
	}
	return out
}

// newFault gives the first fault of a tree that is not there before.
func newFault(tree *spf.Node, before []spf.Issue) (why string) {
	old := spfFaults(before)
	for _, i := range spf.Lint(tree) {
		if findingCatalogue["spf_"+i.Code].level == DomainFail && !old[faultOf(i)] {
			return i.Text
		}
	}
	return ""
}
