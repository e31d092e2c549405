package fluxly_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/fluxlytest"
	"github.com/getfluxly/fluxly/internal/smtptest"
)

const (
	serverToken = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0" //nolint:gosec // of no server
	otherToken  = "11111111-2222-3333-4444-555555555555" //nolint:gosec // of no server
)

func splitAddr(t *testing.T, addr string) (host string, port int) {
	t.Helper()
	host, p, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	port, err = strconv.Atoi(p)
	if err != nil {
		t.Fatal(err)
	}
	return host, port
}

// postmarkSender is a sender for a stand-in; change may be nil.
func postmarkSender(t *testing.T, server *fluxlytest.PostmarkSMTP, change func(*fluxly.PostmarkSMTPConfig)) *fluxly.SMTPSender {
	t.Helper()
	host, port := splitAddr(t, server.Addr())
	cfg := fluxly.PostmarkSMTPConfig{
		Host: host, Port: port, RootCAs: server.RootCAs(), ServerToken: server.Token, MessageStream: "lifecycle",
	}
	if change != nil {
		change(&cfg)
	}
	s, err := fluxly.NewPostmarkSMTP(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// relaySender is a sender for a scripted server.
func relaySender(t *testing.T, srv *smtptest.Server, change func(*fluxly.SMTPConfig)) *fluxly.SMTPSender {
	t.Helper()
	host, port := splitAddr(t, srv.Addr)
	cfg := fluxly.SMTPConfig{Host: host, Port: port, RootCAs: srv.CA.Pool, Username: "token", Password: "token"}
	if change != nil {
		change(&cfg)
	}
	s, err := fluxly.NewSMTP(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func welcomeMail() *fluxly.Message {
	return &fluxly.Message{
		SendKey: "run_1/welcome/1", From: "Acme <hello@acme.test>", To: "Ann <ann@customer.test>",
		Subject: "Welcome", Text: "Hello Ann\n", HTML: "<p>Hello Ann</p>\n",
	}
}

func deliveryError(t *testing.T, err error) *fluxly.DeliveryError {
	t.Helper()
	var e *fluxly.DeliveryError
	if !errors.As(err, &e) {
		t.Fatalf("error %T is no *DeliveryError: %v", err, err)
	}
	return e
}

func TestPostmarkSMTPSends(t *testing.T) {
	t.Parallel()
	server := fluxlytest.NewPostmarkSMTP(t, fluxlytest.PostmarkSMTPConfig{Streams: []string{"lifecycle", "alerts"}})
	s := postmarkSender(t, server, nil)
	m := welcomeMail()
	m.Tag, m.TrackOpens, m.TrackLinks = "trial", fluxly.OpensTracked, fluxly.LinksHTMLOnly
	m.Metadata = map[string]string{"Plan": "pro"}
	before := time.Now()
	receipt, err := s.Send(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	if receipt.Reply == "" || receipt.At.Before(before) {
		t.Errorf("receipt %+v", receipt)
	}
	other := welcomeMail()
	other.SendKey, other.Stream = "run_1/alert/1", "alerts"
	if _, err := s.Send(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	mails := server.Mails()
	if len(mails) != 2 {
		t.Fatalf("%d mails", len(mails))
	}
	got := mails[0]
	if got.Stream != "lifecycle" || got.Tag != "trial" || got.Metadata["Plan"] != "pro" || got.SendKey() != "run_1/welcome/1" || got.Text != "Hello Ann\n" || len(got.Problems) != 0 {
		t.Errorf("%+v", got)
	}
	if got.Get("X-PM-TrackOpens") != "true" || got.Get("X-PM-TrackLinks") != "HtmlOnly" {
		t.Errorf("tracking %q %q", got.Get("X-PM-TrackOpens"), got.Get("X-PM-TrackLinks"))
	}
	if mails[1].Stream != "alerts" {
		t.Errorf("stream %q", mails[1].Stream)
	}
	if st := s.Stats(); st.Accepted != 2 || st.Dials != 1 || st.Handshakes != 1 || st.RoundTrips != 5+2*2 {
		t.Errorf("%+v", st)
	}
}

// With an SMTP token the stream is the token's, and no header names one.
func TestPostmarkSMTPToken(t *testing.T) {
	t.Parallel()
	server := fluxlytest.NewPostmarkSMTP(t, fluxlytest.PostmarkSMTPConfig{
		Streams:      []string{"lifecycle"},
		StreamTokens: []fluxlytest.StreamToken{{AccessKey: "PM-B-lifecycle-x1", SecretKey: "s3cret", Stream: "lifecycle"}},
	})
	for _, declared := range []string{"", "lifecycle"} {
		s := postmarkSender(t, server, func(c *fluxly.PostmarkSMTPConfig) {
			c.ServerToken, c.MessageStream, c.AccessKey, c.SecretKey = "", declared, "PM-B-lifecycle-x1", "s3cret"
		})
		m := welcomeMail()
		m.Stream = "lifecycle"
		if _, err := s.Send(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		if declared == "" {
			continue
		}
		m.Stream = "alerts"
		_, err := s.Send(t.Context(), m)
		e := deliveryError(t, err)
		if e.Phase != "check" || e.Kind != fluxly.Permanent || !errors.Is(err, fluxly.ErrInvalid) || !strings.Contains(e.Error(), "alerts") {
			t.Errorf("got %v", err)
		}
	}
	for _, mail := range server.Mails() {
		if mail.Stream != "lifecycle" || mail.Get("X-PM-Message-Stream") != "" {
			t.Errorf("stream %q header %q", mail.Stream, mail.Get("X-PM-Message-Stream"))
		}
	}
}

func TestNewPostmarkSMTPRefuses(t *testing.T) {
	t.Parallel()
	good := fluxly.PostmarkSMTPConfig{ServerToken: serverToken, MessageStream: "lifecycle-production"}
	if _, err := fluxly.NewPostmarkSMTP(good); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		change func(c *fluxly.PostmarkSMTPConfig)
		field  string
		text   string
	}{
		"no credentials":     {func(c *fluxly.PostmarkSMTPConfig) { c.ServerToken = "" }, "ServerToken", "API Tokens"},
		"token and newline":  {func(c *fluxly.PostmarkSMTPConfig) { c.ServerToken += "\n" }, "ServerToken", "line break"},
		"token and blank":    {func(c *fluxly.PostmarkSMTPConfig) { c.ServerToken = " " + c.ServerToken }, "ServerToken", "blanks"},
		"no token shape":     {func(c *fluxly.PostmarkSMTPConfig) { c.ServerToken = "s3cret" }, "ServerToken", "36 characters"},
		"GetFluxly's token":  {func(c *fluxly.PostmarkSMTPConfig) { c.ServerToken = "gflux_secret_live_s3cret" }, "ServerToken", "36 characters"},
		"access key":         {func(c *fluxly.PostmarkSMTPConfig) { c.ServerToken = "PM-B-lifecycle-s3cret" }, "ServerToken", "AccessKey"},
		"no stream":          {func(c *fluxly.PostmarkSMTPConfig) { c.MessageStream = "" }, "MessageStream", "outbound"},
		"stream by its name": {func(c *fluxly.PostmarkSMTPConfig) { c.MessageStream = "Lifecycle Mail" }, "stream", "Message Stream"},
		"stream too long":    {func(c *fluxly.PostmarkSMTPConfig) { c.MessageStream = strings.Repeat("a", 31) }, "stream", "at most 30"},
		"both kinds":         {func(c *fluxly.PostmarkSMTPConfig) { c.AccessKey, c.SecretKey = "PM-B-x", "s3cret" }, "AccessKey", "one of the two"},
		"account token": {func(c *fluxly.PostmarkSMTPConfig) {
			c.ServerToken, c.AccessKey, c.SecretKey = "", serverToken, otherToken
		}, "AccessKey", "account token does not work"},
		"server token as SMTP token": {func(c *fluxly.PostmarkSMTPConfig) {
			c.ServerToken, c.AccessKey, c.SecretKey = "", serverToken, serverToken
		}, "AccessKey", "give it as ServerToken"},
		"access key alone": {func(c *fluxly.PostmarkSMTPConfig) { c.ServerToken, c.AccessKey = "", "PM-B-x" }, "SecretKey", "empty"},
		"other host":       {func(c *fluxly.PostmarkSMTPConfig) { c.Host = "api.postmarkapp.com" }, "Host", fluxly.PostmarkSMTPHost},
		"bare domain":      {func(c *fluxly.PostmarkSMTPConfig) { c.Host = "PostmarkApp.com." }, "Host", fluxly.PostmarkSMTPHost},
		"host with port":   {func(c *fluxly.PostmarkSMTPConfig) { c.Host = "127.0.0.1:587" }, "Host", "Port"},
		"port 465":         {func(c *fluxly.PostmarkSMTPConfig) { c.Port = 465 }, "Port", "587"},
		"implicit TLS":     {func(c *fluxly.PostmarkSMTPConfig) { c.TLS = fluxly.TLSImplicit }, "TLS", "TLSStartTLS"},
		"no TLS":           {func(c *fluxly.PostmarkSMTPConfig) { c.TLS = fluxly.TLSOffOnLoopback }, "Host", "not this machine"},
		"11 connections":   {func(c *fluxly.PostmarkSMTPConfig) { c.MaxConnections = 11 }, "MaxConnections", "10"},
		"no verification": {func(c *fluxly.PostmarkSMTPConfig) {
			c.TLSConfig = &tls.Config{InsecureSkipVerify: true} //nolint:gosec // what is refused
		}, "TLSConfig", "RootCAs"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := good
			tt.change(&cfg)
			_, err := fluxly.NewPostmarkSMTP(cfg)
			wantFieldError(t, err, tt.field, tt.text)
		})
	}
}

func wantFieldError(t *testing.T, err error, field, text string) {
	t.Helper()
	var e *fluxly.FieldError
	if !errors.As(err, &e) || !errors.Is(err, fluxly.ErrInvalid) || e.Field != field || !strings.Contains(e.Error(), text) {
		t.Errorf("got %v, want field %s with %q", err, field, text)
	}
	for _, secret := range []string{serverToken, otherToken, "s3cret"} {
		if strings.Contains(fmt.Sprintf("%v %+v %#v", err, err, e), secret) {
			t.Error("the error holds the secret")
		}
	}
}

func TestNewSMTPRefuses(t *testing.T) {
	t.Parallel()
	good := fluxly.SMTPConfig{Host: "mail.acme.test", Username: "app", Password: "s3cret"}
	if _, err := fluxly.NewSMTP(good); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		change func(c *fluxly.SMTPConfig)
		field  string
		text   string
	}{
		"no host":           {func(c *fluxly.SMTPConfig) { c.Host = "" }, "Host", "empty"},
		"a URL":             {func(c *fluxly.SMTPConfig) { c.Host = "smtp://mail.acme.test" }, "Host", "scheme"},
		"host with port":    {func(c *fluxly.SMTPConfig) { c.Host = "mail.acme.test:587" }, "Host", "Port"},
		"Postmark":          {func(c *fluxly.SMTPConfig) { c.Host = "smtp.postmarkapp.com" }, "Host", "NewPostmarkSMTP"},
		"port":              {func(c *fluxly.SMTPConfig) { c.Port = 70000 }, "Port", "587"},
		"no TLS":            {func(c *fluxly.SMTPConfig) { c.TLS = fluxly.TLSOffOnLoopback }, "Host", "clear"},
		"unknown TLS":       {func(c *fluxly.SMTPConfig) { c.TLS = "ssl" }, "TLS", "TLSImplicit"},
		"password alone":    {func(c *fluxly.SMTPConfig) { c.Username = "" }, "Username", "both or neither"},
		"user alone":        {func(c *fluxly.SMTPConfig) { c.Password = "" }, "Password", "empty"},
		"password and NUL":  {func(c *fluxly.SMTPConfig) { c.Password = "s3cret\x00x" }, "Password", "NUL"},
		"password and line": {func(c *fluxly.SMTPConfig) { c.Password = "s3cret\r\nQUIT" }, "Password", "line break"},
		"local name":        {func(c *fluxly.SMTPConfig) { c.LocalName = "a\r\nMAIL" }, "LocalName", "ASCII"},
		"negative":          {func(c *fluxly.SMTPConfig) { c.Timeouts.Body = -time.Second }, "Timeouts.Body", "negative"},
		"old TLS": {func(c *fluxly.SMTPConfig) {
			c.TLSConfig = &tls.Config{MaxVersion: tls.VersionTLS11} //nolint:gosec // what is refused
		}, "TLSConfig", "TLS 1.2"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := good
			tt.change(&cfg)
			_, err := fluxly.NewSMTP(cfg)
			wantFieldError(t, err, tt.field, tt.text)
		})
	}
}

func TestSMTPConfigsPrintRedacted(t *testing.T) {
	t.Parallel()
	postmark := fluxly.PostmarkSMTPConfig{ServerToken: serverToken, AccessKey: otherToken, SecretKey: "s3cret", MessageStream: "lifecycle"}
	relay := fluxly.SMTPConfig{Host: "mail.acme.test", Username: "app", Password: "s3cret"}
	sender, err := fluxly.NewSMTP(relay)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	for _, v := range []any{postmark, &postmark, relay, &relay, sender} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		for _, h := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
			slog.New(h).Info("config", "v", v)
		}
	}
	for _, v := range []any{postmark, relay} {
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(data)
	}
	for _, secret := range []string{serverToken, otherToken, "s3cret", fmt.Sprintf("%x", "s3cret")} {
		if strings.Contains(out.String(), secret) {
			t.Errorf("printed %q", secret)
		}
	}
	if !strings.Contains(out.String(), "lifecycle") || !strings.Contains(out.String(), "[redacted]") {
		t.Error("nothing else is printed either")
	}
}

// What can go wrong, and the words for it.
func TestSMTPErrors(t *testing.T) {
	t.Parallel()
	reply := func(at, text string) func(c *smtptest.Conn, cmd string) bool {
		return func(c *smtptest.Conn, cmd string) bool {
			word, _, _ := strings.Cut(cmd, " ")
			if word != at {
				return false
			}
			c.Reply(text)
			return true
		}
	}
	for name, tt := range map[string]struct {
		hook    func(c *smtptest.Conn, cmd string) bool
		change  func(c *fluxly.PostmarkSMTPConfig)
		relay   func(c *fluxly.SMTPConfig)
		kind    fluxly.DeliveryKind
		account bool
		auth    bool
		phase   string
		code    int
		status  string
		text    string
		remedy  string
	}{
		"wrong token": {
			change: func(c *fluxly.PostmarkSMTPConfig) { c.ServerToken = otherToken },
			kind:   fluxly.Permanent, account: true, auth: true, phase: "auth", code: 535, status: "5.7.8",
			text: "Authentication failed", remedy: "API Tokens tab",
		},
		"wrong SMTP token": {
			change: func(c *fluxly.PostmarkSMTPConfig) { c.ServerToken, c.AccessKey, c.SecretKey = "", "PM-B-x", "s3cret" },
			kind:   fluxly.Permanent, account: true, auth: true, phase: "auth", code: 535, status: "5.7.8", remedy: "AccessKey and SecretKey",
		},
		"wrong password": {
			relay: func(c *fluxly.SMTPConfig) { c.Password = "s3cret" },
			kind:  fluxly.Permanent, account: true, auth: true, phase: "auth", code: 535, status: "5.7.8", remedy: "Username and Password",
		},
		"From refused": {
			hook: reply("MAIL", "550 5.7.1 sender not allowed"),
			kind: fluxly.Permanent, account: true, phase: "mail", code: 550, status: "5.7.1", text: "sender not allowed", remedy: "Sender Signatures",
		},
		"From refused at the end": {
			hook: reply(".", "550 5.0.0 The 'From' address you supplied is not a Sender Signature on your account."),
			kind: fluxly.Permanent, account: true, phase: "reply", code: 550, status: "5.0.0", remedy: "Sender Signatures",
		},
		"From refused by a relay": {
			hook: reply("MAIL", "553 5.7.1 not owned by user"), relay: func(*fluxly.SMTPConfig) {},
			kind: fluxly.Permanent, account: true, phase: "mail", code: 553, status: "5.7.1", remedy: "address in From",
		},
		"recipient refused": {
			hook: reply("RCPT", "550 5.1.1 no such user"),
			kind: fluxly.Permanent, phase: "rcpt", code: 550, status: "5.1.1", text: "ann@customer.test",
		},
		"busy": {
			hook: reply("MAIL", "451 4.3.0 later"),
			kind: fluxly.Temporary, phase: "mail", code: 451, status: "4.3.0",
		},
		"greeting 554": {
			hook: reply("", "554 5.7.1 not from there"),
			kind: fluxly.Permanent, account: true, phase: "greeting", code: 554, status: "5.7.1", text: "not from there",
		},
		"EHLO refused": {
			hook: reply("EHLO", "550 5.7.1 bad HELO"),
			kind: fluxly.Permanent, account: true, phase: "ehlo", code: 550, status: "5.7.1", remedy: "LocalName",
		},
		"no STARTTLS": {
			hook: reply("EHLO", "250-x\r\n250 AUTH PLAIN"),
			kind: fluxly.Permanent, account: true, phase: "starttls", text: "does not offer STARTTLS", remedy: "firewall",
		},
		"authority not trusted": {
			change: func(c *fluxly.PostmarkSMTPConfig) { c.RootCAs = nil },
			kind:   fluxly.Permanent, account: true, phase: "starttls", text: "unknown authority", remedy: "RootCAs",
		},
		"name not in the certificate": {
			change: func(c *fluxly.PostmarkSMTPConfig) { c.TLSConfig = &tls.Config{ServerName: "smtp.other.test"} },
			kind:   fluxly.Permanent, account: true, phase: "starttls", text: "smtp.other.test", remedy: "set Host",
		},
		"implicit TLS to STARTTLS": {
			relay: func(c *fluxly.SMTPConfig) { c.TLS = fluxly.TLSImplicit },
			kind:  fluxly.Permanent, account: true, phase: "dial", remedy: "TLSStartTLS",
		},
		"connection refused": {
			change: func(c *fluxly.PostmarkSMTPConfig) { c.Dial = refusedDial },
			kind:   fluxly.Temporary, account: true, phase: "dial", text: "refused", remedy: "block outbound port 587",
		},
		"connection refused by a relay": {
			relay: func(c *fluxly.SMTPConfig) { c.Dial = refusedDial },
			kind:  fluxly.Temporary, account: true, phase: "dial", remedy: "confirm host and port",
		},
		"port blocked": {
			change: func(c *fluxly.PostmarkSMTPConfig) {
				c.Timeouts.Dial = 20 * time.Millisecond
				c.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
					<-ctx.Done()
					return nil, ctx.Err()
				}
			},
			kind: fluxly.Temporary, account: true, phase: "dial", remedy: "smtp.postmarkapp.com and the port 587 with STARTTLS",
		},
		"no such host": {
			change: func(c *fluxly.PostmarkSMTPConfig) {
				c.Dial = func(context.Context, string, string) (net.Conn, error) {
					return nil, &net.DNSError{Err: "no such host", Name: "smtp.postmark.test", IsNotFound: true}
				}
			},
			kind: fluxly.Temporary, account: true, phase: "dial", text: "no such host", remedy: "exactly smtp.postmarkapp.com",
		},
		"reply lost": {
			hook: func(c *smtptest.Conn, cmd string) bool {
				if cmd == "." {
					c.Close()
				}
				return false
			},
			kind: fluxly.Unknown, phase: "reply", remedy: `send key "run_1/welcome/1" or Message-ID <`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := (&smtptest.Server{Hook: tt.hook, Username: serverToken, Password: serverToken}).Start(t)
			var s *fluxly.SMTPSender
			var err error
			host, port := splitAddr(t, srv.Addr)
			if tt.relay != nil {
				cfg := fluxly.SMTPConfig{Host: host, Port: port, RootCAs: srv.CA.Pool, Username: serverToken, Password: serverToken}
				tt.relay(&cfg)
				s, err = fluxly.NewSMTP(cfg)
			} else {
				cfg := fluxly.PostmarkSMTPConfig{Host: host, Port: port, RootCAs: srv.CA.Pool, ServerToken: serverToken, MessageStream: "lifecycle"}
				if tt.change != nil {
					tt.change(&cfg)
				}
				s, err = fluxly.NewPostmarkSMTP(cfg)
			}
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = s.Close() })
			_, err = s.Send(t.Context(), welcomeMail())
			e := deliveryError(t, err)
			if e.Kind != tt.kind || e.Account != tt.account || e.Auth != tt.auth || e.Phase != tt.phase || e.Code != tt.code || e.EnhancedCode != tt.status || e.Host != srv.Addr {
				t.Errorf("got %+v", e)
			}
			if !strings.Contains(e.Error(), tt.text) || !strings.Contains(e.Remedy, tt.remedy) || (tt.remedy == "") != (e.Remedy == "") {
				t.Errorf("text %q, remedy %q", e.Error(), e.Remedy)
			}
			for _, sentinel := range []struct {
				err  error
				want bool
			}{
				{fluxly.ErrTemporary, tt.kind == fluxly.Temporary},
				{fluxly.ErrPermanent, tt.kind == fluxly.Permanent},
				{fluxly.ErrUnknownOutcome, tt.kind == fluxly.Unknown},
				{fluxly.ErrAuth, tt.auth},
			} {
				if errors.Is(err, sentinel.err) != sentinel.want {
					t.Errorf("errors.Is %v is not %t", sentinel.err, sentinel.want)
				}
			}
			for _, secret := range []string{serverToken, otherToken, "s3cret"} {
				if strings.Contains(fmt.Sprintf("%v %+v %#v", err, e, *e), secret) {
					t.Error("the error holds the secret")
				}
			}
		})
	}
}

