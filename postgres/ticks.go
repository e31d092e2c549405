package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/riverqueue/river"

	"github.com/getfluxly/fluxly"
)

const (
	// pieces is the most that is handed out at once. A tick that finds more
	// makes jobs of its parts, for all processes.
	pieces = 256
	// mostParts bounds the parts of one tick.
	mostParts = 64
	// firstPause and lastPause bound the pause before what failed is tried
	// again; it doubles each time.
	firstPause = 100 * time.Millisecond
	lastPause  = 30 * time.Second
)

// pauseAfter is the pause after a number of failures: the upper half of the
// doubled pause, at random, so that what failed together parts.
func pauseAfter(failures int) time.Duration {
	d := lastPause
	if shift := failures - 1; shift < 9 {
		d = min(d, firstPause<<max(shift, 0))
	}
	return d/2 + rand.N(d/2+1)
}

// flying are the pieces that this process hands out at present.
type flying struct {
	mu     sync.Mutex
	pieces map[piece]struct{}
}

type piece struct {
	kind fluxly.WorkKind
	work fluxly.Work
}

// begin takes those pieces that nobody else in this process has.
func (f *flying) begin(kind fluxly.WorkKind, list []fluxly.Work) (mine []fluxly.Work) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.pieces == nil {
		f.pieces = map[piece]struct{}{}
	}
	for _, w := range list {
		p := piece{kind, w}
		if _, there := f.pieces[p]; there {
			continue
		}
		f.pieces[p] = struct{}{}
		mine = append(mine, w)
	}
	return mine
}

func (f *flying) end(kind fluxly.WorkKind, list []fluxly.Work) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, w := range list {
		delete(f.pieces, piece{kind, w})
	}
}

// base is what all workers have in common.
type base[T river.JobArgs] struct {
	river.WorkerDefaults[T]
	jobs *jobs
}

// Timeout is the same on the client of a program.
func (base[T]) Timeout(*river.Job[T]) time.Duration { return jobTimeout }

// NextRetry is soon, and later each time.
func (base[T]) NextRetry(job *river.Job[T]) time.Time {
	return time.Now().Add(pauseAfter(job.Attempt))
}

// sendWorker does the jobs of mails.
type sendWorker struct{ base[sendArgs] }

// Work hands out one mail. The engine looks whether it is still due.
func (w *sendWorker) Work(ctx context.Context, job *river.Job[sendArgs]) error {
	return w.jobs.one(ctx, fluxly.WorkSend, job.Args.Key, job.Args.Due, job.Metadata)
}

// callWorker does the jobs of calls.
type callWorker struct{ base[callArgs] }

// Work hands out one call. The engine looks whether it is still due.
func (w *callWorker) Work(ctx context.Context, job *river.Job[callArgs]) error {
	return w.jobs.one(ctx, fluxly.WorkCall, job.Args.Run, job.Args.Due, job.Metadata)
}

// one hands out one piece at its time. Where somebody holds its person it is put
// off, as often as it takes.
func (j *jobs) one(ctx context.Context, kind fluxly.WorkKind, id string, due int64, metadata []byte) error {
	return j.do(ctx, func(ctx context.Context, p *work) error {
		x := fluxly.Work{ID: id, Due: time.UnixMicro(due).UTC()}
		if err := p.await(ctx, x.Due); err != nil {
			return err
		}
		mine := j.flying.begin(kind, []fluxly.Work{x})
		if mine == nil {
			return nil
		}
		defer j.flying.end(kind, mine)
		err := p.worker.Do(ctx, kind, mine)
		if errors.Is(err, fluxly.ErrHeld) {
			return river.JobSnooze(pauseAfter(snoozes(metadata) + 1))
		}
		return err
	})
}

// tickWorker does ticks.
type tickWorker struct{ base[tickArgs] }

// Work hands out what is due in the stretch of time of a tick. What is still
// due afterwards is handed out again, after a pause.
func (w *tickWorker) Work(ctx context.Context, job *river.Job[tickArgs]) error {
	return w.jobs.do(ctx, func(ctx context.Context, p *work) error {
		a := job.Args
		if err := p.await(ctx, time.UnixMicro(a.Until)); err != nil {
			return err
		}
		lanes := []fluxly.WorkKind{fluxly.WorkWake, fluxly.WorkSegment, fluxly.WorkSend}
		if a.Lane != "" {
			lanes = []fluxly.WorkKind{fluxly.WorkKind(a.Lane)}
		}
		left := make([]bool, len(lanes))
		errs := make([]error, len(lanes))
		var wg sync.WaitGroup
		for i, kind := range lanes {
			wg.Go(func() { left[i], errs[i] = w.jobs.stretch(ctx, p, kind, a) })
		}
		wg.Wait()
		again := false
		for i := range lanes {
			if errs[i] != nil {
				return errs[i]
			}
			again = again || left[i]
		}
		if again {
			return river.JobSnooze(pauseAfter(snoozes(job.Metadata) + 1))
		}
		return nil
	})
}

// snoozes is how often a job has been put off, as River counts it.
func snoozes(metadata []byte) int {
	var m struct {
		Snoozes int `json:"snoozes"`
	}
	_ = json.Unmarshal(metadata, &m)
	return m.Snoozes
}

