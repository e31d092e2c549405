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
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

const testAPIKey = "gflux_secret_live_0123456789abcdef"

// seen is one request as it arrived.
type seen struct {
	method, path, body string
	header             http.Header
	at                 time.Time
}

// script is a RoundTripper in memory that gives one answer after another, the
// last one for good.
type script struct {
	mu      sync.Mutex
	answers []answer
	seen    []seen
}

type answer struct {
	status int
	header map[string]string
	body   string
	err    error
	// brk ends the body with this error.
	brk error
	// hang waits for the request's context.
	hang bool
}

func (s *script) RoundTrip(req *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.seen = append(s.seen, seen{req.Method, req.URL.EscapedPath(), string(body), req.Header.Clone(), time.Now()})
	a := s.answers[min(len(s.seen), len(s.answers))-1]
	s.mu.Unlock()
	if a.hang {
		<-req.Context().Done()
		return nil, req.Context().Err()
	}
	if a.err != nil {
		return nil, a.err
	}
	h := http.Header{}
	for k, v := range a.header {
		h.Set(k, v)
	}
	var r io.Reader = strings.NewReader(a.body)
	if a.brk != nil {
		r = io.MultiReader(r, errReader{a.brk})
	}
	return &http.Response{StatusCode: a.status, Header: h, Body: io.NopCloser(r), Request: req}, nil
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

// scripted makes a client that talks to the answers, with a jitter of nothing.
func scripted(t *testing.T, cfg ClientConfig, answers ...answer) (*Client, *script) {
	t.Helper()
	s := &script{answers: answers}
	if cfg.APIKey == "" {
		cfg.APIKey = testAPIKey
	}
	cfg.HTTPClient = &http.Client{Transport: s}
	c, err := NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	c.jitter = func() float64 { return 0.5 }
	return c, s
}

var accepted = answer{status: 202, body: `{"accepted":1,"rejected":0,"request_id":"req_1"}`}

func simpleEvent() Event { return Event{Name: "signed_up", ExternalID: "user_42"} }

// The retry table of https://docs.getfluxly.com/snippets/error-table and what
// it costs in time.
func TestClientRetries(t *testing.T) {
	t.Parallel()
	status := func(n int) answer { return answer{status: n, body: `{"error":"x","detail":"no"}`} }
	after := func(n int, wait string) answer {
		return answer{status: n, header: map[string]string{"Retry-After": wait}}
	}
	refused := answer{err: errors.New("connection refused")}
	const ms, s = time.Millisecond, time.Second
	tests := []struct {
		name    string
		cfg     ClientConfig
		answers []answer
		tries   int
		took    time.Duration
		is      error // nil: success
	}{
		{"at once", ClientConfig{}, []answer{accepted}, 1, 0, nil},
		{"200", ClientConfig{}, []answer{{status: 200, body: `{}`}}, 1, 0, nil},
		{"201", ClientConfig{}, []answer{{status: 201}}, 1, 0, nil},
		{"204", ClientConfig{}, []answer{{status: 204}}, 1, 0, nil},
		{"202 with text", ClientConfig{}, []answer{{status: 202, body: "OK"}}, 1, 0, nil},
		{"400", ClientConfig{}, []answer{status(400)}, 1, 0, ErrInvalid},
		{"401", ClientConfig{}, []answer{status(401)}, 1, 0, ErrUnauthenticated},
		{"403", ClientConfig{}, []answer{status(403)}, 1, 0, ErrForbidden},
		{"404", ClientConfig{}, []answer{status(404)}, 1, 0, ErrNotFound},
		{"409", ClientConfig{}, []answer{{status: 409, body: `{"error":"alias_conflict"}`}}, 1, 0, ErrAliasConflict},
		{"413", ClientConfig{}, []answer{status(413)}, 1, 0, ErrTooLarge},
		{"400 with Retry-After", ClientConfig{}, []answer{after(400, "1")}, 1, 0, ErrInvalid},
		{"408 then in", ClientConfig{}, []answer{status(408), accepted}, 2, 500 * ms, nil},
		{"425 then in", ClientConfig{}, []answer{status(425), accepted}, 2, 500 * ms, nil},
		{"429 then in", ClientConfig{}, []answer{status(429), accepted}, 2, 500 * ms, nil},
		{"500 502 then in", ClientConfig{}, []answer{status(500), status(502), accepted}, 3, 1500 * ms, nil},
		{"501 then in", ClientConfig{}, []answer{status(501), accepted}, 2, 500 * ms, nil},
		{"599 then in", ClientConfig{}, []answer{status(599), accepted}, 2, 500 * ms, nil},
		{"network then in", ClientConfig{}, []answer{refused, accepted}, 2, 500 * ms, nil},
		{"cut reply then in", ClientConfig{}, []answer{{status: 202, body: `{"acc`, brk: io.ErrUnexpectedEOF}, accepted}, 2, 500 * ms, nil},
		{"503 for good", ClientConfig{}, []answer{status(503)}, 3, 1500 * ms, ErrUnavailable},
		{"429 for good", ClientConfig{}, []answer{status(429)}, 3, 1500 * ms, ErrRateLimited},
		{"network for good", ClientConfig{}, []answer{refused}, 3, 1500 * ms, ErrUnavailable},
		{"never", ClientConfig{MaxRetries: -1}, []answer{status(503)}, 1, 0, ErrUnavailable},
		{"ten", ClientConfig{MaxRetries: 10, MaxRetryWait: 3 * s}, []answer{status(503)}, 11, 500*ms + s + 2*s + 7*3*s, ErrUnavailable},
		{"then 401", ClientConfig{}, []answer{status(503), status(401)}, 2, 500 * ms, ErrUnauthenticated},
		{"Retry-After in seconds", ClientConfig{}, []answer{after(429, "7"), accepted}, 2, 7 * s, nil},
		{"Retry-After on 503", ClientConfig{}, []answer{after(503, "2"), accepted}, 2, 2 * s, nil},
		{"Retry-After as a date", ClientConfig{}, []answer{{status: 429, header: map[string]string{
			"Date": "Fri, 29 May 2026 09:30:00 GMT", "Retry-After": "Fri, 29 May 2026 09:30:11 GMT",
		}}, accepted}, 2, 11 * s, nil},
		{"Retry-After in the past", ClientConfig{}, []answer{{status: 429, header: map[string]string{
			"Date": "Fri, 29 May 2026 09:30:00 GMT", "Retry-After": "Fri, 29 May 2026 09:20:00 GMT",
		}}, accepted}, 2, 500 * ms, nil},
		{"Retry-After of no sense", ClientConfig{}, []answer{after(429, "soon"), accepted}, 2, 500 * ms, nil},
		{"Retry-After too long", ClientConfig{}, []answer{after(429, "31"), accepted}, 1, 0, ErrRateLimited},
		{"Retry-After of eternity", ClientConfig{}, []answer{after(429, "99999999999999999999999"), accepted}, 1, 0, ErrRateLimited},
		{"try that hangs", ClientConfig{Timeout: s}, []answer{{hang: true}, accepted}, 2, 1500 * ms, nil},
		{"hangs for good", ClientConfig{MaxRetries: 1}, []answer{{hang: true}}, 2, 10*s + 500*ms, ErrUnavailable},
		{"redirect", ClientConfig{}, []answer{{status: 307, header: map[string]string{"Location": "https://evil.test/v1/events"}}, accepted}, 1, 0, errAny},
		{"certificate", ClientConfig{}, []answer{{err: &tls.CertificateVerificationError{Err: errors.New("x")}}, accepted}, 1, 0, ErrUnavailable},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c, s := scripted(t, tt.cfg, tt.answers...)
				start := time.Now()
				err := c.Track(t.Context(), simpleEvent())
				if took := time.Since(start); took != tt.took {
					t.Errorf("took %v, want %v", took, tt.took)
				}
				if len(s.seen) != tt.tries {
					t.Errorf("%d tries, want %d", len(s.seen), tt.tries)
				}
				key := s.seen[0].header.Get("X-Idempotency-Key")
				for _, r := range s.seen {
					if r.header.Get("X-Idempotency-Key") != key || len(key) != 36 {
						t.Errorf("idempotency key %q, the first was %q", r.header.Get("X-Idempotency-Key"), key)
					}
					if r.body != s.seen[0].body || r.body == "" {
						t.Errorf("body %s, the first was %s", r.body, s.seen[0].body)
					}
				}
				if tt.is == nil {
					if err != nil {
						t.Errorf("Track = %v", err)
					}
					return
				}
				var ae *APIError
				if !errors.As(err, &ae) || !(errors.Is(err, tt.is) || errors.Is(tt.is, errAny)) {
					t.Fatalf("Track = %v, want an APIError that is %v", err, tt.is)
				}
				if ae.Tries != tt.tries {
					t.Errorf("error of %d tries, want %d", ae.Tries, tt.tries)
				}
				if strings.Contains(err.Error(), testAPIKey) || strings.Contains(err.Error(), "api.getfluxly.com") {
					t.Errorf("error %q holds key or URL", err)
				}
			})
		})
	}
}

