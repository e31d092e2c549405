package fluxly

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"time"
)

// Postmark's SMTP hosts:
// https://postmarkapp.com/support/article/811-what-are-the-smtp-details-api-tokens-i-should-be-using
const (
	// PostmarkSMTPHost serves mail of any stream that the Message Stream
	// header names.
	PostmarkSMTPHost = "smtp.postmarkapp.com"
	// PostmarkSMTPBroadcastHost is the one that Postmark's documents give for
	// Broadcast streams.
	PostmarkSMTPBroadcastHost = "smtp-broadcasts.postmarkapp.com"
)

// maxPostmarkConnections is what Postmark asks for, per IP address.
const maxPostmarkConnections = 10

// PostmarkSMTPConfig is how [NewPostmarkSMTP] reaches Postmark. It prints
// without its secrets. Give either ServerToken and MessageStream, or AccessKey
// and SecretKey.
type PostmarkSMTPConfig struct {
	// ServerToken is the Server API token, from the API Tokens tab of the
	// server. Over SMTP it is both user name and password. An account token
	// does not work.
	ServerToken string `json:"-"`
	// MessageStream is the id of the stream for messages that name none, such
	// as "lifecycle-production". It is required with ServerToken, because
	// Postmark sends mail that names none on the transactional stream
	// "outbound", where lifecycle mail does not belong; name "outbound" to
	// mean it. With an SMTP token it may be left empty; when given, messages
	// for another stream are refused.
	MessageStream string
	// AccessKey and SecretKey are an SMTP token, which belongs to one stream.
	// No stream header is then written.
	AccessKey string `json:"-"`
	SecretKey string `json:"-"`
	// Host defaults to PostmarkSMTPHost; PostmarkSMTPBroadcastHost is the
	// other.
	Host string
	// Port defaults to 587. Postmark also serves 25 and 2525, the latter for
	// networks that block the others.
	Port int
	// TLS defaults to STARTTLS, required. TLSOffOnLoopback is for a stand-in
	// on this machine.
	TLS TLSMode
	// RootCAs, TLSConfig and LocalName are as in [SMTPConfig].
	RootCAs   *x509.CertPool `json:"-"`
	TLSConfig *tls.Config    `json:"-"`
	LocalName string
	// MaxConnections defaults to 8. Postmark asks for at most 10 from one
	// address, over all programs there.
	MaxConnections int
	// APIBaseURL is where [SMTPSender.Lookup] asks for a mail whose reply was
	// lost. Defaults to "https://api.postmarkapp.com" where Host is Postmark's;
	// with another Host there is no lookup unless it is given. Only a
	// ServerToken can ask.
	APIBaseURL string
	// NoPipelining, MaxMessages, MaxIdle, Timeouts and Dial are as in
	// [SMTPConfig].
	NoPipelining bool
	MaxMessages  int
	MaxIdle      time.Duration
	Timeouts     SMTPTimeouts
	Dial         func(ctx context.Context, network, addr string) (net.Conn, error) `json:"-"`
	// Logger gets the dialogue with the server at debug level, without
	// credentials and without mails. Nil means silence.
	Logger *slog.Logger `json:"-"`
}

// Format prints the settings without the secrets, whatever the verb.
func (c PostmarkSMTPConfig) Format(f fmt.State, _ rune) {
	_, _ = fmt.Fprintf(f, "{ServerToken:%s MessageStream:%s AccessKey:%s SecretKey:%s Host:%s Port:%d TLS:%s MaxConnections:%d}",
		redact(c.ServerToken), c.MessageStream, redact(c.AccessKey), redact(c.SecretKey), c.Host, c.Port, c.TLS, c.MaxConnections)
}

// LogValue gives slog the settings without the secrets.
func (c PostmarkSMTPConfig) LogValue() slog.Value {
	return slog.GroupValue(
		slog.String("server_token", redact(c.ServerToken)), slog.String("message_stream", c.MessageStream),
		slog.String("access_key", redact(c.AccessKey)), slog.String("secret_key", redact(c.SecretKey)),
		slog.String("host", c.Host), slog.Int("port", c.Port), slog.String("tls", string(c.TLS)), slog.Int("max_connections", c.MaxConnections),
	)
}

// NewPostmarkSMTP returns a sender for Postmark over SMTP. It dials at the
// first [SMTPSender.Send] or [SMTPSender.Verify]. The error is a [*FieldError]
// and holds no secret.
//
// Postmark's SMTP takes every mail of a client that has logged in. What is
// wrong with it (a recipient who is suppressed, a stream that does not exist,
// a From on a domain that is not verified) shows afterwards, as a bounce of
// type SMTPApiError: a [Receipt] means taken, not sent. [NewPostmark] says so
// at once.
func NewPostmarkSMTP(cfg PostmarkSMTPConfig) (*SMTPSender, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	host := cfg.Host
	if host == "" {
		host = PostmarkSMTPHost
	}
	out := SMTPConfig{
		Host: host, Port: cfg.Port, Username: cfg.ServerToken, Password: cfg.ServerToken, TLS: cfg.TLS,
		RootCAs: cfg.RootCAs, TLSConfig: cfg.TLSConfig, LocalName: cfg.LocalName,
		NoPipelining: cfg.NoPipelining, MaxConnections: cfg.MaxConnections, MaxMessages: cfg.MaxMessages, MaxIdle: cfg.MaxIdle,
		Timeouts: cfg.Timeouts, Dial: cfg.Dial, Logger: cfg.Logger,
	}
	bound := cfg.ServerToken == ""
	if bound {
		out.Username, out.Password = cfg.AccessKey, cfg.SecretKey
	}
	s, err := newSMTPSender(out)
	if err != nil {
		return nil, err
	}
	s.options = mailOptions{postmark: true, stream: cfg.MessageStream, omitStream: bound}
	s.postmark = &postmarkSMTP{bound: bound, stream: cfg.MessageStream}
	if !bound && (isPostmarkHost(host) || cfg.APIBaseURL != "") {
		s.postmark.api, err = newPostmarkAPI(PostmarkConfig{ServerToken: cfg.ServerToken, BaseURL: cfg.APIBaseURL, Logger: cfg.Logger})
		if err != nil {
			return nil, err
		}
	}
	return s, nil
}

