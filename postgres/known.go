package postgres

import "github.com/getfluxly/fluxly"

// known is what a transaction has seen or written. Everything in it is locked
// or was made by the transaction, but for what is known not to be there: that
// is noticed at the INSERT.
type known struct {
	// pids are the numbers of people by their ID; 0 is for nobody.
	pids map[string]int64
	// ids are the numbers of people by any id; 0 is for nobody.
	ids    map[string]int64
	people map[int64]*person
	// runs and sends; one without a row is known not to be there.
	runs  map[string]*runState
	sends map[string]*sendState
	last  map[lastKey]*runState // nil for none
	// messages are the digests of events by message id; nil for none.
	messages map[string]*[32]byte
	nids     map[string]int32
	// suppressions are those of an address, on any stream; an empty list is
	// known to be all.
	suppressions map[string][]*fluxly.Suppression
}

// person is what is known of one person.
type person struct {
	pid int64
	id  string
	// row is nil when it is not known; its created is zero for one that was
	// named but not stored so far.
	row *profileRow
	// stored: a row is in the database (or on its way); dirty: and differs.
	stored, dirty bool
	// fresh: the transaction made it, so that nothing of it is in the
	// database.
	fresh bool
	// live: all live runs are known; runs are those that are known.
	live bool
	runs []*runState
	// members are the memberships, by segment; nil when they are not known.
	members map[string]*memberRow
}

type lastKey struct {
	pid             int64
	automation, key string
}

func newKnown() known {
	return known{
		pids: map[string]int64{}, ids: map[string]int64{}, people: map[int64]*person{},
		runs: map[string]*runState{}, sends: map[string]*sendState{}, last: map[lastKey]*runState{},
		messages: map[string]*[32]byte{}, nids: map[string]int32{}, suppressions: map[string][]*fluxly.Suppression{},
	}
}

// forget drops what may not be so any more after rows moved between people.
// Nothing is guessed from here on, because what is there has been forgotten.
func (t *tx) forget() {
	nids := t.known.nids
	t.known = newKnown()
	t.known.nids = nids
	t.guess = false
}

// personOf returns what is known of a person, with an entry for it.
func (k *known) personOf(pid int64) *person {
	p := k.people[pid]
	if p == nil {
		p = &person{pid: pid}
		k.people[pid] = p
	}
	return p
}
