package postgres

import (
	"context"
	"errors"
	"strconv"
	"testing"
	"time"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/internal/cutproxy"
	"github.com/getfluxly/fluxly/internal/pgtest"
)

// proved are writes of which each leaves a row that tells whose it is.
var proved = map[string]func(ctx context.Context, tx fluxly.Tx) error{
	"event": func(ctx context.Context, tx fluxly.Tx) error {
		_, _, err := tx.PutEvent(ctx, &fluxly.StoredEvent{
			MessageID: "m1", Name: "x", ProfileID: "p1", OccurredAt: someTime, ReceivedAt: someTime, Digest: [32]byte{7},
			Properties: fluxly.Properties{"a": "b"},
		})
		return err
	},
	"mail": func(ctx context.Context, tx fluxly.Tx) error {
		for _, status := range []fluxly.SendStatus{fluxly.SendQueued, fluxly.SendSending} {
			err := tx.PutSend(ctx, &fluxly.SendRecord{
				Key: "k1", ProfileID: "p1", RunID: "r1", Status: status, QueuedAt: someTime, Owner: "me", Email: "<&\u00e9\u2028",
			})
			if err != nil {
				return err
			}
			// A question sends what was written so far.
			if _, err := tx.Sends(ctx, fluxly.SendQuery{}); err != nil {
				return err
			}
		}
		return nil
	},
	"run": func(ctx context.Context, tx fluxly.Tx) error {
		for _, step := range []string{"1", "2"} {
			run := &fluxly.Run{ID: "r1", ProfileID: "p1", Status: fluxly.RunLive, Step: step, StartedAt: someTime, Results: fluxly.Properties{"n": 1.5}}
			if err := tx.PutRun(ctx, run); err != nil {
				return err
			}
			if _, err := tx.Runs(ctx, fluxly.RunQuery{}); err != nil {
				return err
			}
		}
		return nil
	},
	"profile": func(ctx context.Context, tx fluxly.Tx) error {
		for _, name := range []string{"Ada", "Eve"} {
			p := &fluxly.Profile{ID: "p1", CreatedAt: someTime, UpdatedAt: someTime, Traits: fluxly.Traits{"name": name}}
			if err := tx.PutProfile(ctx, p); err != nil {
				return err
			}
			if _, err := tx.Profiles(ctx, "", 9); err != nil {
				return err
			}
		}
		return nil
	},
	"meter": func(ctx context.Context, tx fluxly.Tx) error {
		return tx.PutMeter(ctx, &fluxly.Meter{Name: "m", Used: []time.Time{someTime}})
	},
	"suppression": func(ctx context.Context, tx fluxly.Tx) error {
		return tx.PutSuppression(ctx, &fluxly.Suppression{Address: "A@acme.test", Reason: "bounce", Origin: "provider", At: someTime})
	},
	"erasure": func(ctx context.Context, tx fluxly.Tx) error {
		return tx.PutErasure(ctx, &fluxly.ErasureRecord{ID: "e1", Reason: "request", RequestID: "q", At: someTime})
	},
	"definition": func(ctx context.Context, tx fluxly.Tx) error {
		return tx.PutDefinition(ctx, &fluxly.Definition{Automation: "a", Version: "1", CreatedAt: someTime, JSON: []byte("{}")})
	},
	"event and all else": func(ctx context.Context, tx fluxly.Tx) error {
		if _, _, err := tx.PutEvent(ctx, &fluxly.StoredEvent{MessageID: "m2", Name: "y", ProfileID: "p2"}); err != nil {
			return err
		}
		return errors.Join(tx.PutProfile(ctx, &fluxly.Profile{ID: "p2"}), tx.MergeProfile(ctx, "p2", "p3"), tx.PutMeter(ctx, &fluxly.Meter{Name: "m"}))
	},
}

var someTime = time.Date(2026, 5, 4, 3, 2, 1, 123456789, time.UTC)

// foreign returns the number of a transaction that somebody else committed.
func foreign(t *testing.T, s *Store) (xid string) {
	t.Helper()
	if err := s.pool.QueryRow(t.Context(), "SELECT pg_current_xact_id()::text").Scan(&xid); err != nil {
		t.Fatal(err)
	}
	return xid
}

