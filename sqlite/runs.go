package sqlite

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

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

func encodeRun(r *fluxly.Run) ([]byte, error) {
	b := runBody{
		Reason: r.Reason, Visit: r.Visit, UpdatedAt: r.UpdatedAt.UTC(), EndedAt: r.EndedAt.UTC(),
		Entry: r.Entry, EntrySeq: r.EntrySeq, Pending: r.Pending, WakeAt: r.WakeAt.UTC(), SendKey: r.SendKey,
		WaitSince: r.WaitSince.UTC(), Attempts: r.Attempts, Results: r.Results, Depth: r.Depth, LogLen: r.LogLen,
	}
	b.Entry.OccurredAt = b.Entry.OccurredAt.UTC()
	raw, err := json.Marshal(&b)
	if err != nil {
		return nil, fmt.Errorf("run %q: %w", r.ID, err)
	}
	return raw, nil
}

// runColumns are what scanRun reads.
const runColumns = "r.id, (SELECT id FROM profiles WHERE pid = r.pid), r.automation, r.version, r.key, r.status, r.step, r.started, r.waits, r.body"

func scanRun(s statement) (*fluxly.Run, error) {
	r := &fluxly.Run{
		ID: s.getText(0), ProfileID: s.getText(1), Automation: s.getText(2), Version: s.getText(3),
		Key: s.getText(4), Status: fluxly.RunStatus(s.getText(5)), Step: s.getText(6), StartedAt: getTime(s, 7),
	}
	var err error
	if r.Waits, err = decodeStrings(s.getRaw(8)); err != nil {
		return nil, err
	}
	var b runBody
	if err := json.Unmarshal(s.getRaw(9), &b); err != nil {
		return nil, fmt.Errorf("stored run: %w: %w", ErrCorrupt, err)
	}
	r.Reason, r.Visit, r.UpdatedAt, r.EndedAt = b.Reason, b.Visit, b.UpdatedAt, b.EndedAt
	r.Entry, r.EntrySeq = b.Entry, b.EntrySeq
	r.Pending, r.WakeAt, r.SendKey = b.Pending, b.WakeAt, b.SendKey
	r.WaitSince, r.Attempts, r.Results, r.Depth, r.LogLen = b.WaitSince, b.Attempts, b.Results, b.Depth, b.LogLen
	return r, nil
}

func (t *tx) runList(s statement) (list []*fluxly.Run, err error) {
	for err == nil && s.next() {
		var r *fluxly.Run
		if r, err = scanRun(s); err == nil {
			list = append(list, r)
		}
	}
	if err := firstError(t.fail(s.done()), err); err != nil {
		return nil, err
	}
	return list, nil
}

func firstRun(list []*fluxly.Run, err error) (*fluxly.Run, error) {
	if err != nil || len(list) == 0 {
		return nil, err
	}
	return list[0], nil
}

func (t *tx) Run(ctx context.Context, id string) (*fluxly.Run, error) {
	if err := t.check(ctx, false); err != nil {
		return nil, err
	}
	return firstRun(t.runList(t.db.query("SELECT " + runColumns + " FROM runs r WHERE r.id = ?").text(id)))
}

