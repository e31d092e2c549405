package fluxly

import (
	"context"
	"fmt"
	"time"
)

// A zone-file snippet of what is to be published, for whoever runs the DNS.
func ExampleDomainReport_Zone() {
	report, err := CheckDomain(context.Background(), "acme.test", DomainCheck{
		DKIMSelector: "s1",
		DKIMValue:    testKey,
		Resolver: mapResolver{
			"TXT s1._domainkey.acme.test.": {testKey},
			"TXT acme.test.":               {"v=spf1 include:spf.mtasv.net ~all"},
			"TXT spf.mtasv.net.":           {"v=spf1 ip4:203.0.113.0/25 -all"},
			"MX acme.test.":                {"mail.acme.test."},
			"TXT _dmarc.acme.test.":        {"v=DMARC1; p=none"},
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Print(report.Zone())
	// Output:
	// ; records for acme.test
	//
	// ; There is no alias at pm-bounces.acme.test, so mail goes out with Postmark's own bounce address, and SPF does not count for your domain. (returnpath_missing)
	// ; optional: pm-bounces.acme.test.	300	IN	CNAME	pm.mtasv.net.
	//
	// ; The DMARC record has no report address (rua), so nobody sees which mail fails. (dmarc_no_reports)
	// ; replaces: v=DMARC1; p=none
	// _dmarc.acme.test.	300	IN	TXT	"v=DMARC1; p=none; rua=mailto:dmarc@acme.test"
}

// Many domains at once; each has its own selector.
func ExampleCheckDomains() {
	resolver := mapResolver{
		"TXT s1._domainkey.acme.test.": {testKey},
		"TXT _dmarc.acme.test.":        {"v=DMARC1; p=reject; rua=mailto:dmarc@acme.test"},
		"MX acme.test.":                {"mail.acme.test."},
	}
	results := CheckDomains(context.Background(), []string{"acme.test=s1", "other.test=s2", "not a domain"}, DomainCheck{Resolver: resolver})
	for _, r := range results {
		if r.Err != nil {
			fmt.Println(r.Err)
			continue
		}
		fmt.Println(r.Domain, "ready:", r.Report.Ready)
	}
	// Output:
	// acme.test ready: true
	// other.test ready: false
	// domain "not a domain": holds the character ' ', which no domain name has
}

// Tell somebody when a record changes.
func ExampleWatchDomain() {
	resolver := mapResolver{
		"TXT s1._domainkey.acme.test.": {testKey},
		"TXT _dmarc.acme.test.":        {"v=DMARC1; p=reject; rua=mailto:dmarc@acme.test"},
		"MX acme.test.":                {"mail.acme.test."},
	}
	check := DomainCheck{DKIMSelector: "s1", Resolver: resolver}
	err := WatchDomain(context.Background(), "acme.test", check, time.Second, func(r *DomainReport, changes []DomainChange) bool {
		if len(changes) == 0 {
			delete(resolver, "TXT s1._domainkey.acme.test.") // somebody tidies the zone up
			return true
		}
		fmt.Println(changes[0].Text)
		return false
	})
	fmt.Println(err)
	// Output:
	// acme.test is no longer ready to send.
	// <nil>
}

// Each record of the SPF tree and what it costs of the ten look-ups.
func ExampleSPFReport() {
	report, err := CheckDomain(context.Background(), "acme.test", DomainCheck{Resolver: mapResolver{
		"TXT acme.test.":          {"v=spf1 mx include:_spf.office.test ~all"},
		"TXT _spf.office.test.":   {"v=spf1 include:_a.office.test include:_b.office.test -all"},
		"TXT _a.office.test.":     {"v=spf1 ip4:198.51.100.0/24 -all"},
		"TXT _b.office.test.":     {"v=spf1 a:out.office.test -all"},
		"A out.office.test.":      {"198.51.100.9"},
		"MX acme.test.":           {"mail.acme.test."},
		"TXT spf.mtasv.net.":      {"v=spf1 ip4:203.0.113.0/25 -all"},
		"TXT _dmarc.acme.test.":   {"v=DMARC1; p=reject; rua=mailto:dmarc@acme.test"},
		"A pm-bounces.acme.test.": nil,
	}})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(report.SPF.Lookups, "of 10")
	for _, t := range report.SPF.Tree.Terms {
		fmt.Println(t.Lookups, t.Text)
	}
	// Output:
	// 5 of 10
	// 1 mx
	// 4 include:_spf.office.test
	// 0 ~all
}
