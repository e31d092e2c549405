package tmpl

import (
	"bytes"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"text/template/parse"
)

// Names of the functions that Instrument calls. They cannot be called by a
// template: Check knows no function of these names.
const (
	printFunc = "_print"
	getFunc   = "_get"
	rawFunc   = "_raw"
)

// Instrument prepares a checked tree for execution, in place:
//
//   - Postmark's literals get their final form.
//   - Each printed value passes through [Text], so that numbers print plainly
//     and a missing value is an error and not "<no value>".
//   - A field that is given to "default" or "has", or that is a whole condition,
//     may be missing.
//   - Each template and each turn of a range writes at least once, so that a
//     [Buffer] can bound the work even of a loop that prints nothing.
//   - In html, the marks of conditional comments for Outlook are kept;
//     html/template drops all comments.
func Instrument(t *parse.Tree, html bool) error {
	in := &instrumenter{tree: t, html: html}
	in.list(t.Root, true)
	return in.err
}

type instrumenter struct {
	tree *parse.Tree
	html bool
	err  error
}

// snippet parses nodes that are put into the tree. They are parsed and not
// put together by hand, because the template packages ask each node for its
// source when they report an error. Leading line ends give it the line of near.
func (in *instrumenter) snippet(near parse.Node, src string) parse.Node {
	_, line := place(in.tree, near)
	t := parse.New(in.tree.ParseName)
	t.Mode = parse.SkipFuncCheck
	_, err := t.Parse(strings.Repeat("\n", max(line-1, 0))+src, "", "", map[string]*parse.Tree{})
	if err != nil {
		in.err = fmt.Errorf("prepare %s: %w", near, err)
		return near
	}
	return t.Root.Nodes[len(t.Root.Nodes)-1]
}

// command is the call of fn with constant arguments.
func (in *instrumenter) command(near parse.Node, fn string, args ...string) *parse.CommandNode {
	src := "{{" + fn
	for _, a := range args {
		src += " " + a
	}
	if a, ok := in.snippet(near, src+"}}").(*parse.ActionNode); ok {
		return a.Pipe.Cmds[0]
	}
	return &parse.CommandNode{NodeType: parse.NodeCommand, Args: []parse.Node{near}}
}

func (in *instrumenter) list(l *parse.ListNode, counted bool) {
	if l == nil {
		return
	}
	nodes := make([]parse.Node, 0, len(l.Nodes)+1)
	if counted {
		if tick, ok := in.snippet(l, "\n").(*parse.TextNode); ok {
			tick.Text = nil
			nodes = append(nodes, tick)
		}
	}
	for _, n := range l.Nodes {
		switch n := n.(type) {
		case *parse.TextNode:
			nodes = in.text(nodes, n)
			continue
		case *parse.ActionNode:
			source := restore(n.Pipe.String())
			in.pipe(n.Pipe)
			if len(n.Pipe.Decl) == 0 {
				in.print(n.Pipe, source)
			}
		case *parse.IfNode:
			in.condition(n.Pipe)
			in.list(n.List, false)
			in.list(n.ElseList, false)
		case *parse.WithNode:
			in.condition(n.Pipe)
			in.list(n.List, false)
			in.list(n.ElseList, false)
		case *parse.RangeNode:
			in.pipe(n.Pipe)
			in.list(n.List, true)
			in.list(n.ElseList, false)
		case *parse.TemplateNode:
			if n.Pipe != nil {
				in.pipe(n.Pipe)
			}
		}
		nodes = append(nodes, n)
	}
	l.Nodes = nodes
}

// conditionalRE finds the opening and closing marks of conditional comments:
// <!--[if mso]> ... <![endif]--> and <!--[if !mso]><!--> ... <!--<![endif]-->.
var conditionalRE = regexp.MustCompile(`<!--\[if [^\]<>]*\]>(?:<!-->|<!-- -->)?|(?:<!--)?<!\[endif\](?:--)?>`)

// text appends a text node, its literals restored. The marks of conditional
// comments become actions that print them as they are, and what stands between
// them is escaped like the rest of the document.
func (in *instrumenter) text(nodes []parse.Node, n *parse.TextNode) []parse.Node {
	n.Text = markedRE.ReplaceAll(n.Text, []byte("{{{ $1 }}}"))
	if !in.html || !bytes.Contains(n.Text, []byte("[")) {
		return append(nodes, n)
	}
	for {
		at := conditionalRE.FindIndex(n.Text)
		if at == nil {
			return append(nodes, n)
		}
		rest := n.Copy().(*parse.TextNode)
		rest.Text = n.Text[at[1]:]
		nodes = append(nodes, n, in.snippet(n, "{{"+rawFunc+" "+strconv.Quote(string(n.Text[at[0]:at[1]]))+"}}"))
		n.Text = n.Text[:at[0]]
		n = rest
	}
}

