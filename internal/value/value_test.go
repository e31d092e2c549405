package value

import (
	"encoding/json"
	"errors"
	"math"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestNormalize(t *testing.T) {
	t.Parallel()
	type named string
	type count uint8
	tokyo := time.FixedZone("", 9*3600)
	seven := 7
	for name, c := range map[string]struct{ in, want any }{
		"nil":               {nil, nil},
		"int":               {7, int64(7)},
		"int8":              {int8(-7), int64(-7)},
		"uint32":            {uint32(math.MaxUint32), int64(math.MaxUint32)},
		"largest int64":     {int64(math.MaxInt64), int64(math.MaxInt64)},
		"largest uint64":    {uint64(math.MaxUint64), json.Number("18446744073709551615")},
		"2^63":              {uint64(1 << 63), json.Number("9223372036854775808")},
		"float stays float": {3.0, 3.0},
		"float32":           {float32(0.5), 0.5},
		"number int":        {json.Number("9007199254740993"), int64(9007199254740993)},
		"number minus zero": {json.Number("-0"), int64(0)},
		"number decimal":    {json.Number("19.99"), 19.99},
		"number 1.50":       {json.Number("1.50"), 1.5},
		"number long":       {json.Number("0.1234567890123456789012345"), json.Number("0.1234567890123456789012345")},
		"number big int":    {json.Number("123456789012345678901234567890"), json.Number("123456789012345678901234567890")},
		"number underflow":  {json.Number("1e-390"), json.Number("1e-390")},
		"number overflow":   {json.Number("1e390"), json.Number("1e390")},
		"zoned time":        {time.Date(2026, 3, 1, 9, 0, 0, 5, tokyo), "2026-03-01T09:00:00.000000005+09:00"},
		"odd zone":          {time.Date(1890, 1, 1, 0, 53, 28, 0, time.FixedZone("LMT", 3208)), "1890-01-01T00:00:00Z"},
		"named string":      {named("x"), "x"},
		"named uint":        {count(3), int64(3)},
		"pointer":           {&seven, int64(7)},
		"nil pointer":       {(*int)(nil), nil},
		"typed slice":       {[]string{"a", "b"}, []any{"a", "b"}},
		"array":             {[2]int{1, 2}, []any{int64(1), int64(2)}},
		"typed map":         {map[named]int{"a": 1}, map[string]any{"a": int64(1)}},
		"nil map":           {map[string]any(nil), nil},
		"nil slice":         {[]any(nil), nil},
		"empty slice":       {[]any{}, []any{}},
		"raw":               {json.RawMessage(`{"a":[1,2.5]}`), map[string]any{"a": []any{int64(1), 2.5}}},
		"nested":            {map[string]any{"a": []map[string]int{{"b": 1}}}, map[string]any{"a": []any{map[string]any{"b": int64(1)}}}},
	} {
		got, err := Normalize(c.in)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
		back, err := Decode(AppendJSON(nil, got))
		if err != nil {
			t.Errorf("%s: decode of own text: %v", name, err)
		}
		if d := cmp.Diff(got, back); d != "" {
			t.Errorf("%s through JSON (-want +got):\n%s", name, d)
		}
	}
}

func TestNormalizeRefuses(t *testing.T) {
	t.Parallel()
	deep := any("x")
	for range 1000 {
		deep = map[string]any{"k": deep}
	}
	ring := map[string]any{}
	ring["me"] = ring
	type knot *any
	var loop any
	loop = knot(&loop)
	for name, c := range map[string]struct {
		in   any
		path string
	}{
		"nan":            {map[string]any{"a": map[string]any{"b": math.NaN()}}, "a.b"},
		"inf":            {map[string]any{"a": []any{1, math.Inf(1)}}, "a[1]"},
		"utf8":           {map[string]any{"a": "\xff"}, "a"},
		"utf8 key":       {map[string]any{"a": map[string]any{"\xff": 1}}, "a"},
		"struct":         {map[string]any{"a": struct{}{}}, "a"},
		"func":           {func() {}, ""},
		"chan in list":   {[]any{[]any{make(chan int)}}, "[0][0]"},
		"bytes":          {map[string]any{"a": []byte("x")}, "a"},
		"int keys":       {map[string]any{"a": map[int]int{1: 1}}, "a"},
		"deep":           {deep, strings.Repeat("k.", 15) + "k"},
		"ring":           {ring, strings.Repeat("me.", 15) + "me"},
		"pointer ring":   {loop, ""},
		"not a number":   {map[string]any{"n": json.Number("1.")}, "n"},
		"hex number":     {json.Number("0x10"), ""},
		"empty number":   {json.Number(""), ""},
		"huge exponent":  {json.Number("1e999999999"), ""},
		"endless digits": {json.Number(strings.Repeat("9", 300)), ""},
		"year 0":         {time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC), ""},
		"year 10000":     {map[string]any{"t": time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)}, "t"},
	} {
		_, err := Normalize(c.in)
		var ve *Error
		if !errors.As(err, &ve) {
			t.Errorf("%s: got %v, want *Error", name, err)
			continue
		}
		if ve.Path != c.path {
			t.Errorf("%s: path %q, want %q (%v)", name, ve.Path, c.path, err)
		}
		if len(err.Error()) > 300 {
			t.Errorf("%s: the error has %d bytes", name, len(err.Error()))
		}
	}
}

