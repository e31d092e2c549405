package fluxly

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/getfluxly/fluxly/internal/dnsmsg/dnstest"
)

// zoneClient asks cache for recursion, and one and two where the zone's name
// servers 192.0.2.1 and 192.0.2.2 are meant.
func zoneClient(tb testing.TB, cache, one, two *dnstest.Server) *DNSClient {
	tb.Helper()
	c, err := NewDNSClient(DNSClientConfig{
		Servers: []string{cache.Addr}, Timeout: 10 * time.Second,
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			switch address {
			case "192.0.2.1:53":
				return one.Dial(ctx, network, address)
			case "192.0.2.2:53":
				return two.Dial(ctx, network, address)
			}
			return cache.Dial(ctx, network, address)
		},
	})
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

func zoneCodes(r *DomainReport) []string {
	out := []string{}
	for _, f := range r.Findings {
		if f.Area == "Zone" {
			out = append(out, string(f.Level)+" "+f.Code)
		}
	}
	return out
}

func TestCheckDomainZone(t *testing.T) {
	t.Parallel()
	const none, strict = "-_dmarc.acme.test TXT", `_dmarc.acme.test TXT "v=DMARC1; p=quarantine; rua=mailto:d@acme.test"`
	tests := []struct {
		name            string
		cache, one, two string
		dead            bool // the second server
		refused         bool // the second server serves the zone no more
		lame            bool // the second server was never given the zone
		cacheFails      bool
		want            []string
		policy          string
		text            string
	}{
		{name: "all agree", cache: zone(), one: zone(), two: zone(), want: []string{}, policy: "reject"},
		{name: "published, the cache still denies it", cache: zone(none), one: zone(), two: zone(), want: []string{"info zone_cached"}, policy: "reject", text: "Caches may keep the old answer for 300 s."},
		{name: "changed, the cache has the old one", cache: zone(strict), one: zone(), two: zone(), want: []string{"info zone_cached"}, policy: "reject", text: "300 s"},
		{name: "removed, the cache has it", cache: zone(), one: zone(none), two: zone(none), want: []string{"info zone_cached"}, text: "zone: nothing"},
		{name: "servers differ", cache: zone(), one: zone(), two: zone(strict), want: []string{"fail zone_servers_disagree"}, policy: "quarantine", text: "ns2.acme.test: v=DMARC1; p=quarantine"},
		{name: "one server was never given the zone", cache: zone(), one: zone(), two: zone(), lame: true, want: []string{"warn zone_server_lame"}, policy: "reject", text: "ns2.acme.test"},
		{name: "one server dead", cache: zone(), one: zone(), two: zone(), dead: true, want: []string{"warn zone_server_dead"}, policy: "reject", text: "ns2.acme.test"},
		{name: "one server refuses", cache: zone(), one: zone(), two: zone(), refused: true, want: []string{"warn zone_server_dead"}, policy: "reject", text: "REFUSED"},
		{name: "the resolver fails", cache: zone(), one: zone(), two: zone(), cacheFails: true, want: []string{"unknown zone_resolver_fails"}, policy: "reject", text: "SERVFAIL"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cache, one, two := dnstest.Start(t, tt.cache), dnstest.Start(t, tt.one), dnstest.Start(t, tt.two)
			if tt.dead {
				two.Fail("*", "*", dnstest.Fault{Drop: true})
			}
			if tt.refused {
				two.Fail("*", "*", dnstest.Fault{RCode: 5})
			}
			if tt.lame {
				two.Fail("*", "*", dnstest.Fault{Lame: true})
			}
			if tt.cacheFails {
				cache.Fail("_dmarc.acme.test", "TXT", dnstest.Fault{RCode: 2})
			}
			r, err := CheckDomain(t.Context(), "acme.test", DomainCheck{DKIMSelector: testSelector, Resolver: zoneClient(t, cache, one, two)})
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.want, zoneCodes(r)); d != "" {
				t.Errorf("findings (-want +got):\n%s", d)
			}
			if tt.policy != "" && r.DMARC.Policy != tt.policy {
				t.Errorf("policy %q, want %q", r.DMARC.Policy, tt.policy)
			}
			if !strings.Contains(r.Text(), tt.text) {
				t.Errorf("text lacks %q:\n%s", tt.text, r.Text())
			}
			if i := slices.IndexFunc(r.Findings, func(f DomainFinding) bool { return f.Level == DomainUnknown }); i >= 0 != tt.cacheFails || tt.cacheFails && r.Ready {
				t.Errorf("ready %v:\n%s", r.Ready, r.Text())
			}
		})
	}
}

