package sqlite_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/sqlite"
)

// write makes a file in a new folder and returns its path.
func write(t *testing.T, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fluxly.db")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// filled makes a store file with some thousand rows.
func filled(t *testing.T) string {
	t.Helper()
	ctx := t.Context()
	path := filepath.Join(t.TempDir(), "fluxly.db")
	store, err := sqlite.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	err = store.Update(ctx, func(tx fluxly.Tx) error {
		for i := range 2_000 {
			r := &fluxly.Run{
				ID: fmt.Sprintf("r%05d", i), ProfileID: fmt.Sprintf("p%05d", i), Automation: "trial", Status: fluxly.RunLive,
				StartedAt: time.Unix(int64(i), 0), WakeAt: time.Unix(int64(i), 0),
			}
			if err := tx.PutRun(ctx, r); err != nil {
				return err
			}
		}
		return nil
	})
	if err := errors.Join(err, store.Close()); err != nil {
		t.Fatal(err)
	}
	return path
}

// patch overwrites bytes of a file.
func patch(t *testing.T, path string, offset int, with []byte) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	copy(raw[offset:], with)
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		path func(*testing.T) string
		want error  // nil when no sentinel fits
		text string // what the error says
	}{
		{"empty path", func(*testing.T) string { return "" }, nil, "name a file"},
		{"memory", func(*testing.T) string { return ":memory:" }, nil, "NewMemoryStore"},
		{"URI", func(*testing.T) string { return "file:x.db?mode=ro" }, nil, "not a URI"},
		{"a folder", (*testing.T).TempDir, nil, "it is a folder"},
		{"no folder", func(t *testing.T) string {
			t.Helper()
			return filepath.Join(t.TempDir(), "none", "fluxly.db")
		}, nil, "create it first"},
		{"a file for a folder", func(t *testing.T) string {
			t.Helper()
			return filepath.Join(write(t, nil), "fluxly.db")
		}, nil, "folder"},
		{"a device", func(*testing.T) string { return os.DevNull }, nil, "not a regular file"},
		{"a read-only file", func(t *testing.T) string {
			t.Helper()
			path := filled(t)
			if err := os.Chmod(path, 0o400); err != nil {
				t.Fatal(err)
			}
			return path
		}, sqlite.ErrReadOnly, "make it writable"},
		{"a read-only folder", func(t *testing.T) string {
			t.Helper()
			path := filled(t)
			folder := filepath.Dir(path)
			if err := os.Chmod(folder, 0o500); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.Chmod(folder, 0o700) })
			return path
		}, sqlite.ErrReadOnly, "folder is read-only"},
		{"a new file in a read-only folder", func(t *testing.T) string {
			t.Helper()
			folder := t.TempDir()
			if err := os.Chmod(folder, 0o500); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.Chmod(folder, 0o700) })
			return filepath.Join(folder, "fluxly.db")
		}, sqlite.ErrReadOnly, "folder is read-only"},
		{"text", func(t *testing.T) string {
			t.Helper()
			return write(t, bytes.Repeat([]byte("this is not a database\n"), 100))
		}, sqlite.ErrCorrupt, "not a store file"},
		{"a damaged header", func(t *testing.T) string {
			t.Helper()
			return patch(t, filled(t), 16, bytes.Repeat([]byte{0xA5}, 60))
		}, sqlite.ErrCorrupt, "restore it from a backup"},
		{"a damaged first page", func(t *testing.T) string {
			t.Helper()
			return patch(t, filled(t), 100, bytes.Repeat([]byte{0xA5}, 1_000))
		}, sqlite.ErrCorrupt, "restore it from a backup"},
		{"a newer version", func(t *testing.T) string {
			t.Helper()
			// Offset 60 is user_version.
			return patch(t, filled(t), 60, binary.BigEndian.AppendUint32(nil, 99))
		}, sqlite.ErrNewerVersion, "version 99"},
		{"another program's database", func(t *testing.T) string {
			t.Helper()
			// Offset 68 is application_id.
			return patch(t, filled(t), 68, []byte{1, 2, 3, 4})
		}, nil, "another program"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			path := c.path(t)
			store, err := sqlite.Open(path)
			if err == nil {
				_ = store.Close()
				t.Fatal("Open gave no error")
			}
			open, ok := errors.AsType[*sqlite.OpenError](err)
			if !ok {
				t.Fatalf("error %v (%T), want an *OpenError", err, err)
			}
			if filepath.Base(open.Path) != filepath.Base(path) && path != "" {
				t.Errorf("the error names %q, want %q", open.Path, path)
			}
			if c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("error %v does not match %v", err, c.want)
			}
			if !strings.Contains(err.Error(), c.text) {
				t.Errorf("error %q does not say %q", err, c.text)
			}
		})
	}
}

