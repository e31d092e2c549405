package fluxly

import "time"

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