var errAny = errors.New("any")

func TestClientJitter(t *testing.T) {
	t.Parallel()
	for jitter, want := range map[float64]time.Duration{0: 375 * time.Millisecond, 0.5: 500 * time.Millisecond, 1: 625 * time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			c, s := scripted(t, ClientConfig{}, answer{status: 500}, accepted)
			c.jitter = func() float64 { return jitter }
			if err := c.Track(t.Context(), simpleEvent()); err != nil {
				t.Fatal(err)
			}
			if got := s.seen[1].at.Sub(s.seen[0].at); got != want {
				t.Errorf("jitter %v: waited %v, want %v", jitter, got, want)
			}
		})
	}
}

func TestClientContext(t *testing.T) {
	t.Parallel()
	t.Run("ends while waiting", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			c, s := scripted(t, ClientConfig{}, answer{status: 429, header: map[string]string{"Retry-After": "20"}})
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(3*time.Second, cancel)
			start := time.Now()
			err := c.Track(ctx, simpleEvent())
			if time.Since(start) != 3*time.Second || len(s.seen) != 1 {
				t.Errorf("came back after %v and %d tries", time.Since(start), len(s.seen))
			}
			if !errors.Is(err, context.Canceled) || !errors.Is(err, ErrRateLimited) || errors.Is(err, ErrUnavailable) {
				t.Errorf("error %v, want canceled, and why it waited", err)
			}
		})
	})
	t.Run("ends in a try", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			c, s := scripted(t, ClientConfig{Timeout: -1}, answer{hang: true})
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			err := c.Track(ctx, simpleEvent())
			if !errors.Is(err, context.DeadlineExceeded) || len(s.seen) != 1 {
				t.Errorf("error %v after %d tries", err, len(s.seen))
			}
		})
	})
	t.Run("deadline before the wait ends", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			c, _ := scripted(t, ClientConfig{}, answer{status: 429, header: map[string]string{"Retry-After": "20"}})
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			start := time.Now()
			err := c.Track(ctx, simpleEvent())
			var ae *APIError
			if !errors.As(err, &ae) || ae.RetryAfter != 20*time.Second || !ae.Retryable || time.Since(start) != 0 {
				t.Errorf("error %v after %v, want the rate limit at once", err, time.Since(start))
			}
		})
	})
	t.Run("ended before", func(t *testing.T) {
		t.Parallel()
		c, _ := scripted(t, ClientConfig{}, accepted)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := c.Track(ctx, simpleEvent()); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v, want canceled", err)
		}
	})
}

