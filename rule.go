package fluxly

import (
	"bytes"
	"slices"
	"time"

	"github.com/getfluxly/fluxly/internal/rules"
)

// Lengths of time for windows and waits. A day is 24 hours, whatever the
// clocks of a place do.
const (
	Day  = 24 * time.Hour
	Week = 7 * Day
)

// Condition is a question about a person, as data: it can be printed, stored
// as JSON, compared, explained, and is compiled once by [New]. Build one with
// [Prop], [Attr], [Did], [InSegment], [Func] and join them with [All], [Any]
// and [Not]:
//
//	fluxly.All(
//		fluxly.Prop("plan").In("pro", "team"),
//		fluxly.Attr("country").IsNot("US"),
//		fluxly.Did("report_exported").AtLeast(50).Within(30*fluxly.Day),
//	)
//
// The zero Condition is empty and always holds. A Condition never changes once
// it is built, and may be used from any number of goroutines. A mistake made
// while building, such as an operand of a type that the operator does not
// take, does not panic: Validate and New report it.
//
// # What each operator answers
//
// There are two answers, yes and no. A value that is missing, null or of
// another type than the operator tests gives a fixed one; nothing is ever
// converted, so the text "5" is no number:
//
//	operator                            tests    missing  null  other type
//	Is, In                              operand  no       no    no
//	IsNot, NotIn                        operand  yes      yes   yes
//	GreaterThan AtLeast LessThan AtMost number   no       no    no
//	Between                             number   no       no    no
//	Between (two times)                 time     no       no    no
//	Contains StartsWith EndsWith        text     no       no    no
//	Includes                            list     no       no    no
//	Before After                        time     no       no    no
//	WithinLast WithinNext OlderThan     time     no       no    no
//	Exists                              any      no       yes   yes
//	Missing                             any      yes      no    no
//	IsNull                              any      no       yes   no
//
// IsNot is exactly Not(Is), NotIn is Not(In), Missing is Not(Exists); so
// someone without a country is not in the US. Where that is not meant, add
// Exists: All(Attr("country").Exists(), Attr("country").IsNot("US")). In the
// same way Not turns every no of the table into a yes.
//
// "operand" is the type of the operand: text, number or bool. Numbers compare
// by their exact value whatever their Go types, text byte by byte and with
// case. A time is RFC 3339 text, which a [time.Time] becomes when it is
// stored; times compare as instants.
type Condition struct {
	x *rules.Expr
}

// Field is a value that conditions look at: [Prop] or [Attr].
type Field struct {
	from rules.Source
	key  string
}

// Prop is a property of the event in hand: of the event that a trigger or
// wait looks at, in later steps that of the event that started the run. A key
// with dots is first looked for as it stands, then as a path into nested
// maps: "address.city".
func Prop(key string) Field { return Field{rules.Prop, key} }

// Attr is a trait of the profile; dots as in [Prop].
func Attr(key string) Field { return Field{rules.Attr, key} }

// Name is the key that was given.
func (f Field) Name() string { return f.key }

// String names the field, such as "attr country".
func (f Field) String() string {
	if f.IsZero() {
		return ""
	}
	return f.from.String() + " " + f.key
}

// IsZero reports whether f names nothing.
func (f Field) IsZero() bool { return f == Field{} }

func (f Field) isTrait() bool { return f.from == rules.Attr }
func (f Field) isProp() bool  { return f.from == rules.Prop }

func (f Field) with(op rules.Op, args ...any) Condition {
	x := &rules.Expr{Op: op, From: f.from, Key: f.key}
	x.SetArgs(args...)
	return Condition{x}
}

func (f Field) age(op rules.Op, d time.Duration) Condition {
	return Condition{&rules.Expr{Op: op, From: f.from, Key: f.key, Dur: d}}
}

// Is holds when the value equals v: text, a number or a bool.
func (f Field) Is(v any) Condition { return f.with(rules.Is, v) }

// IsNot is Not(Is(v)), so it holds when there is no value.
func (f Field) IsNot(v any) Condition { return f.with(rules.IsNot, v) }

