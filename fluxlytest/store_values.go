package fluxlytest

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/getfluxly/fluxly"
)

// fill gives every field of a record a value that is not zero, so that a field
// that a store forgets is found, also one that is added later.
func fill(v reflect.Value, n *int) {
	*n++
	switch x := v.Addr().Interface().(type) {
	case *time.Time:
		*x = at(*n).Add(123_456 * time.Microsecond)
		return
	case *map[string]any:
		*x = map[string]any{"n": int64(*n), "list": []any{"a", 1.5, nil}}
		return
	case *fluxly.Properties:
		*x = fluxly.Properties{"n": int64(*n), "whole": 2.0}
		return
	case *fluxly.Traits:
		*x = fluxly.Traits{"n": int64(*n), "nested": map[string]any{"k": true}}
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(fmt.Sprintf("v%03d", *n))
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(*n))
	case reflect.Uint8:
		v.SetUint(uint64(*n % 256))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), n)
		}
	case reflect.Array:
		for i := range v.Len() {
			fill(v.Index(i), n)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range v.Len() {
			fill(v.Index(i), n)
		}
	default:
		panic("fill: no value for " + v.Type().String())
	}
}

func filled[T any]() *T {
	row, n := new(T), 0
	fill(reflect.ValueOf(row).Elem(), &n)
	return row
}

func testEveryField(t *storeTest) {
	profile, membership, ev := filled[fluxly.Profile](), filled[fluxly.Membership](), filled[fluxly.StoredEvent]()
	run, entry, definition := filled[fluxly.Run](), filled[fluxly.LogEntry](), filled[fluxly.Definition]()
	send, suppression, erasure := filled[fluxly.SendRecord](), filled[fluxly.Suppression](), filled[fluxly.ErasureRecord]()
	t.update(func(tx fluxly.Tx) error {
		_, _, err := tx.PutEvent(t.ctx, ev)
		return errors.Join(
			err, tx.PutProfile(t.ctx, profile), tx.PutMembership(t.ctx, membership), tx.PutRun(t.ctx, run),
			tx.AppendLog(t.ctx, []fluxly.LogEntry{*entry}), tx.PutDefinition(t.ctx, definition), tx.PutSend(t.ctx, send),
			tx.PutSuppression(t.ctx, suppression), tx.PutErasure(t.ctx, erasure),
		)
	})
	t.view(func(tx fluxly.Tx) error {
		check := func(what string, got, want any, err error) {
			if err != nil {
				t.Errorf("%s: %v", what, err)
				return
			}
			t.equal(what, got, want)
		}
		p, err := tx.Profile(t.ctx, profile.ID)
		check("profile", p, profile, err)
		memberships, err := tx.Memberships(t.ctx, membership.ProfileID)
		check("membership", memberships, []fluxly.Membership{*membership}, err)
		e, err := tx.EventByMessageID(t.ctx, ev.MessageID)
		check("event", e, ev, err)
		r, err := tx.Run(t.ctx, run.ID)
		check("run", r, run, err)
		log, err := tx.Log(t.ctx, entry.RunID)
		check("log entry", log, []fluxly.LogEntry{*entry}, err)
		d, err := tx.Definition(t.ctx, definition.Automation, definition.Version)
		check("definition", d, definition, err)
		s, err := tx.Send(t.ctx, send.Key)
		check("mail", s, send, err)
		sup, err := tx.Suppression(t.ctx, suppression.Address, suppression.Stream)
		check("suppression", sup, suppression, err)
		erasures, err := tx.Erasures(t.ctx)
		check("erasure", erasures, []*fluxly.ErasureRecord{erasure}, err)
		return nil
	})
}

// overwrite stores a filled row, then the same row with one field changed, for
// each field but those of its key, and wants the changed row back.
func overwrite[T any](t *storeTest, put func(fluxly.Tx, *T) error, get func(fluxly.Tx, *T) (*T, error), key ...string) {
	t.Helper()
	kind := reflect.TypeFor[T]()
	for i := range kind.NumField() {
		if slices.Contains(key, kind.Field(i).Name) {
			continue
		}
		base, changed, n := filled[T](), filled[T](), 500
		fill(reflect.ValueOf(changed).Elem().Field(i), &n)
		t.update(func(tx fluxly.Tx) error { return put(tx, base) })
		t.update(func(tx fluxly.Tx) error { return put(tx, changed) })
		t.view(func(tx fluxly.Tx) error {
			got, err := get(tx, changed)
			t.equal(kind.Name()+" with another "+kind.Field(i).Name, got, changed)
			return err
		})
	}
}

