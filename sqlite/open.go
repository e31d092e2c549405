package sqlite

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/gofrs/flock"
	"github.com/ncruces/go-sqlite3"
)

// Open opens the store in a file with the default settings. A file that does
// not exist is made, with its schema; its folder must exist.
//
// The error is an [*OpenError]; it wraps [ErrInUse], [ErrNewerVersion],
// [ErrMigrate], [ErrCorrupt], [ErrFull] or [ErrReadOnly] where one fits.
func Open(path string) (*Store, error) { return OpenConfig(path, Config{}) }

// OpenConfig is [Open] with settings.
func OpenConfig(path string, cfg Config) (*Store, error) {
	return open(path, cfg, migrations)
}

func open(path string, cfg Config, migrations []string) (*Store, error) {
	cfg = cfg.withDefaults()
	if cfg.Sync != SyncFull && cfg.Sync != SyncNormal {
		return nil, refuse(path, nil, nil, "Config.Sync %q is not known; use SyncFull or SyncNormal", string(cfg.Sync))
	}
	file, err := resolve(path)
	if err != nil {
		return nil, err
	}
	s := &Store{
		path: file, cfg: cfg,
		version: int64(newest(migrations)),
		writer:  make(chan *conn, 1), readers: make(chan *conn, cfg.Readers),
	}
	if err := s.acquire(); err != nil {
		return nil, err
	}
	c, err := s.openWriter(migrations)
	if err != nil {
		return nil, errors.Join(openError(file, err), s.unlock())
	}
	s.writer <- c
	for range cfg.Readers {
		s.readers <- nil
	}
	return s, nil
}

// resolve checks what can be checked without touching the file, and returns
// the one path under which it is locked.
func resolve(path string) (string, error) {
	switch {
	case path == "":
		return "", refuse(path, nil, nil, "the path is empty; name a file such as fluxly.db")
	case path == ":memory:" || strings.HasPrefix(path, "file:"):
		return "", refuse(path, nil, nil, "give the path of a file, not a URI; for a store in memory use fluxly.NewMemoryStore")
	case strings.ContainsRune(path, 0):
		return "", refuse(path, nil, nil, "the path holds a NUL byte")
	}
	full, err := filepath.Abs(path)
	if err != nil {
		return "", refuse(path, nil, err, "the path cannot be made absolute")
	}
	// Two names of one file must meet the same lock.
	if real, err := filepath.EvalSymlinks(full); err == nil {
		full = real
	} else if folder, err := filepath.EvalSymlinks(filepath.Dir(full)); err == nil {
		full = filepath.Join(folder, filepath.Base(full))
	}
	folder, err := os.Stat(filepath.Dir(full))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", refuse(path, nil, nil, "the folder does not exist; create it first")
	case err != nil:
		return "", refuse(path, nil, err, "the folder cannot be read")
	case !folder.IsDir():
		return "", refuse(path, nil, nil, "%q is not a folder", filepath.Dir(full))
	}
	info, err := os.Stat(full)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if folder.Mode().Perm()&0o222 == 0 {
			return "", refuse(path, ErrReadOnly, nil, "the folder is read-only; make it writable or name another")
		}
	case err != nil:
		return "", refuse(path, nil, err, "the file cannot be read")
	case info.IsDir():
		return "", refuse(path, nil, nil, "it is a folder; name a file in it, such as %q", filepath.Join(path, "fluxly.db"))
	case !info.Mode().IsRegular():
		return "", refuse(path, nil, nil, "it is not a regular file")
	case info.Mode().Perm()&0o222 == 0:
		return "", refuse(path, ErrReadOnly, nil, "the file is read-only; make it writable")
	case folder.Mode().Perm()&0o222 == 0:
		return "", refuse(path, ErrReadOnly, nil, "the folder is read-only, but SQLite writes further files into it; make it writable")
	}
	return full, nil
}

