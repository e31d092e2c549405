package fluxly_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/getfluxly/fluxly"
)

// An erasure takes the suppressions of all addresses that the person ever had,
// and of no address that somebody else has.
func TestEraseTakesOwnSuppressions(t *testing.T) {
	t.Parallel()
	k := newKit(t, one("w", fluxly.On("signed_up"), fluxly.Send("welcome")))
	identify := func(id, email string) {
		k.Identify(fluxly.Identity{ExternalID: id, Traits: fluxly.Traits{"email": email}})
	}
	suppress := func(address, stream string) {
		t.Helper()
		if err := k.Engine.Suppress(t.Context(), fluxly.Suppression{Address: address, Stream: stream, Reason: "HardBounce"}); err != nil {
			t.Fatal(err)
		}
	}
	identify("ann", "First@acme.test")
	identify("ann", "Ann <mailed@acme.test>")
	k.Track(event("signed_up", "ann", nil))
	k.WantSent("ann", "welcome")
	// More events than are read at once come in between.
	for i := range 1_200 {
		k.Track(fluxly.Event{Name: "clicked", ExternalID: "ann", MessageID: fmt.Sprint("click", i)})
	}
	identify("ann", "late@acme.test")
	identify("ann", "Ann <now@acme.test>")
	identify("ann", "family@acme.test")
	for _, a := range []string{"first", "mailed", "late", "now", "family", "foreign"} {
		suppress(a+"@acme.test", "")
	}
	suppress("NOW@acme.test", "broadcast")
	// More people than are read at once, one of whom has an address too.
	for i := range 1_200 {
		identify(fmt.Sprint("user", i), fmt.Sprintf("user%d@acme.test", i))
	}
	identify("zoe", "Zoe <FAMILY@acme.test>")
	identify("old", "late@acme.test") // once, but no more
	identify("old", "other@acme.test")

	if err := k.Engine.Erase(t.Context(), fluxly.Erasure{ID: "ann", Reason: fluxly.GDPRRequest}); err != nil {
		t.Fatal(err)
	}
	var left []string
	err := k.Store.View(t.Context(), func(tx fluxly.Tx) error {
		all, err := tx.Suppressions(t.Context())
		for _, s := range all {
			left = append(left, s.Address)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"family@acme.test", "foreign@acme.test"}, left); diff != "" {
		t.Errorf("suppressions after the erasure (-want +got):\n%s", diff)
	}
	k.Track(event("signed_up", "zoe", nil))
	k.WantNotSent("zoe", "welcome", fluxly.ReasonSuppressed)

	// The last one who has the address takes its suppression along.
	if err := k.Engine.Erase(t.Context(), fluxly.Erasure{ID: "zoe", Reason: fluxly.GDPRRequest}); err != nil {
		t.Fatal(err)
	}
	err = k.Store.View(t.Context(), func(tx fluxly.Tx) error {
		s, err := tx.Suppression(t.Context(), "family@acme.test", "")
		if s != nil {
			t.Errorf("left: %+v", s)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
