package fluxly

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/getfluxly/fluxly/internal/dnsmsg/dnstest"
	"github.com/getfluxly/fluxly/internal/spf"
)

// The vectors are run through CheckDomain against a server, and what comes out
// is kept as text under testdata/dnscheck, one file for each kind.

type dmarcVector struct {
	name string
	// domain is checked; "" is acme.test.
	domain string
	// records are "name text"; a name is relative to nothing.
	records []string
}

func d(text string) []string { return []string{"_dmarc.acme.test " + text} }

var dmarcVectors = []dmarcVector{
	{"plain none", "", d("v=DMARC1; p=none; rua=mailto:d@acme.test")},
	{"plain quarantine", "", d("v=DMARC1; p=quarantine; rua=mailto:d@acme.test")},
	{"plain reject", "", d("v=DMARC1; p=reject; rua=mailto:d@acme.test")},
	{"policy in another case", "", d("v=DMARC1; p=None; rua=mailto:d@acme.test")},
	{"tag name in capitals", "", d("v=DMARC1; P=reject; RUA=mailto:d@acme.test")},
	{"modes in capitals", "", d("v=DMARC1; p=reject; ADKIM=S; aspf=R; rua=mailto:d@acme.test")},
	{"version in small letters", "", d("v=dmarc1; p=none")},
	{"v as a capital", "", d("V=DMARC1; p=reject; rua=mailto:d@acme.test")},
	{"v as a capital, no reports", "", d("V=DMARC1; p=none")},
	{"version not first", "", d("p=none; v=DMARC1")},
	{"no version", "", d("p=none; rua=mailto:d@acme.test")},
	{"version 2", "", d("v=DMARC2; p=none")},
	{"version runs on", "", d("v=DMARC1p=none")},
	{"blank in front", "", d(" v=DMARC1; p=none; rua=mailto:d@acme.test")},
	{"quotes in front", "", d("“v=DMARC1; p=none”")},
	{"blanks around equals signs", "", d("v = DMARC1 ; p = none ; rua = mailto:d@acme.test")},
	{"no policy, with reports", "", d("v=DMARC1; rua=mailto:d@acme.test")},
	{"no policy, no reports", "", d("v=DMARC1")},
	{"unknown policy, with reports", "", d("v=DMARC1; p=monitor; rua=mailto:d@acme.test")},
	{"unknown policy, no reports", "", d("v=DMARC1; p=block")},
	{"empty policy", "", d("v=DMARC1; p=; rua=mailto:d@acme.test")},
	{"policy twice, both reject", "", d("v=DMARC1; p=reject; p=reject; sp=reject; t=y; rua=mailto:d@acme.test")},
	{"policy of subdomains twice", "", d("v=DMARC1; p=none; sp=reject; sp=none; rua=mailto:d@acme.test")},
	{"version in small letters, reject", "", d("v=dmarc1; p=reject; np=reject; rua=mailto:d@acme.test")},
	{"no policy but one for subdomains", "", d("v=DMARC1; sp=reject; rua=mailto:d@acme.test")},
	{"policies run together, subdomains stricter", "", d("v=DMARC1; p=none; adkim=r sp=reject; rua=mailto:d@acme.test")},
	{"modes run together", "", d("v=DMARC1; p=reject; aspf=r adkim=s; rua=mailto:d@acme.test")},
	{"two records, crossed", "", []string{"_dmarc.acme.test v=DMARC1; p=none; sp=reject; rua=mailto:d@acme.test", "_dmarc.acme.test v=DMARC1; p=quarantine; sp=none; rua=mailto:d@acme.test"}},
	{"two records, both strict", "", []string{"_dmarc.acme.test v=DMARC1; p=quarantine; rua=mailto:d@acme.test", "_dmarc.acme.test v=DMARC1; p=reject; rua=mailto:d@acme.test"}},
	{"reject at the apex", "", []string{"acme.test v=DMARC1; p=reject; rua=mailto:d@acme.test"}},
	{"reject doubled by the panel", "", []string{"_dmarc.acme.test.acme.test v=DMARC1; p=reject; rua=mailto:d@acme.test"}},
	{"nearly a record, one above", "news.acme.test", []string{"_dmarc.acme.test v=DMARC1; p=quarantine; np=none; rua=mailto:d@acme.test", "_dmarc.news.acme.test v=dmarc1; p=reject; rua=mailto:d@acme.test"}},
	{"unknown policy for subdomains, with reports", "", d("v=DMARC1; p=reject; sp=rejct; rua=mailto:d@acme.test")},
	{"unknown policy for subdomains, no reports", "", d("v=DMARC1; p=reject; sp=rejct")},
	{"unknown policy for missing subdomains, no reports", "", d("v=DMARC1; p=quarantine; np=foo; sp=none")},
	{"empty policy for subdomains", "", d("v=DMARC1; p=reject; sp=; rua=mailto:d@acme.test")},
	{"policy last", "", d("v=DMARC1; rua=mailto:d@acme.test; p=reject")},
	{"policy twice", "", d("v=DMARC1; p=none; p=reject; rua=mailto:d@acme.test")},
	{"old percentage", "", d("v=DMARC1; p=quarantine; pct=50; rua=mailto:d@acme.test")},
	{"old percentage of nothing", "", d("v=DMARC1; p=reject; pct=0; rua=mailto:d@acme.test")},
	{"old percentage of all", "", d("v=DMARC1; p=reject; pct=100; rua=mailto:d@acme.test")},
	{"old percentage and no reports", "", d("v=DMARC1; p=quarantine; pct=25")},
	{"old rf and ri", "", d("v=DMARC1; p=reject; rf=afrf; ri=3600; rua=mailto:d@acme.test")},
	{"size limit", "", d("v=DMARC1; p=reject; rua=mailto:d@acme.test!10m")},
	{"report with a subject", "", d("v=DMARC1; p=reject; rua=mailto:d@acme.test?subject=x")},
	{"report with a subject and a fault", "", d("v=DMARC1; p=reject; rua=mailto:d@acme.test?subject=x!10m")},
	{"report without scheme", "", d("v=DMARC1; p=reject; rua=d@acme.test")},
	{"report by web", "", d("v=DMARC1; p=reject; rua=https://acme.test/dmarc")},
	{"report without host", "", d("v=DMARC1; p=reject; rua=mailto:d")},
	{"three report addresses", "", d("v=DMARC1; p=reject; rua=mailto:a@acme.test,mailto:b@acme.test, mailto:c@acme.test")},
	{"no report address", "", d("v=DMARC1; p=reject")},
	{"two semicolons at the end", "", d("v=DMARC1; p=reject; rua=mailto:d@acme.test;;")},
	{"semicolon at the end", "", d("v=DMARC1; p=reject; rua=mailto:d@acme.test;")},
	{"comma for semicolon", "", d("v=DMARC1; p=reject, rua=mailto:d@acme.test")},
	{"blanks for semicolons", "", d("v=DMARC1 p=reject rua=mailto:d@acme.test")},
	{"one semicolon lost", "", d("v=DMARC1; p=reject rua=mailto:d@acme.test; adkim=s")},
	{"report to an IDN", "", d("v=DMARC1; p=reject; rua=mailto:d@bücher.test")},
	{"tag without equals sign", "", d("v=DMARC1; p=reject; strict; rua=mailto:d@acme.test")},
	{"unknown tag", "", d("v=DMARC1; p=reject; color=red; rua=mailto:d@acme.test")},
	{"unknown mode", "", d("v=DMARC1; p=reject; adkim=x; rua=mailto:d@acme.test")},
	{"failure options", "", d("v=DMARC1; p=reject; fo=1:d:s; rua=mailto:d@acme.test")},
	{"unknown failure option", "", d("v=DMARC1; p=reject; fo=2; rua=mailto:d@acme.test")},
	{"subdomains open", "", d("v=DMARC1; p=reject; sp=none; rua=mailto:d@acme.test")},
	{"subdomains stricter", "", d("v=DMARC1; p=none; sp=reject; rua=mailto:d@acme.test")},
	{"missing subdomains open", "", d("v=DMARC1; p=reject; np=none; rua=mailto:d@acme.test")},
	{"test mode of reject", "", d("v=DMARC1; p=reject; t=y; rua=mailto:d@acme.test")},
	{"test mode of quarantine", "", d("v=DMARC1; p=quarantine; t=y; rua=mailto:d@acme.test")},
	{"test mode off", "", d("v=DMARC1; p=reject; t=n; rua=mailto:d@acme.test")},
	{"binary in a value", "", d("v=DMARC1; p=reject; rua=mailto:d\x01@acme.test")},
	{"two records", "", []string{"_dmarc.acme.test v=DMARC1; p=none", "_dmarc.acme.test v=DMARC1; p=reject"}},
	{"another text beside", "", []string{"_dmarc.acme.test v=DMARC1; p=reject; rua=mailto:d@acme.test", "_dmarc.acme.test v=spf1 -all"}},
	{"only another text", "", d("google-site-verification=x")},
	{"nothing", "", nil},
	{"at the apex", "", []string{"acme.test v=DMARC1; p=none"}},
	{"doubled by the panel", "", []string{"_dmarc.acme.test.acme.test v=DMARC1; p=none; rua=mailto:d@acme.test"}},
	{"outside reports, agreed", "", []string{"_dmarc.acme.test v=DMARC1; p=reject; rua=mailto:d@reports.test", "acme.test._report._dmarc.reports.test v=DMARC1"}},
	{"outside reports, agreed for all", "", []string{"_dmarc.acme.test v=DMARC1; p=reject; rua=mailto:d@reports.test", "*._report._dmarc.reports.test v=DMARC1;"}},
	{"outside reports, not agreed", "", []string{"_dmarc.acme.test v=DMARC1; p=reject; rua=mailto:d@reports.test"}},
	{"outside reports, host without mail", "", []string{"_dmarc.acme.test v=DMARC1; p=reject; rua=mailto:d@nomail.test", "acme.test._report._dmarc.nomail.test v=DMARC1"}},
	{"reports to a host with a null MX", "", []string{"_dmarc.acme.test v=DMARC1; p=reject; rua=mailto:d@null.acme.test"}},
	{"reports to a subdomain", "", d("v=DMARC1; p=reject; rua=mailto:d@in.acme.test")},
	{"subdomain inherits", "news.acme.test", d("v=DMARC1; p=reject; rua=mailto:d@acme.test")},
	{"subdomain inherits sp", "news.acme.test", d("v=DMARC1; p=reject; sp=quarantine; rua=mailto:d@acme.test")},
	{"subdomain that is not there inherits np", "gone.acme.test", d("v=DMARC1; p=none; sp=quarantine; np=reject; rua=mailto:d@acme.test")},
	{"subdomain that is there takes no np", "news.acme.test", d("v=DMARC1; p=none; sp=quarantine; np=reject; rua=mailto:d@acme.test")},
	{"subdomain with its own", "news.acme.test", []string{"_dmarc.acme.test v=DMARC1; p=reject; rua=mailto:d@acme.test", "_dmarc.news.acme.test v=DMARC1; p=none; rua=mailto:d@acme.test"}},
	{"two records at the subdomain, one above", "news.acme.test", []string{"_dmarc.acme.test v=DMARC1; p=reject; rua=mailto:d@acme.test", "_dmarc.news.acme.test v=DMARC1; p=none", "_dmarc.news.acme.test v=DMARC1; p=reject"}},
	{"two records, one of a public suffix above", "", []string{"_dmarc.test v=DMARC1; p=reject; psd=y; rua=mailto:d@test.test", "_dmarc.acme.test v=DMARC1; p=none", "_dmarc.acme.test v=DMARC1; p=reject"}},
	{"walk stops at psd=n", "a.b.acme.test", []string{"_dmarc.b.acme.test v=DMARC1; p=reject; psd=n; rua=mailto:d@b.acme.test", "_dmarc.acme.test v=DMARC1; p=none; rua=mailto:d@acme.test"}},
	{"walk ends below psd=y", "a.acme.test", []string{"_dmarc.test v=DMARC1; p=reject; psd=y; rua=mailto:d@acme.test", "_dmarc.acme.test v=DMARC1; p=quarantine; rua=mailto:d@acme.test"}},
	{"psd=y at the domain itself", "acme.test", []string{"_dmarc.acme.test v=DMARC1; p=quarantine; psd=y; rua=mailto:d@acme.test"}},
	{"only the public suffix has one", "acme.test", []string{"_dmarc.test v=DMARC1; p=reject; psd=y; rua=mailto:d@test.test"}},
	{"the fewest labels win", "a.b.acme.test", []string{"_dmarc.b.acme.test v=DMARC1; p=none; rua=mailto:d@acme.test", "_dmarc.acme.test v=DMARC1; p=reject; rua=mailto:d@acme.test"}},
	{"twelve labels", "a.b.c.d.e.f.g.h.i.j.acme.test", []string{"_dmarc.acme.test v=DMARC1; p=reject; rua=mailto:d@acme.test"}},
	{"twelve labels, record in the gap", "a.b.c.d.e.f.g.h.i.j.acme.test", []string{"_dmarc.d.e.f.g.h.i.j.acme.test v=DMARC1; p=none; rua=mailto:d@acme.test", "_dmarc.acme.test v=DMARC1; p=reject; rua=mailto:d@acme.test"}},
}

