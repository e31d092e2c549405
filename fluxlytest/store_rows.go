package fluxlytest

import (
	"errors"
	"fmt"
	"time"

	"github.com/getfluxly/fluxly"
)

func testFindProfiles(t *storeTest) {
	t.putProfiles(
		&fluxly.Profile{ID: "p3", ExternalIDs: []string{"u3", "u4"}, CreatedAt: at(1)},
		&fluxly.Profile{ID: "p2", AnonymousIDs: []string{"a2"}, UserIDs: []string{"old"}, CreatedAt: at(1)},
		&fluxly.Profile{ID: "p1", ExternalIDs: []string{"a2"}, CreatedAt: at(2)},
	)
	for _, c := range []struct {
		name string
		ids  []fluxly.Identifier
		want []string
	}{
		{"none", nil, nil},
		{"unknown", []fluxly.Identifier{{Kind: fluxly.ExternalID, Value: "nobody"}}, nil},
		{"own id", []fluxly.Identifier{{Kind: fluxly.UserID, Value: "p1"}}, []string{"p1"}},
		{"further user id", []fluxly.Identifier{{Kind: fluxly.UserID, Value: "old"}}, []string{"p2"}},
		{"kinds are apart", []fluxly.Identifier{{Kind: fluxly.ExternalID, Value: "a2"}}, []string{"p1"}},
		{"each once", []fluxly.Identifier{
			{Kind: fluxly.ExternalID, Value: "u4"}, {Kind: fluxly.ExternalID, Value: "u3"}, {Kind: fluxly.UserID, Value: "p3"},
		}, []string{"p3"}},
		{"oldest first, ties by id", []fluxly.Identifier{
			{Kind: fluxly.UserID, Value: "p1"}, {Kind: fluxly.ExternalID, Value: "u3"}, {Kind: fluxly.AnonymousID, Value: "a2"},
		}, []string{"p2", "p3", "p1"}},
	} {
		t.view(func(tx fluxly.Tx) error {
			found, err := tx.FindProfiles(t.ctx, c.ids)
			t.equal(c.name, profileIDs(found), c.want)
			return err
		})
	}
	t.view(func(tx fluxly.Tx) error {
		p, err := tx.Profile(t.ctx, "p2")
		if err != nil {
			return err
		}
		if p.Traits == nil {
			t.Error("Traits are nil; a caller may want to set one")
		}
		nobody, err := tx.Profile(t.ctx, "nobody")
		if nobody != nil {
			t.Errorf("profile %v, want none", nobody)
		}
		return err
	})
}

func testIdentityMoves(t *storeTest) {
	external := func(v string) []fluxly.Identifier {
		return []fluxly.Identifier{{Kind: fluxly.ExternalID, Value: v}}
	}
	want := func(id string, profiles ...string) {
		t.Helper()
		t.view(func(tx fluxly.Tx) error {
			found, err := tx.FindProfiles(t.ctx, external(id))
			t.equal(id, profileIDs(found), profiles)
			return err
		})
	}
	t.putProfiles(&fluxly.Profile{ID: "p1", ExternalIDs: []string{"u1", "u2"}, CreatedAt: at(0)})
	t.putProfiles(&fluxly.Profile{ID: "p2", ExternalIDs: []string{"u2"}, CreatedAt: at(1)})
	want("u1", "p1")
	want("u2", "p2") // moved over
	// One that is left out leads nowhere.
	t.putProfiles(&fluxly.Profile{ID: "p1", ExternalIDs: []string{"u3"}, CreatedAt: at(0)})
	want("u1")
	want("u2", "p2") // not dropped by the profile that had it before
	want("u3", "p1")
	// Also the id of the profile itself moves.
	t.putProfiles(&fluxly.Profile{ID: "p2", UserIDs: []string{"p1"}, CreatedAt: at(1)})
	t.view(func(tx fluxly.Tx) error {
		found, err := tx.FindProfiles(t.ctx, []fluxly.Identifier{{Kind: fluxly.UserID, Value: "p1"}})
		t.equal("p1", profileIDs(found), []string{"p2"})
		return err
	})
}

