package fluxly_test

import (
	"errors"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/fluxlytest"
)

// emailFiles makes a file system of names and contents in turn.
func emailFiles(nameAndText ...string) fstest.MapFS {
	m := fstest.MapFS{}
	for i := 0; i < len(nameAndText); i += 2 {
		m[nameAndText[i]] = &fstest.MapFile{Data: []byte(nameAndText[i+1])}
	}
	return m
}

const (
	noUnsubscribe = "has no unsubscribe link, which all mail needs that is not transactional; write "
	noLayout      = `; there is no layout at all: if you have one, embed it by "//go:embed all:DIR", as go:embed leaves out files whose names begin with "_"`
	headerA       = "---\nSubject: A\n---\n"
	linkHTML      = `<a href="{{{ pm:unsubscribe }}}">Leave</a>`
)

// engineProblems are what New finds wrong with templates, by field.
func engineProblems(t *testing.T, sender fluxly.Sender, emails fs.FS) map[string]string {
	t.Helper()
	store := fluxly.NewMemoryStore()
	t.Cleanup(func() { _ = store.Close() })
	engine, err := fluxly.New(fluxly.Config{Store: store, Sender: sender, Mode: fluxly.Live, From: "hello@acme.test", Emails: emails})
	if err == nil {
		t.Cleanup(func() { _ = engine.Close() })
		return nil
	}
	ce, ok := errors.AsType[*fluxly.ConfigError](err)
	if !ok {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, p := range ce.Problems {
		found[p.Field] = p.Reason
	}
	return found
}

func TestNewWantsUnsubscribeLinks(t *testing.T) {
	t.Parallel()
	const writeHTML = `<a href="{{{ pm:unsubscribe }}}">Unsubscribe</a> (in a text part {{{ pm:unsubscribe }}}) into it or its layout, or "Transactional: true" into its header`
	const writeText = `{{{ pm:unsubscribe }}} into it or its layout, or "Transactional: true" into its header`
	for name, tt := range map[string]struct {
		emails fstest.MapFS
		want   map[string]string
	}{
		"none, no layout": {emailFiles("a.html", headerA+"<p>Hi</p>"), map[string]string{"emails a.html": noUnsubscribe + writeHTML + noLayout}},
		"none in the layout either": {
			emailFiles("a.html", headerA+"<p>Hi</p>", "_layout.html", `{{ template "content" . }}`),
			map[string]string{"emails a.html": noUnsubscribe + writeHTML},
		},
		"text alone":     {emailFiles("a.txt", headerA+"Hi", "_layout.txt", `{{ template "content" . }}`), map[string]string{"emails a.txt": noUnsubscribe + writeText}},
		"in the html":    {emailFiles("a.html", headerA+linkHTML), nil},
		"in the text":    {emailFiles("a.html", headerA+"<p>Hi</p>", "a.txt", "Hi {{{pm:unsubscribe}}}"), nil},
		"in the layout":  {emailFiles("a.html", headerA+"<p>Hi</p>", "_layout.html", `{{ template "content" . }}`+linkHTML), nil},
		"in a partial":   {emailFiles("a.html", headerA+`{{ template "_foot" . }}`, "_foot.html", linkHTML), nil},
		"through two":    {emailFiles("a.html", headerA+`{{ template "_x" . }}`, "_x.html", `{{ if true }}{{ template "_foot" . }}{{ end }}`, "_foot.html", linkHTML), nil},
		"transactional":  {emailFiles("a.html", "---\nSubject: A\nTransactional: true\n---\n<p>Your password</p>"), nil},
		"another's file": {emailFiles("a.html", headerA+"<p>Hi</p>", "_foot.html", linkHTML), map[string]string{"emails a.html": noUnsubscribe + writeHTML}},
		"a layout that it does not use": {
			emailFiles("a.html", "---\nSubject: A\nLayout: none\n---\n<p>Hi</p>", "_layout.html", `{{ template "content" . }}`+linkHTML),
			map[string]string{"emails a.html": noUnsubscribe + writeHTML},
		},
		"another literal": {emailFiles("a.txt", headerA+"{{{ pm:unsubscribed }}}"), map[string]string{"emails a.txt": noUnsubscribe + writeText + noLayout}},
		"in the subject alone": {
			emailFiles("a.txt", "---\nSubject: {{{ pm:unsubscribe }}}\n---\nHi"), map[string]string{"emails a.txt": noUnsubscribe + writeText + noLayout},
		},
		"in one language of two": {
			emailFiles("a.html", headerA+linkHTML, "a.pt.html", headerA+"<p>Oi</p>"),
			map[string]string{"emails a.pt.html": noUnsubscribe + writeHTML + noLayout},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tt.want, engineProblems(t, &fluxlytest.FakeSender{Stream: "lifecycle"}, tt.emails)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if got := engineProblems(t, &fluxlytest.FakeSender{}, tt.emails); got != nil {
				t.Errorf("without a stream: %v", got)
			}
		})
	}
}

