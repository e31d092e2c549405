package fluxly

import (
	"context"
	"time"
)

// Store keeps all state of an [Engine]: profiles and their ids, events,
// segment memberships, runs with their timers and waits, the send log with the
// queue of mails, suppressions and definitions.
//
// There are three: [NewMemoryStore] for tests, package sqlite, a file for one
// process at a time, and package postgres, for many processes. The suite
// fluxlytest.TestStore is the contract; a store of your own passes it.
//
// All methods may be called from many goroutines.
type Store interface {
	// Update runs fn in one transaction, with writers one after another (or
	// as if). When it returns nil, everything that fn wrote is durable; when
	// it returns an error, nothing of it is stored. fn may be called again
	// with a fresh Tx after a failure that is worth a retry, so it must have
	// no effect besides the Tx. The Tx is dead after fn returned. A panic in
	// fn passes through and stores nothing. fn must not call Update or View.
	Update(ctx context.Context, fn func(Tx) error) error
	// View runs fn on one consistent state. fn must not write.
	View(ctx context.Context, fn func(Tx) error) error
	// Work hands due work to w until ctx ends, each piece at least once, and
	// wakes by itself when a transaction adds work that is due earlier. It
	// returns ctx's error, after every call to w has returned, or the error
	// that made it give up. One Work at a time runs on a store.
	Work(ctx context.Context, w Worker) error
	// Close releases the store; calls after it return [ErrClosed].
	Close() error
}

// ExclusiveStore is a [Store] that at most one process can have open. The
// engine finds it by type assertion, and then takes up mails that a process
// left under way when it died at once, instead of after their claim is over.
type ExclusiveStore interface {
	Store
	// Exclusive reports whether no other process has this store open.
	Exclusive() bool
}

// Worker is what [Store.Work] hands due work to; the engine is one. An error
// is final only when ctx has ended, else the work is handed out again later.
//
// Work also looks for the method of [EndingWorker], and that of an
// [ExclusiveStore] for those of [ExclusiveWorker].
type Worker interface {
	// Now is the worker's clock.
	Now() time.Time
	// Do does a batch of work of one kind. The work is done, put off or
	// claimed (so that [Tx.Due] leaves it out for now) when Do returns. An
	// error that matches [ErrHeld] is about some pieces alone, which stay due.
	Do(ctx context.Context, kind WorkKind, batch []Work) error
}

// EndingWorker is a [Worker] whose calls may leave something under way, such as
// a mail that is with its provider. Work calls End once no call runs and none
// will, and returns only when that has returned.
type EndingWorker interface {
	Worker
	End()
}

// ExclusiveWorker is a [Worker] that is told when it is the only one. Work of
// an [ExclusiveStore] calls Begin once, after it has made sure that no other
// Work runs and before it hands out any work; an error of Begin ends Work, which
// returns it. End is called before another Work may run; not when Begin has
// failed.
type ExclusiveWorker interface {
	EndingWorker
	Begin(ctx context.Context) error
}

// WorkKind is a kind of due work.
type WorkKind string

// The kinds of work. Each kind is handed out in its own lane, so that a slow
// provider never delays a wake-up.
const (
	// WorkWake: a run whose timer is due. ID is the run's.
	WorkWake WorkKind = "wake"
	// WorkCall: a run that stands at a step of the host's own code. ID is the
	// run's.
	WorkCall WorkKind = "call"
	// WorkSegment: a membership that may change by time alone. ID is the
	// profile's, Segment names the segment.
	WorkSegment WorkKind = "segment"
	// WorkSend: a queued mail. ID is its send key.
	WorkSend WorkKind = "send"
)

// Work is one piece of due work.
type Work struct {
	ID      string
	Segment string
	Due     time.Time
}

