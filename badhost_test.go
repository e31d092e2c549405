package fluxly_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/fluxlytest"
)

// senderFunc is a sender of one function, without look-up.
type senderFunc func(ctx context.Context, m *fluxly.Message) (fluxly.Receipt, error)

func (f senderFunc) Send(ctx context.Context, m *fluxly.Message) (fluxly.Receipt, error) {
	return f(ctx, m)
}

// liveEngine is an engine on the wall clock (or that of a synctest bubble).
func liveEngine(t *testing.T, cfg fluxly.Config) *fluxly.Engine {
	t.Helper()
	if cfg.Store == nil {
		cfg.Store = fluxly.NewMemoryStore()
		t.Cleanup(func() { _ = cfg.Store.Close() })
	}
	cfg.Mode, cfg.From, cfg.Emails = fluxly.Live, "Acme <hello@acme.test>", fluxlytest.Emails(fluxlytest.EmailNames(cfg.Automations...)...)
	engine, err := fluxly.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return engine
}

func signUp(t *testing.T, e *fluxly.Engine, id string) {
	t.Helper()
	ev := fluxly.Event{Name: "signed_up", ExternalID: id, Traits: fluxly.Traits{"email": id + "@customer.test"}}
	if err := e.Track(t.Context(), ev); err != nil {
		t.Fatal(err)
	}
}

// run runs an engine; stop ends it and returns what Run returned.
func run(t *testing.T, e *fluxly.Engine) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	return sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
}

// sends is the send log by address.
func sends(t *testing.T, e *fluxly.Engine) map[string]*fluxly.SendRecord {
	t.Helper()
	rows, err := e.Sends(t.Context(), fluxly.SendQuery{})
	if err != nil {
		t.Fatal(err)
	}
	byKey := map[string]*fluxly.SendRecord{}
	for _, r := range rows {
		p, err := e.Profile(t.Context(), r.ProfileID)
		if err != nil {
			t.Fatal(err)
		}
		byKey[p.ExternalIDs[0]] = r
	}
	return byKey
}

func oneMail() []fluxly.Automation {
	return []fluxly.Automation{one("w", fluxly.On("signed_up"), fluxly.Send("welcome"))}
}

