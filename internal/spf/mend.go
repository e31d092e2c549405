package spf

import (
	"net/netip"
	"slices"
	"strings"
)

// Mend corrects what can be corrected in the root's own record without knowing
// who sends: usual slips of the pen, terms that do nothing or lead nowhere, and
// a missing or too open "all". Networks, includes that answer, ptr (which may be
// all that some sender passes by) and unknown modifiers stay.
//
// What stands after "all" is never looked at (RFC 7208 section 5.1), so it must
// not begin to count: it is not in the text, and left lists it.
//
// ok is false when nothing is to be mended or the grammar cannot be, when two
// terms seem to have run into one, and when only "-all" would be left of a
// record that names senders after it.
//
// Where a slip of the pen was mended, the tree is not that of the new text,
// which may have more to mend then.
func Mend(root *Node) (text string, left []string, ok bool) {
	if root.Record == nil {
		return "", nil, false
	}
	r, steps := root.Record, root.Steps
	if len(r.Faults) > 0 {
		r, steps = Parse(mendText(r.Text)), nil
		if len(r.Faults) > 0 {
			return "", nil, false
		}
	}
	if glued(r) {
		return "", nil, false
	}
	all, redirect := r.All(), r.Redirect()
	var before, after []string // "all"
	seen := map[string]bool{}
	useless := false
	for i := range r.Terms {
		t := &r.Terms[i]
		switch {
		case t.Name == "all" && !t.Modifier, t.Modifier && t.Name == "v":
			continue
		case t.Modifier && t.Name == "redirect":
			if all == nil && !nowhere(root, steps, i) {
				after = append(after, t.Text)
			} else {
				redirect = nil
			}
			continue
		case t.Modifier:
			fixed, wrong := meantMechanism(t.Text)
			switch {
			case !wrong || len(Parse("v=spf1 "+fixed).Faults) > 0:
				after = append(after, t.Text)
			case all != nil && t.Pos > all.Pos:
				left = append(left, t.Text)
			default:
				before = append(before, fixed)
			}
			continue
		case all != nil && t.Pos > all.Pos:
			left = append(left, t.Text)
			continue
		case nowhere(root, steps, i):
			useless = true
			continue
		case t.Name == "include":
			key := string(t.Qualifier) + fold(t.Value)
			if seen[key] {
				continue
			}
			seen[key] = true
		}
		before = append(before, t.Text)
	}
	switch {
	case all != nil && (all.Qualifier == '+' || all.Qualifier == '?'):
		before = append(before, "~all")
	case all != nil:
		before = append(before, all.Text)
	case redirect == nil:
		before = append(before, "~all")
	}
	if useless && len(before) == 1 && all != nil && all.Qualifier == '-' {
		// Whoever named senders has some; that none of them is found must not
		// end in a record that refuses everybody.
		before[0] = "~all"
	} else if len(left) > 0 && len(before) == 1 && all.Qualifier == '-' {
		return "", nil, false
	}
	text = strings.Join(append(append([]string{r.Text[:6]}, before...), after...), " ")
	return text, left, strings.Join(strings.FieldsFunc(root.Record.Text, func(c rune) bool { return c == ' ' }), " ") != text
}

// nowhere reports whether the term asks for something that is not there, or
// leads back to the record itself.
func nowhere(root *Node, steps []*Step, i int) bool {
	if i >= len(steps) || steps[i].Dead {
		return false
	}
	s := steps[i]
	return s.State == None || s.State == Loop && sameName(s.Target, root.Domain)
}

// meantMechanism: "ip4=192.0.2.1" is legal, and means nothing.
func meantMechanism(term string) (fixed string, wrong bool) {
	name, value, ok := strings.Cut(term, "=")
	if !ok || !slices.Contains([]string{"a", "mx", "ip4", "ip6", "include", "exists", "ipv4", "ipv6"}, strings.ToLower(name)) {
		return "", false
	}
	return mendTerm(name + ":" + value), true
}

