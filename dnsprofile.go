package fluxly

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/getfluxly/fluxly/internal/taglist"
)

// DomainProfile names a set of additional checks.
type DomainProfile string

const (
	// PostmarkSender is what Postmark asks before it sends for a domain and
	// marks it as verified: its DKIM key, its Return-Path alias, and a DMARC
	// record, as one line each. The checks behind it are always made.
	PostmarkSender DomainProfile = "postmark"
	// BulkSender is what Gmail, Yahoo and Microsoft ask of those who send
	// 5,000 mails a day and more: SPF, DKIM, an aligned pass, and a DMARC
	// record of at least p=none. (They also ask for one-click unsubscribe,
	// RFC 8058, which is not in the DNS.)
	BulkSender DomainProfile = "bulk-sender"
	// BIMI is the logo record at default._bimi.
	BIMI DomainProfile = "bimi"
	// MTASTS is the record at _mta-sts (RFC 8461). The policy file behind it
	// is on the web and is not looked at.
	MTASTS DomainProfile = "mta-sts"
	// TLSRPT is the record at _smtp._tls (RFC 8460).
	TLSRPT DomainProfile = "tls-rpt"
	// DNSSEC says whether the zone is signed and the resolver validates it.
	DNSSEC DomainProfile = "dnssec"
)

var domainProfiles = []DomainProfile{PostmarkSender, BulkSender, BIMI, MTASTS, TLSRPT, DNSSEC}

// DomainProfiles lists the profiles.
func DomainProfiles() []DomainProfile { return slices.Clone(domainProfiles) }

// checkProfile asks what a profile needs beyond the rest.
func (k *checker) checkProfile(ctx context.Context, p DomainProfile) {
	switch p {
	case BIMI:
		k.look(ctx, "default._bimi."+k.domain, "TXT") // judgeBIMI reads the answer
	case MTASTS:
		k.oneRecord(ctx, p, "_mta-sts."+k.domain, "v=STSv1", k.mtaSTS)
	case TLSRPT:
		k.oneRecord(ctx, p, "_smtp._tls."+k.domain, "v=TLSRPTv1", k.tlsRPT)
	case DNSSEC:
		k.dnssec(ctx)
	case PostmarkSender, BulkSender: // need no records of their own
	}
}

// oneRecord fetches a record of which there must be exactly one.
func (k *checker) oneRecord(ctx context.Context, p DomainProfile, name, version string, read func(name, text string)) {
	k.readOne(p, name, version, k.look(ctx, name, "TXT"), read)
}

func (k *checker) readOne(p DomainProfile, name, version string, r dnsReply, read func(name, text string)) {
	area, code := string(p), strings.ReplaceAll(string(p), "-", "")
	if r.state == dnsFailed {
		k.add(code+"_unasked", DomainFinding{Area: area, Name: name, Type: "TXT", Summary: "Could not ask for the record at " + name + ": " + r.why + ".", Fix: "Run the check again. This says nothing about whether the record is there."})
		return
	}
	texts := ofVersion(r, version)
	switch len(texts) {
	case 0:
		f := DomainFinding{Area: area, Name: name, Type: "TXT", Found: r.texts(), Summary: "There is no " + version + " record at " + name + "."}
		if p == TLSRPT {
			f.Fix = "If you want such reports, publish this, with a mailbox that exists."
			f.Publish, f.Optional = []DomainRecord{txtRecord(name, "v=TLSRPTv1; rua=mailto:"+k.DMARCReports)}, true
		}
		k.add(code+"_missing", f)
	case 1:
		k.note(area, "record found at "+name)
		read(name, texts[0])
	default:
		k.add(code+"_multiple", DomainFinding{Area: area, Name: name, Type: "TXT", Found: texts, Summary: fmt.Sprintf("There are %d records at %s; with more than one, none is used.", len(texts), name), Fix: "Keep exactly one of them."})
	}
}

// ofVersion are the texts that begin with the version of a kind of record.
func ofVersion(r dnsReply, version string) (texts []string) {
	for _, t := range r.texts() {
		if head, _, _ := strings.Cut(t, ";"); strings.TrimSpace(head) == version {
			texts = append(texts, t)
		}
	}
	return texts
}

