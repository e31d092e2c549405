package fluxly_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/fluxlytest"
)

// The scenarios by which the product is judged, under their ids.

// trialOnboarding is the automation of the README.
var trialOnboarding = fluxly.Automation{
	Name:    "trial-onboarding",
	Trigger: fluxly.On("signed_up", fluxly.Prop("plan").Is("trial")),
	Exit:    fluxly.On("subscription_started"),
	Steps: fluxly.Steps{
		fluxly.Send("welcome"),
		fluxly.WaitFor("project_created", 3*fluxly.Day).
			Then(fluxly.Send("first-project")).
			Else(fluxly.Send("first-project-nudge")),
		fluxly.WaitUntil(fluxly.Attr("trial_ends_at"), -3*fluxly.Day),
		fluxly.If(fluxly.Did("report_exported").AtLeast(50).Within(30 * fluxly.Day)).
			Then(fluxly.Send("upgrade")).
			Else(fluxly.Send("extend-trial")),
	},
}

func event(name, id string, props fluxly.Properties) fluxly.Event {
	return fluxly.Event{Name: name, ExternalID: id, Properties: props}
}

func one(name string, trigger fluxly.Trigger, steps ...fluxly.Step) fluxly.Automation {
	return fluxly.Automation{Name: name, Trigger: trigger, Steps: steps}
}

func TestT1TriggerByName(t *testing.T) {
	t.Parallel()
	k := newKit(t, one("welcome", fluxly.On("signed_up"), fluxly.Send("welcome")))
	k.Track(event("signed_up", "u1", nil))
	k.Track(event("logged_in", "u2", nil))
	runs, err := k.Engine.Runs(t.Context(), fluxly.RunQuery{})
	if err != nil {
		t.Fatal(err)
	}
	p, err := k.Engine.Profile(t.Context(), "u1")
	if err != nil {
		t.Fatal(err)
	}
	if len(runs) != 1 || runs[0].ProfileID != p.ID {
		t.Fatalf("runs: %+v, want one of %s", runs, p.ID)
	}
	k.WantSent("u1", "welcome")
	k.WantSent("u2")
}

func TestT2TriggerByProperties(t *testing.T) {
	t.Parallel()
	k := newKit(t, one("big", fluxly.On("bought", fluxly.Prop("plan").In("pro", "team"), fluxly.Prop("amount").GreaterThan(1000)), fluxly.Send("thanks")))
	for id, p := range map[string]fluxly.Properties{
		"both": {"plan": "pro", "amount": 1001}, "cheap": {"plan": "team", "amount": 1000},
		"free": {"plan": "free", "amount": 5000}, "neither": {"plan": "free", "amount": 1}, "text": {"plan": "pro", "amount": "5000"},
	} {
		k.Track(event("bought", id, p))
	}
	for _, id := range []string{"cheap", "free", "neither", "text"} {
		k.WantSent(id)
		if n := len(k.Runs(id)); n != 0 {
			t.Errorf("%s has %d runs", id, n)
		}
	}
	k.WantSent("both", "thanks")
	why, err := k.Engine.Explain(t.Context(), "text", "big")
	if err != nil {
		t.Fatal(err)
	}
	if why.Trigger == nil || why.Trigger.Holds || !strings.Contains(why.String(), "amount") {
		t.Errorf("the reason cannot be read back: %s %+v", why, why.Trigger)
	}
}

func TestT3T4SegmentMoves(t *testing.T) {
	t.Parallel()
	k := newKitConfig(t, fluxly.Config{
		Segments: []fluxly.Segment{
			{Name: "builders", Where: fluxly.Did("project_created").AtLeast(3)},
			{Name: "active", Where: fluxly.Did("logged_in").AtLeast(1).Within(7 * fluxly.Day)},
		},
		Automations: []fluxly.Automation{
			one("third", fluxly.OnEnterSegment("builders"), fluxly.Send("three")),
			{Name: "quiet", Trigger: fluxly.OnLeaveSegment("active"), ReEntry: fluxly.Always(), Steps: fluxly.Steps{fluxly.Send("miss-you")}},
		},
	})
	k.Track(event("logged_in", "u1", nil))
	for i := range 4 {
		k.Track(event("project_created", "u1", nil))
		if got, want := len(k.Runs("u1")), i/2; got != want && i < 3 {
			t.Errorf("after %d projects: %d runs", i+1, got)
		}
	}
	k.WantSent("u1", "three")
	k.Advance(7*fluxly.Day - time.Nanosecond)
	k.WantSent("u1", "three")
	k.Advance(2 * time.Nanosecond)
	k.WantSent("u1", "three", "miss-you")
	k.Advance(100 * fluxly.Day)
	k.WantSent("u1", "three", "miss-you")
}