// While the zone's servers disagree, receivers get the one or the other answer
// by chance: the verdict goes by the worse one, whichever came first, and the
// domain is not ready.
func TestCheckDomainServersDisagree(t *testing.T) {
	t.Parallel()
	dkim := testSelector + "._domainkey.acme.test"
	other := "-" + dkim + " TXT|" + dkim + " TXT" + quoted("k=rsa; p="+spki(2048))
	tests := []struct {
		name  string
		worse string // changes of the one server's zone
		check DomainCheck
		ready bool
		want  string // finding
		also  func(r *DomainReport) bool
	}{
		{"no key", "-" + dkim + " TXT", DomainCheck{}, false, "fail dkim_missing", func(r *DomainReport) bool { return r.DKIM[0].State == "missing" && !r.Alignment.DKIM.Aligned }},
		{"an old key", other, DomainCheck{DKIMValue: testKey}, false, "fail dkim_key_differs", func(r *DomainReport) bool { return r.DKIM[0].State == "broken" }},
		{"two sound keys", other, DomainCheck{}, false, "fail zone_servers_disagree", nil},
		{"no DMARC record", "-_dmarc.acme.test TXT", DomainCheck{}, false, "fail dmarc_missing", func(r *DomainReport) bool { return r.DMARC.State == "missing" }},
		{"two DMARC records", `_dmarc.acme.test TXT "v=DMARC1; p=none"|_dmarc.acme.test TXT "v=DMARC1; p=reject"`, DomainCheck{}, false, "fail dmarc_multiple", nil},
		{"a milder policy", `_dmarc.acme.test TXT "v=DMARC1; p=none; rua=mailto:d@acme.test"`, DomainCheck{}, false, "info dmarc_p_none", func(r *DomainReport) bool { return r.DMARC.Policy == "none" }},
		{"no alias", "-pm-bounces.acme.test CNAME", DomainCheck{}, true, "info returnpath_missing", func(r *DomainReport) bool { return r.ReturnPath.State == "missing" }},
		{"alias to another place", "-pm-bounces.acme.test CNAME|pm-bounces.acme.test CNAME x.host.test", DomainCheck{}, true, "info returnpath_wrong_target", nil},
		{"SPF with a mistake", `acme.test TXT "v=spf1 ip4:192.0.2 ~all"`, DomainCheck{}, true, "fail spf_syntax", func(r *DomainReport) bool { return r.SPF.State == "broken" }},
		{"two SPF records", `acme.test TXT "v=spf1 -all"|acme.test TXT "v=spf1 ~all"`, DomainCheck{}, true, "fail spf_multiple", nil},
	}
	for _, tt := range tests {
		for _, first := range []string{"the better first", "the worse first"} {
			t.Run(tt.name+", "+first, func(t *testing.T) {
				t.Parallel()
				good, bad := dnstest.Start(t, zone()), dnstest.Start(t, zone(strings.Split(tt.worse, "|")...))
				late := dnstest.Fault{Delay: 30 * time.Millisecond}
				if first == "the better first" {
					bad.Fail("*", "*", late)
				} else {
					good.Fail("*", "*", late)
				}
				check := tt.check
				check.DKIMSelector = testSelector
				// The cache has what is better.
				check.Resolver = zoneClient(t, dnstest.Start(t, zone()), good, bad)
				r, err := CheckDomain(t.Context(), "acme.test", check)
				if err != nil {
					t.Fatal(err)
				}
				finding(t, r, "zone_servers_disagree")
				code := tt.want[strings.Index(tt.want, " ")+1:]
				if f := finding(t, r, code); string(f.Level)+" "+code != tt.want || code != "zone_servers_disagree" && !strings.Contains(f.Summary, "So says ns2.acme.test") {
					t.Errorf("%+v", f)
				}
				if r.Ready != tt.ready || tt.also != nil && !tt.also(r) {
					t.Errorf("ready %v:\n%s", r.Ready, r.Text())
				}
			})
		}
	}
}

