package duework_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/getfluxly/fluxly/internal/duework"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errBroken = errors.New("broken on purpose")

type piece struct {
	id  string
	due time.Time
}

// queue is a list of pieces with a lane that works them off; all calls are
// recorded.
type queue struct {
	signal duework.Signal

	mu     sync.Mutex
	pieces []piece
	looks  int
	ahead  time.Duration        // of the clock: how far it was set forward
	fail   func() error         // of Due
	do     func([]piece) error  // nil works all off
	done   map[string][]float64 // seconds since the start at which each was handed out
	start  time.Time
}

func newQueue() *queue {
	return &queue{done: map[string][]float64{}, start: time.Now()}
}

func (q *queue) now() time.Time {
	q.mu.Lock()
	defer q.mu.Unlock()
	return time.Now().Add(q.ahead).Round(0)
}

// set sets the clock forward, or back.
func (q *queue) set(by time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ahead += by
}

func (q *queue) add(after time.Duration, ids ...string) {
	due := q.now().Add(after)
	q.mu.Lock()
	for _, id := range ids {
		q.pieces = append(q.pieces, piece{id, due})
	}
	q.mu.Unlock()
	q.signal.Due(due)
}

func (q *queue) remove(pieces []piece) {
	q.pieces = slices.DeleteFunc(q.pieces, func(p piece) bool { return slices.Contains(pieces, p) })
}

func (q *queue) due(_ context.Context, now time.Time, limit int) (due []piece, next time.Time, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.looks++
	if q.fail != nil {
		if err := q.fail(); err != nil {
			return nil, time.Time{}, err
		}
	}
	slices.SortFunc(q.pieces, func(a, b piece) int { return cmp.Or(a.due.Compare(b.due), cmp.Compare(a.id, b.id)) })
	for _, p := range q.pieces {
		if p.due.After(now) {
			return due, p.due, nil
		}
		if len(due) < limit {
			due = append(due, p)
		}
	}
	return due, time.Time{}, nil
}

func (q *queue) lane() duework.Lane[piece] {
	return duework.Lane[piece]{
		Due: q.due, Now: q.now, Signal: &q.signal,
		Fatal: func(err error) bool { return errors.Is(err, context.DeadlineExceeded) },
		Do: func(_ context.Context, pieces []piece) error {
			q.mu.Lock()
			defer q.mu.Unlock()
			for _, p := range pieces {
				q.done[p.id] = append(q.done[p.id], time.Since(q.start).Seconds())
			}
			if q.do != nil {
				return q.do(pieces)
			}
			q.remove(pieces)
			return nil
		},
	}
}

// run starts the lane inside a bubble; stop ends it.
func (q *queue) run(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- q.lane().Run(ctx) }()
	return func() {
		t.Helper()
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Run returned %v, want context.Canceled", err)
		}
	}
}

func (q *queue) counts() (looks, handed int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, at := range q.done {
		handed += len(at)
	}
	return q.looks, handed
}

// at returns when a piece was handed out.
func (q *queue) at(id string) []float64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return slices.Clone(q.done[id])
}

// pass lets virtual time go by.
func pass(d time.Duration) {
	timer := time.NewTimer(d)
	<-timer.C
	synctest.Wait()
}

func TestEachPieceAtItsTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newQueue()
		q.add(3*time.Second, "c")
		q.add(0, "a")
		q.add(400*24*time.Hour, "far")
		stop := q.run(t)
		synctest.Wait()
		q.add(2*time.Second, "b")  // earlier than the lane knows
		q.add(5*time.Second, "d")  // later
		q.add(-time.Second, "now") // due already
		pass(401 * 24 * time.Hour)
		stop()
		for id, want := range map[string]float64{"a": 0, "now": 0, "b": 2, "c": 3, "d": 5, "far": 400 * 24 * 3600} {
			if got := q.at(id); len(got) != 1 || got[0] != want {
				t.Errorf("%s was handed out at %v, want once at %v", id, got, want)
			}
		}
		if q.looks > 16 {
			t.Errorf("%d looks for six pieces", q.looks)
		}
	})
}

