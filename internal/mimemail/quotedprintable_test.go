package mimemail

import (
	"bytes"
	"io"
	"mime/quotedprintable"
	"strings"
	"testing"
)

func TestQuotedPrintable(t *testing.T) {
	t.Parallel()
	x := strings.Repeat("x", 80)
	tests := []struct{ in, want string }{
		{"", ""},
		{"a=b", "a=3Db"},
		{"é", "=C3=A9"},
		{"a\n", "a\r\n"},
		{"a\rb", "a\r\nb"},
		{"a \n", "a=20\r\n"},
		{"a\t\n", "a=09\r\n"},
		{"a\tb", "a\tb"},
		{" ", "=20"},
		{".\n", ".\r\n"},
		{x[:75], x[:75]},
		{x[:75] + "\nx", x[:75] + "\r\nx"},
		{x[:76], x[:75] + "=\r\nx"},
		{x[:73] + "=", x[:73] + "=\r\n=3D"},
		{x[:72] + "=", x[:72] + "=3D"},
		{x[:73] + " \n", x[:73] + "=20\r\n"},
		{x[:74] + " \n", x[:74] + "=\r\n=20\r\n"},
		{x[:74] + " y\n", x[:74] + " =\r\ny\r\n"},
	}
	for _, tt := range tests {
		if got := string(appendQuotedPrintable(nil, tt.in)); got != tt.want {
			t.Errorf("%q\n got %q\nwant %q", tt.in, got, tt.want)
		}
	}
}

func TestPlainRun(t *testing.T) {
	t.Parallel()
	for c := range 256 {
		for pos := range 20 {
			s := []byte(strings.Repeat("~ aZ", 5))
			s[pos] = byte(c)
			want := len(s)
			if c < ' ' || c > '~' || c == '=' {
				want = pos
			}
			if got := plainRun(string(s)); got != want {
				t.Fatalf("byte %#x at %d: run of %d, want %d", c, pos, got, want)
			}
			s[19] = 0xFF
			want = min(want, 19)
			if got := plainRun(string(s)); got != want {
				t.Fatalf("byte %#x at %d, 0xff at 19: run of %d, want %d", c, pos, got, want)
			}
		}
	}
}

func FuzzQuotedPrintable(f *testing.F) {
	for _, s := range []string{"a=b\r\n", "  \t \r", strings.Repeat("y ", 60), "é\x00\xff=", "\n.\n", "--=_x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		out := appendQuotedPrintable(nil, s)
		if bytes.Contains(out, []byte("=_")) {
			t.Fatalf("a boundary could occur in %q", out)
		}
		for line := range bytes.SplitSeq(out, []byte("\r\n")) {
			if len(line) > 76 || bytes.ContainsAny(line, "\r\n") || bytes.HasSuffix(line, []byte(" ")) || bytes.HasSuffix(line, []byte("\t")) {
				t.Fatalf("line %q", line)
			}
		}
		back, err := io.ReadAll(quotedprintable.NewReader(bytes.NewReader(out)))
		if err != nil {
			t.Fatal(err)
		}
		if string(back) != crlf(s) {
			t.Fatalf("%q\nencoded %q\nread %q", s, out, back)
		}
	})
}
