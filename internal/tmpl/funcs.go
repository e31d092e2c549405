package tmpl

import (
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"maps"
	"math/big"
	"reflect"
	"strconv"
	"strings"
	"text/template/parse"
	"time"
	"unicode"
	"unicode/utf8"
)

// maxText bounds a text made inside a template, so that doubling a variable
// in a loop ends in an error and not in all the memory.
const maxText = 1 << 20

var errLongText = errors.New("the text grows beyond 1 MiB")

// Funcs returns the functions that templates may call. Those that shape text
// hand a missing value on, so that default can stand last in a pipeline.
func Funcs() map[string]any {
	return map[string]any{
		"default":   fallback,
		"has":       has,
		"date":      date,
		"in":        inZone,
		"daysUntil": daysUntil,
		"number":    number,
		"money":     money,
		"cents":     cents,
		"plural":    plural,
		"upper":     textFunc(strings.ToUpper),
		"lower":     textFunc(strings.ToLower),
		"title":     textFunc(title),
		"trim":      textFunc(strings.TrimSpace),
		"truncate":  truncate,
		"join":      join,
		"dict":      dict,
		"print":     func(args ...any) (string, error) { return sprint("", args) },
		"println":   func(args ...any) (string, error) { return sprint("\n", args) },
		"printf":    sprintf,
		"eq":        eq,
		"ne":        func(a, b any) bool { return !equal(a, b) },
		"lt":        func(a, b any) (bool, error) { c, err := compare(a, b); return c < 0, err },
		"le":        func(a, b any) (bool, error) { c, err := compare(a, b); return c <= 0, err },
		"gt":        func(a, b any) (bool, error) { c, err := compare(a, b); return c > 0, err },
		"ge":        func(a, b any) (bool, error) { c, err := compare(a, b); return c >= 0, err },
	}
}

// ExecFuncs returns funcs together with those that [Instrument] calls.
func ExecFuncs(funcs map[string]any) map[string]any {
	all := maps.Clone(funcs)
	all[printFunc] = printValue
	all[getFunc] = get
	all[rawFunc] = func(s string) template.HTML { return template.HTML(s) } //nolint:gosec // only the marks found by conditionalRE
	return all
}

// ValueError is a value that could not be printed; Source is the action that
// did it, as its author wrote it.
type ValueError struct {
	Source string
	Err    error
}

// Error names the source and the reason.
func (e *ValueError) Error() string { return e.Source + " " + e.Err.Error() }

// Unwrap returns the cause.
func (e *ValueError) Unwrap() error { return e.Err }

func printValue(source string, v any) (string, error) {
	s, err := Text(v)
	if err != nil {
		return "", &ValueError{source, err}
	}
	return s, nil
}

// get follows names from base and gives nil when one is missing.
func get(base any, names ...string) any {
	if m, ok := base.(map[string]any); ok && len(names) == 1 {
		return m[names[0]]
	}
	v := reflect.ValueOf(base)
	for _, name := range names {
		v = step(v, name)
		if !v.IsValid() {
			return nil
		}
	}
	if (v.Kind() == reflect.Pointer || v.Kind() == reflect.Map || v.Kind() == reflect.Slice) && v.IsNil() {
		return nil
	}
	return v.Interface()
}

func step(v reflect.Value, name string) reflect.Value {
	if v.IsValid() && v.Kind() == reflect.Interface {
		v = v.Elem()
	}
	if !v.IsValid() {
		return v
	}
	if m := v.MethodByName(name); m.IsValid() && m.Type().NumIn() == 0 && m.Type().NumOut() > 0 {
		return m.Call(nil)[0]
	}
	for v.Kind() == reflect.Pointer || v.Kind() == reflect.Interface {
		if v.IsNil() {
			return reflect.Value{}
		}
		v = v.Elem()
	}
	switch v.Kind() {
	case reflect.Struct:
		f, ok := v.Type().FieldByName(name)
		if !ok || !f.IsExported() {
			return reflect.Value{}
		}
		f2, err := v.FieldByIndexErr(f.Index)
		if err != nil {
			return reflect.Value{}
		}
		return f2
	case reflect.Map:
		if v.Type().Key().Kind() != reflect.String {
			return reflect.Value{}
		}
		e := v.MapIndex(reflect.ValueOf(name).Convert(v.Type().Key()))
		if e.IsValid() && e.Kind() == reflect.Interface {
			e = e.Elem()
		}
		return e
	}
	return reflect.Value{}
}

