package fluxly

import (
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/getfluxly/fluxly/internal/value"
)

// Sentinels for [APIError]; test with [errors.Is]. A 404 matches [ErrNotFound]
// and a 400 or 422 matches [ErrInvalid].
var (
	// ErrUnauthenticated (401): no key, or one that is not known.
	ErrUnauthenticated = errors.New("api key missing or not known")
	// ErrForbidden (403): the key may not do this. A wrong key type matches it
	// too.
	ErrForbidden = errors.New("api key has no access")
	// ErrWrongKeyType: a publishable key where a server key is needed.
	ErrWrongKeyType = errors.New("server key needed")
	// ErrAliasConflict (409): the id to fold in belongs to another live
	// profile.
	ErrAliasConflict = errors.New("alias conflict")
	// ErrErasureInProgress (409): the person is being erased already.
	ErrErasureInProgress = errors.New("erasure in progress")
	// ErrTooLarge (413): the request is over a size limit.
	ErrTooLarge = errors.New("payload too large")
	// ErrRateLimited (429): the tries were used up, or the wait that was asked
	// for is longer than the client may wait.
	ErrRateLimited = errors.New("rate limited")
	// ErrUnavailable: the API was not reached, or failed on its side (408, 425,
	// 5xx). The request may or may not have taken effect; to repeat it with
	// the same message id is safe.
	ErrUnavailable = errors.New("api unavailable")
)

// The codes of an [APIError] that GetFluxly documents
// (https://docs.getfluxly.com/snippets/error-table). Others may come; branch
// on the sentinels where one fits.
const (
	CodeValidation        = "validation_error"
	CodeUnauthenticated   = "unauthenticated"
	CodeForbidden         = "forbidden"
	CodeWrongKeyType      = "wrong_key_type"
	CodeNotFound          = "not_found"
	CodeTimeout           = "timeout"
	CodeAliasConflict     = "alias_conflict"
	CodeErasureInProgress = "erasure_in_progress"
	CodePayloadTooLarge   = "payload_too_large"
	CodeTooEarly          = "too_early"
	CodeRateLimited       = "rate_limited"
	CodeServerError       = "server_error"
	// CodeConflict is that of this library's own intake (package fluxlyhttp)
	// for a message id or idempotency key that was used with another body.
	CodeConflict = "conflict"
)

// Codes that are this client's own.
const (
	codeNetwork          = "network_error"
	codeCanceled         = "canceled"
	codeUnexpectedReply  = "unexpected_reply"
	codeUnexpectedStatus = "unexpected_status"
	codeRejected         = "rejected"
	codeFailed           = "failed"
)

const (
	maxAPIErrorBody   = 8 << 10
	maxAPIErrorDetail = 1000
	maxAPIErrorCode   = 64
	longestRetryAfter = 365 * 24 * time.Hour
)

// APIError is a call of [Client] that GetFluxly's API refused, or that did not
// reach it. It holds no key, token or password, also where the API sent one
// back.
type APIError struct {
	// Op is the call, with the ids in its path left out, such as
	// "POST /v1/events".
	Op string
	// Status is the HTTP status of the last reply; 0 when there was none.
	Status int
	// Code is the API's code, or the documented one of the status when the
	// reply has none. Without a reply it is "network_error", "timeout" or
	// "canceled".
	Code string
	// Detail is the API's text without control characters, at most 1,000
	// bytes.
	Detail string
	// RequestID names the request in GetFluxly's logs, where it said one.
	RequestID string
	// Retryable is true when the same request may succeed later. The client
	// has used up its own tries by then.
	Retryable bool
	// RetryAfter is how long the API asked to wait; 0 when it did not.
	RetryAfter time.Duration
	// Tries counts the requests made.
	Tries int
	// Remedy says what to do next, where it is known.
	Remedy string
	// Fields is the JSON object of the reply with all its fields, such as the
	// two profiles of an alias conflict; nil when it is none.
	Fields map[string]any
	// Body is the start of the reply as it came, at most 8 KB.
	Body []byte
	// Err is the cause when there was no reply: the network's error or that of
	// the context.
	Err error
}

// Error names the call, status, code, text, request id and remedy.
func (e *APIError) Error() string {
	var b strings.Builder
	b.WriteString("getfluxly " + e.Op + ":")
	if e.Status != 0 {
		b.WriteString(" " + strconv.Itoa(e.Status))
	}
	b.WriteString(" " + e.Code)
	if e.Detail != "" {
		b.WriteString(": " + e.Detail)
	}
	if e.Err != nil {
		b.WriteString(": " + e.Err.Error())
	}
	if e.RequestID != "" {
		b.WriteString(" (request " + e.RequestID + ")")
	}
	if e.Tries > 1 {
		b.WriteString(" after " + strconv.Itoa(e.Tries) + " tries")
	}
	if e.RetryAfter > 0 {
		b.WriteString("; retry after " + e.RetryAfter.Round(time.Millisecond).String())
	}
	if e.Remedy != "" {
		b.WriteString("; " + e.Remedy)
	}
	return b.String()
}

// Unwrap returns the cause, so that an ended context can be told with
// [errors.Is].
func (e *APIError) Unwrap() error { return e.Err }

