package fluxly

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"strconv"
	"sync"
	"time"

	"github.com/getfluxly/fluxly/internal/value"
)

// maxLineBytes bounds one line of [ReadEvents]: an event of the largest size
// with room for blanks and fields that are not known.
const maxLineBytes = 64 << 10

// eventForm says which fields of an event are written.
type eventForm int

const (
	// wireForm is the event as GetFluxly takes it.
	wireForm eventForm = iota
	// bodyForm leaves out the message id, and the context, which may differ
	// between two tries of one event.
	bodyForm
)

// MarshalJSON gives GetFluxly's wire form with the keys of every object in
// order, so equal events are equal bytes. A value of a type that [Properties]
// does not name is a [*FieldError].
func (e Event) MarshalJSON() ([]byte, error) {
	if err := e.normalizeValues(); err != nil {
		return nil, err
	}
	if err := checkTimestamp(e.Timestamp); err != nil {
		return nil, err
	}
	return e.appendJSON(make([]byte, 0, 512), wireForm), nil
}

// UnmarshalJSON reads GetFluxly's wire form. Numbers keep their value, unknown
// fields are passed over, and a timestamp is RFC 3339 (the offset may also be
// written without its colon); it becomes UTC. It does not check the limits;
// [Event.Validate] does.
func (e *Event) UnmarshalJSON(data []byte) error {
	d, err := decodeEvent(data)
	if err != nil {
		return err
	}
	*e = d
	return nil
}

// decodeEvent reads one event from data, which holds nothing else. Its values
// come out canonical.
func decodeEvent(data []byte) (Event, error) {
	v, err := value.Decode(data)
	if err != nil {
		return Event{}, &FieldError{Field: "event", Reason: "not JSON: " + err.Error(), Err: err}
	}
	return eventFromValue(v)
}

// eventFromValue takes an event out of its decoded JSON.
func eventFromValue(v any) (Event, error) {
	m, ok := v.(map[string]any)
	if !ok {
		return Event{}, fieldErrorf("event", "", "is %s, want an object", jsonType(v))
	}
	var e Event
	var timestamp string
	for _, part := range [...]struct {
		field string
		into  *string
	}{
		{"event", &e.Name},
		{"external_id", &e.ExternalID},
		{"anonymous_id", &e.AnonymousID},
		{"user_id", &e.UserID},
		{"message_id", &e.MessageID},
		{"timestamp", &timestamp},
	} {
		switch v := m[part.field].(type) {
		case nil:
		case string:
			*part.into = v
		default:
			return Event{}, fieldErrorf(part.field, "", "is %s, want a string", jsonType(v))
		}
	}
	for _, part := range [...]struct {
		field string
		into  *map[string]any
	}{
		{"properties", (*map[string]any)(&e.Properties)},
		{"traits", (*map[string]any)(&e.Traits)},
		{"context", &e.Context},
	} {
		switch v := m[part.field].(type) {
		case nil:
		case map[string]any:
			*part.into = v
		default:
			return Event{}, fieldErrorf(part.field, "", "is %s, want an object", jsonType(v))
		}
	}
	if timestamp != "" {
		t, err := parseTimestamp(timestamp)
		if err != nil {
			return Event{}, err
		}
		e.Timestamp = t
	}
	return e, nil
}

// jsonType names the JSON type of a decoded value.
func jsonType(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case string:
		return "a string"
	case bool:
		return "a boolean"
	case []any:
		return "a list"
	case map[string]any:
		return "an object"
	}
	return "a number"
}

// parseTimestamp reads the ISO 8601 forms that name one instant.
func parseTimestamp(s string) (time.Time, *FieldError) {
	if t, ok := value.ParseTime(s); ok {
		return t, nil
	}
	if t, err := time.Parse("2006-01-02T15:04:05.999999999Z0700", s); err == nil {
		return t.UTC(), nil
	}
	return time.Time{}, fieldErrorf("timestamp", s,
		"not an instant in RFC 3339: write it as 2026-05-29T09:30:00Z, with its zone")
}

// digest tells two bodies under one message id apart: it covers name, ids,
// properties, traits and the timestamp when one was given, as canonical JSON.
// The event was normalized before.
func (e *Event) digest() [32]byte {
	buf := encodeBuffers.Get().(*[]byte)
	defer encodeBuffers.Put(buf)
	*buf = e.appendJSON((*buf)[:0], bodyForm)
	return sha256.Sum256(*buf)
}

var encodeBuffers = sync.Pool{New: func() any { b := make([]byte, 0, 1024); return &b }}

