package fluxly

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/getfluxly/fluxly/internal/dnsmsg"
	"github.com/getfluxly/fluxly/internal/spf"
)

// DomainLevel grades a finding, an area of the check, or a whole report.
type DomainLevel string

// The levels, the mildest first.
const (
	// DomainOK: nothing to say.
	DomainOK DomainLevel = "ok"
	// DomainInfo: worth knowing; mail is not harmed.
	DomainInfo DomainLevel = "info"
	// DomainWarn: mail will be harmed, or a protection is weak.
	DomainWarn DomainLevel = "warn"
	// DomainUnknown: it could not be asked. This never means that a record
	// is missing.
	DomainUnknown DomainLevel = "unknown"
	// DomainFail: mail is harmed.
	DomainFail DomainLevel = "fail"
)

var domainLevels = []DomainLevel{DomainOK, DomainInfo, DomainWarn, DomainUnknown, DomainFail}

func (l DomainLevel) rank() int { return slices.Index(domainLevels, l) }

func worse(a, b DomainLevel) DomainLevel {
	if a.rank() >= b.rank() {
		return a
	}
	return b
}

// DomainFinding is one thing that was found.
type DomainFinding struct {
	// Code is stable between releases, such as "spf_multiple".
	Code  string      `json:"code"`
	Level DomainLevel `json:"level"`
	// Area is "DKIM", "Return-Path", "SPF", "DMARC", "Alignment", "Mail
	// host", "Zone" or the name of a profile.
	Area string `json:"area"`
	// Name and Type are what was asked; Found what was there, sorted: the first
	// 100 records, the long ones cut after 4,000 bytes.
	Name  string   `json:"name,omitempty"`
	Type  string   `json:"type,omitempty"`
	Found []string `json:"found,omitempty"`
	// Summary says what is the matter, in one or two sentences.
	Summary string `json:"summary"`
	// Why says what it means for mail.
	Why string `json:"why,omitempty"`
	// Fix says what to do, where something is to be done.
	Fix string `json:"fix,omitempty"`
	// Publish are the exact records to publish.
	Publish []DomainRecord `json:"publish,omitempty"`
	// Optional is true when Publish is an offer that mail does not need.
	Optional bool `json:"optional,omitempty"`
	// RFC is the document and section that the rule comes from.
	RFC string `json:"rfc,omitempty"`
}

// DomainRecord is a record to publish.
type DomainRecord struct {
	// Name is the full host name, without root dot.
	Name string `json:"name"`
	// Type is "TXT", "CNAME" or "MX".
	Type string `json:"type"`
	// Value is the whole value. Panels that ask for it want it like this,
	// without quotes.
	Value string `json:"value"`
	// Strings is the value in strings of at most 255 bytes, for a zone file.
	Strings []string `json:"strings,omitempty"`
	// Replaces are the records at Name that must go when this one comes, of
	// its own type or of another one.
	Replaces []ReplacedRecord `json:"replaces,omitempty"`
}

// ReplacedRecord is a record that stands where another one is to be published.
type ReplacedRecord struct {
	// Type is that of the record, such as "TXT" or "A".
	Type  string `json:"type"`
	Value string `json:"value"`
}

// txtRecord is a text to publish in place of other texts.
func txtRecord(name, value string, replaces ...string) DomainRecord {
	r := DomainRecord{Name: strings.TrimSuffix(name, "."), Type: "TXT", Value: value, Strings: spf.Split(value)}
	for _, v := range replaces {
		r.Replaces = append(r.Replaces, ReplacedRecord{"TXT", v})
	}
	return r
}

// shown is the old record as the reports name it: its type is said when it is
// not that of the new one.
func (o ReplacedRecord) shown(typ string) string {
	if o.Type == typ {
		return printable(o.Value)
	}
	return o.Type + " " + printable(o.Value)
}

// DomainArea is one part of the check.
type DomainArea struct {
	Name    string      `json:"name"`
	Level   DomainLevel `json:"level"`
	Summary string      `json:"summary"`
}

// DomainQuery is one question and what became of it.
type DomainQuery struct {
	Name string `json:"name"`
	Type string `json:"type"`
	// Server is the name server asked directly; empty for the resolver.
	Server string `json:"server,omitempty"`
	// Unchecked is true when the resolver was asked not to validate.
	Unchecked bool `json:"unchecked,omitempty"`
	// Result is "found", "no such record", "no such name", "not found" or the
	// reason why it could not be asked.
	Result string `json:"result"`
	// Found are the first 100 records, the long ones cut after 1,000 bytes.
	Found []string `json:"found,omitempty"`
}

