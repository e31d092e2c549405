package postgres

import (
	"context"
	"strconv"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// connTx shows a connection on which a transaction is open as a [pgx.Tx], for
// who inserts jobs. Begin makes a savepoint. The outermost one is committed by
// the store alone.
type connTx struct {
	conn *pgx.Conn
	// depth is 0 for the transaction itself, else that of the savepoint.
	depth int
}

func (t *connTx) savepoint(ctx context.Context, sql string) error {
	_, err := t.conn.Exec(ctx, sql+" fluxly_"+strconv.Itoa(t.depth))
	return err
}

func (t *connTx) Begin(ctx context.Context) (pgx.Tx, error) {
	inner := &connTx{conn: t.conn, depth: t.depth + 1}
	return inner, inner.savepoint(ctx, "SAVEPOINT")
}

func (t *connTx) Commit(ctx context.Context) error {
	if t.depth == 0 {
		return pgx.ErrTxClosed
	}
	return t.savepoint(ctx, "RELEASE SAVEPOINT")
}

func (t *connTx) Rollback(ctx context.Context) error {
	if t.depth == 0 {
		return pgx.ErrTxClosed
	}
	return t.savepoint(ctx, "ROLLBACK TO SAVEPOINT")
}

func (t *connTx) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, rows pgx.CopyFromSource) (int64, error) {
	return t.conn.CopyFrom(ctx, table, columns, rows)
}

func (t *connTx) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	return t.conn.SendBatch(ctx, b)
}

func (t *connTx) LargeObjects() pgx.LargeObjects { return pgx.LargeObjects{} }

func (t *connTx) Prepare(ctx context.Context, name, sql string) (*pgconn.StatementDescription, error) {
	return t.conn.Prepare(ctx, name, sql)
}

func (t *connTx) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	return t.conn.Exec(ctx, sql, args...)
}

func (t *connTx) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	return t.conn.Query(ctx, sql, args...)
}

func (t *connTx) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	return t.conn.QueryRow(ctx, sql, args...)
}

func (t *connTx) Conn() *pgx.Conn { return t.conn }
