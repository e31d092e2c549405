package mimemail

import (
	"encoding/base64"
	"strings"
	"unicode/utf8"
)

// writer appends header fields. line is where the present line starts.
type writer struct {
	buf  []byte
	line int
}

func (w *writer) col() int { return len(w.buf) - w.line }

func (w *writer) name(name string) {
	w.line = len(w.buf)
	w.buf = append(w.buf, name...)
	w.buf = append(w.buf, ':')
}

func (w *writer) end() { w.buf = append(w.buf, "\r\n"...) }

// fold starts a continuation line. The blank that makes it one is the blank
// between two words, or the one between encoded words that decoders drop.
func (w *writer) fold() {
	w.buf = append(w.buf, "\r\n"...)
	w.line = len(w.buf)
}

// word appends a blank and s, on a new line when it does not fit on this one.
// The first word stays on the line of the name, as a line that holds the name
// alone confuses old readers, unless it passes the hard limit there.
func (w *writer) word(s string, first bool) {
	limit := maxHeaderLine
	if first {
		limit = maxLine
	}
	if w.col()+1+len(s) > limit {
		w.fold()
	}
	w.buf = append(w.buf, ' ')
	w.buf = append(w.buf, s...)
}

// words appends words that stand apart by one blank each.
func (w *writer) words(s string, first bool) {
	for s != "" {
		i := strings.IndexByte(s, ' ')
		if i < 0 {
			w.word(s, first)
			return
		}
		w.word(s[:i], first)
		s, first = s[i+1:], false
	}
}

// text writes an unstructured field. From the first word that cannot stand as
// it is to the last, the value becomes encoded words. With short set that
// includes words too long for a line of 76; else they may take up to 998, so
// that an address in a List-Unsubscribe or a key in metadata arrives as it
// was given.
func (w *writer) text(name, value string, short bool) {
	w.name(name)
	limit := maxLine - 1
	if short {
		limit = maxHeaderLine - len(name) - 2
	}
	start, end := encodeSpan(value, limit)
	if start == end {
		w.words(value, true)
		w.end()
		return
	}
	if start > 0 {
		w.words(value[:start-1], true)
	}
	w.encoded(value[start:end])
	if end < len(value) {
		w.words(value[end+1:], false)
	}
	w.end()
}

// encodeSpan gives the part of s that must become encoded words: from the
// start of the first word to the end of the last word that is not ASCII, looks
// like an encoded word, is longer than limit, or touches a blank that folding
// or trimming could change. The span is bounded by single blanks or by the
// ends of s; it is empty when s can stand as it is.
func encodeSpan(s string, limit int) (start, end int) {
	first, last := -1, -1
	mark := func(i int) {
		if first < 0 {
			first = i
		}
		last = i
	}
	wordStart := 0
	for i := range len(s) {
		switch c := s[i]; {
		case c == ' ':
			if i == 0 || i == len(s)-1 || s[i-1] == ' ' || s[i+1] == ' ' {
				mark(i)
			}
			wordStart = i + 1
		case c < ' ' || c >= 0x7F:
			mark(i)
		case c == '=' && i+1 < len(s) && s[i+1] == '?':
			mark(i)
		case i-wordStart >= limit:
			mark(i)
		}
	}
	if first < 0 {
		return 0, 0
	}
	start, end = first, last+1
	for start > 0 && s[start-1] != ' ' {
		start--
	}
	for end < len(s) && s[end] != ' ' {
		end++
	}
	// A marked blank at an edge of the span belongs to a run of blanks, all
	// marked, or to an end of s; so what lies outside is a single blank.
	return start, end
}

const (
	encodedOpen  = "=?utf-8?q?" // or b
	encodedExtra = len(encodedOpen) + len("?=")
	maxEncoded   = 75 - encodedExtra
	// minRoom is what the longest rune takes in the Q encoding.
	minRoom = 3 * utf8.UTFMax
)

