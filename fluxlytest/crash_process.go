package fluxlytest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/getfluxly/fluxly"
)

// crashPlace is a place at which a process may be stopped or frozen.
type crashPlace int

const (
	placeCommit    crashPlace = iota // before a commit, which may be lost or kept
	placeCommitted                   // after a commit, before its caller knows
	placeRead                        // before a read
	placeHasRead                     // after a read
	placeClaimed                     // after a commit that claims a mail or stores its outcome
	placeLooked                      // after the last look at a mail that is to be handed over
	placeSend                        // in the sender, before the provider has the mail
	placeTaken                       // in the sender, when the provider has taken the mail
	placeReplied                     // when the provider has replied
	placeAsk                         // before the provider is asked for a mail
	placeAsked                       // when it has answered
	placeFunc                        // before a step of the program's own
	placeFuncDone                    // after it
	places
)

var placeNames = [places]string{
	"before a commit", "after a commit", "before a read", "after a read",
	"after a commit about a mail", "after the last look at a mail", "before the provider has the mail",
	"when the provider has taken the mail", "when the provider has replied", "before the provider is asked", "when the provider has answered",
	"before the program's own step", "after the program's own step",
}

// free reports whether the engine can be called while its worker stands there.
func (p crashPlace) free() bool { return p != placeCommit && p != placeCommitted && p != placeClaimed }

// crashFate is what happens at a place.
type crashFate int

const (
	fateNone crashFate = iota
	fateStop           // at a commit: it is lost
	fateStopKept
	fatePause
	fateTemporary // the provider refuses for now
	fateLost      // the reply is lost, whether the mail was taken or not
)

// crashPlan decides what happens at each place.
type crashPlan interface {
	at(place crashPlace) crashFate
}

// crashProcess is one life of one process.
type crashProcess struct {
	w         *crashWorld
	name      string
	store     fluxly.Store
	exclusive bool
	engine    *fluxly.Engine
	dead      bool
	frozen    bool
	freezes   int
	// last is the latest time that the engine has seen, see now.
	last time.Time
	// worker and caller are what the process does at present; nil when nothing.
	worker, caller *crashActivity
}

// crashActivity is a call of the engine, in a goroutine that stands still while
// the world goes on.
type crashActivity struct {
	p     *crashProcess
	name  string
	call  *crashPending // the call that it makes, if any
	stops chan bool     // it stands still (true), or has ended
	goOn  chan struct{}
	err   error
	place crashPlace
	until int // the turn at which it goes on
	ended bool
	// looked is where in the world's sequence it last began to read.
	looked int
}

// now is the clock that the engine is given. last follows what Config.Now says
// of a clock that goes back.
func (p *crashProcess) now() time.Time {
	t := p.w.now
	if !t.Before(p.last) || p.last.Sub(t) > time.Hour {
		p.last = t
	}
	return t
}

// stop ends the process as a kill does.
func (p *crashProcess) stop(format string, args ...any) {
	p.dead = true
	p.w.stats.Stops++
	p.w.note(p.name+" is stopped "+format, args...)
}

// at is called at each place by whatever the process does there. When it
// returns the process may be dead.
func (p *crashProcess) at(place crashPlace, what string) crashFate {
	if p.dead {
		return fateStop
	}
	w := p.w
	w.stats.Points++
	fate := w.plan.at(place)
	switch fate {
	case fatePause:
		a := w.running
		w.pause(a, place, what)
		a.stops <- true
		<-a.goOn
		if p.dead {
			return fateStop
		}
		return fateNone
	case fateStop:
		if place != placeCommit {
			p.stop("%s%s", placeNames[place], what)
		}
	case fateNone, fateStopKept, fateTemporary, fateLost:
	}
	return fate
}

// start begins an activity, up to where it stands still or ends.
func (p *crashProcess) start(name string, call *crashPending, fn func() error) *crashActivity {
	a := &crashActivity{p: p, name: name, call: call, stops: make(chan bool), goOn: make(chan struct{})}
	p.w.running = a
	go func() {
		a.err = errors.New("it ended its goroutine")
		defer close(a.stops)
		a.err = fn()
	}()
	a.wait()
	return a
}

// resume lets a standing activity go on.
func (a *crashActivity) resume() {
	a.p.w.running = a
	a.goOn <- struct{}{}
	a.wait()
}

func (a *crashActivity) wait() {
	a.ended = !<-a.stops
	a.p.w.running = nil
}

// crashStore is a store as one process has it.
type crashStore struct {
	fluxly.Store
	p *crashProcess
}

func (s *crashStore) Exclusive() bool { return s.p.exclusive }

