package postgres

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/getfluxly/fluxly"
)

// Suppressions that were read ahead answer as those that were not.
func TestSuppressionsAhead(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	store := openMode(t, modeAuto)
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	people := map[string]any{
		"all": "All@Acme.test", "one": "one@acme.test", "both": "both@acme.test", "none": "none@acme.test",
		"named": "Ann <named@acme.test>", "nul": "nul\x00@acme.test", "number": int64(7), "umlaut": "ÄNNE@acme.test",
	}
	err := store.Update(ctx, func(tx fluxly.Tx) error {
		for id, email := range people {
			if err := tx.PutProfile(ctx, &fluxly.Profile{ID: id, CreatedAt: at, UpdatedAt: at, Traits: fluxly.Traits{"email": email}}); err != nil {
				return err
			}
			if err := tx.PutSend(ctx, &fluxly.SendRecord{Key: id, ProfileID: id, Status: fluxly.SendQueued, QueuedAt: at, DueAt: at}); err != nil {
				return err
			}
		}
		for _, s := range []fluxly.Suppression{
			{Address: "all@acme.test"},
			{Address: "one@acme.test", Stream: "s1"},
			{Address: "both@acme.test"},
			{Address: "both@acme.test", Stream: "s1", Reason: "mine"},
			{Address: "named@acme.test"},
			{Address: "änne@acme.test"},
		} {
			s.At = at
			if err := tx.PutSuppression(ctx, &s); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	look := func(ahead bool) map[string]any {
		got := map[string]any{}
		err := store.Update(ctx, func(tx fluxly.Tx) error {
			if ahead {
				var hints []fluxly.Preload
				for id := range people {
					hints = append(hints, fluxly.Preload{SendKey: id})
				}
				if err := tx.(fluxly.Preloader).Preload(ctx, hints); err != nil {
					return err
				}
			}
			for _, address := range []string{"ALL@acme.test", "one@acme.test", "both@acme.test", "none@acme.test", "named@acme.test", "Änne@acme.test"} {
				for _, stream := range []string{"", "s1", "s2"} {
					s, err := tx.Suppression(ctx, address, stream)
					if err != nil {
						return err
					}
					got[address+" on "+stream] = s
				}
			}
			// What the transaction changes is seen.
			if err := tx.DeleteSuppression(ctx, "all@acme.test", ""); err != nil {
				return err
			}
			s, err := tx.Suppression(ctx, "all@acme.test", "s1")
			got["deleted"] = s
			if err := tx.PutSuppression(ctx, &fluxly.Suppression{Address: "all@acme.test", At: at}); err != nil {
				return err
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	if d := cmp.Diff(look(false), look(true)); d != "" {
		t.Errorf("(-asked +ahead)\n%s", d)
	}
}
