package fluxly

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/getfluxly/fluxly/internal/dnsmsg/dnstest"
	"github.com/getfluxly/fluxly/internal/spf"
	"github.com/getfluxly/fluxly/internal/spf/spfsuite"
)

// suiteResolver answers from the zone of one group of the suite.
type suiteResolver struct{ z *spfsuite.Zone }

func (s suiteResolver) get(name, typ string) ([]string, error) {
	switch v, o := s.z.Ask(name, typ); o {
	case spfsuite.Found:
		return v, nil
	case spfsuite.Empty:
		return nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
	}
	return nil, &net.DNSError{Err: "timeout", Name: name, IsTimeout: true, IsTemporary: true}
}

func (s suiteResolver) LookupTXT(_ context.Context, name string) ([]string, error) {
	return s.get(name, "TXT")
}

func (s suiteResolver) LookupCNAME(_ context.Context, host string) (string, error) { return host, nil }

func (s suiteResolver) LookupMX(_ context.Context, name string) ([]*net.MX, error) {
	v, err := s.get(name, "MX")
	var out []*net.MX
	for _, h := range v {
		out = append(out, &net.MX{Host: h})
	}
	return out, err
}

func (s suiteResolver) LookupNS(context.Context, string) ([]*net.NS, error) { return nil, nil }

func (s suiteResolver) LookupIPAddr(_ context.Context, host string) ([]net.IPAddr, error) {
	v4, err4 := s.get(host, "A")
	v6, err6 := s.get(host, "AAAA")
	var out []net.IPAddr
	for _, v := range append(slices.Clone(v4), v6...) {
		out = append(out, net.IPAddr{IP: net.ParseIP(v)})
	}
	if len(out) > 0 {
		return out, nil
	}
	if e, ok := err4.(*net.DNSError); ok && !e.IsNotFound { //nolint:errorlint // made above
		return nil, err4
	}
	return nil, err6
}

func (s suiteResolver) LookupAddr(_ context.Context, addr string) ([]string, error) {
	ip, err := netip.ParseAddr(addr)
	if err != nil {
		return nil, err
	}
	return s.get(strings.TrimSuffix(reverseName(ip), "."), "PTR")
}

// The linter first, then the evaluator: so the evaluator's leniency with
// records that break the grammar never reaches a report. Of the 203 results 198
// are the suite's, five are "unknown", and none is wrong.
func TestSuiteVerdicts(t *testing.T) {
	t.Parallel()
	// What the evaluator cannot tell for mails whose record is sound: names
	// with a slash, and one of several names of an address.
	known := map[string]string{
		"a-colon-domain": "unknown", "a-colon-domain-ip4mapped": "unknown",
		"mx-colon-domain": "unknown", "mx-colon-domain-ip4mapped": "unknown",
		"p-macro-multiple": "unknown",
	}
	n, right := 0, 0
	for _, doc := range spfsuite.Load(t) {
		res := suiteResolver{spfsuite.NewZone(t, doc)}
		for name, test := range doc.Tests {
			n++
			sender := test.MailFrom
			if !strings.Contains(sender, "@") {
				sender = "postmaster@" + test.Helo
			}
			_, domain, _ := strings.Cut(sender, "@")
			ip := netip.MustParseAddr(test.Host)
			k := &checker{ask: &asker{askCore: newAskCore(res, time.Minute, 4), mine: map[dnsKey]*ownQuestion{}}}
			tree := spf.Walk(t.Context(), spfSource{k}, domain, spf.Identity{Addr: ip, Sender: sender, Helo: test.Helo})
			got := k.evaluateSPF(t.Context(), tree, ip, test.Helo, test.MailFrom)
			if slices.Contains(test.Result, got.Result) {
				right++
				continue
			}
			if got.Result == "permerror" || slices.Contains(test.Result, "permerror") {
				t.Errorf("%s: the verdict on the record is wrong", name)
			}
			if got.Result != "unknown" {
				t.Errorf("%s: %s is wrong, and says not that it may be", name, got.Result)
			}
			if known[name] != got.Result {
				t.Errorf("%s / %s: %s (%s), want %v", doc.Description, name, got.Result, got.Reason, test.Result)
			}
		}
	}
	if n != 203 || right != 198 {
		t.Errorf("%d of %d results are right, want 198 of 203", right, n)
	}
}

// stuckNames does not honour its context when asked for the names of an
// address, and counts how often it is asked.
type stuckNames struct {
	Resolver
	asked   *atomic.Int64
	release chan struct{}
}

func (s stuckNames) LookupAddr(context.Context, string) ([]string, error) {
	s.asked.Add(1)
	<-s.release
	return nil, nil
}

