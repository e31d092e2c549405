package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/fluxlytest"
	"github.com/getfluxly/fluxly/internal/pgtest"
)

// impatient looks for what was left behind often.
var impatient = timing{every: 2 * time.Second, overdue: 3 * time.Second}

// patience is how long tests wait for what must come.
const patience = 90 * time.Second

// openIn opens a store in a schema, with a pool of its own.
func openIn(t *testing.T, schema string, change ...func(*Config)) *Store {
	t.Helper()
	cfg := Config{Schema: schema, Migrate: true}
	for _, c := range change {
		c(&cfg)
	}
	s, err := Open(t.Context(), pgtest.Pool(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func timed(how timing) func(*Config) { return func(c *Config) { c.timing = how } }

var templates = fstest.MapFS{
	"welcome.html": {Data: []byte("---\nSubject: Welcome\n---\n<p>Good to have you.</p><p><a href=\"{{{ pm:unsubscribe }}}\">Unsubscribe</a></p>\n")},
	"nudge.html":   {Data: []byte("---\nSubject: Nudge\n---\n<p>It takes four minutes.</p><p><a href=\"{{{ pm:unsubscribe }}}\">Unsubscribe</a></p>\n")},
}

// trial welcomes, waits, calls the program's own code, and nudges.
func trial(wait time.Duration) fluxly.Automation {
	return fluxly.Automation{
		Name: "trial", Trigger: fluxly.On("signed_up"),
		Steps: fluxly.Steps{fluxly.Send("welcome"), fluxly.Wait(wait), fluxly.Do("note"), fluxly.Send("nudge")},
	}
}

func newEngine(t *testing.T, s fluxly.Store, sender fluxly.Sender, wait time.Duration) *fluxly.Engine {
	t.Helper()
	e, err := fluxly.New(fluxly.Config{
		Store: s, Sender: sender, Mode: fluxly.Live, From: "Acme <hello@acme.test>", Emails: templates,
		SendTimeout: time.Second,
		Automations: []fluxly.Automation{trial(wait)},
		Funcs:       map[string]fluxly.StepFunc{"note": func(context.Context, fluxly.StepInput) (any, error) { return true, nil }},
	})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// start runs something until the test or stop ends it; stop waits for it.
func start(t *testing.T, run func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("it ended with %v, want context.Canceled", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func signUp(t *testing.T, e *fluxly.Engine, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		id := fmt.Sprint("user_", i)
		err := e.Identify(t.Context(), fluxly.Identity{ExternalID: id, Traits: fluxly.Traits{"email": id + "@customer.test"}})
		if err == nil {
			err = e.Track(t.Context(), fluxly.Event{Name: "signed_up", ExternalID: id})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// eventually asks until the answer is yes.
func eventually(t *testing.T, what string, ask func() bool) {
	t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for !ask() {
		select {
		case <-ticker.C:
		case <-timer.C:
			t.Fatalf("still not %s after %s", what, patience)
		}
	}
}

// mailsOf counts the mails by address and subject.
func mailsOf(senders ...*fluxlytest.FakeSender) map[string]int {
	got := map[string]int{}
	for _, s := range senders {
		for _, m := range s.Mails() {
			got[m.To+" "+m.Subject]++
		}
	}
	return got
}

func wantMails(from, to int, subjects ...string) map[string]int {
	want := map[string]int{}
	for i := from; i < to; i++ {
		for _, s := range subjects {
			want[fmt.Sprintf("user_%d@customer.test %s", i, s)] = 1
		}
	}
	return want
}

// awaitMails waits for the mails of people, and then that no more come.
func awaitMails(t *testing.T, people int, senders ...*fluxlytest.FakeSender) {
	t.Helper()
	want := wantMails(0, people, "Welcome", "Nudge")
	eventually(t, "all mails there", func() bool { return len(mailsOf(senders...)) >= len(want) })
	if diff := cmp.Diff(want, mailsOf(senders...)); diff != "" {
		t.Errorf("mails (-want +got):\n%s", diff)
	}
}

func TestEngine(t *testing.T) {
	t.Parallel()
	s := openIn(t, pgtest.Schema(t))
	sender := &fluxlytest.FakeSender{}
	var mu sync.Mutex
	late := map[string]time.Duration{} // between the mails of each
	sender.Plan(func(m *fluxly.Message) (fluxlytest.Outcome, bool) {
		mu.Lock()
		defer mu.Unlock()
		now := time.Duration(time.Now().UnixNano())
		if m.Subject == "Welcome" {
			now = -now
		}
		late[m.To] += now
		return fluxlytest.Accept(), true
	})
	e := newEngine(t, s, sender, 2*time.Second)
	stop := start(t, e.Run)
	signUp(t, e, 0, 20)
	awaitMails(t, 20, sender)
	stop()
	// The wait of each was neither cut short nor long.
	var most, sum time.Duration
	for to, d := range late {
		if d -= 2 * time.Second; d < -100*time.Millisecond || d > 20*time.Second {
			t.Errorf("the nudge to %s came %s after its time", to, d)
		}
		most, sum = max(most, d), sum+d
	}
	t.Logf("from mail to mail over a wait and a call: %s later than the wait at most, %s on average", most, sum/time.Duration(len(late)))
}

func TestEnginesShareTheWork(t *testing.T) {
	t.Parallel()
	pgtest.URL(t)
	for _, n := range []int{2, 4} {
		t.Run(strconv.Itoa(n), func(t *testing.T) {
			t.Parallel()
			schema := pgtest.Schema(t)
			var senders []*fluxlytest.FakeSender
			var engines []*fluxly.Engine
			for range n {
				sender := &fluxlytest.FakeSender{}
				e := newEngine(t, openIn(t, schema), sender, 2*time.Second)
				start(t, e.Run)
				senders, engines = append(senders, sender), append(engines, e)
			}
			const people = 200
			var wg sync.WaitGroup
			for i, e := range engines {
				wg.Go(func() { signUp(t, e, i*people/n, (i+1)*people/n) })
			}
			wg.Wait()
			awaitMails(t, people, senders...)
			for i, sender := range senders {
				if len(sender.Mails()) == 0 {
					t.Errorf("engine %d sent nothing", i)
				}
				t.Logf("engine %d sent %d of %d mails", i, len(sender.Mails()), 2*people)
			}
		})
	}
}

// A process that only tracks leaves the work to the others.
func TestProducer(t *testing.T) {
	t.Parallel()
	schema := pgtest.Schema(t)
	idle := &fluxlytest.FakeSender{}
	producer := newEngine(t, openIn(t, schema), idle, time.Second)
	signUp(t, producer, 0, 5)
	sender := &fluxlytest.FakeSender{}
	start(t, newEngine(t, openIn(t, schema), sender, time.Second).Run)
	signUp(t, producer, 5, 10)
	awaitMails(t, 10, sender)
	if n := idle.Calls(); n > 0 {
		t.Errorf("the producer sent %d mails", n)
	}
}

// An engine that hangs and loses its database: what it had claimed is taken up
// by another when its claim is over.
func TestEngineIsGone(t *testing.T) {
	t.Parallel()
	schema := pgtest.Schema(t)
	pool := pgtest.Pool(t)
	dying, err := Open(t.Context(), pool, Config{Schema: schema, Migrate: true, timing: impatient})
	if err != nil {
		t.Fatal(err)
	}
	hold := make(chan struct{})
	stuck := &fluxlytest.FakeSender{}
	stuck.Plan(func(*fluxly.Message) (fluxlytest.Outcome, bool) {
		return fluxlytest.Outcome{Hold: hold, Hang: true}, true
	})
	e := newEngine(t, dying, stuck, time.Second)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	signUp(t, e, 0, 5)
	eventually(t, "all claimed", func() bool { return claimed(t, dying) == 5 })
	pool.Close() // waits for no transaction in the middle
	cancel()

	sender := &fluxlytest.FakeSender{}
	start(t, newEngine(t, openIn(t, schema, timed(impatient)), sender, time.Second).Run)
	awaitMails(t, 5, sender)
	close(hold)
	if err := <-ended; err == nil {
		t.Error("Run returned no error")
	}
}

// claimed counts the mails in sending.
func claimed(t *testing.T, s *Store) (n int) {
	t.Helper()
	err := s.View(t.Context(), func(tx fluxly.Tx) error {
		list, err := tx.Sends(t.Context(), fluxly.SendQuery{Status: fluxly.SendSending})
		n = len(list)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// A program that runs River already hands its client over.
func TestHandedOverClient(t *testing.T) {
	t.Parallel()
	schema, jobs := pgtest.Schema(t), pgtest.Schema(t)
	// The tables of River as the program has them, in a schema of its own.
	pool := pgtest.Pool(t)
	if _, err := pool.Exec(t.Context(), "CREATE SCHEMA "+jobs); err != nil {
		t.Fatal(err)
	}
	if err := migrateRiver(t.Context(), pool, Config{Schema: jobs}.withDefaults()); err != nil {
		t.Fatal(err)
	}
	client, workers := riverOf(t, pool, jobs)
	s := openIn(t, schema, func(c *Config) { c.River, c.Workers = client, workers })
	var n int
	if err := pool.QueryRow(t.Context(), "SELECT count(*) FROM pg_tables WHERE schemaname = $1 AND tablename LIKE 'river%'", schema).Scan(&n); err != nil || n != 0 {
		t.Errorf("%d tables of River beside those of the store (%v)", n, err)
	}
	sender := &fluxlytest.FakeSender{}
	e := newEngine(t, s, sender, time.Second)
	if err := client.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Stop(context.Background()) })
	signUp(t, e, 0, 3) // before Work runs: their jobs are put off
	start(t, e.Run)
	signUp(t, e, 3, 6)
	awaitMails(t, 6, sender)

	// A client that is handed over alone only adds jobs.
	other, _ := riverOf(t, pool, jobs)
	producer := openIn(t, schema, func(c *Config) { c.River = other })
	if err := producer.Work(t.Context(), &fakeWorker{}); err == nil {
		t.Error("Work without Config.Workers gives no error")
	}
	p := newEngine(t, producer, &fluxlytest.FakeSender{}, time.Second)
	signUp(t, p, 6, 8)
	awaitMails(t, 8, sender)
}

// ownArgs is a job of the program's own.
type ownArgs struct{}

func (ownArgs) Kind() string { return "own" }

// riverOf is the River of a program.
func riverOf(t *testing.T, pool *pgxpool.Pool, schema string) (*river.Client[pgx.Tx], *river.Workers) {
	t.Helper()
	workers := river.NewWorkers()
	river.AddWorker(workers, river.WorkFunc(func(context.Context, *river.Job[ownArgs]) error { return nil }))
	client, err := river.NewClient(riverpgxv5.New(pool), &river.Config{
		Schema: schema, Workers: workers, Queues: map[string]river.QueueConfig{"own": {MaxWorkers: 1}},
		Logger: Config{}.withDefaults().Logger,
	})
	if err != nil {
		t.Fatal(err)
	}
	return client, workers
}

// Where another client of the program's River leads, which knows nothing of the
// store, what was left behind is found all the same.
func TestLeaderWithoutSweeps(t *testing.T) {
	t.Parallel()
	for _, handed := range []bool{true, false} {
		t.Run(map[bool]string{true: "client handed over", false: "in the schema of the store"}[handed], func(t *testing.T) {
			t.Parallel()
			testLeaderWithoutSweeps(t, handed)
		})
	}
}

func testLeaderWithoutSweeps(t *testing.T, handed bool) {
	t.Helper()
	schema := pgtest.Schema(t)
	jobs := schema
	pool := pgtest.Pool(t)
	if handed {
		jobs = pgtest.Schema(t)
		if _, err := pool.Exec(t.Context(), "CREATE SCHEMA "+jobs); err != nil {
			t.Fatal(err)
		}
		if err := migrateRiver(t.Context(), pool, Config{Schema: jobs}.withDefaults()); err != nil {
			t.Fatal(err)
		}
	} else if err := Migrate(t.Context(), pool, Config{Schema: schema}); err != nil {
		t.Fatal(err)
	}
	leads := func() (id string) {
		err := pool.QueryRow(t.Context(), "SELECT coalesce((SELECT leader_id FROM "+jobs+".river_leader), '')").Scan(&id)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	begin := func(c *river.Client[pgx.Tx]) {
		if err := c.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Stop(context.Background()) })
	}
	stranger, _ := riverOf(t, pool, jobs)
	begin(stranger)
	eventually(t, "a leader there", func() bool { return leads() != "" })
	client, workers := riverOf(t, pool, jobs)
	s := openIn(t, schema, func(c *Config) {
		if handed {
			c.River, c.Workers = client, workers
		}
		c.timing.every, c.timing.overdue = time.Second, time.Second
	})
	if handed {
		begin(client)
	}
	sender := &fluxlytest.FakeSender{}
	e := newEngine(t, s, sender, time.Second)
	signUp(t, e, 0, 2)
	if _, err := pool.Exec(t.Context(), "DELETE FROM "+jobs+".river_job"); err != nil {
		t.Fatal(err)
	}
	start(t, e.Run)
	awaitMails(t, 2, sender)
	if leads() != stranger.ID() {
		t.Error("the stranger does not lead any more")
	}
}
