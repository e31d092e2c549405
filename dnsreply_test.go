package fluxly

import (
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/getfluxly/fluxly/internal/dnsmsg"
	"github.com/getfluxly/fluxly/internal/dnsmsg/dnstest"
)

// rawQuery is what a test of raw replies needs to know of a query.
type rawQuery struct {
	msg       []byte
	name      string
	typ       dnsmsg.Type
	edns, udp bool
}

// rawServer answers every question by hand.
func rawServer(t *testing.T, reply func(q rawQuery) []byte) *dnstest.Server {
	t.Helper()
	s := dnstest.Start(t, "")
	s.Answer(func(msg []byte, udp bool) []byte {
		var m dnsmessage.Message
		if m.Unpack(msg) != nil || len(m.Questions) != 1 {
			return nil
		}
		return reply(rawQuery{msg, strings.TrimSuffix(m.Questions[0].Name.String(), "."), dnsmsg.Type(m.Questions[0].Type), len(m.Additionals) > 0, udp})
	})
	return s
}

// Flags of a reply: that of a resolver, of a server of the zone, of one that is
// neither.
const (
	resolverReply = 0x8180
	zoneReply     = 0x8400
	otherReply    = 0x8000
)

// Replies of the odd kind are read for what they are: an absence is one, and
// nothing else is.
func TestCheckDomainReplies(t *testing.T) {
	t.Parallel()
	const dmarc = "v=DMARC1; p=none; rua=mailto:d@acme.test"
	rec, name, text := dnstest.RawRecord, dnstest.RawName, dnstest.RawText
	soa := slices.Concat(name("ns1", "acme", "test"), name("john.doe", "acme", "test"), make([]byte, 20))
	ns := rec(name("test"), dnsmsg.NS, name("ns", "nic", "test"))
	sections := func(rs ...[]byte) [][]byte { return rs }
	found := sections(rec(dnstest.Asker, dnsmsg.TXT, text(dmarc)))
	opt := func(upper byte) []byte { return []byte{0, 0, 41, 4, 208, upper, 0, 0, 0, 0, 0} }
	tests := []struct {
		name  string
		reply func(q rawQuery) []byte
		want  string // state of DMARC
		why   string // in the text
	}{
		{"a mailbox with a dot, no such name", func(q rawQuery) []byte {
			return dnstest.Raw(q.msg, resolverReply|3, nil, sections(rec(name("acme", "test"), dnsmsg.SOA, soa)), nil)
		}, "missing", ""},
		{"a mailbox with a dot, no such record", func(q rawQuery) []byte {
			return dnstest.Raw(q.msg, resolverReply, nil, sections(rec(name("acme", "test"), dnsmsg.SOA, soa)), nil)
		}, "missing", ""},
		{"an SOA too short", func(q rawQuery) []byte {
			return dnstest.Raw(q.msg, resolverReply, nil, sections(rec(name("acme", "test"), dnsmsg.SOA, soa[:9])), nil)
		}, "unknown", "gave no usable answer"},
		{"a bad SOA, no such name", func(q rawQuery) []byte {
			return dnstest.Raw(q.msg, resolverReply|3, nil, sections(rec(name("acme", "test"), dnsmsg.SOA, soa[:9])), nil)
		}, "missing", ""},
		{"a fault behind the answer", func(q rawQuery) []byte {
			return dnstest.Raw(q.msg, resolverReply, found, nil, sections(rec(dnstest.Asker, dnsmsg.A, []byte{1, 2, 3})[:14]))
		}, "ok", ""},
		{"a fault in the authority", func(q rawQuery) []byte {
			return dnstest.Raw(q.msg, resolverReply, found, sections(rec(dnstest.Asker, dnsmsg.SOA, []byte{1, 2, 3})), nil)
		}, "ok", ""},
		{"a fault in the answer", func(q rawQuery) []byte {
			return dnstest.Raw(q.msg, resolverReply, sections(rec(dnstest.Asker, dnsmsg.TXT, []byte{200, 'a'})), nil, nil)
		}, "unknown", "gave no usable answer"},
		{"fewer records than said", func(q rawQuery) []byte {
			return dnstest.Raw(q.msg, resolverReply, sections(nil, nil), nil, nil)
		}, "unknown", "gave no usable answer"},
		{"a referral", func(q rawQuery) []byte { return dnstest.Raw(q.msg, otherReply, nil, sections(ns), nil) }, "unknown", "a referral"},
		{"an absence with NS and SOA", func(q rawQuery) []byte {
			return dnstest.Raw(q.msg, resolverReply, nil, sections(ns, rec(name("acme", "test"), dnsmsg.SOA, soa)), nil)
		}, "missing", ""},
		{"an absence and nothing else", func(q rawQuery) []byte { return dnstest.Raw(q.msg, resolverReply, nil, nil, nil) }, "missing", ""},
		{"BADVERS", func(q rawQuery) []byte { return dnstest.Raw(q.msg, resolverReply, nil, nil, sections(opt(1))) }, "unknown", "BADVERS"},
		{"BADVERS, and an answer without EDNS", func(q rawQuery) []byte {
			if q.edns {
				return dnstest.Raw(q.msg, resolverReply, nil, nil, sections(opt(1)))
			}
			return dnstest.Raw(q.msg, resolverReply, found, nil, nil)
		}, "ok", ""},
		{"another extended code", func(q rawQuery) []byte { return dnstest.Raw(q.msg, resolverReply|7, nil, nil, sections(opt(1))) }, "unknown", "RCODE23"},
		{"a plain OPT", func(q rawQuery) []byte { return dnstest.Raw(q.msg, resolverReply, nil, nil, sections(opt(0))) }, "missing", ""},
		{"no EDNS, and cut", func(q rawQuery) []byte {
			switch {
			case q.edns:
				return dnstest.Raw(q.msg, resolverReply|1, nil, nil, nil)
			case q.udp:
				return dnstest.Raw(q.msg, resolverReply|0x200, nil, nil, nil)
			}
			return dnstest.Raw(q.msg, resolverReply, found, nil, nil)
		}, "ok", ""},
		{"EDNS over UDP alone, and cut", func(q rawQuery) []byte {
			switch {
			case q.udp:
				return dnstest.Raw(q.msg, resolverReply|0x200, nil, nil, nil)
			case q.edns:
				return dnstest.Raw(q.msg, resolverReply|1, nil, nil, nil)
			}
			return dnstest.Raw(q.msg, resolverReply, found, nil, nil)
		}, "ok", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := rawServer(t, func(q rawQuery) []byte {
				if q.typ == dnsmsg.TXT {
					return tt.reply(q)
				}
				return dnstest.Raw(q.msg, resolverReply|3, nil, nil, nil)
			})
			r, err := CheckDomain(t.Context(), "acme.test", DomainCheck{DKIMSelector: testSelector, Resolver: testClient(t, s), CacheOnly: true})
			if err != nil {
				t.Fatal(err)
			}
			if r.DMARC.State != tt.want || !strings.Contains(r.Text(), tt.why) || tt.want == "unknown" && r.Level != DomainUnknown {
				t.Errorf("DMARC %s, level %s:\n%s", r.DMARC.State, r.Level, r.Text())
			}
		})
	}
}

