package fluxly

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/getfluxly/fluxly/internal/dnsmsg"
	"github.com/getfluxly/fluxly/internal/spf"
)

// maxServers bounds how many of a zone's servers are asked.
const maxServers = 4

func defaultResolver() Resolver {
	if c, err := NewDNSClient(DNSClientConfig{}); err == nil {
		return c
	}
	return net.DefaultResolver
}

// DomainServer is one of the zone's own name servers.
type DomainServer struct {
	Name    string `json:"name"`
	Address string `json:"address,omitempty"`
	// State is "ok", or the reason why it could not be asked.
	State string `json:"state"`
}

// zoneServers is what is known of the zone that holds the domain.
type zoneServers struct {
	apex    string
	servers []DomainServer
	// named is how many there are; no more than maxServers are asked.
	named int
	why   string // why there are no servers to ask
}

// findZone finds the zone cut by NS and the addresses of the servers.
func (k *checker) findZone(ctx context.Context) (z zoneServers) {
	if k.CacheOnly || k.ask.direct == nil {
		z.why = "the resolver given cannot ask the zone's own servers"
		return z
	}
	var ns dnsReply
	if z.apex, ns, z.why = k.cut(ctx); z.apex == "" {
		return z
	}
	hosts := ns.show()
	slices.Sort(hosts)
	z.named = len(hosts)
	hosts = hosts[:min(len(hosts), maxServers)]
	z.servers = make([]DomainServer, len(hosts))
	var wg sync.WaitGroup
	for i, h := range hosts {
		wg.Go(func() {
			z.servers[i] = k.server(ctx, h)
		})
	}
	wg.Wait()
	return z
}

// cut finds the apex of the zone that holds the domain, by its NS records; why
// says why it was not found.
func (k *checker) cut(ctx context.Context) (apex string, ns dnsReply, why string) {
	for name := k.domain; strings.Contains(name, "."); _, name, _ = strings.Cut(name, ".") {
		ns = k.ask.ask(ctx, name, "NS")
		switch {
		case ns.state == dnsFound && len(ns.chain) == 0:
			return name, ns, ""
		case ns.state == dnsFailed:
			return "", ns, ns.why
		}
	}
	return "", ns, "no name servers were found for it"
}

// server finds an address of a name server that may be asked.
func (k *checker) server(ctx context.Context, host string) DomainServer {
	s := DomainServer{Name: strings.ToLower(host), State: "its address is not known"}
	for _, typ := range []string{"A", "AAAA"} {
		a := k.ask.ask(ctx, host, typ)
		if a.state == dnsFailed {
			s.State = a.why
			return s
		}
		for _, r := range a.records {
			if k.ask.ownDialer || public(r.Addr) {
				s.Address, s.State = netip.AddrPortFrom(r.Addr, 53).String(), "ok"
				return s
			}
			s.State = r.Addr.String() + " is not a public address, so it is not asked"
		}
	}
	return s
}

// notPublic are the networks beside those that netip knows: this network,
// shared (RFC 6598), of the IETF's own, reserved; the old form of IPv4 in IPv6,
// NAT64 of a network's own (RFC 8215), site-local.
var notPublic = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("192.0.0.0/24"), netip.MustParsePrefix("240.0.0.0/4"),
	netip.MustParsePrefix("::/96"), netip.MustParsePrefix("64:ff9b:1::/48"), netip.MustParsePrefix("fec0::/10"),
}

// public reports whether an address belongs to the public internet. Whoever
// publishes a zone names its servers, and must not have others ask about in
// their own networks.
func public(a netip.Addr) bool {
	a = a.Unmap()
	if !a.IsGlobalUnicast() || a.IsPrivate() || slices.ContainsFunc(notPublic, func(p netip.Prefix) bool { return p.Contains(a) }) {
		return false
	}
	// Addresses that a router turns into one of IPv4: NAT64 (RFC 6052) and
	// 6to4 (RFC 3056).
	b := a.As16()
	switch {
	case netip.MustParsePrefix("64:ff9b::/96").Contains(a):
		return public(netip.AddrFrom4([4]byte(b[12:])))
	case netip.MustParsePrefix("2002::/16").Contains(a):
		return public(netip.AddrFrom4([4]byte(b[2:6])))
	}
	return true
}

