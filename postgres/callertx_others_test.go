package postgres

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/fluxlytest"
	"github.com/getfluxly/fluxly/internal/pgtest"
)

// In a transaction that reads an old state the engine does nothing at all: it
// would start a run that others have started since.
func TestCallerTxIsolation(t *testing.T) {
	t.Parallel()
	s := openIn(t, pgtest.Schema(t))
	e := newEngine(t, s, &fluxlytest.FakeSender{}, time.Hour)
	db, err := sql.Open("postgres", pgtest.WithoutTLS(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	begin := map[string]func(pgx.TxIsoLevel, sql.IsolationLevel) (fluxly.CallerTx, func() error){
		"pgx": func(level pgx.TxIsoLevel, _ sql.IsolationLevel) (fluxly.CallerTx, func() error) {
			tx, err := s.pool.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: level})
			if err != nil {
				t.Fatal(err)
			}
			return s.Tx(tx), func() error { return tx.Commit(t.Context()) }
		},
		"pq": func(_ pgx.TxIsoLevel, level sql.IsolationLevel) (fluxly.CallerTx, func() error) {
			tx, err := db.BeginTx(t.Context(), &sql.TxOptions{Isolation: level})
			if err != nil {
				t.Fatal(err)
			}
			return s.SQLTx(tx), tx.Commit
		},
	}
	for driver, begin := range begin {
		for _, c := range []struct {
			name string
			pgx  pgx.TxIsoLevel
			sql  sql.IsolationLevel
			ok   bool
		}{
			{"default", "", sql.LevelDefault, true},
			{"read committed", pgx.ReadCommitted, sql.LevelReadCommitted, true},
			{"read uncommitted", pgx.ReadUncommitted, sql.LevelReadUncommitted, true},
			{"repeatable read", pgx.RepeatableRead, sql.LevelRepeatableRead, false},
			{"serializable", pgx.Serializable, sql.LevelSerializable, false},
		} {
			id := driver + " " + c.name
			tx, commit := begin(c.pgx, c.sql)
			err := e.Within(tx).Track(t.Context(), fluxly.Event{Name: "signed_up", ExternalID: id})
			var failed *Error
			switch {
			case c.ok && err != nil:
				t.Errorf("%s: %v", id, err)
			case !c.ok && (!errors.Is(err, ErrIsolation) || !errors.As(err, &failed) || failed.Retryable || !strings.Contains(err.Error(), strings.ToUpper(c.name))):
				t.Errorf("%s: %v, want ErrIsolation, which is not retryable", id, err)
			}
			if err := commit(); err != nil {
				t.Errorf("%s: commit: %v", id, err)
			}
			if _, err := e.Profile(t.Context(), id); (err == nil) != c.ok {
				t.Errorf("%s: after the commit the person is there: %v", id, err)
			}
		}
	}
}

// A name of an event that is new in an open transaction of a program is in
// nobody's way.
func TestCallerTxNewName(t *testing.T) {
	t.Parallel()
	s := openIn(t, pgtest.Schema(t))
	e := newEngine(t, s, &fluxlytest.FakeSender{}, time.Hour)
	tx, err := s.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Within(s.Tx(tx)).Track(t.Context(), fluxly.Event{Name: "brand_new", ExternalID: "u1"}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), lockTimeout/2)
	defer cancel()
	if err := e.Track(ctx, fluxly.Event{Name: "brand_new", ExternalID: "u2"}); err != nil {
		t.Errorf("Track of the same new name: %v", err)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := e.Track(ctx, fluxly.Event{Name: "brand_new", ExternalID: "u1"}); err != nil {
		t.Errorf("after the rollback: %v", err)
	}
}

// onlyConnection is a store whose pool has one connection, an engine on it, and a
// transaction of the program's own that has the connection.
func onlyConnection(t *testing.T) (*Store, *fluxly.Engine, pgx.Tx) {
	t.Helper()
	cfg, err := pgxpool.ParseConfig(pgtest.URL(t))
	if err != nil {
		t.Fatal(err)
	}
	cfg.MaxConns = 1
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	s, err := Open(t.Context(), pool, Config{Schema: pgtest.Schema(t), Migrate: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	e := newEngine(t, s, &fluxlytest.FakeSender{}, time.Hour)
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) })
	return s, e, tx
}

// With every connection of the pool in use the name is given in the program's
// own transaction.
func TestCallerTxNewNameWithoutConnection(t *testing.T) {
	t.Parallel()
	s, e, tx := onlyConnection(t)
	if err := e.Within(s.Tx(tx)).Track(t.Context(), fluxly.Event{Name: "brand_new", ExternalID: "u1"}); err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Profile(t.Context(), "u1"); err != nil {
		t.Error(err)
	}
}

// With every connection of the pool in the program's own transactions a call does
// not wait for ever, though it has no context that ends.
func TestPoolInUse(t *testing.T) {
	t.Parallel()
	_, e, tx := onlyConnection(t)
	done := make(chan error, 1)
	go func() { done <- e.Track(context.Background(), fluxly.Event{Name: "x", ExternalID: "u1"}) }()
	select {
	case err := <-done:
		var failed *Error
		if !errors.Is(err, fluxly.ErrHeld) || !errors.As(err, &failed) || !failed.Retryable || !strings.Contains(err.Error(), "connections of the pool") {
			t.Errorf("Track: %v", err)
		}
	case <-time.After(patience):
		t.Errorf("Track still waits after %s", patience)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := e.Track(t.Context(), fluxly.Event{Name: "x", ExternalID: "u1"}); err != nil {
		t.Errorf("after it: %v", err)
	}
}
