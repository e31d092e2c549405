package fluxly

import (
	"encoding/json"
	"testing"
	"time"
)

func explained(t *testing.T) Explanation {
	t.Helper()
	c := All(
		Prop("plan").In("pro", "team"),
		Attr("country").IsNot("US"),
		Did("login").AtMost(2).Within(7*Day),
		Any(
			Attr("seats").AtLeast(10),
			Attr("trial_ends_at").WithinNext(3*Day),
			Not(InSegment("customers")),
		),
		Func("f"),
	)
	env := &ruleEnv{
		Now:    ruleNow,
		Props:  map[string]any{"plan": "pro"},
		Traits: map[string]any{"seats": "12", "trial_ends_at": "2026-03-20T00:00:00+01:00"},
		History: past{
			{"login", ruleNow.Add(-Day), nil},
			{"login", ruleNow.Add(-2 * Day), nil},
			{"login", ruleNow.Add(-3 * Day), nil},
			{"login", ruleNow.Add(-6 * Day), nil},
			{"login", ruleNow.Add(-8 * Day), nil},
		},
		InSegment: func(string) (bool, error) { return true, nil },
		Call:      func(string) (bool, error) { return true, nil },
	}
	e := mustCompile(t, c).explain(env)
	if env.Err != nil {
		t.Fatal(env.Err)
	}
	return e
}

