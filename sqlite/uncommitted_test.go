package sqlite_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/sqlite"
)

// taker is a worker that takes each mail off the queue and tells of it.
type taker struct {
	store fluxly.Store
	taken chan string
}

func (w *taker) Now() time.Time { return time.Now() }

func (w *taker) Do(ctx context.Context, _ fluxly.WorkKind, batch []fluxly.Work) error {
	for _, work := range batch {
		if err := w.store.Update(ctx, func(tx fluxly.Tx) error {
			return tx.PutSend(ctx, &fluxly.SendRecord{Key: work.ID, ProfileID: "p", Status: fluxly.SendAccepted})
		}); err != nil {
			return err
		}
		w.taken <- work.ID
	}
	return nil
}

func queue(ctx context.Context, tx fluxly.CallerTx, key string) error {
	return tx.Update(ctx, func(tx fluxly.Tx) error {
		return tx.PutSend(ctx, &fluxly.SendRecord{Key: key, ProfileID: "p", Status: fluxly.SendQueued, DueAt: time.Now()})
	})
}

// What a caller's transaction made due is handed out when it is committed,
// although nothing else happens on the store; also when the store waits for it
// longer than its BusyTimeout.
func TestTxWakesWorkAtItsCommit(t *testing.T) {
	t.Parallel()
	s := newShop(t, sqlite.Config{BusyTimeout: 10 * time.Millisecond})
	ctx, cancel := context.WithCancel(t.Context())
	w := &taker{store: s.store, taken: make(chan string, 100)}
	ended := make(chan error, 1)
	go func() { ended <- s.store.Work(ctx, w) }()
	var want, got []string
	for n := range 10 {
		key := fmt.Sprint("mail", n)
		tx := s.begin(s.db)
		if err := queue(ctx, s.store.Tx(tx), key); err != nil {
			t.Fatal(err)
		}
		if n == 5 {
			// The store has given up once at least.
			err := s.store.Update(ctx, func(fluxly.Tx) error { return nil })
			if !errors.Is(err, sqlite.ErrBusy) {
				t.Fatalf("Update beside the transaction: %v, want ErrBusy", err)
			}
		}
		if n%3 == 2 {
			if err := tx.Rollback(); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := tx.Commit(); err != nil {
			t.Fatal(err)
		}
		want = append(want, key)
		select {
		case first := <-w.taken:
			got = append(got, first)
		case <-time.After(30 * time.Second):
			t.Fatalf("nothing was handed out after the commit of %s", key)
		}
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("Work: %v", err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("handed out (-want +got):\n%s", diff)
	}
}

// Close does not wait for a transaction of the program's own, which goes on
// alone; what it made due is found when the store is opened again.
func TestTxIsOpenAtClose(t *testing.T) {
	t.Parallel()
	s := newShop(t, sqlite.Config{BusyTimeout: time.Hour})
	ctx := t.Context()
	tx := s.begin(s.db)
	if err := queue(ctx, s.store.Tx(tx), "mail"); err != nil {
		t.Fatal(err)
	}
	if err := s.store.Close(); err != nil {
		t.Fatal(err)
	}
	if err := queue(ctx, s.store.Tx(tx), "another"); !errors.Is(err, fluxly.ErrClosed) {
		t.Errorf("Update after Close: %v, want ErrClosed", err)
	}
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	store, err := sqlite.Open(s.path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	if err := store.View(ctx, func(tx fluxly.Tx) error {
		due, _, err := tx.Due(ctx, fluxly.WorkSend, time.Now(), 10)
		if len(due) != 1 || due[0].ID != "mail" {
			t.Errorf("due is %v, want the mail", due)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// An erasure in a caller's transaction leaves no trace once it is committed
// and the store has written next.
func TestTxEraseLeavesNoTrace(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	path := filepath.Join(t.TempDir(), "fluxly.db")
	store := openCallerStore(t, path)
	r := rand.New(rand.NewPCG(11, 11))
	mark := func(i int) string { return fmt.Sprintf("person%03dtrace", i) }
	const people = 10
	for n := 0; n < 200; n += 20 {
		if err := store.Update(ctx, func(tx fluxly.Tx) error {
			for i := range 20 {
				if err := person(ctx, tx, mark(r.IntN(people)), n+i, r); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range people / 2 {
		if traces(t, path, mark(i)) == 0 {
			t.Fatalf("there is no trace of %s before the erasure: the test sees nothing", mark(i))
		}
		if err := store.Update(ctx, func(tx fluxly.Tx) error {
			_, err := tx.EraseProfile(ctx, "pro_"+mark(i), []string{mark(i) + "@acme.test"})
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if err := store.Store.Update(ctx, func(fluxly.Tx) error { return nil }); err != nil {
			t.Fatal(err)
		}
		if n := traces(t, path, mark(i)); n != 0 {
			t.Errorf("%d traces of %s are left", n, mark(i))
		}
	}
}