// An alias that stays in the zone says nothing by itself: what counts is what the
// servers hold behind it.
func TestCheckDomainAliasInZone(t *testing.T) {
	t.Parallel()
	dkim := testSelector + "._domainkey.acme.test"
	const dmarc = "_dmarc.acme.test CNAME d.acme.test"
	sound := []string{"-" + dkim + " TXT", dkim + " CNAME k.acme.test", "k.acme.test CNAME k2.acme.test", "k2.acme.test TXT" + quoted(testKey), "-_dmarc.acme.test TXT", dmarc, `d.acme.test TXT "v=DMARC1; p=reject; rua=mailto:d@acme.test"`}
	but := func(line string) string { // the sound zone with another line for a name and type
		out := slices.Clone(sound)
		f := strings.Fields(strings.TrimPrefix(line, "-"))
		out = slices.DeleteFunc(out, func(l string) bool { g := strings.Fields(l); return g[0] == f[0] && g[1] == f[1] })
		if !strings.HasPrefix(line, "-") {
			out = append(out, line)
		}
		return zone(out...)
	}
	good := zone(sound...)
	const outward = "k2.acme.test CNAME k.host.test"
	moved := zone(append(slices.DeleteFunc(slices.Clone(sound), func(l string) bool { return strings.HasPrefix(l, "k2.") }), outward)...)
	tests := []struct {
		name            string
		cache, one, two string
		minimal         bool // the servers give the alias alone
		ready           bool
		want            []string // zone findings
		code            string   // one more
		text            string
	}{
		{"all agree", good, good, good, false, true, []string{}, "", ""},
		{"all agree, each alias alone", good, good, good, true, true, []string{}, "", ""},
		{"one lacks the key", good, good, but("-k2.acme.test TXT"), false, false, []string{"fail zone_servers_disagree"}, "dkim_cname_dangling", "ns2.acme.test: CNAME k.acme.test | k.acme.test: CNAME k2.acme.test | k2.acme.test: nothing"},
		{"one lacks the key, each alias alone", good, good, but("-k2.acme.test TXT"), true, false, []string{"fail zone_servers_disagree"}, "dkim_cname_dangling", "k2.acme.test: nothing"},
		{"one has it revoked", good, but("k2.acme.test TXT \"k=rsa; p=\""), good, false, false, []string{"fail zone_servers_disagree"}, "dkim_revoked", "ns1"},
		{"one leads elsewhere in the middle", good, good, but("k.acme.test CNAME gone.acme.test"), false, false, []string{"fail zone_servers_disagree"}, "dkim_cname_dangling", "gone.acme.test: nothing"},
		{"one has a milder policy", good, good, but(`d.acme.test TXT "v=DMARC1; p=none; rua=mailto:d@acme.test"`), false, false, []string{"fail zone_servers_disagree"}, "dmarc_p_none", ""},
		{"published now, the cache denies it", but("-k2.acme.test TXT"), good, good, false, true, []string{"info zone_cached"}, "", "300 s"},
		{"removed now, the cache has it", good, but("-k2.acme.test TXT"), but("-k2.acme.test TXT"), false, false, []string{"info zone_cached"}, "dkim_cname_dangling", "k2.acme.test: nothing"},
		{"the alias leads out of the zone", moved + "\nk.host.test TXT" + quoted(testKey), moved, moved, false, true, []string{}, "", ""},
		{"the servers hold a zone that is not asked of them", moved + "\nk.host.test TXT" + quoted(testKey), moved + "\nk.host.test TXT \"k=rsa; p=\"", moved, false, true, []string{}, "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cache, one, two := dnstest.Start(t, tt.cache), dnstest.Start(t, tt.one), dnstest.Start(t, tt.two)
			if tt.minimal {
				one.Fail("*", "*", dnstest.Fault{CutAlias: true})
				two.Fail("*", "*", dnstest.Fault{CutAlias: true})
			}
			r, err := CheckDomain(t.Context(), "acme.test", DomainCheck{DKIMSelector: testSelector, DKIMValue: testKey, Resolver: zoneClient(t, cache, one, two)})
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.want, zoneCodes(r)); d != "" || r.Ready != tt.ready || !strings.Contains(r.Text(), tt.text) {
				t.Errorf("ready %v, findings (-want +got):\n%s\n%s", r.Ready, d, r.Text())
			}
			if tt.code != "" {
				finding(t, r, tt.code)
			}
		})
	}
}

