package fluxly

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"strings"
	"time"
)

// session is the work on one person inside one transaction. It holds what was
// read, hands it to the pure decisions, and writes their effects.
//
// The order of things that happen at once is fixed, and the same in every
// replay: timers that were due before, in order of their time; then, for each
// thing that happened in the order in which it happened, the runs under way in
// the order in which they started, each with its exit before its wait; then
// the automations that it starts, in the order of Config. Traits and segments
// are brought up to date before anything is decided by them, and what follows
// from a decision (changed traits, moves between segments) comes after what
// caused it.
type session struct {
	e   *Engine
	ctx context.Context //nolint:containedctx // the transaction's; a session lives no longer
	tx  Tx
	now time.Time
	// at is the instant for which decisions are made: now, or the instant at
	// which a timer was due that is fired late.
	at time.Time

	profile *Profile
	dirty   bool

	queue []happening
	// origin names what the session is about, and n counts what happened in
	// it: together they name each happening the same way in every replay.
	origin string
	n      int
	// seq is the log position of the event that the session is about.
	seq int64

	members map[string]*Membership
	ruleEnv ruleEnv
	// started counts the runs that followed from others, and written are the
	// runs that were written since the last look.
	started int
	written []*Run
	// answers are those of the host's own code in the present ruleEnv.
	answers map[string]bool
	// count counts what the transaction does.
	count *Counters
}

// happening is one thing that concerns a person.
type happening struct {
	signal string
	event  *StoredEvent
	props  Properties
	depth  int
	// at names the happening in ids, so that a run started by it has the same
	// name in every replay.
	at string
}

func (e *Engine) session(ctx context.Context, tx Tx, now time.Time, origin string) *session {
	return &session{e: e, ctx: ctx, tx: tx, count: countOf(tx), now: now, at: now, origin: origin}
}

// of says whom the session is about.
func (s *session) of(p *Profile) *session {
	s.profile = p
	return s
}

// open makes a session for a profile by its id.
func (e *Engine) open(ctx context.Context, tx Tx, now time.Time, profileID, origin string) (*session, error) {
	p, err := tx.Profile(ctx, profileID)
	if err != nil {
		return nil, err
	}
	s := e.session(ctx, tx, now, origin)
	s.profile = p
	return s, nil
}

// runOrigin names the present position of a run.
func runOrigin(r *Run) string {
	return r.ID + "/" + strconv.Itoa(r.Visit) + "/" + strconv.Itoa(r.LogLen)
}

func (s *session) happen(h happening) {
	h.at = s.origin
	if h.event == nil {
		s.n++
		// Behind a character that no message id may hold.
		h.at += "\x00" + strconv.Itoa(s.n)
	}
	s.queue = append(s.queue, h)
}

// merge joins further profiles of the same person into the session's profile.
// Of two live runs of one automation and key the one that started first goes
// on, the other ends.
func (s *session) merge(found []*Profile) error {
	if len(found) < 2 {
		return nil
	}
	for _, other := range found[1:] {
		bothKnown := len(s.profile.ExternalIDs) > 0 && len(other.ExternalIDs) > 0
		mine, err := s.tx.LiveRuns(s.ctx, s.profile.ID, "", time.Time{})
		if err != nil {
			return err
		}
		theirs, err := s.tx.LiveRuns(s.ctx, other.ID, "", time.Time{})
		if err != nil {
			return err
		}
		for _, r := range theirs {
			i := slices.IndexFunc(mine, func(m *Run) bool { return m.Automation == r.Automation && m.Key == r.Key })
			if i < 0 {
				continue
			}
			loser := r
			if byStart(r, mine[i]) < 0 {
				loser = mine[i]
			}
			if err := s.end(loser, RunExited, endMerged); err != nil {
				return err
			}
		}
		if err := s.tx.MergeProfile(s.ctx, other.ID, s.profile.ID); err != nil {
			return err
		}
		s.profile.absorb(other)
		if len(other.Unsubscribed) > 0 || len(s.profile.Unsubscribed) > 0 {
			s.e.doubt(s.tx) // what stops the mail of one of them stops that of both
		}
		s.dirty = true
		s.count.Merges++
		// What two known people did apart was acted on already. The history of
		// an anonymous one was not: it counts as if it had been theirs.
		if err := s.flush(); err != nil {
			return err
		}
		s.members = nil
		if err := s.recheckSegments("", !bothKnown, 0); err != nil {
			return err
		}
	}
	return s.replan()
}

