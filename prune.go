package fluxly

import (
	"context"
	"fmt"
	"time"
)

// Retention says for how long [Engine.Prune] keeps what nothing needs any more.
// The zero value of a field keeps for ever; the shortest time is [Day].
type Retention struct {
	// Events is for how long an event is kept after it was received. What
	// conditions count and what live runs may look back at stays longer; one that
	// set the trait "email" stays for ever, so that Erase knows all addresses that
	// a person ever had. So long an event's message id is known too: one that is
	// tracked again later is a new event.
	Events time.Duration
	// Runs is for how long the log of a run is kept after it ended. The run
	// itself stays, so that the same person does not enter again; it goes only
	// when the person has been through the automation once more, and its mails
	// are gone.
	Runs time.Duration
	// Mails is for how long a mail is kept in the send log after it was
	// queued. One stays longer that is not settled, whose outcome is unknown,
	// or whose run has not ended.
	Mails time.Duration
}

// Pruned counts what [Engine.Prune] removed.
type Pruned struct {
	Events, LogEntries, Runs, Mails int
}

// pruneStretch is how many rows one transaction of Prune looks at.
const pruneStretch = 1000

// Prune removes what is older than r says and has no bearing on any decision to
// come: with it or without, the same mails go to the same people. (One case is
// left: two profiles that are merged later, when one has a run that has lived
// for longer than events are kept, and waits for what the other did; and an event
// that is tracked with a Timestamp older than events are kept, for what is counted
// SinceEntry of the run that it starts.) Call it now
// and then, such as once a night, from one process; Run need not be running, and
// other calls go on meanwhile, because it works in transactions of a thousand
// rows. [Engine.Stats] and [Engine.Explain] know afterwards what is left.
//
// Events that an automation or a segment counts without Within stay for ever,
// those with Within for that time, by the definitions of today and those that
// live runs are pinned to. A condition that is written later finds what is left.
//
// It returns what was removed, also beside an error: then call it again. A time
// shorter than a day is a [*FieldError]; an engine of an older release, which
// cannot read the definition that some run is pinned to, removes nothing.
func (e *Engine) Prune(ctx context.Context, r Retention) (Pruned, error) {
	var done Pruned
	for _, f := range []struct {
		name string
		d    time.Duration
	}{{"events", r.Events}, {"runs", r.Runs}, {"mails", r.Mails}} {
		if f.d != 0 && f.d < Day {
			return done, fieldErrorf("retention."+f.name, f.d.String(), "is shorter than a day; 0 keeps for ever")
		}
	}
	if err := e.checkOpen(); err != nil {
		return done, err
	}
	now := e.now()
	for _, table := range []struct {
		name    string
		age     time.Duration
		removed *int
		stretch func(Tx, context.Context, PruneQuery) (PruneResult, error)
	}{
		{"events", r.Events, &done.Events, Tx.PruneEvents},
		{"mails", r.Mails, &done.Mails, Tx.PruneSends}, // before their runs, which stay as long
		{"runs", r.Runs, &done.Runs, Tx.PruneRuns},
	} {
		if table.age == 0 {
			continue
		}
		q := PruneQuery{Before: now.Add(-table.age)}
		var err error
		if table.name == "events" {
			q.Keep, err = e.counted(ctx, now)
		}
		if err == nil {
			var entries int
			*table.removed, entries, err = e.prune(ctx, q, table.stretch)
			done.LogEntries += entries
		}
		if err != nil {
			return done, fmt.Errorf("prune %s: %w", table.name, err)
		}
	}
	return done, nil
}

// prune goes through one table.
func (e *Engine) prune(ctx context.Context, q PruneQuery, stretch func(Tx, context.Context, PruneQuery) (PruneResult, error)) (removed, entries int, err error) {
	q.Before, q.Limit = stored(q.Before), pruneStretch
	for {
		var res PruneResult
		err := e.store.Update(ctx, func(tx Tx) (err error) {
			res, err = stretch(tx, ctx, q)
			return err
		})
		if err != nil {
			return removed, entries, err
		}
		removed += res.Removed
		entries += res.LogEntries
		if !res.More {
			return removed, entries, nil
		}
		q.After = res.Next
	}
}

// counted are the events that conditions count, and since when; the zero time is
// since ever.
func (e *Engine) counted(ctx context.Context, now time.Time) (map[string]time.Time, error) {
	var programs []*program
	for _, p := range e.current {
		programs = append(programs, p)
	}
	horizon := now.Add(-maxSkew) // another process may have a clock that is behind
	err := e.store.View(ctx, func(tx Tx) error {
		counts, err := tx.CountRuns(ctx, "")
		if err != nil {
			return err
		}
		for _, c := range counts {
			if c.Status != RunLive {
				continue
			}
			// One that is nowhere to be found ends its runs when they are met.
			p, err := e.program(ctx, tx, &Run{Automation: c.Automation, Version: c.Version})
			if err != nil {
				return err
			}
			if p != nil {
				programs = append(programs, p)
			}
		}
		// What is overdue is decided as of the time when it was due.
		for _, kind := range workKinds {
			due, _, err := tx.Due(ctx, kind, now, 1)
			if err != nil {
				return err
			}
			if len(due) > 0 && due[0].Due.Before(horizon) {
				horizon = due[0].Due
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	keep := map[string]time.Time{}
	visit := func(event string, window time.Duration) {
		var since time.Time
		if window > 0 {
			since = horizon.Add(-window)
		}
		if known, ok := keep[event]; !ok || since.Before(known) {
			keep[event] = since
		}
	}
	for _, s := range e.segments.list {
		s.rule.r.LooksBack(visit)
	}
	for _, p := range programs {
		p.looksBack(visit)
	}
	return keep, nil
}

// looksBack visits the counts of all conditions of an automation.
func (p *program) looksBack(visit func(event string, window time.Duration)) {
	gates := []gate{p.trigger, p.exit}
	for i := range p.nodes {
		gates = append(gates, p.nodes[i].where)
		for _, path := range p.nodes[i].paths {
			gates = append(gates, gate{rules: []*rule{path.when}})
		}
	}
	for _, g := range gates {
		for _, r := range g.rules {
			r.r.LooksBack(visit)
		}
	}
}
