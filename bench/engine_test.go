package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/getfluxly/fluxly"
)

// TestTrackManyAutomations: an event that nobody asks for costs the same
// whether an engine has one automation or 10,000.
func TestTrackManyAutomations(t *testing.T) {
	many, rounds, each := 10_000, 51, 1_000
	if underRace {
		many, rounds, each = 100, 1, 50
	}
	people := min(1_000, each)
	var engines []*fluxly.Engine
	for _, n := range []int{1, many} {
		list := make([]fluxly.Automation, n)
		for i := range list {
			list[i] = fluxly.Automation{
				Name:    fmt.Sprintf("automation-%05d", i),
				Trigger: fluxly.On(fmt.Sprintf("event_%03d", i%100), fluxly.Prop("plan").Is("trial")),
				Steps:   fluxly.Steps{fluxly.Wait(fluxly.Day), fluxly.Send("welcome")},
			}
		}
		start := time.Now()
		e := newEngine(t, fluxly.Config{Store: fluxly.NewMemoryStore(), Automations: list})
		t.Logf("New, automations: %d: %v", n, time.Since(start).Round(100*time.Microsecond))
		for p := range people {
			must(e.Identify(t.Context(), fluxly.Identity{ExternalID: personID(p), Traits: personTraits(p)}))
		}
		engines = append(engines, e)
	}
	var ratios []float64
	costs := make([][]float64, len(engines))
	for round := range rounds + 1 {
		took := make([]float64, len(engines))
		for j := range engines {
			k := (j + round) % len(engines)
			start := time.Now()
			for i := range each {
				must(engines[k].Track(t.Context(), known((round*each+i)%people)))
			}
			took[k] = float64(time.Since(start).Nanoseconds()) / float64(each)
		}
		if round > 0 {
			ratios = append(ratios, took[1]/took[0])
			for k := range took {
				costs[k] = append(costs[k], took[k])
			}
		}
	}
	ratio := median(ratios)
	t.Logf("an event that nobody asks for, in memory: %.1f us with 1 automation, %.1f us with %d: %.2fx",
		median(costs[0])/1e3, median(costs[1])/1e3, many, ratio)
	if ratio > 1.2 && !underRace {
		t.Errorf("%.2f times the cost with one automation; the bar is 1.2", ratio)
	}
}

// asleepIn returns a run of an automation as it stands when it waits: each that
// is written later is a copy for another person.
func asleepIn(tb testing.TB, a fluxly.Automation) *fluxly.Run {
	tb.Helper()
	store := fluxly.NewMemoryStore()
	e := newEngine(tb, fluxly.Config{Store: store, Automations: []fluxly.Automation{a}})
	must(e.Track(tb.Context(), newcomer(1)))
	_, err := e.RunDue(tb.Context())
	must(err)
	runs, err := e.Runs(tb.Context(), fluxly.RunQuery{})
	must(err)
	if len(runs) != 1 || runs[0].WakeAt.IsZero() {
		tb.Fatalf("%d runs; want one that waits", len(runs))
	}
	return runs[0]
}

func runName(n int) string { return fmt.Sprintf("run_%024d", n) }

// putWaiting writes runs of the people with the numbers [from, to), which wait
// until due, straight into a store.
func putWaiting(tb testing.TB, store fluxly.Store, a fluxly.Automation, from, to int, due func(n int) time.Time) {
	tb.Helper()
	ctx := tb.Context()
	run := *asleepIn(tb, a)
	started := run.StartedAt
	for n := from; n < to; n += 2_000 {
		must(store.Update(ctx, func(tx fluxly.Tx) error {
			for i := n; i < min(n+2_000, to); i++ {
				run.ID, run.ProfileID, run.StartedAt, run.WakeAt = runName(i), profileName(i), started.Add(time.Duration(i)), due(i)
				if err := tx.PutRun(ctx, &run); err != nil {
					return err
				}
			}
			return nil
		}))
	}
}

// running runs an engine until the function that it returns is called.
func running(tb testing.TB, e *fluxly.Engine) (stop func()) {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			tb.Errorf("Run: %v", err)
		}
	}
}

// await looks at a condition until it holds.
func await(ok func() bool) {
	tick := time.NewTicker(200 * time.Microsecond)
	defer tick.Stop()
	for !ok() {
		<-tick.C
	}
}

