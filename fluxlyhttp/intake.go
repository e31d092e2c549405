package fluxlyhttp

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/getfluxly/fluxly"
)

// The limits of GetFluxly's intake: https://docs.getfluxly.com/ingest/batch
const (
	maxEventBytes  = 32 << 10
	maxBatchBytes  = 256 << 10
	maxBatchEvents = 100
	maxOtherBytes  = 16 << 10
	minKeyLength   = 16
	maxIdempotency = 256
	// parallelPeople bounds how many people of one batch are tracked at once,
	// which an engine gathers into one commit.
	parallelPeople = 32
)

// IntakeConfig is what [NewIntake] needs.
type IntakeConfig struct {
	// Tracker takes what comes in: an engine, or a client that hands it on.
	Tracker fluxly.Tracker
	// ServerKeys may make every call. They belong on servers alone. At least
	// one key of either kind is needed, each of at least 16 characters, no two
	// alike; give the old and the new one while a key is rotated.
	ServerKeys []fluxly.Secret
	// PublishableKeys are for browsers and apps, where everybody can read
	// them: they can send events, but neither alias nor erase.
	PublishableKeys []fluxly.Secret
	// PublishableTraits lets events of a publishable key carry traits. It is
	// off by default, because who reads the key in a page could then change
	// anybody's address.
	PublishableTraits bool
	// Logger hears of failures of the Tracker, which the reply does not
	// describe. Nil means silence.
	Logger *slog.Logger
}

// Intake is an http.Handler for the ingest calls of GetFluxly's API:
//
//	POST /v1/events                 one event (or an identify event with traits)
//	POST /v1/events/batch           up to 100 events, 256 KB
//	POST /v1/identify/alias         server key
//	POST /v1/profiles/{id}/erase    server key
//
// Mount it at the root of a host, or under a prefix with [http.StripPrefix]. A
// key is sent as "Authorization: Bearer KEY"; a publishable key also as the
// query parameter api_key.
//
// Requests may be repeated: an event without message_id gets one from the
// X-Idempotency-Key and its place in the request, so the same request again
// changes nothing and has the same reply, also after a restart and in another
// process. The same key with another body is a 409.
//
// It may be used from many goroutines.
type Intake struct {
	cfg  IntakeConfig
	keys []intakeKey
}

type intakeKey struct {
	hash        [32]byte
	publishable bool
}

