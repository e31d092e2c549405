package main

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"

	"github.com/getfluxly/fluxly/internal/pgtest"
	"github.com/getfluxly/fluxly/sqlite"
)

const password = "s3cr3t-word"

type migrateCase struct {
	name   string
	args   []string
	code   int
	out    string
	stderr string
}

func (c migrateCase) run(t *testing.T) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), append([]string{"migrate"}, c.args...), &stdout, &stderr); code != c.code {
		t.Errorf("exit code %d, want %d: %s", code, c.code, stderr.String())
	}
	for what, text := range map[string][2]string{"output": {stdout.String(), c.out}, "error": {stderr.String(), c.stderr}} {
		if !strings.Contains(text[0], text[1]) {
			t.Errorf("%s is %q, want it to hold %q", what, text[0], text[1])
		}
		if strings.Contains(text[0], password) {
			t.Errorf("%s shows the password: %q", what, text[0])
		}
	}
}

func TestMigrate(t *testing.T) {
	t.Setenv("DATABASE_URL", "")
	file := filepath.Join(t.TempDir(), "fluxly.db")
	s, err := sqlite.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []migrateCase{
		{name: "help", args: []string{"-h"}, out: "Exit code"},
		{name: "nothing", code: exitUsage, stderr: "-database is missing"},
		{name: "argument", args: []string{"postgres://user:" + password + "@host/name"}, code: exitUsage, stderr: "name the store with -database"},
		{name: "bad flag", args: []string{"-x"}, code: exitUsage, stderr: "-x"},
		{name: "file", args: []string{"-database", file}, out: "fluxly.db is up to date"},
		{name: "no file", args: []string{"-database", file + "x"}, code: exitFail, stderr: "there is no store to migrate"},
		{name: "file with schema", args: []string{"-database", file, "-schema", "a"}, code: exitUsage, stderr: "-schema is for Postgres"},
		{name: "other scheme", args: []string{"-database", "mysql://user:" + password + "@host/name"}, code: exitUsage, stderr: `"mysql"`},
		{name: "bad port", args: []string{"-database", "postgres://user:" + password + "@host:x/name"}, code: exitUsage, stderr: "no URL"},
		{name: "bad parameter", args: []string{"-database", "postgres://user:" + password + "@host/name?pool_max_conns=x"}, code: exitUsage, stderr: "no URL"},
		{name: "bad schema", args: []string{"-database", "postgres://user:" + password + "@127.0.0.1:1/name", "-schema", "A b"}, code: exitFail, stderr: "Config.Schema"},
		{name: "nobody there", args: []string{"-database", "postgres://user:" + password + "@127.0.0.1:1/name"}, code: exitUnknown, stderr: "127.0.0.1"},
		{name: "timeout", args: []string{"-database", file, "-timeout", "0"}, code: exitUsage, stderr: "-timeout"},
	} {
		t.Run(c.name, c.run)
	}
	t.Run("from the environment", func(t *testing.T) {
		t.Setenv("DATABASE_URL", file)
		migrateCase{out: "is up to date"}.run(t)
	})
}

func TestMigratePostgres(t *testing.T) {
	t.Parallel()
	url, schema := pgtest.URL(t), pgtest.Schema(t)
	c := migrateCase{args: []string{"-database", url, "-schema", schema}, out: schema + " of database"}
	c.run(t)
	c.run(t) // it is up to date
}
