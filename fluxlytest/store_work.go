package fluxlytest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/getfluxly/fluxly"
)

func testDue(t *storeTest) {
	call := liveRun("c1", "p1", at(0), at(2))
	call.Pending = fluxly.PendingCall
	mail := liveRun("r8", "p1", at(0), time.Time{})
	mail.Pending = fluxly.PendingMail
	ended := liveRun("r9", "p1", at(0), at(1))
	ended.Status = fluxly.RunCompleted
	t.putRuns(liveRun("r2", "p1", at(0), at(3)), liveRun("r1", "p2", at(0), at(3)), liveRun("r3", "p3", at(0), at(1)),
		liveRun("r4", "p4", at(0), at(7)), liveRun("r5", "p4", at(0), at(7).Add(time.Microsecond)), call, mail, ended)
	t.putSends(
		&fluxly.SendRecord{Key: "k1", Status: fluxly.SendQueued, DueAt: at(2)},
		&fluxly.SendRecord{Key: "k2", Status: fluxly.SendSending, DueAt: at(1)},
		&fluxly.SendRecord{Key: "k3", Status: fluxly.SendAccepted, DueAt: at(1)},
		&fluxly.SendRecord{Key: "k4", Status: fluxly.SendQueued},
	)
	t.update(func(tx fluxly.Tx) error {
		return errors.Join(
			tx.PutMembership(t.ctx, &fluxly.Membership{ProfileID: "p2", Segment: "a", CheckAt: at(2)}),
			tx.PutMembership(t.ctx, &fluxly.Membership{ProfileID: "p1", Segment: "b", CheckAt: at(2)}),
			tx.PutMembership(t.ctx, &fluxly.Membership{ProfileID: "p1", Segment: "a", CheckAt: at(2)}),
			tx.PutMembership(t.ctx, &fluxly.Membership{ProfileID: "p3", Segment: "a"}),
		)
	})
	for _, c := range []struct {
		kind  fluxly.WorkKind
		now   time.Time
		limit int
		want  []fluxly.Work
		next  time.Time
	}{
		{fluxly.WorkWake, at(0), 9, nil, at(1)},
		{fluxly.WorkWake, at(1), 9, []fluxly.Work{{ID: "r3", Due: at(1)}}, at(3)},
		{fluxly.WorkWake, at(3), 9, []fluxly.Work{{ID: "r3", Due: at(1)}, {ID: "r1", Due: at(3)}, {ID: "r2", Due: at(3)}}, at(7)},
		{fluxly.WorkWake, at(3), 2, []fluxly.Work{{ID: "r3", Due: at(1)}, {ID: "r1", Due: at(3)}}, at(7)},
		{fluxly.WorkWake, at(7), 1, []fluxly.Work{{ID: "r3", Due: at(1)}}, at(7).Add(time.Microsecond)},
		{fluxly.WorkWake, at(7), 0, nil, at(7).Add(time.Microsecond)},
		{fluxly.WorkWake, at(8).In(time.FixedZone("", 3600)), 1, []fluxly.Work{{ID: "r3", Due: at(1)}}, time.Time{}},
		{fluxly.WorkCall, at(1), 9, nil, at(2)},
		{fluxly.WorkCall, at(9), 9, []fluxly.Work{{ID: "c1", Due: at(2)}}, time.Time{}},
		{fluxly.WorkSegment, at(2), 9, []fluxly.Work{
			{ID: "p1", Segment: "a", Due: at(2)}, {ID: "p1", Segment: "b", Due: at(2)}, {ID: "p2", Segment: "a", Due: at(2)},
		}, time.Time{}},
		{fluxly.WorkSend, at(9), 9, []fluxly.Work{{ID: "k2", Due: at(1)}, {ID: "k1", Due: at(2)}}, time.Time{}},
		{fluxly.WorkSend, at(1), 9, []fluxly.Work{{ID: "k2", Due: at(1)}}, at(2)},
	} {
		t.view(func(tx fluxly.Tx) error {
			due, next, err := tx.Due(t.ctx, c.kind, c.now, c.limit)
			name := fmt.Sprint(c.kind, " at ", c.now, " limit ", c.limit)
			t.equal(name, due, c.want)
			t.equal(name+", next", next, c.next)
			return err
		})
	}
}

