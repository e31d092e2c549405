package fluxlytest

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/getfluxly/fluxly"
)

// stretches prunes with a limit, and checks after each stretch that the next one
// begins where it ended.
func (t *storeTest) stretches(q fluxly.PruneQuery, prune func(fluxly.Tx, context.Context, fluxly.PruneQuery) (fluxly.PruneResult, error)) (all fluxly.PruneResult, n int) {
	t.Helper()
	for more := true; more; n++ {
		t.update(func(tx fluxly.Tx) error {
			res, err := prune(tx, t.ctx, q)
			if err != nil {
				return err
			}
			if res.Next == q.After {
				t.Errorf("the stretch after %+v ends there", q.After)
				res.More = false
			}
			more, q.After = res.More, res.Next
			all.Removed += res.Removed
			all.LogEntries += res.LogEntries
			return nil
		})
		if n > 50 {
			t.Fatal("it does not end")
		}
	}
	return all, n
}

func testPruneEvents(t *storeTest) {
	entered := liveRun("r1", "live", at(20), at(90))
	entered.EntrySeq = 1 << 40 // by time alone
	early := liveRun("r2", "early", at(20), at(90))
	early.EntrySeq, early.Entry.OccurredAt = 1<<40, at(4)
	whole := liveRun("r3", "whole", at(20), at(90))
	ended := liveRun("r4", "ended", at(1), time.Time{})
	ended.Status = fluxly.RunCompleted
	t.putRuns(entered, early, whole, ended)
	put := func(person string, received int, name string, occurred int) {
		e := event(person+strconv.Itoa(received), person, name, at(occurred))
		e.ReceivedAt = at(received)
		t.putEvents(e)
	}
	for i := range 7 {
		put("p", i, "x", i)
		put("ended", i, "x", i)
	}
	put("p", 7, "kept", 1)
	put("p", 8, "window", 5)
	put("p", 9, "window", 6)
	put("live", 10, "x", 19)
	put("live", 11, "x", 20)
	put("early", 12, "x", 3)
	put("early", 13, "x", 4)
	put("whole", 14, "x", 1)
	put("p", 15, "x", 1)
	address := event("address", "address", "x", at(1))
	address.ReceivedAt, address.Traits = at(1), fluxly.Traits{"email": "ann@acme.test"}
	t.putEvents(address)
	put("p", 16, "x", 1) // from here on they are too young
	put("p", 17, "x", 1)
	put("p", 18, "x", 1)
	q := fluxly.PruneQuery{Before: at(16), Keep: map[string]time.Time{"kept": {}, "window": at(5), "never": {}}, Limit: 4}
	left := func() (list []string) {
		t.view(func(tx fluxly.Tx) error {
			for _, person := range []string{"p", "ended", "live", "early", "whole", "address"} {
				events, err := tx.Events(t.ctx, person, fluxly.EventQuery{})
				if err != nil {
					return err
				}
				list = append(list, messageIDs(events)...)
			}
			return nil
		})
		return list
	}
	want := []string{"p7", "p9", "p16", "p17", "p18", "live11", "early13", "whole14", "address"}
	all, n := t.stretches(q, fluxly.Tx.PruneEvents)
	t.equal("removed", all.Removed, 7+7+4)
	t.equal("left", left(), want)
	if n < 6 {
		t.Errorf("%d stretches of 4 for 27 events", n)
	}
	t.update(func(tx fluxly.Tx) error {
		// What is gone may come again, as a new event behind all others.
		e := event("p0", "p", "x", at(1))
		_, duplicate, err := tx.PutEvent(t.ctx, e)
		t.equal("duplicate", duplicate, false)
		events, err2 := tx.Events(t.ctx, "p", fluxly.EventQuery{})
		t.equal("left, and one more", messageIDs(events), []string{"p7", "p9", "p16", "p17", "p18", "p0"})
		return errors.Join(err, err2)
	})
	t.update(func(tx fluxly.Tx) error {
		res, err := tx.PruneEvents(t.ctx, fluxly.PruneQuery{Before: at(99)})
		t.equal("without a limit there is no more", res.More, false)
		t.equal("removed in the end", res.Removed, 6)
		return err
	})
	t.equal("left in the end", left(), []string{"live11", "early13", "whole14", "address"})
}

