package fluxly_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/fluxlytest"
)

// The clock is set forward while mails are under way (the system was asleep,
// say): their claims are over by it, but they are this engine's own.
func TestClockSetForwardDuringHandOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		clock := fluxlytest.NewClock(fluxlytest.Start)
		sender := &fluxlytest.FakeSender{Now: clock.Now, Stream: "lifecycle"}
		holdAnn, holdBob := make(chan struct{}), make(chan struct{})
		sender.Rules(
			fluxlytest.Rule{To: "ann@customer.test", Nth: 1, Outcome: fluxlytest.Outcome{Hold: holdAnn}},
			fluxlytest.Rule{To: "bob@customer.test", Nth: 1, Outcome: fluxlytest.Outcome{Hold: holdBob}},
		)
		e := liveEngine(t, fluxly.Config{Sender: sender, Automations: oneMail(), MaxSends: 2, Now: clock.Now})
		for _, id := range []string{"ann", "bob", "carl"} {
			signUp(t, e, id)
			clock.Set(clock.Now().Add(time.Millisecond))
		}
		stop := run(t, e)
		synctest.Wait() // ann's and bob's mails are under way
		clock.Set(clock.Now().Add(time.Hour))
		close(holdBob) // the lane goes on, and finds the claim of ann's mail over
		synctest.Wait()
		if n := sender.Lookups(); n != 0 {
			t.Errorf("the provider was asked %d times about mails under way", n)
		}
		close(holdAnn)
		synctest.Wait()
		_ = stop()
		if twice := sender.Twice(); len(twice) > 0 {
			t.Errorf("sent twice: %v", twice)
		}
		for id, m := range sends(t, e) {
			if m.Status != fluxly.SendAccepted || m.Attempts != 1 {
				t.Errorf("%s's mail: %s after %d attempts", id, m.Status, m.Attempts)
			}
		}
	})
}

// Two engines on one store, as when a program reads its configuration again:
// the second gets nothing to do, and takes nothing over, until the first has
// ended and all that it had under way is recorded.
func TestSecondEngineTakesNothingOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := fluxly.NewMemoryStore()
		defer func() { _ = store.Close() }()
		hold := make(chan struct{})
		sender := &fluxlytest.FakeSender{Stream: "lifecycle"}
		sender.Script(fluxlytest.Outcome{Hold: hold})
		cfg := fluxly.Config{Store: store, Sender: sender, Automations: oneMail()}
		first, second := liveEngine(t, cfg), liveEngine(t, cfg)
		signUp(t, first, "ann")
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- first.Run(ctx) }()
		synctest.Wait() // the mail is under way
		refused := func(when string) {
			t.Helper()
			if err := second.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "already") {
				t.Errorf("%s: Run of a second engine: %v", when, err)
			}
			if _, err := second.RunDue(t.Context()); err == nil || !strings.Contains(err.Error(), "already") {
				t.Errorf("%s: RunDue of a second engine: %v", when, err)
			}
		}
		refused("running")
		cancel()
		synctest.Wait()
		refused("ending")
		if m := sends(t, second)["ann"]; m.Status != fluxly.SendSending {
			t.Errorf("the mail under way is %s", m.Status)
		}
		close(hold)
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
		if _, err := second.RunDue(t.Context()); err != nil {
			t.Error(err)
		}
		if n := sender.Calls(); n != 1 {
			t.Errorf("%d calls of the sender", n)
		}
	})
}

// What stops a mail may be stored between the last look at the person and the
// call of the sender. Once it is, the sender is not called any more.
func TestStoppedBetweenLookAndCall(t *testing.T) {
	t.Parallel()
	const address = "u1@customer.test"
	for _, tt := range []struct {
		name, reason string
		stop         func(context.Context, *fluxlytest.Kit) error
	}{
		{"Unsubscribe", fluxly.ReasonConsent, func(ctx context.Context, k *fluxlytest.Kit) error {
			return k.Engine.Unsubscribe(ctx, "u1", fluxly.Unsubscription{})
		}},
		{"Suppress", fluxly.ReasonSuppressed, func(ctx context.Context, k *fluxlytest.Kit) error {
			return k.Engine.Suppress(ctx, fluxly.Suppression{Address: address, Reason: "HardBounce"})
		}},
		{"Notice", fluxly.ReasonSuppressed, func(ctx context.Context, k *fluxlytest.Kit) error {
			return k.Engine.Notice(ctx, fluxly.PostmarkNotice{
				Type: fluxly.PostmarkSubscriptionChange, Recipient: address, SuppressSending: true, SuppressionReason: "SpamComplaint",
			})
		}},
		{"exit", "exit", func(ctx context.Context, k *fluxlytest.Kit) error {
			return k.Engine.Track(ctx, event("cancelled", "u1", nil))
		}},
		{"Erase", "", func(ctx context.Context, k *fluxlytest.Kit) error {
			return k.Engine.Erase(ctx, fluxly.Erasure{ID: "u1", Reason: fluxly.GDPRRequest})
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			store := &hookStore{Store: fluxly.NewMemoryStore()}
			t.Cleanup(func() { _ = store.Close() })
			a := welcome()
			a.Exit = fluxly.On("cancelled")
			k := newKitConfig(t, fluxly.Config{Store: store, Automations: []fluxly.Automation{a}})
			k.Identify(fluxly.Identity{ExternalID: "u1", Traits: fluxly.Traits{"email": address}})
			k.Track(event("signed_up", "u1", nil))
			stopped := false
			store.afterView = func() {
				// The first read after the claim was the last look.
				if !stopped && record(t, k, "u1", "welcome").Status == fluxly.SendSending {
					stopped = true
					if err := tt.stop(t.Context(), k); err != nil {
						t.Error(err)
					}
				}
			}
			k.Settle()
			store.afterView = nil
			if n := k.Sender.Calls(); !stopped || n != 0 {
				t.Errorf("stopped %v; the sender was called %d times", stopped, n)
			}
			if tt.reason != "" {
				k.WantNotSent("u1", "welcome", tt.reason)
			}
		})
	}
}

