package fluxly

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/getfluxly/fluxly/internal/value"
)

// The calls of the API: https://docs.getfluxly.com/ingest/single,
// https://docs.getfluxly.com/ingest/batch,
// https://docs.getfluxly.com/identity/alias, https://docs.getfluxly.com/gdpr/erase
const (
	opEvents = "POST /v1/events"
	opBatch  = "POST /v1/events/batch"
	opAlias  = "POST /v1/identify/alias"
	opErase  = "POST /v1/profiles/{id}/erase"

	maxBatchEvents = 100
	maxBatchBytes  = 256 << 10
)

// Track sends one event. The present is its timestamp and a new UUID its
// message id where they are missing, so each try is the same event. Nil means
// that GetFluxly took it in; the error is a [*FieldError] when nothing was
// sent, else an [*APIError]. Traits of an event travel as an identify event
// before it, in the same request.
func (c *Client) Track(ctx context.Context, e Event) error {
	if err := c.prepare(&e); err != nil {
		return err
	}
	if e.Name != identifyName && len(e.Traits) > 0 {
		items, err := c.batchItems(nil, 0, &e)
		if err != nil {
			return err
		}
		return oneOfBatch(c.sendItems(ctx, items))
	}
	body, err := c.encode(&e)
	if err != nil {
		return err
	}
	return c.sendEvent(ctx, body)
}

// Identify sends an identify event with the ids and traits. Errors are those of
// [Client.Track].
func (c *Client) Identify(ctx context.Context, id Identity) error {
	return c.Track(ctx, id.event())
}

// prepare checks an event and fills in what makes each try of it the same.
func (c *Client) prepare(e *Event) error {
	if e.Timestamp.IsZero() {
		e.Timestamp = c.now()
	}
	if e.MessageID == "" {
		e.MessageID = newUUID()
	}
	return e.normalize()
}

// encode writes a prepared event for the wire. It is the one place that knows
// how an identity travels.
func (c *Client) encode(e *Event) ([]byte, error) {
	if e.Name != identifyName || c.encodeIdentify == nil {
		return e.appendJSON(nil, wireForm), nil
	}
	body, err := c.encodeIdentify(Identity{
		ExternalID: e.ExternalID, AnonymousID: e.AnonymousID, UserID: e.UserID,
		Traits: e.Traits, Timestamp: e.Timestamp, MessageID: e.MessageID,
	})
	if err != nil {
		return nil, &FieldError{Field: "EncodeIdentify", Reason: err.Error(), Err: err}
	}
	if _, err := decodeObject(body); err != nil || len(body) > maxEventBytes {
		return nil, fieldErrorf("EncodeIdentify", "", "made no JSON object of at most %d bytes", maxEventBytes)
	}
	return body, nil
}

// sendEvent posts one encoded event.
func (c *Client) sendEvent(ctx context.Context, body []byte) error {
	r, err := c.do(ctx, apiCall{op: opEvents, path: "/v1/events", body: body})
	if err != nil {
		return err
	}
	// A 2xx confirms intake only when it rejects nothing.
	if n, _ := r.fields["rejected"].(int64); n > 0 {
		e := replyError(opEvents, r)
		e.Code = codeRejected
		if list := rejectionsOf(r); len(list) > 0 {
			e.Code, e.Detail = list[0].Code, list[0].Detail
		}
		return e
	}
	return nil
}

// BatchError is a [Client.TrackBatch] of which not every event was taken in. It
// unwraps to the causes.
type BatchError struct {
	// Accepted counts the events that were taken in.
	Accepted int
	// Rejections names the others, in the order of the batch.
	Rejections []Rejection
}

// Rejection is one event of a batch that was not taken in.
type Rejection struct {
	// Index is the event's place in the slice given to TrackBatch; -1 when the
	// API counted a rejection without saying of which event.
	Index int
	// Code and Detail are the API's words; for an event that was not sent, those
	// of the error that kept it back.
	Code, Detail string
	// Retryable is true when the same event may be taken in later.
	Retryable bool
	// Err is a [*FieldError] for an event that was over a limit, and the
	// [*APIError] of the request when that failed as a whole; nil when the API
	// took the request and refused this event.
	Err error
}

// Error counts the rejections and gives the first ones in words.
func (e *BatchError) Error() string {
	var b bytes.Buffer
	b.WriteString(strconv.Itoa(len(e.Rejections)) + " events of the batch were not taken in, " + strconv.Itoa(e.Accepted) + " were")
	for i, r := range e.Rejections {
		if i == 3 {
			b.WriteString("; and so on")
			break
		}
		b.WriteString("; event " + strconv.Itoa(r.Index) + ": ")
		if r.Err != nil {
			b.WriteString(r.Err.Error())
			continue
		}
		b.WriteString(r.Code)
		if r.Detail != "" {
			b.WriteString(": " + r.Detail)
		}
	}
	return b.String()
}

