package fluxlytest

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-smtp"
)

// What Postmark calls the streams that every server has, and its limits.
const (
	defaultStream   = "outbound"
	broadcastStream = "broadcast"
	maxRecipients   = 50
	maxMessageBytes = 10 << 20
)

// PostmarkSMTPConfig describes a stand-in for Postmark's SMTP service. The
// zero value is a server with a token of its own, the streams "outbound" and
// "broadcast", and nothing kept on disk.
type PostmarkSMTPConfig struct {
	// Addr is the address to listen on. Defaults to "127.0.0.1:0", a free
	// loopback port.
	Addr string
	// Token is the server token that AUTH PLAIN wants as user name and as
	// password. Made at random when empty.
	Token string
	// StreamTokens are the SMTP tokens of single streams, Postmark's second
	// form of credentials.
	StreamTokens []StreamToken
	// Streams are further Message Streams of the server, beside "outbound"
	// and "broadcast". Mail for any other stream is accepted and bounces, as
	// at Postmark.
	Streams []string
	// SenderDomains are the domains that From may be on; mail from elsewhere
	// is accepted and bounces. Empty means any.
	SenderDomains []string
	// Dir is a folder, made when missing, in which each accepted mail is kept
	// as one .eml file, durably, before the sender is told that it was
	// accepted. The mails found there at the start are loaded, so that
	// [PostmarkSMTP.Lookup] still knows them after a crash. Only one server
	// may use a folder at a time. Empty keeps mails in memory alone.
	Dir string
	// Hostnames are the names and addresses in the server's certificate.
	// Defaults to 127.0.0.1, ::1 and localhost; give another name to see how a
	// client takes a certificate that is not for its host.
	Hostnames []string
	// NoSTARTTLS leaves STARTTLS out; EHLO does not offer it and the command
	// is refused.
	NoSTARTTLS bool
	// AllowInsecureAuth offers AUTH before STARTTLS too, as Postmark does.
	// Without it a login over a clear connection is refused, which is what a
	// test wants that no token may ever travel in the clear.
	AllowInsecureAuth bool
	// NoPipelining leaves PIPELINING out of the reply to EHLO.
	NoPipelining bool
	// Hook, when set, is asked at each point of each connection whether a
	// fault strikes there, after the faults of FailNext. It is called on the
	// connection's goroutine, so from several at a time.
	Hook func(SMTPCommand) (Fault, bool)
	// Now is the clock of the receipt times. Defaults to [time.Now].
	Now func() time.Time
}

// StreamToken is an SMTP token of one Message Stream: the access key is the
// user name, the secret key the password. Mail sent with it goes to its stream
// whatever the header says.
type StreamToken struct {
	AccessKey string
	SecretKey string
	Stream    string
}

// PostmarkSMTP is a running stand-in for Postmark's SMTP service. It takes
// every mail of a logged-in client, as Postmark does, and finds out afterwards
// what becomes of it: see [PostmarkMail.Fate]. Safe for many goroutines.
type PostmarkSMTP struct {
	// Token is the server token to log in with.
	Token string

	cfg     PostmarkSMTPConfig
	streams []string
	ln      net.Listener
	server  *smtp.Server
	served  chan struct{}
	tls     *tls.Config
	roots   *x509.CertPool
	close   func() error

	mu         sync.Mutex
	closed     bool
	conns      map[*wireConn]struct{}
	opened     int
	commands   map[string]int
	faults     []Fault
	seq        int
	mails      []PostmarkMail
	keys       map[string]int // send key to index in mails
	bounces    []PostmarkBounce
	suppressed map[suppression]struct{}
	changed    chan struct{} // closed and replaced at each accepted mail
}

type suppression struct{ stream, email string }

// NewPostmarkSMTP starts a stand-in that stops with the test. Failing to
// start is fatal for the test.
func NewPostmarkSMTP(tb testing.TB, cfg PostmarkSMTPConfig) *PostmarkSMTP {
	tb.Helper()
	s, err := StartPostmarkSMTP(cfg)
	if err != nil {
		tb.Fatalf("start the stand-in for Postmark's SMTP: %v", err)
	}
	tb.Cleanup(func() { _ = s.Close() })
	return s
}

