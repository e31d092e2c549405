package fluxly_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/fluxlytest"
)

// transcript is all that a program may print of the engine and its parts.
type transcript struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (w *transcript) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.Write(p)
}

func (w *transcript) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// dump prints a value in each way that programs print values.
func (w *transcript) dump(values ...any) {
	for _, v := range values {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
			_, _ = fmt.Fprintf(w, verb+"\n", v)
		}
		if data, err := json.Marshal(v); err == nil {
			_, _ = w.Write(data)
		}
		w.logger().Info("dump", "v", v)
		slog.New(slog.NewJSONHandler(w, nil)).Info("dump", "v", v)
	}
}

// wantNoSecret looks for a secret as it is, as AUTH PLAIN and HTTP Basic send
// it, in base64 and in hex.
func (w *transcript) wantNoSecret(t *testing.T, secrets ...string) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	text := w.buf.String()
	if text == "" {
		t.Error("nothing was printed, so nothing was looked at")
	}
	for _, s := range secrets {
		for form, hidden := range map[string]string{
			"plain": s, "upper case": strings.ToUpper(s), "hex": hex.EncodeToString([]byte(s)),
			"base64": strings.TrimRight(base64.StdEncoding.EncodeToString([]byte(s)), "="),
			// The NUL in front shifts the groups of three.
			"AUTH PLAIN":   strings.TrimRight(base64.StdEncoding.EncodeToString([]byte("\x00"+s+"\x00"+s)), "="),
			"Go's escapes": fmt.Sprintf("% x", s),
		} {
			if i := strings.Index(text, hidden); i >= 0 {
				t.Errorf("the secret is printed (%s): ...%s...", form, text[max(0, i-100):min(len(text), i+100)])
			}
		}
	}
}

// badServer is an engine with a sender whose server misbehaves.
type badServer struct {
	t      *testing.T
	clock  *fluxlytest.Clock
	store  fluxly.Store
	out    *transcript
	engine *fluxly.Engine
}

func newBadServer(t *testing.T) *badServer {
	t.Helper()
	b := &badServer{t: t, clock: fluxlytest.NewClock(fluxlytest.Start), store: fluxly.NewMemoryStore(), out: &transcript{}}
	t.Cleanup(func() { _ = b.store.Close() })
	return b
}

// start makes a new engine on the store, as a deployment does.
func (b *badServer) start(sender fluxly.Sender) {
	b.t.Helper()
	cfg := fluxly.Config{
		Store: b.store, Sender: sender, Mode: fluxly.Live, Now: b.clock.Now, Logger: b.out.logger(), SendTimeout: 20 * time.Second,
		From: "Acme <hello@acme.test>", Emails: fluxlytest.Emails("welcome"), Automations: []fluxly.Automation{one("w", fluxly.On("signed_up"), fluxly.Send("welcome"))},
	}
	engine, err := fluxly.New(cfg)
	if err != nil {
		b.t.Fatal(err)
	}
	b.engine = engine
	b.out.dump(cfg, engine, sender)
}

// signUp makes a mail due.
func (b *badServer) signUp() {
	b.t.Helper()
	err := b.engine.Track(b.t.Context(), fluxly.Event{Name: "signed_up", ExternalID: "ann", MessageID: "m1", Traits: fluxly.Traits{"email": "ann@customer.test"}})
	if err != nil {
		b.t.Fatal(err)
	}
}

