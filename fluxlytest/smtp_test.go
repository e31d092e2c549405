package fluxlytest

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/getfluxly/fluxly"
)

const testMail = "From: Acme <hello@acme.test>\r\n" +
	"To: Ann <ann@acme.test>\r\n" +
	"Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=,\r\n folded\r\n" +
	"X-PM-Message-Stream: lifecycle\r\n" +
	"X-PM-Tag: welcome\r\n" +
	"X-PM-TrackOpens: true\r\n" +
	"X-PM-TrackLinks: None\r\n" +
	"X-PM-Metadata-send_key: run_1/welcome/1\r\n" +
	"X-PM-Metadata-Plan: trial\r\n" +
	"MIME-Version: 1.0\r\n" +
	"Content-Type: multipart/alternative; boundary=\"b\"\r\n" +
	"\r\n" +
	"--b\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n" +
	"Gr=C3=BC=C3=9Fe\r\n..leading dot=\r\n, joined\r\n" +
	"\r\n--b\r\nContent-Type: text/html; charset=utf-8\r\nContent-Transfer-Encoding: base64\r\n\r\n" +
	"PHA+R3LDvMOfZTwvcD4=\r\n" +
	"--b--\r\n"

// mailWith is a small mail with further header lines.
func mailWith(lines ...string) string {
	return "From: hello@acme.test\r\nTo: ann@acme.test\r\nSubject: Hi\r\n" + strings.Join(append(lines, ""), "\r\n") + "\r\nHello\r\n"
}

func start(t *testing.T, cfg PostmarkSMTPConfig) *PostmarkSMTP {
	t.Helper()
	if cfg.Streams == nil {
		cfg.Streams = []string{"lifecycle"}
	}
	return NewPostmarkSMTP(t, cfg)
}

// dial opens a session up to, not including, the login.
func dial(t *testing.T, s *PostmarkSMTP) (*smtp.Client, error) {
	t.Helper()
	c, err := smtp.DialStartTLS(s.Addr(), &tls.Config{RootCAs: s.RootCAs(), ServerName: "localhost", MinVersion: tls.VersionTLS12})
	if err == nil {
		t.Cleanup(func() { _ = c.Close() })
	}
	return c, err
}

func login(t *testing.T, s *PostmarkSMTP) *smtp.Client {
	t.Helper()
	c, err := dial(t, s)
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	if err := c.Auth(sasl.NewPlainClient("", s.Token, s.Token)); err != nil {
		t.Fatalf("login: %v", err)
	}
	return c
}

func send(c *smtp.Client, mail string, to ...string) error {
	if len(to) == 0 {
		to = []string{"ann@acme.test"}
	}
	return c.SendMail("bounce@acme.test", to, strings.NewReader(mail))
}

func wantCode(t *testing.T, err error, code int) {
	t.Helper()
	var se *smtp.SMTPError
	if !errors.As(err, &se) || se.Code != code {
		t.Errorf("error = %v, want an SMTP reply with code %d", err, code)
	}
}

