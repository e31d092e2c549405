// Package dnstest is a small authoritative DNS server inside a test: UDP and
// TCP on a loopback port, with faults by script.
package dnstest

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/getfluxly/fluxly/internal/dnsmsg"
)

// Fault is what the server does instead of answering as the zone says.
type Fault struct {
	// Drop: no reply at all.
	Drop bool
	// RCode replies with this code and no records when not 0.
	RCode int
	// Bogus replies with SERVFAIL unless the question carries the CD bit, as
	// a validating resolver does where signatures are wrong.
	Bogus bool
	// Liar replies with the right question and records of another name.
	Liar bool
	// Lame replies without authority (the AA bit) and without records, as a
	// server does that was never given the zone.
	Lame bool
	// CutAlias leaves it to the asker to follow an alias.
	CutAlias bool
	// WrongID replies with another id before, never the right one.
	WrongID bool
	// Truncate cuts each UDP reply; with TCPDrop the TCP one never comes.
	Truncate bool
	TCPDrop  bool
	// Garbage replies with bytes that are no DNS message.
	Garbage bool
	// Delay holds the reply back.
	Delay time.Duration
}

// Server serves one or more zones. Make it with [Start].
type Server struct {
	// Addr is the host and port for UDP and TCP.
	Addr string

	mu      sync.Mutex
	records map[string][]dnsmsg.Record
	faults  map[string]Fault // "name type", "name *", "* *"
	asked   []string
	byHand  func(query []byte, udp bool) []byte

	ctx  context.Context //nolint:containedctx // ends what the server started
	stop context.CancelFunc
	wg   sync.WaitGroup
}

// Start serves zone until the test ends. A line of zone is "name type data":
//
//	acme.test TXT "v=spf1 " "-all"
//	pm-bounces.acme.test CNAME pm.mtasv.net
//	acme.test MX 10 mail.acme.test
//
// Names are absolute without a dot. Each record lives 300 s unless a number
// stands before the type.
func Start(tb testing.TB, zone string) *Server {
	tb.Helper()
	s := &Server{records: map[string][]dnsmsg.Record{}, faults: map[string]Fault{}}
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.Set(tb, zone)
	var pc net.PacketConn
	var ln net.Listener
	var err error
	var lc net.ListenConfig
	for range 20 { // the UDP port that we get may be taken for TCP
		if pc, err = lc.ListenPacket(s.ctx, "udp", "127.0.0.1:0"); err != nil {
			tb.Fatal(err)
		}
		if ln, err = lc.Listen(s.ctx, "tcp", pc.LocalAddr().String()); err == nil {
			break
		}
		pc.Close()
	}
	if err != nil {
		tb.Fatal(err)
	}
	s.Addr = pc.LocalAddr().String()
	s.wg.Go(func() { s.serveUDP(pc) })
	s.wg.Go(func() { s.serveTCP(ln) })
	tb.Cleanup(func() {
		s.stop()
		pc.Close()
		ln.Close()
		s.wg.Wait()
	})
	return s
}

// Set replaces the whole zone.
func (s *Server) Set(tb testing.TB, zone string) {
	tb.Helper()
	m := map[string][]dnsmsg.Record{}
	for line := range strings.Lines(zone) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, ";") {
			continue
		}
		r, ok := parseLine(line)
		if !ok {
			tb.Fatalf("zone line %q cannot be read", line)
		}
		m[r.Name] = append(m[r.Name], r)
	}
	s.mu.Lock()
	s.records = m
	s.mu.Unlock()
}

// Fail scripts a fault for "name type"; "*" stands for any.
func (s *Server) Fail(name, typ string, f Fault) {
	s.mu.Lock()
	s.faults[faultKey(name, typ)] = f
	s.mu.Unlock()
}

// Answer has f make the whole reply to each query, from now on; nil is silence.
func (s *Server) Answer(f func(query []byte, udp bool) []byte) {
	s.mu.Lock()
	s.byHand = f
	s.mu.Unlock()
}

// Asked lists the questions so far as "name type", in the order they came.
func (s *Server) Asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.asked...)
}

// Dial connects to the server, whatever the address. On such a connection a
// silence that a fault scripts is at once a timeout, so that tests of silence
// need not wait for it, and need no short timeouts that a busy machine misses.
func (s *Server) Dial(ctx context.Context, network, _ string) (net.Conn, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, network, s.Addr)
	if err != nil {
		return nil, err
	}
	return &conn{Conn: c, server: s, tcp: network == "tcp"}, nil
}

type conn struct {
	net.Conn
	server *Server
	tcp    bool
	silent int // reads that pass before the silence; -1: no silence
}

func (c *conn) Write(b []byte) (int, error) {
	msg := b
	if c.tcp && len(b) > 2 {
		msg = b[2:]
	}
	c.silent = -1
	var p dnsmessage.Parser
	if _, err := p.Start(msg); err == nil {
		if q, err := p.Question(); err == nil {
			c.server.mu.Lock()
			f := c.server.fault(dnsmsg.Canonical(q.Name.String()), dnsmsg.Type(q.Type))
			c.server.mu.Unlock()
			switch {
			case f.Drop || f.TCPDrop && c.tcp:
				c.silent = 0
			case f.WrongID || f.Garbage:
				c.silent = 1
			}
		}
	}
	return c.Conn.Write(b)
}

