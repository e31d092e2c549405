package fluxly_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-message/mail"
	"github.com/google/go-cmp/cmp"

	"github.com/getfluxly/fluxly"
)

// received is a mail as go-message reads it, which did not write it.
type received struct {
	From, To, Subject string
	Text, HTML        string
}

func readReceived(t *testing.T, raw []byte) (received, mail.Header) {
	t.Helper()
	r, err := mail.CreateReader(bytes.NewReader(raw))
	if err != nil {
		t.Fatalf("read the mail: %v\n%s", err, raw)
	}
	var got received
	addr := func(field string) string {
		list, err := r.Header.AddressList(field)
		if err != nil || len(list) != 1 {
			t.Fatalf("%s = %v, %v; want one address\n%s", field, list, err, raw)
		}
		return list[0].Name + "|" + list[0].Address
	}
	got.From, got.To = addr("From"), addr("To")
	if got.Subject, err = r.Header.Subject(); err != nil {
		t.Fatalf("subject: %v", err)
	}
	for {
		p, err := r.NextPart()
		if errors.Is(err, io.EOF) {
			return got, r.Header
		}
		if err != nil {
			t.Fatalf("next part: %v\n%s", err, raw)
		}
		b, err := io.ReadAll(p.Body)
		if err != nil {
			t.Fatalf("read a part: %v", err)
		}
		kind, _, err := p.Header.(*mail.InlineHeader).ContentType()
		if err != nil {
			t.Fatalf("content type: %v", err)
		}
		switch kind {
		case "text/plain":
			got.Text = string(b)
		case "text/html":
			got.HTML = string(b)
		default:
			t.Errorf("a part of type %q", kind)
		}
	}
}

// lines gives a text with LF alone and without the last line end, which a mail
// always has.
func lines(s string) string {
	s = strings.ReplaceAll(s, "\r\n", "\n")
	return strings.TrimSuffix(strings.ReplaceAll(s, "\r", "\n"), "\n")
}