func TestPostmarkSMTPReceives(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	s := start(t, PostmarkSMTPConfig{Now: func() time.Time { return at }})
	c := login(t, s)
	if err := send(c, testMail, "ann@acme.test", "bob@acme.test"); err != nil {
		t.Fatal(err)
	}
	mails, err := s.Wait(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	want := PostmarkMail{
		Seq: 1, At: at, Conn: 1, Secure: true,
		From: "bounce@acme.test", To: []string{"ann@acme.test", "bob@acme.test"},
		Raw: []byte(testMail),
		Header: []fluxly.Header{
			{Name: "From", Value: "Acme <hello@acme.test>"},
			{Name: "To", Value: "Ann <ann@acme.test>"},
			{Name: "Subject", Value: "=?utf-8?q?Gr=C3=BC=C3=9Fe?=, folded"},
			{Name: "X-PM-Message-Stream", Value: "lifecycle"},
			{Name: "X-PM-Tag", Value: "welcome"},
			{Name: "X-PM-TrackOpens", Value: "true"},
			{Name: "X-PM-TrackLinks", Value: "None"},
			{Name: "X-PM-Metadata-send_key", Value: "run_1/welcome/1"},
			{Name: "X-PM-Metadata-Plan", Value: "trial"},
			{Name: "MIME-Version", Value: "1.0"},
			{Name: "Content-Type", Value: `multipart/alternative; boundary="b"`},
		},
		Subject: "Grüße, folded",
		Text:    "Grüße\n..leading dot, joined\n",
		HTML:    "<p>Grüße</p>",
		Stream:  "lifecycle", Tag: "welcome", TrackOpens: "true", TrackLinks: "None",
		Metadata: map[string]string{"send_key": "run_1/welcome/1", "Plan": "trial"},
		Fate:     FateDelivered,
	}
	if diff := cmp.Diff([]PostmarkMail{want}, mails, cmpopts.IgnoreFields(PostmarkMail{}, "ID")); diff != "" {
		t.Errorf("mails (-want +got):\n%s", diff)
	}
	if got, ok := s.Lookup("run_1/welcome/1"); !ok || got.ID != mails[0].ID || got.ID == "" || got.SendKey() != "run_1/welcome/1" {
		t.Errorf("Lookup = %q, %v; want the mail %q", got.ID, ok, mails[0].ID)
	}
	if _, ok := s.Lookup("run_1/welcome/2"); ok {
		t.Error("Lookup found a send key that was never sent")
	}
	st := s.Stats()
	if diff := cmp.Diff(map[string]int{"EHLO": 2, "STARTTLS": 1, "AUTH": 1, "MAIL": 1, "RCPT": 2, "DATA": 1}, st.Commands); diff != "" {
		t.Errorf("commands (-want +got):\n%s", diff)
	}
	if st.Connections != 1 || st.Open != 1 {
		t.Errorf("connections = %d, open %d; want 1, 1", st.Connections, st.Open)
	}
}

func TestPostmarkSMTPLogin(t *testing.T) {
	t.Parallel()
	s := start(t, PostmarkSMTPConfig{
		Token:        "0f3c7a52-58d4-4d1c-9e4a-0f8f0c1b2a3d",
		StreamTokens: []StreamToken{{AccessKey: "PM-B-lifecycle-1", SecretKey: "secret", Stream: "lifecycle"}},
	})
	tests := map[string]struct {
		user, password string
		stream         string // where a mail that names "broadcast" goes; empty: refused
	}{
		"token twice":                {s.Token, s.Token, "broadcast"},
		"stream token":               {"PM-B-lifecycle-1", "secret", "lifecycle"},
		"token as user alone":        {s.Token, "x", ""},
		"token as password alone":    {"x", s.Token, ""},
		"another token":              {"11111111-58d4-4d1c-9e4a-0f8f0c1b2a3d", "11111111-58d4-4d1c-9e4a-0f8f0c1b2a3d", ""},
		"token in upper case":        {strings.ToUpper(s.Token), strings.ToUpper(s.Token), ""},
		"stream token, key twice":    {"PM-B-lifecycle-1", "PM-B-lifecycle-1", ""},
		"stream token, token as key": {"PM-B-lifecycle-1", s.Token, ""},
		"nothing":                    {"", "", ""},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, err := dial(t, s)
			if err != nil {
				t.Fatal(err)
			}
			err = c.Auth(sasl.NewPlainClient("", tc.user, tc.password))
			if tc.stream == "" {
				var se *smtp.SMTPError
				if !errors.As(err, &se) || se.Code != 535 || se.EnhancedCode != (smtp.EnhancedCode{5, 7, 8}) {
					t.Fatalf("login = %v, want 535 5.7.8", err)
				}
				wantCode(t, send(c, testMail), 530)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			key := "login/" + name
			if err := send(c, mailWith("X-PM-Message-Stream: broadcast", "X-PM-Metadata-send_key: "+key)); err != nil {
				t.Fatal(err)
			}
			if m, ok := s.Lookup(key); !ok || m.Stream != tc.stream {
				t.Errorf("stream = %q, found %v; want %q", m.Stream, ok, tc.stream)
			}
		})
	}
}

