package fluxlytest

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/getfluxly/fluxly"
)

func message(key, to string) *fluxly.Message {
	return &fluxly.Message{SendKey: key, From: "Acme <hello@acme.test>", To: to, Subject: "Hi", Text: "Hello"}
}

func TestFakeSenderOutcomes(t *testing.T) {
	t.Parallel()
	special := errors.New("something else")
	hello := func(m *fluxly.Message) bool { return strings.Contains(m.Text, "Hello") }
	tests := map[string]struct {
		rule  Rule
		is    error // nil: accepted
		taken bool
		check func(*fluxly.DeliveryError) bool
	}{
		"another recipient": {Rule{To: "bob@acme.test", Outcome: Permanent()}, nil, true, nil},
		"another key":       {Rule{SendKey: "k2", Outcome: Permanent()}, nil, true, nil},
		"no match":          {Rule{Match: func(m *fluxly.Message) bool { return !hello(m) }, Outcome: Permanent()}, nil, true, nil},
		"zero rule":         {Rule{}, nil, true, nil},
		"temporary": {
			Rule{Outcome: Temporary()},
			fluxly.ErrTemporary, false, func(e *fluxly.DeliveryError) bool { return e.Code == 450 && !e.Account },
		},
		"permanent": {
			Rule{To: "ANN@acme.test", Outcome: Permanent()},
			fluxly.ErrPermanent, false, func(e *fluxly.DeliveryError) bool { return e.Code == 550 && !e.Account },
		},
		"login": {
			Rule{SendKey: "k1", Outcome: BadCredentials()},
			fluxly.ErrAuth, false, func(e *fluxly.DeliveryError) bool { return e.Account && e.Code == 535 },
		},
		"unknown, taken":       {Rule{Match: hello, Outcome: ReplyLost()}, fluxly.ErrUnknownOutcome, true, nil},
		"unknown, not taken":   {Rule{Nth: 1, Outcome: Lost()}, fluxly.ErrUnknownOutcome, false, nil},
		"an error of the test": {Rule{Outcome: Outcome{Taken: true, Err: special}}, special, true, nil},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
			f := &FakeSender{Now: func() time.Time { return at }, Stream: "broadcast"}
			f.Rules(tc.rule)
			m := message("k1", "Ann <ann@acme.test>")
			m.Metadata = map[string]string{"plan": "trial"}
			receipt, err := f.Send(t.Context(), m)
			m.Metadata["plan"] = "changed afterwards"
			if !errors.Is(err, tc.is) {
				t.Fatalf("Send = %v, want %v", err, tc.is)
			}
			if accepted := receipt.ID == "fake-1" && receipt.At.Equal(at); accepted != (tc.is == nil) {
				t.Errorf("receipt = %+v with error %v", receipt, err)
			}
			var de *fluxly.DeliveryError
			if tc.check != nil && (!errors.As(err, &de) || !tc.check(de)) {
				t.Errorf("error = %#v", err)
			}
			if got := f.Mails(); len(got) == 1 != tc.taken || tc.taken && got[0].Metadata["plan"] != "trial" {
				t.Errorf("%d mails were taken, want taken %v, as they were", len(got), tc.taken)
			}
			got, found, err := f.Lookup(t.Context(), "k1")
			if err != nil || found != tc.taken || found && got.ID != "fake-1" {
				t.Errorf("Lookup = %+v, %v, %v; want found %v", got, found, err, tc.taken)
			}
			if calls := f.History(); len(calls) != 1 || f.Calls() != 1 || !calls[0].Ended || !errors.Is(calls[0].Err, tc.is) || calls[0].Receipt != receipt {
				t.Errorf("history = %+v, want the one call with what Send returned", calls)
			}
			if f.MessageStream() != "broadcast" {
				t.Errorf("stream = %q", f.MessageStream())
			}
		})
	}
}

