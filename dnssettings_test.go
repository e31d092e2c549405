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
	if _, err := CheckDomain(t.Context(), "acme.test", DomainCheck{DKIMSelector: "s", DKIMValue: "garbage"}); !errors.As(err, &fe) || fe.Field != "DKIMValue" {
		t.Error(err)
	}
}

// The name of a record of an internationalised domain has both an underscore and
// letters beyond ASCII.
func TestInternationalRecordNames(t *testing.T) {
	t.Parallel()
	const ascii = "xn--mnchen-3ya.test"
	s := dnstest.Start(t, strings.ReplaceAll(zone(), "acme.test", ascii))
	const host = testSelector + "._domainkey." + ascii
	for _, c := range []DomainCheck{
		{DKIMSelector: testSelector + "._domainkey.m\u00fcnchen.test"},
		{DKIMSelector: testSelector + "._DomainKey.M\u00fcnchen.test."},
		{DKIMSelector: testSelector + "\uff0e_domainkey\u3002m\u00fcnchen\uff0etest\uff61"},
		{DKIMSelector: host},
		{Postmark: PostmarkDomain{Name: "m\u00fcnchen.test", DKIMHost: testSelector + "._domainkey.m\u00fcnchen.test", ReturnPathDomain: "pm-bounces.m\u00fcnchen.test"}},
		{DKIMSelector: testSelector, ReturnPath: "pm-bounces.m\u00fcnchen.test"},
	} {
		c.Resolver, c.CacheOnly = testClient(t, s), true
		r, err := CheckDomain(t.Context(), "m\u00fcnchen.test", c)
		if err != nil {
			t.Error(err)
			continue
		}
		if d := r.DKIM[0]; d.Host != host || d.Domain != ascii || d.Selector != testSelector || !r.Ready || !r.Alignment.SPF.Aligned {
			t.Errorf("%+v: %+v\n%s", c, d, r.Text())
		}
	}
	for in, want := range map[string]string{
		"pm_bounces.m\u00fcnchen.test": "pm_bounces." + ascii,
		"_m\u00fcnchen.test":           "",
		"_a.\uff20.test":               "",
		"_a.\u0080.test":               "",
		"_a.m\u00fcnchen..test":        "",
	} {
		if got, err := domainName("x", in); got != want || (err == nil) != (want != "") {
			t.Errorf("%q is %q, %v", in, got, err)
		}
	}
}

// A host without ._domainkey is no selector, although one may have dots.
func TestSelectorIsNoHost(t *testing.T) {
	t.Parallel()
	s := dnstest.Start(t, zone())
	for _, tt := range []struct {
		domain, selector string
		ok               bool
	}{
		{"acme.test", "s1.acme.test", false},
		{"acme.test", "S1.Acme.Test.", false},
		{"acme.test", "acme.test", false},
		{"acme.test", "_domainkey.acme.test", false},
		{"news.acme.test", "s1.acme.test", false},
		{"news.acme.test", "s1.news.acme.test", false},
		{"acme.test", "s1.eu", true},
		{"acme.test", "s1.other.test", true},
		{"acme.test", "s1.acme", true},
		{"acme.test", "s1", true},
		{"acme.test", "s1._domainkey", true},
		{"acme.test", "s1._domainkey.acme.test", true},
		{"acme.test", "s1.acme.test._domainkey.acme.test", true},
	} {
		_, err := CheckDomain(t.Context(), tt.domain, DomainCheck{DKIMSelector: tt.selector, Resolver: testClient(t, s), CacheOnly: true})
		var fe *FieldError
		if tt.ok && err != nil || !tt.ok && (!errors.As(err, &fe) || fe.Field != "DKIMSelector" || !strings.Contains(fe.Reason, "._domainkey."+tt.domain)) {
			t.Errorf("%s of %s: %v", tt.selector, tt.domain, err)
		}
	}
}

// A host that is both the revoked one and one in use has a live key.
func TestRevokedHostInUse(t *testing.T) {
	t.Parallel()
	const live, old = testSelector + "._domainkey.acme.test", "s0._domainkey.acme.test"
	for _, tt := range []struct {
		name   string
		p      PostmarkDomain
		remove bool
	}{
		{"another host", PostmarkDomain{DKIMHost: live, DKIMRevokedHost: old}, true},
		{"the current one", PostmarkDomain{DKIMHost: live, DKIMRevokedHost: live}, false},
		{"the current one, written otherwise", PostmarkDomain{DKIMHost: live, DKIMRevokedHost: strings.ToUpper(live) + "."}, false},
		{"the pending one", PostmarkDomain{DKIMHost: old, DKIMPendingHost: live, DKIMRevokedHost: live}, false},
		{"only the pending one", PostmarkDomain{DKIMPendingHost: live, DKIMRevokedHost: live}, false},
	} {
		tt.p.SafeToRemoveRevokedKeyFromDNS = true
		r := checkZoneText(t, zone(old+" TXT"+quoted("k=rsa; p="+spki(2048))), DomainCheck{Postmark: tt.p})
		if got := strings.Contains(r.Text(), "Delete the TXT record"); got != tt.remove || !r.Ready {
			t.Errorf("%s: ready %v\n%s", tt.name, r.Ready, r.Text())
		}
	}
}

