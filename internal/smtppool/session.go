package smtppool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"time"
)

// The write buffer of a session. A mail that fits is one write.
const bodyBuffer = 32 << 10

// Result is what the server said when it took a mail.
type Result struct {
	// ID is the queue id, if the reply names one.
	ID string
	// Text is the reply, cleaned.
	Text string
	// At is when the reply came.
	At time.Time
}

// session is one open connection. One goroutine uses it at a time.
type session struct {
	cfg   *Config
	stats *counters
	// raw is the connection itself, conn what mail goes through: raw, or TLS
	// on it.
	raw, conn net.Conn
	rd        replyReader
	wbuf      []byte
	caps      caps
	// abort closes raw; it is what the end of a context does.
	abort func()
	// limit, when set, is the end of the time for opening.
	limit time.Time

	opened, idleSince time.Time
	// rested is how long it was idle before the present use.
	rested time.Duration
	// sent is how many transactions were begun.
	sent int
	// dirty: a transaction was begun and not ended, so RSET comes first.
	dirty bool
	// broken: the connection must not be used again.
	broken bool
	// proven: the server has answered a whole transaction.
	proven bool
}

// kept reports whether the session was idle before, and so may have died.
func (s *session) kept() bool { return !s.idleSince.IsZero() }

func (s *session) use(conn net.Conn) {
	s.conn = conn
	s.rd.src = conn
	s.rd.start, s.rd.end = 0, 0
}

// arm gives the coming step its time: limit, or what the context has left.
func (s *session) arm(ctx context.Context, limit time.Duration) {
	var t time.Time
	if limit > 0 {
		t = time.Now().Add(limit)
	}
	if !s.limit.IsZero() && (t.IsZero() || s.limit.Before(t)) {
		t = s.limit
	}
	if d, ok := ctx.Deadline(); ok && (t.IsZero() || d.Before(t)) {
		t = d
	}
	_ = s.raw.SetDeadline(t)
}

// watch closes the connection when ctx ends. The returned function ends the
// watch and reports whether ctx left the connection alone.
func (s *session) watch(ctx context.Context) func() bool {
	if ctx.Done() == nil {
		return func() bool { return true }
	}
	return context.AfterFunc(ctx, s.abort)
}

// command is one command and its reply; s.wbuf is its buffer.
func (s *session) command(ctx context.Context, phase string, parts ...string) (reply, *Error) {
	b := s.wbuf[:0]
	for _, p := range parts {
		b = append(b, p...)
	}
	b = append(b, "\r\n"...)
	s.wbuf = b
	s.arm(ctx, s.cfg.CommandTimeout)
	if failure := s.write(ctx, phase, b, s.cfg.CommandTimeout); failure != nil {
		return reply{}, failure
	}
	r, failure := s.reply(ctx, phase, s.cfg.CommandTimeout)
	s.stats.roundTrips.Add(1)
	if failure == nil && s.debug(ctx) {
		s.log(ctx, string(b[:len(b)-2]), r.code, r.text)
	}
	return r, failure
}

// write sends b. A reply that nobody asked for, or one that came instead of
// the connection's end, is not overlooked.
func (s *session) write(ctx context.Context, phase string, b []byte, limit time.Duration) *Error {
	if s.rd.buffered() > 0 {
		s.broken = true
		return phaseError(phase, ReasonProtocol, errReplyExtra)
	}
	if _, err := s.conn.Write(b); err != nil {
		s.broken = true
		failure := ioError(ctx, phase, limit, err)
		if failure.Reason == ReasonClosed {
			// Why it was closed may lie in the receive buffer.
			_ = s.raw.SetDeadline(time.Now().Add(100 * time.Millisecond))
			if r, err := s.rd.read(); err == nil && r.code >= 400 {
				return s.cfg.replyError(phase, r.code, r.text)
			}
		}
		return failure
	}
	return nil
}