func TestOpenRefusesUnknownSync(t *testing.T) {
	t.Parallel()
	_, err := sqlite.OpenConfig(filepath.Join(t.TempDir(), "fluxly.db"), sqlite.Config{Sync: "fast"})
	if _, ok := errors.AsType[*sqlite.OpenError](err); !ok {
		t.Fatalf("error %v, want an *OpenError", err)
	}
}

// Damage in the middle is found when it is met, and by Check.
func TestDamageInTheMiddle(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	path := filled(t)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	pages := int(info.Size() / 4096)
	for page := pages / 4; page < pages*3/4; page++ {
		patch(t, path, page*4096, bytes.Repeat([]byte{0xA5}, 4096))
	}
	store, err := sqlite.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	if err := store.Check(ctx); !errors.Is(err, sqlite.ErrCorrupt) || !strings.Contains(err.Error(), "fluxly.db") {
		t.Errorf("Check: %v, want ErrCorrupt with the file's name", err)
	}
	err = store.View(ctx, func(tx fluxly.Tx) error { _, err := tx.Runs(ctx, fluxly.RunQuery{}); return err })
	if !errors.Is(err, sqlite.ErrCorrupt) || !strings.Contains(err.Error(), "fluxly.db") {
		t.Errorf("View: %v, want ErrCorrupt with the file's name", err)
	}
}

func TestCheckOfAWholeFile(t *testing.T) {
	t.Parallel()
	store, err := sqlite.Open(filled(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(store.Check(t.Context()), store.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestOneStoreAtATime(t *testing.T) {
	t.Parallel()
	path := filled(t)
	store, err := sqlite.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link.db")
	if err := os.Symlink(path, link); err != nil {
		t.Skipf("no symlinks here: %v", err)
	}
	for _, name := range []string{path, link} {
		_, err := sqlite.Open(name)
		if !errors.Is(err, sqlite.ErrInUse) || !strings.Contains(err.Error(), fmt.Sprintf("process %d has it open; one process at a time works on a file", os.Getpid())) {
			t.Errorf("second Open of %s: %v, want ErrInUse with the process", filepath.Base(name), err)
		}
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	store, err = sqlite.Open(link)
	if err != nil {
		t.Fatalf("Open after Close: %v", err)
	}
	_ = store.Close()
}

// What was committed is there after Close and Open, and the numbers of events
// go on.
func TestReopen(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	path := filepath.Join(t.TempDir(), "fluxly.db")
	var last int64
	for round := range 4 {
		store, err := sqlite.OpenConfig(path, sqlite.Config{Sync: sqlite.SyncNormal})
		if err != nil {
			t.Fatal(err)
		}
		err = store.Update(ctx, func(tx fluxly.Tx) error {
			e := &fluxly.StoredEvent{MessageID: fmt.Sprint("m", round), ProfileID: fmt.Sprint("p", round), Name: "x"}
			if _, _, err := tx.PutEvent(ctx, e); err != nil {
				return err
			}
			if e.Seq <= last {
				t.Errorf("round %d: number %d after %d", round, e.Seq, last)
			}
			last = e.Seq
			for i := range round {
				if e, err := tx.EventByMessageID(ctx, fmt.Sprint("m", i)); err != nil || (e == nil) != (i == 1) {
					t.Errorf("round %d: event %d is %v, %v", round, i, e, err)
				}
			}
			if round != 1 {
				return nil
			}
			// The event with the highest number goes, its number does not
			// come back.
			_, err := tx.EraseProfile(ctx, "p1", nil)
			return err
		})
		if err := errors.Join(err, store.Close()); err != nil {
			t.Fatal(err)
		}
	}
	left, err := filepath.Glob(path + "-wal")
	if err != nil || len(left) != 0 {
		t.Errorf("Close left %v, %v", left, err)
	}
}

func TestCloseWaitsForViews(t *testing.T) {
	t.Parallel()
	store, err := sqlite.Open(filled(t))
	if err != nil {
		t.Fatal(err)
	}
	inside, release := make(chan struct{}), make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		ended <- store.View(context.Background(), func(tx fluxly.Tx) error {
			close(inside)
			<-release
			_, err := tx.Run(context.Background(), "r00001")
			return err
		})
	}()
	<-inside
	closed := make(chan error, 1)
	go func() { closed <- store.Close() }()
	close(release)
	if err := errors.Join(<-ended, <-closed); err != nil {
		t.Fatal(err)
	}
}
