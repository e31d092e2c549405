package fluxly

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/getfluxly/fluxly/internal/mimemail"
)

// The reasons for which a mail does not go. Each mail that was queued and did
// not go has one of them in the send log, or the code of the run's end, such
// as "exit".
const (
	ReasonMode       = "test_mode"
	ReasonDryRun     = "dry_run"
	ReasonConsent    = "consent"
	ReasonTopic      = "topic"
	ReasonSuppressed = "suppressed"
	ReasonNoAddress  = "no_address"
	ReasonBadAddress = "bad_address"
	ReasonTemplate   = "template_error"
	ReasonRunEnded   = "run_ended"
	ReasonRefused    = "refused"
	ReasonBudget     = "retries_exhausted"
	ReasonUnknown    = "reply_lost"
	ReasonSettled    = "settled_by_hand"
)

// lease is how long a claimed mail is left alone: longer than a hand-over can
// take, so that a mail whose claim is over belongs to a process that died, or
// to this one after its clock was set forward, which [flights] can tell.
//
// A process may also be frozen in between: stopped by a debugger, swapped out,
// moved to another machine. The sender is therefore called only in the first
// part of the lease, up to [Engine.lastCall], and then has Config.SendTimeout,
// which together end before the lease does. What remains is the instant between
// that check and the first byte on the wire: a process that is frozen right
// there, or whose sender goes on after its context has ended, hands over a mail
// that another process may have taken over meanwhile. So does one whose clock
// is further behind those of the others than the rest of the lease, ten seconds.
func (e *Engine) lease() time.Duration { return e.lastCall() + e.cfg.SendTimeout + 10*time.Second }

// lastCall is how long after its claim the sender may be called for a mail.
func (e *Engine) lastCall() time.Duration { return e.cfg.SendTimeout }