// What is not documented must not hurt: facts of replies in every form.
func TestAPIErrorForms(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		a    answer
		want APIError
		text string
	}{
		{
			"documented",
			answer{status: 403, body: `{"error":"wrong_key_type","detail":"server key needed","received":"publishable","request_id":"req_9"}`},
			APIError{Status: 403, Code: "wrong_key_type", Detail: "server key needed", RequestID: "req_9"},
			"getfluxly POST /v1/events: 403 wrong_key_type: server key needed (request req_9); use a server key (gflux_secret_...)",
		},
		{"no body", answer{status: 401}, APIError{Status: 401, Code: "unauthenticated"}, "401 unauthenticated; check"},
		{"no detail", answer{status: 404, body: `{"error":"not_found"}`}, APIError{Status: 404, Code: "not_found"}, ""},
		{"html", answer{status: 403, body: "<html>blocked</html>"}, APIError{Status: 403, Code: "forbidden"}, ""},
		{"unknown code", answer{status: 400, body: `{"error":"too_shiny","detail":"dull it"}`}, APIError{Status: 400, Code: "too_shiny", Detail: "dull it"}, ""},
		{"unknown status", answer{status: 418, body: `{}`}, APIError{Status: 418, Code: "unexpected_status"}, ""},
		{"message instead", answer{status: 400, body: `{"code":"bad","message":"no name"}`}, APIError{Status: 400, Code: "bad", Detail: "no name"}, ""},
		{"nested", answer{status: 400, body: `{"error":{"code":"bad","message":"no name"}}`}, APIError{Status: 400, Code: "bad", Detail: "no name"}, ""},
		{"sentence", answer{status: 400, body: `{"error":"Something went wrong."}`}, APIError{Status: 400, Code: "validation_error", Detail: "Something went wrong."}, ""},
		{"detail of lists", answer{status: 400, body: `{"error":"bad","detail":[{"field":"event"}]}`}, APIError{Status: 400, Code: "bad", Detail: `[{"field":"event"}]`}, ""},
		{"control characters", answer{status: 400, body: `{"error":"bad","detail":"a\r\nb\u0000"}`}, APIError{Status: 400, Code: "bad", Detail: "a  b"}, ""},
		{"array", answer{status: 400, body: `[1]`}, APIError{Status: 400, Code: "validation_error"}, ""},
		{"request id in a header", answer{status: 400, header: map[string]string{"X-Request-Id": "req_h"}}, APIError{Status: 400, Code: "validation_error", RequestID: "req_h"}, ""},
		{
			"redirect",
			answer{status: 308, header: map[string]string{"Location": "https://user:pw@evil.test/x?token=y"}},
			APIError{Status: 308, Code: "unexpected_status", Detail: "redirected to evil.test"},
			"set BaseURL",
		},
		{"page for a 200", answer{status: 200, body: "<!doctype html><p>log in</p>"}, APIError{Status: 200, Code: "unexpected_reply", Detail: "a web page instead of the API's reply"}, "BaseURL"},
		{"error in a 200", answer{status: 200, body: `{"error":"validation_error","detail":"no"}`}, APIError{Status: 200, Code: "validation_error", Detail: "no"}, ""},
		{"false in a 200", answer{status: 200, body: `{"success":false,"message":"no"}`}, APIError{Status: 200, Code: "failed", Detail: "no"}, ""},
		{
			"rejected in a 202",
			answer{status: 202, body: `{"accepted":0,"rejected":1,"errors":[{"index":0,"error":"validation_error","detail":"bad name"}],"request_id":"r"}`},
			APIError{Status: 202, Code: "validation_error", Detail: "bad name", RequestID: "r"},
			"",
		},
		{"rejected without a reason", answer{status: 202, body: `{"rejected":1}`}, APIError{Status: 202, Code: "rejected"}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c, _ := scripted(t, ClientConfig{}, tt.a)
			err := c.Track(t.Context(), simpleEvent())
			var e *APIError
			if !errors.As(err, &e) {
				t.Fatalf("Track = %v, want an APIError", err)
			}
			if e.Status != tt.want.Status || e.Code != tt.want.Code || e.Detail != tt.want.Detail || e.RequestID != tt.want.RequestID {
				t.Errorf("got status %d, code %q, detail %q, request %q", e.Status, e.Code, e.Detail, e.RequestID)
			}
			if e.Op != "POST /v1/events" || e.Tries != 1 || string(e.Body) != tt.a.body || e.Retryable {
				t.Errorf("got op %q, %d tries, body %q, retryable %v", e.Op, e.Tries, e.Body, e.Retryable)
			}
			if !strings.Contains(err.Error(), tt.text) {
				t.Errorf("error %q does not say %q", err, tt.text)
			}
			if invalid := errors.Is(err, ErrInvalid); invalid != (e.Status == 400 || (e.Status < 300 && e.Code == "validation_error")) {
				t.Errorf("is ErrInvalid: %v", invalid)
			}
		})
	}
	t.Run("fields are kept", func(t *testing.T) {
		t.Parallel()
		c, _ := scripted(t, ClientConfig{}, answer{status: 409, body: `{"error":"alias_conflict","source":{"user_id":"a","n":9007199254740993}}`})
		err := c.Alias(t.Context(), Alias{UserID: "u", PreviousID: "p"})
		var e *APIError
		if !errors.As(err, &e) || !errors.Is(err, ErrAliasConflict) {
			t.Fatal(err)
		}
		if m, _ := e.Fields["source"].(map[string]any); m["user_id"] != "a" || m["n"] != int64(9007199254740993) {
			t.Errorf("fields %v", e.Fields)
		}
	})
}

