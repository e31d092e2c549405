package fluxly

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
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
// take, so that a mail whose claim is over belongs to a process that died.
func (e *Engine) lease() time.Duration { return 2*e.cfg.SendTimeout + 10*time.Second }

// sendAll claims queued mails and hands each over on its own. It returns when
// all are claimed, put off or settled; the hand-overs go on.
func (w *worker) sendAll(ctx context.Context, batch []Work) error {
	var failed error
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
		claimed, lost, err := w.e.claimEach(ctx, func() []Work {
			for n < len(batch) {
				select {
				case w.slots <- struct{}{}:
					n++
					continue
				default:
				}
				break
			}
			return batch[:n]
		})
		for range n - len(claimed) {
			<-w.slots
		}
		failed = errors.Join(failed, err)
		if _, ok := errors.AsType[*hostError](err); err != nil && !ok {
			return failed
		}
		for _, m := range claimed {
			w.wg.Go(func() {
				// The slot is free again when the provider has answered: the
				// outcome is then stored beside the next hand-over. That of a
				// sender that never returns is lost, so that such calls do not
				// add up without end.
				w.e.handOver(context.WithoutCancel(ctx), m, func() { <-w.slots })
			})
		}
		for _, key := range lost {
			failed = errors.Join(failed, w.e.settleUnknown(ctx, key, "the process ended during the hand-over, or its outcome could not be stored"))
		}
		batch = batch[n:]
	}
	return failed
}

// claimEach is claimMails, but a mail that the host's own code fails for (a
// condition behind it) does not keep the others.
func (e *Engine) claimEach(ctx context.Context, pick func() []Work) (claimed []*SendRecord, lost []string, err error) {
	var batch []Work
	claimed, lost, err = e.claimMails(ctx, func() []Work {
		batch = pick()
		return batch
	})
	if _, ok := errors.AsType[*hostError](err); !ok || len(batch) == 1 {
		return claimed, lost, err
	}
	err = nil
	for i := range batch {
		c, l, failed := e.claimMails(ctx, func() []Work { return batch[i : i+1] })
		claimed, lost, err = append(claimed, c...), append(lost, l...), errors.Join(err, failed)
	}
	return claimed, lost, err
}

