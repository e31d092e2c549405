package fluxly

import (
	"html/template"
	"io"
	"slices"
	"sync"
)

// WriteHTML writes the report as one page that needs nothing else: no script,
// no font, no network. Everything that others published is escaped, and the
// page's own policy forbids scripts and loads besides.
func (r *DomainReport) WriteHTML(w io.Writer) error {
	return domainPage().Execute(w, htmlReport{r})
}

type htmlReport struct{ *DomainReport }

// Class colours the head line.
func (h htmlReport) Class() DomainLevel {
	switch {
	case h.Ready && h.Level == DomainFail:
		return DomainWarn
	case h.Ready:
		return DomainOK
	case h.Level == DomainUnknown:
		return DomainUnknown
	}
	return DomainFail
}

func (h htmlReport) Verdict() string { return h.verdict() }
func (h htmlReport) Where() string   { return h.where() }

func (h htmlReport) Words() [][2]string { return domainWords }

// htmlFinding is one item of a list.
type htmlFinding struct {
	N int
	DomainFinding
	Records []htmlRecord
}

// Rest is what was found and does not stand among the records to replace.
func (f htmlFinding) Rest() []string {
	return slices.DeleteFunc(slices.Clone(f.Found), func(v string) bool {
		return slices.ContainsFunc(f.Records, func(p htmlRecord) bool {
			return p.Same == 0 && slices.ContainsFunc(p.Replaces, func(o ReplacedRecord) bool { return clip(o.Value, findingBytes) == v })
		})
	})
}

type htmlRecord struct {
	DomainRecord
	Domain   string
	Optional bool
	// Same is the item that shows this record already; 0 when none does.
	Same int
}

func (p htmlRecord) Title() string { return recordTitle(p.DomainRecord, p.Optional) }
func (p htmlRecord) Panel() string { return panelHost(p.Domain, p.Name) }

// Entered is the value as it is to be copied.
func (p htmlRecord) Entered() string { return p.entered() }

// Todo and Notes split the findings as the text report does, with one count.
func (h htmlReport) Todo() []htmlFinding {
	return slices.DeleteFunc(h.items(), func(f htmlFinding) bool { return f.Level == DomainInfo })
}

func (h htmlReport) Notes() []htmlFinding {
	return slices.DeleteFunc(h.items(), func(f htmlFinding) bool { return f.Level != DomainInfo })
}

func (h htmlReport) items() (out []htmlFinding) {
	shown := map[string]int{}
	for _, l := range []DomainLevel{DomainFail, DomainUnknown, DomainWarn, DomainInfo} {
		for _, f := range h.Findings {
			if f.Level != l {
				continue
			}
			item := htmlFinding{N: len(out) + 1, DomainFinding: f}
			for _, p := range f.Publish {
				line := p.zoneLine()
				item.Records = append(item.Records, htmlRecord{p, h.Domain, f.Optional, shown[line]})
				if shown[line] == 0 {
					shown[line] = item.N
				}
			}
			out = append(out, item)
		}
	}
	return out
}

// Step is the record of the next step for DMARC.
func (h htmlReport) Step() htmlRecord { return htmlRecord{h.DMARC.Next.Publish, h.Domain, false, 0} }

var domainPage = sync.OnceValue(func() *template.Template {
	return template.Must(template.New("report").Funcs(template.FuncMap{
		"state": spfStateText, "lookups": lookupText, "omitted": omittedText, "printable": printable, "label": levelWord,
	}).Parse(domainPageText))
})

