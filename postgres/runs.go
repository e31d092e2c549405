package postgres

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/internal/value"
)

// runBody is what of a run is only ever read with the run.
type runBody struct {
	Reason    string            `json:"reason,omitempty"`
	Visit     int               `json:"visit,omitempty"`
	UpdatedAt time.Time         `json:"updated_at,omitzero"`
	EndedAt   time.Time         `json:"ended_at,omitzero"`
	Entry     fluxly.EntryEvent `json:"entry,omitzero"`
	EntrySeq  int64             `json:"entry_seq,omitempty"`
	Pending   fluxly.Pending    `json:"pending,omitempty"`
	WakeAt    time.Time         `json:"wake_at,omitzero"`
	SendKey   string            `json:"send_key,omitempty"`
	WaitSince time.Time         `json:"wait_since,omitzero"`
	Attempts  int               `json:"attempts,omitempty"`
	Results   fluxly.Properties `json:"results,omitempty"`
	Depth     int               `json:"depth,omitempty"`
	LogLen    int               `json:"log_len,omitempty"`
}

func encodeRun(r *fluxly.Run) (string, error) {
	b := runBody{
		Reason: r.Reason, Visit: r.Visit, UpdatedAt: stored(r.UpdatedAt), EndedAt: stored(r.EndedAt),
		Entry: r.Entry, EntrySeq: r.EntrySeq, Pending: r.Pending, WakeAt: stored(r.WakeAt), SendKey: r.SendKey,
		WaitSince: stored(r.WaitSince), Attempts: r.Attempts, Results: r.Results, Depth: r.Depth, LogLen: r.LogLen,
	}
	b.Entry.OccurredAt = stored(b.Entry.OccurredAt)
	raw, err := json.Marshal(&b)
	if err != nil {
		return "", fmt.Errorf("run %q: %w", r.ID, err)
	}
	return string(raw), nil
}

// runRow is a run as it is stored; it is never changed.
type runRow struct {
	id, profileID                          string
	pid                                    int64
	automation, version, key, status, step string
	started                                time.Time
	dueKind                                int16
	dueAt                                  time.Time
	waits, body                            string
}

// runState is what a transaction knows of a run.
type runState struct {
	id string
	// row is nil when the run is not there.
	row           *runRow
	stored, dirty bool
}

// runColumns are what scanRun reads.
const runColumns = `r.pid, r.id, coalesce((SELECT id FROM fluxly.profiles WHERE pid = r.pid), ''), r.automation, r.version, r.key, r.status, r.step,
	r.started, r.due_kind, r.due_at, r.waits, r.body`

// scanRun reads a row, after the columns that more are for.
func scanRun(scan scanFunc, more ...any) (*runRow, error) {
	r := &runRow{}
	var started timeColumn
	var kind *int16
	var due *timeColumn
	var waits, body []byte
	err := scan(append(more, &r.pid, &r.id, &r.profileID, &r.automation, &r.version, &r.key, &r.status, &r.step, &started, &kind, &due, &waits, &body)...)
	r.started, r.waits, r.body = started.Time, string(waits), string(body)
	if kind != nil && due != nil {
		r.dueKind, r.dueAt = *kind, due.Time
	}
	return r, err
}

// run decodes a row.
func (r *runRow) run() (*fluxly.Run, error) {
	run := &fluxly.Run{
		ID: r.id, ProfileID: r.profileID, Automation: r.automation, Version: r.version,
		Key: r.key, Status: fluxly.RunStatus(r.status), Step: r.step, StartedAt: r.started,
	}
	var err error
	if run.Waits, err = decodeStrings([]byte(r.waits)); err != nil {
		return nil, err
	}
	var b runBody
	if err := json.Unmarshal([]byte(r.body), &b); err != nil {
		return nil, fmt.Errorf("stored run: %w: %w", ErrCorrupt, err)
	}
	run.Reason, run.Visit, run.UpdatedAt, run.EndedAt = b.Reason, b.Visit, b.UpdatedAt, b.EndedAt
	run.Entry, run.EntrySeq = b.Entry, b.EntrySeq
	run.Pending, run.WakeAt, run.SendKey = b.Pending, b.WakeAt, b.SendKey
	run.WaitSince, run.Attempts, run.Results, run.Depth, run.LogLen = b.WaitSince, b.Attempts, b.Results, b.Depth, b.LogLen
	return run, nil
}

