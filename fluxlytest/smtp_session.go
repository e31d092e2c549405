package fluxlytest

import (
	"io"
	"slices"
	"strings"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
)

// session is one client's session, from EHLO to the end of the connection.
type session struct {
	srv  *PostmarkSMTP
	wire *wireConn

	loggedIn bool
	stream   string // of the stream token that logged in; else empty
	from     string
	to       []string
}

var _ smtp.AuthSession = (*session)(nil)

func (ss *session) authOffered() bool { return ss.wire.secure || ss.srv.cfg.AllowInsecureAuth }

// AuthMechanisms is what EHLO lists.
func (ss *session) AuthMechanisms() []string {
	if !ss.authOffered() {
		return nil
	}
	return []string{sasl.Plain}
}

// Auth begins a login.
func (ss *session) Auth(mech string) (sasl.Server, error) {
	if !ss.authOffered() {
		return nil, &smtp.SMTPError{Code: 530, EnhancedCode: smtp.EnhancedCode{5, 7, 0}, Message: "must issue a STARTTLS command first"}
	}
	if mech != sasl.Plain {
		return nil, smtp.ErrAuthUnknownMechanism
	}
	return sasl.NewPlainServer(func(identity, user, password string) error {
		if identity != "" && identity != user {
			return smtp.ErrAuthFailed
		}
		if user == ss.srv.Token && password == ss.srv.Token {
			ss.loggedIn = true
			return nil
		}
		for _, t := range ss.srv.cfg.StreamTokens {
			if user == t.AccessKey && password == t.SecretKey {
				ss.loggedIn, ss.stream = true, t.Stream
				return nil
			}
		}
		return smtp.ErrAuthFailed
	}), nil
}

// Mail begins a transaction.
func (ss *session) Mail(from string, _ *smtp.MailOptions) error {
	if !ss.loggedIn {
		return &smtp.SMTPError{Code: 530, EnhancedCode: smtp.EnhancedCode{5, 7, 0}, Message: "authentication required"}
	}
	ss.from, ss.to = strings.ToValidUTF8(from, "\uFFFD"), nil
	return nil
}

// Rcpt takes every recipient: at Postmark nothing about a mail is refused over
// SMTP.
func (ss *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	ss.to = append(ss.to, strings.ToValidUTF8(to, "\uFFFD"))
	return nil
}

// Data takes the mail.
func (ss *session) Data(r io.Reader) error {
	if f, ok := ss.srv.fault(SMTPCommand{Phase: AtBody, Conn: ss.wire.n}); ok {
		if err := ss.wire.strike(AtBody, f); err != nil {
			return err
		}
	}
	raw, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	m := PostmarkMail{
		ID: newUUID(), At: ss.srv.cfg.Now(), Conn: ss.wire.n, Secure: ss.wire.secure,
		From: ss.from, To: slices.Clone(ss.to), Raw: raw,
	}
	m.parse()

	f, struck := ss.srv.fault(SMTPCommand{Phase: AtReply, Conn: ss.wire.n, Mail: m})
	ends := struck && (refuses(f.Reply) || f.Reply == "" && (f.Drop || f.Silent))
	if struck && f.Store {
		if err := ss.srv.accept(m, ss.stream); err != nil {
			return spoolError(err)
		}
	}
	if struck {
		if err := ss.wire.strike(AtReply, f); err != nil {
			return err
		}
		ss.wire.replace = f
	}
	if !ends && !f.Store {
		if err := ss.srv.accept(m, ss.stream); err != nil {
			return spoolError(err)
		}
	}
	// go-smtp has one fixed text for success; this is how to say another.
	return &smtp.SMTPError{Code: 250, EnhancedCode: smtp.EnhancedCode{2, 0, 0}, Message: "OK: queued as " + m.ID}
}

func spoolError(err error) error {
	return &smtp.SMTPError{Code: 451, EnhancedCode: smtp.EnhancedCode{4, 3, 0}, Message: err.Error()}
}

// Reset ends a transaction.
func (ss *session) Reset() { ss.from, ss.to = "", nil }

// Logout ends the session.
func (ss *session) Logout() error { return nil }