// keyQuestion is one of the few that decide and that a customer has just
// changed: those go to the zone's own servers as well.
type keyQuestion struct{ name, typ string }

func (k *checker) keyQuestions() []keyQuestion {
	qs := []keyQuestion{
		{dnsmsg.Canonical(k.domain), "TXT"},
		{dnsmsg.Canonical(k.ReturnPath), "TXT"},
	}
	for _, n := range walkNames(k.domain) {
		if n == k.domain || k.nearby(dnsmsg.Canonical(n)) {
			qs = append(qs, keyQuestion{dnsmsg.Canonical("_dmarc." + n), "TXT"})
		}
	}
	targets, _ := k.dkimTargets()
	for _, t := range targets {
		qs = append(qs, keyQuestion{dnsmsg.Canonical(t.host), "TXT"})
	}
	return qs
}

// look answers a question. For those that decide, and for the texts that they
// point to within the zone, the zone's own servers have the last word, because a
// cache goes on denying a record for minutes after it was published (RFC 2308
// section 5). Other answers of the cache stand, save an absence in the zone.
func (k *checker) look(ctx context.Context, name, typ string) dnsReply {
	r := k.lookUp(ctx, name, typ)
	if typ == "TXT" {
		k.noteAlias(r)
	}
	return r
}

// asksZone reports whether the zone's own servers are asked about a name, if it
// is one of the zone.
func (k *checker) asksZone(name string) bool {
	return !k.CacheOnly && k.ask.direct != nil && k.nearby(name)
}

// noteAlias keeps where an alias leads, for whoever wants to publish a record at
// its name.
func (k *checker) noteAlias(r dnsReply) {
	if len(r.chain) > 0 {
		k.mu.Lock()
		k.aliases[r.name] = r.chain
		k.mu.Unlock()
	}
}

func (k *checker) lookUp(ctx context.Context, name, typ string) dnsReply {
	q := keyQuestion{dnsmsg.Canonical(name), typ}
	key := slices.Contains(k.keys, q)
	if k.CacheOnly || k.ask.direct == nil || !key && !k.nearby(q.name) {
		return k.ask.ask(ctx, name, typ)
	}
	if !key && typ != "TXT" {
		if r := k.ask.ask(ctx, name, typ); !r.absent() {
			return r
		}
	}
	k.mu.Lock()
	once, ok := k.looked[q]
	if !ok {
		once = sync.OnceValue(func() dnsReply { return k.lookBoth(ctx, q) })
		k.looked[q] = once
	}
	k.mu.Unlock()
	return once()
}

// lookAddrs looks for the addresses of a name. Those of a cache stand, and only
// an absence in the zone is asked for at its own servers.
func (k *checker) lookAddrs(ctx context.Context, name string) dnsReply {
	return bothFamilies(k.families(ctx, name))
}

// families keeps apart what became of the two questions: a mail has one family.
func (k *checker) families(ctx context.Context, name string) (v4, v6 dnsReply) {
	both := func(ask func(ctx context.Context, name, typ string) dnsReply) {
		var wg sync.WaitGroup
		wg.Go(func() { v4 = ask(ctx, name, "A") })
		wg.Go(func() { v6 = ask(ctx, name, "AAAA") })
		wg.Wait()
	}
	if both(k.ask.ask); v4.absent() && v6.absent() {
		both(k.look)
	}
	return v4, v6
}

// nearby reports whether a name may lie in the domain's zone, whose apex has
// two labels of it at least. It saves names elsewhere from waiting for the zone
// to be found.
func (k *checker) nearby(name string) bool {
	labels := strings.Split(k.domain, ".")
	return inZone(name, strings.Join(labels[max(0, len(labels)-2):], "."))
}

func (k *checker) lookBoth(ctx context.Context, q keyQuestion) dnsReply {
	cached := make(chan dnsReply, 1)
	k.ask.wg.Go(func() { cached <- k.ask.ask(ctx, q.name, q.typ) })
	replies := k.askServers(ctx, q)
	c := <-cached
	own, ok := k.worst(q, replies)
	if len(replies) > 0 && !slices.Contains(k.keys, q) { // checkZone compares the keys
		k.compare(k.zone(), q, replies, c)
	}
	apex := k.zone().apex
	if !ok || c.state != dnsFailed && own.agrees(c, apex) {
		return k.backIn(ctx, q, c)
	}
	// What the zone says stands; an alias that leads out of it is followed
	// through the resolver.
	if own.cutAlias {
		tail := k.ask.ask(ctx, own.chain[len(own.chain)-1], q.typ)
		own.records, own.state, own.why, own.servfail = tail.records, tail.state, tail.why, tail.servfail
		own.chain = append(slices.Clone(own.chain), tail.chain...)
	}
	return k.backIn(ctx, q, own)
}

