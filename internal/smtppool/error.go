package smtppool

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Outcome says what a failure means for the mail.
type Outcome uint8

const (
	// Deferred: the server does not have the mail; it may be sent again.
	Deferred Outcome = iota
	// Rejected: the server refused for good.
	Rejected
	// Unknown: the whole mail left and no answer came. The server may have it.
	Unknown
)

// The phases in which a hand-over can fail.
const (
	PhaseCheck    = "check"
	PhaseDial     = "dial"
	PhaseGreeting = "greeting"
	PhaseEHLO     = "ehlo"
	PhaseSTARTTLS = "starttls"
	PhaseAuth     = "auth"
	PhaseMail     = "mail"
	PhaseRcpt     = "rcpt"
	PhaseData     = "data"
	PhaseBody     = "body"
	PhaseReply    = "reply"
)

// Reason is the cause of a failure as far as it can be told.
type Reason uint8

// The reasons.
const (
	// ReasonOther is a cause without a name of its own.
	ReasonOther Reason = iota
	// ReasonReply: the server answered with a refusal; see Code.
	ReasonReply
	// ReasonCanceled: the caller's context ended.
	ReasonCanceled
	// ReasonTimeout: the step took longer than its time.
	ReasonTimeout
	// ReasonClosed: the server or the network ended the connection.
	ReasonClosed
	// ReasonProtocol: the server said something that is not SMTP, or not here.
	ReasonProtocol
	// ReasonNoHost: the host name has no address.
	ReasonNoHost
	// ReasonRefused: nobody listens on the port.
	ReasonRefused
	// ReasonNoSTARTTLS: the server did not offer or refused STARTTLS.
	ReasonNoSTARTTLS
	// ReasonNotTLS: the server did not answer the TLS handshake with TLS.
	ReasonNotTLS
	// ReasonTLSVersion: no TLS version in common.
	ReasonTLSVersion
	// ReasonCertName: the certificate is for another name.
	ReasonCertName
	// ReasonCertExpired: the certificate has expired or is not valid yet.
	ReasonCertExpired
	// ReasonCertUnknown: the certificate is of an authority that is not trusted.
	ReasonCertUnknown
	// ReasonInjection: plain text came behind the answer to STARTTLS.
	ReasonInjection
	// ReasonNoAuth: the server does not offer AUTH PLAIN.
	ReasonNoAuth
	// ReasonAuth: the server refused the credentials.
	ReasonAuth
	// ReasonNotLoopback: a connection without TLS would have left the machine.
	ReasonNotLoopback
	// ReasonTooBig: the mail is larger than the server announced to take.
	ReasonTooBig
	// ReasonInvalid: the envelope or the bytes cannot be sent.
	ReasonInvalid
	// ReasonPoolClosed: the pool was closed.
	ReasonPoolClosed
)

// Error is a mail that was not handed over, or a session that was not opened.
type Error struct {
	Outcome Outcome
	Phase   string
	Reason  Reason
	// Account is true when the failure is about the connection or the
	// credentials, so that every other mail would fail alike.
	Account bool
	// Code, Enhanced and Text are the server's reply, when there was one.
	Code     int
	Enhanced string
	Text     string
	// Recipient is set when RCPT was refused.
	Recipient string
	// RetryAfter is how long the pool will not dial, when it holds back.
	RetryAfter time.Duration
	// Err is the cause, when it is not a reply.
	Err error
}

