package fluxly

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

// files makes a file system of names and contents.
func files(pairs ...string) fstest.MapFS {
	fsys := fstest.MapFS{}
	for i := 0; i < len(pairs); i += 2 {
		fsys[pairs[i]] = &fstest.MapFile{Data: []byte(pairs[i+1])}
	}
	return fsys
}

// htmlPart is an html part with a subject. Its body starts on line 4.
func htmlPart(body string) string { return "---\nSubject: Hello\n---\n" + body }

func problemTexts(problems []Problem) []string {
	texts := []string{}
	for _, p := range problems {
		texts = append(texts, p.String())
	}
	return texts
}

// Scenario M1, first half: what cannot work is found when the templates are
// loaded, with file and line.
func TestEmailProblems(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		files []string
		want  []string // each a part of the problem at its place
	}{
		"unknown field": {
			[]string{"a.html", htmlPart("<p>Hi\n{{ .Profle.Name }}</p>")},
			[]string{`emails a.html:5: .Profle.Name: there is no field Profle; did you mean "Profile"?`},
		},
		"unknown field of a known one": {
			[]string{"a.html", htmlPart("{{ .Profile.Name }}")},
			[]string{`emails a.html:4: .Profile.Name: there is no field Name; there are CreatedAt, ExternalID, ID, Traits`},
		},
		"field in subject": {
			[]string{"a.html", "---\nTag: x\nSubject: Hi {{ .Name }}\n---\n<p>x</p>"},
			[]string{`emails a.html:3: .Name: there is no field Name`},
		},
		"subject in itself": {
			[]string{"a.html", "---\nSubject: Hi {{ .Subject }}\nPreheader: {{ .Subject }}\n---\n{{ .Preheader }}"},
			[]string{`emails a.html:2: .Subject: is not known yet`, `emails a.html:3: .Subject: is not known yet`},
		},
		"field in preheader": {
			[]string{"a.html", "---\nSubject: Hi\nPreheader: {{ .Trait.x }}\n---\n{{ .Preheader }}"},
			[]string{`emails a.html:3: .Trait.x: there is no field Trait; did you mean "Traits"?`},
		},
		"field of a text": {
			[]string{"a.html", htmlPart("{{ .Email.Name }}")},
			[]string{`emails a.html:4: .Email.Name: a text has no fields, so no Name`},
		},
		"field inside with": {
			[]string{"a.html", htmlPart("{{ with .Run }}{{ .Automation }}{{ .Name }}{{ end }}")},
			[]string{`emails a.html:4: .Name: there is no field Name; there are Automation, ID, Results, StartedAt`},
		},
		"field after with": {
			[]string{"a.html", htmlPart("{{ with .Run }}x{{ else }}{{ .ID }}{{ end }}{{ .ID }}")},
			[]string{`emails a.html:4: .ID: there is no field ID`},
		},
		"field of a variable": {
			[]string{"a.html", htmlPart("{{ $r := .Run }}{{ $r.ID }}{{ $r.Nope }}{{ $.Nope }}")},
			[]string{`emails a.html:4: $r.Nope: there is no field Nope`, `emails a.html:4: $.Nope: there is no field Nope`},
		},
		"variable of an inner scope": {
			[]string{"a.html", htmlPart("{{ if .Traits.a }}{{ $x := 1 }}{{ end }}{{ $x }}")},
			[]string{`emails a.html:4: undefined variable "$x"`},
		},
		"method that is none": {
			[]string{"a.html", htmlPart("{{ .Now.Yeer }}")},
			[]string{`emails a.html:4: .Now.Yeer: there is no field Yeer`},
		},
		"method arguments": {
			[]string{"a.html", htmlPart("{{ .Now.Format }}{{ .Now.Format 3 }}{{ .Now.Year 1 }}")},
			[]string{
				`emails a.html:4: Format wants 1 argument, and has 0 here`,
				`emails a.html:4: argument 1 of Format is 3, but must be a text`,
				`emails a.html:4: Year wants 0 arguments, and has 1 here`,
			},
		},
		"arguments for a field": {
			[]string{"a.html", htmlPart("{{ .Email 3 }}")},
			[]string{`emails a.html:4: .Email is not a method and takes no arguments`},
		},
		"unknown function": {
			[]string{"a.html", htmlPart("{{ .Traits.a | uper }}")},
			[]string{`emails a.html:4: there is no function "uper"; did you mean "upper"?`},
		},
		"internal function": {
			[]string{"a.html", htmlPart(`{{ _raw "<b>" }}`)},
			[]string{`emails a.html:4: there is no function "_raw"`},
		},
		"function arguments": {
			[]string{"a.html", htmlPart(`{{ upper }}{{ .Traits.a | upper "x" }}{{ truncate "x" .Email }}{{ with dict "a" }}x{{ end }}{{ eq 1 }}{{ not }}`)},
			[]string{
				`upper wants 1 argument, and has 0 here`,
				`upper wants 1 argument, and has 2 here`,
				`argument 1 of truncate is a text, but must be a number`,
				`dict: wants names and values by turns`,
				`eq wants at least 2 arguments, and has 1 here`,
				`not has 0 arguments`,
			},
		},
		"constants": {
			[]string{"a.html", htmlPart(`{{ .Now | date "YYYY-MM-DD" }}{{ .Now | in "Mars/Olympus" | date "15:04" }}{{ 3 | money "dollars" }}`)},
			[]string{
				`date: the layout "YYYY-MM-DD" shows no part of a date`,
				`in: time zone "Mars/Olympus" is not known here`,
				`money: currency "dollars" is not an ISO 4217 code such as EUR`,
			},
		},
		"printing a group": {
			[]string{"a.html", htmlPart("{{ .Profile }}{{ .Traits }}{{ . }}")},
			[]string{
				`emails a.html:4: .Profile is a group of fields and cannot be printed as a whole`,
				`emails a.html:4: .Traits is a map and cannot be printed as a whole`,
				`emails a.html:4: . is a group of fields and cannot be printed as a whole`,
			},
		},
		"range over a text": {
			[]string{"a.html", htmlPart("{{ range .Email }}{{ . }}{{ end }}")},
			[]string{`emails a.html:4: range cannot go over .Email, which is a text`},
		},
		"unknown template": {
			[]string{"a.html", htmlPart(`{{ template "_buton" . }}`), "_button.html", "x"},
			[]string{`emails a.html:4: there is no template "_buton"; did you mean "_button"?`},
		},
		"partial without data": {
			[]string{"a.html", htmlPart(`{{ template "_b" }}`), "_b.html", "\n{{ .Email }}"},
			[]string{`emails _b.html:2: .Email: this template is called without data`},
		},
		"partial with a dict": {
			[]string{"a.html", htmlPart(`{{ template "_b" (dict "URL" .Email "Label" "x") }}`), "_b.html", "{{ .URL }}{{ .Lable }}{{ .URL.Host }}"},
			[]string{
				`emails _b.html:1: .Lable: the dict given here has no key "Lable"; did you mean "Label"?`,
				`emails _b.html:1: .URL.Host: a text has no fields, so no Host`,
			},
		},
		"partial that includes itself": {
			[]string{"a.html", htmlPart("x"), "_b.html", `{{ template "_b" . }}`},
			[]string{`emails _b.html:1: template "_b" includes itself: _b -> _b`},
		},
		"partials that include each other": {
			[]string{"a.html", htmlPart(`{{ template "_b" . }}`), "_b.html", "\n{{ if .Email }}{{ template \"_c\" . }}{{ end }}", "_c.html", `{{ range 3 }}{{ template "_b" . }}{{ end }}`},
			[]string{`emails _c.html:1: template "_b" includes itself: _b -> _c -> _b`},
		},
		"layout that includes itself": {
			[]string{"a.html", htmlPart("x"), "_layout.html", `{{ template "content" . }}{{ template "_layout" . }}`},
			[]string{`emails _layout.html:1: template "_layout" includes itself`},
		},
		"content that includes itself": {
			[]string{"a.html", htmlPart(`{{ template "content" . }}`)},
			[]string{`emails a.html:4: template "content" includes itself`},
		},
		"layout without content": {
			[]string{"a.html", htmlPart("x"), "_layout.html", `<html></html>`},
			[]string{`emails _layout.html: is a layout, but does not show the email`},
		},
		"define that nothing shows": {
			[]string{"a.html", htmlPart(`x{{ define "foter" }}y{{ end }}`), "_layout.html", `{{ template "content" . }}{{ block "footer" . }}z{{ end }}`},
			[]string{`emails a.html: defines "foter", which nothing shows`},
		},
		"mistake in a layout is told once": {
			[]string{"a.html", htmlPart("x"), "b.html", htmlPart("x"), "_layout.html", `{{ .Nope }}{{ template "content" . }}`},
			[]string{`emails _layout.html:1: .Nope: there is no field Nope`},
		},
		"layout that is not there": {
			[]string{"a.html", "---\nSubject: x\nLayout: wide\n---\nx"},
			[]string{`emails a.html:3: there is no layout _wide.html`},
		},
		"syntax": {
			[]string{"a.html", htmlPart("{{ if .Email }}\n"), "b.html", htmlPart("\n{{ .Email"), "c.txt", htmlPart("{{ end }}")},
			[]string{`emails a.html:4: unexpected EOF`, `emails b.html:5: unclosed action`, `emails c.txt:4: unexpected {{end}}`},
		},
		"three braces": {
			[]string{"a.html", htmlPart("{{{ .Email }}}")},
			[]string{`emails a.html:4: three braces are only for Postmark's literals`},
		},
		"literal in an action": {
			[]string{"a.html", htmlPart(`{{ .Traits.link | default "{{{ pm:unsubscribe }}}" }}`)},
			[]string{`emails a.html:4: Postmark's literal {{{ pm:unsubscribe }}} stands inside an action`},
		},
		"html that cannot be escaped": {
			[]string{"a.html", htmlPart("\n{{ if .Traits.a }}<a href='{{ end }}x'>y</a>")},
			[]string{`emails a.html:5: {{if}} branches end in different contexts`},
		},
		"urlquery in the middle": {
			[]string{"a.html", htmlPart("{{ .Email | urlquery | upper }}")},
			[]string{`emails a.html:4: html and urlquery must be the last function`},
		},
		"no subject": {
			[]string{"a.html", "<p>x</p>", "b.txt", "---\nTag: x\n---\nx"},
			[]string{`emails a.html:1: has no subject; start the file with`, `emails b.txt:1: has no subject`},
		},
		"header": {
			[]string{"a.html", "---\nSubject: x\nSubjekt: y\nnonsense\nTag: a\nTag: b\nTopic:\n# a comment\n\nFrom: \"Ann\"\n---\nx"},
			[]string{
				`emails a.html:3: there is no setting "Subjekt"; did you mean "Subject"?`,
				`emails a.html:4: "nonsense" is not of the form "Key: value"`,
				`emails a.html:6: Tag is set twice`,
				`emails a.html:7: Topic has no value`,
				`emails a.html:10: From is in quotes`,
			},
		},
		"header without end": {
			[]string{"a.html", "---\nSubject: x\n<p>Hello</p>"},
			[]string{`emails a.html:1: the header has no end; close it with a line of ---`, `emails a.html:3: "<p>Hello</p>" is not of the form`},
		},
		"header without lines": {
			[]string{"a.html", "Subject: x\n\n<p>Hello</p>"},
			[]string{`emails a.html:1: looks like a header; put it between two lines of ---`, `emails a.html:1: has no subject`},
		},
		"settings": {
			[]string{"a.html", "---\nSubject: x\nFrom: Ann\nReply-To: a@x.test, b@x.test\nStream: My Stream\nTransactional: maybe\nTrack-Opens: 1\nTrack-Links: all\nTopic: a b\n---\nx"},
			[]string{
				`emails a.html:3: From "Ann"`, `emails a.html:4: Reply-To "a@x.test, b@x.test"`, `emails a.html:5: Stream "My Stream"`,
				`emails a.html:6: Transactional "maybe": must be true or false`, `emails a.html:7: Track-Opens "1"`,
				`emails a.html:8: Track-Links "all": must be None, HtmlAndText, HtmlOnly or TextOnly`, `emails a.html:9: Topic "a b"`,
			},
		},
		"settings in both parts": {
			[]string{"a.html", "---\nSubject: x\nTag: a\n---\nx", "a.txt", "---\nTag: b\n---\nx"},
			[]string{`emails a.txt:2: Tag is "a" in a.html; set it in one of the two`},
		},
		"preheader that nothing shows": {
			[]string{"a.html", "---\nSubject: x\nPreheader: y\n---\nx", "b.txt", "---\nSubject: x\nPreheader: y\n---\nx"},
			[]string{`emails a.html:3: Preheader is set, but nothing shows it`, `emails b.txt:3: Preheader is set, but there is no html part`},
		},
		"header in a partial": {
			[]string{"a.html", htmlPart("x"), "_p.html", "---\nTag: x\n---\nx"},
			[]string{`emails _p.html:2: a layout or partial has no header of its own`},
		},
		"one email in two places": {
			[]string{"x/a.html", htmlPart("x"), "y/a.html", htmlPart("x")},
			[]string{`emails y/a.html: is the same part of email "a" as x/a.html`},
		},
		"names": {
			[]string{"a b.html", htmlPart("x"), "ok.html", htmlPart("x"), "c.htm", "x", "d.english.html", htmlPart("x"), "logo.png", "\x00"},
			[]string{`emails a b.html: the name "a b" must be`, `emails c.htm: is not read as a template`, `emails d.english.html: "english" is not a language`},
		},
		"not text": {
			[]string{"a.html", htmlPart("x\n\xff"), "b.html", htmlPart("\n\x00")},
			[]string{`emails a.html:5: is not valid UTF-8`, `emails b.html:5: holds a NUL byte`},
		},
		"language without a default": {
			[]string{"a.pt.html", htmlPart("x")},
			[]string{`emails a.pt.html: has no default to fall back to; add a.html for all other languages`},
		},
		"language without a part": {
			[]string{"a.html", htmlPart("x"), "a.pt.txt", htmlPart("x")},
			[]string{`emails a.pt.txt: is a text part without an html part in its language`},
		},
		"language with another topic": {
			[]string{"a.html", "---\nSubject: x\nTopic: a\nTag: b\n---\nx", "a.pt.html", "---\nSubject: x\nTag: c\nTopic: b\nStream: s\n---\nx", "a.de.html", "---\nSubject: x\nTopic: a\n---\nx"},
			[]string{`emails a.pt.html:4: Topic must be the same in all languages; set it in a.html`, `emails a.pt.html:5: Stream must be the same in all languages`},
		},
		"language without a subject": {
			[]string{"a.html", htmlPart("x"), "a.pt.html", "x"},
			[]string{`emails a.pt.html:1: has no subject`},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, problems := loadEmails(files(tc.files...), EmailOptions{})
			got := problemTexts(problems)
			if len(got) != len(tc.want) {
				t.Fatalf("got %d problems, want %d:\n%s", len(got), len(tc.want), strings.Join(got, "\n"))
			}
			for i, want := range tc.want {
				if !strings.Contains(got[i], want) {
					t.Errorf("problem %d:\n got %s\nwant %s", i, got[i], want)
				}
			}
		})
	}
}