func testOverwrite(t *storeTest) {
	overwrite(t, func(tx fluxly.Tx, r *fluxly.Run) error { return tx.PutRun(t.ctx, r) },
		func(tx fluxly.Tx, r *fluxly.Run) (*fluxly.Run, error) { return tx.Run(t.ctx, r.ID) }, "ID")
	overwrite(t, func(tx fluxly.Tx, s *fluxly.SendRecord) error { return tx.PutSend(t.ctx, s) },
		func(tx fluxly.Tx, s *fluxly.SendRecord) (*fluxly.SendRecord, error) { return tx.Send(t.ctx, s.Key) }, "Key")
	overwrite(t, func(tx fluxly.Tx, p *fluxly.Profile) error { return tx.PutProfile(t.ctx, p) },
		func(tx fluxly.Tx, p *fluxly.Profile) (*fluxly.Profile, error) { return tx.Profile(t.ctx, p.ID) }, "ID")
	overwrite(t, func(tx fluxly.Tx, m *fluxly.Membership) error { return tx.PutMembership(t.ctx, m) },
		func(tx fluxly.Tx, m *fluxly.Membership) (*fluxly.Membership, error) {
			list, err := tx.Memberships(t.ctx, m.ProfileID)
			if len(list) != 1 {
				return nil, fmt.Errorf("%d memberships, %w", len(list), err)
			}
			return &list[0], err
		}, "ProfileID", "Segment", "Member")
	overwrite(t, func(tx fluxly.Tx, s *fluxly.Suppression) error { return tx.PutSuppression(t.ctx, s) },
		func(tx fluxly.Tx, s *fluxly.Suppression) (*fluxly.Suppression, error) {
			return tx.Suppression(t.ctx, s.Address, s.Stream)
		}, "Address", "Stream")
	overwrite(t, func(tx fluxly.Tx, e *fluxly.ErasureRecord) error { return tx.PutErasure(t.ctx, e) },
		func(tx fluxly.Tx, _ *fluxly.ErasureRecord) (*fluxly.ErasureRecord, error) {
			list, err := tx.Erasures(t.ctx)
			if len(list) != 1 {
				return nil, fmt.Errorf("%d audit records, %w", len(list), err)
			}
			return list[0], err
		}, "ID")
}

func testCopies(t *storeTest) {
	p := &fluxly.Profile{
		ID: "p1", ExternalIDs: []string{"u1"}, CreatedAt: at(0),
		Traits: fluxly.Traits{"deep": map[string]any{"list": []any{"a"}}},
	}
	r := liveRun("r1", "p1", at(0), at(1))
	r.Waits = []string{"a"}
	t.update(func(tx fluxly.Tx) error {
		return errors.Join(tx.PutProfile(t.ctx, p), tx.PutRun(t.ctx, r))
	})
	spoil := func(p *fluxly.Profile, r *fluxly.Run) {
		p.ExternalIDs[0] = "spoiled"
		p.Traits["deep"].(map[string]any)["list"].([]any)[0] = "spoiled"
		p.Traits["more"] = true
		r.Waits[0] = "spoiled"
	}
	spoil(p, r)
	for range 2 {
		t.view(func(tx fluxly.Tx) error {
			p, err := tx.Profile(t.ctx, "p1")
			if err != nil {
				return err
			}
			r, err := tx.Run(t.ctx, "r1")
			if err != nil {
				return err
			}
			t.equal("ids", p.ExternalIDs, []string{"u1"})
			t.equal("traits", p.Traits, fluxly.Traits{"deep": map[string]any{"list": []any{"a"}}})
			t.equal("waits", r.Waits, []string{"a"})
			spoil(p, r)
			return nil
		})
	}
}

