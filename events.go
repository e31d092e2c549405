package fluxly

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/getfluxly/fluxly/internal/value"
)

// The limits of the contract: https://docs.getfluxly.com/ingest/single. Those
// it does not state (length of ids, depth, traits, message id, years) are this
// library's.
const (
	maxNameLength = 64
	maxIDLength   = 256
	maxProperties = 32
	maxTraits     = 256
	maxEventBytes = 32 << 10
	maxMessageID  = 128
	maxRequestID  = 256
	minEventYear  = 1970
	maxEventYear  = 9998
)

// identifyName is the name of the event that carries an [Identity].
const identifyName = "identify"

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
	// with another body it is [ErrConflict]. Made once when empty; set it where
	// a call may be repeated after an error, or the repeat is another event.
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

// Validate checks the event against the limits of the contract and changes
// nothing: the name is snake_case of at most 64 characters (lower-case letters,
// digits and underscores, beginning with a letter or digit); at least one id is
// given, each of at most 256 bytes without control characters; at most 32
// properties and 256 traits, nested at most 16 deep, of the types that
// [Properties] names; a timestamp is of the years 1970 to 9998; the message id
// has at most 128 bytes; and the event as JSON has at most 32 KB. The error is
// a [*FieldError] whose Field is the path, such as "properties.amount".
func (e *Event) Validate() error {
	if err := e.check(); err != nil {
		return err
	}
	return nil
}

// check is Validate with the concrete type, so that nil stays nil.
func (e *Event) check() *FieldError {
	if err := checkName(e.Name); err != nil {
		return err
	}
	if e.ExternalID == "" && e.AnonymousID == "" && e.UserID == "" {
		return fieldErrorf("external_id", "", "no id: give external_id, anonymous_id or user_id")
	}
	for _, id := range [...]struct{ field, value string }{
		{"external_id", e.ExternalID}, {"anonymous_id", e.AnonymousID}, {"user_id", e.UserID},
	} {
		if err := checkID(id.field, id.value, maxIDLength); err != nil {
			return err
		}
	}
	if err := checkID("message_id", e.MessageID, maxMessageID); err != nil {
		return err
	}
	if err := checkTimestamp(e.Timestamp); err != nil {
		return err
	}
	if n := len(e.Properties); n > maxProperties {
		return fieldErrorf("properties", "", "%d keys, at most %d are allowed", n, maxProperties)
	}
	if n := len(e.Traits); n > maxTraits {
		return fieldErrorf("traits", "", "%d keys, at most %d are allowed", n, maxTraits)
	}
	var size valueSize
	size.addString(len(e.Name) + len(e.ExternalID) + len(e.AnonymousID) + len(e.UserID) + len(e.MessageID))
	size.most += 256 // the field names and the timestamp
	for _, part := range [...]struct {
		field  string
		values map[string]any
	}{{"properties", e.Properties}, {"traits", e.Traits}, {"context", e.Context}} {
		if err := checkMap(part.values, 1, &size); err != nil {
			err.Field = joinPath(part.field, err.Field)
			return err
		}
	}
	if size.least > maxEventBytes {
		return tooLarge()
	}
	if size.most <= maxEventBytes {
		return nil
	}
	// Only an event that may be too large is worth being written out.
	c := *e
	if err := c.normalizeValues(); err != nil {
		return asFieldError("", err)
	}
	if len(c.appendJSON(nil, wireForm)) > maxEventBytes {
		return tooLarge()
	}
	return nil
}

// normalize validates the event and replaces its values by their canonical
// ones. Maps and slices are copied, so the event shares nothing with the
// caller's afterwards.
func (e *Event) normalize() error {
	if err := e.check(); err != nil {
		return err
	}
	if err := e.normalizeValues(); err != nil {
		return err
	}
	if !e.Timestamp.IsZero() {
		e.Timestamp = e.Timestamp.Round(0).UTC()
	}
	return nil
}

