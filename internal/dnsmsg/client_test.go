package dnsmsg_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/getfluxly/fluxly/internal/dnsmsg"
	"github.com/getfluxly/fluxly/internal/dnsmsg/dnstest"
)

const zone = `
acme.test SOA ns1.acme.test 60
acme.test NS ns1.acme.test
acme.test TXT "one" "two"
acme.test SPF "v=spf1 " "-all"
acme.test A 192.0.2.1
acme.test AAAA 2001:db8::1
acme.test MX 10 mail.acme.test
www.acme.test CNAME acme.test
loop.acme.test CNAME pool.acme.test
pool.acme.test CNAME loop.acme.test
*.wild.acme.test TXT "any"
a.b.acme.test TXT "deep"
1.2.0.192.in-addr.arpa PTR acme.test
`

func query(t *testing.T, s *dnstest.Server, name string, typ dnsmsg.Type) (dnsmsg.Answer, error) {
	t.Helper()
	c := dnsmsg.Client{Timeout: 10 * time.Second, Dial: s.Dial}
	return c.Query(t.Context(), []string{"192.0.2.53:53"}, name, typ, dnsmsg.Recursive)
}

func TestQuery(t *testing.T) {
	t.Parallel()
	s := dnstest.Start(t, zone+strings.Repeat("big.acme.test TXT \""+strings.Repeat("x", 200)+"\"\n", 14))
	tests := []struct {
		name  string
		typ   dnsmsg.Type
		rcode int
		chain []string
		want  []dnsmsg.Record // name, TTL and type are filled in below
	}{
		{"acme.test", dnsmsg.TXT, 0, nil, []dnsmsg.Record{{Strings: []string{"one", "two"}}}},
		{"ACME.Test.", dnsmsg.SPF, 0, nil, []dnsmsg.Record{{Strings: []string{"v=spf1 ", "-all"}}}},
		{"acme.test", dnsmsg.A, 0, nil, []dnsmsg.Record{{Addr: netip.MustParseAddr("192.0.2.1")}}},
		{"acme.test", dnsmsg.AAAA, 0, nil, []dnsmsg.Record{{Addr: netip.MustParseAddr("2001:db8::1")}}},
		{"acme.test", dnsmsg.MX, 0, nil, []dnsmsg.Record{{Target: "mail.acme.test.", Preference: 10}}},
		{"acme.test", dnsmsg.NS, 0, nil, []dnsmsg.Record{{Target: "ns1.acme.test."}}},
		{"1.2.0.192.in-addr.arpa", dnsmsg.PTR, 0, nil, []dnsmsg.Record{{Target: "acme.test."}}},
		{"www.acme.test", dnsmsg.A, 0, []string{"acme.test."}, []dnsmsg.Record{{Addr: netip.MustParseAddr("192.0.2.1")}}},
		{"www.acme.test", dnsmsg.CNAME, 0, nil, []dnsmsg.Record{{Target: "acme.test."}}},
		{"x.wild.acme.test", dnsmsg.TXT, 0, nil, []dnsmsg.Record{{Strings: []string{"any"}}}},
		{"b.acme.test", dnsmsg.TXT, 0, nil, nil},
		{"gone.acme.test", dnsmsg.TXT, 3, nil, nil},
		{"a=b <c>!.acme.test", dnsmsg.TXT, 3, nil, nil},
	}
	for _, tt := range tests {
		a, err := query(t, s, tt.name, tt.typ)
		if err != nil || a.RCode != tt.rcode {
			t.Errorf("%s %s: %v, rcode %d", tt.name, tt.typ, err, a.RCode)
			continue
		}
		chain, got := a.Resolve(tt.name, tt.typ)
		for i := range got {
			if got[i].Type != tt.typ || got[i].TTL != 300*time.Second {
				t.Errorf("%s %s: %+v", tt.name, tt.typ, got[i])
			}
			got[i].Name, got[i].Type, got[i].TTL = "", 0, 0
		}
		if d := cmp.Diff(tt.want, got, cmpopts.EquateEmpty(), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
			t.Errorf("%s %s (-want +got):\n%s", tt.name, tt.typ, d)
		}
		if d := cmp.Diff(tt.chain, chain); d != "" {
			t.Errorf("%s %s chain:\n%s", tt.name, tt.typ, d)
		}
		if len(got) == 0 && a.NegativeTTL() != 60*time.Second {
			t.Errorf("%s %s: absence lives %v", tt.name, tt.typ, a.NegativeTTL())
		}
	}
	a, err := query(t, s, "big.acme.test", dnsmsg.TXT)
	if err != nil || !a.TCP || len(a.Answers) != 14 {
		t.Errorf("large answer: %v, TCP %v, %d records", err, a.TCP, len(a.Answers))
	}
	a, err = query(t, s, "loop.acme.test", dnsmsg.TXT)
	if chain, rs := a.Resolve("loop.acme.test", dnsmsg.TXT); err != nil || len(rs) > 0 || len(chain) < 2 {
		t.Errorf("alias loop: %v, %v, %v", err, chain, rs)
	}
}