func TestDMARCVectors(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	for _, v := range dmarcVectors {
		domain := v.domain
		if domain == "" {
			domain = "acme.test"
		}
		zoneText := "acme.test MX 10 mail.acme.test\nin.acme.test MX 10 mail.acme.test\nb.acme.test MX 10 mail.acme.test\nnews.acme.test A 192.0.2.1\nreports.test MX 10 mx.reports.test\nnull.acme.test MX 0 .\n"
		fmt.Fprintf(&out, "== %s (%s)\n", v.name, domain)
		for _, r := range v.records {
			name, text, _ := strings.Cut(r, " ")
			fmt.Fprintf(&out, "   %s %q\n", name, text)
			zoneText += fmt.Sprintf("%s TXT %q\n", name, text)
		}
		s := dnstest.Start(t, zoneText)
		r, err := CheckDomain(t.Context(), domain, DomainCheck{Resolver: testClient(t, s), CacheOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		m := r.DMARC
		fmt.Fprintf(&out, "-> %s", m.State)
		if m.Host != "" {
			fmt.Fprintf(&out, ", policy %s from %s, dkim %s, spf %s", m.Policy, m.Host, m.DKIMMode, m.SPFMode)
		}
		fmt.Fprintf(&out, ", organisation %s, %d names asked\n", m.Organizational, len(m.Walk))
		if m.Next != nil {
			fmt.Fprintf(&out, "   next %s\n", printable(m.Next.Publish.Value))
		}
		writeVectorFindings(&out, r, "DMARC")
		if v.name == "twelve labels" {
			n := 0
			for _, q := range s.Asked() {
				if strings.HasPrefix(q, "_dmarc.") {
					n++
				}
			}
			if n != 8 {
				t.Errorf("twelve labels took %d questions, want 8", n)
			}
		}
	}
	if len(dmarcVectors) < 60 {
		t.Errorf("%d vectors", len(dmarcVectors))
	}
	wantGolden(t, "dnscheck/dmarc.golden", out.Bytes())
}

func writeVectorFindings(out *bytes.Buffer, r *DomainReport, area string) {
	for _, f := range r.Findings {
		if f.Area != area {
			continue
		}
		fmt.Fprintf(out, "   [%s] %s: %s\n", f.Level, f.Code, printable(f.Summary))
		for _, p := range f.Publish {
			fmt.Fprintf(out, "     publish %s %s %s\n", p.Name, p.Type, clip(printable(p.Value), 300))
		}
	}
}

// testRSA makes a public key of exactly so many bits. Nobody signs with it, so
// the modulus need not be a product of primes.
func testRSA(bits int) *rsa.PublicKey {
	n := new(big.Int).Lsh(big.NewInt(1), uint(bits-1))
	n.Or(n, new(big.Int).Lsh(big.NewInt(0x5ca1ab1e), uint(bits/2)))
	n.SetBit(n, 0, 1)
	return &rsa.PublicKey{N: n, E: 65537}
}

func spki(bits int) string {
	der, err := x509.MarshalPKIXPublicKey(testRSA(bits))
	if err != nil {
		panic(err)
	}
	return base64.StdEncoding.EncodeToString(der)
}

func pkcs1(bits int) string {
	return base64.StdEncoding.EncodeToString(x509.MarshalPKCS1PublicKey(testRSA(bits)))
}

type dkimVector struct {
	name     string
	records  []string // texts at the host; \n separates strings of one
	expected string
}

func dkimVectors() []dkimVector {
	ed := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32))
	k1024, k2048 := spki(1024), spki(2048)
	one := func(s string) []string { return []string{s} }
	return []dkimVector{
		{"as Postmark shows it", one("k=rsa; p=" + k1024), ""},
		{"with a version", one("v=DKIM1; k=rsa; p=" + k2048), ""},
		{"key alone", one("p=" + k2048), ""},
		{"512 bits", one("k=rsa; p=" + spki(512)), ""},
		{"1023 bits", one("k=rsa; p=" + spki(1023)), ""},
		{"1024 bits, PKCS#1", one("k=rsa; p=" + pkcs1(1024)), ""},
		{"2048 bits, PKCS#1", one("k=rsa; p=" + pkcs1(2048)), ""},
		{"4096 bits", one("k=rsa; p=" + spki(4096)), ""},
		{"8192 bits", one("k=rsa; p=" + spki(8192)), ""},
		{"Ed25519", one("v=DKIM1; k=ed25519; p=" + ed), ""},
		{"Ed25519 of 31 bytes", one("k=ed25519; p=" + base64.StdEncoding.EncodeToString(make([]byte, 31))), ""},
		{"Ed25519 in SPKI", one("k=ed25519; p=" + base64.StdEncoding.EncodeToString(make([]byte, 44))), ""},
		{"RSA key called Ed25519", one("k=ed25519; p=" + k2048), ""},
		{"Ed25519 key called RSA", one("k=rsa; p=" + ed), ""},
		{"unknown type", one("k=dsa; p=" + k2048), ""},
		{"type in capitals", one("k=RSA; p=" + k2048), ""},
		{"a note beyond ASCII", one("v=DKIM1; n=café; p=" + k2048), ""},
		{"a type beyond ASCII", one("v=DKIM1; k=rsä; p=" + k2048), ""},
		{"revoked", one("v=DKIM1; k=rsa; p="), ""},
		{"revoked with a blank", one("v=DKIM1; p= "), ""},
		{"no p", one("v=DKIM1; k=rsa"), ""},
		{"test mode", one("v=DKIM1; t=y; p=" + k2048), ""},
		{"test and strict", one("v=DKIM1; t=y:s; p=" + k2048), ""},
		{"strict identity", one("v=DKIM1; t=s; p=" + k2048), ""},
		{"sha1 only", one("v=DKIM1; h=sha1; p=" + k2048), ""},
		{"sha1 and sha256", one("v=DKIM1; h=sha1:sha256; p=" + k2048), ""},
		{"for all services", one("v=DKIM1; s=*; p=" + k2048), ""},
		{"for mail", one("v=DKIM1; s=email; p=" + k2048), ""},
		{"for another service", one("v=DKIM1; s=tlsrpt; p=" + k2048), ""},
		{"split in strings", one("v=DKIM1; k=rsa; p=" + k2048[:180] + "\n" + k2048[180:]), ""},
		{"blanks in p", one("v=DKIM1; p=" + k1024[:60] + " " + k1024[60:120] + "\t" + k1024[120:]), ""},
		{"blank lost in the panel", one("v=DKIM1;k=rsa;p=" + k1024), ""},
		{"last character lost", one("k=rsa; p=" + k1024[:len(k1024)-1]), ""},
		{"cut at 255", one("k=rsa; p=" + k2048[:246]), ""},
		{"quotes inside", one(`"k=rsa; p=` + k1024 + `"`), ""},
		{"character not of base64", one("k=rsa; p=" + k1024[:50] + "*" + k1024[51:]), ""},
		{"certificate lines", one("k=rsa; p=-----BEGIN PUBLIC KEY-----" + k1024), ""},
		{"version not first", one("k=rsa; v=DKIM1; p=" + k1024), ""},
		{"version in small letters", one("v=dkim1; p=" + k1024), ""},
		{"version 2", one("v=DKIM2; p=" + k1024), ""},
		{"tag in capitals", one("v=DKIM1; K=rsa; P=" + k1024), ""},
		{"p twice", one("v=DKIM1; p=" + k1024 + "; p=" + k2048), ""},
		{"escaped semicolons", one(`v=DKIM1\; k=rsa\; p=` + k1024), ""},
		{"two semicolons", one("v=DKIM1;; p=" + k1024), ""},
		{"note and unknown tag", one("v=DKIM1; n=made by hand; x=1; p=" + k1024), ""},
		{"two keys", []string{"p=" + k1024, "p=" + k2048}, ""},
		{"SPF there", one("v=spf1 -all"), ""},
		{"key and another text", []string{"p=" + k1024, "google-site-verification=x"}, ""},
		{"nothing", nil, ""},
		{"the expected key", one("v=DKIM1; k=rsa; p=" + k1024), "k=rsa; p=" + k1024},
		{"the expected key with blanks", one("k=rsa; p=" + k1024[:70] + " " + k1024[70:]), "k=rsa;p=" + k1024},
		{"another than expected", one("k=rsa; p=" + k2048), "k=rsa; p=" + k1024},
		{"revoked, one expected", one("p="), "k=rsa; p=" + k1024},
		{"nothing, one expected", nil, "k=rsa; p=" + k1024},
	}
}