// print makes [Text] the last command of a pipeline. source is how the author
// wrote it, for the error message.
func (in *instrumenter) print(p *parse.PipeNode, source string) {
	last := p.Cmds[len(p.Cmds)-1]
	if id, ok := last.Args[0].(*parse.IdentifierNode); ok && (id.Ident == "html" || id.Ident == "urlquery") {
		// html/template wants its own escapers to be last.
		if len(p.Cmds) > 1 {
			p.Cmds = append(p.Cmds[:len(p.Cmds)-1], in.command(p, printFunc, strconv.Quote(source)), last)
		}
		return
	}
	p.Cmds = append(p.Cmds, in.command(p, printFunc, strconv.Quote(source)))
}

// condition prepares the pipeline of if and with: a bare field there asks
// whether it is set.
func (in *instrumenter) condition(p *parse.PipeNode) {
	in.pipe(p)
	if len(p.Cmds) == 1 && len(p.Cmds[0].Args) == 1 {
		p.Cmds[0] = in.optionalCommand(p.Cmds[0])
	}
}

// tolerant are the functions that may be given a missing field.
var tolerant = map[string]bool{"default": true, "has": true, "and": true, "or": true, "not": true}

func (in *instrumenter) pipe(p *parse.PipeNode) {
	for i, c := range p.Cmds {
		id, _ := c.Args[0].(*parse.IdentifierNode)
		for j, a := range c.Args {
			switch a := a.(type) {
			case *parse.PipeNode:
				in.pipe(a)
			case *parse.ChainNode:
				if inner, ok := a.Node.(*parse.PipeNode); ok {
					in.pipe(inner)
				}
			}
			if j > 0 && id != nil && tolerant[id.Ident] {
				c.Args[j] = in.optional(a)
			}
		}
		if i == 0 && len(c.Args) == 1 && laterTolerant(p.Cmds[1:]) {
			p.Cmds[0] = in.optionalCommand(c)
		}
	}
}

func laterTolerant(cmds []*parse.CommandNode) bool {
	for _, c := range cmds {
		if id, ok := c.Args[0].(*parse.IdentifierNode); ok && (id.Ident == "default" || id.Ident == "has") {
			return true
		}
	}
	return false
}

// optional turns an argument that reads a field into a call that gives nil
// when it is missing. Other nodes stay as they are.
func (in *instrumenter) optional(n parse.Node) parse.Node {
	if p, ok := n.(*parse.PipeNode); ok {
		// (.Traits.x) is as good as .Traits.x.
		if len(p.Cmds) == 1 && len(p.Cmds[0].Args) == 1 && len(p.Decl) == 0 {
			p.Cmds[0] = in.optionalCommand(p.Cmds[0])
		}
		return n
	}
	c := in.get(n)
	if c == nil {
		return n
	}
	a, ok := in.snippet(n, "{{(0)}}").(*parse.ActionNode)
	if !ok {
		return n
	}
	p := a.Pipe.Cmds[0].Args[0].(*parse.PipeNode)
	p.Cmds[0] = c
	return p
}

// optionalCommand is optional for a command of one word.
func (in *instrumenter) optionalCommand(c *parse.CommandNode) *parse.CommandNode {
	if get := in.get(c.Args[0]); get != nil {
		return get
	}
	if _, ok := c.Args[0].(*parse.PipeNode); ok {
		c.Args[0] = in.optional(c.Args[0])
	}
	return c
}

// get is the call that reads a field tolerantly; nil when n reads none.
func (in *instrumenter) get(n parse.Node) *parse.CommandNode {
	var base parse.Node
	var names []string
	switch n := n.(type) {
	case *parse.FieldNode:
		names = n.Ident
	case *parse.VariableNode:
		if len(n.Ident) < 2 {
			return nil
		}
		head := n.Copy().(*parse.VariableNode)
		head.Ident = head.Ident[:1]
		base, names = head, n.Ident[1:]
	case *parse.ChainNode:
		base, names = n.Node, n.Field
	default:
		return nil
	}
	args := []string{"."}
	for _, name := range names {
		args = append(args, strconv.Quote(name))
	}
	c := in.command(n, getFunc, args...)
	if base != nil && len(c.Args) > 1 {
		c.Args[1] = base
	}
	return c
}
