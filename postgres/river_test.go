package postgres

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"

	"github.com/getfluxly/fluxly/fluxlytest"
	"github.com/getfluxly/fluxly/internal/pgtest"
)

// Without notifications, as behind a PgBouncer that pools transactions.
func TestPollOnly(t *testing.T) {
	t.Parallel()
	s := openIn(t, pgtest.Schema(t), func(c *Config) { c.PollOnly = true })
	sender := &fluxlytest.FakeSender{}
	e := newEngine(t, s, sender, time.Second)
	start(t, e.Run)
	signUp(t, e, 0, 3)
	awaitMails(t, 3, sender)
}

// A transaction of the program's own inserts a tick of its own, with what it
// makes due in it, through pgx and through database/sql.
func TestCallersTransaction(t *testing.T) {
	t.Parallel()
	s := openIn(t, pgtest.Schema(t))
	w := newFakeWorker(s)
	w.start(t)
	far := time.Now().Add(24 * time.Hour)
	putRuns(t, s, far, "pgx", "sql")
	const move = "UPDATE fluxly.runs SET due_at = $1 WHERE id = $2"

	due := time.Now().Add(2 * time.Second)
	tx, err := s.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }()
	if _, err := tx.Exec(t.Context(), s.sql(move), due, "pgx"); err != nil {
		t.Fatal(err)
	}
	if err := s.jobs.insert(t.Context(), tx, &notes{ticks: []time.Time{due}}); err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}

	db, err := sql.Open("pgx", pgtest.URL(t))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	other, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Rollback() }()
	if _, err := other.ExecContext(t.Context(), s.sql(move), due, "sql"); err != nil {
		t.Fatal(err)
	}
	if err := s.jobs.insertSQL(t.Context(), other, &notes{ticks: []time.Time{due}}); err != nil {
		t.Fatal(err)
	}
	if err := other.Commit(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "both handed out", func() bool { return w.has("pgx") && w.has("sql") })
	if d := time.Since(due); d > 10*time.Second {
		t.Errorf("handed out %s after their time, so perhaps by a sweep", d)
	}
}

// Clients that cannot do the work are refused when the store opens.
func TestClientsRefused(t *testing.T) {
	t.Parallel()
	pool := pgtest.Pool(t)
	schema := pgtest.Schema(t)
	if err := Migrate(t.Context(), pool, Config{Schema: schema}); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*river.Config){
		"no queues":   func(c *river.Config) { c.Queues = nil },
		"no election": func(c *river.Config) { c.LeaderElectionDisabled = true },
	} {
		_, workers := riverOf(t, pool, schema)
		cfg := &river.Config{
			Schema: schema, Workers: workers, Queues: map[string]river.QueueConfig{"own": {MaxWorkers: 1}},
			Logger: Config{}.withDefaults().Logger,
		}
		change(cfg)
		client, err := river.NewClient(riverpgxv5.New(pool), cfg)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Open(t.Context(), pool, Config{Schema: schema, River: client, Workers: workers}); err == nil {
			t.Errorf("%s: no error", name)
		} else {
			t.Logf("%s: %v", name, err)
		}
	}
	if _, err := Open(t.Context(), pool, Config{Schema: schema, Workers: river.NewWorkers()}); err == nil {
		t.Error("workers without a client: no error")
	}
}

// A client whose tables are not there, or are old, is refused, whether it would
// work or only add jobs.
func TestClientWithoutTables(t *testing.T) {
	t.Parallel()
	pool, schema, jobs := pgtest.Pool(t), pgtest.Schema(t), pgtest.Schema(t)
	if err := Migrate(t.Context(), pool, Config{Schema: schema}); err != nil {
		t.Fatal(err)
	}
	open := func() error {
		client, _ := riverOf(t, pool, jobs)
		s, err := Open(t.Context(), pool, Config{Schema: schema, River: client})
		if err == nil {
			_ = s.Close()
		}
		return err
	}
	refused := func(what string) {
		t.Helper()
		if err := open(); !errors.Is(err, ErrMigrate) || !strings.Contains(err.Error(), jobs) || !strings.Contains(err.Error(), "river migrate-up") {
			t.Errorf("%s: %v, want ErrMigrate, the schema and River's own migration", what, err)
		}
	}
	refused("no schema")
	if _, err := pool.Exec(t.Context(), "CREATE SCHEMA "+jobs); err != nil {
		t.Fatal(err)
	}
	refused("no tables")
	if err := migrateRiver(t.Context(), pool, Config{Schema: jobs}.withDefaults()); err != nil {
		t.Fatal(err)
	}
	if err := open(); err != nil {
		t.Errorf("all there: %v", err)
	}
	if _, err := pool.Exec(t.Context(), "DELETE FROM "+jobs+".river_migration WHERE version = (SELECT max(version) FROM "+jobs+".river_migration)"); err != nil {
		t.Fatal(err)
	}
	refused("old tables")
}

func TestQueueNames(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		schema string
		shared bool
		want   string
	}{
		{"fluxly", true, "fluxly_send"},
		{"staging", false, "fluxly_send"},
		{"staging", true, "fluxly_staging_send"},
		{"_a__b_", true, "fluxly_a_b_1d2hzyd_send"}, // and not as that of a_b
		{"a_b", true, "fluxly_a_b_send"},
	} {
		if got := newQueueNames(c.schema, c.shared).send; got != c.want {
			t.Errorf("%q, shared %v: %q, want %q", c.schema, c.shared, got, c.want)
		}
	}
}

// Where a program's own River is, no store is made without its client: its
// tables would be migrated without asking.
func TestForeignRiver(t *testing.T) {
	t.Parallel()
	pool := pgtest.Pool(t)
	schema := pgtest.Schema(t)
	if _, err := pool.Exec(t.Context(), "CREATE SCHEMA "+schema); err != nil {
		t.Fatal(err)
	}
	if err := migrateRiver(t.Context(), pool, Config{Schema: schema}.withDefaults()); err != nil {
		t.Fatal(err)
	}
	want := func(what string, err error) {
		t.Helper()
		var refused *OpenError
		if !errors.As(err, &refused) || !strings.Contains(err.Error(), "Config.River") {
			t.Errorf("%s: %v, want an OpenError that names Config.River", what, err)
		}
	}
	want("Migrate", Migrate(t.Context(), pool, Config{Schema: schema}))
	_, err := Open(t.Context(), pool, Config{Schema: schema, Migrate: true})
	want("Open with Migrate", err)
	if n, err := version(t.Context(), pool, schema); n != 0 || err != nil {
		t.Errorf("the schema has version %d, %v", n, err)
	}
	client, workers := riverOf(t, pool, schema)
	s, err := Open(t.Context(), pool, Config{Schema: schema, Migrate: true, River: client, Workers: workers})
	if err != nil {
		t.Fatalf("with the client handed over: %v", err)
	}
	_ = s.Close()
}