func testListProfiles(t *storeTest) {
	// Rows that name a profile do not make one.
	t.putEvents(event("m1", "p0", "x", at(0)))
	for _, id := range []string{"p2", "p10", "P3", "p1"} {
		t.putProfiles(&fluxly.Profile{ID: id, CreatedAt: at(0)})
	}
	t.view(func(tx fluxly.Tx) error {
		list, err := tx.Profiles(t.ctx, "", 3)
		if err != nil {
			return err
		}
		t.equal("first page", profileIDs(list), []string{"P3", "p1", "p10"})
		list, err = tx.Profiles(t.ctx, "p10", 3)
		t.equal("second page", profileIDs(list), []string{"p2"})
		return err
	})
}

func testMerge(t *storeTest) {
	t.putProfiles(
		&fluxly.Profile{ID: "p1", ExternalIDs: []string{"u1"}, CreatedAt: at(0)},
		&fluxly.Profile{ID: "p2", ExternalIDs: []string{"u2"}, AnonymousIDs: []string{"a2"}, CreatedAt: at(1)},
	)
	t.putEvents(event("m1", "p1", "x", at(1)), event("m2", "p2", "x", at(2)), event("m3", "p1", "y", at(3)), event("m4", "p2", "x", at(4)))
	ended := liveRun("r3", "p2", at(3), time.Time{})
	ended.Status = fluxly.RunCompleted
	t.putRuns(liveRun("r1", "p1", at(1), at(10)), liveRun("r2", "p2", at(2), at(11)), ended)
	t.putSends(
		&fluxly.SendRecord{Key: "k1", ProfileID: "p1", RunID: "r1", QueuedAt: at(1)},
		&fluxly.SendRecord{Key: "k2", ProfileID: "p2", RunID: "r2", Status: fluxly.SendQueued, QueuedAt: at(2), DueAt: at(5)},
	)
	t.update(func(tx fluxly.Tx) error {
		if err := errors.Join(
			tx.PutMembership(t.ctx, &fluxly.Membership{ProfileID: "p1", Segment: "s"}),
			tx.PutMembership(t.ctx, &fluxly.Membership{ProfileID: "p2", Segment: "s", CheckAt: at(3)}),
		); err != nil {
			return err
		}
		if err := tx.MergeProfile(t.ctx, "p1", "p1"); err == nil {
			t.Error("a merge of a profile into itself gives no error")
		}
		return tx.MergeProfile(t.ctx, "p2", "p1")
	})
	t.view(func(tx fluxly.Tx) error {
		events, err := tx.Events(t.ctx, "p1", fluxly.EventQuery{})
		if err != nil {
			return err
		}
		t.equal("events", messageIDs(events), []string{"m1", "m2", "m3", "m4"})
		n, err := tx.CountEvents(t.ctx, "p1", "x", time.Time{}, time.Time{}, 0)
		if err != nil {
			return err
		}
		t.equal("count", n, 3)
		live, err := tx.LiveRuns(t.ctx, "p1", "", time.Time{})
		if err != nil {
			return err
		}
		t.equal("live runs", runIDs(live), []string{"r1", "r2"})
		t.equal("profile of a run", live[1].ProfileID, "p1")
		last, err := tx.LastRun(t.ctx, "trial", "p1", "")
		if err != nil {
			return err
		}
		t.equal("last run", last.ID, "r3")
		sends, err := tx.Sends(t.ctx, fluxly.SendQuery{ProfileID: "p1"})
		if err != nil {
			return err
		}
		t.equal("mails", sendKeys(sends), []string{"k1", "k2"})
		gone, err := tx.Profile(t.ctx, "p2")
		if err != nil || gone != nil {
			t.Errorf("merged profile: %v, %v; want none", gone, err)
		}
		for _, id := range []fluxly.Identifier{
			{Kind: fluxly.UserID, Value: "p2"}, {Kind: fluxly.ExternalID, Value: "u2"}, {Kind: fluxly.AnonymousID, Value: "a2"},
		} {
			found, err := tx.FindProfiles(t.ctx, []fluxly.Identifier{id})
			if err != nil || len(found) != 0 {
				t.Errorf("%v leads to %v, %v; want nowhere", id, profileIDs(found), err)
			}
		}
		memberships, err := tx.Memberships(t.ctx, "p2")
		if err != nil || len(memberships) != 0 {
			t.Errorf("memberships %v, %v; want none", memberships, err)
		}
		due, _, err := tx.Due(t.ctx, fluxly.WorkSegment, at(100), 9)
		t.equal("due", due, []fluxly.Work(nil))
		return err
	})

	// The id may have been taken over before the merge; then it stays.
	t.putProfiles(&fluxly.Profile{ID: "p3", ExternalIDs: []string{"u3"}, CreatedAt: at(2)})
	t.update(func(tx fluxly.Tx) error {
		return errors.Join(
			tx.PutProfile(t.ctx, &fluxly.Profile{ID: "p1", ExternalIDs: []string{"u1", "u3"}, UserIDs: []string{"p3"}, CreatedAt: at(0)}),
			tx.MergeProfile(t.ctx, "p3", "p1"),
		)
	})
	t.view(func(tx fluxly.Tx) error {
		for _, id := range []fluxly.Identifier{{Kind: fluxly.UserID, Value: "p3"}, {Kind: fluxly.ExternalID, Value: "u3"}} {
			found, err := tx.FindProfiles(t.ctx, []fluxly.Identifier{id})
			if err != nil {
				return err
			}
			t.equal(fmt.Sprint(id), profileIDs(found), []string{"p1"})
		}
		return nil
	})
}

