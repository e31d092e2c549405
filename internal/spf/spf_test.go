package spf

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	gospf "blitiri.com.ar/go/spf"
	"github.com/google/go-cmp/cmp"
)

func TestIs(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]bool{
		"v=spf1": true, "V=SPF1 -all": true, "v=spf1 ": true, "v=spf10": false, "v=spf1\t-all": false,
		" v=spf1": false, "v=spf": false, "": false, "\"v=spf1\"": false,
	} {
		if Is(s) != want {
			t.Errorf("Is(%q) = %v", s, !want)
		}
	}
}

func TestParseTerms(t *testing.T) {
	t.Parallel()
	r := Parse("v=spf1  A/24 -mx:Mail.acme.test/28//96 ?ip4:192.0.2.129/25 ip6:2001:db8::/32 exists:%{i}.x.acme.test redirect=other.test x-1=%{d}")
	if len(r.Faults) > 0 {
		t.Fatal(r.Faults)
	}
	type term struct {
		Pos   int
		Name  string
		Mod   bool
		Q     byte
		Value string
		Net   string
		B4,
		B6 int
	}
	var got []term
	for _, x := range r.Terms {
		n := ""
		if x.Network.IsValid() {
			n = x.Network.String()
		}
		got = append(got, term{x.Pos, x.Name, x.Modifier, x.Qualifier, x.Value, n, x.Bits4, x.Bits6})
		if r.Text[x.Pos:x.End] != x.Text {
			t.Errorf("%q stands not at %d:%d", x.Text, x.Pos, x.End)
		}
	}
	want := []term{
		{8, "a", false, '+', "", "", 24, 128},
		{13, "mx", false, '-', "Mail.acme.test", "", 28, 96},
		{39, "ip4", false, '?', "192.0.2.129", "192.0.2.128/25", 32, 128},
		{59, "ip6", false, '+', "2001:db8::", "2001:db8::/32", 32, 128},
		{77, "exists", false, '+', "%{i}.x.acme.test", "", 32, 128},
		{101, "redirect", true, 0, "other.test", "", 32, 128},
		{121, "x-1", true, 0, "%{d}", "", 32, 128},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// Each fault with the byte at which it stands.
func TestParseFaults(t *testing.T) {
	t.Parallel()
	tests := []struct {
		text string
		pos  int
		code string
	}{
		{"v=spf1 ipv4:192.0.2.1 -all", 7, "unknown_mechanism"},
		{"v=spf1 include -all", 7, "bad_term"},
		{"v=spf1 include: -all", 7, "bad_domain"},
		{"v=spf1 include:spf -all", 7, "bad_domain"},
		{"v=spf1 include:spf.acme.123 -all", 7, "bad_domain"},
		{"v=spf1 include:spf.acme.test/24 -all", 7, "bad_domain"},
		{"v=spf1 mx/33 -all", 7, "bad_prefix_length"},
		{"v=spf1 mx/024 -all", 7, "bad_prefix_length"},
		{"v=spf1 mx//129 -all", 7, "bad_prefix_length"},
		{"v=spf1 a:acme.test///64 -all", 7, "bad_domain"},
		{"v=spf1 a/ -all", 7, "bad_term"},
		{"v=spf1 ip4:192.0.2.0/33 -all", 7, "bad_prefix_length"},
		{"v=spf1 ip4:192.0.2 -all", 7, "bad_network"},
		{"v=spf1 ip4:192.0.2.1: -all", 7, "bad_network"},
		{"v=spf1 ip4:2001:db8::1 -all", 7, "bad_network"},
		{"v=spf1 ip6:192.0.2.1 -all", 7, "bad_network"},
		{"v=spf1 ip6: -all", 7, "bad_network"},
		{"v=spf1 all:acme.test", 7, "bad_term"},
		{"v=spf1 all.", 7, "unknown_mechanism"},
		{"v=spf1 ptr/24 -all", 7, "bad_term"},
		{"v=spf1 -redirect=acme.test", 7, "qualified_modifier"},
		{"v=spf1 redirect=acme.test redirect=b.test", 26, "repeated_modifier"},
		{"v=spf1 exp=%{x}.acme.test -all", 7, "bad_domain"},
		{"v=spf1 x=%(d} -all", 7, "bad_macro"},
		{"v=spf1 x=% -all", 7, "bad_macro"},
		{"v=spf1 exists:%{d0}.acme.test -all", 7, "bad_domain"},
		{"v=spf1 exists:%{c}.acme.test -all", 7, "bad_domain"},
		{"v=spf1 exists:%{d.acme.test -all", 7, "bad_domain"},
		{"v=spf1 a:acme.test,b.test -all", -1, ""}, // a comma is legal, if useless
		{"v=spf1 mx\ta -all", 7, "bad_character"},
		{"v=spf1 include:аcme.test -all", 7, "bad_character"}, // a Cyrillic letter
		{"v=spf1 + -all", 7, "unknown_mechanism"},
		{"v=spf1 =x -all", 7, "unknown_mechanism"},
	}
	for _, tt := range tests {
		r := Parse(tt.text)
		switch {
		case tt.code == "" && len(r.Faults) == 0:
		case len(r.Faults) != 1 || r.Faults[0].Code != tt.code || r.Faults[0].Pos != tt.pos:
			t.Errorf("%q: %+v, want %s at %d", tt.text, r.Faults, tt.code, tt.pos)
		}
	}
}

// The grammar of RFC 7208 section 12 as one expression, written apart from the
// parser. Addresses and ranges are left to the parser.
var grammar, namedModifier = func() (*regexp.Regexp, *regexp.Regexp) {
	macro := `(?:%\{[slodiphv](?:0*[1-9][0-9]*)?r?[-.+,/_=]*\}|%%|%_|%-)`
	text := `(?:[!-$&-~]|` + macro + `)*`
	top := `(?:[a-z0-9]*[a-z][a-z0-9]*|[a-z0-9]+-[a-z0-9-]*[a-z0-9])`
	domain := text + `(?:\.` + top + `\.?|` + macro + `)`
	bits4, bits6 := `(?:/(?:[0-9]|[12][0-9]|3[0-2]))?`, `(?://(?:[0-9]|[1-9][0-9]|1[01][0-9]|12[0-8]))?`
	term := `[-+~?]?(?:all|include:` + domain + `|(?:a|mx)(?::` + domain + `)?` + bits4 + bits6 + `|ptr(?::` + domain + `)?|exists:` + domain +
		`|ip4:[0-9.]+(?:/[0-9]+)?|ip6:[0-9a-f:.]+(?:/[0-9]+)?)|[a-z][-a-z0-9_.]*=` + text
	return regexp.MustCompile(`(?i)^(?:` + term + `)$`), regexp.MustCompile(`(?i)^(?:redirect|exp)=` + domain + `$`)
}()

// grammatical judges each term; redirect and exp are no unknown modifiers.
func grammatical(terms []string) bool {
	for _, s := range terms {
		name, _, _ := strings.Cut(strings.ToLower(s), "=")
		if name == "redirect" || name == "exp" {
			if !namedModifier.MatchString(s) {
				return false
			}
		} else if !grammar.MatchString(s) {
			return false
		}
	}
	return true
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"v=spf1 a mx include:spf.mtasv.net -all", "v=spf1 a/24//64 mx:a.test/8 ip4:1.2.3.4/24 ip6:::1/128 ?all",
		"v=spf1 exists:%{ir}.%{v}._spf.%{d2} redirect=%{d}", "v=spf1 x=%% exp=a.%{o-}.test", "v=spf1  ~all ", "v=spf1 ptr:a.1-2",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if !Is(s) {
			return
		}
		r := Parse(s)
		var joined []string
		for _, x := range r.Terms {
			if s[x.Pos:x.End] != x.Text || x.Text == "" {
				t.Fatalf("term %+v stands not where it says", x)
			}
			joined = append(joined, x.Text)
		}
		if want := strings.FieldsFunc(s[6:], func(c rune) bool { return c == ' ' }); !slices.Equal(want, joined) {
			t.Fatalf("terms %q, want %q", joined, want)
		}
		outside := map[string]bool{"bad_network": true, "bad_prefix_length": true, "repeated_modifier": true}
		sound := true
		for _, x := range r.Faults {
			if x.Pos < 6 || x.End > len(s) || x.Pos >= x.End || x.Text == "" {
				t.Fatalf("fault %+v", x)
			}
			sound = sound && outside[x.Code]
		}
		// A mended record is sound, ends what it leaves open, and has nothing
		// left to mend.
		if m, ok := Mend(WalkText(s)); ok {
			text := m.Text
			again := WalkText(text)
			if !Is(text) || len(again.Record.Faults) > 0 || again.Record.All() == nil && again.Record.Redirect() == nil {
				t.Fatalf("%q is mended to %q: %+v", s, text, again.Record.Faults)
			}
			if more, ok := Mend(again); ok && more.Changed {
				t.Fatalf("%q is mended to %q, and that to %q", s, text, more.Text)
			}
		}
		// "/33" is a range for the parser and no part of the expression.
		if m := grammatical(joined); m && !sound || !m && len(r.Faults) == 0 {
			t.Fatalf("%q: grammar says %v, parser %+v", s, m, r.Faults)
		}
	})
}

