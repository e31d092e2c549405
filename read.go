package fluxly

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// Profile returns the person who has the id, as any kind of id. An id that
// nobody has is [ErrNotFound].
func (e *Engine) Profile(ctx context.Context, id string) (*Profile, error) {
	var p *Profile
	err := e.store.View(ctx, func(tx Tx) error {
		found, err := tx.FindProfiles(ctx, anyID(id))
		if len(found) > 0 {
			p = found[0]
		}
		return err
	})
	if err == nil && p == nil {
		err = fmt.Errorf("nobody has the id %q: %w", clip(id, 64), ErrNotFound)
	}
	return p, err
}

// Runs lists runs in order of their start.
func (e *Engine) Runs(ctx context.Context, q RunQuery) (runs []*Run, err error) {
	err = e.store.View(ctx, func(tx Tx) error {
		runs, err = tx.Runs(ctx, q)
		return err
	})
	return runs, err
}

// RunLog returns the log of a run: what it did, when, and which values it
// looked at.
func (e *Engine) RunLog(ctx context.Context, runID string) (log []LogEntry, err error) {
	err = e.store.View(ctx, func(tx Tx) error {
		log, err = tx.Log(ctx, runID)
		return err
	})
	return log, err
}

// Sends lists the send log in the order in which mails were queued: one row
// for each mail, with its outcome, and the reason of each that did not go.
func (e *Engine) Sends(ctx context.Context, q SendQuery) (rows []*SendRecord, err error) {
	err = e.store.View(ctx, func(tx Tx) error {
		rows, err = tx.Sends(ctx, q)
		return err
	})
	return rows, err
}

// StepStats is what happened at one step of an automation, over all versions.
type StepStats struct {
	Step string `json:"step"`
	// Standing are the live runs at the step at present.
	Standing int `json:"standing"`
	// Log counts the entries of run logs by code.
	Log map[string]int `json:"log,omitempty"`
	// Mails counts the mails of the step by outcome: the status, or the
	// reason of one that did not go.
	Mails map[string]int `json:"mails,omitempty"`
}

// Stats is what happened in one automation. It is derived from what is stored,
// so it always adds up: Started = Ended + Standing.
type Stats struct {
	Automation string `json:"automation"`
	// Started are all runs; Standing those that live; Ended those that ended,
	// by reason in EndedBy.
	Started  int            `json:"started"`
	Standing int            `json:"standing"`
	Ended    int            `json:"ended"`
	EndedBy  map[string]int `json:"ended_by,omitempty"`
	// Steps are in the order of the present version, then the steps of older
	// ones.
	Steps []StepStats `json:"steps"`
}

