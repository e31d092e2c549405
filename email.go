package fluxly

import (
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/getfluxly/fluxly/internal/htmltext"
	"github.com/getfluxly/fluxly/internal/tmpl"
)

// EmailData is what the templates of an email see as their dot. Values in
// Traits, Props and Run.Results are in canonical form: string, bool, nil,
// int64, float64, json.Number, []any and map[string]any.
type EmailData struct {
	// Profile is the person the mail goes to.
	Profile EmailProfile
	// Traits are the traits of Profile; render fills it when it is nil.
	Traits Traits
	// Event is the event that started the run; its zero value when the run
	// was started by something else.
	Event EmailEvent
	// Props are the properties of Event; render fills it when it is nil.
	Props Properties
	// Run is the run that sends the mail.
	Run EmailRun
	// Email is the name of the email; render fills it.
	Email string
	// Now is the time of sending. The same data with the same Now gives the
	// same bytes.
	Now time.Time
	// Subject and Preheader are those of this mail, for bodies and layouts;
	// Lang is the language of the templates used, such as "pt-BR", empty for
	// the default ones. Render fills all three.
	Subject, Preheader, Lang string
}

// EmailProfile is a person as templates see them.
type EmailProfile struct {
	// ID is fluxly's id of the profile, ExternalID the program's own.
	ID, ExternalID string
	Traits         Traits
	// CreatedAt is when the person was first heard of.
	CreatedAt time.Time
}

// EmailEvent is an event as templates see it.
type EmailEvent struct {
	Name       string
	Properties Properties
	Timestamp  time.Time
}

// EmailRun is a run as templates see it.
type EmailRun struct {
	ID, Automation string
	StartedAt      time.Time
	// Results are what the program's own steps returned, by step id.
	Results map[string]any
}

// EmailOptions sets how templates are read. The zero value is the default.
type EmailOptions struct {
	// Schema lists the keys that templates may read; see [EmailSchema].
	Schema EmailSchema
	// Funcs are further functions for the templates, by name. Each must be a
	// func with one result, or a result and an error, and should give the same
	// result for the same arguments: a preview is the mail only as far as they
	// do. One of the names that fluxly provides is refused.
	Funcs map[string]any
	// UTM adds campaign parameters to links; see [UTM].
	UTM UTM
}

// EmailSchema lists what templates may read. A key that is not listed is
// refused when the templates are loaded, so a misspelt one never reaches a
// person. A nil list allows every key.
type EmailSchema struct {
	// Traits are the keys of .Traits.
	Traits []string
	// Properties are the keys of .Props by the name of the event. Which event
	// an email gets depends on the automation that sends it: [New] checks each
	// email against the trigger of that automation; the templates alone are
	// checked against all events together.
	Properties map[string][]string
}

// Emails are templates, read and checked, ready to be rendered. The engine
// makes its own from Config.Emails; a program makes one to preview its mails,
// or to compare them with golden files in its tests. It may be used from many
// goroutines.
type Emails struct{ set *emailSet }

// LoadEmails reads every template below fsys and checks it. The error is a
// [*ConfigError] with all mistakes, each with its file and line. Files are
// read once; later changes are not seen.
//
// NAME.html and NAME.txt are the two parts of the email NAME; what stands in
// the text part is made from the html one when there is none. The directory
// does not matter. A header between two lines of --- holds Subject and other
// settings. _layout.html and _layout.txt surround every email in their
// directory and below, and other names with an underscore are partials.
//
// Embed them by "//go:embed all:emails", with all:, because go:embed leaves
// files whose names begin with an underscore out of a directory without a word.
func LoadEmails(fsys fs.FS, options EmailOptions) (*Emails, error) {
	set, problems := loadEmails(fsys, options)
	if len(problems) > 0 {
		return nil, &ConfigError{Problems: problems}
	}
	return &Emails{set}, nil
}

// Names returns the names of all emails in sorted order.
func (e *Emails) Names() []string { return e.set.names() }

// Render makes one mail of a template and data, which is not changed; nil is
// no data. An
// unknown name is [ErrNotFound]; any other error is a [*TemplateError]. The
// same data gives the same bytes.
func (e *Emails) Render(name string, data *EmailData) (RenderedEmail, error) {
	r, err := e.set.render(name, data)
	if err != nil {
		return RenderedEmail{}, err
	}
	return RenderedEmail(r), nil
}

// RenderedEmail is an email made for one person.
type RenderedEmail struct {
	Subject string
	// HTML is empty when the email has no html part. Text is always there.
	HTML, Text string
	// EmailSettings are those of the template; empty fields leave the
	// engine's and the sender's defaults.
	EmailSettings
}

// EmailSettings are the settings in the header of a template.
type EmailSettings struct {
	// From and ReplyTo are mailboxes, such as "Ann <ann@acme.test>".
	From, ReplyTo string
	// Stream is the Message Stream.
	Stream string
	// Topic is what a person can unsubscribe from.
	Topic string
	// Tag is Postmark's tag.
	Tag string
	// Transactional mail may go to a transactional stream and to people who
	// unsubscribed.
	Transactional bool
	// Lang is the language of the templates used, such as "pt-BR"; empty for
	// the default ones.
	Lang string
	// TrackOpens and TrackLinks are Postmark's tracking.
	TrackOpens OpenTracking
	TrackLinks LinkTracking
}

// rendered is one mail as the engine takes it.
type rendered RenderedEmail

// TemplateError is an email that could not be rendered for one person, such
// as by a missing trait. Trying again with the same data fails alike.
type TemplateError struct {
	// Email is the name of the email, Part is "subject", "preheader", "html"
	// or "text".
	Email, Part string
	// File and Line are where in the templates it failed; Line is 0 when it
	// is not about one line.
	File string
	Line int
	// Field is the expression that failed, such as ".Traits.first_name".
	Field string
	// Reason says what is wrong and what to do next.
	Reason string
	// Err is the cause, if there is one.
	Err error
}

