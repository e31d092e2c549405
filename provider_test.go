package fluxly

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
)

const testServerToken = "9b9b9b9b-1111-2222-3333-444444444444"

// guideProvider is the request of
// https://www.getfluxly.com/integrations/postmark as it stands there.
const guideProvider = `{
"provider": "smtp",
"display_name": "Postmark Production",
"from_email": "hello@yourdomain.com",
"from_name": "Acme",
"smtp_host": "smtp.postmarkapp.com",
"smtp_port": 587,
"smtp_secure": "starttls",
"username": "YOUR_SERVER_TOKEN",
"password": "YOUR_SERVER_TOKEN"
}`

func compact(t *testing.T, s string) string {
	t.Helper()
	var b bytes.Buffer
	if err := json.Compact(&b, []byte(s)); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestProviderRequests(t *testing.T) {
	t.Parallel()
	c, s := scripted(t, ClientConfig{}, answer{status: 201, body: `{"id":"prov_7","provider":"smtp"}`}, answer{status: 200, body: `{"ok":true,"request_id":"r1"}`})
	p := PostmarkProvider(testServerToken, "Acme <hello@yourdomain.com>")
	p.DisplayName = "Postmark Production"
	record, err := c.CreateProvider(t.Context(), "PROJECT/ID", p)
	if err != nil {
		t.Fatal(err)
	}
	if record.ID != "prov_7" {
		t.Errorf("id %q", record.ID)
	}
	res, err := c.TestProvider(t.Context(), record.ID, "you@yourdomain.com")
	if err != nil {
		t.Fatal(err)
	}
	if res.RequestID != "r1" || res.Fields["ok"] != true {
		t.Errorf("result %+v", res)
	}
	create, test := s.seen[0], s.seen[1]
	if create.path != "/v1/projects/PROJECT%2FID/email-providers" || test.path != "/v1/email-providers/prov_7/test" {
		t.Errorf("paths %s and %s", create.path, test.path)
	}
	if want := compact(t, strings.ReplaceAll(guideProvider, "YOUR_SERVER_TOKEN", testServerToken)); create.body != want {
		t.Errorf("sent\n%s, the guide has\n%s", create.body, want)
	}
	if want := compact(t, `{ "to": "you@yourdomain.com" }`); test.body != want {
		t.Errorf("sent %s, the guide has %s", test.body, want)
	}
	wantGolden(t, "client/create_provider.json", []byte(create.body+"\n"))
	wantGolden(t, "client/test_provider.json", []byte(test.body+"\n"))
	for _, r := range s.seen {
		if r.header.Get("X-Idempotency-Key") == "" || r.header.Get("Authorization") != "Bearer "+testAPIKey {
			t.Errorf("headers %v", r.header)
		}
	}
}

func TestPostmarkProviderDefaults(t *testing.T) {
	t.Parallel()
	p := PostmarkProvider(testServerToken, "hello@acme.test")
	want := `{"provider":"smtp","display_name":"Postmark","from_email":"hello@acme.test","smtp_host":"smtp.postmarkapp.com","smtp_port":587,` +
		`"smtp_secure":"starttls","username":"` + testServerToken + `","password":"` + testServerToken + `"}`
	if got := string(p.appendJSON(nil)); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if err := p.Validate(); err != nil {
		t.Error(err)
	}
	j, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	if dump := fmt.Sprintf("%v %+v %#v %s", p, p, p, j); strings.Contains(dump, testServerToken) {
		t.Errorf("the token is in %s", dump)
	}
	relay := Provider{DisplayName: "Relay", FromEmail: "a@acme.test", SMTPHost: "localhost", SMTPPort: 25, SMTPSecure: "none"}
	if got, want := string(relay.appendJSON(nil)), `{"provider":"smtp","display_name":"Relay","from_email":"a@acme.test","smtp_host":"localhost","smtp_port":25,"smtp_secure":"none"}`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestProviderValidate(t *testing.T) {
	t.Parallel()
	base := func() Provider { return PostmarkProvider(testServerToken, "hello@acme.test") }
	other := func() Provider {
		return Provider{DisplayName: "Relay", FromEmail: "a@acme.test", SMTPHost: "mail.acme.test", SMTPPort: 25}
	}
	token := func(s string) func(*Provider) {
		return func(p *Provider) { p.Username, p.Password = NewSecret(s), NewSecret(s) }
	}
	from := func(s string) func(*Provider) { return func(p *Provider) { p.FromEmail = s } }
	host := func(s string) func(*Provider) { return func(p *Provider) { p.SMTPHost = s } }
	tests := []struct {
		name   string
		base   Provider
		change func(*Provider)
		field  string
		text   string
	}{
		{"postmark", base(), func(*Provider) {}, "", ""},
		{"broadcast host", base(), host("smtp-broadcasts.postmarkapp.com"), "", ""},
		{"port 2525", base(), func(p *Provider) { p.SMTPPort = 2525 }, "", ""},
		{"SMTP token", base(), func(p *Provider) {
			p.Username, p.Password = NewSecret("PM-B-lifecycle-abc"), NewSecret("secret")
		}, "", ""},
		{"relay without login", other(), func(*Provider) {}, "", ""},
		{"relay, implicit TLS", other(), func(p *Provider) { p.SMTPSecure, p.SMTPPort = "tls", 465 }, "", ""},
		{"relay, plus address", other(), from("a+b@sub.acme.test"), "", ""},
		{"relay by IPv6", other(), host("::1"), "", ""},
		{"no name", base(), func(p *Provider) { p.DisplayName = "" }, "display_name", "empty"},
		{"name with newline", base(), func(p *Provider) { p.FromName = "A\r\nBcc: x" }, "from_name", "control"},
		{"no from", base(), from(""), "from_email", "empty"},
		{"from with name", base(), from("Acme <hello@acme.test>"), "from_email", "bare address hello@acme.test"},
		{"two froms", base(), from("a@acme.test, b@acme.test"), "from_email", "2 addresses"},
		{"from with newline", base(), from("a@acme.test\r\nBcc: x@y.test"), "from_email", "line break"},
		{"from without domain", base(), from("hello"), "from_email", "not an address"},
		{"from with blank", base(), from(" a@acme.test"), "from_email", "bare"},
		{"from with odd domain", base(), from("a@-acme.test"), "from_email", "domain"},
		{"long local part", base(), from(strings.Repeat("a", 65) + "@acme.test"), "from_email", "too long"},
		{"no host", base(), host(""), "smtp_host", "empty"},
		{"URL", base(), host("smtp://smtp.postmarkapp.com"), "smtp_host", "URL"},
		{"host and port", base(), host("smtp.postmarkapp.com:587"), "smtp_host", "smtp_port"},
		{"host with newline", base(), host("smtp.postmarkapp.com\n"), "smtp_host", "not a host name"},
		{"host typo", base(), host("smpt.postmarkapp.com"), "smtp_host", "use smtp.postmarkapp.com"},
		{"API host", base(), host("api.postmarkapp.com"), "smtp_host", "use smtp.postmarkapp.com"},
		{"empty label", other(), host("a..b"), "smtp_host", "not a host name"},
		{"port 0", base(), func(p *Provider) { p.SMTPPort = 0 }, "smtp_port", "1 to 65535"},
		{"port 65536", base(), func(p *Provider) { p.SMTPPort = 65536 }, "smtp_port", "1 to 65535"},
		{"port 465 at Postmark", base(), func(p *Provider) { p.SMTPPort = 465 }, "smtp_port", "587"},
		{"TLS at Postmark", base(), func(p *Provider) { p.SMTPSecure = "tls" }, "smtp_secure", "starttls"},
		{"no token", base(), token(""), "username", "empty"},
		{"placeholder", base(), token("YOUR_SERVER_TOKEN"), "username", "no Postmark server token"},
		{"newline", base(), token(testServerToken + "\n"), "username", "line break"},
		{"blank", base(), token(" " + testServerToken), "username", "blank"},
		{"GetFluxly's key", base(), token(testAPIKey), "username", "no Postmark server token"},
		{"two tokens", base(), func(p *Provider) { p.Password = NewSecret("8" + testServerToken[1:]) }, "password", "both"},
		{"user alone", other(), func(p *Provider) { p.Username = NewSecret("someuser") }, "password", "neither"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := tt.base
			tt.change(&p)
			err := p.Validate()
			if tt.field == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			wantField(t, err, tt.field)
			if err == nil {
				return
			}
			if !strings.Contains(err.Error(), tt.text) {
				t.Errorf("error %q does not say %q", err, tt.text)
			}
			if s := p.Username.Reveal(); s != "" && strings.Contains(err.Error(), strings.TrimSpace(s)) {
				t.Errorf("error %q holds the token", err)
			}
			c, s := scripted(t, ClientConfig{}, accepted)
			if _, err := c.CreateProvider(t.Context(), "p", p); !errors.Is(err, ErrInvalid) || len(s.seen) > 0 {
				t.Errorf("CreateProvider = %v, %d requests", err, len(s.seen))
			}
		})
	}
}

func TestProviderCallsRefuse(t *testing.T) {
	t.Parallel()
	c, s := scripted(t, ClientConfig{}, accepted)
	pub, _ := scripted(t, ClientConfig{APIKey: "gflux_pub_live_x"}, accepted)
	p := PostmarkProvider(testServerToken, "hello@acme.test")
	_, err := c.CreateProvider(t.Context(), "", p)
	wantField(t, err, "project_id")
	_, err = c.CreateProvider(t.Context(), "a\nb", p)
	wantField(t, err, "project_id")
	_, err = c.TestProvider(t.Context(), "", "you@acme.test")
	wantField(t, err, "provider_id")
	for _, to := range []string{"", "you", "a@acme.test,b@acme.test", "You <you@acme.test>", "you@acme.test\r\nBcc: b@acme.test"} {
		_, err = c.TestProvider(t.Context(), "prov", to)
		wantField(t, err, "to")
	}
	if len(s.seen) > 0 {
		t.Errorf("sent %v", s.seen)
	}
	if _, err = pub.CreateProvider(t.Context(), "p", p); !errors.Is(err, ErrWrongKeyType) {
		t.Errorf("CreateProvider with a publishable key: %v", err)
	}
	if _, err = pub.TestProvider(t.Context(), "p", "you@acme.test"); !errors.Is(err, ErrWrongKeyType) {
		t.Errorf("TestProvider with a publishable key: %v", err)
	}
}

// The reply to the creation is not documented: its id is found where it may be.
func TestProviderID(t *testing.T) {
	t.Parallel()
	for want, a := range map[string]answer{
		"a": {status: 200, body: `{"id":"a"}`},
		"b": {status: 201, body: `{"provider_id":"b"}`},
		"c": {status: 201, body: `{"provider":{"id":"c"}}`},
		"d": {status: 202, body: `{"data":{"id":"d","provider":"smtp"}}`},
		"7": {status: 201, body: `{"provider":"smtp","id":7}`},
		"e": {status: 201, header: map[string]string{"Location": "https://api.getfluxly.com/v1/email-providers/e"}},
		"":  {status: 204},
	} {
		c, _ := scripted(t, ClientConfig{}, a)
		record, err := c.CreateProvider(t.Context(), "p", PostmarkProvider(testServerToken, "hello@acme.test"))
		if err != nil || record.ID != want {
			t.Errorf("%s: %+v, %v", a.body, record, err)
		}
	}
	c, _ := scripted(t, ClientConfig{}, answer{status: 201, body: `{"id":"a","username":"` + testServerToken + `","config":{"password":"` + testServerToken + `"}}`})
	record, err := c.CreateProvider(t.Context(), "p", PostmarkProvider(testServerToken, "hello@acme.test"))
	if err != nil || strings.Contains(fmt.Sprint(record.Fields), testServerToken) {
		t.Errorf("the reply repeats the token: %v, %v", record, err)
	}
}

func TestProviderRemedies(t *testing.T) {
	t.Parallel()
	for detail, remedy := range map[string]string{
		"535 Authentication failed":                                  "server token is wrong or was rotated",
		"The From address hello@acme.test is not a Sender Signature": "verified at Postmark",
		"connect ECONNREFUSED":                                       "587 with STARTTLS",
		"odd":                                                        "",
	} {
		c, _ := scripted(t, ClientConfig{}, answer{status: 400, body: `{"error":"validation_error","detail":"` + detail + `"}`})
		_, err := c.TestProvider(t.Context(), "p", "you@acme.test")
		var e *APIError
		if !errors.As(err, &e) || (remedy == "") != (e.Remedy == "") || !strings.Contains(e.Remedy, remedy) {
			t.Errorf("%s: %v", detail, err)
		}
	}
}

func FuzzCheckAddress(f *testing.F) {
	for _, s := range []string{"hello@acme.test", `"a@b"@acme.test`, "a@b@c", "Ann <a@b.test>", "a@[::1]", "a@b.test\r\n", "é@ü.test", "a@b,c@d"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if checkAddress("to", s) != nil {
			return
		}
		if strings.ContainsAny(s, "\r\n<>,") && !strings.HasPrefix(s, `"`) {
			t.Fatalf("%q was taken for one bare address", s)
		}
	})
}
