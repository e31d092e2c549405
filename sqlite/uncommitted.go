package sqlite

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/getfluxly/fluxly"
)

// uncommitted is what transactions of callers made due or erased, until they
// have ended. SQLite tells nobody of a commit, but whoever gets the write lock
// knows that every transaction that wrote before has ended: one way or the
// other, which the lanes find out for themselves.
type uncommitted struct {
	mu       sync.Mutex
	noted    bool
	earliest [len(lanes)]time.Time
	erased   bool

	waiting bool // a goroutine waits for the write lock
	closed  bool
	cancel  context.CancelFunc // of the goroutine
	done    sync.WaitGroup
}

// add is called while the caller's transaction holds the write lock.
func (u *uncommitted) add(s *Store, tx *tx) {
	if tx.earliest == [len(lanes)]time.Time{} && !tx.erased {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed {
		return
	}
	u.noted = true
	u.erased = u.erased || tx.erased
	for i, due := range tx.earliest {
		if !due.IsZero() && (u.earliest[i].IsZero() || due.Before(u.earliest[i])) {
			u.earliest[i] = due
		}
	}
	if u.waiting {
		return
	}
	u.waiting = true
	// It belongs to the store, not to the call: Close ends it.
	ctx, cancel := context.WithCancel(context.Background())
	u.cancel = cancel
	u.done.Go(func() {
		defer cancel()
		u.wait(ctx, s)
	})
}

// retryPause is how long to wait after a failure to take the write lock that is
// not for want of the lock.
const retryPause = time.Second

// wait takes the write lock, by which all is settled, once or until it could.
func (u *uncommitted) wait(ctx context.Context, s *Store) {
	for {
		err := s.Update(ctx, func(fluxly.Tx) error { return nil })
		u.mu.Lock()
		if !u.noted || ctx.Err() != nil || errors.Is(err, fluxly.ErrClosed) {
			u.waiting = false
			u.mu.Unlock()
			return
		}
		u.mu.Unlock()
		if err != nil && !errors.Is(err, ErrBusy) {
			timer := time.NewTimer(retryPause)
			select {
			case <-ctx.Done():
			case <-timer.C:
			}
			timer.Stop()
		}
	}
}

// settle is called by the holder of the write lock.
func (u *uncommitted) settle(s *Store) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.noted {
		return
	}
	if u.erased {
		s.wipe.Store(true)
	}
	s.wake(&u.earliest)
	u.noted, u.erased, u.earliest = false, false, [len(lanes)]time.Time{}
}

// close ends the goroutine and waits for it.
func (u *uncommitted) close() {
	u.mu.Lock()
	u.closed = true
	if u.cancel != nil {
		u.cancel()
	}
	u.mu.Unlock()
	u.done.Wait()
}
