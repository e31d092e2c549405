package fluxly

import (
	"errors"
	"io/fs"
	"path"
	"regexp"
	"strconv"
	"strings"

	"github.com/getfluxly/fluxly/internal/tmpl"
)

// maxTemplateBytes bounds one file of templates.
const maxTemplateBytes = 1 << 20

// templateFile is one file: its header, and its body from line firstLine on.
type templateFile struct {
	path      string
	dir       string
	name      string // without underscore, language and extension
	partial   bool
	lang      string // empty is the default
	header    []headerField
	body      string
	firstLine int
}

// headerField is one line of the header of a template.
type headerField struct {
	key, value string
	line       int
}

// The keys of the header of a template.
const (
	headerSubject       = "Subject"
	headerPreheader     = "Preheader"
	headerFrom          = "From"
	headerReplyTo       = "Reply-To"
	headerStream        = "Stream"
	headerTopic         = "Topic"
	headerTag           = "Tag"
	headerTransactional = "Transactional"
	headerTrackOpens    = "Track-Opens"
	headerTrackLinks    = "Track-Links"
	headerLayout        = "Layout"
	headerUTM           = "UTM"
)

var headerKeys = []string{
	headerSubject, headerPreheader, headerFrom, headerReplyTo, headerStream, headerTopic, headerTag,
	headerTransactional, headerTrackOpens, headerTrackLinks, headerLayout, headerUTM,
}

