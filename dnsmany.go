package fluxly

import (
	"cmp"
	"context"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// DomainResult is the outcome for one domain of many.
type DomainResult struct {
	Domain string
	// Report is nil only when Err matches [ErrInvalid].
	Report *DomainReport
	Err    error
}

// CheckDomains checks many domains at once. They share one resolver, and what
// they all ask for (such as Postmark's own records) is asked once. At most
// c.InFlight questions are in flight over all of them, of which one domain takes a
// quarter, or an equal part where they are fewer than four; at most 16 domains
// are worked on at a time, and c.Timeout bounds each domain. Results stand in the
// order of domains.
//
// A DKIM selector differs by domain: give "domain=selector" in place of the
// domain where it is known, as in "acme.test=20231123163444pm".
func CheckDomains(ctx context.Context, domains []string, c DomainCheck) []DomainResult {
	out := make([]DomainResult, len(domains))
	// Each domain has its own deadline, so a question must not end with that
	// of the domain that happened to ask first.
	base, cancel := context.WithCancel(ctx)
	shared := c.newAskCore()
	shared.base = base
	defer shared.settle(ctx)
	defer cancel()
	const atOnce = 16
	share := max(1, cap(shared.slots)/4, cap(shared.slots)/max(1, len(domains)))
	slots := make(chan struct{}, atOnce)
	var wg sync.WaitGroup
	for i, d := range domains {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			own := c
			name, selector, ok := strings.Cut(d, "=")
			if ok {
				own.DKIMSelector = selector
			}
			out[i].Domain = name
			k, err := newChecker(name, own, shared)
			if err != nil {
				out[i].Err = err
				return
			}
			k.ask.share = make(chan struct{}, share)
			out[i].Report, out[i].Err = k.check(ctx)
		})
	}
	wg.Wait()
	return out
}

// DomainChange is one difference between two reports.
type DomainChange struct {
	// Kind is "new" (a finding that was not there), "gone", "level" (a
	// finding that was graded otherwise; Text is its summary), "record" (what
	// is published changed) or "ready".
	Kind string `json:"kind"`
	// Code is that of the finding; empty for "record" and "ready".
	Code string `json:"code,omitempty"`
	// Name is the host that it is about.
	Name string `json:"name,omitempty"`
	// Before and After are levels, records, or "true" and "false". Several
	// records at one name are joined by " | "; an address in place of the
	// Return-Path alias is "(an address)".
	Before string `json:"before,omitempty"`
	After  string `json:"after,omitempty"`
	// Text says it in a sentence.
	Text string `json:"text"`
}

// CompareReports tells what changed from one report of a domain to the next.
// A part that could not be asked in either of them makes no change: a silent
// server is not a removed record, and a domain about which it cannot be told is
// not one that ceased to be ready. So where reports are saved and compared in
// pairs, what changed across an unanswered check is in no pair: keep the last
// report in which the part was known and compare with that one. [WatchDomain]
// does so by itself.
//
// The records compared are those of DKIM (at hosts that both reports asked),
// DMARC, SPF at the domain, the Return-Path alias and the mail host (MX). What
// they point to, such as an included SPF record, and the records of profiles
// make a change only through their findings.
//
// Nothing is compared when either report is nil; then there are no changes. Of
// two different domains it is told how they differ, under the names of the
// second: whoever calls sees to it that they are of one.
func CompareReports(before, after *DomainReport) []DomainChange {
	if before == nil || after == nil {
		return nil
	}
	unasked := unaskedAreas(before)
	maps.Copy(unasked, unaskedAreas(after))
	return compareReports(before, after, unasked, nil)
}

