package fluxly

import (
	"errors"
	"time"

	"github.com/getfluxly/fluxly/internal/value"
)

// Time returns the trait as a time with its zone, when it is RFC 3339 text (or
// a [time.Time] not stored yet). A dotted key looks into nested maps.
func (t Traits) Time(key string) (time.Time, bool) { return timeAt(t, key) }

// String returns the trait when it is text. A dotted key looks into nested
// maps.
func (t Traits) String(key string) (string, bool) { return stringAt(t, key) }

// UnmarshalJSON reads an object so that numbers keep their value: an integer
// becomes an int64 and never passes through a float64, and what neither type
// can give back stays a [encoding/json.Number]. Of a repeated key the last
// counts.
func (t *Traits) UnmarshalJSON(data []byte) error {
	m, err := decodeObject(data)
	*t = m
	return err
}

// MarshalJSON writes the keys in sorted order, a time.Time as RFC 3339 text.
// The error is a [*FieldError] that names what has no JSON form.
func (t Traits) MarshalJSON() ([]byte, error) { return marshalObject(t, "traits") }

// Time returns the property as a time with its zone, as [Traits.Time] does.
func (p Properties) Time(key string) (time.Time, bool) { return timeAt(p, key) }

// String returns the property when it is text, as [Traits.String] does.
func (p Properties) String(key string) (string, bool) { return stringAt(p, key) }

// UnmarshalJSON keeps the value of numbers, as [Traits.UnmarshalJSON] does.
func (p *Properties) UnmarshalJSON(data []byte) error {
	m, err := decodeObject(data)
	*p = m
	return err
}

// MarshalJSON writes sorted keys, as [Traits.MarshalJSON] does.
func (p Properties) MarshalJSON() ([]byte, error) { return marshalObject(p, "properties") }

func timeAt(m map[string]any, key string) (time.Time, bool) {
	v, ok := value.Lookup(m, key)
	if !ok {
		return time.Time{}, false
	}
	return value.Time(v)
}

func stringAt(m map[string]any, key string) (string, bool) {
	v, _ := value.Lookup(m, key)
	s, ok := v.(string)
	return s, ok
}

func marshalObject(m map[string]any, path string) ([]byte, error) {
	n, err := normalizeMap(m, path)
	if err != nil {
		return nil, err
	}
	return appendJSON(make([]byte, 0, 256), n), nil
}

// normalizeValue returns v in canonical form: nil, bool, string, int64,
// float64, json.Number, []any or map[string]any, sharing nothing with v. The
// error is a *FieldError whose field starts with path.
func normalizeValue(v any, path string) (any, error) {
	n, err := value.Normalize(v)
	if err != nil {
		return nil, valueError(err, path)
	}
	return n, nil
}

// normalizeMap is normalizeValue for properties and traits; nil stays nil.
func normalizeMap(m map[string]any, path string) (map[string]any, error) {
	n, err := value.NormalizeMap(m)
	if err != nil {
		return nil, valueError(err, path)
	}
	return n, nil
}

func valueError(err error, path string) error {
	var ve *value.Error
	if !errors.As(err, &ve) {
		return &FieldError{Field: path, Reason: err.Error(), Err: err}
	}
	if ve.Path != "" {
		if path != "" && ve.Path[0] != '[' {
			path += "."
		}
		path += ve.Path
	}
	return &FieldError{Field: path, Value: clip(ve.Value, 64), Reason: ve.Reason}
}

// appendJSON appends a canonical value as JSON with sorted keys, so that equal
// values give equal bytes.
func appendJSON(dst []byte, v any) []byte { return value.AppendJSON(dst, v) }

// decodeValue reads one JSON text into a canonical value.
func decodeValue(data []byte) (any, error) {
	v, err := value.Decode(data)
	if err != nil {
		return nil, &FieldError{Field: "json", Value: clip(string(data), 64), Reason: err.Error(), Err: err}
	}
	return v, nil
}

// decodeObject reads a JSON object, or null as a nil map.
func decodeObject(data []byte) (map[string]any, error) {
	v, err := decodeValue(data)
	if err != nil {
		return nil, err
	}
	m, ok := v.(map[string]any)
	if !ok && v != nil {
		return nil, fieldErrorf("json", string(data), "is not an object")
	}
	return m, nil
}

// equalValues is deep equality of canonical values, numbers by value.
func equalValues(a, b any) bool { return value.Equal(a, b) }

// lookupValue finds a key in a canonical map, dotted keys in nested maps.
func lookupValue(m map[string]any, key string) (any, bool) { return value.Lookup(m, key) }
