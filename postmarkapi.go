package fluxly

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-retryablehttp"
)

const (
	// postmarkTokenHeader carries a server token. The account token has another
	// header, and is of no use for sending.
	postmarkTokenHeader = "X-Postmark-Server-Token"

	postmarkRetries   = 2
	postmarkFirstWait = 250 * time.Millisecond
	// A longer wait is the business of the caller, who knows what else waits.
	postmarkMaxWait = 5 * time.Second
	// maxPostmarkReply is enough for the results of 500 mails.
	maxPostmarkReply = 8 << 20
)

// postmarkAPI makes the requests to Postmark's HTTP API, for [Postmark] and for
// whoever else holds a server token. It may be used from many goroutines.
type postmarkAPI struct {
	base, host   string
	token        Secret
	agent        string
	client       *http.Client
	ownTransport *http.Transport
	logger       *slog.Logger
	wait         func(try int) time.Duration
	now          func() time.Time
}

// newPostmarkAPI takes all of cfg that is not about streams.
func newPostmarkAPI(cfg PostmarkConfig) (*postmarkAPI, error) {
	if err := checkPostmarkToken("ServerToken", cfg.ServerToken); err != nil {
		return nil, err
	}
	base := defaultPostmarkURL
	if cfg.BaseURL != "" {
		base = strings.TrimRight(cfg.BaseURL, "/")
	}
	u, err := url.Parse(base)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return nil, fieldErrorf("BaseURL", "", "must be a plain address such as %s", defaultPostmarkURL)
	case u.Scheme == "https", u.Scheme == "http" && isLoopback(u.Hostname()):
	default:
		return nil, fieldErrorf("BaseURL", base, "must begin with https://, as the token would travel unprotected; http:// is for loopback addresses only")
	}
	if cfg.Timeout < 0 {
		return nil, fieldErrorf("Timeout", cfg.Timeout.String(), "is negative; leave it zero for %s", defaultPostmarkTimeout)
	}
	if cfg.MaxConns < 0 {
		return nil, fieldErrorf("MaxConns", "", "is negative; leave it zero for %d", defaultPostmarkConns)
	}
	a := &postmarkAPI{
		base: base, host: u.Host, token: NewSecret(cfg.ServerToken), agent: userAgent(), logger: cfg.Logger, now: time.Now,
		wait: func(try int) time.Duration {
			return time.Duration(float64(postmarkFirstWait<<try) * (0.75 + rand.Float64()/2))
		},
	}
	if a.logger == nil {
		a.logger = slog.New(slog.DiscardHandler)
	}
	hc := http.Client{}
	if cfg.HTTPClient != nil {
		hc = *cfg.HTTPClient
	} else {
		a.ownTransport = newTransport()
		conns := cfg.MaxConns
		if conns == 0 {
			conns = defaultPostmarkConns
		}
		a.ownTransport.MaxConnsPerHost, a.ownTransport.MaxIdleConnsPerHost = conns, conns
		hc.Transport = a.ownTransport
	}
	if hc.Transport == nil {
		hc.Transport = http.DefaultTransport
	}
	timeout := cfg.Timeout
	if timeout == 0 {
		timeout = defaultPostmarkTimeout
	}
	hc.Transport = &postmarkTransport{next: hc.Transport, timeout: timeout}
	// The client's own timeout would hide whether the request went out.
	hc.Timeout = 0
	hc.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	a.client = &hc
	return a, nil
}

// postmarkTryToken is a token with which Postmark checks requests and sends
// nothing: https://postmarkapp.com/developer/api/overview#authentication
const postmarkTryToken = "POSTMARK_API_TEST" //nolint:gosec // the same for everybody

// errNoServerToken says what a server token looks like.
func errNoServerToken(field string) error {
	return fieldErrorf(field, "", "is no Postmark server token: 36 characters such as xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx, "+
		"from the API Tokens tab of the server")
}

