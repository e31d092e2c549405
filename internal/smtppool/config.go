package smtppool

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"time"
)

// Security is how a connection is protected.
type Security uint8

const (
	// STARTTLS upgrades the connection and fails where the server does not.
	STARTTLS Security = iota
	// ImplicitTLS speaks TLS from the first byte.
	ImplicitTLS
	// PlainLoopback speaks no TLS, and refuses any peer that is not this
	// machine.
	PlainLoopback
)

// Config says how to reach one server. New copies it.
type Config struct {
	// Addr is host:port.
	Addr     string
	Security Security
	// TLS is cloned; its ServerName defaults to Addr's host, its MinVersion is
	// raised to TLS 1.2.
	TLS *tls.Config
	// LocalName is the name in EHLO. Empty: the address literal of the local
	// end (RFC 5321 section 4.1.4).
	LocalName string
	// Username and Password log in with AUTH PLAIN; no AUTH without Username.
	Username, Password string

	// NoPipelining sends one command at a time also where the server announces
	// PIPELINING (RFC 2920).
	NoPipelining bool
	// MaxConns is how many sessions may be open. Defaults to 8.
	MaxConns int
	// MaxMessages is how many mails a session carries. Defaults to 1,000.
	MaxMessages int
	// MaxIdle is how long a session may lie unused. Defaults to 30 s.
	MaxIdle time.Duration
	// MaxAge is how long a session may live. Defaults to 30 min.
	MaxAge time.Duration

	// DialTimeout is for TCP, or for the whole of Dial. Defaults to 15 s.
	DialTimeout time.Duration
	// OpenTimeout is for everything from the dial to the answer to AUTH.
	// Defaults to 45 s.
	OpenTimeout time.Duration
	// CommandTimeout is for one command and its reply, the greeting and the
	// TLS handshake. Defaults to 30 s.
	CommandTimeout time.Duration
	// BodyTimeout is for writing a mail, however slowly the server takes it.
	// Defaults to 5 min.
	BodyTimeout time.Duration
	// ReplyTimeout is for the reply to a whole mail. Giving up here leaves the
	// outcome unknown, so it is long: 10 min (RFC 5321 section 4.5.3.2.6).
	ReplyTimeout time.Duration
	// QuitTimeout is for writing QUIT; its reply is not waited for. Defaults
	// to 1 s.
	QuitTimeout time.Duration

	// BackoffMin and BackoffMax bound the pause after a failed opening, which
	// doubles each time and is drawn from its upper half. Default to 500 ms
	// and 30 s.
	BackoffMin, BackoffMax time.Duration
	// AuthHold is the first pause after refused credentials; it doubles up to
	// 16 times that. Defaults to 1 min.
	AuthHold time.Duration
	// GrowAfter is how long the pool keeps the size to which a 421 shrank it
	// before it tries one session more. Defaults to 1 min.
	GrowAfter time.Duration

	// Dial opens the connection; net.Dialer when nil.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Logger gets the dialogue at debug level, without AUTH and bodies.
	// Nothing is logged when nil.
	Logger *slog.Logger
}

func (c *Config) withDefaults() (*Config, error) {
	cfg := *c
	host, _, err := net.SplitHostPort(cfg.Addr)
	if err != nil {
		return nil, err
	}
	if cfg.Username != "" && cfg.Password == "" {
		return nil, errors.New("user name without password")
	}
	setInt := func(v *int, def int) {
		if *v <= 0 {
			*v = def
		}
	}
	setTime := func(v *time.Duration, def time.Duration) {
		if *v <= 0 {
			*v = def
		}
	}
	setInt(&cfg.MaxConns, 8)
	setInt(&cfg.MaxMessages, 1000)
	setTime(&cfg.MaxIdle, 30*time.Second)
	setTime(&cfg.MaxAge, 30*time.Minute)
	setTime(&cfg.DialTimeout, 15*time.Second)
	setTime(&cfg.OpenTimeout, 45*time.Second)
	setTime(&cfg.CommandTimeout, 30*time.Second)
	setTime(&cfg.BodyTimeout, 5*time.Minute)
	setTime(&cfg.ReplyTimeout, 10*time.Minute)
	setTime(&cfg.QuitTimeout, time.Second)
	setTime(&cfg.BackoffMin, 500*time.Millisecond)
	setTime(&cfg.BackoffMax, 30*time.Second)
	setTime(&cfg.AuthHold, time.Minute)
	setTime(&cfg.GrowAfter, time.Minute)
	if cfg.Dial == nil {
		cfg.Dial = new(net.Dialer).DialContext
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.TLS == nil {
		cfg.TLS = new(tls.Config)
	}
	cfg.TLS = cfg.TLS.Clone()
	if cfg.TLS.ServerName == "" {
		cfg.TLS.ServerName = host
	}
	cfg.TLS.MinVersion = max(cfg.TLS.MinVersion, tls.VersionTLS12)
	if cfg.TLS.ClientSessionCache == nil {
		cfg.TLS.ClientSessionCache = tls.NewLRUClientSessionCache(cfg.MaxConns)
	}
	// A mail is one record and one write, not a record for each packet.
	cfg.TLS.DynamicRecordSizingDisabled = true
	return &cfg, nil
}