func TestWalkBounds(t *testing.T) {
	t.Parallel()
	many := "v=spf1"
	zone := mapZone{}
	for i := range 1000 {
		many += fmt.Sprintf(" include:i%d.test", i)
		zone[fmt.Sprintf("i%d.test", i)] = fmt.Sprintf("v=spf1 include:i%d.test -all", (i+1)%1000)
	}
	zone["acme.test"] = many + " -all"
	zone["self.test"] = "v=spf1 redirect=self.test"
	zone["two.test"] = "v=spf1 include:three.test -all"
	zone["three.test"] = "v=spf1 include:two.test -all"
	zone["grow.test"] = "v=spf1 include:%{d}.grow.test -all" // names without end
	zone["mail.test"] = "v=spf1 exists:%{i}.%{l}.mail.test -all"
	root := Walk(t.Context(), &zone, "acme.test", Identity{})
	if root.Lookups < 1000 || root.Complete() || !has(Lint(root), "too_many_lookups") {
		t.Errorf("1,000 includes: %d look-ups", root.Lookups)
	}
	for _, d := range []string{"self.test", "two.test"} {
		if found := Lint(Walk(t.Context(), &zone, d, Identity{})); !has(found, "loop") {
			t.Errorf("%s: no loop in %v", d, found)
		}
	}
	zone2 := growZone{}
	root = Walk(t.Context(), &zone2, "grow.test", Identity{})
	if !has(Lint(root), "too_many_lookups") {
		t.Errorf("names without end: %v", Lint(root))
	}
	root = Walk(t.Context(), &zone, "mail.test", Identity{})
	if root.Lookups != 1 || root.Steps[0].State != Sender || len(Lint(root)) != 0 {
		t.Errorf("macro of the mail: %+v, %v", root.Steps[0], Lint(root))
	}
}

