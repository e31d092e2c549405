package fluxly

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/getfluxly/fluxly/internal/dnsmsg/dnstest"
)

// schemaReports are reports of all kinds as JSON: sound, broken, crowded,
// hostile, with nothing answered, and with every profile.
func schemaReports(t *testing.T) map[string][]byte {
	t.Helper()
	silent := dnstest.Start(t, zone())
	silent.Fail("*", "*", dnstest.Fault{RCode: 2})
	unasked, err := CheckDomain(t.Context(), "acme.test", DomainCheck{Resolver: testClient(t, silent), Profiles: DomainProfiles()})
	if err != nil {
		t.Fatal(err)
	}
	reports := map[string]*DomainReport{
		"healthy": checkZoneText(t, zone(), DomainCheck{DKIMValue: testKey, Profiles: DomainProfiles(), Addresses: []netip.Addr{netip.MustParseAddr("2001:db8::1")}}),
		"broken":  brokenReport(t),
		"crowded": crowdedReport(t),
		"nothing": checkZoneText(t, "", DomainCheck{Profiles: DomainProfiles()}),
		"unasked": unasked,
		"hostile": checkZoneText(t, zone("acme.test MX 10 \x1b[2J.test", fmt.Sprintf("acme.test TXT %q", "v=spf1 \x00\xff<\u202e -all"), fmt.Sprintf("_dmarc.acme.test TXT %q", "v=DMARC1; p=\xff")), DomainCheck{}),
	}
	out := map[string][]byte{}
	for name, r := range reports {
		data, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		out[name] = data
	}
	return out
}

func publishedSchema(t *testing.T) (root map[string]any) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("docs", "domain-check.schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &root); err != nil {
		t.Fatal(err)
	}
	return root
}

// Every report fits the published schema.
func TestReportFitsSchema(t *testing.T) {
	t.Parallel()
	root := publishedSchema(t)
	v := schemaValidator{root}
	for name, data := range schemaReports(t) {
		var doc any
		if err := json.Unmarshal(data, &doc); err != nil {
			t.Fatal(err)
		}
		for _, fault := range v.check("", root, doc) {
			t.Errorf("%s: %s", name, fault)
		}
	}
	// And what does not fit is found.
	for _, s := range []string{`{}`, `[]`, `null`, strings.Replace(string(schemaReports(t)["healthy"]), `"level":"info"`, `"level":"fine"`, 1), strings.Replace(string(schemaReports(t)["healthy"]), `"ready":true`, `"ready":1`, 1)} {
		var doc any
		if err := json.Unmarshal([]byte(s), &doc); err != nil {
			t.Fatal(err)
		}
		if len(v.check("", root, doc)) == 0 {
			t.Errorf("accepts %.60s", s)
		}
	}
}

// A line of fluxly dnscheck -watch -json fits its part of the schema, with
// changes of every kind.
func TestWatchLineFitsSchema(t *testing.T) {
	t.Parallel()
	root := publishedSchema(t)
	v, line := schemaValidator{root}, map[string]any{"$ref": "#/$defs/WatchLine"}
	healthy, missing := checkZoneText(t, zone(), DomainCheck{DKIMSelector: testSelector}), checkZoneText(t, zone("-_dmarc.acme.test TXT"), DomainCheck{DKIMSelector: testSelector})
	graded := *healthy
	graded.Findings = slices.Clone(healthy.Findings)
	graded.Findings[0].Level = DomainFail
	seen := map[string]bool{}
	for _, pair := range [][2]*DomainReport{{healthy, healthy}, {healthy, missing}, {missing, healthy}, {healthy, &graded}} {
		changes := append([]DomainChange{}, CompareReports(pair[0], pair[1])...)
		for _, c := range changes {
			seen[c.Kind] = true
		}
		data, err := json.Marshal(map[string]any{"report": pair[1], "changes": changes})
		if err != nil {
			t.Fatal(err)
		}
		var doc any
		if err := json.Unmarshal(data, &doc); err != nil {
			t.Fatal(err)
		}
		for _, fault := range v.check("", line, doc) {
			t.Error(fault)
		}
	}
	if len(seen) != 5 {
		t.Errorf("kinds of change: %v", seen)
	}
	for _, s := range []string{`{}`, `{"report":null,"changes":[]}`, `{"changes":null}`, `{"report":1,"changes":[{"kind":"odd","text":""}]}`} {
		var doc any
		if err := json.Unmarshal([]byte(s), &doc); err != nil {
			t.Fatal(err)
		}
		if len(v.check("", line, doc)) == 0 {
			t.Errorf("accepts %s", s)
		}
	}
}

