package rules

import (
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/getfluxly/fluxly/internal/value"
)

// History answers what one person did. Events count by when they occurred.
type History interface {
	// Count returns how many events of this name occurred after since and not
	// after until, and match where when it is not nil. It may stop at limit
	// when limit is above 0. A zero since means from the beginning.
	Count(name string, since, until time.Time, where *Rule, limit int) (int, error)
	// NthLatest returns when the n-th latest of these events occurred, 1
	// being the latest; false when there are fewer.
	NthLatest(name string, n int, since, until time.Time, where *Rule) (time.Time, bool, error)
}

// Env is what a rule looks at. It is filled by the caller and used by one
// goroutine at a time; the same Env may serve many rules.
type Env struct {
	// Now is the instant of the decision. Events that occur later are not
	// seen.
	Now time.Time
	// Props are the properties of the event in hand, Traits those of the
	// profile; both canonical, either may be nil.
	Props, Traits map[string]any
	// History may be nil when no rule counts events.
	History History
	// Entry is when the run started: events from that instant on are since
	// entry. Zero is from the beginning.
	Entry time.Time
	// InSegment reports membership; nil only when no rule asks.
	InSegment func(name string) (bool, error)
	// Call answers for a named func; nil only when no rule asks.
	Call func(name string) (bool, error)
	// Err is set when one of the above failed. Then no verdict is valid, and
	// nothing more is asked until the caller clears it.
	Err error
}

var (
	errNoHistory = errors.New("no history to count events in")
	errNoSegment = errors.New("no segments to look in")
	errNoCall    = errors.New("no funcs to call")
)

// Rule is a compiled condition. It is not changed after [Compile] and may be
// used from any number of goroutines, each with its own [Env].
type Rule struct {
	root node
	uses Uses
	expr *Expr
}

// Uses is what a rule looks at, each list sorted and without repetition.
type Uses struct {
	Events   []string // names counted by Did
	Props    []string // keys of the event in hand, not those in a Where
	Attrs    []string
	Segments []string
	Funcs    []string
	// Time: the verdict may change by time alone.
	Time bool
}

// Compile turns x into a rule, or returns every mistake in it. A nil x is the
// rule that always holds.
func Compile(x *Expr, c Check) (*Rule, []Problem) {
	if found := Validate(x, c); len(found) > 0 {
		return nil, found
	}
	r := &Rule{expr: x}
	if x == nil {
		r.root.code = codeTrue
		return r, nil
	}
	r.uses.compile(&r.root, x)
	for _, l := range []*[]string{&r.uses.Events, &r.uses.Props, &r.uses.Attrs, &r.uses.Segments, &r.uses.Funcs} {
		if len(*l) > 1 {
			slices.Sort(*l)
			*l = slices.Compact(*l)
		}
	}
	return r, nil
}

// Uses returns what the rule looks at. The lists must not be changed.
func (r *Rule) Uses() Uses { return r.uses }

// String is the condition in one line.
func (r *Rule) String() string { return r.expr.String() }

// Eval reports whether the rule holds. It is void when env.Err is set
// afterwards.
func (r *Rule) Eval(env *Env) bool { return r.root.eval(env) }

// EvalEvent evaluates a where rule, which looks at nothing but the properties
// of one event.
func (r *Rule) EvalEvent(props map[string]any) bool {
	env := Env{Props: props}
	return r.root.eval(&env)
}

type code uint8

const (
	codeTrue code = iota + 1
	codeAll
	codeAny
	codeNot
	codeDid
	codeSegment
	codeFunc
	codeExists
	codeMissing
	codeIsNull
	// From here on one value is tested, and neg turns the answer round.
	codeIsText
	codeIsBool
	codeIsNumber
	codeInText
	codeInSortedText
	codeInAny
	codeGreaterThan
	codeAtLeast
	codeLessThan
	codeAtMost
	codeBetween
	codeContains
	codeStartsWith
	codeEndsWith
	codeIncludes
	codeBetweenTimes
	codeBefore
	codeAfter
	codeWithinLast
	codeWithinNext
	codeOlderThan
)

type node struct {
	code   code
	from   Source
	neg    bool // turn the test of the value round
	dotted bool // the key may lead into nested maps
	isBool bool
	key    string
	text   string
	num    int64 // an int64 operand, or a duration
	arg    any
	texts  []string
	args   []any
	kids   []node
	times  *[2]time.Time
	did    *did
	x      *Expr
}

type did struct {
	window     time.Duration
	lo, hi     int // hi -1: no greatest count
	limit      int // counting further changes nothing
	sinceEntry bool
	where      *Rule
}

