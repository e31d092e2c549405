package fluxlyhttp

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/getfluxly/fluxly"
)

const (
	serverKey      = "gflux_secret_live_0123456789"
	publishableKey = "gflux_pub_live_0123456789"
)

// recorder is a Tracker that keeps events as an engine does: a message id
// counts once, and another body under it is a conflict.
type recorder struct {
	mu       sync.Mutex
	events   []fluxly.Event
	bodies   map[string]string
	aliases  []fluxly.Alias
	erasures []fluxly.Erasure
	// fail is returned instead, when it is set and says so.
	fail func(fluxly.Event) error
}

func (t *recorder) Track(ctx context.Context, e fluxly.Event) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := e.Validate(); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.fail != nil {
		if err := t.fail(e); err != nil {
			return err
		}
	}
	body, err := json.Marshal(e)
	if err != nil {
		return err
	}
	if e.MessageID != "" {
		if known, ok := t.bodies[e.MessageID]; ok {
			if known != string(body) {
				return fmt.Errorf("message_id %q: %w", e.MessageID, fluxly.ErrConflict)
			}
			return nil
		}
		if t.bodies == nil {
			t.bodies = map[string]string{}
		}
		t.bodies[e.MessageID] = string(body)
	}
	t.events = append(t.events, e)
	return nil
}

func (t *recorder) Identify(context.Context, fluxly.Identity) error { return errors.New("not called") }

func (t *recorder) Alias(_ context.Context, a fluxly.Alias) error {
	if err := a.Validate(); err != nil {
		return err
	}
	t.aliases = append(t.aliases, a)
	return nil
}

func (t *recorder) Erase(_ context.Context, e fluxly.Erasure) error {
	if err := e.Validate(); err != nil {
		return err
	}
	if e.ID == "nobody" {
		return fmt.Errorf("erase: %w", fluxly.ErrNotFound)
	}
	t.erasures = append(t.erasures, e)
	return nil
}

