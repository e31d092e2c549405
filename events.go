package fluxly

import (
	"context"
	"time"
)

// Tracker is what a program calls when something happened. [*Engine] decides
// in this process, [*Client] hands over to GetFluxly's hosted API; a program
// can move either way without touching its call sites.
type Tracker interface {
	// Track records one event. When it returns nil the event is accepted for
	// good.
	Track(ctx context.Context, e Event) error
	// Identify attaches traits to a person and joins the ids given.
	Identify(ctx context.Context, id Identity) error
	// Alias folds one id into another person.
	Alias(ctx context.Context, a Alias) error
	// Erase removes a person and all that is known of them.
	Erase(ctx context.Context, e Erasure) error
}

// Properties are the properties of an event; Traits are those of a profile.
// Values are JSON's: string, bool, nil, []any, map[string]any, any Go integer
// or float, [encoding/json.Number] and [time.Time]. Integers keep their value
// up to 64 bits and beyond (as json.Number): nothing passes through float64.
// A time is kept as its RFC 3339 text with its zone.
type Properties map[string]any

// Traits are the attributes of a profile, GetFluxly's word for them. See
// [Properties] for the values.
type Traits map[string]any

// Event is one thing that a person did. Its JSON is GetFluxly's wire form:
// https://docs.getfluxly.com/ingest/single
type Event struct {
	// Name is snake_case, at most 64 characters.
	Name string `json:"event"`
	// At least one of the three ids is needed, each at most 256 bytes. UserID
	// is the id of a profile, ExternalID the program's own user id,
	// AnonymousID that of a browser or device.
	ExternalID  string `json:"external_id,omitempty"`
	AnonymousID string `json:"anonymous_id,omitempty"`
	UserID      string `json:"user_id,omitempty"`
	// Properties has at most 32 keys; the whole event at most 32 KB.
	Properties Properties `json:"properties,omitempty"`
	// Traits are merged into the profile with the event. On the wire they
	// travel only with an identify event.
	Traits Traits `json:"traits,omitempty"`
	// Timestamp is when it happened; the zero value means now.
	Timestamp time.Time `json:"timestamp,omitzero"`
	// Context describes the client or device.
	Context map[string]any `json:"context,omitempty"`
	// MessageID makes the event one: the same id again changes nothing, and
	// with another body it is [ErrConflict]. Made once when empty.
	MessageID string `json:"message_id,omitempty"`
}

// Identity says who a person is: the ids given are joined into one profile
// and the traits set on it. A nil trait removes the key.
type Identity struct {
	ExternalID  string
	AnonymousID string
	UserID      string
	Traits      Traits
	// Timestamp is when it became known; the zero value means now.
	Timestamp time.Time
	// MessageID as in [Event].
	MessageID string
}

// Alias folds an earlier id into a person:
// https://docs.getfluxly.com/identity/alias
type Alias struct {
	// UserID is the person who stays.
	UserID string
	// AnonymousID or PreviousID (an earlier external id) is folded in;
	// exactly one is given.
	AnonymousID string
	PreviousID  string
}

// ErasureReason is why a person is erased.
type ErasureReason string

// The reasons GetFluxly's API accepts: https://docs.getfluxly.com/gdpr/erase
const (
	GDPRRequest     ErasureReason = "gdpr_dsr"
	CCPARequest     ErasureReason = "ccpa_dsr"
	CustomerRequest ErasureReason = "customer_request"
	InternalReason  ErasureReason = "internal"
)

// Erasure removes a person for good.
type Erasure struct {
	// ID is any id of the person; every profile that shares it goes.
	ID string
	// Reason is kept in the audit record.
	Reason ErasureReason
	// RequestID is the caller's own ticket, kept in the audit record.
	RequestID string
}
