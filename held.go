package fluxly

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/getfluxly/fluxly/internal/gather"
)

// A transaction of the program's own may hold a person for as long as it likes.
// Calls about that person must not keep those about others: a commit that is
// shared waits for a lock but shortly, and goes on without the calls that it
// would have to wait for. These stand in a lane of their person, and are tried
// again from there, beside the shared commits.
const (
	// sharedWait and laneWait bound the wait for a lock in a shared commit, and
	// in that of a lane.
	sharedWait = 200 * time.Millisecond
	laneWait   = 500 * time.Millisecond
	// laneLeast is the same where there are many lanes, so that the turn of each
	// comes often.
	laneLeast = 20 * time.Millisecond
	// heldPatience is how long a call waits in its lane in all, unless its
	// context ends before.
	heldPatience = 10 * time.Second
	// laneSlots is how many lanes try at a time, each with a connection of the
	// store's. The others wait for their turn.
	laneSlots = 2
)

// heldError is the HeldError of a store. One inside of another error is not
// about this transaction.
func heldError(err error) (held *HeldError, ok bool) {
	held, ok = err.(*HeldError) //nolint:errorlint // see above
	return held, ok
}

// withoutHeld commits those of a batch that need not wait for who is held.
// Where the store cannot tell them apart, each is for its lane.
func (e *Engine) withoutHeld(ctx context.Context, batch []write, held *HeldError, wait time.Duration) []error {
	errs := make([]error, len(batch))
	var free []write
	var places []int
	first := 0 // of the hints of a call
	for i := range batch {
		var named []int
		for _, h := range held.Hints {
			if h -= first; h >= 0 && h < len(batch[i].hints) {
				named = append(named, h)
			}
		}
		first += len(batch[i].hints)
		errs[i] = &HeldError{Hints: named, Err: held.Err}
		if named == nil {
			free, places = append(free, batch[i]), append(places, i)
		}
	}
	if len(free) == len(batch) || len(free) == 0 {
		return errs // the store does not say who is held, or all are
	}
	for k, err := range e.commit(ctx, free, wait) {
		errs[places[k]] = err
	}
	return errs
}

// finishIn is finish for a call that waits so long for somebody who is held.
// Without patience it is tried once more where nobody can tell who is held, and
// then returns the [*HeldError].
func (e *Engine) finishIn(ctx context.Context, patience time.Duration, fn func(ctx context.Context, tx Tx) error, hints ...Preload) error {
	w := write{ctx: ctx, fn: fn, hints: hints}
	l := e.lanes.join(&w)
	var last error // of the store
	if l == nil {
		err := e.writes.Do(ctx, w)
		held, ok := heldError(err)
		if !ok || patience == 0 && len(held.Hints) > 0 {
			return err
		}
		l, last = e.lanes.open(&w), held.Err
	}
	defer e.lanes.leave(l)
	waiting := ctx
	if patience > 0 {
		var stop func()
		waiting, stop = context.WithTimeout(ctx, patience)
		defer stop()
	}
	for {
		err := l.writes.Do(waiting, w)
		held, ok := heldError(err)
		switch {
		case ok && patience > 0:
			last = held.Err
			lanePause(waiting)
		case err != nil && err == waiting.Err(): //nolint:errorlint // another one is the store's, and may be about a commit
			return waitedInVain(ctx, last)
		default:
			return err
		}
	}
}

// waitedInVain is the error of a call that left its lane. last is the store's.
func waitedInVain(ctx context.Context, last error) error {
	err := ctx.Err()
	switch {
	case last == nil && err == nil:
		last = errors.New("its turn did not come in time")
	case last == nil:
		last = err
	case err != nil:
		last = fmt.Errorf("%w: %w", err, last)
	}
	return &HeldError{Err: last}
}