func newIntake(t *testing.T, tracker fluxly.Tracker) *Intake {
	t.Helper()
	h, err := NewIntake(IntakeConfig{
		Tracker:    tracker,
		ServerKeys: []fluxly.Secret{fluxly.NewSecret("another_key_0123456789"), fluxly.NewSecret(serverKey)}, PublishableKeys: []fluxly.Secret{fluxly.NewSecret(publishableKey)},
	})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func post(h http.Handler, path, key, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(body))
	if key != "" {
		r.Header.Set("Authorization", "Bearer "+key)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestIntakeRefusals(t *testing.T) {
	t.Parallel()
	const event = `{"event":"signed_up","external_id":"u1"}`
	many := `{"events":[` + strings.TrimSuffix(strings.Repeat(event+",", 101), ",") + `]}`
	tests := []struct {
		name, path, key, body string
		status                int
		code, text            string
	}{
		{"no key", "/v1/events", "", event, 401, "unauthenticated", "no key"},
		{"unknown key", "/v1/events", serverKey + "x", event, 401, "unauthenticated", "not known"},
		{"part of a key", "/v1/events", serverKey[:20], event, 401, "unauthenticated", "not known"},
		{"server key in the URL", "/v1/events?api_key=" + serverKey, "", event, 401, "unauthenticated", "URL"},
		{"unknown path", "/v1/event", serverKey, event, 404, "not_found", ""},
		{"erase of a deeper path", "/v1/profiles/a/b/erase", serverKey, `{}`, 404, "not_found", ""},
		{"alias, publishable", "/v1/identify/alias", publishableKey, `{}`, 403, "wrong_key_type", ""},
		{"erase, publishable", "/v1/profiles/u/erase", publishableKey, `{}`, 403, "wrong_key_type", ""},
		{"traits, publishable", "/v1/events", publishableKey, `{"event":"identify","external_id":"u","traits":{"email":"x@y.test"}}`, 403, "wrong_key_type", "traits"},
		{"no JSON", "/v1/events", serverKey, `{`, 400, "validation_error", "JSON"},
		{"null", "/v1/events", serverKey, `null`, 400, "validation_error", "event"},
		{"bad name", "/v1/events", serverKey, `{"event":"Signed Up","external_id":"u1"}`, 400, "validation_error", "snake_case"},
		{"bad type", "/v1/events", serverKey, `{"event":"a","external_id":1}`, 400, "validation_error", "external_id: is a number"},
		{"too large", "/v1/events", serverKey, `{"event":"a","external_id":"` + strings.Repeat("x", 32<<10) + `"}`, 413, "payload_too_large", "32768"},
		{"batch too large", "/v1/events/batch", serverKey, strings.Repeat(" ", 256<<10+1), 413, "payload_too_large", "262144"},
		{"too many", "/v1/events/batch", serverKey, many, 413, "payload_too_large", "101 events"},
		{"no events", "/v1/events/batch", serverKey, `{}`, 400, "validation_error", "events: missing"},
		{"events of no list", "/v1/events/batch", serverKey, `{"events":{}}`, 400, "validation_error", ""},
		{"no reason", "/v1/profiles/u/erase", serverKey, `{}`, 400, "validation_error", "reason"},
		{"nobody", "/v1/profiles/nobody/erase", serverKey, `{"reason":"gdpr_dsr"}`, 404, "not_found", ""},
		{"alias without ids", "/v1/identify/alias", serverKey, `{}`, 400, "validation_error", "user_id"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tracker := &recorder{}
			w := post(newIntake(t, tracker), tt.path, tt.key, tt.body)
			var got struct{ Error, Detail, Received string }
			if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
				t.Fatal(err)
			}
			if w.Code != tt.status || got.Error != tt.code || !strings.Contains(got.Detail, tt.text) {
				t.Errorf("%d %s, want %d %s with %q", w.Code, w.Body, tt.status, tt.code, tt.text)
			}
			if (got.Received == "publishable") != (tt.code == "wrong_key_type") {
				t.Errorf("received %q", got.Received)
			}
			if len(tracker.events)+len(tracker.aliases)+len(tracker.erasures) > 0 {
				t.Error("something was tracked")
			}
			if w.Header().Get("Content-Type") != "application/json" {
				t.Errorf("content type %q", w.Header().Get("Content-Type"))
			}
		})
	}
	r := httptest.NewRequest(http.MethodGet, "/v1/events", http.NoBody)
	w := httptest.NewRecorder()
	newIntake(t, &recorder{}).ServeHTTP(w, r)
	if w.Code != 405 || w.Header().Get("Allow") != "POST" {
		t.Errorf("GET: %d, Allow %q", w.Code, w.Header().Get("Allow"))
	}
}

func TestIntakeAccepts(t *testing.T) {
	t.Parallel()
	tracker := &recorder{}
	h := newIntake(t, tracker)
	for _, tt := range []struct{ path, key, body string }{
		{"/v1/events", serverKey, `{"event":"signed_up","external_id":"u1","properties":{"n":9007199254740993},"new_field":[]}`},
		{"/v1/events", publishableKey, `{"event":"page_viewed","anonymous_id":"a1"}`},
		{"/v1/events?api_key=" + publishableKey, "", `{"event":"page_viewed","anonymous_id":"a1"}`},
		{"/v1/events", serverKey, `{"event":"identify","external_id":"u1","traits":{"email":"ann@acme.test"}}`},
	} {
		w := post(h, tt.path, tt.key, tt.body)
		var got map[string]any
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
			t.Fatal(err)
		}
		id, _ := got["request_id"].(string)
		if w.Code != 202 || got["accepted"] != 1.0 || got["rejected"] != 0.0 || !strings.HasPrefix(id, "req_") {
			t.Errorf("%s: %d %s", tt.body, w.Code, w.Body)
		}
	}
	if len(tracker.events) != 4 || tracker.events[0].Properties["n"] != int64(9007199254740993) || tracker.events[3].Traits["email"] != "ann@acme.test" {
		t.Errorf("tracked %v", tracker.events)
	}
	if w := post(h, "/v1/identify/alias", serverKey, `{"user_id":"u1","anonymous_id":"a1","request_id":"r7"}`); w.Code != 200 || !strings.Contains(w.Body.String(), `"request_id":"r7"`) {
		t.Errorf("alias: %d %s", w.Code, w.Body)
	}
	if w := post(h, "/v1/profiles/a%2Fb%20c/erase", serverKey, `{"reason":"gdpr_dsr","request_id":"T-1"}`); w.Code != 202 {
		t.Errorf("erase: %d %s", w.Code, w.Body)
	}
	if d := cmp.Diff([]fluxly.Alias{{UserID: "u1", AnonymousID: "a1"}}, tracker.aliases); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]fluxly.Erasure{{ID: "a/b c", Reason: fluxly.GDPRRequest, RequestID: "T-1"}}, tracker.erasures); d != "" {
		t.Error(d)
	}
}

