package fluxly

import (
	"slices"
	"strings"
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

// Postmark signs with the current key until it has seen the new one. A new key
// that is sound does not make up for a current one that is not.
func TestRotationDecides(t *testing.T) {
	t.Parallel()
	const current, pending = testSelector + "._domainkey.acme.test", "20260101000000pm._domainkey.acme.test"
	const sound, revoked, fault = `"` + testKey + `"`, `"k=rsa; p="`, `"k=rsa; p=%%%"`
	const unasked = "unasked"
	tests := []struct {
		name             string
		current, pending string // "" is not published
		ready            bool
	}{
		{"both sound", sound, sound, true},
		{"pending missing", sound, "", true},
		{"current missing", "", sound, false},
		{"current revoked", revoked, sound, false},
		{"current broken", fault, sound, false},
		{"current could not be asked", unasked, sound, false},
		{"pending could not be asked", sound, unasked, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			lines := []string{"-" + current + " TXT"}
			for host, v := range map[string]string{current: tt.current, pending: tt.pending} {
				if v != "" && v != unasked {
					lines = append(lines, host+" TXT "+v)
				}
			}
			s := dnstest.Start(t, zone(lines...))
			for host, v := range map[string]string{current: tt.current, pending: tt.pending} {
				if v == unasked {
					s.Fail(host, "*", dnstest.Fault{RCode: 2})
				}
			}
			r, err := CheckDomain(t.Context(), "acme.test", DomainCheck{
				Resolver: testClient(t, s), CacheOnly: true, Profiles: []DomainProfile{PostmarkSender},
				Postmark: PostmarkDomain{DKIMHost: current, DKIMTextValue: testKey, DKIMPendingHost: pending, DKIMPendingTextValue: testKey},
			})
			if err != nil {
				t.Fatal(err)
			}
			if r.Ready != tt.ready || r.Alignment.DKIM.Aligned != tt.ready {
				t.Errorf("ready %v, %+v\n%s", r.Ready, r.Alignment.DKIM, r.Text())
			}
			if tt.current == unasked && slices.ContainsFunc(r.Findings, func(f DomainFinding) bool { return f.Level == DomainFail || f.Code == "align_dkim" }) {
				t.Errorf("a key that could not be asked for is called wrong:\n%s", r.Text())
			}
		})
	}
}

// Without an answer about DMARC the organisational domain is not known, so it is
// not said that a key or an alias above the domain does not belong to it.
func TestAlignmentUnknownOrganization(t *testing.T) {
	t.Parallel()
	const above = testSelector + "._domainkey.acme.test"
	const dmarc = `_dmarc.acme.test TXT "v=DMARC1; p=reject; rua=mailto:d@acme.test"`
	tests := []struct {
		name       string
		key        string
		returnPath string
		silent     string // what is not answered
		lines      []string
		want       []string // codes of Alignment
		bulk       string   // code of the profile, "" for none
	}{
		{"all answered", above, "pm-bounces.acme.test", "", []string{dmarc}, nil, ""},
		{"own record not answered", above, "pm-bounces.acme.test", "_dmarc.news.acme.test", []string{dmarc}, nil, "bulk_unknown"},
		{"record above not answered", above, "pm-bounces.acme.test", "_dmarc.acme.test", nil, nil, "bulk_unknown"},
		{"record above not answered, one of its own", above, "pm-bounces.acme.test", "_dmarc.acme.test", []string{strings.Replace(dmarc, "_dmarc.", "_dmarc.news.", 1)}, nil, "bulk_unknown"},
		{"key of the domain itself", testSelector + "._domainkey.news.acme.test", "pm-bounces.news.acme.test", "_dmarc.news.acme.test", []string{dmarc}, nil, "bulk_unknown"},
		{"strangers", testSelector + "._domainkey.other.test", "pm-bounces.other.test", "_dmarc.news.acme.test", []string{dmarc}, []string{"fail align_none"}, "bulk_alignment"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := dnstest.Start(t, strings.Join(append(tt.lines,
				"news.acme.test MX 10 mail.acme.test", tt.key+` TXT "`+testKey+`"`, tt.returnPath+" CNAME pm.mtasv.net",
				`pm.mtasv.net TXT "v=spf1 ip4:203.0.113.0/25 -all"`, "acme.test MX 10 mail.acme.test"), "\n"))
			if tt.silent != "" {
				s.Fail(tt.silent, "TXT", dnstest.Fault{RCode: 2})
			}
			r, err := CheckDomain(t.Context(), "news.acme.test", DomainCheck{
				DKIMSelector: tt.key, ReturnPath: tt.returnPath, Resolver: testClient(t, s), CacheOnly: true, Profiles: []DomainProfile{BulkSender},
			})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			bulk := ""
			for _, f := range r.Findings {
				switch {
				case f.Area == "Alignment":
					got = append(got, string(f.Level)+" "+f.Code)
				case f.Area == string(BulkSender):
					bulk = f.Code
				case f.Code == "dmarc_report_unauthorised":
					t.Errorf("%+v", f)
				}
			}
			if d := cmp.Diff(tt.want, got); d != "" || bulk != tt.bulk && tt.bulk != "bulk_alignment" {
				t.Errorf("bulk %q (-want +got):\n%s\n%s", bulk, d, r.Text())
			}
			if tt.silent != "" && r.Ready && tt.name != "all answered" {
				t.Error("ready")
			}
		})
	}
}

