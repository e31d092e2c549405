package fluxly_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/fluxlytest"
)

// crm is a condition of the host's that fails for some people.
func crm(_ context.Context, in fluxly.FuncInput) (bool, error) {
	switch in.Profile.Traits["crm"] {
	case "down":
		return false, errors.New("crm is down for this person")
	case "panics":
		panic("nil map")
	}
	return true, nil
}

func crmConfig() fluxly.Config {
	return fluxly.Config{
		Conditions: map[string]fluxly.ConditionFunc{"crm": crm},
		Automations: []fluxly.Automation{
			one("w", fluxly.On("signed_up"), fluxly.Wait(time.Hour), fluxly.If(fluxly.Func("crm")).Then(fluxly.Send("welcome"))),
		},
	}
}

// A timer that fails is put off, with a line in the log of its run; those of
// others fire at their time, also when the program does its work by schedule.
func TestFailingTimerDelaysNobodyElse(t *testing.T) {
	t.Parallel()
	for _, state := range []string{"down", "panics"} {
		k := newKitConfig(t, crmConfig())
		k.Identify(fluxly.Identity{ExternalID: "bad", Traits: fluxly.Traits{"crm": state}})
		k.Track(event("signed_up", "bad", nil))
		for i := range 5 {
			k.Track(event("signed_up", fmt.Sprintf("u%d", i), nil))
		}
		k.Clock().Set(k.Now().Add(time.Hour))
		next, err := k.Engine.RunDue(t.Context())
		if err == nil {
			t.Errorf("%s: RunDue says nothing of the failure", state)
		}
		if n := len(k.Sender.Mails()); n != 5 {
			t.Errorf("%s: %d of 5 mails of others", state, n)
		}
		bad := k.Runs("bad")[0]
		log, logErr := k.Engine.RunLog(t.Context(), bad.ID)
		if logErr != nil {
			t.Fatal(logErr)
		}
		if last := log[len(log)-1]; last.Code != "put_off" || last.Detail["error"] == "" {
			t.Errorf("%s: the log of the run ends with %+v", state, last)
		}
		first := next.Sub(k.Now())
		if !bad.WakeAt.Equal(next) || first <= 0 || first > time.Minute {
			t.Errorf("%s: comes again at %s, RunDue says %s, now is %s", state, bad.WakeAt, next, k.Now())
		}
		// Longer each time, and not for ever longer.
		for range 12 {
			k.Clock().Set(next)
			if next, err = k.Engine.RunDue(t.Context()); err == nil {
				t.Fatalf("%s: no error", state)
			}
		}
		if d := next.Sub(k.Now()); d < 30*time.Minute || d > 90*time.Minute {
			t.Errorf("%s: the thirteenth pause is %s", state, d)
		}
		k.Identify(fluxly.Identity{ExternalID: "bad", Traits: fluxly.Traits{"crm": nil}})
		k.Advance(2 * time.Hour)
		k.WantSent("bad", "welcome")
	}
}

func TestFailingTimersBesideRun(t *testing.T) {
	t.Parallel()
	for _, failing := range []int{1, 3, 40} {
		synctest.Test(t, func(t *testing.T) {
			sender := &fluxlytest.FakeSender{Stream: "lifecycle"}
			cfg := crmConfig()
			cfg.Sender = sender
			e := liveEngine(t, cfg)
			stop := run(t, e)
			for i := range failing {
				ev := fluxly.Event{Name: "signed_up", ExternalID: fmt.Sprintf("bad%d", i), Traits: fluxly.Traits{"crm": "down"}}
				if err := e.Track(t.Context(), ev); err != nil {
					t.Fatal(err)
				}
			}
			pass(time.Hour + 10*time.Minute) // they have failed a few times
			for i := range 10 {
				signUp(t, e, fmt.Sprintf("u%d", i))
				pass(7 * time.Second)
			}
			pass(time.Hour + time.Second - 7*time.Second)
			synctest.Wait()
			_ = stop()
			if n := len(sender.Mails()); n != 10 {
				t.Errorf("beside %d failing runs: %d of 10 mails of others", failing, n)
			}
			for _, m := range sends(t, e) {
				if lag := m.SettledAt.Sub(m.QueuedAt); lag > time.Second {
					t.Errorf("beside %d failing runs: a mail went %s late", failing, lag)
				}
			}
			runs, err := e.Runs(t.Context(), fluxly.RunQuery{Status: fluxly.RunCompleted})
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range runs {
				if lag := r.EndedAt.Sub(r.StartedAt) - time.Hour; lag > time.Second {
					t.Errorf("beside %d failing runs: a timer fired %s late", failing, lag)
				}
			}
		})
	}
}

