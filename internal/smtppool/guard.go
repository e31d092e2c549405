package smtppool

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"
)

var errNoEHLO = errors.New("server does not know EHLO")

// guard is the connection that a go-smtp client sees while a session is
// opened. Commands go through to the wire; what the client reads are replies
// that the session's own reader has taken whole and judged, put into a form
// that the client understands (keywords in upper case, single blanks). So
// neither the size nor the shape of what a server sends reaches the client,
// and the deadlines are the session's.
type guard struct {
	s *session
	// arm gives the next command its time.
	arm func()
	// out waits to be read by the client.
	out []byte
	// last is the code of the reply that was read last.
	last int
	// text of that reply.
	text []byte
	// failed is the error that ended a read or write.
	failed error
	// replies counts the replies that were read.
	replies int
	// sent: a command went out.
	sent bool
	// aborted: the last reply is no challenge, see Write.
	aborted bool
}

// Write passes a command on. Two of go-smtp's are kept off the wire: HELO,
// which it tries where EHLO failed though it could not log in then, and the
// "*" behind an AUTH that the server has already answered, where it is no
// command (RFC 4954 section 4 has it as the answer to a challenge only).
func (g *guard) Write(p []byte) (int, error) {
	if bytes.HasPrefix(p, []byte("HELO ")) {
		g.failed = errNoEHLO
		return 0, errNoEHLO
	}
	if g.aborted && bytes.Equal(p, []byte("*\r\n")) {
		g.out = append(g.out, "501 5.7.0 not sent\r\n"...)
		return len(p), nil
	}
	if g.s.rd.buffered() > 0 {
		g.failed = errReplyExtra
		return 0, errReplyExtra
	}
	g.arm()
	g.sent = true
	n, err := g.s.conn.Write(p)
	if err != nil {
		g.failed = err
	}
	return n, err
}

// Read gives the client the next reply.
func (g *guard) Read(p []byte) (int, error) {
	if len(g.out) == 0 {
		r, err := g.s.rd.read()
		if err != nil {
			g.failed = err
			return 0, err
		}
		g.s.stats.roundTrips.Add(1)
		g.replies++
		g.last, g.text = r.code, append(g.text[:0], r.text...)
		g.aborted = r.code != 334
		g.out = appendReply(g.out, r)
	}
	n := copy(p, g.out)
	g.out = append(g.out[:0], g.out[n:]...)
	return n, nil
}

func (g *guard) Close() error         { return g.s.conn.Close() }
func (g *guard) LocalAddr() net.Addr  { return g.s.conn.LocalAddr() }
func (g *guard) RemoteAddr() net.Addr { return g.s.conn.RemoteAddr() }

// The client sets and clears deadlines as it sees fit; the session's stand.
func (g *guard) SetDeadline(time.Time) error      { return nil }
func (g *guard) SetReadDeadline(time.Time) error  { return nil }
func (g *guard) SetWriteDeadline(time.Time) error { return nil }

// appendReply writes r as the wire has it, its keyword lines made uniform.
func appendReply(dst []byte, r reply) []byte {
	lines := bytes.Split(r.text, []byte{'\n'})
	for i, line := range lines {
		dst = strconv.AppendInt(dst, int64(r.code), 10)
		sep := byte(' ')
		if i < len(lines)-1 {
			sep = '-'
		}
		dst = append(dst, sep)
		if i > 0 && r.code == 250 {
			word, args := keyword(string(line))
			line = []byte(strings.TrimSpace(word + " " + strings.Join(args, " ")))
		}
		// go-smtp's own limit is 2,000 bytes a line.
		dst = append(dst, line[:min(len(line), 1900)]...)
		dst = append(dst, "\r\n"...)
	}
	return dst
}

// keyword splits a line of the reply to EHLO. Keywords are matched without
// case (RFC 5321 section 2.4), blanks may be doubled, and the old form
// "AUTH=PLAIN" means AUTH PLAIN.
func keyword(line string) (word string, args []string) {
	f := strings.Fields(line)
	if len(f) == 0 {
		return "", nil
	}
	word, args = strings.ToUpper(f[0]), f[1:]
	if first, ok := strings.CutPrefix(word, "AUTH="); ok {
		word = "AUTH"
		if first != "" {
			args = append([]string{first}, args...)
		}
	}
	return word, args
}

// caps is what a server announced.
type caps struct {
	startTLS   bool
	pipelining bool
	// sizeLimit is the largest mail that is taken, 0 when none was announced.
	size      bool
	sizeLimit int64
	auth      []string
}

func parseCaps(text []byte) caps {
	var c caps
	for i, line := range strings.Split(string(text), "\n") {
		if i == 0 {
			continue
		}
		word, args := keyword(line)
		switch word {
		case "STARTTLS":
			c.startTLS = true
		case "PIPELINING":
			c.pipelining = true
		case "SIZE":
			c.size = true
			if len(args) > 0 {
				if n, err := strconv.ParseInt(args[0], 10, 64); err == nil && n > 0 {
					c.sizeLimit = n
				}
			}
		case "AUTH":
			for _, mech := range args {
				c.auth = append(c.auth, strings.ToUpper(mech))
			}
		}
	}
	return c
}

func (c *caps) offersAuth(mech string) bool {
	for _, m := range c.auth {
		if m == mech {
			return true
		}
	}
	return false
}

func (c *caps) authError() error {
	if len(c.auth) == 0 {
		return errors.New("server offers no AUTH")
	}
	return fmt.Errorf("server offers AUTH %s, not PLAIN", clean([]byte(strings.Join(c.auth, " ")), 200))
}
