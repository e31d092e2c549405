package taglist

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	t.Parallel()
	tests := []struct {
		in    string
		fold  bool
		tags  map[string]string
		kinds []Kind
	}{
		{"v=DMARC1; p=none", true, map[string]string{"v": "DMARC1", "p": "none"}, nil},
		{" v = DMARC1 ;\tP = none ; ", true, map[string]string{"v": "DMARC1", "p": "none"}, nil},
		{"p=a=b==", false, map[string]string{"p": "a=b=="}, nil},
		{"p=", false, map[string]string{"p": ""}, nil},
		{"", false, map[string]string{}, nil},
		{";", false, map[string]string{}, []Kind{Empty}},
		{"v=1;;p=2", false, map[string]string{"v": "1", "p": "2"}, []Kind{Empty}},
		{"v=1; junk; p=2", false, map[string]string{"v": "1", "p": "2"}, []Kind{NoEquals}},
		{"1v=1", false, map[string]string{}, []Kind{BadName}},
		{"v-x=1", false, map[string]string{}, []Kind{BadName}},
		{"p=1; p=2", false, map[string]string{"p": "1"}, []Kind{Duplicate}},
		{"p=1; P=2", false, map[string]string{"p": "1", "P": "2"}, nil},
		{"p=1; P=2", true, map[string]string{"p": "1"}, []Kind{Duplicate}},
		{"p=\x00", false, map[string]string{"p": "\x00"}, []Kind{BadValue}},
		{"p=“x”", false, map[string]string{"p": "“x”"}, []Kind{BadValue}},
	}
	for _, tt := range tests {
		l := Parse(tt.in, tt.fold)
		got := map[string]string{}
		for i := len(l.Tags) - 1; i >= 0; i-- {
			got[l.Tags[i].Key] = l.Tags[i].Value
		}
		var kinds []Kind
		for _, f := range l.Faults {
			kinds = append(kinds, f.Kind)
		}
		if d := cmp.Diff(tt.tags, got); d != "" {
			t.Errorf("%q tags:\n%s", tt.in, d)
		}
		if d := cmp.Diff(tt.kinds, kinds); d != "" {
			t.Errorf("%q faults:\n%s", tt.in, d)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"v=DMARC1; p=none", "k=rsa; p=MIG", ";;=;a=;a=b", "\xff=;x"} {
		f.Add(s, true)
	}
	f.Fuzz(func(t *testing.T, s string, fold bool) {
		l := Parse(s, fold)
		var out []string
		for _, tag := range l.Tags {
			if s[tag.Pos:tag.Pos+len(tag.Name)] != tag.Name || s[tag.ValuePos:tag.ValuePos+len(tag.Value)] != tag.Value {
				t.Fatalf("tag %+v stands not where it says", tag)
			}
			out = append(out, tag.Name+"="+tag.Value)
		}
		for _, x := range l.Faults {
			if x.Pos < 0 || x.Pos > len(s) {
				t.Fatalf("fault %+v", x)
			}
		}
		// Written again, the list reads the same.
		again := Parse(strings.Join(out, "; "), fold)
		if len(again.Tags) != len(l.Tags) {
			t.Fatalf("%d tags, again %d", len(l.Tags), len(again.Tags))
		}
		for i, tag := range again.Tags {
			if tag.Key != l.Tags[i].Key || tag.Value != l.Tags[i].Value {
				t.Fatalf("%+v became %+v", l.Tags[i], tag)
			}
		}
	})
}

func BenchmarkParse(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		Parse("v=DMARC1; p=quarantine; sp=reject; rua=mailto:dmarc@acme.test; adkim=r; aspf=s; fo=1", true)
	}
}

// Of thousands of mistakes few are listed, and a tag is found to stand twice
// however many stand between; each tag with a bad value is named.
func TestManyTags(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&b, "a%d=\x01;", i)
	}
	l := Parse(b.String()+strings.Repeat(";", 1000)+"a3=x;a1=y", false)
	if n := len(l.Faults); n != 1000+MaxFaults+2 {
		t.Errorf("%d faults", n)
	}
	for _, key := range []string{"a3", "a1"} {
		if !slices.ContainsFunc(l.Faults, func(f Fault) bool { return f.Kind == Duplicate && f.Tag == key }) {
			t.Errorf("%s does not stand twice", key)
		}
	}
}
