package fluxly_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/fluxlytest"
)

// frozenPair is a store with two processes: one that a test freezes somewhere,
// and one that goes on meanwhile.
type frozenPair struct {
	t             *testing.T
	store         fluxly.Store
	hooks         *frozenStore
	clock         *fluxlytest.Clock
	sender        *fluxlytest.FakeSender
	frozen, other *fluxly.Engine
	calls         map[string]int // of the step "score", by key
	during        func()         // in the next call of the step
}

// frozenStore is the store as the frozen process has it.
type frozenStore struct {
	fluxly.Store
	beforeView, afterView, afterUpdate func()
}

// once runs a hook one time, and lets nothing run inside of it.
func once(hook *func()) {
	if fn := *hook; fn != nil {
		*hook = nil
		fn()
	}
}

func (s *frozenStore) View(ctx context.Context, fn func(fluxly.Tx) error) error {
	once(&s.beforeView)
	err := s.Store.View(ctx, fn)
	once(&s.afterView)
	return err
}

func (s *frozenStore) Update(ctx context.Context, fn func(fluxly.Tx) error) error {
	err := s.Store.Update(ctx, fn)
	once(&s.afterUpdate)
	return err
}

// newFrozenPair makes both processes; wrap is what they see of the sender.
func newFrozenPair(t *testing.T, wrap func(*frozenPair) fluxly.Sender, steps ...fluxly.Step) *frozenPair {
	t.Helper()
	p := &frozenPair{t: t, clock: fluxlytest.NewClock(fluxlytest.Start), calls: map[string]int{}}
	p.store = &frozenStore{Store: fluxly.NewMemoryStore()} // shared, so not exclusive
	t.Cleanup(func() { _ = p.store.Close() })
	p.hooks = &frozenStore{Store: p.store}
	p.sender = &fluxlytest.FakeSender{Now: p.clock.Now, Stream: "lifecycle"}
	var sender fluxly.Sender = p.sender
	if wrap != nil {
		sender = wrap(p)
	}
	start := func(store fluxly.Store) *fluxly.Engine {
		automations := []fluxly.Automation{one("w", fluxly.On("signed_up"), steps...)}
		e, err := fluxly.New(fluxly.Config{
			Store: store, Sender: sender, Mode: fluxly.Live, From: "Acme <hello@acme.test>", Now: p.clock.Now, MaxSends: 1,
			Emails: fluxlytest.Emails(fluxlytest.EmailNames(automations...)...), Automations: automations,
			Funcs: map[string]fluxly.StepFunc{"score": func(_ context.Context, in fluxly.StepInput) (any, error) {
				p.calls[in.Key]++
				once(&p.during)
				if in.Attempt == 1 {
					return nil, errors.New("not yet")
				}
				return 7, nil
			}},
		})
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	p.frozen, p.other = start(p.hooks), start(p.store)
	p.signUp("visitor", "", "ann@customer.test")
	return p
}

func (p *frozenPair) signUp(anonymous, external, email string) {
	p.t.Helper()
	err := p.other.Track(p.t.Context(), fluxly.Event{
		Name: "signed_up", AnonymousID: anonymous, ExternalID: external, Traits: fluxly.Traits{"email": email},
	})
	if err != nil {
		p.t.Fatal(err)
	}
}

// work lets a process do what is due.
func (p *frozenPair) work(e *fluxly.Engine) {
	p.t.Helper()
	if _, err := e.RunDue(p.t.Context()); err != nil {
		p.t.Error(err)
	}
}

// pass lets time pass, in which the other process works.
func (p *frozenPair) pass(d time.Duration) {
	p.clock.Set(p.clock.Now().Add(d))
	p.work(p.other)
}

// atLook arms a hook for the last look at a mail, which comes after its claim.
func (p *frozenPair) atLook(hook *func(), fn func()) {
	p.hooks.afterUpdate = func() { *hook = fn }
}

func (p *frozenPair) wantOne(attempts int) {
	p.t.Helper()
	rows, err := p.other.Sends(p.t.Context(), fluxly.SendQuery{})
	if err != nil || len(rows) != 1 {
		p.t.Fatalf("%d mails, error %v", len(rows), err)
	}
	if m := rows[0]; m.Status != fluxly.SendAccepted || m.Attempts != attempts {
		p.t.Errorf("the mail is %s (%s) after %d attempts, want accepted after %d", m.Status, m.Reason, m.Attempts, attempts)
	}
	if n := len(p.sender.Mails()); n != 1 {
		p.t.Errorf("the provider took %d mails, want 1", n)
	}
}

// O6: a process is frozen between claim and call, past its lease; another one
// takes the mail over and sends it.
func TestO6FrozenBetweenClaimAndCall(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name     string
		after    bool
		attempts int
		frozen   func(p *frozenPair)
	}{
		{"before its last look, taken over", false, 2, func(p *frozenPair) { p.pass(3 * time.Minute) }},
		{"after its last look, taken over", true, 2, func(p *frozenPair) { p.pass(3 * time.Minute) }},
		// Its claim still holds, but might not to the end of the call: it gives
		// the mail back and claims it anew.
		{"nearly for its lease", true, 2, func(p *frozenPair) { p.pass(2 * time.Minute) }},
		{"for a moment", true, 1, func(p *frozenPair) { p.pass(50 * time.Second) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := newFrozenPair(t, nil, fluxly.Send("welcome"))
			hook := &p.hooks.beforeView
			if tt.after {
				hook = &p.hooks.afterView
			}
			p.atLook(hook, func() { tt.frozen(p) })
			p.work(p.frozen)
			p.wantOne(tt.attempts)
		})
	}
}