// Unwrap returns the causes, each once.
func (e *BatchError) Unwrap() []error {
	var errs []error
	var last error
	for _, r := range e.Rejections {
		if r.Err != nil && r.Err != last { //nolint:errorlint // the same value, not the same kind
			errs = append(errs, r.Err)
			last = r.Err
		}
	}
	return errs
}

// Is reports whether target is [ErrInvalid] and the API refused an event as
// invalid. Other causes are found through Unwrap.
func (e *BatchError) Is(target error) bool {
	if target != ErrInvalid {
		return false
	}
	for _, r := range e.Rejections {
		if r.Err == nil && r.Code == CodeValidation {
			return true
		}
	}
	return false
}

// TrackBatch sends events in requests of at most 100 events and 256 KB. It
// prepares each as [Client.Track] does. An event over a limit is rejected by
// itself and does not keep the others back; when a whole request fails for
// good, the events of it and those after it are not sent. Anything but nil is
// a [*BatchError] that names each event that was not taken in, by its index.
func (c *Client) TrackBatch(ctx context.Context, events []Event) error {
	var items []batchItem
	var rejections []Rejection
	for i := range events {
		e := events[i]
		err := c.prepare(&e)
		if err == nil {
			items, err = c.batchItems(items, i, &e)
		}
		if err != nil {
			rejections = append(rejections, Rejection{Index: i, Code: CodeValidation, Detail: err.Error(), Err: err})
		}
	}
	rejections = append(rejections, c.sendItems(ctx, items)...)
	if len(rejections) == 0 {
		return nil
	}
	return newBatchError(len(events), rejections)
}

// newBatchError sorts the rejections and leaves out the second one of an event
// that travelled as two.
func newBatchError(events int, rejections []Rejection) *BatchError {
	e := &BatchError{}
	known := make([]bool, events)
	rejected := 0
	for _, r := range rejections {
		if r.Index < 0 {
			rejected++
			e.Rejections = append(e.Rejections, r)
		}
	}
	byIndex := make([]Rejection, events)
	for _, r := range rejections {
		if r.Index >= 0 && !known[r.Index] {
			known[r.Index] = true
			byIndex[r.Index] = r
		}
	}
	for i := range known {
		if known[i] {
			rejected++
			e.Rejections = append(e.Rejections, byIndex[i])
		}
	}
	e.Accepted = max(events-rejected, 0)
	return e
}

// batchItem is one encoded event of a batch and the index it came from.
type batchItem struct {
	index int
	body  []byte
}

// batchItems appends what a prepared event becomes on the wire: itself, after
// an identify event for its traits.
func (c *Client) batchItems(items []batchItem, index int, e *Event) ([]batchItem, error) {
	if e.Name != identifyName && len(e.Traits) > 0 {
		id := Event{
			Name: identifyName, ExternalID: e.ExternalID, AnonymousID: e.AnonymousID, UserID: e.UserID,
			Traits: e.Traits, Timestamp: e.Timestamp, MessageID: derivedUUID(e.MessageID),
		}
		body, err := c.encode(&id)
		if err != nil {
			return items, err
		}
		items = append(items, batchItem{index, body})
		bare := *e
		bare.Traits = nil
		e = &bare
	}
	body, err := c.encode(e)
	if err != nil {
		return items, err
	}
	return append(items, batchItem{index, body}), nil
}

// derivedUUID gives the identify event that goes before an event a message id
// of its own, the same whenever the event is sent again.
func derivedUUID(messageID string) string {
	sum := sha256.Sum256([]byte("identify " + messageID))
	// Marked as version 4, the only one that GetFluxly's own SDKs send.
	return formatUUID([16]byte(sum[:16]), 4)
}

// sendItems posts items in requests within the limits.
func (c *Client) sendItems(ctx context.Context, items []batchItem) []Rejection {
	var rejections []Rejection
	for len(items) > 0 {
		n, size := 0, len(`{"events":[]}`)
		for n < len(items) && n < maxBatchEvents && (n == 0 || size+len(items[n].body) < maxBatchBytes) {
			size += len(items[n].body) + 1
			n++
		}
		list, err := c.sendRequest(ctx, items[:n])
		rejections = append(rejections, list...)
		items = items[n:]
		if err != nil {
			return append(rejections, rejectAll(items, err)...)
		}
	}
	return rejections
}

// sendRequest posts one request. An error means that further ones are useless.
func (c *Client) sendRequest(ctx context.Context, items []batchItem) ([]Rejection, error) {
	body := []byte(`{"events":[`)
	for i, item := range items {
		if i > 0 {
			body = append(body, ',')
		}
		body = append(body, item.body...)
	}
	body = append(body, `]}`...)
	r, err := c.do(ctx, apiCall{op: opBatch, path: "/v1/events/batch", body: body})
	switch {
	case errors.Is(err, ErrTooLarge) && len(items) > 1:
		// Final for this body, and cured by smaller ones.
		first, err := c.sendRequest(ctx, items[:len(items)/2])
		if err != nil {
			return append(first, rejectAll(items[len(items)/2:], err)...), err
		}
		second, err := c.sendRequest(ctx, items[len(items)/2:])
		return append(first, second...), err
	case errors.Is(err, ErrTooLarge), errors.Is(err, ErrInvalid):
		// About what these events are; others may fare better.
		return rejectAll(items, err), nil
	case err != nil:
		return rejectAll(items, err), err
	}
	rejected, _ := r.fields["rejected"].(int64)
	list := rejectionsOf(r)
	for i := range list {
		if n := list[i].Index; n >= 0 && n < len(items) {
			list[i].Index = items[n].index
		} else {
			list[i].Index = -1
		}
	}
	for n := min(rejected, int64(len(items))); int64(len(list)) < n; {
		list = append(list, Rejection{Index: -1, Code: codeRejected, Detail: "the API did not say which event"})
	}
	return list, nil
}

