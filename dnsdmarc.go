package fluxly

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/getfluxly/fluxly/internal/dnsmsg"
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
	// Organizational is the organisational domain that the tree walk found;
	// empty when a name of the walk could not be asked.
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
	// Change is what the step does, such as "p=quarantine", "sp=reject" or
	// "without t=y".
	Change string `json:"change"`
	// Policy is p after the step; Publish the record to publish then.
	Policy  string       `json:"policy"`
	Publish DomainRecord `json:"publish"`
	// When lists what must be true before.
	When []string `json:"when"`
}

func (k *checker) checkDMARC(ctx context.Context) {
	rep := DMARCReport{State: "unknown"}
	defer func() { k.report.DMARC = rep }()
	nodes := k.walk(ctx, k.domain)
	for _, n := range nodes {
		rep.Walk = append(rep.Walk, "_dmarc."+n.name)
	}
	org, known := organizational(nodes)
	if i := slices.IndexFunc(nodes, func(n dmarcNode) bool { return n.reply.state == dnsFailed }); !known && i >= 0 {
		k.orgUnasked = &nodes[i].reply
	}
	k.apart = k.separate(ctx, nodes)
	own := nodes[0]
	if own.reply.state == dnsFailed {
		k.unasked("dmarc_unasked", "the DMARC record", own.reply)
		return
	}
	if known {
		rep.Organizational = org
	}
	policy := policyNode(nodes, org)
	meant := k.dmarcTexts(ctx, &rep, own, policy)
	switch {
	case len(own.texts) > 1:
		meant = true
		k.dmarcMultiple(&rep, own, policy)
		if policy == nil {
			rep.State = "broken"
			return
		}
	case len(own.texts) == 1 && own.rec == nil:
		rep.State, rep.Host, rep.Record = "broken", "_dmarc."+own.name, own.texts[0]
		k.dmarcProblems(&rep, own, parseDMARC(own.texts[0]))
		return
	case policy == nil:
		for _, n := range nodes {
			if n.reply.state == dnsFailed {
				k.unasked("dmarc_unasked", "a DMARC record further up", n.reply)
				return
			}
		}
		rep.State = "missing"
		if meant {
			rep.State = "broken"
			return
		}
		k.dmarcMissing(ctx, &rep)
		return
	}
	rep.State, rep.Host, rep.Record = "ok", "_dmarc."+policy.name, policy.rec.text
	rep.Inherited = policy.name != k.domain
	if rep.Inherited && !known {
		k.unasked("dmarc_unasked", "a DMARC record further up, which may count in place of that of "+policy.name, *k.orgUnasked)
	}
	next := rep.Next
	k.dmarcPolicy(ctx, &rep, policy, meant)
	if next != nil { // towards what the domain's own text asks for
		rep.Next = next
	}
}

// dmarcTexts speaks of what stands at _dmarc and is not a DMARC record.
//
// It reports whether a record was meant there.
func (k *checker) dmarcTexts(ctx context.Context, rep *DMARCReport, own dmarcNode, policy *dmarcNode) (meant bool) {
	var near []string
	for _, t := range own.reply.texts() {
		switch {
		case isDMARC(t):
		case nearDMARC(t) != "":
			near = append(near, t)
		default:
			k.add("dmarc_other_txt", DomainFinding{
				Name: own.reply.name, Type: "TXT", Found: []string{t},
				Summary: "Another TXT record stands at _dmarc." + k.domain + "; a wildcard record of the zone may be answering there.",
				Fix:     "Remove it, or give _dmarc a TXT record of its own.",
			})
		}
	}
	if len(near) == 0 {
		return false
	}
	var most *dmarcForce
	if policy != nil {
		most = policy.rec.forceBelow(k.exists(ctx))
	}
	// One record takes the place of all of them.
	m := mendDMARC(near, k.DMARCReports, most)
	if len(own.texts) == 0 {
		k.stepAfter(rep, m)
	}
	for _, t := range near {
		f := DomainFinding{
			Name: own.reply.name, Type: "TXT", Found: []string{t},
			Summary: "A TXT record at _dmarc." + k.domain + " looks like DMARC but is not read as such: " + nearDMARC(t) + ".",
			Fix:     "Delete it; the domain has a DMARC record beside it.",
		}
		if len(own.texts) > 0 {
			f.Level = DomainWarn
			k.add("dmarc_near_miss", f)
			continue
		}
		if policy != nil {
			f.Level = DomainWarn
			f.Summary += " That of " + policy.name + " applies in its place."
		}
		f.Fix = "Replace it by the record below." + m.tail()
		if len(near) > 1 {
			f.Fix = fmt.Sprintf("Replace all %d such records by the one below.", len(near)) + m.tail()
		}
		f.Publish = []DomainRecord{txtRecord("_dmarc."+k.domain, m.text, near...)}
		k.add("dmarc_near_miss", f)
	}
	return len(own.texts) == 0
}