func TestQueryFaults(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		fault   dnstest.Fault
		rcode   int
		timeout bool
		err     string
	}{
		{"silent", dnstest.Fault{Drop: true}, 0, true, "no reply in time"},
		{"wrong id", dnstest.Fault{WrongID: true}, 0, true, "no reply in time"},
		{"garbage", dnstest.Fault{Garbage: true}, 0, true, "no reply in time"},
		{"cut, TCP silent", dnstest.Fault{Truncate: true, TCPDrop: true}, 0, true, "no reply in time"},
		{"cut, TCP works", dnstest.Fault{Truncate: true}, 0, false, ""},
		{"SERVFAIL", dnstest.Fault{RCode: 2}, 2, false, ""},
		{"REFUSED", dnstest.Fault{RCode: 5}, 5, false, ""},
		{"FORMERR to all", dnstest.Fault{RCode: 1}, 1, false, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := dnstest.Start(t, zone)
			s.Fail("acme.test", "TXT", tt.fault)
			a, err := query(t, s, "acme.test", dnsmsg.TXT)
			var de *dnsmsg.Error
			if tt.err != "" {
				if !errors.As(err, &de) || de.Timeout != tt.timeout || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("%v", err)
				}
				return
			}
			if err != nil || a.RCode != tt.rcode {
				t.Errorf("%v, rcode %d", err, a.RCode)
			}
		})
	}
}

// The next server is asked when the first is silent or fails.
func TestQueryNextServer(t *testing.T) {
	t.Parallel()
	for _, f := range []dnstest.Fault{{Drop: true}, {RCode: 2}, {RCode: 5}} {
		bad, good := dnstest.Start(t, zone), dnstest.Start(t, zone)
		bad.Fail("*", "*", f)
		c := dnsmsg.Client{Timeout: 150 * time.Millisecond}
		a, err := c.Query(t.Context(), []string{bad.Addr, good.Addr}, "acme.test", dnsmsg.TXT, dnsmsg.Recursive)
		if err != nil || len(a.Answers) != 1 || a.Server != good.Addr {
			t.Errorf("%+v: %v, %+v", f, err, a)
		}
	}
}

func TestQueryContext(t *testing.T) {
	t.Parallel()
	s := dnstest.Start(t, zone)
	s.Fail("*", "*", dnstest.Fault{Delay: time.Hour})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	var c dnsmsg.Client
	go func() {
		_, err := c.Query(ctx, []string{s.Addr}, "acme.test", dnsmsg.TXT, dnsmsg.Recursive)
		done <- err
	}()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	for _, name := range []string{"", "a..b", strings.Repeat("a", 64) + ".test", strings.Repeat("a.", 127) + "test"} {
		if _, err := c.Query(t.Context(), []string{s.Addr}, name, dnsmsg.TXT, dnsmsg.Recursive); err == nil {
			t.Errorf("%q was asked", name)
		}
	}
	if _, err := c.Query(t.Context(), nil, "acme.test", dnsmsg.TXT, dnsmsg.Recursive); err == nil {
		t.Error("no server, no error")
	}
}

