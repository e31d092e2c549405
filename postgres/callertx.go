package postgres

import (
	"context"
	"database/sql"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/getfluxly/fluxly"
)

// Tx joins a transaction of the program's own, on the database that the store
// is in: what the engine writes in it is committed with the program's rows, or
// rolled back with them. See [fluxly.Engine.Within].
//
// People are locked until the transaction ends, so keep it short: calls about
// them wait for it, those about others do not. Its timeouts are the program's;
// the store sets none in it. An [*Error]
// with Retryable means that the whole transaction is over and may be run
// again. The isolation level must be READ COMMITTED, the default of PostgreSQL:
// else every call is [ErrIsolation], and nothing happens.
func (s *Store) Tx(tx pgx.Tx) fluxly.CallerTx {
	if p, ok := tx.(*pgxpool.Tx); tx == nil || ok && p == nil {
		return noCallerTx(s, "Store.Tx")
	}
	return &callerTx{s: s, outer: pgxOuter{s, tx}}
}

// SQLTx is [Store.Tx] for a transaction of database/sql, through any driver for
// PostgreSQL. It takes a trip for each statement.
func (s *Store) SQLTx(tx *sql.Tx) fluxly.CallerTx {
	if tx == nil {
		return noCallerTx(s, "Store.SQLTx")
	}
	return &callerTx{s: s, outer: sqlOuter{s, tx}}
}

// callerTx is a [fluxly.CallerTx].
type callerTx struct {
	s     *Store
	outer outer
	// refused is the error of each call, where outer is none.
	refused error
}

// noCallerTx is what method returns for a transaction that is nil.
func noCallerTx(s *Store, method string) *callerTx {
	return &callerTx{s: s, refused: fmt.Errorf("postgres store: %s was given a nil transaction; begin one and hand it over", method)}
}

// outer is the transaction of a caller.
type outer interface {
	// savepoint begins a part of it that can be taken back alone.
	savepoint(ctx context.Context) (savepoint, error)
}

type savepoint interface {
	database
	insert(ctx context.Context, n *notes) error
	release(ctx context.Context) error
	rollback(ctx context.Context) error
}

func (c *callerTx) Store() fluxly.Store { return c.s }

func (c *callerTx) Update(ctx context.Context, fn func(fluxly.Tx) error) error {
	if c.refused != nil {
		return c.refused
	}
	done, err := c.s.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	m := c.s.mode
	for n := 1; ; n++ {
		err := c.attempt(ctx, m, fn)
		// Another code means that the transaction of the caller is over, or
		// would wait for what it holds itself.
		if code(err) != codeUnique || n >= attempts {
			return err
		}
		c.s.retries.Add(1)
		if m = modeCareful; n > 1 {
			c.s.pids.drop()
		}
	}
}

// attempt runs fn once, in a savepoint.
func (c *callerTx) attempt(ctx context.Context, m mode, fn func(fluxly.Tx) error) (err error) {
	point, err := c.outer.savepoint(ctx)
	if err != nil {
		return explain("begin", inContext(ctx, err))
	}
	t := c.s.newTx(point, m)
	t.callers, t.queue = true, []statement{checkIsolation()}
	kept := false
	defer func() {
		t.dead = true
		if !kept { // also when fn panics
			background, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTimeout)
			defer cancel()
			_ = point.rollback(background)
		}
	}()
	err = t.run(ctx, fn)
	if t.err != nil {
		return t.err
	}
	if err != nil {
		return err
	}
	if err := t.ask(ctx); err != nil {
		return err
	}
	if !t.notes.empty() {
		if err := point.insert(ctx, &t.notes); err != nil {
			return explain("insert jobs", inContext(ctx, err))
		}
	}
	if err := point.release(ctx); err != nil {
		return explain("release", inContext(ctx, err))
	}
	kept = true
	return nil
}

// checkIsolation asks for the level of the transaction. A lock on somebody who was
// only locked by others, and not changed, does not fail in a transaction that
// reads an old state, so it would go on with that.
func checkIsolation() statement {
	return statement{sql: "SELECT current_setting('transaction_isolation')", row: func(scan scanFunc) error {
		var level string
		if err := scan(&level); err != nil {
			return err
		}
		if level != "read committed" && level != "read uncommitted" { // the same thing
			return fmt.Errorf("the program's transaction is %s: %w", strings.ToUpper(level), ErrIsolation)
		}
		return nil
	}}
}

