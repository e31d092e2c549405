package fluxly

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// versions are the programs that an engine can carry on: the present ones, those
// that people were in when it was made, and those that other processes on its
// store have made since, as they do while a new release is rolled out.
//
// The zero value is ready; it may be used from many goroutines.
type versions struct {
	mu      sync.RWMutex
	byKey   map[versionKey]*program
	awaited map[string]bool // signals that some run may wait for
}

type versionKey struct{ automation, version string }

// add makes a version usable for runs.
func (v *versions) add(p *program) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.byKey == nil {
		v.byKey, v.awaited = map[versionKey]*program{}, map[string]bool{}
	}
	v.byKey[versionKey{p.def.Name, p.version}] = p
	for _, s := range p.signals() {
		v.awaited[s] = true
	}
}

// get returns a version, nil when it is not known.
func (v *versions) get(automation, version string) *program {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.byKey[versionKey{automation, version}]
}

// await reports whether a run of a known version may wait for a signal.
func (v *versions) await(signal string) bool {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.awaited[signal]
}

// program returns the version that a run is pinned to; nil when it is nowhere.
// A version of another process is read from the store, and need not have its
// emails and steps here: see foreignWait.
func (e *Engine) program(ctx context.Context, tx Tx, r *Run) (*program, error) {
	if p := e.versions.get(r.Automation, r.Version); p != nil || !e.shared {
		return p, nil
	}
	d, err := tx.Definition(ctx, r.Automation, r.Version)
	if err != nil || d == nil {
		return nil, err
	}
	var def Automation
	if err := def.UnmarshalJSON(d.JSON); err != nil {
		return nil, &hostError{fmt.Errorf("automation %q: version %s, which another process made, cannot be read here: %w", r.Automation, r.Version, err)}
	}
	segments := map[string]bool{}
	for _, s := range e.cfg.Segments {
		segments[s.Name] = true
	}
	c := &compiler{rules: e.rules, segments: segments, foreign: true}
	p := c.compile(def)
	if p == nil {
		return nil, &hostError{fmt.Errorf("automation %q: version %s, which another process made, does not work here: %s; "+
			"roll the new release out everywhere", r.Automation, r.Version, c.problems[0].Reason)}
	}
	p.version = r.Version
	e.versions.add(p)
	return p, nil
}

// foreignWait is how long a mail or a step that this process does not have is
// left alone, for one of another release that has it.
const foreignWait = 10 * time.Second

// foreign reports whether something that this process does not have is left to
// another: where there may be one, for as long as a mail is tried.
func (e *Engine) foreign(now, since time.Time) bool {
	return e.shared && now.Sub(since) < e.cfg.RetryFor
}
