package mimemail

import (
	"bytes"
	"errors"
	"io"
	"mime"
	"net/mail"
	"net/textproto"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/emersion/go-message"
	gomail "github.com/emersion/go-message/mail"
	"github.com/google/go-cmp/cmp"
)

func sample() *Mail {
	return &Mail{
		From:      Mailbox{"Acme", "hello@acme.test"},
		To:        Mailbox{"", "ann@example.com"},
		Subject:   "Welcome",
		MessageID: "id@acme.test",
		Date:      time.Date(2026, 3, 1, 9, 30, 0, 0, time.UTC),
		Text:      "Hello\n",
		HTML:      "<p>Hello</p>\n",
	}
}

func mustAppend(t testing.TB, m *Mail) []byte {
	t.Helper()
	out, err := Append(nil, m)
	if err != nil {
		t.Fatal(err)
	}
	checkWire(t, out)
	return out
}

// checkWire holds whatever was composed: 7 bits, CRLF only, lines in bounds,
// header lines folded, encoded words within 75.
func checkWire(t testing.TB, out []byte) {
	t.Helper()
	if !bytes.HasSuffix(out, []byte("\r\n")) {
		t.Errorf("does not end with CRLF: %q", out[max(0, len(out)-20):])
	}
	header := true
	for line := range bytes.Lines(out) {
		text, ok := bytes.CutSuffix(line, []byte("\r\n"))
		if !ok {
			t.Fatalf("line without CRLF: %q", line)
		}
		if i := bytes.IndexFunc(text, func(r rune) bool { return r < ' ' && r != '\t' || r > '~' }); i >= 0 {
			t.Fatalf("byte %#x in line %q", text[i], text)
		}
		if len(text) > maxLine {
			t.Fatalf("line of %d bytes", len(text))
		}
		if len(text) == 0 {
			header = false
		}
		if !header {
			if len(text) > 76 && !bytes.HasPrefix(text, []byte("Content-")) {
				t.Fatalf("body line of %d bytes: %q", len(text), text)
			}
			continue
		}
		if len(bytes.TrimSpace(text)) == 0 {
			t.Fatalf("blank line folded into the header")
		}
		if len(text) > 78 && bytes.Count(bytes.TrimSpace(text), []byte(" ")) > 1 {
			t.Errorf("line of %d bytes that could be folded: %q", len(text), text)
		}
		for word := range bytes.FieldsSeq(text) {
			if bytes.HasPrefix(word, []byte("=?utf-8?")) && len(word) > 75 {
				t.Errorf("encoded word of %d bytes: %q", len(word), word)
			}
		}
	}
}

// got is a mail as another library reads it.
type got struct {
	From, To, ReplyTo, Subject, MessageID string
	Date                                  int64
	Text, HTML                            string
	Fields                                []Field
}

func read(t testing.TB, out []byte) got {
	t.Helper()
	e, err := message.Read(bytes.NewReader(out))
	if err != nil {
		t.Fatalf("go-message: %v\n%s", err, out)
	}
	h := gomail.Header{Header: e.Header}
	var g got
	addr := func(key string) string {
		list, err := h.AddressList(key)
		if err != nil {
			t.Fatalf("%s: %v\n%s", key, err, out)
		}
		if len(list) == 0 {
			return ""
		}
		if len(list) > 1 {
			t.Fatalf("%s: %d addresses", key, len(list))
		}
		return list[0].Name + "|" + list[0].Address
	}
	g.From, g.To, g.ReplyTo = addr("From"), addr("To"), addr("Reply-To")
	if g.Subject, err = h.Subject(); err != nil {
		t.Fatalf("subject: %v", err)
	}
	g.MessageID = strings.Trim(h.Get("Message-Id"), "<>")
	date, err := h.Date()
	if err != nil {
		t.Fatalf("date: %v", err)
	}
	g.Date = date.Unix()
	for f := h.Fields(); f.Next(); {
		if strings.HasPrefix(f.Key(), "X-") || strings.HasPrefix(f.Key(), "List-") {
			v, err := f.Text()
			if err != nil {
				t.Fatalf("%s: %v", f.Key(), err)
			}
			g.Fields = append(g.Fields, Field{f.Key(), v})
		}
	}
	part := func(e *message.Entity) {
		typ, params, err := e.Header.ContentType()
		if err != nil || params["charset"] != "utf-8" {
			t.Fatalf("content type %q %v: %v", typ, params, err)
		}
		if enc := e.Header.Get("Content-Transfer-Encoding"); enc != "quoted-printable" {
			t.Fatalf("encoding %q", enc)
		}
		body, err := io.ReadAll(e.Body)
		if err != nil {
			t.Fatalf("body: %v\n%s", err, out)
		}
		switch typ {
		case "text/plain":
			g.Text += string(body)
		case "text/html":
			g.HTML += string(body)
		default:
			t.Fatalf("part of type %q", typ)
		}
	}
	mr := e.MultipartReader()
	if mr == nil {
		part(e)
		return g
	}
	for n := 0; ; n++ {
		p, err := mr.NextPart()
		if errors.Is(err, io.EOF) {
			if n != 2 {
				t.Fatalf("%d parts", n)
			}
			return g
		}
		if err != nil {
			t.Fatal(err)
		}
		part(p)
	}
}