func TestNormalizeShares(t *testing.T) {
	t.Parallel()
	in := map[string]any{"l": []any{"a"}, "m": map[string]any{"k": "v"}}
	out, err := NormalizeMap(in)
	if err != nil {
		t.Fatal(err)
	}
	in["l"].([]any)[0] = "changed"
	in["m"].(map[string]any)["k"] = "changed"
	want := map[string]any{"l": []any{"a"}, "m": map[string]any{"k": "v"}}
	if d := cmp.Diff(want, out); d != "" {
		t.Error(d)
	}
}

func TestDepthLimitIsExact(t *testing.T) {
	t.Parallel()
	v := any("x")
	for range MaxDepth {
		v = []any{v}
	}
	if _, err := Normalize(v); err != nil {
		t.Errorf("%d lists: %v", MaxDepth, err)
	}
	if _, err := Normalize([]any{v}); err == nil {
		t.Errorf("%d lists were accepted", MaxDepth+1)
	}
}

func TestDecode(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]any{
		`9007199254740993`:               int64(9007199254740993),
		`1.0`:                            1.0,
		`1e2`:                            100.0,
		`9223372036854775808`:            json.Number("9223372036854775808"),
		` {"a":1,"a":2} `:                map[string]any{"a": int64(2)},
		`[]`:                             []any{},
		`[ 1 , true , null ]`:            []any{int64(1), true, nil},
		`"\u00e9\ud83d\ude00\n\/\"\\ é"`: "é😀\n/\"\\ é",
	} {
		got, err := Decode([]byte(in))
		if err != nil {
			t.Errorf("%s: %v", in, err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", in, d)
		}
	}
	for _, in := range []string{
		"", " ", "{", "[1", `{"a"}`, `{"a":}`, `{a:1}`, `[1,]`, `{"a":1,}`, "01", "1.", "-", "+1", ".5", "tru", "nul", `"`, `"\`, `"\x"`, `"\u12"`,
		`"\ud800"`, `"\ud800\u0041"`, `"\udc00"`, "\"\xff\"", "\"\n\"", "\"\\n\x01\"", "1 2", "{}{}", "NaN", "1e999999", strings.Repeat("[", 100_000), "'a'",
	} {
		v, err := Decode([]byte(in))
		var se *SyntaxError
		if !errors.As(err, &se) {
			t.Errorf("%.20q gave %v, %v; want a *SyntaxError", in, v, err)
		}
	}
}

func TestAppendJSON(t *testing.T) {
	t.Parallel()
	v := map[string]any{
		"b": []any{nil, true, int64(-1), 1.5, 2.0, 1e21, 1e-7, math.Copysign(0, -1)}, "a": "<q> \"é\" \x00\x7f\t",
		"": json.Number("18446744073709551615"), "e": map[string]any{}, "l": []any{},
	}
	const want = `{"":18446744073709551615,"a":"<q> \"é\" \u0000` + "\x7f" + `\t","b":[null,true,-1,1.5,2.0,1e+21,1e-07,-0.0],"e":{},"l":[]}`
	if got := string(AppendJSON(nil, v)); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if !json.Valid([]byte(want)) {
		t.Error("not JSON by the standard library")
	}
}

func TestCompare(t *testing.T) {
	t.Parallel()
	const p53 = 1 << 53
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		a, b any
		want int
		ok   bool
	}{
		{int64(p53 + 1), float64(p53), 1, true},
		{int64(p53), float64(p53), 0, true},
		{int64(math.MaxInt64), float64(1 << 63), -1, true},
		{int64(math.MinInt64), -float64(1 << 63), 0, true},
		{int64(math.MinInt64), -math.MaxFloat64, 1, true},
		{int64(1), 1.5, -1, true},
		{int64(-1), -1.5, 1, true},
		{int64(0), math.Copysign(0, -1), 0, true},
		{int64(0), 5e-324, -1, true},
		{json.Number("9223372036854775808"), int64(math.MaxInt64), 1, true},
		{json.Number("9223372036854775808"), float64(1 << 63), 0, true},
		// The float64 nearest to 0.1 is above it by 5.55e-18.
		{json.Number("0.1000000000000000000001"), 0.1, -1, true},
		{json.Number("0.10000000000000000556"), 0.1, 1, true},
		{json.Number("1e390"), math.MaxFloat64, 1, true},
		{"a", "b", -1, true},
		{false, true, -1, true},
		{true, true, 0, true},
		{nil, nil, 0, true},
		{"2026-03-01T21:00:00+09:00", at, 0, true},
		{at, "2026-03-01T12:00:00.000000001Z", -1, true},
		{at, at.Add(1), -1, true},
		{at, "tomorrow", 0, false},
		{"1", int64(1), 0, false},
		{nil, int64(0), 0, false},
		{int64(0), nil, 0, false},
		{false, nil, 0, false},
		{[]any{}, []any{}, 0, false},
		{math.NaN(), int64(1), 0, false},
		{math.NaN(), math.NaN(), 0, false},
		{json.Number("x"), int64(1), 0, false},
	} {
		got, ok := Compare(c.a, c.b)
		if ok != c.ok || ok && got != c.want {
			t.Errorf("Compare(%v, %v) = %d, %v; want %d, %v", c.a, c.b, got, ok, c.want, c.ok)
		}
		got, ok = Compare(c.b, c.a)
		if ok != c.ok || ok && got != -c.want {
			t.Errorf("Compare(%v, %v) = %d, %v; want %d, %v", c.b, c.a, got, ok, -c.want, c.ok)
		}
	}
}

func TestEqual(t *testing.T) {
	t.Parallel()
	a := map[string]any{"l": []any{int64(1), map[string]any{"x": nil}}}
	b := map[string]any{"l": []any{1.0, map[string]any{"x": nil}}}
	if !Equal(a, b) {
		t.Error("1 and 1.0 differ inside a list")
	}
	for _, c := range [][2]any{
		{a, map[string]any{"l": []any{int64(1)}}},
		{map[string]any{"a": nil}, map[string]any{"b": nil}},
		{[]any{}, nil},
		{map[string]any{}, nil},
		{[]any{}, map[string]any{}},
	} {
		if Equal(c[0], c[1]) || Equal(c[1], c[0]) {
			t.Errorf("%v equals %v", c[0], c[1])
		}
	}
}

func TestParseTime(t *testing.T) {
	t.Parallel()
	for _, s := range []string{
		"2026-03-01T09:00:00Z", "2026-03-01T09:00:00.5Z", "2026-03-01T09:00:00.123456789-07:30", "2024-02-29T23:59:59+14:00",
		"0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999999Z", "0001-01-01T00:00:00+23:59",
	} {
		want, err := time.Parse(time.RFC3339, s)
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := ParseTime(s); !ok || !got.Equal(want) {
			t.Errorf("%s: got %v, %v", s, got, ok)
		}
	}
	for _, s := range []string{
		"", "2026", "2026-03-01", "2026-03-01 09:00:00Z", "2026-03-01T09:00:00", "2026-02-29T00:00:00Z", "2026-04-31T00:00:00Z", "2026-13-01T00:00:00Z",
		"2026-03-00T00:00:00Z", "2026-00-01T00:00:00Z", "2026-03-01T24:00:00Z", "2026-03-01T00:60:00Z", "2026-03-01T00:00:60Z", "2026-03-01T00:00:00.Z",
		"2026-03-01T00:00:00.1234567890Z", "2026-03-01T00:00:00+0900", "2026-03-01T00:00:00+24:00", "2026-03-01T00:00:00+09:60", "2026-03-01T00:00:00Zx", "a026-03-01T00:00:00Z",
	} {
		if got, ok := ParseTime(s); ok {
			t.Errorf("%q was read as %v", s, got)
		}
	}
}

func TestParseTimeAllocatesNothing(t *testing.T) { //nolint:paralleltest // AllocsPerRun must run alone
	if n := testing.AllocsPerRun(100, func() { ParseTime("2026-03-01T09:00:00.123456789-07:30") }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestText(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		v    any
		want string
	}{
		{int64(5), "5"},
		{"a", `"a"`},
		{strings.Repeat("é", 40), `"` + strings.Repeat("é", 30) + "..."},
		{time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC), `"2026-03-01T00:00:00Z"`},
		{math.NaN(), "null"},
		{func() {}, "null"},
		{[]any(nil), "null"},
		{map[string]any(nil), "null"},
		{"\xff\r", `"` + "\uFFFD" + `\r"`},
	} {
		if got := Text(c.v); got != c.want {
			t.Errorf("%v: got %s, want %s", c.v, got, c.want)
		}
	}
}

