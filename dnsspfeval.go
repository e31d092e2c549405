package fluxly

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"

	gospf "blitiri.com.ar/go/spf"

	"github.com/getfluxly/fluxly/internal/dnsmsg"
	"github.com/getfluxly/fluxly/internal/spf"
)

// evaluateSPF is check_host() for one mail. The grammar of each record on the
// way is judged by the linter, because the evaluator stops at the first match
// and does not see what is wrong behind it (RFC 7208 section 4.6).
func (k *checker) evaluateSPF(ctx context.Context, tree *spf.Node, addr netip.Addr, helo, sender string) SPFResult {
	r := SPFResult{Address: addr}
	r.Lookups, _ = tree.Spent(addr)
	switch tree.State {
	case spf.None:
		r.Result, r.Reason = "none", "there is no SPF record"
		return r
	case spf.Multiple:
		r.Result, r.Reason = "permerror", "there are several SPF records"
		return r
	case spf.Unasked, spf.Skipped:
		r.Result, r.Reason = "temperror", "the record could not be asked for"
		return r
	}
	if f := tree.Record.Faults; len(f) > 0 {
		r.Result, r.Reason = "permerror", f[0].Text
		return r
	}
	if tree.Uses('p') {
		// The evaluator never looks at names (RFC 7208 section 7.3 advises
		// against it), so it is right only for addresses that have none.
		if names, err := (spfResolver{k}).LookupAddr(ctx, addr.String()); err != nil || len(names) > 0 {
			var ne *net.DNSError
			if !errors.As(err, &ne) || !ne.IsNotFound {
				r.Result, r.Reason = "unknown", "the record looks at the name of the sending address (%{p}), of which receivers make different things"
				return r
			}
		}
	}
	reached := newReached(k, tree, spf.Identity{Addr: addr, Sender: sender, Helo: helo})
	res, err := gospf.CheckHostWithSender(addr.AsSlice(), helo, sender, gospf.WithContext(ctx), gospf.WithResolver(reached))
	r.Result = string(res)
	if err != nil {
		r.Reason = plain(err.Error())
	}
	if tree.Uses('l') || tree.Uses('s') {
		r.Reason = strings.TrimPrefix(r.Reason+"; for "+sender+", and the record makes differences between senders", "; ")
	}
	if why := faultOnTheWay(tree, reached.texts); why != "" {
		r.Result, r.Reason = "permerror", why
		return r
	}
	if at := tree.Broken(addr); at != nil && res == gospf.PermError {
		r.Result, r.Reason = "permerror", brokenText(at)
		return r
	}
	for _, e := range []error{gospf.ErrUnknownField, gospf.ErrInvalidIP, gospf.ErrInvalidMask, gospf.ErrInvalidMacro, gospf.ErrInvalidDomain} {
		if res == gospf.PermError && errors.Is(err, e) {
			// The grammar was judged already; the evaluator does not know
			// some rare names that it allows, such as those with a slash.
			r.Result = "unknown"
		}
	}
	return r
}

// reachedResolver answers for the family of the sending address, and keeps the
// names whose records the evaluator came to.
type reachedResolver struct {
	spfResolver
	four  bool
	texts map[string][]string
	// hosts are the names that a and mx terms ask for, and exists those of the
	// exists terms, which ask for an A record whatever the family (RFC 7208
	// section 5.7).
	hosts, exists map[string]bool
}

func newReached(k *checker, tree *spf.Node, mail spf.Identity) *reachedResolver {
	r := &reachedResolver{spfResolver: spfResolver{k}, four: mail.Addr.Unmap().Is4(), texts: map[string][]string{}, hosts: map[string]bool{}, exists: map[string]bool{}}
	tree.Visit(func(n *spf.Node, _ int) {
		for _, s := range n.Steps {
			target := s.Target
			if s.State == spf.Sender {
				target, _ = mail.Expand(s.Term.Value, n.Domain)
			}
			switch {
			case target == "":
			case s.Term.Name == "a":
				r.hosts[dnsmsg.Canonical(target)] = true
			case s.Term.Name == "exists":
				r.exists[dnsmsg.Canonical(target)] = true
			}
		}
	})
	return r
}

