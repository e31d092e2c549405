package tmpl

import (
	"reflect"
	"slices"
	"text/template/parse"
)

// builtin is a function of the template packages that stays allowed.
type builtin struct {
	min, max int // max -1: any number
	out      reflect.Type
}

var builtins = map[string]builtin{
	"and":      {1, -1, nil},
	"or":       {1, -1, nil},
	"not":      {1, 1, reflect.TypeFor[bool]()},
	"len":      {1, 1, reflect.TypeFor[int]()},
	"index":    {1, -1, nil},
	"slice":    {1, 4, nil},
	"html":     {1, -1, reflect.TypeFor[string]()},
	"urlquery": {1, -1, reflect.TypeFor[string]()},
}

// function checks the call of a function and returns the type of its result.
func (w *walker) function(n *parse.IdentifierNode, args []parse.Node, dot Type, final *Type) Type {
	given := make([]Type, 0, len(args)+1)
	for _, a := range args {
		given = append(given, w.arg(a, dot))
	}
	if final != nil {
		given = append(given, *final)
	}
	if fn, ok := w.Funcs[n.Ident]; ok {
		out := w.signature(n, n.Ident, reflect.TypeOf(fn), 0, args, given)
		if lint := lints[n.Ident]; lint != nil {
			if reason := lint(args); reason != "" {
				w.errorf(n, "%s: %s", n.Ident, reason)
			}
		}
		if n.Ident == "dict" {
			return dictType(args, given)
		}
		return out
	}
	b, ok := builtins[n.Ident]
	if !ok {
		known := sortedKeys(w.Funcs)
		known = append(known, sortedKeys(builtins)...)
		slices.Sort(known)
		w.errorf(n, "there is no function %q%s", n.Ident, suggest(n.Ident, known))
		return Type{}
	}
	if len(given) < b.min || (b.max >= 0 && len(given) > b.max) {
		w.errorf(n, "%s has %s, which is too few or too many", n.Ident, arguments(len(given)))
		return goType(b.out)
	}
	switch n.Ident {
	case "index":
		return w.index(n, args, given)
	case "slice":
		return given[0]
	case "len":
		if k, _, ok := given[0].elements(); given[0].rt != nil && given[0].rt.Kind() != reflect.String && (!ok || k.rt == given[0].rt) {
			w.errorf(n, "len of %s, which is %s", args, given[0].describe())
		}
	}
	return goType(b.out)
}

// index follows constant keys like fields, so that index .Traits "x" is
// checked as .Traits.x is.
func (w *walker) index(n parse.Node, args []parse.Node, given []Type) Type {
	t := given[0]
	for i := 1; i < len(given); i++ {
		var key *parse.StringNode
		if i < len(args) {
			key, _ = args[i].(*parse.StringNode)
		}
		switch {
		case t.record != nil && key != nil:
			t = w.field(t, key.Text, n, nil, nil)
		case t.rt != nil && t.rt.Kind() == reflect.Map:
			if key != nil && t.rt.Key().Kind() == reflect.String {
				w.key(t.rt, key.Text, n)
			}
			t = goType(t.rt.Elem())
		case t.rt != nil && (t.rt.Kind() == reflect.Slice || t.rt.Kind() == reflect.Array):
			if key != nil {
				w.errorf(n, "index: the key %s is a text, but this is a list", key)
			}
			t = goType(t.rt.Elem())
		case t.rt != nil && t.rt.Kind() != reflect.String:
			w.errorf(n, "index cannot look into %s", t.describe())
			return Type{}
		default:
			t = Type{}
		}
	}
	return t
}

// dictType is the record that a dict with constant keys makes.
func dictType(args []parse.Node, given []Type) Type {
	record := map[string]Type{}
	for i := 0; i+1 < len(given); i += 2 {
		if i >= len(args) {
			return Type{}
		}
		key, ok := args[i].(*parse.StringNode)
		if !ok {
			return Type{}
		}
		record[key.Text] = given[i+1]
	}
	return Type{record: record}
}

// Reserved tells whether a name belongs to a function of the template
// packages, allowed here or not.
func Reserved(name string) bool {
	_, ok := builtins[name]
	return ok || name == "js" || name == "call" || name == "break" || name == "continue"
}
