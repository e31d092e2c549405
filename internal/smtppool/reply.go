package smtppool

import (
	"bytes"
	"errors"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

const (
	// RFC 5321 section 4.5.3.1.5 allows 512 bytes a line. Real greetings and
	// policy texts run over it, so there is some air.
	maxReplyLine = 2048
	// All lines of one reply together.
	maxReply = 64 << 10
	// What of a reply's text is kept in results and errors.
	maxText = 1000
)

var (
	errReplyLine  = errors.New("line of more than 2,048 bytes in a reply")
	errReplySize  = errors.New("reply of more than 64 KB")
	errReplyCodes = errors.New("reply with two different codes")
	// errReplyExtra: the server answered something that was not asked. From
	// here on each reply could be the one to another command.
	errReplyExtra = errors.New("more replies than commands")
)

// notReplyError is a line that does not begin as a reply does.
type notReplyError struct{ line string }

func (e *notReplyError) Error() string { return strconv.Quote(e.line) + " is no SMTP reply" }

// reply is one whole reply. text is valid until the next read.
type reply struct {
	code int
	// text holds the lines without their codes, joined by LF.
	text []byte
}

// replyReader reads replies as RFC 5321 section 4.2 spells them: each line
// begins with the same three digits, and both the line and the reply have an
// upper bound. After an error the stream is out of step and must be closed.
type replyReader struct {
	src        io.Reader
	buf        [maxReplyLine]byte
	start, end int
	text       []byte
}

// buffered is how many bytes were received beyond the last reply.
func (r *replyReader) buffered() int { return r.end - r.start }

// line returns the next line without its end. It is valid until the next call.
func (r *replyReader) line() ([]byte, error) {
	searched := r.start
	for {
		if i := bytes.IndexByte(r.buf[searched:r.end], '\n'); i >= 0 {
			line := r.buf[r.start : searched+i]
			r.start = searched + i + 1
			if n := len(line); n > 0 && line[n-1] == '\r' {
				line = line[:n-1]
			}
			return line, nil
		}
		if r.start > 0 {
			r.end = copy(r.buf[:], r.buf[r.start:r.end])
			r.start = 0
		}
		if r.end == len(r.buf) {
			return nil, errReplyLine
		}
		searched = r.end
		n, err := r.src.Read(r.buf[r.end:])
		r.end += n
		if n == 0 && err != nil {
			if errors.Is(err, io.EOF) && r.end > 0 {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
	}
}

// read returns the next reply.
func (r *replyReader) read() (reply, error) {
	r.text = r.text[:0]
	if r.start == r.end {
		r.start, r.end = 0, 0
	}
	code, total := 0, 0
	for first := true; ; first = false {
		line, err := r.line()
		if err != nil {
			if !first && errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return reply{}, err
		}
		if total += len(line) + 2; total > maxReply {
			return reply{}, errReplySize
		}
		c, text, more, ok := parseReplyLine(line)
		if !ok {
			return reply{}, &notReplyError{line: clean(line, 80)}
		}
		if !first {
			if c != code {
				return reply{}, errReplyCodes
			}
			r.text = append(r.text, '\n')
		}
		code = c
		r.text = append(r.text, text...)
		if !more {
			return reply{code: code, text: r.text}, nil
		}
	}
}

// parseReplyLine splits a line into code and text. A line of the code alone
// is a last line: RFC 5321 section 4.2 asks clients to take it.
func parseReplyLine(line []byte) (code int, text []byte, more, ok bool) {
	if len(line) < 3 || line[0] < '2' || line[0] > '5' || line[1] < '0' || line[1] > '9' || line[2] < '0' || line[2] > '9' {
		return 0, nil, false, false
	}
	code = int(line[0]-'0')*100 + int(line[1]-'0')*10 + int(line[2]-'0')
	if len(line) == 3 {
		return code, nil, false, true
	}
	switch line[3] {
	case ' ':
		return code, line[4:], false, true
	case '-':
		return code, line[4:], true, true
	}
	return 0, nil, false, false
}

// enhanced takes the RFC 3463 status from the front of a reply's text and
// returns it with the text as it is without it on each line. A status that is
// malformed, or of another class than the code, is left in the text.
func enhanced(code int, text []byte) (status string, rest []byte) {
	n := statusLen(text)
	if n == 0 || int(text[0]-'0') != code/100 {
		return "", text
	}
	status = string(text[:n])
	if bytes.IndexByte(text, '\n') < 0 {
		return status, bytes.TrimLeft(text[n:], " ")
	}
	rest = make([]byte, 0, len(text))
	for i, line := range bytes.Split(text, []byte{'\n'}) {
		if i > 0 {
			rest = append(rest, '\n')
		}
		if bytes.HasPrefix(line, []byte(status)) && statusLen(line) == n {
			line = bytes.TrimLeft(line[n:], " ")
		}
		rest = append(rest, line...)
	}
	return status, rest
}

// statusLen is the length of the class "." subject "." detail at the front of
// b, 0 when there is none.
func statusLen(b []byte) int {
	if len(b) < 5 || (b[0] != '2' && b[0] != '4' && b[0] != '5') || b[1] != '.' {
		return 0
	}
	i := 2
	for part := range 2 {
		digits := 0
		for i < len(b) && b[i] >= '0' && b[i] <= '9' {
			i, digits = i+1, digits+1
		}
		if digits < 1 || digits > 3 {
			return 0
		}
		if part == 0 {
			if i == len(b) || b[i] != '.' {
				return 0
			}
			i++
		}
	}
	if i < len(b) && b[i] != ' ' && b[i] != '\n' {
		return 0
	}
	return i
}

// clean makes a server's text fit for an error or a log: line ends become
// blanks, other control characters and invalid UTF-8 question marks, and the
// whole is at most n bytes.
func clean(text []byte, n int) string {
	var b strings.Builder
	b.Grow(min(len(text), n))
	for len(text) > 0 {
		c, size := utf8.DecodeRune(text)
		text = text[size:]
		switch {
		case c == '\n' || c == '\t' || c == '\r':
			c = ' '
		case c < 0x20 || (c >= 0x7f && c < 0xa0) || (c == utf8.RuneError && size == 1) || c == 0x2028 || c == 0x2029:
			c = '?'
		}
		if b.Len()+utf8.RuneLen(c) > n {
			break
		}
		b.WriteRune(c)
	}
	return strings.TrimSpace(b.String())
}

// queueID takes the queue id from the reply to a mail, as "Ok: queued as 4Xyz"
// (Postfix, go-smtp and others) or "ok id=1abc" (Exim) give it.
func queueID(text string) string {
	for _, mark := range []string{"queued as ", "id="} {
		_, after, ok := strings.Cut(text, mark)
		if !ok {
			continue
		}
		id, _, _ := strings.Cut(after, " ")
		return strings.Trim(id, "<>.,;")
	}
	return ""
}
