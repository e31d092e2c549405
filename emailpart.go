package fluxly

import (
	"errors"
	htmltemplate "html/template"
	"io"
	"regexp"
	"strconv"
	"strings"
	texttemplate "text/template"
	"text/template/parse"
	"unicode"
	"unicode/utf8"

	"github.com/getfluxly/fluxly/internal/tmpl"
)

// emailPart is one compiled template of an email: its subject, preheader, or
// a body.
type emailPart struct {
	part      string
	file      string
	firstLine int
	literals  []tmpl.Literal // of all that is included, by file and line
	exec      interface {
		Execute(w io.Writer, data any) error
	}
}

// newEmailPart prepares the checked trees that main reaches. In html it also
// runs the contextual analysis of html/template, whose findings are returned.
func newEmailPart(p emailPart, trees map[string]*parse.Tree, main string, funcs map[string]any) (*emailPart, error) {
	html := p.part == "html"
	// Of the two only the one that is needed: to name the functions to it costs
	// as much as all the rest.
	var ht *htmltemplate.Template
	var tt *texttemplate.Template
	if html {
		ht = htmltemplate.New(main).Funcs(funcs).Option("missingkey=error")
	} else {
		tt = texttemplate.New(main).Funcs(funcs).Option("missingkey=error")
	}
	for name, t := range trees {
		t = t.Copy()
		if err := tmpl.Instrument(t, html); err != nil {
			return nil, err
		}
		var err error
		if html {
			_, err = ht.AddParseTree(name, t)
		} else {
			_, err = tt.AddParseTree(name, t)
		}
		if err != nil {
			return nil, err
		}
	}
	if !html {
		p.exec = tt.Lookup(main)
		return &p, nil
	}
	ht = ht.Lookup(main)
	p.exec = ht
	// html/template analyses at the first execution. This one ends at the
	// first byte; what matters is that the analysis came before.
	err := ht.Execute(refuseWrites{}, nil)
	var bad *htmltemplate.Error
	if errors.As(err, &bad) {
		return nil, err
	}
	return &p, nil
}

type refuseWrites struct{}

func (refuseWrites) Write([]byte) (int, error) { return 0, io.ErrShortWrite }

// unsafeValue is what html/template writes in place of a value that could do
// harm where it stands, such as a javascript: address in a link.
const unsafeValue = "ZgotmplZ"

// body renders a body.
func (p *emailPart) body(buf *tmpl.Buffer, email string, data *EmailData) (string, error) {
	buf.Reset(maxBodyBytes, maxTemplateSteps)
	if err := p.exec.Execute(buf, data); err != nil {
		return "", p.error(email, err)
	}
	out := string(buf.Bytes())
	if p.part == "html" && strings.Contains(out, unsafeValue) {
		return "", &TemplateError{
			Email: email, Part: p.part, File: p.file,
			Reason: "a value is not safe where it stands; in href and src only http, https, mailto and relative addresses go, and in style no more than words and numbers",
		}
	}
	if !utf8.ValidString(out) {
		out = strings.ToValidUTF8(out, "\ufffd")
	}
	if !strings.HasSuffix(out, "\n") {
		out += "\n"
	}
	return out, nil
}

// line renders a template whose output is one line of a header or of hidden
// text: line ends and other control characters in values become blanks, and
// can never start a header field of their own.
func (p *emailPart) line(buf *tmpl.Buffer, email string, data *EmailData) (string, error) {
	buf.Reset(maxBodyBytes, maxTemplateSteps)
	if err := p.exec.Execute(buf, data); err != nil {
		return "", p.error(email, err)
	}
	out := oneLine(string(buf.Bytes()))
	if n := chars(out); n > maxSubjectChars {
		return "", &TemplateError{
			Email: email, Part: p.part, File: p.file, Line: p.firstLine,
			Reason: "has " + strconv.Itoa(n) + " characters for this person, at most 2,000 go; use truncate",
		}
	}
	return out, nil
}

// oneLine makes every run of white space and control characters one blank.
func oneLine(s string) string {
	clean := true
	for i := range len(s) {
		if s[i] < ' ' || s[i] >= 0x7f || s[i] == ' ' && (i == 0 || i == len(s)-1 || s[i-1] == ' ') {
			clean = false
			break
		}
	}
	if clean {
		return s
	}
	var b strings.Builder
	blank := false
	for _, r := range s {
		switch {
		case r == utf8.RuneError:
			r = '\ufffd'
		case unicode.IsControl(r), r == ' ', r == '\u2028', r == '\u2029':
			blank = b.Len() > 0
			continue
		}
		if blank {
			b.WriteByte(' ')
			blank = false
		}
		b.WriteRune(r)
	}
	return b.String()
}

var execErrorRE = regexp.MustCompile(`^template: (.*?):(\d+)(?::\d+)?: executing (?s:.*?) at <((?s:.*?))>: ((?s:.*))$`)

// error makes a TemplateError of what execution gave.
func (p *emailPart) error(email string, err error) error {
	e := &TemplateError{Email: email, Part: p.part, File: p.file, Reason: err.Error(), Err: err}
	if m := execErrorRE.FindStringSubmatch(err.Error()); m != nil {
		e.File, e.Field, e.Reason = m[1], m[3], m[4]
		e.Line, _ = strconv.Atoi(m[2])
	}
	var ve *tmpl.ValueError
	switch {
	case errors.As(err, &ve):
		e.Field, e.Reason = ve.Source, ve.Err.Error()
	case strings.HasPrefix(e.Reason, "map has no entry for key"):
		e.Reason = `is missing for this person; give a fallback with | default "...", or ask first with {{ if has ... }}`
	case strings.HasPrefix(e.Reason, "nil pointer evaluating"), strings.HasPrefix(e.Reason, "nil data"):
		e.Reason = "is inside of something that is null for this person; ask first with {{ if has ... }}"
	case strings.HasPrefix(e.Reason, "can't evaluate field"):
		e.Reason = "is inside of something that is no group of fields for this person"
	case errors.Is(err, tmpl.ErrTooLong):
		e.Field, e.Reason = "", "makes more than 5 MB; is there a loop over a long list?"
	case errors.Is(err, tmpl.ErrTooManySteps):
		e.Field, e.Reason = "", "takes more than "+strconv.Itoa(maxTemplateSteps)+" steps; is there a loop inside a loop?"
	default:
		e.Reason = strings.TrimPrefix(e.Reason, "error calling ")
	}
	e.Reason = clip(e.Reason, 500)
	return e
}
