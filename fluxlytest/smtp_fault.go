package fluxlytest

import "slices"

// SMTPPhase is a point of an SMTP session at which a fault can strike. The
// names are those of [fluxly.DeliveryError]'s Phase.
type SMTPPhase string

// The points, in the order in which a session passes them.
const (
	// AtGreeting is before the first line that the server says.
	AtGreeting SMTPPhase = "greeting"
	AtEHLO     SMTPPhase = "ehlo"
	AtSTARTTLS SMTPPhase = "starttls"
	AtAUTH     SMTPPhase = "auth"
	AtMAIL     SMTPPhase = "mail"
	AtRCPT     SMTPPhase = "rcpt"
	AtDATA     SMTPPhase = "data"
	// AtBody is after the 354, before any byte of the body is read. A Silent
	// fault stops reading here; a Reply is not possible.
	AtBody SMTPPhase = "body"
	// AtReply is after the final dot, before it is answered.
	AtReply SMTPPhase = "reply"
	// AtOther is any other command, such as NOOP, RSET and QUIT.
	AtOther SMTPPhase = "other"
)

// Fault is one misbehaviour of the server. What is set happens in the order of
// the fields.
type Fault struct {
	// At is where the fault strikes; not looked at when a hook returns it.
	At SMTPPhase
	// Skip lets so many passes of At go by first.
	Skip int
	// Times is how often the fault strikes. 0 means once.
	Times int
	// Store, at AtReply, accepts and keeps the mail before the rest happens:
	// with Drop this is the reply that got lost.
	Store bool
	// Hold, when set, makes the server wait until the channel is closed or
	// receives; with nothing further set, the server then goes on as if
	// nothing had been. It also ends with the connection and with the server.
	Hold <-chan struct{}
	// Reply is sent instead of the server's own reply: whole lines with code,
	// separated by "\n". A refusal (4xx or 5xx) keeps the command from the
	// server; after 421 and after a refusing greeting the connection is
	// closed. Any other code replaces the text of what the server would say.
	Reply string
	// Drop closes the connection, without a reply when there is no Reply.
	Drop bool
	// Silent says nothing more on this connection: the server reads (except
	// at AtBody) and never answers.
	Silent bool
}

// SMTPCommand is what a hook is told.
type SMTPCommand struct {
	// Phase is the point that the connection reached.
	Phase SMTPPhase
	// Line is the command as the client sent it, without the line end; only
	// the mechanism of AUTH. Empty at AtGreeting, AtBody and AtReply.
	Line string
	// Conn numbers the connections from 1.
	Conn int
	// Mail is what the final dot ended, at AtReply.
	Mail PostmarkMail
}

// FailNext puts faults in line. Each waits for its own point, whichever
// connection reaches it; faults for the same point strike one after another.
func (s *PostmarkSMTP) FailNext(faults ...Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, faults...)
}

// fault says whether a fault strikes.
func (s *PostmarkSMTP) fault(cmd SMTPCommand) (Fault, bool) {
	s.mu.Lock()
	for i := range s.faults {
		f := &s.faults[i]
		if f.At != cmd.Phase {
			continue
		}
		if f.Skip > 0 {
			f.Skip--
			break
		}
		struck := *f
		if f.Times--; f.Times <= 0 {
			s.faults = slices.Delete(s.faults, i, i+1)
		}
		s.mu.Unlock()
		return struck, true
	}
	s.mu.Unlock()
	if s.cfg.Hook != nil {
		return s.cfg.Hook(cmd)
	}
	return Fault{}, false
}
