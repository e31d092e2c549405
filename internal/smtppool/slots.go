package smtppool

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

// slots is who may have a session: the bookkeeping of a pool, without any
// traffic. A slot is a session, idle or in use, or the right to dial one.
type slots struct {
	cfg *Config

	mu sync.Mutex
	// idle sessions, the one used last at the end.
	idle []*session
	// busy are the sessions in use, dials the openings under way, for abort.
	busy  map[*session]struct{}
	dials map[*dialing]struct{}
	// dead are sessions to end once the lock is released.
	dead []*session
	// open counts all slots taken, dialing those of them that have no session.
	open, dialing int
	// limit is MaxConns, or less after a 421; growAt is when it may rise.
	limit  int
	growAt time.Time
	// first and last are the ends of the queue for a slot, spare are waiters
	// to be used again. They are kept here and not for all pools together,
	// because a channel belongs to the synctest bubble that made it.
	first, last *waiter
	spare       []*waiter
	// failures counts openings that failed in a row. While it is not 0, one
	// dial is made at a time, and none before holdUntil.
	failures  int
	lastFail  time.Time
	holdUntil time.Time
	held      *Error
	// maxMessages is cfg.MaxMessages, or what the server was seen to allow.
	maxMessages, seenLimit int
	sweeper                *time.Timer
	// reached: a session was opened once. Before that one dial is made at a
	// time, so that wrong credentials are tried once and not MaxConns times.
	reached         bool
	closed, aborted bool
	// drained is closed when the pool is closed and no slot is taken.
	drained chan struct{}
}

// waiter is one goroutine in the queue.
type waiter struct {
	prev, next *waiter
	queued     bool
	ready      chan grant
}

// grant is what a waiter gets: a session, an error, or, empty, the right to
// dial.
type grant struct {
	session *session
	err     *Error
}

// dialing is one opening under way.
type dialing struct {
	started time.Time
	cancel  context.CancelFunc
	// verify: the session is ended again, and stands outside the limit.
	verify bool
}

func (q *slots) init(cfg *Config) {
	q.cfg = cfg
	q.limit, q.maxMessages = cfg.MaxConns, cfg.MaxMessages
	q.busy = make(map[*session]struct{}, cfg.MaxConns)
	q.dials = make(map[*dialing]struct{})
	q.drained = make(chan struct{})
}

// unlock releases the lock after serving the queue, and then ends what is to
// be ended.
func (q *slots) unlock() {
	q.dispatch()
	if q.closed && q.open == 0 {
		select {
		case <-q.drained:
		default:
			close(q.drained)
		}
	}
	dead := q.dead
	q.dead = nil
	q.mu.Unlock()
	for _, s := range dead {
		s.quit()
	}
}

// acquire gives a session, or, with both results nil, the right to dial.
func (q *slots) acquire(ctx context.Context) (*session, *Error) {
	if err := contextEnded(ctx); err != nil {
		return nil, phaseError(PhaseDial, ReasonCanceled, err)
	}
	q.mu.Lock()
	if q.closed {
		q.unlock()
		return nil, phaseError(PhaseDial, ReasonPoolClosed, errClosed)
	}
	if q.first == nil {
		if g, ok := q.take(); ok {
			q.unlock()
			return g.session, g.err
		}
	}
	w := q.enqueue()
	q.unlock()
	select {
	case g := <-w.ready:
		q.mu.Lock()
		q.recycle(w)
		q.mu.Unlock()
		return g.session, g.err
	case <-ctx.Done():
	}
	q.mu.Lock()
	if w.queued {
		q.remove(w)
	} else { // handed over in the same moment: pass it on
		q.giveBack(<-w.ready)
	}
	q.recycle(w)
	q.unlock()
	return nil, phaseError(PhaseDial, ReasonCanceled, ctx.Err())
}

// take gives a session, the right to dial, or the error behind which dials are
// held back; false when there is nothing but to wait.
func (q *slots) take() (grant, bool) {
	now := time.Now()
	for n := len(q.idle); n > 0; n = len(q.idle) {
		s := q.idle[n-1]
		q.idle = q.idle[:n-1]
		if q.expired(s, now) {
			q.end(s)
			continue
		}
		s.rested = now.Sub(s.idleSince)
		q.busy[s] = struct{}{}
		return grant{session: s}, true
	}
	if q.limit < q.cfg.MaxConns && !now.Before(q.growAt) {
		q.limit++
		q.growAt = now.Add(q.cfg.GrowAfter)
	}
	switch {
	case q.open < q.limit && (q.dialing == 0 && !now.Before(q.holdUntil) || q.reached && q.failures == 0):
		q.open++
		q.dialing++
		return grant{}, true
	case q.open == 0:
		return grant{err: q.holdError(now)}, true
	}
	return grant{}, false
}

