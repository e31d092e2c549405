package fluxlytest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/getfluxly/fluxly"
)

// historySteps is the number of operations in a random history. The environment
// variable FLUXLY_STEPS names another, for the seed that always changes or the
// one that is repeated.
func historySteps(seed uint64) int {
	if n, err := strconv.Atoi(os.Getenv("FLUXLY_STEPS")); err == nil && n > 0 && seed > 2 {
		return n
	}
	return 2_000
}

// historySeeds are two that never change and one that always does. The
// environment variable FLUXLY_SEED names one to repeat.
func historySeeds() []uint64 {
	if seed, err := strconv.ParseUint(os.Getenv("FLUXLY_SEED"), 10, 64); err == nil {
		return []uint64{seed}
	}
	return []uint64{1, 2, rand.Uint64()}
}

// history makes random operations over few names, so that they meet.
type history struct {
	*rand.Rand
	messages []string
}

func (h *history) pick(prefix string, n int) string { return prefix + strconv.Itoa(h.IntN(n)) }

func (h *history) time() time.Time {
	if h.IntN(12) == 0 {
		return time.Time{}
	}
	return at(h.IntN(100))
}

func (h *history) picks(prefix string, n int) (list []string) {
	for i := range n {
		if h.IntN(3) == 0 {
			list = append(list, prefix+strconv.Itoa(i))
		}
	}
	return list
}

func (h *history) values() map[string]any {
	if h.IntN(3) == 0 {
		return nil
	}
	all := []any{int64(1) << h.IntN(63), h.Float64(), "text", nil, true, []any{int64(1), "x"}, map[string]any{"k": 2.0}}
	return map[string]any{"a": all[h.IntN(len(all))], "b": all[h.IntN(len(all))]}
}

// step is one operation and what it answered.
type step struct {
	name string
	do   func(context.Context, fluxly.Tx, *numbering) (any, error)
}

// numbering makes the Seqs of a store those of the model, which leaves no
// numbers out: what a transaction stored first in the one it stored first in the
// other. That the Seqs of a person's events grow shows in the order of Events.
type numbering struct {
	// model are the Seqs that the model gave in this transaction, marks the
	// message ids behind which its questions began.
	model []int64
	marks []string
	// translate says that this is the store; seqs and mark are how many of
	// the above it has come to.
	translate  bool
	seqs, mark int
	// known are the Seqs of the store that are committed, made those of this
	// transaction.
	known, made map[int64]int64
}

// begin is called at the start of each try.
func (n *numbering) begin(translate bool) {
	n.translate, n.seqs, n.mark, n.made = translate, 0, 0, map[int64]int64{}
	if !translate {
		n.model, n.marks = nil, nil
	}
}

// stored takes the Seq of a new event.
func (n *numbering) stored(seq int64) (int64, error) {
	if !n.translate {
		n.model = append(n.model, seq)
		return seq, nil
	}
	if n.known[seq] != 0 || n.made[seq] != 0 || seq <= 0 {
		return 0, fmt.Errorf("the Seq %d was given twice", seq)
	}
	if n.seqs >= len(n.model) {
		return 0, fmt.Errorf("the event with the Seq %d is one too many", seq)
	}
	n.made[seq] = n.model[n.seqs]
	n.seqs++
	return n.made[seq], nil
}

// after is a Seq for EventQuery.AfterSeq: that of the last event of a person
// that the model has at or before a Seq.
func (n *numbering) after(ctx context.Context, tx fluxly.Tx, profile string, seq int64) (int64, error) {
	all, err := tx.Events(ctx, profile, fluxly.EventQuery{})
	if err != nil {
		return 0, err
	}
	if !n.translate {
		mark := ""
		for _, e := range all {
			if e.Seq <= seq {
				mark = e.MessageID
			}
		}
		n.marks = append(n.marks, mark)
		return seq, nil
	}
	mark := n.marks[n.mark]
	n.mark++
	for _, e := range all {
		if e.MessageID == mark {
			return e.Seq, nil
		}
	}
	return 0, nil
}

// events translates the Seqs of events that were read.
func (n *numbering) events(list ...*fluxly.StoredEvent) {
	for _, e := range list {
		if e == nil || !n.translate {
			continue
		}
		seq, ok := n.made[e.Seq]
		if !ok {
			seq = n.known[e.Seq] // 0 for one that was never given
		}
		e.Seq = seq
	}
}

