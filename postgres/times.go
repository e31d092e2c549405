package postgres

import (
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/getfluxly/fluxly"
)

var firstInstant = time.Date(1678, 1, 1, 0, 0, 0, 0, time.UTC)

// checkTime refuses what a column is not made for.
func checkTime(field string, t time.Time) error {
	if t.IsZero() || !t.Before(firstInstant) && t.UTC().Year() <= 9999 {
		return nil
	}
	return &fluxly.FieldError{
		Field: field, Value: t.UTC().Format(time.RFC3339Nano),
		Reason: "a store keeps times of the years 1678 to 9999",
	}
}

// stored is a time as it is stored: in whole microseconds, what is finer cut
// off.
func stored(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }

// instant is a time for a column, or for a bound of a query that is after it,
// or at or before it: those mean the same when cut to microseconds.
func instant(t time.Time) pgtype.Timestamptz {
	if t.IsZero() {
		return pgtype.Timestamptz{InfinityModifier: pgtype.NegativeInfinity, Valid: true}
	}
	return pgtype.Timestamptz{Time: stored(t), Valid: true}
}

// instantOrNull is instant with NULL for the zero time.
func instantOrNull(t time.Time) pgtype.Timestamptz {
	if t.IsZero() {
		return pgtype.Timestamptz{}
	}
	return instant(t)
}

// instantUntil is an upper bound; the zero time is none.
func instantUntil(t time.Time) pgtype.Timestamptz {
	if t.IsZero() {
		return pgtype.Timestamptz{InfinityModifier: pgtype.Infinity, Valid: true}
	}
	return instant(t)
}

// instantText writes an instant for other drivers.
func instantText(t pgtype.Timestamptz) string {
	switch t.InfinityModifier {
	case pgtype.Infinity:
		return "infinity"
	case pgtype.NegativeInfinity:
		return "-infinity"
	default:
		return t.Time.UTC().Format("2006-01-02 15:04:05.999999Z07:00")
	}
}

// timeColumn reads a time; -infinity and NULL are the zero time.
type timeColumn struct{ time.Time }

// ScanTimestamptz reads it from pgx.
func (c *timeColumn) ScanTimestamptz(v pgtype.Timestamptz) error {
	c.Time = time.Time{}
	if v.Valid && v.InfinityModifier == pgtype.Finite {
		c.Time = v.Time.UTC()
	}
	return nil
}

// Scan reads it from other drivers.
func (c *timeColumn) Scan(v any) error {
	c.Time = time.Time{}
	switch v := v.(type) {
	case nil:
		return nil
	case time.Time:
		c.Time = v.UTC()
		return nil
	case string:
		if strings.HasSuffix(v, "infinity") {
			return nil
		}
	case []byte:
		if strings.HasSuffix(string(v), "infinity") {
			return nil
		}
	}
	return fmt.Errorf("stored time: %w: it comes as a %T", ErrCorrupt, v)
}
