package fluxly

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/getfluxly/fluxly/internal/mimemail"
)

const (
	defaultPostmarkURL     = "https://api.postmarkapp.com"
	defaultPostmarkTimeout = 30 * time.Second
	defaultPostmarkConns   = 10

	// https://postmarkapp.com/developer/api/email-api#send-batch-emails
	maxPostmarkBatch      = 500
	maxPostmarkBatchBytes = 50_000_000
)

// PostmarkConfig is what [NewPostmark] needs. It prints without the token.
type PostmarkConfig struct {
	// ServerToken is the Server API token, from the API Tokens tab of the
	// server. An account token cannot send. With "POSTMARK_API_TEST" Postmark
	// checks each request and sends nothing.
	ServerToken string `json:"-"`
	// MessageStream is the id of the stream for messages that name none, such
	// as "lifecycle-production". It is required, because Postmark sends mail
	// that names none on the transactional stream "outbound", where lifecycle
	// mail does not belong; name "outbound" to mean it.
	MessageStream string
	// Transactional says that MessageStream is meant to be a transactional
	// one; [Postmark.Verify] refuses it otherwise.
	Transactional bool
	// BaseURL is where the API is; "https://api.postmarkapp.com" when empty.
	// It must be https, except on a loopback address.
	BaseURL string
	// HTTPClient makes the requests; nil means one of the sender's own, with
	// the proxy of the environment. It is copied. Redirects are never
	// followed, because the token would travel along.
	HTTPClient *http.Client `json:"-"`
	// Timeout is for one request, with the reading of its reply; 30 s when
	// zero.
	Timeout time.Duration
	// MaxConns bounds the connections of the sender's own HTTP client; 10 when
	// zero.
	MaxConns int
	// Logger hears of repeated requests, at debug level. Nil means silence.
	Logger *slog.Logger `json:"-"`
}

// Format prints the settings without the token, whatever the verb.
func (c PostmarkConfig) Format(f fmt.State, _ rune) {
	token := ""
	if c.ServerToken != "" {
		token = redacted
	}
	_, _ = fmt.Fprintf(f, "{ServerToken:%s MessageStream:%s Transactional:%t BaseURL:%s Timeout:%s MaxConns:%d}",
		token, c.MessageStream, c.Transactional, c.BaseURL, c.Timeout, c.MaxConns)
}

// LogValue gives slog the settings without the token.
func (c PostmarkConfig) LogValue() slog.Value {
	return slog.GroupValue(
		slog.Any("server_token", NewSecret(c.ServerToken)), slog.String("message_stream", c.MessageStream),
		slog.Bool("transactional", c.Transactional), slog.String("base_url", c.BaseURL),
		slog.Duration("timeout", c.Timeout), slog.Int("max_conns", c.MaxConns),
	)
}

// Postmark is a [Sender] over Postmark's HTTP API. Unlike SMTP, where Postmark
// takes every mail and refuses it later, the API says at once when a recipient
// is suppressed, a stream does not exist or From is not verified; it takes
// batches, and it can be asked for a mail whose reply was lost. It is a
// [BatchSender] and a [LookupSender], and may be used from many goroutines.
//
// A request to send is repeated only when it never left this machine or when
// Postmark answered 429; Postmark has no idempotency key, so a reply that got
// lost is [Unknown].
type Postmark struct {
	api           *postmarkAPI
	stream        string
	transactional bool
}

var (
	_ BatchSender  = (*Postmark)(nil)
	_ LookupSender = (*Postmark)(nil)
)

// NewPostmark checks the settings and makes a sender; it sends nothing. See
// [Postmark.Verify] for a check against Postmark itself. The error is a
// [*FieldError] and never holds the token.
func NewPostmark(cfg PostmarkConfig) (*Postmark, error) {
	api, err := newPostmarkAPI(cfg)
	if err != nil {
		return nil, err
	}
	if cfg.MessageStream == "" {
		return nil, errNoStream()
	}
	if err := checkStreamID(cfg.MessageStream); err != nil {
		return nil, err
	}
	return &Postmark{api: api, stream: cfg.MessageStream, transactional: cfg.Transactional}, nil
}

