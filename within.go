package fluxly

import (
	"context"
	"errors"
	"fmt"
)

// Within is an [Engine] inside a transaction of the program's own, on the
// database that the engine's store is in: what it tracks is committed with the
// program's own rows, or taken back with them. It implements [Tracker]. Like
// the transaction, it is for one goroutine and ends with it.
//
// After a call that failed the transaction holds nothing of that call and goes
// on, unless the database itself ended it. [Engine.Counters] counts a call when
// it returns, whether or not the transaction is committed later.
type Within struct {
	e  *Engine
	tx CallerTx
}

var _ Tracker = (*Within)(nil)

// Within returns the engine inside a transaction, which the store makes known:
//
//	tx, err := pool.Begin(ctx)
//	// the program's own statements
//	err = engine.Within(store.Tx(tx)).Track(ctx, event)
//	err = tx.Commit(ctx) // or Rollback: nothing happened
//
// The people that a call concerns stay locked until the transaction ends, so
// track late in it and keep it short. Meanwhile calls of the engine itself about
// the same person wait, each as long as its context lasts and at most ten
// seconds, and are then [ErrHeld]; from the goroutine of the transaction that is
// a wait for itself. Due work of that person is done once the transaction has
// ended. On a store that locks people (package postgres) nobody else waits.
func (e *Engine) Within(tx CallerTx) *Within { return &Within{e: e, tx: tx} }

// TrackTx is [Engine.Track] inside a transaction of the program's own: short
// for Within(tx).Track(ctx, ev).
func (e *Engine) TrackTx(ctx context.Context, tx CallerTx, ev Event) error {
	return e.Within(tx).Track(ctx, ev)
}

// Track is [Engine.Track] inside the transaction. Besides the errors of that it
// returns the database's own where the transaction cannot go on.
func (w *Within) Track(ctx context.Context, ev Event) error {
	if err := ev.normalize(); err != nil {
		return err
	}
	return w.e.track(ctx, w.update, &ev)
}

// Identify is [Engine.Identify] inside the transaction.
func (w *Within) Identify(ctx context.Context, id Identity) error {
	ev := id.event()
	if err := ev.normalize(); err != nil {
		return err
	}
	return w.e.track(ctx, w.update, &ev)
}

// Alias is [Engine.Alias] inside the transaction.
func (w *Within) Alias(ctx context.Context, a Alias) error { return w.e.alias(ctx, w.update, a) }

// Erase is [Engine.Erase] inside the transaction.
func (w *Within) Erase(ctx context.Context, er Erasure) error { return w.e.erase(ctx, w.update, er) }

// Enroll is [Engine.Enroll] inside the transaction.
func (w *Within) Enroll(ctx context.Context, en Enrollment) (Enrolled, error) {
	return w.e.enroll(ctx, w.update, en)
}

// InSegment is [Engine.InSegment] inside the transaction: it sees what the calls
// before it changed.
func (w *Within) InSegment(ctx context.Context, id, segment string) (member bool, err error) {
	err = w.update(ctx, Preload{IDs: anyID(id)}, func(ctx context.Context, tx Tx) error {
		member, err = w.e.inSegment(ctx, tx, id, segment)
		return err
	})
	return member, err
}

// InSegment reports whether the person who has the id, as any kind of id, is in
// a segment, as it was decided last: by the events and timers up to now. A
// segment that is not in Config.Segments is [ErrNotFound], and so is an id that
// nobody has.
func (e *Engine) InSegment(ctx context.Context, id, segment string) (member bool, err error) {
	err = e.store.View(ctx, func(tx Tx) error {
		member, err = e.inSegment(ctx, tx, id, segment)
		return err
	})
	return member, err
}

func (e *Engine) inSegment(ctx context.Context, tx Tx, id, segment string) (bool, error) {
	if e.segments.byName(segment) == nil {
		return false, refuse(fmt.Errorf("there is no segment %q: %w", clip(segment, 64), ErrNotFound))
	}
	found, err := tx.FindProfiles(ctx, anyID(id))
	if err != nil {
		return false, err
	}
	if len(found) == 0 {
		return false, refuse(fmt.Errorf("nobody has the id %q: %w", clip(id, 64), ErrNotFound))
	}
	list, err := tx.Memberships(ctx, found[0].ID)
	if err != nil {
		return false, err
	}
	for i := range list {
		if list[i].Segment == segment {
			return list[i].Member, nil
		}
	}
	return false, nil
}

// update runs fn in the caller's transaction.
func (w *Within) update(ctx context.Context, hint Preload, fn func(ctx context.Context, tx Tx) error) error {
	if err := w.e.checkOpen(); err != nil {
		return err
	}
	if w.tx == nil {
		return fieldErrorf("transaction", "", "is nil; make it with the method Tx of the engine's store")
	}
	if w.tx.Store() != w.e.store {
		return fieldErrorf("transaction", "", "belongs to another store than the engine; make it with the method Tx of the engine's store")
	}
	late, err := w.try(ctx, hint, fn, true)
	if _, ok := errors.AsType[*hostError](err); ok && late {
		// As in commit: the caller is not refused for an overdue timer.
		_, err = w.try(ctx, hint, fn, false)
	}
	return err
}

func (w *Within) try(ctx context.Context, hint Preload, fn func(ctx context.Context, tx Tx) error, catchUp bool) (late bool, err error) {
	var shared *sharedTx
	err = protect(func() error {
		return w.tx.Update(ctx, func(tx Tx) (err error) {
			if shared, err = w.e.share(ctx, tx, []Preload{hint}); err != nil {
				return err
			}
			late = shared.late
			shared.late = late && catchUp
			return protect(func() error { return fn(ctx, shared) })
		})
	})
	if err == nil {
		w.e.counters.add(shared.counts)
		if shared.doubt {
			w.e.flights.doubt()
		}
	}
	return late, err
}
