package fluxly

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"
)

// Sender hands one composed mail to a provider. It is the seam for fakes in
// tests and for other transports.
//
// Send returns nil and a [Receipt] only when the provider took the mail. Any
// other outcome is an error, best a [*DeliveryError]: its Kind decides what
// the engine does next. An error of another type counts as [Unknown], because
// the engine cannot know whether the mail went out. Send must not try a mail
// again by itself once the provider may have taken it. It must return when ctx
// ends; one that does not is given up on, its mail counts as Unknown, and its
// place among Config.MaxSends stays taken until it returns. It is called from
// many goroutines.
type Sender interface {
	Send(ctx context.Context, m *Message) (Receipt, error)
}

// BatchSender is a [Sender] that can also hand over several mails in one call,
// such as [Postmark]. Results stand in the order of ms. The engine hands mails
// over one by one, each with a last look at whether it may go.
type BatchSender interface {
	Sender
	SendBatch(ctx context.Context, ms []*Message) []Result
}

// LookupSender is a [Sender] that can say whether the provider already took
// the mail of a send key. The engine asks it before it tries a mail again
// whose reply was lost.
//
// A provider that shows a mail only some time after it took it has a further
// method LookupDelay() time.Duration: only after that time does "not there"
// mean that the mail was never taken.
type LookupSender interface {
	Sender
	// Lookup returns the receipt and true when the provider has the mail. An
	// error means that it could not ask, and the mail stays unknown;
	// [ErrLookupUnavailable] that it never can.
	Lookup(ctx context.Context, sendKey string) (Receipt, bool, error)
}

// ErrLookupUnavailable is what a [LookupSender] returns when it can never be
// asked, such as an SMTP sender without an API token. The mail is then settled
// by Config.Unknown.
var ErrLookupUnavailable = errors.New("this sender cannot look mails up")

// Result is the outcome of one mail of a batch.
type Result struct {
	Receipt Receipt
	Err     error
}

// Receipt is what a provider said when it took a mail.
type Receipt struct {
	// ID is the provider's id of the mail, or the queue id in an SMTP reply;
	// empty when the provider gave none.
	ID string `json:"id,omitempty"`
	// Reply is the text of the reply, cleaned of control characters.
	Reply string `json:"reply,omitempty"`
	// At is when the provider took the mail.
	At time.Time `json:"at,omitzero"`
}

// DeliveryKind says what a failed hand-over means for the mail.
type DeliveryKind string

const (
	// Temporary: the provider did not take the mail; it may be tried again.
	Temporary DeliveryKind = "temporary"
	// Permanent: the provider refused for good; trying again is useless.
	Permanent DeliveryKind = "permanent"
	// Unknown: the provider may have taken the mail. It must not be tried
	// again before the provider was asked, or a person has decided.
	Unknown DeliveryKind = "unknown"
)

// Sentinels for [DeliveryError]; test with [errors.Is].
var (
	// ErrTemporary matches a DeliveryError of kind [Temporary].
	ErrTemporary = errors.New("temporary delivery failure")
	// ErrPermanent matches a DeliveryError of kind [Permanent].
	ErrPermanent = errors.New("permanent delivery failure")
	// ErrUnknownOutcome matches a DeliveryError of kind [Unknown].
	ErrUnknownOutcome = errors.New("unknown delivery outcome")
	// ErrAuth matches a DeliveryError in which the provider refused the
	// credentials.
	ErrAuth = errors.New("provider refused the credentials")
)

// DeliveryError is a hand-over to a provider that did not end with a receipt.
type DeliveryError struct {
	Kind DeliveryKind
	// Account is true when the failure is not about this mail but about the
	// account, the credentials or the connection settings: each further mail
	// would fail alike. The engine then keeps the mail, whatever its Kind
	// (other than Unknown), and holds the sender back.
	Account bool
	// Auth is true when the credentials were refused.
	Auth bool
	// Phase is the step that failed: "check" (before any byte was sent),
	// "dial", "greeting", "ehlo", "starttls", "auth", "mail", "rcpt", "data",
	// "body" (until the final dot), "reply" (after it), "http".
	Phase string
	// Host is the host and port that was talked to.
	Host string
	// Code is the SMTP reply code or the HTTP status; 0 when there was none.
	Code int
	// EnhancedCode is the RFC 3463 status such as "5.7.8", or empty.
	EnhancedCode string
	// ProviderCode is the provider's own error number (Postmark's ErrorCode);
	// 0 when there is none.
	ProviderCode int
	// Recipient is the address that was refused, when one was.
	Recipient string
	// Text is the provider's text, cleaned of control characters, at most
	// 1,000 bytes.
	Text string
	// Remedy says what to do next, where it is known.
	Remedy string
	// RetryAfter is how long the provider asked to wait; 0 when it did not.
	RetryAfter time.Duration
	// Err is the cause, if there is one.
	Err error
}

// Error names phase, host, code, text and remedy.
func (e *DeliveryError) Error() string {
	var b strings.Builder
	b.WriteString("send failed (" + string(e.Kind) + ")")
	if e.Phase != "" {
		b.WriteString(" at " + e.Phase)
	}
	if e.Host != "" {
		b.WriteString(" with " + e.Host)
	}
	if e.Recipient != "" {
		b.WriteString(" for " + strconv.Quote(e.Recipient))
	}
	b.WriteString(":")
	if e.Code != 0 {
		b.WriteString(" " + strconv.Itoa(e.Code))
	}
	if e.EnhancedCode != "" {
		b.WriteString(" " + e.EnhancedCode)
	}
	if e.ProviderCode != 0 {
		b.WriteString(" (error code " + strconv.Itoa(e.ProviderCode) + ")")
	}
	switch {
	case e.Text != "":
		b.WriteString(" " + e.Text)
	case e.Err != nil:
		b.WriteString(" " + e.Err.Error())
	}
	if e.Remedy != "" {
		b.WriteString("; " + e.Remedy)
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *DeliveryError) Unwrap() error { return e.Err }

// Is matches the sentinels [ErrTemporary], [ErrPermanent],
// [ErrUnknownOutcome] and [ErrAuth].
func (e *DeliveryError) Is(target error) bool {
	switch target {
	case ErrTemporary:
		return e.Kind == Temporary
	case ErrPermanent:
		return e.Kind == Permanent
	case ErrUnknownOutcome:
		return e.Kind == Unknown
	case ErrAuth:
		return e.Auth
	}
	return false
}
