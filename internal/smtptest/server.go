package smtptest

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// Mail is one mail as it arrived: its dots undoubled, its end taken off.
type Mail struct {
	// Conn is the number of the connection, from 1.
	Conn     int
	From, To string
	Data     []byte
}

// Server is a well-behaved server with STARTTLS and AUTH PLAIN, up to where
// Hook says otherwise. Set the fields before [Server.Start].
type Server struct {
	// Hook, when set, sees each command before it is answered; the greeting is
	// "", the end of a mail is ".". True means that it was dealt with.
	Hook func(c *Conn, command string) bool
	// Keywords are announced by EHLO over TLS, besides AUTH PLAIN. Plain ones
	// are STARTTLS alone.
	Keywords []string
	// NoTLS serves without STARTTLS, with AUTH announced at once.
	NoTLS bool
	// ImplicitTLS begins with the handshake.
	ImplicitTLS bool
	// Username and Password are what AUTH takes; both "token" by default.
	Username, Password string
	// TLS replaces the configuration made for 127.0.0.1 and localhost.
	TLS *tls.Config

	// Addr and CA are set by Start.
	Addr string
	CA   *CA

	tb       testing.TB
	listener net.Listener
	done     sync.WaitGroup

	mu       sync.Mutex
	conns    map[*Conn]struct{}
	count    int
	most     int
	mails    []Mail
	commands []string
	early    []string
}

// Conn is one connection to a [Server].
type Conn struct {
	*Server
	// N counts connections from 1.
	N int
	// Mails is how many mails this connection has brought.
	Mails int
	// Conn is what is read and written: TLS after the handshake.
	Conn net.Conn

	raw      net.Conn
	r        *bufio.Reader
	secure   bool
	from, to string
}

// Start listens on a free loopback port until the test ends.
func (s *Server) Start(tb testing.TB) *Server {
	tb.Helper()
	s.tb = tb
	s.CA = NewCA(tb)
	if s.TLS == nil {
		s.TLS = &tls.Config{Certificates: []tls.Certificate{s.CA.Issue(tb, time.Now().Add(time.Hour), "127.0.0.1", "localhost")}}
	}
	if s.Username == "" {
		s.Username, s.Password = "token", "token"
	}
	s.conns = map[*Conn]struct{}{}
	l, err := new(net.ListenConfig).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	s.listener, s.Addr = l, l.Addr().String()
	s.done.Go(s.accept)
	tb.Cleanup(s.Stop)
	return s
}

// Stop closes the listener and all connections. It may be called twice.
func (s *Server) Stop() {
	_ = s.listener.Close()
	s.CloseConns()
	s.done.Wait()
}

// CloseConns closes all connections, as a restart of the server does.
func (s *Server) CloseConns() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		_ = c.raw.Close()
	}
}

// Conns is how many connections there were, and the most at one time.
func (s *Server) Conns() (count, most int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count, s.most
}

// Open is how many connections there are now.
func (s *Server) Open() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// Mails are the mails taken so far.
func (s *Server) Mails() []Mail {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.mails)
}

// Commands are the commands seen so far, those of all connections.
func (s *Server) Commands() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.commands)
}

// Early are commands behind which more bytes had come already: a client that
// did not wait.
func (s *Server) Early() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.early)
}

func (s *Server) accept() {
	for {
		raw, err := s.listener.Accept()
		if err != nil {
			return
		}
		c := &Conn{Server: s, raw: raw}
		c.use(raw)
		s.mu.Lock()
		s.count++
		c.N = s.count
		s.conns[c] = struct{}{}
		s.most = max(s.most, len(s.conns))
		s.mu.Unlock()
		s.done.Go(c.serve)
	}
}

func (c *Conn) use(conn net.Conn) {
	c.Conn, c.r = conn, bufio.NewReaderSize(conn, 64<<10)
}

func (c *Conn) serve() {
	defer func() {
		_ = c.raw.Close()
		c.mu.Lock()
		delete(c.conns, c)
		c.mu.Unlock()
	}()
	if c.ImplicitTLS {
		c.Handshake()
	}
	if !c.hook("") {
		c.Reply("220 smtptest ready")
	}
	for {
		c.command(c.Line())
	}
}

func (c *Conn) hook(command string) bool { return c.Hook != nil && c.Hook(c, command) }

