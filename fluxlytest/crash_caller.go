package fluxlytest

import (
	"context"
	"errors"
	"time"

	"github.com/getfluxly/fluxly"
)

// crashPending is a call that the program has to make.
type crashPending struct {
	call   *CrashCall
	no     int
	tries  int
	answer bool // it was answered before
	due    int  // the turn from which on it is made
}

// settleHeld is the person who looks into the provider's list for mails that
// are held, and says what became of them.
func (w *crashWorld) settleHeld(ctx context.Context, p *crashProcess) {
	if w.provider.kind != CrashHold || !w.quiet && w.rnd.IntN(6) > 0 {
		return
	}
	var held []*fluxly.SendRecord
	err := w.base(p).View(ctx, func(tx fluxly.Tx) (err error) {
		held, err = tx.Sends(ctx, fluxly.SendQuery{Status: fluxly.SendUnknown})
		return err
	})
	if err != nil {
		w.fail("read the held mails: %v", err)
		return
	}
	for _, m := range held {
		if p.dead || p.frozen || w.failure != nil {
			return
		}
		sent := len(w.provider.byKey[m.Key]) > 0
		w.advance(w.moment())
		w.note("%s: somebody settles %s: sent %v", p.name, m.Key, sent)
		w.nextDue = time.Time{}
		a := p.start("Settle", &crashPending{}, func() error { return p.engine.Settle(ctx, m.Key, sent) })
		w.after(p, a)
		if a.ended && a.err != nil && !p.dead && !errors.Is(a.err, fluxly.ErrNotFound) {
			w.fail("settle %s: %v", m.Key, a.err)
		}
	}
}

// makeCall makes a call and puts it among the pending ones again when it was
// not answered, and sometimes when it was.
func (w *crashWorld) makeCall(ctx context.Context, p *crashProcess, c *crashPending, pending []*crashPending) []*crashPending {
	w.nextDue = time.Time{}
	w.stats.Calls++
	c.tries++
	if c.tries > 1 {
		w.stats.Repeats++
	}
	w.note("%s: call %d, try %d: %s", p.name, c.no, c.tries, c.call.Name)
	a := p.start("call", c, func() error { return c.call.Call(ctx, p.engine) })
	w.after(p, a)
	again := &crashPending{call: c.call, no: c.no, tries: c.tries, answer: c.answer, due: w.turn + w.rnd.IntN(6)}
	if w.steady {
		again.due = w.turn
	}
	if !a.ended || p.dead && a.err != nil {
		w.note("call %d is not answered", c.no)
		if a.ended && c.answer {
			return pending
		}
		return append(pending, again)
	}
	w.answered(p, a)
	if !c.answer && w.rnd.IntN(12) == 0 {
		again.answer, again.due = true, w.turn+1+w.rnd.IntN(30)
		return append(pending, again)
	}
	return pending
}

// intrude stops the mail that a process has claimed, at the last moment: by a
// call of the same process or, now and then, of another one.
func (w *crashWorld) intrude(ctx context.Context, p *crashProcess, pending []*crashPending) []*crashPending {
	var person, address string
	err := w.base(p).View(ctx, func(tx fluxly.Tx) error {
		list, err := tx.Sends(ctx, fluxly.SendQuery{Status: fluxly.SendSending})
		if err != nil || len(list) == 0 {
			return err
		}
		prof, err := tx.Profile(ctx, list[w.rnd.IntN(len(list))].ProfileID)
		if prof != nil {
			person, address = prof.ID, addressOf(prof.Email())
		}
		return err
	})
	if err != nil {
		w.fail("look for mails under way: %v", err)
	}
	if w.rnd.IntN(4) == 0 {
		p = w.usable(ctx)
	}
	if person == "" || address == "" || p == nil || p.dead || p.frozen || p.caller != nil {
		return pending
	}
	stop := &CrashCall{Name: "unsubscribe " + person, Call: func(ctx context.Context, e *fluxly.Engine) error {
		return e.Unsubscribe(ctx, person, fluxly.Unsubscription{Source: "schedule"})
	}}
	undo := &CrashCall{Name: "resubscribe " + person, Call: func(ctx context.Context, e *fluxly.Engine) error {
		return e.Resubscribe(ctx, person, "")
	}}
	if w.rnd.IntN(3) == 0 {
		stop = &CrashCall{Name: "suppress " + address, Call: func(ctx context.Context, e *fluxly.Engine) error {
			return e.Suppress(ctx, fluxly.Suppression{Address: address, Reason: "HardBounce"})
		}}
		undo = &CrashCall{Name: "unsuppress " + address, Call: func(ctx context.Context, e *fluxly.Engine) error {
			return e.Unsuppress(ctx, address, "")
		}}
	}
	w.advance(w.moment())
	pending = w.makeCall(ctx, p, &crashPending{call: stop, no: len(w.calls)}, pending)
	return append(pending, &crashPending{call: undo, no: len(w.calls), due: w.turn + 4 + w.rnd.IntN(30)})
}

// answered looks at the answer of a call.
func (w *crashWorld) answered(p *crashProcess, a *crashActivity) {
	w.seq++
	for _, by := range w.stopped {
		if by.by == p {
			by.returned = true
		}
	}
	if a.err != nil && !p.dead && !errors.Is(a.err, fluxly.ErrNotFound) && !errors.Is(a.err, fluxly.ErrInvalid) {
		w.fail("call %d (%s): %v", a.call.no, a.call.call.Name, a.err)
	}
}
