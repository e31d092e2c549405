package fluxly

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/big"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// naive evaluates the JSON of a condition in the most literal way. It shares
// no code with the rules: other decoding, other comparison, other time.
type naive struct {
	now, entry    time.Time
	props, traits map[string]any
	events        past
}

func (n naive) holds(c map[string]any) bool {
	for _, kind := range []string{"all", "any"} {
		if list, ok := c[kind].([]any); ok {
			yes := 0
			for _, k := range list {
				if n.holds(k.(map[string]any)) {
					yes++
				}
			}
			return yes == len(list) || kind == "any" && yes > 0
		}
	}
	if k, ok := c["not"].(map[string]any); ok {
		return !n.holds(k)
	}
	if name, ok := c["did"].(string); ok {
		return n.did(name, c)
	}
	if name, ok := c["segment"].(string); ok {
		return strings.HasPrefix(name, "in")
	}
	m, key := n.traits, c["attr"]
	if key == nil {
		m, key = n.props, c["prop"]
	}
	v, present := m[key.(string)]
	for op, arg := range c {
		if op != "attr" && op != "prop" {
			return n.field(op, arg, v, present)
		}
	}
	panic("no operator")
}

func (n naive) did(name string, c map[string]any) bool {
	count := int64(0)
	for _, e := range n.events {
		switch {
		case e.name != name, e.at.After(n.now):
			continue
		case c["since_entry"] == true && e.at.Before(n.entry):
			continue
		}
		if w, ok := c["within"].(string); ok {
			d, err := time.ParseDuration(w)
			if err != nil {
				panic(err)
			}
			if n.now.Sub(e.at) >= d {
				continue
			}
		}
		if w, ok := c["where"].(map[string]any); ok && !(naive{props: e.props}).holds(w) {
			continue
		}
		count++
	}
	num := func(key string) (int64, bool) {
		v, ok := c[key].(json.Number)
		i, _ := v.Int64()
		return i, ok
	}
	if k, ok := num("exactly"); ok {
		return count == k
	}
	lo, _ := num("at_least")
	hi, bounded := num("at_most")
	return count >= lo && (!bounded || count <= hi)
}

func (n naive) field(op string, arg, v any, present bool) bool {
	switch op {
	case "exists":
		return present
	case "missing":
		return !present
	case "is_null":
		return present && v == nil
	case "is_not":
		return !same(v, arg)
	case "not_in":
		return !slices.ContainsFunc(arg.([]any), func(a any) bool { return same(v, a) })
	}
	if v == nil {
		return false
	}
	text, isText := v.(string)
	switch op {
	case "is":
		return same(v, arg)
	case "in":
		return slices.ContainsFunc(arg.([]any), func(a any) bool { return same(v, a) })
	case "includes":
		l, _ := v.([]any)
		return slices.ContainsFunc(l, func(a any) bool { return same(a, arg) })
	case "contains":
		return isText && strings.Contains(text, arg.(string))
	case "starts_with":
		return isText && strings.HasPrefix(text, arg.(string))
	case "ends_with":
		return isText && strings.HasSuffix(text, arg.(string))
	case "greater_than", "less_than", "at_least", "at_most":
		x, y := exactly(v), exactly(arg)
		if x == nil {
			return false
		}
		c := x.Cmp(y)
		return map[string]bool{"greater_than": c > 0, "less_than": c < 0, "at_least": c >= 0, "at_most": c <= 0}[op]
	case "between":
		lo, hi := arg.([]any)[0], arg.([]any)[1]
		if exactly(lo) != nil {
			x := exactly(v)
			return x != nil && x.Cmp(exactly(lo)) >= 0 && x.Cmp(exactly(hi)) <= 0
		}
		t, err := time.Parse(time.RFC3339, text)
		return isText && err == nil && !t.Before(readInstant(lo)) && !t.After(readInstant(hi))
	}
	t, err := time.Parse(time.RFC3339, text)
	if !isText || err != nil {
		return false
	}
	switch op {
	case "before":
		return t.Before(readInstant(arg))
	case "after":
		return t.After(readInstant(arg))
	}
	d, err := time.ParseDuration(arg.(string))
	if err != nil {
		panic(err)
	}
	ago := n.now.Sub(t)
	switch op {
	case "within_last":
		return ago >= 0 && ago < d
	case "within_next":
		return ago < 0 && -ago <= d
	case "older_than":
		return ago >= d
	}
	panic(op)
}

