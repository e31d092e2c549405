package mimemail

import "math/bits"

// maxQP is the longest line before a soft line break, which takes one more
// (RFC 2045 section 6.7, rule 5).
const maxQP = 75

// appendQuotedPrintable appends s in the quoted-printable encoding. LF, CR and
// CRLF are each one line end.
func appendQuotedPrintable(dst []byte, s string) []byte {
	col := 0
	for i := 0; i < len(s); {
		if n := plainRun(s[i:]); n > 0 {
			for n > 0 {
				if col == maxQP {
					dst = append(dst, "=\r\n"...)
					col = 0
				}
				k := min(n, maxQP-col)
				dst = append(dst, s[i:i+k]...)
				i, n, col = i+k, n-k, col+k
			}
			continue
		}
		c := s[i]
		i++
		if c == '\r' || c == '\n' {
			if c == '\r' && i < len(s) && s[i] == '\n' {
				i++
			}
			if col > 0 {
				dst = guardBlank(dst, col)
			}
			dst = append(dst, "\r\n"...)
			col = 0
			continue
		}
		if c == '\t' && i < len(s) && s[i] != '\r' && s[i] != '\n' {
			if col == maxQP {
				dst = append(dst, "=\r\n"...)
				col = 0
			}
			dst = append(dst, c)
			col++
			continue
		}
		if col+3 > maxQP {
			dst = append(dst, "=\r\n"...)
			col = 0
		}
		dst = append(dst, '=', upperHex[c>>4], upperHex[c&15])
		col += 3
	}
	if col > 0 {
		dst = guardBlank(dst, col)
	}
	return dst
}

// guardBlank encodes a blank at the end of a line of col bytes, which servers
// on the way may cut.
func guardBlank(dst []byte, col int) []byte {
	last := len(dst) - 1
	if dst[last] != ' ' {
		return dst
	}
	dst = dst[:last]
	if col+2 > maxQP+1 {
		dst = append(dst, "=\r\n"...)
	}
	return append(dst, "=20"...)
}

// plainRun is the number of bytes at the start of s that stand for themselves:
// blank to tilde without the equals sign. It looks at eight at a time.
func plainRun(s string) int {
	const (
		ones  = 0x0101010101010101
		highs = 0x8080808080808080
	)
	i := 0
	for ; i+8 <= len(s); i += 8 {
		b := s[i : i+8]
		x := uint64(b[0]) | uint64(b[1])<<8 | uint64(b[2])<<16 | uint64(b[3])<<24 |
			uint64(b[4])<<32 | uint64(b[5])<<40 | uint64(b[6])<<48 | uint64(b[7])<<56
		eq := x ^ '='*ones
		// A carry can set a wrong bit only above a right one, so the lowest
		// bit is exact: below blank, equals sign, DEL or above.
		if m := ((x-' '*ones)&^x | (eq-ones)&^eq | (x + ones) | x) & highs; m != 0 {
			return i + bits.TrailingZeros64(m)/8
		}
	}
	for ; i < len(s); i++ {
		if c := s[i]; c < ' ' || c > '~' || c == '=' {
			break
		}
	}
	return i
}