// claimMails decides about due mails in one transaction: each is skipped with
// its reason, put off, or claimed. lost are claims of a process that died. The
// mails are those that take returns inside the transaction.
func (e *Engine) claimMails(ctx context.Context, take func() []Work) (claimed []*SendRecord, lost []string, err error) {
	err = e.finish(ctx, func(ctx context.Context, tx Tx) error {
		claimed, lost = claimed[:0], lost[:0]
		now := e.now()
		e.mu.Lock()
		held := e.heldUntil
		e.mu.Unlock()
		for _, x := range take() {
			m, err := tx.Send(ctx, x.ID)
			if err != nil {
				return err
			}
			if m == nil || m.DueAt.IsZero() || m.DueAt.After(now) {
				continue
			}
			switch m.Status {
			case SendSending:
				lost = append(lost, m.Key)
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
			prof, run, err := e.parties(ctx, tx, m)
			if err != nil {
				return err
			}
			if reason, detail, err := e.hindrance(ctx, tx, m, prof, run); err != nil {
				return err
			} else if reason != "" {
				if err := e.settleIn(ctx, tx, m, SendSkipped, reason, detail, Receipt{}); err != nil {
					return err
				}
				continue
			}
			m.Status, m.Owner, m.ClaimedAt, m.DueAt = SendSending, e.owner, now, now.Add(e.lease())
			m.Attempts++
			if err := tx.PutSend(ctx, m); err != nil {
				return err
			}
			claimed = append(claimed, m)
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	return claimed, lost, nil
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
func (e *Engine) handOver(ctx context.Context, m *SendRecord, done func()) {
	var msg *Message
	var reason, detail string
	err := protect(func() error {
		return e.store.View(ctx, func(tx Tx) error { return e.prepare(ctx, tx, m, &msg, &reason, &detail) })
	})
	switch {
	case err != nil:
		// Nothing was handed over, so it may simply be tried again.
		e.settleTemporary(ctx, m, fmt.Errorf("read before the hand-over: %w", err), 0, false)
	case reason != "":
		e.settle(ctx, m, SendSkipped, reason, detail, Receipt{})
	default:
		e.give(ctx, m, msg, done)
		return
	}
	done()
}

// prepare composes a mail, or says why it must not go.
func (e *Engine) prepare(ctx context.Context, tx Tx, m *SendRecord, msg **Message, reason, detail *string) error {
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

// give hands a composed mail to the sender.
func (e *Engine) give(ctx context.Context, m *SendRecord, msg *Message, done func()) {
	m.To, m.Stream, m.Subject = msg.To, msg.Stream, msg.Subject
	body, err := json.Marshal(msg)
	if err != nil {
		e.settle(ctx, m, SendSkipped, ReasonTemplate, err.Error(), Receipt{})
		done()
		return
	}
	sum := sha256.Sum256(body)
	m.BodyHash = hex.EncodeToString(sum[:])
	if e.cfg.KeepBodies {
		m.Body = body
	}
	receipt, err := e.send(ctx, m, msg, done)
	if err == nil {
		e.mu.Lock()
		e.heldFor, e.heldUntil = 0, time.Time{}
		e.mu.Unlock()
		e.settle(ctx, m, SendAccepted, "", "", receipt)
		return
	}
	e.settleError(ctx, m, err)
}

// stragglerGrace is how long after the end of its context a call may take to
// return before it counts as stuck.
const stragglerGrace = 5 * time.Second

// send calls the sender, at most for Config.SendTimeout: also one that does
// not look at its context must not keep the engine from ending.
func (e *Engine) send(ctx context.Context, m *SendRecord, msg *Message, done func()) (Receipt, error) {
	var r Receipt
	// What it is when the sender ends its goroutine and returns nothing.
	var err error = &DeliveryError{Kind: Unknown, Text: "the sender ended its goroutine (runtime.Goexit)"}
	ended := bounded(ctx, e.cfg.SendTimeout, func(ctx context.Context) {
		defer done()
		r, err = sendSafely(ctx, e.cfg.Sender, msg)
		// Before the slot is free, so that no further mail meets the same wall.
		if de, ok := errors.AsType[*DeliveryError](err); ok && de.Account && de.Kind != Unknown {
			e.hold(min(max(de.RetryAfter, 0), longestWait))
		}
	})
	if ended {
		return r, err
	}
	e.cfg.Logger.Error("the sender does not return: it must end when its context does; one of Config.MaxSends is lost for now", "send_key", m.Key)
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

// knownError makes what a sender returned a DeliveryError of a known kind.
func knownError(err error) (out error) {
	if err == nil {
		return nil
	}
	defer func() {
		if recover() != nil { // such as a nil *DeliveryError in an interface
			out = &DeliveryError{Kind: Unknown, Text: fmt.Sprintf("the sender returned a %T that cannot be read", err)}
		}
	}()
	text := err.Error()
	var de *DeliveryError
	if !errors.As(err, &de) {
		kind := Unknown
		if errors.Is(err, ErrInvalid) {
			kind = Permanent
		}
		return &DeliveryError{Kind: kind, Text: clip(text, 1000), Err: err}
	}
	switch de.Kind {
	case Temporary, Permanent, Unknown:
		return err
	}
	return &DeliveryError{Kind: Unknown, Text: clip(fmt.Sprintf("the sender returned a DeliveryError of kind %q: %s", de.Kind, text), 1000), Err: err}
}

// settleError records what a failed hand-over means.
func (e *Engine) settleError(ctx context.Context, m *SendRecord, err error) {
	var de *DeliveryError
	if !errors.As(err, &de) {
		de = &DeliveryError{Kind: Unknown, Text: err.Error(), Err: err}
	}
	retryAfter := min(max(de.RetryAfter, 0), longestWait)
	e.cfg.Logger.Warn("a mail was not taken", "send_key", m.Key, "email", m.Email, "kind", string(de.Kind),
		"phase", de.Phase, "code", de.Code, "attempt", m.Attempts)
	switch {
	case de.Kind == Unknown:
		if err := e.settleUnknown(ctx, m.Key, err.Error()); err != nil {
			e.cfg.Logger.Error("the outcome of a mail could not be stored", "send_key", m.Key, "error", err)
		}
	case de.Account:
		wait := e.holdLeft()
		e.counters.accountErrors.Add(1)
		e.cfg.Logger.Error("the provider refuses all mail of this account; queued mails wait", "error", err, "for", wait)
		e.settleTemporary(ctx, m, err, wait, true)
	case de.Kind == Permanent:
		e.settle(ctx, m, SendRefused, ReasonRefused, err.Error(), Receipt{})
	default:
		e.settleTemporary(ctx, m, err, retryAfter, false)
	}
}

// longestWait is how long a provider may put the engine off at once: a wrong
// figure must not stop the mail of a week.
const longestWait = 24 * time.Hour

// hold keeps the sender from being called for a while, longer each time. Mails
// that were under way together fail together, and count as one failure.
func (e *Engine) hold(retryAfter time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := e.now()
	if !e.heldUntil.After(now) {
		e.heldFor = min(max(2*e.heldFor, 30*time.Second), 15*time.Minute)
		e.heldUntil = now.Add(e.heldFor)
	}
	if until := now.Add(retryAfter); until.After(e.heldUntil) {
		e.heldUntil = until
	}
}

// holdLeft is how long the sender is still held.
func (e *Engine) holdLeft() time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	return max(e.heldUntil.Sub(e.now()), 0)
}

// settle records the outcome of a claimed mail and lets its run go on.
func (e *Engine) settle(ctx context.Context, m *SendRecord, status SendStatus, reason, detail string, r Receipt) {
	err := e.finish(ctx, func(ctx context.Context, tx Tx) error {
		now, err := e.claimedBy(ctx, tx, m)
		if err != nil || now == nil {
			return err
		}
		now.To, now.Stream, now.Subject, now.BodyHash, now.Body = m.To, m.Stream, m.Subject, m.BodyHash, m.Body
		return e.settleIn(ctx, tx, now, status, reason, detail, r)
	})
	if err != nil {
		// The claim stays; when it is over the mail is settled as unknown.
		e.cfg.Logger.Error("the outcome of a mail could not be stored", "send_key", m.Key, "outcome", string(status), "error", err)
	}
}

// claimedBy reads a mail again and returns it if it is still in the claim
// that m is.
func (e *Engine) claimedBy(ctx context.Context, tx Tx, m *SendRecord) (*SendRecord, error) {
	now, err := tx.Send(ctx, m.Key)
	if err != nil || now == nil {
		return nil, err
	}
	if now.Status != SendSending || now.Owner != m.Owner || now.Attempts != m.Attempts {
		return nil, nil
	}
	return now, nil
}

// settleIn settles a mail inside a transaction.
func (e *Engine) settleIn(ctx context.Context, tx Tx, m *SendRecord, status SendStatus, reason, detail string, r Receipt) error {
	now := e.now()
	m.Status, m.Reason, m.Detail, m.Receipt = status, reason, clip(detail, 1000), r
	m.DueAt, m.SettledAt = time.Time{}, now
	if !m.Receipt.At.IsZero() {
		m.Receipt.At = m.Receipt.At.Round(0).UTC()
	}
	if err := tx.PutSend(ctx, m); err != nil {
		return err
	}
	e.counters.settled(m)
	if status != SendAccepted {
		e.cfg.Logger.Info("a mail did not go", "send_key", m.Key, "email", m.Email, "automation", m.Automation,
			"status", string(status), "reason", reason)
	}
	run, err := tx.Run(ctx, m.RunID)
	if err != nil || run == nil || run.Status != RunLive {
		return err
	}
	if status == SendUnknown && e.cfg.Unknown == Hold {
		return nil
	}
	s, err := e.open(ctx, tx, now, m.ProfileID, runOrigin(run))
	if err != nil || s.profile == nil {
		return err
	}
	if err := s.decide(run, cause{kind: causeMail, mail: m}); err != nil {
		return err
	}
	return s.settle()
}

// settleTemporary puts a mail back into the queue, or ends it when it was
// tried long enough. A failure of the account does not use up the time.
func (e *Engine) settleTemporary(ctx context.Context, m *SendRecord, cause error, after time.Duration, account bool) {
	err := e.finish(ctx, func(ctx context.Context, tx Tx) error {
		now, err := e.claimedBy(ctx, tx, m)
		if err != nil || now == nil {
			return err
		}
		at := e.now()
		if !account && at.Sub(now.QueuedAt) > e.cfg.RetryFor && now.Attempts > 1 {
			return e.settleIn(ctx, tx, now, SendRefused, ReasonBudget, cause.Error(), Receipt{})
		}
		wait := after
		if !account {
			wait = max(after, backoff(now.Key, now.Attempts, 30*time.Second, time.Hour))
		}
		now.Status, now.Owner, now.Detail = SendQueued, "", clip(cause.Error(), 1000)
		now.DueAt = at.Add(wait)
		e.counters.retries.Add(1)
		return tx.PutSend(ctx, now)
	})
	if err != nil {
		e.cfg.Logger.Error("the outcome of a mail could not be stored", "send_key", m.Key, "error", err)
	}
}

// settleUnknown settles a mail whose reply was lost: by asking the sender,
// where it can be asked, else by the policy.
func (e *Engine) settleUnknown(ctx context.Context, key, why string) error {
	e.counters.unknown.Add(1)
	status, reason := SendUnknown, ReasonUnknown
	var receipt Receipt
	again := false
	if l, ok := e.cfg.Sender.(LookupSender); ok {
		askCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), e.cfg.SendTimeout)
		r, found, err := l.Lookup(askCtx, key)
		cancel()
		switch {
		case err != nil && errors.Is(err, ErrLookupUnavailable):
		case err != nil:
			// Nobody could say yet; the claim is renewed and the provider is
			// asked again when it is over.
			return e.askLater(ctx, key, fmt.Sprintf("%s; the provider could not be asked: %v", why, err), 0)
		case found:
			status, reason, receipt = SendAccepted, "", r
			why = ""
		default:
			again = true
		}
		if d, ok := l.(interface{ LookupDelay() time.Duration }); ok && again {
			wait, err := e.lookupWait(ctx, key, d.LookupDelay())
			if err != nil {
				return err
			}
			if wait > 0 {
				return e.askLater(ctx, key, why+"; the provider does not show the mail yet", wait)
			}
		}
	}
	if status == SendUnknown && e.cfg.Unknown == SendAgain {
		again = true
	}
	return e.finish(ctx, func(ctx context.Context, tx Tx) error {
		m, err := tx.Send(ctx, key)
		if err != nil || m == nil || m.Status != SendSending {
			return err
		}
		if again {
			m.Status, m.Owner, m.DueAt, m.Detail = SendQueued, "", e.now(), clip(why, 1000)
			e.counters.retries.Add(1)
			return tx.PutSend(ctx, m)
		}
		return e.settleIn(ctx, tx, m, status, reason, why, receipt)
	})
}

// lookupWait is how long it is until a mail that the provider does not show
// must be there if it was taken.
func (e *Engine) lookupWait(ctx context.Context, key string, delay time.Duration) (wait time.Duration, err error) {
	err = e.store.View(ctx, func(tx Tx) error {
		m, err := tx.Send(ctx, key)
		if m != nil {
			wait = m.ClaimedAt.Add(delay).Sub(e.now())
		}
		return err
	})
	return wait, err
}

// askLater renews the claim of a mail of unknown outcome, so that the
// provider is asked again when it is over.
func (e *Engine) askLater(ctx context.Context, key, why string, wait time.Duration) error {
	return e.finish(ctx, func(ctx context.Context, tx Tx) error {
		m, err := tx.Send(ctx, key)
		if err != nil || m == nil || m.Status != SendSending {
			return err
		}
		if wait == 0 {
			wait = backoff(m.Key, m.Attempts, 30*time.Second, 15*time.Minute)
		}
		m.Owner, m.Detail = e.owner, clip(why, 1000)
		m.DueAt = e.now().Add(wait)
		return tx.PutSend(ctx, m)
	})
}

// Settle decides about a mail whose outcome is unknown (Config.Unknown: Hold):
// with sent, it counts as accepted; else it is queued again. A mail that is not
// unknown is [ErrNotFound].
func (e *Engine) Settle(ctx context.Context, key string, sent bool) error {
	return e.update(ctx, func(ctx context.Context, tx Tx) error {
		m, err := tx.Send(ctx, key)
		if err != nil {
			return err
		}
		if m == nil || m.Status != SendUnknown {
			return refuse(fmt.Errorf("settle: there is no mail of unknown outcome with the key %q: %w", clip(key, 80), ErrNotFound))
		}
		if sent {
			return e.settleIn(ctx, tx, m, SendAccepted, ReasonSettled, "", Receipt{})
		}
		m.Status, m.Owner, m.DueAt, m.SettledAt, m.Reason = SendQueued, "", e.now(), time.Time{}, ""
		return tx.PutSend(ctx, m)
	})
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
