package fluxly

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestMemoryStoreTakesBackAFailedUpdate(t *testing.T) {
	t.Parallel()
	store := NewMemoryStore()
	ctx := context.Background()
	broken := errors.New("broken")
	write := func(tx Tx) error {
		return errors.Join(
			tx.PutProfile(ctx, &Profile{ID: "p1", ExternalIDs: []string{"u1"}, CreatedAt: time.Unix(1, 0)}),
			tx.PutRun(ctx, &Run{ID: "r1", ProfileID: "p1", Status: RunLive, StartedAt: time.Unix(1, 0), WakeAt: time.Unix(9, 0)}),
		)
	}
	look := func(tx Tx) error {
		found, err := tx.FindProfiles(ctx, []Identifier{{ExternalID, "u1"}})
		if err != nil || len(found) != 0 {
			t.Errorf("profiles %v, error %v; want none", found, err)
		}
		due, next, err := tx.Due(ctx, WorkWake, time.Unix(99, 0), 9)
		if err != nil || len(due) != 0 || !next.IsZero() {
			t.Errorf("due %v, next %v, error %v; want none", due, next, err)
		}
		return nil
	}
	if err := store.Update(ctx, func(tx Tx) error { return errors.Join(write(tx), broken) }); !errors.Is(err, broken) {
		t.Fatalf("error %v, want the one of the function", err)
	}
	if err := store.View(ctx, look); err != nil {
		t.Fatal(err)
	}
	func() {
		defer func() { _ = recover() }()
		_ = store.Update(ctx, func(tx Tx) error { _ = write(tx); panic("boom") })
	}()
	if err := store.View(ctx, look); err != nil {
		t.Fatal(err)
	}
}

// wakeOnce is a worker that ends each run it is handed.
type wakeOnce struct {
	store Store
	woken chan Work
}

func (w wakeOnce) Now() time.Time { return time.Now() }

func (w wakeOnce) Do(ctx context.Context, _ WorkKind, batch []Work) error {
	return w.store.Update(ctx, func(tx Tx) error {
		for _, piece := range batch {
			if err := tx.PutRun(ctx, &Run{ID: piece.ID, ProfileID: "p1", Status: RunCompleted}); err != nil {
				return err
			}
			w.woken <- piece
		}
		return nil
	})
}

func TestMemoryStoreWakesWhenDue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := NewMemoryStore()
		ctx, cancel := context.WithCancel(t.Context())
		w := wakeOnce{store: store, woken: make(chan Work, 9)}
		ended := make(chan error, 1)
		go func() { ended <- store.Work(ctx, w) }()
		start := time.Now()
		for _, d := range []time.Duration{400 * 24 * time.Hour, time.Hour} {
			err := store.Update(ctx, func(tx Tx) error {
				return tx.PutRun(ctx, &Run{ID: d.String(), ProfileID: "p1", Status: RunLive, Pending: PendingTimer, WakeAt: start.Add(d)})
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		for _, want := range []time.Duration{time.Hour, 400 * 24 * time.Hour} {
			if got := <-w.woken; got.ID != want.String() || time.Since(start) != want {
				t.Fatalf("woken %+v after %v, want %v", got, time.Since(start), want)
			}
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Fatalf("Work returned %v", err)
		}
	})
}
