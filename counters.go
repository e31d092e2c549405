package fluxly

import "sync"

// counters are the engine's own figures.
type counters struct {
	mu  sync.Mutex
	sum Counters
}

func (c *counters) add(n Counters) {
	if n == (Counters{}) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s := &c.sum
	s.Events += n.Events
	s.Duplicates += n.Duplicates
	s.Conflicts += n.Conflicts
	s.TrackErrors += n.TrackErrors
	s.Merges += n.Merges
	s.TriggersClosed += n.TriggersClosed
	s.NoKey += n.NoKey
	s.ReEntryRefused += n.ReEntryRefused
	s.TooDeep += n.TooDeep
	s.RunsStarted += n.RunsStarted
	s.RunsEnded += n.RunsEnded
	s.Wakes += n.Wakes
	s.Calls += n.Calls
	s.CallErrors += n.CallErrors
	s.Queued += n.Queued
	s.Accepted += n.Accepted
	s.Refused += n.Refused
	s.Skipped += n.Skipped
	s.Unknown += n.Unknown
	s.Retries += n.Retries
	s.RateWaits += n.RateWaits
	s.AccountErrors += n.AccountErrors
}

// settled counts a mail that came to its end.
func (c *Counters) settled(m *SendRecord) {
	switch m.Status {
	case SendAccepted:
		c.Accepted++
	case SendRefused:
		c.Refused++
	case SendSkipped:
		c.Skipped++
	case SendUnknown:
		c.Unknown++
	case SendQueued, SendSending:
	}
}

// Counters are what an engine has done since it was made, for dashboards: what
// a transaction does counts when it is committed. What was done by engines
// before this one is in the store; see [Engine.Stats].
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
	// RateWaits are mails put off by Config.SendRate.
	RateWaits int64
}

// Counters returns the figures since the engine was made.
func (e *Engine) Counters() Counters {
	e.counters.mu.Lock()
	defer e.counters.mu.Unlock()
	return e.counters.sum
}

// Waiting returns how many calls (Track and the like, and the engine's own
// work) wait for a commit at this moment. It grows when the store is slow: each
// of your calls is held up until it is stored, or until its context ends, and
// nothing else is kept, so what waits is bounded by your callers. Watch it next
// to [Engine.Counters].
func (e *Engine) Waiting() int { return e.writes.Waiting() + e.lanes.count() }
