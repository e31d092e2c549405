package sqlite

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

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

// sendColumns are what scanSend reads.
const sendColumns = `s.key, (SELECT id FROM profiles WHERE pid = s.pid), s.run_id, s.automation, s.step, s.status, s.reason, s.queued, s.info, s.body`

func scanSend(s statement) (*fluxly.SendRecord, error) {
	m := &fluxly.SendRecord{
		Key: s.getText(0), ProfileID: s.getText(1), RunID: s.getText(2), Automation: s.getText(3), Step: s.getText(4),
		Status: fluxly.SendStatus(s.getText(5)), Reason: s.getText(6), QueuedAt: getTime(s, 7),
	}
	var info sendInfo
	if err := json.Unmarshal(s.getRaw(8), &info); err != nil {
		return nil, fmt.Errorf("stored mail: %w: %w", ErrCorrupt, err)
	}
	m.Email, m.To, m.Stream, m.Subject, m.Detail = info.Email, info.To, info.Stream, info.Subject, info.Detail
	m.DueAt, m.Owner, m.ClaimedAt, m.Attempts, m.SettledAt = info.DueAt, info.Owner, info.ClaimedAt, info.Attempts, info.SettledAt
	m.FailingSince, m.Receipt, m.BodyHash = info.FailingSince, info.Receipt, info.BodyHash
	m.Body = append([]byte(nil), s.getRaw(9)...)
	for _, e := range info.Events {
		m.Events = append(m.Events, fluxly.ProviderEvent{Kind: e.Kind, Key: e.Key, At: e.At, Detail: e.Detail})
	}
	return m, nil
}

func (t *tx) sendList(s statement) (list []*fluxly.SendRecord, err error) {
	for err == nil && s.next() {
		var m *fluxly.SendRecord
		if m, err = scanSend(s); err == nil {
			list = append(list, m)
		}
	}
	if err := firstError(t.fail(s.done()), err); err != nil {
		return nil, err
	}
	return list, nil
}

func (t *tx) PutSend(ctx context.Context, m *fluxly.SendRecord) error {
	if err := t.begin(ctx); err != nil {
		return err
	}
	if err := firstError(checkTime("queued_at", m.QueuedAt), checkTime("due_at", m.DueAt)); err != nil {
		return err
	}
	info := sendInfo{
		Email: m.Email, To: m.To, Stream: m.Stream, Subject: m.Subject, Detail: m.Detail,
		DueAt: m.DueAt.UTC(), Owner: m.Owner, ClaimedAt: m.ClaimedAt.UTC(), Attempts: m.Attempts, SettledAt: m.SettledAt.UTC(),
		FailingSince: m.FailingSince.UTC(), Receipt: m.Receipt, BodyHash: m.BodyHash,
	}
	info.Receipt.At = info.Receipt.At.UTC()
	for _, e := range m.Events {
		info.Events = append(info.Events, sendEvent{Kind: e.Kind, Key: e.Key, At: e.At.UTC(), Detail: e.Detail})
	}
	raw, err := json.Marshal(&info)
	if err != nil {
		return fmt.Errorf("mail %q: %w", m.Key, err)
	}
	pid, _, err := t.profileNumber(m.ProfileID, true)
	if err != nil {
		return err
	}
	var due time.Time
	if m.Status == fluxly.SendQueued || m.Status == fluxly.SendSending {
		due = m.DueAt
	}
	if !due.IsZero() {
		t.schedule(fluxly.WorkSend, due)
	}
	var body []byte
	if len(m.Body) > 0 {
		body = m.Body
	}
	bind := func(s statement) statement {
		s.text(m.Automation).text(m.Step).text(string(m.Status)).text(m.Reason)
		bindTimeOrNull(s, due).text(string(raw)).blob(body).text(m.Key).integer(pid).text(m.RunID)
		return bindTime(s, m.QueuedAt)
	}
	err = bind(t.db.query(`UPDATE sends SET automation = ?, step = ?, status = ?, reason = ?, due_at = ?, info = ?, body = ?
		WHERE key = ? AND pid = ? AND run_id = ? AND queued = ?`)).exec()
	if err != nil || t.db.changes() > 0 {
		return t.fail(err)
	}
	return t.fail(bind(t.db.query(`INSERT INTO sends (automation, step, status, reason, due_at, info, body, key, pid, run_id, queued)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (key) DO UPDATE SET automation = excluded.automation, step = excluded.step, status = excluded.status,
		reason = excluded.reason, due_at = excluded.due_at, info = excluded.info, body = excluded.body,
		pid = excluded.pid, run_id = excluded.run_id, queued = excluded.queued`)).exec())
}

func (t *tx) Send(ctx context.Context, key string) (*fluxly.SendRecord, error) {
	if err := t.check(ctx, false); err != nil {
		return nil, err
	}
	list, err := t.sendList(t.db.query("SELECT " + sendColumns + " FROM sends s WHERE s.key = ?").text(key))
	if err != nil || len(list) == 0 {
		return nil, err
	}
	return list[0], nil
}

