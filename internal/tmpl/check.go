package tmpl

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"text/template/parse"
)

// Checker checks templates against the data they will get.
type Checker struct {
	// Funcs are the functions that templates may call, beside the built-in
	// ones that this package allows.
	Funcs map[string]any
	// OnKey is asked for each field of a struct and each constant key of a
	// map that a template reads; a reason refuses it. May be nil.
	OnKey func(t reflect.Type, key, file string, line int) (reason string)
}

// Check checks the template main, and all that it calls, for data of type
// root. It returns every mistake, and the names of the templates that main
// reaches.
func (c *Checker) Check(trees map[string]*parse.Tree, main string, root reflect.Type) ([]Problem, map[string]bool) {
	w := &walker{Checker: c, trees: trees, seen: map[string]bool{}, reached: map[string]bool{}, dup: map[Problem]bool{}}
	if p := Cycles(trees); len(p) > 0 {
		return p, w.reached
	}
	w.template(main, goType(root))
	return w.problems, w.reached
}

// Cycles finds templates that include themselves, directly or by way of
// others. Templates have no end condition that can be checked beforehand, so
// all recursion is refused.
func Cycles(trees map[string]*parse.Tree) []Problem {
	var problems []Problem
	const (
		active = 1
		done   = 2
	)
	state := map[string]int{}
	var path []string
	var visit func(name string)
	visit = func(name string) {
		state[name] = active
		path = append(path, name)
		t := trees[name]
		each(t.Root, func(n parse.Node) {
			call, ok := n.(*parse.TemplateNode)
			if !ok || trees[call.Name] == nil {
				return
			}
			switch state[call.Name] {
			case active:
				file, line := place(t, call)
				ring := append(slices.Clone(path[slices.Index(path, call.Name):]), call.Name)
				problems = append(problems, Problem{file, line, "template " + strconv.Quote(call.Name) + " includes itself: " + strings.Join(ring, " -> ") + "; use range to repeat something"})
			case 0:
				visit(call.Name)
			}
		})
		path = path[:len(path)-1]
		state[name] = done
	}
	for _, name := range slices.Sorted(maps.Keys(trees)) {
		if state[name] == 0 {
			visit(name)
		}
	}
	return problems
}

// each calls f for every statement node under n.
func each(n parse.Node, f func(parse.Node)) {
	branch := func(b *parse.BranchNode) {
		each(b.List, f)
		if b.ElseList != nil {
			each(b.ElseList, f)
		}
	}
	switch n := n.(type) {
	case *parse.ListNode:
		if n != nil {
			for _, c := range n.Nodes {
				f(c)
				each(c, f)
			}
		}
	case *parse.IfNode:
		branch(&n.BranchNode)
	case *parse.WithNode:
		branch(&n.BranchNode)
	case *parse.RangeNode:
		branch(&n.BranchNode)
	}
}

// pipes calls f for the pipeline of each statement under n.
func pipes(n parse.Node, f func(*parse.PipeNode)) {
	each(n, func(n parse.Node) {
		var p *parse.PipeNode
		switch n := n.(type) {
		case *parse.ActionNode:
			p = n.Pipe
		case *parse.IfNode:
			p = n.Pipe
		case *parse.WithNode:
			p = n.Pipe
		case *parse.RangeNode:
			p = n.Pipe
		case *parse.TemplateNode:
			p = n.Pipe
		}
		if p != nil {
			f(p)
		}
	})
}

// walker follows one template and what it calls.
type walker struct {
	*Checker
	trees    map[string]*parse.Tree
	tree     *parse.Tree
	assigned map[string]bool
	vars     []variable
	seen     map[string]bool
	reached  map[string]bool
	problems []Problem
	dup      map[Problem]bool
}

type variable struct {
	name string
	typ  Type
}

func (w *walker) errorf(n parse.Node, format string, args ...any) {
	file, line := place(w.tree, n)
	p := Problem{file, line, fmt.Sprintf(format, args...)}
	if !w.dup[p] {
		w.dup[p] = true
		w.problems = append(w.problems, p)
	}
}

