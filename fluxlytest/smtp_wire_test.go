package fluxlytest

import (
	"bufio"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/textproto"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPostmarkSMTPBeforeTLS(t *testing.T) {
	t.Parallel()
	plain := base64.StdEncoding.EncodeToString([]byte("\x00tok\x00tok"))
	t.Run("login is refused and not offered", func(t *testing.T) {
		t.Parallel()
		s := start(t, PostmarkSMTPConfig{Token: "tok"})
		r := newRaw(t, s)
		r.say(t, "EHLO client.test")
		ext := r.want(t, "250")
		if !strings.Contains(ext, "STARTTLS") || strings.Contains(ext, "AUTH") || strings.Contains(ext, "CHUNKING") || !strings.Contains(ext, "PIPELINING") {
			t.Errorf("EHLO offers %q, want STARTTLS and PIPELINING, no AUTH, no CHUNKING", ext)
		}
		r.say(t, "AUTH PLAIN "+plain)
		r.want(t, "530 5.7.0")
		r.say(t, "MAIL FROM:<a@acme.test>")
		r.want(t, "530 5.7.0")
		r.startTLS(t)
		r.say(t, "AUTH PLAIN "+plain) // EHLO has to come again first
		r.want(t, "503 5.5.1")
		r.say(t, "EHLO client.test")
		if ext := r.want(t, "250"); strings.Contains(ext, "STARTTLS") || !strings.Contains(ext, "AUTH PLAIN") {
			t.Errorf("EHLO under TLS offers %q, want AUTH PLAIN, no STARTTLS", ext)
		}
		r.say(t, "AUTH PLAIN") // without an initial response
		r.want(t, "334")
		r.say(t, plain)
		r.want(t, "235")
	})
	t.Run("login in the clear when allowed", func(t *testing.T) {
		t.Parallel()
		s := start(t, PostmarkSMTPConfig{Token: "tok", AllowInsecureAuth: true, NoPipelining: true, NoSTARTTLS: true})
		r := newRaw(t, s)
		r.say(t, "EHLO client.test")
		if ext := r.want(t, "250"); !strings.Contains(ext, "AUTH PLAIN") || strings.Contains(ext, "STARTTLS") || strings.Contains(ext, "PIPELINING") {
			t.Errorf("EHLO offers %q, want AUTH PLAIN, no STARTTLS, no PIPELINING", ext)
		}
		r.say(t, "STARTTLS")
		r.want(t, "502")
		r.say(t, "AUTH PLAIN "+plain)
		r.want(t, "235")
	})
	t.Run("commands after STARTTLS", func(t *testing.T) {
		t.Parallel()
		s := start(t, PostmarkSMTPConfig{})
		r := newRaw(t, s)
		r.say(t, "EHLO client.test")
		r.want(t, "250")
		r.say(t, "STARTTLS\r\nNOOP")
		r.want(t, "554")
		if _, err := r.text.ReadLine(); err == nil {
			t.Error("the connection is still open")
		}
	})
	t.Run("certificate for another name", func(t *testing.T) {
		t.Parallel()
		s := start(t, PostmarkSMTPConfig{Hostnames: []string{"mail.acme.test"}})
		c, err := dial(t, s)
		if err == nil { // go-smtp shakes hands with the first command
			err = c.Hello("client.test")
		}
		var name *tls.CertificateVerificationError
		if !errors.As(err, &name) {
			t.Errorf("dial = %v, want a certificate error", err)
		}
	})
	t.Run("endless command", func(t *testing.T) {
		t.Parallel()
		s := start(t, PostmarkSMTPConfig{})
		r := newRaw(t, s)
		go func() { _, _ = io.WriteString(r.conn, strings.Repeat("x", 1<<20)) }()
		r.want(t, "500")
	})
}

