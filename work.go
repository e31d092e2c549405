package fluxly

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"sync"
	"time"
)

// Run does the due work until ctx ends: it wakes runs whose time has come,
// calls the host's own code, and hands mails over. Track works without it. When
// ctx ends, Run lets the hand-overs under way finish (each within
// Config.SendTimeout), records their outcomes, and returns ctx's error. An outcome
// that cannot be stored, because a transaction of the program's own holds the
// person, is tried as long as the mail is claimed: twice SendTimeout and 10 seconds.
//
// One Run at a time works on an engine; a second call returns an error at
// once.
func (e *Engine) Run(ctx context.Context) error {
	w, done, err := e.begin()
	if err != nil {
		return err
	}
	defer done()
	// What a dead process left is taken up by w.Begin: not before the store
	// has said that nobody else works on it.
	return e.store.Work(ctx, w)
}

// begin makes the one worker that an engine may have at a time. done waits for
// all that the worker has begun.
func (e *Engine) begin() (w *worker, done func(), err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.closed:
		return nil, nil, fmt.Errorf("fluxly: engine: %w", ErrClosed)
	case e.running:
		return nil, nil, errors.New("fluxly: this engine is running already; one Run or RunDue works at a time")
	}
	e.running = true
	w = newWorker(e)
	return w, func() {
		w.wait()
		e.mu.Lock()
		defer e.mu.Unlock()
		e.running = false
	}, nil
}

// RunDue does all work that is due now, and what follows from it at once, and
// returns when the next is due; zero when nothing waits. It is for programs
// that are started by a schedule, and for tests with a clock of their own. It
// returns an error at once while [Engine.Run] or another RunDue works, also
// those of another engine on the same store. A failure of some of the work is
// returned when all other work is done; what failed is put off.
func (e *Engine) RunDue(ctx context.Context) (next time.Time, err error) {
	w, done, err := e.begin()
	if err != nil {
		return time.Time{}, err
	}
	defer done()
	if x, ok := e.store.(ExclusiveStore); !ok || !x.Exclusive() {
		return w.due(ctx)
	}
	// Alone on the store, as Run is.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	d := &dueWorker{worker: w, cancel: cancel}
	if err := e.store.Work(ctx, d); !errors.Is(err, errDueDone) {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return time.Time{}, err
	}
	return d.next, d.err
}

// dueWorker does the due work when the store says that nobody else does, and
// then leaves.
type dueWorker struct {
	*worker
	cancel context.CancelCauseFunc
	next   time.Time
	err    error
}

var errDueDone = errors.New("all due work is done")

// Begin does it all.
func (d *dueWorker) Begin(ctx context.Context) error {
	if d.err = d.worker.Begin(ctx); d.err == nil {
		d.next, d.err = d.due(ctx)
	}
	d.wait()
	return errDueDone
}

// Do is not for this worker.
func (d *dueWorker) Do(context.Context, WorkKind, []Work) error {
	err := fmt.Errorf("fluxly: Work of a %T does not call Begin of an ExclusiveWorker, as an ExclusiveStore must", d.e.store)
	d.cancel(err)
	return err
}

// due does all due work.
func (w *worker) due(ctx context.Context) (next time.Time, err error) {
	e := w.e
	// A kind of work that fails waits for the next call, the others go on.
	kinds := [...]WorkKind{WorkWake, WorkSegment, WorkCall, WorkSend}
	failed := map[WorkKind]error{}
	// held are batches in which somebody was held, and locked the errors.
	held := map[WorkKind]map[Work]bool{}
	locked := map[WorkKind]error{}
	for {
		idle := true
		next = time.Time{}
		for _, kind := range kinds {
			var batch []Work
			err := e.store.View(ctx, func(tx Tx) error {
				due, then, err := tx.Due(ctx, kind, e.now(), workBatch+len(held[kind]))
				if err != nil {
					return err
				}
				batch = slices.DeleteFunc(due, func(x Work) bool { return held[kind][x] })
				if !then.IsZero() && (next.IsZero() || then.Before(next)) {
					next = then
				}
				return nil
			})
			if err != nil {
				return time.Time{}, err
			}
			if len(batch) == 0 || failed[kind] != nil {
				continue
			}
			idle = false
			if err := w.Do(ctx, kind, batch); errors.Is(err, ErrHeld) {
				// The others that are due go on.
				locked[kind] = err
				if held[kind] == nil {
					held[kind] = map[Work]bool{}
				}
				for _, x := range batch {
					held[kind][x] = true
				}
			} else {
				failed[kind] = err
			}
			w.wait()
			// What is due earliest comes first, whatever its kind.
			break
		}
		if err := ctx.Err(); err != nil {
			return time.Time{}, err
		}
		if idle {
			err = w.failures()
			for _, kind := range kinds {
				err = errors.Join(err, failed[kind], locked[kind])
			}
			return next, err
		}
	}
}