// settle does what is due and returns the row of the mail.
func (b *badServer) settle() *fluxly.SendRecord {
	b.t.Helper()
	if _, err := b.engine.RunDue(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
	rows, err := b.engine.Sends(b.t.Context(), fluxly.SendQuery{})
	if err != nil || len(rows) != 1 {
		b.t.Fatalf("%d rows in the send log, %v; want the one mail", len(rows), err)
	}
	b.out.dump(rows[0])
	return rows[0]
}

// later settles an hour further on, when each delay is over.
func (b *badServer) later() *fluxly.SendRecord {
	b.t.Helper()
	b.clock.Set(b.clock.Now().Add(time.Hour))
	return b.settle()
}

// An SMTP server that misbehaves costs no mail: it stays queued, or has its
// reason in the send log, in words that name the thing, and goes out once when
// the fault is mended.
func TestBadSMTPServers(t *testing.T) {
	t.Parallel()
	const token = "7d4f2a10-93bc-4e0f-8a51-c0ffee5ec2e7" //nolint:gosec // of no server
	plain := base64.StdEncoding.EncodeToString([]byte("\x00" + token + "\x00" + token))
	endless := strings.Repeat("250-"+strings.Repeat("x", 1020)+"\n", 10<<10) + "250 ok"
	type row struct {
		name   string
		server fluxlytest.PostmarkSMTPConfig
		faults []fluxlytest.Fault
		token  string // the sender's, when it is not the server's
		want   fluxly.SendStatus
		reason string
		text   []string // what the send log says
		taken  bool     // the server took the mail all the same
	}
	rows := []row{
		{name: "wrong token", token: otherToken, want: fluxly.SendQueued, text: []string{"at auth", "535", "Server Token is wrong", "account token does not work"}},
		{
			name: "the server repeats the credentials", want: fluxly.SendQueued, text: []string{"at auth", "535", "[redacted]"},
			faults: []fluxlytest.Fault{{At: fluxlytest.AtAUTH, Reply: "535 5.7.8 bad login " + token + " (" + plain + ")"}},
		},
		{
			name: "From on a foreign domain, refused at MAIL", want: fluxly.SendQueued,
			text:   []string{"at mail", "550", "From", "Sender Signatures"},
			faults: []fluxlytest.Fault{{At: fluxlytest.AtMAIL, Reply: "550 5.7.1 sender not allowed"}},
		},
		{
			name: "accepts and says nothing", want: fluxly.SendQueued, text: []string{"at greeting", "127.0.0.1:", "port 587"},
			faults: []fluxlytest.Fault{{At: fluxlytest.AtGreeting, Silent: true}},
		},
		{
			name: "says nothing after the mail", want: fluxly.SendUnknown, reason: fluxly.ReasonUnknown, text: []string{"at reply", "127.0.0.1:"},
			faults: []fluxlytest.Fault{{At: fluxlytest.AtReply, Silent: true}},
		},
		{
			name: "sends 10 MB of reply to EHLO", want: fluxly.SendQueued, text: []string{"at ehlo", "more than 64 KB"},
			faults: []fluxlytest.Fault{{At: fluxlytest.AtEHLO, Reply: endless}},
		},
		{
			name: "sends 10 MB of reply to MAIL", want: fluxly.SendQueued, text: []string{"at mail", "more than 64 KB"},
			faults: []fluxlytest.Fault{{At: fluxlytest.AtMAIL, Reply: endless}},
		},
		{
			name: "sends 10 MB of reply to the mail", taken: true, want: fluxly.SendUnknown, reason: fluxly.ReasonUnknown, text: []string{"at reply", "more than 64 KB"},
			faults: []fluxlytest.Fault{{At: fluxlytest.AtReply, Reply: endless}},
		},
		{name: "offers no STARTTLS", server: fluxlytest.PostmarkSMTPConfig{NoSTARTTLS: true}, want: fluxly.SendQueued, text: []string{"at starttls", "does not offer STARTTLS", "nothing secret was sent"}},
		{
			name: "a certificate for another name", server: fluxlytest.PostmarkSMTPConfig{Hostnames: []string{"mail.other.test"}}, want: fluxly.SendQueued,
			text: []string{"at starttls", "certificate", "nothing secret was sent", "set Host"},
		},
	}
	for _, at := range []fluxlytest.SMTPPhase{
		fluxlytest.AtGreeting, fluxlytest.AtEHLO, fluxlytest.AtSTARTTLS, fluxlytest.AtAUTH, fluxlytest.AtMAIL, fluxlytest.AtRCPT, fluxlytest.AtDATA, fluxlytest.AtReply,
	} {
		r := row{
			name: "closes after " + string(at), want: fluxly.SendQueued, text: []string{"at " + string(at), "127.0.0.1:"},
			// Twice, because a kept connection that turns out dead is replaced.
			faults: []fluxlytest.Fault{{At: at, Drop: true, Times: 2}},
		}
		if at == fluxlytest.AtReply {
			r.want, r.reason = fluxly.SendUnknown, fluxly.ReasonUnknown
		}
		rows = append(rows, r)
	}
	for _, tt := range rows {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.server.Token, tt.server.Streams = token, []string{"lifecycle"}
			bad := fluxlytest.NewPostmarkSMTP(t, tt.server)
			bad.FailNext(tt.faults...)
			b := newBadServer(t)
			config := func(c *fluxly.PostmarkSMTPConfig) {
				c.Logger = b.out.logger()
				c.Timeouts = fluxly.SMTPTimeouts{Open: 10 * time.Second, Command: 10 * time.Second, Reply: 10 * time.Second}
				if len(tt.faults) > 0 && tt.faults[0].Silent {
					c.Timeouts.Open, c.Timeouts.Reply = time.Second/2, time.Second/4
				}
				b.out.dump(*c, c)
			}
			b.start(postmarkSender(t, bad, func(c *fluxly.PostmarkSMTPConfig) {
				config(c)
				if tt.token != "" {
					c.ServerToken = tt.token
				}
			}))
			b.signUp()
			got := b.settle()
			if got.Status != tt.want || got.Reason != tt.reason || got.Attempts != 1 {
				t.Errorf("the mail is %s with reason %q after %d attempts, want %s %q after 1: %s", got.Status, got.Reason, got.Attempts, tt.want, tt.reason, got.Detail)
			}
			for _, text := range tt.text {
				if !strings.Contains(got.Detail, text) {
					t.Errorf("the send log does not say %q: %s", text, got.Detail)
				}
			}
			if n := len(bad.Mails()); (n == 1) != tt.taken || n > 1 {
				t.Errorf("%d mails at the server that misbehaves", n)
			}

			// Mended: the right server, with the right token.
			good := fluxlytest.NewPostmarkSMTP(t, fluxlytest.PostmarkSMTPConfig{Token: token, Streams: []string{"lifecycle"}})
			b.start(postmarkSender(t, good, config))
			if tt.want == fluxly.SendUnknown {
				if row := b.later(); row.Status != fluxly.SendUnknown {
					t.Fatalf("a mail that may have gone out is %s", row.Status)
				}
				if err := b.engine.Settle(t.Context(), got.Key, tt.taken); err != nil {
					t.Fatal(err)
				}
			}
			row := b.later()
			want := 1
			if tt.taken {
				want = 0
			}
			if row.Status != fluxly.SendAccepted {
				t.Errorf("the mail is %s after the fault was mended: %s", row.Status, row.Detail)
			}
			if n := len(good.Mails()); n != want {
				t.Errorf("%d mails arrived, want %d", n, want)
			}
			b.out.wantNoSecret(t, token, otherToken)
		})
	}
}

