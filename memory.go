package fluxly

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/getfluxly/fluxly/internal/duework"
	"github.com/getfluxly/fluxly/internal/ordered"
)

// workKinds are all kinds of work, a lane each.
var workKinds = [...]WorkKind{WorkWake, WorkCall, WorkSegment, WorkSend}

// NewMemoryStore returns an empty store that keeps everything in memory, for
// tests and trials: it is gone with the process. It is also the model that
// the other stores are compared with. It may be used from many goroutines;
// transactions, also those of View, run one after another.
func NewMemoryStore() Store {
	m := &memoryStore{
		profiles:     map[string]*Profile{},
		owners:       map[Identifier]string{},
		memberships:  map[memoryKey]*Membership{},
		events:       map[int64]*StoredEvent{},
		messages:     map[string]int64{},
		runs:         map[string]*Run{},
		logs:         map[memoryKey]LogEntry{},
		definitions:  map[memoryKey]*Definition{},
		sends:        map[string]*SendRecord{},
		suppressions: map[memoryKey]*Suppression{}, meters: map[string]*Meter{},
		erasures: map[string]*ErasureRecord{},
		due:      map[WorkKind]*ordered.Set[memoryKey]{},
		signals:  map[WorkKind]*duework.Signal{},
	}
	for _, set := range []**ordered.Set[memoryKey]{
		&m.profileOrder, &m.membershipOrder, &m.eventOrder, &m.runOrder, &m.profileRuns, &m.logOrder,
		&m.sendOrder, &m.profileSends, &m.runSends, &m.suppressionOrder, &m.erasureOrder,
	} {
		*set = ordered.New(memoryKey.compare)
	}
	for _, kind := range workKinds {
		m.due[kind] = ordered.New(memoryKey.compare)
		m.signals[kind] = &duework.Signal{}
	}
	return m
}

// memoryKey is a key of every table and index, ordered field by field. Each
// uses the fields it needs.
type memoryKey struct {
	group string
	at    time.Time
	seq   int64
	id    string
	sub   string
}

func (k memoryKey) compare(other memoryKey) int {
	return cmp.Or(
		strings.Compare(k.group, other.group), k.at.Compare(other.at), cmp.Compare(k.seq, other.seq),
		strings.Compare(k.id, other.id), strings.Compare(k.sub, other.sub),
	)
}

// memoryStore is maps for the rows and ordered sets for the indexes.
type memoryStore struct {
	working sync.Mutex // held by Work
	signals map[WorkKind]*duework.Signal

	mu     sync.Mutex // guards all below
	closed bool

	profiles         map[string]*Profile
	profileOrder     *ordered.Set[memoryKey] // id
	owners           map[Identifier]string
	memberships      map[memoryKey]*Membership // profile (group), segment (id)
	membershipOrder  *ordered.Set[memoryKey]
	lastSeq          int64
	events           map[int64]*StoredEvent
	messages         map[string]int64
	eventOrder       *ordered.Set[memoryKey] // profile (group), seq
	runs             map[string]*Run
	runOrder         *ordered.Set[memoryKey]   // start (at), id
	profileRuns      *ordered.Set[memoryKey]   // profile (group), start (at), id
	logs             map[memoryKey]LogEntry    // run (group), seq
	logOrder         *ordered.Set[memoryKey]   // run (group), seq
	definitions      map[memoryKey]*Definition // automation (group), version (id)
	sends            map[string]*SendRecord
	sendOrder        *ordered.Set[memoryKey]    // queued (at), key (id)
	profileSends     *ordered.Set[memoryKey]    // profile (group), queued (at), key (id)
	runSends         *ordered.Set[memoryKey]    // run (group), queued (at), key (id)
	suppressions     map[memoryKey]*Suppression // address (group), stream (id)
	suppressionOrder *ordered.Set[memoryKey]
	meters           map[string]*Meter
	erasures         map[string]*ErasureRecord
	erasureOrder     *ordered.Set[memoryKey] // time (at), id

	due map[WorkKind]*ordered.Set[memoryKey] // due (at), id, segment (sub)
}

// Update runs fn alone and takes back what it did when it fails.
func (m *memoryStore) Update(ctx context.Context, fn func(Tx) error) error {
	tx := &memoryTx{m: m, earliest: map[WorkKind]time.Time{}}
	if err := m.transact(ctx, tx, fn); err != nil {
		return err
	}
	for kind, at := range tx.earliest {
		m.signals[kind].Due(at)
	}
	return nil
}

// View runs fn alone, with writes refused.
func (m *memoryStore) View(ctx context.Context, fn func(Tx) error) error {
	return m.transact(ctx, &memoryTx{m: m, readOnly: true}, fn)
}

func (m *memoryStore) transact(ctx context.Context, tx *memoryTx, fn func(Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return fmt.Errorf("memory store: %w", ErrClosed)
	}
	done := false
	// Also when fn panics.
	defer func() {
		tx.dead = true
		if !done {
			for _, undo := range slices.Backward(tx.undo) {
				undo()
			}
		}
	}()
	if err := fn(tx); err != nil {
		return err
	}
	done = true
	return nil
}

