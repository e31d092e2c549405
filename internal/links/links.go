// Package links rewrites the links of a mail and nothing else of it.
package links

import (
	"strings"

	"golang.org/x/net/html"
)

// HTML gives the target of every link in src (the href of a and area) to f
// and puts what f returns in its place. What f returns unchanged keeps its
// bytes, and so does all that is no link: comments, scripts, other attributes.
func HTML(src string, f func(target string) string) string {
	z := html.NewTokenizer(strings.NewReader(src))
	var b strings.Builder
	done, at := 0, 0 // src[:done] is in b, at is the offset of the token
	for {
		kind := z.Next()
		if kind == html.ErrorToken {
			break
		}
		raw := z.Raw()
		if kind == html.StartTagToken || kind == html.SelfClosingTagToken {
			if from, to, ok := href(raw); ok {
				from, to = at+from, at+to
				target := decoded(z)
				if changed := f(target); changed != target {
					b.WriteString(src[done:from])
					b.WriteString(html.EscapeString(changed))
					done = to
				}
			}
		}
		at += len(raw)
	}
	if done == 0 {
		return src
	}
	b.WriteString(src[done:])
	return b.String()
}

// decoded is the first href of the present tag. The tokenizer decodes it, as
// entities mean another thing in attributes than in text: "?a=1&copy=2".
func decoded(z *html.Tokenizer) string {
	for _, more := z.TagName(); more; {
		var k, v []byte
		if k, v, more = z.TagAttr(); string(k) == "href" {
			return string(v)
		}
	}
	return ""
}

// href finds the value of the href of a tag <a ...> or <area ...>.
func href(tag []byte) (from, to int, ok bool) {
	i := 1
	for i < len(tag) && !space(tag[i]) && tag[i] != '/' && tag[i] != '>' {
		i++
	}
	if name := string(tag[1:i]); !strings.EqualFold(name, "a") && !strings.EqualFold(name, "area") {
		return 0, 0, false
	}
	for i < len(tag) {
		for i < len(tag) && (space(tag[i]) || tag[i] == '/') {
			i++
		}
		start := i
		for i < len(tag) && !space(tag[i]) && tag[i] != '=' && tag[i] != '>' && tag[i] != '/' || i == start && i < len(tag) && tag[i] == '=' {
			i++
		}
		name := string(tag[start:i])
		if i < len(tag) && tag[i] == '>' {
			return 0, 0, false
		}
		for i < len(tag) && space(tag[i]) {
			i++
		}
		if i >= len(tag) || tag[i] != '=' {
			continue
		}
		for i++; i < len(tag) && space(tag[i]); {
			i++
		}
		from, to, i = value(tag, i)
		if strings.EqualFold(name, "href") {
			return from, to, true
		}
	}
	return 0, 0, false
}

// value finds the attribute value that starts at i, and where to go on.
func value(tag []byte, i int) (from, to, next int) {
	if i < len(tag) && (tag[i] == '"' || tag[i] == '\'') {
		q := tag[i]
		from = i + 1
		for i = from; i < len(tag) && tag[i] != q; {
			i++
		}
		return from, i, min(i+1, len(tag))
	}
	from = i
	for i < len(tag) && !space(tag[i]) && tag[i] != '>' {
		i++
	}
	return from, i, i
}

func space(c byte) bool {
	return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f'
}

// Text does for plain text what [HTML] does for html: it takes for a link
// what starts with http:// or https://, up to white space, a quote or an angle
// bracket, without the punctuation of the sentence around it.
func Text(src string, f func(target string) string) string {
	var b strings.Builder
	done := 0
	for at := 0; at < len(src); {
		i := strings.Index(src[at:], "://")
		if i < 0 {
			break
		}
		i += at
		at = i + 3
		var from int
		switch {
		case i >= 5 && strings.EqualFold(src[i-5:i], "https"):
			from = i - 5
		case i >= 4 && strings.EqualFold(src[i-4:i], "http"):
			from = i - 4
		default:
			continue
		}
		if from < done || from > 0 && letter(src[from-1]) {
			continue
		}
		to := at
		for to < len(src) && src[to] > ' ' && !strings.ContainsRune("<>\"`", rune(src[to])) {
			to++
		}
		target := trimSentence(src[from:to])
		at = max(at, from+len(target))
		if changed := f(target); changed != target {
			b.WriteString(src[done:from])
			b.WriteString(changed)
			done = from + len(target)
		}
	}
	if done == 0 {
		return src
	}
	b.WriteString(src[done:])
	return b.String()
}

func letter(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

// trimSentence takes the punctuation off that ends a sentence, and a bracket
// that was opened before the link.
func trimSentence(s string) string {
	for s != "" {
		switch c := s[len(s)-1]; {
		case strings.IndexByte(".,;:!?'*_", c) >= 0:
		case c == ')' && strings.Count(s, "(") < strings.Count(s, ")"):
		case c == ']' && strings.Count(s, "[") < strings.Count(s, "]"):
		default:
			return s
		}
		s = s[:len(s)-1]
	}
	return s
}