// Error names phase, code and text.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Phase + ":")
	if e.Code != 0 {
		b.WriteString(" " + strconv.Itoa(e.Code))
	}
	if e.Enhanced != "" {
		b.WriteString(" " + e.Enhanced)
	}
	switch {
	case e.Text != "":
		b.WriteString(" " + e.Text)
	case e.Err != nil:
		b.WriteString(" " + e.Err.Error())
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// phaseError is a failure that is not a reply.
func phaseError(phase string, reason Reason, err error) *Error {
	e := &Error{Phase: phase, Reason: reason, Err: err, Account: opening(phase)}
	switch reason {
	case ReasonCanceled, ReasonPoolClosed:
		e.Account = false
	case ReasonNoSTARTTLS, ReasonCertName, ReasonCertExpired, ReasonCertUnknown, ReasonNoAuth, ReasonNotLoopback, ReasonTLSVersion, ReasonNotTLS, ReasonTooBig, ReasonInvalid:
		e.Outcome = Rejected
	}
	return e
}

// opening reports whether a phase comes before the first mail of a session.
func opening(phase string) bool {
	switch phase {
	case PhaseDial, PhaseGreeting, PhaseEHLO, PhaseSTARTTLS, PhaseAuth:
		return true
	}
	return false
}

// replyError is a refusal by the server.
func (c *Config) replyError(phase string, code int, text []byte) *Error {
	status, rest := enhanced(code, text)
	e := &Error{Phase: phase, Reason: ReasonReply, Code: code, Enhanced: status, Text: c.scrub(clean(rest, maxText)), Account: opening(phase)}
	if code >= 500 {
		e.Outcome = Rejected
	}
	// 530 is "authentication required" (RFC 4954 section 6); 535 may come
	// later than AUTH when credentials are withdrawn.
	if code == 535 || code == 530 || (code == 534 && phase == PhaseAuth) || (code == 538 && phase == PhaseAuth) {
		e.Reason, e.Account = ReasonAuth, true
	}
	if e.Text == "" {
		e.Err = errors.New("no text in the reply")
	}
	return e
}

// scrub takes the credentials out of a server's text: some echo what they got.
func (c *Config) scrub(text string) string {
	if c.Password == "" {
		return text
	}
	for _, secret := range []string{
		base64.StdEncoding.EncodeToString([]byte("\x00" + c.Username + "\x00" + c.Password)),
		base64.StdEncoding.EncodeToString([]byte(c.Password)),
		c.Password, c.Username,
	} {
		if len(secret) >= 4 {
			text = strings.ReplaceAll(text, secret, "[redacted]")
		}
	}
	return text
}

// timeoutError says which limit ended a step.
type timeoutError struct {
	limit time.Duration
	// dial is the cause where no connection came about. It is not unwrapped:
	// it would pass for the end of the caller's context.
	dial error
}

func (e *timeoutError) Error() string {
	if e.dial != nil {
		return "no connection within " + e.limit.String() + ": " + e.dial.Error()
	}
	return "no answer within " + e.limit.String()
}

func (e *timeoutError) Is(target error) bool { return target == os.ErrDeadlineExceeded }

// ioError explains a failed read or write. ctx is the caller's; limit is the
// time that the step had.
func ioError(ctx context.Context, phase string, limit time.Duration, err error) *Error {
	if ctxErr := contextEnded(ctx); ctxErr != nil {
		return phaseError(phase, ReasonCanceled, ctxErr)
	}
	var (
		host    x509.HostnameError
		invalid x509.CertificateInvalidError
		unknown x509.UnknownAuthorityError
		record  tls.RecordHeaderError
		alert   tls.AlertError
		garbage *notReplyError
		dns     *net.DNSError
		netErr  net.Error
	)
	switch {
	case errors.As(err, &host):
		return phaseError(phase, ReasonCertName, err)
	case errors.As(err, &invalid):
		reason := ReasonCertUnknown
		if invalid.Reason == x509.Expired {
			reason = ReasonCertExpired
		}
		return phaseError(phase, reason, err)
	case errors.As(err, &unknown):
		return phaseError(phase, ReasonCertUnknown, err)
	case errors.As(err, &record):
		return phaseError(phase, ReasonNotTLS, err)
	case errors.As(err, &alert) && uint8(alert) == 70, // protocol_version, RFC 8446 section 6
		err != nil && strings.Contains(err.Error(), "unsupported protocol version"),
		err != nil && strings.Contains(err.Error(), "protocol version not supported"):
		return phaseError(phase, ReasonTLSVersion, err)
	case errors.As(err, &garbage), errors.Is(err, errReplyLine), errors.Is(err, errReplySize), errors.Is(err, errReplyCodes), errors.Is(err, errReplyExtra):
		return phaseError(phase, ReasonProtocol, err)
	case errors.As(err, &dns) && !dns.IsTimeout:
		return phaseError(phase, ReasonNoHost, err)
	case errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &netErr) && netErr.Timeout():
		if phase == PhaseDial {
			return phaseError(phase, ReasonTimeout, &timeoutError{limit: limit, dial: err})
		}
		return phaseError(phase, ReasonTimeout, &timeoutError{limit: limit})
	case errors.Is(err, syscall.ECONNREFUSED):
		return phaseError(phase, ReasonRefused, err)
	case closedByPeer(err):
		return phaseError(phase, ReasonClosed, fmt.Errorf("connection closed: %w", err))
	}
	return phaseError(phase, ReasonOther, err)
}

func closedByPeer(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.ErrClosedPipe) ||
		errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// contextEnded is ctx.Err, and also DeadlineExceeded when the deadline has
// passed but the context's own timer has not fired yet: the connection's
// deadline is the same instant and may win that race.
func contextEnded(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if d, ok := ctx.Deadline(); ok && !time.Now().Before(d) {
		return context.DeadlineExceeded
	}
	return nil
}
