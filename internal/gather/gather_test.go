package gather

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
)

// recorder keeps the batches that were committed. While hold is set, a commit
// announces itself on begun and waits for a receive from hold.
type recorder struct {
	mu      sync.Mutex
	batches [][]int
	fail    func(v int) error
	begun   chan struct{}
	hold    chan struct{}
}

func (r *recorder) commit(_ context.Context, batch []int) []error {
	if r.hold != nil {
		r.begun <- struct{}{}
		<-r.hold
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.batches = append(r.batches, slices.Clone(batch))
	if r.fail == nil {
		return nil
	}
	errs := make([]error, len(batch))
	for i, v := range batch {
		errs[i] = r.fail(v)
	}
	return errs
}

func held() *recorder {
	return &recorder{begun: make(chan struct{}), hold: make(chan struct{})}
}

func TestLoneCaller(t *testing.T) {
	t.Parallel()
	r := &recorder{}
	g := New(8, 1, r.commit)
	for v := range 3 {
		if err := g.Do(t.Context(), v); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([][]int{{0}, {1}, {2}}, r.batches); diff != "" {
		t.Errorf("one commit for each call, alone (-want +got):\n%s", diff)
	}
}

// What comes during a commit goes into the next ones, in order of coming, in
// batches of at most the limit.
func TestBatches(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		limit   int
		callers int
		want    [][]int
	}{
		{"all in one", 8, 5, [][]int{{0}, {1, 2, 3, 4}}},
		{"exactly the limit", 4, 5, [][]int{{0}, {1, 2, 3, 4}}},
		{"one over the limit", 3, 5, [][]int{{0}, {1, 2, 3}, {4}}},
		{"limit one", 1, 4, [][]int{{0}, {1}, {2}, {3}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := held()
				g := New(c.limit, 1, r.commit)
				var wg sync.WaitGroup
				for v := range c.callers {
					wg.Go(func() {
						if err := g.Do(t.Context(), v); err != nil {
							t.Errorf("%d: %v", v, err)
						}
					})
					if v == 0 {
						<-r.begun
					}
					synctest.Wait() // each stands in the queue before the next comes
				}
				r.hold <- struct{}{}
				for range len(c.want) - 1 {
					<-r.begun
					r.hold <- struct{}{}
				}
				wg.Wait()
				if diff := cmp.Diff(c.want, r.batches); diff != "" {
					t.Errorf("batches (-want +got):\n%s", diff)
				}
			})
		})
	}
}

func TestErrorsGoToTheirCallers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := held()
		r.fail = func(v int) error {
			if v%2 == 1 {
				return fmt.Errorf("odd %d", v)
			}
			return nil
		}
		g := New(16, 1, r.commit)
		var wg sync.WaitGroup
		for v := range 10 {
			wg.Go(func() {
				err := g.Do(t.Context(), v)
				want := ""
				if v%2 == 1 {
					want = fmt.Sprintf("odd %d", v)
				}
				if got := fmt.Sprint(err); want != "" && got != want || want == "" && err != nil {
					t.Errorf("%d: error %v, want %q", v, err, want)
				}
			})
			if v == 0 {
				<-r.begun
			}
			synctest.Wait()
		}
		r.hold <- struct{}{}
		<-r.begun
		r.hold <- struct{}{}
		wg.Wait()
	})
}

