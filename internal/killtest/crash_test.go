package killtest_test

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/fluxlytest"
	"github.com/getfluxly/fluxly/internal/pgtest"
	"github.com/getfluxly/fluxly/postgres"
)

const (
	crashStores   = 8
	crashTrackers = 24
	// crashesInRound is how often the server crashes in one round.
	crashesInRound = 8
)

// A backend of the server is killed again and again, under load: the server
// ends all others and recovers, and gives the numbers of lost transactions out
// again. Every event whose Track returned nil is there.
// It is not parallel to other tests, because one at a time may have the server.
func TestBackendCrashes(t *testing.T) {
	server, url := ownServer(t)
	schema := pgtest.SchemaOf(t, url)
	var stores []*postgres.Store
	var engines []*fluxly.Engine
	for i := range crashStores {
		store, err := postgres.Open(t.Context(), pgtest.PoolOf(t, url), postgres.Config{Schema: schema, Migrate: i == 0})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = store.Close() })
		engine, err := fluxly.New(fluxly.Config{Store: store, Sender: &fluxlytest.FakeSender{}, Mode: fluxly.DryRun, From: "Acme <hello@acme.test>"})
		if err != nil {
			t.Fatal(err)
		}
		stores, engines = append(stores, store), append(engines, engine)
	}
	var over atomic.Bool
	defer over.Store(true)
	var stored, failed atomic.Int64
	told := make([][]string, crashTrackers)
	var wg sync.WaitGroup
	for i := range crashTrackers {
		wg.Go(func() {
			e := engines[i%crashStores]
			for n := 0; !over.Load(); n++ {
				id := fmt.Sprintf("m%d-%d", i, n)
				// An event is not tried again: it is lost, or told to be there.
				err := e.Track(t.Context(), fluxly.Event{Name: "x", ExternalID: fmt.Sprintf("u%d-%d", i, n%50), MessageID: id})
				if err == nil {
					stored.Add(1)
					told[i] = append(told[i], id)
					continue
				}
				failed.Add(1)
				<-time.After(10 * time.Millisecond)
			}
		})
	}
	crashes := rounds(t) * crashesInRound
	for range crashes {
		// Not before it works again.
		before, limit := stored.Load(), time.Now().Add(patience)
		for stored.Load() < before+50 && time.Now().Before(limit) {
			<-time.After(10 * time.Millisecond)
		}
		if stored.Load() == before {
			t.Fatal("nothing is stored any more")
		}
		<-time.After(time.Duration(rand.Int64N(int64(300 * time.Millisecond))))
		server("crash")
	}
	over.Store(true)
	wg.Wait()
	there := eventsOf(t, stores[0])
	lost := 0
	for _, list := range told {
		for _, id := range list {
			if there[id] {
				continue
			}
			if lost++; lost <= 10 {
				t.Errorf("Track(%s) returned nil, and the event is not there", id)
			}
		}
	}
	t.Logf("%d crashes, %d events stored, %d failed, %d told to be stored and lost", crashes, stored.Load(), failed.Load(), lost)
}

// eventsOf are the message ids of all events of a store, whose server may still
// be recovering.
func eventsOf(t *testing.T, s fluxly.Store) (all map[string]bool) {
	t.Helper()
	ctx := t.Context()
	read := func(tx fluxly.Tx) error {
		all = map[string]bool{}
		people, err := tx.Profiles(ctx, "", 1<<20)
		for _, p := range people {
			var list []*fluxly.StoredEvent
			if list, err = tx.Events(ctx, p.ID, fluxly.EventQuery{}); err != nil {
				break
			}
			for _, e := range list {
				all[e.MessageID] = true
			}
		}
		return err
	}
	limit := time.Now().Add(patience)
	for {
		err := s.View(ctx, read)
		if err == nil {
			return all
		}
		if time.Now().After(limit) {
			t.Fatal(err)
		}
		<-time.After(100 * time.Millisecond)
	}
}
