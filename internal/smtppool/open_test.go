package smtppool

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/getfluxly/fluxly/internal/smtptest"
)

// The numbers are those of the protocol's common faults; each is one way in
// which an opening fails, and what must not have been said before.
func TestOpenFails(t *testing.T) {
	t.Parallel()
	yesterday := time.Now().Add(-24 * time.Hour)
	for name, tt := range map[string]struct {
		hook    func(c *smtptest.Conn, command string) bool
		server  func(s *smtptest.Server)
		tls     func(t *testing.T, ca *smtptest.CA) *tls.Config
		config  func(c *Config)
		outcome Outcome
		phase   string
		reason  Reason
		code    int
		text    string
	}{
		"accepts and never greets": {
			hook:   func(c *smtptest.Conn, cmd string) bool { c.Silence(); return true },
			config: func(c *Config) { c.CommandTimeout = 20 * time.Millisecond },
			phase:  PhaseGreeting, reason: ReasonTimeout, text: "no answer within 20ms",
		},
		"trickles a greeting": {
			hook: func(c *smtptest.Conn, cmd string) bool {
				tick := time.NewTicker(5 * time.Millisecond)
				defer tick.Stop()
				for range tick.C {
					c.Write("220-x\r\n")
				}
				return true
			},
			config: func(c *Config) { c.CommandTimeout = 50 * time.Millisecond },
			phase:  PhaseGreeting, reason: ReasonTimeout,
		},
		"greeting 554": {
			hook:    onGreeting("554 5.7.1 go away"),
			outcome: Rejected, phase: PhaseGreeting, reason: ReasonReply, code: 554, text: "go away",
		},
		"greeting 421": {
			hook:  onGreeting("421 4.3.2 closing"),
			phase: PhaseGreeting, reason: ReasonReply, code: 421,
		},
		"greeting of 5,000 bytes in a line": {
			hook:  onGreeting("220 " + strings.Repeat("x", 5000)),
			phase: PhaseGreeting, reason: ReasonProtocol, text: errReplyLine.Error(),
		},
		"greeting is HTTP": {
			hook:  onGreeting("HTTP/1.1 400 Bad Request"),
			phase: PhaseGreeting, reason: ReasonProtocol, text: `"HTTP/1.1 400 Bad Request" is no SMTP reply`,
		},
		"greeting is a prompt": {
			hook:  onGreeting("354 go on"),
			phase: PhaseGreeting, reason: ReasonProtocol, text: "reply out of place: 354 go on",
		},
		"greeted twice": {
			hook:  onGreeting("220 a\r\n220 b"),
			phase: PhaseGreeting, reason: ReasonProtocol, text: errReplyExtra.Error(),
		},
		"closed at once": {
			hook:  func(c *smtptest.Conn, cmd string) bool { c.Close(); return true },
			phase: PhaseGreeting, reason: ReasonClosed,
		},
		"reset at EHLO": {
			hook:  on("EHLO", func(c *smtptest.Conn) { c.Reset() }),
			phase: PhaseEHLO, reason: ReasonClosed,
		},
		"EHLO not known": {
			hook:    on("EHLO", func(c *smtptest.Conn) { c.Reply("502 5.5.1 what?") }),
			outcome: Rejected, phase: PhaseEHLO, reason: ReasonReply, code: 502, text: "what?",
		},
		"EHLO refused for the name": {
			hook:    on("EHLO", func(c *smtptest.Conn) { c.Reply("550 5.7.1 bad name") }),
			outcome: Rejected, phase: PhaseEHLO, reason: ReasonReply, code: 550,
		},
		"EHLO answered without end": {
			hook: on("EHLO", func(c *smtptest.Conn) {
				for {
					c.Write(strings.Repeat("250-x\r\n", 1000))
				}
			}),
			phase: PhaseEHLO, reason: ReasonProtocol, text: errReplySize.Error(),
		},
		"STARTTLS not offered": {
			hook:    on("EHLO", func(c *smtptest.Conn) { c.Reply("250-x", "250 AUTH PLAIN") }),
			outcome: Rejected, phase: PhaseSTARTTLS, reason: ReasonNoSTARTTLS,
		},
		"STARTTLS not ready": {
			hook:  on("STARTTLS", func(c *smtptest.Conn) { c.Reply("454 4.7.0 later") }),
			phase: PhaseSTARTTLS, reason: ReasonNoSTARTTLS, code: 454,
		},
		"STARTTLS refused": {
			hook:    on("STARTTLS", func(c *smtptest.Conn) { c.Reply("501 5.5.4 no") }),
			outcome: Rejected, phase: PhaseSTARTTLS, reason: ReasonNoSTARTTLS, code: 501,
		},
		"plain text behind STARTTLS": {
			hook: on("STARTTLS", func(c *smtptest.Conn) {
				c.Write("220 go\r\n250-x\r\n250 AUTH PLAIN\r\n")
				c.Silence()
			}),
			phase: PhaseSTARTTLS, reason: ReasonInjection,
		},
		"closed in the handshake": {
			hook: on("STARTTLS", func(c *smtptest.Conn) {
				c.Write("220 go\r\n")
				c.Close()
			}),
			phase: PhaseSTARTTLS, reason: ReasonClosed,
		},
		"no TLS behind STARTTLS": {
			hook: on("STARTTLS", func(c *smtptest.Conn) {
				c.Write("220 go\r\n")
				c.Line()
				c.Write("500 what is that?\r\n")
				c.Silence()
			}),
			outcome: Rejected, phase: PhaseSTARTTLS, reason: ReasonNotTLS,
		},
		"certificate for another name": {
			tls: func(t *testing.T, ca *smtptest.CA) *tls.Config {
				return &tls.Config{Certificates: []tls.Certificate{ca.Issue(t, time.Now().Add(time.Hour), "smtp.other.test")}}
			},
			outcome: Rejected, phase: PhaseSTARTTLS, reason: ReasonCertName, text: "127.0.0.1",
		},
		"certificate expired": {
			tls: func(t *testing.T, ca *smtptest.CA) *tls.Config {
				return &tls.Config{Certificates: []tls.Certificate{ca.Issue(t, yesterday, "127.0.0.1")}}
			},
			outcome: Rejected, phase: PhaseSTARTTLS, reason: ReasonCertExpired,
		},
		"certificate of an unknown authority": {
			config:  func(c *Config) { c.TLS = new(tls.Config) },
			outcome: Rejected, phase: PhaseSTARTTLS, reason: ReasonCertUnknown,
		},
		"TLS 1.1 at most": {
			tls: func(t *testing.T, ca *smtptest.CA) *tls.Config {
				return &tls.Config{
					MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11, //nolint:gosec // the fault to be tested
					Certificates: []tls.Certificate{ca.Issue(t, time.Now().Add(time.Hour), "127.0.0.1")},
				}
			},
			outcome: Rejected, phase: PhaseSTARTTLS, reason: ReasonTLSVersion,
		},
		"implicit TLS to a port with STARTTLS": {
			config:  func(c *Config) { c.Security = ImplicitTLS },
			outcome: Rejected, phase: PhaseDial, reason: ReasonNotTLS,
		},
		"AUTH in the first EHLO alone": {
			hook: func(c *smtptest.Conn, cmd string) bool {
				if verb(cmd) != "EHLO" {
					return false
				}
				if _, ok := c.Conn.(*tls.Conn); ok {
					c.Reply("250-x", "250 SIZE")
				} else {
					c.Reply("250-x", "250-STARTTLS", "250 AUTH PLAIN")
				}
				return true
			},
			outcome: Rejected, phase: PhaseAuth, reason: ReasonNoAuth, text: "server offers no AUTH",
		},
		"PLAIN not offered": {
			hook:    overTLS("EHLO", "250-x", "250 AUTH login cram-md5"),
			outcome: Rejected, phase: PhaseAuth, reason: ReasonNoAuth, text: "server offers AUTH LOGIN CRAM-MD5, not PLAIN",
		},
		"AUTH 535": {
			config:  func(c *Config) { c.Password = "wrong-token" },
			outcome: Rejected, phase: PhaseAuth, reason: ReasonAuth, code: 535, text: "Authentication failed",
		},
		"AUTH 535 that quotes the credentials": {
			hook: func(c *smtptest.Conn, cmd string) bool {
				if verb(cmd) == "AUTH" {
					c.Reply("535 5.7.8 no: wrong-token in " + strings.TrimPrefix(cmd, "AUTH PLAIN "))
				}
				return verb(cmd) == "AUTH"
			},
			config:  func(c *Config) { c.Password = "wrong-token" },
			outcome: Rejected, phase: PhaseAuth, reason: ReasonAuth, code: 535, text: "no: [redacted] in [redacted]",
		},
		"AUTH answered by garbage that quotes the credentials": {
			hook: func(c *smtptest.Conn, cmd string) bool {
				if verb(cmd) == "AUTH" {
					c.Reply("got " + cmd)
				}
				return verb(cmd) == "AUTH"
			},
			config: func(c *Config) { c.Password = "wrong-token" },
			phase:  PhaseAuth, reason: ReasonProtocol, text: `"got AUTH PLAIN [redacted]" is no SMTP reply`,
		},
		"AUTH 454": {
			hook:  on("AUTH", func(c *smtptest.Conn) { c.Reply("454 4.7.0 later") }),
			phase: PhaseAuth, reason: ReasonReply, code: 454,
		},
		"AUTH 504": {
			hook:    on("AUTH", func(c *smtptest.Conn) { c.Reply("504 5.5.4 no PLAIN") }),
			outcome: Rejected, phase: PhaseAuth, reason: ReasonReply, code: 504,
		},
		"AUTH asks for more": {
			hook: on("AUTH", func(c *smtptest.Conn) {
				c.Reply("334 ")
				if line := c.Line(); line != "*" {
					c.Reply("235 got " + line)
				}
				c.Reply("501 5.7.0 cancelled")
			}),
			phase: PhaseAuth, reason: ReasonProtocol, text: "server asked for more than AUTH PLAIN holds",
		},
		"AUTH answered 250": {
			hook:  on("AUTH", func(c *smtptest.Conn) { c.Reply("250 fine") }),
			phase: PhaseAuth, reason: ReasonProtocol, text: "reply out of place: 250 fine",
		},
		"closes after each command": {
			hook: func(c *smtptest.Conn, cmd string) bool {
				if cmd != "" {
					c.Close()
				}
				return false
			},
			phase: PhaseEHLO, reason: ReasonClosed,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := &smtptest.Server{Hook: tt.hook}
			if tt.tls != nil {
				// The certificate must be of the server's own authority.
				ca := smtptest.NewCA(t)
				srv.TLS = tt.tls(t, ca)
				srv.Start(t)
				srv.CA = ca
			} else {
				srv.Start(t)
			}
			var logged syncBuffer
			p := newPool(t, srv, func(c *Config) {
				c.Logger = slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
				if tt.config != nil {
					tt.config(c)
				}
			})
			got := send(t, p)
			want(t, got, tt.outcome, tt.phase, tt.reason, true)
			if got.Code != tt.code {
				t.Errorf("code %d, want %d", got.Code, tt.code)
			}
			if tt.text != "" && !strings.Contains(got.Error(), tt.text) {
				t.Errorf("%q lacks %q", got, tt.text)
			}
			for _, c := range srv.Commands() {
				if tt.phase != PhaseAuth && (verb(c) == "AUTH" || verb(c) == "MAIL") || verb(c) == "HELO" {
					t.Errorf("client went on to %q", c)
				}
				if c == "*" {
					t.Error("client sent * behind a refusal")
				}
			}
			for _, secret := range []string{"wrong-token", base64.StdEncoding.EncodeToString([]byte("\x00token\x00wrong-token"))} {
				if strings.Contains(logged.String()+fmt.Sprintf("%v %+v %#v", got, got, *got), secret) {
					t.Errorf("credentials in error or log")
				}
			}
		})
	}
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// on does something in place of a command's answer.
func on(command string, do func(c *smtptest.Conn)) func(*smtptest.Conn, string) bool {
	return func(c *smtptest.Conn, line string) bool {
		if verb(line) != command {
			return false
		}
		do(c)
		return true
	}
}

