package fluxly

import (
	"encoding/json"
	"net/http"
	"regexp"
	"strconv"
	"strings"
)

// postmarkEnvelope is what Postmark says about one mail, or why it refused a
// request. ErrorCode is absent from some successes.
type postmarkEnvelope struct {
	ErrorCode   json.RawMessage
	Message     string
	MessageID   string
	SubmittedAt string
}

// code is the ErrorCode, 0 when it is absent.
func (e *postmarkEnvelope) code() int {
	n, err := strconv.Atoi(strings.Trim(string(e.ErrorCode), `"`))
	if err != nil {
		return 0
	}
	return n
}

// postmarkInactive is the ErrorCode of a suppressed recipient.
const postmarkInactive = 406

// postmarkRefusal says what an ErrorCode means for the mail.
type postmarkRefusal struct {
	kind    DeliveryKind
	account bool
	auth    bool
	remedy  string
}

// postmarkRefusals are the codes of a send
// (https://postmarkapp.com/developer/api/overview#error-codes); any other
// refuses the one mail for good. The numbers collide with HTTP statuses, so
// the status is looked at first.
var postmarkRefusals = map[int]postmarkRefusal{
	10: {Permanent, true, true, "take the Server API token from the API Tokens tab of your server in Postmark; an account token cannot send"},
	14: {Permanent, true, false, "ask Postmark to approve the account for this kind of sending"},
	// Planned maintenance.
	100: {Temporary, true, false, "Postmark is under maintenance; see status.postmarkapp.com"},
	101: {Unknown, false, false, "Postmark failed inside; look the mail up before you try again"},
	300: {Permanent, false, false, "correct the field that Postmark names"},
	400: {Permanent, true, false, "verify the domain of From under Sender Signatures in Postmark, and see that its DKIM record shows as verified"},
	401: {Permanent, true, false, "confirm the sender signature of From by the link that Postmark mailed to it"},
	405: {Permanent, true, false, "the Postmark account is out of credits; raise its plan"},
	406: {Permanent, false, false, "the recipient is suppressed in Postmark; reactivate the address there only if the person asks for it"},
	412: {Permanent, true, false, "the Postmark account waits for approval and reaches only recipients on the domain of From until then; ask for approval in Postmark"},
	413: {Permanent, true, false, "the Postmark account may not send; write to Postmark's support"},
	422: {Permanent, true, false, "Postmark does not know this server or account; check the token"},
	429: {Temporary, true, false, "send with fewer requests at a time"},
	// Streams.
	1235: {Permanent, true, false, "create the Message Stream in Postmark or correct its id"},
	1236: {Permanent, true, false, "the Message Stream is an inbound one, which cannot send; take a Broadcast stream"},
	1480: {Permanent, true, false, "add the address of this machine to the server's IP allow-list in Postmark"},
}

// refusal makes the error of a reply that is no success. known is false when
// the body is not Postmark's JSON, as from a proxy.
func (a *postmarkAPI) refusal(reply *postmarkReply, e *postmarkEnvelope, known, sends bool) *DeliveryError {
	err := a.codeError(reply, e, "")
	switch s := reply.status; {
	case s == http.StatusUnauthorized:
		a.set(err, postmarkRefusals[10])
	case s == http.StatusTooManyRequests:
		a.set(err, postmarkRefusals[429])
		err.RetryAfter = parseRetryAfter(reply.header, a.now())
	case s == http.StatusServiceUnavailable && e.code() == 100:
		a.set(err, postmarkRefusals[100])
		err.RetryAfter = parseRetryAfter(reply.header, a.now())
	case s >= 500, s == http.StatusRequestTimeout:
		a.set(err, postmarkRefusals[101])
		err.RetryAfter = parseRetryAfter(reply.header, a.now())
	case s >= 300 && s <= 399:
		a.set(err, postmarkRefusal{Permanent, true, false, "the token is not sent on to where a redirect leads; set BaseURL to the address of the API itself"})
	case s == http.StatusRequestEntityTooLarge:
		a.set(err, postmarkRefusal{Permanent, false, false, "Postmark takes mails of 10 MB at most; shorten the bodies"})
	case s != http.StatusUnprocessableEntity && s != http.StatusBadRequest, !known:
		a.set(err, postmarkRefusal{Permanent, true, false, "this is not what Postmark's API answers; check BaseURL and any proxy on the way"})
	}
	if err.Text == "" {
		err.Text = http.StatusText(reply.status)
	}
	if !sends {
		return err.asked()
	}
	return err
}

