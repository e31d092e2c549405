package fluxly

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/getfluxly/fluxly/internal/spf"
)

// spfMended is the one record to publish in place of a faulty one, whatever
// the number of its faults; "" when a person has to write it. note is what
// whoever publishes it must know.
func (k *checker) spfMended(ctx context.Context, apex dnsReply, tree *spf.Node, issues []spf.Issue) (text, note string) {
	text, cut := k.spfSplit(apex, tree)
	if cut {
		return "", "" // who stood in the lost part is not known
	}
	if text == "" {
		var left []string
		var ok bool
		if text, left, ok = spf.Mend(tree); !ok {
			return "", ""
		}
		note = leftOut(left)
		text = k.mendOn(ctx, text)
	}
	// A record that costs too much may go on doing so: senders have to go,
	// and which ones is not for a program to say.
	after, limit := k.walkAs(ctx, text), max(tree.Lookups, spf.MaxLookups)
	if !after.Complete() && len(tree.Record.Faults) == 0 {
		limit = tree.Lookups // what is not known may cost the rest
	}
	if newFault(after, issues) != "" || after.Lookups > limit {
		return "", ""
	}
	return text, note
}

// mendOn mends what a mended text has left: terms that only now can be read may
// lead nowhere.
func (k *checker) mendOn(ctx context.Context, text string) string {
	for range 3 {
		more, _, ok := spf.Mend(k.walkAs(ctx, text))
		if !ok {
			break
		}
		text = more
	}
	return text
}

// leftOut speaks of the terms that a mended record leaves out because they
// stand after "all".
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
	if len(terms) == 1 {
		return " It leaves out " + names[0] + ", which stands after \"all\" and counts for nobody today; put it before \"all\" if it is a sender of yours."
	}
	return " It leaves out " + strings.Join(names, ", ") + ", which stand after \"all\" and count for nobody today; put before \"all\" those that are senders of yours."
}

// mendable are the linter's codes about which spf.Mend does something.
var mendable = map[string]bool{
	"syntax": true, "loop": true, "target_missing": true, "too_many_voids": true, "many_voids": true, "void_term": true,
	"pass_all": true, "repeated_version": true, "neutral_all": true, "no_all": true, "after_all": true, "dead_redirect": true,
	"same_include": true, "ignored_term": true,
}

// ownIssue: the fault lies in the domain's own record, or right where it
// points.
func ownIssue(tree *spf.Node, i spf.Issue) bool {
	if i.Node == tree {
		return true
	}
	return (i.Code == "target_missing" || i.Code == "loop") && slices.ContainsFunc(tree.Steps, func(s *spf.Step) bool { return s.Child == i.Node })
}

// spfSplit looks for what panels do to a long record: strings that were meant
// to be joined by a blank, and a record that ends at the 255 bytes that one
// string can hold (RFC 1035 section 3.3.14). It returns the record with the
// blanks put in, and whether one was cut.
func (k *checker) spfSplit(apex dnsReply, tree *spf.Node) (text string, cut bool) {
	if tree.Record == nil {
		return "", false
	}
	for _, rec := range apex.records {
		text := rec.Text()
		if text != tree.Record.Text {
			continue
		}
		if len(rec.Strings) == 1 && len(text) == 255 && tree.Record.All() == nil && tree.Record.Redirect() == nil {
			cut = true
			k.add("spf_cut", DomainFinding{
				Name: k.domain, Type: "TXT", Found: []string{text},
				Summary: "The SPF record ends after exactly 255 bytes and without \"all\": the DNS panel seems to have cut it.",
				Fix:     "Enter the whole record again, in quoted parts of at most 255 characters each: \"first part \" \"second part\". A blank between two terms must stand inside the quotes.",
			})
		}
		bad := len(tree.Record.Faults) > 0
		tree.Visit(func(n *spf.Node, depth int) { bad = bad || depth == 1 && n.State == spf.None })
		if joined := strings.Join(rec.Strings, " "); bad && len(rec.Strings) > 1 && joined != text {
			if fixed := oneBlank(rec.Strings); len(spf.Parse(fixed).Faults) == 0 {
				k.add("spf_split", DomainFinding{
					Name: k.domain, Type: "TXT", Found: rec.Strings,
					Summary: "The SPF record is published in several parts, and the blank between two of them is missing, so two terms run into one.",
					Fix:     "Enter the record below in one piece, or put the blank inside the quotes of a part.",
					Publish: []DomainRecord{txtRecord(k.domain, fixed, text)},
				})
				return fixed, cut
			}
		}
	}
	return "", cut
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

// mendNearSPF writes a text that was meant as SPF as a record, or returns "".
// note is what whoever publishes it must know.
func mendNearSPF(s string) (text, note string) {
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
			return "", ""
		}
	}
	tree := spf.WalkText("v=spf1 " + strings.TrimLeft(rest, gaps))
	text, left, ok := spf.Mend(tree)
	if !ok {
		text, left = tree.Record.Text, nil
	}
	// A record that names nobody, where somebody was named, would refuse all
	// of the domain's own mail.
	if len(spf.Parse(text).Faults) > 0 || spfNames(rest) && !spfNames(strings.TrimPrefix(text, "v=spf1")) {
		return "", ""
	}
	return text, leftOut(left)
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
