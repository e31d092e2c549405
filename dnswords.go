package fluxly

import (
	"slices"
	"strconv"
	"strings"
)

// domainWords explains what the report cannot do without to a reader who has
// never entered a DNS record.
var domainWords = [][2]string{
	{"DNS, record", "The public address book of the internet. Each line in it is a record: a host (a name), a type and a value. Whoever runs the domain's name servers has a page, the DNS panel, on which records are entered."},
	{"TXT", "A record that holds a text. SPF, DKIM and DMARC are such texts."},
	{"CNAME, alias", "A record that says: ask for that other name instead. Nothing else may stand at its host."},
	{"DKIM", "A signature in each mail. The key to check it with is published under your domain, and proves that the mail comes from you unchanged."},
	{"Return-Path", "The address to which undeliverable mail comes back. Postmark takes it in, under a name of yours."},
	{"SPF", "A list of the machines that may send for a domain. Receivers check it for the Return-Path, not for the address that people see."},
	{"DMARC", "Says what receivers shall do with mail that looks like yours and proves nothing (p=none: only report; p=quarantine: junk folder; p=reject: refuse), and where to send reports."},
	{"Alignment", "DKIM or SPF count for DMARC only when they pass for your own domain, not for somebody else's."},
}

// where says in which place the records are entered; "" when there are none.
func (r *DomainReport) where() string {
	if !slices.ContainsFunc(r.Findings, func(f DomainFinding) bool { return f.Level != DomainInfo && len(f.Publish) > 0 }) {
		return ""
	}
	s := "Enter the records below in the DNS panel of " + r.Domain + ". "
	var names []string
	for _, n := range r.Servers {
		names = append(names, plain(n.Name))
	}
	if len(names) > 0 {
		return s + "It belongs to whoever runs the domain's name servers, " + strings.Join(names, " and ") + "."
	}
	return s + "It is usually found where the domain was bought, or where its web site is hosted."
}

// levelWord is the level in a word that says what it asks of the reader.
func levelWord(l DomainLevel) string {
	switch l {
	case DomainFail:
		return "to mend"
	case DomainWarn:
		return "warning"
	case DomainUnknown:
		return "not known"
	case DomainInfo:
		return "note"
	case DomainOK:
		return "in order"
	}
	return string(l)
}

// recordTitle says what to do with a record.
func recordTitle(p DomainRecord, optional bool) string {
	s := "Add this record"
	same := 0
	for _, o := range p.Replaces {
		if o.Type == p.Type {
			same++
		}
	}
	switch same {
	case 0:
	case 1:
		s = "Put this record in place of the old one"
	default:
		s = "Delete the " + strconv.Itoa(same) + " old records and add this one"
	}
	if optional {
		return s + ", if you want it"
	}
	return s
}

func (r *DomainReport) verdict() string {
	counts := map[DomainLevel]int{}
	for _, f := range r.Findings {
		counts[f.Level]++
	}
	var parts []string
	for _, p := range []struct {
		level     DomainLevel
		one, many string
	}{{DomainFail, "1 thing to mend", " things to mend"}, {DomainUnknown, "1 thing could not be checked", " things could not be checked"}, {DomainWarn, "1 warning", " warnings"}} {
		switch n := counts[p.level]; {
		case n == 1:
			parts = append(parts, p.one)
		case n > 1:
			parts = append(parts, strconv.Itoa(n)+p.many)
		}
	}
	s := "not ready to send"
	switch {
	case r.Ready:
		s = "ready to send through Postmark"
	case counts[DomainFail] == 0 && counts[DomainUnknown] > 0:
		s = "cannot tell yet whether it is ready to send"
	}
	if len(parts) > 0 {
		s += "; " + strings.Join(parts, ", ")
	}
	return s
}