// pgxOuter is a transaction of pgx.
type pgxOuter struct {
	s  *Store
	tx pgx.Tx
}

func (o pgxOuter) savepoint(ctx context.Context) (savepoint, error) {
	tx, err := o.tx.Begin(ctx)
	return pgxPoint{pgxDatabase{tx}, o.s, tx}, err
}

type pgxPoint struct {
	pgxDatabase
	s  *Store
	tx pgx.Tx
}

func (p pgxPoint) insert(ctx context.Context, n *notes) error { return p.s.jobs.insert(ctx, p.tx, n) }
func (p pgxPoint) release(ctx context.Context) error          { return p.tx.Commit(ctx) }
func (p pgxPoint) rollback(ctx context.Context) error         { return p.tx.Rollback(ctx) }

// sqlOuter is a transaction of database/sql; it is its savepoints too, which
// do not nest.
type sqlOuter struct {
	s  *Store
	tx *sql.Tx
}

func (o sqlOuter) savepoint(ctx context.Context) (savepoint, error) {
	return o, o.exec(ctx, "SAVEPOINT fluxly")
}

func (o sqlOuter) exec(ctx context.Context, text string) error {
	_, err := o.tx.ExecContext(ctx, text)
	return err
}

func (o sqlOuter) insert(ctx context.Context, n *notes) error {
	return o.s.jobs.insertSQL(ctx, o.tx, n)
}

func (o sqlOuter) release(ctx context.Context) error { return o.exec(ctx, "RELEASE SAVEPOINT fluxly") }

func (o sqlOuter) rollback(ctx context.Context) error {
	if err := o.exec(ctx, "ROLLBACK TO SAVEPOINT fluxly"); err != nil {
		return err
	}
	return o.release(ctx)
}

func (o sqlOuter) send(ctx context.Context, list []statement) error {
	for i := range list {
		if err := o.one(ctx, &list[i]); err != nil {
			return err
		}
	}
	return nil
}

// one runs one statement.
func (o sqlOuter) one(ctx context.Context, s *statement) error {
	args := make([]any, len(s.args))
	for i, a := range s.args {
		args[i] = sqlValue(a)
	}
	if s.row == nil {
		result, err := o.tx.ExecContext(ctx, s.sql, args...)
		if err != nil || s.done == nil {
			return err
		}
		n, err := result.RowsAffected()
		s.done(n)
		return err
	}
	rows, err := o.tx.QueryContext(ctx, s.sql, args...)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		if err := s.row(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}

// sqlValue makes an argument one that every driver takes: a list becomes the
// text of an array.
func sqlValue(v any) any {
	switch v := v.(type) {
	case pgtype.Timestamptz:
		if !v.Valid {
			return nil
		}
		return instantText(v)
	case []byte:
		if v == nil {
			return nil
		}
		return v
	case []string:
		return arrayText(v, func(s string) (string, bool) { return s, true })
	case []int64:
		return arrayText(v, func(n int64) (string, bool) { return strconv.FormatInt(n, 10), true })
	case []int32:
		return arrayText(v, func(n int32) (string, bool) { return strconv.Itoa(int(n)), true })
	case []int16:
		return arrayText(v, func(n int16) (string, bool) { return strconv.Itoa(int(n)), true })
	case []bool:
		return arrayText(v, func(b bool) (string, bool) { return strconv.FormatBool(b), true })
	case [][]byte:
		return arrayText(v, func(b []byte) (string, bool) { return `\x` + hex.EncodeToString(b), b != nil })
	case []pgtype.Timestamptz:
		return arrayText(v, func(t pgtype.Timestamptz) (string, bool) { return instantText(t), t.Valid })
	case nil, string, int64, int32, bool:
		return v
	}
	panic(fmt.Sprintf("postgres store: no text for an argument of type %T", v))
}

// arrayText writes an array; an element whose text is not ok is NULL.
func arrayText[T any](list []T, text func(T) (s string, ok bool)) any {
	if list == nil {
		return nil
	}
	var b strings.Builder
	b.WriteByte('{')
	for i, v := range list {
		if i > 0 {
			b.WriteByte(',')
		}
		s, ok := text(v)
		if !ok {
			b.WriteString("NULL")
			continue
		}
		b.WriteByte('"')
		b.WriteString(arrayEscapes.Replace(s))
		b.WriteByte('"')
	}
	b.WriteByte('}')
	return b.String()
}

var arrayEscapes = strings.NewReplacer(`\`, `\\`, `"`, `\"`)
