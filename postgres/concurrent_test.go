package postgres

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/internal/pgtest"
)

// openTwo opens two stores on one schema, each with its own pool, as two
// processes have.
func openTwo(t *testing.T) [2]*Store {
	t.Helper()
	schema := pgtest.Schema(t)
	var stores [2]*Store
	for i := range stores {
		s, err := Open(t.Context(), pgtest.Pool(t), Config{Schema: schema, Migrate: true})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		stores[i] = s
	}
	return stores
}

// Two processes that see a new person at the same time make one profile.
func TestSameNewPerson(t *testing.T) {
	t.Parallel()
	for _, ahead := range []bool{false, true} {
		stores := openTwo(t)
		ctx := t.Context()
		const people, each = 20, 2
		var wg sync.WaitGroup
		for i := range 2 * each {
			wg.Go(func() {
				for n := range people {
					ids := []fluxly.Identifier{{Kind: fluxly.ExternalID, Value: fmt.Sprint("u", n)}}
					err := stores[i%2].Update(ctx, func(tx fluxly.Tx) error {
						message := fmt.Sprint("m", n, "-", i)
						if ahead {
							if err := tx.(fluxly.Preloader).Preload(ctx, []fluxly.Preload{{IDs: ids, MessageID: message, Signals: []string{"x"}}}); err != nil {
								return err
							}
						}
						found, err := tx.FindProfiles(ctx, ids)
						if err != nil {
							return err
						}
						p := &fluxly.Profile{ID: fmt.Sprint("p", n, "-", i), ExternalIDs: []string{ids[0].Value}, CreatedAt: time.Unix(1, 0)}
						if len(found) > 0 {
							p = found[0]
						}
						p.UpdatedAt = time.Unix(int64(i), 0)
						_, _, err = tx.PutEvent(ctx, &fluxly.StoredEvent{MessageID: message, ProfileID: p.ID, Name: "x"})
						return errors.Join(err, tx.PutProfile(ctx, p))
					})
					if err != nil {
						t.Errorf("Update: %v", err)
					}
				}
			})
		}
		wg.Wait()
		err := stores[0].View(ctx, func(tx fluxly.Tx) error {
			all, err := tx.Profiles(ctx, "", 1_000)
			if err != nil {
				return err
			}
			if len(all) != people {
				t.Errorf("%d profiles of %d people", len(all), people)
			}
			for _, p := range all {
				events, err := tx.Events(ctx, p.ID, fluxly.EventQuery{})
				if err != nil {
					return err
				}
				if len(events) != 2*each {
					t.Errorf("profile %s has %d events, want %d", p.ID, len(events), 2*each)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// Transactions that lock the same people the other way round are run again.
func TestDeadlock(t *testing.T) {
	t.Parallel()
	stores := openTwo(t)
	ctx := t.Context()
	put := func(tx fluxly.Tx, id string, visits int) error {
		return tx.PutRun(ctx, &fluxly.Run{ID: "r" + id, ProfileID: id, Status: fluxly.RunLive, Visit: visits})
	}
	if err := stores[0].Update(ctx, func(tx fluxly.Tx) error { return errors.Join(put(tx, "a", 0), put(tx, "b", 0)) }); err != nil {
		t.Fatal(err)
	}
	const rounds = 3
	round := func(i int, s *Store, meet [2]chan struct{}) error {
		order := []string{"a", "b"}
		if i == 1 {
			order = []string{"b", "a"}
		}
		met := false
		return s.Update(ctx, func(tx fluxly.Tx) error {
			for k, id := range order {
				r, err := tx.Run(ctx, "r"+id)
				if err != nil {
					return err
				}
				if err := put(tx, id, r.Visit+1); err != nil {
					return err
				}
				if k == 0 && !met {
					// Both hold their first before either asks for the second.
					met = true
					close(meet[i])
					<-meet[1-i]
				}
			}
			return nil
		})
	}
	for range rounds {
		meet := [2]chan struct{}{make(chan struct{}), make(chan struct{})}
		var wg sync.WaitGroup
		for i, s := range stores {
			wg.Go(func() {
				if err := round(i, s, meet); err != nil {
					t.Errorf("Update: %v", err)
				}
			})
		}
		wg.Wait()
	}
	err := stores[0].View(ctx, func(tx fluxly.Tx) error {
		for _, id := range []string{"ra", "rb"} {
			r, err := tx.Run(ctx, id)
			if err != nil {
				return err
			}
			if r.Visit != 2*rounds {
				t.Errorf("%s was counted %d times, want %d", id, r.Visit, 2*rounds)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if stores[0].Retries()+stores[1].Retries() == 0 {
		t.Error("nothing was run again, so nothing was tested")
	}
}