// A sender may fail in ways that no contract allows. None of them ends the
// process, loses a mail, or sends one twice.
func TestBadSenders(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		send senderFunc
		want fluxly.SendStatus
		text string
	}{
		{"panics", func(context.Context, *fluxly.Message) (fluxly.Receipt, error) { panic("boom") }, fluxly.SendUnknown, "boom"},
		{"ends its goroutine", func(context.Context, *fluxly.Message) (fluxly.Receipt, error) {
			runtime.Goexit()
			return fluxly.Receipt{}, nil
		}, fluxly.SendUnknown, "Goexit"},
		{"writes to a nil map", func(context.Context, *fluxly.Message) (fluxly.Receipt, error) {
			var m map[string]int
			m["x"] = 1 //nolint:staticcheck // on purpose
			return fluxly.Receipt{}, nil
		}, fluxly.SendUnknown, "nil map"},
		{"returns a foreign error", func(context.Context, *fluxly.Message) (fluxly.Receipt, error) {
			return fluxly.Receipt{}, errors.New("relay says no")
		}, fluxly.SendUnknown, "relay says no"},
		{"returns a nil *DeliveryError", func(context.Context, *fluxly.Message) (fluxly.Receipt, error) {
			var e *fluxly.DeliveryError
			return fluxly.Receipt{}, e
		}, fluxly.SendUnknown, "*fluxly.DeliveryError"},
		{"returns an error without a kind", func(context.Context, *fluxly.Message) (fluxly.Receipt, error) {
			return fluxly.Receipt{}, &fluxly.DeliveryError{Text: "who knows"}
		}, fluxly.SendUnknown, "who knows"},
		{"says to wait for a year", func(context.Context, *fluxly.Message) (fluxly.Receipt, error) {
			return fluxly.Receipt{}, &fluxly.DeliveryError{Kind: fluxly.Temporary, RetryAfter: 365 * fluxly.Day}
		}, fluxly.SendQueued, ""},
		{"says to wait for less than nothing", func(context.Context, *fluxly.Message) (fluxly.Receipt, error) {
			return fluxly.Receipt{}, &fluxly.DeliveryError{Kind: fluxly.Temporary, Account: true, RetryAfter: -fluxly.Day}
		}, fluxly.SendQueued, ""},
		{"writes a megabyte of error", func(context.Context, *fluxly.Message) (fluxly.Receipt, error) {
			return fluxly.Receipt{}, errors.New(strings.Repeat("x", 1<<20))
		}, fluxly.SendUnknown, "xxx"},
		{"changes the message", func(_ context.Context, m *fluxly.Message) (fluxly.Receipt, error) {
			*m = fluxly.Message{}
			return fluxly.Receipt{ID: "1"}, nil
		}, fluxly.SendAccepted, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			clock := fluxlytest.NewClock(fluxlytest.Start)
			e := liveEngine(t, fluxly.Config{Sender: tt.send, Automations: oneMail(), Now: clock.Now})
			signUp(t, e, "ann")
			if _, err := e.RunDue(t.Context()); err != nil {
				t.Fatal(err)
			}
			row := sends(t, e)["ann"]
			if row == nil || row.Status != tt.want || !strings.Contains(row.Detail, tt.text) || len(row.Detail) > 1000 {
				t.Errorf("row %+v, want %s with %q", row, tt.want, tt.text)
			}
			if until := row.DueAt.Sub(clock.Now()); tt.want == fluxly.SendQueued && (until <= 0 || until > 30*time.Hour) {
				t.Errorf("the next try is in %s", until)
			}
		})
	}
}

// pass lets virtual time go by, in a synctest bubble.
func pass(d time.Duration) { <-time.After(d) }

// A sender that never returns holds neither its mail's outcome nor the end of
// Run, and at most MaxSends of its calls are ever open.
func TestSenderThatNeverReturns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		var open atomic.Int64
		store := fluxly.NewMemoryStore()
		e := liveEngine(t, fluxly.Config{
			Store: store, Automations: oneMail(), MaxSends: 2, SendTimeout: time.Minute,
			Sender: senderFunc(func(context.Context, *fluxly.Message) (fluxly.Receipt, error) {
				open.Add(1)
				<-release
				return fluxly.Receipt{ID: "late"}, nil
			}),
		})
		for i := range 5 {
			signUp(t, e, fmt.Sprintf("u%d", i))
		}
		stop := run(t, e)
		pass(10 * time.Minute)
		if n := open.Load(); n != 2 {
			t.Errorf("%d calls are open, want MaxSends, 2", n)
		}
		count := map[fluxly.SendStatus]int{}
		for _, r := range sends(t, e) {
			count[r.Status]++
			if r.Status == fluxly.SendUnknown && !strings.Contains(r.Detail, "did not return within 1m0s") {
				t.Errorf("detail %q", r.Detail)
			}
		}
		if count[fluxly.SendUnknown] != 2 || count[fluxly.SendQueued] != 3 {
			t.Errorf("mails by status: %v", count)
		}
		if err := stop(); !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
		close(release)
		synctest.Wait()
		_ = store.Close()
	})
}

