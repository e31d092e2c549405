package fluxlytest

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/getfluxly/fluxly"
)

func testLiveRuns(t *storeTest) {
	waits := func(r *fluxly.Run, names ...string) *fluxly.Run { r.Waits = names; return r }
	ended := waits(liveRun("r0", "p1", at(0), at(1)), "paid")
	ended.Status = fluxly.RunExited
	t.putRuns(
		ended,
		waits(liveRun("r3", "p1", at(1), at(50)), "cancelled", "paid"),
		waits(liveRun("r2", "p1", at(1), at(20)), "cancelled"),
		waits(liveRun("r1", "p1", at(2), time.Time{}), "paid_late", ",", `a"b`),
		waits(liveRun("r4", "p2", at(0), at(1)), "paid"),
	)
	for _, c := range []struct {
		name, event string
		overdue     time.Time
		want        []string
	}{
		{"all", "", time.Time{}, []string{"r2", "r3", "r1"}},
		{"by event", "paid", time.Time{}, []string{"r3"}},
		{"not by a part of a name", "paid_", time.Time{}, nil},
		{"not by what stands between names", ",", time.Time{}, []string{"r1"}},
		{"by a name with a quote", `a"b`, time.Time{}, []string{"r1"}},
		{"by event or overdue", "paid", at(21), []string{"r2", "r3"}},
		{"due just now is not overdue", "paid", at(20), []string{"r3"}},
		{"all, whatever is overdue", "", at(21), []string{"r2", "r3", "r1"}},
	} {
		t.view(func(tx fluxly.Tx) error {
			runs, err := tx.LiveRuns(t.ctx, "p1", c.event, c.overdue)
			t.equal(c.name, runIDs(runs), c.want)
			return err
		})
	}
	// What moves on is found by its new state alone.
	moved := liveRun("r3", "p1", at(1), at(50))
	moved.Status = fluxly.RunCompleted
	t.putRuns(moved)
	t.view(func(tx fluxly.Tx) error {
		runs, err := tx.LiveRuns(t.ctx, "p1", "paid", time.Time{})
		t.equal("after the end", runIDs(runs), []string(nil))
		nobody, err2 := tx.LiveRuns(t.ctx, "nobody", "", time.Time{})
		t.equal("of nobody", runIDs(nobody), []string(nil))
		return errors.Join(err, err2)
	})
}

func testLastRun(t *storeTest) {
	run := func(id, automation, key string, started time.Time) *fluxly.Run {
		r := liveRun(id, "p1", started, time.Time{})
		r.Automation, r.Key = automation, key
		return r
	}
	t.putRuns(run("r1", "a", "", at(5)), run("r2", "a", "", at(3)), run("r3", "a", "k", at(9)), run("r4", "b", "", at(9)),
		run("r6", "c", "", at(1)), run("r5", "c", "", at(1)))
	for _, c := range []struct{ automation, profile, key, want string }{
		{"a", "p1", "", "r1"},
		{"a", "p1", "k", "r3"},
		{"b", "p1", "", "r4"},
		{"c", "p1", "", "r6"},
		{"b", "p1", "k", ""},
		{"a", "p2", "", ""},
		{"z", "p1", "", ""},
	} {
		t.view(func(tx fluxly.Tx) error {
			r, err := tx.LastRun(t.ctx, c.automation, c.profile, c.key)
			got := ""
			if r != nil {
				got = r.ID
			}
			t.equal(fmt.Sprint(c), got, c.want)
			return err
		})
	}
}