// end takes a session's slot from it.
func (q *slots) end(s *session) {
	q.open--
	q.dead = append(q.dead, s)
}

func (q *slots) expired(s *session, now time.Time) bool {
	return now.Sub(s.idleSince) >= q.cfg.MaxIdle || now.Sub(s.opened) >= q.cfg.MaxAge
}

// giveBack undoes a grant that nobody came for.
func (q *slots) giveBack(g grant) {
	switch {
	case g.err != nil:
	case g.session != nil:
		delete(q.busy, g.session)
		if q.closed {
			q.end(g.session)
		} else {
			q.idle = append(q.idle, g.session)
		}
	default:
		q.open--
		q.dialing--
	}
}

func (q *slots) enqueue() *waiter {
	var w *waiter
	if n := len(q.spare); n > 0 {
		w, q.spare = q.spare[n-1], q.spare[:n-1]
	} else {
		w = &waiter{ready: make(chan grant, 1)}
	}
	w.prev, w.next, w.queued = q.last, nil, true
	if q.last == nil {
		q.first = w
	} else {
		q.last.next = w
	}
	q.last = w
	return w
}

// recycle keeps a waiter that nobody knows any more, up to a number.
func (q *slots) recycle(w *waiter) {
	if len(q.spare) < 64 {
		q.spare = append(q.spare, w)
	}
}

func (q *slots) remove(w *waiter) {
	if w.prev == nil {
		q.first = w.next
	} else {
		w.prev.next = w.next
	}
	if w.next == nil {
		q.last = w.prev
	} else {
		w.next.prev = w.prev
	}
	w.prev, w.next, w.queued = nil, nil, false
}

// dispatch serves the queue in its order, as far as it can be served.
func (q *slots) dispatch() {
	for q.first != nil {
		g, ok := grant{err: phaseError(PhaseDial, ReasonPoolClosed, errClosed)}, true
		if !q.closed {
			g, ok = q.take()
		}
		if !ok {
			return
		}
		w := q.first
		q.remove(w)
		w.ready <- g
	}
}

// redial turns the slot of a session that is gone into the right to dial.
// Where dials are held back the slot is given up.
func (q *slots) redial() bool {
	q.mu.Lock()
	defer q.unlock()
	if q.closed || q.failures > 0 {
		q.open--
		return false
	}
	q.dialing++
	return true
}

// verifyBegins takes a slot beyond the limit.
func (q *slots) verifyBegins() *Error {
	q.mu.Lock()
	defer q.unlock()
	now := time.Now()
	switch {
	case q.closed:
		return phaseError(PhaseDial, ReasonPoolClosed, errClosed)
	case q.failures > 0 && q.held.Reason == ReasonAuth && now.Before(q.holdUntil):
		return q.holdError(now)
	}
	q.open++
	q.dialing++
	return nil
}

func (q *slots) dialBegins(d *dialing) {
	q.mu.Lock()
	defer q.unlock()
	q.dials[d] = struct{}{}
	if q.aborted {
		d.cancel()
	}
}

// dialEnds books the end of an opening: a session, a failure, or neither when
// it panicked. It returns the failure that the caller should see, and whether
// the caller should queue for another session instead.
func (q *slots) dialEnds(ctx context.Context, d *dialing, s *session, failure *Error) (_ *Error, queue bool) {
	q.mu.Lock()
	defer q.unlock()
	delete(q.dials, d)
	q.dialing--
	if failure == nil && s != nil {
		switch {
		case d.verify:
			q.failures, q.holdUntil = 0, time.Time{}
			q.end(s)
		case q.closed:
			q.end(s)
			return phaseError(PhaseDial, ReasonPoolClosed, errClosed), false
		default:
			q.busy[s] = struct{}{}
		}
		q.reached = true
		return nil, false
	}
	q.open--
	switch {
	case failure == nil:
	case failure.Reason == ReasonCanceled:
		if q.closed && contextEnded(ctx) == nil {
			failure = phaseError(failure.Phase, ReasonPoolClosed, errClosed)
		}
	case failure.Code == 421 && q.open > q.dialing:
		// Sessions of ours are open and one more was refused.
		if d.verify {
			break
		}
		q.limit = q.open
		q.growAt = time.Now().Add(q.cfg.GrowAfter)
		return failure, true
	case d.verify && failure.Reason != ReasonAuth:
		// The user asks again when they think it is mended.
	default:
		q.hold(failure, d.started)
	}
	return failure, false
}

