package fluxly

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/getfluxly/fluxly/internal/mimemail"
)

// maxSkew is how far ahead of the engine's clock an event may claim to have
// occurred. More is a broken clock, and would count in windows for days to
// come.
const maxSkew = 24 * time.Hour

// Track records one event: the person's profile, their segments, the runs
// that start, go on or end by it, their timers and the mails queued are one
// transaction. When Track returns nil all of it is durable and can be read
// back.
//
// A message id that was tracked before changes nothing, and is [ErrConflict]
// when the body is another. Bad input is a [*FieldError], which matches
// [ErrInvalid]. When ctx ends before the transaction began, nothing happened.
//
// While another transaction holds the person (see [Engine.Within]), Track waits
// for as long as ctx lasts and at most ten seconds, then it is [ErrHeld] and
// nothing happened.
func (e *Engine) Track(ctx context.Context, ev Event) error {
	if err := ev.normalize(); err != nil {
		return err
	}
	return e.track(ctx, e.update, &ev)
}

// Identify joins the ids given into one profile and sets traits on it; a nil
// trait removes the key. Guarantees and errors are those of [Engine.Track].
func (e *Engine) Identify(ctx context.Context, id Identity) error {
	ev := id.event()
	if err := ev.normalize(); err != nil {
		return err
	}
	return e.track(ctx, e.update, &ev)
}

// identifiers are the ids that an event carries.
func (e *Event) identifiers() []Identifier {
	ids := make([]Identifier, 0, 3)
	if e.UserID != "" {
		ids = append(ids, Identifier{UserID, e.UserID})
	}
	if e.ExternalID != "" {
		ids = append(ids, Identifier{ExternalID, e.ExternalID})
	}
	if e.AnonymousID != "" {
		ids = append(ids, Identifier{AnonymousID, e.AnonymousID})
	}
	return ids
}

func (e *Engine) track(ctx context.Context, update updateFunc, ev *Event) error {
	if ev.MessageID == "" {
		ev.MessageID = newMessageID()
	}
	digest := ev.digest()
	err := update(ctx, e.hint(ev), func(ctx context.Context, tx Tx) error {
		now := e.clockOf(tx)
		if !ev.Timestamp.IsZero() && ev.Timestamp.After(now.Add(maxSkew)) {
			return refuse(fieldErrorf("timestamp", ev.Timestamp.Format(time.RFC3339), "is more than %s ahead of the clock", maxSkew))
		}
		return e.record(ctx, tx, ev, digest, now)
	})
	if err != nil {
		e.counters.add(Counters{TrackErrors: 1})
		return err
	}
	return nil
}

// hint is what an event is about to ask for.
func (e *Engine) hint(ev *Event) Preload {
	h := Preload{IDs: ev.identifiers(), MessageID: ev.MessageID, Signals: []string{ev.Name}}
	for name := range ev.Traits {
		h.Signals = append(h.Signals, traitSignal(name))
	}
	for _, s := range h.Signals {
		for _, p := range e.triggers[s] {
			k := RunKey{Automation: p.def.Name}
			if p.def.Key != "" && s == ev.Name {
				if v, ok := lookupValue(ev.Properties, p.def.Key); ok {
					k.Key, _ = runKeyText(v)
				}
			}
			h.Runs = append(h.Runs, k)
		}
	}
	return h
}

// newProfileID names a person that is new with an event. The ids are part of it,
// because a message id may come again for somebody else after Prune.
func newProfileID(messageID string, ids []Identifier) string {
	parts := []string{messageID}
	for _, id := range ids {
		parts = append(parts, string(id.Kind), id.Value)
	}
	return deriveID("prf_", parts...)
}

// record is what Track does inside a transaction.
func (e *Engine) record(ctx context.Context, tx Tx, ev *Event, digest [32]byte, now time.Time) error {
	ids := ev.identifiers()
	found, err := tx.FindProfiles(ctx, ids)
	if err != nil {
		return err
	}
	if err := e.catchUp(ctx, tx, found); err != nil {
		return err
	}
	s := e.session(ctx, tx, now, ev.MessageID)
	isNew := len(found) == 0
	if isNew {
		s.profile = &Profile{ID: newProfileID(ev.MessageID, ids), CreatedAt: now, UpdatedAt: now}
	} else {
		s.profile = found[0]
	}
	// A clock that runs ahead does not make an event happen after it was
	// tracked: it counts from now on, and not only when its time has come.
	occurred := ev.Timestamp
	if occurred.IsZero() || occurred.After(now) {
		occurred = now
	}
	stored := &StoredEvent{
		MessageID: ev.MessageID, ProfileID: s.profile.ID, Name: ev.Name, Properties: ev.Properties,
		Traits: ev.Traits, OccurredAt: stored(occurred), ReceivedAt: now, Digest: digest,
	}
	known, duplicate, err := tx.PutEvent(ctx, stored)
	if err != nil {
		return err
	}
	if duplicate {
		if known != digest {
			countOf(tx).Conflicts++
			return refuse(fmt.Errorf("event %q: message_id %q: %w", ev.Name, clip(ev.MessageID, 64), ErrConflict))
		}
		countOf(tx).Duplicates++
		return nil
	}
	s.dirty, s.seq = isNew, stored.Seq
	for _, id := range ids {
		if s.profile.attach(id) {
			s.dirty = true
		}
	}
	if err := s.merge(found); err != nil {
		return err
	}
	if err := s.changeTraits(ev.Traits, 0); err != nil {
		return err
	}
	s.happen(happening{signal: ev.Name, event: stored})
	if err := s.settle(); err != nil {
		return err
	}
	countOf(tx).Events++
	return nil
}