func testErase(t *storeTest) {
	t.update(func(tx fluxly.Tx) error {
		_, _, err := tx.PutEvent(t.ctx, event("m2", "p1", "x", at(2)))
		_, _, err2 := tx.PutEvent(t.ctx, event("m3", "p2", "x", at(3)))
		return errors.Join(
			writeAll(t.ctx, tx), err, err2,
			tx.PutProfile(t.ctx, &fluxly.Profile{ID: "p2", ExternalIDs: []string{"u2"}, CreatedAt: at(1)}),
			tx.PutRun(t.ctx, liveRun("r2", "p2", at(2), at(9))),
			tx.PutSuppression(t.ctx, &fluxly.Suppression{Address: "Ann@acme.test", Stream: "news", At: at(1)}),
			tx.PutSuppression(t.ctx, &fluxly.Suppression{Address: "bob@acme.test", At: at(1)}),
		)
	})
	t.update(func(tx fluxly.Tx) error {
		n, err := tx.EraseProfile(t.ctx, "p1", []string{"ANN@acme.test"})
		t.equal("events erased", n, 2)
		return err
	})
	t.view(func(tx fluxly.Tx) error {
		got, err := dump(t.ctx, tx, []string{"p1", "u1"}, []string{"m1", "m2"})
		if err != nil {
			return err
		}
		t.equal("suppressions", got["suppressions"], []*fluxly.Suppression{{Address: "bob@acme.test", At: at(1)}})
		t.equal("run", runIDs(got["runs"].([]*fluxly.Run)), []string{"r2"})
		t.equal("mails", len(got["sends"].([]*fluxly.SendRecord)), 0)
		t.equal("profiles", profileIDs(got["profiles"].([]*fluxly.Profile)), []string{"p2"})
		t.equal("found", got["find external u1"], []*fluxly.Profile(nil))
		t.equal("found", got["find user p1"], []*fluxly.Profile(nil))
		t.equal("events", len(got["events p1"].([]*fluxly.StoredEvent)), 0)
		t.equal("event", got["message m1"], (*fluxly.StoredEvent)(nil))
		t.equal("memberships", len(got["memberships p1"].([]fluxly.Membership)), 0)
		t.equal("audit records", len(got["erasures"].([]*fluxly.ErasureRecord)), 1)
		log, err := tx.Log(t.ctx, "r1")
		t.equal("log", len(log), 0)
		for _, kind := range []fluxly.WorkKind{fluxly.WorkCall, fluxly.WorkSegment, fluxly.WorkSend} {
			due, _, err := tx.Due(t.ctx, kind, at(1_000), 9)
			if err != nil || len(due) != 0 {
				t.Errorf("due %s: %v, %v; want none", kind, due, err)
			}
		}
		return err
	})
	t.update(func(tx fluxly.Tx) error {
		n, err := tx.EraseProfile(t.ctx, "nobody", nil)
		t.equal("events of nobody", n, 0)
		return err
	})
}