// engineStores are the stores on which the open figures are taken.
func engineStores(b *testing.B, run func(b *testing.B, store fluxly.Store)) {
	b.Helper()
	b.Run("sqlite", func(b *testing.B) { run(b, openSQLite(b, filepath.Join(b.TempDir(), "fluxly.db"))) })
	if os.Getenv(postgresEnv) != "" {
		b.Run("postgres", func(b *testing.B) { run(b, newDatabase(b).open(b)) })
	}
	b.Run("memory", func(b *testing.B) { run(b, fluxly.NewMemoryStore()) })
}

// BenchmarkWaitsResumed: waits that are over when Run starts; each run is
// woken, logged, and waits again.
func BenchmarkWaitsResumed(b *testing.B) {
	a := fluxly.Automation{
		Name: "trial-onboarding", Trigger: fluxly.On("signed_up"),
		Steps: fluxly.Steps{fluxly.Wait(fluxly.Day), fluxly.Wait(fluxly.Day)},
	}
	engineStores(b, func(b *testing.B, store fluxly.Store) {
		past := time.Now().Add(-time.Minute)
		putPeople(b, store, 0, b.N)
		putWaiting(b, store, a, 0, b.N, func(int) time.Time { return past })
		e := newEngine(b, fluxly.Config{Store: store, Automations: []fluxly.Automation{a}})
		b.ReportAllocs()
		b.ResetTimer()
		stop := running(b, e)
		await(func() bool { return e.Counters().Wakes >= int64(b.N) })
		b.StopTimer()
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "resumed/s")
		stop()
	})
}

// BenchmarkSends: mails that are queued when Run starts, through the whole
// engine, to a sender that takes each at once: with as many under way as the
// default, and with more.
func BenchmarkSends(b *testing.B) {
	for _, most := range []int{8, 64} {
		b.Run(fmt.Sprintf("MaxSends %d", most), func(b *testing.B) {
			engineStores(b, func(b *testing.B, store fluxly.Store) {
				counted := &commits{Store: store}
				e := newEngine(b, fluxly.Config{Store: counted, MaxSends: most})
				trackAll(b, e, b.N, newcomer)
				before := counted.n.Load()
				b.ReportAllocs()
				b.ResetTimer()
				stop := running(b, e)
				await(func() bool { return e.Counters().Accepted >= int64(b.N) })
				b.StopTimer()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "mails/s")
				b.ReportMetric(float64(counted.n.Load()-before)/float64(b.N), "commits/mail")
				stop()
			})
		})
	}
}

func trackAll(tb testing.TB, e *fluxly.Engine, n int, make func(int) fluxly.Event) {
	tb.Helper()
	var wg sync.WaitGroup
	for c := range trackCallers {
		wg.Go(func() {
			for i := c; i < n; i += trackCallers {
				if err := e.Track(tb.Context(), make(i)); err != nil {
					tb.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// BenchmarkDelay: waits that end one after another, 200 a second, each with a
// mail: how long after its time is the mail in the hands of the sender?
func BenchmarkDelay(b *testing.B) {
	const rate = 200
	a := fluxly.Automation{
		Name: "trial-onboarding", Trigger: fluxly.On("signed_up"),
		Steps: fluxly.Steps{fluxly.Wait(fluxly.Day), fluxly.Send("welcome")},
	}
	engineStores(b, func(b *testing.B, store fluxly.Store) {
		putPeople(b, store, 0, b.N)
		start := time.Now().Add(100*time.Millisecond + time.Duration(b.N)*50*time.Microsecond)
		due := func(n int) time.Time { return start.Add(time.Duration(n) * time.Second / rate) }
		putWaiting(b, store, a, 0, b.N, due)
		var mu sync.Mutex
		var delays []time.Duration
		sender := &instant{onSend: func(m *fluxly.Message) {
			now := time.Now()
			var n int
			if _, err := fmt.Sscanf(m.SendKey, "run_%d/", &n); err != nil {
				b.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			delays = append(delays, now.Sub(due(n)))
		}}
		e := newEngine(b, fluxly.Config{Store: store, Sender: sender, Automations: []fluxly.Automation{a}})
		if late := time.Since(start); late > 0 && b.N > 1 {
			b.Logf("the first was due %v before Run", late)
		}
		b.ResetTimer()
		stop := running(b, e)
		await(func() bool { return e.Counters().Accepted >= int64(b.N) })
		b.StopTimer()
		stop()
		b.ReportMetric(float64(quantile(delays, 0.5).Microseconds())/1e3, "p50-ms")
		b.ReportMetric(float64(quantile(delays, 0.9).Microseconds())/1e3, "p90-ms")
		b.ReportMetric(float64(quantile(delays, 0.99).Microseconds())/1e3, "p99-ms")
	})
}
