// Package rules holds conditions as data and turns them into rules that are
// evaluated without allocation. It knows values, events counted in a history
// and time, and nothing of what a condition is used for.
package rules

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/getfluxly/fluxly/internal/value"
)

// Op is what an [Expr] asks.
type Op uint8

// The operators. Those from Is to IsNull look at one field.
const (
	All Op = iota + 1
	Any
	Not
	Did
	Segment
	Func
	Is
	IsNot
	In
	NotIn
	GreaterThan
	AtLeast
	LessThan
	AtMost
	Between
	Contains
	StartsWith
	EndsWith
	Includes
	Before
	After
	WithinLast
	WithinNext
	OlderThan
	Exists
	Missing
	IsNull
)

// Source says where a field is found.
type Source uint8

// The sources of a field.
const (
	Prop Source = iota + 1 // a property of the event in hand
	Attr                   // an attribute of the profile
)

// String is the name in JSON and in text.
func (s Source) String() string {
	if s == Attr {
		return "attr"
	}
	return "prop"
}

// argKind is what an operator on a field compares with.
type argKind uint8

const (
	argNone argKind = iota
	argScalar
	argScalars
	argNumber
	argPair
	argText
	argTime
	argDuration
)

// fieldOp describes an operator on a field.
type fieldOp struct {
	name string // in JSON
	text string
	arg  argKind
}

var fieldOps = [...]fieldOp{
	Is:          {"is", "is", argScalar},
	IsNot:       {"is_not", "is not", argScalar},
	In:          {"in", "in", argScalars},
	NotIn:       {"not_in", "not in", argScalars},
	GreaterThan: {"greater_than", ">", argNumber},
	AtLeast:     {"at_least", ">=", argNumber},
	LessThan:    {"less_than", "<", argNumber},
	AtMost:      {"at_most", "<=", argNumber},
	Between:     {"between", "between", argPair},
	Contains:    {"contains", "contains", argText},
	StartsWith:  {"starts_with", "starts with", argText},
	EndsWith:    {"ends_with", "ends with", argText},
	Includes:    {"includes", "includes", argScalar},
	Before:      {"before", "before", argTime},
	After:       {"after", "after", argTime},
	WithinLast:  {"within_last", "within the last", argDuration},
	WithinNext:  {"within_next", "within the next", argDuration},
	OlderThan:   {"older_than", "older than", argDuration},
	Exists:      {"exists", "exists", argNone},
	Missing:     {"missing", "is missing", argNone},
	IsNull:      {"is_null", "is null", argNone},
}

func (o Op) isField() bool { return o >= Is && int(o) < len(fieldOps) }

// MaxDepth is how deep conditions may be nested.
const MaxDepth = 32

// maxKey bounds the bytes of a key or name.
const maxKey = 256

// Expr is one condition. It is not changed once it is part of another.
type Expr struct {
	Op   Op
	Kids []*Expr // of All, Any and Not
	From Source  // of an operator on a field
	Key  string  // of the field, or the name of the event, segment or func
	Args []any   // what a field is compared with, canonical; a time as text
	Dur  time.Duration

	// The rest is for Did. The count must be in Min to Max where these are
	// set; when neither is, Min is 1. Dur above 0 is the window that ends now.
	Min, Max       int
	HasMin, HasMax bool
	SinceEntry     bool
	Where          *Expr

	// Mistakes were made while the condition was built; their paths are
	// relative to it.
	Mistakes []Problem
}

// Problem is one mistake in a condition.
type Problem struct {
	// Path leads to it, such as "all[1].where.is"; empty for the whole.
	Path string
	// Value is what was found, where it is short.
	Value string
	// Reason says what is wrong and what to do next.
	Reason string
}

// SetArgs makes the operands canonical. One that cannot be is a mistake.
func (x *Expr) SetArgs(args ...any) {
	x.Args = make([]any, len(args))
	for i, a := range args {
		switch kind := fieldOps[x.Op].arg; a.(type) {
		case time.Time:
			if kind == argScalar || kind == argScalars {
				x.mistake(value.Text(a), "is a time; compare times with before, after or between")
				return
			}
		}
		v, err := value.Normalize(a)
		if err != nil {
			x.mistake("", "%v", err)
			return
		}
		x.Args[i] = v
	}
}

func (x *Expr) mistake(v, format string, args ...any) {
	x.Mistakes = append(x.Mistakes, Problem{Path: x.argPath(), Value: v, Reason: fmt.Sprintf(format, args...)})
}

