package postgres

import (
	"context"
	"slices"

	"github.com/getfluxly/fluxly"
)

// Preload implements [fluxly.Preloader]: in one trip it locks the people of all
// hints, and reads what is asked about them. Each statement after the one that
// locks sees what was committed before it.
func (t *tx) Preload(ctx context.Context, hints []fluxly.Preload) error {
	if err := t.check(ctx, false); err != nil {
		return err
	}
	if !t.writes || !t.cached || len(hints) == 0 {
		return nil
	}
	var p preload
	for i := range hints {
		p.add(&hints[i])
	}
	slices.Sort(p.keys)
	p.keys = slices.Compact(p.keys)
	moved := true
	for range looks {
		list := p.statements(t)
		p.reset()
		if err := t.ask(ctx, list...); err != nil {
			return err
		}
		moved = slices.ContainsFunc(p.people, func(f foundPerson) bool {
			_, ok := t.locked[f.pid]
			return !ok
		})
		if !moved {
			break
		}
	}
	if moved {
		return t.fail(movedError{})
	}
	p.know(t)
	t.guess = true
	return nil
}

// preload gathers what hints name, and what was found.
type preload struct {
	keys, withRuns []string
	messages       []string
	packed         [][]byte
	// For LastRun: an id of the person, the automation, the key.
	lastIDs, lastAutomations, lastKeys []string

	people  []foundPerson
	members []*memberRow
	live    []*runRow
	last    []*runRow
	digests map[string][32]byte
	seqs    []int64
	blocks  []int64
}

func (p *preload) reset() {
	p.people, p.members, p.live, p.last, p.seqs, p.blocks = nil, nil, nil, nil, nil, nil
	p.digests = map[string][32]byte{}
}

func (p *preload) add(h *fluxly.Preload) {
	for _, id := range h.IDs {
		key := idKey(id.Kind, id.Value)
		p.keys = append(p.keys, key)
		if len(h.Signals) > 0 {
			p.withRuns = append(p.withRuns, key)
		}
		for _, r := range h.Runs {
			p.lastIDs = append(p.lastIDs, key)
			p.lastAutomations = append(p.lastAutomations, r.Automation)
			p.lastKeys = append(p.lastKeys, r.Key)
		}
	}
	if h.MessageID != "" {
		p.messages = append(p.messages, h.MessageID)
		p.packed = append(p.packed, packID(h.MessageID))
	}
}

const (
	readMembers = "SELECT " + memberColumns + ` FROM fluxly.memberships m
		WHERE m.pid IN (SELECT pid FROM fluxly.identities WHERE id = ANY($1::text[]))`
	readLive = "SELECT " + runColumns + ` FROM fluxly.runs r
		WHERE r.pid IN (SELECT pid FROM fluxly.identities WHERE id = ANY($1::text[])) AND r.status = 'live'`
	readLast = "SELECT " + runColumns + ` FROM (SELECT DISTINCT i.pid, a.automation, a.key
		FROM unnest($1::text[], $2::text[], $3::text[]) a (id, automation, key) JOIN fluxly.identities i ON i.id = a.id) a
		CROSS JOIN LATERAL (SELECT * FROM fluxly.runs r WHERE r.pid = a.pid AND r.automation = a.automation AND r.key = a.key
		ORDER BY r.started DESC, r.id DESC LIMIT 1) r`
	readDigests = "SELECT message_id, digest FROM fluxly.events WHERE message_id = ANY($1::bytea[])"
	drawBlocks  = "SELECT nextval('fluxly.pids') FROM generate_series(1, $1::bigint)"
)

// statements are the questions of one trip.
func (p *preload) statements(t *tx) []statement {
	runs := func(list *[]*runRow) func(scanFunc) error {
		return func(scan scanFunc) error {
			row, err := scanRun(scan)
			*list = append(*list, row)
			return err
		}
	}
	number := func(list *[]int64) func(scanFunc) error {
		return func(scan scanFunc) error {
			var n int64
			err := scan(&n)
			*list = append(*list, n)
			return err
		}
	}
	list := []statement{
		{sql: lockByIDs, args: []any{p.keys}, row: t.lockRow},
		{sql: readByIDs, args: []any{p.keys}, row: func(scan scanFunc) (err error) {
			var f foundPerson
			f.pid, f.id, f.row, err = scanProfile(scan, &f.key)
			p.people = append(p.people, f)
			return err
		}},
		{sql: readMembers, args: []any{p.keys}, row: func(scan scanFunc) error {
			m, err := scanMember(scan)
			p.members = append(p.members, m)
			return err
		}},
	}
	if p.withRuns != nil {
		list = append(list, statement{sql: readLive, args: []any{p.withRuns}, row: runs(&p.live)})
	}
	if p.lastIDs != nil {
		list = append(list, statement{sql: readLast, args: []any{p.lastIDs, p.lastAutomations, p.lastKeys}, row: runs(&p.last)})
	}
	if p.messages != nil {
		list = append(list,
			statement{sql: readDigests, args: []any{p.packed}, row: func(scan scanFunc) error {
				var id, raw []byte
				if err := scan(&id, &raw); err != nil {
					return err
				}
				var digest [32]byte
				copy(digest[:], raw)
				p.digests[unpackID(id)] = digest
				return nil
			}},
			statement{sql: drawSeqs, args: []any{int64(len(p.messages))}, row: number(&p.seqs)})
	}
	// Each may be somebody new.
	if left := t.s.pids.left(); left < len(p.messages) {
		blocks := 1 + (len(p.messages)-left)/pidBlock
		list = append(list, statement{sql: drawBlocks, args: []any{int64(blocks)}, row: number(&p.blocks)})
	}
	return list
}

// know tells the transaction what was found.
func (p *preload) know(t *tx) {
	t.knowPeople(p.keys, p.people)
	for _, f := range p.people {
		known := t.known.personOf(f.pid)
		if known.members == nil {
			known.members = map[string]*memberRow{}
		}
	}
	for _, m := range p.members {
		t.known.personOf(m.pid).members[m.segment] = m
	}
	for _, key := range p.withRuns {
		if pid := t.known.ids[key]; pid != 0 {
			t.known.personOf(pid).live = true
		}
	}
	for _, row := range p.live {
		t.knowRun(row)
	}
	for i, id := range p.lastIDs {
		if pid := t.known.ids[id]; pid != 0 {
			t.known.last[lastKey{pid, p.lastAutomations[i], p.lastKeys[i]}] = nil
		}
	}
	for _, row := range p.last {
		t.known.last[lastKey{row.pid, row.automation, row.key}] = t.knowRun(row)
	}
	for _, id := range p.messages {
		t.known.messages[id] = nil
		if digest, ok := p.digests[id]; ok {
			t.known.messages[id] = &digest
		}
	}
	t.seqs, t.seqsAt = p.seqs, t.asked
	for _, block := range p.blocks {
		t.s.pids.add(block)
	}
}
