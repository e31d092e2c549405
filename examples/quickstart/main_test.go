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
	for _, want := range []string{"Subject: Welcome to Acme Reports, Hana", "Why no mail? user_1004", `prop plan is "trial" does not hold (found "free")`, "In this run 31 mails were"} {
		if !strings.Contains(first.String(), want) {
			t.Errorf("the first run does not print %q", want)
		}
	}
	if !strings.Contains(second.String(), "In this run 0 mails were") || strings.Contains(second.String(), "── mail") {
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
{"event":"signed_up","external_id":"u4","timestamp":"2026-01-01T00:00:00Z"}
{"event":"project_created","external_id":"u1","timestamp":"2026-01-02T00:00:00Z","message_id":"1"}
`
	passed := []string{
		"passed over line 2: ", "passed over line 3: ", `passed over line 4: "signed_up" of u3 has no timestamp and no message_id;`,
		"passed over line 6: ", `passed over line 7: "signed_up" of u4 has no message_id;`, "passed over line 8: ",
	}
	if err := os.WriteFile(file, []byte(body), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := run(t.Context(), options{events: file, data: dir}, &out); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(out.String(), "passed over"); n != len(passed) {
		t.Errorf("%d lines passed over, want %d:\n%s", n, len(passed), out.String())
	}
	for _, want := range append(passed, "Tracked 1 event of 1 person,", "1 Jan 2026 00:00") {
		if !strings.Contains(out.String(), want) {
			t.Errorf("does not print %q:\n%s", want, out.String())
		}
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

func TestCommandLine(t *testing.T) {
	t.Parallel()
	stopped, stop := context.WithCancel(t.Context())
	stop()
	const token = "11111111-2222-3333-4444-555555555555"
	dir := t.TempDir()
	for name, tt := range map[string]struct {
		ctx  context.Context //nolint:containedctx // one for each case
		args []string
		env  map[string]string
		code int
		text string
	}{
		"help":             {args: []string{"-h"}, code: exitOK, text: "-events"},
		"an argument":      {args: []string{"events.jsonl"}, code: exitUsage, text: `"events.jsonl" is not used; for a file of events write -events FILE`},
		"an unknown flag":  {args: []string{"-evnts", "x"}, code: exitUsage, text: "-evnts"},
		"no such file":     {args: []string{"-events", "nowhere.jsonl"}, code: exitFailed, text: "nowhere.jsonl"},
		"interrupted":      {ctx: stopped, code: exitInterrupted, text: "run it again"},
		"no addresses":     {env: map[string]string{"POSTMARK_SERVER_TOKEN": token}, code: exitFailed, text: "FLUXLY_FROM"},
		"From is none":     {env: map[string]string{"POSTMARK_SERVER_TOKEN": token, "FLUXLY_FROM": "hello", "FLUXLY_TO": "a@acme.test"}, code: exitFailed, text: `FLUXLY_FROM "hello"`},
		"To is a list":     {env: map[string]string{"POSTMARK_SERVER_TOKEN": token, "FLUXLY_FROM": "hello@acme.test", "FLUXLY_TO": "a@acme.test, b@acme.test"}, code: exitFailed, text: "FLUXLY_TO"},
		"To has a name":    {env: map[string]string{"POSTMARK_SERVER_TOKEN": token, "FLUXLY_FROM": "hello@acme.test", "FLUXLY_TO": "Ann <a@acme.test>"}, code: exitFailed, text: "FLUXLY_TO"},
		"no stream so far": {env: map[string]string{"POSTMARK_SERVER_TOKEN": token, "FLUXLY_FROM": "hello@acme.test", "FLUXLY_TO": "a@acme.test", "FLUXLY_STREAM": "My Stream"}, code: exitFailed, text: "My Stream"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := tt.ctx
			if ctx == nil {
				ctx = t.Context()
			}
			var stderr bytes.Buffer
			args := append([]string{"-data", filepath.Join(dir, strings.ReplaceAll(name, " ", "-"))}, tt.args...)
			code := start(ctx, args, func(k string) string { return tt.env[k] }, io.Discard, &stderr)
			if code != tt.code || !strings.Contains(stderr.String(), tt.text) || strings.Contains(stderr.String(), "context canceled") {
				t.Errorf("exit code %d, want %d with %q:\n%s", code, tt.code, tt.text, stderr.String())
			}
		})
	}
}