func has(is []Issue, code string) bool {
	return slices.ContainsFunc(is, func(i Issue) bool { return i.Code == code })
}

// mapZone holds one text for each name.
type mapZone map[string]string

func (z *mapZone) TXT(_ context.Context, name string) ([]string, Status) {
	if v, ok := (*z)[strings.ToLower(name)]; ok {
		return []string{v}, Found
	}
	return nil, Empty
}
func (z *mapZone) Addrs(context.Context, string) ([]netip.Addr, Status) { return nil, Empty }
func (z *mapZone) MX(context.Context, string) ([]string, Status)        { return nil, Empty }

// growZone answers every name with a longer one.
type growZone struct{ mapZone }

func (z *growZone) TXT(context.Context, string) ([]string, Status) {
	return []string{"v=spf1 include:x%{d} include:y%{d} -all"}, Found
}

func TestSplit(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"", "a", strings.Repeat("a", 255), strings.Repeat("a", 256), strings.Repeat("a", 254) + "é" + strings.Repeat("b", 300), strings.Repeat("\x80", 600)} {
		parts := Split(s)
		if strings.Join(parts, "") != s {
			t.Errorf("parts of %d bytes do not join", len(s))
		}
		for _, p := range parts {
			if len(p) > 255 {
				t.Errorf("part of %d bytes", len(p))
			}
		}
	}
	if p := Split(strings.Repeat("a", 254) + "é"); len(p[0]) != 254 {
		t.Errorf("a character was cut: %q", p)
	}
}

