package tmpl

import (
	"encoding/json"
	"errors"
	htmltemplate "html/template"
	"math"
	"reflect"
	"regexp"
	"strings"
	"testing"
	texttemplate "text/template"
	"time"

	"github.com/google/go-cmp/cmp"
)

// view is what the templates of these tests see.
type view struct {
	Name  string
	Map   map[string]any
	List  []item
	Now   time.Time
	Inner *inner
}

type (
	inner struct{ Title string }
	item  struct{ Label string }
)

func data() *view {
	return &view{Name: "n", Map: map[string]any{"a": "b", "null": nil}, List: []item{{"x"}, {"y"}}, Inner: &inner{"t"}}
}

// build parses, checks and instruments a template and returns how to run it.
func build(t testing.TB, src string, html bool) (func(*Buffer) error, []Problem) {
	t.Helper()
	trees, bad := Parse("f", src, 1)
	if bad != nil {
		return nil, []Problem{*bad}
	}
	c := Checker{Funcs: Funcs()}
	problems, reached := c.Check(trees, "f", reflect.TypeFor[*view]())
	if len(problems) > 0 {
		return nil, problems
	}
	funcs := ExecFuncs(Funcs())
	ht := htmltemplate.New("root").Funcs(funcs).Option("missingkey=error")
	tt := texttemplate.New("root").Funcs(funcs).Option("missingkey=error")
	for name := range reached {
		tree := trees[name].Copy()
		if err := Instrument(tree, html); err != nil {
			t.Fatalf("%q: %v", src, err)
		}
		if _, err := ht.AddParseTree(name, tree); err != nil {
			t.Fatal(err)
		}
		if _, err := tt.AddParseTree(name, tree); err != nil {
			t.Fatal(err)
		}
	}
	return func(b *Buffer) error {
		b.Reset(1<<20, 100_000)
		if html {
			return ht.ExecuteTemplate(b, "f", data())
		}
		return tt.ExecuteTemplate(b, "f", data())
	}, nil
}

// Errors name the line of the source also where html/template made a copy of
// a template for another context, and for nodes that were put in.
func TestErrorLines(t *testing.T) {
	t.Parallel()
	for name, src := range map[string]string{
		"missing in a copy":  "\n\n{{ define \"u\" }}\n{{ .Map.nope }}{{ end }}<a href=\"{{ template \"u\" . }}\">x</a>",
		"null in a copy":     "\n\n{{ define \"u\" }}\n{{ .Map.null }}{{ end }}<a href=\"{{ template \"u\" . }}\">x</a>",
		"function in a copy": "\n\n{{ define \"u\" }}\n{{ .Map.a | date \"2006\" }}{{ end }}<p title='{{ template \"u\" . }}'>x</p>",
		"condition":          "\n\n\n{{ if .Map.nope }}{{ else }}{{ .Map.null }}{{ end }}",
		"after a comment":    "\n\n<!--[if mso]>\n{{ .Map.null }}<![endif]-->",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, html := range []bool{true, false} {
				run, problems := build(t, src, html)
				if len(problems) > 0 {
					t.Fatal(problems)
				}
				if err := run(new(Buffer)); err == nil || !strings.Contains(err.Error(), "template: f:4:") {
					t.Errorf("html %v: got %v, want an error on line 4", html, err)
				}
			}
		})
	}
}

func TestParseLines(t *testing.T) {
	t.Parallel()
	trees, bad := Parse("f", "\n{{ .Nope }}", 7)
	if bad != nil {
		t.Fatal(bad)
	}
	c := Checker{Funcs: Funcs()}
	problems, _ := c.Check(trees, "f", reflect.TypeFor[*view]())
	if want := (Problem{"f", 8, ".Nope: there is no field Nope; there are Inner, List, Map, Name, Now"}); len(problems) != 1 || problems[0] != want {
		t.Errorf("got %v, want %v", problems, want)
	}
	for src, want := range map[string]Problem{
		"a\n{{ if }}":  {"f", 8, "missing value for if"},
		"a\nb\x00":     {"f", 8, "holds a NUL byte; save it as plain UTF-8 text"},
		"a\nb\n\xffc":  {"f", 9, "is not valid UTF-8; save it as UTF-8"},
		"{{{ .Name }}": {"f", 7, "three braces are only for Postmark's literals, such as {{{ pm:unsubscribe }}}; write {{ ... }}"},
	} {
		if _, bad := Parse("f", src, 7); bad == nil || *bad != want {
			t.Errorf("%q: got %v, want %v", src, bad, want)
		}
	}
}

