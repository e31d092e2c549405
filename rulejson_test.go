package fluxly

import (
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// D8: the JSON form is stable and comes back equal.
func TestD8ConditionJSON(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 3, 1, 9, 0, 0, 0, time.FixedZone("", 3600))
	for _, c := range []struct {
		c          Condition
		json, text string
	}{
		{Condition{}, `null`, `always`},
		{Prop("plan").Is("trial"), `{"prop":"plan","is":"trial"}`, `prop plan is "trial"`},
		{Attr("seats").Is(9007199254740993), `{"attr":"seats","is":9007199254740993}`, `attr seats is 9007199254740993`},
		{Attr("vip").IsNot(true), `{"attr":"vip","is_not":true}`, `attr vip is not true`},
		{Attr("a b").In("x", 1, 1.5, false), `{"attr":"a b","in":["x",1,1.5,false]}`, `attr "a b" in ["x",1,1.5,false]`},
		{Attr("country").NotIn("US"), `{"attr":"country","not_in":["US"]}`, `attr country not in ["US"]`},
		{Prop("n").GreaterThan(uint64(math.MaxUint64)), `{"prop":"n","greater_than":18446744073709551615}`, `prop n > 18446744073709551615`},
		{Prop("n").AtLeast(3.0), `{"prop":"n","at_least":3.0}`, `prop n >= 3.0`},
		{Prop("n").LessThan(json.Number("0.10")), `{"prop":"n","less_than":0.1}`, `prop n < 0.1`},
		{Prop("n").AtMost(-1), `{"prop":"n","at_most":-1}`, `prop n <= -1`},
		{Prop("n").Between(1, 2.5), `{"prop":"n","between":[1,2.5]}`, `prop n between 1 and 2.5`},
		{
			Attr("t").Between(at, at.Add(Day)), `{"attr":"t","between":["2026-03-01T09:00:00+01:00","2026-03-02T09:00:00+01:00"]}`,
			`attr t between "2026-03-01T09:00:00+01:00" and "2026-03-02T09:00:00+01:00"`,
		},
		{Attr("s").Contains(`<"é">`), `{"attr":"s","contains":"<\"é\">"}`, `attr s contains "<\"é\">"`},
		{Attr("s").StartsWith("a"), `{"attr":"s","starts_with":"a"}`, `attr s starts with "a"`},
		{Attr("s").EndsWith("a"), `{"attr":"s","ends_with":"a"}`, `attr s ends with "a"`},
		{Attr("tags").Includes("beta"), `{"attr":"tags","includes":"beta"}`, `attr tags includes "beta"`},
		{Attr("t").Before(at), `{"attr":"t","before":"2026-03-01T09:00:00+01:00"}`, `attr t before 2026-03-01T09:00:00+01:00`},
		{Attr("t").After(at), `{"attr":"t","after":"2026-03-01T09:00:00+01:00"}`, `attr t after 2026-03-01T09:00:00+01:00`},
		{Attr("t").WithinLast(36 * time.Hour), `{"attr":"t","within_last":"36h"}`, `attr t within the last 36h`},
		{Attr("t").WithinNext(3 * Day), `{"attr":"t","within_next":"72h"}`, `attr t within the next 3d`},
		{Attr("t").OlderThan(90*time.Minute + time.Nanosecond), `{"attr":"t","older_than":"1h30m0.000000001s"}`, `attr t older than 1h30m0.000000001s`},
		{Attr("t").OlderThan(0), `{"attr":"t","older_than":"0s"}`, `attr t older than 0s`},
		{Attr("x").Exists(), `{"attr":"x","exists":true}`, `attr x exists`},
		{Attr("x").Missing(), `{"attr":"x","missing":true}`, `attr x is missing`},
		{Attr("x").IsNull(), `{"attr":"x","is_null":true}`, `attr x is null`},
		{Did("login"), `{"did":"login","at_least":1}`, `did login`},
		{Did("login").AtMost(2), `{"did":"login","at_most":2}`, `did login at most 2 times`},
		{Did("login").AtLeast(2).AtMost(5), `{"did":"login","at_least":2,"at_most":5}`, `did login 2 to 5 times`},
		{Did("login").Exactly(1), `{"did":"login","exactly":1}`, `did login exactly once`},
		{Did("login").Never().Within(7 * Day), `{"did":"login","exactly":0,"within":"168h"}`, `never did login within 7d`},
		{
			Did("login").AtLeast(3).Within(Week).SinceEntry().Where(Prop("kind").Is("web")),
			`{"did":"login","at_least":3,"within":"168h","since_entry":true,"where":{"prop":"kind","is":"web"}}`,
			`did login at least 3 times within 7d since entry where (prop kind is "web")`,
		},
		{
			Did("login").Where(Prop("a").Exists()).Where(Prop("b").Exists()),
			`{"did":"login","at_least":1,"where":{"all":[{"prop":"a","exists":true},{"prop":"b","exists":true}]}}`,
			`did login where (prop a exists and prop b exists)`,
		},
		{InSegment("active"), `{"segment":"active"}`, `in segment active`},
		{Func("check"), `{"func":"check"}`, `func check`},
		{
			All(Any(InSegment("a"), InSegment("b")), Not(All(InSegment("c"), InSegment("d"))), All(InSegment("e"))),
			`{"all":[{"any":[{"segment":"a"},{"segment":"b"}]},{"not":{"all":[{"segment":"c"},{"segment":"d"}]}},{"all":[{"segment":"e"}]}]}`,
			`(in segment a or in segment b) and not (in segment c and in segment d) and (in segment e)`,
		},
	} {
		text, err := json.Marshal(c.c)
		if err != nil {
			t.Errorf("%s: %v", c.c, err)
			continue
		}
		// json.Marshal escapes <, > and &; the method itself does not.
		if plain, _ := c.c.MarshalJSON(); string(plain) != c.json {
			t.Errorf("JSON\n got %s\nwant %s", plain, c.json)
		}
		if got := c.c.String(); got != c.text {
			t.Errorf("text\n got %s\nwant %s", got, c.text)
		}
		var back Condition
		if err := json.Unmarshal(text, &back); err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if d := cmp.Diff(c.c, back); d != "" {
			t.Errorf("%s came back as another condition: %s", text, d)
		}
		if back.String() != c.text {
			t.Errorf("%s came back as %s", c.text, back)
		}
		if err := c.c.Validate(); err != nil {
			t.Errorf("%s: %v", c.c, err)
		}
	}
}

