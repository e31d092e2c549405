package fluxly

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"mime"
	"net/mail"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-message"
	"github.com/google/go-cmp/cmp"
)

func sampleMessage() *Message {
	return &Message{
		SendKey:  "run_42/welcome/1",
		Date:     time.Date(2026, 3, 1, 9, 30, 0, 0, time.UTC),
		From:     "Acme <hello@acme.test>",
		To:       "ann@example.com",
		Subject:  "Welcome to Acme",
		Text:     "Hello Ann,\n\nwelcome.\n",
		HTML:     "<p>Hello Ann,</p>\n<p>welcome.</p>\n",
		Stream:   "lifecycle-production",
		Tag:      "welcome",
		Metadata: map[string]string{"automation": "trial-onboarding", "accountID": "acc_7"},
	}
}

func TestMessageGolden(t *testing.T) {
	t.Parallel()
	tests := map[string]func() *Message{
		"two-part": sampleMessage,
		"html-only": func() *Message {
			m := sampleMessage()
			m.Text = ""
			m.HTML = "<p>Nur HTML.</p>\n<p><a href=\"{{{ pm:unsubscribe }}}\">Abmelden</a></p>"
			m.MessageID = "own-id@acme.test"
			m.TrackOpens, m.TrackLinks = OpensTracked, LinksHTMLOnly
			m.Headers = []Header{
				{Name: "List-Unsubscribe", Value: "<https://acme.test/u/" + strings.Repeat("t0ken", 16) + ">, <mailto:unsubscribe@acme.test>"},
				{Name: "List-Unsubscribe-Post", Value: "List-Unsubscribe=One-Click"},
			}
			return m
		},
		"international": func() *Message {
			m := sampleMessage()
			m.From = `"Größe & Maß, GmbH" <hallo@größe.example>`
			m.To = "Zoë 🎉 <zoe@example.com>"
			m.ReplyTo = `"Doe, John" <john@acme.test>`
			m.Subject = "Ihre Testphase läuft in drei Tagen ab: 歡迎使用 👩‍👩‍👧‍👦  und noch etwas mehr "
			m.Text = "Zeile mit Punkt:\n.\n..\nLeerraum \n=20 bleibt\n" + strings.Repeat("ü", 60) + "\n"
			m.Metadata = map[string]string{"Note": "für später"}
			m.Tag = "läuft ab"
			return m
		},
	}
	for name, build := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := build().AppendTo(nil)
			if err != nil {
				t.Fatal(err)
			}
			wantGolden(t, "mail/"+name+".eml", got)
			again, err := build().AppendTo(nil)
			if err != nil || !bytes.Equal(got, again) {
				t.Errorf("the same message gave other bytes, %v", err)
			}
		})
	}
}

