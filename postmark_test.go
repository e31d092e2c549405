package fluxly

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

const postmarkTestToken = "11111111-2222-3333-4444-555555555555"

// fakePostmark answers requests with its handler and keeps them.
type fakePostmark struct {
	*httptest.Server
	mu       sync.Mutex
	requests []fakeRequest
}

type fakeRequest struct {
	Line   string
	Header http.Header
	Body   string
}

func newFakePostmark(t *testing.T, h func(w http.ResponseWriter, r *http.Request, n int)) *fakePostmark {
	t.Helper()
	f := &fakePostmark{}
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		f.mu.Lock()
		f.requests = append(f.requests, fakeRequest{r.Method + " " + r.URL.RequestURI(), r.Header, string(body)})
		n := len(f.requests)
		f.mu.Unlock()
		r.Body = io.NopCloser(bytes.NewReader(body))
		h(w, r, n)
	}))
	t.Cleanup(f.Close)
	return f
}

// postmarkAnswer gives the same reply to each request.
func postmarkAnswer(status int, body string) func(http.ResponseWriter, *http.Request, int) {
	return func(w http.ResponseWriter, _ *http.Request, _ int) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func (f *fakePostmark) seen() []fakeRequest {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.requests
}

func (f *fakePostmark) sender(t *testing.T, change ...func(*PostmarkConfig)) *Postmark {
	t.Helper()
	cfg := PostmarkConfig{ServerToken: postmarkTestToken, MessageStream: "lifecycle", BaseURL: f.URL}
	for _, c := range change {
		c(&cfg)
	}
	p, err := NewPostmark(cfg)
	if err != nil {
		t.Fatal(err)
	}
	p.api.wait = func(int) time.Duration { return 0 }
	t.Cleanup(func() { _ = p.Close() })
	return p
}

const okReply = `{"To":"ann@example.com","SubmittedAt":"2026-03-01T04:30:01.1234567-05:00","MessageID":"0a129aee-e1cd-480d-b08d-4f48548ff48d","ErrorCode":0,"Message":"OK"}`

func TestPostmarkRequest(t *testing.T) {
	t.Parallel()
	tests := map[string]func() *Message{
		"full": func() *Message {
			m := sampleMessage()
			m.From = `"Größe & Maß, GmbH" <hallo@größe.example>`
			m.ReplyTo = `"The \"Desk\"" <desk@acme.test>`
			m.HTML = "<p>Hello & welcome, <b>Ann</b></p>\n<a href=\"{{{ pm:unsubscribe }}}\">leave</a>"
			m.MessageID = "mine@acme.test"
			m.Headers = []Header{{"List-Unsubscribe", "<https://acme.test/u/1>"}, {"List-Unsubscribe-Post", "List-Unsubscribe=One-Click"}}
			m.TrackOpens, m.TrackLinks = OpensUntracked, LinksHTMLAndText
			return m
		},
		"least": func() *Message {
			return &Message{From: "hello@acme.test", To: "ann@example.com", Subject: "Hi", Text: "Hello\n"}
		},
	}
	for name, build := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFakePostmark(t, postmarkAnswer(200, okReply))
			got, err := f.sender(t).Send(t.Context(), build())
			if err != nil {
				t.Fatal(err)
			}
			want := Receipt{ID: "0a129aee-e1cd-480d-b08d-4f48548ff48d", Reply: "OK", At: time.Date(2026, 3, 1, 9, 30, 1, 123456700, time.UTC)}
			got.At = got.At.UTC()
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
			reqs := f.seen()
			if len(reqs) != 1 || reqs[0].Line != "POST /email" {
				t.Fatalf("requests %v", reqs)
			}
			h := reqs[0].Header
			for k, v := range map[string]string{
				"X-Postmark-Server-Token": postmarkTestToken, "X-Postmark-Account-Token": "",
				"Accept": "application/json", "Content-Type": "application/json",
			} {
				if h.Get(k) != v {
					t.Errorf("header %s is %q, want %q", k, h.Get(k), v)
				}
			}
			var pretty bytes.Buffer
			if err := json.Indent(&pretty, []byte(reqs[0].Body), "", "  "); err != nil {
				t.Fatal(err)
			}
			wantGolden(t, "mail/postmark-"+name+".json", append(pretty.Bytes(), '\n'))
		})
	}
}