func (r *reachedResolver) LookupMX(ctx context.Context, name string) ([]*net.MX, error) {
	out, err := r.spfResolver.LookupMX(ctx, name)
	for _, m := range out {
		r.hosts[dnsmsg.Canonical(m.Host)] = true
	}
	return out, err
}

func (r *reachedResolver) LookupIPAddr(ctx context.Context, host string) ([]net.IPAddr, error) {
	v4, v6 := r.k.families(ctx, host)
	name := dnsmsg.Canonical(host)
	reply := v4
	switch {
	case r.four:
	case r.hosts[name] && !r.exists[name]:
		reply = v6
	case r.exists[name] && !r.hosts[name]:
	default: // which of the two is asked for depends on the mail
		reply = bothFamilies(v4, v6)
	}
	out := make([]net.IPAddr, 0, len(reply.records))
	for _, rec := range reply.records {
		out = append(out, net.IPAddr{IP: rec.Addr.AsSlice()})
	}
	return out, resolverError(reply)
}

func (r *reachedResolver) LookupTXT(ctx context.Context, name string) ([]string, error) {
	texts, err := r.spfResolver.LookupTXT(ctx, name)
	r.texts[strings.ToLower(strings.TrimSuffix(name, "."))] = slices.Clone(texts)
	for i, t := range texts {
		texts[i] = spf.WithoutMapped(t)
	}
	return texts, err
}

// faultOnTheWay says why a record that the evaluator came to makes the result
// a permanent error, or returns "". Faults of a single term, such as a loop or
// too many mail hosts, count only where the term itself is come to (RFC 7208
// section 4.6.2), which the evaluator sees. Records whose names depend on the mail
// are not in the tree.
func faultOnTheWay(tree *spf.Node, reached map[string][]string) (why string) {
	inTree := map[string]bool{}
	tree.Visit(func(n *spf.Node, _ int) {
		name := strings.ToLower(n.Domain)
		inTree[name] = inTree[name] || n.State != spf.Skipped
		switch _, ok := reached[name]; {
		case why != "" || !ok:
		default:
			why = brokenText(n)
		}
	})
	for _, name := range slices.Sorted(maps.Keys(reached)) {
		for _, t := range reached[name] {
			if why == "" && !inTree[name] && spf.Is(t) && len(spf.Parse(t).Faults) > 0 {
				why = spf.Parse(t).Faults[0].Text
			}
		}
	}
	return why
}

// brokenText says why a record that another one points to is a permanent error,
// or returns "".
func brokenText(n *spf.Node) string {
	switch {
	case n.State == spf.None:
		return n.Domain + " has no SPF record, but another record points to it"
	case n.State == spf.Multiple:
		return fmt.Sprintf("%s has %d SPF records; exactly one is allowed", n.Domain, len(n.Texts))
	case n.Record != nil && len(n.Record.Faults) > 0:
		return n.Record.Faults[0].Text
	}
	return ""
}

// spfResolver gives the evaluator the answers that the check has already.
type spfResolver struct{ k *checker }

func resolverError(r dnsReply) error {
	switch {
	case r.state == dnsFound:
		return nil
	case r.absent():
		return &net.DNSError{Err: "no such record", Name: r.name, IsNotFound: true}
	}
	return &net.DNSError{Err: r.why, Name: r.name, IsTemporary: true}
}

func (s spfResolver) LookupTXT(ctx context.Context, name string) ([]string, error) {
	r := s.k.look(ctx, name, "TXT")
	return r.texts(), resolverError(r)
}

func (s spfResolver) LookupMX(ctx context.Context, name string) ([]*net.MX, error) {
	r := s.k.look(ctx, name, "MX")
	out := make([]*net.MX, 0, len(r.records))
	for _, m := range r.records {
		out = append(out, &net.MX{Host: m.Target, Pref: m.Preference})
	}
	return out, resolverError(r)
}

func (s spfResolver) LookupAddr(ctx context.Context, addr string) ([]string, error) {
	ip, err := netip.ParseAddr(addr)
	if err != nil {
		return nil, errors.New("not an IP address")
	}
	r := s.k.ask.ask(ctx, reverseName(ip), dnsmsg.PTR.String())
	return r.show(), resolverError(r)
}
