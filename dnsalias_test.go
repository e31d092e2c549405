package fluxly

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/getfluxly/fluxly/internal/dnsmsg/dnstest"
)

// randomZone holds records by name, each "TYPE data".
type randomZone map[string][]string

func (z randomZone) text() string {
	var lines []string
	for n, rs := range z {
		for _, r := range rs {
			lines = append(lines, n+" "+r)
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func (z randomZone) with(other randomZone) randomZone {
	out := randomZone{}
	for _, from := range []randomZone{z, other} {
		for n, rs := range from {
			out[n] = slices.Clone(rs)
		}
	}
	return out
}

// texts are what a receiver finds at a name when the zone is as one server has
// it; world is what stands elsewhere.
func (z randomZone) texts(world randomZone, name string) (out []string) {
	for range 12 {
		from := world
		if inZone(name+".", "acme.test") {
			from = z
		}
		next := ""
		for _, r := range from[name] {
			if t, ok := strings.CutPrefix(r, "TXT "); ok {
				out = append(out, zoneValue("TXT", t))
			}
			if t, ok := strings.CutPrefix(r, "CNAME "); ok {
				next = t
			}
		}
		if len(out) > 0 || next == "" {
			slices.Sort(out)
			return out
		}
		name = next
	}
	return nil
}

// sound reports whether mail for the domain passes while receivers hear of z.
func (z randomZone) sound(world randomZone, dkim string) bool {
	records := slices.DeleteFunc(z.texts(world, "_dmarc.acme.test"), func(s string) bool { return !isDMARC(s) })
	return slices.Equal(z.texts(world, dkim), []string{testKey}) && len(records) == 1 && parseDMARC(records[0]).usable
}

// Random zones, with aliases in and out of them, of which the servers and the
// cache hold different versions: a domain is ready only when it is so by each
// server that answers, and is when all agree on what is sound.
func TestReadyInRandomZones(t *testing.T) {
	t.Parallel()
	const dkim = "s1._domainkey.acme.test"
	base := randomZone{
		"acme.test":     {"SOA ns1.acme.test 300", "NS ns1.acme.test", "NS ns2.acme.test", "MX 10 mail.acme.test", `TXT "v=spf1 -all"`},
		"ns1.acme.test": {"A 192.0.2.1"}, "ns2.acme.test": {"A 192.0.2.2"}, "mail.acme.test": {"A 192.0.2.10"},
		"pm-bounces.acme.test": {"CNAME pm.mtasv.net"},
	}
	outside := randomZone{"pm.mtasv.net": {`TXT "v=spf1 -all"`}, "mtasv.net": {"SOA a.b 300"}, "host.test": {"SOA a.b 300"}}
	key, policy := "TXT"+quoted(testKey), `TXT "v=DMARC1; p=reject; rua=mailto:d@acme.test"`
	inside, beyond := []string{"a.acme.test", "b.acme.test", "c.d.acme.test"}, []string{"x.host.test", "y.host.test"}
	for part := range 4 {
		t.Run(strconv.Itoa(part), func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(uint64(part), 9989))
			pick := func(list ...string) string { return list[rng.IntN(len(list))] }
			servers := []*dnstest.Server{dnstest.Start(t, ""), dnstest.Start(t, ""), dnstest.Start(t, "")}
			ready := 0
			for n := range 150 {
				zone, world := randomZone{}.with(base), randomZone{}.with(outside)
				put := func(name, record string) {
					at := func() randomZone {
						if inZone(name+".", "acme.test") {
							return zone
						}
						return world
					}
					for range rng.IntN(4) {
						to := pick(append(inside, beyond...)...)
						if len(at()[name]) > 0 || to == name {
							return
						}
						at()[name] = []string{"CNAME " + to}
						name = to
					}
					if len(at()[name]) == 0 {
						at()[name] = []string{record}
					}
				}
				put(dkim, key)
				put("_dmarc.acme.test", policy)
				versions := make([]randomZone, 3)
				for i := range versions {
					versions[i] = zone
					if rng.IntN(3) > 0 {
						continue
					}
					name := pick(append([]string{dkim, "_dmarc.acme.test"}, inside...)...)
					versions[i] = zone.with(randomZone{name: {pick("CNAME "+pick(append(inside, beyond...)...), key, policy, `TXT "k=rsa; p="`, `TXT "v=DMARC1; p=bogus"`)}})
					if rng.IntN(3) == 0 {
						delete(versions[i], name)
					}
				}
				for i, s := range servers {
					s.Set(t, versions[i].with(world).text())
				}
				for _, s := range servers[1:] {
					s.Fail("*", "*", dnstest.Fault{CutAlias: rng.IntN(3) == 0})
				}
				r, err := CheckDomain(t.Context(), "acme.test", DomainCheck{DKIMSelector: "s1", DKIMValue: testKey, Resolver: zoneClient(t, servers[0], servers[1], servers[2])})
				if err != nil {
					t.Fatal(err)
				}
				all := true
				for i, v := range versions {
					ok := v.sound(world, dkim)
					all = all && ok && v.text() == zone.text()
					if i > 0 && r.Ready && !ok {
						t.Errorf("%d: ready, and server %d has\n%s\nelsewhere\n%s\n%s", n, i, v.text(), world.text(), r.Text())
					}
				}
				if all && !r.Ready {
					t.Errorf("%d: not ready, and all have\n%s\nelsewhere\n%s\n%s", n, zone.text(), world.text(), r.Text())
				}
				if r.Ready {
					ready++
				}
			}
			if ready < 30 || ready > 130 {
				t.Errorf("%d of 150 are ready: the zones are not random", ready)
			}
		})
	}
}

// A server that fails some questions, is slow, or gives half of an answer hides
// neither what another one says nor what the resolver does.
func TestCheckDomainPartOfAServer(t *testing.T) {
	t.Parallel()
	alias := []string{"-_dmarc.acme.test TXT", "_dmarc.acme.test CNAME d.acme.test", `d.acme.test TXT "v=DMARC1; p=reject; rua=mailto:d@acme.test"`}
	none := "-_dmarc.acme.test TXT"
	type fault struct {
		server    int // 0 is the cache
		name, typ string
		dnstest.Fault
	}
	servfail := dnstest.Fault{RCode: 2}
	tests := []struct {
		name   string
		domain string
		two    []string // the zone of the second server
		all    []string // and of the others
		faults []fault
		want   string
	}{
		{"both fail at the apex, and differ", "acme.test", []string{none}, nil, []fault{{1, "acme.test", "TXT", dnstest.Fault{Truncate: true, TCPDrop: true}}, {2, "acme.test", "TXT", dnstest.Fault{Truncate: true, TCPDrop: true}}}, "zone_servers_disagree"},
		{"both fail at the Return-Path, the resolver at DMARC", "acme.test", nil, nil, []fault{{1, "pm-bounces.acme.test", "TXT", servfail}, {2, "pm-bounces.acme.test", "TXT", servfail}, {0, "_dmarc.acme.test", "TXT", servfail}}, "zone_resolver_fails"},
		{"the record above, a slow server without it", "news.acme.test", []string{none}, nil, []fault{{2, "_dmarc.acme.test", "TXT", dnstest.Fault{Delay: 1300 * time.Millisecond}}}, "zone_servers_disagree"},
		{"half an answer beside one that denies", "acme.test", alias[:2], alias, []fault{{1, "_dmarc.acme.test", "TXT", dnstest.Fault{CutAlias: true}}, {1, "d.acme.test", "*", servfail}}, "dmarc_missing"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if tt.two == nil {
				tt.two = tt.all
			}
			servers := []*dnstest.Server{dnstest.Start(t, zone(tt.all...)), dnstest.Start(t, zone(tt.all...)), dnstest.Start(t, zone(tt.two...))}
			for _, f := range tt.faults {
				servers[f.server].Fail(f.name, f.typ, f.Fault)
			}
			r, err := CheckDomain(t.Context(), tt.domain, DomainCheck{DKIMSelector: testSelector + "._domainkey.acme.test", Resolver: zoneClient(t, servers[0], servers[1], servers[2]), Timeout: 3 * time.Second})
			if err != nil {
				t.Fatal(err)
			}
			if finding(t, r, tt.want); r.Ready {
				t.Errorf("ready:\n%s", r.Text())
			}
		})
	}
}

