package fluxly

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Work that fails by itself, by a condition of the host's for one person say,
// is put off, longer each time, so that the work of others goes on.
const (
	troubleFirst = 10 * time.Second
	troubleMost  = time.Hour
	// troubleKept bounds what is remembered of failures.
	troubleKept = 10_000
)

// logPutOff: a timer failed and is tried again later. The values are the error,
// and when.
const logPutOff = "put_off"

// troubles counts the failures of pieces of work since they last succeeded.
// The zero value is ready; it may be used from many goroutines.
type troubles struct {
	mu    sync.Mutex
	tries map[string]int
}

func troubleKey(x Work) string { return x.ID + "\x00" + x.Segment }

// more counts one more failure, and returns how many there were.
func (t *troubles) more(x Work) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.tries == nil || len(t.tries) >= troubleKept {
		t.tries = map[string]int{}
	}
	t.tries[troubleKey(x)]++
	return t.tries[troubleKey(x)]
}

// over forgets the failures of work that succeeded.
func (t *troubles) over(batch []Work) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.tries) == 0 {
		return
	}
	for _, x := range batch {
		delete(t.tries, troubleKey(x))
	}
}

// putOffFailed puts off the pieces of a batch that failed each by itself. It
// returns an error when not they are in trouble but the store is: when it fails
// for all of several, or cannot put them off either.
func (w *worker) putOffFailed(ctx context.Context, kind WorkKind, batch []Work, errs []error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var held error // of those who stay due until another transaction ends
	store := len(batch) > 1
	for i, err := range errs {
		if err == nil {
			w.e.troubles.over(batch[i : i+1])
		}
		if _, ok := errors.AsType[*hostError](err); ok || err == nil {
			store = false
		}
		if _, ok := heldError(err); ok {
			store, held = false, err
		}
	}
	if store {
		return errors.Join(errs...)
	}
	var failed error
	for i, err := range errs {
		if _, ok := heldError(err); ok || err == nil {
			continue
		}
		tries := w.e.troubles.more(batch[i])
		wait := backoff(troubleKey(batch[i]), tries, troubleFirst, troubleMost)
		if e := w.e.putOff(ctx, kind, batch[i], err, wait); e != nil {
			failed = errors.Join(failed, err, fmt.Errorf("put it off: %w", e))
			continue
		}
		w.e.cfg.Logger.Error("due work failed and is put off", "kind", string(kind), "id", batch[i].ID, "segment", batch[i].Segment,
			"failures", tries, "for", wait, "error", err)
		w.mu.Lock()
		if len(w.failed) < 10 {
			w.failed = append(w.failed, fmt.Errorf("fluxly: %s %q failed and is put off for %s: %w", kind, batch[i].ID, wait.Round(time.Second), err))
		}
		w.mu.Unlock()
	}
	return joinHeld(held, failed)
}

// failures are those of the work that was put off.
func (w *worker) failures() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return errors.Join(w.failed...)
}

// putOff makes a piece of work due again later, if it is still due.
func (e *Engine) putOff(ctx context.Context, kind WorkKind, x Work, why error, wait time.Duration) error {
	hint := Preload{RunID: x.ID}
	switch kind {
	case WorkWake, WorkCall:
	case WorkSegment:
		hint = Preload{IDs: []Identifier{{UserID, x.ID}}}
	case WorkSend:
		hint = Preload{SendKey: x.ID}
	}
	return e.finishIn(ctx, 0, func(ctx context.Context, tx Tx) error {
		now := e.now()
		due := func(at time.Time) bool { return !at.IsZero() && !at.After(now) }
		switch kind {
		case WorkWake, WorkCall:
			r, err := tx.Run(ctx, x.ID)
			if err != nil || r == nil || r.Status != RunLive || !due(r.WakeAt) {
				return err
			}
			r.WakeAt, r.UpdatedAt = now.Add(wait), now
			entry := LogEntry{
				RunID: r.ID, Automation: r.Automation, Seq: r.LogLen, At: now, Step: r.Step, Code: logPutOff,
				Detail: map[string]any{"error": clip(why.Error(), 500), "until": r.WakeAt},
			}
			r.LogLen++
			if err := tx.PutRun(ctx, r); err != nil {
				return err
			}
			return tx.AppendLog(ctx, []LogEntry{entry})
		case WorkSegment:
			list, err := tx.Memberships(ctx, x.ID)
			if err != nil {
				return err
			}
			for i := range list {
				if m := &list[i]; m.Segment == x.Segment && due(m.CheckAt) {
					m.CheckAt = now.Add(wait)
					return tx.PutMembership(ctx, m)
				}
			}
		case WorkSend:
			m, err := tx.Send(ctx, x.ID)
			if err != nil || m == nil || !due(m.DueAt) {
				return err
			}
			m.DueAt, m.Detail = now.Add(wait), clip(why.Error(), 1000)
			return tx.PutSend(ctx, m)
		}
		return nil
	}, hint)
}
