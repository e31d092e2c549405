package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/getfluxly/fluxly"
)

// eventRow is an event to be stored.
type eventRow struct {
	seq, pid           int64
	nid                int32
	messageID          []byte
	occurred, received pgtype.Timestamptz
	digest             []byte
	properties, traits string
}

func (t *tx) PutEvent(ctx context.Context, e *fluxly.StoredEvent) (digest [32]byte, duplicate bool, err error) {
	if err := t.check(ctx, true); err != nil {
		return digest, false, err
	}
	properties, err := encodeValues("properties", e.Properties)
	if err != nil {
		return digest, false, err
	}
	traits, err := encodeValues("traits", e.Traits)
	if err != nil {
		return digest, false, err
	}
	if err := firstError(checkTime("occurred_at", e.OccurredAt), checkTime("received_at", e.ReceivedAt)); err != nil {
		return digest, false, err
	}
	known, err := t.digest(ctx, e.MessageID)
	if err != nil {
		return digest, false, err
	}
	if known != nil {
		return *known, true, nil
	}
	p, err := t.personFor(ctx, e.ProfileID)
	if err != nil {
		return digest, false, err
	}
	nid, err := t.nameFor(ctx, e.Name)
	if err != nil {
		return digest, false, err
	}
	seq, err := t.nextSeq(ctx, p.pid)
	if err != nil {
		return digest, false, err
	}
	kept := e.Digest
	t.known.messages[e.MessageID] = &kept
	t.rows.events = append(t.rows.events, eventRow{
		seq: seq, pid: p.pid, nid: nid, messageID: packID(e.MessageID), occurred: instant(e.OccurredAt),
		received: instant(e.ReceivedAt), digest: kept[:], properties: properties, traits: traits,
	})
	if err := t.wrote(ctx); err != nil {
		return digest, false, err
	}
	e.Seq = seq
	return e.Digest, false, nil
}

// digest looks an event up by its message id; nil when there is none.
func (t *tx) digest(ctx context.Context, messageID string) (*[32]byte, error) {
	known, ok := t.known.messages[messageID]
	if ok && (t.cached || known != nil) {
		return known, nil
	}
	err := t.ask(ctx, statement{
		sql: "SELECT digest FROM fluxly.events WHERE message_id = $1::bytea", args: []any{packID(messageID)},
		row: func(scan scanFunc) error {
			var raw []byte
			err := scan(&raw)
			known = new([32]byte)
			copy(known[:], raw)
			return err
		},
	})
	if err == nil {
		t.known.messages[messageID] = known
	}
	return known, err
}

// seqBlock is how many Seqs the database gives at once; those that a
// transaction does not need are left out.
const seqBlock = 256

const drawSeqs = "SELECT nextval('fluxly.seqs') FROM generate_series(1, $1::bigint)"

// blocksOf is how many blocks hold so many Seqs.
func blocksOf(n int) int64 { return int64((n + seqBlock - 1) / seqBlock) }

// drewSeqs takes blocks that the last question drew.
func (t *tx) drewSeqs(blocks []int64) {
	t.seqs = t.seqs[:0]
	for _, b := range blocks {
		t.seqs = append(t.seqs, seqRange{next: b * seqBlock, end: (b + 1) * seqBlock})
	}
	t.seqsAt = t.asked
}

// seqRange is what is left of a block.
type seqRange struct{ next, end int64 }

// nextSeq draws a number for an event of a person who is locked. Numbers that
// were drawn before that do not do: somebody else may have stored a later one
// meanwhile.
func (t *tx) nextSeq(ctx context.Context, pid int64) (int64, error) {
	if len(t.seqs) == 0 || t.locked[pid] > t.seqsAt {
		block, _, err := t.number(ctx, drawSeqs, int64(1))
		if err != nil {
			return 0, err
		}
		t.drewSeqs([]int64{block})
	}
	r := &t.seqs[0]
	seq := r.next
	if r.next++; r.next == r.end {
		t.seqs = t.seqs[1:]
	}
	return seq, nil
}

