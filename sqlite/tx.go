package sqlite

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/internal/value"
)

// tx is one transaction.
type tx struct {
	db     database
	writes bool
	dead   bool
	// err is the first error of a statement: after it the transaction can
	// only be rolled back.
	err error

	lastSeq  int64
	erased   bool
	earliest [len(lanes)]time.Time

	// cache is nil in a view. wroteProfiles keeps what is not committed out of
	// it.
	cache         *cache
	wroteProfiles bool

	// buf holds what the present method encodes.
	buf []byte

	// What was looked up in this transaction; see profileNumber, nameNumber.
	profiles map[string]int64
	names    map[string]int64
}

var _ fluxly.Tx = (*tx)(nil)

// check refuses a call that cannot be.
func (t *tx) check(ctx context.Context, write bool) error {
	switch {
	case t.dead:
		return fmt.Errorf("sqlite store: the transaction is over: %w", fluxly.ErrClosed)
	case t.err != nil:
		return t.err
	case write && !t.writes:
		return errors.New("sqlite store: write in View; use Update")
	}
	return ctx.Err()
}

// begin is check for a write; what was encoded before is not good any more.
func (t *tx) begin(ctx context.Context) error {
	t.buf = t.buf[:0]
	return t.check(ctx, true)
}

// fail keeps the error of a statement.
func (t *tx) fail(err error) error {
	if err != nil && t.err == nil {
		t.err = err
	}
	return err
}

// one looks up a number; ok is false when there is no row.
func (t *tx) one(s statement) (n int64, ok bool, err error) {
	if s.next() {
		n, ok = s.getInteger(0), true
	}
	return n, ok, t.fail(s.done())
}

// profileNumber returns the number of a profile. A profile that nobody named
// so far gets one where make is set.
func (t *tx) profileNumber(id string, make bool) (pid int64, ok bool, err error) {
	if known, found := t.profiles[id]; found {
		return known, true, nil
	}
	pid, ok, err = t.one(t.db.query("SELECT pid FROM profiles WHERE id = ?").text(id))
	if err != nil || !ok && !make {
		return 0, false, err
	}
	if !ok {
		pid, ok, err = t.one(t.db.query("INSERT INTO profiles (id) VALUES (?) RETURNING pid").text(id))
		if err != nil {
			return 0, false, err
		}
	}
	t.knowProfile(id, pid)
	return pid, ok, nil
}

func (t *tx) knowProfile(id string, pid int64) {
	if t.profiles == nil {
		t.profiles = map[string]int64{}
	}
	t.profiles[id] = pid
}

// nameNumber is profileNumber for the name of an event.
func (t *tx) nameNumber(name string, make bool) (nid int64, ok bool, err error) {
	if known, found := t.names[name]; found {
		return known, true, nil
	}
	nid, ok, err = t.one(t.db.query("SELECT nid FROM names WHERE name = ?").text(name))
	if err != nil || !ok && !make {
		return 0, false, err
	}
	if !ok {
		nid, ok, err = t.one(t.db.query("INSERT INTO names (name) VALUES (?) RETURNING nid").text(name))
		if err != nil {
			return 0, false, err
		}
	}
	if t.names == nil {
		t.names = map[string]int64{}
	}
	t.names[name] = nid
	return nid, ok, nil
}

// schedule notes that work was written, for the lane to be told at commit.
func (t *tx) schedule(kind fluxly.WorkKind, due time.Time) {
	for i, k := range lanes {
		if k == kind && (t.earliest[i].IsZero() || due.Before(t.earliest[i])) {
			t.earliest[i] = due
		}
	}
}

// Numbers of runs.due_kind.
const (
	dueWake = 1
	dueCall = 2
)

