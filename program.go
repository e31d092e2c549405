package fluxly

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/getfluxly/fluxly/internal/rules"
)

// end is the index of no node: the end of a run.
const end = -1

// program is one version of an automation, checked and compiled: its steps
// as a flat list in which each knows the next, its conditions as rules.
type program struct {
	def     Automation
	version string
	json    []byte
	nodes   []node
	byID    map[string]int
	trigger gate
	exit    gate
}

// node is one step of a program.
type node struct {
	step *Step
	id   string
	// next follows the step; yes and no are its ways out, which end at next.
	next, yes, no int
	paths         []compiledPath
	where         gate
}

type compiledPath struct {
	when *rule
	text string
	at   int
}

// gate is a list of conditions that must all hold.
type gate struct {
	rules []*rule
}

func (g gate) open(env *ruleEnv) bool {
	for _, r := range g.rules {
		if !r.eval(env) {
			return false
		}
	}
	return true
}

// The names under which a run waits for something other than an event. An
// event's own name cannot begin with "$".
func traitSignal(name string) string { return "$trait:" + name }
func enterSignal(name string) string { return "$enter:" + name }
func leaveSignal(name string) string { return "$leave:" + name }

// signal is the name under which a trigger is indexed; empty for none.
func (t Trigger) signal() string {
	switch t.Kind {
	case TriggerEvent:
		return t.Name
	case TriggerTraitChange:
		return traitSignal(t.Name)
	case TriggerSegmentEnter:
		return enterSignal(t.Name)
	case TriggerSegmentLeave:
		return leaveSignal(t.Name)
	}
	return ""
}

// at returns the node of a step id.
func (p *program) at(id string) (int, bool) {
	i, ok := p.byID[id]
	return i, ok
}

// start is the first node.
func (p *program) start() int {
	if len(p.nodes) == 0 {
		return end
	}
	return 0
}

// compiler turns automations into programs and collects every mistake.
type compiler struct {
	emails   func(name string) bool
	funcs    map[string]StepFunc
	rules    compileContext
	segments map[string]bool
	// foreign: emails and host code are another process's, and not looked for.
	foreign  bool
	problems []Problem
}

func (c *compiler) problem(automation, step, field, format string, args ...any) {
	c.problems = append(c.problems, Problem{Automation: automation, Step: step, Field: field, Reason: fmt.Sprintf(format, args...)})
}

const (
	maxAutomationName = 40
	maxStepID         = 40
	maxStepsTotal     = 1000
	maxStepDepth      = 32
)

// compile checks and compiles one automation. It returns nil when there were
// mistakes, which stand in c.problems.
func (c *compiler) compile(def Automation) *program {
	before := len(c.problems)
	p := &program{def: def, byID: map[string]int{}}
	if err := checkSlug(def.Name, maxAutomationName); err != nil {
		c.problem(def.Name, "", "name", "%v", err)
	}
	if def.Trigger.IsZero() && def.Key != "" {
		c.problem(def.Name, "", "key", "names a property of the trigger event, but there is no trigger")
	}
	p.trigger = c.gate(def.Name, "", "trigger", def.Trigger)
	p.exit = c.gate(def.Name, "", "exit", def.Exit)
	switch def.ReEntry.Kind {
	case "", "once", "always":
		if def.ReEntry.After != 0 {
			c.problem(def.Name, "", "re-entry", "has a duration, which only OncePer uses")
		}
	case "after":
		if def.ReEntry.After <= 0 {
			c.problem(def.Name, "", "re-entry", "the interval %s must be positive", def.ReEntry.After)
		}
	default:
		c.problem(def.Name, "", "re-entry", "unknown kind %q; use Once, OncePer or Always", def.ReEntry.Kind)
	}
	if def.OnRefused != GoOn && def.OnRefused != EndRun {
		c.problem(def.Name, "", "on-refused", "unknown failure path %q", string(def.OnRefused))
	}
	if len(def.Steps) == 0 {
		c.problem(def.Name, "", "steps", "there are none; a run would end as it starts")
	}
	ids := map[string]int{}
	c.reserve(def.Steps, ids, 0)
	p.block(c, def.Steps, end, ids, map[string]int{}, 0)
	if len(p.nodes) > maxStepsTotal {
		c.problem(def.Name, "", "steps", "there are %d, at most %d are allowed", len(p.nodes), maxStepsTotal)
	}
	for _, id := range slices.Sorted(maps.Keys(def.Removed)) {
		rm := def.Removed[id]
		if _, ok := p.byID[id]; ok {
			c.problem(def.Name, id, "removed", "the step is still there")
		}
		if rm.MoveTo != "" {
			if _, ok := p.byID[rm.MoveTo]; !ok {
				c.problem(def.Name, id, "removed", "people shall move to step %q, which does not exist", rm.MoveTo)
			}
			if rm.End {
				c.problem(def.Name, id, "removed", "says both to move people and to end their runs")
			}
		}
	}
	if len(c.problems) > before {
		return nil
	}
	var err error
	if p.json, err = def.MarshalJSON(); err != nil {
		c.problem(def.Name, "", "", "cannot be written as JSON: %v", err)
		return nil
	}
	p.version = versionOf(def)
	return p
}

