package bench

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"

	"github.com/getfluxly/fluxly"
)

// TestPostgresBytes measures what a row of each kind takes, with its indexes,
// and what an event writes to the write-ahead log.
func TestPostgresBytes(t *testing.T) {
	count, _ := many(t, 50_000)
	d := newDatabase(t)
	store := d.open(t)
	e := newEngine(t, fluxly.Config{Store: store})

	people := []string{"profiles", "identities"}
	before := d.bytes(t, people...)
	putPeople(t, store, 0, count)
	d.settle(t)
	t.Logf("a profile: %.0f bytes", (d.bytes(t, people...)-before)/float64(count))

	// Known people, events that nobody asks for: the row of the event alone.
	before = d.bytes(t, "events")
	wal := d.number(t, "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::float8")
	trackAll(t, e, count, known)
	logged := d.number(t, "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::float8") - wal
	d.settle(t)
	t.Logf("an event: %.0f bytes, %.0f bytes of write-ahead log", (d.bytes(t, "events")-before)/float64(count), logged/float64(count))

	runs := []string{"runs", "run_log"}
	before = d.bytes(t, runs...)
	putWaiting(t, store, sleeperAutomations()[0], 0, count, func(n int) time.Time {
		return time.Now().Add(fluxly.Day + time.Duration(n)*time.Second)
	})
	d.settle(t)
	t.Logf("a sleeping run: %.0f bytes", (d.bytes(t, runs...)-before)/float64(count))

	before = d.bytes(t, "sends")
	trackAll(t, e, count, newcomer)
	_, err := e.RunDue(t.Context())
	must(err)
	d.settle(t)
	t.Logf("a sent mail: %.0f bytes", (d.bytes(t, "sends")-before)/float64(count))
	t.Logf("jobs left by all that: %.0f bytes", d.bytes(t, "river_job"))
}

// TestPostgresPrune measures how fast old rows go, and what that gives back: the
// space in the files that later rows use again, and what is left of a run that
// has ended.
func TestPostgresPrune(t *testing.T) {
	count, _ := many(t, 50_000)
	d := newDatabase(t)
	store := d.open(t)
	putPeople(t, store, 0, count)
	a := fluxly.Automation{Name: "welcome", Trigger: fluxly.On("signed_up"), Steps: fluxly.Steps{fluxly.Send("welcome")}}
	long := time.Now().AddDate(-2, 0, 0)
	e := newEngine(t, fluxly.Config{Store: store, Automations: []fluxly.Automation{a}, Now: func() time.Time { return long }})
	trackAll(t, e, count, known)
	trackAll(t, e, count, newcomer)
	_, err := e.RunDue(t.Context())
	must(err)
	must(e.Close())
	young := newEngine(t, fluxly.Config{Store: store, Automations: []fluxly.Automation{a}})
	trackAll(t, young, 2*count, known)
	tables := []string{"events", "runs", "run_log", "sends"}
	before := d.packed(t, tables...)
	year := 365 * fluxly.Day
	start := time.Now()
	done, err := young.Prune(t.Context(), fluxly.Retention{Events: year, Runs: year, Mails: year})
	must(err)
	took := time.Since(start)
	rows := done.Events + done.Mails + done.Runs + done.LogEntries
	if done.Events != 2*count || done.Mails != count || done.LogEntries == 0 {
		t.Errorf("%+v went", done)
	}
	t.Logf("%d rows (%+v) went in %v: %.0f a second", rows, done, took.Round(time.Millisecond), float64(rows)/took.Seconds())
	d.settle(t)
	unpacked := d.bytes(t, "events")
	trackAll(t, young, 2*count, known)
	d.settle(t)
	t.Logf("after half of the events went, as many more made their table %.1f %% larger", 100*(d.bytes(t, "events")/unpacked-1))
	after := d.packed(t, tables[1:]...)
	t.Logf("a mail had %.0f bytes; an ended run has %.0f without its log, and had %.0f with it", before["sends"]/float64(count), after["runs"]/float64(count), (before["runs"]+before["run_log"])/float64(count))
}

// childSchema is what a process of its own is told.
func childCommand(t *testing.T, test string, env ...string) *exec.Cmd {
	t.Helper()
	c := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+test+"$", "-test.v")
	c.Env = append(os.Environ(), env...)
	return c
}