// The same over Postmark's HTTP API.
func TestBadPostmarkAPI(t *testing.T) {
	t.Parallel()
	const token = "7d4f2a10-93bc-4e0f-8a51-c0ffee5ec2e7" //nolint:gosec // of no server
	reply := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}
	}
	for _, tt := range []struct {
		name    string
		handler http.HandlerFunc
		want    fluxly.SendStatus
		reason  string
		text    []string
	}{
		{"wrong token", reply(401, `{"ErrorCode":10,"Message":"No Account or Server API tokens were supplied: `+token+`"}`), fluxly.SendQueued, "", []string{"401", "Server"}},
		{"From on a foreign domain", reply(422, `{"ErrorCode":400,"Message":"The 'From' address you supplied (hello@acme.test) is not a Sender Signature on your account."}`), fluxly.SendQueued, "", []string{"400", "Sender Signature"}},
		{"a recipient that is none", reply(422, `{"ErrorCode":300,"Message":"Invalid 'To' address: 'ann@customer.test'."}`), fluxly.SendRefused, fluxly.ReasonRefused, []string{"300", "To"}},
		{"a page of HTML", reply(502, "<html>"+strings.Repeat("bad gateway ", 1000)), fluxly.SendUnknown, fluxly.ReasonUnknown, []string{"502"}},
		{"10 MB of reply", func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			for range 10 << 10 {
				if _, err := w.Write(bytes.Repeat([]byte("x"), 1<<10)); err != nil {
					return
				}
			}
		}, fluxly.SendUnknown, fluxly.ReasonUnknown, []string{"http"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var mu sync.Mutex
			mended, taken := false, 0
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				mu.Lock()
				defer mu.Unlock()
				switch {
				case r.Method == http.MethodGet: // the look-up is not allowed
					w.WriteHeader(http.StatusUnauthorized)
				case mended:
					taken++
					_, _ = io.WriteString(w, `{"ErrorCode":0,"Message":"OK","MessageID":"id-1"}`)
				default:
					tt.handler(w, r)
				}
			}))
			t.Cleanup(srv.Close)
			b := newBadServer(t)
			sender := func() *fluxly.Postmark {
				cfg := fluxly.PostmarkConfig{ServerToken: token, MessageStream: "lifecycle", BaseURL: srv.URL, Logger: b.out.logger()}
				b.out.dump(cfg, &cfg)
				p, err := fluxly.NewPostmark(cfg)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = p.Close() })
				return p
			}
			b.start(sender())
			b.signUp()
			got := b.settle()
			if tt.want == fluxly.SendUnknown {
				// It is asked for in vain, so it stays claimed and is asked for again.
				if got.Status != fluxly.SendSending && got.Status != fluxly.SendUnknown {
					t.Errorf("the mail is %s, want it held", got.Status)
				}
			} else if got.Status != tt.want || got.Reason != tt.reason {
				t.Errorf("the mail is %s with reason %q, want %s %q", got.Status, got.Reason, tt.want, tt.reason)
			}
			for _, text := range tt.text {
				if !strings.Contains(got.Detail, text) {
					t.Errorf("the send log does not say %q: %s", text, got.Detail)
				}
			}
			mu.Lock()
			mended = true
			mu.Unlock()
			b.start(sender())
			row := b.later()
			mu.Lock()
			defer mu.Unlock()
			if tt.want == fluxly.SendQueued && (row.Status != fluxly.SendAccepted || taken != 1) {
				t.Errorf("the mail is %s after the fault was mended, and was taken %d times", row.Status, taken)
			}
			if tt.want != fluxly.SendQueued && taken != 0 {
				t.Errorf("the mail was sent %d times more", taken)
			}
			b.out.wantNoSecret(t, token)
		})
	}
}

