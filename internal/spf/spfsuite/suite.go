// Package spfsuite reads the public RFC 7208 test suite for SPF, as it comes
// with the module that evaluates. It is for tests.
package spfsuite

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
)

// Outcome of a question.
type Outcome int

// The outcomes.
const (
	Found Outcome = iota
	Empty
	Failed
)

type list []string

func (l *list) UnmarshalYAML(n *yaml.Node) error {
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

// Test is one mail to judge.
type Test struct {
	Helo     string
	Host     string
	MailFrom string `yaml:"mailfrom"`
	Result   list
}

// Doc is one group of tests over one zone.
type Doc struct {
	Description string
	Tests       map[string]Test
	Raw         map[string]yaml.Node `yaml:"zonedata"`
}

// Load reads all groups.
func Load(tb testing.TB) []Doc {
	tb.Helper()
	dir, err := exec.CommandContext(tb.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "blitiri.com.ar/go/spf").Output()
	if err != nil {
		tb.Fatalf("find the module that holds the suite: %v", err)
	}
	data, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "testdata", "rfc7208-tests.yml"))
	if err != nil {
		tb.Fatal(err)
	}
	var docs []Doc
	for d := yaml.NewDecoder(bytes.NewReader(data)); ; {
		var doc Doc
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

// Zone answers from the zone data of one document.
type Zone struct {
	records map[string]map[string][]string // name, type
}

// NewZone reads the zone data of a group.
func NewZone(tb testing.TB, doc Doc) *Zone {
	tb.Helper()
	z := &Zone{records: map[string]map[string][]string{}}
	for name, node := range doc.Raw {
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

// Ask answers for a name; a CNAME is followed.
func (z *Zone) Ask(name, typ string) ([]string, Outcome) {
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

// Records gives the whole zone: name, type, values. A name that cannot be
// asked has the type "FAIL".
func (z *Zone) Records() map[string]map[string][]string { return z.records }

// ZoneOf makes a zone of records.
func ZoneOf(records map[string]map[string][]string) *Zone { return &Zone{records: records} }