func TestClientBoundsReplies(t *testing.T) {
	t.Parallel()
	for _, status := range []int{400, 202} {
		c, _ := scripted(t, ClientConfig{}, answer{status: status, body: `{"detail":"` + strings.Repeat("x", 10<<20) + `"}`})
		err := c.Track(t.Context(), simpleEvent())
		var e *APIError
		if status == 202 {
			if err != nil {
				t.Errorf("202: %v", err)
			}
			continue
		}
		if !errors.As(err, &e) || len(e.Body) > maxAPIErrorBody || len(err.Error()) > 2000 {
			t.Errorf("%d: body of %d bytes, error of %d", status, len(e.Body), len(err.Error()))
		}
	}
}

func TestNewClientRefuses(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, field string
		cfg         ClientConfig
	}{
		{"no key", "APIKey", ClientConfig{}},
		{"newline", "APIKey", ClientConfig{APIKey: testAPIKey + "\n"}},
		{"blank", "APIKey", ClientConfig{APIKey: " " + testAPIKey}},
		{"not ASCII", "APIKey", ClientConfig{APIKey: testAPIKey + "é"}},
		{"no scheme", "BaseURL", ClientConfig{APIKey: testAPIKey, BaseURL: "api.getfluxly.com"}},
		{"other scheme", "BaseURL", ClientConfig{APIKey: testAPIKey, BaseURL: "ftp://api.getfluxly.com"}},
		{"plain", "BaseURL", ClientConfig{APIKey: testAPIKey, BaseURL: "http://api.getfluxly.com"}},
		{"password", "BaseURL", ClientConfig{APIKey: testAPIKey, BaseURL: "https://u:hunter2@api.getfluxly.com"}},
		{"password, bad URL", "BaseURL", ClientConfig{APIKey: testAPIKey, BaseURL: "https://u:hunter2@api getfluxly.com"}},
		{"query", "BaseURL", ClientConfig{APIKey: testAPIKey, BaseURL: "https://api.getfluxly.com?api_key=hunter2"}},
		{"no host", "BaseURL", ClientConfig{APIKey: testAPIKey, BaseURL: "https://"}},
		{"negative wait", "MaxRetryWait", ClientConfig{APIKey: testAPIKey, MaxRetryWait: -1}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := NewClient(tt.cfg)
			wantField(t, err, tt.field)
			if err != nil && (strings.Contains(err.Error(), testAPIKey) || strings.Contains(err.Error(), "hunter2")) {
				t.Errorf("error %q holds a secret", err)
			}
		})
	}
	for _, cfg := range []ClientConfig{
		{APIKey: "gf_live_abc"},
		{APIKey: "pk_live_1", BaseURL: "https://proxy.acme.test/gf/"},
		{APIKey: testAPIKey, BaseURL: "http://127.0.0.1:8080"},
		{APIKey: testAPIKey, BaseURL: "http://[::1]:80"},
		{APIKey: testAPIKey, BaseURL: "http://gf.internal", PlainHTTP: true},
	} {
		if _, err := NewClient(cfg); err != nil {
			t.Errorf("%v: %v", cfg, err)
		}
	}
}

