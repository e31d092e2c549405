package fluxly

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/getfluxly/fluxly/internal/dnsmsg/dnstest"
	"github.com/getfluxly/fluxly/internal/spf"
)

// publish does to a zone what a finding asks for.
func publish(zoneText string, p DomainRecord) string {
	var out []string
	for line := range strings.Lines(zoneText) {
		f := strings.SplitN(strings.TrimSpace(line), " ", 3)
		if len(f) == 3 && f[0] == p.Name {
			if slices.Contains(p.Replaces, ReplacedRecord{f[1], zoneValue(f[1], f[2])}) {
				continue
			}
		}
		out = append(out, strings.TrimSpace(line))
	}
	value := " " + p.Value
	if p.Type == "TXT" {
		value = ""
		for _, s := range p.Strings {
			value += fmt.Sprintf(" %q", s)
		}
	}
	return strings.Join(append(out, p.Name+" "+p.Type+value), "\n")
}

// besideAnAlias fails the test when something stands beside an alias.
func besideAnAlias(t *testing.T, name, zoneText string) {
	t.Helper()
	var types []string
	for line := range strings.Lines(zoneText) {
		if f := strings.Fields(line); len(f) > 2 && f[0] == name {
			types = append(types, f[1])
		}
	}
	if len(types) > 1 && slices.Contains(types, "CNAME") {
		t.Errorf("at %s stand %v", name, types)
	}
}

func zoneValue(typ, data string) string {
	if typ != "TXT" {
		return data
	}
	text := ""
	for data = strings.TrimSpace(data); data != ""; data = strings.TrimSpace(data) {
		q, err := strconv.QuotedPrefix(data)
		if err != nil {
			return data
		}
		v, _ := strconv.Unquote(q)
		text += v
		data = data[len(q):]
	}
	return text
}

// The records that a report says to publish mend what it says about them: once
// they are in the zone, none of the findings that named a record is left, and
// for each host there is one record, however many findings ask for it.
func TestPublishMends(t *testing.T) {
	t.Parallel()
	type job struct {
		name, domain, zone string
		check              DomainCheck
	}
	mail := "acme.test MX 10 mail.acme.test\nreports.test MX 10 mx.reports.test\nspf.mtasv.net TXT \"v=spf1 ip4:203.0.113.0/25 -all\"\n_spf.office.test TXT \"v=spf1 ip4:198.51.100.0/24 -all\"\n"
	jobs := []job{{name: "broken", domain: "acme.test", zone: brokenZone, check: DomainCheck{DKIMSelector: testSelector, DKIMValue: testKey}}}
	for _, v := range dmarcVectors {
		j := job{name: "DMARC " + v.name, domain: firstText(v.domain, "acme.test"), zone: mail}
		for _, r := range v.records {
			name, text, _ := strings.Cut(r, " ")
			j.zone += fmt.Sprintf("%s TXT %q\n", name, text)
		}
		jobs = append(jobs, j)
	}
	for _, v := range dkimVectors() {
		for _, expected := range []string{v.expected, "k=rsa; p=" + spki(2048)} {
			j := job{name: "DKIM " + v.name, domain: "acme.test", zone: mail, check: DomainCheck{DKIMSelector: "s1", DKIMValue: expected}}
			for _, r := range v.records {
				j.zone += "s1._domainkey.acme.test TXT" + quoted(strings.ReplaceAll(r, "\n", "")) + "\n"
			}
			jobs = append(jobs, j)
		}
	}
	for _, v := range mergeVectors {
		j := job{name: "SPF " + v.name, domain: "acme.test", zone: mail + v.zone}
		for _, r := range v.records {
			j.zone += "acme.test TXT" + quoted(r) + "\n"
		}
		jobs = append(jobs, j)
	}
	// What stands at the name is of another type, and nothing may stand beside it.
	for _, z := range []string{
		"pm-bounces.acme.test A 192.0.2.80\npm-bounces.acme.test AAAA 2001:db8::80\npm-bounces.acme.test TXT \"v=spf1 a -all\"\n",
		"pm-bounces.acme.test TXT \"old\"\n",
		"pm-bounces.acme.test CNAME pm.mtasv.net\npm-bounces.acme.test TXT \"old\"\n",
		"_dmarc.acme.test CNAME d.host.test\nd.host.test TXT \"v=DMARC1; p=nonsense\"\n",
		"_dmarc.acme.test CNAME d.acme.test\nd.acme.test TXT \"v=dmarc1; p=none\"\n",
		"s1._domainkey.acme.test CNAME k.host.test\nk.host.test TXT \"k=rsa; p=\"\n",
		"s1._domainkey.acme.test CNAME k.acme.test\n",
	} {
		jobs = append(jobs, job{name: "beside " + z, domain: "acme.test", zone: mail + z, check: DomainCheck{DKIMSelector: "s1", DKIMValue: testKey}})
	}
	for _, text := range mendedSPF {
		jobs = append(jobs, job{name: "SPF " + text[0], domain: "acme.test", zone: mail + "acme.test TXT" + quoted(text[0]) + "\n"})
	}
	for _, j := range jobs {
		t.Run(j.name, func(t *testing.T) {
			t.Parallel()
			s := dnstest.Start(t, j.zone)
			j.check.Resolver, j.check.CacheOnly = testClient(t, s), true
			r, err := CheckDomain(t.Context(), j.domain, j.check)
			if err != nil {
				t.Fatal(err)
			}
			zoneText, asked, values := j.zone, map[string]bool{}, map[string]string{}
			for _, f := range r.Findings {
				if f.Optional && onlyOffered[f.Code] {
					continue
				}
				for _, p := range f.Publish {
					key := p.Name + " " + p.Type
					if v, ok := values[key]; ok && v != p.Value {
						t.Errorf("%s: two records are proposed, %q and %q", key, v, p.Value)
					} else if !ok {
						values[key] = p.Value
						zoneText = publish(zoneText, p)
						besideAnAlias(t, p.Name, zoneText)
					}
					asked[f.Code] = true
				}
			}
			s.Set(t, zoneText)
			after, err := CheckDomain(t.Context(), j.domain, j.check)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range after.Findings {
				if asked[f.Code] && len(f.Publish) > 0 {
					t.Errorf("still %s: %s\nthe zone was\n%s\nand is\n%s", f.Code, f.Summary, j.zone, zoneText)
				}
			}
		})
	}
}