func TestT5TraitChange(t *testing.T) {
	t.Parallel()
	always := func(a fluxly.Automation) fluxly.Automation { a.ReEntry = fluxly.Always(); return a }
	k := newKit(t,
		always(one("any", fluxly.OnChange("plan"), fluxly.Send("changed"))),
		always(one("to-pro", fluxly.OnChange("plan", fluxly.Attr("plan").Is("pro"), fluxly.Prop("old").Is("free")), fluxly.Send("pro"))),
	)
	set := func(plan string) {
		k.Identify(fluxly.Identity{ExternalID: "u1", Traits: fluxly.Traits{"plan": plan, "email": "u1@example.test"}})
		k.Settle()
		k.Advance(time.Second)
	}
	set("free")
	k.WantSent("u1", "changed")
	set("pro")
	k.WantSent("u1", "changed", "changed", "pro")
	set("pro")
	k.WantSent("u1", "changed", "changed", "pro")
	set("free")
	k.WantSent("u1", "changed", "changed", "pro", "changed")
}

func TestT9Enroll(t *testing.T) {
	t.Parallel()
	k := newKit(t, fluxly.Automation{Name: "dunning", Steps: fluxly.Steps{fluxly.Send("pay"), fluxly.Wait(fluxly.Day), fluxly.Send("pay-now")}})
	in := fluxly.Enrollment{Automation: "dunning", ExternalID: "u1", Key: "sub_9"}
	first, err := k.Engine.Enroll(t.Context(), in)
	if err != nil || first.Existed || first.RunID == "" {
		t.Fatalf("first: %+v, %v", first, err)
	}
	again, err := k.Engine.Enroll(t.Context(), in)
	if err != nil || !again.Existed || again.RunID != first.RunID {
		t.Fatalf("again: %+v, %v", again, err)
	}
	k.Advance(time.Hour)
	for name, in := range map[string]fluxly.Enrollment{
		"refused":        {Automation: "dunning", ExternalID: "u1", Key: "sub_9", MessageID: "m1"},
		"with a merge":   {Automation: "dunning", AnonymousID: "anon", Key: "sub_7", MessageID: "m2"},
		"without people": {Automation: "dunning", ExternalID: "u9", Key: "sub_9", MessageID: "m3"},
	} {
		before, err := k.Engine.Enroll(t.Context(), in)
		if err != nil {
			t.Fatal(name, err)
		}
		if name == "with a merge" {
			k.Identify(fluxly.Identity{ExternalID: "u1", AnonymousID: "anon"})
		}
		after, err := k.Engine.Enroll(t.Context(), in)
		if err != nil || !after.Existed || after.RunID != before.RunID {
			t.Errorf("%s: %+v, then with the same message id %+v, %v", name, before, after, err)
		}
		if _, err := k.Engine.RunLog(t.Context(), after.RunID); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := k.Engine.Enroll(t.Context(), fluxly.Enrollment{Automation: "nope", ExternalID: "u1"}); !errors.Is(err, fluxly.ErrNotFound) {
		t.Errorf("unknown automation: %v", err)
	}
	if _, err := k.Engine.Enroll(t.Context(), fluxly.Enrollment{Automation: "dunning"}); !errors.Is(err, fluxly.ErrInvalid) {
		t.Errorf("nobody: %v", err)
	}
}

func TestS1FixedDelay(t *testing.T) {
	t.Parallel()
	a := one("delay", fluxly.On("signed_up"), fluxly.Wait(3*fluxly.Day), fluxly.Send("later"))
	k := newKit(t, a)
	k.Track(event("signed_up", "u1", nil))
	k.Advance(40 * time.Hour)
	if err := k.Restart(fluxly.Config{Automations: []fluxly.Automation{a}}); err != nil {
		t.Fatal(err)
	}
	k.Advance(32*time.Hour - time.Second)
	k.WantSent("u1")
	k.Advance(time.Second)
	k.WantSent("u1", "later")
}

func TestS2LongDelay(t *testing.T) {
	t.Parallel()
	k := newKit(t, one("year", fluxly.On("signed_up"), fluxly.Wait(400*fluxly.Day), fluxly.Send("later")))
	k.Track(event("signed_up", "u1", nil))
	k.Advance(400*fluxly.Day - time.Second)
	if n := k.Engine.Counters().Wakes; n != 0 {
		t.Errorf("%d wake-ups before the delay was over", n)
	}
	k.Advance(time.Second)
	k.WantSent("u1", "later")
	if n := k.Engine.Counters().Wakes; n != 1 {
		t.Errorf("%d wake-ups, want 1", n)
	}
}

func TestS4S5WaitUntilDate(t *testing.T) {
	t.Parallel()
	end := func(day int) fluxly.Traits {
		return fluxly.Traits{"trial_ends_at": fluxlytest.Start.Add(time.Duration(day) * fluxly.Day)}
	}
	a := one("trial", fluxly.On("signed_up"), fluxly.WaitUntil(fluxly.Attr("trial_ends_at"), -2*fluxly.Day).IfMissing(fluxly.SkipWait).IfPast(fluxly.SkipWait), fluxly.Send("ending"))
	strict := a
	strict.Name = "strict"
	strict.Steps = fluxly.Steps{fluxly.WaitUntil(fluxly.Attr("trial_ends_at"), -2*fluxly.Day), fluxly.Send("strict")}
	for _, tt := range []struct {
		name        string
		first       int // day of the date at entry; 0: none
		moved       int // day of the date from day 5 on; 0: not moved
		wantDay     int // day of the mail
		strictSends bool
	}{
		{name: "kept", first: 14, wantDay: 12, strictSends: true},
		{name: "later", first: 14, moved: 30, wantDay: 28, strictSends: true},
		{name: "earlier", first: 14, moved: 8, wantDay: 6, strictSends: true},
		{name: "to the past", first: 14, moved: 2, wantDay: 5, strictSends: true},
		{name: "missing", wantDay: 0},
		{name: "past", first: 1, wantDay: 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			k := newKit(t, a, strict)
			if tt.first > 0 {
				k.Identify(fluxly.Identity{ExternalID: "u1", Traits: end(tt.first)})
			}
			k.Track(event("signed_up", "u1", nil))
			sentOn := -1
			look := func(day int) {
				if sentOn < 0 && slices.Contains(k.Sent("u1"), "ending") {
					sentOn = day
				}
			}
			look(0)
			for day := 1; day <= 40; day++ {
				k.Advance(fluxly.Day)
				if day == 5 && tt.moved > 0 {
					k.Identify(fluxly.Identity{ExternalID: "u1", Traits: end(tt.moved)})
				}
				look(day)
			}
			if sentOn != tt.wantDay {
				t.Errorf("sent on day %d, want %d", sentOn, tt.wantDay)
			}
			if got := slices.Contains(k.Sent("u1"), "strict"); got != tt.strictSends {
				t.Errorf("the strict rule sent: %v, want %v", got, tt.strictSends)
			}
			want := map[bool]int64{true: 2, false: 0}[tt.strictSends]
			if tt.moved == 2 {
				want = 0 // ended at once, in the call that moved the date
			}
			if n := k.Engine.Counters().Wakes; n != want {
				t.Errorf("%d wake-ups, want %d", n, want)
			}
		})
	}
}

