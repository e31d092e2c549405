package fluxly

import (
	"fmt"
	"slices"
	"strings"

	"github.com/getfluxly/fluxly/internal/taglist"
)

type dmarcProblem struct{ code, text, fix string }

// dmarcRecord is one parsed record.
type dmarcRecord struct {
	text         string
	list         taglist.List
	p, sp, np    string // lower case; p is "none" where RFC 9989 says to take it so
	adkim, aspf  string // "r" or "s"
	psd          string // "y", "n" or "u"
	testing      bool
	rua, ruf     []string // addresses of mailto: URIs
	usable       bool     // a receiver applies it
	problems     []dmarcProblem
	pPos, pWidth int // where the value of p stands; width 0 when there is none
}

// isDMARC is the version test: "v" first, then exactly DMARC1 (RFC 9989
// section 4.7). No blank may stand before it.
func isDMARC(s string) bool {
	rest, ok := strings.CutPrefix(s, "v")
	if !ok {
		return false
	}
	rest, ok = strings.CutPrefix(strings.TrimLeft(rest, " \t"), "=")
	if !ok {
		return false
	}
	rest, ok = strings.CutPrefix(strings.TrimLeft(rest, " \t"), "DMARC1")
	if !ok {
		return false
	}
	rest = strings.TrimLeft(rest, " \t")
	return rest == "" || rest[0] == ';'
}

// nearDMARC says why a text that was meant as a DMARC record is not one.
func nearDMARC(s string) string {
	if isDMARC(s) {
		return ""
	}
	t := strings.TrimLeft(s, " \t\"'\\\u201c\u201d\u201e\u2018\u2019\u00ab\u00a0\ufeff")
	lower := strings.ToLower(t)
	switch {
	case isDMARC(t):
		if strings.TrimLeft(s, " \t") == t {
			return "a blank stands before v=DMARC1"
		}
		return "a quotation mark or another invisible character stands before v=DMARC1"
	case strings.HasPrefix(lower, "v=dmarc1"):
		return "the version must be written v=DMARC1, in capitals and followed by a semicolon"
	case strings.HasPrefix(lower, "v=dmarc") || strings.HasPrefix(lower, "dmarc1"):
		return "it must begin with v=DMARC1"
	case strings.Contains(lower, "v=dmarc1"):
		return "v=DMARC1 is not the first tag"
	case strings.HasPrefix(lower, "p=none") || strings.HasPrefix(lower, "p=quarantine") || strings.HasPrefix(lower, "p=reject"):
		return "v=DMARC1 is missing at the start"
	}
	return ""
}

var dmarcPolicies = []string{"none", "quarantine", "reject"}

// parseDMARC reads a record for which isDMARC holds.
func parseDMARC(text string) *dmarcRecord {
	d := &dmarcRecord{text: text, list: taglist.Parse(text, true), adkim: "r", aspf: "r", psd: "u", usable: true}
	bad := func(code, fix, format string, args ...any) {
		d.problems = append(d.problems, dmarcProblem{code, fmt.Sprintf(format, args...), fix})
	}
	for _, f := range d.list.Faults {
		switch f.Kind {
		case taglist.Empty:
			bad("dmarc_empty_tag", "Remove the second semicolon.", "The DMARC record has a stray semicolon at byte %d. Receivers tolerate it.", f.Pos)
		case taglist.Duplicate:
			d.usable = false
			bad("dmarc_duplicate_tag", "Keep one of them.", "In the DMARC record, %s.", f.Text)
		default:
			bad("dmarc_syntax", "Write the record as tag=value pairs with semicolons between them.", "The DMARC record cannot be read at byte %d: %s.", f.Pos, f.Text)
		}
	}
	for _, t := range d.list.Tags {
		d.tag(t, bad)
	}
	p, has := d.list.Get("p")
	if has {
		d.pPos, d.pWidth = p.ValuePos, len(p.Value)
		d.p = strings.ToLower(p.Value)
	}
	if !slices.Contains(dmarcPolicies, d.p) {
		what := "has no p= tag"
		if has {
			what = fmt.Sprintf("has an unknown policy p=%s", clip(p.Value, 20))
		}
		d.p = "none"
		if len(d.rua) > 0 {
			bad("dmarc_no_policy", "Add p=none, p=quarantine or p=reject right after v=DMARC1.", "The DMARC record %s; receivers take it as p=none.", what)
		} else {
			d.usable = false
			bad("dmarc_bad_policy", "Add p=none, p=quarantine or p=reject right after v=DMARC1.", "The DMARC record %s and no report address, so receivers ignore it.", what)
		}
	}
	return d
}

