package smtppool

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

type gotReply struct {
	Code int
	Text string
}

// readAll reads replies until an error.
func readAll(r io.Reader) ([]gotReply, error) {
	rd := &replyReader{src: r}
	var got []gotReply
	for {
		r, err := rd.read()
		if err != nil {
			return got, err
		}
		got = append(got, gotReply{r.code, string(r.text)})
	}
}

func TestReplyReader(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 5000)
	for name, tt := range map[string]struct {
		in   string
		want []gotReply
		err  error
	}{
		"one line":               {"250 ok\r\n", []gotReply{{250, "ok"}}, io.EOF},
		"code alone":             {"250\r\n", []gotReply{{250, ""}}, io.EOF},
		"blank and no text":      {"250 \r\n", []gotReply{{250, ""}}, io.EOF},
		"several lines":          {"220-a\r\n220-\r\n220 c\r\n", []gotReply{{220, "a\n\nc"}}, io.EOF},
		"several replies":        {"250 a\r\n354 b\r\n", []gotReply{{250, "a"}, {354, "b"}}, io.EOF},
		"line feed alone":        {"250-a\n250 b\n", []gotReply{{250, "a\nb"}}, io.EOF},
		"two codes":              {"250-a\r\n550 b\r\n", nil, errReplyCodes},
		"ends in a line":         {"250 o", nil, io.ErrUnexpectedEOF},
		"ends between lines":     {"250-a\r\n", nil, io.ErrUnexpectedEOF},
		"nothing":                {"", nil, io.EOF},
		"line too long":          {"220 " + long + "\r\n", nil, errReplyLine},
		"line without end":       {long, nil, errReplyLine},
		"reply too long":         {strings.Repeat("250-x\r\n", 20000), nil, errReplySize},
		"longest line":           {"250 " + strings.Repeat("x", maxReplyLine-6) + "\r\n", []gotReply{{250, strings.Repeat("x", maxReplyLine-6)}}, io.EOF},
		"no reply":               {"hello\r\n", nil, new(notReplyError)},
		"class 1":                {"150 ok\r\n", nil, new(notReplyError)},
		"class 6":                {"650 ok\r\n", nil, new(notReplyError)},
		"two digits":             {"25 ok\r\n", nil, new(notReplyError)},
		"four digits":            {"2500 ok\r\n", nil, new(notReplyError)},
		"empty line":             {"\r\n", nil, new(notReplyError)},
		"no reply after a reply": {"250 ok\r\n<html>\r\n", []gotReply{{250, "ok"}}, new(notReplyError)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for how, r := range map[string]io.Reader{
				"whole":   strings.NewReader(tt.in),
				"bytes":   iotest.OneByteReader(strings.NewReader(tt.in)),
				"halves":  iotest.HalfReader(strings.NewReader(tt.in)),
				"err too": iotest.DataErrReader(strings.NewReader(tt.in)),
			} {
				got, err := readAll(r)
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Errorf("%s: %s", how, diff)
				}
				var no *notReplyError
				if errors.As(tt.err, &no) {
					if !errors.As(err, &no) {
						t.Errorf("%s: error %v, want a notReplyError", how, err)
					}
				} else if !errors.Is(err, tt.err) {
					t.Errorf("%s: error %v, want %v", how, err, tt.err)
				}
			}
		})
	}
}

