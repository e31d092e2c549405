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

// StoredEvent is an event in the log.
type StoredEvent struct {
	// Seq is the position in the log: the order of receipt.
	Seq       int64  `json:"seq"`
	MessageID string `json:"message_id"`
	ProfileID string `json:"profile_id"`
	Name      string `json:"event"`
	// Properties and Traits are canonical.
	Properties Properties `json:"properties,omitempty"`
	Traits     Traits     `json:"traits,omitempty"`
	// OccurredAt is when it happened, ReceivedAt when it was tracked.
	OccurredAt time.Time `json:"occurred_at"`
	ReceivedAt time.Time `json:"received_at"`
	// Digest tells the same body under the same message id from another.
	Digest [32]byte `json:"-"`
}

// EventQuery chooses events of a profile.
type EventQuery struct {
	// Name, empty for all.
	Name string
	// Since and Until bound the time of occurrence: (Since, Until]. Zero
	// values do not bound.
	Since, Until time.Time
	// AfterSeq leaves out what stands at or before this log position.
	AfterSeq int64
	// Newest orders by occurrence, latest first (ties by Seq, highest first);
	// else the order is Seq.
	Newest bool
	// Limit is the most to return; 0 means all.
	Limit int
}

// Membership is whether a person is in a segment.
type Membership struct {
	ProfileID string `json:"profile_id"`
	Segment   string `json:"segment"`
	Member    bool   `json:"member"`
	// Since is when the answer last changed.
	Since time.Time `json:"since"`
	// CheckAt is the next instant at which it may change by time alone; zero
	// when it cannot.
	CheckAt time.Time `json:"check_at,omitzero"`
}

// RunStatus is the state of a run.
type RunStatus string

// The states of a run.
const (
	// RunLive: the run stands at a step.
	RunLive RunStatus = "live"
	// RunCompleted: it came to the end of its steps.
	RunCompleted RunStatus = "completed"
	// RunExited: it was ended on the way; Reason says by what.
	RunExited RunStatus = "exited"
	// RunFailed: a step failed for good; Reason says which way.
	RunFailed RunStatus = "failed"
)

// Pending is the one thing that a live run waits for.
type Pending string

// What a live run may wait for.
const (
	// PendingTimer: WakeAt.
	PendingTimer Pending = "timer"
	// PendingEvent: an event, until WakeAt.
	PendingEvent Pending = "event"
	// PendingDate: a date in a trait, at present WakeAt; it moves when the
	// trait changes.
	PendingDate Pending = "date"
	// PendingMail: the outcome of the mail named by SendKey.
	PendingMail Pending = "mail"
	// PendingCall: the host's own code; WakeAt is when to call it (again).
	PendingCall Pending = "call"
)

// Run is one person's way through one automation. All of its state is here:
// its timer, what it waits for and where it stands can never disagree,
// because they are written as one row.
type Run struct {
	ID         string    `json:"id"`
	Automation string    `json:"automation"`
	Version    string    `json:"version"`
	ProfileID  string    `json:"profile_id"`
	Key        string    `json:"key,omitempty"`
	Status     RunStatus `json:"status"`
	// Reason says why the run ended; a code such as "exit" or "merged".
	Reason string `json:"reason,omitempty"`
	// Step is the id of the step at which the run stands.
	Step string `json:"step,omitempty"`
	// Visit counts the entries into steps, so that a step that is entered
	// twice gives two send keys.
	Visit     int       `json:"visit"`
	StartedAt time.Time `json:"started_at"`
	UpdatedAt time.Time `json:"updated_at"`
	EndedAt   time.Time `json:"ended_at,omitzero"`
	// Entry is the event that started the run; EntrySeq its log position.
	Entry    EntryEvent `json:"entry"`
	EntrySeq int64      `json:"entry_seq"`
	// Pending, WakeAt, SendKey: what a live run waits for.
	Pending Pending   `json:"pending,omitempty"`
	WakeAt  time.Time `json:"wake_at,omitzero"`
	SendKey string    `json:"send_key,omitempty"`
	// Waits are the names of the events that a live run wants to see: that of
	// its wait and those of its exit. Sorted, no name twice.
	Waits []string `json:"waits,omitempty"`
	// WaitSince is the time of occurrence from which on an event counts for
	// the wait.
	WaitSince time.Time `json:"wait_since,omitzero"`
	// Attempts counts the tries of the present step's call.
	Attempts int `json:"attempts,omitempty"`
	// Results holds what the host's own code returned, by step id.
	Results map[string]any `json:"results,omitempty"`
	// Depth counts the automations that led to this run one from another.
	Depth int `json:"depth,omitempty"`
	// LogLen is the number of log entries written.
	LogLen int `json:"log_len"`
}

// LooksBack reports whether the run may still ask for an event, by its place in
// the log and its time: one that is live may, for those stored since its entry,
// and for those that occurred since.
func (r *Run) LooksBack(seq int64, occurred time.Time) bool {
	if r.Status != RunLive {
		return false
	}
	entry := r.StartedAt
	if at := r.Entry.OccurredAt; !at.IsZero() && at.Before(entry) {
		entry = at
	}
	return seq >= r.EntrySeq || !occurred.Before(entry)
}

// EntryEvent is the event that started a run, as templates and conditions see
// it.
type EntryEvent struct {
	Name       string     `json:"name,omitempty"`
	MessageID  string     `json:"message_id,omitempty"`
	Properties Properties `json:"properties,omitempty"`
	OccurredAt time.Time  `json:"occurred_at,omitzero"`
}

// RunQuery chooses runs. Empty fields do not choose.
type RunQuery struct {
	Automation string
	ProfileID  string
	Status     RunStatus
	Step       string
	// AfterID and AfterStarted continue a listing behind its last row.
	AfterStarted time.Time
	AfterID      string
	// Limit is the most to return; 0 means all.
	Limit int
}

