package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Sentinels for what a program may want to tell apart; test with [errors.Is].
var (
	// ErrMigrate: the schema is not there yet or from an older fluxly, and must
	// be brought up first, by [Migrate] or with Config.Migrate.
	ErrMigrate = errors.New("schema needs a migration")
	// ErrNewerVersion: the schema was written by a newer fluxly.
	ErrNewerVersion = errors.New("schema is from a newer version of fluxly")
	// ErrOutcomeUnknown: the connection was lost while a transaction was
	// committed, and the database could not be asked in time whether it was, or
	// no row of the transaction was found that proves it.
	// Repeat the call: with the same message id an event is stored once.
	ErrOutcomeUnknown = errors.New("outcome of the commit is unknown")
	// ErrFull: the database has no room on its disk. The transaction was
	// rolled back and nothing is lost.
	ErrFull = errors.New("disk of the database is full")
	// ErrReadOnly: the database takes no writes, such as a standby does.
	ErrReadOnly = errors.New("database is read-only")
	// ErrIsolation: a transaction of the program's own is REPEATABLE READ or
	// SERIALIZABLE. In it everything is read as it was when the transaction
	// began, so that what others have done since would be done twice. Begin it
	// as READ COMMITTED.
	ErrIsolation = errors.New("the engine decides by what is committed now, so the transaction must be READ COMMITTED")
	// ErrCorrupt: a stored row cannot be read.
	ErrCorrupt = errors.New("stored row is damaged")
)

// Error is a failure of the database or of the way to it. It wraps the cause,
// such as a [*pgconn.PgError], and one of the sentinels where one fits. Its
// text holds no values.
type Error struct {
	// Op is what was being done, such as "commit".
	Op string
	// Code is the SQLSTATE that the database gave; empty when it gave none.
	Code string
	// Retryable says that the same call may succeed later.
	Retryable bool

	cause, sentinel error
}

// Error names what was done, the code and what it means.
func (e *Error) Error() string {
	text := "postgres store: " + e.Op + ": "
	if e.Code == "" {
		return text + e.cause.Error()
	}
	meaning := meanings[e.Code]
	if meaning == "" {
		if meaning = meanings[e.Code[:min(2, len(e.Code))]]; meaning == "" {
			meaning = "refused by the database"
		}
	}
	text += meaning
	if pg, ok := errors.AsType[*pgconn.PgError](e.cause); ok {
		switch {
		case pg.ConstraintName != "":
			text += " (" + pg.ConstraintName + ")"
		case pg.TableName != "":
			text += " (" + pg.TableName + ")"
		case e.Code[0] == '4' && e.Code != codeUnique && !strings.ContainsAny(pg.Message, "'"):
			text += ": " + pg.Message // names of tables, columns and schemas
		}
	}
	return text + ", SQLSTATE " + e.Code
}

// Unwrap returns the sentinel, if one fits, and the cause.
func (e *Error) Unwrap() []error {
	if e.sentinel != nil {
		return []error{e.sentinel, e.cause}
	}
	return []error{e.cause}
}

// Codes that the store acts upon.
const (
	codeUnique        = "23505"
	codeSerialization = "40001"
	codeDeadlock      = "40P01"
	codeLockTimeout   = "55P03"
	codeFull          = "53100"
	codeReadOnly      = "25006"
	codeCancelled     = "57014"
)

// meanings say what codes, and classes of codes, are.
var meanings = map[string]string{
	codeUnique:        "the row is there already",
	codeSerialization: "another transaction was in the way",
	codeDeadlock:      "another transaction was in the way (deadlock)",
	codeLockTimeout:   "another transaction held a lock for too long",
	codeFull:          "the disk of the database is full",
	codeReadOnly:      "the database is read-only",
	"25P02":           "the transaction had failed before",
	"25P03":           "the database ended a transaction that stood idle",
	"42501":           "the role of the connection lacks a privilege",
	"42P01":           "a table is missing; run postgres.Migrate",
	"3D000":           "the database does not exist",
	"3F000":           "the schema does not exist; run postgres.Migrate",
	"53300":           "the database has too many connections",
	codeCancelled:     "the statement was cancelled by the database, by its statement_timeout or by hand; raise statement_timeout for this role if it comes again",
	"57P01":           "the database is shutting down",
	"57P02":           "the database has crashed",
	"57P03":           "the database is starting up or shutting down",
	"54":              "a value is too long for the database",
	"22":              "a value does not fit its column",
	"28":              "the database refused the login",
	"53":              "the database is out of a resource",
	"08":              "the connection failed",
	"XX":              "the database reports an internal error",
}

// code returns the SQLSTATE of an error, whichever driver it is of.
func code(err error) string {
	var state interface{ SQLState() string }
	if errors.As(err, &state) {
		return state.SQLState()
	}
	return ""
}

// inContext adds to an error of the database that the caller's context has
// ended, where a statement was cancelled for it.
func inContext(ctx context.Context, err error) error {
	if ended := ctx.Err(); ended != nil && code(err) == codeCancelled && !errors.Is(err, ended) {
		return fmt.Errorf("%w: %w", ended, err)
	}
	return err
}

// explain makes an error of the database an [*Error].
func explain(op string, err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*Error](err); ok {
		return err
	}
	e := &Error{Op: op, Code: code(err), cause: err}
	ended := errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
	switch e.Code {
	case "":
		switch {
		case ended:
			return fmt.Errorf("postgres store: %s: %w", op, err)
		case errors.Is(err, pgx.ErrTxClosed) || errors.Is(err, sql.ErrTxDone):
			e.cause = fmt.Errorf("the caller's transaction has ended already, by commit, by rollback or with the context it was begun with; begin another one: %w", err)
		default:
			e.Retryable = !errors.Is(err, ErrIsolation) // else it is the way to the database
		}
	case codeCancelled:
		if ended {
			return fmt.Errorf("postgres store: %s: %w", op, err)
		}
		e.Retryable = true
	case codeFull:
		e.sentinel, e.Retryable = ErrFull, true
	case codeReadOnly:
		e.sentinel, e.Retryable = ErrReadOnly, true
	default:
		switch e.Code[:min(2, len(e.Code))] {
		case "40", "08", "53", "57":
			e.Retryable = true
		case "55":
			e.Retryable = e.Code == codeLockTimeout
		case "25":
			e.Retryable = e.Code == "25P03"
		}
		if e.Code == codeUnique {
			e.Retryable = true
		}
	}
	return e
}

// worthRetry says whether a transaction that failed in the database may
// succeed when it is run again at once.
func worthRetry(err error) bool {
	switch code(err) {
	case codeUnique, codeSerialization, codeDeadlock, codeLockTimeout:
		return true
	}
	return false
}
