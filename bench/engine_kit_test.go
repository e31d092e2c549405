package bench

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/sqlite"
)

// trial is the automation that the measurements of the engine run: a mail at
// once, then waits for an event.
func trial(name string) fluxly.Automation {
	return fluxly.Automation{
		Name:    name,
		Trigger: fluxly.On("signed_up", fluxly.Prop("plan").Is("trial")),
		Exit:    fluxly.On("subscription_started"),
		Steps: fluxly.Steps{
			fluxly.Send("welcome"),
			fluxly.WaitFor("project_created", 3*fluxly.Day).
				Then(fluxly.Send("first-project")).
				Else(fluxly.Send("first-project-nudge")),
		},
	}
}

func engineEmails() fstest.MapFS {
	body := []byte(`---
Subject: Welcome, {{ .Traits.first_name | default "and hello" }}
Topic: onboarding
---
<p>Hi {{ .Traits.first_name | default "there" }},</p>
<p>your trial is open. Most teams that stay with us did one thing in their first hour: they connected a single data
source and looked at the result. It takes about four minutes:
<a href="https://app.acme.test/projects/new?source=upload">start here</a>.</p>
<p><a href="{{{ pm:unsubscribe }}}">Unsubscribe</a></p>`)
	return fstest.MapFS{
		"welcome.html": {Data: body}, "first-project.html": {Data: body}, "first-project-nudge.html": {Data: body},
	}
}

// instant is a sender that takes every mail at once.
type instant struct {
	sent   atomic.Int64
	onSend func(m *fluxly.Message)
}

func (s *instant) Send(_ context.Context, m *fluxly.Message) (fluxly.Receipt, error) {
	if s.onSend != nil {
		s.onSend(m)
	}
	s.sent.Add(1)
	return fluxly.Receipt{ID: m.SendKey, At: time.Now()}, nil
}

func (s *instant) MessageStream() string { return "lifecycle-production" }

// commits counts the transactions of a store.
type commits struct {
	fluxly.Store
	n atomic.Int64
}

func (c *commits) Update(ctx context.Context, fn func(fluxly.Tx) error) error {
	c.n.Add(1)
	return c.Store.Update(ctx, fn)
}

func newEngine(tb testing.TB, cfg fluxly.Config) *fluxly.Engine {
	tb.Helper()
	if cfg.Sender == nil {
		cfg.Sender = &instant{}
	}
	cfg.Mode, cfg.From, cfg.Emails = fluxly.Live, "Acme <hello@acme.test>", engineEmails()
	if cfg.Automations == nil {
		cfg.Automations = []fluxly.Automation{trial("trial-onboarding")}
	}
	engine, err := fluxly.New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	return engine
}

func personTraits(n int) fluxly.Traits {
	return fluxly.Traits{"email": fmt.Sprintf("user_%07d@acme.test", n), "first_name": "Ann", "plan": "trial", "seats": int64(5)}
}

func profileName(n int) string { return fmt.Sprintf("prf_%024d", n) }

func personID(n int) string { return fmt.Sprintf("user_%07d", n) }

// putPeople writes people with the numbers [from, to) straight into a store.
func putPeople(tb testing.TB, store fluxly.Store, from, to int) {
	tb.Helper()
	ctx := tb.Context()
	for n := from; n < to; n += 2_000 {
		err := store.Update(ctx, func(tx fluxly.Tx) error {
			for i := n; i < min(n+2_000, to); i++ {
				err := tx.PutProfile(ctx, &fluxly.Profile{
					ID: profileName(i), ExternalIDs: []string{personID(i)}, Traits: personTraits(i),
					CreatedAt: time.Unix(1_700_000_000, int64(i)), UpdatedAt: time.Unix(1_700_000_000, int64(i)),
				})
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			tb.Fatal(err)
		}
	}
}

func openSQLite(tb testing.TB, path string) *sqlite.Store {
	tb.Helper()
	store, err := sqlite.Open(path)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = store.Close() })
	return store
}

func viewed() fluxly.Properties {
	return fluxly.Properties{"plan": "trial", "seats": int64(7), "source": "web", "amount": 19.5, "beta": true}
}

// known is an event of a known person that no automation asks for.
func known(n int) fluxly.Event {
	return fluxly.Event{Name: "page_viewed", ExternalID: personID(n), Properties: viewed()}
}

// newcomer is an event of a new person, which starts a run with a mail.
func newcomer(n int) fluxly.Event {
	return fluxly.Event{Name: "signed_up", ExternalID: fmt.Sprintf("new_%08d", n), Properties: viewed(), Traits: personTraits(n)}
}

func quantile(times []time.Duration, q float64) time.Duration {
	s := slices.Sorted(slices.Values(times))
	return s[min(len(s)-1, int(q*float64(len(s))))]
}
