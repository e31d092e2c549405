package dnsmsg

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"time"
)

// Client asks questions over UDP and, when the reply is cut, over TCP. The
// zero value works; it may be used from many goroutines.
type Client struct {
	// Timeout bounds one try against one server, over TCP too where it comes to
	// that. Default 2 s.
	Timeout time.Duration
	// Tries is how often each server is asked when it stays silent. Default 2.
	Tries int
	// Dial opens a connection. Default: [net.Dialer].
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Error is a question that got no usable reply.
type Error struct {
	Name   string
	Type   Type
	Server string
	// Timeout is true when the server stayed silent until its time was up.
	Timeout bool
	Err     error
}

// Error names the question, the server and the cause.
func (e *Error) Error() string {
	what := fmt.Sprintf("ask %s for %s %s", e.Server, e.Name, e.Type)
	if e.Timeout {
		return what + ": no reply in time"
	}
	return what + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Query asks the servers in turn until one gives NOERROR or NXDOMAIN. When
// none does, the last reply with another code is returned without error; only
// silence, or replies that cannot be read, are an [*Error]. Servers are host
// and port.
func (c *Client) Query(ctx context.Context, servers []string, name string, t Type, m Mode) (Answer, error) {
	if err := ValidName(name); err != nil {
		return Answer{}, &Error{Name: name, Type: t, Err: err}
	}
	if len(servers) == 0 {
		return Answer{}, &Error{Name: name, Type: t, Err: errors.New("no server given")}
	}
	tries := c.Tries
	if tries <= 0 {
		tries = 2
	}
	var other *Answer
	var last error
	for range tries {
		for _, s := range servers {
			a, err := c.ask(ctx, s, name, t, m)
			switch {
			case err != nil:
				last = &Error{Name: name, Type: t, Server: s, Timeout: isTimeout(err), Err: err}
			case a.RCode == NoError || a.RCode == NXDomain:
				return a, nil
			default:
				other = &a
			}
			if ctx.Err() != nil {
				break
			}
		}
		if ctx.Err() != nil || other != nil {
			break
		}
	}
	if other != nil {
		return *other, nil
	}
	return Answer{}, last
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &ne) && ne.Timeout()
}

// ask tries one server once: UDP with EDNS, without EDNS where the server does
// not know it, TCP where the reply was cut.
func (c *Client) ask(ctx context.Context, server, name string, t Type, m Mode) (Answer, error) {
	timeout := c.Timeout
	if timeout <= 0 {
		timeout = 2 * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	edns := true
	exchange := func(network string) (Answer, bool, error) {
		a, cut, err := c.exchange(ctx, network, server, name, t, m, edns)
		if err == nil && edns && (a.RCode == FormErr || a.RCode == NotImp || a.RCode == BadVers) {
			edns = false
			a, cut, err = c.exchange(ctx, network, server, name, t, m, edns)
		}
		return a, cut, err
	}
	a, cut, err := exchange("udp")
	if err == nil && cut {
		a, cut, err = exchange("tcp")
		if err == nil && cut {
			err = errors.New("reply cut short even over TCP")
		}
	}
	a.Server = server
	return a, err
}

func (c *Client) exchange(ctx context.Context, network, server, name string, t Type, m Mode, edns bool) (a Answer, cut bool, err error) {
	dial := c.Dial
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	conn, err := dial(ctx, network, server)
	if err != nil {
		return a, false, err
	}
	defer conn.Close()
	// Closing the socket is the one way to end a read when ctx is cancelled
	// rather than past its deadline.
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if d, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(d); err != nil {
			return a, false, err
		}
	}
	id := uint16(rand.Uint32()) //nolint:gosec // ChaCha8 seeded by the system; the socket is connected as well
	q, err := question(id, name, t, m, edns)
	if err != nil {
		return a, false, err
	}
	tcp := network == "tcp"
	if tcp {
		q = append(binary.BigEndian.AppendUint16(make([]byte, 0, len(q)+2), uint16(len(q))), q...)
	}
	if _, err := conn.Write(q); err != nil {
		return a, false, orContext(ctx, err)
	}
	buf := make([]byte, 4096)
	for {
		msg, err := read(conn, buf, tcp)
		if err != nil {
			return a, false, orContext(ctx, err)
		}
		a, cut, ok, err := parse(msg, id, name, t)
		if !ok && !tcp {
			continue // not our answer: a late or a forged one
		}
		if !ok {
			return a, false, errors.New("reply does not belong to the question")
		}
		a.TCP = tcp
		return a, cut, err
	}
}

func read(conn net.Conn, buf []byte, tcp bool) ([]byte, error) {
	if !tcp {
		n, err := conn.Read(buf)
		return buf[:n], err
	}
	var size [2]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return nil, err
	}
	msg := make([]byte, binary.BigEndian.Uint16(size[:]))
	_, err := io.ReadFull(conn, msg)
	return msg, err
}

// orContext prefers the context's reason to that of the socket it closed.
func orContext(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}