// encoded appends s as encoded words of at most 75 bytes, each of whole runes.
func (w *writer) encoded(s string) {
	qLen := 0
	for i := range len(s) {
		if qPlain[s[i]] {
			qLen++
		} else {
			qLen += 3
		}
	}
	// Q can be read in the raw mail, so B must be a good deal shorter.
	useB := 3*qLen > 4*((len(s)+2)/3*4)
	for s != "" {
		room := min(maxHeaderLine-w.col()-1-encodedExtra, maxEncoded)
		if room < minRoom {
			w.fold()
			room = min(maxHeaderLine-1-encodedExtra, maxEncoded)
		}
		w.buf = append(w.buf, ' ')
		if useB {
			n := wholeRunes(s, room/4*3)
			w.buf = append(w.buf, "=?utf-8?b?"...)
			w.buf = appendBase64(w.buf, s[:n])
			s = s[n:]
		} else {
			n := 0
			w.buf = append(w.buf, encodedOpen...)
			for n < len(s) {
				_, size := utf8.DecodeRuneInString(s[n:])
				cost := 3 * size
				if qPlain[s[n]] {
					cost = 1
				}
				if room -= cost; room < 0 {
					break
				}
				for _, c := range []byte(s[n : n+size]) {
					w.buf = appendQ(w.buf, c)
				}
				n += size
			}
			s = s[n:]
		}
		w.buf = append(w.buf, "?="...)
	}
}

// wholeRunes is the length of the longest prefix of s of at most n bytes that
// splits no rune.
func wholeRunes(s string, n int) int {
	if n >= len(s) {
		return len(s)
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return n
}

func appendBase64(dst []byte, s string) []byte {
	var chunk [48]byte
	for s != "" {
		n := copy(chunk[:], s)
		dst = base64.StdEncoding.AppendEncode(dst, chunk[:n])
		s = s[n:]
	}
	return dst
}

// qPlain are the bytes that the Q encoding leaves alone everywhere, also in a
// display name (RFC 2047 section 5, rule 3), with the blank, which becomes
// one byte too.
var qPlain = func() (t [256]bool) {
	for c := range t {
		t[c] = c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' ||
			strings.IndexByte(" !*+-/", byte(c)) >= 0
	}
	return t
}()

func appendQ(dst []byte, c byte) []byte {
	switch {
	case c == ' ':
		return append(dst, '_')
	case qPlain[c]:
		return append(dst, c)
	}
	return append(dst, '=', upperHex[c>>4], upperHex[c&15])
}

const upperHex = "0123456789ABCDEF"

// mailbox writes an address field.
func (w *writer) mailbox(name string, m Mailbox) {
	w.name(name)
	if m.Name == "" {
		w.word(m.Addr, true)
		w.end()
		return
	}
	switch s := m.Name; {
	case needsEncoding(s):
		w.encoded(s)
	case isPhrase(s):
		w.words(s, true)
	default:
		w.buf = append(w.buf, ' ')
		w.buf = appendQuoted(w.buf, s)
	}
	if w.col()+len(" <>")+len(m.Addr) > maxHeaderLine {
		w.fold()
	}
	w.buf = append(w.buf, " <"...)
	w.buf = append(w.buf, m.Addr...)
	w.buf = append(w.buf, '>')
	w.end()
}

// needsEncoding reports whether a display name cannot stand as atoms or as one
// quoted string on the line of the field's name.
func needsEncoding(s string) bool {
	const room = maxHeaderLine - len("Reply-To: ")
	start, end := encodeSpan(s, room)
	if start != end {
		return true
	}
	if isPhrase(s) {
		return false
	}
	quoted := len(s) + 2
	for i := range len(s) {
		if s[i] == '"' || s[i] == '\\' {
			quoted++
		}
	}
	return quoted > room
}

// isPhrase reports whether s is atoms and blanks only.
func isPhrase(s string) bool {
	for i := range len(s) {
		if s[i] != ' ' && !isAtext(s[i]) {
			return false
		}
	}
	return true
}

func appendQuoted(dst []byte, s string) []byte {
	dst = append(dst, '"')
	for i := range len(s) {
		if s[i] == '"' || s[i] == '\\' {
			dst = append(dst, '\\')
		}
		dst = append(dst, s[i])
	}
	return append(dst, '"')
}
