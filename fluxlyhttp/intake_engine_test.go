package fluxlyhttp

import (
	"context"
	"fmt"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/fluxlytest"
)

// eventsOf returns the stored events of a person.
func eventsOf(t *testing.T, store fluxly.Store, externalID string) []*fluxly.StoredEvent {
	t.Helper()
	var events []*fluxly.StoredEvent
	err := store.View(t.Context(), func(tx fluxly.Tx) error {
		ids := []fluxly.Identifier{{Kind: fluxly.ExternalID, Value: externalID}}
		people, err := tx.FindProfiles(t.Context(), ids)
		if err != nil || len(people) == 0 {
			return err
		}
		events, err = tx.Events(t.Context(), people[0].ID, fluxly.EventQuery{})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return events
}

func newEngine(t *testing.T) (*fluxly.Engine, fluxly.Store) {
	t.Helper()
	store := fluxly.NewMemoryStore()
	engine, err := fluxly.New(fluxly.Config{Store: store, Sender: &fluxlytest.FakeSender{}, Mode: fluxly.DryRun, From: "Acme <hello@acme.test>"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := engine.Close(); err != nil {
			t.Error(err)
		}
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return engine, store
}

// O2 with an engine: the same key five times at once over HTTP is one stored
// event and five equal replies.
func TestO2WithAnEngine(t *testing.T) {
	t.Parallel()
	engine, store := newEngine(t)
	h := newIntake(t, engine)
	replies := make([]string, 5)
	var wg sync.WaitGroup
	for i := range replies {
		wg.Go(func() {
			w := post(h, "/v1/events", serverKey, `{"event":"signed_up","external_id":"u1"}`, "X-Idempotency-Key", "k1")
			replies[i] = fmt.Sprint(w.Code, w.Body)
		})
	}
	wg.Wait()
	if len(slices.Compact(replies)) != 1 || !strings.HasPrefix(replies[0], "202") {
		t.Errorf("replies %v", replies)
	}
	if n := len(eventsOf(t, store, "u1")); n != 1 {
		t.Errorf("%d events stored, want 1", n)
	}
	if w := post(h, "/v1/events", serverKey, `{"event":"signed_up","external_id":"u1","properties":{"plan":"pro"}}`, "X-Idempotency-Key", "k1"); w.Code != 409 {
		t.Errorf("same key, other body: %d %s", w.Code, w.Body)
	}
}

// A program that moves from its own engine to one behind HTTP sees the same.
func TestClientToEngine(t *testing.T) {
	t.Parallel()
	engine, store := newEngine(t)
	srv := httptest.NewServer(newIntake(t, engine))
	defer srv.Close()
	c, err := fluxly.NewClient(fluxly.ClientConfig{APIKey: serverKey, BaseURL: srv.URL})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	track := func(ctx context.Context, to fluxly.Tracker) {
		t.Helper()
		for _, err := range []error{
			to.Track(ctx, fluxly.Event{Name: "page_viewed", AnonymousID: "a1"}),
			to.Identify(ctx, fluxly.Identity{ExternalID: "u1", AnonymousID: "a1", Traits: fluxly.Traits{"email": "ann@acme.test", "n": 1<<53 + 1}}),
			to.Track(ctx, fluxly.Event{Name: "upgraded", ExternalID: "u1", MessageID: "m1", Properties: fluxly.Properties{"amount": 49.5}, Traits: fluxly.Traits{"plan": "pro"}}),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	track(t.Context(), c)
	p, err := engine.Profile(t.Context(), "u1")
	if err != nil {
		t.Fatal(err)
	}
	if p.Email() != "ann@acme.test" || p.Traits["n"] != int64(1<<53+1) || p.Traits["plan"] != "pro" || len(p.AnonymousIDs) != 1 {
		t.Errorf("profile %+v", p)
	}
	var names []string
	for _, e := range eventsOf(t, store, "u1") {
		names = append(names, e.Name)
	}
	if got := strings.Join(names, " "); got != "page_viewed identify identify upgraded" {
		t.Errorf("events %q", got)
	}
	batch := make([]fluxly.Event, 250)
	for i := range batch {
		batch[i] = fluxly.Event{Name: "report_exported", ExternalID: fmt.Sprintf("b%d", i%50), Properties: fluxly.Properties{"i": i}}
	}
	if err := c.TrackBatch(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	stored := eventsOf(t, store, "b7")
	for i, e := range stored {
		if e.Properties["i"] != int64(7+50*i) {
			t.Errorf("event %d has i = %v", i, e.Properties["i"])
		}
	}
	if len(stored) != 5 {
		t.Errorf("%d events stored, want 5", len(stored))
	}
	if err := c.Erase(t.Context(), fluxly.Erasure{ID: "u1", Reason: fluxly.GDPRRequest}); err != nil {
		t.Fatal(err)
	}
	if n := len(eventsOf(t, store, "u1")); n != 0 {
		t.Errorf("%d events are left after the erasure", n)
	}
}
