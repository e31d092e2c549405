package fluxlytest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/getfluxly/fluxly"
)

// History runs a random history of n steps on a kit: people who sign up, act,
// change, merge, leave and are erased, while time passes and the provider
// fails now and then. The same seed gives the same history on any store.
func History(k *Kit, seed uint64, n int) error {
	r := rand.New(rand.NewPCG(seed, 1)) //nolint:gosec // a test's own randomness, told by its seed
	k.Sender.Plan(func(m *fluxly.Message) (Outcome, bool) {
		// By the mail and not by the order of calls, which is not fixed.
		h := uint64(seed)
		for i := range len(m.SendKey) {
			h = h*31 + uint64(m.SendKey[i])
		}
		switch h % 17 {
		case 0:
			return Permanent(), true
		case 1:
			return ReplyLost(), len(m.SendKey) > 0
		}
		return Outcome{}, false
	})
	ctx := k.Context()
	person := func() (ext, anon string) {
		id := r.IntN(12)
		switch r.IntN(4) {
		case 0:
			return "", fmt.Sprintf("anon%d", r.IntN(12))
		case 1:
			return fmt.Sprintf("user%d", id), fmt.Sprintf("anon%d", r.IntN(12))
		}
		return fmt.Sprintf("user%d", id), ""
	}
	names := []string{"signed_up", "project_created", "logged_in", "cancelled", "bought"}
	for i := range n {
		ext, anon := person()
		id := fmt.Sprintf("h%d-%d", seed, i)
		var err error
		switch r.IntN(20) {
		case 0:
			err = k.Engine.Alias(ctx, fluxly.Alias{UserID: fmt.Sprintf("user%d", r.IntN(12)), AnonymousID: fmt.Sprintf("anon%d", r.IntN(12))})
		case 1:
			err = k.Engine.Erase(ctx, fluxly.Erasure{ID: ext + anon, Reason: fluxly.GDPRRequest})
		case 2:
			err = k.Engine.Unsubscribe(ctx, fmt.Sprintf("user%d", r.IntN(12)), fluxly.Unsubscription{Source: "history"})
		case 3:
			err = k.Engine.Resubscribe(ctx, fmt.Sprintf("user%d", r.IntN(12)), "")
		case 4, 5, 6:
			k.Advance(time.Duration(r.IntN(72)) * time.Hour)
		case 7, 8:
			traits := fluxly.Traits{"email": fmt.Sprintf("p%d@example.test", r.IntN(12)), "plan": []any{"free", "pro", nil}[r.IntN(3)]}
			if r.IntN(3) == 0 {
				traits["trial_ends_at"] = k.Now().Add(time.Duration(r.IntN(20)-4) * fluxly.Day)
			}
			err = k.Engine.Identify(ctx, fluxly.Identity{ExternalID: ext, AnonymousID: anon, Traits: traits, MessageID: id})
		case 9:
			_, err = k.Engine.Enroll(ctx, fluxly.Enrollment{Automation: "direct", ExternalID: ext, AnonymousID: anon, Key: strconv.Itoa(r.IntN(3)), MessageID: id})
		default:
			at := k.Now()
			if r.IntN(5) == 0 {
				at = at.Add(-time.Duration(r.IntN(200)) * time.Hour)
			}
			err = k.Engine.Track(ctx, fluxly.Event{
				Name: names[r.IntN(len(names))], ExternalID: ext, AnonymousID: anon, MessageID: id, Timestamp: at,
				Properties: fluxly.Properties{"n": r.IntN(5), "cart_id": strconv.Itoa(r.IntN(4))},
			})
		}
		if err != nil && !errors.Is(err, fluxly.ErrNotFound) && !errors.Is(err, fluxly.ErrInvalid) {
			return fmt.Errorf("step %d of seed %d: %w", i, seed, err)
		}
		if i%50 == 0 {
			if err := checkInvariants(ctx, k.Store, k.pruned); err != nil {
				return fmt.Errorf("step %d of seed %d: %w", i, seed, err)
			}
		}
	}
	return checkInvariants(ctx, k.Store, k.pruned)
}

