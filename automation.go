package fluxly

import (
	"slices"
	"time"
)

// Automation is one journey: what starts it, what ends it early, and its
// steps. It is data: it can be printed, compared, stored as JSON and drawn.
//
// Every automation is checked by [New], which reports all mistakes at once. A
// run keeps the definition it started with, also after a new deployment.
type Automation struct {
	// Name is lower-case letters, digits, "-" and "_", at most 40 characters.
	// It names the automation for good: runs, the send log and re-entry go by
	// it.
	Name string
	// Trigger starts a run. The zero Trigger starts none: such an automation
	// is entered with [Engine.Enroll] alone.
	Trigger Trigger
	// Exit ends a run at once, also in the middle of a wait, and takes back a
	// mail that is queued. The zero value never does.
	Exit Trigger
	// ReEntry says whether a person who was here before may enter again. The
	// zero value is [Once]. Whatever it says, there is one live run per
	// person and key at a time.
	ReEntry ReEntry
	// Key names a property of the trigger event, such as "subscription_id";
	// a person may then have one live run for each value. Empty: one run per
	// person.
	Key string
	// Steps are walked in order.
	Steps Steps
	// OnRefused says what a run does when a mail of it was refused for good
	// or the tries ran out. The zero value goes on with the next step.
	OnRefused FailurePath
	// Removed says what becomes of people who stand at a step that an earlier
	// version had and this one has not, by the step's id. Without an entry,
	// New refuses to start while such people exist.
	Removed map[string]Removal
}

// FailurePath is what a run does after a step failed for good.
type FailurePath string

// The failure paths.
const (
	// GoOn goes on with the next step; the zero value.
	GoOn FailurePath = ""
	// EndRun ends the run as failed.
	EndRun FailurePath = "end"
)

// Removal is what becomes of people at a removed step.
type Removal struct {
	// MoveTo is the id of the step of the present version that they enter
	// instead. Empty: they finish on the version they started with, unless
	// End is set.
	MoveTo string `json:"move_to,omitempty"`
	// End ends their runs.
	End bool `json:"end,omitempty"`
}

// ReEntry is a rule for entering an automation again.
type ReEntry struct {
	// Kind is "once" (or empty), "after" or "always".
	Kind string `json:"kind,omitempty"`
	// After is the least time between two starts, for the kind "after".
	After time.Duration `json:"after,omitempty"`
}

// Once lets a person (and key) enter one time.
func Once() ReEntry { return ReEntry{} }

// OncePer lets a person (and key) enter again when the last run started at
// least d ago.
func OncePer(d time.Duration) ReEntry { return ReEntry{Kind: "after", After: d} }

// Always lets a person (and key) enter again as soon as the last run ended.
func Always() ReEntry { return ReEntry{Kind: "always"} }

// TriggerKind is what a [Trigger] listens to.
type TriggerKind string

// The kinds of triggers.
const (
	TriggerEvent        TriggerKind = "event"
	TriggerSegmentEnter TriggerKind = "segment_enter"
	TriggerSegmentLeave TriggerKind = "segment_leave"
	TriggerTraitChange  TriggerKind = "trait_change"
)

// Trigger starts or ends runs. Make one with [On], [OnChange],
// [OnEnterSegment] or [OnLeaveSegment].
type Trigger struct {
	Kind TriggerKind
	// Name is that of the event, trait or segment.
	Name string
	// Where are conditions that must all hold at that moment.
	Where []Condition
}

// IsZero reports whether t never fires.
func (t Trigger) IsZero() bool { return t.Kind == "" }

// On fires once for each event of a name for which all conditions hold. Prop
// in a condition sees the properties of that event.
func On(event string, where ...Condition) Trigger {
	return Trigger{Kind: TriggerEvent, Name: event, Where: where}
}

// OnChange fires when a trait takes another value than it had. The conditions
// see the new traits, and as properties "trait", "old" and "new".
func OnChange(trait string, where ...Condition) Trigger {
	return Trigger{Kind: TriggerTraitChange, Name: trait, Where: where}
}

// OnEnterSegment fires when a person becomes a member of a segment.
func OnEnterSegment(segment string, where ...Condition) Trigger {
	return Trigger{Kind: TriggerSegmentEnter, Name: segment, Where: where}
}

// OnLeaveSegment fires when a person stops being a member of a segment.
func OnLeaveSegment(segment string, where ...Condition) Trigger {
	return Trigger{Kind: TriggerSegmentLeave, Name: segment, Where: where}
}

// StepKind is what a step does.
type StepKind string

// The kinds of steps.
const (
	StepSend      StepKind = "send"
	StepWait      StepKind = "wait"
	StepWaitFor   StepKind = "wait_for"
	StepWaitUntil StepKind = "wait_until"
	StepBranch    StepKind = "branch"
	StepSetTraits StepKind = "set_traits"
	StepDo        StepKind = "do"
	StepEnd       StepKind = "end"
)

// Steps are walked in order.
type Steps []Step

