package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/getfluxly/fluxly"
)

const dnscheckHelp = `Usage: fluxly dnscheck DOMAIN... [flags]

Checks DKIM, the Return-Path alias, SPF, DMARC and their alignment for mail
sent through Postmark, and prints the exact records to publish. Flags may
stand before or after the domains. With several domains, give the selector of
each as DOMAIN=SELECTOR. What differs by domain (-dkim, -postmark, -return-path)
goes with one domain only.

Exit code:
  0  nothing fails; there may be warnings
  1  something fails, or with -strict there is a warning
  2  wrong arguments, such as a name that is no domain; or the output could not
     be written
  3  nothing fails, but something could not be asked
Of several domains the worst counts: 2 before 1, and 1 before 3. With -watch it
is the code of the last check, and 3 when not one was completed.

Flags:
`

type dnscheckFlags struct {
	check    fluxly.DomainCheck
	json     bool
	html     bool
	zone     bool
	quiet    bool
	strict   bool
	resolver string
	postmark string
	profiles string
	ips      string
	watch    time.Duration
	timeout  time.Duration
}

func dnscheckFlagSet() (*flag.FlagSet, *dnscheckFlags) {
	f := &dnscheckFlags{}
	set := flag.NewFlagSet("dnscheck", flag.ContinueOnError)
	set.StringVar(&f.check.DKIMSelector, "selector", "", "DKIM `selector` or host that Postmark shows, such as 20231123163444pm")
	set.StringVar(&f.check.DKIMValue, "dkim", "", "the DKIM `value` that Postmark shows (\"k=rsa; p=...\"), to compare with")
	set.StringVar(&f.postmark, "postmark", "", "`file` with Postmark's domain object as JSON; \"-\" reads standard input")
	set.StringVar(&f.check.ReturnPath, "return-path", "", "Return-Path `host` (default \"pm-bounces.\" and the domain)")
	set.StringVar(&f.check.SPFInclude, "include", "", "include `domain` for the SPF proposal (default \"spf.mtasv.net\")")
	set.StringVar(&f.check.DMARCReports, "reports", "", "`address` for DMARC reports in a proposed record (default \"dmarc@\" and the domain)")
	set.StringVar(&f.profiles, "profile", "", "further `checks`, comma-separated: "+profileNames())
	set.StringVar(&f.ips, "ip", "", "`addresses` to evaluate against SPF, comma-separated")
	set.StringVar(&f.resolver, "resolver", "", "name `server` to ask, as address or address:port (default: the system's)")
	set.BoolVar(&f.check.CacheOnly, "cache-only", false, "do not ask the zone's own name servers")
	set.DurationVar(&f.timeout, "timeout", 15*time.Second, "time for each domain")
	set.BoolVar(&f.json, "json", false, "print JSON, one report a line with several domains or -watch")
	set.BoolVar(&f.html, "html", false, "print one page of HTML")
	set.BoolVar(&f.zone, "zone", false, "print the records to publish as lines of a zone file")
	set.BoolVar(&f.quiet, "quiet", false, "print nothing; the exit code tells")
	set.BoolVar(&f.strict, "strict", false, "warnings count as failures in the exit code")
	set.DurationVar(&f.watch, "watch", 0, "check again at this `interval`, at least 1s, and print what changed, until interrupted")
	return set, f
}

func profileNames() string {
	var names []string
	for _, p := range fluxly.DomainProfiles() {
		names = append(names, string(p))
	}
	return strings.Join(names, ", ")
}

func dnscheck(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	set, f := dnscheckFlagSet()
	domains, code, done := parse(set, dnscheckHelp, args, stdout, stderr)
	if done {
		return code
	}
	fail := func(err error) int {
		fmt.Fprintln(stderr, "fluxly dnscheck:", err)
		return exitUsage
	}
	switch {
	case len(domains) == 0:
		printHelp(set, dnscheckHelp, stderr)
		return exitUsage
	case f.watch != 0 && len(domains) > 1:
		return fail(errors.New("-watch takes one domain"))
	case f.html && len(domains) > 1:
		return fail(errors.New("-html takes one domain"))
	}
	if err := f.agree(set); err != nil {
		return fail(err)
	}
	if err := f.agreeWith(domains); err != nil {
		return fail(err)
	}
	if err := f.settle(); err != nil {
		return fail(err)
	}
	if f.watch != 0 {
		return f.watchDomain(ctx, domains[0], stdout, stderr)
	}
	code = exitOK
	said := map[string]bool{} // a setting that is wrong is so for each domain
	for _, r := range fluxly.CheckDomains(ctx, domains, f.check) {
		if r.Report == nil {
			code = exitUsage
			if err := flagError(r.Err); !said[err.Error()] {
				said[err.Error()] = true
				fail(err)
			}
			continue
		}
		if err := f.print(stdout, r.Report, len(domains) > 1); err != nil {
			return fail(err)
		}
		if code != exitUsage {
			code = worseCode(code, f.code(r.Report))
		}
	}
	return code
}