// For the methods of a plain resolver a referral is no absence either.
func TestDNSClientReferral(t *testing.T) {
	t.Parallel()
	s := rawServer(t, func(q rawQuery) []byte {
		return dnstest.Raw(q.msg, otherReply, nil, [][]byte{dnstest.RawRecord(dnstest.RawName("test"), dnsmsg.NS, dnstest.RawName("ns", "nic", "test"))}, nil)
	})
	_, err := testClient(t, s).LookupTXT(t.Context(), "acme.test")
	var ne *net.DNSError
	if !errors.As(err, &ne) || ne.IsNotFound || !ne.IsTemporary {
		t.Errorf("%#v", err)
	}
}

// A server may leave it to the asker to follow an alias. Only when the name at
// its end was asked for is it known that nothing is there.
func TestCheckDomainAliasNotFollowed(t *testing.T) {
	t.Parallel()
	const dkim = testSelector + "._domainkey.acme.test"
	tests := []struct {
		name  string
		chain map[string]string // aliases
		end   string            // "key", "none", "fail"
		state string
		code  string
	}{
		{"one alias", map[string]string{dkim: "key.other.test"}, "key", "ok", "dkim_cname"},
		{"three aliases", map[string]string{dkim: "a.other.test", "a.other.test": "b.other.test", "b.other.test": "key.other.test"}, "key", "ok", "dkim_cname"},
		{"nothing at the end", map[string]string{dkim: "key.other.test"}, "none", "broken", "dkim_cname_dangling"},
		{"the end not to be asked", map[string]string{dkim: "key.other.test"}, "fail", "unknown", "dkim_unasked"},
		{"in a circle", map[string]string{dkim: "a.other.test", "a.other.test": dkim}, "none", "broken", "dkim_cname_loop"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var mu sync.Mutex
			asked := 0
			s := rawServer(t, func(q rawQuery) []byte {
				mu.Lock()
				asked++
				mu.Unlock()
				if to := tt.chain[q.name]; to != "" {
					return dnstest.Raw(q.msg, zoneReply, [][]byte{dnstest.RawRecord(dnstest.Asker, dnsmsg.CNAME, dnstest.RawName(strings.Split(to, ".")...))}, nil, nil)
				}
				switch {
				case q.name != "key.other.test" || tt.end == "none":
					return dnstest.Raw(q.msg, zoneReply|3, nil, nil, nil)
				case tt.end == "fail":
					return dnstest.Raw(q.msg, resolverReply|2, nil, nil, nil)
				}
				return dnstest.Raw(q.msg, zoneReply, [][]byte{dnstest.RawRecord(dnstest.Asker, dnsmsg.TXT, dnstest.RawText(testKey))}, nil, nil)
			})
			r, err := CheckDomain(t.Context(), "acme.test", DomainCheck{DKIMSelector: testSelector, Resolver: testClient(t, s), CacheOnly: true})
			if err != nil {
				t.Fatal(err)
			}
			finding(t, r, tt.code)
			mu.Lock()
			defer mu.Unlock()
			if r.DKIM[0].State != tt.state || asked != len(r.Queries) {
				t.Errorf("%+v, %d questions, %d in the report", r.DKIM[0], asked, len(r.Queries))
			}
		})
	}
}
