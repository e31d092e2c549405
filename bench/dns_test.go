package bench

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-msgauth/dmarc"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/internal/dnsmsg/dnstest"
	"github.com/getfluxly/fluxly/internal/spf"
	"github.com/getfluxly/fluxly/internal/taglist"
)

// dnsZone is a domain at which nothing is to be done, with two name servers.
const dnsZone = `
DOMAIN NS ns1.DOMAIN
DOMAIN NS ns2.DOMAIN
ns1.DOMAIN A 192.0.2.1
ns2.DOMAIN A 192.0.2.2
DOMAIN MX 10 mail.DOMAIN
DOMAIN TXT "v=spf1 include:_spf.office.test include:spf.mtasv.net ~all"
s1._domainkey.DOMAIN TXT "k=rsa; p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQCjBFkLAXeBawVIGGWH6nX/XALKufcuCSd82weagn5NrkZ4b6sJLam55RQLulX5YRFcL7JsoQmgLvJCvr2a5VpINs98JiYHauMYgkJ2fvqvD9ATa0OP9KGOUfBeLESef1yT93w5Xhcnij3BsfeuVu2g65kG6NDQzCxrrXLCOlvIhwIDAQAB"
pm-bounces.DOMAIN CNAME pm.mtasv.net
_dmarc.DOMAIN TXT "v=DMARC1; p=reject; rua=mailto:dmarc@DOMAIN; fo=1"
`

const dnsShared = `
_spf.office.test TXT "v=spf1 ip4:198.51.100.0/24 -all"
spf.mtasv.net TXT "v=spf1 ip4:203.0.113.0/25 -all"
pm.mtasv.net TXT "v=spf1 include:spf.mtasv.net ~all"
`

func dnsClient(tb testing.TB, s *dnstest.Server) *fluxly.DNSClient {
	tb.Helper()
	c, err := fluxly.NewDNSClient(fluxly.DNSClientConfig{Servers: []string{s.Addr}, Dial: s.Dial})
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

// A healthy domain, its zone's own servers asked too: at most 20 questions,
// and at 20 ms an answer at most 150 ms.
func TestDNSHealthy(t *testing.T) {
	s := dnstest.Start(t, strings.ReplaceAll(dnsZone, "DOMAIN", "acme.test")+dnsShared)
	s.Fail("*", "*", dnstest.Fault{Delay: 20 * time.Millisecond})
	check := fluxly.DomainCheck{DKIMSelector: "s1", Resolver: dnsClient(t, s)}
	var times []time.Duration
	for range 11 {
		before := len(s.Asked())
		begin := time.Now()
		r, err := fluxly.CheckDomain(t.Context(), "acme.test", check)
		times = append(times, time.Since(begin))
		if err != nil || !r.Ready {
			t.Fatalf("%v\n%s", err, r.Text())
		}
		if n := len(s.Asked()) - before; n > 20 {
			t.Errorf("%d questions", n)
		}
	}
	slices.Sort(times)
	t.Logf("%d questions at 20 ms: best %v, median %v", len(s.Asked())/11, times[0], times[5])
	if !underRace && times[0] > 150*time.Millisecond {
		t.Errorf("took %v, want at most 150 ms", times[0])
	}
}

// A hundred domains against one resolver, as a ratio to the same questions
// asked bare by the same client, with as many in flight.
func TestDNSHundred(t *testing.T) {
	var zone strings.Builder
	var domains []string
	for i := range 100 {
		d := fmt.Sprintf("acme%d.test", i)
		zone.WriteString(strings.ReplaceAll(dnsZone, "DOMAIN", d))
		domains = append(domains, d+"=s1")
	}
	s := dnstest.Start(t, zone.String()+dnsShared)
	c := dnsClient(t, s)
	check := fluxly.DomainCheck{Resolver: c, CacheOnly: true, InFlight: 32}
	var ours, bare []time.Duration
	var questions []fluxly.DomainQuery
	for range 9 {
		begin := time.Now()
		rs := fluxly.CheckDomains(t.Context(), domains, check)
		ours = append(ours, time.Since(begin))
		questions = questions[:0]
		seen := map[[2]string]bool{}
		for _, r := range rs {
			if r.Err != nil || !r.Report.Ready {
				t.Fatal(r.Domain, r.Err)
			}
			for _, q := range r.Report.Queries {
				if key := [2]string{q.Name, q.Type}; !seen[key] {
					seen[key] = true
					questions = append(questions, q)
				}
			}
		}
		begin = time.Now()
		slots := make(chan struct{}, 32)
		var wg sync.WaitGroup
		for _, q := range questions {
			slots <- struct{}{}
			wg.Go(func() {
				defer func() { <-slots }()
				if _, err := c.Query(t.Context(), q.Name, q.Type); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		bare = append(bare, time.Since(begin))
	}
	slices.Sort(ours)
	slices.Sort(bare)
	ratio := float64(ours[0]) / float64(bare[0])
	t.Logf("100 domains, %d questions: best %v, bare questions %v, %.2fx", len(questions), ours[0], bare[0], ratio)
	if !underRace && ratio > 3 {
		t.Errorf("%.2f times the bare questions, want at most 3", ratio)
	}
}

func BenchmarkDNSParse(b *testing.B) {
	const (
		spfText   = "v=spf1 a mx include:_spf.google.com include:spf.mtasv.net ip4:192.0.2.0/24 ip6:2001:db8::/32 ~all"
		dmarcText = "v=DMARC1; p=quarantine; sp=reject; rua=mailto:dmarc@acme.test; adkim=r; aspf=s; fo=1"
	)
	b.Run("spf", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			spf.Parse(spfText)
		}
	})
	b.Run("dmarc tags", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			taglist.Parse(dmarcText, true)
		}
	})
	b.Run("dmarc go-msgauth", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := dmarc.Parse(dmarcText); err != nil {
				b.Fatal(err)
			}
		}
	})
}
