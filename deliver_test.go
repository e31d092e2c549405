package fluxly_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/fstest"
	"time"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/fluxlytest"
)

func welcome() fluxly.Automation {
	return one("w", fluxly.On("signed_up"), fluxly.Send("welcome"), fluxly.Wait(fluxly.Day), fluxly.Send("more"))
}

// record is the only row of the send log for a mail to a person.
func record(t *testing.T, k *fluxlytest.Kit, id, email string) *fluxly.SendRecord {
	t.Helper()
	p, err := k.Engine.Profile(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	rows, err := k.Engine.Sends(t.Context(), fluxly.SendQuery{ProfileID: p.ID})
	if err != nil {
		t.Fatal(err)
	}
	var found *fluxly.SendRecord
	for _, r := range rows {
		if r.Email == email {
			if found != nil {
				t.Fatalf("two rows for %s", email)
			}
			found = r
		}
	}
	if found == nil {
		t.Fatalf("no row for %s", email)
	}
	return found
}

// R15: the run is past its checks and claimed; the unsubscription commits
// before the provider is called.
func TestR15UnsubscribedBetweenClaimAndCall(t *testing.T) {
	t.Parallel()
	store := &hookStore{Store: fluxly.NewMemoryStore()}
	t.Cleanup(func() { _ = store.Close() })
	k := newKitConfig(t, fluxly.Config{Store: store, Automations: []fluxly.Automation{welcome()}})
	k.Track(event("signed_up", "u1", nil))
	claimed := false
	store.beforeView = func() {
		// The first read after the claim is the last look before the call.
		if m := record(t, k, "u1", "welcome"); m.Status == fluxly.SendSending && !claimed {
			claimed = true
			if err := k.Engine.Unsubscribe(t.Context(), "u1", fluxly.Unsubscription{Source: "one-click"}); err != nil {
				t.Error(err)
			}
		}
	}
	k.Settle()
	if !claimed {
		t.Fatal("the mail was never claimed")
	}
	k.WantNotSent("u1", "welcome", fluxly.ReasonConsent)
	if n := k.Sender.Calls(); n != 0 {
		t.Errorf("the sender was called %d times", n)
	}
}

// hookStore lets a test act between the steps of the engine.
type hookStore struct {
	fluxly.Store
	beforeView, afterView func()
	busy                  bool
}

func (s *hookStore) View(ctx context.Context, fn func(fluxly.Tx) error) error {
	if s.beforeView != nil && !s.busy {
		s.busy = true
		s.beforeView()
		s.busy = false
	}
	err := s.Store.View(ctx, fn)
	if s.afterView != nil && !s.busy {
		s.busy = true
		s.afterView()
		s.busy = false
	}
	return err
}

func TestO3LostReply(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name      string
		outcome   fluxlytest.Outcome
		lookup    bool
		policy    fluxly.UnknownPolicy
		want      fluxly.SendStatus
		delivered int
		goesOn    bool
	}{
		{"taken, provider asked", fluxlytest.ReplyLost(), true, fluxly.Hold, fluxly.SendAccepted, 1, true},
		{"not taken, provider asked", fluxlytest.Lost(), true, fluxly.Hold, fluxly.SendAccepted, 1, true},
		{"taken, hold", fluxlytest.ReplyLost(), false, fluxly.Hold, fluxly.SendUnknown, 1, false},
		{"not taken, hold", fluxlytest.Lost(), false, fluxly.Hold, fluxly.SendUnknown, 0, false},
		{"taken, counts as sent", fluxlytest.ReplyLost(), false, fluxly.CountAsSent, fluxly.SendUnknown, 1, true},
		{"not taken, send again", fluxlytest.Lost(), false, fluxly.SendAgain, fluxly.SendAccepted, 1, true},
		{"a foreign error", fluxlytest.Outcome{Err: errors.New("boom")}, false, fluxly.Hold, fluxly.SendUnknown, 0, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			k := newKitConfig(t, fluxly.Config{Automations: []fluxly.Automation{welcome()}, Unknown: tt.policy})
			if !tt.lookup {
				k.Sender.WithoutLookup()
			}
			k.Sender.Script(tt.outcome)
			k.Track(event("signed_up", "u1", nil))
			k.Settle()
			if m := record(t, k, "u1", "welcome"); m.Status != tt.want {
				t.Errorf("status %s (%s), want %s", m.Status, m.Detail, tt.want)
			}
			if n := len(k.Sender.Mails()); n != tt.delivered {
				t.Errorf("%d mails at the provider, want %d", n, tt.delivered)
			}
			k.Advance(2 * fluxly.Day)
			k.Settle()
			if went := len(k.Sender.Mails()) > tt.delivered; went != tt.goesOn {
				t.Errorf("the run went on: %v, want %v", went, tt.goesOn)
			}
			if tt.want != fluxly.SendUnknown || tt.goesOn {
				return
			}
			// A person settles what is held.
			key := record(t, k, "u1", "welcome").Key
			if err := k.Engine.Settle(t.Context(), key, tt.delivered == 1); err != nil {
				t.Fatal(err)
			}
			k.Advance(2 * fluxly.Day)
			k.WantSent("u1", "welcome", "more")
			if again := k.Sender.Twice(); len(again) > 0 {
				t.Errorf("sent twice: %v", again)
			}
			if err := k.Engine.Settle(t.Context(), key, true); !errors.Is(err, fluxly.ErrNotFound) {
				t.Errorf("settled again: %v", err)
			}
		})
	}
}

