package fluxly

import (
	"context"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/idna"

	"github.com/getfluxly/fluxly/internal/dnsmsg"
)

// DomainCheck says what to check. The zero value checks SPF, DMARC, the
// Return-Path and the mail host of a domain that sends through Postmark, and
// reports DKIM as unknown, because its selector cannot be guessed.
type DomainCheck struct {
	// DKIMSelector is the part of Postmark's DKIM host before "._domainkey",
	// such as "20231123163444pm". The whole host may be given too.
	DKIMSelector string
	// DKIMValue is the TXT value that Postmark shows, "k=rsa; p=...". With
	// it the published key is compared; without it any sound key will do. A
	// value that is no sound key itself, such as one that was cut, is refused.
	DKIMValue string
	// Postmark is the domain as Postmark's API gives it. It replaces
	// DKIMSelector and DKIMValue, and checks the pending and the revoked key
	// of a rotation as well. The object of another domain is refused, and so
	// is a ReturnPath beside it that says otherwise.
	Postmark PostmarkDomain
	// ReturnPath is the host that must be an alias of ReturnPathTarget.
	// Defaults: "pm-bounces." and the domain; "pm.mtasv.net". The host may
	// stand beside a subdomain that is checked (pm-bounces.acme.test for
	// news.acme.test), but not be the domain or one above it, nor have a part
	// that begins with an underscore: nothing may stand beside an alias.
	ReturnPath       string
	ReturnPathTarget string
	// SPFInclude is what the merge proposal puts into the SPF record. Default
	// "spf.mtasv.net". It is optional for mail through Postmark: see
	// [SPFReport].
	SPFInclude string
	// DMARCReports is the address for aggregate reports in a proposed DMARC
	// record. Default "dmarc@" and the domain. Its host may be an IDN; what
	// stands before the @ is ASCII, as records are.
	DMARCReports string
	// Addresses are evaluated against the domain's SPF record, as a receiver
	// would for an envelope sender at the domain itself.
	Addresses []netip.Addr
	// Profiles add checks. The Postmark checks are always made.
	Profiles []DomainProfile
	// Resolver is asked. Default: a [DNSClient] with the system's servers,
	// or [net.DefaultResolver] where the system names none.
	Resolver Resolver
	// CacheOnly leaves the zone's own name servers alone. By default they are
	// asked too when Resolver is a [ServerQuerier], so that a record just
	// published is seen before the caches forget its absence.
	CacheOnly bool
	// Timeout bounds the whole check, on top of the context's own deadline.
	// Default 15 s.
	Timeout time.Duration
	// QuestionTimeout bounds one question. Default 5 s.
	QuestionTimeout time.Duration
	// InFlight bounds the questions asked at once. Default 32.
	InFlight int
}

// DomainReport is everything that was found. It is plain data: print it with
// [DomainReport.Text], or as JSON.
type DomainReport struct {
	// Domain in ASCII form, without root dot.
	Domain string `json:"domain"`
	// CheckedAt is when the check began.
	CheckedAt time.Time `json:"checked_at"`
	// Level is the worst level of all findings.
	Level DomainLevel `json:"level"`
	// Ready is true when mail through Postmark from this domain passes DMARC:
	// the DKIM key is right, aligned and no test (t=y), there is a sound DMARC
	// record, the zone's servers agree about both, and the resolver does not
	// refuse them.
	Ready bool `json:"ready"`
	// Findings in the order of the areas, the worst first in each.
	Findings []DomainFinding `json:"findings"`
	// Areas grades each part of the check, one line of text each.
	Areas []DomainArea `json:"areas"`

	DKIM       []DKIMReport    `json:"dkim"`
	ReturnPath ReturnPathState `json:"return_path"`
	SPF        SPFReport       `json:"spf"`
	DMARC      DMARCReport     `json:"dmarc"`
	Alignment  DomainAlignment `json:"alignment"`
	// Servers are the zone's own name servers, when they were asked.
	Servers []DomainServer `json:"servers,omitempty"`
	// Queries is every question asked, sorted, each once.
	Queries []DomainQuery `json:"queries"`
}

// CheckDomain looks up what a domain publishes for mail and says what to
// change: DKIM, the Return-Path alias, SPF, DMARC, their alignment, and the
// host that takes replies.
//
// An error matching [ErrInvalid] is returned for a name that cannot be a
// domain or settings that cannot work; then nothing was asked. Otherwise there
// is always a report. What could not be asked before the deadline is
// [DomainUnknown] in it, never missing. When ctx was cancelled, its error is
// returned beside the report.
func CheckDomain(ctx context.Context, domain string, c DomainCheck) (*DomainReport, error) {
	k, err := newChecker(domain, c, nil)
	if err != nil {
		return nil, err
	}
	return k.check(ctx)
}

