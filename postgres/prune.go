package postgres

import (
	"context"
	"slices"
	"time"

	"github.com/getfluxly/fluxly"
)

// What is pruned belongs to many people, and these are not locked for it: a
// stretch locks its own rows instead, leaves out those that somebody else has
// locked (the next time finds them), and decides by what is so after that. What
// is old in this way is what no decision asks for any more, so that it makes no
// difference to who holds the lock of the person.

// oneMore is the limit of a question that also finds out whether there is more
// behind limit rows.
func oneMore(limit int) any {
	if limit <= 0 {
		return noLimit(0)
	}
	return noLimit(limit + 1)
}

func (t *tx) PruneEvents(ctx context.Context, q fluxly.PruneQuery) (res fluxly.PruneResult, err error) {
	if err := t.check(ctx, true); err != nil {
		return res, err
	}
	res.Next = q.After
	var seqs []int64
	occurred := map[int64]time.Time{}
	looked, aged := 0, false
	err = t.ask(ctx, statement{
		sql: `SELECT e.seq, coalesce((SELECT name FROM fluxly.names WHERE nid = e.nid), ''), e.occurred, e.received,
			(e.traits -> 'email') IS NOT NULL
			FROM fluxly.events e WHERE e.seq > $1::bigint ORDER BY e.seq LIMIT $2::bigint`,
		args: []any{q.After.Seq, oneMore(q.Limit)},
		row: func(scan scanFunc) error {
			var seq int64
			var name string
			var at, received timeColumn
			var address bool
			if err := scan(&seq, &name, &at, &received, &address); err != nil {
				return err
			}
			if looked++; q.Limit > 0 && looked > q.Limit {
				res.More = true
				return nil
			}
			res.Next.Seq = seq
			aged = aged || received.Before(q.Before)
			if !address && q.Old(name, at.Time, received.Time) {
				seqs = append(seqs, seq)
				occurred[seq] = at.Time
			}
			return nil
		},
	})
	if err != nil {
		return res, err
	}
	res.More = res.More && aged
	if len(seqs) == 0 {
		return res, nil
	}
	// The events do not change hands after the first of these statements, and
	// the second sees whose runs live after it.
	owner := map[int64]int64{}
	live := map[int64][]*runRow{}
	err = t.ask(ctx,
		statement{sql: "SELECT seq, pid FROM fluxly.events WHERE seq = ANY($1::bigint[]) FOR UPDATE SKIP LOCKED", args: []any{seqs}, row: func(scan scanFunc) error {
			var seq, pid int64
			err := scan(&seq, &pid)
			owner[seq] = pid
			return err
		}},
		statement{sql: "SELECT " + runColumns + ` FROM fluxly.runs r WHERE r.status = 'live'
			AND r.pid IN (SELECT pid FROM fluxly.events WHERE seq = ANY($1::bigint[]))`, args: []any{seqs}, row: func(scan scanFunc) error {
			r, err := scanRun(scan)
			live[r.pid] = append(live[r.pid], r)
			return err
		}})
	if err != nil {
		return res, err
	}
	runs := map[int64][]*fluxly.Run{}
	for pid, rows := range live {
		if runs[pid], err = decodeRuns(rows); err != nil {
			return res, err
		}
	}
	seqs = slices.DeleteFunc(seqs, func(seq int64) bool {
		pid, locked := owner[seq]
		return !locked || slices.ContainsFunc(runs[pid], func(r *fluxly.Run) bool { return r.LooksBack(seq, occurred[seq]) })
	})
	if len(seqs) == 0 {
		return res, nil
	}
	clear(t.known.messages)
	t.guess = false
	t.unprove(proveByEvent)
	return res, t.ask(ctx, statement{
		sql: "DELETE FROM fluxly.events WHERE seq = ANY($1::bigint[])", args: []any{seqs},
		done: func(n int64) { res.Removed = int(n) },
	})
}

// behind chooses rows by two columns, a time and a text, that lie behind
// q.After and before q.Before.
func behind(q fluxly.PruneQuery) []any {
	return []any{instant(q.After.At), q.After.ID, instant(q.Before), oneMore(q.Limit)}
}