func (c *conn) Read(b []byte) (int, error) {
	if c.silent == 0 {
		return 0, os.ErrDeadlineExceeded
	}
	c.silent--
	return c.Conn.Read(b)
}

func (s *Server) fault(name string, typ dnsmsg.Type) Fault {
	for _, k := range []string{name + " " + typ.String(), name + " *", "* " + typ.String(), "* *"} {
		if f, ok := s.faults[k]; ok {
			return f
		}
	}
	return Fault{}
}

func faultKey(name, typ string) string {
	if name == "*" {
		return "* " + typ
	}
	return dnsmsg.Canonical(name) + " " + typ
}

func parseLine(line string) (dnsmsg.Record, bool) {
	name, rest, _ := strings.Cut(line, " ")
	f := strings.SplitN(strings.TrimSpace(rest), " ", 2)
	r := dnsmsg.Record{Name: dnsmsg.Canonical(name), TTL: 300 * time.Second}
	if n, err := strconv.Atoi(f[0]); err == nil && len(f) == 2 {
		r.TTL = time.Duration(n) * time.Second
		f = strings.SplitN(strings.TrimSpace(f[1]), " ", 2)
	}
	if len(f) != 2 {
		return r, false
	}
	t, ok := dnsmsg.ParseType(f[0])
	data := strings.TrimSpace(f[1])
	r.Type = t
	if !ok {
		return r, false
	}
	switch t {
	case dnsmsg.TXT, dnsmsg.SPF:
		for data != "" {
			q, err := strconv.QuotedPrefix(data)
			if err != nil {
				return r, false
			}
			v, _ := strconv.Unquote(q)
			r.Strings = append(r.Strings, v)
			data = strings.TrimSpace(data[len(q):])
		}
	case dnsmsg.A, dnsmsg.AAAA:
		a, err := netip.ParseAddr(data)
		r.Addr = a
		return r, err == nil
	case dnsmsg.MX:
		p, host, _ := strings.Cut(data, " ")
		n, err := strconv.ParseUint(p, 10, 16)
		r.Preference, r.Target = uint16(n), dnsmsg.Canonical(host)
		return r, err == nil
	case dnsmsg.SOA:
		mname, minimum, _ := strings.Cut(data, " ")
		n, err := strconv.Atoi(minimum)
		r.Target, r.Minimum = dnsmsg.Canonical(mname), time.Duration(n)*time.Second
		return r, err == nil
	default:
		r.Target = dnsmsg.Canonical(data)
	}
	return r, true
}

func (s *Server) serveUDP(pc net.PacketConn) {
	buf := make([]byte, 4096)
	for {
		n, from, err := pc.ReadFrom(buf)
		if err != nil {
			return
		}
		msg := append([]byte(nil), buf[:n]...)
		s.wg.Go(func() {
			for _, out := range s.reply(msg, true) {
				_, _ = pc.WriteTo(out, from)
			}
		})
	}
}

func (s *Server) serveTCP(ln net.Listener) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		s.wg.Go(func() {
			defer conn.Close()
			defer context.AfterFunc(s.ctx, func() { conn.Close() })()
			for {
				var size [2]byte
				if _, err := io.ReadFull(conn, size[:]); err != nil {
					return
				}
				msg := make([]byte, binary.BigEndian.Uint16(size[:]))
				if _, err := io.ReadFull(conn, msg); err != nil {
					return
				}
				for _, out := range s.reply(msg, false) {
					if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(out))), out...)); err != nil {
						return
					}
				}
			}
		})
	}
}

func (s *Server) reply(msg []byte, udp bool) [][]byte {
	s.mu.Lock()
	byHand := s.byHand
	s.mu.Unlock()
	if byHand != nil {
		if out := byHand(msg, udp); out != nil {
			return [][]byte{out}
		}
		return nil
	}
	var p dnsmessage.Parser
	h, err := p.Start(msg)
	if err != nil {
		return nil
	}
	q, err := p.Question()
	if err != nil {
		return nil
	}
	limit := 512
	if _ = p.SkipAllQuestions(); p.SkipAllAnswers() == nil && p.SkipAllAuthorities() == nil {
		if o, err := p.AdditionalHeader(); err == nil && o.Type == dnsmessage.TypeOPT {
			limit = max(limit, int(o.Class))
		}
	}
	name, typ := dnsmsg.Canonical(q.Name.String()), dnsmsg.Type(q.Type)
	f, answers, authority, rcode := s.look(name, typ)
	if f.Delay > 0 {
		t := time.NewTimer(f.Delay)
		defer t.Stop()
		select {
		case <-t.C:
		case <-s.ctx.Done():
			return nil
		}
	}
	if f.Drop || f.TCPDrop && !udp {
		return nil
	}
	if f.Garbage {
		return [][]byte{[]byte("not a DNS message at all")}
	}
	id := h.ID
	if f.WrongID {
		id++
	}
	if f.Bogus && !h.CheckingDisabled {
		f.RCode = dnsmsg.ServFail
	}
	if f.Liar {
		for i := range answers {
			answers[i].Name = "liar.test."
		}
	}
	if f.RCode != 0 {
		answers, authority, rcode = nil, nil, f.RCode
	}
	if f.Lame {
		answers, authority, rcode = nil, nil, dnsmsg.NoError
	}
	h = dnsmessage.Header{ID: id, Response: true, Authoritative: !f.Lame, RCode: dnsmessage.RCode(rcode)}
	out := pack(h, q, answers, authority)
	if udp && (f.Truncate || len(out) > limit) {
		h.Truncated = true
		out = pack(h, q, nil, nil)
	}
	return [][]byte{out}
}

