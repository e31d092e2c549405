package fluxly

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/getfluxly/fluxly/internal/smtppool"
)

// TLSMode is how an SMTP connection is protected.
type TLSMode string

const (
	// TLSStartTLS upgrades the connection by STARTTLS (RFC 3207) before
	// anything secret is said, and fails where the server does not offer it.
	TLSStartTLS TLSMode = ""
	// TLSImplicit speaks TLS from the first byte (RFC 8314), usually on port
	// 465. Postmark does not serve it.
	TLSImplicit TLSMode = "implicit"
	// TLSOffOnLoopback speaks no TLS. It is refused for any server that is not
	// this machine.
	TLSOffOnLoopback TLSMode = "off-on-loopback"
)

// SMTPTimeouts are the times that the steps of a hand-over may take. A zero
// field means its default. Each is for the step as a whole, so a server that
// sends a byte now and then gains nothing; a context that ends earlier wins.
type SMTPTimeouts struct {
	// Dial is for the TCP connection. Defaults to 15 s.
	Dial time.Duration
	// Open is for all of an opening: dial, greeting, STARTTLS, login. Defaults
	// to 45 s.
	Open time.Duration
	// Command is for one command with its reply. Defaults to 30 s.
	Command time.Duration
	// Body is for writing one mail. Defaults to 5 min.
	Body time.Duration
	// Reply is for the reply to a whole mail. To give up here leaves the
	// outcome [Unknown], so it is long: 10 min, as RFC 5321 section 4.5.3.2.6
	// has it.
	Reply time.Duration
}

// SMTPConfig is how [NewSMTP] reaches a mail relay. It prints without the
// password.
type SMTPConfig struct {
	// Host is the server's name or address, without a port. Required. Unless
	// TLS is off, the server's certificate must be for it.
	Host string
	// Port defaults to 587; to 465 with TLSImplicit, to 25 with
	// TLSOffOnLoopback.
	Port int
	// Username and Password log in with AUTH PLAIN (RFC 4616), both or
	// neither.
	Username string
	Password string `json:"-"`
	// TLS is how the connection is protected. Defaults to STARTTLS, required.
	TLS TLSMode
	// RootCAs are the authorities whose certificates are trusted; nil means
	// those of the system.
	RootCAs *x509.CertPool `json:"-"`
	// TLSConfig is for what RootCAs does not cover, such as client
	// certificates. It is cloned. The least version is raised to TLS 1.2, and
	// InsecureSkipVerify is refused unless VerifyConnection is set.
	TLSConfig *tls.Config `json:"-"`
	// LocalName is this program's name in EHLO. Defaults to the address of the
	// connection's local end, as "[192.0.2.1]".
	LocalName string
	// NoPipelining sends one command at a time. Otherwise the commands before
	// a mail go together where the server announces PIPELINING (RFC 2920),
	// which halves the round trips; a server that announces it wrongly is
	// found out after a mail or two.
	NoPipelining bool
	// MaxConnections is how many connections are kept at most. Defaults to 8.
	MaxConnections int
	// MaxMessages is how many mails one connection carries before it is
	// replaced. Defaults to 1,000; where the server allows less, that is found
	// out.
	MaxMessages int
	// MaxIdle is how long a connection may lie unused. Defaults to 30 s.
	MaxIdle time.Duration
	// Timeouts are the times for the steps.
	Timeouts SMTPTimeouts
	// Dial opens the TCP connection, for programs that go through a proxy.
	// Defaults to [net.Dialer].
	Dial func(ctx context.Context, network, addr string) (net.Conn, error) `json:"-"`
	// Logger gets the dialogue with the server at debug level, without
	// credentials and without mails. Nil means silence.
	Logger *slog.Logger `json:"-"`
}

// Format prints the settings without the password, whatever the verb.
func (c SMTPConfig) Format(f fmt.State, _ rune) {
	_, _ = fmt.Fprintf(f, "{Host:%s Port:%d Username:%s Password:%s TLS:%s MaxConnections:%d}",
		c.Host, c.Port, c.Username, redact(c.Password), c.TLS, c.MaxConnections)
}

// LogValue gives slog the settings without the password.
func (c SMTPConfig) LogValue() slog.Value {
	return slog.GroupValue(
		slog.String("host", c.Host), slog.Int("port", c.Port), slog.String("username", c.Username),
		slog.String("password", redact(c.Password)), slog.String("tls", string(c.TLS)), slog.Int("max_connections", c.MaxConnections),
	)
}

// redact stands in for a secret in print; an empty one shows as empty.
func redact(secret string) string {
	if secret == "" {
		return ""
	}
	return redacted
}

