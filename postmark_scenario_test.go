package fluxly_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/fluxlytest"
)

// postmarkAPI is Postmark's HTTP API with a memory: what it took is shown to
// the search from a time on.
type postmarkAPI struct {
	*httptest.Server
	clock *fluxlytest.Clock

	mu    sync.Mutex
	mails []apiMail
	// script says what happens to each mail in turn; "" takes it.
	script []string
}

type apiMail struct {
	To, Subject string
	Metadata    map[string]string
	shown       time.Time
}

func newPostmarkAPI(t *testing.T, clock *fluxlytest.Clock, script ...string) *postmarkAPI {
	t.Helper()
	a := &postmarkAPI{clock: clock, script: script}
	a.Server = httptest.NewServer(a)
	t.Cleanup(a.Close)
	return a
}

func (a *postmarkAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch r.URL.Path {
	case "/email":
		a.take(w, r)
	case "/messages/outbound":
		a.search(w, r)
	default:
		_, _ = io.WriteString(w, `{"MessageStreams":[{"ID":"lifecycle","MessageStreamType":"Broadcasts"},{"ID":"outbound","MessageStreamType":"Transactional"}]}`)
	}
}

func (a *postmarkAPI) take(w http.ResponseWriter, r *http.Request) {
	var m apiMail
	if err := json.NewDecoder(r.Body).Decode(&m); err != nil {
		w.WriteHeader(http.StatusUnprocessableEntity)
		return
	}
	act := ""
	if len(a.script) > 0 {
		act, a.script = a.script[0], a.script[1:]
	}
	switch act {
	case "lose":
	case "inactive":
		w.WriteHeader(http.StatusUnprocessableEntity)
		_, _ = io.WriteString(w, `{"ErrorCode":406,"Message":"You tried to send to recipient(s) that have been marked as inactive."}`)
		return
	case "no stream":
		w.WriteHeader(http.StatusUnprocessableEntity)
		_, _ = io.WriteString(w, `{"ErrorCode":1235,"Message":"The stream provided: 'lifecycle' does not exist on this server."}`)
		return
	case "slow down":
		w.Header().Set("Retry-After", "120")
		w.WriteHeader(http.StatusTooManyRequests)
		return
	default:
		m.shown = a.clock.Now().Add(20 * time.Second)
		a.mails = append(a.mails, m)
	}
	if act == "lose" || act == "take and lose" {
		if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
			_ = conn.Close()
		}
		return
	}
	_, _ = fmt.Fprintf(w, `{"ErrorCode":0,"Message":"OK","MessageID":"id-%d"}`, len(a.mails))
}

func (a *postmarkAPI) search(w http.ResponseWriter, r *http.Request) {
	found := []string{}
	for i, m := range a.mails {
		if q := r.URL.Query(); m.Metadata["send_key"] == q.Get("metadata_send_key") && q.Get("messagestream") == "lifecycle" && !m.shown.After(a.clock.Now()) {
			found = append(found, fmt.Sprintf(`{"MessageID":"id-%d","Status":"Queued","Metadata":{"send_key":%q}}`, i+1, m.Metadata["send_key"]))
		}
	}
	_, _ = io.WriteString(w, `{"TotalCount":`+strconv.Itoa(len(found))+`,"Messages":[`+strings.Join(found, ",")+`]}`)
}

