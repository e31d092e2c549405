package sqlite

import (
	"context"
	"fmt"
	"os"
	"strconv"
)

// applicationID marks a database file as ours ("flux").
const applicationID = 0x666c7578

// migrations bring a file from one schema version to the next; a new file
// gets all of them. They are never edited after a release, only added to.
//
// What the tables are made for: an event that nobody asks for costs one row
// and two index entries, so events name their profile and their event by
// number. Due work is found in partial indexes that hold nothing else. Times
// are ANY: see bindTime.
var migrations = []string{
	1: `
CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;

CREATE TABLE names (nid INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;

-- A profile that rows name before it is stored has no created.
CREATE TABLE profiles (
	pid INTEGER PRIMARY KEY,
	id TEXT NOT NULL UNIQUE,
	created ANY,
	updated ANY,
	user_ids TEXT,
	external_ids TEXT,
	anonymous_ids TEXT,
	traits TEXT,
	unsubscribed TEXT
) STRICT;

CREATE TABLE identities (
	kind TEXT NOT NULL,
	value TEXT NOT NULL,
	pid INTEGER NOT NULL,
	PRIMARY KEY (kind, value)
) STRICT, WITHOUT ROWID;

CREATE TABLE memberships (
	profile_id TEXT NOT NULL,
	segment TEXT NOT NULL,
	member INTEGER NOT NULL,
	since ANY NOT NULL,
	check_at ANY,
	PRIMARY KEY (profile_id, segment)
) STRICT, WITHOUT ROWID;
CREATE INDEX memberships_due ON memberships (check_at, profile_id, segment) WHERE check_at IS NOT NULL;

CREATE TABLE events (
	seq INTEGER PRIMARY KEY,
	message_id ANY NOT NULL UNIQUE,
	pid INTEGER NOT NULL,
	nid INTEGER NOT NULL,
	occurred ANY NOT NULL,
	received ANY NOT NULL,
	digest BLOB NOT NULL,
	properties TEXT,
	traits TEXT
) STRICT;
CREATE INDEX events_profile ON events (pid, nid, occurred);

CREATE TABLE runs (
	rid INTEGER PRIMARY KEY,
	id TEXT NOT NULL UNIQUE,
	pid INTEGER NOT NULL,
	automation TEXT NOT NULL,
	version TEXT NOT NULL,
	key TEXT NOT NULL,
	status TEXT NOT NULL,
	step TEXT NOT NULL,
	started ANY NOT NULL,
	due_kind INTEGER,
	due_at ANY,
	waits TEXT,
	body TEXT NOT NULL
) STRICT;
CREATE INDEX runs_live ON runs (pid) WHERE status = 'live';
CREATE INDEX runs_history ON runs (pid, automation, key, started);
CREATE INDEX runs_started ON runs (started, id);
CREATE INDEX runs_due ON runs (due_kind, due_at, id) WHERE due_kind IS NOT NULL;

CREATE TABLE run_log (
	run_id TEXT NOT NULL,
	seq INTEGER NOT NULL,
	automation TEXT NOT NULL,
	at ANY NOT NULL,
	step TEXT NOT NULL,
	code TEXT NOT NULL,
	detail TEXT,
	PRIMARY KEY (run_id, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE definitions (
	automation TEXT NOT NULL,
	version TEXT NOT NULL,
	created ANY NOT NULL,
	json BLOB,
	PRIMARY KEY (automation, version)
) STRICT, WITHOUT ROWID;

CREATE TABLE sends (
	sid INTEGER PRIMARY KEY,
	key TEXT NOT NULL UNIQUE,
	pid INTEGER NOT NULL,
	run_id TEXT NOT NULL,
	automation TEXT NOT NULL,
	step TEXT NOT NULL,
	status TEXT NOT NULL,
	reason TEXT NOT NULL,
	queued ANY NOT NULL,
	due_at ANY,
	info TEXT NOT NULL,
	body BLOB
) STRICT;
CREATE INDEX sends_profile ON sends (pid, queued);
CREATE INDEX sends_run ON sends (run_id);
CREATE INDEX sends_queued ON sends (queued, key);
CREATE INDEX sends_due ON sends (due_at, key) WHERE due_at IS NOT NULL;

-- The address is in lower case, as it compares; shown is as it was given.
CREATE TABLE suppressions (
	address TEXT NOT NULL,
	stream TEXT NOT NULL,
	shown TEXT NOT NULL,
	reason TEXT NOT NULL,
	origin TEXT NOT NULL,
	at ANY NOT NULL,
	PRIMARY KEY (address, stream)
) STRICT, WITHOUT ROWID;

CREATE TABLE erasures (
	id TEXT PRIMARY KEY,
	reason TEXT NOT NULL,
	request_id TEXT NOT NULL,
	at ANY NOT NULL,
	profiles INTEGER NOT NULL,
	events INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
`,
	2: `
CREATE TABLE meters (name TEXT PRIMARY KEY, body TEXT NOT NULL) STRICT, WITHOUT ROWID;
`,
}

