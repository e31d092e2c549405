package fluxlytest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/getfluxly/fluxly"
)

// Start is the virtual time at which a [Kit] begins: a Monday.
var Start = time.Date(2026, time.March, 2, 9, 0, 0, 0, time.UTC)

// Kit is an engine under a virtual clock with a fake [fluxly.Sender], for the
// test of automations: a journey of thirty days takes milliseconds. Its
// methods end the test when the engine fails; they are for the test's own
// goroutine.
//
// Timers that are due at the very instant to which the clock was moved fire
// when the test next looks at the outcome (WantSent and the like) or moves the
// clock on; what is tracked at that instant comes before them.
type Kit struct {
	// Engine is the engine itself, for all that has no shorthand.
	Engine *fluxly.Engine
	// Sender keeps the mails.
	Sender *FakeSender
	// Store is the engine's store.
	Store fluxly.Store

	t     testing.TB
	clock *Clock
	known map[string]bool
	// pruned: Prune was called.
	pruned bool
	seq    int
}

// Clock is a virtual clock. It may be read from many goroutines.
type Clock struct {
	mu  sync.Mutex
	now time.Time
}

// NewClock returns a clock that stands at t.
func NewClock(t time.Time) *Clock { return &Clock{now: t} }

// Now is the present of the clock.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Set moves the clock to t. It may go backwards, as the clocks of computers do;
// an engine then stands still for a while, see [fluxly.Config].
func (c *Clock) Set(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = t
}

// New makes a kit for automations: a store in memory, a virtual clock at
// [Start], a fake sender that accepts everything, and a plain template for
// each mail that the automations name. People get the address
// "ID@example.test" when they are first tracked without one.
func New(t testing.TB, automations ...fluxly.Automation) *Kit {
	t.Helper()
	return NewConfig(t, fluxly.Config{Automations: automations})
}

// NewConfig is [New] with a configuration of the test's own. What is left
// empty is filled in as New does it; Sender must be a [*FakeSender] or nil.
func NewConfig(t testing.TB, cfg fluxly.Config) *Kit {
	t.Helper()
	k := &Kit{t: t, clock: NewClock(Start), known: map[string]bool{}}
	if cfg.Sender == nil {
		cfg.Sender = &FakeSender{Now: k.clock.Now, Stream: "broadcast"}
	}
	sender, ok := cfg.Sender.(*FakeSender)
	if !ok {
		t.Fatalf("fluxlytest: Config.Sender is a %T; a Kit needs a *FakeSender", cfg.Sender)
	}
	k.Sender = sender
	if cfg.Store == nil {
		cfg.Store = fluxly.NewMemoryStore()
		t.Cleanup(func() { _ = cfg.Store.Close() })
	}
	k.Store = cfg.Store
	if cfg.Mode == "" {
		cfg.Mode = fluxly.Live
	}
	if cfg.From == "" {
		cfg.From = "Acme <hello@acme.test>"
	}
	if cfg.Emails == nil {
		cfg.Emails = Emails(EmailNames(cfg.Automations...)...)
	}
	cfg.Now = k.clock.Now
	engine, err := fluxly.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	k.Engine = engine
	return k
}

