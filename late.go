package fluxly

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"
)

// sharedTx is the transaction of a commit that callers share. They share the
// instant too, so that "before" means the same for all of them.
type sharedTx struct {
	Tx
	now time.Time
	// late is true when something was due before now: the worker is behind,
	// or there is none.
	late bool
	// counts is what this attempt of the transaction did; it is added to the
	// engine's counters after the commit.
	counts Counters
	// doubt: mails under way must be looked at again once it is committed.
	doubt bool
}

// Stores keep whole microseconds. What is due is rounded up to one, so that
// nothing is ever due before the time that was meant.

func (s *sharedTx) PutRun(ctx context.Context, r *Run) error {
	r.WakeAt = dueTime(r.WakeAt)
	return s.Tx.PutRun(ctx, r)
}

func (s *sharedTx) PutSend(ctx context.Context, m *SendRecord) error {
	m.DueAt = dueTime(m.DueAt)
	return s.Tx.PutSend(ctx, m)
}

func (s *sharedTx) PutMembership(ctx context.Context, m *Membership) error {
	m.CheckAt = dueTime(m.CheckAt)
	return s.Tx.PutMembership(ctx, m)
}

// preload tells a store that reads ahead what is coming.
func preload(ctx context.Context, tx Tx, hints []Preload) error {
	if s, ok := tx.(*sharedTx); ok {
		tx = s.Tx
		for i := range hints {
			hints[i].Overdue = s.now.Add(time.Nanosecond)
		}
	}
	p, ok := tx.(Preloader)
	if !ok || len(hints) == 0 {
		return nil
	}
	return p.Preload(ctx, hints)
}

// countOf is where a transaction counts.
func countOf(tx Tx) *Counters {
	if s, ok := tx.(*sharedTx); ok {
		return &s.counts
	}
	return &Counters{}
}

// share makes a sharedTx. A store that reads ahead is told what is coming; what
// is overdue comes with it, so that nothing need be asked to know whether
// anything is.
func (e *Engine) share(ctx context.Context, tx Tx, hints []Preload) (*sharedTx, error) {
	s := &sharedTx{Tx: tx, now: e.now()}
	if p, ok := tx.(Preloader); ok {
		for i := range hints {
			hints[i].Overdue = s.now.Add(time.Nanosecond) // due now counts too
		}
		s.late = true
		if len(hints) == 0 {
			return s, nil
		}
		return s, p.Preload(ctx, hints)
	}
	for _, kind := range [...]WorkKind{WorkWake, WorkSegment} {
		due, _, err := tx.Due(ctx, kind, s.now.Add(-time.Nanosecond), 1)
		if err != nil {
			return nil, err
		}
		s.late = s.late || len(due) > 0
	}
	return s, nil
}

// clockOf is the instant of a transaction.
func (e *Engine) clockOf(tx Tx) time.Time {
	if s, ok := tx.(*sharedTx); ok {
		return s.now
	}
	return e.now()
}

// catchUp decides what was due for people before the present instant, each
// piece for its own instant and in order, before anything new is known of
// them. So a program whose worker is late, or was down, decides as one whose
// worker was in time.
func (e *Engine) catchUp(ctx context.Context, tx Tx, people []*Profile) error {
	shared, ok := tx.(*sharedTx)
	if !ok || !shared.late {
		return nil
	}
	for _, p := range people {
		s := e.session(ctx, tx, shared.now, "")
		s.profile = p
		if err := s.catchUp(shared.now); err != nil {
			return err
		}
	}
	return nil
}

// catchUpOf is catchUp for one person by id, before the outcome of a mail or of
// a step of the program's own is decided for them.
func (e *Engine) catchUpOf(ctx context.Context, tx Tx, profileID string) error {
	if shared, ok := tx.(*sharedTx); !ok || !shared.late {
		return nil
	}
	p, err := tx.Profile(ctx, profileID)
	if err != nil || p == nil {
		return err
	}
	return e.catchUp(ctx, tx, []*Profile{p})
}

// noSignal is the name of nothing that happens.
const noSignal = "$none"

// piece is one timer of a person: that of a run, or of a membership.
type piece struct {
	at      time.Time
	run     string
	segment *compiledSegment
}

// compare orders pieces by time; at the same instant memberships come first,
// because runs are decided by them.
func (p piece) compare(q piece) int {
	if c := p.at.Compare(q.at); c != 0 {
		return c
	}
	return cmp.Or(strings.Compare(p.run, q.run), cmp.Compare(p.segmentName(), q.segmentName()))
}

