package postgres

import (
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/getfluxly/fluxly/fluxlytest"
	"github.com/getfluxly/fluxly/internal/pgtest"
)

// Random histories of an engine give the same state as in memory, to the last
// field. The engine preloads, so this is also the test of what is guessed.
func TestHistoriesAgreeWithMemory(t *testing.T) {
	t.Parallel()
	pgtest.URL(t)
	seeds, steps := uint64(3), 400
	if testing.Short() {
		seeds = 1
	}
	if n, err := strconv.Atoi(os.Getenv("FLUXLY_STEPS")); err == nil {
		seeds, steps = 1, n
	}
	for seed := range seeds {
		var dumps [2][]string
		for i := range dumps {
			cfg := fluxlytest.HistoryConfig(nil)
			if i == 1 {
				cfg.Store = openMode(t, modeAuto)
			}
			k := fluxlytest.NewConfig(t, cfg)
			if err := fluxlytest.History(k, seed, steps); err != nil {
				t.Fatal(err)
			}
			d, err := fluxlytest.Dump(t.Context(), k.Store)
			if err != nil {
				t.Fatal(err)
			}
			dumps[i] = strings.Split(rankSeqs(d), "\n")
		}
		if diff := cmp.Diff(dumps[0], dumps[1]); diff != "" {
			t.Fatalf("seed %d: (-memory +postgres)\n%s", seed, diff)
		}
	}
}

var seqInDump = regexp.MustCompile(`(event {Seq|EntrySeq):\d+`)

// rankSeqs replaces the Seqs in a dump by their ranks: a store may leave
// numbers out.
func rankSeqs(dump string) string {
	number := func(match string) int {
		n, _ := strconv.Atoi(match[strings.IndexByte(match, ':')+1:])
		return n
	}
	var all []int
	for _, match := range seqInDump.FindAllString(dump, -1) {
		all = append(all, number(match))
	}
	slices.Sort(all)
	all = slices.Compact(all)
	return seqInDump.ReplaceAllStringFunc(dump, func(match string) string {
		rank, _ := slices.BinarySearch(all, number(match))
		return match[:strings.IndexByte(match, ':')+1] + strconv.Itoa(rank)
	})
}