// What is refused at the door leaves nothing behind: no profile, no event, no
// run, and the same call mended works.
func TestBadEvents(t *testing.T) {
	t.Parallel()
	nested := any("x")
	for range 1000 {
		nested = map[string]any{"in": nested}
	}
	wide := fluxly.Properties{}
	for i := range 33 {
		wide[fmt.Sprint("p", i)] = i
	}
	year := func(y int) time.Time { return time.Date(y, 6, 1, 0, 0, 0, 0, time.UTC) }
	for _, tt := range []struct {
		name  string
		event fluxly.Event
		field string
	}{
		{"a property nested 1,000 deep", event("signed_up", "ann", fluxly.Properties{"deep": nested}), "properties.deep"},
		{"33 keys", event("signed_up", "ann", wide), "properties"},
		{"33 KB", event("signed_up", "ann", fluxly.Properties{"long": strings.Repeat("x", 33<<10)}), "event"},
		{"NaN", event("signed_up", "ann", fluxly.Properties{"amount": math.NaN()}), "properties.amount"},
		{"a time in year 0", fluxly.Event{Name: "signed_up", ExternalID: "ann", Timestamp: year(0)}, "timestamp"},
		{"a time in year 9999", fluxly.Event{Name: "signed_up", ExternalID: "ann", Timestamp: year(9999)}, "timestamp"},
		{"a time two days ahead", fluxly.Event{Name: "signed_up", ExternalID: "ann", Timestamp: fluxlytest.Start.Add(48 * time.Hour)}, "timestamp"},
		{"an id of 10 KB", event("signed_up", strings.Repeat("a", 10<<10), nil), "external_id"},
		{"an id with a line break", event("signed_up", "ann\r\nx", nil), "external_id"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			k := newKit(t, welcome())
			ctx := t.Context()
			ev := tt.event
			ev.MessageID = "m1"
			calls := map[string]error{"Track": k.Engine.Track(ctx, ev)}
			if tt.field == "timestamp" || tt.field == "external_id" {
				calls["Identify"] = k.Engine.Identify(ctx, fluxly.Identity{ExternalID: ev.ExternalID, Timestamp: ev.Timestamp, MessageID: "m1"})
			}
			if tt.field != "timestamp" {
				_, calls["Enroll"] = k.Engine.Enroll(ctx, fluxly.Enrollment{Automation: "w", ExternalID: ev.ExternalID, Properties: ev.Properties, MessageID: "m1"})
			}
			if tt.field == "external_id" {
				calls["Erase"] = k.Engine.Erase(ctx, fluxly.Erasure{ID: ev.ExternalID})
				calls["Alias"] = k.Engine.Alias(ctx, fluxly.Alias{UserID: ev.ExternalID, AnonymousID: "a"})
			}
			for call, err := range calls {
				fe, ok := errors.AsType[*fluxly.FieldError](err)
				if !ok || !errors.Is(err, fluxly.ErrInvalid) {
					t.Errorf("%s: %v, want a *FieldError", call, err)
					continue
				}
				if call == "Track" && !strings.HasPrefix(fe.Field, tt.field) {
					t.Errorf("%s names %q, want %q", call, fe.Field, tt.field)
				}
				if len(err.Error()) > 500 {
					t.Errorf("%s: an error of %d bytes", call, len(err.Error()))
				}
			}
			if people, err := k.Engine.Runs(ctx, fluxly.RunQuery{}); err != nil || len(people) != 0 {
				t.Errorf("%d runs, %v", len(people), err)
			}
			if _, err := k.Engine.Profile(ctx, "ann"); !errors.Is(err, fluxly.ErrNotFound) {
				t.Errorf("there is a profile: %v", err)
			}
			// The message id was not used up.
			if err := k.Engine.Track(ctx, fluxly.Event{Name: "signed_up", ExternalID: "ann", MessageID: "m1"}); err != nil {
				t.Errorf("mended: %v", err)
			}
		})
	}
}