func TestPostmarkSMTPFates(t *testing.T) {
	t.Parallel()
	s := start(t, PostmarkSMTPConfig{SenderDomains: []string{"Acme.test"}})
	s.Suppress("lifecycle", "Ann@acme.test")
	s.Suppress("", "gone@acme.test")
	s.Suppress("lifecycle", "back@acme.test")
	s.Unsuppress("lifecycle", "back@acme.test")
	tests := []struct {
		name    string
		mail    string
		to      []string
		fate    Fate
		code    int
		stream  string
		dropped []string
		bounces []string
	}{
		{
			name: "no stream named", mail: mailWith(), to: []string{"ann@acme.test"},
			fate: FateDelivered, stream: "outbound",
		},
		{
			name: "unknown stream", mail: mailWith("x-pm-message-stream: lifecicle"), to: []string{"ann@acme.test", "bob@acme.test"},
			fate: FateBounced, code: 1235, stream: "lifecicle", bounces: []string{"ann@acme.test", "bob@acme.test"},
		},
		{
			name: "suppressed", mail: mailWith("X-PM-Message-Stream: lifecycle"), to: []string{"ANN@acme.test"},
			fate: FateDropped, code: 406, stream: "lifecycle", dropped: []string{"ANN@acme.test"}, bounces: []string{"ANN@acme.test"},
		},
		{
			name: "one of two suppressed", mail: mailWith("X-PM-Message-Stream: lifecycle"), to: []string{"bob@acme.test", "ann@acme.test"},
			fate: FateDelivered, code: 406, stream: "lifecycle", dropped: []string{"ann@acme.test"}, bounces: []string{"ann@acme.test"},
		},
		{
			name: "suppressed in another stream", mail: mailWith("X-PM-Message-Stream: broadcast"), to: []string{"ann@acme.test", "gone@acme.test"},
			fate: FateDelivered, stream: "broadcast",
		},
		{
			name: "suppressed no more", mail: mailWith("X-PM-Message-Stream: lifecycle"), to: []string{"back@acme.test"},
			fate: FateDelivered, stream: "lifecycle",
		},
		{
			name: "sender not confirmed", mail: strings.Replace(mailWith(), "hello@acme.test", "Acme <hello@evil.test>", 1), to: []string{"ann@acme.test"},
			fate: FateBounced, code: 400, stream: "outbound", bounces: []string{"ann@acme.test"},
		},
		{
			name: "metadata value of 81", mail: mailWith("X-PM-Metadata-k: " + strings.Repeat("é", 81)), to: []string{"ann@acme.test"},
			fate: FateLost, stream: "outbound",
		},
		{
			name: "metadata name of 21", mail: mailWith("X-PM-Metadata-" + strings.Repeat("k", 21) + ": v"), to: []string{"ann@acme.test"},
			fate: FateLost, stream: "outbound",
		},
	}
	c := login(t, s)
	var bounced int
	for i, tc := range tests {
		if err := send(c, tc.mail, tc.to...); err != nil {
			t.Fatalf("%s: %v", tc.name, err)
		}
		m := s.Mails()[i]
		if m.Fate != tc.fate || m.Code != tc.code || m.Stream != tc.stream || (m.Reason == "") != (tc.fate == FateDelivered && tc.code == 0) {
			t.Errorf("%s: fate %q code %d stream %q reason %q; want %q %d %q", tc.name, m.Fate, m.Code, m.Stream, m.Reason, tc.fate, tc.code, tc.stream)
		}
		if diff := cmp.Diff(tc.dropped, m.Dropped); diff != "" {
			t.Errorf("%s: dropped (-want +got):\n%s", tc.name, diff)
		}
		var to []string
		for _, b := range s.Bounces()[bounced:] {
			bounced++
			to = append(to, b.Email)
			if b.Type != "SMTPApiError" || b.TypeCode != 100007 || b.ErrorCode != tc.code || b.MessageStream != tc.stream || b.MessageID != m.ID || b.Description != m.Reason {
				t.Errorf("%s: bounce %+v does not fit the mail", tc.name, b)
			}
		}
		if diff := cmp.Diff(tc.bounces, to); diff != "" {
			t.Errorf("%s: bounces (-want +got):\n%s", tc.name, diff)
		}
	}
	if err := send(c, mailWith("X-PM-Metadata-send_key: lost/1", "X-PM-Metadata-k: "+strings.Repeat("v", 81))); err != nil {
		t.Fatal(err)
	}
	if _, ok := s.Lookup("lost/1"); ok {
		t.Error("Lookup found a mail whose metadata is over the limits")
	}
}