func (s *crashStore) Update(ctx context.Context, fn func(fluxly.Tx) error) error {
	p := s.p
	fate := p.at(placeCommit, "")
	if p.dead {
		return ErrCrashed
	}
	p.w.running.looked = p.w.seq
	var tx *crashTx
	err := s.Store.Update(ctx, func(inner fluxly.Tx) error {
		tx = &crashTx{Tx: inner, w: p.w}
		if err := fn(tx); err != nil {
			return err
		}
		if fate == fateStop {
			return ErrCrashed
		}
		return nil
	})
	if fate == fateStop {
		p.stop("at a commit, which is lost")
		return errors.Join(ErrCrashed, err)
	}
	if err == nil {
		p.w.committed(p, tx)
	}
	if fate == fateStopKept {
		p.stop("at a commit, which is kept")
		return ErrCrashed
	}
	if err != nil {
		return err
	}
	place := placeCommitted
	if len(tx.sends) > 0 {
		place = placeClaimed
	}
	if p.at(place, ""); p.dead {
		return ErrCrashed
	}
	return nil
}

func (s *crashStore) View(ctx context.Context, fn func(fluxly.Tx) error) error {
	p := s.p
	if p.w.running == nil { // the schedule itself looks
		return s.Store.View(ctx, fn)
	}
	if p.at(placeRead, ""); p.dead {
		return ErrCrashed
	}
	p.w.running.looked = p.w.seq
	place := placeHasRead
	err := s.Store.View(ctx, func(inner fluxly.Tx) error {
		tx := &crashTx{Tx: inner, w: p.w}
		err := fn(tx)
		if tx.looked {
			place = placeLooked
		}
		return err
	})
	if err != nil {
		return err
	}
	if p.at(place, ""); p.dead {
		return ErrCrashed
	}
	return nil
}

// crashTx notes what a transaction does.
type crashTx struct {
	fluxly.Tx
	w *crashWorld

	wrote, looked bool
	events, fresh int
	sends         []*fluxly.SendRecord
	log           []fluxly.LogEntry
	profiles      []string
	suppressions  []string
	results       []string
	erased        int
	erasedMails   []string
	erasedRuns    []string
}

// Due hands out mails and calls one by one, so that one thing happens at a
// time.
func (t *crashTx) Due(ctx context.Context, kind fluxly.WorkKind, now time.Time, limit int) ([]fluxly.Work, time.Time, error) {
	if kind == fluxly.WorkSend || kind == fluxly.WorkCall {
		limit = min(limit, 1)
	}
	return t.Tx.Due(ctx, kind, now, limit)
}

func (t *crashTx) PutEvent(ctx context.Context, e *fluxly.StoredEvent) ([32]byte, bool, error) {
	digest, duplicate, err := t.Tx.PutEvent(ctx, e)
	t.events++
	if err == nil && !duplicate {
		t.fresh++
		t.wrote = true
	}
	return digest, duplicate, err
}

func (t *crashTx) PutProfile(ctx context.Context, p *fluxly.Profile) error {
	t.wrote = true
	t.profiles = append(t.profiles, p.ID)
	return t.Tx.PutProfile(ctx, p)
}

func (t *crashTx) EraseProfile(ctx context.Context, id string, addresses []string) (int, error) {
	t.wrote = true
	t.erased++
	mails, err := t.Tx.Sends(ctx, fluxly.SendQuery{ProfileID: id})
	if err != nil {
		return 0, err
	}
	for _, m := range mails {
		t.erasedMails = append(t.erasedMails, m.Key)
	}
	runs, err := t.Tx.Runs(ctx, fluxly.RunQuery{ProfileID: id})
	if err != nil {
		return 0, err
	}
	for _, r := range runs {
		t.erasedRuns = append(t.erasedRuns, r.ID)
	}
	return t.Tx.EraseProfile(ctx, id, addresses)
}

func (t *crashTx) PutMembership(ctx context.Context, m *fluxly.Membership) error {
	t.wrote = true
	return t.Tx.PutMembership(ctx, m)
}

func (t *crashTx) PutRun(ctx context.Context, r *fluxly.Run) error {
	t.wrote = true
	for step := range r.Results {
		t.results = append(t.results, r.ID+"\x00"+step)
	}
	return t.Tx.PutRun(ctx, r)
}

func (t *crashTx) AppendLog(ctx context.Context, entries []fluxly.LogEntry) error {
	for _, l := range entries {
		if l.Code == "called" || l.Code == "call_failed" {
			t.log = append(t.log, l)
		}
	}
	return t.Tx.AppendLog(ctx, entries)
}

func (t *crashTx) Send(ctx context.Context, key string) (*fluxly.SendRecord, error) {
	t.looked = true
	return t.Tx.Send(ctx, key)
}

