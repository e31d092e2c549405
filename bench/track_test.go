package bench

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ncruces/go-sqlite3"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/sqlite"
)

const (
	trackCallers = 64
	// trackBar is the least rate against the bare program, and trackAloneBar
	// the most time of one call.
	trackBar      = 0.5
	trackAloneBar = 2.0
)

// trackPeople are known when the measurement begins.
func trackPeople() int {
	if underRace {
		return 200
	}
	return 10_000
}

// bareTables are the tables that Track writes, with the condition by which the
// rows of new events are found: ?1 is the last pid, ?2 the last seq that is
// known.
var bareTables = []struct{ name, columns, since string }{
	{"profiles", "pid, id, created, updated, user_ids, external_ids, anonymous_ids, traits, unsubscribed", "t.pid > ?1"},
	{"identities", "kind, value, pid", "t.pid > ?1"},
	{"events", "seq, message_id, pid, nid, occurred, received, digest, properties, traits", "t.seq > ?2"},
	{"runs", "rid, id, pid, automation, version, key, status, step, started, due_kind, due_at, waits, body", "t.pid > ?1"},
	{"run_log", "run_id, seq, automation, at, step, code, detail", "t.pid > ?1"},
	{"sends", "sid, key, pid, run_id, automation, step, status, reason, queued, due_at, info, body", "t.pid > ?1"},
}

// bareRow is a row of a table as it is stored.
type bareRow struct {
	table  int
	values []any
}

// bare is the program that an engine is compared with: it knows all rows
// beforehand, and writes them into the same tables through the same driver,
// with prepared statements.
type bare struct {
	db            *sqlite3.Conn
	begin, commit *sqlite3.Stmt
	insert        []*sqlite3.Stmt
}

// The settings are those of package sqlite.
const barePragmas = "PRAGMA synchronous = FULL; PRAGMA foreign_keys = OFF; PRAGMA secure_delete = ON; PRAGMA temp_store = MEMORY; " +
	"PRAGMA cache_size = -32768; PRAGMA wal_autocheckpoint = 4000; PRAGMA journal_size_limit = 67108864"

func newBare(tb testing.TB, path string) *bare {
	tb.Helper()
	db, err := sqlite3.Open(path)
	must(err)
	tb.Cleanup(func() { _ = db.Close() })
	must(db.Exec(barePragmas))
	b := &bare{db: db}
	prepare := func(sql string) *sqlite3.Stmt {
		s, _, err := db.PrepareFlags(sql, sqlite3.PREPARE_PERSISTENT)
		must(err)
		tb.Cleanup(func() { _ = s.Close() })
		return s
	}
	b.begin, b.commit = prepare("BEGIN IMMEDIATE"), prepare("COMMIT")
	for _, t := range bareTables {
		marks := strings.Repeat(", ?", strings.Count(t.columns, ",")+1)[2:]
		b.insert = append(b.insert, prepare("INSERT INTO "+t.name+" ("+t.columns+") VALUES ("+marks+")"))
	}
	return b
}

// write writes the rows of events, so many events in a commit.
func (b *bare) write(events [][]bareRow, batch int) {
	for len(events) > 0 {
		n := min(batch, len(events))
		must(b.begin.Exec())
		for _, rows := range events[:n] {
			for i := range rows {
				s := b.insert[rows[i].table]
				for k, v := range rows[i].values {
					must(bindAny(s, k+1, v))
				}
				must(s.Exec())
			}
		}
		must(b.commit.Exec())
		events = events[n:]
	}
}

func bindAny(s *sqlite3.Stmt, k int, v any) error {
	switch v := v.(type) {
	case int64:
		return s.BindInt64(k, v)
	case string:
		return s.BindText(k, v)
	case []byte:
		return s.BindBlob(k, v)
	}
	return s.BindNull(k)
}

// rowReader reads what an engine has written since the last time, as the rows
// of each event.
type rowReader struct {
	db       *sqlite3.Conn
	pid, seq int64
}

func (r *rowReader) mark() {
	s, _, err := r.db.Prepare("SELECT coalesce((SELECT max(pid) FROM profiles), 0), coalesce((SELECT max(seq) FROM events), 0)")
	must(err)
	if s.Step() {
		r.pid, r.seq = s.ColumnInt64(0), s.ColumnInt64(1)
	}
	must(s.Close())
}