// appendJSON appends the event as canonical JSON: the fields in a fixed order,
// the keys of every object sorted. The values were normalized before.
func (e *Event) appendJSON(dst []byte, form eventForm) []byte {
	dst = append(dst, `{"event":`...)
	dst = value.AppendString(dst, e.Name)
	for _, id := range [...]struct{ key, value string }{
		{`,"anonymous_id":`, e.AnonymousID}, {`,"external_id":`, e.ExternalID}, {`,"user_id":`, e.UserID},
	} {
		if id.value != "" {
			dst = append(dst, id.key...)
			dst = value.AppendString(dst, id.value)
		}
	}
	if len(e.Properties) > 0 {
		dst = append(dst, `,"properties":`...)
		dst = value.AppendJSON(dst, map[string]any(e.Properties))
	}
	if len(e.Traits) > 0 {
		dst = append(dst, `,"traits":`...)
		dst = value.AppendJSON(dst, map[string]any(e.Traits))
	}
	if len(e.Context) > 0 && form == wireForm {
		dst = append(dst, `,"context":`...)
		dst = value.AppendJSON(dst, e.Context)
	}
	if !e.Timestamp.IsZero() {
		dst = append(dst, `,"timestamp":"`...)
		dst = e.Timestamp.UTC().AppendFormat(dst, time.RFC3339Nano)
		dst = append(dst, '"')
	}
	if e.MessageID != "" && form == wireForm {
		dst = append(dst, `,"message_id":`...)
		dst = value.AppendString(dst, e.MessageID)
	}
	return append(dst, '}')
}

// newUUID makes a random UUID (RFC 9562, version 4), the form of message ids
// and idempotency keys.
func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails: it ends the program instead
	return formatUUID(b, 4)
}

func formatUUID(b [16]byte, version byte) string {
	b[6] = b[6]&0x0f | version<<4
	b[8] = b[8]&0x3f | 0x80
	var out [36]byte
	hex.Encode(out[0:8], b[0:4])
	out[8] = '-'
	hex.Encode(out[9:13], b[4:6])
	out[13] = '-'
	hex.Encode(out[14:18], b[6:8])
	out[18] = '-'
	hex.Encode(out[19:23], b[8:10])
	out[23] = '-'
	hex.Encode(out[24:36], b[10:16])
	return string(out[:])
}

// LineError is a line of [ReadEvents] that holds no valid event.
type LineError struct {
	// Line counts from 1.
	Line int
	Err  error
}

// Error names the line and the cause.
func (e *LineError) Error() string { return "line " + strconv.Itoa(e.Line) + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *LineError) Unwrap() error { return e.Err }

// ReadEvents reads events in GetFluxly's wire form from JSON lines: one event a
// line of at most 64 KB, empty lines passed over. An identity is an event named
// "identify" with traits. Each event was checked by [Event.Validate].
//
// A line that is not a valid event yields a [*LineError] and reading goes on
// with the next; such an error matches [ErrInvalid]. When r fails, the last
// yield is a *LineError with r's error. The iterator reads r as it goes, so it
// may be used once; it holds one line in memory.
func ReadEvents(r io.Reader) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		// One byte more than a line, for its end.
		br := bufio.NewReaderSize(r, maxLineBytes+1)
		for n := 1; ; n++ {
			line, readErr := br.ReadSlice('\n')
			tooLong := errors.Is(readErr, bufio.ErrBufferFull)
			for errors.Is(readErr, bufio.ErrBufferFull) {
				_, readErr = br.ReadSlice('\n')
			}
			switch {
			case tooLong:
				if !yield(Event{}, &LineError{Line: n, Err: fieldErrorf("event", "", "line longer than %d bytes", maxLineBytes)}) {
					return
				}
			case readErr != nil && !errors.Is(readErr, io.EOF):
				// What came before the failure is not a whole line.
			default:
				if n == 1 {
					line = bytes.TrimPrefix(line, []byte("\ufeff"))
				}
				if line = bytes.TrimSpace(line); len(line) == 0 {
					break
				}
				e, err := decodeEvent(line)
				if err == nil {
					err = e.Validate()
				}
				if err != nil {
					e, err = Event{}, &LineError{Line: n, Err: err}
				}
				if !yield(e, err) {
					return
				}
			}
			if errors.Is(readErr, io.EOF) {
				return
			}
			if readErr != nil {
				yield(Event{}, &LineError{Line: n, Err: fmt.Errorf("reading events: %w", readErr)})
				return
			}
		}
	}
}