// Tx is one transaction on a [Store]. It is for one goroutine.
//
// Values handed out belong to the caller, who may change them; values handed
// in are not kept. Methods that look up one thing return nil without an error
// when there is none. Times keep microseconds (finer parts may be cut off) and
// come back in UTC; a time that is not zero lies in the years 1678 to 9999, else
// it may be refused. Texts are UTF-8 without a NUL, else they may be refused.
// The Seq of events grows in the order in which those of one person are stored;
// it may leave numbers out. Values inside
// Properties, Traits, Results and Detail come back in their canonical form. An
// empty list or map comes back nil, except the Traits of a profile, which are
// never nil.
type Tx interface {
	ProfileTx
	EventTx
	RunTx
	SendTx
	PruneTx

	// Due returns up to limit pieces of work of one kind that are due at or
	// before now, earliest first (ties by ID), and the earliest due time
	// after now, which is zero when there is none.
	Due(ctx context.Context, kind WorkKind, now time.Time, limit int) (due []Work, next time.Time, err error)
}

// ProfileTx is the part of a [Tx] about people.
type ProfileTx interface {
	// FindProfiles returns the profiles that own any of the ids, each once,
	// oldest first (CreatedAt, then ID). The ID of a profile is one of its
	// ids, of the kind [UserID].
	FindProfiles(ctx context.Context, ids []Identifier) ([]*Profile, error)
	// Profile returns a profile by its ID.
	Profile(ctx context.Context, id string) (*Profile, error)
	// Profiles lists up to limit profiles with an ID greater than after, in
	// the order of their IDs.
	Profiles(ctx context.Context, after string, limit int) ([]*Profile, error)
	// PutProfile stores a profile whole, with its ids: those it had before
	// and has no more lead nowhere. An id that led to another profile leads
	// to this one from now on.
	PutProfile(ctx context.Context, p *Profile) error
	// MergeProfile moves all rows of one profile (events, runs, sends) to
	// another, drops its memberships, and removes the profile with the ids
	// that lead to it. The other need not exist yet; it is not changed.
	MergeProfile(ctx context.Context, from, into string) error
	// EraseProfile removes a profile and every row that belongs to it, and
	// the suppressions of the addresses given on all streams. It returns how
	// many events went.
	EraseProfile(ctx context.Context, id string, addresses []string) (events int, err error)
	// PutErasure keeps the audit record of an erasure; there is one per ID.
	PutErasure(ctx context.Context, e *ErasureRecord) error
	// Erasures lists the audit records, oldest first (ties by ID).
	Erasures(ctx context.Context) ([]*ErasureRecord, error)

	// Memberships returns the stored memberships of a profile, sorted by
	// segment.
	Memberships(ctx context.Context, profileID string) ([]Membership, error)
	// PutMembership stores one.
	PutMembership(ctx context.Context, m *Membership) error
}

// EventTx is the part of a [Tx] about the event log.
type EventTx interface {
	// PutEvent appends an event and sets its Seq, which only grows: the Seq
	// of an event that was stored is never given again. When the message id
	// is there already it stores nothing, and returns the digest of the
	// stored event and true.
	PutEvent(ctx context.Context, e *StoredEvent) (digest [32]byte, duplicate bool, err error)
	// EventByMessageID returns an event by its message id.
	EventByMessageID(ctx context.Context, messageID string) (*StoredEvent, error)
	// Events returns the events of a profile.
	Events(ctx context.Context, profileID string, q EventQuery) ([]*StoredEvent, error)
	// CountEvents counts the events of a profile with a name that occurred in
	// (since, until], but not beyond limit; limit 0 means all. A zero since
	// or until does not bound.
	CountEvents(ctx context.Context, profileID, name string, since, until time.Time, limit int) (int, error)
}

