package fluxly

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestDecodePostmarkNotice(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 3, 1, 9, 30, 1, 123456700, time.UTC)
	type verdict struct {
		Suppression          *Suppression
		Reactivated, NotSent bool
	}
	suppressed := func(stream, reason, origin string) verdict {
		return verdict{Suppression: &Suppression{Address: "ann@example.com", Stream: stream, Reason: reason, Origin: origin, At: at}}
	}
	tests := map[string]struct {
		body    string
		want    PostmarkNotice
		verdict verdict
	}{
		"hard bounce": {
			body: `{"RecordType":"Bounce","ID":4323372036854775807,"Type":"HardBounce","TypeCode":1,"Name":"Hard bounce","Tag":"welcome",
				"MessageID":"m-1","ServerID":23,"MessageStream":"lifecycle","Description":"The server was unable to deliver.","Details":"550 no such user",
				"Email":"ann@example.com","From":"hello@acme.test","BouncedAt":"2026-03-01T04:30:01.1234567-05:00","DumpAvailable":true,"Inactive":true,
				"CanActivate":true,"Subject":"Hi","Metadata":{"Send_Key":"run/1","plan":"pro"}}`,
			want: PostmarkNotice{
				Type: PostmarkBounce, At: at, MessageID: "m-1", SendKey: "run/1", Recipient: "ann@example.com", Stream: "lifecycle", Tag: "welcome",
				Metadata: map[string]string{"Send_Key": "run/1", "plan": "pro"}, ServerID: 23, Details: "550 no such user",
				Description: "The server was unable to deliver.", BounceID: 4323372036854775807, BounceType: "HardBounce", BounceCode: 1,
				Inactive: true, CanActivate: true, Subject: "Hi",
			},
			verdict: suppressed("lifecycle", "HardBounce", "Recipient"),
		},
		"soft bounce": {
			body: `{"RecordType":"Bounce","Type":"SoftBounce","TypeCode":4096,"MessageID":"m","Email":"ann@example.com","BouncedAt":"2026-03-01T09:30:01.1234567Z","Inactive":false}`,
			want: PostmarkNotice{Type: PostmarkBounce, At: at, MessageID: "m", Recipient: "ann@example.com", BounceType: "SoftBounce", BounceCode: 4096},
		},
		"soft bounce that deactivates": {
			body:    `{"RecordType":"Bounce","Type":"SoftBounce","MessageID":"m","Email":"ann@example.com","BouncedAt":"2026-03-01T09:30:01.1234567Z","Inactive":true}`,
			want:    PostmarkNotice{Type: PostmarkBounce, At: at, MessageID: "m", Recipient: "ann@example.com", BounceType: "SoftBounce", Inactive: true},
			verdict: suppressed("", "HardBounce", "Recipient"),
		},
		"refused after SMTP": {
			body:    `{"RecordType":"Bounce","Type":"SMTPApiError","TypeCode":100007,"MessageID":"m","Email":"ann@example.com","BouncedAt":"2026-03-01T09:30:01.1234567Z","Metadata":{"send_key":"run/2"}}`,
			want:    PostmarkNotice{Type: PostmarkBounce, At: at, MessageID: "m", Recipient: "ann@example.com", BounceType: "SMTPApiError", BounceCode: 100007, SendKey: "run/2", Metadata: map[string]string{"send_key": "run/2"}},
			verdict: verdict{NotSent: true},
		},
		"complaint": {
			body:    `{"RecordType":"SpamComplaint","Type":"SpamComplaint","TypeCode":512,"MessageID":"m","Email":"ann@example.com","MessageStream":"lifecycle","BouncedAt":"2026-03-01T09:30:01.1234567Z","Inactive":true,"CanActivate":false}`,
			want:    PostmarkNotice{Type: PostmarkSpamComplaint, At: at, MessageID: "m", Recipient: "ann@example.com", Stream: "lifecycle", BounceType: "SpamComplaint", BounceCode: 512, Inactive: true},
			verdict: suppressed("lifecycle", "SpamComplaint", "Recipient"),
		},
		"delivery, old spelling": {
			body: `{"RecordType":"Delivery","ServerId":23,"MessageID":"m","Recipient":"ann@example.com","Tag":null,"DeliveredAt":"2026-03-01T09:30:01.1234567Z","Details":"smtp;250 ok","Metadata":{}}`,
			want: PostmarkNotice{Type: PostmarkDelivery, At: at, MessageID: "m", Recipient: "ann@example.com", ServerID: 23, Details: "smtp;250 ok"},
		},
		"open": {
			body: `{"RecordType":"Open","FirstOpen":true,"Client":{"Name":"Chrome 35","Company":"Google","Family":"Chrome"},"OS":{"Name":"OS X 10.7"},"Platform":"WebMail",
				"UserAgent":"Mozilla/5.0","ReadSeconds":5,"Geo":{"CountryISOCode":"RS","IP":"188.2.95.4"},"MessageID":"m","ReceivedAt":"2026-03-01T09:30:01.1234567Z","Recipient":"ann@example.com"}`,
			want: PostmarkNotice{
				Type: PostmarkOpen, At: at, MessageID: "m", Recipient: "ann@example.com", FirstOpen: true, ReadSeconds: 5, Platform: "WebMail",
				UserAgent: "Mozilla/5.0", Client: "Chrome 35", OS: "OS X 10.7", Country: "RS", IP: "188.2.95.4",
			},
		},
		"click": {
			body: `{"RecordType":"Click","ClickLocation":"HTML","OriginalLink":"https://acme.test/a","Geo":{},"MessageID":"m","ReceivedAt":"2026-03-01T09:30:01.1234567Z","Recipient":"ann@example.com"}`,
			want: PostmarkNotice{Type: PostmarkClick, At: at, MessageID: "m", Recipient: "ann@example.com", OriginalLink: "https://acme.test/a", ClickLocation: "HTML"},
		},
		"unsubscribe": {
			body:    `{"RecordType":"SubscriptionChange","MessageID":"m","ServerID":1,"MessageStream":"lifecycle","ChangedAt":"2026-03-01T09:30:01.1234567Z","Recipient":"ann@example.com","Origin":"Recipient","SuppressSending":true,"SuppressionReason":"ManualSuppression","Tag":"t","Metadata":{"a":"b"}}`,
			want:    PostmarkNotice{Type: PostmarkSubscriptionChange, At: at, MessageID: "m", Recipient: "ann@example.com", Stream: "lifecycle", ServerID: 1, Origin: "Recipient", SuppressSending: true, SuppressionReason: "ManualSuppression", Tag: "t", Metadata: map[string]string{"a": "b"}},
			verdict: suppressed("lifecycle", "ManualSuppression", "Recipient"),
		},
		"reactivation": {
			body:    `{"RecordType":"SubscriptionChange","MessageID":null,"MessageStream":"lifecycle","ChangedAt":"2026-03-01T09:30:01.1234567Z","Recipient":"ann@example.com","Origin":"Customer","SuppressSending":false,"SuppressionReason":null,"Tag":null,"Metadata":{}}`,
			want:    PostmarkNotice{Type: PostmarkSubscriptionChange, At: at, Recipient: "ann@example.com", Stream: "lifecycle", Origin: "Customer"},
			verdict: verdict{Reactivated: true},
		},
		"type of tomorrow": {
			body: `{"recordtype":"Rendered","MessageID":7,"Metadata":{"n":1,"o":{"p":2}},"Inactive":"true","ID":"12","TypeCode":1.5,"ReadSeconds":"x"}`,
			want: PostmarkNotice{Type: "Rendered", MessageID: "7", Metadata: map[string]string{"n": "1", "o": ""}, Inactive: true, BounceID: 12},
		},
		"probe": {body: `{}`, want: PostmarkNotice{}},
		"wrong types all over": {
			body: `{"RecordType":"Bounce","Email":["x"],"Metadata":"none","BouncedAt":17,"Client":[],"Geo":7,"Inactive":{}}`,
			want: PostmarkNotice{Type: PostmarkBounce},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := DecodePostmarkNotice([]byte(tt.body))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
			v := verdict{Reactivated: got.Reactivated(), NotSent: got.NeverSent()}
			if s, ok := got.Suppression(); ok {
				v.Suppression = &s
			}
			if diff := cmp.Diff(tt.verdict, v); diff != "" {
				t.Error(diff)
			}
			if e := got.ProviderEvent(); e.Kind != string(tt.want.Type) || !e.At.Equal(tt.want.At) {
				t.Errorf("send log: %+v", e)
			}
		})
	}
}

