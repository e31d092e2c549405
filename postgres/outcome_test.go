package postgres

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net"
	"net/url"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/internal/cutproxy"
	"github.com/getfluxly/fluxly/internal/pgtest"
)

// throughProxy opens a store whose connection goes through a proxy, and has
// committed once, so that a COMMIT is known by the name of its statement.
func throughProxy(t *testing.T) (*Store, *cutproxy.Proxy, []byte) {
	t.Helper()
	schema := pgtest.Schema(t)
	u, err := url.Parse(pgtest.URL(t))
	if err != nil {
		t.Fatal(err)
	}
	target := u.Host
	if u.Port() == "" {
		target = net.JoinHostPort(u.Hostname(), "5432")
	}
	proxy := cutproxy.New(t, target)
	u.Host = proxy.Addr()
	q := u.Query()
	q.Set("sslmode", "disable")
	u.RawQuery = q.Encode()
	cfg, err := pgxpool.ParseConfig(u.String())
	if err != nil {
		t.Fatal(err)
	}
	cfg.MaxConns = 1
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	s, err := Open(t.Context(), pool, Config{Schema: schema, Migrate: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	if err := s.Update(t.Context(), func(tx fluxly.Tx) error { return tx.PutMeter(t.Context(), &fluxly.Meter{Name: "first"}) }); err != nil {
		t.Fatal(err)
	}
	// The name that the driver gives the statement.
	name := ""
	err = pool.AcquireFunc(t.Context(), func(c *pgxpool.Conn) error {
		return c.QueryRow(t.Context(), "SELECT name FROM pg_prepared_statements WHERE statement = 'COMMIT'", pgx.QueryExecModeExec).Scan(&name)
	})
	if err != nil {
		digest := sha256.Sum256([]byte("COMMIT"))
		name = "stmtcache_" + hex.EncodeToString(digest[:24])
	}
	return s, proxy, []byte(name)
}

func meterCount(t *testing.T, s *Store, name string) int {
	t.Helper()
	n := 0
	err := s.View(t.Context(), func(tx fluxly.Tx) error {
		m, err := tx.Meter(t.Context(), name)
		if m != nil {
			n = len(m.Used)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// count adds one use to a meter.
func count(ctx context.Context, calls *int) func(fluxly.Tx) error {
	return func(tx fluxly.Tx) error {
		*calls++
		m, err := tx.Meter(ctx, "m")
		if err != nil {
			return err
		}
		if m == nil {
			m = &fluxly.Meter{Name: "m"}
		}
		m.Used = append(m.Used, time.Unix(int64(*calls), 0))
		return tx.PutMeter(ctx, m)
	}
}

// A connection that is lost at the commit leaves no doubt, and no second row.
func TestLostCommit(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		moment cutproxy.Moment
		calls  int
	}{
		"before the server got it": {cutproxy.Before, 2},
		"after the server did it":  {cutproxy.After, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, proxy, pattern := throughProxy(t)
			proxy.Cut(pattern, c.moment, false)
			calls := 0
			if err := s.Update(t.Context(), count(t.Context(), &calls)); err != nil {
				t.Fatalf("Update: %v", err)
			}
			if calls != c.calls {
				t.Errorf("the function ran %d times, want %d", calls, c.calls)
			}
			if n := meterCount(t, s, "m"); n != 1 {
				t.Errorf("stored %d times, want once", n)
			}
		})
	}
}

func TestUnknownOutcome(t *testing.T) {
	t.Parallel()
	s, proxy, pattern := throughProxy(t)
	proxy.Cut(pattern, cutproxy.After, true)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	calls := 0
	err := s.Update(ctx, count(ctx, &calls))
	if !errors.Is(err, ErrOutcomeUnknown) {
		t.Errorf("Update: %v, want ErrOutcomeUnknown", err)
	}
	if e, ok := errors.AsType[*Error](err); !ok || e.Op != "commit" {
		t.Errorf("%#v, want an *Error of the commit", err)
	}
}
