package fluxly

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/getfluxly/fluxly/internal/dnsmsg/dnstest"
)

func TestCheckDomains(t *testing.T) {
	t.Parallel()
	var zoneText strings.Builder
	var domains []string
	for i := range 40 {
		d := fmt.Sprintf("acme%d.test", i)
		for line := range strings.Lines(healthyZone) {
			if i == 0 || strings.Contains(strings.Fields(line + " x")[0], "acme.test") {
				zoneText.WriteString(strings.ReplaceAll(line, "acme.test", d))
			}
		}
		domains = append(domains, d+"="+testSelector)
	}
	domains = append(domains, "not a domain")
	s := dnstest.Start(t, zoneText.String())
	results := CheckDomains(t.Context(), domains, DomainCheck{Resolver: testClient(t, s), CacheOnly: true, InFlight: 4})
	for i, r := range results[:40] {
		if r.Err != nil || r.Domain != fmt.Sprintf("acme%d.test", i) || !r.Report.Ready {
			t.Errorf("%s: %v\n%s", r.Domain, r.Err, r.Report.Text())
		}
		for _, q := range r.Report.Queries {
			if strings.HasPrefix(q.Name, "acme") && !strings.HasSuffix(q.Name, r.Domain) {
				t.Errorf("%s lists the question %s", r.Domain, q.Name)
			}
		}
	}
	if r := results[40]; !errors.Is(r.Err, ErrInvalid) || r.Report != nil {
		t.Errorf("%+v", r)
	}
	n := 0
	for _, q := range s.Asked() {
		if q == "spf.mtasv.net TXT" {
			n++
		}
	}
	if n != 1 {
		t.Errorf("spf.mtasv.net was asked %d times", n)
	}
}

// countingResolver counts the questions that are out at the same time.
type countingResolver struct {
	*DNSClient
	now, most atomic.Int64
}

func (c *countingResolver) Query(ctx context.Context, name, typ string) (DNSAnswer, error) {
	n := c.now.Add(1)
	defer c.now.Add(-1)
	for m := c.most.Load(); n > m && !c.most.CompareAndSwap(m, n); m = c.most.Load() {
	}
	return c.DNSClient.Query(ctx, name, typ)
}

// However many domains there are, no more questions are out than was asked for.
func TestCheckDomainsInFlight(t *testing.T) {
	t.Parallel()
	s := dnstest.Start(t, zone())
	s.Fail("*", "*", dnstest.Fault{Delay: time.Millisecond})
	var domains []string
	for i := range 60 {
		domains = append(domains, fmt.Sprintf("d%d.acme.test=s1", i))
	}
	for _, want := range []int64{1, 7} {
		c := &countingResolver{DNSClient: testClient(t, s)}
		for _, r := range CheckDomains(t.Context(), domains, DomainCheck{Resolver: c, CacheOnly: true, InFlight: int(want), Profiles: DomainProfiles()}) {
			if r.Err != nil {
				t.Error(r.Err)
			}
		}
		if got := c.most.Load(); got > want || got == 0 {
			t.Errorf("%d questions at once, want at most %d", got, want)
		}
	}
}

