package fluxly

import (
	"cmp"
	"context"
	"slices"
	"time"
)

func copyEvent(e *StoredEvent) (*StoredEvent, error) {
	row := *e
	var err error
	if row.Properties, err = cloneValues(e.Properties, "properties"); err != nil {
		return nil, err
	}
	if row.Traits, err = cloneValues(e.Traits, "traits"); err != nil {
		return nil, err
	}
	row.OccurredAt, row.ReceivedAt = instant(e.OccurredAt), instant(e.ReceivedAt)
	return &row, nil
}

func (tx *memoryTx) PutEvent(ctx context.Context, e *StoredEvent) (digest [32]byte, duplicate bool, err error) {
	if err := tx.check(ctx, true); err != nil {
		return digest, false, err
	}
	if seq, ok := tx.m.messages[e.MessageID]; ok {
		return tx.m.events[seq].Digest, true, nil
	}
	row, err := copyEvent(e)
	if err != nil {
		return digest, false, err
	}
	last := tx.m.lastSeq
	tx.undo = append(tx.undo, func() { tx.m.lastSeq = last })
	tx.m.lastSeq++
	row.Seq = tx.m.lastSeq
	e.Seq = row.Seq
	put(tx, tx.m.events, row.Seq, row)
	put(tx, tx.m.messages, row.MessageID, row.Seq)
	tx.add(tx.m.eventOrder, memoryKey{group: row.ProfileID, at: firstTime, seq: row.Seq})
	return row.Digest, false, nil
}

func (tx *memoryTx) EventByMessageID(ctx context.Context, messageID string) (*StoredEvent, error) {
	if err := tx.check(ctx, false); err != nil {
		return nil, err
	}
	seq, ok := tx.m.messages[messageID]
	if !ok {
		return nil, nil
	}
	return copyEvent(tx.m.events[seq])
}

// within reports whether t is in (since, until]; zero bounds do not bound.
func within(t, since, until time.Time) bool {
	return (since.IsZero() || t.After(since)) && (until.IsZero() || !t.After(until))
}

func (tx *memoryTx) Events(ctx context.Context, profileID string, q EventQuery) ([]*StoredEvent, error) {
	if err := tx.check(ctx, false); err != nil {
		return nil, err
	}
	var rows []*StoredEvent
	for _, k := range group(tx.m.eventOrder, profileID) {
		e := tx.m.events[k.seq]
		if e.Seq > q.AfterSeq && (q.Name == "" || e.Name == q.Name) && within(e.OccurredAt, q.Since, q.Until) {
			rows = append(rows, e)
		}
	}
	if q.Newest {
		slices.SortFunc(rows, func(a, b *StoredEvent) int {
			return cmp.Or(b.OccurredAt.Compare(a.OccurredAt), cmp.Compare(b.Seq, a.Seq))
		})
	}
	if q.Limit > 0 && len(rows) > q.Limit {
		rows = rows[:q.Limit]
	}
	var list []*StoredEvent
	for _, row := range rows {
		c, err := copyEvent(row)
		if err != nil {
			return nil, err
		}
		list = append(list, c)
	}
	return list, nil
}

func (tx *memoryTx) CountEvents(ctx context.Context, profileID, name string, since, until time.Time, limit int) (int, error) {
	if err := tx.check(ctx, false); err != nil {
		return 0, err
	}
	n := 0
	for _, k := range group(tx.m.eventOrder, profileID) {
		if e := tx.m.events[k.seq]; e.Name == name && within(e.OccurredAt, since, until) {
			n++
			if n == limit {
				break
			}
		}
	}
	return n, nil
}

func (tx *memoryTx) removeEvent(e *StoredEvent) {
	remove(tx, tx.m.messages, e.MessageID)
	remove(tx, tx.m.events, e.Seq)
	tx.drop(tx.m.eventOrder, memoryKey{group: e.ProfileID, at: firstTime, seq: e.Seq})
}
