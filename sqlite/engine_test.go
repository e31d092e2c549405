package sqlite_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/fluxlytest"
	"github.com/getfluxly/fluxly/sqlite"
)

func openIn(t testing.TB, dir string) fluxly.Store {
	t.Helper()
	store, err := sqlite.OpenConfig(filepath.Join(dir, "fluxly.db"), sqlite.Config{})
	if err != nil {
		t.Fatal(err)
	}
	return store
}

// An engine on SQLite is stopped at every commit and every call of the
// provider, and each time starts again on the same file.
func TestR14R16Crashes(t *testing.T) {
	t.Parallel()
	fluxlytest.TestCrashes(t, openIn)
}

// Random schedules of stops, freezes and clock jumps on a file that each
// process opens anew.
func TestR14R16CrashSchedules(t *testing.T) {
	t.Parallel()
	seeds := 40
	if testing.Short() {
		seeds = 8
	}
	fluxlytest.TestCrashSchedules(t, fluxlytest.CrashConfig{Engine: fluxlytest.HistoryConfig(nil), Open: openIn, Seeds: seeds})
}

// Random histories give the same state in a file as in memory, to the last
// field, also when each call is a transaction of the caller's.
func TestHistoriesAgreeWithMemory(t *testing.T) {
	t.Parallel()
	seeds, steps := uint64(4), 400
	if testing.Short() {
		seeds = 1
	}
	if n, err := strconv.Atoi(os.Getenv("FLUXLY_STEPS")); err == nil {
		seeds, steps = 1, n
	}
	for seed := range seeds {
		dumps := make([][]string, 2, 3)
		if seed == 0 {
			dumps = dumps[:3]
		}
		for i := range dumps {
			cfg := fluxlytest.HistoryConfig(nil)
			switch i {
			case 1:
				store := openIn(t, t.TempDir())
				t.Cleanup(func() { _ = store.Close() })
				cfg.Store = store
			case 2:
				cfg.Store = openCallerStore(t, filepath.Join(t.TempDir(), "fluxly.db"))
			}
			k := fluxlytest.NewConfig(t, cfg)
			if err := fluxlytest.History(k, seed, steps); err != nil {
				t.Fatal(err)
			}
			d, err := fluxlytest.Dump(t.Context(), k.Store)
			if err != nil {
				t.Fatal(err)
			}
			dumps[i] = strings.Split(d, "\n")
		}
		if diff := cmp.Diff(dumps[0], dumps[1]); diff != "" {
			t.Fatalf("seed %d: (-memory +sqlite)\n%s", seed, diff)
		}
		if len(dumps) < 3 {
			continue
		}
		if diff := cmp.Diff(dumps[0], dumps[2]); diff != "" {
			t.Fatalf("seed %d: (-memory +callers' transactions)\n%s", seed, diff)
		}
	}
}