// Alias folds an earlier id into a person: the profile of UserID survives,
// whichever is older. UserID is looked up as a user id, then as an external
// id, and becomes an external id when nobody has it.
// https://docs.getfluxly.com/identity/alias
func (e *Engine) Alias(ctx context.Context, a Alias) error { return e.alias(ctx, e.update, a) }

func (e *Engine) alias(ctx context.Context, update updateFunc, a Alias) error {
	if err := a.Validate(); err != nil {
		return err
	}
	source := Identifier{AnonymousID, a.AnonymousID}
	if a.PreviousID != "" {
		source = Identifier{ExternalID, a.PreviousID}
	}
	// Both at once, so that two that fold the other way round wait in order.
	hint := Preload{IDs: []Identifier{{UserID, a.UserID}, {ExternalID, a.UserID}, source}}
	return update(ctx, hint, func(ctx context.Context, tx Tx) error {
		now := e.clockOf(tx)
		target, err := firstProfile(ctx, tx, Identifier{UserID, a.UserID}, Identifier{ExternalID, a.UserID})
		if err != nil {
			return err
		}
		from, err := firstProfile(ctx, tx, source)
		if err != nil {
			return err
		}
		for _, p := range []*Profile{target, from} {
			if p != nil {
				if err := e.catchUp(ctx, tx, []*Profile{p}); err != nil {
					return err
				}
			}
		}
		s := e.session(ctx, tx, now, "alias:"+a.UserID+"@"+now.Format(time.RFC3339Nano))
		switch {
		case target != nil:
			s.profile = target
		case from != nil:
			s.profile = from
		default:
			s.profile = &Profile{ID: deriveID("prf_", "alias", a.UserID, string(source.Kind), source.Value), CreatedAt: now, UpdatedAt: now}
			s.dirty = true
		}
		if target == nil && s.profile.attach(Identifier{ExternalID, a.UserID}) {
			s.dirty = true
		}
		if target != nil && from != nil && from.ID != target.ID {
			if err := s.merge([]*Profile{target, from}); err != nil {
				return err
			}
		}
		if s.profile.attach(source) {
			s.dirty = true
		}
		return s.settle()
	})
}

func firstProfile(ctx context.Context, tx Tx, ids ...Identifier) (*Profile, error) {
	for _, id := range ids {
		found, err := tx.FindProfiles(ctx, []Identifier{id})
		if err != nil {
			return nil, err
		}
		if len(found) > 0 {
			return found[0], nil
		}
	}
	return nil, nil
}

// anyID are the readings of an id whose namespace is not said.
func anyID(id string) []Identifier {
	return []Identifier{{UserID, id}, {ExternalID, id}, {AnonymousID, id}}
}

// Erase removes every profile that has the id, as any kind of id, with all
// that belongs to it: ids, events, runs, timers, the send log. What stays is an
// [ErasureRecord] without the id. An id that nobody has is [ErrNotFound]. A
// mail that is under way at this moment may still arrive.
//
// Events that come later with the id make a new profile. The suppressions of
// all addresses that the person ever had go too, except of one that somebody
// else has now; a provider keeps its own list, which goes on stopping mail to
// an address that bounced or complained. Where one of the addresses is
// suppressed, Erase reads all profiles to know: with SQLite that is some five
// seconds for each million people, in which nothing else is written.
// https://docs.getfluxly.com/gdpr/erase
func (e *Engine) Erase(ctx context.Context, er Erasure) error { return e.erase(ctx, e.update, er) }