// add files a finding; level, area, reason and RFC come from the catalogue.
func (k *checker) add(code string, f DomainFinding) {
	e, ok := findingCatalogue[code]
	if !ok {
		e = findingEntry{DomainWarn, "Zone", "", ""}
	}
	f.Code = code
	if f.Level == "" {
		f.Level = e.level
	}
	if f.Area == "" {
		f.Area = e.area
	}
	if f.Why == "" {
		f.Why = e.why
	}
	if f.RFC == "" {
		f.RFC = e.rfc
	}
	if f.Level == DomainInfo && len(f.Publish) > 0 {
		f.Optional = true // mail does not need it
	}
	f.Name = strings.TrimSuffix(f.Name, ".")
	f.Summary, f.Fix = clip(plain(f.Summary), 1000), clip(plain(f.Fix), 6000)
	f.Found = someOf(f.Found, findingBytes)
	k.mu.Lock()
	k.findings = append(k.findings, f)
	k.mu.Unlock()
}

// How much of a record is repeated in a finding, and in the list of questions.
const (
	findingBytes  = 4000
	questionBytes = 1000
)

// someOf bounds what is repeated of other people's records.
func someOf(found []string, most int) []string {
	if len(found) > 100 {
		found = found[:100:100]
	}
	if slices.ContainsFunc(found, func(s string) bool { return len(s) > most }) {
		found = slices.Clone(found)
		for i, s := range found {
			found[i] = clip(s, most)
		}
	}
	return found
}

// settlePublish makes the records to publish fit what stands at their names and
// each other, whichever check asked for them.
func (k *checker) settlePublish(ctx context.Context, r *DomainReport) {
	for i := range r.Findings {
		f := &r.Findings[i]
		for j := range f.Publish {
			f.Fix += k.inPlaceOfAlias(ctx, &f.Publish[j])
		}
		if text := k.permission(ctx, f.Publish); text != "" {
			f.Fix += " Also " + text + "."
		}
		if slices.ContainsFunc(f.Publish, func(rec DomainRecord) bool { return dnsmsg.ValidName(rec.Name) != nil }) {
			f.Publish, f.Fix = nil, "Use a shorter domain: the name of the record would be longer than a name may be, so it cannot be published."
		}
		// The alias of the domain itself is its web site.
		f.Publish = slices.DeleteFunc(f.Publish, func(rec DomainRecord) bool {
			return rec.Name == k.domain && slices.ContainsFunc(rec.Replaces, func(o ReplacedRecord) bool { return o.Type == "CNAME" })
		})
	}
	if n := r.DMARC.Next; n != nil {
		if text := k.inPlaceOfAlias(ctx, &n.Publish); text != "" {
			n.When = append(n.When, strings.TrimSuffix(strings.TrimSpace(text), "."))
		}
	}
	oneRecordEach(r.Findings)
}

// permission says what else must be there when a DMARC record to publish has reports
// sent to another organisation (RFC 9989 section 4.7, RFC 7489 section 7.1). It
// is "" when that is there, or when reports go there already, since then it has
// been judged.
func (k *checker) permission(ctx context.Context, records []DomainRecord) string {
	_, host, _ := strings.Cut(k.DMARCReports, "@")
	same, known := belongs(k.domain, k.report.DMARC.Organizational, host)
	if same || !known || slices.Contains(k.report.DMARC.Reports, k.DMARCReports) {
		return ""
	}
	for _, rec := range records {
		of, ok := strings.CutPrefix(rec.Name, "_dmarc.")
		if !ok || !slices.Contains(parseDMARC(rec.Value).rua, k.DMARCReports) {
			continue
		}
		name := of + "._report._dmarc." + host
		if dnsmsg.ValidName(name) != nil {
			return "choose a report address at your own domain: " + host + " cannot agree to take reports about " + of + ", since the name of the record for it would be longer than a name may be"
		}
		if slices.ContainsFunc(k.ask.ask(ctx, name, "TXT").texts(), isDMARC) {
			return ""
		}
		return "have the owner of " + host + " publish a TXT record at " + name + " with the value v=DMARC1; without it receivers send no reports there"
	}
	return ""
}