// acquire takes the lock of the operating system on a file beside the store.
// It stands beside, because SQLite's own locks on the store file itself must
// stay free for readers such as the sqlite3 shell.
func (s *Store) acquire() error {
	name := s.path + "-lock"
	s.lock = flock.New(name, flock.SetFlag(os.O_CREATE|os.O_RDWR), flock.SetPermissions(0o600))
	ok, err := s.lock.TryLock()
	if err != nil {
		kind := error(nil)
		if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) {
			kind = ErrReadOnly
		}
		if errors.Is(err, syscall.ENOSPC) {
			kind = ErrFull
		}
		return refuse(s.path, kind, err, "the lock file %q cannot be made", name)
	}
	if !ok {
		holder := "another Store"
		//nolint:gosec // the lock file of the path that the program itself named
		if pid, err := os.ReadFile(name); err == nil && len(pid) > 0 && len(pid) < 20 {
			holder = "process " + strings.TrimSpace(string(pid))
		}
		return refuse(s.path, ErrInUse, nil, "%s has it open; one process at a time works on a file, so stop that one, or give this one a file of its own", holder)
	}
	// For the error message of others alone, so it may fail.
	_ = os.WriteFile(name, strconv.AppendInt(nil, int64(os.Getpid()), 10), 0o600)
	return nil
}

func (s *Store) unlock() error {
	// The file stays: removing it would let two processes lock two files of
	// one name.
	if err := s.lock.Close(); err != nil {
		return fmt.Errorf("sqlite store %q: release the lock: %w", s.path, err)
	}
	return nil
}

// openError makes an error of SQLite an OpenError.
func openError(path string, err error) error {
	if e, ok := errors.AsType[*OpenError](err); ok {
		return e
	}
	reason := "SQLite cannot open it"
	switch {
	case errors.Is(err, ErrCorrupt):
		reason = "it is not a store file, or it is damaged; restore it from a backup or name another file"
	case errors.Is(err, ErrFull):
		reason = "there is no room for it; free some and try again"
	case errors.Is(err, ErrReadOnly):
		reason = "it cannot be written; check the rights of the file and its folder"
	}
	return refuse(path, nil, err, "%s", reason)
}

func (s *Store) connect(flags sqlite3.OpenFlag, pragmas ...string) (*conn, error) {
	c := &conn{path: s.path, stmts: map[string]*stmt{}}
	db, err := sqlite3.OpenFlags(s.path, flags|sqlite3.OPEN_PRIVATECACHE)
	if err != nil {
		return nil, openError(s.path, withSentinel(s.path, err))
	}
	c.db = db
	err = db.BusyTimeout(s.cfg.BusyTimeout)
	for _, p := range pragmas {
		if err == nil {
			err = db.Exec("PRAGMA " + p)
		}
	}
	if err != nil {
		_ = db.Close()
		return nil, c.explain(err)
	}
	return c, nil
}

func withSentinel(path string, err error) error {
	if s := sentinel(path, err); s != nil {
		return fmt.Errorf("%w: %w", s, err)
	}
	return err
}

func (s *Store) openWriter(migrations []string) (*conn, error) {
	sync := "synchronous = FULL"
	if s.cfg.Sync == SyncNormal {
		sync = "synchronous = NORMAL"
	}
	c, err := s.connect(sqlite3.OPEN_READWRITE|sqlite3.OPEN_CREATE,
		"journal_mode = WAL", sync,
		"foreign_keys = OFF",
		// Overwrites what is deleted, so that an erased person is gone from
		// the file.
		"secure_delete = ON",
		"temp_store = MEMORY",
		"cache_size = -"+strconv.Itoa(s.cfg.CacheSize>>10),
		"wal_autocheckpoint = 4000",
		"journal_size_limit = 67108864",
	)
	if err != nil {
		return nil, err
	}
	if ro, _ := c.db.ReadOnly("main"); ro {
		return nil, errors.Join(refuse(s.path, ErrReadOnly, nil, "it cannot be written; check the rights of the file and its folder"), c.close())
	}
	if err := c.prepareSchema(migrations, s.cfg.Migrate); err != nil {
		return nil, errors.Join(err, c.close())
	}
	if err := s.readLastSeq(c); err != nil {
		return nil, errors.Join(err, c.close())
	}
	// A process that was killed leaves its WAL behind. It may hold somebody
	// whose erasure is committed, but was not wiped yet.
	s.wipe.Store(true)
	s.wipeWAL(c, wipePatience)
	return c, nil
}

func (s *Store) openReader() (*conn, error) {
	return s.connect(sqlite3.OPEN_READWRITE, "query_only = ON", "temp_store = MEMORY", "cache_size = -4096")
}
