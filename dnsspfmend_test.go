package fluxly

import "testing"

// A text that was meant as SPF is mended without losing those whom it names.
func TestMendNearSPF(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"v=spf1\u00a0include:_spf.example.test -all": "v=spf1 include:_spf.example.test -all",
		"v=spf1include:a.test -all":                  "v=spf1 include:a.test -all",
		"v=spf1,include:a.test,mx,-all":              "v=spf1 include:a.test mx -all",
		"v=spf1\tmx -all":                            "v=spf1 mx -all",
		" v=spf1 mx -all":                            "v=spf1 mx -all",
		"v = spf1 mx -all":                           "v=spf1 mx -all",
		"spf1 ip4:192.0.2.1 ~all":                    "v=spf1 ip4:192.0.2.1 ~all",
		"v=spf1-all":                                 "v=spf1 -all",
		"v=spf1 ptr -all\"":                          "v=spf1 ptr -all",
		"v=spf2":                                     "",
	} {
		if got, _ := mendNearSPF(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// A mended record must bring no fault that the old one has not: the same kind
// of fault at another host is another fault.
func TestMendBringsNoFault(t *testing.T) {
	t.Parallel()
	const hosts = "bad1.test TXT \"v=spf1 ip4:192.0.2 -all\"\nbad2.test TXT \"v=spf1 ip4:198.51.100 -all\"\ngood.test TXT \"v=spf1 ip4:198.51.100.0/24 -all\"\n"
	for text, want := range map[string]bool{
		"v=spf1 include:bad1.test include=bad2.test -all": false,
		"v=spf1 include:bad1.test include=good.test -all": true,
		"v=spf1 include:bad1.test include=bad1.test -all": true,
	} {
		r := checkZoneText(t, hosts+"acme.test TXT \""+text+"\"", DomainCheck{})
		if got := len(finding(t, r, "spf_ignored_term").Publish) > 0; got != want {
			t.Errorf("%q: a record is proposed: %v, want %v\n%s", text, got, want, r.Text())
		}
	}
}

// What a mended record says of a sender is what its author said; where that
// cannot be told, a person has to write it. A record mended twice is the one
// mended once.
func TestMendKeepsSenders(t *testing.T) {
	t.Parallel()
	const hosts = `foo.test TXT "v=spf1 ip4:198.51.100.0/24 -all"
h.test A 198.51.100.7
acme2.test A 198.51.100.8
`
	check := func(text string) *DomainReport {
		return checkZoneText(t, zone("-acme.test TXT", "acme.test TXT"+quoted(text))+"\n"+hosts, DomainCheck{})
	}
	for text, want := range map[string]string{ // "" for none
		"v=spf1 - include:foo.test - include:spf.mtasv.net ~all":     "",
		"v=spf1 mx – include:foo.test – include:spf.mtasv.net ~all":  "",
		"v=spf1 mx: include:foo.test include:spf.mtasv.net -all":     "",
		"v=spf1 a: mx include:spf.mtasv.net. -all":                   "",
		"v=spf1 a:acme2.test: include:spf.mtasv.net -all":            "",
		"v=spf1 a:h.testinclude:foo.test include:spf.mtasv.net ?all": "",
		"v=spf1 a: h.test ip6: 2001:db8::1 include:foo.test - all":   "v=spf1 a:h.test ip6:2001:db8::1 include:foo.test -all",
		"v=spf1 include: foo.test; include:spf.mtasv.net -all":       "v=spf1 include:foo.test include:spf.mtasv.net -all",
		"v=spf1 ip4:192.0.2.1; include:gone.test -all":               "v=spf1 ip4:192.0.2.1 -all",
		"v=spf1 ip4:192.0.2.1; include:acme.test -all":               "v=spf1 ip4:192.0.2.1 -all",
		"v=spf1 ip4:192.0.2.1 a=gone.test -all":                      "v=spf1 ip4:192.0.2.1 -all",
		"v=spf1 include:gone.test; -all":                             "v=spf1 ~all",
		`v=spf1 include:foo.test"a:h.test" mx -all`:                  "v=spf1 include:foo.test a:h.test mx -all",
		`v=spf1 include:foo.test""-all`:                              "v=spf1 include:foo.test -all",
		"v=spf1 include:foo.test,bar.test -all":                      "",
		"v=spf1 include:foo.test-all":                                "",
		`v=spf1 include:"foo.test" ip4:192.0.2.1; -all`:              "v=spf1 include:foo.test ip4:192.0.2.1 -all",
		`v=spf1 include:foo.test"mx" ip4:192.0.2.1; -all`:            "v=spf1 include:foo.test mx ip4:192.0.2.1 -all",
	} {
		r := check(text)
		got := ""
		for _, f := range r.Findings {
			for _, p := range f.Publish {
				if f.Area == "SPF" && f.Code != "spf_include_absent" {
					got = p.Value
				}
			}
		}
		if got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
		if got == "" {
			continue
		}
		for _, f := range check(got).Findings {
			if f.Area == "SPF" && f.Code != "spf_include_absent" && len(f.Publish) > 0 {
				t.Errorf("%q: mended to %q, and that to %q for %s", text, got, f.Publish[0].Value, f.Code)
			}
		}
	}
}