// put takes a session back after a transaction, and the lesson from it.
// keepSlot leaves the slot of a session that is gone to the caller.
func (q *slots) put(s *session, failure *Error, keepSlot bool) {
	q.mu.Lock()
	defer q.unlock()
	delete(q.busy, s)
	now := time.Now()
	switch {
	case s.proven:
		if s.opened.After(q.lastFail) {
			q.failures, q.holdUntil = 0, time.Time{}
		}
	case failure != nil && s.broken && !s.kept() && failure.Reason != ReasonCanceled && failure.Phase != PhaseBody && failure.Phase != PhaseReply:
		// It opened, and died before it was of use: as good as not opened.
		q.hold(failure, s.opened)
	}
	if failure != nil {
		q.learn(s, failure)
	}
	switch {
	case keepSlot:
		q.dead = append(q.dead, s)
	case s.broken, q.closed, s.sent >= q.maxMessages, now.Sub(s.opened) >= q.cfg.MaxAge, q.open-q.dialing > q.limit:
		q.end(s)
	default:
		s.idleSince = now
		q.idle = append(q.idle, s)
		if q.sweeper == nil {
			q.sweeper = time.AfterFunc(q.cfg.MaxIdle, q.sweep)
		}
	}
}

// learn notes a server's limit of mails a session. A 421 to MAIL in the midst
// of work, twice after the same number of mails, is one; a 421 after a pause
// is about the pause.
func (q *slots) learn(s *session, failure *Error) {
	if failure.Code != 421 || failure.Phase != PhaseMail || failure.Enhanced == "4.4.2" || s.sent < 2 || s.rested > time.Second {
		return
	}
	if allowed := s.sent - 1; allowed == q.seenLimit {
		q.maxMessages = min(q.maxMessages, allowed)
	} else {
		q.seenLimit = allowed
	}
}

// hold begins or prolongs the pause after a failed opening. Openings that were
// under way when another failed count with it.
func (q *slots) hold(failure *Error, started time.Time) {
	now := time.Now()
	if q.failures > 0 && started.Before(q.lastFail) && (q.held.Reason == ReasonAuth || failure.Reason != ReasonAuth) {
		return
	}
	q.failures++
	held := *failure
	held.Account, held.Recipient = true, ""
	q.lastFail, q.held = now, &held
	pause, most := q.cfg.BackoffMin, q.cfg.BackoffMax
	if failure.Reason == ReasonAuth {
		pause, most = q.cfg.AuthHold, 16*q.cfg.AuthHold
	}
	for i := 1; i < q.failures && pause < most; i++ {
		pause *= 2
	}
	pause = min(pause, most)
	// Jitter, so that many processes do not come back in the same instant.
	pause = pause/2 + rand.N(pause/2+1)
	if failure.Reason == ReasonAuth {
		pause = max(pause, q.cfg.AuthHold)
	}
	q.holdUntil = now.Add(pause)
}

// holdError is the failure behind which dials are held back.
func (q *slots) holdError(now time.Time) *Error {
	e := *q.held
	e.RetryAfter = max(q.holdUntil.Sub(now), time.Millisecond)
	return &e
}

// sweep ends the sessions that nobody used for MaxIdle.
func (q *slots) sweep() {
	q.mu.Lock()
	defer q.unlock()
	q.sweeper = nil
	now := time.Now()
	kept := q.idle[:0]
	next := q.cfg.MaxIdle
	for _, s := range q.idle {
		if q.expired(s, now) {
			q.end(s)
		} else {
			kept = append(kept, s)
			next = min(next, q.cfg.MaxIdle-now.Sub(s.idleSince))
		}
	}
	clear(q.idle[len(kept):])
	q.idle = kept
	if len(kept) > 0 {
		q.sweeper = time.AfterFunc(next, q.sweep)
	}
}

func (q *slots) close() {
	q.mu.Lock()
	defer q.unlock()
	q.closed = true
	for _, s := range q.idle {
		q.end(s)
	}
	q.idle = nil
	if q.sweeper != nil {
		q.sweeper.Stop()
	}
}

// abort closes the connections of all that is under way.
func (q *slots) abort() {
	q.mu.Lock()
	defer q.unlock()
	q.aborted = true
	for s := range q.busy {
		s.abort()
	}
	for d := range q.dials {
		d.cancel()
	}
}