func refusedDial(ctx context.Context, _, _ string) (net.Conn, error) {
	// Port 1 of an address of this machine's own that nobody listens on.
	return new(net.Dialer).DialContext(ctx, "tcp", "127.0.0.1:1")
}

// The two other ways to protect a connection.
func TestSMTPTLSModes(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		server *smtptest.Server
		mode   fluxly.TLSMode
	}{
		"implicit":        {&smtptest.Server{ImplicitTLS: true}, fluxly.TLSImplicit},
		"off on loopback": {&smtptest.Server{NoTLS: true}, fluxly.TLSOffOnLoopback},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := relaySender(t, tt.server.Start(t), func(c *fluxly.SMTPConfig) { c.TLS = tt.mode })
			if err := s.Verify(t.Context()); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Send(t.Context(), welcomeMail()); err != nil {
				t.Fatal(err)
			}
			if len(tt.server.Mails()) != 1 {
				t.Errorf("%d mails", len(tt.server.Mails()))
			}
			// A server that wants neither is not sent to in the clear.
			if tt.mode == fluxly.TLSOffOnLoopback {
				strict := relaySender(t, tt.server, nil)
				if e := deliveryError(t, strict.Verify(t.Context())); e.Phase != "starttls" {
					t.Errorf("got %+v", e)
				}
			}
		})
	}
}

