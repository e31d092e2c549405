package postgres

import (
	"testing"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/fluxlytest"
	"github.com/getfluxly/fluxly/internal/pgtest"
)

// openMode opens an empty store in a schema of its own.
func openMode(t testing.TB, m mode) *Store {
	t.Helper()
	schema := pgtest.Schema(t)
	s, err := Open(t.Context(), pgtest.Pool(t), Config{Schema: schema, Migrate: true})
	if err != nil {
		t.Fatal(err)
	}
	s.mode = m
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// The contract, in both modes.
func TestStore(t *testing.T) {
	t.Parallel()
	pgtest.URL(t)
	for name, m := range map[string]mode{"buffered": modeAuto, "careful": modeCareful} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fluxlytest.TestStore(t, func(t testing.TB) fluxly.Store { return openMode(t, m) })
		})
	}
}