func TestCompareReports(t *testing.T) {
	t.Parallel()
	dkim := testSelector + "._domainkey.acme.test"
	check := func(zoneText string, fail ...string) *DomainReport {
		s := dnstest.Start(t, zoneText)
		for _, f := range fail {
			s.Fail(f, "*", dnstest.Fault{RCode: 2})
		}
		r, err := CheckDomain(t.Context(), "acme.test", DomainCheck{DKIMSelector: testSelector, Resolver: testClient(t, s), CacheOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	healthy := check(zone())
	lines := func(cs []DomainChange) []string {
		out := []string{}
		for _, c := range cs {
			out = append(out, strings.TrimRight(c.Kind+" "+c.Code+" "+c.Name, " "))
		}
		return out
	}
	tests := []struct {
		name          string
		before, after *DomainReport
		want          []string
	}{
		{"nothing", healthy, check(zone()), []string{}},
		{"key removed", healthy, check(zone("-" + dkim + " TXT")), []string{"ready", "record  " + dkim, "new dkim_missing " + dkim, "new align_dkim", "gone dkim_rsa_1024 " + dkim}},
		{"policy changed", healthy, check(zone(`_dmarc.acme.test TXT "v=DMARC1; p=none; rua=mailto:d@acme.test"`)), []string{"record  _dmarc.acme.test", "new dmarc_p_none _dmarc.acme.test"}},
		{"resolver silent about SPF", healthy, check(zone(), "acme.test"), []string{"new mail_unasked acme.test", "new spf_unasked acme.test"}},
		{"key could not be asked", healthy, check(zone(), dkim), []string{"new dkim_unasked " + dkim}},
		{"the key is there and DMARC could not be asked", check(zone("-" + dkim + " TXT")), check(zone(), "_dmarc.acme.test"), []string{"record  " + dkim, "new dkim_rsa_1024 " + dkim, "new dmarc_unasked _dmarc.acme.test", "gone dkim_missing " + dkim}},
		{"key removed, DMARC could not be asked", healthy, check(zone("-"+dkim+" TXT"), "_dmarc.acme.test"), []string{"ready", "record  " + dkim, "new dkim_missing " + dkim, "new dmarc_unasked _dmarc.acme.test", "gone dkim_rsa_1024 " + dkim}},
	}
	for _, tt := range tests {
		got := lines(CompareReports(tt.before, tt.after))
		if d := cmp.Diff(tt.want, got, cmp.Transformer("sort", func(s []string) map[string]bool {
			m := map[string]bool{}
			for _, v := range s {
				m[v] = true
			}
			return m
		})); d != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, d)
		}
	}
}

// Two findings of one code are the same only when they are about the same
// thing, and stay the same when only a number or a reason in them changes.
func TestCompareFindings(t *testing.T) {
	t.Parallel()
	report := func(fs ...DomainFinding) *DomainReport { return &DomainReport{Domain: "acme.test", Findings: fs} }
	f := func(code, area string, level DomainLevel, name, summary string) DomainFinding {
		return DomainFinding{Code: code, Area: area, Level: level, Name: name, Summary: summary}
	}
	dead := func(ns, why string) DomainFinding {
		return f("zone_server_dead", "Zone", DomainWarn, "acme.test", "The name server "+ns+" of acme.test could not be asked: "+why+".")
	}
	void := func(host string) DomainFinding {
		return f("spf_void_term", "SPF", DomainWarn, "acme.test", `"a:`+host+`" finds nothing: `+host+" has no address record.")
	}
	tests := []struct {
		name          string
		before, after *DomainReport
		want          []string
	}{
		{"another server is dead", report(dead("ns1.acme.test", "silent")), report(dead("ns2.acme.test", "silent")), []string{"new zone_server_dead", "gone zone_server_dead"}},
		{"the same for another reason", report(dead("ns1.acme.test", "silent")), report(dead("ns1.acme.test", "it refuses")), nil},
		{"one of two is well again", report(dead("ns1.acme.test", "silent"), dead("ns2.acme.test", "silent")), report(dead("ns2.acme.test", "silent")), []string{"gone zone_server_dead"}},
		{"two in another order", report(dead("ns1.acme.test", "x"), dead("ns2.acme.test", "y")), report(dead("ns2.acme.test", "x"), dead("ns1.acme.test", "y")), nil},
		{"another term finds nothing", report(void("x.test")), report(void("y.test")), []string{"new spf_void_term", "gone spf_void_term"}},
		{"one more term", report(void("x1.test")), report(void("x1.test"), void("x2.test")), []string{"new spf_void_term"}},
		{
			"the cache has less time left", report(f("zone_cached", "Zone", DomainInfo, "acme.test", "The change at acme.test is published. Caches may keep the old answer for 300 s.")),
			report(f("zone_cached", "Zone", DomainInfo, "acme.test", "The change at acme.test is published. Caches may keep the old answer for a while.")), nil,
		},
		{
			"one more look-up", report(f("spf_many_lookups", "SPF", DomainInfo, "acme.test", "Evaluating the record takes 8 of the 10 DNS look-ups allowed.")),
			report(f("spf_many_lookups", "SPF", DomainInfo, "acme.test", "Evaluating the record takes 9 of the 10 DNS look-ups allowed.")), nil,
		},
		{
			"many of a kind", report(f("spf_covered_network", "SPF", DomainInfo, "acme.test", "One is covered. There are 7 more of this kind.")),
			report(f("spf_covered_network", "SPF", DomainInfo, "acme.test", "One is covered.")), nil,
		},
		{
			"could not be asked for another reason", report(f("dkim_unasked", "DKIM", DomainUnknown, "k.acme.test", "Could not ask for the DKIM key: silent.")),
			report(f("dkim_unasked", "DKIM", DomainUnknown, "k.acme.test", "Could not ask for the DKIM key: it refuses.")), nil,
		},
		{"another level", report(f("returnpath_missing", "Return-Path", DomainInfo, "r.acme.test", "No alias.")), report(f("returnpath_missing", "Return-Path", DomainFail, "r.acme.test", "No alias.")), []string{"level returnpath_missing"}},
		{"the same twice", report(void("x.test"), void("x.test")), report(void("x.test")), []string{"gone spf_void_term"}},
	}
	for _, tt := range tests {
		var got []string
		for _, c := range CompareReports(tt.before, tt.after) {
			got = append(got, c.Kind+" "+c.Code)
		}
		if d := cmp.Diff(tt.want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, d)
		}
	}
}