func TestDKIMVectors(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	vectors := dkimVectors()
	for _, v := range vectors {
		zoneText := "acme.test MX 10 mail.acme.test\n"
		fmt.Fprintf(&out, "== %s\n", v.name)
		for _, r := range v.records {
			fmt.Fprintf(&out, "   %s\n", clip(printable(r), 110))
			zoneText += "s1._domainkey.acme.test TXT"
			for part := range strings.SplitSeq(r, "\n") {
				for _, s := range spf.Split(part) {
					zoneText += fmt.Sprintf(" %q", s)
				}
			}
			zoneText += "\n"
		}
		s := dnstest.Start(t, zoneText)
		r, err := CheckDomain(t.Context(), "acme.test", DomainCheck{DKIMSelector: "s1", DKIMValue: v.expected, Resolver: testClient(t, s), CacheOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		k := r.DKIM[0]
		fmt.Fprintf(&out, "-> %s", k.State)
		if k.KeyType != "" {
			fmt.Fprintf(&out, ", %s %d", k.KeyType, k.Bits)
		}
		if v.expected != "" {
			fmt.Fprintf(&out, ", matches %v", k.Matches)
		}
		fmt.Fprintf(&out, ", aligned %v\n", r.Alignment.DKIM.Aligned)
		writeVectorFindings(&out, r, "DKIM")
	}
	if len(vectors) < 40 {
		t.Errorf("%d vectors", len(vectors))
	}
	wantGolden(t, "dnscheck/dkim.golden", out.Bytes())
}

type mergeVector struct {
	name    string
	records []string // at the apex
	zone    string
}

// chain makes n includes that cost one look-up each.
func chain(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "i%d.test TXT \"v=spf1 ip4:198.51.%d.0/24 -all\"\n", i, i)
	}
	return b.String()
}

