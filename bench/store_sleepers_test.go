package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/sqlite"
)

const (
	// sleepersBar is the most that an event may cost with runs asleep that it
	// does not match, against none.
	sleepersBar = 1.2
	// sleepersMemory is the most memory of the process.
	sleepersMemory = 150 << 20
	// sleepersIdle is the most processor time while nothing is due.
	sleepersIdle = 0.01
)

// sleeping is a run that waits for an event, a year at most.
func sleeping(profile string, n int) *fluxly.Run {
	start := time.Unix(1_700_000_000, int64(n))
	return &fluxly.Run{
		ID: fmt.Sprintf("01901640-8694-739b-bea5-%012x", n), Automation: "trial-onboarding", Version: "3f1c9a2e", ProfileID: profile,
		Status: fluxly.RunLive, Step: "wait-for-project", Visit: 3, StartedAt: start, UpdatedAt: start, Pending: fluxly.PendingEvent,
		WakeAt: time.Now().AddDate(1, 0, n%300), Waits: []string{"subscription_started", "trial_finished"}, WaitSince: start,
		Entry: fluxly.EntryEvent{Name: "signed_up", MessageID: "m", Properties: fluxly.Properties{"plan": "trial"}, OccurredAt: start},
	}
}

func putSleepers(ctx context.Context, store fluxly.Store, count int, profile func(int) string) error {
	for n := 0; n < count; n += 1_000 {
		err := store.Update(ctx, func(tx fluxly.Tx) error {
			for i := n; i < min(n+1_000, count); i++ {
				if err := tx.PutRun(ctx, sleeping(profile(i), i)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// memory returns what the system counts as the process's own.
func memory(tb testing.TB) int64 {
	tb.Helper()
	runtime.GC()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		tb.Fatalf("the memory of a process is read from /proc, as Linux has it: %v", err)
	}
	for line := range strings.Lines(string(status)) {
		if kb, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(kb), " kB"), 10, 64)
			if err != nil {
				tb.Fatal(err)
			}
			return n << 10
		}
	}
	tb.Fatal("/proc/self/status names no VmRSS")
	return 0
}

func processorTime(tb testing.TB) time.Duration {
	tb.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// asleep is a worker that must not be called.
type asleep struct{ tb testing.TB }

func (asleep) Now() time.Time { return time.Now() }

func (a asleep) Do(_ context.Context, kind fluxly.WorkKind, batch []fluxly.Work) error {
	a.tb.Errorf("%d pieces of %s are due", len(batch), kind)
	return nil
}

// fewSleepers are enough to see that a measurement works.
const fewSleepers = 2_000

// sleepers is the number of sleeping runs to measure with. A million takes
// minutes, so it must be asked for: BENCH_SLEEPERS=1000000. Without, a few runs
// show that all works; what it costs is then printed and not judged.
func sleepers(tb testing.TB) (count int, asked bool) {
	tb.Helper()
	text := os.Getenv("BENCH_SLEEPERS")
	if text == "" {
		return fewSleepers, false
	}
	count, err := strconv.Atoi(text)
	if err != nil || count < 1 {
		tb.Fatalf("BENCH_SLEEPERS=%q: give the number of sleeping runs, such as 1000000", text)
	}
	return count, true
}

// idleFor is how long a process is watched while nothing is due.
func idleFor(asked bool) time.Duration {
	if asked {
		return 10 * time.Second
	}
	return 200 * time.Millisecond
}

// TestSleepers measures a store with very many runs asleep; see [sleepers].
func TestSleepers(t *testing.T) {
	count, asked := sleepers(t)
	ctx := t.Context()
	full, path := openStore(t, sqlite.Config{})
	before := memory(t)
	start := time.Now()
	// Each belongs to a person of its own.
	if err := putSleepers(ctx, full, count, func(i int) string { return profileID(storeProfiles + i) }); err != nil {
		t.Fatal(err)
	}
	took := time.Since(start)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d runs put in %v, %.0f a second; file %d MB, %d bytes a run",
		count, took.Round(time.Second), float64(count)/took.Seconds(), info.Size()>>20, info.Size()/int64(count))

	// Nothing is due for a year: what does waiting cost?
	working, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- full.Work(working, asleep{t}) }()
	rest := func(d time.Duration) {
		timer := time.NewTimer(d)
		defer timer.Stop()
		<-timer.C
	}
	idle := idleFor(asked)
	rest(idle / 10)
	used := processorTime(t)
	rest(idle)
	share := float64(processorTime(t)-used) / float64(idle)
	rss := memory(t)
	t.Logf("idle: %.3f %% of one processor; process %d MB, %d MB before the runs", share*100, rss>>20, before>>20)
	if asked && share > sleepersIdle {
		t.Errorf("%.1f %% of a processor while idle, want under %.0f %%", share*100, sleepersIdle*100)
	}
	if asked && rss > sleepersMemory {
		t.Errorf("%d MB, want under %d MB", rss>>20, sleepersMemory>>20)
	}

	// The same events with none asleep, with all asleep, and with all asleep
	// and one of them the person's own. The work goes on meanwhile.
	empty, _ := openStore(t, sqlite.Config{})
	own, _ := openStore(t, sqlite.Config{})
	if err := putSleepers(ctx, own, count, func(i int) string { return profileID(i) }); err != nil {
		t.Fatal(err)
	}
	stores := []*sqlite.Store{empty, full, own}
	r := rand.New(rand.NewPCG(1, 1))
	times := make([][]time.Duration, len(stores))
	n := 0
	for round := range storeRounds / 4 {
		var rows [16][]storeRow
		for i := range rows {
			rows[i] = storeRows(r, n)
			n++
		}
		for j := range stores {
			k := (j + round) % len(stores)
			start := time.Now()
			for i := range rows {
				if err := storeWrite(ctx, stores[k], rows[i]); err != nil {
					t.Fatal(err)
				}
			}
			if round > 0 {
				times[k] = append(times[k], time.Since(start)/time.Duration(len(rows)*storeBatch))
			}
		}
	}
	none, others, mine := medianTime(times[0]), medianTime(times[1]), medianTime(times[2])
	t.Logf("an event: %v with none asleep, %v with %d asleep (%.2fx), %v with one of them the person's own (%.2fx)",
		none, others, count, float64(others)/float64(none), mine, float64(mine)/float64(none))
	if asked && (float64(others) > sleepersBar*float64(none) || float64(mine) > sleepersBar*float64(none)) {
		t.Errorf("an event costs more than %.1f times what it costs with none asleep", sleepersBar)
	}
	stop()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("Work returned %v", err)
	}
}