// The record that an inherited policy comes from is named where it stands.
func TestCompareInherited(t *testing.T) {
	t.Parallel()
	const none, reject = `_dmarc.acme.test TXT "v=DMARC1; p=none; rua=mailto:d@acme.test"`, `_dmarc.acme.test TXT "v=DMARC1; p=reject; rua=mailto:d@acme.test"`
	own := strings.Replace(none, "_dmarc.", "_dmarc.sub.", 1)
	check := func(lines ...string) *DomainReport {
		s := dnstest.Start(t, zone(append([]string{"sub.acme.test A 192.0.2.7"}, lines...)...))
		r, err := CheckDomain(t.Context(), "sub.acme.test", DomainCheck{Resolver: testClient(t, s), CacheOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	tests := []struct {
		name          string
		before, after *DomainReport
		want          string
	}{
		{"changed above", check(none), check(reject), "The record at _dmarc.acme.test changed."},
		{"removed above", check(none), check("-_dmarc.acme.test TXT"), "The record at _dmarc.acme.test was removed."},
		{"published above", check("-_dmarc.acme.test TXT"), check(none), "A record was published at _dmarc.acme.test."},
		{"one of its own", check(none), check(none, own), "The DMARC policy now comes from the record at _dmarc.sub.acme.test, and no longer from that at _dmarc.acme.test."},
		{"no longer one of its own", check(reject, own), check(reject), "The DMARC policy now comes from the record at _dmarc.acme.test, and no longer from that at _dmarc.sub.acme.test."},
	}
	for _, tt := range tests {
		var got []string
		for _, c := range CompareReports(tt.before, tt.after) {
			if c.Kind == "record" {
				got = append(got, c.Text)
			}
		}
		if d := cmp.Diff([]string{tt.want}, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, d)
		}
	}
}

// Several records, or others than expected, are no removed ones, and all of them
// stand in the change.
func TestCompareRecords(t *testing.T) {
	t.Parallel()
	const dkim, second = testSelector + "._domainkey.acme.test", `_dmarc.acme.test TXT "v=DMARC1; p=reject"`
	const policy = `_dmarc.acme.test TXT "v=DMARC1; p=none"`
	check := func(lines ...string) *DomainReport {
		return checkZoneText(t, zone(lines...), DomainCheck{DKIMSelector: testSelector})
	}
	tests := []struct {
		name          string
		before, after *DomainReport
		text          string
		parts         []string // of After
	}{
		{"a second policy", check(policy), check(policy, second), "The record at _dmarc.acme.test changed.", []string{"p=none", " | ", "p=reject"}},
		{"one policy again", check(policy, second), check(policy), "The record at _dmarc.acme.test changed.", []string{"p=none"}},
		{"both policies removed", check(policy, second), check("-_dmarc.acme.test TXT"), "The record at _dmarc.acme.test was removed.", nil},
		{"a second key", check(), check(dkim+` TXT "`+testKey+`"`, dkim+` TXT "k=rsa; p="`), "The record at " + dkim + " changed.", []string{testKey, " | ", "k=rsa; p="}},
		{"one key again", check(dkim+` TXT "`+testKey+`"`, dkim+` TXT "k=rsa; p="`), check(), "The record at " + dkim + " changed.", []string{testKey}},
		{"something else than a key", check(), check(dkim + ` TXT "hello"`), "The record at " + dkim + " changed.", []string{"hello"}},
		{"an address in place of the alias", check(), check("-pm-bounces.acme.test CNAME", "pm-bounces.acme.test A 192.0.2.9"), "The record at pm-bounces.acme.test changed.", []string{"(an address)"}},
		{"no alias", check(), check("-pm-bounces.acme.test CNAME"), "The record at pm-bounces.acme.test was removed.", nil},
		{"another mail host", check(), check("acme.test MX 10 mx.acme.test"), "The mail host (MX) at acme.test changed.", []string{"mx.acme.test"}},
		{"no mail host", check(), check("-acme.test MX"), "The mail host (MX) at acme.test was removed.", nil},
	}
	for _, tt := range tests {
		var got []DomainChange
		for _, c := range CompareReports(tt.before, tt.after) {
			if c.Kind == "record" {
				got = append(got, c)
			}
		}
		if len(got) != 1 || got[0].Text != tt.text || got[0].After == "" != (tt.parts == nil) {
			t.Errorf("%s: %+v", tt.name, got)
			continue
		}
		for _, p := range tt.parts {
			if !strings.Contains(got[0].After, p) {
				t.Errorf("%s: %q lacks %q", tt.name, got[0].After, p)
			}
		}
	}
	if cs := CompareReports(nil, tests[0].after); cs != nil {
		t.Errorf("compares nothing with a report: %+v", cs)
	}
	if cs := CompareReports(tests[0].after, nil); cs != nil {
		t.Errorf("compares a report with nothing: %+v", cs)
	}
}

// What changes while it cannot be asked is told once it can, and a silence by
// itself says nothing of records or of being ready.
func TestWatchDomainGap(t *testing.T) {
	t.Parallel()
	const dmarc, dkim = "_dmarc.acme.test", testSelector + "._domainkey.acme.test"
	type round struct {
		zone string
		fail string // name that gets SERVFAIL
	}
	tests := []struct {
		name   string
		rounds []round
		want   []string // by round
	}{
		{"removed meanwhile", []round{{zone(), ""}, {zone(), dmarc}, {zone("-" + dmarc + " TXT"), ""}}, []string{
			"", "new dmarc_unasked", "ready |record |new dmarc_missing|gone dmarc_unasked",
		}},
		{"silent for long", []round{{zone(), ""}, {zone(), dmarc}, {zone(), dmarc}, {zone("-" + dmarc + " TXT"), ""}}, []string{
			"", "new dmarc_unasked", "", "ready |record |new dmarc_missing|gone dmarc_unasked",
		}},
		{"nothing changed", []round{{zone(), ""}, {zone(), dkim}, {zone(), ""}}, []string{"", "new dkim_unasked", "gone dkim_unasked"}},
		{"mended meanwhile", []round{{zone("-" + dkim + " TXT"), ""}, {zone("-" + dkim + " TXT"), dkim}, {zone(), ""}}, []string{
			"", "new dkim_unasked", "ready |record |new dkim_rsa_1024|gone align_dkim|gone dkim_missing|gone dkim_unasked",
		}},
		{"not known at first", []round{{zone(), dmarc}, {zone("-" + dmarc + " TXT"), ""}, {zone(), ""}}, []string{
			"", "new dmarc_missing|gone dmarc_unasked", "ready |record |gone dmarc_missing",
		}},
		{"something else in the gap", []round{{zone(), ""}, {zone("-acme.test MX"), dkim}, {zone("-acme.test MX"), ""}}, []string{
			"", "record |new dkim_unasked|new dmarc_report_no_mx|new mail_no_host", "gone dkim_unasked",
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := dnstest.Start(t, "")
			var known lastKnown
			for i, r := range tt.rounds {
				s.Set(t, r.zone)
				for _, name := range []string{dmarc, dkim} {
					f := dnstest.Fault{}
					if name == r.fail {
						f.RCode = 2
					}
					s.Fail(name, "TXT", f)
				}
				rep, err := CheckDomain(t.Context(), "acme.test", DomainCheck{DKIMSelector: testSelector, Resolver: testClient(t, s), CacheOnly: true})
				if err != nil {
					t.Fatal(err)
				}
				var got []string
				for _, c := range known.next(rep) {
					got = append(got, c.Kind+" "+c.Code)
				}
				slices.SortStableFunc(got, func(a, b string) int {
					rank := func(s string) int {
						return slices.Index([]string{"ready", "record", "new", "level", "gone"}, strings.Fields(s)[0])
					}
					if c := rank(a) - rank(b); c != 0 {
						return c
					}
					return strings.Compare(a, b)
				})
				if d := cmp.Diff(tt.want[i], strings.Join(got, "|")); d != "" {
					t.Errorf("round %d (-want +got):\n%s", i+1, d)
				}
			}
		})
	}
}

func TestWatchDomain(t *testing.T) {
	t.Parallel()
	s := dnstest.Start(t, zone("-_dmarc.acme.test TXT"))
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var got []DomainChange
	calls := 0
	err := WatchDomain(ctx, "acme.test", DomainCheck{DKIMSelector: testSelector, Resolver: testClient(t, s), CacheOnly: true}, time.Nanosecond, func(r *DomainReport, changes []DomainChange) bool {
		calls++
		got = append(got, changes...)
		s.Set(t, zone())
		return calls < 2
	})
	if err != nil || calls != 2 || len(got) == 0 || got[0].Kind != "ready" {
		t.Errorf("%v, %d calls, %+v", err, calls, got)
	}
	if err := WatchDomain(ctx, "nonsense", DomainCheck{}, 0, nil); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
	cancel()
	if err := WatchDomain(ctx, "acme.test", DomainCheck{Resolver: testClient(t, s)}, 0, nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// stuckNamed never answers questions about the names that have stuck in them, and
// those about acme.test not before some of the others are out.
type stuckNamed struct {
	*DNSClient

	stuck  *atomic.Int64
	want   int64
	enough chan struct{}
}

func (s stuckNamed) Query(ctx context.Context, name, typ string) (DNSAnswer, error) {
	if strings.Contains(name, "stuck") {
		if s.stuck.Add(1) == s.want {
			close(s.enough)
		}
		<-ctx.Done()
		return DNSAnswer{}, ctx.Err()
	}
	if strings.Contains(name, "acme.test") {
		select {
		case <-s.enough:
		case <-ctx.Done():
		}
	}
	return s.DNSClient.Query(ctx, name, typ)
}

// A domain with many questions that are never answered leaves room for others
// while it is checked, and takes none when that is over.
func TestCheckDomainsFairShare(t *testing.T) {
	t.Parallel()
	s := dnstest.Start(t, zone())
	for _, tt := range []struct {
		name, evil       string
		n, inFlight, out int
	}{
		{"beside three", "stuck%d.test", 3, 8, 6},
		{"after sixteen", "stuck%d.test", 16, 16, 16}, // no more are worked on at once
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var domains []string
			for i := range tt.n {
				domains = append(domains, fmt.Sprintf(tt.evil, i))
			}
			domains = append(domains, "acme.test="+testSelector)
			res := stuckNamed{testClient(t, s), &atomic.Int64{}, int64(tt.out), make(chan struct{})}
			got := CheckDomains(t.Context(), domains, DomainCheck{Resolver: res, CacheOnly: true, InFlight: tt.inFlight, QuestionTimeout: time.Hour, Timeout: 5 * time.Second})
			for i, r := range got {
				if r.Err != nil || r.Report.Ready != (i == tt.n) {
					t.Errorf("%s: %v\n%s", r.Domain, r.Err, r.Report.Text())
				}
			}
		})
	}
}