func testPruneRuns(t *storeTest) {
	run := func(id, key string, started, ended int) *fluxly.Run {
		r := liveRun(id, "p1", at(started), at(90))
		r.Key = key
		if ended > 0 {
			r.Status, r.EndedAt, r.Pending, r.WakeAt = fluxly.RunCompleted, at(ended), "", time.Time{}
		}
		return r
	}
	other := run("r6", "", 9, 9)
	other.Automation = "other"
	t.putRuns(run("r1", "", 1, 2), run("r2", "", 2, 3), run("r3", "k", 3, 5), run("r4", "", 4, 50), run("r5", "", 5, 0), other,
		run("r7", "k", 60, 61))
	t.putSends(&fluxly.SendRecord{Key: "k1", ProfileID: "p1", RunID: "r1", Status: fluxly.SendAccepted, QueuedAt: at(1)})
	t.update(func(tx fluxly.Tx) error {
		var log []fluxly.LogEntry
		for _, id := range []string{"r1", "r2", "r3", "r4", "r5", "r6", "r7"} {
			log = append(log, fluxly.LogEntry{RunID: id, Automation: "trial", At: at(1), Code: "started"},
				fluxly.LogEntry{RunID: id, Automation: "trial", Seq: 1, At: at(1), Code: "ended"})
		}
		return tx.AppendLog(t.ctx, log)
	})
	all, n := t.stretches(fluxly.PruneQuery{Before: at(10), Limit: 2}, fluxly.Tx.PruneRuns)
	t.equal("runs, log entries", []int{all.Removed, all.LogEntries}, []int{2, 8})
	t.equal("stretches of two for six runs", n, 3)
	t.view(func(tx fluxly.Tx) error {
		runs, err := tx.Runs(t.ctx, fluxly.RunQuery{})
		t.equal("runs", runIDs(runs), []string{"r1", "r4", "r5", "r6", "r7"})
		var logs []string
		for _, r := range runs {
			log, err := tx.Log(t.ctx, r.ID)
			if err != nil {
				return err
			}
			if len(log) > 0 {
				logs = append(logs, r.ID)
			}
		}
		t.equal("logs", logs, []string{"r4", "r5", "r7"})
		return err
	})
}

func testPruneSends(t *storeTest) {
	live, ended := liveRun("live", "p1", at(1), at(90)), liveRun("ended", "p1", at(1), time.Time{})
	ended.Status = fluxly.RunCompleted
	t.putRuns(live, ended)
	send := func(key, run string, status fluxly.SendStatus, queued int) {
		m := &fluxly.SendRecord{Key: key, RunID: run, ProfileID: "p1", Status: status, QueuedAt: at(queued)}
		if status == fluxly.SendQueued || status == fluxly.SendSending {
			m.DueAt = at(95)
		}
		t.putSends(m)
	}
	send("k1", "ended", fluxly.SendAccepted, 1)
	send("k2", "ended", fluxly.SendRefused, 1)
	send("k3", "ended", fluxly.SendSkipped, 2)
	send("k4", "ended", fluxly.SendUnknown, 2)
	send("k5", "ended", fluxly.SendQueued, 2)
	send("k6", "ended", fluxly.SendSending, 3)
	send("k7", "live", fluxly.SendAccepted, 3)
	send("k8", "gone", fluxly.SendAccepted, 4)
	send("k9", "ended", fluxly.SendAccepted, 10)
	all, n := t.stretches(fluxly.PruneQuery{Before: at(10), Limit: 3}, fluxly.Tx.PruneSends)
	t.equal("removed", all.Removed, 4)
	t.equal("stretches of three for eight mails", n, 3)
	t.view(func(tx fluxly.Tx) error {
		sends, err := tx.Sends(t.ctx, fluxly.SendQuery{})
		t.equal("mails", sendKeys(sends), []string{"k4", "k5", "k6", "k7", "k9"})
		due, _, err2 := tx.Due(t.ctx, fluxly.WorkSend, at(95), 10)
		t.equal("due", len(due), 2)
		return errors.Join(err, err2)
	})
	t.update(func(tx fluxly.Tx) error {
		// In the same transaction it is gone at once.
		if _, err := tx.PruneSends(t.ctx, fluxly.PruneQuery{Before: at(11)}); err != nil {
			return err
		}
		m, err := tx.Send(t.ctx, "k9")
		if m != nil {
			t.Error("a mail that was removed is found")
		}
		return err
	})
}
