package fluxly

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/getfluxly/fluxly/internal/dnsmsg/dnstest"
)

// Without a selector nothing is known of DKIM, which bulk senders need.
func TestDomainProfileBulkNoSelector(t *testing.T) {
	t.Parallel()
	s := dnstest.Start(t, zone())
	r, err := CheckDomain(t.Context(), "acme.test", DomainCheck{Resolver: testClient(t, s), CacheOnly: true, Profiles: []DomainProfile{BulkSender}})
	if err != nil {
		t.Fatal(err)
	}
	if f := finding(t, r, "bulk_unknown"); f.Summary != "Whether there is a sound DKIM key could not be told." {
		t.Errorf("%+v", f)
	}
}

// What a subdomain has from the domain above it: the logo, and the signatures
// of the zone.
func TestDomainProfileSubdomain(t *testing.T) {
	t.Parallel()
	const logo = `default._bimi.acme.test TXT "v=BIMI1; l=https://acme.test/logo.svg"`
	for _, tt := range []struct {
		name    string
		profile DomainProfile
		lines   []string
		fail    string // name that gets SERVFAIL
		want    []string
	}{
		{"the logo above", BIMI, []string{logo}, "", []string{}},
		{"no logo", BIMI, nil, "", []string{"info bimi_missing"}},
		{"the logo above not to be asked", BIMI, []string{logo}, "default._bimi.acme.test", []string{"unknown bimi_unasked"}},
		{"a logo of its own", BIMI, []string{logo, `default._bimi.sub.acme.test TXT "v=BIMI1; l=http://acme.test/logo.svg"`}, "", []string{"info bimi_syntax"}},
		{"the organisation not known", BIMI, []string{logo}, "_dmarc.acme.test", []string{"unknown bimi_unasked", "unknown bimi_unasked"}},
		{"a signed zone", DNSSEC, []string{"acme.test DS x"}, "", []string{}},
		{"an unsigned zone", DNSSEC, nil, "", []string{"info dnssec_unsigned"}},
		{"an unsigned zone of its own", DNSSEC, []string{"acme.test DS x", "sub.acme.test NS ns1.acme.test"}, "", []string{"info dnssec_unsigned"}},
		{"the zone not to be asked for", DNSSEC, []string{"acme.test DS x"}, "acme.test", []string{"unknown dnssec_unasked"}},
		{"no zone", DNSSEC, []string{"-acme.test NS"}, "", []string{"unknown dnssec_unasked"}},
	} {
		for _, cacheOnly := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, cache only %v", tt.name, cacheOnly), func(t *testing.T) {
				t.Parallel()
				s := dnstest.Start(t, zone(append([]string{"sub.acme.test A 192.0.2.7"}, tt.lines...)...))
				if tt.fail != "" {
					s.Fail(tt.fail, "*", dnstest.Fault{RCode: 2})
				}
				r, err := CheckDomain(t.Context(), "sub.acme.test", DomainCheck{DKIMSelector: testSelector + "._domainkey.acme.test", Resolver: testClient(t, s), CacheOnly: cacheOnly, Profiles: []DomainProfile{tt.profile}})
				if err != nil {
					t.Fatal(err)
				}
				got := []string{}
				for _, f := range r.Findings {
					if f.Area == string(tt.profile) {
						got = append(got, string(f.Level)+" "+f.Code)
						if f.Code == "dnssec_unsigned" && strings.Contains(f.Summary, "sub.") != strings.Contains(tt.name, "its own") {
							t.Error(f.Summary)
						}
					}
				}
				if d := cmp.Diff(tt.want, got); d != "" {
					t.Errorf("(-want +got):\n%s\n%s", d, r.Text())
				}
			})
		}
	}
}

