package fluxly

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/getfluxly/fluxly/internal/dnsmsg/dnstest"
)

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
		m, ok := mendNearSPF(text)
		if ok != (want != "") || ok && m.Text != want {
			t.Errorf("%q: %q, %v, want %q", text, m.Text, ok, want)
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
back.test TXT "v=spf1 include:acme.test -all"
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
		"v=spf1 include:gone.test -all":                              "v=spf1 ~all",
		"v=spf1 -include:gone.test -all":                             "v=spf1 -all",
		// A term that can be read only now and leads nowhere may have been
		// meant otherwise.
		"v=spf1 ip4:192.0.2.1 a=gone.test -all":                       "",
		"v=spf1 include:gone.test; -all":                              "",
		`v=spf1 ip4:192.0.2.1 include:foo.test\032mx -all`:            "v=spf1 ip4:192.0.2.1 include:foo.test mx -all",
		"v=spf1 mx include:foo.testredirect=bar.test":                 "",
		"v=spf1 mx include:foo.test-all. ip4:192.0.2.1;":              "",
		"v=spf1 note=office,a:h.test ip4:192.0.2.1; -all":             "v=spf1 ip4:192.0.2.1 -all note=office,a:h.test",
		"v=spf1 ip4=192.0.2.77, ?all":                                 "v=spf1 ip4:192.0.2.77 ~all",
		"v=spf1 ip4=192.0.2.0/33 - all":                               "",
		"v=spf1 mx redirect=foo.test; ~all.":                          "v=spf1 mx ~all",
		"v=spf1 include:acme.test include=back.test ip4:1.2.3.4 -all": "",
		`v=spf1 include:foo.test"a:h.test" mx -all`:                   "v=spf1 include:foo.test a:h.test mx -all",
		`v=spf1 include:foo.test""-all`:                               "v=spf1 include:foo.test -all",
		"v=spf1 include:foo.test,bar.test -all":                       "",
		"v=spf1 include:foo.test-all":                                 "",
		`v=spf1 include:"foo.test" ip4:192.0.2.1; -all`:               "v=spf1 include:foo.test ip4:192.0.2.1 -all",
		`v=spf1 include:foo.test"mx" ip4:192.0.2.1; -all`:             "v=spf1 include:foo.test mx ip4:192.0.2.1 -all",
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

// The note on a mended record says what is not in it, and why it ends otherwise.
func TestMendingNotes(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"v=spf1 mx redirect=foo.test; ~all.": `leaves out "redirect=foo.test"`,
		"v=spf1 include:gone.test -all":      "ends in ~all and not in -all",
		"v=spf1 mx ö:x.test -all":            "a mistake at character 11",
		"v=spf1 mx öö moo:x.test -all":       "a mistake at character 14",
	} {
		r := checkZoneText(t, zone("-acme.test TXT", "acme.test TXT"+quoted(text)), DomainCheck{})
		if !strings.Contains(r.Text(), want) {
			t.Errorf("%q: %q is not said:\n%s", text, want, r.Text())
		}
	}
}

// A record is said to have a fault corrected only when it has.
func TestMendedSaysWhatItMends(t *testing.T) {
	t.Parallel()
	voids := "voids.test TXT \"v=spf1 a:x1.test a:x2.test a:x3.test -all\"\ntwo.test TXT \"v=spf1 a:x1.test a:x2.test -all\"\nacme.test.x.test TXT \"v=spf1 -all\"\n"
	for text, want := range map[string]map[string]bool{
		"v=spf1 include:voids.test ?all":                                {"spf_too_many_voids": false, "spf_neutral_all": true},
		"v=spf1 include:two.test ?all":                                  {"spf_many_voids": false, "spf_neutral_all": true},
		"v=spf1 include:%{d}.x.test include:acme.test.x.test ?all":      {"spf_same_include": false, "spf_neutral_all": true},
		"v=spf1 include:acme.test.x.test include:acme.test.x.test ?all": {"spf_same_include": true, "spf_neutral_all": true},
	} {
		r := checkZoneText(t, zone("-acme.test TXT", "acme.test TXT"+quoted(text))+"\n"+voids, DomainCheck{})
		for code, mended := range want {
			f := finding(t, r, code)
			if len(f.Publish) > 0 != mended || strings.Contains(f.Fix, "has it corrected") != mended {
				t.Errorf("%q: %s: %q, %v", text, code, f.Fix, f.Publish)
			}
		}
	}
}

