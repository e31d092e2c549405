package fluxlytest

import (
	"context"
	"errors"
	"testing"

	"github.com/getfluxly/fluxly"
)

func TestPostmarkSMTPLookupSender(t *testing.T) {
	t.Parallel()
	s := start(t, PostmarkSMTPConfig{})
	inner := &FakeSender{Stream: "lifecycle"}
	l := s.LookupSender(inner)
	if err := send(login(t, s), testMail); err != nil {
		t.Fatal(err)
	}
	m := s.Mails()[0]

	receipt, found, err := l.Lookup(t.Context(), m.SendKey())
	if err != nil || !found || receipt.ID != m.ID || !receipt.At.Equal(m.At) {
		t.Errorf("Lookup = %+v, %v, %v; want the mail %s of %v", receipt, found, err, m.ID, m.At)
	}
	if _, found, err := l.Lookup(t.Context(), "never sent"); err != nil || found {
		t.Errorf("Lookup of what was never sent = %v, %v", found, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := l.Lookup(ctx, m.SendKey()); !errors.Is(err, context.Canceled) {
		t.Errorf("Lookup = %v, want the context's error", err)
	}
	if _, err := l.Send(t.Context(), message("k", "ann@acme.test")); err != nil || inner.Calls() != 1 {
		t.Errorf("Send = %v with %d calls, want the inner sender's", err, inner.Calls())
	}
	if got := l.(interface{ MessageStream() string }).MessageStream(); got != "lifecycle" {
		t.Errorf("stream = %q, want the inner sender's", got)
	}
	bare := s.LookupSender(struct{ fluxly.Sender }{inner})
	if got := bare.(interface{ MessageStream() string }).MessageStream(); got != "" {
		t.Errorf("stream = %q, want none", got)
	}
}