// backIn looks whether an alias out of the zone leads back into it: there, too,
// the zone's own servers have the last word.
func (k *checker) backIn(ctx context.Context, q keyQuestion, r dnsReply) dnsReply {
	z := k.zone()
	i := 0
	for range maxFollowed {
		for i++; i < len(r.chain) && (inZone(r.chain[i-1], z.apex) || !inZone(r.chain[i], z.apex)); i++ {
		}
		if i >= len(r.chain) || loops(r.chain, strings.TrimSuffix(r.name, ".")) {
			break
		}
		at := keyQuestion{r.chain[i], q.typ}
		replies := k.askServers(ctx, at)
		cached := k.ask.ask(ctx, at.name, at.typ)
		k.compare(z, q, replies, cached)
		own, ok := k.worst(q, replies)
		if !ok {
			break
		}
		chain := append(slices.Clone(r.chain[:i+1]), own.chain...)
		if own.cutAlias {
			own = k.ask.ask(ctx, chain[len(chain)-1], q.typ)
			chain = append(chain, own.chain...)
		}
		r.chain, r.records, r.state, r.why, r.servfail = chain, own.records, own.state, own.why, own.servfail
	}
	return r
}

// maxSilence is how long a server is waited for after another one answered. It
// is less than the time for a question to one server.
const maxSilence = 1500 * time.Millisecond

// askServers asks all of the zone's servers and gives their replies in the
// order of the servers. Once one has answered, the others are waited for up to
// a third of the time left; who is late once is not waited for again, so that a
// dead server does not eat up the time of the check. It returns nil when the
// name is not in the zone.
func (k *checker) askServers(ctx context.Context, q keyQuestion) []dnsReply {
	z := k.zone()
	if !inZone(q.name, z.apex) {
		return nil
	}
	type reply struct {
		i int
		r dnsReply
	}
	out := make([]dnsReply, len(z.servers))
	replies := make(chan reply, len(z.servers))
	waited := map[int]bool{} // servers that are out: whether they are waited for
	for i, s := range z.servers {
		out[i] = dnsReply{name: q.name, typ: q.typ, state: dnsFailed, why: "the name server did not reply in time"}
		if s.Address == "" {
			continue
		}
		k.mu.Lock()
		waited[i] = !k.late[s.Address]
		k.mu.Unlock()
		k.ask.wg.Go(func() { replies <- reply{i, k.askOwn(ctx, z.apex, s.Address, q)} })
	}
	var grace <-chan time.Time
	answered := false
	more := func() bool {
		for _, w := range waited {
			if w || !answered {
				return true
			}
		}
		return false
	}
	for more() {
		select {
		case r := <-replies:
			out[r.i] = r.r
			delete(waited, r.i)
			if !answered && r.r.state != dnsFailed && r.r.authoritative {
				answered = true
				wait := maxSilence
				if d, ok := ctx.Deadline(); ok {
					wait = min(wait, time.Until(d)/3)
				}
				t := time.NewTimer(wait)
				defer t.Stop()
				grace = t.C
			}
		case <-grace:
			k.mu.Lock()
			for i := range waited {
				k.late[z.servers[i].Address] = true
				waited[i] = false
			}
			k.mu.Unlock()
		}
	}
	return out
}

// askOwn asks one of the zone's servers, and again where it leaves an alias that
// stays in the zone to the asker.
func (k *checker) askOwn(ctx context.Context, apex, server string, q keyQuestion) dnsReply {
	r := k.ask.askServer(ctx, server, q.name, q.typ).within(apex)
	for range maxFollowed {
		if !r.cutAlias || !inZone(r.chain[len(r.chain)-1], apex) {
			break
		}
		tail := k.ask.askServer(ctx, server, r.chain[len(r.chain)-1], q.typ)
		if tail.referral {
			break // a zone below: the resolver follows
		}
		chain := append(slices.Clone(r.chain), tail.chain...)
		r.state, r.why, r.records, r.chain, r.ttl, r.cutAlias = tail.state, tail.why, tail.records, chain, tail.ttl, tail.cutAlias
		if r.cutAlias = r.cutAlias && !loops(chain, strings.TrimSuffix(r.name, ".")); r.state == dnsFailed {
			return r // half an answer is none
		}
		r = r.within(apex)
	}
	return r
}

