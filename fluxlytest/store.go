package fluxlytest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/getfluxly/fluxly"
)

// TestStore is the contract of [fluxly.Store] as a suite of tests: every
// sentence of its documentation, and random histories that must give what the
// in-memory store gives. Run it for a store of your own; open returns an empty
// store each time and closes it with the test's Cleanup. It is called from
// parallel tests.
//
//nolint:tparallel // whoever calls it says whether the whole runs in parallel
func TestStore(t *testing.T, open func(testing.TB) fluxly.Store) {
	t.Helper()
	for _, c := range []struct {
		name string
		run  func(*storeTest)
	}{
		{"an update that fails stores nothing", testRollback},
		{"what was seen in a failed update is forgotten", testRollbackOfReads},
		{"a panic passes through and stores nothing", testPanic},
		{"a transaction is dead afterwards", testDeadTx},
		{"a view refuses writes", testViewRefusesWrites},
		{"a view sees one state", testViewIsolation},
		{"an ended context is refused", testEndedContext},
		{"a closed store is refused", testClosed},
		{"updates run one after another", testConcurrentUpdates},
		{"values handed in and out are copies", testCopies},
		{"every field comes back", testEveryField},
		{"a row is stored whole", testOverwrite},
		{"values keep type and value", testExactValues},
		{"values without a form are refused", testBadValues},
		{"times keep microseconds", testTimes},
		{"long and odd strings come back", testStrings},
		{"profiles are found by their ids", testFindProfiles},
		{"an id leads to one profile", testIdentityMoves},
		{"profiles are listed in order", testListProfiles},
		{"a merge moves all rows", testMerge},
		{"an erasure removes all rows", testErase},
		{"an event is stored once", testDuplicateEvent},
		{"the numbers of events only grow", testSeqGrows},
		{"events are chosen and ordered", testEvents},
		{"events are counted in a window", testCountEvents},
		{"memberships are kept", testMemberships},
		{"live runs are found", testLiveRuns},
		{"the last run is found", testLastRun},
		{"runs are listed in pages", testListRuns},
		{"the log of a run is kept", testLog},
		{"definitions are kept", testDefinitions},
		{"mails are listed in pages", testListSends},
		{"counts are grouped and sorted", testCounts},
		{"suppressions compare without case", testSuppressions},
		{"meters are kept", testMeters},
		{"old events go", testPruneEvents},
		{"old runs go", testPruneRuns},
		{"old mails go", testPruneSends},
		{"due work comes in order", testDue},
		{"done work is no longer due", testDueEnds},
		{"work is handed out when due", testWork},
		{"earlier work wakes the worker", testWorkWakes},
		{"failed work is handed out again", testWorkRetries},
		{"kinds of work do not wait for each other", testWorkLanes},
		{"work ends after the last call", testWorkEnds},
		{"work ends when the store closes", testWorkClosed},
		{"one Work at a time", testWorkOnce},
		{"work tells its worker that it is alone", testWorkAlone},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.run(&storeTest{T: t, ctx: t.Context(), store: open(t)})
		})
	}
	for _, seed := range historySeeds() {
		t.Run(fmt.Sprintf("random history %d", seed), func(t *testing.T) {
			t.Parallel()
			testHistory(t, open(t), seed)
		})
	}
}

// storeTest is one subtest with its own empty store.
type storeTest struct {
	*testing.T
	ctx   context.Context //nolint:containedctx // lives as long as the test
	store fluxly.Store
}

func (t *storeTest) update(fn func(fluxly.Tx) error) {
	t.Helper()
	if err := t.store.Update(t.ctx, fn); err != nil {
		t.Fatalf("Update: %v", err)
	}
}

func (t *storeTest) view(fn func(fluxly.Tx) error) {
	t.Helper()
	if err := t.store.View(t.ctx, fn); err != nil {
		t.Fatalf("View: %v", err)
	}
}

// equal compares what came back with what was wanted.
func (t *storeTest) equal(what string, got, want any) {
	t.Helper()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("%s (-want +got):\n%s", what, d)
	}
}

// at is the time n seconds into the tests' epoch.
func at(n int) time.Time {
	return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC).Add(time.Duration(n) * time.Second)
}

func event(messageID, profile, name string, occurred time.Time) *fluxly.StoredEvent {
	e := &fluxly.StoredEvent{MessageID: messageID, ProfileID: profile, Name: name, OccurredAt: occurred, ReceivedAt: at(0)}
	copy(e.Digest[:], messageID)
	return e
}

