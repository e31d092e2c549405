package postgres

import "time"

// notes are what a transaction made due, for the jobs that see to it.
type notes struct {
	// sends are queued mails with a DueAt; the id is the send key.
	sends []note
	// calls are runs that are pending a call; the id is the run's.
	calls []note
	// ticks are the due times of everything else: wake-ups, memberships,
	// claims of mails in sending.
	ticks []time.Time

	// plan is set when the jobs are inserted.
	plan plan
}

// note is one piece of work of its own.
type note struct {
	id  string
	due time.Time
}

func (n *notes) empty() bool { return len(n.sends)+len(n.calls)+len(n.ticks) == 0 }