var fieldCodes = [...]code{
	GreaterThan: codeGreaterThan, AtLeast: codeAtLeast, LessThan: codeLessThan, AtMost: codeAtMost,
	Contains: codeContains, StartsWith: codeStartsWith, EndsWith: codeEndsWith, Includes: codeIncludes,
	Before: codeBefore, After: codeAfter, WithinLast: codeWithinLast, WithinNext: codeWithinNext, OlderThan: codeOlderThan,
	Exists: codeExists, Missing: codeMissing, IsNull: codeIsNull,
}

// fewTexts is up to how many strings are tried one after the other.
const fewTexts = 8

func (u *Uses) compile(n *node, x *Expr) {
	n.x, n.key = x, x.Key
	switch x.Op {
	case All, Any, Not:
		n.code = codeAll + code(x.Op-All)
		n.kids = make([]node, len(x.Kids))
		for i, k := range x.Kids {
			u.compile(&n.kids[i], k)
		}
	case Did:
		n.code = codeDid
		d := &did{window: x.Dur, sinceEntry: x.SinceEntry}
		d.lo, d.hi = x.bounds()
		d.limit = max(d.lo, d.hi+1)
		if x.Where != nil {
			d.where = &Rule{expr: x.Where}
			d.where.uses.compile(&d.where.root, x.Where)
		}
		n.did = d
		u.Events = append(u.Events, x.Key)
		u.Time = u.Time || x.Dur > 0
	case Segment:
		n.code = codeSegment
		u.Segments = append(u.Segments, x.Key)
	case Func:
		n.code = codeFunc
		u.Funcs = append(u.Funcs, x.Key)
	default:
		if n.from = x.From; x.From == Attr {
			u.Attrs = append(u.Attrs, x.Key)
		} else {
			u.Props = append(u.Props, x.Key)
		}
		n.dotted = strings.IndexByte(x.Key, '.') >= 0
		u.Time = u.Time || fieldOps[x.Op].arg == argDuration
		n.compileField(x)
	}
}

func (n *node) compileField(x *Expr) {
	n.num = int64(x.Dur)
	switch x.Op {
	case Is, IsNot:
		n.neg = x.Op == IsNot
		switch a := x.Args[0].(type) {
		case string:
			n.code, n.text = codeIsText, a
		case bool:
			n.code, n.isBool = codeIsBool, a
		default:
			n.code = codeIsNumber
			n.arg = a
		}
	case In, NotIn:
		n.neg = x.Op == NotIn
		n.args = x.Args
		n.code = codeInAny
		for _, a := range x.Args {
			if s, ok := a.(string); ok {
				n.texts = append(n.texts, s)
			}
		}
		if len(n.texts) == len(x.Args) {
			n.code = codeInText
			if len(n.texts) > fewTexts {
				n.code = codeInSortedText
				slices.Sort(n.texts)
			}
		}
	case Between:
		n.code, n.args = codeBetween, x.Args
		if lo, ok := asTime(x.Args[0]); ok {
			hi, _ := asTime(x.Args[1])
			n.code, n.times = codeBetweenTimes, &[2]time.Time{lo, hi}
		}
	default:
		n.code = fieldCodes[x.Op]
		switch fieldOps[x.Op].arg {
		case argText:
			n.text, _ = x.Args[0].(string)
		case argTime:
			t, _ := asTime(x.Args[0])
			n.times = &[2]time.Time{t, t}
		case argNumber, argScalar:
			n.arg = x.Args[0]
		}
	}
}

// value finds the field that n looks at.
func (n *node) value(env *Env) (any, bool) {
	m := env.Props
	if n.from == Attr {
		m = env.Traits
	}
	v, ok := m[n.key]
	if !ok && n.dotted {
		return value.Lookup(m, n.key)
	}
	return v, ok
}

func (n *node) eval(env *Env) bool {
	switch n.code {
	case codeTrue:
		return true
	case codeAll:
		for i := range n.kids {
			if !n.kids[i].eval(env) {
				return false
			}
		}
		return true
	case codeAny:
		for i := range n.kids {
			if n.kids[i].eval(env) {
				return true
			}
		}
		return false
	case codeNot:
		return !n.kids[0].eval(env)
	case codeDid:
		return n.countHolds(env)
	case codeSegment:
		return n.inSegment(env)
	case codeFunc:
		return n.call(env)
	case codeExists:
		_, ok := n.value(env)
		return ok
	case codeMissing:
		_, ok := n.value(env)
		return !ok
	case codeIsNull:
		v, ok := n.value(env)
		return ok && v == nil
	}
	// A missing value is tested as null, which no test accepts.
	v, _ := n.value(env)
	return n.test(v, env) != n.neg
}

