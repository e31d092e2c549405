package fluxly

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Text writes the report for a terminal, without colours, in words that need
// no knowledge of DNS: one line for each area, then what to do in order, then
// the SPF tree.
func (r *DomainReport) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\n\n", r.Domain, r.verdict())
	width := 0
	for _, a := range r.Areas {
		width = max(width, len(a.Name))
	}
	for _, a := range r.Areas {
		fmt.Fprintf(&b, "  %-*s  %-7s  %s\n", width, a.Name, a.Level, a.Summary)
	}
	r.todo(&b)
	if n := r.DMARC.Next; n != nil {
		fmt.Fprintf(&b, "\nNext step for DMARC: %s. Not today; take it when\n", n.Change)
		for _, w := range n.When {
			b.WriteString("  - " + w + "\n")
		}
		writeRecord(&b, "  ", r.Domain, n.Publish, false)
	}
	if t := r.SPF.Tree; t != nil && t.Record != "" {
		b.WriteString("\nSPF look-ups")
		if !r.SPF.Complete {
			b.WriteString(", at least")
		}
		b.WriteByte('\n')
		writeTree(&b, t, "  ")
	}
	for _, a := range r.SPF.Addresses {
		fmt.Fprintf(&b, "\nSPF for mail from %s: %s", a.Address, a.Result)
		if a.Reason != "" {
			b.WriteString(" (" + printable(a.Reason) + ")")
		}
		b.WriteByte('\n')
	}
	if r.Level.rank() > DomainInfo.rank() {
		b.WriteString("\nThe words\n")
		for _, w := range domainWords {
			b.WriteString("  " + w[0] + ": " + w[1] + "\n")
		}
	}
	return b.String()
}

// todo lists the findings, those that matter first.
func (r *DomainReport) todo(b *strings.Builder) {
	n := 0
	shown := map[string]int{} // records, and the item that has them
	for _, part := range []struct {
		title  string
		levels []DomainLevel
	}{
		{"What to do", []DomainLevel{DomainFail, DomainUnknown, DomainWarn}},
		{"Good to know", []DomainLevel{DomainInfo}},
	} {
		first := true
		for _, level := range part.levels {
			for _, f := range r.Findings {
				if f.Level != level {
					continue
				}
				if first {
					b.WriteString("\n" + part.title + "\n")
					if w := r.where(); w != "" && level != DomainInfo {
						b.WriteString(w + "\n")
					}
					first = false
				}
				n++
				r.writeFinding(b, n, f, shown)
			}
		}
	}
}

func (r *DomainReport) writeFinding(b *strings.Builder, n int, f DomainFinding, shown map[string]int) {
	fmt.Fprintf(b, "\n%d. [%s] %s\n", n, f.Level, f.Summary)
	const in = "   "
	if f.Fix != "" {
		b.WriteString(in + "Do:  " + f.Fix + "\n")
	}
	if f.Why != "" {
		b.WriteString(in + "Why: " + f.Why + "\n")
	}
	for _, p := range f.Publish {
		line := p.zoneLine()
		if at := shown[line]; at > 0 {
			fmt.Fprintf(b, "%sThe record is that of %d.\n", in, at)
			continue
		}
		shown[line] = n
		writeRecord(b, in, r.Domain, p, f.Optional)
	}
	found := "Found: "
	if f.elsewhere() {
		found = "Found at " + printable(f.Name) + ": "
	}
	for _, v := range f.Found {
		b.WriteString(in + found + printable(v) + "\n")
	}
	ref := f.Code
	if f.RFC != "" {
		ref += ", " + f.RFC
	}
	b.WriteString(in + "(" + ref + ")\n")
}

// elsewhere reports whether what was found stands at another host than the
// records to publish.
func (f DomainFinding) elsewhere() bool {
	return f.Name != "" && len(f.Publish) > 0 && !slices.ContainsFunc(f.Publish, func(p DomainRecord) bool { return p.Name == f.Name })
}

