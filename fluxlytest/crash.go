package fluxlytest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
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

// CheckInvariants looks at everything a store holds and returns an error for
// the first thing that cannot be: a live run without exactly one pending
// action, one whose action does not agree with its mail or timer, an ended run
// that still waits, a settled mail that is still due, a log with a gap.
func CheckInvariants(ctx context.Context, store fluxly.Store) error {
	return store.View(ctx, func(tx fluxly.Tx) error {
		runs, err := tx.Runs(ctx, fluxly.RunQuery{})
		if err != nil {
			return err
		}
		for _, r := range runs {
			if err := checkRun(ctx, tx, r); err != nil {
				return fmt.Errorf("run %s of %s at step %q: %w", r.ID, r.Automation, r.Step, err)
			}
		}
		sends, err := tx.Sends(ctx, fluxly.SendQuery{})
		if err != nil {
			return err
		}
		for _, m := range sends {
			due := m.Status == fluxly.SendQueued || m.Status == fluxly.SendSending
			if due == m.DueAt.IsZero() {
				return fmt.Errorf("mail %s is %s and due at %s", m.Key, m.Status, m.DueAt)
			}
			if due != m.SettledAt.IsZero() {
				return fmt.Errorf("mail %s is %s and settled at %s", m.Key, m.Status, m.SettledAt)
			}
			if (m.Status == fluxly.SendSkipped || m.Status == fluxly.SendRefused || m.Status == fluxly.SendUnknown) && m.Reason == "" {
				return fmt.Errorf("mail %s is %s without a reason", m.Key, m.Status)
			}
		}
		return nil
	})
}

func checkRun(ctx context.Context, tx fluxly.Tx, r *fluxly.Run) error {
	log, err := tx.Log(ctx, r.ID)
	if err != nil {
		return err
	}
	if len(log) != r.LogLen {
		return fmt.Errorf("%d log entries, want %d", len(log), r.LogLen)
	}
	for i, l := range log {
		if l.Seq != i {
			return fmt.Errorf("log entry %d has the number %d", i, l.Seq)
		}
	}
	if r.Status != fluxly.RunLive {
		switch {
		case r.Pending != "" || !r.WakeAt.IsZero() || r.SendKey != "" || len(r.Waits) > 0:
			return errors.New("has ended and still waits")
		case r.EndedAt.IsZero() || r.Reason == "":
			return errors.New("has ended without a time or a reason")
		}
		return nil
	}
	switch r.Pending {
	case fluxly.PendingTimer, fluxly.PendingEvent, fluxly.PendingDate, fluxly.PendingCall:
		if r.WakeAt.IsZero() || r.SendKey != "" {
			return fmt.Errorf("waits for a %s without a time, or for a mail too", r.Pending)
		}
	case fluxly.PendingMail:
		if !r.WakeAt.IsZero() || r.SendKey == "" {
			return errors.New("waits for a mail without its key, or has a timer too")
		}
		m, err := tx.Send(ctx, r.SendKey)
		if err != nil {
			return err
		}
		if m == nil || m.RunID != r.ID {
			return fmt.Errorf("waits for mail %s, which is not its own", r.SendKey)
		}
		if m.Status != fluxly.SendQueued && m.Status != fluxly.SendSending && m.Status != fluxly.SendUnknown {
			return fmt.Errorf("waits for mail %s, which is %s", r.SendKey, m.Status)
		}
	default:
		return errors.New("is live and waits for nothing")
	}
	return nil
}

