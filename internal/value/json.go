package value

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"
	"unicode/utf16"
	"unicode/utf8"
)

// AppendJSON appends v, a canonical value, as JSON without spaces. The keys
// of a map are sorted, so equal values give equal bytes. A float64 without a
// fraction is written with ".0", so that [Decode] gives a float64 back. What
// is not canonical is made so first; where that cannot be done null is
// written.
func AppendJSON(dst []byte, v any) []byte {
	switch v := v.(type) {
	case nil:
		return append(dst, "null"...)
	case bool:
		return strconv.AppendBool(dst, v)
	case string:
		return AppendString(dst, v)
	case int64:
		return strconv.AppendInt(dst, v, 10)
	case float64:
		return appendFloat(dst, v)
	case json.Number:
		return append(dst, v...)
	case []any:
		if v == nil {
			return append(dst, "null"...)
		}
		dst = append(dst, '[')
		for i, e := range v {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = AppendJSON(dst, e)
		}
		return append(dst, ']')
	case map[string]any:
		if v == nil {
			return append(dst, "null"...)
		}
		var room [32]string
		keys := room[:0]
		for k := range v {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		dst = append(dst, '{')
		for i, k := range keys {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = AppendString(dst, k)
			dst = append(dst, ':')
			dst = AppendJSON(dst, v[k])
		}
		return append(dst, '}')
	}
	n, err := Normalize(v)
	if err != nil {
		return append(dst, "null"...)
	}
	return AppendJSON(dst, n)
}

func appendFloat(dst []byte, f float64) []byte {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return append(dst, "null"...)
	}
	form := byte('f')
	if abs := math.Abs(f); abs != 0 && (abs < 1e-6 || abs >= 1e21) {
		form = 'e'
	}
	start := len(dst)
	dst = strconv.AppendFloat(dst, f, form, -1, 64)
	for _, c := range dst[start:] {
		if c == '.' || c == 'e' {
			return dst
		}
	}
	return append(dst, ".0"...)
}

// AppendString appends s as a JSON string. Only what JSON demands is escaped;
// a byte that is not UTF-8 becomes U+FFFD.
func AppendString(dst []byte, s string) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			r, n := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && n == 1 {
				dst = append(append(dst, s[start:i]...), "\uFFFD"...)
				start = i + 1
			}
			i += n
			continue
		}
		if c >= ' ' && c != '"' && c != '\\' {
			i++
			continue
		}
		dst = append(dst, s[start:i]...)
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\r':
			dst = append(dst, '\\', 'r')
		case '\t':
			dst = append(dst, '\\', 't')
		default:
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
		i++
		start = i
	}
	return append(append(dst, s[start:]...), '"')
}

// SyntaxError is text that [Decode] refused.
type SyntaxError struct {
	// Offset counts bytes from 0.
	Offset int
	Reason string
}

// Error names the place and the reason.
func (e *SyntaxError) Error() string {
	return fmt.Sprintf("%s at byte %d", e.Reason, e.Offset)
}

// maxDecodeDepth bounds what Decode follows. It is above [MaxDepth], because
// what is decoded may be an envelope around values.
const maxDecodeDepth = 64

// Decode reads one JSON text (RFC 8259) into a canonical value. Numbers keep
// their value; of a repeated key the last counts; text must be valid UTF-8,
// escaped surrogates in pairs. The error is a [*SyntaxError].
func Decode(data []byte) (any, error) {
	d := decoder{data: data, text: string(data)}
	v, err := d.value(1)
	if err != nil {
		return nil, err
	}
	if d.space(); d.pos < len(d.data) {
		return nil, d.fail("unexpected text after the value")
	}
	return v, nil
}

type decoder struct {
	data []byte
	text string // data once more: strings are cut from it, not copied each
	pos  int
}

func (d *decoder) fail(format string, args ...any) error {
	return &SyntaxError{Offset: d.pos, Reason: fmt.Sprintf(format, args...)}
}

func (d *decoder) space() {
	for d.pos < len(d.data) {
		switch d.data[d.pos] {
		case ' ', '\t', '\n', '\r':
			d.pos++
		default:
			return
		}
	}
}

// peek returns the next byte after space, 0 at the end.
func (d *decoder) peek() byte {
	d.space()
	if d.pos < len(d.data) {
		return d.data[d.pos]
	}
	return 0
}

func (d *decoder) value(depth int) (any, error) {
	c := d.peek()
	switch {
	case c == '"':
		return d.str()
	case c == '{' || c == '[':
		if depth > maxDecodeDepth {
			return nil, d.fail("lists and objects nested more than %d deep", maxDecodeDepth)
		}
		if c == '{' {
			return d.object(depth)
		}
		return d.list(depth)
	case c == '-' || '0' <= c && c <= '9':
		return d.number()
	case c == 't':
		return true, d.word("true")
	case c == 'f':
		return false, d.word("false")
	case c == 'n':
		return nil, d.word("null")
	case d.pos >= len(d.data):
		return nil, d.fail("unexpected end")
	}
	return nil, d.fail("unexpected %q", c)
}

