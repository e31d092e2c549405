package fluxlytest

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/getfluxly/fluxly"
)

// crashCalls draws calls from what automations listen to.
type crashCalls struct {
	days        int
	automations []fluxly.Automation
	events      []string            // triggers first
	triggers    int                 // how many of events are triggers
	props       map[string][]any    // by name: values that conditions ask for, and others
	eventProps  map[string][]string // by event
	traits      map[string][]any
	dates       []string // traits that hold dates
	dateProps   []string
}

func newCrashCalls(cfg *fluxly.Config, days int) *crashCalls {
	c := &crashCalls{
		days: days, automations: cfg.Automations,
		props: map[string][]any{}, eventProps: map[string][]string{}, traits: map[string][]any{},
	}
	for _, a := range cfg.Automations {
		c.trigger(a.Trigger)
		if a.Trigger.Kind == fluxly.TriggerEvent && a.Key != "" {
			c.prop(a.Trigger.Name, a.Key, "k1", "k2", "k3")
		}
	}
	c.triggers = len(c.events)
	for _, a := range cfg.Automations {
		c.trigger(a.Exit)
		c.steps(a.Trigger.Name, a.Steps)
	}
	for _, s := range cfg.Segments {
		c.condition("", s.Where)
	}
	slices.Sort(c.dates)
	c.dates = slices.Compact(c.dates)
	return c
}

func (c *crashCalls) event(name string) {
	if name != "" && !slices.Contains(c.events, name) {
		c.events = append(c.events, name)
	}
}

func (c *crashCalls) prop(event, name string, values ...any) {
	if !slices.Contains(c.eventProps[event], name) {
		c.eventProps[event] = append(c.eventProps[event], name)
	}
	for _, v := range values {
		if !slices.Contains(c.props[name], v) {
			c.props[name] = append(c.props[name], v)
		}
	}
}

func (c *crashCalls) trait(name string, values ...any) {
	name, _, _ = strings.Cut(name, ".")
	if len(c.traits[name]) == 0 {
		c.traits[name] = []any{nil}
	}
	for _, v := range values {
		if !slices.Contains(c.traits[name], v) {
			c.traits[name] = append(c.traits[name], v)
		}
	}
}

func (c *crashCalls) trigger(t fluxly.Trigger) {
	switch t.Kind {
	case fluxly.TriggerEvent:
		c.event(t.Name)
	case fluxly.TriggerTraitChange:
		c.trait(t.Name, "a", "b")
	case fluxly.TriggerSegmentEnter, fluxly.TriggerSegmentLeave:
	}
	for _, w := range t.Where {
		if t.Kind == fluxly.TriggerTraitChange {
			c.condition("\x00"+t.Name, w)
			continue
		}
		c.condition(t.Name, w)
	}
}

func (c *crashCalls) steps(entry string, steps fluxly.Steps) {
	for _, s := range steps {
		switch s.Kind {
		case fluxly.StepWaitFor:
			c.event(s.Event)
			for _, w := range s.Where {
				c.condition(s.Event, w)
			}
			if s.MatchKey != "" {
				c.prop(s.Event, s.MatchKey, "k1", "k2", "k3")
				c.prop(entry, s.MatchKey)
			}
		case fluxly.StepWaitUntil:
			if strings.HasPrefix(s.Date.String(), "prop") {
				c.dateProps = append(c.dateProps, s.Date.Name())
			} else {
				c.dates = append(c.dates, s.Date.Name())
			}
		case fluxly.StepSend, fluxly.StepWait, fluxly.StepBranch, fluxly.StepSetTraits, fluxly.StepDo, fluxly.StepEnd:
		}
		for _, p := range s.Paths {
			c.condition(entry, p.When)
			c.steps(entry, p.Steps)
		}
		c.steps(entry, s.Yes)
		c.steps(entry, s.No)
	}
}

// condition learns from a condition's own stable form which events it counts
// and which values it asks for.
func (c *crashCalls) condition(event string, cond fluxly.Condition) {
	data, err := cond.MarshalJSON()
	if err != nil {
		return // New reports it
	}
	var tree any
	if json.Unmarshal(data, &tree) == nil {
		c.learn(event, tree)
	}
}

