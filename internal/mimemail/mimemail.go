// Package mimemail writes whole mails: RFC 5322 header fields, RFC 2047
// encoded words and RFC 2045/2046 MIME bodies, appended to a buffer of the
// caller.
//
// What it writes is 7-bit, with CRLF line ends, no line over 998 bytes and no
// header line over 76 where the text can be folded. Dots at the start of a
// line are left alone: doubling them is SMTP's business. The same [Mail] gives
// the same bytes each time.
package mimemail

import (
	"encoding/binary"
	"encoding/hex"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Mail is what [Append] writes. It is only read.
type Mail struct {
	// From and To are written as they are; both must be there.
	From, To Mailbox
	// ReplyTo is left out when it is the zero Mailbox.
	ReplyTo Mailbox
	// Subject is text; it may be empty.
	Subject string
	// MessageID has no angle brackets, such as "abc@example.com".
	MessageID string
	// Date must lie in the years 1900 to 9999 (RFC 5322 section 3.3).
	Date time.Time
	// Text and HTML are the two bodies; one of them may be empty. With both
	// the mail is multipart/alternative, with one it has a single part.
	// Line ends may be LF, CR, CRLF or mixed. Bytes that are not UTF-8 are
	// carried as they are.
	Text, HTML string
	// Fields are written after the fields above, in this order, their names
	// as given.
	Fields []Field
}

// Field is one further header field. Value is text: what is not ASCII becomes
// encoded words.
type Field struct{ Name, Value string }

// Error is a mail or an address that cannot be written.
type Error struct {
	// Field is the header field, such as "Subject"; empty from
	// [ParseMailbox] and for the name of a further field.
	Field string
	// Value is what was refused.
	Value string
	// Reason says what is wrong and what to do.
	Reason string
}

// Error names field, value and reason.
func (e *Error) Error() string {
	v := e.Value
	if len(v) > 64 {
		v = strings.ToValidUTF8(v[:61], "") + "..."
	}
	if e.Field == "" {
		return strconv.Quote(v) + ": " + e.Reason
	}
	return e.Field + " " + strconv.Quote(v) + ": " + e.Reason
}

const (
	// maxHeaderLine is RFC 2047's limit for a line with encoded words, and two
	// less than RFC 5322 recommends for the others.
	maxHeaderLine = 76
	// maxLine is RFC 5322's hard limit, without CRLF.
	maxLine = 998
	// maxNameLen keeps "Name: " and the shortest encoded word on one line.
	maxNameLen = 70
)

// Append appends m to dst and returns the longer slice. With a dst that is
// large enough it does not allocate. When m cannot be written the error is an
// [*Error] and dst comes back as it was.
func Append(dst []byte, m *Mail) ([]byte, error) {
	if err := m.check(); err != nil {
		return dst, err
	}
	size := len(m.Text) + len(m.HTML)
	w := writer{buf: slices.Grow(dst, size+size/16+1024+2*len(m.Subject))}
	w.mailbox("From", m.From)
	w.mailbox("To", m.To)
	if m.ReplyTo != (Mailbox{}) {
		w.mailbox("Reply-To", m.ReplyTo)
	}
	w.text("Subject", m.Subject, true)
	w.name("Date")
	w.buf = append(w.buf, ' ')
	w.buf = wireTime(m.Date).AppendFormat(w.buf, "Mon, 02 Jan 2006 15:04:05 -0700")
	w.end()
	w.name("Message-ID")
	w.buf = append(w.buf, " <"...)
	w.buf = append(w.buf, m.MessageID...)
	w.buf = append(w.buf, '>')
	w.end()
	for i := range m.Fields {
		w.text(m.Fields[i].Name, m.Fields[i].Value, false)
	}
	w.buf = append(w.buf, "MIME-Version: 1.0\r\n"...)

	if m.Text == "" || m.HTML == "" {
		if m.HTML != "" {
			w.part("html", m.HTML)
		} else {
			w.part("plain", m.Text)
		}
		if !endsLine(w.buf) {
			w.buf = append(w.buf, "\r\n"...)
		}
		return w.buf, nil
	}
	var b [boundaryLen]byte
	boundary(&b, m.MessageID)
	w.buf = append(w.buf, "Content-Type: multipart/alternative;\r\n boundary=\""...)
	w.buf = append(w.buf, b[:]...)
	w.buf = append(w.buf, "\"\r\n\r\n--"...)
	w.buf = append(w.buf, b[:]...)
	w.buf = append(w.buf, "\r\n"...)
	w.part("plain", m.Text)
	w.buf = append(w.buf, "\r\n--"...)
	w.buf = append(w.buf, b[:]...)
	w.buf = append(w.buf, "\r\n"...)
	w.part("html", m.HTML)
	w.buf = append(w.buf, "\r\n--"...)
	w.buf = append(w.buf, b[:]...)
	w.buf = append(w.buf, "--\r\n"...)
	return w.buf, nil
}

func (w *writer) part(subtype, body string) {
	w.buf = append(w.buf, "Content-Type: text/"...)
	w.buf = append(w.buf, subtype...)
	w.buf = append(w.buf, "; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n"...)
	w.buf = appendQuotedPrintable(w.buf, body)
}

func endsLine(b []byte) bool {
	return len(b) > 1 && b[len(b)-2] == '\r' && b[len(b)-1] == '\n'
}

const boundaryLen = 2 + 32

// boundary names the parts after the Message-ID. It starts with "=_", which
// quoted-printable never puts out (RFC 2045 section 6.7), so it cannot occur
// in a part whatever the text is.
func boundary(b *[boundaryLen]byte, messageID string) {
	const prime = 0x100000001b3 // FNV-1a, from two starting points
	h := [2]uint64{0xcbf29ce484222325, 0x9e3779b97f4a7c15}
	for i := range len(messageID) {
		h[0] = (h[0] ^ uint64(messageID[i])) * prime
		h[1] = (h[1] ^ uint64(messageID[i])) * prime
	}
	b[0], b[1] = '=', '_'
	var sum [16]byte
	binary.BigEndian.PutUint64(sum[:8], h[0])
	binary.BigEndian.PutUint64(sum[8:], h[1])
	hex.Encode(b[2:], sum[:])
}

// wireTime gives t a zone that "+hhmm" can say; others become UTC.
func wireTime(t time.Time) time.Time {
	if _, off := t.Zone(); off%60 != 0 || off <= -24*3600 || off >= 24*3600 {
		return t.UTC()
	}
	return t
}

func (m *Mail) check() error {
	if err := m.From.check("From"); err != nil {
		return err
	}
	if err := m.To.check("To"); err != nil {
		return err
	}
	if m.ReplyTo != (Mailbox{}) {
		if err := m.ReplyTo.check("Reply-To"); err != nil {
			return err
		}
	}
	if reason := badText(m.Subject); reason != "" {
		return &Error{Field: "Subject", Value: m.Subject, Reason: reason}
	}
	if reason := badMessageID(m.MessageID); reason != "" {
		return &Error{Field: "Message-ID", Value: m.MessageID, Reason: reason}
	}
	if y := wireTime(m.Date).Year(); m.Date.IsZero() || y < 1900 || y > 9999 {
		return &Error{Field: "Date", Value: m.Date.String(), Reason: "give a time in the years 1900 to 9999"}
	}
	if m.Text == "" && m.HTML == "" {
		return &Error{Field: "Body", Reason: "text and html are both empty, give at least one"}
	}
	for i := range m.Fields {
		if err := CheckField(m.Fields[i]); err != nil {
			return err
		}
	}
	return nil
}

// CheckField says whether f can be written as a further field: its name is
// one, is not a field that [Append] writes itself or a server writes, and its
// value is text on one line.
func CheckField(f Field) error {
	if reason := badFieldName(f.Name); reason != "" {
		return &Error{Value: f.Name, Reason: reason}
	}
	if reason := badText(f.Value); reason != "" {
		return &Error{Field: f.Name, Value: f.Value, Reason: reason}
	}
	if !isASCII(f.Value) && structured(f.Name) {
		return &Error{Field: f.Name, Value: f.Value, Reason: "must be ASCII: percent-encode addresses (URLs) and write domains in punycode"}
	}
	if structured(f.Name) && longestWord(f.Value) > maxLine-1 {
		return &Error{Field: f.Name, Value: f.Value, Reason: "holds a word too long for one line of a mail, 997 bytes at most"}
	}
	return nil
}

// CheckText says whether s can stand in a header field: one line of UTF-8
// without control characters. The error is an [*Error].
func CheckText(s string) error {
	if reason := badText(s); reason != "" {
		return &Error{Value: s, Reason: reason}
	}
	return nil
}

// CheckMessageID says whether id can be a Message-ID; it has no angle
// brackets. The error is an [*Error].
func CheckMessageID(id string) error {
	if reason := badMessageID(id); reason != "" {
		return &Error{Value: id, Reason: reason}
	}
	return nil
}

// written are the fields that belong to the composer or to the servers on the
// way; a second one would let each reader choose which to believe.
var written = [...]string{
	"From", "To", "Reply-To", "Subject", "Date", "Message-ID", "MIME-Version",
	"Cc", "Bcc", "Sender", "Return-Path", "Received", "DKIM-Signature",
}

func badFieldName(name string) string {
	if name == "" {
		return "the name of a header field is empty"
	}
	if len(name) > maxNameLen {
		return "the name of a header field is longer than 70 bytes"
	}
	for i := range len(name) {
		if c := name[i]; c <= ' ' || c >= 0x7F || c == ':' {
			return "the name of a header field may hold visible ASCII without colon and blanks only"
		}
	}
	for _, w := range written {
		if strings.EqualFold(w, name) {
			return "this field cannot be added, it is written by the composer or by mail servers"
		}
	}
	if hasFoldPrefix(name, "Content-") || hasFoldPrefix(name, "Resent-") {
		return "this field cannot be added, it is written by the composer or by mail servers"
	}
	return ""
}

// structured reports whether a field has a syntax in which encoded words have
// no place.
func structured(name string) bool {
	return hasFoldPrefix(name, "List-") && !strings.EqualFold(name, "List-ID") ||
		strings.EqualFold(name, "References") || strings.EqualFold(name, "In-Reply-To")
}

func hasFoldPrefix(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}

func longestWord(s string) int {
	n := 0
	for len(s) > 0 {
		i := strings.IndexByte(s, ' ')
		if i < 0 {
			return max(n, len(s))
		}
		n = max(n, i)
		s = s[i+1:]
	}
	return n
}

func badMessageID(id string) string {
	if id == "" {
		return "is empty"
	}
	if len(id) > maxLine-len("Message-ID: <>") {
		return "is too long for one line of a mail"
	}
	at := 0
	for i := range len(id) {
		switch c := id[i]; {
		case c <= ' ' || c >= 0x7F || c == '<' || c == '>':
			return "may hold visible ASCII without angle brackets only, such as abc@example.com"
		case c == '@':
			at++
		}
	}
	if at != 1 || id[0] == '@' || id[len(id)-1] == '@' {
		return "must have the form left@right, such as abc@example.com"
	}
	return ""
}

// badText says why s cannot stand in a header field; empty when it can.
func badText(s string) string {
	ascii := true
	for i := plainRun(s); i < len(s); i++ {
		switch c := s[i]; {
		case c >= utf8.RuneSelf:
			ascii = false
		case c == '\r' || c == '\n':
			return "holds a line break, which would start another header field"
		case c < ' ' && c != '\t' || c == 0x7F:
			return "holds the control character " + strconv.QuoteRune(rune(c))
		}
	}
	if !ascii && !utf8.ValidString(s) {
		return "is not valid UTF-8"
	}
	return ""
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}
