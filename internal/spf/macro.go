package spf

import (
	"encoding/hex"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// checkMacroString says what is wrong with a macro-string (RFC 7208 section
// 7.1), or returns "". The letters c, r and t are for explanation texts only.
func checkMacroString(s string, explanation bool) string {
	for i := 0; i < len(s); {
		if s[i] != '%' {
			i++
			continue
		}
		n, _, why := macroAt(s[i:], explanation)
		if why != "" {
			return why
		}
		i += n
	}
	return ""
}

// usesMacro reports whether s has the macro of that letter; "%%{p}" has none.
func usesMacro(s string, letter byte) bool {
	for i := 0; i < len(s); {
		if s[i] != '%' {
			i++
			continue
		}
		n, m, why := macroAt(s[i:], true)
		if why != "" {
			return false
		}
		if m.letter == letter {
			return true
		}
		i += n
	}
	return false
}

type macro struct {
	letter  byte
	upper   bool // the expansion is to be URL-escaped
	digits  int  // 0: all parts
	reverse bool
	delims  string
	literal string // for %%, %_ and %-
}

// macroAt reads the macro that s begins with and its length.
func macroAt(s string, explanation bool) (n int, m macro, why string) {
	if len(s) < 2 {
		return 0, m, "a lone \"%\" at the end; write \"%%\" for a percent sign"
	}
	switch s[1] {
	case '%':
		return 2, macro{literal: "%"}, ""
	case '_':
		return 2, macro{literal: " "}, ""
	case '-':
		return 2, macro{literal: "%20"}, ""
	case '{':
	default:
		return 0, m, strconv.Quote(s[:2]) + " is no macro; write \"%%\" for a percent sign"
	}
	end := strings.IndexByte(s, '}')
	if end < 0 {
		return 0, m, "a macro is opened with \"%{\" and never closed"
	}
	body := s[2:end]
	whole := strconv.Quote(clip(s[:end+1]))
	if body == "" {
		return 0, m, whole + " names no macro letter"
	}
	c := body[0]
	m.letter = c | 0x20
	m.upper = 'A' <= c && c <= 'Z'
	letters := "slodiphv"
	if explanation {
		letters = "slodiphvcrt"
	}
	if strings.IndexByte(letters, m.letter) < 0 {
		if strings.IndexByte("crt", m.letter) >= 0 {
			return 0, m, whole + " is for explanation texts only"
		}
		return 0, m, whole + " uses an unknown macro letter"
	}
	body = body[1:]
	d := 0
	for d < len(body) && '0' <= body[d] && body[d] <= '9' {
		d++
	}
	if d > 0 {
		v, err := strconv.Atoi(body[:d])
		if err != nil || v > 1<<20 {
			v = 1 << 20 // more parts than any name has
		}
		if v == 0 {
			return 0, m, whole + " keeps no part of the name; the number must be above 0"
		}
		m.digits = v
		body = body[d:]
	}
	if body != "" && body[0]|0x20 == 'r' {
		m.reverse = true
		body = body[1:]
	}
	for i := range len(body) {
		if strings.IndexByte(".-+,/_=", body[i]) < 0 {
			return 0, m, whole + " is malformed at " + strconv.Quote(body[i:])
		}
	}
	m.delims = body
	return end + 1, m, ""
}

// checkDomainSpec says what is wrong with a domain-spec (RFC 7208 section
// 7.1), or returns "": a macro-string that ends in a macro or in a top label.
func checkDomainSpec(s string) string {
	if s == "" {
		return "nothing stands there"
	}
	if why := checkMacroString(s, false); why != "" {
		return why
	}
	if endsInMacro(s) {
		return ""
	}
	rest := strings.TrimSuffix(s, ".")
	dot := strings.LastIndexByte(rest, '.')
	if dot < 0 {
		return strconv.Quote(clip(s)) + " is not a full domain name: it has no dot"
	}
	if top := rest[dot+1:]; !topLabel(top) {
		return strconv.Quote(clip(s)) + " ends in " + strconv.Quote(clip(top)) + ", which cannot be a top-level label"
	}
	return ""
}

func endsInMacro(s string) bool {
	end := false
	for i := 0; i < len(s); {
		end = false
		if s[i] != '%' {
			i++
			continue
		}
		n, _, why := macroAt(s[i:], false)
		if why != "" {
			return false
		}
		i += n
		end = true
	}
	return end
}

// topLabel: letters, digits and inner hyphens, and not digits alone.
func topLabel(s string) bool {
	if s == "" || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	digits := true
	for i := range len(s) {
		c := s[i]
		alpha := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !alpha && c != '-' && (c < '0' || c > '9') {
			return false
		}
		digits = digits && '0' <= c && c <= '9'
	}
	return !digits
}

// Identity is who sends, for macros. An empty Identity leaves the macros that
// depend on the mail unexpanded.
type Identity struct {
	Addr   netip.Addr
	Sender string // local@domain
	Helo   string

	origin string // where the walk began
}

// Expand replaces the macros of a domain-spec. ok is false when it needs a
// part of the identity that is not known.
func (id Identity) Expand(s, domain string) (out string, ok bool) {
	if strings.IndexByte(s, '%') < 0 {
		return s, true
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		if s[i] != '%' {
			b.WriteByte(s[i])
			i++
			continue
		}
		n, m, why := macroAt(s[i:], false)
		if why != "" {
			return "", false
		}
		i += n
		if m.letter == 0 {
			b.WriteString(m.literal)
			continue
		}
		v, known := id.value(m.letter, domain)
		if !known {
			return "", false
		}
		b.WriteString(m.apply(v))
	}
	out = b.String()
	// Too long a name loses labels from the left (RFC 7208 section 7.3).
	for len(strings.TrimSuffix(out, ".")) > 253 {
		_, rest, cut := strings.Cut(out, ".")
		if !cut {
			break
		}
		out = rest
	}
	return out, true
}

func (id Identity) value(letter byte, domain string) (string, bool) {
	local, of, _ := strings.Cut(id.Sender, "@")
	switch letter {
	case 'd':
		return strings.TrimSuffix(domain, "."), true
	case 'o':
		if id.Sender == "" {
			// The record of a domain is read for mails with senders there.
			return id.origin, id.origin != ""
		}
		return of, true
	case 's':
		return id.Sender, id.Sender != ""
	case 'l':
		return local, id.Sender != ""
	case 'h':
		return id.Helo, id.Helo != ""
	case 'p':
		// The validated name is not worth the queries; "unknown" is what the
		// RFC gives where there is none (section 7.3).
		return "unknown", id.Addr.IsValid()
	case 'v':
		if id.Addr.Is4() {
			return "in-addr", true
		}
		return "ip6", id.Addr.IsValid()
	case 'i':
		if !id.Addr.IsValid() {
			return "", false
		}
		if id.Addr.Is4() {
			return id.Addr.String(), true
		}
		raw := id.Addr.As16()
		return strings.Join(strings.Split(hex.EncodeToString(raw[:]), ""), "."), true
	}
	return "", false
}

func (m macro) apply(v string) string {
	delims := m.delims
	if delims == "" {
		delims = "."
	}
	if m.digits > 0 || m.reverse || m.delims != "" {
		var parts []string
		for {
			i := strings.IndexAny(v, delims)
			if i < 0 {
				parts = append(parts, v)
				break
			}
			parts = append(parts, v[:i])
			v = v[i+1:]
		}
		if m.reverse {
			for i, j := 0, len(parts)-1; i < j; i, j = i+1, j-1 {
				parts[i], parts[j] = parts[j], parts[i]
			}
		}
		if m.digits > 0 && m.digits < len(parts) {
			parts = parts[len(parts)-m.digits:]
		}
		v = strings.Join(parts, ".")
	}
	if m.upper {
		v = strings.ReplaceAll(url.QueryEscape(v), "+", "%20")
	}
	return v
}