// onlyOffered are findings whose record is another way to do it, not a
// correction.
var onlyOffered = map[string]bool{
	"spf_missing": true, "spf_include_absent": true, "returnpath_missing": true, "tlsrpt_missing": true,
}

// mendedSPF are records and what is proposed in their place.
var mendedSPF = [][2]string{
	{"v=spf1 ipv4:192.0.2.1 -all", "v=spf1 ip4:192.0.2.1 -all"},
	{"v=spf1 ip4: 192.0.2.1 -all", "v=spf1 ip4:192.0.2.1 -all"},
	{"v=spf1 ip4:2001:db8::/32 -all", "v=spf1 ip6:2001:db8::/32 -all"},
	{"v=spf1 ip4=192.0.2.1 -all", "v=spf1 ip4:192.0.2.1 -all"},
	{"v=spf1 include=_spf.office.test -all", "v=spf1 include:_spf.office.test -all"},
	{"v=spf1 ip4:192.0.2.1/024 -all", ""},
	{"v=spf1 ip4:192.0.2.1,ip4:192.0.2.2 ~all", "v=spf1 ip4:192.0.2.1 ip4:192.0.2.2 ~all"},
	{"v=spf1 ip4:192.0.2.1; -all", "v=spf1 ip4:192.0.2.1 -all"},
	{"v=spf1 ip4:192.0.2.1 - all", "v=spf1 ip4:192.0.2.1 -all"},
	{"v=spf1 ip4:192.0.2.1 \u2013all", "v=spf1 ip4:192.0.2.1 -all"},
	{"v=spf1 ip4:192.0.2.1 -all.", "v=spf1 ip4:192.0.2.1 -all"},
	{"v=spf1 \u201cip4:192.0.2.1\u201d -all", "v=spf1 ip4:192.0.2.1 -all"},
	{"v=spf1 ip4:192.0.2.1\u00a0-all", "v=spf1 ip4:192.0.2.1 -all"},
	{"v=spf1 includes:_spf.office.test -all", "v=spf1 include:_spf.office.test -all"},
	{"v=spf1 ip4:192.0.2.1 +all", "v=spf1 ip4:192.0.2.1 ~all"},
	{"v=spf1 ip4:192.0.2.1 ?all", "v=spf1 ip4:192.0.2.1 ~all"},
	{"v=spf1 ip4:192.0.2.1", "v=spf1 ip4:192.0.2.1 ~all"},
	{"v=spf1 ip4:192.0.2.1 -all ip4:192.0.2.2 ~all", "v=spf1 ip4:192.0.2.1 -all"},
	{"v=spf1 ip4:192.0.2.1 ~all ip4=192.0.2.2 include:_spf.office.test", "v=spf1 ip4:192.0.2.1 ~all"},
	{"v=spf1 ipv4:192.0.2.1 -all ipv4:192.0.2.2", "v=spf1 ip4:192.0.2.1 -all"},
	{"v=spf1 ip4:192.0.2.1 -all v=spf1 ip4:192.0.2.2 -all", "v=spf1 ip4:192.0.2.1 -all"},
	{"v=spf1 ip4:192.0.2.1 ?all ip4:192.0.2.2 exp=why.acme.test", "v=spf1 ip4:192.0.2.1 ~all exp=why.acme.test"},
	{"v=spf1 -all include:_spf.office.test", ""},
	{"v=spf1 ip4:192.0.2.1 redirect=_spf.office.test -all", "v=spf1 ip4:192.0.2.1 -all"},
	{"v=spf1 ptr ip4:192.0.2.1 -all", ""},
	{"v=spf1 ip4:192.0.2.1 v=spf1 ip4:192.0.2.2 -all", "v=spf1 ip4:192.0.2.1 ip4:192.0.2.2 -all"},
	{"v=spf1 include:_spf.office.test include:_SPF.office.test. -all", "v=spf1 include:_spf.office.test -all"},
	{"v=spf1 include:gone.test ip4:192.0.2.1 -all", "v=spf1 ip4:192.0.2.1 -all"},
	{"v=spf1 include:gone.test -all", "v=spf1 ~all"},
	{"v=spf1 redirect=gone.test", "v=spf1 ~all"},
	{"v=spf1 include:acme.test ip4:192.0.2.1 -all", "v=spf1 ip4:192.0.2.1 -all"},
	{"v=spf1 a:x.test mx:y.test exists:z.test ip4:192.0.2.1 -all", "v=spf1 ip4:192.0.2.1 -all"},
	{"v=spf1 moo -all", ""},
	{"v=spf1 ip4:192.0.2.1 exp=why.acme.test x=%{d} -all", ""},
	{"v=spf1 ip4:192.0.2.1 -all", ""},
}