// TestPostgresProcesses compares two processes that track with one. On a machine
// whose processors the database needs too, the second one gets what is left.
func TestPostgresProcesses(t *testing.T) {
	count, _ := many(t, 60_000)
	d := newDatabase(t)
	putPeople(t, d.open(t), 0, trackPeople())
	var one, two []float64
	run := func(processes int) float64 {
		rates := make([]float64, processes)
		var children sync.WaitGroup
		for i := range processes {
			children.Go(func() {
				out, err := childCommand(t, "TestPostgresTracker", schemaEnv+"="+d.schema, "BENCH_EVENTS="+strconv.Itoa(count)).CombinedOutput()
				if err != nil {
					t.Errorf("%v\n%s", err, out)
					return
				}
				_, said, _ := strings.Cut(string(out), "rate ")
				said, _, _ = strings.Cut(said, " ")
				rates[i], err = strconv.ParseFloat(said, 64)
				must(err)
			})
		}
		children.Wait()
		sum := 0.0
		for _, r := range rates {
			sum += r
		}
		return sum
	}
	for range 3 {
		one, two = append(one, run(1)), append(two, run(2))
	}
	t.Logf("one process %.0f events a second, two %.0f: %.2fx", median(one), median(two), median(two)/median(one))
}

// TestPostgresTracker is the process that TestPostgresProcesses starts; by
// itself it has nothing to do.
func TestPostgresTracker(t *testing.T) {
	schema := os.Getenv(schemaEnv)
	if schema == "" {
		return
	}
	count, err := strconv.Atoi(os.Getenv("BENCH_EVENTS"))
	must(err)
	e := newEngine(t, fluxly.Config{Store: openedDatabase(t, schema).open(t)})
	people := trackPeople()
	offset := os.Getpid()
	trackAll(t, e, count/10, func(i int) fluxly.Event { return known((i + offset) % people) })
	start := time.Now()
	trackAll(t, e, count, func(i int) fluxly.Event { return known((i*7 + offset) % people) })
	fmt.Printf("rate %.0f events a second\n", float64(count)/time.Since(start).Seconds())
}

// noop is a job of River's that does nothing.
type noop struct{}

func (noop) Kind() string { return "noop" }

type noopWorker struct {
	river.WorkerDefaults[noop]
	done *atomic.Int64
}

func (w *noopWorker) Work(context.Context, *river.Job[noop]) error {
	w.done.Add(1)
	return nil
}

// riverRate is how many jobs that do nothing River works off in a second, on
// the same database.
func riverRate(t *testing.T, d *database, count int) float64 {
	t.Helper()
	var done atomic.Int64
	workers := river.NewWorkers()
	river.AddWorker(workers, &noopWorker{done: &done})
	client, err := river.NewClient(riverpgxv5.New(d.pool), &river.Config{
		Schema: d.schema, Workers: workers, Queues: map[string]river.QueueConfig{"noop": {MaxWorkers: 500}},
		FetchCooldown: time.Millisecond,
	})
	must(err)
	jobs := make([]river.InsertManyParams, 0, 1_000)
	for n := 0; n < count; n += cap(jobs) {
		jobs = jobs[:0]
		for range min(cap(jobs), count-n) {
			jobs = append(jobs, river.InsertManyParams{Args: noop{}, InsertOpts: &river.InsertOpts{Queue: "noop"}})
		}
		_, err := client.InsertManyFast(t.Context(), jobs)
		must(err)
	}
	start := time.Now()
	must(client.Start(t.Context()))
	await(func() bool { return done.Load() >= int64(count) })
	took := time.Since(start)
	must(client.Stop(t.Context()))
	return float64(count) / took.Seconds()
}

// TestPostgresWakes measures how fast runs that fell due at once are woken, each
// logged and asleep again, against River's rate of jobs that do nothing.
func TestPostgresWakes(t *testing.T) {
	count, _ := many(t, 100_000)
	d := newDatabase(t)
	a := fluxly.Automation{
		Name: "trial-onboarding", Trigger: fluxly.On("signed_up"),
		Steps: fluxly.Steps{fluxly.Wait(fluxly.Day), fluxly.Wait(fluxly.Day)},
	}
	store := d.open(t)
	putPeople(t, store, 0, count)
	at := time.Now().Add(time.Second)
	putWaiting(t, store, a, 0, count, func(int) time.Time { return at })
	d.settle(t)
	e := newEngine(t, fluxly.Config{Store: store, Automations: []fluxly.Automation{a}})
	await(func() bool { return time.Now().After(at) })
	start := time.Now()
	stop := running(t, e)
	await(func() bool { return e.Counters().Wakes > 0 })
	first := time.Since(start)
	await(func() bool { return e.Counters().Wakes >= int64(count) })
	took := time.Since(start)
	stop()
	rate := float64(count) / (took - first).Seconds()
	noops := riverRate(t, d, count)
	t.Logf("%d runs woken in %v, the first after %v: %.0f a second; River's jobs that do nothing: %.0f a second: %.2fx",
		count, took.Round(time.Millisecond), first.Round(time.Millisecond), rate, noops, rate/noops)
}