func TestConditionJSONTolerates(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Condition{
		` { "is" : 1 , "prop" : "n" } `:                Prop("n").Is(1),
		`{"did":"x"}`:                                  Did("x"),
		`{"did":"x","within":"7d"}`:                    Did("x").Within(Week),
		`{"did":"x","within":"2w"}`:                    Did("x").Within(2 * Week),
		`{"did":"x","at_least":3,"at_most":3}`:         Did("x").Exactly(3),
		`{"attr":"t","within_last":"1h30m"}`:           Attr("t").WithinLast(90 * time.Minute),
		`{"attr":"t","before":"2026-03-01T00:00:00Z"}`: Attr("t").Before(time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)),
	} {
		var got Condition
		if err := json.Unmarshal([]byte(text), &got); err != nil {
			t.Errorf("%s: %v", text, err)
		} else if !got.Equal(want) {
			t.Errorf("%s: got %s", text, got)
		}
	}
}

func TestConditionJSONRefuses(t *testing.T) {
	t.Parallel()
	deep := strings.Repeat(`{"not":`, 40) + `{"segment":"x"}` + strings.Repeat(`}`, 40)
	for text, field := range map[string]string{
		`[]`:                                      "condition",
		`"x"`:                                     "condition",
		`{}`:                                      "condition",
		`{"foo":1}`:                               "condition",
		`{"prop":"a"}`:                            "condition",
		`{"prop":"a","attr":"b","is":1}`:          "condition",
		`{"prop":"a","is":1,"in":[1]}`:            "condition",
		`{"prop":"a","equals":1}`:                 "equals",
		`{"prop":1,"is":1}`:                       "prop",
		`{"prop":"","is":1}`:                      "prop",
		`{"prop":"a","is":null}`:                  "is",
		`{"prop":"a","is":[1]}`:                   "is",
		`{"prop":"a","in":1}`:                     "in",
		`{"prop":"a","in":[]}`:                    "in",
		`{"prop":"a","greater_than":"1"}`:         "greater_than",
		`{"prop":"a","between":[1]}`:              "between",
		`{"prop":"a","between":[2,1]}`:            "between",
		`{"prop":"a","between":[1,"x"]}`:          "between",
		`{"prop":"a","contains":""}`:              "contains",
		`{"prop":"a","contains":1}`:               "contains",
		`{"prop":"a","before":"tomorrow"}`:        "before",
		`{"prop":"a","within_last":"0s"}`:         "within_last",
		`{"prop":"a","within_last":5}`:            "within_last",
		`{"prop":"a","within_last":"-1h"}`:        "within_last",
		`{"prop":"a","within_last":"9999999w"}`:   "within_last",
		`{"prop":"a","exists":false}`:             "exists",
		`{"all":[]}`:                              "all",
		`{"all":{}}`:                              "all",
		`{"all":[null]}`:                          "all[0]",
		`{"all":[{"segment":"a"}],"x":1}`:         "x",
		`{"any":[{"segment":"a"},{"did":""}]}`:    "any[1].did",
		`{"not":null}`:                            "not",
		`{"not":{"not":{"segment":1}}}`:           "not.not.segment",
		`{"segment":"a","b":1}`:                   "b",
		`{"did":"x","at_least":0}`:                "at_least",
		`{"did":"x","at_least":1.5}`:              "at_least",
		`{"did":"x","at_most":-1}`:                "at_most",
		`{"did":"x","at_least":3,"at_most":2}`:    "at_most",
		`{"did":"x","exactly":1,"at_least":1}`:    "at_least",
		`{"did":"x","within":"0s"}`:               "within",
		`{"did":"x","within":"soon"}`:             "within",
		`{"did":"x","since_entry":false}`:         "since_entry",
		`{"did":"x","where":{"attr":"a","is":1}}`: "where.attr",
		`{"did":"x","where":{"did":"y"}}`:         "where",
		`{"did":"x","where":{"all":[{"prop":"a","within_last":"1h"}]}}`: "where.all[0].within_last",
		`{"did":"x","times":1}`: "times",
		deep:                    strings.TrimSuffix(strings.Repeat("not.", 32), "."),
	} {
		var c Condition
		err := c.UnmarshalJSON([]byte(text))
		var fe *FieldError
		if !errors.As(err, &fe) || !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: got %v (%s), want a *FieldError", text, err, c)
			continue
		}
		if fe.Field != field {
			t.Errorf("%s: field %q, want %q (%v)", text, fe.Field, field, err)
		}
		if !c.IsZero() {
			t.Errorf("%s left %s behind", text, c)
		}
	}
	if err := json.Unmarshal([]byte(`{"all":`), new(Condition)); err == nil {
		t.Error("half a condition was read")
	}
}

