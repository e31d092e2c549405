package value

import (
	"math"
	"unicode/utf8"
)

// Flat reports whether m is canonical already and holds neither lists nor
// maps, as most properties do: then it can be written as it is, and a shallow
// copy shares nothing. It may say false of such a map that holds a
// [encoding/json.Number].
func Flat(m map[string]any) bool {
	for k, v := range m {
		if !utf8.ValidString(k) {
			return false
		}
		switch v := v.(type) {
		case nil, bool, int64:
		case string:
			if !utf8.ValidString(v) {
				return false
			}
		case float64:
			if math.IsNaN(v) || math.IsInf(v, 0) {
				return false
			}
		default:
			return false
		}
	}
	return true
}
