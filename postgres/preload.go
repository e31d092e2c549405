package postgres

import (
	"context"
	"slices"
	"strings"

	"github.com/getfluxly/fluxly"
)

// Preload implements [fluxly.Preloader]: in one trip it locks the people of all
// hints (a view does not), and reads what is asked about them. Each statement
// after the one that locks sees what was committed before it.
func (t *tx) Preload(ctx context.Context, hints []fluxly.Preload) error {
	if err := t.check(ctx, false); err != nil {
		return err
	}
	if t.writes && !t.cached || len(hints) == 0 {
		return nil
	}
	if !t.cached {
		t.cached, t.known = true, newKnown()
	}
	var p preload
	for i := range hints {
		p.add(&hints[i])
	}
	if p.keys == nil && p.runs == nil && p.sends == nil && p.messages == nil {
		return nil
	}
	slices.Sort(p.keys)
	p.keys = slices.Compact(p.keys)
	if t.waiting != nil {
		t.waiting.ahead = true
		defer func() { t.waiting.ahead = t.err != nil }()
	}
	moved := true
	for range looks {
		list := p.statements(t)
		p.reset()
		if err := t.ask(ctx, list...); err != nil {
			return err
		}
		free := func(pid int64) bool { return !t.sure(pid) }
		moved = p.moved() || slices.ContainsFunc(p.people, func(f foundPerson) bool { return free(f.pid) }) ||
			slices.ContainsFunc(p.foundMail, func(r *sendRow) bool { return free(r.pid) }) ||
			slices.ContainsFunc(p.foundRuns, func(r *runRow) bool { return slices.Contains(p.runs, r.id) && free(r.pid) })
		if !moved {
			break
		}
		if held := p.held(t, hints); held != nil {
			return t.fail(&heldError{held})
		}
	}
	if moved {
		return t.fail(movedError{})
	}
	if p.anyMembers {
		which, args := p.which()
		if err := t.ask(ctx, p.readMembers(which, args)); err != nil {
			return err
		}
	}
	p.know(t)
	t.guess = t.writes
	return nil
}

// sure reports whether what was read of a person cannot change meanwhile.
func (t *tx) sure(pid int64) bool {
	_, locked := t.locked[pid]
	return locked || !t.writes
}

// preload gathers what hints name, and what was found.
type preload struct {
	keys, runs, sends []string
	// live: live runs and memberships may be asked for.
	live     bool
	messages []string
	packed   [][]byte
	// For LastRun: an id of the person, the automation, the key.
	lastIDs, lastAutomations, lastKeys []string

	people []foundPerson
	// leads is where the ids led after the people were locked, where that was
	// asked apart.
	leads      map[string]int64
	anyMembers bool
	members    []*memberRow
	liveRuns   []*runRow
	lastRuns   []*runRow
	foundRuns  []*runRow
	foundMail  []*sendRow
	digests    map[string][32]byte
	seqBlocks  []int64
	blocks     []int64
}

func (p *preload) reset() {
	p.people, p.members, p.liveRuns, p.lastRuns, p.foundRuns, p.foundMail, p.seqBlocks, p.blocks = nil, nil, nil, nil, nil, nil, nil, nil
	p.digests = map[string][32]byte{}
	p.leads, p.anyMembers = nil, false
}

// moved says that ids lead elsewhere than they did when their people were
// locked.
func (p *preload) moved() bool {
	if p.leads == nil {
		return false
	}
	seen := 0
	for _, f := range p.people {
		if p.leads[f.key] != f.pid {
			return true
		}
		seen++
	}
	return seen != len(p.leads)
}

func (p *preload) add(h *fluxly.Preload) {
	for _, id := range h.IDs {
		key := idKey(id.Kind, id.Value)
		p.keys = append(p.keys, key)
		for _, r := range h.Runs {
			p.lastIDs = append(p.lastIDs, key)
			p.lastAutomations = append(p.lastAutomations, r.Automation)
			p.lastKeys = append(p.lastKeys, r.Key)
		}
	}
	if len(h.Signals) > 0 || !h.Overdue.IsZero() {
		p.live = true
	}
	if h.RunID != "" {
		p.runs = append(p.runs, h.RunID)
	}
	if h.SendKey != "" {
		p.sends = append(p.sends, h.SendKey)
	}
	if h.MessageID != "" {
		p.messages = append(p.messages, h.MessageID)
		p.packed = append(p.packed, packID(h.MessageID))
	}
}

// What follows from a person is fetched from inside a LATERAL with OFFSET, so
// that the planner cannot turn it around and begin with all live runs: its
// statistics may be old.

// The people of the hints, by their ids alone, and by runs and mails too.
const (
	byIDs = "SELECT pid FROM fluxly.identities WHERE id = ANY($1::text[])"
	byAny = byIDs + ` UNION ALL SELECT pid FROM fluxly.runs WHERE id = ANY($2::text[])
		UNION ALL SELECT pid FROM fluxly.sends WHERE key = ANY($3::text[])`
)

