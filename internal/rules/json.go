package rules

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/getfluxly/fluxly/internal/value"
)

// AppendJSON appends x in its stable form; nil is null. The keys stand in the
// order in which a person reads the condition.
func AppendJSON(dst []byte, x *Expr) []byte {
	if x == nil {
		return append(dst, "null"...)
	}
	dst = append(dst, '{')
	switch {
	case x.Op == All || x.Op == Any:
		dst = appendKey(dst, groupNames[x.Op])
		dst = append(dst, '[')
		for i, k := range x.Kids {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = AppendJSON(dst, k)
		}
		dst = append(dst, ']')
	case x.Op == Not:
		dst = appendKey(dst, "not")
		dst = AppendJSON(dst, x.Kids[0])
	case x.Op == Did:
		dst = appendDid(dst, x)
	case x.Op == Segment:
		dst = value.AppendString(appendKey(dst, "segment"), x.Key)
	case x.Op == Func:
		dst = value.AppendString(appendKey(dst, "func"), x.Key)
	case x.Op.isField():
		op := fieldOps[x.Op]
		dst = value.AppendString(appendKey(dst, x.From.String()), x.Key)
		dst = appendKey(dst, op.name)
		switch op.arg {
		case argNone:
			dst = append(dst, "true"...)
		case argDuration:
			dst = value.AppendString(dst, FormatDuration(x.Dur))
		case argScalars, argPair:
			dst = value.AppendJSON(dst, x.Args)
		default:
			dst = value.AppendJSON(dst, x.Args[0])
		}
	}
	return append(dst, '}')
}

func appendDid(dst []byte, x *Expr) []byte {
	dst = value.AppendString(appendKey(dst, "did"), x.Key)
	lo, hi := x.bounds()
	switch {
	case lo == hi:
		dst = strconv.AppendInt(appendKey(dst, "exactly"), int64(lo), 10)
	default:
		if lo > 0 {
			dst = strconv.AppendInt(appendKey(dst, "at_least"), int64(lo), 10)
		}
		if hi >= 0 {
			dst = strconv.AppendInt(appendKey(dst, "at_most"), int64(hi), 10)
		}
	}
	if x.Dur != 0 {
		dst = value.AppendString(appendKey(dst, "within"), FormatDuration(x.Dur))
	}
	if x.SinceEntry {
		dst = append(appendKey(dst, "since_entry"), "true"...)
	}
	if x.Where != nil {
		dst = AppendJSON(appendKey(dst, "where"), x.Where)
	}
	return dst
}

// bounds returns the least and the greatest count; a greatest of -1 is none.
func (x *Expr) bounds() (lo, hi int) {
	lo, hi = 0, -1
	if x.HasMin || !x.HasMax {
		lo = max(x.Min, 1)
	}
	if x.HasMax {
		hi = x.Max
		if x.HasMin {
			lo = x.Min
		}
	}
	return lo, hi
}

func appendKey(dst []byte, key string) []byte {
	if c := dst[len(dst)-1]; c != '{' {
		dst = append(dst, ',')
	}
	return append(value.AppendString(dst, key), ':')
}

// FormatDuration writes d in hours, minutes and seconds without the parts
// that are zero at the end: 72h, 1h30m.
func FormatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

// ParseDuration reads what [time.ParseDuration] reads, and whole days and
// weeks of 24 and 168 hours: 7d, 2w.
func ParseDuration(s string) (time.Duration, bool) {
	if n := len(s) - 1; n > 0 && (s[n] == 'd' || s[n] == 'w') {
		unit := 24 * time.Hour
		if s[n] == 'w' {
			unit *= 7
		}
		count, err := strconv.ParseUint(s[:n], 10, 31)
		d := time.Duration(count) * unit
		return d, err == nil && d/unit == time.Duration(count)
	}
	d, err := time.ParseDuration(s)
	return d, err == nil
}

// Decode reads the JSON form; null is nil. A key or operator that is not
// known is refused, and so is a condition with any mistake that [Validate]
// finds; the first is returned.
func Decode(data []byte) (*Expr, *Problem) {
	v, err := value.Decode(data)
	if err != nil {
		return nil, &Problem{Reason: "is not JSON: " + err.Error()}
	}
	if v == nil {
		return nil, nil
	}
	return FromValue(v)
}

// FromValue is [Decode] for JSON that was decoded to a canonical value.
func FromValue(v any) (*Expr, *Problem) {
	x, p := decode(v, "", 1)
	if p != nil {
		return nil, p
	}
	if found := Validate(x, Check{}); len(found) > 0 {
		return nil, &found[0]
	}
	return x, nil
}