func TestS6WaitForEvent(t *testing.T) {
	t.Parallel()
	a := one("activate", fluxly.On("signed_up"),
		fluxly.WaitFor("activated", 3*fluxly.Day).Then(fluxly.Send("bravo")).Else(fluxly.Send("nudge")),
		fluxly.Send("after"))
	for _, tt := range []struct {
		name string
		at   time.Duration
		want []string
	}{
		{"in time", 3*fluxly.Day - time.Minute, []string{"bravo", "after"}},
		{"at the instant", 3 * fluxly.Day, []string{"bravo", "after"}},
		{"too late", 3*fluxly.Day + time.Second, []string{"nudge", "after"}},
		{"never", 0, []string{"nudge", "after"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for range replays(1000) {
				k := newKit(t, a)
				k.Track(event("signed_up", "u1", nil))
				if tt.at > 0 {
					k.Advance(tt.at)
					k.Track(event("activated", "u1", nil))
				}
				k.Advance(10 * fluxly.Day)
				k.WantSent("u1", tt.want...)
				if t.Failed() || testing.Short() {
					break
				}
			}
		})
	}
}

// An engine that was not running at the timeout decides as one that was: an
// event that comes after the deadline finds the timeout taken.
func TestS6OutageDoesNotTurnTheOutcome(t *testing.T) {
	t.Parallel()
	k := newKit(t, one("activate", fluxly.On("signed_up"),
		fluxly.WaitFor("activated", 3*fluxly.Day).Then(fluxly.Send("bravo")).Else(fluxly.Send("nudge"))))
	k.Track(event("signed_up", "u1", nil))
	k.Clock().Set(k.Now().Add(3*fluxly.Day + time.Second)) // nothing runs meanwhile
	k.Track(event("activated", "u1", nil))
	k.WantSent("u1", "nudge")
}

func TestS7WaitMatchesKey(t *testing.T) {
	t.Parallel()
	k := newKit(t, fluxly.Automation{
		Name: "cart", Trigger: fluxly.On("cart_filled"), Key: "cart_id", ReEntry: fluxly.Always(),
		Steps: fluxly.Steps{fluxly.WaitFor("order_placed", fluxly.Day).Matching("cart_id").Else(fluxly.Send("forgot"))},
	})
	k.Track(event("cart_filled", "u1", fluxly.Properties{"cart_id": "cart_1"}))
	k.Track(event("cart_filled", "u1", fluxly.Properties{"cart_id": "cart_2"}))
	k.Track(event("order_placed", "u1", fluxly.Properties{"cart_id": "cart_2"}))
	live := 0
	for _, r := range k.Runs("u1") {
		if r.Status == fluxly.RunLive {
			live++
			if r.Key != "cart_1" {
				t.Errorf("the run of %s goes on", r.Key)
			}
		}
	}
	if live != 1 {
		t.Errorf("%d live runs, want 1", live)
	}
	k.Advance(2 * fluxly.Day)
	k.WantSent("u1", "forgot")
}