func (k *checker) tagFaults(code, name, text string) (taglist.List, func(format string, args ...any)) {
	bad := func(format string, args ...any) {
		k.add(code, DomainFinding{Name: name, Type: "TXT", Found: []string{text}, Summary: fmt.Sprintf(format, args...)})
	}
	l := taglist.Parse(text, false)
	for _, f := range l.Faults {
		if f.Kind != taglist.Empty {
			bad("The record at %s cannot be read at byte %d: %s.", name, f.Pos, f.Text)
		}
	}
	return l, bad
}

func (k *checker) bimi(name, text string) {
	l, bad := k.tagFaults("bimi_syntax", name, text)
	logo, has := l.Get("l")
	switch {
	case !has:
		bad("The BIMI record has no l= tag for the logo.")
	case logo.Value != "" && !strings.HasPrefix(logo.Value, "https://"):
		bad("The BIMI logo must be at an https:// address, not %q.", clip(logo.Value, 60))
	}
	if a, ok := l.Get("a"); ok && a.Value != "" && a.Value != "self" && !strings.HasPrefix(a.Value, "https://") {
		bad("The BIMI certificate must be at an https:// address, not %q.", clip(a.Value, 60))
	}
}

func (k *checker) mtaSTS(name, text string) {
	l, bad := k.tagFaults("mtasts_syntax", name, text)
	id := l.Value("id")
	valid := id != "" && len(id) <= 32
	for i := range len(id) {
		c := id[i] | 0x20
		valid = valid && (c >= 'a' && c <= 'z' || id[i] >= '0' && id[i] <= '9')
	}
	if !valid {
		bad("The MTA-STS record needs an id of 1 to 32 letters and digits; it has %s.", strconv.Quote(clip(id, 40)))
	}
}

func (k *checker) tlsRPT(name, text string) {
	l, bad := k.tagFaults("tlsrpt_syntax", name, text)
	rua := l.Value("rua")
	if rua == "" {
		bad("The TLS-RPT record has no report address (rua).")
	}
	for u := range strings.SplitSeq(rua, ",") {
		if u = strings.TrimSpace(u); u != "" && !strings.HasPrefix(u, "mailto:") && !strings.HasPrefix(u, "https://") {
			bad("The TLS report address %q is neither mailto: nor https:.", clip(u, 60))
		}
	}
}

// judgeProfile draws conclusions from the whole report.
func (k *checker) judgeProfile(ctx context.Context, p DomainProfile) {
	switch p {
	case PostmarkSender:
		k.postmarkSender()
	case BulkSender:
		k.bulkSender()
	case BIMI:
		k.judgeBIMI(ctx)
	case MTASTS, TLSRPT, DNSSEC: // judged where they were asked for
	}
}

// judgeBIMI: where the domain has no record, that of the organisational domain
// counts; the policy decides whether receivers look at either.
func (k *checker) judgeBIMI(ctx context.Context) {
	const version = "v=BIMI1"
	d := k.report.DMARC
	name := "default._bimi." + k.domain
	r := k.look(ctx, name, "TXT")
	unasked := func(name, summary string) {
		k.add("bimi_unasked", DomainFinding{Name: name, Type: "TXT", Summary: summary, Fix: "Run the check again."})
	}
	above := "default._bimi." + d.Organizational
	switch {
	case r.state == dnsFailed || len(ofVersion(r, version)) > 0 || d.Organizational == k.domain:
		k.readOne(BIMI, name, version, r, k.bimi)
	case d.Organizational == "":
		unasked(name, "There is no "+version+" record at "+name+"; whether one of the organisational domain counts could not be told.")
	default:
		if up := k.look(ctx, above, "TXT"); up.state == dnsFailed || len(ofVersion(up, version)) > 0 {
			k.readOne(BIMI, above, version, up, k.bimi)
		} else {
			k.readOne(BIMI, name, version, r, k.bimi)
		}
	}
	policy := func(summary, fix string) {
		f := DomainFinding{Name: d.Host, Type: "TXT", Summary: summary, Fix: fix}
		if d.Record != "" {
			f.Found = []string{d.Record}
		}
		k.add("bimi_policy", f)
	}
	rec := parseDMARC(d.Record)
	switch {
	case d.State == "unknown":
		unasked("_dmarc."+k.domain, "Whether the DMARC policy allows for a logo could not be told.")
	case d.State != "ok":
		policy("A logo is shown only with a DMARC policy of quarantine or reject, and none is in force.", "Take the steps for DMARC first.")
	case d.Policy == "none" || d.Policy == "":
		policy("A logo is shown only with a DMARC policy of quarantine or reject; it is "+strconv.Quote(d.Policy)+".", "Take the steps for DMARC first.")
	case rec.sp == "none":
		policy("A logo is shown only when subdomains are protected too; the record says sp=none.", "Remove sp, or set it to quarantine or reject.")
	case rec.testing:
		policy("A logo is shown only when the DMARC policy is applied; the record says t=y, which is for a time of trial.", "Remove t=y when mail passes as it should.")
	case d.Policy == "quarantine" && rec.list.Value("pct") != "" && rec.list.Value("pct") != "100":
		policy("A logo is shown only when p=quarantine holds for all mail; the record says pct="+clip(rec.list.Value("pct"), 20)+".", "Remove pct when mail passes as it should.")
	}
}