// within is a server's reply up to where its aliases leave the zone: what it
// holds of other zones it need not be the owner of.
func (r dnsReply) within(apex string) dnsReply {
	for i, n := range r.chain {
		if !inZone(n, apex) && r.state != dnsFailed {
			r.chain, r.records, r.state, r.cutAlias = slices.Clone(r.chain[:i+1]), nil, dnsNoData, true
			break
		}
	}
	return r
}

// said is what a reply says of its name, to compare replies by: what stands
// there, and what stands behind an alias as far as it stays in the zone.
func (r dnsReply) said(apex string) []string {
	if len(r.chain) == 0 || !inZone(r.chain[0], apex) {
		return r.own
	}
	out := slices.Clone(r.own)
	last := len(r.chain) - 1
	for i, n := range r.chain[:last] {
		out = append(out, strings.TrimSuffix(n, ".")+": CNAME "+strings.TrimSuffix(r.chain[i+1], "."))
		if !inZone(r.chain[i+1], apex) {
			return out
		}
	}
	if r.cutAlias {
		return out
	}
	end := strings.TrimSuffix(r.chain[last], ".") + ": "
	if len(r.records) == 0 {
		return append(out, end+"nothing")
	}
	for _, text := range r.show() {
		out = append(out, end+text)
	}
	return out
}

// agrees compares what two replies say. Where one of them was not followed to the
// end of its alias they agree as far as it goes.
func (r dnsReply) agrees(other dnsReply, apex string) bool {
	x, y := r.said(apex), other.said(apex)
	switch {
	case r.cutAlias && len(x) < len(y):
		y = y[:len(x)]
	case other.cutAlias && len(y) < len(x):
		x = x[:len(y)]
	}
	return slices.Equal(x, y)
}

// worst gives the worst of the authoritative answers, by which the verdict
// goes while servers disagree: receivers get it by chance. With equal ones the
// order of their texts decides, so that each run says the same.
func (k *checker) worst(q keyQuestion, replies []dnsReply) (worst dnsReply, ok bool) {
	at, differ, apex := 0, false, k.zone().apex
	for i, r := range replies {
		if r.state == dnsFailed || !r.authoritative {
			continue
		}
		if !ok {
			worst, at, ok = r, i, true
			continue
		}
		if r.agrees(worst, apex) {
			if worst.cutAlias { // who followed the alias knows more
				worst, at = r, i
			}
			continue
		}
		differ = true
		if c := cmp.Compare(k.badness(q, r), k.badness(q, worst)); c > 0 || c == 0 && slices.Compare(r.said(apex), worst.said(apex)) < 0 {
			worst, at = r, i
		}
	}
	if differ {
		k.mu.Lock()
		k.sayer[strings.TrimSuffix(q.name, ".")] = k.zone().servers[at].Name
		k.mu.Unlock()
	}
	return worst, ok
}

// badness ranks answers to one question; 0 is what is best for mail.
func (k *checker) badness(q keyQuestion, r dnsReply) int {
	texts := r.texts()
	targets, _ := k.dkimTargets()
	target := slices.IndexFunc(targets, func(t dkimTarget) bool { return dnsmsg.Canonical(t.host) == q.name })
	switch {
	case q.name == dnsmsg.Canonical(k.ReturnPath):
		switch {
		case len(r.chain) == 0:
			return 2
		case r.chain[0] != dnsmsg.Canonical(k.ReturnPathTarget):
			return 1
		}
		return 0
	case r.cutAlias:
		return 1 // an alias out of the zone, which is followed only when it is the answer taken
	case q.typ != "TXT":
		return min(1, max(0, 1-len(r.records)))
	case target >= 0:
		keys := slices.DeleteFunc(slices.Clone(texts), func(s string) bool { return !looksLikeDKIM(s) })
		if len(keys) == 0 {
			return 3
		}
		key, want := parseDKIMKey(keys[0]), parseDKIMKey(targets[target].value)
		broken := slices.ContainsFunc(key.problems, func(p dkimProblem) bool { return findingCatalogue[p.code].level == DomainFail })
		if len(texts) > 1 || broken || key.revoked || targets[target].value != "" && key.p != want.p {
			return 2
		}
		return 0
	case strings.HasPrefix(q.name, "_dmarc."):
		records := slices.DeleteFunc(texts, func(s string) bool { return !isDMARC(s) })
		switch {
		case len(records) == 0:
			return len(dmarcPolicies) + 1
		case len(records) > 1 || !parseDMARC(records[0]).usable:
			return len(dmarcPolicies)
		}
		return len(dmarcPolicies) - 1 - slices.Index(dmarcPolicies, parseDMARC(records[0]).p)
	}
	records := slices.DeleteFunc(texts, func(s string) bool { return !spf.Is(s) })
	switch {
	case len(records) > 1 || len(records) == 1 && len(spf.Parse(records[0]).Faults) > 0:
		return 2
	case len(records) == 0:
		return 1
	}
	return 0
}