// compareReports leaves the findings of the areas alone that could not be asked.
// Of those in fresh, about which nothing was known before, it tells what is to be
// mended.
func compareReports(before, after *DomainReport, unasked, fresh map[string]bool) []DomainChange {
	var out []DomainChange
	if before.Ready != after.Ready && after.readyKnown() {
		c := DomainChange{Kind: "ready", Before: boolText(before.Ready), After: boolText(after.Ready), Text: after.Domain + " is no longer ready to send."}
		if after.Ready {
			c.Text = after.Domain + " is now ready to send."
		}
		out = append(out, c)
	}
	out = append(out, compareDMARC(before, after)...)
	out = appendRecordChange(out, "record", after.Domain,
		publishedState{strings.Join(before.SPF.Records, " | "), before.SPF.State}, publishedState{strings.Join(after.SPF.Records, " | "), after.SPF.State})
	out = appendRecordChange(out, "record", after.ReturnPath.Host, before.ReturnPath.published(), after.ReturnPath.published())
	for _, d := range after.DKIM {
		if i := slices.IndexFunc(before.DKIM, func(o DKIMReport) bool { return o.Host == d.Host }); i >= 0 {
			out = appendRecordChange(out, "record", d.Host, before.publishedKey(before.DKIM[i]), after.publishedKey(d))
		}
	}
	out = appendRecordChange(out, "mail host (MX)", after.Domain, before.publishedMX(), after.publishedMX())
	return append(out, compareFindings(before, after, unasked, fresh)...)
}

// publishedState is all that stands at a name, and what the report says of it:
// only where it is "missing" was something removed.
type publishedState struct{ value, state string }

func (s ReturnPathState) published() publishedState {
	if s.State == "address" {
		return publishedState{"(an address)", s.State}
	}
	return publishedState{s.Target, s.State}
}

// publishedKey: a report has a record only where it is the only one; several
// stand in the finding about them.
func (r *DomainReport) publishedKey(d DKIMReport) publishedState {
	value := cmp.Or(d.Record, r.foundAt(d.Host, "dkim_multiple", "dkim_not_a_key"))
	if value == "" && len(d.Aliases) > 0 {
		value = "CNAME " + strings.Join(d.Aliases, " ")
	}
	return publishedState{value, d.State}
}

// foundAt joins what the first finding of such a code at the name found.
func (r *DomainReport) foundAt(name string, codes ...string) string {
	for _, f := range r.Findings {
		if f.Name == name && slices.Contains(codes, f.Code) {
			return strings.Join(f.Found, " | ")
		}
	}
	return ""
}

func (r *DomainReport) publishedMX() publishedState {
	i := r.mxQuery()
	if i < 0 {
		return publishedState{"", "unknown"}
	}
	switch q := r.Queries[i]; q.Result {
	case "found":
		// A null MX is a record too.
		return publishedState{cmp.Or(strings.Join(q.Found, " | "), "."), "ok"}
	case "no such record", "no such name", "not found":
		return publishedState{"", "missing"}
	}
	return publishedState{"", "unknown"}
}

func (r *DomainReport) mxQuery() int {
	return slices.IndexFunc(r.Queries, func(q DomainQuery) bool {
		return q.Name == r.Domain && q.Type == "MX" && q.Server == "" && !q.Unchecked
	})
}

// compareDMARC names the host at which the record stands, which may be one
// further up.
func compareDMARC(before, after *DomainReport) (out []DomainChange) {
	b, a := before.DMARC, after.DMARC
	own := "_dmarc." + after.Domain
	if b.State == "unknown" || a.State == "unknown" || b.Record == "" || a.Record == "" || b.Host == a.Host {
		published := func(r *DomainReport) publishedState {
			return publishedState{cmp.Or(r.DMARC.Record, r.foundAt("_dmarc."+r.Domain, "dmarc_multiple")), r.DMARC.State}
		}
		return appendRecordChange(nil, "record", cmp.Or(a.Host, b.Host, own), published(before), published(after))
	}
	return append(out, DomainChange{
		Kind: "record", Name: a.Host, Before: b.Record, After: a.Record,
		Text: "The DMARC policy now comes from the record at " + a.Host + ", and no longer from that at " + b.Host + ".",
	})
}