// LogEntry is one line in the log of a run.
type LogEntry struct {
	RunID      string    `json:"run_id"`
	Automation string    `json:"automation"`
	Seq        int       `json:"seq"`
	At         time.Time `json:"at"`
	Step       string    `json:"step,omitempty"`
	// Code says what happened, such as "started", "waiting", "branch",
	// "queued", "exited".
	Code string `json:"code"`
	// Detail holds the values looked at.
	Detail map[string]any `json:"detail,omitempty"`
}

// RunCount is a number of runs.
type RunCount struct {
	Automation string    `json:"automation"`
	Version    string    `json:"version"`
	Step       string    `json:"step,omitempty"`
	Status     RunStatus `json:"status"`
	Count      int       `json:"count"`
}

// LogCount is a number of log entries.
type LogCount struct {
	Step  string `json:"step,omitempty"`
	Code  string `json:"code"`
	Count int    `json:"count"`
}

// Definition is one version of an automation, as runs are pinned to it.
type Definition struct {
	Automation string    `json:"automation"`
	Version    string    `json:"version"`
	JSON       []byte    `json:"json"`
	CreatedAt  time.Time `json:"created_at"`
}

// SendStatus is the state of a mail.
type SendStatus string

// The states of a mail.
const (
	// SendQueued: waits for its time.
	SendQueued SendStatus = "queued"
	// SendSending: claimed; the provider may have it. After a crash its
	// outcome is unknown.
	SendSending SendStatus = "sending"
	// SendAccepted: the provider took it.
	SendAccepted SendStatus = "accepted"
	// SendRefused: the provider refused it for good, or the budget of tries
	// ended.
	SendRefused SendStatus = "refused"
	// SendSkipped: fluxly did not hand it over; Reason says why.
	SendSkipped SendStatus = "skipped"
	// SendUnknown: the reply was lost and nobody could say.
	SendUnknown SendStatus = "unknown"
)

// SendRecord is one mail in the send log; while it is queued it is also the
// queue.
type SendRecord struct {
	Key        string `json:"key"`
	RunID      string `json:"run_id"`
	Automation string `json:"automation"`
	Step       string `json:"step"`
	ProfileID  string `json:"profile_id"`
	Email      string `json:"email"`
	// To, Stream and Subject are set when the mail was composed.
	To      string     `json:"to,omitempty"`
	Stream  string     `json:"stream,omitempty"`
	Subject string     `json:"subject,omitempty"`
	Status  SendStatus `json:"status"`
	// Reason is the code of a mail that did not go, such as "consent".
	Reason string `json:"reason,omitempty"`
	// Detail is the text behind Reason, or the last error.
	Detail   string    `json:"detail,omitempty"`
	QueuedAt time.Time `json:"queued_at"`
	// DueAt is when a queued mail goes, or when the claim of a mail in
	// sending ends. Zero once the mail is settled.
	DueAt time.Time `json:"due_at,omitzero"`
	// Owner names the process that claimed it last, at ClaimedAt.
	Owner     string    `json:"owner,omitempty"`
	ClaimedAt time.Time `json:"claimed_at,omitzero"`
	Attempts  int       `json:"attempts,omitempty"`
	// FailingSince is when the first of its temporary failures in a row was;
	// those of the account do not count.
	FailingSince time.Time `json:"failing_since,omitzero"`
	SettledAt    time.Time `json:"settled_at,omitzero"`
	Receipt      Receipt   `json:"receipt,omitzero"`
	// BodyHash is the SHA-256 of the mail as handed over, in hex; Body the
	// mail itself where the engine was told to keep it.
	BodyHash string `json:"body_hash,omitempty"`
	Body     []byte `json:"body,omitempty"`
	// Events are the provider's later notices, in order of time.
	Events []ProviderEvent `json:"events,omitempty"`
}

// ProviderEvent is a provider's notice about a mail: delivery, open, bounce.
type ProviderEvent struct {
	// Kind is the provider's word for it, such as "Delivery"; Key tells the
	// notice from others, also when it comes again.
	Kind   string         `json:"kind"`
	Key    string         `json:"key,omitempty"`
	At     time.Time      `json:"at"`
	Detail map[string]any `json:"detail,omitempty"`
}

// SendQuery chooses rows of the send log. Empty fields do not choose.
type SendQuery struct {
	Automation string
	ProfileID  string
	RunID      string
	Status     SendStatus
	// AfterQueued and AfterKey continue a listing behind its last row.
	AfterQueued time.Time
	AfterKey    string
	// Limit is the most to return; 0 means all.
	Limit int
}

// SendCount is a number of mails.
type SendCount struct {
	Automation string     `json:"automation"`
	Step       string     `json:"step"`
	Status     SendStatus `json:"status"`
	Reason     string     `json:"reason,omitempty"`
	Count      int        `json:"count"`
}

// Suppression is an address that must not be written to.
type Suppression struct {
	// Address compares without case.
	Address string `json:"address"`
	// Stream is the Message Stream; empty means all streams.
	Stream string `json:"stream,omitempty"`
	// Reason is Postmark's word: HardBounce, SpamComplaint,
	// ManualSuppression.
	Reason string `json:"reason"`
	// Origin says who set it: Recipient, Customer or Admin.
	Origin string    `json:"origin,omitempty"`
	At     time.Time `json:"at"`
}

// ErasureRecord is what stays of an erased person: that it happened.
type ErasureRecord struct {
	ID        string        `json:"id"`
	Reason    ErasureReason `json:"reason"`
	RequestID string        `json:"request_id,omitempty"`
	At        time.Time     `json:"at"`
	Profiles  int           `json:"profiles"`
	Events    int           `json:"events"`
}
