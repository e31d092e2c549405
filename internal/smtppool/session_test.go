package smtppool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/getfluxly/fluxly/internal/smtptest"
)

// Each fault strikes the first mail. Then the same pool sends a second one to
// the server, by now well-behaved, and the server must hold what the outcomes
// say, once each.
func TestSendFaults(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		at      string // the command
		do      func(c *smtptest.Conn)
		config  func(c *Config)
		outcome Outcome
		phase   string
		reason  Reason
		account bool
		code    int
		status  string
		text    string
		// stored: the server kept the mail although it did not say so.
		stored bool
		// same: the session lives and is used for the second mail.
		same bool
		// groupPhase is where it is noticed when the commands go together.
		groupPhase  string
		groupReason Reason
		groupCode   int
	}{
		"MAIL 550": {
			at: "MAIL", do: replies("550 5.7.1 sender not yours"),
			outcome: Rejected, phase: PhaseMail, reason: ReasonReply, code: 550, status: "5.7.1", text: "sender not yours", same: true,
		},
		"MAIL 451": {at: "MAIL", do: replies("451 4.3.0 later"), phase: PhaseMail, reason: ReasonReply, code: 451, status: "4.3.0", same: true},
		"MAIL 530": {
			at: "MAIL", do: replies("530 5.7.0 log in first"),
			config:  func(c *Config) { c.AuthHold = time.Millisecond },
			outcome: Rejected, phase: PhaseMail, reason: ReasonAuth, account: true, code: 530, status: "5.7.0",
		},
		"MAIL 421": {at: "MAIL", do: replies("421 4.3.2 shutting down"), phase: PhaseMail, reason: ReasonReply, code: 421, status: "4.3.2"},
		"MAIL 354": {at: "MAIL", do: replies("354 go on"), phase: PhaseMail, reason: ReasonProtocol},
		"MAIL 220": {at: "MAIL", do: replies("220 hello"), phase: PhaseMail, reason: ReasonProtocol},
		"MAIL and one more": {
			at: "MAIL", do: replies("250 ok\r\n250 ok"), phase: PhaseRcpt, reason: ReasonProtocol, text: errReplyExtra.Error(),
			groupPhase: PhaseData, groupReason: ReasonReply, groupCode: 503,
		},
		"MAIL two codes":     {at: "MAIL", do: replies("250-ok\r\n550 no"), phase: PhaseMail, reason: ReasonProtocol, text: errReplyCodes.Error()},
		"MAIL no reply":      {at: "MAIL", do: replies("what"), phase: PhaseMail, reason: ReasonProtocol},
		"MAIL closed":        {at: "MAIL", do: (*smtptest.Conn).Close, phase: PhaseMail, reason: ReasonClosed},
		"MAIL reset":         {at: "MAIL", do: (*smtptest.Conn).Reset, phase: PhaseMail, reason: ReasonClosed},
		"MAIL malformed 5.x": {at: "MAIL", do: replies("550 5.7 no"), outcome: Rejected, phase: PhaseMail, reason: ReasonReply, code: 550, text: "5.7 no", same: true},
		"RCPT 550": {
			at: "RCPT", do: replies("550-5.1.1 no such\r\n550 5.1.1 user"),
			outcome: Rejected, phase: PhaseRcpt, reason: ReasonReply, code: 550, status: "5.1.1", text: "no such user", same: true,
		},
		"RCPT 452":     {at: "RCPT", do: replies("452 4.2.2 full"), phase: PhaseRcpt, reason: ReasonReply, code: 452, status: "4.2.2", same: true},
		"RCPT 421":     {at: "RCPT", do: replies("421 bye"), phase: PhaseRcpt, reason: ReasonReply, code: 421},
		"RCPT 354":     {at: "RCPT", do: replies("354 go on"), phase: PhaseRcpt, reason: ReasonProtocol},
		"RCPT closed":  {at: "RCPT", do: (*smtptest.Conn).Close, phase: PhaseRcpt, reason: ReasonClosed},
		"DATA 554":     {at: "DATA", do: replies("554 5.5.1 no valid recipients"), outcome: Rejected, phase: PhaseData, reason: ReasonReply, code: 554, status: "5.5.1", same: true},
		"DATA 451":     {at: "DATA", do: replies("451 later"), phase: PhaseData, reason: ReasonReply, code: 451, same: true},
		"DATA 250":     {at: "DATA", do: replies("250 ok"), phase: PhaseData, reason: ReasonProtocol},
		"DATA 421":     {at: "DATA", do: replies("421 bye"), phase: PhaseData, reason: ReasonReply, code: 421},
		"DATA closed":  {at: "DATA", do: (*smtptest.Conn).Close, phase: PhaseData, reason: ReasonClosed},
		"DATA 354 and": {at: "DATA", do: replies("354 go on\r\n250 ok"), phase: PhaseBody, reason: ReasonProtocol, text: errReplyExtra.Error()},
		"the end 250":  {at: ".", do: answer("250"), outcome: 255, stored: true, same: true},
		"the end 451":  {at: ".", do: refuse("451 4.3.0 try later"), phase: PhaseReply, reason: ReasonReply, code: 451, status: "4.3.0", same: true},
		"the end 452":  {at: ".", do: refuse("452 disk full"), phase: PhaseReply, reason: ReasonReply, code: 452, same: true},
		"the end 421":  {at: ".", do: refuse("421 4.3.2 shutting down"), phase: PhaseReply, reason: ReasonReply, code: 421, status: "4.3.2"},
		"the end 550":  {at: ".", do: refuse("550 5.7.1 spam"), outcome: Rejected, phase: PhaseReply, reason: ReasonReply, code: 550, status: "5.7.1", same: true},
		"the end 552":  {at: ".", do: refuse("552 5.3.4 too big"), outcome: Rejected, phase: PhaseReply, reason: ReasonReply, code: 552, status: "5.3.4", same: true},
		"the end 354":  {at: ".", do: answer("354 more?"), outcome: Unknown, phase: PhaseReply, reason: ReasonProtocol, stored: true},
		"the end 220":  {at: ".", do: answer("220 hello"), outcome: Unknown, phase: PhaseReply, reason: ReasonProtocol, stored: true},
		"the end no sense": {
			at: ".", do: answer("queued"),
			outcome: Unknown, phase: PhaseReply, reason: ReasonProtocol, stored: true, text: `"queued" is no SMTP reply`,
		},
		"the end two codes": {at: ".", do: answer("250-ok\r\n451 no"), outcome: Unknown, phase: PhaseReply, reason: ReasonProtocol, stored: true},
		"the end, closed":   {at: ".", do: stored((*smtptest.Conn).Close), outcome: Unknown, phase: PhaseReply, reason: ReasonClosed, stored: true},
		"the end, reset":    {at: ".", do: stored((*smtptest.Conn).Reset), outcome: Unknown, phase: PhaseReply, reason: ReasonClosed, stored: true},
		"the end, half a reply": {
			at:      ".",
			do:      stored(func(c *smtptest.Conn) { c.Write("250 o"); c.Close() }),
			outcome: Unknown, phase: PhaseReply, reason: ReasonClosed, stored: true,
		},
		"the end, endless": {
			at: ".",
			do: stored(func(c *smtptest.Conn) {
				for {
					c.Write(strings.Repeat("250-x\r\n", 1000))
				}
			}),
			outcome: Unknown, phase: PhaseReply, reason: ReasonProtocol, stored: true,
		},
	} {
		for _, keywords := range [][]string{nil, {"PIPELINING"}} {
			t.Run(strings.Join(append(keywords, name), " "), func(t *testing.T) {
				t.Parallel()
				tt := tt
				if keywords != nil && tt.groupPhase != "" {
					tt.phase, tt.reason, tt.code, tt.status, tt.text = tt.groupPhase, tt.groupReason, tt.groupCode, "5.5.1", ""
				}
				var struck atomic.Bool
				srv := (&smtptest.Server{Keywords: keywords, Hook: func(c *smtptest.Conn, cmd string) bool {
					if verb(cmd) != tt.at || !struck.CompareAndSwap(false, true) {
						return false
					}
					tt.do(c)
					return true
				}}).Start(t)
				p := newPool(t, srv, tt.config)
				got := send(t, p)
				if tt.outcome == 255 {
					if got != nil {
						t.Fatal(got)
					}
				} else {
					want(t, got, tt.outcome, tt.phase, tt.reason, tt.account)
					if got.Code != tt.code || got.Enhanced != tt.status || !strings.Contains(got.Error(), tt.text) {
						t.Errorf("code %d status %q text %q", got.Code, got.Enhanced, got)
					}
					if (got.Recipient == to) != (tt.phase == PhaseRcpt && tt.code != 0) {
						t.Errorf("recipient %q", got.Recipient)
					}
				}
				if err := eventually(t, p); err != nil {
					t.Fatalf("second mail: %v", err)
				}
				mails := 1
				if tt.stored {
					mails++
				}
				if n := len(srv.Mails()); n != mails {
					t.Errorf("server holds %d mails, want %d", n, mails)
				}
				for _, m := range srv.Mails() {
					if string(m.Data) != mail {
						t.Errorf("server holds %q", m.Data)
					}
				}
				if conns, _ := srv.Conns(); (conns == 1) != tt.same {
					t.Errorf("%d connections, want the same one: %t", conns, tt.same)
				}
				for _, c := range srv.Early() {
					if keywords == nil || verb(c) != "MAIL" && verb(c) != "RCPT" {
						t.Errorf("did not wait after %q", c)
					}
				}
			})
		}
	}
}