// History runs a random history of n steps on a kit: people who sign up, act,
// change, merge, leave and are erased, while time passes and the provider
// fails now and then. The same seed gives the same history on any store.
func History(k *Kit, seed uint64, n int) error {
	r := rand.New(rand.NewPCG(seed, 1)) //nolint:gosec // a test's own randomness, told by its seed
	k.Sender.Plan(func(m *fluxly.Message) (Outcome, bool) {
		// By the mail and not by the order of calls, which is not fixed.
		h := uint64(seed)
		for i := range len(m.SendKey) {
			h = h*31 + uint64(m.SendKey[i])
		}
		switch h % 17 {
		case 0:
			return Permanent(), true
		case 1:
			return ReplyLost(), len(m.SendKey) > 0
		}
		return Outcome{}, false
	})
	ctx := k.Context()
	person := func() (ext, anon string) {
		id := r.IntN(12)
		switch r.IntN(4) {
		case 0:
			return "", fmt.Sprintf("anon%d", r.IntN(12))
		case 1:
			return fmt.Sprintf("user%d", id), fmt.Sprintf("anon%d", r.IntN(12))
		}
		return fmt.Sprintf("user%d", id), ""
	}
	names := []string{"signed_up", "project_created", "logged_in", "cancelled", "bought"}
	for i := range n {
		ext, anon := person()
		id := fmt.Sprintf("h%d-%d", seed, i)
		var err error
		switch r.IntN(20) {
		case 0:
			err = k.Engine.Alias(ctx, fluxly.Alias{UserID: fmt.Sprintf("user%d", r.IntN(12)), AnonymousID: fmt.Sprintf("anon%d", r.IntN(12))})
		case 1:
			err = k.Engine.Erase(ctx, fluxly.Erasure{ID: ext + anon, Reason: fluxly.GDPRRequest})
		case 2:
			err = k.Engine.Unsubscribe(ctx, fmt.Sprintf("user%d", r.IntN(12)), fluxly.Unsubscription{Source: "history"})
		case 3:
			err = k.Engine.Resubscribe(ctx, fmt.Sprintf("user%d", r.IntN(12)), "")
		case 4, 5, 6:
			k.Advance(time.Duration(r.IntN(72)) * time.Hour)
		case 7, 8:
			traits := fluxly.Traits{"email": fmt.Sprintf("p%d@example.test", r.IntN(12)), "plan": []any{"free", "pro", nil}[r.IntN(3)]}
			if r.IntN(3) == 0 {
				traits["trial_ends_at"] = k.Now().Add(time.Duration(r.IntN(20)-4) * fluxly.Day)
			}
			err = k.Engine.Identify(ctx, fluxly.Identity{ExternalID: ext, AnonymousID: anon, Traits: traits, MessageID: id})
		case 9:
			_, err = k.Engine.Enroll(ctx, fluxly.Enrollment{Automation: "direct", ExternalID: ext, AnonymousID: anon, Key: strconv.Itoa(r.IntN(3)), MessageID: id})
		default:
			at := k.Now()
			if r.IntN(5) == 0 {
				at = at.Add(-time.Duration(r.IntN(200)) * time.Hour)
			}
			err = k.Engine.Track(ctx, fluxly.Event{
				Name: names[r.IntN(len(names))], ExternalID: ext, AnonymousID: anon, MessageID: id, Timestamp: at,
				Properties: fluxly.Properties{"n": r.IntN(5), "cart_id": strconv.Itoa(r.IntN(4))},
			})
		}
		if err != nil && !errors.Is(err, fluxly.ErrNotFound) && !errors.Is(err, fluxly.ErrInvalid) {
			return fmt.Errorf("step %d of seed %d: %w", i, seed, err)
		}
		if i%50 == 0 {
			if err := CheckInvariants(ctx, k.Store); err != nil {
				return fmt.Errorf("step %d of seed %d: %w", i, seed, err)
			}
		}
	}
	return CheckInvariants(ctx, k.Store)
}