func (d *dmarcRecord) tag(t taglist.Tag, bad func(code, fix, format string, args ...any)) {
	v := strings.ToLower(t.Value)
	oneOf := func(into *string, values ...string) {
		if slices.Contains(values, v) {
			*into = v
			return
		}
		bad("dmarc_bad_value", "Use one of "+strings.Join(values, ", ")+".", "The tag %s of the DMARC record has the unknown value %q; receivers ignore it.", t.Key, clip(t.Value, 30))
	}
	switch t.Key {
	case "v", "p":
	case "sp":
		oneOf(&d.sp, dmarcPolicies...)
	case "np":
		oneOf(&d.np, dmarcPolicies...)
	case "adkim":
		oneOf(&d.adkim, "r", "s")
	case "aspf":
		oneOf(&d.aspf, "r", "s")
	case "psd":
		oneOf(&d.psd, "y", "n", "u")
	case "t":
		flag := "n"
		oneOf(&flag, "y", "n")
		d.testing = flag == "y"
	case "fo":
		for _, o := range strings.Split(v, ":") {
			if o = strings.TrimSpace(o); !slices.Contains([]string{"0", "1", "d", "s"}, o) {
				bad("dmarc_fo", "Use 0, 1, d or s, with colons between them; fo=1 is usual.", "The tag fo of the DMARC record has the unknown option %q.", clip(o, 20))
			}
		}
	case "rua":
		d.rua = uris(t, bad)
	case "ruf":
		d.ruf = uris(t, bad)
	case "pct", "rf", "ri":
		bad("dmarc_removed_tag", "Take it out; it changes nothing.", "The tag %s=%s is no longer part of DMARC and is ignored.", t.Key, clip(t.Value, 20))
	default:
		bad("dmarc_unknown_tag", "Take it out, or correct its name.", "The DMARC record has the unknown tag %q, which is ignored.", clip(t.Key, 30))
	}
}

// uris reads the addresses of rua or ruf.
func uris(t taglist.Tag, bad func(code, fix, format string, args ...any)) (out []string) {
	n := 0
	for _, u := range strings.Split(t.Value, ",") {
		u = strings.TrimSpace(u)
		if u == "" {
			continue
		}
		n++
		scheme, addr, ok := strings.Cut(u, ":")
		if !ok || !strings.EqualFold(scheme, "mailto") {
			bad("dmarc_report_uri", "Write it as mailto:you@example.com.", "The report address %q in %s is not a mailto: address; no reports go there.", clip(u, 60), t.Key)
			continue
		}
		if at, _, cut := strings.Cut(addr, "!"); cut {
			bad("dmarc_size_limit", "Take out everything from the exclamation mark on.", "The report address %q in %s carries a size limit, which is no longer part of DMARC.", clip(u, 60), t.Key)
			addr = at
		}
		if local, host, ok := strings.Cut(addr, "@"); !ok || local == "" || host == "" {
			bad("dmarc_report_uri", "Write it as mailto:you@example.com.", "The report address %q in %s is not a mail address.", clip(u, 60), t.Key)
			continue
		}
		out = append(out, addr)
	}
	if n > 2 {
		bad("dmarc_many_reports", "Keep at most two.", "%s names %d addresses; receivers need serve only two.", t.Key, n)
	}
	return out
}

// mendDMARC writes a text that was meant as a record as one: the version first,
// and without what panels and copying add. It returns "" when that is no use.
func mendDMARC(s string) string {
	const junk = " \t\"'\\\u201c\u201d\u201e\u2018\u2019\u00ab\u00bb\u00a0\ufeff"
	s = strings.ReplaceAll(strings.Trim(s, junk), `\;`, ";")
	out := []string{"v=DMARC1"}
	for _, t := range taglist.Parse(s, true).Tags {
		if t.Key != "v" {
			out = append(out, t.Key+"="+t.Value)
		}
	}
	mended := strings.Join(out, "; ")
	if r := parseDMARC(mended); len(r.problems) > 0 {
		return ""
	}
	return mended
}

// withPolicy is the record with another p, every other byte kept.
func (d *dmarcRecord) withPolicy(p string) string {
	if d.pWidth > 0 {
		return d.text[:d.pPos] + p + d.text[d.pPos+d.pWidth:]
	}
	head, rest, ok := strings.Cut(d.text, ";")
	if !ok {
		return d.text + "; p=" + p
	}
	if t, has := d.list.Get("p"); has { // "p=" with nothing behind
		return d.text[:t.ValuePos] + p + d.text[t.ValuePos:]
	}
	return head + "; p=" + p + ";" + rest
}

// forSubdomain is the policy for a name below the record's own.
func (d *dmarcRecord) forSubdomain(exists bool) string {
	switch {
	case !exists && d.np != "":
		return d.np
	case d.sp != "":
		return d.sp
	}
	return d.p
}
