package fluxly

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/getfluxly/fluxly/internal/spf"
	"github.com/getfluxly/fluxly/internal/spf/spfsuite"
)

// realServers gives the addresses of NSD, Knot, BIND and Unbound, which
// .ci/dns.sh starts.
func realServers(t *testing.T) map[string]string {
	t.Helper()
	env := os.Getenv("FLUXLY_TEST_DNS")
	if env == "" {
		t.Skip("no real name servers: FLUXLY_TEST_DNS is not set, see .ci/dns.sh")
	}
	out := map[string]string{}
	for f := range strings.FieldsSeq(env) {
		name, addr, _ := strings.Cut(f, "=")
		out[name] = addr
	}
	return out
}

func realClient(t *testing.T, servers map[string]string, recursor string) *DNSClient {
	t.Helper()
	own := map[string]string{"192.0.2.1:53": "nsd", "192.0.2.2:53": "knot", "192.0.2.3:53": "bind"}
	c, err := NewDNSClient(DNSClientConfig{
		Servers: []string{servers[recursor]},
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			if name, ok := own[address]; ok {
				address = servers[name]
			}
			if a, err := netip.ParseAddrPort(address); err != nil || !a.Addr().IsLoopback() {
				return nil, fmt.Errorf("test asks %s, which is not on loopback", address)
			}
			return (&net.Dialer{}).DialContext(ctx, network, address)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// The same zone on each server gives the same report.
func TestRealServers(t *testing.T) {
	t.Parallel()
	servers := realServers(t)
	for _, name := range []string{"nsd", "knot", "bind", "unbound"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, err := CheckDomain(t.Context(), "acme.test", DomainCheck{DKIMSelector: "s1", Resolver: realClient(t, servers, name)})
			if err != nil {
				t.Fatal(err)
			}
			if !r.Ready || r.Level != DomainOK || len(r.Servers) != 3 || r.DKIM[0].Bits != 2048 || r.SPF.Include != "present" {
				t.Errorf("report:\n%s\n%+v", r.Text(), r.Queries)
			}
			if len(r.Queries) > 26 { // three servers, not two
				t.Errorf("%d questions", len(r.Queries))
			}
		})
	}
	t.Run("alias and large answer", func(t *testing.T) {
		t.Parallel()
		for name := range servers {
			c := realClient(t, servers, name)
			a, err := c.Query(t.Context(), "big.acme.test", "TXT")
			if err != nil || !a.TCP || len(a.Answers) != 14 {
				t.Errorf("%s: %v, TCP %v, %d records", name, err, a.TCP, len(a.Answers))
			}
			r, err := CheckDomain(t.Context(), "acme.test", DomainCheck{DKIMSelector: "alias", Resolver: c, CacheOnly: true})
			if err != nil || r.DKIM[0].State != "ok" || !slices.Equal(r.DKIM[0].Aliases, []string{"s1._domainkey.acme.test"}) {
				t.Errorf("%s: %v, %+v", name, err, r.DKIM)
			}
			// NSD, Knot and BIND are the zone's own: each follows the alias itself.
			r, err = CheckDomain(t.Context(), "acme.test", DomainCheck{DKIMSelector: "alias", Resolver: c})
			if err != nil || !r.Ready || len(zoneCodes(r)) > 0 {
				t.Errorf("%s: %v\n%s", name, err, r.Text())
			}
			none, err := c.Query(t.Context(), "gone.acme.test", "TXT")
			if err != nil || none.RCode != 3 || len(none.Authority) == 0 {
				t.Errorf("%s: NXDOMAIN %v, %+v", name, err, none)
			}
			empty, err := c.Query(t.Context(), "mail.acme.test", "TXT")
			if err != nil || empty.RCode != 0 || len(empty.Answers) != 0 {
				t.Errorf("%s: NODATA %v, %+v", name, err, empty)
			}
		}
	})
	t.Run("standard resolver", func(t *testing.T) {
		t.Parallel()
		r := &net.Resolver{PreferGo: true, StrictErrors: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, servers["unbound"])
		}}
		rep, err := CheckDomain(t.Context(), "acme.test", DomainCheck{DKIMSelector: "s1", Resolver: r})
		if err != nil || !rep.Ready {
			t.Errorf("%v\n%s", err, rep.Text())
		}
		rep, err = CheckDomain(t.Context(), "fresh.test", DomainCheck{DKIMSelector: "s1", Resolver: r})
		if err != nil || rep.Level != DomainFail || slices.ContainsFunc(rep.Findings, func(f DomainFinding) bool { return f.Level == DomainUnknown }) {
			t.Errorf("%v\n%s", err, rep.Text())
		}
	})
}