// SMTPSender is a [Sender] over SMTP. It keeps a few connections open and uses
// them again: a mail on an open connection costs four round trips and no more,
// two where the server announces PIPELINING.
// It is safe for many goroutines, and starts none.
//
// A mail is composed whole before a connection is taken, and its end is sent
// only when all of it was; so what a failure leaves behind is never half a
// mail. Where a kept connection turns out dead before the end of the mail went
// out, the mail goes once more over a new one. After the end, a reply that is
// lost makes the outcome [Unknown], and the sender never sends that mail again
// by itself.
//
// After a connection could not be opened, further attempts are held back for
// half a second, and longer each time up to 30 s, whoever asks; after refused
// credentials for a minute and up to 16. What is asked meanwhile gets the same
// error with RetryAfter.
type SMTPSender struct {
	pool *smtppool.Pool
	// host is for errors: host:port.
	host    string
	port    int
	mode    TLSMode
	options mailOptions
	// postmark is set for Postmark's own service.
	postmark *postmarkSMTP
}

var (
	_ Sender       = (*SMTPSender)(nil)
	_ LookupSender = (*SMTPSender)(nil)
)

// NewSMTP returns a sender for a mail relay other than Postmark. It dials at
// the first [SMTPSender.Send] or [SMTPSender.Verify]. The message's Stream,
// Tag, Metadata and tracking are Postmark's and not written, and nobody puts an
// address in place of {{{ pm:unsubscribe }}}, so [New] refuses templates with
// it. The error is a [*FieldError].
func NewSMTP(cfg SMTPConfig) (*SMTPSender, error) {
	if isPostmarkHost(cfg.Host) {
		return nil, fieldErrorf("Host", cfg.Host, "is Postmark's: use NewPostmarkSMTP, which names the Message Stream; "+
			"without it Postmark sends everything on the transactional stream outbound")
	}
	return newSMTPSender(cfg)
}

func newSMTPSender(cfg SMTPConfig) (*SMTPSender, error) {
	if cfg.Port == 0 {
		switch cfg.TLS {
		case TLSImplicit:
			cfg.Port = 465
		case TLSOffOnLoopback:
			cfg.Port = 25
		default:
			cfg.Port = 587
		}
	}
	if err := cfg.check(); err != nil {
		return nil, err
	}
	config, err := cfg.tlsConfig()
	if err != nil {
		return nil, err
	}
	security := map[TLSMode]smtppool.Security{
		TLSStartTLS: smtppool.STARTTLS, TLSImplicit: smtppool.ImplicitTLS, TLSOffOnLoopback: smtppool.PlainLoopback,
	}[cfg.TLS]
	addr := net.JoinHostPort(cfg.Host, strconv.Itoa(cfg.Port))
	pool, err := smtppool.New(smtppool.Config{
		Addr: addr, Security: security, TLS: config, LocalName: cfg.LocalName,
		Username: cfg.Username, Password: cfg.Password,
		NoPipelining: cfg.NoPipelining, MaxConns: cfg.MaxConnections, MaxMessages: cfg.MaxMessages, MaxIdle: cfg.MaxIdle,
		DialTimeout: cfg.Timeouts.Dial, OpenTimeout: cfg.Timeouts.Open, CommandTimeout: cfg.Timeouts.Command,
		BodyTimeout: cfg.Timeouts.Body, ReplyTimeout: cfg.Timeouts.Reply,
		Dial: cfg.Dial, Logger: cfg.Logger,
	})
	if err != nil {
		return nil, fieldErrorf("Host", cfg.Host, "%v", err)
	}
	return &SMTPSender{pool: pool, host: addr, port: cfg.Port, mode: cfg.TLS}, nil
}

