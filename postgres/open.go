package postgres

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// OpenError is a store that could not be opened. It wraps one of the
// sentinels where one fits.
type OpenError struct {
	// Schema is the schema of the database.
	Schema string
	// Reason says what is wrong and what to do next.
	Reason string
	// Err is the cause, if there is one.
	Err error
}

// Error names the schema and the reason.
func (e *OpenError) Error() string {
	text := "open store in schema " + strconv.Quote(e.Schema) + ": " + e.Reason
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

// Unwrap returns the cause.
func (e *OpenError) Unwrap() error { return e.Err }

// refuse makes an OpenError. The sentinel and the cause may be nil.
func refuse(schema string, sentinel, cause error, format string, args ...any) *OpenError {
	err := cause
	switch {
	case sentinel != nil && cause != nil:
		err = fmt.Errorf("%w: %w", sentinel, cause)
	case sentinel != nil:
		err = sentinel
	}
	return &OpenError{Schema: schema, Reason: fmt.Sprintf(format, args...), Err: err}
}

// oldestServer is the oldest server that has all that is asked of it.
const oldestServer = 130000

var schemaName = regexp.MustCompile(`^[a-z_][a-z0-9_]{0,45}$`)

// check refuses settings that cannot be.
func (c Config) check(pool *pgxpool.Pool) error {
	switch {
	case !schemaName.MatchString(c.Schema):
		return refuse(c.Schema, nil, nil, "Config.Schema is not a name of lower-case letters, digits and underscores, at most 46 of them")
	case pool == nil:
		return refuse(c.Schema, nil, nil, "the pool is nil; make one with pgxpool.New")
	case c.Workers != nil && c.River == nil:
		return refuse(c.Schema, nil, nil, "Config.Workers without Config.River; hand over both, or neither")
	}
	return nil
}

// Open opens the store in a database. The pool stays the program's, which
// closes it after the store. Each running call takes one connection of it, and
// Work some.
//
// The error is an [*OpenError]; it wraps [ErrMigrate], [ErrNewerVersion] or an
// [*Error] where one fits.
func Open(ctx context.Context, pool *pgxpool.Pool, cfg Config) (*Store, error) {
	return open(ctx, pool, cfg, migrations)
}

func open(ctx context.Context, pool *pgxpool.Pool, cfg Config, migrations []string) (*Store, error) {
	cfg = cfg.withDefaults()
	if err := cfg.check(pool); err != nil {
		return nil, err
	}
	if err := checkServer(ctx, pool, cfg.Schema); err != nil {
		return nil, err
	}
	if err := checkTexts(ctx, pool, cfg.Schema); err != nil {
		return nil, err
	}
	if cfg.Migrate {
		if err := migrateAll(ctx, pool, cfg, migrations); err != nil {
			return nil, openError(cfg.Schema, err)
		}
	}
	if err := checkAll(ctx, pool, cfg, migrations); err != nil {
		return nil, openError(cfg.Schema, err)
	}
	if cfg.River != nil {
		if err := checkClient(ctx, pool, cfg); err != nil {
			return nil, openError(cfg.Schema, err)
		}
	}
	s := &Store{pool: pool, cfg: cfg}
	var err error
	if s.jobs, err = newJobs(s); err != nil {
		return nil, refuse(cfg.Schema, nil, err, "River cannot be used")
	}
	return s, nil
}

// Migrate makes the schema, or brings it up to what this version of fluxly
// needs. One that is up to date is left as it is. Processes that work on the
// schema meanwhile are not in its way. Errors are as those of [Open].
func Migrate(ctx context.Context, pool *pgxpool.Pool, cfg Config) error {
	cfg = cfg.withDefaults()
	if err := cfg.check(pool); err != nil {
		return err
	}
	if err := checkServer(ctx, pool, cfg.Schema); err != nil {
		return err
	}
	if err := migrateAll(ctx, pool, cfg, migrations); err != nil {
		return openError(cfg.Schema, err)
	}
	if err := checkAll(ctx, pool, cfg, migrations); err != nil {
		return openError(cfg.Schema, err)
	}
	return nil
}

// migrateAll brings up the tables of the store, and those of River where they
// are the store's too.
func migrateAll(ctx context.Context, pool *pgxpool.Pool, cfg Config, migrations []string) error {
	if cfg.River == nil {
		if err := checkForeignRiver(ctx, pool, cfg); err != nil {
			return err
		}
	}
	if err := migrate(ctx, pool, cfg.Schema, migrations); err != nil || cfg.River != nil {
		return err
	}
	// A schema from a newer fluxly is left alone.
	if err := checkVersion(ctx, pool, cfg.Schema, migrations); err != nil {
		return err
	}
	return migrateRiver(ctx, pool, cfg)
}

// checkAll refuses tables that this program cannot work on.
func checkAll(ctx context.Context, pool *pgxpool.Pool, cfg Config, migrations []string) error {
	if err := checkVersion(ctx, pool, cfg.Schema, migrations); err != nil || cfg.River != nil {
		return err
	}
	return checkRiver(ctx, pool, cfg)
}

// checkServer asks the server for its version.
func checkServer(ctx context.Context, pool *pgxpool.Pool, schema string) error {
	var n int
	if err := pool.QueryRow(ctx, "SELECT current_setting('server_version_num')::int").Scan(&n); err != nil {
		return openError(schema, err)
	}
	if n < oldestServer {
		return refuse(schema, nil, nil, "the server is PostgreSQL %d, but fluxly needs %d or newer", n/10000, oldestServer/10000)
	}
	return nil
}

// checkTexts refuses a connection that is answered in texts, where these are
// written in a form that the driver does not read.
func checkTexts(ctx context.Context, pool *pgxpool.Pool, schema string) error {
	switch pool.Config().ConnConfig.DefaultQueryExecMode {
	case pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol:
	default:
		return nil
	}
	var bytes, dates string
	err := pool.QueryRow(ctx, "SELECT current_setting('bytea_output'), current_setting('DateStyle')").Scan(&bytes, &dates)
	switch {
	case err != nil:
		return openError(schema, err)
	case bytes != "hex":
		return refuse(schema, nil, nil, "bytea_output is %q, which cannot be read in this exec mode; run ALTER ROLE ... SET bytea_output = hex, or use default_query_exec_mode=cache_describe", bytes)
	case !strings.HasPrefix(dates, "ISO"):
		return refuse(schema, nil, nil, "DateStyle is %q, which cannot be read in this exec mode; run ALTER ROLE ... SET DateStyle = ISO, or use default_query_exec_mode=cache_describe", dates)
	}
	return nil
}

// openError makes an error of the database an OpenError.
func openError(schema string, err error) error {
	if e, ok := errors.AsType[*OpenError](err); ok {
		return e
	}
	return refuse(schema, nil, explain("open", err), "the database cannot be used")
}
