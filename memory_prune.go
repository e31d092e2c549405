package fluxly

import (
	"context"
	"maps"
	"slices"

	"github.com/getfluxly/fluxly/internal/ordered"
)

func (tx *memoryTx) PruneEvents(ctx context.Context, q PruneQuery) (res PruneResult, err error) {
	if err := tx.check(ctx, true); err != nil {
		return res, err
	}
	seqs := slices.Sorted(maps.Keys(tx.m.events))
	from, _ := slices.BinarySearch(seqs, q.After.Seq+1)
	seqs, res.More = stretch(seqs[from:], q.Limit)
	live := map[string][]*Run{}
	old := false
	res.Next = q.After
	for _, seq := range seqs {
		e := tx.m.events[seq]
		res.Next.Seq = seq
		old = old || e.ReceivedAt.Before(q.Before)
		if _, address := e.Traits["email"]; address || !q.Old(e.Name, e.OccurredAt, e.ReceivedAt) {
			continue
		}
		runs, ok := live[e.ProfileID]
		if !ok {
			for _, k := range group(tx.m.profileRuns, e.ProfileID) {
				runs = append(runs, tx.m.runs[k.id])
			}
			live[e.ProfileID] = runs
		}
		if slices.ContainsFunc(runs, func(r *Run) bool { return r.LooksBack(e.Seq, e.OccurredAt) }) {
			continue
		}
		tx.removeEvent(e)
		res.Removed++
	}
	res.More = res.More && old
	return res, nil
}

// stretch cuts a list after limit, if there is one, and says whether there was
// more.
func stretch[T any](list []T, limit int) ([]T, bool) {
	if limit > 0 && len(list) > limit {
		return list[:limit], true
	}
	return list, false
}

// before are the keys of an index of times that lie before q.Before, behind
// q.After.
func before(index *ordered.Set[memoryKey], q PruneQuery) (keys []memoryKey) {
	after := memoryKey{at: instant(q.After.At), id: q.After.ID}
	for k := range index.From(after) {
		if !k.at.Before(q.Before) {
			break
		}
		if k != after {
			keys = append(keys, k)
		}
	}
	return keys
}

func (tx *memoryTx) PruneRuns(ctx context.Context, q PruneQuery) (res PruneResult, err error) {
	if err := tx.check(ctx, true); err != nil {
		return res, err
	}
	keys, more := stretch(before(tx.m.runOrder, q), q.Limit)
	res.Next, res.More = q.After, more
	for _, k := range keys {
		r := tx.m.runs[k.id]
		res.Next.At, res.Next.ID = k.at, k.id
		if r.Status == RunLive || !r.EndedAt.Before(q.Before) {
			continue
		}
		res.LogEntries += tx.removeLog(r.ID)
		last, err := tx.LastRun(ctx, r.Automation, r.ProfileID, r.Key)
		if err != nil {
			return res, err
		}
		if last.ID != r.ID && len(group(tx.m.runSends, r.ID)) == 0 {
			tx.removeRun(r)
			res.Removed++
		}
	}
	return res, nil
}

func (tx *memoryTx) PruneSends(ctx context.Context, q PruneQuery) (res PruneResult, err error) {
	if err := tx.check(ctx, true); err != nil {
		return res, err
	}
	keys, more := stretch(before(tx.m.sendOrder, q), q.Limit)
	res.Next, res.More = q.After, more
	for _, k := range keys {
		s := tx.m.sends[k.id]
		res.Next.At, res.Next.ID = k.at, k.id
		switch s.Status {
		case SendAccepted, SendRefused, SendSkipped:
			if r := tx.m.runs[s.RunID]; r == nil || r.Status != RunLive {
				tx.removeSend(s)
				res.Removed++
			}
		case SendQueued, SendSending, SendUnknown:
		}
	}
	return res, nil
}
