package spf

import (
	"slices"
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
// kept, several become one. ok is false when a record breaks the grammar, which
// must be mended by hand first, and when one record refuses what another may
// allow; then Review says so.
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
	m, ok = join(texts, target)
	if !ok {
		return m, false
	}
	review := m.Review
	m = insert(Parse(m.Text), target, term)
	m.Review = review
	return m, true
}

// Join makes one record of several, with all that each of them allows and
// nothing else; ok is false as for [Propose].
func Join(texts []string) (m Merge, ok bool) { return join(texts, "") }

// join makes room for an include of target too.
func join(texts []string, target string) (m Merge, ok bool) {
	var rs []*Record
	for _, t := range texts {
		r := Parse(t)
		if len(r.Faults) > 0 {
			return Merge{}, false
		}
		rs = append(rs, r)
	}
	rs, weaker, why := reconcile(rs, target)
	if why != "" {
		return Merge{Review: why}, false
	}
	return Merge{Text: union(rs, weaker), Review: "several records were joined: check that each sender in it is still yours"}, true
}

func sameTarget(t *Term, target string) bool {
	return sameName(t.Value, target)
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
	switch redirect, last := r.Redirect(), r.lastMechanism(); {
	case all != nil:
		at = all.Pos
	case redirect != nil && last != nil && last.Pos > redirect.Pos:
		// A redirect comes after all mechanisms wherever it stands, and so must
		// what is to count beside it.
		return Merge{Text: r.Text[:last.End] + " " + term + r.Text[last.End:], Added: term}
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

func (r *Record) lastMechanism() (last *Term) {
	for i := range r.Terms {
		if t := &r.Terms[i]; !t.Modifier {
			last = t
		}
	}
	return last
}

// reconcile prepares records for being joined, so that each sender that one of
// them allows is still allowed: a term that is softer than the same one of
// another record ("?include:x" beside "include:x") is left out, and a record
// with soft terms comes after those that have none, since a term before another
// hides it. why says what cannot be reconciled.
func reconcile(rs []*Record, target string) (ordered []*Record, weaker map[*Term]bool, why string) {
	weaker = map[*Term]bool{}
	soft := map[*Record][]*Term{}
	for _, r := range rs {
		for _, t := range r.live() {
			if t.Modifier || t.Qualifier == '+' {
				continue
			}
			hides := t.Name == "include" && sameTarget(t, target)
			weaker[t] = hides && t.Qualifier != '-'
			for _, o := range rs {
				for _, u := range o.live() {
					if o == r || !u.Modifier && u.Qualifier != '+' {
						continue
					}
					same := t.what() == u.what()
					weaker[t] = weaker[t] || same && t.Qualifier != '-'
					hides = hides || same || !apart(t, u)
				}
			}
			switch {
			case hides && t.Qualifier == '-':
				return nil, nil, "one of them refuses (" + t.Text + ") what another may allow, and which of the two is meant is not for a program to say"
			case hides && !weaker[t]:
				soft[r] = append(soft[r], t)
			}
		}
	}
	for _, late := range []bool{false, true} {
		for _, r := range rs {
			if (len(soft[r]) > 0) == late {
				ordered = append(ordered, r)
			}
		}
	}
	hasAll := slices.ContainsFunc(rs, func(r *Record) bool { return r.All() != nil })
	for i, r := range ordered {
		for _, t := range soft[r] {
			for j, o := range ordered {
				for _, u := range o.live() {
					// Without "all" a redirect stays one, at the end.
					behind := j > i || j != i && u.Modifier && !hasAll
					if behind && (u.Modifier || u.Qualifier == '+') && !apart(t, u) {
						return nil, nil, "one of them says neither yes nor no (" + t.Text + ") to what another may allow, and the other way round"
					}
				}
			}
		}
	}
	return ordered, weaker, ""
}

// live are the mechanisms that are looked at, without "all", and the redirect.
func (r *Record) live() (out []*Term) {
	all := r.All()
	for i := range r.Terms {
		t := &r.Terms[i]
		if t.Name == "all" && !t.Modifier || dead(t, all) || t.Modifier && t.Name != "redirect" {
			continue
		}
		out = append(out, t)
	}
	return out
}

// what is a term without its qualifier.
func (t *Term) what() string {
	return fold(strings.TrimLeft(t.Text, signs))
}

// fold makes two ways to write one name or term the same. A macro in upper case
// is another one: it escapes what it stands for.
func fold(s string) string {
	if strings.Contains(s, "%") {
		return s
	}
	return strings.TrimSuffix(lower(s), ".")
}

// apart reports whether no address can match both.
func apart(t, u *Term) bool {
	return t.Network.IsValid() && u.Network.IsValid() && !t.Network.Overlaps(u.Network)
}

// union joins records: the terms in their order, each once, one "all" at the
// end (the softest, where "+all" counts as "~all"), one redirect only without
// "all".
func union(rs []*Record, weaker map[*Term]bool) string {
	var all string
	hasAll := false
	for _, r := range rs {
		if t := r.All(); t != nil {
			own := t.Text
			if t.Qualifier == '+' {
				own = "~all"
			}
			if !hasAll || softer(own, all) {
				all = own
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
		last := "" // a redirect comes after its record's mechanisms (RFC 7208 section 6.1)
		for i := range r.Terms {
			t := &r.Terms[i]
			switch {
			case weaker[t]:
			case t.Name == "all" && !t.Modifier || own != nil && !t.Modifier && t.Pos > own.Pos:
			case t.Modifier && t.Name == "redirect":
				switch {
				case own != nil: // dead where it stood
				case hasAll || redirect != "" && fold(redirect) != fold(t.Value):
					last = "include:" + t.Value
				default:
					redirect = t.Value
				}
			case t.Modifier && t.Name == "v": // two had been joined by hand
			case t.Modifier && t.Name == "exp":
				add("exp", t.Text)
			case t.Modifier:
				add(strings.ToLower(t.Name)+"="+t.Value, t.Text)
			default:
				add(string(t.Qualifier)+t.what(), t.Text)
			}
		}
		if last != "" {
			add("+"+fold(last), last)
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

// softer ranks what records end in: "?all" before "~all" before "-all".
func softer(all, than string) bool {
	const order = "?~-"
	return strings.IndexByte(order, all[0]) < strings.IndexByte(order, than[0])
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