// versionOf is the name of a definition: what it does, not what becomes of
// people at steps that it no longer has.
func versionOf(def Automation) string {
	def.Removed = nil
	b, err := def.MarshalJSON()
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:6])
}

// reserve counts the ids that were given by name, so that a derived id never
// takes one of them.
func (c *compiler) reserve(steps Steps, ids map[string]int, depth int) {
	if depth > maxStepDepth {
		return
	}
	for i := range steps {
		s := &steps[i]
		if s.ID != "" {
			ids[s.ID]++
		}
		for _, p := range s.Paths {
			c.reserve(p.Steps, ids, depth+1)
		}
		c.reserve(s.Yes, ids, depth+1)
		c.reserve(s.No, ids, depth+1)
	}
}

// block compiles a list of steps that is followed by the node next, and
// returns the index of its first node.
func (p *program) block(c *compiler, steps Steps, next int, ids, derived map[string]int, depth int) int {
	if len(steps) == 0 {
		return next
	}
	if depth > maxStepDepth {
		c.problem(p.def.Name, "", "steps", "are nested deeper than %d", maxStepDepth)
		return next
	}
	first := len(p.nodes)
	at := make([]int, len(steps))
	for i := range steps {
		at[i] = len(p.nodes)
		// A copy, so that what the program does later to its Steps changes
		// nothing here.
		own := steps[i]
		s := &own
		id := p.stepID(c, s, ids, derived)
		p.nodes = append(p.nodes, node{step: s, id: id, next: end, yes: end, no: end})
		p.byID[id] = at[i]
		c.step(p.def, id, s)
		// The ways out of a step are laid behind it; they lead to the step
		// after it, whose index is known only then.
		n := &p.nodes[at[i]]
		n.where = c.conditions(p.def.Name, id, "where", s.Where)
		if s.Kind == StepEnd && i+1 < len(steps) {
			c.problem(p.def.Name, id, "end", "the steps after it are never reached")
		}
		var patch []int
		lay := func(steps Steps) int {
			from := len(p.nodes)
			if len(steps) == 0 {
				return pending
			}
			f := p.block(c, steps, pending, ids, derived, depth+1)
			for j := from; j < len(p.nodes); j++ {
				patch = append(patch, j)
			}
			return f
		}
		var paths []compiledPath
		for _, path := range s.Paths {
			r := c.condition(p.def.Name, id, "when", path.When)
			f := lay(path.Steps)
			paths = append(paths, compiledPath{when: r, text: path.When.String(), at: f})
		}
		yes := pending
		if s.Kind == StepWaitFor {
			yes = lay(s.Yes)
		}
		no := lay(s.No)
		n = &p.nodes[at[i]]
		n.paths, n.yes, n.no = paths, yes, no
		follow := next
		if i+1 < len(steps) {
			follow = len(p.nodes)
		}
		p.settle(at[i], follow)
		n.next = follow
		for _, j := range patch {
			p.settle(j, follow)
		}
	}
	return first
}

// pending marks an exit whose target is not laid yet.
const pending = -2

func (p *program) settle(i, target int) {
	n := &p.nodes[i]
	for _, x := range []*int{&n.next, &n.yes, &n.no} {
		if *x == pending {
			*x = target
		}
	}
	for j := range n.paths {
		if n.paths[j].at == pending {
			n.paths[j].at = target
		}
	}
}

func (p *program) stepID(c *compiler, s *Step, ids, derived map[string]int) string {
	if s.ID != "" {
		if err := checkStepID(s.ID); err != nil {
			c.problem(p.def.Name, s.ID, "id", "%v", err)
		}
		if _, there := p.byID[s.ID]; !there && ids[s.ID] > 1 {
			c.problem(p.def.Name, s.ID, "id", "is given to %d steps", ids[s.ID])
		}
		return s.ID
	}
	var base string
	switch s.Kind {
	case StepSend:
		base = s.Email
	case StepWait:
		base = "wait:" + rules.FormatDuration(s.Duration)
	case StepWaitFor:
		base = "wait_for:" + s.Event
	case StepWaitUntil:
		base = "wait_until:" + s.Date.Name()
	case StepBranch:
		base = "branch"
		if len(s.Paths) == 1 {
			base = "if"
		}
	case StepDo:
		base = s.Func
	case StepSetTraits, StepEnd:
		base = string(s.Kind)
	}
	if base == "" {
		base = string(s.Kind)
	}
	base = clipID(base, maxStepID-4)
	for {
		derived[base]++
		id := base
		if n := derived[base]; n > 1 {
			id = base + "#" + strconv.Itoa(n)
		}
		if ids[id] == 0 {
			return id
		}
	}
}

// clipID cuts a derived id, and keeps two long names apart by a sum of the
// whole.
func clipID(id string, n int) string {
	id = strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' || r == '"' || r == '\\' {
			return '_'
		}
		return r
	}, id)
	if len(id) <= n {
		return id
	}
	sum := sha256.Sum256([]byte(id))
	return id[:n-9] + "~" + hex.EncodeToString(sum[:4])
}