// check finds the settings that cannot work. Values of secrets are in no error.
func (c *SMTPConfig) check() error {
	switch {
	case c.Host == "":
		return fieldErrorf("Host", "", "is empty; give the name of the mail server")
	case strings.Contains(c.Host, "://") || strings.ContainsAny(c.Host, "/@ \t\r\n"):
		return fieldErrorf("Host", c.Host, "is no host name; give the name alone, without a scheme, blanks or a path")
	case strings.ContainsRune(c.Host, ':') && net.ParseIP(c.Host) == nil:
		return fieldErrorf("Host", c.Host, "holds a colon; give the port in Port")
	case c.Port < 1 || c.Port > 65535:
		return fieldErrorf("Port", strconv.Itoa(c.Port), "is no port; use 587 with STARTTLS")
	}
	switch c.TLS {
	case TLSStartTLS, TLSImplicit:
	case TLSOffOnLoopback:
		if ip := net.ParseIP(c.Host); c.Host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			return fieldErrorf("Host", c.Host, "is not this machine, and TLS is off: mails and passwords would travel in the clear; use TLSStartTLS")
		}
	default:
		return fieldErrorf("TLS", string(c.TLS), "is none of TLSStartTLS, TLSImplicit and TLSOffOnLoopback")
	}
	if c.Username == "" && c.Password != "" {
		return fieldErrorf("Username", "", "is empty, but Password is not; give both or neither")
	}
	if c.Username != "" {
		for _, secret := range []struct{ field, value string }{{"Username", c.Username}, {"Password", c.Password}} {
			if err := checkSMTPSecret(secret.field, secret.value); err != nil {
				return err
			}
		}
	}
	for _, r := range c.LocalName {
		if r <= ' ' || r >= 0x7F {
			return fieldErrorf("LocalName", c.LocalName, "may hold visible ASCII only, such as app.acme.example")
		}
	}
	if len(c.LocalName) > 255 {
		return fieldErrorf("LocalName", c.LocalName, "has %d bytes, at most 255 go", len(c.LocalName))
	}
	for field, n := range map[string]int64{
		"MaxConnections": int64(c.MaxConnections), "MaxMessages": int64(c.MaxMessages), "MaxIdle": int64(c.MaxIdle),
		"Timeouts.Dial": int64(c.Timeouts.Dial), "Timeouts.Open": int64(c.Timeouts.Open), "Timeouts.Command": int64(c.Timeouts.Command),
		"Timeouts.Body": int64(c.Timeouts.Body), "Timeouts.Reply": int64(c.Timeouts.Reply),
	} {
		if n < 0 {
			return fieldErrorf(field, strconv.FormatInt(n, 10), "is negative; 0 means the default")
		}
	}
	return nil
}

// checkSMTPSecret refuses what a copy and paste leaves around a secret.
func checkSMTPSecret(field, secret string) error {
	switch {
	case secret == "":
		return fieldErrorf(field, "", "is empty")
	case strings.ContainsAny(secret, "\r\n"):
		return fieldErrorf(field, "", "holds a line break; trim it where it is read")
	case strings.TrimSpace(secret) != secret:
		return fieldErrorf(field, "", "has blanks around it; trim it where it is read")
	case strings.ContainsRune(secret, 0):
		return fieldErrorf(field, "", "holds a NUL, which AUTH PLAIN cannot carry")
	}
	return nil
}

func (c *SMTPConfig) tlsConfig() (*tls.Config, error) {
	config := new(tls.Config)
	if c.TLSConfig != nil {
		config = c.TLSConfig.Clone()
	}
	if c.RootCAs != nil {
		config.RootCAs = c.RootCAs
	}
	if config.InsecureSkipVerify && config.VerifyConnection == nil {
		return nil, fieldErrorf("TLSConfig", "", "InsecureSkipVerify would hand the credentials to anybody on the way; "+
			"put the server's own authority into RootCAs, or check the certificate in VerifyConnection")
	}
	if v := config.MaxVersion; v != 0 && v < tls.VersionTLS12 {
		return nil, fieldErrorf("TLSConfig", tls.VersionName(v), "is not spoken any more: MaxVersion must be TLS 1.2 or later")
	}
	return config, nil
}

// mailBuffers hold composed mails while they are handed over.
var mailBuffers = sync.Pool{New: func() any { return new([]byte) }}

// A buffer that grew over this is left to the garbage collector.
const maxKeptBuffer = 1 << 20

// Send composes m and hands it over. The error is a [*DeliveryError]; its Kind
// is [Unknown] only when the whole mail went out and no reply came back. For a
// mail that cannot be composed it wraps a [*FieldError], and nothing was sent.
func (s *SMTPSender) Send(ctx context.Context, m *Message) (Receipt, error) {
	if m == nil {
		return Receipt{}, s.unfit(fieldErrorf("message", "", "is nil"))
	}
	if s.postmark != nil {
		if err := s.postmark.checkStream(m.Stream); err != nil {
			return Receipt{}, s.unfit(err)
		}
	}
	buf, _ := mailBuffers.Get().(*[]byte)
	defer func() {
		if cap(*buf) <= maxKeptBuffer {
			mailBuffers.Put(buf)
		}
	}()
	options := s.options
	options.now = time.Now()
	data, mail, err := m.compose((*buf)[:0], options)
	*buf = data
	if err != nil {
		return Receipt{}, s.unfit(err)
	}
	res, err := s.pool.Send(ctx, mail.From.Addr, mail.To.Addr, data)
	if err != nil {
		e := s.deliveryError(err)
		if e.Kind == Unknown {
			e.Remedy = "the server may have taken the mail: look for " + mailName(m, mail.MessageID) + " there before it is sent again"
		}
		return Receipt{}, e
	}
	return Receipt{ID: res.ID, Reply: res.Text, At: res.At}, nil
}

