// Package sqlite keeps the state of a fluxly engine in one SQLite file, for
// programs that run as one process. It needs no cgo and no server.
//
//	store, err := sqlite.Open("fluxly.db")
//
// The file is in WAL mode: while the program runs two more files stand beside
// it (-wal and -shm), and a lock file (-lock) that keeps a second process out;
// the operating system releases the lock when the process ends, however it
// ends. Other programs may read the file meanwhile, such as the sqlite3 shell.
// What is erased is overwritten in the file.
package sqlite

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gofrs/flock"
	"github.com/ncruces/go-sqlite3"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/internal/duework"
)

// Sync says when a commit waits for the disk.
type Sync string

const (
	// SyncFull, the default: a commit is on the disk when Update returns. It
	// survives the death of the process, of the system, and a power cut.
	SyncFull Sync = ""
	// SyncNormal: a commit survives the death of the process, but after a
	// power cut or the death of the system the last commits may be missing
	// (the file is whole). A mail that was recorded in them as handed over may
	// then go out a second time. Choose it where events can be sent again.
	SyncNormal Sync = "normal"
)

// Config holds the settings of a store. The zero value is the default.
type Config struct {
	// Sync says when a commit waits for the disk.
	Sync Sync
	// Migrate lets Open bring up the schema of a file from an older fluxly.
	// The default is to refuse with [ErrMigrate].
	Migrate bool
	// Readers is the number of connections for View, each with its own small
	// cache. Defaults to 4.
	Readers int
	// CacheSize is the page cache of the writer in bytes. Defaults to 32 MiB.
	CacheSize int
	// BusyTimeout is how long to wait for another program that holds a lock
	// on the file. Defaults to 5 seconds.
	BusyTimeout time.Duration
}

func (c Config) withDefaults() Config {
	if c.Readers <= 0 {
		c.Readers = 4
	}
	if c.CacheSize <= 0 {
		c.CacheSize = 32 << 20
	}
	if c.BusyTimeout <= 0 {
		c.BusyTimeout = 5 * time.Second
	}
	return c
}

// lanes are the kinds of work in the order of Store.signals.
var lanes = [...]fluxly.WorkKind{fluxly.WorkWake, fluxly.WorkCall, fluxly.WorkSegment, fluxly.WorkSend}

// Store is a [fluxly.Store] in one SQLite file. Make one with [Open]. It may
// be used from many goroutines: transactions of Update run one after another,
// those of View beside them.
type Store struct {
	path   string
	cfg    Config
	lock   *flock.Flock
	closed atomic.Bool
	// version is that of the schema.
	version int64

	// writer holds the one connection that writes; taking it is the right to.
	writer chan *conn
	// readers holds the connections of View; nil stands for one that is not
	// open yet.
	readers chan *conn

	// Written by the holder of writer alone.
	lastSeq int64
	cache   cache
	// wipe: something was erased whose traces are still in the WAL.
	wipe atomic.Bool

	uncommitted uncommitted
	joined      atomic.Bool // a transaction of a caller's was joined

	working sync.Mutex // held by Work
	signals [len(lanes)]duework.Signal
}

var _ fluxly.Store = (*Store)(nil)

// Update runs fn in one transaction and commits it. See [fluxly.Store]. When
// the disk is full the error is [ErrFull].
func (s *Store) Update(ctx context.Context, fn func(fluxly.Tx) error) error {
	c, err := s.take(ctx, s.writer)
	if err != nil {
		return err
	}
	defer func() { s.writer <- c }()

	tx := &tx{db: c, writes: true, cache: &s.cache}
	checked := func(t fluxly.Tx) error {
		if err := s.refresh(c); err != nil {
			return err
		}
		tx.lastSeq = s.lastSeq
		s.uncommitted.settle(s)
		return fn(t)
	}
	if err := c.transact(ctx, "BEGIN IMMEDIATE", tx, checked); err != nil {
		return err
	}
	s.lastSeq = tx.lastSeq
	if tx.erased {
		s.wipe.Store(true)
		s.wipeWAL(c, wipePatience)
	} else if s.wipe.Load() {
		s.wipeWAL(c, 0)
	}
	s.wake(&tx.earliest)
	return nil
}

// refresh makes good what is remembered of the file, when a transaction of a
// caller, or another program, has written to it. It is called in a transaction.
func (s *Store) refresh(c *conn) error {
	version, err := c.pragma("data_version")
	if err != nil || version == s.cache.version {
		return err
	}
	if err := s.readLastSeq(c); err != nil {
		return err
	}
	s.cache.clear()
	s.cache.version = version
	return nil
}

// lastSeqQuery reads the highest Seq that was ever given.
const lastSeqQuery = "SELECT max((SELECT coalesce(max(seq), 0) FROM events), coalesce((SELECT value FROM meta WHERE key = 'last_seq'), 0))"

func (s *Store) readLastSeq(c *conn) error {
	q := c.query(lastSeqQuery)
	if q.next() {
		s.lastSeq = q.getInteger(0)
	}
	return q.done()
}

// wake tells the lanes what became due.
func (s *Store) wake(earliest *[len(lanes)]time.Time) {
	for i, due := range earliest {
		if !due.IsZero() {
			s.signals[i].Due(due)
		}
	}
}