func TestS9SinceEntry(t *testing.T) {
	t.Parallel()
	steps := func(w fluxly.Step) fluxly.Automation {
		return one("quick", fluxly.On("signed_up"), fluxly.Wait(time.Hour), w.Then(fluxly.Send("bravo")).Else(fluxly.Send("nudge")))
	}
	for _, tt := range []struct {
		name string
		a    fluxly.Automation
		want string
	}{
		{"since entry", steps(fluxly.WaitFor("activated", fluxly.Day).SinceEntry()), "bravo"},
		{"from the wait on", steps(fluxly.WaitFor("activated", fluxly.Day)), "nudge"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			k := newKit(t, tt.a)
			k.Track(event("activated", "u1", nil)) // before the entry: never counts
			k.Advance(time.Minute)
			k.Track(event("signed_up", "u1", nil))
			k.Advance(time.Minute)
			if tt.want == "bravo" || tt.name == "from the wait on" {
				k.Track(event("activated", "u1", nil))
			}
			k.Advance(3 * fluxly.Day)
			k.WantSent("u1", tt.want)
		})
	}
}

func TestS10Branch(t *testing.T) {
	t.Parallel()
	k := newKit(t, one("branch", fluxly.On("signed_up"), fluxly.Branch(
		fluxly.When(fluxly.Prop("seats").GreaterThan(10), fluxly.Send("team")),
		fluxly.When(fluxly.Prop("plan").Is("pro"), fluxly.Send("pro")),
		fluxly.When(fluxly.Prop("seats").GreaterThan(5), fluxly.Send("small")),
	).Else(fluxly.Send("solo"))))
	k.Track(event("signed_up", "first-and-third", fluxly.Properties{"seats": 20}))
	k.Track(event("signed_up", "third", fluxly.Properties{"seats": 7}))
	k.Track(event("signed_up", "none", nil))
	k.WantSent("first-and-third", "team")
	k.WantSent("third", "small")
	k.WantSent("none", "solo")
	log, err := k.Engine.RunLog(t.Context(), k.Runs("third")[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(log, func(l fluxly.LogEntry) bool { return l.Code == "branch" })
	if i < 0 || !strings.Contains(fmt.Sprint(log[i].Detail), "7") {
		t.Errorf("the log does not hold the values looked at: %v", log)
	}
}

func TestS14SetTraits(t *testing.T) {
	t.Parallel()
	k := newKitConfig(t, fluxly.Config{
		Segments: []fluxly.Segment{{Name: "stage-two", Where: fluxly.Attr("stage").Is(2)}},
		Automations: []fluxly.Automation{
			one("setter", fluxly.On("signed_up"), fluxly.SetTraits(fluxly.Traits{"stage": 2}),
				fluxly.If(fluxly.InSegment("stage-two")).Then(fluxly.Send("in")).Else(fluxly.Send("out"))),
			{Name: "mover", Trigger: fluxly.OnEnterSegment("stage-two"), ReEntry: fluxly.Always(), Steps: fluxly.Steps{fluxly.Send("moved")}},
			// A pair that feed each other.
			{Name: "ping", Trigger: fluxly.OnChange("ball", fluxly.Attr("ball").Is("ping")), ReEntry: fluxly.Always(), Steps: fluxly.Steps{fluxly.SetTraits(fluxly.Traits{"ball": "pong"})}},
			{Name: "pong", Trigger: fluxly.OnChange("ball", fluxly.Attr("ball").Is("pong")), ReEntry: fluxly.Always(), Steps: fluxly.Steps{fluxly.SetTraits(fluxly.Traits{"ball": "ping"})}},
		},
	})
	k.Track(event("signed_up", "u1", nil))
	k.WantSent("u1", "in", "moved")
	k.Identify(fluxly.Identity{ExternalID: "u1", Traits: fluxly.Traits{"ball": "ping"}})
	if n := k.Engine.Counters().TooDeep; n != 1 {
		t.Errorf("the pair was cut %d times, want once", n)
	}
	failed := 0
	for _, r := range k.Runs("u1") {
		if r.Status == fluxly.RunFailed && r.Reason == "too_deep" {
			failed++
		}
	}
	if failed != 1 {
		t.Errorf("%d runs failed as too deep, want 1", failed)
	}
}

func TestS16HostCode(t *testing.T) {
	t.Parallel()
	calls := 0
	keys := map[string]bool{}
	a := one("score", fluxly.On("signed_up"), fluxly.Do("score"), fluxly.Wait(time.Hour), fluxly.Send("scored"))
	cfg := fluxly.Config{
		Automations: []fluxly.Automation{a},
		Funcs: map[string]fluxly.StepFunc{"score": func(_ context.Context, in fluxly.StepInput) (any, error) {
			calls++
			keys[in.Key] = true
			switch calls {
			case 1:
				return nil, errors.New("not yet")
			case 2:
				panic("oh no")
			}
			return map[string]any{"score": 7}, nil
		}},
	}
	k := newKitConfig(t, cfg)
	k.Track(event("signed_up", "u1", nil))
	k.Advance(30 * time.Minute)
	if calls != 3 || len(keys) != 1 {
		t.Fatalf("%d calls with %d keys, want 3 with one", calls, len(keys))
	}
	if got := k.Runs("u1")[0].Results["score"]; !cmp.Equal(got, map[string]any{"score": int64(7)}) {
		t.Errorf("result %v", got)
	}
	if err := k.Restart(cfg); err != nil {
		t.Fatal(err)
	}
	k.Advance(2 * time.Hour)
	k.WantSent("u1", "scored")
	if calls != 3 {
		t.Errorf("called again after the restart: %d", calls)
	}
}

func TestS16HostCodeFailsForGood(t *testing.T) {
	t.Parallel()
	k := newKitConfig(t, fluxly.Config{
		Automations: []fluxly.Automation{one("score", fluxly.On("signed_up"), fluxly.Do("score"), fluxly.Send("scored"))},
		Funcs:       map[string]fluxly.StepFunc{"score": func(context.Context, fluxly.StepInput) (any, error) { return make(chan int), nil }},
	})
	k.Track(event("signed_up", "u1", nil))
	k.Advance(fluxly.Day)
	k.WantSent("u1")
	r := k.Runs("u1")[0]
	if r.Status != fluxly.RunFailed || r.Reason != "call_failed" {
		t.Errorf("run %s, %s", r.Status, r.Reason)
	}
	if n := k.Engine.Counters().Calls; n != 8 {
		t.Errorf("%d calls, want 8", n)
	}
}

func TestS17ExitWhileWaiting(t *testing.T) {
	t.Parallel()
	a := one("long", fluxly.On("signed_up"), fluxly.Wait(30*fluxly.Day), fluxly.Send("late"))
	a.Exit = fluxly.On("cancelled")
	k := newKit(t, a)
	k.Track(event("signed_up", "u1", nil))
	k.Advance(3 * fluxly.Day)
	k.Track(event("cancelled", "u1", nil))
	r := k.Runs("u1")[0]
	if r.Status != fluxly.RunExited || r.Reason != "exit" || !r.EndedAt.Equal(k.Now()) || !r.WakeAt.IsZero() {
		t.Errorf("run %+v", r)
	}
	k.Advance(60 * fluxly.Day)
	k.WantSent("u1")
	if n := k.Engine.Counters().Wakes; n != 0 {
		t.Errorf("%d wake-ups after the exit", n)
	}
}

// An exit takes back a mail that is queued and not yet claimed.
func TestExitTakesBackQueuedMail(t *testing.T) {
	t.Parallel()
	a := one("w", fluxly.On("signed_up"), fluxly.Send("welcome"))
	a.Exit = fluxly.On("cancelled")
	k := newKit(t, a)
	k.Track(event("signed_up", "u1", nil))
	k.Track(event("cancelled", "u1", nil))
	k.WantSent("u1")
	k.WantNotSent("u1", "welcome", "exit")
}

func TestR1ReEntry(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		rule fluxly.ReEntry
		want int
	}{{"once", fluxly.Once(), 1}, {"per 30 days", fluxly.OncePer(30 * fluxly.Day), 2}, {"always", fluxly.Always(), 3}} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a := one("again", fluxly.On("bought"), fluxly.Send("thanks"))
			a.ReEntry = tt.rule
			k := newKit(t, a)
			k.Track(event("bought", "u1", nil))
			k.Advance(10 * fluxly.Day)
			k.Track(event("bought", "u1", nil))
			k.Advance(21 * fluxly.Day)
			k.Track(event("bought", "u1", nil))
			if n := len(k.Runs("u1")); n != tt.want {
				t.Errorf("%d runs, want %d", n, tt.want)
			}
		})
	}
}

