package postgres

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/getfluxly/fluxly"
)

// profileRow is a profile as it is stored; it is never changed.
type profileRow struct {
	// placeholder: rows name the person, but it was not stored so far.
	placeholder                        bool
	created, updated                   pgtype.Timestamptz
	userIDs, externalIDs, anonymousIDs string
	traits, unsubscribed               string
}

// profileColumns are what scanProfile reads.
const profileColumns = "p.pid, p.id, p.created, p.updated, p.user_ids, p.external_ids, p.anonymous_ids, p.traits, p.unsubscribed"

// scanProfile reads a row, after the columns that more are for.
func scanProfile(scan scanFunc, more ...any) (pid int64, id string, row *profileRow, err error) {
	var created, updated *timeColumn
	var lists [5][]byte
	err = scan(append(more, &pid, &id, &created, &updated, &lists[0], &lists[1], &lists[2], &lists[3], &lists[4])...)
	row = &profileRow{
		placeholder: created == nil, userIDs: string(lists[0]), externalIDs: string(lists[1]), anonymousIDs: string(lists[2]),
		traits: string(lists[3]), unsubscribed: string(lists[4]),
	}
	if created != nil {
		row.created = instant(created.Time)
	}
	if updated != nil {
		row.updated = instant(updated.Time)
	}
	return pid, id, row, err
}

// timeOf is the time of an instant.
func timeOf(v pgtype.Timestamptz) (c timeColumn) {
	_ = c.ScanTimestamptz(v)
	return c
}

// profile decodes a row.
func (r *profileRow) profile(id string) (*fluxly.Profile, error) {
	p := &fluxly.Profile{ID: id, CreatedAt: timeOf(r.created).Time, UpdatedAt: timeOf(r.updated).Time}
	var errs [4]error
	p.UserIDs, errs[0] = decodeStrings([]byte(r.userIDs))
	p.ExternalIDs, errs[1] = decodeStrings([]byte(r.externalIDs))
	p.AnonymousIDs, errs[2] = decodeStrings([]byte(r.anonymousIDs))
	p.Traits, errs[3] = decodeValues([]byte(r.traits))
	if err := firstError(errs[:]...); err != nil {
		return nil, err
	}
	if p.Traits == nil {
		p.Traits = fluxly.Traits{}
	}
	if r.unsubscribed != "" {
		if err := json.Unmarshal([]byte(r.unsubscribed), &p.Unsubscribed); err != nil {
			return nil, fmt.Errorf("stored unsubscriptions: %w: %w", ErrCorrupt, err)
		}
	}
	return p, nil
}

// idKey is an id as it is stored.
func idKey(kind fluxly.IDKind, value string) string { return string(kind) + ":" + value }

// idKeys lists the ids that lead to a profile, its own first.
func idKeys(p *fluxly.Profile) []string {
	keys := make([]string, 0, 1+len(p.UserIDs)+len(p.ExternalIDs)+len(p.AnonymousIDs))
	keys = append(keys, idKey(fluxly.UserID, p.ID))
	for _, v := range p.UserIDs {
		keys = append(keys, idKey(fluxly.UserID, v))
	}
	for _, v := range p.ExternalIDs {
		keys = append(keys, idKey(fluxly.ExternalID, v))
	}
	for _, v := range p.AnonymousIDs {
		keys = append(keys, idKey(fluxly.AnonymousID, v))
	}
	return keys
}

// knowRow remembers a row that was read.
func (t *tx) knowRow(pid int64, id string, row *profileRow) {
	if t.known.people == nil {
		return // a view that read nothing ahead
	}
	p := t.known.personOf(pid)
	p.id, p.row, p.stored = id, row, true
	t.known.pids[id] = pid
}

