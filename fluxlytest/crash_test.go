package fluxlytest

import (
	"context"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/getfluxly/fluxly"
)

// crashSeeds is how many schedules are run: those of FLUXLY_CRASH_SEEDS, or 0
// for the default.
func crashSeeds(t *testing.T) int {
	t.Helper()
	n, err := strconv.Atoi(os.Getenv("FLUXLY_CRASH_SEEDS"))
	if err != nil {
		return 0
	}
	return n
}

// keptStore is a store in memory that outlives its "process".
type keptStore struct{ fluxly.Store }

func (keptStore) Close() error { return nil }

func (keptStore) Exclusive() bool { return true }

func TestR14R16CrashesInMemory(t *testing.T) {
	t.Parallel()
	stores := map[string]fluxly.Store{}
	TestCrashes(t, func(_ testing.TB, dir string) fluxly.Store {
		if stores[dir] == nil {
			stores[dir] = keptStore{fluxly.NewMemoryStore()}
		}
		return stores[dir]
	})
}

func TestR14R16O3O6S16CrashSchedules(t *testing.T) { //nolint:tparallel // its subtests are those of TestCrashSchedules, which waits for them
	t.Parallel()
	TestCrashSchedules(t, CrashConfig{Engine: HistoryConfig(nil), Seeds: crashSeeds(t)})
}

// The same seed gives the same schedule and the same outcome, also beside
// others.
func TestCrashScheduleIsDeterministic(t *testing.T) {
	t.Parallel()
	setup, err := newCrashSetup(CrashConfig{Engine: HistoryConfig(nil)})
	if err != nil {
		t.Fatal(err)
	}
	play := func(seed uint64) []string {
		w := newCrashWorld(t, setup, seed, "", randomPlan(seed))
		var end []string
		w.ended = func(store fluxly.Store) {
			if end, err = crashDump(t.Context(), store, func(*fluxly.SendRecord) {}); err != nil {
				t.Error(err)
			}
		}
		if err := w.play(t.Context()); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if len(end) == 0 {
			t.Fatalf("seed %d: nothing is stored", seed)
		}
		return append(strings.Split(w.trace(), "\n"), end...)
	}
	var stops int
	for seed := range uint64(60) {
		a, b := play(seed), play(seed)
		if diff := cmp.Diff(a, b); diff != "" {
			t.Fatalf("seed %d: %s", seed, diff)
		}
		for _, l := range a {
			if strings.Contains(l, "is stopped") || strings.Contains(l, "is frozen") {
				stops++
			}
		}
	}
	if stops < 60 {
		t.Errorf("hardly anything happens: %d stops and freezes in 60 schedules", stops)
	}
}

// The same history gives the same state, to the last field, when it is played
// again.
func TestHistoryIsDeterministic(t *testing.T) {
	t.Parallel()
	play := func(seed uint64) string {
		k := NewConfig(t, HistoryConfig(nil))
		if err := History(k, seed, 400); err != nil {
			t.Fatal(err)
		}
		d, err := Dump(t.Context(), k.Store)
		if err != nil {
			t.Fatal(err)
		}
		if n := k.Engine.Counters().RunsStarted; n < 20 {
			t.Errorf("seed %d: hardly any runs: %d", seed, n)
		}
		return d
	}
	for seed := range uint64(6) {
		a, b := play(seed), play(seed)
		if diff := cmp.Diff(strings.Split(a, "\n"), strings.Split(b, "\n")); diff != "" {
			t.Fatalf("seed %d: %s", seed, diff)
		}
	}
}

// Calls of the test's own, with a step of its own, on stores of both kinds.
func TestCrashSchedulesOfOwnCalls(t *testing.T) { //nolint:tparallel // its subtests are those of TestCrashSchedules, which waits for them
	t.Parallel()
	for _, processes := range []int{1, 4} {
		TestCrashSchedules(t, CrashConfig{
			Engine: fluxly.Config{
				Automations: []fluxly.Automation{{
					Name: "trial", Trigger: fluxly.On("signed_up"), Exit: fluxly.On("subscribed"),
					Steps: fluxly.Steps{
						fluxly.Send("welcome"),
						fluxly.WaitFor("project_created", 3*fluxly.Day).Then(fluxly.Do("score"), fluxly.Send("bravo")).Else(fluxly.Send("nudge")),
					},
				}},
				Funcs: map[string]fluxly.StepFunc{"score": func(context.Context, fluxly.StepInput) (any, error) { return 7, nil }},
			},
			Calls: func(r *rand.Rand) []CrashCall {
				var calls []CrashCall
				for _, id := range []string{"u1", "u2", "u3"} {
					calls = append(
						calls,
						CrashCall{Event: fluxly.Event{Name: "signed_up", ExternalID: id, Traits: fluxly.Traits{"email": id + "@example.test"}}},
						CrashCall{At: time.Duration(r.IntN(5*24)) * time.Hour, Event: fluxly.Event{Name: "project_created", ExternalID: id}},
					)
				}
				return calls
			},
			Days: 6, Seeds: 40, First: 1_000, Processes: processes,
			Providers: []CrashProvider{CrashShowsLate, CrashHold},
		})
	}
}
