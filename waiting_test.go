package fluxly_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/fluxlytest"
)

// gatedStore is a store whose commits take until they are let go.
type gatedStore struct {
	fluxly.Store
	gate chan struct{}
}

func (s *gatedStore) Update(ctx context.Context, fn func(fluxly.Tx) error) error {
	<-s.gate
	return s.Store.Update(ctx, fn)
}

// When the store is slow, Track waits; one whose context ends meanwhile did not
// happen, and what waits can be seen.
func TestBackPressure(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := &gatedStore{fluxly.NewMemoryStore(), make(chan struct{}, 1)}
		store.gate <- struct{}{} // for New
		e, err := fluxly.New(fluxly.Config{
			Store: store, Sender: &fluxlytest.FakeSender{}, Mode: fluxly.DryRun, From: "Acme <hello@acme.test>",
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var callers sync.WaitGroup
		track := func(ctx context.Context, id string, want error) {
			callers.Go(func() {
				err := e.Track(ctx, fluxly.Event{Name: "signed_up", ExternalID: id, MessageID: "m" + id})
				if !errors.Is(err, want) || want == nil && err != nil {
					t.Errorf("%s: %v, want %v", id, err, want)
				}
			})
			synctest.Wait()
		}
		const n = 20
		track(t.Context(), "first", nil) // it commits
		for i := range n {
			track(t.Context(), fmt.Sprint("u", i), nil)
		}
		track(ctx, "gone", context.Canceled)
		if w := e.Waiting(); w != n+2 {
			t.Errorf("%d calls wait, want %d", w, n+2)
		}
		cancel()
		synctest.Wait()
		if w := e.Waiting(); w != n+1 {
			t.Errorf("%d calls wait after one gave up, want %d", w, n+1)
		}
		close(store.gate)
		callers.Wait()
		if w, c := e.Waiting(), e.Counters(); w != 0 || c.Events != n+1 {
			t.Errorf("%d calls wait, %d events, want 0 and %d", w, c.Events, n+1)
		}
		if _, err := e.Profile(t.Context(), "gone"); !errors.Is(err, fluxly.ErrNotFound) {
			t.Errorf("the call that gave up: %v", err)
		}
	})
}