func same(a, b any) bool {
	if x, y := exactly(a), exactly(b); x != nil && y != nil {
		return x.Cmp(y) == 0
	}
	switch a.(type) {
	case bool, string:
		return a == b
	}
	return false
}

func exactly(v any) *big.Rat {
	switch v := v.(type) {
	case int64:
		return new(big.Rat).SetInt64(v)
	case float64:
		return new(big.Rat).SetFloat64(v)
	case json.Number:
		if f, ok := plainFloat(v); ok {
			return new(big.Rat).SetFloat64(f)
		}
		r, _ := new(big.Rat).SetString(string(v))
		return r
	}
	return nil
}

// plainFloat is the float64 that a number written with a point stands for.
func plainFloat(v json.Number) (float64, bool) {
	f, err := v.Float64()
	return f, err == nil && strings.Contains(string(v), ".") && len(v) < 8
}

func readInstant(v any) time.Time {
	t, err := time.Parse(time.RFC3339, v.(string))
	if err != nil {
		panic(err)
	}
	return t
}

// ruleMaker makes random conditions and what they are asked about, from few
// enough names and values that they meet.
type ruleMaker struct{ *rand.Rand }

func (g ruleMaker) when() time.Time {
	return ruleNow.Add(time.Duration(g.IntN(17)-12) * 6 * time.Hour)
}

func (g ruleMaker) span() time.Duration { return time.Duration(1+g.IntN(10)) * 6 * time.Hour }

func (g ruleMaker) scalar() any {
	switch g.IntN(6) {
	case 0:
		return g.IntN(2) == 0
	case 1, 2:
		return []string{"a", "ab", "b", "5"}[g.IntN(4)]
	case 3:
		return float64(g.IntN(8)) / 2
	case 4:
		return json.Number("18446744073709551615")
	}
	return int64(g.IntN(5))
}

func (g ruleMaker) number() any {
	if g.IntN(2) == 0 {
		return float64(g.IntN(8)) / 2
	}
	return int64(g.IntN(5))
}

func (g ruleMaker) value() any {
	switch g.IntN(8) {
	case 0:
		return nil
	case 1, 2:
		return g.when().In(time.FixedZone("", (g.IntN(5)-2)*3600)).Format(time.RFC3339)
	case 3:
		return []any{g.scalar(), nil, g.scalar()}
	case 4:
		return map[string]any{"a": int64(1)}
	}
	return g.scalar()
}

func (g ruleMaker) values() map[string]any {
	m := map[string]any{}
	for _, k := range []string{"x", "y", "z"} {
		if g.IntN(5) > 0 {
			m[k] = g.value()
		}
	}
	return m
}

func (g ruleMaker) field(f Field, relative bool) Condition {
	most := 21
	if !relative {
		most = 18
	}
	switch g.IntN(most) {
	case 0:
		return f.Is(g.scalar())
	case 1:
		return f.IsNot(g.scalar())
	case 2:
		return f.In(g.scalar(), g.scalar())
	case 3:
		return f.NotIn("a", "ab", "c", "d", "e", "f", "g", "h", "i")
	case 4:
		return f.GreaterThan(g.number())
	case 5:
		return f.AtLeast(g.number())
	case 6:
		return f.LessThan(g.number())
	case 7:
		return f.AtMost(g.number())
	case 8:
		return f.Between(int64(g.IntN(3)), 2.5+float64(g.IntN(3)))
	case 9:
		lo := g.when()
		return f.Between(lo, lo.Add(g.span()))
	case 10:
		return f.Contains("b")
	case 11:
		return f.StartsWith("a")
	case 12:
		return f.EndsWith("b")
	case 13:
		return f.Includes(g.scalar())
	case 14:
		return f.Before(g.when())
	case 15:
		return f.After(g.when())
	case 16:
		return f.Exists()
	case 17:
		return f.IsNull()
	case 18:
		return f.WithinLast(g.span())
	case 19:
		return f.WithinNext(g.span())
	}
	return f.OlderThan(g.span())
}

