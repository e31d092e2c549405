package postgres

import (
	"errors"
	"time"

	"github.com/getfluxly/fluxly"
)

// waiting is how the attempts of one Update wait for the locks of others.
type waiting struct {
	// most bounds the wait for one lock; zero is for lockTimeout.
	most time.Duration
	// ahead says that a Preload is at work, or failed.
	ahead bool
	// skip: a Preload waits for nobody, and says whom it would have to wait for.
	skip bool
}

// WaitAtMost implements [fluxly.WaitTx]. It is for who is held: what processes
// write in common for the time of a commit is waited for as ever.
func (t *tx) WaitAtMost(d time.Duration) {
	if t.waiting == nil || t.sent || len(t.queue) < 2 || d <= 0 {
		return
	}
	t.waiting.most = d
	t.queue[1].args = []any{d.String(), idleTimeout.String()}
}

// patient makes the next statements wait as long as others do.
func (t *tx) patient() { t.wait(lockTimeout) }

// brief takes patient back.
func (t *tx) brief() {
	if t.waiting != nil {
		t.wait(t.waiting.most)
	}
}

func (t *tx) wait(d time.Duration) {
	if t.waiting != nil && t.waiting.most > 0 {
		t.seal() // what was written before waits as before
		t.later("SELECT set_config('lock_timeout', $1::text, true)", d.String())
	}
}

// next says what follows a lock that was not there in time: another attempt
// that finds out who is held, or the error for the caller.
func (w *waiting) next(err error) (again bool, _ error) {
	if w.ahead && !w.skip {
		w.skip = true
		return true, nil
	}
	held := &fluxly.HeldError{Err: err}
	if e, ok := errors.AsType[*heldError](err); ok {
		held.Hints = e.hints
	}
	return false, held
}

// heldError is a Preload that found people whom others hold.
type heldError struct{ hints []int }

func (*heldError) Error() string    { return "others hold people that were to be locked" }
func (*heldError) SQLState() string { return codeLockTimeout }