// TestPostmarkSMTPPipelining sends whole transactions in one write, with text
// in the body that looks like commands.
func TestPostmarkSMTPPipelining(t *testing.T) {
	t.Parallel()
	s := start(t, PostmarkSMTPConfig{})
	r := newRaw(t, s)
	r.startTLS(t)
	r.login(t)
	bodies := []string{
		"DATA\r\nQUIT\r\nSTARTTLS\r\n",
		"bare\n.\r\nstill the body\r\n",
		"odd\r\r\n.\r\nstill\r\n", // no line end for go-smtp, whose reading decides
		strings.Repeat("x", 10_000) + "\r\n",
	}
	var out strings.Builder
	for _, b := range bodies {
		out.WriteString("MAIL FROM:<a@acme.test>\r\nRCPT TO:<ann@acme.test>\r\nDATA\r\n" + mailWith() + b + "\r\n.\r\n")
	}
	out.WriteString("NOOP")
	r.say(t, out.String())
	for range bodies {
		for _, code := range []string{"250", "250", "354", "250"} {
			r.want(t, code)
		}
	}
	r.want(t, "250")
	var got []string
	for _, m := range s.Mails() {
		got = append(got, strings.TrimSuffix(strings.TrimPrefix(string(m.Raw), mailWith()), "\r\n"))
	}
	if diff := cmp.Diff(bodies, got); diff != "" {
		t.Errorf("bodies (-want +got):\n%s", diff)
	}
	if n := s.Stats().Commands["QUIT"]; n != 0 {
		t.Error("a line of a body was taken for a command")
	}
	if p := s.Mails()[1].Problems; len(p) == 0 {
		t.Error("no problem was noted for a bare LF")
	}
	if p := s.Mails()[3].Problems; len(p) == 0 {
		t.Error("no problem was noted for a line of 10,000 bytes")
	}
	if st := s.Stats(); st.Commands["NOOP"] != 1 {
		t.Errorf("NOOP was seen %d times, want 1", st.Commands["NOOP"])
	}
}

// raw is a client that says exactly what it is told.
type raw struct {
	conn net.Conn
	text *textproto.Reader
	srv  *PostmarkSMTP
}

func newRaw(t *testing.T, s *PostmarkSMTP) *raw {
	t.Helper()
	conn, err := net.Dial("tcp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	r := &raw{srv: s}
	r.use(conn)
	r.want(t, "220")
	return r
}

func (r *raw) use(conn net.Conn) {
	r.conn, r.text = conn, textproto.NewReader(bufio.NewReader(conn))
}

func (r *raw) say(t *testing.T, line string) {
	t.Helper()
	if _, err := io.WriteString(r.conn, line+"\r\n"); err != nil {
		t.Fatal(err)
	}
}

// want reads a reply, which has to begin with the prefix, and returns it.
func (r *raw) want(t *testing.T, prefix string) string {
	t.Helper()
	var reply []string
	for {
		line, err := r.text.ReadLine()
		if err != nil {
			t.Fatalf("read a reply: %v, want %q", err, prefix)
		}
		reply = append(reply, line)
		if len(line) < 4 || line[3] != '-' {
			break
		}
	}
	if !strings.HasPrefix(reply[len(reply)-1], prefix) {
		t.Fatalf("reply %q, want %q", reply, prefix)
	}
	return strings.Join(reply, "\n")
}

func (r *raw) startTLS(t *testing.T) {
	t.Helper()
	r.say(t, "STARTTLS")
	r.want(t, "220")
	r.use(tls.Client(r.conn, &tls.Config{RootCAs: r.srv.RootCAs(), ServerName: "localhost", MinVersion: tls.VersionTLS12}))
}

func (r *raw) login(t *testing.T) {
	t.Helper()
	r.say(t, "EHLO client.test")
	r.want(t, "250")
	r.say(t, "AUTH PLAIN "+base64.StdEncoding.EncodeToString([]byte("\x00"+r.srv.Token+"\x00"+r.srv.Token)))
	r.want(t, "235")
}

// session goes up to the DATA command.
func (r *raw) session(t *testing.T) {
	t.Helper()
	r.startTLS(t)
	r.login(t)
	r.say(t, "MAIL FROM:<a@acme.test>")
	r.want(t, "250")
	r.say(t, "RCPT TO:<ann@acme.test>")
	r.want(t, "250")
}