// MessageStream is the id of the stream for messages that name none.
func (p *Postmark) MessageStream() string { return p.stream }

// Close lets go of idle connections of the sender's own; one that was given in
// HTTPClient is left alone. Mails may still be sent after it.
func (p *Postmark) Close() error {
	p.api.closeIdle()
	return nil
}

// Send hands one mail over by POST /email. The error is a [*DeliveryError]; for
// a message that cannot be sent at all it wraps a [*FieldError].
func (p *Postmark) Send(ctx context.Context, m *Message) (Receipt, error) {
	body, err := p.encode(m)
	if err != nil {
		return Receipt{}, p.api.unfit(err)
	}
	reply, err := p.api.call(ctx, http.MethodPost, "/email", body)
	if err != nil {
		var de *DeliveryError
		if errors.As(err, &de) && de.ProviderCode == postmarkInactive {
			de.Recipient = addressOf(m.To)
		}
		return Receipt{}, err
	}
	var e postmarkEnvelope
	if err := reply.decode(&e); err != nil {
		return Receipt{}, p.api.unreadable(reply, err)
	}
	return p.api.outcome(reply, &e, addressOf(m.To))
}

// SendBatch hands mails over by POST /email/batch, 500 in a request. Each mail
// has its own result. After a failure that further mails would meet too (see
// [DeliveryError.Account]) the rest is not tried and gets the same error.
func (p *Postmark) SendBatch(ctx context.Context, ms []*Message) []Result {
	results := make([]Result, len(ms))
	b := postmarkBatch{p: p, ms: ms, results: results}
	for i, m := range ms {
		body, err := p.encode(m)
		if err != nil {
			results[i].Err = p.api.unfit(err)
			continue
		}
		if len(b.index) == maxPostmarkBatch || b.body.Len()+len(body)+2 > maxPostmarkBatchBytes {
			b.flush(ctx)
		}
		b.add(i, body)
	}
	b.flush(ctx)
	return results
}

// postmarkBatch gathers the mails of one request.
type postmarkBatch struct {
	p       *Postmark
	ms      []*Message
	results []Result
	// index says which of ms the mails of the request are.
	index []int
	body  bytes.Buffer
	// stop is the failure after which nothing more is tried.
	stop *DeliveryError
}

func (b *postmarkBatch) add(i int, body []byte) {
	if len(b.index) == 0 {
		b.body.WriteByte('[')
	} else {
		b.body.WriteByte(',')
	}
	b.body.Write(body)
	b.index = append(b.index, i)
}

func (b *postmarkBatch) flush(ctx context.Context) {
	if len(b.index) == 0 {
		return
	}
	b.body.WriteByte(']')
	b.send(ctx)
	b.index = b.index[:0]
	b.body.Reset()
}

func (b *postmarkBatch) send(ctx context.Context) {
	api := b.p.api
	if b.stop != nil {
		b.fail(b.stop)
		return
	}
	reply, err := api.call(ctx, http.MethodPost, "/email/batch", b.body.Bytes())
	if err != nil {
		var de *DeliveryError
		if errors.As(err, &de) && de.Kind == Permanent && !de.Account && len(b.index) > 1 {
			// Refused as a whole, so nothing was taken: let each mail have
			// its own answer, or one bad mail would take the others with it.
			for _, i := range b.index {
				b.results[i].Receipt, b.results[i].Err = b.p.Send(ctx, b.ms[i])
			}
			return
		}
		if errors.As(err, &de) && (de.Account || ctx.Err() != nil) {
			stop := *de
			// What is not tried is not unknown.
			stop.Kind = Temporary
			if de.Kind == Permanent {
				stop.Kind = Permanent
			}
			b.stop = &stop
		}
		b.fail(err)
		return
	}
	var items []postmarkEnvelope
	if err := reply.decode(&items); err != nil {
		b.fail(api.unreadable(reply, err))
		return
	}
	if len(items) != len(b.index) {
		b.fail(api.unreadable(reply, fmt.Errorf("%d results for a batch of %d", len(items), len(b.index))))
		return
	}
	for k, i := range b.index {
		b.results[i].Receipt, b.results[i].Err = api.outcome(reply, &items[k], addressOf(b.ms[i].To))
	}
}

