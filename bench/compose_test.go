package bench

import (
	"bytes"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net/textproto"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-message"
	"gopkg.in/gomail.v2"

	"github.com/getfluxly/fluxly"
	"github.com/getfluxly/fluxly/internal/mimemail"
)

// letter is the mail that all composers write: two parts, about 8 KB, with
// letters outside ASCII in subject, names and bodies.
type letter struct {
	fromName, from, toName, to, replyTo string
	subject, messageID, unsubscribe     string
	date                                time.Time
	text, html                          string
}

func letters(n int) []letter {
	ls := make([]letter, n)
	for i := range ls {
		name := fmt.Sprintf("Jörg Müller-%d", i)
		var text, html strings.Builder
		fmt.Fprintf(&text, "Hallo %s,\n\ndeine Testphase läuft in drei Tagen ab.\n\n", name)
		fmt.Fprintf(&html, "<!doctype html>\n<html><body style=\"font-family: sans-serif\">\n<h1>Hallo %s</h1>\n", name)
		for k := range 22 {
			fmt.Fprintf(&text, "%d. Du hast %d Projekte angelegt und %d Berichte geteilt; schön, dass du da bist.\n", k+1, i%7+k, i%5)
			fmt.Fprintf(&html, "<p style=\"margin: 0 0 16px; color: #222\">%d. Du hast <b>%d Projekte</b> angelegt und <a href=\"https://app.acme.example/reports?id=%d&amp;k=%d\">%d Berichte</a> geteilt; schön, dass du da bist.</p>\n", k+1, i%7+k, i, k, i%5)
		}
		text.WriteString("\nViele Grüße\nAcme\n")
		html.WriteString("<p>Viele Grüße<br>Acme</p>\n</body></html>\n")
		ls[i] = letter{
			fromName: "Acme Größe", from: "hello@acme.example", toName: name, to: fmt.Sprintf("user%d@customer.example", i),
			replyTo: "support@acme.example", subject: fmt.Sprintf("Deine Testphase läuft ab, %s", name),
			messageID:   fmt.Sprintf("run-%d-welcome-1@acme.example", i),
			unsubscribe: fmt.Sprintf("<https://acme.example/u/%032d>", i),
			date:        time.Date(2026, 3, 1, 9, 30, i%60, 0, time.UTC),
			text:        text.String(), html: html.String(),
		}
	}
	return ls
}

type composer struct {
	name string
	// write composes l into buf, which it may reset and reuse.
	write func(buf *bytes.Buffer, l *letter)
}

const stream = "lifecycle-production"