// A provider that cannot be asked at the moment is asked again; the mail is
// neither given up nor sent on a guess.
func TestO3ProviderCannotBeAskedYet(t *testing.T) {
	t.Parallel()
	k := newKit(t, welcome())
	k.Sender.Script(fluxlytest.ReplyLost())
	k.Sender.FailLookups(errors.New("api is down"))
	k.Track(event("signed_up", "u1", nil))
	k.Advance(10 * time.Minute)
	if m := record(t, k, "u1", "welcome"); m.Status != fluxly.SendSending {
		t.Errorf("status %s", m.Status)
	}
	k.Sender.FailLookups(nil)
	k.Advance(time.Hour)
	k.WantSent("u1", "welcome")
	if n := k.Sender.Calls(); n != 1 {
		t.Errorf("%d calls, want 1", n)
	}
}

func TestO4Retries(t *testing.T) {
	t.Parallel()
	t.Run("temporary", func(t *testing.T) {
		t.Parallel()
		k := newKit(t, welcome())
		k.Sender.Script(fluxlytest.Temporary(), fluxlytest.Temporary())
		k.Track(event("signed_up", "u1", nil))
		k.Advance(10 * time.Minute)
		k.WantSent("u1", "welcome")
		if m := record(t, k, "u1", "welcome"); m.Attempts != 3 {
			t.Errorf("%d attempts, want 3", m.Attempts)
		}
	})
	t.Run("told when", func(t *testing.T) {
		t.Parallel()
		k := newKit(t, welcome())
		k.Sender.Script(fluxlytest.Outcome{Err: &fluxly.DeliveryError{Kind: fluxly.Temporary, Code: 429, RetryAfter: 2 * time.Hour}})
		k.Track(event("signed_up", "u1", nil))
		k.Advance(2*time.Hour - time.Second)
		k.WantSent("u1")
		k.Advance(time.Second)
		k.WantSent("u1", "welcome")
	})
	t.Run("budget", func(t *testing.T) {
		t.Parallel()
		for _, path := range []fluxly.FailurePath{fluxly.GoOn, fluxly.EndRun} {
			a := welcome()
			a.OnRefused = path
			k := newKitConfig(t, fluxly.Config{Automations: []fluxly.Automation{a}, RetryFor: 6 * time.Hour})
			k.Sender.Plan(func(m *fluxly.Message) (fluxlytest.Outcome, bool) {
				return fluxlytest.Temporary(), m.Subject == "welcome"
			})
			k.Track(event("signed_up", "u1", nil))
			k.Advance(12 * time.Hour)
			k.WantNotSent("u1", "welcome", fluxly.ReasonBudget)
			k.Advance(3 * fluxly.Day)
			if path == fluxly.GoOn {
				k.WantSent("u1", "more")
			} else {
				k.WantSent("u1")
				if r := k.Runs("u1")[0]; r.Status != fluxly.RunFailed {
					t.Errorf("run %s", r.Status)
				}
			}
		}
	})
	t.Run("account", func(t *testing.T) {
		t.Parallel()
		// A rotated token costs no mail, however long it takes to mend.
		k := newKit(t, welcome())
		wrong := true
		k.Sender.Plan(func(*fluxly.Message) (fluxlytest.Outcome, bool) { return fluxlytest.BadCredentials(), wrong })
		for i := range 20 {
			k.Track(event("signed_up", fmt.Sprintf("u%d", i), nil))
		}
		k.Advance(3 * fluxly.Day)
		calls := k.Sender.Calls()
		// Eight at a time: the first, five after growing pauses, then each 15 minutes.
		if calls > 8*(1+5+24*4*3) || calls == 0 {
			t.Errorf("%d calls with a wrong token in three days", calls)
		}
		wrong = false
		k.Advance(time.Hour)
		for i := range 20 {
			k.WantSent(fmt.Sprintf("u%d", i), "welcome")
		}
	})
}