func testDueEnds(t *storeTest) {
	want := func(what string, kind fluxly.WorkKind, ids ...string) {
		t.Helper()
		t.view(func(tx fluxly.Tx) error {
			due, _, err := tx.Due(t.ctx, kind, at(50), 9)
			var got []string
			for _, w := range due {
				got = append(got, w.ID)
			}
			t.equal(what, got, ids)
			return err
		})
	}
	t.putRuns(liveRun("r1", "p1", at(0), at(1)))
	want("due", fluxly.WorkWake, "r1")
	t.putRuns(liveRun("r1", "p1", at(0), at(99)))
	want("put off", fluxly.WorkWake)
	call := liveRun("r1", "p1", at(0), at(2))
	call.Pending = fluxly.PendingCall
	t.putRuns(call)
	want("as a call", fluxly.WorkCall, "r1")
	want("no timer any more", fluxly.WorkWake)
	call.Status = fluxly.RunFailed
	t.putRuns(call)
	want("ended", fluxly.WorkCall)

	send := &fluxly.SendRecord{Key: "k1", Status: fluxly.SendQueued, QueuedAt: at(0), DueAt: at(1)}
	t.putSends(send)
	want("queued", fluxly.WorkSend, "k1")
	send.Status, send.DueAt = fluxly.SendSending, at(60)
	t.putSends(send)
	want("claimed", fluxly.WorkSend)
	send.DueAt = at(40)
	t.putSends(send)
	want("claim over", fluxly.WorkSend, "k1")
	send.Status, send.DueAt = fluxly.SendAccepted, time.Time{}
	t.putSends(send)
	want("settled", fluxly.WorkSend)

	membership := &fluxly.Membership{ProfileID: "p1", Segment: "s", CheckAt: at(1)}
	put := func() {
		t.update(func(tx fluxly.Tx) error { return tx.PutMembership(t.ctx, membership) })
	}
	put()
	want("to check", fluxly.WorkSegment, "p1")
	membership.CheckAt = time.Time{}
	put()
	want("checked", fluxly.WorkSegment)
}

// storeWorker is a worker on the wall clock.
type storeWorker struct {
	do func(ctx context.Context, kind fluxly.WorkKind, batch []fluxly.Work) error
}

func (w *storeWorker) Now() time.Time { return time.Now() }

func (w *storeWorker) Do(ctx context.Context, kind fluxly.WorkKind, batch []fluxly.Work) error {
	return w.do(ctx, kind, batch)
}

// work runs Work until the test or stop ends it; stop returns its error.
func (t *storeTest) work(do func(ctx context.Context, kind fluxly.WorkKind, batch []fluxly.Work) error) (stop func() error) {
	ctx, cancel := context.WithCancel(t.ctx)
	ended := make(chan error, 1)
	go func() { ended <- t.store.Work(ctx, &storeWorker{do: do}) }()
	stop = sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
	t.Cleanup(func() { _ = stop() })
	return stop
}

// finish ends the runs of a batch, as a worker does.
func (t *storeTest) finish(ctx context.Context, batch []fluxly.Work) error {
	return t.store.Update(ctx, func(tx fluxly.Tx) error {
		for _, w := range batch {
			r, err := tx.Run(ctx, w.ID)
			if err != nil {
				return err
			}
			r.Status, r.WakeAt = fluxly.RunCompleted, time.Time{}
			if err := tx.PutRun(ctx, r); err != nil {
				return err
			}
		}
		return nil
	})
}