// Work hands out due work until ctx ends or the store is closed.
func (m *memoryStore) Work(ctx context.Context, w Worker) error {
	if !m.working.TryLock() {
		return errors.New("memory store: Work runs already; run one at a time")
	}
	defer m.working.Unlock()
	if x, ok := w.(ExclusiveWorker); ok {
		if err := x.Begin(ctx); err != nil {
			return err
		}
		defer x.End()
	}
	lanes := make([]duework.Lane[Work], 0, len(workKinds))
	for _, kind := range workKinds {
		lanes = append(lanes, duework.Lane[Work]{
			Now:    w.Now,
			Signal: m.signals[kind],
			Fatal:  func(err error) bool { return errors.Is(err, ErrClosed) },
			Do:     func(ctx context.Context, batch []Work) error { return w.Do(ctx, kind, batch) },
			Due: func(ctx context.Context, now time.Time, limit int) (due []Work, next time.Time, err error) {
				err = m.View(ctx, func(tx Tx) error {
					due, next, err = tx.Due(ctx, kind, now, limit)
					return err
				})
				return due, next, err
			},
		})
	}
	return duework.Run(ctx, lanes...)
}

// Exclusive reports true: what is in memory is in no other process. It makes
// the store an [ExclusiveStore].
func (m *memoryStore) Exclusive() bool { return true }

// Close ends Work and refuses what comes after.
func (m *memoryStore) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	// A lane that is woken finds the store closed.
	for _, s := range m.signals {
		s.Due(time.Time{})
	}
	return nil
}

// memoryTx is one transaction. What it changes goes through put, remove, add
// and drop, which note how to take it back.
type memoryTx struct {
	m        *memoryStore
	readOnly bool
	dead     bool
	undo     []func()
	earliest map[WorkKind]time.Time
}

// check refuses a call that cannot be.
func (tx *memoryTx) check(ctx context.Context, write bool) error {
	switch {
	case tx.dead:
		return fmt.Errorf("memory store: the transaction is over: %w", ErrClosed)
	case write && tx.readOnly:
		return errors.New("memory store: write in View; use Update")
	}
	return ctx.Err()
}

func put[K comparable, V any](tx *memoryTx, table map[K]V, key K, row V) {
	old, had := table[key]
	tx.undo = append(tx.undo, func() {
		if had {
			table[key] = old
		} else {
			delete(table, key)
		}
	})
	table[key] = row
}

func remove[K comparable, V any](tx *memoryTx, table map[K]V, key K) {
	if old, had := table[key]; had {
		tx.undo = append(tx.undo, func() { table[key] = old })
		delete(table, key)
	}
}

func (tx *memoryTx) add(index *ordered.Set[memoryKey], key memoryKey) {
	if index.Insert(key) {
		tx.undo = append(tx.undo, func() { index.Delete(key) })
	}
}

func (tx *memoryTx) drop(index *ordered.Set[memoryKey], key memoryKey) {
	if index.Delete(key) {
		tx.undo = append(tx.undo, func() { index.Insert(key) })
	}
}

// schedule enters a piece of work into the index of its kind.
func (tx *memoryTx) schedule(kind WorkKind, key memoryKey) {
	tx.add(tx.m.due[kind], key)
	if first, ok := tx.earliest[kind]; !ok || key.at.Before(first) {
		tx.earliest[kind] = key.at
	}
}

// group yields the keys of one group of an index.
func group(index *ordered.Set[memoryKey], name string) []memoryKey {
	var keys []memoryKey
	for k := range index.From(memoryKey{group: name, at: firstTime, seq: -1 << 63}) {
		if k.group != name {
			break
		}
		keys = append(keys, k)
	}
	return keys
}

// firstTime is before every time that a store is given.
var firstTime = time.Time{}.AddDate(-1, 0, 0)

func (tx *memoryTx) Due(ctx context.Context, kind WorkKind, now time.Time, limit int) (due []Work, next time.Time, err error) {
	if err := tx.check(ctx, false); err != nil {
		return nil, time.Time{}, err
	}
	index := tx.m.due[kind]
	if index == nil {
		return nil, time.Time{}, fmt.Errorf("memory store: unknown kind of work %q", kind)
	}
	for k := range index.From(memoryKey{at: firstTime}) {
		if k.at.After(now) {
			return due, k.at, nil
		}
		if len(due) == limit {
			break
		}
		due = append(due, Work{ID: k.id, Segment: k.sub, Due: k.at})
	}
	for k := range index.From(memoryKey{at: now.UTC().Add(1)}) {
		return due, k.at, nil
	}
	return due, time.Time{}, nil
}

// instant is a time as a store keeps it: UTC, without a monotonic reading.
func instant(t time.Time) time.Time { return t.UTC().Round(0) }

// cloneValues copies a map of values in canonical form, so that a caller sees
// the same types whatever the store; an empty one is nil.
func cloneValues(m map[string]any, path string) (map[string]any, error) {
	if len(m) == 0 {
		return nil, nil
	}
	return normalizeMap(m, path)
}

// mustCloneValues copies what was checked when it was stored.
func mustCloneValues(m map[string]any) map[string]any {
	c, err := cloneValues(m, "")
	if err != nil {
		return maps.Clone(m)
	}
	return c
}

func cloneStrings(s []string) []string {
	if len(s) == 0 {
		return nil
	}
	return slices.Clone(s)
}

func cloneBytes(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	return slices.Clone(b)
}
