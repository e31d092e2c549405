package fluxly

import (
	"strings"
	"time"

	"github.com/getfluxly/fluxly/internal/rules"
)

// Explanation says why a condition holds for a person or not: the tree of its
// parts, each with what was looked at. All parts are evaluated, also those
// that a decision did not reach.
type Explanation struct {
	// Text is the condition, or "all of", "any of", "not" above its parts.
	Text string `json:"text"`
	// Holds is the verdict.
	Holds bool `json:"holds"`
	// Value is what was looked at: the value of the field, or how many events
	// were counted. It is nil when the value is null, and when there is none.
	Value any `json:"value,omitempty"`
	// Note says why a value could not be tested: "missing", "null", or that
	// it has another type.
	Note string `json:"note,omitempty"`
	// NextChange is when the verdict may change by time alone; zero when it
	// cannot.
	NextChange time.Time     `json:"next_change,omitzero"`
	Parts      []Explanation `json:"parts,omitempty"`
}

// explain evaluates every part of the rule; void when env.Err is set.
func (r *rule) explain(env *ruleEnv) Explanation { return explanationOf(r.r.Explain(env)) }

func explanationOf(e rules.Explanation) Explanation {
	out := Explanation{Text: e.Text, Holds: e.Verdict, Value: e.Value, Note: e.Note, NextChange: e.Next}
	for _, p := range e.Parts {
		out.Parts = append(out.Parts, explanationOf(p))
	}
	return out
}

// String writes the tree for a terminal, one part a line, without a newline
// at the end.
func (e Explanation) String() string {
	var b strings.Builder
	e.write(&b, 0)
	return b.String()
}

func (e *Explanation) write(b *strings.Builder, depth int) {
	if depth > 0 {
		b.WriteByte('\n')
	}
	b.WriteString(strings.Repeat("  ", depth))
	if e.Holds {
		b.WriteString("yes  ")
	} else {
		b.WriteString("no   ")
	}
	b.WriteString(e.Text)
	switch {
	case e.Note != "" && e.Value != nil:
		b.WriteString(": " + rules.ValueText(e.Value) + " " + e.Note)
	case e.Note != "":
		b.WriteString(": " + e.Note)
	case e.Value != nil && len(e.Parts) == 0:
		b.WriteString(": " + rules.ValueText(e.Value))
	}
	if !e.NextChange.IsZero() {
		b.WriteString(" (may change at " + e.NextChange.Format(time.RFC3339Nano) + ")")
	}
	for i := range e.Parts {
		e.Parts[i].write(b, depth+1)
	}
}