// A trait "email" that is no address stops the mail with its reason, and the
// mail of nobody else.
func TestBadAddresses(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		email  any
		reason string // empty: it goes
		text   string
		to     string // where it goes
	}{
		{"plain", "ann@customer.test", "", "", "ann@customer.test"},
		{"a name", "Ann <ann@customer.test>", "", "", "ann@customer.test"},
		{"a name with a comma", `"Smith, Ann" <ann@customer.test>`, "", "", "ann@customer.test"},
		{"a name with an emoji", "Ann 🎈 <ann@customer.test>", "", "", "ann@customer.test"},
		{"blanks around", "  ann@customer.test\n", "", "", "ann@customer.test"},
		{"a name with CR LF", "Ann\r\nBcc: eve@evil.test\r\n <ann@customer.test>", fluxly.ReasonBadAddress, "line break", ""},
		{"an encoded line break", "=?utf-8?q?Ann=0D=0ABcc:_eve@evil.test?= <ann@customer.test>", fluxly.ReasonBadAddress, "", ""},
		{"CR LF in the address", "ann@customer.test\r\nBcc: eve@evil.test", fluxly.ReasonBadAddress, "line break", ""},
		{"a comma without quotes", "Smith, Ann <ann@customer.test>", fluxly.ReasonBadAddress, "list", ""},
		{"a recipient list", "ann@customer.test, eve@evil.test", fluxly.ReasonBadAddress, "list", ""},
		{"a list of semicolons", "ann@customer.test; eve@evil.test", fluxly.ReasonBadAddress, "list", ""},
		{"a group", "team: ann@customer.test;", fluxly.ReasonBadAddress, "", ""},
		{"two in brackets", "<ann@customer.test> <eve@evil.test>", fluxly.ReasonBadAddress, "", ""},
		{"no address", "nobody", fluxly.ReasonBadAddress, "nobody", ""},
		{"a number", 42, fluxly.ReasonBadAddress, "is a number", ""},
		{"a list value", []any{"ann@customer.test", "eve@evil.test"}, fluxly.ReasonBadAddress, "is a list", ""},
		{"a map value", map[string]any{"work": "ann@customer.test"}, fluxly.ReasonBadAddress, "is a map", ""},
		{"a bool", true, fluxly.ReasonBadAddress, "is a bool", ""},
		{"blank", "   ", fluxly.ReasonBadAddress, "is blank", ""},
		{"empty", "", fluxly.ReasonNoAddress, "no trait", ""},
		{"10 KB", strings.Repeat("a", 10<<10) + "@customer.test", fluxly.ReasonBadAddress, "", ""},
		{"unicode before the @", "änn@customer.test", fluxly.ReasonBadAddress, "", ""},
		{"unicode domain", "ann@bücher.test", "", "", "ann@xn--bcher-kva.test"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			server := fluxlytest.NewPostmarkSMTP(t, fluxlytest.PostmarkSMTPConfig{Streams: []string{"lifecycle"}})
			b := newBadServer(t)
			b.start(postmarkSender(t, server, nil))
			err := b.engine.Track(t.Context(), fluxly.Event{Name: "signed_up", ExternalID: "ann", MessageID: "m1", Traits: fluxly.Traits{"email": tt.email}})
			if err != nil {
				t.Fatal(err)
			}
			row := b.settle()
			if row.Reason != tt.reason || !strings.Contains(row.Detail, tt.text) || len(row.Detail) > 1000 {
				t.Errorf("status %s, reason %q, detail %q; want %q with %q", row.Status, row.Reason, row.Detail, tt.reason, tt.text)
			}
			mails := server.Mails()
			if tt.to == "" {
				if len(mails) != 0 {
					t.Errorf("it went to %v", mails[0].To)
				}
				return
			}
			if len(mails) != 1 || len(mails[0].To) != 1 || mails[0].To[0] != tt.to || mails[0].Get("Bcc") != "" {
				t.Errorf("%d mails: %+v", len(mails), mails)
			}
		})
	}
}

