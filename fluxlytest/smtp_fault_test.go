package fluxlytest

import (
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
	"github.com/google/go-cmp/cmp"
)

func TestPostmarkSMTPFaults(t *testing.T) {
	t.Parallel()
	// run is a whole session; it returns the phase that failed.
	run := func(t *testing.T, s *PostmarkSMTP) (SMTPPhase, error) {
		t.Helper()
		raw, err := net.Dial("tcp", s.Addr())
		if err != nil {
			t.Fatal(err)
		}
		defer raw.Close()
		c := smtp.NewClient(raw)
		if err := c.Hello("client.test"); err != nil {
			if s.Stats().Commands["EHLO"] == 0 {
				return AtGreeting, err
			}
			return AtEHLO, err
		}
		// go-smtp dials by itself when it does STARTTLS; the session before
		// was only for the two phases above.
		c2, err := dial(t, s)
		if err != nil {
			return AtSTARTTLS, err
		}
		if err := c2.Auth(sasl.NewPlainClient("", s.Token, s.Token)); err != nil {
			return AtAUTH, err
		}
		if err := c2.Mail("bounce@acme.test", nil); err != nil {
			return AtMAIL, err
		}
		if err := c2.Rcpt("ann@acme.test", nil); err != nil {
			return AtRCPT, err
		}
		w, err := c2.Data()
		if err != nil {
			return AtDATA, err
		}
		if _, err := io.WriteString(w, testMail); err != nil {
			return AtBody, err
		}
		if err := w.Close(); err != nil {
			return AtReply, err
		}
		return "", nil
	}
	phases := []SMTPPhase{AtGreeting, AtEHLO, AtSTARTTLS, AtAUTH, AtMAIL, AtRCPT, AtDATA, AtReply}
	for _, at := range phases {
		for name, tc := range map[string]struct {
			fault  Fault
			code   int
			stored int
		}{
			"temporary":      {fault: Fault{Reply: "451 4.3.0 try later"}, code: 451},
			"permanent":      {fault: Fault{Reply: "554-5.7.1 no\n554 5.7.1 never"}, code: 554},
			"closing":        {fault: Fault{Reply: "421 4.3.2 bye"}, code: 421},
			"drop":           {fault: Fault{Drop: true}},
			"reply and drop": {fault: Fault{Reply: "451 4.3.0 try later", Drop: true}, code: 451},
		} {
			t.Run(fmt.Sprintf("%s/%s", at, name), func(t *testing.T) {
				t.Parallel()
				s := start(t, PostmarkSMTPConfig{})
				tc.fault.At = at
				s.FailNext(tc.fault)
				phase, err := run(t, s)
				if phase != at {
					t.Fatalf("failed at %q with %v, want %q", phase, err, at)
				}
				if tc.code != 0 {
					wantCode(t, err, tc.code)
				}
				if got := len(s.Mails()); got != 0 {
					t.Errorf("%d mails were stored, want none", got)
				}
				if phase, err := run(t, s); err != nil {
					t.Errorf("the next session fails at %q with %v, want no fault left", phase, err)
				}
			})
		}
	}
	for name, f := range map[string]Fault{
		"stored and refused": {At: AtReply, Store: true, Reply: "451 4.3.0 try later"},
		"stored and dropped": {At: AtReply, Store: true, Drop: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, PostmarkSMTPConfig{})
			s.FailNext(f)
			if phase, err := run(t, s); phase != AtReply {
				t.Fatalf("failed at %q with %v, want %q", phase, err, AtReply)
			}
			if got := len(s.Mails()); got != 1 {
				t.Errorf("%d mails were stored, want 1", got)
			}
		})
	}
	t.Run("another text for success", func(t *testing.T) {
		t.Parallel()
		s := start(t, PostmarkSMTPConfig{})
		s.FailNext(Fault{At: AtReply, Reply: "250 2.0.0 Ok: queued as 4cX9"})
		r := newRaw(t, s)
		r.session(t)
		r.say(t, "DATA")
		r.want(t, "354")
		r.say(t, strings.ReplaceAll(mailWith(), "\r\n.", "\r\n..")+".")
		r.want(t, "250 2.0.0 Ok: queued as 4cX9")
		if got := len(s.Mails()); got != 1 {
			t.Errorf("%d mails were stored, want 1", got)
		}
	})
	t.Run("skip and times", func(t *testing.T) {
		t.Parallel()
		s := start(t, PostmarkSMTPConfig{})
		s.FailNext(Fault{At: AtMAIL, Skip: 1, Times: 2, Reply: "451 4.3.0 try later"})
		c := login(t, s)
		var got []bool
		for range 5 {
			got = append(got, send(c, mailWith()) == nil)
		}
		if diff := cmp.Diff([]bool{true, false, false, true, true}, got); diff != "" {
			t.Errorf("accepted (-want +got):\n%s", diff)
		}
	})
	t.Run("hook", func(t *testing.T) {
		t.Parallel()
		var mu sync.Mutex
		var seen []string
		s := start(t, PostmarkSMTPConfig{Hook: func(cmd SMTPCommand) (Fault, bool) {
			mu.Lock()
			defer mu.Unlock()
			seen = append(seen, string(cmd.Phase)+" "+cmd.Line+cmd.Mail.SendKey())
			return Fault{Reply: "550 5.1.1 no such user"}, strings.Contains(cmd.Line, "nobody@")
		}})
		c := login(t, s)
		wantCode(t, send(c, testMail, "nobody@acme.test"), 550)
		if err := c.Reset(); err != nil {
			t.Fatal(err)
		}
		if err := send(c, testMail); err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		defer mu.Unlock()
		want := []string{
			"greeting ", "ehlo EHLO localhost", "starttls STARTTLS", "ehlo EHLO localhost", "auth AUTH PLAIN",
			"mail MAIL FROM:<bounce@acme.test> BODY=8BITMIME", "rcpt RCPT TO:<nobody@acme.test>", "other RSET",
			"ehlo EHLO localhost", "mail MAIL FROM:<bounce@acme.test> BODY=8BITMIME", "rcpt RCPT TO:<ann@acme.test>", "data DATA", "body ", "reply run_1/welcome/1",
		}
		if diff := cmp.Diff(want, seen); diff != "" {
			t.Errorf("the hook saw (-want +got):\n%s", diff)
		}
	})
}

