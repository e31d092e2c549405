package spf

import (
	"net/netip"
	"slices"
)

// Spent counts the look-ups that evaluating the record takes for a mail from
// addr: those up to the first term that matches (RFC 7208 section 4.6.4). Where
// a match cannot be told from the tree, as for mx, ptr and names that depend on
// the mail, the term counts as one that does not match; then the count is an
// upper bound and exact is false.
func (n *Node) Spent(addr netip.Addr) (lookups int, exact bool) {
	_, lookups, exact = n.spent(addr.Unmap())
	return lookups, exact
}

// spent gives the qualifier of the term that matched too, 0 for none.
func (n *Node) spent(addr netip.Addr) (q byte, lookups int, exact bool) {
	if n.State == None || n.State == Multiple {
		return 0, 0, true
	}
	if n.Record == nil {
		return 0, 0, false
	}
	exact = true
	var redirect *Step
	for _, s := range n.Steps {
		switch {
		case s.Dead || s.Term.Bad:
			continue
		case s.Term.Modifier:
			if s.Term.Name == "redirect" {
				redirect = s
			}
			continue
		case s.Term.Costs():
			lookups++
		}
		var matched, sure bool
		switch {
		case s.Term.Name != "include":
			matched, sure = s.matches(addr)
		case s.Child != nil:
			var result byte
			var spent int
			result, spent, sure = s.Child.spent(addr)
			lookups += spent
			matched = result == '+'
		}
		exact = exact && sure
		if matched && sure {
			return s.Term.Qualifier, lookups, exact
		}
	}
	if redirect == nil {
		return 0, lookups, exact
	}
	lookups++
	if redirect.Child == nil {
		return 0, lookups, false
	}
	q, spent, sure := redirect.Child.spent(addr)
	return q, lookups + spent, exact && sure
}

// Broken is the record without which a mail from addr has a permanent error:
// the first one to which an include or a redirect leads that is not there, not
// the only one or not sound (RFC 7208 sections 5.2 and 6.1). It is nil when there
// is none before a term that matches, or when the tree does not tell.
func (n *Node) Broken(addr netip.Addr) *Node {
	at, _ := n.broken(addr.Unmap())
	return at
}

// broken gives false for sure when what comes after n cannot be told.
func (n *Node) broken(addr netip.Addr) (at *Node, sure bool) {
	switch {
	case n.State == None || n.State == Multiple || n.Record != nil && len(n.Record.Faults) > 0:
		return n, true
	case n.Record == nil:
		return nil, false
	}
	var redirect *Step
	for _, s := range n.Steps {
		if s.Term.Modifier {
			if s.Term.Name == "redirect" && !s.Dead {
				redirect = s
			}
			continue
		}
		matched, sure := false, false
		if s.Term.Name != "include" {
			matched, sure = s.matches(addr)
		} else if s.Child != nil {
			if at, sure = s.Child.broken(addr); at != nil || !sure {
				return at, sure
			}
			var q byte
			q, _, sure = s.Child.spent(addr)
			matched = q == '+'
		}
		if matched || !sure {
			return nil, sure
		}
	}
	if redirect == nil || redirect.Child == nil {
		return nil, redirect == nil
	}
	return redirect.Child.broken(addr)
}

// matches judges a term other than include from what the tree holds.
func (s *Step) matches(addr netip.Addr) (matched, sure bool) {
	t := s.Term
	switch t.Name {
	case "all":
		return true, true
	case "ip4", "ip6":
		return t.Network.Contains(addr), true
	case "a":
		if s.State != OK && s.State != None {
			return false, false
		}
		bits := t.Bits6
		if addr.Is4() {
			bits = t.Bits4
		}
		return slices.ContainsFunc(s.Addrs, func(a netip.Addr) bool {
			a = a.Unmap()
			p, err := a.Prefix(bits)
			return a.Is4() == addr.Is4() && err == nil && p.Contains(addr)
		}), true
	case "exists":
		return slices.ContainsFunc(s.Addrs, netip.Addr.Is4), s.State == OK || s.State == None
	case "mx":
		return false, s.State == None // the addresses of the hosts are not in the tree
	}
	return false, false
}
