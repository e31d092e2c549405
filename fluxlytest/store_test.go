package fluxlytest_test

import (
	"testing"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/fluxlytest"
)

func TestMemoryStore(t *testing.T) {
	t.Parallel()
	fluxlytest.TestStore(t, func(tb testing.TB) fluxly.Store {
		tb.Helper()
		store := fluxly.NewMemoryStore()
		tb.Cleanup(func() { _ = store.Close() })
		return store
	})
}