func composers() []composer {
	var mail mimemail.Mail
	fields := make([]mimemail.Field, 2)
	return []composer{
		{"fluxly, composer", func(buf *bytes.Buffer, l *letter) {
			fields[0] = mimemail.Field{Name: "List-Unsubscribe", Value: l.unsubscribe}
			fields[1] = mimemail.Field{Name: "X-PM-Message-Stream", Value: stream}
			mail = mimemail.Mail{
				From: mimemail.Mailbox{Name: l.fromName, Addr: l.from}, To: mimemail.Mailbox{Name: l.toName, Addr: l.to},
				ReplyTo: mimemail.Mailbox{Addr: l.replyTo}, Subject: l.subject, MessageID: l.messageID,
				Date: l.date, Text: l.text, HTML: l.html, Fields: fields,
			}
			buf.Reset()
			out, err := mimemail.Append(buf.AvailableBuffer(), &mail)
			must(err)
			buf.Write(out)
		}},
		{"fluxly, Message checked and composed", func(buf *bytes.Buffer, l *letter) {
			m := fluxly.Message{
				From: l.fromName + " <" + l.from + ">", To: l.toName + " <" + l.to + ">", ReplyTo: l.replyTo,
				Subject: l.subject, MessageID: l.messageID, Date: l.date, Text: l.text, HTML: l.html, Stream: stream,
				Headers: []fluxly.Header{{Name: "List-Unsubscribe", Value: l.unsubscribe}},
			}
			buf.Reset()
			out, err := m.AppendTo(buf.AvailableBuffer())
			must(err)
			buf.Write(out)
		}},
		{"gomail.v2", func(buf *bytes.Buffer, l *letter) {
			m := gomail.NewMessage()
			m.SetAddressHeader("From", l.from, l.fromName)
			m.SetAddressHeader("To", l.to, l.toName)
			m.SetHeader("Reply-To", l.replyTo)
			m.SetHeader("Subject", l.subject)
			m.SetHeader("Message-ID", "<"+l.messageID+">")
			m.SetDateHeader("Date", l.date)
			m.SetHeader("List-Unsubscribe", l.unsubscribe)
			m.SetHeader("X-PM-Message-Stream", stream)
			m.SetBody("text/plain", l.text)
			m.AddAlternative("text/html", l.html)
			buf.Reset()
			_, err := m.WriteTo(buf)
			must(err)
		}},
		{"standard library by hand", func(buf *bytes.Buffer, l *letter) {
			buf.Reset()
			mw := multipart.NewWriter(buf)
			fmt.Fprintf(buf, "From: %s <%s>\r\nTo: %s <%s>\r\nReply-To: <%s>\r\nSubject: %s\r\nDate: %s\r\nMessage-ID: <%s>\r\n"+
				"List-Unsubscribe: %s\r\nX-PM-Message-Stream: %s\r\nMIME-Version: 1.0\r\nContent-Type: multipart/alternative; boundary=%q\r\n\r\n",
				mime.QEncoding.Encode("utf-8", l.fromName), l.from, mime.QEncoding.Encode("utf-8", l.toName), l.to, l.replyTo,
				mime.QEncoding.Encode("utf-8", l.subject), l.date.Format(time.RFC1123Z), l.messageID, l.unsubscribe, stream, mw.Boundary())
			for _, p := range [...][2]string{{"text/plain", l.text}, {"text/html", l.html}} {
				h := textproto.MIMEHeader{}
				h.Set("Content-Type", p[0]+"; charset=utf-8")
				h.Set("Content-Transfer-Encoding", "quoted-printable")
				w, err := mw.CreatePart(h)
				must(err)
				qp := quotedprintable.NewWriter(w)
				_, err = io.WriteString(qp, p[1])
				must(err)
				must(qp.Close())
			}
			must(mw.Close())
		}},
	}
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func BenchmarkCompose(b *testing.B) {
	ls := letters(512)
	for _, c := range composers() {
		b.Run(c.name, func(b *testing.B) {
			buf := bytes.NewBuffer(make([]byte, 0, 16<<10))
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				c.write(buf, &ls[i%len(ls)])
				i++
			}
		})
	}
}

// TestCompose holds that all composers write the same mail, and prints the
// time and allocations of each: the median of interleaved rounds, since the
// machine's speed moves between them.
func TestCompose(t *testing.T) {
	ls := letters(512)
	cs := composers()
	buf := bytes.NewBuffer(make([]byte, 0, 16<<10))
	for _, c := range cs {
		c.write(buf, &ls[7])
		size := buf.Len()
		text, html := parts(t, buf)
		if text != strings.ReplaceAll(ls[7].text, "\n", "\r\n") || html != strings.ReplaceAll(ls[7].html, "\n", "\r\n") {
			t.Errorf("%s: the bodies read back differ", c.name)
		}
		t.Logf("%-38s %d bytes", c.name, size)
	}

	const rounds, mails = 21, 512
	times := make([][]float64, len(cs))
	allocs := make([]float64, len(cs))
	for range rounds {
		for k, c := range cs {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			start := time.Now()
			for i := range mails {
				c.write(buf, &ls[i])
			}
			times[k] = append(times[k], float64(time.Since(start).Nanoseconds())/mails)
			runtime.ReadMemStats(&after)
			allocs[k] = float64(after.Mallocs-before.Mallocs) / mails
		}
	}
	best := min(median(times[2]), median(times[3]))
	for k, c := range cs {
		t.Logf("%-38s %8.0f ns  %6.1f allocations  %.2fx the best peer", c.name, median(times[k]), allocs[k], median(times[k])/best)
	}
	for k := range 2 {
		if ratio := median(times[k]) / best; ratio > 0.4 || allocs[k] > 15 {
			t.Errorf("%s: %.2fx the time of the best peer and %.1f allocations; the bar is 0.4x and 15", cs[k].name, ratio, allocs[k])
		}
	}
}

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	return s[len(s)/2]
}

func parts(t *testing.T, buf *bytes.Buffer) (text, html string) {
	t.Helper()
	e, err := message.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	mr := e.MultipartReader()
	for _, dst := range []*string{&text, &html} {
		p, err := mr.NextPart()
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(p.Body)
		if err != nil {
			t.Fatal(err)
		}
		*dst = string(b)
	}
	return text, html
}
