package fluxlytest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/getfluxly/fluxly"
)

// ErrCrashed is what everything returns after a [CrashStore] has stopped the
// process.
var ErrCrashed = errors.New("fluxlytest: the process was stopped here")

// CrashStore stops "the process" at one commit of the store inside: that
// commit is lost, or it is kept and its caller never hears of it. From then on
// every call fails with [ErrCrashed], as nothing runs in a process that was
// killed. A new engine on the store inside is the process that is started
// again.
type CrashStore struct {
	fluxly.Store

	mu      sync.Mutex
	left    int
	keep    bool
	crashed bool
	commits int
}

// NewCrashStore stops at the n-th commit, counted from 1; 0 never stops. With
// keep, that commit is durable.
func NewCrashStore(inner fluxly.Store, n int, keep bool) *CrashStore {
	return &CrashStore{Store: inner, left: n, keep: keep}
}

// Crash stops the process at once.
func (s *CrashStore) Crash() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.crashed = true
}

// Crashed reports whether the process was stopped.
func (s *CrashStore) Crashed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.crashed
}

// Commits counts the commits so far.
func (s *CrashStore) Commits() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.commits
}

// Update is the store's, until it is time.
func (s *CrashStore) Update(ctx context.Context, fn func(fluxly.Tx) error) error {
	s.mu.Lock()
	if s.crashed {
		s.mu.Unlock()
		return ErrCrashed
	}
	s.commits++
	now := s.left > 0 && s.commits == s.left
	keep := s.keep
	if now && !keep {
		s.crashed = true
	}
	s.mu.Unlock()
	if now && !keep {
		return errors.Join(ErrCrashed, s.Store.Update(ctx, func(tx fluxly.Tx) error {
			if err := fn(tx); err != nil {
				return err
			}
			return ErrCrashed
		}))
	}
	err := s.Store.Update(ctx, fn)
	if now {
		s.Crash()
		return ErrCrashed
	}
	return err
}

// View is the store's, until the process was stopped.
func (s *CrashStore) View(ctx context.Context, fn func(fluxly.Tx) error) error {
	if s.Crashed() {
		return ErrCrashed
	}
	return s.Store.View(ctx, fn)
}

// Exclusive tells the engine that mails left under way are nobody else's.
func (s *CrashStore) Exclusive() bool { return true }

// Opener opens the store of a directory again, as a process that starts does.
// The store before it was closed.
type Opener func(t testing.TB, dir string) fluxly.Store

// TestCrashes runs a workload of automations and stops it at every commit in
// turn, once with the commit lost and once kept, and at every call of the
// provider, before and after it took the mail. After each stop it starts
// again, lets the caller repeat what was not answered, and works to the end.
// Then each mail that was due was taken exactly once, no event is lost or
// there twice, and every run stands as its log and its mails say.
//
// open is called with the same directory again after a stop.
func TestCrashes(t *testing.T, open Opener) {
	total := 0
	for n := 1; ; n++ {
		for _, keep := range []bool{false, true} {
			w := newCrashWorkload(t, open)
			w.stopAt, w.keep = n, keep
			if !w.run() {
				t.Fatalf("stop at commit %d, kept %v: %s", n, keep, w.failure)
			}
			total = w.commits
		}
		if n > total {
			break
		}
		if testing.Short() {
			n += 4
		}
	}
	for n := 1; n <= 12; n++ {
		for _, taken := range []bool{false, true} {
			w := newCrashWorkload(t, open)
			w.stopAtCall, w.taken = n, taken
			if !w.run() {
				t.Fatalf("stop at call %d of the provider, taken %v: %s", n, taken, w.failure)
			}
		}
	}
}

// crashWorkload is a small SaaS: people who sign up, some of whom create a
// project, one who cancels, one who is two at first.
type crashWorkload struct {
	t          *testing.T
	dir        string
	open       Opener
	clock      *Clock
	provider   *FakeSender
	stopAt     int
	keep       bool
	stopAtCall int
	taken      bool
	commits    int
	failure    string
}

func newCrashWorkload(t *testing.T, open Opener) *crashWorkload {
	t.Helper()
	w := &crashWorkload{t: t, dir: t.TempDir(), open: open, clock: NewClock(Start)}
	w.provider = &FakeSender{Now: w.clock.Now, Stream: "broadcast"}
	return w
}