func testDuplicateEvent(t *storeTest) {
	first := event("m1", "p1", "x", at(1))
	t.putEvents(first)
	t.update(func(tx fluxly.Tx) error {
		again := event("m1", "p2", "y", at(2))
		again.Digest = [32]byte{7}
		digest, duplicate, err := tx.PutEvent(t.ctx, again)
		if !duplicate || digest != first.Digest {
			t.Errorf("digest %x, duplicate %v; want the digest of the first event", digest, duplicate)
		}
		if again.Seq != 0 {
			t.Errorf("a duplicate got the number %d", again.Seq)
		}
		// Also within one transaction.
		next := event("m2", "p1", "x", at(2))
		if digest, duplicate, err := tx.PutEvent(t.ctx, next); err != nil || duplicate || digest != next.Digest {
			t.Errorf("digest %x, duplicate %v, error %v; want a new event", digest, duplicate, err)
		}
		if _, duplicate, err := tx.PutEvent(t.ctx, event("m2", "p1", "x", at(2))); err != nil || !duplicate {
			t.Errorf("duplicate %v, error %v; want a duplicate", duplicate, err)
		}
		return err
	})
	t.view(func(tx fluxly.Tx) error {
		e, err := tx.EventByMessageID(t.ctx, "m1")
		t.equal("event", e, first)
		nobody, err2 := tx.EventByMessageID(t.ctx, "m9")
		if nobody != nil {
			t.Errorf("event %v, want none", nobody)
		}
		return errors.Join(err, err2)
	})
}

func testSeqGrows(t *storeTest) {
	var last int64
	put := func(id, profile string) {
		t.Helper()
		e := event(id, profile, "x", at(0))
		t.putEvents(e)
		if e.Seq <= last {
			t.Errorf("event %s got the number %d after %d", id, e.Seq, last)
		}
		last = e.Seq
	}
	put("m1", "p1")
	put("m2", "p2")
	put("m3", "p2")
	t.update(func(tx fluxly.Tx) error {
		_, err := tx.EraseProfile(t.ctx, "p2", nil)
		return err
	})
	put("m4", "p1")
	t.update(func(tx fluxly.Tx) error { return tx.MergeProfile(t.ctx, "p1", "p3") })
	put("m5", "p1")
}

