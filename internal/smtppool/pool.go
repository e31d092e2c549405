package smtppool

import (
	"context"
	"errors"
	"sync/atomic"
	"time"
)

var errClosed = errors.New("SMTP pool is closed")

// Pool keeps sessions to one server. It is safe for concurrent use. It owns
// no goroutine: a session is dialled and used by the goroutine that sends.
type Pool struct {
	cfg   *Config
	stats counters
	slots slots
}

// counters are the figures behind [Stats].
type counters struct {
	accepted, deferred, rejected, unknown atomic.Int64
	dials, handshakes, roundTrips         atomic.Int64
	// lockStep: PIPELINING is announced and does not work. cutOff counts the
	// groups in a row within which the connection ended.
	lockStep atomic.Bool
	cutOff   atomic.Int64
}

// Stats are the pool's counts since New.
type Stats struct {
	Accepted, Deferred, Rejected, Unknown int64
	// Dials are connections tried, Handshakes TLS handshakes that succeeded.
	Dials, Handshakes int64
	// RoundTrips are the times that an answer was waited for.
	RoundTrips int64
	// Open sessions, those of them that are idle, and how many may be open.
	Open, Idle, Limit int
}

// New checks cfg and returns a pool that has not dialled yet.
func New(cfg Config) (*Pool, error) {
	c, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	p := &Pool{cfg: c}
	p.slots.init(c)
	return p, nil
}

// Stats returns the counts.
func (p *Pool) Stats() Stats {
	st := Stats{
		Accepted: p.stats.accepted.Load(), Deferred: p.stats.deferred.Load(),
		Rejected: p.stats.rejected.Load(), Unknown: p.stats.unknown.Load(),
		Dials: p.stats.dials.Load(), Handshakes: p.stats.handshakes.Load(), RoundTrips: p.stats.roundTrips.Load(),
	}
	q := &p.slots
	q.mu.Lock()
	defer q.mu.Unlock()
	st.Open, st.Idle, st.Limit = q.open-q.dialing, len(q.idle), q.limit
	return st
}

// Send hands over one composed mail: data with CRLF line ends, 7-bit, dots as
// they are. An error is an [*Error]. Where a kept session turns out dead
// before the end of the mail was written, the mail goes once more over a new
// one; after that point never.
func (p *Pool) Send(ctx context.Context, from, to string, data []byte) (Result, error) {
	res, failure := p.send(ctx, from, to, data)
	if failure != nil {
		switch failure.Outcome {
		case Unknown:
			p.stats.unknown.Add(1)
		case Rejected:
			p.stats.rejected.Add(1)
		case Deferred:
			p.stats.deferred.Add(1)
		}
		return Result{}, failure
	}
	p.stats.accepted.Add(1)
	return res, nil
}

func (p *Pool) send(ctx context.Context, from, to string, data []byte) (Result, *Error) {
	err := errors.Join(checkAddress("sender", from), checkAddress("recipient", to), checkData(data))
	if err != nil {
		return Result{}, phaseError(PhaseCheck, ReasonInvalid, err)
	}
	s, failure := p.get(ctx)
	if failure != nil {
		return Result{}, failure
	}
	kept := s.kept()
	res, failure := p.use(ctx, s, from, to, data, kept)
	if failure == nil || !kept || !retryable(failure) {
		return res, failure
	}
	p.cfg.Logger.DebugContext(ctx, "smtp session was stale, sending on a new one", "server", p.cfg.Addr, "cause", failure)
	if s, failure = p.fresh(ctx); failure != nil {
		return Result{}, failure
	}
	return p.use(ctx, s, from, to, data, false)
}

// retryable reports whether a failure on a kept session is about the session
// and not the mail, while the server is certain not to have the mail.
func retryable(e *Error) bool {
	switch {
	case e.Outcome == Unknown || e.Reason == ReasonCanceled:
		return false
	case e.Enhanced == "4.4.2": // connection dropped or timed out (RFC 3463)
		return true
	case e.Phase == PhaseReply:
		return false
	case e.Code == 421, e.Code == 530:
		return true
	case e.Code != 0:
		return false
	case e.Reason == ReasonTimeout:
		// Nothing came back at all: the way is gone, as a NAT forgets it.
		return e.Phase == PhaseMail
	}
	return e.Reason == ReasonClosed || e.Reason == ReasonOther
}

// use runs one transaction and puts the session back. With keepSlot, the slot
// of a session that proved stale is left to the caller.
func (p *Pool) use(ctx context.Context, s *session, from, to string, data []byte, keepSlot bool) (res Result, failure *Error) {
	done := false
	defer func() {
		stale := failure != nil && retryable(failure)
		if stale || !done { // not done: a panic, in the caller's logger for one
			s.broken = true
		}
		p.slots.put(s, failure, keepSlot && stale)
	}()
	res, failure = s.transact(ctx, from, to, data)
	done = true
	return res, failure
}

// get returns a session for one transaction.
func (p *Pool) get(ctx context.Context) (*session, *Error) {
	for {
		g, failure := p.slots.acquire(ctx)
		if failure != nil || g != nil {
			return g, failure
		}
		s, failure, queue := p.dial(ctx)
		if !queue {
			return s, failure
		}
	}
}

// fresh is get for a caller who holds the slot of a session that is gone: it
// should not be given another session of the same age.
func (p *Pool) fresh(ctx context.Context) (*session, *Error) {
	if p.slots.redial() {
		s, failure, queue := p.dial(ctx)
		if !queue {
			return s, failure
		}
	}
	return p.get(ctx)
}

// dial opens a session on a slot that was granted for it. queue asks the
// caller to wait for another session: the server is up but wants no more.
func (p *Pool) dial(ctx context.Context) (s *session, failure *Error, queue bool) {
	d := &dialing{started: time.Now()}
	dialCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	d.cancel = cancel
	p.slots.dialBegins(d)
	defer func() {
		// Also after a panic in the caller's Dial: both nil.
		failure, queue = p.slots.dialEnds(ctx, d, s, failure)
		if failure != nil {
			s = nil
		}
	}()
	s, failure = open(dialCtx, p.cfg, &p.stats)
	return s, failure, false
}

// Verify opens a session of its own and ends it again: it logs in and sends
// nothing. It makes no attempt while refused credentials are held back.
func (p *Pool) Verify(ctx context.Context) error {
	if failure := p.slots.verifyBegins(); failure != nil {
		return failure
	}
	d := &dialing{started: time.Now(), verify: true}
	dialCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	d.cancel = cancel
	p.slots.dialBegins(d)
	var s *session
	var failure *Error
	defer func() { _, _ = p.slots.dialEnds(ctx, d, s, failure) }()
	s, failure = open(dialCtx, p.cfg, &p.stats)
	if failure != nil {
		return failure
	}
	return nil
}

// Close ends the pool: who waits for a session is turned away, idle sessions
// are ended, and sends under way may finish until ctx ends. Then their
// connections are closed under them, which leaves their mails deferred, or
// unknown where they had been written whole; the error is ctx's.
func (p *Pool) Close(ctx context.Context) error {
	p.slots.close()
	select {
	case <-p.slots.drained:
		return nil
	case <-ctx.Done():
	}
	p.slots.abort()
	return context.Cause(ctx)
}
