package sqlite_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/fluxlytest"
	"github.com/getfluxly/fluxly/sqlite"
)

// shop is a program with an engine and a table of its own in one file.
type shop struct {
	t     *testing.T
	path  string
	store *sqlite.Store
	kit   *fluxlytest.Kit
	db    *sql.DB
}

func newShop(t *testing.T, cfg sqlite.Config) *shop {
	t.Helper()
	s := &shop{t: t, path: filepath.Join(t.TempDir(), "fluxly.db")}
	store, err := sqlite.OpenConfig(s.path, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	s.store = store
	s.kit = fluxlytest.NewConfig(t, fluxly.Config{
		Store:    store,
		Segments: []fluxly.Segment{{Name: "buyers", Where: fluxly.Did("ordered").AtLeast(1)}},
		Automations: []fluxly.Automation{{
			Name: "receipt", Trigger: fluxly.On("ordered"), ReEntry: fluxly.Always(),
			Steps: fluxly.Steps{fluxly.Send("thanks"), fluxly.Wait(3 * fluxly.Day), fluxly.Send("review")},
		}},
	})
	s.db = openDB(t, s.path, immediate)
	s.exec(s.db, "CREATE TABLE orders (id INTEGER PRIMARY KEY, person TEXT NOT NULL)")
	return s
}

// execer is a *sql.DB or a *sql.Tx.
type execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

func (s *shop) exec(on execer, query string, args ...any) {
	s.t.Helper()
	if _, err := on.ExecContext(s.t.Context(), query, args...); err != nil {
		s.t.Fatalf("%s: %v", query, err)
	}
}

func (s *shop) begin(db *sql.DB) *sql.Tx {
	s.t.Helper()
	tx, err := db.BeginTx(s.t.Context(), nil)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = tx.Rollback() })
	return tx
}

func (s *shop) count(on execer, query string, args ...any) (n int) {
	s.t.Helper()
	if err := on.QueryRowContext(s.t.Context(), query, args...).Scan(&n); err != nil {
		s.t.Fatalf("%s: %v", query, err)
	}
	return n
}

func (s *shop) dump() []string {
	s.t.Helper()
	d, err := fluxlytest.Dump(s.t.Context(), s.store)
	if err != nil {
		s.t.Fatal(err)
	}
	return strings.Split(d, "\n")
}

func ordered(person string) fluxly.Event {
	return fluxly.Event{Name: "ordered", ExternalID: person}
}

func address(person string) fluxly.Identity {
	return fluxly.Identity{ExternalID: person, Traits: fluxly.Traits{"email": person + "@acme.test"}}
}

