package fluxly

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/getfluxly/fluxly/internal/dnsmsg"
	"github.com/getfluxly/fluxly/internal/spf"
)

type dnsState int

const (
	dnsFound    dnsState = iota
	dnsNoData            // the name exists, the record does not
	dnsNXDomain          // the name does not exist
	dnsAbsent            // one of the two; the resolver does not say which
	dnsFailed            // could not be asked: never to be read as an absence
)

// dnsReply is the one form in which the checks see an answer.
type dnsReply struct {
	name, typ string
	state     dnsState
	records   []dnsmsg.Record // at the end of the alias chain, sorted
	chain     []string        // names passed, without the first
	ttl       time.Duration   // the lowest of the records; of an absence, how long it may be cached
	own       []string        // what stands at the name itself, an alias as "CNAME target"
	size      int             // bytes of the reply; 0 when not known
	secure    bool            // validated by the resolver
	why       string          // dnsFailed: the reason in words
	servfail  bool
	referral  bool // dnsFailed: the server names others to be asked
	cutAlias  bool // the server left it to the asker to follow the last alias

	authoritative bool // from one of the zone's servers
}

func (r dnsReply) absent() bool {
	return r.state == dnsNoData || r.state == dnsNXDomain || r.state == dnsAbsent
}

func (r dnsReply) texts() []string {
	var out []string
	for _, rec := range r.records {
		out = append(out, rec.Text())
	}
	return out
}

// show lists the records as a person would write them.
func (r dnsReply) show() []string {
	var out []string
	for _, rec := range r.records {
		switch rec.Type {
		case dnsmsg.A, dnsmsg.AAAA:
			out = append(out, rec.Addr.String())
		case dnsmsg.TXT, dnsmsg.SPF:
			out = append(out, rec.Text())
		default:
			out = append(out, strings.TrimSuffix(rec.Target, "."))
		}
	}
	return out
}

// asker asks for one domain and keeps the list of its questions.
type asker struct {
	*askCore

	// share, when set, bounds how many questions of this domain are out at once,
	// so that one with many leaves room for others.
	share chan struct{}

	mineMu sync.Mutex
	mine   map[dnsKey]*ownQuestion
}

// ownQuestion is one that is asked for the domain, however often.
type ownQuestion struct {
	started chan struct{}
	call    *dnsCall // once started; nil when it never was
}

// answer is the reply, if there is one.
func (q *ownQuestion) answer() (r dnsReply, ok bool) {
	select {
	case <-q.started:
	default:
		return r, false
	}
	if q.call == nil || !q.call.over() {
		return r, false
	}
	return q.call.reply, true
}

// askCore asks each question once and bounds how many are in flight. It
// belongs to one call of CheckDomain or CheckDomains.
type askCore struct {
	resolver  Resolver
	querier   DNSQuerier       // nil when the resolver has none
	direct    ServerQuerier    // nil when the resolver has none
	unchecked UncheckedQuerier // nil when the resolver has none
	ownDialer bool             // what may be reached is for the caller's dialer to say
	timeout   time.Duration
	slots     chan struct{}
	// base, when set, is the context of the questions: they are shared by askers
	// who wait for different times.
	base context.Context //nolint:containedctx // lives for one call

	mu    sync.Mutex
	calls map[dnsKey]*dnsCall
	until time.Time // the end of the time given for the checks, the latest of them
	wg    sync.WaitGroup
}

type dnsKey struct {
	server, name, typ string
	unchecked         bool
}

type dnsCall struct {
	done  chan struct{}
	reply dnsReply
	// waiting counts those who wait for it. A question of which nobody wants
	// the answer any more is withdrawn.
	waiting int
	cancel  context.CancelCauseFunc
}

// over reports whether the reply is there.
func (c *dnsCall) over() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

var errWithdrawn = errors.New("no answer before the end of the check")

func newAskCore(r Resolver, timeout time.Duration, inFlight int) *askCore {
	a := &askCore{resolver: r, timeout: timeout, slots: make(chan struct{}, inFlight), calls: map[dnsKey]*dnsCall{}}
	a.querier, _ = r.(DNSQuerier)
	a.direct, _ = r.(ServerQuerier)
	a.unchecked, _ = r.(UncheckedQuerier)
	if d, ok := r.(interface{ ownDialer() bool }); ok {
		a.ownDialer = d.ownDialer()
	}
	return a
}

// maxFollowed bounds how many aliases are followed that a server left alone.
const maxFollowed = 12