// postmarkSender draws the line under what Postmark looks at. The findings
// above say what to publish.
func (k *checker) postmarkSender() {
	r := k.report
	ok := true
	add := func(code, summary, fix string) {
		ok = false
		k.add(code, DomainFinding{Summary: summary, Fix: fix})
	}
	key := signingKey(r.DKIM)
	switch {
	case key != nil && key.State == "ok":
	case key != nil && key.State != "unknown":
		add("postmark_dkim", "Postmark does not see its DKIM key, so the domain is not verified there.", "See DKIM above; then press Verify in Postmark (Sender Signatures, DNS settings).")
	default:
		add("postmark_unknown", "Whether Postmark sees its DKIM key could not be told.", "See DKIM above.")
	}
	switch r.ReturnPath.State {
	case "ok":
	case "unknown":
		add("postmark_unknown", "Whether Postmark sees its Return-Path alias could not be told.", "Run the check again.")
	default:
		add("postmark_return_path", "Postmark does not see its Return-Path alias; the custom Return-Path stays unverified there.", "See Return-Path above.")
	}
	if r.DMARC.State == "missing" || r.DMARC.State == "broken" {
		add("postmark_dmarc", "Postmark advises a DMARC record, and there is no sound one.", "See DMARC above.")
	}
	if ok {
		k.note(string(PostmarkSender), "DKIM and Return-Path are as Postmark wants them")
	}
}

func (k *checker) bulkSender() {
	r := k.report
	ask := func(code, summary, fix string) {
		k.add(code, DomainFinding{Summary: summary, Fix: fix})
	}
	ok := true
	if !r.Alignment.DKIM.Aligned && !r.Alignment.SPF.Aligned {
		ok = false
		if k.alignUnknown {
			ask("bulk_unknown", "Whether mail passes DMARC with an aligned domain could not be told.", "See DKIM above.")
		} else {
			ask("bulk_alignment", "Large receivers ask that mail pass DKIM or SPF for the domain of From; neither aligns.", "See Alignment above.")
		}
	}
	switch key := signingKey(r.DKIM); {
	case key == nil || key.State == "unknown":
		ok = false
		ask("bulk_unknown", "Whether there is a sound DKIM key could not be told.", "See DKIM above.")
	case testKeyIn(r.DKIM):
		ok = false
		ask("bulk_dkim", "Large receivers ask for DKIM and SPF both; the DKIM key at "+key.Host+" is marked as a test.", "See DKIM above.")
	case key.State != "ok":
		ok = false
		ask("bulk_dkim", "Large receivers ask for DKIM and SPF both; there is no sound DKIM key at "+key.Host+".", "See DKIM above.")
	}
	switch r.DMARC.State {
	case "missing", "broken":
		ok = false
		ask("bulk_dmarc", "Large receivers ask for a DMARC record of at least p=none.", "See DMARC above.")
	case "unknown":
		ok = false
		ask("bulk_unknown", "Whether there is a DMARC record could not be told.", "See DMARC above.")
	}
	switch r.SPF.State {
	case "multiple", "broken":
		ok = false
		ask("bulk_spf", "Large receivers ask for a sound SPF record beside DKIM; the one at "+r.Domain+" is not.", "See SPF above.")
	default:
		// Part of what it pulls in may be what could not be asked.
		if slices.ContainsFunc(k.findings, func(f DomainFinding) bool { return f.Code == "spf_unasked" }) {
			ok = false
			ask("bulk_unknown", "Whether the SPF record is sound could not be told.", "See SPF above.")
		}
	}
	if ok {
		k.note(string(BulkSender), "what Gmail, Yahoo and Microsoft ask in the DNS is there; marketing mail also needs one-click unsubscribe")
	}
}