func includes(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "include:i%d.test ", i)
	}
	return b.String()
}

var mergeVectors = []mergeVector{
	{"none", nil, ""},
	{"none, other texts", []string{"google-site-verification=x"}, ""},
	{"only -all", []string{"v=spf1 -all"}, ""},
	{"only ~all", []string{"v=spf1 ~all"}, ""},
	{"only ?all", []string{"v=spf1 ?all"}, ""},
	{"only +all", []string{"v=spf1 +all"}, ""},
	{"bare all", []string{"v=spf1 all"}, ""},
	{"empty", []string{"v=spf1"}, ""},
	{"empty with a blank", []string{"v=spf1 "}, ""},
	{"one sender", []string{"v=spf1 include:_spf.office.test -all"}, ""},
	{"capitals and blanks kept", []string{"V=SPF1   Include:_SPF.Office.TEST    -ALL  "}, ""},
	{"no all", []string{"v=spf1 ip4:192.0.2.1"}, ""},
	{"redirect", []string{"v=spf1 redirect=_spf.office.test"}, ""},
	{"redirect to Postmark", []string{"v=spf1 redirect=spf.mtasv.net"}, ""},
	{"terms before a redirect", []string{"v=spf1 ip4:192.0.2.1 redirect=_spf.office.test"}, ""},
	{"redirect beside all", []string{"v=spf1 redirect=_spf.office.test ~all"}, ""},
	{"terms after all", []string{"v=spf1 -all ip4:192.0.2.1"}, ""},
	{"include after all", []string{"v=spf1 -all include:spf.mtasv.net"}, ""},
	{"all in the middle", []string{"v=spf1 ip4:192.0.2.1 ~all ip4:192.0.2.2 -all"}, ""},
	{"there already", []string{"v=spf1 include:spf.mtasv.net -all"}, ""},
	{"there in capitals with root dot", []string{"v=spf1 INCLUDE:SPF.MTASV.NET. -all"}, ""},
	{"there with a plus", []string{"v=spf1 +include:spf.mtasv.net -all"}, ""},
	{"there with a minus", []string{"v=spf1 -include:spf.mtasv.net ~all"}, ""},
	{"there with a question mark", []string{"v=spf1 ?include:spf.mtasv.net ~all"}, ""},
	{"there twice, first with a tilde", []string{"v=spf1 ~include:spf.mtasv.net include:spf.mtasv.net ~all"}, ""},
	{"there within another include", []string{"v=spf1 include:all.test -all"}, "all.test TXT \"v=spf1 include:spf.mtasv.net ~all\"\n"},
	{"there within a minus include", []string{"v=spf1 -include:all.test ~all"}, "all.test TXT \"v=spf1 include:spf.mtasv.net ~all\"\n"},
	{"old sample of Postmark", []string{"v=spf1 a mx include:spf.mtasv.net ~all"}, "acme.test A 192.0.2.1\n"},
	{"macros and unknown modifiers kept", []string{"v=spf1 exists:%{i}._spf.%{d2} x-note=%{d}%% exp=why.%{d} -all"}, ""},
	{"modifier after all", []string{"v=spf1 ip4:192.0.2.1 -all exp=why.acme.test"}, ""},
	{"at nine look-ups", []string{"v=spf1 " + includes(9) + "-all"}, chain(9)},
	{"at ten look-ups", []string{"v=spf1 " + includes(10) + "-all"}, chain(10)},
	{"over ten already", []string{"v=spf1 " + includes(11) + "-all"}, chain(11)},
	{"ten with it there", []string{"v=spf1 " + includes(9) + "include:spf.mtasv.net -all"}, chain(9)},
	{"syntax error", []string{"v=spf1 include:_spf.office.test ip4:192.0.2 -all"}, ""},
	{"equals sign for colon", []string{"v=spf1 ip4=192.0.2.1 include:_spf.office.test -all"}, ""},
	{"comma for blank", []string{"v=spf1 include:_spf.office.test,include:b.test -all"}, ""},
	{"include loop", []string{"v=spf1 include:acme.test -all"}, ""},
	{"include of nothing", []string{"v=spf1 include:gone.test -all"}, ""},
	{"two records", []string{"v=spf1 include:_spf.office.test -all", "v=spf1 include:spf.mtasv.net ~all"}, ""},
	{"two that are equal", []string{"v=spf1 include:_spf.office.test -all", "v=spf1 include:_spf.office.test -all"}, ""},
	{"two, one with a redirect", []string{"v=spf1 redirect=_spf.office.test", "v=spf1 ip4:192.0.2.1 -all"}, ""},
	{"two with redirects", []string{"v=spf1 redirect=_spf.office.test", "v=spf1 redirect=spf.mtasv.net"}, ""},
	{"two, softest all", []string{"v=spf1 ip4:192.0.2.1 -all", "v=spf1 ip4:192.0.2.2 ?all"}, ""},
	{"two, one +all", []string{"v=spf1 ip4:192.0.2.1 -all", "v=spf1 ip4:192.0.2.2 +all"}, ""},
	{"two, one broken", []string{"v=spf1 ip4:192.0.2.1 -all", "v=spf1 ipv4:192.0.2.2 ~all"}, ""},
	{"three with doubles", []string{"v=spf1 a ip4:192.0.2.1 -all", "v=spf1 mx A ~all", "v=spf1 IP4:192.0.2.1 +mx ~all"}, "acme.test A 192.0.2.1\n"},
	{"two with names for each mail joined", []string{"v=spf1 exists:%{i}.a.test exists:%{i}.b.test ~all", "v=spf1 exists:%{i}.c.test ip4:192.0.2.1 ~all"}, ""},
	{"one with names for each mail", []string{"v=spf1 exists:%{i}.a.test exists:%{i}.b.test exists:%{i}.c.test ~all"}, ""},
	{"two over ten joined", []string{"v=spf1 " + includes(6) + "-all", "v=spf1 include:j.test ~all"}, chain(6) + "j.test TXT \"v=spf1 a:i0.test a:i1.test a:i2.test a:i3.test -all\"\n"},
	{"long record", []string{"v=spf1 " + longNetworks() + "-all"}, ""},
}

