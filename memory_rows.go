package fluxly

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// The rows of the in-memory store: each method reads or writes maps as the
// contract in store.go says, and nothing more.

func copyProfile(p *Profile) (*Profile, error) {
	q := p.clone()
	traits, err := cloneValues(p.Traits, "traits")
	if err != nil {
		return nil, err
	}
	if traits == nil {
		traits = Traits{}
	}
	q.Traits = traits
	q.ExternalIDs, q.AnonymousIDs, q.UserIDs = cloneStrings(p.ExternalIDs), cloneStrings(p.AnonymousIDs), cloneStrings(p.UserIDs)
	q.CreatedAt, q.UpdatedAt = instant(p.CreatedAt), instant(p.UpdatedAt)
	if len(q.Unsubscribed) == 0 {
		q.Unsubscribed = nil
	}
	for i := range q.Unsubscribed {
		q.Unsubscribed[i].At = instant(q.Unsubscribed[i].At)
	}
	return q, nil
}

// identifiers lists the ids that lead to a profile, its own first.
func (p *Profile) identifiers() []Identifier {
	ids := []Identifier{{UserID, p.ID}}
	for _, v := range p.UserIDs {
		ids = append(ids, Identifier{UserID, v})
	}
	for _, v := range p.ExternalIDs {
		ids = append(ids, Identifier{ExternalID, v})
	}
	for _, v := range p.AnonymousIDs {
		ids = append(ids, Identifier{AnonymousID, v})
	}
	return ids
}

func (tx *memoryTx) FindProfiles(ctx context.Context, ids []Identifier) ([]*Profile, error) {
	if err := tx.check(ctx, false); err != nil {
		return nil, err
	}
	var found []*Profile
	seen := map[string]bool{}
	for _, id := range ids {
		owner, ok := tx.m.owners[id]
		if !ok || seen[owner] {
			continue
		}
		seen[owner] = true
		p, err := copyProfile(tx.m.profiles[owner])
		if err != nil {
			return nil, err
		}
		found = append(found, p)
	}
	slices.SortFunc(found, func(a, b *Profile) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), strings.Compare(a.ID, b.ID))
	})
	return found, nil
}

func (tx *memoryTx) Profile(ctx context.Context, id string) (*Profile, error) {
	if err := tx.check(ctx, false); err != nil {
		return nil, err
	}
	p := tx.m.profiles[id]
	if p == nil {
		return nil, nil
	}
	return copyProfile(p)
}

func (tx *memoryTx) Profiles(ctx context.Context, after string, limit int) ([]*Profile, error) {
	if err := tx.check(ctx, false); err != nil {
		return nil, err
	}
	var list []*Profile
	for k := range tx.m.profileOrder.From(memoryKey{id: after}) {
		if k.id == after {
			continue
		}
		if len(list) == limit {
			break
		}
		p, err := copyProfile(tx.m.profiles[k.id])
		if err != nil {
			return nil, err
		}
		list = append(list, p)
	}
	return list, nil
}

func (tx *memoryTx) PutProfile(ctx context.Context, p *Profile) error {
	if err := tx.check(ctx, true); err != nil {
		return err
	}
	row, err := copyProfile(p)
	if err != nil {
		return err
	}
	ids := row.identifiers()
	if old := tx.m.profiles[row.ID]; old != nil {
		for _, id := range old.identifiers() {
			if tx.m.owners[id] == row.ID && !slices.Contains(ids, id) {
				remove(tx, tx.m.owners, id)
			}
		}
	}
	put(tx, tx.m.profiles, row.ID, row)
	tx.add(tx.m.profileOrder, memoryKey{id: row.ID})
	for _, id := range ids {
		put(tx, tx.m.owners, id, row.ID)
	}
	return nil
}

// removeProfile removes a profile with its ids and memberships.
func (tx *memoryTx) removeProfile(id string) {
	if p := tx.m.profiles[id]; p != nil {
		for _, known := range p.identifiers() {
			if tx.m.owners[known] == id {
				remove(tx, tx.m.owners, known)
			}
		}
		remove(tx, tx.m.profiles, id)
		tx.drop(tx.m.profileOrder, memoryKey{id: id})
	}
	for _, k := range group(tx.m.membershipOrder, id) {
		tx.unscheduleMembership(tx.m.memberships[k])
		remove(tx, tx.m.memberships, k)
		tx.drop(tx.m.membershipOrder, k)
	}
}

