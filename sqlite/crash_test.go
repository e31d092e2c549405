package sqlite_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/sqlite"
)

// crashFile names the store that a child process of TestCrash writes to.
const crashFile = "FLUXLY_TEST_CRASH_FILE"

func TestMain(m *testing.M) {
	if path := os.Getenv(crashFile); path != "" {
		fmt.Fprintln(os.Stderr, commitForever(context.Background(), path))
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

// commitForever commits one numbered person after the other and prints each
// number once Update has returned. It goes on behind the last one that is
// stored.
func commitForever(ctx context.Context, path string) error {
	store, err := sqlite.Open(path)
	if err != nil {
		return err
	}
	next := 0
	if err := store.View(ctx, func(tx fluxly.Tx) error {
		runs, err := tx.Runs(ctx, fluxly.RunQuery{})
		next = len(runs)
		return err
	}); err != nil {
		return err
	}
	for ; ; next++ {
		err := store.Update(ctx, func(tx fluxly.Tx) error { return putNumbered(ctx, tx, next) })
		if err != nil {
			return err
		}
		if _, err := os.Stdout.WriteString(strconv.Itoa(next) + "\n"); err != nil {
			return err
		}
	}
}

func putNumbered(ctx context.Context, tx fluxly.Tx, n int) error {
	id, at := fmt.Sprintf("%06d", n), time.Unix(int64(n), 0)
	_, _, err := tx.PutEvent(ctx, &fluxly.StoredEvent{
		MessageID: "m" + id, ProfileID: "p" + id, Name: "signed_up", OccurredAt: at, ReceivedAt: at,
		Properties: fluxly.Properties{"n": n, "text": string(make([]byte, n%3_000))},
	})
	return errors.Join(
		err,
		tx.PutProfile(ctx, &fluxly.Profile{ID: "p" + id, ExternalIDs: []string{"u" + id}, CreatedAt: at}),
		tx.PutRun(ctx, &fluxly.Run{ID: "r" + id, ProfileID: "p" + id, Status: fluxly.RunLive, StartedAt: at, WakeAt: at}),
		tx.PutSend(ctx, &fluxly.SendRecord{Key: "k" + id, RunID: "r" + id, ProfileID: "p" + id, Status: fluxly.SendQueued, QueuedAt: at, DueAt: at}),
	)
}

// A process that is killed at any moment loses nothing that it was told is
// stored, and leaves no transaction by half.
func TestCrash(t *testing.T) {
	t.Parallel()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "fluxly.db")
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	acked := -1
	for round := range 20 {
		child := exec.CommandContext(t.Context(), program)
		child.Env = append(os.Environ(), crashFile+"="+path)
		child.Stderr = os.Stderr
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		// Killed a random moment after a random number of answers; what was
		// printed until then counts too.
		answers, moment := 1+r.IntN(40), time.Duration(r.IntN(3_000))*time.Microsecond
		lines := bufio.NewScanner(out)
		var kill *time.Timer
		for n := 0; lines.Scan(); n++ {
			if acked, err = strconv.Atoi(lines.Text()); err != nil {
				t.Errorf("round %d: the child printed %q", round, lines.Text())
			}
			if n == 0 && round == 0 {
				if _, err := sqlite.Open(path); !errors.Is(err, sqlite.ErrInUse) || !strings.Contains(err.Error(), strconv.Itoa(child.Process.Pid)) {
					t.Errorf("Open beside the child: %v, want ErrInUse with its process id", err)
				}
			}
			if n == answers {
				kill = time.AfterFunc(moment, func() { _ = child.Process.Kill() })
			}
		}
		err = child.Wait()
		if kill == nil {
			t.Fatalf("round %d: the child ended by itself: %v", round, err)
		}
		kill.Stop()
		checkNumbered(t, path, round, acked)
	}
	if acked < 20 {
		t.Fatalf("only %d commits in all rounds: the test sees too little", acked+1)
	}
}

func checkNumbered(t *testing.T, path string, round, acked int) {
	t.Helper()
	ctx := t.Context()
	store, err := sqlite.Open(path) // the lock died with the process
	if err != nil {
		t.Fatalf("round %d: %v", round, err)
	}
	defer func() {
		if err := store.Close(); err != nil {
			t.Errorf("round %d: Close: %v", round, err)
		}
	}()
	if err := store.Check(ctx); err != nil {
		t.Errorf("round %d: %v", round, err)
	}
	err = store.View(ctx, func(tx fluxly.Tx) error {
		runs, err := tx.Runs(ctx, fluxly.RunQuery{})
		if err != nil {
			return err
		}
		// One more may be stored whose answer did not get out.
		if n := len(runs) - 1; n != acked && n != acked+1 {
			t.Errorf("round %d: %d is the last answer, %d the last run", round, acked, n)
		}
		sends, err := tx.Sends(ctx, fluxly.SendQuery{})
		if err != nil {
			return err
		}
		profiles, err := tx.Profiles(ctx, "", 1_000_000)
		if err != nil {
			return err
		}
		if len(sends) != len(runs) || len(profiles) != len(runs) {
			t.Errorf("round %d: %d runs, %d mails, %d profiles", round, len(runs), len(sends), len(profiles))
		}
		for i, r := range runs {
			if want := fmt.Sprintf("r%06d", i); r.ID != want {
				t.Errorf("round %d: run %d is %s", round, i, r.ID)
			}
			e, err := tx.EventByMessageID(ctx, fmt.Sprintf("m%06d", i))
			if err != nil || e == nil || e.ProfileID != fmt.Sprintf("p%06d", i) {
				t.Errorf("round %d: event %d is %v, %v", round, i, e, err)
			}
		}
		due, _, err := tx.Due(ctx, fluxly.WorkSend, time.Unix(1<<40, 0), 1_000_000)
		if len(due) != len(runs) {
			t.Errorf("round %d: %d mails are due, want %d", round, len(due), len(runs))
		}
		return err
	})
	if err != nil {
		t.Errorf("round %d: %v", round, err)
	}
}
