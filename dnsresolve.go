package fluxly

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/getfluxly/fluxly/internal/dnsmsg"
)

// Resolver is what [CheckDomain] asks. [*net.Resolver] satisfies it as it is.
// Names come with the root dot, so that no search list applies. It is called
// from many goroutines and should return when its context ends.
//
// A resolver that offers [DNSQuerier] as well is asked through that, which
// shows aliases, times to live and the difference between a name that does not
// exist and one that has no such record; with [ServerQuerier] the zone's own
// servers are asked too, and with [UncheckedQuerier] faults of DNSSEC are named.
// [DNSClient] offers all of them.
type Resolver interface {
	LookupTXT(ctx context.Context, name string) ([]string, error)
	LookupCNAME(ctx context.Context, host string) (string, error)
	LookupMX(ctx context.Context, name string) ([]*net.MX, error)
	LookupIPAddr(ctx context.Context, host string) ([]net.IPAddr, error)
	LookupNS(ctx context.Context, name string) ([]*net.NS, error)
	LookupAddr(ctx context.Context, addr string) ([]string, error)
}

// DNSQuerier gives raw answers. Type is a mnemonic such as "TXT". An answer of
// any response code is no error; an error means that there was no usable one.
type DNSQuerier interface {
	Query(ctx context.Context, name, typ string) (DNSAnswer, error)
}

// ServerQuerier asks one server, given as host and port, for what it holds
// itself (without recursion).
type ServerQuerier interface {
	QueryServer(ctx context.Context, server, name, typ string) (DNSAnswer, error)
}

// DNSAnswer is one reply of a name server.
type DNSAnswer struct {
	// RCode is the response code: 0 NOERROR, 2 SERVFAIL, 3 NXDOMAIN,
	// 5 REFUSED (RFC 1035 section 4.1.1).
	RCode int
	// Authoritative is the AA bit; AuthenticData the AD bit, set by a
	// resolver that validated the answer with DNSSEC.
	Authoritative bool
	AuthenticData bool
	// TCP is true when the reply did not fit into one over UDP.
	TCP bool
	// Size of the reply in bytes; 0 when not known.
	Size int
	// Server that replied; empty when not known.
	Server string
	// Answers holds aliases and records; Authority the SOA of an absence.
	Answers   []DNSRecord
	Authority []DNSRecord
}

// DNSRecord is one record of an answer.
type DNSRecord struct {
	Name string
	// Type is a mnemonic: "TXT", "CNAME", "MX", ...
	Type string
	TTL  time.Duration
	// Strings are those of a TXT record.
	Strings []string
	// Target is where a CNAME, NS, PTR or MX points.
	Target string
	// Preference is that of an MX.
	Preference uint16
	// Addr is that of an A or AAAA.
	Addr netip.Addr
	// Minimum is the SOA's time for which an absence may be cached.
	Minimum time.Duration
}

