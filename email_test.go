package fluxly

import (
	"bytes"
	"encoding/json"
	"errors"
	"html"
	"io/fs"
	"math"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

// quickstartEmails are the templates of the example, which are tested here.
func quickstartEmails(t testing.TB) *emailSet {
	t.Helper()
	set, problems := loadEmails(os.DirFS("examples/quickstart/emails"), EmailOptions{})
	for _, p := range problems {
		t.Errorf("%s", p)
	}
	if t.Failed() {
		t.FailNow()
	}
	return set
}

// ann is a person on trial.
func ann() *EmailData {
	return &EmailData{
		Profile: EmailProfile{
			ID: "usr_1", ExternalID: "user_42",
			Traits: Traits{
				"email": "ann@acme.test", "first_name": "Ann", "company": "Brown & Sons",
				"trial_ends_at": "2026-05-17T09:00:00Z",
			},
		},
		Event: EmailEvent{
			Name: "signed_up", Properties: Properties{"plan": "trial"},
			Timestamp: time.Date(2026, 5, 3, 9, 0, 0, 0, time.UTC),
		},
		Run: EmailRun{ID: "run_1", Automation: "trial-onboarding", StartedAt: time.Date(2026, 5, 3, 9, 0, 0, 0, time.UTC)},
		Now: time.Date(2026, 5, 14, 9, 0, 0, 0, time.UTC),
	}
}

// mailText is one mail as it stands in a golden file.
func mailText(r rendered) string {
	return "Subject: " + r.Subject + "\n\n=== text ===\n" + r.Text + "\n=== html ===\n" + r.HTML
}

// Scenario M2, first half: each mail of the example is a golden file, so that
// a changed layout shows in all of them.
func TestEmailGolden(t *testing.T) {
	t.Parallel()
	set := quickstartEmails(t)
	want := []string{"extend-trial", "first-project", "first-project-nudge", "upgrade", "welcome"}
	if diff := cmp.Diff(want, set.names()); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
	for _, name := range set.names() {
		r, err := set.render(name, ann())
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		wantGolden(t, "emails/"+name+".golden", []byte(mailText(r)))
	}
}

// Scenario M2: changing the layout changes all five mails, in both parts.
func TestEmailLayoutChangesAll(t *testing.T) {
	t.Parallel()
	dir := os.DirFS("examples/quickstart/emails")
	changed := fstest.MapFS{}
	err := fs.WalkDir(dir, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(dir, p)
		if strings.HasPrefix(p, "_layout.") {
			data = bytes.ReplaceAll(data, []byte("14 Harbour Street"), []byte("3 New Road"))
		}
		changed[p] = &fstest.MapFile{Data: data}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	before := quickstartEmails(t)
	after, problems := loadEmails(changed, EmailOptions{})
	if len(problems) > 0 {
		t.Fatal(problemTexts(problems))
	}
	for _, name := range before.names() {
		a, errA := before.render(name, ann())
		b, errB := after.render(name, ann())
		if errA != nil || errB != nil {
			t.Fatal(errA, errB)
		}
		for part, pair := range map[string][2]string{"html": {a.HTML, b.HTML}, "text": {a.Text, b.Text}} {
			if want := strings.ReplaceAll(pair[0], "14 Harbour Street", "3 New Road"); pair[1] == pair[0] || pair[1] != want {
				t.Errorf("%s: the new layout does not show in the %s part", name, part)
			}
		}
	}
}

// load loads one email "a" of an html part.
func load(t testing.TB, pairs ...string) *emailSet {
	t.Helper()
	set, problems := loadEmails(files(pairs...), EmailOptions{})
	if len(problems) > 0 {
		t.Fatal(problemTexts(problems))
	}
	return set
}

func render(t testing.TB, set *emailSet, name string, data *EmailData) rendered {
	t.Helper()
	r, err := set.render(name, data)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Scenario M1, second half: a name that holds <script> comes out escaped, and
// one that holds line ends cannot write a header.
func TestEmailHostileValues(t *testing.T) {
	t.Parallel()
	set := load(t,
		"a.html", "---\nSubject: Hi {{ .Traits.name }}!\nPreheader: {{ .Traits.name }}\n---\n"+
			`{{ .Preheader }}<title>{{ .Subject }}</title><p title="{{ .Traits.name }}">{{ .Traits.name }}</p><a href="https://x.test/?q={{ .Traits.name }}">x</a>{{{ pm:unsubscribe }}}`,
		"a.txt", "{{ .Traits.name }} {{{ pm:unsubscribe }}}")
	const name = "<script>alert(1)</script>\r\nBcc: \"x\"@evil.test\u2028\x00"
	r := render(t, set, "a", &EmailData{Traits: Traits{"name": name}})
	if want := `Hi <script>alert(1)</script> Bcc: "x"@evil.test !`; r.Subject != want {
		t.Errorf("subject %q, want %q", r.Subject, want)
	}
	if strings.Contains(r.HTML, "<script") || !strings.Contains(r.HTML, "&lt;script&gt;") || strings.Contains(r.HTML, `q=<`) {
		t.Errorf("html is not escaped: %s", r.HTML)
	}
	if !strings.HasPrefix(r.Text, "<script>") || !strings.Contains(r.Text, "{{{ pm:unsubscribe }}}") {
		t.Errorf("text: %q", r.Text)
	}
}

// Postmark's literals come through byte for byte wherever they stand.
func TestEmailPostmarkLiterals(t *testing.T) {
	t.Parallel()
	body := `<p>{{{ pm:unsubscribe }}} {{{pm:unsubscribe}}} {{{  pm:unsubscribe	}}}</p>
<a href="{{{ pm:unsubscribe }}}">out</a> <a href='{{{pm:unsubscribe}}}'>out</a> <a href={{{pm:unsubscribe}}}>out</a>
<a href="{{{ pm:unsubscribe_url }}}" title="{{ .Email }}">other</a>{{/* {{{ pm:x }}} */}}
{{- range 2 }}{{{ pm:in_range }}}{{ end }}`
	set := load(t, "a.html", htmlPart(body), "a.txt", "{{{pm:unsubscribe}}} <{{{ pm:unsubscribe }}}>{{- if .Email }}{{{pm:x.y}}}{{ end }}",
		"b.html", htmlPart(body))
	r := render(t, set, "a", &EmailData{})
	const html = `<p>{{{ pm:unsubscribe }}} {{{ pm:unsubscribe }}} {{{ pm:unsubscribe }}}</p>
<a href="{{{ pm:unsubscribe }}}">out</a> <a href='{{{ pm:unsubscribe }}}'>out</a> <a href={{{ pm:unsubscribe }}}>out</a>
<a href="{{{ pm:unsubscribe_url }}}" title="a">other</a>{{{ pm:in_range }}}{{{ pm:in_range }}}
`
	if diff := cmp.Diff(html, r.HTML); diff != "" {
		t.Errorf("html (-want +got):\n%s", diff)
	}
	if want := "{{{ pm:unsubscribe }}} <{{{ pm:unsubscribe }}}>{{{ pm:x.y }}}\n"; r.Text != want {
		t.Errorf("text %q, want %q", r.Text, want)
	}
	derived := render(t, set, "b", &EmailData{}).Text
	for _, want := range []string{"out: {{{ pm:unsubscribe }}}", "other: {{{ pm:unsubscribe_url }}}", "{{{ pm:in_range }}}{{{ pm:in_range }}}"} {
		if !strings.Contains(derived, want) {
			t.Errorf("derived text lacks %q:\n%s", want, derived)
		}
	}
}

func TestEmailConditionalComments(t *testing.T) {
	t.Parallel()
	set := load(t, "a.html", htmlPart(`<!-- dropped --><!--[if mso]><table width="{{ .Props.width }}"><![endif]-->
<!--[if !mso]><!--><div title="{{ .Props.name }}"><!--<![endif]--><!--[if (gte mso 9)|(IE)]>x<![endif]-->`))
	r := render(t, set, "a", &EmailData{Props: Properties{"width": int64(600), "name": `"><!--`}})
	want := `<!--[if mso]><table width="600"><![endif]-->
<!--[if !mso]><!--><div title="&#34;&gt;&lt;!--"><!--<![endif]--><!--[if (gte mso 9)|(IE)]>x<![endif]-->
`
	if diff := cmp.Diff(want, r.HTML); diff != "" {
		t.Errorf("html (-want +got):\n%s", diff)
	}
}

// data of all kinds that values can have.
func kinds() *EmailData {
	return &EmailData{
		Traits: Traits{
			"int": int64(1_000_000), "max": int64(math.MaxInt64), "float": 1e6, "small": 1e-7, "price": 49.5, "big": json.Number("123456789012345678901234567890"),
			"exp": json.Number("12.5e3"), "yes": true, "no": false, "nothing": nil, "empty": "", "name": "ann LEE-smith",
			"list": []any{"a", int64(2), 2.5}, "map": map[string]any{"city": "Bristol", "deep": map[string]any{"x": int64(1)}},
			"when": "2026-05-17T09:30:00+02:00", "day": "2026-05-17", "bad": "tomorrow", "zero": int64(0),
		},
		Now: time.Date(2026, 5, 14, 22, 0, 0, 0, time.UTC),
	}
}

func TestEmailValues(t *testing.T) {
	t.Parallel()
	for template, want := range map[string]string{
		`{{ .Traits.int }} {{ .Traits.max }} {{ .Traits.float }} {{ .Traits.small }} {{ .Traits.price }}`: "1000000 9223372036854775807 1000000 0.0000001 49.5",
		`{{ .Traits.big }} {{ .Traits.exp }} {{ .Traits.yes }} {{ .Traits.no }} {{ .Traits.zero }}`:       "123456789012345678901234567890 12500 true false 0",
		`{{ .Traits.map.city }} {{ .Traits.map.deep.x }} {{ index .Traits.list 1 }}`:                      "Bristol 1 2",
		`{{ .Now }} {{ .Now.Year }} {{ len .Traits.list }} {{ 1.5 }} {{ 3 }} {{ "x" }} {{ true }}`:        "2026-05-14T22:00:00Z 2026 3 1.5 3 x true",
		// what may be missing
		`{{ .Traits.x | default "there" }} {{ default "there" .Traits.x }} {{ .Traits.x.y.z | upper | default "U" }}`:                                        "there there U",
		`{{ .Traits.nothing | default "n" }} {{ .Traits.empty | default "e" }} {{ .Traits.zero | default 5 }} {{ .Traits.no | default true }}`:               "n e 0 false",
		`{{ (.Traits.x) | default "p" }} {{ default "p" (.Traits.x) }} {{ $t := .Traits }}{{ $t.x | default "v" }} {{ (index .Traits "x") | default "i" }}`:  "p p v i",
		`{{ if .Traits.x }}x{{ else if .Traits.map.nope }}y{{ else }}z{{ end }} {{ with .Traits.x }}x{{ else }}z{{ end }}`:                                   "z z",
		`{{ if has .Traits.x }}x{{ else }}z{{ end }} {{ if and (has .Traits.name) (not .Traits.x) }}x{{ end }} {{ .Traits.x | has }} {{ has .Traits.zero }}`: "z x false true",
		`{{ if or .Traits.x .Traits.name }}x{{ end }} {{ with .Traits.name }}{{ . }}{{ end }} {{ .Traits.map.city.x | default "deep" }}`:                     "x ann LEE-smith deep",
		`{{ .Event.Name | default "no event" }} {{ .Now.Year | default 1 }}`:                                                                                 "no event 2026",
		// functions
		`{{ .Traits.name | upper }} {{ .Traits.name | lower | title }} {{ .Traits.name | truncate 6 }} {{ truncate 50 .Traits.name }} {{ " x " | trim }}`:                        "ANN LEE-SMITH Ann Lee-Smith ann L… ann LEE-smith x",
		`{{ .Traits.int | number }} {{ .Traits.price | number 2 }} {{ number -1234567.891 }} {{ .Traits.big | number }} {{ "1234.5" | number }} {{ 999 | number }}`:              "1,000,000 49.50 -1,234,567.891 123,456,789,012,345,678,901,234,567,890 1,234.5 999",
		`{{ .Traits.price | money "USD" }} {{ -5 | money "EUR" }} {{ 1234.5 | money "JPY" }} {{ .Traits.price | money "CHF" }} {{ 4950 | cents "GBP" }} {{ 500 | cents "JPY" }}`: "$49.50 -€5.00 ¥1,235 49.50\u00a0CHF £49.50 ¥500",
		`{{ .Traits.when | date "Mon 2 Jan 15:04" }} {{ .Traits.day | date "2 January" }} {{ .Now | in "Asia/Tokyo" | date "2 Jan 15:04" }}`:                                     "Sun 17 May 09:30 17 May 15 May 07:00",
		`{{ .Traits.x | date "2 Jan" | default "soon" }} {{ .Traits.when | daysUntil .Now }} {{ .Traits.day | daysUntil .Now }}`:                                                 "soon 2 3",
		`{{ 1 | plural "day" "days" }} {{ 0 | plural "day" "days" }} {{ .Traits.int | plural "day" "days" }} {{ 1.5 | plural "day" "days" }}`:                                    "1 day 0 days 1,000,000 days 1.5 days",
		`{{ .Traits.list | join ", " }} {{ print .Traits.int "/" .Traits.price }} {{ printf "%s has %d" .Traits.name .Traits.int }} {{ printf "%.2f" .Traits.price }}`:           "a, 2, 2.5 1000000/49.5 ann LEE-smith has 1000000 49.50",
		// comparing: by value across the kinds of numbers
		`{{ eq .Traits.int 1000000 }} {{ eq .Traits.float 1000000 }} {{ eq .Traits.int .Traits.float }} {{ gt .Traits.price 49 }} {{ lt .Traits.price 49.5 }} {{ le .Traits.price 49.5 }}`:     "true true true true false true",
		`{{ eq .Traits.name "x" "ann LEE-smith" }} {{ ne .Traits.name 3 }} {{ eq .Traits.yes true }} {{ gt .Traits.when .Now }} {{ ge .Traits.max .Traits.big }} {{ eq .Traits.nothing nil }}`: "true true true true false true",
	} {
		t.Run(template, func(t *testing.T) {
			t.Parallel()
			set := load(t, "a.txt", htmlPart(template))
			if got := render(t, set, "a", kinds()).Text; got != want+"\n" {
				t.Errorf("got  %q\nwant %q", got, want)
			}
		})
	}
}

// What a person lacks, or has in a form that cannot be shown, is a
// TemplateError that says where.
func TestEmailTemplateError(t *testing.T) {
	t.Parallel()
	for template, want := range map[string]TemplateError{
		"\n{{ .Traits.first_name }}":                                         {Line: 5, Field: ".Traits.first_name", Reason: "is missing for this person"},
		"{{ .Traits.nothing }}":                                              {Line: 4, Field: ".Traits.nothing", Reason: "has no value here"},
		"{{ .Traits.x | upper }}":                                            {Line: 4, Field: ".Traits.x", Reason: "is missing for this person"},
		"{{ .Traits.nothing | upper }}":                                      {Line: 4, Field: ".Traits.nothing | upper", Reason: "has no value here"},
		"{{ .Traits.map.nope }}":                                             {Line: 4, Field: ".Traits.map.nope", Reason: "is missing for this person"},
		"{{ .Traits.name.first }}":                                           {Line: 4, Field: ".Traits.name.first", Reason: "inside of something that is no group of fields"},
		"{{ .Traits.nothing.first }}":                                        {Line: 4, Field: ".Traits.nothing.first", Reason: "inside of something that is null"},
		"{{ .Traits.list }}":                                                 {Line: 4, Field: ".Traits.list", Reason: "is a list and cannot be printed as a whole"},
		"{{ .Traits.map }}":                                                  {Line: 4, Field: ".Traits.map", Reason: "is a map and cannot be printed as a whole"},
		"{{ .Traits.bad | date \"2 Jan\" }}":                                 {Line: 4, Field: `date "2 Jan"`, Reason: `"tomorrow" is not a time`},
		"{{ .Traits.name | number }}":                                        {Line: 4, Field: "number", Reason: "is not a number"},
		"{{ if gt .Traits.x 3 }}x{{ end }}":                                  {Line: 4, Field: ".Traits.x", Reason: "is missing for this person"},
		"{{ if gt .Traits.name 3 }}x{{ end }}":                               {Line: 4, Field: "gt .Traits.name 3", Reason: "cannot compare a text with a number"},
		"{{ range .Traits.x }}x{{ end }}":                                    {Line: 4, Field: ".Traits.x", Reason: "is missing for this person"},
		"{{ range .Traits.name }}x{{ end }}":                                 {Line: 4, Field: ".Traits.name", Reason: "range can't iterate over"},
		"{{ .Traits.name | printf \"%d\" }}":                                 {Line: 4, Field: `printf "%d"`, Reason: "does not fit its arguments"},
		"{{ template \"p\" . }}{{ define \"p\" }}\n{{ .Traits.x }}{{ end }}": {Line: 5, Field: ".Traits.x", Reason: "is missing for this person"},
		"{{ range 2000000 }}{{ end }}":                                       {Reason: "takes more than 1000000 steps"},
		"{{ range 9223372036854775807 }}{{ range 1000 }}{{ end }}{{ end }}":  {Reason: "takes more than 1000000 steps"},
		"{{ range 400000 }}0123456789abcd{{ end }}":                          {Reason: "makes more than 5 MB"},
		"{{ $x := \"ab\" }}{{ range 60 }}{{ $x = print $x $x }}{{ end }}":    {Line: 4, Field: "print $x $x", Reason: "the text grows beyond 1 MiB"},
	} {
		t.Run(template, func(t *testing.T) {
			t.Parallel()
			for _, part := range []string{"html", "text"} {
				file := "a." + map[string]string{"html": "html", "text": "txt"}[part]
				_, err := load(t, file, htmlPart(template)).render("a", kinds())
				var got *TemplateError
				if !errors.As(err, &got) {
					t.Fatalf("%s: got %v, want a TemplateError", part, err)
				}
				if got.Email != "a" || got.Part != part || got.File != file || got.Line != want.Line || got.Field != want.Field || !strings.Contains(got.Reason, want.Reason) {
					t.Errorf("%s:\n got %+v\nwant %+v", part, *got, want)
				}
			}
		})
	}
}

func TestEmailTemplateErrorParts(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		files []string
		want  string
	}{
		"subject":       {[]string{"a.html", "---\nTag: x\nSubject: {{ .Traits.x }}\n---\ny"}, `email "a": subject: a.html:3: .Traits.x: is missing for this person`},
		"empty subject": {[]string{"a.html", "---\nTag: x\nSubject: {{ .Traits.x | default \" \" }}\n---\ny"}, `email "a": subject: a.html:3: is empty for this person`},
		"long subject":  {[]string{"a.html", "---\nSubject: {{ range 700 }}abc{{ end }}\n---\ny"}, `email "a": subject: a.html:2: has 2100 characters for this person`},
		"preheader":     {[]string{"a.html", "---\nSubject: x\nPreheader: {{ .Traits.x }}\n---\n{{ .Preheader }}"}, `email "a": preheader: a.html:3: .Traits.x: is missing`},
		"layout":        {[]string{"a.html", htmlPart("x"), "_layout.html", "{{ template \"content\" . }}\n{{ .Traits.x }}"}, `email "a": html: _layout.html:2: .Traits.x: is missing`},
		"unsafe link":   {[]string{"a.html", htmlPart(`<a href="{{ .Traits.link }}">x</a>`)}, `email "a": html: a.html: a value is not safe where it stands`},
		"no email":      {[]string{"ab.html", htmlPart("x")}, `email "a": not found; add a.html to the templates; did you mean "ab"?`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := load(t, tc.files...).render("a", &EmailData{Traits: Traits{"link": "javascript:alert(1)"}})
			if err == nil || !strings.HasPrefix(err.Error(), tc.want) {
				t.Errorf("got  %v\nwant %s", err, tc.want)
			}
			if got := errors.Is(err, ErrNotFound); got != (name == "no email") {
				t.Errorf("errors.Is(err, ErrNotFound) = %v", got)
			}
		})
	}
}

func TestEmailLayouts(t *testing.T) {
	t.Parallel()
	set := load(t,
		"_layout.html", `[{{ template "content" . }}|{{ block "foot" . }}foot{{ end }}|{{ template "_sign" }}]`,
		"_wide.html", `<wide>{{ template "content" . }}</wide>`,
		"_sign.html", "root",
		"_layout.txt", "T({{ template \"content\" . }})",
		"a.html", htmlPart("a"),
		"b.html", htmlPart(`{{ define "foot" }}own {{ .Email }}{{ end }}b`),
		"c.html", "---\nSubject: x\nLayout: none\n---\nc",
		"d.html", "---\nSubject: x\nLayout: wide\n---\nd",
		"e.html", htmlPart(`{{ define "content" }}e{{ end }}`),
		"news/f.html", htmlPart("f"),
		"news/f.txt", "text",
		"news/_sign.html", "news",
		"news/deep/g.html", htmlPart("g"),
		"news/deep/_layout.html", `deep {{ template "content" . }} {{ template "_sign" }}`,
	)
	for name, want := range map[string]string{
		"a": "[a|foot|root]", "b": "[b|own b|root]", "c": "c", "d": "<wide>d</wide>", "e": "[e|foot|root]",
		"f": "[f|foot|news]", "g": "deep g news",
	} {
		if got := render(t, set, name, &EmailData{}).HTML; got != want+"\n" {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	if got := render(t, set, "f", &EmailData{}).Text; got != "T(text)\n" {
		t.Errorf("text of f: %q", got)
	}
}

func TestEmailSettings(t *testing.T) {
	t.Parallel()
	set := load(t,
		"a.html", "---\nSubject: x\nfrom: Ann Lee <ann@acme.test>\nREPLY-TO: help@acme.test\nStream: news-1\nTransactional: yes\nTopic: news\nTag: my tag: 1\nTrack-Opens: false\nTrack-Links: htmlonly\n---\nx",
		"b.html", "\ufeff---\r\nSubject: x\r\nTag: t\r\n---\r\nhtml\r\n", "b.txt", "---\nStream: s\nTag: t\n---\ntext",
		"c.html", htmlPart("x"))
	for name, want := range map[string]EmailSettings{
		"a": {
			From: "Ann Lee <ann@acme.test>", ReplyTo: "help@acme.test", Stream: "news-1", Topic: "news", Tag: "my tag: 1",
			Transactional: true, TrackOpens: OpensUntracked, TrackLinks: LinksHTMLOnly,
		},
		"b":    {Stream: "s", Tag: "t"},
		"c":    {},
		"none": {},
	} {
		if diff := cmp.Diff(want, set.settings(name)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if set.has(name) {
			if diff := cmp.Diff(want, render(t, set, name, &EmailData{}).EmailSettings); diff != "" {
				t.Errorf("%s rendered (-want +got):\n%s", name, diff)
			}
		}
	}
	if got := render(t, set, "b", &EmailData{}); got.HTML != "html\n" || got.Text != "text\n" {
		t.Errorf("b: %+v", got)
	}
}

// Scenario M6: pt-BR falls to pt, then to the default.
func TestEmailLanguages(t *testing.T) {
	t.Parallel()
	set := load(t,
		"_layout.html", "{{ .Lang }}/{{ template \"content\" . }}/{{ template \"_bye\" }}",
		"_bye.html", "bye", "_bye.pt.html", "tchau",
		"a.html", "---\nSubject: Hello\nTag: hi\nTopic: news\n---\nhello",
		"a.pt.html", "---\nSubject: Olá\nTag: oi\n---\nolá",
		"a.pt-BR.html", "---\nSubject: Oi\n---\noi",
		"a.zh-Hant.html", "---\nSubject: Nihao\n---\nnihao")
	for locale, want := range map[string]string{
		"": "Hello /hello/bye", "en": "Hello /hello/bye", "fr-FR": "Hello /hello/bye", "ptx": "Hello /hello/bye",
		"pt": "Olá pt/olá/tchau", "pt-PT": "Olá pt/olá/tchau", "PT_ao.UTF-8": "Olá pt/olá/tchau",
		"pt-BR": "Oi pt-BR/oi/tchau", "pt_br": "Oi pt-BR/oi/tchau", "pt-br-x": "Oi pt-BR/oi/tchau",
		"zh": "Hello /hello/bye", "zh-Hant-TW": "Nihao zh-Hant/nihao/bye",
	} {
		for _, traits := range []Traits{{"locale": locale}, {"language": locale}, {"locale": locale, "language": "zh-Hant"}} {
			if locale == "" && len(traits) == 2 {
				continue
			}
			r := render(t, set, "a", &EmailData{Traits: traits})
			if got := strings.TrimSpace(r.Subject + " " + r.HTML); got != want {
				t.Errorf("%v: got %q, want %q", traits, got, want)
			}
		}
	}
	got := render(t, set, "a", &EmailData{Traits: Traits{"locale": "pt-BR"}}).EmailSettings
	if diff := cmp.Diff(EmailSettings{Tag: "hi", Topic: "news", Lang: "pt-BR"}, got); diff != "" {
		t.Errorf("settings of pt-BR (-want +got):\n%s", diff)
	}
	if got := render(t, set, "a", &EmailData{Traits: Traits{"locale": int64(3)}}).Subject; got != "Hello" {
		t.Errorf("a locale that is no text: %q", got)
	}
}

// Scenario M4: derived text holds every link target and the unsubscribe line;
// hand-written text wins.
func TestEmailTextPart(t *testing.T) {
	t.Parallel()
	set := quickstartEmails(t)
	href := regexp.MustCompile(`href="([^"]+)"`)
	for _, name := range []string{"first-project", "upgrade"} {
		r := render(t, set, name, ann())
		links := href.FindAllStringSubmatch(r.HTML, -1)
		if len(links) < 3 {
			t.Fatalf("%s has %d links", name, len(links))
		}
		for _, l := range links {
			if target := html.UnescapeString(l[1]); !strings.Contains(r.Text, target) {
				t.Errorf("%s: the text lacks %s:\n%s", name, target, r.Text)
			}
		}
		if !strings.Contains(r.Text, "\nUnsubscribe from these mails: {{{ pm:unsubscribe }}}\n") {
			t.Errorf("%s: no unsubscribe line:\n%s", name, r.Text)
		}
		if strings.Contains(r.Text, "Preheader") || strings.Contains(r.Text, "@media") {
			t.Errorf("%s: text holds what is not shown:\n%s", name, r.Text)
		}
	}
	written := load(t, "a.html", htmlPart("<p>html</p>"), "a.txt", "by hand")
	if got := render(t, written, "a", ann()).Text; got != "by hand\n" {
		t.Errorf("hand-written text gave %q", got)
	}
}

// Rendering is pure: from many goroutines, with the same data, the same bytes,
// and the data stays as it was.
func TestEmailRenderPure(t *testing.T) {
	t.Parallel()
	set := quickstartEmails(t)
	want := map[string]rendered{}
	for _, name := range set.names() {
		want[name] = render(t, set, name, ann())
	}
	data := ann()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for _, name := range set.names() {
				got, err := set.render(name, data)
				if diff := cmp.Diff(want[name], got); err != nil || diff != "" {
					t.Errorf("%s: %v (-want +got):\n%s", name, err, diff)
				}
			}
		})
	}
	wg.Wait()
	if diff := cmp.Diff(ann(), data); diff != "" {
		t.Errorf("data changed (-before +after):\n%s", diff)
	}
}

// Whatever the traits hold, no element of theirs reaches the html, no line end
// the subject, and the unsubscribe link stays whole.
func FuzzRenderHostile(f *testing.F) {
	set, problems := loadEmails(files(
		"a.html", "---\nSubject: {{ .Traits.a }} and {{ .Traits.b | default \"x\" }}\nPreheader: {{ .Traits.b }}\n---\n"+
			`<p title="{{ .Traits.a }}" style="color:{{ .Traits.color | default "red" }}">{{ .Preheader }} {{ .Traits.a | title }} {{ truncate 9 .Traits.b }}</p>`+
			`<a href="https://x.test/{{ .Traits.a }}?q={{ .Traits.b }}#{{ .Traits.a }}">x</a><img alt='{{ .Traits.b }}'>`+
			`<!--[if mso]>{{ .Traits.a }}<![endif]--><title>{{ .Subject }}</title><a href="{{{ pm:unsubscribe }}}">Unsubscribe</a>`),
		EmailOptions{})
	if len(problems) > 0 {
		f.Fatal(problemTexts(problems))
	}
	f.Add("Ann", "Lee")
	f.Add("<script>alert(1)</script>", "\r\nBcc: x@evil.test")
	f.Add("\"'>{{ . }}{{{ pm:unsubscribe }}}", "--><!--[if mso]>")
	f.Add("\x00\xff\u2028\u0085", "javascript:alert(1)")
	f.Add("</title><script>", "\u202e%0d%0a")
	f.Fuzz(func(t *testing.T, a, b string) {
		r, err := set.render("a", &EmailData{Traits: Traits{"a": a, "b": b}})
		var te *TemplateError
		if errors.As(err, &te) {
			if strings.Contains(a+b, unsafeValue) || te.Part == "subject" || te.Part == "preheader" {
				return // it says so itself, or is too long or empty
			}
		}
		if err != nil {
			t.Fatalf("%q %q: %v", a, b, err)
		}
		if strings.ContainsFunc(r.Subject, unicode.IsControl) || !utf8.ValidString(r.Subject) {
			t.Errorf("subject %q", r.Subject)
		}
		if got := regexp.MustCompile(`<[^!][^>]*>`).FindAllString(r.HTML, -1); len(got) != 9 {
			t.Errorf("%d tags in %s", len(got), r.HTML)
		}
		if strings.Contains(strings.ToLower(r.HTML), "<script") {
			t.Errorf("script in %s", r.HTML)
		}
		if n := strings.Count(r.HTML, "<!--"); n != 1 {
			t.Errorf("%d comments in %s", n, r.HTML)
		}
		if !strings.Contains(r.HTML, `<a href="{{{ pm:unsubscribe }}}">Unsubscribe</a>`) || !strings.HasSuffix(r.Text, "Unsubscribe: {{{ pm:unsubscribe }}}\n") {
			t.Errorf("unsubscribe is not whole in\n%s\n%s", r.HTML, r.Text)
		}
		if !utf8.ValidString(r.HTML) || !utf8.ValidString(r.Text) {
			t.Error("not UTF-8")
		}
	})
}

func BenchmarkRender(b *testing.B) {
	set := quickstartEmails(b)
	data := ann()
	for name, label := range map[string]string{"welcome": "written text", "upgrade": "derived text"} {
		b.Run(label, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				r, err := set.render(name, data)
				if err != nil {
					b.Fatal(err)
				}
				b.SetBytes(int64(len(r.HTML) + len(r.Text)))
			}
		})
	}
}

func BenchmarkLoadEmails(b *testing.B) {
	for b.Loop() {
		quickstartEmails(b)
	}
}
