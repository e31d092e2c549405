package fluxly

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/getfluxly/fluxly/internal/taglist"
)

// DMARCReport is the policy that receivers find for the domain (RFC 9989).
type DMARCReport struct {
	// State is "ok", "missing", "broken" or "unknown".
	State string `json:"state"`
	// Host is where the policy record stands; Inherited is true when that is
	// not the domain's own name.
	Host      string `json:"host,omitempty"`
	Inherited bool   `json:"inherited,omitempty"`
	Record    string `json:"record,omitempty"`
	// Organizational is the organisational domain that the tree walk found.
	Organizational string `json:"organizational,omitempty"`
	// Policy is the one that applies to mail from the domain, after sp, np
	// and t=y: "none", "quarantine" or "reject".
	Policy string `json:"policy,omitempty"`
	// DKIMMode and SPFMode are "relaxed" or "strict" (adkim, aspf).
	DKIMMode string `json:"dkim_mode,omitempty"`
	SPFMode  string `json:"spf_mode,omitempty"`
	// Reports are the addresses of rua.
	Reports []string `json:"reports,omitempty"`
	// Next is the next step towards p=reject; nil at the end of the way.
	Next *DMARCStep `json:"next,omitempty"`
	// Walk lists the names asked, in the order of the walk.
	Walk []string `json:"walk,omitempty"`
}

// DMARCStep is one step of the ratchet from p=none to p=reject.
type DMARCStep struct {
	// Policy to move to, and the record to publish then.
	Policy  string       `json:"policy"`
	Publish DomainRecord `json:"publish"`
	// When lists what must be true before.
	When []string `json:"when"`
}

type dmarcProblem struct{ code, text, fix string }

// dmarcRecord is one parsed record.
type dmarcRecord struct {
	text         string
	list         taglist.List
	p, sp, np    string // lower case; p is "none" where RFC 9989 says to take it so
	adkim, aspf  string // "r" or "s"
	psd          string // "y", "n" or "u"
	testing      bool
	rua, ruf     []string // addresses of mailto: URIs
	usable       bool     // a receiver applies it
	problems     []dmarcProblem
	pPos, pWidth int // where the value of p stands; width 0 when there is none
}

// isDMARC is the version test: "v" first, then exactly DMARC1 (RFC 9989
// section 4.7). No blank may stand before it.
func isDMARC(s string) bool {
	rest, ok := strings.CutPrefix(s, "v")
	if !ok {
		return false
	}
	rest, ok = strings.CutPrefix(strings.TrimLeft(rest, " \t"), "=")
	if !ok {
		return false
	}
	rest, ok = strings.CutPrefix(strings.TrimLeft(rest, " \t"), "DMARC1")
	if !ok {
		return false
	}
	rest = strings.TrimLeft(rest, " \t")
	return rest == "" || rest[0] == ';'
}

// nearDMARC says why a text that was meant as a DMARC record is not one.
func nearDMARC(s string) string {
	if isDMARC(s) {
		return ""
	}
	t := strings.TrimLeft(s, " \t\"'\\\u201c\u201d\u201e\u2018\u2019\u00ab\u00a0\ufeff")
	lower := strings.ToLower(t)
	switch {
	case isDMARC(t):
		if strings.TrimLeft(s, " \t") == t {
			return "a blank stands before v=DMARC1"
		}
		return "a quotation mark or another invisible character stands before v=DMARC1"
	case strings.HasPrefix(lower, "v=dmarc1"):
		return "the version must be written v=DMARC1, in capitals and followed by a semicolon"
	case strings.HasPrefix(lower, "v=dmarc") || strings.HasPrefix(lower, "dmarc1"):
		return "it must begin with v=DMARC1"
	case strings.Contains(lower, "v=dmarc1"):
		return "v=DMARC1 is not the first tag"
	case strings.HasPrefix(lower, "p=none") || strings.HasPrefix(lower, "p=quarantine") || strings.HasPrefix(lower, "p=reject"):
		return "v=DMARC1 is missing at the start"
	}
	return ""
}

var dmarcPolicies = []string{"none", "quarantine", "reject"}