// While nothing is due the lane looks at its clock once a minute and at
// nothing else, and commits of later work do not wake it.
func TestNoPolling(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newQueue()
		q.add(1000*time.Hour, "far")
		stop := q.run(t)
		synctest.Wait()
		for i := range 50 {
			q.add(2000*time.Hour, fmt.Sprint("later", i))
			synctest.Wait()
		}
		pass(999 * time.Hour)
		if looks, handed := q.counts(); looks != 1 || handed != 0 {
			t.Errorf("%d looks, %d pieces handed out; want one look", looks, handed)
		}
		stop()
	})
}

// A clock that is set while the lane sleeps: what is due by the new time is
// handed out at once when something new is due too, and else within a minute,
// which costs no look at the store.
func TestClockIsSet(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		set  time.Duration
		add  bool // new work, due at once
		want float64
	}{
		"forward, and new work":   {set: 3 * time.Hour, add: true, want: 90},
		"forward, and nothing":    {set: 3 * time.Hour, want: 120},
		"forward, to just before": {set: time.Hour - 91*time.Second, want: 120},
		"back":                    {set: -time.Hour, want: 7200},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				q := newQueue()
				q.add(time.Hour, "a")
				stop := q.run(t)
				pass(90 * time.Second)
				q.set(c.set)
				looks := 2
				if c.add {
					q.add(0, "b")
					looks++
				}
				pass(3 * time.Hour)
				stop()
				if at := q.at("a"); len(at) != 1 || at[0] != c.want {
					t.Errorf("handed out at %v, want once at %v", at, c.want)
				}
				if at := q.at("b"); c.add && (len(at) != 1 || at[0] != 90) {
					t.Errorf("the new work was handed out at %v, want at once", at)
				}
				if q.looks > looks+1 {
					t.Errorf("%d looks, want at most %d", q.looks, looks+1)
				}
			})
		})
	}
}

// Work that ends its goroutine ends Run, and not one lane in silence.
func TestWorkEndsItsGoroutine(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		good, bad := newQueue(), newQueue()
		bad.do = func([]piece) error { runtime.Goexit(); return nil }
		bad.add(0, "a")
		if err := duework.Run(t.Context(), good.lane(), bad.lane()); err == nil || !strings.Contains(err.Error(), "Goexit") {
			t.Errorf("Run returned %v, want an error that says so", err)
		}
	})
}

func TestLargeBacklog(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newQueue()
		for i := range 1_000 {
			q.add(0, fmt.Sprintf("%04d", i))
		}
		largest := 0
		q.do = func(pieces []piece) error {
			largest = max(largest, len(pieces))
			q.remove(pieces)
			return nil
		}
		stop := q.run(t)
		synctest.Wait()
		stop()
		if _, handed := q.counts(); handed != 1_000 || largest > 256 {
			t.Errorf("%d pieces in batches of up to %d, want 1,000 in batches of up to 256", handed, largest)
		}
	})
}

// A batch that fails is tried again after pauses that grow; each piece of it
// is handed out until it is worked off.
func TestFailedBatchIsTriedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newQueue()
		calls := 0
		q.do = func(pieces []piece) error {
			if calls++; calls <= 4 {
				return errBroken
			}
			q.remove(pieces)
			return nil
		}
		q.add(0, "a")
		stop := q.run(t)
		pass(time.Minute)
		stop()
		at := q.at("a")
		if len(at) != 5 {
			t.Fatalf("handed out at %v, want five times", at)
		}
		for i, bounds := range [][2]float64{{0.05, 0.1}, {0.1, 0.2}, {0.2, 0.4}, {0.4, 0.8}} {
			if gap := at[i+1] - at[i]; gap < bounds[0] || gap > bounds[1]+0.001 {
				t.Errorf("pause %d is %v, want between %v and %v", i, gap, bounds[0], bounds[1])
			}
		}
	})
}

