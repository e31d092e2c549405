package killtest_test

import (
	"context"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/getfluxly/fluxly/internal/pgtest"
)

// ctlVariable is the environment variable that names a program which stops and
// starts the server, called with one of the words stop, start, restart (in
// order) and kill (at once, as a crash).
const ctlVariable = "FLUXLY_TEST_POSTGRES_CTL"

// The server goes away while two processes work on it: by a restart, by a
// crash, and for a while. Nothing is lost or doubled.
// It is not parallel to other tests, because the server is everybody's.
func TestServerGoesAway(t *testing.T) {
	url := pgtest.URL(t)
	ctl := os.Getenv(ctlVariable)
	if ctl == "" {
		t.Skip(ctlVariable + " is not set: no program that stops and starts the server")
	}
	run := func(word string) {
		t.Helper()
		if out, err := exec.CommandContext(context.WithoutCancel(t.Context()), ctl, word).CombinedOutput(); err != nil {
			t.Fatalf("%s %s: %v\n%s", ctl, word, err, out)
		}
	}
	w := newWorld(t)
	w.settings.Database, w.settings.Schema = url, pgtest.Schema(t)
	children := []*process{w.start(t), w.start(t)}
	for _, words := range [][]string{{"restart"}, {"kill", "start"}, {"stop", "start"}} {
		for _, p := range children {
			w.give(p, 5)
		}
		select {
		case <-children[0].lines:
		case <-time.After(patience):
			t.Fatal("a child stores nothing")
		}
		for i, word := range words {
			if i > 0 {
				<-time.After(3 * time.Second) // that it is felt
			}
			run(word)
		}
	}
	w.finish(t, children[0])
}