func want(m *Mail) got {
	addr := func(m Mailbox) string {
		if m == (Mailbox{}) {
			return ""
		}
		return m.Name + "|" + unquoteAddr(m.Addr)
	}
	g := got{
		From: addr(m.From), To: addr(m.To), ReplyTo: addr(m.ReplyTo),
		Subject: m.Subject, MessageID: m.MessageID, Date: m.Date.Unix(),
		Text: crlf(m.Text), HTML: crlf(m.HTML), Fields: m.Fields,
	}
	for i, f := range m.Fields { // go-message gives names in canonical case
		g.Fields = slices.Clone(g.Fields)
		g.Fields[i].Name = textproto.CanonicalMIMEHeaderKey(f.Name)
	}
	// A lone part ends with the mail's last line end.
	if m.HTML == "" && !strings.HasSuffix(g.Text, "\r\n") {
		g.Text += "\r\n"
	}
	if m.Text == "" && !strings.HasSuffix(g.HTML, "\r\n") {
		g.HTML += "\r\n"
	}
	return g
}

func unquoteAddr(s string) string {
	if s == "" || s[0] != '"' {
		return s
	}
	text, n, _ := unquote(s)
	return text + s[n:]
}

func crlf(s string) string {
	s = strings.ReplaceAll(s, "\r\n", "\n")
	s = strings.ReplaceAll(s, "\r", "\n")
	return strings.ReplaceAll(s, "\n", "\r\n")
}

