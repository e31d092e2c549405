package rules

import (
	"time"

	"github.com/getfluxly/fluxly/internal/value"
)

// verdict is an answer where a func is not called, and so either.
type verdict uint8

const (
	no verdict = iota
	yes
	either
)

func verdictOf(b bool) verdict {
	if b {
		return yes
	}
	return no
}

// NextChange returns the earliest instant after env.Now at which the verdict
// may change by time alone: with the same profile, memberships and answers of
// funcs, and no event that is not in the history up to now. Before that instant
// the verdict does not change; at it, it may or may not. Zero is never, or not
// before the year 10000. Funcs are not called. The result is void when env.Err
// is set afterwards.
func (r *Rule) NextChange(env *Env) time.Time {
	if !r.uses.Time {
		return time.Time{}
	}
	_, at := r.root.next(env)
	if env.Err != nil {
		return time.Time{}
	}
	return at
}

func (n *node) next(env *Env) (verdict, time.Time) {
	switch n.code {
	case codeAll:
		return n.nextGroup(env, no)
	case codeAny:
		return n.nextGroup(env, yes)
	case codeNot:
		v, at := n.kids[0].next(env)
		switch v {
		case yes:
			v = no
		case no:
			v = yes
		}
		return v, at
	case codeDid:
		return n.nextCount(env)
	case codeFunc:
		return either, time.Time{}
	case codeWithinLast, codeWithinNext, codeOlderThan:
		return n.nextAge(env)
	}
	return verdictOf(n.eval(env)), time.Time{}
}

// nextGroup is for All, which one no decides, and Any, which one yes decides.
func (n *node) nextGroup(env *Env, decisive verdict) (verdict, time.Time) {
	var (
		decided, unsure bool
		stuck           bool      // one that decides never changes
		last            time.Time // the latest change of those that decide
		first           time.Time // the earliest change of the others
	)
	for i := range n.kids {
		v, at := n.kids[i].next(env)
		switch {
		case v == decisive:
			// The group keeps its verdict as long as one of these keeps its own.
			decided = true
			stuck = stuck || at.IsZero()
			if at.After(last) {
				last = at
			}
			continue
		case v == either:
			unsure = true
		}
		if !at.IsZero() && (first.IsZero() || at.Before(first)) {
			first = at
		}
	}
	switch {
	case decided && stuck:
		return decisive, time.Time{}
	case decided:
		return decisive, last
	case unsure:
		return either, first
	}
	return yes - decisive, first
}

// nextCount: as time passes events only leave the window, the oldest first. So
// the count falls below k when the k-th latest of them leaves.
func (n *node) nextCount(env *Env) (verdict, time.Time) {
	if !env.ready(env.History != nil, errNoHistory) {
		return no, time.Time{}
	}
	d := n.did
	if d.window <= 0 {
		return verdictOf(n.countHolds(env)), time.Time{}
	}
	since := d.since(env)
	leaves := func(k int) (time.Time, bool) {
		at, ok, err := env.History.NthLatest(n.key, k, since, env.Now, d.where)
		if err != nil {
			env.Err = err
		}
		return at.Add(d.window), ok && err == nil
	}
	if d.hi >= 0 {
		if at, ok := leaves(d.hi + 1); ok {
			return no, at
		}
	}
	if d.lo == 0 {
		return yes, time.Time{}
	}
	if at, ok := leaves(d.lo); ok {
		return yes, at
	}
	return no, time.Time{}
}

// nextAge is for times that are compared with now.
func (n *node) nextAge(env *Env) (verdict, time.Time) {
	v, _ := n.value(env)
	holds := n.test(v, env)
	s, ok := v.(string)
	if !ok {
		return no, time.Time{}
	}
	t, ok := value.ParseTime(s)
	if !ok {
		return no, time.Time{}
	}
	d := time.Duration(n.num)
	var starts, ends time.Time // the verdict is yes from starts on, and no from ends on
	switch n.code {
	case codeWithinLast:
		starts, ends = t, t.Add(d)
	case codeWithinNext:
		starts, ends = t.Add(-d), t
	default:
		starts = t.Add(d)
	}
	switch {
	case holds:
		return yes, reachable(ends)
	case starts.After(env.Now):
		return no, reachable(starts)
	}
	return no, time.Time{}
}

// reachable is never for what comes after the year 9999, which no store need
// keep: "9999-12-31" is how many programs write never.
func reachable(t time.Time) time.Time {
	if t.UTC().Year() > 9999 {
		return time.Time{}
	}
	return t
}