// StartPostmarkSMTP starts a stand-in for Postmark's SMTP service, in a test
// or in any other program. The caller ends it with Close.
func StartPostmarkSMTP(cfg PostmarkSMTPConfig) (*PostmarkSMTP, error) {
	if cfg.Addr == "" {
		cfg.Addr = "127.0.0.1:0"
	}
	if cfg.Token == "" {
		cfg.Token = newUUID()
	}
	if len(cfg.Hostnames) == 0 {
		cfg.Hostnames = []string{"127.0.0.1", "::1", "localhost"}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	for _, st := range cfg.StreamTokens {
		if st.AccessKey == "" || st.SecretKey == "" || st.Stream == "" {
			return nil, fmt.Errorf("stream token for stream %q: access key, secret key and stream must all be set", st.Stream)
		}
	}
	s := &PostmarkSMTP{
		Token:      cfg.Token,
		cfg:        cfg,
		streams:    append([]string{defaultStream, broadcastStream}, cfg.Streams...),
		served:     make(chan struct{}),
		conns:      map[*wireConn]struct{}{},
		commands:   map[string]int{},
		keys:       map[string]int{},
		suppressed: map[suppression]struct{}{},
		changed:    make(chan struct{}),
	}
	if cfg.Dir != "" {
		mails, err := loadSpool(cfg.Dir)
		if err != nil {
			return nil, err
		}
		for _, m := range mails {
			s.keep(m)
		}
	}
	var err error
	if s.tls, s.roots, err = newCertificate(cfg.Hostnames); err != nil {
		return nil, err
	}
	var lc net.ListenConfig
	if s.ln, err = lc.Listen(context.Background(), "tcp", cfg.Addr); err != nil {
		return nil, fmt.Errorf("listen on %q: %w", cfg.Addr, err)
	}

	srv := smtp.NewServer(smtp.BackendFunc(func(c *smtp.Conn) (smtp.Session, error) {
		return &session{srv: s, wire: c.Conn().(*wireConn)}, nil
	}))
	srv.Domain = "localhost"
	srv.ErrorLog = log.New(io.Discard, "", 0)
	srv.MaxRecipients = maxRecipients
	srv.MaxMessageBytes = maxMessageBytes
	// wireConn does STARTTLS and bounds command lines; whether AUTH is offered
	// is for the session to say.
	srv.AllowInsecureAuth = true
	srv.MaxLineLength = 0
	s.server = srv
	s.close = sync.OnceValue(s.shutDown)
	go func() {
		defer close(s.served)
		_ = srv.Serve(wireListener{s})
	}()
	return s, nil
}

// Addr returns host and port, such as "127.0.0.1:40123".
func (s *PostmarkSMTP) Addr() string { return s.ln.Addr().String() }

// Host returns the host alone, "127.0.0.1" by default.
func (s *PostmarkSMTP) Host() string {
	host, _, _ := net.SplitHostPort(s.Addr())
	return host
}

// Port returns the port alone.
func (s *PostmarkSMTP) Port() int {
	addr, _ := s.ln.Addr().(*net.TCPAddr)
	return addr.Port
}

// RootCAs returns the certificate authority of the server's certificate, made
// for this run.
func (s *PostmarkSMTP) RootCAs() *x509.CertPool { return s.roots }

// Close ends all connections at once and waits until nothing of the server
// runs any more. The mails can still be read. Closing twice is harmless.
func (s *PostmarkSMTP) Close() error { return s.close() }

func (s *PostmarkSMTP) shutDown() error {
	s.mu.Lock()
	s.closed = true
	conns := slices.Collect(maps.Keys(s.conns))
	s.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
	}
	err := s.ln.Close()
	<-s.served
	// Serve has returned, so no connection can begin while Shutdown waits for
	// those that end. Its error is that the listener is closed already.
	_ = s.server.Shutdown(context.Background())
	return err
}

// Mails returns the accepted mails in the order in which they came, including
// those that bounced or were dropped afterwards.
func (s *PostmarkSMTP) Mails() []PostmarkMail {
	s.mu.Lock()
	defer s.mu.Unlock()
	mails := slices.Clone(s.mails)
	slices.SortFunc(mails, func(a, b PostmarkMail) int { return a.Seq - b.Seq })
	return mails
}

// Wait returns the mails as soon as there are at least n, or the error of ctx.
func (s *PostmarkSMTP) Wait(ctx context.Context, n int) ([]PostmarkMail, error) {
	for {
		s.mu.Lock()
		have, changed := len(s.mails), s.changed
		s.mu.Unlock()
		if have >= n {
			return s.Mails(), nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for %d mails, have %d: %w", n, have, context.Cause(ctx))
		}
	}
}

// Lookup returns the first mail that was accepted under the send key, which
// travels as the metadata field "send_key", and whether there is one. A mail
// that bounced or was dropped was accepted all the same; one that was lost for
// breaking the limits of metadata is not found, as at Postmark.
func (s *PostmarkSMTP) Lookup(sendKey string) (PostmarkMail, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, ok := s.keys[sendKey]
	if !ok {
		return PostmarkMail{}, false
	}
	return s.mails[i], true
}