// look answers from the zone: aliases followed, wildcards, NXDOMAIN told from
// NODATA, the SOA of the nearest zone above for absences.
func (s *Server) look(name string, typ dnsmsg.Type) (f Fault, answers, authority []dnsmsg.Record, rcode int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, strings.TrimSuffix(name, ".")+" "+typ.String())
	f = s.fault(name, typ)
	at := name
	for range 8 {
		rs, exists := s.at(at)
		if !exists {
			rcode = dnsmsg.NXDomain
			break
		}
		var alias *dnsmsg.Record
		n := len(answers)
		for _, r := range rs {
			switch {
			case r.Type == typ:
				answers = append(answers, r)
			case r.Type == dnsmsg.CNAME:
				alias = &r
			}
		}
		if alias == nil || len(answers) > n {
			break
		}
		answers = append(answers, *alias)
		if f.CutAlias {
			break
		}
		at = alias.Target
	}
	if len(answers) == 0 || rcode != 0 {
		for up := at; up != "." && up != ""; {
			for _, r := range s.records[up] {
				if r.Type == dnsmsg.SOA {
					authority = append(authority, r)
				}
			}
			if len(authority) > 0 {
				break
			}
			_, up, _ = strings.Cut(up, ".")
		}
	}
	return f, answers, authority, rcode
}

func (s *Server) at(name string) ([]dnsmsg.Record, bool) {
	if rs, ok := s.records[name]; ok {
		return rs, true
	}
	for n := range s.records {
		if strings.HasSuffix(n, "."+name) && !strings.HasPrefix(n, "*.") {
			return nil, true
		}
	}
	for up := name; ; {
		_, rest, ok := strings.Cut(up, ".")
		if !ok || rest == "" {
			return nil, false
		}
		if rs, ok := s.records["*."+rest]; ok {
			own := make([]dnsmsg.Record, len(rs))
			for i, r := range rs {
				r.Name = name
				own[i] = r
			}
			return own, true
		}
		up = rest
	}
}

func pack(h dnsmessage.Header, q dnsmessage.Question, answers, authority []dnsmsg.Record) []byte {
	b := dnsmessage.NewBuilder(nil, h)
	b.EnableCompression()
	_ = b.StartQuestions()
	_ = b.Question(q)
	_ = b.StartAnswers()
	for _, r := range answers {
		packRecord(&b, r)
	}
	_ = b.StartAuthorities()
	for _, r := range authority {
		packRecord(&b, r)
	}
	out, err := b.Finish()
	if err != nil {
		return nil
	}
	return out
}

func packRecord(b *dnsmessage.Builder, r dnsmsg.Record) {
	name := func(s string) dnsmessage.Name {
		n, _ := dnsmessage.NewName(s)
		return n
	}
	h := dnsmessage.ResourceHeader{Name: name(r.Name), Class: dnsmessage.ClassINET, TTL: uint32(r.TTL / time.Second)}
	switch r.Type {
	case dnsmsg.A:
		_ = b.AResource(h, dnsmessage.AResource{A: r.Addr.As4()})
	case dnsmsg.AAAA:
		_ = b.AAAAResource(h, dnsmessage.AAAAResource{AAAA: r.Addr.As16()})
	case dnsmsg.TXT:
		_ = b.TXTResource(h, dnsmessage.TXTResource{TXT: r.Strings})
	case dnsmsg.CNAME:
		_ = b.CNAMEResource(h, dnsmessage.CNAMEResource{CNAME: name(r.Target)})
	case dnsmsg.NS:
		_ = b.NSResource(h, dnsmessage.NSResource{NS: name(r.Target)})
	case dnsmsg.PTR:
		_ = b.PTRResource(h, dnsmessage.PTRResource{PTR: name(r.Target)})
	case dnsmsg.MX:
		_ = b.MXResource(h, dnsmessage.MXResource{Pref: r.Preference, MX: name(r.Target)})
	case dnsmsg.SOA:
		_ = b.SOAResource(h, dnsmessage.SOAResource{
			NS: name(r.Target), MBox: name("host." + r.Name), Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400,
			MinTTL: uint32(r.Minimum / time.Second),
		})
	default:
		var d []byte
		for _, s := range r.Strings {
			d = append(append(d, byte(len(s))), s...)
		}
		_ = b.UnknownResource(h, dnsmessage.UnknownResource{Type: dnsmessage.Type(r.Type), Data: d})
	}
}