func decodeRuns(rows []*runRow) (list []*fluxly.Run, err error) {
	for _, row := range rows {
		r, err := row.run()
		if err != nil {
			return nil, err
		}
		list = append(list, r)
	}
	return list, nil
}

// knowRun remembers a run that was read.
func (t *tx) knowRun(row *runRow) *runState {
	st := t.known.runs[row.id]
	if st == nil {
		st = &runState{id: row.id}
		t.known.runs[row.id] = st
	}
	if st.row == nil {
		p := t.known.personOf(row.pid)
		p.runs = append(p.runs, st)
	}
	st.row, st.stored = row, true
	return st
}

// askRuns runs a question for runs of people who are locked, or of a view.
func (t *tx) askRuns(ctx context.Context, sql string, args ...any) (rows []*runRow, err error) {
	err = t.ask(ctx, statement{sql: sql, args: args, row: func(scan scanFunc) error {
		r, err := scanRun(scan)
		rows = append(rows, r)
		return err
	}})
	return rows, err
}

// runByID looks a run up; nil when there is none.
func (t *tx) runByID(ctx context.Context, id string) (*runRow, error) {
	if st := t.known.runs[id]; st != nil && t.cached {
		return st.row, nil
	}
	var found *runRow
	err := t.lookUp(ctx,
		statement{sql: `SELECT p.pid FROM fluxly.runs r JOIN fluxly.profiles p ON p.pid = r.pid WHERE r.id = $1::text
			FOR NO KEY UPDATE OF p`, args: []any{id}},
		statement{sql: "SELECT " + runColumns + " FROM fluxly.runs r WHERE r.id = $1::text", args: []any{id}, row: func(scan scanFunc) (err error) {
			found, err = scanRun(scan)
			return err
		}},
		func() { found = nil },
		func(yield func(int64)) {
			if found != nil {
				yield(found.pid)
			}
		})
	if err != nil || !t.writes {
		return found, err
	}
	if found == nil {
		t.known.runs[id] = &runState{id: id}
		return nil, nil
	}
	t.knowRun(found)
	return found, nil
}

func (t *tx) Run(ctx context.Context, id string) (*fluxly.Run, error) {
	if err := t.check(ctx, false); err != nil {
		return nil, err
	}
	row, err := t.runByID(ctx, id)
	if err != nil || row == nil {
		return nil, err
	}
	return row.run()
}

func (t *tx) LiveRuns(ctx context.Context, profileID, event string, overdue time.Time) ([]*fluxly.Run, error) {
	if err := t.check(ctx, false); err != nil {
		return nil, err
	}
	pid, err := t.personNumber(ctx, profileID)
	if err != nil || pid == 0 {
		return nil, err
	}
	var rows []*runRow
	if p := t.known.people[pid]; p != nil && p.live && t.cached {
		for _, st := range p.runs {
			if st.row.status == string(fluxly.RunLive) {
				rows = append(rows, st.row)
			}
		}
	} else {
		rows, err = t.askRuns(ctx, "SELECT "+runColumns+" FROM fluxly.runs r WHERE r.pid = $1::bigint AND r.status = 'live'", pid)
		if err != nil {
			return nil, err
		}
		if t.writes {
			for _, row := range rows {
				t.knowRun(row)
			}
			t.known.personOf(pid).live = true
		}
	}
	// The name as it stands in waits. It may also stand there by chance, so
	// it is only a first sieve.
	quoted := value.AppendString(nil, event)
	var list []*fluxly.Run
	for _, row := range rows {
		late := !overdue.IsZero() && row.dueKind != 0 && row.dueAt.Before(overdue)
		if event != "" && !late && !bytes.Contains([]byte(row.waits), quoted) {
			continue
		}
		r, err := row.run()
		if err != nil {
			return nil, err
		}
		if event == "" || late || slices.Contains(r.Waits, event) {
			list = append(list, r)
		}
	}
	slices.SortFunc(list, func(a, b *fluxly.Run) int {
		return cmp.Or(a.StartedAt.Compare(b.StartedAt), strings.Compare(a.ID, b.ID))
	})
	return list, nil
}