// dmarcMultiple proposes one record in place of several.
func (k *checker) dmarcMultiple(rep *DMARCReport, own dmarcNode, policy *dmarcNode) {
	var best *dmarcRecord
	for _, t := range own.texts {
		d := parseDMARC(t)
		if best == nil || d.usable && (!best.usable || milder(d.p, best.p)) {
			best = d
		}
	}
	m := best.withReports(own.texts).mend(k.DMARCReports, nil)
	k.stepAfter(rep, m)
	summary := fmt.Sprintf("There are %d DMARC records at _dmarc.%s; receivers then use none of them.", len(own.texts), k.domain)
	fix := "Delete them all and publish the one below. Its policy is p=none, because that is what receivers do now; the steps to a stricter one come after."
	if policy != nil {
		summary += " Those of today apply that of " + policy.name + " instead, and older ones nothing."
		fix = "Delete them all. Where that of " + policy.name + " is to apply, publish nothing in their place; else publish the one below. Its policy is p=none, because that is what older receivers do now; the steps to a stricter one come after."
	}
	k.add("dmarc_multiple", DomainFinding{
		Name: own.reply.name, Type: "TXT", Found: own.texts, Summary: summary, Fix: fix + m.tail(),
		Publish: []DomainRecord{txtRecord("_dmarc."+k.domain, m.text, own.texts...)},
	})
}

// stepAfter names the next step towards a policy that was asked for and that a
// mended record leaves for later.
func (k *checker) stepAfter(rep *DMARCReport, m dmarcMend) {
	if len(m.later) == 0 {
		return
	}
	n := dmarcNode{name: k.domain, reply: dnsReply{name: "_dmarc." + k.domain}, rec: parseDMARC(m.text)}
	rep.Next = n.nextStep(k.DMARCReports)
	if rep.Next != nil {
		rep.Next.When = append([]string{"the DMARC record above has been published"}, rep.Next.When...)
	}
}

func (k *checker) dmarcProposal() DomainRecord {
	return txtRecord("_dmarc."+k.domain, "v=DMARC1; p=none; rua=mailto:"+k.DMARCReports+"; fo=1")
}

