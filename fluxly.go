package fluxly

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"runtime/debug"
	"strings"
	"time"

	"github.com/hashicorp/go-retryablehttp"

	"github.com/getfluxly/fluxly/internal/value"
)

const (
	defaultBaseURL      = "https://api.getfluxly.com"
	defaultTimeout      = 5 * time.Second
	defaultMaxRetries   = 2
	defaultMaxRetryWait = 30 * time.Second
	firstRetryWait      = 500 * time.Millisecond
	maxReplyBytes       = 1 << 20

	publishablePrefix = "gflux_pub_"
	idempotencyHeader = "X-Idempotency-Key"
)

// ClientConfig is what [NewClient] needs. It prints without the key.
type ClientConfig struct {
	// APIKey is a server key (gflux_secret_...) of the project, made in
	// GetFluxly's settings. A publishable key (gflux_pub_...) can only track
	// and identify. Keys with other prefixes are taken as they are.
	APIKey string `json:"-"`
	// BaseURL is where the API is; "https://api.getfluxly.com" when empty. A
	// proxy of one's own may have a path.
	BaseURL string
	// PlainHTTP allows a BaseURL of http:// to another host than this one, so
	// that the key travels unprotected.
	PlainHTTP bool
	// HTTPClient makes the requests; nil means one of the client's own, with
	// the proxy of the environment. It is copied. Redirects are never
	// followed, because the key would travel along.
	HTTPClient *http.Client `json:"-"`
	// Timeout is for one try, with the reading of its reply: 5 s when zero
	// (or that of HTTPClient, if it has one), none when negative.
	Timeout time.Duration
	// MaxRetries is how often a failed request is repeated: 2 when zero, never
	// when negative. Repeated are network errors, 408, 425, 429 and 5xx, with
	// the same idempotency key; never any other status.
	MaxRetries int
	// MaxRetryWait bounds one wait between two tries: 30 s when zero. Waits
	// begin at half a second and double, with a jitter of 25 % either way; a
	// Retry-After of the API comes first. When it asks for more than
	// MaxRetryWait, or for more than the context's deadline leaves, the error
	// comes back at once and says how long (see [APIError]).
	MaxRetryWait time.Duration
	// EncodeIdentify writes the body for POST /v1/events that carries an
	// identity. Its wire form is not documented by GetFluxly; nil means an
	// event named "identify" with the ids and "traits".
	EncodeIdentify func(Identity) ([]byte, error) `json:"-"`
	// Logger hears of retries, at debug level. Nil means silence.
	Logger *slog.Logger `json:"-"`
}

// Format prints the settings without the key, whatever the verb.
func (c ClientConfig) Format(f fmt.State, _ rune) {
	key := ""
	if c.APIKey != "" {
		key = redacted
	}
	_, _ = fmt.Fprintf(f, "{APIKey:%s BaseURL:%s Timeout:%s MaxRetries:%d}", key, c.redactedURL(), c.Timeout, c.MaxRetries)
}

// LogValue gives slog the settings without the key.
func (c ClientConfig) LogValue() slog.Value {
	return slog.GroupValue(
		slog.Any("api_key", NewSecret(c.APIKey)), slog.String("base_url", c.redactedURL()),
		slog.Duration("timeout", c.Timeout), slog.Int("max_retries", c.MaxRetries),
	)
}

// redactedURL is BaseURL without what may be a password in it.
func (c ClientConfig) redactedURL() string {
	u, err := url.Parse(c.BaseURL)
	if err != nil {
		return redacted
	}
	return u.Scheme + "://" + u.Host + u.EscapedPath()
}

// Client calls GetFluxly's hosted API. It is a [Tracker]: a program that runs
// its automations at GetFluxly uses it where another uses an [Engine]. Each
// call is one request (with its retries) that has ended when the call returns;
// nothing waits in a buffer. It may be used from many goroutines.
type Client struct {
	key            Secret
	base           string
	agent          string
	http           *http.Client
	ownTransport   *http.Transport
	maxRetries     int
	maxWait        time.Duration
	encodeIdentify func(Identity) ([]byte, error)
	logger         *slog.Logger

	now    func() time.Time
	jitter func() float64 // in [0, 1)
}

var _ Tracker = (*Client)(nil)

