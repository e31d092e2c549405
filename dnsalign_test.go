package fluxly

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/getfluxly/fluxly/internal/dnsmsg/dnstest"
)

// How DKIM and SPF count as Postmark sends, in each mode of the policy: the
// signature is made for the domain of the key, the envelope sender is at the
// Return-Path alias or at Postmark's own name.
func TestAlignmentModes(t *testing.T) {
	t.Parallel()
	const above = testSelector + "._domainkey.acme.test"
	const own = testSelector + "._domainkey.news.acme.test"
	const stranger = testSelector + "._domainkey.other.test"
	tests := []struct {
		name       string
		modes      string
		key        string
		returnPath string // "" is pm-bounces below the domain
		alias      bool
		dkim, spf  bool
	}{
		{"relaxed, key of the domain", "", own, "", true, true, true},
		{"relaxed, key of the domain above", "", above, "", true, true, true},
		{"relaxed, key of a stranger", "", stranger, "", true, false, true},
		{"relaxed, alias below the domain above", "", own, "pm-bounces.acme.test", true, true, true},
		{"relaxed, alias of a stranger", "", own, "pm-bounces.other.test", true, true, false},
		{"relaxed, no alias", "", own, "", false, true, false},
		{"strict DKIM, key of the domain", "; adkim=s", own, "", true, true, true},
		{"strict DKIM, key of the domain above", "; adkim=s", above, "", true, false, true},
		{"strict SPF, alias", "; aspf=s", own, "", true, true, false},
		{"strict SPF, alias is the domain itself", "; aspf=s", own, "news.acme.test", true, true, true},
		{"strict both, key of the domain above", "; adkim=s; aspf=s", above, "", true, false, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			host := firstText(tt.returnPath, "pm-bounces.news.acme.test")
			zoneText := "_dmarc.acme.test TXT \"v=DMARC1; p=reject; rua=mailto:d@acme.test" + tt.modes + "\"\n" +
				"pm.mtasv.net TXT \"v=spf1 ip4:203.0.113.0/25 -all\"\nacme.test MX 10 mail.acme.test\n" + tt.key + " TXT \"" + testKey + "\"\n"
			if tt.alias {
				zoneText += host + " CNAME pm.mtasv.net\n"
			}
			s := dnstest.Start(t, zoneText)
			r, err := CheckDomain(t.Context(), "news.acme.test", DomainCheck{DKIMSelector: tt.key, ReturnPath: host, Resolver: testClient(t, s), CacheOnly: true})
			if err != nil {
				t.Fatal(err)
			}
			a := r.Alignment
			if a.DKIM.Aligned != tt.dkim || a.SPF.Aligned != tt.spf || a.DKIM.Reason == "" || a.SPF.Reason == "" {
				t.Errorf("DKIM %+v, SPF %+v; want %v, %v", a.DKIM, a.SPF, tt.dkim, tt.spf)
			}
			if r.Ready != tt.dkim {
				t.Errorf("ready %v", r.Ready)
			}
		})
	}
}

// The standard resolver gives the end of a chain of aliases, so the ends are
// compared. Where that of Postmark's own name cannot be asked for, nothing is
// said about the alias.
func TestReturnPathUncompared(t *testing.T) {
	t.Parallel()
	const target = "pm.mtasv.net"
	moved := zone("-"+target+" TXT", "-"+target+" A", target+" CNAME end.mtasv.net", "-pm-bounces.acme.test CNAME", "pm-bounces.acme.test CNAME end.mtasv.net", "end.mtasv.net A 203.0.113.5")
	tests := []struct {
		name  string
		zone  string
		fault dnstest.Fault
		state string
		want  []string
	}{
		{"the same end", moved, dnstest.Fault{}, "ok", []string{}},
		{"could not be compared", moved, dnstest.Fault{RCode: 2}, "unknown", []string{"unknown returnpath_unasked"}},
		{"another end", zone("-pm-bounces.acme.test CNAME", "pm-bounces.acme.test CNAME x.host.test"), dnstest.Fault{}, "wrong", []string{"info returnpath_wrong_target"}},
		{"points there as it should", zone(), dnstest.Fault{RCode: 2}, "ok", []string{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := dnstest.Start(t, tt.zone)
			if tt.fault != (dnstest.Fault{}) {
				s.Fail(target, "*", tt.fault)
			}
			r, err := CheckDomain(t.Context(), "acme.test", DomainCheck{DKIMSelector: testSelector, Resolver: plainResolver{testClient(t, s)}})
			if err != nil {
				t.Fatal(err)
			}
			got := []string{}
			for _, f := range r.Findings {
				if f.Area == "Return-Path" {
					got = append(got, string(f.Level)+" "+f.Code)
				}
			}
			if d := cmp.Diff(tt.want, got); d != "" || r.ReturnPath.State != tt.state || !r.Ready {
				t.Errorf("state %s, ready %v (-want +got):\n%s", r.ReturnPath.State, r.Ready, d)
			}
		})
	}
}