// onGreeting greets in another way.
func onGreeting(text string) func(*smtptest.Conn, string) bool {
	return func(c *smtptest.Conn, line string) bool {
		if line == "" {
			c.Reply(text)
		}
		return line == ""
	}
}

// overTLS answers a command once the connection is TLS.
func overTLS(command string, lines ...string) func(*smtptest.Conn, string) bool {
	return func(c *smtptest.Conn, line string) bool {
		if _, ok := c.Conn.(*tls.Conn); !ok || verb(line) != command {
			return false
		}
		c.Reply(lines...)
		return true
	}
}

func TestOpenNobodyListens(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	p, err := New(Config{Addr: addr, Username: "token", Password: "token"})
	if err != nil {
		t.Fatal(err)
	}
	want(t, send(t, p), Deferred, PhaseDial, ReasonRefused, true)
	// The next is told the same without a dial.
	got := send(t, p)
	want(t, got, Deferred, PhaseDial, ReasonRefused, true)
	if got.RetryAfter <= 0 || got.RetryAfter > 500*time.Millisecond {
		t.Errorf("retry after %v", got.RetryAfter)
	}
	if n := p.Stats().Dials; n != 1 {
		t.Errorf("%d dials, want 1", n)
	}
}

func TestOpenNoSuchHost(t *testing.T) {
	t.Parallel()
	srv := new(smtptest.Server).Start(t)
	p := newPool(t, srv, func(c *Config) {
		c.Addr = "smtp.nowhere.invalid:587"
		c.Dial = func(context.Context, string, string) (net.Conn, error) {
			return nil, &net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: "smtp.nowhere.invalid", IsNotFound: true}}
		}
	})
	want(t, send(t, p), Deferred, PhaseDial, ReasonNoHost, true)
}

