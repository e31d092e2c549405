package postgres

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/getfluxly/fluxly"
)

const (
	// attempts is how often a transaction is run that others stand in the way
	// of.
	attempts = 50
	// lockAttempts is the same for a lock that was waited for in vain.
	lockAttempts = 3
	// commitTimeout bounds the wait for the answer to COMMIT, outcomeTimeout
	// that for the outcome when there was none.
	commitTimeout  = 30 * time.Second
	outcomeTimeout = 30 * time.Second
	// rollbackTimeout bounds the wait for a ROLLBACK; after it the connection
	// is closed, which does the same.
	rollbackTimeout = 5 * time.Second
)

// Update runs fn in one transaction and commits it. See [fluxly.Store]. A
// transaction that another one stood in the way of is run again. When the
// connection is lost at the commit, the database is asked for its outcome, for
// as long as ctx lasts and at most 30 seconds; where nobody can say, or the rows
// that fn wrote are not found, the error is [ErrOutcomeUnknown]. Errors of the
// database are an [*Error].
func (s *Store) Update(ctx context.Context, fn func(fluxly.Tx) error) error {
	done, err := s.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	m := s.mode
	var w waiting
	for n := 1; ; n++ {
		again, err := s.attempt(ctx, m, &w, fn)
		if w.most > 0 && code(err) == codeLockTimeout {
			if again, err = w.next(err); !again {
				return err
			}
			s.retries.Add(1)
			continue
		}
		if !again || n >= attempts || code(err) == codeLockTimeout && n >= lockAttempts {
			return err
		}
		s.retries.Add(1)
		if code(err) == codeUnique {
			if m = modeCareful; n == 1 {
				continue // a guess was wrong
			}
			s.pids.drop()
		}
		if !pause(ctx, n) {
			return err
		}
	}
}

// pause waits before a transaction is run again, longer each time and not as
// long as others do. It returns false when ctx has ended.
func pause(ctx context.Context, n int) bool {
	most := time.Millisecond << min(n, 7)
	timer := time.NewTimer(time.Duration(rand.Int64N(int64(most))))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// begin and its settings, which go out with the first question.
const (
	beginUpdate = "BEGIN ISOLATION LEVEL READ COMMITTED"
	beginView   = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
	// What Update asks for is a few rows by their keys. A table that grew fast
	// has old statistics, by which the planner would read it whole.
	settings = `SELECT set_config('lock_timeout', $1::text, true), set_config('idle_in_transaction_session_timeout', $2::text, true),
		set_config('enable_seqscan', 'off', true), set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true),
		pg_current_xact_id()::text`
)

// acquire takes a connection of the pool. Where the program's own transactions
// have all of them, perhaps that of the caller itself, it does not wait for ever.
func (s *Store) acquire(ctx context.Context) (*pgxpool.Conn, error) {
	waiting, cancel := context.WithTimeout(ctx, lockTimeout)
	defer cancel()
	conn, err := s.pool.Acquire(waiting)
	if err != nil && err == waiting.Err() && ctx.Err() == nil { //nolint:errorlint // that of the wait itself
		return nil, &fluxly.HeldError{Err: &Error{Op: "connect", Retryable: true, cause: fmt.Errorf(
			"none of the %d connections of the pool was free within %s; give it more, or end transactions sooner", s.pool.Config().MaxConns, lockTimeout)}}
	}
	if err != nil {
		return nil, explain("connect", err)
	}
	return conn, nil
}

// attempt runs a transaction once. again says that it is worth another.
func (s *Store) attempt(ctx context.Context, m mode, w *waiting, fn func(fluxly.Tx) error) (again bool, err error) {
	conn, err := s.acquire(ctx)
	if err != nil {
		return false, err
	}
	defer conn.Release()
	c := conn.Conn()
	t := s.newTx(pgxDatabase{c}, m)
	t.waiting = w
	defer func() {
		t.dead = true
		rollback(ctx, c) // also when fn panics
	}()
	t.queue = []statement{{sql: beginUpdate}, {
		sql: settings, args: []any{lockTimeout.String(), idleTimeout.String()},
		row: func(scan scanFunc) error { return scan(nil, nil, nil, nil, nil, &t.xid) },
	}}
	err = t.run(ctx, fn)
	if t.err != nil {
		return worthRetry(t.err), t.err
	}
	if err != nil {
		return false, err
	}
	return s.commit(ctx, conn, t)
}

// run calls fn. Where fn fails after an answer that was guessed, the guess is
// tested: perhaps the failure comes from it.
func (t *tx) run(ctx context.Context, fn func(fluxly.Tx) error) error {
	err := fn(t)
	if err != nil && t.guessed && t.err == nil {
		// An ended context must not hide the error of fn.
		if e := t.ask(ctx); e != nil && !worthRetry(e) {
			t.err = nil
		}
	}
	return err
}

// rollback ends what is still open; a connection for which that fails is
// closed by its pool.
func rollback(ctx context.Context, c *pgx.Conn) {
	if c.IsClosed() || c.PgConn().TxStatus() == 'I' {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTimeout)
	defer cancel()
	_, _ = c.Exec(ctx, "ROLLBACK")
}

// commit sends what is left, the jobs, and COMMIT.
func (s *Store) commit(ctx context.Context, conn *pgxpool.Conn, t *tx) (again bool, err error) {
	t.seal()
	if !t.sent && len(t.queue) == 2 {
		return false, nil // nothing was asked or written
	}
	if err := ctx.Err(); err != nil {
		return false, err
	}
	// The name of the transaction must be known before COMMIT is sent, to ask
	// for its outcome.
	if !t.notes.empty() || t.xid == "" {
		t.patient() // for jobs that others insert at the same time
		if err := t.ask(ctx); err != nil {
			return worthRetry(err), err
		}
	}
	if !t.notes.empty() {
		if err := s.jobs.insert(ctx, &connTx{conn: conn.Conn()}, &t.notes); err != nil {
			err = explain("insert jobs", inContext(ctx, err))
			return worthRetry(err), err
		}
	}
	t.queue = append(t.queue, statement{sql: "COMMIT"})
	// What is complete is committed, also when ctx ends just now.
	sending, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitTimeout)
	err = t.ask(sending)
	cancel()
	if err != nil {
		if !lostAtCommit(err) {
			return worthRetry(err), err
		}
		// This connection must not be in the way of the next.
		t.dead = true
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTimeout)
		_ = conn.Conn().Close(closing)
		cancel()
		conn.Release()
		if again, err = s.outcome(ctx, t, err); again || err != nil {
			return again, err
		}
	}
	s.names.add(t.known.nids)
	if !t.notes.empty() {
		s.jobs.committed(&t.notes)
	}
	return false, nil
}

