package sqlite

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/getfluxly/fluxly"
)

// profileColumns are what scanProfile reads.
const profileColumns = "p.pid, p.id, p.created, p.updated, p.user_ids, p.external_ids, p.anonymous_ids, p.traits, p.unsubscribed"

func (t *tx) scanProfile(s statement) (*fluxly.Profile, error) {
	p := &fluxly.Profile{ID: s.getText(1), CreatedAt: getTime(s, 2), UpdatedAt: getTime(s, 3)}
	if err := scanIDs(s, 4, p); err != nil {
		return nil, err
	}
	traits, err := decodeValues(s.getRaw(7))
	if err != nil {
		return nil, err
	}
	if p.Traits = traits; traits == nil {
		p.Traits = fluxly.Traits{}
	}
	if raw := s.getRaw(8); raw != nil {
		if err := json.Unmarshal(raw, &p.Unsubscribed); err != nil {
			return nil, fmt.Errorf("stored unsubscriptions: %w: %w", ErrCorrupt, err)
		}
	}
	t.knowProfile(p.ID, s.getInteger(0))
	return p, nil
}

// scanIDs reads the three lists of ids.
func scanIDs(s statement, column int, p *fluxly.Profile) error {
	var errs [3]error
	p.UserIDs, errs[0] = decodeStrings(s.getRaw(column))
	p.ExternalIDs, errs[1] = decodeStrings(s.getRaw(column + 1))
	p.AnonymousIDs, errs[2] = decodeStrings(s.getRaw(column + 2))
	return firstError(errs[:]...)
}

// identifiers lists the ids that lead to a profile, its own first.
func identifiers(p *fluxly.Profile) []fluxly.Identifier {
	ids := make([]fluxly.Identifier, 0, 1+len(p.UserIDs)+len(p.ExternalIDs)+len(p.AnonymousIDs))
	ids = append(ids, fluxly.Identifier{Kind: fluxly.UserID, Value: p.ID})
	for _, v := range p.UserIDs {
		ids = append(ids, fluxly.Identifier{Kind: fluxly.UserID, Value: v})
	}
	for _, v := range p.ExternalIDs {
		ids = append(ids, fluxly.Identifier{Kind: fluxly.ExternalID, Value: v})
	}
	for _, v := range p.AnonymousIDs {
		ids = append(ids, fluxly.Identifier{Kind: fluxly.AnonymousID, Value: v})
	}
	return ids
}

func (t *tx) FindProfiles(ctx context.Context, ids []fluxly.Identifier) ([]*fluxly.Profile, error) {
	if err := t.check(ctx, false); err != nil {
		return nil, err
	}
	var found []*fluxly.Profile
	var room [8]int64
	pids := room[:0]
	for _, id := range ids {
		if hit := t.cachedProfile(id); hit != nil {
			if !slices.Contains(pids, hit.pid) {
				p, err := copyProfile(hit.profile)
				if err != nil {
					return nil, err
				}
				pids, found = append(pids, hit.pid), append(found, p)
				t.knowProfile(p.ID, hit.pid)
			}
			continue
		}
		s := t.db.query("SELECT " + profileColumns + " FROM identities i JOIN profiles p ON p.pid = i.pid WHERE i.kind = ? AND i.value = ?").
			text(string(id.Kind)).text(id.Value)
		var err error
		if s.next() {
			if pid := s.getInteger(0); !slices.Contains(pids, pid) {
				pids = append(pids, pid)
				var p *fluxly.Profile
				if p, err = t.scanProfile(s); err == nil {
					found = append(found, p)
					err = t.cacheProfile(id, pid, p)
				}
			}
		}
		if err := firstError(t.fail(s.done()), err); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(found, func(a, b *fluxly.Profile) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), strings.Compare(a.ID, b.ID))
	})
	return found, nil
}

// firstError returns the first error.
func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func (t *tx) Profile(ctx context.Context, id string) (*fluxly.Profile, error) {
	if err := t.check(ctx, false); err != nil {
		return nil, err
	}
	list, err := t.profileList(t.db.query("SELECT " + profileColumns + " FROM profiles p WHERE p.id = ? AND p.created IS NOT NULL").text(id))
	if err != nil || len(list) == 0 {
		return nil, err
	}
	return list[0], nil
}

func (t *tx) Profiles(ctx context.Context, after string, limit int) ([]*fluxly.Profile, error) {
	if err := t.check(ctx, false); err != nil {
		return nil, err
	}
	return t.profileList(t.db.query("SELECT " + profileColumns + " FROM profiles p WHERE p.id > ? AND p.created IS NOT NULL ORDER BY p.id LIMIT ?").
		text(after).integer(int64(max(limit, 0))))
}

func (t *tx) profileList(s statement) (list []*fluxly.Profile, err error) {
	for err == nil && s.next() {
		var p *fluxly.Profile
		if p, err = t.scanProfile(s); err == nil {
			list = append(list, p)
		}
	}
	if err := firstError(t.fail(s.done()), err); err != nil {
		return nil, err
	}
	return list, nil
}

