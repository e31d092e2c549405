package smtppool

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/getfluxly/fluxly/internal/smtptest"
)

// A kept session that the server ended is found out by the next mail and
// costs a new session, but no error and no second copy.
func TestPoolStaleSession(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		at string
		do func(c *smtptest.Conn)
	}{
		"closed at MAIL":       {"MAIL", (*smtptest.Conn).Close},
		"reset at MAIL":        {"MAIL", (*smtptest.Conn).Reset},
		"421 at MAIL":          {"MAIL", replies("421 4.4.2 idle for too long")},
		"421 and closed":       {"MAIL", func(c *smtptest.Conn) { c.Reply("421 bye"); c.Close() }},
		"451 4.4.2 at MAIL":    {"MAIL", replies("451 4.4.2 timed out")},
		"530 at MAIL":          {"MAIL", replies("530 5.7.0 log in first")},
		"closed at RCPT":       {"RCPT", (*smtptest.Conn).Close},
		"421 at RCPT":          {"RCPT", replies("421 4.3.2 restart")},
		"closed at DATA":       {"DATA", (*smtptest.Conn).Close},
		"451 4.4.2 at the end": {".", replies("451 4.4.2 timed out")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := (&smtptest.Server{Hook: func(c *smtptest.Conn, cmd string) bool {
				if c.N > 1 || c.Mails == 0 || verb(cmd) != tt.at {
					return false
				}
				tt.do(c)
				return true
			}}).Start(t)
			p := newPool(t, srv, nil)
			for i := range 3 {
				if got := send(t, p); got != nil {
					t.Fatalf("mail %d: %v", i+1, got)
				}
			}
			conns, _ := srv.Conns()
			if st := p.Stats(); conns != 2 || len(srv.Mails()) != 3 || st.Accepted != 3 || st.Deferred != 0 || st.Open != 1 || st.Idle != 1 {
				t.Errorf("%d connections, %d mails, %+v", conns, len(srv.Mails()), st)
			}
		})
	}
}

// After the end of a mail nothing is sent again, however old the session.
func TestPoolStaleSessionUnknown(t *testing.T) {
	t.Parallel()
	srv := (&smtptest.Server{Hook: func(c *smtptest.Conn, cmd string) bool {
		if c.N > 1 || c.Mails == 0 || cmd != "." {
			return false
		}
		c.Take([]byte(mail))
		c.Close()
		return true
	}}).Start(t)
	p := newPool(t, srv, nil)
	if got := send(t, p); got != nil {
		t.Fatal(got)
	}
	want(t, send(t, p), Unknown, PhaseReply, ReasonClosed, false)
	if n := len(srv.Mails()); n != 2 {
		t.Errorf("%d mails", n)
	}
	if st := p.Stats(); st.Unknown != 1 || st.Accepted != 1 {
		t.Errorf("%+v", st)
	}
}

// The second try is the last: a server that always hangs up is not asked for
// ever.
func TestPoolStaleOnce(t *testing.T) {
	t.Parallel()
	srv := (&smtptest.Server{Hook: func(c *smtptest.Conn, cmd string) bool {
		if verb(cmd) == "MAIL" && (c.N > 1 || c.Mails > 0) {
			c.Close()
		}
		return false
	}}).Start(t)
	p := newPool(t, srv, func(c *Config) { c.BackoffMin = time.Hour; c.BackoffMax = time.Hour })
	if got := send(t, p); got != nil {
		t.Fatal(got)
	}
	want(t, send(t, p), Deferred, PhaseMail, ReasonClosed, false)
	// A session that opens and dies at once counts as one that did not open.
	got := send(t, p)
	want(t, got, Deferred, PhaseMail, ReasonClosed, true)
	if got.RetryAfter < 29*time.Minute {
		t.Errorf("retry after %v", got.RetryAfter)
	}
	if conns, _ := srv.Conns(); conns != 2 {
		t.Errorf("%d connections", conns)
	}
}

// Credentials that were withdrawn under an open session: one new login, and
// then the error.
func TestPoolCredentialsWithdrawn(t *testing.T) {
	t.Parallel()
	srv := (&smtptest.Server{Hook: func(c *smtptest.Conn, cmd string) bool {
		switch {
		case c.N == 1 && c.Mails > 0 && verb(cmd) == "MAIL":
			c.Reply("530 5.7.0 log in first")
		case c.N > 1 && verb(cmd) == "AUTH":
			c.Reply("535 5.7.8 Authentication failed")
		default:
			return false
		}
		return true
	}}).Start(t)
	p := newPool(t, srv, nil)
	if got := send(t, p); got != nil {
		t.Fatal(got)
	}
	for range 3 {
		want(t, send(t, p), Rejected, PhaseAuth, ReasonAuth, true)
	}
	if conns, _ := srv.Conns(); conns != 2 {
		t.Errorf("%d connections", conns)
	}
}

