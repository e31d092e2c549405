package fluxly

import (
	"bytes"
	"context"
	"encoding/json"
	"net/mail"
	"strconv"
	"strings"

	"github.com/getfluxly/fluxly/internal/value"
)

const (
	opCreateProvider = "POST /v1/projects/{project_id}/email-providers"
	opTestProvider   = "POST /v1/email-providers/{provider_id}/test"

	postmarkHost          = "smtp.postmarkapp.com"
	postmarkBroadcastHost = "smtp-broadcasts.postmarkapp.com"
	postmarkPort          = 587
	startTLS              = "starttls"
	maxDisplayName        = 256
)

// Provider is an email provider of a GetFluxly project: the record by which
// GetFluxly sends through a relay of one's own. It prints without user name
// and password. Make one record per Postmark server token, so that revoking a
// token stops one environment alone:
// https://www.getfluxly.com/integrations/postmark
type Provider struct {
	// Provider is the kind; "smtp" when empty.
	Provider string
	// DisplayName is the name in GetFluxly's settings.
	DisplayName string
	// FromEmail is one bare address, on a domain that the relay has verified.
	FromEmail string
	// FromName is shown before the address; may be empty.
	FromName string
	// SMTPHost is a host name without port, SMTPPort the port.
	SMTPHost string
	SMTPPort int
	// SMTPSecure is how the connection is protected; "starttls" when empty.
	SMTPSecure string
	// Username and Password log in at the relay. Postmark wants the server
	// token in both.
	Username Secret
	Password Secret
}

// PostmarkProvider is the record for Postmark's SMTP: smtp.postmarkapp.com, port
// 587 with STARTTLS, the server token as user name and password. from is an
// address on a domain verified at Postmark, or a mailbox such as
// "Acme <hello@acme.test>". The display name is "Postmark"; change it to tell
// environments apart. Use a server token, never an account token. What is wrong
// is said by [Provider.Validate] and [Client.CreateProvider].
func PostmarkProvider(serverToken, from string) Provider {
	p := Provider{
		Provider: "smtp", DisplayName: "Postmark", FromEmail: from,
		SMTPHost: postmarkHost, SMTPPort: postmarkPort, SMTPSecure: startTLS,
		Username: NewSecret(serverToken), Password: NewSecret(serverToken),
	}
	if a, err := mail.ParseAddress(from); err == nil && a.Name != "" {
		p.FromEmail, p.FromName = a.Address, a.Name
	}
	return p
}

// Validate checks the record before it is sent anywhere: exactly one bare
// address to send from, a host name, a port, credentials without blanks; and
// where the host is Postmark's, its exact spelling, its ports, STARTTLS and the
// shape of the server token. The error is a [*FieldError] in GetFluxly's names,
// such as "from_email", and never holds a credential.
func (p *Provider) Validate() error {
	if p.DisplayName == "" {
		return fieldErrorf("display_name", "", "empty: name the provider as it shall stand in the settings")
	}
	for _, text := range [...]struct{ field, value string }{{"provider", p.Provider}, {"display_name", p.DisplayName}, {"from_name", p.FromName}} {
		if err := checkID(text.field, text.value, maxDisplayName); err != nil {
			return err
		}
	}
	if err := checkAddress("from_email", p.FromEmail); err != nil {
		return err
	}
	if err := checkHost("smtp_host", p.SMTPHost); err != nil {
		return err
	}
	if p.SMTPPort < 1 || p.SMTPPort > 65535 {
		return fieldErrorf("smtp_port", strconv.Itoa(p.SMTPPort), "outside 1 to 65535; Postmark takes 587")
	}
	if strings.ContainsAny(p.SMTPSecure, " \t\r\n") {
		return fieldErrorf("smtp_secure", p.SMTPSecure, "holds a blank; write starttls")
	}
	if p.Username.IsZero() != p.Password.IsZero() {
		return fieldErrorf("password", "", "give username and password, or neither")
	}
	for _, secret := range [...]struct {
		field string
		value Secret
	}{{"username", p.Username}, {"password", p.Password}} {
		if err := checkCredential(secret.field, secret.value.Reveal()); err != nil {
			return err
		}
	}
	if host := strings.ToLower(p.SMTPHost); host == "postmarkapp.com" || strings.HasSuffix(host, ".postmarkapp.com") {
		return p.validatePostmark(host)
	}
	return nil
}

