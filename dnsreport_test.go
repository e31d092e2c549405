package fluxly

import (
	"bytes"
	"encoding/json"
	"fmt"
	"html/template"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/google/go-cmp/cmp"

	"github.com/getfluxly/fluxly/internal/dnsmsg/dnstest"
)

// brokenZone has most of what goes wrong in practice.
const brokenZone = `
acme.test SOA ns1.acme.test 300
acme.test NS ns1.acme.test
acme.test NS ns2.acme.test
ns1.acme.test A 192.0.2.1
ns2.acme.test A 192.0.2.2
acme.test TXT "v=spf1 include:_spf.office.test -all"
acme.test TXT "v=spf1 a:www.acme.test mx ?all"
acme.test TXT "“v=spf1 include:spf.mtasv.net -all”"
acme.test MX 0 .
_spf.office.test TXT "v=spf1 ip4:198.51.100.0/24 -all"
spf.mtasv.net TXT "v=spf1 ip4:203.0.113.0/25 -all"
20231123163444pm._domainkey.acme.test.acme.test TXT "` + testKey + `"
pm-bounces.acme.test A 192.0.2.80
_dmarc.acme.test TXT "v=DMARC1; p=none; sp=none; pct=50; rua=mailto:reports@elsewhere.test!10m"
elsewhere.test MX 10 mx.elsewhere.test
`

func brokenReport(t *testing.T) *DomainReport {
	t.Helper()
	s := dnstest.Start(t, brokenZone)
	r, err := CheckDomain(t.Context(), "acme.test", DomainCheck{DKIMSelector: testSelector, DKIMValue: testKey, Resolver: testClient(t, s)})
	if err != nil {
		t.Fatal(err)
	}
	r.CheckedAt = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	return r
}

// crowdedZone is a domain whose SPF record costs too much, with every kind of
// term in its tree.
const crowdedZone = `
acme.test SOA ns1.acme.test 300
acme.test MX 10 mail.acme.test
mail.acme.test A 192.0.2.10
acme.test TXT "v=spf1 mx a:gone.acme.test include:_spf.office.test include:_spf.shop.test include:spf.mtasv.net exists:%{i}.list.acme.test ptr ip4:192.0.2.0/24 ~all"
_spf.office.test TXT "v=spf1 include:_a.office.test include:_b.office.test include:_c.office.test -all"
_a.office.test TXT "v=spf1 ip4:198.51.100.0/24 include:_deep.office.test -all"
_deep.office.test TXT "v=spf1 ip6:2001:db8::/32 -all"
_b.office.test TXT "v=spf1 a:out.office.test -all"
out.office.test A 198.51.100.9
_c.office.test TXT "v=spf1 redirect=_spf.shop.test"
_spf.shop.test TXT "v=spf1 ip4:203.0.113.128/25 -all moo"
spf.mtasv.net TXT "v=spf1 ip4:203.0.113.0/25 -all"
20231123163444pm._domainkey.acme.test TXT "` + testKey + `"
pm-bounces.acme.test CNAME pm.mtasv.net
pm.mtasv.net TXT "v=spf1 include:spf.mtasv.net ~all"
_dmarc.acme.test TXT "v=DMARC1; p=quarantine; rua=mailto:dmarc@acme.test"
`

func crowdedReport(t *testing.T) *DomainReport {
	t.Helper()
	r := checkZoneText(t, crowdedZone, DomainCheck{DKIMValue: testKey, Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("8.8.8.8")}})
	r.CheckedAt = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	return r
}

// The tree of a record that costs too much, as text and drawn on the page.
func TestReportTree(t *testing.T) {
	t.Parallel()
	r := crowdedReport(t)
	wantGolden(t, "dnscheck/crowded.txt", []byte(r.Text()))
	var page bytes.Buffer
	if err := r.WriteHTML(&page); err != nil {
		t.Fatal(err)
	}
	wantGolden(t, "dnscheck/crowded.html", page.Bytes())
	if n := strings.Count(page.String(), `<span class="cost`); n < 18 {
		t.Errorf("%d terms are drawn", n)
	}
}

func TestReportOutputs(t *testing.T) {
	t.Parallel()
	r := brokenReport(t)
	wantGolden(t, "dnscheck/broken.txt", []byte(r.Text()))
	wantGolden(t, "dnscheck/broken.zone", []byte(r.Zone()))
	var page bytes.Buffer
	if err := r.WriteHTML(&page); err != nil {
		t.Fatal(err)
	}
	wantGolden(t, "dnscheck/broken.html", page.Bytes())
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	wantGolden(t, "dnscheck/broken.json", append(data, '\n'))
	var back DomainReport
	if err := json.Unmarshal(data, &back); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(*r, back, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
		t.Errorf("JSON does not come back equal:\n%s", d)
	}
}