func problem(path, v, format string, args ...any) *Problem {
	if len(v) > 64 {
		v = v[:61] + "..."
	}
	return &Problem{Path: path, Value: v, Reason: fmt.Sprintf(format, args...)}
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// kinds are the keys that say what a condition is; exactly one must be there.
var kinds = []string{"all", "any", "not", "prop", "attr", "did", "segment", "func"}

func decode(v any, path string, depth int) (*Expr, *Problem) {
	m, ok := v.(map[string]any)
	if !ok {
		return nil, problem(path, value.Text(v), "must be an object")
	}
	if depth > MaxDepth {
		return nil, problem(path, "", "conditions are nested more than %d deep", MaxDepth)
	}
	kind := ""
	for _, k := range kinds {
		if _, ok := m[k]; !ok {
			continue
		}
		if kind != "" {
			return nil, problem(path, "", "has both %q and %q; put them into all or any", kind, k)
		}
		kind = k
	}
	switch kind {
	case "":
		return nil, problem(path, strings.Join(keysOf(m), " "), "has none of the keys %s", strings.Join(kinds, ", "))
	case "all", "any", "not":
		return decodeGroup(m, kind, path, depth)
	}
	name, ok := m[kind].(string)
	if !ok {
		return nil, problem(join(path, kind), value.Text(m[kind]), "must be text")
	}
	switch kind {
	case "did":
		return decodeDid(m, name, path, depth)
	case "segment":
		return &Expr{Op: Segment, Key: name}, onlyKeys(m, path, kind)
	case "func":
		return &Expr{Op: Func, Key: name}, onlyKeys(m, path, kind)
	}
	x := &Expr{From: Prop, Key: name}
	if kind == "attr" {
		x.From = Attr
	}
	if p := decodeField(x, m, kind, path); p != nil {
		return nil, p
	}
	return x, nil
}

func keysOf(m map[string]any) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// onlyKeys refuses a key that is not among those given.
func onlyKeys(m map[string]any, path string, known ...string) *Problem {
	found := 0
	for _, k := range known {
		if _, ok := m[k]; ok {
			found++
		}
	}
	if found == len(m) {
		return nil
	}
	for _, k := range keysOf(m) {
		if !slices.Contains(known, k) {
			return problem(join(path, clipKey(k)), "", "is not known here; known are %s", strings.Join(known, ", "))
		}
	}
	return nil
}

func clipKey(k string) string {
	if len(k) > 64 {
		return k[:61] + "..."
	}
	return k
}

func decodeGroup(m map[string]any, kind, path string, depth int) (*Expr, *Problem) {
	if p := onlyKeys(m, path, kind); p != nil {
		return nil, p
	}
	path = join(path, kind)
	x := &Expr{Op: All}
	switch kind {
	case "not":
		kid, p := decode(m[kind], path, depth+1)
		if p != nil {
			return nil, p
		}
		return &Expr{Op: Not, Kids: []*Expr{kid}}, nil
	case "any":
		x.Op = Any
	}
	list, ok := m[kind].([]any)
	if !ok {
		return nil, problem(path, value.Text(m[kind]), "must be a list of conditions")
	}
	for i, v := range list {
		kid, p := decode(v, path+"["+strconv.Itoa(i)+"]", depth+1)
		if p != nil {
			return nil, p
		}
		x.Kids = append(x.Kids, kid)
	}
	return x, nil
}

func decodeDid(m map[string]any, name, path string, depth int) (*Expr, *Problem) {
	if p := onlyKeys(m, path, "did", "at_least", "at_most", "exactly", "within", "since_entry", "where"); p != nil {
		return nil, p
	}
	x := &Expr{Op: Did, Key: name}
	for _, k := range []string{"exactly", "at_least", "at_most"} {
		v, ok := m[k]
		if !ok {
			continue
		}
		n, ok := v.(int64)
		if !ok || n != int64(int(n)) {
			return nil, problem(join(path, k), value.Text(v), "must be a whole number")
		}
		if k != "exactly" && x.HasMin && x.HasMax {
			return nil, problem(join(path, k), "", "stands beside exactly; use one of them")
		}
		if k != "at_most" {
			x.Min, x.HasMin = int(n), true
		}
		if k != "at_least" {
			x.Max, x.HasMax = int(n), true
		}
	}
	if !x.HasMin && !x.HasMax {
		x.Min, x.HasMin = 1, true
	}
	if v, ok := m["within"]; ok {
		d, p := decodeDuration(v, join(path, "within"))
		if p != nil {
			return nil, p
		}
		if d <= 0 {
			return nil, problem(join(path, "within"), value.Text(v), "must be longer than 0")
		}
		x.Dur = d
	}
	if v, ok := m["since_entry"]; ok {
		if v != true {
			return nil, problem(join(path, "since_entry"), value.Text(v), "must be true, or left out")
		}
		x.SinceEntry = true
	}
	if v, ok := m["where"]; ok {
		var p *Problem
		if x.Where, p = decode(v, join(path, "where"), depth+1); p != nil {
			return nil, p
		}
	}
	return x, nil
}

func decodeDuration(v any, path string) (time.Duration, *Problem) {
	s, ok := v.(string)
	if !ok {
		return 0, problem(path, value.Text(v), `must be a duration as text, such as "72h" or "3d"`)
	}
	d, ok := ParseDuration(s)
	if !ok {
		return 0, problem(path, s, `is not a duration; write it as "72h", "90m" or "3d"`)
	}
	return d, nil
}

func decodeField(x *Expr, m map[string]any, kind, path string) *Problem {
	if len(m) != 2 {
		return problem(path, strings.Join(keysOf(m), " "), "needs %q and one operator, and nothing else", kind)
	}
	for k, v := range m {
		if k == kind {
			continue
		}
		for op := Is; op.isField(); op++ {
			if fieldOps[op].name == k {
				x.Op = op
			}
		}
		path = join(path, clipKey(k))
		if x.Op == 0 {
			return problem(path, "", "is no operator on a field; known are %s", strings.Join(opNames(), ", "))
		}
		switch fieldOps[x.Op].arg {
		case argNone:
			if v != true {
				return problem(path, value.Text(v), "must be true")
			}
		case argDuration:
			d, p := decodeDuration(v, path)
			if p != nil {
				return p
			}
			x.Dur = d
		case argScalars, argPair:
			list, ok := v.([]any)
			if !ok {
				return problem(path, value.Text(v), "must be a list")
			}
			x.Args = list
		default:
			x.Args = []any{v}
		}
	}
	return nil
}

func opNames() []string {
	var names []string
	for op := Is; op.isField(); op++ {
		names = append(names, fieldOps[op].name)
	}
	return names
}