func (e *Engine) erase(ctx context.Context, update updateFunc, er Erasure) error {
	if err := er.Validate(); err != nil {
		return err
	}
	return update(ctx, Preload{IDs: anyID(er.ID)}, func(ctx context.Context, tx Tx) error {
		found, err := tx.FindProfiles(ctx, anyID(er.ID))
		if err != nil {
			return err
		}
		if len(found) == 0 {
			return refuse(fmt.Errorf("erase: nobody has the id %q: %w", clip(er.ID, 64), ErrNotFound))
		}
		now := e.clockOf(tx)
		rec := &ErasureRecord{
			ID: deriveID("era_", newMessageID()), Reason: er.Reason, RequestID: er.RequestID, At: now, Profiles: len(found),
		}
		addresses, err := ownAddresses(ctx, tx, found)
		if err != nil {
			return err
		}
		for _, p := range found {
			n, err := tx.EraseProfile(ctx, p.ID, addresses)
			if err != nil {
				return err
			}
			rec.Events += n
		}
		e.doubt(tx)
		return tx.PutErasure(ctx, rec)
	})
}

// Enrollment puts one person into one automation directly.
type Enrollment struct {
	Automation string
	// At least one id, as in [Event].
	ExternalID  string
	AnonymousID string
	UserID      string
	// Key names the run, such as "sub_9"; see Automation.Key.
	Key string
	// Properties are those of the event that starts the run, for conditions
	// and templates.
	Properties Properties
	// MessageID makes the call one, as in [Event]: the same id again answers
	// with the same run. Made once when empty.
	MessageID string
}

// Enrolled is the answer to an [Enrollment].
type Enrolled struct {
	RunID string
	// Existed is true when the person was in this automation with this key
	// before and may not enter again; RunID is then that of the last run.
	Existed bool
}

// Enroll starts a run without an event. Asked twice with the same key, it
// answers with the first run. The rules of re-entry apply. An automation that
// does not exist is [ErrNotFound].
func (e *Engine) Enroll(ctx context.Context, en Enrollment) (Enrolled, error) {
	return e.enroll(ctx, e.update, en)
}

func (e *Engine) enroll(ctx context.Context, update updateFunc, en Enrollment) (Enrolled, error) {
	p := e.current[en.Automation]
	if p == nil {
		return Enrolled{}, fmt.Errorf("enroll: there is no automation %q: %w", clip(en.Automation, 64), ErrNotFound)
	}
	ev := Event{
		Name: "enrolled", ExternalID: en.ExternalID, AnonymousID: en.AnonymousID, UserID: en.UserID,
		Properties: en.Properties, MessageID: en.MessageID,
	}
	if err := ev.normalize(); err != nil {
		return Enrolled{}, err
	}
	if ev.MessageID == "" {
		ev.MessageID = newMessageID()
	}
	if err := checkID("key", en.Key, maxIDLength); err != nil {
		return Enrolled{}, err
	}
	var out Enrolled
	hint := Preload{IDs: ev.identifiers(), MessageID: ev.MessageID, Runs: []RunKey{{p.def.Name, en.Key}}}
	err := update(ctx, hint, func(ctx context.Context, tx Tx) error {
		out = Enrolled{}
		now := e.clockOf(tx)
		found, err := tx.FindProfiles(ctx, ev.identifiers())
		if err != nil {
			return err
		}
		if err := e.catchUp(ctx, tx, found); err != nil {
			return err
		}
		s := e.session(ctx, tx, now, ev.MessageID)
		if len(found) == 0 {
			s.profile = &Profile{ID: newProfileID(ev.MessageID, ev.identifiers()), CreatedAt: now, UpdatedAt: now}
			s.dirty = true
		} else {
			s.profile = found[0]
		}
		// The event is in the log, so that the call has a place in history, and
		// its message id is known again.
		// The same message id for another run is a conflict.
		asked := ev
		asked.Name = ev.Name + "\x00" + en.Automation + "\x00" + en.Key
		digest := asked.digest()
		stored := &StoredEvent{
			MessageID: ev.MessageID, ProfileID: s.profile.ID, Name: ev.Name, Properties: ev.Properties,
			OccurredAt: now, ReceivedAt: now, Digest: digest,
		}
		known, duplicate, err := tx.PutEvent(ctx, stored)
		if err != nil {
			return err
		}
		if duplicate {
			if known != digest {
				return refuse(fmt.Errorf("enroll: message_id %q: %w", clip(ev.MessageID, 64), ErrConflict))
			}
			out.RunID, err = enrolledBefore(ctx, tx, en, s.profile.ID, ev.MessageID)
			out.Existed = true
			return err
		}
		for _, id := range ev.identifiers() {
			if s.profile.attach(id) {
				s.dirty = true
			}
		}
		if err := s.merge(found); err != nil {
			return err
		}
		if err := s.flush(); err != nil {
			return err
		}
		run, existed, err := s.startRun(p, entry{
			name: ev.Name, messageID: ev.MessageID, props: ev.Properties, occurred: now, seq: stored.Seq, key: en.Key, keyed: true,
		})
		if err != nil {
			return err
		}
		if run != nil {
			out = Enrolled{RunID: run.ID, Existed: existed}
		}
		return s.settle()
	})
	return out, err
}

