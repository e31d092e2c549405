package fluxlytest

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/getfluxly/fluxly"
)

// The header fields that Postmark takes out and reads.
const (
	streamField    = "X-PM-Message-Stream"
	tagField       = "X-PM-Tag"
	opensField     = "X-PM-TrackOpens"
	linksField     = "X-PM-TrackLinks"
	metadataPrefix = "X-PM-Metadata-"
	sendKeyField   = "send_key"
)

// maxParts bounds how many parts of a mail are looked at, maxDepth how deep.
const (
	maxParts = 100
	maxDepth = 10
)

// Fate is what became of an accepted mail.
type Fate string

const (
	// FateDelivered: sent to all recipients but the Dropped ones.
	FateDelivered Fate = "delivered"
	// FateDropped: every recipient is suppressed; nothing was sent.
	FateDropped Fate = "dropped"
	// FateBounced: the mail could not be used, see Reason; nothing was sent.
	FateBounced Fate = "bounced"
	// FateLost: metadata over the limits. Postmark takes such a mail over SMTP
	// and then shows no trace of it.
	FateLost Fate = "lost"
)

// PostmarkMail is one mail as the stand-in received it. Its slices and maps
// are shared by all who ask; do not change them.
type PostmarkMail struct {
	// Seq numbers the accepted mails from 1, also over restarts on a folder.
	Seq int
	// ID is the message id that Postmark would give it. It stands in the reply
	// to the final dot too.
	ID string
	// At is when it was received.
	At time.Time
	// Conn is the connection that it came by, Secure whether that ran TLS.
	Conn   int
	Secure bool
	// From and To are the envelope.
	From string
	To   []string
	// Raw is the mail as it was on the wire, with the dots of RFC 5321 section
	// 4.5.2 taken away again.
	Raw []byte
	// Header are the fields in their order, names in the case of the wire,
	// values unfolded but not decoded.
	Header []fluxly.Header
	// Subject is decoded, as are Text and HTML, whose lines end in "\n".
	Subject string
	Text    string
	HTML    string
	// Stream is where the mail goes: the stream of the login's token, else
	// X-PM-Message-Stream, else "outbound".
	Stream string
	// Tag, TrackOpens and TrackLinks are the X-PM- fields of that name.
	Tag        string
	TrackOpens string
	TrackLinks string
	// Metadata are the X-PM-Metadata- fields, names in the case of the wire.
	Metadata map[string]string
	// Problems are what is wrong with the mail as RFC 5322 and MIME see it;
	// none in a good mail.
	Problems []string
	// Fate is what became of the mail; Code and Reason are Postmark's error
	// number and a text when that is not good.
	Fate   Fate
	Code   int
	Reason string
	// Dropped are the recipients that are suppressed.
	Dropped []string
}

// PostmarkBounce is a bounce as Postmark's API lists it, for one recipient.
type PostmarkBounce struct {
	Type          string // always "SMTPApiError"
	TypeCode      int    // always 100007
	ErrorCode     int    // 406 for a suppressed address, 1235 for an unknown stream, 400 for a sender that is not confirmed
	Email         string
	MessageStream string
	MessageID     string
	Description   string
	BouncedAt     time.Time
}

// Get returns the value of the first header field of the name, in any case,
// not decoded; empty when there is none.
func (m PostmarkMail) Get(name string) string {
	for _, h := range m.Header {
		if strings.EqualFold(h.Name, name) {
			return h.Value
		}
	}
	return ""
}

// SendKey returns the metadata field "send_key".
func (m PostmarkMail) SendKey() string { return m.Metadata[sendKeyField] }

// parse fills in everything that Raw says.
func (m *PostmarkMail) parse() {
	m.checkLines()
	head, body, found := bytes.Cut(m.Raw, []byte("\r\n\r\n"))
	if !found {
		m.problem("no empty line after the header")
	}
	var bad []string
	m.Header, bad = parseHeader(head)
	m.Problems = append(m.Problems, bad...)

	var dec mime.WordDecoder
	subject := m.Get("Subject")
	if s, err := dec.DecodeHeader(subject); err != nil {
		m.problem("subject: %v", err)
		m.Subject = subject
	} else {
		m.Subject = s
	}
	m.Stream = strings.ToValidUTF8(m.Get(streamField), "\uFFFD") // goes into JSON
	if m.Stream == "" {
		m.Stream = defaultStream
	}
	m.Tag, m.TrackOpens, m.TrackLinks = m.Get(tagField), m.Get(opensField), m.Get(linksField)
	m.Metadata = map[string]string{}
	for _, h := range m.Header {
		if n := len(metadataPrefix); len(h.Name) > n && strings.EqualFold(h.Name[:n], metadataPrefix) {
			m.Metadata[h.Name[n:]] = h.Value
		}
	}
	parts := 0
	m.parsePart(m.Header, body, 0, &parts)
}

func (m *PostmarkMail) problem(format string, args ...any) {
	m.Problems = append(m.Problems, fmt.Sprintf(format, args...))
}

