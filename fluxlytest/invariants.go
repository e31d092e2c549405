package fluxlytest

import (
	"context"
	"errors"
	"fmt"

	"github.com/getfluxly/fluxly"
)

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