// checker is one check of one domain.
type checker struct {
	DomainCheck
	domain string
	ask    *asker
	shared bool // the questions outlive this check
	report *DomainReport

	mu       sync.Mutex
	findings []DomainFinding
	notes    map[string]string // area: the line to print when all is well
	keys     []keyQuestion
	looked   map[keyQuestion]func() dnsReply
	zone     func() zoneServers
	ttls     map[string]time.Duration // of the key records, from the zone
	aliases  map[string][]string      // names that are an alias, and the names it leads through

	alignUnknown bool      // whether DKIM and SPF align could not be told of both
	orgUnasked   *dnsReply // why the organisational domain is not known
	apart        map[string]dmarcApart
	inPlace      []ReplacedRecord // what stands where the Return-Path alias should

	late  map[string]bool   // servers that are not waited for any more
	sayer map[string]string // names about which servers disagree: whose answer was taken
}

func newChecker(domain string, c DomainCheck, shared *askCore) (*checker, error) {
	name, err := domainName("domain", domain)
	if err != nil {
		return nil, err
	}
	k := &checker{DomainCheck: c, domain: name, shared: shared != nil, notes: map[string]string{}, looked: map[keyQuestion]func() dnsReply{}, ttls: map[string]time.Duration{}, aliases: map[string][]string{}, late: map[string]bool{}, sayer: map[string]string{}}
	for _, f := range []struct {
		field string
		value *string
		def   string
	}{
		{"ReturnPath", &k.ReturnPath, "pm-bounces." + name},
		{"ReturnPathTarget", &k.ReturnPathTarget, "pm.mtasv.net"},
		{"SPFInclude", &k.SPFInclude, "spf.mtasv.net"},
	} {
		if *f.value == "" {
			*f.value = f.def
			if err := dnsmsg.ValidName(f.def); err != nil && c.Postmark.ReturnPathDomain == "" {
				return nil, fieldErrorf("domain", domain, "has %d octets, so that its Return-Path host, %q and the domain, is longer than a name may be; give a shorter ReturnPath", len(name), "pm-bounces.")
			} else if err != nil {
				continue // Postmark's object names another one
			}
		}
		if *f.value, err = domainName(f.field, *f.value); err != nil {
			return nil, err
		}
	}
	if k.DMARCReports == "" {
		k.DMARCReports = "dmarc@" + name
	}
	local, host, ok := strings.Cut(k.DMARCReports, "@")
	if !ok || !plainLocal(local) || strings.ContainsAny(k.DMARCReports, " ,;!<>\"\r\n\t") {
		return nil, fieldErrorf("DMARCReports", k.DMARCReports, "not a plain mail address in ASCII such as dmarc@%s", name)
	}
	if !hexEscapes(local) {
		// In a mailto URI a percent sign begins an escape (RFC 6068).
		return nil, fieldErrorf("DMARCReports", k.DMARCReports, "holds a %% without two hexadecimal digits behind; write the sign itself as %%25")
	}
	if host, err = domainName("DMARCReports", host); err != nil {
		return nil, err
	}
	k.DMARCReports = local + "@" + host // records are ASCII
	if err := k.dkimSettings(c); err != nil {
		return nil, err
	}
	if c.Postmark.ReturnPathDomain != "" {
		err = k.returnPathHost("Postmark.ReturnPathDomain", c.Postmark.ReturnPathDomain)
	} else if c.ReturnPath != "" {
		err = k.returnPathHost("ReturnPath", c.ReturnPath)
	}
	if err != nil {
		return nil, err
	}
	for _, p := range k.Profiles {
		if !slices.Contains(domainProfiles, p) {
			return nil, fieldErrorf("Profiles", string(p), "no such profile; the profiles are %v", domainProfiles)
		}
	}
	if k.Timeout <= 0 {
		k.Timeout = 15 * time.Second
	}
	if shared == nil {
		shared = c.newAskCore()
	}
	k.ask = &asker{askCore: shared, mine: map[dnsKey]*ownQuestion{}}
	return k, nil
}

func (c DomainCheck) newAskCore() *askCore {
	if c.Resolver == nil {
		c.Resolver = defaultResolver()
	}
	if c.QuestionTimeout <= 0 {
		c.QuestionTimeout = 5 * time.Second
	}
	if c.InFlight <= 0 {
		c.InFlight = 32
	}
	return newAskCore(c.Resolver, c.QuestionTimeout, c.InFlight)
}

