package fluxlytest

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"time"
)

// maxCommandLine bounds a command line, in bytes (RFC 5321 section 4.5.3.1.4
// asks for at least 512).
const maxCommandLine = 2000

// errFault is what go-smtp sees when a fault ended the connection.
var errFault = errors.New("connection ended by a scripted fault")

// wireListener hands connections to go-smtp with a wireConn between.
type wireListener struct{ s *PostmarkSMTP }

func (l wireListener) Accept() (net.Conn, error) {
	raw, err := l.s.ln.Accept()
	if err != nil {
		return nil, err
	}
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	if l.s.closed {
		_ = raw.Close()
		return nil, net.ErrClosed
	}
	l.s.opened++
	c := &wireConn{
		srv: l.s, raw: raw, n: l.s.opened, done: make(chan struct{}),
		rw: raw, br: bufio.NewReaderSize(raw, maxCommandLine), greeted: true,
	}
	l.s.conns[c] = struct{}{}
	return c, nil
}

func (l wireListener) Close() error   { return l.s.ln.Close() }
func (l wireListener) Addr() net.Addr { return l.s.ln.Addr() }

type wireMode int

const (
	modeCommand wireMode = iota
	modeAuth             // the next line answers a challenge
	modeBody             // until the final dot
)

// wireConn stands between the socket and go-smtp's server. go-smtp's Session
// sees neither the greeting nor STARTTLS nor the 354, so faults there need the
// lines themselves: wireConn hands the client's lines over one by one, answers
// those that a fault takes away, does STARTTLS, and can replace a reply.
//
// All fields below done belong to the connection's goroutine, in which go-smtp
// calls Read and Write. Close may come from any.
type wireConn struct {
	srv  *PostmarkSMTP
	raw  net.Conn
	n    int
	once sync.Once
	done chan struct{}

	rw      net.Conn // raw, or TLS over it
	br      *bufio.Reader
	pending []byte // the line being handed over
	mode    wireMode
	midLine bool // the last piece did not end its line
	phase   SMTPPhase
	said    bool  // the greeting is over
	replies int   // lines of the present reply so far
	replace Fault // whose Reply stands for the present reply, if it has one
	secure  bool
	greeted bool // EHLO came since STARTTLS, if there was one
}

func (c *wireConn) Close() error {
	var err error
	c.once.Do(func() {
		close(c.done)
		// The socket itself: closing TLS properly could wait for the peer.
		err = c.raw.Close()
		c.srv.mu.Lock()
		defer c.srv.mu.Unlock()
		delete(c.srv.conns, c)
	})
	return err
}

func (c *wireConn) LocalAddr() net.Addr                { return c.raw.LocalAddr() }
func (c *wireConn) RemoteAddr() net.Addr               { return c.raw.RemoteAddr() }
func (c *wireConn) SetDeadline(t time.Time) error      { return c.raw.SetDeadline(t) }
func (c *wireConn) SetReadDeadline(t time.Time) error  { return c.raw.SetReadDeadline(t) }
func (c *wireConn) SetWriteDeadline(t time.Time) error { return c.raw.SetWriteDeadline(t) }

// Read hands over at most one line.
func (c *wireConn) Read(p []byte) (int, error) {
	for len(c.pending) == 0 {
		line, err := c.br.ReadSlice('\n')
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			if len(line) == 0 {
				return 0, err
			}
			// What came before the end; the error comes again.
			c.pending, c.midLine = line, true
			break
		}
		c.midLine = err != nil
		switch c.mode {
		case modeBody, modeAuth:
			c.pending = line
		case modeCommand:
			if c.midLine {
				c.say("500 5.5.2 line too long")
				return 0, c.end()
			}
			handled, err := c.command(line)
			if err != nil {
				return 0, err
			}
			if !handled {
				c.pending = line
			}
		}
	}
	n := copy(p, c.pending)
	c.pending = c.pending[n:]
	return n, nil
}

// command looks at a command line before go-smtp does. It reports true when
// the line is answered already.
func (c *wireConn) command(line []byte) (bool, error) {
	text := strings.TrimRight(string(line), "\r\n")
	verb, _, _ := strings.Cut(strings.ToUpper(text), " ")
	c.phase = phaseOf(verb)
	c.replies, c.replace = 0, Fault{}
	c.srv.mu.Lock()
	if len(c.srv.commands) < 100 { // a client may say anything
		c.srv.commands[verb]++
	}
	c.srv.mu.Unlock()

	if c.phase == AtAUTH {
		if f := strings.Fields(text); len(f) > 2 {
			text = f[0] + " " + f[1]
		}
	}
	if f, ok := c.srv.fault(SMTPCommand{Phase: c.phase, Line: text, Conn: c.n}); ok {
		if err := c.strike(c.phase, f); err != nil {
			return false, err
		}
		if refuses(f.Reply) {
			c.say(f.Reply)
			return true, c.afterReply(f)
		}
		c.replace = f
	}
	switch {
	case c.phase == AtSTARTTLS:
		return true, c.startTLS()
	case verb == "BDAT":
		// go-smtp would take it; the size of a chunk is not followed here.
		c.say("502 5.5.1 BDAT is not offered")
		return true, nil
	case c.phase == AtEHLO:
		c.greeted = true
	case !c.greeted && c.phase != AtOther:
		// RFC 3207 section 4.2: what was said before TLS is forgotten.
		c.say("503 5.5.1 say EHLO first")
		return true, nil
	}
	return false, nil
}