// What is right must not be refused.
func TestEmailNoProblems(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"traits are free":       `{{ .Traits.anything.at.all }}{{ .Profile.Traits.x }}{{ index .Traits "y" }}`,
		"event":                 `{{ .Event.Name }}{{ .Event.Properties.x }}{{ .Props.y }}{{ .Event.Timestamp.Year }}`,
		"run":                   `{{ .Run.ID }}{{ .Run.Automation }}{{ .Run.StartedAt | date "2 Jan" }}{{ .Run.Results.score.value }}`,
		"now":                   `{{ .Now.Format "2006" }}{{ (.Now.AddDate 0 0 7).Format "2 Jan" }}{{ .Now.Year | printf "%04d" }}`,
		"range over a trait":    `{{ range $i, $item := .Props.items }}{{ $i }} {{ $item.name }} {{ .name }}{{ else }}none{{ end }}`,
		"range over a number":   `{{ range 3 }}{{ . }}{{ end }}{{ range $i := 3 }}{{ $i }}{{ end }}`,
		"break":                 `{{ range .Props.items }}{{ if eq . "x" }}{{ continue }}{{ end }}{{ break }}{{ end }}`,
		"assigned variable":     `{{ $x := "a" }}{{ if .Traits.b }}{{ $x = .Traits.b }}{{ end }}{{ $x.c }}`,
		"dollar":                `{{ with .Run }}{{ $.Email }}{{ end }}`,
		"functions":             `{{ .Traits.a | default "x" | upper | truncate 20 }}{{ and .Traits.a .Traits.b | not }}{{ len .Traits }}`,
		"comparing":             `{{ if and (has .Traits.a) (gt .Traits.a 3) (eq .Traits.b "x" "y") }}x{{ end }}`,
		"comment":               `{{/* {{{ pm:unsubscribe }}} */}}x<!-- y -->`,
		"define inside":         `{{ define "row" }}{{ .name }}{{ end }}{{ range .Props.items }}{{ template "row" . }}{{ end }}`,
		"urlquery at the end":   `<a href="https://x.test/?q={{ .Email | urlquery }}">{{ .Email | html }}</a>`,
		"subject and preheader": `{{ .Subject }}{{ .Preheader }}{{ .Lang }}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, problems := loadEmails(files("a.html", htmlPart(body)), EmailOptions{})
			if len(problems) > 0 {
				t.Error(problemTexts(problems))
			}
		})
	}
}

// Scenario M1: a field that the event type lacks fails at start-up.
func TestEmailSchema(t *testing.T) {
	t.Parallel()
	schema := EmailSchema{
		Traits: []string{"first_name", "company"},
		Properties: map[string][]string{
			"signed_up":       {"plan"},
			"project_created": {"kind", "plan"},
		},
	}
	fsys := files(
		"a.html", htmlPart("{{ .Traits.first_nam }}\n{{ if has .Profile.Traits.compny }}x{{ end }}\n{{ index .Traits \"plan\" | default \"\" }}\n{{ .Props.knd }}"),
		"b.html", htmlPart("{{ .Traits.company }}{{ .Props.plan }}\n{{ .Event.Properties.kind }}"),
	)
	set, problems := loadEmails(fsys, EmailOptions{Schema: schema})
	want := []string{
		`emails a.html:4: .Traits.first_nam: there is no trait "first_nam" in the schema; did you mean "first_name"?`,
		`emails a.html:5: .Profile.Traits.compny: there is no trait "compny" in the schema; did you mean "company"?`,
		`emails a.html:6: index: there is no trait "plan" in the schema; there are first_name, company`,
		`emails a.html:7: .Props.knd: no event in the schema has a property "knd"; did you mean "kind"?`,
	}
	if diff := cmp.Diff(want, problemTexts(problems)); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
	for event, want := range map[string][]string{
		"project_created": {},
		"signed_up":       {`emails b.html:5: the event "signed_up" has no property "kind"; there are plan`},
		"other": {
			`emails b.html:4: reads the property "plan", but the event "other" is not in the schema`,
			`emails b.html:5: reads the property "kind", but the event "other" is not in the schema`,
		},
	} {
		if diff := cmp.Diff(want, problemTexts(set.checkEvent("b", event, schema))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", event, diff)
		}
	}
	if got := set.checkEvent("b", "other", EmailSchema{}); len(got) != 0 {
		t.Errorf("without a schema: %v", got)
	}
}

func TestEmailFuncs(t *testing.T) {
	t.Parallel()
	fsys := files("a.html", htmlPart(`{{ shout .Email 2 }}{{ .Traits.x | shout }}`))
	own := map[string]any{
		"shout": func(s string, n int) string { return s + strings.Repeat("!", n) },
		"upper": strings.ToUpper, "index": strings.Index, "9": strings.ToLower, "value": 3, "two": func() (int, int) { return 1, 2 },
	}
	_, problems := loadEmails(fsys, EmailOptions{Funcs: own})
	want := []string{
		`email function "9": the name must be a letter, then letters, digits and _`,
		`email function "index": the name is taken by a function of fluxly or of Go's templates`,
		`email function "two": must return one value, or a value and an error`,
		`email function "upper": the name is taken by a function of fluxly or of Go's templates`,
		`email function "value": is not a func`,
		`emails a.html:4: shout wants 2 arguments, and has 1 here`,
	}
	if diff := cmp.Diff(want, problemTexts(problems)); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
}

