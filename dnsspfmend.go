package fluxly

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/getfluxly/fluxly/internal/spf"
)

// spfMending is the one record to publish in place of a faulty one, whatever the
// number of its faults.
type spfMending struct {
	text string // "" when a person has to write it
	note string // what whoever publishes it must know
	// remains are the faults that it has, too.
	remains map[spfFault]bool
}

func (k *checker) spfMended(ctx context.Context, apex dnsReply, tree *spf.Node, issues []spf.Issue) (none spfMending) {
	if tree.Record == nil || k.spfCut(apex, tree) {
		return none // who stood in a lost part is not known
	}
	from := tree
	split, joined := k.spfSplit(ctx, apex, tree, issues)
	if split != nil {
		from = joined
	}
	m, ok := spf.Mend(from)
	if ok {
		m, ok = k.mendOn(ctx, m, from)
	}
	if split != nil {
		text := from.Record.Text
		if ok {
			text = m.Text
		}
		split.Publish = []DomainRecord{txtRecord(k.domain, text, tree.Texts...)}
		k.add("spf_split", *split)
	}
	if !ok || !m.Changed && split == nil {
		return none
	}
	// A record that costs too much may go on doing so: senders have to go,
	// and which ones is not for a program to say.
	after, limit := k.walkAs(ctx, m.Text), max(tree.Lookups, spf.MaxLookups)
	if !after.Complete() && len(tree.Record.Faults) == 0 {
		limit = tree.Lookups // what is not known may cost the rest
	}
	if newFault(after, issues) != "" || after.Lookups > limit {
		return none
	}
	note := mendingNote(m)
	if gap := after.Gap(); gap != "" && tree.Complete() {
		note += " What it costs is not known: " + gap + "."
	}
	return spfMending{m.Text, note, spfFaults(spf.Lint(after))}
}

// mendOn mends what a mended text has left: terms that only now can be read may
// lead nowhere. Then they were perhaps not meant so, and ok is false.
func (k *checker) mendOn(ctx context.Context, m spf.Mending, tree *spf.Node) (_ spf.Mending, ok bool) {
	for range 3 {
		more, ok := spf.Mend(k.walkAs(ctx, m.Text))
		if !ok {
			return m, false
		}
		if !more.Changed {
			break
		}
		for _, gone := range more.Gone {
			if !slices.ContainsFunc(tree.Steps, func(s *spf.Step) bool { return s.Term.Text == gone && !s.Term.Bad }) {
				return m, false
			}
		}
		m.Text, m.Softened = more.Text, m.Softened || more.Softened
	}
	return m, true
}

// mendingNote says what of a record is not in the mended one.
func mendingNote(m spf.Mending) string {
	note := leftOut(m.Unreached)
	if m.Softened {
		note += " It ends in ~all and not in -all, because no term is left that names a sender, and -all would have all mail of the domain refused."
	}
	return note
}

// leftOut speaks of the terms that a mended record leaves out because "all" keeps
// them from being looked at.
func leftOut(terms []string) string {
	if len(terms) == 0 {
		return ""
	}
	const few = 3
	var names []string
	for _, t := range terms[:min(few, len(terms))] {
		names = append(names, strconv.Quote(clip(t, 80)))
	}
	if more := len(terms) - few; more > 0 {
		names = append(names, fmt.Sprintf("%d more", more))
	}
	note := " It leaves out " + strings.Join(names, ", ")
	if len(terms) == 1 {
		note += ", which \"all\" keeps from being looked at, so it counts for nobody today; put it before \"all\" if it is a sender of yours"
	} else {
		note += ", which \"all\" keeps from being looked at, so they count for nobody today; put before \"all\" those that are senders of yours"
	}
	if slices.ContainsFunc(terms, func(t string) bool { return strings.HasPrefix(strings.ToLower(t), "redirect=") }) {
		note += " (a redirect= as an include:)"
	}
	return note + "."
}

// ownIssue: the fault lies in the domain's own record, or right where it
// points.
func ownIssue(tree *spf.Node, i spf.Issue) bool {
	if i.Node == tree {
		return true
	}
	return (i.Code == "target_missing" || i.Code == "loop") && slices.ContainsFunc(tree.Steps, func(s *spf.Step) bool { return s.Child == i.Node })
}

// offerBase is the corrected record that an offer is built on, so that whoever
// takes the offer does not undo the correction; "" when nothing is to be corrected
// and the offer touches nothing else. What "all" says stays as it is published: an
// offer neither softens nor hardens it.
func offerBase(tree *spf.Node, issues []spf.Issue, mended spfMending) string {
	corrects := func(i spf.Issue) bool {
		return ownIssue(tree, i) && !mended.remains[faultOf(i)] && findingCatalogue["spf_"+i.Code].level.rank() > DomainInfo.rank()
	}
	text := mended.text
	if text == "" || !slices.ContainsFunc(issues, corrects) {
		return ""
	}
	if old, all := tree.Record.All(), spf.Parse(text).All(); old != nil && all != nil {
		text = text[:all.Pos] + old.Text + text[all.End:]
	}
	if text == tree.Record.Text {
		return ""
	}
	return text
}