func (t *storeTest) putEvents(events ...*fluxly.StoredEvent) {
	t.Helper()
	t.update(func(tx fluxly.Tx) error {
		for _, e := range events {
			if _, duplicate, err := tx.PutEvent(t.ctx, e); err != nil || duplicate {
				return fmt.Errorf("event %q: duplicate %v, error %w", e.MessageID, duplicate, err)
			}
		}
		return nil
	})
}

func (t *storeTest) putProfiles(profiles ...*fluxly.Profile) {
	t.Helper()
	t.update(func(tx fluxly.Tx) error {
		for _, p := range profiles {
			if err := tx.PutProfile(t.ctx, p); err != nil {
				return err
			}
		}
		return nil
	})
}

func (t *storeTest) putRuns(runs ...*fluxly.Run) {
	t.Helper()
	t.update(func(tx fluxly.Tx) error {
		for _, r := range runs {
			if err := tx.PutRun(t.ctx, r); err != nil {
				return err
			}
		}
		return nil
	})
}

func (t *storeTest) putSends(sends ...*fluxly.SendRecord) {
	t.Helper()
	t.update(func(tx fluxly.Tx) error {
		for _, s := range sends {
			if err := tx.PutSend(t.ctx, s); err != nil {
				return err
			}
		}
		return nil
	})
}

// liveRun is a run that waits for its timer.
func liveRun(id, profile string, started, wake time.Time) *fluxly.Run {
	return &fluxly.Run{
		ID: id, Automation: "trial", Version: "v1", ProfileID: profile, Status: fluxly.RunLive, Step: "wait",
		StartedAt: started, UpdatedAt: started, Pending: fluxly.PendingTimer, WakeAt: wake,
	}
}

// profileIDs, runIDs, messageIDs and keys name rows for comparing.
func profileIDs(list []*fluxly.Profile) (ids []string) {
	for _, p := range list {
		ids = append(ids, p.ID)
	}
	return ids
}

func runIDs(list []*fluxly.Run) (ids []string) {
	for _, r := range list {
		ids = append(ids, r.ID)
	}
	return ids
}

func messageIDs(list []*fluxly.StoredEvent) (ids []string) {
	for _, e := range list {
		ids = append(ids, e.MessageID)
	}
	return ids
}

func sendKeys(list []*fluxly.SendRecord) (keys []string) {
	for _, s := range list {
		keys = append(keys, s.Key)
	}
	return keys
}

// await waits for something that happens soon, or fails.
func await[T any](t *storeTest, what string, ch <-chan T) (v T) {
	t.Helper()
	timer := time.NewTimer(20 * time.Second)
	defer timer.Stop()
	select {
	case v = <-ch:
	case <-timer.C:
		t.Fatalf("still no %s after 20 s", what)
	}
	return v
}

var errBroken = errors.New("broken on purpose")

// writeAll writes a row of every kind.
func writeAll(ctx context.Context, tx fluxly.Tx) error {
	_, _, err := tx.PutEvent(ctx, event("m1", "p1", "signed_up", at(1)))
	return errors.Join(
		err,
		tx.PutProfile(ctx, &fluxly.Profile{ID: "p1", ExternalIDs: []string{"u1"}, CreatedAt: at(0)}),
		tx.PutMembership(ctx, &fluxly.Membership{ProfileID: "p1", Segment: "s", CheckAt: at(5)}),
		tx.PutRun(ctx, liveRun("r1", "p1", at(1), at(9))),
		tx.AppendLog(ctx, []fluxly.LogEntry{{RunID: "r1", Automation: "trial", At: at(1), Code: "started"}}),
		tx.PutDefinition(ctx, &fluxly.Definition{Automation: "trial", Version: "v1", JSON: []byte("{}"), CreatedAt: at(0)}),
		tx.PutSend(ctx, &fluxly.SendRecord{Key: "k1", RunID: "r1", ProfileID: "p1", Status: fluxly.SendQueued, QueuedAt: at(1), DueAt: at(1)}),
		tx.PutSuppression(ctx, &fluxly.Suppression{Address: "ann@acme.test", Reason: "HardBounce", At: at(1)}),
		tx.PutErasure(ctx, &fluxly.ErasureRecord{ID: "e1", Reason: fluxly.GDPRRequest, At: at(1)}),
		tx.PutMeter(ctx, &fluxly.Meter{Name: "meter0", Used: []time.Time{at(1)}, Queue: at(2)}),
	)
}