// parseDMARC reads a record for which isDMARC holds.
func parseDMARC(text string) *dmarcRecord {
	d := &dmarcRecord{text: text, list: taglist.Parse(text, true), adkim: "r", aspf: "r", psd: "u", usable: true}
	bad := func(code, fix, format string, args ...any) {
		d.problems = append(d.problems, dmarcProblem{code, fmt.Sprintf(format, args...), fix})
	}
	for _, f := range d.list.Faults {
		switch f.Kind {
		case taglist.Empty:
			bad("dmarc_empty_tag", "Remove the second semicolon.", "The DMARC record has a stray semicolon at byte %d. Receivers tolerate it.", f.Pos)
		case taglist.Duplicate:
			d.usable = false
			bad("dmarc_duplicate_tag", "Keep one of them.", "In the DMARC record, %s.", f.Text)
		default:
			bad("dmarc_syntax", "Write the record as tag=value pairs with semicolons between them.", "The DMARC record cannot be read at byte %d: %s.", f.Pos, f.Text)
		}
	}
	for _, t := range d.list.Tags {
		d.tag(t, bad)
	}
	p, has := d.list.Get("p")
	if has {
		d.pPos, d.pWidth = p.ValuePos, len(p.Value)
		d.p = strings.ToLower(p.Value)
	}
	if !slices.Contains(dmarcPolicies, d.p) {
		what := "has no p= tag"
		if has {
			what = fmt.Sprintf("has an unknown policy p=%s", clip(p.Value, 20))
		}
		d.p = "none"
		if len(d.rua) > 0 {
			bad("dmarc_no_policy", "Add p=none, p=quarantine or p=reject right after v=DMARC1.", "The DMARC record %s; receivers take it as p=none.", what)
		} else {
			d.usable = false
			bad("dmarc_bad_policy", "Add p=none, p=quarantine or p=reject right after v=DMARC1.", "The DMARC record %s and no report address, so receivers ignore it.", what)
		}
	}
	return d
}

func (d *dmarcRecord) tag(t taglist.Tag, bad func(code, fix, format string, args ...any)) {
	v := strings.ToLower(t.Value)
	oneOf := func(into *string, values ...string) {
		if slices.Contains(values, v) {
			*into = v
			return
		}
		bad("dmarc_bad_value", "Use one of "+strings.Join(values, ", ")+".", "The tag %s of the DMARC record has the unknown value %q; receivers ignore it.", t.Key, clip(t.Value, 30))
	}
	switch t.Key {
	case "v", "p":
	case "sp":
		oneOf(&d.sp, dmarcPolicies...)
	case "np":
		oneOf(&d.np, dmarcPolicies...)
	case "adkim":
		oneOf(&d.adkim, "r", "s")
	case "aspf":
		oneOf(&d.aspf, "r", "s")
	case "psd":
		oneOf(&d.psd, "y", "n", "u")
	case "t":
		flag := "n"
		oneOf(&flag, "y", "n")
		d.testing = flag == "y"
	case "fo":
		for _, o := range strings.Split(v, ":") {
			if o = strings.TrimSpace(o); !slices.Contains([]string{"0", "1", "d", "s"}, o) {
				bad("dmarc_fo", "Use 0, 1, d or s, with colons between them; fo=1 is usual.", "The tag fo of the DMARC record has the unknown option %q.", clip(o, 20))
			}
		}
	case "rua":
		d.rua = uris(t, bad)
	case "ruf":
		d.ruf = uris(t, bad)
	case "pct", "rf", "ri":
		bad("dmarc_removed_tag", "Take it out; it changes nothing.", "The tag %s=%s is no longer part of DMARC and is ignored.", t.Key, clip(t.Value, 20))
	default:
		bad("dmarc_unknown_tag", "Take it out, or correct its name.", "The DMARC record has the unknown tag %q, which is ignored.", clip(t.Key, 30))
	}
}

// uris reads the addresses of rua or ruf.
func uris(t taglist.Tag, bad func(code, fix, format string, args ...any)) (out []string) {
	n := 0
	for _, u := range strings.Split(t.Value, ",") {
		u = strings.TrimSpace(u)
		if u == "" {
			continue
		}
		n++
		scheme, addr, ok := strings.Cut(u, ":")
		if !ok || !strings.EqualFold(scheme, "mailto") {
			bad("dmarc_report_uri", "Write it as mailto:you@example.com.", "The report address %q in %s is not a mailto: address; no reports go there.", clip(u, 60), t.Key)
			continue
		}
		if at, _, cut := strings.Cut(addr, "!"); cut {
			bad("dmarc_size_limit", "Take out everything from the exclamation mark on.", "The report address %q in %s carries a size limit, which is no longer part of DMARC.", clip(u, 60), t.Key)
			addr = at
		}
		if local, host, ok := strings.Cut(addr, "@"); !ok || local == "" || host == "" {
			bad("dmarc_report_uri", "Write it as mailto:you@example.com.", "The report address %q in %s is not a mail address.", clip(u, 60), t.Key)
			continue
		}
		out = append(out, addr)
	}
	if n > 2 {
		bad("dmarc_many_reports", "Keep at most two.", "%s names %d addresses; receivers need serve only two.", t.Key, n)
	}
	return out
}

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

