package fluxly

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

func copyRun(r *Run) (*Run, error) {
	row := *r
	var err error
	if row.Entry.Properties, err = cloneValues(r.Entry.Properties, "entry.properties"); err != nil {
		return nil, err
	}
	if row.Results, err = cloneValues(r.Results, "results"); err != nil {
		return nil, err
	}
	row.Waits = cloneStrings(r.Waits)
	for _, t := range []*time.Time{
		&row.StartedAt, &row.UpdatedAt, &row.EndedAt, &row.WakeAt, &row.WaitSince, &row.Entry.OccurredAt,
	} {
		*t = instant(*t)
	}
	return &row, nil
}

func (tx *memoryTx) Run(ctx context.Context, id string) (*Run, error) {
	if err := tx.check(ctx, false); err != nil {
		return nil, err
	}
	r := tx.m.runs[id]
	if r == nil {
		return nil, nil
	}
	return copyRun(r)
}

func (tx *memoryTx) LiveRuns(ctx context.Context, profileID, event string, overdue time.Time) ([]*Run, error) {
	if err := tx.check(ctx, false); err != nil {
		return nil, err
	}
	var list []*Run
	for _, k := range group(tx.m.profileRuns, profileID) {
		r := tx.m.runs[k.id]
		if r.Status != RunLive {
			continue
		}
		late := !r.WakeAt.IsZero() && r.WakeAt.Before(overdue)
		if event != "" && !late && !slices.Contains(r.Waits, event) {
			continue
		}
		c, err := copyRun(r)
		if err != nil {
			return nil, err
		}
		list = append(list, c)
	}
	return list, nil
}

func (tx *memoryTx) LastRun(ctx context.Context, automation, profileID, key string) (*Run, error) {
	if err := tx.check(ctx, false); err != nil {
		return nil, err
	}
	for _, k := range slices.Backward(group(tx.m.profileRuns, profileID)) {
		if r := tx.m.runs[k.id]; r.Automation == automation && r.Key == key {
			return copyRun(r)
		}
	}
	return nil, nil
}

func (tx *memoryTx) Runs(ctx context.Context, q RunQuery) ([]*Run, error) {
	if err := tx.check(ctx, false); err != nil {
		return nil, err
	}
	after := memoryKey{at: instant(q.AfterStarted), id: q.AfterID}
	var list []*Run
	for k := range tx.m.runOrder.From(after) {
		r := tx.m.runs[k.id]
		switch {
		case k == after,
			q.Automation != "" && r.Automation != q.Automation,
			q.ProfileID != "" && r.ProfileID != q.ProfileID,
			q.Status != "" && r.Status != q.Status,
			q.Step != "" && r.Step != q.Step:
			continue
		}
		c, err := copyRun(r)
		if err != nil {
			return nil, err
		}
		list = append(list, c)
		if len(list) == q.Limit {
			break
		}
	}
	return list, nil
}

func (tx *memoryTx) PutRun(ctx context.Context, r *Run) error {
	if err := tx.check(ctx, true); err != nil {
		return err
	}
	row, err := copyRun(r)
	if err != nil {
		return err
	}
	if old := tx.m.runs[r.ID]; old != nil {
		tx.unindexRun(old)
	}
	put(tx, tx.m.runs, row.ID, row)
	tx.add(tx.m.runOrder, memoryKey{at: row.StartedAt, id: row.ID})
	tx.add(tx.m.profileRuns, memoryKey{group: row.ProfileID, at: row.StartedAt, id: row.ID})
	if kind := row.workKind(); kind != "" {
		tx.schedule(kind, memoryKey{at: row.WakeAt, id: row.ID})
	}
	return nil
}

// workKind is the kind of work that a run is due for at WakeAt; empty when it
// is due for none.
func (r *Run) workKind() WorkKind {
	switch {
	case r.Status != RunLive || r.WakeAt.IsZero():
		return ""
	case r.Pending == PendingCall:
		return WorkCall
	}
	return WorkWake
}