// Is matches the sentinels of this file, [ErrNotFound], [ErrConflict] and
// [ErrInvalid].
func (e *APIError) Is(target error) bool {
	switch target {
	case ErrUnauthenticated:
		return e.Status == http.StatusUnauthorized
	case ErrForbidden:
		return e.Status == http.StatusForbidden
	case ErrWrongKeyType:
		return e.Status == http.StatusForbidden && e.Code == CodeWrongKeyType
	case ErrNotFound:
		return e.Status == http.StatusNotFound
	case ErrConflict:
		return e.Status == http.StatusConflict && e.Code == CodeConflict
	case ErrAliasConflict:
		return e.Status == http.StatusConflict && e.Code == CodeAliasConflict
	case ErrErasureInProgress:
		return e.Status == http.StatusConflict && e.Code == CodeErasureInProgress
	case ErrTooLarge:
		return e.Status == http.StatusRequestEntityTooLarge
	case ErrRateLimited:
		return e.Status == http.StatusTooManyRequests
	case ErrInvalid:
		return e.Status == http.StatusBadRequest || e.Status == http.StatusUnprocessableEntity ||
			(isSuccess(e.Status) && e.Code == CodeValidation)
	case ErrUnavailable:
		return e.Status != http.StatusTooManyRequests && (retryableStatus(e.Status) || (e.Status == 0 && e.Code != codeCanceled))
	}
	return false
}

func isSuccess(status int) bool { return status >= 200 && status <= 299 }

// retryableStatus is the documented table:
// https://docs.getfluxly.com/snippets/error-table
func retryableStatus(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return true
	}
	return status >= 500 && status <= 599
}

// codeOfStatus is the code that stands for a status when the reply has none.
func codeOfStatus(status int) string {
	switch status {
	case http.StatusBadRequest, http.StatusUnprocessableEntity:
		return CodeValidation
	case http.StatusUnauthorized:
		return CodeUnauthenticated
	case http.StatusForbidden:
		return CodeForbidden
	case http.StatusNotFound:
		return CodeNotFound
	case http.StatusRequestTimeout:
		return CodeTimeout
	case http.StatusRequestEntityTooLarge:
		return CodePayloadTooLarge
	case http.StatusTooEarly:
		return CodeTooEarly
	case http.StatusTooManyRequests:
		return CodeRateLimited
	}
	if retryableStatus(status) {
		return CodeServerError
	}
	return codeUnexpectedStatus
}

// remedyOf says what to do about a refusal, where that is known.
func remedyOf(code string) string {
	switch code {
	case CodeUnauthenticated:
		return "check that the key is whole and was not deleted"
	case CodeForbidden:
		return "use a key of the project that owns this"
	case CodeWrongKeyType:
		return "use a server key (gflux_secret_...)"
	}
	return ""
}

// replyError makes the APIError of a reply. It never fails: what cannot be
// read is kept in Body.
func replyError(op string, r *reply) *APIError {
	e := &APIError{
		Op: op, Status: r.status, RequestID: r.requestID(), Tries: r.tries,
		Retryable: retryableStatus(r.status), RetryAfter: r.retryAfter,
		Fields: r.fields, Body: r.body[:min(len(r.body), maxAPIErrorBody)],
	}
	code, detail := errorOfFields(r.fields)
	e.Code, e.Detail = code, detail
	if e.Code == "" {
		e.Code = codeOfStatus(r.status)
	}
	if r.status >= 300 && r.status <= 399 {
		e.Detail = "redirected" + redirectHost(r.header.Get("Location"))
		e.Remedy = "the key is not sent on to where a redirect leads; set BaseURL to the address of the API itself"
		return e
	}
	e.Remedy = remedyOf(e.Code)
	return e
}

func redirectHost(location string) string {
	if u, err := url.Parse(location); err == nil && u.Host != "" {
		return " to " + cleanText(u.Host, 256)
	}
	return ""
}

// errorOfFields takes code and text out of an error body. The documented form
// is {"error": code, "detail": text}; the common variants are read too.
func errorOfFields(fields map[string]any) (code, detail string) {
	switch v := fields["error"].(type) {
	case string:
		code = v
	case map[string]any:
		code, _ = v["code"].(string)
		detail = textOf(v["detail"], v["message"])
	}
	if code == "" {
		code, _ = fields["code"].(string)
	}
	if !isCode(code) {
		// A sentence where the code should stand is text.
		code, detail = "", textOf(detail, code)
	}
	if d := textOf(fields["detail"], fields["message"]); d != "" {
		detail = d
	}
	return code, cleanText(detail, maxAPIErrorDetail)
}

// textOf returns the first value that says something, as text.
func textOf(values ...any) string {
	for _, v := range values {
		switch v := v.(type) {
		case nil:
		case string:
			if v != "" {
				return v
			}
		default:
			return string(value.AppendJSON(nil, v))
		}
	}
	return ""
}

func isCode(s string) bool {
	if len(s) > maxAPIErrorCode {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' && c != '-' && c != '.' {
			return false
		}
	}
	return s != ""
}

// cleanText makes foreign text fit for a log line.
func cleanText(s string, most int) string {
	s = clip(strings.ToValidUTF8(s, "\ufffd"), most)
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == '\u2028' || r == '\u2029' {
			return ' '
		}
		return r
	}, s))
}

// parseRetryAfter reads the Retry-After header (RFC 9110 section 10.2.3):
// seconds, or a date. A date is taken relative to the reply's own Date where
// there is one, so that a wrong clock on either side does no harm.
func parseRetryAfter(h http.Header, now time.Time) time.Duration {
	s := strings.TrimSpace(h.Get("Retry-After"))
	if s == "" {
		return 0
	}
	if s[0] >= '0' && s[0] <= '9' {
		seconds, err := strconv.ParseFloat(s, 64)
		if err != nil && !errors.Is(err, strconv.ErrRange) {
			return 0
		}
		return time.Duration(min(seconds*float64(time.Second), float64(longestRetryAfter)))
	}
	at, err := http.ParseTime(s)
	if err != nil {
		return 0
	}
	if date, err := http.ParseTime(h.Get("Date")); err == nil {
		now = date
	}
	return min(max(at.Sub(now), 0), longestRetryAfter)
}
