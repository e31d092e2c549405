package fluxly

import (
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func at() time.Time { return time.Date(2026, 5, 29, 9, 30, 0, 0, time.UTC) }

// Each call of the API, with the request that it makes.
func TestClientRequests(t *testing.T) {
	t.Parallel()
	const id = "1b4e28ba-2fa1-41d2-883f-0016d3cca427"
	tests := []struct {
		golden, path string
		call         func(*Client) error
	}{
		{"event.json", "/v1/events", func(c *Client) error {
			e := ordinaryEvent()
			e.Context = map[string]any{"ip": "203.0.113.7"}
			return c.Track(t.Context(), e)
		}},
		{"identify.json", "/v1/events", func(c *Client) error {
			return c.Identify(t.Context(), Identity{
				ExternalID: "user_42", AnonymousID: "anon_7f3a", Timestamp: at(), MessageID: id,
				Traits: Traits{"email": "ann@acme.test", "plan": "trial", "logins": 1<<53 + 1, "phone": nil},
			})
		}},
		{"event_with_traits.json", "/v1/events/batch", func(c *Client) error {
			e := ordinaryEvent()
			e.Traits = Traits{"email": "ann@acme.test"}
			return c.Track(t.Context(), e)
		}},
		{"batch.json", "/v1/events/batch", func(c *Client) error {
			return c.TrackBatch(t.Context(), []Event{
				ordinaryEvent(),
				{Name: "report_exported", UserID: "p_1", Timestamp: at(), MessageID: "m2"},
			})
		}},
		{"alias_anonymous.json", "/v1/identify/alias", func(c *Client) error {
			return c.Alias(t.Context(), Alias{UserID: "user_42", AnonymousID: `anon"7f3a`})
		}},
		{"alias_previous.json", "/v1/identify/alias", func(c *Client) error {
			return c.Alias(t.Context(), Alias{UserID: "user_42", PreviousID: "lead_7"})
		}},
		{"erase.json", "/v1/profiles/a%2Fb%3Fc%20%25/erase", func(c *Client) error {
			return c.Erase(t.Context(), Erasure{ID: "a/b?c %", Reason: GDPRRequest, RequestID: "TICKET-7"})
		}},
		{"erase_dots.json", "/v1/profiles/%2E%2E/erase", func(c *Client) error {
			return c.Erase(t.Context(), Erasure{ID: "..", Reason: InternalReason})
		}},
	}
	for _, tt := range tests {
		t.Run(tt.golden, func(t *testing.T) {
			t.Parallel()
			c, s := scripted(t, ClientConfig{}, answer{status: 202, body: `{}`})
			if err := tt.call(c); err != nil {
				t.Fatal(err)
			}
			if len(s.seen) != 1 || s.seen[0].path != tt.path || s.seen[0].method != http.MethodPost {
				t.Fatalf("requests %v, want one POST %s", s.seen, tt.path)
			}
			if s.seen[0].header.Get("X-Idempotency-Key") == "" {
				t.Error("no idempotency key")
			}
			wantGolden(t, "client/"+tt.golden, []byte(s.seen[0].body+"\n"))
		})
	}
}

// An event without time or message id gets both once, and the caller's value
// stays as it is.
func TestClientFillsIn(t *testing.T) {
	t.Parallel()
	c, s := scripted(t, ClientConfig{MaxRetryWait: 1}, answer{status: 500}, accepted)
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.FixedZone("", 7200))
	c.now = func() time.Time { return now }
	e := simpleEvent()
	if err := c.Track(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	var sent Event
	if err := json.Unmarshal([]byte(s.seen[0].body), &sent); err != nil {
		t.Fatal(err)
	}
	if !sent.Timestamp.Equal(now) || len(sent.MessageID) != 36 {
		t.Errorf("sent %s", s.seen[0].body)
	}
	if s.seen[1].body != s.seen[0].body {
		t.Errorf("second try %s, first %s", s.seen[1].body, s.seen[0].body)
	}
}

func TestClientSendsNothingInvalid(t *testing.T) {
	t.Parallel()
	pub := ClientConfig{APIKey: "gflux_pub_live_abc"}
	tests := []struct {
		name, field string
		cfg         ClientConfig
		call        func(*Client) error
	}{
		{"event", "event", ClientConfig{}, func(c *Client) error { return c.Track(t.Context(), Event{Name: "Bad Name", UserID: "u"}) }},
		{"NaN", "properties.x", ClientConfig{}, func(c *Client) error {
			return c.Track(t.Context(), Event{Name: "a", UserID: "u", Properties: Properties{"x": math.NaN()}})
		}},
		{"identity", "external_id", ClientConfig{}, func(c *Client) error { return c.Identify(t.Context(), Identity{}) }},
		{"alias", "user_id", ClientConfig{}, func(c *Client) error { return c.Alias(t.Context(), Alias{}) }},
		{"erasure", "reason", ClientConfig{}, func(c *Client) error { return c.Erase(t.Context(), Erasure{ID: "u"}) }},
		{"alias, publishable", "APIKey", pub, func(c *Client) error { return c.Alias(t.Context(), Alias{UserID: "u", PreviousID: "p"}) }},
		{"erase, publishable", "APIKey", pub, func(c *Client) error { return c.Erase(t.Context(), Erasure{ID: "u", Reason: GDPRRequest}) }},
		{"encoder that fails", "EncodeIdentify", ClientConfig{EncodeIdentify: func(Identity) ([]byte, error) { return nil, errors.New("no") }}, func(c *Client) error {
			return c.Identify(t.Context(), Identity{UserID: "u"})
		}},
		{"encoder of no object", "EncodeIdentify", ClientConfig{EncodeIdentify: func(Identity) ([]byte, error) { return []byte(`[]x`), nil }}, func(c *Client) error {
			return c.Identify(t.Context(), Identity{UserID: "u"})
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c, s := scripted(t, tt.cfg, accepted)
			err := tt.call(c)
			wantField(t, err, tt.field)
			if (tt.cfg.APIKey != "") != errors.Is(err, ErrWrongKeyType) {
				t.Errorf("error %v: is ErrWrongKeyType %v", err, errors.Is(err, ErrWrongKeyType))
			}
			if len(s.seen) > 0 {
				t.Errorf("sent %v", s.seen)
			}
		})
	}
	c, _ := scripted(t, pub, accepted)
	if err := c.Track(t.Context(), simpleEvent()); err != nil {
		t.Errorf("a publishable key may track: %v", err)
	}
}

func TestClientEncodeIdentify(t *testing.T) {
	t.Parallel()
	c, s := scripted(t, ClientConfig{EncodeIdentify: func(id Identity) ([]byte, error) {
		return json.Marshal(map[string]any{"type": "identify", "external_id": id.ExternalID, "traits": id.Traits})
	}}, accepted)
	if err := c.Identify(t.Context(), Identity{ExternalID: "u1", Traits: Traits{"plan": "pro"}}); err != nil {
		t.Fatal(err)
	}
	if want := `{"external_id":"u1","traits":{"plan":"pro"},"type":"identify"}`; s.seen[0].body != want {
		t.Errorf("sent %s, want %s", s.seen[0].body, want)
	}
}

func TestErasureReceipt(t *testing.T) {
	t.Parallel()
	const body = `{"erasure_id":"era_1","profiles_targeted":1,"events_targeted":482,"completes_by":"2026-06-05T09:30:00Z","more":true}`
	c, _ := scripted(t, ClientConfig{}, answer{status: 202, body: body}, answer{status: 204}, answer{status: 409, body: `{"error":"erasure_in_progress"}`})
	e := Erasure{ID: "u", Reason: CCPARequest}
	got, err := c.RequestErasure(t.Context(), e)
	if err != nil {
		t.Fatal(err)
	}
	want := &ErasureReceipt{
		ID: "era_1", Profiles: 1, Events: 482, CompletesBy: time.Date(2026, 6, 5, 9, 30, 0, 0, time.UTC),
		Fields: map[string]any{"erasure_id": "era_1", "profiles_targeted": int64(1), "events_targeted": int64(482), "completes_by": "2026-06-05T09:30:00Z", "more": true},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if got, err = c.RequestErasure(t.Context(), e); err != nil || got.ID != "" {
		t.Errorf("204: %v, %v", got, err)
	}
	if err = c.Erase(t.Context(), e); !errors.Is(err, ErrErasureInProgress) {
		t.Errorf("409: %v", err)
	}
}

// batchOf decodes a request of the batch call.
func batchOf(t *testing.T, r seen) []Event {
	t.Helper()
	var b struct{ Events []Event }
	if err := json.Unmarshal([]byte(r.body), &b); err != nil {
		t.Fatal(err)
	}
	return b.Events
}

func TestTrackBatchSplits(t *testing.T) {
	t.Parallel()
	events := func(n, bytes int) []Event {
		list := make([]Event, n)
		for i := range list {
			list[i] = Event{Name: "a", UserID: strconv.Itoa(i), Properties: Properties{"p": strings.Repeat("x", bytes)}}
		}
		return list
	}
	tests := []struct {
		name   string
		events []Event
		want   []int
	}{
		{"none", nil, nil},
		{"one", events(1, 10), []int{1}},
		{"hundred", events(100, 10), []int{100}},
		{"more", events(250, 10), []int{100, 100, 50}},
		{"large", events(20, 30<<10), []int{8, 8, 4}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c, s := scripted(t, ClientConfig{}, accepted)
			if err := c.TrackBatch(t.Context(), tt.events); err != nil {
				t.Fatal(err)
			}
			next := 0
			var sizes []int
			keys := map[string]bool{}
			for _, r := range s.seen {
				if len(r.body) > maxBatchBytes {
					t.Errorf("request of %d bytes", len(r.body))
				}
				batch := batchOf(t, r)
				sizes = append(sizes, len(batch))
				keys[r.header.Get("X-Idempotency-Key")] = true
				for _, e := range batch {
					if e.UserID != strconv.Itoa(next) {
						t.Fatalf("event %s, want %d", e.UserID, next)
					}
					next++
				}
			}
			if d := cmp.Diff(tt.want, sizes); d != "" {
				t.Error(d)
			}
			if len(keys) != len(s.seen) {
				t.Errorf("%d idempotency keys for %d requests", len(keys), len(s.seen))
			}
		})
	}
}

func TestTrackBatchRejections(t *testing.T) {
	t.Parallel()
	list := func(n int) []Event {
		events := make([]Event, n)
		for i := range events {
			events[i] = simpleEvent()
		}
		return events
	}
	wantBatch := func(t *testing.T, err error, accepted int, indices ...int) *BatchError {
		t.Helper()
		var be *BatchError
		if !errors.As(err, &be) {
			t.Fatalf("error %v, want a BatchError", err)
		}
		var got []int
		for _, r := range be.Rejections {
			got = append(got, r.Index)
		}
		if d := cmp.Diff(indices, got); d != "" || be.Accepted != accepted {
			t.Errorf("accepted %d, want %d; rejected indices (-want +got):\n%s", be.Accepted, accepted, d)
		}
		return be
	}
	t.Run("by the API", func(t *testing.T) {
		t.Parallel()
		c, _ := scripted(t, ClientConfig{}, accepted, answer{status: 202, body: `{"accepted":48,"rejected":2,"errors":[
			{"index":3,"error":"validation_error","detail":"bad name"},{"index":49,"error":"rate_limited"}]}`})
		err := c.TrackBatch(t.Context(), list(150))
		be := wantBatch(t, err, 148, 103, 149)
		if r := be.Rejections[0]; r.Code != "validation_error" || r.Detail != "bad name" || r.Retryable || r.Err != nil {
			t.Errorf("rejection %+v", r)
		}
		if !be.Rejections[1].Retryable || !errors.Is(err, ErrInvalid) {
			t.Errorf("rejection %+v, error %v", be.Rejections[1], err)
		}
	})
	t.Run("before the wire", func(t *testing.T) {
		t.Parallel()
		c, s := scripted(t, ClientConfig{}, answer{status: 202, body: `{"rejected":1,"errors":[{"index":1,"error":"validation_error"}]}`})
		events := list(4)
		events[1].Name = "Bad Name"
		err := c.TrackBatch(t.Context(), events)
		be := wantBatch(t, err, 2, 1, 2) // the API's second is the caller's third
		wantField(t, be.Rejections[0].Err, "event")
		if !errors.Is(err, ErrInvalid) || len(batchOf(t, s.seen[0])) != 3 {
			t.Errorf("error %v; sent %s", err, s.seen[0].body)
		}
	})
	t.Run("whole request", func(t *testing.T) {
		t.Parallel()
		c, s := scripted(t, ClientConfig{}, accepted, answer{status: 401})
		err := c.TrackBatch(t.Context(), list(300))
		be := wantBatch(t, err, 100, seq(100, 300)...)
		if !errors.Is(err, ErrUnauthenticated) || len(s.seen) != 2 || len(be.Unwrap()) != 1 {
			t.Errorf("error %v after %d requests with %d causes", err, len(s.seen), len(be.Unwrap()))
		}
		if len(err.Error()) > 1000 {
			t.Errorf("error of %d bytes", len(err.Error()))
		}
	})
	t.Run("too large is cut in halves", func(t *testing.T) {
		t.Parallel()
		tooLarge := answer{status: 413, body: `{"error":"payload_too_large"}`}
		c, s := scripted(t, ClientConfig{}, tooLarge, tooLarge, tooLarge, accepted, accepted, accepted)
		err := c.TrackBatch(t.Context(), list(5))
		_ = wantBatch(t, err, 4, 0)
		var sizes []int
		for _, r := range s.seen {
			sizes = append(sizes, len(batchOf(t, r)))
		}
		if d := cmp.Diff([]int{5, 2, 1, 1, 3}, sizes); d != "" {
			t.Error(d)
		}
	})
	t.Run("not said which", func(t *testing.T) {
		t.Parallel()
		c, _ := scripted(t, ClientConfig{}, answer{status: 202, body: `{"rejected":2,"errors":[{"index":77}]}`})
		err := c.TrackBatch(t.Context(), list(3))
		_ = wantBatch(t, err, 1, -1, -1)
	})
	t.Run("traits travel before the event", func(t *testing.T) {
		t.Parallel()
		c, s := scripted(t, ClientConfig{}, answer{status: 202, body: `{"rejected":2,"errors":[{"index":2,"error":"a"},{"index":3,"error":"b"}]}`})
		events := list(3)
		events[1].Traits = Traits{"plan": "pro"}
		events[1].MessageID = "m1"
		_ = wantBatch(t, c.TrackBatch(t.Context(), events), 1, 1, 2)
		sent := batchOf(t, s.seen[0])
		if len(sent) != 4 || sent[1].Name != "identify" || sent[1].Traits["plan"] != "pro" || sent[2].Traits != nil || sent[1].MessageID == "m1" {
			t.Errorf("sent %s", s.seen[0].body)
		}
	})
	t.Run("single event with traits", func(t *testing.T) {
		t.Parallel()
		c, _ := scripted(t, ClientConfig{}, answer{status: 202, body: `{"rejected":1,"errors":[{"index":1,"error":"validation_error","detail":"no"}]}`}, answer{status: 401})
		e := simpleEvent()
		e.Traits = Traits{"plan": "pro"}
		var ae *APIError
		if err := c.Track(t.Context(), e); !errors.As(err, &ae) || ae.Detail != "no" || !errors.Is(err, ErrInvalid) {
			t.Errorf("Track = %v", err)
		}
		if err := c.Track(t.Context(), e); !errors.Is(err, ErrUnauthenticated) {
			t.Errorf("Track = %v", err)
		}
	})
}

func seq(from, to int) []int {
	var list []int
	for i := from; i < to; i++ {
		list = append(list, i)
	}
	return list
}
