package fluxly

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/getfluxly/fluxly/internal/taglist"
)

type dmarcProblem struct {
	code, text, fix string
	stays           bool // a correction leaves it as it is
}

// dmarcRecord is one parsed record.
type dmarcRecord struct {
	text         string
	list         taglist.List
	p, sp, np    string // lower case; p is "none" where RFC 9989 says to take it so
	adkim, aspf  string // "r" or "s"
	psd          string // "y", "n" or "u"
	testing      bool
	rua, ruf     []string // addresses of mailto: URIs
	again        bool     // its semicolons have been put in
	usable       bool     // a receiver applies it
	asNone       bool     // a receiver takes it as p=none, whatever it says
	problems     []dmarcProblem
	pPos, pWidth int // where the value of p stands; width 0 when there is none
}

// isDMARC is the version test: "v" first, in either case, then exactly DMARC1
// (RFC 9989 section 4.7). No blank may stand before it.
func isDMARC(s string) bool {
	if s == "" || s[0]|0x20 != 'v' {
		return false
	}
	rest, ok := s[1:], false
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
	case strings.HasPrefix(t, "v=DMARC1 ") || strings.HasPrefix(t, "v=DMARC1,"):
		return "a semicolon must stand between the tags, the first right after v=DMARC1"
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

var (
	dmarcPolicies = []string{"none", "quarantine", "reject"}
	// dmarcValues are the tags with a fixed set of values.
	dmarcValues = map[string][]string{
		"sp": dmarcPolicies, "np": dmarcPolicies, "adkim": {"r", "s"}, "aspf": {"r", "s"}, "psd": {"y", "n", "u"}, "t": {"y", "n"},
	}
	dmarcFailureOptions = []string{"0", "1", "d", "s"}
)

// parseDMARC reads a record for which isDMARC holds.
func parseDMARC(text string) *dmarcRecord {
	d := &dmarcRecord{text: text, list: taglist.Parse(text, true), adkim: "r", aspf: "r", psd: "u", usable: true}
	bad := func(code, fix, format string, args ...any) {
		d.problems = append(d.problems, dmarcProblem{code: code, text: fmt.Sprintf(format, args...), fix: fix})
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
	if text[:min(1, len(text))] == "V" {
		bad("dmarc_near_miss", "Write the v small. A receiver that does not read the record today applies its policy from then on.", "The DMARC record begins with V=DMARC1. The rules allow for the capital, but some receivers read only v=DMARC1.")
	}
	for _, t := range d.list.Tags {
		d.tag(t, bad)
	}
	p, has := d.list.Get("p")
	if has {
		d.pPos, d.pWidth = p.ValuePos, len(p.Value)
		d.p = strings.ToLower(p.Value)
	}
	// RFC 9989 section 4.10.1 asks for a valid p, and no invalid sp or np.
	none := func(fix, format string, args ...any) {
		what := fmt.Sprintf(format, args...)
		if len(d.rua) > 0 {
			bad("dmarc_no_policy", fix, "The DMARC record has %s; receivers take the whole record as p=none.", what)
		} else {
			d.usable = false
			bad("dmarc_bad_policy", fix, "The DMARC record has %s and no usable report address, so receivers ignore the whole record.", what)
		}
		d.asNone = true
	}
	switch fix := "Add p=none, p=quarantine or p=reject right after v=DMARC1."; {
	case !has:
		none(fix, "no p= tag")
	case strength(d.p) < 0:
		none(fix, "an unknown policy p=%s", clip(p.Value, 20))
	}
	for _, t := range d.list.Tags {
		if (t.Key == "sp" || t.Key == "np") && strength(strings.ToLower(t.Value)) < 0 {
			none("Use one of "+strings.Join(dmarcPolicies, ", ")+", or take the tag out.", "an unknown policy %s=%s", t.Key, clip(t.Value, 20))
		}
	}
	if d.asNone {
		d.p, d.sp, d.np = "none", "", ""
	}
	if t, ok := d.list.Get("pct"); ok {
		d.percentage(t, bad)
	}
	return d
}

// percentage judges pct, which older receivers still follow (RFC 7489 section
// 6.6.4). To take it out would have those do more at once, so that is a step of
// the ratchet.
func (d *dmarcRecord) percentage(t taglist.Tag, bad func(code, fix, format string, args ...any)) {
	const code, gone = "dmarc_removed_tag", "The tag pct=%s is no longer part of DMARC and is ignored"
	pct := d.partly()
	if pct < 0 {
		bad(code, "Take it out; it changes nothing.", gone+".", clip(t.Value, 20))
		return
	}
	_, has := d.list.Get("t")
	switch {
	case pct == 0 && !has:
		bad(code, "Publish this: t=y has the others apply less, too. Both go when mail is ready for it, which is the next step.", gone+": older receivers apply the policy to no mail, and all others to every mail.", clip(t.Value, 20))
		return
	case pct == 0:
		bad(code, "Leave it for now. It goes when mail is ready for it, which is the next step.", gone+", except by older receivers: those apply the policy to no mail.", clip(t.Value, 20))
	default:
		bad(code, "Leave it for now. It goes when mail is ready for it, which is the next step.", gone+", except by older receivers: those apply the policy to %d %% of the mail, and all others to every mail.", clip(t.Value, 20), pct)
	}
	d.problems[len(d.problems)-1].stays = true
}

// partly is the percentage of pct where older receivers do less because of it,
// else -1.
func (d *dmarcRecord) partly() int {
	f := d.force()
	n, err := strconv.Atoi(d.list.Value("pct"))
	if err != nil || n < 0 || n > 99 || f == nil || f.own+f.sub == 0 {
		return -1
	}
	return n
}

// without is a record without a tag.
func without(text, key string) string {
	var out []string
	for _, t := range taglist.Parse(text, true).Tags {
		if t.Key != key {
			out = append(out, t.Name+"="+t.Value)
		}
	}
	return strings.Join(out, "; ")
}

func (d *dmarcRecord) tag(t taglist.Tag, bad func(code, fix, format string, args ...any)) {
	v := strings.ToLower(t.Value)
	oneOf := func(into *string) {
		values := dmarcValues[t.Key]
		if slices.Contains(values, v) {
			*into = v
			return
		}
		bad("dmarc_bad_value", "Use one of "+strings.Join(values, ", ")+".", "The tag %s of the DMARC record has the unknown value %q; receivers ignore it.", t.Key, clip(t.Value, 30))
	}
	switch t.Key {
	case "v", "p":
	case "sp":
		d.sp = v
	case "np":
		d.np = v
	case "adkim":
		oneOf(&d.adkim)
	case "aspf":
		oneOf(&d.aspf)
	case "psd":
		if oneOf(&d.psd); d.psd == "y" {
			bad("dmarc_psd", "Take psd=y out, unless you run such a registry.", "The DMARC record says psd=y, which is for registries, below whose domain others have theirs. So no name below yours counts as yours for DMARC: neither the host of the Return-Path nor a subdomain that signs with DKIM.")
		}
	case "t":
		flag := "n"
		oneOf(&flag)
		d.testing = flag == "y"
	case "fo":
		for _, o := range strings.Split(v, ":") {
			if o = strings.TrimSpace(o); !slices.Contains(dmarcFailureOptions, o) {
				bad("dmarc_fo", "Use 0, 1, d or s, with colons between them; fo=1 is usual.", "The tag fo of the DMARC record has the unknown option %q.", clip(o, 20))
			}
		}
	case "rua":
		d.rua = uris(t, bad)
	case "ruf":
		d.ruf = uris(t, bad)
	case "pct": // see percentage
	case "rf", "ri":
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
		addr, _, _ = strings.Cut(addr, "?") // fields of the mail (RFC 6068 section 2)
		if local, host, ok := strings.Cut(addr, "@"); !ok || local == "" || host == "" || strings.ContainsAny(addr, " \t<>\"") {
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

// mendDMARC writes texts that were meant as a record as one: the version first,
// and without what panels and copying add.
func mendDMARC(texts []string, reports string, most *dmarcForce) dmarcMend {
	const junk = " \t\"'\\\u201c\u201d\u201e\u2018\u2019\u00ab\u00bb\u00a0\ufeff"
	out := []string{"v=DMARC1"}
	for _, s := range texts {
		s = strings.ReplaceAll(strings.Trim(s, junk), `\;`, ";")
		for _, t := range taglist.Parse(semicolons(s), true).Tags {
			if t.Key != "v" {
				out = append(out, t.Key+"="+t.Value)
			}
		}
	}
	return parseDMARC(strings.Join(out, "; ")).mend(reports, most)
}

// withReports is the record with the report addresses of other ones behind its
// own, so that whoever reads them goes on getting them.
func (d *dmarcRecord) withReports(texts []string) *dmarcRecord {
	out := d.text
	for _, t := range texts {
		if !isDMARC(t) {
			continue
		}
		other := parseDMARC(semicolons(t))
		for _, key := range []string{"rua", "ruf"} {
			for _, v := range other.all(key) {
				if t != d.text {
					out += "; " + key + "=" + v
				}
			}
		}
	}
	return parseDMARC(out)
}

// dmarcForce is how much receivers do, as places in dmarcPolicies: about mail
// from the domain, from names below it, and from names below it that do not
// exist; and which of adkim and aspf are strict.
type dmarcForce struct {
	own, sub, gone int
	adkim, aspf    bool
}

// within reports whether f asks nothing that most does not.
func (f dmarcForce) within(most dmarcForce) bool {
	return f.own <= most.own && f.sub <= most.sub && f.gone <= most.gone && (most.adkim || !f.adkim) && (most.aspf || !f.aspf)
}

// force is what receivers apply because of the record; nil when it is nothing,
// whatever the record says.
func (d *dmarcRecord) force() *dmarcForce {
	if !d.usable || d.asNone {
		return nil
	}
	return &dmarcForce{strength(d.p), strength(d.forSubdomain(true)), strength(d.forSubdomain(false)), d.adkim == "s", d.aspf == "s"}
}

// forceBelow is what receivers apply to a name below the record's own. Older
// ones know neither np nor t.
func (d *dmarcRecord) forceBelow(exists bool) *dmarcForce {
	f := &dmarcForce{strength(d.forSubdomain(exists)), strength(d.forSubdomain(true)), strength(d.forSubdomain(false)), d.adkim == "s", d.aspf == "s"}
	f.own, f.gone = min(f.own, f.sub), min(f.gone, f.sub)
	if d.testing {
		f.own, f.sub, f.gone = max(0, f.own-1), max(0, f.sub-1), max(0, f.gone-1)
	}
	return f
}

func strength(policy string) int { return slices.Index(dmarcPolicies, policy) }

// milder reports whether v is a policy that asks less than policy.
func milder(v, policy string) bool { return strength(v) >= 0 && strength(v) < strength(policy) }

// dmarcMend is a record to publish, and the policies that were asked for and
// that it leaves for later, such as "p=reject".
type dmarcMend struct {
	text  string
	later []string
}

// tail is what a reader is told of the policies left for later.
func (m dmarcMend) tail() string {
	if len(m.later) == 0 {
		return ""
	}
	return " No receiver applies " + strings.Join(m.later, " or ") + " today, so this record starts milder; what the old text asks for is the goal, and the next step leads there."
}

// mended is the record with everything corrected that parseDMARC has a word
// about, without asking more of receivers than they do today.
func (d *dmarcRecord) mended(reports string) string { return d.mend(reports, d.force()).text }

// mend corrects a record, with its tags in the order in which they stand. What
// was published twice is taken once, of two policies the milder one; what
// cannot be read goes. reports is the address to use where none is left. most is
// what receivers do today, which the record must not pass: a correction is
// made at once, and a stricter policy only when mail is ready for it.
func (d *dmarcRecord) mend(reports string, most *dmarcForce) dmarcMend {
	if now := d.force(); !slices.ContainsFunc(d.problems, func(p dmarcProblem) bool { return !p.stays }) && len(d.rua) > 0 && now != nil && most != nil && now.within(*most) {
		return dmarcMend{text: d.text}
	}
	if !d.again {
		if a := parseDMARC(semicolons(d.text)); isDMARC(a.text) {
			a.again = true
			return a.mend(reports, most)
		}
	}
	policies := d.policies(most)
	out := []string{"v=DMARC1", "p=" + policies.values["p"]}
	seen := map[string]bool{"v": true, "p": true}
	add := func(key, value string) {
		if value != "" {
			out = append(out, key+"="+value)
		}
	}
	for _, t := range d.list.Tags {
		if seen[t.Key] {
			continue
		}
		seen[t.Key] = true
		value := strings.ToLower(t.Value)
		switch t.Key {
		case "sp", "np":
			value = policies.values[t.Key]
		case "rua", "ruf":
			list := mendURIs(strings.Join(d.all(t.Key), ","))
			if len(list) == 0 && t.Key == "rua" {
				list = []string{"mailto:" + reports}
			}
			value = strings.Join(list, ",")
		case "fo":
			options := slices.DeleteFunc(splitList(value), func(o string) bool { return !slices.Contains(dmarcFailureOptions, o) })
			value = strings.Join(options, ":")
		case "pct":
			if n := d.partly(); n < 0 || most == nil || most.own+most.sub == 0 {
				value = ""
			}
		default:
			drop := !slices.Contains(dmarcValues[t.Key], value) || t.Key == "psd" && value == "y"
			switch {
			case most == nil:
				drop = drop || t.Key == "t" // with p=none it says nothing
			case t.Key == "adkim":
				drop = drop || value == "s" && !most.adkim
			case t.Key == "aspf":
				drop = drop || value == "s" && !most.aspf
			}
			if drop {
				value = ""
			}
		}
		add(t.Key, value)
	}
	if !seen["rua"] {
		add("rua", "mailto:"+reports)
	}
	if d.partly() == 0 && most != nil && most.own+most.sub > 0 && !seen["t"] {
		add("t", "y")
	}
	for _, key := range []string{"sp", "np"} {
		if !seen[key] {
			add(key, policies.values[key])
		}
	}
	return dmarcMend{strings.Join(out, "; "), policies.later}
}

// all are the values of a tag that stands more than once.
func (d *dmarcRecord) all(key string) (values []string) {
	for _, t := range d.list.Tags {
		if t.Key == key {
			values = append(values, t.Value)
		}
	}
	return values
}

// dmarcPolicySet holds the policies of a mended record by tag.
type dmarcPolicySet struct {
	values map[string]string
	later  []string
}

// policies are those that the record asks for, as far as most allows.
func (d *dmarcRecord) policies(most *dmarcForce) dmarcPolicySet {
	asked := map[string]string{}
	for _, t := range d.list.Tags {
		v := strings.ToLower(t.Value)
		if t.Key != "p" && t.Key != "sp" && t.Key != "np" || strength(v) < 0 {
			continue
		}
		if old, ok := asked[t.Key]; !ok || milder(v, old) {
			asked[t.Key] = v
		}
	}
	s := dmarcPolicySet{values: map[string]string{}}
	limits := dmarcForce{}
	if most != nil {
		limits = *most
	}
	above := 0 // the policy of a name that has none of its own
	for _, tag := range []struct {
		key   string
		limit int
	}{{"p", limits.own}, {"sp", limits.sub}, {"np", limits.gone}} {
		v, ok := asked[tag.key]
		want := above
		if ok || tag.key == "p" {
			want = max(0, strength(v))
		}
		if ok && want > tag.limit {
			s.later = append(s.later, tag.key+"="+v)
		}
		got := min(want, tag.limit)
		// Where nothing is applied, the tags for subdomains have nothing to say.
		if tag.key == "p" || got != above || ok && most != nil {
			s.values[tag.key] = dmarcPolicies[got]
		}
		above = got
	}
	return s
}

// semicolons puts them where a blank or a comma alone stands between two tags, and
// commas between two report addresses.
func semicolons(s string) string {
	return betweenAddresses().ReplaceAllString(betweenTags().ReplaceAllString(s, "; $1="), ",mailto:")
}

var betweenAddresses = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`(?i)[ \t]*;[ \t]*mailto:`) })

var betweenTags = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`(?i)[ \t,]*[ \t,;][ \t,]*\b(v|p|sp|np|adkim|aspf|rua|ruf|fo|pct|rf|ri|t|psd)[ \t]*=[ \t]*`)
})