func (tx *memoryTx) MergeProfile(ctx context.Context, from, into string) error {
	if err := tx.check(ctx, true); err != nil {
		return err
	}
	if from == into {
		return fmt.Errorf("profile %q cannot be merged into itself", clip(from, 64))
	}
	for _, k := range group(tx.m.eventOrder, from) {
		row := *tx.m.events[k.seq]
		row.ProfileID = into
		put(tx, tx.m.events, k.seq, &row)
		tx.drop(tx.m.eventOrder, k)
		k.group = into
		tx.add(tx.m.eventOrder, k)
	}
	for _, k := range group(tx.m.profileRuns, from) {
		row := *tx.m.runs[k.id]
		row.ProfileID = into
		put(tx, tx.m.runs, k.id, &row)
		tx.drop(tx.m.profileRuns, k)
		k.group = into
		tx.add(tx.m.profileRuns, k)
	}
	for _, k := range group(tx.m.profileSends, from) {
		row := *tx.m.sends[k.id]
		row.ProfileID = into
		put(tx, tx.m.sends, k.id, &row)
		tx.drop(tx.m.profileSends, k)
		k.group = into
		tx.add(tx.m.profileSends, k)
	}
	tx.removeProfile(from)
	return nil
}

func (tx *memoryTx) EraseProfile(ctx context.Context, id string, addresses []string) (int, error) {
	if err := tx.check(ctx, true); err != nil {
		return 0, err
	}
	events := group(tx.m.eventOrder, id)
	for _, k := range events {
		remove(tx, tx.m.messages, tx.m.events[k.seq].MessageID)
		remove(tx, tx.m.events, k.seq)
		tx.drop(tx.m.eventOrder, k)
	}
	for _, k := range group(tx.m.profileRuns, id) {
		tx.removeRun(tx.m.runs[k.id])
	}
	for _, k := range group(tx.m.profileSends, id) {
		tx.removeSend(tx.m.sends[k.id])
	}
	for _, address := range addresses {
		for _, k := range group(tx.m.suppressionOrder, strings.ToLower(address)) {
			remove(tx, tx.m.suppressions, k)
			tx.drop(tx.m.suppressionOrder, k)
		}
	}
	tx.removeProfile(id)
	return len(events), nil
}

func (tx *memoryTx) PutErasure(ctx context.Context, e *ErasureRecord) error {
	if err := tx.check(ctx, true); err != nil {
		return err
	}
	row := *e
	row.At = instant(e.At)
	if old := tx.m.erasures[e.ID]; old != nil {
		tx.drop(tx.m.erasureOrder, memoryKey{at: old.At, id: old.ID})
	}
	put(tx, tx.m.erasures, row.ID, &row)
	tx.add(tx.m.erasureOrder, memoryKey{at: row.At, id: row.ID})
	return nil
}

func (tx *memoryTx) Erasures(ctx context.Context) ([]*ErasureRecord, error) {
	if err := tx.check(ctx, false); err != nil {
		return nil, err
	}
	var list []*ErasureRecord
	for k := range tx.m.erasureOrder.From(memoryKey{at: firstTime}) {
		row := *tx.m.erasures[k.id]
		list = append(list, &row)
	}
	return list, nil
}

func (tx *memoryTx) Memberships(ctx context.Context, profileID string) ([]Membership, error) {
	if err := tx.check(ctx, false); err != nil {
		return nil, err
	}
	var list []Membership
	for _, k := range group(tx.m.membershipOrder, profileID) {
		list = append(list, *tx.m.memberships[k])
	}
	return list, nil
}

func (tx *memoryTx) PutMembership(ctx context.Context, m *Membership) error {
	if err := tx.check(ctx, true); err != nil {
		return err
	}
	row := *m
	row.Since, row.CheckAt = instant(m.Since), instant(m.CheckAt)
	k := memoryKey{group: m.ProfileID, at: firstTime, id: m.Segment}
	if old := tx.m.memberships[k]; old != nil {
		tx.unscheduleMembership(old)
	}
	put(tx, tx.m.memberships, k, &row)
	tx.add(tx.m.membershipOrder, k)
	if !row.CheckAt.IsZero() {
		tx.schedule(WorkSegment, memoryKey{at: row.CheckAt, id: row.ProfileID, sub: row.Segment})
	}
	return nil
}

func (tx *memoryTx) unscheduleMembership(m *Membership) {
	tx.drop(tx.m.due[WorkSegment], memoryKey{at: m.CheckAt, id: m.ProfileID, sub: m.Segment})
}

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
	for _, k := range group(tx.m.logOrder, r.ID) {
		remove(tx, tx.m.logs, k)
		tx.drop(tx.m.logOrder, k)
	}
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
