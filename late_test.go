package fluxly_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/fluxlytest"
)

// upAndDown runs a test once with a worker that is always in time and once
// with one that was down until the test looks: both must decide alike.
func upAndDown(t *testing.T, cfg fluxly.Config, test func(t *testing.T, k *fluxlytest.Kit, pass func(time.Duration))) {
	t.Helper()
	for _, up := range []bool{true, false} {
		t.Run(map[bool]string{true: "up", false: "down"}[up], func(t *testing.T) {
			t.Parallel()
			k := newKitConfig(t, cfg)
			test(t, k, func(d time.Duration) {
				if up {
					k.Advance(d)
				} else {
					k.Clock().Set(k.Now().Add(d))
				}
			})
		})
	}
}

// What was due before an event is decided by what was known then: neither the
// event, nor the traits that came with it, count.
func TestLateTimersDoNotSeeWhatCameAfter(t *testing.T) {
	t.Parallel()
	upAndDown(t, fluxly.Config{Automations: []fluxly.Automation{
		one("w", fluxly.On("s"), fluxly.WaitFor("activated", fluxly.Day),
			fluxly.If(fluxly.Attr("plan").Is("pro")).Then(fluxly.Send("pro")).Else(fluxly.Send("free"))),
		one("c", fluxly.On("s"), fluxly.Wait(fluxly.Day),
			fluxly.If(fluxly.Did("exported").AtLeast(1)).Then(fluxly.Send("did")).Else(fluxly.Send("did-not"))),
	}}, func(_ *testing.T, k *fluxlytest.Kit, pass func(time.Duration)) {
		k.Track(event("s", "u", nil))
		pass(2 * fluxly.Day)
		k.Track(fluxly.Event{Name: "activated", ExternalID: "u", Traits: fluxly.Traits{"plan": "pro"}})
		k.Track(event("exported", "u", nil))
		k.WantSent("u", "free", "did-not")
	})
}

func TestLateSegmentLeave(t *testing.T) {
	t.Parallel()
	upAndDown(t, fluxly.Config{
		Segments: []fluxly.Segment{{Name: "active", Where: fluxly.Did("login").AtLeast(1).Within(7 * fluxly.Day)}},
		Automations: []fluxly.Automation{
			{Name: "quiet", Trigger: fluxly.OnLeaveSegment("active"), ReEntry: fluxly.Always(), Steps: fluxly.Steps{fluxly.Send("miss-you")}},
			{Name: "wait", Trigger: fluxly.On("login"), Steps: fluxly.Steps{
				fluxly.Wait(8 * fluxly.Day), fluxly.If(fluxly.InSegment("active")).Then(fluxly.Send("in")).Else(fluxly.Send("out")),
			}},
		},
	}, func(_ *testing.T, k *fluxlytest.Kit, pass func(time.Duration)) {
		k.Track(event("login", "u", nil))
		pass(9 * fluxly.Day)
		k.Track(event("login", "u", nil))
		k.WantSent("u", "miss-you", "out")
	})
}

// Each of many timers of one person that are late is read a few times, not
// once for every other.
func TestManyLateTimersOfOnePerson(t *testing.T) {
	t.Parallel()
	k := newKit(t, fluxly.Automation{
		Name: "w", Trigger: fluxly.On("s"), Key: "k", ReEntry: fluxly.Always(), Exit: fluxly.On("quit"),
		Steps: fluxly.Steps{fluxly.Wait(fluxly.Day), fluxly.Wait(fluxly.Day), fluxly.Send("m")},
	})
	const people = 300
	for i := range people {
		k.Track(event("s", "u", fluxly.Properties{"k": i}))
	}
	k.Clock().Set(k.Now().Add(2*fluxly.Day + time.Hour))
	k.Track(event("quit", "u", nil))
	if n := k.Engine.Counters().Wakes; n != 2*people {
		t.Errorf("%d timers fired, want %d", n, 2*people)
	}
	k.WantSent("u") // the exit takes all of them back
}

