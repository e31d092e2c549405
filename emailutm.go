package fluxly

import (
	"net/url"
	"strconv"
	"strings"

	"github.com/getfluxly/fluxly/internal/links"
)

// UTM adds campaign parameters to the links of emails that lead to the
// program's own pages, so that web analytics can tell where a visit came from.
// The zero value adds none. Query and fragment of a link stay as they are, a
// parameter that it has already is kept, and links to other hosts and
// Postmark's unsubscribe link are left alone. An email is left out with
// "UTM: no" in its header.
type UTM struct {
	// Domains are the program's own, such as "acme.test": links to these hosts
	// and to their subdomains get the parameters. None means no link does.
	Domains []string
	// Source is utm_source; the default is "fluxly".
	Source string
	// Medium is utm_medium; the default is "email".
	Medium string
	// Campaign is utm_campaign; the default is the name of the automation.
	Campaign string
	// Content is utm_content; the default is the name of the email.
	Content string
}

// problems returns what is wrong with the domains.
func (u *UTM) problems() []Problem {
	var problems []Problem
	for _, d := range u.Domains {
		if d == "" || strings.Trim(strings.ToLower(d), "abcdefghijklmnopqrstuvwxyz0123456789-.") != "" || d[0] == '.' || d[len(d)-1] == '.' {
			problems = append(problems, Problem{Field: "email UTM domain " + strconv.Quote(clip(d, 80)), Reason: `is not a host name such as "acme.test"; write it without https:// and path, other letters in their xn-- form`})
		}
	}
	return problems
}

// apply adds the parameters to both bodies.
func (u *UTM) apply(html, text string, d *EmailData) (taggedHTML, taggedText string) {
	params := [][2]string{
		{"utm_source", u.Source}, {"utm_medium", u.Medium}, {"utm_campaign", u.Campaign}, {"utm_content", u.Content},
	}
	for i, def := range []string{"fluxly", "email", d.Run.Automation, d.Email} {
		if params[i][1] == "" {
			params[i][1] = def
		}
	}
	tag := func(target string) string { return u.tag(target, params) }
	return links.HTML(html, tag), links.Text(text, tag)
}

// tag adds parameters to one link of an own domain.
func (u *UTM) tag(target string, params [][2]string) string {
	if !u.own(target) {
		return target
	}
	base, fragment, hasFragment := strings.Cut(target, "#")
	path, query, _ := strings.Cut(base, "?")
	have := map[string]bool{}
	for p := range strings.SplitSeq(query, "&") {
		key, _, _ := strings.Cut(p, "=")
		have[strings.ToLower(key)] = true
	}
	var b strings.Builder
	b.WriteString(path)
	b.WriteByte('?')
	b.WriteString(query)
	for _, p := range params {
		if p[1] == "" || have[p[0]] {
			continue
		}
		if s := b.String(); s[len(s)-1] != '?' && s[len(s)-1] != '&' {
			b.WriteByte('&')
		}
		b.WriteString(p[0] + "=" + url.QueryEscape(p[1]))
	}
	if hasFragment {
		b.WriteString("#" + fragment)
	}
	if b.Len() == len(target)+1 { // only the question mark was added
		return target
	}
	return b.String()
}

// own tells whether a link leads to one of the domains.
func (u *UTM) own(target string) bool {
	scheme, rest, ok := strings.Cut(target, "://")
	if !ok || !strings.EqualFold(scheme, "https") && !strings.EqualFold(scheme, "http") || strings.Contains(target, "{{{") {
		return false
	}
	host := rest
	if i := strings.IndexAny(rest, "/?#\\"); i >= 0 {
		host = rest[:i]
	}
	if strings.ContainsAny(host, "@% ") {
		return false // a user before the host, or a host in disguise
	}
	host, _, _ = strings.Cut(host, ":")
	host = strings.ToLower(host)
	for _, d := range u.Domains {
		d = strings.ToLower(d)
		if rest, ok := strings.CutSuffix(host, d); ok && (rest == "" || strings.HasSuffix(rest, ".")) {
			return true
		}
	}
	return false
}
