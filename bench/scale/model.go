package main

import (
	"fmt"
	"math"
	"strings"
)

// Workload is what a program asks of the database.
type Workload struct {
	Name     string
	Profiles float64
	// Events and Mails of a month; runs sleep for SleepDays on average, and one
	// starts for each EventsPerRun events.
	Events, Mails float64
	EventsPerRun  float64
	SleepDays     float64
	// Keep is for how many months events and mails are kept.
	Keep float64
	// Peak is how many times the mean the busiest hour is.
	Peak float64
}

// workloads are the ones that the document speaks of.
var workloads = []Workload{
	{"a young product", 50_000, 2e6, 1e5, 50, 5, 13, 5},
	{"a grown one", 1_000_000, 5e7, 3e6, 50, 5, 13, 5},
	{"a large one", 10_000_000, 2e8, 2e7, 50, 5, 13, 5},
	{"a hundred million profiles", 100_000_000, 1e9, 1e8, 50, 5, 13, 5},
}

const (
	monthSeconds = 30 * 86_400
	gib          = 1 << 30
)

// Need is what a workload needs.
type Need struct {
	Workload
	EventsPerSecond, PeakEvents       float64
	SleepingRuns                      float64
	Events, People, Runs, Mails, Size float64 // bytes
	WALPerDay                         float64 // bytes
	// Load is the busiest hour as a share of what was measured for two
	// processes: events, wake-ups and mails add up.
	Load float64
}

func need(m Measured, w Workload) Need {
	n := Need{Workload: w}
	n.EventsPerSecond = w.Events / monthSeconds
	n.PeakEvents = n.EventsPerSecond * w.Peak
	runs := w.Events / w.EventsPerRun // a month
	n.SleepingRuns = runs * w.SleepDays / 30
	n.Events = w.Events * w.Keep * m.BytesEvent
	n.People = w.Profiles * m.BytesProfile
	// Ended runs stay as long as events, and cost what sleeping ones do.
	n.Runs = (n.SleepingRuns + runs*w.Keep) * m.BytesRun
	n.Mails = w.Mails * w.Keep * m.BytesMail
	n.Size = n.Events + n.People + n.Runs + n.Mails
	n.WALPerDay = w.Events / 30 * m.WALEvent
	wakes, mails := runs/monthSeconds*w.Peak, w.Mails/monthSeconds*w.Peak
	n.Load = n.PeakEvents/m.EventsPerSecondTwo + wakes/m.WakesPerSecond + mails/m.SendsPerSecond
	return n
}

// Databases of this size are still backed up, restored and vacuumed in hours.
const comfortable = 1024 * gib

// first says which resource ends first, and at how many times the workload.
func (n Need) first() (string, float64) {
	byLoad, bySize := 1/n.Load, comfortable/n.Size
	if byLoad < bySize {
		return "processor", byLoad
	}
	return "size on disk", bySize
}

// databases is how many databases of two cores and a comfortable size carry it,
// with the busiest hour at 70 % of what was measured.
func (n Need) databases() int {
	return int(math.Ceil(max(n.Load/0.7, n.Size/comfortable)))
}

func tables(m Measured) string {
	var b strings.Builder
	b.WriteString("| measured on two cores | figure | command |\n|---|---|---|\n")
	for _, r := range []struct {
		name, key, unit string
		v               float64
	}{
		{"events, one process", "events_per_second", "a second", m.EventsPerSecond},
		{"events, two processes", "events_per_second_two_processes", "a second", m.EventsPerSecondTwo},
		{"wake-ups", "wakes_per_second", "a second", m.WakesPerSecond},
		{"mails handed over", "sends_per_second", "a second", m.SendsPerSecond},
		{"an event", "bytes", "bytes", m.BytesEvent},
		{"a profile", "bytes", "bytes", m.BytesProfile},
		{"a sleeping run", "bytes", "bytes", m.BytesRun},
		{"a sent mail", "bytes", "bytes", m.BytesMail},
		{"write-ahead log of an event", "bytes", "bytes", m.WALEvent},
	} {
		fmt.Fprintf(&b, "| %s | %s %s | `%s` |\n", r.name, count(r.v), r.unit, m.Commands[r.key])
	}
	b.WriteString("\n| workload | profiles | events a month | mails a month | events a second, mean / busiest hour | runs asleep | size after 13 months | of it events | log a day | busiest hour | ends first | databases |\n")
	b.WriteString("|---|---|---|---|---|---|---|---|---|---|---|---|\n")
	for _, w := range workloads {
		n := need(m, w)
		what, times := n.first()
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s / %s | %s | %s | %.0f %% | %s | %.1f %% | %s, at %s x | %d |\n",
			w.Name, count(w.Profiles), count(w.Events), count(w.Mails), count(n.EventsPerSecond), count(n.PeakEvents),
			count(n.SleepingRuns), size(n.Size), 100*n.Events/n.Size, size(n.WALPerDay), 100*n.Load, what, count(times), n.databases())
	}
	return b.String()
}

// count writes a figure with three digits that count.
func count(v float64) string {
	for _, u := range []struct {
		of   float64
		name string
	}{{1e9, " billion"}, {1e6, " million"}} {
		if v >= u.of {
			return trim(v/u.of) + u.name
		}
	}
	if v >= 1000 {
		n := int64(math.Round(v))
		return fmt.Sprintf("%d,%03d", n/1000, n%1000)
	}
	return trim(v)
}

func trim(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return strings.TrimSuffix(fmt.Sprintf("%.1f", v), ".0")
	}
	return strings.TrimSuffix(strings.TrimSuffix(fmt.Sprintf("%.2f", v), "0"), ".0")
}

func size(bytes float64) string {
	if bytes >= 1024*gib {
		return fmt.Sprintf("%.1f TiB", bytes/gib/1024)
	}
	if bytes < gib {
		return fmt.Sprintf("%.0f MiB", bytes/gib*1024)
	}
	if bytes >= 10*gib {
		return fmt.Sprintf("%.0f GiB", bytes/gib)
	}
	return fmt.Sprintf("%.1f GiB", bytes/gib)
}