// The default Return-Path of a long domain cannot exist, and the error names what
// was given: the domain.
func TestLongDomain(t *testing.T) {
	t.Parallel()
	s := dnstest.Start(t, zone())
	for octets := 240; octets <= 253; octets++ {
		label := strings.Repeat("a", 59) + "."
		domain := strings.Repeat(label, 3) + strings.Repeat("b", (octets-180-5)/2) + "." + strings.Repeat("c", (octets-180-5+1)/2-1) + ".test"
		if len(domain) != octets {
			t.Fatal(len(domain), octets)
		}
		short := domain[strings.Index(domain, ".")+1:]
		for _, c := range []DomainCheck{{}, {ReturnPath: "b." + short}, {Postmark: PostmarkDomain{ReturnPathDomain: "b." + short}}} {
			given := c.ReturnPath + c.Postmark.ReturnPathDomain
			c.Resolver, c.CacheOnly = testClient(t, s), true
			r, err := CheckDomain(t.Context(), domain, c)
			var fe *FieldError
			switch {
			case given == "" && octets > 242:
				if !errors.As(err, &fe) || fe.Field != "domain" {
					t.Errorf("%d: %v", octets, err)
				}
			case err != nil:
				t.Errorf("%d, %q: %v", octets, given, err)
			case given != "" && r.ReturnPath.Host != given:
				t.Errorf("%d: %+v", octets, r.ReturnPath)
			}
		}
	}
}

// A value that is no sound key itself is refused: else a sound key would be called
// wrong, and the report would have it replaced.
func TestGivenKeyIsSound(t *testing.T) {
	t.Parallel()
	s := dnstest.Start(t, zone())
	const host = testSelector + "._domainkey.acme.test"
	for _, tt := range []struct{ value, why string }{
		{testKey[:100], "is not a sound DKIM key: The p= value"},
		{testKey[:101], "is not a sound DKIM key: The p= value"},
		{"k=rsa; p=", "an empty p="},
		{"k=rsa", "is not a DKIM key"},
		{"garbage", "is not a DKIM key"},
		{"k=rsa; p=AAAA", "no RSA public key"},
		{"k=dsa; p=AAAA", "k=dsa is unknown"},
		{"k=ed25519; p=AAAA", "3 bytes"},
		{`"` + testKey + `"`, "quotation marks"},
		{"v=DKIM2; " + testKey, "v=DKIM2"},
		{"h=sha1; " + testKey, "sha1"},
		{"k=rsa; p=" + spki(512), ""}, // the report speaks of it
		{testKey, ""},
		{"v=DKIM1; " + testKey, ""},
		{"k=rsa; p=" + spki(2048), ""},
		{"t=y; " + testKey, ""},
	} {
		for field, c := range map[string]DomainCheck{
			"DKIMValue":                     {DKIMSelector: testSelector, DKIMValue: tt.value},
			"Postmark.DKIMTextValue":        {Postmark: PostmarkDomain{DKIMHost: host, DKIMTextValue: tt.value}},
			"Postmark.DKIMPendingTextValue": {Postmark: PostmarkDomain{DKIMPendingHost: host, DKIMPendingTextValue: tt.value}},
		} {
			c.Resolver, c.CacheOnly = testClient(t, s), true
			_, err := CheckDomain(t.Context(), "acme.test", c)
			var fe *FieldError
			if tt.why == "" && err != nil || tt.why != "" && (!errors.As(err, &fe) || fe.Field != field || !strings.Contains(fe.Reason, tt.why)) {
				t.Errorf("%s %q: %v", field, tt.value, err)
			}
		}
	}
}

// An alias takes the place of all other records at its name, so it must not be
// asked for where a domain has others.
func TestReturnPathIsAHostOfItsOwn(t *testing.T) {
	t.Parallel()
	s := dnstest.Start(t, zone())
	for _, tt := range []struct {
		domain, host string
		ok           bool
	}{
		{"acme.test", "acme.test", false},
		{"acme.test", "ACME.test.", false},
		{"news.acme.test", "acme.test", false},
		{"a.news.acme.test", "news.acme.test", false},
		{"acme.test", "_dmarc.acme.test", false},
		{"acme.test", "s1._domainkey.acme.test", false},
		{"acme.test", "b._domainkey.acme.test", false},
		{"news.acme.test", "_dmarc.acme.test", false},
		{"acme.test", "pm-bounces.acme.test", true},
		{"acme.test", "a.b.acme.test", true},
		{"acme.test", "pm_bounces.acme.test", true},
		{"news.acme.test", "pm-bounces.news.acme.test", true},
		{"news.acme.test", "pm-bounces.acme.test", true},
		{"_spf.acme.test", "b._spf.acme.test", true},
	} {
		for field, c := range map[string]DomainCheck{
			"ReturnPath":                {ReturnPath: tt.host},
			"Postmark.ReturnPathDomain": {Postmark: PostmarkDomain{ReturnPathDomain: tt.host}},
		} {
			c.Resolver, c.CacheOnly = testClient(t, s), true
			_, err := CheckDomain(t.Context(), tt.domain, c)
			var fe *FieldError
			if tt.ok && err != nil || !tt.ok && (!errors.As(err, &fe) || fe.Field != field) {
				t.Errorf("%s of %s: %v", tt.host, tt.domain, err)
			}
		}
	}
	if _, err := CheckDomain(t.Context(), "_spf.acme.test", DomainCheck{Resolver: testClient(t, s), CacheOnly: true}); err != nil {
		t.Error(err)
	}
}
