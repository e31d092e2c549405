package spf

import (
	"strings"
	"unicode/utf8"
)

// Merge is a proposed record.
type Merge struct {
	Text string
	// Added is the term that was put in, "" when nothing was.
	Added string
	// Review says why a person must read the proposal before publishing it,
	// "" when it is a plain insertion.
	Review string
}

// Propose puts include:target into the records found at one name: none gives a
// fresh record, one gets the term in the right place with every other byte
// kept, several become one. ok is false when a record breaks the grammar;
// that must be mended by hand first.
func Propose(texts []string, target string) (m Merge, ok bool) {
	term := "include:" + target
	switch len(texts) {
	case 0:
		return Merge{Text: "v=spf1 " + term + " ~all", Added: term}, true
	case 1:
		r := Parse(texts[0])
		if len(r.Faults) > 0 {
			return Merge{}, false
		}
		return insert(r, target, term), true
	}
	var rs []*Record
	for _, t := range texts {
		r := Parse(t)
		if len(r.Faults) > 0 {
			return Merge{}, false
		}
		rs = append(rs, r)
	}
	joined := union(rs)
	m = insert(Parse(joined), target, term)
	m.Review = "several records were joined: check that each sender in it is still yours"
	return m, true
}

func sameTarget(t *Term, target string) bool {
	return strings.EqualFold(strings.TrimSuffix(t.Value, "."), strings.TrimSuffix(target, "."))
}

func insert(r *Record, target, term string) Merge {
	all := r.All()
	for i := range r.Terms {
		t := &r.Terms[i]
		include := t.Name == "include" && t.Qualifier == '+' && (all == nil || t.Pos < all.Pos)
		redirect := t.Name == "redirect" && t.Modifier && all == nil
		if (include || redirect) && sameTarget(t, target) {
			return Merge{Text: r.Text}
		}
	}
	var at int
	switch redirect := r.Redirect(); {
	case all != nil:
		at = all.Pos
	case redirect != nil:
		at = redirect.Pos
	default:
		// Modifiers may stand anywhere; the end is as good as any place.
		text := strings.TrimRight(r.Text, " ")
		return Merge{
			Text: text + " " + term + " ~all", Added: term,
			Review: "the record had no \"all\" term; \"~all\" was added at its end",
		}
	}
	return Merge{Text: r.Text[:at] + term + " " + r.Text[at:], Added: term}
}

// union joins records: the terms in their order, each once, one "all" at the
// end (the softest that is not "+all"), one redirect only without "all".
func union(rs []*Record) string {
	var all string
	hasAll := false
	for _, r := range rs {
		if t := r.All(); t != nil {
			if !hasAll || softer(t.Qualifier, all) {
				all = t.Text
			}
			hasAll = true
		}
	}
	out := []string{"v=spf1"}
	seen := map[string]bool{}
	add := func(key, text string) {
		if !seen[key] {
			seen[key] = true
			out = append(out, text)
		}
	}
	redirect := ""
	for _, r := range rs {
		own := r.All()
		for i := range r.Terms {
			t := &r.Terms[i]
			switch {
			case t.Name == "all" && !t.Modifier || own != nil && !t.Modifier && t.Pos > own.Pos:
			case t.Modifier && t.Name == "redirect":
				switch {
				case own != nil: // dead where it stood
				case hasAll || redirect != "" && !strings.EqualFold(redirect, t.Value):
					add("+include:"+strings.ToLower(t.Value), "include:"+t.Value)
				default:
					redirect = t.Value
				}
			case t.Modifier && t.Name == "exp":
				add("exp", t.Text)
			case t.Modifier:
				add(strings.ToLower(t.Name)+"="+t.Value, t.Text)
			default:
				text := strings.TrimLeft(t.Text, "+-~?")
				add(string(t.Qualifier)+strings.ToLower(text), t.Text)
			}
		}
	}
	switch {
	case hasAll:
		out = append(out, all)
	case redirect != "":
		out = append(out, "redirect="+redirect)
	}
	return strings.Join(out, " ")
}

// softer ranks the qualifiers of "all": "?" before "~" before "-"; "+all" is
// never chosen over another.
func softer(q byte, than string) bool {
	rank := func(q byte) int { return strings.IndexByte("?~-+", q) }
	other := byte('+')
	if strings.IndexByte("+-~?", than[0]) >= 0 {
		other = than[0]
	}
	return rank(q) < rank(other)
}

// Split cuts a text into strings of at most 255 bytes, as one TXT record holds
// them, without breaking a multi-byte character. The parts joined are s.
func Split(s string) []string {
	const limit = 255
	var out []string
	for len(s) > limit {
		n := limit
		for n > limit-utf8.UTFMax && !utf8.RuneStart(s[n]) {
			n--
		}
		if !utf8.RuneStart(s[n]) {
			n = limit // not UTF-8 at all
		}
		out = append(out, s[:n])
		s = s[n:]
	}
	return append(out, s)
}