func phaseOf(verb string) SMTPPhase {
	switch verb {
	case "EHLO", "HELO":
		return AtEHLO
	case "STARTTLS":
		return AtSTARTTLS
	case "AUTH":
		return AtAUTH
	case "MAIL":
		return AtMAIL
	case "RCPT":
		return AtRCPT
	case "DATA":
		return AtDATA
	}
	return AtOther
}

// strike does what a fault does before a reply. After an error the connection
// is over.
func (c *wireConn) strike(at SMTPPhase, f Fault) error {
	if f.Hold != nil {
		select {
		case <-f.Hold:
		case <-c.done:
			return errFault
		}
	}
	if at == AtBody && f.Silent {
		<-c.done
		return errFault
	}
	if at != AtBody && f.Reply != "" {
		return nil
	}
	return c.afterReply(f)
}

// afterReply does what a fault does once its reply is said.
func (c *wireConn) afterReply(f Fault) error {
	switch {
	case f.Drop, strings.HasPrefix(f.Reply, "421"):
		return c.end()
	case f.Silent:
		_, _ = io.Copy(io.Discard, c.br)
		return c.end()
	}
	return nil
}

// end closes the connection.
func (c *wireConn) end() error {
	_ = c.Close()
	return errFault
}

func (c *wireConn) startTLS() error {
	switch {
	case c.secure:
		c.say("503 5.5.1 already running TLS")
		return nil
	case c.srv.cfg.NoSTARTTLS:
		c.say("502 5.5.1 STARTTLS is not offered")
		return nil
	case c.br.Buffered() > 0:
		// RFC 3207 section 4: nothing may follow the command in the clear.
		c.say("554 5.5.1 commands after STARTTLS")
		return c.end()
	}
	f := c.replace
	if f.Reply == "" {
		f.Reply = "220 2.0.0 ready to start TLS"
	}
	c.say(f.Reply)
	if err := c.afterReply(f); err != nil {
		return err
	}
	conn := tls.Server(c.raw, c.srv.tls)
	if err := conn.Handshake(); err != nil { //nolint:noctx // ends when the socket is closed
		return c.end()
	}
	c.rw, c.secure, c.greeted = conn, true, false
	c.br = bufio.NewReaderSize(conn, maxCommandLine)
	return nil
}

// say writes whole reply lines, separated by "\n".
func (c *wireConn) say(reply string) {
	_, _ = io.WriteString(c.rw, strings.ReplaceAll(reply, "\n", "\r\n")+"\r\n")
}

// Write takes a line of go-smtp's replies; go-smtp flushes each by itself.
func (c *wireConn) Write(p []byte) (int, error) {
	if !c.said {
		c.said = true
		if f, ok := c.srv.fault(SMTPCommand{Phase: AtGreeting, Conn: c.n}); ok {
			if err := c.strike(AtGreeting, f); err != nil {
				return 0, err
			}
			if f.Reply != "" {
				c.say(f.Reply)
				f.Drop = f.Drop || refuses(f.Reply)
				return len(p), c.afterReply(f)
			}
		}
	}
	// go-smtp reads nothing ahead of the line it works on, so what it says
	// tells what the next line is: a body lasts until its reply.
	switch {
	case bytes.HasPrefix(p, []byte("354")):
		c.mode = modeBody
	case bytes.HasPrefix(p, []byte("334")):
		c.mode = modeAuth
	default:
		c.mode = modeCommand
	}
	last := len(p) < 4 || p[3] != '-'
	c.replies++
	out := p
	switch {
	case c.replace.Reply != "":
		if !last {
			return len(p), nil
		}
		f := c.replace
		c.replace = Fault{}
		c.say(f.Reply)
		return len(p), c.afterReply(f)
	case c.phase == AtEHLO && !last:
		out = c.extension(p)
	}
	if _, err := c.rw.Write(out); err != nil {
		return 0, err
	}
	return len(p), nil
}

// extension changes a line of the reply to EHLO: STARTTLS is added, what this
// server does not do goes.
func (c *wireConn) extension(p []byte) []byte {
	switch keyword := strings.TrimSpace(string(p[4:])); {
	case c.replies == 1 && !c.secure && !c.srv.cfg.NoSTARTTLS:
		return append(bytes.Clone(p), "250-STARTTLS\r\n"...)
	case keyword == "CHUNKING", keyword == "PIPELINING" && c.srv.cfg.NoPipelining:
		return nil
	}
	return p
}

// refuses reports whether a reply has a code of 4xx or 5xx.
func refuses(reply string) bool {
	return reply != "" && (reply[0] == '4' || reply[0] == '5')
}