const (
	lockRowsByIDs = "SELECT i.id, " + profileColumns + ` FROM fluxly.identities i JOIN fluxly.profiles p ON p.pid = i.pid
		WHERE i.id = ANY($1::text[]) ORDER BY p.pid FOR NO KEY UPDATE OF p`
	lockPeople  = "SELECT p.pid FROM fluxly.profiles p WHERE p.pid IN (%) ORDER BY p.pid FOR NO KEY UPDATE OF p"
	readPeople  = "SELECT '', " + profileColumns + " FROM fluxly.profiles p WHERE p.pid IN (%)"
	readMembers = "SELECT " + memberColumns + ` FROM (SELECT DISTINCT pid FROM (%) a) a
		CROSS JOIN LATERAL (SELECT * FROM fluxly.memberships m WHERE m.pid = a.pid OFFSET 0) m`
	readLive = "SELECT " + runColumns + ` FROM (SELECT DISTINCT pid FROM (%) a) a
		CROSS JOIN LATERAL (SELECT * FROM fluxly.runs r WHERE r.pid = a.pid AND r.status = 'live' OFFSET 0) r`
	readRuns = "SELECT " + runColumns + ` FROM fluxly.runs r
		WHERE r.id IN (SELECT unnest($1::text[]) UNION ALL SELECT run_id FROM fluxly.sends WHERE key = ANY($2::text[]))`
	readMails = "SELECT " + sendColumns + " FROM fluxly.sends s WHERE s.key = ANY($1::text[])"
	readLast  = "SELECT " + runColumns + ` FROM (SELECT DISTINCT i.pid, a.automation, a.key
		FROM unnest($1::text[], $2::text[], $3::text[]) a (id, automation, key) JOIN fluxly.identities i ON i.id = a.id) a
		CROSS JOIN LATERAL (SELECT * FROM fluxly.runs r WHERE r.pid = a.pid AND r.automation = a.automation AND r.key = a.key
		ORDER BY r.started DESC, r.id DESC LIMIT 1) r`
	readDigests = "SELECT message_id, digest FROM fluxly.events WHERE message_id = ANY($1::bytea[])"
	drawBlocks  = "SELECT nextval('fluxly.pids') FROM generate_series(1, $1::bigint)"
)

// What scanRun reads where there need be no run.
const (
	perhapsRun = `, coalesce(r.pid, 0), coalesce(r.id, ''), coalesce((SELECT id FROM fluxly.profiles WHERE pid = r.pid), ''),
		coalesce(r.automation, ''), coalesce(r.version, ''), coalesce(r.key, ''), coalesce(r.status, ''), coalesce(r.step, ''),
		r.started, r.due_kind, r.due_at, r.waits, r.body`
	noRun = `, 0::bigint, '', '', '', '', '', '', '', NULL::timestamptz, NULL::smallint, NULL::timestamptz, NULL::json, NULL::json`
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
	person := func(scan scanFunc) (err error) {
		var f foundPerson
		f.pid, f.id, f.row, err = scanProfile(scan, &f.key)
		p.people = append(p.people, f)
		return err
	}
	var list []statement
	if which, args := p.which(); p.runs == nil && p.sends == nil {
		list = append(list, statement{sql: t.locking(lockRowsByIDs), args: args, row: func(scan scanFunc) error {
			if err := person(scan); err != nil {
				return err
			}
			if t.writes {
				t.lockedNow(p.people[len(p.people)-1].pid)
			}
			return nil
		}}, p.check())
	} else {
		if t.writes {
			list = append(list, statement{sql: t.locking(strings.Replace(lockPeople, "%", which, 1)), args: args, row: t.lockRow})
		}
		list = append(list,
			statement{sql: strings.Replace(readPeople, "%", which, 1), args: args, row: person},
			statement{sql: readRuns, args: []any{p.runs, p.sends}, row: runs(&p.foundRuns)},
			statement{sql: readMails, args: []any{p.sends}, row: func(scan scanFunc) error {
				row, err := scanSend(scan)
				p.foundMail = append(p.foundMail, row)
				return err
			}})
		if p.sends != nil {
			clear(t.known.suppressions)
			list = append(list, t.knowSuppressions(which, args))
		}
		if p.keys != nil {
			list = append(list, statement{sql: readByIDs, args: []any{p.keys}, row: person})
		}
		if p.live {
			list = append(list, p.readMembers(which, args),
				statement{sql: strings.Replace(readLive, "%", which, 1), args: args, row: runs(&p.liveRuns)})
		}
	}
	if p.lastIDs != nil {
		list = append(list, statement{sql: readLast, args: []any{p.lastIDs, p.lastAutomations, p.lastKeys}, row: runs(&p.lastRuns)})
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
			statement{sql: drawSeqs, args: []any{blocksOf(len(p.messages))}, row: number(&p.seqBlocks)})
	}
	// Each may be somebody new.
	if left := t.s.pids.left(); left < len(p.messages) {
		blocks := 1 + (len(p.messages)-left)/pidBlock
		list = append(list, statement{sql: drawBlocks, args: []any{int64(blocks)}, row: number(&p.blocks)})
	}
	return list
}