// reply reads the next reply.
func (s *session) reply(ctx context.Context, phase string, limit time.Duration) (reply, *Error) {
	r, err := s.rd.read()
	if err != nil {
		s.broken = true
		return reply{}, s.cfg.explain(ioError(ctx, phase, limit, err))
	}
	if r.code == 421 { // the server ends the session (RFC 5321 section 3.8)
		s.broken = true
	}
	return r, nil
}

// unexpected is a reply that is not the one which goes on. Where it is no
// refusal either, command and reply are out of step.
func (s *session) unexpected(phase string, r reply) *Error {
	if r.code >= 400 {
		e := s.cfg.replyError(phase, r.code, r.text)
		if r.code == 503 && !opening(phase) {
			// "Bad sequence": it is not this mail that was refused.
			s.broken, e.Outcome = true, Deferred
		}
		return e
	}
	s.broken = true
	text := s.cfg.scrub(clean(r.text, 200))
	return phaseError(phase, ReasonProtocol, fmt.Errorf("reply out of place: %d %s", r.code, text))
}

// transact hands over one mail. data has passed checkData. The mail is written
// only after DATA was granted, and only an answer to its end decides; from the
// end on, silence is [Unknown].
func (s *session) transact(ctx context.Context, from, to string, data []byte) (Result, *Error) {
	stop := s.watch(ctx)
	res, failure := s.transaction(ctx, from, to, data)
	if !stop() {
		s.broken = true
	}
	return res, failure
}

func (s *session) transaction(ctx context.Context, from, to string, data []byte) (Result, *Error) {
	if err := contextEnded(ctx); err != nil {
		return Result{}, phaseError(PhaseMail, ReasonCanceled, err)
	}
	if s.caps.sizeLimit > 0 && int64(len(data)) > s.caps.sizeLimit {
		return Result{}, phaseError(PhaseCheck, ReasonTooBig, fmt.Errorf("mail of %d bytes, server takes %d", len(data), s.caps.sizeLimit))
	}
	if s.dirty {
		if r, failure := s.command(ctx, PhaseMail, "RSET"); failure != nil {
			return Result{}, failure
		} else if r.code != 250 {
			s.broken = true
			return Result{}, phaseError(PhaseMail, ReasonClosed, errors.New("server refused RSET"))
		}
		s.dirty = false
	}
	if failure := s.envelope(ctx, from, to, len(data)); failure != nil {
		return Result{}, failure
	}
	if failure := s.body(ctx, data); failure != nil {
		s.broken = true // the server still waits for the end of a mail
		return Result{}, failure
	}
	return s.outcome(ctx)
}

// envelope brings a transaction to where the server waits for the mail.
func (s *session) envelope(ctx context.Context, from, to string, size int) *Error {
	s.sent++
	var sizeParam string
	if s.caps.size {
		sizeParam = " SIZE=" + strconv.Itoa(size)
	}
	if s.caps.pipelining && !s.cfg.NoPipelining && !s.stats.lockStep.Load() {
		return s.pipeline(ctx, from, to, sizeParam)
	}
	r, failure := s.command(ctx, PhaseMail, "MAIL FROM:<", from, ">", sizeParam)
	if failure != nil {
		return failure
	}
	if r.code != 250 {
		return s.unexpected(PhaseMail, r)
	}
	s.dirty = true
	if r, failure = s.command(ctx, PhaseRcpt, "RCPT TO:<", to, ">"); failure != nil {
		return failure
	}
	if r.code/10 != 25 { // 250, 251 and 252 (RFC 5321 section 3.3)
		refused := s.unexpected(PhaseRcpt, r)
		if refused.Code != 0 {
			refused.Recipient = to
		}
		return refused
	}
	if r, failure = s.command(ctx, PhaseData, "DATA"); failure != nil {
		return failure
	}
	if r.code != 354 {
		return s.unexpected(PhaseData, r)
	}
	return nil
}