// argPath is the JSON key of the operand.
func (x *Expr) argPath() string {
	if x.Op.isField() {
		return fieldOps[x.Op].name
	}
	return ""
}

// Check says what may be used where the condition stands.
type Check struct {
	// Funcs and Segments report whether a name is known; nil accepts all.
	Funcs, Segments func(name string) bool
	// Event returns what is wrong with the name of an event, "" for nothing;
	// nil accepts all.
	Event func(name string) string
	// NoEvent: there is no event in hand, so a property cannot be asked for.
	NoEvent bool
	// NoEntry: there is no run, so nothing can be counted since its entry.
	NoEntry bool
}

// Validate returns every mistake in x, in its order. A nil x has none.
func Validate(x *Expr, c Check) []Problem {
	if x == nil {
		return nil
	}
	w := checker{Check: c}
	w.expr(x, 1, false)
	return w.found
}

type checker struct {
	Check
	path  []byte
	found []Problem
}

func (w *checker) add(at, v, format string, args ...any) {
	path := string(w.path)
	if at != "" {
		if path != "" {
			path += "."
		}
		path += at
	}
	if len(v) > 64 {
		v = v[:61] + "..."
	}
	w.found = append(w.found, Problem{Path: path, Value: v, Reason: fmt.Sprintf(format, args...)})
}

// enter extends the path and returns its former length.
func (w *checker) enter(name string, index int) int {
	was := len(w.path)
	if was > 0 {
		w.path = append(w.path, '.')
	}
	w.path = append(w.path, name...)
	if index >= 0 {
		w.path = append(strconv.AppendInt(append(w.path, '['), int64(index), 10), ']')
	}
	return was
}

func (w *checker) expr(x *Expr, depth int, inWhere bool) {
	if depth > MaxDepth {
		w.add("", "", "conditions are nested more than %d deep; name a part of it as a segment", MaxDepth)
		return
	}
	for _, m := range x.Mistakes {
		w.add(m.Path, m.Value, "%s", m.Reason)
	}
	switch {
	case x.Op == All || x.Op == Any || x.Op == Not:
		w.group(x, depth, inWhere)
	case x.Op.isField():
		w.field(x, inWhere)
	case inWhere:
		w.add("", "", "where looks at the properties of the counted event alone: use prop, all, any and not")
	case x.Op == Did:
		w.did(x, depth)
	case x.Op == Segment:
		w.key("segment", x.Key, w.Segments, "is not a segment of this engine; add it to Config.Segments")
	case x.Op == Func:
		w.key("func", x.Key, w.Funcs, "is not a func of this engine; add it to Config.Conditions")
	default:
		w.add("", "", "is no condition")
	}
}

var groupNames = [...]string{All: "all", Any: "any", Not: "not"}

func (w *checker) group(x *Expr, depth int, inWhere bool) {
	name := groupNames[x.Op]
	if len(x.Kids) == 0 {
		w.add(name, "", "needs at least one condition")
	}
	for i, k := range x.Kids {
		if x.Op == Not {
			i = -1
		}
		was := w.enter(name, i)
		if k == nil {
			w.add("", "", "is empty; build a condition with Prop, Attr, Did, All, Any, Not")
		} else {
			w.expr(k, depth+1, inWhere)
		}
		w.path = w.path[:was]
	}
}

func (w *checker) key(at, key string, known func(string) bool, unknown string) {
	switch {
	case key == "":
		w.add(at, "", "needs a name")
	case len(key) > maxKey:
		w.add(at, key, "is longer than %d bytes", maxKey)
	case !utf8.ValidString(key):
		w.add(at, "", "is not valid UTF-8")
	case known != nil && !known(key):
		w.add(at, key, "%s", unknown)
	}
}