// The properties of a merge, over records made of these terms.
var mergeTerms = []string{
	"a", "mx", "-a", "ip4:192.0.2.0/24", "-ip4:192.0.2.64/26", "?ip4:203.0.113.1", "ip4:203.0.113.0/25", "include:other.test", "INCLUDE:Other.test.",
	"-include:other.test", "include:spf.mtasv.net", "Include:SPF.mtasv.NET.", "~include:spf.mtasv.net", "exists:%{i}.e.acme.test", "ptr",
	"-all", "~all", "?all", "+all", "all", "redirect=other.test", "exp=why.acme.test", "x=%{d}", "", "ip6:2001:db8::/32", "moo",
}

const target = "spf.mtasv.net"

func FuzzPropose(f *testing.F) {
	f.Add([]byte{0, 1, 15}, []byte{})
	f.Add([]byte{3, 20}, []byte{7, 16})
	f.Add([]byte{11}, []byte{})
	f.Add([]byte{23, 3, 23, 23, 20, 15, 7}, []byte{})
	f.Fuzz(func(t *testing.T, one, two []byte) {
		record := func(ix []byte) string {
			s := "v=spf1"
			for _, i := range ix[:min(len(ix), 8)] {
				s += " " + mergeTerms[int(i)%len(mergeTerms)]
			}
			return s
		}
		texts := []string{record(one)}
		if len(two) > 0 {
			texts = append(texts, record(two))
		}
		checkMerge(t, texts)
	})
}

// Records that say different things of one sender.
func TestProposeConflicts(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		one, two, want string // "" for none
	}{
		{"v=spf1 ?include:spf.mtasv.net -all", "v=spf1 include:spf.mtasv.net ~all", "v=spf1 include:spf.mtasv.net ~all"},
		{"v=spf1 include:spf.mtasv.net ~all", "v=spf1 ~include:SPF.mtasv.net. -all", "v=spf1 include:spf.mtasv.net ~all"},
		{"v=spf1 ?include:spf.mtasv.net -all", "v=spf1 ip4:192.0.2.1 ~all", "v=spf1 ip4:192.0.2.1 include:spf.mtasv.net ~all"},
		{"v=spf1 -include:spf.mtasv.net -all", "v=spf1 ip4:192.0.2.1 ~all", ""},
		{"v=spf1 -ip4:203.0.113.0/24 -all", "v=spf1 ip4:203.0.113.7 ~all", ""},
		{"v=spf1 -ip4:203.0.113.0/24 ip4:192.0.2.1 -all", "v=spf1 ip4:198.51.100.0/24 ~all", "v=spf1 -ip4:203.0.113.0/24 ip4:192.0.2.1 ip4:198.51.100.0/24 include:spf.mtasv.net ~all"},
		{"v=spf1 -ip4:203.0.113.0/24 -all", "v=spf1 include:other.test ~all", ""},
		{"v=spf1 ~ip4:203.0.113.0/24 ip4:192.0.2.1 -all", "v=spf1 ip4:203.0.113.7 ~all", "v=spf1 ip4:203.0.113.7 ~ip4:203.0.113.0/24 ip4:192.0.2.1 include:spf.mtasv.net ~all"},
		{"v=spf1 ?a ip4:192.0.2.1 -all", "v=spf1 ~mx ip4:192.0.2.2 -all", ""},
		{"v=spf1 ?ip4:203.0.113.0/24 -all", "v=spf1 redirect=other.test", "v=spf1 include:other.test ?ip4:203.0.113.0/24 include:spf.mtasv.net -all"},
		{"v=spf1 ?ip4:203.0.113.0/24", "v=spf1 redirect=other.test", ""},
		{"v=spf1 ip4:192.0.2.1 -ip4:192.0.2.0/24 -all", "v=spf1 ip4:198.51.100.1 -all", "v=spf1 ip4:192.0.2.1 -ip4:192.0.2.0/24 ip4:198.51.100.1 include:spf.mtasv.net -all"},
		{"v=spf1 -ip4:192.0.2.1 -all", "v=spf1 ip4:198.51.100.1 -all ip4:192.0.2.1", "v=spf1 -ip4:192.0.2.1 ip4:198.51.100.1 include:spf.mtasv.net -all"},
	} {
		m, ok := Propose([]string{tt.one, tt.two}, "spf.mtasv.net")
		if ok != (tt.want != "") || m.Text != tt.want || m.Review == "" {
			t.Errorf("%q and %q: %q, want %q (%s)", tt.one, tt.two, m.Text, tt.want, m.Review)
		}
	}
}