// NewClient checks the settings and makes a client; it sends nothing. The error
// is a [*FieldError], and never holds the key.
func NewClient(cfg ClientConfig) (*Client, error) {
	if err := checkKey("APIKey", cfg.APIKey); err != nil {
		return nil, err
	}
	base, err := checkBaseURL(cfg.BaseURL, cfg.PlainHTTP)
	if err != nil {
		return nil, err
	}
	c := &Client{
		key: NewSecret(cfg.APIKey), base: base, agent: userAgent(),
		maxRetries: cfg.MaxRetries, maxWait: cfg.MaxRetryWait,
		encodeIdentify: cfg.EncodeIdentify, logger: cfg.Logger,
		now: time.Now, jitter: rand.Float64,
	}
	switch {
	case c.maxRetries == 0:
		c.maxRetries = defaultMaxRetries
	case c.maxRetries < 0:
		c.maxRetries = 0
	}
	if c.maxWait < 0 {
		return nil, fieldErrorf("MaxRetryWait", c.maxWait.String(), "negative: leave it zero for %s", defaultMaxRetryWait)
	}
	if c.maxWait == 0 {
		c.maxWait = defaultMaxRetryWait
	}
	if c.logger == nil {
		c.logger = slog.New(slog.DiscardHandler)
	}
	hc := http.Client{}
	if cfg.HTTPClient != nil {
		hc = *cfg.HTTPClient
	} else {
		c.ownTransport = newTransport()
		hc.Transport = c.ownTransport
	}
	if hc.Transport == nil {
		hc.Transport = http.DefaultTransport
	}
	timeout := cfg.Timeout
	if timeout == 0 {
		timeout = cmp.Or(hc.Timeout, defaultTimeout)
	}
	hc.Timeout = 0 // wholeReplies keeps the time
	hc.Transport = wholeReplies{next: hc.Transport, timeout: timeout}
	hc.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	c.http = &hc
	return c, nil
}

// Close lets go of idle connections of the client's own; one that was given in
// HTTPClient is left alone. Calls may still be made after it.
func (c *Client) Close() error {
	if c.ownTransport != nil {
		c.ownTransport.CloseIdleConnections()
	}
	return nil
}

// newTransport is the standard transport with enough idle connections for many
// goroutines that talk to one host.
func newTransport() *http.Transport {
	t, ok := http.DefaultTransport.(*http.Transport)
	if !ok { // the program replaced it
		return &http.Transport{Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 64, IdleConnTimeout: 90 * time.Second}
	}
	t = t.Clone()
	t.MaxIdleConnsPerHost = 64
	return t
}

func userAgent() string {
	const path = "github.com/getfluxly/fluxly"
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "fluxly-go"
	}
	for _, m := range append(info.Deps, &info.Main) {
		if m.Path == path && m.Version != "" && m.Version != "(devel)" {
			return "fluxly-go/" + m.Version
		}
	}
	return "fluxly-go"
}

// checkKey refuses what cannot be a key; the value stays out of the error.
func checkKey(field, key string) error {
	if key == "" {
		return fieldErrorf(field, "", "empty: give a server key (gflux_secret_...)")
	}
	for i := range len(key) {
		if key[i] <= ' ' || key[i] > '~' {
			return fieldErrorf(field, "", "holds a blank, a newline or another character that no key has; trim it where it is read")
		}
	}
	return nil
}

func checkBaseURL(base string, plainHTTP bool) (string, error) {
	if base == "" {
		return defaultBaseURL, nil
	}
	u, err := url.Parse(base)
	if err != nil { // the error would repeat what may hold a password
		return "", fieldErrorf("BaseURL", "", "is not a URL; write it as %s", defaultBaseURL)
	}
	if u.User != nil {
		return "", fieldErrorf("BaseURL", u.Host, "holds a user or password; the key goes into APIKey")
	}
	switch {
	case u.Host == "" || u.Hostname() == "" || u.Opaque != "":
		return "", fieldErrorf("BaseURL", base, "names no host; write it as %s", defaultBaseURL)
	case u.RawQuery != "" || u.Fragment != "" || u.ForceQuery:
		return "", fieldErrorf("BaseURL", u.Host, "has a query or fragment; leave it out")
	case u.Scheme == "https":
	case u.Scheme == "http" && (plainHTTP || isLoopback(u.Hostname())):
	case u.Scheme == "http":
		return "", fieldErrorf("BaseURL", base, "would send the key unprotected; use https, or set PlainHTTP")
	default:
		return "", fieldErrorf("BaseURL", base, "must begin with https://")
	}
	return strings.TrimRight(u.Scheme+"://"+u.Host+u.EscapedPath(), "/"), nil
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || (ip != nil && ip.IsLoopback())
}

