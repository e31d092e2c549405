package smtppool

import (
	"context"
	"strings"
)

// pipeline is the envelope in one write: MAIL, RCPT and DATA go together and
// their replies are read afterwards, one for each (RFC 2920 section 3.1). DATA
// ends the group, as that RFC has it, so nothing of the mail is written before
// the server has agreed to all three.
func (s *session) pipeline(ctx context.Context, from, to, sizeParam string) *Error {
	b := s.wbuf[:0]
	for _, part := range [...]string{"MAIL FROM:<", from, ">", sizeParam, "\r\nRCPT TO:<", to, ">\r\nDATA\r\n"} {
		b = append(b, part...)
	}
	s.wbuf = b
	s.arm(ctx, s.cfg.CommandTimeout)
	if failure := s.write(ctx, PhaseMail, b, s.cfg.CommandTimeout); failure != nil {
		return failure
	}
	s.stats.roundTrips.Add(1)
	// The first refusal is the reason; those behind it follow from it.
	var reason *Error
	for i, phase := range [...]string{PhaseMail, PhaseRcpt, PhaseData} {
		s.arm(ctx, s.cfg.CommandTimeout)
		r, failure := s.reply(ctx, phase, s.cfg.CommandTimeout)
		if failure != nil {
			s.cutOff(i, failure)
			return firstOf(reason, failure)
		}
		if s.debug(ctx) {
			s.log(ctx, strings.Split(string(b), "\r\n")[i], r.code, r.text)
		}
		ok := r.code == 250
		switch phase {
		case PhaseRcpt:
			ok = r.code/10 == 25
		case PhaseData:
			ok = r.code == 354
		}
		switch {
		case ok && phase == PhaseMail:
			s.dirty = true
		case ok && phase == PhaseData && reason != nil:
			// It wants the mail of a transaction that it refused. A lone dot
			// would deliver an empty one at some servers, so: no dot.
			s.broken = true
		case !ok && reason != nil && r.code >= 400:
			s.broken = s.broken || r.code == 421
		case !ok:
			refused := s.unexpected(phase, r)
			if refused.Code != 0 && phase == PhaseRcpt {
				refused.Recipient = to
			}
			// 503, so the group was refused, and not the mail.
			if refused.Code == 503 && strings.Contains(strings.ToLower(refused.Text), "pipelin") {
				s.stats.lockStep.Store(true)
			}
			reason = firstOf(reason, refused)
		}
		if s.broken { // 421, or out of step: nothing more to wait for
			return reason
		}
	}
	if reason == nil {
		s.stats.cutOff.Store(0)
	}
	return reason
}

func firstOf(a, b *Error) *Error {
	if a != nil {
		return a
	}
	return b
}

// cutOff notes that the answers to a group ended after n of them. A server
// that falls silent there has thrown the rest of the group away; one that
// hangs up may have been restarted, unless it does so again. From then on
// commands go one at a time.
func (s *session) cutOff(n int, failure *Error) {
	if n == 0 {
		return
	}
	if failure.Reason == ReasonTimeout || failure.Reason == ReasonClosed && s.stats.cutOff.Add(1) >= 2 {
		s.stats.lockStep.Store(true)
	}
}