func (p piece) segmentName() string {
	if p.segment == nil {
		return ""
	}
	return p.segment.name
}

// catchUp fires the person's timers that are due before limit, in order of
// their time, each with what follows from it.
func (s *session) catchUp(limit time.Time) error {
	runs, err := s.tx.LiveRuns(s.ctx, s.profile.ID, noSignal, limit)
	if err != nil {
		return err
	}
	var todo []piece
	add := func(r *Run) {
		if r.Status == RunLive && r.Pending != PendingCall && !r.WakeAt.IsZero() && r.WakeAt.Before(limit) {
			p := piece{at: r.WakeAt, run: r.ID}
			i, _ := slices.BinarySearchFunc(todo, p, func(a, b piece) int { return a.compare(b) })
			todo = slices.Insert(todo, i, p)
		}
	}
	for _, r := range runs {
		add(r)
	}
	origin, n := s.origin, s.n
	defer func() { s.origin, s.n, s.at, s.written = origin, n, s.now, nil }()
	for {
		next, err := s.nextMembership(limit)
		if err != nil {
			return err
		}
		if next == nil && len(todo) == 0 {
			return nil
		}
		s.written, s.n = s.written[:0], 0
		if next != nil && (len(todo) == 0 || next.compare(todo[0]) <= 0) {
			err = s.fireMembership(*next)
		} else {
			first := todo[0]
			todo = todo[1:]
			err = s.fireRun(first)
		}
		if err == nil {
			err = s.settle()
		}
		if err != nil {
			return err
		}
		for _, r := range s.written {
			add(r)
		}
	}
}

// fireRun fires the timer of a run, if it still stands as it was noted.
func (s *session) fireRun(p piece) error {
	r, err := s.tx.Run(s.ctx, p.run)
	if err != nil || r == nil || r.Status != RunLive || r.Pending == PendingCall || !r.WakeAt.Equal(p.at) {
		return err
	}
	s.count.Wakes++
	s.at, s.origin = p.at, runOrigin(r)
	if r.Pending == PendingMail {
		// Its mail is settled, but what followed had failed.
		m, err := s.tx.Send(s.ctx, r.SendKey)
		if err != nil {
			return err
		}
		if m != nil && (m.Status == SendQueued || m.Status == SendSending) {
			r.WakeAt = time.Time{}
			return s.tx.PutRun(s.ctx, r)
		}
		if m != nil {
			return s.decide(r, cause{kind: causeMail, mail: m})
		}
	}
	return s.decide(r, cause{kind: causeTimer})
}

// nextMembership is the membership that is due first, before limit.
func (s *session) nextMembership(limit time.Time) (*piece, error) {
	if err := s.loadMembers(); err != nil {
		return nil, err
	}
	var next *piece
	for name, m := range s.members {
		if m.CheckAt.IsZero() || !m.CheckAt.Before(limit) {
			continue
		}
		seg := s.e.segments.byName(name)
		if seg == nil {
			// The segment is no longer defined: its timer goes.
			m.CheckAt = time.Time{}
			if err := s.tx.PutMembership(s.ctx, m); err != nil {
				return nil, err
			}
			continue
		}
		p := piece{at: m.CheckAt, segment: seg}
		if next == nil || p.compare(*next) < 0 {
			next = &p
		}
	}
	return next, nil
}

// fireMembership looks again at a membership that time may have changed.
func (s *session) fireMembership(p piece) error {
	s.count.Wakes++
	m := s.members[p.segment.name]
	s.at = p.at
	s.origin = s.profile.ID + "/" + p.segment.name + "@" + p.at.Format(time.RFC3339Nano)
	if err := s.recheck(p.segment, true, 0); err != nil {
		return err
	}
	if !m.CheckAt.IsZero() && !m.CheckAt.After(p.at) {
		// Nothing says when it may change next; the next event will.
		m.CheckAt = time.Time{}
		if err := s.tx.PutMembership(s.ctx, m); err != nil {
			return err
		}
	}
	// Those that look at this one change at the same instant.
	for _, k := range s.e.segments.byDep[p.segment.name] {
		if err := s.recheck(&s.e.segments.list[k], true, 0); err != nil {
			return err
		}
	}
	return nil
}