func TestClientBaseURLPath(t *testing.T) {
	t.Parallel()
	c, s := scripted(t, ClientConfig{BaseURL: "https://proxy.acme.test/gf/"}, accepted)
	if err := c.Track(t.Context(), simpleEvent()); err != nil {
		t.Fatal(err)
	}
	if got := s.seen[0].path; got != "/gf/v1/events" {
		t.Errorf("path %s", got)
	}
}

func TestClientHeaders(t *testing.T) {
	t.Parallel()
	c, s := scripted(t, ClientConfig{}, accepted)
	for range 2 {
		if err := c.Track(t.Context(), simpleEvent()); err != nil {
			t.Fatal(err)
		}
	}
	h := s.seen[0].header
	for name, want := range map[string]string{
		"Authorization": "Bearer " + testAPIKey, "Content-Type": "application/json", "Accept": "application/json",
	} {
		if got := h.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if !strings.HasPrefix(h.Get("User-Agent"), "fluxly-go") {
		t.Errorf("user agent %q", h.Get("User-Agent"))
	}
	if a, b := h.Get("X-Idempotency-Key"), s.seen[1].header.Get("X-Idempotency-Key"); a == b {
		t.Errorf("two calls share the idempotency key %s", a)
	}
}

// Over real connections: the key goes nowhere else, and a reply that repeats
// secrets does not bring them into an error.
func TestClientKeepsSecrets(t *testing.T) {
	t.Parallel()
	const token = "9b9b9b9b-1111-2222-3333-444444444444"
	var leaked sync.Map
	other := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		leaked.Store(r.URL.Path, r.Header.Get("Authorization"))
	}))
	defer other.Close()
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if strings.HasSuffix(r.URL.Path, "/events") {
			http.Redirect(w, r, other.URL+"/stolen", http.StatusTemporaryRedirect)
			return
		}
		w.WriteHeader(http.StatusBadRequest)
		quoted, _ := json.Marshal(string(body) + r.Header.Get("Authorization"))
		fmt.Fprintf(w, `{"error":"validation_error","detail":%s}`, quoted)
	}))
	defer api.Close()
	var log bytes.Buffer
	c, err := NewClient(ClientConfig{
		APIKey: testAPIKey, BaseURL: api.URL,
		Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	errs := []error{c.Track(t.Context(), simpleEvent())}
	_, err = c.CreateProvider(t.Context(), "p1", PostmarkProvider(token, "hello@acme.test"))
	errs = append(errs, err)
	api.Close()
	errs = append(errs, c.Track(t.Context(), simpleEvent()))
	leaked.Range(func(path, auth any) bool {
		t.Errorf("the redirect was followed to %v with %q", path, auth)
		return true
	})
	for _, err := range errs {
		var e *APIError
		if !errors.As(err, &e) {
			t.Fatalf("error %v, want an APIError", err)
		}
		dump := fmt.Sprintf("%v %+v %#v %s %v", e, *e, *e, e.Body, e.Fields)
		for _, secret := range []string{testAPIKey, token} {
			if strings.Contains(dump, secret) {
				t.Errorf("error holds %s: %s", secret, dump)
			}
		}
	}
	if strings.Contains(log.String(), testAPIKey) {
		t.Error("the log holds the key")
	}
}

func TestClientConfigPrintsNoKey(t *testing.T) {
	t.Parallel()
	cfg := ClientConfig{APIKey: testAPIKey, BaseURL: "https://u:hunter2@x.test/?api_key=hunter2"}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "config", cfg, "pointer", &cfg)
	j, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewClient(ClientConfig{APIKey: testAPIKey})
	if err != nil {
		t.Fatal(err)
	}
	dump := log.String() + fmt.Sprintf("%v %+v %#v %s %q %d %x", cfg, cfg, cfg, cfg, cfg, cfg, cfg) + fmt.Sprintf("%v %+v", &cfg, struct{ C ClientConfig }{cfg}) +
		fmt.Sprintf("%v %+v %#v", c, c, c)
	for _, secret := range []string{testAPIKey, "hunter2", fmt.Sprintf("%x", testAPIKey)} {
		if strings.Contains(dump, secret) {
			t.Errorf("%s in %s", secret, dump)
		}
	}
	if strings.Contains(string(j), testAPIKey) {
		t.Errorf("key in %s", j)
	}
	if !strings.Contains(dump, redacted) {
		t.Errorf("nothing says that there is a key: %s", dump)
	}
}