func TestTime(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	if got, ok := Time(now); !ok || !got.Equal(now) {
		t.Errorf("got %v, %v", got, ok)
	}
	for _, v := range []any{nil, int64(1), "soon", "2026-03-01"} {
		if got, ok := Time(v); ok {
			t.Errorf("%v was read as %v", v, got)
		}
	}
}

func TestTimeKeepsTheZone(t *testing.T) {
	t.Parallel()
	got, ok := Time("2026-03-01T09:00:00.5+09:00")
	if _, off := got.Zone(); !ok || off != 9*3600 || got.Nanosecond() != 5e8 {
		t.Errorf("got %v, %v", got, ok)
	}
}

func TestLookup(t *testing.T) {
	t.Parallel()
	m := map[string]any{
		"a":   map[string]any{"b": "nested", "c.d": "literal below", "e": map[string]any{"f": nil}},
		"a.b": "literal", "x": "text",
	}
	for key, want := range map[string]any{"a.b": "literal", "a.c.d": "literal below", "a.e.f": nil, "x": "text"} {
		if got, ok := Lookup(m, key); !ok || got != want {
			t.Errorf("%s: got %v, %v", key, got, ok)
		}
	}
	for _, key := range []string{"", ".", "a.", "a.z", "x.y", "a.e.f.g", "q.r"} {
		if got, ok := Lookup(m, key); ok {
			t.Errorf("%q found %v", key, got)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, s := range []string{`{"a":[1,2.50,-0,1e400,"\u00e9\ud83d\ude00"],"a":null}`, `"x`, `18446744073709551615`, `0.10`, `[[[]]]`, "\xff"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		v, err := Decode(data)
		if err != nil {
			return
		}
		if !json.Valid(data) {
			t.Fatalf("accepted %q, which is not JSON", data)
		}
		text := AppendJSON(nil, v)
		if !json.Valid(text) {
			t.Fatalf("wrote %q, which is not JSON", text)
		}
		back, err := Decode(text)
		if err != nil {
			t.Fatalf("own text %q: %v", text, err)
		}
		if d := cmp.Diff(v, back); d != "" {
			t.Fatalf("%q: %s", data, d)
		}
		var want, got any
		dec := json.NewDecoder(strings.NewReader(string(data)))
		dec.UseNumber()
		if err := dec.Decode(&want); err != nil {
			t.Fatal(err)
		}
		dec = json.NewDecoder(strings.NewReader(string(text)))
		dec.UseNumber()
		if err := dec.Decode(&got); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got, cmp.Comparer(sameNumber)); d != "" {
			t.Fatalf("%q is another value than by the standard library: %s", data, d)
		}
	})
}