const workBatch = 64

// worker does the work of one Run.
type worker struct {
	e     *Engine
	slots chan struct{}
	calls chan struct{}
	wg    sync.WaitGroup

	mu     sync.Mutex
	failed []error // of pieces that were put off, the first few
}

func newWorker(e *Engine) *worker {
	return &worker{e: e, slots: make(chan struct{}, e.cfg.MaxSends), calls: make(chan struct{}, e.cfg.MaxSends)}
}

// wait waits for all that Do has begun.
func (w *worker) wait() { w.wg.Wait() }

// Now is the engine's clock.
func (w *worker) Now() time.Time { return w.e.now() }

// Do does one batch of due work.
func (w *worker) Do(ctx context.Context, kind WorkKind, batch []Work) error {
	err := w.do(ctx, kind, batch)
	if _, held := heldError(err); held && ctx.Err() == nil {
		w.e.cfg.Logger.Info("due work is about somebody whom another transaction holds; it is tried again", "kind", string(kind), "error", err)
	} else if err != nil && ctx.Err() == nil {
		w.e.cfg.Logger.Error("due work failed; it is tried again", "kind", string(kind), "error", err)
	}
	return err
}

func (w *worker) do(ctx context.Context, kind WorkKind, batch []Work) error {
	switch kind {
	case WorkWake:
		return w.each(ctx, kind, batch, func(ctx context.Context, tx Tx, x Work) error { return w.e.wake(ctx, tx, x.ID) })
	case WorkSegment:
		return w.each(ctx, kind, batch, func(ctx context.Context, tx Tx, x Work) error { return w.e.wakeSegment(ctx, tx, x.ID) })
	case WorkCall:
		return w.callAll(ctx, batch)
	case WorkSend:
		return w.sendAll(ctx, batch)
	}
	return fmt.Errorf("fluxly: unknown kind of work %q", string(kind))
}

