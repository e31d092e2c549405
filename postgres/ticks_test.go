package postgres

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/fluxlytest"
	"github.com/getfluxly/fluxly/internal/pgtest"
)

// fakeWorker is a worker on the wall clock that ends the runs it is given.
type fakeWorker struct {
	s  *Store
	do func(ctx context.Context, kind fluxly.WorkKind, batch []fluxly.Work) error

	mu   sync.Mutex
	got  map[string]int
	when map[string]time.Time
}

func newFakeWorker(s *Store) *fakeWorker {
	return &fakeWorker{s: s, got: map[string]int{}, when: map[string]time.Time{}}
}

func (w *fakeWorker) Now() time.Time { return time.Now() }

func (w *fakeWorker) Do(ctx context.Context, kind fluxly.WorkKind, batch []fluxly.Work) error {
	if w.do != nil {
		return w.do(ctx, kind, batch)
	}
	now := time.Now()
	err := w.s.Update(ctx, func(tx fluxly.Tx) error {
		for _, x := range batch {
			r, err := tx.Run(ctx, x.ID)
			if err != nil || r == nil || r.Status != fluxly.RunLive {
				return err
			}
			r.Status, r.WakeAt, r.Pending = fluxly.RunCompleted, time.Time{}, ""
			if err := tx.PutRun(ctx, r); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, x := range batch {
		w.got[x.ID]++
		w.when[x.ID] = now
	}
	return nil
}

// count is how many pieces were handed out, and how many more than once.
func (w *fakeWorker) count() (pieces, twice int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range w.got {
		if n > 1 {
			twice++
		}
	}
	return len(w.got), twice
}

func (w *fakeWorker) has(id string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.got[id] > 0
}

func (w *fakeWorker) start(t *testing.T) (stop func()) {
	t.Helper()
	return start(t, func(ctx context.Context) error { return w.s.Work(ctx, w) })
}

// putRun stores a run of a person of its own that wakes at a time.
func putRun(ctx context.Context, tx fluxly.Tx, id string, wake time.Time) error {
	return tx.PutRun(ctx, &fluxly.Run{
		ID: id, Automation: "a", Version: "v", ProfileID: "person " + id, Status: fluxly.RunLive, Step: "s",
		StartedAt: wake.Add(-time.Hour), UpdatedAt: wake.Add(-time.Hour), Pending: fluxly.PendingTimer, WakeAt: wake,
	})
}

func putRuns(t *testing.T, s *Store, wake time.Time, ids ...string) {
	t.Helper()
	err := s.Update(t.Context(), func(tx fluxly.Tx) error {
		for _, id := range ids {
			if err := putRun(t.Context(), tx, id, wake); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// What is due at once goes to all processes in parts, each piece once.
func TestThousandAtOnce(t *testing.T) {
	t.Parallel()
	schema := pgtest.Schema(t)
	a, b := newFakeWorker(openIn(t, schema)), newFakeWorker(openIn(t, schema))
	a.start(t)
	b.start(t)
	const n = 1000
	ids := make([]string, n)
	for i := range ids {
		ids[i] = fmt.Sprintf("r%04d", i)
	}
	wake := time.Now().Add(8 * time.Second)
	putRuns(t, a.s, wake, ids...)
	var mine, others, twice int
	eventually(t, "all handed out", func() bool {
		var x, y int
		mine, x = a.count()
		others, y = b.count()
		twice = x + y
		return mine+others >= n
	})
	if mine+others != n || twice != 0 {
		t.Errorf("%d and %d handed out, %d of them twice; want %d", mine, others, twice, n)
	}
	var first, last time.Duration
	for _, w := range []*fakeWorker{a, b} {
		w.mu.Lock()
		for id, at := range w.when {
			late := at.Sub(wake)
			if late < 0 {
				t.Errorf("%s was handed out %s early", id, -late)
			}
			if first == 0 || late < first {
				first = late
			}
			last = max(last, late)
		}
		w.mu.Unlock()
	}
	t.Logf("%d due at once: %d and %d, the first batch after %s, the last after %s", n, mine, others, first, last)
}

// Jobs that got lost, by hand here, are made up for.
func TestJobsAreLost(t *testing.T) {
	t.Parallel()
	s := openIn(t, pgtest.Schema(t), timed(impatient))
	w := newFakeWorker(s)
	now := time.Now()
	putRuns(t, s, now, "overdue")
	putRuns(t, s, now.Add(8*time.Second), "soon")
	putRuns(t, s, now.Add(horizon+8*time.Second), "far")
	err := s.Update(t.Context(), func(tx fluxly.Tx) error {
		call := &fluxly.Run{
			ID: "call", Automation: "a", Version: "v", ProfileID: "p", Status: fluxly.RunLive, Step: "s",
			StartedAt: now, UpdatedAt: now, Pending: fluxly.PendingCall, WakeAt: now,
		}
		return tx.PutRun(t.Context(), call)
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.pool.Exec(t.Context(), s.sql("DELETE FROM fluxly.river_job")); err != nil {
		t.Fatal(err)
	}
	w.start(t)
	eventually(t, "taken up", func() bool { return w.has("overdue") && w.has("soon") && w.has("call") })
	eventually(t, "planned", func() bool {
		return jobsOf(t, s, "fluxly_tick", `"until": `+strconv.FormatInt(slotOf(now.Add(horizon+8*time.Second))*1e6, 10)) > 0
	})
	if w.has("far") {
		t.Error("what is not due was handed out")
	}
}

// jobsOf counts the jobs of a kind whose arguments hold a text.
func jobsOf(t *testing.T, s *Store, kind, args string) (n int) {
	t.Helper()
	err := s.pool.QueryRow(t.Context(), s.sql("SELECT count(*) FROM fluxly.river_job WHERE kind = $1 AND strpos(args::text, $2) > 0"), kind, args).Scan(&n)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// A transaction that took so long that the tick it counted on has been is seen
// to when it commits.
func TestSlowTransaction(t *testing.T) {
	t.Parallel()
	s := openIn(t, pgtest.Schema(t))
	w := newFakeWorker(s)
	w.start(t)
	due := time.Now().Add(soon + 2*time.Second).Truncate(time.Second).Add(-100 * time.Millisecond)
	for due.Before(time.Now().Add(soon + 200*time.Millisecond)) {
		due = due.Add(time.Second)
	}
	putRuns(t, s, due, "quick")
	putRuns(t, s, due.Add(time.Hour), "slow")

	conn, err := s.pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Release()
	n := &notes{ticks: []time.Time{due}}
	for _, step := range []func() error{
		func() error { _, err := conn.Exec(t.Context(), "BEGIN"); return err },
		func() error {
			_, err := conn.Exec(t.Context(), s.sql("UPDATE fluxly.runs SET due_at = $1 WHERE id = 'slow'"), due)
			return err
		},
		func() error { return s.jobs.insert(t.Context(), &connTx{conn: conn.Conn()}, n) },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the tick over", func() bool { return w.has("quick") })
	if _, err := conn.Exec(t.Context(), "COMMIT"); err != nil {
		t.Fatal(err)
	}
	committed := time.Now()
	s.jobs.committed(n)
	eventually(t, "the slow one done", func() bool {
		// The fake worker ends what it is given by the row, which says an hour.
		return w.has("slow")
	})
	if d := time.Since(committed); d > 10*time.Second {
		t.Errorf("the slow one was found after %s, so perhaps by a sweep", d)
	}
}

// The leader goes; another one schedules on.
func TestLeaderChange(t *testing.T) {
	t.Parallel()
	schema := pgtest.Schema(t)
	a := openIn(t, schema)
	first := &fluxlytest.FakeSender{}
	ea := newEngine(t, a, first, 8*time.Second)
	stop := start(t, ea.Run)
	eventually(t, "a leader there", func() bool { return leader(t, a) != "" })
	was := leader(t, a)
	b := openIn(t, schema)
	second := &fluxlytest.FakeSender{}
	start(t, newEngine(t, b, second, 8*time.Second).Run)
	signUp(t, ea, 0, 10)
	eventually(t, "welcomed", func() bool { return len(mailsOf(first, second)) == 10 })
	stop()
	awaitMails(t, 10, first, second)
	eventually(t, "another leader", func() bool { now := leader(t, b); return now != "" && now != was })
}

func leader(t *testing.T, s *Store) (id string) {
	t.Helper()
	err := s.pool.QueryRow(t.Context(), s.sql("SELECT leader_id FROM fluxly.river_leader")).Scan(&id)
	if err != nil && err != pgx.ErrNoRows { //nolint:errorlint // as pgx returns it
		t.Fatal(err)
	}
	return id
}

// When Work ends, jobs that have not begun are there for others.
func TestWorkDrains(t *testing.T) {
	t.Parallel()
	schema := pgtest.Schema(t)
	a, b := newFakeWorker(openIn(t, schema)), newFakeWorker(openIn(t, schema))
	inside := make(chan struct{}, 99)
	a.do = func(ctx context.Context, _ fluxly.WorkKind, _ []fluxly.Work) error {
		inside <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	}
	stop := a.start(t)
	putRuns(t, a.s, time.Now(), "r1", "r2")
	<-inside
	stop()
	b.start(t)
	begun := time.Now()
	eventually(t, "taken over", func() bool { return b.has("r1") && b.has("r2") })
	if d := time.Since(begun); d > 10*time.Second {
		t.Errorf("taken over after %s, want at once", d)
	}
}

// No job holds the id of a person.
func TestJobsHoldNoIDs(t *testing.T) {
	t.Parallel()
	s := openIn(t, pgtest.Schema(t))
	e := newEngine(t, s, &fluxlytest.FakeSender{}, time.Second)
	signUp(t, e, 0, 3)
	rows, err := s.pool.Query(t.Context(), s.sql("SELECT args::text || metadata::text FROM fluxly.river_job"))
	if err != nil {
		t.Fatal(err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(list) == 0 {
		t.Fatalf("%d jobs, %v", len(list), err)
	}
	for _, text := range list {
		if strings.Contains(text, "user_") || strings.Contains(text, "@") {
			t.Errorf("a job holds %s", text)
		}
	}
}
