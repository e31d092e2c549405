package fluxly

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var ruleNow = time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)

// past is a ruleHistory over a list of events.
type past []pastEvent

type pastEvent struct {
	name  string
	at    time.Time
	props map[string]any
}

func (p past) matching(name string, since, until time.Time, where *eventRule) []time.Time {
	var found []time.Time
	for _, e := range p {
		if e.name == name && e.at.After(since) && !e.at.After(until) && (where == nil || where.EvalEvent(e.props)) {
			found = append(found, e.at)
		}
	}
	return found
}

func (p past) Count(name string, since, until time.Time, where *eventRule, limit int) (int, error) {
	n := len(p.matching(name, since, until, where))
	if limit > 0 {
		n = min(n, limit)
	}
	return n, nil
}

func (p past) NthLatest(name string, n int, since, until time.Time, where *eventRule) (time.Time, bool, error) {
	found := p.matching(name, since, until, where)
	if n > len(found) {
		return time.Time{}, false, nil
	}
	for i := range found { // the list is in order of receipt, not of occurrence
		for j := i + 1; j < len(found); j++ {
			if found[j].After(found[i]) {
				found[i], found[j] = found[j], found[i]
			}
		}
	}
	return found[n-1], true, nil
}

func mustCompile(t testing.TB, c Condition) *rule {
	t.Helper()
	r, err := compileCondition(c, compileContext{Funcs: map[string]ConditionFunc{
		"f": func(context.Context, FuncInput) (bool, error) { return true, nil },
	}})
	if err != nil {
		t.Fatalf("%s: %v", c, err)
	}
	return r
}

