package main

import (
	"os"
	"strings"
	"testing"
)

// The document says what the model computes from the figures in measured.json.
func TestDocumentIsUpToDate(t *testing.T) {
	t.Parallel()
	m, err := readMeasured(measuredJSON)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile("../../docs/scale.md")
	if err != nil {
		t.Fatal(err)
	}
	want, err := replace(doc, tables(m))
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != string(doc) {
		t.Error("docs/scale.md is not what the model gives; run: cd bench && go run ./scale -write")
	}
}

func TestNeed(t *testing.T) {
	t.Parallel()
	m := Measured{
		EventsPerSecond: 1000, EventsPerSecondTwo: 1500, WakesPerSecond: 1000, SendsPerSecond: 500,
		BytesEvent: 100, BytesProfile: 1000, BytesRun: 500, BytesMail: 800, WALEvent: 300,
	}
	// A month of one event a second, and a run for each tenth.
	n := need(m, Workload{Profiles: 10, Events: monthSeconds, Mails: monthSeconds / 10, EventsPerRun: 10, SleepDays: 3, Keep: 2, Peak: 5})
	if n.EventsPerSecond != 1 || n.PeakEvents != 5 || n.SleepingRuns != 25_920 {
		t.Errorf("%+v", n)
	}
	if want := 5.0/1500 + 0.5/1000 + 0.5/500; n.Load < want*0.999 || n.Load > want*1.001 {
		t.Errorf("load %v, want %v", n.Load, want)
	}
	if want := 2.0*monthSeconds*100 + 10*1000 + (25_920+2*259_200)*500 + 2*259_200*800; n.Size != want {
		t.Errorf("size %v, want %v", n.Size, want)
	}
}

func TestFiguresInWords(t *testing.T) {
	t.Parallel()
	for v, want := range map[float64]string{0.5: "0.5", 3.14159: "3.14", 4: "4", 10: "10", 12.34: "12.3", 123.4: "123", 1234: "1,234", 20_005: "20,005", 5e7: "50 million", 1e9: "1 billion"} {
		if got := count(v); got != want {
			t.Errorf("%v: %q, want %q", v, got, want)
		}
	}
	if _, err := readMeasured([]byte(`{"events_per_second": 1}`)); err == nil || !strings.Contains(err.Error(), "not a measured figure") {
		t.Errorf("a figure that is missing: %v", err)
	}
}