func TestDecodePostmarkNoticeRefuses(t *testing.T) {
	t.Parallel()
	for _, body := range []string{"", "null", "[]", "7", `"x"`, "{", "<html>", `{"a":1} {"b":2}`, strings.Repeat(`{"a":`, 20_000)} {
		if n, err := DecodePostmarkNotice([]byte(body)); !errors.Is(err, ErrInvalid) {
			t.Errorf("%.20q: %+v, %v", body, n, err)
		}
	}
}

func TestPostmarkNoticeKey(t *testing.T) {
	t.Parallel()
	base := PostmarkNotice{
		Type: PostmarkClick, MessageID: "m", Recipient: "Ann@example.com", Stream: "s",
		At: time.Date(2026, 3, 1, 9, 30, 0, 0, time.UTC), OriginalLink: "https://a", ClickLocation: "HTML",
	}
	same := base
	same.At, same.Recipient, same.UserAgent = base.At.In(time.FixedZone("", -5*3600)), "ann@EXAMPLE.com", "other"
	if base.Key() != same.Key() || base.Key() == "" {
		t.Errorf("a repeated delivery has another key: %s, %s", base.Key(), same.Key())
	}
	keys := map[string]string{base.Key(): "base"}
	for name, change := range map[string]func(*PostmarkNotice){
		"type":          func(n *PostmarkNotice) { n.Type = PostmarkOpen },
		"mail":          func(n *PostmarkNotice) { n.MessageID = "m2" },
		"recipient":     func(n *PostmarkNotice) { n.Recipient = "bob@example.com" },
		"stream":        func(n *PostmarkNotice) { n.Stream = "t" },
		"time":          func(n *PostmarkNotice) { n.At = n.At.Add(time.Microsecond) },
		"link":          func(n *PostmarkNotice) { n.OriginalLink = "https://b" },
		"moved quote":   func(n *PostmarkNotice) { n.OriginalLink, n.ClickLocation = `https://a" "`, "" },
		"bounce":        func(n *PostmarkNotice) { n.Type, n.BounceType = PostmarkBounce, "HardBounce" },
		"other bounce":  func(n *PostmarkNotice) { n.Type, n.BounceType = PostmarkBounce, "SoftBounce" },
		"suppressed":    func(n *PostmarkNotice) { n.Type, n.SuppressSending = PostmarkSubscriptionChange, true },
		"reactivated":   func(n *PostmarkNotice) { n.Type = PostmarkSubscriptionChange },
		"no mail (set)": func(n *PostmarkNotice) { n.MessageID = "" },
	} {
		n := base
		change(&n)
		if other, ok := keys[n.Key()]; ok {
			t.Errorf("%s has the key of %s", name, other)
		}
		keys[n.Key()] = name
	}
	for _, n := range []PostmarkNotice{{}, {Type: PostmarkOpen, MessageID: "m"}, {Type: PostmarkOpen, At: base.At}} {
		if k := n.Key(); k != "" {
			t.Errorf("%+v has the key %s", n, k)
		}
	}
}