// MessageStream is the id of the stream for messages that name none; empty for
// a relay, and where the credentials decide it.
func (s *SMTPSender) MessageStream() string {
	if s.postmark == nil {
		return ""
	}
	return s.postmark.stream
}

// check finds what cannot work at Postmark.
func (c *PostmarkSMTPConfig) check() error {
	switch {
	case c.ServerToken != "" && (c.AccessKey != "" || c.SecretKey != ""):
		return fieldErrorf("AccessKey", "", "is given beside ServerToken; give one of the two kinds of credentials")
	case c.ServerToken == "" && c.AccessKey == "" && c.SecretKey == "":
		return fieldErrorf("ServerToken", "", "is empty; take the Server API token from the API Tokens tab of your server in Postmark")
	}
	if c.ServerToken != "" {
		if err := c.checkServerToken(); err != nil {
			return err
		}
	} else if err := c.checkSMTPToken(); err != nil {
		return err
	}
	if c.MessageStream != "" {
		if err := checkStreamID(c.MessageStream); err != nil {
			return err
		}
	}
	if c.MaxConnections > maxPostmarkConnections {
		return fieldErrorf("MaxConnections", strconv.Itoa(c.MaxConnections), "is over the 10 connections from one address that Postmark asks for")
	}
	return c.checkHost()
}

func (c *PostmarkSMTPConfig) checkServerToken() error {
	if err := checkSMTPSecret("ServerToken", c.ServerToken); err != nil {
		return err
	}
	if strings.HasPrefix(c.ServerToken, "PM-") {
		return fieldErrorf("ServerToken", "", "looks like the access key of an SMTP token; give it as AccessKey, with its SecretKey")
	}
	if !isGUID(c.ServerToken) {
		return errNoServerToken("ServerToken")
	}
	if c.MessageStream == "" {
		return errNoStream()
	}
	return nil
}

func (c *PostmarkSMTPConfig) checkSMTPToken() error {
	if err := checkSMTPSecret("AccessKey", c.AccessKey); err != nil {
		return err
	}
	if err := checkSMTPSecret("SecretKey", c.SecretKey); err != nil {
		return err
	}
	if isGUID(c.AccessKey) {
		if c.AccessKey == c.SecretKey {
			return fieldErrorf("AccessKey", "", "is a server token; give it as ServerToken, with MessageStream")
		}
		return fieldErrorf("AccessKey", "", "has the shape of a server token, and SecretKey differs from it: over SMTP a server token is both user name and password; "+
			"give it as ServerToken (an account token does not work)")
	}
	return nil
}

// checkHost holds the settings against what Postmark serves. A host that is
// none of Postmark's is a stand-in or a tunnel, and the caller's affair.
func (c *PostmarkSMTPConfig) checkHost() error {
	if c.Host == "" || isPostmarkHost(c.Host) {
		switch {
		case c.Host != "" && !strings.EqualFold(c.Host, PostmarkSMTPHost) && !strings.EqualFold(c.Host, PostmarkSMTPBroadcastHost):
			return fieldErrorf("Host", c.Host, "is no SMTP host of Postmark; use %s or %s", PostmarkSMTPHost, PostmarkSMTPBroadcastHost)
		case c.TLS == TLSImplicit:
			return fieldErrorf("TLS", string(c.TLS), "is not served by Postmark; use TLSStartTLS on port 587")
		case c.Port != 0 && c.Port != 25 && c.Port != 587 && c.Port != 2525:
			return fieldErrorf("Port", strconv.Itoa(c.Port), "is not served by Postmark; use 587 (or 25, 2525)")
		}
	}
	return nil
}

// isPostmarkHost reports whether host is in Postmark's domain.
func isPostmarkHost(host string) bool {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	return host == "postmarkapp.com" || strings.HasSuffix(host, ".postmarkapp.com")
}

// postmarkSMTP is what a sender for Postmark has beside the connections.
type postmarkSMTP struct {
	// bound: the credentials are an SMTP token, which belongs to one stream.
	bound  bool
	stream string
	// api is where mails are looked up; nil when they cannot be.
	api *postmarkAPI
}

// checkStream refuses a message for a stream that an SMTP token cannot reach.
func (p *postmarkSMTP) checkStream(stream string) error {
	if p.bound && p.stream != "" && stream != "" && stream != p.stream {
		return fieldErrorf("stream", stream, "cannot be reached with the SMTP token of stream %s; use a server token, or a sender for each stream", p.stream)
	}
	return nil
}