// TestPostfixTakesHostileMail hands mails that are hostile and legal to a real mail server
// and reads them back from its disk with another library.
func TestPostfixTakesHostileMail(t *testing.T) {
	t.Parallel()
	p := needPostfix(t)
	s := p.sender(t, nil)
	const from, fromRead = "Acme <hello@acme.test>", "Acme|hello@acme.test"
	tests := []struct {
		name     string
		m        fluxly.Message
		from, to string // as read; empty: the plain ones
	}{
		{name: "two parts", m: fluxly.Message{Subject: "Hello", Text: "Hello\n", HTML: "<p>Hello</p>\n"}},
		{name: "text alone", m: fluxly.Message{Subject: "Hello", Text: "no line end"}},
		{name: "html alone", m: fluxly.Message{Subject: "Hello", HTML: "<p>no line end</p>"}},
		{name: "unicode subject", m: fluxly.Message{
			Subject: "Grüße aus 東京 👩‍👩‍👧‍👦 und " + strings.Repeat("weiter so, ", 30) + "Ende",
			Text:    "Grüße\n",
		}},
		{name: "subject of 2,000 letters", m: fluxly.Message{Subject: strings.Repeat("x", 2000), Text: "x\n"}},
		{name: "subject that looks encoded", m: fluxly.Message{Subject: "=?utf-8?q?not_encoded?= and = ? _ =20", Text: "x\n"}},
		{name: "empty subject", m: fluxly.Message{Text: "x\n"}},
		{name: "dots", m: fluxly.Message{
			Subject: "Dots",
			Text:    ".\n..\n.leading\n...\n\n.\n" + strings.Repeat(".\n", 2000) + "end .\n.",
			HTML:    ".\n<p>\n.</p>\n..\n",
		}},
		{name: "long lines", m: fluxly.Message{
			Subject: "Long",
			Text:    strings.Repeat("x", 100_000) + "\n" + strings.Repeat("word ", 20_000) + "\n",
			HTML:    "<p>" + strings.Repeat("ü", 50_000) + "</p>\n",
		}},
		{name: "8-bit", m: fluxly.Message{
			Subject: "ÄÖÜ",
			Text:    "äöüß€ \u00a0 \u200b \ufeff 日本語 𝕏\n" + strings.Repeat("é", 500) + "\n",
			HTML:    "<p>äöüß€ 日本語 𝕏</p>\n",
		}},
		{name: "line ends and blanks", m: fluxly.Message{
			Subject: "Blanks ",
			Text:    "trailing blank \ntrailing tab\t\nCRLF\r\nCR\rend\n\n\nFrom the start of a line\n>From\n=20 =\n",
			HTML:    "<pre>\t a \n\n b</pre> \n",
		}},
		{name: "looks like MIME", m: fluxly.Message{
			Subject: "Boundaries",
			Text:    "--=_\n--\nContent-Type: text/html\n\n<b>\n----\n.\r\n",
			HTML:    "<p>\r\n.\r\nMAIL FROM:<evil@acme.test>\r\n</p>",
		}},
		{
			name: "names", from: "Größe & Maß, GmbH|hello@acme.test", to: `O'Hara, "Zoë" 🎉|` + p.rcpt,
			m: fluxly.Message{
				From: `"Größe & Maß, GmbH" <hello@acme.test>`, To: `"O'Hara, \"Zoë\" 🎉" <` + p.rcpt + `>`,
				Subject: "Names", Text: "x\n",
			},
		},
		{name: "folded fields", m: fluxly.Message{
			Subject: "Fields", Text: "x\n",
			Headers: []fluxly.Header{
				{Name: "List-Unsubscribe", Value: "<https://acme.test/u/" + strings.Repeat("t0ken", 40) + ">, <mailto:unsubscribe@acme.test?subject=stop>"},
				{Name: "List-Unsubscribe-Post", Value: "List-Unsubscribe=One-Click"},
				{Name: "X-Long", Value: strings.TrimSpace(strings.Repeat("several words that need folding ", 40))},
				{Name: "X-Unicode", Value: "Größe " + strings.Repeat("日本語 ", 60) + "Ende"},
			},
		}},
	}
	for i, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			m := tc.m
			m.MessageID = fmt.Sprintf("hostile.%d.%d@acme.test", i, time.Now().UnixNano())
			if m.From == "" {
				m.From = from
			}
			if m.To == "" {
				m.To = "<" + p.rcpt + ">"
			}
			receipt, err := s.Send(t.Context(), &m)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(receipt.Reply, "queued as") || receipt.ID == "" || receipt.At.IsZero() {
				t.Errorf("receipt = %+v, want Postfix's queue id", receipt)
			}
			raw := p.landed(t, m.MessageID, 1)[0]
			for n, line := range bytes.Split(raw, []byte("\n")) {
				if len(line) > 998 {
					t.Errorf("line %d has %d bytes, want at most 998", n, len(line))
				}
				if bytes.ContainsFunc(line, func(r rune) bool { return r == '\r' || r > 0x7e }) {
					t.Errorf("line %d is not plain ASCII: %.80q", n, line)
				}
			}
			got, header := readReceived(t, raw)
			want := received{From: tc.from, To: tc.to, Subject: m.Subject, Text: lines(m.Text), HTML: lines(m.HTML)}
			if want.From == "" {
				want.From = fromRead
			}
			if want.To == "" {
				want.To = "|" + p.rcpt
			}
			got.Text, got.HTML = lines(got.Text), lines(got.HTML)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("the mail as it landed (-want +got):\n%s", diff)
			}
			if got := header.Get("Return-Path"); got != "<hello@acme.test>" {
				t.Errorf("the envelope's sender is %q", got)
			}
			for _, h := range m.Headers {
				if got, err := header.Text(h.Name); err != nil || got != h.Value {
					t.Errorf("%s = %q, %v; want %q", h.Name, got, err, h.Value)
				}
			}
		})
	}
}

// TestPostfixRefusesRecipients: how a refusal reads, and that the connection is
// good for the next mail.
func TestPostfixRefusesRecipients(t *testing.T) {
	t.Parallel()
	p := needPostfix(t)
	m := &fluxly.Message{From: "hello@acme.test", To: p.rcpt, Subject: "Next", Text: "x"}
	for _, tc := range []struct {
		to       string
		kind     fluxly.DeliveryKind
		code     int
		enhanced string
	}{
		{"refused@acme.test", fluxly.Permanent, 550, "5.1.1"},
		{"later@acme.test", fluxly.Temporary, 450, "4.2.0"},
	} {
		t.Run(tc.to, func(t *testing.T) {
			t.Parallel()
			s := p.sender(t, func(c *fluxly.SMTPConfig) { c.MaxConnections = 1 })
			to := *m
			to.To = tc.to
			_, err := s.Send(t.Context(), &to)
			if de := deliveryError(t, err); de.Kind != tc.kind || de.Code != tc.code || de.EnhancedCode != tc.enhanced || de.Phase != "rcpt" || de.Account {
				t.Errorf("Send = %v, want %s %d %s at rcpt", err, tc.kind, tc.code, tc.enhanced)
			}
			// The sender is still good for the next mail.
			if _, err := s.Send(t.Context(), m); err != nil {
				t.Errorf("Send after a refused mail = %v", err)
			}
		})
	}
}
