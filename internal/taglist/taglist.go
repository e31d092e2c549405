// Package taglist reads the "tag=value; tag=value" lists that DKIM, DMARC,
// TLS-RPT, MTA-STS and BIMI share (RFC 6376 section 3.2), and says where each
// mistake stands.
package taglist

import (
	"strconv"
	"strings"
)

// Tag is one tag of a list.
type Tag struct {
	// Name as written; Key is the name to compare by.
	Name, Key string
	// Value without the white space around it.
	Value string
	// Pos and ValuePos are byte offsets of name and value in the text.
	Pos, ValuePos int
}

// Kind tells mistakes apart.
type Kind string

// What can be wrong with a list.
const (
	Empty     Kind = "empty"     // nothing between two semicolons
	NoEquals  Kind = "no_equals" // a tag without "="
	BadName   Kind = "bad_name"  // a tag name with other characters than letters, digits and "_"
	BadValue  Kind = "bad_value" // a character that a value may not hold
	Duplicate Kind = "duplicate" // the same tag twice
)

// Fault is one mistake.
type Fault struct {
	Kind Kind
	Pos  int
	// Tag is the key of the tag that it is about, where that has a name.
	Tag  string
	Text string
}

// MaxFaults bounds how many mistakes of a kind are listed: a text of 64 KB may
// have ten thousand. How bad a value is depends on its tag, so [BadValue] is not
// among them.
const MaxFaults = 500

// List is a parsed list.
type List struct {
	Tags   []Tag
	Faults []Fault
}

// parser is a list in the making.
type parser struct {
	List

	seen   map[string]bool // the keys, where they are many
	faults map[Kind]int
}

// Parse reads s. With fold, tag names are compared without regard to case
// (DMARC); without it, "P" is not "p" (DKIM).
func Parse(s string, fold bool) List {
	var l parser
	l.Tags = make([]Tag, 0, strings.Count(s, ";")+1)
	for pos := 0; pos <= len(s); {
		end := strings.IndexByte(s[pos:], ';')
		last := end < 0
		if last {
			end = len(s)
		} else {
			end += pos
		}
		l.spec(s, pos, end, last, fold)
		pos = end + 1
	}
	return l.List
}

func (l *parser) spec(s string, pos, end int, last, fold bool) {
	from, to := trim(s, pos, end)
	if from == to {
		if !last {
			l.fault(Empty, from, "", "nothing stands before this semicolon")
		}
		return
	}
	eq := strings.IndexByte(s[from:to], '=')
	if eq < 0 {
		l.fault(NoEquals, from, "", strconv.Quote(short(s[from:to]))+" has no \"=\"")
		return
	}
	_, nameEnd := trim(s, from, from+eq)
	name := s[from:nameEnd]
	if !validName(name) {
		l.fault(BadName, from, "", strconv.Quote(short(name))+" is not a tag name")
		return
	}
	vFrom, vTo := trim(s, from+eq+1, to)
	t := Tag{Name: name, Key: name, Value: s[vFrom:vTo], Pos: from, ValuePos: vFrom}
	if fold {
		t.Key = strings.ToLower(name)
	}
	for i := vFrom; i < vTo; i++ {
		if c := s[i]; c != '\t' && c != '\r' && c != '\n' && (c < ' ' || c > '~') {
			l.fault(BadValue, i, t.Key, "the value of "+short(name)+" holds the byte 0x"+strconv.FormatUint(uint64(c), 16)+", which is not printable ASCII")
			break
		}
	}
	if l.has(t.Key) {
		l.fault(Duplicate, from, t.Key, "the tag "+short(t.Key)+" stands twice")
	}
	l.Tags = append(l.Tags, t)
	if l.seen != nil {
		l.seen[t.Key] = true
	}
}

// has reports whether there is a tag with this key already.
func (l *parser) has(key string) bool {
	const few = 16
	if len(l.Tags) < few {
		_, ok := l.Get(key)
		return ok
	}
	if l.seen == nil {
		l.seen = make(map[string]bool, cap(l.Tags))
		for _, t := range l.Tags {
			l.seen[t.Key] = true
		}
	}
	return l.seen[key]
}

func (l *parser) fault(k Kind, pos int, tag, text string) {
	if l.faults == nil {
		l.faults = map[Kind]int{}
	}
	if l.faults[k]++; l.faults[k] <= MaxFaults || k == BadValue {
		l.Faults = append(l.Faults, Fault{k, pos, tag, text})
	}
}

// Get returns the first tag with this key.
func (l List) Get(key string) (Tag, bool) {
	for _, t := range l.Tags {
		if t.Key == key {
			return t, true
		}
	}
	return Tag{}, false
}

// Value returns the value of the first tag with this key, or "".
func (l List) Value(key string) string {
	t, _ := l.Get(key)
	return t.Value
}

// Has reports whether there is a fault of kind k.
func (l List) Has(k Kind) bool {
	for _, f := range l.Faults {
		if f.Kind == k {
			return true
		}
	}
	return false
}

func trim(s string, from, to int) (int, int) {
	for from < to && space(s[from]) {
		from++
	}
	for to > from && space(s[to-1]) {
		to--
	}
	return from, to
}

func space(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }

func validName(s string) bool {
	for i := range len(s) {
		c := s[i]
		alpha := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !alpha && (i == 0 || c != '_' && (c < '0' || c > '9')) {
			return false
		}
	}
	return s != ""
}

func short(s string) string {
	if len(s) > 40 {
		return s[:40] + "..."
	}
	return s
}
