package fluxly

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/getfluxly/fluxly/internal/dnsmsg"
)

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