func (tx *memoryTx) unindexRun(r *Run) {
	tx.drop(tx.m.runOrder, memoryKey{at: r.StartedAt, id: r.ID})
	tx.drop(tx.m.profileRuns, memoryKey{group: r.ProfileID, at: r.StartedAt, id: r.ID})
	if kind := r.workKind(); kind != "" {
		tx.drop(tx.m.due[kind], memoryKey{at: r.WakeAt, id: r.ID})
	}
}

func (tx *memoryTx) removeRun(r *Run) {
	tx.unindexRun(r)
	remove(tx, tx.m.runs, r.ID)
	tx.removeLog(r.ID)
}

// removeLog returns how many entries the log of a run had.
func (tx *memoryTx) removeLog(runID string) int {
	keys := group(tx.m.logOrder, runID)
	for _, k := range keys {
		remove(tx, tx.m.logs, k)
		tx.drop(tx.m.logOrder, k)
	}
	return len(keys)
}

func (tx *memoryTx) AppendLog(ctx context.Context, entries []LogEntry) error {
	if err := tx.check(ctx, true); err != nil {
		return err
	}
	for _, row := range entries {
		k := memoryKey{group: row.RunID, at: firstTime, seq: int64(row.Seq)}
		if _, ok := tx.m.logs[k]; ok {
			return fmt.Errorf("log entry %d of run %q is there already", row.Seq, clip(row.RunID, 64))
		}
		var err error
		if row.Detail, err = cloneValues(row.Detail, "detail"); err != nil {
			return err
		}
		row.At = instant(row.At)
		put(tx, tx.m.logs, k, row)
		tx.add(tx.m.logOrder, k)
	}
	return nil
}

func (tx *memoryTx) Log(ctx context.Context, runID string) ([]LogEntry, error) {
	if err := tx.check(ctx, false); err != nil {
		return nil, err
	}
	var list []LogEntry
	for _, k := range group(tx.m.logOrder, runID) {
		row := tx.m.logs[k]
		row.Detail = mustCloneValues(row.Detail)
		list = append(list, row)
	}
	return list, nil
}

func (tx *memoryTx) CountRuns(ctx context.Context, automation string) ([]RunCount, error) {
	if err := tx.check(ctx, false); err != nil {
		return nil, err
	}
	counts := map[RunCount]int{}
	for _, r := range tx.m.runs {
		if automation == "" || r.Automation == automation {
			counts[RunCount{Automation: r.Automation, Version: r.Version, Step: r.Step, Status: r.Status}]++
		}
	}
	var list []RunCount
	for c, n := range counts {
		c.Count = n
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b RunCount) int {
		return cmp.Or(strings.Compare(a.Automation, b.Automation), strings.Compare(a.Version, b.Version),
			strings.Compare(a.Step, b.Step), cmp.Compare(a.Status, b.Status))
	})
	return list, nil
}

func (tx *memoryTx) CountLog(ctx context.Context, automation string) ([]LogCount, error) {
	if err := tx.check(ctx, false); err != nil {
		return nil, err
	}
	counts := map[LogCount]int{}
	for _, row := range tx.m.logs {
		if row.Automation == automation {
			counts[LogCount{Step: row.Step, Code: row.Code}]++
		}
	}
	var list []LogCount
	for c, n := range counts {
		c.Count = n
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b LogCount) int {
		return cmp.Or(strings.Compare(a.Step, b.Step), strings.Compare(a.Code, b.Code))
	})
	return list, nil
}

func copyDefinition(d *Definition) *Definition {
	row := *d
	row.JSON = cloneBytes(d.JSON)
	row.CreatedAt = instant(d.CreatedAt)
	return &row
}

func (tx *memoryTx) PutDefinition(ctx context.Context, d *Definition) error {
	if err := tx.check(ctx, true); err != nil {
		return err
	}
	k := memoryKey{group: d.Automation, id: d.Version}
	if tx.m.definitions[k] == nil {
		put(tx, tx.m.definitions, k, copyDefinition(d))
	}
	return nil
}

func (tx *memoryTx) Definition(ctx context.Context, automation, version string) (*Definition, error) {
	if err := tx.check(ctx, false); err != nil {
		return nil, err
	}
	d := tx.m.definitions[memoryKey{group: automation, id: version}]
	if d == nil {
		return nil, nil
	}
	return copyDefinition(d), nil
}
