package fluxly

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Sentinels for what callers branch on; test with [errors.Is].
var (
	// ErrInvalid is what every refused input is: an event over a limit, a bad
	// address, a setting that cannot work. The error itself is a [*FieldError]
	// or a [*ConfigError] that names the field, or an [*APIError] or
	// [*BatchError] when GetFluxly refused it.
	ErrInvalid = errors.New("invalid input")
	// ErrConflict: the same message id was tracked before with another body.
	ErrConflict = errors.New("message id already used with another body")
	// ErrNotFound: the named automation, run, mail or profile does not exist.
	ErrNotFound = errors.New("not found")
	// ErrHeld: another transaction, which has not ended in time, holds what the
	// call needs, such as the lock of a person. Nothing was stored; repeat the
	// call with the same message id. The error itself is a [*HeldError].
	ErrHeld = errors.New("held by another transaction")
	// ErrClosed: the engine or store was closed.
	ErrClosed = errors.New("closed")
)

// FieldError is input that was refused before anything was stored or sent. It
// matches [ErrInvalid].
type FieldError struct {
	// Field is the path of the field in the terms of the caller, such as
	// "properties.amount" or "from_email".
	Field string
	// Value is what was found, cut to 64 bytes; empty where the value may be
	// a secret.
	Value string
	// Reason says what is wrong and, where known, what to do next.
	Reason string
	// Err is the cause, if there is one.
	Err error
}

// Error names the field, the value and the reason.
func (e *FieldError) Error() string {
	if e.Value == "" {
		return e.Field + ": " + e.Reason
	}
	return e.Field + " " + strconv.Quote(e.Value) + ": " + e.Reason
}

// about is the value and the reason, for where the field is named already.
func (e *FieldError) about() string {
	if e.Value == "" {
		return e.Reason
	}
	return strconv.Quote(e.Value) + ": " + e.Reason
}

// Unwrap returns the cause.
func (e *FieldError) Unwrap() error { return e.Err }

// Is reports whether target is [ErrInvalid].
func (e *FieldError) Is(target error) bool { return target == ErrInvalid }

// fieldErrorf makes a FieldError; value is cut so that an error never carries
// a megabyte of somebody's input.
func fieldErrorf(field, value, format string, args ...any) *FieldError {
	return &FieldError{Field: field, Value: clip(value, 64), Reason: fmt.Sprintf(format, args...)}
}

// clip shortens s to at most n bytes without splitting a rune, marking the cut.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	const mark = "..."
	n -= len(mark)
	for n > 0 && s[n]&0xC0 == 0x80 {
		n--
	}
	return s[:n] + mark
}

// HeldError is a transaction that did not get in time what another one has: a lock,
// such as that of a person, or the last connection. It matches [ErrHeld].
type HeldError struct {
	// Hints are the places, in the list that a [Preloader] was given, of those
	// who are locked. It is empty where the store cannot tell.
	Hints []int
	// Err is the store's own error, or that of the context that ended first.
	Err error
}

// Error says what to do.
func (e *HeldError) Error() string {
	return "another transaction holds somebody or something that the call needs; end that one, or repeat the call later with the same message id: " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *HeldError) Unwrap() error { return e.Err }

// Is reports whether target is [ErrHeld].
func (e *HeldError) Is(target error) bool { return target == ErrHeld }

// ConfigError is every mistake that [New] found, in the order of the
// configuration. It matches [ErrInvalid].
type ConfigError struct {
	Problems []Problem
}

// Problem is one mistake in a configuration.
type Problem struct {
	// Automation is the automation's name; empty when the mistake is in the
	// configuration outside of automations.
	Automation string
	// Step is the id of the step, empty when the mistake is not in a step.
	Step string
	// Field is what is wrong, such as "trigger" or "wait".
	Field string
	// Reason says what is wrong and what to do next.
	Reason string
}

// String names automation, step and field, then the reason.
func (p Problem) String() string {
	var b strings.Builder
	if p.Automation != "" {
		b.WriteString("automation " + strconv.Quote(p.Automation) + ": ")
	}
	if p.Step != "" {
		b.WriteString("step " + strconv.Quote(p.Step) + ": ")
	}
	if p.Field != "" {
		b.WriteString(p.Field + ": ")
	}
	b.WriteString(p.Reason)
	return b.String()
}

// Error lists all problems, one a line when there are several.
func (e *ConfigError) Error() string {
	if len(e.Problems) == 1 {
		return "fluxly: " + e.Problems[0].String()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "fluxly: %d mistakes in the configuration:", len(e.Problems))
	for _, p := range e.Problems {
		b.WriteString("\n  - " + p.String())
	}
	return b.String()
}

// Is reports whether target is [ErrInvalid].
func (e *ConfigError) Is(target error) bool { return target == ErrInvalid }
