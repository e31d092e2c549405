package spf

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Issue is one thing to say about a tree.
type Issue struct {
	// Code is stable; see the list in Lint.
	Code string
	// Node is where it was found, and Domain its name.
	Node   *Node
	Domain string
	// Pos and End are byte offsets in that node's record; both 0 when the
	// issue is not about one place.
	Pos, End int
	Text     string
}

// maxText is the length over which a record is likely not to fit into one UDP
// reply with the other TXT records of the name (RFC 7208 section 3.4).
const maxText = 450

// Lint lists what is wrong or weak in a tree, in the order of the tree.
func Lint(root *Node) []Issue {
	l := &linter{root: root, seen: map[string]bool{}, counted: map[kind]int{}}
	root.Visit(l.node)
	granted(root, map[string]bool{}, l.open)
	l.counts()
	l.overlaps()
	return l.issues
}

// Record is the record that the issue is about, nil when there is none. That of
// a loop is the one it comes back to.
func (i Issue) Record() *Record {
	if i.Node.State == Loop {
		return i.Node.above().Record
	}
	return i.Node.Record
}

type linter struct {
	root   *Node
	issues []Issue
	seen   map[string]bool // domains whose record was read
	// counted are the issues of a kind, listed or not.
	counted map[kind]int
}

func (l *linter) add(code string, n *Node, t *Term, format string, args ...any) {
	i := Issue{Code: code, Node: n, Domain: n.Domain, Text: fmt.Sprintf(format, args...)}
	if t != nil {
		i.Pos, i.End = t.Pos, t.End
	}
	l.list(i)
}

func (l *linter) list(i Issue) {
	key := kind{i.Code, i.Node}
	if l.counted[key]++; l.counted[key] <= MaxIssues {
		l.issues = append(l.issues, i)
	}
}

type kind struct {
	code string
	node *Node
}

func (l *linter) node(n *Node, depth int) {
	// A record that is reached on several ways has its faults once.
	if n.Record != nil {
		key := strings.ToLower(n.Domain)
		if l.seen[key] {
			return
		}
		l.seen[key] = true
	}
	if depth > 0 {
		l.target(n)
	}
	r := n.Record
	if r == nil {
		return
	}
	for _, f := range r.Faults {
		l.list(Issue{Code: "syntax", Node: n, Domain: n.Domain, Pos: f.Pos, End: f.End, Text: f.Text})
	}
	for _, s := range n.Steps {
		l.step(n, s)
		if _, wrong := meantMechanism(s.Term.Text); wrong && !s.Term.Bad {
			l.add("ignored_term", n, s.Term, "%q is read as a note and not as a permission, because it has \"=\" in place of \":\"", s.Term.Text)
		}
		if s.Term.Modifier && s.Term.Name == "v" {
			l.add("repeated_version", n, s.Term, "%q stands in the middle of the record, as if two records had been joined by hand", s.Term.Text)
		}
	}
	all, redirect := r.All(), r.Redirect()
	if depth == 0 {
		switch {
		case all != nil && all.Qualifier == '?':
			l.add("neutral_all", n, all, "the record ends in ?all, which says nothing about other senders; use ~all")
		case all == nil && redirect == nil && len(r.Faults) == 0:
			l.add("no_all", n, nil, "the record has neither \"all\" nor \"redirect=\", so other senders get a neutral result; end it with ~all")
		}
	}
	if all != nil && redirect != nil {
		l.add("dead_redirect", n, redirect, "%q is ignored because the record has an \"all\" term", redirect.Text)
	}
	if len(r.Text) > maxText {
		l.add("long_record", n, nil, "the record is %d bytes long; over %d it may not fit into one UDP reply", len(r.Text), maxText)
	}
}

// target speaks of a record that another one points to.
func (l *linter) target(n *Node) {
	switch n.State {
	case None:
		l.add("target_missing", n, nil, "%s has no SPF record, but the record of %s points to it", n.Domain, n.up.Domain)
	case Multiple:
		l.add("target_multiple", n, nil, "%s has %d SPF records; exactly one is allowed", n.Domain, len(n.Texts))
	case Loop:
		l.add("loop", n, nil, "%s is reached again while it is being read: %s", n.Domain, strings.Join(n.way(), " -> "))
	}
}