// Error names the email, the part, file and line, the field and the reason.
func (e *TemplateError) Error() string {
	s := fmt.Sprintf("email %q: %s", e.Email, e.Part)
	if e.File != "" {
		s += ": " + e.File
		if e.Line > 0 {
			s += fmt.Sprintf(":%d", e.Line)
		}
	}
	if e.Field != "" {
		s += ": " + e.Field
	}
	return s + ": " + e.Reason
}

// Unwrap returns the cause.
func (e *TemplateError) Unwrap() error { return e.Err }

// maxTemplateSteps bounds the pieces of output of one part. A mail has
// hundreds; a loop that runs away reaches it within a second.
const maxTemplateSteps = 1_000_000

// emailBuffers keeps buffers of usual size for the next mail.
var emailBuffers = sync.Pool{New: func() any { return new(tmpl.Buffer) }}

const keptBufferBytes = 256 << 10

// emailSet is all emails by name.
type emailSet struct {
	emails map[string]*email
	sorted []string
	utm    UTM
	// underscored: some file is a layout or partial.
	underscored bool
}

// has reports whether there is an email of this name.
func (s *emailSet) has(name string) bool { return s.emails[name] != nil }

// names returns all names in sorted order; it must not be changed.
func (s *emailSet) names() []string { return s.sorted }

// settings returns the settings of an email, zero for an unknown name.
func (s *emailSet) settings(name string) EmailSettings {
	if e := s.emails[name]; e != nil {
		return e.variants[0].settings
	}
	return EmailSettings{}
}

// email is one email in all its languages; the first variant is the default.
type email struct {
	name     string
	variants []*emailVariant
	uses     map[emailUse]bool
}

// emailVariant is an email in one language.
type emailVariant struct {
	lang      string
	settings  EmailSettings
	subject   *emailPart
	preheader *emailPart // nil when there is none
	html      *emailPart // nil when there is none
	text      *emailPart // nil when it is made from html
	noUTM     bool
	// file names the variant in errors.
	file string
}

// literals returns Postmark's literals in all parts.
func (v *emailVariant) literals() []tmpl.Literal {
	var all []tmpl.Literal
	for _, p := range []*emailPart{v.subject, v.preheader, v.html, v.text} {
		if p != nil {
			all = append(all, p.literals...)
		}
	}
	return all
}

// unsubscribes reports whether a body holds Postmark's unsubscribe link.
func (v *emailVariant) unsubscribes() bool {
	for _, p := range []*emailPart{v.html, v.text} {
		if p != nil && slices.ContainsFunc(p.literals, func(l tmpl.Literal) bool { return l.Name == unsubscribeLiteral }) {
			return true
		}
	}
	return false
}

// variant chooses the language by the trait "locale", else "language": the
// variant that fits best, else the default.
func (e *email) variant(d *EmailData) *emailVariant {
	best := e.variants[0]
	if len(e.variants) == 1 {
		return best
	}
	want, _ := d.Traits["locale"].(string)
	if want == "" {
		want, _ = d.Traits["language"].(string)
	}
	want, _, _ = strings.Cut(want, ".") // pt_BR.UTF-8
	want = strings.ReplaceAll(strings.TrimSpace(want), "_", "-")
	rank := 0
	for _, v := range e.variants[1:] {
		if r := langRank(want, v.lang); r > rank {
			best, rank = v, r
		}
	}
	return best
}

// render makes one mail. It does not change data.
func (s *emailSet) render(name string, data *EmailData) (rendered, error) {
	e := s.emails[name]
	if e == nil {
		return rendered{}, fmt.Errorf("email %q: %w; add %s.html to the templates%s", name, ErrNotFound, name, tmpl.Suggest(name, s.sorted))
	}
	var d EmailData
	if data != nil {
		d = *data
	}
	d.Email = name
	if d.Traits == nil {
		d.Traits = d.Profile.Traits
	}
	if d.Props == nil {
		d.Props = d.Event.Properties
	}
	d.Profile.Traits, d.Event.Properties = d.Traits, d.Props
	v := e.variant(&d)

	buf := emailBuffers.Get().(*tmpl.Buffer)
	defer func() {
		if buf.Cap() <= keptBufferBytes {
			emailBuffers.Put(buf)
		}
	}()
	out := rendered{EmailSettings: v.settings}
	d.Subject, d.Preheader, d.Lang = "", "", v.settings.Lang
	var err error
	if out.Subject, err = v.subject.line(buf, name, &d); err != nil {
		return rendered{}, err
	}
	if out.Subject == "" {
		return rendered{}, &TemplateError{Email: name, Part: v.subject.part, File: v.subject.file, Line: v.subject.firstLine, Reason: "is empty for this person"}
	}
	d.Subject = out.Subject
	if v.preheader != nil {
		if d.Preheader, err = v.preheader.line(buf, name, &d); err != nil {
			return rendered{}, err
		}
	}
	if v.html != nil {
		if out.HTML, err = v.html.body(buf, name, &d); err != nil {
			return rendered{}, err
		}
	}
	if v.text != nil {
		if out.Text, err = v.text.body(buf, name, &d); err != nil {
			return rendered{}, err
		}
	}
	if len(s.utm.Domains) > 0 && !v.noUTM {
		out.HTML, out.Text = s.utm.apply(out.HTML, out.Text, &d)
	}
	if v.text == nil {
		out.Text = htmltext.Convert(out.HTML)
	}
	return out, nil
}
