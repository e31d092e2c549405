package fluxly

import "sync/atomic"

// counters are the engine's own figures.
type counters struct {
	events, duplicates, conflicts, trackErrors, merges atomic.Int64

	triggersClosed, noKey, reentryRefused, tooDeep atomic.Int64
	runsStarted, runsEnded, wakes                  atomic.Int64
	calls, callErrors                              atomic.Int64

	queued, accepted, refused, skipped, unknown, retries, accountErrors atomic.Int64
}

// settled counts a mail that came to its end.
func (c *counters) settled(m *SendRecord) {
	switch m.Status {
	case SendAccepted:
		c.accepted.Add(1)
	case SendRefused:
		c.refused.Add(1)
	case SendSkipped:
		c.skipped.Add(1)
	case SendUnknown, SendQueued, SendSending:
	}
}

// Counters are what an engine has done since it was made. They are for
// dashboards: a transaction that had to be repeated may count twice. What is
// exact is in the store; see [Engine.Stats].
type Counters struct {
	// Events were tracked; Duplicates came again with the same message id,
	// Conflicts with another body; TrackErrors are all calls that failed.
	Events, Duplicates, Conflicts, TrackErrors int64
	// Merges of two profiles into one.
	Merges int64
	// TriggersClosed are events whose trigger had a condition that did not
	// hold; NoKey those without the property that Automation.Key names;
	// ReEntryRefused those of people who may not enter (again); TooDeep chains
	// of automations that were cut.
	TriggersClosed, NoKey, ReEntryRefused, TooDeep int64
	RunsStarted, RunsEnded                         int64
	// Wakes are timers that fired.
	Wakes int64
	// Calls of the host's own code, and how many of them failed.
	Calls, CallErrors int64
	// Mails by outcome. Retries are mails put back into the queue;
	// AccountErrors hand-overs that failed for a reason that concerns all
	// mails.
	Queued, Accepted, Refused, Skipped, Unknown, Retries, AccountErrors int64
}

// Counters returns the figures since the engine was made.
func (e *Engine) Counters() Counters {
	c := &e.counters
	return Counters{
		Events: c.events.Load(), Duplicates: c.duplicates.Load(), Conflicts: c.conflicts.Load(), TrackErrors: c.trackErrors.Load(),
		Merges:         c.merges.Load(),
		TriggersClosed: c.triggersClosed.Load(), NoKey: c.noKey.Load(), ReEntryRefused: c.reentryRefused.Load(), TooDeep: c.tooDeep.Load(),
		RunsStarted: c.runsStarted.Load(), RunsEnded: c.runsEnded.Load(), Wakes: c.wakes.Load(),
		Calls: c.calls.Load(), CallErrors: c.callErrors.Load(),
		Queued: c.queued.Load(), Accepted: c.accepted.Load(), Refused: c.refused.Load(), Skipped: c.skipped.Load(),
		Unknown: c.unknown.Load(), Retries: c.retries.Load(), AccountErrors: c.accountErrors.Load(),
	}
}