// What must go before a record comes, and what is said where there is an alias:
// of the name itself, of a wildcard, of the domain's web site.
func TestInPlaceOfWhatStands(t *testing.T) {
	t.Parallel()
	noAlias := "-pm-bounces.acme.test CNAME"
	dkim := testSelector + "._domainkey.acme.test"
	tests := []struct {
		name   string
		domain string
		lines  []string
		code   string // "" is the next step for DMARC
		want   []ReplacedRecord
		text   string // in what is to be done
	}{
		{"mail hosts at the Return-Path", "acme.test", []string{noAlias, "pm-bounces.acme.test MX 10 feedback.ses.test", `pm-bounces.acme.test TXT "old"`}, "returnpath_missing", []ReplacedRecord{{"TXT", "old"}, {"MX", "10 feedback.ses.test"}}, "Delete what stands there"},
		{"own text and a wildcard", "acme.test", []string{noAlias, `*.acme.test TXT "w"`, `pm-bounces.acme.test TXT "old"`}, "returnpath_missing", []ReplacedRecord{{"TXT", "old"}}, "Delete what stands there"},
		{"a wildcard text alone", "acme.test", []string{noAlias, `*.acme.test TXT "w"`}, "returnpath_missing", nil, "Publish the CNAME record"},
		{"own address and a wildcard", "acme.test", []string{noAlias, "*.acme.test A 192.0.2.99", "pm-bounces.acme.test A 192.0.2.98"}, "returnpath_address", []ReplacedRecord{{"A", "192.0.2.98"}}, "Delete the A record"},
		{"own alias and a wildcard", "acme.test", []string{noAlias, "*.acme.test CNAME a.host.test", "pm-bounces.acme.test CNAME b.host.test"}, "returnpath_wrong_target", []ReplacedRecord{{"CNAME", "b.host.test"}}, "Change the CNAME record"},
		{"the next step", "acme.test", []string{"-_dmarc.acme.test TXT", "_dmarc.acme.test CNAME d.acme.test", `d.acme.test TXT "v=DMARC1; p=none; rua=mailto:d@acme.test"`}, "", []ReplacedRecord{{"CNAME", "d.acme.test"}}, "delete the alias before you add the record"},
		{"an alias of an alias", "acme.test", []string{"-_dmarc.acme.test TXT", "_dmarc.acme.test CNAME d.acme.test", "d.acme.test CNAME e.acme.test", `e.acme.test TXT "v=DMARC1; p=bogus"`}, "dmarc_bad_policy", []ReplacedRecord{{"CNAME", "d.acme.test"}}, "have the record at e.acme.test changed"},
		{"a wildcard alias", "acme.test", []string{"-_dmarc.acme.test TXT", "-" + dkim + " TXT", "*.acme.test CNAME web.host.test"}, "dmarc_missing", nil, "it may stay"},
		{"permission to report", "acme.test", []string{`-_dmarc.acme.test TXT`, `_dmarc.acme.test TXT "v=DMARC1; p=reject; rua=mailto:d@reports.test"`, "acme.test._report._dmarc.reports.test CNAME gone.reports.test"}, "dmarc_report_unauthorised", []ReplacedRecord{{"CNAME", "gone.reports.test"}}, "is an alias"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := checkZoneText(t, zone(tt.lines...), DomainCheck{})
			var rec DomainRecord
			fix := ""
			if tt.code == "" {
				rec, fix = r.DMARC.Next.Publish, strings.Join(r.DMARC.Next.When, "; ")
			} else {
				f := finding(t, r, tt.code)
				if len(f.Publish) != 1 {
					t.Fatalf("%+v", f)
				}
				rec, fix = f.Publish[0], f.Fix
			}
			if d := cmp.Diff(tt.want, rec.Replaces); d != "" || !strings.Contains(fix, tt.text) {
				t.Errorf("%q, replaces (-want +got):\n%s", fix, d)
			}
		})
	}
	t.Run("a resolver that hides aliases", func(t *testing.T) {
		t.Parallel()
		r, err := CheckDomain(t.Context(), "acme.test", DomainCheck{DKIMSelector: testSelector, Resolver: mapResolver{
			"TXT _dmarc.acme.test.": {"v=DMARC1; p=bogus"}, "CNAME _dmarc.acme.test.": {"d.host.test."},
		}})
		if err != nil {
			t.Fatal(err)
		}
		if f := finding(t, r, "dmarc_bad_policy"); !cmp.Equal(f.Publish[0].Replaces, []ReplacedRecord{{"CNAME", "d.host.test"}}) {
			t.Errorf("%+v", f)
		}
	})
	t.Run("two keys for one host", func(t *testing.T) {
		t.Parallel()
		r := checkZoneText(t, zone("-"+dkim+" TXT"), DomainCheck{Postmark: PostmarkDomain{DKIMHost: dkim, DKIMTextValue: testKey, DKIMPendingHost: dkim, DKIMPendingTextValue: "k=rsa; p=" + spki(2048)}})
		if a, b := finding(t, r, "dkim_missing"), finding(t, r, "dkim_pending_missing"); len(a.Publish) != 1 || len(b.Publish) > 0 {
			t.Errorf("%+v\n%+v", a, b)
		}
	})
	t.Run("the web site", func(t *testing.T) {
		t.Parallel()
		s := dnstest.Start(t, zone("app.acme.test CNAME web.host.test", "web.host.test A 192.0.2.9"))
		r, err := CheckDomain(t.Context(), "app.acme.test", DomainCheck{Resolver: testClient(t, s), CacheOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		if f := finding(t, r, "spf_missing"); len(f.Publish) > 0 || !strings.Contains(f.Fix, "leave it") || strings.Contains(r.Zone(), "app.acme.test.\t300\tIN\tTXT") {
			t.Errorf("%+v\n%s", f, r.Zone())
		}
	})
}

// What goes when the alias comes is said, and where the name is a zone of its own
// there is no alias to publish.
func TestReturnPathSaysWhatIsLost(t *testing.T) {
	t.Parallel()
	const host = "mail.acme.test"
	for _, tt := range []struct {
		name    string
		lines   []string
		code    string
		says    []string
		publish bool
	}{
		{"mail hosts", []string{"-mail.acme.test A", host + " MX 10 mx.acme.test"}, "returnpath_missing", []string{"mail to addresses at " + host + " no longer arrives", "another host"}, true},
		{"SPF", []string{"-mail.acme.test A", host + ` TXT "v=spf1 mx -all"`}, "returnpath_missing", []string{"its SPF record no longer counts", "another host"}, true},
		{"an address and both", []string{host + " A 192.0.2.10", host + " MX 10 mx.acme.test", host + ` TXT "v=spf1 mx -all"`}, "returnpath_address", []string{"no longer arrives", "no longer counts", "nothing is reached under " + host}, true},
		{"a zone of its own", []string{"-mail.acme.test A", host + " SOA ns.host.test 300", host + " NS ns.host.test"}, "returnpath_missing", []string{"Delete nothing", "another host"}, false},
		{"a zone of its own with an address", []string{host + " A 192.0.2.10", host + " SOA ns.host.test 300", host + " NS ns.host.test"}, "returnpath_missing", []string{"Delete nothing"}, false},
	} {
		for _, plain := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, plain resolver %v", tt.name, plain), func(t *testing.T) {
				t.Parallel()
				c := DomainCheck{ReturnPath: host}
				if plain {
					c.Resolver = plainResolver{testClient(t, dnstest.Start(t, zone(tt.lines...)))}
				}
				f := finding(t, checkZoneText(t, zone(tt.lines...), c), tt.code)
				for _, say := range tt.says {
					if !strings.Contains(f.Fix, say) {
						t.Errorf("%q does not say %q", f.Fix, say)
					}
				}
				if (len(f.Publish) > 0) != tt.publish {
					t.Errorf("%+v", f.Publish)
				}
			})
		}
	}
}

