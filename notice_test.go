package fluxly_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/fluxlytest"
)

// A mail's timeline, and the suppressions, follow Postmark's notices, in
// whatever order and however often they come.
func TestNotice(t *testing.T) {
	t.Parallel()
	k := newKit(t, welcome())
	k.Track(event("signed_up", "u1", nil))
	k.WantSent("u1", "welcome")
	key := record(t, k, "u1", "welcome").Key
	notice := func(format string, args ...any) {
		t.Helper()
		n, err := fluxly.DecodePostmarkNotice(fmt.Appendf(nil, format, args...))
		if err != nil {
			t.Fatal(err)
		}
		if err := k.Engine.Notice(t.Context(), n); err != nil {
			t.Fatal(err)
		}
	}
	open := `{"RecordType":"Open","FirstOpen":true,"ReceivedAt":"2026-03-02T12:00:00Z","Recipient":"u1@example.test","MessageID":"m1","MessageStream":"broadcast","Metadata":{"send_key":%q}}`
	delivery := `{"RecordType":"Delivery","DeliveredAt":"2026-03-02T09:00:05Z","Recipient":"u1@example.test","MessageID":"m1","MessageStream":"broadcast","Metadata":{"send_key":%q}}`
	for range 2 {
		notice(open, key)
		notice(delivery, key)
	}
	m := record(t, k, "u1", "welcome")
	if len(m.Events) != 2 || m.Events[0].Kind != "Delivery" || m.Events[1].Kind != "Open" {
		t.Errorf("timeline %+v", m.Events)
	}
	change := `{"RecordType":"SubscriptionChange","ChangedAt":"2026-03-02T13:00:00Z","Recipient":"u1@example.test","Origin":"Recipient","SuppressSending":%v,"SuppressionReason":%s,"MessageStream":"broadcast","Metadata":{}}`
	notice(change, true, `"ManualSuppression"`)
	k.Advance(2 * fluxly.Day)
	k.WantNotSent("u1", "more", fluxly.ReasonSuppressed)
	notice(change, false, "null")
	k.Track(event("signed_up", "u2", nil))
	sup := 0
	err := k.Store.View(t.Context(), func(tx fluxly.Tx) error {
		s, err := tx.Suppressions(t.Context())
		sup = len(s)
		return err
	})
	if err != nil || sup != 0 {
		t.Errorf("%d suppressions after the reactivation (%v)", sup, err)
	}
}

// Texts that a database does not take are refused by their name; a provider's
// notice loses its suppression to none of them.
func TestSuppressionTexts(t *testing.T) {
	t.Parallel()
	k := newKit(t, welcome())
	for field, s := range map[string]fluxly.Suppression{
		"reason": {Reason: "Hard\x00Bounce"}, "origin": {Origin: "Cust\xffomer"}, "stream": {Stream: "a\x00"},
	} {
		s.Address = "u1@example.test"
		var refused *fluxly.FieldError
		if err := k.Engine.Suppress(t.Context(), s); !errors.As(err, &refused) || refused.Field != field {
			t.Errorf("%s: %v", field, err)
		}
	}
	n, err := fluxly.DecodePostmarkNotice([]byte(`{"RecordType":"SubscriptionChange","ChangedAt":"2026-03-02T13:00:00Z","Recipient":"u1@example.test",` +
		`"Origin":"Rec\u0000ipient","SuppressSending":true,"SuppressionReason":"Hard\u0000","MessageStream":"broadcast","Metadata":{"send_key":"\u0000"}}`))
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Engine.Notice(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	k.Track(event("signed_up", "u1", nil))
	k.WantNotSent("u1", "welcome", fluxly.ReasonSuppressed)
}

func TestConfigRefusesWhatCannotWork(t *testing.T) {
	t.Parallel()
	store := fluxly.NewMemoryStore()
	t.Cleanup(func() { _ = store.Close() })
	_, err := fluxly.New(fluxly.Config{
		Store: store, Sender: &fluxlytest.FakeSender{}, Mode: fluxly.TestOnly, From: "a@acme.test",
		Allow: []string{"acme.test", "", "@", "a b", "A@x.test ", "ann@acme.test", "@acme.test"}, Unknown: "whatever",
		MaxSends: -1, SendTimeout: -1, RetryFor: -1, CallAttempts: -1, CallTimeout: -1, MaxDepth: -1,
	})
	var ce *fluxly.ConfigError
	if !errors.As(err, &ce) || len(ce.Problems) != 12 {
		t.Fatal(err)
	}
	for _, field := range []string{"MaxSends", "SendTimeout", "RetryFor", "CallAttempts", "CallTimeout", "MaxDepth", "Unknown", "Allow"} {
		if !strings.Contains(err.Error(), field) {
			t.Errorf("does not name %s", field)
		}
	}
}

// One worker at a time: a second Run, and RunDue beside it, are refused.
func TestOneWorkerAtATime(t *testing.T) {
	t.Parallel()
	k := newKit(t, welcome())
	reached, hold := make(chan struct{}), make(chan struct{})
	k.Sender.Script(fluxlytest.Outcome{Before: func(*fluxly.Message) { close(reached) }, Hold: hold})
	k.Track(event("signed_up", "u1", nil))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- k.Engine.Run(ctx) }()
	go func() {
		// Hold comes before Before, so that the mail is under way here.
		hold <- struct{}{}
	}()
	<-reached
	if err := k.Engine.Run(ctx); err == nil || errors.Is(err, context.Canceled) {
		t.Errorf("second Run: %v", err)
	}
	if _, err := k.Engine.RunDue(ctx); err == nil {
		t.Error("RunDue beside Run was not refused")
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Run: %v", err)
	}
	if m := record(t, k, "u1", "welcome"); m.Status != fluxly.SendAccepted {
		t.Errorf("the mail under way is %s after Run returned", m.Status)
	}
	k.Advance(time.Second)
}