// NewIntake checks the configuration. The error is a [*fluxly.FieldError].
func NewIntake(cfg IntakeConfig) (*Intake, error) {
	if cfg.Tracker == nil {
		return nil, &fluxly.FieldError{Field: "Tracker", Reason: "nil: give an engine or a client"}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	h := &Intake{cfg: cfg}
	for _, kind := range [...]struct {
		field       string
		keys        []fluxly.Secret
		publishable bool
	}{{"ServerKeys", cfg.ServerKeys, false}, {"PublishableKeys", cfg.PublishableKeys, true}} {
		for i, key := range kind.keys {
			if err := h.addKey(kind.field+"["+strconv.Itoa(i)+"]", key.Reveal(), kind.publishable); err != nil {
				return nil, err
			}
		}
	}
	if len(h.keys) == 0 {
		return nil, &fluxly.FieldError{Field: "ServerKeys", Reason: "empty: without a key anybody could send events; give one"}
	}
	return h, nil
}

func (h *Intake) addKey(field, key string, publishable bool) error {
	if len(key) < minKeyLength {
		return &fluxly.FieldError{Field: field, Reason: "has " + strconv.Itoa(len(key)) + " characters, at least " + strconv.Itoa(minKeyLength) + " are needed; make it of random bytes"}
	}
	for i := range len(key) {
		if key[i] <= ' ' || key[i] > '~' {
			return &fluxly.FieldError{Field: field, Reason: "holds a blank, a newline or another character that no key has; trim it where it is read"}
		}
	}
	hash := sha256.Sum256([]byte(key))
	for _, k := range h.keys {
		if k.hash == hash {
			return &fluxly.FieldError{Field: field, Reason: "is given twice"}
		}
	}
	h.keys = append(h.keys, intakeKey{hash, publishable})
	return nil
}

// refusal is a reply in GetFluxly's error form.
type refusal struct {
	status       int
	code, detail string
	received     string
	retryAfter   time.Duration
}

func refuse(status int, code, detail string) *refusal {
	return &refusal{status: status, code: code, detail: detail}
}

// request is one authenticated call.
type request struct {
	*http.Request
	publishable bool
	// idempotency is the caller's key, empty when it sent none.
	idempotency string
	id          string
	body        []byte
}

// ServeHTTP answers one call.
func (h *Intake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	status, body, no := h.serve(w, r)
	header := w.Header()
	header.Set("Content-Type", "application/json")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Cache-Control", "no-store")
	if no != nil {
		status = no.status
		fields := map[string]any{"error": no.code, "detail": no.detail}
		if no.received != "" {
			fields["received"] = no.received
		}
		if no.retryAfter > 0 {
			header.Set("Retry-After", strconv.Itoa(int((no.retryAfter+time.Second-1)/time.Second)))
		}
		if status == http.StatusUnauthorized {
			header.Set("WWW-Authenticate", "Bearer")
		}
		body = fields
	}
	text, err := json.Marshal(body)
	if err != nil { // not reached: the bodies are strings and numbers
		h.cfg.Logger.Error("writing the reply of the intake", "error", err)
		status, text = http.StatusInternalServerError, []byte(`{"error":"server_error"}`)
	}
	w.WriteHeader(status)
	_, _ = w.Write(append(text, '\n'))
}

func (h *Intake) serve(w http.ResponseWriter, r *http.Request) (int, any, *refusal) {
	call, limit, serverOnly, id := h.route(r.URL.EscapedPath())
	if call == nil {
		return 0, nil, refuse(http.StatusNotFound, fluxly.CodeNotFound, "no such call")
	}
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		return 0, nil, refuse(http.StatusMethodNotAllowed, "method_not_allowed", "use POST")
	}
	key, no := h.authenticate(r)
	if no != nil {
		return 0, nil, no
	}
	if serverOnly && key.publishable {
		return 0, nil, wrongKeyType("this call needs a server key")
	}
	idempotency := r.Header.Get("X-Idempotency-Key")
	if len(idempotency) > maxIdempotency {
		return 0, nil, refuse(http.StatusBadRequest, fluxly.CodeValidation, "X-Idempotency-Key: at most 256 bytes are allowed")
	}
	body, no := readBody(w, r, limit)
	if no != nil {
		return 0, nil, no
	}
	return call(&request{Request: r, publishable: key.publishable, idempotency: idempotency, id: id, body: body})
}

type intakeCall func(*request) (int, any, *refusal)

// route finds the call of a path; id is the part of the path that names a
// person.
func (h *Intake) route(path string) (call intakeCall, limit int64, serverOnly bool, id string) {
	switch path {
	case "/v1/events":
		return h.event, maxEventBytes, false, ""
	case "/v1/events/batch":
		return h.batch, maxBatchBytes, false, ""
	case "/v1/identify/alias":
		return h.alias, maxOtherBytes, true, ""
	}
	if rest, ok := strings.CutPrefix(path, "/v1/profiles/"); ok {
		if part, ok := strings.CutSuffix(rest, "/erase"); ok && !strings.Contains(part, "/") {
			if id, err := url.PathUnescape(part); err == nil {
				return h.erase, maxOtherBytes, true, id
			}
		}
	}
	return nil, 0, false, ""
}