// After a crash of the server the number of a transaction that was lost is
// given out again. Its commit is believed for a row of the transaction alone.
func TestCommitIsProved(t *testing.T) {
	t.Parallel()
	for name, write := range proved {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for m, mode := range map[string]mode{"buffered": modeAuto, "careful": modeCareful} {
				s, proxy, pattern := throughProxy(t)
				s.mode = mode
				other := foreign(t, s)
				update := func(moment cutproxy.Moment, xid string) (calls int, err error) {
					// A connection that has committed knows the name of COMMIT.
					if err := s.Update(t.Context(), func(tx fluxly.Tx) error { return tx.DeleteSuppression(t.Context(), "nobody", "") }); err != nil {
						t.Fatal(err)
					}
					proxy.Cut(pattern, moment, false)
					err = s.Update(t.Context(), func(tx fluxly.Tx) error {
						calls++
						if err := write(t.Context(), tx); err != nil {
							return err
						}
						if raw := tx.(*transaction); xid != "" && calls == 1 {
							// So that its own number is known, and then hidden.
							if _, err := tx.Erasures(t.Context()); err != nil {
								return err
							}
							raw.xid = xid
						}
						return nil
					})
					return calls, err
				}
				if calls, err := update(cutproxy.Before, other); !errors.Is(err, ErrOutcomeUnknown) || calls != 1 {
					t.Errorf("%s, lost, its number committed by somebody else: %v after %d calls, want ErrOutcomeUnknown after one", m, err, calls)
				}
				if calls, err := update(cutproxy.After, ""); err != nil || calls != 1 {
					t.Errorf("%s, committed: %v after %d calls, want no error and one", m, err, calls)
				}
			}
		})
	}
}

// transaction is what a store of this package calls a function with.
type transaction = tx

// A number that the database has not given out is that of a transaction that
// it has lost.
func TestCommitIsLostWithItsNumber(t *testing.T) {
	t.Parallel()
	s, proxy, pattern := throughProxy(t)
	proxy.Cut(pattern, cutproxy.Before, false)
	now, err := strconv.ParseUint(foreign(t, s), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	calls := 0
	err = s.Update(t.Context(), func(tx fluxly.Tx) error {
		if err := count(t.Context(), &calls)(tx); err != nil {
			return err
		}
		if calls == 1 {
			tx.(*transaction).xid = strconv.FormatUint(now+1_000_000_000, 10)
		}
		return nil
	})
	if n := meterCount(t, s, "m"); err != nil || calls != 2 || n != 1 {
		t.Errorf("Update: %v after %d calls, stored %d times; want no error, two calls, stored once", err, calls, n)
	}
}

// Where somebody changed the row since, nobody can say.
func TestCommitIsNotProvedByWhatOthersWrote(t *testing.T) {
	t.Parallel()
	s, _, _ := throughProxy(t)
	ctx, lost := t.Context(), errors.New("lost")
	var kept *transaction
	put := func() {
		t.Helper()
		err := s.Update(ctx, func(tx fluxly.Tx) error {
			kept = tx.(*transaction)
			return proved["run"](ctx, tx)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	put()
	first := kept
	if again, err := s.outcome(ctx, first, lost); again || err != nil {
		t.Errorf("its own row: %v, want no error", err)
	}
	put() // the same content again
	if again, err := s.outcome(ctx, first, lost); again || !errors.Is(err, ErrOutcomeUnknown) || !errors.Is(err, lost) {
		t.Errorf("the row of somebody else: %v, want ErrOutcomeUnknown", err)
	}
	// Of the same number, but of other content.
	kept.proof.args[len(kept.proof.args)-1] = "{}"
	if again, err := s.outcome(ctx, kept, lost); again || !errors.Is(err, ErrOutcomeUnknown) {
		t.Errorf("other content: %v, want ErrOutcomeUnknown", err)
	}
	kept.proof = proof{}
	if again, err := s.outcome(ctx, kept, lost); again || !errors.Is(err, ErrOutcomeUnknown) {
		t.Errorf("no row: %v, want ErrOutcomeUnknown", err)
	}
}

// A crash of the server may set back the sequence from which processes draw the
// numbers of people, and then two have the same ones.
func TestNumbersGivenOutTwice(t *testing.T) {
	t.Parallel()
	ctx, schema := t.Context(), pgtest.Schema(t)
	first, second := openIn(t, schema), openIn(t, schema)
	put := func(s *Store, id string) {
		t.Helper()
		if err := s.Update(ctx, func(tx fluxly.Tx) error { return tx.PutProfile(ctx, &fluxly.Profile{ID: id}) }); err != nil {
			t.Fatal(err)
		}
	}
	put(first, "p")
	if _, err := first.pool.Exec(ctx, first.sql("SELECT setval('fluxly.pids', 1, false)")); err != nil {
		t.Fatal(err)
	}
	for i := range 2 * attempts {
		put(second, "q"+strconv.Itoa(i))
	}
	put(first, "r")
}

// What only looks has nothing to lose.
func TestLostCommitOfNothing(t *testing.T) {
	t.Parallel()
	s, proxy, pattern := throughProxy(t)
	proxy.Cut(pattern, cutproxy.Before, false)
	err := s.Update(t.Context(), func(tx fluxly.Tx) error {
		_, err := tx.Profile(t.Context(), "nobody")
		return err
	})
	if err != nil {
		t.Errorf("Update: %v", err)
	}
}