func TestAppendReadsBack(t *testing.T) {
	t.Parallel()
	tests := map[string]func(m *Mail){
		"plain":             func(*Mail) {},
		"text only":         func(m *Mail) { m.HTML = "" },
		"html only":         func(m *Mail) { m.Text = "" },
		"no final line end": func(m *Mail) { m.Text, m.HTML = "a", "<b>" },
		"lone, no line end": func(m *Mail) { m.Text, m.HTML = "a", "" },
		"mixed line ends":   func(m *Mail) { m.Text = "a\nb\rc\r\nd\n\re\r\r\nf" },
		"dots":              func(m *Mail) { m.Text = ".\n..\n.a\n\r\n.\r\n" },
		"trailing blanks":   func(m *Mail) { m.Text = "a \nb\t\n  \n\t\nc " + strings.Repeat("x", 70) + "     \n " },
		"blank at 74 to 78": func(m *Mail) {
			for i := 70; i < 80; i++ {
				m.Text += strings.Repeat("x", i) + " \n" + strings.Repeat("x", i) + "\t\n" + strings.Repeat("x", i) + "=\n"
			}
		},
		"long line":            func(m *Mail) { m.HTML = strings.Repeat("0123456789", 10_000) },
		"NUL and not UTF-8":    func(m *Mail) { m.Text = "a\x00b\xff\xfe\x80c\x7f" },
		"all bytes":            func(m *Mail) { m.Text = strings.NewReplacer("\r", "", "\n", "").Replace(allBytes()) },
		"boundary in the body": func(m *Mail) { m.Text = "--" + boundaryOf(m) + "\n\n--" + boundaryOf(m) + "--\n" },
		"unsubscribe marker":   func(m *Mail) { m.HTML = `<a href="{{{ pm:unsubscribe }}}">x</a>` },
		"empty subject":        func(m *Mail) { m.Subject = "" },
		"reply-to":             func(m *Mail) { m.ReplyTo = Mailbox{"Help, please", "help@acme.test"} },
		"subject 3000 letters": func(m *Mail) { m.Subject = strings.Repeat("x", 3000) },
		"subject 500 words":    func(m *Mail) { m.Subject = strings.TrimSpace(strings.Repeat("word ", 500)) },
		"subject CJK":          func(m *Mail) { m.Subject = strings.Repeat("歡迎使用", 80) },
		"subject emoji":        func(m *Mail) { m.Subject = strings.Repeat("👩‍👩‍👧‍👦 ok ", 40) },
		"subject umlaut": func(m *Mail) {
			m.Subject = "Your plan is ready, Jörg Müller, and it is good for the whole of the next year"
		},
		"subject look-alike":  func(m *Mail) { m.Subject = "Re: =?utf-8?q?a?= and =?x" },
		"subject =?":          func(m *Mail) { m.Subject = "=?" },
		"subject blanks":      func(m *Mail) { m.Subject = "  two  in the middle   and behind  " },
		"subject one blank":   func(m *Mail) { m.Subject = " " },
		"subject tab":         func(m *Mail) { m.Subject = "a\tb" },
		"subject 1 long word": func(m *Mail) { m.Subject = "see " + strings.Repeat("y", 90) + " there" },
		"name comma":          func(m *Mail) { m.To.Name = "Doe, John" },
		"name quotes":         func(m *Mail) { m.To.Name = `John "The \ Man" Doe` },
		"name emoji":          func(m *Mail) { m.To.Name = "Zoë 🎉" },
		"name look-alike":     func(m *Mail) { m.To.Name = "=?utf-8?q?x?=" },
		"name dots":           func(m *Mail) { m.To.Name = "J. R. R. Tolkien" },
		"name address":        func(m *Mail) { m.To.Name = "eve@evil.example <eve@evil.example>" },
		"name long":           func(m *Mail) { m.To.Name = strings.TrimSpace(strings.Repeat("Anna Maria ", 30)) },
		"name long, quoted":   func(m *Mail) { m.To.Name = strings.TrimSpace(strings.Repeat("Anna, Maria ", 30)) },
		"name blanks":         func(m *Mail) { m.To.Name = " a  b " },
		"name 67 letters":     func(m *Mail) { m.To.Name = strings.Repeat("n", 67) },
		"quoted local part":   func(m *Mail) { m.To.Addr = `"evil@x> NOTIFY=NEVER"@customer.example` },
		"long address":        func(m *Mail) { m.To = Mailbox{"N", strings.Repeat("l", 64) + "@" + longDomain} },
		"zone": func(m *Mail) {
			m.Date = time.Date(2026, 12, 31, 23, 59, 59, 0, time.FixedZone("", -(9*3600+1800)))
		},
		"zone with seconds": func(m *Mail) { m.Date = time.Date(1901, 1, 1, 0, 0, 0, 0, time.FixedZone("LMT", 3208)) },
		"zone of 100 hours": func(m *Mail) { m.Date = time.Date(2026, 1, 1, 0, 0, 0, 0, time.FixedZone("", 100*3600)) },
		"fields": func(m *Mail) {
			m.Fields = []Field{
				{"List-Unsubscribe", "<https://acme.test/u/" + strings.Repeat("t", 300) + ">, <mailto:u@acme.test>"},
				{"List-Unsubscribe-Post", "List-Unsubscribe=One-Click"},
				{"X-PM-Metadata-accountID", strings.Repeat("k", 80)},
				{"X-Umlaut", "ä and then plain"},
				{"X-Empty", ""},
				{"X-Huge", strings.Repeat("z", 3000)},
				{"X-" + strings.Repeat("n", 68), "né"},
			}
		},
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := sample()
			change(m)
			out := mustAppend(t, m)
			if diff := cmp.Diff(want(m), read(t, out)); diff != "" {
				t.Errorf("given (-), read back (+):\n%s\n%s", diff, out)
			}
			std, err := mail.ReadMessage(bytes.NewReader(out))
			if err != nil {
				t.Fatal(err)
			}
			to, err := std.Header.AddressList("To")
			if err != nil || len(to) != 1 {
				t.Fatalf("net/mail reads To as %v, %v", to, err)
			}
			if to[0].Name != m.To.Name || to[0].Address != unquoteAddr(m.To.Addr) {
				t.Errorf("net/mail reads To as %+v", to[0])
			}
			subject, err := new(mime.WordDecoder).DecodeHeader(std.Header.Get("Subject"))
			if err != nil || subject != m.Subject {
				t.Errorf("net/mail reads the subject as %q, %v", subject, err)
			}
			if date, err := std.Header.Date(); err != nil || !date.Equal(m.Date.Truncate(time.Second)) {
				t.Errorf("net/mail reads the date as %v, %v", date, err)
			}
		})
	}
}