var (
	emailNameRE = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$`)
	langRE      = regexp.MustCompile(`^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*$`)
)

// fileProblem is a mistake at a line of a template; line 0 is the whole file.
func fileProblem(file string, line int, reason string) Problem {
	field := "emails " + file
	if line > 0 {
		field += ":" + strconv.Itoa(line)
	}
	return Problem{Field: field, Reason: reason}
}

// readTemplates reads all templates below fsys, those for html and those for
// text. Files of other kinds may lie beside them.
func readTemplates(fsys fs.FS) (html, text []*templateFile, problems []Problem) {
	if fsys == nil {
		return nil, nil, []Problem{{Field: "emails", Reason: "the file system is nil; embed a directory of templates"}}
	}
	err := fs.WalkDir(fsys, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			problems = append(problems, fileProblem(p, 0, "cannot be read: "+err.Error()))
			if d != nil && d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if d.IsDir() || strings.HasPrefix(d.Name(), ".") {
			if d.IsDir() && p != "." && strings.HasPrefix(d.Name(), ".") {
				return fs.SkipDir
			}
			return nil
		}
		ext := path.Ext(p)
		switch ext {
		case ".html", ".txt":
		case ".htm", ".HTML", ".xhtml", ".gohtml", ".tmpl", ".text", ".TXT", ".gotxt":
			problems = append(problems, fileProblem(p, 0, "is not read as a template; name the html part NAME.html and the text part NAME.txt"))
			return nil
		default:
			return nil
		}
		f, bad := readTemplate(fsys, p)
		if problems = append(problems, bad...); f == nil {
			return nil
		}
		if ext == ".html" {
			html = append(html, f)
		} else {
			text = append(text, f)
		}
		return nil
	})
	if err != nil {
		problems = append(problems, fileProblem(".", 0, "cannot be read: "+err.Error()))
	}
	return html, text, problems
}

func readTemplate(fsys fs.FS, p string) (*templateFile, []Problem) {
	f := &templateFile{path: p, dir: path.Dir(p)}
	base := strings.TrimSuffix(path.Base(p), path.Ext(p))
	base, f.partial = strings.CutPrefix(base, "_")
	f.name, f.lang, _ = strings.Cut(base, ".")
	if !emailNameRE.MatchString(f.name) {
		return nil, []Problem{fileProblem(p, 0, "the name "+strconv.Quote(clip(f.name, 80))+" must be letters, digits, - and _, at most 64")}
	}
	if f.lang != "" && !langRE.MatchString(f.lang) {
		return nil, []Problem{fileProblem(p, 0, strconv.Quote(clip(f.lang, 40))+" is not a language such as pt or pt-BR; the form is NAME.html or NAME.LANGUAGE.html")}
	}
	info, err := fs.Stat(fsys, p)
	if err == nil && info.Size() > maxTemplateBytes {
		err = errors.New("is larger than 1 MiB")
	}
	var data []byte
	if err == nil {
		data, err = fs.ReadFile(fsys, p)
	}
	if err != nil {
		return nil, []Problem{fileProblem(p, 0, "cannot be read: "+err.Error())}
	}
	src := strings.TrimPrefix(string(data), "\ufeff")
	src = strings.ReplaceAll(src, "\r\n", "\n")
	header, body, firstLine, bad := parseHeader(src)
	var problems []Problem
	for _, b := range bad {
		problems = append(problems, fileProblem(p, b.Line, b.Reason))
	}
	if f.partial && len(header) > 0 {
		problems = append(problems, fileProblem(p, header[0].line, "a layout or partial has no header of its own; settings belong in the emails"))
	}
	// The line end that editors put at the end of a file is not meant to show
	// where a layout puts the file.
	f.header, f.body, f.firstLine = header, strings.TrimRight(body, "\n"), firstLine
	return f, problems
}

// parseHeader parts the header of a template from its body. The header is the
// lines between a first line "---" and the next "---", each "Key: value".
// Empty lines and lines that start with # are skipped. firstLine is the line
// of the file on which body starts.
func parseHeader(src string) (header []headerField, body string, firstLine int, problems []tmpl.Problem) {
	problem := func(line int, reason string) {
		problems = append(problems, tmpl.Problem{Line: line, Reason: reason})
	}
	first, rest, _ := strings.Cut(src, "\n")
	if strings.TrimRight(first, " \t") != "---" {
		if key, _, ok := strings.Cut(first, ":"); ok && headerKey(key) != "" {
			problem(1, "looks like a header; put it between two lines of ---")
		}
		return nil, src, 1, problems
	}
	line, closed := 1, false
	seen := map[string]bool{}
	for rest != "" {
		var l string
		l, rest, _ = strings.Cut(rest, "\n")
		line++
		l = strings.TrimSpace(l)
		if l == "---" {
			closed = true
			break
		}
		if l == "" || strings.HasPrefix(l, "#") {
			continue
		}
		key, value, ok := strings.Cut(l, ":")
		name := headerKey(key)
		value = strings.TrimSpace(value)
		switch {
		case !ok:
			problem(line, strconv.Quote(clip(l, 60))+` is not of the form "Key: value"`)
		case name == "":
			problem(line, "there is no setting "+strconv.Quote(clip(strings.TrimSpace(key), 40))+tmpl.Suggest(strings.TrimSpace(key), headerKeys))
		case seen[name]:
			problem(line, name+" is set twice")
		case value == "":
			problem(line, name+" has no value; remove the line to leave it unset")
		case len(value) > 1 && (value[0] == '"' || value[0] == '\'') && value[len(value)-1] == value[0]:
			problem(line, name+" is in quotes, which would be part of it; remove them")
		default:
			header = append(header, headerField{name, value, line})
		}
		seen[name] = name != ""
	}
	if !closed {
		problem(1, "the header has no end; close it with a line of ---")
		return header, "", line + 1, problems
	}
	return header, rest, line + 1, problems
}

// headerKey returns the way a key is written here, empty for an unknown one.
func headerKey(key string) string {
	key = strings.TrimSpace(key)
	for _, k := range headerKeys {
		if strings.EqualFold(k, key) {
			return k
		}
	}
	return ""
}

// settings reads the header fields that are not templates.
func (f *templateFile) settings() (EmailSettings, []Problem) {
	var s EmailSettings
	var problems []Problem
	for _, h := range f.header {
		var err error
		switch h.key {
		case headerFrom:
			s.From = h.value
			_, err = checkMailbox(h.key, h.value, true)
		case headerReplyTo:
			s.ReplyTo = h.value
			_, err = checkMailbox(h.key, h.value, true)
		case headerStream:
			s.Stream = h.value
			err = checkStreamID(h.value)
		case headerTopic:
			s.Topic = h.value
			if !emailNameRE.MatchString(h.value) {
				err = fieldErrorf("topic", h.value, "must be letters, digits, - and _, at most 64")
			}
		case headerTag:
			s.Tag = h.value
			if n := chars(h.value); n > maxTagChars {
				err = fieldErrorf("tag", h.value, "has %d characters, at most 1,000 go", n)
			}
		case headerTransactional:
			s.Transactional, err = parseYes(h.value)
		case headerTrackOpens:
			var on bool
			if on, err = parseYes(h.value); on {
				s.TrackOpens = OpensTracked
			} else {
				s.TrackOpens = OpensUntracked
			}
		case headerUTM:
			_, err = parseYes(h.value)
		case headerTrackLinks:
			s.TrackLinks, err = parseLinkTracking(h.value)
		}
		if err != nil {
			reason := err.Error()
			var fe *FieldError
			if errors.As(err, &fe) {
				reason = strconv.Quote(fe.Value) + ": " + fe.Reason
			}
			problems = append(problems, fileProblem(f.path, h.line, h.key+" "+reason))
		}
	}
	return s, problems
}

func parseYes(s string) (bool, error) {
	switch strings.ToLower(s) {
	case "true", "yes":
		return true, nil
	case "false", "no":
		return false, nil
	}
	return false, fieldErrorf("", s, "must be true or false")
}

func parseLinkTracking(s string) (LinkTracking, error) {
	for _, v := range []LinkTracking{LinksUntracked, LinksHTMLAndText, LinksHTMLOnly, LinksTextOnly} {
		if strings.EqualFold(string(v), s) {
			return v, nil
		}
	}
	return "", fieldErrorf("", s, "must be None, HtmlAndText, HtmlOnly or TextOnly")
}

// field returns a header field, nil when it is not there.
func (f *templateFile) field(key string) *headerField {
	if f == nil {
		return nil
	}
	for i := range f.header {
		if f.header[i].key == key {
			return &f.header[i]
		}
	}
	return nil
}
