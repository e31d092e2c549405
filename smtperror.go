package fluxly

import (
	"strings"

	"github.com/getfluxly/fluxly/internal/smtppool"
)

// remedy says what to do about a failure, where it is known.
func (s *SMTPSender) remedy(e *smtppool.Error) string {
	switch e.Reason {
	case smtppool.ReasonAuth:
		return s.authRemedy()
	case smtppool.ReasonNoHost:
		return s.hostRemedy()
	case smtppool.ReasonRefused:
		return s.reachRemedy()
	case smtppool.ReasonTimeout:
		switch {
		case e.Phase == smtppool.PhaseGreeting && s.port == 465 && s.mode == TLSStartTLS:
			return "port 465 expects TLS from the first byte: set TLS to TLSImplicit, or use port 587"
		case e.Phase == smtppool.PhaseDial, e.Phase == smtppool.PhaseGreeting:
			return s.reachRemedy()
		}
	case smtppool.ReasonClosed, smtppool.ReasonOther:
		if e.Phase == smtppool.PhaseDial || e.Phase == smtppool.PhaseGreeting {
			return s.reachRemedy()
		}
	case smtppool.ReasonNoSTARTTLS:
		return "nothing secret was sent; use the port for submission, 587, and look for a proxy or firewall on the way that takes STARTTLS out"
	case smtppool.ReasonNotTLS:
		if s.mode == TLSImplicit {
			return "the port does not begin with TLS: set TLS to TLSStartTLS, usually with port 587"
		}
		return "nothing secret was sent; something on the way answers in the server's place"
	case smtppool.ReasonTLSVersion:
		return "the server must speak TLS 1.2 or later"
	case smtppool.ReasonCertName:
		return "nothing secret was sent; set Host to a name that the certificate is for, or find out who answers in the server's place"
	case smtppool.ReasonCertExpired:
		return "nothing secret was sent; the server's certificate must be renewed, or this machine's clock is wrong"
	case smtppool.ReasonCertUnknown:
		return "nothing secret was sent; if the server is your own, put its authority into RootCAs, else find out who answers in its place"
	case smtppool.ReasonInjection:
		return "nothing secret was sent; somebody on the way tampers with the connection"
	case smtppool.ReasonNoAuth:
		return "use the server's port for submission, 587, or ask its operator to offer AUTH PLAIN over TLS"
	case smtppool.ReasonNotLoopback:
		return "set TLS to TLSStartTLS"
	case smtppool.ReasonTooBig:
		return "make the mail smaller"
	case smtppool.ReasonReply:
		return s.replyRemedy(e)
	default:
	}
	return ""
}

func (s *SMTPSender) authRemedy() string {
	switch {
	case s.postmark == nil:
		return "user name or password is wrong, or the account may not send; put the right ones into Username and Password"
	case s.postmark.bound:
		return "the SMTP token is wrong or was revoked: make a new one in the settings of the Message Stream, and put it into AccessKey and SecretKey"
	}
	return "the Server Token is wrong or was rotated, or SMTP is switched off for the server: take a fresh token from the API Tokens tab of the Postmark server; " +
		"over SMTP it is both user name and password, and an account token does not work"
}

func (s *SMTPSender) hostRemedy() string {
	if s.postmark != nil {
		return "confirm that the host is exactly " + PostmarkSMTPHost + " or " + PostmarkSMTPBroadcastHost + ", and that this machine can resolve names"
	}
	return "confirm the spelling of the host, and that this machine can resolve names"
}

func (s *SMTPSender) reachRemedy() string {
	if s.postmark != nil {
		return "confirm that the host is exactly " + PostmarkSMTPHost + " and the port 587 with STARTTLS; " +
			"some hosting platforms block outbound port 587 by default: ask yours to open it, or use port 2525"
	}
	return "confirm host and port, and that the server runs; some hosting platforms block outbound ports 25, 465 and 587 by default: ask yours to open them"
}

// replyRemedy is for refusals by the server.
func (s *SMTPSender) replyRemedy(e *smtppool.Error) string {
	text := strings.ToLower(e.Text)
	switch {
	case e.Code < 500:
		return ""
	case e.Phase == smtppool.PhaseEHLO && s.mode != TLSImplicit && e.Code != 500 && e.Code != 502:
		return "the server does not like this program's name in EHLO: set LocalName to a host name that resolves"
	case e.Phase == smtppool.PhaseMail && (e.Code == 550 || e.Code == 551 || e.Code == 553 || e.Code == 554 || strings.HasPrefix(e.Enhanced, "5.7.")),
		!isOpening(e) && (strings.Contains(text, "sender signature") || strings.Contains(text, "from address") || strings.Contains(text, "'from'") || strings.Contains(text, "sender address")):
		if s.postmark != nil {
			return "the address in From is not on a domain that is verified in Postmark: check the domain in Sender Signatures, and that its DKIM record shows as verified"
		}
		return "the server does not let this login send from the address in From: use one that belongs to it"
	}
	return ""
}

// isOpening reports whether a failure came before any mail.
func isOpening(e *smtppool.Error) bool {
	switch e.Phase {
	case smtppool.PhaseDial, smtppool.PhaseGreeting, smtppool.PhaseEHLO, smtppool.PhaseSTARTTLS, smtppool.PhaseAuth:
		return true
	}
	return false
}
