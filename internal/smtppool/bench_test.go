package smtppool

import (
	"bytes"
	"context"
	"net"
	"strings"
	"testing"
	"time"
)

// echoConn answers each write as a server would, without a server: what is
// measured is the client alone.
type echoConn struct {
	greeting string
	out      []byte
	read     int
}

func (c *echoConn) Read(p []byte) (int, error) {
	n := copy(p, c.out[c.read:])
	c.read += n
	return n, nil
}

var echoReplies = []struct{ prefix, reply []byte }{
	{[]byte("EHLO"), nil},
	{[]byte("MAIL"), []byte("250 2.1.0 ok\r\n")},
	{[]byte("RCPT"), []byte("250 2.1.5 ok\r\n")},
	{[]byte("DATA"), []byte("354 go on\r\n")},
	{[]byte("QUIT"), []byte("221 bye\r\n")},
}

func (c *echoConn) Write(p []byte) (int, error) {
	c.read = 0
	if bytes.HasSuffix(p, []byte("\r\n.\r\n")) {
		c.out = append(c.out[:0], "250 2.0.0 Ok: queued as 4Xyz\r\n"...)
		return len(p), nil
	}
	c.out = c.out[:0]
	for line := range bytes.Lines(p) {
		for _, r := range echoReplies {
			if bytes.HasPrefix(line, r.prefix) {
				if r.reply == nil {
					c.out = append(c.out, c.greeting...)
				}
				c.out = append(c.out, r.reply...)
			}
		}
	}
	return len(p), nil
}

func (c *echoConn) Close() error                     { return nil }
func (c *echoConn) LocalAddr() net.Addr              { return &net.UnixAddr{} }
func (c *echoConn) RemoteAddr() net.Addr             { return &net.UnixAddr{} }
func (c *echoConn) SetDeadline(time.Time) error      { return nil }
func (c *echoConn) SetReadDeadline(time.Time) error  { return nil }
func (c *echoConn) SetWriteDeadline(time.Time) error { return nil }

func echoPool(tb testing.TB, keywords string) *Pool {
	tb.Helper()
	p, err := New(Config{
		Addr: "echo:25", Security: PlainLoopback, MaxMessages: 1 << 40,
		Dial: func(context.Context, string, string) (net.Conn, error) {
			return &echoConn{greeting: "250-echo\r\n" + keywords + "250 SIZE 20000000\r\n", out: []byte("220 echo\r\n")}, nil
		},
	})
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

// What a mail costs besides the wire: a few allocations, and none that grow
// with the mail.
func TestSendAllocates(t *testing.T) { //nolint:paralleltest // counts allocations
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	data := []byte("Subject: hi\r\n\r\n" + strings.Repeat(strings.Repeat("x", 70)+"\r\n.dot\r\n", 100))
	for _, keywords := range []string{"", "250-PIPELINING\r\n"} {
		p := echoPool(t, keywords)
		allocs := testing.AllocsPerRun(200, func() {
			if _, err := p.Send(ctx, from, to, data); err != nil {
				t.Fatal(err)
			}
		})
		if allocs > 6 {
			t.Errorf("%q: %.1f allocations a mail, at most 6", keywords, allocs)
		}
		t.Logf("%q: %.1f allocations a mail", keywords, allocs)
		closePool(t, p)
	}
}

func BenchmarkSend(b *testing.B) {
	data := []byte("Subject: hi\r\n\r\n" + strings.Repeat(strings.Repeat("x", 70)+"\r\n.dot\r\n", 100))
	for name, keywords := range map[string]string{"lock step": "", "pipelining": "250-PIPELINING\r\n"} {
		b.Run(name, func(b *testing.B) {
			p := echoPool(b, keywords)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := p.Send(b.Context(), from, to, data); err != nil {
					b.Fatal(err)
				}
			}
			_ = p.Close(context.Background())
		})
	}
}