func TestR2RunsByKey(t *testing.T) {
	t.Parallel()
	k := newKit(t, fluxly.Automation{
		Name: "sub", Trigger: fluxly.On("renewal_due"), Key: "subscription_id", ReEntry: fluxly.Always(),
		Steps: fluxly.Steps{fluxly.Wait(fluxly.Day), fluxly.Send("renew")},
	})
	for _, sub := range []any{"sub_1", "sub_2", "sub_1", 7} {
		k.Track(event("renewal_due", "u1", fluxly.Properties{"subscription_id": sub}))
	}
	k.Track(event("renewal_due", "u1", nil)) // without the key: nothing to name the run by
	if n := len(k.Runs("u1")); n != 3 {
		t.Errorf("%d runs, want 3", n)
	}
	c := k.Engine.Counters()
	if c.ReEntryRefused != 1 || c.NoKey != 1 {
		t.Errorf("counters %+v", c)
	}
}

func TestR3SameMessageID(t *testing.T) {
	t.Parallel()
	k := newKit(t, one("w", fluxly.On("signed_up"), fluxly.Send("welcome")))
	ev := event("signed_up", "u1", fluxly.Properties{"plan": "trial"})
	ev.MessageID = "e1"
	errs := make(chan error)
	for range 5 {
		go func() { errs <- k.Engine.Track(t.Context(), ev) }()
	}
	for range 5 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if n := len(k.Runs("u1")); n != 1 {
		t.Errorf("%d runs, want 1", n)
	}
	if c := k.Engine.Counters(); c.Events != 1 || c.Duplicates != 4 {
		t.Errorf("counters %+v", c)
	}
	ev.Properties = fluxly.Properties{"plan": "pro"}
	if err := k.Engine.Track(t.Context(), ev); !errors.Is(err, fluxly.ErrConflict) {
		t.Errorf("another body: %v", err)
	}
}

