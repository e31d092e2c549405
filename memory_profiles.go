package fluxly

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
)

// The rows of the in-memory store, here and in memory_events.go, memory_runs.go
// and memory_sends.go: each method reads or writes maps as the contract in
// store.go says, and nothing more.

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
		tx.removeEvent(tx.m.events[k.seq])
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