// O2: the same key five times at once is one stored event and five equal
// replies, also for a batch and through another handler on the same store.
func TestO2IdempotencyKey(t *testing.T) {
	t.Parallel()
	for path, body := range map[string]string{
		"/v1/events":       `{"event":"signed_up","external_id":"u1"}`,
		"/v1/events/batch": `{"events":[{"event":"signed_up","external_id":"u1"},{"event":"signed_up","external_id":"u1"},{"event":"Bad"}]}`,
	} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			tracker := &recorder{}
			replies := make([]string, 5)
			var wg sync.WaitGroup
			for i := range replies {
				h := newIntake(t, tracker)
				wg.Go(func() {
					w := post(h, path, serverKey, body, "X-Idempotency-Key", "5f1c")
					replies[i] = fmt.Sprint(w.Code, w.Body)
				})
			}
			wg.Wait()
			if n := len(slices.Compact(replies)); n != 1 || !strings.HasPrefix(replies[0], "202") {
				t.Errorf("%d different replies: %v", n, replies)
			}
			want := 1
			if strings.HasSuffix(path, "batch") {
				want = 2 // two places of one batch are two events
			}
			if len(tracker.events) != want {
				t.Errorf("%d events stored, want %d", len(tracker.events), want)
			}
			h := newIntake(t, tracker)
			post(h, path, serverKey, body, "X-Idempotency-Key", "5f1d")
			if len(tracker.events) != 2*want {
				t.Errorf("another key: %d events stored, want %d", len(tracker.events), 2*want)
			}
		})
	}
	h := newIntake(t, &recorder{})
	post(h, "/v1/events", serverKey, `{"event":"signed_up","external_id":"u1"}`, "X-Idempotency-Key", "k")
	if w := post(h, "/v1/events", serverKey, `{"event":"signed_up","external_id":"u2"}`, "X-Idempotency-Key", "k"); w.Code != 409 || !strings.Contains(w.Body.String(), `"conflict"`) {
		t.Errorf("same key, other body: %d %s", w.Code, w.Body)
	}
}

func TestIntakeBatchFailures(t *testing.T) {
	t.Parallel()
	down := errors.New("disk full: /var/lib/secret.db")
	failThird := func(e fluxly.Event) error {
		if e.ExternalID == "u3" {
			return down
		}
		return nil
	}
	const body = `{"events":[{"event":"a","external_id":"u1"},{"event":"B","external_id":"u2"},{"event":"a","external_id":"u3"},{"event":"a","external_id":7}]}`
	t.Run("rejected one by one", func(t *testing.T) {
		t.Parallel()
		tracker := &recorder{fail: failThird}
		w := post(newIntake(t, tracker), "/v1/events/batch", serverKey, body)
		var got struct {
			Accepted, Rejected int
			Errors             []rejection
		}
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
			t.Fatal(err)
		}
		var where []string
		for _, r := range got.Errors {
			where = append(where, fmt.Sprint(r.Index, " ", r.Error))
		}
		if d := cmp.Diff([]string{"1 validation_error", "2 server_error", "3 validation_error"}, where); d != "" || got.Accepted != 1 || got.Rejected != 3 || w.Code != 202 {
			t.Errorf("%d %s\n%s", w.Code, w.Body, d)
		}
		if strings.Contains(w.Body.String(), "secret.db") {
			t.Errorf("the reply tells what broke inside: %s", w.Body)
		}
	})
	t.Run("repeatable as a whole", func(t *testing.T) {
		t.Parallel()
		var log bytes.Buffer
		tracker := &recorder{fail: failThird}
		h, err := NewIntake(IntakeConfig{
			Tracker: tracker, ServerKeys: []fluxly.Secret{fluxly.NewSecret(serverKey)},
			Logger: slog.New(slog.NewTextHandler(&log, nil)),
		})
		if err != nil {
			t.Fatal(err)
		}
		if w := post(h, "/v1/events/batch", serverKey, body, "X-Idempotency-Key", "k"); w.Code != 503 {
			t.Errorf("%d %s, want 503", w.Code, w.Body)
		}
		if !strings.Contains(log.String(), "disk full") {
			t.Errorf("log %q", log.String())
		}
		tracker.fail = nil
		if w := post(h, "/v1/events/batch", serverKey, body, "X-Idempotency-Key", "k"); w.Code != 202 || len(tracker.events) != 2 {
			t.Errorf("%d %s with %d events stored, want each once", w.Code, w.Body, len(tracker.events))
		}
	})
}