func TestR8PinnedVersions(t *testing.T) {
	t.Parallel()
	trigger := fluxly.On("signed_up")
	v1 := one("flow", trigger, fluxly.Wait(fluxly.Day).Named("first-wait"), fluxly.Send("old-copy"), fluxly.Wait(fluxly.Day).Named("second-wait"), fluxly.Send("end"))
	v2 := one("flow", trigger, fluxly.Wait(fluxly.Day).Named("first-wait"), fluxly.Send("new-copy"),
		fluxly.If(fluxly.Attr("plan").Is("pro")).Then(fluxly.Send("pro")), fluxly.Send("end"))
	templates := fluxlytest.Emails("old-copy", "new-copy", "pro", "end", "moved")
	cfg := func(a ...fluxly.Automation) fluxly.Config { return fluxly.Config{Automations: a, Emails: templates} }

	k := newKitConfig(t, cfg(v1))
	k.Track(event("signed_up", "pinned", nil))
	// Nobody stands at the removed step: the new version starts, the old run
	// ends on the old one.
	if err := k.Restart(cfg(v2)); err != nil {
		t.Fatal(err)
	}
	k.Track(event("signed_up", "new", nil))
	k.Advance(fluxly.Day)
	k.WantSent("pinned", "old-copy")
	k.WantSent("new", "new-copy", "end")
	// Now the pinned one stands at the removed step.
	var ce *fluxly.ConfigError
	err := k.Restart(cfg(v2))
	if !errors.As(err, &ce) || ce.Problems[0].Automation != "flow" || ce.Problems[0].Step != "second-wait" {
		t.Fatalf("started although somebody is stranded: %v", err)
	}
	// An automation that is gone strands them too.
	if err := k.Restart(fluxly.Config{Emails: templates}); !errors.As(err, &ce) {
		t.Fatalf("started without the automation: %v", err)
	}
	finish := v2
	finish.Removed = map[string]fluxly.Removal{"second-wait": {}}
	if err := k.Restart(cfg(finish)); err != nil {
		t.Fatal(err)
	}
	k.Advance(fluxly.Day)
	k.WantSent("pinned", "old-copy", "end")
}

func TestR8Removed(t *testing.T) {
	t.Parallel()
	trigger := fluxly.On("signed_up")
	v1 := one("flow", trigger, fluxly.Wait(fluxly.Day).Named("gone"), fluxly.Send("old"))
	v2 := one("flow", trigger, fluxly.Wait(2*fluxly.Day).Named("stays"), fluxly.Send("new"))
	templates := fluxlytest.Emails("old", "new")
	for _, tt := range []struct {
		name   string
		rm     fluxly.Removal
		want   []string
		reason string
	}{
		{"finish", fluxly.Removal{}, []string{"old"}, "completed"},
		{"move", fluxly.Removal{MoveTo: "stays"}, []string{"new"}, "completed"},
		{"end", fluxly.Removal{End: true}, nil, "step_removed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			k := newKitConfig(t, fluxly.Config{Automations: []fluxly.Automation{v1}, Emails: templates})
			for i := range 100 {
				k.Track(event("signed_up", fmt.Sprintf("u%d", i), nil))
			}
			next := v2
			next.Removed = map[string]fluxly.Removal{"gone": tt.rm}
			for range 2 { // deploying again changes nothing
				if err := k.Restart(fluxly.Config{Automations: []fluxly.Automation{next}, Emails: templates}); err != nil {
					t.Fatal(err)
				}
			}
			k.Advance(5 * fluxly.Day)
			for i := range 100 {
				id := fmt.Sprintf("u%d", i)
				k.WantSent(id, tt.want...)
				if r := k.Runs(id)[0]; r.Reason != tt.reason {
					t.Errorf("%s ended by %q", id, r.Reason)
				}
			}
		})
	}
}