// In holds when the value equals one of those given.
func (f Field) In(values ...any) Condition { return f.with(rules.In, values...) }

// NotIn is Not(In(values)), so it holds when there is no value.
func (f Field) NotIn(values ...any) Condition { return f.with(rules.NotIn, values...) }

// GreaterThan holds when the value is a number above v.
func (f Field) GreaterThan(v any) Condition { return f.with(rules.GreaterThan, v) }

// AtLeast holds when the value is a number of v or more.
func (f Field) AtLeast(v any) Condition { return f.with(rules.AtLeast, v) }

// LessThan holds when the value is a number below v.
func (f Field) LessThan(v any) Condition { return f.with(rules.LessThan, v) }

// AtMost holds when the value is a number of v or less.
func (f Field) AtMost(v any) Condition { return f.with(rules.AtMost, v) }

// Between holds from lo to hi, both included: two numbers, or two times as
// [time.Time] or RFC 3339 text.
func (f Field) Between(lo, hi any) Condition { return f.with(rules.Between, lo, hi) }

// Contains holds when the value is text that holds s.
func (f Field) Contains(s string) Condition { return f.with(rules.Contains, s) }

// StartsWith holds when the value is text that begins with s.
func (f Field) StartsWith(s string) Condition { return f.with(rules.StartsWith, s) }

// EndsWith holds when the value is text that ends with s.
func (f Field) EndsWith(s string) Condition { return f.with(rules.EndsWith, s) }

// Includes holds when the value is a list with an element that equals v.
func (f Field) Includes(v any) Condition { return f.with(rules.Includes, v) }

// Before holds when the value is a time before t.
func (f Field) Before(t time.Time) Condition { return f.with(rules.Before, t) }

// After holds when the value is a time after t.
func (f Field) After(t time.Time) Condition { return f.with(rules.After, t) }

// WithinLast holds when the value is a time in (now-d, now]: up to now and
// less than d ago, the window in which [Condition.Within] counts.
func (f Field) WithinLast(d time.Duration) Condition { return f.age(rules.WithinLast, d) }

// WithinNext holds when the value is a time in (now, now+d]: later than now
// and at most d ahead.
func (f Field) WithinNext(d time.Duration) Condition { return f.age(rules.WithinNext, d) }

// OlderThan holds when the value is a time up to now-d: at least d ago.
// OlderThan(0) holds when the time has come.
func (f Field) OlderThan(d time.Duration) Condition { return f.age(rules.OlderThan, d) }

// Exists holds when there is a value, null included.
func (f Field) Exists() Condition { return f.with(rules.Exists) }

// Missing is Not(Exists).
func (f Field) Missing() Condition { return f.with(rules.Missing) }

// IsNull holds when there is a value and it is null.
func (f Field) IsNull() Condition { return f.with(rules.IsNull) }

// Did counts the events of a name that the person did, by the time at which
// they occurred; those that occur later than now are not seen. By itself it
// holds when there is one at least; AtLeast, AtMost, Exactly and Never ask
// for another count, Within, SinceEntry and Where narrow down what is counted.
func Did(event string) Condition { return Condition{&rules.Expr{Op: rules.Did, Key: event}} }

// InSegment holds when the person is a member of the named segment.
func InSegment(name string) Condition {
	return Condition{&rules.Expr{Op: rules.Segment, Key: name}}
}

// Func asks the host's own code, by its name in Config.Conditions. It is asked
// once for each set of conditions that is decided together, and a branch writes
// the answer into the log of the run.
func Func(name string) Condition { return Condition{&rules.Expr{Op: rules.Func, Key: name}} }

// All holds when every condition does.
func All(conditions ...Condition) Condition { return joinConditions(rules.All, conditions) }

// Any holds when one condition at least does.
func Any(conditions ...Condition) Condition { return joinConditions(rules.Any, conditions) }

// Not holds when c does not.
func Not(c Condition) Condition { return joinConditions(rules.Not, []Condition{c}) }