// normalizeValues replaces properties, traits and context by canonical copies.
func (e *Event) normalizeValues() error {
	for _, part := range [...]struct {
		field  string
		values *map[string]any
	}{
		{"properties", (*map[string]any)(&e.Properties)},
		{"traits", (*map[string]any)(&e.Traits)},
		{"context", &e.Context},
	} {
		m, err := normalizeMap(*part.values, part.field)
		if err != nil {
			return err
		}
		if len(m) == 0 {
			m = nil
		}
		*part.values = m
	}
	return nil
}

// Validate checks the identity as [Event.Validate] does; "identify" stands for
// the name.
func (id *Identity) Validate() error {
	e := id.event()
	return e.Validate()
}

// event gives the identity as an identify event.
func (id *Identity) event() Event {
	return Event{
		Name: identifyName, ExternalID: id.ExternalID, AnonymousID: id.AnonymousID, UserID: id.UserID,
		Traits: id.Traits, Timestamp: id.Timestamp, MessageID: id.MessageID,
	}
}

// Validate checks that UserID and exactly one of the other two ids are given,
// each of at most 256 bytes without control characters. The error is a
// [*FieldError].
func (a *Alias) Validate() error {
	if a.UserID == "" {
		return fieldErrorf("user_id", "", "empty: name the person who stays")
	}
	field, source := "anonymous_id", a.AnonymousID
	switch {
	case a.AnonymousID == "" && a.PreviousID == "":
		return fieldErrorf("anonymous_id", "", "no id to fold in: give anonymous_id or previous_id")
	case a.AnonymousID != "" && a.PreviousID != "":
		return fieldErrorf("previous_id", a.PreviousID, "given together with anonymous_id: fold in one id a call")
	case a.AnonymousID == "":
		field, source = "previous_id", a.PreviousID
	}
	if err := checkID("user_id", a.UserID, maxIDLength); err != nil {
		return err
	}
	if err := checkID(field, source, maxIDLength); err != nil {
		return err
	}
	return nil
}

// Validate checks that an id and one of the known reasons are given. The error
// is a [*FieldError].
func (e *Erasure) Validate() error {
	if e.ID == "" {
		return fieldErrorf("id", "", "empty: give any id of the person to erase")
	}
	if err := checkID("id", e.ID, maxIDLength); err != nil {
		return err
	}
	switch e.Reason {
	case GDPRRequest, CCPARequest, CustomerRequest, InternalReason:
	default:
		return fieldErrorf("reason", string(e.Reason), "not one of gdpr_dsr, ccpa_dsr, customer_request, internal")
	}
	if err := checkID("request_id", e.RequestID, maxRequestID); err != nil {
		return err
	}
	return nil
}

func checkName(name string) *FieldError {
	switch {
	case name == "":
		return fieldErrorf("event", "", "empty: give the event a name")
	case len(name) > maxNameLength:
		return fieldErrorf("event", name, "%d bytes, at most %d are allowed", len(name), maxNameLength)
	case name[0] == '_':
		return fieldErrorf("event", name, "begins with an underscore: use snake_case, such as project_created")
	}
	for i := range len(name) {
		if c := name[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' {
			return fieldErrorf("event", name,
				"not snake_case: use lower-case letters, digits and underscores, such as project_created")
		}
	}
	return nil
}

// checkID checks an id that may be empty.
func checkID(field, id string, most int) *FieldError {
	if len(id) > most {
		return fieldErrorf(field, id, "%d bytes, at most %d are allowed", len(id), most)
	}
	blank := id != ""
	for i := range len(id) {
		if id[i] < ' ' || id[i] == 0x7f {
			return fieldErrorf(field, id, "holds a control character")
		}
		blank = blank && id[i] == ' '
	}
	if blank {
		return fieldErrorf(field, id, "holds only blanks")
	}
	if !utf8.ValidString(id) {
		return fieldErrorf(field, id, "is not valid UTF-8")
	}
	return nil
}