// A port that drops packets is a dial that never ends.
func TestOpenDialTimesOut(t *testing.T) {
	t.Parallel()
	srv := new(smtptest.Server).Start(t)
	p := newPool(t, srv, func(c *Config) {
		c.DialTimeout = 10 * time.Millisecond
		c.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
	})
	got := send(t, p)
	want(t, got, Deferred, PhaseDial, ReasonTimeout, true)
	if errors.Is(got, context.DeadlineExceeded) || !strings.Contains(got.Error(), "no connection within 10ms") {
		t.Errorf("got %v, which is not about the caller's context", got)
	}
}

func TestOpenPlainOnlyToThisMachine(t *testing.T) {
	t.Parallel()
	srv := (&smtptest.Server{NoTLS: true}).Start(t)
	here := newPool(t, srv, func(c *Config) { c.Security = PlainLoopback })
	if got := send(t, here); got != nil {
		t.Fatal(got)
	}
	away := newPool(t, srv, func(c *Config) {
		c.Security = PlainLoopback
		c.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, addr)
			return elsewhere{conn}, err
		}
	})
	want(t, send(t, away), Rejected, PhaseDial, ReasonNotLoopback, true)
	if n := len(srv.Mails()); n != 1 {
		t.Errorf("%d mails, want 1", n)
	}
}

