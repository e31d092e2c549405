package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/getfluxly/fluxly"
)

// tx is one transaction.
//
// Writes are gathered in rows (see buffer.go) and go out before the next
// question to the database, in the same trip, or with the commit. What was read
// under a lock, and what was written, answers later questions (see known).
// Who has preloaded what is asked for may guess that a row that was not asked
// for is not there yet; where that is wrong, an INSERT meets the row. Then, and
// when somebody else inserted the same row meanwhile, the transaction runs again
// in careful mode, in which nothing is guessed or remembered and each write goes
// out at once.
type tx struct {
	s      *Store
	db     database
	writes bool
	dead   bool
	// callers: it is a part of a transaction of the program's own.
	callers bool
	// cached: questions are answered from known; without it the transaction is
	// a careful one. guess: see above; it is set by Preload.
	cached, guess bool
	// guessed says that an answer was given that the database has not
	// confirmed.
	guessed bool
	// err is the first error of the database: after it the transaction can
	// only be rolled back.
	err error

	// queue are statements that have not been sent.
	queue []statement
	rows  buffer
	known known
	notes notes

	// waiting is for a transaction of Update; nil for others.
	waiting *waiting

	// xid names the transaction to the database, once something was sent;
	// proof tells that it is this one (see proof.go).
	xid   string
	proof proof
	sent  bool
	// changed: something was to be written.
	changed bool

	// locked are the people that are locked, with the number of the question
	// that did it.
	locked map[int64]int
	asked  int
	// seqs were drawn ahead, after everybody was locked that was locked by
	// question seqsAt.
	seqs   []seqRange
	seqsAt int
}

var (
	_ fluxly.Tx        = (*tx)(nil)
	_ fluxly.Preloader = (*tx)(nil)
	_ fluxly.WaitTx    = (*tx)(nil)
)

// newTx makes a transaction of Update.
func (s *Store) newTx(db database, m mode) *tx {
	return &tx{s: s, db: db, writes: true, cached: m != modeCareful, locked: map[int64]int{}, known: newKnown()}
}

// check refuses a call that cannot be.
func (t *tx) check(ctx context.Context, write bool) error {
	switch {
	case t.dead:
		return fmt.Errorf("postgres store: the transaction is over: %w", fluxly.ErrClosed)
	case t.err != nil:
		return t.err
	case write && !t.writes:
		return errors.New("postgres store: write in View; use Update")
	}
	t.changed = t.changed || write
	return ctx.Err()
}

// fail keeps the error of a statement.
func (t *tx) fail(err error) error {
	if err == nil {
		return nil
	}
	err = explain("transaction", err)
	if t.err == nil {
		t.err = err
	}
	return err
}

// ask sends what is queued and written so far, and then the statements given.
func (t *tx) ask(ctx context.Context, list ...statement) error {
	t.seal()
	for i := range list {
		list[i].sql = t.s.sql(list[i].sql)
	}
	all := append(t.queue, list...)
	t.queue = nil
	if len(all) == 0 {
		return nil
	}
	t.sent = true
	t.asked++
	return t.fail(inContext(ctx, t.db.send(ctx, all)))
}

// later queues a statement.
func (t *tx) later(sql string, args ...any) {
	t.queue = append(t.queue, statement{sql: t.s.sql(sql), args: args})
}

// wrote ends each method that writes: in careful mode the write goes out.
func (t *tx) wrote(ctx context.Context) error {
	if t.cached {
		return nil
	}
	return t.ask(ctx)
}

// number looks up a number; ok is false when there is no row.
func (t *tx) number(ctx context.Context, sql string, args ...any) (n int64, ok bool, err error) {
	err = t.ask(ctx, statement{sql: sql, args: args, row: func(scan scanFunc) error {
		ok = true
		return scan(&n)
	}})
	return n, ok, err
}

// errMoved is a row whose person changes all the time.
type movedError struct{}