// write makes an operation that changes something. All random choices are made
// here, so that it does the same on every store.
func (h *history) write() step {
	profile, other := h.pick("p", 6), h.pick("p", 6)
	switch h.IntN(14) {
	case 0, 1, 2:
		id := h.pick("m", 500)
		h.messages = append(h.messages, id)
		e := event(id, profile, h.pick("event", 4), h.time())
		e.Properties, e.Traits = h.values(), h.values()
		e.Digest[31] = byte(h.IntN(2))
		return step{"PutEvent " + id, func(ctx context.Context, tx fluxly.Tx, n *numbering) (any, error) {
			row := *e
			digest, duplicate, err := tx.PutEvent(ctx, &row)
			if err != nil || duplicate {
				return []any{digest, duplicate, int64(0)}, err
			}
			seq, err := n.stored(row.Seq)
			return []any{digest, duplicate, seq}, err
		}}
	case 3, 4:
		p := &fluxly.Profile{
			ID: profile, ExternalIDs: h.picks("u", 5), AnonymousIDs: h.picks("a", 3), UserIDs: h.picks("p", 4),
			Traits: h.values(), CreatedAt: h.time(), UpdatedAt: h.time(),
		}
		for i := range h.IntN(3) {
			p.Unsubscribed = append(p.Unsubscribed, fluxly.Unsubscription{Topic: "t" + strconv.Itoa(i), At: h.time()})
		}
		return step{"PutProfile " + profile, func(ctx context.Context, tx fluxly.Tx, _ *numbering) (any, error) {
			return nil, tx.PutProfile(ctx, p)
		}}
	case 5, 6, 7:
		r := &fluxly.Run{
			ID: h.pick("r", 30), ProfileID: profile, Automation: h.pick("auto", 3), Version: "v" + strconv.Itoa(h.IntN(2)),
			Key: []string{"", "k"}[h.IntN(2)], Step: h.pick("s", 3), StartedAt: h.time(), UpdatedAt: h.time(), WakeAt: h.time(),
			Status:  []fluxly.RunStatus{fluxly.RunLive, fluxly.RunLive, fluxly.RunCompleted, fluxly.RunFailed}[h.IntN(4)],
			Pending: []fluxly.Pending{fluxly.PendingTimer, fluxly.PendingEvent, fluxly.PendingCall, fluxly.PendingMail, ""}[h.IntN(5)],
			Waits:   h.picks("event", 4), Visit: h.IntN(9), Results: h.values(), EntrySeq: int64(h.IntN(2)) << 40,
			Entry: fluxly.EntryEvent{Name: "x", Properties: h.values(), OccurredAt: h.time()},
		}
		if r.Status != fluxly.RunLive {
			r.EndedAt = h.time()
		}
		return step{"PutRun " + r.ID, func(ctx context.Context, tx fluxly.Tx, _ *numbering) (any, error) { return nil, tx.PutRun(ctx, r) }}
	case 8:
		e := fluxly.LogEntry{RunID: h.pick("r", 30), Automation: "trial", Seq: h.IntN(20), At: h.time(), Step: h.pick("s", 3), Code: h.pick("code", 3), Detail: h.values()}
		return step{"AppendLog " + e.RunID, func(ctx context.Context, tx fluxly.Tx, _ *numbering) (any, error) {
			err := tx.AppendLog(ctx, []fluxly.LogEntry{e})
			return err != nil, nil // an entry that is there already is an answer
		}}
	case 9, 10:
		s := &fluxly.SendRecord{
			Key: h.pick("k", 40), RunID: h.pick("r", 30), ProfileID: profile, Automation: h.pick("auto", 3), Step: h.pick("s", 3),
			Status: []fluxly.SendStatus{fluxly.SendQueued, fluxly.SendSending, fluxly.SendAccepted, fluxly.SendSkipped}[h.IntN(4)],
			Reason: []string{"", "consent"}[h.IntN(2)], QueuedAt: h.time(), DueAt: h.time(), Attempts: h.IntN(3), FailingSince: h.time(),
		}
		for range h.IntN(3) {
			s.Events = append(s.Events, fluxly.ProviderEvent{Kind: "Open", At: h.time(), Detail: h.values()})
		}
		return step{"PutSend " + s.Key, func(ctx context.Context, tx fluxly.Tx, _ *numbering) (any, error) { return nil, tx.PutSend(ctx, s) }}
	case 11:
		m := &fluxly.Membership{ProfileID: profile, Segment: h.pick("seg", 3), Member: h.IntN(2) == 0, Since: h.time(), CheckAt: h.time()}
		return step{"PutMembership", func(ctx context.Context, tx fluxly.Tx, _ *numbering) (any, error) {
			return nil, tx.PutMembership(ctx, m)
		}}
	case 12:
		address, stream := h.pick("Ann", 3)+"@acme.test", h.pick("stream", 2)
		if h.IntN(3) == 0 {
			return step{"DeleteSuppression", func(ctx context.Context, tx fluxly.Tx, _ *numbering) (any, error) {
				return nil, tx.DeleteSuppression(ctx, address, stream)
			}}
		}
		s := &fluxly.Suppression{Address: address, Stream: stream, Reason: h.pick("reason", 3), At: h.time()}
		return step{"PutSuppression", func(ctx context.Context, tx fluxly.Tx, _ *numbering) (any, error) {
			return nil, tx.PutSuppression(ctx, s)
		}}
	}
	switch h.IntN(7) {
	case 4, 5, 6:
		return h.prune()
	case 0:
		address := h.pick("ANN", 3) + "@acme.test"
		return step{"EraseProfile " + profile, func(ctx context.Context, tx fluxly.Tx, _ *numbering) (any, error) {
			return tx.EraseProfile(ctx, profile, []string{address})
		}}
	case 1:
		e := &fluxly.ErasureRecord{ID: h.pick("e", 5), Reason: fluxly.GDPRRequest, At: h.time(), Events: h.IntN(9)}
		return step{"PutErasure", func(ctx context.Context, tx fluxly.Tx, _ *numbering) (any, error) { return nil, tx.PutErasure(ctx, e) }}
	case 2:
		d := &fluxly.Definition{Automation: "trial", Version: h.pick("v", 3), JSON: []byte(h.pick("", 9)), CreatedAt: h.time()}
		return step{"PutDefinition", func(ctx context.Context, tx fluxly.Tx, _ *numbering) (any, error) {
			return nil, tx.PutDefinition(ctx, d)
		}}
	}
	return step{"MergeProfile " + profile + " " + other, func(ctx context.Context, tx fluxly.Tx, _ *numbering) (any, error) {
		err := tx.MergeProfile(ctx, profile, other)
		return profile == other && err == nil, ignoreSelf(profile, other, err)
	}}
}