func (t *tx) Due(ctx context.Context, kind fluxly.WorkKind, now time.Time, limit int) (due []fluxly.Work, next time.Time, err error) {
	if err := t.check(ctx, false); err != nil {
		return nil, time.Time{}, err
	}
	var list, after statement
	switch kind {
	case fluxly.WorkWake, fluxly.WorkCall:
		number := int64(dueWake)
		if kind == fluxly.WorkCall {
			number = dueCall
		}
		list = t.db.query("SELECT due_at, id, '' FROM runs WHERE due_kind = ? AND due_at <= ? ORDER BY due_at, id LIMIT ?").integer(number)
		after = t.db.query("SELECT due_at FROM runs WHERE due_kind = ? AND due_at > ? ORDER BY due_at LIMIT 1").integer(number)
	case fluxly.WorkSegment:
		list = t.db.query("SELECT check_at, profile_id, segment FROM memberships WHERE check_at <= ? ORDER BY check_at, profile_id, segment LIMIT ?")
		after = t.db.query("SELECT check_at FROM memberships WHERE check_at > ? ORDER BY check_at LIMIT 1")
	case fluxly.WorkSend:
		list = t.db.query("SELECT due_at, key, '' FROM sends WHERE due_at <= ? ORDER BY due_at, key LIMIT ?")
		after = t.db.query("SELECT due_at FROM sends WHERE due_at > ? ORDER BY due_at LIMIT 1")
	default:
		return nil, time.Time{}, fmt.Errorf("sqlite store: unknown kind of work %q", kind)
	}
	bindTime(list, now)
	list.integer(int64(max(limit, 0)))
	for list.next() {
		due = append(due, fluxly.Work{Due: getTime(list, 0), ID: list.getText(1), Segment: list.getText(2)})
	}
	if err := t.fail(list.done()); err != nil {
		return nil, time.Time{}, err
	}
	bindTime(after, now)
	if after.next() {
		next = getTime(after, 0)
	}
	return due, next, t.fail(after.done())
}

// encodeValues writes a map of values as JSON; an empty one is nil. The result
// is good until begin is called, which every method that encodes does first.
func (t *tx) encodeValues(field string, m map[string]any) ([]byte, error) {
	if len(m) == 0 {
		return nil, nil
	}
	start := len(t.buf)
	if value.Flat(m) {
		t.buf = value.AppendJSON(t.buf, m)
		return t.buf[start:], nil
	}
	n, err := value.NormalizeMap(m)
	if err != nil {
		field := fluxly.FieldError{Field: field, Reason: err.Error(), Err: err}
		if ve, ok := errors.AsType[*value.Error](err); ok {
			field.Field, field.Value, field.Reason = field.Field+"."+ve.Path, ve.Value, ve.Reason
		}
		return nil, &field
	}
	t.buf = value.AppendJSON(t.buf, n)
	return t.buf[start:], nil
}

// decodeValues reads what encodeValues wrote.
func decodeValues(raw []byte) (map[string]any, error) {
	if len(raw) == 0 {
		return nil, nil
	}
	v, err := value.Decode(raw)
	if err != nil {
		return nil, fmt.Errorf("stored values: %w: %w", ErrCorrupt, err)
	}
	m, _ := v.(map[string]any)
	return m, nil
}

// encodeStrings writes a list as a JSON array; an empty one is nil. The result
// is good as long as that of encodeValues.
func (t *tx) encodeStrings(list []string) []byte {
	if len(list) == 0 {
		return nil
	}
	start := len(t.buf)
	t.buf = append(t.buf, '[')
	for i, s := range list {
		if i > 0 {
			t.buf = append(t.buf, ',')
		}
		t.buf = value.AppendString(t.buf, s)
	}
	t.buf = append(t.buf, ']')
	return t.buf[start:]
}

// decodeStrings reads what encodeStrings wrote.
func decodeStrings(raw []byte) (list []string, err error) {
	switch {
	case len(raw) == 0:
		return nil, nil
	case len(raw) > 4 && bytes.IndexByte(raw, '\\') < 0:
		// Without escapes no quote stands inside of a string.
		return strings.Split(string(raw[2:len(raw)-2]), `","`), nil
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, fmt.Errorf("stored list: %w: %w", ErrCorrupt, err)
	}
	return list, nil
}

// bindJSON binds JSON as text, so that it can be read with any SQL tool; nil
// is NULL.
func bindJSON(s statement, raw []byte) statement {
	if raw == nil {
		return s.null()
	}
	return s.rawText(raw)
}
