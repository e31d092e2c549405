package postgres

import (
	"sync"
	"testing"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/fluxlytest"
	"github.com/getfluxly/fluxly/internal/pgtest"
)

// schemas opens the store of a directory, which stands for a schema: the same
// one each time.
func schemas(t *testing.T) fluxlytest.Opener {
	t.Helper()
	var mu sync.Mutex
	of := map[string]string{}
	pool := pgtest.Pool(t)
	return func(tb testing.TB, dir string) fluxly.Store {
		tb.Helper()
		mu.Lock()
		defer mu.Unlock()
		schema, there := of[dir]
		if !there {
			schema = pgtest.Schema(t)
			of[dir] = schema
		}
		store, err := Open(t.Context(), pool, Config{Schema: schema, Migrate: !there})
		if err != nil {
			tb.Fatal(err)
		}
		return store
	}
}

// Random schedules of stops, freezes and clock jumps, with several processes on
// one schema.
func TestR14R16O6CrashSchedules(t *testing.T) {
	t.Parallel()
	seeds := 12
	if testing.Short() {
		seeds = 3
	}
	fluxlytest.TestCrashSchedules(t, fluxlytest.CrashConfig{Engine: fluxlytest.HistoryConfig(nil), Open: schemas(t), Seeds: seeds})
}