// nameFor returns the number of the name of an event; a new name gets one.
func (t *tx) nameFor(ctx context.Context, name string) (int32, error) {
	for range looks {
		nid, err := t.nameNumber(ctx, name)
		if err != nil || nid != 0 {
			return nid, err
		}
		if t.callers {
			if nid := t.s.nameApart(ctx, name); nid != 0 {
				return nid, nil
			}
		}
		made, ok, err := t.number(ctx, "INSERT INTO fluxly.names (name) VALUES ($1::text) ON CONFLICT DO NOTHING RETURNING nid", name)
		if err != nil {
			return 0, err
		}
		if ok {
			t.known.nids[name] = int32(made)
			return int32(made), nil
		}
	}
	return 0, t.fail(movedError{})
}

// nameApart gives a new name its number in a transaction of its own, so that
// nobody who tracks the same name has to wait until a program commits. A name
// without events does no harm. It returns 0 when the pool has no connection to
// spare just now.
func (s *Store) nameApart(ctx context.Context, name string) int32 {
	ctx, cancel := context.WithTimeout(ctx, nameTimeout)
	defer cancel()
	var nid int32
	err := s.pool.QueryRow(ctx, s.sql(`WITH made AS (INSERT INTO fluxly.names (name) VALUES ($1::text) ON CONFLICT DO NOTHING RETURNING nid)
		SELECT nid FROM made UNION ALL SELECT nid FROM fluxly.names WHERE name = $1::text LIMIT 1`), name).Scan(&nid)
	if err != nil {
		return 0
	}
	s.names.add(map[string]int32{name: nid})
	return nid
}

// nameTimeout bounds nameApart.
const nameTimeout = 500 * time.Millisecond

// nameNumber returns the number of a name; 0 when it has none.
func (t *tx) nameNumber(ctx context.Context, name string) (int32, error) {
	if nid, ok := t.s.names.get(name); ok {
		return nid, nil
	}
	if nid, ok := t.known.nids[name]; ok {
		return nid, nil
	}
	n, ok, err := t.number(ctx, "SELECT nid FROM fluxly.names WHERE name = $1::text", name)
	if ok && t.writes {
		t.known.nids[name] = int32(n)
	}
	return int32(n), err
}

func (t *tx) sealEvents(list []eventRow) {
	// Nobody changes an event but for its person.
	e := &list[len(list)-1]
	t.prove(proveByEvent, `fluxly.events r WHERE r.message_id = $2::bytea AND r.seq = $3::bigint AND r.digest = $4::bytea AND r.received = $5::timestamptz`,
		e.messageID, e.seq, e.digest, e.received)
	t.later(`INSERT INTO fluxly.events (seq, message_id, pid, nid, occurred, received, digest, properties, traits)
		SELECT seq, message_id, pid, nid, occurred, received, digest, nullif(properties, '')::json, nullif(traits, '')::json
		FROM unnest($1::bigint[], $2::bytea[], $3::bigint[], $4::integer[], $5::timestamptz[], $6::timestamptz[], $7::bytea[], $8::text[], $9::text[])
		u (seq, message_id, pid, nid, occurred, received, digest, properties, traits)`,
		column(list, func(e eventRow) int64 { return e.seq }),
		column(list, func(e eventRow) []byte { return e.messageID }),
		column(list, func(e eventRow) int64 { return e.pid }),
		column(list, func(e eventRow) int32 { return e.nid }),
		column(list, func(e eventRow) pgtype.Timestamptz { return e.occurred }),
		column(list, func(e eventRow) pgtype.Timestamptz { return e.received }),
		column(list, func(e eventRow) []byte { return e.digest }),
		column(list, func(e eventRow) string { return e.properties }),
		column(list, func(e eventRow) string { return e.traits }))
}

// eventColumns are what scanEvent reads.
const eventColumns = `e.pid, e.seq, e.message_id, coalesce((SELECT id FROM fluxly.profiles WHERE pid = e.pid), ''),
	coalesce((SELECT name FROM fluxly.names WHERE nid = e.nid), ''), e.occurred, e.received, e.digest, e.properties, e.traits`

