package fluxlytest

import (
	"context"
	"errors"
	"fmt"

	"github.com/getfluxly/fluxly"
)

// CheckInvariants looks at everything a store holds and returns an error for
// the first thing that cannot be: a live run without exactly one pending
// action, one whose action does not agree with its mail, its timer or its log,
// an ended run that still waits, a settled mail that is still due, a mail that
// no run has queued or that a run has queued and is not there, a log with a
// gap.
func CheckInvariants(ctx context.Context, store fluxly.Store) error {
	return checkInvariants(ctx, store, false)
}

// CheckPruned is [CheckInvariants] for a store from which the engine's Prune has
// removed what is old: runs that have ended may have no log, and their mails may
// be gone.
func CheckPruned(ctx context.Context, store fluxly.Store) error {
	return checkInvariants(ctx, store, true)
}

func checkInvariants(ctx context.Context, store fluxly.Store, pruned bool) error {
	return store.View(ctx, func(tx fluxly.Tx) error {
		runs, err := tx.Runs(ctx, fluxly.RunQuery{})
		if err != nil {
			return err
		}
		sends, err := tx.Sends(ctx, fluxly.SendQuery{})
		if err != nil {
			return err
		}
		mails := make(map[string]*fluxly.SendRecord, len(sends))
		for _, m := range sends {
			mails[m.Key] = m
		}
		queued := 0
		for _, r := range runs {
			n, err := checkRun(ctx, tx, r, mails, pruned && r.Status != fluxly.RunLive)
			if err != nil {
				return fmt.Errorf("run %s of %s at step %q: %w", r.ID, r.Automation, r.Step, err)
			}
			queued += n
		}
		if queued != len(sends) && !pruned {
			return fmt.Errorf("%d mails are in the send log, and runs have queued %d", len(sends), queued)
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

// checkRun checks a run, and returns how many mails it has queued. A pruned one
// may have lost its log and its mails.
func checkRun(ctx context.Context, tx fluxly.Tx, r *fluxly.Run, mails map[string]*fluxly.SendRecord, pruned bool) (queued int, err error) {
	log, err := tx.Log(ctx, r.ID)
	if err != nil {
		return 0, err
	}
	if pruned && len(log) == 0 {
		return 0, checkPending(r, mails)
	}
	if len(log) != r.LogLen {
		return 0, fmt.Errorf("%d log entries, want %d", len(log), r.LogLen)
	}
	for i, l := range log {
		if l.Seq != i {
			return 0, fmt.Errorf("log entry %d has the number %d", i, l.Seq)
		}
	}
	stands, err := readLog(log)
	if err != nil {
		return 0, err
	}
	if want := standing(r); stands.as != want {
		return 0, fmt.Errorf("is %s and waits for %q, but its log says that it is %s", r.Status, r.Pending, stands.as)
	}
	if r.Status == fluxly.RunLive && stands.key != r.SendKey {
		return 0, fmt.Errorf("waits for the mail %q, but its log says %q", r.SendKey, stands.key)
	}
	for _, key := range stands.keys {
		if m := mails[key]; m == nil && !pruned || m != nil && m.RunID != r.ID {
			return 0, fmt.Errorf("has queued the mail %s, which is not in the send log", key)
		}
	}
	return len(stands.keys), checkPending(r, mails)
}

// logState is where a run stands by its log.
type logState struct {
	as   string // "live", "waiting", "mailing", "calling" or "ended"
	key  string // of the mail that it waits for
	keys []string
}

// standing is where a run stands by its row, in the words of logState.
func standing(r *fluxly.Run) string {
	if r.Status != fluxly.RunLive {
		return "ended"
	}
	switch r.Pending {
	case fluxly.PendingTimer, fluxly.PendingEvent, fluxly.PendingDate:
		return "waiting"
	case fluxly.PendingMail:
		return "mailing"
	case fluxly.PendingCall:
		return "calling"
	}
	return "live"
}

// logMoves are the entries that change where a run stands: from which state to
// which. An entry that is not named here changes nothing.
var logMoves = map[string]struct{ from, to string }{
	"waiting":    {"live", "waiting"},
	"woke":       {"waiting", "live"},
	"event_came": {"waiting", "live"},
	"timed_out":  {"waiting", "live"},
	"queued":     {"live", "mailing"},
	"mail":       {"mailing", "live"},
	"calling":    {"live", "calling"},
	"called":     {"calling", "live"},
	"moved":      {"", "live"},
	"ended":      {"", "ended"},
}

// readLog follows a log: what a run began to wait for came, or ended with it,
// before the next thing.
func readLog(log []fluxly.LogEntry) (logState, error) {
	s := logState{as: "live"}
	for _, l := range log {
		if s.as == "ended" {
			return s, fmt.Errorf("its log goes on with %q (entry %d) after the end", l.Code, l.Seq)
		}
		move, ok := logMoves[l.Code]
		switch {
		case l.Code == "date_missing" && s.as == "waiting":
			s.as = "live" // the date went during the wait
			continue
		case !ok || l.Code == "called" && l.Detail["stored"] == true:
			continue
		case move.from != "" && move.from != s.as:
			return s, fmt.Errorf("its log says %q (entry %d) while it is %s", l.Code, l.Seq, s.as)
		}
		s.as, s.key = move.to, ""
		if l.Code == "queued" {
			s.key, _ = l.Detail["send_key"].(string)
			s.keys = append(s.keys, s.key)
		}
	}
	return s, nil
}

// checkPending checks that a run has exactly one pending action, or none when it
// has ended.
func checkPending(r *fluxly.Run, mails map[string]*fluxly.SendRecord) error {
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
		m := mails[r.SendKey]
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