func (g ruleMaker) key() string { return []string{"x", "y", "z"}[g.IntN(3)] }

func (g ruleMaker) leaf() Condition {
	switch g.IntN(8) {
	case 0, 1:
		return g.field(Prop(g.key()), true)
	case 2, 3:
		return g.field(Attr(g.key()), true)
	case 4:
		return InSegment([]string{"in", "out"}[g.IntN(2)])
	}
	c := Did([]string{"e", "f"}[g.IntN(2)])
	switch g.IntN(5) {
	case 0:
		c = c.AtLeast(1 + g.IntN(4))
	case 1:
		c = c.AtMost(g.IntN(4))
	case 2:
		c = c.Exactly(g.IntN(4))
	case 3:
		lo := 1 + g.IntN(2)
		c = c.AtLeast(lo).AtMost(lo + g.IntN(2))
	}
	if g.IntN(4) > 0 {
		c = c.Within(g.span())
	}
	if g.IntN(4) == 0 {
		c = c.SinceEntry()
	}
	if g.IntN(3) == 0 {
		w := g.field(Prop("x"), false)
		if g.IntN(2) == 0 {
			w = Any(Not(w), g.field(Prop("y"), false))
		}
		c = c.Where(w)
	}
	return c
}

func (g ruleMaker) tree(depth int) Condition {
	if depth <= 1 || g.IntN(6) == 0 {
		return g.leaf()
	}
	if g.IntN(4) == 0 {
		return Not(g.tree(depth - 1))
	}
	kids := make([]Condition, 1+g.IntN(3))
	for i := range kids {
		kids[i] = g.tree(depth - 1)
	}
	if g.IntN(2) == 0 {
		return All(kids...)
	}
	return Any(kids...)
}

func (g ruleMaker) history() past {
	h := make(past, g.IntN(12))
	for i := range h {
		h[i] = pastEvent{[]string{"e", "f"}[g.IntN(2)], g.when(), map[string]any{"x": g.value(), "y": g.value()}}
	}
	return h
}

// G3: random trees to depth 8 agree with a naive evaluator on generated
// histories; and between now and the next change that a rule names, its
// verdict stays.
func TestG3RandomTreesAgreeWithANaiveEvaluator(t *testing.T) {
	t.Parallel()
	trees, histories := 2_000, 50
	if testing.Short() {
		trees = 200
	}
	g := ruleMaker{rand.New(rand.NewPCG(3, 3))}
	held, changing := 0, 0
	for range trees {
		c := g.tree(8)
		r := mustCompile(t, c)
		text, err := c.MarshalJSON()
		if err != nil {
			t.Fatalf("%s: %v", c, err)
		}
		dec := json.NewDecoder(bytes.NewReader(text))
		dec.UseNumber()
		var tree map[string]any
		if err := dec.Decode(&tree); err != nil {
			t.Fatal(err)
		}
		for i := range histories {
			n := naive{now: ruleNow, entry: g.when(), props: g.values(), traits: g.values(), events: g.history()}
			env := &ruleEnv{
				Now: n.now, Entry: n.entry, Props: n.props, Traits: n.traits, History: n.events,
				InSegment: func(name string) (bool, error) { return name == "in", nil },
			}
			got, want := r.eval(env), n.holds(tree)
			if env.Err != nil || got != want {
				t.Fatalf("%s\non %s\ngot %v, %v, want %v", text, describe(n), got, env.Err, want)
			}
			if got {
				held++
			}
			next := r.nextChange(env)
			if !next.IsZero() {
				changing++
				if !next.After(ruleNow) {
					t.Fatalf("%s\non %s\nthe next change at %v is not in the future", text, describe(n), next)
				}
			}
			if next.IsZero() && i%16 > 0 {
				continue // most futures without a change are not walked, for time
			}
			// All that is known up to now stays as it is; only time goes on.
			// Every instant of the maker is a multiple of 6 hours.
			n.events = slices.DeleteFunc(slices.Clone(n.events), func(e pastEvent) bool { return e.at.After(ruleNow) })
			for h := 1; h <= 18; h++ {
				n.now = ruleNow.Add(time.Duration(h) * 6 * time.Hour)
				if !next.IsZero() && !n.now.Before(next) {
					n.now = next.Add(-1)
					h = 99
				}
				if n.holds(tree) != want {
					t.Fatalf("%s\non %s\nchanges at %v, before %v", text, describe(n), n.now, next)
				}
			}
		}
	}
	// Both answers must have been tried often, and changes by time too.
	total := trees * histories
	if held < total/5 || held > total*4/5 || changing < total/25 {
		t.Errorf("of %d, %d held and %d have a next change: the sample is lopsided", total, held, changing)
	}
	t.Logf("%d: %d held, %d have a next change", total, held, changing)
}

