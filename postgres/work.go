package postgres

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/riverqueue/river"

	"github.com/getfluxly/fluxly"
)

// stopTimeout bounds how long Work waits for River to put its jobs away, which
// it cannot while the database is gone.
const stopTimeout = 30 * time.Second

// Work hands out due work until ctx ends or the store is closed. See
// [fluxly.Store]. All processes that run it on one schema share the work.
//
// It runs a River client of its own. Where the program handed over its own,
// that one runs the jobs, and Work lets it: jobs that come while no Work runs
// are put off for a few seconds.
//
// When ctx ends, jobs that have not begun are left to other processes.
func (s *Store) Work(ctx context.Context, w fluxly.Worker) error {
	if !s.working.TryLock() {
		return errors.New("postgres store: Work runs already; run one at a time")
	}
	defer s.working.Unlock()
	done, err := s.jobs.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	return s.jobs.run(ctx, w)
}

// begin counts Work in, so that Close waits for it.
func (j *jobs) begin(ctx context.Context) (done func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	j.s.closing.RLock()
	defer j.s.closing.RUnlock()
	if j.s.ending.Load() {
		return nil, fmt.Errorf("postgres store: %w", fluxly.ErrClosed)
	}
	if j.s.cfg.River != nil && j.s.cfg.Workers == nil {
		return nil, errors.New("postgres store: Work needs Config.Workers, the bundle of Config.River; without it the process only adds jobs")
	}
	j.works.Add(1)
	return j.works.Done, nil
}

// run is Work.
func (j *jobs) run(ctx context.Context, w fluxly.Worker) error {
	if x, ok := w.(fluxly.EndingWorker); ok {
		defer x.End()
	}
	p := newWork(ctx, w)
	defer p.end()
	j.present.Store(p)
	defer j.present.Store(nil)
	if j.s.cfg.River == nil {
		client, err := j.newClient()
		if err != nil {
			return fmt.Errorf("postgres store: start River: %w", err)
		}
		// It is stopped in order, and not by the end of ctx, so that jobs which
		// end with ctx are put back at once.
		if err := client.Start(context.WithoutCancel(ctx)); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return explain("start River", err)
		}
		defer func() {
			p.cancel()
			stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
			defer cancel()
			if err := client.Stop(stopping); err != nil {
				j.s.cfg.Logger.Warn("postgres store: River does not stop; its jobs are taken up by other processes", "error", err)
			}
		}()
	}
	// The leader of a River that others use too may be a client that knows
	// nothing of the sweeps, and a leader inserts none but its own jobs.
	beat := time.NewTicker(j.s.cfg.timing.every)
	defer beat.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-j.closed:
			return fmt.Errorf("postgres store: %w", fluxly.ErrClosed)
		case <-beat.C:
			j.insertSweep(ctx)
		}
	}
}

// insertSweep inserts the sweep of this stretch of time, where nobody has yet.
func (j *jobs) insertSweep(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, insertTimeout)
	defer cancel()
	args, opts := j.sweep()
	if _, err := j.own.Insert(ctx, args, opts); err != nil && ctx.Err() == nil {
		j.s.cfg.Logger.Warn("postgres store: a sweep could not be inserted", "error", err)
	}
}

// work is one Work that runs. Jobs enter it for the time of their calls.
type work struct {
	worker fluxly.Worker
	done   <-chan struct{}
	cancel context.CancelFunc

	mu    sync.Mutex
	ended bool
	calls sync.WaitGroup
}

func newWork(ctx context.Context, w fluxly.Worker) *work {
	ctx, cancel := context.WithCancel(ctx)
	return &work{worker: w, done: ctx.Done(), cancel: cancel}
}

// end waits for the calls that run; no job enters after it.
func (p *work) end() {
	p.cancel()
	p.mu.Lock()
	p.ended = true
	p.mu.Unlock()
	p.calls.Wait()
}

// over reports whether it is about to end.
func (p *work) over() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// do runs a job inside of the Work that runs. Its context ends with Work too.
func (j *jobs) do(ctx context.Context, fn func(ctx context.Context, p *work) error) error {
	p := j.present.Load()
	if p == nil {
		return river.JobSnooze(idleSnooze)
	}
	p.mu.Lock()
	if p.ended {
		p.mu.Unlock()
		return river.JobSnooze(idleSnooze)
	}
	p.calls.Add(1)
	p.mu.Unlock()
	defer p.calls.Done()

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watched := make(chan struct{})
	defer close(watched)
	go func() {
		select {
		case <-p.done:
			cancel()
		case <-watched:
		}
	}()
	err := fn(ctx, p)
	if err != nil && p.over() {
		// Somebody else takes it up.
		return river.JobSnooze(0)
	}
	return err
}

// await waits until a time of the worker's clock. A job whose time is further
// away is put off, so that it does not keep others from their turn.
func (p *work) await(ctx context.Context, until time.Time) error {
	left := until.Sub(p.worker.Now())
	switch {
	case left <= 0:
		return ctx.Err()
	case left > lead:
		return river.JobSnooze(min(left-lead, time.Hour))
	}
	timer := time.NewTimer(left)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