// A plain resolver's look-up of names is a question as any other: it ends with
// the check, is asked once and stands in the report.
func TestCheckDomainStuckNames(t *testing.T) {
	t.Parallel()
	s := stuckNames{Resolver: testClient(t, dnstest.Start(t, zone(`acme.test TXT "v=spf1 exists:%{p}.acme.test ~all"`))), asked: &atomic.Int64{}, release: make(chan struct{})}
	defer close(s.release)
	addr := netip.MustParseAddr("192.0.2.7")
	done := make(chan *DomainReport, 1)
	go func() {
		r, _ := CheckDomain(t.Context(), "acme.test", DomainCheck{DKIMSelector: testSelector, Resolver: s, Addresses: []netip.Addr{addr, addr}, Timeout: 500 * time.Millisecond})
		done <- r
	}()
	select {
	case r := <-done:
		if a := r.SPF.Addresses; len(a) != 2 || a[0].Result != "unknown" {
			t.Errorf("%+v", a)
		}
		if n := s.asked.Load(); n != 1 {
			t.Errorf("asked %d times", n)
		}
		if !slices.ContainsFunc(r.Queries, func(q DomainQuery) bool { return q.Name == "7.2.0.192.in-addr.arpa" && q.Type == "PTR" }) {
			t.Errorf("the question is not listed: %+v", r.Queries)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the check did not end with its time")
	}
}

func TestReverseNames(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"192.0.2.7", "0.0.0.0", "255.255.255.255", "2001:db8::1:f", "::"} {
		a := netip.MustParseAddr(s)
		if got, ok := reverseAddr(reverseName(a)); !ok || got != a {
			t.Errorf("%s: %s is of %s", s, reverseName(a), got)
		}
	}
	for _, s := range []string{"", "acme.test.", "2.0.192.in-addr.arpa.", "1.2.3.4.5.in-addr.arpa.", "256.2.0.192.in-addr.arpa.", "01.2.0.192.in-addr.arpa.", "1.0.ip6.arpa.", strings.Repeat("g.", 32) + "ip6.arpa."} {
		if a, ok := reverseAddr(s); ok {
			t.Errorf("%q is of %s", s, a)
		}
	}
}

// An exists term asks for an A record only, and what an a term finds depends on
// the family of the sender's address.
func TestSPFFamilies(t *testing.T) {
	t.Parallel()
	const v6 = "2001:db8::1"
	for _, tt := range []struct {
		record, addrs string
		voids         int
		want          []string
	}{
		{"exists:e.test", "e.test A 127.0.0.2", 0, nil},
		{"exists:e.test", "e.test AAAA " + v6, 1, []string{"spf_void_term"}},
		{"exists:e.test", "e.test AAAA " + v6 + "\ne.test A 127.0.0.2", 0, nil},
		{"exists:e.test", "", 1, []string{"spf_void_term"}},
		{"a:e.test", "e.test A 192.0.2.1", 0, nil},
		{"a:e.test", "e.test AAAA " + v6, 1, []string{"spf_void_ipv4"}},
		{"a:e.test", "", 1, []string{"spf_void_term"}},
		{"a:e.test a:f.test", "e.test AAAA " + v6 + "\nf.test AAAA " + v6, 2, []string{"spf_many_voids", "spf_void_ipv4", "spf_void_ipv4"}},
	} {
		r := checkZoneText(t, zone("-acme.test TXT", "acme.test TXT"+quoted("v=spf1 "+tt.record+" include:spf.mtasv.net -all"))+"\n"+tt.addrs, DomainCheck{})
		var got []string
		for _, f := range r.Findings {
			if f.Area == "SPF" {
				got = append(got, f.Code)
			}
		}
		if d := cmp.Diff(tt.want, got); d != "" || r.SPF.Voids != tt.voids {
			t.Errorf("%s, %q: %d void, want %d (-want +got):\n%s", tt.record, tt.addrs, r.SPF.Voids, tt.voids, d)
		}
	}
}