func (t *tx) LastRun(ctx context.Context, automation, profileID, key string) (*fluxly.Run, error) {
	if err := t.check(ctx, false); err != nil {
		return nil, err
	}
	pid, err := t.personNumber(ctx, profileID)
	if err != nil || pid == 0 {
		return nil, err
	}
	k := lastKey{pid, automation, key}
	st, ok := t.known.last[k]
	if p := t.known.people[pid]; !ok && p != nil && p.fresh && t.cached {
		for _, r := range p.runs {
			if r.row.automation == automation && r.row.key == key && (st == nil || laterRun(r.row, st.row)) {
				st = r
			}
		}
		ok = true
	}
	if !ok || !t.cached {
		rows, err := t.askRuns(ctx, "SELECT "+runColumns+` FROM fluxly.runs r WHERE r.pid = $1::bigint AND r.automation = $2::text AND r.key = $3::text
			ORDER BY r.started DESC, r.id DESC LIMIT 1`, pid, automation, key)
		if err != nil {
			return nil, err
		}
		if !t.writes {
			list, err := decodeRuns(rows)
			if err != nil || len(list) == 0 {
				return nil, err
			}
			return list[0], nil
		}
		st = nil
		if len(rows) > 0 {
			st = t.knowRun(rows[0])
		}
		t.known.last[k] = st
	}
	if st == nil {
		return nil, nil
	}
	return st.row.run()
}

// laterRun says whether a run started after another, for LastRun.
func laterRun(a, b *runRow) bool {
	return cmp.Or(a.started.Compare(b.started), strings.Compare(a.id, b.id)) > 0
}

func (t *tx) Runs(ctx context.Context, q fluxly.RunQuery) ([]*fluxly.Run, error) {
	if err := t.check(ctx, false); err != nil {
		return nil, err
	}
	args := []any{instant(q.AfterStarted), q.AfterID, noLimit(q.Limit)}
	sql := "SELECT " + runColumns + " FROM fluxly.runs r WHERE (r.started, r.id) > ($1::timestamptz, $2::text)"
	if q.ProfileID != "" {
		pid, err := t.personNumber(ctx, q.ProfileID)
		if err != nil || pid == 0 {
			return nil, err
		}
		args = append(args, pid)
		sql += " AND r.pid = $4::bigint"
	}
	choose := func(column, v string) {
		if v != "" {
			args = append(args, v)
			sql += " AND r." + column + " = $" + strconv.Itoa(len(args)) + "::text"
		}
	}
	choose("automation", q.Automation)
	choose("status", string(q.Status))
	choose("step", q.Step)
	rows, err := t.askRuns(ctx, sql+" ORDER BY r.started, r.id LIMIT $3::bigint", args...)
	if err != nil {
		return nil, err
	}
	return decodeRuns(rows)
}

func (t *tx) PutRun(ctx context.Context, r *fluxly.Run) error {
	if err := t.check(ctx, true); err != nil {
		return err
	}
	if err := firstError(checkTime("started_at", r.StartedAt), checkTime("wake_at", r.WakeAt)); err != nil {
		return err
	}
	body, err := encodeRun(r)
	if err != nil {
		return err
	}
	// Whether it is there must be known before it is written.
	if t.known.runs[r.ID] == nil && !t.guess {
		if _, err := t.runByID(ctx, r.ID); err != nil {
			return err
		}
	}
	p, err := t.personFor(ctx, r.ProfileID)
	if err != nil {
		return err
	}
	row := &runRow{
		id: r.ID, profileID: r.ProfileID, pid: p.pid, automation: r.Automation, version: r.Version, key: r.Key,
		status: string(r.Status), step: r.Step, started: stored(r.StartedAt), waits: encodeStrings(r.Waits), body: body,
	}
	if r.Status == fluxly.RunLive && !r.WakeAt.IsZero() {
		row.dueKind, row.dueAt = dueWake, stored(r.WakeAt)
		if r.Pending == fluxly.PendingCall {
			row.dueKind = dueCall
			t.notes.calls = append(t.notes.calls, note{r.ID, row.dueAt})
		} else {
			t.notes.ticks = append(t.notes.ticks, row.dueAt)
		}
	}
	t.writeRun(p, row)
	return t.wrote(ctx)
}

