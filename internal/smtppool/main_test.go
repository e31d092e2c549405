package smtppool

import (
	"context"
	"crypto/tls"
	"errors"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/getfluxly/fluxly/internal/smtptest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	from = "hello@acme.test"
	to   = "ann@customer.test"
	mail = "Subject: hi\r\n\r\nhello\r\n"
)

// newPool makes a pool for srv; change may be nil.
func newPool(t *testing.T, srv *smtptest.Server, change func(*Config)) *Pool {
	t.Helper()
	cfg := Config{
		Addr: srv.Addr, TLS: &tls.Config{RootCAs: srv.CA.Pool}, Username: "token", Password: "token",
		CommandTimeout: 5 * time.Second, BackoffMin: time.Millisecond, BackoffMax: 4 * time.Millisecond,
	}
	if change != nil {
		change(&cfg)
	}
	p, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := p.Close(ctx); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return p
}

// send sends the standard mail and returns the failure, nil when accepted.
func send(t *testing.T, p *Pool) *Error {
	t.Helper()
	_, err := p.Send(t.Context(), from, to, []byte(mail))
	return failure(t, err)
}

func failure(t *testing.T, err error) *Error {
	t.Helper()
	if err == nil {
		return nil
	}
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("error %T is no *Error: %v", err, err)
	}
	return e
}

// want is what a failure must be; its zero fields are not compared, other
// than Outcome and Account.
func want(t *testing.T, got *Error, outcome Outcome, phase string, reason Reason, account bool) {
	t.Helper()
	if got == nil {
		t.Fatalf("accepted, want outcome %d at %s", outcome, phase)
	}
	if got.Outcome != outcome || got.Phase != phase || got.Reason != reason || got.Account != account {
		t.Fatalf("outcome %d phase %s reason %d account %t, want %d %s %d %t: %v",
			got.Outcome, got.Phase, got.Reason, got.Account, outcome, phase, reason, account, got)
	}
}

// verb is the command's first word.
func verb(command string) string {
	v, _, _ := strings.Cut(command, " ")
	return v
}