// A redirect comes last, wherever it stands; so does an include in its place.
func TestProposeRedirect(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		texts []string
		want  string
	}{
		{[]string{"v=spf1 -all", "v=spf1 redirect=w.test include:y.test -ip4:192.0.2.130"}, "v=spf1 include:y.test -ip4:192.0.2.130 include:w.test include:spf.mtasv.net -all"},
		{[]string{"v=spf1 redirect=w.test include:y.test -a x=y"}, "v=spf1 redirect=w.test include:y.test -a include:spf.mtasv.net x=y"},
		{[]string{"v=spf1 a redirect=w.test x=y"}, "v=spf1 a include:spf.mtasv.net redirect=w.test x=y"},
		{[]string{"v=spf1 exists:%{L}.x.test a:H.test -all", "v=spf1 exists:%{l}.x.test a:h.test. -all"}, "v=spf1 exists:%{L}.x.test a:H.test exists:%{l}.x.test include:spf.mtasv.net -all"},
	} {
		if m, ok := Propose(tt.texts, target); !ok || m.Text != tt.want {
			t.Errorf("%q: %q, want %q (%s)", tt.texts, m.Text, tt.want, m.Review)
		}
	}
}

func TestUses(t *testing.T) {
	t.Parallel()
	for record, want := range map[string]bool{
		"exists:%{p}.x.test": true, "exists:%{P1r-}.x.test": true, "redirect=%{p}.x.test": true,
		"exp=%{p}.x.test": false, "x=%{p}": false, "exists:%%{p}.x.test": false, "exists:%{i}.p.test": false, "all a:%{p}.x.test": false,
	} {
		if got := WalkText("v=spf1 " + record).Uses('p'); got != want {
			t.Errorf("%q: %v", record, got)
		}
	}
}

// An include that stands twice is one thing to say, and what it holds is no
// other.
func TestSameIncludeOnce(t *testing.T) {
	t.Parallel()
	zone := &mapZone{
		"acme.test": "v=spf1 include:a.test include:b.test -all", "a.test": "v=spf1 include:c.test -all", "b.test": "v=spf1 include:c.test -all",
		"c.test": "v=spf1 include:d.test -all", "d.test": "v=spf1 ip4:192.0.2.1 -all",
	}
	var at []string
	for _, i := range Lint(Walk(t.Context(), zone, "acme.test", Identity{})) {
		if i.Code == "same_include" {
			at = append(at, i.Domain)
		}
	}
	if !slices.Equal(at, []string{"b.test"}) {
		t.Errorf("%v", at)
	}
}