// A server that answers too late for the verdict is still heard: the domain is
// not ready while it says something else.
func TestCheckDomainLateServerDisagrees(t *testing.T) {
	t.Parallel()
	cache, one, two := dnstest.Start(t, zone()), dnstest.Start(t, zone()), dnstest.Start(t, zone("-_dmarc.acme.test TXT"))
	two.Fail("*", "*", dnstest.Fault{Delay: 1300 * time.Millisecond})
	r, err := CheckDomain(t.Context(), "acme.test", DomainCheck{DKIMSelector: testSelector, Resolver: zoneClient(t, cache, one, two), Timeout: 3 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if f := finding(t, r, "zone_servers_disagree"); r.Ready || f.Level != DomainFail || f.Name != "_dmarc.acme.test" {
		t.Errorf("%+v\n%s", f, r.Text())
	}
}

// What an SPF record points to within the zone may be as new as the record: the
// cache's denial of it is no absence. The same holds for the mail host.
func TestCheckDomainTargetsPublishedNow(t *testing.T) {
	t.Parallel()
	const record = `acme.test TXT "v=spf1 include:_spf.acme.test a:out.acme.test mx:in.acme.test exists:e.acme.test ~all"`
	fresh := zone(record, `_spf.acme.test TXT "v=spf1 ip4:192.0.2.77 -all"`, "out.acme.test A 192.0.2.78", "in.acme.test MX 10 mail.acme.test", "e.acme.test A 127.0.0.2")
	stale := zone(record, "-acme.test MX")
	tests := []struct {
		name       string
		cache, own string
		cacheOnly  bool
		want       []string // SPF and mail host
		results    []string
	}{
		{"the cache has not heard", stale, fresh, false, []string{}, []string{"pass", "pass", "pass"}},
		{"the cache alone is asked", stale, fresh, true, []string{"fail spf_target_missing", "fail spf_too_many_voids", "warn mail_no_host"}, []string{"permerror", "permerror", "permerror"}},
		{"nowhere", stale, stale, false, []string{"fail spf_target_missing", "fail spf_too_many_voids", "warn mail_no_host"}, []string{"permerror", "permerror", "permerror"}},
		{"the cache has an old one", strings.ReplaceAll(fresh, "v=spf1 ip4:192.0.2.77", "v=spf1 ip4:192.0.2"), fresh, false, []string{}, []string{"pass", "pass", "pass"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			own := dnstest.Start(t, tt.own)
			r, err := CheckDomain(t.Context(), "acme.test", DomainCheck{
				DKIMSelector: testSelector, Resolver: zoneClient(t, dnstest.Start(t, tt.cache), own, own), CacheOnly: tt.cacheOnly,
				Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.77"), netip.MustParseAddr("192.0.2.78"), netip.MustParseAddr("192.0.2.10")},
			})
			if err != nil {
				t.Fatal(err)
			}
			got := []string{}
			for _, f := range r.Findings {
				if (f.Area == "SPF" || f.Area == "Mail host") && f.Level.rank() >= DomainWarn.rank() && f.Code != "spf_void_term" {
					got = append(got, string(f.Level)+" "+f.Code)
				}
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("(-want +got):\n%s\n%s", d, r.Text())
			}
			for i, a := range r.SPF.Addresses {
				if a.Result != tt.results[i] {
					t.Errorf("%s: %s (%s), want %s", a.Address, a.Result, a.Reason, tt.results[i])
				}
			}
		})
	}
}

// A subdomain that inherits its policy sees at once that it is published.
func TestCheckDomainInheritedNow(t *testing.T) {
	t.Parallel()
	own := dnstest.Start(t, zone())
	r, err := CheckDomain(t.Context(), "news.acme.test", DomainCheck{
		DKIMSelector: testSelector + "._domainkey.acme.test", Resolver: zoneClient(t, dnstest.Start(t, zone("-_dmarc.acme.test TXT")), own, own),
	})
	if err != nil || r.DMARC.State != "ok" || r.DMARC.Policy != "reject" {
		t.Errorf("%v\n%s", err, r.Text())
	}
	finding(t, r, "zone_cached")
}

// The verdict goes by the zone: what is published there is not reported
// missing because a cache has not heard of it.
func TestCheckDomainPublishedNow(t *testing.T) {
	t.Parallel()
	dkim := testSelector + "._domainkey.acme.test"
	cache := dnstest.Start(t, zone("-"+dkim+" TXT", "-pm-bounces.acme.test CNAME", "-_dmarc.acme.test TXT", "-acme.test TXT"))
	own := dnstest.Start(t, zone())
	r, err := CheckDomain(t.Context(), "acme.test", DomainCheck{DKIMSelector: testSelector, DKIMValue: testKey, Resolver: zoneClient(t, cache, own, own)})
	if err != nil {
		t.Fatal(err)
	}
	if !r.Ready || r.ReturnPath.State != "ok" || r.SPF.State != "ok" || r.SPF.Include != "present" || !r.DKIM[0].Matches {
		t.Errorf("report:\n%s", r.Text())
	}
	if n := len(zoneCodes(r)); n != 4 {
		t.Errorf("%d zone findings, want 4: %v", n, zoneCodes(r))
	}
}

// A healthy domain takes at most 20 questions.
func TestCheckDomainQueries(t *testing.T) {
	t.Parallel()
	s := dnstest.Start(t, zone())
	r, err := CheckDomain(t.Context(), "acme.test", DomainCheck{DKIMSelector: testSelector, DKIMValue: testKey, Resolver: testClient(t, s)})
	if err != nil || !r.Ready {
		t.Fatalf("%v\n%s", err, r.Text())
	}
	if n := len(s.Asked()); n > 20 || n != len(r.Queries) {
		t.Errorf("%d questions, %d in the report:\n%s", n, len(r.Queries), strings.Join(s.Asked(), "\n"))
	}
}

// Each server more takes five questions more, one of them for its address, and
// no more than four are asked.
func TestCheckDomainQueriesByServers(t *testing.T) {
	t.Parallel()
	zoneText := zone()
	for n, want := range []int{2: 20, 25, 30, 30} {
		if n < 2 {
			continue
		}
		if n > 2 {
			zoneText += fmt.Sprintf("\nacme.test NS ns%d.acme.test\nns%d.acme.test A 192.0.2.%d", n, n, n)
		}
		s := dnstest.Start(t, zoneText)
		r, err := CheckDomain(t.Context(), "acme.test", DomainCheck{DKIMSelector: testSelector, DKIMValue: testKey, Resolver: testClient(t, s)})
		if err != nil || !r.Ready || len(s.Asked()) > want {
			t.Errorf("%d servers: %v, %d questions, want at most %d", n, err, len(s.Asked()), want)
		}
	}
}

func TestCheckDomainLongTTL(t *testing.T) {
	t.Parallel()
	s := dnstest.Start(t, zone("-acme.test TXT", `acme.test 172800 TXT "v=spf1 ip4:192.0.2.0/24 -all"`, `acme.test 172800 TXT "v=spf1 ip4:198.51.100.0/24 -all"`))
	r, err := CheckDomain(t.Context(), "acme.test", DomainCheck{DKIMSelector: testSelector, Resolver: testClient(t, s)})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"warn zone_long_ttl"}, zoneCodes(r)); d != "" {
		t.Error(d)
	}
}