func TestPostmarkReplies(t *testing.T) {
	t.Parallel()
	refused := func(kind DeliveryKind, status, code int) DeliveryError {
		return DeliveryError{Kind: kind, Phase: "http", Code: status, ProviderCode: code}
	}
	account := func(e DeliveryError) DeliveryError { e.Account = true; return e }
	auth := func(e DeliveryError) DeliveryError { e.Account, e.Auth = true, true; return e }
	recipient := func(e DeliveryError) DeliveryError { e.Recipient = "ann@example.com"; return e }
	tests := map[string]struct {
		status int
		body   string
		id     string // of the receipt; "-" for one without
		want   DeliveryError
	}{
		"ok":                    {status: 200, body: okReply, id: "0a129aee-e1cd-480d-b08d-4f48548ff48d"},
		"test token":            {status: 200, body: `{"ErrorCode":0,"Message":"Test job accepted","MessageID":"b"}`, id: "b"},
		"no code":               {status: 200, body: `{"Message":"Message accepted, but delivery may be delayed.","MessageID":"c"}`, id: "c"},
		"no code, no id":        {status: 200, body: `{"Message":"Message accepted, but delivery may be delayed."}`, id: "-"},
		"no To, odd types":      {status: 200, body: `{"To":7,"ErrorCode":"0","Message":"OK","MessageID":"d","SubmittedAt":12,"New":{}}`, id: "d"},
		"suppressed, as ok":     {status: 200, body: `{"ErrorCode":0,"Message":"Message OK, but will not deliver to these inactive addresses: ann@example.com","MessageID":"e"}`, want: recipient(refused(Permanent, 200, 406))},
		"suppressed":            {status: 422, body: `{"ErrorCode":406,"Message":"You tried to send to recipient(s) that have been marked as inactive. Found inactive addresses: ann@example.com. Inactive recipients are ..."}`, want: recipient(refused(Permanent, 422, 406))},
		"bad token":             {status: 401, body: `{"ErrorCode":10,"Message":"No Account or Server API tokens were supplied"}`, want: auth(refused(Permanent, 401, 10))},
		"401, no body":          {status: 401, want: auth(refused(Permanent, 401, 0))},
		"422, code 10":          {status: 422, body: `{"ErrorCode":10,"Message":"Bad or missing Server API token."}`, want: auth(refused(Permanent, 422, 10))},
		"foreign from":          {status: 422, body: `{"ErrorCode":400,"Message":"The 'From' address you supplied (x) is not a Sender Signature on your account."}`, want: account(refused(Permanent, 422, 400))},
		"from not confirmed":    {status: 422, body: `{"ErrorCode":401,"Message":"x"}`, want: account(refused(Permanent, 422, 401))},
		"bad address":           {status: 422, body: `{"ErrorCode":300,"Message":"Invalid 'To' address: 'x'."}`, want: refused(Permanent, 422, 300)},
		"credits":               {status: 422, body: `{"ErrorCode":405,"Message":"x"}`, want: account(refused(Permanent, 422, 405))},
		"pending":               {status: 422, body: `{"ErrorCode":412,"Message":"x"}`, want: account(refused(Permanent, 422, 412))},
		"no such stream":        {status: 422, body: `{"ErrorCode":1235,"Message":"The stream provided: 'x' does not exist on this server."}`, want: account(refused(Permanent, 422, 1235))},
		"allow-list":            {status: 422, body: `{"ErrorCode":1480,"Message":"x"}`, want: account(refused(Permanent, 422, 1480))},
		"code of tomorrow":      {status: 422, body: `{"ErrorCode":9999,"Message":"x"}`, want: refused(Permanent, 422, 9999)},
		"too large":             {status: 413, body: `<html>`, want: refused(Permanent, 413, 0)},
		"maintenance":           {status: 503, body: `{"ErrorCode":100,"Message":"x"}`, want: account(refused(Temporary, 503, 100))},
		"503 of a proxy":        {status: 503, body: `<html>`, want: refused(Unknown, 503, 0)},
		"500":                   {status: 500, body: `{"ErrorCode":101,"Message":"x"}`, want: refused(Unknown, 500, 101)},
		"504":                   {status: 504, want: refused(Unknown, 504, 0)},
		"429":                   {status: 429, body: `{"ErrorCode":429,"Message":"x"}`, want: account(refused(Temporary, 429, 429))},
		"redirect":              {status: 307, want: account(refused(Permanent, 307, 0))},
		"404":                   {status: 404, body: `not here`, want: account(refused(Permanent, 404, 0))},
		"422 of a proxy":        {status: 422, body: `<html>`, want: account(refused(Permanent, 422, 0))},
		"200 of a portal":       {status: 200, body: `<html>log in</html>`, want: refused(Unknown, 200, 0)},
		"200, empty":            {status: 200, want: refused(Unknown, 200, 0)},
		"200, empty object":     {status: 200, body: `{}`, want: refused(Unknown, 200, 0)},
		"200, array":            {status: 200, body: `[]`, want: refused(Unknown, 200, 0)},
		"200, error of an item": {status: 200, body: `{"ErrorCode":300,"Message":"x"}`, want: refused(Permanent, 200, 300)},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFakePostmark(t, func(w http.ResponseWriter, r *http.Request, n int) {
				w.Header().Set("Location", "/elsewhere")
				if tt.status == 429 {
					w.Header().Set("Retry-After", "60")
				}
				postmarkAnswer(tt.status, tt.body)(w, r, n)
			})
			m := sampleMessage()
			m.To = "Ann <ann@example.com>"
			got, err := f.sender(t).Send(t.Context(), m)
			if n := len(f.seen()); n != 1 {
				t.Errorf("%d requests, want 1", n)
			}
			if tt.id != "" {
				if err != nil || got.ID != strings.TrimPrefix(tt.id, "-") || got.At.IsZero() {
					t.Errorf("%+v, %v", got, err)
				}
				return
			}
			var de *DeliveryError
			if !errors.As(err, &de) {
				t.Fatalf("no DeliveryError but %+v, %v", got, err)
			}
			if got != (Receipt{}) || de.Text == "" || de.Host == "" {
				t.Errorf("receipt %+v with error %+v", got, de)
			}
			if tt.status == 429 && de.RetryAfter != time.Minute {
				t.Errorf("RetryAfter %v", de.RetryAfter)
			}
			if de.Account && de.Remedy == "" {
				t.Errorf("no remedy: %v", err)
			}
			have := DeliveryError{Kind: de.Kind, Account: de.Account, Auth: de.Auth, Phase: de.Phase, Code: de.Code, ProviderCode: de.ProviderCode, Recipient: de.Recipient}
			if diff := cmp.Diff(tt.want, have); diff != "" {
				t.Errorf("%v\n%s", err, diff)
			}
		})
	}
}

