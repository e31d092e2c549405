package rules

import (
	"strings"
	"testing"
	"time"
)

func TestDurations(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text       string
		d          time.Duration
		json, span string
	}{
		{"72h", 72 * time.Hour, "72h", "3d"},
		{"7d", 168 * time.Hour, "168h", "7d"},
		{"2w", 336 * time.Hour, "336h", "14d"},
		{"0d", 0, "0s", "0s"},
		{"1h30m", 90 * time.Minute, "1h30m", "1h30m"},
		{"90m", 90 * time.Minute, "1h30m", "1h30m"},
		{"60s", time.Minute, "1m", "1m"},
		{"1h0m1s", time.Hour + time.Second, "1h0m1s", "1h0m1s"},
		{"1.5h", 90 * time.Minute, "1h30m", "1h30m"},
		{"1ns", 1, "1ns", "1ns"},
	} {
		d, ok := ParseDuration(c.text)
		if !ok || d != c.d {
			t.Errorf("%s: got %v, %v", c.text, d, ok)
		}
		if got := FormatDuration(d); got != c.json {
			t.Errorf("%s: written as %s, want %s", c.text, got, c.json)
		}
		if back, ok := ParseDuration(FormatDuration(d)); !ok || back != d {
			t.Errorf("%s: came back as %v", c.text, back)
		}
		if got := Span(d); got != c.span {
			t.Errorf("%s: span %s, want %s", c.text, got, c.span)
		}
	}
	for _, text := range []string{"", "d", "w", "-1d", "+1d", "1.5d", "7", "7 d", "1e3d", "200000d", "99999999999w", "1d12h"} {
		if d, ok := ParseDuration(text); ok {
			t.Errorf("%q was read as %v", text, d)
		}
	}
}

// What a mistake carries of somebody's input is bounded.
func TestProblemsAreShort(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 10_000)
	for _, text := range []string{
		`{"prop":"` + long + `","exists":true}`, `{"` + long + `":1}`, `{"prop":"a","` + long + `":1}`, `{"segment":"a","` + long + `":1}`,
		`{"prop":"a","before":"` + long + `"}`, `{"did":"` + long + `"}`, `{"did":"a","within":"` + long + `"}`, `"` + long + `"`,
	} {
		x, p := Decode([]byte(text))
		if p == nil {
			t.Fatalf("%.60s was read as %s", text, x)
		}
		if n := len(p.Path) + len(p.Value) + len(p.Reason); n > 500 {
			t.Errorf("%.60s: %d bytes", text, n)
		}
	}
}