func (t *tx) FindProfiles(ctx context.Context, ids []fluxly.Identifier) ([]*fluxly.Profile, error) {
	if err := t.check(ctx, false); err != nil {
		return nil, err
	}
	if len(ids) == 0 {
		return nil, nil
	}
	keys := make([]string, len(ids))
	all := t.cached
	for i, id := range ids {
		keys[i] = idKey(id.Kind, id.Value)
		if pid, ok := t.known.ids[keys[i]]; !ok || pid != 0 && (t.known.people[pid] == nil || t.known.people[pid].row == nil) {
			all = false
		}
	}
	var found []*fluxly.Profile
	var room [8]int64
	seen := room[:0]
	if all {
		for _, key := range keys {
			pid := t.known.ids[key]
			if pid == 0 || slices.Contains(seen, pid) {
				continue
			}
			seen = append(seen, pid)
			known := t.known.people[pid]
			p, err := known.row.profile(known.id)
			if err != nil {
				return nil, err
			}
			found = append(found, p)
		}
		sortProfiles(found)
		return found, nil
	}
	people, err := t.askPeople(ctx, keys)
	if err != nil {
		return nil, err
	}
	for _, f := range people {
		if slices.Contains(seen, f.pid) {
			continue
		}
		seen = append(seen, f.pid)
		p, err := f.row.profile(f.id)
		if err != nil {
			return nil, err
		}
		found = append(found, p)
	}
	sortProfiles(found)
	return found, nil
}

func sortProfiles(list []*fluxly.Profile) {
	slices.SortFunc(list, func(a, b *fluxly.Profile) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), strings.Compare(a.ID, b.ID))
	})
}

// foundPerson is an id with the person that it leads to.
type foundPerson struct {
	key, id string
	pid     int64
	row     *profileRow
}

const (
	lockByIDs = `SELECT p.pid FROM fluxly.identities i JOIN fluxly.profiles p ON p.pid = i.pid WHERE i.id = ANY($1::text[])
		ORDER BY p.pid FOR NO KEY UPDATE OF p`
	readByIDs = "SELECT i.id, " + profileColumns + " FROM fluxly.identities i JOIN fluxly.profiles p ON p.pid = i.pid WHERE i.id = ANY($1::text[])"
)

// askPeople looks people up by ids.
func (t *tx) askPeople(ctx context.Context, keys []string) (people []foundPerson, err error) {
	err = t.lookUp(ctx, statement{sql: lockByIDs, args: []any{keys}},
		statement{sql: readByIDs, args: []any{keys}, row: func(scan scanFunc) (err error) {
			var f foundPerson
			f.pid, f.id, f.row, err = scanProfile(scan, &f.key)
			people = append(people, f)
			return err
		}},
		func() { people = people[:0] },
		func(yield func(int64)) {
			for i := range people {
				yield(people[i].pid)
			}
		})
	if err == nil {
		t.knowPeople(keys, people)
	}
	return people, err
}

// knowPeople remembers where ids lead.
func (t *tx) knowPeople(keys []string, people []foundPerson) {
	if t.known.people == nil {
		return
	}
	for _, key := range keys {
		t.known.ids[key] = 0
	}
	for _, f := range people {
		if f.key != "" {
			t.known.ids[f.key] = f.pid
		}
		t.knowRow(f.pid, f.id, f.row)
	}
}

func (t *tx) Profile(ctx context.Context, id string) (*fluxly.Profile, error) {
	if err := t.check(ctx, false); err != nil {
		return nil, err
	}
	p, err := t.personByID(ctx, id)
	if err != nil || p == nil || p.row.placeholder {
		return nil, err
	}
	return p.row.profile(p.id)
}

