package fluxly_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-message/mail"
	"github.com/google/go-cmp/cmp"

	"github.com/getfluxly/fluxly"
)

// A real Postfix, which .ci/run starts: STARTTLS with an authority of its own,
// login by SASL, delivery into a Maildir.
type postfix struct {
	config  fluxly.SMTPConfig
	rcpt    string
	maildir string
}

func needPostfix(t *testing.T) *postfix {
	t.Helper()
	env := func(name string) string {
		v := os.Getenv("FLUXLY_TEST_SMTP_" + name)
		if v == "" {
			t.Skipf("FLUXLY_TEST_SMTP_%s is not set: there is no Postfix to send to; .ci/run starts one", name)
		}
		return v
	}
	host, port := splitAddr(t, env("ADDR"))
	pem, err := os.ReadFile(env("CA"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		t.Fatalf("no certificate in %s", env("CA"))
	}
	return &postfix{
		config: fluxly.SMTPConfig{Host: host, Port: port, RootCAs: roots, Username: env("USER"), Password: env("PASSWORD")},
		rcpt:   env("RCPT"), maildir: env("MAILDIR"),
	}
}

func (p *postfix) sender(t *testing.T, change func(*fluxly.SMTPConfig)) *fluxly.SMTPSender {
	t.Helper()
	cfg := p.config
	if change != nil {
		change(&cfg)
	}
	s, err := fluxly.NewSMTP(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// landed waits for the mails whose Message-ID ends in mark.
func (p *postfix) landed(t *testing.T, mark string, n int) [][]byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		var got [][]byte
		files, err := filepath.Glob(filepath.Join(p.maildir, "new", "*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			data, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			head, _, _ := bytes.Cut(data, []byte("\n\n"))
			if bytes.Contains(head, []byte(mark+">")) {
				got = append(got, data)
			}
		}
		if len(got) >= n {
			return got
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%d of %d mails landed in %s", len(got), n, p.maildir)
		}
	}
}

func TestPostfixTakesMailAsItWasMeant(t *testing.T) {
	t.Parallel()
	p := needPostfix(t)
	s := p.sender(t, nil)
	m := &fluxly.Message{
		MessageID: fmt.Sprintf("%d.hard@acme.test", time.Now().UnixNano()),
		Date:      time.Date(2026, 3, 1, 9, 30, 0, 0, time.FixedZone("", 5*3600+1800)),
		From:      `"Ärzte & Söhne, \"GmbH\"" <hello@acme.test>`,
		To:        `"Zoë 🎉 (Test)" <` + p.rcpt + ">",
		ReplyTo:   "support@acme.test",
		Subject:   "Grüße 🎉 " + strings.Repeat("日本語のとても長い件名 ", 20) + "end",
		Text:      ".\n..\n.leading\n\nFrom the top\nGrüße, 日本語\n" + strings.Repeat("long ", 400) + "\ntrailing blanks  \t\n=\n.\n",
		HTML:      "<p>Grüße &amp; " + strings.Repeat("x", 3000) + "</p>\n<a href=\"{{{ pm:unsubscribe }}}\">bye</a>\n.\n",
		Headers: []fluxly.Header{
			{Name: "List-Unsubscribe", Value: "<https://acme.test/u/" + strings.Repeat("t", 200) + ">"},
			{Name: "List-Unsubscribe-Post", Value: "List-Unsubscribe=One-Click"},
		},
	}
	receipt, err := s.Send(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	if receipt.ID == "" {
		t.Errorf("no queue id in %+v", receipt)
	}
	raw := p.landed(t, m.MessageID, 1)[0]
	if !bytes.Contains(raw, []byte(receipt.ID)) {
		t.Errorf("queue id %s is not in the mail", receipt.ID)
	}
	r, err := mail.CreateReader(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	subject, err := r.Header.Subject()
	if err != nil {
		t.Fatal(err)
	}
	date, err := r.Header.Date()
	if err != nil {
		t.Fatal(err)
	}
	address := func(name string) string {
		list, err := r.Header.AddressList(name)
		if err != nil || len(list) != 1 {
			t.Fatalf("%s: %v %v", name, list, err)
		}
		return list[0].Name + "|" + list[0].Address
	}
	got := map[string]string{
		"subject": subject, "date": date.Format(time.RFC3339),
		"from": address("From"), "to": address("To"), "reply": address("Reply-To"),
		"unsubscribe": r.Header.Get("List-Unsubscribe"), "post": r.Header.Get("List-Unsubscribe-Post"),
	}
	for {
		part, err := r.NextPart()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(part.Body)
		if err != nil {
			t.Fatal(err)
		}
		kind, _, _ := part.Header.(*mail.InlineHeader).ContentType()
		got[kind] = strings.ReplaceAll(string(body), "\r\n", "\n")
	}
	wanted := map[string]string{
		"subject": m.Subject, "date": m.Date.Format(time.RFC3339),
		"from": `Ärzte & Söhne, "GmbH"|hello@acme.test`, "to": "Zoë 🎉 (Test)|" + p.rcpt, "reply": "|support@acme.test",
		"unsubscribe": m.Headers[0].Value, "post": m.Headers[1].Value,
		"text/plain": m.Text, "text/html": m.HTML,
	}
	if diff := cmp.Diff(wanted, got); diff != "" {
		t.Error(diff)
	}
}

// Many senders, few connections: each mail lands once.
func TestPostfixTakesEachMailOnce(t *testing.T) {
	t.Parallel()
	p := needPostfix(t)
	s := p.sender(t, func(c *fluxly.SMTPConfig) { c.MaxMessages = 10 })
	const n = 60
	mark := fmt.Sprintf(".%d@acme.test", time.Now().UnixNano())
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			_, err := s.Send(t.Context(), &fluxly.Message{
				MessageID: fmt.Sprintf("n%d%s", i, mark), From: "hello@acme.test", To: p.rcpt, Subject: "one of many", Text: "Hello\n",
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if st := s.Stats(); st.Accepted != n || st.Dials > 20 {
		t.Errorf("%+v", st)
	}
	seen := map[string]int{}
	for _, raw := range p.landed(t, mark, n) {
		r, err := mail.CreateReader(bytes.NewReader(raw))
		if err != nil {
			t.Fatal(err)
		}
		id, err := r.Header.MessageID()
		if err != nil {
			t.Fatal(err)
		}
		seen[id]++
	}
	if len(seen) != n {
		t.Errorf("%d different mails of %d", len(seen), n)
	}
	for id, copies := range seen {
		if copies != 1 {
			t.Errorf("%s landed %d times", id, copies)
		}
	}
}

func TestPostfixVerify(t *testing.T) {
	t.Parallel()
	p := needPostfix(t)
	if err := p.sender(t, nil).Verify(t.Context()); err != nil {
		t.Fatal(err)
	}
	err := p.sender(t, func(c *fluxly.SMTPConfig) { c.Password = "wrong" }).Verify(t.Context())
	if e := deliveryError(t, err); e.Code != 535 || !e.Auth || !e.Account || e.Kind != fluxly.Permanent {
		t.Errorf("wrong password: %+v", e)
	}
	err = p.sender(t, func(c *fluxly.SMTPConfig) { c.RootCAs = nil }).Verify(t.Context())
	if e := deliveryError(t, err); e.Phase != "starttls" || !e.Account || !strings.Contains(e.Remedy, "RootCAs") {
		t.Errorf("authority not trusted: %+v", e)
	}
	// Without a login Postfix says so at RCPT.
	_, err = p.sender(t, func(c *fluxly.SMTPConfig) { c.Username, c.Password = "", "" }).Send(t.Context(),
		&fluxly.Message{From: "hello@acme.test", To: p.rcpt, Subject: "no login", Text: "Hello\n"})
	if e := deliveryError(t, err); e.Kind != fluxly.Permanent || e.Phase != "rcpt" || e.Recipient != p.rcpt {
		t.Errorf("no login: %+v", e)
	}
}
