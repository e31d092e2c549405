package fluxlytest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/getfluxly/fluxly"
)

// TestCrashes holds a store to the contract: it runs a fixed workload of
// automations and stops it at every commit in turn, once with the commit lost
// and once kept, and at every call of the provider, before and after it took
// the mail. What must hold then is what [TestCrashSchedules] says, and each
// person has got the mails that were due.
//
// open is called with the same directory again after a stop.
func TestCrashes(t *testing.T, open Opener) {
	t.Helper()
	setup, err := newCrashSetup(CrashConfig{
		Engine: fluxly.Config{Automations: crashAutomations()}, Calls: fixedCrashCalls, Days: 8, Open: open, Processes: 1,
		Providers: []CrashProvider{CrashAsked},
	})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	run := uint64(0)
	// play stops at the n-th place of a kind; it reports whether there are so many.
	play := func(n int, fate crashFate, place crashPlace) bool {
		run++
		plan := &onePlan{n: n, fate: fate, place: place}
		w := newCrashWorld(t, setup, run, dir, plan)
		w.steady = true
		err := w.play(t.Context())
		if err == nil {
			err = wantCrashMails(w)
		}
		if err != nil {
			t.Fatalf("%s %d, fate %d: %v\nthe schedule:\n%s", placeNames[place], n, fate, err, w.trace())
		}
		return plan.seen >= n
	}
	step := 1
	if testing.Short() {
		step = 5
	}
	for n := 1; play(n, fateStop, placeCommit); n += step {
		play(n, fateStopKept, placeCommit)
	}
	for _, place := range []crashPlace{placeSend, placeTaken} {
		for n := 1; play(n, fateStop, place); n++ {
			continue
		}
	}
}

// onePlan has one thing happen at the n-th place of a kind.
type onePlan struct {
	n, seen int
	fate    crashFate
	place   crashPlace
}

func (p *onePlan) at(place crashPlace) crashFate {
	if place == p.place {
		if p.seen++; p.seen == p.n {
			return p.fate
		}
	}
	return fateNone
}

// crashAutomations are those of a small SaaS.
func crashAutomations() []fluxly.Automation {
	return []fluxly.Automation{
		{
			Name: "onboarding", Trigger: fluxly.On("signed_up"), Exit: fluxly.On("cancelled"),
			Steps: fluxly.Steps{
				fluxly.Send("welcome"),
				fluxly.WaitFor("project_created", 2*fluxly.Day).
					Then(fluxly.SetTraits(fluxly.Traits{"active": true}), fluxly.Send("bravo")).
					Else(fluxly.Send("nudge")),
				fluxly.Wait(fluxly.Day),
				fluxly.Send("bye"),
			},
		},
		{Name: "activated", Trigger: fluxly.OnChange("active"), Steps: fluxly.Steps{fluxly.Send("active")}},
	}
}

// fixedCrashCalls are people who sign up, some of whom create a project, one
// who cancels, one who is two at first.
func fixedCrashCalls(*rand.Rand) []CrashCall {
	at := func(days float64, e fluxly.Event) CrashCall {
		return CrashCall{At: time.Duration(days * float64(fluxly.Day)), Event: e}
	}
	email := func(id string) fluxly.Traits { return fluxly.Traits{"email": id + "@example.test"} }
	return []CrashCall{
		at(0, fluxly.Event{Name: "signed_up", ExternalID: "u1", Traits: email("u1")}),
		at(0, fluxly.Event{Name: "signed_up", ExternalID: "u2", Traits: email("u2")}),
		at(0, fluxly.Event{Name: "signed_up", AnonymousID: "a3", Traits: email("u3")}),
		at(1, fluxly.Event{Name: "project_created", ExternalID: "u1"}),
		at(1, fluxly.Event{Name: "identify", ExternalID: "u3", AnonymousID: "a3"}),
		at(1.5, fluxly.Event{Name: "project_created", ExternalID: "u1"}),
		at(2.5, fluxly.Event{Name: "cancelled", ExternalID: "u3"}),
	}
}

// wantCrashMails looks at the mails that each address got.
func wantCrashMails(w *crashWorld) error {
	got := map[string][]string{}
	for _, key := range w.provider.keys {
		for _, m := range w.provider.byKey[key] {
			got[m.message.To] = append(got[m.message.To], m.message.Subject)
		}
	}
	for addr, want := range map[string]string{
		"u1@example.test": "active bravo bye welcome",
		"u2@example.test": "bye nudge welcome",
		"u3@example.test": "nudge welcome",
	} {
		slices.Sort(got[addr])
		if mails := strings.Join(got[addr], " "); mails != want {
			return fmt.Errorf("%s got %s, want %s", addr, mails, want)
		}
	}
	return nil
}
