package fluxly

import (
	"context"
	"net"
	"slices"
	"strings"
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
		cacheFails      bool
		want            []string
		policy          string
		text            string
	}{
		{name: "all agree", cache: zone(), one: zone(), two: zone(), want: []string{}, policy: "reject"},
		{name: "published, the cache still denies it", cache: zone(none), one: zone(), two: zone(), want: []string{"info zone_cached"}, policy: "reject", text: "Caches may keep the old answer for 300 s."},
		{name: "changed, the cache has the old one", cache: zone(strict), one: zone(), two: zone(), want: []string{"info zone_cached"}, policy: "reject", text: "300 s"},
		{name: "removed, the cache has it", cache: zone(), one: zone(none), two: zone(none), want: []string{"info zone_cached"}, text: "zone: nothing"},
		{name: "servers differ", cache: zone(), one: zone(), two: zone(strict), want: []string{"warn zone_servers_disagree"}, text: "ns2.acme.test: v=DMARC1; p=quarantine"},
		{name: "one server dead", cache: zone(), one: zone(), two: zone(), dead: true, want: []string{"warn zone_server_dead"}, policy: "reject", text: "ns2.acme.test"},
		{name: "one server refuses", cache: zone(), one: zone(), two: zone(), refused: true, want: []string{"warn zone_server_dead"}, policy: "reject", text: "REFUSED"},
		{name: "the resolver fails", cache: zone(), one: zone(), two: zone(), cacheFails: true, want: []string{"warn zone_resolver_fails"}, policy: "reject", text: "SERVFAIL"},
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
			if i := slices.IndexFunc(r.Findings, func(f DomainFinding) bool { return f.Level == DomainUnknown }); i >= 0 {
				t.Errorf("unknown: %+v", r.Findings[i])
			}
		})
	}
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