// Bounces returns what Postmark would list as bounces of type SMTPApiError:
// mail that was accepted over SMTP and could not be used.
func (s *PostmarkSMTP) Bounces() []PostmarkBounce {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.bounces)
}

// Suppress puts an address on the suppression list of a stream: mail for it is
// accepted and not delivered. An empty stream means "outbound".
func (s *PostmarkSMTP) Suppress(stream, email string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.suppressed[suppressionOf(stream, email)] = struct{}{}
}

// Unsuppress takes an address from the suppression list of a stream.
func (s *PostmarkSMTP) Unsuppress(stream, email string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.suppressed, suppressionOf(stream, email))
}

func suppressionOf(stream, email string) suppression {
	if stream == "" {
		stream = defaultStream
	}
	return suppression{stream: stream, email: strings.ToLower(email)}
}

// SMTPStats counts what the clients did.
type SMTPStats struct {
	// Connections is how many were opened, Open how many are open now.
	Connections, Open int
	// Commands counts the commands by verb in upper case, such as "EHLO".
	Commands map[string]int
}

// Stats returns the counts so far.
func (s *PostmarkSMTP) Stats() SMTPStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := SMTPStats{Connections: s.opened, Open: len(s.conns), Commands: make(map[string]int, len(s.commands))}
	for verb, n := range s.commands {
		st.Commands[verb] = n
	}
	return st
}

// accept keeps what a client handed over, on disk first, and decides what
// becomes of it. tokenStream is the stream of the login, if it has one.
func (s *PostmarkSMTP) accept(m PostmarkMail, tokenStream string) error {
	if tokenStream != "" {
		m.Stream = tokenStream
	}

	s.mu.Lock()
	s.seq++
	m.Seq = s.seq
	s.judge(&m)
	s.mu.Unlock()

	if s.cfg.Dir != "" {
		// Outside of the lock: connections may wait for the disk together.
		if err := storeSpool(s.cfg.Dir, m); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keep(m)
	close(s.changed)
	s.changed = make(chan struct{})
	return nil
}

// judge sets the fate of a mail; the caller holds the lock.
func (s *PostmarkSMTP) judge(m *PostmarkMail) {
	m.Fate = FateDelivered
	switch domain := m.fromDomain(); {
	case m.metadataOverLimit():
		m.Fate, m.Reason = FateLost, "metadata over Postmark's limits: at most 10 fields, names of 20 and values of 80 characters"
	case !slices.Contains(s.streams, m.Stream):
		m.Fate, m.Code = FateBounced, 1235
		m.Reason = fmt.Sprintf("The stream provided: '%s' does not exist on this server.", m.Stream)
	case len(s.cfg.SenderDomains) > 0 && !slices.ContainsFunc(s.cfg.SenderDomains, func(d string) bool { return strings.EqualFold(d, domain) }):
		m.Fate, m.Code = FateBounced, 400
		m.Reason = fmt.Sprintf("The 'From' address is not a confirmed sender: no signature or verified domain for '%s'.", domain)
	default:
		for _, to := range m.To {
			if _, ok := s.suppressed[suppressionOf(m.Stream, to)]; ok {
				m.Dropped = append(m.Dropped, to)
			}
		}
		if len(m.Dropped) > 0 {
			m.Code = 406
			m.Reason = "inactive addresses: " + strings.Join(m.Dropped, ", ")
		}
		if len(m.Dropped) == len(m.To) {
			m.Fate = FateDropped
		}
	}
}

// keep adds a mail to what is remembered; the caller holds the lock, or is
// alone.
func (s *PostmarkSMTP) keep(m PostmarkMail) {
	s.seq = max(s.seq, m.Seq)
	s.mails = append(s.mails, m)
	if key, ok := m.Metadata[sendKeyField]; ok && m.Fate != FateLost {
		if _, dup := s.keys[key]; !dup {
			s.keys[key] = len(s.mails) - 1
		}
	}
	to := m.Dropped
	if m.Fate == FateBounced {
		to = m.To
	}
	for _, email := range to {
		s.bounces = append(s.bounces, PostmarkBounce{
			Type: "SMTPApiError", TypeCode: 100007, ErrorCode: m.Code,
			Email: email, MessageStream: m.Stream, MessageID: m.ID, Description: m.Reason, BouncedAt: m.At,
		})
	}
}

// newUUID makes a random UUID (RFC 9562 section 5.4), the shape of Postmark's
// server tokens and message ids.
func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