// sameNumber compares by decimal value, through math/big.
func sameNumber(a, b json.Number) bool {
	x, okx := new(big.Rat).SetString(string(a))
	y, oky := new(big.Rat).SetString(string(b))
	return okx && oky && x.Cmp(y) == 0
}

func FuzzCompare(f *testing.F) {
	for _, s := range [][2]string{
		{"9007199254740993", "9007199254740992.0"},
		{"0.1", "0.1000000000000000000001"},
		{"-1e300", "9223372036854775808"},
		{"1e-390", "0"},
		{"2", "1"},
		{"-0.0", "0"},
		{"9223372036854775807", "9.223372036854775807e18"},
	} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, x, y string) {
		a, erra := Number(x)
		b, errb := Number(y)
		if erra != nil || errb != nil {
			return
		}
		got, ok := Compare(a, b)
		if !ok {
			t.Fatalf("Compare(%v, %v) is not ok", a, b)
		}
		if back, _ := Compare(b, a); back != -got {
			t.Fatalf("Compare(%v, %v) = %d, the other way %d", a, b, got, back)
		}
		exact := func(v any, s string) *big.Rat {
			if f, ok := v.(float64); ok {
				return new(big.Rat).SetFloat64(f)
			}
			r, ok := new(big.Rat).SetString(s)
			if !ok {
				t.Fatalf("math/big cannot read %q", s)
			}
			return r
		}
		if want := exact(a, x).Cmp(exact(b, y)); got != want {
			t.Fatalf("Compare(%v, %v) = %d, math/big says %d", a, b, got, want)
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	data := []byte(`{"plan":"trial","amount":1999,"rate":0.25,"email":"ann@acme.test","tags":["a","b"],"address":{"city":"Bern","zip":"3000"}}`)
	for b.Loop() {
		if _, err := Decode(data); err != nil {
			b.Fatal(err)
		}
	}
}