func TestPostmarkErrorIsClean(t *testing.T) {
	t.Parallel()
	f := newFakePostmark(t, postmarkAnswer(422, `{"ErrorCode":300,"Message":"bad\r\n\u001b[31m`+postmarkTestToken+` `+strings.Repeat("x", 5000)+`"}`))
	_, err := f.sender(t).Send(t.Context(), sampleMessage())
	if err == nil || strings.Contains(err.Error(), postmarkTestToken) || strings.ContainsAny(err.Error(), "\r\n\x1b") || len(err.Error()) > 1500 {
		t.Errorf("error %q", err)
	}
}

// postmarkHangUp closes the connection without an answer.
func postmarkHangUp(t *testing.T, w http.ResponseWriter, first string) {
	t.Helper()
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		t.Error(err)
		return
	}
	_, _ = io.WriteString(conn, first)
	_ = conn.Close()
}

func TestPostmarkLostReplies(t *testing.T) {
	t.Parallel()
	tests := map[string]func(w http.ResponseWriter, r *http.Request, n int){
		"closed": func(w http.ResponseWriter, _ *http.Request, _ int) { postmarkHangUp(t, w, "") },
		"cut short": func(w http.ResponseWriter, _ *http.Request, _ int) {
			postmarkHangUp(t, w, "HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{\"Err")
		},
		"no http": func(w http.ResponseWriter, _ *http.Request, _ int) {
			postmarkHangUp(t, w, "220 mail.example ESMTP\r\n")
		},
		"endless": func(w http.ResponseWriter, r *http.Request, _ int) {
			for r.Context().Err() == nil {
				if _, err := w.Write(bytes.Repeat([]byte(" "), 1<<16)); err != nil {
					return
				}
			}
		},
	}
	for name, h := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFakePostmark(t, h)
			p := f.sender(t)
			got, err := p.Send(t.Context(), sampleMessage())
			if !errors.Is(err, ErrUnknownOutcome) || got != (Receipt{}) {
				t.Errorf("%+v, %v", got, err)
			}
			if n := len(f.seen()); n != 1 {
				t.Errorf("%d requests: a mail that may have been taken was sent again", n)
			}
			if strings.Contains(fmt.Sprint(err), postmarkTestToken) {
				t.Errorf("token in %v", err)
			}
			results := p.SendBatch(t.Context(), []*Message{sampleMessage(), sampleMessage()})
			for _, r := range results {
				if !errors.Is(r.Err, ErrUnknownOutcome) {
					t.Errorf("batch: %+v", r)
				}
			}
			if n := len(f.seen()); n != 2 {
				t.Errorf("%d requests after a batch, want 2", n)
			}
		})
	}
}

