package fluxly

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/getfluxly/fluxly/internal/dnsmsg"
	"github.com/getfluxly/fluxly/internal/taglist"
)

// PostmarkDomain holds the fields of Postmark's domain object that name DNS
// records, under Postmark's own names, so that the body of GET /domains/{id}
// decodes into it. Empty fields are not checked.
type PostmarkDomain struct {
	Name                          string
	DKIMHost                      string
	DKIMTextValue                 string
	DKIMPendingHost               string
	DKIMPendingTextValue          string
	DKIMRevokedHost               string
	DKIMRevokedTextValue          string
	SafeToRemoveRevokedKeyFromDNS bool
	ReturnPathDomain              string
	ReturnPathDomainCNAMEValue    string
}

// DKIMReport is what was found at one DKIM host.
type DKIMReport struct {
	// Role is "current", "pending" or "revoked".
	Role string `json:"role"`
	// Host is the full name of the record; Selector and Domain its parts.
	Host     string `json:"host"`
	Selector string `json:"selector"`
	Domain   string `json:"domain"`
	// State is "ok", "missing", "revoked", "broken" or "unknown".
	State string `json:"state"`
	// KeyType is "rsa" or "ed25519", Bits the length of an RSA key.
	KeyType string `json:"key_type,omitempty"`
	Bits    int    `json:"bits,omitempty"`
	// Matches is true when the published key is the expected one; it is false
	// too when none was given to compare with.
	Matches bool `json:"matches"`
	// Aliases are the names an alias led through.
	Aliases []string `json:"aliases,omitempty"`
	// Record is what is published, when there is exactly one.
	Record string `json:"record,omitempty"`
}

type dkimTarget struct{ role, host, selector, domain, value string }

// dkimSettings turns selector, value and the Postmark object into hosts, and
// checks what was given, before anything is asked.
func (k *checker) dkimSettings(given DomainCheck) error {
	p := given.Postmark
	if p.Name != "" {
		name, err := domainName("Postmark.Name", p.Name)
		if err != nil {
			return err
		}
		if name != k.domain {
			return fieldErrorf("Postmark.Name", p.Name, "is another domain than the one to be checked, %q; give the object of that one", k.domain)
		}
	}
	for _, f := range []struct {
		field, value string
		twice, other string // the setting that gives the same
		dst          *string
	}{
		{"Postmark.ReturnPathDomain", p.ReturnPathDomain, "ReturnPath", given.ReturnPath, &k.ReturnPath},
		{"Postmark.ReturnPathDomainCNAMEValue", p.ReturnPathDomainCNAMEValue, "ReturnPathTarget", given.ReturnPathTarget, &k.ReturnPathTarget},
	} {
		if f.value == "" {
			continue
		}
		host, err := domainName(f.field, f.value)
		if err != nil {
			return err
		}
		if f.other != "" && *f.dst != host {
			return fieldErrorf(f.twice, f.other, "is not what %s names, %q; leave it out, or mend the object", f.field, host)
		}
		*f.dst = host
	}
	_, err := k.dkimTargets()
	return err
}

func (k *checker) dkimTargets() (out []dkimTarget, err error) {
	add := func(field, role, host, value string) {
		if host == "" || err != nil {
			return
		}
		selector, domain, ok := strings.Cut(strings.TrimSuffix(strings.ToLower(fullStops.Replace(host)), "."), "._domainkey")
		domain = strings.TrimPrefix(domain, ".")
		if domain == "" || !ok {
			domain = k.domain
		}
		if name, bad := domainName(field, selector); !ok && bad == nil && k.below(name) {
			err = fieldErrorf(field, host, "is a host without ._domainkey, and no key stands at such a one; give the selector alone, or the whole host such as 20231123163444pm._domainkey.%s", k.domain)
			return
		}
		full, bad := domainName(field, selector+"._domainkey."+domain)
		if bad != nil {
			err = bad
			return
		}
		selector, domain, _ = strings.Cut(full, "._domainkey.")
		if value != "" {
			if why := notDKIMKey(value); why != "" {
				err = fieldErrorf(strings.NewReplacer("Host", "TextValue", "DKIMSelector", "DKIMValue").Replace(field), value, "%s", why)
				return
			}
		}
		if role == "revoked" && slices.ContainsFunc(out, func(t dkimTarget) bool { return t.host == full }) {
			return // a key that is in use there must not be called removable
		}
		out = append(out, dkimTarget{role, full, selector, domain, value})
	}
	p := k.Postmark
	if p.DKIMHost != "" || p.DKIMPendingHost != "" {
		add("Postmark.DKIMHost", "current", p.DKIMHost, p.DKIMTextValue)
		add("Postmark.DKIMPendingHost", "pending", p.DKIMPendingHost, p.DKIMPendingTextValue)
		add("Postmark.DKIMRevokedHost", "revoked", p.DKIMRevokedHost, "")
	} else {
		add("DKIMSelector", "current", k.DKIMSelector, k.DKIMValue)
	}
	return out, err
}