const domainPageText = `<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{{.Domain}}: domain check</title>
<style>
body{font:16px/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem;color:#1b1f24;background:#fff;overflow-wrap:anywhere}
h1{font-size:1.5rem;margin:0 0 .5rem}h2{font-size:1.2rem;margin:2.2rem 0 .6rem}p{margin:.4rem 0}
table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.35rem .7rem .35rem 0;vertical-align:top;border-bottom:1px solid #d8dde3}
.areas td:first-child,.areas td:nth-child(2){white-space:nowrap}
code{font:14px/1.45 ui-monospace,monospace}
.level{display:inline-block;min-width:5.6rem;text-align:center;border-radius:.25rem;padding:0 .4rem;color:#fff;background:#57606a;font-size:.9rem;font-weight:400}
.level.fail{background:#b42318}.level.warn{background:#8a5a00}.level.info{background:#0550ae}.level.ok{background:#1a7f37}
.verdict{border-left:6px solid #57606a;padding:.4rem .9rem;background:#f3f5f7;font-size:1.1rem}
.verdict.fail{border-color:#b42318}.verdict.warn{border-color:#8a5a00}.verdict.ok{border-color:#1a7f37}
.item{border-left:4px solid #57606a;padding:.1rem 0 .1rem 1rem;margin:1.4rem 0}
.item.fail{border-color:#b42318}.item.warn{border-color:#8a5a00}.item.info{border-color:#0550ae}
.item h3{font-size:1rem;margin:.2rem 0 .5rem}
.publish{background:#f3f5f7;padding:.6rem .9rem;margin:.7rem 0;border-radius:.3rem}.publish p{margin:0 0 .3rem}.publish code{white-space:pre-wrap}
.publish table td{border:0;padding:.1rem .7rem .1rem 0}.publish td:first-child{width:4rem}
.small{color:#57606a;font-size:.85rem}
ul.tree,ul.tree ul{list-style:none;margin:0;padding-left:1.1rem}ul.tree{padding-left:0}
ul.tree ul li{position:relative;margin:.2rem 0;padding-left:.2rem}
ul.tree ul li:before{content:"";position:absolute;left:-.8rem;top:-.2rem;bottom:-.2rem;border-left:1px solid #b6bec7}
ul.tree ul li:last-child:before{bottom:auto;height:1rem}
ul.tree ul li:after{content:"";position:absolute;left:-.8rem;top:.8rem;width:.8rem;border-top:1px solid #b6bec7}
.cost{display:inline-block;min-width:1.5rem;text-align:center;background:#dde3ea;border-radius:.8rem;font-size:.85rem}
.cost.zero{background:none;color:#57606a}.cost.over{background:#b42318;color:#fff}
dt{font-weight:600}dd{margin:0 0 .5rem}
@media (max-width:34rem){.areas thead{display:none}.areas td{display:block;border:0;padding:.1rem 0}.areas td:last-child{border-bottom:1px solid #d8dde3;padding-bottom:.6rem;margin-bottom:.5rem}}
@media (prefers-color-scheme:dark){body{background:#0d1117;color:#e6edf3}.publish,.verdict{background:#161b22}.cost{background:#30363d}td,th,.areas td:last-child{border-color:#30363d}.small,.cost.zero{color:#9198a1}}
@media print{.item,.publish{break-inside:avoid}}
</style></head><body>
<h1>{{.Domain}}</h1>
<p class="verdict {{.Class}}">{{.Verdict}}</p>
<p class="small">Checked {{.CheckedAt.Format "2006-01-02 15:04:05"}} UTC</p>
<table class="areas"><thead><tr><th>Part</th><th>Result</th><th>What was found</th></tr></thead><tbody>
{{range .Areas}}<tr><td>{{.Name}}</td><td><span class="level {{.Level}}">{{label .Level}}</span></td><td>{{printable .Summary}}</td></tr>
{{end}}</tbody></table>
{{with .Todo}}<h2>What to do</h2>{{with $.Where}}<p>{{.}}</p>{{end}}{{range .}}{{template "finding" .}}{{end}}{{end}}
{{with .Notes}}<h2>Good to know</h2>{{range .}}{{template "finding" .}}{{end}}{{end}}
{{with .DMARC.Next}}<h2>Next step for DMARC: {{.Change}}</h2><p>Not today. Take it when</p><ul>{{range .When}}<li>{{.}}</li>{{end}}</ul>{{template "record" $.Step}}{{end}}
{{with .SPF.Tree}}{{if .Record}}<h2>SPF: {{if not $.SPF.Complete}}at least {{end}}{{.Lookups}} of 10 look-ups</h2>
<p>The SPF record and all that it pulls in. A receiver may look up ten names for one mail; the number before each part is what it takes, with everything below it.</p>
<ul class="tree"><li><span class="cost{{if gt .Lookups 10}} over{{end}}">{{.Lookups}}</span> <code>{{printable .Domain}}</code>{{template "terms" .}}</li></ul>{{end}}{{end}}
{{with .SPF.Addresses}}<h2>SPF for addresses</h2><table><thead><tr><th>Address</th><th>Result</th><th>Why</th></tr></thead><tbody>{{range .}}<tr><td>{{.Address}}</td><td>{{.Result}}</td><td>{{printable .Reason}}</td></tr>{{end}}</tbody></table>{{end}}
<h2>The words</h2><dl>{{range .Words}}<dt>{{index . 0}}</dt><dd>{{index . 1}}</dd>{{end}}</dl>
</body></html>
{{define "finding"}}<div class="item {{.Level}}"><h3>{{.N}}. <span class="level {{.Level}}">{{label .Level}}</span> {{printable .Summary}}</h3>
{{with .Fix}}<p><b>Do:</b> {{printable .}}</p>{{end}}{{with .Why}}<p><b>Why:</b> {{.}}</p>{{end}}
{{range .Records}}{{template "record" .}}{{end}}
{{with .Rest}}<p class="small">Found{{with $.Name}} at {{printable .}}{{end}}:{{range .}}<br><code>{{printable .}}</code>{{end}}</p>{{end}}
<p class="small">{{.Code}}{{with .RFC}}, {{.}}{{end}}</p></div>
{{end}}
{{define "record"}}{{if .Same}}<p>The record is that of {{.Same}}.</p>{{else}}<div class="publish"><p><b>{{.Title}}</b></p><table><tr><td>Type</td><td><code>{{.Type}}</code></td></tr><tr><td>Host</td><td><code>{{.Name}}</code> <span class="small">{{.Panel}}</span></td></tr><tr><td>Value</td><td><code>{{.Entered}}</code></td></tr>{{$type := .Type}}{{range .Replaces}}<tr><td>{{if eq .Type $type}}Old{{else}}Delete{{end}}</td><td><code>{{if ne .Type $type}}{{.Type}} {{end}}{{printable .Value}}</code></td></tr>{{end}}</table></div>{{end}}{{end}}
{{define "terms"}}<ul>{{range .Terms}}<li><span class="cost{{if eq .Lookups 0}} zero{{end}}">{{.Lookups}}</span> <code>{{printable .Text}}</code>{{if ne .State "ok"}} <span class="small">{{state .State}}</span>{{end}}{{with .Tree}}{{if .Terms}}{{template "terms" .}}{{end}}{{end}}</li>{{end}}{{with .Omitted}}<li class="small">{{omitted .}}</li>{{end}}</ul>{{end}}
`