func TestMessageFieldsReadBack(t *testing.T) {
	t.Parallel()
	m := sampleMessage()
	m.Metadata["note"] = "größer  als =?utf-8?q?x?= "
	m.Tag = "läuft"
	out, err := m.AppendTo(nil)
	if err != nil {
		t.Fatal(err)
	}
	e, err := message.Read(bytes.NewReader(out))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for f := e.Header.Fields(); f.Next(); {
		v, err := f.Text()
		if err != nil {
			t.Fatal(err)
		}
		if key := strings.ToLower(f.Key()); strings.HasPrefix(key, "x-pm-") {
			got[key] = v
		}
	}
	want := map[string]string{
		"x-pm-message-stream":      "lifecycle-production",
		"x-pm-tag":                 "läuft",
		"x-pm-metadata-send_key":   "run_42/welcome/1",
		"x-pm-metadata-automation": "trial-onboarding",
		"x-pm-metadata-accountid":  "acc_7",
		"x-pm-metadata-note":       "größer  als =?utf-8?q?x?= ",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if !bytes.Contains(out, []byte("\r\nX-PM-Metadata-accountID: acc_7\r\n")) {
		t.Error("the case of a metadata key was changed")
	}
}

func TestMessageCompose(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	has := func(t *testing.T, m *Message, o mailOptions, want ...string) string {
		t.Helper()
		o.now = now
		out, _, err := m.compose(nil, o)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range want {
			if !strings.Contains(string(out), w) {
				t.Errorf("no %q in\n%s", w, out)
			}
		}
		return string(out)
	}
	t.Run("plain relay gets no Postmark fields", func(t *testing.T) {
		t.Parallel()
		if out := has(t, sampleMessage(), mailOptions{}, "Subject: "); strings.Contains(out, "X-PM-") {
			t.Error(out)
		}
	})
	t.Run("stream of the sender", func(t *testing.T) {
		t.Parallel()
		m := sampleMessage()
		m.Stream = ""
		has(t, m, mailOptions{postmark: true, stream: "broadcast"}, "X-PM-Message-Stream: broadcast\r\n")
		has(t, sampleMessage(), mailOptions{postmark: true, stream: "broadcast"}, "X-PM-Message-Stream: lifecycle-production\r\n")
	})
	t.Run("stream left out", func(t *testing.T) {
		t.Parallel()
		if out := has(t, sampleMessage(), mailOptions{postmark: true, omitStream: true}, "X-PM-Tag"); strings.Contains(out, "Message-Stream") {
			t.Error(out)
		}
	})
	t.Run("present as date", func(t *testing.T) {
		t.Parallel()
		m := sampleMessage()
		m.Date = time.Time{}
		has(t, m, mailOptions{}, "Date: Fri, 01 May 2026 00:00:00 +0000\r\n")
	})
	t.Run("message id follows the send key", func(t *testing.T) {
		t.Parallel()
		m, other := sampleMessage(), sampleMessage()
		other.SendKey, other.Subject = "run_42/welcome/2", "Other"
		id := func(m *Message) string {
			std, err := mail.ReadMessage(strings.NewReader(has(t, m, mailOptions{postmark: true})))
			if err != nil {
				t.Fatal(err)
			}
			return std.Header.Get("Message-Id")
		}
		first, again := id(m), id(m)
		if first != again || first == id(other) || !strings.HasSuffix(first, "@acme.test>") {
			t.Errorf("ids %s, %s, %s", first, again, id(other))
		}
		m.SendKey = ""
		first, again = id(m), id(m)
		if first == again {
			t.Error("two mails without a send key share a Message-ID")
		}
	})
	t.Run("own message id is kept", func(t *testing.T) {
		t.Parallel()
		m := sampleMessage()
		m.MessageID = "mine@acme.test"
		has(t, m, mailOptions{postmark: true}, "Message-ID: <mine@acme.test>\r\n", "X-PM-KeepID: true\r\n")
	})
	t.Run("envelope", func(t *testing.T) {
		t.Parallel()
		m := sampleMessage()
		m.To = "Ann <ann@bücher.example>"
		_, mail, err := m.compose(nil, mailOptions{now: now})
		if err != nil || mail.From.Addr != "hello@acme.test" || mail.To.Addr != "ann@xn--bcher-kva.example" {
			t.Errorf("%+v, %v", mail, err)
		}
	})
	t.Run("over 10 MB as composed", func(t *testing.T) {
		t.Parallel()
		m := sampleMessage()
		m.Text = strings.Repeat("ü", maxBodyBytes/2)
		dst, _, err := m.compose([]byte("x"), mailOptions{now: now})
		if !errors.Is(err, ErrInvalid) || string(dst) != "x" {
			t.Errorf("%d bytes, %v", len(dst), err)
		}
	})
}

func TestMessageAtTheLimits(t *testing.T) {
	t.Parallel()
	m := sampleMessage()
	m.SendKey = strings.Repeat("k", 80)
	m.Subject = strings.Repeat("😀", 1000)
	m.Tag = strings.Repeat("t", 1000)
	m.Stream = "a23456789-123456789_1234567890"
	m.Metadata = map[string]string{}
	for i := range 9 {
		m.Metadata["key-of-20-characters"[:19]+strconv.Itoa(i)] = strings.Repeat("ü", 80)
	}
	m.From = `"` + strings.Repeat("n", 255-len(`"" <hello@acme.test>`)) + `" <hello@acme.test>`
	m.HTML = strings.Repeat("h", maxBodyBytes)
	if _, err := m.AppendTo(nil); err != nil {
		t.Error(err)
	}
}

func TestMessageRefuses(t *testing.T) {
	t.Parallel()
	headers := func(hs ...Header) func(*Message) { return func(m *Message) { m.Headers = hs } }
	metadata := func(k, v string) func(*Message) { return func(m *Message) { m.Metadata[k] = v } }
	post := Header{"List-Unsubscribe-Post", "List-Unsubscribe=One-Click"}
	tests := map[string]struct {
		change func(*Message)
		field  string
	}{
		"no from":                 {func(m *Message) { m.From = "" }, "from"},
		"from 256 characters":     {func(m *Message) { m.From = strings.Repeat("😀", 119) + " <hello@acme.test>x" }, "from"},
		"list in to":              {func(m *Message) { m.To = "a@x.example, b@y.example" }, "to"},
		"line break in to":        {func(m *Message) { m.To = "a@x.example\r\nRCPT TO:<b@y.example>" }, "to"},
		"unicode local part":      {func(m *Message) { m.To = "jörg@x.example" }, "to"},
		"quoted local part":       {func(m *Message) { m.To = `"a b"@x.example` }, "to"},
		"question mark":           {func(m *Message) { m.To = "a?b@x.example" }, "to"},
		"reply-to":                {func(m *Message) { m.ReplyTo = "nobody" }, "reply_to"},
		"subject 2001":            {func(m *Message) { m.Subject = strings.Repeat("😀", 1000) + "x" }, "subject"},
		"subject line break":      {func(m *Message) { m.Subject = "a\nb" }, "subject"},
		"no bodies":               {func(m *Message) { m.Text, m.HTML = "", "" }, "text"},
		"text 5 MB":               {func(m *Message) { m.Text = strings.Repeat("x", maxBodyBytes+1) }, "text"},
		"html 5 MB":               {func(m *Message) { m.HTML = strings.Repeat("x", maxBodyBytes+1) }, "html"},
		"message id in brackets":  {func(m *Message) { m.MessageID = "<a@b>" }, "message_id"},
		"stream's name":           {func(m *Message) { m.Stream = "Lifecycle Production" }, "stream"},
		"stream line break":       {func(m *Message) { m.Stream = "a\r\nBcc: x@y.example" }, "stream"},
		"stream digit first":      {func(m *Message) { m.Stream = "1a" }, "stream"},
		"stream 31":               {func(m *Message) { m.Stream = strings.Repeat("a", 31) }, "stream"},
		"tag 1001":                {func(m *Message) { m.Tag = strings.Repeat("t", 1001) }, "tag"},
		"tag line break":          {func(m *Message) { m.Tag = "a\r" }, "tag"},
		"send key 81":             {func(m *Message) { m.SendKey = strings.Repeat("k", 81) }, "send_key"},
		"send key blank":          {func(m *Message) { m.SendKey = "a b" }, "send_key"},
		"send key unicode":        {func(m *Message) { m.SendKey = "ü" }, "send_key"},
		"metadata key 21":         {metadata(strings.Repeat("k", 21), "v"), "metadata." + strings.Repeat("k", 21)},
		"metadata value 81":       {metadata("k", strings.Repeat("v", 81)), "metadata.k"},
		"metadata value break":    {metadata("k", "v\r\nBcc: x@y.example"), "metadata.k"},
		"metadata key empty":      {metadata("", "v"), "metadata"},
		"metadata key colon":      {metadata("k:", "v"), "metadata.k:"},
		"metadata key line break": {metadata("k\r\nBcc", "v"), "metadata.k\r\nBcc"},
		"metadata key taken":      {metadata("Send_Key", "v"), "metadata.Send_Key"},
		"metadata 11 fields": {func(m *Message) {
			m.Metadata = map[string]string{}
			for i := range 10 {
				m.Metadata["k"+strconv.Itoa(i)] = "v"
			}
		}, "metadata"},
		"track opens":               {func(m *Message) { m.TrackOpens = "yes" }, "track_opens"},
		"track links":               {func(m *Message) { m.TrackLinks = "true" }, "track_links"},
		"header X-PM":               {headers(Header{"x-pm-tag", "v"}), "headers.x-pm-tag"},
		"header from":               {headers(Header{"FROM", "v"}), "headers.FROM"},
		"header line break":         {headers(Header{"X-A", "v\nBcc: x@y.example"}), "headers.X-A"},
		"header name with colon":    {headers(Header{"X-A:", "v"}), "headers.X-A:"},
		"header twice":              {headers(Header{"X-A", "1"}, Header{"x-a", "2"}), "headers.x-a"},
		"one-click alone":           {headers(post), "headers.List-Unsubscribe-Post"},
		"one-click with http":       {headers(Header{"List-Unsubscribe", "<http://acme.test/u>"}, post), "headers.List-Unsubscribe"},
		"one-click with mailto":     {headers(Header{"List-Unsubscribe", "<mailto:u@acme.test>"}, post), "headers.List-Unsubscribe"},
		"one-click, other value":    {headers(Header{"List-Unsubscribe", "<https://acme.test/u>"}, Header{post.Name, "yes"}), "headers.List-Unsubscribe-Post"},
		"unsubscribe not bracketed": {headers(Header{"List-Unsubscribe", "https://acme.test/u"}, post), "headers.List-Unsubscribe"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := sampleMessage()
			tt.change(m)
			out, err := m.AppendTo(nil)
			var e *FieldError
			if !errors.As(err, &e) || !errors.Is(err, ErrInvalid) {
				t.Fatalf("err %v, %d bytes composed", err, len(out))
			}
			if e.Field != tt.field || e.Reason == "" {
				t.Errorf("refused as %+v, want field %q", e, tt.field)
			}
			if len(out) != 0 || len(err.Error()) > 600 {
				t.Errorf("%d bytes, error %q", len(out), err)
			}
		})
	}
}