func (t *tx) Sends(ctx context.Context, q fluxly.SendQuery) ([]*fluxly.SendRecord, error) {
	if err := t.check(ctx, false); err != nil {
		return nil, err
	}
	// The plus signs leave one index to go by: that of the run, else of the
	// profile, else the order of the list.
	after, by := "(s.queued, s.key)", ""
	if q.RunID != "" || q.ProfileID != "" {
		after, by = "(+s.queued, s.key)", "+"
	}
	sql := "SELECT " + sendColumns + " FROM sends s WHERE " + after + " > (?, ?)"
	var pid int64
	if q.ProfileID != "" {
		var ok bool
		var err error
		if pid, ok, err = t.profileNumber(q.ProfileID, false); err != nil || !ok {
			return nil, err
		}
		if q.RunID != "" {
			sql += " AND +s.pid = ?"
		} else {
			sql += " AND s.pid = ?"
		}
	}
	var texts []string
	choose := func(column, v string) {
		if v != "" {
			sql += " AND " + column + " = ?"
			texts = append(texts, v)
		}
	}
	choose("s.run_id", q.RunID)
	choose("s.automation", q.Automation)
	choose("s.status", string(q.Status))
	s := bindTime(t.db.query(sql+" ORDER BY "+by+"s.queued, s.key LIMIT ?"), q.AfterQueued).text(q.AfterKey)
	if q.ProfileID != "" {
		s.integer(pid)
	}
	for _, v := range texts {
		s.text(v)
	}
	return t.sendList(s.integer(noLimit(q.Limit)))
}

func (t *tx) CountSends(ctx context.Context, automation string) ([]fluxly.SendCount, error) {
	if err := t.check(ctx, false); err != nil {
		return nil, err
	}
	var list []fluxly.SendCount
	s := t.db.query(`SELECT automation, step, status, reason, count(*) FROM sends WHERE ?1 = '' OR automation = ?1
		GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4`).text(automation)
	for s.next() {
		list = append(list, fluxly.SendCount{
			Automation: s.getText(0), Step: s.getText(1), Status: fluxly.SendStatus(s.getText(2)),
			Reason: s.getText(3), Count: int(s.getInteger(4)),
		})
	}
	return list, t.fail(s.done())
}

const suppressionColumns = "shown, stream, reason, origin, at"

func (t *tx) suppressionList(s statement) ([]*fluxly.Suppression, error) {
	var list []*fluxly.Suppression
	for s.next() {
		list = append(list, &fluxly.Suppression{
			Address: s.getText(0), Stream: s.getText(1), Reason: s.getText(2), Origin: s.getText(3), At: getTime(s, 4),
		})
	}
	return list, t.fail(s.done())
}

func (t *tx) Suppression(ctx context.Context, address, stream string) (*fluxly.Suppression, error) {
	if err := t.check(ctx, false); err != nil {
		return nil, err
	}
	list, err := t.suppressionList(t.db.query("SELECT " + suppressionColumns + ` FROM suppressions
		WHERE address = ? AND stream IN (?, '') ORDER BY stream DESC LIMIT 1`).text(strings.ToLower(address)).text(stream))
	if err != nil || len(list) == 0 {
		return nil, err
	}
	return list[0], nil
}

func (t *tx) PutSuppression(ctx context.Context, p *fluxly.Suppression) error {
	if err := t.begin(ctx); err != nil {
		return err
	}
	if err := checkTime("at", p.At); err != nil {
		return err
	}
	s := t.db.query("INSERT OR REPLACE INTO suppressions (address, stream, shown, reason, origin, at) VALUES (?, ?, ?, ?, ?, ?)").
		text(strings.ToLower(p.Address)).text(p.Stream).text(p.Address).text(p.Reason).text(p.Origin)
	return t.fail(bindTime(s, p.At).exec())
}

func (t *tx) DeleteSuppression(ctx context.Context, address, stream string) error {
	if err := t.begin(ctx); err != nil {
		return err
	}
	return t.fail(t.db.query("DELETE FROM suppressions WHERE address = ? AND stream = ?").text(strings.ToLower(address)).text(stream).exec())
}

func (t *tx) Suppressions(ctx context.Context) ([]*fluxly.Suppression, error) {
	if err := t.check(ctx, false); err != nil {
		return nil, err
	}
	return t.suppressionList(t.db.query("SELECT " + suppressionColumns + " FROM suppressions ORDER BY address, stream"))
}

// meterBody is what of a meter is only ever read with it.
type meterBody struct {
	Used  []time.Time `json:"used,omitempty"`
	Queue time.Time   `json:"queue,omitzero"`
}

func (t *tx) Meter(ctx context.Context, name string) (*fluxly.Meter, error) {
	if err := t.check(ctx, false); err != nil {
		return nil, err
	}
	var m *fluxly.Meter
	var err error
	s := t.db.query("SELECT body FROM meters WHERE name = ?").text(name)
	if s.next() {
		var b meterBody
		if err = json.Unmarshal(s.getRaw(0), &b); err != nil {
			err = fmt.Errorf("stored meter: %w: %w", ErrCorrupt, err)
		}
		m = &fluxly.Meter{Name: name, Used: b.Used, Queue: b.Queue}
	}
	if err := firstError(t.fail(s.done()), err); err != nil {
		return nil, err
	}
	return m, nil
}

func (t *tx) PutMeter(ctx context.Context, m *fluxly.Meter) error {
	if err := t.begin(ctx); err != nil {
		return err
	}
	b := meterBody{Queue: m.Queue.UTC()}
	for _, at := range m.Used {
		b.Used = append(b.Used, at.UTC())
	}
	raw, err := json.Marshal(&b)
	if err != nil {
		return fmt.Errorf("meter %q: %w", m.Name, err)
	}
	return t.fail(t.db.query("INSERT INTO meters (name, body) VALUES (?, ?) ON CONFLICT DO UPDATE SET body = excluded.body").
		text(m.Name).text(string(raw)).exec())
}