// inPlaceOfAlias corrects what a text to publish replaces, and says what is to be
// done, when there is an alias at its name: nothing may stand beside that (RFC
// 1034 section 3.6.2), and the texts that were found stand at its end.
func (k *checker) inPlaceOfAlias(ctx context.Context, rec *DomainRecord) string {
	if rec.Type != "TXT" {
		return ""
	}
	chain := k.aliases[dnsmsg.Canonical(rec.Name)]
	if k.ask.querier == nil { // its answers do not show aliases
		for _, r := range k.ask.ask(ctx, rec.Name, "CNAME").records {
			chain = []string{r.Target}
		}
	}
	if len(chain) == 0 {
		return ""
	}
	rec.Replaces = nil
	target, end := strings.TrimSuffix(chain[0], "."), strings.TrimSuffix(chain[len(chain)-1], ".")
	if all := k.wildcard(ctx, rec.Name, "TXT"); len(all.chain) > 0 && all.chain[0] == chain[0] {
		return plain(" A wildcard record (*) of the zone, which is an alias of " + target + ", answers for " + rec.Name + " today; it may stay.")
	}
	rec.Replaces = []ReplacedRecord{{"CNAME", target}}
	if rec.Name == k.domain {
		return plain(" " + rec.Name + " is an alias (CNAME record) of " + target + ", and nothing may stand beside an alias: leave it, and have the record at " + end + " changed if one is wanted: " + rec.Value)
	}
	return plain(" " + rec.Name + " is an alias (CNAME record) of " + target + ": delete the alias before you add the record; or leave it, and have the record at " + end + " changed.")
}

// oneRecordEach leaves the first SPF, DMARC and DKIM record that is to be published
// at a name, and makes the other findings speak of it: of two records receivers
// would use none, or either.
func oneRecordEach(list []DomainFinding) {
	type place struct{ name, kind string }
	first := map[place]DomainRecord{}
	for i := range list {
		f := &list[i]
		if f.Optional {
			continue
		}
		var kept []DomainRecord
		for _, rec := range f.Publish {
			kind, _, _ := strings.Cut(strings.ToLower(rec.Value), "1")
			if strings.Contains(rec.Name, "._domainkey.") {
				kind = "v=dkim" // which the record need not say
			}
			if rec.Type != "TXT" || kind != "v=spf" && kind != "v=dmarc" && kind != "v=dkim" {
				kept = append(kept, rec)
				continue
			}
			known, ok := first[place{rec.Name, kind}]
			if ok && known.Value != rec.Value {
				f.Fix = "Only one such record may stand at " + rec.Name + ": publish the one given above, take over into it what you need of this one, and delete this one."
				continue
			}
			first[place{rec.Name, kind}] = rec
			kept = append(kept, rec)
		}
		f.Publish = kept
	}
}

// unasked files that a question got no answer.
func (k *checker) unasked(code, what string, r dnsReply) {
	k.add(code, DomainFinding{
		Name: r.name, Type: r.typ,
		Summary: "Could not ask for " + what + ": " + r.why + ".",
		Fix:     "Run the check again. This says nothing about whether the record is there.",
	})
}

// fewOfEach keeps the first findings of a kind at a name, and of a kind at all the
// names outside of the domain, and says how many more there are: a record of 64 KB
// may have thousands of the same mistake, and pull in forty such records.
func fewOfEach(domain string, all []DomainFinding) []DomainFinding {
	const few, fewElsewhere = 5, 25
	type place struct{ code, name string }
	here, elsewhere := map[place]int{}, map[string]int{} // those kept
	lastHere, lastElsewhere := map[place]int{}, map[string]int{}
	more, moreElsewhere := map[place]int{}, map[string]int{}
	out := []DomainFinding{}
	for _, f := range all {
		at, other := place{f.Code, f.Name}, !inZone(dnsmsg.Canonical(f.Name), domain)
		switch {
		case here[at] < few && (!other || elsewhere[f.Code] < fewElsewhere):
			here[at]++
			lastHere[at] = len(out)
			if other {
				elsewhere[f.Code]++
				lastElsewhere[f.Code] = len(out)
			}
			out = append(out, f)
		case here[at] > 0:
			more[at]++
		default:
			moreElsewhere[f.Code]++
		}
	}
	for at, n := range more {
		least := ""
		if here[at]+n >= spf.MaxIssues {
			least = "at least "
		}
		out[lastHere[at]].Summary += fmt.Sprintf(" There are %s%d more of this kind.", least, n)
	}
	for code, n := range moreElsewhere {
		out[lastElsewhere[code]].Summary += fmt.Sprintf(" There are %d more of this kind at other names.", n)
	}
	return out
}

// vetoes reports whether a domain with such a finding is surely not ready.
func (f DomainFinding) vetoes() bool {
	return f.Level == DomainFail && (f.Area == "DKIM" || f.Area == "DMARC" || f.Area == "Alignment" || f.Code == "zone_servers_disagree" || f.Code == "dnssec_bogus")
}