// longDomain brings an address with 64 bytes before the @ to 254.
var longDomain = strings.Repeat(strings.Repeat("d", 61)+".", 3) + "abc"

func allBytes() string {
	var b [256]byte
	for i := range b {
		b[i] = byte(i)
	}
	return string(b[:])
}

func boundaryOf(m *Mail) string {
	var b [boundaryLen]byte
	boundary(&b, m.MessageID)
	return string(b[:])
}

func TestAppendLines(t *testing.T) {
	t.Parallel()
	m := sample()
	m.Subject = "A report on seventy-six columns and what happens to a word that passes them"
	m.To = Mailbox{"Jörg", "joerg@example.com"}
	m.Fields = []Field{{"x-lower-Case", "kept"}, {"X-Empty", ""}}
	header, _, _ := strings.Cut(string(mustAppend(t, m)), "\r\n\r\n")
	wantLines := strings.Join([]string{
		"From: Acme <hello@acme.test>",
		"To: =?utf-8?q?J=C3=B6rg?= <joerg@example.com>",
		"Subject: A report on seventy-six columns and what happens to a word that",
		" passes them",
		"Date: Sun, 01 Mar 2026 09:30:00 +0000",
		"Message-ID: <id@acme.test>",
		"x-lower-Case: kept",
		"X-Empty:",
		"MIME-Version: 1.0",
		"Content-Type: multipart/alternative;",
		` boundary="` + boundaryOf(m) + `"`,
	}, "\r\n")
	if diff := cmp.Diff(wantLines, header); diff != "" {
		t.Error(diff)
	}
}

func TestAppendRefuses(t *testing.T) {
	t.Parallel()
	field := func(name, value string) func(*Mail) {
		return func(m *Mail) { m.Fields = []Field{{name, value}} }
	}
	tests := map[string]struct {
		change func(*Mail)
		field  string
	}{
		"no from":             {func(m *Mail) { m.From = Mailbox{} }, "From"},
		"no to":               {func(m *Mail) { m.To.Addr = "" }, "To"},
		"line break in addr":  {func(m *Mail) { m.To.Addr = "a@b\r\nBcc: c@d" }, "To"},
		"brackets in addr":    {func(m *Mail) { m.To.Addr = "a@b> SIZE=1" }, "To"},
		"blank in addr":       {func(m *Mail) { m.To.Addr = " a@b" }, "To"},
		"unquoted @":          {func(m *Mail) { m.To.Addr = "a@b@c" }, "To"},
		"unicode in addr":     {func(m *Mail) { m.To.Addr = "a@bücher.example" }, "To"},
		"line break in name":  {func(m *Mail) { m.From.Name = "a\nBcc: x@y" }, "From"},
		"NUL in name":         {func(m *Mail) { m.From.Name = "a\x00" }, "From"},
		"reply-to":            {func(m *Mail) { m.ReplyTo.Name = "only a name" }, "Reply-To"},
		"line break, subject": {func(m *Mail) { m.Subject = "a\r\nBcc: x@y" }, "Subject"},
		"lone CR, subject":    {func(m *Mail) { m.Subject = "a\rb" }, "Subject"},
		"not UTF-8, subject":  {func(m *Mail) { m.Subject = "a\xff" }, "Subject"},
		"no message id":       {func(m *Mail) { m.MessageID = "" }, "Message-ID"},
		"message id, bracket": {func(m *Mail) { m.MessageID = "<a@b>" }, "Message-ID"},
		"message id, no @":    {func(m *Mail) { m.MessageID = "a" }, "Message-ID"},
		"message id, two @":   {func(m *Mail) { m.MessageID = "a@b@c" }, "Message-ID"},
		"message id, CRLF":    {func(m *Mail) { m.MessageID = "a@b\r\nx: y" }, "Message-ID"},
		"message id, long":    {func(m *Mail) { m.MessageID = strings.Repeat("a", 990) + "@b" }, "Message-ID"},
		"no date":             {func(m *Mail) { m.Date = time.Time{} }, "Date"},
		"year 0":              {func(m *Mail) { m.Date = time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC) }, "Date"},
		"year 10000":          {func(m *Mail) { m.Date = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) }, "Date"},
		"no body":             {func(m *Mail) { m.Text, m.HTML = "", "" }, "Body"},
		"field without name":  {field("", "v"), ""},
		"field name colon":    {field("X:", "v"), ""},
		"field name blank":    {field("X Y", "v"), ""},
		"field name unicode":  {field("X-ä", "v"), ""},
		"field name CRLF":     {field("X\r\nBcc", "v"), ""},
		"field name long":     {field(strings.Repeat("x", 71), "v"), ""},
		"field value CRLF":    {field("X-A", "v\r\nBcc: x@y"), "X-A"},
		"second from":         {field("from", "v"), ""},
		"second subject":      {field("SUBJECT", "v"), ""},
		"second message id":   {field("message-id", "v"), ""},
		"bcc":                 {field("Bcc", "v"), ""},
		"content type":        {field("content-type", "v"), ""},
		"unicode in URL":      {field("List-Unsubscribe", "<https://bücher.example>"), "List-Unsubscribe"},
		"URL of 998":          {field("List-Unsubscribe", "<"+strings.Repeat("x", 997)), "List-Unsubscribe"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := sample()
			tt.change(m)
			out, err := Append([]byte("before"), m)
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("no error but %q", out)
			}
			if e.Field != tt.field || e.Reason == "" {
				t.Errorf("error %+v, want one on field %q", e, tt.field)
			}
			if string(out) != "before" {
				t.Errorf("dst is %q", out)
			}
			if strings.ContainsAny(err.Error(), "\r\n\x00") || len(err.Error()) > 400 {
				t.Errorf("error text %q", err)
			}
		})
	}
}

