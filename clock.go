package fluxly

import (
	"sync"
	"time"
)

// farBack is how far back a clock may go for the engine to wait for it. A
// clock that goes back further was wrong before, and to stand still for that
// long would be worse than to go back with it.
const farBack = time.Hour

// steadyClock never goes back a little, so that what was stored a moment ago is
// never in the future: it would count neither in windows nor as what came
// last. It may be read from many goroutines.
type steadyClock struct {
	read func() time.Time

	mu   sync.Mutex
	last time.Time
}

// now is the clock in UTC as it is stored: without its monotonic part, in whole
// microseconds, which every store keeps.
func (c *steadyClock) now() time.Time {
	t := stored(c.read())
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.Before(c.last) && c.last.Sub(t) <= farBack {
		return c.last
	}
	c.last = t
	return t
}

// now is the engine's present.
func (e *Engine) now() time.Time { return e.clock.now() }

// stored is a time as stores keep it.
func stored(t time.Time) time.Time { return t.Round(0).UTC().Truncate(time.Microsecond) }

// dueTime is stored, rounded up.
func dueTime(t time.Time) time.Time {
	if w := stored(t); w.Before(t) {
		return w.Add(time.Microsecond)
	}
	return stored(t)
}
