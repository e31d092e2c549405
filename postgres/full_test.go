package postgres

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/internal/pgtest"
)

// fullVariable names a database on a disk of some 64 MB, which a test may fill.
const fullVariable = "FLUXLY_TEST_POSTGRES_FULL"

// On a disk that fills up, each Update either is stored or fails with an error
// that can be told, and everything works again once there is room.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	url := os.Getenv(fullVariable)
	if url == "" {
		t.Skip(fullVariable + " is not set: no PostgreSQL on a small disk to test with")
	}
	ctx := t.Context()
	pool := pgtest.PoolOf(t, url)
	store, err := Open(ctx, pool, Config{Schema: pgtest.SchemaOf(t, url), Migrate: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	// What fills the disk beside the store, and can be taken away.
	if _, err := pool.Exec(ctx, "CREATE TABLE ballast AS SELECT repeat('x', 2000) AS x FROM generate_series(1, 8000)"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = pool.Exec(ctx, "DROP TABLE IF EXISTS ballast") })
	stored := map[string]bool{}
	noise := func() string { // which nothing can make smaller
		var b strings.Builder
		for range 4_000 {
			b.WriteString(rand.Text())
		}
		return b.String()
	}
	put := func(n int) error {
		id := fmt.Sprintf("r%06d", n)
		err := store.Update(ctx, func(tx fluxly.Tx) error {
			return tx.PutRun(ctx, &fluxly.Run{ID: id, ProfileID: "p", StartedAt: time.Unix(int64(n), 0), Reason: noise()})
		})
		if err == nil {
			stored[id] = true
		}
		return err
	}
	n, full := 0, 0
	for ; full < 5; n++ {
		if err := put(n); err != nil {
			full++
			de, ok := errors.AsType[*Error](err)
			if pe, isPG := errors.AsType[*pgconn.PgError](err); !ok || !isPG || pe.Code != "53100" || de.Code != "53100" {
				t.Fatalf("run %d: %v, want an *Error of the code 53100", n, err)
			}
		}
		if n > 100_000 {
			t.Fatal("the disk does not fill up")
		}
	}
	check := func() {
		t.Helper()
		err := store.View(ctx, func(tx fluxly.Tx) error {
			runs, err := tx.Runs(ctx, fluxly.RunQuery{})
			for _, r := range runs {
				if !stored[r.ID] {
					t.Errorf("%s is there, though its Update failed", r.ID)
				}
			}
			if len(runs) != len(stored) {
				t.Errorf("%d runs are there, want %d", len(runs), len(stored))
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
	check()
	if _, err := pool.Exec(ctx, "DROP TABLE ballast"); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		n++
		if err := put(n); err != nil {
			t.Fatalf("with room again: %v", err)
		}
	}
	check()
}