// The Return-Path as the zone has it now, whatever a cache remembers.
func TestReturnPathGoesByTheZone(t *testing.T) {
	t.Parallel()
	const none = "-pm-bounces.acme.test CNAME"
	for _, tt := range []struct {
		name       string
		cache, own []string
		state      string
		replaces   []ReplacedRecord
	}{
		{"the alias has gone", nil, []string{none, `pm-bounces.acme.test TXT "x"`}, "missing", []ReplacedRecord{{"TXT", "x"}}},
		{"an address has come", []string{none}, []string{none, "pm-bounces.acme.test A 192.0.2.80"}, "address", []ReplacedRecord{{"A", "192.0.2.80"}}},
		{"the address has gone", []string{none, "pm-bounces.acme.test A 192.0.2.80"}, []string{none}, "missing", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			own := dnstest.Start(t, zone(tt.own...))
			r, err := CheckDomain(t.Context(), "acme.test", DomainCheck{DKIMSelector: testSelector, Resolver: zoneClient(t, dnstest.Start(t, zone(tt.cache...)), own, own)})
			if err != nil {
				t.Fatal(err)
			}
			i := slices.IndexFunc(r.Findings, func(f DomainFinding) bool { return strings.HasPrefix(f.Code, "returnpath_") })
			if r.ReturnPath.State != tt.state || i < 0 || !cmp.Equal(r.Findings[i].Publish[0].Replaces, tt.replaces) {
				t.Errorf("%+v\n%s", r.ReturnPath, r.Text())
			}
		})
	}
}

