package fluxly

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/getfluxly/fluxly/internal/dnsmsg/dnstest"
)

const (
	testSelector = "20231123163444pm"
	// A real 1024-bit key, as Postmark shows one.
	testKey = "k=rsa; p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQCjBFkLAXeBawVIGGWH6nX/XALKufcuCSd82weagn5NrkZ4b6sJLam55RQLulX5YRFcL7JsoQmgLvJCvr2a5VpINs98JiYHauMYgkJ2fvqvD9ATa0OP9KGOUfBeLESef1yT93w5Xhcnij3BsfeuVu2g65kG6NDQzCxrrXLCOlvIhwIDAQAB"
)

// healthyZone is a domain at which nothing is to be done.
const healthyZone = `
acme.test SOA ns1.acme.test 300
acme.test NS ns1.acme.test
acme.test NS ns2.acme.test
ns1.acme.test A 192.0.2.1
ns2.acme.test A 192.0.2.2
acme.test MX 10 mail.acme.test
mail.acme.test A 192.0.2.10
acme.test TXT "v=spf1 include:_spf.office.test include:spf.mtasv.net ~all"
_spf.office.test TXT "v=spf1 ip4:198.51.100.0/24 -all"
spf.mtasv.net TXT "v=spf1 ip4:203.0.113.0/25 -all"
pm.mtasv.net TXT "v=spf1 include:spf.mtasv.net ~all"
pm.mtasv.net A 203.0.113.5
20231123163444pm._domainkey.acme.test TXT "` + testKey + `"
pm-bounces.acme.test CNAME pm.mtasv.net
_dmarc.acme.test TXT "v=DMARC1; p=reject; rua=mailto:dmarc@acme.test; fo=1"
`