// Step is one step of an automation. Make one with [Send], [Wait], [WaitFor],
// [WaitUntil], [If], [Branch], [SetTraits], [Do] or [End], and refine it with
// the methods below; each returns a changed copy. A method that does not
// apply to the kind of step is a mistake that New reports.
type Step struct {
	// ID names the step in logs, counts and send keys. Empty: derived from
	// what the step does, such as "welcome" for Send("welcome") and
	// "wait_for:project_created"; the second of the same name gets "#2".
	ID   string
	Kind StepKind
	// Email is the name of the mail, for a send.
	Email string
	// Duration is the length of a wait, the timeout of a wait for an event,
	// or the offset to the date of a wait until one.
	Duration time.Duration
	// Event is what a wait waits for, Where which of them count, MatchKey a
	// property that must equal that of the event that started the run.
	Event    string
	Where    []Condition
	MatchKey string
	// FromEntry lets a wait look back: an event that came after the run
	// started, but before it reached the wait, counts.
	FromEntry bool
	// Date is the trait or property of the entry event that holds the date.
	Date Field
	// Missing and Past say what happens when there is no date (or it cannot be
	// read), or when the instant had passed before the wait began.
	Missing, Past DateRule
	// Paths are the guarded ways of a branch; the first whose condition holds
	// is taken.
	Paths []Path
	// Yes and No are the ways after a wait for an event: it came, or it did
	// not. No is also the else of a branch.
	Yes, No Steps
	// Set are the traits that a step sets.
	Set Traits
	// Func names the host's own code.
	Func string

	misuse []string
}

// Path is one guarded way of a branch.
type Path struct {
	When  Condition
	Steps Steps
}

// DateRule is what a wait until a date does when there is no such instant to
// wait for.
type DateRule string

// The date rules.
const (
	// EndAtDate ends the run; the zero value, because the mail behind the wait
	// would come at a time that makes no sense.
	EndAtDate DateRule = ""
	// SkipWait goes on at once.
	SkipWait DateRule = "skip"
)

// Send sends the named mail of Config.Emails. The run goes on when the
// outcome of the mail is known.
func Send(email string) Step { return Step{Kind: StepSend, Email: email} }

// Wait waits for a time. Months and years have no fixed length; use
// [WaitUntil] for dates.
func Wait(d time.Duration) Step { return Step{Kind: StepWait, Duration: d} }

// WaitFor waits until the event comes, then takes the steps of Then; when it
// has not come after the timeout, those of Else. Both go on with the step
// after this one. An event at the very instant of the timeout counts as come.
//
// An event counts when it occurred at or after the event that started the
// run, and was tracked while the run waits; see [Step.SinceEntry].
func WaitFor(event string, timeout time.Duration, where ...Condition) Step {
	return Step{Kind: StepWaitFor, Event: event, Duration: timeout, Where: where}
}

// WaitUntil waits until the date in a trait ([Attr]) or in a property of the
// event that started the run ([Prop]), plus the offset. When the trait changes
// during the wait, the wait moves with it; an instant in the past then ends the
// wait at once. When there is no date as the wait begins, or its instant has
// passed, the run ends; IfMissing and IfPast with [SkipWait] go on instead.
func WaitUntil(date Field, offset time.Duration) Step {
	return Step{Kind: StepWaitUntil, Date: date, Duration: offset}
}

// If takes the steps of Then when the condition holds, else those of Else.
func If(c Condition) Step {
	return Step{Kind: StepBranch, Paths: []Path{{When: c}}}
}

// When is one guarded path of a [Branch].
func When(c Condition, steps ...Step) Path { return Path{When: c, Steps: steps} }

// Branch takes the first path whose condition holds, else the steps of Else.
func Branch(paths ...Path) Step { return Step{Kind: StepBranch, Paths: paths} }

// SetTraits sets traits of the profile; nil removes one. Segments and
// automations that depend on them follow in the same transaction.
func SetTraits(t Traits) Step { return Step{Kind: StepSetTraits, Set: t} }

// Do calls the host's own code, by its name in Config.Funcs. Its result is
// stored with the run, by the step's id, and never computed again: templates
// read that of Do("score") as .Run.Results.score.
func Do(name string) Step { return Step{Kind: StepDo, Func: name} }

// End ends the run.
func End() Step { return Step{Kind: StepEnd} }

// Named gives the step its id.
func (s Step) Named(id string) Step { s.ID = id; return s }

// Then sets the steps to take when the event came or the condition holds.
func (s Step) Then(steps ...Step) Step {
	switch {
	case s.Kind == StepWaitFor:
		s.Yes = steps
	case s.Kind == StepBranch && len(s.Paths) == 1:
		s.Paths = []Path{{When: s.Paths[0].When, Steps: steps}}
	default:
		s = s.misused("Then")
	}
	return s
}

// Else sets the steps to take when the event did not come or no condition
// holds.
func (s Step) Else(steps ...Step) Step {
	if s.Kind != StepWaitFor && s.Kind != StepBranch {
		return s.misused("Else")
	}
	s.No = steps
	return s
}

// SinceEntry lets a [WaitFor] look back to the start of the run, so that a
// person who was quicker than the steps before it is not missed.
func (s Step) SinceEntry() Step {
	if s.Kind != StepWaitFor {
		return s.misused("SinceEntry")
	}
	s.FromEntry = true
	return s
}

// Matching lets a [WaitFor] count only events whose property equals that of
// the event that started the run, such as "cart_id".
func (s Step) Matching(property string) Step {
	if s.Kind != StepWaitFor {
		return s.misused("Matching")
	}
	s.MatchKey = property
	return s
}

// IfMissing says what a [WaitUntil] does when there is no date.
func (s Step) IfMissing(r DateRule) Step {
	if s.Kind != StepWaitUntil {
		return s.misused("IfMissing")
	}
	s.Missing = r
	return s
}

// IfPast says what a [WaitUntil] does when the instant had passed before the
// wait began.
func (s Step) IfPast(r DateRule) Step {
	if s.Kind != StepWaitUntil {
		return s.misused("IfPast")
	}
	s.Past = r
	return s
}

func (s Step) misused(method string) Step {
	s.misuse = append(slices.Clip(s.misuse), method)
	return s
}