// Scenarios O3 and M13, and the part of O4 that is Postmark's: each fate of a
// request ends in the right row of the send log, and in one mail at most.
func TestO3M13PostmarkOutcomes(t *testing.T) {
	t.Parallel()
	type row struct {
		Status fluxly.SendStatus
		ID     string
		Detail string // a part of it
		Mails  int
	}
	tests := map[string]struct {
		script []string
		want   row
	}{
		"taken":                       {nil, row{Status: fluxly.SendAccepted, ID: "id-1", Mails: 1}},
		"taken, the reply lost":       {[]string{"take and lose"}, row{Status: fluxly.SendAccepted, ID: "id-1", Mails: 1}},
		"never arrived":               {[]string{"lose"}, row{Status: fluxly.SendAccepted, ID: "id-1", Mails: 1}},
		"never arrived, then lost":    {[]string{"lose", "take and lose"}, row{Status: fluxly.SendAccepted, ID: "id-1", Mails: 1}},
		"suppressed":                  {[]string{"inactive"}, row{Status: fluxly.SendRefused, Detail: "406", Mails: 0}},
		"slowed down":                 {[]string{"slow down"}, row{Status: fluxly.SendAccepted, ID: "id-1", Mails: 1}},
		"the stream was created late": {[]string{"no stream"}, row{Status: fluxly.SendAccepted, ID: "id-1", Mails: 1}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			clock := fluxlytest.NewClock(fluxlytest.Start)
			api := newPostmarkAPI(t, clock, tt.script...)
			sender, err := fluxly.NewPostmark(fluxly.PostmarkConfig{
				ServerToken: "11111111-2222-3333-4444-555555555555", MessageStream: "lifecycle", BaseURL: api.URL,
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = sender.Close() })
			store := fluxly.NewMemoryStore()
			t.Cleanup(func() { _ = store.Close() })
			engine, err := fluxly.New(fluxly.Config{
				Store: store, Sender: sender, Mode: fluxly.Live, Now: clock.Now,
				From: "Acme <hello@acme.test>", Emails: fluxlytest.Emails("welcome"),
				Automations: []fluxly.Automation{{Name: "welcome", Trigger: fluxly.On("signed_up"), Steps: fluxly.Steps{fluxly.Send("welcome")}}},
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = engine.Close() })
			ctx := t.Context()
			if err := engine.Track(ctx, fluxly.Event{Name: "signed_up", ExternalID: "ann", MessageID: "1", Traits: fluxly.Traits{"email": "ann@example.com"}}); err != nil {
				t.Fatal(err)
			}
			if err := engine.Identify(ctx, fluxly.Identity{ExternalID: "ann", MessageID: "2", Traits: fluxly.Traits{"email": "ann@example.com"}}); err != nil {
				t.Fatal(err)
			}
			for range 100 {
				next, err := engine.RunDue(ctx)
				if err != nil {
					t.Fatal(err)
				}
				if next.IsZero() {
					break
				}
				clock.Set(next)
			}
			rows, err := engine.Sends(ctx, fluxly.SendQuery{})
			if err != nil || len(rows) != 1 {
				t.Fatalf("%d rows, %v", len(rows), err)
			}
			got := row{Status: rows[0].Status, ID: rows[0].Receipt.ID, Mails: len(api.mails)}
			if strings.Contains(rows[0].Detail, tt.want.Detail) {
				got.Detail = tt.want.Detail
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("%s\nrow: %+v", diff, rows[0])
			}
		})
	}
}

// Lifecycle mail does not go to the transactional stream by accident, whichever
// way it is sent.
func TestNewRefusesTransactionalStream(t *testing.T) {
	t.Parallel()
	const token = "11111111-2222-3333-4444-555555555555"
	senders := map[string]func(stream string) (fluxly.Sender, error){
		"HTTP": func(stream string) (fluxly.Sender, error) {
			return fluxly.NewPostmark(fluxly.PostmarkConfig{ServerToken: token, MessageStream: stream})
		},
		"SMTP": func(stream string) (fluxly.Sender, error) {
			return fluxly.NewPostmarkSMTP(fluxly.PostmarkSMTPConfig{ServerToken: token, MessageStream: stream})
		},
	}
	for name, build := range senders {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for stream, refused := range map[string]bool{"outbound": true, "lifecycle": false} {
				sender, err := build(stream)
				if err != nil {
					t.Fatal(err)
				}
				if c, ok := sender.(io.Closer); ok {
					t.Cleanup(func() { _ = c.Close() })
				}
				engine, err := fluxly.New(fluxly.Config{
					Store: fluxly.NewMemoryStore(), Sender: sender, Mode: fluxly.Live, From: "hello@acme.test", Emails: fluxlytest.Emails("welcome"),
					Automations: []fluxly.Automation{{Name: "welcome", Trigger: fluxly.On("signed_up"), Steps: fluxly.Steps{fluxly.Send("welcome")}}},
				})
				if err == nil {
					t.Cleanup(func() { _ = engine.Close() })
				}
				if errors.Is(err, fluxly.ErrInvalid) != refused || (err != nil && !strings.Contains(err.Error(), "outbound")) {
					t.Errorf("stream %s: %v", stream, err)
				}
			}
		})
	}
}
