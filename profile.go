package fluxly

import (
	"slices"
	"strings"
	"time"
)

// Profile is what is known of one person.
type Profile struct {
	// ID is fluxly's own id of the profile, GetFluxly's user_id.
	ID string `json:"id"`
	// ExternalIDs, AnonymousIDs and UserIDs are the ids that lead here, each
	// list sorted. UserIDs holds further user ids, among them the ids of
	// profiles that were merged into this one.
	ExternalIDs  []string `json:"external_ids,omitempty"`
	AnonymousIDs []string `json:"anonymous_ids,omitempty"`
	UserIDs      []string `json:"user_ids,omitempty"`
	Traits       Traits   `json:"traits,omitempty"`
	// Unsubscribed lists what the person left.
	Unsubscribed []Unsubscription `json:"unsubscribed,omitempty"`
	CreatedAt    time.Time        `json:"created_at"`
	UpdatedAt    time.Time        `json:"updated_at"`
}

// Unsubscription is a person's word that mail of a topic is not wanted.
type Unsubscription struct {
	// Topic is what was left; empty means all mail that is not transactional.
	Topic string `json:"topic,omitempty"`
	// Source says where the word came from, such as "preferences" or
	// "one-click".
	Source string    `json:"source,omitempty"`
	At     time.Time `json:"at"`
}

// IDKind is the namespace of an id.
type IDKind string

// The three namespaces of GetFluxly's identity model:
// https://docs.getfluxly.com/ingest/identity
const (
	UserID      IDKind = "user"
	ExternalID  IDKind = "external"
	AnonymousID IDKind = "anonymous"
)

// Identifier is one id of a person.
type Identifier struct {
	Kind  IDKind `json:"kind"`
	Value string `json:"value"`
}

// Email returns the address that mail to this person goes to: the trait
// "email", without blanks around it; empty when there is none.
func (p *Profile) Email() string {
	s, _ := p.Traits["email"].(string)
	return strings.TrimSpace(s)
}

// Subscribed reports whether mail of a topic may go to the person. An empty
// topic asks for marketing mail without a topic.
func (p *Profile) Subscribed(topic string) bool {
	for i := range p.Unsubscribed {
		if t := p.Unsubscribed[i].Topic; t == "" || t == topic {
			return false
		}
	}
	return true
}

// clone returns a copy that shares nothing that this package changes. Values
// inside Traits are never changed in place, so they may be shared.
func (p *Profile) clone() *Profile {
	q := *p
	q.ExternalIDs = slices.Clone(p.ExternalIDs)
	q.AnonymousIDs = slices.Clone(p.AnonymousIDs)
	q.UserIDs = slices.Clone(p.UserIDs)
	q.Unsubscribed = slices.Clone(p.Unsubscribed)
	q.Traits = make(Traits, len(p.Traits))
	for k, v := range p.Traits {
		q.Traits[k] = v
	}
	return &q
}

// owns reports whether the id leads to this profile.
func (p *Profile) owns(id Identifier) bool {
	switch id.Kind {
	case UserID:
		return p.ID == id.Value || has(p.UserIDs, id.Value)
	case ExternalID:
		return has(p.ExternalIDs, id.Value)
	case AnonymousID:
		return has(p.AnonymousIDs, id.Value)
	}
	return false
}

// attach adds an id; it reports whether the profile changed.
func (p *Profile) attach(id Identifier) bool {
	if p.owns(id) {
		return false
	}
	switch id.Kind {
	case UserID:
		p.UserIDs = insert(p.UserIDs, id.Value)
	case ExternalID:
		p.ExternalIDs = insert(p.ExternalIDs, id.Value)
	case AnonymousID:
		p.AnonymousIDs = insert(p.AnonymousIDs, id.Value)
	}
	return true
}

// absorb takes over what another profile of the same person holds: its ids,
// the traits that are missing here, and every unsubscription
// (https://docs.getfluxly.com/identity/stitching-guide).
func (p *Profile) absorb(other *Profile) {
	p.UserIDs = insert(p.UserIDs, other.ID)
	for _, v := range other.UserIDs {
		p.UserIDs = insert(p.UserIDs, v)
	}
	for _, v := range other.ExternalIDs {
		p.ExternalIDs = insert(p.ExternalIDs, v)
	}
	for _, v := range other.AnonymousIDs {
		p.AnonymousIDs = insert(p.AnonymousIDs, v)
	}
	for k, v := range other.Traits {
		if _, ok := p.Traits[k]; !ok {
			if p.Traits == nil {
				p.Traits = Traits{}
			}
			p.Traits[k] = v
		}
	}
	for _, u := range other.Unsubscribed {
		p.unsubscribe(u)
	}
}

// unsubscribe records u; it reports whether the profile changed.
func (p *Profile) unsubscribe(u Unsubscription) bool {
	for i := range p.Unsubscribed {
		if p.Unsubscribed[i].Topic == u.Topic {
			return false
		}
	}
	p.Unsubscribed = append(p.Unsubscribed, u)
	slices.SortFunc(p.Unsubscribed, func(a, b Unsubscription) int { return strings.Compare(a.Topic, b.Topic) })
	return true
}

// resubscribe takes an unsubscription back; it reports whether the profile
// changed. An empty topic takes all back.
func (p *Profile) resubscribe(topic string) bool {
	n := len(p.Unsubscribed)
	p.Unsubscribed = slices.DeleteFunc(p.Unsubscribed, func(u Unsubscription) bool {
		return topic == "" || u.Topic == topic
	})
	return len(p.Unsubscribed) != n
}

func has(sorted []string, v string) bool {
	_, ok := slices.BinarySearch(sorted, v)
	return ok
}

func insert(sorted []string, v string) []string {
	i, ok := slices.BinarySearch(sorted, v)
	if ok {
		return sorted
	}
	return slices.Insert(sorted, i, v)
}