func scanEvent(scan scanFunc) (pid int64, e *fluxly.StoredEvent, err error) {
	e = &fluxly.StoredEvent{}
	var id, digest, properties, traits []byte
	var occurred, received timeColumn
	if err := scan(&pid, &e.Seq, &id, &e.ProfileID, &e.Name, &occurred, &received, &digest, &properties, &traits); err != nil {
		return 0, nil, err
	}
	e.MessageID, e.OccurredAt, e.ReceivedAt = unpackID(id), occurred.Time, received.Time
	copy(e.Digest[:], digest)
	if e.Properties, err = decodeValues(properties); err != nil {
		return 0, nil, err
	}
	e.Traits, err = decodeValues(traits)
	return pid, e, err
}

func (t *tx) EventByMessageID(ctx context.Context, messageID string) (*fluxly.StoredEvent, error) {
	if err := t.check(ctx, false); err != nil {
		return nil, err
	}
	var found *fluxly.StoredEvent
	var owner int64
	id := packID(messageID)
	err := t.lookUp(ctx,
		statement{sql: `SELECT p.pid FROM fluxly.events e JOIN fluxly.profiles p ON p.pid = e.pid WHERE e.message_id = $1::bytea
			FOR NO KEY UPDATE OF p`, args: []any{id}},
		statement{sql: "SELECT " + eventColumns + " FROM fluxly.events e WHERE e.message_id = $1::bytea", args: []any{id}, row: func(scan scanFunc) (err error) {
			owner, found, err = scanEvent(scan)
			return err
		}},
		func() { found = nil },
		func(yield func(int64)) {
			if found != nil {
				yield(owner)
			}
		})
	if err != nil {
		return nil, err
	}
	return found, nil
}

func (t *tx) Events(ctx context.Context, profileID string, q fluxly.EventQuery) (list []*fluxly.StoredEvent, err error) {
	if err := t.check(ctx, false); err != nil {
		return nil, err
	}
	pid, err := t.personNumber(ctx, profileID)
	if err != nil || pid == 0 {
		return nil, err
	}
	args := []any{pid, instantAfter(q.Since), instantUntil(q.Until), q.AfterSeq, noLimit(q.Limit)}
	sql := "SELECT " + eventColumns + " FROM fluxly.events e WHERE e.pid = $1::bigint AND e.occurred <= $3::timestamptz AND e.seq > $4::bigint"
	if q.Since.IsZero() {
		sql += " AND ($2::timestamptz IS NULL)"
	} else {
		sql += " AND e.occurred > $2::timestamptz"
	}
	if q.Name != "" {
		nid, err := t.nameNumber(ctx, q.Name)
		if err != nil || nid == 0 {
			return nil, err
		}
		sql += " AND e.nid = $6::integer"
		args = append(args, nid)
	}
	if q.Newest {
		sql += " ORDER BY e.occurred DESC, e.seq DESC"
	} else {
		sql += " ORDER BY e.seq + 0" // not by walking the whole log in its order
	}
	err = t.ask(ctx, statement{sql: sql + " LIMIT $5::bigint", args: args, row: func(scan scanFunc) error {
		_, e, err := scanEvent(scan)
		list = append(list, e)
		return err
	}})
	if err != nil {
		return nil, err
	}
	return list, nil
}

// instantAfter is a lower bound; the zero time is none.
func instantAfter(t time.Time) pgtype.Timestamptz { return instantOrNull(t) }

func (t *tx) CountEvents(ctx context.Context, profileID, name string, since, until time.Time, limit int) (int, error) {
	if err := t.check(ctx, false); err != nil {
		return 0, err
	}
	pid, err := t.personNumber(ctx, profileID)
	if err != nil || pid == 0 {
		return 0, err
	}
	nid, err := t.nameNumber(ctx, name)
	if err != nil || nid == 0 {
		return 0, err
	}
	from := " AND occurred > $3::timestamptz"
	if since.IsZero() {
		from = " AND ($3::timestamptz IS NULL)"
	}
	n, _, err := t.number(ctx, "SELECT count(*) FROM (SELECT 1 FROM fluxly.events WHERE pid = $1::bigint AND nid = $2::integer"+
		" AND occurred <= $4::timestamptz"+from+" LIMIT $5::bigint) e",
		pid, nid, instantAfter(since), instantUntil(until), noLimit(limit))
	return int(n), err
}
