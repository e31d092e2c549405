package sqlite

import (
	"context"
	"slices"
	"time"

	"github.com/getfluxly/fluxly"
)

// oneMore is the limit of a question that also finds out whether there is more
// behind limit rows.
func oneMore(limit int) int64 {
	if limit <= 0 {
		return -1
	}
	return int64(limit) + 1
}

func (t *tx) PruneEvents(ctx context.Context, q fluxly.PruneQuery) (res fluxly.PruneResult, err error) {
	if err := t.begin(ctx); err != nil {
		return res, err
	}
	type row struct {
		seq, pid int64
		occurred time.Time
	}
	res.Next = q.After
	var rows []row
	looked, aged := 0, false
	s := t.db.query(`SELECT e.seq, e.pid, (SELECT name FROM names WHERE nid = e.nid), e.occurred, e.received, json_type(e.traits, '$.email') IS NOT NULL
		FROM events e WHERE e.seq > ? ORDER BY e.seq LIMIT ?`).integer(q.After.Seq).integer(oneMore(q.Limit))
	for s.next() {
		if looked++; q.Limit > 0 && looked > q.Limit {
			res.More = true
			break
		}
		r := row{s.getInteger(0), s.getInteger(1), getTime(s, 3)}
		received := getTime(s, 4)
		res.Next.Seq = r.seq
		aged = aged || received.Before(q.Before)
		if s.getInteger(5) == 0 && q.Old(s.getText(2), r.occurred, received) {
			rows = append(rows, r)
		}
	}
	if err := t.fail(s.done()); err != nil {
		return res, err
	}
	res.More = res.More && aged
	live := map[int64][]*fluxly.Run{}
	for _, r := range rows {
		runs, ok := live[r.pid]
		if !ok {
			if runs, err = t.runList(t.db.query("SELECT " + runColumns + " FROM runs r WHERE r.pid = ? AND r.status = 'live'").integer(r.pid)); err != nil {
				return res, err
			}
			live[r.pid] = runs
		}
		if slices.ContainsFunc(runs, func(run *fluxly.Run) bool { return run.LooksBack(r.seq, r.occurred) }) {
			continue
		}
		if err := t.fail(t.db.query("DELETE FROM events WHERE seq = ?").integer(r.seq).exec()); err != nil {
			return res, err
		}
		res.Removed++
	}
	if res.Removed == 0 {
		return res, nil
	}
	return res, t.keepLastSeq()
}

// keepLastSeq sees to it that the next event does not get the number of one
// that is gone.
func (t *tx) keepLastSeq() error {
	return t.fail(t.db.query("INSERT INTO meta (key, value) VALUES ('last_seq', ?) ON CONFLICT DO UPDATE SET value = excluded.value").
		integer(t.lastSeq).exec())
}

func (t *tx) PruneRuns(ctx context.Context, q fluxly.PruneQuery) (res fluxly.PruneResult, err error) {
	if err := t.begin(ctx); err != nil {
		return res, err
	}
	s := bindTime(t.db.query("SELECT "+runColumns+" FROM runs r WHERE (r.started, r.id) > (?, ?) AND r.started < ? ORDER BY r.started, r.id LIMIT ?"),
		q.After.At).text(q.After.ID)
	list, err := t.runList(bindTime(s, q.Before).integer(oneMore(q.Limit)))
	if err != nil {
		return res, err
	}
	res.Next = q.After
	for i, r := range list {
		if q.Limit > 0 && i == q.Limit {
			res.More = true
			break
		}
		res.Next.At, res.Next.ID = r.StartedAt, r.ID
		if r.Status == fluxly.RunLive || !r.EndedAt.Before(q.Before) {
			continue
		}
		if err := t.fail(t.db.query("DELETE FROM run_log WHERE run_id = ?").text(r.ID).exec()); err != nil {
			return res, err
		}
		res.LogEntries += int(t.db.changes())
		err := t.db.query(`DELETE FROM runs WHERE id = ? AND EXISTS (SELECT 1 FROM runs n WHERE n.pid = runs.pid
			AND n.automation = runs.automation AND n.key = runs.key AND (n.started, n.id) > (runs.started, runs.id))
			AND NOT EXISTS (SELECT 1 FROM sends s WHERE s.run_id = runs.id)`).text(r.ID).exec()
		if err != nil {
			return res, t.fail(err)
		}
		res.Removed += int(t.db.changes())
	}
	return res, nil
}

func (t *tx) PruneSends(ctx context.Context, q fluxly.PruneQuery) (res fluxly.PruneResult, err error) {
	if err := t.begin(ctx); err != nil {
		return res, err
	}
	type row struct {
		sid int64
		old bool
	}
	res.Next = q.After
	var rows []row
	s := bindTime(t.db.query(`SELECT s.sid, s.queued, s.key, s.status IN ('accepted', 'refused', 'skipped')
		AND NOT EXISTS (SELECT 1 FROM runs r WHERE r.id = s.run_id AND r.status = 'live')
		FROM sends s WHERE (s.queued, s.key) > (?, ?) AND s.queued < ? ORDER BY s.queued, s.key LIMIT ?`), q.After.At).text(q.After.ID)
	bindTime(s, q.Before).integer(oneMore(q.Limit))
	for s.next() {
		if q.Limit > 0 && len(rows) == q.Limit {
			res.More = true
			break
		}
		res.Next.At, res.Next.ID = getTime(s, 1), s.getText(2)
		rows = append(rows, row{s.getInteger(0), s.getInteger(3) != 0})
	}
	if err := t.fail(s.done()); err != nil {
		return res, err
	}
	for _, r := range rows {
		if !r.old {
			continue
		}
		if err := t.fail(t.db.query("DELETE FROM sends WHERE sid = ?").integer(r.sid).exec()); err != nil {
			return res, err
		}
		res.Removed++
	}
	return res, nil
}