// Unbound validates: one zone is signed as it should be, and of the other it
// holds the wrong key.
func TestRealServersDNSSEC(t *testing.T) {
	t.Parallel()
	servers := realServers(t)
	for domain, want := range map[string]string{"signed.test": "signed, and validated by the resolver", "bogus.test": "dnssec_bogus"} {
		for _, profiles := range [][]DomainProfile{nil, {DNSSEC}} {
			r, err := CheckDomain(t.Context(), domain, DomainCheck{DKIMSelector: "s1", Resolver: realClient(t, servers, "unbound"), Profiles: profiles})
			if err != nil {
				t.Fatal(err)
			}
			if domain == "bogus.test" {
				if f := finding(t, r, want); f.Level != DomainFail || r.Ready {
					t.Errorf("%+v", f)
				}
				continue
			}
			if slices.ContainsFunc(r.Findings, func(f DomainFinding) bool { return f.Code == "dnssec_bogus" }) {
				t.Errorf("%s:\n%s", domain, r.Text())
			}
			if len(profiles) > 0 && !slices.ContainsFunc(r.Areas, func(a DomainArea) bool { return a.Name == "dnssec" && a.Summary == want }) {
				t.Errorf("%s: %+v", domain, r.Areas)
			}
		}
	}
}

// A record published after the cache was asked: the cache denies it for
// minutes, the zone has it at once, and the report goes by the zone.
func TestRealServersPublish(t *testing.T) {
	t.Parallel()
	servers := realServers(t)
	path := os.Getenv("FLUXLY_TEST_DNS_FRESH")
	pid, err := strconv.Atoi(os.Getenv("FLUXLY_TEST_DNS_NSD_PID"))
	if err != nil || path == "" {
		t.Fatal("FLUXLY_TEST_DNS_FRESH and FLUXLY_TEST_DNS_NSD_PID must stand beside FLUXLY_TEST_DNS")
	}
	host := fmt.Sprintf("n%08x", rand.Uint32())
	domain := host + ".fresh.test"
	c := realClient(t, servers, "unbound")
	check := DomainCheck{DKIMSelector: "s1", Resolver: c}
	before, err := CheckDomain(t.Context(), domain, check)
	if err != nil || before.DMARC.State != "missing" {
		t.Fatalf("%v, %+v", err, before.DMARC)
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	// One write, so that tests at the same time do not mix their lines.
	if _, err := fmt.Fprintf(f, "_dmarc.%s TXT \"v=DMARC1; p=reject; rua=mailto:d@fresh.test\"\n", host); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	nsd, err := os.FindProcess(pid)
	if err != nil {
		t.Fatal(err)
	}
	for {
		if err := nsd.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		a, err := c.QueryServer(ctx, servers["nsd"], "_dmarc."+domain, "TXT")
		if err == nil && len(a.Answers) > 0 {
			break
		}
		select {
		case <-ctx.Done():
			t.Fatal("NSD does not serve the new record")
		case <-tick.C:
		}
	}
	after, err := CheckDomain(t.Context(), domain, check)
	if err != nil || after.DMARC.Policy != "reject" {
		t.Fatalf("%v\n%s", err, after.Text())
	}
	got := finding(t, after, "zone_cached")
	if !strings.Contains(got.Summary, "Caches may keep the old answer for") {
		t.Errorf("%+v", got)
	}
}

// pySPF is the second opinion: a program around pyspf that reads zones and
// mails as JSON lines and writes results.
const pySPF = `
import sys, json, spf
for line in sys.stdin:
    job = json.loads(line)
    zone = job["zone"]
    def lookup(name, qtype, tcpfallback=True, timeout=30):
        e = zone.get(name.lower().rstrip("."), {})
        out = []
        for v in e.get(qtype) or []:
            if qtype == "TXT":
                v = (v.encode("latin-1"),)
            elif qtype == "MX":
                v = (0, v)
            out.append(((name, qtype), v))
        if out:
            return out
        if "FAIL" in e or "TIMEOUT" in e:
            raise spf.TempError("DNS timeout")
        return [((name, "CNAME"), v) for v in e.get("CNAME") or []]
    spf.DNSLookup = lookup
    try:
        q = spf.query(i=job["ip"], s=job["sender"], h=job["helo"], timeout=5)
        q.set_default_explanation("x")
        res = q.check()
        print(json.dumps({"result": res[0], "text": str(res[2])}), flush=True)
    except Exception as e:
        print(json.dumps({"result": "crash", "text": repr(e)}), flush=True)
`

type pyJob struct {
	IP     string                         `json:"ip"`
	Sender string                         `json:"sender"`
	Helo   string                         `json:"helo"`
	Zone   map[string]map[string][]string `json:"zone"`
}

func askPySPF(t *testing.T, jobs []pyJob) []string {
	t.Helper()
	python := os.Getenv("FLUXLY_TEST_PYSPF")
	if python == "" {
		t.Skip("no second opinion on SPF: FLUXLY_TEST_PYSPF is not set, see .ci/dns.sh")
	}
	cmd := exec.CommandContext(t.Context(), python, "-c", pySPF)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		e := json.NewEncoder(in)
		for _, j := range jobs {
			_ = e.Encode(j)
		}
		in.Close()
	}()
	var results []string
	for s := bufio.NewScanner(out); s.Scan(); {
		var r struct{ Result, Text string }
		if err := json.Unmarshal(s.Bytes(), &r); err != nil {
			t.Fatalf("%q: %v", s.Text(), err)
		}
		if r.Result == "crash" {
			t.Errorf("pyspf: %s", r.Text)
		}
		results = append(results, r.Result)
	}
	if err := cmd.Wait(); err != nil || len(results) != len(jobs) {
		t.Fatalf("%v, %d results for %d mails", err, len(results), len(jobs))
	}
	return results
}

