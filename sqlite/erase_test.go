package sqlite_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/sqlite"
)

// person writes what the engine keeps about somebody; every text holds mark.
func person(ctx context.Context, tx fluxly.Tx, mark string, n int, r *rand.Rand) error {
	now := time.Unix(1_700_000_000, 0).Add(time.Duration(n) * time.Second)
	profile := "pro_" + mark
	long := strings.Repeat(mark+" ", 1+r.IntN(900)) // some spill over into pages of their own
	properties := fluxly.Properties{"note": long, "to": mark + "@acme.test"}
	_, _, err := tx.PutEvent(ctx, &fluxly.StoredEvent{
		MessageID: fmt.Sprint("msg_", mark, n), ProfileID: profile, Name: "noted", OccurredAt: now, ReceivedAt: now, Properties: properties,
	})
	run := fmt.Sprint("run_", mark, n%3)
	return errors.Join(
		err,
		tx.PutProfile(ctx, &fluxly.Profile{
			ID: profile, ExternalIDs: []string{"ext_" + mark}, AnonymousIDs: []string{fmt.Sprint("anon_", mark, n%2)},
			Traits: fluxly.Traits{"email": mark + "@acme.test", "about": long}, CreatedAt: now,
		}),
		tx.PutMembership(ctx, &fluxly.Membership{ProfileID: profile, Segment: "s", CheckAt: now}),
		tx.PutRun(ctx, &fluxly.Run{
			ID: run, ProfileID: profile, Automation: "trial", Key: "key_" + mark, Status: fluxly.RunLive,
			StartedAt: now, WakeAt: now, Entry: fluxly.EntryEvent{Properties: properties}, Results: map[string]any{"r": mark},
		}),
		tx.AppendLog(ctx, []fluxly.LogEntry{{RunID: run, Seq: n, At: now, Detail: map[string]any{"v": mark}}}),
		tx.PutSend(ctx, &fluxly.SendRecord{
			Key: fmt.Sprint("send_", mark, n%3), RunID: run, ProfileID: profile, To: mark + "@acme.test", Body: []byte(long),
			Status: fluxly.SendQueued, QueuedAt: now, DueAt: now,
		}),
		tx.PutSuppression(ctx, &fluxly.Suppression{Address: mark + "@acme.test", Reason: "HardBounce", At: now}),
	)
}

// After an erasure no byte of the file, of its WAL or of the lock file tells
// that the person was there, also where rows moved between pages before.
func TestEraseLeavesNoTrace(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	path := filepath.Join(t.TempDir(), "fluxly.db")
	store, err := sqlite.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	const people, writes = 40, 1_200
	r := rand.New(rand.NewPCG(7, 7))
	mark := func(i int) string { return fmt.Sprintf("person%03dtrace", i) }
	for n := 0; n < writes; n += 20 {
		err := store.Update(ctx, func(tx fluxly.Tx) error {
			for i := range 20 {
				if err := person(ctx, tx, mark(r.IntN(people)), n+i, r); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	// A reader that has just been at work has its pages, not the file's.
	if err := store.View(ctx, func(tx fluxly.Tx) error { _, err := tx.Runs(ctx, fluxly.RunQuery{}); return err }); err != nil {
		t.Fatal(err)
	}
	if found := traces(t, path, mark(0)); found == 0 {
		t.Fatal("the file holds no trace before the erasure: the test sees nothing")
	}
	for i := range people / 2 {
		err := store.Update(ctx, func(tx fluxly.Tx) error {
			_, err := tx.EraseProfile(ctx, "pro_"+mark(i), []string{mark(i) + "@ACME.test"})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if found := traces(t, path, mark(i)); found != 0 {
			t.Errorf("%d traces of %s in the files", found, mark(i))
		}
	}
	for i := people / 2; i < people; i++ {
		if traces(t, path, mark(i)) == 0 {
			t.Errorf("no trace of %s, who was not erased", mark(i))
		}
	}
	if err := store.Check(ctx); err != nil {
		t.Error(err)
	}
}

// A view that is at work during an erasure holds the WAL; its end wipes.
func TestEraseWaitsForReaders(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	path := filepath.Join(t.TempDir(), "fluxly.db")
	store, err := sqlite.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	const mark = "lonelytrace"
	r := rand.New(rand.NewPCG(1, 1))
	if err := store.Update(ctx, func(tx fluxly.Tx) error { return person(ctx, tx, mark, 1, r) }); err != nil {
		t.Fatal(err)
	}
	reading, erased, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- store.View(ctx, func(tx fluxly.Tx) error {
			_, err := tx.Profile(ctx, "pro_"+mark)
			close(reading)
			<-erased
			p, err2 := tx.Profile(ctx, "pro_"+mark)
			if p == nil {
				t.Error("the view lost what it had seen")
			}
			return errors.Join(err, err2)
		})
	}()
	<-reading
	err = store.Update(ctx, func(tx fluxly.Tx) error {
		_, err := tx.EraseProfile(ctx, "pro_"+mark, []string{mark + "@acme.test"})
		return err
	})
	close(erased)
	if err := errors.Join(err, <-ended); err != nil {
		t.Fatal(err)
	}
	if found := traces(t, path, mark); found != 0 {
		t.Errorf("%d traces in the files after the last view", found)
	}
}

// traces counts where text stands in the files of a store.
func traces(t *testing.T, path, text string) (found int) {
	t.Helper()
	files, err := filepath.Glob(path + "*")
	if err != nil || len(files) < 3 {
		t.Fatalf("files %v: %v", files, err)
	}
	for _, name := range files {
		raw, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		found += bytes.Count(raw, []byte(text))
	}
	return found
}

// A process that is killed after an erasure, while a view kept it from wiping,
// leaves traces in the WAL; the next Open wipes them.
func TestEraseIsWipedAfterACrash(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	path := filepath.Join(t.TempDir(), "fluxly.db")
	killed := filepath.Join(t.TempDir(), "fluxly.db")
	store, err := sqlite.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	const mark = "crashtrace"
	r := rand.New(rand.NewPCG(3, 3))
	if err := store.Update(ctx, func(tx fluxly.Tx) error { return person(ctx, tx, mark, 1, r) }); err != nil {
		t.Fatal(err)
	}
	reading, copied, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- store.View(ctx, func(tx fluxly.Tx) error {
			_, err := tx.Profile(ctx, "pro_"+mark)
			close(reading)
			<-copied
			return err
		})
	}()
	<-reading
	err = store.Update(ctx, func(tx fluxly.Tx) error {
		_, err := tx.EraseProfile(ctx, "pro_"+mark, []string{mark + "@acme.test"})
		return err
	})
	for _, end := range []string{"", "-wal"} {
		raw, readErr := os.ReadFile(path + end)
		err = errors.Join(err, readErr, os.WriteFile(killed+end, raw, 0o600))
	}
	close(copied)
	if err := errors.Join(err, <-ended); err != nil {
		t.Fatal(err)
	}
	again, err := sqlite.Open(killed)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = again.Close() })
	if found := traces(t, killed, mark); found != 0 {
		t.Errorf("%d traces in the files after Open", found)
	}
	for i := range 5 {
		if err := again.Update(ctx, func(tx fluxly.Tx) error { return person(ctx, tx, "other", i, r) }); err != nil {
			t.Fatal(err)
		}
	}
	if found := traces(t, killed, mark); found != 0 {
		t.Errorf("%d traces in the files after further writes", found)
	}
}
