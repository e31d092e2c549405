package value

import (
	"encoding/json"
	"math"
	"math/big"
	"strconv"
	"strings"
)

// A number's text and exponent are bounded, so that comparing two of them
// costs microseconds whatever came in.
const (
	maxNumberText = 256
	maxExponent   = 400
)

// Number returns the JSON number in text as int64 or float64 when that type
// gives the same number back, otherwise as [json.Number]. A number written as
// an integer never becomes a float64. A fraction is held by a float64 when
// the shortest decimal for that float64 is the decimal in the text: so 0.1
// is, and one of thirty digits is not.
func Number(text string) (any, *Error) {
	p, ok := parseNumber(text)
	if !ok {
		return nil, errorf(clip(text), "is not a number")
	}
	if len(text) > maxNumberText || p.exp > maxExponent || p.exp < -maxExponent {
		return nil, errorf(clip(text), "is a number of more than %d characters or beyond 1e±%d; hand it in as text", maxNumberText, maxExponent)
	}
	if p.integer {
		if i, err := strconv.ParseInt(text, 10, 64); err == nil {
			return i, nil
		}
		return json.Number(text), nil
	}
	if f, err := strconv.ParseFloat(text, 64); err == nil {
		var buf [32]byte
		q, _ := parseNumber(string(strconv.AppendFloat(buf[:0], f, 'e', -1, 64)))
		if sameDecimal(p, q) {
			return f, nil
		}
	}
	return json.Number(text), nil
}

// numberParts is a JSON number taken apart: the digits before and after the
// point, and the exponent as written.
type numberParts struct {
	integer  bool // no point and no exponent
	whole    string
	fraction string
	exp      int
}

// parseNumber checks text against the grammar of RFC 8259 section 6.
func parseNumber(text string) (p numberParts, ok bool) {
	s := strings.TrimPrefix(text, "-")
	n := digits(s)
	if n == 0 || n > 1 && s[0] == '0' {
		return p, false
	}
	p.whole, s = s[:n], s[n:]
	p.integer = s == ""
	if s != "" && s[0] == '.' {
		n = digits(s[1:])
		if n == 0 {
			return p, false
		}
		p.fraction, s = s[1:1+n], s[1+n:]
	}
	if s != "" && (s[0] == 'e' || s[0] == 'E') {
		s = s[1:]
		neg := false
		if s != "" && (s[0] == '+' || s[0] == '-') {
			neg = s[0] == '-'
			s = s[1:]
		}
		n = digits(s)
		if n == 0 {
			return p, false
		}
		for _, c := range []byte(s[:n]) {
			p.exp = min(p.exp*10+int(c-'0'), 1<<20)
		}
		if neg {
			p.exp = -p.exp
		}
		s = s[n:]
	}
	return p, s == ""
}

func digits(s string) int {
	n := 0
	for n < len(s) && '0' <= s[n] && s[n] <= '9' {
		n++
	}
	return n
}

// sameDecimal compares the absolute values.
func sameDecimal(a, b numberParts) bool {
	da, ea := a.significant()
	db, eb := b.significant()
	return da == db && (ea == eb || da == "")
}

// significant returns the digits without zeros at either end, and the power
// of ten of the last of them.
func (p numberParts) significant() (string, int) {
	d := p.whole + p.fraction
	exp := p.exp - len(p.fraction)
	d = strings.TrimLeft(d, "0")
	n := len(d)
	d = strings.TrimRight(d, "0")
	return d, exp + n - len(d)
}

func clip(s string) string {
	if len(s) > 64 {
		return s[:61] + "..."
	}
	return s
}

// compareIntFloat compares without rounding either side.
func compareIntFloat(i int64, f float64) int {
	// Every float64 from 2^63 on is above every int64, and below -2^63 under.
	if f >= 1<<63 {
		return -1
	}
	if f < -(1 << 63) {
		return 1
	}
	t := math.Trunc(f)
	switch it := int64(t); {
	case i < it:
		return -1
	case i > it:
		return 1
	case f > t:
		return -1
	case f < t:
		return 1
	}
	return 0
}

// rat returns a canonical number as an exact fraction.
func rat(v any) (*big.Rat, bool) {
	switch v := v.(type) {
	case int64:
		return new(big.Rat).SetInt64(v), true
	case float64:
		r := new(big.Rat).SetFloat64(v)
		return r, r != nil
	case json.Number:
		p, ok := parseNumber(string(v))
		if !ok || len(v) > maxNumberText || p.exp > maxExponent || p.exp < -maxExponent {
			return nil, false
		}
		return new(big.Rat).SetString(string(v))
	}
	return nil, false
}