// below reports whether a name is the domain, lies below it, or below one above it
// that is no top-level one.
func (k *checker) below(name string) bool {
	for up := k.domain; strings.Contains(up, "."); _, up, _ = strings.Cut(up, ".") {
		if inZone(dnsmsg.Canonical(name), up) {
			return true
		}
	}
	return false
}

// notDKIMKey says why a value that was given cannot be the one that Postmark shows,
// or that the published key should be compared with, or returns "". A sound key
// would else be called wrong, and the value proposed in its place.
func notDKIMKey(value string) string {
	const copyIt = "copy the whole TXT value that Postmark shows, \"k=rsa; p=...\""
	key := parseDKIMKey(value)
	switch {
	case key.revoked:
		return "has an empty p=, which means that the key was withdrawn; " + copyIt
	case key.p == "":
		return "is not a DKIM key; " + copyIt
	}
	for _, p := range key.problems {
		// A weak key may be the one that Postmark signs with (WeakDKIM), which the
		// report says.
		if findingCatalogue[p.code].level != DomainFail || p.code == "dkim_rsa_short" {
			continue
		}
		return "is not a sound DKIM key: " + p.text + " Please " + copyIt
	}
	return ""
}

func (k *checker) checkDKIM(ctx context.Context) {
	targets, _ := k.dkimTargets()
	if len(targets) == 0 {
		k.report.DKIM = []DKIMReport{}
		k.add("dkim_no_selector", DomainFinding{
			Summary: "DKIM was not checked, because no selector was given.",
			Fix:     "Copy the DKIM host from Postmark (Sender Signatures, DNS settings), such as 20231123163444pm._domainkey." + k.domain + ", and give the part before ._domainkey as the selector.",
		})
		return
	}
	reports := make([]DKIMReport, len(targets))
	var wg sync.WaitGroup
	for i, t := range targets {
		wg.Go(func() { reports[i] = k.dkimHost(ctx, t) })
	}
	wg.Wait()
	k.report.DKIM = reports
	k.dkimRotation(reports, targets)
}

// dkimRotation: while a key is exchanged, Postmark signs with the current one
// until it has seen the pending one.
func (k *checker) dkimRotation(rs []DKIMReport, ts []dkimTarget) {
	current := ""
	if key := signingKey(rs); key != nil && key.Role == "current" {
		current = key.State
	}
	for i, r := range rs {
		if r.State == "ok" && r.Role == "current" {
			k.note("DKIM", fmt.Sprintf("%s key found at %s", keyText(r), r.Host))
		}
		if r.Role == "revoked" && r.State == "ok" && k.Postmark.SafeToRemoveRevokedKeyFromDNS {
			k.add("dkim_remove_revoked", DomainFinding{
				Name: r.Host, Type: "TXT", Found: []string{r.Record},
				Summary: "The old key at " + r.Host + " is revoked at Postmark and may be removed.",
				Fix:     "Delete the TXT record " + r.Host + ".",
			})
		}
		if r.Role == "pending" && r.State == "missing" {
			f := DomainFinding{
				Name: r.Host, Type: "TXT",
				Summary: "The new key that Postmark waits for is not published at " + r.Host + ".",
				Fix:     "Publish the record, then press Verify in Postmark.",
				Level:   DomainFail,
			}
			if current == "ok" || current == "unknown" {
				f.Level = DomainWarn
			}
			if ts[i].value != "" {
				f.Publish = []DomainRecord{txtRecord(r.Host, ts[i].value)}
			}
			k.add("dkim_pending_missing", f)
		}
		if r.Role == "pending" && (r.State == "broken" || r.State == "revoked") && (current == "ok" || current == "unknown") && !slices.ContainsFunc(rs, func(o DKIMReport) bool { return o.Role == "current" && o.Host == r.Host }) {
			k.laterHarm(r.Host, current)
		}
	}
}

// laterHarm grades what is wrong with a pending key: mail is signed with the
// current one until Postmark has seen it.
func (k *checker) laterHarm(host, current string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i := range k.findings {
		f := &k.findings[i]
		if f.Area != "DKIM" || f.Name != host || f.Level != DomainFail {
			continue
		}
		f.Level = DomainWarn
		f.Why = "Mail is signed with the current key until Postmark has seen the new one; the exchange of the key cannot be completed before the new one is right."
		if current == "ok" {
			f.Summary += " Today's mail passes by the current key."
		}
	}
}