// dump reads everything there is about some ids, through every listing method.
func dump(ctx context.Context, tx fluxly.Tx, profiles, messages []string) (map[string]any, error) {
	out := map[string]any{}
	var failed error
	keep := func(name string, v any, err error) {
		out[name] = v
		failed = errors.Join(failed, err)
	}
	all, err := tx.Profiles(ctx, "", 1_000_000)
	keep("profiles", all, err)
	for _, id := range profiles {
		for _, kind := range []fluxly.IDKind{fluxly.UserID, fluxly.ExternalID, fluxly.AnonymousID} {
			found, err := tx.FindProfiles(ctx, []fluxly.Identifier{{Kind: kind, Value: id}})
			keep("find "+string(kind)+" "+id, found, err)
		}
		p, err := tx.Profile(ctx, id)
		keep("profile "+id, p, err)
		memberships, err := tx.Memberships(ctx, id)
		keep("memberships "+id, memberships, err)
		events, err := tx.Events(ctx, id, fluxly.EventQuery{})
		keep("events "+id, events, err)
		live, err := tx.LiveRuns(ctx, id, "", time.Time{})
		keep("live "+id, live, err)
		sends, err := tx.Sends(ctx, fluxly.SendQuery{ProfileID: id})
		keep("sends "+id, sends, err)
	}
	for _, id := range messages {
		e, err := tx.EventByMessageID(ctx, id)
		keep("message "+id, e, err)
	}
	runs, err := tx.Runs(ctx, fluxly.RunQuery{})
	keep("runs", runs, err)
	for _, r := range runs {
		log, err := tx.Log(ctx, r.ID)
		keep("log "+r.ID, log, err)
	}
	sends, err := tx.Sends(ctx, fluxly.SendQuery{})
	keep("sends", sends, err)
	runCounts, err := tx.CountRuns(ctx, "")
	keep("run counts", runCounts, err)
	logCounts, err := tx.CountLog(ctx, "trial")
	keep("log counts", logCounts, err)
	sendCounts, err := tx.CountSends(ctx, "")
	keep("send counts", sendCounts, err)
	suppressions, err := tx.Suppressions(ctx)
	keep("suppressions", suppressions, err)
	erasures, err := tx.Erasures(ctx)
	keep("erasures", erasures, err)
	for _, name := range []string{"meter0", "meter1"} {
		meter, err := tx.Meter(ctx, name)
		keep(name, meter, err)
	}
	definition, err := tx.Definition(ctx, "trial", "v1")
	keep("definition", definition, err)
	for _, kind := range []fluxly.WorkKind{fluxly.WorkWake, fluxly.WorkCall, fluxly.WorkSegment, fluxly.WorkSend} {
		for _, now := range []time.Time{at(0), at(50), at(1_000_000)} {
			due, next, err := tx.Due(ctx, kind, now, 1_000)
			keep(fmt.Sprint("due ", kind, now.Unix()), []any{due, next}, err)
		}
	}
	return out, failed
}

func (t *storeTest) dump(profiles, messages []string) (out map[string]any) {
	t.Helper()
	t.view(func(tx fluxly.Tx) (err error) {
		out, err = dump(t.ctx, tx, profiles, messages)
		return err
	})
	return out
}

func testRollback(t *storeTest) {
	ids, messages := []string{"p1", "u1"}, []string{"m1"}
	before := t.dump(ids, messages)
	err := t.store.Update(t.ctx, func(tx fluxly.Tx) error {
		if err := writeAll(t.ctx, tx); err != nil {
			t.Errorf("write: %v", err)
		}
		seen, err := tx.Profile(t.ctx, "p1")
		if err != nil || seen == nil {
			t.Errorf("a transaction does not see what it wrote: %v, %v", seen, err)
		}
		return errBroken
	})
	if !errors.Is(err, errBroken) {
		t.Fatalf("Update returned %v, want the error of the function", err)
	}
	t.equal("state after a failed update", t.dump(ids, messages), before)

	// And over what is there.
	t.update(func(tx fluxly.Tx) error { return writeAll(t.ctx, tx) })
	before = t.dump(ids, messages)
	err = t.store.Update(t.ctx, func(tx fluxly.Tx) error {
		err := errors.Join(
			tx.PutProfile(t.ctx, &fluxly.Profile{ID: "p1", CreatedAt: at(7)}),
			tx.PutRun(t.ctx, &fluxly.Run{ID: "r1", ProfileID: "p2", Status: fluxly.RunCompleted, StartedAt: at(8)}),
			tx.PutSend(t.ctx, &fluxly.SendRecord{Key: "k1", ProfileID: "p2", Status: fluxly.SendAccepted, QueuedAt: at(8)}),
			tx.DeleteSuppression(t.ctx, "ann@acme.test", ""),
			tx.MergeProfile(t.ctx, "p1", "p3"),
		)
		_, err2 := tx.EraseProfile(t.ctx, "p3", []string{"ann@acme.test"})
		if err := errors.Join(err, err2); err != nil {
			t.Errorf("write: %v", err)
		}
		return errBroken
	})
	if !errors.Is(err, errBroken) {
		t.Fatalf("Update returned %v, want the error of the function", err)
	}
	t.equal("state after a failed update of rows", t.dump(ids, messages), before)
}