// A segment that fails for one person is looked at again later; that of others
// is left in time.
func TestFailingSegmentDelaysNobodyElse(t *testing.T) {
	t.Parallel()
	down := false
	k := newKitConfig(t, fluxly.Config{
		Conditions: map[string]fluxly.ConditionFunc{"crm": func(_ context.Context, in fluxly.FuncInput) (bool, error) {
			if down && in.Profile.Traits["crm"] == "down" {
				return false, errors.New("crm is down for this person")
			}
			return true, nil
		}},
		Segments: []fluxly.Segment{{Name: "active", Where: fluxly.All(fluxly.Func("crm"), fluxly.Did("login").AtLeast(1).Within(7*fluxly.Day))}},
		Automations: []fluxly.Automation{
			{Name: "quiet", Trigger: fluxly.OnLeaveSegment("active"), Steps: fluxly.Steps{fluxly.Send("miss-you")}},
		},
	})
	k.Identify(fluxly.Identity{ExternalID: "bad", Traits: fluxly.Traits{"crm": "down"}})
	for _, id := range []string{"bad", "u1", "u2"} {
		k.Track(event("login", id, nil))
	}
	down = true
	k.Clock().Set(k.Now().Add(8 * fluxly.Day))
	next, err := k.Engine.RunDue(t.Context())
	if err == nil {
		t.Error("RunDue says nothing of the failure")
	}
	if d := next.Sub(k.Now()); d <= 0 || d > time.Minute {
		t.Errorf("comes again after %s", d)
	}
	k.WantSent("u1", "miss-you")
	k.WantSent("u2", "miss-you")
	down = false
	k.Advance(time.Minute)
	k.WantSent("bad", "miss-you")
}

// A call that stands at a step which its program does not have ends its run.
func TestCallAtAStepThatIsNot(t *testing.T) {
	t.Parallel()
	k := newKitConfig(t, fluxly.Config{
		Funcs:       map[string]fluxly.StepFunc{"f": func(context.Context, fluxly.StepInput) (any, error) { return nil, nil }},
		Automations: []fluxly.Automation{one("w", fluxly.On("signed_up"), fluxly.Do("f"))},
	})
	k.Track(event("signed_up", "u1", nil))
	r := k.Runs("u1")[0]
	r.Step = "nowhere"
	if err := k.Store.Update(t.Context(), func(tx fluxly.Tx) error { return tx.PutRun(t.Context(), r) }); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second) // it spun without end
	defer cancel()
	if _, err := k.Engine.RunDue(ctx); err != nil {
		t.Fatal(err)
	}
	if r := k.Runs("u1")[0]; r.Status != fluxly.RunFailed || r.Reason != "definition_lost" {
		t.Errorf("run %s, %s", r.Status, r.Reason)
	}
}