func TestR13Modes(t *testing.T) {
	t.Parallel()
	a := one("w", fluxly.On("signed_up"), fluxly.Send("welcome"))
	k := newKitConfig(t, fluxly.Config{Mode: fluxly.TestOnly, Allow: []string{"ann@acme.test", "@qa.test"}, Automations: []fluxly.Automation{a}})
	for id, addr := range map[string]string{"ann": "Ann@acme.test", "qa": "bot@qa.test", "bob": "bob@acme.test", "trick": "evil@notqa.test"} {
		k.Identify(fluxly.Identity{ExternalID: id, Traits: fluxly.Traits{"email": addr}})
		k.Track(event("signed_up", id, nil))
	}
	k.WantSent("ann", "welcome")
	k.WantSent("qa", "welcome")
	k.WantNotSent("bob", "welcome", fluxly.ReasonMode)
	k.WantNotSent("trick", "welcome", fluxly.ReasonMode)

	dry := newKitConfig(t, fluxly.Config{Mode: fluxly.DryRun, Automations: []fluxly.Automation{a}})
	dry.Track(event("signed_up", "u1", nil))
	dry.WantNotSent("u1", "welcome", fluxly.ReasonDryRun)
	if n := dry.Sender.Calls(); n != 0 {
		t.Errorf("the sender was called %d times", n)
	}

	_, err := fluxly.New(fluxly.Config{Store: fluxly.NewMemoryStore(), Sender: &fluxlytest.FakeSender{}, From: "a@acme.test"})
	var ce *fluxly.ConfigError
	if !errors.As(err, &ce) || ce.Problems[0].Field != "Mode" {
		t.Errorf("started without a mode: %v", err)
	}
}

func TestR15ConsentBeforeTheCall(t *testing.T) {
	t.Parallel()
	k := newKit(t, one("w", fluxly.On("signed_up"), fluxly.Send("welcome"), fluxly.Wait(fluxly.Day), fluxly.Send("more")))
	k.Track(event("signed_up", "u1", nil))
	k.WantSent("u1", "welcome")
	if err := k.Engine.Unsubscribe(t.Context(), "u1", fluxly.Unsubscription{Source: "test"}); err != nil {
		t.Fatal(err)
	}
	k.Advance(2 * fluxly.Day)
	k.WantSent("u1", "welcome")
	k.WantNotSent("u1", "more", fluxly.ReasonConsent)
	if err := k.Engine.Unsubscribe(t.Context(), "nobody", fluxly.Unsubscription{}); !errors.Is(err, fluxly.ErrNotFound) {
		t.Errorf("nobody: %v", err)
	}
}

func TestA1CountsPerStep(t *testing.T) {
	t.Parallel()
	k := newKit(t, trialOnboarding)
	people := 1000
	if testing.Short() {
		people = 100
	}
	check := func() {
		t.Helper()
		st, err := k.Engine.Stats(t.Context(), "trial-onboarding")
		if err != nil {
			t.Fatal(err)
		}
		standing := 0
		for _, s := range st.Steps {
			standing += s.Standing
		}
		if st.Started != st.Ended+st.Standing || standing != st.Standing {
			t.Fatalf("does not add up at %s: %+v", k.Now(), st)
		}
	}
	for i := range people {
		id := fmt.Sprintf("u%d", i)
		k.Track(event("signed_up", id, fluxly.Properties{"plan": "trial"}))
		if i%2 == 0 {
			k.Track(event("project_created", id, nil))
		}
		if i%100 == 0 {
			check()
		}
	}
	for range 6 {
		k.Advance(fluxly.Day)
		check()
		k.Track(event("subscription_started", "u7", nil))
	}
	st, err := k.Engine.Stats(t.Context(), "trial-onboarding")
	if err != nil {
		t.Fatal(err)
	}
	if st.Started != people {
		t.Errorf("%d started, want %d", st.Started, people)
	}
}