// A store may remember whom an id leads to, but not from a transaction that
// was taken back.
func testRollbackOfReads(t *storeTest) {
	ids := []fluxly.Identifier{{Kind: fluxly.ExternalID, Value: "u1"}}
	find := func(tx fluxly.Tx) (found []*fluxly.Profile) {
		t.Helper()
		found, err := tx.FindProfiles(t.ctx, ids)
		if err != nil {
			t.Errorf("FindProfiles: %v", err)
		}
		return found
	}
	old := &fluxly.Profile{ID: "p1", ExternalIDs: []string{"u1"}, CreatedAt: at(0), Traits: fluxly.Traits{"n": int64(1)}}
	changed := &fluxly.Profile{ID: "p1", ExternalIDs: []string{"u1"}, CreatedAt: at(0), Traits: fluxly.Traits{"n": int64(2)}}
	other := &fluxly.Profile{ID: "p2", ExternalIDs: []string{"u1"}, CreatedAt: at(1), Traits: fluxly.Traits{}}
	for _, c := range []struct {
		name  string
		write func(fluxly.Tx) error
		want  []*fluxly.Profile // inside the failed update
	}{
		{"changed", func(tx fluxly.Tx) error { return tx.PutProfile(t.ctx, changed) }, []*fluxly.Profile{changed}},
		{"taken over", func(tx fluxly.Tx) error { return tx.PutProfile(t.ctx, other) }, []*fluxly.Profile{other}},
		{"merged", func(tx fluxly.Tx) error { return tx.MergeProfile(t.ctx, "p1", "p2") }, nil},
		{"erased", func(tx fluxly.Tx) error { _, err := tx.EraseProfile(t.ctx, "p1", nil); return err }, nil},
	} {
		t.putProfiles(old)
		t.update(func(tx fluxly.Tx) error {
			t.equal("before", find(tx), []*fluxly.Profile{old})
			return nil
		})
		err := t.store.Update(t.ctx, func(tx fluxly.Tx) error {
			if err := c.write(tx); err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
			t.equal(c.name, find(tx), c.want)
			return errBroken
		})
		if !errors.Is(err, errBroken) {
			t.Fatalf("Update returned %v, want the error of the function", err)
		}
		t.update(func(tx fluxly.Tx) error {
			t.equal("after a failed update, "+c.name, find(tx), []*fluxly.Profile{old})
			return nil
		})
	}
}

func testPanic(t *storeTest) {
	func() {
		defer func() {
			if v := recover(); v != "boom" {
				t.Errorf("recovered %v, want the panic of the function", v)
			}
		}()
		_ = t.store.Update(t.ctx, func(tx fluxly.Tx) error {
			if err := writeAll(t.ctx, tx); err != nil {
				t.Errorf("write: %v", err)
			}
			panic("boom")
		})
	}()
	t.equal("state after a panic", t.dump([]string{"p1"}, []string{"m1"})["profiles"], []*fluxly.Profile(nil))
	t.update(func(tx fluxly.Tx) error { return writeAll(t.ctx, tx) })
}

func testDeadTx(t *storeTest) {
	var kept fluxly.Tx
	t.update(func(tx fluxly.Tx) error { kept = tx; return nil })
	if _, err := kept.Profile(t.ctx, "p1"); err == nil {
		t.Error("a read after the transaction gives no error")
	}
	if err := kept.PutRun(t.ctx, liveRun("r1", "p1", at(0), at(1))); err == nil {
		t.Error("a write after the transaction gives no error")
	}
}