// Text from a person ends up as text: no header, no recipient, no markup comes
// of it, however it is spelt and however long it is.
func TestHostileTraitsInMails(t *testing.T) {
	t.Parallel()
	for name, value := range map[string]string{
		"CR LF":        "Ann\r\nBcc: eve@evil.test\r\n\r\n<b>x</b>",
		"bare CR":      "Ann\rBcc: eve@evil.test",
		"line sep":     "Ann\u2028Bcc: eve@evil.test",
		"NUL":          "Ann\x00Bcc",
		"encoded word": "=?utf-8?q?=0D=0ABcc:_eve@evil.test?=",
		"template":     "{{ .Traits.email }}",
		"end of data":  "Ann\r\n.\r\nMAIL FROM:<eve@evil.test>\r\n",
		"markup":       "<script>alert(1)</script>",
		"unsubscribe":  "{{{ pm:unsubscribe }}}",
		"comma":        "Smith, Ann",
		"emoji":        "Ann 🎈👩‍🚀",
		"20 KB":        strings.Repeat("Ann <b> ", 2500),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := fluxlytest.NewPostmarkSMTP(t, fluxlytest.PostmarkSMTPConfig{Streams: []string{"lifecycle"}})
			store := fluxly.NewMemoryStore()
			t.Cleanup(func() { _ = store.Close() })
			engine, err := fluxly.New(fluxly.Config{
				Store: store, Sender: postmarkSender(t, server, nil), Mode: fluxly.Live, From: "Acme <hello@acme.test>",
				Automations: []fluxly.Automation{one("w", fluxly.On("signed_up"), fluxly.Send("welcome"))},
				Emails: fstest.MapFS{
					"welcome.html": {Data: []byte("---\nSubject: Hi {{ .Traits.first_name }}\n---\n<p title=\"{{ .Traits.first_name }}\">Hi {{ .Traits.first_name }}</p><p>{{{ pm:unsubscribe }}}</p>")},
				},
			})
			if err != nil {
				t.Fatal(err)
			}
			ev := fluxly.Event{Name: "signed_up", ExternalID: "ann", Traits: fluxly.Traits{"email": "ann@customer.test", "first_name": value}}
			if err := engine.Track(t.Context(), ev); err != nil {
				t.Fatal(err)
			}
			if _, err := engine.RunDue(t.Context()); err != nil {
				t.Fatal(err)
			}
			mails := server.Mails()
			if len(mails) != 1 {
				rows, _ := engine.Sends(t.Context(), fluxly.SendQuery{})
				// What cannot be a subject is refused with its reason.
				if len(mails) != 0 || len(rows) != 1 || rows[0].Reason == "" {
					t.Errorf("%d mails, %+v", len(mails), rows)
				}
				if name != "20 KB" {
					t.Errorf("refused: %s", rows[0].Detail)
				}
				return
			}
			m := mails[0]
			if len(m.To) != 1 || m.To[0] != "ann@customer.test" || m.Get("Bcc") != "" || m.Get("To") == "" || len(m.Problems) > 0 {
				t.Errorf("to %v, Bcc %q, problems %v", m.To, m.Get("Bcc"), m.Problems)
			}
			if strings.Contains(m.HTML, "<script") || strings.Contains(m.HTML, "<b>") || strings.Contains(m.Subject, "ann@customer.test") {
				t.Errorf("subject %q, html %q", m.Subject, m.HTML)
			}
		})
	}
}