func (t *crashTx) PutSend(ctx context.Context, m *fluxly.SendRecord) error {
	t.wrote = true
	c := *m
	t.sends = append(t.sends, &c)
	return t.Tx.PutSend(ctx, m)
}

func (t *crashTx) PutSuppression(ctx context.Context, s *fluxly.Suppression) error {
	t.wrote = true
	t.suppressions = append(t.suppressions, s.Address+"\x00"+s.Stream)
	return t.Tx.PutSuppression(ctx, s)
}

func (t *crashTx) DeleteSuppression(ctx context.Context, address, stream string) error {
	t.wrote = true
	return t.Tx.DeleteSuppression(ctx, address, stream)
}

func (t *crashTx) MergeProfile(ctx context.Context, from, into string) error {
	t.wrote = true
	return t.Tx.MergeProfile(ctx, from, into)
}

// funcs are the program's own steps in one process.
func (p *crashProcess) funcs(own map[string]fluxly.StepFunc) map[string]fluxly.StepFunc {
	out := make(map[string]fluxly.StepFunc, len(own))
	for name, fn := range own {
		out[name] = func(ctx context.Context, in fluxly.StepInput) (any, error) {
			w := p.w
			what := ": " + name
			began := w.elapsed
			if p.at(placeFunc, what); p.dead {
				return nil, ErrCrashed
			}
			if w.elapsed-began > w.setup.engine.CallTimeout {
				return nil, context.DeadlineExceeded // its context has ended
			}
			if w.stored[in.Run.ID+"\x00"+in.Run.Step] {
				w.fail("%s calls the step %s of run %s again, whose result is stored", p.name, in.Run.Step, in.Run.ID)
			}
			v, err := fn(ctx, in)
			if p.at(placeFuncDone, what); p.dead {
				return nil, ErrCrashed
			}
			return v, err
		}
	}
	return out
}

// crashTaken is a mail that the provider has.
type crashTaken struct {
	message fluxly.Message
	receipt fluxly.Receipt
	at      time.Duration
	// by is who handed it over, and how often that process had been frozen.
	by     *crashProcess
	frozen int
}

// crashProviderState is the provider, which outlives all processes.
type crashProviderState struct {
	kind  CrashProvider
	delay time.Duration
	salt  uint64
	byKey map[string][]crashTaken
	keys  []string
	// lost are the keys of which a reply was lost.
	lost map[string]bool
	// forgiven counts the erasures of the person of a key.
	forgiven map[string]int
}

// crashSender is the provider's client in one process.
type crashSender struct{ p *crashProcess }

var _ fluxly.LookupSender = crashSender{}

func (s crashSender) MessageStream() string { return "broadcast" }

// LookupDelay is how long the provider hides a mail that it took.
func (s crashSender) LookupDelay() time.Duration { return s.p.w.provider.delay }

func (s crashSender) Send(ctx context.Context, m *fluxly.Message) (fluxly.Receipt, error) {
	p, w := s.p, s.p.w
	if p.dead {
		return fluxly.Receipt{}, lostReply()
	}
	w.checkStopped(ctx, p, m)
	began := w.elapsed
	late := func() bool { return w.elapsed-began > w.setup.engine.SendTimeout }
	what := " " + m.SendKey + " (" + m.Subject + ")"
	lose := func() (fluxly.Receipt, error) {
		w.provider.lost[m.SendKey] = true
		return fluxly.Receipt{}, lostReply()
	}
	switch p.at(placeSend, what) {
	case fateTemporary:
		w.note(p.name+": the provider refuses%s for now", what)
		return fluxly.Receipt{}, Temporary().Err
	case fateLost:
		w.note(p.name+": the connection is lost before the provider has%s", what)
		return lose()
	case fateNone, fateStop, fateStopKept, fatePause:
	}
	if p.dead || late() {
		return lose()
	}
	h := w.provider.salt
	for i := range len(m.SendKey) {
		h = (h ^ uint64(m.SendKey[i])) * 1099511628211
	}
	if (h>>7)%23 == 0 && !w.steady {
		w.note(p.name+": the provider refuses%s for good", what)
		return fluxly.Receipt{}, Permanent().Err
	}
	receipt := w.take(p, m)
	switch p.at(placeTaken, what) {
	case fateLost:
		w.note(p.name+": the reply for%s is lost", what)
		return lose()
	case fateNone, fateStop, fateStopKept, fatePause, fateTemporary:
	}
	if p.dead || late() {
		return lose()
	}
	if p.at(placeReplied, what); p.dead {
		// The process has the reply, and cannot do anything with it any more.
		w.provider.lost[m.SendKey] = true
	}
	return receipt, nil
}