// mailName is what a mail can be found by.
func mailName(m *Message, messageID string) string {
	if m.SendKey != "" {
		return "send key " + strconv.Quote(m.SendKey) + " or Message-ID <" + messageID + ">"
	}
	return "Message-ID <" + messageID + ">"
}

// unfit is the error for a mail that was refused before anything was sent.
func (s *SMTPSender) unfit(err error) *DeliveryError {
	return &DeliveryError{Kind: Permanent, Phase: "check", Host: s.host, Err: err}
}

// Verify opens a connection, logs in, and closes it: it sends no mail. Its
// error is a [*DeliveryError] whose text says what is wrong and whose Remedy
// what to do about it. While refused credentials are held back it does not
// try, and returns that refusal.
func (s *SMTPSender) Verify(ctx context.Context) error {
	if err := s.pool.Verify(ctx); err != nil {
		return s.deliveryError(err)
	}
	return nil
}

// closeTime is how long Close waits for what is under way.
const closeTime = 30 * time.Second

// Close turns away who waits for a connection, lets sends under way finish for
// up to 30 s, and ends all connections; see [SMTPSender.Shutdown] for another
// time. A Send after it fails with [ErrClosed].
func (s *SMTPSender) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	return s.Shutdown(ctx)
}

// Shutdown is Close with the caller's time: when ctx ends, connections in use
// are closed, which leaves their mails [Temporary], or [Unknown] where they
// had gone out whole. The error is then ctx's.
func (s *SMTPSender) Shutdown(ctx context.Context) error {
	err := s.pool.Close(ctx)
	if s.postmark != nil && s.postmark.api != nil {
		s.postmark.api.closeIdle()
	}
	if err != nil {
		return fmt.Errorf("sends under way with %s were cut off: %w", s.host, err)
	}
	return nil
}

// Lookup asks Postmark's HTTP API whether it has the mail of a send key, as
// [Postmark.Lookup] does. Only a sender from [NewPostmarkSMTP] with a server
// token can be asked; others return [ErrLookupUnavailable].
func (s *SMTPSender) Lookup(ctx context.Context, sendKey string) (Receipt, bool, error) {
	if s.postmark == nil || s.postmark.api == nil {
		return Receipt{}, false, ErrLookupUnavailable
	}
	return s.postmark.api.lookup(ctx, sendKey, s.postmark.stream)
}

// LookupDelay is how long after a hand-over a "no" of [SMTPSender.Lookup] can
// be believed, as [Postmark.LookupDelay]; 0 for a sender that cannot be asked.
func (s *SMTPSender) LookupDelay() time.Duration {
	if s.postmark == nil || s.postmark.api == nil {
		return 0
	}
	return postmarkLookupDelay
}

// SMTPStats are a sender's counts since it was made.
type SMTPStats struct {
	// The outcomes of mails: taken, not taken for now, refused for good, and
	// those whose reply was lost. Mails that could not be composed count
	// nowhere.
	Accepted, Deferred, Rejected, Unknown int64
	// Dials are connections tried, Handshakes TLS handshakes that succeeded,
	// RoundTrips the times that an answer was waited for.
	Dials, Handshakes, RoundTrips int64
	// Open connections now, Idle ones among them, and the Limit: it is below
	// MaxConnections for a while after the server refused one more.
	Open, Idle, Limit int
}

// Stats returns the counts.
func (s *SMTPSender) Stats() SMTPStats { return SMTPStats(s.pool.Stats()) }

// String names the sender by its server.
func (s *SMTPSender) String() string { return "SMTP " + s.host }

// deliveryError puts a failure of the pool into the package's words.
func (s *SMTPSender) deliveryError(err error) *DeliveryError {
	var e *smtppool.Error
	if !errors.As(err, &e) {
		return &DeliveryError{Kind: Unknown, Phase: "reply", Host: s.host, Err: err}
	}
	kind := Temporary
	switch e.Outcome {
	case smtppool.Rejected:
		kind = Permanent
	case smtppool.Unknown:
		kind = Unknown
	case smtppool.Deferred:
	}
	d := &DeliveryError{
		Kind: kind, Account: e.Account, Auth: e.Reason == smtppool.ReasonAuth, Phase: e.Phase, Host: s.host,
		Code: e.Code, EnhancedCode: e.Enhanced, Recipient: e.Recipient, Text: e.Text, RetryAfter: e.RetryAfter, Err: e.Err,
		Remedy: s.remedy(e),
	}
	if kind == Permanent && e.Reason == smtppool.ReasonReply && !isOpening(e) && d.Remedy != "" {
		// It is the address in From that is refused: no further mail gets past
		// it, so the mails wait until it is mended.
		d.Account = true
	}
	if e.Reason == smtppool.ReasonPoolClosed {
		d.Err = fmt.Errorf("sender: %w", ErrClosed)
	}
	return d
}
