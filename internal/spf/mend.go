package spf

import (
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Mending is a record with what can be corrected in it corrected.
type Mending struct {
	Text string
	// Changed is false where nothing was to be corrected.
	Changed bool
	// Unreached are terms that "all" keeps from being looked at: those after it
	// (RFC 7208 section 5.1), and a redirect. They must not begin to count, so
	// they are not in Text.
	Unreached []string
	// Gone are terms that lead nowhere, or back to the record itself. They are
	// not in Text.
	Gone []string
	// Softened is true where Text ends in "~all" in place of "-all", because it
	// names nobody any more.
	Softened bool
}

// Mend corrects what can be corrected in the root's own record without knowing
// who sends: usual slips of the pen, terms that do nothing or lead nowhere, and
// a missing or too open "all". Networks, includes that answer, ptr (which may be
// all that some sender passes by) and unknown modifiers stay.
//
// ok is false when the grammar cannot be mended, when two terms seem to have run
// into one, when it is not known what a term was meant to be, and when only
// "-all" would be left of a record that names senders after it.
//
// Where a slip of the pen was mended, the tree is not that of the new text,
// which may have more to mend then.
func Mend(root *Node) (m Mending, ok bool) {
	if root.Record == nil {
		return Mending{}, false
	}
	r, steps := root.Record, root.Steps
	if len(r.Faults) > 0 {
		r, steps = Parse(mendText(r.Text)), nil
		if len(r.Faults) > 0 {
			return Mending{}, false
		}
	}
	if glued(r) {
		return Mending{}, false
	}
	all, redirect := r.All(), r.Redirect()
	var before, after []string // "all"
	seen := map[string]bool{}
	for i := range r.Terms {
		t := &r.Terms[i]
		switch {
		case t.Name == "all" && !t.Modifier, t.Modifier && t.Name == "v":
			continue
		case t.Modifier && t.Name == "redirect":
			switch {
			case all != nil:
				m.Unreached = append(m.Unreached, t.Text)
				redirect = nil
			case nowhere(root, steps, i):
				m.Gone = append(m.Gone, t.Text)
				redirect = nil
			default:
				after = append(after, t.Text)
			}
			continue
		case t.Modifier:
			fixed, wrong := meantMechanism(t.Text)
			switch {
			case !wrong:
				after = append(after, t.Text)
			case fixed == "":
				return Mending{}, false
			case all != nil && t.Pos > all.Pos:
				m.Unreached = append(m.Unreached, t.Text)
			default:
				before = append(before, fixed)
			}
			continue
		case all != nil && t.Pos > all.Pos:
			m.Unreached = append(m.Unreached, t.Text)
			continue
		case nowhere(root, steps, i):
			m.Gone = append(m.Gone, t.Text)
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
	if len(before) == 1 && all != nil && all.Qualifier == '-' {
		switch {
		case slices.ContainsFunc(m.Gone, func(term string) bool { return !strings.HasPrefix(term, "-") }):
			// Whoever named senders has some; that none of them is found must
			// not end in a record that refuses everybody.
			before[0], m.Softened = "~all", true
		case len(m.Unreached) > 0:
			return Mending{}, false
		}
	}
	m.Text = strings.Join(append(append([]string{r.Text[:6]}, before...), after...), " ")
	m.Changed = strings.Join(strings.FieldsFunc(root.Record.Text, func(c rune) bool { return c == ' ' }), " ") != m.Text
	return m, true
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

// meantMechanism: "ip4=192.0.2.1" is legal, and means nothing. fixed is what was
// meant, "" where that cannot be told.
func meantMechanism(term string) (fixed string, wrong bool) {
	name, value, ok := strings.Cut(term, "=")
	if !ok || !slices.Contains([]string{"a", "mx", "ip4", "ip6", "include", "exists", "ipv4", "ipv6"}, strings.ToLower(name)) {
		return "", false
	}
	r := Parse(mendText("v=spf1 " + name + ":" + value))
	if len(r.Faults) > 0 || len(r.Terms) != 1 {
		return "", true
	}
	return r.Terms[0].Text, true
}

// mendText takes out what panels, word processors and haste put in.
func mendText(s string) string {
	if !Is(s) {
		return s
	}
	var words []string
	for w := range strings.SplitSeq(decimalEscapes.ReplaceAllStringFunc(s[6:], unescape), " ") {
		if note(w) {
			words = append(words, w)
			continue
		}
		words = append(words, strings.Fields(strings.Map(mendRune, w))...)
	}
	out := []string{s[:6]}
	open := "" // a term that waits for its other half
	for _, f := range words {
		if open != "" {
			if halves(open, f) {
				f = open + f
			} else { // the grammar speaks of it
				out = append(out, open)
			}
			open = ""
		}
		switch {
		case note(f):
			out = append(out, f)
		case len(f) == 1 && strings.Contains(signs, f) || strings.HasSuffix(f, ":"):
			open = f
		default:
			out = append(out, mendTerm(f))
		}
	}
	if open != "" {
		out = append(out, open)
	}
	return strings.Join(out, " ")
}

// decimalEscapes are bytes as zone files write them: "\032" is a blank (RFC 1035
// section 5.1).
var decimalEscapes = regexp.MustCompile(`\\[0-9]{3}`)

func unescape(s string) string {
	if n, err := strconv.ParseUint(s[1:], 10, 8); err == nil && n < 0x7f {
		return string(rune(n))
	}
	return s
}

func mendRune(c rune) rune {
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
}

// note reports whether a word is a sound modifier that the RFC does not know: it
// allows nobody, and what stands in it must not begin to.
func note(w string) bool {
	name, _, ok := strings.Cut(w, "=")
	if _, meant := meantMechanism(w); !ok || meant || slices.Contains([]string{"redirect", "exp", "v"}, lower(name)) {
		return false
	}
	r := Parse("v=spf1 " + w)
	return len(r.Faults) == 0 && len(r.Terms) == 1 && r.Terms[0].Modifier
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
// colon, a comma, an equals sign or a quotation mark, and none is known that ends in "-all".
func glued(r *Record) bool {
	return slices.ContainsFunc(r.Terms, func(t Term) bool {
		if t.Modifier && t.Name != "redirect" || t.Network.IsValid() {
			return false
		}
		v := strings.TrimRight(t.Value, ".")
		if strings.Contains(v, ":") {
			return true
		}
		if strings.Contains(v, "%") { // the delimiters of a macro are such signs
			return false
		}
		head, isAll := strings.CutSuffix(lower(v), "all")
		return strings.ContainsAny(v, `,;"'=`) || isAll && head != "" && strings.ContainsRune(signs, rune(head[len(head)-1]))
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
