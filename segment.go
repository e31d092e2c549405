package fluxly

import (
	"maps"
	"slices"
	"time"
)

// Segment is a condition on people with a name. Membership is kept true by
// the events and traits that it looks at, in the transaction that brings them,
// and by time: a member of "active within 7 days" leaves at the instant the
// seven days are over, by a timer of their own.
type Segment struct {
	// Name is lower-case letters, digits, "-" and "_", at most 40 characters.
	Name string
	// Where is the condition. It sees traits, counted events and other
	// segments, not the properties of an event in hand.
	Where Condition
}

// segmentSet are the segments, compiled, and indexed by what they look at.
type segmentSet struct {
	list     []compiledSegment
	bySignal map[string][]int
	// byDep are the segments that look at a segment, directly or through
	// others.
	byDep map[string][]int
}

type compiledSegment struct {
	name string
	rule *rule
}

// compileSegments checks and compiles the segments, each before those that
// look at it, so that one pass in order brings all up to date.
func (c *compiler) compileSegments(defs []Segment) *segmentSet {
	set := &segmentSet{bySignal: map[string][]int{}, byDep: map[string][]int{}}
	byName := map[string]*rule{}
	var names []string
	for _, s := range defs {
		if err := checkSlug(s.Name, maxAutomationName); err != nil {
			c.problem("", "", "Segments", "name %v", err)
		}
		if byName[s.Name] != nil {
			c.problem("", "", "Segments", "%q is defined twice", s.Name)
			continue
		}
		cc := c.rules
		cc.NoEvent, cc.NoEntry = true, true
		r, err := compileCondition(s.Where, cc)
		if err != nil {
			c.problem("", "", "Segments", "%q: %v", s.Name, err)
			continue
		}
		byName[s.Name] = r
		names = append(names, s.Name)
	}
	const (
		unseen = iota
		open
		done
	)
	state := map[string]int{}
	var visit func(name string) bool
	visit = func(name string) bool {
		r := byName[name]
		if r == nil || state[name] == done {
			return true
		}
		if state[name] == open {
			return false
		}
		state[name] = open
		for _, dep := range r.uses().Segments {
			if !visit(dep) {
				return false
			}
		}
		state[name] = done
		set.list = append(set.list, compiledSegment{name: name, rule: r})
		return true
	}
	for _, n := range names {
		if !visit(n) {
			c.problem("", "", "Segments", "%q looks at itself, directly or through others", n)
			return set
		}
	}
	// A segment follows its own signals and those of all it looks at.
	signals := map[string][]string{}
	deps := map[string]map[string]bool{}
	for i, s := range set.list {
		u := s.rule.uses()
		deps[s.name] = map[string]bool{}
		for _, d := range u.Segments {
			deps[s.name][d] = true
			maps.Copy(deps[s.name], deps[d])
		}
		for d := range deps[s.name] {
			set.byDep[d] = append(set.byDep[d], i)
		}
		var sig []string
		sig = append(sig, u.Events...)
		for _, a := range u.Attrs {
			sig = append(sig, traitSignal(rootKey(a)))
			if r := traitSignal(a); r != sig[len(sig)-1] {
				sig = append(sig, r)
			}
		}
		for _, dep := range u.Segments {
			sig = append(sig, signals[dep]...)
		}
		slices.Sort(sig)
		sig = slices.Compact(sig)
		signals[s.name] = sig
		for _, x := range sig {
			set.bySignal[x] = append(set.bySignal[x], i)
		}
	}
	return set
}

// byName finds a segment; nil when there is none of the name.
func (set *segmentSet) byName(name string) *compiledSegment {
	for i := range set.list {
		if set.list[i].name == name {
			return &set.list[i]
		}
	}
	return nil
}

// recheckSegments brings the memberships up to date that a signal concerns;
// an empty signal means all. With announce, moves happen to automations.
func (s *session) recheckSegments(signal string, announce bool, depth int) error {
	set := s.e.segments
	if signal != "" {
		for _, i := range set.bySignal[signal] {
			if err := s.recheck(&set.list[i], announce, depth); err != nil {
				return err
			}
		}
		return nil
	}
	for i := range set.list {
		if err := s.recheck(&set.list[i], announce, depth); err != nil {
			return err
		}
	}
	return nil
}

func (s *session) recheck(seg *compiledSegment, announce bool, depth int) error {
	if err := s.loadMembers(); err != nil {
		return err
	}
	env := s.env(nil)
	member := seg.rule.eval(env)
	var next time.Time
	if seg.rule.uses().Time {
		next = seg.rule.nextChange(env)
	}
	if err := s.envErr(); err != nil {
		return err
	}
	m := s.members[seg.name]
	known := m != nil
	if !known {
		m = &Membership{ProfileID: s.profile.ID, Segment: seg.name}
		s.members[seg.name] = m
	}
	moved := m.Member != member
	if !moved && m.CheckAt.Equal(next) {
		return nil
	}
	m.Member, m.CheckAt = member, next
	if moved {
		m.Since = s.at
	}
	if err := s.tx.PutMembership(s.ctx, m); err != nil {
		return err
	}
	if moved && announce {
		signal := enterSignal(seg.name)
		if !member {
			signal = leaveSignal(seg.name)
		}
		s.happen(happening{signal: signal, depth: depth, props: Properties{"segment": seg.name}})
	}
	return nil
}

func (s *session) loadMembers() error {
	if s.members != nil {
		return nil
	}
	ms, err := s.tx.Memberships(s.ctx, s.profile.ID)
	if err != nil {
		return err
	}
	s.members = make(map[string]*Membership, len(ms))
	for i := range ms {
		s.members[ms[i].Segment] = &ms[i]
	}
	return nil
}

// isMember answers conditions.
func (s *session) isMember(name string) (bool, error) {
	if err := s.loadMembers(); err != nil {
		return false, err
	}
	m := s.members[name]
	return m != nil && m.Member, nil
}
