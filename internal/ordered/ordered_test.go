package ordered_test

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/getfluxly/fluxly/internal/ordered"
)

// A long random history gives what a plain sorted list gives.
func TestSetAgainstSortedList(t *testing.T) {
	t.Parallel()
	for seed := range uint64(4) {
		r := rand.New(rand.NewPCG(seed, 1))
		set := ordered.New(cmp.Compare[int])
		var want []int
		for step := range 12_000 {
			v := r.IntN(6_000)
			i, has := slices.BinarySearch(want, v)
			if r.IntN(3) > 0 && step < 9_000 {
				if got := set.Insert(v); got == has {
					t.Fatalf("seed %d step %d: Insert(%d) = %v", seed, step, v, got)
				}
				if !has {
					want = slices.Insert(want, i, v)
				}
			} else {
				if got := set.Delete(v); got != has {
					t.Fatalf("seed %d step %d: Delete(%d) = %v", seed, step, v, got)
				}
				if has {
					want = slices.Delete(want, i, i+1)
				}
			}
			if step%500 == 0 {
				from := r.IntN(6_000)
				i, _ := slices.BinarySearch(want, from)
				if got := slices.Collect(set.From(from)); !slices.Equal(got, want[i:]) {
					t.Fatalf("seed %d step %d: From(%d) has %d items, want %d", seed, step, from, len(got), len(want)-i)
				}
			}
			if set.Len() != len(want) {
				t.Fatalf("seed %d step %d: Len %d, want %d", seed, step, set.Len(), len(want))
			}
		}
	}
}

func TestSetGrowsAtItsEnd(t *testing.T) {
	t.Parallel()
	set := ordered.New(cmp.Compare[int])
	for i := range 5_000 {
		set.Insert(i)
	}
	n := 0
	for v := range set.From(100) {
		if v != 100+n {
			t.Fatalf("item %d is %d", n, v)
		}
		n++
		if n == 50 {
			break
		}
	}
	if n != 50 {
		t.Fatalf("got %d items, want 50", n)
	}
}