func testExactValues(t *storeTest) {
	deep := any("bottom")
	for range 6 {
		deep = []any{map[string]any{"in": deep}}
	}
	values := map[string]any{
		"beyond float":  int64(1<<53 + 1),
		"largest":       int64(math.MaxInt64),
		"smallest":      int64(math.MinInt64),
		"zero":          int64(0),
		"whole float":   1.0,
		"negative zero": math.Copysign(0, -1),
		"large float":   1e300,
		"small float":   5e-324,
		"fraction":      0.1,
		"big integer":   json.Number("123456789012345678901234567890"),
		"long decimal":  json.Number("0.12345678901234567890123"),
		"text":          "Grüße, 世界 \U0001F600 \"quoted\" \\ \u2028 </script>",
		"control":       "a\x00b\tc\nd\x7f",
		"empty":         "",
		"true":          true,
		"null":          nil,
		"zoned":         "2026-03-01T12:00:00.123456789+05:30",
		"list":          []any{int64(1), []any{}, map[string]any{}, []any{nil, false}},
		"deep":          deep,
		"Ünï \"key\"":   int64(1),
	}
	p := &fluxly.Profile{ID: "p1", CreatedAt: at(0), Traits: values}
	e := event("m1", "p1", "x", at(0))
	e.Properties, e.Traits = values, values
	r := liveRun("r1", "p1", at(0), at(1))
	r.Entry, r.Results = fluxly.EntryEvent{Name: "x", Properties: values}, values
	s := &fluxly.SendRecord{Key: "k1", ProfileID: "p1", QueuedAt: at(0), Events: []fluxly.ProviderEvent{{Kind: "Open", At: at(1), Detail: values}}}
	t.update(func(tx fluxly.Tx) error {
		_, _, err := tx.PutEvent(t.ctx, e)
		return errors.Join(err, tx.PutProfile(t.ctx, p), tx.PutRun(t.ctx, r), tx.PutSend(t.ctx, s),
			tx.AppendLog(t.ctx, []fluxly.LogEntry{{RunID: "r1", At: at(0), Code: "x", Detail: values}}))
	})
	t.view(func(tx fluxly.Tx) error {
		check := func(what string, got map[string]any) {
			t.Helper()
			t.equal(what, got, values)
			if f, _ := got["negative zero"].(float64); !math.Signbit(f) {
				t.Errorf("%s: negative zero lost its sign", what)
			}
		}
		p, err := tx.Profile(t.ctx, "p1")
		if err != nil {
			return err
		}
		check("traits", p.Traits)
		e, err := tx.EventByMessageID(t.ctx, "m1")
		if err != nil {
			return err
		}
		check("properties", e.Properties)
		check("traits of an event", e.Traits)
		r, err := tx.Run(t.ctx, "r1")
		if err != nil {
			return err
		}
		check("entry", r.Entry.Properties)
		check("results", r.Results)
		log, err := tx.Log(t.ctx, "r1")
		if err != nil {
			return err
		}
		check("detail", log[0].Detail)
		s, err := tx.Send(t.ctx, "k1")
		if err != nil {
			return err
		}
		check("notice", s.Events[0].Detail)
		return nil
	})

	// Other Go types come back in their canonical form.
	t.putProfiles(&fluxly.Profile{ID: "p2", CreatedAt: at(0), Traits: fluxly.Traits{
		"int": 7, "uint64": uint64(math.MaxUint64), "float32": float32(0.5), "strings": []string{"a"},
		"time": time.Date(2026, 1, 2, 3, 4, 5, 6, time.FixedZone("", 3600)),
	}})
	t.view(func(tx fluxly.Tx) error {
		p, err := tx.Profile(t.ctx, "p2")
		if err != nil {
			return err
		}
		t.equal("canonical traits", p.Traits, fluxly.Traits{
			"int": int64(7), "uint64": json.Number("18446744073709551615"), "float32": 0.5, "strings": []any{"a"},
			"time": "2026-01-02T03:04:05.000000006+01:00",
		})
		return nil
	})
}