// G2: every operator on every type, present, missing, null and of a wrong
// type, has a fixed answer. The string holds the answers for the values in
// order: y yes, n no.
func TestG2OperatorsByType(t *testing.T) {
	t.Parallel()
	values := []struct {
		name string
		v    any
	}{
		{"missing", nil},
		{"null", nil},
		{"bool", true},
		{"text", "trial"},
		{"int", int64(5)},
		{"float", 5.5},
		{"big", json.Number("18446744073709551615")},
		{"past", "2026-03-09T12:00:00+02:00"}, // a day and two hours ago
		{"future", "2026-03-11T12:00:00Z"},    // a day ahead
		{"list", []any{"trial", int64(5), nil}},
		{"map", map[string]any{"a": int64(1)}},
	}
	f := Attr("x")
	march := func(day int) time.Time { return time.Date(2026, 3, day, 0, 0, 0, 0, time.UTC) }
	for _, c := range []struct {
		c    Condition
		want string // missing null bool text int float big past future list map
	}{
		{f.Is("trial"), "nnnynnnnnnn"},
		{f.Is("5"), "nnnnnnnnnnn"},
		{f.Is(true), "nnynnnnnnnn"},
		{f.Is(false), "nnnnnnnnnnn"},
		{f.Is(5), "nnnnynnnnnn"},
		{f.Is(5.0), "nnnnynnnnnn"},
		{f.Is(5.5), "nnnnnynnnnn"},
		{f.Is(uint64(18446744073709551615)), "nnnnnnynnnn"},
		{f.IsNot("trial"), "yyynyyyyyyy"},
		{f.IsNot(true), "yynyyyyyyyy"},
		{f.IsNot(5), "yyyynyyyyyy"},
		{f.In("trial", "pro"), "nnnynnnnnnn"},
		{f.In("a", "b", "c", "d", "e", "f", "g", "h", "trial"), "nnnynnnnnnn"},
		{f.In("a", "b", "c", "d", "e", "f", "g", "h", "i"), "nnnnnnnnnnn"},
		{f.In(5, "trial", true), "nnyyynnnnnn"},
		{f.NotIn("trial", "pro"), "yyynyyyyyyy"},
		{f.NotIn("z", "b", "c", "d", "e", "f", "g", "h", "trial"), "yyynyyyyyyy"},
		{f.NotIn(5, 5.5), "yyyynnyyyyy"},
		{f.GreaterThan(5), "nnnnnyynnnn"},
		{f.AtLeast(5), "nnnnyyynnnn"},
		{f.LessThan(5.5), "nnnnynnnnnn"},
		{f.AtMost(5.5), "nnnnyynnnnn"},
		{f.Between(5, 6), "nnnnyynnnnn"},
		{f.Between(5.1, 5.5), "nnnnnynnnnn"},
		{f.Between(march(9), march(10)), "nnnnnnnynnn"},
		{f.Between("2026-03-11T12:00:00Z", "2026-03-11T12:00:00Z"), "nnnnnnnnynn"},
		{f.Contains("ria"), "nnnynnnnnnn"},
		{f.Contains("RIA"), "nnnnnnnnnnn"},
		{f.StartsWith("tri"), "nnnynnnnnnn"},
		{f.EndsWith("ial"), "nnnynnnnnnn"},
		{f.Includes("trial"), "nnnnnnnnnyn"},
		{f.Includes(5.0), "nnnnnnnnnyn"},
		{f.Includes(true), "nnnnnnnnnnn"},
		{f.Before(march(10)), "nnnnnnnynnn"},
		{f.After(march(10)), "nnnnnnnnynn"},
		{f.WithinLast(2 * Day), "nnnnnnnynnn"},
		{f.WithinLast(Day), "nnnnnnnnnnn"},
		{f.WithinNext(Day), "nnnnnnnnynn"},
		{f.WithinNext(Day - 1), "nnnnnnnnnnn"},
		{f.OlderThan(Day), "nnnnnnnynnn"},
		{f.OlderThan(0), "nnnnnnnynnn"},
		{f.OlderThan(2 * Day), "nnnnnnnnnnn"},
		{f.Exists(), "nyyyyyyyyyy"},
		{f.Missing(), "ynnnnnnnnnn"},
		{f.IsNull(), "nynnnnnnnnn"},
	} {
		r, negated := mustCompile(t, c.c), mustCompile(t, Not(c.c))
		for i, v := range values {
			traits := Traits{"x": v.v}
			if v.name == "missing" {
				traits = Traits{"y": 1}
			}
			env := &ruleEnv{Now: ruleNow, Traits: traits}
			want := c.want[i] == 'y'
			if got := r.eval(env); got != want {
				t.Errorf("%s of %s: %v, want %v", c.c, v.name, got, want)
			}
			if got := negated.eval(env); got == want {
				t.Errorf("not (%s) of %s: %v, want %v", c.c, v.name, got, !want)
			}
			if got := r.explain(env); got.Holds != want {
				t.Errorf("explanation of %s of %s: %v, want %v", c.c, v.name, got.Holds, want)
			}
			if env.Err != nil {
				t.Errorf("%s of %s: %v", c.c, v.name, env.Err)
			}
		}
		if env := (&ruleEnv{Now: ruleNow}); r.eval(env) != (c.want[0] == 'y') {
			t.Errorf("%s without any traits: %v", c.c, c.want[0] != 'y')
		}
	}
}

func TestRuleNestedKeys(t *testing.T) {
	t.Parallel()
	traits := map[string]any{
		"address": map[string]any{"city": "Bern", "geo.lat": 46.9},
		"a.b":     "literal", "a": map[string]any{"b": "nested"},
	}
	for _, c := range []struct {
		c    Condition
		want bool
	}{
		{Attr("address.city").Is("Bern"), true},
		{Attr("address.geo.lat").GreaterThan(46), true},
		{Attr("a.b").Is("literal"), true},
		{Attr("address.street").Missing(), true},
		{Attr("a.b.c").Exists(), false},
		{Prop("address.city").Exists(), false},
	} {
		if got := mustCompile(t, c.c).eval(&ruleEnv{Traits: traits}); got != c.want {
			t.Errorf("%s: %v", c.c, got)
		}
	}
}