func TestFakeSenderOrder(t *testing.T) {
	t.Parallel()
	f := &FakeSender{}
	f.Script(Temporary(), Accept())
	f.Rules(
		Rule{SendKey: "a", Nth: 2, Outcome: Permanent()},
		Rule{SendKey: "a", Nth: 1, Outcome: Temporary()},
		Rule{Nth: 3, Outcome: Lost()},
	)
	f.Plan(func(m *fluxly.Message) (Outcome, bool) {
		return Permanent(), m.SendKey == "planned" && len(f.Mails()) > 0
	})
	var got []string
	for _, key := range []string{"a", "a", "b", "a", "a", "a", "b", "planned"} {
		_, err := f.Send(t.Context(), message(key, "ann@acme.test"))
		var de *fluxly.DeliveryError
		if errors.As(err, &de) {
			key += " " + string(de.Kind)
		}
		got = append(got, key)
	}
	// The script has the first two; the third rule counts b, the third a, and
	// the last b.
	want := []string{"a temporary", "a", "b", "a temporary", "a permanent", "a", "b unknown", "planned permanent"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("outcomes (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"a"}, f.Twice()); diff != "" {
		t.Errorf("taken twice (-want +got):\n%s", diff)
	}
}

// A panic of the test's own code goes to whoever called Send, and the sender
// works on.
func TestFakeSenderPanics(t *testing.T) {
	t.Parallel()
	for name, set := range map[string]func(*FakeSender){
		"plan":   func(f *FakeSender) { f.Plan(func(*fluxly.Message) (Outcome, bool) { panic("boom") }) },
		"before": func(f *FakeSender) { f.Script(Outcome{Before: func(*fluxly.Message) { panic("boom") }}) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := &FakeSender{}
			set(f)
			func() {
				defer func() {
					if p := recover(); p != "boom" {
						t.Errorf("Send panicked with %v, want boom", p)
					}
				}()
				_, _ = f.Send(t.Context(), message("a", "ann@acme.test"))
			}()
			f.Plan(nil)
			if _, err := f.Send(t.Context(), message("b", "ann@acme.test")); err != nil {
				t.Error(err)
			}
			calls, err := f.Wait(t.Context(), 2)
			if err != nil || calls[0].Err == nil || calls[1].Err != nil || len(f.Mails()) != 1 {
				t.Errorf("%d mails, calls %+v: %v", len(f.Mails()), calls, err)
			}
		})
	}
}

func TestFakeSenderWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		f := &FakeSender{}
		f.Rules(
			Rule{To: "hang@acme.test", Outcome: Outcome{Hang: true}},
			Rule{To: "held@acme.test", Outcome: Outcome{Hold: release}},
		)
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		for _, to := range []string{"hang@acme.test", "held@acme.test"} {
			if _, err := f.Send(ctx, message(to, to)); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, fluxly.ErrUnknownOutcome) {
				t.Errorf("Send to %s = %v, want unknown with the context's error", to, err)
			}
		}
		if got := time.Since(began); got != 5*time.Second {
			t.Errorf("it took %v, want until the context ended", got)
		}
		if got := f.Mails(); len(got) != 0 {
			t.Errorf("%d mails were taken, want none", len(got))
		}

		var changed bool
		f.Script(Outcome{Hold: release, Before: func(*fluxly.Message) { changed = len(f.Mails()) == 0 }})
		go func() { _, _ = f.Send(t.Context(), message("held", "held@acme.test")) }()
		synctest.Wait()
		if got := f.Mails(); len(got) != 0 || f.History()[2].Ended {
			t.Errorf("%d mails were taken while held, want none", len(got))
		}
		close(release)
		calls, err := f.Wait(t.Context(), 3)
		if err != nil || len(calls) != 3 || calls[2].Err != nil || len(f.Mails()) != 1 {
			t.Errorf("Wait = %+v, %v; want three calls, the last accepted", calls, err)
		}
		if !changed {
			t.Error("Before was not called, or after the mail was taken")
		}
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := f.Wait(ctx, 4); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Wait for a fourth = %v, want the context's error", err)
		}
	})
}

func TestFakeSenderLookupFails(t *testing.T) {
	t.Parallel()
	f := &FakeSender{}
	f.WithoutLookup()
	if _, _, err := f.Lookup(t.Context(), "k"); !errors.Is(err, fluxly.ErrLookupUnavailable) {
		t.Errorf("Lookup = %v, want %v", err, fluxly.ErrLookupUnavailable)
	}
	down := errors.New("the API is down")
	f.FailLookups(down)
	if _, _, err := f.Lookup(t.Context(), "k"); !errors.Is(err, down) {
		t.Errorf("Lookup = %v, want %v", err, down)
	}
	f.FailLookups(nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := f.Lookup(ctx, "k"); !errors.Is(err, context.Canceled) {
		t.Errorf("Lookup = %v, want the context's error", err)
	}
	if _, found, err := f.Lookup(t.Context(), "k"); found || err != nil {
		t.Errorf("Lookup of what was never sent = %v, %v", found, err)
	}
	if got := f.Lookups(); got != 4 {
		t.Errorf("Lookups = %d, want 4", got)
	}
}

func TestFakeSenderManyGoroutines(t *testing.T) {
	t.Parallel()
	f := &FakeSender{}
	f.Rules(Rule{Nth: 7, Outcome: Temporary()})
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			_, _ = f.Send(t.Context(), message(strconv.Itoa(i), "ann@acme.test"))
		})
	}
	if _, err := f.Wait(t.Context(), 50); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if got := len(f.Mails()); got != 49 || len(f.Twice()) != 0 {
		t.Errorf("%d mails were taken, %d twice; want 49, each once", got, len(f.Twice()))
	}
}
