package fluxly_test

import (
	"testing"
	"time"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/fluxlytest"
)

// A clock that goes back a little must not make people leave segments, nor
// start runs beside runs; one that goes back far takes the engine along.
func TestClockGoesBack(t *testing.T) {
	t.Parallel()
	newKit := func(t *testing.T) *fluxlytest.Kit {
		return newKitConfig(t, fluxly.Config{
			Segments: []fluxly.Segment{{
				Name: "active", Where: fluxly.All(fluxly.Did("login").AtLeast(1).Within(7*fluxly.Day), fluxly.Attr("plan").IsNot("none")),
			}},
			Automations: []fluxly.Automation{
				{Name: "quiet", Trigger: fluxly.OnLeaveSegment("active"), ReEntry: fluxly.Always(), Steps: fluxly.Steps{fluxly.Send("miss-you")}},
				{Name: "cart", Trigger: fluxly.On("filled"), Exit: fluxly.On("paid"), ReEntry: fluxly.Always(), Steps: fluxly.Steps{fluxly.Wait(fluxly.Day)}},
			},
		})
	}
	t.Run("by a second", func(t *testing.T) {
		t.Parallel()
		k := newKit(t)
		for _, name := range []string{"login", "filled", "paid"} {
			k.Track(event(name, "u1", nil))
		}
		k.Clock().Set(fluxlytest.Start.Add(-time.Second))
		k.Identify(fluxly.Identity{ExternalID: "u1", Traits: fluxly.Traits{"plan": "pro"}})
		k.Track(event("filled", "u1", nil))
		k.Track(event("filled", "u1", nil))
		k.Advance(time.Minute)
		k.WantSent("u1")
		live := 0
		for _, r := range k.Runs("u1") {
			if r.StartedAt.Before(fluxlytest.Start) {
				t.Errorf("a run started at %s, before what had happened", r.StartedAt)
			}
			if r.Status == fluxly.RunLive {
				live++
			}
		}
		if live != 1 {
			t.Errorf("%d live runs of one automation, want 1", live)
		}
		k.Advance(8 * fluxly.Day)
		k.WantSent("u1", "miss-you")
	})
	t.Run("by a year", func(t *testing.T) {
		t.Parallel()
		k := newKit(t)
		k.Clock().Set(fluxlytest.Start.Add(365 * fluxly.Day)) // wrong
		k.Track(event("other", "u1", nil))
		k.Clock().Set(fluxlytest.Start)
		k.Track(event("filled", "u1", nil))
		k.Advance(2 * fluxly.Day)
		k.Settle()
		runs := k.Runs("u1")
		if len(runs) != 1 || runs[0].Status != fluxly.RunCompleted || !runs[0].EndedAt.Equal(fluxlytest.Start.Add(fluxly.Day)) {
			t.Errorf("%+v, want one run that ended after a day", runs)
		}
	})
}