// validatePostmark checks what Postmark's documents fix:
// https://postmarkapp.com/support/article/811-what-are-the-smtp-details-api-tokens-i-should-be-using
func (p *Provider) validatePostmark(host string) error {
	if host != postmarkHost && host != postmarkBroadcastHost {
		return fieldErrorf("smtp_host", p.SMTPHost, "is no SMTP host of Postmark; use %s or %s", postmarkHost, postmarkBroadcastHost)
	}
	switch p.SMTPPort {
	case 25, 587, 2525:
	default:
		return fieldErrorf("smtp_port", strconv.Itoa(p.SMTPPort), "is not served by Postmark; use 587 (or 25, 2525)")
	}
	if p.SMTPSecure != "" && !strings.EqualFold(p.SMTPSecure, startTLS) {
		return fieldErrorf("smtp_secure", p.SMTPSecure, "Postmark's SMTP is protected by STARTTLS: write starttls")
	}
	user, password := p.Username.Reveal(), p.Password.Reveal()
	if user == "" {
		return fieldErrorf("username", "", "empty: give the Server API token of the Postmark server")
	}
	if strings.HasPrefix(user, "PM-") && user != password {
		return nil // an SMTP token, which belongs to one stream
	}
	if !isGUID(user) {
		return fieldErrorf("username", "", "is no Postmark server token: 36 characters such as xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx, from API Tokens of the server")
	}
	if user != password {
		return fieldErrorf("password", "", "differs from username: Postmark wants the server token in both")
	}
	return nil
}

// appendJSON writes the request in the order of GetFluxly's guide.
func (p *Provider) appendJSON(dst []byte) []byte {
	kind, secure := p.Provider, p.SMTPSecure
	if kind == "" {
		kind = "smtp"
	}
	if secure == "" {
		secure = startTLS
	}
	dst = append(dst, '{')
	text := func(key, v string) {
		dst = append(dst, `"`+key+`":`...)
		dst = append(value.AppendString(dst, v), ',')
	}
	text("provider", kind)
	text("display_name", p.DisplayName)
	text("from_email", p.FromEmail)
	if p.FromName != "" {
		text("from_name", p.FromName)
	}
	text("smtp_host", p.SMTPHost)
	dst = append(dst, `"smtp_port":`...)
	dst = append(strconv.AppendInt(dst, int64(p.SMTPPort), 10), ',')
	text("smtp_secure", secure)
	if !p.Username.IsZero() {
		text("username", p.Username.Reveal())
		text("password", p.Password.Reveal())
	}
	return append(bytes.TrimSuffix(dst, []byte(",")), '}')
}

// ProviderRecord is an email provider as GetFluxly keeps it.
type ProviderRecord struct {
	// ID names the provider for [Client.TestProvider]. It is empty when the
	// reply held none that could be found; the provider exists nevertheless,
	// and its id stands in Settings, Email providers.
	ID string
	// RequestID names the request in GetFluxly's logs, where it said one.
	RequestID string
	// Fields is the reply; the credentials are blotted out if it repeats them.
	Fields map[string]any
}

// CreateProvider adds an email provider to a project. It needs a server key.
// The error is a [*FieldError] when nothing was sent, else an [*APIError]; no
// error holds a credential. Its tries share one idempotency key, but a second
// call makes a second provider.
func (c *Client) CreateProvider(ctx context.Context, projectID string, p Provider) (*ProviderRecord, error) {
	if err := checkPathID("project_id", projectID); err != nil {
		return nil, err
	}
	if err := p.Validate(); err != nil {
		return nil, err
	}
	if err := c.needServerKey(); err != nil {
		return nil, err
	}
	r, err := c.do(ctx, apiCall{
		op: opCreateProvider, path: "/v1/projects/" + pathPart(projectID) + "/email-providers",
		body: p.appendJSON(nil), secrets: []string{p.Username.Reveal(), p.Password.Reveal()},
	})
	if err != nil {
		return nil, withProviderRemedy(err)
	}
	return &ProviderRecord{ID: providerID(r), RequestID: r.requestID(), Fields: r.fields}, nil
}

// providerID finds the id in a reply whose form is not documented.
func providerID(r *reply) string {
	candidates := []any{r.fields["id"], r.fields["provider_id"], r.fields["email_provider_id"]}
	for _, key := range [...]string{"provider", "email_provider", "data"} {
		if m, ok := r.fields[key].(map[string]any); ok {
			candidates = append(candidates, m["id"], m["provider_id"])
		}
	}
	for _, v := range candidates {
		switch v := v.(type) {
		case string:
			if v != "" {
				return v
			}
		case int64:
			return strconv.FormatInt(v, 10)
		case json.Number:
			return string(v)
		}
	}
	if _, id, ok := strings.Cut(r.header.Get("Location"), "/email-providers/"); ok {
		id, _, _ = strings.Cut(id, "/")
		return id
	}
	return ""
}

// ProviderTest is what the API said of a test message that it handed over.
type ProviderTest struct {
	// RequestID names the request in GetFluxly's logs, where it said one.
	RequestID string
	// Fields is the reply.
	Fields map[string]any
}

// TestProvider has GetFluxly send one real message through the provider, to one
// address, at once. It needs a server key. What commonly goes wrong at Postmark
// comes back as an [*APIError] with the Remedy.
func (c *Client) TestProvider(ctx context.Context, providerID, to string) (*ProviderTest, error) {
	if providerID == "" {
		return nil, fieldErrorf("provider_id", "", "empty: when CreateProvider could not find it in the reply, look it up in Settings, Email providers")
	}
	if err := checkPathID("provider_id", providerID); err != nil {
		return nil, err
	}
	if err := checkAddress("to", to); err != nil {
		return nil, err
	}
	if err := c.needServerKey(); err != nil {
		return nil, err
	}
	r, err := c.do(ctx, apiCall{
		op: opTestProvider, path: "/v1/email-providers/" + pathPart(providerID) + "/test",
		body: append(value.AppendString([]byte(`{"to":`), to), '}'),
	})
	if err != nil {
		return nil, withProviderRemedy(err)
	}
	return &ProviderTest{RequestID: r.requestID(), Fields: r.fields}, nil
}