// Begin takes up the mails that a process left behind when it died between
// claim and outcome: an exclusive store says that nobody can have them any
// more. Their claims are over, and the provider is asked about them in the
// lane of the mails.
func (w *worker) Begin(ctx context.Context) error {
	if x, ok := w.e.store.(ExclusiveStore); !ok || !x.Exclusive() {
		return nil
	}
	q := SendQuery{Status: SendSending, Limit: 1}
	find := func(tx Tx) (left []*SendRecord, err error) { return tx.Sends(ctx, q) }
	var left []*SendRecord
	err := w.e.store.View(ctx, func(tx Tx) (err error) {
		left, err = find(tx)
		return err
	})
	if err == nil && len(left) > 0 {
		q.Limit = 0
		err = w.e.finish(ctx, func(ctx context.Context, tx Tx) error {
			left, err := find(tx)
			if err != nil {
				return err
			}
			now := w.e.now()
			for _, m := range left {
				if m.Owner == w.e.owner || !m.DueAt.After(now) {
					continue
				}
				m.DueAt = now
				if err := tx.PutSend(ctx, m); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err != nil {
		return fmt.Errorf("fluxly: look for mails left under way: %w", err)
	}
	return nil
}

// End waits for all that Do has begun, so that no other worker takes it for
// left behind.
func (w *worker) End() { w.wait() }

// each does a batch in one transaction, or, where that fails, each piece in
// its own: nobody waits for another's trouble.
func (w *worker) each(ctx context.Context, kind WorkKind, batch []Work, one func(ctx context.Context, tx Tx, x Work) error) error {
	together := func(part []Work) error {
		hints := make([]Preload, len(part))
		for i, x := range part {
			if hints[i].RunID = x.ID; kind == WorkSegment {
				hints[i] = Preload{IDs: []Identifier{{UserID, x.ID}}}
			}
		}
		return w.e.finishIn(ctx, 0, func(ctx context.Context, tx Tx) error {
			for _, x := range part {
				if err := one(ctx, tx, x); err != nil {
					return err
				}
			}
			return nil
		}, hints...)
	}
	rest, err, held := freeWork(batch, together)
	if err == nil {
		w.e.troubles.over(rest)
		return held
	}
	if ctx.Err() != nil {
		return err
	}
	errs := make([]error, len(rest))
	for i := range rest {
		errs[i] = together(rest[i : i+1])
	}
	return joinHeld(held, w.putOffFailed(ctx, kind, rest, errs))
}

// wake fires the timer of a run.
func (e *Engine) wake(ctx context.Context, tx Tx, runID string) error {
	r, err := tx.Run(ctx, runID)
	if err != nil || r == nil || r.Status != RunLive {
		return err
	}
	now := e.clockOf(tx)
	if r.WakeAt.IsZero() || r.WakeAt.After(now) || r.Pending == PendingCall {
		return nil
	}
	s, err := e.open(ctx, tx, now, r.ProfileID, runOrigin(r))
	if err != nil {
		return err
	}
	if s.profile == nil {
		return s.end(r, RunFailed, endLost)
	}
	// All that is due for the person goes in order, this timer among it.
	return s.catchUp(now.Add(time.Nanosecond))
}

// wakeSegment looks again at memberships that time may have changed.
func (e *Engine) wakeSegment(ctx context.Context, tx Tx, profileID string) error {
	now := e.clockOf(tx)
	s, err := e.open(ctx, tx, now, profileID, "")
	if err != nil || s.profile == nil {
		return err
	}
	return s.catchUp(now.Add(time.Nanosecond))
}

// callAll claims calls of the host's code and makes them.
func (w *worker) callAll(ctx context.Context, batch []Work) error {
	errs := make([]error, len(batch))
	for i, x := range batch {
		select {
		case w.calls <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		claimed := w.e.cfg.Now()
		in, fn, err := w.e.claimCall(ctx, x.ID)
		if err != nil || fn == nil {
			<-w.calls
			errs[i] = err
			continue
		}
		w.wg.Go(func() { w.e.call(ctx, in, fn, claimed, func() { <-w.calls }) })
	}
	return w.putOffFailed(ctx, WorkCall, batch, errs)
}

// claimCall puts the next try of a call off until after this one, so that a
// crash during the call leads to another try and not to a run that waits for
// ever.
func (e *Engine) claimCall(ctx context.Context, runID string) (in StepInput, fn StepFunc, err error) {
	err = e.finishIn(ctx, 0, func(ctx context.Context, tx Tx) error {
		in, fn = StepInput{}, nil
		r, err := tx.Run(ctx, runID)
		now := e.now()
		if err != nil || r == nil || r.Status != RunLive || r.Pending != PendingCall || r.WakeAt.After(now) {
			return err
		}
		p, err := e.program(ctx, tx, r)
		if err != nil {
			return err
		}
		prof, err := tx.Profile(ctx, r.ProfileID)
		if err != nil {
			return err
		}
		i, ok := 0, false
		if p != nil {
			i, ok = p.at(r.Step)
		}
		if !ok || prof == nil {
			return e.session(ctx, tx, now, runOrigin(r)).of(prof).end(r, RunFailed, endLost)
		}
		if result, ok := r.Results[r.Step]; ok {
			// It was called; what comes next could not be decided then.
			s := e.session(ctx, tx, now, runOrigin(r)).of(prof)
			if err := s.decide(r, cause{kind: causeCall, result: result}); err != nil {
				return err
			}
			return s.settle()
		}
		f := e.cfg.Funcs[p.nodes[i].step.Func]
		if f == nil {
			if !e.foreign(now, r.UpdatedAt) {
				return e.session(ctx, tx, now, runOrigin(r)).of(prof).end(r, RunFailed, endLost)
			}
			r.WakeAt = now.Add(foreignWait)
			return tx.PutRun(ctx, r)
		}
		r.WakeAt = now.Add(2 * e.cfg.CallTimeout)
		if err := tx.PutRun(ctx, r); err != nil {
			return err
		}
		fn = f
		in = StepInput{Key: sendKey(r.ID, r.Step, r.Visit), Profile: *prof.clone(), Run: *r, Attempt: r.Attempts + 1}
		return nil
	}, Preload{RunID: runID})
	return in, fn, err
}

// maxResultBytes bounds the result of a step, which is read with each event of
// the person as long as the run lives.
const maxResultBytes = 32 << 10

// call makes one call and records its outcome. It makes none when this process
// was frozen after it had claimed the call: it and its Config.CallTimeout end
// before the claim does, or else another process may have made the call already.
func (e *Engine) call(ctx context.Context, in StepInput, fn StepFunc, claimed time.Time, done func()) {
	if since(claimed, e.cfg.Now()) > e.cfg.CallTimeout {
		done() // it is due again when the claim is over
		return
	}
	// A call that has begun is finished, also when the engine is stopping.
	ctx = context.WithoutCancel(ctx)
	result, err := e.callBounded(ctx, in, fn, done)
	if err == nil {
		if result, err = normalizeValue(result, "result"); err != nil {
			err = fmt.Errorf("its result cannot be stored: %w", err)
		} else if n := len(appendJSON(nil, result)); n > maxResultBytes {
			err = fmt.Errorf("its result has %d bytes as JSON, at most %d are stored with the run: keep it yourself and return its id", n, maxResultBytes)
		}
	}
	e.counters.add(Counters{Calls: 1})
	c := cause{kind: causeCall, result: result}
	if err != nil {
		e.counters.add(Counters{CallErrors: 1})
		c.err = clip(err.Error(), 500)
		e.cfg.Logger.Warn("a step of the program's own failed", "automation", in.Run.Automation, "step", in.Run.Step,
			"run", in.Run.ID, "attempt", in.Attempt, "last", in.Attempt >= e.cfg.CallAttempts, "error", c.err)
	}
	// called reads the run again, nil when it has gone on meanwhile.
	called := func(ctx context.Context, tx Tx) (*Run, error) {
		r, err := tx.Run(ctx, in.Run.ID)
		if err != nil || r == nil || r.Status != RunLive || r.Step != in.Run.Step || r.Visit != in.Run.Visit || r.Pending != PendingCall {
			return nil, err
		}
		if c.err != "" && r.Attempts != in.Run.Attempts {
			// Another process has tried it meanwhile, because this one was
			// frozen: one try does not fail twice.
			return nil, nil
		}
		return r, nil
	}
	// As long as its claim may last.
	err = e.finishIn(ctx, e.cfg.CallTimeout, func(ctx context.Context, tx Tx) error {
		r, err := called(ctx, tx)
		if r == nil {
			return err
		}
		if err := e.catchUpOf(ctx, tx, r.ProfileID); err != nil {
			return err
		}
		// What was due may have ended the run.
		if r, err = called(ctx, tx); r == nil {
			return err
		}
		now := e.now()
		s, err := e.open(ctx, tx, now, r.ProfileID, runOrigin(r))
		if err != nil {
			return err
		}
		if c.err != "" && in.Attempt < e.cfg.CallAttempts {
			c.retry = now.Add(backoff(in.Key, in.Attempt, time.Minute, time.Hour))
		}
		if err := s.decide(r, c); err != nil {
			return err
		}
		return s.settle()
	}, Preload{RunID: in.Run.ID})
	if err != nil && c.err == "" {
		// What comes next fails. The result is stored alone, so that the
		// program's own code is not called again for it.
		e.cfg.Logger.Error("what follows a step failed; it is tried again", "automation", in.Run.Automation, "step", in.Run.Step,
			"run", in.Run.ID, "error", err)
		err = e.finish(ctx, func(ctx context.Context, tx Tx) error {
			r, err := called(ctx, tx)
			if r == nil {
				return err
			}
			if r.Results == nil {
				r.Results = map[string]any{}
			}
			r.Results[r.Step] = result
			r.WakeAt = e.now().Add(backoff(in.Key, 1, time.Minute, time.Hour))
			return tx.PutRun(ctx, r)
		}, Preload{RunID: in.Run.ID})
	}
	if err != nil {
		e.cfg.Logger.Error("the outcome of a step could not be stored; it will be called again",
			"automation", in.Run.Automation, "step", in.Run.Step, "run", in.Run.ID, "error", err)
	}
}

// callBounded makes the call, at most for Config.CallTimeout: also one that
// does not look at its context must not keep the engine from ending. It calls
// done when the call has returned.
func (e *Engine) callBounded(ctx context.Context, in StepInput, fn StepFunc, done func()) (any, error) {
	var result any
	err := errors.New("ended its goroutine (runtime.Goexit) and returned nothing")
	ended := bounded(ctx, e.cfg.CallTimeout, func(ctx context.Context) {
		defer done()
		result, err = callSafely(ctx, fn, in)
	})
	if ended {
		return result, err
	}
	e.cfg.Logger.Error("a step does not return: it must end when its context does; one of Config.MaxSends calls is lost for now",
		"automation", in.Run.Automation, "step", in.Run.Step, "run", in.Run.ID)
	return nil, fmt.Errorf("did not return within %s, nor when its context ended", e.cfg.CallTimeout)
}

// callSafely turns a panic of the host's code into an error.
func callSafely(ctx context.Context, fn StepFunc, in StepInput) (v any, err error) {
	defer func() {
		if r := recover(); r != nil {
			v, err = nil, fmt.Errorf("panic: %v", r)
		}
	}()
	return fn(ctx, in)
}

// backoff is the delay before try n+1: base doubled n-1 times, at most limit,
// with up to a quarter of jitter either way, so that what failed together does
// not come back together. The jitter is drawn from the key, so that a history
// that is played again takes the same course.
func backoff(key string, n int, base, limit time.Duration) time.Duration {
	d := base
	for i := 1; i < n && d < limit; i++ {
		d *= 2
	}
	d = min(d, limit)
	h := fnv.New64a()
	_, _ = h.Write([]byte(key))
	_, _ = h.Write([]byte{byte(n)})
	return d - d/4 + time.Duration(h.Sum64()%uint64(d/2+1))
}
