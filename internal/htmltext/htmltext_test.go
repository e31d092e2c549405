package htmltext

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

func TestConvert(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ src, want string }{
		"empty":             {"", ""},
		"nothing shown":     {"<p> \n </p><script>x</script>", ""},
		"white space":       {"  a \n\t b&nbsp; c\u00a0d  ", "a b c d\n"},
		"entities":          {"Fish &amp; Chips &lt;b&gt; &copy; &#8364; &#x41; &unknown;", "Fish & Chips <b> © € A &unknown;\n"},
		"paragraphs":        {"<p>one</p><p>two</p>\n\n\n<p>three", "one\n\ntwo\n\nthree\n"},
		"divs":              {"<div>one</div><div>two<div>three</div></div>four", "one\ntwo\nthree\nfour\n"},
		"line breaks":       {"a<br>b<br/>c<br><br><br><br>d", "a\nb\nc\n\nd\n"},
		"inline":            {"is <strong>Team</strong>, <em>not</em><b>!</b> H<sub>2</sub>O", "is Team, not! H2O\n"},
		"headings":          {"<h1>Title</h1>text<h2>More</h2>text", "Title\n\ntext\n\nMore\n\ntext\n"},
		"rule":              {"a<hr>b", "a\n\n--------------------\n\nb\n"},
		"list":              {"before<ul><li>one</li><li>two</ul>after", "before\n\n- one\n- two\n\nafter\n"},
		"numbered list":     {"<ol><li>one<li>two</ol>", "1. one\n2. two\n"},
		"list in a list":    {"<ul><li>a<ol><li>b</li><li>c</li></ol></li><li>d</li></ul>", "- a\n  1. b\n  2. c\n- d\n"},
		"item without list": {"<li>a</li>", "- a\n"},
		"table":             {"<table><tr><td>a</td><td>b</td></tr><tr><th>c</th><td>d</td></tr></table>e", "a b\nc d\n\ne\n"},
		"quote":             {"a<blockquote>b<br>c<p>d</p><blockquote>e</blockquote></blockquote>f", "a\n\n> b\n> c\n>\n> d\n>\n>> e\n\nf\n"},
		"pre":               {"<pre>a\n  b\n\nc</pre>d", "a\n  b\n\nc\n\nd\n"},
		"hidden": {
			`<div style="color:red; DISPLAY : none !important">x<div>y</div>z</div><p hidden>q</p><img hidden alt=x><span style="display:block">shown</span>`,
			"shown\n",
		},
		"head and comments": {"<html><head><title>t</title><style>p{}</style><meta charset=utf-8></head><body><!-- c --><!--[if mso]>m<![endif]-->b</body></html>", "b\n"},
		"raw text":          {"a<style>b</style><script>c < d</script><textarea>e</textarea><svg><text>f</text></svg>g", "ag\n"},
		"images":            {`<img src="x.png" alt="Logo"> text <img src="y.png"> <img alt="">`, "Logo text\n"},
		"invisible":         {"a\u200b\u00adb\u034f\ufeffc\x01d\x7f", "abcd\n"},

		"link":                  {`See <a href="https://x.test/a?b=1&amp;c=2">the page</a>, please.`, "See the page <https://x.test/a?b=1&c=2>, please.\n"},
		"link that is text":     {`<a href="https://x.test/">https://x.test/</a> <a href="mailto:a@x.test">a@x.test</a> <a href="tel:+44">+44</a>`, "https://x.test/ a@x.test +44\n"},
		"mail link":             {`<a href="mailto:a@x.test?subject=hi">write</a>`, "write <mailto:a@x.test?subject=hi>\n"},
		"link without text":     {`a <a href="https://x.test/"></a>b <a href="https://y.test/"><img src=x></a> c`, "a https://x.test/b https://y.test/ c\n"},
		"image as link":         {`<a href="https://x.test/"><img alt="Open it"></a>`, "Open it <https://x.test/>\n"},
		"block in a link":       {`<a href="https://x.test/"><div>Open</div></a><p>next</p>`, "Open <https://x.test/>\n\nnext\n"},
		"links that go nowhere": {`<a href="#top">up</a> <a name=x>here</a> <a href="JavaScript:x()">do</a> <a href="">e</a>`, "up here do e\n"},
		"link left open":        {`<a href="https://x.test/">a <a href="https://y.test/">b`, "a <https://x.test/> b <https://y.test/>\n"},
		"link with spaces":      {"a <a href=' https://x.test/\n'> b </a> c", "a b <https://x.test/> c\n"},
		"map":                   {`<map><area href="https://x.test/" alt="North"><area href="https://y.test/"></map>`, "North <https://x.test/>\nhttps://y.test/\n"},
		"button in a table":     {`<p>a</p><table><tr><td><a href="https://x.test/">Go</a></td></tr></table><p>b</p>`, "a\n\nGo <https://x.test/>\n\nb\n"},
		"literal":               {`<p>{{{ pm:unsubscribe }}}</p><a href="{{{ pm:unsubscribe }}}">Leave</a> now. <a href="{{{ pm:unsubscribe }}}">{{{ pm:unsubscribe }}}</a>`, "{{{ pm:unsubscribe }}}\n\nLeave: {{{ pm:unsubscribe }}} now. {{{ pm:unsubscribe }}}\n"},
		"broken":                {"<p>a</div></b><td>b</ul></blockquote></pre></a><", "a\nb\n\n<\n"},
		"unclosed hidden":       {"a<div hidden>b", "a\n"},
		"end without start":     {"</p>a</li>b", "a\nb\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(tc.want, Convert(tc.src)); diff != "" {
				t.Errorf("Convert(%q) (-want +got):\n%s", tc.src, diff)
			}
		})
	}
}