// G1: counts in a window, with a filter on properties, are exact at the
// boundary, and a late event with an old time counts where it belongs.
func TestG1CountInWindow(t *testing.T) {
	t.Parallel()
	web := map[string]any{"kind": "web"}
	api := map[string]any{"kind": "api"}
	at := func(ago time.Duration, props map[string]any) pastEvent {
		return pastEvent{"project_created", ruleNow.Add(-ago), props}
	}
	did := Did("project_created").Where(Prop("kind").Is("web")).Within(7 * Day)
	three := did.AtLeast(3)
	for name, c := range map[string]struct {
		c    Condition
		h    past
		want bool
		next time.Duration // from now; 0 is never
	}{
		"three in the window":     {three, past{at(0, web), at(Day, web), at(7*Day-1, web)}, true, 1},
		"the oldest is 7d old":    {three, past{at(0, web), at(Day, web), at(7*Day, web)}, false, 0},
		"another kind":            {three, past{at(0, web), at(Day, web), at(2*Day, api)}, false, 0},
		"an event to come":        {three, past{at(-1, web), at(Day, web), at(2*Day, web)}, false, 0},
		"four, two must go":       {three, past{at(0, web), at(Day, web), at(6*Day, web), at(5*Day, web)}, true, 2 * Day},
		"late with an old time":   {three, past{at(0, web), at(Day, web), at(9*Day, web), at(3*Day, web)}, true, 4 * Day},
		"at most two holds":       {did.AtMost(2), past{at(0, web), at(Day, web)}, true, 0},
		"at most two, until gone": {did.AtMost(2), past{at(0, web), at(Day, web), at(6*Day, web)}, false, Day},
		"exactly two":             {did.Exactly(2), past{at(0, web), at(Day, web)}, true, 6 * Day},
		"exactly two, has three":  {did.Exactly(2), past{at(0, web), at(Day, web), at(6*Day, web)}, false, Day},
		"exactly two, has one":    {did.Exactly(2), past{at(0, web)}, false, 0},
		"never":                   {did.Never(), past{at(7*Day, web)}, true, 0},
		"never, did":              {did.Never(), past{at(6*Day, web)}, false, Day},
		"once":                    {did, past{at(6*Day, web)}, true, Day},
		"range":                   {did.AtLeast(1).AtMost(2), past{at(6*Day, web), at(Day, web), at(0, web)}, false, Day},
		"without a window":        {Did("project_created").AtLeast(2), past{at(0, web), at(900*Day, api)}, true, 0},
	} {
		env := &ruleEnv{Now: ruleNow, History: c.h}
		r := mustCompile(t, c.c)
		if got := r.eval(env); got != c.want || env.Err != nil {
			t.Errorf("%s: %v, %v", name, got, env.Err)
		}
		var want time.Time
		if c.next != 0 {
			want = ruleNow.Add(c.next)
		}
		if got := r.nextChange(env); !got.Equal(want) {
			t.Errorf("%s: next change %v, want %v", name, got, want)
		}
	}
}

func TestDidSinceEntry(t *testing.T) {
	t.Parallel()
	h := past{
		{"signed_up", ruleNow.Add(-2 * Day), nil},
		{"project_created", ruleNow.Add(-3 * Day), nil},
		{"project_created", ruleNow.Add(-Day), nil},
	}
	env := &ruleEnv{Now: ruleNow, History: h, Entry: ruleNow.Add(-2 * Day)}
	for c, want := range map[*Condition]bool{
		new(Did("signed_up").SinceEntry()):                                  true,
		new(Did("project_created").SinceEntry().Exactly(1)):                 true,
		new(Did("project_created").Exactly(2)):                              true,
		new(Did("project_created").SinceEntry().Within(Day)):                false,
		new(Did("project_created").SinceEntry().Within(5 * Day).AtLeast(2)): false,
	} {
		if got := mustCompile(t, *c).eval(env); got != want {
			t.Errorf("%s: %v", c, got)
		}
	}
	env.Entry = time.Time{}
	if !mustCompile(t, Did("project_created").SinceEntry().Exactly(2)).eval(env) {
		t.Error("without an entry, since entry is from the beginning")
	}
}