func describe(n naive) string {
	return fmt.Sprintf("props %v traits %v entry %v events %v", n.props, n.traits, n.entry, n.events)
}

// What time alone cannot change has no next change, so nobody is woken for it.
func TestNextChangeLeavesTheSettledAlone(t *testing.T) {
	t.Parallel()
	h := past{{"e", ruleNow.Add(-Day), nil}, {"f", ruleNow.Add(-2 * Day), nil}}
	e, f := Did("e").Within(7*Day), Did("f").Within(7*Day)
	for _, c := range []struct {
		c    Condition
		want time.Duration // 0 is never
	}{
		{All(e, Attr("x").Exists()), 0},
		{Any(e, Attr("x").Missing()), 0},
		{Not(Any(e, Attr("x").Missing())), 0},
		{All(e, f), 5 * Day},
		{Any(e, f), 6 * Day},
		{All(Not(e), Not(f)), 6 * Day},
		{Not(Any(e, f)), 6 * Day},
		{All(e, Func("f")), 6 * Day},
		{All(Not(e), f, Func("f")), 6 * Day},
		{Any(Not(e), Func("f")), 6 * Day},
		{All(Func("f"), Attr("x").Exists(), e), 0},
		{Did("e").AtLeast(2).Within(7 * Day), 0},
		{Did("e"), 0},
		{Attr("x").WithinLast(Day), 0},
		{Attr("never").OlderThan(Day), 0},
		{Condition{}, 0},
	} {
		env := &ruleEnv{Now: ruleNow, History: h, Traits: map[string]any{"y": "2026-03-10T12:00:00Z", "never": "9999-12-31T23:00:00Z"}}
		var want time.Time
		if c.want > 0 {
			want = ruleNow.Add(c.want)
		}
		if got := mustCompile(t, c.c).nextChange(env); !got.Equal(want) || env.Err != nil {
			t.Errorf("%s: %v, want %v (%v)", c.c, got, want, env.Err)
		}
	}
}

// A chain of next changes visits every instant at which the verdict changes,
// and wakes rarely in between.
func TestNextChangeFindsEveryChange(t *testing.T) {
	t.Parallel()
	c := All(Did("e").AtLeast(2).Within(7*Day), Any(Attr("trial").WithinNext(2*Day), Attr("trial").OlderThan(Day)))
	r := mustCompile(t, c)
	h := past{{"e", ruleNow.Add(-Day), nil}, {"e", ruleNow, nil}, {"e", ruleNow, nil}, {"e", ruleNow.Add(-3 * Day), nil}}
	env := &ruleEnv{Now: ruleNow, History: h, Traits: map[string]any{"trial": ruleNow.Add(4 * Day).Format(time.RFC3339)}}
	var got []string
	last, wakes := r.eval(env), 0
	for {
		next := r.nextChange(env)
		if next.IsZero() || wakes > 10 {
			break
		}
		env.Now = next
		wakes++
		if v := r.eval(env); v != last {
			last = v
			got = append(got, fmt.Sprint(v, " ", next.Sub(ruleNow)))
		}
	}
	// Enters 2 days before the trial ends, leaves at its end, enters a day
	// after it, leaves when the second latest event is 7 days old.
	want := "[true 48h0m0s false 96h0m0s true 120h0m0s false 168h0m0s]"
	if fmt.Sprint(got) != want || wakes != 4 {
		t.Errorf("got %v after %d wakes, want %s after 4", got, wakes, want)
	}
}
