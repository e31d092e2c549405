package value

import (
	"cmp"
	"encoding/json"
	"strings"
	"time"
)

// Compare orders two canonical values: numbers by their exact value whatever
// their types, strings by bytes, false before true, nil equal to nil. A
// [time.Time] on either side compares instants with another time or with RFC
// 3339 text. ok is false when the two cannot be ordered: other types, lists,
// maps, or text that is no time. The value of a float64 is its exact binary one.
func Compare(a, b any) (c int, ok bool) {
	switch x := a.(type) {
	case string:
		switch y := b.(type) {
		case string:
			return strings.Compare(x, y), true
		case time.Time:
			t, ok := ParseTime(x)
			return t.Compare(y), ok
		}
	case int64:
		switch y := b.(type) {
		case int64:
			return cmp.Compare(x, y), true
		case float64:
			return compareIntFloat(x, y), y == y
		case json.Number:
			return compareBig(a, b)
		}
	case float64:
		switch y := b.(type) {
		case int64:
			return -compareIntFloat(y, x), x == x
		case float64:
			return cmp.Compare(x, y), x == x && y == y
		case json.Number:
			return compareBig(a, b)
		}
	case json.Number:
		switch b.(type) {
		case int64, float64, json.Number:
			return compareBig(a, b)
		}
	case bool:
		if y, isBool := b.(bool); isBool {
			switch {
			case x == y:
				return 0, true
			case y:
				return -1, true
			}
			return 1, true
		}
	case nil:
		return 0, b == nil
	case time.Time:
		switch y := b.(type) {
		case time.Time:
			return x.Compare(y), true
		case string:
			t, ok := ParseTime(y)
			return x.Compare(t), ok
		}
	}
	return 0, false
}

func compareBig(a, b any) (int, bool) {
	x, ok := rat(a)
	if !ok {
		return 0, false
	}
	y, ok := rat(b)
	if !ok {
		return 0, false
	}
	return x.Cmp(y), true
}

// Equal reports whether two canonical values are the same: numbers by value,
// so that 1 equals 1.0, lists element by element, maps key by key.
func Equal(a, b any) bool {
	switch x := a.(type) {
	case []any:
		y, ok := b.([]any)
		if !ok || len(x) != len(y) {
			return false
		}
		for i := range x {
			if !Equal(x[i], y[i]) {
				return false
			}
		}
		return true
	case map[string]any:
		y, ok := b.(map[string]any)
		if !ok || len(x) != len(y) {
			return false
		}
		for k, v := range x {
			w, ok := y[k]
			if !ok || !Equal(v, w) {
				return false
			}
		}
		return true
	}
	c, ok := Compare(a, b)
	return ok && c == 0
}

// ParseTime reads RFC 3339 text with up to nine decimals and returns the
// instant in UTC. It allocates nothing, which [time.Parse] does for a zone
// that is not UTC. The day must exist; a leap second (:60) is refused.
func ParseTime(s string) (time.Time, bool) {
	const shape = "0000-00-00T00:00:00"
	if len(s) < len(shape)+1 {
		return time.Time{}, false
	}
	for i := range len(shape) {
		switch c := s[i]; shape[i] {
		case '0':
			if c < '0' || c > '9' {
				return time.Time{}, false
			}
		case 'T':
			if c != 'T' {
				return time.Time{}, false
			}
		default:
			if c != shape[i] {
				return time.Time{}, false
			}
		}
	}
	two := func(i int) int { return int(s[i]-'0')*10 + int(s[i+1]-'0') }
	year, month, day := two(0)*100+two(2), two(5), two(8)
	hour, minute, second := two(11), two(14), two(17)
	if month < 1 || month > 12 || day < 1 || hour > 23 || minute > 59 || second > 59 {
		return time.Time{}, false
	}
	s = s[len(shape):]
	nano := 0
	if s[0] == '.' {
		n := digits(s[1:])
		if n < 1 || n > 9 {
			return time.Time{}, false
		}
		for i := range 9 {
			nano *= 10
			if i < n {
				nano += int(s[1+i] - '0')
			}
		}
		s = s[1+n:]
	}
	offset := 0
	switch {
	case s == "Z":
	case len(s) == 6 && (s[0] == '+' || s[0] == '-') && s[3] == ':' && digits(s[1:3]) == 2 && digits(s[4:]) == 2:
		h, m := int(s[1]-'0')*10+int(s[2]-'0'), int(s[4]-'0')*10+int(s[5]-'0')
		if h > 23 || m > 59 {
			return time.Time{}, false
		}
		offset = h*3600 + m*60
		if s[0] == '-' {
			offset = -offset
		}
	default:
		return time.Time{}, false
	}
	t := time.Date(year, time.Month(month), day, hour, minute, second, nano, time.UTC)
	if t.Day() != day {
		return time.Time{}, false
	}
	return t.Add(-time.Duration(offset) * time.Second), true
}