// held are the hints about people that were skipped, because others hold them.
func (p *preload) held(t *tx, hints []fluxly.Preload) (places []int) {
	if t.waiting == nil || !t.waiting.skip {
		return nil
	}
	owners := map[string]int64{} // of ids, and of runs and mails
	for key, pid := range p.leads {
		owners[key] = pid
	}
	for _, f := range p.people {
		owners[f.key] = f.pid
	}
	for _, r := range p.foundRuns {
		owners["run\x00"+r.id] = r.pid
	}
	for _, m := range p.foundMail {
		owners["mail\x00"+m.key] = m.pid
	}
	for i := range hints {
		h := &hints[i]
		names := []string{"run\x00" + h.RunID, "mail\x00" + h.SendKey}
		for _, id := range h.IDs {
			names = append(names, idKey(id.Kind, id.Value))
		}
		if slices.ContainsFunc(names, func(name string) bool {
			pid, ok := owners[name]
			return ok && !t.sure(pid)
		}) {
			places = append(places, i)
		}
	}
	return places
}

// locking is a question that locks, or in a view the question alone.
func (t *tx) locking(sql string) string {
	if t.writes && t.waiting != nil && t.waiting.skip {
		return sql + " SKIP LOCKED"
	}
	if t.writes {
		return sql
	}
	before, _, _ := strings.Cut(sql, " FOR NO KEY UPDATE")
	return before
}

// which are the people of the hints.
func (p *preload) which() (query string, args []any) {
	if p.runs == nil && p.sends == nil {
		return byIDs, []any{p.keys}
	}
	return byAny, []any{p.keys, p.runs, p.sends}
}

func (p *preload) readMembers(which string, args []any) statement {
	return statement{sql: strings.Replace(readMembers, "%", which, 1), args: args, row: func(scan scanFunc) error {
		m, err := scanMember(scan)
		p.members = append(p.members, m)
		return err
	}}
}

// check asks where the ids lead once their people are locked, and for the live
// runs with that.
func (p *preload) check() statement {
	p.leads = nil
	sql := "SELECT i.id, i.pid, false" + noRun + " FROM fluxly.identities i WHERE i.id = ANY($1::text[])"
	if p.live {
		sql = "SELECT i.id, i.pid, EXISTS (SELECT 1 FROM fluxly.memberships m WHERE m.pid = i.pid)" + perhapsRun +
			` FROM fluxly.identities i LEFT JOIN LATERAL (
			SELECT * FROM fluxly.runs r WHERE r.pid = i.pid AND r.status = 'live' OFFSET 0) r ON true WHERE i.id = ANY($1::text[])`
	}
	return statement{sql: sql, args: []any{p.keys}, row: func(scan scanFunc) error {
		var key string
		var pid int64
		var members bool
		row, err := scanRun(scan, &key, &pid, &members)
		if err != nil {
			return err
		}
		if p.leads == nil {
			p.leads = map[string]int64{}
		}
		p.leads[key] = pid
		p.anyMembers = p.anyMembers || members
		if row.pid != 0 {
			p.liveRuns = append(p.liveRuns, row)
		}
		return nil
	}}
}

// know tells the transaction what was found.
func (p *preload) know(t *tx) {
	t.knowPeople(p.keys, p.people)
	for _, f := range p.people {
		if known := t.known.personOf(f.pid); p.live {
			known.live, known.members = true, map[string]*memberRow{}
		}
	}
	for _, m := range p.members {
		if known := t.known.personOf(m.pid); known.members != nil {
			known.members[m.segment] = m
		}
	}
	for _, id := range p.runs {
		if t.known.runs[id] == nil {
			t.known.runs[id] = &runState{id: id}
		}
	}
	for _, list := range [][]*runRow{p.liveRuns, p.foundRuns} {
		for _, row := range list {
			if t.sure(row.pid) {
				t.knowRun(row)
			}
		}
	}
	for _, key := range p.sends {
		t.known.sends[key] = &sendState{key: key}
	}
	for _, row := range p.foundMail {
		t.known.sends[row.key] = &sendState{key: row.key, row: row, stored: true}
	}
	for i, id := range p.lastIDs {
		if pid := t.known.ids[id]; pid != 0 {
			t.known.last[lastKey{pid, p.lastAutomations[i], p.lastKeys[i]}] = nil
		}
	}
	for _, row := range p.lastRuns {
		t.known.last[lastKey{row.pid, row.automation, row.key}] = t.knowRun(row)
	}
	for _, id := range p.messages {
		t.known.messages[id] = nil
		if digest, ok := p.digests[id]; ok {
			t.known.messages[id] = &digest
		}
	}
	t.drewSeqs(p.seqBlocks)
	for _, block := range p.blocks {
		t.s.pids.add(block)
	}
}
