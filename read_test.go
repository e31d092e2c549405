package fluxly

import "testing"

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
