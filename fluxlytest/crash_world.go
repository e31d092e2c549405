package fluxlytest

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/getfluxly/fluxly"
)

// crashWorld is one schedule: processes, the provider, the clock, the caller.
// One thing happens at a time: an activity of a process runs until it ends or
// stands still, and only then does the world go on.
type crashWorld struct {
	t     testing.TB
	setup *crashSetup
	seed  uint64
	dir   string
	plan  crashPlan
	rnd   *rand.Rand
	calls []CrashCall

	// now is what clocks show, elapsed how long it really took.
	now     time.Time
	elapsed time.Duration
	turn    int
	nextDue time.Time // zero: not known

	memory    fluxly.Store // outlives its processes; nil with an Opener
	exclusive bool
	slots     []*crashProcess
	lives     int
	running   *crashActivity

	provider crashProviderState

	// seq counts commits and answers; history is what took effect, in order.
	seq      int
	history  []crashEffect
	latest   time.Time // of the instants at which something was written
	wentBack bool
	erased   bool
	claimed  map[string]crashClaim
	settled  map[string]*fluxly.SendRecord
	stopped  map[string]*crashWrite
	stored   map[string]bool
	quiet    bool // no more stops
	// intruder is a process in which a call is to come between the last look at
	// a mail and the sender.
	intruder *crashProcess
	// steady: the clock does not jump, the provider refuses nobody, the worker
	// is in time, and the caller repeats at once.
	steady bool

	// ended, when set, is given the store in the end.
	ended func(fluxly.Store)

	failure error
	lines   []crashLine
	stats   crashStats
}

type crashLine struct {
	at     time.Time
	format string
	args   []any
}

// crashEffect is one thing that took effect: a call, the outcome of a mail, or
// that of a step of the program's own.
type crashEffect struct {
	at   time.Time
	call *CrashCall
	mail *fluxly.SendRecord
	// late: between the claim of the mail and its outcome something took effect,
	// or time passed.
	late bool
	log  *fluxly.LogEntry
}

// crashClaim is the last claim of a mail, and how much had taken effect then.
type crashClaim struct {
	at       time.Time
	attempts int
	effects  int
}

func newCrashWorld(t testing.TB, setup *crashSetup, seed uint64, root string, plan crashPlan) *crashWorld {
	t.Helper()
	w := &crashWorld{
		t: t, setup: setup, seed: seed, plan: plan, now: Start, dir: setup.dirOf(t, root, seed),
		rnd:     rand.New(rand.NewPCG(seed, 2)),
		claimed: map[string]crashClaim{}, settled: map[string]*fluxly.SendRecord{}, stopped: map[string]*crashWrite{}, stored: map[string]bool{},
	}
	w.provider = crashProviderState{
		kind: setup.providers[seed%uint64(len(setup.providers))], salt: 14695981039346656037 ^ seed*1099511628211,
		byKey: map[string][]crashTaken{}, lost: map[string]bool{}, forgiven: map[string]int{},
	}
	if w.provider.kind == CrashShowsLate {
		w.provider.delay = time.Duration(1+w.rnd.IntN(10)) * time.Minute
	}
	processes := setup.cfg.Processes
	if processes == 0 {
		processes = 3
	}
	if setup.cfg.Open == nil {
		w.memory = fluxly.NewMemoryStore()
		w.exclusive = processes == 1 || w.rnd.IntN(2) == 0
	} else {
		w.exclusive = setup.exclusive(t, w.dir)
	}
	if w.exclusive {
		processes = 1
	} else if processes > 1 {
		processes = 1 + w.rnd.IntN(processes)
	}
	w.slots = make([]*crashProcess, processes)
	w.calls = setup.calls(rand.New(rand.NewPCG(seed, 3)))
	for i := range w.calls {
		c := &w.calls[i]
		c.At = c.At.Truncate(time.Microsecond)
		if c.Call != nil {
			continue
		}
		if c.Name == "" {
			c.Name = "track " + c.Event.Name + " of " + c.Event.ExternalID + c.Event.AnonymousID + c.Event.UserID
		}
		if c.Event.MessageID == "" {
			c.Event.MessageID = fmt.Sprintf("seed-%d-call-%d", seed, i)
		}
		ev := c.Event
		c.Call = func(ctx context.Context, e *fluxly.Engine) error { return e.Track(ctx, ev) }
	}
	slices.SortStableFunc(w.calls, func(a, b CrashCall) int { return int(min(max(a.At-b.At, -1), 1)) })
	return w
}

