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
