// Package spf reads SPF records strictly (RFC 7208), walks the tree of records
// they pull in, counts what the tree costs, and merges an include into a
// record without touching anything else.
package spf

import (
	"net/netip"
	"strconv"
	"strings"
)

// Term is one mechanism or modifier of a record.
type Term struct {
	// Pos and End are byte offsets in the record.
	Pos, End int
	// Text as written.
	Text string
	// Name in lower case: "include", "a", "redirect", ...
	Name string
	// Modifier is true for name=value terms.
	Modifier bool
	// Qualifier is '+', '-', '~' or '?'; '+' when none is written; 0 for a
	// modifier.
	Qualifier byte
	// Value is what stands after ":" or "=", without a prefix length; HasValue
	// tells "a" from "a:".
	Value    string
	HasValue bool
	// Network is that of ip4 and ip6.
	Network netip.Prefix
	// Bits4 and Bits6 are the prefix lengths of a and mx; 32 and 128 when not
	// written.
	Bits4, Bits6 int
	// Bad is true when the term breaks the grammar.
	Bad bool
}

// Fault is one breach of the grammar; each makes the whole record a permanent
// error (RFC 7208 section 4.6).
type Fault struct {
	Pos, End int
	// Code is stable: "unknown_mechanism", "bad_domain", ...
	Code string
	Text string
}

// MaxIssues bounds how many issues of a kind are listed of one record: one of 64 KB
// may have ten thousand.
const MaxIssues = 500

// Record is a parsed record.
type Record struct {
	Text   string
	Terms  []Term
	Faults []Fault // the first MaxIssues
}

// Is reports whether s is an SPF record by its version section (RFC 7208
// section 4.5): "v=spf1" in any case, then a blank or the end.
func Is(s string) bool {
	return len(s) >= 6 && strings.EqualFold(s[:6], "v=spf1") && (len(s) == 6 || s[6] == ' ')
}

// Parse reads a record for which [Is] holds. It goes on after a fault, so that
// all of them are found.
func Parse(s string) *Record {
	r := &Record{Text: s, Terms: make([]Term, 0, strings.Count(s, " ")+1)}
	for pos := 6; pos < len(s); {
		if s[pos] == ' ' {
			pos++
			continue
		}
		end := strings.IndexByte(s[pos:], ' ')
		if end < 0 {
			end = len(s)
		} else {
			end += pos
		}
		r.Terms = append(r.Terms, r.term(pos, end))
		pos = end
	}
	r.once("redirect")
	r.once("exp")
	return r
}

// All returns the first "all" term, or nil.
func (r *Record) All() *Term { return r.find("all", false) }

// Redirect returns the redirect modifier, or nil.
func (r *Record) Redirect() *Term { return r.find("redirect", true) }

// Unreached lists the terms that "all" keeps from being looked at.
func (r *Record) Unreached() (terms []string) {
	all := r.All()
	for i := range r.Terms {
		if t := &r.Terms[i]; dead(t, all) && t.Name != "all" {
			terms = append(terms, t.Text)
		}
	}
	return terms
}

func (r *Record) find(name string, modifier bool) *Term {
	for i := range r.Terms {
		if t := &r.Terms[i]; t.Name == name && t.Modifier == modifier && !t.Bad {
			return t
		}
	}
	return nil
}

func (r *Record) once(name string) {
	seen := false
	for _, t := range r.Terms {
		if t.Modifier && t.Name == name {
			if seen {
				r.fault(t.Pos, t.End, "repeated_modifier", name+"= stands twice; at most one is allowed")
			}
			seen = true
		}
	}
}

func (r *Record) fault(pos, end int, code, text string) {
	if len(r.Faults) == MaxIssues {
		return
	}
	r.Faults = append(r.Faults, Fault{pos, end, code, text})
}

func (r *Record) term(pos, end int) Term {
	t := Term{Pos: pos, End: end, Text: r.Text[pos:end], Bits4: 32, Bits6: 128}
	bad := func(code, text string) Term {
		t.Bad = true
		r.fault(pos, end, code, text)
		return t
	}
	for i := range len(t.Text) {
		if c := t.Text[i]; c < 0x21 || c > 0x7e {
			return bad("bad_character", "the byte 0x"+strconv.FormatUint(uint64(c), 16)+
				" is not allowed; an SPF record is plain ASCII with single blanks between its terms")
		}
	}
	body := t.Text
	if strings.IndexByte("+-~?", body[0]) >= 0 {
		t.Qualifier = body[0]
		body = body[1:]
	}
	n := nameLen(body)
	rest := body[n:]
	if n > 0 && strings.HasPrefix(rest, "=") {
		t.Name, t.Modifier, t.Value, t.HasValue = strings.ToLower(body[:n]), true, rest[1:], true
		if t.Qualifier != 0 {
			return bad("qualified_modifier", strconv.Quote(t.Text)+" is a modifier; it cannot have a qualifier in front")
		}
		if t.Name == "redirect" || t.Name == "exp" {
			if why := checkDomainSpec(t.Value); why != "" {
				return bad("bad_domain", t.Name+"= needs a domain name: "+why)
			}
		} else if why := checkMacroString(t.Value, false); why != "" {
			return bad("bad_macro", strconv.Quote(t.Text)+": "+why)
		}
		return t
	}
	if t.Qualifier == 0 {
		t.Qualifier = '+'
	}
	if i := strings.IndexAny(body, ":/"); i >= 0 {
		t.Name, rest = strings.ToLower(body[:i]), body[i:]
	} else {
		t.Name, rest = strings.ToLower(body), ""
	}
	var why, code string
	switch t.Name {
	case "all":
		if rest != "" {
			code, why = "bad_term", "\"all\" takes nothing after it"
		}
	case "include", "exists":
		if !strings.HasPrefix(rest, ":") {
			code, why = "bad_term", strconv.Quote(t.Name)+" needs a domain name after a colon"
			break
		}
		t.Value, t.HasValue = rest[1:], true
		code, why = "bad_domain", checkDomainSpec(t.Value)
	case "ptr":
		if rest != "" {
			if rest[0] != ':' {
				code, why = "bad_term", "\"ptr\" takes no prefix length"
				break
			}
			t.Value, t.HasValue = rest[1:], true
			code, why = "bad_domain", checkDomainSpec(t.Value)
		}
	case "a", "mx":
		code, why = t.hosts(rest)
	case "ip4", "ip6":
		code, why = t.network(rest)
	default:
		return bad("unknown_mechanism", strconv.Quote(clip(t.Text))+" means nothing in an SPF record")
	}
	if why != "" {
		return bad(code, strconv.Quote(clip(t.Text))+": "+why)
	}
	return t
}

