package fluxly

import (
	"slices"
	"strings"
	"testing"

	"github.com/getfluxly/fluxly/internal/dnsmsg/dnstest"
)

// Nothing is proposed that would put an alias in place of the records of the
// domain, or of one above it; mail to the host of the alias is not lost unsaid.
func TestReturnPathHarmsNothing(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		domain, host, record string
		publish              bool
		want                 string
	}{
		{"acme.test", "acme.test", "", false, "Choose another host"},
		{"news.acme.test", "acme.test", "", false, "Choose another host"},
		{"news.acme.test", "pm-bounces.acme.test", "pm-bounces.acme.test A 192.0.2.80", true, "Delete the A record"},
		{"acme.test", "b.acme.test", "b.acme.test MX 10 mail.acme.test", true, "Mail to addresses at b.acme.test comes by its MX record today"},
	} {
		s := dnstest.Start(t, zone("-pm-bounces.acme.test CNAME")+"\n"+tt.record)
		r, err := CheckDomain(t.Context(), tt.domain, DomainCheck{ReturnPath: tt.host, Resolver: testClient(t, s), CacheOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(r.Findings, func(f DomainFinding) bool { return f.Area == "Return-Path" })
		if i < 0 || len(r.Findings[i].Publish) > 0 != tt.publish || !strings.Contains(r.Findings[i].Fix, tt.want) {
			t.Errorf("%s with %s:\n%s", tt.domain, tt.host, r.Text())
		}
	}
}

// What stands at the doubled name is proposed when it is a sound key.
func TestDKIMDoubledHostSound(t *testing.T) {
	t.Parallel()
	key := testSelector + "._domainkey.acme.test"
	sound := "k=rsa; p=" + spki(2048)
	for want, texts := range map[string][]string{
		sound:                         {sound},
		"k=rsa; p=" + spki(2048) + "": {"k=rsa; p=", sound},
		"":                            {"k=rsa; p="},
		testKey:                       {`"` + testKey + `"`},
	} {
		lines := []string{"-" + key + " TXT"}
		for _, text := range texts {
			lines = append(lines, key+".acme.test TXT"+quoted(text))
		}
		f := finding(t, checkZoneText(t, zone(lines...), DomainCheck{}), "dkim_doubled_host")
		got := ""
		for _, p := range f.Publish {
			got = p.Value
		}
		if got != want || want == "" && !strings.Contains(f.Fix, "copy the value anew") {
			t.Errorf("%.60q: %.60q, want %.60q: %s", texts, got, want, f.Fix)
		}
	}
	for _, text := range []string{"k=rsa; p=AAAA", "k=rsa; p=" + spki(512)} {
		if f := finding(t, checkZoneText(t, zone("-"+key+" TXT", key+".acme.test TXT"+quoted(text)), DomainCheck{}), "dkim_doubled_host"); len(f.Publish) > 0 {
			t.Errorf("%.60q: %v", text, f.Publish)
		}
	}
}

// A domain that calls itself a public suffix is another organisation than each
// name below it (RFC 9989 section 4.10.2).
func TestDMARCPublicSuffixOfOwn(t *testing.T) {
	t.Parallel()
	text := zone("-_dmarc.acme.test TXT", `_dmarc.acme.test TXT "v=DMARC1; p=none; psd=y; rua=mailto:dmarc@acme.test"`, "s1._domainkey.mail.acme.test TXT"+quoted(testKey))
	r := checkZoneText(t, text, DomainCheck{DKIMSelector: "s1._domainkey.mail.acme.test"})
	if finding(t, r, "dmarc_psd"); r.Alignment.SPF.Aligned || r.Alignment.DKIM.Aligned || r.Ready {
		t.Errorf("%+v\n%s", r.Alignment, r.Text())
	}
	if r = checkZoneText(t, text, DomainCheck{}); !r.Alignment.DKIM.Aligned || !r.Ready {
		t.Errorf("a key of the domain itself aligns all the same: %+v", r.Alignment)
	}
}

// Reports to another organisation need its permission, which is said where they
// are proposed; no permission is proposed at a name that cannot exist.
func TestDMARCForeignReports(t *testing.T) {
	t.Parallel()
	r := checkZoneText(t, zone("-_dmarc.acme.test TXT"), DomainCheck{DMARCReports: "x@other.test"})
	if f := finding(t, r, "dmarc_missing"); !strings.Contains(f.Fix, "acme.test._report._dmarc.other.test") {
		t.Error(f.Fix)
	}
	r = checkZoneText(t, zone("-_dmarc.acme.test TXT"), DomainCheck{DMARCReports: "x@in.acme.test"})
	if f := finding(t, r, "dmarc_missing"); strings.Contains(f.Fix, "_report") {
		t.Error(f.Fix)
	}
	host := strings.Repeat("a123456789.", 22) + "test"
	r = checkZoneText(t, zone("-_dmarc.acme.test TXT", "_dmarc.acme.test TXT"+quoted("v=DMARC1; p=none; rua=mailto:a@"+host)), DomainCheck{})
	if f := finding(t, r, "dmarc_report_unauthorised"); len(f.Publish) > 0 || !strings.Contains(f.Fix, "too long") {
		t.Errorf("%q, %v", f.Fix, f.Publish)
	}
}

// The host of a key that is in use is none to be cleaned up.
func TestDKIMRevokedHostInUse(t *testing.T) {
	t.Parallel()
	host := testSelector + "._domainkey.acme.test"
	for _, p := range []PostmarkDomain{
		{DKIMHost: host, DKIMTextValue: testKey, DKIMRevokedHost: strings.ToUpper(host) + ".", SafeToRemoveRevokedKeyFromDNS: true},
		{DKIMPendingHost: host, DKIMPendingTextValue: testKey, DKIMRevokedHost: host, SafeToRemoveRevokedKeyFromDNS: true},
	} {
		if r := checkZoneText(t, zone(), DomainCheck{Postmark: p}); slices.Contains(codes(r), "info dkim_remove_revoked") || !r.Ready {
			t.Errorf("%v", codes(r))
		}
	}
}
