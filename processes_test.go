package fluxly_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/fluxlytest"
)

// processes are several engines on one store, as in several replicas of a
// program, under one clock.
type processes struct {
	t      *testing.T
	clock  *fluxlytest.Clock
	store  fluxly.Store
	sender *timedSender
	list   []*fluxly.Engine
}

// timedSender notes when it was called.
type timedSender struct {
	*fluxlytest.FakeSender
	mu    sync.Mutex
	times []time.Time
}

func (s *timedSender) Send(ctx context.Context, m *fluxly.Message) (fluxly.Receipt, error) {
	s.mu.Lock()
	s.times = append(s.times, s.Now())
	s.mu.Unlock()
	return s.FakeSender.Send(ctx, m)
}

func newProcesses(t *testing.T) *processes {
	t.Helper()
	p := &processes{t: t, clock: fluxlytest.NewClock(fluxlytest.Start)}
	p.store = struct{ fluxly.Store }{fluxly.NewMemoryStore()} // not exclusive
	t.Cleanup(func() { _ = p.store.Close() })
	p.sender = &timedSender{FakeSender: &fluxlytest.FakeSender{Now: p.clock.Now, Stream: "lifecycle"}}
	return p
}

// start adds a process; cfg has what is special about it.
func (p *processes) start(cfg fluxly.Config) *fluxly.Engine {
	p.t.Helper()
	cfg.Store, cfg.Sender, cfg.Mode, cfg.From, cfg.Now = p.store, p.sender, fluxly.Live, "Acme <hello@acme.test>", p.clock.Now
	if cfg.Emails == nil {
		cfg.Emails = fluxlytest.Emails(fluxlytest.EmailNames(cfg.Automations...)...)
	}
	e, err := fluxly.New(cfg)
	if err != nil {
		p.t.Fatal(err)
	}
	p.list = append(p.list, e)
	return e
}

func (p *processes) track(e *fluxly.Engine, ev fluxly.Event) {
	p.t.Helper()
	if err := e.Track(p.t.Context(), ev); err != nil {
		p.t.Fatal(err)
	}
}

// work lets the processes take turns until a time, or until nothing is due any
// more; only names those that work.
func (p *processes) work(until time.Time, only ...*fluxly.Engine) {
	p.t.Helper()
	if len(only) == 0 {
		only = p.list
	}
	for i := 0; ; i++ {
		if i > 100_000 {
			p.t.Fatal("there is no end of work")
		}
		var next time.Time
		for j := range only {
			// Each has a chance to be first.
			then, err := only[(i+j)%len(only)].RunDue(p.t.Context())
			if err != nil {
				p.t.Fatal(err)
			}
			if next.IsZero() || !then.IsZero() && then.Before(next) {
				next = then
			}
		}
		if next.IsZero() || next.After(until) {
			return
		}
		p.clock.Set(next)
	}
}

func TestO5SendRateOverAllProcesses(t *testing.T) {
	t.Parallel()
	const rate = 50
	ready := 10_000
	if testing.Short() {
		ready = 500
	}
	p := newProcesses(t)
	a := one("news", fluxly.On("signed_up"), fluxly.Send("welcome"))
	for range 3 {
		p.start(fluxly.Config{Automations: []fluxly.Automation{a}, SendRate: rate})
	}
	for i := range ready {
		id := fmt.Sprint("u", i)
		p.track(p.list[i%3], fluxly.Event{Name: "signed_up", ExternalID: id, Traits: fluxly.Traits{"email": id + "@customer.test"}})
	}
	began := p.clock.Now()
	p.work(began.Add(time.Hour))
	mails := p.sender.Mails()
	if len(mails) != ready || len(p.sender.Twice()) > 0 {
		t.Fatalf("%d mails of %d, %d twice", len(mails), ready, len(p.sender.Twice()))
	}
	times := p.sender.times
	slices.SortFunc(times, time.Time.Compare)
	for i := rate; i < len(times); i++ {
		if d := times[i].Sub(times[i-rate]); d < time.Second {
			t.Fatalf("%d mails within %s, from %s on", rate+1, d, times[i-rate].Sub(began))
		}
	}
	// The limit is also used.
	if took := times[len(times)-1].Sub(began); took > time.Duration(ready)*time.Second*5/4/rate {
		t.Errorf("%d mails took %s", ready, took)
	}
	waits := int64(0)
	for _, e := range p.list {
		waits += e.Counters().RateWaits
	}
	if waits < int64(ready)/2 || waits > 3*int64(ready) {
		t.Errorf("%d mails were put off %d times", ready, waits)
	}
}

