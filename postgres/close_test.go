package postgres

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/internal/pgtest"
)

// heldSender tells of the hand-over, and ends it when it is let go.
type heldSender struct{ began, release chan struct{} }

func (s heldSender) Send(context.Context, *fluxly.Message) (fluxly.Receipt, error) {
	close(s.began)
	<-s.release
	return fluxly.Receipt{ID: "taken"}, nil
}

func (heldSender) MessageStream() string { return "broadcast" }

// Close waits for a mail that is with the sender, and its outcome is stored.
func TestCloseStoresOutcomes(t *testing.T) {
	t.Parallel()
	schema := pgtest.Schema(t)
	s := openIn(t, schema)
	sender := heldSender{make(chan struct{}), make(chan struct{})}
	e := newEngine(t, s, sender, time.Hour)
	ran := make(chan error, 1)
	go func() { ran <- e.Run(t.Context()) }()
	signUp(t, e, 0, 1)
	select {
	case <-sender.began:
	case <-time.After(patience):
		t.Fatal("nothing was handed over")
	}
	closed := make(chan error, 1)
	go func() { closed <- s.Close() }()
	eventually(t, "about to close", s.ending.Load)
	close(sender.release)
	if err := <-closed; err != nil {
		t.Error(err)
	}
	if err := <-ran; !errors.Is(err, fluxly.ErrClosed) {
		t.Errorf("Run: %v", err)
	}
	if err := e.Track(t.Context(), fluxly.Event{Name: "x", ExternalID: "u"}); !errors.Is(err, fluxly.ErrClosed) {
		t.Errorf("Track after it: %v", err)
	}
	var mails []*fluxly.SendRecord
	err := openIn(t, schema).View(t.Context(), func(tx fluxly.Tx) (err error) {
		mails, err = tx.Sends(t.Context(), fluxly.SendQuery{})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(mails) != 1 || mails[0].Status != fluxly.SendAccepted {
		t.Errorf("%d mails, the first %+v", len(mails), *mails[0])
	}
}
