package fluxly

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/getfluxly/fluxly/internal/dnsmsg/dnstest"
)

// effect is what receivers do about mail from the domain, from names below it,
// and from names below it that do not exist, with the record, or records, at
// _dmarc: nothing when they cannot be applied (RFC 9989 sections 4.7, 4.10).
func effect(texts ...string) (own, sub, gone int) {
	texts = slices.DeleteFunc(slices.Clone(texts), func(s string) bool { return !isDMARC(s) })
	if len(texts) != 1 {
		return 0, 0, 0
	}
	tags := map[string]string{}
	for tag := range strings.SplitSeq(texts[0], ";") {
		key, value, ok := strings.Cut(tag, "=")
		key = strings.ToLower(strings.TrimSpace(key))
		if _, twice := tags[key]; twice && ok {
			return 0, 0, 0
		}
		if ok {
			tags[key] = strings.ToLower(strings.TrimSpace(value))
		}
	}
	place := func(v string) int { return slices.Index([]string{"none", "quarantine", "reject"}, v) }
	own = place(tags["p"])
	if own < 0 {
		return 0, 0, 0
	}
	sub = own
	if v, ok := tags["sp"]; ok {
		if sub = place(v); sub < 0 {
			return 0, 0, 0
		}
	}
	gone = sub
	if v, ok := tags["np"]; ok {
		if gone = place(v); gone < 0 {
			return 0, 0, 0
		}
	}
	if tags["t"] == "y" {
		own, sub, gone = max(0, own-1), max(0, sub-1), max(0, gone-1)
	}
	return own, sub, gone
}

// olderEffect is what a receiver of RFC 7489 does, as a number that grows with
// the share of mail the policy is applied to: it follows pct, and knows neither
// np nor t.
func olderEffect(texts ...string) (own, sub float64) {
	texts = slices.DeleteFunc(slices.Clone(texts), func(s string) bool { return !isDMARC(s) })
	o, s, _ := effect(texts...)
	for _, t := range texts {
		if l := parseDMARC(t); strings.EqualFold(l.list.Value("t"), "y") && (o > 0 || s > 0 || strength(l.p) > 0) {
			o, s, _ = effect(without(t, "t"))
		}
	}
	share := 1.0
	for _, t := range texts {
		if n, err := strconv.Atoi(parseDMARC(t).list.Value("pct")); err == nil && n >= 0 && n <= 100 {
			share = float64(n) / 100
		}
	}
	some := func(n int) float64 { return max(0, float64(n)-1+share) }
	if o > 0 {
		own = some(o)
	}
	if s > 0 {
		sub = some(s)
	}
	return own, sub
}

