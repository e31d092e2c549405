package value_test

import (
	"encoding/json"
	"math"
	"testing"
	"time"

	"github.com/getfluxly/fluxly/internal/value"
)

func TestFlat(t *testing.T) {
	t.Parallel()
	if !value.Flat(nil) || !value.Flat(map[string]any{"a": nil, "b": true, "c": int64(1), "d": 1.5, "é": "ü"}) {
		t.Error("a flat map is not taken for one")
	}
	for name, v := range map[string]any{
		"list": []any{}, "map": map[string]any{}, "int": 1, "time": time.Time{}, "NaN": math.NaN(), "infinity": math.Inf(-1),
		"not UTF-8": "\xff", "number": json.Number("1"), "float32": float32(1),
	} {
		if value.Flat(map[string]any{"k": v}) {
			t.Errorf("%s is taken for a flat value", name)
		}
	}
	if value.Flat(map[string]any{"\xff": true}) {
		t.Error("a key that is not UTF-8 is taken for canonical")
	}
}