// eventually sends the standard mail, coming back after the pool's own pause.
func eventually(t *testing.T, p *Pool) *Error {
	t.Helper()
	for {
		got := send(t, p)
		if got == nil || got.RetryAfter == 0 {
			return got
		}
		select {
		case <-time.After(got.RetryAfter):
		case <-t.Context().Done():
			return got
		}
	}
}

func replies(lines ...string) func(*smtptest.Conn) {
	return func(c *smtptest.Conn) { c.Reply(lines...) }
}

// refuse answers the end of a mail that is not kept.
func refuse(text string) func(*smtptest.Conn) { return replies(text) }

// stored keeps the mail before it does something.
func stored(do func(*smtptest.Conn)) func(*smtptest.Conn) {
	return func(c *smtptest.Conn) {
		c.Take([]byte(mail))
		do(c)
	}
}

func answer(text string) func(*smtptest.Conn) { return stored(replies(text)) }

func TestSendAccepted(t *testing.T) {
	t.Parallel()
	srv := (&smtptest.Server{Hook: on(".", func(c *smtptest.Conn) {
		c.Take(nil)
		c.Reply("250-2.0.0 Ok: thanks", "250 2.0.0 queued as 4Xyz\x07")
	})}).Start(t)
	begun := time.Now()
	res, err := newPool(t, srv, nil).Send(t.Context(), from, to, []byte(mail))
	if err != nil {
		t.Fatal(err)
	}
	if res.ID != "4Xyz?" || res.Text != "Ok: thanks queued as 4Xyz?" || res.At.Before(begun) || res.At.After(time.Now()) {
		t.Errorf("%+v", res)
	}
}