func testListRuns(t *storeTest) {
	run := func(id, automation, profile, step string, status fluxly.RunStatus, started int) *fluxly.Run {
		r := liveRun(id, profile, at(started), time.Time{})
		r.Automation, r.Step, r.Status = automation, step, status
		return r
	}
	t.putRuns(
		run("r5", "a", "p1", "s1", fluxly.RunLive, 1), run("r4", "a", "p2", "s2", fluxly.RunLive, 1),
		run("r3", "b", "p1", "s1", fluxly.RunLive, 2), run("r2", "a", "p1", "s2", fluxly.RunFailed, 3),
		run("r1", "a", "p1", "s2", fluxly.RunLive, 4),
	)
	for _, c := range []struct {
		name string
		q    fluxly.RunQuery
		want []string
	}{
		{"all", fluxly.RunQuery{}, []string{"r4", "r5", "r3", "r2", "r1"}},
		{"first page", fluxly.RunQuery{Limit: 2}, []string{"r4", "r5"}},
		{"second page", fluxly.RunQuery{AfterStarted: at(1), AfterID: "r5", Limit: 2}, []string{"r3", "r2"}},
		{"page that begins at a tie", fluxly.RunQuery{AfterStarted: at(1), AfterID: "r4", Limit: 1}, []string{"r5"}},
		{"by automation", fluxly.RunQuery{Automation: "a"}, []string{"r4", "r5", "r2", "r1"}},
		{"by profile", fluxly.RunQuery{ProfileID: "p1"}, []string{"r5", "r3", "r2", "r1"}},
		{"by profile, second page", fluxly.RunQuery{ProfileID: "p1", AfterStarted: at(2), AfterID: "r3"}, []string{"r2", "r1"}},
		{"by status", fluxly.RunQuery{Status: fluxly.RunLive, Limit: 3}, []string{"r4", "r5", "r3"}},
		{"by all", fluxly.RunQuery{Automation: "a", ProfileID: "p1", Status: fluxly.RunLive, Step: "s2"}, []string{"r1"}},
		{"of nobody", fluxly.RunQuery{ProfileID: "nobody"}, nil},
	} {
		t.view(func(tx fluxly.Tx) error {
			runs, err := tx.Runs(t.ctx, c.q)
			t.equal(c.name, runIDs(runs), c.want)
			return err
		})
	}
}

func testLog(t *storeTest) {
	entry := func(run string, seq int, code string) fluxly.LogEntry {
		return fluxly.LogEntry{RunID: run, Automation: "trial", Seq: seq, At: at(seq), Code: code}
	}
	t.update(func(tx fluxly.Tx) error {
		return tx.AppendLog(t.ctx, []fluxly.LogEntry{entry("r1", 0, "started"), entry("r2", 0, "started"), entry("r1", 1, "waiting")})
	})
	t.update(func(tx fluxly.Tx) error {
		return tx.AppendLog(t.ctx, []fluxly.LogEntry{entry("r1", 10, "exited"), entry("r1", 2, "branch")})
	})
	err := t.store.Update(t.ctx, func(tx fluxly.Tx) error {
		return tx.AppendLog(t.ctx, []fluxly.LogEntry{entry("r1", 3, "new"), entry("r1", 2, "again")})
	})
	if err == nil {
		t.Error("an entry that is there already gives no error")
	}
	t.view(func(tx fluxly.Tx) error {
		log, err := tx.Log(t.ctx, "r1")
		t.equal("log", log, []fluxly.LogEntry{
			entry("r1", 0, "started"), entry("r1", 1, "waiting"), entry("r1", 2, "branch"), entry("r1", 10, "exited"),
		})
		return err
	})
}

func testDefinitions(t *storeTest) {
	t.update(func(tx fluxly.Tx) error {
		return errors.Join(
			tx.PutDefinition(t.ctx, &fluxly.Definition{Automation: "a", Version: "v1", JSON: []byte(`{"n":1}`), CreatedAt: at(1)}),
			tx.PutDefinition(t.ctx, &fluxly.Definition{Automation: "a", Version: "v2", JSON: []byte(`{"n":2}`), CreatedAt: at(2)}),
			tx.PutDefinition(t.ctx, &fluxly.Definition{Automation: "a", Version: "v1", JSON: []byte(`{"n":3}`), CreatedAt: at(3)}),
		)
	})
	t.view(func(tx fluxly.Tx) error {
		d, err := tx.Definition(t.ctx, "a", "v1")
		t.equal("definition", d, &fluxly.Definition{Automation: "a", Version: "v1", JSON: []byte(`{"n":1}`), CreatedAt: at(1)})
		none, err2 := tx.Definition(t.ctx, "b", "v1")
		if none != nil {
			t.Errorf("definition %v, want none", none)
		}
		return errors.Join(err, err2)
	})
}

