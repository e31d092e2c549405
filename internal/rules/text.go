package rules

import (
	"strconv"
	"strings"
	"time"

	"github.com/getfluxly/fluxly/internal/value"
)

// String writes x in one line as a person would say it; nil is "always".
func (x *Expr) String() string {
	if x == nil {
		return "always"
	}
	var b strings.Builder
	x.write(&b, 1)
	return b.String()
}

func (x *Expr) write(b *strings.Builder, depth int) {
	switch {
	case depth > MaxDepth:
		b.WriteString("...")
	case x == nil:
		b.WriteString("(empty)")
	case x.Op == Not:
		b.WriteString("not (")
		for _, k := range x.Kids {
			k.write(b, depth+1)
		}
		b.WriteByte(')')
	case x.Op == All || x.Op == Any:
		word := " and "
		if x.Op == Any {
			word = " or "
		}
		for i, k := range x.Kids {
			if i > 0 {
				b.WriteString(word)
			}
			group := k != nil && (k.Op == All || k.Op == Any) && len(x.Kids) > 1
			if group {
				b.WriteByte('(')
			}
			k.write(b, depth+1)
			if group {
				b.WriteByte(')')
			}
		}
	default:
		x.writeLeaf(b, depth)
	}
}

func (x *Expr) writeLeaf(b *strings.Builder, depth int) {
	switch x.Op {
	case Did:
		x.writeDid(b, depth)
	case Segment:
		b.WriteString("in segment " + name(x.Key))
	case Func:
		b.WriteString("func " + name(x.Key))
	default:
		if !x.Op.isField() {
			b.WriteString("(unknown)")
			return
		}
		op := fieldOps[x.Op]
		b.WriteString(x.From.String() + " " + name(x.Key) + " " + op.text)
		switch {
		case op.arg == argDuration:
			b.WriteString(" " + Span(x.Dur))
		case op.arg == argScalars:
			b.WriteString(" " + value.Text(x.Args))
		case op.arg == argPair && len(x.Args) == 2:
			b.WriteString(" " + value.Text(x.Args[0]) + " and " + value.Text(x.Args[1]))
		case op.arg == argTime && len(x.Args) == 1:
			s, _ := x.Args[0].(string)
			b.WriteString(" " + s)
		case len(x.Args) == 1:
			b.WriteString(" " + value.Text(x.Args[0]))
		}
	}
}

func (x *Expr) writeDid(b *strings.Builder, depth int) {
	lo, hi := x.bounds()
	switch {
	case lo == 0 && hi == 0:
		b.WriteString("never did " + name(x.Key))
	case lo == hi:
		b.WriteString("did " + name(x.Key) + " exactly " + times(lo))
	case hi < 0 && lo == 1:
		b.WriteString("did " + name(x.Key))
	case hi < 0:
		b.WriteString("did " + name(x.Key) + " at least " + times(lo))
	case lo == 0:
		b.WriteString("did " + name(x.Key) + " at most " + times(hi))
	default:
		b.WriteString("did " + name(x.Key) + " " + strconv.Itoa(lo) + " to " + times(hi))
	}
	if x.Dur != 0 {
		b.WriteString(" within " + Span(x.Dur))
	}
	if x.SinceEntry {
		b.WriteString(" since entry")
	}
	if x.Where != nil {
		b.WriteString(" where (")
		x.Where.write(b, depth+1)
		b.WriteByte(')')
	}
}

// name quotes what would not read as one word.
func name(s string) string {
	for _, r := range s {
		if r <= ' ' || r == '"' || r == '(' || r == ')' || r > '~' {
			return strconv.Quote(s)
		}
	}
	if s == "" {
		return `""`
	}
	return s
}

func times(n int) string {
	if n == 1 {
		return "once"
	}
	return strconv.Itoa(n) + " times"
}

// Span writes a duration for people: whole days as 7d, else as 36h or 90m.
func Span(d time.Duration) string {
	const day = 24 * time.Hour
	if d > 0 && d%day == 0 {
		return strconv.Itoa(int(d/day)) + "d"
	}
	return FormatDuration(d)
}