func (b *postmarkBatch) fail(err error) {
	for _, i := range b.index {
		b.results[i].Err = err
	}
}

// Lookup asks Postmark for the mail of a send key, first on the sender's
// stream, then on the server's others. Postmark lists a mail some time after it
// took it (see [Postmark.LookupDelay]) and for 45 days, or as long as the
// server's retention says. The error is a [*DeliveryError] or a [*FieldError].
func (p *Postmark) Lookup(ctx context.Context, sendKey string) (Receipt, bool, error) {
	return p.api.lookup(ctx, sendKey, p.stream)
}

// LookupDelay is how long after a hand-over a "no" of [Postmark.Lookup] can be
// believed: one minute, which leaves Postmark time to list the mail.
func (p *Postmark) LookupDelay() time.Duration { return postmarkLookupDelay }

// Server asks Postmark what the token's server is set to.
func (p *Postmark) Server(ctx context.Context) (PostmarkServer, error) {
	return p.api.server(ctx)
}

// Verify asks Postmark whether this sender can work, and sends nothing: the
// token is known, and MessageStream exists, can send, and is a Broadcast stream
// (or Transactional was set). The error is a [*DeliveryError] when Postmark
// refused or was not reached, and a [*FieldError] when the stream is wrong.
func (p *Postmark) Verify(ctx context.Context) error {
	server, err := p.api.server(ctx)
	if err != nil {
		return err
	}
	return server.checkStream(p.stream, p.transactional)
}

// postmarkMail is the body of POST /email:
// https://postmarkapp.com/developer/api/email-api#send-a-single-email
type postmarkMail struct {
	From          string
	To            string
	ReplyTo       string `json:",omitempty"`
	Subject       string
	HTMLBody      string            `json:"HtmlBody,omitempty"`
	TextBody      string            `json:",omitempty"`
	MessageStream string            `json:",omitempty"`
	Tag           string            `json:",omitempty"`
	Metadata      map[string]string `json:",omitempty"`
	Headers       []postmarkHeader  `json:",omitempty"`
	TrackOpens    *bool             `json:",omitempty"` // Postmark's own: absent is not false
	TrackLinks    string            `json:",omitempty"`
}

type postmarkHeader struct{ Name, Value string }

