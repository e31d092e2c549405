package fluxlytest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/getfluxly/fluxly"
)

// crashReference is the history without crashes: one process on a store in
// memory, which does one thing after the other.
type crashReference struct {
	fluxly.Store
	now time.Time
	// kind and id are the one piece of work that is handed out besides timers;
	// with all, every one is.
	kind fluxly.WorkKind
	id   string
	all  bool
	// mail and log say what the provider and the program's own step answer;
	// late is that of the effect: what came between claim and outcome may have
	// stopped the mail, or let it go.
	mail *fluxly.SendRecord
	late bool
	log  *fluxly.LogEntry
	// asked is what was asked and not answered under crashes.
	asked string
}

func (r *crashReference) Update(ctx context.Context, fn func(fluxly.Tx) error) error {
	return r.Store.Update(ctx, func(tx fluxly.Tx) error { return fn(&referenceTx{tx, r}) })
}

func (r *crashReference) View(ctx context.Context, fn func(fluxly.Tx) error) error {
	return r.Store.View(ctx, func(tx fluxly.Tx) error { return fn(&referenceTx{tx, r}) })
}

// referenceTx hands out one mail or call at a time.
type referenceTx struct {
	fluxly.Tx
	r *crashReference
}

func (t *referenceTx) Due(ctx context.Context, kind fluxly.WorkKind, now time.Time, limit int) ([]fluxly.Work, time.Time, error) {
	r := t.r
	if r.all || kind != fluxly.WorkSend && kind != fluxly.WorkCall {
		return t.Tx.Due(ctx, kind, now, limit)
	}
	if kind != r.kind {
		return nil, time.Time{}, nil
	}
	due, next, err := t.Tx.Due(ctx, kind, now, 1_000_000)
	for _, x := range due {
		if x.ID == r.id {
			return []fluxly.Work{x}, next, err
		}
	}
	return nil, next, err
}

// Send answers as the mail was answered under crashes.
func (r *crashReference) Send(_ context.Context, m *fluxly.Message) (fluxly.Receipt, error) {
	if r.mail == nil || r.mail.Key != m.SendKey {
		r.asked = fmt.Sprintf("without crashes the mail %s (%s) is sent", m.SendKey, m.Subject)
		return fluxly.Receipt{}, Permanent().Err
	}
	r.id = "" // answered: what comes next is another effect
	switch r.mail.Status {
	case fluxly.SendAccepted:
		return fluxly.Receipt{ID: "reference", At: r.now}, nil
	case fluxly.SendRefused:
		return fluxly.Receipt{}, Permanent().Err
	case fluxly.SendUnknown:
		return fluxly.Receipt{}, lostReply()
	case fluxly.SendSkipped:
		if r.late {
			return fluxly.Receipt{ID: "reference", At: r.now}, nil
		}
	case fluxly.SendQueued, fluxly.SendSending:
	}
	r.asked = fmt.Sprintf("without crashes the mail %s (%s) is sent, under crashes it is %s (%s)", m.SendKey, m.Subject, r.mail.Status, r.mail.Reason)
	return fluxly.Receipt{}, Permanent().Err
}

func (r *crashReference) MessageStream() string { return "broadcast" }

// call answers as a step of the program's own did under crashes.
func (r *crashReference) call(_ context.Context, in fluxly.StepInput) (any, error) {
	if r.log == nil || r.log.RunID != in.Run.ID || r.log.Step != in.Run.Step {
		r.asked = fmt.Sprintf("without crashes the step %s of run %s is called", in.Run.Step, in.Run.ID)
		return nil, errors.New("not answered")
	}
	r.id = ""
	if r.log.Code == "call_failed" {
		return nil, errors.New(fmt.Sprint(r.log.Detail["error"])) //nolint:perfsprint // the detail is any value
	}
	return r.log.Detail["result"], nil
}

// callNow makes the next try of a step due: under crashes a process that was
// frozen may answer for a try before the next one was due.
func (r *crashReference) callNow(ctx context.Context, runID string) error {
	return r.Store.Update(ctx, func(tx fluxly.Tx) error {
		run, err := tx.Run(ctx, runID)
		if err != nil || run == nil || run.Pending != fluxly.PendingCall {
			return err
		}
		run.WakeAt = r.now
		return tx.PutRun(ctx, run)
	})
}