func checkMerge(t *testing.T, texts []string) {
	t.Helper()
	m, ok := Propose(texts, target)
	bad := slices.ContainsFunc(texts, func(s string) bool { return len(Parse(s).Faults) > 0 })
	conflict := m.Review != "" && len(texts) > 1 // one refuses what another may allow
	if ok && bad || !ok && !bad && !conflict {
		t.Fatalf("%q: proposed %v, faults %v", texts, ok, bad)
	}
	if !ok {
		return
	}
	if !Is(m.Text) || len(Parse(m.Text).Faults) > 0 {
		t.Fatalf("%q: proposal %q is not sound: %+v", texts, m.Text, Parse(m.Text).Faults)
	}
	again, ok := Propose([]string{m.Text}, target)
	if !ok || again.Text != m.Text || again.Added != "" {
		t.Fatalf("%q: merging twice gives %q, once %q", texts, again.Text, m.Text)
	}
	if len(texts) == 1 && m.Review == "" && m.Added != "" {
		// One insertion and nothing else.
		whole := false
		for at := range m.Text {
			rest, ok := strings.CutPrefix(m.Text[at:], m.Added+" ")
			after, last := strings.CutPrefix(m.Text[at:], " "+m.Added)
			whole = whole || ok && m.Text[:at]+rest == texts[0] || last && m.Text[:at]+after == texts[0]
		}
		if !whole {
			t.Fatalf("%q became %q", texts[0], m.Text)
		}
	}
	zone := resolverZone{"acme.test": texts[0], "other.test": "v=spf1 ip4:198.51.100.0/24 -all", target: "v=spf1 ip4:203.0.113.0/25 -all"}
	after := resolverZone{"acme.test": m.Text, "other.test": zone["other.test"], target: zone[target]}
	for _, ip := range []string{"192.0.2.1", "192.0.2.70", "198.51.100.7", "203.0.113.1", "203.0.113.9", "8.8.8.8", "2001:db8::1", "192.0.2.200"} {
		was, now := evaluate(zone, ip), evaluate(after, ip)
		if len(texts) == 1 && was == gospf.Pass && now != gospf.Pass {
			t.Fatalf("%q: %s passed, with %q it gets %s", texts, ip, m.Text, now)
		}
	}
	// Whoever one of several records allowed is allowed by the joined one, save
	// by "+all", which is never chosen, and where it has too much in it.
	for _, text := range texts {
		if all := Parse(text).All(); len(texts) == 1 || all != nil && all.Qualifier == '+' {
			continue
		}
		alone := resolverZone{"acme.test": text, "other.test": zone["other.test"], target: zone[target]}
		for _, ip := range []string{"192.0.2.1", "192.0.2.70", "198.51.100.7", "203.0.113.1", "203.0.113.9", "8.8.8.8", "2001:db8::1", "192.0.2.200"} {
			if now := evaluate(after, ip); evaluate(alone, ip) == gospf.Pass && now != gospf.Pass && now != gospf.PermError {
				t.Fatalf("%q: %s passed by %q, with %q it gets %s", texts, ip, text, m.Text, now)
			}
		}
	}
	// The linter finds nothing that it did not find before, in any of them;
	// what the include brings with it is its two look-ups.
	source := func(z resolverZone) *mapZone {
		m := mapZone(z)
		return &m
	}
	old := map[string]bool{"many_lookups": true, "same_include": true, "covered_network": true, "long_record": true}
	for _, text := range texts {
		z := resolverZone{"acme.test": text, "other.test": zone["other.test"], target: zone[target]}
		for _, i := range Lint(Walk(t.Context(), source(z), "acme.test", Identity{})) {
			old[i.Code] = true
		}
	}
	if len(texts) > 1 { // what was dead or alone may add up in one record
		for _, code := range []string{"too_many_voids", "many_voids", "possible_voids", "too_many_lookups", "void_term", "covered_network"} {
			old[code] = true
		}
	}
	for _, i := range Lint(Walk(t.Context(), source(after), "acme.test", Identity{})) {
		if !old[i.Code] {
			t.Fatalf("%q: with %q the linter finds %s: %s", texts, m.Text, i.Code, i.Text)
		}
	}
	// A Postmark address passes, unless a term in front of it says otherwise.
	denied := regexp.MustCompile(`(?i)[-~?](a|mx|ip4:203|include|all)|\b(include|redirect)[:=]other`)
	voids := strings.Count(m.Text, "exists:")+strings.Count(m.Text, "ptr") > 2 // they find nothing here
	if now := evaluate(after, "203.0.113.9"); now != gospf.Pass && !voids && !denied.MatchString(strings.Split(m.Text, " include:"+target)[0]) {
		t.Fatalf("%q: with %q a Postmark address gets %s", texts, m.Text, now)
	}
}