func longNetworks() string {
	var b strings.Builder
	for i := range 24 {
		fmt.Fprintf(&b, "ip4:192.0.%d.0/24 ", i)
	}
	return b.String()
}

func TestMergeVectors(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	for _, v := range mergeVectors {
		zoneText := "acme.test MX 10 mail.acme.test\n_spf.office.test TXT \"v=spf1 ip4:198.51.100.0/24 -all\"\nspf.mtasv.net TXT \"v=spf1 ip4:203.0.113.0/25 -all\"\n" + v.zone
		fmt.Fprintf(&out, "== %s\n", v.name)
		for _, r := range v.records {
			fmt.Fprintf(&out, "   %q\n", r)
			zoneText += "acme.test TXT"
			for _, s := range spf.Split(r) {
				zoneText += fmt.Sprintf(" %q", s)
			}
			zoneText += "\n"
		}
		s := dnstest.Start(t, zoneText)
		r, err := CheckDomain(t.Context(), "acme.test", DomainCheck{Resolver: testClient(t, s), CacheOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&out, "-> %s, include %s, %d look-ups, %d void\n", r.SPF.State, r.SPF.Include, r.SPF.Lookups, r.SPF.Voids)
		if r.SPF.Proposal != "" {
			fmt.Fprintf(&out, "   propose %q in %d strings\n", r.SPF.Proposal, len(spf.Split(r.SPF.Proposal)))
		}
		for _, f := range r.Findings {
			if f.Area == "SPF" {
				fmt.Fprintf(&out, "   [%s] %s: %s\n", f.Level, f.Code, printable(f.Summary))
				if f.Code == "spf_include_absent" || f.Code == "spf_multiple" {
					fmt.Fprintf(&out, "     %s\n", printable(f.Fix))
				} else {
					for _, p := range f.Publish {
						fmt.Fprintf(&out, "     publish %s\n", printable(p.Value))
					}
				}
			}
		}
	}
	if len(mergeVectors) < 40 {
		t.Errorf("%d vectors", len(mergeVectors))
	}
	wantGolden(t, "dnscheck/merge.golden", out.Bytes())
}

func FuzzDMARCRecord(f *testing.F) {
	for _, v := range dmarcVectors {
		for _, r := range v.records {
			_, text, _ := strings.Cut(r, " ")
			f.Add(text)
		}
	}
	f.Fuzz(func(t *testing.T, s string) {
		if nearDMARC(s) != "" && isDMARC(s) {
			t.Fatal("both a record and nearly one")
		}
		if !isDMARC(s) {
			if nearDMARC(s) != "" && len(parseDMARC(mendDMARC([]string{s}, "dmarc@acme.test", nil).text).problems) > 0 { // all go, for the policy is none
				t.Fatalf("%q is mended to %q", s, mendDMARC([]string{s}, "dmarc@acme.test", nil).text)
			}
			return
		}
		r := parseDMARC(s)
		for _, p := range r.problems {
			if _, ok := findingCatalogue[p.code]; !ok || p.text == "" {
				t.Fatalf("problem %+v", p)
			}
		}
		// What is proposed has no fault left that the parser knows of.
		mended := parseDMARC(r.mended("dmarc@acme.test"))
		if !isDMARC(mended.text) || slices.ContainsFunc(mended.problems, func(p dmarcProblem) bool { return !p.stays }) || len(mended.rua) == 0 || !mended.usable {
			t.Fatalf("%q is mended to %q: %+v", s, mended.text, mended.problems)
		}
		if again := mended.mended("dmarc@acme.test"); again != mended.text {
			t.Fatalf("%q is mended to %q, and that to %q", s, mended.text, again)
		}
		next := mended.withPolicy("reject")
		if again := parseDMARC(next); !isDMARC(next) || again.p != "reject" && r.usable {
			t.Fatalf("%q with p=reject is %q, which has p=%s", s, next, again.p)
		}
	})
}

func FuzzDKIMKey(f *testing.F) {
	for _, v := range dkimVectors() {
		for _, r := range v.records {
			f.Add(strings.ReplaceAll(r, "\n", ""))
		}
	}
	f.Fuzz(func(t *testing.T, s string) {
		k := parseDKIMKey(s)
		failed := false
		for _, p := range k.problems {
			e, ok := findingCatalogue[p.code]
			if !ok || p.text == "" {
				t.Fatalf("problem %+v", p)
			}
			failed = failed || e.level == DomainFail
		}
		if strings.ContainsAny(k.p, " \t\r\n") {
			t.Fatalf("white space in p: %q", k.p)
		}
		if !failed && !k.revoked && k.bits < 1024 && k.kind != "ed25519" {
			t.Fatalf("%q is called sound: %+v", s, k)
		}
	})
}

func BenchmarkParseDMARC(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		parseDMARC("v=DMARC1; p=quarantine; sp=reject; rua=mailto:dmarc@acme.test; adkim=r; aspf=s; fo=1")
	}
}

func BenchmarkParseDKIMKey(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		parseDKIMKey(testKey)
	}
}