// TestPostgresSends measures mails that are queued, to a sender that takes each
// at once.
func TestPostgresSends(t *testing.T) {
	count, _ := many(t, 20_000)
	for _, most := range []int{8, 64} {
		d := newDatabase(t)
		e := newEngine(t, fluxly.Config{Store: d.open(t), MaxSends: most})
		trackAll(t, e, count, newcomer)
		start := time.Now()
		stop := running(t, e)
		await(func() bool { return e.Counters().Accepted >= int64(count) })
		took := time.Since(start)
		stop()
		t.Logf("%d mails with %d under way in %v: %.0f a second", count, most, took.Round(time.Millisecond), float64(count)/took.Seconds())
	}
}

// TestPostgresDelay measures how long after its time a mail is handed over, when
// 200 waits a second end.
func TestPostgresDelay(t *testing.T) {
	const rate = 200
	seconds := 3
	if _, asked := sleepers(t); asked {
		seconds = 30
	}
	count := rate * seconds
	d := newDatabase(t)
	a := fluxly.Automation{
		Name: "trial-onboarding", Trigger: fluxly.On("signed_up"),
		Steps: fluxly.Steps{fluxly.Wait(fluxly.Day), fluxly.Send("welcome")},
	}
	store := d.open(t)
	putPeople(t, store, 0, count)
	start := time.Now().Add(8 * time.Second) // beyond what River looks ahead
	due := func(n int) time.Time { return start.Add(time.Duration(n) * time.Second / rate) }
	putWaiting(t, store, a, 0, count, due)
	var mu sync.Mutex
	var delays []time.Duration
	sender := &instant{onSend: func(m *fluxly.Message) {
		now := time.Now()
		n, err := strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(m.To, "user_"), "@acme.test"))
		must(err)
		mu.Lock()
		defer mu.Unlock()
		delays = append(delays, now.Sub(due(n)))
	}}
	e := newEngine(t, fluxly.Config{Store: store, Automations: []fluxly.Automation{a}, Sender: sender})
	stop := running(t, e)
	await(func() bool { return e.Counters().Accepted >= int64(count) })
	stop()
	t.Logf("%d mails, due %d a second, were handed over late by: median %v, 99th percentile %v, at most %v", count, rate,
		quantile(delays, 0.5).Round(time.Millisecond), quantile(delays, 0.99).Round(time.Millisecond), quantile(delays, 1).Round(time.Millisecond))
}

// TestPostgresSleepers measures a database with very many runs asleep: what it is
// asked while nothing is due, what an event costs that concerns none of them,
// and how long it takes to wake 100,000 that fall due at once.
func TestPostgresSleepers(t *testing.T) {
	count, asked := sleepers(t)
	d := newDatabase(t)
	store := d.open(t)
	a := sleeperAutomations()
	e := newEngine(t, fluxly.Config{Store: store, Automations: a})
	stop := running(t, e)
	idle := func() (perSecond, share float64) {
		rest(time.Second)
		watched := 2 * time.Second
		if asked {
			watched = 30 * time.Second
		}
		asked, used := d.statements(t), processorTime(t)
		rest(watched)
		share = float64(processorTime(t)-used) / float64(watched)
		// The server publishes its figures with a delay of up to a second.
		return (d.statements(t) - asked) / watched.Seconds(), share
	}
	none, share := idle()
	t.Logf("nobody asleep: %.1f transactions a second, %.2f %% of one processor", none, 100*share)
	stop()
	start := time.Now()
	putPeople(t, store, 0, count)
	at := time.Now().Add(fluxly.Day)
	putWaiting(t, store, a[0], 0, count, func(n int) time.Time { return at.Add(time.Duration(n) * time.Second) })
	d.settle(t)
	t.Logf("%d runs put to sleep in %v, %.0f MB", count, time.Since(start).Round(time.Second), d.bytes(t, "runs", "profiles", "identities", "river_job")/1e6)
	e = newEngine(t, fluxly.Config{Store: store, Automations: a})
	stop = running(t, e)
	some, share := idle()
	t.Logf("%d asleep: %.1f transactions a second, %.2f %% of one processor", count, some, 100*share)
	stop()
	// Those that fall due at once are put to sleep among the others.
	due := min(count, 100_000)
	putPeople(t, store, count, count+due)
	soon := time.Now().Add(10*time.Second + time.Duration(due)*time.Millisecond)
	putWaiting(t, store, a[0], count, count+due, func(int) time.Time { return soon })
	e = newEngine(t, fluxly.Config{Store: store, Automations: a})
	stop = running(t, e)
	await(func() bool { return e.Counters().Wakes >= 1 })
	first := time.Since(soon)
	await(func() bool { return e.Counters().Wakes >= int64(due) })
	t.Logf("%d that fell due at once were woken in %v, the first after %v", due, time.Since(soon).Round(time.Millisecond), first.Round(time.Millisecond))
	stop()
}
