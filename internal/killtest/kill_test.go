package killtest_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/getfluxly/fluxly/fluxlytest"
	"github.com/getfluxly/fluxly/internal/pgtest"
)

func TestMain(m *testing.M) {
	if text := os.Getenv(childSettings); text != "" {
		fmt.Fprintln(os.Stderr, child(context.Background(), text))
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

// roundsVariable is the environment variable with the number of kills.
const roundsVariable = "FLUXLY_KILL_ROUNDS"

func rounds(t *testing.T) int {
	t.Helper()
	text := os.Getenv(roundsVariable)
	if text == "" {
		return 3
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q is not a number of rounds", roundsVariable, text)
	}
	return n
}

// patience is how long the last mails may take: a claim must be over, and what
// died with a process be found.
const patience = 150 * time.Second

func TestKillSQLite(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.settings.File = filepath.Join(t.TempDir(), "fluxly.db")
	w.killLoop(t, 1)
}

// Two processes share the work, and one of them dies.
func TestKillPostgres(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.settings.Database, w.settings.Schema = pgtest.URL(t), pgtest.Schema(t)
	w.killLoop(t, 2)
}

// world is what outlives the children.
type world struct {
	settings settings
	server   *fluxlytest.PostmarkSMTP
	next     int // number of the next event
	stored   sync.Map
}

func newWorld(t *testing.T) *world {
	t.Helper()
	server := fluxlytest.NewPostmarkSMTP(t, fluxlytest.PostmarkSMTPConfig{
		Streams: []string{stream}, AllowInsecureAuth: true,
	})
	lookup := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m, ok := server.Lookup(r.URL.Query().Get("key"))
		if !ok {
			http.NotFound(w, r)
			return
		}
		_, _ = io.WriteString(w, m.ID)
	}))
	t.Cleanup(lookup.Close)
	return &world{server: server, settings: settings{SMTP: server.Addr(), Token: server.Token, Lookup: lookup.URL}}
}

// process is a child.
type process struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	read  chan struct{} // closed when its output has ended
	lines chan string
}

func (w *world) start(t *testing.T) *process {
	t.Helper()
	text, err := json.Marshal(w.settings)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), os.Args[0])
	cmd.Env = append(os.Environ(), childSettings+"="+string(text))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: cmd, in: in, read: make(chan struct{}), lines: make(chan string, 1000)}
	go func() {
		defer close(p.read)
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			w.stored.Store(lines.Text(), true)
			p.lines <- lines.Text()
		}
	}()
	t.Cleanup(p.kill)
	return p
}

// kill ends a child as a power cut does, and waits until it is gone.
func (p *process) kill() {
	if p.cmd.ProcessState != nil {
		return
	}
	_ = p.cmd.Process.Kill()
	<-p.read
	_ = p.cmd.Wait()
}

// give hands new events to a child.
func (w *world) give(p *process, n int) {
	for range n {
		_, _ = fmt.Fprintln(p.in, w.next)
		w.next++
	}
}

// killLoop kills one of n children again and again.
func (w *world) killLoop(t *testing.T, n int) {
	t.Helper()
	children := make([]*process, n)
	for i := range children {
		children[i] = w.start(t)
	}
	for round := range rounds(t) {
		victim := round % n
		for _, p := range children {
			w.give(p, 5)
		}
		// Not before it works: its start is not what is tested.
		select {
		case <-children[victim].lines:
		case <-children[victim].read:
			t.Fatal("a child ended by itself")
		case <-time.After(patience):
			t.Fatal("a child stores nothing")
		}
		<-time.After(time.Duration(rand.Int64N(int64(1500 * time.Millisecond))))
		children[victim].kill()
		children[victim] = w.start(t)
	}
	w.finish(t, children[0])
}

// finish gives the events again that nobody was told of, and looks at what is
// there when all is done.
func (w *world) finish(t *testing.T, p *process) {
	t.Helper()
	for i := range w.next {
		if _, ok := w.stored.Load(strconv.Itoa(i)); !ok {
			_, _ = fmt.Fprintln(p.in, i)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	mails, err := w.server.Wait(ctx, 2*w.next)
	if err != nil {
		t.Errorf("%d mails of %d: %v", len(mails), 2*w.next, err)
	}
	got := map[string]int{}
	for _, m := range w.server.Mails() {
		got[m.Get("To")+" "+m.Get("Subject")]++
	}
	twice := 0
	for i := range w.next {
		for _, subject := range []string{"Welcome", "Nudge"} {
			mail := fmt.Sprintf("user_%d@customer.test %s", i, subject)
			switch got[mail] {
			case 1:
			case 0:
				t.Errorf("lost: %s", mail)
			default:
				twice++
				t.Errorf("%d times: %s", got[mail], mail)
			}
		}
	}
	t.Logf("%d rounds, %d events, %d mails, %d of them twice", rounds(t), w.next, len(w.server.Mails()), twice)
}