// testKeyIn reports whether mail is signed with a key that is marked as a test:
// receivers may treat such mail as unsigned (RFC 6376 section 3.6.1).
func testKeyIn(rs []DKIMReport) bool {
	key := signingKey(rs)
	return key != nil && parseDKIMKey(key.Record).testing
}

func keyText(r DKIMReport) string {
	if r.KeyType == "rsa" {
		return fmt.Sprintf("%d-bit RSA", r.Bits)
	}
	return "Ed25519"
}

// dkimHost looks at one host. For a revoked key nothing is required.
func (k *checker) dkimHost(ctx context.Context, t dkimTarget) DKIMReport {
	r := DKIMReport{Role: t.role, Host: t.host, Selector: t.selector, Domain: t.domain, State: "unknown"}
	ans := k.look(ctx, t.host, "TXT")
	for _, n := range ans.chain {
		r.Aliases = append(r.Aliases, strings.TrimSuffix(n, "."))
	}
	found := ans.texts()
	mended := sync.OnceValue(func() string { return mendDKIM(found) })
	add := func(code, summary, fix string) {
		if t.role == "revoked" {
			return
		}
		f := DomainFinding{Name: t.host, Type: "TXT", Found: found, Summary: summary, Fix: fix}
		if t.value != "" && code != "dkim_cname" && findingCatalogue[code].level.rank() >= DomainWarn.rank() {
			f.Publish = []DomainRecord{txtRecord(t.host, t.value, found...)}
		} else if t.value == "" && mendableDKIM[code] && mended() != "" {
			f.Publish = []DomainRecord{txtRecord(t.host, mended(), found...)}
		}
		k.add(code, f)
	}
	copyIt := "Copy the TXT value from Postmark (Sender Signatures, DNS settings) and publish it at " + t.host + " as one TXT record."
	switch {
	case ans.state == dnsFailed && loops(ans.chain, t.host):
		r.State = "broken"
		add("dkim_cname_loop", "The alias at "+t.host+" leads back to itself.", "Remove the CNAME record. "+copyIt)
		return r
	case ans.state == dnsFailed:
		if t.role != "revoked" {
			k.unasked("dkim_unasked", "the DKIM key", ans)
		}
		return r
	case len(ans.records) == 0 && loops(ans.chain, t.host):
		r.State = "broken"
		add("dkim_cname_loop", "The alias at "+t.host+" leads back to itself.", "Remove the CNAME record. "+copyIt)
		return r
	case len(ans.records) == 0 && len(ans.chain) > 0:
		r.State = "broken"
		add("dkim_cname_dangling", "The alias at "+t.host+" points to "+r.Aliases[len(r.Aliases)-1]+", and there is no key there.", "Correct the CNAME record, or remove it. "+copyIt)
		return r
	case len(ans.records) == 0:
		r.State = "missing"
		if t.role == "current" {
			k.dkimMissing(ctx, t, add, copyIt)
		}
		return r
	}
	if len(r.Aliases) > 0 {
		add("dkim_cname", "The key is published through an alias, "+t.host+" to "+strings.Join(r.Aliases, " to ")+".", "")
	}
	keys := found
	if len(found) > 1 {
		keys = slices.DeleteFunc(slices.Clone(found), func(s string) bool { return !looksLikeDKIM(s) })
	}
	switch {
	case len(keys) > 1:
		r.State = "broken"
		add("dkim_multiple", fmt.Sprintf("There are %d DKIM keys at %s; a verifier may take either.", len(keys), t.host), "Keep exactly one TXT record there.")
		return r
	case len(keys) == 0 || !looksLikeDKIM(keys[0]):
		r.State = "broken"
		add("dkim_not_a_key", "The TXT record at "+t.host+" is not a DKIM key. A wildcard record of the zone may be answering in its place.", copyIt)
		return r
	case len(found) > 1:
		add("dkim_other_txt", "Other TXT records stand beside the DKIM key at "+t.host+"; which one a verifier takes is undefined.", "Keep the key as the only TXT record there.")
	}
	r.Record = keys[0]
	k.dkimKey(&r, t, add, copyIt)
	if len(found) > 1 && r.State == "ok" {
		r.State = "broken"
	}
	return r
}

func looksLikeDKIM(s string) bool {
	_, ok := taglist.Parse(s, true).Get("p")
	return ok || strings.Contains(s, "DKIM1")
}

func loops(chain []string, start string) bool {
	seen := map[string]bool{strings.ToLower(start) + ".": true}
	for _, n := range chain {
		if seen[n] {
			return true
		}
		seen[n] = true
	}
	return false
}

