package tmpl

import (
	"errors"
	"fmt"
)

// Limits of one rendered part.
var (
	// ErrTooLong is returned by a template that writes more than it may.
	ErrTooLong = errors.New("output is too long")
	// ErrTooManySteps is returned by a template that runs for too long.
	ErrTooManySteps = errors.New("template takes too many steps")
)

// Buffer collects the output of an instrumented template and stops it when it
// writes too much or too often. The bound does not depend on a clock, so the
// same data always gives the same outcome.
type Buffer struct {
	b                 []byte
	maxBytes, maxStep int
	steps             int
}

// Reset empties the buffer and sets its limits.
func (b *Buffer) Reset(maxBytes, maxSteps int) {
	b.b, b.steps, b.maxBytes, b.maxStep = b.b[:0], 0, maxBytes, maxSteps
}

// Write implements io.Writer.
func (b *Buffer) Write(p []byte) (int, error) {
	if b.steps++; b.steps > b.maxStep {
		return 0, fmt.Errorf("%w: more than %d", ErrTooManySteps, b.maxStep)
	}
	if len(b.b)+len(p) > b.maxBytes {
		return 0, fmt.Errorf("%w: more than %d bytes", ErrTooLong, b.maxBytes)
	}
	b.b = append(b.b, p...)
	return len(p), nil
}

// WriteString implements io.StringWriter.
func (b *Buffer) WriteString(s string) (int, error) {
	if b.steps++; b.steps > b.maxStep {
		return 0, fmt.Errorf("%w: more than %d", ErrTooManySteps, b.maxStep)
	}
	if len(b.b)+len(s) > b.maxBytes {
		return 0, fmt.Errorf("%w: more than %d bytes", ErrTooLong, b.maxBytes)
	}
	b.b = append(b.b, s...)
	return len(s), nil
}

// Bytes returns what was written, valid until the next Reset.
func (b *Buffer) Bytes() []byte { return b.b }

// Cap is the memory that the buffer holds.
func (b *Buffer) Cap() int { return cap(b.b) }
