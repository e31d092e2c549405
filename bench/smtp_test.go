package bench

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/smtp"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	gosmtp "github.com/emersion/go-smtp"
	"gopkg.in/gomail.v2"

	"github.com/getfluxly/fluxly"
)

// handOver is a way to send: open makes what one goroutine sends with, over a
// connection of its own that is kept. All compose each mail.
type handOver struct {
	name string
	open func(s *sink) (send func(l *letter) error, end func())
}

func handOvers() []handOver {
	return []handOver{
		{"fluxly", nil}, // one sender for all goroutines: see run
		{"net/smtp and the standard library", func(s *sink) (func(l *letter) error, func()) {
			c, err := smtp.Dial(s.addr)
			must(err)
			must(c.StartTLS(s.config()))
			must(c.Auth(smtp.PlainAuth("", sinkUser, sinkPassword, "127.0.0.1")))
			compose, buf := composer3(), bytes.NewBuffer(make([]byte, 0, 16<<10))
			return func(l *letter) error {
				compose(buf, l)
				if err := c.Mail(l.from); err != nil {
					return err
				}
				if err := c.Rcpt(l.to); err != nil {
					return err
				}
				w, err := c.Data()
				if err != nil {
					return err
				}
				if _, err := w.Write(buf.Bytes()); err != nil {
					return err
				}
				return w.Close()
			}, func() { _ = c.Close() }
		}},
		{"go-smtp and the standard library", func(s *sink) (func(l *letter) error, func()) {
			c, err := gosmtp.DialStartTLS(s.addr, s.config())
			must(err)
			must(c.Auth(sasl.NewPlainClient("", sinkUser, sinkPassword)))
			compose, buf := composer3(), bytes.NewBuffer(make([]byte, 0, 16<<10))
			return func(l *letter) error {
				compose(buf, l)
				return c.SendMail(l.from, []string{l.to}, buf)
			}, func() { _ = c.Close() }
		}},
		{"gomail.v2", func(s *sink) (func(l *letter) error, func()) {
			d := gomail.NewDialer("127.0.0.1", s.port(), sinkUser, sinkPassword)
			d.TLSConfig = s.config()
			c, err := d.Dial()
			must(err)
			buf := bytes.NewBuffer(make([]byte, 0, 16<<10))
			compose := composers()[2].write
			return func(l *letter) error {
				return c.Send(l.from, []string{l.to}, writerTo(func(w io.Writer) (int64, error) {
					compose(buf, l)
					return buf.WriteTo(w)
				}))
			}, func() { _ = c.Close() }
		}},
	}
}

func composer3() func(*bytes.Buffer, *letter) { return composers()[3].write }

type writerTo func(w io.Writer) (int64, error)

func (f writerTo) WriteTo(w io.Writer) (int64, error) { return f(w) }

func (s *sink) config() *tls.Config {
	return &tls.Config{RootCAs: s.roots, ServerName: "127.0.0.1", MinVersion: tls.VersionTLS12}
}

func (s *sink) port() int {
	_, p, err := net.SplitHostPort(s.addr)
	must(err)
	port, err := strconv.Atoi(p)
	must(err)
	return port
}

// openAll opens one way for each of n goroutines, ready to send.
func (h handOver) openAll(t *testing.T, s *sink, n int) []func(l *letter) error {
	t.Helper()
	sends := make([]func(l *letter) error, n)
	if h.open != nil {
		for i := range sends {
			send, end := h.open(s)
			t.Cleanup(end)
			sends[i] = send
		}
		return sends
	}
	sender, err := fluxly.NewSMTP(fluxly.SMTPConfig{
		Host: "127.0.0.1", Port: s.port(), Username: sinkUser, Password: sinkPassword, RootCAs: s.roots,
		MaxConnections: n, MaxIdle: time.Hour,
	})
	must(err)
	t.Cleanup(func() { must(sender.Close()) })
	for i := range sends {
		sends[i] = func(l *letter) error {
			_, err := sender.Send(context.Background(), &fluxly.Message{
				From: l.fromName + " <" + l.from + ">", To: l.toName + " <" + l.to + ">", ReplyTo: l.replyTo,
				Subject: l.subject, MessageID: l.messageID, Date: l.date, Text: l.text, HTML: l.html,
				Headers: []fluxly.Header{{Name: "List-Unsubscribe", Value: l.unsubscribe}},
			})
			return err
		}
	}
	return sends
}

// burst sends n mails with each of the sends at the same time and gives the
// mails a second.
func burst(t *testing.T, sends []func(l *letter) error, n int, ls []letter) float64 {
	t.Helper()
	var all sync.WaitGroup
	start := time.Now()
	for k, send := range sends {
		all.Go(func() {
			for i := range n {
				if err := send(&ls[(k*n+i)%len(ls)]); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	return float64(len(sends)*n) / time.Since(start).Seconds()
}

// compareSMTP runs all ways in turn, round by round, over kept connections,
// and gives the median rates. The first burst, which opens fluxly's
// connections, is not counted.
func compareSMTP(t *testing.T, s *sink, conns, mails, rounds int) []float64 {
	t.Helper()
	if underRace {
		rounds = 1
	}
	ls, ways := letters(512), handOvers()
	sends := make([][]func(l *letter) error, len(ways))
	rates := make([][]float64, len(ways))
	for k, way := range ways {
		sends[k] = way.openAll(t, s, conns)
		burst(t, sends[k], 2, ls)
	}
	var trips []float64
	for range rounds {
		for k := range ways {
			before := s.replies.Load()
			rates[k] = append(rates[k], burst(t, sends[k], mails, ls))
			if len(trips) < len(ways) {
				trips = append(trips, float64(s.replies.Load()-before)/float64(conns*mails))
			}
		}
	}
	medians := make([]float64, len(ways))
	for k := range ways {
		medians[k] = median(rates[k])
	}
	best := max(medians[1], medians[2], medians[3])
	for k, way := range ways {
		t.Logf("%-36s %8.0f mails/s  %.2fx the best peer  %.1f replies a mail", way.name, medians[k], medians[k]/best, trips[k])
	}
	for k := range medians {
		medians[k] /= best
	}
	return medians
}

// TestSMTPOverDistance: 8 kept connections to a server 20 ms away and back.
// Where it does not announce PIPELINING each mail costs its four round trips
// whoever sends it; where it does, fluxly needs two.
func TestSMTPOverDistance(t *testing.T) {
	t.Run("lock step", func(t *testing.T) {
		ratio := compareSMTP(t, newSink(t, 10*time.Millisecond, false), 8, 6, 9)
		wantRatio(t, ratio[0], 0.97)
	})
	t.Run("pipelining", func(t *testing.T) {
		ratio := compareSMTP(t, newSink(t, 10*time.Millisecond, true), 8, 6, 9)
		wantRatio(t, ratio[0], 1.8)
	})
}

// TestSMTPNextDoor: the same to a server without any delay, where processor
// time is all there is.
func TestSMTPNextDoor(t *testing.T) {
	t.Run("lock step", func(t *testing.T) {
		ratio := compareSMTP(t, newSink(t, 0, false), 8, 60, 15)
		wantRatio(t, ratio[0], 0.97)
	})
	t.Run("pipelining", func(t *testing.T) {
		ratio := compareSMTP(t, newSink(t, 0, true), 8, 60, 15)
		wantRatio(t, ratio[0], 1.3)
	})
}

func wantRatio(t *testing.T, got, bar float64) {
	t.Helper()
	if got < bar && !underRace {
		t.Errorf("%.2fx the rate of the best peer; the bar is %.2fx", got, bar)
	}
}