// A server that ends each session after five mails: all go out, once each, and
// after a while the limit is kept without being told.
func TestPoolLearnsMailLimit(t *testing.T) {
	t.Parallel()
	var refused atomic.Int64
	srv := (&smtptest.Server{Hook: func(c *smtptest.Conn, cmd string) bool {
		if c.Mails == 5 && verb(cmd) == "MAIL" {
			refused.Add(1)
			c.Reply("421 4.7.0 too many mails")
			c.Close()
		}
		return false
	}}).Start(t)
	p := newPool(t, srv, nil)
	const n = 200
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range n / 4 {
				if _, err := p.Send(t.Context(), from, to, []byte(mail)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if got := len(srv.Mails()); got != n {
		t.Errorf("%d mails, want %d", got, n)
	}
	if r := refused.Load(); r < 2 || r > 8 {
		t.Errorf("ran into the limit %d times", r)
	}
}

// A server that lets three sessions in: the pool shrinks to three and loses
// nothing; later it tries one more.
func TestPoolShrinks(t *testing.T) {
	t.Parallel()
	var allowed atomic.Int64
	allowed.Store(3)
	srv := &smtptest.Server{Hook: func(c *smtptest.Conn, cmd string) bool {
		if cmd == "" && int64(c.Open()) > allowed.Load() {
			c.Reply("421 4.7.0 too many connections")
			c.Close()
		}
		return false
	}}
	srv.Start(t)
	p := newPool(t, srv, func(c *Config) { c.GrowAfter = 20 * time.Millisecond })
	load := func() {
		var all sync.WaitGroup
		for range 16 {
			all.Go(func() {
				for range 20 {
					if _, err := p.Send(t.Context(), from, to, []byte(mail)); err != nil {
						t.Error(err)
					}
				}
			})
		}
		all.Wait()
	}
	load()
	if st := p.Stats(); st.Open > 3 {
		t.Errorf("%+v", st)
	}
	allowed.Store(100)
	deadline := time.Now().Add(10 * time.Second)
	for p.Stats().Limit < 8 && time.Now().Before(deadline) && !t.Failed() {
		load()
	}
	st := p.Stats()
	if st.Limit != 8 || st.Unknown != 0 || int64(len(srv.Mails())) != st.Accepted {
		t.Errorf("%+v, %d mails", st, len(srv.Mails()))
	}
}

// The server is restarted under load: each mail is accepted once or its
// outcome is unknown, and the pool is whole again by itself.
func TestPoolServerRestarts(t *testing.T) {
	t.Parallel()
	srv := new(smtptest.Server).Start(t)
	p := newPool(t, srv, nil)
	var all sync.WaitGroup
	for w := range 8 {
		all.Go(func() {
			for i := range 50 {
				if w == 0 && i%10 == 5 {
					srv.CloseConns()
				}
				_ = eventually(t, p)
			}
		})
	}
	all.Wait()
	if got := eventually(t, p); got != nil {
		t.Fatal(got)
	}
	st := p.Stats()
	if n := int64(len(srv.Mails())); n < st.Accepted || n > st.Accepted+st.Unknown {
		t.Errorf("%d mails, %+v", n, st)
	}
	if st.Accepted < 200 {
		t.Errorf("%+v", st)
	}
}

// Many goroutines, few sessions: never more than were allowed, and in the
// order in which they asked.
func TestPoolManySenders(t *testing.T) {
	t.Parallel()
	srv := new(smtptest.Server).Start(t)
	p := newPool(t, srv, func(c *Config) { c.MaxConns = 10; c.MaxMessages = 7 })
	var all sync.WaitGroup
	for range 200 {
		all.Go(func() {
			for range 3 {
				if _, err := p.Send(t.Context(), from, to, []byte(mail)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	// A session that was ended may still be open at the server's end.
	if st := p.Stats(); st.Open > 10 || st.Accepted != 600 || len(srv.Mails()) != 600 {
		t.Errorf("%+v, %d mails", st, len(srv.Mails()))
	}
	for _, m := range srv.Mails() {
		if string(m.Data) != mail {
			t.Fatalf("arrived as %q", m.Data)
		}
	}
}

func TestPoolQueueIsFair(t *testing.T) {
	t.Parallel()
	first := make(chan struct{})
	srv := (&smtptest.Server{Hook: func(c *smtptest.Conn, cmd string) bool {
		if verb(cmd) == "MAIL" && c.Mails == 0 {
			<-first
		}
		return false
	}}).Start(t)
	p := newPool(t, srv, func(c *Config) { c.MaxConns = 1 })
	var all sync.WaitGroup
	all.Go(func() { _, _ = p.Send(t.Context(), from, "0@x.test", []byte(mail)) })
	waitFor(t, func() bool { return p.Stats().Open == 1 })
	for i := range 8 {
		all.Go(func() { _, _ = p.Send(t.Context(), from, string(rune('1'+i))+"@x.test", []byte(mail)) })
		waitFor(t, func() bool { return queued(p) == i+1 })
	}
	close(first)
	all.Wait()
	for i, m := range srv.Mails() {
		if m.To[0] != byte('0'+i) {
			t.Errorf("place %d went to %s", i, m.To)
		}
	}
}

func queued(p *Pool) int {
	p.slots.mu.Lock()
	defer p.slots.mu.Unlock()
	n := 0
	for w := p.slots.first; w != nil; w = w.next {
		n++
	}
	return n
}

// waitFor spins until a state that another goroutine brings about is there.
func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-t.Context().Done():
			t.Fatal("waited in vain")
		}
	}
}

// A caller who gives up while waiting takes nothing with him.
func TestPoolCanceledWhileWaiting(t *testing.T) {
	t.Parallel()
	hold := make(chan struct{})
	var release sync.Once
	srv := (&smtptest.Server{Hook: func(c *smtptest.Conn, cmd string) bool {
		if verb(cmd) == "MAIL" && c.Mails == 0 {
			<-hold
		}
		return false
	}}).Start(t)
	t.Cleanup(func() { release.Do(func() { close(hold) }) })
	p := newPool(t, srv, func(c *Config) { c.MaxConns = 2 })
	var busy, gaveUp sync.WaitGroup
	for range 2 {
		busy.Go(func() {
			if _, err := p.Send(t.Context(), from, to, []byte(mail)); err != nil {
				t.Error(err)
			}
		})
	}
	waitFor(t, func() bool { return p.Stats().Open == 2 })
	ctx, cancel := context.WithCancel(t.Context())
	for range 100 {
		gaveUp.Go(func() {
			_, err := p.Send(ctx, from, to, []byte(mail))
			if !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
		})
	}
	waitFor(t, func() bool { return queued(p) == 100 })
	cancel()
	gaveUp.Wait()
	release.Do(func() { close(hold) })
	busy.Wait()
	for range 5 {
		if got := send(t, p); got != nil {
			t.Fatal(got)
		}
	}
	if st := p.Stats(); st.Open != 2 || st.Idle != 2 || len(srv.Mails()) != 7 {
		t.Errorf("%+v, %d mails", st, len(srv.Mails()))
	}
}

// Contexts that end at any moment must never lose a session or a slot.
func TestPoolCanceledAnytime(t *testing.T) {
	t.Parallel()
	srv := new(smtptest.Server).Start(t)
	p := newPool(t, srv, func(c *Config) { c.MaxConns = 2 })
	var all sync.WaitGroup
	for w := range 16 {
		all.Go(func() {
			for i := range 30 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration((w*31+i*17)%4000)*time.Microsecond)
				_, _ = p.Send(ctx, from, to, []byte(mail))
				cancel()
			}
		})
	}
	all.Wait()
	if got := eventually(t, p); got != nil {
		t.Fatal(got)
	}
	p.slots.mu.Lock()
	defer p.slots.mu.Unlock()
	if q := &p.slots; q.open != len(q.idle) || q.dialing != 0 || len(q.busy) != 0 || len(q.dials) != 0 || q.first != nil || q.last != nil {
		t.Errorf("open %d idle %d dialing %d busy %d", q.open, len(q.idle), q.dialing, len(q.busy))
	}
	st := &p.stats
	if n := int64(len(srv.Mails())); n < st.accepted.Load() || n > st.accepted.Load()+st.unknown.Load() {
		t.Errorf("%d mails, %d accepted, %d unknown", n, st.accepted.Load(), st.unknown.Load())
	}
}

// A panic in the caller's own code passes through and costs the session alone.
func TestPoolPanics(t *testing.T) {
	t.Parallel()
	srv := new(smtptest.Server).Start(t)
	var log, dial atomic.Bool
	p := newPool(t, srv, func(c *Config) {
		c.MaxConns = 1
		c.Logger = slog.New(panicky{&log})
		c.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			if dial.Load() {
				panic("dial")
			}
			return new(net.Dialer).DialContext(ctx, network, addr)
		}
	})
	try := func() (panicked any) {
		defer func() { panicked = recover() }()
		_, _ = p.Send(t.Context(), from, to, []byte(mail))
		return nil
	}
	dial.Store(true)
	if r := try(); r != "dial" {
		t.Errorf("panic %v", r)
	}
	dial.Store(false)
	if got := send(t, p); got != nil {
		t.Fatal(got)
	}
	log.Store(true)
	if r := try(); r != "log" {
		t.Errorf("panic %v", r)
	}
	log.Store(false)
	if got := send(t, p); got != nil {
		t.Fatal(got)
	}
	if conns, _ := srv.Conns(); conns != 2 || len(srv.Mails()) != 2 {
		t.Errorf("%d connections, %d mails", conns, len(srv.Mails()))
	}
}

type panicky struct{ on *atomic.Bool }

func (h panicky) Enabled(context.Context, slog.Level) bool { return true }
func (h panicky) Handle(context.Context, slog.Record) error {
	if h.on.Load() {
		panic("log")
	}
	return nil
}
func (h panicky) WithAttrs([]slog.Attr) slog.Handler { return h }
func (h panicky) WithGroup(string) slog.Handler      { return h }

func TestPoolClose(t *testing.T) {
	t.Parallel()
	began, hold := make(chan struct{}), make(chan struct{})
	quit := make(chan struct{}, 2)
	srv := (&smtptest.Server{Hook: func(c *smtptest.Conn, cmd string) bool {
		switch {
		case cmd == "." && c.N == 1 && c.Mails == 0:
			close(began)
			<-hold
		case cmd == "QUIT":
			quit <- struct{}{}
			c.Silence() // nobody waits for the answer
		}
		return false
	}}).Start(t)
	p := newPool(t, srv, func(c *Config) { c.MaxConns = 1 })
	var all sync.WaitGroup
	all.Go(func() {
		if _, err := p.Send(t.Context(), from, to, []byte(mail)); err != nil {
			t.Error(err)
		}
	})
	<-began
	all.Go(func() {
		_, err := p.Send(t.Context(), from, to, []byte(mail))
		want(t, failure(t, err), Deferred, PhaseDial, ReasonPoolClosed, false)
	})
	waitFor(t, func() bool { return queued(p) == 1 })
	all.Go(func() {
		if err := p.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
	waitFor(t, func() bool { return queued(p) == 0 })
	close(hold)
	all.Wait()
	<-quit
	want(t, send(t, p), Deferred, PhaseDial, ReasonPoolClosed, false)
	want(t, failure(t, p.Verify(t.Context())), Deferred, PhaseDial, ReasonPoolClosed, false)
	if n := len(srv.Mails()); n != 1 {
		t.Errorf("%d mails", n)
	}
}

// When Close may not wait, what is under way ends at once: deferred before the
// end of the mail, unknown after it.
func TestPoolCloseAborts(t *testing.T) {
	t.Parallel()
	for at, outcome := range map[string]Outcome{"AUTH": Deferred, "RCPT": Deferred, ".": Unknown} {
		t.Run("at "+at, func(t *testing.T) {
			t.Parallel()
			began := make(chan struct{})
			srv := (&smtptest.Server{Hook: func(c *smtptest.Conn, cmd string) bool {
				if verb(cmd) == at {
					close(began)
					c.Silence()
				}
				return false
			}}).Start(t)
			p := newPool(t, srv, nil)
			var all sync.WaitGroup
			all.Go(func() {
				got := send(t, p)
				if got == nil || got.Outcome != outcome || got.Account {
					t.Errorf("got %v", got)
				}
			})
			<-began
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if err := p.Close(ctx); !errors.Is(err, context.Canceled) {
				t.Errorf("close: %v", err)
			}
			all.Wait()
		})
	}
}

func TestPoolVerify(t *testing.T) {
	t.Parallel()
	srv := new(smtptest.Server).Start(t)
	p := newPool(t, srv, nil)
	if err := p.Verify(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, c := range srv.Commands() {
		if verb(c) == "MAIL" {
			t.Error("verify sent a mail")
		}
	}
	if st := p.Stats(); st.Open != 0 {
		t.Errorf("%+v", st)
	}
	srv.Stop()
	for range 2 { // the user asks again when they think it is mended
		want(t, failure(t, p.Verify(t.Context())), Deferred, PhaseDial, ReasonRefused, true)
	}
	if n := p.Stats().Dials; n != 3 {
		t.Errorf("%d dials", n)
	}
}