// hosts reads what follows "a" or "mx": [":" domain-spec] [dual-cidr-length].
func (t *Term) hosts(rest string) (code, why string) {
	rest, six, ok := cutBits(rest, "//", 128)
	if !ok {
		return "bad_prefix_length", "the IPv6 prefix length must be 0 to 128 without leading zeros"
	}
	if six >= 0 {
		t.Bits6 = six
	}
	rest, four, ok := cutBits(rest, "/", 32)
	if !ok {
		return "bad_prefix_length", "the IPv4 prefix length must be 0 to 32 without leading zeros"
	}
	if four >= 0 {
		t.Bits4 = four
	}
	if rest == "" {
		return "", ""
	}
	if rest[0] != ':' {
		return "bad_term", "after " + strconv.Quote(t.Name) + " only a colon and a domain name, or a prefix length, may stand"
	}
	t.Value, t.HasValue = rest[1:], true
	return "bad_domain", checkDomainSpec(t.Value)
}

// cutBits takes a trailing prefix length after sep; bits is -1 when there is
// none. A number that is out of range or has a leading zero is not ok.
func cutBits(s, sep string, limit int) (rest string, bits int, ok bool) {
	i := len(s)
	for i > 0 && '0' <= s[i-1] && s[i-1] <= '9' {
		i--
	}
	digits := s[i:]
	if digits == "" || !strings.HasSuffix(s[:i], sep) {
		return s, -1, true
	}
	if sep == "/" && strings.HasSuffix(s[:i], "//") {
		return s, -1, false
	}
	n, err := strconv.Atoi(digits)
	if err != nil || n > limit || len(digits) > 1 && digits[0] == '0' {
		return s, -1, false
	}
	return s[:i-len(sep)], n, true
}

// network reads ":" ip-network ["/" length].
func (t *Term) network(rest string) (code, why string) {
	limit := 32
	if t.Name == "ip6" {
		limit = 128
	}
	if !strings.HasPrefix(rest, ":") || rest == ":" {
		return "bad_network", strconv.Quote(t.Name) + " needs an address or network after a colon"
	}
	t.HasValue = true
	text := rest[1:]
	addr, bits := text, limit
	if i := strings.IndexByte(text, '/'); i >= 0 {
		var ok bool
		addr, bits, ok = cutBits(text, "/", limit)
		if !ok || bits < 0 {
			return "bad_prefix_length", "the prefix length must be 0 to " + strconv.Itoa(limit) + " without leading zeros"
		}
	}
	t.Value = addr
	ip, err := netip.ParseAddr(addr)
	if err != nil || ip.Zone() != "" || t.Name == "ip4" != ip.Is4() {
		if t.Name == "ip4" {
			return "bad_network", strconv.Quote(addr) + " is not an IPv4 address"
		}
		return "bad_network", strconv.Quote(addr) + " is not an IPv6 address"
	}
	if ip.Is4In6() {
		// RFC 7208 asks for the IPv6 form to be taken as written; Masked
		// keeps it IPv6.
		t.Network = netip.PrefixFrom(ip, bits)
		return "", ""
	}
	t.Network = netip.PrefixFrom(ip, bits).Masked()
	return "", ""
}

// WithoutMapped leaves the ip6 terms with an IPv4 address in them out of a
// record: an IPv4 sender is never compared to an ip6 term, in whichever form its
// address comes (RFC 7208 sections 5 and 5.6), so they match nobody. Software
// that holds all addresses in one form takes them for ip4.
func WithoutMapped(s string) string {
	if !Is(s) || !strings.Contains(s, ":") {
		return s
	}
	r := Parse(s)
	for i := len(r.Terms) - 1; i >= 0; i-- {
		if t := r.Terms[i]; t.Name == "ip6" && !t.Bad && t.Network.Addr().Is4In6() {
			s = s[:t.Pos] + s[t.End:]
		}
	}
	return s
}

// nameLen is the length of the modifier name that s begins with.
func nameLen(s string) int {
	for i := range len(s) {
		c := s[i]
		alpha := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !alpha && (i == 0 || c != '-' && c != '_' && c != '.' && (c < '0' || c > '9')) {
			return i
		}
	}
	return len(s)
}

func clip(s string) string {
	if len(s) > 60 {
		return s[:57] + "..."
	}
	return s
}