// spfSplit looks for what panels do to a long record: strings that were meant to
// be joined by a blank. It returns what to say of it, and the tree with the blanks
// put in; nil when nothing of the kind is wrong.
func (k *checker) spfSplit(ctx context.Context, apex dnsReply, tree *spf.Node, issues []spf.Issue) (*DomainFinding, *spf.Node) {
	for _, rec := range apex.records {
		fixed := oneBlank(rec.Strings)
		if rec.Text() != tree.Record.Text || fixed == rec.Text() || len(spf.Parse(fixed).Faults) > 0 {
			continue
		}
		// The blanks must be what was wrong.
		after := k.walkAs(ctx, fixed)
		remains := spfFaults(spf.Lint(after))
		if newFault(after, issues) != "" || !slices.ContainsFunc(issues, func(i spf.Issue) bool {
			return (i.Code == "syntax" || i.Code == "target_missing") && ownIssue(tree, i) && !remains[faultOf(i)]
		}) {
			continue
		}
		return &DomainFinding{
			Name: k.domain, Type: "TXT", Found: rec.Strings,
			Summary: "The SPF record is published in several parts, and the blank between two of them is missing, so two terms run into one.",
			Fix:     "Enter the record below in one piece, or put the blank inside the quotes of a part.",
		}, after
	}
	return nil, nil
}

// spfCut looks for a record that ends at the 255 bytes that one string can hold
// (RFC 1035 section 3.3.14).
func (k *checker) spfCut(apex dnsReply, tree *spf.Node) (cut bool) {
	for _, rec := range apex.records {
		text := rec.Text()
		if text != tree.Record.Text || len(rec.Strings) != 1 || len(text) != 255 || tree.Record.All() != nil || tree.Record.Redirect() != nil {
			continue
		}
		cut = true
		k.add("spf_cut", DomainFinding{
			Name: k.domain, Type: "TXT", Found: []string{text},
			Summary: "The SPF record ends after exactly 255 bytes and without \"all\": the DNS panel seems to have cut it.",
			Fix:     "Enter the whole record again, in quoted parts of at most 255 characters each: \"first part \" \"second part\". A blank between two terms must stand inside the quotes.",
		})
	}
	return cut
}

// oneBlank joins strings with a blank where none stands, unless that breaks
// what was whole.
func oneBlank(parts []string) string {
	out := parts[0]
	for _, p := range parts[1:] {
		if !strings.HasSuffix(out, " ") && !strings.HasPrefix(p, " ") {
			out += " "
		}
		out += p
	}
	return out
}

// mendNearSPF writes a text that was meant as SPF as a record; ok is false when a
// person has to.
func mendNearSPF(s string) (m spf.Mending, ok bool) {
	t := strings.Trim(s, " \t\"'\\\u201c\u201d\u201e\u2018\u2019\u00ab\u00bb\u00a0\ufeff")
	rest, known := "", false
	for _, version := range []string{"v=spf1", "v= spf1", "v =spf1", "v = spf1", "=spf1", "spf1"} {
		if len(t) >= len(version) && strings.EqualFold(t[:len(version)], version) {
			rest, known = t[len(version):], true
			break
		}
	}
	if !known {
		if _, rest, known = strings.Cut(t, " "); !known {
			return m, false
		}
	}
	// What stands in place of the first blank mostly does in place of all.
	if sep, n := utf8.DecodeRuneInString(rest); n > 0 && strings.ContainsRune(gaps, sep) {
		rest = strings.ReplaceAll(rest, string(sep), " ")
	}
	// A record that names nobody, where somebody was named, would refuse all
	// of the domain's own mail.
	m, ok = spf.Mend(spf.WalkText("v=spf1 " + strings.TrimLeft(rest, gaps)))
	return m, ok && (!spfNames(rest) || spfNames(strings.TrimPrefix(m.Text, "v=spf1")))
}

// spfSound reports whether a record that replaces none can be published at the
// domain as it stands.
func (k *checker) spfSound(ctx context.Context, text string) bool {
	tree := k.walkAs(ctx, text)
	return newFault(tree, nil) == "" && tree.Complete() && tree.Lookups <= spf.MaxLookups && tree.MostVoids() <= spf.MaxVoids
}

// gaps may stand between the terms of a text that is nearly SPF.
const gaps = " \t,;\u00a0\u200b\ufeff"

// spfNames reports whether a record, or the terms of one, have a term besides
// "all".
func spfNames(s string) bool {
	return slices.ContainsFunc(strings.FieldsFunc(s, func(c rune) bool { return strings.ContainsRune(gaps, c) }), func(term string) bool {
		return !strings.EqualFold(term, "v=spf1") && !strings.EqualFold(strings.TrimLeft(term, "+-~?"), "all")
	})
}

// softAll is a record that ends in ~all where it ended in -all.
func softAll(record string) string {
	if i := strings.LastIndex(strings.ToLower(record), "-all"); i > 0 && record[i-1] == ' ' && strings.TrimRight(record[i+4:], " ") == "" {
		return record[:i] + "~all"
	}
	return record
}

// spfPublish is the one SPF record among texts, to be published at name.
func spfPublish(name string, texts []string) (out []DomainRecord) {
	for _, t := range texts {
		if spf.Is(t) && len(spf.Parse(t).Faults) == 0 {
			out = append(out, txtRecord(name, t))
		}
	}
	if len(out) != 1 {
		return nil
	}
	return out
}
