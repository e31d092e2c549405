// Command quickstart runs the main job of fluxly from end to end: it reads
// product events from a file, runs a trial automation on accelerated time, and
// sends the mails over SMTP with STARTTLS and token login, to a stand-in for
// Postmark on this machine.
//
//	go run ./examples/quickstart
//
// State is in the folder named by -data, so a second run sends nothing twice.
// With POSTMARK_SERVER_TOKEN, FLUXLY_FROM and FLUXLY_TO set, the mails go
// through Postmark instead, all of them to FLUXLY_TO; FLUXLY_STREAM names the
// Message Stream (default "broadcast").
package main

import (
	"bytes"
	"cmp"
	"context"
	"embed"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/fluxlytest"
	"github.com/getfluxly/fluxly/sqlite"
)

// With all:, because files whose names begin with "_" (the layouts) are left out
// of a directory otherwise.
//
//go:embed events.jsonl all:emails
var files embed.FS

// trialOnboarding is the automation: a welcome, a nudge or a congratulation,
// and an offer three days before the trial ends.
var trialOnboarding = fluxly.Automation{
	Name:    "trial-onboarding",
	Trigger: fluxly.On("signed_up", fluxly.Prop("plan").Is("trial")),
	Exit:    fluxly.On("subscription_started"),
	Steps: fluxly.Steps{
		fluxly.Send("welcome"),
		fluxly.WaitFor("project_created", 3*fluxly.Day).
			Then(fluxly.Send("first-project")).
			Else(fluxly.Send("first-project-nudge")),
		fluxly.WaitUntil(fluxly.Attr("trial_ends_at"), -3*fluxly.Day),
		fluxly.If(fluxly.Did("report_exported").AtLeast(50).Within(30 * fluxly.Day)).
			Then(fluxly.Send("upgrade")).
			Else(fluxly.Send("extend-trial")),
	},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	o := options{
		token: os.Getenv("POSTMARK_SERVER_TOKEN"), from: os.Getenv("FLUXLY_FROM"), to: os.Getenv("FLUXLY_TO"),
		stream: cmp.Or(os.Getenv("FLUXLY_STREAM"), "broadcast"),
	}
	flag.StringVar(&o.events, "events", "", "a file of events, one JSON object a line; empty for the built-in fortnight")
	flag.StringVar(&o.data, "data", "fluxly-quickstart", "the folder for the state and the mails")
	flag.Parse()
	if err := run(ctx, o, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

// options are what the program was asked to do.
type options struct {
	events, data            string
	token, from, to, stream string
}

// live reports whether mail goes through Postmark.
func (o options) live() bool { return o.token != "" }

func run(ctx context.Context, o options, out io.Writer) (err error) {
	if o.live() && (o.from == "" || o.to == "") {
		return errors.New("POSTMARK_SERVER_TOKEN is set; set FLUXLY_FROM (an address on your verified domain) and FLUXLY_TO (where the mails go) too")
	}
	events, err := o.readEvents(out)
	if err != nil {
		return err
	}
	dir := filepath.Join(o.data, map[bool]string{true: "postmark", false: "local"}[o.live()])
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the folder for the state: %w", err)
	}
	path := filepath.Join(dir, "fluxly.db")
	store, err := sqlite.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()

	clock := &clock{}
	m, err := o.mailer(ctx, dir, clock)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.close()) }()

	emails, err := fs.Sub(files, "emails")
	if err != nil {
		return err
	}
	cfg := fluxly.Config{
		Store: store, Sender: m, Mode: fluxly.Live, From: "Mara at Acme <mara@acme.test>",
		Emails: emails, Automations: []fluxly.Automation{trialOnboarding}, Now: clock.Now,
	}
	if o.live() {
		cfg.Mode, cfg.Allow, cfg.From = fluxly.TestOnly, []string{o.to}, o.from
	}
	engine, err := fluxly.New(cfg)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "State in %s; mails go to %s.\n\n", path, m.where)

	show := newShow(out, m)
	if err := drive(ctx, engine, store, clock, events, show); err != nil {
		return err
	}
	return show.summary(ctx, engine, events)
}

// readEvents reads the events in order of their time.
func (o options) readEvents(out io.Writer) ([]fluxly.Event, error) {
	var r io.Reader
	if o.events == "" {
		b, err := files.ReadFile("events.jsonl")
		if err != nil {
			return nil, err
		}
		r = bytes.NewReader(b)
	} else {
		f, err := os.Open(o.events)
		if err != nil {
			return nil, fmt.Errorf("read the events: %w", err)
		}
		defer func() { _ = f.Close() }()
		r = f
	}
	var events []fluxly.Event
	refused := 0
	for ev, err := range fluxly.ReadEvents(r) {
		if err != nil {
			if !errors.Is(err, fluxly.ErrInvalid) {
				return nil, fmt.Errorf("read the events: %w", err)
			}
			refused++
			fmt.Fprintf(out, "passed over %v\n", err)
			continue
		}
		if ev.Timestamp.IsZero() || ev.MessageID == "" {
			refused++
			fmt.Fprintf(out, "passed over %q of %s: the file is played again on each run, so each event needs a timestamp and a message_id\n",
				ev.Name, cmp.Or(ev.ExternalID, ev.AnonymousID, ev.UserID))
			continue
		}
		if o.live() && ev.Traits["email"] != nil {
			ev.Traits["email"] = o.to
		}
		events = append(events, ev)
	}
	if len(events) == 0 {
		return nil, fmt.Errorf("read the events: there is not one valid event (%d lines were passed over)", refused)
	}
	slices.SortStableFunc(events, func(a, b fluxly.Event) int { return a.Timestamp.Compare(b.Timestamp) })
	return events, nil
}