// sendAll claims queued mails and hands each over on its own. It returns when
// all are claimed, put off or settled; the hand-overs go on.
func (w *worker) sendAll(ctx context.Context, batch []Work) error {
	var failed, held error
	for len(batch) > 0 {
		select {
		case w.slots <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		// As many as can be under way, so that a claim is never older than it
		// must be: counted when the transaction begins, because slots get free
		// while it waits for its turn.
		n := 1
		most := min(len(batch), cap(w.slots))
		claimed, lost, left, err := w.claimEach(ctx, batch[:most], func(batch []Work) []Work {
			for n < len(batch) {
				select {
				case w.slots <- struct{}{}:
					n++
					continue
				default:
				}
				break
			}
			return batch[:min(n, len(batch))]
		})
		for range n - len(claimed) - len(lost) {
			<-w.slots
		}
		_, locked := heldError(err)
		if locked {
			held = err
		} else {
			failed = errors.Join(failed, err)
		}
		for _, f := range claimed {
			w.wg.Go(func() {
				defer w.e.flights.end(f)
				// The slot is free again when the provider has answered: the
				// outcome is then stored beside the next hand-over. That of a
				// sender that never returns is lost, so that such calls do not
				// add up without end.
				w.e.handOver(context.WithoutCancel(ctx), f, func() { <-w.slots })
			})
		}
		for _, f := range lost {
			w.wg.Go(func() {
				defer func() { <-w.slots }()
				defer w.e.flights.end(f)
				w.e.settleUnknown(context.WithoutCancel(ctx), f.mail, "the process ended during the hand-over, or its outcome could not be stored")
			})
		}
		if err != nil && !locked {
			break
		}
		batch = append(left, batch[most:]...)
	}
	return joinHeld(held, failed)
}

// claimEach is claimMails, but a mail that fails by itself (by a condition
// behind it, say, or by somebody who is held) does not keep the others. pick says
// which of those given are claimed at this time; left are those that it did not.
func (w *worker) claimEach(ctx context.Context, most []Work, pick func(most []Work) []Work) (claimed, lost []*flight, left []Work, err error) {
	var batch []Work
	rest, err, held := freeWork(most, func(rest []Work) (err error) {
		batch = nil
		claimed, lost, err = w.e.claimMails(ctx, rest, func() []Work {
			batch = pick(rest)
			return batch
		})
		return err
	})
	if len(rest) == 0 {
		batch = nil
	}
	left = slices.Clone(rest[len(batch):])
	if err == nil {
		w.e.troubles.over(batch)
		return claimed, lost, left, held
	}
	if ctx.Err() != nil || len(batch) == 0 {
		if _, ok := heldError(err); ok {
			left = nil
		}
		return claimed, lost, left, err
	}
	errs := make([]error, len(batch))
	for i := range batch {
		var c, l []*flight
		c, l, errs[i] = w.e.claimMails(ctx, batch[i:i+1], func() []Work { return batch[i : i+1] })
		claimed, lost = append(claimed, c...), append(lost, l...)
	}
	return claimed, lost, left, joinHeld(held, w.putOffFailed(ctx, WorkSend, batch, errs))
}

// claimMails decides about due mails in one transaction: each is skipped with
// its reason, put off, or claimed. lost are claims of a process that died: they
// are left alone for as long as it takes to ask the provider. The mails are
// those that take returns inside the transaction, out of most.
func (e *Engine) claimMails(ctx context.Context, most []Work, take func() []Work) (claimed, lost []*flight, err error) {
	hints := make([]Preload, len(most))
	for i, x := range most {
		hints[i].SendKey = x.ID
	}
	forget := func() {
		e.flights.end(claimed...)
		e.flights.end(lost...)
		claimed, lost = nil, nil
	}
	err = e.finishIn(ctx, 0, func(ctx context.Context, tx Tx) error {
		forget()
		at := e.cfg.Now()
		now := e.now()
		batch := take()
		// Only now: the slots that take found may be free because of a failure
		// that holds the sender.
		e.mu.Lock()
		held := e.heldUntil
		e.mu.Unlock()
		turns := &turns{rate: e.cfg.SendRate, now: now}
		for _, x := range batch {
			m, err := tx.Send(ctx, x.ID)
			if err != nil {
				return err
			}
			if m == nil || m.DueAt.IsZero() || m.DueAt.After(now) {
				continue
			}
			switch m.Status {
			case SendSending:
				if !e.flights.has(m.Key) {
					lost = append(lost, e.flights.begin(m, at))
				}
				m.DueAt = now.Add(e.lease())
				if err := tx.PutSend(ctx, m); err != nil {
					return err
				}
				continue
			case SendQueued:
			case SendAccepted, SendRefused, SendSkipped, SendUnknown:
				continue
			}
			if held.After(now) {
				m.DueAt = held
				if err := tx.PutSend(ctx, m); err != nil {
					return err
				}
				continue
			}
			if !e.emails.has(m.Email) && e.foreign(now, m.QueuedAt) {
				m.DueAt, m.Detail = now.Add(foreignWait), "this process has no template of that name; another release has it"
				if err := tx.PutSend(ctx, m); err != nil {
					return err
				}
				continue
			}
			if err := e.catchUpOf(ctx, tx, m.ProfileID); err != nil {
				return err
			}
			// What was due may have taken it back.
			if m, err = tx.Send(ctx, x.ID); err != nil {
				return err
			}
			if m == nil || m.Status != SendQueued {
				continue
			}
			prof, run, err := e.parties(ctx, tx, m)
			if err != nil {
				return err
			}
			if reason, detail, err := e.hindrance(ctx, tx, m, prof, run); err != nil {
				return err
			} else if reason != "" {
				if err := e.settleIn(ctx, tx, m, SendSkipped, reason, detail, Receipt{}, false); err != nil {
					return err
				}
				continue
			}
			if ok, err := turns.take(ctx, tx, m); err != nil {
				return err
			} else if !ok {
				countOf(tx).RateWaits++
				if err := tx.PutSend(ctx, m); err != nil {
					return err
				}
				continue
			}
			m.Detail = ""
			m.Status, m.Owner, m.ClaimedAt, m.DueAt = SendSending, e.owner, now, now.Add(e.lease())
			m.Attempts++
			if err := tx.PutSend(ctx, m); err != nil {
				return err
			}
			claimed = append(claimed, e.flights.begin(m, at))
		}
		return turns.done(ctx, tx)
	}, hints...)
	if err != nil {
		forget()
	}
	return claimed, lost, err
}

// parties reads whom and what a mail belongs to.
func (e *Engine) parties(ctx context.Context, tx Tx, m *SendRecord) (*Profile, *Run, error) {
	prof, err := tx.Profile(ctx, m.ProfileID)
	if err != nil {
		return nil, nil, err
	}
	run, err := tx.Run(ctx, m.RunID)
	return prof, run, err
}

// hindrance says why a mail must not go now; an empty reason means that
// nothing stands in its way. It is asked in the transaction that claims the
// mail, and again right before the provider is called.
func (e *Engine) hindrance(ctx context.Context, tx Tx, m *SendRecord, prof *Profile, run *Run) (reason, detail string, err error) {
	if prof == nil || run == nil {
		return ReasonRunEnded, "the person or the run is gone", nil
	}
	if run.Status != RunLive {
		return run.Reason, "the run has ended", nil
	}
	if run.SendKey != m.Key {
		return ReasonRunEnded, "the run has gone on", nil
	}
	st := e.emails.settings(m.Email)
	if !st.Transactional {
		if !prof.Subscribed("") {
			return ReasonConsent, "", nil
		}
		if st.Topic != "" && !prof.Subscribed(st.Topic) {
			return ReasonTopic, st.Topic, nil
		}
	}
	to := prof.Email()
	if to == "" {
		if v, ok := prof.Traits["email"]; ok && v != nil && v != "" {
			return ReasonBadAddress, fmt.Sprintf("the trait \"email\" is %s; it must be the text of one address", kindOf(v)), nil
		}
		return ReasonNoAddress, "the profile has no trait \"email\"", nil
	}
	mailbox, err := mimemail.ParseMailbox(to)
	if err != nil {
		return ReasonBadAddress, err.Error(), nil //nolint:nilerr // a reason not to send, no failure
	}
	// The trait may hold a name too; what is refused is the address, on all
	// streams or on this one.
	addr := mailbox.Addr
	sup, err := tx.Suppression(ctx, addr, e.streamOf(st))
	if err != nil {
		return "", "", err
	}
	if sup != nil {
		return ReasonSuppressed, sup.Reason, nil
	}
	switch e.cfg.Mode {
	case Live:
	case DryRun:
		return ReasonDryRun, "", nil
	case TestOnly:
		if !e.cfg.allowed(addr) {
			return ReasonMode, "", nil
		}
	}
	return "", "", nil
}

// kindOf names the kind of a value.
func kindOf(v any) string {
	switch v.(type) {
	case string:
		return "blank"
	case bool:
		return "a bool"
	case []any:
		return "a list"
	case map[string]any:
		return "a map"
	case time.Time:
		return "a time"
	default:
		return "a number"
	}
}

// streamOf is the Message Stream that a mail goes to.
func (e *Engine) streamOf(st EmailSettings) string {
	if st.Stream != "" {
		return st.Stream
	}
	if s, ok := e.cfg.Sender.(interface{ MessageStream() string }); ok {
		return s.MessageStream()
	}
	return ""
}

// handOver composes a claimed mail, asks once more whether it may go, and
// gives it to the sender. It calls done when the sender is free again, which
// for one that never returns is never.
func (e *Engine) handOver(ctx context.Context, f *flight, done func()) {
	m := f.mail
	for {
		var msg *Message
		var reason, detail string
		look := func(ctx context.Context, tx Tx) error { return e.prepare(ctx, tx, m, &msg, &reason, &detail) }
		var err error
		if e.flights.look(f) {
			err = e.finish(ctx, look, Preload{SendKey: m.Key})
		} else {
			err = protect(func() error { return e.store.View(ctx, func(tx Tx) error { return look(ctx, tx) }) })
		}
		switch {
		case errors.Is(err, errClaimGone):
			e.cfg.Logger.Info("a mail is not handed over: another process has taken it over, or it is erased", "send_key", m.Key)
		case err != nil:
			// Nothing was handed over, so it may simply be tried again.
			e.settleTemporary(ctx, m, fmt.Errorf("read before the hand-over: %w", err), 0, false)
		case reason != "":
			e.settle(ctx, m, SendSkipped, reason, detail, Receipt{})
		case e.give(ctx, f, msg, done):
			return
		default:
			continue
		}
		done()
		return
	}
}

// errClaimGone: the claim is this process's no more, so neither is the mail.
var errClaimGone = errors.New("the claim is over")

// prepare composes a mail, or says why it must not go. It goes by the mail as
// it is now: since the claim another process may have taken it over, or the
// person become another by a merge.
func (e *Engine) prepare(ctx context.Context, tx Tx, m *SendRecord, msg **Message, reason, detail *string) error {
	*msg, *reason, *detail = nil, "", ""
	if err := preload(ctx, tx, []Preload{{SendKey: m.Key}}); err != nil {
		return err
	}
	m, err := e.claimedBy(ctx, tx, m)
	if err != nil {
		return err
	}
	if m == nil {
		return errClaimGone
	}
	prof, run, err := e.parties(ctx, tx, m)
	if err != nil {
		return err
	}
	if *reason, *detail, err = e.hindrance(ctx, tx, m, prof, run); err != nil || *reason != "" {
		return err
	}
	if *msg, err = e.compose(m, prof, run); err != nil {
		*reason, *detail = ReasonTemplate, err.Error()
		e.cfg.Logger.Error("a mail could not be made", "send_key", m.Key, "email", m.Email, "automation", m.Automation, "error", err)
		if errors.Is(err, ErrInvalid) {
			*reason = ReasonRefused
		}
	}
	return nil
}

// give hands a composed mail to the sender. It reports false when it did not,
// because the mail must be looked at again.
func (e *Engine) give(ctx context.Context, f *flight, msg *Message, done func()) bool {
	m := f.mail
	m.To, m.Stream, m.Subject = msg.To, msg.Stream, msg.Subject
	body, err := json.Marshal(msg)
	if err != nil {
		e.settle(ctx, m, SendSkipped, ReasonTemplate, err.Error(), Receipt{})
		done()
		return true
	}
	sum := sha256.Sum256(body)
	m.BodyHash = hex.EncodeToString(sum[:])
	if e.cfg.KeepBodies {
		m.Body = body
	}
	receipt, err := e.send(ctx, f, msg, done)
	switch {
	case err == nil:
		e.mu.Lock()
		e.heldFor, e.heldUntil, e.heldAt = 0, time.Time{}, time.Time{}
		e.mu.Unlock()
		e.settle(ctx, m, SendAccepted, "", "", receipt)
	case errors.Is(err, errLookAgain):
		return false
	case errors.Is(err, errTooLate):
		e.giveBack(ctx, m)
	default:
		e.settleError(ctx, m, err)
	}
	return true
}

// errLookAgain: the sender was not called, because something came in between.
var errLookAgain = errors.New("look again")

// errTooLate: the sender was not called, because the claim may end during the
// call.
var errTooLate = errors.New("too late in the claim")

// giveBack puts a mail that the sender was not called for back into the queue.
func (e *Engine) giveBack(ctx context.Context, m *SendRecord) {
	err := e.ofClaim(ctx, m, func(ctx context.Context, tx Tx, now *SendRecord, _ bool) error {
		now.Status, now.Owner, now.DueAt = SendQueued, "", e.now()
		now.Detail = "this process was too slow, or stopped for a while, between claim and hand-over"
		countOf(tx).Retries++
		return tx.PutSend(ctx, now)
	})
	if err != nil {
		// The claim stays; when it is over the mail is settled as unknown.
		e.cfg.Logger.Error("a mail could not be given back", "send_key", m.Key, "error", err)
	}
}

// stragglerGrace is how long after the end of its context a call may take to
// return before it counts as stuck.
const stragglerGrace = 5 * time.Second

// send calls the sender, at most for Config.SendTimeout: also one that does
// not look at its context must not keep the engine from ending.
func (e *Engine) send(ctx context.Context, f *flight, msg *Message, done func()) (Receipt, error) {
	var r Receipt
	// What it is when the sender ends its goroutine and returns nothing.
	var err error = &DeliveryError{Kind: Unknown, Text: "the sender ended its goroutine (runtime.Goexit)"}
	ended := bounded(ctx, e.cfg.SendTimeout, func(ctx context.Context) {
		if since(f.at, e.cfg.Now()) > e.callBy() {
			err = errTooLate
			done()
			return
		}
		if !e.flights.call(f) {
			err = errLookAgain
			return
		}
		defer done()
		r, err = sendSafely(ctx, e.cfg.Sender, msg)
		// Before the slot is free, so that no further mail meets the same wall.
		if de, ok := errors.AsType[*DeliveryError](err); ok && de.Account && de.Kind != Unknown {
			e.hold(f.mail.ClaimedAt, min(max(de.RetryAfter, 0), longestWait))
		}
	})
	if ended {
		return r, err
	}
	e.cfg.Logger.Error("the sender does not return: it must end when its context does; one of Config.MaxSends is lost for now", "send_key", f.mail.Key)
	return Receipt{}, &DeliveryError{Kind: Unknown, Phase: "reply", Text: fmt.Sprintf("the sender did not return within %s, nor when its context ended", e.cfg.SendTimeout)}
}

// bounded runs fn with a context that ends after a time. It reports false when
// fn has not returned a while after that; what fn writes must then not be read.
func bounded(ctx context.Context, limit time.Duration, fn func(context.Context)) bool {
	ctx, cancel := context.WithTimeout(ctx, limit)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer cancel()
		fn(ctx)
	}()
	select {
	case <-ended:
		return true
	case <-ctx.Done():
	}
	grace := time.NewTimer(stragglerGrace)
	defer grace.Stop()
	select {
	case <-ended:
		return true
	case <-grace.C:
		return false
	}
}

