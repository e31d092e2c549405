package fluxly

import (
	"bytes"
	"encoding/json"
	"errors"
	"strconv"
	"time"

	"github.com/getfluxly/fluxly/internal/rules"
)

// automationFormat is the version of the JSON form of an [Automation].
const automationFormat = 1

// The JSON form of an automation. It is what versions are compared by, what
// runs are pinned to in the store, and what can be kept under version control.

type automationJSON struct {
	Format    int                `json:"fluxly"`
	Name      string             `json:"name"`
	Trigger   *triggerJSON       `json:"trigger,omitempty"`
	Exit      *triggerJSON       `json:"exit,omitempty"`
	ReEntry   *reEntryJSON       `json:"re_entry,omitempty"`
	Key       string             `json:"key,omitempty"`
	OnRefused FailurePath        `json:"on_refused,omitempty"`
	Steps     Steps              `json:"steps"`
	Removed   map[string]Removal `json:"removed,omitempty"`
}

type triggerJSON struct {
	On    TriggerKind `json:"on"`
	Name  string      `json:"name"`
	Where []Condition `json:"where,omitempty"`
}

type reEntryJSON struct {
	Kind  string       `json:"kind"`
	After jsonDuration `json:"after,omitzero"`
}

type stepJSON struct {
	ID        string       `json:"id,omitempty"`
	Kind      StepKind     `json:"step"`
	Email     string       `json:"email,omitempty"`
	Duration  jsonDuration `json:"duration,omitzero"`
	Event     string       `json:"event,omitempty"`
	Where     []Condition  `json:"where,omitempty"`
	MatchKey  string       `json:"matching,omitempty"`
	FromEntry bool         `json:"since_entry,omitempty"`
	Date      *Field       `json:"date,omitempty"`
	Missing   DateRule     `json:"if_missing,omitempty"`
	Past      DateRule     `json:"if_past,omitempty"`
	Paths     []pathJSON   `json:"paths,omitempty"`
	Then      Steps        `json:"then,omitempty"`
	Else      Steps        `json:"else,omitempty"`
	Set       Traits       `json:"traits,omitempty"`
	Func      string       `json:"func,omitempty"`
}

type pathJSON struct {
	When  Condition `json:"when"`
	Steps Steps     `json:"then,omitempty"`
}

// jsonDuration is a duration as text, such as "72h".
type jsonDuration time.Duration

func (d jsonDuration) MarshalJSON() ([]byte, error) {
	return json.Marshal(rules.FormatDuration(time.Duration(d)))
}

func (d *jsonDuration) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return fieldErrorf("duration", string(b), "must be text such as \"72h\"")
	}
	v, ok := rules.ParseDuration(s)
	if !ok {
		return fieldErrorf("duration", s, "cannot be read; write it like \"72h\" or \"30m\"")
	}
	*d = jsonDuration(v)
	return nil
}

func (t Trigger) form() *triggerJSON {
	if t.IsZero() {
		return nil
	}
	return &triggerJSON{On: t.Kind, Name: t.Name, Where: t.Where}
}

func (t *triggerJSON) trigger() Trigger {
	if t == nil {
		return Trigger{}
	}
	return Trigger{Kind: t.On, Name: t.Name, Where: t.Where}
}

// MarshalJSON writes the automation in a stable form, which UnmarshalJSON
// reads back to an equal one.
func (a Automation) MarshalJSON() ([]byte, error) {
	f := automationJSON{
		Format: automationFormat, Name: a.Name, Trigger: a.Trigger.form(), Exit: a.Exit.form(), Key: a.Key,
		OnRefused: a.OnRefused, Steps: a.Steps, Removed: a.Removed,
	}
	if a.ReEntry.Kind != "" && a.ReEntry.Kind != "once" {
		f.ReEntry = &reEntryJSON{Kind: a.ReEntry.Kind, After: jsonDuration(a.ReEntry.After)}
	}
	if f.Steps == nil {
		f.Steps = Steps{}
	}
	return json.Marshal(f)
}

// UnmarshalJSON reads what MarshalJSON wrote. A format version or a field that
// this version of fluxly does not know is refused with a [*FieldError],
// because to leave a part of an automation out would change whom it mails.
func (a *Automation) UnmarshalJSON(b []byte) error {
	var v struct {
		Format *int `json:"fluxly"`
	}
	if err := json.Unmarshal(b, &v); err != nil {
		return &FieldError{Field: "automation", Reason: "is not JSON: " + err.Error(), Err: err}
	}
	if v.Format == nil {
		return fieldErrorf("fluxly", "", "is missing: it is the version of the format, %d in this program", automationFormat)
	}
	if *v.Format != automationFormat {
		return fieldErrorf("fluxly", strconv.Itoa(*v.Format), "unknown format version; this program reads version %d", automationFormat)
	}
	var f automationJSON
	if err := strictJSON(b, &f); err != nil {
		return err
	}
	*a = Automation{
		Name: f.Name, Trigger: f.Trigger.trigger(), Exit: f.Exit.trigger(), Key: f.Key, OnRefused: f.OnRefused,
		Steps: f.Steps, Removed: f.Removed,
	}
	if f.ReEntry != nil {
		a.ReEntry = ReEntry{Kind: f.ReEntry.Kind, After: time.Duration(f.ReEntry.After)}
	}
	return nil
}

// MarshalJSON writes one step.
func (s Step) MarshalJSON() ([]byte, error) {
	f := stepJSON{
		ID: s.ID, Kind: s.Kind, Email: s.Email, Duration: jsonDuration(s.Duration), Event: s.Event, Where: s.Where,
		MatchKey: s.MatchKey, FromEntry: s.FromEntry, Missing: s.Missing, Past: s.Past,
		Then: s.Yes, Else: s.No, Set: s.Set, Func: s.Func,
	}
	if !s.Date.IsZero() {
		f.Date = &s.Date
	}
	for _, p := range s.Paths {
		f.Paths = append(f.Paths, pathJSON(p))
	}
	return json.Marshal(f)
}

// UnmarshalJSON reads one step.
func (s *Step) UnmarshalJSON(b []byte) error {
	var f stepJSON
	if err := strictJSON(b, &f); err != nil {
		return err
	}
	*s = Step{
		ID: f.ID, Kind: f.Kind, Email: f.Email, Duration: time.Duration(f.Duration), Event: f.Event, Where: f.Where,
		MatchKey: f.MatchKey, FromEntry: f.FromEntry, Missing: f.Missing, Past: f.Past,
		Yes: f.Then, No: f.Else, Set: f.Set, Func: f.Func,
	}
	if f.Date != nil {
		s.Date = *f.Date
	}
	for _, p := range f.Paths {
		s.Paths = append(s.Paths, Path(p))
	}
	return nil
}

// strictJSON decodes b and refuses fields that are not known.
func strictJSON(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		var fe *FieldError
		if errors.As(err, &fe) {
			return fe
		}
		return &FieldError{Field: "automation", Reason: err.Error(), Err: err}
	}
	return nil
}