// Stats counts what happened in an automation. One that does not exist is
// [ErrNotFound].
func (e *Engine) Stats(ctx context.Context, automation string) (*Stats, error) {
	p := e.current[automation]
	if p == nil {
		return nil, fmt.Errorf("there is no automation %q: %w", clip(automation, 64), ErrNotFound)
	}
	st := &Stats{Automation: automation, EndedBy: map[string]int{}}
	at := map[string]int{}
	step := func(id string) *StepStats {
		i, ok := at[id]
		if !ok {
			i = len(st.Steps)
			at[id] = i
			st.Steps = append(st.Steps, StepStats{Step: id, Log: map[string]int{}, Mails: map[string]int{}})
		}
		return &st.Steps[i]
	}
	for i := range p.nodes {
		step(p.nodes[i].id)
	}
	err := e.store.View(ctx, func(tx Tx) error {
		runs, err := tx.CountRuns(ctx, automation)
		if err != nil {
			return err
		}
		for _, rc := range runs {
			st.Started += rc.Count
			if rc.Status == RunLive {
				st.Standing += rc.Count
				step(rc.Step).Standing += rc.Count
				continue
			}
			st.Ended += rc.Count
			st.EndedBy[string(rc.Status)] += rc.Count
		}
		log, err := tx.CountLog(ctx, automation)
		if err != nil {
			return err
		}
		for _, lc := range log {
			if lc.Step != "" {
				step(lc.Step).Log[lc.Code] += lc.Count
			}
		}
		sends, err := tx.CountSends(ctx, automation)
		if err != nil {
			return err
		}
		for _, sc := range sends {
			code := string(sc.Status)
			if sc.Reason != "" && sc.Status != SendAccepted {
				code = sc.Reason
			}
			step(sc.Step).Mails[code] += sc.Count
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return st, nil
}

// Why explains one person in one automation.
type Why struct {
	Person     string `json:"person"`
	Automation string `json:"automation"`
	// Verdict is one line that answers the question.
	Verdict string `json:"verdict"`
	// Trigger is the trigger's condition as it stood for the last event that
	// could have started a run; nil when there was none, or no condition.
	Trigger *Explanation `json:"trigger,omitempty"`
	// Run is the last run, Log its log, Mails its rows of the send log.
	Run   *Run          `json:"run,omitempty"`
	Log   []LogEntry    `json:"log,omitempty"`
	Mails []*SendRecord `json:"mails,omitempty"`
}

// String is the verdict.
func (w *Why) String() string { return w.Person + " in " + w.Automation + ": " + w.Verdict }

// Explain says why a person did, or did not, go through an automation, from
// what is stored: the events, the log of the run and the send log. A person
// whom nobody knows is not an error; an automation that does not exist is
// [ErrNotFound].
func (e *Engine) Explain(ctx context.Context, id, automation string) (*Why, error) {
	p := e.current[automation]
	if p == nil {
		return nil, fmt.Errorf("there is no automation %q: %w", clip(automation, 64), ErrNotFound)
	}
	w := &Why{Person: id, Automation: automation}
	err := e.store.View(ctx, func(tx Tx) error {
		found, err := tx.FindProfiles(ctx, anyID(id))
		if err != nil {
			return err
		}
		if len(found) == 0 {
			w.Verdict = "nobody has this id; no event of this person was tracked"
			return nil
		}
		prof := found[0]
		runs, err := tx.Runs(ctx, RunQuery{Automation: automation, ProfileID: prof.ID})
		if err != nil {
			return err
		}
		if len(runs) > 0 {
			w.Run = runs[len(runs)-1]
			if w.Log, err = tx.Log(ctx, w.Run.ID); err != nil {
				return err
			}
			if w.Mails, err = tx.Sends(ctx, SendQuery{RunID: w.Run.ID}); err != nil {
				return err
			}
			w.Verdict = w.describeRun()
			return nil
		}
		return e.explainAbsence(ctx, tx, p, prof, w)
	})
	return w, err
}

// explainAbsence says why there is no run.
func (e *Engine) explainAbsence(ctx context.Context, tx Tx, p *program, prof *Profile, w *Why) error {
	t := p.def.Trigger
	switch t.Kind {
	case "":
		w.Verdict = "not entered: the automation has no trigger, and nobody enrolled this person"
		return nil
	case TriggerSegmentEnter, TriggerSegmentLeave, TriggerTraitChange:
		w.Verdict = fmt.Sprintf("not entered: %s %q has not happened", strings.ReplaceAll(string(t.Kind), "_", " "), t.Name)
		return nil
	case TriggerEvent:
	}
	evs, err := tx.Events(ctx, prof.ID, EventQuery{Name: t.Name, Newest: true, Limit: 1})
	if err != nil {
		return err
	}
	if len(evs) == 0 {
		w.Verdict = fmt.Sprintf("not entered: there is no trigger event %q of this person", t.Name)
		return nil
	}
	ev := evs[0]
	s := e.session(ctx, tx, e.now(), "")
	s.profile = prof
	for _, r := range p.trigger.rules {
		x := r.explain(s.env(ev.Properties))
		if err := s.envErr(); err != nil {
			return err
		}
		if !x.Holds {
			w.Trigger = &x
			w.Verdict = fmt.Sprintf("not entered: %q came at %s, but %s", t.Name, ev.OccurredAt.Format(time.RFC3339), whyNot(x))
			return nil
		}
	}
	w.Verdict = fmt.Sprintf("not entered: the last %q came at %s, before the automation was there or without the key %q",
		t.Name, ev.OccurredAt.Format(time.RFC3339), p.def.Key)
	return nil
}

// whyNot names the part for which a condition does not hold, and what was
// found.
func whyNot(x Explanation) string {
	switch {
	case x.Text == "all of":
		for _, p := range x.Parts {
			if !p.Holds {
				return whyNot(p)
			}
		}
	case x.Text == "any of":
		var none []string
		for _, p := range x.Parts {
			none = append(none, whyNot(p))
		}
		return strings.Join(none, ", and ")
	case x.Text == "not" && len(x.Parts) == 1:
		return x.Parts[0].Text + " holds"
	}
	found := x.Note
	if found == "" {
		found = string(appendJSON(nil, x.Value))
	}
	return fmt.Sprintf("%s does not hold (found %s)", x.Text, found)
}

// describeRun says in one line what became of the run.
func (w *Why) describeRun() string {
	var b strings.Builder
	sent, stopped := 0, []string{}
	if len(w.Log) < w.Run.LogLen {
		fmt.Fprintf(&b, "entered %s; %s at %s; its log was removed for its age", w.Run.StartedAt.Format(time.RFC3339),
			w.Run.Status, w.Run.EndedAt.Format(time.RFC3339))
		return b.String()
	}
	removed := -len(w.Mails)
	for _, l := range w.Log {
		if l.Code == logQueued {
			removed++
		}
	}
	for _, m := range w.Mails {
		switch m.Status {
		case SendAccepted:
			sent++
		case SendSkipped, SendRefused, SendUnknown:
			stopped = append(stopped, fmt.Sprintf("%q: %s", m.Email, m.Reason))
		case SendQueued, SendSending:
		}
	}
	mails := "mails"
	if sent == 1 {
		mails = "mail"
	}
	fmt.Fprintf(&b, "entered %s, %d %s sent", w.Run.StartedAt.Format(time.RFC3339), sent, mails)
	if len(stopped) > 0 {
		b.WriteString(", not sent " + strings.Join(stopped, ", "))
	}
	if removed > 0 {
		fmt.Fprintf(&b, ", %d removed from the log for age", removed)
	}
	switch w.Run.Status {
	case RunLive:
		fmt.Fprintf(&b, "; now at step %q", w.Run.Step)
		if !w.Run.WakeAt.IsZero() {
			b.WriteString(" until " + w.Run.WakeAt.Format(time.RFC3339))
		}
	case RunCompleted, RunExited, RunFailed:
		fmt.Fprintf(&b, "; %s at %s", w.Run.Status, w.Run.EndedAt.Format(time.RFC3339))
		if w.Run.Reason != "" && w.Run.Reason != string(w.Run.Status) {
			fmt.Fprintf(&b, " (%s)", w.Run.Reason)
		}
	}
	return b.String()
}