// Validate reports every mistake, each with its path.
func TestConditionValidate(t *testing.T) {
	t.Parallel()
	c := All(
		Prop("").Is("x"),
		Attr("a").Is(nil),
		Attr("a").Is(time.Now()),
		Attr("a").Is(math.NaN()),
		Attr("a").GreaterThan(time.Now()),
		Attr("a").In(),
		Attr("a").Before(time.Time{}),
		Attr("a").WithinNext(-Day),
		Prop("plan").Is("x").AtLeast(3),
		Did("Bad Name").AtLeast(0).Within(-Day),
		Did("x").Where(Condition{}, Attr("b").Exists(), InSegment("s"), Prop("t").OlderThan(Day)),
		Any(),
		Not(Condition{}),
		Func(""),
		Field{}.Is(1),
	)
	err := c.Validate()
	var list interface{ Unwrap() []error }
	if !errors.As(err, &list) || !errors.Is(err, ErrInvalid) {
		t.Fatalf("got %v", err)
	}
	var got []string
	for _, e := range list.Unwrap() {
		var fe *FieldError
		if errors.As(e, &fe) {
			got = append(got, fe.Field)
		}
	}
	want := []string{
		"all[0].prop", "all[1].is", "all[2].is", "all[3].is", "all[4].greater_than", "all[5].in", "all[6].before", "all[7].within_next",
		"all[8]", "all[9].within", "all[9].did", "all[9].at_least",
		"all[10].where.all[0]", "all[10].where.all[1].attr", "all[10].where.all[2]", "all[10].where.all[3].older_than",
		"all[11].any", "all[12].not", "all[13].func", "all[14].prop", "all[14].is",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s\n%v", d, err)
	}
	if _, err := c.MarshalJSON(); !errors.Is(err, ErrInvalid) {
		t.Errorf("a condition with mistakes was written: %v", err)
	}
	if !c.Equal(c) || c.Equal(Prop("a").Is(1)) || Prop("a").Is(1).Equal(Prop("a").Is(2)) {
		t.Error("Equal is wrong")
	}
	_ = c.String()
}