func rejectAll(items []batchItem, err error) []Rejection {
	list := make([]Rejection, len(items))
	for i, item := range items {
		list[i] = Rejection{Index: item.index, Code: codeRejected, Detail: err.Error(), Err: err}
		var ae *APIError
		if errors.As(err, &ae) {
			list[i].Code, list[i].Detail, list[i].Retryable = ae.Code, ae.Detail, ae.Retryable
		}
	}
	return list
}

// rejectionsOf reads the per-event failures of a 202; an index that is missing
// becomes -1.
func rejectionsOf(r *reply) []Rejection {
	entries, _ := r.fields["errors"].([]any)
	var list []Rejection
	for _, entry := range entries {
		m, ok := entry.(map[string]any)
		if !ok {
			continue
		}
		index, ok := m["index"].(int64)
		if !ok || int64(int(index)) != index {
			index = -1
		}
		code, detail := errorOfFields(m)
		if code == "" {
			code = codeRejected
		}
		list = append(list, Rejection{Index: int(index), Code: code, Detail: detail, Retryable: code == CodeRateLimited || code == CodeServerError || code == CodeTimeout || code == CodeTooEarly})
	}
	return list
}

// oneOfBatch turns the rejections of a single event into its error.
func oneOfBatch(list []Rejection) error {
	if len(list) == 0 {
		return nil
	}
	r := list[0]
	if r.Err != nil {
		return r.Err
	}
	return &APIError{Op: opBatch, Status: http.StatusAccepted, Code: r.Code, Detail: r.Detail, Retryable: r.Retryable, Tries: 1}
}

// Alias folds an earlier id into a person. It needs a server key. That the id
// belongs to another live profile is an [*APIError] that matches
// [ErrAliasConflict]; its Fields name both.
func (c *Client) Alias(ctx context.Context, a Alias) error {
	if err := a.Validate(); err != nil {
		return err
	}
	if err := c.needServerKey(); err != nil {
		return err
	}
	body := append([]byte(`{"user_id":`), value.AppendString(nil, a.UserID)...)
	if a.AnonymousID != "" {
		body = value.AppendString(append(body, `,"anonymous_id":`...), a.AnonymousID)
	} else {
		body = value.AppendString(append(body, `,"previous_id":`...), a.PreviousID)
	}
	_, err := c.do(ctx, apiCall{op: opAlias, path: "/v1/identify/alias", body: append(body, '}')})
	return err
}

// Erase asks for the erasure of a person, which cannot be undone and is carried
// out within days. It needs a server key. [Client.RequestErasure] gives the
// receipt, too.
func (c *Client) Erase(ctx context.Context, e Erasure) error {
	_, err := c.RequestErasure(ctx, e)
	return err
}

// ErasureReceipt is what the API says about an erasure that it will carry out.
type ErasureReceipt struct {
	// ID names the erasure.
	ID string
	// Profiles and Events count what will go.
	Profiles, Events int64
	// CompletesBy is the deadline; zero when the API named none.
	CompletesBy time.Time
	// Fields is the whole reply.
	Fields map[string]any
}

// RequestErasure is [Client.Erase] with the receipt for one's records. Fields
// that the reply lacks stay zero.
func (c *Client) RequestErasure(ctx context.Context, e Erasure) (*ErasureReceipt, error) {
	if err := e.Validate(); err != nil {
		return nil, err
	}
	if err := c.needServerKey(); err != nil {
		return nil, err
	}
	body := value.AppendString([]byte(`{"reason":`), string(e.Reason))
	if e.RequestID != "" {
		body = value.AppendString(append(body, `,"request_id":`...), e.RequestID)
	}
	r, err := c.do(ctx, apiCall{op: opErase, path: "/v1/profiles/" + pathPart(e.ID) + "/erase", body: append(body, '}')})
	if err != nil {
		return nil, err
	}
	receipt := &ErasureReceipt{Fields: r.fields}
	receipt.ID, _ = r.fields["erasure_id"].(string)
	receipt.Profiles, _ = r.fields["profiles_targeted"].(int64)
	receipt.Events, _ = r.fields["events_targeted"].(int64)
	if by, ok := r.fields["completes_by"].(string); ok {
		receipt.CompletesBy, _ = value.ParseTime(by)
	}
	return receipt, nil
}