// mendText takes out what panels, word processors and haste put in.
func mendText(s string) string {
	if !Is(s) {
		return s
	}
	rest := strings.Map(func(c rune) rune {
		switch c {
		case ',', ';', '\t', '\r', '\n', '\u00a0', '\u200b', '\ufeff':
			return ' '
		case '"', '\'', '\u201c', '\u201d', '\u201e', '\u2018', '\u2019':
			return ' ' // two terms may stand on its sides
		case '\\':
			return -1
		case '\u2010', '\u2011', '\u2012', '\u2013', '\u2014', '\u2212':
			return '-'
		}
		return c
	}, s[6:])
	out := []string{s[:6]}
	open := "" // a term that waits for its other half
	for _, f := range strings.Fields(rest) {
		switch {
		case open == "":
		case halves(open, f):
			f = open + f
		default: // the grammar speaks of it
			out = append(out, open)
		}
		open = ""
		if len(f) == 1 && strings.Contains(signs, f) || strings.HasSuffix(f, ":") {
			open = f
			continue
		}
		out = append(out, mendTerm(f))
	}
	if open != "" {
		out = append(out, open)
	}
	return strings.Join(out, " ")
}

// halves reports whether two words are one term that a blank got into. A sign
// alone is as often a list's dash as a qualifier, and would refuse the sender
// behind it, so it goes with "all" only.
func halves(first, second string) bool {
	if len(first) == 1 && first != ":" {
		return strings.EqualFold(strings.Trim(second, "."), "all")
	}
	name := strings.TrimLeft(strings.TrimSuffix(first, ":"), signs)
	return isMechanism(name) && !isTerm(second)
}

const signs = "+-~?"

// isMechanism knows the names that are usually meant, too.
func isMechanism(name string) bool {
	switch lower(name) {
	case "all", "a", "mx", "ptr", "exists", "include", "includes", "inlcude", "inculde", "incude", "ip", "ip4", "ip6", "ipv4", "ipv6":
		return true
	}
	return false
}

// isTerm reports whether a word begins as a term does, and so is no value of
// the one before it.
func isTerm(s string) bool {
	body := strings.TrimLeft(s, signs)
	if n := nameLen(body); n > 0 && strings.HasPrefix(body[n:], "=") {
		return true
	}
	i := strings.IndexAny(body, ":/")
	if i < 0 {
		i = len(body)
	}
	return len(body) < len(s) || isMechanism(body[:i])
}

// glued reports whether two terms may have run into one: no host name has a
// colon, a comma or a quotation mark, and none is known that ends in "-all".
func glued(r *Record) bool {
	return slices.ContainsFunc(r.Terms, func(t Term) bool {
		if t.Modifier && t.Name != "redirect" || t.Network.IsValid() {
			return false
		}
		v := t.Value
		if strings.Contains(v, ":") {
			return true
		}
		if strings.Contains(v, "%") { // the delimiters of a macro are such signs
			return false
		}
		head, isAll := strings.CutSuffix(lower(v), "all")
		return strings.ContainsAny(v, `,;"'`) || isAll && head != "" && strings.ContainsRune(signs, rune(head[len(head)-1]))
	})
}

func mendTerm(f string) string {
	q := f[:len(f)-len(strings.TrimLeft(f, signs))]
	body := f[len(q):]
	if strings.EqualFold(strings.Trim(body, "."), "all") {
		return q + "all"
	}
	name, value, ok := strings.Cut(body, ":")
	if !ok {
		return f
	}
	switch lower(name) {
	case "ipv4", "ip4", "ipv6", "ip6", "ip":
		name = "ip4"
		if strings.Contains(value, ":") {
			name = "ip6"
		}
		if p, err := netip.ParsePrefix(value); err == nil {
			value = p.String()
		}
	case "includes", "inlcude", "inculde", "incude":
		name = "include"
	default:
		return f
	}
	return q + name + ":" + value
}
