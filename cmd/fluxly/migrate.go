package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/getfluxly/fluxly/postgres"
	"github.com/getfluxly/fluxly/sqlite"
)

const migrateHelp = `Usage: fluxly migrate -database URL|FILE [flags]

Brings the tables of a store up to what this version of fluxly needs, and
makes those of a new one on Postgres, with River's beside them. A store that is
up to date is left as it is.

A URL such as postgres://user@host:5432/name is Postgres; what the URL leaves
out comes from PGPASSWORD and the like. Anything else is a SQLite file. Without
-database the environment variable DATABASE_URL is read.

Exit code: 0 the store is up to date, 1 it could not be migrated, 2 wrong
arguments, 3 the database could not be reached.

Flags:
`

type migrateFlags struct {
	database string
	schema   string
	timeout  time.Duration
}

func migrateFlagSet() (*flag.FlagSet, *migrateFlags) {
	f := &migrateFlags{}
	set := flag.NewFlagSet("migrate", flag.ContinueOnError)
	// Its default is not printed, because it may hold a password.
	set.StringVar(&f.database, "database", "", "`URL` of a Postgres database, or SQLite file (default: DATABASE_URL)")
	set.StringVar(&f.schema, "schema", "", "`name` of the schema on Postgres (default \"fluxly\")")
	set.DurationVar(&f.timeout, "timeout", 10*time.Minute, "time for all of it")
	return set, f
}

func migrate(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	set, f := migrateFlagSet()
	rest, code, done := parse(set, migrateHelp, args, stdout, stderr)
	if done {
		return code
	}
	fail := func(code int, err error) int {
		fmt.Fprintln(stderr, "fluxly migrate:", err)
		return code
	}
	if f.database == "" {
		f.database = os.Getenv("DATABASE_URL")
	}
	isURL := strings.Contains(f.database, "://")
	switch {
	case len(rest) > 0:
		// It may be a URL that lacks its flag, so it is not shown.
		return fail(exitUsage, errors.New("takes flags alone; name the store with -database"))
	case f.database == "":
		return fail(exitUsage, errors.New("-database is missing: the URL of a Postgres database, or a SQLite file"))
	case f.timeout <= 0:
		return fail(exitUsage, fmt.Errorf("-timeout %s is not above zero", f.timeout))
	case !isURL && f.schema != "":
		return fail(exitUsage, errors.New("-schema is for Postgres; a SQLite file has none"))
	}
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	if isURL {
		return f.postgres(ctx, stdout, fail)
	}
	if err := sqlite.Migrate(ctx, f.database); err != nil {
		return fail(exitFail, err)
	}
	fmt.Fprintf(stdout, "%s is up to date\n", f.database)
	return exitOK
}

func (f *migrateFlags) postgres(ctx context.Context, stdout io.Writer, fail func(int, error) int) int {
	// The errors of parsers show what they parse.
	u, err := url.Parse(f.database)
	if err != nil {
		return fail(exitUsage, errors.New("-database is no URL that can be read, such as postgres://user@host:5432/name"))
	}
	if u.Scheme != "postgres" && u.Scheme != "postgresql" {
		return fail(exitUsage, fmt.Errorf("-database is a URL of %q; fluxly knows postgres:// and SQLite files", u.Scheme))
	}
	cfg, err := pgxpool.ParseConfig(f.database)
	if err != nil {
		return fail(exitUsage, errors.New("-database is no URL of Postgres that can be read; look at its port and its parameters"))
	}
	cfg.MinConns, cfg.MaxConns = 0, 2
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return fail(exitUsage, errors.New("-database is no URL of Postgres that can be used"))
	}
	defer pool.Close()
	if err := postgres.Migrate(ctx, pool, postgres.Config{Schema: f.schema}); err != nil {
		code := exitFail
		// The text of an error of the way there is not ours: it names host and
		// user, never a password.
		if e, ok := errors.AsType[*postgres.Error](err); ok && (e.Code == "" || strings.HasPrefix(e.Code, "08") || strings.HasPrefix(e.Code, "57P")) {
			code = exitUnknown
		}
		return fail(code, err)
	}
	schema := f.schema
	if schema == "" {
		schema = "fluxly"
	}
	fmt.Fprintf(stdout, "schema %s of database %s on %s is up to date\n", schema, cfg.ConnConfig.Database, cfg.ConnConfig.Host)
	return exitOK
}