// test answers for one value; of a type it does not ask for, false.
func (n *node) test(v any, env *Env) bool {
	switch n.code {
	case codeIsText:
		s, ok := v.(string)
		return ok && s == n.text
	case codeIsBool:
		b, ok := v.(bool)
		return ok && b == n.isBool
	case codeInText:
		if s, ok := v.(string); ok {
			for _, t := range n.texts {
				if s == t {
					return true
				}
			}
		}
		return false
	case codeInSortedText:
		s, ok := v.(string)
		if ok {
			_, ok = slices.BinarySearch(n.texts, s)
		}
		return ok
	case codeInAny:
		for _, a := range n.args {
			if c, ok := value.Compare(v, a); ok && c == 0 {
				return true
			}
		}
		return false
	case codeIsNumber, codeGreaterThan, codeAtLeast, codeLessThan, codeAtMost:
		return n.testOrder(v)
	case codeBetween:
		lo, ok := value.Compare(v, n.args[0])
		if !ok || lo < 0 {
			return false
		}
		hi, ok := value.Compare(v, n.args[1])
		return ok && hi <= 0
	case codeIncludes:
		list, _ := v.([]any)
		for _, e := range list {
			if c, ok := value.Compare(e, n.arg); ok && c == 0 {
				return true
			}
		}
		return false
	}
	s, ok := v.(string)
	if !ok {
		return false
	}
	switch n.code {
	case codeContains:
		return strings.Contains(s, n.text)
	case codeStartsWith:
		return strings.HasPrefix(s, n.text)
	case codeEndsWith:
		return strings.HasSuffix(s, n.text)
	}
	t, ok := value.ParseTime(s)
	if !ok {
		return false
	}
	now := env.Now
	switch n.code {
	case codeBefore:
		return t.Before(n.times[0])
	case codeAfter:
		return t.After(n.times[0])
	case codeBetweenTimes:
		return !t.Before(n.times[0]) && !t.After(n.times[1])
	case codeWithinLast: // in (now-d, now], as events are counted
		return !t.After(now) && t.After(now.Add(-time.Duration(n.num)))
	case codeWithinNext: // in (now, now+d]
		return t.After(now) && !t.After(now.Add(time.Duration(n.num)))
	case codeOlderThan: // up to now-d
		return !t.After(now.Add(-time.Duration(n.num)))
	}
	return false
}

func (n *node) testOrder(v any) bool {
	c, ok := value.Compare(v, n.arg)
	if !ok {
		return false
	}
	switch n.code {
	case codeGreaterThan:
		return c > 0
	case codeAtLeast:
		return c >= 0
	case codeLessThan:
		return c < 0
	case codeAtMost:
		return c <= 0
	}
	return c == 0
}

// since returns the instant after which events count.
func (d *did) since(env *Env) time.Time {
	var since time.Time
	if d.window > 0 {
		since = env.Now.Add(-d.window)
	}
	if d.sinceEntry && !env.Entry.IsZero() {
		// One nanosecond earlier, so that what happened at the very instant
		// of entry counts.
		if e := env.Entry.Add(-1); e.After(since) {
			since = e
		}
	}
	return since
}

func (n *node) countHolds(env *Env) bool {
	if !env.ready(env.History != nil, errNoHistory) {
		return false
	}
	d := n.did
	c, err := env.History.Count(n.key, d.since(env), env.Now, d.where, d.limit)
	if err != nil {
		env.Err = err
		return false
	}
	return c >= d.lo && (d.hi < 0 || c <= d.hi)
}

func (n *node) inSegment(env *Env) bool {
	if !env.ready(env.InSegment != nil, errNoSegment) {
		return false
	}
	in, err := env.InSegment(n.key)
	if err != nil {
		env.Err = err
	}
	return in && err == nil
}

func (n *node) call(env *Env) bool {
	if !env.ready(env.Call != nil, errNoCall) {
		return false
	}
	holds, err := env.Call(n.key)
	if err != nil {
		env.Err = err
	}
	return holds && err == nil
}

// ready reports whether env can be asked, and records why it cannot.
func (env *Env) ready(has bool, missing error) bool {
	if env.Err == nil && !has {
		env.Err = missing
	}
	return env.Err == nil
}

// Index finds what listens for an event by its name.
type Index map[string][]int32

// NewIndex makes an index over n listeners; names returns those that the i-th
// listens for.
func NewIndex(n int, names func(i int) []string) Index {
	x := make(Index)
	for i := range n {
		for _, name := range names(i) {
			if l := x[name]; len(l) == 0 || l[len(l)-1] != int32(i) {
				x[name] = append(l, int32(i))
			}
		}
	}
	return x
}

// Lookup returns the positions that listen for name, ascending; nil when none
// does. The list must not be changed.
func (x Index) Lookup(name string) []int32 { return x[name] }

// LooksBack calls visit for each count of events that does not begin with the
// run: with the name of the event, and how far back it goes from now; 0 is
// without a limit.
func (r *Rule) LooksBack(visit func(event string, window time.Duration)) { r.root.looksBack(visit) }

func (n *node) looksBack(visit func(event string, window time.Duration)) {
	for i := range n.kids {
		n.kids[i].looksBack(visit)
	}
	if n.did != nil && !n.did.sinceEntry {
		visit(n.key, n.did.window)
	}
}
