package fluxly

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Scenario M7: only own-domain links get tags; query and fragment stay; the
// unsubscribe link is left alone.
func TestEmailUTM(t *testing.T) {
	t.Parallel()
	const tags = "utm_source=fluxly&utm_medium=email&utm_campaign=trial+%26+co&utm_content=a"
	u := UTM{Domains: []string{"Acme.test", "acme.example"}}
	for target, want := range map[string]string{
		"https://acme.test":                          "https://acme.test?" + tags,
		"https://acme.test/":                         "https://acme.test/?" + tags,
		"HTTP://APP.ACME.TEST:8080/a/b":              "HTTP://APP.ACME.TEST:8080/a/b?" + tags,
		"https://acme.example/p?a=1&b=%20#top?x":     "https://acme.example/p?a=1&b=%20&" + tags + "#top?x",
		"https://acme.test/#/spa?x=1":                "https://acme.test/?" + tags + "#/spa?x=1",
		"https://acme.test/?":                        "https://acme.test/?" + tags,
		"https://acme.test/?a&":                      "https://acme.test/?a&" + tags,
		"https://acme.test/?UTM_Source=x&utm_term=y": "https://acme.test/?UTM_Source=x&utm_term=y&" + strings.TrimPrefix(tags, "utm_source=fluxly&"),
		"https://acme.test/?" + tags:                 "",
		"https://other.test/":                        "",
		"https://notacme.test/":                      "",
		"https://acme.test.evil.test/":               "",
		"https://acme.test@evil.test/":               "",
		"https://evil.test\\@acme.test/":             "",
		"https://evil.test/?u=https://acme.test/":    "",
		"mailto:help@acme.test":                      "",
		"/relative?x=1":                              "",
		"#top":                                       "",
		"":                                           "",
		"ftp://acme.test/":                           "",
		"{{{ pm:unsubscribe }}}":                     "",
		"https://acme.test/{{{ pm:unsubscribe }}}":   "",
	} {
		if want == "" {
			want = target
		}
		html, text := u.apply(`<a href="`+strings.ReplaceAll(target, "&", "&amp;")+`">x</a>`, "", &EmailData{Email: "a", Run: EmailRun{Automation: "trial & co"}})
		if diff := cmp.Diff(`<a href="`+strings.ReplaceAll(want, "&", "&amp;")+`">x</a>`, html); diff != "" || text != "" {
			t.Errorf("%s (-want +got):\n%s", target, diff)
		}
	}
}

func TestEmailUTMParts(t *testing.T) {
	t.Parallel()
	set, problems := loadEmails(files(
		"a.html", htmlPart(`<a href="https://acme.test/x">Go</a> <a href="{{{ pm:unsubscribe }}}">out</a>`),
		"b.html", htmlPart("x"), "b.txt", "Go to https://acme.test/x.\n{{{ pm:unsubscribe }}}",
		"c.html", "---\nSubject: x\nUTM: no\n---\n<a href='https://acme.test/x'>Go</a>",
		"c.pt.html", "---\nSubject: x\n---\n<a href='https://acme.test/x'>Ir</a>",
	), EmailOptions{UTM: UTM{Domains: []string{"acme.test"}, Source: "s", Medium: "m", Campaign: "k", Content: "c"}})
	if len(problems) > 0 {
		t.Fatal(problemTexts(problems))
	}
	const tags = "utm_source=s&utm_medium=m&utm_campaign=k&utm_content=c"
	if want, got := "Go <https://acme.test/x?"+tags+"> out: {{{ pm:unsubscribe }}}\n", render(t, set, "a", ann()).Text; got != want {
		t.Errorf("derived text: got %q, want %q", got, want)
	}
	if want, got := "Go to https://acme.test/x?"+tags+".\n{{{ pm:unsubscribe }}}\n", render(t, set, "b", ann()).Text; got != want {
		t.Errorf("written text: got %q, want %q", got, want)
	}
	for _, d := range []*EmailData{ann(), {Traits: Traits{"locale": "pt"}}} {
		if got := render(t, set, "c", d).HTML; strings.Contains(got, "utm_") {
			t.Errorf("UTM: no, but %q", got)
		}
	}
	_, problems = loadEmails(files(), EmailOptions{UTM: UTM{Domains: []string{"https://acme.test", "", ".acme.test", "acme.test"}}})
	if len(problems) != 3 {
		t.Errorf("got %q, want 3 problems", problemTexts(problems))
	}
}
