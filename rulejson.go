package fluxly

import (
	"strings"

	"github.com/getfluxly/fluxly/internal/rules"
	"github.com/getfluxly/fluxly/internal/value"
)

// MarshalJSON gives the stable form of c, for example
//
//	{"prop":"plan","is":"trial"}
//	{"attr":"country","not_in":["US","CA"]}
//	{"did":"login","at_least":3,"within":"168h","where":{"prop":"kind","is":"web"}}
//	{"all":[{"segment":"active"},{"not":{"func":"has_open_invoice"}}]}
//
// An operator without an operand has the value true; the zero Condition is
// null. The error lists the mistakes in c.
func (c Condition) MarshalJSON() ([]byte, error) {
	if err := conditionError(rules.Validate(c.x, rules.Check{})); err != nil {
		return nil, err
	}
	return rules.AppendJSON(make([]byte, 0, 128), c.x), nil
}

// UnmarshalJSON reads the form that MarshalJSON writes. A duration may also
// be in whole days or weeks: "7d", "2w". A key or operator that is not known
// is refused with a [*FieldError] that has its path.
func (c *Condition) UnmarshalJSON(data []byte) error {
	x, problem := rules.Decode(data)
	if problem != nil {
		return problemField(problem)
	}
	c.x = x
	return nil
}

// MarshalJSON gives {"attr":"trial_ends_at"} or {"prop":"due"}; the zero Field
// is null.
func (f Field) MarshalJSON() ([]byte, error) {
	if f.IsZero() {
		return []byte("null"), nil
	}
	return value.AppendJSON(nil, map[string]any{f.from.String(): f.key}), nil
}

// UnmarshalJSON reads the form that MarshalJSON writes.
func (f *Field) UnmarshalJSON(data []byte) error {
	m, err := decodeObject(data)
	if err != nil {
		return err
	}
	if m == nil {
		*f = Field{}
		return nil
	}
	attr, isAttr := m["attr"].(string)
	prop, isProp := m["prop"].(string)
	switch {
	case len(m) == 1 && isAttr && attr != "":
		*f = Attr(attr)
	case len(m) == 1 && isProp && prop != "":
		*f = Prop(prop)
	default:
		return fieldErrorf("field", string(data), `must be {"attr":"name"} or {"prop":"name"}`)
	}
	return nil
}

// fieldErrors is every mistake found in one input.
type fieldErrors []*FieldError

func (e fieldErrors) Error() string {
	var b strings.Builder
	for i, fe := range e {
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(fe.Error())
	}
	return b.String()
}

func (e fieldErrors) Unwrap() []error {
	errs := make([]error, len(e))
	for i, fe := range e {
		errs[i] = fe
	}
	return errs
}

// conditionError is nil when there are no problems.
func conditionError(problems []rules.Problem) error {
	if len(problems) == 0 {
		return nil
	}
	errs := make(fieldErrors, len(problems))
	for i := range problems {
		errs[i] = problemField(&problems[i])
	}
	return errs
}

func problemField(p *rules.Problem) *FieldError {
	path := p.Path
	if path == "" {
		path = "condition"
	}
	return &FieldError{Field: path, Value: clip(p.Value, 64), Reason: p.Reason}
}

func eventNameMistake(name string) string {
	if err := checkName(name); err != nil {
		return err.Reason
	}
	return ""
}