func joinConditions(op rules.Op, conditions []Condition) Condition {
	x := &rules.Expr{Op: op, Kids: make([]*rules.Expr, len(conditions))}
	for i, c := range conditions {
		x.Kids[i] = c.x
	}
	return Condition{x}
}

// did returns a copy for one of the methods that refine [Did].
func (c Condition) did(method string, change func(x *rules.Expr)) Condition {
	x := &rules.Expr{}
	if c.x != nil {
		*x = *c.x
		x.Mistakes = slices.Clip(x.Mistakes)
	}
	if x.Op != rules.Did {
		x.Mistakes = append(x.Mistakes, rules.Problem{Reason: method + " refines Did(...) only"})
		return Condition{x}
	}
	change(x)
	return Condition{x}
}

// AtLeast asks [Did] for n events or more; n is 1 or more.
func (c Condition) AtLeast(n int) Condition {
	return c.did("AtLeast", func(x *rules.Expr) { x.Min, x.HasMin = n, true })
}

// AtMost asks [Did] for n events or fewer, none included. After AtLeast it
// asks for a range.
func (c Condition) AtMost(n int) Condition {
	return c.did("AtMost", func(x *rules.Expr) { x.Max, x.HasMax = n, true })
}

// Exactly asks [Did] for n events.
func (c Condition) Exactly(n int) Condition {
	return c.did("Exactly", func(x *rules.Expr) { x.Min, x.HasMin, x.Max, x.HasMax = n, true, n, true })
}

// Never asks [Did] for no event.
func (c Condition) Never() Condition {
	return c.did("Never", func(x *rules.Expr) { x.Min, x.HasMin, x.Max, x.HasMax = 0, true, 0, true })
}

// Within counts only what occurred in (now-d, now]: an event that is exactly
// d old does not count any more. So a person who was last active at noon
// leaves "active within a day" at noon.
func (c Condition) Within(d time.Duration) Condition {
	return c.did("Within", func(x *rules.Expr) {
		if d <= 0 {
			x.Mistakes = append(x.Mistakes, rules.Problem{Path: "within", Value: d.String(), Reason: "must be longer than 0"})
			return
		}
		x.Dur = d
	})
}

// SinceEntry counts only what occurred since the run started, that instant
// included; so the event that started the run counts. With Within the later
// of the two starts holds. It is for steps and exits, where there is a run.
func (c Condition) SinceEntry() Condition {
	return c.did("SinceEntry", func(x *rules.Expr) { x.SinceEntry = true })
}

// Where counts only events for which all the conditions hold. In them [Prop]
// is a property of the counted event; Attr, Did, InSegment, Func and what is
// relative to now cannot be asked there. A second Where narrows down further.
func (c Condition) Where(conditions ...Condition) Condition {
	return c.did("Where", func(x *rules.Expr) {
		all := conditions
		if x.Where != nil {
			all = append([]Condition{{x.Where}}, conditions...)
		}
		if len(all) == 1 && all[0].x != nil {
			x.Where = all[0].x
			return
		}
		x.Where = All(all...).x
	})
}

// IsZero reports whether c is empty, and so always holds.
func (c Condition) IsZero() bool { return c.x == nil }

// String writes c in one line for people, such as
// `prop plan is "trial" and did login at least 3 times within 7d`.
func (c Condition) String() string { return c.x.String() }

// Validate returns every mistake in c as [*FieldError]s joined into one error
// that matches [ErrInvalid]; Field is the path, such as "all[1].at_least". New
// does more: it knows the names of segments and funcs, and what may be asked
// where.
func (c Condition) Validate() error {
	return conditionError(rules.Validate(c.x, rules.Check{Event: eventNameMistake}))
}

// Equal reports whether two conditions have the same JSON, or the same text
// when they have mistakes in them.
func (c Condition) Equal(other Condition) bool {
	a, errA := c.MarshalJSON()
	b, errB := other.MarshalJSON()
	if errA != nil || errB != nil {
		return errA != nil && errB != nil && errA.Error() == errB.Error() && c.String() == other.String()
	}
	return bytes.Equal(a, b)
}