func TestClientManyGoroutines(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var ids []string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var e Event
		if err := json.NewDecoder(r.Body).Decode(&e); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		mu.Lock()
		ids = append(ids, e.MessageID)
		mu.Unlock()
		w.WriteHeader(http.StatusAccepted)
		_, _ = io.WriteString(w, accepted.body)
	}))
	defer srv.Close()
	c, err := NewClient(ClientConfig{APIKey: testAPIKey, BaseURL: srv.URL})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				if err := c.Track(t.Context(), simpleEvent()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	slices.Sort(ids)
	if n := len(slices.Compact(ids)); n != 160 {
		t.Errorf("%d message ids, want 160", n)
	}
}

func FuzzReplyError(f *testing.F) {
	for _, s := range []string{
		`{"error":"validation_error","detail":"x"}`, `{"error":{"code":1}}`, `{"detail":{"a":[]}}`, `<html>`, "\xff", `{"request_id":"\r\n"}`, ``,
		`{"accepted":1,"rejected":2,"errors":[{"index":-9007199254740993,"error":null},7]}`,
	} {
		f.Add(400, "3", []byte(s))
		f.Add(202, "Fri, 29 May 2026 09:30:11 GMT", []byte(s))
	}
	f.Fuzz(func(t *testing.T, status int, after string, body []byte) {
		c := &Client{key: NewSecret(testAPIKey), now: time.Now}
		r := c.readReply(&http.Response{StatusCode: status, Header: http.Header{"Retry-After": {after}}, Body: io.NopCloser(bytes.NewReader(append(body, testAPIKey...)))}, nil)
		e := replyError("POST /x", r)
		text := e.Error()
		if len(text) > 3000 || len(e.Body) > maxAPIErrorBody || e.Code == "" {
			t.Fatalf("error of %d bytes, body of %d, code %q", len(text), len(e.Body), e.Code)
		}
		if strings.ContainsAny(text, "\r\n\x00") || strings.Contains(text, testAPIKey) || bytes.Contains(e.Body, []byte(testAPIKey)) {
			t.Fatalf("error %q", text)
		}
		if e.RetryAfter < 0 || e.RetryAfter > longestRetryAfter {
			t.Fatalf("retry after %v", e.RetryAfter)
		}
		for _, rej := range rejectionsOf(r) {
			if rej.Code == "" {
				t.Fatal("rejection without a code")
			}
		}
	})
}

func BenchmarkClientTrack(b *testing.B) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusAccepted)
		_, _ = io.WriteString(w, accepted.body)
	}))
	defer srv.Close()
	c, err := NewClient(ClientConfig{APIKey: testAPIKey, BaseURL: srv.URL})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	e := ordinaryEvent()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := c.Track(b.Context(), e); err != nil {
				b.Error(err)
			}
		}
	})
}
