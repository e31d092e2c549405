package fluxly

import (
	"encoding/json"
	"errors"
	"math"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/getfluxly/fluxly/internal/value"
)

func nested(depth int) any {
	v := any("leaf")
	for range depth {
		v = map[string]any{"in": v}
	}
	return v
}

// keys gives n properties.
func keys(n int) map[string]any {
	m := make(map[string]any, n)
	for i := range n {
		m["k"+strconv.Itoa(i)] = i
	}
	return m
}

func TestEventValidate(t *testing.T) {
	t.Parallel()
	loop := map[string]any{}
	loop["in"] = loop
	// Shared 32 times on each of 16 levels: 32^16 leaves when walked.
	wide := map[string]any{"leaf": true}
	for range value.MaxDepth - 2 {
		m := make(map[string]any, 32)
		for i := range 32 {
			m[strconv.Itoa(i)] = wide
		}
		wide = m
	}
	at := func(year int) time.Time { return time.Date(year, 6, 1, 0, 0, 0, 0, time.UTC) }
	base := func(change func(*Event)) Event {
		e := Event{Name: "signed_up", ExternalID: "u1"}
		change(&e)
		return e
	}
	prop := func(v any) Event {
		return base(func(e *Event) { e.Properties = Properties{"amount": v} })
	}
	tests := []struct {
		name  string
		event Event
		field string // empty: valid
		text  string
	}{
		{"least", base(func(*Event) {}), "", ""},
		{"only anonymous", Event{Name: "a", AnonymousID: "x"}, "", ""},
		{"only user", Event{Name: "a", UserID: "x"}, "", ""},
		{"digit first", Event{Name: "2fa_enabled", UserID: "x"}, "", ""},
		{"no name", base(func(e *Event) { e.Name = "" }), "event", "empty"},
		{"capitals", base(func(e *Event) { e.Name = "SignedUp" }), "event", "snake_case"},
		{"blank in name", base(func(e *Event) { e.Name = "signed up" }), "event", "snake_case"},
		{"underscore first", base(func(e *Event) { e.Name = "_x" }), "event", "underscore"},
		{"name not ASCII", base(func(e *Event) { e.Name = "größe" }), "event", "snake_case"},
		{"name of 64", base(func(e *Event) { e.Name = strings.Repeat("a", 64) }), "", ""},
		{"name of 65", base(func(e *Event) { e.Name = strings.Repeat("a", 65) }), "event", "65 bytes"},
		{"no id", Event{Name: "a"}, "external_id", "no id"},
		{"id of 256", base(func(e *Event) { e.ExternalID = strings.Repeat("i", 256) }), "", ""},
		{"id of 10 KB", base(func(e *Event) { e.ExternalID = strings.Repeat("i", 10<<10) }), "external_id", "10240 bytes"},
		{"id with newline", base(func(e *Event) { e.AnonymousID = "a\nb" }), "anonymous_id", "control"},
		{"id with DEL", base(func(e *Event) { e.UserID = "a\x7f" }), "user_id", "control"},
		{"id of blanks", base(func(e *Event) { e.UserID = "  " }), "user_id", "blanks"},
		{"id not UTF-8", base(func(e *Event) { e.UserID = "a\xff" }), "user_id", "UTF-8"},
		{"id with emoji", base(func(e *Event) { e.UserID = "ann 🎈" }), "", ""},
		{"message id of 128", base(func(e *Event) { e.MessageID = strings.Repeat("m", 128) }), "", ""},
		{"message id of 129", base(func(e *Event) { e.MessageID = strings.Repeat("m", 129) }), "message_id", "129 bytes"},
		{"32 properties", base(func(e *Event) { e.Properties = keys(32) }), "", ""},
		{"33 properties", base(func(e *Event) { e.Properties = keys(33) }), "properties", "33 keys"},
		{"256 traits", base(func(e *Event) { e.Traits = keys(256) }), "", ""},
		{"257 traits", base(func(e *Event) { e.Traits = keys(257) }), "traits", "257 keys"},
		{"year 0", base(func(e *Event) { e.Timestamp = at(0) }), "timestamp", "year outside"},
		{"year 1", base(func(e *Event) { e.Timestamp = at(1) }), "timestamp", "year outside"},
		{"year 1969", base(func(e *Event) { e.Timestamp = at(1969) }), "timestamp", "year outside"},
		{"year 1970", base(func(e *Event) { e.Timestamp = at(1970) }), "", ""},
		{"year 9998", base(func(e *Event) { e.Timestamp = at(9998) }), "", ""},
		{"year 9999", base(func(e *Event) { e.Timestamp = at(9999) }), "timestamp", "year outside"},
		{"NaN", prop(math.NaN()), "properties.amount", "JSON can hold"},
		{"infinite", prop([]any{1, math.Inf(-1)}), "properties.amount[1]", "JSON can hold"},
		{"NaN of 32 bits", prop(float32(math.NaN())), "properties.amount", "JSON can hold"},
		{"func", prop(func() {}), "properties.amount", "func"},
		{"chan below", prop(map[string]any{"in": []any{make(chan int)}}), "properties.amount.in[0]", "chan int"},
		{"number that is none", prop(json.Number("1x")), "properties.amount", ""},
		{"endless number", prop(json.Number(strings.Repeat("1", 600))), "properties.amount", "256 characters"},
		{"text not UTF-8", prop("\xff"), "properties.amount", "UTF-8"},
		{"key not UTF-8", base(func(e *Event) { e.Properties = Properties{"\xff": 1} }), "properties", "UTF-8"},
		{"times, numbers", prop([]any{time.Unix(0, 0), int8(1), uint64(math.MaxUint64), json.Number("1.5"), nil, true}), "", ""},
		{"nested 15 below", prop(nested(15)), "", ""},
		{"nested 16 below", prop(nested(16)), "properties.amount" + strings.Repeat(".in", 15), "at most 16 deep"},
		{"nested 1000", prop(nested(1000)), "properties.amount" + strings.Repeat(".in", 15), "at most 16 deep"},
		{"endless", prop(loop), "properties.amount" + strings.Repeat(".in", 15), "at most 16 deep"},
		{"context too deep", base(func(e *Event) { e.Context = map[string]any{"a": nested(16)} }), "context.a" + strings.Repeat(".in", 15), "at most 16 deep"},
		{"wide", prop(wide), "properties.amount", "32768 bytes"},
		{"33 KB", prop(strings.Repeat("x", 33<<10)), "event", "32768 bytes"},
		{"32 KB of escapes", prop(strings.Repeat("\x01", 6000)), "event", "32768 bytes"},
		{"just below 32 KB", prop(strings.Repeat("x", 32<<10-100)), "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			err := tt.event.Validate()
			if tt.field == "" {
				if err != nil {
					t.Fatalf("Validate = %v, want nil", err)
				}
				return
			}
			var fe *FieldError
			if !errors.As(err, &fe) || !errors.Is(err, ErrInvalid) {
				t.Fatalf("Validate = %#v, want a FieldError", err)
			}
			if fe.Field != tt.field && !(tt.name == "wide" && strings.HasPrefix(fe.Field, tt.field)) {
				t.Errorf("field %q, want %q", fe.Field, tt.field)
			}
			if !strings.Contains(err.Error(), tt.text) {
				t.Errorf("error %q does not say %q", err, tt.text)
			}
			if len(err.Error()) > 400 {
				t.Errorf("error of %d bytes", len(err.Error()))
			}
		})
	}
}