// One template called with two kinds of data is checked for both.
func TestCheckPerType(t *testing.T) {
	t.Parallel()
	trees, bad := Parse("f", `{{ define "p" }}{{ .Title }}{{ end }}{{ template "p" .Inner }}{{ range .List }}{{ template "p" . }}{{ end }}{{ template "p" (dict "Title" 1) }}{{ template "p" .Map }}`, 1)
	if bad != nil {
		t.Fatal(bad)
	}
	c := Checker{Funcs: Funcs()}
	problems, reached := c.Check(trees, "f", reflect.TypeFor[*view]())
	if len(problems) != 1 || problems[0].Reason != ".Title: there is no field Title; there are Label" {
		t.Errorf("got %v", problems)
	}
	if !reached["p"] || !reached["f"] {
		t.Errorf("reached %v", reached)
	}
}

func TestText(t *testing.T) {
	t.Parallel()
	type named string
	n := 3
	for _, tc := range []struct {
		in   any
		want string // "!" means an error
	}{
		{"x", "x"},
		{named("x"), "x"},
		{int8(-3), "-3"},
		{uint64(math.MaxUint64), "18446744073709551615"},
		{&n, "3"},
		{(*int)(nil), "!"},
		{nil, "!"},
		{1e21, "1000000000000000000000"},
		{float32(0.5), "0.5"},
		{math.NaN(), "!"},
		{math.Inf(1), "!"},
		{json.Number("1e3"), "1000"},
		{json.Number("1.25E-3"), "0.00125"},
		{json.Number("1e400"), "1" + strings.Repeat("0", 400)},
		{json.Number("1e401"), "!"},
		{json.Number("1e99999999999999999999"), "!"},
		{time.Date(2026, 5, 3, 9, 0, 0, 0, time.UTC), "2026-05-03T09:00:00Z"},
		{90 * time.Minute, "1h30m0s"},
		{[]any{1}, "!"},
		{[2]int{}, "!"},
		{map[string]any{}, "!"},
		{struct{}{}, "!"},
		{htmltemplate.HTML("<b>"), "<b>"},
	} {
		got, err := Text(tc.in)
		if err != nil {
			got = "!"
		}
		if got != tc.want {
			t.Errorf("Text(%#v) = %q, %v, want %q", tc.in, got, err, tc.want)
		}
	}
	// A value that claims to be safe html is text like any other.
	if v, _ := printValue("x", htmltemplate.HTML("<b>")); v != "<b>" {
		t.Errorf("printValue gave %q", v)
	}
}

// A number that is a text of a million digits, or a fraction, costs nothing.
func TestRationalBounded(t *testing.T) {
	t.Parallel()
	for _, s := range []string{strings.Repeat("9", 1_000_000), "1/3", "0x10", "1_000", "", "1e", "e5", "1e5e5", "--1", "Inf", "0b1", "1p5"} {
		if r, err := rational(s); err == nil {
			t.Errorf("rational(%.20q) = %v", s, r)
		}
	}
}

func TestBuffer(t *testing.T) {
	t.Parallel()
	var b Buffer
	b.Reset(4, 3)
	if _, err := b.Write([]byte("ab")); err != nil {
		t.Fatal(err)
	}
	if _, err := b.WriteString("abc"); !errors.Is(err, ErrTooLong) {
		t.Errorf("got %v, want ErrTooLong", err)
	}
	if _, err := b.WriteString("cd"); err != nil || string(b.Bytes()) != "abcd" {
		t.Errorf("%v, %q", err, b.Bytes())
	}
	if _, err := b.Write(nil); !errors.Is(err, ErrTooManySteps) {
		t.Errorf("got %v, want ErrTooManySteps", err)
	}
	b.Reset(4, 3)
	if _, err := b.Write([]byte("x")); err != nil || string(b.Bytes()) != "x" {
		t.Errorf("after Reset: %v, %q", err, b.Bytes())
	}
}

func TestSuggest(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name       string
		candidates []string
		want       string
	}{
		{"naem", []string{"name", "other"}, `; did you mean "name"?`},
		{"NAME", []string{"name"}, `; did you mean "name"?`},
		{"zzz", []string{"name", "other"}, "; there are name, other"},
		{"zzz", nil, ""},
		{"zzz", strings.Split("abcdefghijklm", ""), ""},
	} {
		if got := Suggest(tc.name, tc.candidates); got != tc.want {
			t.Errorf("Suggest(%q, %q) = %q, want %q", tc.name, tc.candidates, got, tc.want)
		}
	}
}