// authenticate compares with every key in the same time, whatever was sent.
func (h *Intake) authenticate(r *http.Request) (intakeKey, *refusal) {
	scheme, key, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	inURL := false
	switch {
	case strings.EqualFold(scheme, "Bearer"):
		key = strings.TrimSpace(key)
	case scheme == "":
		key, inURL = r.URL.Query().Get("api_key"), true
	default:
		key = ""
	}
	hash := sha256.Sum256([]byte(key))
	var found *intakeKey
	for i := range h.keys {
		if subtle.ConstantTimeCompare(hash[:], h.keys[i].hash[:]) == 1 {
			found = &h.keys[i]
		}
	}
	switch {
	case key == "":
		return intakeKey{}, refuse(http.StatusUnauthorized, fluxly.CodeUnauthenticated, "no key: send it as Authorization: Bearer KEY")
	case found == nil:
		return intakeKey{}, refuse(http.StatusUnauthorized, fluxly.CodeUnauthenticated, "the key is not known")
	case inURL && !found.publishable:
		return intakeKey{}, refuse(http.StatusUnauthorized, fluxly.CodeUnauthenticated, "a server key does not belong into a URL: send it as Authorization: Bearer KEY, and replace it")
	}
	return *found, nil
}

func wrongKeyType(detail string) *refusal {
	return &refusal{status: http.StatusForbidden, code: fluxly.CodeWrongKeyType, detail: detail, received: "publishable"}
}

func readBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, *refusal) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, refuse(http.StatusRequestEntityTooLarge, fluxly.CodePayloadTooLarge, "at most "+strconv.FormatInt(limit, 10)+" bytes are allowed")
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, refuse(http.StatusRequestTimeout, fluxly.CodeTimeout, "the body did not arrive in time")
	case err != nil:
		return nil, refuse(http.StatusBadRequest, fluxly.CodeValidation, "the body could not be read")
	}
	return body, nil
}

// event answers POST /v1/events: https://docs.getfluxly.com/ingest/single
func (h *Intake) event(r *request) (int, any, *refusal) {
	var e fluxly.Event
	if err := json.Unmarshal(r.body, &e); err != nil {
		return 0, nil, invalidJSON(err)
	}
	if no := h.mayCarry(r, &e); no != nil {
		return 0, nil, no
	}
	if e.MessageID == "" && r.idempotency != "" {
		e.MessageID = derivedID("event", r.idempotency, 0)
	}
	if err := h.cfg.Tracker.Track(r.Context(), e); err != nil {
		return 0, nil, h.refusalOf(r, err)
	}
	return http.StatusAccepted, map[string]any{"accepted": 1, "rejected": 0, "request_id": r.requestID()}, nil
}

// mayCarry refuses what a key that everybody can read must not do.
func (h *Intake) mayCarry(r *request, e *fluxly.Event) *refusal {
	if r.publishable && !h.cfg.PublishableTraits && len(e.Traits) > 0 {
		return wrongKeyType("traits need a server key")
	}
	return nil
}

// rejection is one event of a batch that was not taken in.
type rejection struct {
	Index  int    `json:"index"`
	Error  string `json:"error"`
	Detail string `json:"detail,omitempty"`
}

// batch answers POST /v1/events/batch: https://docs.getfluxly.com/ingest/batch
func (h *Intake) batch(r *request) (int, any, *refusal) {
	var in struct {
		Events []json.RawMessage `json:"events"`
	}
	if err := json.Unmarshal(r.body, &in); err != nil {
		return 0, nil, invalidJSON(err)
	}
	if in.Events == nil {
		return 0, nil, refuse(http.StatusBadRequest, fluxly.CodeValidation, "events: missing; send {\"events\": [...]}")
	}
	if n := len(in.Events); n > maxBatchEvents {
		return 0, nil, refuse(http.StatusRequestEntityTooLarge, fluxly.CodePayloadTooLarge,
			strconv.Itoa(n)+" events, at most "+strconv.Itoa(maxBatchEvents)+" are allowed")
	}
	events := make([]fluxly.Event, len(in.Events))
	refusals := make([]*refusal, len(in.Events))
	repeatable := true
	for i, text := range in.Events {
		e := &events[i]
		if err := json.Unmarshal(text, e); err != nil {
			refusals[i] = invalidJSON(err)
			continue
		}
		if refusals[i] = h.mayCarry(r, e); refusals[i] != nil || e.MessageID != "" {
			continue
		}
		if r.idempotency == "" {
			repeatable = false
			continue
		}
		e.MessageID = derivedID("batch", r.idempotency, i)
	}
	h.trackAll(r, events, refusals)

	rejected := []rejection{}
	for i, no := range refusals {
		if no == nil {
			continue
		}
		if no.status >= http.StatusInternalServerError || no.status == http.StatusTooManyRequests {
			if repeatable {
				// The whole request again does no harm and leaves nothing out.
				return 0, nil, no
			}
		}
		rejected = append(rejected, rejection{i, no.code, no.detail})
	}
	body := map[string]any{"accepted": len(events) - len(rejected), "rejected": len(rejected), "request_id": r.requestID()}
	if len(rejected) > 0 {
		body["errors"] = rejected
	}
	return http.StatusAccepted, body, nil
}