// A correction loses none of the first two report addresses, however they are
// written.
func TestMendKeepsReports(t *testing.T) {
	t.Parallel()
	const a, ab = "rua=mailto:a@acme.test", "rua=mailto:a@acme.test,mailto:b@acme.test"
	for _, tt := range []struct {
		texts []string
		want  string
	}{
		{[]string{"v=DMARC1; p=none; rua=mailto: a@acme.test; ri=3600"}, a},
		{[]string{"v=DMARC1; p=none; rua=mailto: a@acme.test"}, a},
		{[]string{"v=DMARC1; p=none; rua=mailto:<a@acme.test>; ri=3600"}, a},
		{[]string{`v=DMARC1; p=none; rua="mailto:a@acme.test"`}, a},
		{[]string{"v=DMARC1; p=none; rua=mailto:a@acme.test mailto:b@acme.test"}, ab},
		{[]string{"v=DMARC1; p=none; rua=mailto:a@acme.test;mailto:b@acme.test"}, ab},
		{[]string{"v=DMARC1; p=none; rua=mailto:a@acme.test,mailto:A@acme.test?subject=x,mailto:b@acme.test"}, ab},
		{[]string{"v=DMARC1; p=none; rua=mailto:a@acme.test", "v=DMARC1; p=reject, rua=mailto:b@acme.test"}, ab},
		{[]string{"v=DMARC1; p=none; " + a, "v=DMARC1; p=reject; rua=mailto:b@acme.test; ruf=mailto:f@acme.test"}, ab + "; ruf=mailto:f@acme.test"},
		{[]string{"v=DMARC1; p=none", "v=DMARC1; p=reject; rua=mailto:a@acme.test; rua=mailto:b@acme.test"}, ab},
	} {
		for _, host := range []string{"_dmarc.acme.test", "_dmarc.acme.test.acme.test"} {
			lines := []string{"-_dmarc.acme.test TXT"}
			for _, text := range tt.texts {
				lines = append(lines, fmt.Sprintf("%s TXT %q", host, text))
			}
			r := checkZoneText(t, zone(lines...), DomainCheck{})
			got := ""
			for _, f := range r.Findings {
				for _, p := range f.Publish {
					if p.Name == "_dmarc.acme.test" {
						got = p.Value
					}
				}
			}
			if want := "v=DMARC1; p=none; " + tt.want; got != want {
				t.Errorf("at %s %q becomes %q, want %q", host, tt.texts, got, want)
			}
		}
	}
}
