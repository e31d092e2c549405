// Package cutproxy is a TCP proxy for tests that loses a connection at a chosen
// moment: before or after the server got what the client sent.
package cutproxy

import (
	"bytes"
	"io"
	"net"
	"sync"
	"testing"
)

// Moment is when a connection is cut.
type Moment int

const (
	// Before the server gets the bytes that were looked for.
	Before Moment = iota + 1
	// After the server has answered them; the client does not get the answer.
	After
)

// Proxy forwards connections to one address.
type Proxy struct {
	listener net.Listener
	target   string
	wg       sync.WaitGroup

	mu      sync.Mutex
	pattern []byte
	moment  Moment
	refuse  bool // no connection after the cut
	down    bool
	conns   map[net.Conn]bool
}

// New starts a proxy for the test, which ends with it.
func New(tb testing.TB, target string) *Proxy {
	tb.Helper()
	l, err := new(net.ListenConfig).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	p := &Proxy{listener: l, target: target, conns: map[net.Conn]bool{}}
	p.wg.Go(p.accept)
	tb.Cleanup(func() {
		_ = l.Close()
		p.mu.Lock()
		p.down = true
		for c := range p.conns {
			_ = c.Close()
		}
		p.mu.Unlock()
		p.wg.Wait()
	})
	return p
}

// Addr is where clients connect to.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Cut cuts the next connection whose client sends the pattern, once. With
// refuse nobody gets through afterwards.
func (p *Proxy) Cut(pattern []byte, moment Moment, refuse bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pattern, p.moment, p.refuse = pattern, moment, refuse
}

// keep remembers a connection, or closes it when the proxy is down.
func (p *Proxy) keep(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.down {
		_ = c.Close()
		return false
	}
	p.conns[c] = true
	return true
}

func (p *Proxy) accept() {
	for {
		c, err := p.listener.Accept()
		if err != nil {
			return
		}
		if p.keep(c) {
			p.wg.Go(func() { p.serve(c) })
		}
	}
}

func (p *Proxy) serve(client net.Conn) {
	defer func() { _ = client.Close() }()
	server, err := net.Dial("tcp", p.target) //nolint:noctx // it ends with the proxy
	if err != nil || !p.keep(server) {
		return
	}
	defer func() { _ = server.Close() }()
	cut := make(chan struct{}) // closed when the answer is not to reach the client
	var answers sync.WaitGroup
	answers.Go(func() {
		defer func() { _ = client.Close() }()
		buf := make([]byte, 64<<10)
		for {
			n, err := server.Read(buf)
			select {
			case <-cut:
				return
			default:
			}
			if err != nil {
				return
			}
			if _, err := client.Write(buf[:n]); err != nil {
				return
			}
		}
	})
	p.forward(client, server, cut)
	answers.Wait()
}

// forward copies what the client sends, and looks for the pattern.
func (p *Proxy) forward(client, server net.Conn, cut chan struct{}) {
	var tail []byte
	buf := make([]byte, 64<<10)
	for {
		n, err := client.Read(buf)
		if err != nil {
			_ = server.Close()
			return
		}
		seen := append(tail, buf[:n]...)
		switch p.match(seen) {
		case Before:
			_ = server.Close()
			return
		case After:
			close(cut)
			if _, err := server.Write(buf[:n]); err == nil {
				// The other direction closes the client at the answer.
				_, _ = io.Copy(io.Discard, client)
			}
			_ = server.Close()
			return
		default:
		}
		if _, err := server.Write(buf[:n]); err != nil {
			return
		}
		// What may be the beginning of the pattern, and not all of it.
		tail = append([]byte(nil), seen[max(0, len(seen)-p.overlap()):]...)
	}
}

// match reports the moment at which to cut, once.
func (p *Proxy) match(seen []byte) Moment {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pattern == nil || !bytes.Contains(seen, p.pattern) {
		return 0
	}
	m := p.moment
	p.pattern, p.down = nil, p.refuse
	return m
}

// overlap is the most bytes that do not hold the whole pattern.
func (p *Proxy) overlap() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return max(0, len(p.pattern)-1)
}
