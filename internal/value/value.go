// Package value holds the canonical form of JSON-like data: what a property
// or trait is turned into before it is compared, stored or sent on.
//
// A canonical value is nil, bool, string, int64, float64, [json.Number] (only
// for a number that neither int64 nor float64 can give back), []any or
// map[string]any, the last two holding canonical values. Nothing in it is
// shared with the caller who handed it in.
package value

import (
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"time"
	"unicode/utf8"
)

// MaxDepth is how many lists and maps may stand inside each other in what
// [Normalize] accepts, the outermost counted.
const MaxDepth = 16

// Error is a value that cannot be made canonical.
type Error struct {
	// Path leads to the value, such as "a.b" or "a[3].b"; empty for the value
	// itself.
	Path string
	// Value is the value as text, where it has a short one.
	Value string
	// Reason says what is wrong.
	Reason string
}

// Error names the path, the value and the reason.
func (e *Error) Error() string {
	s := e.Reason
	if e.Value != "" {
		s = strconv.Quote(e.Value) + ": " + s
	}
	if e.Path != "" {
		s = e.Path + ": " + s
	}
	return s
}

func (e *Error) under(key string) *Error {
	if e.Path == "" || e.Path[0] == '[' {
		e.Path = key + e.Path
	} else {
		e.Path = key + "." + e.Path
	}
	return e
}

func errorf(v, format string, args ...any) *Error {
	return &Error{Value: v, Reason: fmt.Sprintf(format, args...)}
}

// Normalize returns v in canonical form, as a copy that shares no map or list
// with it. The error is an [*Error].
func Normalize(v any) (any, error) {
	out, err := normalize(v, 1)
	if err != nil {
		return nil, err
	}
	return out, nil
}

// NormalizeMap is [Normalize] for a map; nil stays nil.
func NormalizeMap(m map[string]any) (map[string]any, error) {
	if m == nil {
		return nil, nil
	}
	out, err := normalizeMap(m, 1)
	if err != nil {
		return nil, err
	}
	return out, nil
}

func normalizeMap(m map[string]any, depth int) (map[string]any, *Error) {
	if depth > MaxDepth {
		return nil, errorf("", "lists and maps may be nested at most %d deep; flatten it", MaxDepth)
	}
	out := make(map[string]any, len(m))
	for k, v := range m {
		if !utf8.ValidString(k) {
			return nil, errorf("", "the key %q is not valid UTF-8", k)
		}
		n, err := normalize(v, depth+1)
		if err != nil {
			return nil, err.under(k)
		}
		out[k] = n
	}
	return out, nil
}

func normalize(v any, depth int) (any, *Error) {
	switch v := v.(type) {
	case nil, bool, int64:
		return v, nil
	case string:
		if !utf8.ValidString(v) {
			return nil, errorf("", "is not valid UTF-8")
		}
		return v, nil
	case int:
		return int64(v), nil
	case float64:
		return normalizeFloat(v)
	case json.Number:
		return Number(string(v))
	case time.Time:
		return FormatTime(v)
	case map[string]any:
		if v == nil {
			return nil, nil
		}
		return asAny(normalizeMap(v, depth))
	case []any:
		if v == nil {
			return nil, nil
		}
		if depth > MaxDepth {
			return nil, errorf("", "lists and maps may be nested at most %d deep; flatten it", MaxDepth)
		}
		out := make([]any, len(v))
		for i, e := range v {
			n, err := normalize(e, depth+1)
			if err != nil {
				return nil, err.under("[" + strconv.Itoa(i) + "]")
			}
			out[i] = n
		}
		return out, nil
	case json.RawMessage:
		d, err := Decode(v)
		if err != nil {
			return nil, errorf("", "is not JSON: %v", err)
		}
		return normalize(d, depth)
	}
	return normalizeReflect(v, depth)
}

func asAny(m map[string]any, err *Error) (any, *Error) {
	if err != nil {
		return nil, err
	}
	return m, nil
}

func normalizeFloat(f float64) (any, *Error) {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return nil, errorf(strconv.FormatFloat(f, 'g', -1, 64), "is not a number that JSON can hold")
	}
	return f, nil
}

// normalizeReflect takes the types that the switch above does not name.
func normalizeReflect(v any, depth int) (any, *Error) {
	rv := reflect.ValueOf(v)
	switch rv.Kind() {
	case reflect.Bool:
		return rv.Bool(), nil
	case reflect.String:
		return normalize(rv.String(), depth)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return rv.Int(), nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		u := rv.Uint()
		if u > math.MaxInt64 {
			return json.Number(strconv.FormatUint(u, 10)), nil
		}
		return int64(u), nil
	case reflect.Float32, reflect.Float64:
		return normalizeFloat(rv.Float())
	case reflect.Pointer:
		if rv.IsNil() {
			return nil, nil
		}
		// A pointer counts as a level, so that a ring of pointers ends.
		if depth > MaxDepth {
			return nil, errorf("", "may be nested at most %d deep", MaxDepth)
		}
		return normalize(rv.Elem().Interface(), depth+1)
	case reflect.Map:
		if rv.Type().Key().Kind() != reflect.String {
			return nil, errorf("", "has the type %T; the keys of a map must be strings", v)
		}
		if rv.IsNil() {
			return nil, nil
		}
		m := make(map[string]any, rv.Len())
		for it := rv.MapRange(); it.Next(); {
			m[it.Key().String()] = it.Value().Interface()
		}
		return asAny(normalizeMap(m, depth))
	case reflect.Slice, reflect.Array:
		if rv.Type().Elem().Kind() == reflect.Uint8 {
			return nil, errorf("", "has the type %T; bytes have no JSON form, hand in text instead", v)
		}
		if rv.Kind() == reflect.Slice && rv.IsNil() {
			return nil, nil
		}
		l := make([]any, rv.Len())
		for i := range l {
			l[i] = rv.Index(i).Interface()
		}
		return normalize(l, depth)
	}
	return nil, errorf("", "has the type %T; use a string, bool, number, time.Time, list or map", v)
}

// FormatTime returns t as RFC 3339 text with its zone offset and up to nine
// decimals. An offset that RFC 3339 cannot write (one with seconds, or of a
// day and more) is turned into UTC, which keeps the instant. The error is an
// [*Error] for a year outside 1 to 9999.
func FormatTime(t time.Time) (any, *Error) {
	if _, off := t.Zone(); off%60 != 0 || off <= -24*3600 || off >= 24*3600 {
		t = t.UTC()
	}
	if y := t.Year(); y < 1 || y > 9999 {
		return nil, errorf(strconv.Itoa(y), "is a year outside 1 to 9999")
	}
	return t.Format(time.RFC3339Nano), nil
}

// Lookup finds a key in a canonical map. A key with dots is first looked for
// as it stands; then the part before the first dot names a map in which the
// rest is looked up in the same way.
func Lookup(m map[string]any, key string) (any, bool) {
	if v, ok := m[key]; ok {
		return v, true
	}
	for i := range len(key) {
		if key[i] != '.' {
			continue
		}
		if sub, ok := m[key[:i]].(map[string]any); ok {
			return Lookup(sub, key[i+1:])
		}
		return nil, false
	}
	return nil, false
}