// replan lets the waits until a date follow the traits of a merged profile.
func (s *session) replan() error {
	runs, err := s.tx.LiveRuns(s.ctx, s.profile.ID, "", time.Time{})
	if err != nil {
		return err
	}
	for _, r := range runs {
		if r.Pending == PendingDate {
			if err := s.decide(r, cause{kind: causeReplan}); err != nil {
				return err
			}
		}
	}
	return nil
}

func byStart(a, b *Run) int {
	return cmp.Or(a.StartedAt.Compare(b.StartedAt), strings.Compare(a.ID, b.ID))
}

// changeTraits sets traits and lets what depends on them happen.
func (s *session) changeTraits(change Traits, depth int) error {
	old := s.profile.Traits
	merged, changed := mergeTraits(old, change)
	if len(changed) == 0 {
		return nil
	}
	s.profile.Traits = merged
	s.dirty = true
	for _, name := range changed {
		s.happen(happening{
			signal: traitSignal(name), depth: depth,
			props: Properties{"trait": name, "old": old[name], "new": merged[name]},
		})
	}
	for _, name := range changed {
		if err := s.recheckSegments(traitSignal(name), true, depth); err != nil {
			return err
		}
	}
	return nil
}

// flush writes the profile, so that what is looked up later sees it.
func (s *session) flush() error {
	if !s.dirty {
		return nil
	}
	s.dirty = false
	s.profile.UpdatedAt = s.now
	return s.tx.PutProfile(s.ctx, s.profile)
}

// settle works off all that happened, and what follows from it.
func (s *session) settle() error {
	if err := s.flush(); err != nil {
		return err
	}
	for len(s.queue) > 0 {
		h := s.queue[0]
		s.queue = s.queue[1:]
		if err := s.work(h); err != nil {
			return err
		}
		if err := s.flush(); err != nil {
			return err
		}
	}
	return nil
}

// work does one happening.
func (s *session) work(h happening) error {
	if h.event != nil {
		if err := s.recheckSegments(h.signal, true, h.depth); err != nil {
			return err
		}
	}
	occurred := s.at
	props := h.props
	if h.event != nil {
		occurred, props = h.event.OccurredAt, h.event.Properties
	}
	if s.e.shared || s.e.versions.await(h.signal) {
		runs, err := s.tx.LiveRuns(s.ctx, s.profile.ID, h.signal, time.Time{})
		if err != nil {
			return err
		}
		for _, r := range runs {
			if err := s.decide(r, cause{kind: causeSignal, signal: h.signal, props: props, occurred: occurred}); err != nil {
				return err
			}
		}
	}
	// All triggers are asked before any run starts, because a run may change
	// the traits that the next one asks for.
	var open []*program
	for _, p := range s.e.triggers[h.signal] {
		if p.trigger.open(s.env(props)) {
			open = append(open, p)
		} else {
			s.count.TriggersClosed++
		}
		if err := s.envErr(); err != nil {
			return err
		}
	}
	for _, p := range open {
		en := entry{name: h.signal, messageID: h.at, props: props, occurred: occurred, depth: h.depth, seq: s.seq}
		if _, _, err := s.startRun(p, en); err != nil {
			return err
		}
	}
	return nil
}