// template checks one template for one type of data.
func (w *walker) template(name string, data Type) {
	w.reached[name] = true
	key := name + "\x00" + data.String()
	t := w.trees[name]
	if w.seen[key] || t == nil || t.Root == nil {
		return
	}
	w.seen[key] = true
	tree, vars, assigned := w.tree, w.vars, w.assigned
	defer func() { w.tree, w.vars, w.assigned = tree, vars, assigned }()

	w.tree, w.vars, w.assigned = t, []variable{{"$", data}}, map[string]bool{}
	pipes(t.Root, func(p *parse.PipeNode) {
		if p.IsAssign {
			for _, v := range p.Decl {
				w.assigned[v.Ident[0]] = true
			}
		}
	})
	w.list(t.Root, data)
}

func (w *walker) list(l *parse.ListNode, dot Type) {
	if l == nil {
		return
	}
	for _, n := range l.Nodes {
		switch n := n.(type) {
		case *parse.ActionNode:
			t := w.pipe(n.Pipe, dot, true)
			if len(n.Pipe.Decl) == 0 && !t.printable() {
				w.errorf(n, "%s is %s and cannot be printed as a whole; name a field of it, or use range", n.Pipe, t.describe())
			}
		case *parse.IfNode:
			w.branch(&n.BranchNode, dot, func() Type { w.pipe(n.Pipe, dot, true); return dot })
		case *parse.WithNode:
			w.branch(&n.BranchNode, dot, func() Type { return w.pipe(n.Pipe, dot, true) })
		case *parse.RangeNode:
			w.branch(&n.BranchNode, dot, func() Type { return w.rangeOver(n, dot) })
		case *parse.TemplateNode:
			w.call(n, dot)
		}
	}
}

func (w *walker) branch(b *parse.BranchNode, dot Type, enter func() Type) {
	depth := len(w.vars)
	inner := enter()
	body := len(w.vars)
	w.list(b.List, inner)
	w.vars = w.vars[:body]
	w.list(b.ElseList, dot)
	w.vars = w.vars[:depth]
}

// rangeOver returns the type of the elements.
func (w *walker) rangeOver(n *parse.RangeNode, dot Type) Type {
	over := w.pipe(n.Pipe, dot, false)
	key, elem, ok := over.elements()
	if !ok {
		w.errorf(n, "range cannot go over %s, which is %s", n.Pipe, over.describe())
	}
	switch decl := n.Pipe.Decl; len(decl) {
	case 1:
		w.declare(decl[0].Ident[0], elem)
	case 2:
		w.declare(decl[0].Ident[0], key)
		w.declare(decl[1].Ident[0], elem)
	}
	return elem
}

func (w *walker) call(n *parse.TemplateNode, dot Type) {
	data := Type{none: true}
	if n.Pipe != nil {
		depth := len(w.vars)
		data = w.pipe(n.Pipe, dot, true)
		w.vars = w.vars[:depth]
	}
	if w.trees[n.Name] == nil {
		w.errorf(n, "there is no template %q%s", n.Name, suggest(n.Name, slices.Sorted(maps.Keys(w.trees))))
		return
	}
	w.template(n.Name, data)
}

func (w *walker) declare(name string, t Type) {
	if w.assigned[name] {
		t = Type{} // it may hold something else by the time it is read
	}
	w.vars = append(w.vars, variable{name, t})
}

func (w *walker) lookup(name string) Type {
	for i := len(w.vars) - 1; i >= 0; i-- {
		if w.vars[i].name == name {
			return w.vars[i].typ
		}
	}
	return Type{}
}

// pipe returns the type of the value of a pipeline.
func (w *walker) pipe(p *parse.PipeNode, dot Type, declare bool) Type {
	var value Type
	for i, cmd := range p.Cmds {
		var final *Type
		if i > 0 {
			prev := value
			final = &prev
		}
		value = w.command(cmd, dot, final)
	}
	if declare && !p.IsAssign {
		for _, v := range p.Decl {
			w.declare(v.Ident[0], value)
		}
	}
	return value
}