// Mistakes in the configuration: all are reported by New, none of them sends
// or stores anything, and no token is in an error.
func TestBadConfigurations(t *testing.T) {
	t.Parallel()
	mail := func(subject, body string) fstest.MapFS {
		return fstest.MapFS{"welcome.txt": {Data: []byte("---\nSubject: " + subject + "\n---\n" + body + "\n{{{ pm:unsubscribe }}}\n")}}
	}
	var noSMTP *fluxly.SMTPSender
	for _, tt := range []struct {
		name   string
		change func(*fluxly.Config)
		field  string
		text   string
	}{
		{"From with CR LF", func(c *fluxly.Config) { c.From = "Acme\r\nBcc: eve@evil.test <hello@acme.test>" }, "From", "line break"},
		{"From with a comma", func(c *fluxly.Config) { c.From = "Acme, Inc <hello@acme.test>" }, "From", "list"},
		{"a list as From", func(c *fluxly.Config) { c.From = "a@acme.test, b@acme.test" }, "From", "list"},
		{"a list as ReplyTo", func(c *fluxly.Config) { c.ReplyTo = "a@acme.test, b@acme.test" }, "ReplyTo", "list"},
		{"a mail that is not there", func(c *fluxly.Config) { c.Emails = fluxlytest.Emails("other") }, "email", "welcome"},
		{"no templates", func(c *fluxly.Config) { c.Emails = nil }, "Emails", "welcome"},
		{"a folder that cannot be read", func(c *fluxly.Config) { c.Emails = brokenFS{} }, "", "disk on fire"},
		{"a template that names a missing field", func(c *fluxly.Config) { c.Emails = mail("x", "{{ .Profle.Name }}") }, "", "Profle"},
		{"a template that includes itself", func(c *fluxly.Config) {
			c.Emails = fstest.MapFS{
				"_a.txt": {Data: []byte(`{{ template "_b" . }}`)}, "_b.txt": {Data: []byte(`{{ template "_a" . }}`)},
				"welcome.txt": {Data: []byte("---\nSubject: x\n---\n{{ template \"_a\" . }}{{{ pm:unsubscribe }}}")},
			}
		}, "", "_a"},
		{"an unknown time zone", func(c *fluxly.Config) { c.Emails = mail("x", `{{ .Now | in "Mars/Olympus" | date "2 January" }}`) }, "", "Mars/Olympus"},
		{"a nil sender", func(c *fluxly.Config) { c.Sender = noSMTP }, "Sender", "nil *fluxly.SMTPSender"},
		{"negative sends", func(c *fluxly.Config) { c.MaxSends = -1 }, "MaxSends", "negative"},
		{"negative timeout", func(c *fluxly.Config) { c.SendTimeout = -1 }, "SendTimeout", "negative"},
		{"unknown policy", func(c *fluxly.Config) { c.Unknown = "whatever" }, "Unknown", "whatever"},
		{"unknown mode", func(c *fluxly.Config) { c.Mode = "prod" }, "Mode", "prod"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			store := fluxly.NewMemoryStore()
			t.Cleanup(func() { _ = store.Close() })
			cfg := fluxly.Config{
				Store: store, Sender: &fluxlytest.FakeSender{Stream: "lifecycle"}, Mode: fluxly.Live, From: "Acme <hello@acme.test>",
				Emails: fluxlytest.Emails("welcome"), Automations: []fluxly.Automation{one("w", fluxly.On("signed_up"), fluxly.Send("welcome"))},
			}
			tt.change(&cfg)
			_, err := fluxly.New(cfg)
			ce, ok := errors.AsType[*fluxly.ConfigError](err)
			if !ok || !errors.Is(err, fluxly.ErrInvalid) {
				t.Fatalf("New: %v, want a *ConfigError", err)
			}
			if p := ce.Problems[0]; tt.field != "" && p.Field != tt.field || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("field %q: %v; want %q with %q", p.Field, err, tt.field, tt.text)
			}
		})
	}
}