func TestAppendKeepsDst(t *testing.T) {
	t.Parallel()
	alone := mustAppend(t, sample())
	both, err := Append([]byte("before"), sample())
	if err != nil {
		t.Fatal(err)
	}
	if string(both) != "before"+string(alone) {
		t.Errorf("appended %q", both)
	}
}

func TestAppendAllocs(t *testing.T) {
	m := sample()
	m.Subject = strings.Repeat("Grüße an alle ", 8)
	m.From.Name, m.To.Name = "Größe, Maß", "Doe, John"
	m.Text = strings.Repeat("Grüße = 1\n", 400)
	m.Fields = []Field{{"List-Unsubscribe", "<https://acme.test/u>"}, {"X-PM-Tag", "ä"}}
	buf := mustAppend(t, m)
	if n := testing.AllocsPerRun(100, func() {
		var err error
		if buf, err = Append(buf[:0], m); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations with a buffer that is large enough, want 0", n)
	}
}

func FuzzAppend(f *testing.F) {
	f.Add("Acme, Inc.", "Jörg", "Hi 👋  there ", "text\r\n.\n ", "<p>é</p>", "X-A", " v =?")
	f.Add("", "", strings.Repeat("x", 200), "a", "", "List-Unsubscribe", "<https://a.example>, <mailto:a@b>")
	f.Add("a\"b\\c", " ", "=?utf-8?q?a?=", "", "\x00\xff\r", "X-PM-Metadata-Key", strings.Repeat("界", 90))
	f.Fuzz(func(t *testing.T, fromName, toName, subject, text, html, name, value string) {
		m := sample()
		m.From.Name, m.To.Name, m.Subject, m.Text, m.HTML = fromName, toName, subject, text, html
		m.Fields = []Field{{name, value}}
		out, err := Append(nil, m)
		if err != nil {
			var e *Error
			if !errors.As(err, &e) || len(out) != 0 {
				t.Fatalf("%q, %v", out, err)
			}
			return
		}
		checkWire(t, out)
		w := want(m)
		if canonical := textproto.CanonicalMIMEHeaderKey(name); !strings.HasPrefix(canonical, "X-") && !strings.HasPrefix(canonical, "List-") {
			w.Fields = nil
		}
		if diff := cmp.Diff(w, read(t, out)); diff != "" {
			t.Errorf("given (-), read back (+):\n%s\n%q", diff, out)
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	m := sample()
	m.Subject = "Ihre Testphase läuft in drei Tagen ab"
	m.Text = strings.Repeat("A line of text that is rather ordinary and, für einmal, not ASCII.\n", 40)
	m.HTML = strings.Repeat(`<p style="margin: 0">A line of text that is rather ordinary and, für einmal, not ASCII.</p>`+"\n", 45)
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf, _ = Append(buf[:0], m)
	}
	b.SetBytes(int64(len(buf)))
	if !utf8.Valid(buf) {
		b.Fatal("not UTF-8")
	}
}
