package postgres

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib" // a driver
	_ "github.com/lib/pq"              // another driver

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/fluxlytest"
	"github.com/getfluxly/fluxly/internal/pgtest"
)

// theirs is a transaction of a program.
type theirs interface {
	exec(ctx context.Context, sql string) error
	join() fluxly.CallerTx
	commit(ctx context.Context) error
	rollback(ctx context.Context) error
}

// program begins transactions with one driver.
type program func(ctx context.Context, s *Store) (theirs, error)

type sqlTheirs struct {
	*sql.Tx
	s *Store
}

func (t sqlTheirs) exec(ctx context.Context, text string) error {
	_, err := t.ExecContext(ctx, text)
	return err
}
func (t sqlTheirs) join() fluxly.CallerTx          { return t.s.SQLTx(t.Tx) }
func (t sqlTheirs) commit(context.Context) error   { return t.Commit() }
func (t sqlTheirs) rollback(context.Context) error { return t.Rollback() }

type pgxTheirs struct{ pgxPoint }

func (t pgxTheirs) exec(ctx context.Context, text string) error {
	_, err := t.tx.Exec(ctx, text)
	return err
}
func (t pgxTheirs) join() fluxly.CallerTx              { return t.s.Tx(t.tx) }
func (t pgxTheirs) commit(ctx context.Context) error   { return t.tx.Commit(ctx) }
func (t pgxTheirs) rollback(ctx context.Context) error { return t.tx.Rollback(ctx) }

// programs opens one for each driver.
func programs(t *testing.T) map[string]program {
	t.Helper()
	all := map[string]program{"pgx": func(ctx context.Context, s *Store) (theirs, error) {
		tx, err := s.pool.Begin(ctx)
		return pgxTheirs{pgxPoint{pgxDatabase{tx}, s, tx}}, err
	}}
	for name, driver := range map[string]string{"stdlib": "pgx", "pq": "postgres"} {
		url := pgtest.URL(t)
		if driver == "postgres" {
			url = pgtest.WithoutTLS(t)
		}
		db, err := sql.Open(driver, url)
		if err != nil {
			t.Fatal(err)
		}
		db.SetMaxOpenConns(8)
		t.Cleanup(func() { _ = db.Close() })
		all[name] = func(ctx context.Context, s *Store) (theirs, error) {
			tx, err := db.BeginTx(ctx, nil)
			return sqlTheirs{tx, s}, err
		}
	}
	return all
}

// callerStore runs each Update in a transaction of a program.
type callerStore struct {
	*Store
	begin program
}

func (c *callerStore) Update(ctx context.Context, fn func(fluxly.Tx) error) error {
	if c.closed.Load() {
		return fluxly.ErrClosed
	}
	for n := 1; ; n++ {
		err := c.once(ctx, fn)
		if e, ok := errors.AsType[*Error](err); !ok || !e.Retryable || n > attempts || !pause(ctx, n) {
			return err
		}
	}
}

func (c *callerStore) once(ctx context.Context, fn func(fluxly.Tx) error) error {
	tx, err := c.begin(context.WithoutCancel(ctx), c.Store)
	if err != nil {
		return err
	}
	defer func() { _ = tx.rollback(context.WithoutCancel(ctx)) }()
	if err := tx.join().Update(ctx, fn); err != nil {
		return err
	}
	return explain("commit", tx.commit(ctx))
}

// The contract holds in transactions of the program's own too: with one driver,
// because each takes its minute, or with those that FLUXLY_TEST_DRIVERS=all
// adds.
func TestCallerTxStore(t *testing.T) {
	t.Parallel()
	pgtest.URL(t)
	for name, begin := range programs(t) {
		if name != "pq" && os.Getenv("FLUXLY_TEST_DRIVERS") != "all" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fluxlytest.TestStore(t, func(t testing.TB) fluxly.Store { return &callerStore{openMode(t, modeAuto), begin} })
		})
	}
}

// What fails in a caller's transaction leaves it open and stores nothing.
func TestCallerTxSavepoint(t *testing.T) {
	t.Parallel()
	pgtest.URL(t)
	for name, begin := range programs(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, ctx := openMode(t, modeAuto), t.Context()
			tx, err := begin(ctx, s)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = tx.rollback(context.WithoutCancel(ctx)) }()
			table := `"` + s.cfg.Schema + `".orders`
			if err := tx.exec(ctx, "CREATE TABLE "+table+" (n int)"); err != nil {
				t.Fatal(err)
			}
			no := errors.New("no")
			err = tx.join().Update(ctx, func(tx fluxly.Tx) error {
				return errors.Join(tx.PutProfile(ctx, &fluxly.Profile{ID: "p1"}), no)
			})
			if !errors.Is(err, no) {
				t.Errorf("Update: %v, want the error of the function", err)
			}
			err = tx.join().Update(ctx, func(tx fluxly.Tx) error { return tx.PutProfile(ctx, &fluxly.Profile{ID: "p2"}) })
			if err := errors.Join(err, tx.exec(ctx, "INSERT INTO "+table+" VALUES (1)"), tx.commit(ctx)); err != nil {
				t.Fatal(err)
			}
			err = s.View(ctx, func(tx fluxly.Tx) error {
				list, err := tx.Profiles(ctx, "", 9)
				if err == nil && (len(list) != 1 || list[0].ID != "p2") {
					t.Errorf("%d profiles, want p2 alone", len(list))
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		})
	}
}
