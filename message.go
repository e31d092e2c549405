package fluxly

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/getfluxly/fluxly/internal/mimemail"
)

// Message is one mail to one person, ready to be handed to a [Sender].
// The engine makes one Message per recipient, never a list: over SMTP one
// transaction is one Postmark message, so recipients that share a message
// share its fate.
type Message struct {
	// SendKey names the mail for good: run, step and visit. It travels as the
	// Postmark metadata field "send_key" so that a lost reply can be settled
	// by asking. Empty for mails that no run sends; else at most 80 visible
	// ASCII characters.
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

// Limits of Postmark. A megabyte is taken as 1,000,000 bytes, as Postmark does
// not say which it means, and over SMTP a mail that is too large is accepted
// first and dropped afterwards.
const (
	maxAddressChars  = 255
	maxSubjectChars  = 2000
	maxTagChars      = 1000
	maxMetadata      = 10
	maxMetadataKey   = 20
	maxMetadataValue = 80
	maxStreamID      = 30
	maxBodyBytes     = 5_000_000
	maxMailBytes     = 10_000_000
)

// sendKeyMetadata is the metadata field that carries the send key.
const sendKeyMetadata = "send_key"

// AppendTo appends the mail to dst byte for byte as the Postmark SMTP sender
// hands it over, with the header fields that Postmark takes away, and returns
// the longer slice. It is what a preview shows. A Stream that the sender would
// fill in is not known here; the engine always sets one. When Date is zero the present
// is written; when both MessageID and SendKey are empty the Message-ID is
// random. The error is a [*FieldError], and dst then comes back as it was.
func (m *Message) AppendTo(dst []byte) ([]byte, error) {
	dst, _, err := m.compose(dst, mailOptions{postmark: true, now: time.Now()})
	return dst, err
}

// mailOptions is what a sender adds to a Message.
type mailOptions struct {
	// postmark asks for the X-PM-* fields and for Postmark's address rules.
	postmark bool
	// stream is written when the message names none.
	stream string
	// omitStream leaves X-PM-Message-Stream out, for credentials that are
	// bound to one stream.
	omitStream bool
	// now is the Date of a message that has none.
	now time.Time
}

// compose checks m and appends it to dst as a whole mail; the mail that comes
// back has the addresses for the envelope. On error dst comes back as it was.
func (m *Message) compose(dst []byte, o mailOptions) ([]byte, mimemail.Mail, error) {
	mail, err := m.mail(o)
	if err != nil {
		return dst, mail, err
	}
	out, err := mimemail.Append(dst, &mail)
	if err != nil {
		return dst, mail, mailFieldError("", err)
	}
	if n := len(out) - len(dst); n > maxMailBytes {
		return dst, mail, fieldErrorf("message", "", "is %d bytes as composed, Postmark takes 10 MB; shorten the bodies", n)
	}
	return out, mail, nil
}

// mail checks m and gives it in the composer's terms.
func (m *Message) mail(o mailOptions) (mimemail.Mail, error) {
	stream := m.Stream
	if stream == "" {
		stream = o.stream
	}
	mail, err := m.check(o.postmark)
	if err != nil {
		return mail, err
	}
	if stream != m.Stream {
		if err := checkStreamID(stream); err != nil {
			return mail, err
		}
	}
	mail.Subject, mail.Text, mail.HTML = m.Subject, m.Text, m.HTML
	if mail.Date = m.Date; mail.Date.IsZero() {
		mail.Date = o.now
	}
	switch {
	case m.MessageID != "":
		mail.MessageID = m.MessageID
	case m.SendKey != "":
		mail.MessageID = messageIDFor(m.SendKey, mail.From.Domain())
	default:
		mail.MessageID = rand.Text() + "@" + mail.From.Domain()
	}
	mail.Fields = make([]mimemail.Field, 0, len(m.Headers)+len(m.Metadata)+6)
	for _, h := range m.Headers {
		mail.Fields = append(mail.Fields, mimemail.Field(h))
	}
	if !o.postmark {
		return mail, nil
	}
	add := func(name, value string) {
		if value != "" {
			mail.Fields = append(mail.Fields, mimemail.Field{Name: name, Value: value})
		}
	}
	if !o.omitStream {
		add("X-PM-Message-Stream", stream)
	}
	add("X-PM-Tag", m.Tag)
	add("X-PM-Metadata-"+sendKeyMetadata, m.SendKey)
	for _, k := range m.metadataKeys(make([]string, 0, maxMetadata)) {
		mail.Fields = append(mail.Fields, mimemail.Field{Name: "X-PM-Metadata-" + k, Value: m.Metadata[k]})
	}
	add("X-PM-TrackOpens", string(m.TrackOpens))
	add("X-PM-TrackLinks", string(m.TrackLinks))
	if m.MessageID != "" {
		add("X-PM-KeepID", "true")
	}
	return mail, nil
}

// metadataKeys appends the keys in order, so that the same message always
// gives the same bytes.
func (m *Message) metadataKeys(dst []string) []string {
	for k := range m.Metadata {
		dst = append(dst, k)
	}
	slices.Sort(dst)
	return dst
}

// messageIDFor derives a Message-ID from the send key, so that each try of one
// mail has the same.
func messageIDFor(sendKey, domain string) string {
	sum := sha256.Sum256([]byte(sendKey))
	var b [32]byte
	hex.Encode(b[:], sum[:16])
	return string(b[:]) + "@" + domain
}

// check says whether m can be handed over at all, before any byte of it goes
// out: Postmark refuses what is over its limits only after it took the mail,
// when that comes by SMTP. The mail that comes back has the addresses. With
// postmark set, addresses that Postmark refuses are refused here. The error is
// a *FieldError.
func (m *Message) check(postmark bool) (mail mimemail.Mail, err error) {
	if mail.From, err = checkMailbox("from", m.From, postmark); err != nil {
		return mail, err
	}
	if mail.To, err = checkMailbox("to", m.To, postmark); err != nil {
		return mail, err
	}
	if m.ReplyTo != "" {
		if mail.ReplyTo, err = checkMailbox("reply_to", m.ReplyTo, postmark); err != nil {
			return mail, err
		}
	}
	if n := chars(m.Subject); n > maxSubjectChars {
		return mail, fieldErrorf("subject", m.Subject, "has %d characters, at most 2,000 go", n)
	}
	if err := checkText("subject", m.Subject); err != nil {
		return mail, err
	}
	if m.Text == "" && m.HTML == "" {
		return mail, fieldErrorf("text", "", "text and html are both empty, give at least one")
	}
	if n := len(m.Text); n > maxBodyBytes {
		return mail, fieldErrorf("text", "", "has %d bytes, Postmark takes 5 MB", n)
	}
	if n := len(m.HTML); n > maxBodyBytes {
		return mail, fieldErrorf("html", "", "has %d bytes, Postmark takes 5 MB", n)
	}
	if m.MessageID != "" {
		if err := mimemail.CheckMessageID(m.MessageID); err != nil {
			return mail, mailFieldError("message_id", err)
		}
	}
	if m.Stream != "" {
		if err := checkStreamID(m.Stream); err != nil {
			return mail, err
		}
	}
	if n := chars(m.Tag); n > maxTagChars {
		return mail, fieldErrorf("tag", m.Tag, "has %d characters, at most 1,000 go", n)
	}
	if err := checkText("tag", m.Tag); err != nil {
		return mail, err
	}
	if err := m.checkMetadata(); err != nil {
		return mail, err
	}
	switch m.TrackOpens {
	case OpensByServer, OpensTracked, OpensUntracked:
	default:
		return mail, fieldErrorf("track_opens", string(m.TrackOpens), `is none of "true", "false" and empty`)
	}
	switch m.TrackLinks {
	case LinksByServer, LinksUntracked, LinksHTMLAndText, LinksHTMLOnly, LinksTextOnly:
	default:
		return mail, fieldErrorf("track_links", string(m.TrackLinks), "is none of None, HtmlAndText, HtmlOnly, TextOnly and empty")
	}
	return mail, m.checkHeaders()
}

func checkMailbox(field, value string, postmark bool) (mimemail.Mailbox, error) {
	if n := chars(value); n > maxAddressChars {
		return mimemail.Mailbox{}, fieldErrorf(field, value, "has %d characters with the name, at most 255 go", n)
	}
	mb, err := mimemail.ParseMailbox(value)
	if err != nil {
		return mb, mailFieldError(field, err)
	}
	if local := mb.Addr[:strings.LastIndexByte(mb.Addr, '@')]; postmark && strings.ContainsAny(local, `"?`) {
		return mb, fieldErrorf(field, value, "Postmark refuses quotes and question marks before the @: "+
			"https://postmarkapp.com/support/article/1180-what-does-errorcode-300-mean")
	}
	return mb, nil
}

func (m *Message) checkMetadata() error {
	n := len(m.Metadata)
	if m.SendKey != "" {
		n++
		if len(m.SendKey) > maxMetadataValue {
			return fieldErrorf("send_key", m.SendKey, "has %d bytes, at most 80 go as Postmark metadata; shorten the names in it", len(m.SendKey))
		}
		for i := range len(m.SendKey) {
			if c := m.SendKey[i]; c <= ' ' || c >= 0x7F {
				return fieldErrorf("send_key", m.SendKey, "may hold visible ASCII only, so that the mail can be found by it")
			}
		}
	}
	if n > maxMetadata {
		return fieldErrorf("metadata", "", "has %d fields with send_key, Postmark takes 10", n)
	}
	for _, k := range m.metadataKeys(make([]string, 0, maxMetadata)) {
		field := "metadata." + clip(k, 64)
		switch {
		case k == "":
			return fieldErrorf("metadata", "", "has a field with an empty name")
		case strings.EqualFold(k, sendKeyMetadata):
			return fieldErrorf(field, m.Metadata[k], "is set from SendKey; give it there")
		case chars(k) > maxMetadataKey:
			return fieldErrorf(field, k, "the name has %d characters, Postmark takes 20", chars(k))
		case chars(m.Metadata[k]) > maxMetadataValue:
			return fieldErrorf(field, m.Metadata[k], "has %d characters, Postmark takes 80", chars(m.Metadata[k]))
		}
		for i := range len(k) {
			if c := k[i]; c <= ' ' || c >= 0x7F || c == ':' {
				return fieldErrorf(field, k, "the name may hold visible ASCII without colon and blanks only, as it becomes part of a header field's name")
			}
		}
		for other := range m.Metadata {
			if other != k && strings.EqualFold(other, k) {
				return fieldErrorf(field, k, "differs from %q only in case, Postmark compares names without case", clip(other, 64))
			}
		}
		if err := checkText(field, m.Metadata[k]); err != nil {
			return err
		}
	}
	return nil
}

func (m *Message) checkHeaders() error {
	unsubscribe, post := -1, -1
	for i, h := range m.Headers {
		field := "headers." + clip(h.Name, 64)
		if len(h.Name) >= 5 && strings.EqualFold(h.Name[:5], "X-PM-") {
			return fieldErrorf(field, h.Value, "X-PM- fields are set from Stream, Tag, Metadata, TrackOpens, TrackLinks and MessageID; give it there")
		}
		if err := mimemail.CheckField(mimemail.Field(h)); err != nil {
			return mailFieldError(field, err)
		}
		for _, other := range m.Headers[:i] {
			if strings.EqualFold(other.Name, h.Name) {
				return fieldErrorf(field, h.Value, "is given twice")
			}
		}
		switch {
		case strings.EqualFold(h.Name, "List-Unsubscribe"):
			unsubscribe = i
		case strings.EqualFold(h.Name, "List-Unsubscribe-Post"):
			post = i
		}
	}
	if post < 0 {
		return nil
	}
	// RFC 8058 section 3.1.
	if v := m.Headers[post].Value; v != "List-Unsubscribe=One-Click" {
		return fieldErrorf("headers.List-Unsubscribe-Post", v, "the only value that RFC 8058 knows is List-Unsubscribe=One-Click")
	}
	if unsubscribe < 0 {
		return fieldErrorf("headers.List-Unsubscribe-Post", "", "needs a List-Unsubscribe header with an https address")
	}
	if v := m.Headers[unsubscribe].Value; !hasHTTPSURI(v) {
		return fieldErrorf("headers.List-Unsubscribe", v, "with List-Unsubscribe-Post it needs an https address in angle brackets, such as <https://example.com/unsubscribe/token>")
	}
	return nil
}

// hasHTTPSURI reports whether a List-Unsubscribe value names an https address.
func hasHTTPSURI(v string) bool {
	for v != "" {
		open := strings.IndexByte(v, '<')
		if open < 0 {
			return false
		}
		end := strings.IndexByte(v[open:], '>')
		if end < 0 {
			return false
		}
		uri := v[open+1 : open+end]
		if len(uri) > len("https://") && strings.EqualFold(uri[:len("https://")], "https://") {
			return true
		}
		v = v[open+end:]
	}
	return false
}

// checkStreamID checks the form of a Message Stream's id.
func checkStreamID(id string) error {
	ok := id != "" && len(id) <= maxStreamID && id[0] >= 'a' && id[0] <= 'z'
	for i := 0; ok && i < len(id); i++ {
		c := id[i]
		ok = c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_'
	}
	if !ok {
		return fieldErrorf("stream", id, "is no id of a Message Stream: at most 30 of a-z, 0-9, - and _, with a letter first; "+
			"take the id, not the name, from the stream's page in Postmark")
	}
	return nil
}

// checkText refuses what cannot stand in a header field.
func checkText(field, value string) error {
	if err := mimemail.CheckText(value); err != nil {
		return mailFieldError(field, err)
	}
	return nil
}

// mailFieldError turns an error of the composer into a *FieldError.
func mailFieldError(field string, err error) error {
	var e *mimemail.Error
	if !errors.As(err, &e) {
		return err
	}
	if field == "" {
		field = strings.ToLower(e.Field)
	}
	return fieldErrorf(field, e.Value, "%s", e.Reason)
}

// chars counts s as Postmark does: UTF-16 units.
func chars(s string) int {
	n := 0
	for _, r := range s {
		if n++; r > 0xFFFF {
			n++
		}
	}
	return n
}