func FuzzDecodePostmarkNotice(f *testing.F) {
	for _, s := range []string{
		`{"RecordType":"Bounce","ID":9223372036854775807,"Email":"a@b","BouncedAt":"2026-03-01T09:30:01Z","Inactive":true,"Metadata":{"send_key":"k"}}`,
		`{"RecordType":"SubscriptionChange","SuppressSending":true,"Recipient":"a@b"}`, `{"Metadata":[]}`, `{"id":1,"ID":2}`, `{}`, `null`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, body string) {
		n, err := DecodePostmarkNotice([]byte(body))
		isObject := json.Valid([]byte(body)) && strings.HasPrefix(strings.TrimLeft(body, " \t\r\n"), "{")
		if (err == nil) != isObject {
			t.Fatalf("%q: %v", body, err)
		}
		if err != nil {
			return
		}
		again, err := DecodePostmarkNotice([]byte(body))
		if diff := cmp.Diff(n, again); err != nil || diff != "" {
			t.Fatalf("decoded otherwise the second time: %v %s", err, diff)
		}
		s, ok := n.Suppression()
		if ok && (s.Address == "" || s.Reason == "" || n.Reactivated()) {
			t.Fatalf("%q: %+v", body, s)
		}
		if _, err := json.Marshal(n.ProviderEvent().Detail); err != nil {
			t.Fatal(err)
		}
	})
}
