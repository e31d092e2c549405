package postgres

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/fluxlytest"
	"github.com/getfluxly/fluxly/internal/pgtest"
)

// soonEnough bounds what must not wait for a held person. A lock is waited for
// in shorter stretches.
const soonEnough = 8 * time.Second

// hold tracks an event of a person in a transaction of the program's own, which
// stays open until release.
func hold(t *testing.T, s *Store, e *fluxly.Engine, id string) (release func()) {
	t.Helper()
	tx, err := s.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) })
	if err := e.TrackTx(t.Context(), s.Tx(tx), fluxly.Event{Name: "held", ExternalID: id}); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		if err := tx.Commit(t.Context()); err != nil && !errors.Is(err, pgx.ErrTxClosed) {
			t.Fatal(err)
		}
	}
}

// within is a context for what must end soon.
func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// eventsOf counts the events of a person by name.
func eventsOf(t *testing.T, s *Store, id string) map[string]int {
	t.Helper()
	got := map[string]int{}
	err := s.View(t.Context(), func(tx fluxly.Tx) error {
		people, err := tx.FindProfiles(t.Context(), []fluxly.Identifier{{Kind: fluxly.ExternalID, Value: id}})
		if err != nil || len(people) != 1 {
			return fmt.Errorf("%d people with the id %s: %w", len(people), id, err)
		}
		list, err := tx.Events(t.Context(), people[0].ID, fluxly.EventQuery{})
		for _, e := range list {
			got[e.Name]++
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// One person is held by a transaction of the program's. Many calls about that
// person wait for it, each as long as its context lasts; those about others do
// not, also when nobody knew the person before.
func TestHeldPerson(t *testing.T) {
	t.Parallel()
	for name, known := range map[string]bool{"known": true, "new": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const calls = 300
			s := openIn(t, pgtest.Schema(t))
			k := fluxlytest.NewConfig(t, fluxly.Config{Store: s})
			e, ctx := k.Engine, t.Context()
			if known {
				if err := e.Track(ctx, fluxly.Event{Name: "first", ExternalID: "held"}); err != nil {
					t.Fatal(err)
				}
			}
			release := hold(t, s, e, "held")
			var waiting sync.WaitGroup
			var done, failed atomic.Int32
			patient, giveUp := context.WithCancel(ctx)
			defer giveUp()
			for range calls {
				waiting.Go(func() {
					// As a caller does who wants it stored.
					ev := fluxly.Event{Name: "again", ExternalID: "held", MessageID: fmt.Sprint("m", done.Add(1))}
					err := e.Track(patient, ev)
					for errors.Is(err, fluxly.ErrHeld) && patient.Err() == nil {
						err = e.Track(patient, ev)
					}
					if err != nil {
						failed.Add(1)
					}
				})
			}
			eventually(t, "all waiting", func() bool { return e.Waiting() == calls })
			others := within(t, soonEnough)
			for i := range 5 {
				if err := e.Track(others, fluxly.Event{Name: "x", ExternalID: fmt.Sprint("other_", i)}); err != nil {
					t.Errorf("a Track of somebody else: %v", err)
				}
			}
			short, over := within(t, 100*time.Millisecond), within(t, soonEnough)
			answer := make(chan error, 1)
			go func() { answer <- e.Track(short, fluxly.Event{Name: "short", ExternalID: "held"}) }()
			select {
			case err := <-answer:
				if !errors.Is(err, fluxly.ErrHeld) || !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("a Track of the held person: %v; want ErrHeld and DeadlineExceeded", err)
				}
			case <-over.Done():
				t.Error("a Track of the held person did not return after its context had ended")
			}
			if t.Failed() {
				giveUp()
			}
			release()
			waiting.Wait()
			if failed.Load() != 0 {
				t.Errorf("%d of %d calls failed", failed.Load(), calls)
			}
			want := map[string]int{"held": 1, "again": calls}
			if known {
				want["first"] = 1
			}
			if diff := cmp.Diff(want, eventsOf(t, s, "held")); diff != "" {
				t.Errorf("events of the person who was held (-want +got):\n%s", diff)
			}
			if n := e.Waiting(); n != 0 {
				t.Errorf("%d calls wait in the end", n)
			}
		})
	}
}

// The store says which of many are held, by whatever they are named.
func TestWaitAtMost(t *testing.T) {
	t.Parallel()
	s := openIn(t, pgtest.Schema(t))
	k := fluxlytest.NewConfig(t, fluxly.Config{
		Store:       s,
		Automations: []fluxly.Automation{{Name: "a", Trigger: fluxly.On("signed_up"), Steps: fluxly.Steps{fluxly.Send("m")}}},
	})
	ctx := t.Context()
	mails := map[string]*fluxly.SendRecord{}
	people := []string{"user_0", "user_1", "user_2"}
	for _, id := range people {
		k.Track(fluxly.Event{Name: "signed_up", ExternalID: id})
	}
	err := s.View(ctx, func(tx fluxly.Tx) error {
		for _, id := range people {
			found, err := tx.FindProfiles(ctx, []fluxly.Identifier{{Kind: fluxly.ExternalID, Value: id}})
			if err != nil {
				return err
			}
			list, err := tx.Sends(ctx, fluxly.SendQuery{ProfileID: found[0].ID})
			if err != nil {
				return err
			}
			mails[id] = list[0]
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	release := hold(t, s, k.Engine, "user_1")
	byID := func(id string) fluxly.Preload {
		return fluxly.Preload{IDs: []fluxly.Identifier{{Kind: fluxly.AnonymousID, Value: "nobody"}, {Kind: fluxly.ExternalID, Value: id}}, MessageID: id}
	}
	for name, c := range map[string]struct {
		hints []fluxly.Preload
		want  []int
	}{
		"ids":    {[]fluxly.Preload{byID("user_0"), byID("user_1"), byID("new"), byID("user_2"), byID("user_1")}, []int{1, 4}},
		"mails":  {[]fluxly.Preload{{SendKey: mails["user_1"].Key}, {SendKey: mails["user_0"].Key}}, []int{0}},
		"runs":   {[]fluxly.Preload{{RunID: mails["user_0"].RunID}, {RunID: mails["user_1"].RunID}}, []int{1}},
		"all":    {[]fluxly.Preload{byID("user_1"), {RunID: mails["user_1"].RunID}, {SendKey: mails["user_2"].Key}}, []int{0, 1}},
		"nobody": {[]fluxly.Preload{byID("user_0"), {RunID: mails["user_2"].RunID}}, nil},
	} {
		update := func() error {
			return s.Update(ctx, func(tx fluxly.Tx) error {
				tx.(fluxly.WaitTx).WaitAtMost(10 * time.Millisecond)
				return tx.(fluxly.Preloader).Preload(ctx, c.hints)
			})
		}
		held, ok := errors.AsType[*fluxly.HeldError](update())
		if ok != (c.want != nil) {
			t.Errorf("%s: held %v, want %v", name, ok, c.want)
		} else if ok {
			if diff := cmp.Diff(c.want, held.Hints); diff != "" {
				t.Errorf("%s: hints (-want +got):\n%s", name, diff)
			}
		}
	}
	release()
}

// A call about somebody who is held for good ends with an error that says so,
// and may be repeated.
func TestHeldForGood(t *testing.T) {
	t.Parallel()
	s := openIn(t, pgtest.Schema(t))
	e := fluxlytest.NewConfig(t, fluxly.Config{Store: s}).Engine
	ev := fluxly.Event{Name: "x", ExternalID: "held", MessageID: "one"}
	release := hold(t, s, e, "held")
	err := e.Track(within(t, patience), ev)
	if cause, ok := errors.AsType[*Error](err); !errors.Is(err, fluxly.ErrHeld) || !ok || !cause.Retryable || cause.Code != codeLockTimeout {
		t.Errorf("a Track of the held person: %v; want ErrHeld and a retryable *Error", err)
	}
	release()
	if err := e.Track(within(t, soonEnough), ev); err != nil {
		t.Errorf("the same once the person is free: %v", err)
	}
}

// Due work of others is done while one of those who are due is held, whatever
// kind of work it is; what is left is done once the person is free.
func TestHeldDueWork(t *testing.T) {
	t.Parallel()
	const people = 20
	var calls atomic.Int32
	call := func(context.Context, fluxly.StepInput) (any, error) { calls.Add(1); return true, nil }
	mails := func(k *fluxlytest.Kit) int { return len(k.Sender.Mails()) }
	signedUp, send := fluxly.On("signed_up"), fluxly.Steps{fluxly.Send("m")}
	for name, c := range map[string]struct {
		trigger fluxly.Trigger
		steps   fluxly.Steps
		wait    time.Duration
		done    func(k *fluxlytest.Kit) int
	}{
		"wake":    {signedUp, fluxly.Steps{fluxly.Wait(time.Hour), fluxly.Send("m")}, 2 * time.Hour, mails},
		"segment": {fluxly.OnLeaveSegment("active"), send, 2 * time.Hour, mails},
		"send":    {signedUp, send, 0, mails},
		"call":    {signedUp, fluxly.Steps{fluxly.Do("call")}, 0, func(*fluxlytest.Kit) int { return int(calls.Load()) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := openIn(t, pgtest.Schema(t))
			k := fluxlytest.NewConfig(t, fluxly.Config{
				Store: s, Funcs: map[string]fluxly.StepFunc{"call": call},
				Segments:    []fluxly.Segment{{Name: "active", Where: fluxly.Did("signed_up").AtLeast(1).Within(time.Hour)}},
				Automations: []fluxly.Automation{{Name: "a", Trigger: c.trigger, Steps: c.steps}},
			})
			for i := range people {
				k.Track(fluxly.Event{Name: "signed_up", ExternalID: fmt.Sprint("user_", i)})
			}
			release := hold(t, s, k.Engine, "user_7")
			k.Clock().Set(k.Now().Add(c.wait))
			_, err := k.Engine.RunDue(within(t, soonEnough))
			if n := c.done(k); n != people-1 || !errors.Is(err, fluxly.ErrHeld) {
				t.Errorf("%d of the %d others were served, and RunDue returned %v; want all, and ErrHeld", n, people-1, err)
			}
			release()
			if _, err := k.Engine.RunDue(t.Context()); err != nil {
				t.Fatal(err)
			}
			if n, twice := c.done(k), k.Sender.Twice(); n != people || twice != nil {
				t.Errorf("%d of %d were served in the end, twice: %v", n, people, twice)
			}
		})
	}
}

// A worker that runs all the time does what is due for others, and for the held
// person once that one is free.
func TestHeldRun(t *testing.T) {
	t.Parallel()
	s := openIn(t, pgtest.Schema(t), timed(impatient))
	sender := &fluxlytest.FakeSender{}
	e := newEngine(t, s, sender, 2*time.Second)
	signUp(t, e, 0, 10)
	release := hold(t, s, e, "user_3")
	start(t, e.Run)
	due := within(t, 30*time.Second)
	eventually(t, "all mails of the others there", func() bool { return len(mailsOf(sender)) >= 18 || due.Err() != nil })
	want := wantMails(0, 10, "Welcome", "Nudge")
	delete(want, "user_3@customer.test Welcome")
	delete(want, "user_3@customer.test Nudge")
	if diff := cmp.Diff(want, mailsOf(sender)); diff != "" {
		t.Errorf("mails while one is held (-want +got):\n%s", diff)
	}
	release()
	awaitMails(t, 10, sender)
}

// The outcome of a mail is stored while calls wait for somebody else; that of a
// mail of the held person once it can be.
func TestHeldOutcome(t *testing.T) {
	t.Parallel()
	s := openIn(t, pgtest.Schema(t))
	k := fluxlytest.NewConfig(t, fluxly.Config{
		Store:       s,
		Automations: []fluxly.Automation{{Name: "a", Trigger: fluxly.On("signed_up"), Steps: fluxly.Steps{fluxly.Send("m")}}},
	})
	e := k.Engine
	answer := make(chan struct{})
	k.Sender.Plan(func(*fluxly.Message) (fluxlytest.Outcome, bool) { return fluxlytest.Outcome{Hold: answer}, true })
	for _, id := range []string{"held", "other"} {
		k.Track(fluxly.Event{Name: "signed_up", ExternalID: id})
	}
	ran := make(chan error, 1)
	go func() {
		_, err := e.RunDue(t.Context())
		ran <- err
	}()
	eventually(t, "both mails under way", func() bool { return k.Sender.Calls() == 2 })
	release := hold(t, s, e, "held")
	var waiting sync.WaitGroup
	for range 4 {
		waiting.Go(func() {
			if err := e.Track(within(t, soonEnough), fluxly.Event{Name: "x", ExternalID: "held"}); err != nil && !errors.Is(err, fluxly.ErrHeld) {
				t.Errorf("a Track of the held person: %v", err)
			}
		})
	}
	eventually(t, "the calls waiting", func() bool { return e.Waiting() == 4 })
	close(answer)
	status := func() map[fluxly.SendStatus]int {
		got := map[fluxly.SendStatus]int{}
		err := s.View(t.Context(), func(tx fluxly.Tx) error {
			list, err := tx.Sends(t.Context(), fluxly.SendQuery{})
			for _, m := range list {
				got[m.Status]++
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	stored := within(t, soonEnough)
	eventually(t, "the outcome of the other's mail stored", func() bool { return status()[fluxly.SendAccepted] == 1 || stored.Err() != nil })
	if diff := cmp.Diff(map[fluxly.SendStatus]int{fluxly.SendAccepted: 1, fluxly.SendSending: 1}, status()); diff != "" {
		t.Errorf("mails while one is held (-want +got):\n%s", diff)
	}
	release()
	waiting.Wait()
	if err := <-ran; err != nil {
		t.Errorf("RunDue: %v", err)
	}
	if diff := cmp.Diff(map[fluxly.SendStatus]int{fluxly.SendAccepted: 2}, status()); diff != "" || k.Sender.Calls() != 2 {
		t.Errorf("mails in the end, handed over %d times (-want +got):\n%s", k.Sender.Calls(), diff)
	}
}
