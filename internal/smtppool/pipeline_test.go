package smtppool

import (
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/getfluxly/fluxly/internal/smtptest"
)

var pipelining = []string{"pipelining", "SIZE 1000000"}

// MAIL, RCPT and DATA go in one write and the mail in the next: two round
// trips, and never a byte behind DATA before the 354.
func TestPipeline(t *testing.T) {
	t.Parallel()
	srv := (&smtptest.Server{Keywords: pipelining}).Start(t)
	p := newPool(t, srv, nil)
	for range 3 {
		if got := send(t, p); got != nil {
			t.Fatal(got)
		}
	}
	one := []string{fmt.Sprintf("MAIL FROM:<%s> SIZE=%d", from, len(mail)), "RCPT TO:<" + to + ">"}
	wanted := append(append(append([]string(nil), one...), one...), one...)
	if diff := cmp.Diff(wanted, srv.Early()); diff != "" {
		t.Error("the commands that were not waited for:", diff)
	}
	if n := p.Stats().RoundTrips; n != 5+3*2 {
		t.Errorf("%d round trips", n)
	}
	if n := len(srv.Mails()); n != 3 {
		t.Errorf("%d mails", n)
	}
}

func TestPipelineSwitchedOff(t *testing.T) {
	t.Parallel()
	srv := (&smtptest.Server{Keywords: pipelining}).Start(t)
	p := newPool(t, srv, func(c *Config) { c.NoPipelining = true })
	if got := send(t, p); got != nil {
		t.Fatal(got)
	}
	if early := srv.Early(); early != nil {
		t.Errorf("did not wait after %q", early)
	}
}

// Announced before TLS it means nothing: anybody may have said so.
func TestPipelineOnlyAsAnnouncedOverTLS(t *testing.T) {
	t.Parallel()
	srv := (&smtptest.Server{Hook: func(c *smtptest.Conn, cmd string) bool {
		if c.Conn == nil || verb(cmd) != "EHLO" || c.Mails > 0 {
			return false
		}
		if _, plain := c.Conn.(*net.TCPConn); plain {
			c.Reply("250-x", "250-PIPELINING", "250 STARTTLS")
			return true
		}
		return false
	}}).Start(t)
	if got := send(t, newPool(t, srv, nil)); got != nil {
		t.Fatal(got)
	}
	if early := srv.Early(); early != nil {
		t.Errorf("did not wait after %q", early)
	}
}

// What is refused within a group, and what the server says behind it: the
// first refusal is the reason, all replies are read, and a server that wants
// the mail all the same gets neither mail nor dot.
func TestPipelineRefusals(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		replies []string // to MAIL, RCPT, DATA; empty for none
		outcome Outcome
		phase   string
		code    int
		// same: the session may be used again.
		same bool
	}{
		"MAIL":                         {[]string{"550 no", "503 MAIL first", "503 RCPT first"}, Rejected, PhaseMail, 550, true},
		"MAIL for now":                 {[]string{"451 later", "503 MAIL first", "503 RCPT first"}, Deferred, PhaseMail, 451, true},
		"MAIL, DATA granted":           {[]string{"550 no", "503 MAIL first", "354 go on"}, Rejected, PhaseMail, 550, false},
		"MAIL, the others granted":     {[]string{"451 later", "250 ok", "354 go on"}, Deferred, PhaseMail, 451, false},
		"MAIL, then silence":           {[]string{"421 bye"}, Deferred, PhaseMail, 421, false},
		"MAIL, then out of step":       {[]string{"550 no", "354 go on", "250 ok"}, Rejected, PhaseMail, 550, false},
		"RCPT":                         {[]string{"250 ok", "550 no", "554 no recipients"}, Rejected, PhaseRcpt, 550, true},
		"RCPT, DATA granted":           {[]string{"250 ok", "550 no", "354 go on"}, Rejected, PhaseRcpt, 550, false},
		"RCPT for now, DATA for good":  {[]string{"250 ok", "452 full", "554 no recipients"}, Deferred, PhaseRcpt, 452, true},
		"DATA":                         {[]string{"250 ok", "251 forwarded", "451 later"}, Deferred, PhaseData, 451, true},
		"all three":                    {[]string{"450 a", "550 b", "554 c"}, Deferred, PhaseMail, 450, true},
		"several lines and replies":    {[]string{"250-a\r\n250 b", "550-c\r\n550 d", "554 e"}, Rejected, PhaseRcpt, 550, true},
		"all in order, no mail wanted": {[]string{"250 ok", "250 ok", "250 ok"}, Deferred, PhaseData, 0, false},
	} {
		for _, how := range []string{"one segment", "bytes", "one each"} {
			t.Run(name+" in "+how, func(t *testing.T) {
				t.Parallel()
				var struck atomic.Bool
				srv := (&smtptest.Server{Keywords: pipelining, Hook: func(c *smtptest.Conn, cmd string) bool {
					if verb(cmd) != "MAIL" || !struck.CompareAndSwap(false, true) {
						return false
					}
					c.Line() // RCPT
					c.Line() // DATA
					text := strings.Join(tt.replies, "\r\n") + "\r\n"
					switch how {
					case "one segment":
						c.Write(text)
					case "bytes":
						for _, b := range text {
							c.Write(string(b))
						}
					default:
						for line := range strings.Lines(text) {
							c.Write(line)
						}
					}
					if tt.replies[len(tt.replies)-1] == "354 go on" {
						// Whatever comes now would be taken for a mail.
						if data, ok := c.ReadMail(); ok {
							c.Take(data)
						}
					}
					return true
				}}).Start(t)
				p := newPool(t, srv, nil)
				got := send(t, p)
				if got == nil || got.Outcome != tt.outcome || got.Phase != tt.phase || got.Code != tt.code || (got.Recipient != "") != (tt.phase == PhaseRcpt) {
					t.Fatalf("got %+v", got)
				}
				if got = eventually(t, p); got != nil {
					t.Fatal(got)
				}
				conns, _ := srv.Conns()
				if (conns == 1) != tt.same || len(srv.Mails()) != 1 || string(srv.Mails()[0].Data) != mail {
					t.Errorf("%d connections, mails %v", conns, srv.Mails())
				}
			})
		}
	}
}

