package fluxlytest

import (
	"context"
	"fmt"
	"time"

	"github.com/getfluxly/fluxly"
)

// finish lets everything that still stands go on, works off all that is left
// without any further stop, and looks at what must hold in the end.
func (w *crashWorld) finish(ctx context.Context) {
	w.quiet, w.plan = true, quietPlan{}
	w.note("no process is stopped from here on")
	w.thaw()
	w.thaw() // a worker that stood behind a call
	for range 2_000 {
		if w.failure != nil {
			return
		}
		p := w.usable(ctx)
		if p == nil {
			continue
		}
		w.advance(w.moment())
		w.work(ctx, p)
		if w.failure != nil {
			return
		}
		open, err := w.open(ctx, p)
		if err != nil {
			w.fail("read what is open: %v", err)
			return
		}
		if open == 0 && !w.nextDue.IsZero() {
			if w.ended != nil {
				w.ended(w.base(p))
			}
			w.check(p)
			w.checkProvider(ctx, p)
			w.checkStats(ctx, p)
			if w.failure == nil && !w.wentBack {
				w.stats.Compared++
				w.compare(ctx, p)
			}
			return
		}
		if !w.nextDue.IsZero() {
			w.advance(w.nextDue.Sub(w.now))
		}
	}
	w.fail("mails or steps of the program's own are still open: they are not worked off")
}

// open counts the mails that are queued, under way, or held, and the steps of
// the program's own that are to be called.
func (w *crashWorld) open(ctx context.Context, p *crashProcess) (n int, err error) {
	err = w.base(p).View(ctx, func(tx fluxly.Tx) error {
		counts, err := tx.CountSends(ctx, "")
		for _, c := range counts {
			switch c.Status {
			case fluxly.SendQueued, fluxly.SendSending:
				n += c.Count
			case fluxly.SendUnknown:
				if w.provider.kind != CrashCountAsSent {
					n += c.Count
				}
			case fluxly.SendAccepted, fluxly.SendRefused, fluxly.SendSkipped:
			}
		}
		if err != nil {
			return err
		}
		runs, err := tx.Runs(ctx, fluxly.RunQuery{Status: fluxly.RunLive})
		for _, r := range runs {
			if r.Pending == fluxly.PendingCall {
				n++
			}
		}
		return err
	})
	return n, err
}

// check looks at the store.
func (w *crashWorld) check(p *crashProcess) {
	if err := CheckInvariants(w.t.Context(), w.base(p)); err != nil {
		w.fail("%v", err)
	}
}

// checkProvider compares the send log with what the provider has.
func (w *crashWorld) checkProvider(ctx context.Context, p *crashProcess) {
	rows := map[string]*fluxly.SendRecord{}
	err := w.base(p).View(ctx, func(tx fluxly.Tx) error {
		list, err := tx.Sends(ctx, fluxly.SendQuery{})
		for _, m := range list {
			rows[m.Key] = m
		}
		return err
	})
	if err != nil {
		w.fail("read the send log: %v", err)
		return
	}
	for key, m := range rows {
		if m.Status == fluxly.SendAccepted && len(w.provider.byKey[key]) == 0 {
			w.fail("the mail %s counts as accepted, and the provider never took it", key)
		}
	}
	for _, key := range w.provider.keys {
		if rows[key] == nil && !w.erased {
			w.fail("the provider took the mail %s, which is not in the send log", key)
		}
	}
}

// checkStats looks whether counts add up.
func (w *crashWorld) checkStats(ctx context.Context, p *crashProcess) {
	for _, a := range w.setup.engine.Automations {
		st, err := p.engine.Stats(ctx, a.Name)
		if err != nil {
			w.fail("stats of %s: %v", a.Name, err)
			return
		}
		standing := 0
		for _, s := range st.Steps {
			standing += s.Standing
			mails := 0
			for _, n := range s.Mails {
				mails += n
			}
			if mails != s.Log["queued"] {
				w.fail("step %s of %s: %d mails were queued, %d are in the send log (%v)", s.Step, a.Name, s.Log["queued"], mails, s.Mails)
			}
		}
		ended := 0
		for _, n := range st.EndedBy {
			ended += n
		}
		if st.Started != st.Ended+st.Standing || standing != st.Standing || ended != st.Ended {
			w.fail("counts of %s do not add up: %+v", a.Name, st)
		}
	}
}

// crashDump is what a store holds, as lines, without the times of bookkeeping.
// look may change the outcome of a mail.
func crashDump(ctx context.Context, store fluxly.Store, look func(*fluxly.SendRecord)) ([]string, error) {
	var out []string
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	when := func(t time.Time) string {
		if t.IsZero() {
			return "-"
		}
		return t.UTC().Format(time.RFC3339Nano)
	}
	err := store.View(ctx, func(tx fluxly.Tx) error {
		for after := ""; ; {
			people, err := tx.Profiles(ctx, after, 100)
			if err != nil {
				return err
			}
			for _, p := range people {
				after = p.ID
				add("person %s external %v anonymous %v user %v traits %v since %s unsubscribed %v", p.ID, p.ExternalIDs, p.AnonymousIDs, p.UserIDs, p.Traits, when(p.CreatedAt), p.Unsubscribed)
				events, err := tx.Events(ctx, p.ID, fluxly.EventQuery{})
				if err != nil {
					return err
				}
				for _, e := range events {
					add("  event %s %s %v occurred %s received %s", e.MessageID, e.Name, e.Properties, when(e.OccurredAt), when(e.ReceivedAt))
				}
				members, err := tx.Memberships(ctx, p.ID)
				if err != nil {
					return err
				}
				for _, m := range members {
					add("  segment %s %v since %s until %s", m.Segment, m.Member, when(m.Since), when(m.CheckAt))
				}
			}
			if len(people) < 100 {
				break
			}
		}
		runs, err := tx.Runs(ctx, fluxly.RunQuery{})
		if err != nil {
			return err
		}
		for _, r := range runs {
			wake := r.WakeAt
			if r.Pending == fluxly.PendingCall {
				wake = time.Time{}
			}
			add("run %s %s key %q of %s: %s %s at %s visit %d started %s ended %s pending %s until %s mail %s waits %v results %v",
				r.ID, r.Automation, r.Key, r.ProfileID, r.Status, r.Reason, r.Step, r.Visit, when(r.StartedAt), when(r.EndedAt), r.Pending, when(wake), r.SendKey, r.Waits, r.Results)
			log, err := tx.Log(ctx, r.ID)
			if err != nil {
				return err
			}
			for _, l := range log {
				if l.Code == "mail" {
					l.Detail = nil // stands with the mail
				}
				add("  %d %s %s %s %v", l.Seq, when(l.At), l.Step, l.Code, l.Detail)
			}
			mails, err := tx.Sends(ctx, fluxly.SendQuery{RunID: r.ID})
			if err != nil {
				return err
			}
			for _, m := range mails {
				look(m)
				if m.Status != fluxly.SendSkipped {
					m.Reason = ""
				}
				add("  mail %s %s %s %s", m.Key, m.Email, m.Status, m.Reason)
			}
		}
		list, err := tx.Suppressions(ctx)
		if err != nil {
			return err
		}
		for _, s := range list {
			add("suppression %s %s %s", s.Address, s.Stream, s.Reason)
		}
		return nil
	})
	return out, err
}
