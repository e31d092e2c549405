package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/getfluxly/fluxly"
)

// sendInfo is what of a mail is only ever read with the mail.
type sendInfo struct {
	Email        string         `json:"email,omitempty"`
	To           string         `json:"to,omitempty"`
	Stream       string         `json:"stream,omitempty"`
	Subject      string         `json:"subject,omitempty"`
	Detail       string         `json:"detail,omitempty"`
	DueAt        time.Time      `json:"due_at,omitzero"`
	Owner        string         `json:"owner,omitempty"`
	ClaimedAt    time.Time      `json:"claimed_at,omitzero"`
	Attempts     int            `json:"attempts,omitempty"`
	FailingSince time.Time      `json:"failing_since,omitzero"`
	SettledAt    time.Time      `json:"settled_at,omitzero"`
	Receipt      fluxly.Receipt `json:"receipt,omitzero"`
	BodyHash     string         `json:"body_hash,omitempty"`
	Events       []sendEvent    `json:"events,omitempty"`
}

// sendEvent is a fluxly.ProviderEvent whose values keep their types.
type sendEvent struct {
	Kind   string            `json:"kind"`
	Key    string            `json:"key,omitempty"`
	At     time.Time         `json:"at,omitzero"`
	Detail fluxly.Properties `json:"detail,omitempty"`
}

// sendRow is a mail as it is stored; it is never changed.
type sendRow struct {
	key, profileID, runID            string
	pid                              int64
	automation, step, status, reason string
	queued, due                      time.Time
	info                             string
	body                             []byte
}

// sendState is what a transaction knows of a mail.
type sendState struct {
	key string
	// row is nil when the mail is not there.
	row           *sendRow
	stored, dirty bool
}

// sendColumns are what scanSend reads.
const sendColumns = `s.pid, s.key, coalesce((SELECT id FROM fluxly.profiles WHERE pid = s.pid), ''), s.run_id, s.automation, s.step, s.status, s.reason,
	s.queued, s.info, s.body`

func scanSend(scan scanFunc) (*sendRow, error) {
	r := &sendRow{}
	var queued timeColumn
	var info []byte
	err := scan(&r.pid, &r.key, &r.profileID, &r.runID, &r.automation, &r.step, &r.status, &r.reason, &queued, &info, &r.body)
	r.queued, r.info = queued.Time, string(info)
	return r, err
}

// record decodes a row.
func (r *sendRow) record() (*fluxly.SendRecord, error) {
	m := &fluxly.SendRecord{
		Key: r.key, ProfileID: r.profileID, RunID: r.runID, Automation: r.automation, Step: r.step,
		Status: fluxly.SendStatus(r.status), Reason: r.reason, QueuedAt: r.queued,
	}
	var info sendInfo
	if err := json.Unmarshal([]byte(r.info), &info); err != nil {
		return nil, fmt.Errorf("stored mail: %w: %w", ErrCorrupt, err)
	}
	m.Email, m.To, m.Stream, m.Subject, m.Detail = info.Email, info.To, info.Stream, info.Subject, info.Detail
	m.DueAt, m.Owner, m.ClaimedAt, m.Attempts, m.SettledAt = info.DueAt, info.Owner, info.ClaimedAt, info.Attempts, info.SettledAt
	m.FailingSince, m.Receipt, m.BodyHash = info.FailingSince, info.Receipt, info.BodyHash
	m.Body = append([]byte(nil), r.body...)
	for _, e := range info.Events {
		m.Events = append(m.Events, fluxly.ProviderEvent{Kind: e.Kind, Key: e.Key, At: e.At, Detail: e.Detail})
	}
	return m, nil
}

