// Package duework hands out work that is due, without polling: it sleeps until
// the next piece is due or until a commit says that one is due earlier.
package duework

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"
)

// Limits of a lane.
const (
	// batch is the most pieces handed out at once.
	batch = 256
	// firstPause and lastPause bound the pause before failed work is tried
	// again; it doubles with each failure in a row.
	firstPause = 100 * time.Millisecond
	lastPause  = 30 * time.Second
	// maxHeld bounds the pieces that a lane remembers as failed.
	maxHeld = 4 * batch
	// longestSleep is how long a lane sleeps before it looks at the clock
	// again, which may have been set meanwhile. It does not look at the store
	// for that: what it costs cannot be measured.
	longestSleep = time.Minute
)

// Lane is one kind of work. T must tell one piece from another, and a piece
// that was put off from the same piece before.
type Lane[T comparable] struct {
	// Due returns up to limit pieces that are due at now, earliest first, and
	// the earliest due time after now; zero when there is none.
	Due func(ctx context.Context, now time.Time, limit int) (due []T, next time.Time, err error)
	// Do works them off.
	Do func(ctx context.Context, pieces []T) error
	// Now is the clock.
	Now func() time.Time
	// Fatal reports whether an error of Due ends the lane.
	Fatal func(error) bool
	// Signal wakes the lane.
	Signal *Signal
}

// Signal tells a sleeping lane of work that is due earlier than it knows. The
// zero Signal is ready; it may be used from many goroutines.
type Signal struct {
	mu     sync.Mutex
	wake   chan struct{} // filled at most once until the lane looks again
	asleep bool
	until  time.Time        // when the sleeping lane wakes by itself; zero is never
	now    func() time.Time // the clock of the sleeping lane
}

// Due is called after the commit of work that is due at t. Work that the lane
// will wake up for anyhow costs nothing.
func (s *Signal) Due(t time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	// What is due now is told in any case: when the clock was set forward, the
	// lane sleeps on although its time has come.
	if s.asleep && !s.until.IsZero() && !t.Before(s.until) && t.After(s.now()) {
		return
	}
	select {
	case s.channel() <- struct{}{}:
	default:
	}
}

// channel returns the channel; mu is held.
func (s *Signal) channel() chan struct{} {
	if s.wake == nil {
		s.wake = make(chan struct{}, 1)
	}
	return s.wake
}

// look is called before the lane reads what is due: commits from here on are
// signals.
func (s *Signal) look() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asleep = false
	select {
	case <-s.channel():
	default:
	}
}

// sleep is called when the lane has read that nothing is due before until.
func (s *Signal) sleep(until time.Time, now func() time.Time) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asleep, s.until, s.now = true, until, now
	return s.channel()
}

// held is a piece that stayed due although it was handed out.
type held struct {
	tries int
	until time.Time
}

// Run hands out work until ctx ends or Due fails for good; it returns that
// error, after the last Do has returned.
//
// A piece that is still due after it was handed out is handed out again, each
// time after a longer pause, while other work goes on. When Do fails, the lane
// as a whole pauses too, so that a broken store or provider is not hammered.
func (l Lane[T]) Run(ctx context.Context) error {
	tried := map[T]held{}
	failures := 0
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		l.Signal.look()
		now := l.Now()
		due, next, err := l.Due(ctx, now, batch+len(tried))
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if l.Fatal(err) {
				return err
			}
			failures++
			if err := l.pause(ctx, failures); err != nil {
				return err
			}
			continue
		}
		fresh, until := choose(due, tried, now)
		if len(fresh) == 0 {
			failures = 0
			if until.IsZero() || !next.IsZero() && next.Before(until) {
				until = next
			}
			if err := l.wait(ctx, until); err != nil {
				return err
			}
			continue
		}
		err = l.Do(ctx, fresh)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		now = l.Now()
		for _, piece := range fresh {
			if h, again := tried[piece]; again || len(tried) < maxHeld {
				h.tries++
				h.until = now.Add(jitter(h.tries))
				tried[piece] = h
			}
		}
		if err == nil {
			failures = 0
			continue
		}
		failures++
		if err := l.pause(ctx, failures); err != nil {
			return err
		}
	}
}

// choose returns the pieces that may be handed out now, at most a batch. When
// there is none, it returns when the first of those that are held back may.
// It forgets pieces that are no longer due.
func choose[T comparable](due []T, tried map[T]held, now time.Time) (fresh []T, until time.Time) {
	still := 0
	for _, piece := range due {
		h, again := tried[piece]
		if again {
			still++
		}
		switch {
		case again && h.until.After(now):
			if until.IsZero() || h.until.Before(until) {
				until = h.until
			}
		case len(fresh) < batch:
			fresh = append(fresh, piece)
		}
	}
	if still < len(tried) {
		present := make(map[T]bool, len(due))
		for _, piece := range due {
			present[piece] = true
		}
		for piece := range tried {
			if !present[piece] {
				delete(tried, piece)
			}
		}
	}
	return fresh, until
}

// wait sleeps until a time, or until a signal; a zero time never comes. It
// sleeps in parts, because a timer does not notice that the clock was set.
func (l Lane[T]) wait(ctx context.Context, until time.Time) error {
	signal := l.Signal.sleep(until, l.Now)
	var timer *time.Timer
	var alarm <-chan time.Time
	if !until.IsZero() {
		timer = time.NewTimer(min(until.Sub(l.Now()), longestSleep))
		defer timer.Stop()
		alarm = timer.C
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-signal:
			return nil
		case <-alarm:
			left := until.Sub(l.Now())
			if left <= 0 {
				return nil
			}
			timer.Reset(min(left, longestSleep))
		}
	}
}

// pause waits after a failure, whatever is signalled meanwhile.
func (l Lane[T]) pause(ctx context.Context, failures int) error {
	timer := time.NewTimer(jitter(failures))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// jitter returns the pause after a number of failures: the upper half of the
// doubled pause, at random, so that lanes that failed together part.
func jitter(failures int) time.Duration {
	d := lastPause
	if shift := failures - 1; shift < 9 {
		d = min(d, firstPause<<shift)
	}
	return d/2 + rand.N(d/2+1)
}

// errGone: Do ended its goroutine.
var errGone = errors.New("the work ended its goroutine (runtime.Goexit)")

// Run runs lanes side by side until ctx ends or one of them fails, and returns
// the first error when all have returned.
func Run[T comparable](ctx context.Context, lanes ...Lane[T]) error {
	inner, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for _, lane := range lanes {
		wg.Go(func() {
			// Work of the program's own that ends its goroutine must not end
			// one lane in silence.
			err := errGone
			defer func() { cancel(err) }()
			err = lane.Run(inner)
		})
	}
	wg.Wait()
	if err := ctx.Err(); err != nil {
		return err
	}
	return context.Cause(inner)
}
