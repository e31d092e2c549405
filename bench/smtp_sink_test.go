package bench

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"math/big"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// sink is a server that takes mail with STARTTLS and a login and drops it. As
// Postfix does, it answers when it has read all that came, so a client that
// sends several commands at once gets the replies at once.
type sink struct {
	addr  string
	roots *x509.CertPool
	// oneWay is how long a byte takes to arrive, in either direction.
	oneWay time.Duration
	// pipelining is announced.
	pipelining bool

	tls      *tls.Config
	listener net.Listener
	served   sync.WaitGroup
	mu       sync.Mutex
	conns    []net.Conn
	mails    atomic.Int64
	commands atomic.Int64
	replies  atomic.Int64
}

const sinkUser, sinkPassword = "sink-user", "sink-password"

func newSink(t *testing.T, oneWay time.Duration, pipelining bool) *sink {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "sink"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	must(err)
	cert, err := x509.ParseCertificate(der)
	must(err)
	s := &sink{oneWay: oneWay, pipelining: pipelining, roots: x509.NewCertPool()}
	s.roots.AddCert(cert)
	s.tls = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, DynamicRecordSizingDisabled: true}
	s.listener, err = net.Listen("tcp", "127.0.0.1:0")
	must(err)
	s.addr = s.listener.Addr().String()
	s.served.Go(func() {
		for {
			conn, err := s.listener.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns = append(s.conns, conn)
			s.mu.Unlock()
			s.served.Go(func() { s.serve(conn) })
		}
	})
	t.Cleanup(func() {
		_ = s.listener.Close()
		s.mu.Lock()
		for _, c := range s.conns {
			_ = c.Close()
		}
		s.mu.Unlock()
		s.served.Wait()
	})
	return s
}

func (s *sink) serve(raw net.Conn) {
	defer raw.Close()
	conn := raw
	if s.oneWay > 0 {
		w := newWire(raw, s.oneWay)
		defer w.Close()
		conn = w
	}
	r, w := bufio.NewReaderSize(conn, 64<<10), bufio.NewWriterSize(conn, 4096)
	say := func(text string) bool {
		s.replies.Add(1)
		_, _ = w.WriteString(text)
		return r.Buffered() > 0 || w.Flush() == nil
	}
	if !say("220 sink\r\n") {
		return
	}
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return
		}
		s.commands.Add(1)
		verb := strings.ToUpper(string(line[:min(4, len(line))]))
		answer := "250 2.0.0 ok\r\n"
		switch verb {
		case "EHLO":
			answer = "250-sink\r\n250-SIZE 20000000\r\n"
			if s.pipelining {
				answer += "250-PIPELINING\r\n"
			}
			if _, ok := conn.(*tls.Conn); ok {
				answer += "250-8BITMIME\r\n250 AUTH PLAIN\r\n"
			} else {
				answer += "250 STARTTLS\r\n"
			}
		case "STAR":
			if !say("220 go\r\n") {
				return
			}
			conn = tls.Server(conn, s.tls)
			r.Reset(conn)
			w.Reset(conn)
			continue
		case "AUTH":
			answer = "235 2.7.0 ok\r\n"
		case "DATA":
			if !say("354 go on\r\n") {
				return
			}
			for {
				line, err := r.ReadSlice('\n')
				if err != nil {
					return
				}
				if bytes.Equal(line, []byte(".\r\n")) {
					break
				}
			}
			s.mails.Add(1)
		case "QUIT":
			say("221 bye\r\n")
			return
		}
		if !say(answer) {
			return
		}
	}
}

// wire delays what is read and written, each byte by the same time, and holds
// nothing else back: bytes in flight do not wait for one another.
type wire struct {
	net.Conn
	delay   time.Duration
	in, out chan chunk
	rest    []byte
	err     error
	closed  chan struct{}
	once    sync.Once
	moving  sync.WaitGroup
}

type chunk struct {
	at   time.Time
	data []byte
	err  error
}

func newWire(conn net.Conn, delay time.Duration) *wire {
	w := &wire{Conn: conn, delay: delay, in: make(chan chunk, 1024), out: make(chan chunk, 1024), closed: make(chan struct{})}
	w.moving.Go(func() {
		for {
			buf := make([]byte, 32<<10)
			n, err := conn.Read(buf)
			select {
			case w.in <- chunk{at: time.Now().Add(delay), data: buf[:n], err: err}:
			case <-w.closed:
				return
			}
			if err != nil {
				return
			}
		}
	})
	w.moving.Go(func() {
		for {
			select {
			case c := <-w.out:
				if !w.wait(c.at) {
					return
				}
				if _, err := conn.Write(c.data); err != nil {
					return
				}
			case <-w.closed:
				return
			}
		}
	})
	return w
}

// wait waits until at; false when the wire was closed first.
func (w *wire) wait(at time.Time) bool {
	timer := time.NewTimer(time.Until(at))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-w.closed:
		return false
	}
}

func (w *wire) Read(p []byte) (int, error) {
	for len(w.rest) == 0 {
		if w.err != nil {
			return 0, w.err
		}
		select {
		case c := <-w.in:
			if !w.wait(c.at) {
				return 0, io.ErrClosedPipe
			}
			w.rest, w.err = c.data, c.err
		case <-w.closed:
			return 0, io.ErrClosedPipe
		}
	}
	n := copy(p, w.rest)
	w.rest = w.rest[n:]
	return n, nil
}

func (w *wire) Write(p []byte) (int, error) {
	select {
	case w.out <- chunk{at: time.Now().Add(w.delay), data: bytes.Clone(p)}:
		return len(p), nil
	case <-w.closed:
		return 0, io.ErrClosedPipe
	}
}

func (w *wire) Close() error {
	w.once.Do(func() { close(w.closed) })
	err := w.Conn.Close()
	w.moving.Wait()
	return err
}