// View runs fn on one consistent state. See [fluxly.Store].
func (s *Store) View(ctx context.Context, fn func(fluxly.Tx) error) error {
	c, err := s.take(ctx, s.readers)
	if err != nil {
		return err
	}
	defer func() {
		s.readers <- c
		if s.wipe.Load() {
			select {
			case w := <-s.writer:
				s.wipeWAL(w, 0)
				s.writer <- w
			default: // the writer does it after its commit
			}
		}
	}()
	if c == nil {
		if c, err = s.openReader(); err != nil {
			return err
		}
	}
	return c.transact(ctx, "BEGIN", &tx{db: c}, fn)
}

// take waits for a connection of a pool.
func (s *Store) take(ctx context.Context, pool chan *conn) (*conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	select {
	case c := <-pool:
		if s.closed.Load() {
			pool <- c
			return nil, fmt.Errorf("sqlite store %q: %w", s.path, fluxly.ErrClosed)
		}
		return c, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// transact runs fn between begin and COMMIT, or takes all of it back.
func (c *conn) transact(ctx context.Context, begin string, tx *tx, fn func(fluxly.Tx) error) (err error) {
	background := context.WithoutCancel(ctx)
	c.interrupt(ctx)
	defer func() {
		tx.dead = true
		c.interrupt(background)
		// Also when fn panics. SQLite itself rolls back after some errors.
		if !c.db.GetAutocommit() {
			if e := c.run("ROLLBACK"); e != nil && err != nil {
				err = errors.Join(err, e)
			}
		}
	}()
	if err := c.run(begin); err != nil {
		return err
	}
	if err := fn(tx); err != nil {
		return err
	}
	// An error that fn swallowed must not be committed over.
	if tx.err != nil {
		return tx.err
	}
	// What is complete is committed, also when ctx ended just now.
	c.interrupt(background)
	return c.run("COMMIT")
}

// wipePatience is how long to wait for readers before the WAL is wiped at a
// later call instead.
const wipePatience = 100 * time.Millisecond

// wipeWAL writes all pages back and empties the WAL file, for the sake of what
// was erased. The erasure is committed already; when a reader is still at work
// after the time given, a later call wipes.
func (s *Store) wipeWAL(c *conn, wait time.Duration) {
	if c == nil {
		return // closed
	}
	_ = c.db.BusyTimeout(wait)
	q := c.query("PRAGMA wal_checkpoint(TRUNCATE)")
	wiped := q.next() && q.getInteger(0) == 0
	if err := q.done(); err == nil && wiped {
		s.wipe.Store(false)
	}
	_ = c.db.BusyTimeout(s.cfg.BusyTimeout)
}

// Work hands out due work until ctx ends or the store is closed. See
// [fluxly.Store].
func (s *Store) Work(ctx context.Context, w fluxly.Worker) error {
	if !s.working.TryLock() {
		return fmt.Errorf("sqlite store %q: Work runs already; run one at a time", s.path)
	}
	defer s.working.Unlock()
	if x, ok := w.(fluxly.ExclusiveWorker); ok {
		if err := x.Begin(ctx); err != nil {
			return err
		}
		defer x.End()
	}
	run := make([]duework.Lane[fluxly.Work], len(lanes))
	for i, kind := range lanes {
		run[i] = duework.Lane[fluxly.Work]{
			Now:    w.Now,
			Signal: &s.signals[i],
			Fatal:  func(err error) bool { return errors.Is(err, fluxly.ErrClosed) || errors.Is(err, ErrCorrupt) },
			Do:     func(ctx context.Context, batch []fluxly.Work) error { return w.Do(ctx, kind, batch) },
			Due: func(ctx context.Context, now time.Time, limit int) (due []fluxly.Work, next time.Time, err error) {
				err = s.View(ctx, func(tx fluxly.Tx) error {
					due, next, err = tx.Due(ctx, kind, now, limit)
					return err
				})
				return due, next, err
			},
		}
	}
	return duework.Run(ctx, run...)
}

// Check reads the whole file and reports damage as [ErrCorrupt]. It takes
// about a second for each 100 MB; the store works meanwhile.
func (s *Store) Check(ctx context.Context) error {
	return s.View(ctx, func(t fluxly.Tx) error {
		q := t.(*tx).db.query("PRAGMA integrity_check(1)")
		found := ""
		if q.next() {
			found = q.getText(0)
		}
		if err := q.done(); err != nil {
			return err
		}
		if found != "ok" {
			return fmt.Errorf("sqlite store %q: %w: %s", s.path, ErrCorrupt, found)
		}
		return nil
	})
}

// Exclusive reports true: the lock beside the file keeps other processes out.
// It implements [fluxly.ExclusiveStore].
func (s *Store) Exclusive() bool { return true }

// Close waits for running transactions, ends Work, and releases the file.
// Calls after it return [fluxly.ErrClosed]; Close again does nothing.
func (s *Store) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	s.uncommitted.close()
	c := <-s.writer
	var errs []error
	if s.joined.Load() {
		// A caller may still be in a transaction. If its driver takes locks
		// that the system drops when this process closes the file, the writer
		// would believe that it is the last connection, and remove the WAL
		// with the caller's writes.
		s.wipeWAL(c, wipePatience)
		_, err := c.db.Config(sqlite3.DBCONFIG_NO_CKPT_ON_CLOSE, true)
		errs = append(errs, err)
	}
	for range s.cfg.Readers {
		if r := <-s.readers; r != nil {
			errs = append(errs, r.close())
		}
	}
	// The last connection that closes writes the WAL back and removes it.
	errs = append(errs, c.close(), s.unlock())
	// Whoever waits for a connection finds the store closed.
	for range s.cfg.Readers {
		s.readers <- nil
	}
	s.writer <- nil
	for i := range s.signals {
		s.signals[i].Due(time.Time{})
	}
	return errors.Join(errs...)
}