// Dots, sizes around the buffer, and no line end at the end: the same bytes
// arrive.
func TestSendBodies(t *testing.T) {
	t.Parallel()
	bodies := map[string]string{
		"lone dots":         ".\r\n..\r\n.\r\n\r\n.\r\n",
		"dot first":         ".a\r\n",
		"looks like an end": "a\r\n.\r\nMAIL FROM:<x@y>\r\n.\r\nb\r\n",
		"no line end":       "a\r\n.b",
		"only a line end":   "\r\n",
		"one byte":          "x",
	}
	for _, n := range []int{bodyBuffer - 5, bodyBuffer - 4, bodyBuffer - 3, bodyBuffer - 2, bodyBuffer - 1, bodyBuffer, bodyBuffer + 1, 3*bodyBuffer + 17} {
		for shift := range 3 {
			line := strings.Repeat("x", 60+shift) + "\r\n.\r\n"
			body := strings.Repeat(line, n/len(line)+1)[:n]
			// A cut between CR and LF would be refused.
			body = strings.TrimSuffix(body, "\r")
			bodies[fmt.Sprintf("%d bytes, shift %d", n, shift)] = body
		}
	}
	srv := new(smtptest.Server).Start(t)
	p := newPool(t, srv, nil)
	var wanted []string
	for name, body := range bodies {
		if _, err := p.Send(t.Context(), from, to, []byte(body)); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !strings.HasSuffix(body, "\r\n") {
			body += "\r\n"
		}
		wanted = append(wanted, body)
	}
	for i, m := range srv.Mails() {
		if string(m.Data) != wanted[i] {
			t.Errorf("%q arrived as %q", wanted[i], m.Data)
		}
		if m.From != from || m.To != to {
			t.Errorf("envelope %q %q", m.From, m.To)
		}
	}
	if n := len(srv.Mails()); n != len(wanted) {
		t.Errorf("%d mails, want %d", n, len(wanted))
	}
}