// compare plays the history without crashes and compares what is stored.
func (w *crashWorld) compare(ctx context.Context, p *crashProcess) {
	ref := &crashReference{Store: fluxly.NewMemoryStore()}
	defer func() { _ = ref.Store.Close() }()
	ref.now = Start
	if len(w.history) > 0 && w.history[0].at.Before(Start) {
		ref.now = w.history[0].at
	}
	cfg := w.setup.engine
	cfg.Store, cfg.Sender, cfg.Unknown, cfg.Now = ref, ref, fluxly.CountAsSent, func() time.Time { return ref.now }
	own := cfg.Funcs
	cfg.Funcs = make(map[string]fluxly.StepFunc, len(own))
	for name := range own {
		cfg.Funcs[name] = ref.call
	}
	engine, err := fluxly.New(cfg)
	if err != nil {
		w.fail("the engine without crashes: %v", err)
		return
	}
	work := func() bool {
		if _, err := engine.RunDue(ctx); err != nil {
			w.fail("the engine without crashes: %v", err)
			return false
		}
		if ref.asked != "" {
			w.fail("%s at %s", ref.asked, ref.now)
			return false
		}
		return true
	}
	outcomes := map[string]crashEffect{}
	for _, x := range w.history {
		ref.now = x.at
		ref.mail, ref.log, ref.kind, ref.id = x.mail, x.log, "", ""
		switch {
		case x.call != nil:
			if err := x.call.Call(ctx, engine); err != nil && !errors.Is(err, fluxly.ErrNotFound) && !errors.Is(err, fluxly.ErrInvalid) {
				w.fail("without crashes, %s: %v", x.call.Name, err)
				return
			}
			continue
		case x.mail != nil:
			ref.kind, ref.id = fluxly.WorkSend, x.mail.Key
			ref.late = x.late
			outcomes[x.mail.Key] = x
		case x.log != nil:
			ref.kind, ref.id = fluxly.WorkCall, x.log.RunID
			if err := ref.callNow(ctx, x.log.RunID); err != nil {
				w.fail("without crashes: %v", err)
				return
			}
		}
		if !work() {
			return
		}
	}
	ref.now, ref.mail, ref.log, ref.all = p.last, nil, nil, true
	if !work() {
		return
	}
	if c := engine.Counters(); !w.erased && c.Queued != c.Accepted+c.Refused+c.Skipped+c.Unknown {
		w.fail("counters of the engine without crashes: %d mails queued, %d accepted, %d refused, %d skipped, %d unknown",
			c.Queued, c.Accepted, c.Refused, c.Skipped, c.Unknown)
	}
	got, err := crashDump(ctx, w.base(p), func(*fluxly.SendRecord) {})
	if err != nil {
		w.fail("read what is stored: %v", err)
		return
	}
	want, err := crashDump(ctx, ref.Store, func(m *fluxly.SendRecord) {
		if o := outcomes[m.Key]; o.late {
			m.Status, m.Reason = o.mail.Status, o.mail.Reason
		}
	})
	if err != nil {
		w.fail("read what is stored without crashes: %v", err)
		return
	}
	if !slices.Equal(want, got) {
		w.fail("the state is not that of the same history without crashes (- without, + with):\n%s", lineDiff(want, got))
	}
}

// lineDiff shows the lines from the first to the last difference.
func lineDiff(a, b []string) string {
	first := 0
	for first < min(len(a), len(b)) && a[first] == b[first] {
		first++
	}
	last := 0
	for last < min(len(a), len(b))-first && a[len(a)-1-last] == b[len(b)-1-last] {
		last++
	}
	var out strings.Builder
	for _, l := range a[max(first-2, 0):first] {
		out.WriteString("  " + l + "\n")
	}
	for _, l := range a[first : len(a)-last] {
		out.WriteString("- " + l + "\n")
	}
	for _, l := range b[first : len(b)-last] {
		out.WriteString("+ " + l + "\n")
	}
	return out.String()
}
