package fluxly

import (
	"context"
	"time"

	"github.com/getfluxly/fluxly/internal/rules"
)

// ConditionFunc is the host's own code in a condition; see [Func]. It may be
// called from many goroutines at once. An error fails the decision, which is
// then tried again later; a panic counts as an error. It runs inside a
// transaction of the store: it must be quick, and must not call the engine. Its
// ctx ends after 5 seconds.
type ConditionFunc func(ctx context.Context, in FuncInput) (bool, error)

// conditionTimeout is when the ctx of a ConditionFunc ends.
const conditionTimeout = 5 * time.Second

// FuncInput is what a [ConditionFunc] decides by.
type FuncInput struct {
	// Profile is the person.
	Profile Profile
	// Properties are those of the event in hand; nil where there is none.
	Properties Properties
	// Now is the instant of the decision; use it instead of the clock.
	Now time.Time
}

// compileContext says what may be asked where a condition stands.
type compileContext struct {
	// Funcs are those that Func may name.
	Funcs map[string]ConditionFunc
	// HasSegment reports whether a segment has this name; nil accepts all.
	HasSegment func(name string) bool
	// NoEvent: there is no event in hand (a segment), so Prop is a mistake.
	NoEvent bool
	// NoEntry: there is no run (a trigger, a segment), so SinceEntry is one.
	NoEntry bool
}

// rule is a compiled condition. It never changes, and may be used from any
// number of goroutines, each with its own ruleEnv.
type rule struct {
	r *rules.Rule
}

// ruleEnv is what a rule looks at: fill Now, Props, Traits, Entry, History,
// InSegment and Call. After eval, nextChange or explain look at Err: when it
// is set the result is void.
type ruleEnv = rules.Env

// ruleHistory counts the events of one person. The where that it is given is
// asked with EvalEvent(properties).
type ruleHistory = rules.History

var _ ruleHistory = (*session)(nil)

// ruleUses is what a rule looks at, for indexing.
type ruleUses = rules.Uses

// eventRule is the Where of a Did.
type eventRule = rules.Rule

// eventIndex finds the automations that listen for an event by its name.
type eventIndex = rules.Index

// compileCondition turns c into a rule. The error holds a *FieldError for each
// mistake. The zero Condition gives the rule that always holds.
func compileCondition(c Condition, cc compileContext) (*rule, error) {
	r, problems := rules.Compile(c.x, rules.Check{
		Funcs:    func(name string) bool { return cc.Funcs[name] != nil },
		Segments: cc.HasSegment,
		Event:    eventNameMistake,
		NoEvent:  cc.NoEvent,
		NoEntry:  cc.NoEntry,
	})
	if len(problems) > 0 {
		return nil, conditionError(problems)
	}
	return &rule{r}, nil
}

// eval reports whether the rule holds. It allocates nothing.
func (r *rule) eval(env *ruleEnv) bool { return r.r.Eval(env) }

// nextChange returns the earliest instant after env.Now at which the answer
// may change by time alone, zero when there is none. Funcs are not called.
func (r *rule) nextChange(env *ruleEnv) time.Time { return r.r.NextChange(env) }

// uses returns what the rule looks at; the lists must not be changed.
func (r *rule) uses() ruleUses { return r.r.Uses() }

// String is the condition in one line.
func (r *rule) String() string { return r.r.String() }

// newEventIndex makes an index over n automations; names returns the events
// that the i-th listens for.
func newEventIndex(n int, names func(i int) []string) eventIndex { return rules.NewIndex(n, names) }