// All that an event leads to is committed with the program's own row, or
// nothing of it.
func TestTxIsWholeOrNothing(t *testing.T) {
	t.Parallel()
	s := newShop(t, sqlite.Config{})
	ctx := t.Context()
	if err := s.kit.Engine.Identify(ctx, address("ann")); err != nil {
		t.Fatal(err)
	}
	before := s.dump()
	for _, commit := range []bool{false, true} {
		tx := s.begin(s.db)
		s.exec(tx, "INSERT INTO orders (person) VALUES ('ann')")
		within := s.kit.Engine.Within(s.store.Tx(tx))
		if err := within.Track(ctx, ordered("ann")); err != nil {
			t.Fatal(err)
		}
		if member, err := within.InSegment(ctx, "ann", "buyers"); err != nil || !member {
			t.Errorf("InSegment within: %v, %v; want true", member, err)
		}
		if diff := cmp.Diff(before, s.dump()); diff != "" {
			t.Errorf("seen before the transaction has ended (-before +now):\n%s", diff)
		}
		if commit {
			if err := tx.Commit(); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := tx.Rollback(); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(before, s.dump()); diff != "" {
			t.Errorf("left by a rollback (-before +after):\n%s", diff)
		}
		s.kit.Settle()
		if n := s.kit.Sender.Calls(); n != 0 {
			t.Errorf("%d mails were handed over after a rollback", n)
		}
	}
	if member, err := s.kit.Engine.InSegment(ctx, "ann", "buyers"); err != nil || !member {
		t.Errorf("InSegment: %v, %v; want true", member, err)
	}
	s.kit.Settle()
	s.kit.WantSent("ann", "thanks")
	s.kit.Advance(3 * fluxly.Day)
	s.kit.WantSent("ann", "thanks", "review")
	if n := s.count(s.db, "SELECT count(*) FROM orders"); n != 1 {
		t.Errorf("%d orders, want 1", n)
	}
}

var errOnPurpose = errors.New("failed on purpose")

// An Update that fails or panics takes back its own writes alone.
func TestTxGoesOnAfterAFailedUpdate(t *testing.T) {
	t.Parallel()
	s := newShop(t, sqlite.Config{})
	ctx := t.Context()
	tx := s.begin(s.db)
	caller := s.store.Tx(tx)
	put := func(id string, then func() error) error {
		return caller.Update(ctx, func(tx fluxly.Tx) error {
			return errors.Join(tx.PutRun(ctx, &fluxly.Run{ID: id, ProfileID: "p", StartedAt: fluxlytest.Start}), then())
		})
	}
	s.exec(tx, "INSERT INTO orders (person) VALUES ('ann')")
	for id, then := range map[string]func() error{
		"kept":   func() error { return nil },
		"failed": func() error { return errOnPurpose },
		"panics": func() error { panic(errOnPurpose) },
	} {
		func() {
			defer func() {
				if r := recover(); (r != nil) != (id == "panics") {
					t.Errorf("%s: recovered %v", id, r)
				}
			}()
			if err := put(id, then); (err != nil) != (id == "failed") {
				t.Errorf("%s: %v", id, err)
			}
		}()
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if err := caller.Update(ended, func(fluxly.Tx) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: %v", err)
	}
	s.exec(tx, "INSERT INTO orders (person) VALUES ('bob')")
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	var ids []string
	if err := s.store.View(ctx, func(tx fluxly.Tx) error {
		runs, err := tx.Runs(ctx, fluxly.RunQuery{})
		for _, r := range runs {
			ids = append(ids, r.ID)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"kept"}, ids); diff != "" {
		t.Errorf("runs (-want +got):\n%s", diff)
	}
	if n := s.count(s.db, "SELECT count(*) FROM orders"); n != 2 {
		t.Errorf("%d orders, want 2", n)
	}
}

// The store and callers write by turns: neither believes what it remembers
// when the other has written.
func TestTxAndUpdateSeeEachOther(t *testing.T) {
	t.Parallel()
	s := newShop(t, sqlite.Config{})
	ctx := t.Context()
	var seqs []int64
	write := func(n int, erase bool) func(tx fluxly.Tx) error {
		return func(tx fluxly.Tx) error {
			found, err := tx.FindProfiles(ctx, []fluxly.Identifier{{Kind: fluxly.ExternalID, Value: "ann"}})
			if err != nil {
				return err
			}
			p := &fluxly.Profile{ID: "p", ExternalIDs: []string{"ann"}, Traits: fluxly.Traits{"n": int64(0)}, CreatedAt: fluxlytest.Start}
			if len(found) > 0 {
				p = found[0]
			}
			if got := p.Traits["n"]; got != int64(n) {
				return fmt.Errorf("trait n is %v before write %d", got, n)
			}
			p.Traits["n"] = int64(n + 1)
			if err := tx.PutProfile(ctx, p); err != nil {
				return err
			}
			e := &fluxly.StoredEvent{MessageID: fmt.Sprint("m", n), ProfileID: "p", Name: "noted", OccurredAt: fluxlytest.Start, ReceivedAt: fluxlytest.Start}
			if _, _, err := tx.PutEvent(ctx, e); err != nil {
				return err
			}
			seqs = append(seqs, e.Seq)
			if erase { // the highest Seq goes, and is not given again
				other := &fluxly.StoredEvent{MessageID: fmt.Sprint("other", n), ProfileID: "other", Name: "noted", OccurredAt: fluxlytest.Start, ReceivedAt: fluxlytest.Start}
				if _, _, err := tx.PutEvent(ctx, other); err != nil {
					return err
				}
				seqs = append(seqs, other.Seq)
				_, err = tx.EraseProfile(ctx, "other", nil)
			}
			return err
		}
	}
	for n := range 40 {
		if n%3 == 0 { // the store's own
			if err := s.store.Update(ctx, write(n, n%2 == 0)); err != nil {
				t.Fatal(err)
			}
			continue
		}
		tx := s.begin(s.db)
		if n%5 == 0 { // one that is rolled back does not count
			kept := len(seqs)
			if err := s.store.Tx(tx).Update(ctx, write(n, true)); err != nil {
				t.Fatal(err)
			}
			seqs = seqs[:kept]
			if err := tx.Rollback(); err != nil {
				t.Fatal(err)
			}
			tx = s.begin(s.db)
		}
		if err := s.store.Tx(tx).Update(ctx, write(n, n%4 == 0)); err != nil {
			t.Fatal(err)
		}
		if err := tx.Commit(); err != nil {
			t.Fatal(err)
		}
	}
	for i := 1; i < len(seqs); i++ {
		if seqs[i] <= seqs[i-1] {
			t.Fatalf("Seq %d was given after %d", seqs[i], seqs[i-1])
		}
	}
}

// Texts that look like times come back as they were, whatever a driver makes
// of them on the way.
func TestTxKeepsTextsThatLookLikeTimes(t *testing.T) {
	t.Parallel()
	s := newShop(t, sqlite.Config{})
	ctx := t.Context()
	tx := s.begin(s.db)
	caller := s.store.Tx(tx)
	for _, text := range []string{"2026-03-02T09:00:00Z", "2026-03-02T09:00:00.123456789+02:00", "2026-03-02 09:00:00", "2026-03-02"} {
		late := time.Date(2400, 1, 2, 3, 4, 5, 123456789, time.UTC)
		want := &fluxly.StoredEvent{
			MessageID: text, ProfileID: text, Name: "noted", OccurredAt: late, ReceivedAt: late, Properties: fluxly.Properties{"at": text},
		}
		if err := caller.Update(ctx, func(tx fluxly.Tx) error { _, _, err := tx.PutEvent(ctx, want); return err }); err != nil {
			t.Fatal(err)
		}
		var got *fluxly.StoredEvent
		if err := caller.Update(ctx, func(tx fluxly.Tx) (err error) {
			got, err = tx.EventByMessageID(ctx, text)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}

// A transaction that cannot be joined is refused before anything is written.
func TestTxRefuses(t *testing.T) {
	t.Parallel()
	open := func(t *testing.T, s *shop) *sql.Tx { t.Helper(); return s.begin(s.db) }
	for _, c := range []struct {
		name string
		tx   func(t *testing.T, s *shop) *sql.Tx
		want error
		says string
	}{
		{"none", func(*testing.T, *shop) *sql.Tx { return nil }, nil, "it is nil"},
		{"another file", func(t *testing.T, s *shop) *sql.Tx {
			t.Helper()
			db := openDB(t, filepath.Join(t.TempDir(), "other.db"), immediate)
			return s.begin(db)
		}, sqlite.ErrOtherDatabase, "other.db"},
		{"the store of another", func(t *testing.T, s *shop) *sql.Tx {
			t.Helper()
			return open(t, newShop(t, sqlite.Config{}))
		}, sqlite.ErrOtherDatabase, "fluxly.db"},
		{"in memory", func(t *testing.T, s *shop) *sql.Tx {
			t.Helper()
			return s.begin(openDB(t, ":memory:", ""))
		}, sqlite.ErrOtherDatabase, "in memory"},
		{"another schema", func(t *testing.T, s *shop) *sql.Tx {
			t.Helper()
			s.exec(s.db, "PRAGMA user_version = 77")
			return open(t, s)
		}, sqlite.ErrOtherDatabase, "user_version 77"},
		{"closed store", func(t *testing.T, s *shop) *sql.Tx {
			t.Helper()
			tx := open(t, s)
			if err := s.store.Close(); err != nil {
				t.Fatal(err)
			}
			return tx
		}, fluxly.ErrClosed, "the store is closed"},
		{"committed", func(t *testing.T, s *shop) *sql.Tx {
			t.Helper()
			tx := open(t, s)
			if err := tx.Commit(); err != nil {
				t.Fatal(err)
			}
			return tx
		}, fluxly.ErrClosed, "it has ended"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newShop(t, sqlite.Config{})
			tx := c.tx(t, s)
			err := s.store.Tx(tx).Update(t.Context(), func(fluxly.Tx) error {
				t.Error("the function was called")
				return nil
			})
			refused, ok := errors.AsType[*sqlite.TxError](err)
			if !ok {
				t.Fatalf("error %v, want a *TxError", err)
			}
			if c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("error %v, want one that is %v", err, c.want)
			}
			if refused.Path != s.path || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %q, want %q in it, on %q", err, c.says, s.path)
			}
		})
	}
}

// Within one call it does not matter how the path is written.
func TestTxByAnotherPath(t *testing.T) {
	t.Parallel()
	s := newShop(t, sqlite.Config{})
	db := openDB(t, filepath.Join(filepath.Dir(s.path), ".", "x", "..", "fluxly.db"), immediate)
	tx := s.begin(db)
	if err := s.store.Tx(tx).Update(t.Context(), func(fluxly.Tx) error { return nil }); err != nil {
		t.Error(err)
	}
}

// A call of the engine itself inside the transaction would wait for it: it
// fails, says what to do, and the transaction goes on.
func TestTxTrackOutsideOfWithin(t *testing.T) {
	t.Parallel()
	s := newShop(t, sqlite.Config{BusyTimeout: 20 * time.Millisecond})
	ctx := t.Context()
	tx := s.begin(s.db)
	within := s.kit.Engine.Within(s.store.Tx(tx))
	if err := within.Track(ctx, ordered("ann")); err != nil {
		t.Fatal(err)
	}
	err := s.kit.Engine.Track(ctx, ordered("ann"))
	if !errors.Is(err, sqlite.ErrBusy) || !strings.Contains(err.Error(), "Engine.Within") {
		t.Errorf("Track: %v; want ErrBusy that names Engine.Within", err)
	}
	if err := within.Track(ctx, ordered("ann")); err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := s.kit.Engine.Track(ctx, ordered("ann")); err != nil {
		t.Errorf("after the commit: %v", err)
	}
	if n := s.count(s.db, "SELECT count(*) FROM events"); n != 3 {
		t.Errorf("%d events, want 3", n)
	}
}

// A transaction that began by reading cannot write when another has written
// since, and says how to begin instead.
func TestTxThatReadFirst(t *testing.T) {
	t.Parallel()
	s := newShop(t, sqlite.Config{})
	ctx := t.Context()
	tx := s.begin(openDB(t, s.path, "_txlock=deferred&_pragma=busy_timeout(10000)"))
	if n := s.count(tx, "SELECT count(*) FROM orders"); n != 0 {
		t.Fatalf("%d orders", n)
	}
	if err := s.kit.Engine.Track(ctx, ordered("ann")); err != nil {
		t.Fatal(err)
	}
	err := s.kit.Engine.Within(s.store.Tx(tx)).Track(ctx, ordered("ann"))
	_, ok := errors.AsType[*sqlite.TxError](err)
	if !ok || !errors.Is(err, sqlite.ErrBusy) || !strings.Contains(err.Error(), "_txlock=immediate") {
		t.Errorf("Track: %v; want a *TxError that is ErrBusy and names _txlock=immediate", err)
	}
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
}

// Many goroutines track, some by transactions of their own that are committed
// or rolled back.
func TestTxBesideTrack(t *testing.T) {
	t.Parallel()
	s := newShop(t, sqlite.Config{BusyTimeout: time.Minute})
	ctx := t.Context()
	const workers, calls = 6, 20
	var all sync.WaitGroup
	for w := range workers {
		all.Go(func() {
			person := fmt.Sprint("user", w/2) // two share one
			for n := range calls {
				if w%2 == 0 {
					if err := s.kit.Engine.Track(ctx, ordered(person)); err != nil {
						t.Error(err)
					}
					continue
				}
				tx, err := s.db.BeginTx(ctx, nil)
				if err != nil {
					t.Error(err)
					return
				}
				_, err = tx.ExecContext(ctx, "INSERT INTO orders (person) VALUES (?)", person)
				err = errors.Join(err, s.kit.Engine.TrackTx(ctx, s.store.Tx(tx), ordered(person)))
				if n%4 == 3 {
					err = errors.Join(err, tx.Rollback())
				} else {
					err = errors.Join(err, tx.Commit())
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	want := map[string]int{"orders": workers / 2 * calls * 3 / 4}
	want["events"] = want["orders"] + workers/2*calls
	want["runs"] = workers / 2 // each person has one that is live
	want["highest seq"] = want["events"]
	got := map[string]int{
		"orders":      s.count(s.db, "SELECT count(*) FROM orders"),
		"events":      s.count(s.db, "SELECT count(*) FROM events"),
		"runs":        s.count(s.db, "SELECT count(*) FROM runs"),
		"highest seq": s.count(s.db, "SELECT max(seq) FROM events"),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("rows (-want +got):\n%s", diff)
	}
}