// errNoStream says why a stream must be named.
func errNoStream() error {
	return fieldErrorf("MessageStream", "", "is empty; mail that names no stream goes out on Postmark's default transactional stream outbound, "+
		"where lifecycle mail hurts the delivery of receipts and password resets; give the id of a Broadcast stream, such as lifecycle-production")
}

// checkPostmarkToken refuses what cannot be a server token; the value stays
// out of the error.
func checkPostmarkToken(field, token string) error {
	if token == "" {
		return fieldErrorf(field, "", "is empty; take the Server API token from the API Tokens tab of your server in Postmark")
	}
	for i := range len(token) {
		if token[i] <= ' ' || token[i] > '~' {
			return fieldErrorf(field, "", "holds a blank, a line break or another character that no token has; trim it where it is read")
		}
	}
	if strings.HasPrefix(token, "PM-") {
		return fieldErrorf(field, "", "looks like the access key of an SMTP token, which works over SMTP only; take the Server API token")
	}
	if token != postmarkTryToken && !isGUID(token) {
		return errNoServerToken(field)
	}
	return nil
}

func (a *postmarkAPI) closeIdle() {
	if a.ownTransport != nil {
		a.ownTransport.CloseIdleConnections()
	}
}

// postmarkTransport makes one try: it bounds its time, reads the reply to its
// end, and notes when the request cannot have gone out.
type postmarkTransport struct {
	next    http.RoundTripper
	timeout time.Duration
}

// unsentError is the failure of a request that never got a connection.
type unsentError struct{ err error }

func (e *unsentError) Error() string { return e.err.Error() }
func (e *unsentError) Unwrap() error { return e.err }

func (t *postmarkTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := req.Context().Err(); err != nil {
		return nil, &unsentError{err}
	}
	ctx, cancel := context.WithTimeoutCause(req.Context(), t.timeout, fmt.Errorf("no reply within %s", t.timeout))
	defer cancel()
	// Both are needed: a transport that knows no traces calls neither.
	var asked, got atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GetConn: func(string) { asked.Store(true) },
		GotConn: func(httptrace.GotConnInfo) { got.Store(true) },
	})
	resp, err := t.next.RoundTrip(req.WithContext(ctx))
	if err == nil {
		var body []byte
		body, err = io.ReadAll(io.LimitReader(resp.Body, maxPostmarkReply+1))
		_ = resp.Body.Close()
		if err == nil && len(body) > maxPostmarkReply {
			err = fmt.Errorf("the reply is larger than %d bytes", maxPostmarkReply)
		}
		if err == nil {
			resp.Body = io.NopCloser(bytes.NewReader(body))
			return resp, nil
		}
	}
	if cause := context.Cause(ctx); cause != nil && req.Context().Err() == nil {
		err = cause
	}
	if asked.Load() && !got.Load() {
		err = &unsentError{err}
	}
	return nil, err
}

// postmarkReply is a reply of which the body is in memory.
type postmarkReply struct {
	status int
	header http.Header
	body   []byte
}

// decode reads the body. A field of another type than documented is no reason
// to lose the rest.
func (r *postmarkReply) decode(v any) error {
	err := json.Unmarshal(r.body, v)
	var wrongType *json.UnmarshalTypeError
	if errors.As(err, &wrongType) && wrongType.Field != "" {
		return nil
	}
	return err
}

