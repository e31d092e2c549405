package fluxly

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/getfluxly/fluxly/internal/value"
)

// A decision is a pure function: from a definition, a run, what happened and
// what is known at that moment, to the new run and effects as data. It reads
// no clock and does no I/O of its own; what it must look up comes through
// facts. The same function serves live engines, tests under a virtual clock,
// and explanations.

// cause is what a run is looked at for.
type cause struct {
	kind causeKind
	// signal is the name of what happened, and occurred when, for an event.
	signal   string
	props    Properties
	occurred time.Time
	// mail is the outcome of the mail that the run waits for.
	mail *SendRecord
	// result and err are the outcome of a call of the host's code.
	result any
	err    string
	retry  time.Time
}

type causeKind int

const (
	causeStart causeKind = iota
	causeSignal
	causeTimer
	causeMail
	causeCall
	causeMove
	causeReplan
)

// facts is what a decision may look at besides the run.
type facts interface {
	// env returns the environment for conditions that see the given
	// properties as those of "the event".
	env(props Properties) *ruleEnv
	// lookBack finds the first event of a name after a log position that
	// opens the gate.
	lookBack(name string, afterSeq int64, accept func(Properties, time.Time) bool) (*StoredEvent, error)
	// setTraits changes the profile and its segments for all that is decided
	// from here on. What they start comes after this decision.
	setTraits(t Traits, depth int) error
	// trait returns the present value of a trait, by its dotted path.
	trait(path string) (any, bool)
}

// effects are what a decision wants done, as data.
type effects struct {
	log  []LogEntry
	mail *SendRecord
	// cancel is the send key of a mail that must not go any more, and why.
	cancel, cancelReason string
	ended                bool
	err                  error
}

// The codes of the log of a run.
const (
	logStarted   = "started"
	logWaiting   = "waiting"
	logWoke      = "woke"
	logEvent     = "event_came"
	logFoundPast = "event_found"
	logTimeout   = "timed_out"
	logDateMoved = "date_moved"
	logDateNone  = "date_missing"
	logDatePast  = "date_past"
	logBranch    = "branch"
	logQueued    = "queued"
	logMail      = "mail"
	logSet       = "traits_set"
	logCalling   = "calling"
	logCalled    = "called"
	logCallRetry = "call_failed"
	logMoved     = "moved"
	logEnded     = "ended"
)

// The reasons for which runs end.
const (
	endCompleted  = "completed"
	endStep       = "end_step"
	endExit       = "exit"
	endMerged     = "merged"
	endDate       = "date"
	endMailFailed = "mail_failed"
	endCallFailed = "call_failed"
	endRemoved    = "step_removed"
	endLost       = "definition_lost"
)

// decision is one run of the function.
type decision struct {
	p   *program
	run *Run
	now time.Time
	f   facts
	effects
}

// decide changes run, which the caller owns, and returns the effects.
func decide(p *program, run *Run, c cause, now time.Time, f facts) effects {
	d := &decision{p: p, run: run, now: now, f: f}
	if run.Status != RunLive {
		return d.effects
	}
	run.UpdatedAt = now
	if _, n := d.here(); n == nil && c.kind != causeStart && c.kind != causeMove {
		// A run at a step that its definition does not have could only wait
		// for ever.
		d.finish(RunFailed, endLost, nil)
		return d.effects
	}
	switch c.kind {
	case causeStart:
		d.note("", logStarted, map[string]any{"event": run.Entry.Name})
		d.enter(p.start())
	case causeSignal:
		d.signal(c)
	case causeTimer:
		d.timer()
	case causeMail:
		d.mailSettled(c.mail)
	case causeCall:
		d.called(c)
	case causeMove:
		d.moved()
	case causeReplan:
		if _, n := d.here(); run.Pending == PendingDate && n.step.Date.isTrait() {
			d.plan(n, true)
		}
	}
	if d.err == nil {
		d.armWaits()
	}
	return d.effects
}

func (d *decision) note(step, code string, detail map[string]any) {
	d.log = append(d.log, LogEntry{
		RunID: d.run.ID, Automation: d.run.Automation, Seq: d.run.LogLen, At: d.now,
		Step: step, Code: code, Detail: detail,
	})
	d.run.LogLen++
}

