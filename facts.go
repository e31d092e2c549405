package fluxly

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// env makes the environment in which conditions see the person of the
// session. It is reused: it holds until the next call.
func (s *session) env(props Properties) *ruleEnv {
	s.ruleEnv.Now = s.at
	s.ruleEnv.Props = props
	s.ruleEnv.Traits = s.profile.Traits
	s.ruleEnv.Entry = time.Time{}
	clear(s.answers)
	if s.ruleEnv.History == nil {
		s.ruleEnv.History = s
		s.ruleEnv.InSegment = s.isMember
		s.ruleEnv.Call = s.callCondition
	}
	return &s.ruleEnv
}

// envErr returns and clears the error of the conditions asked so far.
func (s *session) envErr() error {
	err := s.ruleEnv.Err
	s.ruleEnv.Err = nil
	return err
}

// callCondition asks the host's own code, once for each environment: what a
// decision was made by is also what its log says.
func (s *session) callCondition(name string) (bool, error) {
	if holds, ok := s.answers[name]; ok {
		return holds, nil
	}
	ctx, cancel := context.WithTimeout(s.ctx, conditionTimeout)
	defer cancel()
	in := FuncInput{Profile: *s.profile.clone(), Properties: s.ruleEnv.Props, Now: s.at}
	var holds bool
	err := protect(func() (err error) {
		holds, err = s.e.cfg.Conditions[name](ctx, in)
		return err
	})
	if err != nil {
		return false, &hostError{fmt.Errorf("condition func %q: %w", name, err)}
	}
	if s.answers == nil {
		s.answers = make(map[string]bool)
	}
	s.answers[name] = holds
	return holds, nil
}

// Count counts events of the person, for conditions.
func (s *session) Count(name string, since, until time.Time, where *eventRule, limit int) (int, error) {
	if where == nil {
		return s.tx.CountEvents(s.ctx, s.profile.ID, name, since, until, limit)
	}
	evs, err := s.tx.Events(s.ctx, s.profile.ID, EventQuery{Name: name, Since: since, Until: until})
	if err != nil {
		return 0, err
	}
	n := 0
	for _, ev := range evs {
		if where.EvalEvent(ev.Properties) {
			n++
			if n == limit {
				break
			}
		}
	}
	return n, nil
}

// NthLatest finds when the n-th latest of these events occurred, for
// conditions.
func (s *session) NthLatest(name string, n int, since, until time.Time, where *eventRule) (time.Time, bool, error) {
	q := EventQuery{Name: name, Since: since, Until: until, Newest: true}
	if where == nil {
		q.Limit = n
	}
	evs, err := s.tx.Events(s.ctx, s.profile.ID, q)
	if err != nil {
		return time.Time{}, false, err
	}
	for _, ev := range evs {
		if where != nil && !where.EvalEvent(ev.Properties) {
			continue
		}
		if n--; n == 0 {
			return ev.OccurredAt, true, nil
		}
	}
	return time.Time{}, false, nil
}

// rootKey is the part of a dotted path that names the trait itself.
func rootKey(path string) string {
	root, _, _ := strings.Cut(path, ".")
	return root
}

// emails are the names of the mails in an automation, in order.
func (a *Automation) emails() []string {
	var out []string
	var walk func(Steps)
	walk = func(steps Steps) {
		for _, s := range steps {
			if s.Kind == StepSend {
				out = append(out, s.Email)
			}
			for _, p := range s.Paths {
				walk(p.Steps)
			}
			walk(s.Yes)
			walk(s.No)
		}
	}
	walk(a.Steps)
	return out
}

// emailData is what a template sees.
func (e *Engine) emailData(m *SendRecord, p *Profile, r *Run) *EmailData {
	d := &EmailData{
		Profile: EmailProfile{ID: p.ID, Traits: p.Traits, CreatedAt: p.CreatedAt},
		Event:   EmailEvent{Name: r.Entry.Name, Properties: r.Entry.Properties, Timestamp: r.Entry.OccurredAt},
		Run:     EmailRun{ID: r.ID, Automation: r.Automation, StartedAt: r.StartedAt, Results: r.Results},
		Now:     m.QueuedAt,
	}
	if len(p.ExternalIDs) > 0 {
		d.Profile.ExternalID = p.ExternalIDs[0]
	}
	return d
}