func checkTimestamp(t time.Time) *FieldError {
	if t.IsZero() {
		return nil
	}
	if year := t.UTC().Year(); year < minEventYear || year > maxEventYear {
		return fieldErrorf("timestamp", strconv.Itoa(year), "year outside %d to %d; leave the time zero for now",
			minEventYear, maxEventYear)
	}
	return nil
}

func tooLarge() *FieldError {
	return fieldErrorf("event", "", "larger than %d bytes as JSON: send less with it", maxEventBytes)
}

// valueSize bounds the size of values as JSON from both sides while they are
// walked, so that most events need not be written out to be measured, and a
// value that refers to itself in many places is given up early.
type valueSize struct{ least, most int }

func (s *valueSize) addString(n int) {
	s.least += n + 2
	s.most += 6*n + 2
}

func (s *valueSize) addOther(most int) {
	s.least++
	s.most += most
}

func checkMap(m map[string]any, depth int, size *valueSize) *FieldError {
	if depth > value.MaxDepth {
		return tooDeep()
	}
	size.addOther(2)
	for key, v := range m {
		size.addString(len(key))
		size.most += 2 // colon and comma
		if !utf8.ValidString(key) {
			return fieldErrorf("", key, "the key is not valid UTF-8")
		}
		if err := checkValue(v, depth, size); err != nil {
			err.Field = joinPath(key, err.Field)
			return err
		}
	}
	return nil
}

// checkValue returns an error whose Field is the path below v. It allocates
// nothing for the ordinary types.
func checkValue(v any, depth int, size *valueSize) *FieldError {
	if size.least > maxEventBytes {
		return fieldErrorf("", "", "makes the event larger than %d bytes as JSON: send less with it", maxEventBytes)
	}
	switch v := v.(type) {
	case nil, bool:
		size.addOther(5)
	case string:
		size.addString(len(v))
		if !utf8.ValidString(v) {
			return fieldErrorf("", v, "is not valid UTF-8")
		}
	case int, int8, int16, int32, int64, uint, uint8, uint16, uint32, uint64:
		size.addOther(20)
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return fieldErrorf("", strconv.FormatFloat(v, 'g', -1, 64), "is not a number that JSON can hold")
		}
		size.addOther(32)
	case json.Number:
		size.addOther(len(v) + 32)
		return checkOther(v)
	case time.Time:
		size.addOther(40)
		return checkOther(v)
	case map[string]any:
		return checkMap(v, depth+1, size)
	case Properties:
		return checkMap(v, depth+1, size)
	case Traits:
		return checkMap(v, depth+1, size)
	case []any:
		if depth >= value.MaxDepth {
			return tooDeep()
		}
		size.addOther(2)
		for i, item := range v {
			size.most++
			if err := checkValue(item, depth+1, size); err != nil {
				err.Field = joinPath("["+strconv.Itoa(i)+"]", err.Field)
				return err
			}
		}
	default:
		c, err := normalizeValue(v, "")
		if err != nil {
			return asFieldError("", err)
		}
		return checkValue(c, depth, size)
	}
	return nil
}

func checkOther(v any) *FieldError {
	if _, err := normalizeValue(v, ""); err != nil {
		return asFieldError("", err)
	}
	return nil
}

func tooDeep() *FieldError {
	return fieldErrorf("", "", "lists and maps may be nested at most %d deep; flatten it", value.MaxDepth)
}

// joinPath puts a path below key: "a" and "b" give "a.b", "a" and "[1]" give
// "a[1]".
func joinPath(key, below string) string {
	if below == "" || below[0] == '[' {
		return key + below
	}
	return key + "." + below
}

// asFieldError puts err below the path field.
func asFieldError(field string, err error) *FieldError {
	var fe *FieldError
	if errors.As(err, &fe) {
		c := *fe
		if field != "" {
			c.Field = joinPath(field, c.Field)
		}
		return &c
	}
	return &FieldError{Field: field, Reason: err.Error(), Err: err}
}