func testBadValues(t *storeTest) {
	bad := map[string]any{"amount": math.NaN()}
	for what, write := range map[string]func(fluxly.Tx) error{
		"profile": func(tx fluxly.Tx) error {
			return tx.PutProfile(t.ctx, &fluxly.Profile{ID: "p1", CreatedAt: at(0), Traits: bad})
		},
		"event": func(tx fluxly.Tx) error {
			e := event("m1", "p1", "x", at(0))
			e.Properties = bad
			_, _, err := tx.PutEvent(t.ctx, e)
			return err
		},
		"run": func(tx fluxly.Tx) error {
			r := liveRun("r1", "p1", at(0), at(1))
			r.Results = bad
			return tx.PutRun(t.ctx, r)
		},
		"log": func(tx fluxly.Tx) error {
			return tx.AppendLog(t.ctx, []fluxly.LogEntry{{RunID: "r1", At: at(0), Detail: bad}})
		},
		"mail": func(tx fluxly.Tx) error {
			return tx.PutSend(t.ctx, &fluxly.SendRecord{Key: "k1", QueuedAt: at(0), Events: []fluxly.ProviderEvent{{Detail: bad}}})
		},
	} {
		if err := t.store.Update(t.ctx, write); err == nil || !strings.Contains(err.Error(), "amount") {
			t.Errorf("%s with NaN: error %v, want one that names the key", what, err)
		}
	}
}

func testTimes(t *storeTest) {
	zone := time.FixedZone("", 5*3600+1800)
	times := []time.Time{
		{},
		time.Date(1678, 1, 1, 0, 0, 0, 1, time.UTC),
		time.Unix(-1, 999_999_999),
		time.Date(2026, 3, 1, 12, 0, 0, 123_456_789, zone),
		time.Date(2262, 4, 11, 23, 47, 16, 854_775_807, time.UTC), // the last that 64 bits of nanoseconds hold
		time.Date(2262, 4, 11, 23, 47, 16, 854_776_000, time.UTC),
		time.Date(9998, 12, 31, 23, 59, 59, 999_999_999, time.UTC),
	}
	t.update(func(tx fluxly.Tx) error {
		for i, at := range times {
			id := fmt.Sprint("r", i)
			r := liveRun(id, "p1", at, at)
			r.EndedAt, r.WaitSince, r.Entry.OccurredAt = at, at, at
			_, _, err := tx.PutEvent(t.ctx, event(id, "p1", "x", at))
			if err := errors.Join(err, tx.PutRun(t.ctx, r),
				tx.PutProfile(t.ctx, &fluxly.Profile{ID: id, CreatedAt: at, UpdatedAt: at}),
				tx.PutMembership(t.ctx, &fluxly.Membership{ProfileID: id, Segment: "s", Since: at, CheckAt: at}),
				tx.PutSend(t.ctx, &fluxly.SendRecord{Key: id, Status: fluxly.SendQueued, QueuedAt: at, DueAt: at, SettledAt: at}),
			); err != nil {
				return fmt.Errorf("%v: %w", at, err)
			}
		}
		return nil
	})
	t.view(func(tx fluxly.Tx) error {
		same := func(what string, got, want time.Time) {
			t.Helper()
			if !got.Truncate(time.Microsecond).Equal(want.Truncate(time.Microsecond)) || got.Location() != time.UTC || got.IsZero() != want.IsZero() {
				t.Errorf("%s: %v, want %v in UTC", what, got, want)
			}
		}
		for i, want := range times {
			id := fmt.Sprint("r", i)
			r, err := tx.Run(t.ctx, id)
			if err != nil {
				return err
			}
			for what, got := range map[string]time.Time{
				"StartedAt": r.StartedAt, "UpdatedAt": r.UpdatedAt, "WakeAt": r.WakeAt,
				"EndedAt": r.EndedAt, "WaitSince": r.WaitSince, "Entry.OccurredAt": r.Entry.OccurredAt,
			} {
				same(what, got, want)
			}
			e, err := tx.EventByMessageID(t.ctx, id)
			if err != nil {
				return err
			}
			same("OccurredAt", e.OccurredAt, want)
			p, err := tx.Profile(t.ctx, id)
			if err != nil {
				return err
			}
			same("CreatedAt", p.CreatedAt, want)
			m, err := tx.Memberships(t.ctx, id)
			if err != nil {
				return err
			}
			same("Since", m[0].Since, want)
			same("CheckAt", m[0].CheckAt, want)
			s, err := tx.Send(t.ctx, id)
			if err != nil {
				return err
			}
			same("QueuedAt", s.QueuedAt, want)
			same("DueAt", s.DueAt, want)
		}
		// They sort, from far back to far ahead.
		want := []string{"r0", "r1", "r2", "r3", "r4", "r5", "r6"}
		runs, err := tx.Runs(t.ctx, fluxly.RunQuery{})
		if err != nil {
			return err
		}
		t.equal("runs", runIDs(runs), want)
		for i, after := range times {
			runs, err := tx.Runs(t.ctx, fluxly.RunQuery{AfterStarted: after, AfterID: want[i]})
			if err != nil {
				return err
			}
			t.equal("runs after "+after.String(), runIDs(runs), append([]string(nil), want[i+1:]...))
			if i == 0 {
				continue // a zero time bounds nothing
			}
			n, err := tx.CountEvents(t.ctx, "p1", "x", time.Time{}, after, 0)
			if err != nil {
				return err
			}
			t.equal("events until "+after.String(), n, i+1)
			n, err = tx.CountEvents(t.ctx, "p1", "x", after, time.Time{}, 0)
			if err != nil {
				return err
			}
			t.equal("events since "+after.String(), n, len(times)-1-i)
			due, next, err := tx.Due(t.ctx, fluxly.WorkWake, after, 100)
			if err != nil {
				return err
			}
			t.equal("due at "+after.String(), len(due), i)
			if i+1 < len(times) {
				same("next", next, times[i+1])
			}
		}
		return nil
	})
}