func (k *checker) checkDMARC(ctx context.Context) {
	rep := DMARCReport{State: "unknown"}
	defer func() { k.report.DMARC = rep }()
	nodes := k.walk(ctx, k.domain)
	for _, n := range nodes {
		rep.Walk = append(rep.Walk, "_dmarc."+n.name)
	}
	own := nodes[0]
	if own.reply.state == dnsFailed {
		k.unasked("dmarc_unasked", "the DMARC record", own.reply)
		return
	}
	rep.Organizational, _ = organizational(nodes)
	k.dmarcTexts(own)
	policy := policyNode(nodes, rep.Organizational)
	switch {
	case len(own.texts) > 1:
		rep.State = "broken"
		k.add("dmarc_multiple", DomainFinding{
			Name: own.reply.name, Type: "TXT", Found: own.texts,
			Summary: fmt.Sprintf("There are %d DMARC records at _dmarc.%s; receivers then use none of them.", len(own.texts), k.domain),
			Fix:     "Keep exactly one of them.",
		})
		return
	case len(own.texts) == 1 && own.rec == nil:
		rep.State, rep.Host, rep.Record = "broken", "_dmarc."+own.name, own.texts[0]
		k.dmarcProblems(own, parseDMARC(own.texts[0]))
		return
	case policy == nil:
		for _, n := range nodes {
			if n.reply.state == dnsFailed {
				k.unasked("dmarc_unasked", "a DMARC record further up", n.reply)
				return
			}
		}
		rep.State = "missing"
		k.dmarcMissing(ctx)
		return
	}
	rep.State, rep.Host, rep.Record = "ok", "_dmarc."+policy.name, policy.rec.text
	rep.Inherited = policy.name != k.domain
	k.dmarcPolicy(ctx, &rep, policy)
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

// dmarcTexts speaks of what stands at _dmarc and is not a DMARC record.
func (k *checker) dmarcTexts(own dmarcNode) {
	for _, t := range own.reply.texts() {
		if isDMARC(t) {
			continue
		}
		if why := nearDMARC(t); why != "" {
			f := DomainFinding{
				Name: own.reply.name, Type: "TXT", Found: []string{t},
				Summary: "A TXT record at _dmarc." + k.domain + " looks like DMARC but is not read as such: " + why + ".",
				Fix:     "Correct it.",
			}
			if i := strings.Index(t, "v=DMARC1"); i > 0 && isDMARC(strings.TrimLeft(t, " \t")) {
				f.Publish = []DomainRecord{txtRecord("_dmarc."+k.domain, strings.TrimSpace(t), t)}
			}
			k.add("dmarc_near_miss", f)
			continue
		}
		k.add("dmarc_other_txt", DomainFinding{
			Name: own.reply.name, Type: "TXT", Found: []string{t},
			Summary: "Another TXT record stands at _dmarc." + k.domain + "; a wildcard record of the zone may be answering there.",
			Fix:     "Remove it, or give _dmarc a TXT record of its own.",
		})
	}
}

func (k *checker) dmarcProposal() DomainRecord {
	return txtRecord("_dmarc."+k.domain, "v=DMARC1; p=none; rua=mailto:"+k.DMARCReports+"; fo=1")
}

func (k *checker) dmarcMissing(ctx context.Context) {
	apex := k.look(ctx, k.domain, "TXT")
	if i := slices.IndexFunc(apex.texts(), isDMARC); i >= 0 {
		t := apex.texts()[i]
		k.add("dmarc_at_apex", DomainFinding{
			Name: k.domain, Type: "TXT", Found: []string{t},
			Summary: "The DMARC record stands at " + k.domain + " instead of _dmarc." + k.domain + ", where nobody looks for it.",
			Fix:     "Move it: the host in the DNS panel is _dmarc.",
			Publish: []DomainRecord{txtRecord("_dmarc."+k.domain, t)},
		})
		return
	}
	doubled := "_dmarc." + k.domain + "." + k.domain
	if r := k.ask.ask(ctx, doubled, "TXT"); slices.ContainsFunc(r.texts(), isDMARC) {
		k.add("dmarc_doubled_host", DomainFinding{
			Name: doubled, Type: "TXT", Found: r.show(),
			Summary: "The DMARC record stands at " + doubled + ": the DNS panel added the domain a second time.",
			Fix:     "In the panel, enter _dmarc as the host, without the domain.",
			Publish: []DomainRecord{txtRecord("_dmarc."+k.domain, r.texts()[0])},
		})
		return
	}
	k.add("dmarc_missing", DomainFinding{
		Name: "_dmarc." + k.domain, Type: "TXT",
		Summary: "There is no DMARC record for " + k.domain + ".",
		Fix:     "Publish this. It changes nothing for your mail yet, and has receivers send reports to " + k.DMARCReports + ", a mailbox that must exist.",
		Publish: []DomainRecord{k.dmarcProposal()},
	})
}

// dmarcProblems files what the parser says.
func (k *checker) dmarcProblems(n dmarcNode, d *dmarcRecord) {
	for _, p := range d.problems {
		f := DomainFinding{Name: n.reply.name, Type: "TXT", Found: []string{d.text}, Summary: p.text, Fix: p.fix}
		switch p.code {
		case "dmarc_bad_policy":
			f.Publish = []DomainRecord{k.dmarcProposal()}
			f.Publish[0].Replaces = []string{d.text}
		case "dmarc_no_policy":
			f.Publish = []DomainRecord{txtRecord(n.reply.name, d.withPolicy("none"), d.text)}
		}
		k.add(p.code, f)
	}
}

// withPolicy is the record with another p, every other byte kept.
func (d *dmarcRecord) withPolicy(p string) string {
	if d.pWidth > 0 {
		return d.text[:d.pPos] + p + d.text[d.pPos+d.pWidth:]
	}
	head, rest, ok := strings.Cut(d.text, ";")
	if !ok {
		return d.text + "; p=" + p
	}
	if t, has := d.list.Get("p"); has { // "p=" with nothing behind
		return d.text[:t.ValuePos] + p + d.text[t.ValuePos:]
	}
	return head + "; p=" + p + ";" + rest
}

func (k *checker) dmarcPolicy(ctx context.Context, rep *DMARCReport, n *dmarcNode) {
	d := n.rec
	k.dmarcProblems(*n, d)
	mode := map[string]string{"r": "relaxed", "s": "strict"}
	rep.DKIMMode, rep.SPFMode, rep.Reports = mode[d.adkim], mode[d.aspf], d.rua
	rep.Policy = d.p
	found := []string{d.text}
	add := func(code, summary, fix string, publish ...DomainRecord) {
		k.add(code, DomainFinding{Name: n.reply.name, Type: "TXT", Found: found, Summary: summary, Fix: fix, Publish: publish})
	}
	if rep.Inherited {
		rep.Policy = d.forSubdomain(k.exists(ctx))
		add("dmarc_inherited", fmt.Sprintf("%s has no DMARC record of its own; that of %s applies, with the policy %s.", k.domain, n.name, rep.Policy), "")
	}
	if d.testing {
		add("dmarc_testing", "The record says t=y, so receivers apply one step less than the policy.", "Remove t=y when the reports show that your mail passes.")
		if i := slices.Index(dmarcPolicies, rep.Policy); i > 0 {
			rep.Policy = dmarcPolicies[i-1]
		}
	}
	weaker := func(v string) bool {
		return v != "" && slices.Index(dmarcPolicies, v) < slices.Index(dmarcPolicies, d.p)
	}
	if weaker(d.sp) {
		add("dmarc_sp_weaker", fmt.Sprintf("Subdomains are protected less (sp=%s) than the domain itself (p=%s); forgers use any subdomain.", d.sp, d.p), "Remove sp, or set sp="+d.p+" once mail from subdomains passes.")
	}
	if weaker(d.np) {
		add("dmarc_np_weaker", fmt.Sprintf("Subdomains that do not exist are protected less (np=%s) than the domain itself (p=%s); no true mail comes from those.", d.np, d.p), "Set np=reject.")
	}
	if rep.Policy == "none" && !rep.Inherited {
		add("dmarc_p_none", "The policy is none: receivers report, but let forged mail through.", "See the next step below.")
	}
	if len(d.rua) == 0 {
		with := strings.TrimRight(d.text, "; ") + "; rua=mailto:" + k.DMARCReports
		if _, has := d.list.Get("rua"); has {
			add("dmarc_no_reports", "The DMARC record has no usable report address (rua), so nobody sees which mail fails.", "Correct rua: mailto:"+k.DMARCReports+".")
		} else {
			add("dmarc_no_reports", "The DMARC record has no report address (rua), so nobody sees which mail fails.",
				"Publish this, with a mailbox that exists.", txtRecord(n.reply.name, with, d.text))
		}
	}
	k.reportHosts(ctx, rep, n)
	rep.Next = n.nextStep()
	k.note("DMARC", fmt.Sprintf("record found at %s, policy %s", rep.Host, rep.Policy))
}

// forSubdomain is the policy for a name below the record's own.
func (d *dmarcRecord) forSubdomain(exists bool) string {
	switch {
	case !exists && d.np != "":
		return d.np
	case d.sp != "":
		return d.sp
	}
	return d.p
}

// exists: for DMARC a name exists when it has an A, AAAA or MX record. In
// doubt it does.
func (k *checker) exists(ctx context.Context) bool {
	var mx, a dnsReply
	var wg sync.WaitGroup
	wg.Go(func() { mx = k.ask.ask(ctx, k.domain, "MX") })
	wg.Go(func() { a = k.ask.addrs(ctx, k.domain) })
	wg.Wait()
	return !mx.absent() || !a.absent()
}

// nextStep is the ratchet.
func (n *dmarcNode) nextStep() *DMARCStep {
	d := n.rec
	i := slices.Index(dmarcPolicies, d.p)
	if i == len(dmarcPolicies)-1 {
		return nil
	}
	next := dmarcPolicies[i+1]
	s := &DMARCStep{Policy: next, Publish: txtRecord(n.reply.name, d.withPolicy(next), d.text)}
	if len(d.rua) == 0 {
		s.When = append(s.When, "a report address (rua) is published and its mailbox is read")
	}
	switch next {
	case "quarantine":
		s.When = append(s.When,
			"the DKIM key of every sender of the domain is published and aligns",
			"two weeks of reports show that all mail you know of passes DMARC",
			"mailing lists and forwarders that your people write through are known")
	default:
		s.When = append(s.When,
			"the policy quarantine has stood for four weeks without a complaint about lost mail",
			"the reports show no sender of yours among the failures")
	}
	return s
}

// reportHosts checks that hosts outside of the organisational domain have agreed to it, and that they take mail.
func (k *checker) reportHosts(ctx context.Context, rep *DMARCReport, n *dmarcNode) {
	seen := map[string]bool{}
	var wg sync.WaitGroup
	for _, addr := range append(slices.Clone(n.rec.rua), n.rec.ruf...) {
		_, host, _ := strings.Cut(addr, "@")
		host = strings.ToLower(strings.TrimSuffix(host, "."))
		if seen[host] {
			continue
		}
		seen[host] = true
		if _, err := domainName("rua", host); err != nil {
			k.add("dmarc_report_uri", DomainFinding{
				Name: n.reply.name, Type: "TXT", Found: []string{n.rec.text},
				Summary: fmt.Sprintf("The report address %q has a host that cannot exist.", clip(addr, 60)),
				Fix:     "Write it as mailto:you@example.com.",
			})
			continue
		}
		wg.Go(func() { k.reportHost(ctx, rep, n, host) })
	}
	wg.Wait()
}

func (k *checker) reportHost(ctx context.Context, rep *DMARCReport, n *dmarcNode, host string) {
	org := rep.Organizational
	if host != org && !strings.HasSuffix(host, "."+org) {
		name := n.name + "._report._dmarc." + host
		r := k.ask.ask(ctx, name, "TXT")
		switch {
		case r.state == dnsFailed:
			k.unasked("dmarc_report_unasked", "the permission to send reports to "+host, r)
		case !slices.ContainsFunc(r.texts(), isDMARC):
			k.add("dmarc_report_unauthorised", DomainFinding{
				Name: name, Type: "TXT", Found: r.show(),
				Summary: "Reports are to go to " + host + ", which has not agreed to take those of " + n.name + "; receivers will not send them.",
				Fix:     "Have the owner of " + host + " publish this, or use an address at your own domain.",
				Publish: []DomainRecord{txtRecord(name, "v=DMARC1")},
			})
		}
	}
	mx := k.ask.ask(ctx, host, "MX")
	if !mx.absent() {
		return
	}
	if a := k.ask.addrs(ctx, host); a.absent() {
		k.add("dmarc_report_no_mx", DomainFinding{
			Name: host, Type: "MX",
			Summary: "Reports are to go to " + host + ", which takes no mail: it has neither an MX nor an address record.",
			Fix:     "Use an address that can receive mail.",
		})
	}
}
