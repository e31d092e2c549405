package fluxlytest

import (
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/getfluxly/fluxly"
)

// crashSeeds is how many schedules are run: those of FLUXLY_CRASH_SEEDS, or 0
// for the default.
func crashSeeds(t *testing.T) int {
	t.Helper()
	n, err := strconv.Atoi(os.Getenv("FLUXLY_CRASH_SEEDS"))
	if err != nil {
		return 0
	}
	return n
}

// keptStore is a store in memory that outlives its "process".
type keptStore struct{ fluxly.Store }

func (keptStore) Close() error { return nil }

func (keptStore) Exclusive() bool { return true }

func TestR14R16CrashesInMemory(t *testing.T) {
	t.Parallel()
	stores := map[string]fluxly.Store{}
	TestCrashes(t, func(_ testing.TB, dir string) fluxly.Store {
		if stores[dir] == nil {
			stores[dir] = keptStore{fluxly.NewMemoryStore()}
		}
		return stores[dir]
	})
}

func TestR14R16O3O6S16CrashSchedules(t *testing.T) {
	t.Parallel()
	TestCrashSchedules(t, CrashConfig{Engine: HistoryConfig(nil), Seeds: crashSeeds(t)})
}

// The same history gives the same state, to the last field, when it is played
// again.
func TestHistoryIsDeterministic(t *testing.T) {
	t.Parallel()
	play := func(seed uint64) string {
		k := NewConfig(t, HistoryConfig(nil))
		if err := History(k, seed, 400); err != nil {
			t.Fatal(err)
		}
		d, err := Dump(t.Context(), k.Store)
		if err != nil {
			t.Fatal(err)
		}
		if n := k.Engine.Counters().RunsStarted; n < 20 {
			t.Errorf("seed %d: hardly any runs: %d", seed, n)
		}
		return d
	}
	for seed := range uint64(6) {
		a, b := play(seed), play(seed)
		if diff := cmp.Diff(strings.Split(a, "\n"), strings.Split(b, "\n")); diff != "" {
			t.Fatalf("seed %d: %s", seed, diff)
		}
	}
}
