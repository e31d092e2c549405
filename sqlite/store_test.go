package sqlite_test

import (
	"path/filepath"
	"testing"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/fluxlytest"
	"github.com/getfluxly/fluxly/sqlite"
)

func TestStore(t *testing.T) {
	t.Parallel()
	fluxlytest.TestStore(t, func(tb testing.TB) fluxly.Store {
		tb.Helper()
		store, err := sqlite.Open(filepath.Join(tb.TempDir(), "fluxly.db"))
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() {
			if err := store.Close(); err != nil {
				tb.Errorf("Close: %v", err)
			}
		})
		return store
	})
}