func (w *crashWorld) note(format string, args ...any) {
	w.lines = append(w.lines, crashLine{w.now, format, args})
}

// fail keeps the first thing that does not hold.
func (w *crashWorld) fail(format string, args ...any) {
	if w.failure == nil {
		w.failure = fmt.Errorf(format, args...)
		w.note("HERE: %v", w.failure)
	}
}

// advance lets time pass.
func (w *crashWorld) advance(d time.Duration) {
	if d > 0 {
		w.now = w.now.Add(d)
		w.elapsed += d
	}
}

// moment is a time by which no two things happen at one instant by accident.
func (w *crashWorld) moment() time.Duration {
	return time.Duration(1+w.rnd.IntN(900_000)) * time.Microsecond
}

// base is the store of a process without its places.
func (w *crashWorld) base(p *crashProcess) fluxly.Store {
	if w.memory != nil {
		return w.memory
	}
	return p.store
}

// play runs the schedule to its end and looks at what must hold.
func (w *crashWorld) play(ctx context.Context) error {
	w.stats.Schedules++
	defer w.tidy()
	pending := make([]*crashPending, 0, len(w.calls)+8)
	next := 0
	end := Start.Add(time.Duration(w.setup.days) * 24 * time.Hour)
	for w.failure == nil {
		w.turn++
		if w.turn > 100_000 {
			w.fail("the schedule does not end: after %d turns it is %s", w.turn, w.now)
			break
		}
		w.thaw()
		if p := w.intruder; p != nil {
			w.intruder = nil
			pending = w.intrude(ctx, p, pending)
			continue
		}
		// What the caller repeats.
		if i := slices.IndexFunc(pending, func(c *crashPending) bool { return c.due <= w.turn }); i >= 0 && (w.steady || w.rnd.IntN(2) == 0) {
			c := pending[i]
			if p := w.usable(ctx); p != nil {
				pending = slices.Delete(pending, i, i+1)
				w.advance(w.moment())
				pending = w.makeCall(ctx, p, c, pending)
			}
			continue
		}
		due, known := w.nextDue, !w.nextDue.IsZero()
		var callAt time.Time
		if next < len(w.calls) {
			callAt = Start.Add(w.calls[next].At)
		}
		// The worker may be late: what is due then comes after the next call.
		lazy := !callAt.IsZero() && !w.steady && w.rnd.IntN(6) == 0
		switch {
		case !lazy && (!known || callAt.IsZero() && !due.After(end) || !callAt.IsZero() && !due.After(callAt)):
			p := w.usable(ctx)
			if p == nil || p.worker != nil {
				w.advance(w.moment())
				continue
			}
			if known {
				w.advance(due.Sub(w.now))
			}
			w.work(ctx, p)
		case !callAt.IsZero():
			w.advance(callAt.Sub(w.now))
			w.advance(w.moment())
			w.jump()
			p := w.usable(ctx)
			if p == nil {
				continue
			}
			c := &crashPending{call: &w.calls[next], no: next}
			next++
			pending = w.makeCall(ctx, p, c, pending)
		case len(pending) > 0:
			w.advance(w.moment())
		default:
			if w.now.Before(end) {
				w.advance(end.Sub(w.now))
			}
			if w.failure == nil {
				w.finish(ctx)
			}
			return w.failure
		}
	}
	return w.failure
}

// jump sets the clock, now and then. It goes back only while nobody stands
// still: a virtual clock has no monotonic part, by which an engine would see
// how long it was frozen.
func (w *crashWorld) jump() {
	if w.steady {
		return
	}
	switch w.rnd.IntN(60) {
	case 0, 1:
		d := time.Duration(1+w.rnd.IntN(600)) * time.Minute
		w.advance(d)
		w.note("the clock jumps forwards by %s", d)
	case 2:
		for _, p := range w.slots {
			if p != nil && (p.worker != nil || p.caller != nil) {
				return
			}
		}
		d := time.Duration(1+w.rnd.IntN(59)) * time.Minute
		w.now = w.now.Add(-d)
		w.nextDue = time.Time{}
		w.note("the clock is set back by %s", d)
	}
}

// usable is a process that can be called, started if need be; nil when there
// is none at present.
func (w *crashWorld) usable(ctx context.Context) *crashProcess {
	for range 8 {
		i := w.rnd.IntN(len(w.slots))
		p := w.slots[i]
		switch {
		case p == nil || p.dead && p.worker == nil && p.caller == nil:
			if p = w.begin(ctx, i); p == nil {
				return nil
			}
			return p
		case !p.frozen && !p.dead && p.caller == nil:
			return p
		}
	}
	return nil
}