// needServerKey refuses, before the wire, a call that a publishable key cannot
// make.
func (c *Client) needServerKey() error {
	if strings.HasPrefix(c.key.Reveal(), publishablePrefix) {
		err := fieldErrorf("APIKey", "", "is a publishable key (gflux_pub_...); this call needs a server key (gflux_secret_...)")
		err.Err = ErrWrongKeyType
		return err
	}
	return nil
}

// pathPart escapes one part of a path. Parts of dots alone would be taken for
// a way up the path.
func pathPart(s string) string {
	if s == "." || s == ".." {
		return strings.ReplaceAll(s, ".", "%2E")
	}
	return url.PathEscape(s)
}

// apiCall is one request.
type apiCall struct {
	// op names the call in errors; path is the same with the ids in it.
	op, path string
	body     []byte
	// secrets are values in body that must not come back in an error.
	secrets []string
}

// reply is the last answer to an apiCall.
type reply struct {
	status     int
	header     http.Header
	body       []byte
	fields     map[string]any // nil when the body is no JSON object
	retryAfter time.Duration
	tries      int
}

func (r *reply) requestID() string {
	if id, ok := r.fields["request_id"].(string); ok && id != "" {
		return cleanText(id, 128)
	}
	for _, name := range [...]string{"X-Request-Id", "Request-Id", "X-Correlation-Id"} {
		if id := r.header.Get(name); id != "" {
			return cleanText(id, 128)
		}
	}
	return ""
}

// do makes the request with its retries. It returns a reply only for a success;
// every error is an *APIError.
func (c *Client) do(ctx context.Context, call apiCall) (*reply, error) {
	req, err := retryablehttp.NewRequestWithContext(ctx, http.MethodPost, c.base+call.path, call.body)
	if err != nil {
		return nil, &APIError{Op: call.op, Code: codeNetwork, Err: withoutURL(err)}
	}
	req.Header.Set("Authorization", "Bearer "+c.key.Reveal())
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", c.agent)
	req.Header.Set(idempotencyHeader, newUUID())

	t := &tries{client: c, call: &call}
	rc := &retryablehttp.Client{
		HTTPClient: c.http, RetryMax: c.maxRetries,
		CheckRetry: t.check, Backoff: t.wait, ErrorHandler: retryablehttp.PassthroughErrorHandler,
	}
	resp, err := rc.Do(req)
	if err != nil {
		if resp != nil { // the context ended just as a reply came
			_ = resp.Body.Close()
		}
		return nil, t.failure(ctx, err)
	}
	r := c.readReply(resp, call.secrets)
	r.tries = t.n
	if !isSuccess(r.status) {
		return nil, replyError(call.op, r)
	}
	if err := refusedSuccess(call.op, r); err != nil {
		return nil, err
	}
	return r, nil
}

// readReply takes a reply whose body is in memory already.
func (c *Client) readReply(resp *http.Response, secrets []string) *reply {
	body, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	r := &reply{
		status: resp.StatusCode, header: resp.Header,
		body: redactSecrets(body, append(secrets, c.key.Reveal())),
	}
	r.retryAfter = parseRetryAfter(resp.Header, c.now())
	if v, err := value.Decode(r.body); err == nil {
		r.fields, _ = v.(map[string]any)
	}
	return r
}

// redactSecrets blots out what the API repeats of the request.
func redactSecrets(body []byte, secrets []string) []byte {
	for _, s := range secrets {
		if s == "" {
			continue
		}
		body = bytes.ReplaceAll(body, []byte(s), []byte(redacted))
		if q := value.AppendString(nil, s); len(q) > len(s)+2 {
			body = bytes.ReplaceAll(body, q[1:len(q)-1], []byte(redacted))
		}
	}
	return body
}

