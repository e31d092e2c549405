// Package pgtest gives tests a PostgreSQL server: the one that the environment
// variable FLUXLY_TEST_POSTGRES names by its URL, such as
// postgres://postgres@127.0.0.1:5432/test. Without it they skip.
package pgtest

import (
	"context"
	"crypto/rand"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Variable is the environment variable that names the server.
const Variable = "FLUXLY_TEST_POSTGRES"

// URL returns the URL of the server, or skips the test.
func URL(tb testing.TB) string {
	tb.Helper()
	server := os.Getenv(Variable)
	if server == "" {
		tb.Skip(Variable + " is not set: no PostgreSQL server to test with")
	}
	return server
}

// Pool returns a pool of connections to the server, which is closed with the
// test, or skips it.
func Pool(tb testing.TB) *pgxpool.Pool {
	tb.Helper()
	return PoolOf(tb, URL(tb))
}

// PoolOf is Pool for the URL of another way to the server, such as a proxy.
func PoolOf(tb testing.TB, server string) *pgxpool.Pool {
	tb.Helper()
	cfg, err := pgxpool.ParseConfig(server)
	if err != nil {
		tb.Fatal(err)
	}
	// Many tests run at the same time, and a server has but so many
	// connections.
	cfg.MinConns, cfg.MaxConns = 0, 4
	pool, err := pgxpool.NewWithConfig(tb.Context(), cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(pool.Close)
	return pool
}

// Schema returns the name of a schema that no other test has. It is not made;
// what is in it in the end is dropped.
func Schema(tb testing.TB) string {
	tb.Helper()
	server := URL(tb)
	name := "test_" + strings.ToLower(rand.Text())[:16]
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		conn, err := pgx.Connect(ctx, server)
		if err != nil {
			tb.Errorf("drop schema %s: %v", name, err)
			return
		}
		defer func() { _ = conn.Close(ctx) }()
		if _, err := conn.Exec(ctx, "DROP SCHEMA IF EXISTS "+name+" CASCADE"); err != nil {
			tb.Errorf("drop schema %s: %v", name, err)
		}
	})
	return name
}

// WithoutTLS is [URL] for a driver that would insist on TLS.
func WithoutTLS(tb testing.TB) string {
	tb.Helper()
	u, err := url.Parse(URL(tb))
	if err != nil {
		tb.Fatal(err)
	}
	q := u.Query()
	q.Set("sslmode", "disable")
	u.RawQuery = q.Encode()
	return u.String()
}
