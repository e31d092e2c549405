package fluxly

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"
)

func copySend(s *SendRecord) (*SendRecord, error) {
	row := *s
	row.Body = cloneBytes(s.Body)
	for _, t := range []*time.Time{&row.QueuedAt, &row.DueAt, &row.ClaimedAt, &row.FailingSince, &row.SettledAt, &row.Receipt.At} {
		*t = instant(*t)
	}
	row.Events = nil
	for _, e := range s.Events {
		var err error
		if e.Detail, err = cloneValues(e.Detail, "events.detail"); err != nil {
			return nil, err
		}
		e.At = instant(e.At)
		row.Events = append(row.Events, e)
	}
	return &row, nil
}

func (tx *memoryTx) PutSend(ctx context.Context, s *SendRecord) error {
	if err := tx.check(ctx, true); err != nil {
		return err
	}
	row, err := copySend(s)
	if err != nil {
		return err
	}
	if old := tx.m.sends[s.Key]; old != nil {
		tx.unindexSend(old)
	}
	put(tx, tx.m.sends, row.Key, row)
	tx.add(tx.m.sendOrder, memoryKey{at: row.QueuedAt, id: row.Key})
	tx.add(tx.m.profileSends, memoryKey{group: row.ProfileID, at: row.QueuedAt, id: row.Key})
	tx.add(tx.m.runSends, memoryKey{group: row.RunID, at: row.QueuedAt, id: row.Key})
	if row.waits() {
		tx.schedule(WorkSend, memoryKey{at: row.DueAt, id: row.Key})
	}
	return nil
}

// waits reports whether the mail is still work, due at DueAt.
func (s *SendRecord) waits() bool {
	return (s.Status == SendQueued || s.Status == SendSending) && !s.DueAt.IsZero()
}

func (tx *memoryTx) unindexSend(s *SendRecord) {
	tx.drop(tx.m.sendOrder, memoryKey{at: s.QueuedAt, id: s.Key})
	tx.drop(tx.m.profileSends, memoryKey{group: s.ProfileID, at: s.QueuedAt, id: s.Key})
	tx.drop(tx.m.runSends, memoryKey{group: s.RunID, at: s.QueuedAt, id: s.Key})
	if s.waits() {
		tx.drop(tx.m.due[WorkSend], memoryKey{at: s.DueAt, id: s.Key})
	}
}

func (tx *memoryTx) removeSend(s *SendRecord) {
	tx.unindexSend(s)
	remove(tx, tx.m.sends, s.Key)
}

func (tx *memoryTx) Send(ctx context.Context, key string) (*SendRecord, error) {
	if err := tx.check(ctx, false); err != nil {
		return nil, err
	}
	s := tx.m.sends[key]
	if s == nil {
		return nil, nil
	}
	return copySend(s)
}

func (tx *memoryTx) Sends(ctx context.Context, q SendQuery) ([]*SendRecord, error) {
	if err := tx.check(ctx, false); err != nil {
		return nil, err
	}
	after := memoryKey{at: instant(q.AfterQueued), id: q.AfterKey}
	index := tx.m.sendOrder
	switch {
	case q.RunID != "":
		index, after.group = tx.m.runSends, q.RunID
	case q.ProfileID != "":
		index, after.group = tx.m.profileSends, q.ProfileID
	}
	var list []*SendRecord
	for k := range index.From(after) {
		if k.group != after.group {
			break
		}
		s := tx.m.sends[k.id]
		switch {
		case k == after,
			q.Automation != "" && s.Automation != q.Automation,
			q.ProfileID != "" && s.ProfileID != q.ProfileID,
			q.Status != "" && s.Status != q.Status:
			continue
		}
		c, err := copySend(s)
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

func (tx *memoryTx) CountSends(ctx context.Context, automation string) ([]SendCount, error) {
	if err := tx.check(ctx, false); err != nil {
		return nil, err
	}
	counts := map[SendCount]int{}
	for _, s := range tx.m.sends {
		if automation == "" || s.Automation == automation {
			counts[SendCount{Automation: s.Automation, Step: s.Step, Status: s.Status, Reason: s.Reason}]++
		}
	}
	var list []SendCount
	for c, n := range counts {
		c.Count = n
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b SendCount) int {
		return cmp.Or(strings.Compare(a.Automation, b.Automation), strings.Compare(a.Step, b.Step),
			cmp.Compare(a.Status, b.Status), strings.Compare(a.Reason, b.Reason))
	})
	return list, nil
}

func suppressionKey(address, stream string) memoryKey {
	return memoryKey{group: strings.ToLower(address), at: firstTime, id: stream}
}

func (tx *memoryTx) Suppression(ctx context.Context, address, stream string) (*Suppression, error) {
	if err := tx.check(ctx, false); err != nil {
		return nil, err
	}
	s := tx.m.suppressions[suppressionKey(address, stream)]
	if s == nil {
		s = tx.m.suppressions[suppressionKey(address, "")]
	}
	if s == nil {
		return nil, nil
	}
	row := *s
	return &row, nil
}

func (tx *memoryTx) PutSuppression(ctx context.Context, s *Suppression) error {
	if err := tx.check(ctx, true); err != nil {
		return err
	}
	row := *s
	row.At = instant(s.At)
	k := suppressionKey(s.Address, s.Stream)
	put(tx, tx.m.suppressions, k, &row)
	tx.add(tx.m.suppressionOrder, k)
	return nil
}

func (tx *memoryTx) DeleteSuppression(ctx context.Context, address, stream string) error {
	if err := tx.check(ctx, true); err != nil {
		return err
	}
	k := suppressionKey(address, stream)
	remove(tx, tx.m.suppressions, k)
	tx.drop(tx.m.suppressionOrder, k)
	return nil
}

func (tx *memoryTx) Suppressions(ctx context.Context) ([]*Suppression, error) {
	if err := tx.check(ctx, false); err != nil {
		return nil, err
	}
	var list []*Suppression
	for k := range tx.m.suppressionOrder.From(memoryKey{at: firstTime}) {
		row := *tx.m.suppressions[k]
		list = append(list, &row)
	}
	return list, nil
}

func (tx *memoryTx) Meter(ctx context.Context, name string) (*Meter, error) {
	if err := tx.check(ctx, false); err != nil {
		return nil, err
	}
	m := tx.m.meters[name]
	if m == nil {
		return nil, nil
	}
	row := *m
	row.Used = slices.Clone(m.Used)
	return &row, nil
}

func (tx *memoryTx) PutMeter(ctx context.Context, m *Meter) error {
	if err := tx.check(ctx, true); err != nil {
		return err
	}
	row := Meter{Name: m.Name, Queue: instant(m.Queue)}
	for _, t := range m.Used {
		row.Used = append(row.Used, instant(t))
	}
	put(tx, tx.m.meters, row.Name, &row)
	return nil
}
