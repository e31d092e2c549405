package fluxly

import (
	"context"
	"slices"
	"strings"
	"sync"

	"github.com/getfluxly/fluxly/internal/dnsmsg"
)

// walkNames are the names of a tree walk (RFC 9989 section 4.10): the domain,
// then upwards label by label, at most eight in all; a longer name jumps to
// its last seven labels.
func walkNames(domain string) []string {
	labels := strings.Split(domain, ".")
	out := []string{domain}
	from := 1
	if len(labels) > 8 {
		from = len(labels) - 7
	}
	for ; from < len(labels); from++ {
		out = append(out, strings.Join(labels[from:], "."))
	}
	return out
}

// dmarcNode is what stands at _dmarc of one name of a walk.
type dmarcNode struct {
	name  string
	reply dnsReply
	texts []string // the DMARC records
	rec   *dmarcRecord
}

func (k *checker) walk(ctx context.Context, domain string) []dmarcNode {
	names := walkNames(domain)
	nodes := make([]dmarcNode, len(names))
	var wg sync.WaitGroup
	for i, n := range names {
		wg.Go(func() {
			nodes[i] = dmarcNode{name: n, reply: k.look(ctx, "_dmarc."+n, "TXT")}
			for _, t := range nodes[i].reply.texts() {
				if isDMARC(t) {
					nodes[i].texts = append(nodes[i].texts, t)
				}
			}
			if len(nodes[i].texts) == 1 {
				if r := parseDMARC(nodes[i].texts[0]); r.usable {
					nodes[i].rec = r
				}
			}
		})
	}
	wg.Wait()
	return nodes
}

// organizational finds the organisational domain of a walk. known is false
// when a name that matters could not be asked.
func organizational(nodes []dmarcNode) (domain string, known bool) {
	known = true
	best := nodes[0].name
	for i, n := range nodes {
		if n.reply.state == dnsFailed {
			known = false
		}
		if n.rec == nil {
			continue
		}
		if n.rec.psd == "n" || n.rec.psd == "y" && i == 0 {
			return n.name, known
		}
		if n.rec.psd == "y" {
			// One label below, which may be a name that the walk jumped over.
			start := strings.Split(nodes[0].name, ".")
			labels := strings.Count(n.name, ".") + 2
			return strings.Join(start[max(0, len(start)-labels):], "."), known
		}
		best = n.name
	}
	return best, known
}

// dmarcApart says of a name that mail is signed for, or bounces to, whether it is
// an organisation of its own.
type dmarcApart struct {
	is      bool
	unasked *dnsReply // why that is not known
}

// separate walks up from the names of the signature and of the Return-Path (RFC
// 9989 section 4.10.2) until it meets the walk from the domain. A psd=n or psd=y
// on the way makes them an organisation of their own, and a psd=y at the domain
// itself does so to each name below it. The usual Return-Path is an alias with
// nothing below it and is not asked about.
func (k *checker) separate(ctx context.Context, nodes []dmarcNode) map[string]dmarcApart {
	names := []string{k.ReturnPath}
	targets, _ := k.dkimTargets()
	for _, t := range targets {
		names = append(names, t.domain)
	}
	walked := func(name string) bool {
		return slices.ContainsFunc(nodes, func(n dmarcNode) bool { return n.name == name })
	}
	out := map[string]dmarcApart{}
	registry := nodes[0].rec != nil && nodes[0].rec.psd == "y"
	for _, name := range names {
		if registry && strings.HasSuffix(name, "."+k.domain) {
			out[name] = dmarcApart{is: true}
			continue
		}
		if _, done := out[name]; done || name == "pm-bounces."+k.domain || walked(name) || !k.nearby(dnsmsg.Canonical(name)) {
			continue
		}
		out[name] = dmarcApart{}
		for _, up := range walkNames(name) {
			if walked(up) {
				break
			}
			r := k.ask.ask(ctx, "_dmarc."+up, "TXT")
			if r.state == dnsFailed {
				out[name] = dmarcApart{unasked: &r}
				break
			}
			texts := slices.DeleteFunc(r.texts(), func(s string) bool { return !isDMARC(s) })
			if len(texts) != 1 {
				continue
			}
			if d := parseDMARC(texts[0]); d.usable && d.psd != "u" {
				out[name] = dmarcApart{is: true}
				break
			}
		}
	}
	return out
}

// policyNode: the domain's own record, else that of the organisational
// domain, else that of a public suffix (RFC 9989 section 4.10.1).
func policyNode(nodes []dmarcNode, org string) *dmarcNode {
	if nodes[0].rec != nil {
		return &nodes[0]
	}
	var suffix *dmarcNode
	for i := range nodes {
		if nodes[i].rec == nil {
			continue
		}
		if nodes[i].name == org {
			return &nodes[i]
		}
		if nodes[i].rec.psd == "y" {
			suffix = &nodes[i]
		}
	}
	return suffix
}