// Lookup finds a mail that was taken and is shown.
func (s crashSender) Lookup(_ context.Context, key string) (fluxly.Receipt, bool, error) {
	p, w := s.p, s.p.w
	if w.provider.kind != CrashAsked && w.provider.kind != CrashShowsLate {
		return fluxly.Receipt{}, false, fluxly.ErrLookupUnavailable
	}
	switch p.at(placeAsk, " for "+key) {
	case fateTemporary, fateLost:
		w.note(p.name+": the provider cannot be asked for %s now", key)
		return fluxly.Receipt{}, false, errConnectionClosed
	case fateNone, fateStop, fateStopKept, fatePause:
	}
	var found *crashTaken
	for i := range w.provider.byKey[key] {
		if t := &w.provider.byKey[key][i]; found == nil && t.at+w.provider.delay <= w.elapsed {
			found = t
		}
	}
	w.note(p.name+" asks the provider for %s: %v", key, found != nil)
	if p.at(placeAsked, " for "+key); p.dead {
		return fluxly.Receipt{}, false, ErrCrashed
	}
	if found == nil {
		return fluxly.Receipt{}, false, nil
	}
	return found.receipt, true, nil
}

// take is the provider accepting a mail.
func (w *crashWorld) take(p *crashProcess, m *fluxly.Message) fluxly.Receipt {
	w.stats.Mails++
	key := m.SendKey
	before := w.provider.byKey[key]
	switch n := len(before); {
	case n > w.provider.forgiven[key] && !w.mayComeAgain(key):
		w.fail("the provider takes the mail %s (%s) again from %s", key, m.Subject, p.name)
	case w.settled[key] != nil && w.provider.forgiven[key] == 0:
		w.fail("the provider takes the mail %s (%s) from %s, which is %s already", key, m.Subject, p.name, w.settled[key].Status)
	}
	if len(before) == 0 {
		w.provider.keys = append(w.provider.keys, key)
	}
	r := fluxly.Receipt{ID: fmt.Sprintf("taken-%s-%d", key, len(before)), Reply: "accepted", At: w.now}
	w.provider.byKey[key] = append(before, crashTaken{message: *m, receipt: r, at: w.elapsed, by: p, frozen: p.freezes})
	w.note(p.name+": the provider takes %s (%s) to %s", key, m.Subject, m.To)
	return r
}

// mayComeAgain reports whether a mail that the provider has taken may be tried
// again: whoever handed it over has lost the reply, was stopped, or was frozen
// before it could store the outcome, and the provider cannot be asked.
func (w *crashWorld) mayComeAgain(key string) bool {
	if taken := w.provider.byKey[key]; len(taken) > 0 {
		last := taken[len(taken)-1]
		if last.by.dead || last.by.freezes > last.frozen {
			w.provider.lost[key] = true
		}
	}
	return w.provider.kind == CrashSendAgain && w.provider.lost[key]
}

// checkStopped fails when a mail is given to the provider that the engine must
// have known to be stopped.
func (w *crashWorld) checkStopped(ctx context.Context, p *crashProcess, m *fluxly.Message) {
	err := w.base(p).View(ctx, func(tx fluxly.Tx) error {
		row, err := tx.Send(ctx, m.SendKey)
		if err != nil || row == nil {
			return err
		}
		prof, err := tx.Profile(ctx, row.ProfileID)
		if err != nil || prof == nil {
			return err
		}
		if !prof.Subscribed("") && !w.setup.transactional[row.Email] && w.knows(p, w.stopped["profile\x00"+prof.ID]) {
			w.fail("%s gives the mail %s to the provider although the person has unsubscribed", p.name, m.SendKey)
		}
		for _, stream := range []string{"", m.Stream} {
			by := w.stopped["address\x00"+addressOf(m.To)+"\x00"+stream]
			if !w.knows(p, by) {
				continue
			}
			sup, err := tx.Suppression(ctx, addressOf(m.To), stream)
			if err != nil {
				return err
			}
			if sup != nil && sup.Stream == stream {
				w.fail("%s gives the mail %s to the provider although the address is suppressed", p.name, m.SendKey)
			}
		}
		return nil
	})
	if err != nil && !errors.Is(err, fluxly.ErrClosed) {
		w.fail("look at the store: %v", err)
	}
}

// crashWrite is the last write of something: where in the sequence, by whom,
// and whether its caller was answered.
type crashWrite struct {
	seq      int
	by       *crashProcess
	returned bool
}

// knows reports whether a process that gives a mail to the provider must know
// of a write: because it looked after it, or has itself answered its caller.
func (w *crashWorld) knows(p *crashProcess, by *crashWrite) bool {
	return by != nil && (w.running.looked >= by.seq || by.by == p && by.returned)
}
