package postgres

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// migrations bring a schema from one version to the next; a new one gets all
// of them. They are never edited after a release, only added to. The tables are
// written as in all SQL of this package; see Store.sql.
//
// What the tables are made for: an event that nobody asks for costs one row
// and three index entries, so events name their person and their event by
// number. Due work is found in partial indexes that hold nothing else. Rows
// that move on leave room on their page and change few indexed columns, so that
// most updates touch no index. Texts compare byte by byte. The zero time is
// -infinity, or NULL in a column that may be.
var migrations = []string{
	1: `
CREATE SEQUENCE fluxly.seqs;
CREATE SEQUENCE fluxly.pids;

CREATE TABLE fluxly.names (
	nid integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	name text COLLATE "C" NOT NULL UNIQUE
);

-- A person that rows name before they are stored has no created.
CREATE TABLE fluxly.profiles (
	pid bigint PRIMARY KEY,
	id text COLLATE "C" NOT NULL UNIQUE,
	created timestamptz,
	updated timestamptz,
	user_ids json,
	external_ids json,
	anonymous_ids json,
	traits json,
	unsubscribed json
) WITH (fillfactor = 80);

-- The id is kind:value.
CREATE TABLE fluxly.identities (
	id text COLLATE "C" PRIMARY KEY,
	pid bigint NOT NULL
);

CREATE TABLE fluxly.memberships (
	pid bigint NOT NULL,
	segment text COLLATE "C" NOT NULL,
	member boolean NOT NULL,
	since timestamptz NOT NULL,
	check_at timestamptz,
	PRIMARY KEY (pid, segment)
) WITH (fillfactor = 80);
CREATE INDEX memberships_due ON fluxly.memberships (check_at) WHERE check_at IS NOT NULL;

-- A message id that is a UUID is its 16 bytes, any other text is behind a zero
-- byte.
CREATE TABLE fluxly.events (
	seq bigint PRIMARY KEY,
	message_id bytea NOT NULL UNIQUE,
	pid bigint NOT NULL,
	nid integer NOT NULL,
	occurred timestamptz NOT NULL,
	received timestamptz NOT NULL,
	digest bytea NOT NULL,
	properties json,
	traits json
);
CREATE INDEX events_profile ON fluxly.events (pid, nid, occurred, seq);

CREATE TABLE fluxly.runs (
	id text COLLATE "C" PRIMARY KEY,
	pid bigint NOT NULL,
	automation text COLLATE "C" NOT NULL,
	version text COLLATE "C" NOT NULL,
	key text COLLATE "C" NOT NULL,
	status text COLLATE "C" NOT NULL,
	step text COLLATE "C" NOT NULL,
	started timestamptz NOT NULL,
	due_kind smallint,
	due_at timestamptz,
	waits json,
	body json NOT NULL
) WITH (fillfactor = 80);
CREATE INDEX runs_live ON fluxly.runs (pid) WHERE status = 'live';
CREATE INDEX runs_history ON fluxly.runs (pid, automation, key, started, id);
CREATE INDEX runs_started ON fluxly.runs (started, id);
CREATE INDEX runs_due ON fluxly.runs (due_kind, due_at, id) WHERE due_kind IS NOT NULL;

CREATE TABLE fluxly.run_log (
	run_id text COLLATE "C" NOT NULL,
	seq integer NOT NULL,
	automation text COLLATE "C" NOT NULL,
	at timestamptz NOT NULL,
	step text COLLATE "C" NOT NULL,
	code text COLLATE "C" NOT NULL,
	detail json,
	PRIMARY KEY (run_id, seq)
);

CREATE TABLE fluxly.definitions (
	automation text COLLATE "C" NOT NULL,
	version text COLLATE "C" NOT NULL,
	created timestamptz NOT NULL,
	body bytea,
	PRIMARY KEY (automation, version)
);

CREATE TABLE fluxly.sends (
	key text COLLATE "C" PRIMARY KEY,
	pid bigint NOT NULL,
	run_id text COLLATE "C" NOT NULL,
	automation text COLLATE "C" NOT NULL,
	step text COLLATE "C" NOT NULL,
	status text COLLATE "C" NOT NULL,
	reason text COLLATE "C" NOT NULL,
	queued timestamptz NOT NULL,
	due_at timestamptz,
	info json NOT NULL,
	body bytea
) WITH (fillfactor = 80);
CREATE INDEX sends_profile ON fluxly.sends (pid, queued);
CREATE INDEX sends_run ON fluxly.sends (run_id);
CREATE INDEX sends_queued ON fluxly.sends (queued, key);
CREATE INDEX sends_due ON fluxly.sends (due_at, key) WHERE due_at IS NOT NULL;

-- The address is in lower case, as it compares; shown is as it was given.
CREATE TABLE fluxly.suppressions (
	address text COLLATE "C" NOT NULL,
	stream text COLLATE "C" NOT NULL,
	shown text NOT NULL,
	reason text NOT NULL,
	origin text NOT NULL,
	at timestamptz NOT NULL,
	PRIMARY KEY (address, stream)
);

CREATE TABLE fluxly.erasures (
	id text COLLATE "C" PRIMARY KEY,
	reason text NOT NULL,
	request_id text NOT NULL,
	at timestamptz NOT NULL,
	profiles bigint NOT NULL,
	events bigint NOT NULL
);

CREATE TABLE fluxly.meters (
	name text COLLATE "C" PRIMARY KEY,
	body json NOT NULL
) WITH (fillfactor = 50);
`,
}