// A piece that stays due although Do said nothing is not handed out in a
// spin, and holds nothing else up.
func TestUnfinishedPieceDoesNotSpin(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newQueue()
		q.do = func(pieces []piece) error {
			q.remove(slices.DeleteFunc(slices.Clone(pieces), func(p piece) bool { return p.id == "stuck" }))
			return nil
		}
		q.add(0, "stuck")
		stop := q.run(t)
		synctest.Wait()
		for i := range 20 {
			pass(time.Second)
			q.add(0, fmt.Sprint("good", i))
			synctest.Wait()
			if len(q.at(fmt.Sprint("good", i))) != 1 {
				t.Errorf("good%d waits behind the piece that is stuck", i)
			}
		}
		pass(time.Hour)
		stop()
		if n := len(q.at("stuck")); n < 100 || n > 300 {
			t.Errorf("stuck was handed out %d times in an hour, want about every 15 to 30 s", n)
		}
	})
}

// A piece whose batch always fails does not keep others from being done.
func TestPoisonedPiece(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newQueue()
		q.do = func(pieces []piece) error {
			if slices.ContainsFunc(pieces, func(p piece) bool { return p.id == "poison" }) {
				return errBroken
			}
			q.remove(pieces)
			return nil
		}
		q.add(0, "poison")
		stop := q.run(t)
		pass(time.Minute)
		q.add(0, "good")
		pass(2 * time.Minute)
		stop()
		if len(q.pieces) != 1 {
			t.Errorf("%v are still there, want the poisoned piece alone", q.pieces)
		}
	})
}

// A store that fails is asked again after pauses, until it fails for good.
func TestDueFails(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		q := newQueue()
		fails := 0
		q.fail = func() error {
			switch fails++; {
			case fails <= 6:
				return errBroken
			case fails == 8:
				return fmt.Errorf("gone: %w", context.DeadlineExceeded)
			}
			return nil
		}
		q.add(0, "a")
		err := q.lane().Run(t.Context())
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Run returned %v, want the fatal error", err)
		}
		if at := q.at("a"); len(at) != 1 || at[0] < 3 || at[0] > 6.4 {
			t.Errorf("handed out at %v, want once, after six pauses", at)
		}
	})
}

// The first lane that fails ends the others; Run returns when all have.
func TestLanesEndTogether(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		good, bad := newQueue(), newQueue()
		inside := false
		lane := good.lane()
		lane.Do = func(ctx context.Context, _ []piece) error {
			inside = true
			<-ctx.Done()
			pass(time.Second) // cleaning up
			inside = false
			return ctx.Err()
		}
		good.add(0, "a")
		bad.add(time.Hour, "b")
		bad.fail = func() error {
			if bad.looks > 1 {
				return context.DeadlineExceeded
			}
			return nil
		}
		err := duework.Run(t.Context(), lane, bad.lane())
		if !errors.Is(err, context.DeadlineExceeded) || inside {
			t.Errorf("Run returned %v, with a call at work: %v", err, inside)
		}
	})
}

// Commits that race with a lane falling asleep are never missed.
func TestNoLostSignal(t *testing.T) {
	t.Parallel()
	q := newQueue()
	handed := make(chan string)
	lane := q.lane()
	lane.Do = func(_ context.Context, pieces []piece) error {
		q.mu.Lock()
		q.remove(pieces)
		q.mu.Unlock()
		for _, p := range pieces {
			handed <- p.id
		}
		return nil
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- lane.Run(ctx) }()
	for i := range 2_000 {
		want := strconv.Itoa(i)
		q.add(0, want)
		if got := <-handed; got != want {
			t.Fatalf("handed out %s, want %s", got, want)
		}
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("Run returned %v, want context.Canceled", err)
	}
}