// elsewhere is a connection to an address that is not this machine's.
type elsewhere struct{ net.Conn }

func (elsewhere) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 25} }

func TestOpenImplicitTLS(t *testing.T) {
	t.Parallel()
	srv := (&smtptest.Server{ImplicitTLS: true}).Start(t)
	p := newPool(t, srv, func(c *Config) { c.Security = ImplicitTLS })
	if got := send(t, p); got != nil {
		t.Fatal(got)
	}
	if n := p.Stats().Handshakes; n != 1 {
		t.Errorf("%d handshakes", n)
	}
}

// Servers spell and wrap what they announce in many ways.
func TestOpenOddServers(t *testing.T) {
	t.Parallel()
	ehlo := func(plain, secure []string) func(c *smtptest.Conn, cmd string) bool {
		return func(c *smtptest.Conn, cmd string) bool {
			if verb(cmd) != "EHLO" {
				return false
			}
			if _, ok := c.Conn.(*tls.Conn); ok {
				c.Reply(secure...)
			} else {
				c.Reply(plain...)
			}
			return true
		}
	}
	starttls, auth := []string{"250-x", "250 STARTTLS"}, []string{"250-x", "250 AUTH PLAIN"}
	for name, hook := range map[string]func(c *smtptest.Conn, cmd string) bool{
		"greeting of several lines": onGreeting("220-welcome\r\n220-\r\n220 ready"),
		"lower case":                ehlo([]string{"250-x", "250 starttls"}, []string{"250-x", "250-Auth  plain", "250 size 1000000"}),
		"AUTH=":                     ehlo(starttls, []string{"250-x", "250 AUTH=PLAIN"}),
		"AUTH= and more":            ehlo(starttls, []string{"250-x", "250-AUTH LOGIN", "250 AUTH=LOGIN PLAIN"}),
		"doubled blanks":            ehlo([]string{"250-x", "250  STARTTLS "}, []string{"250-x", "250  AUTH   LOGIN   PLAIN "}),
		"unknown keywords":          ehlo([]string{"250-x", "250-X-FOO bar", "250-", "250 STARTTLS"}, []string{"250-x", "250-\xff\xfe", "250-SIZE x", "250 AUTH PLAIN"}),
		"line feeds alone":          ehlo([]string{"250-x\n250 STARTTLS"}, []string{"250-x\n250 AUTH PLAIN"}),
		"235 without text":          on("AUTH", func(c *smtptest.Conn) { c.Reply("235") }),
		"a reply in bytes": func(c *smtptest.Conn, cmd string) bool {
			lines := map[string][]string{"": {"220 a"}, "EHLO": auth}[verb(cmd)]
			if _, ok := c.Conn.(*tls.Conn); !ok && verb(cmd) == "EHLO" {
				lines = starttls
			}
			for _, b := range strings.Join(append(lines, ""), "\r\n") {
				c.Write(string(b))
			}
			return lines != nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := (&smtptest.Server{Hook: hook}).Start(t)
			if got := send(t, newPool(t, srv, nil)); got != nil {
				t.Fatal(got)
			}
			if n := len(srv.Mails()); n != 1 {
				t.Errorf("%d mails", n)
			}
		})
	}
}