// The same by another implementation, which checks the schema itself too.
func TestReportFitsSchemaSecondOpinion(t *testing.T) {
	t.Parallel()
	python := os.Getenv("FLUXLY_TEST_JSONSCHEMA")
	if python == "" {
		t.Skip("no second opinion on the schema: FLUXLY_TEST_JSONSCHEMA is not set; it names a Python with jsonschema")
	}
	const program = `
import sys, json, jsonschema
schema = json.load(open(sys.argv[1]))
jsonschema.Draft202012Validator.check_schema(schema)
v = jsonschema.Draft202012Validator(schema)
for e in v.iter_errors(json.load(sys.stdin)):
    print(list(e.absolute_path), e.message[:200])
`
	for name, data := range schemaReports(t) {
		cmd := exec.CommandContext(t.Context(), python, "-c", program, filepath.Join("docs", "domain-check.schema.json"))
		cmd.Stdin = bytes.NewReader(data)
		out, err := cmd.CombinedOutput()
		if err != nil || len(out) > 0 {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}

// schemaValidator knows the few words that the published schema uses, and
// refuses any other.
type schemaValidator struct{ root map[string]any }

func (v schemaValidator) check(at string, schema map[string]any, doc any) (faults []string) {
	bad := func(format string, args ...any) { faults = append(faults, at+": "+fmt.Sprintf(format, args...)) }
	for word, rule := range schema {
		switch word {
		case "$schema", "$defs", "title", "format":
		case "$ref":
			name := strings.TrimPrefix(rule.(string), "#/$defs/")
			def, ok := v.root["$defs"].(map[string]any)[name].(map[string]any)
			if !ok {
				bad("no definition %s", name)
				continue
			}
			faults = append(faults, v.check(at, def, doc)...)
		case "type":
			types := []any{rule}
			if list, ok := rule.([]any); ok {
				types = list
			}
			if !slices.ContainsFunc(types, func(want any) bool {
				return schemaType(doc) == want || want == "number" && schemaType(doc) == "integer"
			}) {
				bad("is %s, not %v", schemaType(doc), rule)
			}
		case "enum":
			if !slices.Contains(rule.([]any), doc) {
				bad("%v is not one of %v", doc, rule)
			}
		case "items":
			list, _ := doc.([]any)
			for i, item := range list {
				faults = append(faults, v.check(fmt.Sprintf("%s[%d]", at, i), rule.(map[string]any), item)...)
			}
		case "required":
			object, _ := doc.(map[string]any)
			for _, name := range rule.([]any) {
				if _, ok := object[name.(string)]; !ok {
					bad("has no %s", name)
				}
			}
		case "properties":
			object, _ := doc.(map[string]any)
			for name, value := range object {
				p, ok := rule.(map[string]any)[name].(map[string]any)
				if !ok {
					bad("has the unknown member %s", name)
					continue
				}
				faults = append(faults, v.check(at+"."+name, p, value)...)
			}
		case "additionalProperties":
			if rule != false {
				bad("allows members that nobody describes")
			}
		case "anyOf":
			if !slices.ContainsFunc(rule.([]any), func(s any) bool { return len(v.check(at, s.(map[string]any), doc)) == 0 }) {
				bad("fits none of the alternatives")
			}
		default:
			bad("the schema uses %q", word)
		}
	}
	return faults
}

func schemaType(doc any) string {
	switch d := doc.(type) {
	case nil:
		return "null"
	case bool:
		return "boolean"
	case string:
		return "string"
	case []any:
		return "array"
	case float64:
		if d == float64(int64(d)) {
			return "integer"
		}
		return "number"
	}
	return "object"
}
