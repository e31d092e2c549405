package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/getfluxly/fluxly"
)

const suppressionColumns = "shown, stream, reason, origin, at"

func (t *tx) suppressionList(ctx context.Context, sql string, args ...any) (list []*fluxly.Suppression, err error) {
	err = t.ask(ctx, statement{sql: sql, args: args, row: func(scan scanFunc) error {
		s := &fluxly.Suppression{}
		var at timeColumn
		err := scan(&s.Address, &s.Stream, &s.Reason, &s.Origin, &at)
		s.At = at.Time
		list = append(list, s)
		return err
	}})
	if err != nil {
		return nil, err
	}
	return list, nil
}

func (t *tx) Suppression(ctx context.Context, address, stream string) (*fluxly.Suppression, error) {
	if err := t.check(ctx, false); err != nil {
		return nil, err
	}
	if list, ok := t.known.suppressions[strings.ToLower(address)]; ok && t.cached {
		var all *fluxly.Suppression
		for _, s := range list {
			one := *s
			if s.Stream == stream {
				return &one, nil
			}
			if s.Stream == "" {
				all = &one
			}
		}
		return all, nil
	}
	list, err := t.suppressionList(ctx, "SELECT "+suppressionColumns+` FROM fluxly.suppressions
		WHERE address = $1::text AND stream IN ($2::text, '') ORDER BY stream DESC LIMIT 1`, strings.ToLower(address), stream)
	if err != nil || len(list) == 0 {
		return nil, err
	}
	return list[0], nil
}

func (t *tx) PutSuppression(ctx context.Context, p *fluxly.Suppression) error {
	if err := t.check(ctx, true); err != nil {
		return err
	}
	if err := checkTime("at", p.At); err != nil {
		return err
	}
	delete(t.known.suppressions, strings.ToLower(p.Address))
	t.later(`INSERT INTO fluxly.suppressions (address, stream, shown, reason, origin, at)
		VALUES ($1::text, $2::text, $3::text, $4::text, $5::text, $6::timestamptz)
		ON CONFLICT (address, stream) DO UPDATE SET shown = excluded.shown, reason = excluded.reason, origin = excluded.origin, at = excluded.at`,
		strings.ToLower(p.Address), p.Stream, p.Address, p.Reason, p.Origin, instant(p.At))
	t.prove(proveBySuppression, `fluxly.suppressions r WHERE r.address = $2::text AND r.stream = $3::text AND r.reason = $4::text
		AND r.origin = $5::text AND r.at = $6::timestamptz`, strings.ToLower(p.Address), p.Stream, p.Reason, p.Origin, instant(p.At))
	return t.wrote(ctx)
}

func (t *tx) DeleteSuppression(ctx context.Context, address, stream string) error {
	if err := t.check(ctx, true); err != nil {
		return err
	}
	delete(t.known.suppressions, strings.ToLower(address))
	t.unprove(proveBySuppression)
	t.later("DELETE FROM fluxly.suppressions WHERE address = $1::text AND stream = $2::text", strings.ToLower(address), stream)
	return t.wrote(ctx)
}

func (t *tx) Suppressions(ctx context.Context) ([]*fluxly.Suppression, error) {
	if err := t.check(ctx, false); err != nil {
		return nil, err
	}
	return t.suppressionList(ctx, "SELECT "+suppressionColumns+" FROM fluxly.suppressions ORDER BY address, stream")
}

func (t *tx) Meter(ctx context.Context, name string) (m *fluxly.Meter, err error) {
	if err := t.check(ctx, false); err != nil {
		return nil, err
	}
	var ahead []statement
	sql := "SELECT body FROM fluxly.meters WHERE name = $1::text"
	if t.writes {
		// One that is not there has no row to lock. A statement that follows
		// the lock sees what was committed before it.
		ahead = append(ahead, statement{
			sql:  "SELECT pg_advisory_xact_lock(hashtextextended($1::text, 0))",
			args: []any{"fluxly meter " + t.s.cfg.Schema + " " + name},
		})
		sql += " FOR UPDATE"
		t.patient() // all who claim mails take turns here
		defer t.brief()
	}
	err = t.ask(ctx, append(ahead, statement{sql: sql, args: []any{name}, row: func(scan scanFunc) error {
		var body []byte
		if err := scan(&body); err != nil {
			return err
		}
		m = &fluxly.Meter{}
		if err := json.Unmarshal(body, m); err != nil {
			return fmt.Errorf("stored meter %q: %w: %w", name, ErrCorrupt, err)
		}
		return nil
	}})...)
	if err != nil {
		return nil, err
	}
	return m, nil
}

func (t *tx) PutMeter(ctx context.Context, m *fluxly.Meter) error {
	if err := t.check(ctx, true); err != nil {
		return err
	}
	kept := fluxly.Meter{Name: m.Name, Queue: stored(m.Queue)}
	for _, used := range m.Used {
		kept.Used = append(kept.Used, stored(used))
	}
	body, err := json.Marshal(&kept)
	if err != nil {
		return fmt.Errorf("meter %q: %w", m.Name, err)
	}
	t.later("INSERT INTO fluxly.meters (name, body) VALUES ($1::text, $2::json) ON CONFLICT (name) DO UPDATE SET body = excluded.body",
		m.Name, string(body))
	t.prove(proveByMeter, "fluxly.meters r WHERE r.name = $2::text AND r.body::text = $3::text", m.Name, string(body))
	return t.wrote(ctx)
}

// readSuppressions are the suppressions of the addresses of people, in any case
// of letters that the database knows; an address in another form is looked up
// by itself. A trait with a NUL in it is no address, and no text to Postgres.
const readSuppressions = `SELECT lower(p.address), s.address IS NOT NULL, coalesce(s.shown, ''), coalesce(s.stream, ''), coalesce(s.reason, ''), coalesce(s.origin, ''), s.at
	FROM (SELECT DISTINCT CASE WHEN position('\u0000' in traits::text) = 0 THEN traits->>'email' END AS address FROM fluxly.profiles WHERE pid IN (%)) p
	LEFT JOIN fluxly.suppressions s ON s.address = lower(p.address) WHERE p.address IS NOT NULL`

// knowSuppressions is the question that reads them ahead.
func (t *tx) knowSuppressions(which string, args []any) statement {
	return statement{sql: strings.Replace(readSuppressions, "%", which, 1), args: args, row: func(scan scanFunc) error {
		s := &fluxly.Suppression{}
		var address string
		var there bool
		var at timeColumn
		if err := scan(&address, &there, &s.Address, &s.Stream, &s.Reason, &s.Origin, &at); err != nil {
			return err
		}
		s.At = at.Time
		if list := t.known.suppressions[address]; there {
			t.known.suppressions[address] = append(list, s)
		} else if list == nil {
			t.known.suppressions[address] = []*fluxly.Suppression{}
		}
		return nil
	}}
}
