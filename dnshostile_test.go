package fluxly

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/getfluxly/fluxly/internal/dnsmsg/dnstest"
	"github.com/getfluxly/fluxly/internal/spf"
)

// quoted writes a text as the strings of a zone line.
func quoted(s string) string {
	var b strings.Builder
	for _, p := range spf.Split(s) {
		fmt.Fprintf(&b, " %q", p)
	}
	return b.String()
}

// Records that nobody sane publishes: each check ends with a report, and says
// what is the matter.
func TestCheckDomainHostileRecords(t *testing.T) {
	t.Parallel()
	thousand := "v=spf1"
	var targets strings.Builder
	for i := range 1000 {
		thousand += fmt.Sprintf(" include:i%d.test", i)
		if i < 100 {
			fmt.Fprintf(&targets, "i%d.test TXT \"v=spf1 include:i%d.test -all\"\n", i, i+1)
		}
	}
	var flood strings.Builder
	for i := range 220 {
		fmt.Fprintf(&flood, "acme.test TXT%s\n", quoted(strconv.Itoa(i)+strings.Repeat("x", 250)))
	}
	var hosts strings.Builder
	for i := range 11 {
		fmt.Fprintf(&hosts, "many.test MX 10 m%d.test\n", i)
	}
	one := func(text string) string { return "acme.test TXT" + quoted(text) + "\n" }
	tests := []struct {
		name, zone string
		want       []string // SPF findings
	}{
		{"1,000 includes", one(thousand+" -all") + targets.String(), []string{"fail spf_too_many_lookups", "warn spf_large_set", "warn spf_long_record", "info spf_same_include"}},
		{"60 KB of TXT", flood.String() + one("v=spf1 -all"), []string{"warn spf_large_set"}},
		{"4 KB of record", one("v=spf1 " + strings.Repeat("ip4:192.0.2.1 ", 290) + "-all"), []string{"warn spf_large_set", "warn spf_long_record", "info spf_covered_network"}},
		{"64 KB of record", one("v=spf1 " + strings.Repeat("ip4:192.0.2.1 ", 4500) + "-all"), []string{"warn spf_large_set", "warn spf_long_record", "info spf_covered_network"}},
		{"64 KB of mistakes", one("v=spf1 " + strings.Repeat("moo:x% ", 9000) + "-all"), []string{"fail spf_syntax", "warn spf_large_set", "warn spf_long_record"}},
		{"binary", one("v=spf1 \x00\xff\x01 -all"), []string{"fail spf_syntax"}},
		{"letters that look the same", one("v=ѕpf1 -all"), []string{"warn spf_near_miss"}},
		{"a domain of them", one("v=spf1 include:аcme.test -all"), []string{"fail spf_syntax"}},
		{"redirect to itself", one("v=spf1 redirect=acme.test"), []string{"fail spf_loop"}},
		{"include in a circle", one("v=spf1 include:b.test -all") + "b.test TXT \"v=spf1 include:acme.test -all\"\n", []string{"fail spf_loop"}},
		{"names without end", one("v=spf1 include:x.%{d} -all") + "*.acme.test TXT \"v=spf1 include:x.%{d} -all\"\n", []string{"fail spf_too_many_lookups"}},
		{"a name of 300 octets", one("v=spf1 include:" + strings.Repeat("a.", 150) + "test -all"), []string{"fail spf_target_missing"}},
		{"eleven mail hosts", one("v=spf1 mx:many.test -all") + hosts.String(), []string{"fail spf_too_many_mx"}},
		{"three void look-ups", one("v=spf1 a:x.test mx:y.test exists:z.test -all"), []string{"fail spf_too_many_voids", "warn spf_void_term"}},
		{"two void look-ups", one("v=spf1 a:x.test mx:y.test -all"), []string{"warn spf_many_voids", "warn spf_void_term"}},
		{"names for each mail", one("v=spf1 exists:%{i}.x.test exists:%{i}.y.test a:%{l}.z.test -all"), []string{"warn spf_possible_voids"}},
		{"two names for each mail", one("v=spf1 exists:%{i}.x.test exists:%{i}.y.test -all"), nil},
		{"everybody", one("v=spf1 +all"), []string{"fail spf_pass_all"}},
		{"half of the internet", one("v=spf1 ip4:0.0.0.0/1 ip6:2000::/3 -all"), []string{"fail spf_wide_network"}},
		{"ptr", one("v=spf1 ptr -all"), []string{"warn spf_ptr"}},
		{"the same include twice", one("v=spf1 include:b.test include:B.test. -all") + "b.test TXT \"v=spf1 -all\"\n", []string{"info spf_same_include"}},
		{"two records at a target", one("v=spf1 include:b.test -all") + "b.test TXT \"v=spf1 -all\"\nb.test TXT \"v=spf1 ~all\"\n", []string{"fail spf_target_multiple"}},
		{"version twice", one("v=spf1 v=spf1 -all"), []string{"warn spf_repeated_version"}},
		{"Sender ID", one("v=spf1 -all") + one("spf2.0/pra -all"), []string{"warn spf_sender_id"}},
		{"type 99", one("v=spf1 -all") + "acme.test SPF \"v=spf1 -all\"\n", []string{"warn spf_type99"}},
		{"escaped quotes", one(`\"v=spf1 -all\"`), []string{"warn spf_near_miss"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := dnstest.Start(t, tt.zone)
			r, err := CheckDomain(t.Context(), "acme.test", DomainCheck{Resolver: testClient(t, s), CacheOnly: true})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, f := range r.Findings {
				line := string(f.Level) + " " + f.Code
				if f.Area == "SPF" && f.Code != "spf_missing" && f.Code != "spf_include_absent" && (len(got) == 0 || got[len(got)-1] != line) {
					got = append(got, line)
				}
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
			if n := len(s.Asked()); n > 70 {
				t.Errorf("%d questions", n)
			}
			data, err := json.Marshal(r)
			if err != nil || len(data) > 200<<10 || len(r.Text()) > 50<<10 {
				t.Errorf("%v, a report of %d bytes, %d as JSON", err, len(r.Text()), len(data))
			}
		})
	}
}

// hostileTree is the report of a domain that includes a record thirty times,
// each at a name of its own. No form of it may be large.
func hostileTree(t *testing.T, record string) (r *DomainReport, page string) {
	t.Helper()
	var zone strings.Builder
	top := "v=spf1"
	for i := range 30 {
		top += fmt.Sprintf(" include:i%d.test", i)
		fmt.Fprintf(&zone, "i%d.test TXT%s\n", i, quoted(record))
	}
	r = checkZoneText(t, zone.String()+"acme.test TXT"+quoted(top+" ip4:192.0.2.1 -all")+"\n", DomainCheck{CacheOnly: true})
	data, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var html strings.Builder
	if err := r.WriteHTML(&html); err != nil {
		t.Fatal(err)
	}
	for form, n := range map[string]int{"JSON": len(data), "text": len(r.Text()), "HTML": html.Len()} {
		if n > 200<<10 {
			t.Errorf("%s of %d bytes", form, n)
		}
	}
	return r, html.String()
}

// Thirty records of 51 KB are not listed whole, and what is left out is said;
// all that costs look-ups is there.
func TestCheckDomainHostileTree(t *testing.T) {
	t.Parallel()
	r, page := hostileTree(t, "v=spf1 "+strings.Repeat("moo:x% ", 7300)+"-all")
	tree := r.SPF.Tree
	if tree.Omitted != 0 || len(tree.Terms) != 32 || tree.Lookups != 30 || r.SPF.Complete {
		t.Errorf("%d terms and %d omitted, %d look-ups, complete %v", len(tree.Terms), tree.Omitted, tree.Lookups, r.SPF.Complete)
	}
	read, listed := 0, 0
	for i, term := range tree.Terms[:30] {
		n := term.Tree
		if n == nil || n.State != term.State || n.State != "ok" && n.State != "skipped" {
			t.Fatalf("term %d: %+v", i, term)
		}
		listed += len(n.Terms)
		if n.State == "ok" {
			read++
			if len(n.Terms)+n.Omitted != 7301 || n.Omitted == 0 || len(n.Record) > 2000 {
				t.Errorf("term %d: %d terms, %d omitted, %d bytes of record", i, len(n.Terms), n.Omitted, len(n.Record))
			}
		}
	}
	if read == 0 || read > 6 || listed > 1000 {
		t.Errorf("%d records were read, %d terms are listed", read, listed)
	}
	for form, text := range map[string]string{"text": r.Text(), "HTML": page} {
		if !strings.Contains(text, "more terms, which are counted all the same") || !strings.Contains(text, "not followed any more") {
			t.Errorf("the %s does not say what is left out", form)
		}
	}
}

// A record that names thousands of report hosts makes few questions.
func TestCheckDomainHostileReportHosts(t *testing.T) {
	t.Parallel()
	rua := ""
	for i := range 2000 {
		rua += fmt.Sprintf(",mailto:a@h%d.other%d.test", i, i)
	}
	s := dnstest.Start(t, zone("-_dmarc.acme.test TXT", "_dmarc.acme.test TXT"+quoted("v=DMARC1; p=none; rua="+rua[1:])))
	r, err := CheckDomain(t.Context(), "acme.test", DomainCheck{DKIMSelector: testSelector, Resolver: testClient(t, s), CacheOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	finding(t, r, "dmarc_many_reports")
	if n := len(s.Asked()); n > 100 {
		t.Errorf("%d questions", n)
	}
}

// Nor are terms of 50 KB, wherever they are named.
func TestCheckDomainHostileTerms(t *testing.T) {
	t.Parallel()
	hostileTree(t, "v=spf1 a:"+strings.Repeat("x", 50000)+".test -all")
}

// Findings of one kind are few at each name, and fewer than there are names
// elsewhere; those at the domain itself are not pushed out.
func TestFewOfEach(t *testing.T) {
	t.Parallel()
	var all []DomainFinding
	for i := range 100 {
		for range 3 {
			all = append(all, DomainFinding{Code: "spf_syntax", Name: fmt.Sprintf("a%d.test", i), Summary: "X."})
		}
	}
	for range 7 {
		all = append(all, DomainFinding{Code: "spf_syntax", Name: "sub.acme.test", Summary: "X."}, DomainFinding{Code: "spf_ptr", Name: "b.test", Summary: "X."})
	}
	got := map[string]int{}
	for _, f := range fewOfEach("acme.test", all) {
		place := f.Name
		if strings.HasPrefix(place, "a") {
			place = "elsewhere"
		}
		got[f.Code+" "+place+": "+f.Summary]++
	}
	want := map[string]int{
		// 8 names have all of theirs, a ninth one.
		"spf_syntax elsewhere: X.": 24, "spf_syntax elsewhere: X. There are 2 more of this kind. There are 273 more of this kind at other names.": 1,
		"spf_syntax sub.acme.test: X.": 4, "spf_syntax sub.acme.test: X. There are 2 more of this kind.": 1,
		"spf_ptr b.test: X.": 4, "spf_ptr b.test: X. There are 2 more of this kind.": 1,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// The same for DMARC and DKIM: records without end, and with every byte.
func TestCheckDomainHostileLists(t *testing.T) {
	t.Parallel()
	dkim := testSelector + "._domainkey.acme.test"
	var bytes strings.Builder
	for i := range 256 {
		bytes.WriteByte(byte(i))
	}
	for name, text := range map[string]string{
		"semicolons": strings.Repeat(";", 60000), "tags": strings.Repeat("aa=b;", 12000), "addresses": "rua=" + strings.Repeat("mailto:a@b.test,", 3900),
		"bytes": bytes.String(), "key": "p=" + strings.Repeat("A", 60000),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := checkZoneText(t, zone("-"+dkim+" TXT", dkim+" TXT"+quoted("v=DKIM1; "+text), "-_dmarc.acme.test TXT", "_dmarc.acme.test TXT"+quoted("v=DMARC1; p=none; "+text)), DomainCheck{})
			data, err := json.Marshal(r)
			if err != nil || len(data) > 4<<20 || len(r.Findings) > 60 {
				t.Errorf("%v, %d findings, %d bytes", err, len(r.Findings), len(data))
			}
			if r.DKIM[0].State == "unknown" || r.DMARC.State == "unknown" || r.DMARC.State == "missing" {
				t.Errorf("DKIM %s, DMARC %s", r.DKIM[0].State, r.DMARC.State)
			}
		})
	}
}

// A validating resolver refuses the domain: whether DNSSEC is the reason shows
// when it is asked not to validate. The zone's own servers answer all the while.
func TestCheckDomainBogus(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		fault    dnstest.Fault
		profiles []DomainProfile
		want     []string // of the areas Zone and dnssec
	}{
		{"wrong signatures", dnstest.Fault{Bogus: true}, nil, []string{"fail dnssec_bogus", "warn zone_resolver_fails"}},
		{"wrong signatures, profile", dnstest.Fault{Bogus: true}, []DomainProfile{DNSSEC}, []string{"warn zone_resolver_fails", "fail dnssec_bogus"}},
		{"a resolver that just fails", dnstest.Fault{RCode: 2}, nil, []string{"warn zone_resolver_fails"}},
		{"a resolver that just fails, profile", dnstest.Fault{RCode: 2}, []DomainProfile{DNSSEC}, []string{"warn zone_resolver_fails", "unknown dnssec_unasked"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cache, own := dnstest.Start(t, zone("acme.test DS x")), dnstest.Start(t, zone())
			cache.Fail("acme.test", "TXT", tt.fault)
			r, err := CheckDomain(t.Context(), "acme.test", DomainCheck{DKIMSelector: testSelector, Resolver: zoneClient(t, cache, own, own), Profiles: tt.profiles})
			if err != nil {
				t.Fatal(err)
			}
			got := []string{}
			for _, f := range r.Findings {
				if f.Area == "Zone" || f.Area == "dnssec" {
					got = append(got, string(f.Level)+" "+f.Code)
				}
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Errorf("(-want +got):\n%s\n%s", d, r.Text())
			}
		})
	}
	// Not only at the domain itself: whatever the verdict rests on.
	const dkim, dmarc, bounces = testSelector + "._domainkey.acme.test", "_dmarc.acme.test", "pm-bounces.acme.test"
	for _, tt := range []struct {
		name  string
		fault dnstest.Fault
		at    []string
		want  string // finding
		name0 string
		ready bool
		head  string
	}{
		{"everywhere", dnstest.Fault{Bogus: true}, []string{"acme.test", dkim, dmarc, bounces}, "fail dnssec_bogus", "acme.test", false, "not ready to send"},
		{"the key", dnstest.Fault{Bogus: true}, []string{dkim}, "fail dnssec_bogus", dkim, false, "not ready to send"},
		{"DMARC", dnstest.Fault{Bogus: true}, []string{dmarc}, "fail dnssec_bogus", dmarc, false, "not ready to send"},
		{"the Return-Path", dnstest.Fault{Bogus: true}, []string{bounces}, "warn dnssec_bogus", bounces, true, "ready to send through Postmark"},
		{"the key just fails", dnstest.Fault{RCode: 2}, []string{dkim}, "unknown zone_resolver_fails", dkim, false, "cannot tell yet"},
		{"DMARC just fails", dnstest.Fault{RCode: 2}, []string{dmarc}, "unknown zone_resolver_fails", dmarc, false, "cannot tell yet"},
		{"DMARC is refused", dnstest.Fault{RCode: 5}, []string{dmarc}, "unknown zone_resolver_fails", dmarc, false, "cannot tell yet"},
		{"the Return-Path just fails", dnstest.Fault{RCode: 2}, []string{bounces}, "warn zone_resolver_fails", bounces, true, "ready to send through Postmark"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cache, own := dnstest.Start(t, zone()), dnstest.Start(t, zone())
			for _, n := range tt.at {
				cache.Fail(n, "TXT", tt.fault)
			}
			r, err := CheckDomain(t.Context(), "acme.test", DomainCheck{DKIMSelector: testSelector, DKIMValue: testKey, Resolver: zoneClient(t, cache, own, own)})
			if err != nil {
				t.Fatal(err)
			}
			f := finding(t, r, tt.want[strings.Index(tt.want, " ")+1:])
			if string(f.Level)+" "+f.Code != tt.want || f.Name != tt.name0 || r.Ready != tt.ready || !strings.HasPrefix(r.Text(), "acme.test: "+tt.head) {
				t.Errorf("ready %v, %+v\n%s", r.Ready, f, r.Text())
			}
		})
	}
	// The zone of somebody else, to which the key is an alias: the domain's own DS
	// record is not at fault.
	t.Run("behind an alias", func(t *testing.T) {
		t.Parallel()
		text := zone("-"+dkim+" TXT", dkim+" CNAME k.host.test", "k.host.test TXT"+quoted(testKey))
		cache, own := dnstest.Start(t, text), dnstest.Start(t, text)
		cache.Fail(dkim, "TXT", dnstest.Fault{Bogus: true})
		cache.Fail("k.host.test", "TXT", dnstest.Fault{Bogus: true})
		r, err := CheckDomain(t.Context(), "acme.test", DomainCheck{DKIMSelector: testSelector, Resolver: zoneClient(t, cache, own, own)})
		if err != nil {
			t.Fatal(err)
		}
		if f := finding(t, r, "dnssec_bogus"); r.Ready || f.Name != dkim || !strings.Contains(f.Fix, "owner of k.host.test") || strings.Contains(f.Fix, "DS record") {
			t.Errorf("ready %v, %+v", r.Ready, f)
		}
	})
	t.Run("signed", func(t *testing.T) {
		t.Parallel()
		r := checkZoneText(t, zone("acme.test DS x"), DomainCheck{Profiles: []DomainProfile{DNSSEC}})
		if i := slices.IndexFunc(r.Areas, func(a DomainArea) bool { return a.Name == "dnssec" }); i < 0 || r.Areas[i].Level != DomainOK {
			t.Errorf("%+v", r.Areas)
		}
	})
}

// A resolver that answers with records of another name has answered nothing.
func TestCheckDomainLiar(t *testing.T) {
	t.Parallel()
	s := dnstest.Start(t, zone())
	s.Fail("*", "*", dnstest.Fault{Liar: true})
	r, err := CheckDomain(t.Context(), "acme.test", DomainCheck{DKIMSelector: testSelector, DKIMValue: testKey, Resolver: testClient(t, s), CacheOnly: true})
	if err != nil || r.Ready || r.DKIM[0].State != "unknown" || r.DMARC.State != "unknown" || r.SPF.State != "unknown" || r.ReturnPath.State != "unknown" {
		t.Errorf("%v\n%s", err, r.Text())
	}
	for _, f := range r.Findings {
		if f.Level == DomainFail || len(f.Publish) > 0 {
			t.Errorf("%s of a reply that says nothing: %s", f.Code, f.Summary)
		}
	}
}

// One of two name servers is dead and the caller gives one second: all else is
// in the report in time.
func TestCheckDomainDeadServerInTime(t *testing.T) {
	t.Parallel()
	cache, one, two := dnstest.Start(t, zone()), dnstest.Start(t, zone()), dnstest.Start(t, zone())
	two.Fail("*", "*", dnstest.Fault{Delay: time.Hour})
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	begin := time.Now()
	r, err := CheckDomain(ctx, "acme.test", DomainCheck{DKIMSelector: testSelector, DKIMValue: testKey, Resolver: zoneClient(t, cache, one, two)})
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took > 4*time.Second {
		t.Errorf("took %v", took)
	}
	if !r.Ready {
		t.Errorf("report:\n%s", r.Text())
	}
	finding(t, r, "zone_server_dead")
}