// here returns the node at which the run stands.
func (d *decision) here() (int, *node) {
	i, ok := d.p.at(d.run.Step)
	if !ok {
		return end, nil
	}
	return i, &d.p.nodes[i]
}

// signal handles an event, a changed trait or a segment move. Exit comes
// first: a run that an event ends does not also go on by it.
func (d *decision) signal(c cause) {
	if d.p.def.Exit.signal() == c.signal && d.p.exit.open(d.env(c.props)) {
		d.finish(RunExited, endExit, map[string]any{"by": c.signal})
		return
	}
	_, n := d.here()
	if n == nil {
		return
	}
	switch d.run.Pending {
	case PendingEvent:
		if n.step.Event != c.signal || c.occurred.Before(d.run.WaitSince) || !d.accepts(n, c.props) {
			return
		}
		d.note(n.id, logEvent, map[string]any{"event": c.signal})
		d.rest()
		d.enter(n.yes)
	case PendingDate:
		if !n.step.Date.isTrait() || c.signal != traitSignal(rootKey(n.step.Date.Name())) {
			return
		}
		d.plan(n, true)
	case PendingTimer, PendingMail, PendingCall:
	}
}

// accepts reports whether the properties of an event fit the wait of a node.
func (d *decision) accepts(n *node, props Properties) bool {
	if key := n.step.MatchKey; key != "" {
		got, ok := lookupValue(props, key)
		want, wanted := lookupValue(d.run.Entry.Properties, key)
		if !ok || !wanted || !equalValues(got, want) {
			return false
		}
	}
	return n.where.open(d.env(props))
}

func (d *decision) timer() {
	_, n := d.here()
	if n == nil || d.run.WakeAt.IsZero() || d.run.WakeAt.After(d.now) {
		return
	}
	switch d.run.Pending {
	case PendingTimer, PendingDate:
		d.note(n.id, logWoke, nil)
		d.rest()
		d.enter(n.next)
	case PendingEvent:
		d.note(n.id, logTimeout, nil)
		d.rest()
		d.enter(n.no)
	case PendingMail, PendingCall:
	}
}

func (d *decision) mailSettled(m *SendRecord) {
	_, n := d.here()
	if n == nil || d.run.Pending != PendingMail || d.run.SendKey != m.Key {
		return
	}
	detail := map[string]any{"status": string(m.Status)}
	if m.Reason != "" {
		detail["reason"] = m.Reason
	}
	d.note(n.id, logMail, detail)
	d.rest()
	if m.Status == SendRefused && d.p.def.OnRefused == EndRun {
		d.finish(RunFailed, endMailFailed, nil)
		return
	}
	d.enter(n.next)
}

func (d *decision) called(c cause) {
	_, n := d.here()
	if n == nil || d.run.Pending != PendingCall {
		return
	}
	if c.err != "" {
		d.run.Attempts++
		d.note(n.id, logCallRetry, map[string]any{"error": c.err, "attempt": int64(d.run.Attempts)})
		if c.retry.IsZero() {
			d.finish(RunFailed, endCallFailed, nil)
			return
		}
		d.run.WakeAt = c.retry
		return
	}
	d.note(n.id, logCalled, map[string]any{"result": c.result})
	if d.run.Results == nil {
		d.run.Results = map[string]any{}
	}
	d.run.Results[n.id] = c.result
	d.rest()
	d.enter(n.next)
}

// moved enters the step that the caller has set, in the present version.
func (d *decision) moved() {
	i, n := d.here()
	if n == nil {
		d.finish(RunFailed, endLost, nil)
		return
	}
	d.note(n.id, logMoved, map[string]any{"version": d.p.version})
	d.withdraw("moved")
	d.rest()
	d.enter(i)
}

// rest clears what the run waited for.
func (d *decision) rest() {
	r := d.run
	r.Pending, r.WakeAt, r.WaitSince, r.SendKey, r.Attempts = "", time.Time{}, time.Time{}, "", 0
}

// withdraw takes back a mail that is queued for the run.
func (d *decision) withdraw(reason string) {
	if d.run.Pending == PendingMail {
		d.cancel, d.cancelReason = d.run.SendKey, reason
	}
}

