package fluxly

import (
	"html/template"
	"io"
	"sync"
)

// WriteHTML writes the report as one page that needs nothing else: no script,
// no font, no network. Everything that others published is escaped.
func (r *DomainReport) WriteHTML(w io.Writer) error {
	return domainPage().Execute(w, htmlReport{r, r.Text()})
}

type htmlReport struct {
	*DomainReport
	Plain string
}

// Verdict is the head line.
func (h htmlReport) Verdict() string {
	counts := map[DomainLevel]int{}
	for _, f := range h.Findings {
		counts[f.Level]++
	}
	return h.verdict(counts)
}

// Todo and Notes split the findings as the text report does.
func (h htmlReport) Todo() (out []DomainFinding) {
	for _, l := range []DomainLevel{DomainFail, DomainUnknown, DomainWarn} {
		for _, f := range h.Findings {
			if f.Level == l {
				out = append(out, f)
			}
		}
	}
	return out
}

func (h htmlReport) Notes() (out []DomainFinding) {
	for _, f := range h.Findings {
		if f.Level == DomainInfo {
			out = append(out, f)
		}
	}
	return out
}

var domainPage = sync.OnceValue(func() *template.Template {
	return template.Must(template.New("report").Funcs(template.FuncMap{
		"state": spfStateText, "lookups": lookupText, "printable": printable,
	}).Parse(domainPageText))
})

const domainPageText = `<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{{.Domain}}: domain check</title>
<style>
body{font:16px/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem;color:#1b1f24;background:#fff}
h1{font-size:1.5rem;margin-bottom:0}h2{font-size:1.15rem;margin-top:2rem}
table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.3rem .6rem .3rem 0;vertical-align:top;border-bottom:1px solid #e3e6ea}
code{font:14px/1.4 ui-monospace,monospace;overflow-wrap:anywhere}
.level{display:inline-block;min-width:4.5rem;text-align:center;border-radius:.25rem;padding:0 .4rem;color:#fff;background:#57606a}
.fail{background:#b42318}.warn{background:#9a6700}.unknown{background:#57606a}.info{background:#0550ae}.ok{background:#1a7f37}
.item{border-left:4px solid #d0d7de;padding:.1rem 0 .1rem 1rem;margin:1.2rem 0}.item p{margin:.3rem 0}
.item.fail{border-color:#b42318;background:none}.item.warn{border-color:#9a6700;background:none}.item.info{border-color:#0550ae;background:none}.item.unknown{border-color:#57606a;background:none}
.publish{background:#f6f8fa;padding:.5rem .8rem;margin:.5rem 0}
.small{color:#57606a;font-size:.85rem}
ul.tree,ul.tree ul{list-style:none;margin:0;padding-left:1.2rem;border-left:1px solid #d0d7de}ul.tree li{margin:.15rem 0}
.cost{display:inline-block;min-width:1.6rem;text-align:center;background:#eaeef2;border-radius:.8rem;font-size:.85rem}
@media (prefers-color-scheme:dark){body{background:#0d1117;color:#e6edf3}.publish{background:#161b22}.cost{background:#30363d}td,th{border-color:#30363d}.small{color:#9198a1}}
</style></head><body>
<h1>{{.Domain}}</h1>
<p>{{.Verdict}}<br><span class="small">checked {{.CheckedAt.Format "2006-01-02 15:04:05"}} UTC</span></p>
<table><thead><tr><th>Part</th><th>Level</th><th>Result</th></tr></thead><tbody>
{{range .Areas}}<tr><td>{{.Name}}</td><td><span class="level {{.Level}}">{{.Level}}</span></td><td>{{printable .Summary}}</td></tr>
{{end}}</tbody></table>
{{with .Todo}}<h2>What to do</h2>{{range .}}{{template "finding" .}}{{end}}{{end}}
{{with .Notes}}<h2>Good to know</h2>{{range .}}{{template "finding" .}}{{end}}{{end}}
{{with .DMARC.Next}}<h2>Next step for DMARC: p={{.Policy}}</h2><p>Take it when</p><ul>{{range .When}}<li>{{.}}</li>{{end}}</ul>{{template "record" .Publish}}{{end}}
{{with .SPF.Tree}}{{if .Record}}<h2>SPF look-ups: {{.Lookups}} of 10</h2><ul class="tree"><li><code>{{.Domain}}</code>{{template "terms" .}}</li></ul>{{end}}{{end}}
</body></html>
{{define "finding"}}<div class="item {{.Level}}"><p><span class="level {{.Level}}">{{.Level}}</span> <strong>{{printable .Summary}}</strong></p>
{{with .Why}}<p>{{.}}</p>{{end}}{{with .Fix}}<p>{{printable .}}</p>{{end}}
{{range .Found}}<p class="small">Found: <code>{{printable .}}</code></p>{{end}}
{{range .Publish}}{{template "record" .}}{{end}}
<p class="small">{{.Code}}{{with .RFC}}, {{.}}{{end}}</p></div>
{{end}}
{{define "record"}}<div class="publish"><div>Type: <code>{{.Type}}</code></div><div>Host: <code>{{.Name}}</code></div><div>Value: <code>{{printable .Value}}</code></div></div>{{end}}
{{define "terms"}}<ul>{{range .Terms}}<li><span class="cost">{{.Lookups}}</span> <code>{{printable .Text}}</code>{{if ne .State "ok"}} <span class="small">{{state .State}}</span>{{end}}{{with .Tree}}{{if .Terms}}{{template "terms" .}}{{end}}{{end}}</li>{{end}}</ul>{{end}}
`