func (c *Conn) command(line string) {
	c.mu.Lock()
	c.commands = append(c.commands, line)
	if c.r.Buffered() > 0 {
		c.early = append(c.early, line)
	}
	c.mu.Unlock()
	if c.hook(line) {
		return
	}
	verb, arg, _ := strings.Cut(line, " ")
	switch strings.ToUpper(verb) {
	case "EHLO":
		c.ehlo()
	case "STARTTLS":
		c.Reply("220 2.0.0 go ahead")
		c.Handshake()
	case "AUTH":
		if c.Authenticated(arg) {
			c.Reply("235 2.7.0 welcome")
		} else {
			c.Reply("535 5.7.8 Authentication failed")
		}
	case "MAIL":
		if c.from != "" {
			c.Reply("503 5.5.1 nested MAIL")
			return
		}
		c.from = path(arg)
		c.Reply("250 2.1.0 ok")
	case "RCPT":
		if c.from == "" {
			c.Reply("503 5.5.1 MAIL first")
			return
		}
		c.to = path(arg)
		c.Reply("250 2.1.5 ok")
	case "DATA":
		if c.to == "" {
			c.Reply("554 5.5.1 no valid recipients")
			return
		}
		c.Reply("354 go on")
		c.Data()
	case "RSET":
		c.from, c.to = "", ""
		c.Reply("250 2.0.0 ok")
	case "NOOP":
		c.Reply("250 2.0.0 ok")
	case "QUIT":
		c.Reply("221 2.0.0 bye")
		c.Close()
	default:
		c.Reply("500 5.5.1 unknown command")
	}
}

func (c *Conn) ehlo() {
	words := []string{"smtptest"}
	switch {
	case c.secure || c.NoTLS:
		words = append(append(words, c.Keywords...), "AUTH PLAIN")
	default:
		words = append(words, "STARTTLS")
	}
	for i, w := range words {
		sep := "-"
		if i == len(words)-1 {
			sep = " "
		}
		words[i] = "250" + sep + w
	}
	c.Reply(words...)
}

// Authenticated reports whether the argument of AUTH holds the credentials.
func (c *Conn) Authenticated(arg string) bool {
	mech, response, _ := strings.Cut(arg, " ")
	raw, err := base64.StdEncoding.DecodeString(response)
	return err == nil && mech == "PLAIN" && string(raw) == "\x00"+c.Username+"\x00"+c.Password
}

// Handshake puts TLS on the connection.
func (c *Conn) Handshake() {
	conn := tls.Server(c.raw, c.TLS)
	if conn.HandshakeContext(c.tb.Context()) != nil {
		c.Close()
	}
	c.use(conn)
	c.secure = true
}

// Data reads a mail and answers it.
func (c *Conn) Data() {
	mail, ok := c.ReadMail()
	if !ok {
		c.Close()
	}
	defer func() { c.from, c.to = "", "" }()
	if c.hook(".") {
		return
	}
	c.Take(mail)
	c.Reply("250 2.0.0 Ok: queued as T" + strings.Repeat("1", c.Mails))
}

// Take stores a mail.
func (c *Conn) Take(data []byte) {
	c.Mails++
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mails = append(c.mails, Mail{Conn: c.N, From: c.from, To: c.to, Data: data})
}

// ReadMail reads up to the final dot.
func (c *Conn) ReadMail() ([]byte, bool) {
	var data []byte
	for {
		line, err := c.r.ReadBytes('\n')
		if err != nil {
			return nil, false
		}
		if bytes.Equal(line, []byte(".\r\n")) {
			if c.r.Buffered() > 0 {
				c.mu.Lock()
				c.early = append(c.early, ".")
				c.mu.Unlock()
			}
			return data, true
		}
		if line[0] == '.' {
			line = line[1:]
		}
		data = append(data, line...)
	}
}

// Line reads one command; the connection's goroutine ends where there is none.
func (c *Conn) Line() string {
	line, err := c.r.ReadString('\n')
	if err != nil {
		c.Close()
	}
	return strings.TrimRight(line, "\r\n")
}

// Reply writes lines, each with its code, in one segment.
func (c *Conn) Reply(lines ...string) { c.Write(strings.Join(lines, "\r\n") + "\r\n") }

// Write writes text as it is.
func (c *Conn) Write(text string) {
	if _, err := c.Conn.Write([]byte(text)); err != nil {
		c.Close()
	}
}

// Close closes the connection and ends its goroutine.
func (c *Conn) Close() {
	_ = c.raw.Close()
	runtime.Goexit()
}

// Reset closes with RST, so that what is in flight is lost.
func (c *Conn) Reset() {
	if tcp, ok := c.raw.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	c.Close()
}

// Silence reads on and answers nothing, until the client is gone.
func (c *Conn) Silence() {
	for {
		if _, err := c.r.ReadByte(); err != nil {
			c.Close()
		}
	}
}

// path is the address between the angle brackets.
func path(arg string) string {
	_, p, _ := strings.Cut(arg, "<")
	p, _, _ = strings.Cut(p, ">")
	return p
}