func (d *decoder) word(w string) error {
	if len(d.data)-d.pos < len(w) || string(d.data[d.pos:d.pos+len(w)]) != w {
		return d.fail("unexpected word, want %s", w)
	}
	d.pos += len(w)
	return nil
}

func (d *decoder) object(depth int) (map[string]any, error) {
	d.pos++
	m := make(map[string]any)
	if d.peek() == '}' {
		d.pos++
		return m, nil
	}
	for {
		if d.peek() != '"' {
			return nil, d.fail("a key must be a string")
		}
		k, err := d.str()
		if err != nil {
			return nil, err
		}
		if d.peek() != ':' {
			return nil, d.fail("missing : after a key")
		}
		d.pos++
		if m[k], err = d.value(depth + 1); err != nil {
			return nil, err
		}
		switch d.peek() {
		case ',':
			d.pos++
		case '}':
			d.pos++
			return m, nil
		default:
			return nil, d.fail("missing , or } in an object")
		}
	}
}

func (d *decoder) list(depth int) ([]any, error) {
	d.pos++
	l := []any{}
	if d.peek() == ']' {
		d.pos++
		return l, nil
	}
	for {
		v, err := d.value(depth + 1)
		if err != nil {
			return nil, err
		}
		l = append(l, v)
		switch d.peek() {
		case ',':
			d.pos++
		case ']':
			d.pos++
			return l, nil
		default:
			return nil, d.fail("missing , or ] in a list")
		}
	}
}

func (d *decoder) number() (any, error) {
	start := d.pos
	i := start
	for i < len(d.data) {
		switch c := d.data[i]; {
		case '0' <= c && c <= '9', c == '-', c == '+', c == '.', c == 'e', c == 'E':
			i++
			continue
		}
		break
	}
	v, err := Number(d.text[start:i])
	if err != nil {
		return nil, d.fail("%v", err)
	}
	d.pos = i
	return v, nil
}

func (d *decoder) str() (string, error) {
	d.pos++
	start := d.pos
	for i := start; i < len(d.data); i++ {
		switch c := d.data[i]; {
		case c == '"':
			raw := d.data[start:i]
			if !utf8.Valid(raw) {
				return "", d.fail("text that is not valid UTF-8")
			}
			d.pos = i + 1
			return d.text[start:i], nil
		case c == '\\':
			return d.escaped(start, i)
		case c < ' ':
			d.pos = i
			return "", d.fail("control character %#02x in a string", c)
		}
	}
	return "", d.fail("a string that does not end")
}

// escaped reads a string with at least one escape, the first at i.
func (d *decoder) escaped(start, i int) (string, error) {
	out := append(make([]byte, 0, i-start+32), d.data[start:i]...)
	for i < len(d.data) {
		c := d.data[i]
		switch {
		case c == '"':
			if !utf8.Valid(out) {
				return "", d.fail("text that is not valid UTF-8")
			}
			d.pos = i + 1
			return string(out), nil
		case c < ' ':
			d.pos = i
			return "", d.fail("control character %#02x in a string", c)
		case c != '\\':
			out = append(out, c)
			i++
			continue
		}
		if i+1 >= len(d.data) {
			break
		}
		d.pos = i
		i += 2
		switch c := d.data[i-1]; c {
		case '"', '\\', '/':
			out = append(out, c)
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'u':
			r, ok := d.hex4(i)
			if !ok {
				return "", d.fail("bad \\u escape")
			}
			i += 4
			if utf16.IsSurrogate(r) {
				var low rune
				if i+1 < len(d.data) && d.data[i] == '\\' && d.data[i+1] == 'u' {
					low, _ = d.hex4(i + 2)
				}
				if r = utf16.DecodeRune(r, low); r == utf8.RuneError {
					return "", d.fail("half of a surrogate pair")
				}
				i += 6
			}
			out = utf8.AppendRune(out, r)
		default:
			return "", d.fail("unknown escape \\%c", c)
		}
	}
	return "", d.fail("a string that does not end")
}

func (d *decoder) hex4(i int) (rune, bool) {
	if i+4 > len(d.data) {
		return 0, false
	}
	var r rune
	for _, c := range d.data[i : i+4] {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}

// Time reads a canonical value as a time, keeping its zone: RFC 3339 text, or
// a [time.Time] that was not made canonical yet.
func Time(v any) (time.Time, bool) {
	switch v := v.(type) {
	case time.Time:
		return v, true
	case string:
		if _, ok := ParseTime(v); !ok {
			return time.Time{}, false
		}
		t, err := time.Parse(time.RFC3339, v)
		return t, err == nil
	}
	return time.Time{}, false
}

// Text writes a value as short JSON for a message or an explanation, cut
// after 64 bytes.
func Text(v any) string {
	s := string(AppendJSON(nil, v))
	if len(s) <= 64 {
		return s
	}
	n := 61
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "..."
}