// A person is merged into another between the claim of a mail and the last
// look: the mail is theirs now, and goes.
func TestMergedBetweenClaimAndCall(t *testing.T) {
	t.Parallel()
	p := newFrozenPair(t, nil, fluxly.Send("welcome"))
	err := p.other.Identify(t.Context(), fluxly.Identity{ExternalID: "ann", Traits: fluxly.Traits{"email": "ann@customer.test"}})
	if err != nil {
		t.Fatal(err)
	}
	p.atLook(&p.hooks.beforeView, func() {
		// Alias keeps the profile of ann, which is the younger one.
		if err := p.other.Alias(t.Context(), fluxly.Alias{UserID: "ann", AnonymousID: "visitor"}); err != nil {
			t.Error(err)
		}
	})
	p.work(p.frozen)
	p.wantOne(1)
}

// R15: between the last look at a mail and the call of the sender its person is
// found to be one who has unsubscribed. When that call has returned, no mail
// goes.
func TestR15MergedWithOneWhoUnsubscribed(t *testing.T) {
	t.Parallel()
	p := newFrozenPair(t, nil, fluxly.Send("welcome"))
	ctx := t.Context()
	err := errors.Join(
		p.frozen.Identify(ctx, fluxly.Identity{ExternalID: "ann", Traits: fluxly.Traits{"email": "ann@customer.test"}}),
		p.frozen.Unsubscribe(ctx, "ann", fluxly.Unsubscription{Source: "footer"}),
	)
	if err != nil {
		t.Fatal(err)
	}
	p.atLook(&p.hooks.afterView, func() {
		if err := p.frozen.Alias(ctx, fluxly.Alias{UserID: "ann", AnonymousID: "visitor"}); err != nil {
			t.Error(err)
		}
	})
	p.work(p.frozen)
	rows, err := p.other.Sends(ctx, fluxly.SendQuery{})
	if err != nil || len(rows) != 1 || rows[0].Reason != fluxly.ReasonConsent || p.sender.Calls() != 0 {
		t.Errorf("%d calls of the sender, mails %+v, error %v; want none, and one skipped by consent", p.sender.Calls(), rows, err)
	}
}

// slowLookup answers, and then nothing happens for a while.
type slowLookup struct {
	*fluxlytest.FakeSender
	delay time.Duration
	late  func()
}

func (s *slowLookup) LookupDelay() time.Duration { return s.delay }

func (s *slowLookup) Lookup(ctx context.Context, key string) (fluxly.Receipt, bool, error) {
	mails := s.Mails()
	if len(mails) == 1 && s.Now().Sub(fluxlytest.Start) < s.delay {
		once(&s.late)
		return fluxly.Receipt{}, false, nil
	}
	return s.FakeSender.Lookup(ctx, key)
}

// O3: "not there" is believed by the time at which the provider was asked, not
// by that at which the process comes to think about it.
func TestO3FrozenAfterTheProviderWasAsked(t *testing.T) {
	t.Parallel()
	p := newFrozenPair(t, func(p *frozenPair) fluxly.Sender {
		return &slowLookup{p.sender, 5 * time.Minute, func() { p.clock.Set(p.clock.Now().Add(time.Hour)) }}
	}, fluxly.Send("welcome"))
	p.sender.Script(fluxlytest.ReplyLost())
	p.work(p.frozen)
	p.pass(time.Hour)
	p.wantOne(1)
}

// score returns the run and how often its step was called.
func (p *frozenPair) score() (*fluxly.Run, int) {
	p.t.Helper()
	runs, err := p.other.Runs(p.t.Context(), fluxly.RunQuery{})
	if err != nil || len(runs) != 1 {
		p.t.Fatalf("%d runs, error %v", len(runs), err)
	}
	n := 0
	for _, c := range p.calls {
		n += c
	}
	return runs[0], n
}

// S16: a process is frozen in the program's own step, and another one tries the
// step too. That both fail is one failed try.
func TestS16FrozenInAStepThatFails(t *testing.T) {
	t.Parallel()
	p := newFrozenPair(t, nil, fluxly.Do("score"), fluxly.Wait(fluxly.Day))
	p.during = func() { p.pass(2 * time.Minute) }
	p.work(p.frozen)
	if run, n := p.score(); run.Attempts != 1 || n != 2 {
		t.Errorf("%d calls count as %d failed tries, want 2 and 1", n, run.Attempts)
	}
}

// S16: a process is frozen between the claim of a step and its call; another
// one calls it and stores the result, which is not computed again.
func TestS16FrozenBeforeAStep(t *testing.T) {
	t.Parallel()
	p := newFrozenPair(t, nil, fluxly.Do("score"), fluxly.Wait(fluxly.Day))
	p.work(p.frozen) // the first try fails
	p.clock.Set(p.clock.Now().Add(5 * time.Minute))
	p.hooks.afterUpdate = func() { p.pass(2 * time.Minute) }
	p.work(p.frozen)
	run, n := p.score()
	if len(run.Results) != 1 || n != 2 {
		t.Errorf("%d calls, results %v; want 2 calls and one result", n, run.Results)
	}
}