// A term exists: asks for an A record whatever the sender's family, also where
// the name is made for the mail (RFC 7208 section 5.7), and a term a: for that of
// the family.
func TestSPFExistsAsksForA(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ term, host, want string }{
		{"exists:%{v}.e.test", "ip6.e.test AAAA 2001:db8::9", "fail"},
		{"exists:%{v}.e.test", "ip6.e.test A 192.0.2.9", "pass"},
		{"exists:%{l}.e.test", "postmaster.e.test AAAA 2001:db8::9", "fail"},
		{"exists:%{l}.e.test", "postmaster.e.test A 192.0.2.9", "pass"},
		{"a:%{v}.e.test", "ip6.e.test AAAA 2001:db8::1", "pass"},
		{"a:%{v}.e.test", "ip6.e.test A 192.0.2.9", "fail"},
		{"exists:e.test", "e.test AAAA 2001:db8::9", "fail"},
	} {
		text := zone("-acme.test TXT", fmt.Sprintf("acme.test TXT %q", "v=spf1 "+tt.term+" -all"), tt.host)
		r := checkZoneText(t, text, DomainCheck{CacheOnly: true, Addresses: addresses("2001:db8::1")})
		if got := spfResults(r); len(got) != 1 || got[0] != tt.want {
			t.Errorf("%s with %s: %v, want %s", tt.term, tt.host, got, tt.want)
		}
	}
}

// silentOn never answers questions of one type.
type silentOn struct {
	*DNSClient

	typ string
}

func (s silentOn) Query(ctx context.Context, name, typ string) (DNSAnswer, error) {
	if typ == s.typ {
		<-ctx.Done()
		return DNSAnswer{}, ctx.Err()
	}
	return s.DNSClient.Query(ctx, name, typ)
}