// entry is what a run starts from.
type entry struct {
	name, messageID string
	props           Properties
	occurred        time.Time
	seq             int64
	depth           int
	key             string
	keyed           bool
}

// startRun starts a run if the rules of re-entry allow it. It returns the run
// that stands in the way, and true, when they do not.
func (s *session) startRun(p *program, en entry) (run *Run, existed bool, err error) {
	if !en.keyed && p.def.Key != "" {
		v, ok := lookupValue(en.props, p.def.Key)
		if ok {
			en.key, ok = runKeyText(v)
		}
		if !ok {
			s.count.NoKey++
			return nil, false, nil
		}
	}
	last, err := s.tx.LastRun(s.ctx, p.def.Name, s.profile.ID, en.key)
	if err != nil {
		return nil, false, err
	}
	if last != nil {
		refused := last.Status == RunLive
		switch p.def.ReEntry.Kind {
		case "", "once":
			refused = true
		case "after":
			refused = refused || s.at.Sub(last.StartedAt) < p.def.ReEntry.After
		}
		if refused {
			s.count.ReEntryRefused++
			return last, true, nil
		}
	}
	if last != nil && last.Status != RunLive {
		// After a merge the run that started last need not be the live one.
		live, err := s.tx.LiveRuns(s.ctx, s.profile.ID, "", time.Time{})
		if err != nil {
			return nil, false, err
		}
		for _, r := range live {
			if r.Automation == p.def.Name && r.Key == en.key {
				s.count.ReEntryRefused++
				return r, true, nil
			}
		}
	}
	if en.depth > 0 {
		if s.started++; s.started > maxFollowing {
			// Nothing is stored of what goes beyond, or it would be without end.
			s.e.cfg.Logger.Error("automations start one another without end", "automation", p.def.Name, "in one call", s.started)
			s.count.TooDeep++
			return nil, false, nil
		}
	}
	r := &Run{
		ID:         runID(p.def.Name, s.profile.ID, en.key, en.messageID),
		Automation: p.def.Name, Version: p.version, ProfileID: s.profile.ID, Key: en.key,
		Status: RunLive, StartedAt: s.at, EntrySeq: en.seq, Depth: en.depth,
		Entry: EntryEvent{Name: en.name, MessageID: en.messageID, Properties: en.props, OccurredAt: en.occurred},
	}
	if last != nil {
		// The same signal of the same transaction cannot start a run twice, nor
		// can an event that comes again after it was forgotten (see Prune).
		same := last
		if last.ID != r.ID {
			if same, err = s.tx.Run(s.ctx, r.ID); err != nil {
				return nil, false, err
			}
		}
		if same != nil {
			return same, true, nil
		}
	}
	s.count.RunsStarted++
	if en.depth > s.e.cfg.MaxDepth {
		s.e.cfg.Logger.Error("automations start one another without end", "automation", p.def.Name, "depth", en.depth)
		s.count.TooDeep++
		r.Status, r.Reason, r.EndedAt, r.UpdatedAt, r.LogLen = RunFailed, endTooDeep, s.now, s.now, 1
		if err := s.tx.PutRun(s.ctx, r); err != nil {
			return nil, false, err
		}
		return r, false, s.tx.AppendLog(s.ctx, []LogEntry{{
			RunID: r.ID, Automation: r.Automation, At: s.now, Code: logEnded,
			Detail: map[string]any{"reason": endTooDeep, "depth": int64(en.depth)},
		}})
	}
	return r, false, s.decide(r, cause{kind: causeStart})
}

// maxFollowing is how many runs one call may start by the traits that other
// runs set.
const maxFollowing = 100

// endTooDeep: automations that set traits started one another more than
// Config.MaxDepth times in a chain.
const endTooDeep = "too_deep"

// runKeyText is the form of a property's value in a run's key.
func runKeyText(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, v != "" && len(v) <= maxIDLength
	case nil, []any, map[string]any:
		return "", false
	default:
		return string(appendJSON(nil, v)), true
	}
}