// decides reports whether the answer to q is one of those that [DomainReport.Ready]
// rests on.
func (k *checker) decides(q keyQuestion) bool {
	targets, _ := k.dkimTargets()
	// Postmark signs with the current key as long as there is one.
	signs := "pending"
	if slices.ContainsFunc(targets, func(t dkimTarget) bool { return t.role == "current" }) {
		signs = "current"
	}
	return strings.HasPrefix(q.name, "_dmarc.") || slices.ContainsFunc(targets, func(t dkimTarget) bool { return t.role == signs && dnsmsg.Canonical(t.host) == q.name })
}

func inZone(name, apex string) bool {
	if apex == "" {
		return false
	}
	apex = dnsmsg.Canonical(apex)
	return name == apex || strings.HasSuffix(name, "."+apex)
}

// checkZone compares the zone's servers with each other and with the cache.
func (k *checker) checkZone(ctx context.Context) {
	if k.CacheOnly {
		return
	}
	z := k.zone()
	if len(z.servers) == 0 {
		k.add("zone_cache_only", DomainFinding{
			Name: k.domain, Type: "NS",
			Summary: "The zone's own servers were not asked: " + z.why + ". A record changed just now may be seen late.",
			Fix:     "If you published something in the last hour, check again later.",
		})
		return
	}
	type result struct {
		q       keyQuestion
		replies []dnsReply // by server
		cached  dnsReply
	}
	var results []result
	var wg sync.WaitGroup
	for _, q := range k.keys {
		if !inZone(q.name, z.apex) {
			continue
		}
		results = append(results, result{q: q, replies: make([]dnsReply, len(z.servers))})
	}
	for i := range results {
		wg.Go(func() { results[i].cached = k.ask.ask(ctx, results[i].q.name, results[i].q.typ) })
		for j, s := range z.servers {
			if s.Address != "" {
				wg.Go(func() { results[i].replies[j] = k.askOwn(ctx, z.apex, s.Address, results[i].q) })
			}
		}
	}
	wg.Wait()
	alive, heard := 0, false
	const lame = "it answers without being a server of the zone"
	z.servers = slices.Clone(z.servers) // the checks still read the others
	for j := range z.servers {
		s := &z.servers[j]
		for _, r := range results {
			heard = heard || s.Address != "" && r.replies[j].state != dnsFailed && r.replies[j].authoritative
			if s.Address != "" && r.replies[j].state == dnsFailed && !r.replies[j].referral {
				s.State = r.replies[j].why
			}
			// Other names may be delegated further; the domain itself is not.
			if s.State == "ok" && r.q.name == dnsmsg.Canonical(k.domain) && !r.replies[j].authoritative {
				s.State = lame
			}
		}
		if s.State == "ok" {
			alive++
		}
	}
	k.report.Servers = z.servers
	if !heard {
		k.add("zone_cache_only", DomainFinding{
			Name: z.apex, Type: "NS",
			Summary: "None of the zone's own servers could be asked from here (" + z.servers[0].State + "). A record changed just now may be seen late.",
			Fix:     "If you published something in the last hour, check again later.",
		})
		return
	}
	for _, s := range z.servers {
		switch s.State {
		case "ok":
		case lame:
			k.add("zone_server_lame", DomainFinding{
				Name: z.apex, Type: "NS", Found: []string{s.Name},
				Summary: fmt.Sprintf("%s is named as a name server of %s and does not serve it: its answers do not carry the mark of authority.", s.Name, z.apex),
				Fix:     "Set the zone up on it, or take it out of the NS records of the zone.",
			})
		default:
			k.add("zone_server_dead", DomainFinding{
				Name: z.apex, Type: "NS", Found: []string{s.Name},
				Summary: fmt.Sprintf("The name server %s of %s could not be asked: %s.", s.Name, z.apex, s.State),
				Fix:     "Repair it, or take it out of the NS records of the zone.",
			})
		}
	}
	for _, r := range results {
		k.compare(z, r.q, r.replies, r.cached)
	}
	if alive == len(z.servers) {
		note := fmt.Sprintf("%d of %d name servers agree", alive, len(z.servers))
		if z.named > alive {
			note = fmt.Sprintf("the %d name servers asked agree, of %d", alive, z.named)
		}
		k.note("Zone", note)
	}
}