// begin starts a process.
func (w *crashWorld) begin(ctx context.Context, slot int) *crashProcess {
	w.bury(w.slots[slot])
	w.lives++
	w.stats.Restarts++
	p := &crashProcess{w: w, name: fmt.Sprintf("process %d (start %d)", slot+1, w.lives), exclusive: w.exclusive}
	w.slots[slot] = p
	if w.memory != nil {
		p.store = w.memory
	} else {
		p.store = w.setup.cfg.Open(w.t, w.dir)
	}
	w.note("%s starts", p.name)
	cfg := w.setup.engine
	cfg.Store, cfg.Sender, cfg.Now, cfg.Funcs = &crashStore{Store: p.store, p: p}, crashSender{p}, p.now, p.funcs(cfg.Funcs)
	switch w.provider.kind {
	case CrashHold, CrashAsked, CrashShowsLate:
		cfg.Unknown = fluxly.Hold
	case CrashCountAsSent:
		cfg.Unknown = fluxly.CountAsSent
	case CrashSendAgain:
		cfg.Unknown = fluxly.SendAgain
	}
	a := p.start("start", nil, func() (err error) {
		p.engine, err = fluxly.New(cfg)
		return err
	})
	w.after(p, a)
	if p.dead || p.frozen || w.failure != nil {
		return nil
	}
	return p
}

// after looks at an activity that has ended, or stands still.
func (w *crashWorld) after(p *crashProcess, a *crashActivity) {
	if !a.ended {
		return
	}
	if p.caller == a {
		p.caller = nil
	} else {
		p.worker = nil
	}
	if p.worker == nil && p.caller == nil {
		p.frozen = false
	}
	if a.err != nil && !p.dead && a.call == nil {
		w.fail("%s: %s: %v", p.name, a.name, a.err)
	}
	if p.dead {
		w.nextDue = time.Time{}
		if !w.quiet {
			w.check(p)
		}
	}
}

// work lets the worker of a process do what is due.
func (w *crashWorld) work(ctx context.Context, p *crashProcess) {
	w.nextDue = time.Time{}
	var next time.Time
	a := p.start("RunDue", nil, func() (err error) {
		next, err = p.engine.RunDue(ctx)
		return err
	})
	w.after(p, a)
	if a.ended && !p.dead {
		w.due(next)
		w.settleHeld(ctx, p)
	}
}

// due notes when the next work is due.
func (w *crashWorld) due(next time.Time) {
	if next.IsZero() {
		next = w.now.AddDate(100, 0, 0)
	}
	w.nextDue = next
}

// pause makes an activity stand still. Most often the whole process is frozen,
// and time passes; else other calls of the same process come in between.
func (w *crashWorld) pause(a *crashActivity, place crashPlace, what string) {
	a.place = place
	p := a.p
	w.stats.Pauses++
	p.freezes++
	if place.free() && a == p.worker && p.engine != nil && w.rnd.IntN(3) == 0 {
		a.until = w.turn + 1 + w.rnd.IntN(4)
		w.note("%s %s waits %s%s, while it is called", p.name, a.name, placeNames[place], what)
		if place == placeLooked || w.rnd.IntN(3) == 0 {
			a.until++
			w.intruder = p
		}
		return
	}
	p.frozen = true
	a.until = w.turn + 1 + w.rnd.IntN(8)
	w.note("%s is frozen %s%s", p.name, placeNames[place], what)
	if w.rnd.IntN(2) == 0 {
		// Others take over in the turns to come.
		w.advance(freezeTimes[w.rnd.IntN(len(freezeTimes))])
		w.nextDue = time.Time{}
	}
}

// freezeTimes are how long a process may be frozen.
var freezeTimes = []time.Duration{
	0, time.Second, 20 * time.Second, 50 * time.Second, 70 * time.Second, 100 * time.Second, 2 * time.Minute,
	3 * time.Minute, 15 * time.Minute, 5 * time.Hour, 2 * 24 * time.Hour,
}

