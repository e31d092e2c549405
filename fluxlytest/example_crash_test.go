package fluxlytest_test

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/fluxlytest"
)

// An automation with a step of the program's own, under crashes: calls that
// the program makes, and not those drawn from what the automation listens to.
func ExampleTestCrashSchedules() {
	trial := fluxly.Automation{
		Name: "trial", Trigger: fluxly.On("signed_up"), Exit: fluxly.On("subscribed"),
		Steps: fluxly.Steps{
			fluxly.Send("welcome"),
			fluxly.WaitFor("project_created", 3*fluxly.Day).Then(fluxly.Do("score"), fluxly.Send("bravo")).Else(fluxly.Send("nudge")),
		},
	}
	// In a file of its own this is func TestTrialUnderCrashes.
	_ = func(t *testing.T) {
		fluxlytest.TestCrashSchedules(t, fluxlytest.CrashConfig{
			Engine: fluxly.Config{
				Automations: []fluxly.Automation{trial},
				Funcs: map[string]fluxly.StepFunc{
					"score": func(context.Context, fluxly.StepInput) (any, error) { return 7, nil },
				},
			},
			Calls: func(r *rand.Rand) []fluxlytest.CrashCall {
				created := time.Duration(r.IntN(5*24)) * time.Hour
				return []fluxlytest.CrashCall{
					{Event: fluxly.Event{Name: "signed_up", ExternalID: "u1", Traits: fluxly.Traits{"email": "u1@example.test"}}},
					{At: created, Event: fluxly.Event{Name: "project_created", ExternalID: "u1"}},
					{At: 4 * fluxly.Day, Name: "unsubscribe", Call: func(ctx context.Context, e *fluxly.Engine) error {
						return e.Unsubscribe(ctx, "u1", fluxly.Unsubscription{Source: "footer"})
					}},
				}
			},
		})
	}
	// Output:
}