// G9: the tree with each leaf's value and verdict, and when it may change.
func TestG9ExplanationText(t *testing.T) {
	t.Parallel()
	const want = `no   all of (may change at 2026-03-16T23:00:00Z)
  yes  prop plan in ["pro","team"]: "pro"
  yes  attr country is not "US": missing
  no   did login at most 2 times within 7d: 4 (may change at 2026-03-14T12:00:00Z)
  no   any of (may change at 2026-03-16T23:00:00Z)
    no   attr seats >= 10: "12" is text, not a number
    no   attr trial_ends_at within the next 3d: "2026-03-20T00:00:00+01:00" (may change at 2026-03-16T23:00:00Z)
    no   not
      yes  in segment customers
  yes  func f`
	if got := explained(t).String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestG9ExplanationJSON(t *testing.T) {
	t.Parallel()
	const want = `{"text":"all of","holds":false,"next_change":"2026-03-16T23:00:00Z","parts":[` +
		`{"text":"prop plan in [\"pro\",\"team\"]","holds":true,"value":"pro"},` +
		`{"text":"attr country is not \"US\"","holds":true,"note":"missing"},` +
		`{"text":"did login at most 2 times within 7d","holds":false,"value":4,"next_change":"2026-03-14T12:00:00Z"},` +
		`{"text":"any of","holds":false,"next_change":"2026-03-16T23:00:00Z","parts":[` +
		`{"text":"attr seats \u003e= 10","holds":false,"value":"12","note":"is text, not a number"},` +
		`{"text":"attr trial_ends_at within the next 3d","holds":false,"value":"2026-03-20T00:00:00+01:00","next_change":"2026-03-16T23:00:00Z"},` +
		`{"text":"not","holds":false,"parts":[{"text":"in segment customers","holds":true}]}]},` +
		`{"text":"func f","holds":true}]}`
	got, err := json.Marshal(explained(t))
	if err != nil || string(got) != want {
		t.Errorf("%v\n got %s\nwant %s", err, got, want)
	}
}

func TestExplanationNotes(t *testing.T) {
	t.Parallel()
	f := Attr("x")
	for _, c := range []struct {
		c    Condition
		v    any
		want string
	}{
		{f.Is("a"), nil, `no   attr x is "a": null`},
		{f.Is("a"), true, `no   attr x is "a": true is a bool, not text`},
		{f.Is("a"), "b", `no   attr x is "a": "b"`},
		{f.Is(true), int64(1), `no   attr x is true: 1 is a number, not a bool`},
		{f.In("a", 1), []any{"a"}, `no   attr x in ["a",1]: ["a"]`},
		{f.In("a", "b"), []any{"a"}, `no   attr x in ["a","b"]: ["a"] is a list, not text`},
		{f.Includes("a"), map[string]any{}, `no   attr x includes "a": {} is a map, not a list`},
		{f.OlderThan(Day), "yesterday", `no   attr x older than 1d: "yesterday" is text that is no RFC 3339 time`},
		{f.OlderThan(Day), int64(5), `no   attr x older than 1d: 5 is a number, not a time`},
		{f.OlderThan(Day), "2026-03-10T00:00:00Z", `no   attr x older than 1d: "2026-03-10T00:00:00Z" (may change at 2026-03-11T00:00:00Z)`},
		{f.Missing(), int64(5), `no   attr x is missing: 5`},
		{f.IsNull(), nil, `yes  attr x is null`},
		{Condition{}, nil, `yes  always`},
	} {
		if got := mustCompile(t, c.c).explain(&ruleEnv{Now: ruleNow, Traits: map[string]any{"x": c.v}}).String(); got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
}

// sortedHistory is a history of times in ascending order, found by binary
// search.
type sortedHistory []int64

func (h sortedHistory) after(at time.Time) int {
	n := at.UnixNano()
	lo, hi := 0, len(h)
	for lo < hi {
		if mid := (lo + hi) / 2; h[mid] > n {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	return lo
}

func (h sortedHistory) Count(_ string, since, until time.Time, _ *eventRule, limit int) (int, error) {
	n := h.after(until) - h.after(since)
	if limit > 0 {
		n = min(n, limit)
	}
	return n, nil
}

func (h sortedHistory) NthLatest(_ string, n int, since, until time.Time, _ *eventRule) (time.Time, bool, error) {
	i := h.after(until) - n
	if i < h.after(since) {
		return time.Time{}, false, nil
	}
	return time.Unix(0, h[i]), true, nil
}

func ruleOfTheBar() (Condition, *ruleEnv) {
	c := All(
		Prop("plan").In("pro", "team"),
		Attr("country").IsNot("US"),
		Did("login").AtMost(2).Within(7*Day),
	)
	h := make(sortedHistory, 50)
	for i := range h {
		h[i] = ruleNow.Add(-time.Duration(50-i) * 3 * Day).UnixNano()
	}
	return c, &ruleEnv{
		Now: ruleNow, History: h,
		Props: map[string]any{"plan": "team", "amount": int64(1999)}, Traits: map[string]any{"country": "CH", "email": "ann@acme.test"},
	}
}

func TestRuleAllocatesNothing(t *testing.T) { //nolint:paralleltest // AllocsPerRun must run alone
	c, env := ruleOfTheBar()
	r := mustCompile(t, c)
	if !r.eval(env) {
		t.Fatal("does not hold")
	}
	every := mustCompile(t, Any(
		Attr("none").Is("x"), Attr("country").In("a", 1), Prop("amount").GreaterThan(5000.5), Prop("amount").Between(1, 2), Attr("a.b").Exists(),
		Attr("at").WithinLast(Day), Attr("at").Before(ruleNow.Add(-900*Day)), Attr("email").Contains("nobody"), Attr("list").Includes("c"),
		Not(Any(Attr("x").Missing())), InSegment("s"), Func("f"), Did("login").Within(Day).Where(Prop("x").Exists()).AtLeast(2),
	))
	env.Traits["at"] = "2026-03-01T00:00:00+09:00"
	env.Traits["list"] = []any{"a", "b"}
	env.InSegment = func(string) (bool, error) { return false, nil }
	env.Call = env.InSegment
	where := every.r
	index := newEventIndex(10_000, func(i int) []string { return []string{"event_" + string(rune('a'+i%26))} })
	for name, f := range map[string]func(){
		"eval":          func() { r.eval(env) },
		"every kind":    func() { every.eval(env) },
		"next change":   func() { r.nextChange(env) },
		"counted event": func() { where.EvalEvent(env.Props) },
		"unknown event": func() { index.Lookup("nobody_asks") },
	} {
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
	if every.eval(env) || env.Err != nil {
		t.Errorf("holds, or %v", env.Err)
	}
}
