package bench

import (
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/getfluxly/fluxly"
)

// fileEnv names the store file that a process of its own opens: see
// TestEngineAsleep.
const fileEnv = "BENCH_SLEEPERS_FILE"

// sleeperAutomations: people sleep in the first one. The second makes the
// engine look whether the person in hand waits for report_exported.
func sleeperAutomations() []fluxly.Automation {
	return []fluxly.Automation{
		{
			Name: "trial-onboarding", Trigger: fluxly.On("signed_up"), Exit: fluxly.On("subscription_started"),
			Steps: fluxly.Steps{fluxly.WaitFor("project_created", 30*fluxly.Day).Then(fluxly.Send("first-project"))},
		},
		{
			Name: "reports", Trigger: fluxly.On("report_begun"),
			Steps: fluxly.Steps{fluxly.WaitFor("report_exported", fluxly.Day).Then(fluxly.Send("welcome"))},
		},
	}
}

// TestEngineSleepers measures an engine whose people are nearly all asleep in
// an automation: what an event costs that concerns none of the runs, and what
// the process needs; see [sleepers].
func TestEngineSleepers(t *testing.T) {
	count, asked := sleepers(t)
	dir := t.TempDir()
	none, all := filepath.Join(dir, "none.db"), filepath.Join(dir, "all.db")
	start := time.Now()
	for _, path := range []string{none, all} {
		store := openSQLite(t, path)
		putPeople(t, store, 0, count)
		if path == all {
			putWaiting(t, store, sleeperAutomations()[0], 0, count, func(n int) time.Time {
				return time.Now().Add(fluxly.Day + time.Duration(n)*time.Millisecond)
			})
		}
		must(store.Close())
		info, err := os.Stat(path)
		must(err)
		t.Logf("%s: %d MB after %v", filepath.Base(path), info.Size()>>20, time.Since(start).Round(time.Second))
	}

	// A process of its own: what does it need while it waits?
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestEngineAsleep$", "-test.v")
	child.Env = append(os.Environ(), fileEnv+"="+all)
	out, err := child.CombinedOutput()
	for line := range strings.Lines(string(out)) {
		if _, said, ok := strings.Cut(line, "_test.go:"); ok {
			t.Log("process: " + strings.TrimSpace(said))
		}
	}
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}

	engines := make([]*fluxly.Engine, 2)
	for k, path := range []string{none, all} {
		engines[k] = newEngine(t, fluxly.Config{Store: openSQLite(t, path), Automations: sleeperAutomations()})
		defer running(t, engines[k])()
	}
	r := rand.New(rand.NewPCG(1, 4))
	for _, name := range []string{"page_viewed", "report_exported"} {
		var ratios []float64
		var costs [2][]float64
		for round := range 32 {
			events := make([]fluxly.Event, 1_024)
			for i := range events {
				events[i] = known(r.IntN(count))
				events[i].Name = name
			}
			var took [2]time.Duration
			for j := range engines {
				k := (j + round) % 2
				start := time.Now()
				trackAll(t, engines[k], len(events), func(i int) fluxly.Event { return events[i] })
				took[k] = time.Since(start)
			}
			if round > 0 {
				ratios = append(ratios, float64(took[1])/float64(took[0]))
				for k := range took {
					costs[k] = append(costs[k], float64(took[k].Nanoseconds())/float64(len(events)))
				}
			}
		}
		ratio := median(ratios)
		t.Logf("%s: %.1f us an event with none asleep, %.1f us with %d: %.2fx", name, median(costs[0])/1e3, median(costs[1])/1e3, count, ratio)
		if asked && name == "page_viewed" && ratio > sleepersBar {
			t.Errorf("%.2f times the cost with none asleep; the bar is %.1f", ratio, sleepersBar)
		}
	}
}

// TestEngineAsleep is the process that TestEngineSleepers starts; by itself it
// has nothing to open.
func TestEngineAsleep(t *testing.T) {
	path := os.Getenv(fileEnv)
	if path == "" {
		return
	}
	_, asked := sleepers(t)
	start := time.Now()
	store := openSQLite(t, path)
	e := newEngine(t, fluxly.Config{Store: store, Automations: sleeperAutomations()})
	began := time.Since(start)
	defer running(t, e)()
	rest := func(d time.Duration) {
		timer := time.NewTimer(d)
		defer timer.Stop()
		<-timer.C
	}
	idle := idleFor(asked)
	rest(idle / 10)
	used := processorTime(t)
	rest(idle)
	// Of the four lanes each looks at its clock once a minute, and at nothing else.
	share := float64(processorTime(t)-used) / float64(idle)
	asleep := memory(t)
	trackAll(t, e, 10_000, func(i int) fluxly.Event { return known(i * 97) })
	after := memory(t)
	t.Logf("opened in %v; %d MB, %.3f %% of one processor over %v; %d MB after 10,000 events",
		began.Round(time.Millisecond), asleep>>20, share*100, idle, after>>20)
	if asked && (asleep > sleepersMemory || after > sleepersMemory) {
		t.Errorf("%d MB asleep, %d MB after events; the bar is %d MB", asleep>>20, after>>20, sleepersMemory>>20)
	}
	if asked && share > sleepersIdle {
		t.Errorf("%.2f %% of a processor while idle; the bar is %.0f %%", share*100, sleepersIdle*100)
	}
}