func testListSends(t *storeTest) {
	send := func(key, automation, profile, run string, status fluxly.SendStatus, queued int) *fluxly.SendRecord {
		return &fluxly.SendRecord{Key: key, Automation: automation, ProfileID: profile, RunID: run, Status: status, QueuedAt: at(queued)}
	}
	t.putSends(
		send("k5", "a", "p1", "r1", fluxly.SendAccepted, 1), send("k4", "a", "p2", "r2", fluxly.SendAccepted, 1),
		send("k3", "b", "p1", "r3", fluxly.SendSkipped, 2), send("k2", "a", "p1", "r1", fluxly.SendSkipped, 3),
		send("k1", "a", "p1", "r4", fluxly.SendAccepted, 4),
	)
	for _, c := range []struct {
		name string
		q    fluxly.SendQuery
		want []string
	}{
		{"all", fluxly.SendQuery{}, []string{"k4", "k5", "k3", "k2", "k1"}},
		{"first page", fluxly.SendQuery{Limit: 2}, []string{"k4", "k5"}},
		{"second page", fluxly.SendQuery{AfterQueued: at(1), AfterKey: "k5", Limit: 2}, []string{"k3", "k2"}},
		{"by automation", fluxly.SendQuery{Automation: "a"}, []string{"k4", "k5", "k2", "k1"}},
		{"by profile", fluxly.SendQuery{ProfileID: "p1"}, []string{"k5", "k3", "k2", "k1"}},
		{"by profile, second page", fluxly.SendQuery{ProfileID: "p1", AfterQueued: at(2), AfterKey: "k3", Limit: 1}, []string{"k2"}},
		{"by run", fluxly.SendQuery{RunID: "r1"}, []string{"k5", "k2"}},
		{"by run, second page", fluxly.SendQuery{RunID: "r1", AfterQueued: at(1), AfterKey: "k5"}, []string{"k2"}},
		{"by status", fluxly.SendQuery{Status: fluxly.SendSkipped}, []string{"k3", "k2"}},
		{"by all", fluxly.SendQuery{Automation: "a", ProfileID: "p1", RunID: "r1", Status: fluxly.SendSkipped}, []string{"k2"}},
		{"of nobody", fluxly.SendQuery{ProfileID: "nobody"}, nil},
	} {
		t.view(func(tx fluxly.Tx) error {
			sends, err := tx.Sends(t.ctx, c.q)
			t.equal(c.name, sendKeys(sends), c.want)
			return err
		})
	}
	t.view(func(tx fluxly.Tx) error {
		none, err := tx.Send(t.ctx, "nothing")
		if none != nil {
			t.Errorf("mail %v, want none", none)
		}
		return err
	})
}

func testCounts(t *storeTest) {
	run := func(id, automation, version, step string, status fluxly.RunStatus) *fluxly.Run {
		r := liveRun(id, "p1", at(0), time.Time{})
		r.Automation, r.Version, r.Step, r.Status = automation, version, step, status
		return r
	}
	t.putRuns(run("r1", "b", "v1", "s", fluxly.RunLive), run("r2", "a", "v2", "s", fluxly.RunLive), run("r3", "a", "v1", "t", fluxly.RunLive),
		run("r4", "a", "v1", "s", fluxly.RunLive), run("r5", "a", "v1", "s", fluxly.RunFailed), run("r6", "a", "v1", "s", fluxly.RunLive))
	send := func(key, automation, step string, status fluxly.SendStatus, reason string) *fluxly.SendRecord {
		return &fluxly.SendRecord{Key: key, Automation: automation, Step: step, Status: status, Reason: reason, QueuedAt: at(0)}
	}
	t.putSends(send("k1", "b", "s", fluxly.SendAccepted, ""), send("k2", "a", "s", fluxly.SendSkipped, "consent"),
		send("k3", "a", "s", fluxly.SendSkipped, "cap"), send("k4", "a", "s", fluxly.SendSkipped, "cap"), send("k5", "a", "r", fluxly.SendUnknown, ""))
	t.update(func(tx fluxly.Tx) error {
		return tx.AppendLog(t.ctx, []fluxly.LogEntry{
			{RunID: "r1", Automation: "b", Code: "started"},
			{RunID: "r2", Automation: "a", Seq: 0, Code: "started"},
			{RunID: "r2", Automation: "a", Seq: 1, Step: "s", Code: "waiting"},
			{RunID: "r3", Automation: "a", Seq: 0, Code: "started"},
			{RunID: "r3", Automation: "a", Seq: 1, Step: "s", Code: "branch"},
		})
	})
	ofA := []fluxly.RunCount{
		{Automation: "a", Version: "v1", Step: "s", Status: fluxly.RunFailed, Count: 1},
		{Automation: "a", Version: "v1", Step: "s", Status: fluxly.RunLive, Count: 2},
		{Automation: "a", Version: "v1", Step: "t", Status: fluxly.RunLive, Count: 1},
		{Automation: "a", Version: "v2", Step: "s", Status: fluxly.RunLive, Count: 1},
	}
	sendsOfA := []fluxly.SendCount{
		{Automation: "a", Step: "r", Status: fluxly.SendUnknown, Count: 1},
		{Automation: "a", Step: "s", Status: fluxly.SendSkipped, Reason: "cap", Count: 2},
		{Automation: "a", Step: "s", Status: fluxly.SendSkipped, Reason: "consent", Count: 1},
	}
	t.view(func(tx fluxly.Tx) error {
		runs, err := tx.CountRuns(t.ctx, "a")
		t.equal("runs of one automation", runs, ofA)
		all, err2 := tx.CountRuns(t.ctx, "")
		t.equal("runs of all", all, append(ofA, fluxly.RunCount{Automation: "b", Version: "v1", Step: "s", Status: fluxly.RunLive, Count: 1}))
		sends, err3 := tx.CountSends(t.ctx, "a")
		t.equal("mails of one automation", sends, sendsOfA)
		allSends, err4 := tx.CountSends(t.ctx, "")
		t.equal("mails of all", allSends, append(sendsOfA, fluxly.SendCount{Automation: "b", Step: "s", Status: fluxly.SendAccepted, Count: 1}))
		log, err5 := tx.CountLog(t.ctx, "a")
		t.equal("log", log, []fluxly.LogCount{{Code: "started", Count: 2}, {Step: "s", Code: "branch", Count: 1}, {Step: "s", Code: "waiting", Count: 1}})
		return errors.Join(err, err2, err3, err4, err5)
	})
}

