package fluxlytest_test

import (
	"testing"
	"time"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/fluxlytest"
)

var trial = fluxly.Automation{
	Name:    "trial",
	Trigger: fluxly.On("signed_up", fluxly.Prop("plan").Is("trial")),
	Exit:    fluxly.On("subscription_started"),
	Steps: fluxly.Steps{
		fluxly.Send("welcome"),
		fluxly.Wait(11 * fluxly.Day),
		fluxly.Send("trial-ends"),
	},
}

// This is how a program tests its own automations. The body is an ordinary
// test; it takes milliseconds.
func ExampleNew() {
	test := func(t *testing.T) {
		e := fluxlytest.New(t, trial) // memory store, virtual clock, fake Sender
		e.Track(fluxly.Event{Name: "signed_up", ExternalID: "ann", Properties: fluxly.Properties{"plan": "trial"}})
		e.Track(fluxly.Event{Name: "signed_up", ExternalID: "bob", Properties: fluxly.Properties{"plan": "trial"}})
		e.Advance(5 * fluxly.Day)
		e.Track(fluxly.Event{Name: "subscription_started", ExternalID: "bob"})
		e.Advance(30 * fluxly.Day)
		e.WantSent("ann", "welcome", "trial-ends")
		e.WantSent("bob", "welcome")
	}
	_ = test
}

func TestTrialExample(t *testing.T) {
	t.Parallel()
	start := time.Now()
	e := fluxlytest.New(t, trial)
	e.Track(fluxly.Event{Name: "signed_up", ExternalID: "ann", Properties: fluxly.Properties{"plan": "trial"}})
	e.Track(fluxly.Event{Name: "signed_up", ExternalID: "bob", Properties: fluxly.Properties{"plan": "trial"}})
	e.Advance(5 * fluxly.Day)
	e.Track(fluxly.Event{Name: "subscription_started", ExternalID: "bob"})
	if err := e.Engine.Unsubscribe(t.Context(), "ann", fluxly.Unsubscription{Source: "test"}); err != nil {
		t.Fatal(err)
	}
	e.Advance(30 * fluxly.Day)
	e.WantSent("ann", "welcome")
	e.WantNotSent("ann", "trial-ends", fluxly.ReasonConsent)
	e.WantSent("bob", "welcome")
	t.Logf("thirty-five days in %s", time.Since(start))
}
