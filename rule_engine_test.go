package fluxly_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/getfluxly/fluxly"
)

func TestSinceEntryCountsFromTheStartOfTheRun(t *testing.T) {
	t.Parallel()
	k := newKit(t, fluxly.Automation{
		Name: "exports", Trigger: fluxly.On("signed_up"), Exit: fluxly.On("exported", fluxly.Did("exported").AtLeast(3).SinceEntry()),
		Steps: fluxly.Steps{
			fluxly.Wait(fluxly.Day),
			fluxly.If(fluxly.Did("exported").SinceEntry()).Then(fluxly.Send("used-it")).Else(fluxly.Send("try-it")),
			fluxly.Wait(30 * fluxly.Day),
			fluxly.Send("late"),
		},
	})
	for _, id := range []string{"before", "after"} {
		k.Track(event("exported", id, nil))
		k.Track(event("exported", id, nil))
	}
	k.Advance(time.Hour)
	k.Track(event("signed_up", "before", nil))
	k.Track(event("signed_up", "after", nil))
	k.Track(event("exported", "after", nil))
	k.Advance(fluxly.Day)
	k.WantSent("before", "try-it")
	k.WantSent("after", "used-it")
	// The third in all, but the first since entry: the run goes on.
	k.Track(event("exported", "before", nil))
	k.Track(event("exported", "after", nil))
	k.Track(event("exported", "after", nil))
	k.Advance(31 * fluxly.Day)
	k.WantSent("before", "try-it", "late")
	k.WantSent("after", "used-it")
}

// The clock of a browser runs ahead: its event counts in the call that tracks
// it, and the run that it starts sees what comes after it.
func TestEventFromAClockThatRunsAhead(t *testing.T) {
	t.Parallel()
	k := newKitConfig(t, fluxly.Config{
		Segments: []fluxly.Segment{{Name: "active", Where: fluxly.Did("logged_in").Within(fluxly.Day)}},
		Automations: []fluxly.Automation{
			one("hello", fluxly.OnEnterSegment("active"), fluxly.Send("hello")),
			one("first", fluxly.On("logged_in"), fluxly.WaitFor("project_created", fluxly.Day).Then(fluxly.Send("well-done"))),
		},
	})
	e := event("logged_in", "u1", nil)
	e.Timestamp = k.Now().Add(time.Hour)
	k.Track(e)
	k.WantSent("u1", "hello")
	k.Advance(time.Minute)
	k.Track(event("project_created", "u1", nil))
	k.WantSent("u1", "hello", "well-done")
}

func TestNewRefusesSinceEntryInATrigger(t *testing.T) {
	t.Parallel()
	_, err := fluxly.New(fluxly.Config{
		Store: fluxly.NewMemoryStore(), Mode: fluxly.DryRun, From: "hello@acme.test",
		Automations: []fluxly.Automation{one("a", fluxly.On("signed_up", fluxly.Did("exported").SinceEntry()), fluxly.End())},
	})
	var ce *fluxly.ConfigError
	if !errors.As(err, &ce) || !strings.Contains(err.Error(), "since_entry") {
		t.Errorf("got %v", err)
	}
}

// A branch decides by one answer of the host's code, and logs that one.
func TestFuncIsAskedOnceForABranch(t *testing.T) {
	t.Parallel()
	calls := 0
	boom := errors.New("boom")
	k := newKitConfig(t, fluxly.Config{
		Conditions: map[string]fluxly.ConditionFunc{
			"flips": func(_ context.Context, in fluxly.FuncInput) (bool, error) {
				calls++
				if in.Properties["plan"] != "trial" || in.Profile.ExternalIDs[0] != "u1" || in.Now.IsZero() {
					t.Errorf("asked with %+v", in)
				}
				return calls%2 == 1, nil
			},
			"fails": func(context.Context, fluxly.FuncInput) (bool, error) { return false, boom },
		},
		Automations: []fluxly.Automation{
			one("a", fluxly.On("signed_up"), fluxly.If(fluxly.Func("flips")).Then(fluxly.Send("yes")).Else(fluxly.Send("no"))),
			one("b", fluxly.On("failed", fluxly.Not(fluxly.Func("fails"))), fluxly.Send("now")),
		},
	})
	k.Track(event("signed_up", "u1", fluxly.Properties{"plan": "trial"}))
	k.WantSent("u1", "yes")
	if calls != 1 {
		t.Errorf("asked %d times", calls)
	}
	why, err := k.Engine.Explain(t.Context(), "u1", "a")
	if err != nil || !strings.Contains(fmt.Sprint(why.Log), "yes  func flips") {
		t.Errorf("the log does not hold the answer: %v, %v", why, err)
	}
	// An error leaves nothing behind: the same event again is new.
	e := event("failed", "u1", nil)
	e.MessageID = "m1"
	if err := k.TryTrack(e); !errors.Is(err, boom) || !strings.Contains(err.Error(), `"fails"`) {
		t.Errorf("got %v", err)
	}
	boom = nil
	k.Track(e)
	k.WantSent("u1", "yes", "now")
}

// "9999-12-31" is how many programs write never: a segment over such a time
// must not arm a timer that no store can keep.
func TestSegmentOverATimeThatNeverComes(t *testing.T) {
	t.Parallel()
	k := newKitConfig(t, fluxly.Config{
		Segments:    []fluxly.Segment{{Name: "lapsed", Where: fluxly.Attr("ends_at").OlderThan(30 * fluxly.Day)}},
		Automations: []fluxly.Automation{one("win-back", fluxly.OnEnterSegment("lapsed"), fluxly.Send("come-back"))},
	})
	k.Identify(fluxly.Identity{ExternalID: "u1", Traits: fluxly.Traits{"ends_at": "9999-12-31T23:59:59Z"}})
	k.Advance(400 * fluxly.Day)
	k.WantSent("u1")
	k.Identify(fluxly.Identity{ExternalID: "u1", Traits: fluxly.Traits{"ends_at": k.Now()}})
	k.Advance(30*fluxly.Day - time.Nanosecond)
	k.WantSent("u1")
	k.Advance(time.Nanosecond)
	k.WantSent("u1", "come-back")
}