// Broken html does not blow up: the work stays in proportion to the input.
func TestConvertDeep(t *testing.T) {
	t.Parallel()
	const n = 20_000
	for _, tag := range []string{"div", "a href=x", "ul", "ol", "blockquote", "pre", "table", "div hidden"} {
		src := strings.Repeat("<"+tag+">", n) + "x"
		if got := Convert(src); len(got) > 20*len(src) {
			t.Errorf("%d nested %s: %d bytes", n, tag, len(got))
		}
	}
	// Each item is indented by its depth; the depth that shows is bounded.
	src := strings.Repeat("<ul><li>x", n)
	if got := Convert(src); len(got) > 20*len(src) {
		t.Errorf("%d nested items: %d bytes", n, len(got))
	}
	src = strings.Repeat("<blockquote>x", n)
	if got := Convert(src); len(got) > 20*len(src) {
		t.Errorf("%d nested quotes: %d bytes", n, len(got))
	}
}

// The text of anything is clean text, and a plain link beside it is in it.
func FuzzConvert(f *testing.F) {
	f.Add("<p>a</p><ul><li>b</ul><a href=x>c</a>")
	f.Add("<table><tr><td>a<td>b</table><pre>a\n b</pre><blockquote>q")
	f.Add("<div hidden><!--[if mso]><style></div>&amp;\x00\xff<a href='")
	f.Fuzz(func(t *testing.T, src string) {
		got := Convert(src)
		if !utf8.ValidString(got) {
			t.Errorf("not UTF-8: %q", got)
		}
		if strings.ContainsFunc(got, func(r rune) bool { return r != '\n' && unicode.IsControl(r) }) {
			t.Errorf("control characters: %q", got)
		}
		if strings.Contains(got, "\n\n\n") || strings.HasPrefix(got, "\n") || got != "" && !strings.HasSuffix(got, "\n") {
			t.Errorf("loose lines: %q", got)
		}
		const link = `<p>Read <a href="https://x.test/?a=1&amp;b=2">on</a></p>`
		if with := Convert(link + src); !strings.HasPrefix(with, "Read on <https://x.test/?a=1&b=2>") {
			t.Errorf("the link is lost: %q", with)
		}
	})
}
