package postgres

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/internal/pgtest"
)

// A statement that the database cancels by itself may succeed later; one that
// is cancelled for the caller's context is the end of that context.
func TestStatementTimeout(t *testing.T) {
	t.Parallel()
	cfg, err := pgxpool.ParseConfig(pgtest.URL(t))
	if err != nil {
		t.Fatal(err)
	}
	schema := pgtest.Schema(t)
	_ = openIn(t, schema) // makes it
	cfg.MaxConns = 2
	cfg.ConnConfig.RuntimeParams["statement_timeout"] = "200ms"
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	s, err := Open(t.Context(), pool, Config{Schema: schema})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	// The meter is held by somebody else.
	err = openIn(t, schema).Update(t.Context(), func(tx fluxly.Tx) error {
		if _, err := tx.Meter(t.Context(), "m"); err != nil {
			return err
		}
		calls := 0
		err := s.Update(t.Context(), count(t.Context(), &calls))
		if e, ok := errors.AsType[*Error](err); !ok || !e.Retryable || e.Code != "57014" || !strings.Contains(e.Error(), "statement_timeout") {
			t.Errorf("%#v, want a retryable *Error of code 57014 that names statement_timeout", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithDeadline(t.Context(), time.Unix(0, 0))
	defer cancel()
	err = explain("transaction", inContext(ctx, &pgconn.PgError{Code: "57014"}))
	if _, ok := errors.AsType[*Error](err); ok || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%#v, want context.DeadlineExceeded and no *Error", err)
	}
}

// A transaction of the caller that has ended is a mistake of the program, and
// so is none at all.
func TestCallerTxThatIsNoMore(t *testing.T) {
	t.Parallel()
	pgtest.URL(t)
	s := openMode(t, modeAuto)
	put := func(c fluxly.CallerTx) error {
		return c.Update(t.Context(), func(tx fluxly.Tx) error { return tx.PutProfile(t.Context(), &fluxly.Profile{ID: "p"}) })
	}
	for name, begin := range programs(t) {
		tx, err := begin(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		joined := tx.join()
		if err := tx.rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
		err = put(joined)
		e, ok := errors.AsType[*Error](err)
		if !ok || e.Retryable || e.Op != "begin" || !strings.Contains(e.Error(), "has ended already") {
			t.Errorf("%s: %#v, want an *Error that says so and is not retryable", name, err)
		}
		if !errors.Is(err, pgx.ErrTxClosed) && !errors.Is(err, sql.ErrTxDone) {
			t.Errorf("%s: %v wraps no error of the driver", name, err)
		}
	}
	var typed *pgxpool.Tx
	for name, c := range map[string]fluxly.CallerTx{"Store.Tx": s.Tx(nil), "Store.Tx ": s.Tx(typed), "Store.SQLTx": s.SQLTx(nil)} {
		if err := put(c); err == nil || !strings.Contains(err.Error(), strings.TrimSpace(name)+" was given a nil transaction") {
			t.Errorf("%s(nil): %v, want an error that says so", name, err)
		}
	}
}
