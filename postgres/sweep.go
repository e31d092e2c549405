package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"

	"github.com/getfluxly/fluxly"
)

const (
	// busy is how old a job that waits in a queue must be for the queue to
	// count as behind; what is overdue then only waits for its turn.
	busy = 10 * time.Second
	// mostLeft bounds the mails and calls left behind that one sweep takes up.
	mostLeft = 1000
)

// sweepWorker does sweeps.
type sweepWorker struct{ base[sweepArgs] }

// Work plans the ticks of the next minutes and takes up what was left behind.
func (w *sweepWorker) Work(ctx context.Context, _ *river.Job[sweepArgs]) error {
	return w.jobs.do(ctx, func(ctx context.Context, p *work) error {
		if err := w.jobs.planAhead(ctx, p.worker.Now()); err != nil {
			return err
		}
		return w.jobs.takeUp(ctx, p.worker.Now())
	})
}

// planAhead inserts the ticks of the seconds in which something is due.
func (j *jobs) planAhead(ctx context.Context, now time.Time) error {
	// Ticks of the next seconds would not be in time to find what is committed
	// now; whoever commits that inserts its own.
	rows, err := j.s.pool.Query(ctx, j.s.sql(`SELECT ceil(extract(epoch FROM due))::bigint AS slot FROM (
			SELECT due_at AS due FROM fluxly.runs WHERE due_kind = 1 AND due_at > $1::timestamptz AND due_at <= $2::timestamptz
			UNION ALL SELECT check_at FROM fluxly.memberships WHERE check_at > $1::timestamptz AND check_at <= $2::timestamptz
			UNION ALL SELECT due_at FROM fluxly.sends WHERE status = 'sending' AND due_at > $1::timestamptz AND due_at <= $2::timestamptz
		) t GROUP BY slot ORDER BY slot`), now, now.Add(horizon))
	if err != nil {
		return explain("plan ticks", err)
	}
	slots, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil || len(slots) == 0 {
		return explain("plan ticks", err)
	}
	list := make([]river.InsertManyParams, len(slots))
	for i, slot := range slots {
		list[i] = j.slotTick(slot)
	}
	_, err = j.own.InsertMany(ctx, list)
	return explain("insert jobs", err)
}

// takeUp makes jobs for what was left behind.
func (j *jobs) takeUp(ctx context.Context, now time.Time) error {
	a := tickArgs{From: 0, Until: micros(now.Add(-j.s.cfg.timing.overdue))}
	for _, kind := range []fluxly.WorkKind{fluxly.WorkWake, fluxly.WorkSegment} {
		a.Lane = string(kind)
		left, err := j.find(ctx, kind, a, 1)
		if err != nil {
			return err
		}
		if len(left) == 0 {
			continue
		}
		behind, err := j.behind(ctx, j.names.tick)
		if err != nil {
			return err
		}
		if behind {
			continue
		}
		if err := j.divide(ctx, kind, a); err != nil {
			return err
		}
	}
	return j.takeUpOnes(ctx, now)
}

// takeUpOnes is takeUp for mails and calls.
func (j *jobs) takeUpOnes(ctx context.Context, now time.Time) error {
	for _, q := range []struct {
		queue, sql string
		args       func(id string, due time.Time) river.JobArgs
	}{{
		queue: j.names.send,
		sql:   "SELECT key, due_at FROM fluxly.sends WHERE due_at <= $1::timestamptz ORDER BY due_at, key LIMIT $2::bigint",
		args:  func(id string, due time.Time) river.JobArgs { return sendArgs{Key: id, Due: micros(due)} },
	}, {
		queue: j.names.call,
		sql:   "SELECT id, due_at FROM fluxly.runs WHERE due_kind = 2 AND due_at <= $1::timestamptz ORDER BY due_at, id LIMIT $2::bigint",
		args:  func(id string, due time.Time) river.JobArgs { return callArgs{Run: id, Due: micros(due)} },
	}} {
		rows, err := j.s.pool.Query(ctx, j.s.sql(q.sql), now.Add(-j.s.cfg.timing.overdue), int64(mostLeft))
		if err != nil {
			return explain("look for what was left behind", err)
		}
		var list []river.InsertManyParams
		var id string
		var due time.Time
		_, err = pgx.ForEachRow(rows, []any{&id, &due}, func() error {
			list = append(list, j.job(q.args(id, due), q.queue, now, now))
			return nil
		})
		if err != nil {
			return explain("look for what was left behind", err)
		}
		if len(list) == 0 {
			continue
		}
		behind, err := j.behind(ctx, q.queue)
		if err != nil {
			return err
		}
		if behind {
			continue
		}
		j.s.cfg.Logger.Warn("postgres store: due work was left behind and is taken up", "queue", q.queue, "pieces", len(list))
		if _, err := j.own.InsertMany(ctx, list); err != nil {
			return explain("insert jobs", err)
		}
	}
	return nil
}

// behind reports whether jobs of a queue wait for their turn for long.
func (j *jobs) behind(ctx context.Context, queue string) (yes bool, err error) {
	table := "river_job"
	if schema := j.own.Schema(); schema != "" {
		table = pgx.Identifier{schema, table}.Sanitize()
	}
	err = j.s.pool.QueryRow(ctx, "SELECT EXISTS (SELECT FROM "+table+" WHERE state = 'available' AND queue = $1 AND scheduled_at < $2)",
		queue, time.Now().Add(-busy)).Scan(&yes)
	return yes, explain("look at a queue", err)
}
