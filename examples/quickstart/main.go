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
	"net/mail"
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
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the program at once
	os.Exit(start(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
}

// Exit codes.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130
)

// start reads the command line and the environment, and runs.
func start(ctx context.Context, args []string, env func(string) string, stdout, stderr io.Writer) int {
	o := options{
		token: env("POSTMARK_SERVER_TOKEN"), from: env("FLUXLY_FROM"), to: env("FLUXLY_TO"),
		stream: cmp.Or(env("FLUXLY_STREAM"), "broadcast"),
	}
	flags := flag.NewFlagSet("quickstart", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&o.events, "events", "", "a file of events, one JSON object a line; empty for the built-in fortnight")
	flags.StringVar(&o.data, "data", "fluxly-quickstart", "the folder for the state and the mails")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return exitOK
	case err != nil:
		return exitUsage // flag has said why
	case flags.NArg() > 0:
		fmt.Fprintf(stderr, "quickstart: the argument %q is not used; for a file of events write -events FILE\n", flags.Arg(0))
		flags.Usage()
		return exitUsage
	}
	err := run(ctx, o, stdout)
	switch {
	case err == nil:
		return exitOK
	case ctx.Err() != nil:
		fmt.Fprintln(stderr, "quickstart: stopped; run it again, and it goes on from there")
		return exitInterrupted
	}
	fmt.Fprintln(stderr, "quickstart:", err)
	return exitFailed
}

// options are what the program was asked to do.
type options struct {
	events, data            string
	token, from, to, stream string
}

// live reports whether mail goes through Postmark.
func (o options) live() bool { return o.token != "" }

// check looks at the environment before anything is written or dialled.
func (o options) check() error {
	if !o.live() {
		return nil
	}
	if o.from == "" || o.to == "" {
		return errors.New("POSTMARK_SERVER_TOKEN is set; set FLUXLY_FROM (an address on your verified domain) and FLUXLY_TO (where the mails go) too")
	}
	if _, err := mail.ParseAddress(o.from); err != nil {
		return fmt.Errorf("FLUXLY_FROM %q is no mailbox, such as \"Acme <hello@acme.test>\": %w", o.from, err)
	}
	if to, err := mail.ParseAddress(o.to); err != nil || to.Address != o.to {
		return fmt.Errorf("FLUXLY_TO %q is not one bare address, such as you@acme.test", o.to)
	}
	return nil
}

func run(ctx context.Context, o options, out io.Writer) (err error) {
	if err := o.check(); err != nil {
		return err
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
	m, err := o.mailer(dir, clock)
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
	// Last of all, as it is the first to use the network.
	if err := m.Verify(ctx); err != nil {
		return err
	}
	fmt.Fprintf(out, "State in %s; mails go to %s.\n\n", path, m.where)

	show := newShow(out, m)
	tracked, err := drive(ctx, engine, store, clock, events, show)
	if err != nil {
		return err
	}
	return show.summary(ctx, engine, tracked)
}

// input is an event and the line on which it was found.
type input struct {
	fluxly.Event
	line int
}

// who names the person of an event.
func (in input) who() string { return cmp.Or(in.ExternalID, in.AnonymousID, in.UserID) }

// readEvents reads the events in order of their time.
func (o options) readEvents(out io.Writer) ([]input, error) {
	read := files.ReadFile
	name := "events.jsonl"
	if o.events != "" {
		read, name = os.ReadFile, o.events
	}
	data, err := read(name)
	if err != nil {
		return nil, fmt.Errorf("read the events: %w", err)
	}
	var events []input
	refused, line := 0, 0
	for text := range bytes.Lines(data) {
		line++
		// Line by line, so that an event knows its own.
		for ev, err := range fluxly.ReadEvents(bytes.NewReader(text)) {
			in := input{ev, line}
			if err == nil {
				err = in.replayable()
			}
			if err != nil {
				refused++
				passOver(out, line, err)
				continue
			}
			if o.live() && ev.Traits["email"] != nil {
				ev.Traits["email"] = o.to
			}
			events = append(events, in)
		}
	}
	if len(events) == 0 {
		return nil, fmt.Errorf("read the events: there is not one valid event (%d lines were passed over)", refused)
	}
	slices.SortStableFunc(events, func(a, b input) int { return a.Timestamp.Compare(b.Timestamp) })
	return events, nil
}

// replayable refuses an event that the next run would take for another one.
func (in input) replayable() error {
	missing := ""
	switch {
	case in.Timestamp.IsZero() && in.MessageID == "":
		missing = "timestamp and no message_id"
	case in.Timestamp.IsZero():
		missing = "timestamp"
	case in.MessageID == "":
		missing = "message_id"
	default:
		return nil
	}
	return fmt.Errorf("%q of %s has no %s; the file is played again on each run, so each event needs both", in.Name, in.who(), missing)
}

// passOver says that a line is left out, and why.
func passOver(out io.Writer, line int, err error) {
	if le, ok := errors.AsType[*fluxly.LineError](err); ok {
		err = le.Err // the line is named here
	}
	fmt.Fprintf(out, "passed over line %d: %v\n", line, err)
}

// drive plays the events at their own times, and does what falls due between
// them and in the month after. It returns the events that were tracked.
func drive(ctx context.Context, engine *fluxly.Engine, store fluxly.Store, clock *clock, events []input, show *show) ([]fluxly.Event, error) {
	last, err := lastInstant(ctx, store)
	if err != nil {
		return nil, err
	}
	var tracked []fluxly.Event
	// After a crash the clock goes on where it stood, not where the file
	// begins: time never runs backwards for the people in the store.
	clock.set(events[0].Timestamp)
	clock.set(last)
	for _, in := range events {
		if err := advance(ctx, engine, clock, in.Timestamp, show); err != nil {
			return nil, err
		}
		err := engine.Track(ctx, in.Event)
		switch {
		case err == nil:
			tracked = append(tracked, in.Event)
		case errors.Is(err, fluxly.ErrConflict):
			// The first event under a message_id stands.
			passOver(show.out, in.line, err)
		default:
			return nil, fmt.Errorf("track %s of %s (line %d): %w", in.Name, in.who(), in.line, err)
		}
	}
	if len(tracked) == 0 {
		return nil, errors.New("every event was passed over; other events under the same message_ids are in the folder already, so use another one (-data FOLDER)")
	}
	return tracked, advance(ctx, engine, clock, events[len(events)-1].Timestamp.Add(30*fluxly.Day), show)
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

// mailer makes a sender for Postmark, or starts the stand-in and makes one for
// that.
func (o options) mailer(dir string, clock *clock) (*mailer, error) {
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
	if err != nil {
		return nil, errors.Join(err, m.close())
	}
	m.SMTPSender = sender
	return m, nil
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