// EmailNames are the mails that automations send, each once, sorted.
func EmailNames(automations ...fluxly.Automation) []string {
	var out []string
	var walk func(fluxly.Steps)
	walk = func(steps fluxly.Steps) {
		for _, s := range steps {
			if s.Kind == fluxly.StepSend {
				out = append(out, s.Email)
			}
			for _, p := range s.Paths {
				walk(p.Steps)
			}
			walk(s.Yes)
			walk(s.No)
		}
	}
	for _, a := range automations {
		walk(a.Steps)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Emails makes a plain template for each name.
func Emails(names ...string) fstest.MapFS {
	m := fstest.MapFS{}
	for _, n := range names {
		m[n+".txt"] = &fstest.MapFile{Data: []byte("---\nSubject: " + n + "\n---\nThis is " + n + ".\n\n{{{ pm:unsubscribe }}}\n")}
	}
	return m
}

// Now is the virtual present.
func (k *Kit) Now() time.Time { return k.clock.Now() }

// Clock is the clock itself.
func (k *Kit) Clock() *Clock { return k.clock }

// Track tracks an event at the virtual present.
func (k *Kit) Track(e fluxly.Event) {
	k.t.Helper()
	if err := k.TryTrack(e); err != nil {
		k.t.Fatalf("track %s: %v", e.Name, err)
	}
}

// TryTrack is [Kit.Track] for a test that expects an error.
func (k *Kit) TryTrack(e fluxly.Event) error {
	k.t.Helper()
	if e.MessageID == "" {
		// The same test gives the same ids, so a failure can be told again.
		k.seq++
		e.MessageID = fmt.Sprintf("test-%d", k.seq)
	}
	if err := k.Engine.Track(k.t.Context(), e); err != nil {
		return err
	}
	k.giveAddress(e.ExternalID)
	return nil
}

// giveAddress gives a person an address when they are first seen.
func (k *Kit) giveAddress(externalID string) {
	if externalID == "" || k.known[externalID] {
		return
	}
	k.known[externalID] = true
	p, err := k.Engine.Profile(k.t.Context(), externalID)
	if err != nil {
		k.t.Fatal(err)
	}
	if _, has := p.Traits["email"]; !has {
		k.Identify(fluxly.Identity{ExternalID: externalID, Traits: fluxly.Traits{"email": externalID + "@example.test"}})
	}
}

// Identify identifies a person at the virtual present.
func (k *Kit) Identify(id fluxly.Identity) {
	k.t.Helper()
	if _, ok := id.Traits["email"]; ok {
		k.known[id.ExternalID] = true
	}
	if id.MessageID == "" {
		k.seq++
		id.MessageID = fmt.Sprintf("test-%d", k.seq)
	}
	if err := k.Engine.Identify(k.t.Context(), id); err != nil {
		k.t.Fatalf("identify: %v", err)
	}
	if id.ExternalID != "" {
		k.giveAddress(id.ExternalID)
	}
}

// Advance moves the clock on. Everything that falls due on the way is done at
// its own instant, in order.
func (k *Kit) Advance(d time.Duration) {
	k.t.Helper()
	k.AdvanceTo(k.clock.Now().Add(d))
}

// AdvanceTo is [Kit.Advance] to an instant.
func (k *Kit) AdvanceTo(target time.Time) {
	k.t.Helper()
	for {
		next, err := k.Engine.RunDue(k.t.Context())
		if err != nil {
			k.t.Fatal(err)
		}
		if next.IsZero() || !next.Before(target) {
			break
		}
		k.clock.Set(next)
	}
	k.clock.Set(target)
}

// Settle does what is due at the present instant.
func (k *Kit) Settle() {
	k.t.Helper()
	if _, err := k.Engine.RunDue(k.t.Context()); err != nil {
		k.t.Fatal(err)
	}
}

// Prune is the engine's Prune. From then on the kit knows that what is old may
// be gone.
func (k *Kit) Prune(r fluxly.Retention) fluxly.Pruned {
	k.t.Helper()
	k.pruned = true
	done, err := k.Engine.Prune(k.t.Context(), r)
	if err != nil {
		k.t.Fatal(err)
	}
	return done
}

// Restart makes a new engine on the same store with another configuration, as
// a deployment does. Empty fields are filled in as by [New].
func (k *Kit) Restart(cfg fluxly.Config) error {
	k.t.Helper()
	if cfg.Emails == nil {
		cfg.Emails = Emails(EmailNames(cfg.Automations...)...)
	}
	cfg.Store, cfg.Sender, cfg.Now, cfg.From = k.Store, k.Sender, k.clock.Now, "Acme <hello@acme.test>"
	if cfg.Mode == "" {
		cfg.Mode = fluxly.Live
	}
	engine, err := fluxly.New(cfg)
	if err != nil {
		return err
	}
	if err := k.Engine.Close(); err != nil {
		return err
	}
	k.Engine = engine
	return nil
}

// Sent returns the names of the mails that went to a person, in order.
func (k *Kit) Sent(id string) []string {
	k.t.Helper()
	k.Settle()
	var out []string
	for _, s := range k.sends(id) {
		if s.Status == fluxly.SendAccepted {
			out = append(out, s.Email)
		}
	}
	return out
}

// sends are the rows of the send log for a person, in the order in which they
// were settled.
func (k *Kit) sends(id string) []*fluxly.SendRecord {
	k.t.Helper()
	p, err := k.Engine.Profile(k.t.Context(), id)
	if errors.Is(err, fluxly.ErrNotFound) {
		return nil
	}
	if err != nil {
		k.t.Fatal(err)
	}
	rows, err := k.Engine.Sends(k.t.Context(), fluxly.SendQuery{ProfileID: p.ID})
	if err != nil {
		k.t.Fatal(err)
	}
	return rows
}

// WantSent fails the test unless exactly these mails went to the person, in
// this order. Mails of several automations that were queued at the same
// instant have no order.
func (k *Kit) WantSent(id string, emails ...string) {
	k.t.Helper()
	got := k.Sent(id)
	same := len(got) == len(emails)
	if same {
		rows := slices.DeleteFunc(k.sends(id), func(s *fluxly.SendRecord) bool { return s.Status != fluxly.SendAccepted })
		for i := 0; i < len(rows) && same; {
			j := i + 1
			for j < len(rows) && rows[j].QueuedAt.Equal(rows[i].QueuedAt) && rows[j].RunID != rows[i].RunID {
				j++
			}
			a, b := slices.Clone(got[i:j]), slices.Clone(emails[i:j])
			if j-i > 1 {
				slices.Sort(a)
				slices.Sort(b)
			}
			same = slices.Equal(a, b)
			i = j
		}
	}
	if !same {
		k.t.Errorf("at %s, sent to %s: %s\nwant: %s\nsend log:\n%s", k.clock.Now().Format(time.RFC3339), id,
			list(got), list(emails), k.log(id))
	}
}

// WantNotSent fails the test unless the mail was due for the person, and did
// not go for this reason, such as [fluxly.ReasonConsent].
func (k *Kit) WantNotSent(id, email, reason string) {
	k.t.Helper()
	k.Settle()
	for _, s := range k.sends(id) {
		if s.Email != email {
			continue
		}
		if s.Status != fluxly.SendAccepted && s.Reason == reason {
			return
		}
	}
	k.t.Errorf("at %s, no mail %q to %s was stopped by %q\nsend log:\n%s", k.clock.Now().Format(time.RFC3339), email, id, reason, k.log(id))
}

func list(s []string) string {
	if len(s) == 0 {
		return "nothing"
	}
	return strings.Join(s, ", ")
}

func (k *Kit) log(id string) string {
	var b bytes.Buffer
	for _, s := range k.sends(id) {
		fmt.Fprintf(&b, "  %s %s %s %s %s\n", s.QueuedAt.Format(time.RFC3339), s.Email, s.Status, s.Reason, s.Detail)
	}
	if b.Len() == 0 {
		return "  empty"
	}
	return b.String()
}

// Runs returns the runs of a person, in order of their start.
func (k *Kit) Runs(id string) []*fluxly.Run {
	k.t.Helper()
	p, err := k.Engine.Profile(k.t.Context(), id)
	if errors.Is(err, fluxly.ErrNotFound) {
		return nil
	}
	if err != nil {
		k.t.Fatal(err)
	}
	runs, err := k.Engine.Runs(k.t.Context(), fluxly.RunQuery{ProfileID: p.ID})
	if err != nil {
		k.t.Fatal(err)
	}
	return runs
}

// Context is the test's context.
func (k *Kit) Context() context.Context { return k.t.Context() }