func (t *tx) PutSend(ctx context.Context, m *fluxly.SendRecord) error {
	if err := t.check(ctx, true); err != nil {
		return err
	}
	if err := firstError(checkTime("queued_at", m.QueuedAt), checkTime("due_at", m.DueAt)); err != nil {
		return err
	}
	info := sendInfo{
		Email: m.Email, To: m.To, Stream: m.Stream, Subject: m.Subject, Detail: m.Detail,
		DueAt: stored(m.DueAt), Owner: m.Owner, ClaimedAt: stored(m.ClaimedAt), Attempts: m.Attempts, SettledAt: stored(m.SettledAt),
		FailingSince: stored(m.FailingSince), Receipt: m.Receipt, BodyHash: m.BodyHash,
	}
	info.Receipt.At = stored(info.Receipt.At)
	for _, e := range m.Events {
		info.Events = append(info.Events, sendEvent{Kind: e.Kind, Key: e.Key, At: stored(e.At), Detail: e.Detail})
	}
	raw, err := json.Marshal(&info)
	if err != nil {
		return fmt.Errorf("mail %q: %w", m.Key, err)
	}
	// Whether it is there must be known before it is written.
	if t.known.sends[m.Key] == nil && !t.guess {
		if _, err := t.sendByKey(ctx, m.Key); err != nil {
			return err
		}
	}
	p, err := t.personFor(ctx, m.ProfileID)
	if err != nil {
		return err
	}
	row := &sendRow{
		key: m.Key, profileID: m.ProfileID, runID: m.RunID, pid: p.pid, automation: m.Automation, step: m.Step,
		status: string(m.Status), reason: m.Reason, queued: stored(m.QueuedAt), info: string(raw),
	}
	if len(m.Body) > 0 {
		row.body = slices.Clone(m.Body)
	}
	if !m.DueAt.IsZero() {
		switch m.Status {
		case fluxly.SendQueued:
			row.due = stored(m.DueAt)
			t.notes.sends = append(t.notes.sends, note{m.Key, row.due})
		case fluxly.SendSending:
			row.due = stored(m.DueAt)
			t.notes.ticks = append(t.notes.ticks, row.due)
		default:
		}
	}
	st := t.known.sends[m.Key]
	if st == nil {
		st = &sendState{key: m.Key}
		t.known.sends[m.Key] = st
	}
	st.row = row
	if !st.dirty {
		st.dirty = true
		t.rows.sends = append(t.rows.sends, st)
	}
	return t.wrote(ctx)
}

func (t *tx) sealSends(list []*sendState) {
	slices.SortFunc(list, func(a, b *sendState) int { return strings.Compare(a.key, b.key) })
	var made, changed []*sendRow
	for _, st := range list {
		if st.stored {
			changed = append(changed, st.row)
		} else {
			made = append(made, st.row)
		}
		st.stored, st.dirty = true, false
	}
	last := list[len(list)-1].row
	t.prove(proveBySend, "fluxly.sends r WHERE r.key = $2::text AND r.status = $3::text AND r.reason = $4::text AND r.info::text = $5::text",
		last.key, last.status, last.reason, last.info)
	const unnest = `unnest($1::text[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::timestamptz[],
		$9::timestamptz[], $10::text[], $11::bytea[])
		u (key, pid, run_id, automation, step, status, reason, queued, due_at, info, body)`
	columns := func(list []*sendRow) []any {
		return []any{
			column(list, func(r *sendRow) string { return r.key }),
			column(list, func(r *sendRow) int64 { return r.pid }),
			column(list, func(r *sendRow) string { return r.runID }),
			column(list, func(r *sendRow) string { return r.automation }),
			column(list, func(r *sendRow) string { return r.step }),
			column(list, func(r *sendRow) string { return r.status }),
			column(list, func(r *sendRow) string { return r.reason }),
			column(list, func(r *sendRow) pgtype.Timestamptz { return instant(r.queued) }),
			column(list, func(r *sendRow) pgtype.Timestamptz { return instantOrNull(r.due) }),
			column(list, func(r *sendRow) string { return r.info }),
			column(list, func(r *sendRow) []byte { return r.body }),
		}
	}
	if made != nil {
		t.later(`INSERT INTO fluxly.sends (key, pid, run_id, automation, step, status, reason, queued, due_at, info, body)
			SELECT key, pid, run_id, automation, step, status, reason, queued, due_at, info::json, body FROM `+unnest, columns(made)...)
	}
	if changed != nil {
		t.later(`UPDATE fluxly.sends s SET pid = u.pid, run_id = u.run_id, automation = u.automation, step = u.step, status = u.status,
			reason = u.reason, queued = u.queued, due_at = u.due_at, info = u.info::json, body = u.body
			FROM `+unnest+` WHERE s.key = u.key`, columns(changed)...)
	}
}