// Faults of the test kit's stand-in, as a user of fluxly would write them.
func TestPostmarkSMTPFaults(t *testing.T) {
	t.Parallel()
	server := fluxlytest.NewPostmarkSMTP(t, fluxlytest.PostmarkSMTPConfig{Streams: []string{"lifecycle"}})
	s := postmarkSender(t, server, nil)
	if _, err := s.Send(t.Context(), welcomeMail()); err != nil {
		t.Fatal(err)
	}
	// A connection that died while idle costs nothing but a new one.
	server.FailNext(fluxlytest.Fault{At: fluxlytest.AtMAIL, Drop: true})
	if _, err := s.Send(t.Context(), welcomeMail()); err != nil {
		t.Fatal(err)
	}
	// The reply to a whole mail is lost: it was stored, and is not sent again.
	server.FailNext(fluxlytest.Fault{At: fluxlytest.AtReply, Store: true, Drop: true})
	_, err := s.Send(t.Context(), welcomeMail())
	if e := deliveryError(t, err); e.Kind != fluxly.Unknown || e.Account {
		t.Errorf("got %+v", e)
	}
	if _, err := s.Send(t.Context(), welcomeMail()); err != nil {
		t.Fatal(err)
	}
	if n := len(server.Mails()); n != 4 {
		t.Errorf("%d mails, want 4", n)
	}
}

