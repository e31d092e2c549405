package sqlite_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ncruces/go-sqlite3"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/fluxlytest"
	"github.com/getfluxly/fluxly/sqlite"
)

// engineOn is an engine on a store, under a virtual clock.
func engineOn(t *testing.T, store fluxly.Store, sender fluxly.Sender, clock *fluxlytest.Clock) (*fluxly.Engine, error) {
	t.Helper()
	return fluxly.New(fluxly.Config{
		Store: store, Sender: sender, Mode: fluxly.Live, Now: clock.Now, From: "Acme <hello@acme.test>", Emails: fluxlytest.Emails("welcome"),
		Automations: []fluxly.Automation{{Name: "w", Trigger: fluxly.On("signed_up"), Steps: fluxly.Steps{fluxly.Send("welcome")}}},
	})
}

func signUp(t *testing.T, e *fluxly.Engine, n int) error {
	t.Helper()
	id := fmt.Sprintf("u%d", n)
	return e.Track(t.Context(), fluxly.Event{
		Name: "signed_up", ExternalID: id, MessageID: "m-" + id, Traits: fluxly.Traits{"email": id + "@customer.test"},
		Properties: fluxly.Properties{"note": strings.Repeat("x", 2000)},
	})
}

// trouble is something that befalls the file of a store, and its end.
type trouble struct {
	begin, end func()
}

// fullDisk fills the file system that a store is on.
func fullDisk(t *testing.T) (dir string, tr trouble) {
	t.Helper()
	dir = smallDisk(t, "4m")
	ballast := filepath.Join(dir, "ballast")
	begin := func() {
		f, err := os.Create(ballast)
		if err != nil {
			t.Error(err)
			return
		}
		for size := 64 << 10; size >= 1<<10; {
			if _, err := f.Write(make([]byte, size)); err != nil {
				size /= 2
			}
		}
		_ = f.Close()
	}
	return dir, trouble{begin: begin, end: func() {
		if err := os.Remove(ballast); err != nil {
			t.Error(err)
		}
	}}
}

// lockedFile is another program that keeps a write lock.
func lockedFile(t *testing.T) (dir string, tr trouble) {
	t.Helper()
	dir = t.TempDir()
	var db *sqlite3.Conn
	return dir, trouble{
		begin: func() {
			var err error
			if db, err = sqlite3.Open(filepath.Join(dir, "fluxly.db")); err == nil {
				err = db.Exec("BEGIN IMMEDIATE")
			}
			if err != nil {
				t.Error(err)
			}
		},
		end: func() {
			if err := errors.Join(db.Exec("ROLLBACK"), db.Close()); err != nil {
				t.Error(err)
			}
		},
	}
}

// While the store cannot write, Track says so, with the name of the file;
// nothing of it is stored, and the same call succeeds when the trouble is over.
// A mail whose outcome could not be stored is asked for, and goes once.
func TestStoreInTrouble(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		make func(*testing.T) (string, trouble)
		is   func(error) bool
	}{
		"a full disk": {fullDisk, func(err error) bool { return errors.Is(err, sqlite.ErrFull) }},
		"a locked file": {lockedFile, func(err error) bool {
			return errors.Is(err, sqlite3.BUSY) && strings.Contains(err.Error(), "another program holds a lock")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, tr := tt.make(t)
			store, err := sqlite.OpenConfig(filepath.Join(dir, "fluxly.db"), sqlite.Config{BusyTimeout: 20 * time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = store.Close() })
			clock := fluxlytest.NewClock(fluxlytest.Start)
			sender := &fluxlytest.FakeSender{Now: clock.Now, Stream: "lifecycle"}
			e, err := engineOn(t, store, sender, clock)
			if err != nil {
				t.Fatal(err)
			}
			if err := signUp(t, e, 0); err != nil {
				t.Fatal(err)
			}
			// It begins between claim and outcome.
			sender.Script(fluxlytest.Outcome{Before: func(*fluxly.Message) { tr.begin() }})
			if _, err := e.RunDue(t.Context()); err != nil {
				t.Fatal(err)
			}
			failed := 0
			for n := range 20 {
				err := signUp(t, e, n)
				if err == nil {
					continue // there was some room left in pages of the file
				}
				failed++
				if !tt.is(err) || !strings.Contains(err.Error(), "fluxly.db") {
					t.Fatalf("Track: %v", err)
				}
				if _, err := e.Profile(t.Context(), fmt.Sprintf("u%d", n)); n > 0 && !errors.Is(err, fluxly.ErrNotFound) {
					t.Fatalf("a part of it was stored: %v", err)
				}
			}
			if failed == 0 {
				t.Error("Track never fails: the trouble is none")
			}
			tr.end()
			for n := range 20 {
				if err := signUp(t, e, n); err != nil {
					t.Fatalf("afterwards: %v", err)
				}
			}
			for range 10 {
				if _, err := e.RunDue(t.Context()); err != nil {
					t.Fatal(err)
				}
				clock.Set(clock.Now().Add(time.Minute))
			}
			rows, err := e.Sends(t.Context(), fluxly.SendQuery{})
			if err != nil || len(rows) != 20 {
				t.Fatalf("%d rows, %v", len(rows), err)
			}
			for _, r := range rows {
				if r.Status != fluxly.SendAccepted {
					t.Errorf("%s is %s: %s", r.To, r.Status, r.Detail)
				}
			}
			if n := len(sender.Mails()); n != 20 || len(sender.Twice()) > 0 {
				t.Errorf("%d mails arrived, twice %v; want 20, each once", n, sender.Twice())
			}
			if err := errors.Join(store.Check(t.Context()), store.Close()); err != nil {
				t.Error(err)
			}
		})
	}
}

