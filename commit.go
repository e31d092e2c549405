package fluxly

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// write is one caller's part of a commit.
type write struct {
	ctx context.Context //nolint:containedctx // for values; it lives as long as the call
	fn  func(ctx context.Context, tx Tx) error
	// hints are what fn is about to ask for.
	hints []Preload
}

// batchLimit is the most callers that share a commit. Larger batches gain
// little and make the first of them wait.
const batchLimit = 256

// sharedLeaders is how many commits go on side by side where the store lets
// several processes work on it: while one waits for the disk, another asks.
const sharedLeaders = 2

// commit runs the writes of many callers in one transaction. A write that
// refuses its input has written nothing, so the others go on; any other
// failure breaks the transaction, and then each is tried alone, so that one
// caller's trouble does not become another's. Those that would have to wait for
// somebody's lock for longer than wait are refused with a [*HeldError], and the
// others go on without them.
func (e *Engine) commit(ctx context.Context, batch []write, wait time.Duration) []error {
	errs := make([]error, len(batch))
	late, err := e.commitAs(ctx, batch, errs, true, wait)
	if err == nil {
		return errs
	}
	if held, ok := heldError(err); ok {
		return e.withoutHeld(ctx, batch, held, wait)
	}
	for i := range batch {
		one, err := batch[i:i+1], err
		if len(batch) > 1 {
			late, err = e.commitAs(ctx, one, errs[i:i+1], true, wait)
		}
		if _, ok := errors.AsType[*hostError](err); ok && late {
			// Perhaps it is an overdue timer of the person that fails, and not
			// what the caller wants: that must not be refused for it. The
			// worker puts the timer off.
			_, err = e.commitAs(ctx, one, errs[i:i+1], false, wait)
		}
		if err != nil {
			errs[i] = err
		}
	}
	return errs
}

// commitAs runs writes in one transaction, with the refusals in errs. late says
// that something was overdue, which is decided first with catchUp.
func (e *Engine) commitAs(ctx context.Context, batch []write, errs []error, catchUp bool, wait time.Duration) (late bool, err error) {
	var shared *sharedTx // of the last attempt
	err = e.guardedUpdate(ctx, func(tx Tx) (err error) {
		if w, ok := tx.(WaitTx); ok {
			w.WaitAtMost(wait)
		}
		var hints []Preload
		for i := range batch {
			hints = append(hints, batch[i].hints...)
		}
		if shared, err = e.share(ctx, tx, hints); err != nil {
			return err
		}
		late = shared.late
		shared.late = late && catchUp
		for i := range batch {
			errs[i] = protect(func() error { return batch[i].fn(ctx, shared) })
			if errs[i] != nil && !refusal(errs[i]) {
				return errs[i]
			}
		}
		return nil
	})
	if err == nil && shared != nil {
		e.counters.add(shared.counts)
		if shared.doubt {
			e.flights.doubt()
		}
	}
	return late, err
}

// guardedUpdate is Update of a store that may panic: the callers who wait for
// the commit must get an answer all the same.
func (e *Engine) guardedUpdate(ctx context.Context, fn func(Tx) error) error {
	return protect(func() error { return e.store.Update(ctx, fn) })
}

// refusedError says no to an input before anything was written for it, so the
// transaction of the others may go on. No other error may be taken for one,
// whatever it wraps: it can come in the middle.
type refusedError struct{ err error }

func refuse(err error) error { return &refusedError{err} }

func (r *refusedError) Error() string { return r.err.Error() }

func (r *refusedError) Unwrap() error { return r.err }

func refusal(err error) bool {
	_, ok := err.(*refusedError) //nolint:errorlint // one inside another error is not one
	return ok
}

// protect turns a panic of host code (a condition, a store) into an error, so
// that it does not take the other callers of a commit with it.
func protect(fn func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = &hostError{fmt.Errorf("panic: %v", r)}
		}
	}()
	return fn()
}

// hostError is a failure of the host's own code (a condition that failed, a
// panic), which concerns one person and not the store.
type hostError struct{ err error }

func (h *hostError) Error() string { return h.err.Error() }

func (h *hostError) Unwrap() error { return h.err }

// update runs fn, a call of the program's, in a transaction that it may share
// with other callers.
func (e *Engine) update(ctx context.Context, hint Preload, fn func(ctx context.Context, tx Tx) error) error {
	if err := e.checkOpen(); err != nil {
		return err
	}
	return e.finish(ctx, fn, hint)
}

func (e *Engine) checkOpen() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return fmt.Errorf("fluxly: engine: %w", ErrClosed)
	}
	return nil
}

// updateFunc is [Engine.update], or the same inside a transaction of the
// caller's own.
type updateFunc func(ctx context.Context, hint Preload, fn func(ctx context.Context, tx Tx) error) error

// finish is update for work that has begun: its outcome is stored also when
// the engine was closed meanwhile.
func (e *Engine) finish(ctx context.Context, fn func(ctx context.Context, tx Tx) error, hints ...Preload) error {
	return e.finishIn(ctx, heldPatience, fn, hints...)
}