// A transaction that failed in the middle leaves nothing, whatever the error
// wraps, and the call can be repeated.
func TestFailedConditionLeavesNothing(t *testing.T) {
	t.Parallel()
	for _, cause := range []error{fluxly.ErrNotFound, fluxly.ErrConflict, fluxly.ErrInvalid, errors.New("plain")} {
		fail := true
		k := newKitConfig(t, fluxly.Config{
			Conditions: map[string]fluxly.ConditionFunc{"known": func(context.Context, fluxly.FuncInput) (bool, error) {
				if fail {
					return false, fmt.Errorf("crm: %w", cause)
				}
				return true, nil
			}},
			Automations: []fluxly.Automation{one("a", fluxly.On("signed_up", fluxly.Func("known")), fluxly.Send("welcome"))},
		})
		ev := fluxly.Event{Name: "signed_up", ExternalID: "u1", MessageID: "m1", Traits: fluxly.Traits{"email": "u1@example.test"}}
		if err := k.Engine.Track(t.Context(), ev); err == nil {
			t.Fatal("want an error")
		}
		if _, err := k.Engine.Profile(t.Context(), "u1"); !errors.Is(err, fluxly.ErrNotFound) {
			t.Errorf("%v: the profile was stored: %v", cause, err)
		}
		fail = false
		if err := k.Engine.Track(t.Context(), ev); err != nil {
			t.Fatal(err)
		}
		k.WantSent("u1", "welcome")
	}
}

// A date that cannot be waited for is none.
func TestDateBeyondTheCalendar(t *testing.T) {
	t.Parallel()
	k := newKit(t,
		one("first", fluxly.On("s"), fluxly.WaitUntil(fluxly.Attr("ends"), 2*fluxly.Day), fluxly.Send("bye")),
		one("second", fluxly.On("s"), fluxly.Send("welcome")))
	k.Track(fluxly.Event{Name: "s", ExternalID: "u", Traits: fluxly.Traits{"ends": "9999-12-31T00:00:00Z"}})
	k.WantSent("u", "welcome")
}

// There is one live run for each automation, person and key, whatever the
// order in which runs started and ended.
func TestOneLiveRun(t *testing.T) {
	t.Parallel()
	cart := fluxly.Automation{
		Name: "cart", Trigger: fluxly.On("cart"), Exit: fluxly.On("paid"), ReEntry: fluxly.Always(),
		Steps: fluxly.Steps{fluxly.Wait(10 * fluxly.Day), fluxly.Send("cart")},
	}
	want := func(t *testing.T, k *fluxlytest.Kit) {
		t.Helper()
		live := 0
		for _, r := range k.Runs("u") {
			if r.Status == fluxly.RunLive {
				live++
			}
		}
		if live != 1 {
			t.Errorf("%d live runs", live)
		}
	}
	t.Run("after a merge", func(t *testing.T) {
		t.Parallel()
		k := newKit(t, cart)
		k.Track(event("cart", "u", nil))
		k.Advance(fluxly.Day)
		k.Track(fluxly.Event{Name: "cart", AnonymousID: "anon"})
		k.Track(fluxly.Event{Name: "paid", AnonymousID: "anon"})
		k.Identify(fluxly.Identity{ExternalID: "u", AnonymousID: "anon"})
		k.Track(event("cart", "u", nil))
		want(t, k)
	})
	t.Run("at one instant", func(t *testing.T) {
		t.Parallel()
		for i := range 20 {
			k := newKit(t, cart)
			for j, name := range []string{"cart", "paid", "cart", "cart"} {
				k.Track(fluxly.Event{Name: name, ExternalID: "u", MessageID: fmt.Sprintf("m-%d-%d", i, j)})
			}
			want(t, k)
		}
	})
}

// Automations that change what they listen to come to an end, by how many runs
// one call may start and not only by how deep they go.
func TestFanOutIsBounded(t *testing.T) {
	t.Parallel()
	var as []fluxly.Automation
	for i := range 4 {
		as = append(as, fluxly.Automation{
			Name: fmt.Sprint("a", i), Trigger: fluxly.OnChange("x"), ReEntry: fluxly.Always(),
			Steps: fluxly.Steps{fluxly.SetTraits(fluxly.Traits{"x": i})},
		})
	}
	k := newKit(t, as...)
	k.Identify(fluxly.Identity{ExternalID: "u", Traits: fluxly.Traits{"x": 100, "email": "u@example.test"}})
	c := k.Engine.Counters()
	if c.RunsStarted > 200 || c.TooDeep == 0 {
		t.Errorf("%d runs started, %d cut", c.RunsStarted, c.TooDeep)
	}
}