// drive plays the events at their own times, and does what falls due between
// them and in the month after.
func drive(ctx context.Context, engine *fluxly.Engine, store fluxly.Store, clock *clock, events []fluxly.Event, show *show) error {
	last, err := lastInstant(ctx, store)
	if err != nil {
		return err
	}
	// After a crash the clock goes on where it stood, not where the file
	// begins: time never runs backwards for the people in the store.
	clock.set(events[0].Timestamp)
	clock.set(last)
	for _, ev := range events {
		if err := advance(ctx, engine, clock, ev.Timestamp, show); err != nil {
			return err
		}
		if err := engine.Track(ctx, ev); err != nil {
			return fmt.Errorf("track %s of %s: %w", ev.Name, cmp.Or(ev.ExternalID, ev.AnonymousID, ev.UserID), err)
		}
	}
	return advance(ctx, engine, clock, events[len(events)-1].Timestamp.Add(30*fluxly.Day), show)
}

// advance moves the clock to an instant, and stops wherever something falls
// due on the way.
func advance(ctx context.Context, engine *fluxly.Engine, clock *clock, target time.Time, show *show) error {
	for {
		next, err := engine.RunDue(ctx)
		if err != nil {
			return err
		}
		show.newMails()
		if next.IsZero() || next.After(target) {
			clock.set(target)
			return nil
		}
		clock.set(next)
	}
}

// lastInstant is the latest time at which the store saw something happen.
func lastInstant(ctx context.Context, store fluxly.Store) (last time.Time, err error) {
	later := func(ts ...time.Time) {
		for _, t := range ts {
			if t.After(last) {
				last = t
			}
		}
	}
	err = store.View(ctx, func(tx fluxly.Tx) error {
		runs, err := tx.Runs(ctx, fluxly.RunQuery{})
		if err != nil {
			return err
		}
		for _, r := range runs {
			later(r.UpdatedAt)
		}
		sends, err := tx.Sends(ctx, fluxly.SendQuery{})
		if err != nil {
			return err
		}
		for _, s := range sends {
			later(s.QueuedAt, s.ClaimedAt, s.SettledAt)
		}
		return nil
	})
	return last, err
}

// clock is accelerated time: it stands still until it is moved on.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// set moves the clock on; it never goes back.
func (c *clock) set(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.After(c.now) {
		c.now = t
	}
}

// mailer sends through SMTP, and can look up what was taken.
type mailer struct {
	*fluxly.SMTPSender
	where  string
	server *fluxlytest.PostmarkSMTP
}

// mailer connects to Postmark, or starts the stand-in and connects to that.
func (o options) mailer(ctx context.Context, dir string, clock *clock) (*mailer, error) {
	cfg := fluxly.PostmarkSMTPConfig{ServerToken: o.token, MessageStream: o.stream}
	m := &mailer{where: "Postmark, for " + o.to}
	if !o.live() {
		server, err := fluxlytest.StartPostmarkSMTP(fluxlytest.PostmarkSMTPConfig{Dir: filepath.Join(dir, "mailbox"), Now: clock.Now})
		if err != nil {
			return nil, fmt.Errorf("start the stand-in for Postmark: %w", err)
		}
		m.server, m.where = server, "a stand-in for Postmark on "+server.Addr()+", which keeps them in "+filepath.Join(dir, "mailbox")
		cfg.ServerToken, cfg.MessageStream, cfg.RootCAs = server.Token, "broadcast", server.RootCAs()
		cfg.Host, cfg.Port = server.Host(), server.Port()
	}
	sender, err := fluxly.NewPostmarkSMTP(cfg)
	if err == nil {
		m.SMTPSender = sender
		if err = sender.Verify(ctx); err == nil {
			return m, nil
		}
	}
	return nil, errors.Join(err, m.close())
}

// Lookup asks the stand-in, or Postmark, whether it took the mail.
func (m *mailer) Lookup(ctx context.Context, key string) (fluxly.Receipt, bool, error) {
	if m.server == nil {
		return m.SMTPSender.Lookup(ctx, key)
	}
	mail, ok := m.server.Lookup(key)
	return fluxly.Receipt{ID: mail.ID, At: mail.At}, ok, nil
}

// LookupDelay is how long a mail may be taken before it is shown.
func (m *mailer) LookupDelay() time.Duration {
	if m.server != nil {
		return 0
	}
	return 5 * time.Minute
}

func (m *mailer) close() (err error) {
	if m.SMTPSender != nil {
		err = m.SMTPSender.Close()
	}
	if m.server != nil {
		err = errors.Join(err, m.server.Close())
	}
	return err
}
