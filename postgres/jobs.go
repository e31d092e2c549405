package postgres

import (
	"cmp"
	"context"
	"database/sql"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
)

const (
	// horizon is how far ahead ticks are planned. Each sweep plans as far too,
	// so that what is due later than that needs no tick at first: there are
	// several sweeps before its time, also when the leader changes.
	horizon = 3 * time.Minute
	// callerHorizon is the same for a transaction of the program's own, of
	// which nobody knows how long it takes.
	callerHorizon = time.Hour
	// lateMargin and planMargin are how close to its time a commit may come
	// that relied upon the tick of others, and upon a sweep.
	lateMargin = 2 * time.Second
	planMargin = time.Minute // several sweeps
	// insertTimeout bounds the insertion of ticks beside a transaction.
	insertTimeout = 10 * time.Second
)

// jobs see to it that what is due is done.
//
// A queued mail and a call have a job each, inserted by the transaction that
// makes them due. All else is done by ticks: a tick stands for a stretch of
// time, mostly a second, and does what is due in it. Due times further ahead
// than the horizon have none until a sweep plans it.
type jobs struct {
	s      *Store
	names  queueNames
	own    *river.Client[pgx.Tx]
	caller *river.Client[*sql.Tx]

	// present is the Work that runs; nil when none does.
	present atomic.Pointer[work]
	flying  flying

	closed chan struct{}
	// works is Work, tasks are insertions beside transactions.
	works, tasks sync.WaitGroup

	mu sync.Mutex
	// slots are the seconds, in the future, whose ticks this process has
	// committed.
	slots map[int64]struct{}
}

func newJobs(s *Store) (*jobs, error) {
	schema, shared := s.cfg.Schema, s.cfg.River != nil
	if shared {
		schema = s.cfg.River.Schema()
	}
	j := &jobs{s: s, names: newQueueNames(s.cfg.Schema, shared), closed: make(chan struct{}), slots: map[int64]struct{}{}}
	var err error
	if j.own, j.caller, err = newInserters(s.pool, schema, s.cfg); err != nil {
		return nil, err
	}
	if shared && s.cfg.Workers != nil {
		err = j.join(s.cfg.River, s.cfg.Workers)
	}
	return j, err
}

// insert puts the jobs of n into the transaction. It is called once before each
// commit, when n is not empty.
func (j *jobs) insert(ctx context.Context, tx pgx.Tx, n *notes) error {
	_, own := tx.(*connTx)
	if list := j.params(n, time.Now(), own); list != nil {
		_, err := j.own.InsertManyTx(ctx, tx, list)
		return err
	}
	return nil
}

// insertSQL is insert for a transaction of database/sql.
func (j *jobs) insertSQL(ctx context.Context, tx *sql.Tx, n *notes) error {
	if list := j.params(n, time.Now(), false); list != nil {
		_, err := j.caller.InsertManyTx(ctx, tx, list)
		return err
	}
	return nil
}

// committed is called after the commit of a transaction of the store's own. One
// that took so long that the tick it relied upon may have been before it gets a
// tick of its own.
func (j *jobs) committed(n *notes) {
	now := time.Now()
	var late []time.Time
	j.mu.Lock()
	for _, due := range n.ticks {
		switch {
		case n.plan.relied(due) && due.Before(now.Add(lateMargin)),
			n.plan.far(due) && due.Before(now.Add(planMargin)):
			late = append(late, due)
		case n.plan.relied(due):
			j.slots[slotOf(due)] = struct{}{}
		}
	}
	if len(j.slots) > 2*int(horizon/time.Second) {
		past := now.Unix()
		maps.DeleteFunc(j.slots, func(slot int64, _ struct{}) bool { return slot < past })
	}
	j.mu.Unlock()
	if late != nil {
		j.insertLate(late)
	}
}

// insertLate inserts ticks beside the transaction that needs them. Where that
// fails, a sweep finds what was due.
func (j *jobs) insertLate(late []time.Time) {
	list := j.params(&notes{ticks: late}, time.Now(), false)
	if list == nil {
		return
	}
	j.tasks.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), insertTimeout)
		defer cancel()
		if _, err := j.own.InsertMany(ctx, list); err != nil {
			j.s.cfg.Logger.Warn("postgres store: a tick could not be inserted; what is due is found by a sweep", "error", err)
		}
	})
}