func TestTypeNames(t *testing.T) {
	t.Parallel()
	for _, typ := range []dnsmsg.Type{dnsmsg.A, dnsmsg.TXT, dnsmsg.DNSKEY, 65280} {
		if got, ok := dnsmsg.ParseType(typ.String()); !ok || got != typ {
			t.Errorf("%s is read as %d", typ, got)
		}
	}
	for _, s := range []string{"", "X", "TYPE", "TYPE70000", "txt"} {
		if _, ok := dnsmsg.ParseType(s); ok {
			t.Errorf("%q is a type", s)
		}
	}
}

// Replies that no builder lets pass, and what is made of them.
func TestQueryRaw(t *testing.T) {
	t.Parallel()
	text := dnstest.RawRecord(dnstest.Asker, dnsmsg.TXT, dnstest.RawText("x"))
	record := func(typ dnsmsg.Type, data ...byte) []byte { return dnstest.RawRecord(dnstest.Asker, typ, data) }
	for _, tt := range []struct {
		name    string
		typ     dnsmsg.Type
		answers [][]byte
		records int // -1: not to be read
	}{
		{"A of no bytes", dnsmsg.A, [][]byte{record(dnsmsg.A), text}, -1},
		{"A of five bytes", dnsmsg.A, [][]byte{record(dnsmsg.A, 192, 0, 2, 1, 1)}, -1},
		{"AAAA of four bytes", dnsmsg.AAAA, [][]byte{record(dnsmsg.AAAA, 192, 0, 2, 1), text}, -1},
		{"MX without a name", dnsmsg.MX, [][]byte{record(dnsmsg.MX, 0, 10), text}, -1},
		{"NS without a name", dnsmsg.NS, [][]byte{record(dnsmsg.NS), text}, -1},
		{"null MX", dnsmsg.MX, [][]byte{record(dnsmsg.MX, 0, 0, 0)}, 1},
		{"one text twice", dnsmsg.TXT, [][]byte{text, text}, 1},
		{"one text in two ways", dnsmsg.TXT, [][]byte{record(dnsmsg.TXT, 2, 'a', 'b'), record(dnsmsg.TXT, 1, 'a', 1, 'b')}, 2},
	} {
		s := dnstest.Start(t, "")
		s.Answer(func(q []byte, _ bool) []byte { return dnstest.Raw(q, 0x8000, tt.answers, nil, nil) })
		a, err := query(t, s, "acme.test", tt.typ)
		_, got := a.Resolve("acme.test", tt.typ)
		if tt.records < 0 && err == nil || tt.records >= 0 && (err != nil || len(got) != tt.records) {
			t.Errorf("%s: %+v, %v", tt.name, got, err)
		}
	}
}

// What only looks like a reply to the question is passed over.
func TestQueryNotTheReply(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(reply []byte){
		"another kind of question": func(r []byte) { r[2] |= 0x28 }, // an update
		"another class":            func(r []byte) { r[12+11+3] = 3 },
	} {
		s := dnstest.Start(t, "")
		s.Answer(func(q []byte, _ bool) []byte {
			r := dnstest.Raw(q, 0x8000, [][]byte{dnstest.RawRecord(dnstest.Asker, dnsmsg.TXT, dnstest.RawText("x"))}, nil, nil)
			change(r)
			return r
		})
		c := dnsmsg.Client{Timeout: 50 * time.Millisecond, Tries: 1, Dial: s.Dial}
		if a, err := c.Query(t.Context(), []string{"192.0.2.53:53"}, "acme.test", dnsmsg.TXT, dnsmsg.Recursive); err == nil {
			t.Errorf("%s: %+v", name, a)
		}
	}
}

// The time for a try is that of the question over UDP and TCP together.
func TestQueryTimeoutOfBoth(t *testing.T) {
	t.Parallel()
	var ends []time.Time
	c := dnsmsg.Client{Timeout: 200 * time.Millisecond, Tries: 1}
	s := dnstest.Start(t, "")
	s.Fail("*", "*", dnstest.Fault{Truncate: true, TCPDrop: true})
	c.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		end, _ := ctx.Deadline()
		ends = append(ends, end)
		return s.Dial(ctx, network, address)
	}
	if _, err := c.Query(t.Context(), []string{"192.0.2.53:53"}, "acme.test", dnsmsg.TXT, dnsmsg.Recursive); err == nil {
		t.Error("no error")
	}
	if len(ends) != 2 || !ends[0].Equal(ends[1]) {
		t.Errorf("%v", ends)
	}
}