func (c *crashCalls) learn(event string, tree any) {
	switch x := tree.(type) {
	case []any:
		for _, v := range x {
			c.learn(event, v)
		}
	case map[string]any:
		if did, ok := x["did"].(string); ok {
			c.event(did)
			event = did
		}
		var values []any
		keys := make([]string, 0, len(x))
		for k := range x {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		for _, k := range keys {
			values = append(values, scalars(x[k])...)
		}
		if name, ok := x["prop"].(string); ok {
			values = slices.DeleteFunc(values, func(v any) bool { return v == name })
			if trait, is := strings.CutPrefix(event, "\x00"); is {
				c.trait(trait, values...)
			} else {
				c.prop(event, name, values...)
			}
			return
		}
		if name, ok := x["attr"].(string); ok {
			c.trait(name, slices.DeleteFunc(values, func(v any) bool { return v == name })...)
			return
		}
		for _, k := range keys {
			c.learn(event, x[k])
		}
	}
}

// scalars are the values in an operand, each with a neighbour.
func scalars(v any) []any {
	switch x := v.(type) {
	case string:
		return []any{x}
	case float64:
		return []any{x - 1, x, x + 1}
	case []any:
		var out []any
		for _, e := range x {
			out = append(out, scalars(e)...)
		}
		return out
	}
	return nil
}

// draw makes the calls of one schedule.
func (c *crashCalls) draw(r *rand.Rand) []CrashCall {
	var out []CrashCall
	people, prefix := 2+r.IntN(4), fmt.Sprintf("%08x", r.Uint32())
	span := time.Duration(c.days) * 24 * time.Hour * 7 / 10
	user := func() string { return fmt.Sprintf("user%d", r.IntN(people)) }
	visitor := func() string { return fmt.Sprintf("visitor%d", r.IntN(people)) }
	address := func(id string) string { return id + "@example.test" }
	for i := range 8 + r.IntN(18) {
		at := time.Duration(r.Int64N(int64(span)))
		if r.IntN(3) == 0 {
			at /= 16 // many things happen in the beginning
		}
		id := fmt.Sprintf("%s-%d", prefix, i)
		add := func(name string, call func(ctx context.Context, e *fluxly.Engine) error) {
			out = append(out, CrashCall{At: at, Name: name, Call: call})
		}
		ext, anon := user(), ""
		switch r.IntN(6) {
		case 0:
			ext, anon = "", visitor()
		case 1:
			anon = visitor()
		}
		who := ext + anon
		switch k := r.IntN(40); {
		case k < 2:
			u, v := user(), visitor()
			add("alias "+v+" of "+u, func(ctx context.Context, e *fluxly.Engine) error {
				return e.Alias(ctx, fluxly.Alias{UserID: u, AnonymousID: v})
			})
		case k < 4:
			add("unsubscribe "+who, func(ctx context.Context, e *fluxly.Engine) error {
				return e.Unsubscribe(ctx, who, fluxly.Unsubscription{Source: "schedule"})
			})
		case k < 5:
			add("resubscribe "+who, func(ctx context.Context, e *fluxly.Engine) error { return e.Resubscribe(ctx, who, "") })
		case k < 7:
			a := address(ext + anon)
			add("suppress "+a, func(ctx context.Context, e *fluxly.Engine) error {
				return e.Suppress(ctx, fluxly.Suppression{Address: a, Reason: "HardBounce"})
			})
		case k < 8:
			a := address(ext + anon)
			add("unsuppress "+a, func(ctx context.Context, e *fluxly.Engine) error { return e.Unsuppress(ctx, a, "") })
		case k < 9:
			add("erase "+who, func(ctx context.Context, e *fluxly.Engine) error {
				return e.Erase(ctx, fluxly.Erasure{ID: who, Reason: fluxly.GDPRRequest})
			})
		case k < 13:
			a := c.automations[r.IntN(len(c.automations))].Name
			en := fluxly.Enrollment{Automation: a, ExternalID: ext, AnonymousID: anon, MessageID: id}
			if r.IntN(3) == 0 {
				en.Key = fmt.Sprintf("k%d", 1+r.IntN(3))
			}
			add("enroll "+who+" in "+a, func(ctx context.Context, e *fluxly.Engine) error {
				_, err := e.Enroll(ctx, en)
				return err
			})
		case k < 20 || len(c.events) == 0:
			traits := fluxly.Traits{"email": address(who)}
			for _, name := range sortedKeys(c.traits) {
				if name != "email" && r.IntN(2) == 0 {
					traits[name] = c.traits[name][r.IntN(len(c.traits[name]))]
				}
			}
			for _, name := range c.dates {
				if r.IntN(2) == 0 && !strings.Contains(name, ".") {
					traits[name] = Start.Add(at + time.Duration(r.Int64N(int64(12*24*time.Hour))) - 2*24*time.Hour)
				}
			}
			add("identify "+who, func(ctx context.Context, e *fluxly.Engine) error {
				return e.Identify(ctx, fluxly.Identity{ExternalID: ext, AnonymousID: anon, Traits: traits, MessageID: id})
			})
		default:
			n := len(c.events)
			if c.triggers > 0 && r.IntN(2) == 0 {
				n = c.triggers
			}
			ev := fluxly.Event{Name: c.events[r.IntN(n)], ExternalID: ext, AnonymousID: anon, MessageID: id, Properties: fluxly.Properties{}}
			for _, name := range append(slices.Clone(c.eventProps[ev.Name]), c.eventProps[""]...) {
				if values := c.props[name]; len(values) > 0 && r.IntN(8) > 0 {
					ev.Properties[name] = values[r.IntN(len(values))]
				}
			}
			for _, name := range c.dateProps {
				if r.IntN(4) > 0 && !strings.Contains(name, ".") {
					ev.Properties[name] = Start.Add(at + time.Duration(r.Int64N(int64(12*24*time.Hour))) - 2*24*time.Hour)
				}
			}
			if r.IntN(8) > 0 {
				ev.Traits = fluxly.Traits{"email": address(who)}
			}
			if r.IntN(6) == 0 {
				ev.Timestamp = Start.Add(at - time.Duration(r.Int64N(int64(3*24*time.Hour))))
			}
			add("track "+ev.Name+" of "+who, func(ctx context.Context, e *fluxly.Engine) error { return e.Track(ctx, ev) })
		}
	}
	return out
}

func sortedKeys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