// decide runs a decision and writes its effects.
func (s *session) decide(r *Run, c cause) error {
	p, err := s.program(r)
	if err != nil {
		return err
	}
	if p == nil {
		return s.end(r, RunFailed, endLost)
	}
	return s.apply(r, decide(p, r, c, s.at, s))
}

// program returns the version that a run is pinned to; nil when it is nowhere.
func (s *session) program(r *Run) (*program, error) { return s.e.program(s.ctx, s.tx, r) }

// apply writes the effects of a decision.
func (s *session) apply(r *Run, fx effects) error {
	if fx.err != nil {
		return fx.err
	}
	if err := s.envErr(); err != nil {
		return err
	}
	if err := s.tx.PutRun(s.ctx, r); err != nil {
		return err
	}
	s.written = append(s.written, r)
	if len(fx.log) > 0 {
		if err := s.tx.AppendLog(s.ctx, fx.log); err != nil {
			return err
		}
	}
	if fx.mail != nil {
		// The age of a mail, by which it is tried again or given up, counts
		// from when it could go.
		fx.mail.QueuedAt, fx.mail.DueAt = s.now, s.now
		if err := s.tx.PutSend(s.ctx, fx.mail); err != nil {
			return err
		}
		s.count.Queued++
	}
	if fx.cancel != "" {
		if err := s.cancelMail(fx.cancel, fx.cancelReason); err != nil {
			return err
		}
	}
	if fx.ended {
		s.count.RunsEnded++
	}
	return nil
}

// cancelMail takes back a mail that is still queued. One that is under way
// is past taking back; its outcome will be logged.
func (s *session) cancelMail(key, reason string) error {
	m, err := s.tx.Send(s.ctx, key)
	if m != nil && m.Status == SendSending {
		s.e.doubt(s.tx, key) // claimed, but perhaps not given to the sender yet
	}
	if err != nil || m == nil || m.Status != SendQueued {
		return err
	}
	m.Status, m.Reason, m.DueAt, m.SettledAt = SendSkipped, reason, time.Time{}, s.now
	s.count.settled(m)
	return s.tx.PutSend(s.ctx, m)
}

// end ends a run from outside of its steps.
func (s *session) end(r *Run, status RunStatus, reason string) error {
	d := &decision{run: r, now: s.at, f: s}
	r.UpdatedAt = s.at
	d.finish(status, reason, nil)
	return s.apply(r, d.effects)
}

// move brings a run to the present version.
func (s *session) move(r *Run, p *program, rm Removal) error {
	if rm.End {
		if err := s.end(r, RunExited, endRemoved); err != nil {
			return err
		}
		return s.settle()
	}
	if r.Pending == PendingMail {
		if err := s.cancelMail(r.SendKey, logMoved); err != nil {
			return err
		}
	}
	r.Version, r.Step = p.version, rm.MoveTo
	if err := s.apply(r, decide(p, r, cause{kind: causeMove}, s.now, s)); err != nil {
		return err
	}
	return s.settle()
}

// session is the facts of a decision.

var _ facts = (*session)(nil)

func (s *session) setTraits(t Traits, depth int) error { return s.changeTraits(t, depth) }

func (s *session) trait(path string) (any, bool) { return lookupValue(s.profile.Traits, path) }

func (s *session) lookBack(name string, afterSeq int64, accept func(Properties, time.Time) bool) (*StoredEvent, error) {
	const page = 100
	for {
		evs, err := s.tx.Events(s.ctx, s.profile.ID, EventQuery{Name: name, AfterSeq: afterSeq, Limit: page})
		if err != nil {
			return nil, err
		}
		for _, ev := range evs {
			if accept(ev.Properties, ev.OccurredAt) {
				return ev, nil
			}
		}
		if len(evs) < page {
			return nil, nil
		}
		afterSeq = evs[len(evs)-1].Seq
	}
}