// Host code in steps and conditions that panics, hangs or fails concerns the
// person at hand alone.
func TestBadSteps(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		fn   func(release <-chan struct{}) fluxly.StepFunc
		text string
	}{
		{"panics", func(<-chan struct{}) fluxly.StepFunc {
			return func(context.Context, fluxly.StepInput) (any, error) { panic("boom") }
		}, "boom"},
		{"ends its goroutine", func(<-chan struct{}) fluxly.StepFunc {
			return func(context.Context, fluxly.StepInput) (any, error) { runtime.Goexit(); return nil, nil }
		}, "Goexit"},
		{"hangs until its context ends", func(<-chan struct{}) fluxly.StepFunc {
			return func(ctx context.Context, _ fluxly.StepInput) (any, error) { <-ctx.Done(); return nil, ctx.Err() }
		}, "deadline"},
		{"never returns", func(release <-chan struct{}) fluxly.StepFunc {
			return func(context.Context, fluxly.StepInput) (any, error) { <-release; return nil, nil }
		}, "did not return within 30s"},
		{"returns what cannot be stored", func(<-chan struct{}) fluxly.StepFunc {
			return func(context.Context, fluxly.StepInput) (any, error) { return make(chan int), nil }
		}, "cannot be stored"},
		{"returns too much", func(<-chan struct{}) fluxly.StepFunc {
			return func(context.Context, fluxly.StepInput) (any, error) { return strings.Repeat("x", 32<<10), nil }
		}, "32770 bytes as JSON"},
		{"returns a megabyte", func(<-chan struct{}) fluxly.StepFunc {
			return func(context.Context, fluxly.StepInput) (any, error) {
				return nil, errors.New(strings.Repeat("x", 1<<20))
			}
		}, "xxx"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				release := make(chan struct{})
				bad := tt.fn(release)
				store := fluxly.NewMemoryStore()
				sender := &fluxlytest.FakeSender{Stream: "lifecycle"}
				e := liveEngine(t, fluxly.Config{
					Store: store, Sender: sender, CallAttempts: 3,
					Automations: []fluxly.Automation{one("w", fluxly.On("signed_up"), fluxly.Do("host"), fluxly.Send("welcome"))},
					Funcs: map[string]fluxly.StepFunc{"host": func(ctx context.Context, in fluxly.StepInput) (any, error) {
						if in.Profile.Email() == "ann@customer.test" {
							return bad(ctx, in)
						}
						return "fine", nil
					}},
				})
				stop := run(t, e)
				signUp(t, e, "ann")
				signUp(t, e, "bob")
				pass(time.Minute)
				if r := sends(t, e)["bob"]; r == nil || r.Status != fluxly.SendAccepted {
					t.Errorf("bob's mail: %+v", r)
				}
				pass(24 * time.Hour)
				runs, err := e.Runs(t.Context(), fluxly.RunQuery{})
				if err != nil || len(runs) != 2 {
					t.Fatal(runs, err)
				}
				for _, r := range runs {
					if r.Status == fluxly.RunLive {
						t.Errorf("a run still stands at %s", r.Step)
					}
				}
				log, err := e.RunLog(t.Context(), runOf(t, e, "ann").ID)
				if err != nil {
					t.Fatal(err)
				}
				if text := fmt.Sprint(log); !strings.Contains(text, tt.text) || len(text) > 1<<16 {
					t.Errorf("the log of the run does not say %q: %s", tt.text, text)
				}
				if err := stop(); !errors.Is(err, context.Canceled) {
					t.Errorf("Run: %v", err)
				}
				close(release)
				synctest.Wait()
				_ = store.Close()
			})
		})
	}
}