func TestContextOver(t *testing.T) {
	t.Parallel()

	t.Run("before", func(t *testing.T) {
		t.Parallel()
		r := &recorder{}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := New(8, 1, r.commit).Do(ctx, 1); !errors.Is(err, context.Canceled) || len(r.batches) != 0 {
			t.Errorf("error %v, batches %v; want canceled and none", err, r.batches)
		}
	})

	t.Run("while waiting", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			r := held()
			g := New(8, 1, r.commit)
			var wg sync.WaitGroup
			do := func(ctx context.Context, v int, want error) {
				wg.Go(func() {
					if err := g.Do(ctx, v); !errors.Is(err, want) {
						t.Errorf("%d: error %v, want %v", v, err, want)
					}
				})
			}
			do(t.Context(), 0, nil)
			<-r.begun
			ctx, cancel := context.WithCancel(t.Context())
			do(t.Context(), 1, nil)
			synctest.Wait()
			do(ctx, 2, context.Canceled)
			synctest.Wait()
			do(t.Context(), 3, nil)
			synctest.Wait()
			cancel()
			synctest.Wait() // 2 has returned, although the commit goes on
			r.hold <- struct{}{}
			<-r.begun
			r.hold <- struct{}{}
			wg.Wait()
			if diff := cmp.Diff([][]int{{0}, {1, 3}}, r.batches); diff != "" {
				t.Errorf("the one who left is in no batch (-want +got):\n%s", diff)
			}
		})
	})

	// From when an op is part of a batch its caller waits for the outcome,
	// whoever leads, and the batch goes on under a context without an end.
	t.Run("in a batch", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			begun, hold := make(chan struct{}), make(chan struct{})
			g := New(8, 1, func(ctx context.Context, batch []int) []error {
				begun <- struct{}{}
				<-hold
				errs := make([]error, len(batch))
				for i := range errs {
					errs[i] = ctx.Err()
				}
				return errs
			})
			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			do := func(v int) {
				wg.Go(func() {
					if err := g.Do(ctx, v); err != nil {
						t.Errorf("%d: %v, want the outcome of the commit", v, err)
					}
				})
			}
			do(0)
			<-begun
			do(1)
			synctest.Wait()
			do(2)
			synctest.Wait()
			hold <- struct{}{}
			<-begun // 1 leads, 2 follows
			cancel()
			synctest.Wait()
			hold <- struct{}{}
			wg.Wait()
		})
	})

	t.Run("values", func(t *testing.T) {
		t.Parallel()
		type key struct{}
		g := New(8, 1, func(ctx context.Context, _ []int) []error {
			if ctx.Value(key{}) != "mine" {
				t.Error("the leader's values are gone")
			}
			return nil
		})
		if err := g.Do(context.WithValue(t.Context(), key{}, "mine"), 1); err != nil {
			t.Error(err)
		}
	})
}

// A commit that panics does so in the leader; the others of its batch are
// told, and those after them are served.
func TestPanic(t *testing.T) {
	t.Parallel()
	for name, commit := range map[string]func(batch []int) []error{
		"panic":              func([]int) []error { panic("boom") },
		"too few errors":     func([]int) []error { return []error{nil} },
		"the goroutine ends": func([]int) []error { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				r := held()
				g := New(2, 1, func(ctx context.Context, batch []int) []error {
					r.commit(ctx, batch)
					if batch[0] == 1 {
						if name == "the goroutine ends" {
							runtime.Goexit()
						}
						return commit(batch)
					}
					return nil
				})
				var panics, told, served atomic.Int32
				var wg sync.WaitGroup
				for v := range 6 {
					wg.Go(func() {
						returned := false
						defer func() {
							if recover() != nil || !returned {
								panics.Add(1)
							}
						}()
						err := g.Do(t.Context(), v)
						returned = true
						switch {
						case errors.Is(err, ErrPanicked):
							told.Add(1)
						case err == nil:
							served.Add(1)
						default:
							t.Errorf("%d: %v", v, err)
						}
					})
					if v == 0 {
						<-r.begun
					}
					synctest.Wait()
				}
				r.hold <- struct{}{}
				for range 3 { // 1 and 2, 3 and 4, 5
					<-r.begun
					r.hold <- struct{}{}
				}
				wg.Wait()
				if panics.Load() != 1 || told.Load() != 1 || served.Load() != 4 {
					t.Errorf("%d panicked, %d told, %d served; want 1, 1, 4", panics.Load(), told.Load(), served.Load())
				}
				if g.leaders != 0 || len(g.waiting) != 0 {
					t.Errorf("%d leaders, %d waiting; want nobody", g.leaders, len(g.waiting))
				}
			})
		})
	}
}