func TestA3A4SendLogAndReasons(t *testing.T) {
	t.Parallel()
	a := one("w", fluxly.On("signed_up"), fluxly.Send("welcome"))
	k := newKitConfig(t, fluxly.Config{Automations: []fluxly.Automation{a}, KeepBodies: true})
	start := func(id string, traits fluxly.Traits) {
		if _, has := traits["email"]; !has {
			traits["email"] = id + "@example.test"
		}
		k.Identify(fluxly.Identity{ExternalID: id, Traits: traits})
		k.Track(event("signed_up", id, nil))
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	start("ok", fluxly.Traits{})
	must(k.Engine.Suppress(t.Context(), fluxly.Suppression{Address: "Bad@Example.test", Stream: "broadcast", Reason: "HardBounce"}))
	start("bad", fluxly.Traits{"email": "bad@example.test"})
	start("noaddr", fluxly.Traits{"email": ""})
	start("broken", fluxly.Traits{"email": "a@b, c@d"})
	start("left", fluxly.Traits{})
	must(k.Engine.Unsubscribe(t.Context(), "left", fluxly.Unsubscription{}))
	k.Settle()
	k.Sender.Script(fluxlytest.Permanent())
	start("refused", fluxly.Traits{})
	k.Settle()
	k.WantSent("ok", "welcome")
	for id, reason := range map[string]string{
		"bad": fluxly.ReasonSuppressed, "noaddr": fluxly.ReasonNoAddress, "broken": fluxly.ReasonBadAddress,
		"left": fluxly.ReasonConsent, "refused": fluxly.ReasonRefused,
	} {
		k.WantNotSent(id, "welcome", reason)
	}
	rows, err := k.Engine.Sends(t.Context(), fluxly.SendQuery{Automation: "w"})
	must(err)
	st, err := k.Engine.Stats(t.Context(), "w")
	must(err)
	total := 0
	for _, n := range st.Steps[0].Mails {
		total += n
	}
	if len(rows) != 6 || total != 6 {
		t.Errorf("%d rows, %d counted, want 6", len(rows), total)
	}
	for _, r := range rows {
		if r.Status == fluxly.SendAccepted && (r.Receipt.ID == "" || r.BodyHash == "" || len(r.Body) == 0 || r.To == "" || r.Subject != "welcome") {
			t.Errorf("row of an accepted mail: %+v", r)
		}
		if r.SettledAt.IsZero() || !r.DueAt.IsZero() {
			t.Errorf("not settled: %+v", r)
		}
	}
}

// D3: the journey of the README under the ordinary test tool.
func TestD3TrialJourney(t *testing.T) {
	t.Parallel()
	e := newKit(t, trialOnboarding)
	e.Identify(fluxly.Identity{ExternalID: "u1", Traits: fluxly.Traits{"trial_ends_at": e.Now().Add(14 * fluxly.Day)}})
	e.Track(event("signed_up", "u1", fluxly.Properties{"plan": "trial"}))
	e.Track(event("signed_up", "u2", fluxly.Properties{"plan": "free"}))
	e.Advance(3 * fluxly.Day)
	e.WantSent("u1", "welcome", "first-project-nudge")
	for range 50 {
		e.Track(event("report_exported", "u1", nil))
	}
	e.Advance(27 * fluxly.Day)
	e.WantSent("u1", "welcome", "first-project-nudge", "upgrade")
	e.WantSent("u2")
}

func TestD8JSONRoundTrip(t *testing.T) {
	t.Parallel()
	a := trialOnboarding
	a.Key, a.ReEntry, a.OnRefused = "sub", fluxly.OncePer(90*fluxly.Day), fluxly.EndRun
	a.Removed = map[string]fluxly.Removal{"old": {MoveTo: "welcome"}}
	a.Steps = append(slices.Clone(a.Steps),
		fluxly.WaitFor("x", time.Hour, fluxly.Prop("n").AtLeast(3)).SinceEntry().Matching("cart_id").Named("w"),
		fluxly.WaitUntil(fluxly.Prop("due"), time.Hour).IfMissing(fluxly.SkipWait),
		fluxly.Branch(fluxly.When(fluxly.Attr("a").Is(1), fluxly.Do("f")), fluxly.When(fluxly.Attr("b").Exists())).Else(fluxly.End()),
		fluxly.SetTraits(fluxly.Traits{"n": int64(9007199254740993), "gone": nil, "list": []any{"a", 1.5}}),
	)
	b, err := a.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	var back fluxly.Automation
	if err := back.UnmarshalJSON(b); err != nil {
		t.Fatal(err)
	}
	opts := cmp.Options{cmpopts.EquateEmpty(), cmpopts.IgnoreUnexported(fluxly.Step{}), cmp.Comparer(func(x, y fluxly.Condition) bool { return x.Equal(y) }), cmp.Comparer(func(x, y fluxly.Field) bool { return x == y })}
	if d := cmp.Diff(a, back, opts); d != "" {
		t.Error(d)
	}
	for _, bad := range []string{`{"fluxly":2,"name":"x","steps":[]}`, `{"name":"x","steps":[]}`, `{"fluxly":1,"name":"x","stepz":[]}`, `{"fluxly":1,"name":"x","steps":[{"step":"send","mail":"x"}]}`, `[]`} {
		if err := back.UnmarshalJSON([]byte(bad)); !errors.Is(err, fluxly.ErrInvalid) {
			t.Errorf("%s: %v", bad, err)
		}
	}
	if err := back.UnmarshalJSON([]byte(`{"name":"x","steps":[]}`)); err == nil || !strings.Contains(err.Error(), "fluxly: is missing") {
		t.Errorf("no format version: %v", err)
	}
}