// dkimMissing tells the usual mistake (the panel added the domain again) from
// a record that is not there at all.
func (k *checker) dkimMissing(ctx context.Context, t dkimTarget, add func(code, summary, fix string), copyIt string) {
	doubled := t.host + "." + t.domain
	if r := k.ask.ask(ctx, doubled, "TXT"); r.state == dnsFound && slices.ContainsFunc(r.texts(), looksLikeDKIM) {
		f := DomainFinding{
			Name: doubled, Type: "TXT", Found: r.show(),
			Summary: "The DKIM key was entered under the wrong name, " + doubled + ": the DNS panel added the domain a second time.",
			Fix:     "Delete that record and enter the one below, with " + strings.TrimSuffix(t.host, "."+k.domain) + " as the host, without the domain.",
		}
		value := t.value
		if value == "" {
			value = soundDKIM(r.texts())
			if value == "" {
				f.Summary += " And what stands there is not one sound key."
				f.Fix = "Delete what stands there. " + copyIt + " Enter " + strings.TrimSuffix(t.host, "."+k.domain) + " as the host in the DNS panel, without the domain."
			}
		}
		if value != "" {
			f.Publish = []DomainRecord{txtRecord(t.host, value)}
		}
		k.add("dkim_doubled_host", f)
		return
	}
	if a := k.ask.addrs(ctx, t.host); a.state == dnsFound {
		add("dkim_address", "At "+t.host+" stands an address in place of the DKIM key. Either a proxy of the DNS panel is switched on for it, or a wildcard record (*) of the zone answers there.",
			"Switch the proxy off for this record (\"DNS only\"). "+copyIt)
		return
	}
	add("dkim_missing", "There is no DKIM key at "+t.host+".", copyIt)
}

func (k *checker) dkimKey(r *DKIMReport, t dkimTarget, add func(code, summary, fix string), copyIt string) {
	key := parseDKIMKey(r.Record)
	r.KeyType, r.Bits, r.State = key.kind, key.bits, "ok"
	for _, p := range key.problems {
		if findingCatalogue[p.code].level == DomainFail {
			r.State = "broken"
		}
		fix := copyIt
		if p.fix != "" || findingCatalogue[p.code].level != DomainFail {
			fix = p.fix
		}
		add(p.code, p.text, fix)
	}
	if key.revoked {
		r.State = "revoked"
		add("dkim_revoked", "The key at "+t.host+" has an empty p=, which means that it was withdrawn.", copyIt)
	}
	if t.value == "" || key.revoked {
		return
	}
	want := parseDKIMKey(t.value)
	r.Matches = want.p != "" && want.p == key.p
	if !r.Matches {
		r.State = "broken"
		which := "the one that Postmark signs with"
		if t.role == "pending" {
			which = "the new one that Postmark waits for"
		}
		add("dkim_key_differs", "The key at "+t.host+" is not "+which+".", copyIt)
	}
}

// mendableDKIM are the findings about what stands around a key.
var mendableDKIM = map[string]bool{
	"dkim_syntax": true, "dkim_version": true, "dkim_empty_tag": true, "dkim_comment": true, "dkim_testing": true, "dkim_sha1_only": true, "dkim_no_email": true, "dkim_other_txt": true,
}

// mendDKIM writes a key record anew when the key in it is sound and only what
// stands around it is not.
func mendDKIM(found []string) string {
	keys := slices.DeleteFunc(slices.Clone(found), func(s string) bool { return !looksLikeDKIM(s) })
	if len(keys) != 1 {
		return ""
	}
	k := parseDKIMKey(keys[0])
	mended := "k=" + k.kind + "; p=" + k.p
	if k.strict {
		mended = "k=" + k.kind + "; t=s; p=" + k.p
	}
	if k.p == "" || slices.ContainsFunc(parseDKIMKey(mended).problems, func(p dkimProblem) bool { return findingCatalogue[p.code].level.rank() >= DomainWarn.rank() }) {
		return ""
	}
	return mended
}

// soundDKIM is the only sound key among texts, mended when only what stands around
// it is not; "" when there is none, or when it cannot be told which one is meant.
func soundDKIM(texts []string) (value string) {
	known := ""
	for _, text := range texts {
		if !looksLikeDKIM(text) {
			continue
		}
		key := parseDKIMKey(text)
		worst := DomainOK
		for _, p := range key.problems {
			worst = worse(worst, findingCatalogue[p.code].level)
		}
		if worst.rank() >= DomainWarn.rank() {
			if mended := mendDKIM([]string{text}); mended != "" {
				text = mended
			} else if worst == DomainFail {
				continue
			}
		}
		if key.p == "" || key.p == known {
			continue
		}
		if known != "" {
			return ""
		}
		known, value = key.p, text
	}
	return value
}
