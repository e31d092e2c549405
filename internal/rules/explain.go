package rules

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/getfluxly/fluxly/internal/value"
)

// Explanation says why a rule holds or not, node by node.
type Explanation struct {
	Text    string    // the condition, or "all of", "any of", "not"
	Verdict bool      // void when the Env ended in an error
	Value   any       // what was looked at: a value, or a count
	Note    string    // why a value could not be tested
	Next    time.Time // when the verdict may change by time alone
	Parts   []Explanation
}

// Explain evaluates every part of the rule, also those that [Rule.Eval] would
// not reach. The result is void when env.Err is set afterwards.
func (r *Rule) Explain(env *Env) Explanation { return r.root.explain(env) }

func (n *node) explain(env *Env) Explanation {
	e := Explanation{Text: n.x.String()}
	switch n.code {
	case codeAll, codeAny, codeNot:
		e.Text = [...]string{codeAll: "all of", codeAny: "any of", codeNot: "not"}[n.code]
		e.Verdict = n.code == codeAll
		for i := range n.kids {
			k := n.kids[i].explain(env)
			switch n.code {
			case codeAll:
				e.Verdict = e.Verdict && k.Verdict
			case codeAny:
				e.Verdict = e.Verdict || k.Verdict
			case codeNot:
				e.Verdict = !k.Verdict
			}
			e.Parts = append(e.Parts, k)
		}
	case codeTrue:
		e.Verdict = true
	case codeDid:
		e.Verdict = n.countHolds(env)
		if env.Err == nil {
			count, err := env.History.Count(n.key, n.did.since(env), env.Now, n.did.where, 0)
			if err != nil {
				env.Err = err
			}
			e.Value = int64(count)
		}
	case codeSegment, codeFunc:
		e.Verdict = n.eval(env)
	default:
		e.Verdict = n.eval(env)
		v, ok := n.value(env)
		e.Value, e.Note = v, n.note(v, ok)
	}
	if _, at := n.next(env); env.Err == nil {
		e.Next = at
	}
	return e
}

// note says why a value was not tested.
func (n *node) note(v any, ok bool) string {
	if n.code < codeIsText {
		return ""
	}
	want := n.wants()
	switch {
	case !ok:
		return "missing"
	case v == nil:
		return "null"
	case want == "" || want == typeOf(v):
		return ""
	case want == "a time":
		if _, ok := asTime(v); ok {
			return ""
		}
		if _, ok := v.(string); ok {
			return "is text that is no RFC 3339 time"
		}
	}
	return fmt.Sprintf("is %s, not %s", typeOf(v), want)
}

// wants is the type of value that n tests; "" when there are several.
func (n *node) wants() string {
	switch n.code {
	case codeIsText, codeInText, codeInSortedText, codeContains, codeStartsWith, codeEndsWith:
		return "text"
	case codeIsBool:
		return "a bool"
	case codeIncludes:
		return "a list"
	case codeInAny:
		want := typeOf(n.args[0])
		for _, a := range n.args[1:] {
			if typeOf(a) != want {
				return ""
			}
		}
		return want
	case codeBetweenTimes, codeBefore, codeAfter, codeWithinLast, codeWithinNext, codeOlderThan:
		return "a time"
	}
	return "a number"
}

func typeOf(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case bool:
		return "a bool"
	case string:
		return "text"
	case int64, float64, json.Number:
		return "a number"
	case []any:
		return "a list"
	}
	return "a map"
}

// ValueText writes a value for a terminal, cut after 64 bytes.
func ValueText(v any) string { return value.Text(v) }