func TestEnhanced(t *testing.T) {
	t.Parallel()
	for in, want := range map[string][2]string{
		"5.7.8 no":             {"5.7.8", "no"},
		"5.7.8":                {"5.7.8", ""},
		"5.7.8  two":           {"5.7.8", "two"},
		"5.7.8 a\n5.7.8 b":     {"5.7.8", "a\nb"},
		"5.7.8 a\nb":           {"5.7.8", "a\nb"},
		"5.123.123 x":          {"5.123.123", "x"},
		"4.7.8 other class":    {"", "4.7.8 other class"},
		"5.7 short":            {"", "5.7 short"},
		"5.7.8.9 long":         {"", "5.7.8.9 long"},
		"5.1234.1 digits":      {"", "5.1234.1 digits"},
		"5..1 empty":           {"", "5..1 empty"},
		"5.7.x":                {"", "5.7.x"},
		"3.0.0 no such class":  {"", "3.0.0 no such class"},
		"":                     {"", ""},
		"5.7.1: with a colon":  {"", "5.7.1: with a colon"},
		"mailbox 5.7.1 inside": {"", "mailbox 5.7.1 inside"},
	} {
		status, rest := enhanced(550, []byte(in))
		if status != want[0] || string(rest) != want[1] {
			t.Errorf("%q: %q %q, want %q", in, status, rest, want)
		}
	}
}

func TestClean(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"plain":                "plain",
		"a\r\nb\tc":            "a  b c",
		"\x1b[31mred\x07":      "?[31mred?",
		"bad \xff utf-8":       "bad ? utf-8",
		"größe €":              "größe €",
		"line\u2028sep\u0085x": "line?sep?x",
	} {
		if got := clean([]byte(in), 100); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	if got := clean([]byte("ab€€"), 6); got != "ab€" {
		t.Errorf("cut in a rune: %q", got)
	}
}

func TestQueueID(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"Ok: queued as 4XyZ1":        "4XyZ1",
		"OK: queued as <a@b>.":       "a@b",
		"OK id=1tAbCd-000000-ab end": "1tAbCd-000000-ab",
		"OK":                         "",
		"":                           "",
	} {
		if got := queueID(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// FuzzReplyReader: how a stream is cut into segments changes nothing, what is
// kept is bounded, and each reply is what its own lines say.
func FuzzReplyReader(f *testing.F) {
	f.Add([]byte("220-a\r\n220 b\r\n250 ok\r\n"), uint8(3))
	f.Add([]byte("250-a\r\n550 b\r\n"), uint8(1))
	f.Add([]byte("250\r\n5.7.8 x\r\n"), uint8(7))
	f.Fuzz(func(t *testing.T, in []byte, step uint8) {
		whole, err1 := readAll(bytes.NewReader(in))
		parts, err2 := readAll(&stepReader{r: bytes.NewReader(in), n: int(step)%97 + 1})
		if diff := cmp.Diff(whole, parts); diff != "" {
			t.Fatal(diff)
		}
		if err1.Error() != err2.Error() {
			t.Fatalf("%v and %v", err1, err2)
		}
		var echo []byte
		for _, r := range whole {
			if len(r.Text) > maxReply || r.Code < 200 || r.Code > 599 {
				t.Fatalf("reply %d with %d bytes", r.Code, len(r.Text))
			}
			status, rest := enhanced(r.Code, []byte(r.Text))
			if status != "" && (int(status[0]-'0') != r.Code/100 || !strings.HasPrefix(r.Text, status) || len(rest)+len(status) > len(r.Text)) {
				t.Fatalf("status %q from %q", status, r.Text)
			}
			if c := clean([]byte(r.Text), 100); len(c) > 100 || strings.ContainsFunc(c, func(r rune) bool { return r < ' ' }) {
				t.Fatalf("not clean: %q", c)
			}
			echo = appendReply(echo, reply{r.Code, []byte(r.Text)})
		}
		// What the guard hands on reads back as the same replies.
		back, _ := readAll(bytes.NewReader(echo))
		if len(back) != len(whole) {
			t.Fatalf("%d replies became %d", len(whole), len(back))
		}
		for i := range back {
			if back[i].Code != whole[i].Code {
				t.Fatalf("code %d became %d", whole[i].Code, back[i].Code)
			}
		}
	})
}

type stepReader struct {
	r io.Reader
	n int
}

func (s *stepReader) Read(p []byte) (int, error) { return s.r.Read(p[:min(len(p), s.n)]) }
