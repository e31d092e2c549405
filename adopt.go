package fluxly

import (
	"context"
	"fmt"
	"strconv"
	"time"
)

// adopt reads which versions people are in, stores the present ones, and
// moves people off removed steps as the automations say.
func (e *Engine) adopt(c *compiler) error {
	ctx := context.Background()
	var counts []RunCount
	err := e.store.View(ctx, func(tx Tx) error {
		var err error
		if counts, err = tx.CountRuns(ctx, ""); err != nil {
			return err
		}
		for _, rc := range counts {
			if rc.Status != RunLive {
				continue
			}
			if err := e.adoptOne(ctx, tx, c, rc); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("fluxly: read the runs under way: %w", err)
	}
	if len(c.problems) > 0 {
		return nil
	}
	now := e.now()
	err = e.store.Update(ctx, func(tx Tx) error {
		for _, p := range e.programs {
			d := &Definition{Automation: p.def.Name, Version: p.version, JSON: p.json, CreatedAt: now}
			if err := tx.PutDefinition(ctx, d); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("fluxly: store the definitions: %w", err)
	}
	for _, rc := range counts {
		p := e.current[rc.Automation]
		if rc.Status != RunLive || p == nil || p.version == rc.Version {
			continue
		}
		rm, ok := p.def.Removed[rc.Step]
		if ok && (rm.End || rm.MoveTo != "") {
			if err := e.movePeople(ctx, rc, p, rm, now); err != nil {
				return fmt.Errorf("fluxly: move people off step %q of automation %q: %w", rc.Step, rc.Automation, err)
			}
		}
	}
	return nil
}

// adoptOne makes one version with live runs usable, or reports why it cannot.
func (e *Engine) adoptOne(ctx context.Context, tx Tx, c *compiler, rc RunCount) error {
	cur := e.current[rc.Automation]
	if cur == nil {
		c.problem(rc.Automation, rc.Step, "automation", "is gone, but %s at this step; keep it, without its trigger, until they are through", peopleAre(rc.Count))
		return nil
	}
	if _, ok := cur.at(rc.Step); !ok {
		rm, said := cur.def.Removed[rc.Step]
		if said && (rm.End || rm.MoveTo != "") {
			return nil // nobody stays on the old version here, so it need not work
		}
		if !said {
			c.problem(rc.Automation, rc.Step, "removed", "%s at this step, which the present version no longer has; "+
				"say in Automation.Removed[%q] where they go: MoveTo a step, End, or the zero Removal to let them finish "+
				"on the version they started with", peopleAre(rc.Count), rc.Step)
			return nil
		}
	}
	if e.versions.get(rc.Automation, rc.Version) != nil {
		return nil
	}
	d, err := tx.Definition(ctx, rc.Automation, rc.Version)
	if err != nil {
		return err
	}
	if d == nil {
		c.problem(rc.Automation, rc.Step, "version", "%s in version %s, whose definition is not in the store", peopleAre(rc.Count), rc.Version)
		return nil
	}
	var def Automation
	if err := def.UnmarshalJSON(d.JSON); err != nil {
		c.problem(rc.Automation, rc.Step, "version", "the stored definition of version %s cannot be read: %v", rc.Version, err)
		return nil
	}
	old := &compiler{emails: c.emails, funcs: c.funcs, rules: c.rules, segments: c.segments}
	p := old.compile(def)
	if p == nil {
		for _, pr := range old.problems {
			pr.Reason = fmt.Sprintf("people are in version %s of it, which no longer works: %s", rc.Version, pr.Reason)
			c.problems = append(c.problems, pr)
		}
		return nil
	}
	p.version = rc.Version
	e.versions.add(p)
	return nil
}

func peopleAre(n int) string {
	if n == 1 {
		return "1 person is"
	}
	return strconv.Itoa(n) + " people are"
}

// movePeople moves or ends the runs of an old version that stand at a removed
// step.
func (e *Engine) movePeople(ctx context.Context, rc RunCount, p *program, rm Removal, now time.Time) error {
	q := RunQuery{Automation: rc.Automation, Status: RunLive, Step: rc.Step, Limit: batchLimit}
	for {
		var runs []*Run
		var counts Counters
		err := e.store.Update(ctx, func(tx Tx) error {
			shared := &sharedTx{Tx: tx, now: now}
			tx = shared
			var err error
			if runs, err = tx.Runs(ctx, q); err != nil {
				return err
			}
			for _, r := range runs {
				// Read again: the move of one run may have changed another.
				if r, err = tx.Run(ctx, r.ID); err != nil {
					return err
				}
				if r == nil || r.Status != RunLive || r.Version != rc.Version || r.Step != rc.Step {
					continue
				}
				s, err := e.open(ctx, tx, now, r.ProfileID, runOrigin(r))
				if err != nil {
					return err
				}
				if err := s.move(r, p, rm); err != nil {
					return err
				}
			}
			counts = shared.counts
			return nil
		})
		if err == nil {
			e.counters.add(counts)
		}
		if err != nil || len(runs) < q.Limit {
			return err
		}
		last := runs[len(runs)-1]
		q.AfterStarted, q.AfterID = last.StartedAt, last.ID
	}
}