// personByID looks a person up by the ID of the profile; nil when there is
// none.
func (t *tx) personByID(ctx context.Context, id string) (*person, error) {
	if pid, ok := t.known.pids[id]; ok && t.cached {
		if pid == 0 {
			return nil, nil
		}
		if p := t.known.people[pid]; p != nil && p.row != nil {
			return p, nil
		}
	}
	var found *person
	err := t.lookUp(ctx, statement{sql: "SELECT pid FROM fluxly.profiles WHERE id = $1::text FOR NO KEY UPDATE", args: []any{id}},
		statement{sql: "SELECT " + profileColumns + " FROM fluxly.profiles p WHERE p.id = $1::text", args: []any{id}, row: func(scan scanFunc) error {
			var err error
			found = &person{}
			found.pid, found.id, found.row, err = scanProfile(scan)
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
	if found == nil {
		t.known.pids[id] = 0
		return nil, nil
	}
	t.knowRow(found.pid, found.id, found.row)
	return t.known.people[found.pid], nil
}

// personNumber returns the number of a person; 0 when there is none. In Update
// the person is locked.
func (t *tx) personNumber(ctx context.Context, id string) (int64, error) {
	if pid, ok := t.known.pids[id]; ok && (t.cached || pid != 0) {
		return pid, nil
	}
	p, err := t.personByID(ctx, id)
	if err != nil || p == nil {
		return 0, err
	}
	return p.pid, nil
}

// personFor returns the person that a row to be written belongs to. One that
// nobody named so far is made.
func (t *tx) personFor(ctx context.Context, id string) (*person, error) {
	pid, ok := t.known.pids[id]
	if !ok && !t.guess {
		p, err := t.personByID(ctx, id)
		if err != nil {
			return nil, err
		}
		if p != nil {
			pid = p.pid
		}
	}
	if pid != 0 {
		return t.known.personOf(pid), nil
	}
	pid, err := t.newNumber(ctx)
	if err != nil {
		return nil, err
	}
	p := t.known.personOf(pid)
	p.id, p.row = id, &profileRow{placeholder: true}
	p.fresh, p.live, p.members = true, true, map[string]*memberRow{}
	t.known.pids[id] = pid
	t.lockedNow(pid)
	t.writePerson(p)
	return p, nil
}

// newNumber returns a number for a new person.
func (t *tx) newNumber(ctx context.Context) (int64, error) {
	for {
		if pid, ok := t.s.pids.take(); ok {
			return pid, nil
		}
		block, _, err := t.number(ctx, drawPids)
		if err != nil {
			return 0, err
		}
		t.s.pids.add(block)
	}
}

const drawPids = "SELECT nextval('fluxly.pids')"

func (t *tx) writePerson(p *person) {
	if !p.dirty {
		p.dirty = true
		t.rows.people = append(t.rows.people, p)
	}
}

func (t *tx) Profiles(ctx context.Context, after string, limit int) (list []*fluxly.Profile, err error) {
	if err := t.check(ctx, false); err != nil {
		return nil, err
	}
	err = t.ask(ctx, statement{
		sql:  "SELECT " + profileColumns + " FROM fluxly.profiles p WHERE p.id > $1::text AND p.created IS NOT NULL ORDER BY p.id LIMIT $2::bigint",
		args: []any{after, int64(max(limit, 0))},
		row: func(scan scanFunc) error {
			_, id, row, err := scanProfile(scan)
			if err != nil {
				return err
			}
			p, err := row.profile(id)
			list = append(list, p)
			return err
		},
	})
	return list, err
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
	row := &profileRow{
		created: instant(p.CreatedAt), updated: instant(p.UpdatedAt), traits: traits,
		userIDs: encodeStrings(p.UserIDs), externalIDs: encodeStrings(p.ExternalIDs), anonymousIDs: encodeStrings(p.AnonymousIDs),
	}
	if len(p.Unsubscribed) > 0 {
		list := slices.Clone(p.Unsubscribed)
		for i := range list {
			list[i].At = list[i].At.UTC()
		}
		raw, err := json.Marshal(list)
		if err != nil {
			return fmt.Errorf("unsubscriptions of profile %q: %w", p.ID, err)
		}
		row.unsubscribed = string(raw)
	}
	known, err := t.personFor(ctx, p.ID)
	if err != nil {
		return err
	}
	old, err := t.oldKeys(ctx, known)
	if err != nil {
		return err
	}
	keys := idKeys(p)
	// What other people of this transaction did with these ids comes first.
	if slices.ContainsFunc(keys, t.idWritten(known.pid)) || slices.ContainsFunc(old, t.idWritten(known.pid)) {
		t.seal()
	}
	for _, key := range old {
		if slices.Contains(keys, key) {
			continue
		}
		if pid, ok := t.known.ids[key]; ok && pid != known.pid {
			continue // it leads to somebody else by now
		}
		if _, ok := t.rows.ids[key]; ok {
			t.seal()
		}
		t.rows.writeID(key, idWrite{pid: known.pid, drop: true})
		delete(t.known.ids, key)
	}
	for _, key := range keys {
		pid, ok := t.known.ids[key]
		if ok && pid == known.pid && t.cached {
			continue
		}
		if w, ok := t.rows.ids[key]; ok && w.drop {
			t.seal()
		}
		t.rows.writeID(key, idWrite{pid: known.pid, fresh: ok && pid == 0})
		t.known.ids[key] = known.pid
	}
	known.row = row
	t.writePerson(known)
	return t.wrote(ctx)
}

// idWritten tells whether an id was written for somebody else since the last
// trip.
func (t *tx) idWritten(pid int64) func(key string) bool {
	return func(key string) bool {
		w, ok := t.rows.ids[key]
		return ok && w.pid != pid
	}
}

// oldKeys returns the ids that a person was stored with.
func (t *tx) oldKeys(ctx context.Context, p *person) ([]string, error) {
	if p.row == nil {
		var err error
		if p, err = t.personByID(ctx, p.id); err != nil || p == nil {
			return nil, err
		}
	}
	if p.row.placeholder {
		return nil, nil
	}
	stored, err := p.row.profile(p.id)
	if err != nil {
		return nil, err
	}
	return idKeys(stored), nil
}

// removeProfile removes a person with the ids and memberships.
func (t *tx) removeProfile(pid int64) {
	for _, sql := range []string{
		"DELETE FROM fluxly.identities WHERE id = ANY(SELECT 'user:' || id FROM fluxly.profiles WHERE pid = $1::bigint) AND pid = $1::bigint",
		`DELETE FROM fluxly.identities i USING (
			SELECT 'user:' || json_array_elements_text(user_ids) AS id FROM fluxly.profiles WHERE pid = $1::bigint
			UNION ALL SELECT 'external:' || json_array_elements_text(external_ids) FROM fluxly.profiles WHERE pid = $1::bigint
			UNION ALL SELECT 'anonymous:' || json_array_elements_text(anonymous_ids) FROM fluxly.profiles WHERE pid = $1::bigint
		) u WHERE i.id = u.id AND i.pid = $1::bigint`,
		"DELETE FROM fluxly.profiles WHERE pid = $1::bigint",
		"DELETE FROM fluxly.memberships WHERE pid = $1::bigint",
	} {
		t.later(sql, pid)
	}
	t.unprove(proveByProfile)
	t.forget()
}

func (t *tx) MergeProfile(ctx context.Context, from, into string) error {
	if err := t.check(ctx, true); err != nil {
		return err
	}
	if from == into {
		return fmt.Errorf("profile %q cannot be merged into itself", from)
	}
	pid, err := t.lockFirst(ctx, from, into)
	if err != nil || pid == 0 {
		return err
	}
	target, err := t.personFor(ctx, into)
	if err != nil {
		return err
	}
	t.seal()
	for _, sql := range []string{
		"UPDATE fluxly.events SET pid = $1::bigint WHERE pid = $2::bigint",
		"UPDATE fluxly.runs SET pid = $1::bigint WHERE pid = $2::bigint",
		"UPDATE fluxly.sends SET pid = $1::bigint WHERE pid = $2::bigint",
	} {
		t.later(sql, target.pid, pid)
	}
	t.removeProfile(pid)
	return t.wrote(ctx)
}

// lockFirst locks two people in the order of their numbers, and returns the
// number of the first.
func (t *tx) lockFirst(ctx context.Context, id, other string) (int64, error) {
	for _, id := range []string{id, other} {
		if _, ok := t.known.pids[id]; !ok {
			err := t.ask(ctx, statement{
				sql:  "SELECT pid FROM fluxly.profiles WHERE id = ANY($1::text[]) ORDER BY pid FOR NO KEY UPDATE",
				args: []any{[]string{id, other}}, row: t.lockRow,
			})
			if err != nil {
				return 0, err
			}
			break
		}
	}
	if _, err := t.personNumber(ctx, other); err != nil {
		return 0, err
	}
	return t.personNumber(ctx, id)
}

func (t *tx) EraseProfile(ctx context.Context, id string, addresses []string) (int, error) {
	if err := t.check(ctx, true); err != nil {
		return 0, err
	}
	if len(addresses) > 0 {
		lower := make([]string, len(addresses))
		for i, a := range addresses {
			lower[i] = strings.ToLower(a)
		}
		clear(t.known.suppressions)
		t.unprove(proveBySuppression)
		t.later("DELETE FROM fluxly.suppressions WHERE address = ANY($1::text[])", lower)
	}
	pid, err := t.personNumber(ctx, id)
	if err != nil || pid == 0 {
		return 0, firstError(err, t.wrote(ctx))
	}
	events := 0
	err = t.ask(ctx,
		// In the order in which Prune locks.
		statement{sql: "SELECT 1 FROM fluxly.runs WHERE pid = $1::bigint FOR UPDATE", args: []any{pid}},
		statement{sql: "DELETE FROM fluxly.events WHERE pid = $1::bigint", args: []any{pid}, done: func(n int64) { events = int(n) }},
		statement{sql: "DELETE FROM fluxly.run_log WHERE run_id IN (SELECT id FROM fluxly.runs WHERE pid = $1::bigint)", args: []any{pid}},
		statement{sql: "DELETE FROM fluxly.runs WHERE pid = $1::bigint", args: []any{pid}},
		statement{sql: "DELETE FROM fluxly.sends WHERE pid = $1::bigint", args: []any{pid}})
	if err != nil {
		return 0, err
	}
	t.unprove(proveByEvent, proveBySend, proveByRun)
	t.removeProfile(pid)
	return events, t.wrote(ctx)
}

func (t *tx) PutErasure(ctx context.Context, e *fluxly.ErasureRecord) error {
	if err := t.check(ctx, true); err != nil {
		return err
	}
	if err := checkTime("at", e.At); err != nil {
		return err
	}
	t.later(`INSERT INTO fluxly.erasures (id, reason, request_id, at, profiles, events)
		VALUES ($1::text, $2::text, $3::text, $4::timestamptz, $5::bigint, $6::bigint)
		ON CONFLICT (id) DO UPDATE SET reason = excluded.reason, request_id = excluded.request_id, at = excluded.at,
		profiles = excluded.profiles, events = excluded.events`,
		e.ID, string(e.Reason), e.RequestID, instant(e.At), int64(e.Profiles), int64(e.Events))
	t.prove(proveByErasure, "fluxly.erasures r WHERE r.id = $2::text AND r.request_id = $3::text AND r.at = $4::timestamptz",
		e.ID, e.RequestID, instant(e.At))
	return t.wrote(ctx)
}

func (t *tx) Erasures(ctx context.Context) (list []*fluxly.ErasureRecord, err error) {
	if err := t.check(ctx, false); err != nil {
		return nil, err
	}
	err = t.ask(ctx, statement{
		sql: "SELECT id, reason, request_id, at, profiles, events FROM fluxly.erasures ORDER BY at, id",
		row: func(scan scanFunc) error {
			e := &fluxly.ErasureRecord{}
			var at timeColumn
			err := scan(&e.ID, (*string)(&e.Reason), &e.RequestID, &at, &e.Profiles, &e.Events)
			e.At = at.Time
			list = append(list, e)
			return err
		},
	})
	return list, err
}