func (movedError) Error() string    { return "rows moved between people while they were looked up" }
func (movedError) SQLState() string { return codeSerialization }

// looks is how often a look-up is asked again whose rows moved meanwhile.
const looks = 8

// lookUp runs a question about rows of people. In Update it first locks these
// people, with a statement that gives the numbers of those it locked; a row of
// somebody else was moved in between, and then both are asked again. reset
// forgets the rows of the last time; owners gives those of this time.
func (t *tx) lookUp(ctx context.Context, lock, read statement, reset func(), owners func(yield func(pid int64))) error {
	if !t.writes {
		return t.ask(ctx, read)
	}
	lock.row = t.lockRow
	for range looks {
		reset()
		if err := t.ask(ctx, lock, read); err != nil {
			return err
		}
		moved := false
		owners(func(pid int64) {
			if _, ok := t.locked[pid]; !ok {
				moved = true
			}
		})
		if !moved {
			return nil
		}
	}
	return t.fail(movedError{})
}

// lockRow reads the number of a person that was locked.
func (t *tx) lockRow(scan scanFunc) error {
	var pid int64
	if err := scan(&pid); err != nil {
		return err
	}
	t.lockedNow(pid)
	return nil
}

func (t *tx) lockedNow(pid int64) {
	if _, ok := t.locked[pid]; !ok {
		t.locked[pid] = t.asked
	}
}

// Numbers of runs.due_kind.
const (
	dueWake = 1
	dueCall = 2
)

func (t *tx) Due(ctx context.Context, kind fluxly.WorkKind, now time.Time, limit int) (due []fluxly.Work, next time.Time, err error) {
	if err := t.check(ctx, false); err != nil {
		return nil, time.Time{}, err
	}
	var list, after string
	args := []any{instant(now)}
	switch kind {
	case fluxly.WorkWake, fluxly.WorkCall:
		number := int64(dueWake)
		if kind == fluxly.WorkCall {
			number = dueCall
		}
		args = append(args, number)
		list = "SELECT due_at, id, '' FROM fluxly.runs WHERE due_at <= $1::timestamptz AND due_kind = $2::smallint ORDER BY due_at, id LIMIT $3::bigint"
		after = "SELECT due_at FROM fluxly.runs WHERE due_at > $1::timestamptz AND due_kind = $2::smallint ORDER BY due_at LIMIT 1"
	case fluxly.WorkSegment:
		list = `SELECT m.check_at, p.id, m.segment FROM fluxly.memberships m JOIN fluxly.profiles p ON p.pid = m.pid
			WHERE m.check_at <= $1::timestamptz ORDER BY m.check_at, p.id, m.segment LIMIT $2::bigint`
		after = "SELECT check_at FROM fluxly.memberships WHERE check_at > $1::timestamptz ORDER BY check_at LIMIT 1"
	case fluxly.WorkSend:
		list = "SELECT due_at, key, '' FROM fluxly.sends WHERE due_at <= $1::timestamptz ORDER BY due_at, key LIMIT $2::bigint"
		after = "SELECT due_at FROM fluxly.sends WHERE due_at > $1::timestamptz ORDER BY due_at LIMIT 1"
	default:
		return nil, time.Time{}, fmt.Errorf("postgres store: unknown kind of work %q", kind)
	}
	var then timeColumn
	err = t.ask(ctx,
		statement{sql: list, args: append(args[:len(args):len(args)], int64(max(limit, 0))), row: func(scan scanFunc) error {
			var w fluxly.Work
			var at timeColumn
			if err := scan(&at, &w.ID, &w.Segment); err != nil {
				return err
			}
			w.Due = at.Time
			due = append(due, w)
			return nil
		}},
		statement{sql: after, args: args, row: func(scan scanFunc) error { return scan(&then) }})
	if err != nil {
		return nil, time.Time{}, err
	}
	return due, then.Time, nil
}