// A value to publish is printed whole and as it is, since it is copied from
// there; one that cannot be copied is left to the zone file.
func TestReportValues(t *testing.T) {
	t.Parallel()
	long := "v=spf1"
	for i := range 80 {
		long += fmt.Sprintf(" ip4:198.51.%d.0/24", i)
	}
	for _, tt := range []struct{ name, record, key, zone string }{
		{"over a thousand characters", "acme.test TXT" + quoted(long+" -all"), "", ""},
		{"a backslash", `acme.test TXT "v=spf1 note=a\\b ip4:192.0.2.0/24 -all"`, "", `note=a\\b`},
		{"two blanks and a sign of HTML", `acme.test TXT "v=spf1  note=<&>  ip4:192.0.2.0/24 -all"`, "", ""},
		{"letters beyond ASCII", testSelector + `._domainkey.acme.test TXT "x"`, testKey + "; n=caf\u00e9", `n=caf\195\169`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := checkZoneText(t, zone(tt.record), DomainCheck{DKIMValue: tt.key})
			var page bytes.Buffer
			if err := r.WriteHTML(&page); err != nil {
				t.Fatal(err)
			}
			n := 0
			for _, f := range r.Findings {
				for _, p := range f.Publish {
					n++
					shown := p.Value
					if strings.Contains(shown, "\u00e9") {
						shown = "(not of plain letters alone: copy it from the zone file, which fluxly dnscheck -zone prints)"
					}
					if !strings.Contains(r.Text(), "Value: "+shown+"\n") {
						t.Errorf("text lacks %q:\n%s", shown, r.Text())
					}
					if !strings.Contains(page.String(), "<code>"+template.HTMLEscapeString(shown)+"</code>") {
						t.Errorf("page lacks %q", shown)
					}
				}
			}
			if n == 0 || !strings.Contains(r.Zone(), tt.zone) {
				t.Errorf("%d records; zone:\n%s", n, r.Zone())
			}
		})
	}
}

// The JSON holds nothing that drives a terminal, comes back as it was, and has a
// list where one is promised.
func TestReportJSON(t *testing.T) {
	t.Parallel()
	const evil = "v=DMARC1; p=none; x=\u009b31m\u007f\u202e\u2066\u00ad\U000e0041<b>é"
	s := dnstest.Start(t, zone("_dmarc.acme.test TXT"+quoted(evil), "acme.test MX 10 \u009b2J.test"))
	r, err := CheckDomain(t.Context(), "acme.test", DomainCheck{Resolver: testClient(t, s), CacheOnly: true, Profiles: DomainProfiles()})
	if err != nil {
		t.Fatal(err)
	}
	change := DomainChange{Kind: "record", Before: evil, Text: "changed"}
	for name, v := range map[string]any{"report": r, "report by value": *r, "change": change, "both": map[string]any{"report": r, "changes": []DomainChange{change}}} {
		var b bytes.Buffer
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false)
		e.SetIndent("", " ")
		if err := e.Encode(v); err != nil {
			t.Fatal(err)
		}
		if i := strings.IndexFunc(b.String(), func(c rune) bool { return c != '\n' && !unicode.IsPrint(c) }); i >= 0 {
			t.Errorf("%s: holds %q", name, b.String()[i:i+4])
		}
		if !strings.Contains(b.String(), "<b>é") || strings.Contains(b.String(), ": null") {
			t.Errorf("%s:\n%s", name, b.String())
		}
	}
	data, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var back DomainReport
	if err := json.Unmarshal(data, &back); err != nil || back.DMARC.Record != evil || back.DKIM == nil {
		t.Errorf("%v, %q, %v", err, back.DMARC.Record, back.DKIM)
	}
}

// What others publish must not drive a terminal or a page.
func TestReportHostile(t *testing.T) {
	t.Parallel()
	evil := `<script>alert(1)</script>` + "\x1b[2J\x07"
	s := dnstest.Start(t, zone("acme.test MX 10 \x1b[2J\x07\x9b.test", "-_dmarc.acme.test TXT", fmt.Sprintf("_dmarc.acme.test TXT %q", "v=DMARC1; p="+evil)))
	r, err := CheckDomain(t.Context(), "acme.test", DomainCheck{DKIMSelector: testSelector, Resolver: testClient(t, s)})
	if err != nil {
		t.Fatal(err)
	}
	var page bytes.Buffer
	if err := r.WriteHTML(&page); err != nil {
		t.Fatal(err)
	}
	for name, out := range map[string]string{"text": r.Text(), "zone": r.Zone(), "page": page.String()} {
		if strings.ContainsAny(out, "\x1b\x07\u009b") || strings.Contains(out, "\x9b") || name == "page" && strings.Contains(out, "<script") {
			t.Errorf("%s lets it through:\n%q", name, out)
		}
	}
}

