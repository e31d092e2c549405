// Package gather lets many callers share one commit.
//
// There is no goroutine of its own: the first caller that finds nobody at work
// becomes the leader, takes what has gathered, commits it, and hands the lead
// to one of those who came meanwhile. So a lone caller pays for one commit and
// no hand-over, and the more callers there are the larger the commits get.
package gather

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// ErrPanicked is the result of an op that was in a batch whose commit
// panicked in another caller's goroutine: its outcome is not known.
var ErrPanicked = errors.New("the commit that this call was part of panicked")

// Commit runs a batch. It returns an error for each op, in order; a nil slice
// means that all went well. It keeps nothing of batch.
type Commit[T any] func(ctx context.Context, batch []T) []error

// Gatherer gathers ops of many goroutines into batches of at most Max.
type Gatherer[T any] struct {
	commit Commit[T]
	max    int
	most   int // leaders
	gate   Gate

	mu sync.Mutex
	// leaders are at work, with so many ops in their commits.
	leaders    int
	committing int
	waiting    []*op[T]
	spare      []*op[T]
}

type op[T any] struct {
	value T
	ctx   context.Context //nolint:containedctx // the caller's, for as long as the call
	// turn is signalled once: with lead when the caller shall lead, else with
	// the result in err.
	turn chan bool
	err  error
	// taken is true from when a leader has put the op into a batch.
	taken bool
}

// New makes a Gatherer with batches of at most limit ops, and as many commits at
// a time as there are leaders: one, unless commits of different ops can go on
// side by side.
func New[T any](limit, leaders int, commit Commit[T]) *Gatherer[T] {
	return &Gatherer[T]{commit: commit, max: limit, most: leaders}
}

// Gate is what a leader goes through before it takes a batch, for as long as its
// own ctx lasts. pass is called when the batch is committed. An error is that of
// the leader's own op alone, which is then part of no batch; another one leads.
type Gate func(ctx context.Context) (pass func(), err error)

// Behind makes the batches go through a gate. It is called before the first Do.
func (g *Gatherer[T]) Behind(gate Gate) *Gatherer[T] {
	g.gate = gate
	return g
}

// Do commits value together with those of other callers and returns its
// result. When ctx ends before value is part of a batch, Do returns ctx's
// error and nothing is done; from then on Do waits for the outcome, because an
// outcome that nobody waited for would be a lie either way.
func (g *Gatherer[T]) Do(ctx context.Context, value T) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	o := &op[T]{value: value, ctx: ctx, turn: make(chan bool, 1)}
	g.mu.Lock()
	if g.leaders < g.most {
		g.leaders++
		g.mu.Unlock()
		return g.begin(ctx, o)
	}
	g.waiting = append(g.waiting, o)
	g.mu.Unlock()
	select {
	case lead := <-o.turn:
		if !lead {
			return o.err
		}
	case <-ctx.Done():
		if g.leave(o) {
			return ctx.Err()
		}
		if lead := <-o.turn; !lead {
			return o.err
		}
	}
	return g.begin(ctx, o)
}

// begin is what the caller of own does who was made leader.
func (g *Gatherer[T]) begin(ctx context.Context, own *op[T]) error {
	if g.gate != nil {
		pass, err := g.gate(ctx)
		if err != nil {
			g.pass(nil)
			return err
		}
		defer pass()
	}
	g.mu.Lock()
	g.lead(own)
	return own.err
}

// Waiting returns how many calls of Do have not been answered, those in the
// commit at work too.
func (g *Gatherer[T]) Waiting() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.waiting) + g.committing
}

// leave takes o out of the queue; it reports false when a leader has it, or
// when o was made leader.
func (g *Gatherer[T]) leave(o *op[T]) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if o.taken {
		return false
	}
	for i, w := range g.waiting {
		if w == o {
			g.waiting = append(g.waiting[:i], g.waiting[i+1:]...)
			return true
		}
	}
	return false
}

// lead commits one batch: the leader's own op, and those that wait. It is called
// with the lock held and returns without it.
func (g *Gatherer[T]) lead(own *op[T]) {
	n := min(len(g.waiting), g.max-1)
	batch := append(append(g.spare[:0], own), g.waiting[:n]...)
	rest := copy(g.waiting, g.waiting[n:])
	clear(g.waiting[rest:])
	g.waiting = g.waiting[:rest]
	n = len(batch)
	values := make([]T, n)
	for i, o := range batch {
		o.taken = true
		values[i] = o.value
	}
	g.spare = nil
	g.committing += n
	g.mu.Unlock()

	// A commit that panics (or ends its goroutine) does so in the leader
	// alone: the others get an error, and the lead still passes on.
	var errs []error
	ok := false
	defer func() {
		for i, o := range batch {
			switch {
			case !ok:
				o.err = ErrPanicked
			case errs != nil:
				o.err = errs[i]
			}
			if i > 0 {
				o.turn <- false
			}
		}
		g.pass(batch)
	}()

	// The leader commits for others too, so its own ctx must not end the
	// batch: whoever had to be sure of the outcome would lose it.
	errs = g.commit(context.WithoutCancel(batch[0].ctx), values)
	if errs != nil && len(errs) != n {
		panic(fmt.Sprintf("gather: commit returned %d errors for %d ops", len(errs), n))
	}
	ok = true
}

// pass hands the lead to the one who has waited longest, if anybody has.
func (g *Gatherer[T]) pass(batch []*op[T]) {
	g.mu.Lock()
	g.committing -= len(batch)
	clear(batch)
	g.spare = batch
	if len(g.waiting) == 0 {
		g.leaders--
		g.mu.Unlock()
		return
	}
	next := g.waiting[0]
	rest := copy(g.waiting, g.waiting[1:])
	g.waiting[rest] = nil
	g.waiting = g.waiting[:rest]
	next.taken = true
	g.mu.Unlock()
	next.turn <- true
}
