package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/getfluxly/fluxly"
)

// Pruning takes nothing that a live run may look back at, also while its person
// moves from one profile to another, and nobody waits for it or is waited for.
func TestPruneBesideMerges(t *testing.T) {
	t.Parallel()
	stores := openTwo(t)
	ctx := t.Context()
	const people, each = 8, 5
	old := time.Unix(1000, 0)
	err := stores[0].Update(ctx, func(tx fluxly.Tx) error {
		for n := range people {
			id := fmt.Sprint("p", n)
			for i := range each {
				for _, of := range []string{id, "nobody-waits"} {
					e := &fluxly.StoredEvent{MessageID: fmt.Sprint(of, "-", n, "-", i), ProfileID: of, Name: "x", OccurredAt: old, ReceivedAt: old}
					if _, _, err := tx.PutEvent(ctx, e); err != nil {
						return err
					}
				}
			}
			if err := tx.PutRun(ctx, &fluxly.Run{ID: "r" + id, ProfileID: id, Status: fluxly.RunLive, StartedAt: old}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var removed atomic.Int64
	var others, pruner sync.WaitGroup
	var stop atomic.Bool
	for n := range people {
		others.Go(func() {
			from, to := fmt.Sprint("p", n), fmt.Sprint("q", n)
			for range 30 {
				if err := stores[0].Update(ctx, func(tx fluxly.Tx) error { return tx.MergeProfile(ctx, from, to) }); err != nil {
					t.Errorf("MergeProfile: %v", err)
				}
				from, to = to, from
			}
		})
	}
	pruner.Go(func() {
		for last := false; !last; {
			last = stop.Load()
			err := stores[1].Update(ctx, func(tx fluxly.Tx) error {
				res, err := tx.PruneEvents(ctx, fluxly.PruneQuery{Before: time.Now()})
				if err != nil {
					return err
				}
				removed.Add(int64(res.Removed))
				_, err = tx.PruneRuns(ctx, fluxly.PruneQuery{Before: time.Now()})
				return err
			})
			if err != nil {
				t.Errorf("Prune: %v", err)
			}
		}
	})
	others.Wait()
	stop.Store(true)
	pruner.Wait()
	if removed.Load() != people*each {
		t.Errorf("%d events went, want the %d of the person without a run", removed.Load(), people*each)
	}
	err = stores[0].View(ctx, func(tx fluxly.Tx) error {
		for n := range people {
			events, err := tx.Events(ctx, fmt.Sprint("p", n), fluxly.EventQuery{})
			if err != nil {
				return err
			}
			if len(events) != each {
				t.Errorf("%d events of person %d are left, want %d", len(events), n, each)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Rows that another transaction has locked are left for the next time.
func TestPruneLeavesLockedRows(t *testing.T) {
	t.Parallel()
	stores := openTwo(t)
	ctx := t.Context()
	old := time.Unix(1000, 0)
	put := func(tx fluxly.Tx, id string) error {
		_, _, err := tx.PutEvent(ctx, &fluxly.StoredEvent{MessageID: "m" + id, ProfileID: id, Name: "x", OccurredAt: old, ReceivedAt: old})
		return errors.Join(err,
			tx.PutRun(ctx, &fluxly.Run{ID: "r" + id, ProfileID: id, Status: fluxly.RunCompleted, StartedAt: old, EndedAt: old, LogLen: 1}),
			tx.AppendLog(ctx, []fluxly.LogEntry{{RunID: "r" + id}}),
			tx.PutSend(ctx, &fluxly.SendRecord{Key: "k" + id, ProfileID: id, RunID: "r" + id, Status: fluxly.SendAccepted, QueuedAt: old}))
	}
	if err := stores[0].Update(ctx, func(tx fluxly.Tx) error { return errors.Join(put(tx, "a"), put(tx, "b")) }); err != nil {
		t.Fatal(err)
	}
	prunes := []func(fluxly.Tx, context.Context, fluxly.PruneQuery) (fluxly.PruneResult, error){
		fluxly.Tx.PruneEvents, fluxly.Tx.PruneSends, fluxly.Tx.PruneRuns,
	}
	prune := func() (removed []int) {
		for _, f := range prunes {
			err := stores[1].Update(ctx, func(tx fluxly.Tx) error {
				res, err := f(tx, ctx, fluxly.PruneQuery{Before: time.Now()})
				removed = append(removed, res.Removed+res.LogEntries)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		return removed
	}
	err := stores[0].Update(ctx, func(tx fluxly.Tx) error {
		if err := tx.MergeProfile(ctx, "a", "c"); err != nil {
			return err
		}
		if _, err := tx.Profile(ctx, "c"); err != nil { // so that it is written
			return err
		}
		if got, want := prune(), []int{1, 1, 1}; !slices.Equal(got, want) {
			return fmt.Errorf("beside a merge %v went, want %v", got, want)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := prune(), []int{1, 1, 1}; !slices.Equal(got, want) {
		t.Errorf("after it %v went, want %v", got, want)
	}
}
