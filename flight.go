package fluxly

import (
	"sync"
	"time"
)

// flights are the mails that an engine has under way: those that it has
// claimed, until their outcome is stored, and those that it asks the provider
// about. They answer what the store cannot: whether a claim that is over by
// the clock belongs to this very process, and whether something has come
// between the last look at a person and the call of the sender.
//
// The zero value is ready; it may be used from many goroutines.
type flights struct {
	mu    sync.Mutex
	byKey map[string]*flight
}

// flight is one mail under way.
type flight struct {
	mail *SendRecord // as it was claimed
	// at is the clock when it was claimed, with its monotonic reading where it
	// has one.
	at time.Time
	// doubt: something that stops mail may have been stored since the last
	// look. called: the sender has it, and nothing stops it any more.
	doubt, called bool
}

// begin enters a mail, inside the transaction that claims it, so that none
// that stops it can come in between. A claim that the mail had before is
// forgotten. at is the clock, read before the end of the claim was set.
func (s *flights) begin(m *SendRecord, at time.Time) *flight {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byKey == nil {
		s.byKey = map[string]*flight{}
	}
	f := &flight{mail: m, at: at}
	s.byKey[m.Key] = f
	return f
}

// end takes mails out.
func (s *flights) end(fs ...*flight) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range fs {
		if s.byKey[f.mail.Key] == f {
			delete(s.byKey, f.mail.Key)
		}
	}
}

// has reports whether a mail is under way.
func (s *flights) has(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byKey[key] != nil
}

// doubt makes the mails named be looked at once more before the sender is
// called; without keys, all. It is called inside the transaction that stops
// them: a sender that was called before was called before it committed.
func (s *flights) doubt(keys ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, key := range keys {
		if f := s.byKey[key]; f != nil {
			f.doubt = true
		}
	}
	if len(keys) > 0 {
		return
	}
	for _, f := range s.byKey {
		f.doubt = true
	}
}

// doubt makes mails under way be looked at again: those named, or all. It is
// called inside the transaction that stops them, and all are in doubt once more
// when that is committed: where commits go on side by side, one that was claimed
// in between may have been looked at before.
func (e *Engine) doubt(tx Tx, keys ...string) {
	e.flights.doubt(keys...)
	if s, ok := tx.(*sharedTx); ok {
		s.doubt = true
	}
}

// look is called before each look; it reports whether the mail was in doubt.
// Such a look must wait for the transaction that raised the doubt: it is made
// in one of its own that may write.
func (s *flights) look(f *flight) (doubted bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	doubted, f.doubt = f.doubt, false
	return doubted
}

// call is called right before the sender; when it reports false the mail must
// be looked at again.
func (s *flights) call(f *flight) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	f.called = f.called || !f.doubt
	return f.called
}

// since is how long ago something was claimed: by the process's own monotonic
// clock, which no one can set, or by the wall clock where that says more,
// because the monotonic one may stand still while a machine sleeps.
func since(claimed, now time.Time) time.Duration {
	return max(now.Sub(claimed), now.Round(0).Sub(claimed.Round(0)))
}
