package sqlite

import (
	"context"
	"math"
	"time"

	"github.com/ncruces/go-sqlite3"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/internal/uuid"
)

// database runs the statements of a transaction. The queries in this package
// are written against it alone, so that they can also run inside a
// transaction of the caller.
type database interface {
	// query readies a statement with nothing bound. It must be ended (with
	// done or exec) before the same SQL is asked for again.
	query(sql string) statement
	// changes returns how many rows the last statement wrote.
	changes() int64
}

// statement is one use of a prepared statement: bind in order, then exec, or
// next until it is false and done. The first error stays and comes out at the
// end.
type statement interface {
	text(string) statement
	rawText([]byte) statement
	// blob binds bytes; nil is NULL.
	blob([]byte) statement
	integer(int64) statement
	real(float64) statement
	null() statement

	next() bool
	done() error
	// exec runs a statement that returns no rows.
	exec() error

	isNull(column int) bool
	isInteger(column int) bool
	getInteger(column int) int64
	getText(column int) string
	// getRaw returns text or a blob, valid until the next call of next.
	getRaw(column int) []byte
}

// conn is a connection with its prepared statements. It is for one goroutine
// at a time.
type conn struct {
	db    *sqlite3.Conn
	path  string
	stmts map[string]*stmt
}

func (c *conn) query(sql string) statement {
	s := c.stmts[sql]
	if s == nil {
		s = &stmt{c: c}
		var err error
		s.s, _, err = c.db.PrepareFlags(sql, sqlite3.PREPARE_PERSISTENT)
		if err != nil {
			return &stmt{c: c, err: c.explain(err)}
		}
		c.stmts[sql] = s
	}
	s.n, s.err = 0, nil
	return s
}

func (c *conn) changes() int64 { return c.db.Changes() }

// run executes one statement that binds nothing.
func (c *conn) run(sql string) error { return c.query(sql).exec() }

func (c *conn) close() error {
	for _, s := range c.stmts {
		_ = s.s.Close()
	}
	c.stmts = nil
	return c.explain(c.db.Close())
}

// interrupt ties what follows to ctx.
func (c *conn) interrupt(ctx context.Context) { c.db.SetInterrupt(ctx) }

// stmt is a statement of the driver itself.
type stmt struct {
	c   *conn
	s   *sqlite3.Stmt
	n   int // bound so far
	err error
}

func (s *stmt) keep(err error) statement {
	if err != nil {
		s.err = s.c.explain(err)
	}
	return s
}

func (s *stmt) text(v string) statement {
	if s.err != nil {
		return s
	}
	s.n++
	return s.keep(s.s.BindText(s.n, v))
}

func (s *stmt) rawText(v []byte) statement {
	if s.err != nil {
		return s
	}
	s.n++
	return s.keep(s.s.BindRawText(s.n, v))
}

func (s *stmt) blob(v []byte) statement {
	if s.err != nil {
		return s
	}
	s.n++
	if v == nil {
		return s.keep(s.s.BindNull(s.n))
	}
	return s.keep(s.s.BindBlob(s.n, v))
}

func (s *stmt) integer(v int64) statement {
	if s.err != nil {
		return s
	}
	s.n++
	return s.keep(s.s.BindInt64(s.n, v))
}

func (s *stmt) real(v float64) statement {
	if s.err != nil {
		return s
	}
	s.n++
	return s.keep(s.s.BindFloat(s.n, v))
}

func (s *stmt) null() statement {
	if s.err != nil {
		return s
	}
	s.n++
	return s.keep(s.s.BindNull(s.n))
}

func (s *stmt) next() bool {
	if s.err != nil {
		return false
	}
	if s.s.Step() {
		return true
	}
	s.keep(s.s.Err())
	return false
}

func (s *stmt) done() error {
	if s.s != nil {
		// Reset gives the error of the last step again.
		_ = s.s.Reset()
	}
	return s.err
}

func (s *stmt) exec() error {
	for s.next() {
	}
	return s.done()
}

func (s *stmt) isNull(column int) bool      { return s.s.ColumnType(column) == sqlite3.NULL }
func (s *stmt) isInteger(column int) bool   { return s.s.ColumnType(column) == sqlite3.INTEGER }
func (s *stmt) getInteger(column int) int64 { return s.s.ColumnInt64(column) }
func (s *stmt) getText(column int) string   { return s.s.ColumnText(column) }
func (s *stmt) getRaw(column int) []byte    { return s.s.ColumnRawBlob(column) }

// Times are stored so that they sort: an instant as nanoseconds since 1970
// where 64 bits hold it (until 2262), a later one as text, which SQLite sorts
// behind all integers. The zero time is the lowest integer, or NULL in a
// column that may be.
const lateTime = "2006-01-02T15:04:05.000000000Z"

var (
	firstInstant = time.Unix(0, math.MinInt64+2).UTC()
	lastInstant  = time.Unix(0, math.MaxInt64).UTC()
)

// checkTime refuses what a column cannot hold.
func checkTime(field string, t time.Time) error {
	if t.IsZero() || !t.Before(firstInstant) && t.UTC().Year() <= 9999 {
		return nil
	}
	return &fluxly.FieldError{
		Field: field, Value: t.UTC().Format(time.RFC3339Nano),
		Reason: "a store keeps times of the years 1678 to 9999",
	}
}

func bindTime(s statement, t time.Time) statement {
	switch {
	case t.IsZero():
		return s.integer(math.MinInt64)
	case t.After(lastInstant):
		return s.text(t.UTC().Format(lateTime))
	case t.Before(firstInstant):
		// Only in queries: before everything stored but the zero time.
		return s.integer(math.MinInt64 + 1)
	}
	return s.integer(t.UnixNano())
}

// bindTimeOrNull is bindTime with NULL for the zero time.
func bindTimeOrNull(s statement, t time.Time) statement {
	if t.IsZero() {
		return s.null()
	}
	return bindTime(s, t)
}

// bindAfter binds the lower bound of an open interval; zero is no bound.
func bindAfter(s statement, t time.Time) statement {
	if t.IsZero() {
		return s.real(math.Inf(-1))
	}
	return bindTime(s, t)
}

// bindUntil binds the upper bound of a closed interval; zero is no bound.
func bindUntil(s statement, t time.Time) statement {
	if t.IsZero() {
		return s.blob([]byte{0xFF}) // blobs sort behind text
	}
	return bindTime(s, t)
}

func getTime(s statement, column int) time.Time {
	if s.isInteger(column) {
		if n := s.getInteger(column); n != math.MinInt64 {
			return time.Unix(0, n).UTC()
		}
		return time.Time{}
	}
	t, err := time.Parse(lateTime, s.getText(column))
	if err != nil {
		return time.Time{} // NULL
	}
	return t
}

// bindID makes an id short: a UUID in its usual form becomes its 16 bytes.
// Any other id is stored as text.
func bindID(s statement, id string) statement {
	var raw [16]byte
	if !uuid.Pack(&raw, id) {
		return s.text(id)
	}
	return s.blob(raw[:])
}

func getID(s statement, column int, blob bool) string {
	if !blob {
		return s.getText(column)
	}
	return uuid.Text(s.getRaw(column))
}