// Under many callers, some of whom give up: each op whose call returned nil
// was committed once, each op whose call gave up was not, one commit runs at a
// time, and a caller's own ops are committed in its order.
func TestStress(t *testing.T) {
	t.Parallel()
	const callers, each, limit = 32, 200, 7
	var running atomic.Int32
	var committed []int
	g := New(limit, 1, func(_ context.Context, batch []int) []error {
		if running.Add(1) != 1 {
			t.Error("two commits at once")
		}
		defer running.Add(-1)
		if len(batch) == 0 || len(batch) > limit {
			t.Errorf("a batch of %d", len(batch))
		}
		committed = append(committed, batch...)
		return nil
	})
	var gaveUp atomic.Int32
	done := make([][]int, callers)
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(c), 1))
			for i := range each {
				v := c*each + i
				ctx, cancel := context.WithCancel(t.Context())
				if r.IntN(4) == 0 {
					go cancel()
				}
				switch err := g.Do(ctx, v); {
				case err == nil:
					done[c] = append(done[c], v)
				case errors.Is(err, context.Canceled):
					gaveUp.Add(1)
				default:
					t.Error(err)
				}
				cancel()
			}
		})
	}
	wg.Wait()
	got := make([][]int, callers)
	for _, v := range committed {
		got[v/each] = append(got[v/each], v)
	}
	if diff := cmp.Diff(done, got); diff != "" {
		t.Errorf("what was committed is not what was reported (-reported +committed):\n%s", diff)
	}
	if g.leaders != 0 || len(g.waiting) != 0 {
		t.Errorf("%d leaders, %d waiting at the end", g.leaders, len(g.waiting))
	}
	t.Logf("%d committed, %d gave up", len(committed), gaveUp.Load())
}

func BenchmarkDo(b *testing.B) {
	g := New(256, 1, func(context.Context, []int) []error { return nil })
	b.Run("alone", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_ = g.Do(b.Context(), 1)
		}
	})
	b.Run("64 callers", func(b *testing.B) {
		b.ReportAllocs()
		b.SetParallelism(64)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				_ = g.Do(context.Background(), 1)
			}
		})
	})
}

// With two leaders two commits go on side by side, each op in one of them, and
// never three.
func TestLeadersSideBySide(t *testing.T) {
	t.Parallel()
	const callers, each = 16, 200
	var at, most, done atomic.Int32
	var seen sync.Map
	g := New(8, 2, func(_ context.Context, batch []int) []error {
		n := at.Add(1)
		defer at.Add(-1)
		for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
		}
		runtime.Gosched()
		for _, v := range batch {
			if _, again := seen.LoadOrStore(v, true); again {
				t.Errorf("%d was committed twice", v)
			}
		}
		return nil
	})
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			for i := range each {
				v := c*each + i
				if err := g.Do(t.Context(), v); err != nil {
					t.Error(err)
				}
				if _, ok := seen.Load(v); !ok {
					t.Errorf("%d was answered before it was committed", v)
				}
				done.Add(1)
			}
		})
	}
	wg.Wait()
	if most.Load() > 2 || done.Load() != callers*each || g.Waiting() != 0 || g.leaders != 0 {
		t.Errorf("%d commits at a time, %d answered, %d wait, %d leaders", most.Load(), done.Load(), g.Waiting(), g.leaders)
	}
}

// A leader goes through the gate before it takes a batch, and one whose context
// ends at the gate is part of none: another one leads.
func TestGate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &recorder{}
		open := make(chan struct{})
		inside := 0
		g := New(8, 1, r.commit).Behind(func(ctx context.Context) (func(), error) {
			select {
			case <-open:
				inside++
				return func() { inside-- }, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		do := func(ctx context.Context, v int, want error) {
			wg.Go(func() {
				if err := g.Do(ctx, v); !errors.Is(err, want) {
					t.Errorf("%d: error %v, want %v", v, err, want)
				}
			})
			synctest.Wait()
		}
		do(ctx, 0, context.Canceled) // leads, and stands at the gate
		do(ctx, 1, context.Canceled) // waits
		do(t.Context(), 2, nil)
		do(t.Context(), 3, nil)
		cancel()
		synctest.Wait()
		close(open)
		wg.Wait()
		if diff := cmp.Diff([][]int{{2, 3}}, r.batches); diff != "" {
			t.Errorf("batches (-want +got):\n%s", diff)
		}
		if inside != 0 || g.leaders != 0 || len(g.waiting) != 0 {
			t.Errorf("%d inside, %d leaders, %d waiting; want nobody", inside, g.leaders, len(g.waiting))
		}
	})
}
