package bench

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/postgres"
)

// postgresEnv names the server of the measurements, as in the tests of package
// postgres; schemaEnv the schema that a process of its own works on.
const (
	postgresEnv = "FLUXLY_TEST_POSTGRES"
	schemaEnv   = "BENCH_POSTGRES_SCHEMA"
)

// database is a schema of the server's, of the measurement's own.
type database struct {
	pool   *pgxpool.Pool
	schema string
}

// newDatabase makes a schema with all tables, which goes when the measurement
// ends.
func newDatabase(tb testing.TB) *database {
	tb.Helper()
	if os.Getenv(postgresEnv) == "" {
		tb.Skip("no Postgres: set " + postgresEnv + " to the URL of one, such as postgres://postgres@127.0.0.1:5432/test")
	}
	var name [6]byte
	_, err := rand.Read(name[:])
	must(err)
	d := &database{pool: newPool(tb), schema: "bench_" + hex.EncodeToString(name[:])}
	must(postgres.Migrate(tb.Context(), d.pool, postgres.Config{Schema: d.schema}))
	tb.Cleanup(func() {
		_, err := d.pool.Exec(context.Background(), "DROP SCHEMA "+pgx.Identifier{d.schema}.Sanitize()+" CASCADE")
		must(err)
	})
	return d
}

func newPool(tb testing.TB) *pgxpool.Pool {
	tb.Helper()
	cfg, err := pgxpool.ParseConfig(os.Getenv(postgresEnv))
	must(err)
	cfg.MaxConns = 24
	pool, err := pgxpool.NewWithConfig(tb.Context(), cfg)
	must(err)
	tb.Cleanup(pool.Close)
	return pool
}

// open opens a store, as a process of its own does.
func (d *database) open(tb testing.TB) *postgres.Store {
	tb.Helper()
	store, err := postgres.Open(tb.Context(), newPool(tb), postgres.Config{Schema: d.schema})
	must(err)
	tb.Cleanup(func() { must(store.Close()) })
	return store
}

// openedDatabase is the database that the parent process has made.
func openedDatabase(tb testing.TB, schema string) *database {
	tb.Helper()
	return &database{pool: newPool(tb), schema: schema}
}

// number asks for one figure; SCHEMA in the text is the schema's name.
func (d *database) number(tb testing.TB, sql string, args ...any) float64 {
	tb.Helper()
	var v *float64
	must(d.pool.QueryRow(tb.Context(), sql, args...).Scan(&v))
	if v == nil {
		return 0
	}
	return *v
}

// bytes is the size of a table with its indexes.
func (d *database) bytes(tb testing.TB, tables ...string) (sum float64) {
	tb.Helper()
	for _, t := range tables {
		sum += d.number(tb, "SELECT pg_total_relation_size($1)::float8", pgx.Identifier{d.schema, t}.Sanitize())
	}
	return sum
}

// packed writes tables anew, without gaps, and returns their sizes.
func (d *database) packed(tb testing.TB, tables ...string) map[string]float64 {
	tb.Helper()
	sizes := map[string]float64{}
	for _, t := range tables {
		_, err := d.pool.Exec(tb.Context(), "VACUUM FULL "+pgx.Identifier{d.schema, t}.Sanitize())
		must(err)
		sizes[t] = d.bytes(tb, t)
	}
	return sizes
}

// settle lets the server write and clean what is left over from filling.
func (d *database) settle(tb testing.TB) {
	tb.Helper()
	for _, t := range []string{"profiles", "identities", "events", "runs", "run_log", "sends", "memberships"} {
		_, err := d.pool.Exec(tb.Context(), "VACUUM ANALYZE "+pgx.Identifier{d.schema, t}.Sanitize())
		must(err)
	}
	// For quiet; not every role may.
	_, _ = d.pool.Exec(tb.Context(), "CHECKPOINT")
}

// statements is how many statements the server has finished in this database:
// transactions, since each that River or the store sends by itself is one.
func (d *database) statements(tb testing.TB) float64 {
	tb.Helper()
	return d.number(tb, "SELECT (xact_commit + xact_rollback)::float8 FROM pg_stat_database WHERE datname = current_database()")
}

// rest waits, as a watched process does.
func rest(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	<-timer.C
}

// many is how many things to measure with: BENCH_SLEEPERS of them where it is
// set, else few; asked says which.
func many(tb testing.TB, most int) (count int, asked bool) {
	tb.Helper()
	count, asked = sleepers(tb)
	if asked {
		count = min(count, most)
	}
	return count, asked
}

var _ fluxly.Store = (*postgres.Store)(nil)
