package fluxly

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/getfluxly/fluxly/internal/spf"
)

// SPFNode is one record of the tree.
type SPFNode struct {
	Domain string `json:"domain"`
	// State is "ok", "none", "multiple", "unknown", "loop" or "skipped".
	State string `json:"state"`
	// Record is cut after 2,000 bytes, with "..." in place of the rest.
	Record  string    `json:"record,omitempty"`
	Lookups int       `json:"lookups"`
	Voids   int       `json:"voids"`
	Terms   []SPFTerm `json:"terms,omitempty"`
	// Omitted is how many terms of a very long record are not among Terms.
	// What costs nothing goes first; all of them are counted and judged.
	Omitted int `json:"omitted,omitempty"`
}

// SPFTerm is one term of a record.
type SPFTerm struct {
	// Text is cut after 300 bytes.
	Text string `json:"text"`
	// Pos is the byte offset in the record.
	Pos int `json:"pos"`
	// Lookups is the cost of the term with everything beneath.
	Lookups int `json:"lookups"`
	// Target is the name that is asked.
	Target string `json:"target,omitempty"`
	// State is "ok", "none", "unknown", "sender" (the name depends on the
	// mail), "skipped", "loop", "multiple", "dead" or "bad".
	State string `json:"state"`
	// Found are addresses or mail hosts, the first 50 of them.
	Found []string `json:"found,omitempty"`
	// Tree is the record that the term pulls in.
	Tree *SPFNode `json:"tree,omitempty"`
}

// What a report shows of a tree. The records are other people's, and one may
// have ten thousand terms.
const (
	treeRecord  = 2000 // bytes of a record
	treeText    = 300  // bytes of a term, or of the name that it asks
	treeFound   = 50   // addresses or mail hosts of a term
	treeCosting = 100  // terms of a record that cost look-ups
	treeFree    = 200  // terms of a record that cost none
	treeAllFree = 1000 // those of the whole tree
)

func publicTree(n *spf.Node) *SPFNode {
	free := treeAllFree
	return showNode(n, &free)
}

// showNode lists the terms of a record before those beneath, so that a long one
// takes no place from those above it.
func showNode(n *spf.Node, free *int) *SPFNode {
	out := &SPFNode{Domain: n.Domain, State: string(n.State), Lookups: n.Lookups, Voids: n.Voids}
	if n.Record != nil {
		out.Record = clip(n.Record.Text, treeRecord)
	}
	costing, own := treeCosting, treeFree
	var listed []*spf.Step
	for _, s := range n.Steps {
		switch {
		case s.Child != nil: // few are followed
		case s.Lookups > 0 && costing > 0:
			costing--
		case s.Lookups == 0 && own > 0 && *free > 0:
			own--
			*free--
		default:
			out.Omitted++
			continue
		}
		listed = append(listed, s)
		out.Terms = append(out.Terms, showTerm(s))
	}
	for i, s := range listed {
		if s.Child != nil {
			out.Terms[i].Tree = showNode(s.Child, free)
		}
	}
	return out
}

func showTerm(s *spf.Step) SPFTerm {
	t := SPFTerm{Text: clip(s.Term.Text, treeText), Pos: s.Term.Pos, Lookups: s.Lookups, Target: clip(s.Target, treeText), State: string(s.State)}
	t.Found = append(t.Found, s.Hosts[:min(len(s.Hosts), treeFound)]...)
	for _, a := range s.Addrs[:min(len(s.Addrs), treeFound)] {
		t.Found = append(t.Found, a.String())
	}
	switch {
	case s.Term.Bad:
		t.State = "bad"
	case s.Dead:
		t.State = "dead"
	}
	return t
}

func writeTree(b *strings.Builder, n *SPFNode, in string) {
	fmt.Fprintf(b, "%s%s: %s\n", in, printable(n.Domain), lookupText(n.Lookups))
	for _, t := range n.Terms {
		if t.Lookups == 0 && t.State == "ok" {
			continue
		}
		b.WriteString(in + "  " + printable(t.Text))
		if t.Lookups > 0 {
			b.WriteString("  " + strconv.Itoa(t.Lookups))
		}
		if t.State != "ok" {
			b.WriteString("  (" + spfStateText(t.State) + ")")
		}
		b.WriteByte('\n')
		if t.Tree != nil && len(t.Tree.Terms) > 0 {
			writeTree(b, t.Tree, in+"    ")
		}
	}
	if n.Omitted > 0 {
		b.WriteString(in + "  (" + omittedText(n.Omitted) + ")\n")
	}
}

func omittedText(n int) string {
	if n == 1 {
		return "1 more term, which is counted all the same"
	}
	return strconv.Itoa(n) + " more terms, which are counted all the same"
}

func lookupText(n int) string {
	if n == 1 {
		return "1 look-up"
	}
	return strconv.Itoa(n) + " look-ups"
}

func spfStateText(state string) string {
	switch state {
	case "none":
		return "finds nothing"
	case "unknown":
		return "could not be asked"
	case "sender":
		return "the name depends on each mail"
	case "skipped":
		return "not followed any more"
	case "loop":
		return "leads back to itself"
	case "multiple":
		return "several SPF records"
	case "dead":
		return "never looked at"
	case "bad":
		return "breaks the grammar"
	}
	return state
}