// trackAll tracks the events that have no refusal yet: those that share an id
// one after another, as they stand, others at the same time.
func (h *Intake) trackAll(r *request, events []fluxly.Event, refusals []*refusal) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, parallelPeople)
	for _, person := range people(events, refusals) {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			for _, i := range person {
				if err := h.cfg.Tracker.Track(r.Context(), events[i]); err != nil {
					refusals[i] = h.refusalOf(r, err)
				}
			}
		})
	}
	wg.Wait()
}

// people groups the indices of events that share an id, directly or through
// other events of the batch. Each group keeps the order of the batch.
func people(events []fluxly.Event, refusals []*refusal) [][]int {
	type id struct{ kind, value string }
	parent := make([]int, len(events))
	var root func(int) int
	root = func(i int) int {
		if parent[i] != i {
			parent[i] = root(parent[i])
		}
		return parent[i]
	}
	owner := map[id]int{}
	for i := range events {
		parent[i] = i
		e := &events[i]
		for _, k := range [...]id{{"external", e.ExternalID}, {"anonymous", e.AnonymousID}, {"user", e.UserID}} {
			if k.value == "" {
				continue
			}
			if j, ok := owner[k]; ok {
				a, b := root(i), root(j)
				parent[max(a, b)] = min(a, b)
			} else {
				owner[k] = i
			}
		}
	}
	group := map[int]int{}
	var groups [][]int
	for i := range events {
		if refusals[i] != nil {
			continue
		}
		n, ok := group[root(i)]
		if !ok {
			n = len(groups)
			group[root(i)] = n
			groups = append(groups, nil)
		}
		groups[n] = append(groups[n], i)
	}
	return groups
}

// alias answers POST /v1/identify/alias:
// https://docs.getfluxly.com/identity/alias
func (h *Intake) alias(r *request) (int, any, *refusal) {
	var in struct {
		UserID      string `json:"user_id"`
		AnonymousID string `json:"anonymous_id"`
		PreviousID  string `json:"previous_id"`
		RequestID   string `json:"request_id"`
	}
	if err := json.Unmarshal(r.body, &in); err != nil {
		return 0, nil, invalidJSON(err)
	}
	a := fluxly.Alias{UserID: in.UserID, AnonymousID: in.AnonymousID, PreviousID: in.PreviousID}
	if err := h.cfg.Tracker.Alias(r.Context(), a); err != nil {
		return 0, nil, h.refusalOf(r, err)
	}
	alias := map[string]any{"user_id": a.UserID, "merged_at": time.Now().UTC().Format(time.RFC3339)}
	if a.AnonymousID != "" {
		alias["anonymous_id"] = a.AnonymousID
	} else {
		alias["previous_id"] = a.PreviousID
	}
	body := map[string]any{"alias": alias}
	if in.RequestID != "" {
		body["request_id"] = in.RequestID
	}
	return http.StatusOK, body, nil
}