// HistoryConfig is a configuration that uses every kind of step, trigger and
// segment, for [History].
func HistoryConfig(store fluxly.Store) fluxly.Config {
	automations := []fluxly.Automation{
		{
			Name: "onboarding", Trigger: fluxly.On("signed_up", fluxly.Prop("n").AtLeast(1)), Exit: fluxly.On("cancelled"), ReEntry: fluxly.OncePer(10 * fluxly.Day),
			Steps: fluxly.Steps{
				fluxly.Send("welcome"),
				fluxly.WaitFor("project_created", 3*fluxly.Day, fluxly.Prop("n").AtLeast(2)).SinceEntry().Then(fluxly.Send("bravo")).Else(fluxly.Send("nudge")),
				fluxly.WaitUntil(fluxly.Attr("trial_ends_at"), -2*fluxly.Day).IfMissing(fluxly.SkipWait),
				fluxly.Branch(
					fluxly.When(fluxly.Did("logged_in").AtLeast(3).Within(7*fluxly.Day), fluxly.SetTraits(fluxly.Traits{"stage": 2}), fluxly.Send("busy")),
					fluxly.When(fluxly.InSegment("pros"), fluxly.Send("pro")),
				).Else(fluxly.Do("score"), fluxly.Send("quiet")),
			},
		},
		{Name: "cart", Trigger: fluxly.On("bought"), Key: "cart_id", ReEntry: fluxly.Always(), Steps: fluxly.Steps{
			fluxly.WaitFor("project_created", fluxly.Day).Matching("cart_id").Then(fluxly.Send("thanks")), fluxly.Wait(time.Hour), fluxly.Send("receipt"),
		}},
		{Name: "left", Trigger: fluxly.OnLeaveSegment("active"), ReEntry: fluxly.Always(), Steps: fluxly.Steps{fluxly.Send("miss-you")}},
		{Name: "upgraded", Trigger: fluxly.OnChange("plan", fluxly.Prop("new").Is("pro")), Exit: fluxly.OnChange("plan", fluxly.Attr("plan").IsNot("pro")), ReEntry: fluxly.Always(), Steps: fluxly.Steps{fluxly.Wait(fluxly.Day), fluxly.Send("upgraded")}},
		{Name: "direct", ReEntry: fluxly.Always(), Steps: fluxly.Steps{fluxly.Send("direct"), fluxly.Wait(5 * fluxly.Day)}},
	}
	return fluxly.Config{
		Store: store, Automations: automations, Emails: Emails(EmailNames(automations...)...), KeepBodies: true,
		Segments: []fluxly.Segment{
			{Name: "active", Where: fluxly.Did("logged_in").AtLeast(1).Within(5 * fluxly.Day)},
			{Name: "pros", Where: fluxly.All(fluxly.Attr("plan").Is("pro"), fluxly.Not(fluxly.InSegment("active")))},
		},
		Funcs: map[string]fluxly.StepFunc{"score": func(_ context.Context, in fluxly.StepInput) (any, error) {
			if len(in.Key)%3 == 0 && in.Attempt == 1 {
				return nil, errors.New("not yet")
			}
			return map[string]any{"score": 7}, nil
		}},
	}
}

// Dump is everything a store holds, as text, for comparison with another. What
// is made at random (erasure ids, jittered times of retries) is left out.
func Dump(ctx context.Context, store fluxly.Store) (string, error) {
	var b strings.Builder
	err := store.View(ctx, func(tx fluxly.Tx) error {
		for after := ""; ; {
			ps, err := tx.Profiles(ctx, after, 100)
			if err != nil {
				return err
			}
			for _, p := range ps {
				after = p.ID
				fmt.Fprintf(&b, "profile %+v\n", *p)
				evs, err := tx.Events(ctx, p.ID, fluxly.EventQuery{})
				if err != nil {
					return err
				}
				for _, e := range evs {
					fmt.Fprintf(&b, "  event %+v\n", *e)
				}
				ms, err := tx.Memberships(ctx, p.ID)
				if err != nil {
					return err
				}
				for _, m := range ms {
					fmt.Fprintf(&b, "  member %+v\n", m)
				}
			}
			if len(ps) < 100 {
				break
			}
		}
		runs, err := tx.Runs(ctx, fluxly.RunQuery{})
		if err != nil {
			return err
		}
		for _, r := range runs {
			c := *r
			if c.Pending == fluxly.PendingCall {
				c.WakeAt = time.Time{}
			}
			fmt.Fprintf(&b, "run %+v\n", c)
			log, err := tx.Log(ctx, r.ID)
			if err != nil {
				return err
			}
			for _, l := range log {
				fmt.Fprintf(&b, "  log %+v\n", l)
			}
		}
		sends, err := tx.Sends(ctx, fluxly.SendQuery{})
		if err != nil {
			return err
		}
		for _, m := range sends {
			c := *m
			c.Owner, c.Receipt.ID, c.Detail = "", "", ""
			fmt.Fprintf(&b, "send %+v\n", c)
		}
		sup, err := tx.Suppressions(ctx)
		if err != nil {
			return err
		}
		for _, s := range sup {
			fmt.Fprintf(&b, "suppression %+v\n", *s)
		}
		return nil
	})
	return b.String(), err
}