// asked is the error of a request that sent no mail, and so leaves none
// unknown.
func (e *DeliveryError) asked() *DeliveryError {
	if e.Kind == Unknown {
		e.Kind, e.Remedy = Temporary, ""
	}
	return e
}

func (a *postmarkAPI) set(e *DeliveryError, r postmarkRefusal) {
	e.Kind, e.Account, e.Auth, e.Remedy = r.kind, r.account, r.auth, r.remedy
}

// codeError makes the error of an ErrorCode.
func (a *postmarkAPI) codeError(reply *postmarkReply, e *postmarkEnvelope, to string) *DeliveryError {
	err := &DeliveryError{
		Phase: "http", Host: a.host, Code: reply.status, ProviderCode: e.code(), Recipient: to,
		Text: cleanText(strings.ReplaceAll(e.Message, a.token.Reveal(), redacted), 1000),
	}
	r, ok := postmarkRefusals[e.code()]
	if !ok {
		r = postmarkRefusal{kind: Permanent}
		if e.code() != 0 {
			r.remedy = "see https://postmarkapp.com/developer/api/overview#error-codes"
		}
	}
	a.set(err, r)
	return err
}

// outcome reads what Postmark says about one mail in a reply of status 200.
func (a *postmarkAPI) outcome(reply *postmarkReply, e *postmarkEnvelope, to string) (Receipt, error) {
	if code := e.code(); code != 0 {
		recipient := ""
		if code == postmarkInactive {
			recipient = to
		}
		return Receipt{}, a.codeError(reply, e, recipient)
	}
	if inactiveOnly(e.Message) {
		// Each message has one recipient, so nobody is left to deliver to.
		err := a.codeError(reply, e, to)
		a.set(err, postmarkRefusals[postmarkInactive])
		err.ProviderCode = postmarkInactive
		return Receipt{}, err
	}
	if e.MessageID == "" && !postmarkTook.MatchString(e.Message) {
		return Receipt{}, a.unreadable(reply, nil)
	}
	return Receipt{ID: cleanText(e.MessageID, 128), Reply: cleanText(e.Message, 1000), At: a.postmarkTime(e.SubmittedAt)}, nil
}

// postmarkTook are the texts of a success, among them "Message accepted, but
// delivery may be delayed.", which comes without an ErrorCode.
var postmarkTook = regexp.MustCompile(`(?i)^\s*(ok\b|message ok\b|message accepted\b|test job accepted\b)`)

// inactiveOnly recognises a success that names its recipients as suppressed.
func inactiveOnly(text string) bool {
	return strings.Contains(strings.ToLower(text), "not deliver to these inactive addresses")
}

// unreadable is a success that says nothing about the mail, so that it may or
// may not have been taken.
func (a *postmarkAPI) unreadable(reply *postmarkReply, cause error) *DeliveryError {
	return &DeliveryError{
		Kind: Unknown, Phase: "http", Host: a.host, Code: reply.status, Err: cause,
		Text: "a success whose reply is not Postmark's: " +
			cleanText(strings.ReplaceAll(string(reply.body[:min(len(reply.body), 1000)]), a.token.Reveal(), redacted), 300),
		Remedy: "the mail may have been taken; look it up before you try again, and check BaseURL and any proxy on the way",
	}
}
