// Package tmpl makes Go templates fit for mail: it parses them with
// Postmark's literals kept, checks every field, function and call against Go
// types before anything runs, and prepares the trees so that execution is
// bounded and prints plain values only.
package tmpl

import (
	"bytes"
	"regexp"
	"strconv"
	"strings"
	"text/template/parse"
	"unicode/utf8"
)

// Problem is one mistake in a template.
type Problem struct {
	File   string
	Line   int
	Reason string
}

// literalRE finds Postmark's literals, such as {{{ pm:unsubscribe }}}. To the
// template lexer they would be an action.
var literalRE = regexp.MustCompile(`\{\{\{[ \t]*(pm:[A-Za-z0-9_.:-]+)[ \t]*\}\}\}`)

// mark stands before and after the name of a literal while the source is
// parsed. No source may hold a NUL, so it cannot be mistaken.
const mark = "\x00"

var markedRE = regexp.MustCompile(mark + "(pm:[A-Za-z0-9_.:-]+)" + mark)

// restore puts the literals back, in the one form that Postmark documents.
func restore(s string) string {
	if !strings.Contains(s, mark) {
		return s
	}
	return markedRE.ReplaceAllString(s, "{{{ $1 }}}")
}

// Literal is one of Postmark's literals, where it stands.
type Literal struct {
	// Name is what stands between the braces, such as "pm:unsubscribe".
	Name string
	File string
	Line int
}

// Literals returns the literals in a parsed tree that [Instrument] has not
// prepared yet, in order.
func Literals(t *parse.Tree) []Literal {
	var found []Literal
	if t == nil || t.Root == nil {
		return nil
	}
	each(t.Root, func(n parse.Node) {
		text, ok := n.(*parse.TextNode)
		if !ok {
			return
		}
		for _, m := range markedRE.FindAllSubmatchIndex(text.Text, -1) {
			file, line := place(t, text)
			line += bytes.Count(text.Text[:m[0]], []byte("\n"))
			found = append(found, Literal{Name: string(text.Text[m[2]:m[3]]), File: file, Line: line})
		}
	})
	return found
}

// Parse parses the templates in src: the main one under the name file, and
// those that it defines. Its first line counts as line firstLine of the file.
// Functions are not looked up here; that is [Check]'s duty. The trees hold
// marked literals until [Instrument] prepares them.
func Parse(file, src string, firstLine int) (map[string]*parse.Tree, *Problem) {
	if i := strings.Index(src, mark); i >= 0 {
		return nil, &Problem{file, firstLine + strings.Count(src[:i], "\n"), "holds a NUL byte; save it as plain UTF-8 text"}
	}
	if !utf8.ValidString(src) {
		line := firstLine
		for l := range strings.Lines(src) {
			if !utf8.ValidString(l) {
				break
			}
			line++
		}
		return nil, &Problem{file, line, "is not valid UTF-8; save it as UTF-8"}
	}
	text := literalRE.ReplaceAllString(src, mark+"$1"+mark)
	if firstLine > 1 {
		// A comment that trims what follows gives every position its line in
		// the file and leaves nothing in the output.
		text = "{{/*" + strings.Repeat("\n", firstLine-1) + "*/ -}}" + text
	}
	trees := map[string]*parse.Tree{}
	t := parse.New(file)
	t.Mode = parse.SkipFuncCheck
	if _, err := t.Parse(text, "", "", trees); err != nil {
		line, reason := splitParseError(err, firstLine)
		if strings.Contains(reason, `unexpected "{" in command`) {
			reason = "three braces are only for Postmark's literals, such as {{{ pm:unsubscribe }}}; write {{ ... }}"
		}
		return nil, &Problem{file, line, reason}
	}
	return trees, nil
}

var parseErrorRE = regexp.MustCompile(`^(?:html/)?template: ?(.*?):(\d+)(?::\d+)?: (?s:(.*))$`)

// splitParseError takes the line and the bare reason out of an error of the
// template packages.
func splitParseError(err error, line int) (int, string) {
	m := parseErrorRE.FindStringSubmatch(err.Error())
	if m == nil {
		return line, err.Error()
	}
	if n, convErr := strconv.Atoi(m[2]); convErr == nil {
		line = n
	}
	return line, restore(m[3])
}

// place returns the line on which a node stands.
func place(t *parse.Tree, n parse.Node) (file string, line int) {
	loc, _ := t.ErrorContext(n)
	// loc is name:line:column; the name may hold colons.
	i := strings.LastIndexByte(loc, ':')
	if i < 0 {
		return t.ParseName, 0
	}
	j := strings.LastIndexByte(loc[:i], ':')
	line, _ = strconv.Atoi(loc[j+1 : i])
	return t.ParseName, line
}