func testViewRefusesWrites(t *storeTest) {
	t.view(func(tx fluxly.Tx) error {
		if err := tx.PutRun(t.ctx, liveRun("r1", "p1", at(0), at(1))); err == nil {
			t.Error("PutRun in a view gives no error")
		}
		if _, _, err := tx.PutEvent(t.ctx, event("m1", "p1", "x", at(0))); err == nil {
			t.Error("PutEvent in a view gives no error")
		}
		if _, err := tx.PruneEvents(t.ctx, fluxly.PruneQuery{}); err == nil {
			t.Error("PruneEvents in a view gives no error")
		}
		return nil
	})
	t.equal("runs", t.dump(nil, nil)["runs"], []*fluxly.Run(nil))
}

// While a writer moves one run between two profiles, every view finds it at
// exactly one of them.
func testViewIsolation(t *storeTest) {
	t.putRuns(liveRun("r1", "p1", at(0), at(1)))
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for range 100 {
				err := t.store.View(t.ctx, func(tx fluxly.Tx) error {
					one, err := tx.LiveRuns(t.ctx, "p1", "", time.Time{})
					if err != nil {
						return err
					}
					two, err := tx.LiveRuns(t.ctx, "p2", "", time.Time{})
					if len(one)+len(two) != 1 {
						t.Errorf("%d and %d runs in one view, want one run", len(one), len(two))
					}
					return err
				})
				if err != nil {
					t.Errorf("View: %v", err)
				}
			}
		})
	}
	for i := range 40 {
		t.putRuns(liveRun("r1", []string{"p2", "p1"}[i%2], at(0), at(1)))
	}
	readers.Wait()
}

func testEndedContext(t *storeTest) {
	ctx, cancel := context.WithCancel(t.ctx)
	cancel()
	called := false
	fn := func(fluxly.Tx) error { called = true; return nil }
	if err := t.store.Update(ctx, fn); !errors.Is(err, context.Canceled) {
		t.Errorf("Update returned %v, want context.Canceled", err)
	}
	if err := t.store.View(ctx, fn); !errors.Is(err, context.Canceled) {
		t.Errorf("View returned %v, want context.Canceled", err)
	}
	if called {
		t.Error("the function was called under an ended context")
	}
	// One that ends half way takes the transaction back.
	ctx, cancel = context.WithCancel(t.ctx)
	err := t.store.Update(ctx, func(tx fluxly.Tx) error {
		if err := tx.PutRun(ctx, liveRun("r1", "p1", at(0), at(1))); err != nil {
			return err
		}
		cancel()
		return tx.PutRun(ctx, liveRun("r2", "p1", at(0), at(1)))
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Update returned %v, want context.Canceled", err)
	}
	t.equal("runs", t.dump(nil, nil)["runs"], []*fluxly.Run(nil))
}

func testClosed(t *storeTest) {
	if err := t.store.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	fn := func(fluxly.Tx) error { t.Error("called on a closed store"); return nil }
	if err := t.store.Update(t.ctx, fn); !errors.Is(err, fluxly.ErrClosed) {
		t.Errorf("Update returned %v, want ErrClosed", err)
	}
	if err := t.store.View(t.ctx, fn); !errors.Is(err, fluxly.ErrClosed) {
		t.Errorf("View returned %v, want ErrClosed", err)
	}
	if err := t.store.Work(t.ctx, &storeWorker{}); !errors.Is(err, fluxly.ErrClosed) {
		t.Errorf("Work returned %v, want ErrClosed", err)
	}
	if err := t.store.Close(); err != nil && !errors.Is(err, fluxly.ErrClosed) {
		t.Errorf("Close again returned %v", err)
	}
}

// Counters that many goroutines read and write lose no step.
func testConcurrentUpdates(t *storeTest) {
	const writers, steps = 8, 25
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for range steps {
				err := t.store.Update(t.ctx, func(tx fluxly.Tx) error {
					r, err := tx.Run(t.ctx, "r1")
					if err != nil {
						return err
					}
					if r == nil {
						r = liveRun("r1", "p1", at(0), at(1))
					}
					r.Visit++
					return tx.PutRun(t.ctx, r)
				})
				if err != nil {
					t.Errorf("Update: %v", err)
				}
			}
		})
	}
	wg.Wait()
	t.view(func(tx fluxly.Tx) error {
		r, err := tx.Run(t.ctx, "r1")
		if err != nil {
			return err
		}
		t.equal("steps", r.Visit, writers*steps)
		return nil
	})
}