// What may be asked depends on where the condition stands.
func TestCompileConditionKnowsThePlace(t *testing.T) {
	t.Parallel()
	cc := compileContext{HasSegment: func(n string) bool { return n == "known" }, NoEvent: true, NoEntry: true}
	_, err := compileCondition(All(
		InSegment("known"), InSegment("other"), Func("f"), Prop("p").Exists(), Did("x").SinceEntry().Where(Prop("p").Exists()),
	), cc)
	const want = `all[1].segment "other": is not a segment of this engine; add it to Config.Segments; ` +
		`all[2].func "f": is not a func of this engine; add it to Config.Conditions; ` +
		`all[3].prop "p": has no event to look at here; ask for an attribute, or for did(...) with where; ` +
		`all[4].since_entry: has no entry here: it counts from the start of a run, so it can stand in steps and exits only`
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

func TestConditionsDoNotShare(t *testing.T) {
	t.Parallel()
	base := Did("x").Where(Prop("a").Exists())
	many, few := base.AtLeast(5), base.AtMost(1).Where(Prop("b").Exists())
	if base.String() != "did x where (prop a exists)" || many.String() != "did x at least 5 times where (prop a exists)" ||
		few.String() != "did x at most once where (prop a exists and prop b exists)" {
		t.Errorf("%s, %s, %s", base, many, few)
	}
	wrong := Prop("a").Is(1).AtLeast(1)
	one, two := wrong.Within(Day), wrong.SinceEntry()
	if one.Validate().Error() == two.Validate().Error() {
		t.Errorf("both: %v", one.Validate())
	}
}

func TestFieldJSON(t *testing.T) {
	t.Parallel()
	for text, f := range map[string]Field{`{"attr":"trial_ends_at"}`: Attr("trial_ends_at"), `{"prop":"due.at"}`: Prop("due.at"), `null`: {}} {
		got, err := json.Marshal(f)
		if err != nil || string(got) != text {
			t.Errorf("%s: %s, %v", f, got, err)
		}
		back := Attr("other")
		if err := json.Unmarshal([]byte(text), &back); err != nil || back != f {
			t.Errorf("%s: %v, %v", text, back, err)
		}
	}
	for _, text := range []string{`{}`, `{"attr":""}`, `{"attr":1}`, `{"attr":"a","prop":"b"}`, `{"trait":"a"}`, `"a"`} {
		var f Field
		if err := f.UnmarshalJSON([]byte(text)); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func FuzzConditionJSON(f *testing.F) {
	for _, s := range []string{
		`{"all":[{"prop":"plan","in":["pro",1.50]},{"not":{"did":"x","at_least":3,"within":"7d","where":{"prop":"k","is":"w"}}}]}`,
		`{"attr":"t","between":["2026-03-01T00:00:00Z","2026-03-02T00:00:00+01:00"]}`, `{"any":[{"func":"f"},{"segment":"s"}]}`,
		`{"attr":"t","older_than":"0s"}`, `null`, `{"did":"x","exactly":0,"since_entry":true}`, `{"attr":"n","includes":1e400}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var c Condition
		if err := c.UnmarshalJSON(data); err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Fatalf("%q: %v is not ErrInvalid", data, err)
			}
			return
		}
		text, err := c.MarshalJSON()
		if err != nil {
			t.Fatalf("%q was read but cannot be written: %v", data, err)
		}
		if !json.Valid(text) {
			t.Fatalf("%q is not JSON", text)
		}
		var back Condition
		if err := back.UnmarshalJSON(text); err != nil {
			t.Fatalf("own text %q: %v", text, err)
		}
		again, _ := back.MarshalJSON()
		if string(again) != string(text) || !c.Equal(back) || c.String() != back.String() {
			t.Fatalf("%q came back as %q", text, again)
		}
	})
}
