package fluxlytest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/getfluxly/fluxly"
)

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