func (t *tx) PruneRuns(ctx context.Context, q fluxly.PruneQuery) (res fluxly.PruneResult, err error) {
	if err := t.check(ctx, true); err != nil {
		return res, err
	}
	rows, err := t.askRuns(ctx, "SELECT "+runColumns+` FROM fluxly.runs r
		WHERE (r.started, r.id) > ($1::timestamptz, $2::text) AND r.started < $3::timestamptz ORDER BY r.started, r.id LIMIT $4::bigint`, behind(q)...)
	if err != nil {
		return res, err
	}
	res.Next = q.After
	var ended []string
	for i, row := range rows {
		if q.Limit > 0 && i == q.Limit {
			res.More = true
			break
		}
		res.Next.At, res.Next.ID = row.started, row.id
		r, err := row.run()
		if err != nil {
			return res, err
		}
		if r.Status != fluxly.RunLive && r.EndedAt.Before(q.Before) {
			ended = append(ended, r.ID)
		}
	}
	var locked []string
	if len(ended) > 0 {
		err = t.ask(ctx, statement{
			sql: "SELECT id FROM fluxly.runs WHERE id = ANY($1::text[]) FOR UPDATE SKIP LOCKED", args: []any{ended},
			row: func(scan scanFunc) error {
				var id string
				err := scan(&id)
				locked = append(locked, id)
				return err
			},
		})
	}
	if err != nil || len(locked) == 0 {
		return res, err
	}
	t.forget()
	t.unprove(proveByRun)
	return res, t.ask(ctx,
		statement{sql: "DELETE FROM fluxly.run_log WHERE run_id = ANY($1::text[])", args: []any{locked}, done: func(n int64) { res.LogEntries = int(n) }},
		statement{
			sql: `DELETE FROM fluxly.runs r WHERE r.id = ANY($1::text[]) AND EXISTS (SELECT 1 FROM fluxly.runs n WHERE n.pid = r.pid
				AND n.automation = r.automation AND n.key = r.key AND (n.started, n.id) > (r.started, r.id))
				AND NOT EXISTS (SELECT 1 FROM fluxly.sends s WHERE s.run_id = r.id)`,
			args: []any{locked}, done: func(n int64) { res.Removed = int(n) },
		})
}

func (t *tx) PruneSends(ctx context.Context, q fluxly.PruneQuery) (res fluxly.PruneResult, err error) {
	if err := t.check(ctx, true); err != nil {
		return res, err
	}
	res.Next = q.After
	var settled []string
	looked := 0
	err = t.ask(ctx, statement{
		sql: `SELECT s.queued, s.key, s.status IN ('accepted', 'refused', 'skipped') FROM fluxly.sends s
			WHERE (s.queued, s.key) > ($1::timestamptz, $2::text) AND s.queued < $3::timestamptz ORDER BY s.queued, s.key LIMIT $4::bigint`,
		args: behind(q),
		row: func(scan scanFunc) error {
			var queued timeColumn
			var key string
			var is bool
			if err := scan(&queued, &key, &is); err != nil {
				return err
			}
			if looked++; q.Limit > 0 && looked > q.Limit {
				res.More = true
				return nil
			}
			res.Next.At, res.Next.ID = queued.Time, key
			if is {
				settled = append(settled, key)
			}
			return nil
		},
	})
	if err != nil || len(settled) == 0 {
		return res, err
	}
	t.forget()
	t.unprove(proveBySend)
	return res, t.ask(ctx, statement{
		sql: `DELETE FROM fluxly.sends s WHERE s.key IN (SELECT key FROM fluxly.sends WHERE key = ANY($1::text[])
			AND status IN ('accepted', 'refused', 'skipped') FOR UPDATE SKIP LOCKED)
			AND NOT EXISTS (SELECT 1 FROM fluxly.runs r WHERE r.id = s.run_id AND r.status = 'live')`,
		args: []any{settled}, done: func(n int64) { res.Removed = int(n) },
	})
}