// agree refuses flags that contradict each other, and times that are none.
func (f *dnscheckFlags) agree(set *flag.FlagSet) error {
	var forms []string
	for _, o := range []struct {
		name string
		on   bool
	}{{"-json", f.json}, {"-html", f.html}, {"-zone", f.zone}} {
		if o.on {
			forms = append(forms, o.name)
		}
	}
	if n := len(forms); n > 1 {
		return fmt.Errorf("%s and %s are different forms of the report; give one of them", strings.Join(forms[:n-1], ", "), forms[n-1])
	}
	var err error
	set.Visit(func(s *flag.Flag) {
		// An unset variable of the shell must not mean the default: with
		// -resolver the system's would be asked unawares.
		if s.Value.String() == "" && err == nil {
			err = fmt.Errorf("-%s is empty; leave it out where the default is meant", s.Name)
		}
		if d, ok := s.Value.(flag.Getter).Get().(time.Duration); ok && d <= 0 && err == nil {
			err = fmt.Errorf("-%s %s is not above zero", s.Name, d)
		}
	})
	if err == nil && f.watch > 0 && f.watch < time.Second {
		err = fmt.Errorf("-watch %s is shorter than 1s, the least between two checks", f.watch)
	}
	if err == nil && f.watch > 0 && (f.html || f.zone) {
		err = fmt.Errorf("-watch and %s do not go together; what changes is printed as text or with -json", forms[0])
	}
	return err
}

// agreeWith refuses settings of one domain that are given for several, or twice.
func (f *dnscheckFlags) agreeWith(domains []string) error {
	for _, o := range []struct{ name, value string }{{"-dkim", f.check.DKIMValue}, {"-postmark", f.postmark}, {"-return-path", f.check.ReturnPath}} {
		if o.value != "" && len(domains) > 1 {
			return fmt.Errorf("%s takes one domain, because its value differs by domain", o.name)
		}
	}
	if f.postmark != "" && f.check.DKIMSelector != "" {
		return errors.New("-postmark and -selector do not go together; Postmark's object names the selector")
	}
	if f.postmark != "" && f.check.DKIMValue != "" {
		return errors.New("-postmark and -dkim do not go together; Postmark's object holds the key")
	}
	for _, d := range domains {
		name, selector, ok := strings.Cut(d, "=")
		switch {
		case ok && selector == "":
			return fmt.Errorf("%q has no selector behind the =", d)
		case ok && f.postmark != "":
			return fmt.Errorf("-postmark and %q do not go together; Postmark's object names the selector", d)
		case ok && f.check.DKIMSelector != "" && !sameSelector(f.check.DKIMSelector, selector):
			return fmt.Errorf("-selector %q and %q name two selectors for %s", f.check.DKIMSelector, d, name)
		case !ok && f.check.DKIMValue != "" && f.check.DKIMSelector == "":
			return errors.New("-dkim needs the selector too; give -selector")
		}
	}
	return nil
}

// sameSelector compares two ways to write a selector, of which one may be the
// whole host.
func sameSelector(a, b string) bool {
	plain := func(s string) string {
		s, _, _ = strings.Cut(s, "._domainkey")
		return s
	}
	return strings.EqualFold(plain(a), plain(b))
}

// flagOf is the flag that gives a setting.
var flagOf = map[string]string{
	"DKIMSelector": "-selector", "DKIMValue": "-dkim", "ReturnPath": "-return-path", "SPFInclude": "-include", "DMARCReports": "-reports", "Profiles": "-profile",
}

// flagError names the flag where the library names the field.
func flagError(err error) error {
	var fe *fluxly.FieldError
	if !errors.As(err, &fe) {
		return err
	}
	named := *fe
	if name, ok := flagOf[fe.Field]; ok {
		named.Field = name
	} else if field, ok := strings.CutPrefix(fe.Field, "Postmark."); ok {
		named.Field = "-postmark: " + field
	}
	return &named
}

