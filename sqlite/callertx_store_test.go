package sqlite_test

import (
	"context"
	"database/sql"
	"path/filepath"
	"testing"

	_ "github.com/ncruces/go-sqlite3/driver" // the driver of the caller's connections

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/fluxlytest"
	"github.com/getfluxly/fluxly/sqlite"
)

// openDB opens the program's own connections to a file.
func openDB(t testing.TB, path, options string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite3", "file:"+path+"?"+options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// immediate are the options that the documentation advises.
const immediate = "_txlock=immediate&_pragma=busy_timeout(10000)"

// callerStore writes in transactions of its own connection alone.
type callerStore struct {
	*sqlite.Store
	db *sql.DB
}

func (s *callerStore) Update(ctx context.Context, fn func(fluxly.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	tx, err := s.db.BeginTx(context.WithoutCancel(ctx), nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	if err := s.Tx(tx).Update(ctx, fn); err != nil {
		return err
	}
	return tx.Commit()
}

func openCallerStore(tb testing.TB, path string) *callerStore {
	tb.Helper()
	store, err := sqlite.Open(path)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := store.Close(); err != nil {
			tb.Errorf("Close: %v", err)
		}
	})
	return &callerStore{Store: store, db: openDB(tb, path, immediate)}
}

// The whole contract holds in transactions of the caller's.
func TestTxKeepsTheContract(t *testing.T) {
	t.Parallel()
	fluxlytest.TestStore(t, func(tb testing.TB) fluxly.Store {
		tb.Helper()
		return openCallerStore(tb, filepath.Join(tb.TempDir(), "fluxly.db"))
	})
}
