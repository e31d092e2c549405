// Package postgres keeps the state of fluxly engines in a PostgreSQL database,
// for programs that run as many processes. It needs PostgreSQL 13 or newer, no
// extension and no superuser.
//
//	pool, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL"))
//	...
//	store, err := postgres.Open(ctx, pool, postgres.Config{Migrate: true})
//
// All tables are in one schema of the database. People are what is locked:
// two processes work at the same time, on different people. A write of the
// program's own can share a transaction with those of the engine; see
// [Store.Tx].
package postgres

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"

	"github.com/getfluxly/fluxly"
)

// Config holds the settings of a store. The zero value is the default.
type Config struct {
	// Schema is the schema of the database that holds all tables: letters in
	// lower case, digits and underscores, at most 46. Defaults to "fluxly".
	Schema string
	// Migrate lets Open make the schema, or bring up that of an older fluxly.
	// The default is to refuse with [ErrMigrate]; see also [Migrate].
	Migrate bool
	// River and Workers are the client of a program that runs River already,
	// and its bundle of workers; both are handed over before the client is
	// started, and the program starts and stops it. Its driver must be of this
	// database. The workers, queues and a periodic job of the store are added
	// to them. With River alone the process only adds jobs, and Work refuses.
	//
	// By default Work runs a client of its own, with tables in Schema.
	River   *river.Client[pgx.Tx]
	Workers *river.Workers
	// PollOnly makes Work look for jobs once a second, and not listen for
	// notifications, which a PgBouncer that pools transactions does not pass
	// on. It has no effect on a client that was handed over.
	PollOnly bool
	// Logger gets what happens beside the calls, also from River. Defaults to
	// none.
	Logger *slog.Logger

	timing timing
}

func (c Config) withDefaults() Config {
	if c.Schema == "" {
		c.Schema = "fluxly"
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.timing == (timing{}) {
		c.timing = timing{every: 20 * time.Second, overdue: 15 * time.Second}
	}
	return c
}

// mode says how a transaction of Update goes about its statements.
type mode int

const (
	// modeAuto: buffered at first, careful after a conflict.
	modeAuto mode = iota
	// modeCareful is careful from the first; tests force it.
	modeCareful
)

// Store is a [fluxly.Store] in a PostgreSQL database. Make one with [Open]. It
// may be used from many goroutines and processes at the same time.
type Store struct {
	pool   *pgxpool.Pool
	cfg    Config
	mode   mode
	jobs   *jobs
	closed atomic.Bool
	// ending: Work begins no more; what it has begun can still be stored.
	ending atomic.Bool
	// calls are the transactions that run; Close waits for them.
	calls sync.WaitGroup
	// closing guards that none begins once Close waits.
	closing sync.RWMutex

	working sync.Mutex // held by Work

	queries sync.Map // SQL as written in this package -> with the schema's name
	names   names
	pids    numbers
	retries atomic.Int64
}

var _ fluxly.Store = (*Store)(nil)

// begin counts a transaction in; done counts it out.
func (s *Store) begin(ctx context.Context) (done func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.closing.RLock()
	defer s.closing.RUnlock()
	if s.closed.Load() {
		return nil, fmt.Errorf("postgres store: %w", fluxly.ErrClosed)
	}
	s.calls.Add(1)
	return s.calls.Done, nil
}

// Retries returns how many transactions were run again since Open, because
// another one stood in their way.
func (s *Store) Retries() int64 { return s.retries.Load() }

const (
	// lockTimeout bounds the wait for a lock that another transaction holds.
	lockTimeout = 10 * time.Second
	// idleTimeout ends a transaction whose process froze, so that it does not
	// hold people for ever.
	idleTimeout = 30 * time.Second
)

// Close ends Work, so that what it has begun is done and stored, waits for running
// transactions, and returns. The pool stays open; it is the program's. Calls after
// it return [fluxly.ErrClosed]; Close again does nothing.
func (s *Store) Close() error {
	s.closing.Lock()
	again := s.ending.Swap(true)
	s.closing.Unlock()
	if again {
		return nil
	}
	s.jobs.close()
	s.jobs.works.Wait()
	s.closing.Lock()
	s.closed.Store(true)
	s.closing.Unlock()
	s.calls.Wait()
	s.jobs.wait()
	return nil
}