func (c *compiler) gate(automation, step, field string, t Trigger) gate {
	switch t.Kind {
	case "":
		if len(t.Where) > 0 || t.Name != "" {
			c.problem(automation, step, field, "has no kind; make it with On, OnChange, OnEnterSegment or OnLeaveSegment")
		}
		return gate{}
	case TriggerEvent:
		if err := checkName(t.Name); err != nil {
			c.problem(automation, step, field, "%v", err)
		}
	case TriggerTraitChange:
		if t.Name == "" {
			c.problem(automation, step, field, "names no trait")
		}
	case TriggerSegmentEnter, TriggerSegmentLeave:
		if !c.segments[t.Name] {
			c.problem(automation, step, field, "segment %q is not defined in Config.Segments", t.Name)
		}
	default:
		c.problem(automation, step, field, "unknown kind %q", string(t.Kind))
	}
	return c.conditions(automation, step, field, t.Where)
}

func (c *compiler) conditions(automation, step, field string, cs []Condition) gate {
	var g gate
	for _, cond := range cs {
		if r := c.condition(automation, step, field, cond); r != nil {
			g.rules = append(g.rules, r)
		}
	}
	return g
}

func (c *compiler) condition(automation, step, field string, cond Condition) *rule {
	cc := c.rules
	cc.NoEntry = field == "trigger"
	r, err := compileCondition(cond, cc)
	if err != nil {
		c.problem(automation, step, field, "%v", err)
		return nil
	}
	return r
}

// step checks one step.
func (c *compiler) step(def Automation, id string, s *Step) {
	bad := func(field, format string, args ...any) { c.problem(def.Name, id, field, format, args...) }
	for _, m := range s.misuse {
		bad(strings.ToLower(m), "%s does not apply to a step of kind %q", m, string(s.Kind))
	}
	switch s.Kind {
	case StepSend:
		if s.Email == "" {
			bad("email", "no email is named")
		} else if !c.foreign && !c.emails(s.Email) {
			bad("email", "there is no template %q in Config.Emails", s.Email)
		}
	case StepWait:
		if s.Duration <= 0 {
			bad("wait", "the duration %s must be positive", s.Duration)
		}
	case StepWaitFor:
		if err := checkName(s.Event); err != nil {
			bad("event", "%s", err.about())
		}
		if s.Duration <= 0 {
			bad("timeout", "the duration %s must be positive", s.Duration)
		}
	case StepWaitUntil:
		if !s.Date.isTrait() && !s.Date.isProp() || s.Date.Name() == "" {
			bad("date", "name it with Attr or Prop")
		}
		for _, r := range []DateRule{s.Missing, s.Past} {
			if r != SkipWait && r != EndAtDate {
				bad("date", "unknown rule %q", string(r))
			}
		}
	case StepBranch:
		if len(s.Paths) == 0 {
			bad("branch", "there is no path")
		}
		taken := len(s.No)
		for _, p := range s.Paths {
			taken += len(p.Steps)
		}
		if taken == 0 {
			bad("branch", "no path has steps; use Then or When")
		}
	case StepSetTraits:
		if len(s.Set) == 0 {
			bad("traits", "there are none to set")
		}
		set, err := normalizeMap(s.Set, "traits")
		if err != nil {
			bad("traits", "%v", err)
		}
		s.Set = set
	case StepDo:
		if s.Func == "" {
			bad("func", "no function is named")
		} else if !c.foreign && c.funcs[s.Func] == nil {
			bad("func", "there is no function %q in Config.Funcs", s.Func)
		}
	case StepEnd:
	default:
		bad("kind", "unknown kind %q", string(s.Kind))
	}
}

// signals are the names of all that a run of the program may wait for.
func (p *program) signals() []string {
	var out []string
	if s := p.def.Exit.signal(); s != "" {
		out = append(out, s)
	}
	for i := range p.nodes {
		switch s := p.nodes[i].step; {
		case s.Kind == StepWaitFor:
			out = append(out, s.Event)
		case s.Kind == StepWaitUntil && s.Date.isTrait():
			out = append(out, traitSignal(rootKey(s.Date.Name())))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

var errEmptyName = errors.New("is empty")

// checkSlug checks the name of an automation or a segment.
func checkSlug(name string, limit int) error {
	if name == "" {
		return errEmptyName
	}
	if len(name) > limit {
		return fmt.Errorf("%q is longer than %d characters", clip(name, 64), limit)
	}
	for _, r := range name {
		if (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '_' {
			return fmt.Errorf("%q may hold lower-case letters, digits, \"-\" and \"_\" only", name)
		}
	}
	return nil
}

func checkStepID(id string) error {
	if len(id) > maxStepID {
		return fmt.Errorf("%q is longer than %d characters", clip(id, 64), maxStepID)
	}
	for _, r := range id {
		if r <= ' ' || r > '~' || r == '"' || r == '\\' {
			return fmt.Errorf("%q may hold printable ASCII without blanks and quotes only", id)
		}
	}
	return nil
}
