package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// statement is one SQL statement with what becomes of its answer.
type statement struct {
	sql  string
	args []any
	// row is called for each row; nil leaves them.
	row func(scan scanFunc) error
	// done is called with the number of rows; nil is not.
	done func(rows int64)
}

// scanFunc reads the columns of a row, as [database/sql.Rows.Scan] does.
type scanFunc func(dest ...any) error

// database runs the statements of a transaction. The queries in this package
// are written against it alone, so that they can also run inside a
// transaction of the caller, through other drivers.
type database interface {
	// send runs statements in order, in one trip where the driver can. It
	// ends with the first error.
	send(ctx context.Context, list []statement) error
}

// batcher is a connection or a transaction of pgx.
type batcher interface {
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
}

// pgxDatabase sends statements as one batch.
type pgxDatabase struct{ batcher batcher }

func (d pgxDatabase) send(ctx context.Context, list []statement) (err error) {
	if len(list) == 0 {
		return nil
	}
	var b pgx.Batch
	for i := range list {
		b.Queue(list[i].sql, list[i].args...)
	}
	results := d.batcher.SendBatch(ctx, &b)
	for i := range list {
		if err = list[i].read(results); err != nil {
			break
		}
	}
	if e := results.Close(); err == nil {
		err = e
	}
	return err
}

// read takes the answer of one statement.
func (s *statement) read(results pgx.BatchResults) error {
	if s.row == nil {
		tag, err := results.Exec()
		if err == nil && s.done != nil {
			s.done(tag.RowsAffected())
		}
		return err
	}
	rows, err := results.Query()
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := s.row(rows.Scan); err != nil {
			return err
		}
	}
	rows.Close()
	if s.done != nil {
		s.done(rows.CommandTag().RowsAffected())
	}
	return rows.Err()
}