// askedServers is a resolver that can ask a given server, and keeps which ones
// it was to ask. It sends nothing to them.
type askedServers struct {
	Resolver
	DNSQuerier

	mu    sync.Mutex
	asked []string
}

func (a *askedServers) QueryServer(_ context.Context, server, _, _ string) (DNSAnswer, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked = append(a.asked, server)
	return DNSAnswer{}, errors.New("silent")
}

// Whoever publishes a zone names its servers. Those names must not lead the
// check into the network that it runs in.
func TestCheckDomainPrivateServers(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		ns1  []string // addresses of ns1; ns2 has 192.0.2.2
		ask  string   // "" for none
	}{
		{"private", []string{"A 10.1.2.3"}, ""},
		{"private, 172", []string{"A 172.16.0.1"}, ""},
		{"private, 192", []string{"A 192.168.0.1"}, ""},
		{"loopback", []string{"A 127.0.0.53"}, ""},
		{"link-local, as of cloud metadata", []string{"A 169.254.169.254"}, ""},
		{"unspecified", []string{"A 0.0.0.0"}, ""},
		{"this network", []string{"A 0.1.2.3"}, ""},
		{"shared", []string{"A 100.64.0.1"}, ""},
		{"multicast", []string{"A 224.0.0.251"}, ""},
		{"broadcast", []string{"A 255.255.255.255"}, ""},
		{"IPv6 loopback", []string{"AAAA ::1"}, ""},
		{"IPv6 unspecified", []string{"AAAA ::"}, ""},
		{"IPv6 private", []string{"AAAA fd00::1"}, ""},
		{"IPv6 link-local", []string{"AAAA fe80::1"}, ""},
		{"IPv6 site-local", []string{"AAAA fec0::1"}, ""},
		{"IPv6 multicast", []string{"AAAA ff02::fb"}, ""},
		{"IPv4 in IPv6", []string{"AAAA ::ffff:10.1.2.3"}, ""},
		{"IPv4 in IPv6, the old way", []string{"AAAA ::10.1.2.3"}, ""},
		{"behind NAT64", []string{"AAAA 64:ff9b::a01:203"}, ""},
		{"behind a NAT64 of the network's own", []string{"AAAA 64:ff9b:1::8.8.8.8"}, ""},
		{"behind 6to4", []string{"AAAA 2002:a01:203::1"}, ""},
		{"a public one beside it", []string{"A 10.1.2.3", "A 192.0.2.1"}, "192.0.2.1:53"},
		{"a public one of the other family", []string{"A 10.1.2.3", "AAAA 2001:db8::1"}, "[2001:db8::1]:53"},
		{"public", []string{"A 192.0.2.1"}, "192.0.2.1:53"},
		{"public IPv6", []string{"AAAA 2001:db8::1"}, "[2001:db8::1]:53"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			lines := []string{"-ns1.acme.test A"}
			for _, a := range tt.ns1 {
				lines = append(lines, "ns1.acme.test "+a)
			}
			c := testClient(t, dnstest.Start(t, zone(lines...)))
			res := &askedServers{Resolver: c, DNSQuerier: c}
			r, err := CheckDomain(t.Context(), "acme.test", DomainCheck{DKIMSelector: testSelector, Resolver: res})
			if err != nil {
				t.Fatal(err)
			}
			asked := map[string]bool{}
			for _, a := range res.asked {
				asked[a] = true
			}
			want := map[string]bool{"192.0.2.2:53": true}
			if tt.ask != "" {
				want[tt.ask] = true
			}
			if d := cmp.Diff(want, asked); d != "" {
				t.Errorf("asked (-want +got):\n%s", d)
			}
			if len(r.Servers) != 2 || tt.ask == "" && (r.Servers[0].Address != "" || !strings.Contains(r.Servers[0].State, "not a public address")) {
				t.Errorf("%+v", r.Servers)
			}
		})
	}
}