// newest is the schema version that this package works on.
func newest(migrations []string) int { return len(migrations) - 1 }

// pragma reads a number.
func (c *conn) pragma(name string) (int64, error) {
	s := c.query("PRAGMA " + name)
	var n int64
	if s.next() {
		n = s.getInteger(0)
	}
	return n, s.done()
}

// prepareSchema makes the schema of a new file, checks that of an old one, and
// brings it up where it may.
func (c *conn) prepareSchema(migrations []string, migrate bool) error {
	version, err := c.pragma("user_version")
	if err != nil {
		return err
	}
	id, err := c.pragma("application_id")
	if err != nil {
		return err
	}
	tables := c.query("SELECT count(*) FROM sqlite_schema")
	empty := tables.next() && tables.getInteger(0) == 0
	if err := tables.done(); err != nil {
		return err
	}
	want := int64(newest(migrations))
	switch {
	case empty && version == 0:
	case id != applicationID:
		return refuse(c.path, nil, nil, "the file is a database of another program; name another file")
	case version > want:
		return refuse(c.path, ErrNewerVersion, nil, "its schema has version %d, this program knows up to %d; use a newer fluxly", version, want)
	case version == want:
		return nil
	case !migrate:
		return refuse(c.path, ErrMigrate, nil, "its schema has version %d, this program needs %d; make a copy of the file, then call sqlite.Migrate or set Config.Migrate", version, want)
	}
	return c.migrate(migrations, version)
}

// migrate takes all steps from a version to the newest, whole or not at all: a
// program that is killed in between leaves a file that is as it was, a new one
// empty. A new file that stopped at an old version would want a migration that
// nobody asked for.
func (c *conn) migrate(migrations []string, from int64) error {
	err := c.db.Exec("BEGIN IMMEDIATE")
	for v := from + 1; err == nil && v <= int64(newest(migrations)); v++ {
		if err = c.db.Exec(migrations[v]); err != nil {
			err = fmt.Errorf("migrate to version %d: %w", v, err)
		}
	}
	if err == nil {
		err = c.db.Exec("PRAGMA application_id = " + strconv.Itoa(applicationID) + ";" +
			"PRAGMA user_version = " + strconv.Itoa(newest(migrations)) + "; COMMIT")
	}
	if err != nil && !c.db.GetAutocommit() {
		_ = c.db.Exec("ROLLBACK")
	}
	return c.explain(err)
}

// Migrate brings the schema of an existing store file up to what this version
// of fluxly needs. The file must not be in use; make a copy first. A file that
// is up to date is left as it is. Errors are as those of [Open].
func Migrate(ctx context.Context, path string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if _, err := os.Stat(path); err != nil {
		return refuse(path, nil, err, "there is no store to migrate")
	}
	s, err := OpenConfig(path, Config{Migrate: true})
	if err != nil {
		return err
	}
	return s.Close()
}
