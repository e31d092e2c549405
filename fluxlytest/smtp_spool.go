package fluxlytest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// envelopeField is the header field, put before the mail in its file, that
// holds what the mail itself does not say.
const envelopeField = "X-Fluxlytest-Accepted: "

// tempPrefix marks files that were not finished.
const tempPrefix = ".unfinished-"

type envelope struct {
	Seq     int       `json:"seq"`
	ID      string    `json:"id"`
	At      time.Time `json:"at"`
	Conn    int       `json:"conn"`
	Secure  bool      `json:"secure,omitempty"`
	From    string    `json:"from"`
	To      []string  `json:"to"`
	Stream  string    `json:"stream"`
	Fate    Fate      `json:"fate"`
	Code    int       `json:"code,omitempty"`
	Reason  string    `json:"reason,omitempty"`
	Dropped []string  `json:"dropped,omitempty"`
}

// encodeSpool puts a mail into the form of its file.
func encodeSpool(m PostmarkMail) ([]byte, error) {
	env, err := json.Marshal(envelope{
		Seq: m.Seq, ID: m.ID, At: m.At, Conn: m.Conn, Secure: m.Secure, From: m.From, To: m.To,
		Stream: m.Stream, Fate: m.Fate, Code: m.Code, Reason: m.Reason, Dropped: m.Dropped,
	})
	if err != nil {
		return nil, err
	}
	return slices.Concat([]byte(envelopeField), env, []byte("\r\n"), m.Raw), nil
}

// decodeSpool undoes encodeSpool.
func decodeSpool(b []byte) (PostmarkMail, error) {
	line, raw, ok := bytes.Cut(b, []byte("\r\n"))
	js, is := bytes.CutPrefix(line, []byte(envelopeField))
	if !ok || !is {
		return PostmarkMail{}, errors.New("its first line is not the one that this server writes")
	}
	var env envelope
	if err := json.Unmarshal(js, &env); err != nil {
		return PostmarkMail{}, err
	}
	m := PostmarkMail{Raw: raw}
	m.parse()
	m.Seq, m.ID, m.At, m.Conn, m.Secure, m.From, m.To = env.Seq, env.ID, env.At, env.Conn, env.Secure, env.From, env.To
	m.Stream, m.Fate, m.Code, m.Reason, m.Dropped = env.Stream, env.Fate, env.Code, env.Reason, env.Dropped
	return m, nil
}

// storeSpool writes a mail to its file. When it returns nil the mail survives
// a crash of the program and of the machine.
func storeSpool(dir string, m PostmarkMail) (err error) {
	b, err := encodeSpool(m)
	if err != nil {
		return fmt.Errorf("store mail %s: %w", m.ID, err)
	}
	f, err := os.CreateTemp(dir, tempPrefix+"*")
	if err != nil {
		return fmt.Errorf("store mail %s: %w", m.ID, err)
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
			err = fmt.Errorf("store mail %s: %w", m.ID, err)
		}
	}()
	if _, err = f.Write(b); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), filepath.Join(dir, fmt.Sprintf("%06d-%s.eml", m.Seq, m.ID))); err != nil {
		return err
	}
	return syncDir(dir)
}

// syncDir makes a rename in the folder durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// loadSpool makes the folder when it is missing and reads the mails in it. A
// file that was not finished is of a mail that was never accepted, and goes.
func loadSpool(dir string) ([]PostmarkMail, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // mail of test accounts, for everybody to read
		return nil, fmt.Errorf("make the folder for mails: %w", err)
	}
	entries, err := os.ReadDir(dir) // sorted by name, so by Seq
	if err != nil {
		return nil, fmt.Errorf("read the folder of mails: %w", err)
	}
	var mails []PostmarkMail
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if strings.HasPrefix(e.Name(), tempPrefix) {
			if err := os.Remove(path); err != nil {
				return nil, fmt.Errorf("remove an unfinished mail: %w", err)
			}
			continue
		}
		if filepath.Ext(path) != ".eml" {
			continue
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read a mail: %w", err)
		}
		m, err := decodeSpool(b)
		if err != nil {
			return nil, fmt.Errorf("read mail %s: %w; remove the file if nobody needs it", path, err)
		}
		mails = append(mails, m)
	}
	return mails, nil
}
