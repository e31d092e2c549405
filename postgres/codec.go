package postgres

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/internal/value"
)

// encodeValues writes a map of values as JSON; an empty one is empty.
func encodeValues(field string, m map[string]any) (string, error) {
	if len(m) == 0 {
		return "", nil
	}
	if value.Flat(m) {
		return string(value.AppendJSON(nil, m)), nil
	}
	n, err := value.NormalizeMap(m)
	if err != nil {
		field := fluxly.FieldError{Field: field, Reason: err.Error(), Err: err}
		if ve, ok := errors.AsType[*value.Error](err); ok {
			field.Field, field.Value, field.Reason = field.Field+"."+ve.Path, ve.Value, ve.Reason
		}
		return "", &field
	}
	return string(value.AppendJSON(nil, n)), nil
}

// decodeValues reads what encodeValues wrote.
func decodeValues(raw []byte) (map[string]any, error) {
	if len(raw) == 0 {
		return nil, nil
	}
	v, err := value.Decode(raw)
	if err != nil {
		return nil, fmt.Errorf("stored values: %w: %w", ErrCorrupt, err)
	}
	m, _ := v.(map[string]any)
	return m, nil
}

// encodeStrings writes a list as a JSON array; an empty one is empty.
func encodeStrings(list []string) string {
	if len(list) == 0 {
		return ""
	}
	buf := []byte{'['}
	for i, s := range list {
		if i > 0 {
			buf = append(buf, ',')
		}
		buf = value.AppendString(buf, s)
	}
	return string(append(buf, ']'))
}

// decodeStrings reads what encodeStrings wrote.
func decodeStrings(raw []byte) (list []string, err error) {
	switch {
	case len(raw) == 0:
		return nil, nil
	case len(raw) > 4 && bytes.IndexByte(raw, '\\') < 0:
		// Without escapes no quote stands inside of a string.
		return strings.Split(string(raw[2:len(raw)-2]), `","`), nil
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, fmt.Errorf("stored list: %w: %w", ErrCorrupt, err)
	}
	return list, nil
}

// packID makes a message id short: a UUID in its usual form becomes its 16
// bytes. Any other stands behind a zero byte, or two, so that it never has 16.
func packID(id string) []byte {
	var raw [16]byte
	if packUUID(&raw, id) {
		return raw[:]
	}
	packed := make([]byte, 1, len(id)+2)
	if len(id) == 15 {
		packed = append(packed, 0)
	}
	return append(packed, id...)
}

func unpackID(raw []byte) string {
	if len(raw) == 16 {
		return unpackUUID(raw)
	}
	return string(bytes.TrimLeft(raw, "\x00"))
}

// packUUID reads lower-case 8-4-4-4-12 hex; another form must not be packed,
// because it would not come back as it was.
func packUUID(dst *[16]byte, id string) bool {
	if len(id) != 36 {
		return false
	}
	n := 0
	for i := 0; i < 36; {
		if i == 8 || i == 13 || i == 18 || i == 23 {
			if id[i] != '-' {
				return false
			}
			i++
			continue
		}
		hi, lo := unhex(id[i]), unhex(id[i+1])
		if hi > 15 || lo > 15 {
			return false
		}
		dst[n] = hi<<4 | lo
		n++
		i += 2
	}
	return true
}

func unhex(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	}
	return 0xFF
}

func unpackUUID(raw []byte) string {
	const hex = "0123456789abcdef"
	out := make([]byte, 0, 36)
	for i, b := range raw {
		if i == 4 || i == 6 || i == 8 || i == 10 {
			out = append(out, '-')
		}
		out = append(out, hex[b>>4], hex[b&15])
	}
	return string(out)
}

// firstError returns the first error.
func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// noLimit turns 0, which means all, into NULL, which means that to LIMIT.
func noLimit(limit int) any {
	if limit <= 0 {
		return nil
	}
	return int64(limit)
}
