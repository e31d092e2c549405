package smtppool

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// These run over pipes in a bubble, where an hour costs nothing.

// bubble is a pool whose server is a goroutine on a pipe.
func bubble(t *testing.T, change func(*Config), serve func(dial int, conn net.Conn)) *Pool {
	t.Helper()
	var dials atomic.Int64
	cfg := Config{
		Addr: "mail.test:25", Security: PlainLoopback,
		Dial: func(context.Context, string, string) (net.Conn, error) {
			n := int(dials.Add(1))
			if serve == nil {
				return nil, errors.New("no way there")
			}
			client, server := net.Pipe()
			go func() {
				defer server.Close()
				serve(n, server)
			}()
			return client, nil
		},
	}
	if change != nil {
		change(&cfg)
	}
	p, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func closePool(t *testing.T, p *Pool) {
	t.Helper()
	if err := p.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// However many send, a server that is away sees a few dials, ever further
// apart.
func TestPoolNoDialStorm(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := bubble(t, nil, nil)
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				for ctx.Err() == nil {
					_, err := p.Send(ctx, from, to, []byte(mail))
					var e *Error
					if !errors.As(err, &e) {
						t.Errorf("got %v", err)
						return
					}
					if e.RetryAfter > 30*time.Second {
						t.Errorf("retry after %v", e.RetryAfter)
					}
					tick := time.NewTimer(50 * time.Millisecond)
					<-tick.C
				}
			})
		}
		all.Wait()
		// Pauses of 0.5, 1, 2, 4, 8, 16 and then 30 s, each drawn from its upper
		// half.
		if n := p.Stats().Dials; n < 9 || n > 16 {
			t.Errorf("%d dials in two minutes", n)
		}
		closePool(t, p)
	})
}

// Sessions are ended before the server would do it.
func TestPoolIdleAndAge(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var quits atomic.Int64
		p := bubble(t, func(c *Config) { c.MaxIdle = 30 * time.Second; c.MaxAge = 10 * time.Minute }, func(_ int, conn net.Conn) {
			servePlain(conn, func(cmd string) { quits.Add(map[string]int64{"QUIT": 1}[cmd]) })
		})
		pass := func(d time.Duration) {
			tick := time.NewTimer(d)
			<-tick.C
			synctest.Wait()
		}
		mustSend := func() {
			t.Helper()
			if got := send(t, p); got != nil {
				t.Fatal(got)
			}
		}
		mustSend()
		pass(29 * time.Second)
		mustSend()
		if st := p.Stats(); st.Dials != 1 || st.Idle != 1 {
			t.Errorf("after 29 s: %+v", st)
		}
		// Nobody sends: the session is ended all the same.
		pass(61 * time.Second)
		if st := p.Stats(); st.Open != 0 || quits.Load() != 1 {
			t.Errorf("after idle: %+v, %d QUIT", st, quits.Load())
		}
		for range 60 { // in use all the time, and still ended by its age
			mustSend()
			pass(20 * time.Second)
		}
		if st := p.Stats(); st.Dials != 3 && st.Dials != 4 {
			t.Errorf("after 20 minutes: %+v", st)
		}
		closePool(t, p)
	})
}

// The default limits hold on a server that says nothing, at each step.
func TestPoolSilence(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		at      string
		change  func(*Config)
		limit   time.Duration
		outcome Outcome
		phase   string
	}{
		"greeting":         {"", nil, 30 * time.Second, Deferred, PhaseGreeting},
		"EHLO":             {"EHLO", nil, 30 * time.Second, Deferred, PhaseEHLO},
		"all of the start": {"EHLO", func(c *Config) { c.OpenTimeout = 10 * time.Second }, 10 * time.Second, Deferred, PhaseEHLO},
		"MAIL":             {"MAIL", nil, 30 * time.Second, Deferred, PhaseMail},
		"RCPT":             {"RCPT", nil, 30 * time.Second, Deferred, PhaseRcpt},
		"DATA":             {"DATA", nil, 30 * time.Second, Deferred, PhaseData},
		"the end":          {".", nil, 10 * time.Minute, Unknown, PhaseReply},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				p := bubble(t, tt.change, func(_ int, conn net.Conn) { servePlain(conn, silentAt(conn, tt.at, 1)) })
				begun := time.Now()
				want(t, send(t, p), tt.outcome, tt.phase, ReasonTimeout, tt.outcome == Deferred && opening(tt.phase))
				if took := time.Since(begun); took != tt.limit {
					t.Errorf("took %v", took)
				}
				closePool(t, p)
			})
		})
	}
}

// silentAt stops a server at the nth pass of a command.
func silentAt(conn net.Conn, at string, n int) func(cmd string) {
	return func(cmd string) {
		if cmd != at {
			return
		}
		if n--; n == 0 {
			_, _ = conn.Read(make([]byte, 1)) // until it is closed
		}
	}
}

// A context's deadline is obeyed to the moment.
func TestPoolDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := bubble(t, nil, func(_ int, conn net.Conn) { servePlain(conn, silentAt(conn, "RCPT", 1)) })
		ctx, cancel := context.WithTimeout(t.Context(), 7*time.Second)
		defer cancel()
		begun := time.Now()
		_, err := p.Send(ctx, from, to, []byte(mail))
		want(t, failure(t, err), Deferred, PhaseRcpt, ReasonCanceled, false)
		if took := time.Since(begun); took != 7*time.Second || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v after %v", err, took)
		}
		closePool(t, p)
	})
}

// A NAT forgets a connection without a word: the bytes vanish. The mail goes
// over a new one; later on in the transaction it is left to the caller.
func TestPoolDroppedByNAT(t *testing.T) {
	t.Parallel()
	for at, phase := range map[string]string{"MAIL": "", "RCPT": PhaseRcpt} {
		t.Run("at "+at, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				p := bubble(t, nil, func(dial int, conn net.Conn) { servePlain(conn, silentAt(conn, at, map[int]int{1: 2}[dial])) })
				if got := send(t, p); got != nil {
					t.Fatal(got)
				}
				got := send(t, p)
				if phase == "" && got != nil {
					t.Error(got)
				} else if phase != "" {
					want(t, got, Deferred, phase, ReasonTimeout, false)
				}
				closePool(t, p)
			})
		})
	}
}

// servePlain is the smallest server. seen is called before each answer, with
// "" for the greeting and "." for the end of a mail.
func servePlain(conn net.Conn, seen func(cmd string)) {
	r := &replyLines{conn: conn}
	say := func(cmd, answer string) bool {
		seen(cmd)
		_, err := conn.Write([]byte(answer + "\r\n"))
		return err == nil
	}
	if !say("", "220 pipe") {
		return
	}
	for {
		line, ok := r.next()
		if !ok {
			return
		}
		cmd := verb(line)
		answer := "250 ok"
		if cmd == "DATA" {
			if !say(cmd, "354 go on") {
				return
			}
			for cmd != "." {
				if cmd, ok = r.next(); !ok {
					return
				}
			}
		}
		if !say(cmd, answer) || cmd == "QUIT" {
			return
		}
	}
}

type replyLines struct {
	conn net.Conn
	buf  []byte
}

func (r *replyLines) next() (string, bool) {
	for {
		for i, b := range r.buf {
			if b == '\n' {
				line := string(r.buf[:i-1])
				r.buf = r.buf[i+1:]
				return line, true
			}
		}
		p := make([]byte, 4096)
		n, err := r.conn.Read(p)
		if err != nil {
			return "", false
		}
		r.buf = append(r.buf, p[:n]...)
	}
}