// readyKnown reports whether Ready can be told: it is false for a domain that
// is not ready only because something could not be asked.
func (r *DomainReport) readyKnown() bool {
	if r.Ready || slices.ContainsFunc(r.Findings, DomainFinding.vetoes) {
		return true
	}
	unasked := unaskedAreas(r)
	return !unasked["DKIM"] && !unasked["DMARC"] && !unasked["Alignment"] && !unasked["Zone"]
}

// unaskedAreas are those about which something could not be asked, and those
// that rest on them.
func unaskedAreas(r *DomainReport) map[string]bool {
	out := map[string]bool{}
	for _, f := range r.Findings {
		if f.Level != DomainUnknown || f.Code == "dkim_no_selector" {
			continue
		}
		out[f.Area] = true
		switch f.Area {
		case "DKIM", "DMARC":
			out["Return-Path"], out["Alignment"] = true, true
		case "Return-Path":
			out["Alignment"] = true
		}
	}
	return out
}

func appendRecordChange(out []DomainChange, what, name string, before, after publishedState) []DomainChange {
	if before.state == "unknown" || after.state == "unknown" || before.value == after.value {
		return out
	}
	c := DomainChange{Kind: "record", Name: name, Before: before.value, After: after.value, Text: "The " + what + " at " + name + " changed."}
	switch {
	case before.value == "" && before.state == "missing":
		c.Text = "A " + what + " was published at " + name + "."
	case after.value == "" && after.state == "missing":
		c.Text = "The " + what + " at " + name + " was removed."
	}
	return append(out, c)
}

// lastKnown is what a watch remembers: the latest report, in which what could
// not be asked is as it was when it last could.
type lastKnown struct {
	report *DomainReport
	never  map[string]bool // areas about which nothing was known so far
}

// next tells what changed, and remembers r.
func (l *lastKnown) next(r *DomainReport) (changes []DomainChange) {
	unasked := unaskedAreas(r)
	if l.report == nil {
		l.report, l.never = r, unasked
		return nil
	}
	old := l.report
	fresh := maps.Clone(l.never)
	maps.DeleteFunc(fresh, func(area string, _ bool) bool { return unasked[area] })
	changes = compareReports(old, r, unasked, fresh)
	now := *r
	if !r.readyKnown() {
		now.Ready = old.Ready
	}
	if r.DMARC.State == "unknown" {
		now.DMARC = old.DMARC
	}
	if r.SPF.State == "unknown" {
		now.SPF = old.SPF
	}
	if r.ReturnPath.State == "unknown" {
		now.ReturnPath = old.ReturnPath
	}
	now.DKIM = slices.Clone(r.DKIM)
	for i, d := range now.DKIM {
		if j := slices.IndexFunc(old.DKIM, func(o DKIMReport) bool { return o.Host == d.Host }); d.State == "unknown" && j >= 0 {
			now.DKIM[i] = old.DKIM[j]
		}
	}
	if i, j := r.mxQuery(), old.mxQuery(); i >= 0 && j >= 0 && r.publishedMX().state == "unknown" {
		now.Queries = slices.Clone(r.Queries)
		now.Queries[i] = old.Queries[j]
	}
	now.Findings = nil
	for _, f := range r.Findings {
		if !unasked[f.Area] || f.Level == DomainUnknown {
			now.Findings = append(now.Findings, f)
		}
	}
	for _, f := range old.Findings {
		if unasked[f.Area] && f.Level != DomainUnknown {
			now.Findings = append(now.Findings, f)
		}
	}
	maps.DeleteFunc(l.never, func(area string, _ bool) bool { return !unasked[area] })
	l.report = &now
	return changes
}

type findingKey struct{ code, name, subject string }

