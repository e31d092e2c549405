// Package uuid turns UUIDs (RFC 9562 section 4) from their usual text into 16
// bytes and back.
package uuid

// Pack reads lower-case 8-4-4-4-12 hex into dst; another form is not packed,
// because it would not come back as it was.
func Pack(dst *[16]byte, text string) bool {
	if len(text) != 36 {
		return false
	}
	n := 0
	for i := 0; i < 36; {
		if i == 8 || i == 13 || i == 18 || i == 23 {
			if text[i] != '-' {
				return false
			}
			i++
			continue
		}
		hi, lo := unhex(text[i]), unhex(text[i+1])
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

// Text is the usual text of 16 bytes.
func Text(raw []byte) string {
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