func TestLoadEmailsError(t *testing.T) {
	t.Parallel()
	_, err := LoadEmails(files("a.html", "x", "b.html", htmlPart("{{ .X }}")), EmailOptions{})
	var ce *ConfigError
	if !errors.As(err, &ce) || !errors.Is(err, ErrInvalid) || len(ce.Problems) != 2 {
		t.Errorf("got %v, want a ConfigError with 2 problems", err)
	}
}

// A file system that fails gives problems, not a panic.
func TestEmailFileSystem(t *testing.T) {
	t.Parallel()
	large := files("a.html", htmlPart(strings.Repeat("x", maxTemplateBytes)), "b.html", htmlPart("x"))
	for name, tc := range map[string]struct {
		fsys fs.FS
		want string
	}{
		"nil":        {nil, "emails: the file system is nil"},
		"too large":  {large, "emails a.html: cannot be read: is larger than 1 MiB"},
		"unreadable": {failingFS{files("a.html", htmlPart("x"), "b.html", htmlPart("x"))}, "emails a.html: cannot be read: open a.html: broken disk"},
		"no root":    {os.DirFS(filepath.Join(t.TempDir(), "none")), "emails .: cannot be read: "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, problems := loadEmails(tc.fsys, EmailOptions{})
			if len(problems) != 1 || !strings.HasPrefix(problems[0].String(), tc.want) {
				t.Errorf("got %q, want %q", problemTexts(problems), tc.want)
			}
		})
	}
}