// Strings whose blanks are in place were not split wrongly, whatever else is the
// matter; where they were, what else can be corrected is.
func TestSplitSPF(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		parts []string
		want  string // what spf_split proposes, "" where it is not found
	}{
		{[]string{"v=spf1 include:gone.test ip4:198.51.100.0/24 ", "mx -all"}, ""},
		{[]string{"v=spf1 ip4:198.51.100.0/24", "mx -all"}, "v=spf1 ip4:198.51.100.0/24 mx -all"},
		{[]string{"v=spf1 include:gone.test ip4:198.51.100.0/24", "mx -all"}, "v=spf1 ip4:198.51.100.0/24 mx -all"},
		{[]string{"v=spf1 ip4:198.51.100.0/24 include:go", "ne.test -all"}, ""},
	} {
		text := fmt.Sprintf("acme.test TXT %q %q", tt.parts[0], tt.parts[1])
		r := checkZoneText(t, zone("-acme.test TXT", text), DomainCheck{})
		got := ""
		for _, f := range r.Findings {
			if f.Code == "spf_split" {
				got = f.Publish[0].Value
			}
			for _, p := range f.Publish {
				if p.Value == strings.Join(tt.parts, "") {
					t.Errorf("%q: %s: the record is to be replaced by itself", tt.parts, f.Code)
				}
			}
		}
		if got != tt.want {
			t.Errorf("%q: %q, want %q\n%s", tt.parts, got, tt.want, r.Text())
		}
	}
}

// A text that is nearly SPF is published as a record only if that is sound.
func TestNearSPFSound(t *testing.T) {
	t.Parallel()
	long := ""
	for i := range 11 {
		long += fmt.Sprintf(" include:foo.test%s", strings.Repeat(".", i%2))
	}
	for text, want := range map[string]string{
		" v=spf1 mx -all":                                                       "v=spf1 mx -all",
		"v=spf1;mx include:acme.test -all":                                      "",
		"v=spf1,include:foo.test,a:h.test":                                      "v=spf1 include:foo.test a:h.test ~all",
		"v=spf1;include:foo.test;a:h.test+all":                                  "",
		"v=spf1,include:gone.test -all":                                         "",
		" v=spf1 a:x1.test a:x2.test a:x3.test mx -all":                         "",
		" v=spf1 exists:%{i}.x.test exists:%{i}.y.test exists:%{i}.z.test -all": "",
		" v=spf1" + strings.ReplaceAll(long, "include:foo.test.", "a:h.test") + " ptr ptr ptr ptr ptr ptr ptr mx -all": "",
		"Привет мир":     "-", // not SPF at all
		"Привет all":     "-",
		"ｖ＝ｓｐｆ１ mx -all": "v=spf1 mx -all",
	} {
		r := checkZoneText(t, zone("-acme.test TXT", "acme.test TXT"+quoted(text))+"\nfoo.test TXT \"v=spf1 ip4:198.51.100.0/24 -all\"\nh.test A 198.51.100.7\n", DomainCheck{})
		got := "-"
		for _, f := range r.Findings {
			if f.Code == "spf_near_miss" {
				got = ""
				for _, p := range f.Publish {
					got = p.Value
				}
			}
		}
		if got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// A record that stands at another host and would be in error at the domain is not
// to be moved there.
func TestSPFWrongHostSound(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int{"v=spf1 mx -all": 1, "v=spf1 include:acme.test -all": 0, "v=spf1 redirect=acme.test": 0} {
		r := checkZoneText(t, zone("-acme.test TXT", "www.acme.test TXT"+quoted(text)), DomainCheck{})
		n := 0
		for _, f := range r.Findings {
			if f.Code == "spf_wrong_host" {
				n = len(f.Publish)
			}
		}
		if n != want {
			t.Errorf("%q: %d records to publish, want %d\n%s", text, n, want, r.Text())
		}
	}
}

// What an include finds counts as the include says.
func TestOpenWithinInclude(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"v=spf1 include:open.test -all": true, "v=spf1 ?include:open.test -all": false, "v=spf1 -include:open.test -all": false,
		"v=spf1 redirect=open.test": true, "v=spf1 include:mid.test -all": true, "v=spf1 ?include:mid.test include:open.test -all": true,
	} {
		r := checkZoneText(t, zone("-acme.test TXT", "acme.test TXT"+quoted(text))+"\nopen.test TXT \"v=spf1 ip4:0.0.0.0/1 +all\"\nmid.test TXT \"v=spf1 include:open.test -all\"\n", DomainCheck{})
		for _, code := range []string{"spf_pass_all", "spf_wide_network"} {
			if got := strings.Contains(strings.Join(codes(r), " "), code); got != want {
				t.Errorf("%q: %s %v, want %v", text, code, got, want)
			}
		}
	}
}

// What a record refuses covers nothing that another part of it allows.
func TestOverlapsWithinInclude(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][]string{
		"v=spf1 -include:all.test include:foo.test -all":  nil,
		"v=spf1 -include:wrap.test include:foo.test -all": nil,
		"v=spf1 include:wrap.test include:foo.test -all":  {"spf_same_include"},
		"v=spf1 include:foo.test ip4:198.51.100.7 -all":   {"spf_covered_network"},
		"v=spf1 -include:foo.test ip4:198.51.100.7 -all":  nil,
	} {
		r := checkZoneText(t, zone("-acme.test TXT", "acme.test TXT"+quoted(text))+"\nall.test TXT \"v=spf1 ip4:0.0.0.0/0 -all\"\nfoo.test TXT \"v=spf1 ip4:198.51.100.0/24 -all\"\nwrap.test TXT \"v=spf1 include:foo.test -all\"\n", DomainCheck{})
		var got []string
		for _, c := range []string{"spf_same_include", "spf_covered_network", "spf_wide_network"} {
			if strings.Contains(strings.Join(codes(r), " "), c) {
				got = append(got, c)
			}
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%q (-want +got):\n%s", text, d)
		}
	}
}

