package fluxly

import (
	"encoding/json"
	"errors"
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// P4: largest int64, decimals, zoned times, lists and nested maps come back
// equal; 2^53+1 is not rounded.
func TestP4TraitsComeBackEqual(t *testing.T) {
	t.Parallel()
	zoned := time.Date(2026, 3, 1, 9, 30, 0, 123, time.FixedZone("", -5*3600))
	in := Traits{
		"largest": int64(math.MaxInt64), "smallest": int64(math.MinInt64), "odd": int64(1<<53 + 1),
		"unsigned": uint64(math.MaxUint64), "price": 19.99, "whole": 3.0, "long": json.Number("3.14159265358979323846264338327950288"),
		"at": zoned, "tags": []string{"a", "b"}, "none": nil,
		"address": map[string]any{"city": "Bern", "geo": map[string]any{"lat": 46.948, "list": []any{int64(1), "x", nil}}},
	}
	text, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	var back Traits
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	want := Traits{
		"largest": int64(math.MaxInt64), "smallest": int64(math.MinInt64), "odd": int64(1<<53 + 1),
		"unsigned": json.Number("18446744073709551615"), "price": 19.99, "whole": 3.0, "long": json.Number("3.14159265358979323846264338327950288"),
		"at": "2026-03-01T09:30:00.000000123-05:00", "tags": []any{"a", "b"}, "none": nil,
		"address": map[string]any{"city": "Bern", "geo": map[string]any{"lat": 46.948, "list": []any{int64(1), "x", nil}}},
	}
	if d := cmp.Diff(want, back); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if got, ok := back.Time("at"); !ok || !got.Equal(zoned) || got.Format(time.RFC3339) != zoned.Format(time.RFC3339) {
		t.Errorf("Time = %v, %v; want %v", got, ok, zoned)
	}
	if got, ok := back.String("address.city"); !ok || got != "Bern" {
		t.Errorf("String = %q, %v", got, ok)
	}
	if _, ok := back.String("price"); ok {
		t.Error("a number was read as text")
	}
	if _, ok := back.Time("tags"); ok {
		t.Error("a list was read as a time")
	}
}

func TestEventJSONKeepsNumbers(t *testing.T) {
	t.Parallel()
	var e Event
	err := json.Unmarshal([]byte(`{"event":"paid","external_id":"u1","properties":{"id":9007199254740993,"id":9007199254740995,"net":0.1}}`), &e)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(Properties{"id": int64(9007199254740995), "net": 0.1}, e.Properties); d != "" {
		t.Error(d)
	}
}

func TestNormalizeValueNamesThePath(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		in          any
		path, field string
	}{
		{map[string]any{"a": map[string]any{"b": math.NaN()}}, "properties", "properties.a.b"},
		{map[string]any{"a": []any{"x", func() {}}}, "properties", "properties.a[1]"},
		{[]any{math.Inf(-1)}, "value", "value[0]"},
		{complex(1, 2), "value", "value"},
	} {
		_, err := normalizeValue(c.in, c.path)
		var fe *FieldError
		if !errors.As(err, &fe) || fe.Field != c.field || !errors.Is(err, ErrInvalid) {
			t.Errorf("%v: got %v, want a *FieldError for %s", c.in, err, c.field)
		}
	}
	for _, text := range []string{`[1]`, `"x"`, `{"a":}`, ``, "\xff"} {
		var fe *FieldError
		if _, err := decodeObject([]byte(text)); !errors.As(err, &fe) {
			t.Errorf("decodeObject(%q): %v", text, err)
		}
	}
	if m, err := decodeObject([]byte("null")); m != nil || err != nil {
		t.Errorf("null: %v, %v", m, err)
	}
}
