package fluxlytest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/mail"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/getfluxly/fluxly"
)

// FakeSender is a [fluxly.Sender] that sends nothing and keeps what it is
// given: a provider by script. The zero value accepts everything. Safe for
// many goroutines.
type FakeSender struct {
	// Now is the clock of the receipts. Defaults to [time.Now].
	Now func() time.Time
	// Stream is what MessageStream returns; empty means none.
	Stream string

	mu        sync.Mutex
	script    []Outcome
	rules     []countedRule
	plan      func(*fluxly.Message) (Outcome, bool)
	calls     []*Call
	taken     []taken
	lookupErr error
	lookups   int
	changed   chan struct{} // closed at the end of a call; nil when nobody waits
}

type countedRule struct {
	Rule
	seen int
}

type taken struct {
	message *fluxly.Message
	receipt fluxly.Receipt
}

var _ fluxly.LookupSender = (*FakeSender)(nil)

// Outcome is what a [FakeSender] does with one mail. The zero value accepts
// it.
type Outcome struct {
	// Err is returned to the caller; nil accepts the mail.
	Err error
	// Taken keeps the mail although Err is returned: the provider accepted
	// it, and the reply was lost.
	Taken bool
	// Before is called before the mail is taken, such as to change the world
	// between claim and hand-over.
	Before func(*fluxly.Message)
	// Hold, when set, makes the call wait before anything else, until the
	// channel is closed or receives, or the context of the call ends; then it
	// is as with Hang.
	Hold <-chan struct{}
	// Hang waits until the context of the call has ended, takes nothing, and
	// returns the context's error as a delivery error of unknown outcome.
	Hang bool
}

// Accept takes the mail.
func Accept() Outcome { return Outcome{} }

// Temporary refuses the mail for now.
func Temporary() Outcome {
	return Outcome{Err: &fluxly.DeliveryError{Kind: fluxly.Temporary, Phase: "rcpt", Host: fakeHost, Code: 450, EnhancedCode: "4.2.0", Text: "try again later"}}
}

// Permanent refuses the mail for good.
func Permanent() Outcome {
	return Outcome{Err: &fluxly.DeliveryError{Kind: fluxly.Permanent, Phase: "rcpt", Host: fakeHost, Code: 550, EnhancedCode: "5.1.1", Text: "no such user"}}
}

// BadCredentials refuses the account, as a wrong token does.
func BadCredentials() Outcome {
	return Outcome{Err: &fluxly.DeliveryError{Kind: fluxly.Permanent, Account: true, Auth: true, Phase: "auth", Host: fakeHost, Code: 535, EnhancedCode: "5.7.8", Text: "authentication failed"}}
}

// ReplyLost takes the mail, and loses the reply.
func ReplyLost() Outcome { return Outcome{Taken: true, Err: lostReply()} }

// Lost loses the mail before it was taken, in a way that the caller cannot
// tell from [ReplyLost].
func Lost() Outcome { return Outcome{Err: lostReply()} }

const fakeHost = "fake"

var errConnectionClosed = errors.New("connection closed before the reply")

func lostReply() error {
	return &fluxly.DeliveryError{Kind: fluxly.Unknown, Phase: "reply", Host: fakeHost, Err: errConnectionClosed}
}

// Rule says what happens to some mails.
type Rule struct {
	// To is the recipient's address, compared without case. Empty: any.
	To string
	// SendKey is the send key. Empty: any.
	SendKey string
	// Match, when set, must hold too. It must not call the sender.
	Match func(*fluxly.Message) bool
	// Nth is which of the calls that match is meant, from 1. 0 means each.
	Nth int
	// Outcome is what happens then.
	Outcome Outcome
}

func (r Rule) matches(m *fluxly.Message) bool {
	return (r.To == "" || strings.EqualFold(r.To, addressOf(m.To))) &&
		(r.SendKey == "" || r.SendKey == m.SendKey) &&
		(r.Match == nil || r.Match(m))
}

// Call is one call of Send.
type Call struct {
	// Message is the mail as it was when Send was called.
	Message fluxly.Message
	// Receipt and Err are what Send returned, once Ended.
	Receipt fluxly.Receipt
	Err     error
	Ended   bool
}

// Script sets the outcomes of the next mails, in order, whoever they are for.
// After them the rules decide again.
func (s *FakeSender) Script(outcomes ...Outcome) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.script = append(s.script, outcomes...)
}

// Rules adds rules. The first that fits decides; a rule with Nth counts the
// mails that no rule before it decided.
func (s *FakeSender) Rules(rules ...Rule) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range rules {
		s.rules = append(s.rules, countedRule{Rule: r})
	}
}

// Plan sets a function that decides the outcome of a mail. It is asked after
// script and rules, and false means to accept.
func (s *FakeSender) Plan(plan func(*fluxly.Message) (Outcome, bool)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.plan = plan
}

// WithoutLookup makes Lookup answer that it can never be asked, as an SMTP
// relay does.
func (s *FakeSender) WithoutLookup() { s.FailLookups(fluxly.ErrLookupUnavailable) }

// FailLookups makes each Lookup fail with the error; nil ends that.
func (s *FakeSender) FailLookups(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lookupErr = err
}