// lostError is a commit whose connection was lost and that is known not to
// have happened.
type lostError struct{ cause error }

func (e *lostError) Error() string { return "the commit did not happen: " + e.cause.Error() }
func (e *lostError) Unwrap() error { return e.cause }

// outcome asks what became of a transaction whose connection was lost at
// COMMIT; again says that it was rolled back. Without an error the transaction
// was committed, or had nothing to commit.
func (s *Store) outcome(ctx context.Context, t *tx, cause error) (again bool, err error) {
	if !t.changed {
		return false, nil
	}
	limit := outcomeTimeout
	if ctx.Err() != nil {
		ctx, limit = context.WithoutCancel(ctx), rollbackTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for n := 1; ; n++ {
		is, err := s.askFate(ctx, t)
		switch is {
		case fateCommitted:
			return false, nil
		case fateAborted:
			return true, &lostError{cause}
		case fateUnknown:
			return false, unknownOutcome(errors.Join(cause, err))
		case fateOpen:
		}
		if !pause(ctx, n+2) {
			return false, unknownOutcome(errors.Join(cause, err))
		}
	}
}

func unknownOutcome(cause error) error {
	return &Error{Op: "commit", cause: fmt.Errorf("%w; repeat the call with the same message id: %w", ErrOutcomeUnknown, cause), Retryable: true}
}

// View runs fn on one consistent state. See [fluxly.Store].
func (s *Store) View(ctx context.Context, fn func(fluxly.Tx) error) error {
	done, err := s.begin(ctx)
	if err != nil {
		return err
	}
	defer done()
	conn, err := s.acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	c := conn.Conn()
	t := &tx{s: s, db: pgxDatabase{c}, queue: []statement{{sql: beginView}}}
	defer func() {
		t.dead = true
		rollback(ctx, c)
	}()
	if err := fn(t); err != nil {
		return err
	}
	return t.err
}