// RunTx is the part of a [Tx] about runs and definitions.
type RunTx interface {
	// Run returns a run by its ID.
	Run(ctx context.Context, id string) (*Run, error)
	// LiveRuns returns the live runs of a profile, in order of StartedAt,
	// then ID. With an event named, only those that wait for it (Run.Waits)
	// and those whose WakeAt is before overdue (a zero overdue names none).
	LiveRuns(ctx context.Context, profileID, event string, overdue time.Time) ([]*Run, error)
	// LastRun returns the run of an automation, profile and key that started
	// last (ties: the highest ID).
	LastRun(ctx context.Context, automation, profileID, key string) (*Run, error)
	// Runs lists runs in order of StartedAt, then ID.
	Runs(ctx context.Context, q RunQuery) ([]*Run, error)
	// PutRun stores a run whole, with its timer and waits. A live run with a
	// WakeAt is due for [WorkCall] when it is pending a call, else for
	// [WorkWake].
	PutRun(ctx context.Context, r *Run) error
	// AppendLog appends to the log of runs; Seq counts up from 0 in a run and
	// is set by the caller; one that is there already is an error.
	AppendLog(ctx context.Context, entries []LogEntry) error
	// Log returns the log of a run in order of Seq.
	Log(ctx context.Context, runID string) ([]LogEntry, error)
	// CountRuns counts runs by automation, version, step and status. An empty
	// name means all automations. Rows are sorted by these four.
	CountRuns(ctx context.Context, automation string) ([]RunCount, error)
	// CountLog counts log entries by step and code for one automation, sorted
	// by these two.
	CountLog(ctx context.Context, automation string) ([]LogCount, error)

	// PutDefinition keeps one version of an automation; the same version
	// again changes nothing.
	PutDefinition(ctx context.Context, d *Definition) error
	// Definition returns one version.
	Definition(ctx context.Context, automation, version string) (*Definition, error)
}

// SendTx is the part of a [Tx] about mails.
type SendTx interface {
	// PutSend stores a row of the send log whole. While it is queued or in
	// sending and has a DueAt it is due for [WorkSend].
	PutSend(ctx context.Context, s *SendRecord) error
	// Send returns one row by its send key.
	Send(ctx context.Context, key string) (*SendRecord, error)
	// Sends lists rows in order of QueuedAt, then Key.
	Sends(ctx context.Context, q SendQuery) ([]*SendRecord, error)
	// CountSends counts rows by automation, step, status and reason, sorted
	// by these four. An empty name means all automations.
	CountSends(ctx context.Context, automation string) ([]SendCount, error)
	// Suppression returns the suppression of an address on a stream or, when
	// there is none, the one on all streams (Stream empty). Addresses compare
	// without case.
	Suppression(ctx context.Context, address, stream string) (*Suppression, error)
	// PutSuppression stores one; there is one per address and stream.
	PutSuppression(ctx context.Context, s *Suppression) error
	// DeleteSuppression removes the one of this address and stream.
	DeleteSuppression(ctx context.Context, address, stream string) error
	// Suppressions lists all, sorted by address in lower case, then stream.
	Suppressions(ctx context.Context) ([]*Suppression, error)

	// Meter returns what counts towards a limit, by its name. In Update no
	// other transaction has or changes it until this one ends.
	Meter(ctx context.Context, name string) (*Meter, error)
	// PutMeter stores one whole; there is one per name.
	PutMeter(ctx context.Context, m *Meter) error
}

// PruneTx is the part of a [Tx] that removes what is old, a stretch of one table
// at a time: up to q.Limit rows behind q.After are looked at (0: all of them).
// What a transaction removes in this way may still be seen by the look-ups of
// one that runs beside it.
type PruneTx interface {
	// PruneEvents looks at events in order of Seq, and removes those that are
	// Old by q, but for what a live run of their person may look back at (see
	// Run.LooksBack), and for those whose Traits have an "email". More is true when there are rows behind those looked at,
	// and one of these was received before q.Before.
	PruneEvents(ctx context.Context, q PruneQuery) (PruneResult, error)
	// PruneRuns looks at runs that started before q.Before, in order of
	// StartedAt, then ID. Of those that ended before q.Before it removes the
	// log, and the run too when there is one of the same automation, profile
	// and key that started later (ties: with a higher ID), and no mail of it.
	PruneRuns(ctx context.Context, q PruneQuery) (PruneResult, error)
	// PruneSends looks at mails that were queued before q.Before, in order of
	// QueuedAt, then Key, and removes those that were accepted, refused or
	// skipped and whose run is not live.
	PruneSends(ctx context.Context, q PruneQuery) (PruneResult, error)
}

