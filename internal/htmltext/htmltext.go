// Package htmltext turns the html of a mail into the text that stands beside
// it: what a reader sees, in order, with the target of every link written out.
package htmltext

import (
	"bytes"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/html"
	"golang.org/x/net/html/atom"
)

// Convert returns the text of an html document or fragment.
//
// Blocks are parted by empty lines, rows of tables and items of lists by line
// ends; a link becomes "text <target>"; an image becomes its alt text. Scripts,
// styles, comments, the head and elements that are hidden by their own
// attributes (hidden, display:none) are left out with all that is in them.
// Lines are not wrapped. Convert never fails: broken html gives the text that
// a tokenizer finds in it.
func Convert(src string) string {
	c := converter{out: make([]byte, 0, len(src)/2)}
	z := html.NewTokenizer(strings.NewReader(src))
	for {
		switch z.Next() {
		case html.ErrorToken:
			c.closeLink()
			return finish(c.out)
		case html.TextToken:
			if c.skip == "" {
				c.text(z.Text())
			}
		case html.StartTagToken:
			c.start(z, false)
		case html.SelfClosingTagToken:
			c.start(z, true)
		case html.EndTagToken:
			name, _ := z.TagName()
			c.end(string(name))
		}
	}
}

// finish takes away what would show as damage at the ends.
func finish(out []byte) string {
	out = bytes.Trim(out, "\n ")
	if len(out) == 0 {
		return ""
	}
	return string(append(out, '\n'))
}

type converter struct {
	out []byte

	// breaks is how many line ends are due before the next text, space
	// whether a blank is.
	breaks int
	space  bool
	pre    int
	// quote is the depth of blockquotes, lastQuote that of the last text.
	quote, lastQuote int

	// skip is the element whose content is left out, nested how many of its
	// name are open inside.
	skip   string
	nested int

	lists []list

	inLink    bool
	href      string
	linkStart int
}

// list is an open ul or ol; count is the number of the last item, -1 for ul.
type list struct{ count int }

// gap asks for n line ends before the next text.
func (c *converter) gap(n int) {
	if n == 0 {
		return
	}
	c.breaks = max(c.breaks, n)
	c.space = false
}

// text writes text as a browser would: runs of white space are one blank.
func (c *converter) text(s []byte) {
	for i := 0; i < len(s); {
		if b := s[i]; b > ' ' && b < utf8.RuneSelf-1 {
			// Most of a mail: a run of visible ASCII.
			n := i + 1
			for n < len(s) && s[n] > ' ' && s[n] < utf8.RuneSelf-1 {
				n++
			}
			c.flush()
			c.out = append(c.out, s[i:n]...)
			i = n
			continue
		}
		r, size := utf8.DecodeRune(s[i:])
		i += size
		switch {
		case r == '\n' && c.pre > 0:
			c.breaks++
		case r == ' ' && c.pre > 0:
			c.write(" ")
		case r == ' ', r == '\n', r == '\t', r == '\r', r == '\f', r == '\u00a0', r == '\u2028', r == '\u2029':
			c.space = true
		case r == '\u200b', r == '\ufeff', r == '\u00ad', r == '\u034f', r == utf8.RuneError, unicode.IsControl(r):
			// Invisible: soft hyphens, and the fillers that keep the text after
			// a preheader out of the inbox list.
		default:
			c.flush()
			c.out = utf8.AppendRune(c.out, r)
		}
	}
}

// write puts s after the line ends and the blank that are due.
func (c *converter) write(s string) {
	c.flush()
	c.out = append(c.out, s...)
}

func (c *converter) flush() {
	switch {
	case c.breaks == 0 && !c.space && len(c.out) > 0:
		return
	case len(c.out) == 0:
		c.prefix()
	case c.breaks > 0:
		if c.breaks > 1 {
			c.out = append(c.out, '\n')
			c.out = append(c.out, marks(min(c.quote, c.lastQuote))...)
		}
		c.out = append(c.out, '\n')
		c.prefix()
	default:
		c.out = append(c.out, ' ')
	}
	c.breaks, c.space = 0, false
	c.lastQuote = c.quote
}

// maxShownDepth bounds the indent of nested lists and the marks of nested
// quotes.
const maxShownDepth = 8

// marks are the signs before a quoted line.
func marks(depth int) string { return strings.Repeat(">", min(depth, maxShownDepth)) }

// prefix begins a line inside blockquotes.
func (c *converter) prefix() {
	if c.quote > 0 {
		c.out = append(c.out, marks(c.quote)+" "...)
	}
}

func (c *converter) start(z *html.Tokenizer, selfClosing bool) {
	nameBytes, more := z.TagName()
	tag := atom.Lookup(nameBytes)
	name := tag.String()
	if tag == 0 {
		name = string(nameBytes)
	}
	if c.skip != "" {
		if name == c.skip && !selfClosing {
			c.nested++
		}
		return
	}
	var href, alt string
	hidden := false
	for more {
		var k, v []byte
		k, v, more = z.TagAttr()
		switch string(k) {
		case "href":
			href = cleanHref(string(v))
		case "alt":
			alt = string(v)
		case "hidden":
			hidden = true
		case "style":
			hidden = hidden || displayNone(string(v))
		}
	}
	switch tag {
	case atom.Head, atom.Style, atom.Script, atom.Title, atom.Template, atom.Textarea, atom.Iframe, atom.Object, atom.Svg:
		hidden = true
	}
	if hidden && !selfClosing && !void(tag) {
		c.skip = name
		return
	}
	if hidden {
		return
	}
	c.open(tag, href, alt)
}

