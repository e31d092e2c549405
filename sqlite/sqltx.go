package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/ncruces/go-sqlite3"

	"github.com/getfluxly/fluxly"
)

// sqlTx runs statements in a transaction of the caller's, whichever driver it
// is of. It is for one goroutine at a time.
type sqlTx struct {
	ctx     context.Context //nolint:containedctx // that of the present Update, which sets it
	tx      *sql.Tx
	path    string
	stmts   map[string]*sql.Stmt // database/sql closes them with the transaction
	changed int64
}

var _ database = (*sqlTx)(nil)

func (d *sqlTx) query(text string) statement {
	s := d.stmts[text]
	if s == nil {
		var err error
		if s, err = d.tx.PrepareContext(d.ctx, text); err != nil {
			return &sqlStmt{d: d, err: d.explain(err)}
		}
		d.stmts[text] = s
	}
	return &sqlStmt{d: d, s: s}
}

func (d *sqlTx) changes() int64 { return d.changed }

// run executes one statement that binds nothing.
func (d *sqlTx) run(text string) error { return d.query(text).exec() }

// number reads one number.
func (d *sqlTx) number(text string) (n int64, err error) {
	s := d.query(text)
	if s.next() {
		n = s.getInteger(0)
	}
	return n, s.done()
}

// explain wraps an error of the driver with the file's name and what it means.
func (d *sqlTx) explain(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, sql.ErrTxDone), errors.Is(err, sql.ErrConnDone):
		return refuseTx(d.path, fluxly.ErrClosed, err, "it has ended")
	case busy(err):
		return refuseTx(d.path, ErrBusy, err, "another transaction holds the write lock, or wrote after this one had begun to read; "+
			"begin with the write lock (_txlock=immediate) and a busy timeout, and repeat the transaction")
	}
	if s := sentinel(d.path, err); s != nil {
		return fmt.Errorf("sqlite store %q: %w: %w", d.path, s, err)
	}
	return fmt.Errorf("sqlite store %q: %w", d.path, err)
}

// busy reports whether a driver's error is SQLITE_BUSY. Drivers have types of
// their own for the code; all of them give SQLite's own text.
func busy(err error) bool {
	return errors.Is(err, sqlite3.BUSY) || strings.Contains(err.Error(), "database is locked")
}

// sqlStmt is one use of a statement of database/sql.
type sqlStmt struct {
	d    *sqlTx
	s    *sql.Stmt
	args []any
	rows *sql.Rows
	row  []any // of the present row
	into []any // pointers to row
	err  error
}

func (s *sqlStmt) keep(err error) {
	if err != nil && s.err == nil {
		s.err = s.d.explain(err)
	}
}

func (s *sqlStmt) bind(v any) statement {
	s.args = append(s.args, v)
	return s
}

func (s *sqlStmt) text(v string) statement    { return s.bind(v) }
func (s *sqlStmt) rawText(v []byte) statement { return s.bind(string(v)) }
func (s *sqlStmt) integer(v int64) statement  { return s.bind(v) }
func (s *sqlStmt) real(v float64) statement   { return s.bind(v) }
func (s *sqlStmt) null() statement            { return s.bind(nil) }

func (s *sqlStmt) blob(v []byte) statement {
	if v == nil {
		return s.bind(nil)
	}
	return s.bind(v)
}

func (s *sqlStmt) next() bool {
	if s.err != nil {
		return false
	}
	if s.rows == nil {
		rows, err := s.s.QueryContext(s.d.ctx, s.args...) //nolint:rowserrcheck // below, when Next is false
		if err != nil {
			s.keep(err)
			return false
		}
		s.rows = rows
		names, err := rows.Columns()
		if err != nil {
			s.keep(err)
			return false
		}
		s.row, s.into = make([]any, len(names)), make([]any, len(names))
		for i := range s.row {
			s.into[i] = &s.row[i]
		}
	}
	if !s.rows.Next() {
		s.keep(s.rows.Err())
		return false
	}
	s.keep(s.rows.Scan(s.into...))
	return s.err == nil
}

func (s *sqlStmt) done() error {
	if s.rows != nil {
		s.keep(s.rows.Close())
		s.rows = nil
	}
	return s.err
}

func (s *sqlStmt) exec() error {
	if s.err != nil {
		return s.err
	}
	result, err := s.s.ExecContext(s.d.ctx, s.args...)
	if err == nil {
		s.d.changed, err = result.RowsAffected()
	}
	s.keep(err)
	return s.err
}

func (s *sqlStmt) isNull(column int) bool { return s.row[column] == nil }

func (s *sqlStmt) isInteger(column int) bool {
	_, ok := s.row[column].(int64)
	return ok
}

func (s *sqlStmt) getInteger(column int) int64 {
	n, _ := s.row[column].(int64)
	return n
}

func (s *sqlStmt) getText(column int) string {
	switch v := s.row[column].(type) {
	case string:
		return v
	case []byte:
		return string(v)
	case time.Time:
		// Some drivers make a time of a text that looks like one in just this
		// form, and of no other.
		return v.Format(time.RFC3339Nano)
	case int64:
		return strconv.FormatInt(v, 10)
	}
	return ""
}

func (s *sqlStmt) getRaw(column int) []byte {
	switch v := s.row[column].(type) {
	case nil:
		return nil
	case []byte:
		return v
	}
	return []byte(s.getText(column))
}