func TestRuleSegmentsAndFuncs(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	env := func() *ruleEnv {
		return &ruleEnv{
			InSegment: func(name string) (bool, error) { return name == "in", nil },
			Call:      func(string) (bool, error) { return true, nil },
		}
	}
	if !mustCompile(t, All(InSegment("in"), Not(InSegment("out")), Func("f"))).eval(env()) {
		t.Error("does not hold")
	}
	for name, c := range map[string]struct {
		c   Condition
		env *ruleEnv
	}{
		"segment fails":   {Not(InSegment("in")), &ruleEnv{InSegment: func(string) (bool, error) { return true, boom }}},
		"func fails":      {Any(Func("f"), Func("f")), &ruleEnv{Call: func(string) (bool, error) { return true, boom }}},
		"history fails":   {All(Not(Did("x")), Did("y").Within(Day)), &ruleEnv{History: broken{boom}}},
		"history not set": {Did("x"), &ruleEnv{}},
		"segment not set": {InSegment("in"), &ruleEnv{}},
		"func not set":    {Func("f"), &ruleEnv{}},
	} {
		r := mustCompile(t, c.c)
		if r.eval(c.env); c.env.Err == nil {
			t.Errorf("%s: no error", name)
		}
		first := c.env.Err
		c.env.Err = nil
		r.explain(c.env)
		if !errors.Is(c.env.Err, first) {
			t.Errorf("%s: explain has the error %v, want %v", name, c.env.Err, first)
		}
	}
	e := &ruleEnv{Now: ruleNow, History: broken{boom}}
	if at := mustCompile(t, Did("y").Within(Day)).nextChange(e); !at.IsZero() || !errors.Is(e.Err, boom) {
		t.Errorf("next change %v, %v", at, e.Err)
	}
}

type broken struct{ err error }

func (b broken) Count(string, time.Time, time.Time, *eventRule, int) (int, error) { return 9, b.err }

func (b broken) NthLatest(string, int, time.Time, time.Time, *eventRule) (time.Time, bool, error) {
	return ruleNow, true, b.err
}

func TestRuleUses(t *testing.T) {
	t.Parallel()
	c := All(
		Prop("plan").Is("x"), Prop("plan").Is("y"), Attr("b").Exists(), Attr("a").Exists(), InSegment("s"), Func("f"),
		Any(Did("login").Where(Prop("inner").Exists()), Not(Did("export").Within(Day))),
	)
	want := ruleUses{
		Events: []string{"export", "login"}, Props: []string{"plan"}, Attrs: []string{"a", "b"},
		Segments: []string{"s"}, Funcs: []string{"f"}, Time: true,
	}
	if d := cmp.Diff(want, mustCompile(t, c).uses()); d != "" {
		t.Error(d)
	}
	if mustCompile(t, Condition{}).uses().Time || mustCompile(t, Did("x")).uses().Time {
		t.Error("time matters to a rule without a window")
	}
	if !mustCompile(t, Condition{}).eval(&ruleEnv{}) {
		t.Error("the zero condition does not hold")
	}
}

func TestEventIndex(t *testing.T) {
	t.Parallel()
	names := [][]string{{"a", "b"}, {"b"}, nil, {"a", "a"}}
	x := newEventIndex(len(names), func(i int) []string { return names[i] })
	for name, want := range map[string][]int32{"a": {0, 3}, "b": {0, 1}, "c": nil} {
		if d := cmp.Diff(want, x.Lookup(name)); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
}