// runOf is the only run of a person.
func runOf(t *testing.T, e *fluxly.Engine, id string) *fluxly.Run {
	t.Helper()
	p, err := e.Profile(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	runs, err := e.Runs(t.Context(), fluxly.RunQuery{ProfileID: p.ID})
	if err != nil || len(runs) != 1 {
		t.Fatal(runs, err)
	}
	return runs[0]
}

// A condition that fails for one person keeps that person's run, and nobody
// else's; it goes on when the condition is mended.
func TestBadConditions(t *testing.T) {
	t.Parallel()
	for name, bad := range map[string]fluxly.ConditionFunc{
		"panics": func(context.Context, fluxly.FuncInput) (bool, error) { panic("boom") },
		"fails":  func(context.Context, fluxly.FuncInput) (bool, error) { return false, errors.New("boom") },
		"fails with our own": func(context.Context, fluxly.FuncInput) (bool, error) {
			return false, fmt.Errorf("boom: %w", fluxly.ErrNotFound)
		},
		// A condition that waits keeps the store's lock, under which a bubble's
		// clock stands still; so this one only looks at how long it might.
		"waits as long as it may": func(ctx context.Context, _ fluxly.FuncInput) (bool, error) {
			if until, ok := ctx.Deadline(); !ok || time.Until(until) > 5*time.Second {
				return true, nil
			}
			return false, errors.New("boom")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var mended atomic.Bool
				store := fluxly.NewMemoryStore()
				out := &transcript{}
				e := liveEngine(t, fluxly.Config{
					Store: store, Sender: &fluxlytest.FakeSender{Stream: "lifecycle"}, Logger: out.logger(),
					Automations: []fluxly.Automation{
						one("w", fluxly.On("signed_up"), fluxly.Wait(time.Hour), fluxly.If(fluxly.Func("host")).Then(fluxly.Send("welcome"))),
						one("direct", fluxly.On("opened", fluxly.Func("host")), fluxly.Wait(time.Hour)),
					},
					Conditions: map[string]fluxly.ConditionFunc{"host": func(ctx context.Context, in fluxly.FuncInput) (bool, error) {
						if in.Profile.Email() == "ann@customer.test" && !mended.Load() {
							return bad(ctx, in)
						}
						return true, nil
					}},
				})
				stop := run(t, e)
				for _, id := range []string{"amy", "ann", "bob"} {
					signUp(t, e, id)
				}
				// Where the program asks, it gets the error, and nothing is stored.
				opened := fluxly.Event{Name: "opened", ExternalID: "ann", MessageID: "m1"}
				if err := e.Track(t.Context(), opened); err == nil || !strings.Contains(err.Error(), `condition func "host"`) {
					t.Errorf("Track: %v", err)
				}
				pass(2 * time.Hour)
				rows := sends(t, e)
				for _, id := range []string{"amy", "bob"} {
					if r := rows[id]; r == nil || r.Status != fluxly.SendAccepted {
						t.Errorf("%s's mail: %+v", id, r)
					}
				}
				if rows["ann"] != nil {
					t.Errorf("ann's mail: %+v", rows["ann"])
				}
				if !strings.Contains(out.buf.String(), "boom") {
					t.Error("nobody is told")
				}
				mended.Store(true)
				pass(time.Hour)
				if r := sends(t, e)["ann"]; r == nil || r.Status != fluxly.SendAccepted {
					t.Errorf("ann's mail after it was mended: %+v", r)
				}
				if err := e.Track(t.Context(), opened); err != nil {
					t.Errorf("Track after it was mended: %v", err)
				}
				if runs, err := e.Runs(t.Context(), fluxly.RunQuery{Automation: "direct"}); err != nil || len(runs) != 1 {
					t.Errorf("the event started %d runs, %v", len(runs), err)
				}
				if err := stop(); !errors.Is(err, context.Canceled) {
					t.Errorf("Run: %v", err)
				}
				_ = store.Close()
			})
		})
	}
}

// A condition that ends its goroutine (as t.FailNow does) takes its own caller
// with it, and nobody who tracks after it; a panic of the store likewise.
func TestTrackingGoesOnAfterItsLeaderIsGone(t *testing.T) {
	t.Parallel()
	store := &panickyStore{Store: fluxly.NewMemoryStore()}
	t.Cleanup(func() { _ = store.Close() })
	e := liveEngine(t, fluxly.Config{
		Store: store, Sender: &fluxlytest.FakeSender{Stream: "lifecycle"},
		Conditions: map[string]fluxly.ConditionFunc{
			"host": func(context.Context, fluxly.FuncInput) (bool, error) { runtime.Goexit(); return true, nil },
		},
		Automations: []fluxly.Automation{one("w", fluxly.On("opened", fluxly.Func("host")), fluxly.Send("welcome"))},
	})
	returned := false
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = e.Track(t.Context(), event("opened", "ann", nil))
		returned = true
	})
	wg.Wait()
	if returned {
		t.Error("Track returned, although its goroutine had ended: the test sees nothing")
	}
	signUp(t, e, "bob")
	store.panics.Store(true)
	if err := e.Track(t.Context(), event("signed_up", "ann", nil)); err == nil || !strings.Contains(err.Error(), "boom") {
		t.Errorf("Track on a store that panics: %v", err)
	}
	store.panics.Store(false)
	signUp(t, e, "amy")
	if _, err := e.Profile(t.Context(), "ann"); !errors.Is(err, fluxly.ErrNotFound) {
		t.Errorf("Profile of whose calls came to nothing: %v", err)
	}
}