func (r *rowReader) read() [][]bareRow {
	var order []int64 // seq
	eventOf := map[int64][]bareRow{}
	firstEvent := map[int64]int64{} // by pid
	collect := func(table int, by func(key int64) int64) {
		t := bareTables[table]
		key, from := "t.pid", t.name+" t"
		switch t.name {
		case "events":
			key = "t.seq"
		case "run_log":
			from, key = "run_log t JOIN runs r ON r.id = t.run_id", "r.pid"
		}
		columns := "t." + strings.ReplaceAll(t.columns, ", ", ", t.")
		s, _, err := r.db.Prepare("SELECT " + key + ", " + columns + " FROM " + from + " WHERE " + strings.Replace(t.since, "t.pid", strings.Replace(key, "t.seq", "t.pid", 1), 1) + " ORDER BY 1")
		must(err)
		for k, v := range []int64{r.pid, r.seq} {
			if k < s.BindCount() {
				must(s.BindInt64(k+1, v))
			}
		}
		for s.Step() {
			row := bareRow{table: table, values: make([]any, s.ColumnCount()-1)}
			for k := range row.values {
				switch s.ColumnType(k + 1) {
				case sqlite3.INTEGER:
					row.values[k] = s.ColumnInt64(k + 1)
				case sqlite3.TEXT:
					row.values[k] = s.ColumnText(k + 1)
				case sqlite3.BLOB:
					row.values[k] = s.ColumnBlob(k+1, nil)
				}
			}
			seq := by(s.ColumnInt64(0))
			if table == 2 {
				order = append(order, seq)
				if pid := row.values[2].(int64); pid > r.pid && firstEvent[pid] == 0 {
					firstEvent[pid] = seq
				}
			}
			eventOf[seq] = append(eventOf[seq], row)
		}
		must(s.Err())
		must(s.Close())
	}
	collect(2, func(seq int64) int64 { return seq })
	for _, table := range []int{0, 1, 3, 4, 5} {
		collect(table, func(pid int64) int64 { return firstEvent[pid] })
	}
	events := make([][]bareRow, len(order))
	for i, seq := range order {
		events[i] = eventOf[seq]
	}
	r.mark()
	return events
}

// trackPair is an engine and the bare program, each on a file of its own with
// the same content to begin with.
type trackPair struct {
	engine *fluxly.Engine
	store  *commits
	bare   *bare
	reader *rowReader
}

func newTrackPair(tb testing.TB) *trackPair {
	tb.Helper()
	dir := tb.TempDir()
	path, copied := filepath.Join(dir, "fluxly.db"), filepath.Join(dir, "bare.db")
	store, err := sqlite.Open(path)
	must(err)
	putPeople(tb, store, 0, trackPeople())
	e := newEngine(tb, fluxly.Config{Store: store})
	// The names of the events have their numbers.
	must(e.Track(tb.Context(), known(0)))
	must(e.Track(tb.Context(), newcomer(0)))
	must(store.Close())
	raw, err := os.ReadFile(path)
	must(err)
	must(os.WriteFile(copied, raw, 0o600))

	p := &trackPair{store: &commits{Store: openSQLite(tb, path)}, bare: newBare(tb, copied)}
	p.engine = newEngine(tb, fluxly.Config{Store: p.store})
	db, err := sqlite3.OpenFlags(path, sqlite3.OPEN_READONLY)
	must(err)
	tb.Cleanup(func() { _ = db.Close() })
	p.reader = &rowReader{db: db}
	p.reader.mark()
	return p
}

