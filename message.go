package fluxly

import "time"

// Message is one mail to one person, ready to be handed to a [Sender].
// The engine makes one Message per recipient, never a list: over SMTP one
// transaction is one Postmark message, so recipients that share a message
// share its fate.
type Message struct {
	// SendKey names the mail for good: run, step and visit. It travels as the
	// Postmark metadata field "send_key" so that a lost reply can be settled
	// by asking. Empty for mails that no run sends.
	SendKey string `json:"send_key,omitempty"`
	// MessageID is the RFC 5322 Message-ID without angle brackets. The engine
	// derives it from the SendKey, so it is the same on each try. A sender
	// makes one when it is empty.
	MessageID string `json:"message_id,omitempty"`
	// Date is the Date header; a sender takes the present when it is zero.
	Date time.Time `json:"date,omitzero"`
	// From, To and ReplyTo are RFC 5322 mailboxes, such as
	// "Acme <hello@acme.test>". To is exactly one mailbox; ReplyTo may be
	// empty.
	From    string `json:"from"`
	To      string `json:"to"`
	ReplyTo string `json:"reply_to,omitempty"`
	Subject string `json:"subject"`
	// HTML and Text are the two bodies as UTF-8; one may be empty, not both.
	HTML string `json:"html,omitempty"`
	Text string `json:"text,omitempty"`
	// Headers are further header fields, such as List-Unsubscribe. The fields
	// that the sender writes itself (From, To, Subject, Date, Message-ID, the
	// MIME fields, X-PM-*) are refused here.
	Headers []Header `json:"headers,omitempty"`
	// Stream is the Postmark Message Stream; a sender may have a default.
	Stream string `json:"stream,omitempty"`
	// Tag is Postmark's tag, at most 1,000 characters.
	Tag string `json:"tag,omitempty"`
	// Metadata are Postmark's metadata fields: at most 10 with SendKey's, keys
	// up to 20 characters, values up to 80.
	Metadata map[string]string `json:"metadata,omitempty"`
	// TrackOpens and TrackLinks ask Postmark for tracking; the zero values
	// leave the server's setting as it is.
	TrackOpens OpenTracking `json:"track_opens,omitempty"`
	TrackLinks LinkTracking `json:"track_links,omitempty"`
}

// Header is one header field of a mail.
type Header struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// OpenTracking is Postmark's open tracking for one mail.
type OpenTracking string

// The values of X-PM-TrackOpens. OpensUntracked cannot undo a server setting
// that tracks all opens:
// https://postmarkapp.com/developer/user-guide/tracking-opens/tracking-opens-per-email
const (
	OpensByServer  OpenTracking = ""
	OpensTracked   OpenTracking = "true"
	OpensUntracked OpenTracking = "false"
)

// LinkTracking is Postmark's link tracking for one mail.
type LinkTracking string

// The values of X-PM-TrackLinks.
const (
	LinksByServer    LinkTracking = ""
	LinksUntracked   LinkTracking = "None"
	LinksHTMLAndText LinkTracking = "HtmlAndText"
	LinksHTMLOnly    LinkTracking = "HtmlOnly"
	LinksTextOnly    LinkTracking = "TextOnly"
)