func testEvents(t *storeTest) {
	events := []*fluxly.StoredEvent{
		event("m1", "p1", "x", at(30)), event("m2", "p1", "y", at(10)), event("m3", "p2", "x", at(20)),
		event("m4", "p1", "x", at(20)), event("m5", "p1", "x", at(20)), event("m6", "p1", "x", at(40)),
	}
	t.putEvents(events...)
	for _, c := range []struct {
		name string
		q    fluxly.EventQuery
		want []string
	}{
		{"all in order of receipt", fluxly.EventQuery{}, []string{"m1", "m2", "m4", "m5", "m6"}},
		{"by name", fluxly.EventQuery{Name: "x"}, []string{"m1", "m4", "m5", "m6"}},
		{"by a name that never was", fluxly.EventQuery{Name: "z"}, nil},
		{"after a position", fluxly.EventQuery{AfterSeq: events[3].Seq}, []string{"m5", "m6"}},
		{"since is open, until closed", fluxly.EventQuery{Since: at(20), Until: at(40)}, []string{"m1", "m6"}},
		{"until alone", fluxly.EventQuery{Until: at(20)}, []string{"m2", "m4", "m5"}},
		{"newest by occurrence, ties by position", fluxly.EventQuery{Newest: true}, []string{"m6", "m1", "m5", "m4", "m2"}},
		{"newest by name, limited", fluxly.EventQuery{Name: "x", Newest: true, Limit: 3}, []string{"m6", "m1", "m5"}},
		{"limited", fluxly.EventQuery{Limit: 2}, []string{"m1", "m2"}},
		{"everything at once", fluxly.EventQuery{Name: "x", Since: at(10), Until: at(30), AfterSeq: events[0].Seq, Newest: true, Limit: 1}, []string{"m5"}},
	} {
		t.view(func(tx fluxly.Tx) error {
			events, err := tx.Events(t.ctx, "p1", c.q)
			t.equal(c.name, messageIDs(events), c.want)
			return err
		})
	}
	t.view(func(tx fluxly.Tx) error {
		events, err := tx.Events(t.ctx, "nobody", fluxly.EventQuery{})
		t.equal("events of nobody", len(events), 0)
		return err
	})
}

func testCountEvents(t *storeTest) {
	const tick = time.Microsecond
	base := at(0).Add(500 * tick)
	t.putEvents(
		event("m1", "p1", "x", base), event("m2", "p1", "x", base.Add(tick)), event("m3", "p1", "x", base.Add(2*tick)),
		event("m4", "p1", "y", base), event("m5", "p2", "x", base),
		// Late by receipt, early by occurrence.
		event("m6", "p1", "x", base.Add(-time.Hour)),
	)
	for _, c := range []struct {
		name         string
		since, until time.Time
		limit, want  int
	}{
		{"all", time.Time{}, time.Time{}, 0, 4},
		{"limited", time.Time{}, time.Time{}, 2, 2},
		{"limit above", time.Time{}, time.Time{}, 9, 4},
		{"since is open", base, time.Time{}, 0, 2},
		{"a microsecond before", base.Add(-tick), time.Time{}, 0, 3},
		{"until is closed", time.Time{}, base, 0, 2},
		{"a microsecond less", time.Time{}, base.Add(-tick), 0, 1},
		{"window", base, base.Add(tick), 0, 1},
		{"empty window", base, base, 0, 0},
		{"upside down", base.Add(2 * tick), base, 0, 0},
		{"in another zone", base.In(time.FixedZone("", -3600)), base.Add(tick).In(time.FixedZone("", 7200)), 0, 1},
	} {
		t.view(func(tx fluxly.Tx) error {
			n, err := tx.CountEvents(t.ctx, "p1", "x", c.since, c.until, c.limit)
			t.equal(c.name, n, c.want)
			return err
		})
	}
}

func testMemberships(t *storeTest) {
	t.update(func(tx fluxly.Tx) error {
		return errors.Join(
			tx.PutMembership(t.ctx, &fluxly.Membership{ProfileID: "p1", Segment: "b", Member: true, Since: at(1), CheckAt: at(9)}),
			tx.PutMembership(t.ctx, &fluxly.Membership{ProfileID: "p1", Segment: "a", Since: at(2)}),
			tx.PutMembership(t.ctx, &fluxly.Membership{ProfileID: "p2", Segment: "a", Since: at(3)}),
			tx.PutMembership(t.ctx, &fluxly.Membership{ProfileID: "p1", Segment: "b", Since: at(4)}),
		)
	})
	t.view(func(tx fluxly.Tx) error {
		got, err := tx.Memberships(t.ctx, "p1")
		t.equal("memberships", got, []fluxly.Membership{
			{ProfileID: "p1", Segment: "a", Since: at(2)}, {ProfileID: "p1", Segment: "b", Since: at(4)},
		})
		return err
	})
}