// panickyStore is a store whose Update panics when told to.
type panickyStore struct {
	fluxly.Store
	panics atomic.Bool
}

func (s *panickyStore) Update(ctx context.Context, fn func(fluxly.Tx) error) error {
	if s.panics.Load() {
		panic("boom")
	}
	return s.Store.Update(ctx, fn)
}

// What a store does twice, because the first attempt could not be committed,
// counts once; what comes to nothing does not count.
func TestCountersOfRepeatedTransactions(t *testing.T) {
	t.Parallel()
	store := &repeatingStore{Store: fluxly.NewMemoryStore()}
	fails := true
	k := newKitConfig(t, fluxly.Config{
		Store: store, Automations: append(oneMail(), one("c", fluxly.On("opened", fluxly.Func("host")), fluxly.Wait(time.Hour))),
		Conditions: map[string]fluxly.ConditionFunc{"host": func(context.Context, fluxly.FuncInput) (bool, error) {
			if fails {
				return false, errors.New("boom")
			}
			return true, nil
		}},
	})
	k.Identify(fluxly.Identity{ExternalID: "ann", Traits: fluxly.Traits{"email": "ann@customer.test"}})
	k.Track(event("signed_up", "ann", nil))
	k.WantSent("ann", "welcome")
	opened := fluxly.Event{Name: "opened", ExternalID: "ann", MessageID: "m1"}
	if err := k.TryTrack(opened); err == nil {
		t.Error("Track: no error of the condition")
	}
	fails = false
	k.Track(opened)
	k.Track(opened)
	opened.Name = "closed"
	if err := k.TryTrack(opened); !errors.Is(err, fluxly.ErrConflict) {
		t.Errorf("another event with the same message id: %v", err)
	}
	k.Advance(2 * time.Hour)
	k.Settle()
	want := fluxly.Counters{
		Events: 3, Duplicates: 1, Conflicts: 1, TrackErrors: 2, RunsStarted: 2, RunsEnded: 2, Wakes: 1, Queued: 1, Accepted: 1,
	}
	if diff := cmp.Diff(want, k.Engine.Counters()); diff != "" {
		t.Errorf("counters (-want +got):\n%s", diff)
	}
}

// repeatingStore is a store whose first attempt at each Update fails, as one
// that another process got in the way of.
type repeatingStore struct{ fluxly.Store }

func (s *repeatingStore) Update(ctx context.Context, fn func(fluxly.Tx) error) error {
	conflict := errors.New("try again")
	err := s.Store.Update(ctx, func(tx fluxly.Tx) error {
		if err := fn(tx); err != nil {
			return err
		}
		return conflict
	})
	if !errors.Is(err, conflict) {
		return err
	}
	return s.Store.Update(ctx, fn)
}

