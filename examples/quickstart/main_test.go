package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/fluxlytest"
	"github.com/getfluxly/fluxly/sqlite"
)

// asProgram makes the test binary run the program itself, so that it can be
// killed.
const asProgram = "QUICKSTART_DATA"

func TestMain(m *testing.M) {
	if dir := os.Getenv(asProgram); dir != "" {
		if err := run(context.Background(), options{data: dir}, io.Discard); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// outcome reads what a folder holds: the mails that the server took, by
// recipient and email, and the rows of the send log.
func outcome(t *testing.T, dir string) (mails, log []string) {
	t.Helper()
	server, err := fluxlytest.StartPostmarkSMTP(fluxlytest.PostmarkSMTPConfig{Dir: filepath.Join(dir, "local", "mailbox")})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Close() }()
	for _, m := range server.Mails() {
		mails = append(mails, m.To[0]+" "+m.Metadata["send_key"])
		if len(m.Problems) > 0 {
			t.Errorf("mail %s: %v", m.ID, m.Problems)
		}
	}
	store, err := sqlite.Open(filepath.Join(dir, "local", "fluxly.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = store.Close() }()
	if err := fluxlytest.CheckInvariants(t.Context(), store); err != nil {
		t.Error(err)
	}
	err = store.View(t.Context(), func(tx fluxly.Tx) error {
		rows, err := tx.Sends(t.Context(), fluxly.SendQuery{})
		for _, r := range rows {
			log = append(log, fmt.Sprintf("%s %s %s %s %s", r.QueuedAt.Format(time.RFC3339), r.Key, r.Email, r.Status, r.Reason))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(mails)
	return mails, log
}

func TestRunTwice(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var first, second bytes.Buffer
	if err := run(t.Context(), options{data: dir}, &first); err != nil {
		t.Fatal(err)
	}
	mails, log := outcome(t, dir)
	if err := run(t.Context(), options{data: dir}, &second); err != nil {
		t.Fatal(err)
	}
	again, logAgain := outcome(t, dir)
	if len(mails) != 31 || !slices.Equal(mails, again) || !slices.Equal(log, logAgain) {
		t.Errorf("%d mails after one run, %d after two", len(mails), len(again))
	}
	for _, want := range []string{"Subject: Welcome to Acme Reports, Hana", "Why no mail? user_1004", `prop plan is "trial" does not hold (found "free")`, "In this run 31 mails"} {
		if !strings.Contains(first.String(), want) {
			t.Errorf("the first run does not print %q", want)
		}
	}
	if !strings.Contains(second.String(), "In this run 0 mails") || strings.Contains(second.String(), "── mail") {
		t.Error("the second run sent something")
	}
}

// Killed at any moment and started again, the program loses nothing and sends
// nothing twice: the outcome is that of a run that was never disturbed.
func TestKilledAtAnyMoment(t *testing.T) {
	t.Parallel()
	calm := t.TempDir()
	if err := run(t.Context(), options{data: calm}, io.Discard); err != nil {
		t.Fatal(err)
	}
	wantMails, wantLog := outcome(t, calm)

	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	rounds, kills := 14, 0
	for round := range rounds + 1 {
		cmd := exec.CommandContext(t.Context(), self)
		cmd.Env = append(os.Environ(), asProgram+"="+dir)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- cmd.Wait() }()
		if round < rounds {
			timer := time.NewTimer(time.Duration(20+rand.IntN(250)) * time.Millisecond)
			select {
			case <-timer.C:
				if err := cmd.Process.Kill(); err == nil {
					kills++
				}
				<-done //nolint:errcheck // killed, so there is an error
				continue
			case err = <-done:
				timer.Stop()
			}
		} else {
			err = <-done
		}
		if err != nil {
			t.Fatalf("round %d: %v: %s", round, err, stderr.String())
		}
	}
	if kills == 0 {
		t.Fatal("the program was never killed")
	}
	mails, log := outcome(t, dir)
	if diff := cmp.Diff(wantMails, mails); diff != "" {
		t.Errorf("the mails after %d kills:\n%s", kills, diff)
	}
	if diff := cmp.Diff(wantLog, log); diff != "" {
		t.Errorf("the send log after %d kills:\n%s", kills, diff)
	}
}

func TestBadInput(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "events.jsonl")
	body := `{"event":"signed_up","external_id":"u1","properties":{"plan":"trial"},"timestamp":"2026-01-01T00:00:00Z","message_id":"1","traits":{"email":"u1@example.test"}}
not json
{"event":"Signed Up","external_id":"u2","timestamp":"2026-01-01T00:00:00Z","message_id":"2"}
{"event":"signed_up","external_id":"u3"}
{"event":"signed_up","timestamp":"2026-01-01T00:00:00Z","message_id":"4"}
`
	if err := os.WriteFile(file, []byte(body), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := run(t.Context(), options{events: file, data: dir}, &out); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(out.String(), "passed over"); n != 4 {
		t.Errorf("%d lines passed over, want 4:\n%s", n, out.String())
	}
	if err := os.WriteFile(file, []byte("nothing\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := run(t.Context(), options{events: file, data: dir}, io.Discard); err == nil {
		t.Error("a file without one event was taken")
	}
	if err := run(t.Context(), options{token: "x", data: dir}, io.Discard); err == nil || !strings.Contains(err.Error(), "FLUXLY_FROM") {
		t.Errorf("a token alone: %v", err)
	}
}