// prune makes an operation that removes what is old, in one stretch or in
// several.
func (h *history) prune() step {
	q := fluxly.PruneQuery{Before: h.time(), Keep: map[string]time.Time{h.pick("event", 4): h.time()}}
	prune, name := fluxly.Tx.PruneEvents, "PruneEvents"
	switch h.IntN(3) {
	case 1:
		prune, name, q.Limit = fluxly.Tx.PruneRuns, "PruneRuns", h.IntN(5)
	case 2:
		prune, name, q.Limit = fluxly.Tx.PruneSends, "PruneSends", h.IntN(5)
	}
	// The Seqs of different people need not grow in the same order in each
	// store, so that a stretch of events can hold others: all at once.
	return step{fmt.Sprintf("%s %+v", name, q), func(ctx context.Context, tx fluxly.Tx, _ *numbering) (any, error) {
		return pruneAll(ctx, tx, prune, q)
	}}
}

// pruneAll prunes stretch by stretch, and gives what was done in each.
func pruneAll(ctx context.Context, tx fluxly.Tx, prune func(fluxly.Tx, context.Context, fluxly.PruneQuery) (fluxly.PruneResult, error), q fluxly.PruneQuery) (list []fluxly.PruneResult, err error) {
	for {
		res, err := prune(tx, ctx, q)
		if err != nil {
			return nil, err
		}
		q.After = res.Next
		res.Next.Seq = 0 // differs between stores
		list = append(list, res)
		if !res.More {
			return list, nil
		}
	}
}

func ignoreSelf(a, b string, err error) error {
	if a == b {
		return nil
	}
	return err
}

