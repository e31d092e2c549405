package fluxly

import (
	"cmp"
	"errors"
	htmltemplate "html/template"
	"io/fs"
	"maps"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/template/parse"

	"github.com/getfluxly/fluxly/internal/tmpl"
)

// loadEmails reads and checks all templates below fsys. When there are
// problems the set holds the emails without one.
func loadEmails(fsys fs.FS, o EmailOptions) (*emailSet, []Problem) {
	l := &emailLoader{schema: o.Schema, known: map[Problem]bool{}, trees: map[*templateFile]map[string]*parse.Tree{}}
	l.useFuncs(o.Funcs)
	html, text, problems := readTemplates(fsys)
	l.report(problems...)
	l.html, l.text = l.parseAll(html), l.parseAll(text)
	l.report(o.UTM.problems()...)
	partial := func(f *templateFile) bool { return f.partial }
	set := &emailSet{
		emails: map[string]*email{}, utm: o.UTM,
		underscored: slices.ContainsFunc(html, partial) || slices.ContainsFunc(text, partial),
	}
	for _, g := range l.group() {
		if e := l.compile(g); e != nil {
			set.emails[g.name] = e
			set.sorted = append(set.sorted, g.name)
		}
	}
	slices.Sort(set.sorted)
	slices.SortStableFunc(l.problems, func(a, b Problem) int { return cmp.Compare(fieldOrder(a.Field), fieldOrder(b.Field)) })
	return set, l.problems
}

var fieldLineRE = regexp.MustCompile(`\d+$`)

// fieldOrder is a key by which problems sort by file, then by line.
func fieldOrder(field string) string {
	return fieldLineRE.ReplaceAllStringFunc(field, func(n string) string {
		return strings.Repeat("0", max(0, 9-len(n))) + n
	})
}

// emailLoader collects what stands in the files and what is wrong with it.
type emailLoader struct {
	schema   EmailSchema
	funcs    map[string]any
	exec     map[string]any
	html     []*templateFile
	text     []*templateFile
	trees    map[*templateFile]map[string]*parse.Tree
	problems []Problem
	known    map[Problem]bool
}

// report adds problems; a mistake in a layout shows in every email, but is
// one mistake.
func (l *emailLoader) report(problems ...Problem) {
	for _, p := range problems {
		if !l.known[p] {
			l.known[p] = true
			l.problems = append(l.problems, p)
		}
	}
}

