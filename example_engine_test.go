package fluxly_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"testing/fstest"
	"time"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/fluxlytest"
)

// emails stands for an embedded folder of templates.
var exampleEmails = fstest.MapFS{
	"welcome.html": {Data: []byte("---\nSubject: Welcome, {{ .Traits.first_name | default \"friend\" }}\n---\n<p>Good to have you.</p>\n<p><a href=\"{{{ pm:unsubscribe }}}\">Unsubscribe</a></p>\n")},
	"nudge.html":   {Data: []byte("---\nSubject: Your first project\n---\n<p>It takes four minutes.</p>\n<p><a href=\"{{{ pm:unsubscribe }}}\">Unsubscribe</a></p>\n")},
}

// A program opens its store with sqlite.Open and sends with NewPostmarkSMTP;
// here both are replaced, and time is moved by hand.
func ExampleNew() {
	clock := fluxlytest.NewClock(time.Date(2026, time.March, 2, 9, 0, 0, 0, time.UTC))
	sender := &fluxlytest.FakeSender{Now: clock.Now, Stream: "lifecycle-production"}
	store := fluxly.NewMemoryStore()
	defer store.Close()

	engine, err := fluxly.New(fluxly.Config{
		Store: store, Sender: sender, Mode: fluxly.Live, Now: clock.Now,
		From: "Acme <hello@acme.test>", Emails: exampleEmails,
		Automations: []fluxly.Automation{{
			Name:    "onboarding",
			Trigger: fluxly.On("signed_up"),
			Steps: fluxly.Steps{
				fluxly.Send("welcome"),
				fluxly.WaitFor("project_created", 3*fluxly.Day).Else(fluxly.Send("nudge")),
			},
		}},
	})
	if err != nil {
		log.Fatal(err)
	}

	ctx := context.Background()
	err = engine.Identify(ctx, fluxly.Identity{ExternalID: "user_42", Traits: fluxly.Traits{"email": "ann@acme.test", "first_name": "Ann"}})
	if err != nil {
		log.Fatal(err)
	}
	if err := engine.Track(ctx, fluxly.Event{Name: "signed_up", ExternalID: "user_42"}); err != nil {
		log.Fatal(err)
	}
	// A program that runs on calls go engine.Run(ctx) once instead.
	next, err := engine.RunDue(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("next:", next.Format(time.RFC3339))
	clock.Set(next)
	if _, err := engine.RunDue(ctx); err != nil {
		log.Fatal(err)
	}
	for _, m := range sender.Mails() {
		fmt.Printf("%s, to %s on %s\n", m.Subject, m.To, m.Stream)
	}
	// Output:
	// next: 2026-03-05T09:00:00Z
	// Welcome, Ann, to ann@acme.test on lifecycle-production
	// Your first project, to ann@acme.test on lifecycle-production
}

// All mistakes come at once, each with its automation and step.
func ExampleNew_mistakes() {
	_, err := fluxly.New(fluxly.Config{
		Store: fluxly.NewMemoryStore(), Sender: &fluxlytest.FakeSender{}, Mode: fluxly.Live,
		From: "hello@acme.test", Emails: exampleEmails,
		Automations: []fluxly.Automation{{
			Name:    "onboarding",
			Trigger: fluxly.On("Signed Up"),
			Steps:   fluxly.Steps{fluxly.Send("wellcome"), fluxly.Wait(-time.Hour)},
		}},
	})
	var config *fluxly.ConfigError
	if errors.As(err, &config) {
		for _, p := range config.Problems {
			fmt.Println(p)
		}
	}
	// Output:
	// automation "onboarding": trigger: event "Signed Up": not snake_case: use lower-case letters, digits and underscores, such as project_created
	// automation "onboarding": step "wellcome": email: there is no template "wellcome" in Config.Emails
	// automation "onboarding": step "wait:-1h": wait: the duration -1h0m0s must be positive
}

// Why did nothing go to this person?
func ExampleEngine_Explain() {
	clock := fluxlytest.NewClock(time.Date(2026, time.March, 2, 9, 0, 0, 0, time.UTC))
	store := fluxly.NewMemoryStore()
	defer store.Close()
	engine, err := fluxly.New(fluxly.Config{
		Store: store, Sender: &fluxlytest.FakeSender{Stream: "broadcast"}, Mode: fluxly.Live, Now: clock.Now,
		From: "hello@acme.test", Emails: exampleEmails,
		Automations: []fluxly.Automation{{
			Name:    "trial",
			Trigger: fluxly.On("signed_up", fluxly.Prop("plan").Is("trial")),
			Steps:   fluxly.Steps{fluxly.Send("welcome")},
		}},
	})
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	for id, plan := range map[string]string{"user_1": "free", "user_2": "trial"} {
		if err := engine.Track(ctx, fluxly.Event{Name: "signed_up", ExternalID: id, Properties: fluxly.Properties{"plan": plan}}); err != nil {
			log.Fatal(err)
		}
	}
	if _, err := engine.RunDue(ctx); err != nil {
		log.Fatal(err)
	}
	for _, id := range []string{"user_1", "user_2", "user_3"} {
		why, err := engine.Explain(ctx, id, "trial")
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(why)
	}
	// Output:
	// user_1 in trial: not entered: "signed_up" came at 2026-03-02T09:00:00Z, but prop plan is "trial" does not hold (found "free")
	// user_2 in trial: entered 2026-03-02T09:00:00Z, 0 mails sent, not sent "welcome": no_address; completed at 2026-03-02T09:00:00Z
	// user_3 in trial: nobody has this id; no event of this person was tracked
}

// Once a night: what is old and has no bearing on any decision goes.
func ExampleEngine_Prune() {
	clock := fluxlytest.NewClock(time.Date(2026, time.March, 2, 9, 0, 0, 0, time.UTC))
	store := fluxly.NewMemoryStore()
	defer store.Close()
	engine, err := fluxly.New(fluxly.Config{
		Store: store, Sender: &fluxlytest.FakeSender{Stream: "broadcast"}, Mode: fluxly.Live, Now: clock.Now,
		From: "hello@acme.test", Emails: exampleEmails,
		Automations: []fluxly.Automation{{
			Name:    "power-user",
			Trigger: fluxly.On("report_exported", fluxly.Did("report_exported").AtLeast(50).Within(90*fluxly.Day)),
			Steps:   fluxly.Steps{fluxly.Send("welcome")},
		}},
	})
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	for _, name := range []string{"page_viewed", "report_exported"} {
		if err := engine.Track(ctx, fluxly.Event{Name: name, ExternalID: "user_1"}); err != nil {
			log.Fatal(err)
		}
	}
	clock.Set(clock.Now().Add(60 * fluxly.Day))
	done, err := engine.Prune(ctx, fluxly.Retention{Events: 30 * fluxly.Day})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(done.Events, "of 2 events went: the other is counted for 90 days")
	// Output: 1 of 2 events went: the other is counted for 90 days
}