// plan says how a transaction sees to what it made due, once its jobs were
// inserted.
type plan struct {
	now time.Time
	own bool
}

// relied reports whether a due time is left to the tick of its second, which
// others may have inserted.
func (p plan) relied(due time.Time) bool {
	return p.own && due.After(p.now.Add(soon)) && !p.far(due)
}

// far reports whether a due time is left to the planning.
func (p plan) far(due time.Time) bool { return p.own && due.After(p.now.Add(horizon)) }

// slotOf is the second, counted from 1970, at whose end a time lies.
func slotOf(t time.Time) int64 { return micros(t.Add(time.Second-time.Microsecond)) / 1e6 }

// micros is a time as jobs name it.
func micros(t time.Time) int64 { return t.UnixMicro() }

// params makes the jobs of n.
func (j *jobs) params(n *notes, now time.Time, own bool) []river.InsertManyParams {
	n.plan = plan{now: now, own: own}
	var list []river.InsertManyParams
	// The last due time of each counts.
	for id, due := range latest(n.sends) {
		list = append(list, j.job(sendArgs{Key: id, Due: micros(due)}, j.names.send, due, now))
	}
	for id, due := range latest(n.calls) {
		list = append(list, j.job(callArgs{Run: id, Due: micros(due)}, j.names.call, due, now))
	}
	return append(list, j.ticks(n, now)...)
}

func latest(list []note) map[string]time.Time {
	if len(list) == 0 {
		return nil
	}
	m := make(map[string]time.Time, len(list))
	for _, x := range list {
		m[x.id] = x.due
	}
	return m
}

// job is a job for a time.
func (j *jobs) job(args river.JobArgs, queue string, at, now time.Time) river.InsertManyParams {
	opts := &river.InsertOpts{Queue: queue}
	if at.After(now.Add(soon)) {
		opts.ScheduledAt = at
	}
	return river.InsertManyParams{Args: args, InsertOpts: opts}
}

// ticks are the jobs for the due times that share theirs.
func (j *jobs) ticks(n *notes, now time.Time) (list []river.InsertManyParams) {
	if len(n.ticks) == 0 {
		return nil
	}
	exact := map[int64]*tickArgs{} // by second; 0 is what is due already
	relied := map[int64]struct{}{}
	most := now.Add(horizon)
	if !n.plan.own {
		most = now.Add(callerHorizon)
	}
	for _, due := range n.ticks {
		switch {
		case due.After(most):
		case n.plan.relied(due):
			relied[slotOf(due)] = struct{}{}
		default:
			slot := int64(0)
			if due.After(now) {
				slot = slotOf(due)
			}
			at := micros(due)
			if a := exact[slot]; a != nil {
				a.From, a.Until = min(a.From, at), max(a.Until, at)
			} else {
				exact[slot] = &tickArgs{From: at, Until: at}
			}
		}
	}
	for _, a := range exact {
		list = append(list, j.job(*a, j.names.tick, time.UnixMicro(a.Until).Add(-lead), now))
	}
	j.mu.Lock()
	for slot := range relied {
		if _, known := j.slots[slot]; known {
			delete(relied, slot)
		}
	}
	j.mu.Unlock()
	// In order, because transactions that insert the same wait for each other.
	for _, slot := range slices.SortedFunc(maps.Keys(relied), cmp.Compare[int64]) {
		list = append(list, j.slotTick(slot))
	}
	return list
}

// slotTick is the tick of a whole second, of which there is one.
func (j *jobs) slotTick(slot int64) river.InsertManyParams {
	return river.InsertManyParams{
		Args: tickArgs{From: (slot-1)*1e6 + 1, Until: slot * 1e6},
		InsertOpts: &river.InsertOpts{
			Queue: j.names.tick, ScheduledAt: time.Unix(slot, 0).Add(-lead),
			UniqueOpts: river.UniqueOpts{ByArgs: true, ByQueue: true},
		},
	}
}

// close makes Work end; it is called once.
func (j *jobs) close() { close(j.closed) }

// wait waits for what is inserted beside transactions. None begins any more.
func (j *jobs) wait() { j.tasks.Wait() }
