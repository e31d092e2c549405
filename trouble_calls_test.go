package fluxly_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/fluxlytest"
)

// stuckStore reads, and fails every write, when it is told to.
type stuckStore struct {
	fluxly.Store
	bad    atomic.Bool
	writes atomic.Int64
}

func (s *stuckStore) Update(ctx context.Context, fn func(fluxly.Tx) error) error {
	if s.bad.Load() {
		s.writes.Add(1)
		return errors.New("begin: disk I/O error")
	}
	return s.Store.Update(ctx, fn)
}

// A store that cannot write is reported, and not asked again and again.
func TestStoreThatCannotWriteIsReported(t *testing.T) {
	t.Parallel()
	store := &stuckStore{Store: fluxly.NewMemoryStore()}
	t.Cleanup(func() { _ = store.Close() })
	k := newKitConfig(t, fluxly.Config{Store: store, Automations: []fluxly.Automation{welcome()}})
	k.Track(event("signed_up", "u1", nil))
	store.bad.Store(true)
	if _, err := k.Engine.RunDue(t.Context()); err == nil {
		t.Error("RunDue said that all is well")
	}
	if n := store.writes.Load(); n > 10 {
		t.Errorf("%d writes were tried", n)
	}
	store.bad.Store(false)
	k.Advance(time.Hour)
	k.WantSent("u1", "welcome")
}

// Host code that was called is not called again because what follows it fails.
func TestStepIsNotCalledAgainForWhatFollows(t *testing.T) {
	t.Parallel()
	calls, down := 0, true
	k := newKitConfig(t, fluxly.Config{
		Conditions: map[string]fluxly.ConditionFunc{"crm": func(context.Context, fluxly.FuncInput) (bool, error) {
			if down {
				return false, errors.New("crm is down")
			}
			return true, nil
		}},
		Funcs: map[string]fluxly.StepFunc{"f": func(context.Context, fluxly.StepInput) (any, error) { calls++; return calls, nil }},
		Automations: []fluxly.Automation{
			one("w", fluxly.On("signed_up"), fluxly.Do("f"), fluxly.If(fluxly.Func("crm")).Then(fluxly.Send("welcome"))),
		},
	})
	k.Track(event("signed_up", "u1", nil))
	end := k.Now().Add(fluxly.Day)
	for k.Now().Before(end) {
		next, _ := k.Engine.RunDue(t.Context()) // its error is the condition's
		if next.IsZero() {
			t.Fatal("nothing is due any more")
		}
		k.Clock().Set(next)
	}
	if calls != 1 {
		t.Errorf("%d calls in a day", calls)
	}
	down = false
	k.Advance(3 * time.Hour)
	k.WantSent("u1", "welcome")
	if r := k.Runs("u1")[0]; calls != 1 || r.Results["f"] != int64(1) {
		t.Errorf("%d calls, result %v", calls, r.Results["f"])
	}
}

// An overdue timer that fails does not keep new events of the person out, least
// of all the one that would mend it.
func TestTrackBesideAFailingOverdueTimer(t *testing.T) {
	t.Parallel()
	k := newKitConfig(t, fluxly.Config{
		Conditions: map[string]fluxly.ConditionFunc{"crm": func(_ context.Context, in fluxly.FuncInput) (bool, error) {
			if in.Profile.Traits["crm"] == "down" {
				return false, errors.New("crm is down for this person")
			}
			return true, nil
		}},
		Automations: []fluxly.Automation{
			one("w", fluxly.On("signed_up"), fluxly.Wait(time.Hour), fluxly.If(fluxly.Func("crm")).Then(fluxly.Send("welcome"))),
		},
	})
	k.Identify(fluxly.Identity{ExternalID: "u1", Traits: fluxly.Traits{"crm": "down"}})
	k.Track(event("signed_up", "u1", nil))
	k.Clock().Set(k.Now().Add(2 * time.Hour)) // no worker meanwhile
	k.Track(event("logged_in", "u1", nil))
	k.Identify(fluxly.Identity{ExternalID: "u1", Traits: fluxly.Traits{"crm": nil}})
	k.WantSent("u1", "welcome")
}

// A clock that was set back by hours does not let mails run against an account
// that refuses them all.
func TestHoldAfterTheClockWasSetBack(t *testing.T) {
	t.Parallel()
	k := newKit(t, welcome())
	k.Sender.Script(fluxlytest.BadCredentials())
	k.Track(event("signed_up", "u1", nil))
	k.Advance(time.Hour)
	k.WantSent("u1", "welcome")
	k.Clock().Set(k.Now().Add(-3 * time.Hour))
	k.Sender.Plan(func(*fluxly.Message) (fluxlytest.Outcome, bool) {
		return fluxlytest.BadCredentials(), k.Sender.Calls() < 500
	})
	k.Track(event("signed_up", "u2", nil))
	before := k.Sender.Calls()
	k.Settle()
	if n := k.Sender.Calls() - before; n != 1 {
		t.Errorf("%d calls of the sender at once", n)
	}
}