func testWork(t *storeTest) {
	const n = 1_000
	now := time.Now()
	t.update(func(tx fluxly.Tx) error {
		for i := range n {
			// Half of them are due already, the others soon; one is not.
			wake := now.Add(time.Duration(i-n/2) * 100 * time.Microsecond)
			if err := tx.PutRun(t.ctx, liveRun(fmt.Sprintf("r%04d", i), "p1", now, wake)); err != nil {
				return err
			}
		}
		return tx.PutRun(t.ctx, liveRun("far", "p1", now, now.AddDate(0, 0, 400)))
	})
	var mu sync.Mutex
	got := map[string]int{}
	all := make(chan struct{})
	t.work(func(ctx context.Context, kind fluxly.WorkKind, batch []fluxly.Work) error {
		if kind != fluxly.WorkWake {
			t.Errorf("work of kind %s", kind)
		}
		now := time.Now()
		for _, w := range batch {
			if w.Due.After(now) {
				t.Errorf("%s handed out %v early", w.ID, w.Due.Sub(now))
			}
		}
		if err := t.finish(ctx, batch); err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		for _, w := range batch {
			got[w.ID]++
		}
		if len(got) == n {
			close(all)
		}
		return nil
	})
	await(t, "work", all)
	mu.Lock()
	defer mu.Unlock()
	for id, times := range got {
		if times != 1 || id == "far" {
			t.Errorf("%s was handed out %d times", id, times)
		}
	}
}

func testWorkWakes(t *storeTest) {
	got := make(chan string, 9)
	t.work(func(ctx context.Context, _ fluxly.WorkKind, batch []fluxly.Work) error {
		err := t.finish(ctx, batch)
		for _, w := range batch {
			got <- w.ID
		}
		return err
	})
	now := time.Now()
	t.putRuns(liveRun("far", "p1", now, now.Add(24*time.Hour)))
	// Each is earlier than all that the worker sleeps for.
	for _, id := range []string{"r1", "r2", "r3"} {
		t.putRuns(liveRun(id, "p1", now, time.Now().Add(time.Millisecond)))
		if w := await(t, "work", got); w != id {
			t.Errorf("handed out %s, want %s", w, id)
		}
	}
	// What is taken back wakes nobody.
	_ = t.store.Update(t.ctx, func(tx fluxly.Tx) error {
		return errors.Join(tx.PutRun(t.ctx, liveRun("never", "p1", now, now)), errBroken)
	})
	t.putRuns(liveRun("r4", "p1", now, now))
	if w := await(t, "work", got); w != "r4" {
		t.Errorf("handed out %s, want r4", w)
	}
}

func testWorkRetries(t *storeTest) {
	now := time.Now()
	t.putRuns(liveRun("r1", "p1", now, now))
	var calls atomic.Int32
	done := make(chan struct{})
	t.work(func(ctx context.Context, _ fluxly.WorkKind, batch []fluxly.Work) error {
		switch calls.Add(1) {
		case 1:
			return errBroken
		case 2:
			return nil // says that it is done, but it is not
		}
		err := t.finish(ctx, batch)
		close(done)
		return err
	})
	await(t, "third call", done)
	if n := calls.Load(); n != 3 {
		t.Errorf("%d calls, want 3", n)
	}
}

func testWorkLanes(t *storeTest) {
	now := time.Now()
	slow, release := make(chan struct{}), make(chan struct{})
	woken := make(chan struct{})
	t.putSends(&fluxly.SendRecord{Key: "k1", Status: fluxly.SendQueued, QueuedAt: now, DueAt: now})
	t.work(func(ctx context.Context, kind fluxly.WorkKind, batch []fluxly.Work) error {
		if kind == fluxly.WorkSend {
			close(slow)
			<-release
			return t.store.Update(ctx, func(tx fluxly.Tx) error {
				return tx.PutSend(ctx, &fluxly.SendRecord{Key: "k1", Status: fluxly.SendAccepted, QueuedAt: now})
			})
		}
		err := t.finish(ctx, batch)
		close(woken)
		return err
	})
	await(t, "mail", slow)
	t.putRuns(liveRun("r1", "p1", now, now))
	await(t, "wake-up", woken) // while the mail is still on its way
	close(release)
}

