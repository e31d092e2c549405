package sqlite_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/sqlite"
)

// smallDisk mounts a file system of a few hundred kilobytes.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("a small file system needs root: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	return dir
}

func enlarge(t *testing.T, dir string) {
	t.Helper()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, "size=16m"); err != nil {
		t.Fatal(err)
	}
}

// On a disk that fills up, each Update either is stored or fails with ErrFull,
// and everything works again once there is room.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	dir := smallDisk(t, "2m")
	store, err := sqlite.Open(filepath.Join(dir, "fluxly.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	stored := map[string]bool{}
	put := func(n int) error {
		id := fmt.Sprintf("r%05d", n)
		err := store.Update(ctx, func(tx fluxly.Tx) error {
			return tx.PutRun(ctx, &fluxly.Run{ID: id, ProfileID: "p", StartedAt: time.Unix(int64(n), 0), Reason: string(make([]byte, 500))})
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
			if !errors.Is(err, sqlite.ErrFull) {
				t.Fatalf("run %d: error %v, want ErrFull", n, err)
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
	enlarge(t, dir)
	for range 50 {
		n++
		if err := put(n); err != nil {
			t.Fatalf("with room again: %v", err)
		}
	}
	check()
	if err := errors.Join(store.Check(ctx), store.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestOpenOnAFullDisk(t *testing.T) {
	t.Parallel()
	dir := smallDisk(t, "64k")
	if err := os.WriteFile(filepath.Join(dir, "ballast"), make([]byte, 64<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, left := range []int64{0, 4 << 10, 16 << 10, 32 << 10} {
		if err := os.Truncate(filepath.Join(dir, "ballast"), 64<<10-left); err != nil {
			t.Fatal(err)
		}
		store, err := sqlite.Open(filepath.Join(dir, "fluxly.db"))
		if err == nil {
			_ = store.Close()
			t.Fatalf("Open with %d bytes left gave no error", left)
		}
		open, ok := errors.AsType[*sqlite.OpenError](err)
		if !ok || !errors.Is(err, sqlite.ErrFull) {
			t.Errorf("%d bytes left: error %v, want an *OpenError that is ErrFull", left, err)
			continue
		}
		if open.Path == "" {
			t.Error("the error names no file")
		}
	}
	// With room, what the failed attempts left behind does no harm.
	if err := os.Remove(filepath.Join(dir, "ballast")); err != nil {
		t.Fatal(err)
	}
	enlarge(t, dir)
	store, err := sqlite.Open(filepath.Join(dir, "fluxly.db"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(store.Check(t.Context()), store.Close()); err != nil {
		t.Fatal(err)
	}
}
