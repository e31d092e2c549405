package fluxly_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/fluxlytest"
	"github.com/getfluxly/fluxly/internal/pgtest"
	"github.com/getfluxly/fluxly/postgres"
	"github.com/getfluxly/fluxly/sqlite"
)

// storeEnv names the store that the scenarios and the tests of the engine run
// on: memory (the default), sqlite, or postgres.
const storeEnv = "FLUXLY_TEST_STORE"

// newStore makes the empty store of a test.
func newStore(t testing.TB) fluxly.Store {
	t.Helper()
	var store fluxly.Store
	switch kind := os.Getenv(storeEnv); kind {
	case "", "memory":
		store = fluxly.NewMemoryStore()
	case "sqlite":
		s, err := sqlite.Open(filepath.Join(t.TempDir(), "fluxly.db"))
		if err != nil {
			t.Fatal(err)
		}
		store = s
	case "postgres":
		s, err := postgres.Open(t.Context(), pgtest.Pool(t), postgres.Config{Schema: pgtest.Schema(t), Migrate: true})
		if err != nil {
			t.Fatal(err)
		}
		store = s
	default:
		t.Fatalf("%s=%q: use memory, sqlite or postgres", storeEnv, kind)
	}
	t.Cleanup(func() { _ = store.Close() })
	return store
}

// newKit is fluxlytest.New on the store of the tests.
func newKit(t testing.TB, automations ...fluxly.Automation) *fluxlytest.Kit {
	t.Helper()
	return newKitConfig(t, fluxly.Config{Automations: automations})
}

// newKitConfig is fluxlytest.NewConfig on the store of the tests.
func newKitConfig(t testing.TB, cfg fluxly.Config) *fluxlytest.Kit {
	t.Helper()
	if cfg.Store == nil {
		cfg.Store = newStore(t)
	}
	return fluxlytest.NewConfig(t, cfg)
}

// replays is how often a test repeats itself with a store of its own each time:
// a database takes its time to make one.
func replays(n int) int {
	if kind := os.Getenv(storeEnv); kind != "" && kind != "memory" {
		return min(n, 3)
	}
	return n
}
