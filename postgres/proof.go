package postgres

import (
	"context"
	"errors"
	"slices"
	"strconv"

	"github.com/jackc/pgx/v5/pgconn"
)

// proof is a row that a transaction wrote, by which it can be told later that
// this very transaction was committed.
//
// Its number does not tell it alone: after a crash of the server, or a failover,
// the number of a transaction whose log was not on disk is given out again, and
// so are numbers of sequences. "Committed" may then be said of somebody else.
type proof struct {
	rank proofRank
	// sql asks whether the row is there with the content that it was given and
	// from the transaction that $1 names; args are the rest.
	sql  string
	args []any
}

// proofRank is how well a kind of row is suited: the less others change it, the
// better.
type proofRank int

const (
	proveByMeter proofRank = iota + 1
	proveByProfile
	proveByDefinition
	proveByErasure
	proveBySuppression
	proveByRun
	proveBySend
	proveByEvent
)

// prove keeps a row that is about to be written as the proof, unless there is a
// better one. What is written later of one kind replaces what was written
// before, so that the proof is a row as it is in the end. from is the table,
// whose rows are r, with the condition.
func (t *tx) prove(rank proofRank, from string, args ...any) {
	if rank < t.proof.rank {
		return
	}
	t.proof = proof{rank, "SELECT EXISTS (SELECT FROM " + from + " AND r.xmin::text = $1::text)", args}
}

// unprove forgets a proof of these kinds, because its row may be removed.
func (t *tx) unprove(ranks ...proofRank) {
	if slices.Contains(ranks, t.proof.rank) {
		t.proof = proof{}
	}
}

// fate is what became of a transaction.
type fate int

const (
	fateOpen fate = iota // it may still be under way, or nobody could say
	fateCommitted
	fateAborted
	fateUnknown
)

// codeFuture is the answer for a transaction that the database has not begun.
const codeFuture = "22023"

// askFate asks the database what became of a transaction.
func (s *Store) askFate(ctx context.Context, t *tx) (fate, error) {
	var status string
	// A standby may not have heard of the transaction yet.
	err := s.pool.QueryRow(ctx, `SELECT CASE WHEN pg_is_in_recovery() THEN 'recovery'
		ELSE coalesce(pg_xact_status($1::text::xid8), '') END`, t.xid).Scan(&status)
	switch {
	case code(err) == codeFuture:
		// The server has crashed, or is another one, and its log ends before
		// the transaction: the record of its commit would be in the log, and
		// no number up to that one is in the future.
		return fateAborted, nil
	case err != nil:
		return fateOpen, err
	}
	switch status {
	case "aborted":
		// Also where the number was given out again: not if the first had been
		// committed.
		return fateAborted, nil
	case "committed":
		// The row is looked for in a question that begins after that answer.
		return s.seek(ctx, t)
	case "": // too long ago
		return fateUnknown, nil
	default:
		return fateOpen, nil
	}
}

// seek looks for the proof of a transaction. Where it is not found, somebody
// may have changed the row since, or the transaction may be lost.
func (s *Store) seek(ctx context.Context, t *tx) (fate, error) {
	if t.proof.sql == "" {
		return fateUnknown, nil
	}
	full, err := strconv.ParseUint(t.xid, 10, 64)
	if err != nil {
		return fateUnknown, err
	}
	// Rows hold the lower half of the number.
	args := append([]any{strconv.FormatUint(full&0xffffffff, 10)}, t.proof.args...)
	var there bool
	if err := s.pool.QueryRow(ctx, s.sql(t.proof.sql), args...).Scan(&there); err != nil {
		return fateOpen, err
	}
	if there {
		return fateCommitted, nil
	}
	return fateUnknown, nil
}

// lostAtCommit reports whether an answer to COMMIT leaves open what became of
// the transaction: the connection is gone, or the server is about to end it.
func lostAtCommit(err error) bool {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok && (pg.SeverityUnlocalized == "FATAL" || pg.SeverityUnlocalized == "PANIC") {
		return true
	}
	c := code(err)
	return c == "" || c[:min(2, len(c))] == "57" || c[:min(2, len(c))] == "08"
}