// raised is the mended record with sp or np one step stricter, as far as p.
func (d *dmarcRecord) raised(key, reports string) string {
	base := parseDMARC(d.mended(reports))
	t, ok := base.list.Get(key)
	if !ok || !milder(strings.ToLower(t.Value), d.p) {
		return base.text
	}
	next := dmarcPolicies[strength(strings.ToLower(t.Value))+1]
	return base.text[:t.ValuePos] + next + base.text[t.ValuePos+len(t.Value):]
}

// mendURIs keeps at most two addresses that can take reports, without the blanks,
// brackets and quotation marks that people put around addresses.
func mendURIs(list string) (out []string) {
	for _, u := range strings.FieldsFunc(list, func(c rune) bool { return c == ',' || c == ' ' || c == '\t' }) {
		u, _, _ = strings.Cut(strings.Trim(u, `<>"'`), "!")
		if len(u) > 7 && strings.EqualFold(u[:7], "mailto:") {
			u = strings.Trim(u[7:], `<>"'`)
		}
		addr, fields, has := strings.Cut(u, "?")
		local, host, ok := strings.Cut(addr, "@")
		name, err := domainName("rua", host)
		if !ok || err != nil || !plainLocal(local) {
			continue
		}
		if !strings.EqualFold(name, host) { // IDN
			addr = local + "@" + name
		}
		if has && plainLocal(strings.ReplaceAll(fields, ":", "")) {
			addr += "?" + fields
		}
		bare := func(uri string) string { before, _, _ := strings.Cut(uri, "?"); return before }
		if uri := "mailto:" + addr; !slices.ContainsFunc(out, func(o string) bool { return strings.EqualFold(bare(o), bare(uri)) }) {
			out = append(out, uri)
		}
		if len(out) == 2 {
			break
		}
	}
	return out
}

// plainLocal reports whether what stands before the @ of an address can stand in
// a record as it is.
func plainLocal(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c > '~' || strings.ContainsRune(`,;:!?"\<>()[]`, c) })
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
