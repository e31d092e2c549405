package fluxly

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/getfluxly/fluxly/internal/dnsmsg"
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
	why     string // why there are no servers to ask
}

// findZone finds the zone cut by NS and the addresses of the servers.
func (k *checker) findZone(ctx context.Context) (z zoneServers) {
	if k.CacheOnly || k.ask.direct == nil {
		z.why = "the resolver given cannot ask the zone's own servers"
		return z
	}
	var ns dnsReply
	for name := k.domain; strings.Contains(name, "."); _, name, _ = strings.Cut(name, ".") {
		ns = k.ask.ask(ctx, name, "NS")
		if ns.state == dnsFound && len(ns.chain) == 0 {
			z.apex = name
			break
		}
		if ns.state == dnsFailed {
			z.why = ns.why
			return z
		}
	}
	if z.apex == "" {
		z.why = "no name servers were found for it"
		return z
	}
	hosts := ns.show()
	slices.Sort(hosts)
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
		{dnsmsg.Canonical("_dmarc." + k.domain), "TXT"},
		{dnsmsg.Canonical(k.ReturnPath), "TXT"},
	}
	targets, _ := k.dkimTargets()
	for _, t := range targets {
		qs = append(qs, keyQuestion{dnsmsg.Canonical(t.host), "TXT"})
	}
	return qs
}

// look answers a question. For a key question the zone's own servers have the
// last word, because a cache goes on denying a record for minutes after it was
// published (RFC 2308 section 5).
func (k *checker) look(ctx context.Context, name, typ string) dnsReply {
	q := keyQuestion{dnsmsg.Canonical(name), typ}
	if k.CacheOnly || k.ask.direct == nil || !slices.Contains(k.keys, q) {
		return k.ask.ask(ctx, name, typ)
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

func (k *checker) lookBoth(ctx context.Context, q keyQuestion) dnsReply {
	cached := make(chan dnsReply, 1)
	k.ask.wg.Go(func() { cached <- k.ask.ask(ctx, q.name, q.typ) })
	own, ok := k.firstAuthoritative(ctx, q)
	c := <-cached
	if !ok || c.state != dnsFailed && slices.Equal(own.own, c.own) {
		return c
	}
	// What the zone says stands; an alias in it is followed through the
	// resolver.
	if len(own.records) == 0 && len(own.chain) > 0 {
		tail := k.ask.ask(ctx, own.chain[len(own.chain)-1], q.typ)
		own.records, own.state, own.why = tail.records, tail.state, tail.why
		own.chain = append(slices.Clone(own.chain), tail.chain...)
	}
	return own
}

// firstAuthoritative gives the first authoritative answer to come. A dead
// server does not hold it up.
func (k *checker) firstAuthoritative(ctx context.Context, q keyQuestion) (dnsReply, bool) {
	z := k.zone()
	if !inZone(q.name, z.apex) {
		return dnsReply{}, false
	}
	replies := make(chan dnsReply, len(z.servers))
	n := 0
	for _, s := range z.servers {
		if s.Address == "" {
			continue
		}
		n++
		k.ask.wg.Go(func() { replies <- k.ask.askServer(ctx, s.Address, q.name, q.typ) })
	}
	for range n {
		if r := <-replies; r.state != dnsFailed && r.authoritative {
			return r, true
		}
	}
	return dnsReply{}, false
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
				wg.Go(func() { results[i].replies[j] = k.ask.askServer(ctx, s.Address, results[i].q.name, results[i].q.typ) })
			}
		}
	}
	wg.Wait()
	alive := 0
	z.servers = slices.Clone(z.servers) // the checks still read the others
	for j := range z.servers {
		s := &z.servers[j]
		for _, r := range results {
			if s.Address != "" && r.replies[j].state == dnsFailed {
				s.State = r.replies[j].why
			}
		}
		if s.State == "ok" {
			alive++
		}
	}
	k.report.Servers = z.servers
	if alive == 0 {
		k.add("zone_cache_only", DomainFinding{
			Name: z.apex, Type: "NS",
			Summary: "None of the zone's own servers could be asked from here (" + z.servers[0].State + "). A record changed just now may be seen late.",
			Fix:     "If you published something in the last hour, check again later.",
		})
		return
	}
	for _, s := range z.servers {
		if s.State != "ok" {
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
		k.note("Zone", fmt.Sprintf("%d of %d name servers agree", alive, len(z.servers)))
	}
}

func (k *checker) compare(z zoneServers, q keyQuestion, replies []dnsReply, cached dnsReply) {
	name := strings.TrimSuffix(q.name, ".")
	var first *dnsReply
	var found []string
	agree := true
	for j := range replies {
		r := &replies[j]
		if z.servers[j].Address == "" || r.state == dnsFailed || !r.authoritative {
			continue // dead, or the name is delegated further
		}
		if first == nil {
			first = r
		} else if !slices.Equal(first.own, r.own) {
			agree = false
		}
		found = append(found, z.servers[j].Name+": "+ownText(r.own))
	}
	if first == nil {
		return
	}
	k.mu.Lock()
	k.ttls[name] = first.ttl
	k.mu.Unlock()
	switch {
	case !agree:
		k.add("zone_servers_disagree", DomainFinding{
			Name: name, Type: q.typ, Found: found,
			Summary: "The name servers of " + z.apex + " give different answers for " + name + ".",
			Fix:     "Wait until the change has reached all of them; if it does not, correct the transfer of the zone.",
		})
	case cached.state == dnsFailed:
		f := DomainFinding{
			Name: name, Type: q.typ, Found: found,
			Summary: "The zone's own servers answer for " + name + ", but the resolver could not: " + cached.why + ".",
			Fix:     "Check again; if it stays, look for a broken DNSSEC signature of the zone.",
		}
		k.add("zone_resolver_fails", f)
	case !slices.Equal(first.own, cached.own):
		f := DomainFinding{
			Name: name, Type: q.typ, Found: []string{"zone: " + ownText(first.own), "cache: " + ownText(cached.own)},
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