func (t *tx) LiveRuns(ctx context.Context, profileID, event string, overdue time.Time) ([]*fluxly.Run, error) {
	if err := t.check(ctx, false); err != nil {
		return nil, err
	}
	pid, ok, err := t.profileNumber(profileID, false)
	if err != nil || !ok {
		return nil, err
	}
	// The name as it stands in waits. It may also stand there by chance, so
	// it is only a first sieve.
	quoted := value.AppendString(nil, event)
	s := t.db.query("SELECT " + runColumns + ", r.due_at FROM runs r WHERE r.pid = ? AND r.status = 'live'").integer(pid)
	var list []*fluxly.Run
	for err == nil && s.next() {
		late := !overdue.IsZero() && !s.isNull(10) && getTime(s, 10).Before(overdue)
		if event != "" && !late && !bytes.Contains(s.getRaw(8), quoted) {
			continue
		}
		var r *fluxly.Run
		if r, err = scanRun(s); err != nil {
			break
		}
		if event == "" || late || slices.Contains(r.Waits, event) {
			list = append(list, r)
		}
	}
	if err := firstError(t.fail(s.done()), err); err != nil {
		return nil, err
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
	pid, ok, err := t.profileNumber(profileID, false)
	if err != nil || !ok {
		return nil, err
	}
	return firstRun(t.runList(t.db.query("SELECT " + runColumns + ` FROM runs r WHERE r.pid = ? AND r.automation = ? AND r.key = ?
		ORDER BY r.started DESC, r.id DESC LIMIT 1`).integer(pid).text(automation).text(key)))
}

func (t *tx) Runs(ctx context.Context, q fluxly.RunQuery) ([]*fluxly.Run, error) {
	if err := t.check(ctx, false); err != nil {
		return nil, err
	}
	sql, by := "SELECT "+runColumns+" FROM runs r WHERE (r.started, r.id) > (?, ?)", ""
	var pid int64
	if q.ProfileID != "" {
		var ok bool
		var err error
		if pid, ok, err = t.profileNumber(q.ProfileID, false); err != nil || !ok {
			return nil, err
		}
		// By profile, and sorted after that.
		sql, by = "SELECT "+runColumns+" FROM runs r WHERE (+r.started, r.id) > (?, ?) AND r.pid = ?", "+"
	}
	var texts []string
	choose := func(column, v string) {
		if v != "" {
			sql += " AND +r." + column + " = ?"
			texts = append(texts, v)
		}
	}
	choose("automation", q.Automation)
	choose("status", string(q.Status))
	choose("step", q.Step)
	s := bindTime(t.db.query(sql+" ORDER BY "+by+"r.started, r.id LIMIT ?"), q.AfterStarted).text(q.AfterID)
	if q.ProfileID != "" {
		s.integer(pid)
	}
	for _, v := range texts {
		s.text(v)
	}
	return t.runList(s.integer(noLimit(q.Limit)))
}

func (t *tx) PutRun(ctx context.Context, r *fluxly.Run) error {
	if err := t.begin(ctx); err != nil {
		return err
	}
	if err := firstError(checkTime("started_at", r.StartedAt), checkTime("wake_at", r.WakeAt)); err != nil {
		return err
	}
	body, err := encodeRun(r)
	if err != nil {
		return err
	}
	waits := t.encodeStrings(r.Waits)
	pid, _, err := t.profileNumber(r.ProfileID, true)
	if err != nil {
		return err
	}
	kind := int64(0)
	if r.Status == fluxly.RunLive && !r.WakeAt.IsZero() {
		kind = dueWake
		work := fluxly.WorkWake
		if r.Pending == fluxly.PendingCall {
			kind, work = dueCall, fluxly.WorkCall
		}
		t.schedule(work, r.WakeAt)
	}
	bind := func(s statement) statement {
		s.text(r.Version).text(string(r.Status)).text(r.Step)
		if kind == 0 {
			s.null().null()
		} else {
			bindTime(s.integer(kind), r.WakeAt)
		}
		return bindTime(bindJSON(s, waits).text(string(body)).text(r.ID).integer(pid).text(r.Automation).text(r.Key), r.StartedAt)
	}
	// A run that moves on changes few columns; the indexes over the others
	// are left alone.
	err = bind(t.db.query(`UPDATE runs SET version = ?, status = ?, step = ?, due_kind = ?, due_at = ?, waits = ?, body = ?
		WHERE id = ? AND pid = ? AND automation = ? AND key = ? AND started = ?`)).exec()
	if err != nil || t.db.changes() > 0 {
		return t.fail(err)
	}
	return t.fail(bind(t.db.query(`INSERT INTO runs (version, status, step, due_kind, due_at, waits, body, id, pid, automation, key, started)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (id) DO UPDATE SET version = excluded.version, status = excluded.status, step = excluded.step,
		due_kind = excluded.due_kind, due_at = excluded.due_at, waits = excluded.waits, body = excluded.body,
		pid = excluded.pid, automation = excluded.automation, key = excluded.key, started = excluded.started`)).exec())
}

func (t *tx) AppendLog(ctx context.Context, entries []fluxly.LogEntry) error {
	if err := t.begin(ctx); err != nil {
		return err
	}
	for i := range entries {
		e := &entries[i]
		detail, err := t.encodeValues("detail", e.Detail)
		if err != nil {
			return err
		}
		if err := checkTime("at", e.At); err != nil {
			return err
		}
		s := t.db.query("INSERT INTO run_log (run_id, seq, automation, step, code, detail, at) VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING").
			text(e.RunID).integer(int64(e.Seq)).text(e.Automation).text(e.Step).text(e.Code)
		if err := bindTime(bindJSON(s, detail), e.At).exec(); err != nil {
			return t.fail(err)
		}
		if t.db.changes() == 0 {
			return fmt.Errorf("log entry %d of run %q is there already", e.Seq, e.RunID)
		}
	}
	return nil
}

func (t *tx) Log(ctx context.Context, runID string) ([]fluxly.LogEntry, error) {
	if err := t.check(ctx, false); err != nil {
		return nil, err
	}
	var list []fluxly.LogEntry
	var err error
	s := t.db.query("SELECT seq, automation, step, code, detail, at FROM run_log WHERE run_id = ? ORDER BY seq").text(runID)
	for err == nil && s.next() {
		e := fluxly.LogEntry{
			RunID: runID, Seq: int(s.getInteger(0)), Automation: s.getText(1), Step: s.getText(2), Code: s.getText(3), At: getTime(s, 5),
		}
		if e.Detail, err = decodeValues(s.getRaw(4)); err == nil {
			list = append(list, e)
		}
	}
	if err := firstError(t.fail(s.done()), err); err != nil {
		return nil, err
	}
	return list, nil
}

func (t *tx) CountRuns(ctx context.Context, automation string) ([]fluxly.RunCount, error) {
	if err := t.check(ctx, false); err != nil {
		return nil, err
	}
	// Counted here and not by GROUP BY, which would sort all runs first, in
	// memory.
	counts := map[[4]string]*fluxly.RunCount{}
	var last *fluxly.RunCount
	s := t.db.query("SELECT automation, version, step, status FROM runs WHERE ?1 = '' OR automation = ?1").text(automation)
	for s.next() {
		// Neighbours are mostly alike.
		if last != nil && string(s.getRaw(2)) == last.Step && string(s.getRaw(3)) == string(last.Status) &&
			string(s.getRaw(1)) == last.Version && string(s.getRaw(0)) == last.Automation {
			last.Count++
			continue
		}
		key := [4]string{s.getText(0), s.getText(1), s.getText(2), s.getText(3)}
		last = counts[key]
		if last == nil {
			last = &fluxly.RunCount{Automation: key[0], Version: key[1], Step: key[2], Status: fluxly.RunStatus(key[3])}
			counts[key] = last
		}
		last.Count++
	}
	if err := t.fail(s.done()); err != nil {
		return nil, err
	}
	var list []fluxly.RunCount
	for _, c := range counts {
		list = append(list, *c)
	}
	slices.SortFunc(list, func(a, b fluxly.RunCount) int {
		return cmp.Or(strings.Compare(a.Automation, b.Automation), strings.Compare(a.Version, b.Version),
			strings.Compare(a.Step, b.Step), strings.Compare(string(a.Status), string(b.Status)))
	})
	return list, nil
}

func (t *tx) CountLog(ctx context.Context, automation string) ([]fluxly.LogCount, error) {
	if err := t.check(ctx, false); err != nil {
		return nil, err
	}
	var list []fluxly.LogCount
	s := t.db.query("SELECT step, code, count(*) FROM run_log WHERE automation = ? GROUP BY 1, 2 ORDER BY 1, 2").text(automation)
	for s.next() {
		list = append(list, fluxly.LogCount{Step: s.getText(0), Code: s.getText(1), Count: int(s.getInteger(2))})
	}
	return list, t.fail(s.done())
}

func (t *tx) PutDefinition(ctx context.Context, d *fluxly.Definition) error {
	if err := t.begin(ctx); err != nil {
		return err
	}
	if err := checkTime("created_at", d.CreatedAt); err != nil {
		return err
	}
	s := t.db.query("INSERT INTO definitions (automation, version, json, created) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING").
		text(d.Automation).text(d.Version).blob(d.JSON)
	return t.fail(bindTime(s, d.CreatedAt).exec())
}

func (t *tx) Definition(ctx context.Context, automation, version string) (*fluxly.Definition, error) {
	if err := t.check(ctx, false); err != nil {
		return nil, err
	}
	var d *fluxly.Definition
	s := t.db.query("SELECT json, created FROM definitions WHERE automation = ? AND version = ?").text(automation).text(version)
	if s.next() {
		d = &fluxly.Definition{
			Automation: automation, Version: version, JSON: append([]byte(nil), s.getRaw(0)...), CreatedAt: getTime(s, 1),
		}
	}
	return d, t.fail(s.done())
}