func (w *checker) did(x *Expr, depth int) {
	if w.Event == nil || x.Key == "" {
		w.key("did", x.Key, nil, "")
	} else if reason := w.Event(x.Key); reason != "" {
		w.add("did", x.Key, "%s", reason)
	}
	if x.HasMin && x.HasMax && x.Min == x.Max {
		if x.Min < 0 {
			w.add("exactly", strconv.Itoa(x.Min), "must be 0 or more")
		}
	} else {
		if x.HasMin && x.Min < 1 {
			w.add("at_least", strconv.Itoa(x.Min), "must be 1 or more; never is exactly 0")
		}
		if x.HasMax && x.Max < 0 {
			w.add("at_most", strconv.Itoa(x.Max), "must be 0 or more")
		}
		if x.HasMin && x.HasMax && x.Min > x.Max {
			w.add("at_most", strconv.Itoa(x.Max), "is less than at_least, so it can never hold")
		}
	}
	if x.Dur < 0 {
		w.add("within", x.Dur.String(), "must be longer than 0")
	}
	if x.SinceEntry && w.NoEntry {
		w.add("since_entry", "", "has no entry here: it counts from the start of a run, so it can stand in steps and exits only")
	}
	if x.Where != nil {
		was := w.enter("where", -1)
		// In a where the event in hand is the counted one.
		noEvent := w.NoEvent
		w.NoEvent = false
		w.expr(x.Where, depth+1, true)
		w.NoEvent = noEvent
		w.path = w.path[:was]
	}
}

func (w *checker) field(x *Expr, inWhere bool) {
	op := fieldOps[x.Op]
	w.key(x.From.String(), x.Key, nil, "")
	switch {
	case x.From == Prop && w.NoEvent:
		w.add("prop", x.Key, "has no event to look at here; ask for an attribute, or for did(...) with where")
	case x.From != Prop && x.From != Attr:
		w.add(op.name, "", "needs a field")
	case inWhere && x.From == Attr:
		w.add("attr", x.Key, "where looks at the properties of the counted event alone; put the attribute beside did in all")
	}
	if len(x.Mistakes) > 0 {
		return // the operands are not to be looked at
	}
	bad := func(v any, reason string) {
		found, ok := v.(string)
		if !ok {
			found = value.Text(v)
		}
		w.add(op.name, found, "%s", reason)
	}
	want := 1
	switch op.arg {
	case argNone:
		want = 0
	case argDuration:
		want = 0
		if x.Dur < 0 || x.Dur == 0 && x.Op != OlderThan {
			w.add(op.name, x.Dur.String(), "must be longer than 0")
		}
		if inWhere {
			w.add(op.name, "", "is relative to now, which a counted event must not be; use before, after or between")
		}
	case argScalars:
		want = max(1, len(x.Args))
	case argPair:
		want = 2
	}
	if len(x.Args) != want {
		if op.arg == argScalars {
			w.add(op.name, "", "needs at least one value")
		} else {
			w.add(op.name, "", "has %d values, needs %d", len(x.Args), want)
		}
		return
	}
	for _, a := range x.Args {
		switch op.arg {
		case argScalar, argScalars:
			switch a.(type) {
			case nil:
				if x.Op == Includes {
					bad(a, "null cannot be looked for in a list")
				} else {
					bad(a, "null equals nothing; use is_null or exists")
				}
			case []any, map[string]any:
				bad(a, "must be text, a number or a bool; use includes for a list and a dotted key for a map")
			}
		case argNumber:
			if !isNumber(a) {
				bad(a, "must be a number; compare times with before, after or between")
			}
		case argText:
			if s, ok := a.(string); !ok || s == "" {
				bad(a, "must be text of at least one character")
			}
		case argTime:
			if t, ok := asTime(a); !ok {
				bad(a, "must be a time as RFC 3339 text")
			} else if t.IsZero() {
				bad(a, "is the zero time")
			}
		}
	}
	if op.arg == argPair {
		w.pair(x, bad)
	}
}

func (w *checker) pair(x *Expr, bad func(any, string)) {
	lo, okLo := asTime(x.Args[0])
	hi, okHi := asTime(x.Args[1])
	switch {
	case okLo && okHi:
		if lo.After(hi) {
			bad(x.Args[0], "is after the second time, so nothing is between")
		}
	case isNumber(x.Args[0]) && isNumber(x.Args[1]):
		if c, _ := value.Compare(x.Args[0], x.Args[1]); c > 0 {
			bad(x.Args[0], "is above the second number, so nothing is between")
		}
	default:
		w.add("between", "", "needs two numbers, or two times as RFC 3339 text")
	}
}

func isNumber(v any) bool {
	switch v.(type) {
	case int64, float64, json.Number:
		return true
	}
	return false
}

func asTime(v any) (time.Time, bool) {
	s, ok := v.(string)
	if !ok {
		return time.Time{}, false
	}
	return value.ParseTime(s)
}
