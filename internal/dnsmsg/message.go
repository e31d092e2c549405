// Package dnsmsg asks one DNS question at a time and keeps what the standard
// resolver throws away: the response code, time to live, the strings of a TXT
// record, aliases, and the authority section. It knows nothing of mail.
package dnsmsg

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// Type is a DNS record type.
type Type uint16

// The record types this package can read. Others come back as a Record with
// their type and nothing else.
const (
	A      Type = 1
	NS     Type = 2
	CNAME  Type = 5
	SOA    Type = 6
	PTR    Type = 12
	MX     Type = 15
	TXT    Type = 16
	AAAA   Type = 28
	DS     Type = 43
	RRSIG  Type = 46
	DNSKEY Type = 48
	SPF    Type = 99
)

var typeNames = map[Type]string{
	A: "A", NS: "NS", CNAME: "CNAME", SOA: "SOA", PTR: "PTR", MX: "MX", TXT: "TXT", AAAA: "AAAA",
	DS: "DS", RRSIG: "RRSIG", DNSKEY: "DNSKEY", SPF: "SPF",
}

// String gives the mnemonic, or TYPEn as RFC 3597 writes unknown types.
func (t Type) String() string {
	if s, ok := typeNames[t]; ok {
		return s
	}
	return "TYPE" + strconv.Itoa(int(t))
}

// ParseType reads what String writes.
func ParseType(s string) (Type, bool) {
	for t, n := range typeNames {
		if n == s {
			return t, true
		}
	}
	if n, err := strconv.ParseUint(strings.TrimPrefix(s, "TYPE"), 10, 16); err == nil && strings.HasPrefix(s, "TYPE") {
		return Type(n), true
	}
	return 0, false
}

// Response codes.
const (
	NoError  = 0
	FormErr  = 1
	ServFail = 2
	NXDomain = 3
	NotImp   = 4
	Refused  = 5
	BadVers  = 16
)

// RCodeName names a response code as DNS tools do.
func RCodeName(rcode int) string {
	names := [...]string{"NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED"}
	if rcode >= 0 && rcode < len(names) {
		return names[rcode]
	}
	if rcode == BadVers {
		return "BADVERS"
	}
	return "RCODE" + strconv.Itoa(rcode)
}

// Record is one resource record. Which fields are set depends on Type.
type Record struct {
	// Name is the owner, with the root dot, in the case the server sent.
	Name string
	Type Type
	TTL  time.Duration
	// Strings are the character strings of a TXT or SPF record.
	Strings []string
	// Target is the name a CNAME, NS, PTR or MX points to.
	Target string
	// Preference is that of an MX.
	Preference uint16
	// Addr is that of an A or AAAA.
	Addr netip.Addr
	// Minimum is the SOA's time for which an absence may be cached.
	Minimum time.Duration
}

// Text joins the strings of a TXT record.
func (r Record) Text() string { return strings.Join(r.Strings, "") }

// data tells records of one name and type apart; the time to live is no part of
// it.
func (r Record) data() string {
	return fmt.Sprintf("%d %s %s %q", r.Preference, Canonical(r.Target), r.Addr, r.Strings)
}

// Answer is one well-formed reply.
type Answer struct {
	RCode int
	// Authoritative is the AA bit, AuthenticData the AD bit.
	Authoritative bool
	AuthenticData bool
	// TCP is true when the reply over UDP was cut and TCP was used.
	TCP bool
	// Size of the reply in bytes.
	Size int
	// Server that replied, as host and port.
	Server    string
	Answers   []Record
	Authority []Record
}

const maxAliases = 16

// Resolve follows the aliases in the answer section from name. It returns the
// names passed (without the first), and the records of type t at the end, each
// once (RFC 2181 section 5).
func (a Answer) Resolve(name string, t Type) (chain []string, records []Record) {
	at := Canonical(name)
	var seen map[string]bool
	for range maxAliases {
		next := ""
		records, seen = records[:0], map[string]bool{}
		for _, r := range a.Answers {
			if Canonical(r.Name) != at {
				continue
			}
			if r.Type == t {
				if d := r.data(); !seen[d] {
					seen[d] = true
					records = append(records, r)
				}
			} else if r.Type == CNAME {
				next = Canonical(r.Target)
			}
		}
		if len(records) > 0 || next == "" || t == CNAME {
			return chain, records
		}
		chain = append(chain, next)
		at = next
	}
	return chain, nil
}

// Denies reports whether an answer of NOERROR without the records asked for
// comes with the SOA of the zone, by which an absence is known (RFC 2308 section
// 2.2).
func (a Answer) Denies() bool { return a.holds(SOA) }

