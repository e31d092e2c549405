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