// refusedSuccess finds the 2xx that is none: an error body, or the page of a
// proxy or portal that stands between.
func refusedSuccess(op string, r *reply) *APIError {
	if r.fields != nil {
		code, detail := errorOfFields(map[string]any{"error": r.fields["error"]})
		failed := r.fields["ok"] == false || r.fields["success"] == false
		if code == "" && detail == "" && !failed {
			return nil
		}
		e := replyError(op, r)
		if e.Code == codeUnexpectedStatus {
			e.Code = codeFailed
		}
		return e
	}
	text := bytes.TrimSpace(r.body)
	if len(text) > 0 && (text[0] == '<' || strings.Contains(r.header.Get("Content-Type"), "html")) {
		e := replyError(op, r)
		e.Code = codeUnexpectedReply
		e.Detail = "a web page instead of the API's reply"
		e.Remedy = "check BaseURL and any proxy on the way"
		return e
	}
	return nil
}

// tries follows one call through its tries.
type tries struct {
	client *Client
	call   *apiCall
	n      int
	// last is the reply of the last try that had one, without its body.
	last *reply
}

// check says whether to try again; it is called after each try.
func (t *tries) check(ctx context.Context, resp *http.Response, err error) (bool, error) {
	t.n++
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	if err != nil {
		return !permanentNetworkError(err), nil
	}
	t.last = &reply{status: resp.StatusCode, header: resp.Header, retryAfter: parseRetryAfter(resp.Header, t.client.now())}
	if !retryableStatus(resp.StatusCode) || t.last.retryAfter > t.client.maxWait {
		return false, nil
	}
	if deadline, ok := ctx.Deadline(); ok && t.client.now().Add(t.last.retryAfter).After(deadline) {
		return false, nil
	}
	return true, nil
}

// wait is the time until the next try, n counting from 0.
func (t *tries) wait(_, _ time.Duration, n int, resp *http.Response) time.Duration {
	wait := time.Duration(0)
	if resp != nil {
		wait = parseRetryAfter(resp.Header, t.client.now())
	}
	if wait == 0 {
		base := min(firstRetryWait<<min(n, 20), t.client.maxWait)
		wait = min(time.Duration(float64(base)*(0.75+t.client.jitter()/2)), t.client.maxWait)
	}
	status := 0
	if resp != nil {
		status = resp.StatusCode
	}
	t.client.logger.Debug("getfluxly call is tried again", "op", t.call.op, "try", n+1, "status", status, "wait", wait)
	return wait
}

// failure makes the APIError of a call whose last try had no reply.
func (t *tries) failure(ctx context.Context, err error) *APIError {
	e := &APIError{Op: t.call.op, Code: codeNetwork, Retryable: true, Tries: t.n, Err: withoutURL(err)}
	var timeout interface{ Timeout() bool } // not err's own: url.Error does not look below its cause
	switch {
	case ctx.Err() != nil:
		e.Code, e.Err = codeCanceled, ctx.Err()
		if t.last != nil { // ended while it waited to try again
			e.Status, e.RetryAfter = t.last.status, t.last.retryAfter
		}
	case errors.As(e.Err, &timeout) && timeout.Timeout():
		e.Code = CodeTimeout
	case permanentNetworkError(err):
		e.Retryable = false
	}
	return e
}

// permanentNetworkError is one that the same request meets again: the server
// cannot prove that it is the one asked for.
func permanentNetworkError(err error) bool {
	var cert *tls.CertificateVerificationError
	return errors.As(err, &cert)
}

// withoutURL drops the URL that net/http wraps around an error: it holds the
// ids of people.
func withoutURL(err error) error {
	var ue *url.Error
	if errors.As(err, &ue) {
		return ue.Err
	}
	return err
}

// wholeReplies makes one try: it reads the reply to its end before it hands it
// on, within the timeout, so that a connection cut in the middle of a reply
// counts as a failed try, and no reply fills the memory.
type wholeReplies struct {
	next    http.RoundTripper
	timeout time.Duration // none when negative
}

func (w wholeReplies) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	if w.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, w.timeout)
		defer cancel()
	}
	resp, err := w.next.RoundTrip(req.WithContext(ctx))
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxReplyBytes))
	_ = resp.Body.Close()
	if err != nil {
		return nil, fmt.Errorf("reading the reply: %w", err)
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, nil
}
