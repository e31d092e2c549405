package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/internal/pgtest"
	"github.com/getfluxly/fluxly/postgres"
)

// pgTables are the tables that Track writes, with their columns (the second
// list are those of type json) and the condition by which the rows of new
// events are found: $1 is the last pid, $2 the last seq that is known.
var pgTables = []struct{ name, columns, json, key, since string }{
	{"events", "seq, message_id, pid, nid, occurred, received, digest", "properties, traits", "t.seq", "t.seq > $2"},
	{"profiles", "pid, id, created, updated", "user_ids, external_ids, anonymous_ids, traits, unsubscribed", "t.pid", "t.pid > $1"},
	{"identities", "id, pid", "", "t.pid", "t.pid > $1"},
	{"runs", "id, pid, automation, version, key, status, step, started, due_kind, due_at", "waits, body", "t.pid", "t.pid > $1"},
	{"run_log", "run_id, seq, automation, at, step, code", "detail", "r.pid", "r.pid > $1"},
	{"sends", "key, pid, run_id, automation, step, status, reason, queued, due_at, body", "info", "t.pid", "t.pid > $1"},
}

func splitColumns(list string) []string {
	if list == "" {
		return nil
	}
	return strings.Split(list, ", ")
}

// pgBare is the program that an engine is compared with: it knows all rows
// beforehand, and writes them into tables of the same form through the same
// driver: a batch of prepared statements from BEGIN to COMMIT in one trip.
type pgBare struct {
	conn   *pgx.Conn
	insert []string
}

func newPGBare(tb testing.TB, schema string) *pgBare {
	tb.Helper()
	conn, err := pgx.Connect(tb.Context(), pgtest.URL(tb))
	must(err)
	tb.Cleanup(func() { _ = conn.Close(context.Background()) })
	b := &pgBare{conn: conn}
	for _, t := range pgTables {
		plain, js := splitColumns(t.columns), splitColumns(t.json)
		var marks []string
		for i := range plain {
			marks = append(marks, fmt.Sprintf("$%d", i+1))
		}
		for i := range js {
			marks = append(marks, fmt.Sprintf("$%d::json", len(plain)+i+1))
		}
		b.insert = append(b.insert, fmt.Sprintf("INSERT INTO %s.%s (%s) VALUES (%s)", schema, t.name,
			strings.Join(append(plain, js...), ", "), strings.Join(marks, ", ")))
	}
	return b
}

// write writes the rows of events, so many events in a commit.
func (b *pgBare) write(ctx context.Context, events [][]bareRow, batch int) {
	for len(events) > 0 {
		n := min(batch, len(events))
		var q pgx.Batch
		q.Queue("BEGIN")
		for _, rows := range events[:n] {
			for i := range rows {
				q.Queue(b.insert[rows[i].table], rows[i].values...)
			}
		}
		q.Queue("COMMIT")
		must(b.conn.SendBatch(ctx, &q).Close())
		events = events[n:]
	}
}

// pgReader reads what an engine has written since the last time, as the rows
// of each event.
type pgReader struct {
	pool     *pgxpool.Pool
	schema   string
	pid, seq int64
}

func (r *pgReader) mark(ctx context.Context) {
	must(r.pool.QueryRow(ctx, fmt.Sprintf("SELECT coalesce((SELECT max(pid) FROM %[1]s.profiles), 0), coalesce((SELECT max(seq) FROM %[1]s.events), 0)", r.schema)).
		Scan(&r.pid, &r.seq))
}