// stuckTransport never answers. It says how far it got as net/http does.
type stuckTransport struct {
	traces, connects bool
	tries            int
}

func (s *stuckTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	s.tries++
	if trace := httptrace.ContextClientTrace(req.Context()); s.traces {
		trace.GetConn("api.postmarkapp.com:443")
		if s.connects {
			trace.GotConn(httptrace.GotConnInfo{})
		}
	}
	<-req.Context().Done()
	return nil, req.Context().Err()
}

func TestPostmarkSilence(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		transport stuckTransport
		deadline  time.Duration
		kind      DeliveryKind
		took      time.Duration
		tries     int
	}{
		"after the connection":           {stuckTransport{traces: true, connects: true}, 0, Unknown, defaultPostmarkTimeout, 1},
		"before the connection":          {stuckTransport{traces: true}, 0, Temporary, 3 * defaultPostmarkTimeout, 3},
		"nobody knows how far it got":    {stuckTransport{}, 0, Unknown, defaultPostmarkTimeout, 1},
		"after, the caller gives up":     {stuckTransport{traces: true, connects: true}, time.Second, Unknown, time.Second, 1},
		"before, the caller gives up":    {stuckTransport{traces: true}, time.Second, Temporary, time.Second, 1},
		"before, given up between tries": {stuckTransport{traces: true}, defaultPostmarkTimeout + time.Second, Temporary, defaultPostmarkTimeout + time.Second, 2},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				p, err := NewPostmark(PostmarkConfig{
					ServerToken: postmarkTestToken, MessageStream: "lifecycle", HTTPClient: &http.Client{Transport: &tt.transport},
				})
				if err != nil {
					t.Fatal(err)
				}
				p.api.wait = func(int) time.Duration { return 0 }
				ctx := t.Context()
				if tt.deadline > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, tt.deadline)
					defer cancel()
				}
				start := time.Now()
				_, err = p.Send(ctx, sampleMessage())
				var de *DeliveryError
				if !errors.As(err, &de) || de.Kind != tt.kind {
					t.Fatalf("%v, want %s", err, tt.kind)
				}
				if tt.deadline > 0 != errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("cause %v", de.Err)
				}
				if de.Account != (tt.deadline == 0 && tt.kind == Temporary) {
					t.Errorf("account %t: %v", de.Account, err)
				}
				if d := time.Since(start); d != tt.took || tt.transport.tries != tt.tries {
					t.Errorf("%d tries in %v, want %d in %v", tt.transport.tries, d, tt.tries, tt.took)
				}
			})
		})
	}
}