// The life of an engine: what comes too late, twice, or at the wrong moment.
func TestEngineLife(t *testing.T) {
	t.Parallel()
	ev := fluxly.Event{Name: "signed_up", ExternalID: "ann", Traits: fluxly.Traits{"email": "ann@customer.test"}}

	t.Run("Track with a context that has ended", func(t *testing.T) {
		t.Parallel()
		e := liveEngine(t, fluxly.Config{Sender: &fluxlytest.FakeSender{}, Automations: oneMail()})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := e.Track(ctx, ev); !errors.Is(err, context.Canceled) {
			t.Errorf("Track: %v", err)
		}
		if _, err := e.Profile(t.Context(), "ann"); !errors.Is(err, fluxly.ErrNotFound) {
			t.Errorf("something was stored: %v", err)
		}
	})
	t.Run("after Close", func(t *testing.T) {
		t.Parallel()
		e := liveEngine(t, fluxly.Config{Sender: &fluxlytest.FakeSender{}, Automations: oneMail()})
		if err := errors.Join(e.Close(), e.Close()); err != nil {
			t.Fatal(err)
		}
		_, enroll := e.Enroll(t.Context(), fluxly.Enrollment{Automation: "w", ExternalID: "ann"})
		for call, err := range map[string]error{
			"Track": e.Track(t.Context(), ev), "Identify": e.Identify(t.Context(), fluxly.Identity{ExternalID: "ann"}), "Enroll": enroll,
			"Alias": e.Alias(t.Context(), fluxly.Alias{UserID: "ann", AnonymousID: "a"}), "Erase": e.Erase(t.Context(), fluxly.Erasure{ID: "ann", Reason: "internal"}), "Run": e.Run(t.Context()),
		} {
			if !errors.Is(err, fluxly.ErrClosed) {
				t.Errorf("%s: %v, want ErrClosed", call, err)
			}
		}
	})
	t.Run("New on a closed store", func(t *testing.T) {
		t.Parallel()
		store := fluxly.NewMemoryStore()
		_ = store.Close()
		_, err := fluxly.New(fluxly.Config{Store: store, Sender: &fluxlytest.FakeSender{}, Mode: fluxly.Live, From: "a@acme.test"})
		if !errors.Is(err, fluxly.ErrClosed) {
			t.Errorf("New: %v, want ErrClosed", err)
		}
	})
	t.Run("Run twice, and two engines on one store", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			store := fluxly.NewMemoryStore()
			hold := make(chan struct{})
			sender := &fluxlytest.FakeSender{Stream: "lifecycle"}
			sender.Script(fluxlytest.Outcome{Hold: hold})
			cfg := fluxly.Config{Store: store, Sender: sender, Automations: oneMail()}
			first, second := liveEngine(t, cfg), liveEngine(t, cfg)
			stop := run(t, first)
			signUp(t, first, "ann")
			synctest.Wait() // the mail is under way
			if err := first.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "already") {
				t.Errorf("a second Run: %v", err)
			}
			if err := second.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "already") {
				t.Errorf("Run of a second engine: %v", err)
			}
			// It can track all the same, and the first one sends.
			signUp(t, second, "bob")
			close(hold)
			synctest.Wait()
			rows := sends(t, first)
			for _, id := range []string{"ann", "bob"} {
				if rows[id] == nil || rows[id].Status != fluxly.SendAccepted {
					t.Errorf("%s's mail: %+v", id, rows[id])
				}
			}
			if n := sender.Calls(); n != 2 {
				t.Errorf("%d calls of the sender, want 2", n)
			}
			_ = stop()
			// Once it has ended, the other may work.
			stop = run(t, second)
			signUp(t, first, "carl")
			synctest.Wait()
			if r := sends(t, first)["carl"]; r == nil || r.Status != fluxly.SendAccepted {
				t.Errorf("carl's mail: %+v", r)
			}
			_ = stop()
			_ = store.Close()
		})
	})
	t.Run("ctx and Close while mails are under way", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			store := fluxly.NewMemoryStore()
			hold := make(chan struct{})
			sender := &fluxlytest.FakeSender{Stream: "lifecycle"}
			sender.Rules(fluxlytest.Rule{Outcome: fluxlytest.Outcome{Hold: hold}})
			e := liveEngine(t, fluxly.Config{Store: store, Sender: sender, Automations: oneMail(), MaxSends: 2})
			for i := range 5 {
				signUp(t, e, fmt.Sprintf("u%d", i))
			}
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- e.Run(ctx) }()
			synctest.Wait()
			cancel()
			_ = e.Close()
			synctest.Wait()
			select {
			case err := <-ended:
				t.Fatalf("Run returned %v with mails under way", err)
			default:
			}
			close(hold)
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Errorf("Run: %v", err)
			}
			again := liveEngine(t, fluxly.Config{Store: store, Sender: sender, Automations: oneMail()})
			count := map[fluxly.SendStatus]int{}
			for _, r := range sends(t, again) {
				count[r.Status]++
			}
			if count[fluxly.SendAccepted] != 2 || count[fluxly.SendQueued] != 3 {
				t.Errorf("mails by status: %v, want 2 accepted and 3 queued", count)
			}
			if _, err := again.RunDue(t.Context()); err != nil {
				t.Fatal(err)
			}
			if n := len(sender.Mails()); n != 5 || len(sender.Twice()) != 0 {
				t.Errorf("%d mails, twice %v", n, sender.Twice())
			}
			_ = store.Close()
		})
	})
	t.Run("10,000 automations", func(t *testing.T) {
		t.Parallel()
		list := make([]fluxly.Automation, 10_000)
		for i := range list {
			list[i] = one(fmt.Sprintf("a%d", i), fluxly.On(fmt.Sprintf("event_%d", i), fluxly.Prop("plan").Is("trial")), fluxly.Send("welcome"), fluxly.Wait(fluxly.Day), fluxly.Send("more"))
		}
		begun := time.Now()
		e := liveEngine(t, fluxly.Config{Sender: &fluxlytest.FakeSender{Stream: "lifecycle"}, Automations: list})
		t.Logf("New with 10,000 automations: %s", time.Since(begun).Round(time.Millisecond))
		if err := e.Track(t.Context(), event("event_77", "ann", fluxly.Properties{"plan": "trial"})); err != nil {
			t.Fatal(err)
		}
		if runs, err := e.Runs(t.Context(), fluxly.RunQuery{}); err != nil || len(runs) != 1 {
			t.Errorf("%d runs, %v", len(runs), err)
		}
	})
}