// A record that is proposed as a correction never has receivers do more than
// they do today, and a step of the ratchet takes no policy up by more than one.
func TestDMARCCorrectionIsNeverHarsher(t *testing.T) {
	t.Parallel()
	s := dnstest.Start(t, "")
	check := func(domain, extra string, records []string) {
		t.Helper()
		zoneText := "acme.test MX 10 mail.acme.test\n" + extra
		var today []string
		for _, r := range records {
			name, text, _ := strings.Cut(r, " ")
			zoneText += name + " TXT" + quoted(text) + "\n"
			if name == "_dmarc."+domain {
				today = append(today, text)
			}
		}
		s.Set(t, zoneText)
		r, err := CheckDomain(t.Context(), domain, DomainCheck{DKIMSelector: testSelector, Resolver: testClient(t, s), CacheOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		own, sub, gone := effect(today...)
		olderOwn, olderSub := olderEffect(today...)
		if r.DMARC.Inherited {
			own = strength(r.DMARC.Policy)
			sub, gone = own, own
		}
		proposed := ""
		for _, f := range r.Findings {
			for _, p := range f.Publish {
				if p.Name != "_dmarc."+domain || f.Optional {
					continue
				}
				proposed = p.Value
				if o, s, g := effect(p.Value); o > own || s > sub || g > gone {
					t.Errorf("%q: %s proposes %q", records, f.Code, p.Value)
				}
				if o, s := olderEffect(p.Value); !r.DMARC.Inherited && (o > olderOwn || s > olderSub) {
					t.Errorf("%q: %s proposes %q to older receivers", records, f.Code, p.Value)
				}
				if slices.ContainsFunc(parseDMARC(p.Value).problems, func(p dmarcProblem) bool { return !p.stays }) {
					t.Errorf("%q: %s proposes %q: %v", records, f.Code, p.Value, parseDMARC(p.Value).problems)
				}
			}
		}
		if n := r.DMARC.Next; n != nil && n.Publish.Name == "_dmarc."+domain {
			from := today
			if proposed != "" {
				from = []string{proposed}
			}
			own, sub, gone := effect(from...)
			if o, s, g := effect(n.Publish.Value); o > own+1 || s > sub+1 || g > gone+1 {
				t.Errorf("%q: from %q the next step is %q", records, from, n.Publish.Value)
			}
			olderOwn, olderSub := olderEffect(from...)
			if o, s := olderEffect(n.Publish.Value); o > olderOwn+1 || s > olderSub+1 {
				t.Errorf("%q: from %q the next step is %q to older receivers", records, from, n.Publish.Value)
			}
		}
	}
	for _, v := range dmarcVectors {
		check(firstText(v.domain, "acme.test"), "", v.records)
	}
	parts := []string{"p=none", "p=reject", "p=quarantine", "p=", "p=foo", "sp=none", "sp=reject", "sp=x", "np=none", "np=reject", "rua=mailto:d@acme.test", "rua=d@acme.test", "rua=", "t=y", "t=n", "adkim=s", "aspf=q", "fo=z", "foo=bar", "junk", "", "rf=afrf", "v=DMARC1", "pct=0", "pct=50", "pct=100"}
	heads := []string{"v=DMARC1", "v=DMARC1", "v=DMARC1", "v=dmarc1", " v=DMARC1", "DMARC1"}
	separators := []string{"; ", "; ", "; ", ";", " ", ", ", ";;"}
	rnd := rand.New(rand.NewPCG(7, 9))
	for i := range 600 {
		text := heads[rnd.IntN(len(heads))]
		for range 1 + rnd.IntN(5) {
			text += separators[rnd.IntN(len(separators))] + parts[rnd.IntN(len(parts))]
		}
		host := []string{"_dmarc.acme.test", "_dmarc.acme.test", "acme.test", "_dmarc.acme.test.acme.test"}[i%4]
		records := []string{host + " " + text}
		if i%8 == 1 {
			records = append(records, fmt.Sprintf("%s v=DMARC1; %s; %s", host, parts[rnd.IntN(len(parts))], parts[rnd.IntN(len(parts))]))
		}
		check("acme.test", "", records)
	}
}

// Where no receiver applies the policy that was meant, the record to publish
// has p=none, whatever the state of DKIM; the old policy is named as the goal,
// and the ratchet leads there.
func TestDMARCGoalByRatchet(t *testing.T) {
	t.Parallel()
	const reports = "; rua=mailto:d@acme.test"
	tests := []struct {
		name string
		zone []string
		code string
		goal string // "" for none
		next string
	}{
		{"at the apex", []string{"-_dmarc.acme.test TXT", `acme.test TXT "v=DMARC1; p=reject` + reports + `"`}, "dmarc_at_apex", "p=reject", "quarantine"},
		{"doubled", []string{"-_dmarc.acme.test TXT", `_dmarc.acme.test.acme.test TXT "v=DMARC1; p=quarantine` + reports + `"`}, "dmarc_doubled_host", "p=quarantine", "quarantine"},
		{"small letters", []string{`_dmarc.acme.test TXT "v=dmarc1; p=reject` + reports + `"`}, "dmarc_near_miss", "p=reject", "quarantine"},
		{"small letters, none", []string{`_dmarc.acme.test TXT "v=dmarc1; p=none` + reports + `"`}, "dmarc_near_miss", "", ""},
		{"twice", []string{`_dmarc.acme.test TXT "v=DMARC1; p=reject; p=reject` + reports + `"`}, "dmarc_duplicate_tag", "p=reject", "quarantine"},
		{"two of sp", []string{`_dmarc.acme.test TXT "v=DMARC1; p=none; sp=reject; sp=none` + reports + `"`}, "dmarc_duplicate_tag", "", ""},
		{"unknown sp", []string{`_dmarc.acme.test TXT "v=DMARC1; p=reject; sp=rejct` + reports + `"`}, "dmarc_no_policy", "p=reject", "quarantine"},
		{"only sp", []string{`_dmarc.acme.test TXT "v=DMARC1; sp=reject` + reports + `"`}, "dmarc_no_policy", "sp=reject", "quarantine"},
		{"comma", []string{`_dmarc.acme.test TXT "v=DMARC1; p=reject, rua=mailto:d@acme.test"`}, "dmarc_bad_policy", "p=reject", "quarantine"},
		{"two records", []string{`_dmarc.acme.test TXT "v=DMARC1; p=none; sp=reject` + reports + `"`, `_dmarc.acme.test TXT "v=DMARC1; p=quarantine; sp=none` + reports + `"`}, "dmarc_multiple", "sp=reject", "quarantine"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := checkZoneText(t, zone(append(tt.zone, "-"+testSelector+"._domainkey.acme.test TXT", "-pm-bounces.acme.test CNAME")...), DomainCheck{})
			f := finding(t, r, tt.code)
			if len(f.Publish) != 1 || !strings.Contains(f.Publish[0].Value, "v=DMARC1; p=none; rua=mailto:d@acme.test") || f.Optional {
				t.Errorf("publish %+v", f.Publish)
			}
			if tt.goal == "" && strings.Contains(f.Fix, "goal") || tt.goal != "" && !strings.Contains(f.Fix, "No receiver applies "+tt.goal+" today") {
				t.Errorf("fix %q", f.Fix)
			}
			n := r.DMARC.Next
			if tt.next == "" && n != nil || tt.next != "" && (n == nil || n.Policy != tt.next || len(n.When) < 2) {
				t.Errorf("next %+v", n)
			}
		})
	}
}

// The ratchet from a policy for subdomains that is behind takes it up one step
// at a time, and nothing else is offered beside it.
func TestDMARCRatchetOfSubdomains(t *testing.T) {
	t.Parallel()
	tests := []struct {
		record string
		steps  []string // policy and the changed tags
	}{
		{"p=reject; sp=none", []string{"p=reject; sp=quarantine", "p=reject; sp=reject"}},
		{"p=reject; sp=none; np=none", []string{"p=reject; sp=quarantine; np=none", "p=reject; sp=reject; np=none", "p=reject; sp=reject; np=quarantine", "p=reject; sp=reject; np=reject"}},
		{"p=none; sp=reject", []string{"p=quarantine; sp=reject", "p=reject; sp=reject"}},
		{"p=quarantine; sp=none", []string{"p=reject; sp=none", "p=reject; sp=quarantine", "p=reject; sp=reject"}},
		{"p=quarantine; pct=0; t=y", []string{"p=quarantine; t=n", "p=reject; t=n"}},
		{"p=quarantine; pct=25", []string{"p=quarantine", "p=reject"}},
		{"p=quarantine; t=y", []string{"p=quarantine; t=n", "p=reject; t=n"}},
	}
	const head, tail = "v=DMARC1; ", "; rua=mailto:d@acme.test"
	for _, tt := range tests {
		text := head + tt.record + tail
		for _, want := range append(tt.steps, "") {
			r := checkZoneText(t, zone(`_dmarc.acme.test TXT "`+text+`"`), DomainCheck{})
			for _, f := range r.Findings {
				// A record of its own would undo the step for the other.
				if (f.Code == "dmarc_sp_weaker" || f.Code == "dmarc_np_weaker") && (len(f.Publish) > 0 || !strings.Contains(f.Fix, "The steps for DMARC lead there")) {
					t.Errorf("%q: %+v", text, f)
				}
			}
			n := r.DMARC.Next
			if want == "" {
				if n != nil {
					t.Errorf("%q: after the end: %+v", text, n)
				}
				break
			}
			if n == nil || n.Publish.Value != head+want+tail || len(n.When) == 0 {
				t.Errorf("%q: next %+v, want %q", text, n, want)
				break
			}
			text = n.Publish.Value
		}
	}
}

// An sp or np that is not a policy spoils the record as a bad p does (RFC 9989
// section 4.10.1).
func TestDMARCBadPolicyOfSubdomains(t *testing.T) {
	t.Parallel()
	tests := []struct {
		record, state, policy, code string
		ready                       bool
	}{
		{"p=reject; sp=rejct", "broken", "", "dmarc_bad_policy", false},
		{"p=reject; np=foo", "broken", "", "dmarc_bad_policy", false},
		{"p=reject; sp=", "broken", "", "dmarc_bad_policy", false},
		{"p=reject; sp=rejct; rua=mailto:d@acme.test", "ok", "none", "dmarc_no_policy", true},
		{"p=reject; np=foo; sp=reject; rua=mailto:d@acme.test", "ok", "none", "dmarc_no_policy", true},
		{"p=reject; sp=rejct; rua=https://acme.test", "broken", "", "dmarc_bad_policy", false},
	}
	for _, tt := range tests {
		r := checkZoneText(t, zone(`_dmarc.acme.test TXT "v=DMARC1; `+tt.record+`"`), DomainCheck{})
		if r.DMARC.State != tt.state || r.DMARC.Policy != tt.policy || r.Ready != tt.ready {
			t.Errorf("%q: %s, policy %q, ready %v: %v", tt.record, r.DMARC.State, r.DMARC.Policy, r.Ready, codes(r))
		}
		if f := finding(t, r, tt.code); len(f.Publish) != 1 || !strings.HasPrefix(f.Publish[0].Value, "v=DMARC1; p=none; rua=") || !strings.Contains(f.Summary, "whole record") {
			t.Errorf("%q: %+v", tt.record, f)
		}
	}
}

// Older receivers follow pct. A correction keeps it while it holds them back,
// and says t=y to the others in place of pct=0.
func TestDMARCPercentage(t *testing.T) {
	t.Parallel()
	tests := []struct {
		tags, publish, next string
	}{
		{"p=quarantine; pct=0; rua=mailto:d@acme.test", "p=quarantine; pct=0; rua=mailto:d@acme.test; t=y", "p=quarantine; rua=mailto:d@acme.test; t=n"},
		{"p=reject; pct=0", "p=reject; pct=0; rua=mailto:dmarc@acme.test; t=y", "p=reject; rua=mailto:dmarc@acme.test; t=n"},
		{"p=reject; pct=0; t=y; rua=mailto:d@acme.test", "", "p=reject; t=n; rua=mailto:d@acme.test"},
		{"p=reject; pct=0; t=n; rua=mailto:d@acme.test", "", "p=reject; t=n; rua=mailto:d@acme.test"},
		{"p=quarantine; pct=50; rua=mailto:d@acme.test", "", "p=quarantine; rua=mailto:d@acme.test"},
		{"p=quarantine; pct=50", "p=quarantine; pct=50; rua=mailto:dmarc@acme.test", "p=quarantine; rua=mailto:dmarc@acme.test"},
		{"p=none; sp=quarantine; pct=50; rua=mailto:d@acme.test", "", "p=none; sp=quarantine; rua=mailto:d@acme.test"},
		{"p=quarantine; pct=100; rua=mailto:d@acme.test", "p=quarantine; rua=mailto:d@acme.test", "p=reject; rua=mailto:d@acme.test"},
		{"p=none; pct=0; rua=mailto:d@acme.test", "p=none; rua=mailto:d@acme.test", "p=quarantine; rua=mailto:d@acme.test"},
		{"p=reject; pct=many; rua=mailto:d@acme.test", "p=reject; rua=mailto:d@acme.test", ""},
	}
	for _, tt := range tests {
		r := checkZoneText(t, zone(`_dmarc.acme.test TXT "v=DMARC1; `+tt.tags+`"`), DomainCheck{})
		publish, next := "", ""
		for _, f := range r.Findings {
			if f.Area == "DMARC" && len(f.Publish) > 0 {
				publish = strings.TrimPrefix(f.Publish[0].Value, "v=DMARC1; ")
			}
		}
		if r.DMARC.Next != nil {
			next = strings.TrimPrefix(r.DMARC.Next.Publish.Value, "v=DMARC1; ")
		}
		if publish != tt.publish || next != tt.next {
			t.Errorf("%q: publish %q, next %q", tt.tags, publish, next)
		}
		f := finding(t, r, "dmarc_removed_tag")
		if strings.Contains(f.Fix, "changes nothing") != (strings.Contains(tt.publish, "rua") && !strings.Contains(tt.publish, "pct")) {
			t.Errorf("%q: fix %q, summary %q", tt.tags, f.Fix, f.Summary)
		}
	}
}

// What a name of the walk that did not answer may have said is not known, so a
// policy from further up is told with that reservation, once.
func TestDMARCWalkUnanswered(t *testing.T) {
	t.Parallel()
	const domain = "a.b.acme.test"
	for _, tt := range []struct {
		silent, own string
		want        int
	}{
		{"", "", 0},
		{"_dmarc.b.acme.test", "", 1},
		{"_dmarc.test", "", 1},
		{"_dmarc.b.acme.test", `_dmarc.a.b.acme.test TXT "v=DMARC1; p=reject; rua=mailto:d@acme.test"`, 0},
	} {
		s := dnstest.Start(t, zone(testSelector+`._domainkey.a.b.acme.test TXT "`+testKey+`"`, "pm-bounces.a.b.acme.test CNAME pm.mtasv.net", "a.b.acme.test MX 10 mail.acme.test")+"\n"+tt.own)
		if tt.silent != "" {
			s.Fail(tt.silent, "TXT", dnstest.Fault{RCode: 2})
		}
		for _, key := range []string{testSelector, testSelector + "._domainkey.acme.test"} {
			r, err := CheckDomain(t.Context(), domain, DomainCheck{DKIMSelector: key, Resolver: testClient(t, s), CacheOnly: true})
			if err != nil {
				t.Fatal(err)
			}
			got := 0
			for _, f := range r.Findings {
				if f.Code == "dmarc_unasked" {
					got++
				}
			}
			want := tt.want
			if tt.own != "" && key != testSelector {
				want = 1 // the key is that of a name above
			}
			if got != want || r.DMARC.State != "ok" || want > 0 && r.Level != DomainUnknown {
				t.Errorf("%+v, %s: %s, %v", tt, key, r.DMARC.State, codes(r))
			}
		}
	}
}

// A subdomain whose own record does not count has the policy from above, and
// the report says so.
func TestDMARCBelowASoundRecord(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		texts []string
		want  string
		ready bool
	}{
		{"two records", []string{"v=DMARC1; p=none", "v=DMARC1; p=reject"}, "fail dmarc_multiple", false},
		{"nearly a record", []string{"v=dmarc1; p=none"}, "warn dmarc_near_miss", true},
	} {
		lines := []string{testSelector + `._domainkey.news.acme.test TXT "` + testKey + `"`, "news.acme.test MX 10 mail.acme.test"}
		for _, text := range tt.texts {
			lines = append(lines, `_dmarc.news.acme.test TXT "`+text+`"`)
		}
		s := dnstest.Start(t, zone(lines...))
		r, err := CheckDomain(t.Context(), "news.acme.test", DomainCheck{DKIMSelector: testSelector, Resolver: testClient(t, s), CacheOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		level, code, _ := strings.Cut(tt.want, " ")
		f := finding(t, r, code)
		if d := r.DMARC; d.State != "ok" || !d.Inherited || d.Policy != "reject" || r.Ready != tt.ready || string(f.Level) != level {
			t.Errorf("%s: ready %v, %+v, %v", tt.name, r.Ready, d, codes(r))
		}
		if !strings.Contains(f.Summary, "that of acme.test") && !strings.Contains(f.Summary, "That of acme.test") {
			t.Errorf("%s: %s", tt.name, f.Summary)
		}
		if !strings.Contains(finding(t, r, "dmarc_inherited").Summary, "of its own that counts") {
			t.Errorf("%s: %s", tt.name, finding(t, r, "dmarc_inherited").Summary)
		}
	}
}

// The rules allow a capital V, so the record is one; that some receivers do not
// read it is a warning.
func TestDMARCCapitalVersion(t *testing.T) {
	t.Parallel()
	for record, optional := range map[string]bool{"V=DMARC1; p=reject; rua=mailto:dmarc@acme.test": true, "V=DMARC1; p=none; rua=mailto:dmarc@acme.test": false} {
		r := checkZoneText(t, zone(`_dmarc.acme.test TXT "`+record+`"`), DomainCheck{})
		f := finding(t, r, "dmarc_near_miss")
		if r.DMARC.State != "ok" || !r.Ready || f.Level != DomainWarn || f.Optional != optional || len(f.Publish) != 1 || f.Publish[0].Value != "v"+record[1:] {
			t.Errorf("%s: %s, ready %v, %+v", record, r.DMARC.State, r.Ready, f)
		}
	}
}

// Of a record at a wrong name the reader is told where it is to be deleted, in
// the text and in the zone file.
func TestDMARCWrongNameIsDeleted(t *testing.T) {
	t.Parallel()
	for code, line := range map[string]string{
		"dmarc_at_apex":      `acme.test TXT "v=DMARC1; p=none; rua=mailto:d@acme.test"`,
		"dmarc_doubled_host": `_dmarc.acme.test.acme.test TXT "v=DMARC1; p=none; rua=mailto:d@acme.test"`,
	} {
		r := checkZoneText(t, zone("-_dmarc.acme.test TXT", line), DomainCheck{})
		if f := finding(t, r, code); !strings.Contains(f.Fix, "delete the old one") || !strings.Contains(strings.ToLower(r.Zone()), "delete it there. ("+code+")") {
			t.Errorf("%s: %s\n%s", code, f.Fix, r.Zone())
		}
	}
}

// The address for reports stands in records, which are ASCII.
func TestDMARCReportsInASCII(t *testing.T) {
	t.Parallel()
	s := dnstest.Start(t, zone("-_dmarc.acme.test TXT"))
	check := func(address string) (*DomainReport, error) {
		return CheckDomain(t.Context(), "acme.test", DomainCheck{DMARCReports: address, Resolver: testClient(t, s), CacheOnly: true, Profiles: []DomainProfile{TLSRPT}})
	}
	r, err := check("Dmarc@B\u00fccher.test")
	if err != nil {
		t.Fatal(err)
	}
	for _, code := range []string{"dmarc_missing", "tlsrpt_missing"} {
		if v := finding(t, r, code).Publish[0].Value; !strings.Contains(v, "rua=mailto:Dmarc@xn--bcher-kva.test") {
			t.Errorf("%s: %q", code, v)
		}
	}
	for _, address := range []string{"dm\u00e4rc@acme.test", "d?x@acme.test", "d:x@acme.test", "d\\x@acme.test", "@acme.test", "acme.test", "d@e@acme.test"} {
		var f *FieldError
		if _, err := check(address); !errors.As(err, &f) || f.Field != "DMARCReports" {
			t.Errorf("%q: %v", address, err)
		}
	}
}

// Of several texts that were meant as the record one correction is published: two
// records would be none. The DMARC one sends reports to all who got them.
func TestOneRecordAtAName(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, prefix string
		lines        []string
		want         []string // the records
		pointing     int      // findings that speak of the record of another
	}{
		{
			"_dmarc.acme.test", "v=DMARC1",
			[]string{"-_dmarc.acme.test TXT", `_dmarc.acme.test TXT "v=dmarc1; p=none; rua=mailto:a@acme.test"`, `_dmarc.acme.test TXT "v=dmarc1; p=none; rua=mailto:b@acme.test"`},
			[]string{"v=DMARC1; p=none; rua=mailto:a@acme.test,mailto:b@acme.test"},
			0,
		},
		{
			"_dmarc.acme.test", "v=DMARC1",
			[]string{`_dmarc.acme.test TXT "v=DMARC1; p=reject; rua=mailto:a@acme.test"`, `_dmarc.acme.test TXT "v=DMARC1; p=none; rua=mailto:b@acme.test,mailto:a@acme.test"`, `_dmarc.acme.test TXT "v=dmarc1; p=none; rua=mailto:c@acme.test"`},
			[]string{"v=DMARC1; p=none; rua=mailto:b@acme.test,mailto:a@acme.test"},
			0,
		},
		{"acme.test", "v=spf1", []string{"-acme.test TXT", `acme.test TXT " v=spf1 a ~all"`, `acme.test TXT "\"v=spf1 mx ~all"`}, []string{"v=spf1 a ~all"}, 1},
	} {
		r := checkZoneText(t, zone(tt.lines...), DomainCheck{DKIMSelector: testSelector})
		var got []string
		pointing := 0
		for _, f := range r.Findings {
			for _, rec := range f.Publish {
				if !f.Optional && rec.Name == tt.name && strings.HasPrefix(rec.Value, tt.prefix) && !slices.Contains(got, rec.Value) {
					got = append(got, rec.Value)
				}
			}
			if strings.Contains(f.Fix, "publish the one given above") {
				pointing++
			}
		}
		if d := cmp.Diff(tt.want, got); d != "" || pointing != tt.pointing {
			t.Errorf("%s: %d findings that speak of another, records (-want +got):\n%s\n%s", tt.name, pointing, d, r.Text())
		}
	}
}

// A record whose name would be longer than a name may be is not proposed.
func TestNoRecordUnderALongName(t *testing.T) {
	t.Parallel()
	label := strings.Repeat("a", 56) + "."
	host := strings.Repeat(label, 4) + "other.test"
	for _, tt := range []struct {
		host    string
		publish int
	}{{host, 0}, {host[len(label):], 1}} {
		r := checkZoneText(t, zone("-_dmarc.acme.test TXT", "_dmarc.acme.test TXT"+quoted("v=DMARC1; p=none; rua=mailto:d@"+tt.host), tt.host+" MX 10 mail.acme.test"), DomainCheck{})
		if f := finding(t, r, "dmarc_report_unauthorised"); len(f.Publish) != tt.publish || !strings.Contains(f.Fix, "address at your own domain") {
			t.Errorf("%+v", f)
		}
	}
	domain := strings.Repeat(label, 4) + strings.Repeat("b", 14) + ".test"
	r, err := CheckDomain(t.Context(), domain, DomainCheck{ReturnPath: "b.test.test", Resolver: testClient(t, dnstest.Start(t, zone())), CacheOnly: true, Profiles: []DomainProfile{TLSRPT}})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range r.Findings {
		for _, p := range f.Publish {
			if len(p.Name) > 253 {
				t.Errorf("%s: %s", f.Code, p.Name)
			}
		}
	}
	if f := finding(t, r, "dmarc_missing"); !strings.Contains(f.Fix, "shorter domain") {
		t.Errorf("%+v", f)
	}
}

// Where a proposed record has reports sent to another organisation, that must
// agree to it, which is said beside the record.
func TestReportsElsewhereNeedPermission(t *testing.T) {
	t.Parallel()
	const none, permission = "-_dmarc.acme.test TXT", "acme.test._report._dmarc.other.test"
	long := strings.Repeat(strings.Repeat("a", 56)+".", 4) + "other.test"
	for _, tt := range []struct {
		name, reports string
		lines         []string
		code          string
		says          string // "" is nothing of it
	}{
		{"no record", "d@other.test", []string{none}, "dmarc_missing", "TXT record at " + permission + " with the value v=DMARC1"},
		{"no report address", "d@other.test", []string{`_dmarc.acme.test TXT "v=DMARC1; p=none"`}, "dmarc_no_reports", permission},
		{"at the wrong place", "d@other.test", []string{none, `acme.test TXT "v=DMARC1; p=none"`}, "dmarc_at_apex", permission},
		{"broken", "d@other.test", []string{`_dmarc.acme.test TXT "v=DMARC1; p=bogus"`}, "dmarc_bad_policy", permission},
		{"allowed", "d@other.test", []string{none, permission + ` TXT "v=DMARC1"`}, "dmarc_missing", ""},
		{"allowed to all", "d@other.test", []string{none, `*._report._dmarc.other.test TXT "v=DMARC1"`}, "dmarc_missing", ""},
		{"another text there", "d@other.test", []string{none, permission + ` TXT "x"`}, "dmarc_missing", permission},
		{"below the domain", "d@mail.acme.test", []string{none}, "dmarc_missing", ""},
		{"by default", "", []string{none}, "dmarc_missing", ""},
		{"other reports are sent", "d@other.test", []string{`_dmarc.acme.test TXT "v=DMARC1; p=none; rf=afrf; rua=mailto:d@acme.test"`}, "dmarc_removed_tag", ""},
		{"a host that cannot agree", "d@" + long, []string{none}, "dmarc_missing", "at your own domain"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := checkZoneText(t, zone(tt.lines...), DomainCheck{DMARCReports: tt.reports})
			f := finding(t, r, tt.code)
			if said := strings.Contains(f.Fix, " Also "); len(f.Publish) != 1 || said != (tt.says != "") || !strings.Contains(f.Fix, tt.says) {
				t.Errorf("%+v", f)
			}
		})
	}
}
