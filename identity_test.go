package fluxly_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/fluxlytest"
)

func TestP1AnonymousToKnown(t *testing.T) {
	t.Parallel()
	k := newKit(t,
		fluxly.Automation{Name: "first-visit", Trigger: fluxly.On("page_viewed"), Steps: fluxly.Steps{fluxly.Wait(30 * fluxly.Day)}},
		fluxly.Automation{Name: "keen", Trigger: fluxly.On("signed_up", fluxly.Did("page_viewed").AtLeast(3)), Steps: fluxly.Steps{fluxly.Send("keen")}},
	)
	anon := func(name string) fluxly.Event { return fluxly.Event{Name: name, AnonymousID: "a1"} }
	var times []time.Time
	for range 3 {
		times = append(times, k.Now())
		k.Track(anon("page_viewed"))
		k.Advance(time.Hour)
	}
	k.Identify(fluxly.Identity{ExternalID: "u1", AnonymousID: "a1"})
	k.Track(event("signed_up", "u1", nil))
	k.WantSent("u1", "keen")
	k.Track(anon("page_viewed"))
	p, err := k.Engine.Profile(t.Context(), "u1")
	if err != nil {
		t.Fatal(err)
	}
	if again, err := k.Engine.Profile(t.Context(), "a1"); err != nil || again.ID != p.ID {
		t.Errorf("a1 leads to %v (%v), want %s", again, err, p.ID)
	}
	n := 0
	for _, r := range k.Runs("u1") {
		if r.Automation == "first-visit" {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%d runs of first-visit, want 1", n)
	}
	var got []time.Time
	err = k.Store.View(t.Context(), func(tx fluxly.Tx) error {
		evs, err := tx.Events(t.Context(), p.ID, fluxly.EventQuery{Name: "page_viewed"})
		for _, ev := range evs {
			got = append(got, ev.OccurredAt)
		}
		return err
	})
	if err != nil || len(got) != 4 || !slices.Equal(got[:3], times) {
		t.Errorf("events at %v, want first %v (%v)", got, times, err)
	}
}

func TestP1OlderProfileSurvives(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.Identify(fluxly.Identity{ExternalID: "old", Traits: fluxly.Traits{"email": "old@example.test", "plan": "pro"}})
	k.Advance(time.Hour)
	k.Identify(fluxly.Identity{AnonymousID: "new", Traits: fluxly.Traits{"plan": "free", "country": "SE"}})
	was, err := k.Engine.Profile(t.Context(), "new")
	if err != nil {
		t.Fatal(err)
	}
	k.Track(fluxly.Event{Name: "logged_in", ExternalID: "old", AnonymousID: "new"})
	p, err := k.Engine.Profile(t.Context(), "new")
	if err != nil {
		t.Fatal(err)
	}
	want := fluxly.Traits{"email": "old@example.test", "plan": "pro", "country": "SE"}
	if !cmp.Equal(p.Traits, want) || !slices.Equal(p.ExternalIDs, []string{"old"}) || !slices.Contains(p.UserIDs, was.ID) {
		t.Errorf("merged: %+v", p)
	}
	// The id of the profile that is gone leads to the one that stayed.
	k.Track(fluxly.Event{Name: "logged_in", UserID: was.ID})
	if again, err := k.Engine.Profile(t.Context(), was.ID); err != nil || again.ID != p.ID {
		t.Errorf("%v, %v", again, err)
	}
}

func TestP2MergeOfTwoKnownPeople(t *testing.T) {
	t.Parallel()
	k := newKitConfig(t, fluxly.Config{
		Automations: []fluxly.Automation{{Name: "flow", Trigger: fluxly.On("signed_up"), Steps: fluxly.Steps{fluxly.Wait(fluxly.Day), fluxly.Send("hello")}}},
		Emails: fstest.MapFS{
			"hello.txt": {Data: []byte("---\nSubject: hello\n---\nHi.\n{{{ pm:unsubscribe }}}\n")},
			"tip.txt":   {Data: []byte("---\nSubject: tip\nTopic: tips\n---\nHi.\n{{{ pm:unsubscribe }}}\n")},
		},
	})
	k.Track(event("signed_up", "u1", nil))
	k.Advance(time.Hour)
	for _, typo := range []string{"tip", "Tips", "tips "} {
		if err := k.Engine.Unsubscribe(t.Context(), "u1", fluxly.Unsubscription{Topic: typo}); !errors.Is(err, fluxly.ErrInvalid) {
			t.Errorf("topic %q: %v", typo, err)
		}
	}
	k.Track(event("signed_up", "u2", nil))
	if err := k.Engine.Unsubscribe(t.Context(), "u2", fluxly.Unsubscription{Topic: "tips"}); err != nil {
		t.Fatal(err)
	}
	if err := k.Engine.Alias(t.Context(), fluxly.Alias{UserID: "u1", PreviousID: "u2"}); err != nil {
		t.Fatal(err)
	}
	live, merged := 0, 0
	for _, r := range k.Runs("u1") {
		switch {
		case r.Status == fluxly.RunLive:
			live++
		case r.Reason == "merged":
			merged++
		}
	}
	if live != 1 || merged != 1 {
		t.Errorf("%d live, %d merged", live, merged)
	}
	p, err := k.Engine.Profile(t.Context(), "u2")
	if err != nil || p.Subscribed("tips") || !p.Subscribed("news") {
		t.Errorf("%+v, %v", p, err)
	}
	k.Advance(2 * fluxly.Day)
	k.WantSent("u1", "hello")
}

func TestP4ValuesComeBackEqual(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	zoned := time.Date(2026, 3, 29, 1, 30, 0, 123456789, time.FixedZone("", 2*3600))
	in := fluxly.Traits{
		"email": "u1@example.test", "max": int64(math.MaxInt64), "min": int64(math.MinInt64), "odd": int64(1<<53 + 1),
		"unsigned": uint64(math.MaxUint64), "decimal": json.Number("12345678901234567890.0123456789"), "price": 49.0, "tenth": 0.1,
		"at": zoned, "list": []any{int64(1), "two", nil, 3.5}, "deep": map[string]any{"a": map[string]any{"b": []any{true}}},
	}
	k.Identify(fluxly.Identity{ExternalID: "u1", Traits: in})
	p, err := k.Engine.Profile(t.Context(), "u1")
	if err != nil {
		t.Fatal(err)
	}
	want := fluxly.Traits{}
	for key, v := range in {
		want[key] = v
	}
	want["unsigned"] = json.Number("18446744073709551615")
	want["at"] = zoned.Format(time.RFC3339Nano)
	if d := cmp.Diff(want, p.Traits); d != "" {
		t.Error(d)
	}
	if at, ok := p.Traits.Time("at"); !ok || !at.Equal(zoned) {
		t.Errorf("time %v, %v", at, ok)
	}
}

func TestEraseLeavesNothing(t *testing.T) {
	t.Parallel()
	k := newKit(t, fluxly.Automation{Name: "flow", Trigger: fluxly.On("signed_up"), Steps: fluxly.Steps{fluxly.Send("hello"), fluxly.Wait(fluxly.Day), fluxly.Send("later")}})
	k.Track(event("signed_up", "u1", nil))
	k.Settle()
	if err := k.Engine.Erase(t.Context(), fluxly.Erasure{ID: "u1", Reason: fluxly.GDPRRequest, RequestID: "ticket-7"}); err != nil {
		t.Fatal(err)
	}
	k.Advance(5 * fluxly.Day)
	if n := len(k.Sender.Mails()); n != 1 {
		t.Errorf("%d mails, want the one before the erasure", n)
	}
	if _, err := k.Engine.Profile(t.Context(), "u1"); !errors.Is(err, fluxly.ErrNotFound) {
		t.Errorf("still there: %v", err)
	}
	if err := k.Engine.Erase(t.Context(), fluxly.Erasure{ID: "u1", Reason: fluxly.GDPRRequest}); !errors.Is(err, fluxly.ErrNotFound) {
		t.Errorf("erased again: %v", err)
	}
	d, err := fluxlytest.Dump(t.Context(), k.Store)
	if err != nil || d != "" {
		t.Errorf("left: %s %v", d, err)
	}
}

// S9: whatever the order of the event, the wait before, the timeout and the
// worker, no run is left stuck, and each takes the way that the times say.
func TestS9RandomInterleavings(t *testing.T) {
	t.Parallel()
	people := 10_000
	if testing.Short() {
		people = 500
	}
	a := fluxly.Automation{
		Name: "quick", Trigger: fluxly.On("signed_up"),
		Steps: fluxly.Steps{
			fluxly.Wait(2 * time.Hour),
			fluxly.WaitFor("activated", 3*time.Hour).SinceEntry().
				Then(fluxly.End().Named("came")).Else(fluxly.End().Named("did-not-come")),
		},
	}
	k := newKit(t, a)
	r := rand.New(rand.NewPCG(9, 9))
	type act struct {
		at   time.Time
		kind int // 0 sign up, 1 activate, 2 let the worker run
		id   int
	}
	var acts []act
	want := make([]bool, people)
	minute := func(n int) time.Time { return fluxlytest.Start.Add(time.Duration(n) * 10 * time.Minute) }
	for id := range people {
		start := r.IntN(60)
		acts = append(acts, act{minute(start), 0, id})
		if r.IntN(5) > 0 {
			at := r.IntN(110)
			acts = append(acts, act{minute(at), 1, id})
			// From the entry to the instant of the timeout, both included.
			want[id] = at >= start && at <= start+30
		}
	}
	for range 40 {
		acts = append(acts, act{minute(r.IntN(110)), 2, 0})
	}
	slices.SortStableFunc(acts, func(a, b act) int { return a.at.Compare(b.at) })
	for _, x := range acts {
		k.Clock().Set(x.at)
		ev := fluxly.Event{ExternalID: fmt.Sprintf("u%d", x.id), MessageID: fmt.Sprintf("%d-%d", x.kind, x.id)}
		switch x.kind {
		case 0:
			ev.Name = "signed_up"
		case 1:
			ev.Name = "activated"
		case 2:
			// Late on purpose, and never at the instant itself, where the
			// event would have to be tracked first.
			k.Clock().Set(x.at.Add(-time.Minute))
			k.Settle()
			k.Clock().Set(x.at)
			continue
		}
		if err := k.Engine.Track(t.Context(), ev); err != nil {
			t.Fatal(err)
		}
	}
	k.Advance(fluxly.Day)
	k.Settle()
	runs, err := k.Engine.Runs(t.Context(), fluxly.RunQuery{Automation: "quick"})
	if err != nil || len(runs) != people {
		t.Fatalf("%d runs, want %d (%v)", len(runs), people, err)
	}
	took := map[string]string{}
	err = k.Store.View(t.Context(), func(tx fluxly.Tx) error {
		for _, run := range runs {
			if run.Status != fluxly.RunCompleted {
				t.Fatalf("run %s is %s at %q", run.ID, run.Status, run.Step)
			}
			p, err := tx.Profile(t.Context(), run.ProfileID)
			if err != nil {
				return err
			}
			took[p.ExternalIDs[0]] = run.Step
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for id := range people {
		step := map[bool]string{true: "came", false: "did-not-come"}[want[id]]
		if got := took[fmt.Sprintf("u%d", id)]; got != step {
			t.Fatalf("u%d took %q, want %q", id, got, step)
		}
	}
}
