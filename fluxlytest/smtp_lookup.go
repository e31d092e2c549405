package fluxlytest

import (
	"context"

	"github.com/getfluxly/fluxly"
)

// LookupSender puts the sender that hands mail to this server together with
// the server's own memory: what [fluxly.LookupSender] gets from Postmark's
// search by metadata. A mail whose reply was lost is then settled, also over
// a kill and a restart when the server keeps its mails in a folder.
func (s *PostmarkSMTP) LookupSender(sender fluxly.Sender) fluxly.LookupSender {
	return serverLookup{Sender: sender, server: s}
}

type serverLookup struct {
	fluxly.Sender
	server *PostmarkSMTP
}

// Lookup finds the first mail that the server accepted under the send key.
func (l serverLookup) Lookup(ctx context.Context, sendKey string) (fluxly.Receipt, bool, error) {
	if err := ctx.Err(); err != nil {
		return fluxly.Receipt{}, false, context.Cause(ctx)
	}
	m, ok := l.server.Lookup(sendKey)
	if !ok {
		return fluxly.Receipt{}, false, nil
	}
	return fluxly.Receipt{ID: m.ID, At: m.At}, true, nil
}

// MessageStream is the sender's default stream, when it has one.
func (l serverLookup) MessageStream() string {
	if s, ok := l.Sender.(interface{ MessageStream() string }); ok {
		return s.MessageStream()
	}
	return ""
}