// testClient asks the in-process server for everything; servers named by
// address all lead there too.
func testClient(tb testing.TB, s *dnstest.Server) *DNSClient {
	tb.Helper()
	c, err := NewDNSClient(DNSClientConfig{Servers: []string{s.Addr}, Timeout: 10 * time.Second, Dial: s.Dial})
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

// zone is healthyZone with lines that begin with the name and type of a new
// line replaced; a new line "-name TYPE" only removes.
func zone(change ...string) string {
	var out []string
	for line := range strings.Lines(healthyZone) {
		keep := true
		for _, c := range change {
			f := strings.Fields(strings.TrimPrefix(c, "-"))
			g := strings.Fields(line)
			if len(g) > 1 && f[0] == g[0] && f[1] == g[1] {
				keep = false
			}
		}
		if keep {
			out = append(out, strings.TrimSpace(line))
		}
	}
	for _, c := range change {
		if !strings.HasPrefix(c, "-") {
			out = append(out, c)
		}
	}
	return strings.Join(out, "\n")
}

func codes(r *DomainReport) []string {
	out := []string{}
	for _, f := range r.Findings {
		if f.Area == "Zone" {
			continue
		}
		out = append(out, string(f.Level)+" "+f.Code)
	}
	return out
}

func finding(tb testing.TB, r *DomainReport, code string) DomainFinding {
	tb.Helper()
	for _, f := range r.Findings {
		if f.Code == code {
			return f
		}
	}
	tb.Fatalf("no finding %s in %v", code, codes(r))
	return DomainFinding{}
}

func checkZoneText(tb testing.TB, zoneText string, c DomainCheck) *DomainReport {
	tb.Helper()
	s := dnstest.Start(tb, zoneText)
	if c.Resolver == nil {
		c.Resolver = testClient(tb, s)
	}
	if c.DKIMSelector == "" && c.Postmark == (PostmarkDomain{}) {
		c.DKIMSelector = testSelector
	}
	c.CacheOnly = true
	r, err := CheckDomain(tb.Context(), "acme.test", c)
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

func TestCheckDomain(t *testing.T) {
	t.Parallel()
	dkim := testSelector + "._domainkey.acme.test"
	tests := []struct {
		name  string
		zone  string
		check DomainCheck
		want  []string // level and code
		ready bool
		also  func(t *testing.T, r *DomainReport)
	}{
		{name: "healthy", zone: zone(), check: DomainCheck{DKIMValue: testKey}, want: []string{"info dkim_rsa_1024"}, ready: true, also: func(t *testing.T, r *DomainReport) {
			if !r.Alignment.DKIM.Aligned || !r.Alignment.SPF.Aligned || r.SPF.Include != "present" || r.SPF.Lookups != 2 {
				t.Errorf("alignment %+v, SPF %+v", r.Alignment, r.SPF)
			}
		}},
		{name: "no DKIM record", zone: zone("-" + dkim + " TXT"), check: DomainCheck{DKIMValue: testKey}, want: []string{"fail dkim_missing", "warn align_dkim"}, also: func(t *testing.T, r *DomainReport) {
			want := []DomainRecord{{Name: dkim, Type: "TXT", Value: testKey, Strings: []string{testKey}}}
			if d := cmp.Diff(want, finding(t, r, "dkim_missing").Publish); d != "" {
				t.Error(d)
			}
		}},
		{name: "DKIM host doubled by the panel", zone: zone("-"+dkim+" TXT", dkim+`.acme.test TXT "`+testKey+`"`), want: []string{"fail dkim_doubled_host", "warn align_dkim"}, also: func(t *testing.T, r *DomainReport) {
			if at := "ound at " + dkim + ".acme.test: k=rsa"; !strings.Contains(r.Text(), "F"+at) || !strings.Contains(r.Zone(), "; f"+at) {
				t.Errorf("%s\n%s", r.Text(), r.Zone())
			}
		}},
		{name: "another DKIM key", zone: zone(), check: DomainCheck{DKIMValue: "k=rsa; p=" + spki(2048)}, want: []string{"fail dkim_key_differs", "info dkim_rsa_1024", "warn align_dkim"}},
		{name: "DKIM behind an alias", zone: zone("-"+dkim+" TXT", dkim+" CNAME key.host.test", `key.host.test TXT "`+testKey+`"`), want: []string{"info dkim_cname", "info dkim_rsa_1024"}, ready: true},
		{name: "DKIM alias to nothing", zone: zone("-"+dkim+" TXT", dkim+" CNAME key.host.test"), want: []string{"fail dkim_cname_dangling", "warn align_dkim"}},
		{name: "DKIM alias loop", zone: zone("-"+dkim+" TXT", dkim+" CNAME key.host.test", "key.host.test CNAME "+dkim), want: []string{"fail dkim_cname_loop", "warn align_dkim"}},
		{name: "wildcard answers for DKIM", zone: zone("-"+dkim+" TXT", `*.acme.test TXT "v=spf1 -all"`), want: []string{"fail dkim_not_a_key", "warn align_dkim"}},
		{name: "two DKIM keys", zone: zone(dkim+` TXT "`+testKey+`"`, dkim+` TXT "k=rsa; p="`), want: []string{"fail dkim_multiple", "warn align_dkim"}},
		{name: "another TXT beside the DKIM key", zone: zone(dkim+` TXT "google-site-verification=abc"`, dkim+` TXT "`+testKey+`"`), check: DomainCheck{DKIMValue: testKey}, want: []string{"fail dkim_other_txt", "info dkim_rsa_1024", "warn align_dkim"}, also: func(t *testing.T, r *DomainReport) {
			if p := finding(t, r, "dkim_other_txt").Publish; len(p) != 1 || p[0].Value != testKey || len(p[0].Replaces) != 2 {
				t.Errorf("%+v", p)
			}
		}},
		{name: "a DKIM key for tests", zone: zone(dkim + ` TXT "v=DKIM1; t=y; ` + testKey + `"`), check: DomainCheck{DKIMValue: testKey}, want: []string{"warn dkim_testing", "info dkim_rsa_1024"}},
		{name: "no Return-Path, DKIM aligns", zone: zone("-pm-bounces.acme.test CNAME"), want: []string{"info dkim_rsa_1024", "info returnpath_missing"}, ready: true},
		{name: "neither leg", zone: zone("-pm-bounces.acme.test CNAME", "-"+dkim+" TXT"), want: []string{"fail dkim_missing", "fail returnpath_missing", "fail align_none"}},
		{name: "Return-Path elsewhere", zone: zone("-pm-bounces.acme.test CNAME", "pm-bounces.acme.test CNAME bounce.host.test"), want: []string{"info dkim_rsa_1024", "info returnpath_wrong_target"}, ready: true},
		{name: "Return-Path proxied", zone: zone("-pm-bounces.acme.test CNAME", "pm-bounces.acme.test A 192.0.2.7"), want: []string{"info dkim_rsa_1024", "info returnpath_address"}, ready: true},
		{name: "a wildcard address answers for the Return-Path", zone: zone("-pm-bounces.acme.test CNAME", "*.acme.test A 192.0.2.66"), want: []string{"info dkim_rsa_1024", "info returnpath_address"}, ready: true, also: func(t *testing.T, r *DomainReport) {
			if f := finding(t, r, "returnpath_address"); !r.ReturnPath.Wildcard || !strings.Contains(f.Summary, "wildcard") {
				t.Errorf("%+v", f)
			}
		}},
		{name: "a wildcard alias answers for the Return-Path", zone: zone("-pm-bounces.acme.test CNAME", "*.acme.test CNAME www.host.test"), want: []string{"info dkim_rsa_1024", "info returnpath_wrong_target"}, ready: true, also: func(t *testing.T, r *DomainReport) {
			if f := finding(t, r, "returnpath_wrong_target"); !r.ReturnPath.Wildcard || !strings.Contains(f.Summary, "wildcard") || len(f.Publish[0].Replaces) > 0 {
				t.Errorf("%+v", f)
			}
		}},
		{name: "a proxy flattens the DKIM host", zone: zone("-"+dkim+" TXT", dkim+" A 192.0.2.7"), check: DomainCheck{DKIMValue: testKey}, want: []string{"fail dkim_address", "warn align_dkim"}},
		{name: "wildcard answers for DMARC", zone: zone("-_dmarc.acme.test TXT", `*.acme.test TXT "v=spf1 -all"`), want: []string{"info dkim_rsa_1024", "fail dmarc_missing", "warn dmarc_other_txt"}},
		{name: "DMARC and a copy with quotes", zone: zone("_dmarc.acme.test TXT \"v=DMARC1; p=reject; rua=mailto:d@acme.test\"", "_dmarc.acme.test TXT \"“v=DMARC1; p=none”\""), want: []string{"info dkim_rsa_1024", "warn dmarc_near_miss"}, ready: true},
		{name: "SPF at www in place of the apex", zone: zone("-acme.test TXT", `_spf.acme.test TXT "v=spf1 include:_spf.office.test -all"`), want: []string{"info dkim_rsa_1024", "warn spf_wrong_host", "info spf_missing"}, ready: true, also: func(t *testing.T, r *DomainReport) {
			if f := finding(t, r, "spf_wrong_host"); len(f.Publish) != 1 || f.Publish[0].Name != "acme.test" || f.Publish[0].Value != "v=spf1 include:_spf.office.test ~all" || !f.Optional {
				t.Errorf("%+v", f.Publish)
			}
		}},
		{name: "records beside the Return-Path alias", zone: zone(`pm-bounces.acme.test TXT "x"`), want: []string{"info dkim_rsa_1024", "warn returnpath_beside"}, ready: true},
		{name: "strict SPF alignment", zone: zone(`_dmarc.acme.test TXT "v=DMARC1; p=reject; rua=mailto:d@acme.test; aspf=s"`), want: []string{"info dkim_rsa_1024", "info align_spf_strict"}, ready: true},
		{name: "no SPF", zone: zone("-acme.test TXT"), want: []string{"info dkim_rsa_1024", "info spf_missing"}, ready: true},
		{name: "SPF at www only", zone: zone("-acme.test TXT", `www.acme.test TXT "v=spf1 a -all"`), want: []string{"info dkim_rsa_1024", "warn spf_wrong_host", "info spf_missing"}, ready: true},
		{name: "SPF of a www that sends nothing", zone: zone("-acme.test TXT", `www.acme.test TXT "v=spf1 -all"`), want: []string{"info dkim_rsa_1024", "info spf_missing"}, ready: true},
		{name: "two SPF records", zone: zone(`acme.test TXT "v=spf1 include:_spf.office.test -all"`, `acme.test TXT "v=spf1 ip4:192.0.2.0/24 ~all"`), want: []string{"info dkim_rsa_1024", "fail spf_multiple"}, ready: true, also: func(t *testing.T, r *DomainReport) {
			want := "v=spf1 include:_spf.office.test ip4:192.0.2.0/24 include:spf.mtasv.net ~all"
			if r.SPF.Proposal != want {
				t.Errorf("proposal %q, want %q", r.SPF.Proposal, want)
			}
		}},
		{name: "two SPF records, one refuses the other's sender", zone: zone(`acme.test TXT "v=spf1 -ip4:203.0.113.0/24 -all"`, `acme.test TXT "v=spf1 ip4:203.0.113.7 ~all"`), want: []string{"info dkim_rsa_1024", "fail spf_multiple"}, ready: true, also: func(t *testing.T, r *DomainReport) {
			if f := finding(t, r, "spf_multiple"); r.SPF.Proposal != "" || len(f.Publish) > 0 || !strings.Contains(f.Fix, "refuses (-ip4:203.0.113.0/24)") {
				t.Errorf("%+v", f)
			}
		}},
		{name: "include absent", zone: zone(`acme.test TXT "V=spf1  include:_SPF.office.test   -all"`), want: []string{"info dkim_rsa_1024", "info spf_include_absent"}, ready: true, also: func(t *testing.T, r *DomainReport) {
			want := "V=spf1  include:_SPF.office.test   include:spf.mtasv.net -all"
			if r.SPF.Proposal != want {
				t.Errorf("proposal %q, want %q", r.SPF.Proposal, want)
			}
		}},
		{name: "include with a minus", zone: zone(`acme.test TXT "v=spf1 -include:spf.mtasv.net ~all"`), want: []string{"info dkim_rsa_1024", "warn spf_include_qualified"}, ready: true},
		{name: "no DMARC", zone: zone("-_dmarc.acme.test TXT"), want: []string{"info dkim_rsa_1024", "fail dmarc_missing"}, also: func(t *testing.T, r *DomainReport) {
			want := "v=DMARC1; p=none; rua=mailto:dmarc@acme.test; fo=1"
			if got := finding(t, r, "dmarc_missing").Publish[0]; got.Value != want || got.Name != "_dmarc.acme.test" {
				t.Errorf("publish %+v", got)
			}
		}},
		{name: "DMARC at the apex", zone: zone("-_dmarc.acme.test TXT", `acme.test TXT "v=DMARC1; p=none"`, `acme.test TXT "v=spf1 include:spf.mtasv.net ~all"`), want: []string{"info dkim_rsa_1024", "fail dmarc_at_apex"}},
		{name: "two DMARC records", zone: zone(`_dmarc.acme.test TXT "v=DMARC1; p=none"`, `_dmarc.acme.test TXT "v=DMARC1; p=reject"`), want: []string{"info dkim_rsa_1024", "fail dmarc_multiple"}},
		{name: "reports to a stranger", zone: zone(`_dmarc.acme.test TXT "v=DMARC1; p=reject; rua=mailto:x@reports.test"`, "reports.test MX 10 mx.reports.test"), want: []string{"info dkim_rsa_1024", "warn dmarc_report_unauthorised"}, ready: true, also: func(t *testing.T, r *DomainReport) {
			if got := finding(t, r, "dmarc_report_unauthorised").Publish[0]; got.Name != "acme.test._report._dmarc.reports.test" || got.Value != "v=DMARC1" {
				t.Errorf("publish %+v", got)
			}
		}},
		{name: "no mail host", zone: zone("-acme.test MX"), want: []string{"info dkim_rsa_1024", "warn dmarc_report_no_mx", "warn mail_no_host"}, ready: true},
		{name: "null MX", zone: zone("acme.test MX 0 ."), want: []string{"info dkim_rsa_1024", "warn dmarc_report_no_mx", "warn mail_null_mx"}, ready: true},
		{
			name: "rotation, pending missing", zone: zone(),
			check: DomainCheck{Postmark: PostmarkDomain{DKIMHost: dkim, DKIMTextValue: testKey, DKIMPendingHost: "20260101000000pm._domainkey.acme.test", DKIMPendingTextValue: testKey}},
			want:  []string{"warn dkim_pending_missing", "info dkim_rsa_1024"}, ready: true,
		},
		{
			name: "rotation, pending wrong", zone: zone(`20260101000000pm._domainkey.acme.test TXT "k=rsa; p=AAAA"`),
			check: DomainCheck{Postmark: PostmarkDomain{DKIMHost: dkim, DKIMTextValue: testKey, DKIMPendingHost: "20260101000000pm._domainkey.acme.test", DKIMPendingTextValue: testKey}},
			want:  []string{"warn dkim_key_differs", "warn dkim_not_rsa", "info dkim_rsa_1024"}, ready: true, also: func(t *testing.T, r *DomainReport) {
				f := finding(t, r, "dkim_key_differs")
				if f.Summary != "The key at 20260101000000pm._domainkey.acme.test is not the new one that Postmark waits for. Today's mail passes by the current key." || len(f.Publish) != 1 || strings.Contains(f.Why, "every mail fails") {
					t.Errorf("%+v", f)
				}
			},
		},
		{
			name: "rotation, pending a test", zone: zone(`20260101000000pm._domainkey.acme.test TXT "t=y; ` + testKey + `"`),
			check: DomainCheck{Postmark: PostmarkDomain{DKIMHost: dkim, DKIMTextValue: testKey, DKIMPendingHost: "20260101000000pm._domainkey.acme.test", DKIMPendingTextValue: testKey}},
			want:  []string{"warn dkim_testing", "info dkim_rsa_1024", "info dkim_rsa_1024"}, ready: true,
		},
		{
			name: "rotation, both wrong", zone: zone("-"+dkim+" TXT", `20260101000000pm._domainkey.acme.test TXT "k=rsa; p=AAAA"`),
			check: DomainCheck{Postmark: PostmarkDomain{DKIMHost: dkim, DKIMTextValue: testKey, DKIMPendingHost: "20260101000000pm._domainkey.acme.test", DKIMPendingTextValue: testKey}},
			want:  []string{"fail dkim_key_differs", "fail dkim_missing", "fail dkim_not_rsa", "warn align_dkim"},
		},
		{
			name: "after a rotation", zone: zone(`old._domainkey.acme.test TXT "k=rsa; p=` + spki(1024) + `"`),
			check: DomainCheck{Postmark: PostmarkDomain{DKIMHost: dkim, DKIMTextValue: testKey, DKIMRevokedHost: "old._domainkey.acme.test", SafeToRemoveRevokedKeyFromDNS: true}},
			want:  []string{"info dkim_remove_revoked", "info dkim_rsa_1024"}, ready: true,
		},
		{
			name: "key of the domain above", zone: zone("news.acme.test MX 10 mail.acme.test"),
			check: DomainCheck{DKIMSelector: dkim, DKIMValue: testKey}, want: []string{"info dkim_rsa_1024"}, ready: true,
		},
		{
			name: "new domain at Postmark, pending only", zone: zone("-" + dkim + " TXT"),
			check: DomainCheck{Postmark: PostmarkDomain{DKIMPendingHost: dkim, DKIMPendingTextValue: testKey}},
			want:  []string{"fail dkim_pending_missing", "warn align_dkim"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := checkZoneText(t, tt.zone, tt.check)
			if d := cmp.Diff(tt.want, codes(r)); d != "" {
				t.Errorf("findings (-want +got):\n%s\n%s", d, r.Text())
			}
			if r.Ready != tt.ready {
				t.Errorf("ready = %v", r.Ready)
			}
			if tt.also != nil {
				tt.also(t, r)
			}
		})
	}
}

// What could not be asked is unknown, whatever the way in which it fails, and
// never missing; all else is still reported.
func TestCheckDomainUnknown(t *testing.T) {
	t.Parallel()
	questions := []struct {
		name, typ string
		want      []string
	}{
		{testSelector + "._domainkey.acme.test", "TXT", []string{"dkim_unasked"}},
		{"pm-bounces.acme.test", "*", []string{"returnpath_unasked"}},
		{"acme.test", "TXT", []string{"spf_unasked"}},
		{"spf.mtasv.net", "TXT", []string{"spf_unasked"}},
		{"_dmarc.acme.test", "TXT", []string{"dmarc_unasked"}},
		{"acme.test", "MX", []string{"mail_unasked"}},
	}
	faults := map[string]dnstest.Fault{
		"silent": {Drop: true}, "SERVFAIL": {RCode: 2}, "REFUSED": {RCode: 5}, "wrong id": {WrongID: true},
		"garbage": {Garbage: true}, "cut and no TCP": {Truncate: true, TCPDrop: true},
	}
	for _, q := range questions {
		for name, f := range faults {
			t.Run(q.name+" "+q.typ+" "+name, func(t *testing.T) {
				t.Parallel()
				s := dnstest.Start(t, zone())
				s.Fail(q.name, q.typ, f)
				r, err := CheckDomain(t.Context(), "acme.test", DomainCheck{DKIMSelector: testSelector, Resolver: testClient(t, s), CacheOnly: true})
				if err != nil {
					t.Fatal(err)
				}
				var got []string
				for _, f := range r.Findings {
					if f.Level == DomainUnknown {
						got = append(got, f.Code)
					}
					if strings.Contains(f.Code, "missing") || strings.Contains(f.Code, "no_host") || f.Level == DomainFail {
						t.Errorf("finding %s: %s", f.Code, f.Summary)
					}
				}
				if d := cmp.Diff(q.want, got); d != "" {
					t.Errorf("unknown findings (-want +got):\n%s", d)
				}
			})
		}
	}
}

// A server that says nothing at all: the caller's deadline is kept, with a
// report in which every part is unknown.
func TestCheckDomainDeadline(t *testing.T) {
	t.Parallel()
	s := dnstest.Start(t, zone())
	s.Fail("*", "*", dnstest.Fault{Delay: time.Minute})
	ctx, cancel := context.WithTimeout(t.Context(), 80*time.Millisecond)
	defer cancel()
	begin := time.Now()
	r, err := CheckDomain(ctx, "acme.test", DomainCheck{DKIMSelector: testSelector, Resolver: testClient(t, s)})
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("took %v", took)
	}
	for _, area := range []string{"DKIM", "Return-Path", "SPF", "DMARC", "Mail host"} {
		i := slices.IndexFunc(r.Areas, func(a DomainArea) bool { return a.Name == area })
		if i < 0 || r.Areas[i].Level != DomainUnknown {
			t.Errorf("%s: %+v", area, r.Areas)
		}
	}
	if r.Ready || r.Level != DomainUnknown {
		t.Errorf("ready %v, level %s", r.Ready, r.Level)
	}
}

// stuckResolver does not honour its context.
type stuckResolver struct {
	*net.Resolver
	release chan struct{}
}

func (s stuckResolver) LookupTXT(context.Context, string) ([]string, error) {
	<-s.release
	return nil, nil
}

func (s stuckResolver) LookupCNAME(context.Context, string) (string, error) {
	<-s.release
	return "", nil
}

func (s stuckResolver) LookupMX(context.Context, string) ([]*net.MX, error) {
	<-s.release
	return nil, nil
}

func TestCheckDomainStuckResolver(t *testing.T) {
	t.Parallel()
	s := stuckResolver{release: make(chan struct{})}
	defer close(s.release)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	r, err := CheckDomain(ctx, "acme.test", DomainCheck{DKIMSelector: testSelector, Resolver: s})
	if err != nil || r.Level != DomainUnknown {
		t.Fatalf("%v, %v", r.Level, err)
	}
}

func TestCheckDomainCancelled(t *testing.T) {
	t.Parallel()
	s := dnstest.Start(t, zone())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r, err := CheckDomain(ctx, "acme.test", DomainCheck{Resolver: testClient(t, s)})
	if !errors.Is(err, context.Canceled) || r == nil {
		t.Fatalf("%v, %v", r, err)
	}
	if text := r.Text(); !strings.Contains(text, "the check was cancelled") || strings.Contains(text, "the time given for the check was up") {
		t.Errorf("does not say that it was cancelled:\n%s", text)
	}
}

// The alias is right although what it points to cannot be asked just now.
func TestCheckDomainReturnPathTargetFails(t *testing.T) {
	t.Parallel()
	s := dnstest.Start(t, zone())
	s.Fail("pm-bounces.acme.test", "TXT", dnstest.Fault{RCode: 2})
	r, err := CheckDomain(t.Context(), "acme.test", DomainCheck{DKIMSelector: testSelector, Resolver: testClient(t, s), CacheOnly: true})
	if err != nil || r.ReturnPath.State != "ok" || !r.Alignment.SPF.Aligned {
		t.Errorf("%v, %+v", err, r.ReturnPath)
	}
}

// Without a selector DKIM is unknown, and without a resolver that can ask a
// given server the report says that answers may be cached.
func TestCheckDomainLessGiven(t *testing.T) {
	t.Parallel()
	s := dnstest.Start(t, zone("-_dmarc.acme.test TXT", `_dmarc.acme.test TXT "v=DMARC1; p=reject; rua=mailto:d@reports.test"`, "reports.test MX 10 mx.reports.test"))
	s.Fail("acme.test._report._dmarc.reports.test", "TXT", dnstest.Fault{RCode: 2})
	r, err := CheckDomain(t.Context(), "acme.test", DomainCheck{Resolver: plainResolver{testClient(t, s)}})
	if err != nil {
		t.Fatal(err)
	}
	if f := finding(t, r, "dkim_no_selector"); f.Level != DomainUnknown || r.Ready {
		t.Errorf("%+v, ready %v", f, r.Ready)
	}
	finding(t, r, "zone_cache_only")
	finding(t, r, "dmarc_report_unasked")
	r, err = CheckDomain(t.Context(), "acme.test", DomainCheck{DKIMSelector: testSelector, Resolver: testClient(t, s)})
	if err != nil || !r.Ready {
		t.Errorf("a report host that is silent must not stop mail: %v\n%s", err, r.Text())
	}
}

// The standard resolver's methods alone give the same verdicts, short of what
// they hide.
type plainResolver struct{ Resolver }

func TestCheckDomainPlainResolver(t *testing.T) {
	t.Parallel()
	s := dnstest.Start(t, zone())
	r := checkZoneText(t, zone(), DomainCheck{Resolver: plainResolver{testClient(t, s)}, DKIMValue: testKey})
	if d := cmp.Diff([]string{"info dkim_rsa_1024"}, codes(r)); d != "" || !r.Ready {
		t.Errorf("ready %v\n%s", r.Ready, d)
	}
	broken := dnstest.Start(t, zone("-pm-bounces.acme.test CNAME", "-_dmarc.acme.test TXT"))
	r = checkZoneText(t, zone(), DomainCheck{Resolver: plainResolver{testClient(t, broken)}, DKIMValue: testKey})
	if d := cmp.Diff([]string{"info dkim_rsa_1024", "info returnpath_missing", "fail dmarc_missing"}, codes(r)); d != "" {
		t.Error(d)
	}
}

// Every name goes out with the root dot, so that a search list is never used.
type dotResolver struct {
	Resolver
	t *testing.T
}

func (d dotResolver) LookupTXT(ctx context.Context, name string) ([]string, error) {
	if !strings.HasSuffix(name, ".") {
		d.t.Errorf("TXT asked without root dot: %q", name)
	}
	return d.Resolver.LookupTXT(ctx, name)
}

func (d dotResolver) LookupIPAddr(ctx context.Context, name string) ([]net.IPAddr, error) {
	if !strings.HasSuffix(name, ".") {
		d.t.Errorf("address asked without root dot: %q", name)
	}
	return d.Resolver.LookupIPAddr(ctx, name)
}

func TestCheckDomainRootDot(t *testing.T) {
	t.Parallel()
	s := dnstest.Start(t, zone(`acme.test TXT "v=spf1 a mx include:spf.mtasv.net ~all"`))
	checkZoneText(t, zone(), DomainCheck{Resolver: dotResolver{testClient(t, s), t}})
}

// Each code is asked for by name in a test, or stands in a golden file.
func TestEveryCodeIsTested(t *testing.T) {
	t.Parallel()
	var all strings.Builder
	for _, pattern := range []string{"dns*_test.go", filepath.Join("testdata", "dnscheck", "*.golden")} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatal(pattern, err)
		}
		for _, f := range files {
			data, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			all.Write(data)
		}
	}
	text := all.String()
	for code := range findingCatalogue {
		if !regexp.MustCompile(`[" ]` + code + `[":]`).MatchString(text) {
			t.Errorf("no test asks for %s", code)
		}
	}
}

