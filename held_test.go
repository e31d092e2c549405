package fluxly_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/fluxlytest"
)

// heldStore is a store in which other transactions hold the people whose ids
// begin with "held", until they are let go.
type heldStore struct {
	fluxly.Store
	// named: the store can tell who is held.
	named bool

	mu            sync.Mutex
	free          bool
	waiting, most int // transactions that wait for a lock
}

func (s *heldStore) Update(ctx context.Context, fn func(fluxly.Tx) error) error {
	tx := &heldTx{s: s, wait: 10 * time.Second}
	err := s.Store.Update(ctx, func(inner fluxly.Tx) error {
		tx.Tx = inner
		return fn(tx)
	})
	if errors.Is(err, fluxly.ErrHeld) {
		s.add(1)
		<-time.After(tx.wait)
		s.add(-1)
	}
	return err
}

func (s *heldStore) add(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting += n
	s.most = max(s.most, s.waiting)
}

func (s *heldStore) letGo() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free = true
}

type heldTx struct {
	fluxly.Tx
	s    *heldStore
	wait time.Duration
}

func (t *heldTx) WaitAtMost(d time.Duration) { t.wait = d }

func (t *heldTx) Preload(_ context.Context, hints []fluxly.Preload) error {
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	var places []int
	for i, h := range hints {
		if len(h.IDs) > 0 && strings.HasPrefix(h.IDs[0].Value, "held") && !t.s.free {
			places = append(places, i)
		}
	}
	if places == nil {
		return nil
	}
	held := &fluxly.HeldError{Err: errors.New("lock timeout")}
	if t.s.named {
		held.Hints = places
	}
	return held
}

// inHeldStore runs a test in virtual time with a store that can tell who is
// held, and with one that cannot.
func inHeldStore(t *testing.T, test func(t *testing.T, s *heldStore, e *fluxly.Engine)) {
	t.Helper()
	for _, named := range []bool{true, false} {
		t.Run(fmt.Sprintf("named %v", named), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := &heldStore{Store: fluxly.NewMemoryStore(), named: named}
				e, err := fluxly.New(fluxly.Config{
					Store: s, Sender: &fluxlytest.FakeSender{}, Mode: fluxly.DryRun, From: "Acme <hello@acme.test>",
				})
				if err != nil {
					t.Fatal(err)
				}
				test(t, s, e)
			})
		})
	}
}

func track(ctx context.Context, e *fluxly.Engine, id string) error {
	return e.Track(ctx, fluxly.Event{Name: "x", ExternalID: id})
}

// Calls about people who are held wait for these alone, and few transactions at a
// time do.
func TestHeldPeopleDelayNobodyElse(t *testing.T) {
	t.Parallel()
	for _, people := range []int{1, 5, 150} {
		inHeldStore(t, func(t *testing.T, s *heldStore, e *fluxly.Engine) { heldPeople(t, s, e, people) })
	}
}

func heldPeople(t *testing.T, s *heldStore, e *fluxly.Engine, people int) {
	t.Helper()
	var calls sync.WaitGroup
	const each = 3
	for i := range people * each {
		calls.Go(func() {
			if err := track(t.Context(), e, fmt.Sprint("held", i%people)); err != nil {
				t.Errorf("a call about somebody who was held: %v", err)
			}
		})
	}
	began := time.Now()
	for i := range 10 {
		calls.Go(func() {
			if err := track(t.Context(), e, fmt.Sprint("other", i)); err != nil {
				t.Error(err)
			}
			if d := time.Since(began); d > 5*time.Second {
				t.Errorf("a call about somebody else took %s", d)
			}
		})
	}
	<-time.After(6 * time.Second)
	if n := e.Waiting(); n != people*each {
		t.Errorf("%d calls wait, want the %d about those who are held", n, people*each)
	}
	s.letGo()
	calls.Wait()
	if n := e.Counters().Events; n != int64(people*each+10) {
		t.Errorf("%d events, want %d", n, people*each+10)
	}
	if s.most > 4 {
		t.Errorf("%d transactions waited at a time", s.most)
	}
	if n := e.Waiting(); n != 0 {
		t.Errorf("%d calls wait in the end", n)
	}
}

// A call about somebody who is held ends with its context, or after ten seconds.
func TestHeldCallEnds(t *testing.T) {
	t.Parallel()
	inHeldStore(t, func(t *testing.T, _ *heldStore, e *fluxly.Engine) {
		for _, c := range []struct {
			limit, least, most time.Duration
			want               error
		}{
			{time.Minute, 10 * time.Second, 11 * time.Second, fluxly.ErrHeld},
			{2 * time.Second, 2 * time.Second, 3 * time.Second, context.DeadlineExceeded},
			{0, 0, time.Second, context.DeadlineExceeded},
		} {
			ctx, cancel := context.WithTimeout(t.Context(), c.limit)
			began := time.Now()
			err := track(ctx, e, "held")
			if d := time.Since(began); !errors.Is(err, c.want) || c.limit > 0 && !errors.Is(err, fluxly.ErrHeld) || d < c.least || d > c.most {
				t.Errorf("with a context of %s: %v after %s; want ErrHeld and %v after %s to %s", c.limit, err, d, c.want, c.least, c.most)
			}
			cancel()
		}
	})
}

// lostStore is held once; then it commits, and its answer is lost.
type lostStore struct {
	fluxly.Store
	calls int
}

var errAnswerLost = errors.New("the outcome of the commit is unknown")

func (s *lostStore) Update(ctx context.Context, fn func(fluxly.Tx) error) error {
	switch s.calls++; s.calls {
	case 1:
		return &fluxly.HeldError{Err: errors.New("lock")}
	case 2:
		if err := s.Store.Update(ctx, fn); err != nil {
			return err
		}
		<-time.After(time.Minute) // longer than anybody waits
		return fmt.Errorf("%w: %w", errAnswerLost, context.DeadlineExceeded)
	}
	return s.Store.Update(ctx, fn)
}

// A commit whose outcome is unknown is not "nothing happened", however long it
// took.
func TestHeldThenUnknown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &lostStore{Store: fluxly.NewMemoryStore(), calls: 10}
		e, err := fluxly.New(fluxly.Config{Store: s, Sender: &fluxlytest.FakeSender{}, Mode: fluxly.DryRun, From: "Acme <hello@acme.test>"})
		if err != nil {
			t.Fatal(err)
		}
		s.calls = 0
		err = e.Track(t.Context(), fluxly.Event{Name: "viewed", ExternalID: "u1"})
		if !errors.Is(err, errAnswerLost) || errors.Is(err, fluxly.ErrHeld) {
			t.Errorf("Track: %v, want the store's own error", err)
		}
	})
}