func testWorkEnds(t *storeTest) {
	now := time.Now()
	t.putRuns(liveRun("r1", "p1", now, now))
	inside, returned := make(chan struct{}), make(chan struct{})
	stop := t.work(func(ctx context.Context, _ fluxly.WorkKind, _ []fluxly.Work) error {
		close(inside)
		<-ctx.Done()
		defer close(returned)
		return ctx.Err()
	})
	await(t, "work", inside)
	if err := stop(); !errors.Is(err, context.Canceled) {
		t.Errorf("Work returned %v, want context.Canceled", err)
	}
	select {
	case <-returned:
	default:
		t.Error("Work returned before the last call of Do")
	}
	// It can be started again.
	again := make(chan struct{})
	t.work(func(ctx context.Context, _ fluxly.WorkKind, batch []fluxly.Work) error {
		err := t.finish(ctx, batch)
		close(again)
		return err
	})
	await(t, "work", again)
}

func testWorkClosed(t *storeTest) {
	ended := make(chan error, 1)
	started := make(chan struct{})
	now := time.Now()
	t.putRuns(liveRun("r1", "p1", now, now))
	go func() {
		ended <- t.store.Work(t.ctx, &storeWorker{do: func(ctx context.Context, _ fluxly.WorkKind, batch []fluxly.Work) error {
			err := t.finish(ctx, batch)
			close(started)
			return err
		}})
	}()
	await(t, "work", started)
	if err := t.store.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if err := await(t, "end of Work", ended); !errors.Is(err, fluxly.ErrClosed) {
		t.Errorf("Work returned %v, want ErrClosed", err)
	}
}

func testWorkOnce(t *storeTest) {
	now := time.Now()
	t.putRuns(liveRun("r1", "p1", now, now))
	inside := make(chan struct{})
	t.work(func(ctx context.Context, _ fluxly.WorkKind, batch []fluxly.Work) error {
		close(inside)
		return t.finish(ctx, batch)
	})
	await(t, "work", inside)
	if err := t.store.Work(t.ctx, &storeWorker{}); err == nil {
		t.Error("a second Work gives no error")
	}
}

// aloneWorker is a worker that is told when it is the only one.
type aloneWorker struct {
	storeWorker
	begin func() error
	end   func()
}

func (w *aloneWorker) Begin(context.Context) error { return w.begin() }
func (w *aloneWorker) End()                        { w.end() }

func testWorkAlone(t *storeTest) {
	if x, ok := t.store.(fluxly.ExclusiveStore); !ok || !x.Exclusive() {
		return
	}
	refused := func(when string) {
		if err := t.store.Work(t.ctx, &storeWorker{}); err == nil {
			t.Errorf("%s: a second Work gives no error", when)
		}
	}
	errBegin := errors.New("no")
	err := t.store.Work(t.ctx, &aloneWorker{begin: func() error { refused("in Begin"); return errBegin }, end: func() { t.Error("End after Begin has failed") }})
	if !errors.Is(err, errBegin) {
		t.Errorf("Begin failed, Work returned %v", err)
	}
	now := time.Now()
	t.putRuns(liveRun("r1", "p1", now, now))
	ctx, cancel := context.WithCancel(t.ctx)
	var calls []string
	w := &aloneWorker{begin: func() error { calls = append(calls, "begin"); return nil }, end: func() { refused("in End"); calls = append(calls, "end") }}
	w.do = func(context.Context, fluxly.WorkKind, []fluxly.Work) error {
		calls = append(calls, "do")
		cancel()
		return nil
	}
	if err := t.store.Work(ctx, w); !errors.Is(err, context.Canceled) {
		t.Errorf("Work returned %v", err)
	}
	t.equal("calls", calls, []string{"begin", "do", "end"})
}