// PruneQuery says what is old, and where to look.
type PruneQuery struct {
	// Before is the instant up to which things are kept.
	Before time.Time
	// Keep are names of events of which those that occurred after an instant
	// are kept as well; the zero time keeps all of them.
	Keep map[string]time.Time
	// After is the Next of the stretch before, zero for the first.
	After PrunePlace
	// Limit is the most rows to look at; 0 means all.
	Limit int
}

// Old reports whether an event may go as far as its age and its name say.
func (q *PruneQuery) Old(name string, occurred, received time.Time) bool {
	if !received.Before(q.Before) {
		return false
	}
	kept, ok := q.Keep[name]
	return !ok || !kept.IsZero() && !occurred.After(kept)
}

// PrunePlace is a place in the order of a table: of events the Seq, else a time
// and an id.
type PrunePlace struct {
	Seq int64
	At  time.Time
	ID  string
}

// PruneResult is what was done in a stretch.
type PruneResult struct {
	// Removed counts events, runs or mails, LogEntries those of the logs of
	// runs.
	Removed, LogEntries int
	// Next is the place of the last row that was looked at, and More whether
	// to go on from there.
	Next PrunePlace
	More bool
}

// Meter is what all processes on a store have used of a limit lately.
type Meter struct {
	Name string `json:"name"`
	// Used are the latest instants at which something counted, oldest first.
	Used []time.Time `json:"used,omitempty"`
	// Queue is the instant up to which those who wait have been given a turn.
	Queue time.Time `json:"queue,omitzero"`
}

// Preloader is a [Tx] that reads ahead: what is named is fetched in few trips to
// the database, and locked where the store locks. It is found by type
// assertion. What it is told are hints: they change no answer, and neither does
// leaving them out.
type Preloader interface {
	Preload(ctx context.Context, hints []Preload) error
}

// WaitTx is a [Tx] of a store in which a transaction may have to wait for
// another one that goes on for as long as its owner likes, such as that of a
// [CallerTx]. It is found by type assertion. A store without it makes its
// callers wait, all that share a commit with one who must.
type WaitTx interface {
	// WaitAtMost is called before anything else. When a lock is not there
	// within the time given, Update of the store rolls back and returns a
	// [*HeldError] at once, which says who is locked where the store can tell.
	WaitAtMost(d time.Duration)
}

// Preload names what one call is about to ask for.
type Preload struct {
	// IDs are those of the person.
	IDs []Identifier
	// MessageID is that of the event to be stored; empty for none.
	MessageID string
	// Signals are what live runs may wait for: LiveRuns is asked with each.
	Signals []string
	// Runs are the automations and keys that LastRun is asked for.
	Runs []RunKey
	// RunID and SendKey are those of a run and a mail; then their person is
	// the one asked about, and the run of the mail is asked for too.
	RunID, SendKey string
	// Overdue is the time with which LiveRuns is asked for what the person's
	// timers are behind with, and then for the memberships; zero: it is not.
	Overdue time.Time
}

// RunKey names the runs of one automation with one key.
type RunKey struct{ Automation, Key string }

// CallerTx is a transaction of the program's own, on the database that an
// engine's store is in: the method Tx of a [Store] that can join one makes it
// (sqlite and postgres have one). It is for one goroutine, and not for after
// the transaction has ended.
type CallerTx interface {
	// Store is the store that made it.
	Store() Store
	// Update runs fn in the transaction, whole or not at all; the transaction
	// goes on either way, and it is the program that commits it or rolls it
	// back. fn may be called again, as by Update of a [Store].
	Update(ctx context.Context, fn func(Tx) error) error
}