// Failures of the account, and what was settled by hand, leave a mail its
// whole time for failures of its own.
func TestTimeToRetryIsTheMailsOwn(t *testing.T) {
	t.Parallel()
	t.Run("after a failure of the account", func(t *testing.T) {
		t.Parallel()
		k := newKit(t, welcome())
		wrong := true
		k.Sender.Plan(func(*fluxly.Message) (fluxlytest.Outcome, bool) { return fluxlytest.BadCredentials(), wrong })
		k.Track(event("signed_up", "u1", nil))
		k.Advance(30 * time.Hour)
		wrong = false
		k.Sender.Script(fluxlytest.Temporary())
		k.Advance(time.Hour)
		k.WantSent("u1", "welcome")
	})
	t.Run("after it was settled by hand", func(t *testing.T) {
		t.Parallel()
		k := newKit(t, welcome())
		k.Sender.WithoutLookup()
		k.Sender.Script(fluxlytest.Lost())
		k.Track(event("signed_up", "u1", nil))
		k.Advance(25 * time.Hour)
		if err := k.Engine.Settle(t.Context(), record(t, k, "u1", "welcome").Key, false); err != nil {
			t.Fatal(err)
		}
		k.Sender.Script(fluxlytest.Temporary())
		k.Advance(time.Hour)
		k.WantSent("u1", "welcome")
	})
}

// Mails that were under way together fail together: one that is slow to fail
// does not make the hold longer.
func TestHoldGrowsByWave(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		wrong := &fluxly.DeliveryError{Kind: fluxly.Temporary, Account: true, Code: 535, Text: "no"}
		first := true
		begun := time.Now()
		e := liveEngine(t, fluxly.Config{Automations: oneMail(), MaxSends: 8, Sender: senderFunc(func(_ context.Context, m *fluxly.Message) (fluxly.Receipt, error) {
			slow := m.To == "slow@customer.test"
			switch {
			case slow && time.Since(begun) < time.Second:
				pass(45 * time.Second) // the hold of the other is over by then
				return fluxly.Receipt{}, wrong
			case !slow && first:
				first = false
				return fluxly.Receipt{}, wrong
			case !slow:
				pass(50 * time.Second)
			}
			return fluxly.Receipt{ID: "1"}, nil
		})})
		stop := run(t, e)
		signUp(t, e, "slow")
		signUp(t, e, "fast")
		pass(3 * time.Minute)
		synctest.Wait()
		_ = stop()
		if m := sends(t, e)["slow"]; m.Status != fluxly.SendAccepted || m.SettledAt.Sub(m.QueuedAt) > 50*time.Second {
			t.Errorf("the slow mail: %s after %s, want at once after it failed", m.Status, m.SettledAt.Sub(m.QueuedAt))
		}
	})
}

// What comes after a mail fails: that the provider took the mail is stored all
// the same, it goes once, and the run goes on when it can.
func TestOutcomeOfMailBeforeFailingStep(t *testing.T) {
	t.Parallel()
	down := true
	k := newKitConfig(t, fluxly.Config{
		Unknown: fluxly.SendAgain,
		Conditions: map[string]fluxly.ConditionFunc{"crm": func(context.Context, fluxly.FuncInput) (bool, error) {
			if down {
				return false, errors.New("crm is down")
			}
			return true, nil
		}},
		Automations: []fluxly.Automation{
			one("w", fluxly.On("signed_up"), fluxly.Send("welcome"), fluxly.If(fluxly.Func("crm")).Then(fluxly.Send("more"))),
		},
	})
	k.Sender.WithoutLookup()
	k.Track(event("signed_up", "u1", nil))
	k.Settle()
	if m := record(t, k, "u1", "welcome"); m.Status != fluxly.SendAccepted {
		t.Errorf("the mail that was taken is %s: %s", m.Status, m.Detail)
	}
	for range 5 { // the step fails again and again
		k.Clock().Set(k.Now().Add(10 * time.Minute))
		if _, err := k.Engine.RunDue(t.Context()); err == nil {
			break
		}
	}
	down = false
	k.Advance(time.Hour)
	k.WantSent("u1", "welcome", "more")
	if n := k.Sender.Calls(); n != 2 {
		t.Errorf("%d calls of the sender, want 2", n)
	}
}