// enrolledBefore is the run that a call answered with before: the one that it
// started, whoever had it then, or the last one, which stood in its way.
func enrolledBefore(ctx context.Context, tx Tx, en Enrollment, profileID, messageID string) (string, error) {
	runs, err := tx.Runs(ctx, RunQuery{Automation: en.Automation, ProfileID: profileID})
	if err != nil {
		return "", err
	}
	for _, r := range runs {
		if r.Entry.MessageID == messageID && r.Key == en.Key {
			return r.ID, nil
		}
	}
	last, err := tx.LastRun(ctx, en.Automation, profileID, en.Key)
	if err != nil || last == nil {
		return "", err
	}
	return last.ID, nil
}

// Unsubscribe records that a person does not want mail of a topic, or, with
// an empty topic, any mail that is not transactional. A mail that is queued is
// not sent any more. A topic that no template names is [ErrInvalid], because
// mail would go on; an id that nobody has is [ErrNotFound]. Once Unsubscribe has
// returned, this engine gives the sender no mail that it stops.
func (e *Engine) Unsubscribe(ctx context.Context, id string, u Unsubscription) error {
	if err := e.checkTopic(u.Topic); err != nil {
		return err
	}
	return e.changeProfile(ctx, id, func(p *Profile, now time.Time) bool {
		if u.At.IsZero() {
			u.At = now
		}
		u.At = stored(u.At)
		return p.unsubscribe(u)
	})
}

// Resubscribe takes the unsubscription from a topic back, or, with an empty
// topic, all of them. An id that nobody has is [ErrNotFound].
func (e *Engine) Resubscribe(ctx context.Context, id, topic string) error {
	return e.changeProfile(ctx, id, func(p *Profile, _ time.Time) bool { return p.resubscribe(topic) })
}

func (e *Engine) changeProfile(ctx context.Context, id string, change func(*Profile, time.Time) bool) error {
	if err := checkID("id", id, maxIDLength); err != nil {
		return err
	}
	return e.update(ctx, Preload{IDs: anyID(id)}, func(ctx context.Context, tx Tx) error {
		found, err := tx.FindProfiles(ctx, anyID(id))
		if err != nil {
			return err
		}
		if len(found) == 0 {
			return refuse(fmt.Errorf("nobody has the id %q: %w", clip(id, 64), ErrNotFound))
		}
		now := e.clockOf(tx)
		e.doubt(tx)
		for _, p := range found {
			if change(p, now) {
				p.UpdatedAt = now
				if err := tx.PutProfile(ctx, p); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// Topics are the topics that the templates name, sorted.
func (e *Engine) Topics() []string {
	var out []string
	for _, name := range e.emails.names() {
		if t := e.emails.settings(name).Topic; t != "" {
			out = append(out, t)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (e *Engine) checkTopic(topic string) error {
	if topic == "" {
		return nil
	}
	topics := e.Topics()
	if slices.Contains(topics, topic) {
		return nil
	}
	if len(topics) == 0 {
		return fieldErrorf("topic", topic, "no template has a topic; leave it empty for all mail")
	}
	return fieldErrorf("topic", topic, "no template has this topic; there are %s", strings.Join(topics, ", "))
}

// Suppress records an address that must not be written to, on one stream or
// on all. It is the bare address, without a name.
func (e *Engine) Suppress(ctx context.Context, s Suppression) error {
	if m, err := mimemail.ParseMailbox(s.Address); err != nil || m.Name != "" {
		return fieldErrorf("address", s.Address, "is not one bare address, such as ann@acme.test")
	}
	for _, f := range []struct{ name, text string }{{"stream", s.Stream}, {"reason", s.Reason}, {"origin", s.Origin}} {
		if plainText(f.text) != f.text {
			return fieldErrorf(f.name, f.text, "is not valid UTF-8, or holds a NUL")
		}
	}
	return e.update(ctx, Preload{}, func(ctx context.Context, tx Tx) error {
		if s.At.IsZero() {
			s.At = e.now()
		}
		s.At = stored(s.At)
		e.doubt(tx)
		return tx.PutSuppression(ctx, &s)
	})
}

// plainText is a text as every store takes it: valid UTF-8 without a NUL.
func plainText(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

// Unsuppress takes a suppression back.
func (e *Engine) Unsuppress(ctx context.Context, address, stream string) error {
	if plainText(address) != address {
		return fieldErrorf("address", address, "is not valid UTF-8, or holds a NUL")
	}
	if plainText(stream) != stream {
		return fieldErrorf("stream", stream, "is not valid UTF-8, or holds a NUL")
	}
	return e.update(ctx, Preload{}, func(ctx context.Context, tx Tx) error {
		return tx.DeleteSuppression(ctx, address, stream)
	})
}