// HistoryConfig is a configuration that uses every kind of step, trigger and
// segment, for [History].
func HistoryConfig(store fluxly.Store) fluxly.Config {
	automations := []fluxly.Automation{
		{
			Name: "onboarding", Trigger: fluxly.On("signed_up", fluxly.Prop("n").AtLeast(1)), Exit: fluxly.On("cancelled"), ReEntry: fluxly.OncePer(10 * fluxly.Day),
			Steps: fluxly.Steps{
				fluxly.Send("welcome"),
				fluxly.WaitFor("project_created", 3*fluxly.Day, fluxly.Prop("n").AtLeast(2)).SinceEntry().Then(fluxly.Send("bravo")).Else(fluxly.Send("nudge")),
				fluxly.WaitUntil(fluxly.Attr("trial_ends_at"), -2*fluxly.Day).IfMissing(fluxly.SkipWait),
				fluxly.Branch(
					fluxly.When(fluxly.Did("logged_in").AtLeast(3).Within(7*fluxly.Day), fluxly.SetTraits(fluxly.Traits{"stage": 2}), fluxly.Send("busy")),
					fluxly.When(fluxly.InSegment("pros"), fluxly.Send("pro")),
				).Else(fluxly.Do("score"), fluxly.Send("quiet")),
			},
		},
		{Name: "cart", Trigger: fluxly.On("bought"), Key: "cart_id", ReEntry: fluxly.Always(), Steps: fluxly.Steps{
			fluxly.WaitFor("project_created", fluxly.Day).Matching("cart_id").Then(fluxly.Send("thanks")), fluxly.Wait(time.Hour), fluxly.Send("receipt"),
		}},
		{Name: "left", Trigger: fluxly.OnLeaveSegment("active"), ReEntry: fluxly.Always(), Steps: fluxly.Steps{fluxly.Send("miss-you")}},
		{Name: "upgraded", Trigger: fluxly.OnChange("plan", fluxly.Prop("new").Is("pro")), Exit: fluxly.OnChange("plan", fluxly.Attr("plan").IsNot("pro")), ReEntry: fluxly.Always(), Steps: fluxly.Steps{fluxly.Wait(fluxly.Day), fluxly.Send("upgraded")}},
		{Name: "direct", ReEntry: fluxly.Always(), Steps: fluxly.Steps{fluxly.Send("direct"), fluxly.Wait(5 * fluxly.Day)}},
	}
	return fluxly.Config{
		Store: store, Automations: automations, Emails: Emails(EmailNames(automations...)...), KeepBodies: true,
		Segments: []fluxly.Segment{
			{Name: "active", Where: fluxly.Did("logged_in").AtLeast(1).Within(5 * fluxly.Day)},
			{Name: "pros", Where: fluxly.All(fluxly.Attr("plan").Is("pro"), fluxly.Not(fluxly.InSegment("active")))},
		},
		Funcs: map[string]fluxly.StepFunc{"score": func(_ context.Context, in fluxly.StepInput) (any, error) {
			if len(in.Key)%3 == 0 && in.Attempt == 1 {
				return nil, errors.New("not yet")
			}
			return map[string]any{"score": 7}, nil
		}},
	}
}

// Dump is everything a store holds, as text, for comparison with another. What
// is made at random (erasure ids, jittered times of retries) is left out.
func Dump(ctx context.Context, store fluxly.Store) (string, error) {
	var b strings.Builder
	err := store.View(ctx, func(tx fluxly.Tx) error {
		for after := ""; ; {
			ps, err := tx.Profiles(ctx, after, 100)
			if err != nil {
				return err
			}
			for _, p := range ps {
				after = p.ID
				fmt.Fprintf(&b, "profile %+v\n", *p)
				evs, err := tx.Events(ctx, p.ID, fluxly.EventQuery{})
				if err != nil {
					return err
				}
				for _, e := range evs {
					fmt.Fprintf(&b, "  event %+v\n", *e)
				}
				ms, err := tx.Memberships(ctx, p.ID)
				if err != nil {
					return err
				}
				for _, m := range ms {
					fmt.Fprintf(&b, "  member %+v\n", m)
				}
			}
			if len(ps) < 100 {
				break
			}
		}
		runs, err := tx.Runs(ctx, fluxly.RunQuery{})
		if err != nil {
			return err
		}
		for _, r := range runs {
			c := *r
			if c.Pending == fluxly.PendingCall {
				c.WakeAt = time.Time{}
			}
			fmt.Fprintf(&b, "run %+v\n", c)
			log, err := tx.Log(ctx, r.ID)
			if err != nil {
				return err
			}
			for _, l := range log {
				fmt.Fprintf(&b, "  log %+v\n", l)
			}
		}
		sends, err := tx.Sends(ctx, fluxly.SendQuery{})
		if err != nil {
			return err
		}
		for _, m := range sends {
			c := *m
			c.Owner, c.Receipt.ID, c.Detail = "", "", ""
			fmt.Fprintf(&b, "send %+v\n", c)
		}
		sup, err := tx.Suppressions(ctx)
		if err != nil {
			return err
		}
		for _, s := range sup {
			fmt.Fprintf(&b, "suppression %+v\n", *s)
		}
		return nil
	})
	return b.String(), err
}