func TestPostmarkSMTPHoldsAndSilence(t *testing.T) {
	t.Parallel()
	t.Run("hold before it is stored", func(t *testing.T) {
		t.Parallel()
		reached, release := make(chan struct{}), make(chan struct{})
		s := start(t, PostmarkSMTPConfig{Hook: func(cmd SMTPCommand) (Fault, bool) {
			if cmd.Phase == AtReply {
				close(reached)
			}
			return Fault{Hold: release}, cmd.Phase == AtReply
		}})
		c := login(t, s)
		done := make(chan error, 1)
		go func() { done <- send(c, testMail) }()
		<-reached
		if got := len(s.Mails()); got != 0 {
			t.Errorf("%d mails while held, want none", got)
		}
		close(release)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if got := len(s.Mails()); got != 1 {
			t.Errorf("%d mails after the release, want 1", got)
		}
	})
	t.Run("hold after it is stored", func(t *testing.T) {
		t.Parallel()
		s := start(t, PostmarkSMTPConfig{})
		release := make(chan struct{})
		s.FailNext(Fault{At: AtReply, Store: true, Hold: release})
		c := login(t, s)
		done := make(chan error, 1)
		go func() { done <- send(c, testMail) }()
		if _, err := s.Wait(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-done:
			t.Errorf("the reply came while it was held: %v", err)
		default:
		}
		close(release)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if got := len(s.Mails()); got != 1 {
			t.Errorf("%d mails, want it stored once", got)
		}
	})
	for _, at := range []SMTPPhase{AtGreeting, AtEHLO, AtSTARTTLS, AtAUTH, AtMAIL, AtRCPT, AtDATA, AtBody, AtReply} {
		t.Run("silence at "+string(at), func(t *testing.T) {
			t.Parallel()
			struck := make(chan struct{})
			var once sync.Once
			s := start(t, PostmarkSMTPConfig{Hook: func(cmd SMTPCommand) (Fault, bool) {
				if cmd.Phase == at {
					once.Do(func() { close(struck) })
				}
				return Fault{Silent: true}, cmd.Phase == at
			}})
			done := make(chan error, 1)
			go func() {
				c, err := dial(t, s)
				if err == nil {
					err = c.Auth(sasl.NewPlainClient("", s.Token, s.Token))
				}
				if err == nil {
					err = send(c, testMail)
				}
				done <- err
			}()
			<-struck
			select {
			case err := <-done:
				t.Errorf("the client got an answer: %v", err)
			default:
			}
			// The server ends although the client waits.
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if err := <-done; err == nil {
				t.Error("the client's session ended well, want an error")
			}
			if got := len(s.Mails()); got != 0 {
				t.Errorf("%d mails were stored, want none", got)
			}
		})
	}
	t.Run("client goes while held", func(t *testing.T) {
		t.Parallel()
		s := start(t, PostmarkSMTPConfig{})
		s.FailNext(Fault{At: AtMAIL, Silent: true})
		r := newRaw(t, s)
		r.startTLS(t)
		r.login(t)
		r.say(t, "MAIL FROM:<a@acme.test>")
		_ = r.conn.Close()
		for s.Stats().Open > 0 {
			if t.Context().Err() != nil {
				t.Fatal("the server still holds the connection")
			}
			runtime.Gosched()
		}
	})
}
