package fluxly

import (
	"context"
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
// c.InFlight questions are in flight over all of them, and at most 16 domains
// are worked on at a time; c.Timeout bounds each domain. Results stand in the
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
			out[i].Report, out[i].Err = k.check(ctx)
		})
	}
	wg.Wait()
	return out
}

// DomainChange is one difference between two reports.
type DomainChange struct {
	// Kind is "new" (a finding that was not there), "gone", "level" (a
	// finding that was graded otherwise), "record" (what is published
	// changed) or "ready".
	Kind string `json:"kind"`
	// Code is that of the finding; empty for "record" and "ready".
	Code string `json:"code,omitempty"`
	// Name is the host that it is about.
	Name string `json:"name,omitempty"`
	// Before and After are levels, records, or "true" and "false".
	Before string `json:"before,omitempty"`
	After  string `json:"after,omitempty"`
	// Text says it in a sentence.
	Text string `json:"text"`
}

// CompareReports tells what changed from one report of a domain to the next.
// A part that could not be asked in either of them makes no change: a silent
// server is not a removed record.
func CompareReports(before, after *DomainReport) []DomainChange {
	var out []DomainChange
	if before.Ready != after.Ready {
		c := DomainChange{Kind: "ready", Before: boolText(before.Ready), After: boolText(after.Ready), Text: after.Domain + " is no longer ready to send."}
		if after.Ready {
			c.Text = after.Domain + " is now ready to send."
		}
		out = append(out, c)
	}
	for _, r := range []struct{ name, before, after, state1, state2 string }{
		{"_dmarc." + after.Domain, before.DMARC.Record, after.DMARC.Record, before.DMARC.State, after.DMARC.State},
		{after.Domain, strings.Join(before.SPF.Records, " | "), strings.Join(after.SPF.Records, " | "), before.SPF.State, after.SPF.State},
		{after.ReturnPath.Host, before.ReturnPath.Target, after.ReturnPath.Target, before.ReturnPath.State, after.ReturnPath.State},
	} {
		out = appendRecordChange(out, r.name, r.before, r.after, r.state1 == "unknown" || r.state2 == "unknown")
	}
	for _, d := range after.DKIM {
		if i := slices.IndexFunc(before.DKIM, func(o DKIMReport) bool { return o.Host == d.Host }); i >= 0 {
			o := before.DKIM[i]
			out = appendRecordChange(out, d.Host, o.Record, d.Record, o.State == "unknown" || d.State == "unknown")
		}
	}
	return append(out, compareFindings(before, after)...)
}

func appendRecordChange(out []DomainChange, name, before, after string, unknown bool) []DomainChange {
	if unknown || before == after {
		return out
	}
	c := DomainChange{Kind: "record", Name: name, Before: before, After: after, Text: "The record at " + name + " changed."}
	switch {
	case before == "":
		c.Text = "A record was published at " + name + "."
	case after == "":
		c.Text = "The record at " + name + " was removed."
	}
	return append(out, c)
}

type findingKey struct{ code, name, subject string }

// What may differ between two findings about the same thing.
var (
	loneNumber = regexp.MustCompile(`(^|[ (])[0-9]+($|[ .,;:)])`)
	addedWords = regexp.MustCompile(` There are [0-9]+ more of this kind\.| So says [^ ]+; the zone's servers disagree\.`)
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

func compareFindings(before, after *DomainReport) (out []DomainChange) {
	old := map[findingKey][]DomainFinding{}
	unasked := map[string]bool{} // areas
	for _, f := range before.Findings {
		k := keyOf(f)
		old[k] = append(old[k], f)
	}
	for _, f := range append(slices.Clone(before.Findings), after.Findings...) {
		if f.Level == DomainUnknown {
			unasked[f.Area] = true
		}
	}
	for _, f := range after.Findings {
		k := keyOf(f)
		if len(old[k]) == 0 {
			if f.Level == DomainUnknown || !unasked[f.Area] {
				out = append(out, DomainChange{Kind: "new", Code: f.Code, Name: f.Name, After: string(f.Level), Text: f.Summary})
			}
			continue
		}
		if o := old[k][0]; o.Level != f.Level {
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
		if f.Level != DomainUnknown && unasked[f.Area] {
			continue
		}
		out = append(out, DomainChange{Kind: "gone", Code: f.Code, Name: f.Name, Before: string(f.Level), Text: "No longer so: " + f.Summary})
	}
	return out
}

func boolText(b bool) string {
	if b {
		return "true"
	}
	return "false"
}

// WatchDomain checks domain now and then every interval (default 5 minutes, at
// least 1 s), and calls each with the report and what changed since the one
// before; the first call has no changes. It returns when ctx ends, with its
// error, or when each returns false, with nil. An error matching [ErrInvalid]
// comes back at once.
func WatchDomain(ctx context.Context, domain string, c DomainCheck, interval time.Duration, each func(r *DomainReport, changes []DomainChange) bool) error {
	if interval <= 0 {
		interval = 5 * time.Minute
	}
	tick := time.NewTicker(max(interval, time.Second))
	defer tick.Stop()
	var before *DomainReport
	for {
		r, err := CheckDomain(ctx, domain, c)
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		var changes []DomainChange
		if before != nil {
			changes = CompareReports(before, r)
		}
		before = r
		if !each(r, changes) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}