// ask returns when there is an answer or ctx ends. The question itself runs in
// a goroutine of its own, so that a resolver which does not honour its context
// cannot keep the caller past the deadline.
func (a *asker) ask(ctx context.Context, name, typ string) dnsReply {
	r := a.askServer(ctx, "", name, typ)
	for range maxFollowed {
		if !r.cutAlias {
			break
		}
		tail := a.askServer(ctx, "", r.chain[len(r.chain)-1], typ)
		r.state, r.why, r.servfail, r.referral, r.cutAlias = tail.state, tail.why, tail.servfail, tail.referral, tail.cutAlias
		r.records, r.ttl, r.chain = tail.records, tail.ttl, append(slices.Clone(r.chain), tail.chain...)
		r.secure = r.secure && tail.secure
		if loops(r.chain, strings.TrimSuffix(r.name, ".")) {
			return r
		}
	}
	if r.cutAlias {
		r.state, r.why = dnsFailed, "the alias leads through too many names"
	}
	return r
}

func (a *asker) askServer(ctx context.Context, server, name, typ string) dnsReply {
	return a.get(ctx, dnsKey{server: server, name: dnsmsg.Canonical(name), typ: typ})
}

// askUnchecked asks the resolver not to validate.
func (a *asker) askUnchecked(ctx context.Context, name, typ string) dnsReply {
	return a.get(ctx, dnsKey{name: dnsmsg.Canonical(name), typ: typ, unchecked: true})
}

func (a *asker) get(ctx context.Context, k dnsKey) dnsReply {
	late := func() dnsReply {
		return dnsReply{name: k.name, typ: k.typ, state: dnsFailed, why: endText(ctx)}
	}
	a.mineMu.Lock()
	own, again := a.mine[k]
	if !again {
		own = &ownQuestion{started: make(chan struct{})}
		a.mine[k] = own
	}
	a.mineMu.Unlock()
	switch {
	case again:
		select {
		case <-own.started:
		case <-ctx.Done():
		}
	case a.share != nil && !a.answered(k):
		select {
		case a.share <- struct{}{}:
			defer func() { <-a.share }()
		case <-ctx.Done():
		}
	}
	if ctx.Err() != nil && !a.answered(k) { // nobody would wait for it
		if !again {
			close(own.started)
		}
		return late()
	}
	c := a.start(ctx, k)
	defer a.leave(k, c)
	if !again {
		own.call = c
		close(own.started)
	}
	select {
	case <-c.done:
		return c.reply
	case <-ctx.Done():
		return late()
	}
}

// endText says why ctx ended.
func endText(ctx context.Context) string {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) || errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
		return "the time given for the check was up"
	}
	return "the check was cancelled"
}

// start asks, or joins those who asked already; who does so has to leave.
func (a *askCore) start(ctx context.Context, k dnsKey) *dnsCall {
	a.mu.Lock()
	defer a.mu.Unlock()
	c, ok := a.calls[k]
	if !ok {
		parent := ctx      //nolint:contextcheck // see base
		if a.base != nil { // what is shared is not for one asker to end
			parent = a.base
		}
		asking, cancel := context.WithCancelCause(parent)
		c = &dnsCall{done: make(chan struct{}), cancel: cancel}
		a.calls[k] = c
		a.wg.Go(func() {
			defer cancel(nil)
			defer close(c.done)
			c.reply = a.run(asking, k)
			if c.reply.state == dnsFailed && errors.Is(context.Cause(asking), errWithdrawn) {
				c.reply.why = errWithdrawn.Error()
			}
		})
	}
	c.waiting++
	return c
}

// leave withdraws a question when the last one goes who waited for its answer.
func (a *askCore) leave(k dnsKey, c *dnsCall) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c.waiting--; c.waiting > 0 || c.over() { // an answer is kept for all who come
		return
	}
	c.cancel(errWithdrawn)
	delete(a.calls, k)
}

// answered reports whether the answer is there already.
func (a *askCore) answered(k dnsKey) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	c, ok := a.calls[k]
	return ok && c.over()
}

// last tells that a check may run until t.
func (a *askCore) last(t time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if t.After(a.until) {
		a.until = t
	}
}

// settle waits for the questions that are still out after their context was
// cancelled, for a second at most and never past the time given for the check.
// A resolver that does not honour its context is not waited for: its goroutine
// ends when the resolver returns.
func (a *askCore) settle(caller context.Context) {
	done := make(chan struct{})
	go func() {
		a.wg.Wait()
		close(done)
	}()
	a.mu.Lock()
	left := time.Until(a.until)
	a.mu.Unlock()
	t := time.NewTimer(min(left, time.Second))
	defer t.Stop()
	select {
	case <-done:
	case <-caller.Done():
	case <-t.C:
	}
}

