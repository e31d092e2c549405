package sqlite

import (
	"errors"
	"path/filepath"
	"slices"
	"testing"

	"github.com/getfluxly/fluxly"
)

func TestMigrationsAreAppliedOnRequestOnly(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	path := filepath.Join(t.TempDir(), "fluxly.db")
	store, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	err = store.Update(ctx, func(tx fluxly.Tx) error {
		return tx.PutSuppression(ctx, &fluxly.Suppression{Address: "ann@acme.test"})
	})
	if err := errors.Join(err, store.Close()); err != nil {
		t.Fatal(err)
	}
	// Up to date: nothing to do.
	if err := Migrate(ctx, path); err != nil {
		t.Fatal(err)
	}
	newer := append(slices.Clone(migrations), "ALTER TABLE suppressions ADD COLUMN note TEXT;", "CREATE TABLE later (id INTEGER) STRICT;")
	if _, err := open(path, Config{}, newer); !errors.Is(err, ErrMigrate) {
		t.Fatalf("error %v, want ErrMigrate", err)
	}
	// A step that fails changes nothing.
	broken := append(slices.Clone(migrations), "CREATE TABLE half (id INTEGER) STRICT; SELECT nonsense FROM nowhere;")
	if _, err := open(path, Config{Migrate: true}, broken); err == nil {
		t.Fatal("a migration that fails gives no error")
	}
	store, err = open(path, Config{Migrate: true}, newer)
	if err != nil {
		t.Fatal(err)
	}
	c := <-store.writer
	version, err := c.pragma("user_version")
	if err != nil || version != int64(len(newer)-1) {
		t.Errorf("version %d, %v; want %d", version, err, len(newer)-1)
	}
	for _, sql := range []string{"SELECT note FROM suppressions", "SELECT id FROM later"} {
		if err := c.run(sql); err != nil {
			t.Errorf("%s: %v", sql, err)
		}
	}
	if err := c.run("SELECT id FROM half"); err == nil {
		t.Error("a part of a failed migration is there")
	}
	store.writer <- c
	err = store.View(ctx, func(tx fluxly.Tx) error {
		s, err := tx.Suppression(ctx, "ann@acme.test", "")
		if s == nil {
			t.Error("a row is gone after the migration")
		}
		return err
	})
	if err := errors.Join(err, store.Close()); err != nil {
		t.Fatal(err)
	}
	// This program is the older one now.
	if _, err := Open(path); !errors.Is(err, ErrNewerVersion) {
		t.Errorf("error %v, want ErrNewerVersion", err)
	}
	if err := Migrate(ctx, filepath.Join(t.TempDir(), "none.db")); err == nil {
		t.Error("a migration of no file gives no error")
	}
}

// A file is made whole or not at all: what stopped in the middle of it leaves
// nothing that a later start would take for a store of an older version.
func TestNewFileIsMadeWhole(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "fluxly.db")
	stops := append(slices.Clone(migrations), "SELECT nonsense FROM nowhere;")
	if _, err := open(path, Config{}, stops); err == nil {
		t.Fatal("a step that fails gives no error")
	}
	store, err := open(path, Config{}, append(slices.Clone(migrations), "CREATE TABLE later (id INTEGER) STRICT;"))
	if err != nil {
		t.Fatalf("the next start: %v", err)
	}
	if err := errors.Join(store.Check(t.Context()), store.Close()); err != nil {
		t.Fatal(err)
	}
}

// When there is no room, the transaction is rolled back, and the store goes on
// once there is room.
func TestFullStore(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	store, err := Open(filepath.Join(t.TempDir(), "fluxly.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	put := func(id string, size int) error {
		return store.Update(ctx, func(tx fluxly.Tx) error {
			return tx.PutSend(ctx, &fluxly.SendRecord{Key: id, Body: make([]byte, size)})
		})
	}
	room := func(pages string) {
		t.Helper()
		c := <-store.writer
		defer func() { store.writer <- c }()
		if err := c.db.Exec("PRAGMA max_page_count = " + pages); err != nil {
			t.Fatal(err)
		}
	}
	if err := put("before", 10); err != nil {
		t.Fatal(err)
	}
	room("60")
	for range 2 {
		if err := put("big", 1<<20); !errors.Is(err, ErrFull) {
			t.Fatalf("error %v, want ErrFull", err)
		}
	}
	// A function that goes on after the error commits nothing.
	err = store.Update(ctx, func(tx fluxly.Tx) error {
		_ = tx.PutSend(ctx, &fluxly.SendRecord{Key: "big", Body: make([]byte, 1<<20)})
		_ = tx.PutSend(ctx, &fluxly.SendRecord{Key: "small"})
		return nil
	})
	if !errors.Is(err, ErrFull) {
		t.Fatalf("error %v, want ErrFull", err)
	}
	room("1000000")
	if err := put("after", 1<<20); err != nil {
		t.Fatal(err)
	}
	err = store.View(ctx, func(tx fluxly.Tx) error {
		list, err := tx.Sends(ctx, fluxly.SendQuery{})
		if len(list) != 2 || list[0].Key != "after" || list[1].Key != "before" {
			t.Errorf("%d mails, want the one before and the one after", len(list))
		}
		return err
	})
	if err := errors.Join(err, store.Check(ctx)); err != nil {
		t.Fatal(err)
	}
}