// call makes one request and gives the reply of a success; every error is a
// *DeliveryError. A POST, which sends mail, is repeated only when it never went
// out or was answered 429; a GET also after other failures.
func (a *postmarkAPI) call(ctx context.Context, method, path string, body []byte) (*postmarkReply, error) {
	var raw any
	if body != nil {
		raw = body
	}
	req, err := retryablehttp.NewRequestWithContext(ctx, method, a.base+path, raw)
	if err != nil {
		return nil, &DeliveryError{Kind: Permanent, Phase: "check", Host: a.host, Err: withoutURL(err)}
	}
	req.Header.Set(postmarkTokenHeader, a.token.Reveal())
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", a.agent)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	sends := method != http.MethodGet
	rc := &retryablehttp.Client{
		HTTPClient: a.client, RetryMax: postmarkRetries, ErrorHandler: retryablehttp.PassthroughErrorHandler,
		CheckRetry: func(ctx context.Context, resp *http.Response, err error) (bool, error) {
			return ctx.Err() == nil && a.mayRepeat(sends, resp, err), nil
		},
		Backoff: func(_, _ time.Duration, try int, resp *http.Response) time.Duration {
			wait := a.wait(try)
			if resp != nil {
				wait = max(wait, parseRetryAfter(resp.Header, a.now()))
			}
			a.logger.Debug("postmark request is repeated", "method", method, "try", try+1, "wait", wait)
			return wait
		},
	}
	resp, err := rc.Do(req)
	if err != nil {
		return nil, a.networkError(ctx, sends, err)
	}
	reply := &postmarkReply{status: resp.StatusCode, header: resp.Header}
	reply.body, _ = io.ReadAll(resp.Body) // in memory already
	_ = resp.Body.Close()
	if reply.status >= 200 && reply.status <= 299 {
		return reply, nil
	}
	var e postmarkEnvelope
	known := reply.decode(&e) == nil
	return nil, a.refusal(reply, &e, known, sends)
}

func (a *postmarkAPI) mayRepeat(sends bool, resp *http.Response, err error) bool {
	if err != nil {
		var unsent *unsentError
		return !isCertificateError(err) && (!sends || errors.As(err, &unsent))
	}
	if parseRetryAfter(resp.Header, a.now()) > postmarkMaxWait {
		return false
	}
	return resp.StatusCode == http.StatusTooManyRequests || !sends && resp.StatusCode >= 500
}

func isCertificateError(err error) bool {
	var cert *tls.CertificateVerificationError
	return errors.As(err, &cert)
}

// networkError is a request without a reply.
func (a *postmarkAPI) networkError(ctx context.Context, sends bool, err error) *DeliveryError {
	var unsent *unsentError
	e := &DeliveryError{Kind: Temporary, Phase: "http", Host: a.host, Err: withoutURL(err)}
	switch {
	case errors.As(err, &unsent):
		e.Phase, e.Err = "dial", unsent.err
		if ctx.Err() == nil {
			// The next mail meets the same network.
			e.Account = true
			e.Remedy = "check that this machine reaches " + a.host + " on its port; a firewall or proxy may stand between"
		}
	case sends:
		e.Kind = Unknown
		e.Remedy = "the mail may have been taken; look it up before you try again"
	}
	if isCertificateError(err) {
		e.Kind, e.Phase, e.Account = Permanent, "dial", true
		e.Remedy = "the server could not prove that it is " + a.host + "; check BaseURL, the machine's CA certificates and any proxy on the way"
	}
	return e
}

// unfit is a message that was refused before any byte was sent.
func (a *postmarkAPI) unfit(err error) *DeliveryError {
	return &DeliveryError{Kind: Permanent, Phase: "check", Host: a.host, Err: err}
}

// postmarkLookupDelay is how long Postmark may take to list a mail. It states
// no time; suppressions take up to a minute to show, so that long is waited.
const postmarkLookupDelay = time.Minute

// postmarkSearchPage is as many of the mails found as are looked at.
const postmarkSearchPage = 10

// lookup asks for the mail of a send key, on the stream named first, if any,
// then on the others. Postmark's search knows one stream at a time and takes
// the default transactional one when none is named.
func (a *postmarkAPI) lookup(ctx context.Context, sendKey, first string) (Receipt, bool, error) {
	if sendKey == "" {
		return Receipt{}, false, fieldErrorf("send_key", "", "is empty, there is nothing to look up")
	}
	if first != "" {
		if r, ok, err := a.lookupIn(ctx, sendKey, first); ok || err != nil {
			return r, ok, err
		}
	}
	streams, err := a.streams(ctx)
	if err != nil {
		return Receipt{}, false, err
	}
	for _, s := range streams {
		if s.ID == first || strings.EqualFold(s.Type, "Inbound") {
			continue
		}
		if r, ok, err := a.lookupIn(ctx, sendKey, s.ID); ok || err != nil {
			return r, ok, err
		}
	}
	return Receipt{}, false, nil
}