// failingFS cannot open a.html.
type failingFS struct{ fs.FS }

func (f failingFS) Open(name string) (fs.File, error) {
	if name == "a.html" {
		return nil, &fs.PathError{Op: "open", Path: name, Err: errors.New("broken disk")}
	}
	return f.FS.Open(name)
}

// The parser of headers takes anything: each line of the source is in the
// header, reported, or in the body, and the body starts where it is said to.
func FuzzParseHeader(f *testing.F) {
	f.Add("---\nSubject: x\n---\nbody\n")
	f.Add("---\nSubject x\n# y\n\nTag: a: b\n---")
	f.Add("---\nSubject: x")
	f.Add("Subject: x\n\nbody")
	f.Add("---")
	f.Add("")
	f.Fuzz(func(t *testing.T, src string) {
		header, body, first, problems := parseHeader(src)
		if !strings.HasSuffix(src, body) {
			t.Fatalf("body %q is not the end of %q", body, src)
		}
		lines := strings.Count(src[:len(src)-len(body)], "\n") + 1
		if len(problems) == 0 && body != "" && lines != first {
			t.Errorf("body starts on line %d, not %d", lines, first)
		}
		seen := map[string]bool{}
		for _, h := range header {
			if headerKey(h.key) != h.key || h.value == "" || strings.ContainsAny(h.value, "\n") || h.line < 2 || h.line > lines || seen[h.key] {
				t.Errorf("header field %+v", h)
			}
			seen[h.key] = true
		}
	})
}

