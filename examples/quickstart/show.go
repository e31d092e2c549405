package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/getfluxly/fluxly"
)

// show prints what happened.
type show struct {
	out   io.Writer
	m     *mailer
	shown int
	first int
}

func newShow(out io.Writer, m *mailer) *show {
	s := &show{out: out, m: m}
	if m.server != nil {
		s.shown = len(m.server.Mails())
		s.first = s.shown
	}
	return s
}

// newMails prints the mails that the stand-in received since the last call.
func (s *show) newMails() {
	if s.m.server == nil {
		return
	}
	for _, mail := range s.m.server.Mails()[s.shown:] {
		s.shown++
		fmt.Fprintf(s.out, "── mail %d, received %s over TLS: %v\n", s.shown, mail.At.Format("Mon 2 Jan 2006 15:04"), mail.Secure)
		for _, h := range mail.Header {
			switch strings.ToLower(h.Name) {
			case "from", "to", "message-id":
				fmt.Fprintf(s.out, "   %s: %s\n", h.Name, h.Value)
			}
		}
		fmt.Fprintf(s.out, "   Subject: %s\n   Stream: %s  Tag: %s  send_key: %s\n", mail.Subject, mail.Stream, mail.Tag, mail.Metadata["send_key"])
		lines := 0
		for line := range strings.Lines(mail.Text) {
			if line = strings.TrimSpace(line); line != "" && lines < 3 {
				lines++
				fmt.Fprintf(s.out, "   | %s\n", cut(line, 100))
			}
		}
		for _, p := range mail.Problems {
			fmt.Fprintf(s.out, "   ! %s\n", p)
		}
		fmt.Fprintln(s.out)
	}
}

// count writes a number of things.
func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// cut shortens a line for the terminal.
func cut(s string, n int) string {
	r := []rune(s)
	if len(r) <= n {
		return s
	}
	return string(r[:n-1]) + "…"
}

// summary prints what was tracked, the send log, and why one person got
// nothing.
func (s *show) summary(ctx context.Context, engine *fluxly.Engine, events []fluxly.Event) error {
	c := engine.Counters()
	people := map[string]bool{}
	for _, ev := range events {
		if ev.ExternalID != "" {
			people[ev.ExternalID] = true
		}
	}
	fmt.Fprintf(s.out, "Tracked %s of %s, %s to %s; %d known from an earlier run.\n\n", count(len(events), "event", "events"), count(len(people), "person", "people"),
		events[0].Timestamp.Format("2 January 2006"), events[len(events)-1].Timestamp.Format("2 January 2006"), c.Duplicates)

	rows, err := engine.Sends(ctx, fluxly.SendQuery{Automation: trialOnboarding.Name})
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(s.out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "QUEUED\tEMAIL\tTO\tOUTCOME\tPROVIDER ID")
	for _, r := range rows {
		outcome := string(r.Status)
		if r.Reason != "" {
			outcome += ": " + r.Reason
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", r.QueuedAt.Format("2 Jan 2006 15:04"), r.Email, r.To, outcome, r.Receipt.ID)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if err := s.explainOne(ctx, engine, events); err != nil {
		return err
	}
	fmt.Fprintf(s.out, "\nIn this run %s handed over; the send log holds %d in all. Run it again: nothing is sent twice.\n",
		count(int(c.Accepted), "mail was", "mails were"), len(rows))
	return nil
}

// explainOne explains the first person who signed up and got no mail.
func (s *show) explainOne(ctx context.Context, engine *fluxly.Engine, events []fluxly.Event) error {
	var asked []string
	for _, ev := range events {
		if ev.Name != trialOnboarding.Trigger.Name || slices.Contains(asked, ev.ExternalID) {
			continue
		}
		asked = append(asked, ev.ExternalID)
		why, err := engine.Explain(ctx, ev.ExternalID, trialOnboarding.Name)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(why.Mails, func(m *fluxly.SendRecord) bool { return m.Status == fluxly.SendAccepted }) {
			fmt.Fprintf(s.out, "\nWhy no mail? %s\n", why)
			return nil
		}
	}
	return nil
}