func TestSMTPVerify(t *testing.T) {
	t.Parallel()
	server := fluxlytest.NewPostmarkSMTP(t, fluxlytest.PostmarkSMTPConfig{Streams: []string{"lifecycle"}})
	if err := postmarkSender(t, server, nil).Verify(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(server.Mails()) != 0 {
		t.Error("verify sent a mail")
	}
	wrong := postmarkSender(t, server, func(c *fluxly.PostmarkSMTPConfig) { c.ServerToken = otherToken })
	for i := range 3 {
		err := wrong.Verify(t.Context())
		e := deliveryError(t, err)
		if !errors.Is(err, fluxly.ErrAuth) || e.Code != 535 || !strings.Contains(err.Error(), "API Tokens tab") || (i > 0) != (e.RetryAfter > 0) {
			t.Errorf("got %+v", e)
		}
	}
	if n := wrong.Stats().Dials; n != 1 {
		t.Errorf("tried %d times with refused credentials", n)
	}
}

// What cannot be composed opens no connection.
func TestSMTPRefusesBeforeTheWire(t *testing.T) {
	t.Parallel()
	srv := new(smtptest.Server).Start(t)
	s := relaySender(t, srv, nil)
	for name, m := range map[string]*fluxly.Message{
		"nothing":         nil,
		"empty":           {},
		"two recipients":  {From: "a@acme.test", To: "b@x.test, c@x.test", Text: "x"},
		"line in subject": {From: "a@acme.test", To: "b@x.test", Subject: "x\r\nBcc: c@x.test", Text: "x"},
		"line in name":    {From: "\"A\r\nB\" <a@acme.test>", To: "b@x.test", Text: "x"},
	} {
		_, err := s.Send(t.Context(), m)
		if e := deliveryError(t, err); e.Phase != "check" || e.Kind != fluxly.Permanent || e.Account || !errors.Is(err, fluxly.ErrInvalid) {
			t.Errorf("%s: %+v", name, e)
		}
	}
	if n, _ := srv.Conns(); n != 0 {
		t.Errorf("%d connections", n)
	}
}

// A relay gets the mail without Postmark's fields.
func TestSMTPRelay(t *testing.T) {
	t.Parallel()
	srv := new(smtptest.Server).Start(t)
	s := relaySender(t, srv, nil)
	m := welcomeMail()
	m.To, m.Stream, m.Tag = "Zoë <zoe@bücher.example>", "lifecycle", "trial"
	m.Text = ".\r\n..\n.leading dots\n"
	receipt, err := s.Send(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	if receipt.ID != "T1" {
		t.Errorf("receipt %+v", receipt)
	}
	mail := srv.Mails()[0]
	if mail.From != "hello@acme.test" || mail.To != "zoe@xn--bcher-kva.example" {
		t.Errorf("envelope %q %q", mail.From, mail.To)
	}
	if bytes.Contains(mail.Data, []byte("X-PM-")) {
		t.Errorf("Postmark's fields in\n%s", mail.Data)
	}
	if _, _, err := s.Lookup(t.Context(), m.SendKey); !errors.Is(err, fluxly.ErrLookupUnavailable) {
		t.Errorf("lookup: %v", err)
	}
}

func TestSMTPManySenders(t *testing.T) {
	t.Parallel()
	server := fluxlytest.NewPostmarkSMTP(t, fluxlytest.PostmarkSMTPConfig{Streams: []string{"lifecycle"}})
	s := postmarkSender(t, server, func(c *fluxly.PostmarkSMTPConfig) { c.MaxConnections = 4 })
	var all sync.WaitGroup
	for i := range 100 {
		all.Go(func() {
			m := welcomeMail()
			m.SendKey = "run_" + strconv.Itoa(i) + "/welcome/1"
			if _, err := s.Send(t.Context(), m); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	seen := map[string]int{}
	for _, mail := range server.Mails() {
		seen[mail.SendKey()]++
	}
	if len(seen) != 100 || len(server.Mails()) != 100 || s.Stats().Dials > 4 {
		t.Errorf("%d send keys, %d mails, %+v", len(seen), len(server.Mails()), s.Stats())
	}
}

func TestSMTPCloses(t *testing.T) {
	t.Parallel()
	srv := new(smtptest.Server).Start(t)
	s := relaySender(t, srv, nil)
	if _, err := s.Send(t.Context(), welcomeMail()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	_, err := s.Send(t.Context(), welcomeMail())
	if e := deliveryError(t, err); e.Kind != fluxly.Temporary || !errors.Is(err, fluxly.ErrClosed) {
		t.Errorf("got %+v", e)
	}
}

// A mail whose reply was lost is settled by asking Postmark's API.
func TestPostmarkSMTPLookup(t *testing.T) {
	t.Parallel()
	server := fluxlytest.NewPostmarkSMTP(t, fluxlytest.PostmarkSMTPConfig{Streams: []string{"lifecycle"}})
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		mail, found := server.Lookup(q.Get("metadata_send_key"))
		switch {
		case r.Header.Get("X-Postmark-Server-Token") != server.Token:
			w.WriteHeader(http.StatusUnauthorized)
		case r.URL.Path != "/messages/outbound":
			_, _ = w.Write([]byte(`{"MessageStreams":[]}`))
		case found && q.Get("messagestream") == "lifecycle":
			_ = json.NewEncoder(w).Encode(map[string]any{"TotalCount": 1, "Messages": []any{map[string]any{
				"MessageID": mail.ID, "Status": "Queued", "Metadata": mail.Metadata,
			}}})
		default:
			_, _ = w.Write([]byte(`{"TotalCount":0,"Messages":[]}`))
		}
	}))
	t.Cleanup(api.Close)
	s := postmarkSender(t, server, func(c *fluxly.PostmarkSMTPConfig) { c.APIBaseURL = api.URL })
	m := welcomeMail()
	server.FailNext(fluxlytest.Fault{At: fluxlytest.AtReply, Store: true, Drop: true})
	if _, err := s.Send(t.Context(), m); !errors.Is(err, fluxly.ErrUnknownOutcome) {
		t.Fatalf("got %v", err)
	}
	receipt, found, err := s.Lookup(t.Context(), m.SendKey)
	if err != nil || !found || receipt.ID != server.Mails()[0].ID {
		t.Errorf("%+v %t %v", receipt, found, err)
	}
	if _, found, err = s.Lookup(t.Context(), "run_2/welcome/1"); err != nil || found {
		t.Errorf("%t %v", found, err)
	}
	if s.LookupDelay() != time.Minute {
		t.Errorf("delay %v", s.LookupDelay())
	}
	// A stand-in's mails are not looked for at Postmark.
	alone := postmarkSender(t, server, nil)
	if _, _, err := alone.Lookup(t.Context(), m.SendKey); !errors.Is(err, fluxly.ErrLookupUnavailable) || alone.LookupDelay() != 0 {
		t.Errorf("got %v", err)
	}
}