// thaw lets processes go on whose time has come.
func (w *crashWorld) thaw() {
	for _, p := range w.slots {
		if p == nil || w.failure != nil {
			continue
		}
		for _, a := range []*crashActivity{p.caller, p.worker} {
			if a == nil || a.until > w.turn && !w.quiet {
				continue
			}
			if a == p.worker && p.caller != nil {
				continue // what has begun a commit goes first
			}
			if !p.dead && p.frozen && !w.quiet {
				if w.rnd.IntN(2) == 0 {
					w.advance(freezeTimes[w.rnd.IntN(len(freezeTimes))])
				}
				w.nextDue = time.Time{}
				if w.rnd.IntN(5) == 0 {
					p.stop("while it is frozen")
				}
			}
			w.advance(w.moment())
			if !p.dead {
				w.note("%s goes on with %s %s", p.name, a.name, placeNames[a.place])
			}
			if a == p.caller || p.caller == nil {
				p.frozen = false
			}
			a.resume()
			w.after(p, a)
			if a.ended && a.call != nil && a.call.call != nil && !p.dead {
				w.answered(p, a)
			}
			w.nextDue = time.Time{}
		}
	}
}

// committed notes what a transaction that is kept has done.
func (w *crashWorld) committed(p *crashProcess, tx *crashTx) {
	w.seq++
	at := p.last
	if tx.wrote {
		if at.Before(w.latest) {
			w.wentBack = true
		}
		w.latest = at
	}
	// A call that is made again after an erasure makes the person anew, with
	// the same names.
	for _, key := range tx.erasedMails {
		delete(w.settled, key)
		w.provider.forgiven[key]++
	}
	for _, run := range tx.erasedRuns {
		maps.DeleteFunc(w.stored, func(k string, _ bool) bool { return strings.HasPrefix(k, run+"\x00") })
	}
	w.erased = w.erased || tx.erased > 0
	a := w.running
	a.committed = w.elapsed
	if tx.wrote && a.call != nil && a.call.call != nil && (tx.events == 0 || tx.fresh > 0) {
		w.history = append(w.history, crashEffect{at: at, call: a.call.call})
	}
	for _, m := range tx.sends {
		switch m.Status {
		case fluxly.SendQueued:
			continue
		case fluxly.SendSending:
			if c, ok := w.claimed[m.Key]; !ok || c.attempts != m.Attempts || !c.at.Equal(m.ClaimedAt) {
				w.claimed[m.Key] = crashClaim{m.ClaimedAt, m.Attempts, len(w.history)}
			}
			continue
		case fluxly.SendUnknown:
			if w.provider.kind != CrashCountAsSent {
				continue
			}
		case fluxly.SendAccepted, fluxly.SendRefused, fluxly.SendSkipped:
		}
		if w.settled[m.Key] != nil {
			w.fail("the outcome of the mail %s is stored a second time by %s: %s, then %s", m.Key, p.name, w.settled[m.Key].Status, m.Status)
		}
		if not := m.Status == fluxly.SendRefused || m.Status == fluxly.SendSkipped; not &&
			len(w.provider.byKey[m.Key]) > w.provider.forgiven[m.Key] && !w.mayComeAgain(m.Key) {
			w.fail("%s stores that the mail %s is %s (%s), and the provider has it", p.name, m.Key, m.Status, m.Reason)
		}
		c, ok := w.claimed[m.Key]
		late := ok && (c.effects != len(w.history) || !c.at.Equal(m.SettledAt))
		w.settled[m.Key] = m
		w.note("%s: the mail %s is %s %s", p.name, m.Key, m.Status, m.Reason)
		w.history = append(w.history, crashEffect{at: at, mail: m, late: late})
	}
	for i := range tx.log {
		l := &tx.log[i]
		if l.Detail["stored"] == true {
			continue
		}
		w.history = append(w.history, crashEffect{at: at, log: l})
	}
	for _, r := range tx.results {
		w.stored[r] = true
	}
	for _, id := range tx.profiles {
		w.stopped["profile\x00"+id] = &crashWrite{seq: w.seq, by: p}
	}
	for _, s := range tx.suppressions {
		w.stopped["address\x00"+s] = &crashWrite{seq: w.seq, by: p}
	}
}

// bury closes what a dead process had open.
func (w *crashWorld) bury(p *crashProcess) {
	if p == nil || w.memory != nil || p.store == nil {
		return
	}
	if err := p.store.Close(); err != nil {
		w.fail("%s: close the store: %v", p.name, err)
	}
	p.store = nil
}

// tidy ends everything that still stands.
func (w *crashWorld) tidy() {
	for _, p := range w.slots {
		if p == nil {
			continue
		}
		p.dead = true
		for _, a := range []*crashActivity{p.caller, p.worker} {
			for a != nil && !a.ended {
				a.resume()
			}
		}
		w.bury(p)
	}
	if w.memory != nil {
		_ = w.memory.Close()
	}
}