func TestPostmarkNotSent(t *testing.T) {
	t.Parallel()
	t.Run("refused connection", func(t *testing.T) {
		t.Parallel()
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addr := l.Addr().String()
		_ = l.Close()
		tries := 0
		p, err := NewPostmark(PostmarkConfig{ServerToken: postmarkTestToken, MessageStream: "lifecycle", BaseURL: "http://" + addr})
		if err != nil {
			t.Fatal(err)
		}
		p.api.wait = func(int) time.Duration { tries++; return 0 }
		_, err = p.Send(t.Context(), sampleMessage())
		var de *DeliveryError
		if !errors.As(err, &de) || de.Kind != Temporary || !de.Account || de.Phase != "dial" || de.Remedy == "" || de.Host != addr {
			t.Errorf("%+v", err)
		}
		if tries != postmarkRetries {
			t.Errorf("%d repeats, want %d: nothing was sent", tries, postmarkRetries)
		}
	})
	t.Run("context ended before", func(t *testing.T) {
		t.Parallel()
		f := newFakePostmark(t, postmarkAnswer(200, okReply))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		p := f.sender(t)
		_, err := p.Send(ctx, sampleMessage())
		if !errors.Is(err, ErrTemporary) || !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
		for _, r := range p.SendBatch(ctx, []*Message{sampleMessage()}) {
			if !errors.Is(r.Err, ErrTemporary) {
				t.Errorf("batch: %v", r.Err)
			}
		}
		if n := len(f.seen()); n != 0 {
			t.Errorf("%d requests", n)
		}
	})
	t.Run("unknown certificate", func(t *testing.T) {
		t.Parallel()
		srv := httptest.NewUnstartedServer(http.NotFoundHandler())
		srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
		srv.StartTLS()
		t.Cleanup(srv.Close)
		p, err := NewPostmark(PostmarkConfig{ServerToken: postmarkTestToken, MessageStream: "lifecycle", BaseURL: srv.URL})
		if err != nil {
			t.Fatal(err)
		}
		_, err = p.Send(t.Context(), sampleMessage())
		var de *DeliveryError
		if !errors.As(err, &de) || de.Kind != Permanent || !de.Account || de.Phase != "dial" {
			t.Errorf("%+v", err)
		}
	})
	t.Run("429, then taken", func(t *testing.T) {
		t.Parallel()
		f := newFakePostmark(t, func(w http.ResponseWriter, r *http.Request, n int) {
			if n == 1 {
				postmarkAnswer(429, `{"ErrorCode":429,"Message":"slow down"}`)(w, r, n)
				return
			}
			postmarkAnswer(200, okReply)(w, r, n)
		})
		if _, err := f.sender(t).Send(t.Context(), sampleMessage()); err != nil {
			t.Error(err)
		}
		reqs := f.seen()
		if len(reqs) != 2 || reqs[0].Body != reqs[1].Body {
			t.Errorf("requests %v", reqs)
		}
	})
	t.Run("429 each time", func(t *testing.T) {
		t.Parallel()
		f := newFakePostmark(t, postmarkAnswer(429, `{"ErrorCode":429,"Message":"slow down"}`))
		_, err := f.sender(t).Send(t.Context(), sampleMessage())
		var de *DeliveryError
		if !errors.As(err, &de) || de.Kind != Temporary || !de.Account || de.Text != "slow down" {
			t.Errorf("%+v", err)
		}
		if n := len(f.seen()); n != 1+postmarkRetries {
			t.Errorf("%d requests, want %d", n, 1+postmarkRetries)
		}
	})
	t.Run("refused before the wire", func(t *testing.T) {
		t.Parallel()
		f := newFakePostmark(t, postmarkAnswer(200, okReply))
		p := f.sender(t)
		for name, change := range map[string]func(*Message){
			"to":           func(m *Message) { m.To = "a@x.example, b@x.example" },
			"not UTF-8":    func(m *Message) { m.Text = "\xff" },
			"10 MB":        func(m *Message) { m.Text = strings.Repeat("\x01", 4_000_000) },
			"unknown link": func(m *Message) { m.TrackLinks = "All" },
		} {
			m := sampleMessage()
			change(m)
			_, err := p.Send(t.Context(), m)
			var de *DeliveryError
			if !errors.As(err, &de) || de.Kind != Permanent || de.Account || de.Phase != "check" || !errors.Is(err, ErrInvalid) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if n := len(f.seen()); n != 0 {
			t.Errorf("%d requests", n)
		}
	})
}

func TestPostmarkBatch(t *testing.T) {
	t.Parallel()
	// Takes each mail, and refuses those whose subject is a number: the code.
	take := func(w http.ResponseWriter, r *http.Request, _ int) {
		var mails []postmarkMail
		if err := json.NewDecoder(r.Body).Decode(&mails); err != nil {
			t.Error(err)
		}
		items := make([]string, len(mails))
		for i, m := range mails {
			items[i] = fmt.Sprintf(`{"ErrorCode":0,"Message":"OK","MessageID":"id-%s","SubmittedAt":"2026-03-01T09:30:00Z"}`, m.Metadata["n"])
			if m.Subject == "406" {
				items[i] = `{"ErrorCode":406,"Message":"You tried to send to a recipient that has been marked as inactive. "}`
			}
		}
		_, _ = io.WriteString(w, "["+strings.Join(items, ",")+"]")
	}
	messages := func(n int) []*Message {
		ms := make([]*Message, n)
		for i := range ms {
			ms[i] = sampleMessage()
			ms[i].SendKey = fmt.Sprint("run/", i)
			ms[i].Metadata = map[string]string{"n": strconv.Itoa(i)}
		}
		return ms
	}
	t.Run("chunks, each with its own result", func(t *testing.T) {
		t.Parallel()
		f := newFakePostmark(t, take)
		ms := messages(1003)
		ms[3].Subject = "406"
		ms[4].To = "nobody"
		results := f.sender(t).SendBatch(t.Context(), ms)
		for i, r := range results {
			var de *DeliveryError
			switch i {
			case 3:
				if !errors.As(r.Err, &de) || de.Kind != Permanent || de.ProviderCode != 406 || de.Recipient != "ann@example.com" {
					t.Errorf("3: %+v", r)
				}
			case 4:
				if !errors.As(r.Err, &de) || de.Phase != "check" {
					t.Errorf("4: %+v", r)
				}
			default:
				if r.Err != nil || r.Receipt.ID != fmt.Sprint("id-", i) {
					t.Fatalf("%d: %+v", i, r)
				}
			}
		}
		if n := len(f.seen()); n != 3 || f.seen()[0].Line != "POST /email/batch" {
			t.Errorf("%d requests, want 3", n)
		}
	})
	t.Run("account failure stops the rest", func(t *testing.T) {
		t.Parallel()
		f := newFakePostmark(t, postmarkAnswer(401, `{"ErrorCode":10,"Message":"Bad token"}`))
		for i, r := range f.sender(t).SendBatch(t.Context(), messages(501)) {
			if !errors.Is(r.Err, ErrAuth) {
				t.Fatalf("%d: %+v", i, r)
			}
		}
		if n := len(f.seen()); n != 1 {
			t.Errorf("%d requests, want 1", n)
		}
	})
	t.Run("refused whole, then one by one", func(t *testing.T) {
		t.Parallel()
		f := newFakePostmark(t, func(w http.ResponseWriter, r *http.Request, n int) {
			if r.URL.Path == "/email/batch" {
				postmarkAnswer(422, `{"ErrorCode":300,"Message":"Invalid email request"}`)(w, r, n)
				return
			}
			postmarkAnswer(200, okReply)(w, r, n)
		})
		for i, r := range f.sender(t).SendBatch(t.Context(), messages(3)) {
			if r.Err != nil {
				t.Errorf("%d: %+v", i, r)
			}
		}
		if n := len(f.seen()); n != 4 {
			t.Errorf("%d requests, want 4", n)
		}
	})
	t.Run("fewer results than mails", func(t *testing.T) {
		t.Parallel()
		f := newFakePostmark(t, postmarkAnswer(200, "["+okReply+"]"))
		for i, r := range f.sender(t).SendBatch(t.Context(), messages(2)) {
			if !errors.Is(r.Err, ErrUnknownOutcome) {
				t.Errorf("%d: %+v", i, r)
			}
		}
	})
	t.Run("none", func(t *testing.T) {
		t.Parallel()
		f := newFakePostmark(t, take)
		if r := f.sender(t).SendBatch(t.Context(), nil); len(r) != 0 || len(f.seen()) != 0 {
			t.Errorf("%v", r)
		}
	})
}

const streamsReply = `{"TotalCount":4,"MessageStreams":[
	{"ID":"outbound","ServerID":7,"Name":"Default","MessageStreamType":"Transactional","ArchivedAt":null,"SubscriptionManagementConfiguration":{"UnsubscribeHandlingType":"none"}},
	{"ID":"lifecycle","ServerID":7,"Name":"Lifecycle","MessageStreamType":"Broadcasts","SubscriptionManagementConfiguration":{"UnsubscribeHandlingType":"Postmark"}},
	{"ID":"inbound","ServerID":7,"Name":"In","MessageStreamType":"Inbound"},
	{"ID":"old","ServerID":7,"Name":"Old","MessageStreamType":"Broadcasts","ArchivedAt":"2026-01-01T00:00:00Z"}]}`

func TestPostmarkLookup(t *testing.T) {
	t.Parallel()
	const none = `{"TotalCount":0,"Messages":[]}`
	found := func(key string) string {
		return `{"TotalCount":1,"Messages":[{"Tag":"welcome","MessageID":"m-1","Status":"Sent","ReceivedAt":"2026-03-01T09:30:00Z","Metadata":{"Send_Key":"` + key + `","n":1}}]}`
	}
	want := Receipt{ID: "m-1", Reply: "Sent", At: time.Date(2026, 3, 1, 9, 30, 0, 0, time.UTC)}
	tests := map[string]struct {
		streams map[string]string // reply by stream
		status  int
		want    Receipt
		ok, bad bool
		lines   []string
	}{
		"on the sender's stream": {
			streams: map[string]string{"lifecycle": found("run 1/a&b")}, want: want, ok: true,
			lines: []string{"GET /messages/outbound?count=10&messagestream=lifecycle&metadata_send_key=run+1%2Fa%26b&offset=0"},
		},
		"on another stream": {
			streams: map[string]string{"outbound": found("run 1/a&b")}, want: want, ok: true,
			lines: []string{
				"GET /messages/outbound?count=10&messagestream=lifecycle&metadata_send_key=run+1%2Fa%26b&offset=0",
				"GET /message-streams?IncludeArchivedStreams=true&MessageStreamType=All",
				"GET /messages/outbound?count=10&messagestream=outbound&metadata_send_key=run+1%2Fa%26b&offset=0",
			},
		},
		"nowhere":        {},
		"filter ignored": {streams: map[string]string{"lifecycle": found("run/other")}, bad: true},
		"no json":        {streams: map[string]string{"lifecycle": "<html>"}, bad: true},
		"not allowed":    {status: 401, bad: true},
		"out of order":   {status: 500, bad: true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFakePostmark(t, func(w http.ResponseWriter, r *http.Request, n int) {
				switch {
				case tt.status != 0:
					postmarkAnswer(tt.status, `{"ErrorCode":1,"Message":"no"}`)(w, r, n)
				case r.URL.Path == "/message-streams":
					postmarkAnswer(200, streamsReply)(w, r, n)
				default:
					body, ok := tt.streams[r.URL.Query().Get("messagestream")]
					if !ok {
						body = none
					}
					postmarkAnswer(200, body)(w, r, n)
				}
			})
			got, ok, err := f.sender(t).Lookup(t.Context(), "run 1/a&b")
			if ok != tt.ok || (err != nil) != tt.bad {
				t.Fatalf("%+v, %v, %v", got, ok, err)
			}
			if errors.Is(err, ErrUnknownOutcome) {
				t.Errorf("a question leaves no mail unknown: %v", err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
			var lines []string
			for _, r := range f.seen() {
				lines = append(lines, r.Line)
				if strings.Contains(r.Line, "messagestream=inbound") {
					t.Error("asked an inbound stream")
				}
			}
			if diff := cmp.Diff(tt.lines, lines); tt.lines != nil && diff != "" {
				t.Error(diff)
			}
		})
	}
	t.Run("repeated when the network fails", func(t *testing.T) {
		t.Parallel()
		f := newFakePostmark(t, func(w http.ResponseWriter, r *http.Request, n int) {
			switch n {
			case 1:
				postmarkHangUp(t, w, "")
			case 2:
				postmarkAnswer(503, "")(w, r, n)
			default:
				postmarkAnswer(200, found("k"))(w, r, n)
			}
		})
		if got, ok, err := f.sender(t).Lookup(t.Context(), "k"); !ok || err != nil || got != want {
			t.Errorf("%+v, %v, %v", got, ok, err)
		}
	})
}

func TestPostmarkVerify(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		stream        string
		transactional bool
		want          string // in the error; empty for none
	}{
		"broadcast":                 {stream: "lifecycle"},
		"transactional":             {stream: "outbound", want: "Broadcast"},
		"transactional, as meant":   {stream: "outbound", transactional: true},
		"not there":                 {stream: "nope", want: "lifecycle (Broadcasts)"},
		"inbound":                   {stream: "inbound", want: "cannot send"},
		"archived":                  {stream: "old", want: "archived"},
		"the token is not accepted": {stream: "lifecycle", want: "account token"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFakePostmark(t, func(w http.ResponseWriter, r *http.Request, n int) {
				switch {
				case strings.Contains(name, "token"):
					postmarkAnswer(401, `{"ErrorCode":10,"Message":"no"}`)(w, r, n)
				case r.URL.Path == "/server":
					postmarkAnswer(200, `{"ID":7,"Name":"Acme","ApiTokens":["`+postmarkTestToken+`"],"SmtpApiActivated":true,"DeliveryType":"Sandbox","EnableSmtpApiErrorHooks":false}`)(w, r, n)
				default:
					postmarkAnswer(200, streamsReply)(w, r, n)
				}
			})
			p := f.sender(t, func(c *PostmarkConfig) { c.MessageStream, c.Transactional = tt.stream, tt.transactional })
			err := p.Verify(t.Context())
			if tt.want == "" {
				if err != nil {
					t.Error(err)
				}
			} else if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), postmarkTestToken) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
			for _, r := range f.seen() {
				if !strings.HasPrefix(r.Line, "GET ") {
					t.Errorf("%s: a check sends nothing", r.Line)
				}
			}
			if name != "broadcast" {
				return
			}
			s, err := p.Server(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			st, ok := s.Stream("lifecycle")
			if s.ID != 7 || s.Name != "Acme" || !s.Sandbox || !s.SMTP || s.SMTPErrorHooks || len(s.Streams) != 4 || !ok || !st.Broadcast() || st.Unsubscribe != "Postmark" {
				t.Errorf("%+v", s)
			}
		})
	}
}

