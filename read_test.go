package fluxly

import (
	"testing"
	"time"
)

func TestWhyNot(t *testing.T) {
	t.Parallel()
	leaf := func(text string, holds bool, v any) Explanation {
		return Explanation{Text: text, Holds: holds, Value: v}
	}
	for _, tt := range []struct {
		x    Explanation
		want string
	}{
		{leaf("prop plan is \"trial\"", false, "free"), `prop plan is "trial" does not hold (found "free")`},
		{Explanation{Text: "attr age is 3", Note: "missing"}, "attr age is 3 does not hold (found missing)"},
		{Explanation{Text: "all of", Parts: []Explanation{leaf("a", true, int64(1)), leaf("b", false, int64(2)), leaf("c", false, int64(3))}}, "b does not hold (found 2)"},
		{Explanation{Text: "any of", Parts: []Explanation{leaf("a", false, int64(1)), leaf("b", false, nil)}}, "a does not hold (found 1), and b does not hold (found null)"},
		{Explanation{Text: "not", Parts: []Explanation{leaf("a", true, int64(1))}}, "a holds"},
	} {
		if got := whyNot(tt.x); got != tt.want {
			t.Errorf("%+v: %s, want %s", tt.x, got, tt.want)
		}
	}
}

func TestDescribeRun(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC)
	sent := &SendRecord{Status: SendAccepted}
	for _, tt := range []struct {
		why  Why
		want string
	}{
		{Why{Run: &Run{StartedAt: at, EndedAt: at, Status: RunCompleted, Reason: "completed"}}, "entered 2026-03-02T09:00:00Z, 0 mails sent; completed at 2026-03-02T09:00:00Z"},
		{Why{Run: &Run{StartedAt: at, EndedAt: at, Status: RunExited, Reason: "date"}, Mails: []*SendRecord{sent}}, "entered 2026-03-02T09:00:00Z, 1 mail sent; exited at 2026-03-02T09:00:00Z (date)"},
		{Why{Run: &Run{StartedAt: at, Status: RunLive, Step: "w"}, Mails: []*SendRecord{sent, sent}}, "entered 2026-03-02T09:00:00Z, 2 mails sent; now at step \"w\""},
	} {
		if got := tt.why.describeRun(); got != tt.want {
			t.Errorf("%s\nwant %s", got, tt.want)
		}
	}
	if one, two := peopleAre(1), peopleAre(2); one != "1 person is" || two != "2 people are" {
		t.Error(one, two)
	}
}