// An answer about an earlier claim says nothing of a later one.
func TestLookupOfAnEarlierClaim(t *testing.T) {
	t.Parallel()
	for _, fails := range []bool{false, true} {
		store := fluxly.NewMemoryStore()
		t.Cleanup(func() { _ = store.Close() })
		later := func(ctx context.Context, key string) error {
			return store.Update(ctx, func(tx fluxly.Tx) error {
				m, err := tx.Send(ctx, key)
				if err != nil {
					return err
				}
				m.Owner, m.Attempts, m.ClaimedAt = "another", 2, m.ClaimedAt.Add(time.Minute)
				return tx.PutSend(ctx, m)
			})
		}
		e := liveEngine(t, fluxly.Config{Store: store, Automations: oneMail(), Sender: lookupFunc{
			senderFunc: func(context.Context, *fluxly.Message) (fluxly.Receipt, error) {
				return fluxly.Receipt{}, errors.New("reply lost")
			},
			lookup: func(ctx context.Context, key string) (fluxly.Receipt, bool, error) {
				if err := later(ctx, key); err != nil {
					t.Error(err)
				}
				if fails {
					return fluxly.Receipt{}, false, errors.New("no answer")
				}
				return fluxly.Receipt{}, false, nil
			},
		}})
		signUp(t, e, "ann")
		if _, err := e.RunDue(t.Context()); err != nil {
			t.Fatal(err)
		}
		if m := sends(t, e)["ann"]; m.Status != fluxly.SendSending || m.Owner != "another" || m.Attempts != 2 {
			t.Errorf("look-up fails %v: the later claim is gone: %s, owner %q, attempts %d", fails, m.Status, m.Owner, m.Attempts)
		}
	}
}

// lookupFunc is a sender of two functions.
type lookupFunc struct {
	senderFunc
	lookup func(ctx context.Context, key string) (fluxly.Receipt, bool, error)
}

func (l lookupFunc) Lookup(ctx context.Context, key string) (fluxly.Receipt, bool, error) {
	return l.lookup(ctx, key)
}

// A provider that does not answer about the mails that a dead process left
// keeps no timer waiting, and is asked about all of them at once.
func TestLookupsAtStartDelayNoTimer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := fluxly.NewMemoryStore()
		defer func() { _ = store.Close() }()
		asked := make(chan string, 4)
		sender := lookupFunc{
			senderFunc: func(context.Context, *fluxly.Message) (fluxly.Receipt, error) { return fluxly.Receipt{}, nil },
			lookup: func(ctx context.Context, key string) (fluxly.Receipt, bool, error) {
				asked <- key
				<-ctx.Done()
				return fluxly.Receipt{}, false, ctx.Err()
			},
		}
		cfg := fluxly.Config{Store: store, Sender: sender, Automations: []fluxly.Automation{
			oneMail()[0],
			one("t", fluxly.On("timed"), fluxly.Wait(time.Millisecond), fluxly.SetTraits(fluxly.Traits{"woke": true})),
		}}
		dead := liveEngine(t, cfg)
		for i := range 4 {
			signUp(t, dead, fmt.Sprintf("u%d", i))
		}
		if err := dead.Track(t.Context(), event("timed", "ann", nil)); err != nil {
			t.Fatal(err)
		}
		err := store.Update(t.Context(), func(tx fluxly.Tx) error { // as a process leaves it that dies
			rows, err := tx.Sends(t.Context(), fluxly.SendQuery{})
			for _, m := range rows {
				m.Status, m.Owner, m.ClaimedAt, m.DueAt = fluxly.SendSending, "dead", time.Now(), time.Now().Add(time.Minute)
				err = errors.Join(err, tx.PutSend(t.Context(), m))
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		e := liveEngine(t, cfg)
		stop := run(t, e)
		pass(2 * time.Millisecond)
		synctest.Wait()
		if p, err := e.Profile(t.Context(), "ann"); err != nil || p.Traits["woke"] != true {
			t.Errorf("the timer did not fire: %v %v", p, err)
		}
		if n := len(asked); n != 4 {
			t.Errorf("asked about %d of 4 mails at once", n)
		}
		_ = stop()
	})
}
