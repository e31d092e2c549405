package fluxly

import (
	"errors"
	"strings"
	"testing"

	"github.com/getfluxly/fluxly/internal/dnsmsg/dnstest"
)

func TestCheckDomainNames(t *testing.T) {
	t.Parallel()
	s := dnstest.Start(t, zone())
	label := strings.Repeat("a", 49)
	octets253 := strings.Join([]string{label, label, label, label, label, "tst"}, ".")
	tests := []struct {
		in, want string // want "" is an error
	}{
		{"acme.test", "acme.test"},
		{"ACME.Test.", "acme.test"},
		{"bücher.test", "xn--bcher-kva.test"},
		{"xn--bcher-kva.test", "xn--bcher-kva.test"},
		{octets253, octets253},
		{"a" + octets253, ""},
		{strings.Repeat("a", 64) + ".test", ""},
		{"", ""},
		{".", ""},
		{"acme..test", ""},
		{"test", ""},
		{"acme .test", ""},
		{"192.0.2.1", ""},
		{"[2001:db8::1]", ""},
		{"2001:db8::1", ""},
		{"hello@acme.test", ""},
		{"https://acme.test/", ""},
		{"acme.test\n", ""},
		{"acme\x00.test", ""},
		{"\xd2.test", ""},
		// Full stops and digits of other scripts become plain ones.
		{"acme\u3002test", "acme.test"},
		{"acme.test\u3002", "acme.test"},
		{"acme\uff0etest\uff61", "acme.test"},
		{"b\u00fccher\uff61test\uff0e", "xn--bcher-kva.test"},
		{"acme\u3002\u3002test", ""},
		{"\uff0eacme.test", ""},
		{"acme.test\uff0e\uff61", ""},
		{"\u3002", ""},
		{"test\u3002", ""},
		{"\uff11\uff19\uff12.0.2.1", ""},
		{"192\u30020\u30022\u30021", ""},
		{"192.0.2.1\uff61", ""},
		{"a\uff20acme.test", ""},
		// A label neither begins nor ends with a hyphen; underscores may stand.
		{"-acme.test", ""},
		{"acme-.test", ""},
		{"sub.-acme.test", ""},
		{"ac-me.test", "ac-me.test"},
		{"_spf.acme.test", "_spf.acme.test"},
		{"xn--a-ecp\x7f.test", ""},
		{"xn--99999999999.test", ""},
		{"xn--.test", ""},
	}
	for _, tt := range tests {
		r, err := CheckDomain(t.Context(), tt.in, DomainCheck{Resolver: testClient(t, s), CacheOnly: true, ReturnPath: "pm-bounces.acme.test", DMARCReports: "dmarc@acme.test"})
		var fe *FieldError
		switch {
		case tt.want == "":
			if !errors.Is(err, ErrInvalid) || !errors.As(err, &fe) || fe.Field != "domain" || r != nil {
				t.Errorf("CheckDomain(%q) = %v, %v", tt.in, r, err)
			}
		case err != nil || r.Domain != tt.want:
			t.Errorf("CheckDomain(%q) = %v, %v; want %s", tt.in, r, err, tt.want)
		}
	}
	for _, c := range []DomainCheck{
		{DKIMSelector: "a b"},
		{DKIMSelector: "s", DKIMValue: "v=spf1 -all"},
		{DKIMSelector: "s", DKIMValue: "k=rsa; p="},
		{DKIMSelector: "s", DKIMValue: testKey[:len(testKey)-100]},
		{Postmark: PostmarkDomain{DKIMHost: "s._domainkey.acme.test", DKIMTextValue: testKey[:100]}},
		{Postmark: PostmarkDomain{DKIMPendingHost: "s._domainkey.acme.test", DKIMPendingTextValue: "k=rsa; p="}},
		{DKIMSelector: "s.acme.test"},
		{DKIMSelector: "acme.test"},
		{ReturnPath: "_dmarc.acme.test"},
		{ReturnPath: "a._domainkey.acme.test"},
		{Postmark: PostmarkDomain{ReturnPathDomain: "_dmarc.acme.test"}},
		{ReturnPath: "x"},
		{SPFInclude: "no spaces.test"},
		{DMARCReports: "nobody"},
		{DMARCReports: "a@b.test,mailto:c@d.test"},
		{DMARCReports: "100%@acme.test"},
		{DMARCReports: "a%zz@acme.test"},
		{DMARCReports: "a%2@acme.test"},
		{Profiles: []DomainProfile{"nonsense"}},
		{Postmark: PostmarkDomain{Name: "no name"}},
		{Postmark: PostmarkDomain{Name: "other.test", ReturnPathDomain: "pm-bounces.other.test"}},
		{Postmark: PostmarkDomain{ReturnPathDomain: "a.acme.test"}, ReturnPath: "b.acme.test"},
		{Postmark: PostmarkDomain{ReturnPathDomainCNAMEValue: "a.mtasv.net"}, ReturnPathTarget: "b.mtasv.net"},
	} {
		if _, err := CheckDomain(t.Context(), "acme.test", c); !errors.Is(err, ErrInvalid) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	for _, c := range []DomainCheck{
		{DMARCReports: "a%25b@acme.test"},
		{DKIMSelector: "s._domainkey.m\u00fcnchen.test", ReturnPath: "pm_bounces.m\u00fcnchen.test"},
		{DKIMSelector: "s.t"},
		{
			Postmark:   PostmarkDomain{Name: "ACME.test.", ReturnPathDomain: "a.acme.test", ReturnPathDomainCNAMEValue: "A.mtasv.net"},
			ReturnPath: "A.acme.test.", ReturnPathTarget: "a.mtasv.net",
		},
	} {
		c.Resolver, c.CacheOnly = testClient(t, s), true
		if _, err := CheckDomain(t.Context(), "acme.test", c); err != nil {
			t.Error(err)
		}
	}
	var fe *FieldError
	long := strings.TrimSuffix(octets253[10:], ".")
	if _, err := CheckDomain(t.Context(), long, DomainCheck{}); !errors.As(err, &fe) || fe.Field != "ReturnPath" || !strings.Contains(err.Error(), "must be given") {
		t.Error(err)
	}
	if _, err := CheckDomain(t.Context(), "acme.test", DomainCheck{DKIMSelector: "s", DKIMValue: "garbage"}); !errors.As(err, &fe) || fe.Field != "DKIMValue" {
		t.Error(err)
	}
}