func (r *pgReader) read(ctx context.Context) [][]bareRow {
	var order []int64 // seq
	eventOf := map[int64][]bareRow{}
	firstEvent := map[int64]int64{} // by pid
	for table, t := range pgTables {
		var columns []string
		for _, c := range splitColumns(t.columns) {
			columns = append(columns, "t."+c)
		}
		for _, c := range splitColumns(t.json) {
			columns = append(columns, "t."+c+"::text")
		}
		from := r.schema + "." + t.name + " t"
		if t.name == "run_log" {
			from += " JOIN " + r.schema + ".runs r ON r.id = t.run_id"
		}
		rows, err := r.pool.Query(ctx, "SELECT "+t.key+", "+strings.Join(columns, ", ")+" FROM "+from+
			" WHERE $1::bigint IS NOT NULL AND $2::bigint IS NOT NULL AND "+t.since+" ORDER BY 1", r.pid, r.seq)
		must(err)
		for rows.Next() {
			values, err := rows.Values()
			must(err)
			seq := values[0].(int64)
			row := bareRow{table: table, values: values[1:]}
			if t.name == "events" {
				order = append(order, seq)
				if pid := row.values[2].(int64); pid > r.pid && firstEvent[pid] == 0 {
					firstEvent[pid] = seq
				}
			} else {
				seq = firstEvent[seq]
			}
			eventOf[seq] = append(eventOf[seq], row)
		}
		must(rows.Err())
	}
	events := make([][]bareRow, len(order))
	for i, seq := range order {
		events[i] = eventOf[seq]
	}
	r.mark(ctx)
	return events
}

// pgPair is an engine and the bare program, each in a schema of its own with
// the same content to begin with.
type pgPair struct {
	engine *fluxly.Engine
	store  *commits
	bare   *pgBare
	reader *pgReader
}

func newPGPair(tb testing.TB) *pgPair {
	tb.Helper()
	ctx := tb.Context()
	pool := pgtest.Pool(tb)
	schemas := [2]string{pgtest.Schema(tb), pgtest.Schema(tb)}
	var stores [2]*postgres.Store
	for i, schema := range schemas {
		var err error
		stores[i], err = postgres.Open(ctx, pool, postgres.Config{Schema: schema, Migrate: true})
		must(err)
		tb.Cleanup(func() { _ = stores[i].Close() })
	}
	putPeople(tb, stores[0], 0, trackPeople())
	p := &pgPair{store: &commits{Store: stores[0]}, bare: newPGBare(tb, schemas[1]), reader: &pgReader{pool: pool, schema: schemas[0], seq: -1}}
	p.engine = newEngine(tb, fluxly.Config{Store: p.store})
	// The names of the events have their numbers.
	must(p.engine.Track(ctx, known(0)))
	must(p.engine.Track(ctx, newcomer(0)))
	for _, t := range []string{"profiles", "identities", "events", "runs", "run_log", "sends"} {
		_, err := pool.Exec(ctx, fmt.Sprintf("INSERT INTO %s.%s SELECT * FROM %s.%s", schemas[1], t, schemas[0], t))
		must(err)
		for _, schema := range schemas {
			_, err := pool.Exec(ctx, fmt.Sprintf("VACUUM ANALYZE %s.%s", schema, t))
			must(err)
		}
	}
	p.reader.mark(ctx)
	return p
}

// track tracks events from many goroutines and returns how long it took, and
// how many events shared a commit on average.
func (p *pgPair) track(tb testing.TB, events []fluxly.Event) (time.Duration, float64) {
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

// TestTrackPostgres compares durable Track calls from 64 goroutines of one
// process with a bare program that writes the same rows in batches of the same
// size.
func TestTrackPostgres(t *testing.T) {
	pgtest.URL(t)
	rounds, each := 11, 2_048
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
			p := newPGPair(t)
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
					p.bare.write(t.Context(), rows, batch)
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
				rows, batch = p.reader.read(t.Context()), max(1, int(size+0.5))
				if len(rows) != each {
					t.Fatalf("%d events were stored, %d tracked", len(rows), each)
				}
			}
			count := 0
			for _, e := range rows {
				count += len(e)
			}
			ratio := median(ratios)
			t.Logf("fluxly %.0f events/s, bare %.0f events/s: %.2fx; %.1f rows an event, %.0f events a commit, %d retries",
				median(mine), median(theirs), ratio, float64(count)/float64(len(rows)), median(sizes), p.store.Store.(*postgres.Store).Retries())
			if ratio < trackBar && !underRace {
				t.Errorf("%.2fx the rate of the bare program; the bar is %.1fx", ratio, trackBar)
			}
		})
	}
}

// BenchmarkTrackPostgres is what a profile is taken of.
func BenchmarkTrackPostgres(b *testing.B) {
	for name, make := range map[string]func(n int) fluxly.Event{
		"known": func(n int) fluxly.Event { return known(n * 7919 % trackPeople()) },
		"new":   newcomer,
	} {
		b.Run(name, func(b *testing.B) {
			p := newPGPair(b)
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