// withProviderRemedy adds what to do about the common failures of a Postmark
// connection: https://www.getfluxly.com/integrations/postmark
func withProviderRemedy(err error) error {
	e, ok := err.(*APIError) //nolint:errorlint // made by do, never wrapped
	if !ok || e.Remedy != "" || e.Status == 0 {
		return err
	}
	text := strings.ToLower(e.Detail)
	has := func(words ...string) bool {
		for _, w := range words {
			if strings.Contains(text, w) {
				return true
			}
		}
		return false
	}
	switch {
	case has("535", "authentication failed", "auth failed", "invalid credentials"):
		e.Remedy = "the server token is wrong or was rotated: take a fresh one from API Tokens of the Postmark server, for username and password"
	case has("sender signature", "not verified", "unverified", "from address"):
		e.Remedy = "from_email is not on a domain verified at Postmark: see Sender Signatures, and that its DKIM record is verified"
	case has("connection refused", "timed out", "timeout", "econnrefused", "etimedout", "enotfound", "no such host"):
		e.Remedy = "the host must be exactly " + postmarkHost + ", the port 587 with STARTTLS; some networks block port 587"
	}
	return e
}

// checkPathID checks an id that goes into a path.
func checkPathID(field, id string) error {
	if id == "" {
		return fieldErrorf(field, "", "empty")
	}
	if err := checkID(field, id, maxIDLength); err != nil {
		return err
	}
	return nil
}

// checkAddress takes exactly one bare address (RFC 5321 section 4.1.2).
func checkAddress(field, addr string) error {
	if addr == "" {
		return fieldErrorf(field, "", "empty: give one address, such as hello@acme.test")
	}
	if strings.ContainsAny(addr, "\r\n") {
		return fieldErrorf(field, addr, "holds a line break")
	}
	if list, err := mail.ParseAddressList(addr); err == nil && len(list) > 1 {
		return fieldErrorf(field, addr, "%d addresses: give one", len(list))
	}
	a, err := mail.ParseAddress(addr)
	if err != nil {
		return fieldErrorf(field, addr, "is not an address, such as hello@acme.test")
	}
	if a.Address != addr {
		return fieldErrorf(field, addr, "give the bare address %s", a.Address)
	}
	local, domain, _ := strings.Cut(a.Address, "@")
	if strings.Contains(domain, "@") { // a quoted @ in the local part
		i := strings.LastIndexByte(a.Address, '@')
		local, domain = a.Address[:i], a.Address[i+1:]
	}
	if len(local) > 64 || len(domain) > 255 {
		return fieldErrorf(field, addr, "is too long: 64 bytes before the @, 255 after it")
	}
	if err := checkHost(field, domain); err != nil {
		return fieldErrorf(field, addr, "the part after the @ is not a domain")
	}
	return nil
}

// checkHost takes a host name or an IP address, without scheme or port.
func checkHost(field, host string) *FieldError {
	switch {
	case host == "":
		return fieldErrorf(field, "", "empty: give a host name, such as %s", postmarkHost)
	case len(host) > 255:
		return fieldErrorf(field, host, "%d bytes, at most 255 are allowed", len(host))
	case strings.Contains(host, "://") || strings.Contains(host, "/"):
		return fieldErrorf(field, host, "is a URL; give the host name alone")
	case strings.Count(host, ":") == 1:
		return fieldErrorf(field, host, "holds a port; give it in smtp_port")
	}
	for label := range strings.SplitSeq(strings.TrimSuffix(host, "."), ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return fieldErrorf(field, host, "is not a host name")
		}
	}
	for _, r := range host {
		if r <= ' ' || r == 0x7f || strings.ContainsRune(`"'()<>,;@\[]`, r) {
			return fieldErrorf(field, host, "is not a host name")
		}
	}
	return nil
}

// checkCredential refuses what was read with its line end, or is no token.
func checkCredential(field, s string) error {
	for _, r := range s {
		if r < ' ' || r == 0x7f {
			return fieldErrorf(field, "", "holds a line break or another control character; trim it where it is read")
		}
	}
	if strings.TrimSpace(s) != s {
		return fieldErrorf(field, "", "begins or ends with a blank; trim it where it is read")
	}
	return nil
}

// isGUID reports whether s has the shape of a Postmark server token.
func isGUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		switch i {
		case 8, 13, 18, 23:
			if c != '-' {
				return false
			}
		default:
			if (c < '0' || c > '9') && (c < 'a' || c > 'f') && (c < 'A' || c > 'F') {
				return false
			}
		}
	}
	return true
}