func firstText(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// schema derives a JSON schema from the report's types, so that the published
// one cannot fall behind.
func schema(t reflect.Type, defs map[string]any) map[string]any {
	switch t {
	case reflect.TypeFor[time.Time]():
		return map[string]any{"type": "string", "format": "date-time"}
	case reflect.TypeFor[netip.Addr]():
		return map[string]any{"type": "string"}
	case reflect.TypeFor[DomainLevel]():
		return map[string]any{"enum": domainLevels}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return schema(t.Elem(), defs)
	case reflect.Slice:
		return map[string]any{"type": []string{"array", "null"}, "items": schema(t.Elem(), defs)}
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.Int:
		return map[string]any{"type": "integer"}
	case reflect.String:
		return map[string]any{"type": "string"}
	case reflect.Struct:
		if _, ok := defs[t.Name()]; !ok {
			defs[t.Name()] = nil
			props, required := map[string]any{}, []string{}
			for f := range t.Fields() {
				name, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
				p := schema(f.Type, defs)
				if f.Type.Kind() == reflect.Pointer && !strings.Contains(opts, "omitempty") {
					p = map[string]any{"anyOf": []any{p, map[string]any{"type": "null"}}}
				}
				props[name] = p
				if !strings.Contains(opts, "omitempty") {
					required = append(required, name)
				}
			}
			defs[t.Name()] = map[string]any{"type": "object", "properties": props, "required": required, "additionalProperties": false}
		}
		return map[string]any{"$ref": "#/$defs/" + t.Name()}
	}
	panic("no schema for " + t.String())
}

// The list of codes, written from the catalogue.
func TestReportCodes(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString("# Codes of the domain check\n\nA code keeps its meaning between releases. The level is the usual one; a few\nfindings are milder where they do no harm.\n")
	areas := append(slices.Clone(domainAreas), "postmark", "bulk-sender", "bimi", "mta-sts", "tls-rpt", "dnssec")
	for _, area := range areas {
		fmt.Fprintf(&b, "\n## %s\n\n| Code | Level | What it means for mail | Rule |\n|---|---|---|---|\n", area)
		for _, code := range slices.Sorted(maps.Keys(findingCatalogue)) {
			if e := findingCatalogue[code]; e.area == area {
				fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", code, e.level, firstText(e.why, "it could not be asked; nothing is said about the record"), e.rfc)
			}
		}
	}
	for code, e := range findingCatalogue {
		if !slices.Contains(areas, e.area) {
			t.Errorf("%s is in no area of the list: %q", code, e.area)
		}
	}
	path := filepath.Join("docs", "domain-check-codes.md")
	if os.Getenv("FLUXLY_UPDATE") != "" {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), b.String()); d != "" {
		t.Errorf("%s is behind; run with FLUXLY_UPDATE=1:\n%s", path, d)
	}
}

func TestReportSchema(t *testing.T) {
	t.Parallel()
	defs := map[string]any{}
	root := schema(reflect.TypeFor[DomainReport](), defs)
	root["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	root["title"] = "Report of fluxly dnscheck"
	change := schema(reflect.TypeFor[DomainChange](), defs)
	defs["DomainChange"].(map[string]any)["properties"].(map[string]any)["kind"] = map[string]any{"enum": []string{"new", "gone", "level", "record", "ready"}}
	defs["WatchLine"] = map[string]any{ // of the command's own
		"type": "object", "required": []string{"report", "changes"}, "additionalProperties": false,
		"properties": map[string]any{"report": map[string]any{"$ref": root["$ref"]}, "changes": map[string]any{"type": "array", "items": change}},
	}
	root["$defs"] = defs
	got, err := json.MarshalIndent(root, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	path := filepath.Join("docs", "domain-check.schema.json")
	if os.Getenv("FLUXLY_UPDATE") != "" {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("%s is behind; run with FLUXLY_UPDATE=1:\n%s", path, d)
	}
}

// A backslash is doubled only where it could be read as an escape.
func TestPrintable(t *testing.T) {
	t.Parallel()
	for _, tt := range [][2]string{
		{`v=spf1 "a" exists:%{i}\2 -all`, `v=spf1 "a" exists:%{i}\2 -all`},
		{"a\\b\x1b[2J", `a\\b\x1b[2J`},
		{"\xff\\", `\xff\\`},
		{"caf\u00e9 \\", "caf\u00e9 \\"},
		{"\u202e", `\u202e`},
	} {
		if got := printable(tt[0]); got != tt[1] {
			t.Errorf("printable(%q) = %q, want %q", tt[0], got, tt[1])
		}
	}
}