// erase answers POST /v1/profiles/{id}/erase:
// https://docs.getfluxly.com/gdpr/erase
func (h *Intake) erase(r *request) (int, any, *refusal) {
	var in struct {
		Reason    fluxly.ErasureReason `json:"reason"`
		RequestID string               `json:"request_id"`
	}
	if err := json.Unmarshal(r.body, &in); err != nil {
		return 0, nil, invalidJSON(err)
	}
	e := fluxly.Erasure{ID: r.id, Reason: in.Reason, RequestID: in.RequestID}
	if err := h.cfg.Tracker.Erase(r.Context(), e); err != nil {
		return 0, nil, h.refusalOf(r, err)
	}
	return http.StatusAccepted, map[string]any{"request_id": r.requestID()}, nil
}

func invalidJSON(err error) *refusal {
	var fe *fluxly.FieldError
	if errors.As(err, &fe) {
		return refuse(http.StatusBadRequest, fluxly.CodeValidation, fe.Error())
	}
	return refuse(http.StatusBadRequest, fluxly.CodeValidation, "not the JSON of this call: "+err.Error())
}

// refusalOf says in GetFluxly's terms why the Tracker refused. What is not the
// caller's fault goes to the log, not into the reply.
func (h *Intake) refusalOf(r *request, err error) *refusal {
	var ae *fluxly.APIError
	var fe *fluxly.FieldError
	switch {
	case errors.As(err, &fe):
		return refuse(http.StatusBadRequest, fluxly.CodeValidation, fe.Error())
	case errors.Is(err, fluxly.ErrConflict):
		return refuse(http.StatusConflict, fluxly.CodeConflict, err.Error())
	case errors.As(err, &ae):
		return h.handOn(r, ae)
	case errors.Is(err, fluxly.ErrInvalid):
		return refuse(http.StatusBadRequest, fluxly.CodeValidation, err.Error())
	case errors.Is(err, fluxly.ErrNotFound):
		return refuse(http.StatusNotFound, fluxly.CodeNotFound, "nobody has this id")
	case errors.Is(err, context.Canceled) && r.Context().Err() != nil:
		return refuse(http.StatusServiceUnavailable, fluxly.CodeServerError, "the request was given up")
	}
	h.cfg.Logger.Error("the intake could not track", "path", r.URL.Path, "error", err)
	return refuse(http.StatusServiceUnavailable, fluxly.CodeServerError, "could not be stored; send it again")
}

// handOn passes on what GetFluxly's API said, where the Tracker is a client of
// it. Its view of the client's own key is no matter of the caller's.
func (h *Intake) handOn(r *request, e *fluxly.APIError) *refusal {
	switch e.Status {
	case http.StatusBadRequest, http.StatusUnprocessableEntity, http.StatusNotFound, http.StatusConflict,
		http.StatusRequestEntityTooLarge, http.StatusTooManyRequests:
		return &refusal{status: e.Status, code: e.Code, detail: e.Detail, retryAfter: e.RetryAfter}
	case http.StatusOK, http.StatusAccepted: // taken in, and refused
		return refuse(http.StatusBadRequest, e.Code, e.Detail)
	}
	h.cfg.Logger.Error("the intake could not hand on", "path", r.URL.Path, "error", e)
	return &refusal{status: http.StatusServiceUnavailable, code: fluxly.CodeServerError, detail: "could not be handed on; send it again", retryAfter: e.RetryAfter}
}

// requestID names the request in the reply: by its idempotency key, so that a
// repeated request has the same reply, else at random.
func (r *request) requestID() string {
	var b [12]byte
	if r.idempotency != "" {
		sum := sha256.Sum256([]byte("request\x00" + r.idempotency))
		copy(b[:], sum[:])
	} else {
		_, _ = rand.Read(b[:]) // never fails
	}
	return "req_" + hex.EncodeToString(b[:])
}

// derivedID gives an event the message id that its request implies.
func derivedID(call, idempotency string, index int) string {
	sum := sha256.Sum256([]byte(call + "\x00" + strconv.Itoa(index) + "\x00" + idempotency))
	return "idem_" + hex.EncodeToString(sum[:16])
}
