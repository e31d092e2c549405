package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/getfluxly/fluxly"
)

// TxError is a transaction of the program's own that the store cannot take part
// in. Where it comes, nothing was written. It wraps [ErrOtherDatabase],
// [ErrBusy] or [fluxly.ErrClosed] where one fits.
type TxError struct {
	// Path is the file of the store.
	Path string
	// Reason says what is wrong and what to do next.
	Reason string
	// Err is the cause, if there is one.
	Err error
}

// Error names the file and the reason.
func (e *TxError) Error() string {
	text := "caller's transaction on store " + strconv.Quote(e.Path) + ": " + e.Reason
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

// Unwrap returns the cause.
func (e *TxError) Unwrap() error { return e.Err }

// refuseTx makes a TxError. The cause may be nil.
func refuseTx(path string, sentinel, cause error, format string, args ...any) *TxError {
	err := sentinel
	if cause != nil {
		err = fmt.Errorf("%w: %w", sentinel, cause)
	}
	return &TxError{Path: path, Reason: fmt.Sprintf(format, args...), Err: err}
}

// Tx makes a transaction of the program's own known to the engine, so that
// what is tracked is committed with the program's own rows, or taken back with
// them:
//
//	db, err := sql.Open("sqlite3", "file:fluxly.db?_txlock=immediate&_pragma=busy_timeout(5000)")
//	tx, err := db.BeginTx(ctx, nil)
//	_, err = tx.ExecContext(ctx, "INSERT INTO orders ...")
//	err = engine.Within(store.Tx(tx)).Track(ctx, event)
//	err = tx.Commit() // or Rollback: nothing happened
//
// The transaction is on the store's own file, in which the program may have
// tables of its own beside those of the store, under other names. A new file
// belongs to the store first: open the store, then make them. The pragmas
// user_version and application_id are the store's. Any driver of database/sql
// for SQLite will do, but one on the C library, or made from it, takes locks
// that the system drops when the store is closed: end its transactions first.
// The driver of github.com/ncruces/go-sqlite3 does not.
//
// SQLite has one writer. From the first call on, the transaction holds the
// write lock, and every other call of the engine waits, up to
// [Config.BusyTimeout]; so keep it short, and do not call the engine itself in
// it, but through [fluxly.Engine.Within]: the call would wait for its own
// transaction, and fail with [ErrBusy]. Begin with the write lock, by
// _txlock=immediate or what the driver has for it. A transaction that began by
// reading fails with ErrBusy if another has written since; roll it back and
// repeat it.
//
// Whether a commit waits for the disk is up to the program's connection (PRAGMA
// synchronous), whatever [Config.Sync] says. The connection overwrites what it
// deletes (PRAGMA secure_delete) from the first call on.
//
// Errors of Update: a [*TxError] when the transaction is on another database
// or has ended, or the store is closed; else as those of [Store.Update]. Update
// looks at its ctx between statements. Its work is taken back by a savepoint,
// unless SQLite itself has rolled back the whole transaction, as it may when
// the disk is full; then the driver says so at the next statement.
//
// Once the transaction is committed, Work of this store hands out what became
// due at once.
func (s *Store) Tx(tx *sql.Tx) fluxly.CallerTx {
	return &callerTx{store: s, db: &sqlTx{tx: tx, path: s.path, stmts: map[string]*sql.Stmt{}}}
}

type callerTx struct {
	store   *Store
	db      *sqlTx
	checked bool
}

func (c *callerTx) Store() fluxly.Store { return c.store }

func (c *callerTx) Update(ctx context.Context, fn func(fluxly.Tx) error) (err error) {
	if err := ctx.Err(); err != nil {
		return err
	}
	// To interrupt a statement that writes would end the whole transaction.
	c.db.ctx = context.WithoutCancel(ctx)
	if err := c.check(); err != nil {
		return err
	}
	if err := c.db.run("SAVEPOINT fluxly"); err != nil {
		return err
	}
	tx := &tx{db: c.db, writes: true}
	kept := false
	defer func() {
		tx.dead = true
		if kept {
			return
		}
		// Also when fn panics.
		if e := firstError(c.db.run("ROLLBACK TO fluxly"), c.db.run("RELEASE fluxly")); e != nil && err != nil {
			err = errors.Join(err, e)
		}
	}()
	// Takes the write lock, with which the numbers below are the last ones.
	if err := c.db.run("UPDATE meta SET value = value WHERE key = ''"); err != nil {
		return err
	}
	if tx.lastSeq, err = c.db.number(lastSeqQuery); err != nil {
		return err
	}
	if err := fn(tx); err != nil {
		return err
	}
	// An error that fn swallowed must not be committed over.
	if tx.err != nil {
		return tx.err
	}
	if err := c.db.run("RELEASE fluxly"); err != nil {
		return err
	}
	kept = true
	c.store.uncommitted.add(c.store, tx)
	return nil
}

// check refuses a transaction that is not on the store's file.
func (c *callerTx) check() error {
	path := c.store.path
	switch {
	case c.db.tx == nil:
		return &TxError{Path: path, Reason: "it is nil; hand over the transaction that the program has begun"}
	case c.store.closed.Load():
		return refuseTx(path, fluxly.ErrClosed, nil, "the store is closed")
	case c.checked:
		return nil
	}
	file := ""
	list := c.db.query("PRAGMA database_list")
	for list.next() {
		if list.getText(1) == "main" {
			file = list.getText(2)
		}
	}
	if err := list.done(); err != nil {
		if _, ok := errors.AsType[*TxError](err); ok {
			return err
		}
		return refuseTx(path, ErrOtherDatabase, err, "it does not say which file it is on; it must be of a driver for SQLite")
	}
	if file == "" {
		return refuseTx(path, ErrOtherDatabase, nil, "it is on a database in memory; open the file of the store")
	}
	theirs, err := os.Stat(file)
	if err != nil {
		return refuseTx(path, ErrOtherDatabase, err, "the file of its database, %q, cannot be found", file)
	}
	ours, err := os.Stat(path)
	if err != nil {
		return refuseTx(path, ErrOtherDatabase, err, "the file of the store cannot be found")
	}
	if !os.SameFile(theirs, ours) {
		return refuseTx(path, ErrOtherDatabase, nil, "it is on %q; open the file of the store", file)
	}
	id, err := c.db.number("PRAGMA application_id")
	if err != nil {
		return err
	}
	version, err := c.db.number("PRAGMA user_version")
	if err != nil {
		return err
	}
	if id != applicationID || version != c.store.version {
		return refuseTx(path, ErrOtherDatabase, nil,
			"the file has application_id %d and user_version %d instead of %d and %d, so it was replaced, or another program set them", id, version, applicationID, c.store.version)
	}
	// As the store's own connection: what is deleted is overwritten.
	if err := c.db.run("PRAGMA secure_delete = ON"); err != nil {
		return err
	}
	c.checked = true
	c.store.joined.Store(true)
	return nil
}