// A suppressed address stays suppressed however the trait spells it.
func TestSuppressionOfAnAddressWithAName(t *testing.T) {
	t.Parallel()
	for _, email := range []string{"ann@customer.test", "Ann <ann@customer.test>", `"Smith, Ann" <Ann@CUSTOMER.test>`, " <ann@customer.test> "} {
		k := newKit(t, oneMail()...)
		if err := k.Engine.Suppress(t.Context(), fluxly.Suppression{Address: "ann@customer.test", Reason: "HardBounce"}); err != nil {
			t.Fatal(err)
		}
		k.Identify(fluxly.Identity{ExternalID: "u1", Traits: fluxly.Traits{"email": email}})
		k.Track(event("signed_up", "u1", nil))
		k.WantNotSent("u1", "welcome", fluxly.ReasonSuppressed)
	}
}

// A run that stands where its version has no step, as after an import or a
// restored backup, does not keep the engine busy, nor the others waiting.
func TestRunAtNoStep(t *testing.T) {
	t.Parallel()
	for name, pending := range map[string]fluxly.Pending{"waiting": "", "at a call": fluxly.PendingCall} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := newKit(t, one("w", fluxly.On("signed_up"), fluxly.Wait(time.Hour), fluxly.Send("welcome")))
			k.Track(event("signed_up", "u1", nil))
			k.Track(event("signed_up", "u2", nil))
			lost := runOf(t, k.Engine, "u1")
			lost.Step, lost.Pending, lost.WakeAt = "ghost", pending, fluxlytest.Start
			if err := k.Store.Update(t.Context(), func(tx fluxly.Tx) error { return tx.PutRun(t.Context(), lost) }); err != nil {
				t.Fatal(err)
			}
			k.Advance(2 * time.Hour)
			k.WantSent("u2", "welcome")
			if r := runOf(t, k.Engine, "u1"); r.Status != fluxly.RunFailed {
				t.Errorf("the run is %s at %s", r.Status, r.Step)
			}
		})
	}
}