// Send does what the script says.
func (s *FakeSender) Send(ctx context.Context, m *fluxly.Message) (receipt fluxly.Receipt, err error) {
	c := *m
	c.Headers = slices.Clone(m.Headers)
	c.Metadata = maps.Clone(m.Metadata)
	call := &Call{Message: c}
	// A call also ends when the test's own code panics in it.
	err = errPanicked
	defer func() { s.end(call, receipt, err) }()
	o := s.begin(call)

	err = o.wait(ctx)
	if err == nil {
		err = errPanicked
		if o.Before != nil {
			o.Before(&c)
		}
		if err = o.Err; err == nil || o.Taken {
			receipt = s.take(&call.Message)
		}
		if err != nil {
			receipt = fluxly.Receipt{}
		}
	}
	return receipt, err
}

// errPanicked is what a call ends with when a plan or [Outcome.Before] panics
// in it.
var errPanicked = errors.New("the fake sender's script panicked")

// end records the end of a call.
func (s *FakeSender) end(call *Call, receipt fluxly.Receipt, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	call.Receipt, call.Err, call.Ended = receipt, err, true
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}

// begin records a call and finds its outcome.
func (s *FakeSender) begin(call *Call) Outcome {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, call)
	if len(s.script) > 0 {
		o := s.script[0]
		s.script = s.script[1:]
		return o
	}
	for i := range s.rules {
		if r := &s.rules[i]; r.matches(&call.Message) {
			if r.seen++; r.Nth == 0 || r.Nth == r.seen {
				return r.Outcome
			}
		}
	}
	if plan := s.plan; plan != nil {
		if o, ok := s.ask(plan, &call.Message); ok {
			return o
		}
	}
	return Accept()
}

// ask asks a plan. It is called with the lock held, and gives it up meanwhile:
// a plan may ask the sender what it has.
func (s *FakeSender) ask(plan func(*fluxly.Message) (Outcome, bool), m *fluxly.Message) (Outcome, bool) {
	s.mu.Unlock()
	defer s.mu.Lock() // also when the plan panics
	return plan(m)
}

// wait does the waiting of an outcome.
func (o Outcome) wait(ctx context.Context) error {
	if o.Hold != nil {
		select {
		case <-o.Hold:
		case <-ctx.Done():
			o.Hang = true
		}
	}
	if !o.Hang {
		return nil
	}
	<-ctx.Done()
	return &fluxly.DeliveryError{Kind: fluxly.Unknown, Phase: "reply", Host: fakeHost, Err: context.Cause(ctx)}
}

func (s *FakeSender) take(m *fluxly.Message) fluxly.Receipt {
	now := time.Now
	if s.Now != nil {
		now = s.Now
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r := fluxly.Receipt{ID: "fake-" + strconv.Itoa(len(s.taken)+1), Reply: "accepted by the fake sender", At: now()}
	s.taken = append(s.taken, taken{message: m, receipt: r})
	return r
}

// Lookup finds the first mail that was taken under the send key.
func (s *FakeSender) Lookup(ctx context.Context, key string) (fluxly.Receipt, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lookups++
	if err := ctx.Err(); err != nil {
		return fluxly.Receipt{}, false, context.Cause(ctx)
	}
	if s.lookupErr != nil {
		return fluxly.Receipt{}, false, s.lookupErr
	}
	for _, t := range s.taken {
		if t.message.SendKey == key {
			return t.receipt, true, nil
		}
	}
	return fluxly.Receipt{}, false, nil
}

// MessageStream is the stream that mails go to by default.
func (s *FakeSender) MessageStream() string { return s.Stream }

// Mails returns the mails that the provider took, in order and as often as it
// took them: what people find in their inbox. A mail whose reply was lost is
// among them.
func (s *FakeSender) Mails() []fluxly.Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	mails := make([]fluxly.Message, len(s.taken))
	for i, t := range s.taken {
		mails[i] = *t.message
	}
	return mails
}

// Twice returns the send keys that the provider took more than once, in the
// order in which that happened. A correct program leaves it empty.
func (s *FakeSender) Twice() []string {
	var twice []string
	count := map[string]int{}
	for _, m := range s.Mails() {
		if count[m.SendKey]++; m.SendKey != "" && count[m.SendKey] == 2 {
			twice = append(twice, m.SendKey)
		}
	}
	return twice
}

// Calls returns how often Send was called.
func (s *FakeSender) Calls() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.calls)
}

// Lookups returns how often Lookup was called.
func (s *FakeSender) Lookups() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lookups
}

// History returns every call of Send, in the order in which they began.
func (s *FakeSender) History() []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	calls := make([]Call, len(s.calls))
	for i, c := range s.calls {
		calls[i] = *c
	}
	return calls
}

// Wait returns the history as soon as at least n calls have ended, or the
// error of ctx.
func (s *FakeSender) Wait(ctx context.Context, n int) ([]Call, error) {
	for {
		s.mu.Lock()
		ended := 0
		for _, c := range s.calls {
			if c.Ended {
				ended++
			}
		}
		if s.changed == nil {
			s.changed = make(chan struct{})
		}
		changed := s.changed
		s.mu.Unlock()
		if ended >= n {
			return s.History(), nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for %d calls, %d have ended: %w", n, ended, context.Cause(ctx))
		}
	}
}

// addressOf returns the address of a mailbox, or the text when it is none.
func addressOf(mailbox string) string {
	a, err := mail.ParseAddress(mailbox)
	if err != nil {
		return mailbox
	}
	return a.Address
}