var funcNameRE = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_]*$`)

func (l *emailLoader) useFuncs(own map[string]any) {
	l.funcs = tmpl.Funcs()
	for _, name := range slices.Sorted(maps.Keys(own)) {
		t := reflect.TypeOf(own[name])
		reason := ""
		switch {
		case !funcNameRE.MatchString(name):
			reason = "the name must be a letter, then letters, digits and _"
		case l.funcs[name] != nil || tmpl.Reserved(name):
			reason = "the name is taken by a function of fluxly or of Go's templates"
		case t == nil || t.Kind() != reflect.Func:
			reason = "is not a func"
		case t.NumOut() != 1 && (t.NumOut() != 2 || t.Out(1) != reflect.TypeFor[error]()):
			reason = "must return one value, or a value and an error"
		}
		if reason != "" {
			l.report(Problem{Field: "email function " + strconv.Quote(name), Reason: reason})
			continue
		}
		l.funcs[name] = own[name]
	}
	l.exec = tmpl.ExecFuncs(l.funcs)
}

// parseAll parses each file once and drops those that cannot be.
func (l *emailLoader) parseAll(files []*templateFile) []*templateFile {
	for _, f := range files {
		trees, bad := tmpl.Parse(f.path, f.body, f.firstLine)
		if bad != nil {
			l.report(fileProblem(bad.File, bad.Line, bad.Reason))
			trees = nil
		}
		l.trees[f] = trees
	}
	return files
}

// emailGroup is all files of one email, by language.
type emailGroup struct {
	name  string
	langs map[string]*emailSource
}

// emailSource are the two parts of an email in one language.
type emailSource struct {
	lang       string
	html, text *templateFile
}

// main is the file that names the email in error messages.
func (s *emailSource) main() *templateFile {
	if s.html != nil {
		return s.html
	}
	return s.text
}

// group puts the files of each email together, sorted by name.
func (l *emailLoader) group() []*emailGroup {
	byName := map[string]*emailGroup{}
	add := func(f *templateFile, part func(*emailSource) **templateFile) {
		if f.partial {
			return
		}
		g := byName[f.name]
		if g == nil {
			g = &emailGroup{name: f.name, langs: map[string]*emailSource{}}
			byName[f.name] = g
		}
		key := strings.ToLower(f.lang)
		s := g.langs[key]
		if s == nil {
			s = &emailSource{lang: f.lang}
			g.langs[key] = s
		}
		slot := part(s)
		if *slot != nil {
			l.report(fileProblem(f.path, 0, "is the same part of email "+strconv.Quote(f.name)+" as "+(*slot).path+"; names of emails do not count their directory"))
			return
		}
		*slot = f
	}
	for _, f := range l.html {
		add(f, func(s *emailSource) **templateFile { return &s.html })
	}
	for _, f := range l.text {
		add(f, func(s *emailSource) **templateFile { return &s.text })
	}
	groups := slices.Collect(maps.Values(byName))
	slices.SortFunc(groups, func(a, b *emailGroup) int { return strings.Compare(a.name, b.name) })
	return groups
}

// compile makes an email of its files; nil when something is wrong.
func (l *emailLoader) compile(g *emailGroup) *email {
	before := len(l.problems)
	e := &email{name: g.name, uses: map[emailUse]bool{}}
	def := g.langs[""]
	if def == nil {
		first := g.langs[slices.Min(slices.Collect(maps.Keys(g.langs)))]
		l.report(fileProblem(first.main().path, 0, "has no default to fall back to; add "+g.name+path.Ext(first.main().path)+" for all other languages"))
		return nil
	}
	for _, key := range slices.Sorted(maps.Keys(g.langs)) { // the default sorts first
		src := g.langs[key]
		if def.html != nil && src.html == nil {
			l.report(fileProblem(src.text.path, 0, "is a text part without an html part in its language, but "+def.html.path+" has one"))
		}
		e.variants = append(e.variants, l.variant(e, src, def))
	}
	if len(l.problems) > before || slices.Contains(e.variants, nil) {
		return nil
	}
	return e
}

// variant compiles an email in one language. Settings that it does not name
// are those of the default.
func (l *emailLoader) variant(e *email, src, def *emailSource) *emailVariant {
	v := &emailVariant{lang: strings.ToLower(src.lang), settings: l.settings(src, def), file: src.main().path}
	v.settings.Lang = src.lang
	for _, s := range []*emailSource{src, def} {
		if h, _ := l.header(s, headerUTM); h != nil {
			on, err := parseYes(h.value)
			v.noUTM = err == nil && !on
			break
		}
	}
	var subject string
	if h, f := l.header(src, headerSubject); h == nil {
		l.report(fileProblem(src.main().path, 1, "has no subject; start the file with a line of ---, a line \"Subject: ...\", and a line of ---"))
	} else {
		subject = h.value
		v.subject = l.part(e, emailPart{part: "subject", file: f.path, firstLine: h.line}, h.value)
	}
	pre, preFile := l.header(src, headerPreheader)
	if pre != nil {
		v.preheader = l.part(e, emailPart{part: "preheader", file: preFile.path, firstLine: pre.line}, pre.value)
	}
	usesPreheader := false
	if src.html != nil {
		v.html, usesPreheader = l.body(e, src, src.html, "html", l.html)
	}
	if src.text != nil {
		v.text, _ = l.body(e, src, src.text, "text", l.text)
	}
	if v.html != nil && pre != nil && !usesPreheader {
		l.report(fileProblem(preFile.path, pre.line, "Preheader is set, but nothing shows it; put {{ .Preheader }} into the html part or its layout"))
	}
	if src.html == nil && pre != nil {
		l.report(fileProblem(preFile.path, pre.line, "Preheader is set, but there is no html part to hold it"))
	}
	if subject == "" || v.subject == nil || v.html == nil && src.html != nil || v.text == nil && src.text != nil {
		return nil
	}
	return v
}

// header finds a header field in the html part, then in the text part.
func (l *emailLoader) header(src *emailSource, key string) (*headerField, *templateFile) {
	if h := src.html.field(key); h != nil {
		return h, src.html
	}
	return src.text.field(key), src.text
}

// settings joins the headers of both parts, and of the default language.
func (l *emailLoader) settings(src, def *emailSource) EmailSettings {
	merged := &templateFile{path: src.main().path}
	own := map[string]*headerField{}
	for _, f := range []*templateFile{src.html, src.text} {
		if f == nil {
			continue
		}
		for i := range f.header {
			h := &f.header[i]
			// The layouts of the two parts are two things.
			if other := own[h.key]; other != nil && other.value != h.value && h.key != headerLayout {
				l.report(fileProblem(f.path, h.line, h.key+" is "+strconv.Quote(clip(other.value, 40))+" in "+src.html.path+"; set it in one of the two"))
			}
			own[h.key] = h
		}
		_, bad := f.settings()
		l.report(bad...)
	}
	for _, key := range headerKeys {
		h := own[key]
		if src != def {
			d, _ := l.header(def, key)
			switch {
			case h == nil:
				h = d
			case (key == headerStream || key == headerTopic || key == headerTransactional) && (d == nil || d.value != h.value):
				l.report(fileProblem(src.main().path, h.line, key+" must be the same in all languages; set it in "+def.main().path))
			}
		}
		if h != nil {
			merged.header = append(merged.header, *h)
		}
	}
	s, _ := merged.settings()
	return s
}

// contentName is the template that a layout shows: the body of the email.
const contentName = "content"

// part compiles a template of one line.
func (l *emailLoader) part(e *email, p emailPart, src string) *emailPart {
	parsed, bad := tmpl.Parse(p.file, src, p.firstLine)
	if bad != nil {
		l.report(fileProblem(p.file, bad.Line, p.part+": "+bad.Reason))
		return nil
	}
	trees := map[string]*parse.Tree{contentName: parsed[p.file]}
	part, _ := l.finish(e, p, trees, contentName)
	return part
}

// body compiles a body together with its layout and partials.
func (l *emailLoader) body(e *email, src *emailSource, f *templateFile, kind string, files []*templateFile) (part *emailPart, usesPreheader bool) {
	own := l.trees[f]
	if own == nil {
		return nil, false
	}
	trees, ok := l.partials(f, files)
	if !ok {
		return nil, false
	}
	if t := own[contentName]; t == nil {
		trees[contentName] = own[f.path]
	} else if !parse.IsEmptyTree(own[f.path].Root) {
		l.report(fileProblem(f.path, f.firstLine, `defines "content" and has a body beside it; all outside of define is the content`))
		return nil, false
	}
	var defined []string
	for name, t := range own {
		if name == f.path {
			continue
		}
		trees[name] = t
		if name != contentName {
			defined = append(defined, name)
		}
	}
	main, ok := l.layout(f, trees)
	if !ok {
		return nil, false
	}
	p := emailPart{part: kind, file: f.path, firstLine: f.firstLine}
	before := len(l.problems)
	part, check := l.finish(e, p, trees, main)
	if len(l.problems) > before {
		return nil, check.preheader
	}
	if part != nil && main != contentName && !check.reached[contentName] {
		l.report(fileProblem(trees[main].ParseName, 0, `is a layout, but does not show the email; put {{ template "content" . }} where it belongs`))
	}
	slices.Sort(defined)
	for _, name := range defined {
		if !check.reached[name] {
			l.report(fileProblem(f.path, 0, "defines "+strconv.Quote(name)+", which nothing shows; is there a block of another name in the layout?"))
		}
	}
	return part, check.preheader
}

// layout names the template that surrounds f.
func (l *emailLoader) layout(f *templateFile, trees map[string]*parse.Tree) (string, bool) {
	h := f.field(headerLayout)
	name := "_layout"
	switch {
	case h == nil && trees[name] == nil:
		return contentName, true
	case h == nil:
	case strings.EqualFold(h.value, "none"):
		return contentName, true
	default:
		name = "_" + strings.TrimPrefix(h.value, "_")
		if trees[name] == nil {
			l.report(fileProblem(f.path, h.line, "there is no layout "+name+path.Ext(f.path)+" in the directory of the email or above"))
			return "", false
		}
	}
	return name, true
}

// partials collects the templates that a file may call: of each partial the
// one in the nearest directory, in the nearest language.
func (l *emailLoader) partials(f *templateFile, files []*templateFile) (map[string]*parse.Tree, bool) {
	best := map[string]*templateFile{}
	for _, p := range files {
		if !p.partial || !above(p.dir, f.dir) || langRank(f.lang, p.lang) < 0 {
			continue
		}
		if old := best[p.name]; old == nil || nearer(p, old, f) {
			best[p.name] = p
		}
	}
	trees, from := map[string]*parse.Tree{}, map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(best)) {
		p := best[name]
		parsed := l.trees[p]
		if parsed == nil {
			return nil, false // reported when it was parsed
		}
		for def, t := range parsed {
			if def == p.path {
				def = "_" + name
			}
			if other, taken := from[def]; taken {
				l.report(fileProblem(p.path, 0, "defines "+strconv.Quote(def)+", which "+other+" defines too"))
				return nil, false
			}
			trees[def], from[def] = t, p.path
		}
	}
	return trees, true
}

// nearer tells whether partial a is to be preferred to b for a file.
func nearer(a, b, f *templateFile) bool {
	if a.dir != b.dir {
		return len(a.dir) > len(b.dir) || b.dir == "."
	}
	return langRank(f.lang, a.lang) > langRank(f.lang, b.lang)
}

// above tells whether dir is parent or one of its subdirectories.
func above(parent, dir string) bool {
	return parent == "." || parent == dir || strings.HasPrefix(dir, parent+"/")
}

// langRank tells how well a file in language have serves a reader of want:
// the number of subtags that fit, -1 when it does not serve.
func langRank(want, have string) int {
	if have == "" {
		return 0
	}
	want, have = strings.ToLower(want), strings.ToLower(have)
	if want == have || strings.HasPrefix(want, have+"-") {
		return 1 + strings.Count(have, "-")
	}
	return -1
}

// emailUse is a trait or property that an email reads, and where.
type emailUse struct {
	trait bool
	key   string
	file  string
	line  int
}

// emailCheck is what checking a part found.
type emailCheck struct {
	reached   map[string]bool
	preheader bool
}

// finish checks a part against the data it will get and compiles it.
func (l *emailLoader) finish(e *email, p emailPart, trees map[string]*parse.Tree, main string) (*emailPart, emailCheck) {
	var found emailCheck
	c := tmpl.Checker{Funcs: l.funcs, OnKey: func(t reflect.Type, key, file string, line int) string {
		switch t {
		case reflect.TypeFor[Traits]():
			e.uses[emailUse{true, key, file, line}] = true
			return l.schema.trait(key)
		case reflect.TypeFor[Properties]():
			e.uses[emailUse{false, key, file, line}] = true
			return l.schema.property(key)
		case reflect.TypeFor[EmailData]():
			if (key == "Subject" || key == "Preheader") && p.part != "html" && p.part != "text" {
				return "is not known yet; only bodies and layouts can show it"
			}
			found.preheader = found.preheader || key == "Preheader"
		}
		return ""
	}}
	problems, reached := c.Check(trees, main, reflect.TypeFor[*EmailData]())
	found.reached = reached
	for _, bad := range problems {
		l.report(fileProblem(bad.File, bad.Line, bad.Reason))
	}
	if len(problems) > 0 {
		return nil, found
	}
	used := map[string]*parse.Tree{}
	for name := range reached {
		used[name] = trees[name]
	}
	for _, name := range slices.Sorted(maps.Keys(used)) {
		p.literals = append(p.literals, tmpl.Literals(used[name])...)
	}
	part, err := newEmailPart(p, used, main, l.exec)
	if err != nil {
		l.report(htmlProblem(p.file, err))
		return nil, found
	}
	return part, found
}

var htmlErrorRE = regexp.MustCompile(`^html/template:(.*?):(\d+)(?::\d+)?: ((?s:.*))$`)

// htmlProblem makes a Problem of what html/template's analysis found.
func htmlProblem(file string, err error) Problem {
	line, reason := 0, err.Error()
	if m := htmlErrorRE.FindStringSubmatch(reason); m != nil {
		file, reason = m[1], m[3]
		line, _ = strconv.Atoi(m[2])
	}
	var bad *htmltemplate.Error
	if errors.As(err, &bad) && bad.ErrorCode == htmltemplate.ErrPredefinedEscaper {
		reason = "html and urlquery must be the last function; html is not needed, as every value is escaped for where it stands"
	}
	return fileProblem(file, line, reason)
}

// trait returns why a trait may not be read, empty when it may.
func (s *EmailSchema) trait(key string) string {
	if s.Traits == nil || slices.Contains(s.Traits, key) {
		return ""
	}
	return "there is no trait " + strconv.Quote(key) + " in the schema" + tmpl.Suggest(key, s.Traits)
}

// property returns why a property may not be read from any event.
func (s *EmailSchema) property(key string) string {
	if s.Properties == nil {
		return ""
	}
	var all []string
	for _, keys := range s.Properties {
		if slices.Contains(keys, key) {
			return ""
		}
		all = append(all, keys...)
	}
	slices.Sort(all)
	return "no event in the schema has a property " + strconv.Quote(key) + tmpl.Suggest(key, slices.Compact(all))
}

// checkEvent returns what an email reads that its event does not have. The
// engine asks for each automation that sends the email.
func (s *emailSet) checkEvent(name, event string, schema EmailSchema) []Problem {
	e := s.emails[name]
	if e == nil || schema.Properties == nil {
		return nil
	}
	keys, declared := schema.Properties[event]
	var problems []Problem
	for use := range e.uses {
		switch {
		case use.trait || declared && slices.Contains(keys, use.key):
		case !declared:
			problems = append(problems, fileProblem(use.file, use.line, "reads the property "+strconv.Quote(use.key)+", but the event "+strconv.Quote(event)+" is not in the schema"))
		default:
			problems = append(problems, fileProblem(use.file, use.line, "the event "+strconv.Quote(event)+" has no property "+strconv.Quote(use.key)+tmpl.Suggest(use.key, keys)))
		}
	}
	slices.SortFunc(problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(fieldOrder(a.Field), fieldOrder(b.Field)), cmp.Compare(a.Reason, b.Reason))
	})
	return problems
}
