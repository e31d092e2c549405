package fluxly

import (
	"bytes"
	"encoding/json"
	"fmt"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// MarshalJSON writes everything outside of printable Unicode as escapes, so that
// what others publish drives no terminal that the JSON is shown on.
func (r DomainReport) MarshalJSON() ([]byte, error) {
	type plain DomainReport
	return escapedJSON(plain(r))
}

// MarshalJSON does as [DomainReport.MarshalJSON].
func (c DomainChange) MarshalJSON() ([]byte, error) {
	type plain DomainChange
	return escapedJSON(plain(c))
}

func escapedJSON(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // whoever encodes says so
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	in := bytes.TrimSuffix(b.Bytes(), []byte("\n"))
	out := make([]byte, 0, len(in))
	for len(in) > 0 {
		c, n := utf8.DecodeRune(in)
		switch {
		case unicode.IsPrint(c): // and all of JSON's own signs
			out = append(out, in[:n]...)
		case c > 0xffff:
			hi, lo := utf16.EncodeRune(c)
			out = fmt.Appendf(out, `\u%04x\u%04x`, hi, lo)
		default:
			out = fmt.Appendf(out, `\u%04x`, c)
		}
		in = in[n:]
	}
	return out, nil
}
