package postgres

import (
	"context"
	"database/sql"

	"github.com/jackc/pgx/v5"
)

// jobs see to it that what is due is done.
type jobs struct{}

// insert puts the jobs of n into the transaction. It is called once before each
// commit, when n is not empty.
func (j *jobs) insert(context.Context, pgx.Tx, *notes) error { return nil }

// insertSQL is insert for a transaction of database/sql.
func (j *jobs) insertSQL(context.Context, *sql.Tx, *notes) error { return nil }

// committed is called after the commit.
func (j *jobs) committed(*notes) {}

// close ends Work; it is called once.
func (j *jobs) close() {}
