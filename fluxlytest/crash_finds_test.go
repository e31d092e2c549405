package fluxlytest

import (
	"context"
	"strings"
	"testing"

	"github.com/getfluxly/fluxly"
)

// badStore does not do what it says, now and then.
type badStore struct {
	fluxly.Store
	n     int
	every int
	spoil func(fluxly.Tx) fluxly.Tx
}

func (s *badStore) Update(ctx context.Context, fn func(fluxly.Tx) error) error {
	if s.n++; s.n%s.every != 0 {
		return s.Store.Update(ctx, fn)
	}
	return s.Store.Update(ctx, func(tx fluxly.Tx) error { return fn(s.spoil(tx)) })
}

func (s *badStore) Close() error { return nil }

type tornTx struct{ fluxly.Tx }

func (tornTx) PutRun(context.Context, *fluxly.Run) error { return nil }

type forgetfulTx struct{ fluxly.Tx }

func (t forgetfulTx) PutEvent(context.Context, *fluxly.StoredEvent) ([32]byte, bool, error) {
	return [32]byte{}, false, nil
}

type unsettledTx struct{ fluxly.Tx }

func (t unsettledTx) PutSend(ctx context.Context, m *fluxly.SendRecord) error {
	if m.Status == fluxly.SendAccepted {
		return nil
	}
	return t.Tx.PutSend(ctx, m)
}

// A schedule finds stores that tear transactions, forget events, or lose the
// outcome of a mail.
func TestCrashSchedulesFindBadStores(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(fluxly.Tx) fluxly.Tx{
		"a run is not written": func(tx fluxly.Tx) fluxly.Tx { return tornTx{tx} },
		"an event is lost":     func(tx fluxly.Tx) fluxly.Tx { return forgetfulTx{tx} },
		"an outcome is lost":   func(tx fluxly.Tx) fluxly.Tx { return unsettledTx{tx} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			stores := map[string]fluxly.Store{}
			setup, err := newCrashSetup(CrashConfig{Engine: HistoryConfig(nil), Open: func(_ testing.TB, dir string) fluxly.Store {
				if stores[dir] == nil {
					stores[dir] = &badStore{Store: fluxly.NewMemoryStore(), every: 5, spoil: spoil}
				}
				return stores[dir]
			}})
			if err != nil {
				t.Fatal(err)
			}
			found, dir := 0, t.TempDir()
			const seeds = 20
			for seed := range uint64(seeds) {
				w := newCrashWorld(t, setup, seed, dir, randomPlan(seed))
				if err := w.play(t.Context()); err != nil {
					found++
					if !strings.Contains(w.trace(), "HERE: ") {
						t.Errorf("seed %d: the schedule does not show where it failed", seed)
					}
				}
			}
			if found < seeds/2 {
				t.Errorf("only %d of %d schedules fail", found, seeds)
			}
		})
	}
}

func TestCrashConfigMistakes(t *testing.T) {
	t.Parallel()
	for want, cfg := range map[string]CrashConfig{
		"Automations is empty":                         {},
		"Store, Sender and Now are the schedule's own": {Engine: HistoryConfig(fluxly.NewMemoryStore())},
		"Seeds -1": {Engine: HistoryConfig(nil), Seeds: -1},
	} {
		if _, err := newCrashSetup(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}