// command returns the type of one command; final is what the pipeline hands
// it as its last argument.
func (w *walker) command(cmd *parse.CommandNode, dot Type, final *Type) Type {
	first, rest := cmd.Args[0], cmd.Args[1:]
	switch n := first.(type) {
	case *parse.FieldNode:
		return w.chain(dot, n.Ident, n, rest, dot, final)
	case *parse.VariableNode:
		if len(n.Ident) > 1 {
			return w.chain(w.lookup(n.Ident[0]), n.Ident[1:], n, rest, dot, final)
		}
	case *parse.ChainNode:
		return w.chain(w.arg(n.Node, dot), n.Field, n, rest, dot, final)
	case *parse.IdentifierNode:
		return w.function(n, rest, dot, final)
	}
	if len(rest) > 0 || final != nil {
		w.errorf(first, "%s is not a function and takes no arguments", first)
		for _, a := range rest {
			w.arg(a, dot)
		}
	}
	return w.arg(first, dot)
}

// arg returns the type of one argument.
func (w *walker) arg(n parse.Node, dot Type) Type {
	switch n := n.(type) {
	case *parse.DotNode:
		return dot
	case *parse.NilNode:
		return Type{}
	case *parse.FieldNode:
		return w.chain(dot, n.Ident, n, nil, dot, nil)
	case *parse.VariableNode:
		return w.chain(w.lookup(n.Ident[0]), n.Ident[1:], n, nil, dot, nil)
	case *parse.ChainNode:
		return w.chain(w.arg(n.Node, dot), n.Field, n, nil, dot, nil)
	case *parse.PipeNode:
		depth := len(w.vars)
		t := w.pipe(n, dot, true)
		w.vars = w.vars[:depth]
		return t
	case *parse.IdentifierNode:
		return w.function(n, nil, dot, nil)
	case *parse.StringNode:
		if strings.Contains(n.Text, mark) {
			w.errorf(n, "Postmark's literal %s stands inside an action, where it would be escaped; write it as plain text of the template", restore(strings.Trim(n.Text, " ")))
		}
		return goType(reflect.TypeFor[string]())
	case *parse.BoolNode:
		return goType(reflect.TypeFor[bool]())
	}
	return Type{} // number constants take the type that is wanted
}

// chain follows fields from t; the last one may be a method with arguments.
func (w *walker) chain(t Type, names []string, n parse.Node, args []parse.Node, dot Type, final *Type) Type {
	given := make([]Type, 0, len(args)+1)
	for _, a := range args {
		given = append(given, w.arg(a, dot))
	}
	if final != nil {
		given = append(given, *final)
	}
	for i, name := range names {
		if i < len(names)-1 {
			t = w.field(t, name, n, nil, nil)
		} else {
			t = w.field(t, name, n, args, given)
		}
	}
	return t
}

// field returns the type of one field, map key or method of t.
func (w *walker) field(t Type, name string, n parse.Node, args []parse.Node, given []Type) Type {
	switch {
	case t.none:
		w.errorf(n, "%s: this template is called without data; call it as {{ template \"name\" . }}", n)
		return Type{}
	case t.record != nil:
		if f, ok := t.record[name]; ok {
			return f
		}
		w.errorf(n, "%s: the dict given here has no key %q%s", n, name, suggest(name, slices.Sorted(maps.Keys(t.record))))
		return Type{}
	case t.rt == nil:
		return Type{}
	}
	rt := t.rt
	if m, ok := method(rt, name); ok {
		return w.result(n, name, m, args, given)
	}
	for rt.Kind() == reflect.Pointer {
		rt = rt.Elem()
	}
	var found Type
	switch rt.Kind() {
	case reflect.Struct:
		f, ok := rt.FieldByName(name)
		if !ok || !f.IsExported() {
			w.errorf(n, "%s: there is no field %s%s", n, name, suggest(name, fieldNames(rt)))
			return Type{}
		}
		found = goType(f.Type)
	case reflect.Map:
		if rt.Key().Kind() != reflect.String {
			w.errorf(n, "%s: %s is %s, whose keys are not names; use index", n, name, t.describe())
			return Type{}
		}
		found = goType(rt.Elem())
	default:
		w.errorf(n, "%s: %s has no fields, so no %s", n, t.describe(), name)
		return Type{}
	}
	w.key(rt, name, n)
	if len(given) > 0 {
		w.errorf(n, "%s is not a method and takes no arguments", n)
	}
	return found
}

func (w *walker) key(rt reflect.Type, name string, n parse.Node) {
	if w.OnKey == nil {
		return
	}
	file, line := place(w.tree, n)
	if reason := w.OnKey(rt, name, file, line); reason != "" {
		w.errorf(n, "%s: %s", n, reason)
	}
}