// A name between the signature and the domain that says psd=n is an
// organisation of its own (RFC 9989 section 4.10.2), and mail signed for it does
// not count for the domain.
func TestAlignmentOrganizationOfItsOwn(t *testing.T) {
	t.Parallel()
	const at = "v=DMARC1; p=none; rua=mailto:dmarc@acme.test; psd="
	tests := []struct {
		name, key, returnPath string
		record                string // a name and its DMARC text
		silent                string
		dkim, spf             bool
		codes                 []string // of DMARC and Alignment, without notes
	}{
		{"a plain record below", "mail.acme.test", "", "_dmarc.mail.acme.test " + at + "u", "", true, true, nil},
		{"psd=n at the signature", "mail.acme.test", "", "_dmarc.mail.acme.test " + at + "n", "", false, true, []string{"warn align_dkim"}},
		{"psd=n between", "a.mail.acme.test", "", "_dmarc.mail.acme.test " + at + "n", "", false, true, []string{"warn align_dkim"}},
		{"psd=y between", "a.mail.acme.test", "", "_dmarc.mail.acme.test " + at + "y", "", false, true, []string{"warn align_dkim"}},
		{"psd=n at the Return-Path", "acme.test", "bounces.acme.test", "_dmarc.bounces.acme.test " + at + "n", "", true, false, nil},
		{"both", "mail.acme.test", "b.mail.acme.test", "_dmarc.mail.acme.test " + at + "n", "", false, false, []string{"fail align_none"}},
		{"psd=n at the domain itself", "mail.acme.test", "", "_dmarc.acme.test " + at + "n", "", true, true, nil},
		{"psd=y at the domain itself", "acme.test", "", "_dmarc.acme.test " + at + "y", "", true, false, []string{"warn dmarc_psd"}},
		{"psd=y at the domain itself, signed below it", "mail.acme.test", "", "_dmarc.acme.test " + at + "y", "", false, false, []string{"warn dmarc_psd", "fail align_none"}},
		{"psd=y at the domain itself, a Return-Path further below", "acme.test", "a.b.acme.test", "_dmarc.acme.test " + at + "y", "", true, false, []string{"warn dmarc_psd"}},
		{"not answered", "mail.acme.test", "", "", "_dmarc.mail.acme.test", false, true, []string{"unknown dmarc_unasked"}},
		{"not answered for both", "mail.acme.test", "mail.acme.test", "", "_dmarc.mail.acme.test", false, false, []string{"unknown dmarc_unasked"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			host := testSelector + "._domainkey." + tt.key
			lines := []string{"-" + testSelector + "._domainkey.acme.test TXT", host + ` TXT "` + testKey + `"`}
			if tt.returnPath != "" {
				lines = append(lines, "-pm-bounces.acme.test CNAME", tt.returnPath+" CNAME pm.mtasv.net")
			}
			if name, text, ok := strings.Cut(tt.record, " "); ok {
				lines = append(lines, name+" TXT"+quoted(text))
			}
			s := dnstest.Start(t, zone(lines...))
			if tt.silent != "" {
				s.Fail(tt.silent, "TXT", dnstest.Fault{RCode: 2})
			}
			r, err := CheckDomain(t.Context(), "acme.test", DomainCheck{DKIMSelector: host, ReturnPath: tt.returnPath, Resolver: testClient(t, s), CacheOnly: true})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, f := range r.Findings {
				if (f.Area == "DMARC" || f.Area == "Alignment") && f.Level != DomainInfo {
					got = append(got, string(f.Level)+" "+f.Code)
				}
			}
			a := r.Alignment
			if d := cmp.Diff(tt.codes, got); d != "" || a.DKIM.Aligned != tt.dkim || a.SPF.Aligned != tt.spf || r.Ready != tt.dkim {
				t.Errorf("ready %v, %+v (-want +got):\n%s", r.Ready, a, d)
			}
		})
	}
}