func TestOpenDialogue(t *testing.T) {
	t.Parallel()
	srv := new(smtptest.Server).Start(t)
	p := newPool(t, srv, nil)
	for range 3 {
		if got := send(t, p); got != nil {
			t.Fatal(got)
		}
	}
	auth := "AUTH PLAIN " + base64.StdEncoding.EncodeToString([]byte("\x00token\x00token"))
	one := []string{"MAIL FROM:<" + from + ">", "RCPT TO:<" + to + ">", "DATA"}
	wanted := append([]string{"EHLO [127.0.0.1]", "STARTTLS", "EHLO [127.0.0.1]", auth}, one...)
	wanted = append(append(wanted, one...), one...)
	if diff := cmp.Diff(wanted, srv.Commands()); diff != "" {
		t.Error(diff)
	}
	// Greeting, EHLO, STARTTLS, EHLO, AUTH; then four a mail.
	if n := p.Stats().RoundTrips; n != 5+3*4 {
		t.Errorf("%d round trips", n)
	}
	if early := srv.Early(); early != nil {
		t.Errorf("did not wait after %q", early)
	}
}

func TestOpenLocalName(t *testing.T) {
	t.Parallel()
	srv := new(smtptest.Server).Start(t)
	if got := send(t, newPool(t, srv, func(c *Config) { c.LocalName = "app.acme.test" })); got != nil {
		t.Fatal(got)
	}
	if c := srv.Commands()[0]; c != "EHLO app.acme.test" {
		t.Errorf("said %q", c)
	}
}