func (a *askCore) run(ctx context.Context, k dnsKey) dnsReply {
	r := dnsReply{name: k.name, typ: k.typ, state: dnsFailed}
	if err := dnsmsg.ValidName(k.name); err != nil {
		// Such a name cannot exist anywhere, which is an answer.
		r.state, r.why = dnsNXDomain, err.Error()
		return r
	}
	select {
	case a.slots <- struct{}{}:
		defer func() { <-a.slots }()
	case <-ctx.Done():
		r.why = endText(ctx)
		return r
	}
	timeout := a.timeout
	if k.server != "" {
		// A zone has several servers, and the resolver stands behind them.
		timeout = min(timeout, 2*time.Second)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	switch {
	case k.server != "":
		ans, err := a.direct.QueryServer(ctx, k.server, k.name, k.typ)
		r.read(ans, err)
	case k.unchecked:
		ans, err := a.unchecked.QueryUnchecked(ctx, k.name, k.typ)
		r.read(ans, err)
	case a.querier != nil:
		ans, err := a.querier.Query(ctx, k.name, k.typ)
		r.read(ans, err)
	default:
		a.lookup(ctx, &r)
	}
	slices.SortFunc(r.records, func(x, y dnsmsg.Record) int {
		return cmp.Or(cmp.Compare(x.Preference, y.Preference), cmp.Compare(x.Text(), y.Text()),
			cmp.Compare(x.Target, y.Target), x.Addr.Compare(y.Addr))
	})
	return r
}

func (r *dnsReply) read(ans DNSAnswer, err error) {
	if err != nil {
		r.why = failureText(err)
		return
	}
	r.size, r.secure, r.authoritative = ans.Size, ans.AuthenticData, ans.Authoritative
	in := dnsmsg.Answer{RCode: ans.RCode, Authoritative: ans.Authoritative, Answers: innerRecords(ans.Answers), Authority: innerRecords(ans.Authority)}
	t, _ := dnsmsg.ParseType(r.typ)
	r.chain, r.records = in.Resolve(r.name, t)
	r.ownRecords(in.Answers, t)
	switch {
	case ans.RCode != dnsmsg.NoError && ans.RCode != dnsmsg.NXDomain:
		r.servfail = ans.RCode == dnsmsg.ServFail
		r.records, r.why = nil, rcodeText(ans.RCode)
	case len(r.records) > 0:
		r.state = dnsFound
		r.ttl = r.records[0].TTL
		for _, rec := range r.records {
			r.ttl = min(r.ttl, rec.TTL)
		}
	case ans.RCode == dnsmsg.NXDomain:
		r.state, r.ttl = dnsNXDomain, in.NegativeTTL()
	default:
		r.state, r.ttl = dnsNoData, in.NegativeTTL()
		switch {
		case in.Denies():
		case len(in.Answers) > 0 && !slices.ContainsFunc(in.Answers, func(rec dnsmsg.Record) bool { return dnsmsg.Canonical(rec.Name) == r.name }):
			r.state, r.why = dnsFailed, "the reply holds records of another name only"
		case len(r.chain) > 0:
			r.cutAlias = t != dnsmsg.CNAME && !loops(r.chain, strings.TrimSuffix(r.name, "."))
		case in.Refers():
			r.state, r.referral, r.why = dnsFailed, true, whyReferral
		}
	}
}

const whyReferral = "the name server only names others to be asked (a referral), so it is no resolver"

// rcodeText is for people; the code in brackets is for those who search for it.
func rcodeText(rcode int) string {
	what := "the name server gave an error"
	switch rcode {
	case dnsmsg.ServFail:
		what = "the name server could not find the answer"
	case dnsmsg.Refused:
		what = "the name server refuses to answer"
	}
	return what + " (" + dnsmsg.RCodeName(rcode) + ")"
}

func (r *dnsReply) ownRecords(all []dnsmsg.Record, t dnsmsg.Type) {
	for _, rec := range all {
		if dnsmsg.Canonical(rec.Name) != r.name {
			continue
		}
		switch rec.Type {
		case dnsmsg.CNAME:
			r.own = append(r.own, "CNAME "+strings.TrimSuffix(strings.ToLower(rec.Target), "."))
		case t:
			r.own = append(r.own, cmp.Or(rec.Text(), strings.TrimSuffix(rec.Target, "."), rec.Addr.String()))
		}
	}
	slices.Sort(r.own)
	r.own = slices.Compact(r.own) // equal records are one (RFC 2181 section 5)
}

// lookup uses the methods of *net.Resolver, which hide most of an answer.
func (a *askCore) lookup(ctx context.Context, r *dnsReply) {
	var err error
	t, _ := dnsmsg.ParseType(r.typ)
	rec := dnsmsg.Record{Name: r.name, Type: t}
	switch t {
	case dnsmsg.TXT:
		var texts []string
		texts, err = a.resolver.LookupTXT(ctx, r.name)
		for _, s := range texts {
			rec.Strings = []string{s}
			r.records = append(r.records, rec)
		}
	case dnsmsg.CNAME:
		var target string
		target, err = a.resolver.LookupCNAME(ctx, r.name)
		if target = dnsmsg.Canonical(target); err == nil && target != r.name {
			rec.Target = target
			r.records = append(r.records, rec)
		}
	case dnsmsg.MX:
		var mx []*net.MX
		mx, err = a.resolver.LookupMX(ctx, r.name)
		for _, m := range mx {
			rec.Target, rec.Preference = m.Host, m.Pref
			r.records = append(r.records, rec)
		}
	case dnsmsg.NS:
		var ns []*net.NS
		ns, err = a.resolver.LookupNS(ctx, r.name)
		for _, n := range ns {
			rec.Target = dnsmsg.Canonical(n.Host)
			r.records = append(r.records, rec)
		}
	case dnsmsg.A, dnsmsg.AAAA:
		var addrs []net.IPAddr
		addrs, err = a.resolver.LookupIPAddr(ctx, r.name)
		for _, ip := range addrs {
			if v, ok := netip.AddrFromSlice(ip.IP); ok && v.Unmap().Is4() == (t == dnsmsg.A) {
				rec.Addr = v.Unmap()
				r.records = append(r.records, rec)
			}
		}
	case dnsmsg.PTR:
		var names []string
		addr, _ := reverseAddr(r.name) // nobody asks for the names of anything else
		names, err = a.resolver.LookupAddr(ctx, addr.String())
		for _, n := range names {
			rec.Target = dnsmsg.Canonical(n)
			r.records = append(r.records, rec)
		}
	default:
		r.why = "the resolver given cannot be asked for " + r.typ + " records"
		return
	}
	var ne *net.DNSError
	switch {
	case len(r.records) > 0:
		r.state = dnsFound
	case err == nil || errors.As(err, &ne) && ne.IsNotFound:
		r.state = dnsAbsent
	default:
		r.why = failureText(err)
	}
}

// failureText puts the usual failures into words that need no knowledge of
// the network.
func failureText(err error) string {
	var ne net.Error
	switch {
	case errors.Is(err, context.Canceled):
		return "the check was cancelled"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &ne) && ne.Timeout():
		return "the name server did not reply in time"
	}
	var de *dnsmsg.Error
	var errno syscall.Errno
	switch {
	case errors.As(err, &errno) && errors.As(err, &de):
		return "the name server " + de.Server + " could not be reached (" + errno.Error() + ")"
	case errors.As(err, &de) && de.Err != nil:
		return "the name server " + de.Server + " gave no usable answer (" + clip(de.Err.Error(), 120) + ")"
	}
	return clip(err.Error(), 200)
}