func TestNewRefusesPostmarkLiteralsForARelay(t *testing.T) {
	t.Parallel()
	relay, err := fluxly.NewSMTP(fluxly.SMTPConfig{Host: "mail.acme.test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = relay.Close() })
	emails := emailFiles(
		"a.html", headerA+"<p>Hi</p>\n\n<p>{{{ pm:unsubscribe }}}</p>",
		"b.txt", "---\nSubject: {{{ pm:other }}}\nTransactional: true\n---\nHi",
		"c.html", headerA+"<p>Hi</p>",
		"_layout.html", "<body>\n{{ template \"content\" . }}\n<p>\n"+linkHTML+"</p></body>",
	)
	got := engineProblems(t, relay, emails)
	for field, text := range map[string]string{
		"emails a.html:6":       "unsubscribe page of your own",
		"emails b.txt:2":        "write what it stands for",
		"emails _layout.html:4": "{{{ pm:unsubscribe }}} is replaced by Postmark alone",
	} {
		if !strings.Contains(got[field], text) {
			t.Errorf("%s: %q, want %q", field, got[field], text)
		}
		delete(got, field)
	}
	if len(got) > 0 {
		t.Errorf("more problems: %v", got)
	}
	own := emailFiles("a.html", headerA+`<a href="https://acme.test/leave?id={{ .Profile.ExternalID }}">Leave</a>`)
	if got := engineProblems(t, relay, own); got != nil {
		t.Errorf("a link of one's own: %v", got)
	}
	postmark, err := fluxly.NewPostmarkSMTP(fluxly.PostmarkSMTPConfig{AccessKey: "PM-B-x-1", SecretKey: "s3cret"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = postmark.Close() })
	if got := engineProblems(t, postmark, emails); got != nil {
		t.Errorf("Postmark with an SMTP token: %v", got)
	}
}

func TestRenderNilData(t *testing.T) {
	t.Parallel()
	emails, err := fluxly.LoadEmails(emailFiles("a.txt", headerA+`Hi {{ .Traits.first_name | default "there" }}`), fluxly.EmailOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := emails.Render("a", nil); err != nil || got.Text != "Hi there\n" {
		t.Errorf("%q, %v", got.Text, err)
	}
}

// A stream whose unsubscribe handling is the program's own.
func TestCustomUnsubscribe(t *testing.T) {
	t.Parallel()
	store := fluxly.NewMemoryStore()
	t.Cleanup(func() { _ = store.Close() })
	cfg := fluxly.Config{
		Store: store, Sender: &fluxlytest.FakeSender{Stream: "broadcast"}, Mode: fluxly.DryRun, From: "hello@acme.test",
		Emails: emailFiles("news.txt", "---\nSubject: News\n---\nhttps://acme.test/leave\n"),
	}
	if _, err := fluxly.New(cfg); !errors.Is(err, fluxly.ErrInvalid) {
		t.Errorf("a mail that nobody can leave by: %v", err)
	}
	cfg.CustomUnsubscribe = true
	if _, err := fluxly.New(cfg); err != nil {
		t.Error(err)
	}
}
