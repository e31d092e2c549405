package mimemail

import (
	"errors"
	"net/mail"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseMailbox(t *testing.T) {
	t.Parallel()
	tests := map[string]Mailbox{
		"hello@acme.test":                              {"", "hello@acme.test"},
		"  <hello@acme.test>\t":                        {"", "hello@acme.test"},
		"Acme <hello@acme.test>":                       {"Acme", "hello@acme.test"},
		"Acme<hello@acme.test>":                        {"Acme", "hello@acme.test"},
		"Acme Inc. < hello@acme.test >":                {"Acme Inc.", "hello@acme.test"},
		`"Acme, Inc." <hello@acme.test>`:               {"Acme, Inc.", "hello@acme.test"},
		`"The \"A\" \\ Team" <a@b.example>`:            {`The "A" \ Team`, "a@b.example"},
		`"a@b.example" <a@b.example>`:                  {"a@b.example", "a@b.example"},
		`"" <a@b.example>`:                             {"", "a@b.example"},
		`Mr "The, Man"   Doe <a@b.example>`:            {"Mr The, Man Doe", "a@b.example"},
		"Zoë 🎉 <zoe@b.example>":                        {"Zoë 🎉", "zoe@b.example"},
		"=?utf-8?q?J=C3=B6rg?= <j@b.example>":          {"Jörg", "j@b.example"},
		`"=?utf-8?q?x?=" <j@b.example>`:                {"=?utf-8?q?x?=", "j@b.example"},
		"a@bücher.example":                             {"", "a@xn--bcher-kva.example"},
		"a@BÜCHER.example":                             {"", "a@xn--bcher-kva.example"},
		"Ann.O'Neil+tag@Mixed.Case.Example":            {"", "Ann.O'Neil+tag@Mixed.Case.Example"},
		`"plain"@b.example`:                            {"", "plain@b.example"},
		`"a b"@b.example`:                              {"", `"a b"@b.example`},
		`"two..dots"@b.example`:                        {"", `"two..dots"@b.example`},
		`"\e\"vil"@b.example`:                          {"", `"e\"vil"@b.example`},
		`"evil@x> NOTIFY=NEVER"@y.example`:             {"", `"evil@x> NOTIFY=NEVER"@y.example`},
		`Eve <"evil@x> NOTIFY=NEVER"@y.example>`:       {"Eve", `"evil@x> NOTIFY=NEVER"@y.example`},
		"a@localhost":                                  {"", "a@localhost"},
		strings.Repeat("l", 64) + "@" + longDomain:     {"", strings.Repeat("l", 64) + "@" + longDomain},
		strings.Repeat("Name ", 300) + "<a@b.example>": {strings.TrimSpace(strings.Repeat("Name ", 300)), "a@b.example"},
	}
	for in, want := range tests {
		t.Run(in[:min(len(in), 40)], func(t *testing.T) {
			t.Parallel()
			got, err := ParseMailbox(in)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestParseMailboxRefuses(t *testing.T) {
	t.Parallel()
	tests := []struct{ in, reason string }{
		{"", "empty"},
		{" \t ", "empty"},
		{"hello", "no @"},
		{"@acme.test", "nothing before"},
		{"hello@", "no domain"},
		{"<>", "no address"},
		{"a@b@c", "two @"},
		{"a@x.example, b@y.example", "list"},
		{"a@x.example; b@y.example", "list"},
		{"A <a@x.example>, B <b@y.example>", "list"},
		{"Doe, John <j@x.example>", "list"},
		{"team: a@x.example;", "group"},
		{"team:a@x.example", "group"},
		{"Acme (Berlin) <a@x.example>", "comment"},
		{"a@x.example (Ann)", "comment"},
		{"a@x.example <a@x.example>", "in the name"},
		{"[x] <a@x.example>", "in the name"},
		{"A <a@x.example> B", "after the address"},
		{"A <a@x.example", "no closing"},
		{"A <<a@x.example>>", "two opening"},
		{"a@x.example>", "in its domain"},
		{`"A <a@x.example>`, "not closed"},
		{`"A\`, "not closed"},
		{"Ann a@x.example", "blank"},
		{"a b@x.example", "blank"},
		{"a@x .example", "blank"},
		{"a@x.example\r\nBcc: b@y.example", "line break"},
		{"A\n <a@x.example>", "line break"},
		{"A\x00 <a@x.example>", "control"},
		{"A\xff <a@x.example>", "UTF-8"},
		{"=?utf-8?q?a=0D=0ABcc=3A_x?= <a@x.example>", "line break"},
		{"jörg@x.example", "outside ASCII"},
		{`"jörg"@x.example`, "not plain ASCII"},
		{`""@x.example`, "empty"},
		{`"a"b@x.example`, "no @ after"},
		{".a@x.example", "dot"},
		{"a.@x.example", "dot"},
		{"a..b@x.example", "dot"},
		{`a\b@x.example`, "character"},
		{"a@.example", "empty label"},
		{"a@x..example", "empty label"},
		{"a@x.example.", "empty label"},
		{"a@-x.example", "hyphen"},
		{"a@x-.example", "hyphen"},
		{"a@x_y.example", "character"},
		{"a@[192.0.2.1]", "IP address"},
		{"a@" + strings.Repeat("d", 64) + ".example", "63"},
		{"a@xn--a-ä.example", "international"},
		{"a@" + strings.Repeat("ü.", 400) + "example", "255"},
		{strings.Repeat("l", 65) + "@x.example", "64"},
		{"a@" + strings.Repeat("d.", 128) + "e", "255"},
		{"a@" + strings.Repeat("d.", 126) + "e", "254"},
		{strings.Repeat("a", 1<<20) + "@x.example", "2000"},
	}
	for _, tt := range tests {
		t.Run(tt.in[:min(len(tt.in), 40)], func(t *testing.T) {
			t.Parallel()
			got, err := ParseMailbox(tt.in)
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("taken as %+v", got)
			}
			if !strings.Contains(e.Reason, tt.reason) {
				t.Errorf("reason %q, want one with %q", e.Reason, tt.reason)
			}
			if len(err.Error()) > 400 {
				t.Errorf("error of %d bytes", len(err.Error()))
			}
		})
	}
}

// A hostile address must not cost more than reading it (CVE-2025-61725 was
// quadratic work on the domain literal of one).
func TestParseMailboxIsBounded(t *testing.T) {
	t.Parallel()
	for _, in := range []string{
		"a@[" + strings.Repeat("x", 1<<20) + "]",
		strings.Repeat("\"", 1<<20),
		strings.Repeat("a ", 1<<19) + "<a@b>",
		strings.Repeat("=?utf-8?q?a?= ", 1<<16) + "<a@b>",
	} {
		start := time.Now()
		if _, err := ParseMailbox(in); err == nil {
			t.Errorf("took %d bytes", len(in))
		}
		if d := time.Since(start); d > time.Second {
			t.Errorf("%v for %d bytes", d, len(in))
		}
	}
}

func TestParseMailboxAllocs(t *testing.T) {
	for _, in := range []string{"hello@acme.test", "Acme <hello@acme.test>", `"Acme, Inc." <hello@acme.test>`} {
		if n := testing.AllocsPerRun(100, func() {
			if _, err := ParseMailbox(in); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%v allocations for %s, want 0", n, in)
		}
	}
}

// What is taken is written so that the standard library reads the same
// mailbox, and parses again to itself.
func FuzzParseMailbox(f *testing.F) {
	for _, s := range []string{
		"hello@acme.test", `"A, B" <a@b.example>`, "=?utf-8?q?J=C3=B6rg?= <j@b.example>", `"a b"@b.example`,
		"a@bücher.example", "a@x, b@y", `X "q\"q" Y <"\\"@b.example>`, "ß <a@ß.example>", "a@xn--a.example",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		m, err := ParseMailbox(s)
		if err != nil {
			return
		}
		if len(m.Addr) > maxAddr || !isASCII(m.Addr) || strings.ContainsAny(m.Addr, "\r\n\x00") || badText(m.Name) != "" {
			t.Fatalf("%q gives %+v", s, m)
		}
		again, err := ParseMailbox(m.Addr)
		if err != nil || again.Addr != m.Addr {
			t.Fatalf("%q gives %q, then %q, %v", s, m.Addr, again.Addr, err)
		}
		w := writer{}
		w.mailbox("To", m)
		checkWire(t, w.buf)
		value := strings.ReplaceAll(strings.TrimSuffix(strings.TrimPrefix(string(w.buf), "To:"), "\r\n"), "\r\n", "")
		std, err := mail.ParseAddress(value)
		if err != nil {
			t.Fatalf("%q is written as %q: %v", s, value, err)
		}
		if std.Name != m.Name || std.Address != unquoteAddr(m.Addr) {
			t.Fatalf("%q is %+v, written as %q, read as %+v", s, m, value, std)
		}
	})
}
