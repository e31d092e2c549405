package fluxly

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// PostmarkNoticeType is Postmark's RecordType of a webhook.
type PostmarkNoticeType string

// The notices that Postmark documents:
// https://postmarkapp.com/developer/webhooks/webhooks-overview
const (
	PostmarkBounce             PostmarkNoticeType = "Bounce"
	PostmarkSpamComplaint      PostmarkNoticeType = "SpamComplaint"
	PostmarkDelivery           PostmarkNoticeType = "Delivery"
	PostmarkOpen               PostmarkNoticeType = "Open"
	PostmarkClick              PostmarkNoticeType = "Click"
	PostmarkSubscriptionChange PostmarkNoticeType = "SubscriptionChange"
)

// Postmark's reasons of a suppression.
const (
	suppressedHardBounce = "HardBounce"
	suppressedComplaint  = "SpamComplaint"
	suppressedManually   = "ManualSuppression"
)

// PostmarkNotice is one webhook of Postmark about a mail or an address. Fields
// that a notice of its type does not have, or that came in another form than
// documented, are zero.
type PostmarkNotice struct {
	// Type is one of the constants, or what Postmark sends tomorrow. It is
	// empty for a probe and for inbound mail, which carry none.
	Type PostmarkNoticeType
	// At is when it happened, with Postmark's offset.
	At time.Time
	// MessageID is Postmark's id of the mail; empty when a person was
	// suppressed or reactivated by hand.
	MessageID string
	// SendKey is the send key of the mail, from its metadata.
	SendKey string
	// Recipient is the address.
	Recipient string
	// Stream is the Message Stream.
	Stream   string
	Tag      string
	Metadata map[string]string
	ServerID int64
	// Details is the text of the receiving server (Delivery, Bounce) and
	// Description that of Postmark.
	Details, Description string

	// Of Bounce and SpamComplaint. BounceType is Postmark's word, such as
	// "HardBounce", "Transient" or "SMTPApiError"; the list of them grows.
	BounceID         int64
	BounceType       string
	BounceCode       int
	Inactive         bool
	CanActivate      bool
	Subject, Content string

	// Of SubscriptionChange. Origin is "Recipient", "Customer" or "Admin".
	SuppressSending   bool
	SuppressionReason string
	Origin            string

	// Of Open and Click.
	FirstOpen     bool
	ReadSeconds   int
	OriginalLink  string
	ClickLocation string
	Platform      string
	UserAgent     string
	Client        string
	OS            string
	Country       string
	IP            string
}

// DecodePostmarkNotice reads the body of a webhook. It takes every JSON object:
// fields may be missing, null, of another type or in another case, and types
// and words it does not know are kept. The error is a [*FieldError] for a body
// that is no JSON object. It does not say who sent it: Postmark signs nothing,
// so the address of the webhook must carry a secret.
func DecodePostmarkNotice(body []byte) (PostmarkNotice, error) {
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(body, &raw); err != nil || raw == nil {
		e := fieldErrorf("body", "", "is no JSON object")
		e.Err = err
		return PostmarkNotice{}, e
	}
	f := newLooseFields(raw)
	n := PostmarkNotice{
		Type: PostmarkNoticeType(f.text("RecordType")), MessageID: f.text("MessageID"), Stream: f.text("MessageStream"),
		Tag: f.text("Tag"), Recipient: f.text("Recipient"), ServerID: f.integer("ServerID"),
		Details: f.text("Details"), Description: f.text("Description"),
		BounceID: f.integer("ID"), BounceType: f.text("Type"), BounceCode: int(f.integer("TypeCode")),
		Inactive: f.truth("Inactive"), CanActivate: f.truth("CanActivate"), Subject: f.text("Subject"), Content: f.text("Content"),
		SuppressSending: f.truth("SuppressSending"), SuppressionReason: f.text("SuppressionReason"), Origin: f.text("Origin"),
		FirstOpen: f.truth("FirstOpen"), ReadSeconds: int(f.integer("ReadSeconds")), OriginalLink: f.text("OriginalLink"),
		ClickLocation: f.text("ClickLocation"), Platform: f.text("Platform"), UserAgent: f.text("UserAgent"),
		Client: f.object("Client").text("Name"), OS: f.object("OS").text("Name"),
		Country: f.object("Geo").text("CountryISOCode"), IP: f.object("Geo").text("IP"),
	}
	if n.Recipient == "" {
		n.Recipient = f.text("Email")
	}
	for _, name := range [...]string{"BouncedAt", "DeliveredAt", "ReceivedAt", "ChangedAt"} {
		if t, err := time.Parse(time.RFC3339Nano, f.text(name)); err == nil {
			n.At = t
			break
		}
	}
	var metadata map[string]json.RawMessage
	if json.Unmarshal(f["metadata"], &metadata) == nil && len(metadata) > 0 {
		n.Metadata = make(map[string]string, len(metadata))
		for k, v := range metadata {
			n.Metadata[k] = looseText(v)
			if strings.EqualFold(k, sendKeyMetadata) { // Postmark compares keys without case
				n.SendKey = n.Metadata[k]
			}
		}
	}
	return n, nil
}

