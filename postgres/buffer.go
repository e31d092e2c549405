package postgres

import (
	"slices"

	"github.com/jackc/pgx/v5/pgtype"
)

// buffer holds the rows that a transaction has written and not sent.
type buffer struct {
	people  []*person
	runs    []*runState
	sends   []*sendState
	members []*memberRow
	events  []eventRow
	log     []logRow
	ids     map[string]idWrite
}

// idWrite is what becomes of an id.
type idWrite struct {
	pid int64
	// drop: it leads nowhere, unless it leads to somebody other than pid.
	drop bool
	// fresh: nobody had it; if somebody has, that is a conflict.
	fresh bool
}

func (b *buffer) writeID(id string, w idWrite) {
	if b.ids == nil {
		b.ids = map[string]idWrite{}
	}
	b.ids[id] = w
}

// seal turns the rows of the buffer into statements.
func (t *tx) seal() {
	b := t.rows
	t.rows = buffer{}
	if b.ids != nil || b.people != nil {
		t.sealPeople(b.people)
		t.sealIDs(b.ids)
	}
	if b.events != nil {
		t.sealEvents(b.events)
	}
	if b.runs != nil {
		t.sealRuns(b.runs)
	}
	if b.log != nil {
		t.sealLog(b.log)
	}
	if b.sends != nil {
		t.sealSends(b.sends)
	}
	if b.members != nil {
		t.sealMembers(b.members)
	}
}

// ordered returns the keys of a map in order: rows are written, and so locked,
// in one order by everybody.
func ordered[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// column collects one column of rows.
func column[R, V any](rows []R, value func(R) V) []V {
	list := make([]V, len(rows))
	for i, r := range rows {
		list[i] = value(r)
	}
	return list
}

func (t *tx) sealPeople(list []*person) {
	slices.SortFunc(list, func(a, b *person) int { return int(a.pid - b.pid) })
	var made, changed []*person
	for _, p := range list {
		if p.stored {
			changed = append(changed, p)
		} else {
			made = append(made, p)
		}
		p.stored, p.dirty = true, false
		if !p.row.placeholder {
			t.prove(proveByProfile, `fluxly.profiles r WHERE r.pid = $2::bigint AND r.id = $3::text AND r.created = $4::timestamptz
				AND r.updated = $5::timestamptz AND coalesce(r.traits::text, '') = $6::text`, p.pid, p.id, p.row.created, p.row.updated, p.row.traits)
		}
	}
	columns := func(list []*person) []any {
		return []any{
			column(list, func(p *person) int64 { return p.pid }),
			column(list, func(p *person) string { return p.id }),
			column(list, func(p *person) pgtype.Timestamptz {
				if p.row.placeholder {
					return pgtype.Timestamptz{}
				}
				return p.row.created
			}),
			column(list, func(p *person) pgtype.Timestamptz { return p.row.updated }),
			column(list, func(p *person) string { return p.row.userIDs }),
			column(list, func(p *person) string { return p.row.externalIDs }),
			column(list, func(p *person) string { return p.row.anonymousIDs }),
			column(list, func(p *person) string { return p.row.traits }),
			column(list, func(p *person) string { return p.row.unsubscribed }),
		}
	}
	const unnest = `unnest($1::bigint[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[])
		u (pid, id, created, updated, user_ids, external_ids, anonymous_ids, traits, unsubscribed)`
	if made != nil {
		t.later(`INSERT INTO fluxly.profiles (pid, id, created, updated, user_ids, external_ids, anonymous_ids, traits, unsubscribed)
			SELECT pid, id, created, updated, nullif(user_ids, '')::json, nullif(external_ids, '')::json, nullif(anonymous_ids, '')::json,
			nullif(traits, '')::json, nullif(unsubscribed, '')::json FROM `+unnest, columns(made)...)
	}
	if changed != nil {
		t.later(`UPDATE fluxly.profiles p SET created = u.created, updated = u.updated, user_ids = nullif(u.user_ids, '')::json,
			external_ids = nullif(u.external_ids, '')::json, anonymous_ids = nullif(u.anonymous_ids, '')::json,
			traits = nullif(u.traits, '')::json, unsubscribed = nullif(u.unsubscribed, '')::json
			FROM `+unnest+` WHERE p.pid = u.pid`, columns(changed)...)
	}
}

func (t *tx) sealIDs(writes map[string]idWrite) {
	var dropped, fresh, taken []string
	var droppedOf, freshOf, takenOf []int64
	for _, id := range ordered(writes) {
		switch w := writes[id]; {
		case w.drop:
			dropped, droppedOf = append(dropped, id), append(droppedOf, w.pid)
		case w.fresh:
			fresh, freshOf = append(fresh, id), append(freshOf, w.pid)
		default:
			taken, takenOf = append(taken, id), append(takenOf, w.pid)
		}
	}
	if dropped != nil {
		t.later("DELETE FROM fluxly.identities i USING unnest($1::text[], $2::bigint[]) u (id, pid) WHERE i.id = u.id AND i.pid = u.pid", dropped, droppedOf)
	}
	if taken != nil {
		t.later(`INSERT INTO fluxly.identities (id, pid) SELECT u.id, u.pid FROM unnest($1::text[], $2::bigint[]) u (id, pid)
			WHERE NOT EXISTS (SELECT 1 FROM fluxly.identities i WHERE i.id = u.id AND i.pid = u.pid)
			ON CONFLICT (id) DO UPDATE SET pid = excluded.pid`, taken, takenOf)
	}
	if fresh != nil {
		t.later("INSERT INTO fluxly.identities (id, pid) SELECT u.id, u.pid FROM unnest($1::text[], $2::bigint[]) u (id, pid)", fresh, freshOf)
	}
}
