package sqlite

import (
	"context"
	"time"

	"github.com/getfluxly/fluxly"
)

func (t *tx) PutEvent(ctx context.Context, e *fluxly.StoredEvent) (digest [32]byte, duplicate bool, err error) {
	if err := t.begin(ctx); err != nil {
		return digest, false, err
	}
	properties, err := t.encodeValues("properties", e.Properties)
	if err != nil {
		return digest, false, err
	}
	traits, err := t.encodeValues("traits", e.Traits)
	if err != nil {
		return digest, false, err
	}
	if err := firstError(checkTime("occurred_at", e.OccurredAt), checkTime("received_at", e.ReceivedAt)); err != nil {
		return digest, false, err
	}
	pid, _, err := t.profileNumber(e.ProfileID, true)
	if err != nil {
		return digest, false, err
	}
	nid, _, err := t.nameNumber(e.Name, true)
	if err != nil {
		return digest, false, err
	}
	s := t.db.query("INSERT INTO events (seq, message_id, pid, nid, digest, properties, traits, occurred, received) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (message_id) DO NOTHING").
		integer(t.lastSeq + 1)
	bindID(s, e.MessageID)
	s.integer(pid).integer(nid).blob(e.Digest[:])
	bindJSON(s, properties)
	bindJSON(s, traits)
	bindTime(s, e.OccurredAt)
	bindTime(s, e.ReceivedAt)
	if err := s.exec(); err != nil {
		return digest, false, t.fail(err)
	}
	if t.db.changes() == 0 {
		digest, err = t.digest(e.MessageID)
		return digest, true, err
	}
	t.lastSeq++
	e.Seq = t.lastSeq
	return e.Digest, false, nil
}

// digest looks an event up by its message id.
func (t *tx) digest(messageID string) (digest [32]byte, err error) {
	s := bindID(t.db.query("SELECT digest FROM events WHERE message_id = ?"), messageID)
	if s.next() {
		copy(digest[:], s.getRaw(0))
	}
	return digest, t.fail(s.done())
}

// eventColumns are what scanEvent reads.
const eventColumns = `e.seq, e.message_id, typeof(e.message_id), (SELECT id FROM profiles WHERE pid = e.pid),
	(SELECT name FROM names WHERE nid = e.nid), e.occurred, e.received, e.digest, e.properties, e.traits`

func scanEvent(s statement) (*fluxly.StoredEvent, error) {
	e := &fluxly.StoredEvent{
		Seq: s.getInteger(0), MessageID: getID(s, 1, s.getText(2) == "blob"), ProfileID: s.getText(3),
		Name: s.getText(4), OccurredAt: getTime(s, 5), ReceivedAt: getTime(s, 6),
	}
	copy(e.Digest[:], s.getRaw(7))
	var err error
	if e.Properties, err = decodeValues(s.getRaw(8)); err != nil {
		return nil, err
	}
	e.Traits, err = decodeValues(s.getRaw(9))
	return e, err
}

func (t *tx) eventList(s statement) (list []*fluxly.StoredEvent, err error) {
	for err == nil && s.next() {
		var e *fluxly.StoredEvent
		if e, err = scanEvent(s); err == nil {
			list = append(list, e)
		}
	}
	if err := firstError(t.fail(s.done()), err); err != nil {
		return nil, err
	}
	return list, nil
}

func (t *tx) EventByMessageID(ctx context.Context, messageID string) (*fluxly.StoredEvent, error) {
	if err := t.check(ctx, false); err != nil {
		return nil, err
	}
	list, err := t.eventList(bindID(t.db.query("SELECT "+eventColumns+" FROM events e WHERE e.message_id = ?"), messageID))
	if err != nil || len(list) == 0 {
		return nil, err
	}
	return list[0], nil
}

func (t *tx) Events(ctx context.Context, profileID string, q fluxly.EventQuery) ([]*fluxly.StoredEvent, error) {
	if err := t.check(ctx, false); err != nil {
		return nil, err
	}
	pid, ok, err := t.profileNumber(profileID, false)
	if err != nil || !ok {
		return nil, err
	}
	// The plus signs keep SQLite from walking the whole log in its order.
	sql := "SELECT " + eventColumns + " FROM events e WHERE e.pid = ?"
	var nid int64
	if q.Name != "" {
		if nid, ok, err = t.nameNumber(q.Name, false); err != nil || !ok {
			return nil, err
		}
		sql += " AND e.nid = ?"
	}
	sql += " AND e.occurred > ? AND e.occurred <= ? AND +e.seq > ?"
	if q.Newest {
		sql += " ORDER BY e.occurred DESC, +e.seq DESC"
	} else {
		sql += " ORDER BY +e.seq"
	}
	s := t.db.query(sql + " LIMIT ?").integer(pid)
	if q.Name != "" {
		s.integer(nid)
	}
	bindAfter(s, q.Since)
	bindUntil(s, q.Until)
	return t.eventList(s.integer(q.AfterSeq).integer(noLimit(q.Limit)))
}

// noLimit turns 0, which means all, into SQLite's word for it.
func noLimit(limit int) int64 {
	if limit <= 0 {
		return -1
	}
	return int64(limit)
}

func (t *tx) CountEvents(ctx context.Context, profileID, name string, since, until time.Time, limit int) (int, error) {
	if err := t.check(ctx, false); err != nil {
		return 0, err
	}
	pid, ok, err := t.profileNumber(profileID, false)
	if err != nil || !ok {
		return 0, err
	}
	nid, ok, err := t.nameNumber(name, false)
	if err != nil || !ok {
		return 0, err
	}
	s := t.db.query("SELECT count(*) FROM (SELECT 1 FROM events WHERE pid = ? AND nid = ? AND occurred > ? AND occurred <= ? LIMIT ?)").
		integer(pid).integer(nid)
	bindAfter(s, since)
	bindUntil(s, until)
	n, _, err := t.one(s.integer(noLimit(limit)))
	return int(n), err
}
