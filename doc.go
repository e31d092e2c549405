// Package fluxly sends behaviour-triggered lifecycle email from inside a Go
// program. The program tracks product events; fluxly keeps one profile per
// person, runs the automations that the program defines, and hands each mail
// to Postmark from the program's own domain and Message Stream. Nothing runs
// beside the program: the state is in one SQLite file.
//
// # The engine
//
// [New] makes an [Engine] from a [Config]: a [Store], a [Sender], a [Mode] that
// must be named, the templates and the automations. It reports every mistake
// at once. [Engine.Track] and [Engine.Identify] record what people do;
// [Engine.Run] does what falls due.
//
//	store, err := sqlite.Open("fluxly.db")
//	sender, err := fluxly.NewPostmarkSMTP(fluxly.PostmarkSMTPConfig{
//		ServerToken: os.Getenv("POSTMARK_SERVER_TOKEN"), MessageStream: "lifecycle-production",
//	})
//	engine, err := fluxly.New(fluxly.Config{
//		Store: store, Sender: sender, Mode: fluxly.Live,
//		From: "Acme <hello@acme.test>", Emails: emails,
//		Automations: []fluxly.Automation{{
//			Name:    "trial-onboarding",
//			Trigger: fluxly.On("signed_up", fluxly.Prop("plan").Is("trial")),
//			Exit:    fluxly.On("subscription_started"),
//			Steps: fluxly.Steps{
//				fluxly.Send("welcome"),
//				fluxly.WaitFor("project_created", 3*fluxly.Day).
//					Then(fluxly.Send("first-project")).
//					Else(fluxly.Send("first-project-nudge")),
//			},
//		}},
//	})
//	go engine.Run(ctx)
//	err = engine.Track(ctx, fluxly.Event{Name: "signed_up", ExternalID: "user_42",
//		Properties: fluxly.Properties{"plan": "trial"}})
//
// # Automations
//
// An [Automation] is data: a [Trigger], an exit, and [Steps] made with [Send],
// [Wait], [WaitFor], [WaitUntil], [If], [Branch], [SetTraits], [Do] and [End].
// A [Condition] asks for properties ([Prop]), traits ([Attr]), counted events
// ([Did]) and segments ([InSegment]). Both can be written as JSON, compared and
// explained: [Engine.Explain] says why a person got a mail, or did not.
//
// # Mail
//
// Templates are read by [LoadEmails] and from Config.Emails. A [Sender] hands
// one [Message] to a provider and returns a [Receipt], or a [*DeliveryError]
// that says what the failure means for the mail: [NewPostmarkSMTP], [NewSMTP]
// and [NewPostmark] (Postmark's HTTP API) are senders. [Engine.Sends] is the
// send log: a row for each mail, with the reason of each that did not go.
//
// # GetFluxly's hosted API, and DNS
//
// [NewClient] makes a [Client] for GetFluxly's API: email providers and their
// test, events, alias and erase. [*Client] and [*Engine] are both a [Tracker],
// so a program can move either way. [CheckDomain] looks at a sending domain's
// SPF, DKIM, DMARC and Return-Path and says exactly what to publish.
//
// # Errors
//
// Refused input is [ErrInvalid], and says which field by [*FieldError] or
// [*ConfigError]. Other sentinels are [ErrConflict], [ErrNotFound] and
// [ErrClosed]; a provider's failures match [ErrTemporary], [ErrPermanent],
// [ErrUnknownOutcome] and [ErrAuth].
//
// Package fluxlytest runs a month of an automation in milliseconds, with the
// code that runs live.
package fluxly