// fallback gives v, or def when v is missing, null or an empty text.
func fallback(def, v any) any {
	if has(v) {
		return v
	}
	return def
}

// has tells whether a value is there: not missing, not null, not an empty
// text. 0 and false are values.
func has(v any) bool {
	if v == nil {
		return false
	}
	if s, ok := textKind(v); ok {
		return s != ""
	}
	if t, ok := v.(time.Time); ok {
		return !t.IsZero()
	}
	return true
}

func date(layout string, v any) (any, error) {
	if v == nil {
		return nil, nil
	}
	t, err := instant(v)
	if err != nil {
		return nil, err
	}
	return t.Format(layout), nil
}

func inZone(zone string, v any) (any, error) {
	if v == nil {
		return nil, nil
	}
	t, err := instant(v)
	if err != nil {
		return nil, err
	}
	loc, err := time.LoadLocation(zone)
	if err != nil {
		return nil, fmt.Errorf("time zone %q is not known: %w", zone, err)
	}
	return t.In(loc), nil
}

// daysUntil counts the midnights between now and v, in the zone of v.
func daysUntil(now, v any) (any, error) {
	if v == nil {
		return nil, nil
	}
	from, err := instant(now)
	if err != nil {
		return nil, err
	}
	to, err := instant(v)
	if err != nil {
		return nil, err
	}
	day := func(t time.Time) int64 {
		y, m, d := t.In(to.Location()).Date()
		return time.Date(y, m, d, 0, 0, 0, 0, time.UTC).Unix() / 86400
	}
	return day(to) - day(from), nil
}

// number groups the digits of a number by thousands. Given two arguments the
// first is the number of decimals.
func number(args ...any) (any, error) {
	decimals := -1
	switch len(args) {
	case 1:
	case 2:
		n, ok := toInt(args[0])
		if !ok || n < 0 || n > 20 {
			return nil, fmt.Errorf("decimals must be a whole number from 0 to 20, not %.20v", args[0])
		}
		decimals = n
	default:
		return nil, fmt.Errorf("wants a number, or decimals and a number; has %s", arguments(len(args)))
	}
	v := args[len(args)-1]
	if v == nil {
		return nil, nil
	}
	r, err := exact(v)
	if err != nil {
		return nil, err
	}
	if decimals < 0 {
		if decimals, _ = r.FloatPrec(); decimals > 20 {
			decimals = 20
		}
	}
	return group(r.FloatString(decimals)), nil
}

func toInt(v any) (int, bool) {
	rv := reflect.ValueOf(v)
	if rv.IsValid() && rv.CanInt() {
		return int(rv.Int()), true
	}
	return 0, false
}

// group puts a comma before every third digit of the whole part.
func group(s string) string {
	sign := ""
	if strings.HasPrefix(s, "-") {
		sign, s = "-", s[1:]
	}
	whole, frac, hasFrac := strings.Cut(s, ".")
	var b strings.Builder
	b.WriteString(sign)
	for i, c := range whole {
		if i > 0 && (len(whole)-i)%3 == 0 {
			b.WriteByte(',')
		}
		b.WriteRune(c)
	}
	if hasFrac {
		b.WriteString("." + frac)
	}
	return b.String()
}

var symbols = map[string]string{"USD": "$", "EUR": "€", "GBP": "£", "JPY": "¥", "INR": "₹", "BRL": "R$", "KRW": "₩"}

// minorDigits are the currencies of ISO 4217 whose smallest unit is not a
// hundredth.
var minorDigits = map[string]int{
	"BIF": 0, "CLP": 0, "DJF": 0, "GNF": 0, "ISK": 0, "JPY": 0, "KMF": 0, "KRW": 0, "PYG": 0, "RWF": 0, "UGX": 0,
	"VND": 0, "VUV": 0, "XAF": 0, "XOF": 0, "XPF": 0,
	"BHD": 3, "IQD": 3, "JOD": 3, "KWD": 3, "LYD": 3, "OMR": 3, "TND": 3,
}