func TestMessageMetadataCase(t *testing.T) {
	t.Parallel()
	m := sampleMessage()
	m.Metadata = map[string]string{"Plan": "a", "plan": "b"}
	if _, err := m.AppendTo(nil); !errors.Is(err, ErrInvalid) {
		t.Errorf("err %v, Postmark cannot tell these two apart", err)
	}
}

// What a message says is what another library reads out of the mail, or the
// message is refused whole.
func FuzzMessage(f *testing.F) {
	f.Add("Acme <a@acme.test>", "Zoë <z@x.example>", "Hi", "text", "k", "v", "X-A", "b", "key")
	f.Add("a@b.example", `"q, r" <s@t.example>`, " =?a ", "a\r.\r\n", "K-1", "für", "List-ID", "<x.acme.test>", "")
	f.Fuzz(func(t *testing.T, from, to, subject, text, key, value, name, header, sendKey string) {
		m := &Message{
			From: from, To: to, Subject: subject, Text: text, SendKey: sendKey,
			Metadata: map[string]string{key: value}, Headers: []Header{{name, header}},
			Date: time.Unix(1, 0), Stream: "broadcast",
		}
		out, err := m.AppendTo(nil)
		if err != nil {
			if !errors.Is(err, ErrInvalid) || len(out) != 0 {
				t.Fatalf("%d bytes, %v", len(out), err)
			}
			return
		}
		std, err := mail.ReadMessage(bytes.NewReader(out))
		if err != nil {
			t.Fatalf("%v\n%q", err, out)
		}
		words := new(mime.WordDecoder)
		if got, err := words.DecodeHeader(std.Header.Get("Subject")); err != nil || got != subject {
			t.Fatalf("subject %q, read as %q, %v", subject, got, err)
		}
		if got, err := words.DecodeHeader(std.Header.Get("X-PM-Metadata-" + key)); err != nil || got != value {
			t.Fatalf("metadata %q, read as %q, %v", value, got, err)
		}
		names := maps.Keys(std.Header)
		for n := range names {
			if len(std.Header[n]) != 1 {
				t.Fatalf("%d fields %s", len(std.Header[n]), n)
			}
		}
		if list, err := std.Header.AddressList("To"); err != nil || len(list) != 1 {
			t.Fatalf("to %q, read as %v, %v", to, list, err)
		}
		if body, err := io.ReadAll(std.Body); err != nil || (bytes.ContainsAny(body, "\x00") || bytes.Contains(bytes.ReplaceAll(body, []byte("\r\n"), nil), []byte("\n"))) {
			t.Fatalf("body %q, %v", body, err)
		}
	})
}
