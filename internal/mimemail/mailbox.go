package mimemail

import (
	"mime"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// Mailbox is one address with an optional display name.
type Mailbox struct {
	// Name is the display name as text, not quoted or encoded.
	Name string
	// Addr is the address as it stands in an SMTP command: ASCII, the domain
	// in punycode, the local part quoted if it must be.
	Addr string
}

// Domain is the part of the address after the at sign.
func (m Mailbox) Domain() string {
	return m.Addr[strings.LastIndexByte(m.Addr, '@')+1:]
}

// Limits of RFC 5321 section 4.5.3.1 (a path of 256 has two angle brackets),
// and one for the whole, which bounds the work on hostile input.
const (
	maxLocal   = 64
	maxDomain  = 255
	maxAddr    = 254
	maxMailbox = 2000
)

// ParseMailbox parses exactly one mailbox as in RFC 5322 section 3.4, such as
// "hello@acme.test" or "Acme, Inc." <hello@acme.test>. A name may hold any
// UTF-8 and needs quotes only around the characters ()<>[]:;@\," ; encoded
// words in a name are decoded. A domain may be international. Lists, groups,
// comments, local parts that are not ASCII, and control characters are
// refused. The error is an [*Error].
func ParseMailbox(s string) (Mailbox, error) {
	m, reason := parseMailbox(s)
	if reason != "" {
		return Mailbox{}, &Error{Value: s, Reason: reason}
	}
	return m, nil
}

func parseMailbox(s string) (m Mailbox, reason string) {
	if len(s) > maxMailbox {
		return m, "is longer than 2000 bytes"
	}
	if reason = badText(s); reason != "" {
		return m, reason
	}
	s = strings.Trim(s, " \t")
	if s == "" {
		return m, "is empty, give an address such as hello@example.com"
	}
	open, reason := findOpen(s)
	if reason != "" {
		return m, reason
	}
	addr := s
	if open >= 0 {
		if s[len(s)-1] != '>' {
			return m, "has text after the address, or no closing >"
		}
		addr = s[open+1 : len(s)-1]
		if m.Name, reason = parsePhrase(s[:open]); reason != "" {
			return m, reason
		}
	}
	m.Addr, reason = parseAddr(addr)
	return m, reason
}

// findOpen gives the place of the angle bracket that opens the address, -1 if
// there is none, and refuses what makes s more than one plain mailbox.
func findOpen(s string) (open int, reason string) {
	open = -1
	quoted := false
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == ',' || c == ';':
			return 0, "is a list where exactly one address belongs; make one message for each recipient, or put quotes around a name that has a comma or semicolon"
		case c == '(' || c == ')':
			return 0, "has a comment; leave it out, or put quotes around a name that has parentheses"
		case c == ':' && open < 0:
			return 0, "is a group where exactly one address belongs, or a name with a colon that needs quotes"
		case c == '<':
			if open >= 0 {
				return 0, "has two opening angle brackets"
			}
			open = i
		}
	}
	if quoted {
		return 0, "has a quote that is not closed"
	}
	return open, ""
}

