package fluxly

import (
	"context"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	gospf "blitiri.com.ar/go/spf"

	"github.com/getfluxly/fluxly/internal/spf"
)

// spfWorld is a resolver with other people's records, and those of acme.test.
type spfWorld struct {
	records []string
	four    bool // the family of the sender
}

var spfWorldTexts = map[string]string{
	"spf.mtasv.net": "v=spf1 ip4:203.0.113.128/27 -all",
	"foo.test":      "v=spf1 ip4:198.51.100.0/24 -all",
	"bar.test":      "v=spf1 ip4:203.0.113.0/25 a:h.test ~all",
	"deny.test":     "v=spf1 -ip4:198.51.100.7 ip4:198.51.100.0/24 ?all",
	"heavy.test":    "v=spf1 a:h1.test a:h2.test a:h1.test a:h2.test -all",
	"loop.test":     "v=spf1 include:loop.test -all",
	"back.test":     "v=spf1 ip4:192.0.2.90 include:acme.test -all",
	"voids.test":    "v=spf1 a:g1.test a:g2.test -all",
	"bad.test":      "v=spf1 ip4:192.0.2 -all",
	"redir.test":    "v=spf1 redirect=foo.test",
	"open.test":     "v=spf1 +all",
}

var spfWorldHosts = map[string][]string{
	"mail.acme.test": {"192.0.2.10"}, "acme.test": {"192.0.2.20", "2001:db8::20"}, "h.test": {"198.18.1.1"},
	"h1.test": {"198.18.1.2"}, "h2.test": {"198.18.1.3", "2001:db8::3"}, "v6.test": {"2001:db8::6"}, "e.test": {"127.0.0.2"},
}