// Refers reports whether the server only names others to be asked.
func (a Answer) Refers() bool {
	return a.RCode == NoError && !a.Authoritative && len(a.Answers) == 0 && a.holds(NS) && !a.holds(SOA)
}

func (a Answer) holds(t Type) bool {
	return slices.ContainsFunc(a.Authority, func(r Record) bool { return r.Type == t })
}

// NegativeTTL is how long a cache may remember that the record is absent: the
// lower of the SOA's own time to live and its minimum field (RFC 2308 section
// 5); 0 without SOA.
func (a Answer) NegativeTTL() time.Duration {
	for _, r := range a.Authority {
		if r.Type == SOA {
			return min(r.TTL, r.Minimum)
		}
	}
	return 0
}

// Canonical lower-cases the ASCII letters of a name and adds the root dot, so
// that no search list is applied and names can be compared.
func Canonical(name string) string {
	b := make([]byte, 0, len(name)+1)
	for i := range len(name) {
		c := name[i]
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		b = append(b, c)
	}
	if len(b) == 0 || b[len(b)-1] != '.' {
		b = append(b, '.')
	}
	return string(b)
}

// ValidName says why name cannot be asked, or returns nil: labels of 1 to 63
// octets, at most 253 in all without the root dot (RFC 1035 section 2.3.4).
func ValidName(name string) error {
	s := strings.TrimSuffix(name, ".")
	if s == "" {
		return fmt.Errorf("name %q is empty", name)
	}
	if len(s) > 253 {
		return fmt.Errorf("name of %d octets is longer than 253", len(s))
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" {
			return fmt.Errorf("name %q has an empty label", name)
		}
		if len(label) > 63 {
			return fmt.Errorf("label of %d octets is longer than 63", len(label))
		}
	}
	return nil
}

// Mode is how a server is asked.
type Mode int

// The modes.
const (
	// Recursive asks a resolver to find the answer, and to say whether it
	// validated it.
	Recursive Mode = iota
	// Unchecked asks a resolver without validation (the CD bit, RFC 4035
	// section 3.2.2): bogus answers come through.
	Unchecked
	// Direct asks a server for what it holds itself.
	Direct
)

// question packs a query. With edns the reply may be 1,232 bytes over UDP.
func question(id uint16, name string, t Type, m Mode, edns bool) ([]byte, error) {
	if err := ValidName(name); err != nil {
		return nil, err
	}
	n, err := dnsmessage.NewName(Canonical(name))
	if err != nil {
		return nil, err
	}
	b := dnsmessage.NewBuilder(make([]byte, 0, 128), dnsmessage.Header{
		ID: id, RecursionDesired: m != Direct, AuthenticData: m == Recursive, CheckingDisabled: m == Unchecked,
	})
	if err := b.StartQuestions(); err != nil {
		return nil, err
	}
	if err := b.Question(dnsmessage.Question{Name: n, Type: dnsmessage.Type(t), Class: dnsmessage.ClassINET}); err != nil {
		return nil, err
	}
	if edns {
		if err := b.StartAdditionals(); err != nil {
			return nil, err
		}
		var h dnsmessage.ResourceHeader
		if err := h.SetEDNS0(1232, dnsmessage.RCodeSuccess, false); err != nil {
			return nil, err
		}
		if err := b.OPTResource(h, dnsmessage.OPTResource{}); err != nil {
			return nil, err
		}
	}
	return b.Finish()
}

// parse reads a reply to the question (id, name, t); ok is false when it is
// not a reply to that question, which a client must ignore.
func parse(msg []byte, id uint16, name string, t Type) (a Answer, truncated, ok bool, err error) {
	var p dnsmessage.Parser
	h, err := p.Start(msg)
	if err != nil || h.ID != id || !h.Response || h.OpCode != 0 {
		return Answer{}, false, false, nil //nolint:nilerr // not our reply; ok says so
	}
	q, err := p.Question()
	switch {
	case err == nil:
		if Canonical(q.Name.String()) != Canonical(name) || q.Type != dnsmessage.Type(t) || q.Class != dnsmessage.ClassINET {
			return Answer{}, false, false, nil
		}
	case h.RCode == FormErr || h.RCode == NotImp:
		// Servers that do not know EDNS may send the bare header back.
	default:
		return Answer{}, false, false, nil
	}
	a = Answer{RCode: int(h.RCode), Authoritative: h.Authoritative, AuthenticData: h.AuthenticData, Size: len(msg)}
	if h.Truncated {
		return a, true, true, nil
	}
	if err := p.SkipAllQuestions(); err != nil {
		return a, false, true, fmt.Errorf("malformed question section: %w", err)
	}
	if err := section(&p, &a.Answers, p.AnswerHeader, p.SkipAnswer); err != nil {
		return a, false, true, fmt.Errorf("malformed answer section: %w", err)
	}
	// What stands behind is of use only with no answers: it tells an absence
	// from something else.
	alone := len(a.Answers) == 0 && a.RCode == NoError
	if err := section(&p, &a.Authority, p.AuthorityHeader, p.SkipAuthority); err != nil {
		if alone {
			return a, false, true, fmt.Errorf("malformed authority section: %w", err)
		}
		return a, false, true, nil
	}
	err = additional(&p, &a)
	if err != nil && alone && len(a.Authority) == 0 {
		return a, false, true, fmt.Errorf("malformed additional section: %w", err)
	}
	return a, false, true, nil
}