func currencyDigits(code string) (int, error) {
	if len(code) != 3 || strings.Trim(code, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" {
		return 0, fmt.Errorf("currency %.20q is not an ISO 4217 code such as EUR", code)
	}
	if d, ok := minorDigits[code]; ok {
		return d, nil
	}
	return 2, nil
}

// money writes an amount in whole units of a currency.
func money(code string, v any) (any, error) {
	return amount(code, v, false)
}

// cents writes an amount given in the smallest unit of a currency.
func cents(code string, v any) (any, error) {
	return amount(code, v, true)
}

func amount(code string, v any, minor bool) (any, error) {
	digits, err := currencyDigits(code)
	if err != nil || v == nil {
		return nil, err
	}
	r, err := exact(v)
	if err != nil {
		return nil, err
	}
	if minor {
		scale := new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(digits)), nil)
		r.Quo(r, new(big.Rat).SetInt(scale))
	}
	s := group(r.FloatString(digits))
	symbol, ok := symbols[code]
	if !ok {
		return s + "\u00a0" + code, nil
	}
	if rest, negative := strings.CutPrefix(s, "-"); negative {
		return "-" + symbol + rest, nil
	}
	return symbol + s, nil
}

// plural writes a count with the word that fits it.
func plural(one, many string, v any) (any, error) {
	if v == nil {
		return nil, nil
	}
	r, err := exact(v)
	if err != nil {
		return nil, err
	}
	n, err := number(v)
	if err != nil {
		return nil, err
	}
	word := many
	if new(big.Rat).Abs(r).Cmp(big.NewRat(1, 1)) == 0 {
		word = one
	}
	return n.(string) + " " + word, nil
}

func textFunc(f func(string) string) func(any) (any, error) {
	return func(v any) (any, error) {
		if v == nil {
			return nil, nil
		}
		s, err := Text(v)
		if err != nil {
			return nil, err
		}
		return f(s), nil
	}
}

// title makes the first letter of each word upper case.
func title(s string) string {
	start := true
	return strings.Map(func(r rune) rune {
		if start {
			r = unicode.ToTitle(r)
		}
		start = unicode.IsSpace(r) || r == '-'
		return r
	}, s)
}

// truncate cuts a text to at most n characters, the last being an ellipsis.
func truncate(n int, v any) (any, error) {
	if v == nil {
		return nil, nil
	}
	s, err := Text(v)
	if err != nil {
		return nil, err
	}
	if n < 1 {
		return nil, fmt.Errorf("the length must be at least 1, not %d", n)
	}
	if utf8.RuneCountInString(s) <= n {
		return s, nil
	}
	runes := []rune(s)
	return strings.TrimRightFunc(string(runes[:n-1]), unicode.IsSpace) + "…", nil
}

// join writes the elements of a list with sep between them.
func join(sep string, list any) (any, error) {
	if list == nil {
		return nil, nil
	}
	rv := reflect.ValueOf(list)
	if rv.Kind() != reflect.Slice && rv.Kind() != reflect.Array {
		return nil, fmt.Errorf("%s is not a list", kindOf(list))
	}
	var b strings.Builder
	for i := range rv.Len() {
		s, err := Text(rv.Index(i).Interface())
		if err != nil {
			return nil, fmt.Errorf("element %d %w", i, err)
		}
		if i > 0 {
			b.WriteString(sep)
		}
		b.WriteString(s)
		if b.Len() > maxText {
			return nil, errLongText
		}
	}
	return b.String(), nil
}

// dict makes a map of names and values, to hand several to a partial.
func dict(pairs ...any) (map[string]any, error) {
	if len(pairs)%2 != 0 {
		return nil, errors.New("wants names and values by turns; one value is missing")
	}
	m := make(map[string]any, len(pairs)/2)
	for i := 0; i < len(pairs); i += 2 {
		name, ok := pairs[i].(string)
		if !ok {
			return nil, fmt.Errorf("argument %d must be a name, not %s", i+1, kindOf(pairs[i]))
		}
		m[name] = pairs[i+1]
	}
	return m, nil
}