// pyspf agrees on the suite, and on records put together at random: what the
// linter calls sound is no permanent error there, and the other way round.
func TestSecondOpinionSuite(t *testing.T) {
	t.Parallel()
	var jobs []pyJob
	var names []string
	var want [][]string
	for _, doc := range spfsuite.Load(t) {
		z := spfsuite.NewZone(t, doc)
		for name, test := range doc.Tests {
			jobs = append(jobs, pyJob{test.Host, test.MailFrom, test.Helo, z.Records()})
			names, want = append(names, name), append(want, test.Result)
		}
	}
	wrong := 0
	for i, got := range askPySPF(t, jobs) {
		if !slices.Contains(want[i], got) {
			wrong++
			t.Logf("%s: pyspf says %s, the suite %v", names[i], got, want[i])
		}
	}
	if wrong > 0 {
		t.Errorf("pyspf differs from the suite %d times; the harness around it is wrong", wrong)
	}
}

func TestSecondOpinionRandom(t *testing.T) {
	t.Parallel()
	// Left out, because pyspf reads them otherwise than RFC 7208: "x=%%" is
	// legal, and so is a second "v=spf1" (an unknown modifier), while "%{d0}"
	// is not (section 7.3: the digit must not be zero).
	terms := []string{
		"a", "mx", "-a", "a/24", "mx/28//64", "ip4:192.0.2.0/24", "ip4:192.0.2", "ip4:192.0.2.1/33", "ip6:2001:db8::/32", "ip6:::1/129", "ip4:192.0.2.1/024",
		"include:sound.test", "-include:sound.test", "include:", "include:none.test", "include:broken.test", "exists:%{i}.e.acme.test",
		"exists:%{x}.test", "a:acme.test", "a:acme", "a:%{d}", "redirect=sound.test", "redirect=", "exp=why.acme.test", "exp=%", "x=%{d2r.}", "x=%z",
		"-all", "~all", "?all", "all:x", "ptr", "ptr/24", "moo", "moo:acme.test", "+redirect=sound.test", "",
	}
	zone := map[string]map[string][]string{
		"sound.test":  {"TXT": {"v=spf1 ip4:198.51.100.0/24 -all"}},
		"broken.test": {"TXT": {"v=spf1 ip4:198.51.100 -all"}},
	}
	rng := rand.New(rand.NewPCG(1, 7208))
	var jobs []pyJob
	var mine []string
	for range 1500 {
		record := "v=spf1"
		for range 1 + rng.IntN(5) {
			record += " " + terms[rng.IntN(len(terms))]
		}
		if strings.Count(record, " x=") > 1 {
			continue // may be repeated; pyspf says not
		}
		z := map[string]map[string][]string{"acme.test": {"TXT": {record}, "A": {"192.0.2.200"}, "AAAA": {"2001:db8:1::1"}, "MX": {"acme.test"}}}
		for k, v := range zone {
			z[k] = v
		}
		ip := []string{"192.0.2.1", "198.51.100.7", "203.0.113.1", "2001:db8::1", "192.0.2.200"}[rng.IntN(5)]
		jobs = append(jobs, pyJob{ip, "u@acme.test", "mail.acme.test", z})
		res := suiteResolver{spfsuite.ZoneOf(z)}
		k := &checker{ask: &asker{askCore: newAskCore(res, time.Minute, 4), mine: map[dnsKey]*ownQuestion{}}}
		addr := netip.MustParseAddr(ip)
		tree := spf.Walk(t.Context(), spfSource{k}, "acme.test", spf.Identity{Addr: addr, Sender: "u@acme.test", Helo: "mail.acme.test"})
		mine = append(mine, k.evaluateSPF(t.Context(), tree, addr, "mail.acme.test", "u@acme.test").Result)
	}
	theirs := askPySPF(t, jobs)
	differ := map[string]int{}
	for i, got := range theirs {
		if got == mine[i] {
			continue
		}
		differ[mine[i]+" / pyspf "+got]++
		if differ[mine[i]+" / pyspf "+got] <= 3 {
			t.Errorf("%q from %s: %s, pyspf says %s", jobs[i].Zone["acme.test"]["TXT"][0], jobs[i].IP, mine[i], got)
		}
	}
	if d := cmp.Diff(map[string]int{}, differ); d != "" {
		t.Errorf("of %d mails:\n%s", len(jobs), d)
	}
}
