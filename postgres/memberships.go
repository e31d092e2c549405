package postgres

import (
	"context"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/getfluxly/fluxly"
)

// memberRow is a membership as it is stored.
type memberRow struct {
	pid     int64
	segment string
	member  bool
	since   pgtype.Timestamptz
	checkAt pgtype.Timestamptz
	dirty   bool
}

func (m *memberRow) membership(profileID string) fluxly.Membership {
	return fluxly.Membership{
		ProfileID: profileID, Segment: m.segment, Member: m.member, Since: timeOf(m.since).Time, CheckAt: timeOf(m.checkAt).Time,
	}
}

const memberColumns = "m.pid, m.segment, m.member, m.since, m.check_at"

func scanMember(scan scanFunc) (*memberRow, error) {
	m := &memberRow{}
	var since timeColumn
	var check *timeColumn
	err := scan(&m.pid, &m.segment, &m.member, &since, &check)
	m.since = instant(since.Time)
	if check != nil {
		m.checkAt = instantOrNull(check.Time)
	}
	return m, err
}

func (t *tx) Memberships(ctx context.Context, profileID string) ([]fluxly.Membership, error) {
	if err := t.check(ctx, false); err != nil {
		return nil, err
	}
	pid, err := t.personNumber(ctx, profileID)
	if err != nil || pid == 0 {
		return nil, err
	}
	var rows map[string]*memberRow
	if p := t.known.people[pid]; p != nil && t.cached {
		rows = p.members
	}
	if rows == nil {
		rows = map[string]*memberRow{}
		err := t.ask(ctx, statement{
			sql: "SELECT " + memberColumns + " FROM fluxly.memberships m WHERE m.pid = $1::bigint", args: []any{pid},
			row: func(scan scanFunc) error {
				m, err := scanMember(scan)
				rows[m.segment] = m
				return err
			},
		})
		if err != nil {
			return nil, err
		}
		if t.writes {
			t.known.personOf(pid).members = rows
		}
	}
	var list []fluxly.Membership
	for _, m := range rows {
		list = append(list, m.membership(profileID))
	}
	slices.SortFunc(list, func(a, b fluxly.Membership) int { return strings.Compare(a.Segment, b.Segment) })
	return list, nil
}

func (t *tx) PutMembership(ctx context.Context, m *fluxly.Membership) error {
	if err := t.check(ctx, true); err != nil {
		return err
	}
	if err := firstError(checkTime("since", m.Since), checkTime("check_at", m.CheckAt)); err != nil {
		return err
	}
	p, err := t.personFor(ctx, m.ProfileID)
	if err != nil {
		return err
	}
	var row *memberRow
	if row = p.members[m.Segment]; row == nil {
		// Also where the others are not known.
		for _, w := range t.rows.members {
			if w.pid == p.pid && w.segment == m.Segment {
				row = w
			}
		}
	}
	if row == nil {
		row = &memberRow{pid: p.pid, segment: m.Segment}
		if p.members != nil {
			p.members[m.Segment] = row
		}
	}
	row.member, row.since, row.checkAt = m.Member, instant(m.Since), instantOrNull(m.CheckAt)
	if !row.dirty {
		row.dirty = true
		t.rows.members = append(t.rows.members, row)
	}
	if !m.CheckAt.IsZero() {
		t.notes.ticks = append(t.notes.ticks, m.CheckAt)
	}
	return t.wrote(ctx)
}

func (t *tx) sealMembers(list []*memberRow) {
	for _, m := range list {
		m.dirty = false
	}
	t.later(`INSERT INTO fluxly.memberships (pid, segment, member, since, check_at)
		SELECT * FROM unnest($1::bigint[], $2::text[], $3::boolean[], $4::timestamptz[], $5::timestamptz[])
		ON CONFLICT (pid, segment) DO UPDATE SET member = excluded.member, since = excluded.since, check_at = excluded.check_at`,
		column(list, func(m *memberRow) int64 { return m.pid }),
		column(list, func(m *memberRow) string { return m.segment }),
		column(list, func(m *memberRow) bool { return m.member }),
		column(list, func(m *memberRow) pgtype.Timestamptz { return m.since }),
		column(list, func(m *memberRow) pgtype.Timestamptz { return m.checkAt }))
}