func FuzzBody(f *testing.F) {
	f.Add([]byte("a\r\n.b\r\n"))
	f.Add([]byte(".\r\n"))
	f.Add([]byte("\r\n.\r\n.\r\n"))
	f.Add([]byte("a"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if checkData(data) != nil {
			return
		}
		conn := &memConn{}
		s := &session{cfg: &Config{BodyTimeout: time.Second}, stats: new(counters), raw: conn, wbuf: make([]byte, 0, bodyBuffer)}
		s.use(conn)
		if failure := s.body(t.Context(), data); failure != nil {
			t.Fatal(failure)
		}
		wire := conn.out.Bytes()
		body, ok := bytes.CutSuffix(wire, []byte("\r\n.\r\n"))
		if !ok {
			t.Fatalf("wire %q has no end", wire)
		}
		body = append(body, "\r\n"...)
		if i := bytes.Index(body, []byte("\r\n.\r\n")); i >= 0 || bytes.HasPrefix(body, []byte(".\r\n")) {
			t.Fatalf("wire %q ends twice", wire)
		}
		var back []byte
		for line := range bytes.Lines(body) {
			back = append(back, bytes.TrimPrefix(line, []byte("."))...)
		}
		if !bytes.HasSuffix(data, []byte("\r\n")) {
			data = append(bytes.Clone(data), "\r\n"...)
		}
		if diff := cmp.Diff(string(data), string(back)); diff != "" {
			t.Fatal(diff)
		}
	})
}

// memConn is a connection that only takes.
type memConn struct {
	net.Conn
	out bytes.Buffer
}

func (m *memConn) Write(p []byte) (int, error)      { return m.out.Write(p) }
func (m *memConn) Read([]byte) (int, error)         { return 0, errors.New("nothing to read") }
func (m *memConn) SetDeadline(time.Time) error      { return nil }
func (m *memConn) SetWriteDeadline(time.Time) error { return nil }

