package spf

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
)

// The public RFC 7208 suite, as it comes with the module that evaluates.

type suiteList []string

func (l *suiteList) UnmarshalYAML(n *yaml.Node) error {
	var many []string
	if n.Decode(&many) == nil {
		*l = many
		return nil
	}
	var one string
	if err := n.Decode(&one); err != nil {
		return err
	}
	*l = []string{one}
	return nil
}

type suiteTest struct {
	Helo     string
	Host     string
	MailFrom string `yaml:"mailfrom"`
	Result   suiteList
}

type suiteDoc struct {
	Description string
	Tests       map[string]suiteTest
	Zone        map[string]yaml.Node `yaml:"zonedata"`
}

func loadSuite(tb testing.TB) []suiteDoc {
	tb.Helper()
	dir, err := exec.CommandContext(tb.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "blitiri.com.ar/go/spf").Output()
	if err != nil {
		tb.Fatalf("find the module that holds the suite: %v", err)
	}
	data, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "testdata", "rfc7208-tests.yml"))
	if err != nil {
		tb.Fatal(err)
	}
	var docs []suiteDoc
	for d := yaml.NewDecoder(bytes.NewReader(data)); ; {
		var doc suiteDoc
		err := d.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return docs
		}
		if err != nil {
			tb.Fatal(err)
		}
		docs = append(docs, doc)
	}
}

// suiteZone answers from the zone data of one document.
type suiteZone struct {
	records map[string]map[string][]string // name, type
	fails   map[string]bool
}

func newSuiteZone(tb testing.TB, doc suiteDoc) *suiteZone {
	tb.Helper()
	z := &suiteZone{records: map[string]map[string][]string{}, fails: map[string]bool{}}
	for name, node := range doc.Zone {
		key := strings.ToLower(strings.TrimSuffix(name, "."))
		set := map[string][]string{}
		z.records[key] = set
		txt := false
		for _, item := range node.Content {
			if item.Kind == yaml.ScalarNode { // TIMEOUT
				set["FAIL"] = []string{item.Value}
				continue
			}
			for i := 0; i+1 < len(item.Content); i += 2 {
				typ, val := item.Content[i].Value, item.Content[i+1]
				switch typ {
				case "MX":
					set["MX"] = append(set["MX"], val.Content[1].Value)
				case "TXT", "SPF":
					var v string
					if val.Kind == yaml.ScalarNode {
						v = val.Value
					} else {
						for _, c := range val.Content {
							v += c.Value
						}
					}
					txt = txt || typ == "TXT"
					set[typ] = append(set[typ], v)
				default:
					set[typ] = append(set[typ], val.Value)
				}
			}
		}
		// The suite stems from a time with a record type SPF: a name that
		// has only that one means the same as TXT. "NONE" stands for no TXT.
		if !txt {
			set["TXT"] = set["SPF"]
		}
		set["TXT"] = slices.DeleteFunc(set["TXT"], func(s string) bool { return s == "NONE" })
	}
	return z
}

func (z *suiteZone) ask(name, typ string) ([]string, Status) {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if len(name) > 253 || name == "" {
		return nil, Empty
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 {
			return nil, Empty
		}
	}
	for range 8 {
		set := z.records[name]
		if v := set[typ]; len(v) > 0 {
			return v, Found
		}
		if len(set["FAIL"]) > 0 || len(set["TIMEOUT"]) > 0 {
			return nil, Failed
		}
		if c := set["CNAME"]; len(c) > 0 {
			name = strings.ToLower(strings.TrimSuffix(c[0], "."))
			continue
		}
		return nil, Empty
	}
	return nil, Failed
}

func (z *suiteZone) TXT(_ context.Context, name string) ([]string, Status) { return z.ask(name, "TXT") }
func (z *suiteZone) MX(_ context.Context, name string) ([]string, Status) {
	v, s := z.ask(name, "MX")
	return slices.Clone(v), s
}

func (z *suiteZone) Addrs(_ context.Context, name string) (out []netip.Addr, status Status) {
	v4, s4 := z.ask(name, "A")
	v6, s6 := z.ask(name, "AAAA")
	for _, v := range append(slices.Clone(v4), v6...) {
		a, err := netip.ParseAddr(v)
		if err == nil {
			out = append(out, a)
		}
	}
	if len(out) == 0 {
		return nil, max(s4, s6)
	}
	return out, Found
}

// otherVerdict holds the tests of the suite whose verdict for one mail is not
// the verdict for the record: the linter counts every path, and this mail ends
// on a short one.
var otherVerdict = map[string]string{
	"include-at-limit": "too_many_lookups", // 11 in all; the mail matches at the tenth
}

func TestSuiteLint(t *testing.T) {
	t.Parallel()
	count := 0
	for _, doc := range loadSuite(t) {
		z := newSuiteZone(t, doc)
		for name, test := range doc.Tests {
			count++
			sender, helo := test.MailFrom, test.Helo
			_, domain, ok := strings.Cut(sender, "@")
			if !ok {
				domain, sender = helo, "postmaster@"+helo
			}
			ip, _ := netip.ParseAddr(test.Host)
			root := Walk(t.Context(), z, domain, Identity{Addr: ip, Sender: sender, Helo: helo})
			var bad []string
			if root.State == Multiple {
				bad = append(bad, "multiple")
			}
			for _, i := range Lint(root) {
				switch i.Code {
				case "syntax", "target_missing", "target_multiple", "loop", "too_many_lookups", "too_many_voids", "too_many_mx":
					bad = append(bad, i.Code)
				}
			}
			if code := otherVerdict[name]; code != "" {
				if !slices.Equal(bad, []string{code}) {
					t.Errorf("%s / %s: lint %v, want %s", doc.Description, name, bad, code)
				}
				continue
			}
			want := slices.Contains(test.Result, "permerror")
			if either := want && len(test.Result) > 1; want != (len(bad) > 0) && !either {
				t.Errorf("%s / %s: want %v, lint %v", doc.Description, name, test.Result, bad)
			}
		}
	}
	if count != 203 {
		t.Errorf("the suite has %d tests, want 203", count)
	}
}