// addrs asks for A and AAAA at once.
func (a *asker) addrs(ctx context.Context, name string) dnsReply {
	var v4, v6 dnsReply
	var wg sync.WaitGroup
	wg.Go(func() { v4 = a.ask(ctx, name, "A") })
	wg.Go(func() { v6 = a.ask(ctx, name, "AAAA") })
	wg.Wait()
	return bothFamilies(v4, v6)
}

func bothFamilies(v4, v6 dnsReply) dnsReply {
	switch {
	case v4.state == dnsFound && v6.state == dnsFound:
		v4.records = append(slices.Clone(v4.records), v6.records...)
		return v4
	case v4.state == dnsFound:
		return v4
	case v6.state == dnsFound || v6.state == dnsFailed:
		return v6
	}
	return v4
}

// spfSource lets the SPF tree ask.
type spfSource struct{ k *checker }

func spfStatus(r dnsReply) spf.Status {
	switch {
	case r.state == dnsFound:
		return spf.Found
	case r.absent():
		return spf.Empty
	}
	return spf.Failed
}

func (s spfSource) TXT(ctx context.Context, name string) ([]string, spf.Status) {
	r := s.k.look(ctx, name, "TXT")
	return r.texts(), spfStatus(r)
}

func (s spfSource) Addrs(ctx context.Context, name string) ([]netip.Addr, spf.Status) {
	v4, v6 := s.k.families(ctx, name)
	r := bothFamilies(v4, v6)
	out := make([]netip.Addr, 0, len(r.records))
	for _, rec := range r.records {
		out = append(out, rec.Addr)
	}
	if v4.state == dnsFailed || v6.state == dnsFailed {
		return out, spf.Failed
	}
	return out, spfStatus(r)
}

func (s spfSource) MX(ctx context.Context, name string) ([]string, spf.Status) {
	r := s.k.look(ctx, name, "MX")
	out := make([]string, 0, len(r.records))
	for _, rec := range r.records {
		if host := strings.TrimSuffix(rec.Target, "."); host != "" { // "." is a null MX
			out = append(out, host)
		}
	}
	return out, spfStatus(r)
}