// resolverZone lets the evaluator read texts; a and mx find 192.0.2.200.
type resolverZone map[string]string

func (z resolverZone) LookupTXT(_ context.Context, name string) ([]string, error) {
	if v, ok := z[strings.ToLower(strings.TrimSuffix(name, "."))]; ok {
		return []string{v}, nil
	}
	return nil, &net.DNSError{IsNotFound: true}
}

func (z resolverZone) LookupMX(_ context.Context, name string) ([]*net.MX, error) {
	return []*net.MX{{Host: name}}, nil
}

func (z resolverZone) LookupIPAddr(_ context.Context, name string) ([]net.IPAddr, error) {
	if strings.TrimSuffix(name, ".") == "acme.test" {
		return []net.IPAddr{{IP: net.ParseIP("192.0.2.200")}}, nil
	}
	return nil, &net.DNSError{IsNotFound: true}
}

func (z resolverZone) LookupAddr(context.Context, string) ([]string, error) {
	return nil, &net.DNSError{IsNotFound: true}
}

func evaluate(z resolverZone, ip string) gospf.Result {
	r, _ := gospf.CheckHostWithSender(net.ParseIP(ip), "mail.acme.test", "u@acme.test", gospf.WithResolver(z))
	return r
}

func BenchmarkParse(b *testing.B) {
	const s = "v=spf1 a mx include:_spf.google.com include:spf.mtasv.net ip4:192.0.2.0/24 ip6:2001:db8::/32 ~all"
	b.ReportAllocs()
	for b.Loop() {
		Parse(s)
	}
}

func TestWalkEndsWithContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	root := Walk(ctx, failZone{}, "acme.test", Identity{})
	if root.State != Unasked || root.Complete() || len(Lint(root)) != 0 {
		t.Errorf("%+v", root)
	}
}

type failZone struct{}

func (failZone) TXT(context.Context, string) ([]string, Status)       { return nil, Failed }
func (failZone) Addrs(context.Context, string) ([]netip.Addr, Status) { return nil, Failed }
func (failZone) MX(context.Context, string) ([]string, Status)        { return nil, Failed }

// A mail takes the look-ups up to the term that matches, and no more.
func TestSpent(t *testing.T) {
	t.Parallel()
	zone := &mapZone{
		"acme.test":  "v=spf1 ip4:192.0.2.0/24 include:one.test exists:%{i}.x.test include:two.test -all",
		"one.test":   "v=spf1 ip4:198.51.100.0/24 include:three.test -all",
		"two.test":   "v=spf1 ip6:2001:db8::/32 redirect=three.test",
		"three.test": "v=spf1 ip4:203.0.113.0/24 -all",
	}
	root := Walk(t.Context(), zone, "acme.test", Identity{})
	for _, tt := range []struct {
		addr    string
		lookups int
		exact   bool
	}{
		{"192.0.2.7", 0, true},
		{"::ffff:192.0.2.7", 0, true},
		{"198.51.100.7", 1, true},
		{"203.0.113.7", 2, true},
		{"2001:db8::1", 4, false}, // the name behind exists depends on the mail
		{"8.8.8.8", 5, false},
	} {
		if n, exact := root.Spent(netip.MustParseAddr(tt.addr)); n != tt.lookups || exact != tt.exact {
			t.Errorf("%s: %d look-ups, exact %v; want %d, %v", tt.addr, n, exact, tt.lookups, tt.exact)
		}
	}
	if n, exact := Walk(t.Context(), failZone{}, "acme.test", Identity{}).Spent(netip.MustParseAddr("192.0.2.7")); n != 0 || exact {
		t.Errorf("a record that could not be asked for: %d, %v", n, exact)
	}
}