// additional looks for the upper bits of the response code, which EDNS puts
// into its own record (RFC 6891 section 6.1.3), and reads nothing else.
func additional(p *dnsmessage.Parser, a *Answer) error {
	for {
		h, err := p.AdditionalHeader()
		if err == dnsmessage.ErrSectionDone { //nolint:errorlint // the parser returns the sentinel itself
			return nil
		}
		if err != nil {
			return err
		}
		if h.Type == dnsmessage.TypeOPT {
			a.RCode |= int(h.TTL>>24) << 4
		}
		if err := p.SkipAdditional(); err != nil {
			return err
		}
	}
}

func section(p *dnsmessage.Parser, into *[]Record, header func() (dnsmessage.ResourceHeader, error), skip func() error) error {
	for {
		h, err := header()
		if err == dnsmessage.ErrSectionDone { //nolint:errorlint // the parser returns the sentinel itself
			return nil
		}
		if err != nil {
			return err
		}
		if h.Class != dnsmessage.ClassINET || h.Type == dnsmessage.TypeOPT {
			if err := skip(); err != nil {
				return err
			}
			continue
		}
		r, err := record(p, h, skip)
		if err != nil {
			return err
		}
		*into = append(*into, r)
	}
}

// soaLeast is the size of an SOA record with the shortest names: two of one
// byte, and five numbers (RFC 1035 section 3.3.13).
const soaLeast = 22

// sizes are the least and the most bytes of the data of a record. The parser
// reads on past the end of one that is too short.
var sizes = map[Type][2]uint16{A: {4, 4}, AAAA: {16, 16}, NS: {1, 255}, CNAME: {1, 255}, PTR: {1, 255}, MX: {3, 257}}

func record(p *dnsmessage.Parser, h dnsmessage.ResourceHeader, skip func() error) (Record, error) {
	r := Record{Name: h.Name.String(), Type: Type(h.Type), TTL: seconds(h.TTL)}
	if s, ok := sizes[r.Type]; ok && (h.Length < s[0] || h.Length > s[1]) {
		return r, fmt.Errorf("%s record of %d bytes", r.Type, h.Length)
	}
	switch Type(h.Type) {
	case A:
		v, err := p.AResource()
		r.Addr = netip.AddrFrom4(v.A)
		return r, err
	case AAAA:
		v, err := p.AAAAResource()
		r.Addr = netip.AddrFrom16(v.AAAA)
		return r, err
	case NS:
		v, err := p.NSResource()
		r.Target = v.NS.String()
		return r, err
	case CNAME:
		v, err := p.CNAMEResource()
		r.Target = v.CNAME.String()
		return r, err
	case PTR:
		v, err := p.PTRResource()
		r.Target = v.PTR.String()
		return r, err
	case MX:
		v, err := p.MXResource()
		r.Target, r.Preference = v.MX.String(), v.Pref
		return r, err
	case SOA:
		// Only the last field is of use. The mailbox may hold a dot inside a
		// label (RFC 1035 section 8), which the parser takes for an error.
		v, err := p.UnknownResource()
		if err != nil {
			return r, err
		}
		if len(v.Data) < soaLeast {
			return r, fmt.Errorf("SOA record of %d bytes", len(v.Data))
		}
		r.Minimum = seconds(binary.BigEndian.Uint32(v.Data[len(v.Data)-4:]))
		return r, nil
	case TXT:
		v, err := p.TXTResource()
		r.Strings = v.TXT
		return r, err
	case SPF:
		v, err := p.UnknownResource()
		if err != nil {
			return r, err
		}
		for d := v.Data; len(d) > 0; {
			n := int(d[0])
			if n+1 > len(d) {
				return r, fmt.Errorf("string of %d bytes runs past the record", n)
			}
			r.Strings = append(r.Strings, string(d[1:n+1]))
			d = d[n+1:]
		}
		return r, nil
	default:
		return r, skip()
	}
}

// seconds reads a time to live; a value with the top bit set counts as zero
// (RFC 2181 section 8).
func seconds(ttl uint32) time.Duration {
	if ttl > 1<<31-1 {
		return 0
	}
	return time.Duration(ttl) * time.Second
}
