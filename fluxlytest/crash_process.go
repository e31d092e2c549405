package fluxlytest

import (
	"context"
	"errors"
	"time"

	"github.com/getfluxly/fluxly"
)

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
	// looked is where in the world's sequence it last began to read, committed
	// when it last committed.
	looked    int
	committed time.Duration
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
	if call == nil {
		p.worker = a
	} else {
		p.caller = a
	}
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
			if w.stored[in.Run.ID+"\x00"+in.Run.Step] && began-w.running.committed > 2*w.setup.engine.CallTimeout {
				w.fail("%s calls the step %s of run %s again, whose result is stored", p.name, in.Run.Step, in.Run.ID)
			}
			if p.at(placeFunc, what); p.dead {
				return nil, ErrCrashed
			}
			if w.elapsed-began > w.setup.engine.CallTimeout {
				return nil, context.DeadlineExceeded // its context has ended
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
