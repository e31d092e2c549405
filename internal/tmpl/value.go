package tmpl

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/big"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/getfluxly/fluxly/internal/value"
)

// errNoValue is a value that is missing or null where a text is needed.
var errNoValue = errors.New(`has no value here; give one with | default "...", or ask first with {{ if has ... }}`)

// Text is how a value prints: a number in full digits, a time as RFC 3339. A
// missing value, a list and a map are errors.
func Text(v any) (string, error) {
	switch v := v.(type) {
	case string:
		return v, nil
	case nil:
		return "", errNoValue
	case bool:
		return strconv.FormatBool(v), nil
	case int64:
		return strconv.FormatInt(v, 10), nil
	case int:
		return strconv.Itoa(v), nil
	case float64:
		return floatText(v)
	case json.Number:
		return numberText(string(v))
	case time.Time:
		return v.Format(time.RFC3339), nil
	}
	rv := reflect.ValueOf(v)
	for rv.Kind() == reflect.Pointer || rv.Kind() == reflect.Interface {
		if rv.IsNil() {
			return "", errNoValue
		}
		rv = rv.Elem()
		if t, ok := rv.Interface().(time.Time); ok {
			return t.Format(time.RFC3339), nil
		}
	}
	switch {
	case rv.Kind() == reflect.String:
		return rv.String(), nil
	case rv.Kind() == reflect.Bool:
		return strconv.FormatBool(rv.Bool()), nil
	case rv.CanInt():
		if d, ok := rv.Interface().(time.Duration); ok {
			return d.String(), nil
		}
		return strconv.FormatInt(rv.Int(), 10), nil
	case rv.CanUint():
		return strconv.FormatUint(rv.Uint(), 10), nil
	case rv.CanFloat():
		return floatText(rv.Float())
	case rv.Kind() == reflect.Slice || rv.Kind() == reflect.Array:
		return "", errors.New("is a list and cannot be printed as a whole; use range or join")
	}
	return "", fmt.Errorf("is %s and cannot be printed as a whole; name a field of it", goType(rv.Type()).describe())
}

func floatText(f float64) (string, error) {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return "", fmt.Errorf("is %v, which is not a number to print", f)
	}
	return strconv.FormatFloat(f, 'f', -1, 64), nil
}

// maxExponent bounds how far a number such as 1e400 is written out.
const maxExponent = 400

// numberText writes a JSON number without an exponent, with all its digits.
func numberText(s string) (string, error) {
	if !strings.ContainsAny(s, "eE") {
		return s, nil
	}
	r, err := rational(s)
	if err != nil {
		return "", err
	}
	if r.IsInt() {
		return r.Num().String(), nil
	}
	prec, _ := r.FloatPrec()
	return r.FloatString(prec), nil
}

// rational reads a decimal number exactly.
func rational(s string) (*big.Rat, error) {
	if i := strings.IndexAny(s, "eE"); i >= 0 {
		exp, err := strconv.Atoi(s[i+1:])
		if errors.Is(err, strconv.ErrSyntax) {
			return nil, fmt.Errorf("%.40q is not a number", s)
		}
		if err != nil || exp > maxExponent || exp < -maxExponent {
			return nil, fmt.Errorf("%.40q is too large or too small a number to write out", s)
		}
	}
	if len(s) > 2*maxExponent || strings.ContainsAny(s, "/_xXoObBpP") {
		return nil, fmt.Errorf("%.40q is not a number", s)
	}
	r, ok := new(big.Rat).SetString(s)
	if !ok {
		return nil, fmt.Errorf("%.40q is not a number", s)
	}
	return r, nil
}

// isNumber tells whether v is a number by type; a text with digits is not.
func isNumber(v any) bool {
	switch v.(type) {
	case int64, int, float64, json.Number:
		return true
	case nil, string, bool:
		return false
	}
	rv := reflect.ValueOf(v)
	return rv.CanInt() || rv.CanUint() || rv.CanFloat()
}

// exact is the value of a number, or of a text that holds one.
func exact(v any) (*big.Rat, error) {
	s, err := Text(v)
	if err != nil {
		return nil, err
	}
	if !isNumber(v) {
		s = strings.TrimSpace(s)
		if _, isText := v.(string); !isText {
			return nil, fmt.Errorf("%.40q is not a number", s)
		}
	}
	return rational(s)
}

// timeLayouts are the forms, beside RFC 3339, in which a text is taken for a
// time. A time without a zone is UTC.
var timeLayouts = []string{"2006-01-02T15:04:05", time.DateTime, "2006-01-02T15:04Z07:00", time.DateOnly}

// instant reads a time: a time.Time, RFC 3339 text, or one of the timeLayouts.
func instant(v any) (time.Time, error) {
	if t, ok := value.Time(v); ok {
		return t, nil
	}
	switch v := v.(type) {
	case nil:
		return time.Time{}, errNoValue
	case string:
		for _, layout := range timeLayouts {
			if t, err := time.Parse(layout, v); err == nil {
				return t, nil
			}
		}
		return time.Time{}, fmt.Errorf("%.40q is not a time; send times as RFC 3339, such as 2026-05-03T09:00:00Z", v)
	}
	return time.Time{}, fmt.Errorf("%s is not a time; send times as RFC 3339 text", kindOf(v))
}

// canonical brings constants of templates and results of methods into the
// form in which values are stored.
func canonical(v any) any {
	switch v.(type) {
	case nil, string, bool, int64, float64, json.Number, time.Time:
		return v
	}
	if n, err := value.Normalize(v); err == nil {
		return n
	}
	return v
}

// compare orders two values of like kind: numbers by value, texts, times.
func compare(a, b any) (int, error) {
	if a == nil || b == nil {
		return 0, errNoValue
	}
	c, ok := value.Compare(canonical(a), canonical(b))
	if !ok {
		return 0, fmt.Errorf("cannot compare %s with %s", kindOf(a), kindOf(b))
	}
	return c, nil
}

// equal tells whether two values are the same; values of unlike kinds are not.
func equal(a, b any) bool { return value.Equal(canonical(a), canonical(b)) }

// textKind gives the text of a value whose kind is text; a number held as
// text is none.
func textKind(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case nil, json.Number:
		return "", false
	}
	if rv := reflect.ValueOf(v); rv.Kind() == reflect.String {
		return rv.String(), true
	}
	return "", false
}

// kindOf names the kind of a value for an error message.
func kindOf(v any) string {
	switch {
	case v == nil:
		return "nothing"
	case isNumber(v):
		return "a number"
	}
	return goType(reflect.TypeOf(v)).describe()
}