var crashAutomations = []fluxly.Automation{
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

// crashSteps are what the program tracks, and when. Message ids are made once,
// so a call that was not answered may be repeated.
var crashSteps = []struct {
	day   int
	event fluxly.Event
}{
	{0, fluxly.Event{Name: "signed_up", ExternalID: "u1", MessageID: "m1", Traits: fluxly.Traits{"email": "u1@example.test"}}},
	{0, fluxly.Event{Name: "signed_up", ExternalID: "u2", MessageID: "m2", Traits: fluxly.Traits{"email": "u2@example.test"}}},
	{0, fluxly.Event{Name: "signed_up", AnonymousID: "a3", MessageID: "m3", Traits: fluxly.Traits{"email": "u3@example.test"}}},
	{1, fluxly.Event{Name: "project_created", ExternalID: "u1", MessageID: "m4"}},
	{1, fluxly.Event{Name: "identify", ExternalID: "u3", AnonymousID: "a3", MessageID: "m5"}},
	{2, fluxly.Event{Name: "project_created", ExternalID: "u1", MessageID: "m6"}},
	{3, fluxly.Event{Name: "cancelled", ExternalID: "u3", MessageID: "m7"}},
}

// crashMails are the mails that each address gets.
var crashMails = map[string][]string{
	"u1@example.test": {"active", "bravo", "bye", "welcome"},
	"u2@example.test": {"bye", "nudge", "welcome"},
	"u3@example.test": {"nudge", "welcome"},
}

// process is one life of the program.
type process struct {
	store  *CrashStore
	engine *fluxly.Engine
}

func (w *crashWorkload) start(stopAt int) (*process, error) {
	p := &process{store: NewCrashStore(w.open(w.t, w.dir), stopAt, w.keep)}
	var err error
	p.engine, err = fluxly.New(fluxly.Config{
		Store: p.store, Sender: w.provider, Mode: fluxly.Live, From: "Acme <hello@acme.test>",
		Emails: Emails(EmailNames(crashAutomations...)...), Automations: crashAutomations, Now: w.clock.Now, MaxSends: 1,
	})
	return p, err
}

// run works to the end, through the one stop that is asked for; it reports
// whether all that must hold holds.
func (w *crashWorkload) run() bool {
	ctx := w.t.Context()
	var p *process
	begin := func(stopAt int) bool {
		var err error
		for {
			if p, err = w.start(stopAt); err == nil {
				break
			}
			w.commits = max(w.commits, p.store.Commits())
			_ = p.store.Close()
			if !p.store.Crashed() {
				w.failure = err.Error()
				return false
			}
			stopAt = 0
		}
		return true
	}
	if w.stopAtCall > 0 {
		w.provider.Rules(Rule{Nth: w.stopAtCall, Outcome: Outcome{
			Err: ErrCrashed, Taken: w.taken, Before: func(*fluxly.Message) { p.store.Crash() },
		}})
	}
	if !begin(w.stopAt) {
		return false
	}
	// alive runs fn, in a new process after a stop, until it is answered.
	alive := func(fn func() error) bool {
		for range 3 {
			err := fn()
			w.commits = max(w.commits, p.store.Commits())
			if err == nil && !p.store.Crashed() {
				return true
			}
			if !p.store.Crashed() {
				w.failure = err.Error()
				return false
			}
			if cerr := p.store.Close(); cerr != nil {
				w.failure = "close: " + cerr.Error()
				return false
			}
			if !begin(0) {
				return false
			}
		}
		w.failure = "stopped more than once"
		return false
	}
	work := func() bool {
		return alive(func() error { _, err := p.engine.RunDue(ctx); return err })
	}
	next := 0
	for hour := range 24 * 8 {
		w.clock.Set(Start.Add(time.Duration(hour) * time.Hour))
		for next < len(crashSteps) && crashSteps[next].day*24 == hour {
			ev := crashSteps[next].event
			next++
			if !alive(func() error { return p.engine.Track(ctx, ev) }) {
				return false
			}
		}
		if !work() {
			return false
		}
	}
	defer func() { _ = p.store.Close() }()
	return w.check(ctx, p)
}

// check looks at what must hold at the end.
func (w *crashWorkload) check(ctx context.Context, p *process) bool {
	got := map[string][]string{}
	for _, m := range w.provider.Mails() {
		got[m.To] = append(got[m.To], m.Subject)
	}
	for addr, want := range crashMails {
		slices.Sort(got[addr])
		if !slices.Equal(got[addr], want) {
			w.failure = fmt.Sprintf("%s got %s, want %s", addr, strings.Join(got[addr], ", "), strings.Join(want, ", "))
			return false
		}
	}
	if twice := w.provider.Twice(); len(twice) > 0 {
		w.failure = "taken twice: " + strings.Join(twice, ", ")
		return false
	}
	if err := CheckInvariants(ctx, p.store); err != nil {
		w.failure = err.Error()
		return false
	}
	events := 0
	err := p.store.View(ctx, func(tx fluxly.Tx) error {
		ps, err := tx.Profiles(ctx, "", 100)
		if err != nil {
			return err
		}
		for _, prof := range ps {
			evs, err := tx.Events(ctx, prof.ID, fluxly.EventQuery{})
			if err != nil {
				return err
			}
			events += len(evs)
		}
		return nil
	})
	if err != nil || events != len(crashSteps) {
		w.failure = fmt.Sprintf("%d events stored, want %d (%v)", events, len(crashSteps), err)
		return false
	}
	return true
}