// track tracks events from many goroutines and returns how long it took, and
// how many events shared a commit on average.
func (p *trackPair) track(tb testing.TB, events []fluxly.Event) (time.Duration, float64) {
	tb.Helper()
	before := p.store.n.Load()
	var wg sync.WaitGroup
	start := time.Now()
	for c := range trackCallers {
		wg.Go(func() {
			for i := c; i < len(events); i += trackCallers {
				if err := p.engine.Track(tb.Context(), events[i]); err != nil {
					tb.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	return time.Since(start), float64(len(events)) / float64(p.store.n.Load()-before)
}

// TestTrack compares durable Track calls from 64 goroutines with a bare
// program that writes the same rows in batches of the same size.
func TestTrack(t *testing.T) {
	rounds, each := 21, 2_048
	if underRace {
		rounds, each = 1, 128
	}
	for _, c := range []struct {
		name string
		make func(r *rand.Rand, n int) fluxly.Event
	}{
		{"a known person, nobody asks", func(r *rand.Rand, _ int) fluxly.Event { return known(r.IntN(trackPeople())) }},
		{"a new person, run and mail", func(_ *rand.Rand, n int) fluxly.Event { return newcomer(n) }},
		{"mixed, one in ten new", func(r *rand.Rand, n int) fluxly.Event {
			if n%10 == 0 {
				return newcomer(n)
			}
			return known(r.IntN(trackPeople()))
		}},
	} {
		t.Run(strings.ReplaceAll(c.name, ",", ""), func(t *testing.T) {
			p := newTrackPair(t)
			r := rand.New(rand.NewPCG(1, 2))
			var ratios, mine, theirs, sizes []float64
			var rows [][]bareRow
			batch, n := 0, 1
			for round := range rounds + 1 {
				events := make([]fluxly.Event, each)
				for i := range events {
					events[i] = c.make(r, n)
					n++
				}
				var took, bareTook time.Duration
				var size float64
				engine := func() { took, size = p.track(t, events) }
				// The bare program writes the rows of the round before, so
				// that each may go first.
				write := func() {
					start := time.Now()
					p.bare.write(rows, batch)
					bareTook = time.Since(start)
				}
				if round%2 == 0 {
					engine()
					write()
				} else {
					write()
					engine()
				}
				if round > 0 {
					ratios = append(ratios, float64(bareTook)/float64(took))
					mine = append(mine, float64(each)/took.Seconds())
					theirs = append(theirs, float64(each)/bareTook.Seconds())
					sizes = append(sizes, size)
				}
				rows, batch = p.reader.read(), max(1, int(size+0.5))
				if len(rows) != each {
					t.Fatalf("%d events were stored, %d tracked", len(rows), each)
				}
			}
			count := 0
			for _, e := range rows {
				count += len(e)
			}
			ratio := median(ratios)
			t.Logf("fluxly %.0f events/s, bare %.0f events/s: %.2fx; %.1f rows an event, %.0f events a commit",
				median(mine), median(theirs), ratio, float64(count)/float64(len(rows)), median(sizes))
			if ratio < trackBar && !underRace {
				t.Errorf("%.2fx the rate of the bare program; the bar is %.1fx", ratio, trackBar)
			}
		})
	}
}

// TestTrackAlone compares one call of Track at a time with one bare commit of
// the same rows.
func TestTrackAlone(t *testing.T) {
	rounds, each := 21, 50
	if underRace {
		rounds, each = 1, 5
	}
	for _, c := range []struct {
		name string
		make func(r *rand.Rand, n int) fluxly.Event
	}{
		{"a known person", func(r *rand.Rand, _ int) fluxly.Event { return known(r.IntN(trackPeople())) }},
		{"a new person", func(_ *rand.Rand, n int) fluxly.Event { return newcomer(n) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newTrackPair(t)
			r := rand.New(rand.NewPCG(1, 3))
			var mine, theirs []time.Duration
			var rows [][]bareRow
			n := 1
			for range rounds + 1 {
				// One after the other, the bare program with the rows of the
				// round before.
				for i := range each {
					ev := c.make(r, n)
					n++
					start := time.Now()
					must(p.engine.Track(t.Context(), ev))
					middle := time.Now()
					if rows == nil {
						continue
					}
					p.bare.write(rows[i:i+1], 1)
					mine = append(mine, middle.Sub(start))
					theirs = append(theirs, time.Since(middle))
				}
				rows = p.reader.read()
			}
			a, b := quantile(mine, 0.5), quantile(theirs, 0.5)
			ratio := float64(a) / float64(b)
			t.Logf("p50 %v, bare %v: %.2fx; p99 %v, bare %v", a, b, ratio, quantile(mine, 0.99), quantile(theirs, 0.99))
			if ratio > trackAloneBar && !underRace {
				t.Errorf("%.2f times the bare commit; the bar is %.0f", ratio, trackAloneBar)
			}
		})
	}
}

// BenchmarkTrack is what a profile is taken of.
func BenchmarkTrack(b *testing.B) {
	for name, make := range map[string]func(n int) fluxly.Event{
		"known": func(n int) fluxly.Event { return known(n * 7919 % trackPeople()) },
		"new":   newcomer,
	} {
		b.Run(name, func(b *testing.B) {
			p := newTrackPair(b)
			b.ReportAllocs()
			events := []fluxly.Event{}
			for n := range b.N {
				events = append(events, make(n+1))
			}
			b.ResetTimer()
			_, size := p.track(b, events)
			b.ReportMetric(size, "events/commit")
		})
	}
}
