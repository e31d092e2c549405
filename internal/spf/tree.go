package spf

import (
	"context"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Status is what became of one question.
type Status int

// The outcomes. Failed is never to be read as an absence.
const (
	Found Status = iota
	Empty
	Failed
)

// Source answers the questions a tree needs. It is called from several
// goroutines and bounds by itself how many questions are in flight.
type Source interface {
	// TXT gives the joined texts at a name.
	TXT(ctx context.Context, name string) ([]string, Status)
	// Addrs gives the A and AAAA addresses of a name; an alias is followed. When
	// one of the two could not be asked it is Failed, and has what was found.
	Addrs(ctx context.Context, name string) ([]netip.Addr, Status)
	// MX gives the mail hosts of a name.
	MX(ctx context.Context, name string) ([]string, Status)
}

// State is what was found at a node.
type State string

// The states of a node.
const (
	OK       State = "ok"
	None     State = "none"     // no SPF record there
	Multiple State = "multiple" // more than one
	Unasked  State = "unknown"  // could not be asked
	Loop     State = "loop"     // the name is being read already
	Skipped  State = "skipped"  // not read: the tree is far too large
	Sender   State = "sender"   // the name depends on the mail
)

// Node is one record of the tree.
type Node struct {
	Domain string
	State  State
	// Texts are the SPF records found, sorted.
	Texts []string
	// Record is the parsed one when there is exactly one.
	Record *Record
	Steps  []*Step
	// Lookups and Voids count everything beneath.
	Lookups, Voids int

	up *Node // whose record points to this one
}

// Step is one term of a record that is in the tree.
type Step struct {
	Term *Term
	// Dead is true for a term that is never looked at: after "all", or a
	// redirect beside "all".
	Dead bool
	// Target is the name the term asks, macros expanded; empty when it asks
	// none or the name depends on the mail.
	Target string
	State  State
	// Lookups counts this term and everything beneath.
	Lookups int
	// Void is true when the look-up found nothing, or nothing for a sender with
	// an IPv4 address, as nearly all are.
	Void  bool
	Hosts []string
	Addrs []netip.Addr
	Child *Node
}

// Limits of RFC 7208 section 4.6.4.
const (
	MaxLookups = 10
	MaxVoids   = 2
	MaxMX      = 10
)

// maxAsked ends a walk that is hopelessly over the limit: enough to show where
// the cost sits, and no more.
const maxAsked = 40

// maxRead is how many bytes of records a walk reads: some hundred records of the
// usual size, and five of the largest.
const maxRead = 256 << 10

// Walk reads the record at domain and all that it pulls in. Every term counts,
// on all paths, because which ones are reached depends on the mail.
func Walk(ctx context.Context, src Source, domain string, id Identity) *Node {
	root := &Node{Domain: strings.TrimSuffix(domain, "."), State: Unasked}
	id.origin = root.Domain
	w := &walk{ctx: ctx, src: src, id: id}
	w.read(root)
	w.run()
	root.sum()
	return root
}

// WalkText is a tree of one record alone: nothing is asked.
func WalkText(text string) *Node {
	n := &Node{State: OK, Texts: []string{text}, Record: Parse(text)}
	all := n.Record.All()
	for i := range n.Record.Terms {
		t := &n.Record.Terms[i]
		n.Steps = append(n.Steps, &Step{Term: t, State: Unasked, Dead: dead(t, all)})
	}
	return n
}

// dead: after "all" nothing is looked at, and beside it no redirect.
func dead(t, all *Term) bool {
	return all != nil && (!t.Modifier && t.Pos > all.Pos || t.Modifier && t.Name == "redirect")
}

type task struct {
	ask  func() // concurrently
	then func() // in order
}

type walk struct {
	ctx   context.Context //nolint:containedctx // lives for one call
	src   Source
	id    Identity
	asked int
	bytes int // of the records that were read
	next  []task
}

// run goes level by level, so that the tree is the same in each run although
// the questions of a level are asked at once.
func (w *walk) run() {
	for len(w.next) > 0 {
		level := w.next
		w.next = nil
		var wg sync.WaitGroup
		for _, t := range level {
			wg.Go(t.ask)
		}
		wg.Wait()
		for _, t := range level {
			t.then()
		}
	}
}

func (w *walk) read(n *Node) {
	var texts []string
	var status Status
	w.next = append(w.next, task{
		ask: func() { texts, status = w.src.TXT(w.ctx, n.Domain) },
		then: func() {
			if status == Failed {
				n.State = Unasked
				return
			}
			for _, t := range texts {
				if Is(t) {
					n.Texts = append(n.Texts, t)
				}
			}
			slices.Sort(n.Texts)
			switch len(n.Texts) {
			case 0:
				n.State = None
			case 1:
				if w.bytes >= maxRead {
					n.State = Skipped
					return
				}
				w.bytes += len(n.Texts[0])
				n.State = OK
				n.Record = Parse(n.Texts[0])
				w.steps(n)
			default:
				n.State = Multiple
			}
		},
	})
}

func (w *walk) steps(n *Node) {
	all := n.Record.All()
	for i := range n.Record.Terms {
		t := &n.Record.Terms[i]
		s := &Step{Term: t, State: OK}
		n.Steps = append(n.Steps, s)
		s.Dead = dead(t, all)
		if t.Bad || s.Dead || !t.Costs() {
			continue
		}
		s.Lookups = 1
		if t.Name == "ptr" {
			continue
		}
		target, known := n.Domain, true
		if t.HasValue {
			target, known = w.id.Expand(t.Value, n.Domain)
		}
		if !known {
			s.State = Sender
			continue
		}
		s.Target = strings.TrimSuffix(target, ".")
		if w.asked >= maxAsked {
			s.State = Skipped
			continue
		}
		w.asked++
		w.follow(n, s)
	}
}

func (w *walk) follow(n *Node, s *Step) {
	var status Status
	settle := func(found bool) {
		switch {
		case status == Failed:
			s.State = Unasked
		case !found:
			s.State, s.Void = None, true
		}
	}
	switch s.Term.Name {
	case "include", "redirect":
		s.Child = &Node{Domain: s.Target, State: Unasked, up: n}
		if s.Child.above() != nil {
			s.Child.State = Loop
			return
		}
		w.read(s.Child)
	case "mx":
		w.next = append(w.next, task{
			ask:  func() { s.Hosts, status = w.src.MX(w.ctx, s.Target) },
			then: func() { slices.Sort(s.Hosts); settle(len(s.Hosts) > 0) },
		})
	default: // a, exists
		w.next = append(w.next, task{
			ask: func() { s.Addrs, status = w.src.Addrs(w.ctx, s.Target) },
			then: func() {
				slices.SortFunc(s.Addrs, netip.Addr.Compare)
				v4 := slices.ContainsFunc(s.Addrs, netip.Addr.Is4)
				if status == Failed && v4 && s.Term.Name == "exists" {
					status = Found // no other record counts
				}
				// exists: asks for an A record whatever the sender's family
				// (RFC 7208 section 5.7); the look-up of an a term finds nothing
				// for a sender of the other family.
				settle(len(s.Addrs) > 0 && (v4 || s.Term.Name == "a"))
				s.Void = s.Void || status != Failed && len(s.Addrs) > 0 && !v4
			},
		})
	}
}

// above is the node of the same name by way of which n is reached, or nil.
func (n *Node) above() *Node {
	for up := n.up; up != nil; up = up.up {
		if sameName(up.Domain, n.Domain) {
			return up
		}
	}
	return nil
}

// way lists the names from the root to n.
func (n *Node) way() (names []string) {
	for ; n != nil; n = n.up {
		names = append(names, n.Domain)
	}
	slices.Reverse(names)
	return names
}

// sameName compares names as DNS does, which knows case in ASCII only.
func sameName(a, b string) bool {
	return lower(strings.TrimSuffix(a, ".")) == lower(strings.TrimSuffix(b, "."))
}

// lower is strings.ToLower for ASCII: the Kelvin sign is no k.
func lower(s string) string {
	return strings.Map(func(c rune) rune {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		return c
	}, s)
}

// Costs reports whether the term counts against the ten look-ups.
func (t *Term) Costs() bool {
	switch t.Name {
	case "include", "a", "mx", "ptr", "exists":
		return !t.Modifier
	case "redirect":
		return t.Modifier
	}
	return false
}

func (n *Node) sum() {
	n.Lookups, n.Voids = 0, 0
	for _, s := range n.Steps {
		if s.Child != nil {
			s.Child.sum()
			s.Lookups = 1 + s.Child.Lookups
			n.Voids += s.Child.Voids
			s.State = s.Child.State
			s.Void = s.Child.State == None
		}
		if s.Void {
			n.Voids++
		}
		n.Lookups += s.Lookups
	}
}

// MostVoids counts with the voids the terms whose names depend on the mail: for
// most mails exists:%{i}.list.example finds nothing.
func (n *Node) MostVoids() (voids int) {
	voids = n.Voids
	n.Visit(func(n *Node, _ int) {
		for _, s := range n.Steps {
			if s.State == Sender && !s.pulls() {
				voids++
			}
		}
	})
	return voids
}

// Complete reports whether the whole tree could be read, so that the counts
// are final and not a lower bound.
func (n *Node) Complete() bool { return n.Gap() == "" }

// Gap says in words what is not known of the tree, "" when it is complete. A
// name that depends on the mail is no gap, unless a record stands there, with
// look-ups of its own.
func (n *Node) Gap() string { return n.gap(func(*Step) bool { return true }) }

// AllRead reports whether each record of the tree was read, so that an include
// which is not found is not there.
func (n *Node) AllRead() bool { return n.gap((*Step).pulls) == "" }

// pulls reports whether the term pulls in a record.
func (s *Step) pulls() bool {
	return s.Term.Costs() && (s.Term.Name == "include" || s.Term.Name == "redirect")
}

func (n *Node) gap(counts func(*Step) bool) string {
	const notAll = "not all of what the record pulls in was read"
	switch n.State {
	case Unasked:
		return n.Domain + " could not be asked for its SPF record"
	case Skipped:
		return notAll
	}
	for _, s := range n.Steps {
		switch {
		case s.Child != nil:
			if why := s.Child.gap(counts); why != "" {
				return why
			}
		case !counts(s):
		case s.State == Unasked:
			return s.Target + " could not be asked for its " + want(s.Term) + " record"
		case s.State == Skipped:
			return notAll
		case s.State == Sender && s.pulls():
			return strconv.Quote(s.Term.Text) + " pulls in another record for each mail"
		}
	}
	return ""
}

// Visit calls f for the node and all beneath, parents first, in the order of
// the records.
func (n *Node) Visit(f func(n *Node, depth int)) { n.visit(f, 0) }

func (n *Node) visit(f func(*Node, int), depth int) {
	f(n, depth)
	for _, s := range n.Steps {
		if s.Child != nil {
			s.Child.visit(f, depth+1)
		}
	}
}

// Uses reports whether a name that decides in the tree is made with the macro
// letter, such as 'p' for the name of the sending address (RFC 7208 section
// 7.2). An explanation decides nothing.
func (n *Node) Uses(letter byte) (uses bool) {
	n.Visit(func(n *Node, _ int) {
		for _, s := range n.Steps {
			counts := !s.Dead && (!s.Term.Modifier || s.Term.Name == "redirect")
			uses = uses || counts && usesMacro(s.Term.Value, letter)
		}
	})
	return uses
}

// FindInclude looks for an include of (or a redirect to) target anywhere in the
// tree. Qualifiers
// is the set of qualifiers on the way, outermost first, of the best one found:
// one with only "+" counts as present.
func (n *Node) FindInclude(target string) (qualifiers string, found bool) {
	target = strings.ToLower(strings.TrimSuffix(target, "."))
	best := ""
	var look func(n *Node, q string)
	look = func(n *Node, q string) {
		for _, s := range n.Steps {
			if s.Dead || s.Term.Bad || s.Term.Name != "include" && s.Term.Name != "redirect" {
				continue
			}
			own := q
			if s.Term.Name == "include" {
				own += string(s.Term.Qualifier)
			}
			if strings.ToLower(s.Target) == target && (!found || strings.Trim(best, "+") != "") {
				best, found = own, true
			}
			if s.Child != nil {
				look(s.Child, own)
			}
		}
	}
	look(n, "")
	return best, found
}