// encode checks m and gives it as JSON.
func (p *Postmark) encode(m *Message) ([]byte, error) {
	mail, err := m.check(true)
	if err != nil {
		return nil, err
	}
	for _, f := range [...]struct{ name, value string }{{"text", m.Text}, {"html", m.HTML}} {
		if !utf8.ValidString(f.value) {
			return nil, fieldErrorf(f.name, "", "is not valid UTF-8, which JSON cannot carry")
		}
	}
	out := postmarkMail{
		From: mail.From.String(), To: mail.To.String(), Subject: m.Subject, HTMLBody: m.HTML, TextBody: m.Text,
		MessageStream: m.Stream, Tag: m.Tag, TrackLinks: string(m.TrackLinks),
	}
	if mail.ReplyTo != (mimemail.Mailbox{}) {
		out.ReplyTo = mail.ReplyTo.String()
	}
	if out.MessageStream == "" {
		out.MessageStream = p.stream
	}
	if m.SendKey != "" || len(m.Metadata) > 0 {
		out.Metadata = make(map[string]string, len(m.Metadata)+1)
		for k, v := range m.Metadata {
			out.Metadata[k] = v
		}
		if m.SendKey != "" {
			out.Metadata[sendKeyMetadata] = m.SendKey
		}
	}
	for _, h := range m.Headers {
		out.Headers = append(out.Headers, postmarkHeader(h))
	}
	if m.MessageID != "" {
		out.Headers = append(out.Headers,
			postmarkHeader{"Message-ID", "<" + m.MessageID + ">"}, postmarkHeader{"X-PM-KeepID", "true"})
	}
	if m.TrackOpens != OpensByServer {
		track := m.TrackOpens == OpensTracked
		out.TrackOpens = &track
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false) // it would make each tag of the HTML six bytes longer
	if err := enc.Encode(out); err != nil {
		return nil, err
	}
	body := bytes.TrimSuffix(buf.Bytes(), []byte("\n"))
	if len(body) > maxMailBytes {
		return nil, fieldErrorf("message", "", "is %d bytes as JSON, Postmark takes 10 MB; shorten the bodies", len(body))
	}
	return body, nil
}

// addressOf is the address of a mailbox without its name.
func addressOf(mailbox string) string {
	m, err := mimemail.ParseMailbox(mailbox)
	if err != nil {
		return mailbox
	}
	return m.Addr
}

// PostmarkServer is what a Postmark server is set to, as far as sending goes.
type PostmarkServer struct {
	ID   int64
	Name string
	// Sandbox is true for a server that delivers nothing.
	Sandbox bool
	// SMTP is false when the server's SMTP switch is off, so that no SMTP
	// login works.
	SMTP bool
	// SMTPErrorHooks is true when what Postmark refuses after it took it by
	// SMTP comes as a Bounce webhook.
	SMTPErrorHooks bool
	// Streams are all Message Streams, archived ones too.
	Streams []PostmarkStream
}

// PostmarkStream is one Message Stream.
type PostmarkStream struct {
	ID, Name string
	// Type is "Broadcasts", "Transactional" or "Inbound".
	Type     string
	Archived bool
	// Unsubscribe is who handles unsubscribes: "Postmark", "Custom" or "None".
	Unsubscribe string
}

// Broadcast reports whether this is a Broadcast stream, where lifecycle mail
// belongs.
func (s PostmarkStream) Broadcast() bool {
	return strings.EqualFold(s.Type, "Broadcasts") || strings.EqualFold(s.Type, "Broadcast")
}

// Stream finds a stream by its id.
func (s PostmarkServer) Stream(id string) (PostmarkStream, bool) {
	for _, st := range s.Streams {
		if st.ID == id {
			return st, true
		}
	}
	return PostmarkStream{}, false
}

// checkStream says what is wrong with sending lifecycle mail to a stream.
func (s PostmarkServer) checkStream(id string, transactional bool) error {
	st, ok := s.Stream(id)
	switch {
	case !ok:
		var have []string
		for _, o := range s.Streams {
			if !o.Archived && !strings.EqualFold(o.Type, "Inbound") {
				have = append(have, o.ID+" ("+o.Type+")")
			}
		}
		return fieldErrorf("MessageStream", id, "does not exist on the Postmark server %q, which has %s; create it there or correct the id",
			clip(s.Name, 64), clip(strings.Join(have, ", "), 500))
	case st.Archived:
		return fieldErrorf("MessageStream", id, "is archived; restore it in Postmark or take another")
	case strings.EqualFold(st.Type, "Inbound"):
		return fieldErrorf("MessageStream", id, "is an inbound stream, which cannot send; take a Broadcast stream")
	case !st.Broadcast() && !transactional:
		return fieldErrorf("MessageStream", id, "is a stream of type %s; lifecycle mail belongs on a Broadcast stream. Create one in Postmark, or set Transactional if these mails are receipts, alerts and the like",
			clip(st.Type, 64))
	}
	return nil
}
