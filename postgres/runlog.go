package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/getfluxly/fluxly"
)

// logRow is a log entry to be stored.
type logRow struct {
	runID, automation, step, code, detail string
	seq                                   int32
	at                                    pgtype.Timestamptz
}

func (t *tx) AppendLog(ctx context.Context, entries []fluxly.LogEntry) error {
	if err := t.check(ctx, true); err != nil {
		return err
	}
	for i := range entries {
		e := &entries[i]
		detail, err := encodeValues("detail", e.Detail)
		if err != nil {
			return err
		}
		if err := checkTime("at", e.At); err != nil {
			return err
		}
		if t.guess {
			t.guessed = true
		} else {
			_, there, err := t.number(ctx, "SELECT seq FROM fluxly.run_log WHERE run_id = $1::text AND seq = $2::integer", e.RunID, int64(e.Seq))
			if err != nil {
				return err
			}
			if there {
				return fmt.Errorf("log entry %d of run %q is there already", e.Seq, e.RunID)
			}
		}
		t.rows.log = append(t.rows.log, logRow{
			runID: e.RunID, automation: e.Automation, step: e.Step, code: e.Code, detail: detail, seq: int32(e.Seq), at: instant(e.At),
		})
	}
	return t.wrote(ctx)
}

func (t *tx) sealLog(list []logRow) {
	t.later(`INSERT INTO fluxly.run_log (run_id, seq, automation, at, step, code, detail)
		SELECT run_id, seq, automation, at, step, code, nullif(detail, '')::json
		FROM unnest($1::text[], $2::integer[], $3::text[], $4::timestamptz[], $5::text[], $6::text[], $7::text[])
		u (run_id, seq, automation, at, step, code, detail)`,
		column(list, func(e logRow) string { return e.runID }),
		column(list, func(e logRow) int32 { return e.seq }),
		column(list, func(e logRow) string { return e.automation }),
		column(list, func(e logRow) pgtype.Timestamptz { return e.at }),
		column(list, func(e logRow) string { return e.step }),
		column(list, func(e logRow) string { return e.code }),
		column(list, func(e logRow) string { return e.detail }))
}

func (t *tx) Log(ctx context.Context, runID string) (list []fluxly.LogEntry, err error) {
	if err := t.check(ctx, false); err != nil {
		return nil, err
	}
	err = t.ask(ctx, statement{
		sql:  "SELECT seq, automation, step, code, detail, at FROM fluxly.run_log WHERE run_id = $1::text ORDER BY seq",
		args: []any{runID},
		row: func(scan scanFunc) error {
			e := fluxly.LogEntry{RunID: runID}
			var detail []byte
			var at timeColumn
			if err := scan(&e.Seq, &e.Automation, &e.Step, &e.Code, &detail, &at); err != nil {
				return err
			}
			e.At = at.Time
			var err error
			e.Detail, err = decodeValues(detail)
			list = append(list, e)
			return err
		},
	})
	if err != nil {
		return nil, err
	}
	return list, nil
}

func (t *tx) CountLog(ctx context.Context, automation string) (list []fluxly.LogCount, err error) {
	if err := t.check(ctx, false); err != nil {
		return nil, err
	}
	err = t.ask(ctx, statement{
		sql:  "SELECT step, code, count(*) FROM fluxly.run_log WHERE automation = $1::text GROUP BY 1, 2 ORDER BY 1, 2",
		args: []any{automation},
		row: func(scan scanFunc) error {
			var c fluxly.LogCount
			err := scan(&c.Step, &c.Code, &c.Count)
			list = append(list, c)
			return err
		},
	})
	return list, err
}

func (t *tx) PutDefinition(ctx context.Context, d *fluxly.Definition) error {
	if err := t.check(ctx, true); err != nil {
		return err
	}
	if err := checkTime("created_at", d.CreatedAt); err != nil {
		return err
	}
	t.later(`INSERT INTO fluxly.definitions (automation, version, created, body)
		VALUES ($1::text, $2::text, $3::timestamptz, $4::bytea) ON CONFLICT DO NOTHING`,
		d.Automation, d.Version, instant(d.CreatedAt), d.JSON)
	t.prove(proveByDefinition, "fluxly.definitions r WHERE r.automation = $2::text AND r.version = $3::text AND r.created = $4::timestamptz",
		d.Automation, d.Version, instant(d.CreatedAt))
	return t.wrote(ctx)
}

func (t *tx) Definition(ctx context.Context, automation, version string) (d *fluxly.Definition, err error) {
	if err := t.check(ctx, false); err != nil {
		return nil, err
	}
	err = t.ask(ctx, statement{
		sql:  "SELECT body, created FROM fluxly.definitions WHERE automation = $1::text AND version = $2::text",
		args: []any{automation, version},
		row: func(scan scanFunc) error {
			d = &fluxly.Definition{Automation: automation, Version: version}
			var created timeColumn
			err := scan(&d.JSON, &created)
			d.CreatedAt = created.Time
			return err
		},
	})
	return d, err
}