func TestPostmarkSMTPKeepsMailsOnDisk(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "mails")
	s := start(t, PostmarkSMTPConfig{Dir: dir})
	s.Suppress("lifecycle", "ann@acme.test")
	files := func() []string {
		t.Helper()
		names, err := filepath.Glob(filepath.Join(dir, "*.eml"))
		if err != nil {
			t.Fatal(err)
		}
		return names
	}

	c := login(t, s)
	if err := send(c, testMail); err != nil {
		t.Fatal(err)
	}
	if got := files(); len(got) != 1 {
		t.Fatalf("files after the first mail: %v, want one", got)
	}

	// Accepted, and the reply gets lost: the client cannot know, the folder
	// does.
	s.FailNext(Fault{At: AtReply, Store: true, Drop: true})
	if err := send(c, mailWith("X-PM-Metadata-send_key: lost/reply")); err == nil {
		t.Error("send = nil, want an error for the lost reply")
	}
	// Lost before it was accepted.
	c = login(t, s)
	s.FailNext(Fault{At: AtReply, Drop: true})
	if err := send(c, mailWith("X-PM-Metadata-send_key: lost/mail")); err == nil {
		t.Error("send = nil, want an error for the lost mail")
	}
	before := s.Mails()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	// What a crash in the middle of a mail leaves behind.
	unfinished := filepath.Join(dir, tempPrefix+"1")
	if err := os.WriteFile(unfinished, []byte("half a ma"), 0o600); err != nil {
		t.Fatal(err)
	}

	again := start(t, PostmarkSMTPConfig{Dir: dir, Token: s.Token})
	if diff := cmp.Diff(before, again.Mails(), cmpopts.EquateEmpty(), cmpopts.EquateApproxTime(0)); diff != "" {
		t.Errorf("mails after the restart (-before +after):\n%s", diff)
	}
	if diff := cmp.Diff(s.Bounces(), again.Bounces(), cmpopts.EquateApproxTime(0)); diff != "" || len(s.Bounces()) != 1 {
		t.Errorf("bounces after the restart, want one (-before +after):\n%s", diff)
	}
	for key, want := range map[string]bool{"run_1/welcome/1": true, "lost/reply": true, "lost/mail": false} {
		if _, ok := again.Lookup(key); ok != want {
			t.Errorf("Lookup(%q) after the restart = %v, want %v", key, ok, want)
		}
	}
	if _, err := os.Stat(unfinished); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the unfinished file is still there: %v", err)
	}
	if err := send(login(t, again), testMail); err != nil {
		t.Fatal(err)
	}
	if m := again.Mails(); len(m) != 3 || m[2].Seq != 3 || len(files()) != 3 {
		t.Errorf("after one more mail: %d mails, %d files, want 3 with the last numbered 3", len(m), len(files()))
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}

	broken := files()[1]
	if err := os.WriteFile(broken, []byte("From: somebody else\r\n\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := StartPostmarkSMTP(PostmarkSMTPConfig{Dir: dir}); err == nil || !strings.Contains(err.Error(), broken) {
		t.Errorf("start with a broken file = %v, want an error that names %s", err, broken)
	}
}

func TestPostmarkSMTPDiskFailureIsTemporary(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "mails")
	s := start(t, PostmarkSMTPConfig{Dir: dir})
	c := login(t, s)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	wantCode(t, send(c, testMail), 451)
	if got := s.Mails(); len(got) != 0 {
		t.Errorf("%d mails are listed, want none that is not on disk", len(got))
	}
}