// domainName checks a name and gives its ASCII form in lower case, without
// root dot.
func domainName(field, s string) (string, error) {
	name := strings.TrimSuffix(fullStops.Replace(s), ".")
	if why := notDomain(name); why != "" {
		return "", fieldErrorf(field, s, "%s", why)
	}
	for i := range len(name) {
		if name[i] < 0x80 {
			continue
		}
		ascii, err := toASCII(name)
		if err != nil {
			return "", &FieldError{Field: field, Value: clip(s, 64), Reason: "cannot be written as a DNS name: " + err.Error(), Err: err}
		}
		// Digits and signs of other scripts are plain ones now.
		name = strings.TrimSuffix(ascii, ".")
		if why := notDomain(name); why != "" {
			return "", fieldErrorf(field, s, "%s", why)
		}
		break
	}
	name = strings.ToLower(name)
	for i := range len(name) {
		c := name[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '.' && c != '_' {
			return "", fieldErrorf(field, s, "holds the character %q, which no domain name has", c)
		}
	}
	if err := dnsmsg.ValidName(name); err != nil {
		return "", &FieldError{Field: field, Value: clip(s, 64), Reason: err.Error(), Err: err}
	}
	for label := range strings.SplitSeq(name, ".") {
		// RFC 952 and RFC 1123 section 2.1.
		if strings.HasPrefix(label, "-") || strings.HasSuffix(label, "-") {
			return "", fieldErrorf(field, s, "has the part %q, which begins or ends with a hyphen; no domain name has such a part", label)
		}
		if !strings.HasPrefix(label, "xn--") {
			continue
		}
		// Only whether it can be read: a registry may have let in more than
		// IDNA of today.
		if _, err := idna.Punycode.ToUnicode(label); err != nil {
			return "", &FieldError{Field: field, Value: clip(s, 64), Reason: fmt.Sprintf("has the part %q, which cannot be read as an internationalised name: %v", label, err), Err: err}
		}
	}
	if !strings.Contains(name, ".") {
		return "", fieldErrorf(field, s, "has no dot; give the full domain such as acme.test")
	}
	return name, nil
}

// toASCII leaves the parts of a name alone that are ASCII, when one of them has an
// underscore: IDNA knows of none, and the names of records have them
// (s1._domainkey.münchen.test).
func toASCII(name string) (string, error) {
	if !strings.Contains(name, "_") {
		return idna.Lookup.ToASCII(name)
	}
	labels := strings.Split(name, ".")
	for i, l := range labels {
		if strings.IndexFunc(l, func(r rune) bool { return r >= utf8.RuneSelf }) < 0 {
			continue
		}
		ascii, err := idna.Lookup.ToASCII(l)
		if err != nil {
			return "", err
		}
		labels[i] = ascii
	}
	return strings.Join(labels, "."), nil
}

// hexEscapes reports whether two hexadecimal digits stand behind each percent
// sign.
func hexEscapes(s string) bool {
	_, err := url.PathUnescape(s)
	return err == nil
}

// fullStops are those that IDNA takes for a dot (RFC 3490 section 3.1).
var fullStops = strings.NewReplacer("\u3002", ".", "\uff0e", ".", "\uff61", ".")

// notDomain says what a text is when it is plainly something else than a domain
// name, or returns "".
func notDomain(name string) string {
	if name == "" {
		return "is empty; give a domain such as acme.test"
	}
	if _, err := netip.ParseAddr(strings.Trim(name, "[]")); err == nil {
		return "is an IP address; give the domain that stands after the @ of the sender"
	}
	switch {
	case strings.Contains(name, "@"):
		return "is a mail address; give only what stands after the @"
	case strings.ContainsAny(name, "/:"):
		return "is not a domain name; give it without scheme, port and path"
	case !utf8.ValidString(name):
		return "is not UTF-8 text"
	case strings.HasPrefix(name, "."), strings.HasSuffix(name, "."), strings.Contains(name, ".."):
		return "has nothing between two dots, or before the first or after the last one"
	}
	return ""
}

func (k *checker) check(ctx context.Context) (*DomainReport, error) {
	caller := ctx
	ctx, cancel := context.WithTimeout(ctx, k.Timeout)
	defer cancel()
	end, _ := ctx.Deadline()
	k.ask.last(end)
	if !k.shared {
		k.ask.base = ctx
	}
	k.keys = k.keyQuestions()
	k.zone = sync.OnceValue(func() zoneServers { return k.findZone(ctx) })
	k.report = &DomainReport{Domain: k.domain, CheckedAt: time.Now().UTC().Truncate(time.Second)}

	var wg sync.WaitGroup
	for _, f := range []func(context.Context){k.checkDKIM, k.checkReturnPath, k.checkSPF, k.checkDMARC, k.checkMailHost, k.checkZone, k.checkBogus} {
		wg.Go(func() { f(ctx) })
	}
	for _, p := range k.Profiles {
		wg.Go(func() { k.checkProfile(ctx, p) })
	}
	wg.Wait()
	k.align()
	for _, p := range k.Profiles {
		k.judgeProfile(ctx, p)
	}
	k.longTTL()
	k.finish(ctx)
	if !k.shared {
		cancel()
		k.ask.settle(caller)
	}
	if caller.Err() != nil && context.Cause(caller) != context.DeadlineExceeded { //nolint:errorlint // the cause itself
		return k.report, caller.Err()
	}
	return k.report, nil
}

func (k *checker) note(area, text string) {
	k.mu.Lock()
	k.notes[area] = plain(text)
	k.mu.Unlock()
}

// plain keeps names that others published, which may hold any byte, from
// driving a terminal.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

// areas in the order of the report.
var domainAreas = []string{"DKIM", "Return-Path", "SPF", "DMARC", "Alignment", "Mail host", "Zone"}

func (k *checker) finish(ctx context.Context) {
	r := k.report
	for i := range k.findings {
		f := &k.findings[i]
		if s, ok := k.sayer[strings.ToLower(f.Name)]; ok && f.Area != "Zone" {
			f.Summary += plain(" So says " + s + "; the zone's servers disagree.")
		}
	}
	order := slices.Clone(domainAreas)
	for _, p := range domainProfiles {
		if slices.Contains(k.Profiles, p) {
			order = append(order, string(p))
		}
	}
	slices.SortStableFunc(k.findings, func(a, b DomainFinding) int {
		if c := slices.Index(order, a.Area) - slices.Index(order, b.Area); c != 0 {
			return c
		}
		if c := b.Level.rank() - a.Level.rank(); c != 0 {
			return c
		}
		if c := strings.Compare(a.Code, b.Code); c != 0 {
			return c
		}
		if c := strings.Compare(a.Name, b.Name); c != 0 {
			return c
		}
		return strings.Compare(a.Summary, b.Summary)
	})
	r.Findings = fewOfEach(k.domain, k.findings)
	r.Level = DomainOK
	for _, name := range order {
		a := DomainArea{Name: name, Level: DomainOK, Summary: k.notes[name]}
		for _, f := range r.Findings {
			if f.Area == name && (worse(f.Level, a.Level) != a.Level || a.Summary == "") {
				a.Level = worse(f.Level, a.Level)
				if f.Level != DomainInfo || a.Summary == "" {
					a.Summary = f.Summary
				}
			}
		}
		if a.Summary == "" {
			continue
		}
		r.Areas = append(r.Areas, a)
		r.Level = worse(r.Level, a.Level)
	}
	k.settlePublish(ctx, r)
	r.Ready = k.ready()
	r.Queries = k.ask.log()
}

// ready: DKIM decides, with DMARC published. A missing include never does.
func (k *checker) ready() bool {
	if slices.ContainsFunc(k.report.Findings, DomainFinding.vetoes) || slices.ContainsFunc(k.report.Findings, func(f DomainFinding) bool { return f.Code == "zone_resolver_fails" && f.Level == DomainUnknown }) {
		return false
	}
	return k.report.Alignment.DKIM.Aligned && !testKeyIn(k.report.DKIM) && k.report.DMARC.State == "ok"
}

// log lists what was asked so far.
func (a *asker) log() []DomainQuery {
	a.mineMu.Lock()
	defer a.mineMu.Unlock()
	out := make([]DomainQuery, 0, len(a.mine))
	for k, own := range a.mine {
		q := DomainQuery{Name: strings.TrimSuffix(k.name, "."), Type: k.typ, Server: k.server, Unchecked: k.unchecked, Result: errWithdrawn.Error()}
		if reply, ok := own.answer(); ok {
			q.Found = someOf(reply.show(), questionBytes)
			switch reply.state {
			case dnsFound:
				q.Result = "found"
			case dnsNoData:
				q.Result = "no such record"
			case dnsNXDomain:
				q.Result = "no such name"
			case dnsAbsent:
				q.Result = "not found"
			default:
				q.Result = reply.why
			}
		}
		out = append(out, q)
	}
	slices.SortFunc(out, func(x, y DomainQuery) int {
		if c := strings.Compare(x.Name, y.Name); c != 0 {
			return c
		}
		if c := strings.Compare(x.Type, y.Type); c != 0 {
			return c
		}
		if x.Unchecked != y.Unchecked {
			return strings.Compare(boolText(x.Unchecked), boolText(y.Unchecked))
		}
		return strings.Compare(x.Server, y.Server)
	})
	return out
}