// Events of one person stay in order, however the ids hang together.
func TestIntakeBatchOrder(t *testing.T) {
	t.Parallel()
	tracker := &recorder{}
	var events []fluxly.Event
	for i := range 90 {
		e := fluxly.Event{Name: "a", Properties: fluxly.Properties{"n": i}}
		switch person := strconv.Itoa(i % 7); i % 3 {
		case 0:
			e.ExternalID = person
		case 1:
			e.AnonymousID = person
		case 2:
			e.ExternalID, e.AnonymousID = person, person
		}
		events = append(events, e)
	}
	body, err := json.Marshal(map[string]any{"events": events})
	if err != nil {
		t.Fatal(err)
	}
	if w := post(newIntake(t, tracker), "/v1/events/batch", serverKey, string(body)); w.Code != 202 {
		t.Fatal(w.Body)
	}
	last := map[string]int64{}
	for _, e := range tracker.events {
		person := e.ExternalID + e.AnonymousID
		person = person[:1]
		n := e.Properties["n"].(int64)
		if before, ok := last[person]; ok && n < before {
			t.Errorf("person %s: event %d after %d", person, n, before)
		}
		last[person] = n
	}
	if len(tracker.events) != 90 || len(last) != 7 {
		t.Errorf("%d events of %d people", len(tracker.events), len(last))
	}
}

func TestNewIntakeRefuses(t *testing.T) {
	t.Parallel()
	key := fluxly.NewSecret(serverKey)
	for field, cfg := range map[string]IntakeConfig{
		"Tracker":            {ServerKeys: []fluxly.Secret{key}},
		"ServerKeys":         {Tracker: &recorder{}},
		"ServerKeys[0]":      {Tracker: &recorder{}, ServerKeys: []fluxly.Secret{fluxly.NewSecret("short")}},
		"ServerKeys[1]":      {Tracker: &recorder{}, ServerKeys: []fluxly.Secret{key, fluxly.NewSecret(serverKey + "\n")}},
		"PublishableKeys[0]": {Tracker: &recorder{}, ServerKeys: []fluxly.Secret{key}, PublishableKeys: []fluxly.Secret{key}},
	} {
		_, err := NewIntake(cfg)
		var fe *fluxly.FieldError
		if !errors.As(err, &fe) || fe.Field != field {
			t.Errorf("error %v, want one of %s", err, field)
		} else if strings.Contains(err.Error(), serverKey) || strings.Contains(err.Error(), "short") {
			t.Errorf("error %v holds the key", err)
		}
	}
	if dump := fmt.Sprintf("%+v %#v", IntakeConfig{ServerKeys: []fluxly.Secret{key}}, IntakeConfig{ServerKeys: []fluxly.Secret{key}}); strings.Contains(dump, serverKey) {
		t.Errorf("the configuration prints the key: %s", dump)
	}
}