func TestSendRefusedBeforeTheWire(t *testing.T) {
	t.Parallel()
	srv := new(smtptest.Server).Start(t)
	p := newPool(t, srv, nil)
	for name, args := range map[string][3]string{
		"sender":    {"a@b\r\nRCPT", to, mail},
		"recipient": {from, `"evil@evil.example> NOTIFY=NEVER"@customer.example`, mail},
		"two":       {from, "a@b.test,c@d.test x", mail},
		"empty":     {from, to, ""},
		"smuggling": {from, to, "a\n.\r\nMAIL FROM:<x@y>\r\n"},
		"8-bit":     {from, to, "gr\u00fc\u00dfe\r\n"},
	} {
		_, err := p.Send(t.Context(), args[0], args[1], []byte(args[2]))
		got := failure(t, err)
		if got == nil || got.Phase != PhaseCheck || got.Outcome != Rejected || got.Account {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n, _ := srv.Conns(); n != 0 {
		t.Errorf("%d connections", n)
	}
}

// RFC 1870: the size is declared, and one over the limit is not even tried.
func TestSendSize(t *testing.T) {
	t.Parallel()
	srv := (&smtptest.Server{Keywords: []string{"size 40"}}).Start(t)
	p := newPool(t, srv, nil)
	if got := send(t, p); got != nil {
		t.Fatal(got)
	}
	if c := srv.Commands()[4]; c != fmt.Sprintf("MAIL FROM:<%s> SIZE=%d", from, len(mail)) {
		t.Errorf("said %q", c)
	}
	_, err := p.Send(t.Context(), from, to, []byte(mail+strings.Repeat("x", 30)))
	want(t, failure(t, err), Rejected, PhaseCheck, ReasonTooBig, false)
	if got := send(t, p); got != nil {
		t.Fatal(got)
	}
	if conns, _ := srv.Conns(); conns != 1 || len(srv.Mails()) != 2 {
		t.Errorf("%d connections, %d mails", conns, len(srv.Mails()))
	}
}

// The server stops reading within 8 MB. The time for the body is for all of
// it, so one that reads a byte now and then gains nothing.
func TestSendServerStopsReading(t *testing.T) {
	t.Parallel()
	big := []byte(strings.Repeat(strings.Repeat("x", 78)+"\r\n", 100_000))
	for _, trickle := range []bool{false, true} {
		t.Run(fmt.Sprintf("trickles %t", trickle), func(t *testing.T) {
			t.Parallel()
			gone := make(chan struct{})
			srv := (&smtptest.Server{Hook: on("DATA", func(c *smtptest.Conn) {
				c.Reply("354 go on")
				var more <-chan time.Time
				if trickle {
					tick := time.NewTicker(time.Millisecond)
					defer tick.Stop()
					more = tick.C
				}
				for {
					select {
					case <-gone:
						c.Close()
					case <-more:
						if _, err := c.Conn.Read(make([]byte, 1)); err != nil {
							c.Close()
						}
					}
				}
			})}).Start(t)
			p := newPool(t, srv, func(c *Config) { c.BodyTimeout = 100 * time.Millisecond })
			_, err := p.Send(t.Context(), from, to, big)
			close(gone)
			want(t, failure(t, err), Deferred, PhaseBody, ReasonTimeout, false)
			if len(srv.Mails()) != 0 || p.Stats().Open != 0 {
				t.Errorf("%d mails, %+v", len(srv.Mails()), p.Stats())
			}
		})
	}
}

// A server that refuses within the body and closes has said why.
func TestSendRefusedWithinTheBody(t *testing.T) {
	t.Parallel()
	big := []byte(strings.Repeat(strings.Repeat("x", 78)+"\r\n", 100_000))
	srv := (&smtptest.Server{Hook: on("DATA", func(c *smtptest.Conn) {
		c.Reply("354 go on")
		c.Line()
		c.Reply("552 5.3.4 enough")
		c.Close()
	})}).Start(t)
	p := newPool(t, srv, nil)
	_, err := p.Send(t.Context(), from, to, big)
	got := failure(t, err)
	// The reset may overtake the reply, then nothing but the end is known.
	if got == nil || got.Phase != PhaseBody || got.Outcome == Unknown || (got.Code != 552 && got.Reason != ReasonClosed && got.Reason != ReasonProtocol) {
		t.Errorf("got %v", err)
	}
}

// The context's end is obeyed at once wherever it comes, and what it means
// depends on whether the whole mail was written.
func TestSendCanceled(t *testing.T) {
	t.Parallel()
	for _, at := range []string{"MAIL", "RCPT", "DATA", "body", "."} {
		t.Run("at "+at, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancel(t.Context())
			gone := make(chan struct{})
			srv := (&smtptest.Server{Hook: func(c *smtptest.Conn, cmd string) bool {
				switch {
				case at == "body" && cmd == "DATA":
					c.Reply("354 go on")
					c.Line()
					cancel()
					<-gone
					c.Close()
				case verb(cmd) == at:
					if at == "." {
						c.Take([]byte(mail))
					}
					cancel()
					c.Silence()
				}
				return false
			}}).Start(t)
			data := []byte(mail)
			if at == "body" {
				data = []byte(strings.Repeat(strings.Repeat("x", 78)+"\r\n", 100_000))
			}
			p := newPool(t, srv, nil)
			begun := time.Now()
			_, err := p.Send(ctx, from, to, data)
			took := time.Since(begun)
			close(gone)
			got := failure(t, err)
			outcome, phase := Deferred, strings.ToLower(at)
			if at == "." {
				outcome, phase = Unknown, PhaseReply
			}
			want(t, got, outcome, phase, ReasonCanceled, false)
			if !errors.Is(err, context.Canceled) {
				t.Errorf("%v is not context.Canceled", err)
			}
			if took > 3*time.Second {
				t.Errorf("took %v", took)
			}
			if len(srv.Mails()) == 1 != (at == ".") {
				t.Errorf("%d mails", len(srv.Mails()))
			}
		})
	}
}

// RSET comes after a transaction that was broken off, and only then; a server
// that does not know it costs a new session and no mail.
func TestSendRSET(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		rset  string
		conns int
	}{"known": {"", 1}, "not known": {"502 5.5.1 what?", 2}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var refused atomic.Bool
			srv := (&smtptest.Server{Hook: func(c *smtptest.Conn, cmd string) bool {
				switch verb(cmd) {
				case "RCPT":
					if refused.CompareAndSwap(false, true) {
						c.Reply("550 5.1.1 no")
						return true
					}
				case "RSET":
					if tt.rset != "" {
						c.Reply(tt.rset)
						return true
					}
				}
				return false
			}}).Start(t)
			p := newPool(t, srv, nil)
			want(t, send(t, p), Rejected, PhaseRcpt, ReasonReply, false)
			for range 2 {
				if got := send(t, p); got != nil {
					t.Fatal(got)
				}
			}
			rsets := 0
			for _, c := range srv.Commands() {
				if c == "RSET" {
					rsets++
				}
			}
			if conns, _ := srv.Conns(); rsets != 1 || conns != tt.conns {
				t.Errorf("%d RSET, %d connections", rsets, conns)
			}
		})
	}
}

// The log has the dialogue, without credentials and without the mail.
func TestSendLog(t *testing.T) {
	t.Parallel()
	srv := (&smtptest.Server{Username: "some-user", Password: "some-secret"}).Start(t)
	var logged syncBuffer
	p := newPool(t, srv, func(c *Config) {
		c.Username, c.Password = "some-user", "some-secret"
		c.Logger = slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	if got := send(t, p); got != nil {
		t.Fatal(got)
	}
	out := logged.String()
	for _, wanted := range []string{"EHLO [127.0.0.1]", "STARTTLS", "AUTH PLAIN [redacted]", "MAIL FROM:<" + from + ">", "RCPT TO:<" + to + ">", "DATA", "(mail)", "queued as"} {
		if !strings.Contains(out, wanted) {
			t.Errorf("log lacks %q", wanted)
		}
	}
	for _, secret := range []string{"some-secret", "c29tZS1zZWNyZXQ", "AHNvbWUt", "Subject: hi"} {
		if strings.Contains(out, secret) {
			t.Errorf("log has %q", secret)
		}
	}
	if t.Failed() {
		t.Log(out)
	}
}