func writeRecord(b *strings.Builder, in, domain string, p DomainRecord, optional bool) {
	fmt.Fprintf(b, "%s%s\n%s  Type:  %s\n%s  Host:  %s  %s\n%s  Value: %s\n", in, recordTitle(p, optional), in, p.Type, in, p.Name, panelHost(domain, p.Name), in, p.entered())
	for _, old := range p.Replaces {
		if old.Type != p.Type { // those of its type are what was found
			b.WriteString(in + "  Delete the " + old.Type + " record there: " + printable(old.Value) + "\n")
		}
	}
}

// entered is the value as it is to be entered: whole, and not escaped in any
// way. One of more than ASCII would not survive being copied.
func (p DomainRecord) entered() string {
	if strings.ContainsFunc(p.Value, func(c rune) bool { return c < ' ' || c > '~' }) {
		return "(not of plain letters alone: copy it from the zone file, which fluxly dnscheck -zone prints)"
	}
	return p.Value
}

// panelHost says what most DNS panels want as the host: the name without the
// domain, which they add by themselves.
func panelHost(domain, name string) string {
	if name == domain {
		return "(in most panels: @, or left empty)"
	}
	if short, ok := strings.CutSuffix(name, "."+domain); ok {
		return "(in most panels: " + short + ")"
	}
	return "(not in your DNS panel: in that of the other domain)"
}

// printable keeps what others published from driving the terminal: control
// characters are escaped, and so is everything outside of printable Unicode. A
// text without these stays as it is; in any other a backslash is doubled, so that
// it is no escape.
func printable(s string) string {
	if utf8.ValidString(s) && !strings.ContainsFunc(s, func(c rune) bool { return !strconv.IsPrint(c) }) {
		return clip(s, 1200)
	}
	q := strconv.Quote(s)
	q = strings.ReplaceAll(q[1:len(q)-1], `\"`, `"`)
	return clip(q, 1200)
}

// Zone writes the records to publish as lines of a zone file, with what they
// replace as comments. Records that are only offers are commented out.
func (r *DomainReport) Zone() string {
	var b strings.Builder
	fmt.Fprintf(&b, "; records for %s\n", r.Domain)
	seen := map[string]bool{}
	for _, f := range r.Findings {
		for _, p := range f.Publish {
			line := p.zoneLine()
			if seen[line] {
				continue
			}
			seen[line] = true
			fmt.Fprintf(&b, "\n; %s (%s)\n", strings.ReplaceAll(f.Summary, "\n", " "), f.Code)
			for _, old := range p.Replaces {
				b.WriteString("; replaces: " + old.shown(p.Type) + "\n")
			}
			if f.elsewhere() {
				for _, v := range f.Found {
					b.WriteString("; found at " + printable(f.Name) + ": " + printable(v) + "\n")
				}
			}
			switch {
			case p.Name != r.Domain && !strings.HasSuffix(p.Name, "."+r.Domain):
				b.WriteString("; in the zone of another domain: ")
			case f.Optional:
				b.WriteString("; optional: ")
			}
			b.WriteString(line + "\n")
		}
	}
	return b.String()
}

// zoneLine is the record in the master file format (RFC 1035 section 5.1).
func (p DomainRecord) zoneLine() string {
	var b strings.Builder
	b.WriteString(p.Name + ".\t300\tIN\t" + p.Type)
	if p.Type != "TXT" {
		value := p.Value
		if !strings.HasSuffix(value, ".") {
			value += "."
		}
		return b.String() + "\t" + value
	}
	sep := "\t"
	for _, s := range p.Strings {
		b.WriteString(sep + `"`)
		for i := range len(s) {
			switch c := s[i]; {
			case c == '"' || c == '\\':
				b.WriteString(`\` + string(c))
			case c < ' ' || c > '~':
				fmt.Fprintf(&b, `\%03d`, c)
			default:
				b.WriteByte(c)
			}
		}
		b.WriteByte('"')
		sep = " "
	}
	return b.String()
}
