package postgres

import (
	"context"
	"database/sql"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverdatabasesql"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

// Settings of the jobs. The names of kinds are stored in the database.
const (
	// fetchCooldown is how soon after a fetch a queue is asked again, while there
	// are jobs in it: River fetches as many as it has workers free.
	fetchCooldown = 10 * time.Millisecond
	// pollInterval is how often a queue is asked for jobs whose time has come;
	// it is River's default.
	pollInterval = time.Second
	// lead is how much earlier than its time a tick is fetched, so that the
	// poll does not make it late; the rest is waited for.
	lead = pollInterval + 200*time.Millisecond
	// soon is the time for which a job is inserted available and not
	// scheduled, because River's leader looks at scheduled jobs every 5 s.
	soon = 6 * time.Second
	// jobTimeout bounds one hand-out; a job that runs for longer than
	// rescueAfter belongs to a process that died.
	jobTimeout  = 5 * time.Minute
	rescueAfter = 6 * time.Minute
	// keepCompleted is how long River keeps the rows of jobs that are done.
	keepCompleted = time.Hour
	// idleSnooze is how long a job waits for a Work that does not run, on the
	// client of a program.
	idleSnooze = 5 * time.Second
)

// timing is how often what was left behind is looked for. Tests have less time
// than programs.
type timing struct {
	// every is the interval of the job that plans ticks and looks for what
	// was left behind.
	every time.Duration
	// overdue is for how long something is due before it counts as left
	// behind: its job has failed, is gone, or died with its process.
	overdue time.Duration
}

// workers are how many jobs of a kind run at once.
const (
	sendWorkers = 128
	callWorkers = 8
	tickWorkers = 16 // most of them wait for their time
)

// sendArgs is a job for one queued mail.
type sendArgs struct {
	Key string `json:"key"`
	// Due is when it is due, in microseconds since 1970.
	Due int64 `json:"due"`
}

// Kind names the job to River.
func (sendArgs) Kind() string { return "fluxly_send" }

// callArgs is a job for one run that is pending a call.
type callArgs struct {
	Run string `json:"run"`
	Due int64  `json:"due"`
}

// Kind names the job to River.
func (callArgs) Kind() string { return "fluxly_call" }

// tickArgs is a job for all that is due in a stretch of time, but for mails and
// calls, which have jobs of their own. It holds no ids, because those of people
// are among them.
type tickArgs struct {
	// From and Until are the first and the last microsecond.
	From  int64 `json:"from"`
	Until int64 `json:"until"`
	// Lane is the one kind of work it is about; empty for all.
	Lane string `json:"lane,omitempty"`
	// Part of Parts is the share of the people it is about; no Parts for all.
	Part  int `json:"part,omitempty"`
	Parts int `json:"parts,omitempty"`
}

// Kind names the job to River.
func (tickArgs) Kind() string { return "fluxly_tick" }

// sweepArgs is the job that plans the ticks of the next minutes and looks for
// what was left behind. River's leader inserts it regularly.
type sweepArgs struct{}

// Kind names the job to River.
func (sweepArgs) Kind() string { return "fluxly_sweep" }

// queueNames are the queues of one store. Those of another schema that shares
// a River with it have other names, so that nobody works off the jobs of others.
type queueNames struct{ send, call, tick string }

func newQueueNames(schema string, shared bool) queueNames {
	prefix := "fluxly"
	if shared && schema != prefix {
		words := strings.Join(strings.FieldsFunc(schema, func(r rune) bool { return r == '_' }), "_")
		prefix += "_" + words
		if words != schema { // another schema may be left with the same words
			prefix += "_" + strconv.FormatUint(uint64(crc32.ChecksumIEEE([]byte(schema))), 36)
		}
	}
	return queueNames{send: prefix + "_send", call: prefix + "_call", tick: prefix + "_tick"}
}

// newInserters make the clients that insert jobs, and nothing else.
func newInserters(pool *pgxpool.Pool, schema string, cfg Config) (*river.Client[pgx.Tx], *river.Client[*sql.Tx], error) {
	rc := &river.Config{Schema: schema, Logger: cfg.Logger}
	own, err := river.NewClient(riverpgxv5.New(pool), rc)
	if err != nil {
		return nil, nil, err
	}
	other, err := river.NewClient(riverdatabasesql.New(nil), rc)
	return own, other, err
}

// newClient makes a client that works the jobs off.
func (j *jobs) newClient() (*river.Client[pgx.Tx], error) {
	workers := river.NewWorkers()
	if err := j.register(workers); err != nil {
		return nil, err
	}
	cfg := &river.Config{
		Schema:                      j.s.cfg.Schema,
		Logger:                      j.s.cfg.Logger,
		Queues:                      map[string]river.QueueConfig{},
		Workers:                     workers,
		PeriodicJobs:                []*river.PeriodicJob{j.sweeps()},
		FetchPollInterval:           pollInterval,
		PollOnly:                    j.s.cfg.PollOnly,
		JobTimeout:                  jobTimeout,
		RescueStuckJobsAfter:        rescueAfter,
		CompletedJobRetentionPeriod: keepCompleted,
	}
	for name, q := range j.queues() {
		cfg.Queues[name] = q
	}
	return river.NewClient(riverpgxv5.New(j.s.pool), cfg)
}

func (j *jobs) queues() map[string]river.QueueConfig {
	return map[string]river.QueueConfig{
		j.names.send: {MaxWorkers: sendWorkers, FetchCooldown: fetchCooldown},
		j.names.call: {MaxWorkers: callWorkers, FetchCooldown: fetchCooldown},
		j.names.tick: {MaxWorkers: tickWorkers, FetchCooldown: fetchCooldown},
	}
}

// register adds the workers to a bundle.
func (j *jobs) register(workers *river.Workers) error {
	if err := river.AddWorkerSafely(workers, &sendWorker{base[sendArgs]{jobs: j}}); err != nil {
		return err
	}
	if err := river.AddWorkerSafely(workers, &callWorker{base[callArgs]{jobs: j}}); err != nil {
		return err
	}
	if err := river.AddWorkerSafely(workers, &tickWorker{base[tickArgs]{jobs: j}}); err != nil {
		return err
	}
	return river.AddWorkerSafely(workers, &sweepWorker{base[sweepArgs]{jobs: j}})
}

// sweeps is the periodic job.
func (j *jobs) sweeps() *river.PeriodicJob {
	return river.NewPeriodicJob(river.PeriodicInterval(j.s.cfg.timing.every), j.sweep, &river.PeriodicJobOpts{RunOnStart: true})
}

// sweep is one sweep; there is one in each stretch of time.
func (j *jobs) sweep() (river.JobArgs, *river.InsertOpts) {
	return sweepArgs{}, &river.InsertOpts{
		Queue:      j.names.tick,
		UniqueOpts: river.UniqueOpts{ByPeriod: j.s.cfg.timing.every, ByQueue: true},
	}
}

// join adds the workers and queues to the client of a program.
func (j *jobs) join(client *river.Client[pgx.Tx], workers *river.Workers) (err error) {
	if err := j.register(workers); err != nil {
		return fmt.Errorf("Config.Workers: %w", err)
	}
	for name, q := range j.queues() {
		if err := client.Queues().Add(name, q); err != nil {
			return fmt.Errorf("Config.River: add queue %q: %w", name, err)
		}
	}
	// A client that takes no part in elections says so by a panic.
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("Config.River takes no periodic jobs: %v", p)
		}
	}()
	if _, err := client.PeriodicJobs().AddSafely(j.sweeps()); err != nil {
		return fmt.Errorf("Config.River: add the periodic job: %w", err)
	}
	return nil
}