// sprint joins the plain texts of args without blanks, unlike fmt.Sprint,
// whose blanks depend on the types of the neighbours.
func sprint(end string, args []any) (string, error) {
	var b strings.Builder
	for i, a := range args {
		s, err := Text(a)
		if err != nil {
			return "", fmt.Errorf("argument %d %w", i+1, err)
		}
		if end != "" && i > 0 {
			b.WriteByte(' ')
		}
		if b.Len()+len(s) > maxText {
			return "", errLongText
		}
		b.WriteString(s)
	}
	return b.String() + end, nil
}

func sprintf(format string, args ...any) (string, error) {
	size := len(format)
	plain, probe := make([]any, len(args)), make([]any, len(args))
	for i, a := range args {
		plain[i] = a
		switch v := a.(type) {
		case nil:
			return "", fmt.Errorf("argument %d %w", i+1, errNoValue)
		case json.Number:
			if n, err := v.Int64(); err == nil {
				plain[i] = n
			} else if f, err := v.Float64(); err == nil {
				plain[i] = f
			}
		case string:
			size += len(v)
		}
		if probe[i] = plain[i]; reflect.ValueOf(a).Kind() == reflect.String && probe[i] == a {
			probe[i] = "" // its text may hold what looks like a complaint of fmt
		}
	}
	if size > maxText {
		return "", errLongText
	}
	s := fmt.Sprintf(format, plain...)
	if len(s) > maxText {
		return "", errLongText
	}
	if bad := fmt.Sprintf(format, probe...); strings.Contains(bad, "%!") && !strings.Contains(format, "%%!") {
		return "", fmt.Errorf("the format %q does not fit its arguments: %.80s", format, bad)
	}
	return s, nil
}

func eq(first, second any, others ...any) bool {
	if equal(first, second) {
		return true
	}
	for _, o := range others {
		if equal(first, o) {
			return true
		}
	}
	return false
}

// lints check constant arguments that a signature cannot.
var lints = map[string]func(args []parse.Node) string{
	"date": func(args []parse.Node) string {
		if s, ok := constant(args, 0); ok {
			a := time.Date(2001, 2, 3, 4, 5, 6, 7, time.UTC)
			b := time.Date(2019, 11, 24, 17, 38, 49, 8e8, time.FixedZone("X", 3600))
			if a.Format(s) == b.Format(s) {
				return "the layout " + strconv.Quote(s) + ` shows no part of a date; layouts are written for the moment "Mon Jan 2 15:04:05 2006", such as "2 January 2006"`
			}
		}
		return ""
	},
	"in": func(args []parse.Node) string {
		if s, ok := constant(args, 0); ok {
			if _, err := time.LoadLocation(s); err != nil {
				return "time zone " + strconv.Quote(s) + " is not known here"
			}
		}
		return ""
	},
	"money": lintCurrency,
	"cents": lintCurrency,
	"number": func(args []parse.Node) string {
		if len(args) > 2 {
			return "wants a number, or decimals and a number"
		}
		return ""
	},
	"dict": func(args []parse.Node) string {
		if len(args)%2 != 0 {
			return "wants names and values by turns; one value is missing"
		}
		return ""
	},
	"truncate": func(args []parse.Node) string {
		if len(args) > 0 {
			if n, ok := args[0].(*parse.NumberNode); ok && n.IsInt && n.Int64 < 1 {
				return "the length must be at least 1"
			}
		}
		return ""
	},
}

func lintCurrency(args []parse.Node) string {
	if s, ok := constant(args, 0); ok {
		if _, err := currencyDigits(s); err != nil {
			return err.Error()
		}
	}
	return ""
}

func constant(args []parse.Node, i int) (string, bool) {
	if i >= len(args) {
		return "", false
	}
	s, ok := args[i].(*parse.StringNode)
	if !ok {
		return "", false
	}
	return s.Text, true
}
