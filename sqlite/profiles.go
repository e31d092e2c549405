package sqlite

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/internal/value"
)

// profileColumns are what scanProfile reads.
const profileColumns = "p.pid, p.id, p.created, p.updated, p.ids, p.traits, p.unsubscribed"

func (t *tx) scanProfile(s statement) (*fluxly.Profile, error) {
	p := &fluxly.Profile{ID: s.getText(1), CreatedAt: getTime(s, 2), UpdatedAt: getTime(s, 3)}
	if raw := s.getRaw(4); raw != nil {
		if err := decodeIDs(raw, p); err != nil {
			return nil, err
		}
	}
	traits, err := decodeValues(s.getRaw(5))
	if err != nil {
		return nil, err
	}
	if p.Traits = traits; traits == nil {
		p.Traits = fluxly.Traits{}
	}
	if raw := s.getRaw(6); raw != nil {
		if err := json.Unmarshal(raw, &p.Unsubscribed); err != nil {
			return nil, fmt.Errorf("stored unsubscriptions: %w: %w", ErrCorrupt, err)
		}
	}
	t.knowProfile(p.ID, s.getInteger(0))
	return p, nil
}

// encodeIDs writes the ids of a profile besides its own as an object of lists;
// nil when there is none.
func encodeIDs(p *fluxly.Profile) []byte {
	var out []byte
	list := func(kind fluxly.IDKind, ids []string) {
		if len(ids) == 0 {
			return
		}
		if out == nil {
			out = append(make([]byte, 0, 128), '{')
		} else {
			out = append(out, ',')
		}
		out = append(value.AppendString(out, string(kind)), ':')
		for i, id := range ids {
			sep := byte(',')
			if i == 0 {
				sep = '['
			}
			out = value.AppendString(append(out, sep), id)
		}
		out = append(out, ']')
	}
	list(fluxly.UserID, p.UserIDs)
	list(fluxly.ExternalID, p.ExternalIDs)
	list(fluxly.AnonymousID, p.AnonymousIDs)
	if out != nil {
		out = append(out, '}')
	}
	return out
}

func decodeIDs(raw []byte, p *fluxly.Profile) error {
	m, err := decodeValues(raw)
	if err != nil {
		return err
	}
	list := func(kind fluxly.IDKind) (ids []string) {
		values, _ := m[string(kind)].([]any)
		for _, v := range values {
			id, _ := v.(string)
			ids = append(ids, id)
		}
		return ids
	}
	p.UserIDs, p.ExternalIDs, p.AnonymousIDs = list(fluxly.UserID), list(fluxly.ExternalID), list(fluxly.AnonymousID)
	return nil
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
	var pids []int64
	for _, id := range ids {
		s := t.db.query("SELECT " + profileColumns + " FROM identities i JOIN profiles p ON p.pid = i.pid WHERE i.kind = ? AND i.value = ?").
			text(string(id.Kind)).text(id.Value)
		var err error
		if s.next() {
			if pid := s.getInteger(0); !slices.Contains(pids, pid) {
				pids = append(pids, pid)
				var p *fluxly.Profile
				if p, err = t.scanProfile(s); err == nil {
					found = append(found, p)
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
	if err := t.check(ctx, true); err != nil {
		return err
	}
	traits, err := encodeValues("traits", p.Traits)
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
	for _, id := range old {
		if !slices.Contains(ids, id) {
			if err := t.dropIdentity(id, pid); err != nil {
				return err
			}
		}
	}
	s := t.db.query(`INSERT INTO profiles (id, created, updated, ids, traits, unsubscribed) VALUES (?, ?, ?, ?, ?, ?)
		ON CONFLICT (id) DO UPDATE SET created = excluded.created, updated = excluded.updated,
		ids = excluded.ids, traits = excluded.traits, unsubscribed = excluded.unsubscribed RETURNING pid`).text(p.ID)
	bindTime(s, p.CreatedAt)
	bindTime(s, p.UpdatedAt)
	bindJSON(s, encodeIDs(p))
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

// storedIDs returns the number of a profile and the ids it was stored with.
func (t *tx) storedIDs(id string) (pid int64, ids []fluxly.Identifier, err error) {
	s := t.db.query("SELECT pid, ids FROM profiles WHERE id = ? AND created IS NOT NULL").text(id)
	if s.next() {
		pid = s.getInteger(0)
		p := fluxly.Profile{ID: id}
		if raw := s.getRaw(1); raw != nil {
			err = decodeIDs(raw, &p)
		}
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
	if err := t.check(ctx, true); err != nil {
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
	if err := t.check(ctx, true); err != nil {
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
		// The next event must not get the number of one that is gone.
		err := t.db.query("INSERT INTO meta (key, value) VALUES ('last_seq', ?) ON CONFLICT DO UPDATE SET value = excluded.value").
			integer(t.lastSeq).exec()
		if err != nil {
			return 0, t.fail(err)
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
	if err := t.check(ctx, true); err != nil {
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
	if err := t.check(ctx, true); err != nil {
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