func testStrings(t *storeTest) {
	long := strings.Repeat("x", 10_000)
	ids := []string{
		long, "a b", "'; DROP TABLE runs; --", "\"quoted\"", "Ünïcode 世界", "%_*?", "0", "-1", "1e3",
		"0190163d-8694-739b-aea5-966c26f8ad91", "0190163D-8694-739B-AEA5-966C26F8AD91", "0190163d8694739baea5966c26f8ad91",
		"0190163d-8694-739b-aea5-966c26f8ad9g", "line\nbreak", "tab\tid",
	}
	t.update(func(tx fluxly.Tx) error {
		for i, id := range ids {
			r := liveRun(id, id, at(i), at(i))
			r.Key, r.Automation, r.Waits = id, id, []string{id}
			_, _, err := tx.PutEvent(t.ctx, event(id, id, id, at(i)))
			if err := errors.Join(err, tx.PutRun(t.ctx, r),
				tx.PutProfile(t.ctx, &fluxly.Profile{ID: id, ExternalIDs: []string{id}, AnonymousIDs: []string{id}, CreatedAt: at(0)}),
				tx.PutSend(t.ctx, &fluxly.SendRecord{Key: id, RunID: id, ProfileID: id, Status: fluxly.SendQueued, QueuedAt: at(i), DueAt: at(i), Body: []byte(long)}),
			); err != nil {
				return err
			}
		}
		return nil
	})
	t.view(func(tx fluxly.Tx) error {
		for i, id := range ids {
			e, err := tx.EventByMessageID(t.ctx, id)
			if err != nil || e == nil {
				return fmt.Errorf("event %.20q: %v, %w", id, e, err)
			}
			if e.MessageID != id || e.ProfileID != id || e.Name != id {
				t.Errorf("event %.20q came back as %.20q of %.20q named %.20q", id, e.MessageID, e.ProfileID, e.Name)
			}
			for _, kind := range []fluxly.IDKind{fluxly.UserID, fluxly.ExternalID, fluxly.AnonymousID} {
				found, err := tx.FindProfiles(t.ctx, []fluxly.Identifier{{Kind: kind, Value: id}})
				if err != nil {
					return err
				}
				t.equal("profiles", profileIDs(found), []string{id})
			}
			live, err := tx.LiveRuns(t.ctx, id, id, time.Time{})
			if err != nil {
				return err
			}
			t.equal("live runs", runIDs(live), []string{id})
			last, err := tx.LastRun(t.ctx, id, id, id)
			if err != nil || last == nil {
				return fmt.Errorf("last run %.20q: %v, %w", id, last, err)
			}
			sends, err := tx.Sends(t.ctx, fluxly.SendQuery{RunID: id})
			if err != nil {
				return err
			}
			t.equal("mails", sendKeys(sends), []string{id})
			if !slices.Equal(sends[0].Body, []byte(long)) {
				t.Error("the body of a mail changed")
			}
			due, _, err := tx.Due(t.ctx, fluxly.WorkSend, at(i), 100)
			if err != nil {
				return err
			}
			t.equal("due", due[i], fluxly.Work{ID: id, Due: at(i)})
		}
		return nil
	})
}