// A server that announces PIPELINING and throws away what comes with the first
// command costs one mail its time; from then on commands go one at a time.
func TestPipelineThatDoesNotWork(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var groups int
		var mu sync.Mutex
		p := bubble(t, nil, func(_ int, conn net.Conn) {
			_, _ = conn.Write([]byte("220 pipe\r\n"))
			buf := make([]byte, 4096)
			for {
				n, err := conn.Read(buf)
				if err != nil {
					return
				}
				if verb(string(buf[:n])) == "MAIL" && strings.Count(string(buf[:n]), "\r\n") > 1 {
					mu.Lock()
					groups++
					mu.Unlock()
				}
				answer := "250 ok\r\n"
				switch verb(string(buf[:n])) {
				case "EHLO":
					answer = "250-x\r\n250 PIPELINING\r\n"
				case "DATA\r\n":
					answer = "354 go on\r\n"
				}
				if _, err := conn.Write([]byte(answer)); err != nil {
					return
				}
			}
		})
		want(t, send(t, p), Deferred, PhaseRcpt, ReasonTimeout, false)
		if got := eventually(t, p); got != nil {
			t.Error(got)
		}
		mu.Lock()
		defer mu.Unlock()
		if groups != 1 {
			t.Errorf("%d groups", groups)
		}
		closePool(t, p)
	})
}

// One that answers the first command and hangs up is found out the second time.
func TestPipelineThatIsCutOff(t *testing.T) {
	t.Parallel()
	var groups atomic.Int64
	srv := &smtptest.Server{Keywords: pipelining}
	srv.Hook = func(c *smtptest.Conn, cmd string) bool {
		if verb(cmd) == "MAIL" && len(srv.Early()) > int(groups.Load()) {
			groups.Add(1)
			c.Reply("250 ok")
			c.Close()
		}
		return false
	}
	p := newPool(t, srv.Start(t), nil)
	for range 2 {
		for {
			got := send(t, p)
			if got == nil {
				t.Fatal("taken")
			}
			if got.RetryAfter == 0 {
				want(t, got, Deferred, PhaseRcpt, ReasonClosed, false)
				break
			}
		}
	}
	if got := eventually(t, p); got != nil {
		t.Fatal(got)
	}
	if n := groups.Load(); n != 2 {
		t.Errorf("%d groups", n)
	}
}

func TestPipelineImproper(t *testing.T) {
	t.Parallel()
	srv := &smtptest.Server{Keywords: pipelining}
	srv.Hook = func(c *smtptest.Conn, cmd string) bool {
		if verb(cmd) == "MAIL" && len(srv.Early()) > 0 && c.N == 1 {
			c.Reply("503 5.5.0 improper use of SMTP command pipelining")
			return true
		}
		return false
	}
	p := newPool(t, srv.Start(t), nil)
	want(t, send(t, p), Deferred, PhaseMail, ReasonReply, false)
	early := len(srv.Early())
	if got := eventually(t, p); got != nil {
		t.Fatal(got)
	}
	if n := len(srv.Early()); n != early {
		t.Errorf("went on with groups: %q", srv.Early())
	}
}