func TestPostmarkSMTPLimits(t *testing.T) {
	t.Parallel()
	s := start(t, PostmarkSMTPConfig{})
	c := login(t, s)
	to := make([]string, maxRecipients+1)
	for i := range to {
		to[i] = fmt.Sprintf("ann+%d@acme.test", i)
	}
	wantCode(t, send(c, testMail, to...), 452)
	c = login(t, s)
	wantCode(t, send(c, mailWith()+strings.Repeat(strings.Repeat("x", 76)+"\r\n", maxMessageBytes/78+1)), 552)
	if got := len(s.Mails()); got != 0 {
		t.Errorf("%d mails were stored, want none", got)
	}
	if err := send(c, testMail); err != nil {
		t.Errorf("the session does not go on after a refused mail: %v", err)
	}
}

func TestPostmarkSMTPManyAtOnce(t *testing.T) {
	t.Parallel()
	const conns, each = 8, 10
	s := start(t, PostmarkSMTPConfig{Dir: t.TempDir()})
	var wg sync.WaitGroup
	for i := range conns {
		c := login(t, s)
		wg.Go(func() {
			for j := range each {
				if err := send(c, mailWith(fmt.Sprintf("X-PM-Metadata-send_key: %d/%d", i, j))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	mails := s.Mails()
	if len(mails) != conns*each {
		t.Fatalf("%d mails, want %d", len(mails), conns*each)
	}
	for i, m := range mails {
		if m.Seq != i+1 {
			t.Fatalf("mail %d has number %d", i, m.Seq)
		}
		if _, ok := s.Lookup(m.SendKey()); !ok {
			t.Errorf("Lookup(%q) finds nothing", m.SendKey())
		}
	}
}

func TestPostmarkSMTPEnds(t *testing.T) {
	t.Parallel()
	s := start(t, PostmarkSMTPConfig{})
	c := login(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Wait(ctx, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("Wait = %v, want the context's error", err)
	}
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if err := s.Close(); err != nil {
				t.Errorf("Close = %v", err)
			}
		})
	}
	wg.Wait()
	if err := c.Noop(); err == nil {
		t.Error("the connection outlived the server")
	}
	if _, err := net.Dial("tcp", s.Addr()); err == nil {
		t.Error("the server still listens")
	}
	if _, err := StartPostmarkSMTP(PostmarkSMTPConfig{StreamTokens: []StreamToken{{AccessKey: "a"}}}); err == nil {
		t.Error("start with half a stream token = nil, want an error")
	}
	if _, err := StartPostmarkSMTP(PostmarkSMTPConfig{Addr: "256.0.0.1:0"}); err == nil || !strings.Contains(err.Error(), "256.0.0.1") {
		t.Errorf("start on a bad address = %v, want an error that names it", err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := StartPostmarkSMTP(PostmarkSMTPConfig{Dir: file}); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("start on a file for a folder = %v, want an error that names it", err)
	}
}

// FuzzPostmarkMail: reading a mail never panics, changes no byte of it, and a
// mail comes back from its file as it was.
func FuzzPostmarkMail(f *testing.F) {
	f.Add([]byte(testMail))
	f.Add([]byte(mailWith()))
	f.Add([]byte(" folded first\r\nno colon\r\nX: \xff\r\n"))
	f.Add([]byte("Content-Type: multipart/mixed\r\n\r\n--b--\r\n"))
	f.Add([]byte("Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b"))
	f.Add([]byte("Content-Type: text/html\r\nContent-Transfer-Encoding: base64\r\n\r\n!"))
	f.Add([]byte("Content-Transfer-Encoding: uuencode\r\nSubject: =?x?q?y?=\r\n\r\n\n"))
	f.Add([]byte("X-PM-Message-Stream:\xaa\r\n\r\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		m := PostmarkMail{Seq: 1, ID: "id", At: time.Unix(1, 0).UTC(), From: "a@acme.test", To: []string{"b@acme.test"}, Raw: bytes.Clone(raw)}
		m.parse()
		if !bytes.Equal(m.Raw, raw) {
			t.Fatal("the raw mail changed")
		}
		for _, h := range m.Header {
			if h.Name == "" || strings.ContainsAny(h.Name, ": \t\r\n") {
				t.Errorf("header field name %q", h.Name)
			}
		}
		file, err := encodeSpool(m)
		if err != nil {
			t.Fatal(err)
		}
		got, err := decodeSpool(file)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(m, got, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("from its file (-want +got):\n%s", diff)
		}
	})
}