func (d *decision) finish(status RunStatus, reason string, detail map[string]any) {
	d.withdraw(reason)
	if detail == nil {
		detail = map[string]any{}
	}
	detail["reason"] = reason
	d.note(d.run.Step, logEnded, detail)
	d.rest()
	d.run.Status, d.run.Reason, d.run.EndedAt = status, reason, d.now
	d.run.Waits = nil
	d.ended = true
}

// enter walks from node i until the run waits for something or ends. A
// program has no way back, so the walk ends.
func (d *decision) enter(i int) {
	for d.err == nil {
		if i == end {
			d.finish(RunCompleted, endCompleted, nil)
			return
		}
		n := &d.p.nodes[i]
		d.run.Step = n.id
		d.run.Visit++
		switch n.step.Kind {
		case StepSend:
			d.queue(n)
			return
		case StepWait:
			d.wait(n, PendingTimer, d.now.Add(n.step.Duration))
			return
		case StepWaitFor:
			next, waits := d.waitFor(n)
			if waits {
				return
			}
			i = next
		case StepWaitUntil:
			if d.plan(n, false) {
				return
			}
			i = n.next
		case StepBranch:
			i = d.branch(n)
		case StepSetTraits:
			d.note(n.id, logSet, map[string]any{"traits": map[string]any(n.step.Set)})
			d.err = d.f.setTraits(n.step.Set, d.run.Depth+1)
			i = n.next
		case StepDo:
			if v, ok := d.run.Results[n.id]; ok {
				d.note(n.id, logCalled, map[string]any{"result": v, "stored": true})
				i = n.next
				continue
			}
			d.run.Pending, d.run.WakeAt = PendingCall, d.now
			d.note(n.id, logCalling, nil)
			return
		case StepEnd:
			d.finish(RunCompleted, endStep, nil)
			return
		}
	}
}

func (d *decision) wait(n *node, p Pending, until time.Time) {
	d.run.Pending, d.run.WakeAt = p, until
	d.note(n.id, logWaiting, map[string]any{"until": until.UTC().Format(time.RFC3339Nano)})
}

func (d *decision) waitFor(n *node) (next int, waits bool) {
	if n.step.FromEntry {
		ev, err := d.f.lookBack(n.step.Event, d.run.EntrySeq, func(p Properties, at time.Time) bool {
			return !at.Before(d.run.Entry.OccurredAt) && d.accepts(n, p)
		})
		if err != nil {
			d.err = err
			return end, true
		}
		if ev != nil {
			d.note(n.id, logFoundPast, map[string]any{"event": ev.Name, "occurred_at": ev.OccurredAt.UTC().Format(time.RFC3339Nano)})
			return n.yes, false
		}
	}
	d.run.WaitSince = d.run.Entry.OccurredAt
	d.wait(n, PendingEvent, d.now.Add(n.step.Duration))
	return 0, true
}

// plan sets the instant of a wait until a date; it reports whether the run
// waits. During the wait, again is true: the date has changed.
func (d *decision) plan(n *node, again bool) (waits bool) {
	var v any
	var ok bool
	if n.step.Date.isTrait() {
		v, ok = d.f.trait(n.step.Date.Name())
	} else {
		v, ok = lookupValue(d.run.Entry.Properties, n.step.Date.Name())
	}
	var at time.Time
	if ok {
		at, ok = value.Time(v)
	}
	if ok {
		// A date that nobody will live to see is none, and cannot be stored.
		year := at.Add(n.step.Duration).Year()
		ok = year >= 1 && year < 9999
	}
	rule, code := n.step.Missing, logDateNone
	if ok {
		at = at.Add(n.step.Duration)
		switch {
		case again && at.Equal(d.run.WakeAt):
			return true
		case at.After(d.now):
			if again {
				d.note(n.id, logDateMoved, map[string]any{"until": at.UTC().Format(time.RFC3339Nano)})
				d.run.WakeAt = at
				return true
			}
			d.wait(n, PendingDate, at)
			return true
		case again:
			// The wait began in time and its date moved to the past: it ends
			// like any wait that is over, at once.
			d.note(n.id, logDateMoved, map[string]any{"until": at.UTC().Format(time.RFC3339Nano)})
			d.run.WakeAt = d.now
			d.timer()
			return true
		}
		rule, code = n.step.Past, logDatePast
	}
	d.note(n.id, code, map[string]any{"date": n.step.Date.String()})
	if rule == EndAtDate {
		d.finish(RunExited, endDate, nil)
		return true
	}
	if again {
		d.rest()
		d.enter(n.next)
		return true
	}
	return false
}