func (a *postmarkAPI) lookupIn(ctx context.Context, sendKey, stream string) (Receipt, bool, error) {
	q := url.Values{
		"count": {strconv.Itoa(postmarkSearchPage)}, "offset": {"0"},
		"messagestream": {stream}, "metadata_" + sendKeyMetadata: {sendKey},
	}
	reply, err := a.call(ctx, http.MethodGet, "/messages/outbound?"+q.Encode(), nil)
	if err != nil {
		return Receipt{}, false, err
	}
	var found struct {
		Messages []struct {
			MessageID, Status, ReceivedAt string
			Metadata                      map[string]any
		}
	}
	if err := reply.decode(&found); err != nil {
		return Receipt{}, false, a.unreadable(reply, err).asked()
	}
	for _, m := range found.Messages {
		// Trusting the search alone, a filter that Postmark ignored would make
		// every mail this one.
		for k, v := range m.Metadata {
			if s, ok := v.(string); ok && strings.EqualFold(k, sendKeyMetadata) && s == sendKey {
				return Receipt{ID: cleanText(m.MessageID, 128), Reply: cleanText(m.Status, 128), At: a.postmarkTime(m.ReceivedAt)}, true, nil
			}
		}
	}
	if len(found.Messages) > 0 {
		return Receipt{}, false, a.unreadable(reply, errors.New("the search gave mails of other send keys")).asked()
	}
	return Receipt{}, false, nil
}

// streams lists the Message Streams, archived ones too.
func (a *postmarkAPI) streams(ctx context.Context) ([]PostmarkStream, error) {
	reply, err := a.call(ctx, http.MethodGet, "/message-streams?IncludeArchivedStreams=true&MessageStreamType=All", nil)
	if err != nil {
		return nil, err
	}
	var list struct {
		MessageStreams []struct {
			ID, Name, MessageStreamType         string
			ArchivedAt                          *string
			SubscriptionManagementConfiguration struct{ UnsubscribeHandlingType string }
		}
	}
	if err := reply.decode(&list); err != nil {
		return nil, a.unreadable(reply, err).asked()
	}
	streams := make([]PostmarkStream, len(list.MessageStreams))
	for i, s := range list.MessageStreams {
		streams[i] = PostmarkStream{
			ID: s.ID, Name: s.Name, Type: s.MessageStreamType, Archived: s.ArchivedAt != nil,
			Unsubscribe: s.SubscriptionManagementConfiguration.UnsubscribeHandlingType,
		}
	}
	return streams, nil
}

// server reads the server's settings. The reply holds its tokens, which are not
// even decoded.
func (a *postmarkAPI) server(ctx context.Context) (PostmarkServer, error) {
	reply, err := a.call(ctx, http.MethodGet, "/server", nil)
	if err != nil {
		return PostmarkServer{}, err
	}
	var s struct {
		ID                                        int64
		Name, DeliveryType                        string
		SMTPAPIActivated, EnableSMTPAPIErrorHooks bool
	}
	if err := reply.decode(&s); err != nil {
		return PostmarkServer{}, a.unreadable(reply, err).asked()
	}
	streams, err := a.streams(ctx)
	if err != nil {
		return PostmarkServer{}, err
	}
	return PostmarkServer{
		ID: s.ID, Name: s.Name, Sandbox: strings.EqualFold(s.DeliveryType, "Sandbox"),
		SMTP: s.SMTPAPIActivated, SMTPErrorHooks: s.EnableSMTPAPIErrorHooks, Streams: streams,
	}, nil
}

// postmarkTime reads a time of Postmark's, and takes the present for one that
// cannot be read.
func (a *postmarkAPI) postmarkTime(s string) time.Time {
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return t
	}
	return a.now()
}