// body writes the mail with its dots doubled (RFC 5321 section 4.5.2) and its
// end, in as few writes as the buffer allows. An error means that the end has
// not been written.
func (s *session) body(ctx context.Context, data []byte) *Error {
	if cap(s.wbuf) < bodyBuffer {
		s.wbuf = make([]byte, 0, bodyBuffer)
	}
	s.arm(ctx, s.cfg.BodyTimeout)
	buf := s.wbuf[:0]
	put := func(p []byte) *Error {
		for len(p) > 0 {
			n := copy(buf[len(buf):cap(buf)], p)
			buf, p = buf[:len(buf)+n], p[n:]
			if len(buf) == cap(buf) {
				if failure := s.write(ctx, PhaseBody, buf, s.cfg.BodyTimeout); failure != nil {
					return failure
				}
				buf = buf[:0]
			}
		}
		return nil
	}
	if data[0] == '.' {
		buf = append(buf, '.')
	}
	ended := bytes.HasSuffix(data, crlf)
	for len(data) > 0 {
		run, stuff := data, dot[:0]
		if i := bytes.Index(data, crlfDot); i >= 0 {
			run, stuff = data[:i+2], dot
		}
		data = data[len(run):]
		if failure := put(run); failure != nil {
			return failure
		}
		if failure := put(stuff); failure != nil {
			return failure
		}
	}
	end := crlfDotCRLF
	if ended {
		end = end[2:]
	}
	if len(buf)+len(end) > cap(buf) {
		// The end goes in one write, so that a write that failed is one that
		// did not hold all of it.
		if failure := s.write(ctx, PhaseBody, buf, s.cfg.BodyTimeout); failure != nil {
			return failure
		}
		buf = buf[:0]
	}
	buf = append(buf, end...)
	return s.write(ctx, PhaseBody, buf, s.cfg.BodyTimeout)
}

var (
	crlf        = []byte("\r\n")
	dot         = []byte(".")
	crlfDot     = []byte("\r\n.")
	crlfDotCRLF = []byte("\r\n.\r\n")
)

// outcome reads the reply to a whole mail.
func (s *session) outcome(ctx context.Context) (Result, *Error) {
	s.arm(ctx, s.cfg.ReplyTimeout)
	r, failure := s.reply(ctx, PhaseReply, s.cfg.ReplyTimeout)
	s.stats.roundTrips.Add(1)
	if failure != nil {
		failure.Outcome = Unknown
		return Result{}, failure
	}
	if s.debug(ctx) {
		s.log(ctx, "(mail)", r.code, r.text)
	}
	s.dirty, s.proven = false, true
	if r.code != 250 {
		failure := s.unexpected(PhaseReply, r)
		if r.code < 400 {
			failure.Outcome = Unknown
		}
		return Result{}, failure
	}
	if s.rd.buffered() > 0 {
		s.broken = true
	}
	_, rest := enhanced(r.code, r.text)
	text := s.cfg.scrub(clean(rest, maxText))
	return Result{ID: queueID(text), Text: text, At: time.Now()}, nil
}

// quit says goodbye without waiting for the answer, and closes. Within a mail
// nothing is said: a command would be taken for a line of it.
func (s *session) quit() {
	if !s.broken {
		_ = s.raw.SetDeadline(time.Now().Add(s.cfg.QuitTimeout))
		_, _ = s.conn.Write([]byte("QUIT\r\n"))
	}
	_ = s.raw.Close()
}

// debug reports whether the dialogue is logged; it costs one call when not.
func (s *session) debug(ctx context.Context) bool {
	return s.cfg.Logger.Enabled(ctx, slog.LevelDebug)
}

// log writes one exchange at debug level.
func (s *session) log(ctx context.Context, command string, code int, text []byte) {
	s.cfg.Logger.LogAttrs(ctx, slog.LevelDebug, "smtp",
		slog.String("server", s.cfg.Addr), slog.String("command", command),
		slog.Int("code", code), slog.String("reply", s.cfg.scrub(clean(text, maxText))))
}