// sendSafely turns a panic of a sender into an error of unknown outcome.
func sendSafely(ctx context.Context, s Sender, msg *Message) (r Receipt, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &DeliveryError{Kind: Unknown, Text: fmt.Sprintf("panic in the sender: %v", p)}
		}
		err = knownError(err)
	}()
	return s.Send(ctx, msg)
}

// compose renders a mail for a person.
func (e *Engine) compose(m *SendRecord, prof *Profile, run *Run) (*Message, error) {
	r, err := e.emails.render(m.Email, e.emailData(m, prof, run))
	if err != nil {
		return nil, err
	}
	st := r.EmailSettings // a language may have its own
	msg := &Message{
		SendKey: m.Key, Date: m.QueuedAt, From: e.cfg.From, ReplyTo: e.cfg.ReplyTo, To: prof.Email(),
		Subject: r.Subject, HTML: r.HTML, Text: r.Text,
		Stream: e.streamOf(st), Tag: st.Tag,
		Metadata: map[string]string{"automation": m.Automation},
	}
	if st.From != "" {
		msg.From = st.From
	}
	if st.ReplyTo != "" {
		msg.ReplyTo = st.ReplyTo
	}
	if msg.Tag == "" {
		msg.Tag = m.Automation
	}
	msg.TrackOpens, msg.TrackLinks = st.TrackOpens, st.TrackLinks
	return msg, nil
}