// writeRun puts a row into the buffer.
func (t *tx) writeRun(p *person, row *runRow) {
	st := t.known.runs[row.id]
	if st == nil {
		st = &runState{id: row.id}
		t.known.runs[row.id] = st
	}
	old := st.row
	switch {
	case old == nil:
		p.runs = append(p.runs, st)
	case old.pid != row.pid:
		before := t.known.personOf(old.pid)
		before.runs = slices.DeleteFunc(before.runs, func(r *runState) bool { return r == st })
		p.runs = append(p.runs, st)
	}
	k := lastKey{row.pid, row.automation, row.key}
	switch {
	case old != nil && (k != lastKey{old.pid, old.automation, old.key} || !old.started.Equal(row.started)):
		// Another may be the last one now. Of those that are known not all
		// need be of this transaction, so a fresh person is none any more.
		clear(t.known.last)
		if old.pid != row.pid {
			p.fresh = false
		}
	default:
		if last, ok := t.known.last[k]; ok && (last == nil || laterRun(row, last.row)) {
			t.known.last[k] = st
		}
	}
	st.row = row
	if !st.dirty {
		st.dirty = true
		t.rows.runs = append(t.rows.runs, st)
	}
}

func (t *tx) sealRuns(list []*runState) {
	slices.SortFunc(list, func(a, b *runState) int { return strings.Compare(a.id, b.id) })
	var made, changed []*runRow
	for _, st := range list {
		if st.stored {
			changed = append(changed, st.row)
		} else {
			made = append(made, st.row)
		}
		st.stored, st.dirty = true, false
	}
	last := list[len(list)-1].row
	t.prove(proveByRun, "fluxly.runs r WHERE r.id = $2::text AND r.status = $3::text AND r.step = $4::text AND r.body::text = $5::text",
		last.id, last.status, last.step, last.body)
	const unnest = `unnest($1::text[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::timestamptz[],
		$9::smallint[], $10::timestamptz[], $11::text[], $12::text[])
		u (id, pid, automation, version, key, status, step, started, due_kind, due_at, waits, body)`
	columns := func(list []*runRow) []any {
		return []any{
			column(list, func(r *runRow) string { return r.id }),
			column(list, func(r *runRow) int64 { return r.pid }),
			column(list, func(r *runRow) string { return r.automation }),
			column(list, func(r *runRow) string { return r.version }),
			column(list, func(r *runRow) string { return r.key }),
			column(list, func(r *runRow) string { return r.status }),
			column(list, func(r *runRow) string { return r.step }),
			column(list, func(r *runRow) pgtype.Timestamptz { return instant(r.started) }),
			column(list, func(r *runRow) int16 { return r.dueKind }),
			column(list, func(r *runRow) pgtype.Timestamptz { return instantOrNull(r.dueAt) }),
			column(list, func(r *runRow) string { return r.waits }),
			column(list, func(r *runRow) string { return r.body }),
		}
	}
	if made != nil {
		t.later(`INSERT INTO fluxly.runs (id, pid, automation, version, key, status, step, started, due_kind, due_at, waits, body)
			SELECT id, pid, automation, version, key, status, step, started, nullif(due_kind, 0), due_at, nullif(waits, '')::json, body::json
			FROM `+unnest, columns(made)...)
	}
	if changed != nil {
		t.later(`UPDATE fluxly.runs r SET pid = u.pid, automation = u.automation, version = u.version, key = u.key, status = u.status,
			step = u.step, started = u.started, due_kind = nullif(u.due_kind, 0), due_at = u.due_at,
			waits = nullif(u.waits, '')::json, body = u.body::json FROM `+unnest+` WHERE r.id = u.id`, columns(changed)...)
	}
}

func (t *tx) CountRuns(ctx context.Context, automation string) (list []fluxly.RunCount, err error) {
	if err := t.check(ctx, false); err != nil {
		return nil, err
	}
	err = t.ask(ctx, statement{
		sql: `SELECT automation, version, step, status, count(*) FROM fluxly.runs WHERE $1::text = '' OR automation = $1::text
			GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4`,
		args: []any{automation},
		row: func(scan scanFunc) error {
			var c fluxly.RunCount
			err := scan(&c.Automation, &c.Version, &c.Step, (*string)(&c.Status), &c.Count)
			list = append(list, c)
			return err
		},
	})
	return list, err
}