// inSchema writes SQL of this package for a schema: in it all tables are
// named as if the schema were fluxly.
func inSchema(schema, sql string) string {
	return strings.ReplaceAll(sql, "fluxly.", pgx.Identifier{schema}.Sanitize()+".")
}

// sql is inSchema, kept.
func (s *Store) sql(text string) string {
	if known, ok := s.queries.Load(text); ok {
		return known.(string)
	}
	known := inSchema(s.cfg.Schema, text)
	s.queries.Store(text, known)
	return known
}

// querier is what reads the version: a pool or a transaction.
type querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// version returns the version of a schema; 0 when there is none.
func version(ctx context.Context, db querier, schema string) (n int, err error) {
	there, err := hasTable(ctx, db, schema, "schema_version")
	if err != nil || !there {
		return 0, err
	}
	table := pgx.Identifier{schema, "schema_version"}.Sanitize()
	err = db.QueryRow(ctx, "SELECT coalesce(max(version), 0) FROM "+table).Scan(&n)
	return n, err
}

// hasTable asks the catalog itself: to_regclass may answer by what the connection
// remembers from before somebody else made the table.
func hasTable(ctx context.Context, db querier, schema, table string) (there bool, err error) {
	err = db.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname = $1 AND c.relname = $2)`, schema, table).Scan(&there)
	return there, err
}

// checkVersion refuses a schema that this program cannot work on.
func checkVersion(ctx context.Context, pool *pgxpool.Pool, schema string, migrations []string) error {
	have, err := version(ctx, pool, schema)
	if err != nil {
		return err
	}
	want := len(migrations) - 1
	switch {
	case have > want:
		return refuse(schema, ErrNewerVersion, nil, "it has version %d, this program knows up to %d; use a newer fluxly", have, want)
	case have == 0:
		return refuse(schema, ErrMigrate, nil, "it holds no store yet; call postgres.Migrate or set Config.Migrate")
	case have < want:
		return refuse(schema, ErrMigrate, nil, "it has version %d, this program needs %d; call postgres.Migrate or set Config.Migrate", have, want)
	}
	return nil
}

// migrate takes all steps that are missing, each whole or not at all. Of two
// that start together the second waits for the first.
func migrate(ctx context.Context, pool *pgxpool.Pool, schema string, migrations []string) error {
	for want := 1; want < len(migrations); want++ {
		err := pgx.BeginTxFunc(ctx, pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", "fluxly schema "+schema); err != nil {
				return err
			}
			have, err := version(ctx, tx, schema)
			if err != nil || have >= want {
				return err
			}
			text := inSchema(schema, migrations[want]+fmt.Sprintf("INSERT INTO fluxly.schema_version (version) VALUES (%d)", want))
			if want == 1 {
				name := pgx.Identifier{schema}.Sanitize()
				text = "CREATE TABLE " + name + ".schema_version (version integer PRIMARY KEY, applied timestamptz NOT NULL DEFAULT now());" + text
				// IF NOT EXISTS would want CREATE on the database all the same.
				var there bool
				if err := tx.QueryRow(ctx, "SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = $1)", schema).Scan(&there); err != nil {
					return err
				}
				if !there {
					text = "CREATE SCHEMA " + name + ";" + text
				}
			}
			_, err = tx.Exec(ctx, text)
			return err
		})
		if err != nil {
			return fmt.Errorf("migrate schema %q to version %d: %w", schema, want, explain("migrate", err))
		}
	}
	return nil
}