// Runs of one person that a move ends or changes one through another do not
// keep the new version from starting, nor does a mail that only they needed.
func TestMoveOfRunsThatTouchEachOther(t *testing.T) {
	t.Parallel()
	v := func(removed map[string]fluxly.Removal, steps ...fluxly.Step) fluxly.Automation {
		return fluxly.Automation{
			Name: "a", Trigger: fluxly.On("s"), Key: "k", ReEntry: fluxly.Always(), Exit: fluxly.OnChange("x"), Steps: steps, Removed: removed,
		}
	}
	v1 := v(nil, fluxly.Wait(fluxly.Day).Named("old"), fluxly.Send("gone"))
	for name, v2 := range map[string]fluxly.Automation{
		"move": v(map[string]fluxly.Removal{"old": {MoveTo: "set"}}, fluxly.SetTraits(fluxly.Traits{"x": 1}).Named("set"), fluxly.Wait(fluxly.Day).Named("new"), fluxly.Send("m")),
		"end":  v(map[string]fluxly.Removal{"old": {End: true}}, fluxly.Send("m")),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := newKit(t, v1)
			k.Track(event("s", "u", fluxly.Properties{"k": "1"}))
			k.Track(event("s", "u", fluxly.Properties{"k": "2"}))
			if err := k.Restart(fluxly.Config{Automations: []fluxly.Automation{v2}}); err != nil {
				t.Errorf("the new version does not start: %v", err)
			}
		})
	}
}

// After a merge a wait follows the date of the profile that stayed.
func TestMergeMovesDates(t *testing.T) {
	t.Parallel()
	k := newKit(t, one("w", fluxly.On("s"), fluxly.WaitUntil(fluxly.Attr("ends"), 0), fluxly.Send("m")))
	day := func(n int) time.Time { return fluxlytest.Start.Add(time.Duration(n) * fluxly.Day) }
	k.Identify(fluxly.Identity{ExternalID: "u", Traits: fluxly.Traits{"ends": day(20)}})
	k.Advance(time.Hour)
	k.Identify(fluxly.Identity{AnonymousID: "anon", Traits: fluxly.Traits{"ends": day(5)}})
	k.Track(fluxly.Event{Name: "s", AnonymousID: "anon"})
	k.Identify(fluxly.Identity{ExternalID: "u", AnonymousID: "anon"})
	k.Advance(10 * fluxly.Day)
	k.WantSent("u")
	k.Advance(10 * fluxly.Day)
	k.WantSent("u", "m")
}

// A process is frozen between the moment at which it sees that a mail is due
// and the claim. What fell due for the person meanwhile is decided for its own
// instant, and before the mail: the run still lived then, so none starts beside
// it.
func TestTimerDueBeforeAMailIsSettled(t *testing.T) {
	t.Parallel()
	store := &hookStore{Store: fluxly.NewMemoryStore()}
	t.Cleanup(func() { _ = store.Close() })
	k := newKitConfig(t, fluxly.Config{
		Store:    store,
		Segments: []fluxly.Segment{{Name: "active", Where: fluxly.Did("logged_in").AtLeast(1).Within(5 * fluxly.Day)}},
		Automations: []fluxly.Automation{{
			Name: "left", Trigger: fluxly.OnLeaveSegment("active"), ReEntry: fluxly.Always(), Steps: fluxly.Steps{fluxly.Send("miss-you")},
		}},
	})
	k.Track(event("logged_in", "u1", nil))
	k.Settle()
	if _, err := k.Engine.Enroll(t.Context(), fluxly.Enrollment{Automation: "left", ExternalID: "u1"}); err != nil {
		t.Fatal(err)
	}
	views := 0
	store.afterView = func() {
		if views++; views == 4 { // wake, segment, call, and then the mail
			k.Clock().Set(k.Now().Add(6 * fluxly.Day))
		}
	}
	k.Settle()
	store.afterView = nil
	if runs := k.Runs("u1"); len(runs) != 1 {
		t.Errorf("%d runs, want the one that lived when the person left the segment: %+v", len(runs), runs)
	}
}