// read makes an operation that asks something.
func (h *history) read() step {
	profile := h.pick("p", 6)
	switch h.IntN(8) {
	case 6, 7:
		var ids []fluxly.Identifier
		for range 1 + h.IntN(3) {
			kind := []fluxly.IDKind{fluxly.UserID, fluxly.ExternalID, fluxly.AnonymousID}[h.IntN(3)]
			ids = append(ids, fluxly.Identifier{Kind: kind, Value: h.pick(map[fluxly.IDKind]string{
				fluxly.UserID: "p", fluxly.ExternalID: "u", fluxly.AnonymousID: "a",
			}[kind], 6)})
		}
		return step{fmt.Sprint("FindProfiles ", ids), func(ctx context.Context, tx fluxly.Tx, _ *numbering) (any, error) {
			return tx.FindProfiles(ctx, ids)
		}}
	case 0:
		q := fluxly.EventQuery{Since: h.time(), Until: h.time(), AfterSeq: int64(h.IntN(50)), Newest: h.IntN(2) == 0, Limit: h.IntN(5)}
		if h.IntN(2) == 0 {
			q.Name = h.pick("event", 4)
		}
		return step{fmt.Sprintf("Events %s %+v", profile, q), func(ctx context.Context, tx fluxly.Tx, n *numbering) (any, error) {
			q := q
			var err error
			if q.AfterSeq, err = n.after(ctx, tx, profile, q.AfterSeq); err != nil {
				return nil, err
			}
			list, err := tx.Events(ctx, profile, q)
			n.events(list...)
			return list, err
		}}
	case 1:
		name, since, until, limit := h.pick("event", 4), h.time(), h.time(), h.IntN(4)
		return step{"CountEvents", func(ctx context.Context, tx fluxly.Tx, _ *numbering) (any, error) {
			return tx.CountEvents(ctx, profile, name, since, until, limit)
		}}
	case 2:
		name, overdue := h.pick("event", 4), h.time()
		return step{"LiveRuns", func(ctx context.Context, tx fluxly.Tx, _ *numbering) (any, error) {
			return tx.LiveRuns(ctx, profile, name, overdue)
		}}
	case 3:
		automation, key := h.pick("auto", 3), []string{"", "k"}[h.IntN(2)]
		return step{"LastRun", func(ctx context.Context, tx fluxly.Tx, _ *numbering) (any, error) {
			return tx.LastRun(ctx, automation, profile, key)
		}}
	case 4:
		q := fluxly.RunQuery{AfterStarted: h.time(), AfterID: h.pick("r", 30), Limit: h.IntN(6)}
		if h.IntN(2) == 0 {
			q.Automation = h.pick("auto", 3)
		}
		if h.IntN(2) == 0 {
			q.ProfileID = profile
		}
		return step{fmt.Sprintf("Runs %+v", q), func(ctx context.Context, tx fluxly.Tx, _ *numbering) (any, error) { return tx.Runs(ctx, q) }}
	}
	q := fluxly.SendQuery{AfterQueued: h.time(), AfterKey: h.pick("k", 40), Limit: h.IntN(6)}
	if h.IntN(2) == 0 {
		q.RunID = h.pick("r", 30)
	}
	if h.IntN(2) == 0 {
		q.ProfileID = profile
	}
	return step{fmt.Sprintf("Sends %+v", q), func(ctx context.Context, tx fluxly.Tx, _ *numbering) (any, error) { return tx.Sends(ctx, q) }}
}

// testHistory plays one random history on the store and on the in-memory one;
// each answer and, now and then, the whole state must be equal.
func testHistory(t *testing.T, store fluxly.Store, seed uint64) {
	t.Helper()
	ctx := t.Context()
	model := fluxly.NewMemoryStore()
	t.Cleanup(func() { _ = model.Close() })
	h := &history{Rand: rand.New(rand.NewPCG(seed, 0))}
	profiles := []string{"p0", "p1", "p2", "p3", "p4", "p5", "u0", "u1", "u2", "u3", "u4", "a0", "a1", "a2"}

	numbers := &numbering{known: map[int64]int64{}}
	for done, all := 0, historySteps(seed); done < all; {
		var steps []step
		for range 1 + h.IntN(12) {
			if h.IntN(3) == 0 {
				steps = append(steps, h.read())
			} else {
				steps = append(steps, h.write())
			}
		}
		abandon := h.IntN(5) == 0
		play := func(s fluxly.Store) (answers []any) {
			err := s.Update(ctx, func(tx fluxly.Tx) error {
				answers = nil
				numbers.begin(s == store)
				for _, st := range steps {
					answer, err := st.do(ctx, tx, numbers)
					if err != nil {
						t.Fatalf("seed %d, step %d: %s: %v", seed, done, st.name, err)
					}
					answers = append(answers, answer)
				}
				if abandon {
					return errBroken
				}
				return nil
			})
			if abandon != errors.Is(err, errBroken) || !abandon && err != nil {
				t.Fatalf("seed %d, step %d: Update: %v", seed, done, err)
			}
			return answers
		}
		want := play(model)
		got := play(store)
		if !abandon {
			maps.Copy(numbers.known, numbers.made)
		}
		numbers.made = nil
		for i := range steps {
			if d := cmp.Diff(want[i], got[i], cmpopts.EquateEmpty()); d != "" {
				t.Fatalf("seed %d, step %d: %s (-memory +store):\n%s", seed, done+i, steps[i].name, d)
			}
		}
		done += len(steps)
		if h.IntN(80) != 0 && done < all {
			continue
		}
		messages := h.messages
		if len(messages) > 50 {
			messages = messages[len(messages)-50:]
		}
		state := func(s fluxly.Store) (out map[string]any) {
			err := s.View(ctx, func(tx fluxly.Tx) (err error) {
				out, err = dump(ctx, tx, profiles, messages)
				return err
			})
			numbers.translate = s == store
			for _, v := range out {
				switch v := v.(type) {
				case *fluxly.StoredEvent:
					numbers.events(v)
				case []*fluxly.StoredEvent:
					numbers.events(v...)
				}
			}
			if err != nil {
				t.Fatalf("seed %d, step %d: View: %v", seed, done, err)
			}
			return out
		}
		if d := cmp.Diff(state(model), state(store), cmpopts.EquateEmpty()); d != "" {
			t.Fatalf("seed %d, step %d: state (-memory +store):\n%s", seed, done, d)
		}
	}
}