// Key names the notice, so that a repeated delivery can be told from a second
// event of the same kind. It includes the time, because a person opens and
// clicks more than once, and repeated deliveries carry the same time. It is
// empty for a notice that cannot be named.
func (n *PostmarkNotice) Key() string {
	if n.Type == "" || n.At.IsZero() || n.MessageID == "" && n.Recipient == "" {
		return ""
	}
	parts := []string{string(n.Type), n.MessageID, strings.ToLower(n.Recipient), n.Stream, n.At.UTC().Format(time.RFC3339Nano)}
	switch n.Type {
	case PostmarkClick:
		parts = append(parts, n.OriginalLink, n.ClickLocation)
	case PostmarkSubscriptionChange:
		parts = append(parts, strconv.FormatBool(n.SuppressSending))
	case PostmarkBounce, PostmarkSpamComplaint:
		parts = append(parts, n.BounceType)
	default: // one at a time and recipient
	}
	for i, p := range parts {
		parts[i] = strconv.Quote(p)
	}
	return strings.Join(parts, " ")
}

// Suppression is the suppression that the notice tells of; ok is false when it
// tells of none. What counts for a bounce is whether Postmark deactivated the
// address, not the type of bounce.
func (n *PostmarkNotice) Suppression() (s Suppression, ok bool) {
	if n.Recipient == "" {
		return Suppression{}, false
	}
	s = Suppression{Address: n.Recipient, Stream: n.Stream, At: n.At}
	switch n.Type {
	case PostmarkSpamComplaint:
		s.Reason, s.Origin = suppressedComplaint, "Recipient"
	case PostmarkBounce:
		if !n.Inactive {
			return Suppression{}, false
		}
		switch n.BounceType {
		case "SpamComplaint":
			s.Reason = suppressedComplaint
		case "ManuallyDeactivated", "Unsubscribe":
			s.Reason = suppressedManually
		default:
			s.Reason = suppressedHardBounce
		}
		s.Origin = "Recipient"
	case PostmarkSubscriptionChange:
		if !n.SuppressSending {
			return Suppression{}, false
		}
		if s.Reason, s.Origin = n.SuppressionReason, n.Origin; s.Reason == "" {
			s.Reason = suppressedManually
		}
	default:
		return Suppression{}, false
	}
	return s, true
}

// Reactivated reports whether the notice lifts the suppression of Recipient on
// Stream.
func (n *PostmarkNotice) Reactivated() bool {
	return n.Type == PostmarkSubscriptionChange && !n.SuppressSending && n.Recipient != ""
}

// NeverSent reports whether Postmark took the mail over SMTP and then refused
// it: it reached nobody. Such notices come only when the server's SMTP API
// error hooks are on.
func (n *PostmarkNotice) NeverSent() bool {
	return n.Type == PostmarkBounce && n.BounceType == "SMTPApiError"
}

// ProviderEvent gives the notice for the send log.
func (n *PostmarkNotice) ProviderEvent() ProviderEvent {
	e := ProviderEvent{Kind: string(n.Type), At: n.At, Detail: map[string]any{}}
	for _, d := range [...]struct{ name, value string }{
		{"recipient", n.Recipient},
		{"details", clip(n.Details, 1000)},
		{"description", clip(n.Description, 1000)},
		{"type", n.BounceType},
		{"link", clip(n.OriginalLink, 2000)},
		{"reason", n.SuppressionReason},
		{"origin", n.Origin},
		{"platform", n.Platform},
		{"user_agent", clip(n.UserAgent, 500)},
	} {
		if d.value != "" {
			e.Detail[d.name] = d.value
		}
	}
	switch n.Type {
	case PostmarkBounce, PostmarkSpamComplaint:
		e.Detail["inactive"] = n.Inactive
	case PostmarkSubscriptionChange:
		e.Detail["suppress_sending"] = n.SuppressSending
	case PostmarkOpen:
		e.Detail["first_open"] = n.FirstOpen
	default: // all is said above
	}
	return e
}

// looseFields are the fields of a JSON object by their names in lower case.
// Reading one never fails: what is not of the type asked for is zero.
type looseFields map[string]json.RawMessage

func newLooseFields(raw map[string]json.RawMessage) looseFields {
	f := make(looseFields, len(raw))
	for _, k := range slices.Sorted(maps.Keys(raw)) { // so that of two spellings always the same wins
		f[strings.ToLower(k)] = raw[k]
	}
	return f
}

func (f looseFields) text(name string) string { return looseText(f[strings.ToLower(name)]) }

// looseText is a string, or a number or truth value as it was written.
func looseText(v json.RawMessage) string {
	var s string
	if json.Unmarshal(v, &s) == nil {
		return s
	}
	if len(v) > 0 && v[0] != '{' && v[0] != '[' {
		return string(v)
	}
	return ""
}

// integer reads digit by digit: an id of Postmark's may be larger than a
// float64 can hold.
func (f looseFields) integer(name string) int64 {
	n, err := strconv.ParseInt(f.text(name), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func (f looseFields) truth(name string) bool { return strings.EqualFold(f.text(name), "true") }

func (f looseFields) object(name string) looseFields {
	var raw map[string]json.RawMessage
	if json.Unmarshal(f[strings.ToLower(name)], &raw) != nil {
		return nil
	}
	return newLooseFields(raw)
}