func (l *linter) step(n *Node, s *Step) {
	t := s.Term
	if t.Bad {
		return
	}
	if s.Dead {
		if !t.Modifier {
			l.add("after_all", n, t, "%q stands after \"all\" and is never looked at", t.Text)
		}
		return
	}
	switch {
	case t.Modifier:
	case t.Name == "ptr":
		l.add("ptr", n, t, "%q is slow and unreliable, and RFC 7208 says not to use it", t.Text)
	case t.Name == "mx" && len(s.Hosts) > MaxMX:
		l.add("too_many_mx", n, t, "%s has %d MX hosts; a term may have at most %d", s.Target, len(s.Hosts), MaxMX)
	}
	switch {
	case !s.Void || s.Child != nil:
	case s.State == OK:
		l.add("void_ipv4", n, t, "%q finds nothing for a sender with an IPv4 address: %s has only an IPv6 one (AAAA)", t.Text, s.Target)
	case t.Name == "exists" && len(s.Addrs) > 0:
		l.add("void_term", n, t, "%q finds nothing: %s has no A record, and no other counts", t.Text, s.Target)
	default:
		l.add("void_term", n, t, "%q finds nothing: %s has no %s record", t.Text, s.Target, want(t))
	}
	if s.State == Unasked && s.Child == nil {
		l.add("unasked", n, t, "%s could not be asked for its %s record", s.Target, want(t))
	}
	if s.Child != nil && s.Child.State == Unasked {
		l.add("unasked", n, t, "%s could not be asked for its SPF record", s.Target)
	}
}

// granted calls f for the terms that let somebody pass, in records whose pass is
// one of the domain's own: what an include finds counts as the include says, so
// "+all" lets nobody pass within "?include:". A record is read once.
func granted(n *Node, seen map[string]bool, f func(*Node, *Step)) {
	if n.Record == nil || seen[lower(n.Domain)] {
		return
	}
	seen[lower(n.Domain)] = true
	for _, s := range n.Steps {
		if s.Term.Bad || s.Dead || !s.Term.Modifier && s.Term.Qualifier != '+' {
			continue
		}
		f(n, s)
		if s.Child != nil {
			granted(s.Child, seen, f)
		}
	}
}

// open speaks of the terms that let nearly everybody pass.
func (l *linter) open(n *Node, s *Step) {
	switch t := s.Term; {
	case t.Modifier:
	case t.Name == "all":
		l.add("pass_all", n, t, "%q lets every machine in the world send as this domain", t.Text)
	case t.Name == "ip6" && t.Network.Addr().Is4In6() && t.Network.Bits() < 96+8:
		l.add("wide_network", n, t, "%q is a very large part of the internet in the IPv6 form of its IPv4 addresses; it should match nobody, and some receivers let all of it send as this domain", t.Text)
	case (t.Name == "ip4" || t.Name == "ip6") && wide(t.Network),
		(t.Name == "a" || t.Name == "mx") && (t.Bits4 < 8 || t.Bits6 < 16):
		l.add("wide_network", n, t, "%q lets a very large part of the internet send as this domain", t.Text)
	}
}

func want(t *Term) string {
	if t.Name == "mx" {
		return "MX"
	}
	return "address"
}

func wide(p netip.Prefix) bool {
	if p.Addr().Is4() {
		return p.Bits() < 8
	}
	return p.Bits() < 16
}

func (l *linter) counts() {
	n := l.root
	least := ""
	if !n.Complete() {
		least = "at least "
	}
	switch {
	case n.Lookups > MaxLookups:
		l.add("too_many_lookups", n, nil, "evaluating the record takes %s%d DNS look-ups; over %d receivers give up and take the record for an error", least, n.Lookups, MaxLookups)
	case n.Lookups >= 8:
		l.add("many_lookups", n, nil, "evaluating the record takes %s%d of the %d DNS look-ups allowed", least, n.Lookups, MaxLookups)
	}
	switch {
	case n.Voids > MaxVoids:
		l.add("too_many_voids", n, nil, "%s%d look-ups find nothing; over %d a check may end in a permanent error", least, n.Voids, MaxVoids)
	case n.Voids == MaxVoids:
		l.add("many_voids", n, nil, "%s%d look-ups find nothing, which is the most allowed", least, n.Voids)
	}
	if most := n.MostVoids(); n.Voids <= MaxVoids && most > MaxVoids {
		l.add("possible_voids", n, nil, "up to %d look-ups find nothing, because the names that they ask for are made for each mail; over %d a check may end in a permanent error", most, MaxVoids)
	}
}

// overlaps finds includes that stand twice and networks that lie within
// another one.
func (l *linter) overlaps() {
	seen := map[string]string{}
	type network struct {
		p    netip.Prefix
		n    *Node
		t    *Term
		text string
	}
	var nets []network
	granted(l.root, map[string]bool{}, func(n *Node, s *Step) {
		switch t := s.Term; t.Name {
		case "include":
			if s.Target == "" {
				return
			}
			key := lower(s.Target)
			if at, ok := seen[key]; ok {
				l.add("same_include", n, t, "include:%s stands twice (first in the record of %s); each costs its look-ups again", s.Target, at)
			} else {
				seen[key] = n.Domain
			}
		case "ip4", "ip6":
			for _, o := range nets {
				if o.p.Addr().Is4() == t.Network.Addr().Is4() && o.p.Bits() <= t.Network.Bits() && o.p.Contains(t.Network.Addr()) {
					l.add("covered_network", n, t, "%s is already covered by %s in the record of %s", t.Text, strconv.Quote(o.text), o.n.Domain)
					break
				}
			}
			if len(nets) < 256 { // quadratic; nobody reads more of these
				nets = append(nets, network{t.Network, n, t, t.Text})
			}
		}
	})
}