func TestNewPostmarkRefuses(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		change func(*PostmarkConfig)
		field  string
	}{
		"no token":        {func(c *PostmarkConfig) { c.ServerToken = "" }, "ServerToken"},
		"line end":        {func(c *PostmarkConfig) { c.ServerToken += "\n" }, "ServerToken"},
		"SMTP token":      {func(c *PostmarkConfig) { c.ServerToken = "PM-B-broadcast-x" }, "ServerToken"},
		"no token shape":  {func(c *PostmarkConfig) { c.ServerToken = "1111SECRET" }, "ServerToken"},
		"GetFluxly token": {func(c *PostmarkConfig) { c.ServerToken = "gflux_secret_live_1111" }, "ServerToken"},
		"no stream":       {func(c *PostmarkConfig) { c.MessageStream = "" }, "MessageStream"},
		"stream":          {func(c *PostmarkConfig) { c.MessageStream = "My Stream" }, "stream"},
		"plain http":      {func(c *PostmarkConfig) { c.BaseURL = "http://api.postmarkapp.com" }, "BaseURL"},
		"no host":         {func(c *PostmarkConfig) { c.BaseURL = "api.postmarkapp.com" }, "BaseURL"},
		"password in URL": {func(c *PostmarkConfig) { c.BaseURL = "https://u:p@api.postmarkapp.com" }, "BaseURL"},
		"timeout":         {func(c *PostmarkConfig) { c.Timeout = -1 }, "Timeout"},
		"connections":     {func(c *PostmarkConfig) { c.MaxConns = -1 }, "MaxConns"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := PostmarkConfig{ServerToken: postmarkTestToken, MessageStream: "lifecycle"}
			tt.change(&cfg)
			_, err := NewPostmark(cfg)
			var fe *FieldError
			if !errors.As(err, &fe) || fe.Field != tt.field || strings.Contains(err.Error(), "1111") || strings.Contains(err.Error(), "PM-B") {
				t.Errorf("%v", err)
			}
		})
	}
}