func TestMendSPF(t *testing.T) {
	t.Parallel()
	s := dnstest.Start(t, "_spf.office.test TXT \"v=spf1 ip4:198.51.100.0/24 -all\"\n")
	for _, v := range mendedSPF {
		zoneText := "acme.test MX 10 mail.acme.test\n_spf.office.test TXT \"v=spf1 ip4:198.51.100.0/24 -all\"\nacme.test TXT" + quoted(v[0]) + "\n"
		s.Set(t, zoneText)
		r, err := CheckDomain(t.Context(), "acme.test", DomainCheck{Resolver: testClient(t, s), CacheOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, f := range r.Findings {
			if f.Area == "SPF" && len(f.Publish) > 0 && !onlyOffered[f.Code] {
				got = f.Publish[0].Value
			}
		}
		if got != v[1] {
			t.Errorf("%q: proposed %q, want %q\n%v", v[0], got, v[1], codes(r))
		}
	}
}

// What stands after "all" counts for nobody (RFC 7208 section 5.1). It is not
// let in by a mended record, and whoever publishes that is told so.
func TestMendSPFAfterAll(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][]string{
		"v=spf1 ip4:192.0.2.1 -all ip4:192.0.2.2":                         {"spf_after_all"},
		"v=spf1 ip4:192.0.2.1 -all ipv4:192.0.2.2":                        {"spf_syntax"},
		"v=spf1 ip4:192.0.2.1 +all ip4:192.0.2.2":                         {"spf_after_all", "spf_pass_all"},
		"v=spf1\u00a0ip4:192.0.2.1 -all ip4:192.0.2.2":                    {"spf_near_miss"},
		"v=spf1 ip4:192.0.2.1 ~all include=_spf.office.test a:acme.test.": {"spf_after_all", "spf_ignored_term"},
	} {
		r := checkZoneText(t, zone("-acme.test TXT", "acme.test TXT"+quoted(text)), DomainCheck{})
		for _, code := range want {
			f := finding(t, r, code)
			if !strings.Contains(f.Fix, `"all" keeps from being looked at`) {
				t.Errorf("%q: %s: %s", text, code, f.Fix)
			}
			if len(f.Publish) != 1 || strings.Contains(f.Publish[0].Value, "192.0.2.2") || strings.Contains(f.Publish[0].Value, "include") {
				t.Errorf("%q: %+v", text, f.Publish)
			}
		}
	}
}

// A panel that cuts a long record into strings, and loses the blank between
// two of them, or everything behind the first 255 bytes.
func TestSPFStrings(t *testing.T) {
	t.Parallel()
	long := "v=spf1 "
	for i := 0; len(long) < 240; i++ {
		long += fmt.Sprintf("ip4:192.0.%d.0/24 ", i)
	}
	cut := (long + "include:_spf.office.test -all" + strings.Repeat("x", 30))[:255]
	shared := "acme.test MX 10 mail.acme.test\n_spf.office.test TXT \"v=spf1 ip4:198.51.100.0/24 -all\"\n"
	tests := []struct {
		name    string
		strings []string
		code    string
		publish string
	}{
		{"blank inside", []string{"v=spf1 include:_spf.office.test ", "ip4:192.0.2.1 -all"}, "", ""},
		{"a term over two strings", []string{"v=spf1 include:_spf.off", "ice.test -all"}, "", ""},
		{"no blank", []string{"v=spf1 include:_spf.office.test", "ip4:192.0.2.1 -all"}, "spf_split", "v=spf1 include:_spf.office.test ip4:192.0.2.1 -all"},
		{"no blank before all", []string{"v=spf1 include:_spf.office.test", "-all"}, "spf_split", "v=spf1 include:_spf.office.test -all"},
		{"cut at 255", []string{cut}, "spf_cut", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			line := "acme.test TXT"
			for _, s := range tt.strings {
				line += fmt.Sprintf(" %q", s)
			}
			s := dnstest.Start(t, shared+line+"\n")
			r, err := CheckDomain(t.Context(), "acme.test", DomainCheck{Resolver: testClient(t, s), CacheOnly: true})
			if err != nil {
				t.Fatal(err)
			}
			if tt.code == "" {
				if r.SPF.State != "ok" {
					t.Errorf("%s: %v", r.SPF.State, codes(r))
				}
				return
			}
			f := finding(t, r, tt.code)
			if tt.publish != "" && (len(f.Publish) != 1 || f.Publish[0].Value != tt.publish || len(spf.Split(tt.publish)) != len(f.Publish[0].Strings)) {
				t.Errorf("publish %+v", f.Publish)
			}
		})
	}
}