func TestDomainProfiles(t *testing.T) {
	t.Parallel()
	dkim := testSelector + "._domainkey.acme.test"
	tests := []struct {
		name    string
		profile DomainProfile
		zone    string
		fail    string // name that gets SERVFAIL
		want    []string
	}{
		{"postmark, all there", PostmarkSender, zone(), "", []string{}},
		{"postmark, nothing there", PostmarkSender, zone("-"+dkim+" TXT", "-_dmarc.acme.test TXT", "-pm-bounces.acme.test CNAME"), "", []string{"fail postmark_dkim", "warn postmark_dmarc", "info postmark_return_path"}},
		{"postmark, key not to be asked", PostmarkSender, zone(), dkim, []string{"unknown postmark_unknown"}},
		{"postmark, alias not to be asked", PostmarkSender, zone(), "pm-bounces.acme.test", []string{"unknown postmark_unknown"}},
		{"bulk, all there", BulkSender, zone(), "", []string{}},
		{"bulk, nothing there", BulkSender, zone("-"+dkim+" TXT", "-_dmarc.acme.test TXT", "-pm-bounces.acme.test CNAME"), "", []string{"fail bulk_alignment", "fail bulk_dkim", "fail bulk_dmarc"}},
		{"bulk, no key, SPF aligns", BulkSender, zone("-" + dkim + " TXT"), "", []string{"fail bulk_dkim"}},
		{"bulk, the key revoked", BulkSender, zone(dkim + ` TXT "k=rsa; p="`), "", []string{"fail bulk_dkim"}},
		{"bulk, the key a test", BulkSender, zone(dkim + ` TXT "t=y; ` + testKey + `"`), "", []string{"fail bulk_dkim"}},
		{"bulk, key not to be asked", BulkSender, zone(), dkim, []string{"unknown bulk_unknown"}},
		{"bulk, SPF not to be asked", BulkSender, zone(), "acme.test", []string{"unknown bulk_unknown"}},
		{"bulk, include not to be asked", BulkSender, zone(), "_spf.office.test", []string{"unknown bulk_unknown"}},
		{"bulk, two SPF", BulkSender, zone(`acme.test TXT "v=spf1 -all"`, `acme.test TXT "v=spf1 ~all"`), "", []string{"fail bulk_spf"}},
		{"bulk, DMARC not to be asked", BulkSender, zone(), "_dmarc.acme.test", []string{"unknown bulk_unknown"}},
		{"bimi, none", BIMI, zone(), "", []string{"info bimi_missing"}},
		{"bimi, sound", BIMI, zone(`default._bimi.acme.test TXT "v=BIMI1; l=https://acme.test/logo.svg; a="`), "", []string{}},
		{"bimi, http and weak policy", BIMI, zone(`default._bimi.acme.test TXT "v=BIMI1; l=http://acme.test/logo.svg"`, `_dmarc.acme.test TXT "v=DMARC1; p=none; rua=mailto:d@acme.test"`), "", []string{"info bimi_policy", "info bimi_syntax"}},
		{"bimi, subdomains open", BIMI, zone(`default._bimi.acme.test TXT "v=BIMI1; l="`, `_dmarc.acme.test TXT "v=DMARC1; p=reject; sp=none; rua=mailto:d@acme.test"`), "", []string{"info bimi_policy"}},
		{"bimi, DMARC not to be asked", BIMI, zone(`default._bimi.acme.test TXT "v=BIMI1; l="`), "_dmarc.acme.test", []string{"unknown bimi_unasked"}},
		{"bimi, no DMARC", BIMI, zone(`default._bimi.acme.test TXT "v=BIMI1; l="`, "-_dmarc.acme.test TXT"), "", []string{"info bimi_policy"}},
		{"bimi, quarantine of a part", BIMI, zone(`default._bimi.acme.test TXT "v=BIMI1; l="`, `_dmarc.acme.test TXT "v=DMARC1; p=quarantine; pct=10; rua=mailto:d@acme.test"`), "", []string{"info bimi_policy"}},
		{"bimi, quarantine of all", BIMI, zone(`default._bimi.acme.test TXT "v=BIMI1; l="`, `_dmarc.acme.test TXT "v=DMARC1; p=quarantine; pct=100; rua=mailto:d@acme.test"`), "", []string{}},
		{"bimi, a trial", BIMI, zone(`default._bimi.acme.test TXT "v=BIMI1; l="`, `_dmarc.acme.test TXT "v=DMARC1; p=reject; t=y; rua=mailto:d@acme.test"`), "", []string{"info bimi_policy"}},
		{"mta-sts, none", MTASTS, zone(), "", []string{"info mtasts_missing"}},
		{"mta-sts, sound", MTASTS, zone(`_mta-sts.acme.test TXT "v=STSv1; id=20260101T000000;"`), "", []string{}},
		{"mta-sts, bad id", MTASTS, zone(`_mta-sts.acme.test TXT "v=STSv1; id=2026-01"`), "", []string{"info mtasts_syntax"}},
		{"mta-sts, two", MTASTS, zone(`_mta-sts.acme.test TXT "v=STSv1; id=1"`, `_mta-sts.acme.test TXT "v=STSv1; id=2"`), "", []string{"info mtasts_multiple"}},
		{"mta-sts, not to be asked", MTASTS, zone(), "_mta-sts.acme.test", []string{"unknown mtasts_unasked"}},
		{"tls-rpt, sound", TLSRPT, zone(`_smtp._tls.acme.test TXT "v=TLSRPTv1; rua=mailto:tls@acme.test,https://acme.test/tls"`), "", []string{}},
		{"tls-rpt, bad", TLSRPT, zone(`_smtp._tls.acme.test TXT "v=TLSRPTv1; rua=tls@acme.test"`), "", []string{"info tlsrpt_syntax"}},
		{"bimi, two", BIMI, zone(`default._bimi.acme.test TXT "v=BIMI1; l="`, `default._bimi.acme.test TXT "v=BIMI1; l=; a="`), "", []string{"info bimi_multiple"}},
		{"bimi, not to be asked", BIMI, zone(), "default._bimi.acme.test", []string{"unknown bimi_unasked"}},
		{"tls-rpt, none", TLSRPT, zone(), "", []string{"info tlsrpt_missing"}},
		{"tls-rpt, two", TLSRPT, zone(`_smtp._tls.acme.test TXT "v=TLSRPTv1; rua=mailto:a@acme.test"`, `_smtp._tls.acme.test TXT "v=TLSRPTv1; rua=mailto:b@acme.test"`), "", []string{"info tlsrpt_multiple"}},
		{"tls-rpt, not to be asked", TLSRPT, zone(), "_smtp._tls.acme.test", []string{"unknown tlsrpt_unasked"}},
		{"dnssec, unsigned", DNSSEC, zone(), "", []string{"info dnssec_unsigned"}},
		{"dnssec, not to be asked", DNSSEC, zone(), "acme.test", []string{"unknown dnssec_unasked"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := dnstest.Start(t, tt.zone)
			if tt.fail != "" {
				s.Fail(tt.fail, "*", dnstest.Fault{RCode: 2})
			}
			r, err := CheckDomain(t.Context(), "acme.test", DomainCheck{DKIMSelector: testSelector, Resolver: testClient(t, s), CacheOnly: true, Profiles: []DomainProfile{tt.profile}})
			if err != nil {
				t.Fatal(err)
			}
			got := []string{}
			for _, f := range r.Findings {
				if f.Area == string(tt.profile) {
					got = append(got, string(f.Level)+" "+f.Code)
				}
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
			if !slices.ContainsFunc(r.Areas, func(a DomainArea) bool { return a.Name == string(tt.profile) }) {
				t.Errorf("no area %s", tt.profile)
			}
		})
	}
}
