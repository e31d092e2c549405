package smtppool

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
)

// open dials and brings a session to the point where it takes mail. Nothing
// secret is written before the connection is protected.
func open(ctx context.Context, cfg *Config, st *counters) (*session, *Error) {
	begun := time.Now()
	st.dials.Add(1)
	dialCtx, cancel := context.WithTimeout(ctx, min(cfg.DialTimeout, cfg.OpenTimeout))
	raw, err := cfg.Dial(dialCtx, "tcp", cfg.Addr)
	cancel()
	if err != nil {
		return nil, cfg.explain(ioError(ctx, PhaseDial, cfg.DialTimeout, err))
	}
	s := &session{cfg: cfg, stats: st, raw: raw, opened: begun, limit: begun.Add(cfg.OpenTimeout)}
	s.use(raw)
	s.abort = func() { _ = raw.Close() }
	stop := s.watch(ctx)
	failure := s.handshake(ctx)
	if !stop() && failure == nil {
		failure = phaseError(PhaseAuth, ReasonCanceled, contextEnded(ctx))
	}
	if failure != nil {
		_ = raw.Close()
		return nil, cfg.explain(failure)
	}
	s.limit = time.Time{}
	_ = raw.SetDeadline(time.Time{})
	return s, nil
}

// explain takes the credentials out of a cause: it may quote the server.
func (c *Config) explain(e *Error) *Error {
	if e.Err != nil && c.Password != "" {
		if text := e.Err.Error(); c.scrub(text) != text {
			e.Err = errors.New(c.scrub(text))
		}
	}
	return e
}

func (s *session) handshake(ctx context.Context) *Error {
	if s.cfg.Security == PlainLoopback && !loopback(s.raw.RemoteAddr()) {
		return phaseError(PhaseDial, ReasonNotLoopback, fmt.Errorf("%s is not this machine: refusing a connection without TLS", s.raw.RemoteAddr()))
	}
	if s.cfg.Security == ImplicitTLS {
		if failure := s.startTLS(ctx, PhaseDial); failure != nil {
			return failure
		}
	}
	client, g, failure := s.hello(ctx, PhaseGreeting, "")
	if failure != nil {
		return failure
	}
	if s.cfg.Security == STARTTLS {
		if !s.caps.startTLS {
			return phaseError(PhaseSTARTTLS, ReasonNoSTARTTLS, errors.New("server does not offer STARTTLS"))
		}
		r, failure := s.command(ctx, PhaseSTARTTLS, "STARTTLS")
		if failure != nil {
			return failure
		}
		if r.code != 220 {
			refused := s.unexpected(PhaseSTARTTLS, r)
			refused.Reason = ReasonNoSTARTTLS
			return refused
		}
		// What came before the handshake came from anybody (RFC 3207 section
		// 4.2 says to discard all knowledge from it; CVE-2011-0411).
		if s.rd.buffered() > 0 {
			return phaseError(PhaseSTARTTLS, ReasonInjection, errors.New("plain text behind the answer to STARTTLS: injected by somebody on the way"))
		}
		if failure = s.startTLS(ctx, PhaseSTARTTLS); failure != nil {
			return failure
		}
		// A server greets once, a go-smtp client wants to be greeted.
		if client, g, failure = s.hello(ctx, PhaseEHLO, "220 ready\r\n"); failure != nil {
			return failure
		}
	}
	if s.cfg.Username == "" {
		return nil
	}
	return s.login(ctx, client, g)
}

// startTLS puts TLS on the connection. The name in the certificate is checked.
func (s *session) startTLS(ctx context.Context, phase string) *Error {
	conn := tls.Client(s.raw, s.cfg.TLS)
	s.arm(ctx, s.cfg.CommandTimeout)
	if err := conn.HandshakeContext(ctx); err != nil {
		return ioError(ctx, phase, s.cfg.CommandTimeout, err)
	}
	s.stats.handshakes.Add(1)
	s.use(conn)
	return nil
}

// hello has go-smtp's client take the greeting and say EHLO, and notes what
// the server announced. Earlier announcements are forgotten: those before TLS
// may be anybody's (RFC 3207 section 4.2).
func (s *session) hello(ctx context.Context, phase, greeting string) (*smtp.Client, *guard, *Error) {
	g := &guard{s: s, out: []byte(greeting), arm: func() { s.arm(ctx, s.cfg.CommandTimeout) }}
	s.caps = caps{}
	g.arm()
	client := smtp.NewClient(g)
	if err := client.Hello(s.localName()); err != nil {
		if g.replies > 0 && g.sent {
			phase = PhaseEHLO
		}
		return nil, nil, s.openingError(ctx, phase, g, err)
	}
	s.caps = parseCaps(g.text)
	if s.debug(ctx) {
		s.log(ctx, "EHLO "+s.localName(), g.last, g.text)
	}
	return client, g, nil
}

// login authenticates. The caller has seen to it that the connection is TLS,
// or to this machine by the user's own wish.
func (s *session) login(ctx context.Context, client *smtp.Client, g *guard) *Error {
	if !s.caps.offersAuth(sasl.Plain) {
		return phaseError(PhaseAuth, ReasonNoAuth, s.caps.authError())
	}
	if err := client.Auth(sasl.NewPlainClient("", s.cfg.Username, s.cfg.Password)); err != nil {
		failure := s.openingError(ctx, PhaseAuth, g, err)
		// The documented code is 535, but a refusal by another name (550,
		// 554, 501 for a malformed token) must not be hammered either.
		if failure.Code >= 500 && failure.Code != 500 && failure.Code != 502 && failure.Code != 503 && failure.Code != 504 {
			failure.Reason = ReasonAuth
		}
		return failure
	}
	if s.debug(ctx) {
		s.log(ctx, "AUTH PLAIN [redacted]", g.last, nil)
	}
	return nil
}

// openingError explains why the client gave up.
func (s *session) openingError(ctx context.Context, phase string, g *guard, err error) *Error {
	var refused *smtp.SMTPError
	switch {
	case errors.Is(g.failed, errNoEHLO):
		failure := s.cfg.replyError(PhaseEHLO, g.last, g.text)
		failure.Err = errNoEHLO
		return failure
	case g.failed != nil:
		return ioError(ctx, phase, s.cfg.CommandTimeout, g.failed)
	case errors.As(err, &refused):
		return s.unexpected(phase, reply{code: g.last, text: g.text})
	case errors.Is(err, sasl.ErrUnexpectedServerChallenge):
		return phaseError(phase, ReasonProtocol, errors.New("server asked for more than AUTH PLAIN holds"))
	}
	return phaseError(phase, ReasonProtocol, err)
}

// localName is what EHLO says.
func (s *session) localName() string {
	if s.cfg.LocalName != "" {
		return s.cfg.LocalName
	}
	if a, ok := s.raw.LocalAddr().(*net.TCPAddr); ok && a.IP != nil {
		if ip4 := a.IP.To4(); ip4 != nil {
			return "[" + ip4.String() + "]"
		}
		return "[IPv6:" + a.IP.String() + "]"
	}
	return "[127.0.0.1]"
}

// loopback reports whether a peer is this machine. An address that is not IP
// is a pipe or a socket within it.
func loopback(a net.Addr) bool {
	tcp, ok := a.(*net.TCPAddr)
	return !ok && !strings.HasPrefix(a.Network(), "tcp") || ok && tcp.IP.IsLoopback()
}
