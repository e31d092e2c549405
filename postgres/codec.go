package postgres

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/internal/uuid"
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
	if uuid.Pack(&raw, id) {
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
		return uuid.Text(raw)
	}
	return string(bytes.TrimLeft(raw, "\x00"))
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