// Refused credentials are tried once, however many send, and then held back.
func TestOpenAuthIsNotHammered(t *testing.T) {
	t.Parallel()
	srv := new(smtptest.Server).Start(t)
	p := newPool(t, srv, func(c *Config) { c.Password = "wrong" })
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			_, err := p.Send(t.Context(), from, to, []byte(mail))
			var e *Error
			if !errors.As(err, &e) || e.Reason != ReasonAuth || !e.Account {
				t.Errorf("got %v", err)
			}
		})
	}
	all.Wait()
	got := failure(t, p.Verify(t.Context()))
	want(t, got, Rejected, PhaseAuth, ReasonAuth, true)
	if got.RetryAfter < 50*time.Second || got.RetryAfter > time.Minute {
		t.Errorf("retry after %v, want about a minute", got.RetryAfter)
	}
	n := 0
	for _, c := range srv.Commands() {
		if verb(c) == "AUTH" {
			n++
		}
	}
	if n != 1 {
		t.Errorf("logged in %d times, want 1", n)
	}
}

func TestOpenCanceled(t *testing.T) {
	t.Parallel()
	for _, phase := range []string{"", "EHLO", "STARTTLS", "AUTH"} {
		t.Run("at "+phase, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancel(t.Context())
			srv := (&smtptest.Server{Hook: func(c *smtptest.Conn, cmd string) bool {
				if verb(cmd) == phase {
					cancel()
					c.Silence()
				}
				return false
			}}).Start(t)
			p := newPool(t, srv, nil)
			_, err := p.Send(ctx, from, to, []byte(mail))
			got := failure(t, err)
			if got == nil || got.Outcome != Deferred || got.Reason != ReasonCanceled || got.Account || !errors.Is(err, context.Canceled) {
				t.Fatalf("got %v", err)
			}
			// It says nothing about the server: the next may dial at once.
			if st := p.Stats(); st.Open != 0 {
				t.Errorf("%+v", st)
			}
		})
	}
}

// A reply of 10 MB is given up after its first 64 KB.
func TestOpenEndlessReply(t *testing.T) {
	t.Parallel()
	line := "220-" + strings.Repeat("x", 500) + "\r\n"
	srv := (&smtptest.Server{Hook: func(c *smtptest.Conn, cmd string) bool {
		for i := 0; i < 10<<20; i += len(line) {
			c.Write(line)
		}
		return true
	}}).Start(t)
	want(t, send(t, newPool(t, srv, nil)), Deferred, PhaseGreeting, ReasonProtocol, true)

	src := &endless{line: line}
	rd := &replyReader{src: src}
	if _, err := rd.read(); !errors.Is(err, errReplySize) {
		t.Errorf("got %v", err)
	}
	if src.n > maxReply+2*maxReplyLine || cap(rd.text) > 2*maxReply {
		t.Errorf("read %d bytes and kept room for %d", src.n, cap(rd.text))
	}
}

type endless struct {
	line string
	n    int
}

func (e *endless) Read(p []byte) (int, error) {
	n := copy(p, e.line)
	e.n += n
	return n, nil
}
