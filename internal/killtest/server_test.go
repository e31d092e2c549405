package killtest_test

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/getfluxly/fluxly/internal/pgtest"
)

// ctlVariable is the environment variable that names a program which stops and
// starts a server of its own, called with one of the words stop, start, restart
// (in order), kill (at once, as a power cut) and crash (one backend is killed,
// from which the server recovers by itself); url prints where the server is.
const ctlVariable = "FLUXLY_TEST_POSTGRES_CTL"

// The server goes away while two processes work on it: by a restart, by a
// crash, and for a while. Nothing is lost or doubled.
// It is not parallel to other tests, because one at a time may have the server.
func TestServerGoesAway(t *testing.T) {
	server, url := ownServer(t)
	w := newWorld(t)
	w.settings.Database, w.settings.Schema = url, pgtest.SchemaOf(t, url)
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
			server(word)
		}
	}
	w.finish(t, children[0])
}

// ownServer returns the program of ctlVariable, and where its server is, or
// skips the test.
func ownServer(t *testing.T) (run func(word string), url string) {
	t.Helper()
	ctl := os.Getenv(ctlVariable)
	if ctl == "" {
		t.Skip(ctlVariable + " is not set: no program that stops and starts the server")
	}
	run = func(word string) {
		t.Helper()
		if out, err := exec.CommandContext(context.WithoutCancel(t.Context()), ctl, word).CombinedOutput(); err != nil {
			t.Fatalf("%s %s: %v\n%s", ctl, word, err, out)
		}
	}
	out, err := exec.CommandContext(t.Context(), ctl, "url").Output()
	if err != nil {
		t.Fatalf("%s url: %v", ctl, err)
	}
	return run, strings.TrimSpace(string(out))
}