func newMigrator(pool *pgxpool.Pool, cfg Config, schema string) (*rivermigrate.Migrator[pgx.Tx], error) {
	return rivermigrate.New(riverpgxv5.New(pool), &rivermigrate.Config{Schema: schema, Logger: cfg.Logger})
}

// checkForeignRiver refuses to make a store where a program's own River is: its
// tables would be migrated without asking, and of two clients that know nothing
// of each other the one that leads leaves out the periodic jobs of the other.
func checkForeignRiver(ctx context.Context, pool *pgxpool.Pool, cfg Config) error {
	have, err := version(ctx, pool, cfg.Schema)
	if err != nil || have > 0 {
		return err
	}
	there, err := hasTable(ctx, pool, cfg.Schema, "river_job")
	if err != nil || !there {
		return err
	}
	return refuse(cfg.Schema, nil, nil, "the tables of a River are in it that is not the store's; hand its client over as Config.River (and its workers as Config.Workers), or set Config.Schema to a schema of its own")
}

// migrateRiver brings up River's tables, each version whole or not at all. Of
// two that start together the second waits for the first.
func migrateRiver(ctx context.Context, pool *pgxpool.Pool, cfg Config) error {
	m, err := newMigrator(pool, cfg, cfg.Schema)
	if err != nil {
		return err
	}
	for range m.AllVersions() {
		steps := 0
		err := pgx.BeginTxFunc(ctx, pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", "fluxly schema "+cfg.Schema); err != nil {
				return err
			}
			//nolint:staticcheck // one version a transaction, so that none meets another
			res, err := m.MigrateTx(ctx, tx, rivermigrate.DirectionUp, &rivermigrate.MigrateOpts{MaxSteps: 1})
			if err == nil {
				steps = len(res.Versions)
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("migrate the tables of River in schema %q: %w", cfg.Schema, explain("migrate", err))
		}
		if steps == 0 {
			return nil
		}
	}
	return nil
}

// checkRiver refuses tables of River that this program cannot work on.
func checkRiver(ctx context.Context, pool *pgxpool.Pool, cfg Config) error {
	m, err := newMigrator(pool, cfg, cfg.Schema)
	if err != nil {
		return err
	}
	res, err := m.Validate(ctx, nil)
	if err != nil {
		return err
	}
	if !res.OK {
		return refuse(cfg.Schema, ErrMigrate, nil, "the tables of River are older than this program needs; call postgres.Migrate or set Config.Migrate")
	}
	return nil
}

// checkClient refuses a client of the program's whose tables are not there, or
// are older than this program needs.
func checkClient(ctx context.Context, pool *pgxpool.Pool, cfg Config) error {
	schema := cfg.River.Schema()
	m, err := newMigrator(pool, cfg, schema)
	if err != nil {
		return err
	}
	res, err := m.Validate(ctx, nil)
	if err != nil {
		return err
	}
	if !res.OK {
		where := "on the search path"
		if schema != "" {
			where = fmt.Sprintf("in schema %q", schema)
		}
		return refuse(cfg.Schema, ErrMigrate, nil, `the tables of the client in Config.River, %s, are missing or older than this program needs; `+
			`bring them up by River's own migration, "river migrate-up" or package rivermigrate`, where)
	}
	return nil
}