// DNSClientConfig sets up a [DNSClient]. The zero value uses the system's
// name servers.
type DNSClientConfig struct {
	// Servers are recursive resolvers as "192.0.2.1", "192.0.2.1:5353" or
	// "[2001:db8::1]:53". Default: the nameserver lines of /etc/resolv.conf.
	Servers []string
	// Timeout bounds one try against one server. Default 2 s. Each server is
	// tried twice.
	Timeout time.Duration
	// Dial opens connections, "udp" and "tcp". Default: [net.Dialer]. With a
	// function of one's own, [CheckDomain] asks name servers at private
	// addresses too: which ones may be reached is then for the function to say.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// DNSClient asks name servers over UDP, and over TCP where the reply does not
// fit. It offers [Resolver], [DNSQuerier], [ServerQuerier] and
// [UncheckedQuerier], keeps no connection and no cache, and may be used from
// many goroutines.
type DNSClient struct {
	servers []string
	client  dnsmsg.Client
}

var (
	_ Resolver         = (*DNSClient)(nil)
	_ Resolver         = (*net.Resolver)(nil)
	_ DNSQuerier       = (*DNSClient)(nil)
	_ ServerQuerier    = (*DNSClient)(nil)
	_ UncheckedQuerier = (*DNSClient)(nil)
)

// NewDNSClient makes a client. The error matches [ErrInvalid] when a server
// is not an address, and also when none is given and the system names none.
func NewDNSClient(c DNSClientConfig) (*DNSClient, error) {
	d := &DNSClient{client: dnsmsg.Client{Timeout: c.Timeout, Dial: c.Dial}}
	servers := c.Servers
	if len(servers) == 0 {
		servers = systemServers("/etc/resolv.conf")
	}
	if len(servers) == 0 {
		return nil, fieldErrorf("servers", "", "none given and none found in /etc/resolv.conf; name a resolver such as 192.0.2.1:53")
	}
	for _, s := range servers {
		ap, err := netip.ParseAddrPort(s)
		if err != nil {
			a, aerr := netip.ParseAddr(strings.Trim(s, "[]"))
			if aerr != nil {
				return nil, fieldErrorf("servers", s, "not an IP address with or without a port, such as 192.0.2.1:53")
			}
			ap = netip.AddrPortFrom(a, 53)
		}
		d.servers = append(d.servers, ap.String())
	}
	return d, nil
}

// ownDialer reports whether the caller decides what is dialled.
func (d *DNSClient) ownDialer() bool { return d.client.Dial != nil }

// systemServers reads the nameserver lines, at most three as the C library.
func systemServers(path string) (out []string) {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan() && len(out) < 3; {
		if f := strings.Fields(s.Text()); len(f) >= 2 && f[0] == "nameserver" {
			if _, err := netip.ParseAddr(f[1]); err == nil {
				out = append(out, f[1])
			}
		}
	}
	return out
}

// Query asks the configured resolvers in turn. See [DNSQuerier].
func (d *DNSClient) Query(ctx context.Context, name, typ string) (DNSAnswer, error) {
	return d.query(ctx, d.servers, name, typ, dnsmsg.Recursive)
}

// QueryServer asks one server without recursion. See [ServerQuerier].
func (d *DNSClient) QueryServer(ctx context.Context, server, name, typ string) (DNSAnswer, error) {
	return d.query(ctx, []string{server}, name, typ, dnsmsg.Direct)
}

// QueryUnchecked asks the configured resolvers in turn, without validation. See
// [UncheckedQuerier].
func (d *DNSClient) QueryUnchecked(ctx context.Context, name, typ string) (DNSAnswer, error) {
	return d.query(ctx, d.servers, name, typ, dnsmsg.Unchecked)
}

func (d *DNSClient) query(ctx context.Context, servers []string, name, typ string, mode dnsmsg.Mode) (DNSAnswer, error) {
	t, ok := dnsmsg.ParseType(typ)
	if !ok {
		return DNSAnswer{}, fieldErrorf("type", typ, "not a DNS record type that is known here; use a mnemonic such as TXT, or TYPE99")
	}
	a, err := d.client.Query(ctx, servers, name, t, mode)
	if err != nil {
		return DNSAnswer{}, err
	}
	return DNSAnswer{
		RCode: a.RCode, Authoritative: a.Authoritative, AuthenticData: a.AuthenticData, TCP: a.TCP, Size: a.Size,
		Server: a.Server, Answers: publicRecords(a.Answers), Authority: publicRecords(a.Authority),
	}, nil
}

func publicRecords(rs []dnsmsg.Record) []DNSRecord {
	out := make([]DNSRecord, 0, len(rs))
	for _, r := range rs {
		out = append(out, DNSRecord{
			Name: r.Name, Type: r.Type.String(), TTL: r.TTL, Strings: r.Strings, Target: r.Target,
			Preference: r.Preference, Addr: r.Addr, Minimum: r.Minimum,
		})
	}
	return out
}

func innerRecords(rs []DNSRecord) []dnsmsg.Record {
	out := make([]dnsmsg.Record, 0, len(rs))
	for _, r := range rs {
		t, _ := dnsmsg.ParseType(r.Type)
		out = append(out, dnsmsg.Record{
			Name: r.Name, Type: t, TTL: r.TTL, Strings: r.Strings, Target: r.Target,
			Preference: r.Preference, Addr: r.Addr, Minimum: r.Minimum,
		})
	}
	return out
}

// records asks and follows aliases; an absence is a *net.DNSError with
// IsNotFound, as [*net.Resolver] has it.
func (d *DNSClient) records(ctx context.Context, name string, t dnsmsg.Type) ([]dnsmsg.Record, error) {
	a, err := d.client.Query(ctx, d.servers, name, t, dnsmsg.Recursive)
	if err != nil {
		var de *dnsmsg.Error
		return nil, &net.DNSError{UnwrapErr: err, Err: err.Error(), Name: name, IsTimeout: errors.As(err, &de) && de.Timeout, IsTemporary: true}
	}
	if a.RCode != dnsmsg.NoError && a.RCode != dnsmsg.NXDomain {
		return nil, &net.DNSError{Err: "server replied " + dnsmsg.RCodeName(a.RCode), Name: name, Server: a.Server, IsTemporary: true}
	}
	if a.Refers() {
		return nil, &net.DNSError{Err: whyReferral, Name: name, Server: a.Server, IsTemporary: true}
	}
	_, rs := a.Resolve(name, t)
	if len(rs) == 0 {
		return nil, &net.DNSError{Err: "no " + t.String() + " record", Name: name, Server: a.Server, IsNotFound: true}
	}
	return rs, nil
}

// LookupTXT returns the joined texts. As all Lookup methods here it fails with
// a [*net.DNSError], whose IsNotFound is true for an absence.
func (d *DNSClient) LookupTXT(ctx context.Context, name string) ([]string, error) {
	rs, err := d.records(ctx, name, dnsmsg.TXT)
	out := make([]string, 0, len(rs))
	for _, r := range rs {
		out = append(out, r.Text())
	}
	return out, err
}

// LookupCNAME returns the target of the alias at host, one step only, or host
// itself when there is none.
func (d *DNSClient) LookupCNAME(ctx context.Context, host string) (string, error) {
	rs, err := d.records(ctx, host, dnsmsg.CNAME)
	var ne *net.DNSError
	switch {
	case err == nil:
		return rs[0].Target, nil
	case errors.As(err, &ne) && ne.IsNotFound:
		return dnsmsg.Canonical(host), nil
	}
	return "", err
}

// LookupMX returns the mail hosts, the preferred first.
func (d *DNSClient) LookupMX(ctx context.Context, name string) ([]*net.MX, error) {
	rs, err := d.records(ctx, name, dnsmsg.MX)
	out := make([]*net.MX, 0, len(rs))
	for _, r := range rs {
		out = append(out, &net.MX{Host: r.Target, Pref: r.Preference})
	}
	slices.SortStableFunc(out, func(a, b *net.MX) int { return int(a.Pref) - int(b.Pref) })
	return out, err
}

// LookupIPAddr returns IPv4 and IPv6 addresses.
func (d *DNSClient) LookupIPAddr(ctx context.Context, host string) ([]net.IPAddr, error) {
	v4, err4 := d.records(ctx, host, dnsmsg.A)
	v6, err6 := d.records(ctx, host, dnsmsg.AAAA)
	var out []net.IPAddr
	for _, r := range append(v4, v6...) {
		out = append(out, net.IPAddr{IP: r.Addr.AsSlice()})
	}
	if len(out) > 0 {
		return out, nil
	}
	var ne *net.DNSError
	if errors.As(err4, &ne) && ne.IsNotFound {
		return nil, err6 // the absence of both, or the failure of one
	}
	return nil, err4
}

// LookupNS returns the name servers of a zone.
func (d *DNSClient) LookupNS(ctx context.Context, name string) ([]*net.NS, error) {
	rs, err := d.records(ctx, name, dnsmsg.NS)
	out := make([]*net.NS, 0, len(rs))
	for _, r := range rs {
		out = append(out, &net.NS{Host: r.Target})
	}
	return out, err
}

// LookupAddr returns the names of an address.
func (d *DNSClient) LookupAddr(ctx context.Context, addr string) ([]string, error) {
	a, err := netip.ParseAddr(addr)
	if err != nil {
		return nil, &net.DNSError{Err: "not an IP address", Name: addr}
	}
	rs, err := d.records(ctx, reverseName(a), dnsmsg.PTR)
	out := make([]string, 0, len(rs))
	for _, r := range rs {
		out = append(out, r.Target)
	}
	return out, err
}

func reverseName(a netip.Addr) string {
	a = a.Unmap()
	var b strings.Builder
	raw := a.AsSlice()
	slices.Reverse(raw)
	const digits = "0123456789abcdef"
	for _, c := range raw {
		if a.Is4() {
			b.WriteString(netip.AddrFrom4([4]byte{0, 0, 0, c}).String()[len("0.0.0."):])
			b.WriteByte('.')
			continue
		}
		b.Write([]byte{digits[c&15], '.', digits[c>>4], '.'})
	}
	if a.Is4() {
		return b.String() + "in-addr.arpa."
	}
	return b.String() + "ip6.arpa."
}

// reverseAddr is the address that a name of [reverseName] stands for.
func reverseAddr(name string) (netip.Addr, bool) {
	text := ""
	if v4, ok := strings.CutSuffix(name, ".in-addr.arpa."); ok {
		parts := strings.Split(v4, ".")
		slices.Reverse(parts)
		text = strings.Join(parts, ".")
	} else if v6, ok := strings.CutSuffix(name, ".ip6.arpa."); ok {
		digits := strings.Split(v6, ".")
		slices.Reverse(digits)
		for i, d := range digits {
			if i > 0 && i%4 == 0 {
				text += ":"
			}
			text += d
		}
	}
	a, err := netip.ParseAddr(text)
	return a, err == nil && reverseName(a) == name
}