// sendByKey looks a mail up; nil when there is none.
func (t *tx) sendByKey(ctx context.Context, key string) (*sendRow, error) {
	if st := t.known.sends[key]; st != nil && t.cached {
		return st.row, nil
	}
	var found *sendRow
	err := t.lookUp(ctx,
		statement{sql: `SELECT p.pid FROM fluxly.sends s JOIN fluxly.profiles p ON p.pid = s.pid WHERE s.key = $1::text
			FOR NO KEY UPDATE OF p`, args: []any{key}},
		statement{sql: "SELECT " + sendColumns + " FROM fluxly.sends s WHERE s.key = $1::text", args: []any{key}, row: func(scan scanFunc) (err error) {
			found, err = scanSend(scan)
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
	t.known.sends[key] = &sendState{key: key, row: found, stored: found != nil}
	return found, nil
}

func (t *tx) Send(ctx context.Context, key string) (*fluxly.SendRecord, error) {
	if err := t.check(ctx, false); err != nil {
		return nil, err
	}
	row, err := t.sendByKey(ctx, key)
	if err != nil || row == nil {
		return nil, err
	}
	return row.record()
}

func (t *tx) Sends(ctx context.Context, q fluxly.SendQuery) (list []*fluxly.SendRecord, err error) {
	if err := t.check(ctx, false); err != nil {
		return nil, err
	}
	args := []any{instant(q.AfterQueued), q.AfterKey, noLimit(q.Limit)}
	sql := "SELECT " + sendColumns + " FROM fluxly.sends s WHERE (s.queued, s.key) > ($1::timestamptz, $2::text)"
	if q.ProfileID != "" {
		pid, err := t.personNumber(ctx, q.ProfileID)
		if err != nil || pid == 0 {
			return nil, err
		}
		args = append(args, pid)
		sql += " AND s.pid = $4::bigint"
	}
	choose := func(column, v string) {
		if v != "" {
			args = append(args, v)
			sql += " AND s." + column + " = $" + strconv.Itoa(len(args)) + "::text"
		}
	}
	choose("run_id", q.RunID)
	choose("automation", q.Automation)
	choose("status", string(q.Status))
	err = t.ask(ctx, statement{sql: sql + " ORDER BY s.queued, s.key LIMIT $3::bigint", args: args, row: func(scan scanFunc) error {
		row, err := scanSend(scan)
		if err != nil {
			return err
		}
		m, err := row.record()
		list = append(list, m)
		return err
	}})
	if err != nil {
		return nil, err
	}
	return list, nil
}

func (t *tx) CountSends(ctx context.Context, automation string) (list []fluxly.SendCount, err error) {
	if err := t.check(ctx, false); err != nil {
		return nil, err
	}
	err = t.ask(ctx, statement{
		sql: `SELECT automation, step, status, reason, count(*) FROM fluxly.sends WHERE $1::text = '' OR automation = $1::text
			GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4`,
		args: []any{automation},
		row: func(scan scanFunc) error {
			var c fluxly.SendCount
			err := scan(&c.Automation, &c.Step, (*string)(&c.Status), &c.Reason, &c.Count)
			list = append(list, c)
			return err
		},
	})
	return list, err
}