func (k *checker) compare(z zoneServers, q keyQuestion, replies []dnsReply, cached dnsReply) {
	name := strings.TrimSuffix(q.name, ".")
	var first *dnsReply
	var found []string
	said := slices.Clone(replies)
	for j := range replies {
		r := &replies[j]
		if z.servers[j].Address == "" || r.state == dnsFailed || !r.authoritative {
			said[j].state = dnsFailed // dead, or the name is delegated further
			continue
		}
		if first == nil || first.cutAlias {
			first = r // who followed the alias knows more
		}
		found = append(found, z.servers[j].Name+": "+ownText(r.said(z.apex)))
	}
	if first == nil {
		return
	}
	agree := !slices.ContainsFunc(said, func(r dnsReply) bool { return r.state != dnsFailed && !first.agrees(r, z.apex) })
	if q.typ == "TXT" {
		k.mu.Lock()
		k.ttls[name] = first.ttl
		k.mu.Unlock()
	}
	switch {
	case !agree:
		f := DomainFinding{
			Name: name, Type: q.typ, Found: found,
			Summary: "The name servers of " + z.apex + " give different answers for " + name + ".",
			Fix:     "Wait until the change has reached all of them; if it does not, correct the transfer of the zone.",
		}
		if !k.decides(q) {
			f.Level = DomainWarn
		}
		k.add("zone_servers_disagree", f)
	case cached.state == dnsFailed:
		f := DomainFinding{
			Name: name, Type: q.typ, Found: found,
			Summary: "The zone's own servers answer for " + name + ", but the resolver could not: " + cached.why + ".",
			Fix:     "Check again; if it stays, look for a broken DNSSEC signature of the zone.",
		}
		if k.decides(q) {
			f.Level = DomainUnknown // whether receivers fare as the resolver does
		}
		k.add("zone_resolver_fails", f)
	case !first.agrees(cached, z.apex):
		f := DomainFinding{
			Name: name, Type: q.typ, Found: []string{"zone: " + ownText(first.said(z.apex)), "cache: " + ownText(cached.said(z.apex))},
			Summary: "The change at " + name + " is published.",
		}
		if cached.ttl > 0 {
			f.Summary += fmt.Sprintf(" Caches may keep the old answer for %d s.", int(cached.ttl/time.Second))
		} else {
			f.Summary += " Caches may keep the old answer for a while."
		}
		k.add("zone_cached", f)
	}
}

func ownText(own []string) string {
	if len(own) == 0 {
		return "nothing"
	}
	return strings.Join(own, " | ")
}

// longTTL speaks up when a record is to be changed that caches keep for more
// than a day.
func (k *checker) longTTL() {
	for name, ttl := range k.ttls {
		if ttl <= 24*time.Hour {
			continue
		}
		for _, f := range k.findings {
			if f.Level.rank() < DomainWarn.rank() || !slices.ContainsFunc(f.Publish, func(p DomainRecord) bool { return p.Name == name && len(p.Replaces) > 0 }) {
				continue
			}
			k.add("zone_long_ttl", DomainFinding{
				Name: name, Type: "TXT",
				Summary: fmt.Sprintf("Caches keep the record at %s for %d hours, so a correction takes that long to be seen.", name, int(ttl/time.Hour)),
				Fix:     "Lower its TTL to 300 before you change it.",
			})
			break
		}
	}
}