// A client that dials by itself does not lead there either; one with a dialer
// of the caller's own asks what that dialer lets through.
func TestCheckDomainPrivateServersClient(t *testing.T) {
	t.Parallel()
	s := dnstest.Start(t, zone("-ns1.acme.test A", "-ns2.acme.test A", "ns1.acme.test A 127.0.0.9", "ns2.acme.test AAAA ::1"))
	own, err := NewDNSClient(DNSClientConfig{Servers: []string{s.Addr}})
	if err != nil {
		t.Fatal(err)
	}
	r, err := CheckDomain(t.Context(), "acme.test", DomainCheck{DKIMSelector: testSelector, Resolver: own})
	if err != nil {
		t.Fatal(err)
	}
	f := finding(t, r, "zone_cache_only")
	if !strings.Contains(f.Summary, "127.0.0.9 is not a public address") || !r.Ready {
		t.Errorf("%+v\n%s", f, r.Text())
	}
	for _, q := range r.Queries {
		if q.Server != "" {
			t.Errorf("asked %+v", q)
		}
	}
	r, err = CheckDomain(t.Context(), "acme.test", DomainCheck{DKIMSelector: testSelector, Resolver: testClient(t, s)})
	if err != nil || len(zoneCodes(r)) > 0 || r.Servers[0].Address != "127.0.0.9:53" {
		t.Errorf("%v, %v, %+v", err, zoneCodes(r), r.Servers)
	}
}