// Postmark's token for trying out, which is no GUID, is taken.
func TestNewPostmarkTakesTryToken(t *testing.T) {
	t.Parallel()
	p, err := NewPostmark(PostmarkConfig{ServerToken: "POSTMARK_API_TEST", MessageStream: "lifecycle"})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

func TestPostmarkConfigHidesToken(t *testing.T) {
	t.Parallel()
	cfg := PostmarkConfig{ServerToken: postmarkTestToken, MessageStream: "lifecycle"}
	p, err := NewPostmark(cfg)
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "cfg", cfg, "ptr", &cfg, "sender", p)
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "cfg", cfg, "ptr", &cfg)
	asJSON, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	out := log.String() + string(asJSON)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x"} {
		out += fmt.Sprintf(verb, cfg) + fmt.Sprintf(verb, &cfg) + fmt.Sprintf(verb, p)
	}
	if strings.Contains(out, postmarkTestToken) || strings.Contains(out, fmt.Sprintf("%x", postmarkTestToken)) {
		t.Errorf("token in %s", out)
	}
	if !strings.Contains(out, "lifecycle") {
		t.Error("nothing of the settings is shown")
	}
}

// Whatever comes back is either a receipt or an error that says what to do with
// the mail, clean enough for a log.
func FuzzPostmarkReply(f *testing.F) {
	for _, s := range []string{okReply, `{}`, `[]`, `{"ErrorCode":406,"Message":"x"}`, `{"ErrorCode":"1e9"}`, `<html>`, `{"Message":"Message accepted, but"}`, `null`, `{"ErrorCode":-1,"Message":"\u0007"}`} {
		f.Add(200, s)
		f.Add(422, s)
	}
	p, err := NewPostmark(PostmarkConfig{ServerToken: postmarkTestToken, MessageStream: "lifecycle"})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, status int, body string) {
		reply := &postmarkReply{status: status, header: http.Header{}, body: []byte(body)}
		var e postmarkEnvelope
		known := reply.decode(&e) == nil
		var receipt Receipt
		var err error
		switch {
		case status < 200 || status > 299:
			err = p.api.refusal(reply, &e, known, true)
		case !known:
			err = p.api.unreadable(reply, errors.New("x"))
		default:
			receipt, err = p.api.outcome(reply, &e, "ann@example.com")
		}
		if err == nil {
			if receipt.At.IsZero() || e.code() != 0 || strings.ContainsAny(receipt.ID+receipt.Reply, "\r\n\x00") {
				t.Fatalf("%+v for %q", receipt, body)
			}
			return
		}
		var de *DeliveryError
		if !errors.As(err, &de) || receipt != (Receipt{}) || strings.ContainsAny(err.Error(), "\r\n\x00") || len(de.Text) > 1000 {
			t.Fatalf("%+v, %q for %q", receipt, err, body)
		}
		switch de.Kind {
		case Temporary, Permanent, Unknown:
		default:
			t.Fatalf("kind %q for %q", de.Kind, body)
		}
	})
}