// What may differ between two findings about the same thing.
var (
	loneNumber = regexp.MustCompile(`(^|[ (])[0-9]+($|[ .,;:)])`)
	addedWords = regexp.MustCompile(` There are (at least )?[0-9]+ more of this kind( at other names)?\.| So says [^ ]+; the zone's servers disagree\.`)
)

// keyOf tells findings of one code at one name apart by what they are about,
// which stands in the summary: a server, a term, a tag. Numbers and the reason
// why something could not be asked are no part of it.
func keyOf(f DomainFinding) findingKey {
	k := findingKey{code: f.Code, name: f.Name}
	switch f.Area {
	case "Return-Path", "Alignment", "Mail host":
		return k // one of each code
	}
	k.subject = addedWords.ReplaceAllString(f.Summary, "")
	if f.Area == "Zone" || f.Level == DomainUnknown {
		for _, end := range []string{": ", " (", ". "} {
			k.subject, _, _ = strings.Cut(k.subject, end)
		}
		k.subject = strings.TrimSuffix(k.subject, ".")
	}
	k.subject = loneNumber.ReplaceAllString(k.subject, "$1#$2")
	return k
}

func compareFindings(before, after *DomainReport, unasked, fresh map[string]bool) (out []DomainChange) {
	// told: what is only worth knowing is no change where nothing was known
	// before.
	told := func(f DomainFinding, levels ...DomainLevel) bool {
		if unasked[f.Area] {
			return false
		}
		return !fresh[f.Area] || slices.Contains(levels, DomainFail) || slices.Contains(levels, DomainWarn)
	}
	old := map[findingKey][]DomainFinding{}
	for _, f := range before.Findings {
		k := keyOf(f)
		old[k] = append(old[k], f)
	}
	for _, f := range after.Findings {
		k := keyOf(f)
		if len(old[k]) == 0 {
			if f.Level == DomainUnknown || told(f, f.Level) {
				out = append(out, DomainChange{Kind: "new", Code: f.Code, Name: f.Name, After: string(f.Level), Text: f.Summary})
			}
			continue
		}
		if o := old[k][0]; o.Level != f.Level && told(f, o.Level, f.Level) {
			out = append(out, DomainChange{Kind: "level", Code: f.Code, Name: f.Name, Before: string(o.Level), After: string(f.Level), Text: f.Summary})
		}
		old[k] = old[k][1:]
	}
	for _, f := range before.Findings {
		k := keyOf(f)
		if len(old[k]) == 0 {
			continue
		}
		old[k] = old[k][1:]
		if f.Level == DomainUnknown || told(f, f.Level) {
			out = append(out, DomainChange{Kind: "gone", Code: f.Code, Name: f.Name, Before: string(f.Level), Text: "No longer so: " + f.Summary})
		}
	}
	return out
}

func boolText(b bool) string {
	if b {
		return "true"
	}
	return "false"
}

// WatchDomain checks domain now and then every interval, by default 5 minutes
// and at least 1 s. It calls each with every report, from the goroutine it was
// called in and one call at a time, with what changed since the one before; the
// first call has no changes. A check that takes longer than the interval puts
// off the next one.
//
// What could not be asked is compared with what was last known of it once it can
// be asked again; where nothing was known yet, what is to be mended is then told
// as new. What is compared is what [CompareReports] compares.
//
// WatchDomain returns when ctx ends, with its error, or when each returns false,
// with nil. A check that ctx cuts short is not handed to each. An error matching
// [ErrInvalid] comes back at once, before anything was asked.
func WatchDomain(ctx context.Context, domain string, c DomainCheck, interval time.Duration, each func(r *DomainReport, changes []DomainChange) bool) error {
	if interval <= 0 {
		interval = 5 * time.Minute
	}
	tick := time.NewTicker(max(interval, time.Second))
	defer tick.Stop()
	var known lastKnown
	for {
		r, err := CheckDomain(ctx, domain, c)
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !each(r, known.next(r)) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}