// A question for the old record type that is dropped, as some firewalls do,
// does not keep the check: this one has an hour for each question.
func TestSPFType99Dropped(t *testing.T) {
	t.Parallel()
	c, err := NewDNSClient(DNSClientConfig{Servers: []string{dnstest.Start(t, zone()).Addr}, Timeout: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	r, err := CheckDomain(t.Context(), "acme.test", DomainCheck{DKIMSelector: testSelector, Resolver: silentOn{c, "SPF"}, CacheOnly: true, Timeout: time.Hour, QuestionTimeout: time.Hour})
	if err != nil || !r.Ready || r.SPF.State != "ok" {
		t.Errorf("%v, %+v", err, r)
	}
}

// addresses are those that a check is asked about.
func addresses(list ...string) (out []netip.Addr) {
	for _, a := range list {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

func spfResults(r *DomainReport) (out []string) {
	for _, a := range r.SPF.Addresses {
		out = append(out, a.Result)
	}
	return out
}

// Records that are full of mistakes take time by their size and no more: what
// is said of a term knows its record.
func TestSPFManyMistakes(t *testing.T) {
	t.Parallel()
	root := "v=spf1 ptr"
	text := zone("-acme.test TXT")
	for i := range 6 {
		root += fmt.Sprintf(" include:i%d.test", i)
		text += fmt.Sprintf("\ni%d.test TXT%s", i, quoted("v=spf1"+strings.Repeat(" ptr", 14500)))
	}
	text += "\nacme.test TXT" + quoted(root+" -all"+strings.Repeat(" ptr", 9000))
	r := checkZoneText(t, text, DomainCheck{Timeout: 15 * time.Second, Addresses: addresses("192.0.2.1", "192.0.2.2")})
	more := map[string]bool{}
	for _, f := range r.Findings {
		if strings.Contains(f.Summary, fmt.Sprintf("There are at least %d more of this kind", spf.MaxIssues-5)) {
			more[f.Code+" "+f.Name] = true
		}
		if f.Name != "acme.test" && len(f.Found) > 0 && len(f.Found[0]) > 1100 {
			t.Errorf("%s: %d bytes of somebody else's record", f.Code, len(f.Found[0]))
		}
	}
	// Not all of the records are read: they are too large together.
	if !more["spf_after_all acme.test"] || !more["spf_ptr i3.test"] || len(more) != 5 {
		t.Errorf("%v", more)
	}
}

// A fault of one term counts for the mails that come to it (RFC 7208 section
// 4.6.2); one that matches before it has its result.
func TestSPFMatchBeforeFault(t *testing.T) {
	t.Parallel()
	hosts := ""
	for i := range 11 {
		hosts += fmt.Sprintf("m.test MX 10 h%d.m.test\nh%d.m.test A 198.18.0.%d\n", i, i, i)
	}
	for _, tt := range []struct {
		record, others string
		want           []string
	}{
		{"ip4:192.0.2.1 include:b.test include:spf.mtasv.net", `b.test TXT "v=spf1 ip4:192.0.2.2 include:acme.test -all"`, []string{"pass", "pass", "permerror"}},
		{"include:%{i}.p.test", "192.0.2.1.p.test TXT \"v=spf1 ip4:192.0.2.0/24 foo:bar\"\n192.0.2.2.p.test TXT \"v=spf1 ip4:192.0.2.0/24 -all\"", []string{"permerror", "pass", "permerror"}},
		{"ip4:192.0.2.1 mx:m.test include:spf.mtasv.net", hosts, []string{"pass", "permerror", "permerror"}},
	} {
		r := checkZoneText(t, zone("-acme.test TXT", "acme.test TXT"+quoted("v=spf1 "+tt.record+" -all"))+"\n"+tt.others, DomainCheck{Addresses: addresses("192.0.2.1", "192.0.2.2", "192.0.2.3")})
		if d := cmp.Diff(tt.want, spfResults(r)); d != "" {
			t.Errorf("%s (-want +got):\n%s%+v", tt.record, d, r.SPF.Addresses)
		}
	}
}

// A mail has one family: that the records of the other could not be asked for
// is nothing to it, and that those of its own could not is no absence.
func TestSPFFailedFamily(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		record, hosts, fail, typ string
		want                     []string // for the IPv4 address, and the IPv6 one
		complete                 bool
	}{
		{"a:h.test", "h.test AAAA 2001:db8::9", "h.test", "A", []string{"temperror", "pass"}, false},
		{"a:h.test", "h.test A 192.0.2.1", "h.test", "AAAA", []string{"pass", "temperror"}, false},
		{"mx:m.test", "m.test MX 10 h.test\nh.test AAAA 2001:db8::9", "h.test", "A", []string{"temperror", "pass"}, true},
		{"exists:h.test", "h.test A 127.0.0.2", "h.test", "AAAA", []string{"pass", "pass"}, true},
		{"exists:h.test", "h.test AAAA 2001:db8::9", "h.test", "A", []string{"temperror", "temperror"}, false},
	} {
		s := dnstest.Start(t, zone("-acme.test TXT", "acme.test TXT"+quoted("v=spf1 "+tt.record+" include:spf.mtasv.net -all"))+"\n"+tt.hosts)
		s.Fail(tt.fail, tt.typ, dnstest.Fault{RCode: 2})
		r, err := CheckDomain(t.Context(), "acme.test", DomainCheck{DKIMSelector: testSelector, Resolver: testClient(t, s), CacheOnly: true, Addresses: addresses("192.0.2.1", "2001:db8::9")})
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(tt.want, spfResults(r)); d != "" || r.SPF.Complete != tt.complete || slices.ContainsFunc(r.Findings, func(f DomainFinding) bool { return f.Code == "spf_void_ipv4" }) {
			t.Errorf("%s without %s: complete %v, %v (-want +got):\n%s", tt.record, tt.typ, r.SPF.Complete, codes(r), d)
		}
	}
}

// What could not be read may hold the include and cost the rest of the
// look-ups: nothing is said to be absent and nothing is proposed.
func TestSPFUnreadTree(t *testing.T) {
	t.Parallel()
	eight, hosts := "", ""
	for i := range 8 {
		eight += fmt.Sprintf(" a:h%d.x.test", i)
		hosts += fmt.Sprintf("h%d.x.test A 198.18.0.%d\n", i, i)
	}
	const unread = "Nothing is proposed, because what it would cost is not known: "
	for _, tt := range []struct {
		name, record, also, fail, typ string
		include, code, text           string
		complete                      bool
	}{
		{"an include", "v=spf1" + eight + " include:slow.test -all", "", "slow.test", "TXT", "unknown", "spf_unasked", "not known whether the record includes", false},
		{"an address", "v=spf1 a:slow.test -all", "", "slow.test", "*", "absent", "spf_include_absent", unread + "slow.test could not be asked for its address record", false},
		{"Postmark's record", "v=spf1" + eight + " -all", "", "spf.mtasv.net", "TXT", "absent", "spf_include_absent", unread + "spf.mtasv.net could not be asked", true},
		{"one of several", "v=spf1 include:slow.test -all", `acme.test TXT "v=spf1 -all"`, "slow.test", "TXT", "unknown", "spf_multiple", "not known: slow.test could not be asked", true},
		{"another record for each mail", "v=spf1" + eight + " include:%{i}.x.test -all", "", "none.test", "TXT", "unknown", "", "at least 9 of 10 look-ups", false},
		{"another record for each domain", "v=spf1" + eight + " include:%{o}.dyn.test -all", `acme.test.dyn.test TXT "v=spf1 a:h1.x.test -all"`, "none.test", "TXT", "absent", "spf_include_absent", "takes 11 DNS look-ups", true},
	} {
		s := dnstest.Start(t, zone("-acme.test TXT", "acme.test TXT"+quoted(tt.record))+"\n"+hosts+tt.also)
		s.Fail(tt.fail, tt.typ, dnstest.Fault{RCode: 2})
		r, err := CheckDomain(t.Context(), "acme.test", DomainCheck{DKIMSelector: testSelector, Resolver: testClient(t, s), CacheOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		if r.SPF.Include != tt.include || r.SPF.Complete != tt.complete || r.SPF.Proposal != "" {
			t.Errorf("%s: include %s, complete %v, proposal %q", tt.name, r.SPF.Include, r.SPF.Complete, r.SPF.Proposal)
		}
		said := r.Text()
		if tt.code != "" {
			f := finding(t, r, tt.code)
			said = f.Summary + " " + f.Fix
			if len(f.Publish) > 0 {
				t.Errorf("%s: %+v", tt.name, f.Publish)
			}
		}
		if !strings.Contains(said, tt.text) || tt.include != "absent" && strings.Contains(strings.Join(codes(r), " "), "spf_include_absent") {
			t.Errorf("%s: %q is not said: %s", tt.name, tt.text, said)
		}
	}
}

// An IPv4 sender is never compared to an ip6 term, and an explanation decides
// nothing.
func TestSPFTermsThatDecideNothing(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		record string
		want   []string
		code   string
	}{
		{"ip6:::ffff:0:0/96", []string{"fail", "fail"}, "fail spf_wide_network"},
		{"ip6:::ffff:192.0.2.1 ip4:192.0.2.2", []string{"fail", "fail"}, ""},
		{"ip4:192.0.2.1 exp=%{p}.x.test", []string{"pass", "pass"}, ""},
	} {
		r := checkZoneText(t, zone("-acme.test TXT", "acme.test TXT"+quoted("v=spf1 "+tt.record+" include:spf.mtasv.net -all"))+"\n1.2.0.192.in-addr.arpa PTR h.test", DomainCheck{Addresses: addresses("192.0.2.1", "::ffff:192.0.2.1")})
		if d := cmp.Diff(tt.want, spfResults(r)); d != "" || tt.code != "" && !slices.Contains(codes(r), tt.code) {
			t.Errorf("%s: %v, %+v (-want +got):\n%s", tt.record, codes(r), r.SPF.Addresses, d)
		}
	}
}

// Whose sign it is that keeps the include from being a permission.
func TestSPFQualifiedElsewhere(t *testing.T) {
	t.Parallel()
	for record, want := range map[string]string{
		"v=spf1 ?include:spf.mtasv.net -all": "Remove the sign",
		"v=spf1 include:b.test -all":         "tell its owner",
	} {
		r := checkZoneText(t, zone("-acme.test TXT", "acme.test TXT"+quoted(record))+"\nb.test TXT \"v=spf1 ?include:spf.mtasv.net -all\"", DomainCheck{})
		if f := finding(t, r, "spf_include_qualified"); r.SPF.Include != "qualified" || !strings.Contains(f.Fix, want) {
			t.Errorf("%s: %s %s", record, f.Summary, f.Fix)
		}
	}
}

// What cannot be a domain name is a mistake; what can by the grammar and stands
// for no record is a permanent error too, also with signs that no host has.
func TestSPFNamesThatAreURLs(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		terms, code, want string
	}{
		{"include:http://x", "fail spf_syntax", "permerror"},
		{"include:http://x.test/", "fail spf_syntax", "permerror"},
		{"include:x.test/24", "fail spf_syntax", "permerror"},
		{"exists:http://x", "fail spf_syntax", "permerror"},
		{"ip4:192.0.2.1 include:http://x", "fail spf_syntax", "permerror"},
		{"include:http://x.test", "fail spf_target_missing", "permerror"},
		{"include:b.test", "fail spf_target_missing", "permerror"},
		{"a:h.test include:http://x.test", "fail spf_target_missing", "permerror"},
		{"ip4:192.0.2.1 include:http://x.test", "fail spf_target_missing", "pass"},
		{"a:http://x.test include:http://x.test", "fail spf_target_missing", "permerror"},
		{"exists:%{l}.http://x.test include:http://y.test", "fail spf_target_missing", "unknown"},
		{"mx:m.test include:http://x.test", "fail spf_target_missing", "unknown"},
	} {
		r := checkZoneText(t, zone("-acme.test TXT", "acme.test TXT"+quoted("v=spf1 "+tt.terms+" -all"))+"\nb.test TXT \"v=spf1 include:http://x.test -all\"\nh.test A 192.0.2.9\nm.test MX 10 h.test", DomainCheck{Addresses: addresses("192.0.2.1")})
		if got := spfResults(r)[0]; got != tt.want || !slices.Contains(codes(r), tt.code) {
			t.Errorf("%s: %+v, %v", tt.terms, r.SPF.Addresses, codes(r))
		}
	}
}