// A template that a person's data makes endless or impossible stops that mail
// alone, with its reason.
func TestBadTemplatesAtSend(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, body, text string
	}{
		{"a missing trait", "{{ .Traits.nickname }}", "nickname"},
		{"an unknown time zone", `{{ .Now | in .Traits.zone | date "2 January" }}`, "Mars/Olympus"},
		{"a loop over loops", "{{ range .Traits.list }}{{ range $.Traits.list }}{{ range $.Traits.list }}{{ range $.Traits.list }}{{ range $.Traits.list }}x{{ end }}{{ end }}{{ end }}{{ end }}{{ end }}", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			list := make([]any, 1000)
			for i := range list {
				list[i] = i
			}
			k := newKitConfig(t, fluxly.Config{
				Automations: []fluxly.Automation{one("w", fluxly.On("signed_up"), fluxly.Send("welcome"), fluxly.Send("more"))},
				Emails: fstest.MapFS{
					"welcome.txt": {Data: []byte("---\nSubject: x\n---\n" + tt.body + "\n{{{ pm:unsubscribe }}}\n")},
					"more.txt":    {Data: []byte("---\nSubject: more\n---\nHi.\n{{{ pm:unsubscribe }}}\n")},
				},
			})
			k.Identify(fluxly.Identity{ExternalID: "u1", Traits: fluxly.Traits{"zone": "Mars/Olympus", "list": list}})
			k.Track(event("signed_up", "u1", nil))
			k.WantSent("u1", "more")
			k.WantNotSent("u1", "welcome", fluxly.ReasonTemplate)
			if m := record(t, k, "u1", "welcome"); !strings.Contains(m.Detail, tt.text) || !strings.Contains(m.Detail, "welcome") {
				t.Errorf("the send log says %q", m.Detail)
			}
		})
	}
}

// brokenFS is a folder on a disk that fails.
type brokenFS struct{}

func (brokenFS) Open(name string) (fs.File, error) {
	return nil, &fs.PathError{Op: "open", Path: name, Err: errors.New("disk on fire")}
}