// The limit is on the bytes that go over the wire, to the byte.
func TestEventSizeIsExact(t *testing.T) {
	t.Parallel()
	for _, filler := range []string{"x", "\"", "é", "\x01"} {
		e := Event{Name: "a", ExternalID: "u", Properties: Properties{"p": ""}}
		empty, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		one, err := json.Marshal(filler)
		if err != nil {
			t.Fatal(err)
		}
		room := maxEventBytes - len(empty)
		s := strings.Repeat(filler, room/(len(one)-2)) + strings.Repeat("y", room%(len(one)-2))
		e.Properties["p"] = s
		if err := e.Validate(); err != nil {
			t.Errorf("filler %q at the limit: %v", filler, err)
		}
		e.Properties["p"] = s + "y"
		if err := e.Validate(); err == nil {
			t.Errorf("filler %q one byte over the limit is taken", filler)
		}
	}
}

func TestEventNormalize(t *testing.T) {
	t.Parallel()
	inner := map[string]any{"n": 1}
	zone := time.FixedZone("", 2*60*60)
	e := Event{
		Name: "a", ExternalID: "u",
		Properties: Properties{"n": 7, "big": uint64(math.MaxUint64), "in": inner, "list": []any{int32(1)}},
		Traits:     Traits{},
		Timestamp:  time.Date(2026, 5, 1, 12, 0, 0, 5, zone),
	}
	given := e.Properties
	if err := e.normalize(); err != nil {
		t.Fatal(err)
	}
	inner["n"], given["n"] = 2, 8 // the caller goes on with its maps
	b, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"event":"a","external_id":"u","properties":{"big":18446744073709551615,"in":{"n":1},"list":[1],"n":7},` +
		`"timestamp":"2026-05-01T10:00:00.000000005Z"}`
	if string(b) != want {
		t.Errorf("normalized\n%s, want\n%s", b, want)
	}
	if v, ok := e.Properties["n"].(int64); !ok || v != 7 {
		t.Errorf("n = %#v, want int64(7)", e.Properties["n"])
	}
	bad := Event{Name: "a", ExternalID: "u", Properties: Properties{"x": math.NaN()}}
	if err := bad.normalize(); !errors.Is(err, ErrInvalid) {
		t.Errorf("normalize of NaN = %v", err)
	}
}

func TestIdentityValidate(t *testing.T) {
	t.Parallel()
	good := Identity{ExternalID: "u1", AnonymousID: "a1", Traits: Traits{"email": "ann@acme.test", "gone": nil}}
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	for field, id := range map[string]Identity{
		"external_id":   {Traits: Traits{"a": 1}},
		"traits.amount": {ExternalID: "u1", Traits: Traits{"amount": math.Inf(1)}},
		"timestamp":     {ExternalID: "u1", Timestamp: time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)},
		"message_id":    {ExternalID: "u1", MessageID: "a\r\nb"},
	} {
		wantField(t, id.Validate(), field)
	}
}

func TestAliasValidate(t *testing.T) {
	t.Parallel()
	for _, a := range []Alias{{UserID: "u", AnonymousID: "a"}, {UserID: "u", PreviousID: "p"}, {UserID: "u", PreviousID: "u"}} {
		if err := a.Validate(); err != nil {
			t.Errorf("%+v: %v", a, err)
		}
	}
	for field, a := range map[string]Alias{
		"user_id":      {AnonymousID: "a"},
		"anonymous_id": {UserID: "u"},
		"previous_id":  {UserID: "u", AnonymousID: "a", PreviousID: "p"},
	} {
		wantField(t, a.Validate(), field)
	}
	long := strings.Repeat("x", 257)
	for field, a := range map[string]Alias{
		"user_id":      {UserID: long, AnonymousID: "a"},
		"anonymous_id": {UserID: "u", AnonymousID: long},
		"previous_id":  {UserID: "u", PreviousID: long},
	} {
		wantField(t, a.Validate(), field)
	}
}

func TestErasureValidate(t *testing.T) {
	t.Parallel()
	for _, r := range []ErasureReason{GDPRRequest, CCPARequest, CustomerRequest, InternalReason} {
		if err := (&Erasure{ID: "u", Reason: r, RequestID: "T-1"}).Validate(); err != nil {
			t.Errorf("%s: %v", r, err)
		}
	}
	for field, e := range map[string]Erasure{
		"id":         {Reason: GDPRRequest},
		"reason":     {ID: "u", Reason: "bored"},
		"request_id": {ID: "u", Reason: GDPRRequest, RequestID: "\x00"},
	} {
		wantField(t, e.Validate(), field)
	}
	wantField(t, (&Erasure{ID: "a\nb", Reason: GDPRRequest}).Validate(), "id")
}

func wantField(t *testing.T, err error, field string) {
	t.Helper()
	var fe *FieldError
	if !errors.As(err, &fe) {
		t.Errorf("error %v, want a FieldError of %q", err, field)
	} else if fe.Field != field {
		t.Errorf("error %v is of field %q, want %q", err, fe.Field, field)
	}
}

func ordinaryEvent() Event {
	return Event{
		Name: "project_created", ExternalID: "user_42", AnonymousID: "anon_7f3a",
		Properties: Properties{
			"plan": "trial", "seats": 5, "amount": 49.5, "first": true,
			"project": map[string]any{"name": "Website", "tags": []any{"new", "web"}},
		},
		Timestamp: time.Date(2026, 5, 29, 9, 30, 0, 0, time.UTC),
		MessageID: "1b4e28ba-2fa1-41d2-883f-0016d3cca427",
	}
}

func TestValidateAllocates(t *testing.T) {
	e := ordinaryEvent()
	if n := testing.AllocsPerRun(100, func() { _ = e.Validate() }); n > 0 {
		t.Errorf("Validate of an ordinary event makes %v allocations, want none", n)
	}
}

func BenchmarkEventValidate(b *testing.B) {
	e := ordinaryEvent()
	b.ReportAllocs()
	for b.Loop() {
		if err := e.Validate(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEventNormalize(b *testing.B) {
	e := ordinaryEvent()
	b.ReportAllocs()
	for b.Loop() {
		c := e
		if err := c.normalize(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEventDigest(b *testing.B) {
	e := ordinaryEvent()
	if err := e.normalize(); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		_ = e.digest()
	}
}