// env is what the conditions of the run see: besides the facts, its entry.
func (d *decision) env(props Properties) *ruleEnv {
	env := d.f.env(props)
	env.Entry = d.run.Entry.OccurredAt
	if env.Entry.IsZero() {
		env.Entry = d.run.StartedAt
	}
	return env
}

func (d *decision) branch(n *node) int {
	env := d.env(d.run.Entry.Properties)
	for k := range n.paths {
		if n.paths[k].when.eval(env) {
			d.noteBranch(n, env, k)
			return n.paths[k].at
		}
	}
	d.noteBranch(n, env, -1)
	return n.no
}

// noteBranch writes which path was taken and each condition that was looked
// at, with its values.
func (d *decision) noteBranch(n *node, env *ruleEnv, taken int) {
	path := "else"
	last := len(n.paths) - 1
	if taken >= 0 {
		path, last = n.paths[taken].text, taken
	}
	seen := make([]any, 0, last+1)
	for k := 0; k <= last; k++ {
		seen = append(seen, n.paths[k].when.explain(env).String())
	}
	d.note(n.id, logBranch, map[string]any{"path": path, "because": seen})
}

func (d *decision) queue(n *node) {
	key := sendKey(d.run.ID, n.id, d.run.Visit)
	d.run.Pending, d.run.SendKey = PendingMail, key
	d.mail = &SendRecord{
		Key: key, RunID: d.run.ID, Automation: d.run.Automation, Step: n.id, ProfileID: d.run.ProfileID,
		Email: n.step.Email, Status: SendQueued, QueuedAt: d.now, DueAt: d.now,
	}
	d.note(n.id, logQueued, map[string]any{"send_key": key})
}

// armWaits names what the run wants to see from now on.
func (d *decision) armWaits() {
	r := d.run
	r.Waits = r.Waits[:0]
	if r.Status != RunLive {
		r.Waits = nil
		return
	}
	if s := d.p.def.Exit.signal(); s != "" {
		r.Waits = append(r.Waits, s)
	}
	if _, n := d.here(); n != nil {
		switch {
		case r.Pending == PendingEvent:
			r.Waits = append(r.Waits, n.step.Event)
		case r.Pending == PendingDate && n.step.Date.isTrait():
			r.Waits = append(r.Waits, traitSignal(rootKey(n.step.Date.Name())))
		}
	}
	slices.Sort(r.Waits)
	r.Waits = slices.Compact(r.Waits)
}

// The names of things are derived from what caused them, so that the same
// history gives the same names in every store and every replay.

var idEncoding = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

func deriveID(prefix string, parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		_, _ = h.Write([]byte(strconv.Itoa(len(p))))
		_, _ = h.Write([]byte{':'})
		_, _ = h.Write([]byte(p))
	}
	return prefix + idEncoding.EncodeToString(h.Sum(nil)[:15])
}

func runID(automation, profileID, key, messageID string) string {
	return deriveID("run_", automation, profileID, key, messageID)
}

// sendKey names a mail for good: run, visit and step. It fits into a Postmark
// metadata value (80 characters), and sorts in the order of a run.
func sendKey(run, step string, visit int) string {
	return run + "/" + fmt.Sprintf("%04d", visit) + "/" + step
}

// mergeTraits applies changes to traits: nil removes a key. It returns the
// new traits, which share nothing with the old, and the names that changed.
func mergeTraits(old, change Traits) (Traits, []string) {
	var changed []string
	for k, v := range change {
		was, had := old[k]
		if v == nil && had || v != nil && (!had || !equalValues(was, v)) {
			changed = append(changed, k)
		}
	}
	if len(changed) == 0 {
		return old, nil
	}
	slices.Sort(changed)
	out := make(Traits, len(old)+len(changed))
	maps.Copy(out, old)
	for _, k := range changed {
		if v := change[k]; v == nil {
			delete(out, k)
		} else {
			out[k] = v
		}
	}
	return out, changed
}
