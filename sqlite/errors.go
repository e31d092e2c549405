package sqlite

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/ncruces/go-sqlite3"
)

// Sentinels for what a program may want to tell apart; test with [errors.Is].
var (
	// ErrInUse: another process, or another Store in this one, has the file
	// open. One process at a time works on a file: let one process hold the
	// engine and the others hand it their events, as by fluxlyhttp.Intake.
	ErrInUse = errors.New("store file is in use")
	// ErrNewerVersion: the file was written by a newer fluxly.
	ErrNewerVersion = errors.New("store file is from a newer version of fluxly")
	// ErrMigrate: the file was written by an older fluxly and its schema must
	// be brought up first, by [Migrate] or with Config.Migrate.
	ErrMigrate = errors.New("store file needs a migration")
	// ErrCorrupt: the file is not a database, or is damaged.
	ErrCorrupt = errors.New("store file is damaged")
	// ErrFull: there is no room on the disk. The transaction was rolled back
	// and nothing is lost; the store works again once there is room.
	ErrFull = errors.New("disk is full")
	// ErrReadOnly: the file or its folder cannot be written.
	ErrReadOnly = errors.New("store file cannot be written")
	// ErrBusy: another transaction held the write lock on the file for longer
	// than Config.BusyTimeout. Inside a transaction of the program's own it is
	// that transaction which the call waited for: call Engine.Within there.
	ErrBusy = errors.New("store file is locked")
	// ErrOtherDatabase: a transaction that was handed to [Store.Tx] is not on
	// the file of the store.
	ErrOtherDatabase = errors.New("transaction is on another database than the store")
)

// OpenError is a store that could not be opened. It wraps one of the
// sentinels where one fits.
type OpenError struct {
	// Path is the file.
	Path string
	// Reason says what is wrong and what to do next.
	Reason string
	// Err is the cause, if there is one.
	Err error
}

// Error names the file and the reason.
func (e *OpenError) Error() string {
	text := "open store " + strconv.Quote(e.Path) + ": " + e.Reason
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

// Unwrap returns the cause.
func (e *OpenError) Unwrap() error { return e.Err }

// refuse makes an OpenError. The sentinel and the cause may be nil.
func refuse(path string, sentinel, cause error, format string, args ...any) *OpenError {
	err := cause
	switch {
	case sentinel != nil && cause != nil:
		err = fmt.Errorf("%w: %w", sentinel, cause)
	case sentinel != nil:
		err = sentinel
	}
	return &OpenError{Path: path, Reason: fmt.Sprintf(format, args...), Err: err}
}

// sentinel returns what an error of SQLite about a file means to the user; nil
// when it is none of the sentinels.
func sentinel(path string, err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return ErrFull
	}
	var code sqlite3.ErrorCode
	if !errors.As(err, &code) {
		return nil
	}
	switch code {
	case sqlite3.FULL:
		return ErrFull
	case sqlite3.CORRUPT, sqlite3.NOTADB:
		return ErrCorrupt
	case sqlite3.READONLY, sqlite3.PERM:
		return ErrReadOnly
	case sqlite3.IOERR, sqlite3.CANTOPEN:
		// The driver reports a write without room as any failed write, and
		// keeps no cause.
		if noRoom(path) {
			return ErrFull
		}
	default:
	}
	return nil
}

// noRoom reports whether a small file cannot be written beside the store for
// want of room.
func noRoom(path string) bool {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+"-probe-*")
	if err == nil {
		_, err = f.Write(make([]byte, 128<<10))
		err = errors.Join(err, f.Close(), os.Remove(f.Name()))
	}
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// explain wraps an error of SQLite with the file's name and its sentinel.
func (c *conn) explain(err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, sqlite3.INTERRUPT) {
		if ctx := c.db.GetInterrupt(); ctx.Err() != nil {
			return fmt.Errorf("sqlite store: %w", ctx.Err())
		}
	}
	if s := sentinel(c.path, err); s != nil {
		return fmt.Errorf("sqlite store %q: %w: %w", c.path, s, err)
	}
	if errors.Is(err, sqlite3.BUSY) {
		return fmt.Errorf("sqlite store %q: %w: another program holds a lock on the file, or a transaction of your own around this call; end it, or call Engine.Within in it: %w", c.path, ErrBusy, err)
	}
	return fmt.Errorf("sqlite store %q: %w", c.path, err)
}