func TestCatalogue(t *testing.T) {
	t.Parallel()
	for code, e := range findingCatalogue {
		if e.level.rank() < 1 || e.area == "" {
			t.Errorf("%s: %+v", code, e)
		}
		if e.level != DomainUnknown && e.why == "" {
			t.Errorf("%s says not why", code)
		}
	}
}

func ExampleCheckDomain() {
	// Any *net.Resolver will do; this one answers from a map.
	resolver := mapResolver{
		"TXT 20231123163444pm._domainkey.acme.test.": {testKey},
		"CNAME pm-bounces.acme.test.":                {"pm.mtasv.net."},
		"TXT acme.test.":                             {"v=spf1 include:_spf.office.test -all"},
		"TXT _spf.office.test.":                      {"v=spf1 ip4:198.51.100.0/24 -all"},
		"TXT spf.mtasv.net.":                         {"v=spf1 ip4:203.0.113.0/25 -all"},
		"MX acme.test.":                              {"mail.acme.test."},
	}
	report, err := CheckDomain(context.Background(), "acme.test", DomainCheck{
		DKIMSelector: "20231123163444pm",
		Resolver:     resolver,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, area := range report.Areas {
		fmt.Printf("%s: %s\n", area.Name, area.Level)
	}
	for _, f := range report.Findings {
		if f.Level == DomainFail {
			fmt.Println(f.Code, f.Publish[0].Name, f.Publish[0].Type, f.Publish[0].Value)
		}
	}
	fmt.Println(report.SPF.Proposal)
	// Output:
	// DKIM: info
	// Return-Path: ok
	// SPF: info
	// DMARC: fail
	// Alignment: ok
	// Mail host: ok
	// Zone: info
	// dmarc_missing _dmarc.acme.test TXT v=DMARC1; p=none; rua=mailto:dmarc@acme.test; fo=1
	// v=spf1 include:_spf.office.test include:spf.mtasv.net -all
}

// mapResolver is a Resolver for examples: "TYPE name." to values.
type mapResolver map[string][]string

func (m mapResolver) get(typ, name string) ([]string, error) {
	if v := m[typ+" "+name]; len(v) > 0 {
		return v, nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
}

func (m mapResolver) LookupTXT(_ context.Context, name string) ([]string, error) {
	return m.get("TXT", name)
}

func (m mapResolver) LookupCNAME(_ context.Context, host string) (string, error) {
	v, err := m.get("CNAME", host)
	if err != nil {
		return "", err
	}
	return v[0], nil
}

func (m mapResolver) LookupMX(_ context.Context, name string) ([]*net.MX, error) {
	v, err := m.get("MX", name)
	if err != nil {
		return nil, err
	}
	return []*net.MX{{Host: v[0], Pref: 10}}, nil
}

func (m mapResolver) LookupIPAddr(_ context.Context, host string) ([]net.IPAddr, error) {
	v, err := m.get("A", host)
	if err != nil {
		return nil, err
	}
	return []net.IPAddr{{IP: net.ParseIP(v[0])}}, nil
}

func (m mapResolver) LookupNS(_ context.Context, name string) ([]*net.NS, error) {
	v, err := m.get("NS", name)
	if err != nil {
		return nil, err
	}
	return []*net.NS{{Host: v[0]}}, nil
}

func (m mapResolver) LookupAddr(_ context.Context, addr string) ([]string, error) {
	return m.get("PTR", addr)
}

// A resolver that does not honour its context holds nobody up past the time
// given for the check.
func TestCheckDomainTimeoutIsKept(t *testing.T) {
	t.Parallel()
	const limit = 200 * time.Millisecond
	for name, check := range map[string]func(c DomainCheck) []*DomainReport{
		"one": func(c DomainCheck) []*DomainReport {
			r, err := CheckDomain(t.Context(), "acme.test", c)
			if err != nil {
				t.Error(err)
			}
			return []*DomainReport{r}
		},
		"several": func(c DomainCheck) (out []*DomainReport) {
			for _, r := range CheckDomains(t.Context(), []string{"acme.test=s1", "other.test=s1"}, c) {
				out = append(out, r.Report)
			}
			return out
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := stuckResolver{release: make(chan struct{})}
			defer close(s.release)
			begin := time.Now()
			for _, r := range check(DomainCheck{DKIMSelector: testSelector, Resolver: s, Timeout: limit}) {
				if r.Level != DomainUnknown {
					t.Errorf("level %s", r.Level)
				}
			}
			if took := time.Since(begin); took > limit+500*time.Millisecond {
				t.Errorf("took %v of %v", took, limit)
			}
		})
	}
}