func (t *tx) PutProfile(ctx context.Context, p *fluxly.Profile) error {
	if err := t.begin(ctx); err != nil {
		return err
	}
	traits, err := t.encodeValues("traits", p.Traits)
	if err != nil {
		return err
	}
	if err := firstError(checkTime("created_at", p.CreatedAt), checkTime("updated_at", p.UpdatedAt)); err != nil {
		return err
	}
	var unsubscribed []byte
	if len(p.Unsubscribed) > 0 {
		list := slices.Clone(p.Unsubscribed)
		for i := range list {
			list[i].At = list[i].At.UTC()
		}
		if unsubscribed, err = json.Marshal(list); err != nil {
			return fmt.Errorf("unsubscriptions of profile %q: %w", p.ID, err)
		}
	}
	ids := identifiers(p)
	pid, old, err := t.storedIDs(p.ID)
	if err != nil {
		return err
	}
	t.forget(ids)
	t.forget(old)
	for _, id := range old {
		if !slices.Contains(ids, id) {
			if err := t.dropIdentity(id, pid); err != nil {
				return err
			}
		}
	}
	s := t.db.query(`INSERT INTO profiles (id, created, updated, user_ids, external_ids, anonymous_ids, traits, unsubscribed) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (id) DO UPDATE SET created = excluded.created, updated = excluded.updated,
		user_ids = excluded.user_ids, external_ids = excluded.external_ids, anonymous_ids = excluded.anonymous_ids, traits = excluded.traits, unsubscribed = excluded.unsubscribed RETURNING pid`).text(p.ID)
	bindTime(s, p.CreatedAt)
	bindTime(s, p.UpdatedAt)
	for _, list := range [][]string{p.UserIDs, p.ExternalIDs, p.AnonymousIDs} {
		bindJSON(s, t.encodeStrings(list))
	}
	bindJSON(s, traits)
	bindJSON(s, unsubscribed)
	pid, _, err = t.one(s)
	if err != nil {
		return err
	}
	t.knowProfile(p.ID, pid)
	for _, id := range ids {
		err := t.db.query("INSERT INTO identities (kind, value, pid) VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET pid = excluded.pid WHERE pid <> excluded.pid").
			text(string(id.Kind)).text(id.Value).integer(pid).exec()
		if err != nil {
			return t.fail(err)
		}
	}
	return nil
}

func (t *tx) cachedProfile(id fluxly.Identifier) *cached {
	if t.cache == nil {
		return nil
	}
	return t.cache.get(id)
}

// cacheProfile keeps a profile that was just read.
func (t *tx) cacheProfile(id fluxly.Identifier, pid int64, p *fluxly.Profile) error {
	if t.cache == nil || t.wroteProfiles {
		return nil
	}
	kept, err := copyProfile(p)
	if err == nil {
		t.cache.put(id, &cached{pid: pid, profile: kept})
	}
	return err
}

// forget takes the profiles that these ids lead to out of the cache, because
// they or the ids change.
func (t *tx) forget(ids []fluxly.Identifier) {
	t.wroteProfiles = true
	if t.cache != nil {
		t.cache.drop(ids)
	}
}

// storedIDs returns the number of a profile and the ids it was stored with.
func (t *tx) storedIDs(id string) (pid int64, ids []fluxly.Identifier, err error) {
	s := t.db.query("SELECT pid, user_ids, external_ids, anonymous_ids FROM profiles WHERE id = ? AND created IS NOT NULL").text(id)
	if s.next() {
		pid = s.getInteger(0)
		p := fluxly.Profile{ID: id}
		err = scanIDs(s, 1, &p)
		ids = identifiers(&p)
	}
	return pid, ids, firstError(t.fail(s.done()), err)
}

// dropIdentity removes an id, unless it leads to another profile by now.
func (t *tx) dropIdentity(id fluxly.Identifier, pid int64) error {
	return t.fail(t.db.query("DELETE FROM identities WHERE kind = ? AND value = ? AND pid = ?").
		text(string(id.Kind)).text(id.Value).integer(pid).exec())
}

// removeProfile removes a profile with its ids and memberships.
func (t *tx) removeProfile(id string) error {
	pid, ids, err := t.storedIDs(id)
	if err != nil {
		return err
	}
	t.forget(ids)
	for _, known := range ids {
		if err := t.dropIdentity(known, pid); err != nil {
			return err
		}
	}
	delete(t.profiles, id)
	return t.fail(firstError(
		t.db.query("DELETE FROM profiles WHERE id = ?").text(id).exec(),
		t.db.query("DELETE FROM memberships WHERE profile_id = ?").text(id).exec(),
	))
}