// A file that is damaged in the middle: what meets the damage fails with the
// file's name, and sends nothing.
func TestEngineOnADamagedFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "fluxly.db")
	clock := fluxlytest.NewClock(fluxlytest.Start)
	sender := &fluxlytest.FakeSender{Now: clock.Now, Stream: "lifecycle"}
	store, err := sqlite.OpenConfig(path, sqlite.Config{Sync: sqlite.SyncNormal})
	if err != nil {
		t.Fatal(err)
	}
	e, err := engineOn(t, store, sender, clock)
	if err != nil {
		t.Fatal(err)
	}
	for n := range 40 {
		if err := signUp(t, e, n); err != nil {
			t.Fatal(err)
		}
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// The pages that hold the profiles, and not the events, whose last one is
	// read by Open.
	damagedPages := 0
	for page := 4096; page < len(raw); page += 4096 {
		content := raw[page : page+4096]
		if bytes.Contains(content, []byte("@customer.test")) && !bytes.Contains(content, []byte("xxxxxxxx")) {
			damagedPages++
			patch(t, path, page, bytes.Repeat([]byte{0xA5}, 4096))
		}
	}
	if damagedPages == 0 {
		t.Fatal("no page holds an address")
	}
	if store, err = sqlite.OpenConfig(path, sqlite.Config{Sync: sqlite.SyncNormal}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	if e, err = engineOn(t, store, sender, clock); err != nil {
		t.Fatal(err)
	}
	_, due := e.RunDue(t.Context())
	_, profile := e.Profile(t.Context(), "u1")
	for what, err := range map[string]error{"RunDue": due, "Profile": profile, "Track": signUp(t, e, 1)} {
		if !errors.Is(err, sqlite.ErrCorrupt) || !strings.Contains(err.Error(), "fluxly.db") {
			t.Errorf("%s: %v, want ErrCorrupt with the file's name", what, err)
		}
	}
	if n := sender.Calls(); n != 0 {
		t.Errorf("%d mails went out of a damaged file", n)
	}
}

// Two engines on one file: the second Open is refused while the first is open,
// and of two engines on one Store one works and both track.
func TestTwoEnginesOnOneFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "fluxly.db")
	store, err := sqlite.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	if _, err := sqlite.Open(path); !errors.Is(err, sqlite.ErrInUse) {
		t.Errorf("a second Open: %v", err)
	}
	clock := fluxlytest.NewClock(time.Now())
	hold := make(chan struct{})
	started := make(chan struct{})
	sender := &fluxlytest.FakeSender{Stream: "lifecycle"}
	sender.Script(fluxlytest.Outcome{Hold: hold})
	sender.Plan(func(*fluxly.Message) (fluxlytest.Outcome, bool) { return fluxlytest.Accept(), true })
	first, err := engineOn(t, store, sendStarts{sender, started}, clock)
	if err != nil {
		t.Fatal(err)
	}
	second, err := engineOn(t, store, sender, clock)
	if err != nil {
		t.Fatal(err)
	}
	if err := signUp(t, first, 1); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- first.Run(t.Context()) }()
	<-started
	// The mail is under way in the first engine: the second must not take it
	// for one that a dead process left behind.
	if err := second.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "already") || !strings.Contains(err.Error(), "fluxly.db") {
		t.Errorf("Run of the second engine: %v", err)
	}
	if err := signUp(t, second, 2); err != nil {
		t.Fatal(err)
	}
	close(hold)
	if _, err := sender.Wait(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	if n := len(sender.Mails()); n != 2 || len(sender.Twice()) > 0 {
		t.Errorf("%d mails, twice %v", n, sender.Twice())
	}
	// Closing the store under a running engine ends it.
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, fluxly.ErrClosed) {
		t.Errorf("Run after the store was closed: %v", err)
	}
}

// sendStarts tells of the first call.
type sendStarts struct {
	*fluxlytest.FakeSender
	started chan struct{}
}

func (s sendStarts) Send(ctx context.Context, m *fluxly.Message) (fluxly.Receipt, error) {
	if s.Calls() == 0 {
		close(s.started)
	}
	return s.FakeSender.Send(ctx, m)
}