// lanePause is between two tries of a lane: for a store that says at once that
// somebody is held.
func lanePause(ctx context.Context) {
	timer := time.NewTimer(5 * time.Millisecond)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// withoutPlaces is a list without what is at some places, which are in order.
func withoutPlaces(list []Work, places []int) []Work {
	var rest []Work
	for i, x := range list {
		if !slices.Contains(places, i) {
			rest = append(rest, x)
		}
	}
	return rest
}

// freeWork does a batch of due work without the pieces of those who are held,
// which stay due: do is called again without them. It returns what is left, the
// error of do, and one for those who are held.
func freeWork(batch []Work, do func(batch []Work) error) (rest []Work, err, held error) {
	for rest = batch; len(rest) > 0; {
		err := do(rest)
		h, ok := heldError(err)
		if !ok || len(h.Hints) == 0 {
			return rest, err, held
		}
		rest, held = withoutPlaces(rest, h.Hints), h
	}
	return nil, nil, held
}

// joinHeld is the error of a batch in which somebody was held, which is a plain
// one where nothing else failed.
func joinHeld(held, err error) error {
	if held == nil {
		return err
	}
	if err == nil {
		return held
	}
	return errors.Join(err, held)
}

// lanes are the calls that wait for people who are held, those about the same
// person in one lane. There is no goroutine of their own: each caller waits by
// itself, and one of each lane at a time commits for all in it.
type lanes struct {
	commit gather.Commit[write]
	slots  chan struct{}

	mu      sync.Mutex
	byKey   map[laneKey]*lane
	callers int
	lanes   int
}

// laneKey names a person by one of the ids, or a run or a mail.
type laneKey struct{ kind, value string }

const (
	laneRun  = "run"
	laneMail = "mail"
)

type lane struct {
	writes  *gather.Gatherer[write]
	keys    []laneKey
	callers int
}

func newLanes(commit gather.Commit[write]) *lanes {
	return &lanes{commit: commit, slots: make(chan struct{}, laneSlots), byKey: map[laneKey]*lane{}}
}

// keysOf are the names of whom a call is about; a call about many, or about
// nobody that it names, has none.
func keysOf(w *write) (keys []laneKey) {
	if len(w.hints) != 1 {
		return nil
	}
	h := &w.hints[0]
	for _, id := range h.IDs {
		keys = append(keys, laneKey{string(id.Kind), id.Value})
	}
	if h.RunID != "" {
		keys = append(keys, laneKey{laneRun, h.RunID})
	}
	if h.SendKey != "" {
		keys = append(keys, laneKey{laneMail, h.SendKey})
	}
	return keys
}

// join enters the lane of a call's person, if there is one.
func (s *lanes) join(w *write) *lane {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.callers == 0 {
		return nil
	}
	return s.find(keysOf(w))
}

// find enters a lane, with the lock held.
func (s *lanes) find(keys []laneKey) *lane {
	for _, k := range keys {
		if l := s.byKey[k]; l != nil {
			l.callers++
			s.callers++
			return l
		}
	}
	return nil
}

// open is join that makes the lane where there is none.
func (s *lanes) open(w *write) *lane {
	keys := keysOf(w)
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.find(keys); l != nil {
		return l
	}
	l := &lane{writes: gather.New(batchLimit, 1, s.commit).Behind(s.enter), keys: keys, callers: 1}
	for _, k := range keys {
		s.byKey[k] = l
	}
	s.callers++
	s.lanes++
	return l
}

// wait bounds the wait for a lock at present.
func (s *lanes) wait() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return max(laneWait/time.Duration(1+s.lanes/laneSlots), laneLeast)
}

// leave is called once for each join and open; the lane goes with its last
// caller.
func (s *lanes) leave(l *lane) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.callers--
	if l.callers--; l.callers > 0 {
		return
	}
	s.lanes--
	for _, k := range l.keys {
		delete(s.byKey, k)
	}
}

// enter waits for a turn, so that those who are held take few connections.
func (s *lanes) enter(ctx context.Context) (pass func(), err error) {
	select {
	case s.slots <- struct{}{}:
		return func() { <-s.slots }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// count is how many calls are in lanes.
func (s *lanes) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.callers
}