func testSuppressions(t *storeTest) {
	all := &fluxly.Suppression{Address: "Bob@acme.test", Reason: "HardBounce", At: at(1)}
	news := &fluxly.Suppression{Address: "ann@acme.test", Stream: "news", Reason: "SpamComplaint", At: at(2)}
	t.update(func(tx fluxly.Tx) error {
		return errors.Join(
			tx.PutSuppression(t.ctx, &fluxly.Suppression{Address: "bob@ACME.test", Reason: "ManualSuppression", At: at(0)}),
			tx.PutSuppression(t.ctx, all), tx.PutSuppression(t.ctx, news),
			tx.PutSuppression(t.ctx, &fluxly.Suppression{Address: "zoe@acme.test", Stream: "news", At: at(3)}),
			tx.DeleteSuppression(t.ctx, "ZOE@acme.test", "news"),
			tx.DeleteSuppression(t.ctx, "nobody@acme.test", ""),
		)
	})
	for _, c := range []struct {
		address, stream string
		want            *fluxly.Suppression
	}{
		{"BOB@acme.test", "", all},
		{"bob@acme.test", "news", all}, // on all streams
		{"ANN@acme.test", "news", news},
		{"ann@acme.test", "other", nil},
		{"ann@acme.test", "", nil},
		{"zoe@acme.test", "news", nil},
	} {
		t.view(func(tx fluxly.Tx) error {
			got, err := tx.Suppression(t.ctx, c.address, c.stream)
			t.equal(c.address+" "+c.stream, got, c.want)
			return err
		})
	}
	t.view(func(tx fluxly.Tx) error {
		list, err := tx.Suppressions(t.ctx)
		t.equal("list", list, []*fluxly.Suppression{news, all})
		return err
	})
}

func testMeters(t *storeTest) {
	put := func(m *fluxly.Meter) {
		t.Helper()
		t.update(func(tx fluxly.Tx) error { return tx.PutMeter(t.ctx, m) })
	}
	want := func(name string, want *fluxly.Meter) {
		t.Helper()
		t.view(func(tx fluxly.Tx) error {
			got, err := tx.Meter(t.ctx, name)
			t.equal(name, got, want)
			return err
		})
	}
	want("sends", nil)
	put(&fluxly.Meter{Name: "sends", Used: []time.Time{at(1), at(2)}, Queue: at(9)})
	put(&fluxly.Meter{Name: "other"})
	want("sends", &fluxly.Meter{Name: "sends", Used: []time.Time{at(1), at(2)}, Queue: at(9)})
	want("other", &fluxly.Meter{Name: "other"})
	put(&fluxly.Meter{Name: "sends", Used: []time.Time{at(2).In(time.FixedZone("", 3600))}})
	want("sends", &fluxly.Meter{Name: "sends", Used: []time.Time{at(2)}})

	// Nobody else changes it between reading and writing.
	var writers sync.WaitGroup
	for i := range 4 {
		writers.Go(func() {
			for n := range 10 {
				err := t.store.Update(t.ctx, func(tx fluxly.Tx) error {
					m, err := tx.Meter(t.ctx, "shared")
					if err != nil {
						return err
					}
					if m == nil {
						m = &fluxly.Meter{Name: "shared"}
					}
					m.Used = append(m.Used, at(i*10+n))
					return tx.PutMeter(t.ctx, m)
				})
				if err != nil {
					t.Errorf("Update: %v", err)
				}
			}
		})
	}
	writers.Wait()
	t.view(func(tx fluxly.Tx) error {
		m, err := tx.Meter(t.ctx, "shared")
		if err == nil {
			t.equal("uses", len(m.Used), 40)
		}
		return err
	})
}
