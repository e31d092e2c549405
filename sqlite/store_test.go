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
	fluxlytest.TestStore(t, func(t testing.TB) fluxly.Store {
		store, err := sqlite.Open(filepath.Join(t.TempDir(), "fluxly.db"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := store.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		})
		return store
	})
}