// The client of GetFluxly's API and the intake speak the same language.
func TestClientToIntake(t *testing.T) {
	t.Parallel()
	tracker := &recorder{}
	srv := httptest.NewServer(newIntake(t, tracker))
	defer srv.Close()
	c, err := fluxly.NewClient(fluxly.ClientConfig{APIKey: serverKey, BaseURL: srv.URL, MaxRetries: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx := t.Context()
	e := fluxly.Event{
		Name: "signed_up", ExternalID: "u1", MessageID: "m1", Timestamp: time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC),
		Properties: fluxly.Properties{"big": 1<<53 + 1, "list": []any{1.5, nil, "é"}}, Traits: fluxly.Traits{"plan": "pro"},
	}
	for range 2 { // the second changes nothing
		if err := c.Track(ctx, e); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Identify(ctx, fluxly.Identity{ExternalID: "u1", AnonymousID: "a1", Traits: fluxly.Traits{"email": "ann@acme.test"}}); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range tracker.events {
		names = append(names, e.Name)
	}
	if d := cmp.Diff([]string{"identify", "signed_up", "identify"}, names); d != "" {
		t.Error(d)
	}
	if got := tracker.events[1].Properties; got["big"] != int64(1<<53+1) {
		t.Errorf("properties %v", got)
	}
	if err := c.Alias(ctx, fluxly.Alias{UserID: "u1", PreviousID: "lead"}); err != nil {
		t.Error(err)
	}
	if err := c.Erase(ctx, fluxly.Erasure{ID: "a/b?", Reason: fluxly.CustomerRequest}); err != nil || tracker.erasures[0].ID != "a/b?" {
		t.Errorf("erase: %v, %v", err, tracker.erasures)
	}
	if err := c.Erase(ctx, fluxly.Erasure{ID: "nobody", Reason: fluxly.CustomerRequest}); !errors.Is(err, fluxly.ErrNotFound) {
		t.Errorf("erase of nobody: %v", err)
	}
	e.Traits, e.Properties = nil, nil
	if err := c.Track(ctx, e); !errors.Is(err, fluxly.ErrConflict) {
		t.Errorf("other body under m1: %v", err)
	}
	tracker.fail = func(e fluxly.Event) error {
		if e.ExternalID == "broken" {
			return errors.New("down")
		}
		return nil
	}
	err = c.TrackBatch(ctx, []fluxly.Event{{Name: "a", ExternalID: "u1"}, {Name: "a", ExternalID: "broken"}})
	if !errors.Is(err, fluxly.ErrUnavailable) {
		t.Errorf("batch: %v", err)
	}

	// A chain: an intake that hands on through the client.
	relay := newIntake(t, c)
	if w := post(relay, "/v1/events", publishableKey, `{"event":"page_viewed","anonymous_id":"a9"}`); w.Code != 202 {
		t.Errorf("relay: %d %s", w.Code, w.Body)
	}
	if w := post(relay, "/v1/profiles/nobody/erase", serverKey, `{"reason":"gdpr_dsr"}`); w.Code != 404 {
		t.Errorf("relay of a 404: %d %s", w.Code, w.Body)
	}
	if w := post(relay, "/v1/events", serverKey, `{"event":"a","external_id":"broken"}`); w.Code != 503 || strings.Contains(w.Body.String(), "getfluxly") {
		t.Errorf("relay of a failure: %d %s", w.Code, w.Body)
	}
}

func FuzzIntake(f *testing.F) {
	f.Add("/v1/events", `{"event":"signed_up","external_id":"u1"}`, "")
	f.Add("/v1/events/batch", `{"events":[{"event":"a","user_id":"u"},null,7]}`, "key")
	f.Add("/v1/profiles/%2e%2e/erase", `{"reason":"internal"}`, "\x00")
	f.Add("/v1/identify/alias", `{"user_id":"a","previous_id":"b"}`, "")
	f.Fuzz(func(t *testing.T, path, body, idempotency string) {
		r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
		r.URL.Path = path
		r.Header.Set("Authorization", "Bearer "+serverKey)
		r.Header["X-Idempotency-Key"] = []string{idempotency}
		tracker := &recorder{}
		h := newIntake(t, tracker)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		var got map[string]any
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
			t.Fatalf("reply %s: %v", w.Body, err)
		}
		if w.Code >= 500 || (w.Code >= 400) != (got["error"] != nil) {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
		if n, ok := got["accepted"].(float64); ok && int(n) < len(tracker.events) {
			t.Fatalf("%v accepted, %d stored", n, len(tracker.events))
		}
	})
}
