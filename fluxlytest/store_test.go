package fluxlytest_test

import (
	"testing"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/fluxlytest"
)

func TestMemoryStore(t *testing.T) {
	t.Parallel()
	fluxlytest.TestStore(t, func(t testing.TB) fluxly.Store {
		store := fluxly.NewMemoryStore()
		t.Cleanup(func() { _ = store.Close() })
		return store
	})
}