func (t *tx) MergeProfile(ctx context.Context, from, into string) error {
	if err := t.begin(ctx); err != nil {
		return err
	}
	if from == into {
		return fmt.Errorf("profile %q cannot be merged into itself", from)
	}
	pid, ok, err := t.profileNumber(from, false)
	if err != nil {
		return err
	}
	if ok {
		target, _, err := t.profileNumber(into, true)
		if err != nil {
			return err
		}
		for _, sql := range []string{
			"UPDATE events SET pid = ? WHERE pid = ?",
			"UPDATE runs SET pid = ? WHERE pid = ?",
			"UPDATE sends SET pid = ? WHERE pid = ?",
		} {
			if err := t.fail(t.db.query(sql).integer(target).integer(pid).exec()); err != nil {
				return err
			}
		}
	}
	return t.removeProfile(from)
}

func (t *tx) EraseProfile(ctx context.Context, id string, addresses []string) (int, error) {
	if err := t.begin(ctx); err != nil {
		return 0, err
	}
	t.erased = true
	pid, ok, err := t.profileNumber(id, false)
	if err != nil {
		return 0, err
	}
	events := 0
	if ok {
		if err := t.fail(t.db.query("DELETE FROM events WHERE pid = ?").integer(pid).exec()); err != nil {
			return 0, err
		}
		events = int(t.db.changes())
		for _, sql := range []string{
			"DELETE FROM run_log WHERE run_id IN (SELECT id FROM runs WHERE pid = ?)",
			"DELETE FROM runs WHERE pid = ?",
			"DELETE FROM sends WHERE pid = ?",
		} {
			if err := t.fail(t.db.query(sql).integer(pid).exec()); err != nil {
				return 0, err
			}
		}
		if err := t.keepLastSeq(); err != nil {
			return 0, err
		}
	}
	for _, address := range addresses {
		err := t.db.query("DELETE FROM suppressions WHERE address = ?").text(strings.ToLower(address)).exec()
		if err != nil {
			return 0, t.fail(err)
		}
	}
	return events, t.removeProfile(id)
}

func (t *tx) PutErasure(ctx context.Context, e *fluxly.ErasureRecord) error {
	if err := t.begin(ctx); err != nil {
		return err
	}
	if err := checkTime("at", e.At); err != nil {
		return err
	}
	s := t.db.query("INSERT OR REPLACE INTO erasures (id, reason, request_id, profiles, events, at) VALUES (?, ?, ?, ?, ?, ?)").
		text(e.ID).text(string(e.Reason)).text(e.RequestID).integer(int64(e.Profiles)).integer(int64(e.Events))
	return t.fail(bindTime(s, e.At).exec())
}

func (t *tx) Erasures(ctx context.Context) ([]*fluxly.ErasureRecord, error) {
	if err := t.check(ctx, false); err != nil {
		return nil, err
	}
	var list []*fluxly.ErasureRecord
	s := t.db.query("SELECT id, reason, request_id, profiles, events, at FROM erasures ORDER BY at, id")
	for s.next() {
		list = append(list, &fluxly.ErasureRecord{
			ID: s.getText(0), Reason: fluxly.ErasureReason(s.getText(1)), RequestID: s.getText(2),
			Profiles: int(s.getInteger(3)), Events: int(s.getInteger(4)), At: getTime(s, 5),
		})
	}
	return list, t.fail(s.done())
}

func (t *tx) Memberships(ctx context.Context, profileID string) ([]fluxly.Membership, error) {
	if err := t.check(ctx, false); err != nil {
		return nil, err
	}
	var list []fluxly.Membership
	s := t.db.query("SELECT segment, member, since, check_at FROM memberships WHERE profile_id = ? ORDER BY segment").text(profileID)
	for s.next() {
		list = append(list, fluxly.Membership{
			ProfileID: profileID, Segment: s.getText(0), Member: s.getInteger(1) != 0,
			Since: getTime(s, 2), CheckAt: getTime(s, 3),
		})
	}
	return list, t.fail(s.done())
}

func (t *tx) PutMembership(ctx context.Context, m *fluxly.Membership) error {
	if err := t.begin(ctx); err != nil {
		return err
	}
	if err := firstError(checkTime("since", m.Since), checkTime("check_at", m.CheckAt)); err != nil {
		return err
	}
	member := int64(0)
	if m.Member {
		member = 1
	}
	s := t.db.query(`INSERT INTO memberships (profile_id, segment, member, since, check_at) VALUES (?, ?, ?, ?, ?)
		ON CONFLICT DO UPDATE SET member = excluded.member, since = excluded.since, check_at = excluded.check_at`).
		text(m.ProfileID).text(m.Segment).integer(member)
	bindTime(s, m.Since)
	bindTimeOrNull(s, m.CheckAt)
	if !m.CheckAt.IsZero() {
		t.schedule(fluxly.WorkSegment, m.CheckAt)
	}
	return t.fail(s.exec())
}