func (k *checker) dmarcMissing(ctx context.Context, rep *DMARCReport) {
	apex := k.look(ctx, k.domain, "TXT")
	if i := slices.IndexFunc(apex.texts(), isDMARC); i >= 0 {
		t := apex.texts()[i]
		m := parseDMARC(t).withReports(apex.texts()).mend(k.DMARCReports, nil)
		k.stepAfter(rep, m)
		k.add("dmarc_at_apex", DomainFinding{
			Name: k.domain, Type: "TXT", Found: []string{t},
			Summary: "The DMARC record stands at " + k.domain + " instead of _dmarc." + k.domain + ", where nobody looks for it; delete it there.",
			Fix:     "Publish the record below, with _dmarc as the host in the DNS panel, and delete the old one at " + k.domain + "." + m.tail(),
			Publish: []DomainRecord{txtRecord("_dmarc."+k.domain, m.text)},
		})
		return
	}
	doubled := "_dmarc." + k.domain + "." + k.domain
	r := k.ask.ask(ctx, doubled, "TXT")
	if i := slices.IndexFunc(r.texts(), isDMARC); i >= 0 {
		m := parseDMARC(r.texts()[i]).withReports(r.texts()).mend(k.DMARCReports, nil)
		k.stepAfter(rep, m)
		k.add("dmarc_doubled_host", DomainFinding{
			Name: doubled, Type: "TXT", Found: r.show(),
			Summary: "The DMARC record was entered under the wrong name, " + doubled + ": the DNS panel added the domain a second time. Delete it there.",
			Fix:     "In the panel, enter _dmarc as the host of the record below, without the domain, and delete the old one." + m.tail(),
			Publish: []DomainRecord{txtRecord("_dmarc."+k.domain, m.text)},
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
func (k *checker) dmarcProblems(rep *DMARCReport, n dmarcNode, d *dmarcRecord) {
	if len(d.problems) == 0 {
		return
	}
	// Once: there may be thousands of problems in one record.
	m := d.mend(k.DMARCReports, d.force())
	found, publish := []string{d.text}, []DomainRecord{txtRecord(n.reply.name, m.text, d.text)}
	if !d.usable {
		k.stepAfter(rep, m)
	}
	for _, p := range d.problems {
		fix, records := p.fix, publish
		if p.stays {
			records = nil
		}
		if findingCatalogue[p.code].level == DomainFail || p.code == "dmarc_no_policy" {
			fix += m.tail()
		}
		f := DomainFinding{Name: n.reply.name, Type: "TXT", Found: found, Summary: p.text, Fix: fix, Publish: records}
		if p.code == "dmarc_near_miss" { // it is one, for those who go by the rules
			f.Level, f.Optional = DomainWarn, d.force() != nil && *d.force() != dmarcForce{}
		}
		k.add(p.code, f)
	}
}

// dmarcPolicy judges the record that applies. meant is true when the domain has
// one of its own that does not.
func (k *checker) dmarcPolicy(ctx context.Context, rep *DMARCReport, n *dmarcNode, meant bool) {
	d := n.rec
	suffix := d.psd == "y" && n.name != k.domain
	if !suffix { // the registry's record is not the reader's to mend
		k.dmarcProblems(rep, *n, d)
	}
	mode := map[string]string{"r": "relaxed", "s": "strict"}
	rep.DKIMMode, rep.SPFMode, rep.Reports = mode[d.adkim], mode[d.aspf], d.rua
	rep.Policy = d.p
	found := []string{d.text}
	add := func(code, summary, fix string, publish ...DomainRecord) {
		k.add(code, DomainFinding{Name: n.reply.name, Type: "TXT", Found: found, Summary: summary, Fix: fix, Publish: publish})
	}
	if rep.Inherited {
		rep.Policy = d.forSubdomain(k.exists(ctx))
		which := ""
		if meant {
			which = " that counts"
		}
		add("dmarc_inherited", fmt.Sprintf("%s has no DMARC record of its own%s; that of %s applies, with the policy %s.", k.domain, which, n.name, rep.Policy), "")
	}
	if suffix && meant {
		return
	}
	if suffix {
		k.add("dmarc_suffix", DomainFinding{
			Name: n.reply.name, Type: "TXT", Found: found,
			Summary: "Only the public suffix " + n.name + " has a DMARC record. It protects your name, and you get no reports.",
			Fix:     "Publish a record of your own.",
			Publish: []DomainRecord{k.dmarcProposal()},
		})
		return
	}
	if d.testing {
		add("dmarc_testing", "The record says t=y, so receivers apply one step less than the policy.", "Remove t=y when the reports show that your mail passes.")
		if i := slices.Index(dmarcPolicies, rep.Policy); i > 0 {
			rep.Policy = dmarcPolicies[i-1]
		}
	}
	// Neither is a record to publish today: the steps lead there, one at a time.
	for _, w := range []struct{ code, key, who, value, when string }{
		{"dmarc_sp_weaker", "sp", "Subdomains", d.sp, subdomainsReady},
		{"dmarc_np_weaker", "np", "Subdomains that do not exist", d.np, noGhosts},
	} {
		if milder(w.value, d.p) {
			add(w.code, fmt.Sprintf("%s are protected less (%s=%s) than the domain itself (p=%s); forgers use any subdomain.", w.who, w.key, w.value, d.p),
				fmt.Sprintf("Once %s, make it %s=%s. The steps for DMARC lead there, one at a time.", w.when, w.key, dmarcPolicies[strength(w.value)+1]))
		}
	}
	if rep.Policy == "none" && !rep.Inherited {
		add("dmarc_p_none", "The policy is none: receivers report, but let forged mail through.", "Nothing today. The report names the next step, and what must be true before it.")
	}
	if len(d.rua) == 0 {
		what := "has no report address (rua)"
		if _, has := d.list.Get("rua"); has {
			what = "has no usable report address (rua)"
		}
		add("dmarc_no_reports", "The DMARC record "+what+", so nobody sees which mail fails.",
			"Publish this, with a mailbox that exists.", txtRecord(n.reply.name, d.mended(k.DMARCReports), d.text))
	}
	k.reportHosts(ctx, rep, n)
	rep.Next = n.nextStep(k.DMARCReports)
	k.note("DMARC", fmt.Sprintf("record found at %s, policy %s", rep.Host, rep.Policy))
}

// exists: for DMARC a name exists when it has an A, AAAA or MX record. In
// doubt it does.
func (k *checker) exists(ctx context.Context) bool {
	var mx, a dnsReply
	var wg sync.WaitGroup
	wg.Go(func() { mx = k.look(ctx, k.domain, "MX") })
	wg.Go(func() { a = k.lookAddrs(ctx, k.domain) })
	wg.Wait()
	return !mx.absent() || !a.absent()
}

const (
	mailReady       = "two weeks of reports show that all mail you know of passes DMARC"
	subdomainsReady = "two weeks of reports show that all mail from your subdomains passes DMARC too"
	noGhosts        = "two weeks of reports show no mail of yours from names that have neither an address nor an MX record"
)

// nextStep is the ratchet, of which each step takes a policy up by one. It
// starts from the record as it should be, so that a step taken does not bring a
// fault back.
func (n *dmarcNode) nextStep(reports string) *DMARCStep {
	d := n.rec
	base := parseDMARC(d.mended(reports))
	step := func(change, policy, text string, when ...string) *DMARCStep {
		return &DMARCStep{Change: change, Policy: policy, Publish: txtRecord(n.reply.name, text, d.text), When: when}
	}
	if t, ok := base.list.Get("t"); ok && base.testing {
		text := base.text[:t.ValuePos] + "n" + base.text[t.ValuePos+len(t.Value):]
		if base.partly() >= 0 {
			text = without(text, "pct")
		}
		return step("without t=y", d.p, text, mailReady)
	}
	if base.partly() >= 0 {
		return step("without pct="+base.list.Value("pct"), d.p, without(base.text, "pct"), mailReady)
	}
	i := slices.Index(dmarcPolicies, d.p)
	if i == len(dmarcPolicies)-1 {
		switch {
		case milder(d.sp, d.p):
			return step("sp="+dmarcPolicies[strength(d.sp)+1], d.p, d.raised("sp", reports), subdomainsReady)
		case milder(d.np, d.p):
			return step("np="+dmarcPolicies[strength(d.np)+1], d.p, d.raised("np", reports), noGhosts)
		}
		return nil
	}
	next := dmarcPolicies[i+1]
	s := step("p="+next, next, base.withPolicy(next))
	if len(d.rua) == 0 {
		s.When = append(s.When, "a report address (rua) is published and its mailbox is read")
	}
	switch next {
	case "quarantine":
		s.When = append(s.When,
			"the DKIM key of every sender of the domain is published and aligns",
			mailReady,
			"mailing lists and forwarders that your people write through are known")
	default:
		s.When = append(s.When,
			"the policy quarantine has stood for four weeks without a complaint about lost mail",
			"the reports show no sender of yours among the failures")
	}
	return s
}

// reportHosts checks that hosts outside of the organisational domain have agreed to it, and that they take mail.
//
// A record may name thousands of them; few are looked at, as receivers do.
func (k *checker) reportHosts(ctx context.Context, rep *DMARCReport, n *dmarcNode) {
	const most = 10
	seen := map[string]bool{}
	var wg sync.WaitGroup
	for _, addr := range append(slices.Clone(n.rec.rua), n.rec.ruf...) {
		_, host, _ := strings.Cut(addr, "@")
		host = strings.ToLower(strings.TrimSuffix(host, "."))
		if seen[host] || len(seen) == most {
			continue
		}
		seen[host] = true
		ascii, err := domainName("rua", host)
		if err != nil {
			k.add("dmarc_report_uri", DomainFinding{
				Name: n.reply.name, Type: "TXT", Found: []string{n.rec.text},
				Summary: fmt.Sprintf("The report address %q has a host that cannot exist.", clip(addr, 60)),
				Fix:     "Write it as mailto:you@example.com.",
			})
			continue
		}
		wg.Go(func() { k.reportHost(ctx, rep, n, ascii) })
	}
	wg.Wait()
}

func (k *checker) reportHost(ctx context.Context, rep *DMARCReport, n *dmarcNode, host string) {
	if same, known := belongs(k.domain, rep.Organizational, host); !same {
		name := n.name + "._report._dmarc." + host
		r := k.ask.ask(ctx, name, "TXT")
		k.noteAlias(r)
		switch {
		case r.state == dnsFailed:
			k.unasked("dmarc_report_unasked", "the permission to send reports to "+host, r)
		case !known && !slices.ContainsFunc(r.texts(), isDMARC):
			k.unasked("dmarc_report_unasked", "what belongs to "+k.domain+", so whether "+host+" must agree to take its reports is not known", *k.orgUnasked)
		case !slices.ContainsFunc(r.texts(), isDMARC):
			f := DomainFinding{
				Name: name, Type: "TXT", Found: r.show(),
				Summary: "Reports are to go to " + host + ", which has not agreed to take those of " + n.name + "; receivers will not send them.",
				Fix:     "Have the owner of " + host + " publish this, or use an address at your own domain.",
				Publish: []DomainRecord{txtRecord(name, "v=DMARC1")},
			}
			if dnsmsg.ValidName(name) != nil {
				f.Fix, f.Publish = "Use an address at your own domain. "+host+" cannot agree: the name of the record for it would be longer than a name may be.", nil
			}
			k.add("dmarc_report_unauthorised", f)
		}
	}
	mx := k.ask.ask(ctx, host, "MX")
	if mx.state == dnsFound && slices.Equal(mx.show(), []string{""}) {
		k.add("dmarc_report_no_mx", DomainFinding{
			Name: host, Type: "MX", Found: []string{"."},
			Summary: "Reports are to go to " + host + ", which says that it takes no mail at all (a null MX, RFC 7505).",
			Fix:     "Use an address that can receive mail.",
		})
		return
	}
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