func (c *converter) open(tag atom.Atom, href, alt string) {
	switch tag {
	case atom.Br:
		c.breaks++
		c.space = false
	case atom.Hr:
		c.gap(2)
		c.write(strings.Repeat("-", 20))
		c.gap(2)
	case atom.Img:
		c.text([]byte(alt))
	case atom.A:
		c.closeLink()
		c.inLink, c.href = true, href
		c.linkStart = len(c.out)
	case atom.Area:
		c.closeLink()
		c.inLink, c.href, c.linkStart = true, href, len(c.out)
		c.gap(1)
		c.text([]byte(alt))
		c.closeLink()
	case atom.Td, atom.Th:
		c.space = true
	case atom.Ul:
		c.openList(-1)
	case atom.Ol:
		c.openList(0)
	case atom.Li:
		c.item()
	case atom.Blockquote:
		c.gap(2)
		c.quote++
	case atom.Pre:
		c.gap(2)
		c.pre++
	default:
		c.gap(blockGap(tag))
	}
}

func (c *converter) openList(count int) {
	if len(c.lists) == 0 {
		c.gap(2)
	} else {
		c.gap(1)
	}
	c.lists = append(c.lists, list{count})
}

func (c *converter) item() {
	c.gap(1)
	if len(c.lists) == 0 {
		c.write("- ")
		return
	}
	l := &c.lists[len(c.lists)-1]
	indent := strings.Repeat("  ", min(len(c.lists), maxShownDepth)-1)
	if l.count < 0 {
		c.write(indent + "- ")
		return
	}
	l.count++
	c.write(indent + strconv.Itoa(l.count) + ". ")
}

func (c *converter) end(name string) {
	if c.skip != "" {
		switch {
		case name == c.skip && c.nested == 0:
			c.skip = ""
		case name == c.skip:
			c.nested--
		}
		return
	}
	switch tag := atom.Lookup([]byte(name)); tag {
	case atom.A:
		c.closeLink()
	case atom.Td, atom.Th:
		c.space = true
	case atom.Ul, atom.Ol:
		if len(c.lists) > 0 {
			c.lists = c.lists[:len(c.lists)-1]
		}
		if len(c.lists) == 0 {
			c.gap(2)
		} else {
			c.gap(1)
		}
	case atom.Blockquote:
		c.gap(2)
		c.quote = max(c.quote-1, 0)
	case atom.Pre:
		c.gap(2)
		c.pre = max(c.pre-1, 0)
	default:
		c.gap(blockGap(tag))
	}
}

// closeLink writes the target of the open link after its text, unless the
// text is the target already.
func (c *converter) closeLink() {
	if !c.inLink {
		return
	}
	c.inLink = false
	if c.href == "" {
		return
	}
	text := bytes.TrimSpace(c.out[c.linkStart:])
	bare := strings.TrimPrefix(strings.TrimPrefix(c.href, "mailto:"), "tel:")
	if string(text) == c.href || string(text) == bare {
		return
	}
	// What is due after the link stays due after its target.
	breaks, space := c.breaks, c.space
	switch {
	case len(text) == 0:
		c.write(c.href)
		return
	case strings.HasPrefix(c.href, "{{{"):
		// Postmark puts the address in place of its literal: nothing may
		// stand close to it.
		c.breaks, c.space = 0, false
		c.write(": " + c.href)
	default:
		c.breaks, c.space = 0, true
		c.write("<" + c.href + ">")
	}
	c.breaks, c.space = breaks, space
}

// cleanHref drops targets that lead nowhere outside of the html.
func cleanHref(href string) string {
	href = strings.TrimSpace(strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return -1
		}
		return r
	}, href))
	if strings.HasPrefix(href, "#") || len(href) >= 11 && strings.EqualFold(href[:11], "javascript:") {
		return ""
	}
	return href
}

// displayNone reads a style attribute.
func displayNone(style string) bool {
	for decl := range strings.SplitSeq(style, ";") {
		k, v, _ := strings.Cut(decl, ":")
		v, _, _ = strings.Cut(v, "!")
		if strings.EqualFold(strings.TrimSpace(k), "display") && strings.EqualFold(strings.TrimSpace(v), "none") {
			return true
		}
	}
	return false
}

func void(tag atom.Atom) bool {
	switch tag {
	case atom.Area, atom.Base, atom.Br, atom.Col, atom.Embed, atom.Hr, atom.Img, atom.Input, atom.Link, atom.Meta,
		atom.Source, atom.Track, atom.Wbr:
		return true
	}
	return false
}

// blockGap is how many line ends part an element from what is around it.
func blockGap(tag atom.Atom) int {
	switch tag {
	case atom.P, atom.H1, atom.H2, atom.H3, atom.H4, atom.H5, atom.H6, atom.Table, atom.Dl, atom.Figure, atom.Form,
		atom.Section, atom.Article, atom.Header, atom.Footer, atom.Main, atom.Nav, atom.Aside, atom.Fieldset:
		return 2
	case atom.Div, atom.Tr, atom.Li, atom.Dt, atom.Dd, atom.Address, atom.Center, atom.Figcaption, atom.Caption, atom.Option,
		atom.Body, atom.Html, atom.Tbody, atom.Thead, atom.Tfoot:
		return 1
	}
	return 0
}