// parsePhrase reads a display name: atoms, dots, and quoted strings.
func parsePhrase(s string) (name, reason string) {
	s = strings.Trim(s, " \t")
	// The usual forms are a piece of the input.
	if len(s) >= 2 && s[0] == '"' && strings.IndexByte(s[1:], '"') == len(s)-2 && strings.IndexByte(s, '\\') < 0 {
		return s[1 : len(s)-1], ""
	}
	if i := strings.IndexAny(s, `>[]@\`); i >= 0 && strings.IndexByte(s, '"') < 0 {
		return "", "has the character " + s[i:i+1] + " in the name; put quotes around the name"
	}
	if strings.IndexByte(s, '"') < 0 && strings.IndexByte(s, '\t') < 0 && !strings.Contains(s, "  ") && !strings.Contains(s, "=?") {
		return s, ""
	}
	var b strings.Builder
	for s != "" {
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		if s[0] == '"' {
			text, n, ok := unquote(s)
			if !ok {
				return "", "has a quote that is not closed"
			}
			b.WriteString(text)
			s = strings.TrimLeft(s[n:], " \t")
			continue
		}
		end := strings.IndexByte(s, '"')
		if end < 0 {
			end = len(s)
		}
		atoms := strings.Join(strings.Fields(s[:end]), " ")
		if i := strings.IndexAny(atoms, `>[]@\`); i >= 0 {
			return "", "has the character " + atoms[i:i+1] + " in the name; put quotes around the name"
		}
		if strings.Contains(atoms, "=?") {
			if d, err := new(mime.WordDecoder).DecodeHeader(atoms); err == nil {
				atoms = d
			}
		}
		b.WriteString(atoms)
		s = s[end:]
	}
	name = b.String()
	if len(name) > maxMailbox {
		return "", "is longer than 2000 bytes"
	}
	// Encoded words may have hidden a line break.
	return name, badText(name)
}

// unquote reads the quoted string at the start of s; n is its length with the
// quotes.
func unquote(s string) (text string, n int, ok bool) {
	var b []byte
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '"':
			return string(b), i + 1, true
		case '\\':
			if i++; i == len(s) {
				return "", 0, false
			}
		}
		b = append(b, s[i])
	}
	return "", 0, false
}

// parseAddr reads an addr-spec and gives it in its wire form.
func parseAddr(s string) (addr, reason string) {
	s = strings.Trim(s, " \t")
	if s == "" {
		return "", "has no address between the angle brackets"
	}
	var local, rest string
	quotedLocal := s[0] == '"'
	if quotedLocal {
		text, n, ok := unquote(s)
		if !ok {
			return "", "has a quote that is not closed"
		}
		if text == "" || !isASCII(text) || strings.IndexByte(text, '\t') >= 0 {
			return "", "has a quoted part before the @ that is empty or not plain ASCII"
		}
		local, rest = text, s[n:]
		if rest == "" || rest[0] != '@' {
			return "", "has no @ after the quoted part"
		}
		rest = rest[1:]
	} else {
		at := strings.IndexByte(s, '@')
		if at < 0 {
			return "", "has no @, give an address such as hello@example.com"
		}
		local, rest = s[:at], s[at+1:]
		if reason = badLocal(local); reason != "" {
			return "", reason
		}
	}
	domain, reason := parseDomain(rest)
	if reason != "" {
		return "", reason
	}
	if quotedLocal && badLocal(local) != "" {
		local = string(appendQuoted(nil, local))
	}
	if len(local) > maxLocal {
		return "", "has more than 64 bytes before the @"
	}
	if len(local)+1+len(domain) > maxAddr {
		return "", "is longer than 254 bytes"
	}
	if n := len(s) - len(local); n > 0 && s[:len(local)] == local && s[len(local)] == '@' && s[len(local)+1:] == domain {
		return s, ""
	}
	return local + "@" + domain, ""
}

// badLocal says why s is no dot-atom.
func badLocal(s string) string {
	if s == "" {
		return "has nothing before the @"
	}
	for i := range len(s) {
		switch c := s[i]; {
		case c == '.':
			if i == 0 || i == len(s)-1 || s[i-1] == '.' {
				return "has a dot at an end of the part before the @, or two in a row; put quotes around that part if it is really so"
			}
		case c >= utf8.RuneSelf:
			return "has characters outside ASCII before the @, which Postmark and most mail servers refuse; use the ASCII address of the mailbox"
		case c == ' ' || c == '\t':
			return "has a blank in the address; a name goes before the address, and the address in angle brackets: Name <hello@example.com>"
		case !isAtext(c):
			return "has the character " + strconv.Quote(s[i:i+1]) + " before the @"
		}
	}
	return ""
}

// parseDomain checks a domain and gives its ASCII form.
func parseDomain(s string) (domain, reason string) {
	switch {
	case s == "":
		return "", "has no domain after the @"
	case s[0] == '[':
		return "", "has an IP address as its domain; use a domain name"
	case len(s) > 4*maxDomain:
		return "", "has a domain of more than 255 bytes"
	}
	if !isASCII(s) {
		a, err := idna.Lookup.ToASCII(s)
		if err != nil {
			return "", "has a domain that is not a valid international name: " + strings.TrimPrefix(err.Error(), "idna: ")
		}
		s = a
	}
	if len(s) > maxDomain {
		return "", "has a domain of more than 255 bytes"
	}
	label := 0
	for i := 0; i <= len(s); i++ {
		if i == len(s) || s[i] == '.' {
			switch {
			case i == label:
				return "", "has an empty label in its domain (two dots in a row, or one at an end)"
			case i-label > 63:
				return "", "has a domain label of more than 63 bytes"
			case s[label] == '-' || s[i-1] == '-':
				return "", "has a domain label that starts or ends with a hyphen"
			}
			label = i + 1
			continue
		}
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-':
		case c == '@':
			return "", "has two @"
		case c == ' ' || c == '\t':
			return "", "has a blank in the address"
		default:
			return "", "has the character " + strconv.Quote(s[i:i+1]) + " in its domain"
		}
	}
	return s, ""
}

// check refuses a Mailbox whose parts [ParseMailbox] would not give.
func (m Mailbox) check(field string) error {
	reason := badText(m.Name)
	if reason == "" {
		reason = badText(m.Addr)
	}
	if reason == "" && len(m.Name) > maxMailbox {
		reason = "has a name longer than 2000 bytes"
	}
	if reason == "" {
		if len(m.Addr) > maxAddr {
			reason = "is longer than 254 bytes"
		} else if addr, r := parseAddr(m.Addr); r != "" {
			reason = r
		} else if addr != m.Addr {
			reason = "is not in its ASCII form"
		}
	}
	if reason != "" {
		v := m.Addr
		if m.Name != "" {
			v = m.Name + " <" + m.Addr + ">"
		}
		return &Error{Field: field, Value: v, Reason: reason}
	}
	return nil
}

// isAtext reports whether c may stand in an atom (RFC 5322 section 3.2.3).
func isAtext(c byte) bool { return atext[c] }

var atext = func() (t [256]bool) {
	for c := range t {
		t[c] = c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' ||
			strings.IndexByte("!#$%&'*+-/=?^_`{|}~", byte(c)) >= 0
	}
	return t
}()

// String gives the mailbox as one line of UTF-8, the name in quotes, for where
// header encoding has no place, such as JSON.
func (m Mailbox) String() string {
	if m.Name == "" {
		return m.Addr
	}
	b := appendQuoted(make([]byte, 0, len(m.Name)+len(m.Addr)+8), m.Name)
	b = append(b, " <"...)
	b = append(b, m.Addr...)
	return string(append(b, '>'))
}
