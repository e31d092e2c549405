package fluxly

import (
	"context"
	"time"
)

// sendMeter is the name of the meter of Config.SendRate.
const sendMeter = "sends"

// turnSlack is how long after its turn a mail may still be handed over. A
// process that is later than that gives the turn up and takes another: so in no
// second more mails are handed over than were given turns in a second and this.
const turnSlack = 200 * time.Millisecond

// waitsForTurn is the detail of a queued mail that was put off by SendRate.
const waitsForTurn = "waits for its turn under Config.SendRate"

// turns gives out turns to hand mails over, in the transaction that claims them.
// All processes on the store share them, by a meter in it.
type turns struct {
	rate  int
	now   time.Time
	meter *Meter // read when it is first needed
	dirty bool
}

// longestTurn bounds how far ahead turns are given out.
const longestTurn = 15 * time.Minute

// turnWindow is how long a turn counts.
const turnWindow = time.Second + turnSlack

// take takes a turn for a mail; when there is none it puts the mail off until
// there may be.
func (t *turns) take(ctx context.Context, tx Tx, m *SendRecord) (ok bool, err error) {
	if t.rate <= 0 {
		return true, nil
	}
	if t.meter == nil {
		if t.meter, err = tx.Meter(ctx, sendMeter); err != nil {
			return false, err
		}
		if t.meter == nil {
			t.meter = &Meter{Name: sendMeter}
		}
	}
	t.dirty = true
	used := t.meter.Used
	// What a clock far ahead of this one has written counts as of now.
	for i := range used {
		if used[i].After(t.now.Add(turnWindow)) {
			used[i] = t.now
		}
	}
	for len(used) > 0 && !used[0].Add(turnWindow).After(t.now) {
		used = used[1:]
	}
	t.meter.Used = used
	if len(used) < t.rate {
		at := t.now
		if n := len(used); n > 0 && used[n-1].After(at) {
			at = used[n-1] // a clock behind that of another process
		}
		t.meter.Used = append(used, at)
		return true, nil
	}
	free := used[len(used)-t.rate].Add(turnWindow)
	if m.Detail != waitsForTurn {
		// Behind those who wait already. They may have been taken back meanwhile,
		// so nobody is sent further behind than this, and asks again then.
		if t.meter.Queue.After(free) && t.meter.Queue.Before(free.Add(longestTurn)) {
			free = t.meter.Queue
		} else if t.meter.Queue.After(free) {
			t.meter.Queue = free
		}
		t.meter.Queue = free.Add(turnWindow / time.Duration(t.rate))
	}
	m.DueAt, m.Detail = free, waitsForTurn
	return false, nil
}

// done stores what was taken.
func (t *turns) done(ctx context.Context, tx Tx) error {
	if !t.dirty {
		return nil
	}
	return tx.PutMeter(ctx, t.meter)
}

// callBy is how long after its claim the sender may be called for a mail.
func (e *Engine) callBy() time.Duration {
	if e.cfg.SendRate > 0 {
		return min(turnSlack, e.lastCall())
	}
	return e.lastCall()
}