// One record is proposed for a domain that has only a text which looks like one.
func TestSPFMissingBesideNearMiss(t *testing.T) {
	t.Parallel()
	r := checkZoneText(t, zone("-acme.test TXT", `acme.test TXT "v=spf1,mx,-all"`), DomainCheck{})
	if f := finding(t, r, "spf_missing"); len(f.Publish) > 0 || !strings.Contains(f.Fix, "Correct the text") {
		t.Errorf("%q, %v", f.Fix, f.Publish)
	}
	if f := finding(t, r, "spf_near_miss"); len(f.Publish) != 1 || f.Publish[0].Value != "v=spf1 mx -all" || r.SPF.Proposal != "v=spf1 mx include:spf.mtasv.net -all" {
		t.Errorf("%v, proposal %q", f.Publish, r.SPF.Proposal)
	}
}

// What joined records leave out is said; what a mended one may cost, too.
func TestSPFLeftUnsaid(t *testing.T) {
	t.Parallel()
	nine, hosts := "", ""
	for i := range 9 {
		nine += fmt.Sprintf(" a:h%d.test", i)
		hosts += fmt.Sprintf("h%d.test A 198.18.0.%d\n", i, i)
	}
	for _, tt := range []struct {
		code, want string
		records    []string
	}{
		{"spf_multiple", `leaves out "include:foo.test"`, []string{"v=spf1 mx -all include:foo.test", "v=spf1 ip4:192.0.2.1 ~all"}},
		{"spf_multiple", "does not end in +all", []string{"v=spf1 mx +all", "v=spf1 ip4:192.0.2.1 -all"}},
		{"spf_syntax", "What it costs is not known: slow.test could not be asked", []string{"v=spf1" + nine + " include:slow.test; -all"}},
	} {
		text := zone("-acme.test TXT") + "\n" + hosts
		for _, r := range tt.records {
			text += "acme.test TXT" + quoted(r) + "\n"
		}
		s := dnstest.Start(t, text)
		s.Fail("slow.test", "*", dnstest.Fault{RCode: 2})
		r, err := CheckDomain(t.Context(), "acme.test", DomainCheck{Resolver: testClient(t, s), CacheOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		if f := finding(t, r, tt.code); !strings.Contains(f.Fix, tt.want) || len(f.Publish) != 1 {
			t.Errorf("%q: %q, %v", tt.records, f.Fix, f.Publish)
		}
	}
	r := checkZoneText(t, zone("-acme.test TXT", `acme.test TXT "v=spf1 exists:%{l}.u.test -all"`, "bob.u.test A 127.0.0.2"), DomainCheck{Addresses: addresses("192.0.2.1")})
	if got := r.SPF.Addresses[0]; got.Result != "fail" || !strings.Contains(got.Reason, "for postmaster@acme.test, and the record makes differences between senders") {
		t.Errorf("%+v", got)
	}
}

// Whoever takes an offer after a correction does not undo the correction. What
// "all" says stays as it is published, and what is no more than a note is left
// alone.
func TestSPFOfferKeepsCorrection(t *testing.T) {
	t.Parallel()
	const hosts = "\nfoo.test TXT \"v=spf1 ip4:198.51.100.0/24 -all\"\n"
	for text, want := range map[string]string{ // the offer
		"include:foo.test -all":                    "include:foo.test include:spf.mtasv.net -all",
		"include:foo.test -all a:x.test":           "include:foo.test include:spf.mtasv.net -all",
		"include:foo.test ~all redirect=x.test":    "include:foo.test include:spf.mtasv.net ~all",
		"v=spf1 include:foo.test -all":             "include:foo.test include:spf.mtasv.net -all",
		"include=foo.test -all":                    "include:foo.test include:spf.mtasv.net -all",
		"include=foo.test ?all":                    "include:foo.test include:spf.mtasv.net ?all",
		"include:foo.test ?all":                    "include:foo.test include:spf.mtasv.net ?all",
		"include:foo.test":                         "include:foo.test include:spf.mtasv.net ~all",
		"a:gone.test include:foo.test -all":        "include:foo.test include:spf.mtasv.net -all",
		"include:foo.test include:foo.test. -all":  "include:foo.test include:foo.test. include:spf.mtasv.net -all",
		"INCLUDE:Foo.test  x-note=%{d} -ALL a:x.y": "INCLUDE:Foo.test include:spf.mtasv.net -ALL x-note=%{d}",
		"include:foo.test +all a:x.test":           "",
		"include:foo.test; -all":                   "",
	} {
		r := checkZoneText(t, zone("-acme.test TXT", "acme.test TXT"+quoted("v=spf1 "+text))+hosts, DomainCheck{})
		if want != "" {
			want = "v=spf1 " + want
		}
		if f := finding(t, r, "spf_include_absent"); r.SPF.Proposal != want || want != "" && f.Publish[0].Value != want {
			t.Errorf("%q: the offer is %q, want %q", text, r.SPF.Proposal, want)
		}
	}
}