func (w spfWorld) LookupTXT(_ context.Context, name string) ([]string, error) {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if name == "acme.test" {
		return slices.Clone(w.records), nil
	}
	if text, ok := spfWorldTexts[name]; ok {
		return []string{text}, nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
}

func (w spfWorld) LookupIPAddr(_ context.Context, name string) (out []net.IPAddr, err error) {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	for _, a := range spfWorldHosts[name] {
		out = append(out, net.IPAddr{IP: net.ParseIP(a)})
	}
	if len(out) == 0 {
		err = &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
	}
	return out, err
}

func (w spfWorld) LookupMX(_ context.Context, name string) ([]*net.MX, error) {
	switch strings.ToLower(strings.TrimSuffix(name, ".")) {
	case "acme.test":
		return []*net.MX{{Host: "mail.acme.test"}}, nil
	case "m.test":
		return []*net.MX{{Host: "h1.test"}, {Host: "h2.test"}}, nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
}

func (w spfWorld) LookupCNAME(_ context.Context, host string) (string, error) { return host, nil }

func (w spfWorld) LookupNS(_ context.Context, name string) ([]*net.NS, error) {
	return nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
}

func (w spfWorld) LookupAddr(_ context.Context, addr string) ([]string, error) {
	return nil, &net.DNSError{Err: "no such host", Name: addr, IsNotFound: true}
}

// oneFamily is the world as the evaluator of one mail asks it.
type oneFamily struct{ spfWorld }

func (w oneFamily) LookupIPAddr(ctx context.Context, name string) ([]net.IPAddr, error) {
	out, err := w.spfWorld.LookupIPAddr(ctx, name)
	four := w.four || strings.HasPrefix(name, "e.test")
	out = slices.DeleteFunc(out, func(a net.IPAddr) bool { return (a.IP.To4() != nil) != four })
	if err == nil && len(out) == 0 {
		err = &net.DNSError{Err: "no such record", Name: name, IsNotFound: true}
	}
	return out, err
}

// spfPasses reports whether a mail from a passes by the record alone, were it
// not for the limits.
func spfPasses(record string, a netip.Addr) bool {
	res, _ := gospf.CheckHostWithSender(a.AsSlice(), "acme.test", "postmaster@acme.test",
		gospf.WithResolver(oneFamily{spfWorld{[]string{record}, a.Is4()}}), gospf.OverrideLookupLimit(200), gospf.OverrideVoidLookupLimit(200))
	return res == gospf.Pass
}

var spfWorldTerms = []string{
	"include:foo.test", "include:bar.test", "include:deny.test", "include:heavy.test", "include:loop.test", "include:back.test",
	"include:voids.test", "include:bad.test", "include:redir.test", "include:gone.test", "include:acme.test", "INCLUDE:Foo.Test.",
	"include:spf.mtasv.net", "include:open.test", "a", "mx", "a:h.test", "a:h1.test/24", "mx:m.test", "a:v6.test", "a:gone.test", "ptr", "exists:e.test",
	"exists:%{i}.x.test", "exists:gone.test", "ip4:192.0.2.0/28", "ip4:192.0.2.1", "ip4:198.51.100.7", "ip6:2001:db8::/48",
	"redirect=foo.test", "redirect=gone.test", "exp=e.%{d}", "x-note=1", "x-note=office,a:h.test", "include=foo.test", "include=back.test", "ip4=192.0.2.77", "ip4=192.0.2.77,",
	"v=spf1", "a/33", "ip4:192.0.2.1/40", "ip6:192.0.2.1", "ip:192.0.2.50", "ipv4:192.0.2.51", "includes:foo.test", "moo",
	"include:%{d2}.x.test", "all", "-all", "~all", "?all", "+all",
}

// randomSPF writes a record, with the slips of the pen that panels and haste make.
func randomSPF(r *rand.Rand, slips bool) string {
	pick := func(list ...string) string { return list[r.IntN(len(list))] }
	terms := []string{}
	for range 1 + r.IntN(5) {
		t := pick(spfWorldTerms...)
		if r.IntN(8) == 0 && !strings.Contains(t, "=") && !strings.Contains(t, "all") {
			t = pick("+", "-", "~", "?") + t
		}
		terms = append(terms, t)
	}
	if r.IntN(5) > 0 {
		terms = append(terms, pick("-all", "~all", "?all", "+all", "-ALL"))
	}
	if r.IntN(8) == 0 {
		terms = append(terms, pick(spfWorldTerms...))
	}
	s := pick("v=spf1", "v=spf1", "v=spf1", "V=SPF1")
	for _, t := range terms {
		gap := " "
		if slips && r.IntN(3) == 0 {
			gap = pick("", ", ", ";", "\u00a0", "  ", "\t", `\032`)
		}
		if slips && r.IntN(3) == 0 {
			t = pick(strings.Replace(t, ":", ": ", 1), strings.Replace(t, ":", "=", 1), strings.Replace(t, "-", "\u2013", 1),
				"\u201c"+t+"\u201d", strings.Replace(t, "-", "- ", 1), t+",", t+";", t+".", strings.ToUpper(t))
		}
		s += gap + t
	}
	return s
}

// What is proposed for any record: it is sound by the grammar, whoever passed by
// one of the old records passes by it, unless by what let everybody pass; it
// does not say that it corrects what it does not, and what it corrects it
// corrects at once.
func TestSPFProposalsKeepTheirPromise(t *testing.T) {
	t.Parallel()
	senders := addresses("192.0.2.1", "192.0.2.3", "192.0.2.10", "192.0.2.20", "192.0.2.50", "192.0.2.77", "192.0.2.90", "198.51.100.7", "198.51.100.8",
		"203.0.113.5", "203.0.113.130", "198.18.1.1", "198.18.1.2", "198.18.1.3", "2001:db8::20", "2001:db8::6", "2001:db8::3", "2001:dead::1", "8.8.8.8")
	check := func(records ...string) *DomainReport {
		r, err := CheckDomain(t.Context(), "acme.test", DomainCheck{Resolver: spfWorld{records: records}, CacheOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	for seed := range uint64(600) {
		r := rand.New(rand.NewPCG(seed, 7)) //nolint:gosec // the same in each run
		records := []string{randomSPF(r, seed%2 == 0)}
		if seed%3 == 0 {
			records = append(records, randomSPF(r, false))
		}
		report := check(records...)
		proposed := map[string]bool{}
		for _, f := range report.Findings {
			for _, p := range f.Publish {
				if f.Area != "SPF" || f.Code == "spf_missing" {
					continue
				}
				if !spf.Is(p.Value) || len(spf.Parse(p.Value).Faults) > 0 {
					t.Fatalf("seed %d: %q: %s proposes %q", seed, records, f.Code, p.Value)
				}
				if all := spf.Parse(p.Value).All(); all != nil && all.Qualifier == '+' {
					t.Errorf("seed %d: %q: %s proposes %q, which lets everybody pass", seed, records, f.Code, p.Value)
				}
				if !proposed[p.Value] {
					proposed[p.Value] = true
					for _, old := range report.SPF.Records {
						open := strings.Contains(strings.ToLower(old), "+all") || strings.Contains(strings.ToLower(old), " all") || strings.Contains(old, "open.test")
						for _, a := range senders {
							if !open && len(spf.Parse(old).Faults) == 0 && spfPasses(old, a) && !spfPasses(p.Value, a) {
								t.Errorf("seed %d: %q: %s proposes %q, which loses %s", seed, records, f.Code, p.Value, a)
							}
						}
					}
				}
				after := check(p.Value)
				for _, g := range after.Findings {
					if g.Area != "SPF" || g.Code == "spf_include_absent" {
						continue
					}
					if strings.Contains(f.Fix, "has it corrected") && g.Code == f.Code && g.Name == f.Name && g.Summary == f.Summary {
						t.Errorf("seed %d: %q: %q does not correct %s", seed, records, p.Value, f.Summary)
					}
					if !f.Optional && f.Code != "spf_multiple" && f.Code != "spf_near_miss" && len(g.Publish) > 0 {
						t.Errorf("seed %d: %q: %s proposes %q, and that is corrected to %q for %s", seed, records, f.Code, p.Value, g.Publish[0].Value, g.Code)
					}
				}
			}
		}
	}
}