// checkLines looks for what no mail may have on the wire: RFC 5322 section
// 2.1.1 (lines of 998 bytes) and 2.3 (CR and LF only together).
func (m *PostmarkMail) checkLines() {
	rest, longest := m.Raw, 0
	for len(rest) > 0 {
		line, after, _ := bytes.Cut(rest, []byte("\r\n"))
		longest = max(longest, len(line))
		if bytes.ContainsAny(line, "\r\n") {
			m.problem("a bare CR or LF")
			break
		}
		rest = after
	}
	if longest > 998 {
		m.problem("a line of %d bytes", longest)
	}
}

// parseHeader splits a header into its fields.
func parseHeader(head []byte) (fields []fluxly.Header, problems []string) {
	for line := range strings.SplitSeq(string(head), "\r\n") {
		if line == "" {
			continue
		}
		if line[0] == ' ' || line[0] == '\t' {
			if len(fields) == 0 {
				problems = append(problems, "the header begins with a folded line")
				continue
			}
			// Unfolding takes the line end alone (RFC 5322 section 2.2.3).
			fields[len(fields)-1].Value += line
			continue
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r >= 0x7f }) || name == "" {
			problems = append(problems, fmt.Sprintf("header line %.60q has no good field name", line))
			continue
		}
		fields = append(fields, fluxly.Header{Name: name, Value: value})
	}
	for i, f := range fields {
		fields[i].Value = strings.TrimSpace(f.Value)
		if strings.ContainsFunc(f.Value, func(r rune) bool { return r >= 0x80 }) {
			problems = append(problems, fmt.Sprintf("header field %s has bytes that are not ASCII", f.Name))
		}
	}
	return fields, problems
}

// parsePart decodes a body and looks for the first text and the first html in
// it.
func (m *PostmarkMail) parsePart(header []fluxly.Header, body []byte, depth int, parts *int) {
	if *parts++; *parts > maxParts || depth > maxDepth {
		m.problem("more than %d parts or %d levels; the rest was not read", maxParts, maxDepth)
		return
	}
	get := PostmarkMail{Header: header}.Get
	contentType := get("Content-Type")
	if contentType == "" {
		contentType = "text/plain"
	}
	kind, params, err := mime.ParseMediaType(contentType)
	if err != nil {
		m.problem("content type %.60q: %v", contentType, err)
		return
	}
	if strings.HasPrefix(kind, "multipart/") {
		m.parseMultipart(params["boundary"], body, depth, parts)
		return
	}
	if kind != "text/plain" && kind != "text/html" {
		return
	}
	var r io.Reader = bytes.NewReader(body)
	switch enc := strings.ToLower(get("Content-Transfer-Encoding")); enc {
	case "quoted-printable":
		r = quotedprintable.NewReader(r)
	case "base64":
		r = base64.NewDecoder(base64.StdEncoding, r)
	case "", "7bit", "8bit":
	default:
		m.problem("transfer encoding %.60q is not known", enc)
		return
	}
	decoded, err := io.ReadAll(r)
	if err != nil {
		m.problem("%s: %v", kind, err)
	}
	if charset := strings.ToLower(params["charset"]); (charset == "" || charset == "utf-8" || charset == "us-ascii") && !utf8.Valid(decoded) {
		m.problem("%s: not valid UTF-8", kind)
	}
	text := strings.ReplaceAll(string(decoded), "\r\n", "\n")
	switch {
	case kind == "text/plain" && m.Text == "":
		m.Text = text
	case kind == "text/html" && m.HTML == "":
		m.HTML = text
	}
}

func (m *PostmarkMail) parseMultipart(boundary string, body []byte, depth int, parts *int) {
	if boundary == "" {
		m.problem("a multipart without a boundary")
		return
	}
	r := multipart.NewReader(bytes.NewReader(body), boundary)
	for *parts <= maxParts {
		p, err := r.NextRawPart()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			m.problem("multipart: %v", err)
			return
		}
		inner, err := io.ReadAll(p)
		if err != nil {
			m.problem("multipart: %v", err)
			return
		}
		var header []fluxly.Header
		for name, values := range p.Header {
			for _, v := range values {
				header = append(header, fluxly.Header{Name: name, Value: v})
			}
		}
		m.parsePart(header, inner, depth+1, parts)
	}
}

// metadataOverLimit reports whether Postmark's limits of metadata are broken:
// https://postmarkapp.com/support/article/1125-custom-metadata-faq
func (m *PostmarkMail) metadataOverLimit() bool {
	if len(m.Metadata) > 10 {
		return true
	}
	for k, v := range m.Metadata {
		if utf8.RuneCountInString(k) > 20 || utf8.RuneCountInString(v) > 80 {
			return true
		}
	}
	return false
}

// fromDomain returns the domain of the From field.
func (m *PostmarkMail) fromDomain() string {
	from := m.Get("From")
	from = from[strings.LastIndexByte(from, '@')+1:]
	return strings.Trim(from, " >")
}
