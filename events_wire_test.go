package fluxly

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

func TestEventJSON(t *testing.T) {
	t.Parallel()
	const line = `{"event":"identify","anonymous_id":"a<1>","external_id":"u\"1","user_id":"p\u2028",` +
		`"properties":{"a":[],"b":{},"big":9007199254740993,"deep":[{"n":-1.5}],"exp":1e-07,"null":null,"yes":true},` +
		`"traits":{"email":"ann@acme.test"},"context":{"ip":"::1"},"timestamp":"2026-05-29T09:30:00.25Z","message_id":"m"}`
	var e Event
	if err := json.Unmarshal([]byte(line), &e); err != nil {
		t.Fatal(err)
	}
	if err := e.Validate(); err != nil {
		t.Fatal(err)
	}
	if n, ok := e.Properties["big"].(int64); !ok || n != 1<<53+1 {
		t.Errorf("big = %#v, want int64 2^53+1", e.Properties["big"])
	}
	b, err := e.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	if want := strings.ReplaceAll(line, `\u2028`, "\u2028"); string(b) != want {
		t.Errorf("written\n%s, want\n%s", b, want)
	}
	if b, err = json.Marshal(e); err != nil || !json.Valid(b) {
		t.Errorf("json.Marshal: %s, %v", b, err)
	}
}

// The decoder tells apart what a caller may mend.
func TestDecodeEventErrors(t *testing.T) {
	t.Parallel()
	tests := []struct{ line, field, text string }{
		{``, "event", "not JSON"},
		{`{"event":"a"`, "event", "not JSON"},
		{`nonsense`, "event", "not JSON"},
		{`[]`, "event", "is a list, want an object"},
		{`"a"`, "event", "is a string, want an object"},
		{`{"event":"a"} {"event":"b"}`, "event", "after the value"},
		{`{"event":"a"}]`, "event", "after the value"},
		{`{"event":1}`, "event", "is a number, want a string"},
		{`{"event":"a","external_id":42}`, "external_id", "want a string"},
		{`{"event":"a","properties":[1]}`, "properties", "is a list, want an object"},
		{`{"event":"a","timestamp":1748511000}`, "timestamp", "want a string"},
		{`{"event":"a","timestamp":"yesterday"}`, "timestamp", "RFC 3339"},
		{`{"event":"a","timestamp":"2026-05-29T09:30:00"}`, "timestamp", "zone"},
		{`{"event":"a","properties":{"p":[` + strings.Repeat("7", 600) + `]}}`, "event", "256 characters"},
	}
	for _, tt := range tests {
		var e Event
		_, err := decodeEvent([]byte(tt.line))
		wantField(t, err, tt.field)
		if err == nil || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%.60s: error %v does not say %q", tt.line, err, tt.text)
		}
		if json.Unmarshal([]byte(tt.line), &e) == nil {
			t.Errorf("%.60s: json.Unmarshal takes it", tt.line)
		}
	}
}

func TestDecodeEventTolerates(t *testing.T) {
	t.Parallel()
	want := time.Date(2026, 5, 29, 9, 30, 0, 0, time.UTC)
	for _, line := range []string{
		`{"event":"a","external_id":"u","type":"track","sent_at":[{}],"timestamp":"2026-05-29T09:30:00Z"}`,
		`{"event":"a","external_id":"u","properties":null,"context":null,"timestamp":"2026-05-29T11:30:00+02:00"}`,
		`{"event":"a","external_id":"u","timestamp":"2026-05-29T11:30:00+0200","message_id":null}`,
	} {
		e, err := decodeEvent([]byte(line))
		if err != nil {
			t.Errorf("%s: %v", line, err)
			continue
		}
		if !e.Timestamp.Equal(want) || e.Timestamp.Location() != time.UTC {
			t.Errorf("%s: timestamp %v", line, e.Timestamp)
		}
	}
	if e, err := decodeEvent([]byte(`{"event":"a","timestamp":null}`)); err != nil || !e.Timestamp.IsZero() {
		t.Errorf("null timestamp: %v, %v", e.Timestamp, err)
	}
}

func TestEventDigest(t *testing.T) {
	t.Parallel()
	digest := func(e Event) [32]byte {
		t.Helper()
		if err := e.normalize(); err != nil {
			t.Fatal(err)
		}
		return e.digest()
	}
	base := ordinaryEvent()
	want := digest(base)
	same := ordinaryEvent()
	same.MessageID = "other"
	same.Context = map[string]any{"ip": "::1"}
	same.Properties["seats"] = json.Number("5")
	same.Timestamp = base.Timestamp.In(time.FixedZone("", 3600))
	if digest(same) != want {
		t.Error("context, message id, number type or zone change the digest")
	}
	b, err := json.Marshal(base)
	if err != nil {
		t.Fatal(err)
	}
	var back Event
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	if digest(back) != want {
		t.Error("a trip over the wire changes the digest")
	}
	for name, change := range map[string]func(*Event){
		"name":       func(e *Event) { e.Name = "other" },
		"external":   func(e *Event) { e.ExternalID = "other" },
		"swapped":    func(e *Event) { e.ExternalID, e.AnonymousID = e.AnonymousID, e.ExternalID },
		"user":       func(e *Event) { e.UserID = "other" },
		"property":   func(e *Event) { e.Properties["seats"] = 6 },
		"type":       func(e *Event) { e.Properties["seats"] = "5" },
		"traits":     func(e *Event) { e.Traits = Traits{"a": 1} },
		"time":       func(e *Event) { e.Timestamp = e.Timestamp.Add(1) },
		"no time":    func(e *Event) { e.Timestamp = time.Time{} },
		"moved part": func(e *Event) { e.Traits, e.Properties = Traits(e.Properties), nil },
	} {
		e := ordinaryEvent()
		change(&e)
		if digest(e) == want {
			t.Errorf("%s: same digest", name)
		}
	}
}