func TestSenderPanicIsUnknown(t *testing.T) {
	t.Parallel()
	k := newKit(t, welcome())
	k.Sender.WithoutLookup()
	k.Sender.Script(fluxlytest.Outcome{Before: func(*fluxly.Message) { panic("boom") }})
	k.Track(event("signed_up", "u1", nil))
	k.Settle()
	if m := record(t, k, "u1", "welcome"); m.Status != fluxly.SendUnknown {
		t.Errorf("status %s", m.Status)
	}
}

func TestTemplateErrorStopsOneMail(t *testing.T) {
	t.Parallel()
	k := newKitConfig(t, fluxly.Config{
		Automations: []fluxly.Automation{one("w", fluxly.On("signed_up"), fluxly.Send("welcome"), fluxly.Send("more"))},
		Emails: fstest.MapFS{
			"welcome.txt": {Data: []byte("---\nSubject: Hello {{ .Traits.first_name }}\n---\nHi.\n{{{ pm:unsubscribe }}}\n")},
			"more.txt":    {Data: []byte("---\nSubject: more\n---\nHi.\n{{{ pm:unsubscribe }}}\n")},
		},
	})
	k.Track(event("signed_up", "u1", nil))
	k.WantSent("u1", "more")
	k.WantNotSent("u1", "welcome", fluxly.ReasonTemplate)
}

// New reports every mistake at once, each with its automation and step.
func TestNewReportsAllMistakes(t *testing.T) {
	t.Parallel()
	_, err := fluxly.New(fluxly.Config{
		Store: fluxly.NewMemoryStore(), Sender: &fluxlytest.FakeSender{Stream: "outbound"}, Mode: fluxly.Live, From: "nobody",
		Emails: fstest.MapFS{"welcome.txt": {Data: []byte("---\nSubject: x\n---\n{{{ pm:unsubscribe }}}")}},
		Segments: []fluxly.Segment{
			{Name: "a", Where: fluxly.InSegment("b")}, {Name: "b", Where: fluxly.InSegment("a")}, {Name: "Bad Name"},
		},
		Automations: []fluxly.Automation{
			{Name: "Not Good", Trigger: fluxly.On("Signed Up"), Steps: fluxly.Steps{fluxly.Send("nope"), fluxly.Wait(-1), fluxly.WaitFor("", fluxly.Day), fluxly.WaitFor("Not Snake", fluxly.Day), fluxly.Do("nothing"), fluxly.Send("welcome").Then()}},
			{Name: "empty"},
			{Name: "twice", Steps: fluxly.Steps{fluxly.End().Named("x"), fluxly.End().Named("x")}},
			{Name: "empty"},
			{Name: "segments", Trigger: fluxly.OnEnterSegment("ghost"), Steps: fluxly.Steps{fluxly.If(fluxly.Attr("a").In()), fluxly.SetTraits(fluxly.Traits{"x": make(chan int)})}},
			{Name: "moves", Steps: fluxly.Steps{fluxly.End()}, Removed: map[string]fluxly.Removal{"gone": {MoveTo: "nowhere"}, "end": {}}},
		},
	})
	var ce *fluxly.ConfigError
	if !errors.As(err, &ce) || !errors.Is(err, fluxly.ErrInvalid) {
		t.Fatal(err)
	}
	golden(t, "testdata/config_mistakes.txt", []byte(err.Error()+"\n"))
}

// An exit that comes while the mail is claimed stops it with its own code, and
// an engine that is closed meanwhile still records the outcome.
func TestExitBetweenClaimAndCall(t *testing.T) {
	t.Parallel()
	store := &hookStore{Store: fluxly.NewMemoryStore()}
	t.Cleanup(func() { _ = store.Close() })
	a := welcome()
	a.Exit = fluxly.On("cancelled")
	k := newKitConfig(t, fluxly.Config{Store: store, Automations: []fluxly.Automation{a}})
	k.Track(event("signed_up", "u1", nil))
	done := false
	store.beforeView = func() {
		if m := record(t, k, "u1", "welcome"); m.Status == fluxly.SendSending && !done {
			done = true
			k.Track(event("cancelled", "u1", nil))
			if err := k.Engine.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	k.Settle()
	if m := record(t, k, "u1", "welcome"); !done || m.Status != fluxly.SendSkipped || m.Reason != "exit" {
		t.Errorf("%v: %s, %s", done, m.Status, m.Reason)
	}
	if err := k.Engine.Track(t.Context(), event("signed_up", "u2", nil)); !errors.Is(err, fluxly.ErrClosed) {
		t.Errorf("track after Close: %v", err)
	}
}