// Of what stands at a doubled host only a sound key is worth publishing.
func TestDoubledHostPublishesASoundKey(t *testing.T) {
	t.Parallel()
	const dkim = testSelector + "._domainkey.acme.test"
	big := "k=rsa; p=" + spki(2048)
	for _, tt := range []struct {
		name, given string
		texts       []string
		want        string // "" is no record
	}{
		{"a sound key", "", []string{testKey}, testKey},
		{"revoked", "", []string{"k=rsa; p="}, ""},
		{"revoked, one expected", testKey, []string{"k=rsa; p="}, testKey},
		{"no key", "", []string{"k=rsa; p=AAAA"}, ""},
		{"cut", "", []string{testKey[:100]}, ""},
		{"too short", "", []string{"k=rsa; p=" + spki(512)}, ""},
		{"too short in quotes", "", []string{`"k=rsa; p=` + spki(512) + `"`}, ""},
		{"in quotes", "", []string{`"` + testKey + `"`}, testKey},
		{"in quotes, as expected", testKey, []string{`"` + testKey + `"`}, testKey},
		{"another than expected", testKey, []string{big}, testKey},
		{"a test", "", []string{"v=DKIM1; t=y; " + testKey}, testKey},
		{"revoked and sound", "", []string{"k=rsa; p=", testKey}, testKey},
		{"cut and sound", "", []string{testKey[:100], testKey, "x"}, testKey},
		{"the same twice", "", []string{testKey, "v=DKIM1; " + testKey}, testKey},
		{"two sound ones", "", []string{testKey, big}, ""},
		{"two sound ones, one expected", big, []string{testKey, big}, big},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			lines := []string{"-" + dkim + " TXT"}
			for _, text := range tt.texts {
				lines = append(lines, dkim+".acme.test TXT"+quoted(text))
			}
			f := finding(t, checkZoneText(t, zone(lines...), DomainCheck{DKIMValue: tt.given}), "dkim_doubled_host")
			switch {
			case tt.want == "" && (len(f.Publish) > 0 || !strings.Contains(f.Fix, "Copy the TXT value from Postmark")):
				t.Errorf("%+v", f)
			case tt.want != "" && (len(f.Publish) != 1 || parseDKIMKey(f.Publish[0].Value).p != parseDKIMKey(tt.want).p || soundDKIM([]string{f.Publish[0].Value}) != f.Publish[0].Value):
				t.Errorf("%+v", f)
			}
		})
	}
}
