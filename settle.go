package fluxly

import (
	"context"
	"errors"
	"fmt"
	"time"
)

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
		e.settleUnknown(ctx, m, err.Error())
	case de.Account:
		wait := e.holdLeft()
		e.counters.add(Counters{AccountErrors: 1})
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
// that were under way together fail together, and count as one failure: one
// that was claimed before the last hold began, and was slow to fail, says
// nothing new.
func (e *Engine) hold(claimedAt time.Time, retryAfter time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := e.now()
	if (claimedAt.After(e.heldAt) || e.heldAt.After(now)) && !e.heldUntil.After(now) {
		e.heldFor = min(max(2*e.heldFor, 30*time.Second), 15*time.Minute)
		e.heldAt, e.heldUntil = now, now.Add(e.heldFor)
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
	err := e.ofClaim(ctx, m, func(ctx context.Context, tx Tx, now *SendRecord, alone bool) error {
		return e.settleIn(ctx, tx, now, status, reason, detail, r, alone)
	})
	if err != nil {
		// The claim stays; when it is over the mail is settled as unknown.
		e.cfg.Logger.Error("the outcome of a mail could not be stored", "send_key", m.Key, "outcome", string(status), "error", err)
	}
}

// ofClaim changes a mail if it is still in the claim that m is. Where that
// fails, by a condition of the host's for what comes next in the run say, it is
// tried once more with the outcome alone, so that what the provider said is
// not lost with it.
func (e *Engine) ofClaim(ctx context.Context, m *SendRecord, fn func(ctx context.Context, tx Tx, now *SendRecord, alone bool) error) error {
	try := func(alone bool) error {
		// As long as the claim may last: what the provider said must not be lost.
		return e.finishIn(ctx, e.lease(), func(ctx context.Context, tx Tx) error {
			now, err := e.claimedBy(ctx, tx, m)
			if err != nil || now == nil {
				return err
			}
			if !alone {
				if err := e.catchUpOf(ctx, tx, now.ProfileID); err != nil {
					return err
				}
			}
			return fn(ctx, tx, now, alone)
		}, Preload{SendKey: m.Key})
	}
	err := try(false)
	if err == nil {
		return nil
	}
	if errors.Is(err, ErrHeld) {
		return err // the outcome alone would wait as well
	}
	if failed := try(true); failed != nil {
		return errors.Join(err, failed)
	}
	e.cfg.Logger.Error("what follows a mail failed; it is tried again", "send_key", m.Key, "run", m.RunID, "error", err)
	return nil
}

// claimedBy reads a mail again and returns it, with what was composed in m, if
// it is still in the claim that m is.
func (e *Engine) claimedBy(ctx context.Context, tx Tx, m *SendRecord) (*SendRecord, error) {
	now, err := tx.Send(ctx, m.Key)
	if err != nil || now == nil {
		return nil, err
	}
	if now.Status != SendSending || now.Owner != m.Owner || now.Attempts != m.Attempts || !now.ClaimedAt.Equal(m.ClaimedAt) {
		return nil, nil
	}
	now.To, now.Stream, now.Subject, now.BodyHash, now.Body = m.To, m.Stream, m.Subject, m.BodyHash, m.Body
	return now, nil
}

// settleIn settles a mail inside a transaction and lets its run go on; alone,
// the run goes on by its timer in a while.
func (e *Engine) settleIn(ctx context.Context, tx Tx, m *SendRecord, status SendStatus, reason, detail string, r Receipt, alone bool) error {
	now := e.now()
	m.Status, m.Reason, m.Detail, m.Receipt = status, reason, clip(detail, 1000), r
	m.DueAt, m.SettledAt = time.Time{}, now
	if !m.Receipt.At.IsZero() {
		m.Receipt.At = stored(m.Receipt.At)
	}
	if err := tx.PutSend(ctx, m); err != nil {
		return err
	}
	countOf(tx).settled(m)
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
	if alone && run.Pending == PendingMail && run.SendKey == m.Key {
		run.WakeAt = now.Add(troubleFirst)
		return tx.PutRun(ctx, run)
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
// tried long enough since the first of its own failures in a row. A failure of
// the account is none of its own.
func (e *Engine) settleTemporary(ctx context.Context, m *SendRecord, cause error, after time.Duration, account bool) {
	err := e.ofClaim(ctx, m, func(ctx context.Context, tx Tx, now *SendRecord, alone bool) error {
		at := e.now()
		switch {
		case account:
			now.FailingSince = time.Time{}
		case now.FailingSince.IsZero():
			now.FailingSince = at
		case at.Sub(now.FailingSince) > e.cfg.RetryFor:
			return e.settleIn(ctx, tx, now, SendRefused, ReasonBudget, cause.Error(), Receipt{}, alone)
		}
		wait := max(after, 0)
		if !account {
			wait = max(wait, backoff(now.Key, failures(at.Sub(now.FailingSince), retryFirst), retryFirst, time.Hour))
		}
		now.Status, now.Owner, now.Detail = SendQueued, "", clip(cause.Error(), 1000)
		now.DueAt = at.Add(wait)
		countOf(tx).Retries++
		return tx.PutSend(ctx, now)
	})
	if err != nil {
		e.cfg.Logger.Error("the outcome of a mail could not be stored", "send_key", m.Key, "error", err)
	}
}

// retryFirst is how long a mail waits after the first of its own failures.
const retryFirst = 30 * time.Second

// failures is how many failures in a row take a while, when the pauses between
// them begin with first and double.
func failures(d, first time.Duration) int {
	n := 1
	for pauses := first; pauses <= d && n < 16; pauses = 2*pauses + first {
		n++
	}
	return n
}

// settleUnknown settles a mail whose reply was lost: by asking the sender,
// where it can be asked, else by the policy. m is the claim that it belonged
// to; a later one is left alone.
func (e *Engine) settleUnknown(ctx context.Context, m *SendRecord, why string) {
	status, reason := SendUnknown, ReasonUnknown
	var receipt Receipt
	var wait time.Duration
	again := false
	if l, ok := e.cfg.Sender.(LookupSender); ok {
		// Before it is asked: this process may be frozen until long after.
		asked := e.now()
		r, found, err := e.lookup(ctx, l, m.Key)
		switch {
		case err != nil && errors.Is(err, ErrLookupUnavailable):
		case err != nil:
			// Nobody could say yet.
			why = fmt.Sprintf("%s; the provider could not be asked: %v", why, err)
			wait = backoff(m.Key, m.Attempts, 30*time.Second, 15*time.Minute)
		case found:
			status, reason, receipt = SendAccepted, "", r
			why = ""
		default:
			again = true
		}
		if d, ok := l.(interface{ LookupDelay() time.Duration }); ok && again && d.LookupDelay() > 0 {
			// The process that claimed it may have been slow to hand it over.
			handed := m.ClaimedAt.Add(e.lastCall() + e.cfg.SendTimeout)
			if wait = handed.Add(d.LookupDelay()).Sub(asked); wait > 0 {
				why += "; the provider does not show the mail yet"
			}
		}
	}
	if status == SendUnknown && e.cfg.Unknown == SendAgain {
		again = true
	}
	err := e.ofClaim(ctx, m, func(ctx context.Context, tx Tx, now *SendRecord, alone bool) error {
		switch {
		case wait > 0:
			// The claim is renewed, and the provider asked again when it is over.
			now.Owner, now.Detail, now.DueAt = e.owner, clip(why, 1000), e.now().Add(wait)
			return tx.PutSend(ctx, now)
		case again:
			now.Status, now.Owner, now.DueAt, now.Detail = SendQueued, "", e.now(), clip(why, 1000)
			countOf(tx).Retries++
			return tx.PutSend(ctx, now)
		}
		return e.settleIn(ctx, tx, now, status, reason, why, receipt, alone)
	})
	if err != nil {
		// The claim stays; when it is over the provider is asked again.
		e.cfg.Logger.Error("the outcome of a mail could not be stored", "send_key", m.Key, "outcome", string(status), "error", err)
	}
}

// lookup asks the provider about a mail, at most for Config.SendTimeout.
func (e *Engine) lookup(ctx context.Context, l LookupSender, key string) (r Receipt, found bool, err error) {
	// What it is when the sender ends its goroutine and returns nothing.
	err = errors.New("the sender ended its goroutine (runtime.Goexit)")
	ended := bounded(ctx, e.cfg.SendTimeout, func(ctx context.Context) {
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("panic in the sender: %v", p)
			}
		}()
		r, found, err = l.Lookup(ctx, key)
	})
	if !ended {
		return Receipt{}, false, fmt.Errorf("the sender did not answer within %s, nor when its context ended", e.cfg.SendTimeout)
	}
	return r, found, err
}

// Settle decides about a mail whose outcome is unknown (Config.Unknown: Hold):
// with sent, it counts as accepted; else it is queued again. A mail that is not
// unknown is [ErrNotFound].
func (e *Engine) Settle(ctx context.Context, key string, sent bool) error {
	return e.update(ctx, Preload{SendKey: key}, func(ctx context.Context, tx Tx) error {
		m, err := tx.Send(ctx, key)
		if err != nil {
			return err
		}
		if m == nil || m.Status != SendUnknown {
			return refuse(fmt.Errorf("settle: there is no mail of unknown outcome with the key %q: %w", clip(key, 80), ErrNotFound))
		}
		if err := e.catchUpOf(ctx, tx, m.ProfileID); err != nil {
			return err
		}
		if sent {
			return e.settleIn(ctx, tx, m, SendAccepted, ReasonSettled, "", Receipt{}, false)
		}
		m.Status, m.Owner, m.DueAt, m.SettledAt, m.Reason = SendQueued, "", e.now(), time.Time{}, ""
		m.FailingSince = time.Time{}
		return tx.PutSend(ctx, m)
	})
}
