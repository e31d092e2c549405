package killtest_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/postgres"
	"github.com/getfluxly/fluxly/sqlite"
)

// childSettings is the environment variable that makes the test binary a
// child: a program that runs an engine and tracks an event for each number on
// its standard input.
const childSettings = "FLUXLY_TEST_KILL_CHILD"

// settings of a child.
type settings struct {
	// File is that of SQLite; else Database and Schema are those of Postgres.
	File, Database, Schema string
	// SMTP is the address of the stand-in for Postmark, Token its token.
	SMTP, Token string
	// Lookup is the URL at which the stand-in says what it has.
	Lookup string
}

var templates = fstest.MapFS{
	"welcome.html": {Data: []byte("---\nSubject: Welcome\n---\n<p>Good to have you.</p><p><a href=\"{{{ pm:unsubscribe }}}\">Unsubscribe</a></p>\n")},
	"nudge.html":   {Data: []byte("---\nSubject: Nudge\n---\n<p>It takes four minutes.</p><p><a href=\"{{{ pm:unsubscribe }}}\">Unsubscribe</a></p>\n")},
}

const stream = "lifecycle-test"

// child is the program. It prints each number once its event is stored.
func child(ctx context.Context, text string) error {
	var s settings
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return err
	}
	store, err := s.open(ctx)
	if err != nil {
		return err
	}
	host, port, err := net.SplitHostPort(s.SMTP)
	if err != nil {
		return err
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		return err
	}
	smtp, err := fluxly.NewPostmarkSMTP(fluxly.PostmarkSMTPConfig{
		ServerToken: s.Token, MessageStream: stream, Host: host, Port: number, TLS: fluxly.TLSOffOnLoopback,
	})
	if err != nil {
		return err
	}
	engine, err := fluxly.New(fluxly.Config{
		Store: store, Sender: &sender{SMTPSender: smtp, lookup: s.Lookup}, Mode: fluxly.Live,
		From: "Acme <hello@acme.test>", Emails: templates, SendTimeout: 2 * time.Second,
		Automations: []fluxly.Automation{{
			Name: "trial", Trigger: fluxly.On("signed_up"),
			Steps: fluxly.Steps{fluxly.Send("welcome"), fluxly.Wait(time.Second), fluxly.Send("nudge")},
		}},
	})
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- engine.Run(ctx) }()
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		if err := track(ctx, engine, lines.Text()); err != nil {
			return err
		}
		if _, err := fmt.Fprintln(os.Stdout, lines.Text()); err != nil {
			return err
		}
	}
	return errors.Join(lines.Err(), <-ended)
}

func (s settings) open(ctx context.Context) (fluxly.Store, error) {
	if s.File != "" {
		return sqlite.Open(s.File)
	}
	pool, err := pgxpool.New(ctx, s.Database)
	if err != nil {
		return nil, err
	}
	return postgres.Open(ctx, pool, postgres.Config{Schema: s.Schema, Migrate: true})
}

// track stores the event of a number, as a program does: again and again until
// it is told that it is there.
func track(ctx context.Context, e *fluxly.Engine, number string) error {
	person := "user_" + number
	for {
		err := e.Identify(ctx, fluxly.Identity{
			MessageID: "identify-" + number, ExternalID: person, Traits: fluxly.Traits{"email": person + "@customer.test"},
		})
		if err == nil {
			err = e.Track(ctx, fluxly.Event{Name: "signed_up", MessageID: "track-" + number, ExternalID: person})
		}
		if err == nil {
			return nil
		}
		fmt.Fprintln(os.Stderr, "track", number, err)
		timer := time.NewTimer(200 * time.Millisecond)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
	}
}

// sender asks the stand-in about mails whose reply was lost.
type sender struct {
	*fluxly.SMTPSender
	lookup string
}

var _ fluxly.LookupSender = (*sender)(nil)

func (s *sender) LookupDelay() time.Duration { return 0 }

func (s *sender) Lookup(ctx context.Context, key string) (fluxly.Receipt, bool, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.lookup+"?key="+url.QueryEscape(key), http.NoBody)
	if err != nil {
		return fluxly.Receipt{}, false, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return fluxly.Receipt{}, false, err
	}
	defer res.Body.Close()
	id, err := io.ReadAll(res.Body)
	switch {
	case err != nil:
		return fluxly.Receipt{}, false, err
	case res.StatusCode == http.StatusNotFound:
		return fluxly.Receipt{}, false, nil
	case res.StatusCode != http.StatusOK:
		return fluxly.Receipt{}, false, fmt.Errorf("lookup: status %d", res.StatusCode)
	}
	return fluxly.Receipt{ID: string(id), At: time.Now()}, true, nil
}
