package tmpl

import (
	"reflect"
	"slices"
	"strconv"
	"strings"
	"text/template/parse"
	"time"
)

// Type is what is known of a value before execution. The zero value is
// "anything".
type Type struct {
	rt     reflect.Type
	record map[string]Type // the keys of a dict
	none   bool            // no data at all
}

func goType(t reflect.Type) Type {
	if t == nil || t.Kind() == reflect.Interface {
		return Type{}
	}
	return Type{rt: t}
}

// String is a key that differs for different types.
func (t Type) String() string {
	switch {
	case t.none:
		return "none"
	case t.record != nil:
		var b strings.Builder
		for _, k := range sortedKeys(t.record) {
			b.WriteString(strconv.Quote(k) + ":" + t.record[k].String() + ";")
		}
		return "{" + b.String() + "}"
	case t.rt == nil:
		return "any"
	}
	return t.rt.PkgPath() + " " + t.rt.String()
}

// describe names the type for a reader who may not know Go.
func (t Type) describe() string {
	switch {
	case t.none:
		return "nothing"
	case t.record != nil:
		return "a dict"
	case t.rt == nil:
		return "a value"
	}
	switch t.rt.Kind() {
	case reflect.String:
		return "a text"
	case reflect.Bool:
		return "true or false"
	case reflect.Slice, reflect.Array:
		return "a list"
	case reflect.Map:
		return "a map"
	case reflect.Struct, reflect.Pointer:
		if t.rt == reflect.TypeFor[time.Time]() {
			return "a time"
		}
		return "a group of fields"
	}
	if t.rt.ConvertibleTo(reflect.TypeFor[float64]()) {
		return "a number"
	}
	return "a " + t.rt.String()
}

func (t Type) printable() bool {
	switch {
	case t.none, t.record != nil:
		return false
	case t.rt == nil, t.rt == reflect.TypeFor[time.Time]():
		return true
	}
	switch t.rt.Kind() {
	case reflect.Struct, reflect.Pointer, reflect.Map, reflect.Slice, reflect.Array, reflect.Func, reflect.Chan:
		return false
	}
	return true
}

// elements returns the types that range assigns.
func (t Type) elements() (key, elem Type, ok bool) {
	switch {
	case t.none:
		return Type{}, Type{}, false
	case t.record != nil:
		return goType(reflect.TypeFor[string]()), Type{}, true
	case t.rt == nil:
		return Type{}, Type{}, true
	}
	intType := goType(reflect.TypeFor[int]())
	switch t.rt.Kind() {
	case reflect.Slice, reflect.Array:
		return intType, goType(t.rt.Elem()), true
	case reflect.Map:
		return goType(t.rt.Key()), goType(t.rt.Elem()), true
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return t, t, true
	}
	return Type{}, Type{}, false
}

// method finds a method as the template package does: on the value, or on its
// address.
func method(rt reflect.Type, name string) (reflect.Type, bool) {
	if rt.Kind() != reflect.Pointer {
		rt = reflect.PointerTo(rt)
	}
	m, ok := rt.MethodByName(name)
	if !ok {
		return nil, false
	}
	return m.Type, true
}

// result checks a method call; mt has the receiver as its first parameter.
func (w *walker) result(n parse.Node, name string, mt reflect.Type, args []parse.Node, given []Type) Type {
	return w.signature(n, name, mt, 1, args, given)
}

// signature checks the arguments of a call against fn, of which the first
// skip parameters are given already.
func (w *walker) signature(n parse.Node, name string, fn reflect.Type, skip int, args []parse.Node, given []Type) Type {
	want := fn.NumIn() - skip
	switch {
	case fn.IsVariadic() && len(given) < want-1:
		w.errorf(n, "%s wants at least %s, and has %d here", name, arguments(want-1), len(given))
	case !fn.IsVariadic() && len(given) != want:
		w.errorf(n, "%s wants %s, and has %d here", name, arguments(want), len(given))
	default:
		for i, g := range given {
			param := fn.In(min(i+skip, fn.NumIn()-1))
			if fn.IsVariadic() && i+skip >= fn.NumIn()-1 {
				param = param.Elem()
			}
			if i < len(args) {
				if !constantFits(args[i], param) {
					w.errorf(n, "argument %d of %s is %s, but must be %s", i+1, name, args[i], goType(param).describe())
					continue
				}
			}
			if g.rt != nil && !g.rt.AssignableTo(param) && !(g.rt.Kind() == reflect.Pointer && g.rt.Elem().AssignableTo(param)) {
				w.errorf(n, "argument %d of %s is %s, but must be %s", i+1, name, g.describe(), goType(param).describe())
			}
		}
	}
	if fn.NumOut() == 0 {
		return Type{}
	}
	return goType(fn.Out(0))
}

func arguments(n int) string {
	if n == 1 {
		return "1 argument"
	}
	return strconv.Itoa(n) + " arguments"
}

// constantFits tells whether a number constant can become the parameter.
func constantFits(n parse.Node, param reflect.Type) bool {
	num, ok := n.(*parse.NumberNode)
	if !ok {
		return true
	}
	switch param.Kind() {
	case reflect.Interface:
		return true
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return num.IsInt
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return num.IsUint
	case reflect.Float32, reflect.Float64:
		return num.IsFloat
	}
	return false
}

func fieldNames(rt reflect.Type) []string {
	var names []string
	for _, f := range reflect.VisibleFields(rt) {
		if f.IsExported() && !f.Anonymous {
			names = append(names, f.Name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// suggest names the candidate nearest to what was written, or lists them when
// they are few.
func suggest(name string, candidates []string) string {
	best, bestDist := "", max(2, min(3, len(name)/2))
	for _, c := range candidates {
		if d := distance(strings.ToLower(name), strings.ToLower(c)); d < bestDist {
			best, bestDist = c, d
		}
	}
	switch {
	case best != "":
		return "; did you mean " + strconv.Quote(best) + "?"
	case len(candidates) == 0:
		return ""
	case len(candidates) <= 12:
		return "; there are " + strings.Join(candidates, ", ")
	}
	return ""
}

// Suggest is the tail of an error message: the candidate nearest to name, or
// all of them when they are few.
func Suggest(name string, candidates []string) string { return suggest(name, candidates) }

// maxDistanceText bounds the texts that are compared.
const maxDistanceText = 64

// distance counts the letters to change, add, drop or swap with their
// neighbour to get from a to b.
func distance(a, b string) int {
	if len(a) > maxDistanceText || len(b) > maxDistanceText {
		return maxDistanceText
	}
	before, row, next := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		next[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			next[j+1] = min(row[j+1]+1, next[j]+1, row[j]+cost)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				next[j+1] = min(next[j+1], before[j-1]+1)
			}
		}
		before, row, next = row, next, before
	}
	return row[len(b)]
}