// A tree that was prepared prints the same as it did, apart from what
// Instrument is there to change.
func TestInstrumentKeepsOutput(t *testing.T) {
	t.Parallel()
	for src, want := range map[string]string{
		`a{{ .Name }}b{{- " c " -}}d`: "anb c d",
		`{{ range $i, $e := .List }}{{ $i }}{{ $e.Label }}{{ if eq $i 0 }},{{ continue }}{{ end }}!{{ end }}`:                 "0x,1y!",
		`{{ with $x := .Inner }}{{ .Title }}{{ $x.Title }}{{ end }}{{ with .Map.nope }}{{ else with .Name }}{{ . }}{{ end }}`: "ttn",
		`{{ define "r" }}[{{ . }}]{{ end }}{{ template "r" .Name }}{{ template "r" (.Name | upper) }}`:                        "[n][N]",
		`{{ (index .List 1).Label }}{{ .Inner.Title | printf "%s-%s" .Name }}{{ len (slice .Name 0 1) }}`:                     "yn-t1",
		`{{ $v := .Map }}{{ $v.a | default "z" }}{{ ($v).q | default "z" }}{{ .Map.a.b.c | default "z" }}`:                    "bzz",
		`<!--[if mso]>{{ .Name }}<![endif]-->{{{pm:x}}}`:                                                                      "<!--[if mso]>n<![endif]-->{{{ pm:x }}}",
	} {
		for _, html := range []bool{true, false} {
			run, problems := build(t, src, html)
			if len(problems) > 0 {
				t.Fatalf("%q: %v", src, problems)
			}
			var b Buffer
			if err := run(&b); err != nil {
				t.Errorf("%q: %v", src, err)
			}
			if diff := cmp.Diff(want, string(b.Bytes())); diff != "" {
				t.Errorf("%q, html %v (-want +got):\n%s", src, html, diff)
			}
		}
	}
}

// lateErrors are mistakes that Check is there to find.
var lateErrors = regexp.MustCompile(`can't evaluate field .* in type (\*?tmpl\.|time\.)|wrong number of args|not defined|no template|nil is not a command`)

var assignRE = regexp.MustCompile(`\$\w*\s*(,\s*\$\w*\s*)?=`)

// What passes the check does not fail in a way that the check could have
// found, does not panic, and ends.
func FuzzCheck(f *testing.F) {
	for _, src := range []string{
		`{{ .Name }}{{ .Map.x.y }}{{ range .List }}{{ .Label }}{{ end }}`,
		`{{ define "a" }}{{ . }}{{ end }}{{ template "a" .Name }}{{ template "a" }}`,
		`{{ $x := .Inner }}{{ $x.Title | upper | default "a" }}{{ $x = .Name }}{{ $x }}`,
		`{{ with .Map.a }}{{ . }}{{ else }}{{ $.Now.Format "2006" }}{{ end }}{{ (.Now.AddDate 0 0 1).Year }}`,
		`<!--[if mso]><a href="{{ .Name }}" {{ .Name }}="{{{ pm:unsubscribe }}}"><![endif]-->{{ range 3 }}{{ break }}{{ end }}`,
		`{{ if and .Map.q (gt 3 2) }}{{ end }}{{ dict "a" 1 }}{{ (dict "a" .Inner).a.Title }}{{ index .Map "a" | printf "%s" }}`,
		`{{ number 2 3.5 }}{{ money "EUR" 1 }}{{ truncate 3 .Name }}{{ join "," .List }}{{ html .Name }}{{ .Name | urlquery }}`,
	} {
		f.Add(src)
	}
	f.Fuzz(func(t *testing.T, src string) {
		for _, html := range []bool{false, true} {
			run, problems := build(t, src, html)
			if len(problems) > 0 {
				for _, p := range problems {
					if p.File != "f" || p.Line < 1 || p.Line > strings.Count(src, "\n")+1 || p.Reason == "" {
						t.Errorf("%q: %+v", src, p)
					}
				}
				return
			}
			if assignRE.MatchString(src) {
				return // a variable that is assigned to may hold anything
			}
			if err := run(new(Buffer)); err != nil && lateErrors.MatchString(err.Error()) {
				t.Errorf("%q: %v", src, err)
			}
		}
	})
}
