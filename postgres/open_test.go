package postgres

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/getfluxly/fluxly/internal/pgtest"
)

func TestOpenRefusesWhatIsNotThere(t *testing.T) {
	t.Parallel()
	pool, schema := pgtest.Pool(t), pgtest.Schema(t)
	_, err := Open(t.Context(), pool, Config{Schema: schema})
	if !errors.Is(err, ErrMigrate) {
		t.Errorf("Open of an empty schema: %v, want ErrMigrate", err)
	}
	if err := Migrate(t.Context(), pool, Config{Schema: schema}); err != nil {
		t.Fatal(err)
	}
	s, err := Open(t.Context(), pool, Config{Schema: schema})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	// A newer program has been here.
	if _, err := pool.Exec(t.Context(), fmt.Sprintf("INSERT INTO %s.schema_version (version) VALUES (%d)", schema, len(migrations))); err != nil {
		t.Fatal(err)
	}
	for _, migrate := range []bool{false, true} {
		if _, err := Open(t.Context(), pool, Config{Schema: schema, Migrate: migrate}); !errors.Is(err, ErrNewerVersion) {
			t.Errorf("Open of a newer schema: %v, want ErrNewerVersion", err)
		}
	}
}

func TestOpenRefusesNames(t *testing.T) {
	t.Parallel()
	pool := pgtest.Pool(t)
	for _, name := range []string{"Fluxly", "a b", `a"b`, "1a", strings.Repeat("a", 47), "a.b"} {
		_, err := Open(t.Context(), pool, Config{Schema: name, Migrate: true})
		if e, ok := errors.AsType[*OpenError](err); !ok || e.Schema != name {
			t.Errorf("schema %q: %v, want an *OpenError that names it", name, err)
		}
	}
	if _, err := Open(t.Context(), nil, Config{}); err == nil {
		t.Error("a nil pool gives no error")
	}
}

// Processes that start together do not collide.
func TestMigrateTogether(t *testing.T) {
	t.Parallel()
	pool, schema := pgtest.Pool(t), pgtest.Schema(t)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if err := Migrate(t.Context(), pool, Config{Schema: schema}); err != nil {
				t.Errorf("Migrate: %v", err)
			}
		})
	}
	wg.Wait()
}

// An old schema is brought up, and only on demand; a step that fails changes
// nothing.
func TestMigrateSteps(t *testing.T) {
	t.Parallel()
	ctx, pool, schema := t.Context(), pgtest.Pool(t), pgtest.Schema(t)
	if err := Migrate(ctx, pool, Config{Schema: schema}); err != nil {
		t.Fatal(err)
	}
	next := append(migrations[:len(migrations):len(migrations)], "CREATE TABLE fluxly.added (n integer);")
	if _, err := open(ctx, pool, Config{Schema: schema}, next); !errors.Is(err, ErrMigrate) {
		t.Errorf("Open of an old schema: %v, want ErrMigrate", err)
	}
	broken := append(migrations[:len(migrations):len(migrations)], "CREATE TABLE fluxly.added (n integer); SELECT 1/0;")
	if _, err := open(ctx, pool, Config{Schema: schema, Migrate: true}, broken); err == nil {
		t.Error("a migration that fails gives no error")
	}
	s, err := open(ctx, pool, Config{Schema: schema, Migrate: true}, next)
	if err != nil {
		t.Fatal(err)
	}
	_ = s.Close()
}

// No text of an error holds a password.
func TestErrorsKeepSecrets(t *testing.T) {
	t.Parallel()
	pool, err := pgxpool.New(t.Context(), "postgres://somebody:hunter2@127.0.0.1:1/test?connect_timeout=1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	_, err = Open(context.WithoutCancel(t.Context()), pool, Config{})
	if err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("Open: %v, want an error without the password", err)
	}
	if e, ok := errors.AsType[*Error](err); !ok || !e.Retryable {
		t.Errorf("%#v, want a retryable *Error", err)
	}
}

// A schema that is there already is filled without the right to make one.
func TestMigrateWithoutCreateOnDatabase(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	admin, name := pgtest.Pool(t), "fluxly_"+pgtest.Schema(t)
	if _, err := admin.Exec(ctx, "CREATE DATABASE "+name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, err := admin.Exec(context.WithoutCancel(ctx), "DROP DATABASE "+name+" WITH (FORCE)")
		if err != nil {
			t.Error(err)
		}
	})
	u, err := url.Parse(pgtest.URL(t))
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/" + name
	pool := pgtest.PoolOf(t, u.String())
	defer pool.Close()
	// A superuser may do it all the same.
	if _, err := pool.Exec(ctx, "CREATE SCHEMA ready; REVOKE CREATE ON DATABASE "+name+" FROM public, current_user"); err != nil {
		t.Fatal(err)
	}
	if err := Migrate(ctx, pool, Config{Schema: "ready"}); err != nil {
		t.Errorf("Migrate: %v", err)
	}
}

// A connection that is answered in texts that cannot be read is refused.
func TestOpenRefusesTexts(t *testing.T) {
	t.Parallel()
	schema := pgtest.Schema(t)
	for name, c := range map[string]struct {
		mode           pgx.QueryExecMode
		setting, value string
		refused        bool
	}{
		"bytea":            {pgx.QueryExecModeExec, "bytea_output", "escape", true},
		"bytea, simple":    {pgx.QueryExecModeSimpleProtocol, "bytea_output", "escape", true},
		"dates":            {pgx.QueryExecModeExec, "DateStyle", "German", true},
		"as it is":         {pgx.QueryExecModeExec, "DateStyle", "ISO, DMY", false},
		"bytea, in binary": {pgx.QueryExecModeCacheDescribe, "bytea_output", "escape", false},
	} {
		cfg, err := pgxpool.ParseConfig(pgtest.URL(t))
		if err != nil {
			t.Fatal(err)
		}
		cfg.MaxConns = 2
		cfg.ConnConfig.DefaultQueryExecMode = c.mode
		cfg.ConnConfig.RuntimeParams[c.setting] = c.value
		pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		s, err := Open(t.Context(), pool, Config{Schema: schema, Migrate: true})
		switch {
		case !c.refused && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.refused && (err == nil || !strings.Contains(err.Error(), c.setting+" is")):
			t.Errorf("%s: %v, want an error that names %s", name, err, c.setting)
		}
		if err == nil {
			_ = s.Close()
		}
		pool.Close()
	}
}