// While a release is rolled out, the old one meets runs of the new one.
func TestR8OldReleaseMeetsRunsOfANewOne(t *testing.T) {
	t.Parallel()
	p := newProcesses(t)
	v1 := one("trial", fluxly.On("signed_up"), fluxly.Wait(fluxly.Day), fluxly.Send("old"))
	v2 := one("trial", fluxly.On("signed_up"), fluxly.WaitFor("invited", fluxly.Day).
		Then(fluxly.Do("score"), fluxly.Send("new")).
		Else(fluxly.Send("never")))
	old := p.start(fluxly.Config{Automations: []fluxly.Automation{v1}})
	scored := 0
	fresh := p.start(fluxly.Config{
		Automations: []fluxly.Automation{v2},
		Emails:      fluxlytest.Emails("old", "new", "never"),
		Funcs: map[string]fluxly.StepFunc{"score": func(context.Context, fluxly.StepInput) (any, error) {
			scored++
			return 7, nil
		}},
	})
	sign := func(e *fluxly.Engine, id string) {
		p.track(e, fluxly.Event{Name: "signed_up", ExternalID: id, Traits: fluxly.Traits{"email": id + "@customer.test"}})
	}
	sign(old, "u1")
	sign(fresh, "u2")
	// The old release does not wait for "invited" itself, and has neither the
	// step nor the template.
	p.track(old, event("invited", "u2", nil))
	p.work(p.clock.Now(), old)
	p.work(p.clock.Now().Add(2*fluxly.Day), old, fresh)
	got := map[string][]string{}
	for _, m := range p.sender.Mails() {
		got[m.To] = append(got[m.To], m.Subject)
	}
	if scored != 1 || !slices.Equal(got["u1@customer.test"], []string{"old"}) || !slices.Equal(got["u2@customer.test"], []string{"new"}) {
		t.Errorf("the step ran %d times, mails %v", scored, got)
	}
	if err := fluxlytest.CheckInvariants(t.Context(), p.store); err != nil {
		t.Error(err)
	}
}

// What no release has any more is not waited for without end.
func TestR8TemplateThatNobodyHas(t *testing.T) {
	t.Parallel()
	p := newProcesses(t)
	old := p.start(fluxly.Config{Automations: []fluxly.Automation{one("trial", fluxly.On("signed_up"), fluxly.Send("gone"))}})
	fresh := p.start(fluxly.Config{Automations: []fluxly.Automation{one("trial", fluxly.On("signed_up"), fluxly.Send("kept"))}, RetryFor: time.Hour})
	p.track(old, fluxly.Event{Name: "signed_up", ExternalID: "u1", Traits: fluxly.Traits{"email": "u1@customer.test"}})
	p.work(p.clock.Now().Add(fluxly.Day), fresh)
	sends, err := fresh.Sends(t.Context(), fluxly.SendQuery{})
	if err != nil {
		t.Fatal(err)
	}
	if len(sends) != 1 || sends[0].Status != fluxly.SendSkipped || sends[0].Reason != fluxly.ReasonTemplate {
		t.Errorf("the mail is %+v", sends[0])
	}
}

// callerTx stands for a transaction of the program's own.
type callerTx struct{ of, in fluxly.Store }

func (c callerTx) Store() fluxly.Store { return c.of }

func (c callerTx) Update(ctx context.Context, fn func(fluxly.Tx) error) error {
	return c.in.Update(ctx, fn)
}

func TestWithinChecksItsTransaction(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	p := newProcesses(t)
	e := p.start(fluxly.Config{
		Automations: []fluxly.Automation{one("trial", fluxly.On("signed_up"), fluxly.Send("welcome"))},
		Segments:    []fluxly.Segment{{Name: "active", Where: fluxly.Did("signed_up").AtLeast(1)}},
	})
	ev := event("signed_up", "u1", nil)
	ev.MessageID = "m1"
	other := fluxly.NewMemoryStore()
	t.Cleanup(func() { _ = other.Close() })
	for name, tx := range map[string]fluxly.CallerTx{"none": nil, "another store": callerTx{other, other}} {
		if err := e.TrackTx(ctx, tx, ev); !errors.Is(err, fluxly.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	w := e.Within(callerTx{p.store, p.store})
	if _, err := w.InSegment(ctx, "u1", "active"); !errors.Is(err, fluxly.ErrNotFound) {
		t.Errorf("before: %v", err)
	}
	if err := w.Track(ctx, ev); err != nil {
		t.Fatal(err)
	}
	if in, err := w.InSegment(ctx, "u1", "active"); err != nil || !in {
		t.Errorf("in the segment: %v, %v", in, err)
	}
	if _, err := w.InSegment(ctx, "u1", "sleeping"); !errors.Is(err, fluxly.ErrNotFound) {
		t.Errorf("a segment that is not there: %v", err)
	}
	if err := w.Track(ctx, fluxly.Event{Name: "logged_in", ExternalID: "u1", MessageID: "m1"}); !errors.Is(err, fluxly.ErrConflict) {
		t.Errorf("the same message id with another body: %v", err)
	}
	if _, err := w.Enroll(ctx, fluxly.Enrollment{Automation: "none", ExternalID: "u1"}); !errors.Is(err, fluxly.ErrNotFound) {
		t.Errorf("an automation that is not there: %v", err)
	}
	if n := e.Counters().Events; n != 1 {
		t.Errorf("%d events", n)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if err := w.Identify(ctx, fluxly.Identity{ExternalID: "u1"}); !errors.Is(err, fluxly.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}