// Scenario M1: the engine checks each email against the event that starts the
// automation which sends it.
func TestEmailCheckedAgainstTrigger(t *testing.T) {
	t.Parallel()
	cfg := Config{
		Store: NewMemoryStore(), Sender: neverSender{}, Mode: DryRun, From: "Acme <hello@acme.test>",
		Emails: files("a.html", htmlPart("x\n{{ .Props.plan }}"), "b.html", htmlPart("x")),
		EmailOptions: EmailOptions{Schema: EmailSchema{Properties: map[string][]string{
			"signed_up": {"plan"}, "project_created": {"kind"},
		}}},
		Automations: []Automation{
			{Name: "good", Trigger: On("signed_up"), Steps: Steps{Send("a"), Send("b")}},
			{Name: "bad", Trigger: On("project_created"), Steps: Steps{Send("b"), Send("a"), Wait(Day), Send("a")}},
			{Name: "by hand", Trigger: OnChange("plan"), Steps: Steps{Send("a")}},
		},
	}
	_, err := New(cfg)
	var ce *ConfigError
	if !errors.As(err, &ce) {
		t.Fatalf("got %v, want a ConfigError", err)
	}
	var got []string
	for _, p := range ce.Problems {
		if strings.HasPrefix(p.Field, "emails ") {
			got = append(got, p.String())
		}
	}
	want := []string{`automation "bad": emails a.html:5: the event "project_created" has no property "plan"; there are kind`}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
}

// neverSender is a Sender for tests that send nothing.
type neverSender struct{}

func (neverSender) Send(context.Context, *Message) (Receipt, error) {
	return Receipt{}, errors.New("nothing should be sent")
}