// settle turns the flags into settings.
func (f *dnscheckFlags) settle() error {
	f.check.Timeout = f.timeout
	if f.resolver != "" {
		c, err := fluxly.NewDNSClient(fluxly.DNSClientConfig{Servers: []string{f.resolver}})
		if err != nil {
			return fmt.Errorf("-resolver: %w", err)
		}
		f.check.Resolver = c
	}
	for p := range strings.SplitSeq(f.profiles, ",") {
		if p = strings.TrimSpace(p); p != "" {
			f.check.Profiles = append(f.check.Profiles, fluxly.DomainProfile(p))
		}
	}
	for s := range strings.SplitSeq(f.ips, ",") {
		if s = strings.TrimSpace(s); s == "" {
			continue
		}
		a, err := netip.ParseAddr(s)
		if err != nil {
			return fmt.Errorf("-ip %q is not an IP address", s)
		}
		f.check.Addresses = append(f.check.Addresses, a)
	}
	if f.postmark == "" {
		return nil
	}
	in := os.Stdin
	if f.postmark != "-" {
		file, err := os.Open(f.postmark)
		if err != nil {
			return fmt.Errorf("-postmark: %w", err)
		}
		defer file.Close()
		in = file
	}
	data, err := io.ReadAll(io.LimitReader(in, 1<<20))
	if err != nil {
		return fmt.Errorf("-postmark %s: %w", f.postmark, err)
	}
	// Some editors begin a file with a byte order mark. Unmarshal refuses
	// whatever stands behind the object.
	if err := json.Unmarshal(bytes.TrimPrefix(data, []byte("\ufeff")), &f.check.Postmark); err != nil {
		return fmt.Errorf("-postmark %s holds no JSON object of a Postmark domain: %w", f.postmark, err)
	}
	p := f.check.Postmark
	if p.DKIMHost == "" && p.DKIMPendingHost == "" && p.ReturnPathDomain == "" {
		return fmt.Errorf("-postmark %s holds none of the fields DKIMHost, DKIMPendingHost and ReturnPathDomain; give the body of GET /domains/{id}", f.postmark)
	}
	return nil
}

func (f *dnscheckFlags) print(w io.Writer, r *fluxly.DomainReport, many bool) error {
	switch {
	case f.quiet:
		return nil
	case f.json:
		e := json.NewEncoder(w)
		e.SetEscapeHTML(false)
		if !many && f.watch == 0 {
			e.SetIndent("", "  ")
		}
		return e.Encode(r)
	case f.html:
		return r.WriteHTML(w)
	case f.zone:
		_, err := io.WriteString(w, r.Zone())
		return err
	}
	text := r.Text()
	if many {
		text += "\n"
	}
	_, err := io.WriteString(w, text)
	return err
}

func (f *dnscheckFlags) code(r *fluxly.DomainReport) int {
	warned := slices.ContainsFunc(r.Findings, func(d fluxly.DomainFinding) bool { return d.Level == fluxly.DomainWarn })
	switch {
	case r.Level == fluxly.DomainFail, f.strict && warned:
		return exitFail
	case r.Level == fluxly.DomainUnknown:
		return exitUnknown
	}
	return exitOK
}

func worseCode(a, b int) int {
	if a == exitFail || b == exitFail {
		return exitFail
	}
	return max(a, b)
}

// watchLine is one line of -watch -json, $defs/WatchLine of the schema.
type watchLine struct {
	Report  *fluxly.DomainReport  `json:"report"`
	Changes []fluxly.DomainChange `json:"changes"`
}

func (f *dnscheckFlags) watchDomain(ctx context.Context, domain string, stdout, stderr io.Writer) int {
	code := exitUnknown // until a check is completed, nothing is known
	if name, selector, ok := strings.Cut(domain, "="); ok {
		domain, f.check.DKIMSelector = name, selector
	}
	first := true
	var wrote error
	err := fluxly.WatchDomain(ctx, domain, f.check, f.watch, func(r *fluxly.DomainReport, changes []fluxly.DomainChange) bool {
		code = f.code(r)
		switch {
		case f.quiet:
		case f.json:
			e := json.NewEncoder(stdout)
			e.SetEscapeHTML(false)
			wrote = e.Encode(watchLine{r, append([]fluxly.DomainChange{}, changes...)})
		case first:
			wrote = f.print(stdout, r, false)
		default:
			wrote = writeChanges(stdout, r.CheckedAt, changes)
		}
		first = false
		return wrote == nil
	})
	switch {
	case wrote != nil:
		err = wrote
	case errors.Is(err, fluxly.ErrInvalid):
		err = flagError(err)
	default:
		return code // the user ended it; the last report counts
	}
	fmt.Fprintln(stderr, "fluxly dnscheck:", err)
	return exitUsage
}

// writeChanges prints a line for each change, in ASCII but for its text, and the
// old and the new value of a record below it.
func writeChanges(w io.Writer, at time.Time, changes []fluxly.DomainChange) error {
	var b strings.Builder
	for _, c := range changes {
		b.WriteString(at.Format(time.RFC3339) + "  " + changeMark(c) + " " + c.Text + "\n")
		if c.Kind != "record" {
			continue
		}
		for _, v := range []struct{ name, value string }{{"before", c.Before}, {"after", c.After}} {
			if v.value != "" {
				fmt.Fprintf(&b, "    %-7s %s\n", v.name+":", strconv.QuoteToASCII(v.value))
			}
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// changeMark says what the text of a change does not: how much it matters.
func changeMark(c fluxly.DomainChange) string {
	switch c.Kind {
	case "new":
		return "[" + c.After + "]"
	case "gone":
		return "[" + c.Before + " -> gone]"
	case "level":
		return "[" + c.Before + " -> " + c.After + "]"
	}
	return "[" + c.Kind + "]"
}
