package fluxly_test

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/fluxlytest"
)

// eventNames are the names of a person's events that are left.
func eventNames(t *testing.T, k *fluxlytest.Kit, id string) (names []string) {
	t.Helper()
	p, err := k.Engine.Profile(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	err = k.Store.View(t.Context(), func(tx fluxly.Tx) error {
		list, err := tx.Events(t.Context(), p.ID, fluxly.EventQuery{})
		for _, e := range list {
			names = append(names, e.Name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// What nothing asks for goes by its age; what conditions count, and what live
// runs may look back at, stays.
func TestPruneEvents(t *testing.T) {
	t.Parallel()
	k := newKitConfig(t, fluxly.Config{
		Automations: []fluxly.Automation{
			one("power", fluxly.On("exported", fluxly.Did("exported").AtLeast(50).Within(40*fluxly.Day)), fluxly.Send("power")),
			one("slow", fluxly.On("signed_up", fluxly.Prop("slow").Is(true)), fluxly.Wait(90*fluxly.Day),
				fluxly.WaitFor("project_created", fluxly.Day).SinceEntry().Then(fluxly.Send("bravo")).Else(fluxly.Send("nudge"))),
		},
		Segments: []fluxly.Segment{{Name: "buyers", Where: fluxly.Did("bought").AtLeast(1)}},
	})
	all := []string{"exported", "bought", "project_created", "viewed"}
	k.Track(event("signed_up", "slow", fluxly.Properties{"slow": true}))
	for _, id := range []string{"plain", "slow"} {
		for _, name := range all {
			k.Track(event(name, id, nil))
		}
	}
	k.Advance(20 * fluxly.Day)
	k.Track(event("viewed", "plain", nil))
	k.Advance(11 * fluxly.Day)
	if got, want := k.Prune(fluxly.Retention{Events: 30 * fluxly.Day}), (fluxly.Pruned{Events: 2}); got != want {
		t.Errorf("after 31 days %+v went, want %+v", got, want)
	}
	if got, want := eventNames(t, k, "plain"), []string{"exported", "identify", "bought", "viewed"}; !slices.Equal(got, want) {
		t.Errorf("of someone without a run %q are left, want %q", got, want)
	}
	k.Advance(10 * fluxly.Day)
	if got, want := k.Prune(fluxly.Retention{Events: 20 * fluxly.Day}), (fluxly.Pruned{Events: 2}); got != want {
		t.Errorf("after 41 days %+v went, want %+v", got, want)
	}
	if got, want := eventNames(t, k, "plain"), []string{"identify", "bought"}; !slices.Equal(got, want) {
		t.Errorf("after the window %q are left, want %q", got, want)
	}
	if got, want := eventNames(t, k, "slow"), append([]string{"signed_up", "identify"}, all...); !slices.Equal(got, want) {
		t.Errorf("of someone with a run %q are left, want %q", got, want)
	}
	k.Advance(60 * fluxly.Day)
	k.WantSent("slow", "bravo") // by an event of 101 days ago
	if got, want := k.Prune(fluxly.Retention{Events: fluxly.Day}), (fluxly.Pruned{Events: 4}); got != want {
		t.Errorf("after the run %+v went, want %+v", got, want)
	}
}

// A run that is overdue is decided as of when it was due, and so still counts
// what was in its window then.
func TestPruneWhileOverdue(t *testing.T) {
	t.Parallel()
	a := one("trial", fluxly.On("signed_up"), fluxly.Wait(fluxly.Day),
		fluxly.If(fluxly.Did("exported").Within(3*fluxly.Day)).Then(fluxly.Send("bravo")).Else(fluxly.Send("nudge")))
	k := newKit(t, a)
	k.Track(event("exported", "u1", nil))
	k.Track(event("signed_up", "u1", nil))
	k.Clock().Set(k.Now().Add(10 * fluxly.Day)) // and no worker runs
	if got := k.Prune(fluxly.Retention{Events: fluxly.Day}); got.Events != 0 {
		t.Errorf("%+v went", got)
	}
	k.Settle()
	k.WantSent("u1", "bravo")
}

// Mails and logs go by age, and never what is still under way; the run of
// someone who may enter once stays, so that it is once.
func TestPruneRunsAndMails(t *testing.T) {
	t.Parallel()
	often := one("often", fluxly.On("bought"), fluxly.Send("receipt"))
	often.ReEntry = fluxly.Always()
	k := newKit(t, often, one("welcome", fluxly.On("signed_up"), fluxly.Send("welcome")),
		one("long", fluxly.On("signed_up"), fluxly.Send("hello"), fluxly.Wait(100*fluxly.Day), fluxly.Send("still-there")))
	signup := event("signed_up", "u1", nil)
	k.Track(signup)
	k.Track(event("bought", "u1", nil))
	k.Advance(2 * fluxly.Day)
	k.Track(event("bought", "u1", nil))
	k.Advance(fluxly.Day + time.Hour)
	all := fluxly.Retention{Events: fluxly.Day, Runs: fluxly.Day, Mails: fluxly.Day}
	got := k.Prune(all)
	if got.Runs != 1 || got.Mails != 3 || got.LogEntries == 0 || got.Events != 0 {
		t.Errorf("%+v went, want one run of two that bought, and three mails of four, that of the live run not", got)
	}
	k.WantSent("u1", "hello")
	for automation, want := range map[string]string{
		"welcome": "its log was removed for its age", "often": "its log was removed for its age", "long": "1 mail sent; now at step",
	} {
		why, err := k.Engine.Explain(t.Context(), "u1", automation)
		if err != nil || !strings.Contains(why.Verdict, want) {
			t.Errorf("Explain %s: %v, %v; want %q", automation, why, err, want)
		}
	}
	if again := k.Prune(all); again != (fluxly.Pruned{}) {
		t.Errorf("a second time %+v went", again)
	}
	k.Track(signup)
	k.Advance(time.Hour)
	if runs := k.Runs("u1"); len(runs) != 3 {
		t.Errorf("after one more sign-up there are %d runs", len(runs))
	}
	k.Advance(200 * fluxly.Day)
	if got := k.Prune(all); got.Mails != 2 || got.Runs != 0 {
		t.Errorf("in the end %+v went, want the two mails", got)
	}
	if err := fluxlytest.CheckPruned(t.Context(), k.Store); err != nil {
		t.Error(err)
	}
}

// The mails of an ended run whose log is younger.
func TestExplainWithoutMails(t *testing.T) {
	t.Parallel()
	k := newKit(t, one("welcome", fluxly.On("signed_up"), fluxly.Send("welcome")))
	k.Track(event("signed_up", "u1", nil))
	k.Advance(2 * fluxly.Day)
	k.Prune(fluxly.Retention{Mails: fluxly.Day})
	why, err := k.Engine.Explain(t.Context(), "u1", "welcome")
	if err != nil || !strings.Contains(why.Verdict, "0 mails sent, 1 removed from the log for age") {
		t.Errorf("Explain: %v, %v", why, err)
	}
}

// twoOrders is somebody who went twice through an automation that may be entered
// again, two days ago; first is the first event.
func twoOrders(t *testing.T) (k *fluxlytest.Kit, first fluxly.Event) {
	t.Helper()
	often := one("often", fluxly.On("bought"), fluxly.Send("receipt"))
	often.ReEntry = fluxly.Always()
	k = newKit(t, often)
	first = event("bought", "u1", nil)
	first.MessageID = "order-1"
	k.Track(first)
	k.Advance(time.Hour)
	k.Track(event("bought", "u1", nil))
	k.Advance(2 * fluxly.Day)
	return k, first
}

// An event that comes again after it was forgotten is a new event. It must not
// write over the run that it started the first time.
func TestPruneThenRepeat(t *testing.T) {
	t.Parallel()
	k, first := twoOrders(t)
	if got := k.Prune(fluxly.Retention{Events: fluxly.Day}); got.Events != 2 {
		t.Fatalf("%+v went", got)
	}
	k.Track(first)
	k.Settle()
	k.WantSent("u1", "receipt", "receipt")
	if err := fluxlytest.CheckPruned(t.Context(), k.Store); err != nil {
		t.Error(err)
	}
}

func TestPruneBadInput(t *testing.T) {
	t.Parallel()
	k := newKit(t, one("welcome", fluxly.On("signed_up"), fluxly.Send("welcome")))
	for _, r := range []fluxly.Retention{{Events: time.Hour}, {Runs: -1}, {Mails: fluxly.Day - 1}} {
		_, err := k.Engine.Prune(t.Context(), r)
		var field *fluxly.FieldError
		if !errors.As(err, &field) || !strings.HasPrefix(field.Field, "retention.") {
			t.Errorf("Prune(%+v): %v", r, err)
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := k.Engine.Prune(ended, fluxly.Retention{Events: fluxly.Day, Mails: fluxly.Day}); !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context: %v", err)
	}
	if err := k.Engine.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Engine.Prune(t.Context(), fluxly.Retention{}); !errors.Is(err, fluxly.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// With pruning and without, the same mails go to the same people: random
// histories that are played twice, and pruned between their parts the second
// time.
func TestPruneChangesNoDecision(t *testing.T) {
	t.Parallel()
	for seed := uint64(1); seed <= uint64(replays(8)); seed++ {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			t.Parallel()
			var outcomes [2][]string
			for i := range outcomes {
				k := newKitConfig(t, fluxlytest.HistoryConfig(nil))
				var went fluxly.Pruned
				for part := range uint64(12) {
					if err := fluxlytest.History(k, 100*seed+part, 60); err != nil {
						t.Fatal(err)
					}
					k.Advance(4 * fluxly.Day)
					if i == 0 {
						continue
					}
					now := k.Prune(fluxly.Retention{Events: 2 * fluxly.Day, Runs: 2 * fluxly.Day, Mails: 2 * fluxly.Day})
					went.Events, went.Mails = went.Events+now.Events, went.Mails+now.Mails
					went.Runs, went.LogEntries = went.Runs+now.Runs, went.LogEntries+now.LogEntries
				}
				k.Advance(60 * fluxly.Day)
				if i == 1 && (went.Events == 0 || went.Mails == 0 || went.Runs == 0 || went.LogEntries == 0) {
					t.Errorf("only %+v went", went)
				}
				for _, m := range k.Sender.Mails() {
					outcomes[i] = append(outcomes[i], m.SendKey+" "+m.To+" "+m.Subject)
				}
				slices.Sort(outcomes[i])
			}
			if diff := cmp.Diff(outcomes[0], outcomes[1]); diff != "" || len(outcomes[0]) == 0 {
				t.Errorf("%d mails without pruning; with it (-without +with):\n%s", len(outcomes[0]), diff)
			}
		})
	}
}

// Another release counts an event that this one does not: while somebody is in
// its automation the event stays; where its definition cannot be read here,
// everything does.
func TestPruneBesideAnotherRelease(t *testing.T) {
	t.Parallel()
	p := newProcesses(t)
	old := p.start(fluxly.Config{Automations: []fluxly.Automation{one("welcome", fluxly.On("signed_up"), fluxly.Send("welcome"))}})
	counts := one("report", fluxly.On("signed_up"), fluxly.Wait(90*fluxly.Day),
		fluxly.If(fluxly.Did("exported")).Then(fluxly.Send("bravo")).Else(fluxly.Send("nudge")))
	counting := p.start(fluxly.Config{Automations: []fluxly.Automation{counts}})
	for _, name := range []string{"exported", "viewed"} {
		p.track(old, event(name, "u1", nil))
	}
	prune := func(e *fluxly.Engine) (int, error) {
		done, err := e.Prune(t.Context(), fluxly.Retention{Events: fluxly.Day})
		return done.Events, err
	}
	p.track(counting, event("signed_up", "u2", nil))
	p.clock.Set(p.clock.Now().Add(2 * fluxly.Day))
	if n, err := prune(old); n != 1 || err != nil {
		t.Errorf("%d events went, %v; want the one that nobody counts", n, err)
	}
	asked := counts
	asked.Name, asked.Exit = "asked", fluxly.On("bought", fluxly.Func("rich"))
	foreign := p.start(fluxly.Config{
		Automations: []fluxly.Automation{counts, asked},
		Conditions:  map[string]fluxly.ConditionFunc{"rich": func(context.Context, fluxly.FuncInput) (bool, error) { return true, nil }},
	})
	p.track(foreign, event("signed_up", "u3", nil))
	p.track(old, event("viewed", "u1", nil))
	p.clock.Set(p.clock.Now().Add(2 * fluxly.Day))
	if n, err := prune(old); n != 0 || err == nil || !strings.Contains(err.Error(), `automation "asked"`) {
		t.Errorf("%d events went, %v; want an error that names the automation", n, err)
	}
	if n, err := prune(foreign); n != 1 || err != nil {
		t.Errorf("on the release that can read it %d events went, %v", n, err)
	}
}

// A message id that was forgotten may come again for somebody else: that is a new
// person, and the first one is left alone.
func TestPruneThenRepeatForAnother(t *testing.T) {
	t.Parallel()
	k := newKit(t, one("welcome", fluxly.On("signed_up"), fluxly.Send("welcome")))
	again := event("viewed", "u1", nil)
	again.MessageID = "m-1"
	k.Track(again)
	k.Advance(2 * fluxly.Day)
	if got := k.Prune(fluxly.Retention{Events: fluxly.Day}); got.Events != 1 {
		t.Fatalf("%+v went", got)
	}
	before, err := k.Engine.Profile(t.Context(), "u1")
	if err != nil {
		t.Fatal(err)
	}
	again.ExternalID = "u2"
	k.Track(again)
	after, err := k.Engine.Profile(t.Context(), "u1")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("the first person (-before +after):\n%s", diff)
	}
	if other, err := k.Engine.Profile(t.Context(), "u2"); err != nil || other.ID == before.ID {
		t.Errorf("the second person: %+v, %v", other, err)
	}
}

// Erase finds the addresses of long ago, and takes their suppressions along.
func TestPruneThenErase(t *testing.T) {
	t.Parallel()
	k := newKit(t, one("welcome", fluxly.On("signed_up"), fluxly.Send("welcome")))
	for _, address := range []string{"old@customer.test", "new@customer.test"} {
		k.Identify(fluxly.Identity{ExternalID: "u1", Traits: fluxly.Traits{"email": address}})
	}
	if err := k.Engine.Suppress(t.Context(), fluxly.Suppression{Address: "old@customer.test", Reason: "HardBounce"}); err != nil {
		t.Fatal(err)
	}
	k.Track(event("viewed", "u1", nil))
	k.Advance(2 * fluxly.Day)
	if got := k.Prune(fluxly.Retention{Events: fluxly.Day, Runs: fluxly.Day, Mails: fluxly.Day}); got.Events != 1 {
		t.Fatalf("%+v went", got)
	}
	if err := k.Engine.Erase(t.Context(), fluxly.Erasure{ID: "u1", Reason: fluxly.GDPRRequest}); err != nil {
		t.Fatal(err)
	}
	err := k.Store.View(t.Context(), func(tx fluxly.Tx) error {
		left, err := tx.Suppressions(t.Context())
		if len(left) > 0 {
			t.Errorf("a suppression of the erased person is left: %+v", *left[0])
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A run stays as long as one of its mails, so that the key of a mail is never
// given again.
func TestPruneRunsBeforeMails(t *testing.T) {
	t.Parallel()
	k, first := twoOrders(t)
	short := fluxly.Retention{Events: fluxly.Day, Runs: fluxly.Day}
	if got := k.Prune(short); got.Runs != 0 || got.LogEntries == 0 {
		t.Errorf("with its mail there: %+v went", got)
	}
	k.Track(first)
	k.Settle()
	if twice := k.Sender.Twice(); len(twice) > 0 {
		t.Errorf("sent twice under one key: %q", twice)
	}
	k.WantSent("u1", "receipt", "receipt")
	k.Advance(2 * fluxly.Day)
	short.Mails = fluxly.Day
	if got := k.Prune(short); got.Mails != 2 || got.Runs != 1 {
		t.Errorf("with the mails: %+v went", got)
	}
}
