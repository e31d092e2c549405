// Command scale computes what a database carries from measured figures, and
// writes the tables of docs/scale.md.
//
//	cd bench && go run ./scale        # prints the tables
//	cd bench && go run ./scale -write # writes them into docs/scale.md
//
// The inputs are in measured.json, each with the command that measured it.
package main

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
)

//go:embed measured.json
var measuredJSON []byte

func main() {
	write := flag.Bool("write", false, "write the tables into the document")
	doc := flag.String("doc", "../docs/scale.md", "the document")
	flag.Parse()
	if err := run(*write, *doc); err != nil {
		fmt.Fprintln(os.Stderr, "scale:", err)
		os.Exit(1)
	}
}

func run(write bool, doc string) error {
	m, err := readMeasured(measuredJSON)
	if err != nil {
		return err
	}
	if !write {
		fmt.Print(tables(m))
		return nil
	}
	old, err := os.ReadFile(doc) //nolint:gosec // the caller's own document
	if err != nil {
		return err
	}
	text, err := replace(old, tables(m))
	if err != nil {
		return fmt.Errorf("%s: %w", doc, err)
	}
	return os.WriteFile(doc, text, 0o644) //nolint:gosec // a document for everybody
}

// Measured are the figures that the model stands on: Postgres with all on one
// machine of two cores.
type Measured struct {
	// EventsPerSecond of one process, and of two on the same database.
	EventsPerSecond    float64 `json:"events_per_second"`
	EventsPerSecondTwo float64 `json:"events_per_second_two_processes"`
	WakesPerSecond     float64 `json:"wakes_per_second"`
	SendsPerSecond     float64 `json:"sends_per_second"`
	// Bytes of table and indexes.
	BytesEvent   float64 `json:"bytes_event"`
	BytesProfile float64 `json:"bytes_profile"`
	BytesRun     float64 `json:"bytes_sleeping_run"`
	BytesMail    float64 `json:"bytes_sent_mail"`
	// WALEvent are the bytes of write-ahead log for one event.
	WALEvent float64 `json:"wal_bytes_event"`
	// Commands say how each was measured.
	Commands map[string]string `json:"commands"`
}

func readMeasured(raw []byte) (Measured, error) {
	var m Measured
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&m); err != nil {
		return m, fmt.Errorf("measured.json: %w", err)
	}
	for name, v := range map[string]float64{
		"events_per_second": m.EventsPerSecond, "events_per_second_two_processes": m.EventsPerSecondTwo,
		"wakes_per_second": m.WakesPerSecond, "sends_per_second": m.SendsPerSecond, "bytes_event": m.BytesEvent,
		"bytes_profile": m.BytesProfile, "bytes_sleeping_run": m.BytesRun, "bytes_sent_mail": m.BytesMail, "wal_bytes_event": m.WALEvent,
	} {
		if v <= 0 {
			return m, fmt.Errorf("measured.json: %s is %v, not a measured figure", name, v)
		}
	}
	return m, nil
}

// Marks in the document, between which the tables stand.
const (
	beginMark = "<!-- tables: cd bench && go run ./scale -write -->\n"
	endMark   = "<!-- end of tables -->"
)

func replace(doc []byte, tables string) ([]byte, error) {
	before, rest, ok := strings.Cut(string(doc), beginMark)
	if !ok {
		return nil, errors.New("there is no mark for the tables")
	}
	_, after, ok := strings.Cut(rest, endMark)
	if !ok {
		return nil, errors.New("there is no mark for the end of the tables")
	}
	return []byte(before + beginMark + "\n" + tables + "\n" + endMark + after), nil
}