func TestReadEvents(t *testing.T) {
	t.Parallel()
	long := `{"event":"a","external_id":"` + strings.Repeat("x", maxLineBytes) + `"}`
	in := strings.Join([]string{
		"\ufeff" + `{"event":"signed_up","external_id":"u1"}` + "\r",
		``,
		`{"event":"Signed Up","external_id":"u1"}`,
		long,
		`{"event":"identify","external_id":"u1","traits":{"email":"ann@acme.test"}}`,
		`{`,
		`   `,
		`{"event":"last_one","anonymous_id":"a"}`,
	}, "\n")
	var names []string
	bad := map[int]string{}
	for e, err := range ReadEvents(strings.NewReader(in)) {
		var le *LineError
		switch {
		case err == nil:
			names = append(names, e.Name)
		case errors.As(err, &le) && errors.Is(err, ErrInvalid):
			bad[le.Line] = err.Error()
		default:
			t.Errorf("unexpected error %v", err)
		}
	}
	if got := strings.Join(names, " "); got != "signed_up identify last_one" {
		t.Errorf("events %q", got)
	}
	for line, text := range map[int]string{3: "line 3: event \"Signed Up\": not snake_case", 4: "longer than", 6: "not JSON"} {
		if !strings.Contains(bad[line], text) {
			t.Errorf("line %d: error %q does not say %q", line, bad[line], text)
		}
		delete(bad, line)
	}
	if len(bad) > 0 {
		t.Errorf("further errors %v", bad)
	}
}

func TestReadEventsLineLimit(t *testing.T) {
	t.Parallel()
	event := `{"event":"a","external_id":"u"}`
	for _, end := range []string{"", "\n"} {
		for extra, valid := range map[int]bool{0: true, 2: false} {
			line := event + strings.Repeat(" ", maxLineBytes-len(event)+extra) + end
			n := 0
			for _, err := range ReadEvents(strings.NewReader(line)) {
				n++
				if (err == nil) != valid {
					t.Errorf("%d bytes with end %q: %v", len(line), end, err)
				}
			}
			if n != 1 {
				t.Errorf("%d bytes with end %q: %d yields", len(line), end, n)
			}
		}
	}
}

func TestReadEventsReaderFails(t *testing.T) {
	t.Parallel()
	broken := errors.New("disk gone")
	r := io.MultiReader(strings.NewReader(`{"event":"a","external_id":"u"}`+"\n"+`{"event":"b","ext`), iotest.ErrReader(broken))
	var events, failures int
	for _, err := range ReadEvents(r) {
		if err == nil {
			events++
			continue
		}
		failures++
		if !errors.Is(err, broken) || errors.Is(err, ErrInvalid) {
			t.Errorf("error %v, want the reader's", err)
		}
	}
	if events != 1 || failures != 1 {
		t.Errorf("%d events and %d failures, want one each", events, failures)
	}
	for _, err := range ReadEvents(strings.NewReader("x\ny\n")) {
		if err == nil {
			t.Error("x is an event")
		}
		break // must not yield again
	}
}

func TestNewUUID(t *testing.T) {
	t.Parallel()
	a, b := newUUID(), newUUID()
	if a == b || len(a) != 36 || a[14] != '4' || !strings.ContainsRune("89ab", rune(a[19])) {
		t.Errorf("uuids %s and %s", a, b)
	}
}

func FuzzDecodeEvent(f *testing.F) {
	for _, s := range []string{
		`{"event":"signed_up","external_id":"u1","properties":{"plan":"trial","n":9007199254740993}}`,
		`{"event":"identify","external_id":"u","traits":{"email":"a@b.test","x":[1.5e3,{"y":null}]}}`,
		`{"event":"a","user_id":"\u0000","timestamp":"2026-05-29T11:30:00+02:00","context":{"a":"\ud800"}}`,
		`{"event":"a","anonymous_id":"x","properties":{"n":1e400,"m":-0,"o":0.1e1,"p":123456789012345678901234567890}}`,
		`[[[[`, ``, `null`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := decodeEvent(data)
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Fatalf("error %v is not ErrInvalid", err)
			}
			return
		}
		if err := e.normalize(); err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Fatalf("error %v is not ErrInvalid", err)
			}
			return
		}
		// What is valid survives a trip: the same bytes and the same digest.
		first, err := e.MarshalJSON()
		if err != nil {
			t.Fatalf("a valid event cannot be written: %v", err)
		}
		if len(first) > maxEventBytes {
			t.Fatalf("a valid event of %d bytes", len(first))
		}
		back, err := decodeEvent(first)
		if err != nil {
			t.Fatalf("%s: %v", first, err)
		}
		if err := back.normalize(); err != nil {
			t.Fatalf("%s: %v", first, err)
		}
		second, err := back.MarshalJSON()
		if err != nil || !bytes.Equal(first, second) {
			t.Fatalf("%s became %s, %v", first, second, err)
		}
		if e.digest() != back.digest() {
			t.Fatalf("%s: another digest after a trip", first)
		}
	})
}

func BenchmarkReadEvents(b *testing.B) {
	e := ordinaryEvent()
	line, err := json.Marshal(e)
	if err != nil {
		b.Fatal(err)
	}
	in := bytes.Repeat(append(line, '\n'), 1000)
	b.ReportAllocs()
	b.SetBytes(int64(len(in)))
	for b.Loop() {
		n := 0
		for _, err := range ReadEvents(bytes.NewReader(in)) {
			if err != nil {
				b.Fatal(err)
			}
			n++
		}
		if n != 1000 {
			b.Fatal(n)
		}
	}
}