// stretch hands out what is due of one kind in a stretch of time. left reports
// that some of it stayed due.
func (j *jobs) stretch(ctx context.Context, p *work, kind fluxly.WorkKind, a tickArgs) (left bool, err error) {
	tried := map[fluxly.Work]bool{}
	for {
		found, err := j.find(ctx, kind, a, pieces+1+len(tried))
		if err != nil || len(found) == 0 {
			return false, err
		}
		if kind == fluxly.WorkSend {
			// Mails whose claim is over: jobs of their own, as for all mails.
			return false, j.insertSends(ctx, found)
		}
		if a.Parts == 0 && len(tried) == 0 && len(found) > pieces {
			return false, j.divide(ctx, kind, a)
		}
		var fresh []fluxly.Work
		left = false
		for _, x := range found {
			if tried[x] {
				left = true
			} else if len(fresh) < pieces {
				fresh = append(fresh, x)
			}
		}
		if fresh == nil {
			return left, nil
		}
		for _, x := range fresh {
			tried[x] = true
		}
		if mine := j.flying.begin(kind, fresh); mine != nil {
			err = p.worker.Do(ctx, kind, mine)
			j.flying.end(kind, mine)
		}
		if errors.Is(err, fluxly.ErrHeld) {
			err = nil // it is still due, and the others need not wait for it
		}
		if err == nil {
			err = ctx.Err() // what is left is for another process
		}
		if err != nil {
			return false, err
		}
	}
}

// divide makes jobs of the parts of a tick, so that all processes share it. A
// person is in one part, so that parts do not wait for each other.
func (j *jobs) divide(ctx context.Context, kind fluxly.WorkKind, a tickArgs) error {
	a.Lane = string(kind)
	n, err := j.count(ctx, kind, a)
	if err != nil {
		return err
	}
	now := time.Now()
	a.Parts = max(2, min((n+pieces-1)/pieces, mostParts))
	list := make([]river.InsertManyParams, a.Parts)
	for i := range list {
		a.Part = i
		list[i] = j.job(a, j.names.tick, now, now)
		list[i].InsertOpts.Priority = 2 // behind ticks, whose time is now
	}
	_, err = j.own.InsertMany(ctx, list)
	return explain("insert jobs", err)
}

func (j *jobs) insertSends(ctx context.Context, list []fluxly.Work) error {
	now := time.Now()
	jobs := make([]river.InsertManyParams, len(list))
	for i, x := range list {
		jobs[i] = j.job(sendArgs{Key: x.ID, Due: micros(x.Due)}, j.names.send, now, now)
	}
	_, err := j.own.InsertMany(ctx, jobs)
	return explain("insert jobs", err)
}

// source is where the due work of a kind is: its columns and what is common to
// all of its questions.
type source struct{ columns, from, due string }

var sources = map[fluxly.WorkKind]source{
	fluxly.WorkWake:    {"t.id, ''", "fluxly.runs t WHERE t.due_kind = 1 AND", "t.due_at"},
	fluxly.WorkCall:    {"t.id, ''", "fluxly.runs t WHERE t.due_kind = 2 AND", "t.due_at"},
	fluxly.WorkSegment: {"p.id, t.segment", "fluxly.memberships t JOIN fluxly.profiles p ON p.pid = t.pid WHERE", "t.check_at"},
	// Those in sending: the others have jobs of their own.
	fluxly.WorkSend: {"t.key, ''", "fluxly.sends t WHERE t.status = 'sending' AND", "t.due_at"},
}

// between bounds a question; the parameters are the bounds, the part and the
// number of parts, which is 1 for all.
func (s source) between() string {
	return s.from + " " + s.due + " >= $1::timestamptz AND " + s.due + " <= $2::timestamptz AND t.pid % $4::bigint = $3::bigint"
}

func (a tickArgs) params() []any {
	return []any{time.UnixMicro(a.From), time.UnixMicro(a.Until), int64(a.Part), int64(max(a.Parts, 1))}
}

// find returns up to limit pieces of a stretch of time, earliest first.
func (j *jobs) find(ctx context.Context, kind fluxly.WorkKind, a tickArgs, limit int) (list []fluxly.Work, err error) {
	s, ok := sources[kind]
	if !ok {
		return nil, fmt.Errorf("postgres store: unknown kind of work %q", kind)
	}
	sql := j.s.sql("SELECT " + s.columns + ", " + s.due + " FROM " + s.between() + " ORDER BY " + s.due + ", 1, 2 LIMIT $5::bigint")
	rows, err := j.s.pool.Query(ctx, sql, append(a.params(), int64(limit))...)
	if err != nil {
		return nil, explain("look for due work", err)
	}
	defer rows.Close()
	for rows.Next() {
		var x fluxly.Work
		if err := rows.Scan(&x.ID, &x.Segment, &x.Due); err != nil {
			return nil, explain("look for due work", err)
		}
		x.Due = x.Due.UTC()
		list = append(list, x)
	}
	return list, explain("look for due work", rows.Err())
}

// count counts the pieces of a stretch of time, as far as it matters.
func (j *jobs) count(ctx context.Context, kind fluxly.WorkKind, a tickArgs) (n int, err error) {
	s := sources[kind]
	sql := j.s.sql("SELECT count(*) FROM (SELECT FROM " + s.between() + " LIMIT $5::bigint) t")
	err = j.s.pool.QueryRow(ctx, sql, append(a.params(), int64(pieces*mostParts))...).Scan(&n)
	return n, explain("count due work", err)
}
