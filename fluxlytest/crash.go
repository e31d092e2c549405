package fluxlytest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/getfluxly/fluxly"
)

// ErrCrashed is what everything returns in a process that a crash schedule has
// stopped.
var ErrCrashed = errors.New("fluxlytest: the process was stopped here")

// Opener opens the store of a directory, as a process that starts does, or ends
// the test. A
// store that at most one process can have open (see [fluxly.ExclusiveStore])
// was closed before; another one may be open in other processes. What is in
// no directory, such as a database on a server, takes its name from the
// directory's.
type Opener func(t testing.TB, dir string) fluxly.Store

// CrashProvider is how the provider of a crash schedule behaves when a reply
// was lost, and what the engine is told to do then.
type CrashProvider string

// The providers.
const (
	// CrashAsked can be asked for a mail by its send key.
	CrashAsked CrashProvider = "asked"
	// CrashShowsLate can be asked, and shows a mail some minutes after it took
	// it (LookupDelay).
	CrashShowsLate CrashProvider = "shows late"
	// CrashHold cannot be asked; Config.Unknown is [fluxly.Hold], and somebody
	// looks into the provider's own list and calls [fluxly.Engine.Settle].
	CrashHold CrashProvider = "hold"
	// CrashCountAsSent cannot be asked; Config.Unknown is
	// [fluxly.CountAsSent].
	CrashCountAsSent CrashProvider = "count as sent"
	// CrashSendAgain cannot be asked; Config.Unknown is [fluxly.SendAgain].
	// This is the one case in which a mail may come twice: after a reply that
	// was lost.
	CrashSendAgain CrashProvider = "send again"
)

// CrashConfig is what [TestCrashSchedules] runs. Engine.Automations is needed;
// everything else has the default that its comment states.
type CrashConfig struct {
	// Engine is the program's own configuration: automations, segments,
	// Funcs, Conditions, templates. Store, Sender, Now, MaxSends and Unknown
	// are the schedule's. Mode, From and Emails are filled in as by [New].
	// Funcs and Conditions are called from many goroutines; they see keys and
	// ids that differ from seed to seed.
	Engine fluxly.Config
	// Calls makes what the program calls, in order of time, from the random
	// source alone. Default: calls drawn from what the automations listen to:
	// their events with properties that fit their conditions, traits, dates,
	// merges, aliases, unsubscriptions, suppressions, erasures, enrollments.
	Calls func(r *rand.Rand) []CrashCall
	// Days is how many days a schedule covers, before all that is left is
	// worked off. Default: 14.
	Days int
	// Seeds is how many schedules are run. Default: 200, or 40 with -short.
	// First is the first seed; default: 1. The environment variable
	// FLUXLY_SEED names one seed to repeat, and then no other runs.
	Seeds int
	First uint64
	// Open opens the store. Default: one in memory that outlives its
	// processes, which in every second schedule several may share.
	Open Opener
	// Processes is the most processes at once on a store that can be shared.
	// Default: 3. A store of one process at a time has one.
	Processes int
	// Providers are taken in turn, one a seed. Default: all of them.
	Providers []CrashProvider
}

// CrashCall is one call that the program makes.
type CrashCall struct {
	// At is when, counted from the start of the schedule.
	At time.Duration
	// Event is tracked, when Call is nil. An empty MessageID is made from the
	// seed and the place among the calls.
	Event fluxly.Event
	// Call makes one call of the engine and returns its error. A call that was
	// not answered is made again, and so are some that were, so it must give
	// the same MessageID each time. An error that matches
	// [fluxly.ErrNotFound] or [fluxly.ErrInvalid] counts as an answer.
	Call func(ctx context.Context, e *fluxly.Engine) error
	// Name is what the schedule calls it; default: the event.
	Name string
}

// TestCrashSchedules runs automations under crashes: for each seed a history
// of calls over some days, during which processes are stopped, frozen and
// started again while the caller repeats and reorders its calls, the clock
// jumps, and the provider loses replies. A process is stopped at a write of
// the store (the commit is lost, or it is kept and nobody hears of it), at a
// read, while it starts, in a step of the program's own, or at a call of the
// provider: before it took the mail, after it but before the reply, and after
// the reply. It is frozen at the same places, also past its lease, while
// others take over its work, and goes on later. All of it is drawn from the
// seed, and the same seed gives the same schedule. A failure prints the seed,
// the schedule and what does not hold.
//
// What must hold, after each stop and in the end:
//
//   - what [CheckInvariants] says: each live run has exactly one pending
//     action, which agrees with its log and its mail;
//   - no send key is accepted twice, except with [CrashSendAgain] after a
//     reply that was lost;
//   - none is missing: in the end no mail is open; a mail that counts as
//     accepted was taken by the provider, and one that counts as refused or
//     skipped was not;
//   - no mail is given to the provider after an engine has returned from
//     Unsubscribe or Suppress, nor by another that looked after that;
//   - a step of the program's own is not called again once its result is
//     stored, except by a process that has a claim on it: that of a try before
//     had run out, and its result came late;
//   - counts add up: Engine.Stats has as many started runs as ended and
//     standing ones, and at each step as many mails as were queued; of those
//     that Engine.Counters has as queued each is accepted, refused, skipped or
//     unknown in the end;
//   - the state in the end is that of a history without any crash.
//
// The last is exact, to the instant of each timer. The history to compare with
// is played on a store in memory by one process that is never stopped. It makes
// the calls that took effect, in the order and at the instants in which
// they did, each once however often it was repeated; and each mail and each
// step of the program's own is answered at the instant and in the way in which
// it was answered under crashes. Left out are the times of bookkeeping
// (UpdatedAt, QueuedAt, how often something was tried) and, of a mail whose
// outcome was stored later than it was claimed, whether what came in between
// would have stopped it or let it go. A schedule in which the time of the store went back
// (by a clock that was set back, and an engine that does not remember) is not
// compared, because then a timer may come before or after an event; all else
// is checked in it too.
//
// A sender is taken to end with its context, as [fluxly.Sender] must: a process
// that is frozen inside of it for longer than Config.SendTimeout hands nothing
// over afterwards. So do steps of the program's own.
func TestCrashSchedules(t *testing.T, cfg CrashConfig) {
	t.Helper()
	setup, err := newCrashSetup(cfg)
	if err != nil {
		t.Fatal(err)
	}
	first, n := cfg.First, cfg.Seeds
	if first == 0 {
		first = 1
	}
	if n == 0 {
		n = 200
		if testing.Short() {
			n = 40
		}
	}
	if seed, err := strconv.ParseUint(os.Getenv("FLUXLY_SEED"), 10, 64); err == nil {
		first, n = seed, 1
	}
	var mu sync.Mutex
	var total crashStats
	next := first
	take := func() (seed uint64, ok bool) {
		mu.Lock()
		defer mu.Unlock()
		if next >= first+uint64(n) || t.Failed() || t.Context().Err() != nil {
			return 0, false
		}
		next++
		return next - 1, true
	}
	dir := t.TempDir()
	// A lane for each processor: a schedule itself does one thing at a time.
	t.Run("schedules", func(t *testing.T) {
		for lane := range min(n, runtime.GOMAXPROCS(0)) {
			t.Run(strconv.Itoa(lane), func(t *testing.T) {
				t.Parallel()
				for seed, ok := take(); ok; seed, ok = take() {
					w := newCrashWorld(t, setup, seed, dir, randomPlan(seed))
					err := w.play(t.Context())
					mu.Lock()
					total.add(w.stats)
					mu.Unlock()
					if err != nil {
						t.Errorf("seed %d (repeat it with FLUXLY_SEED=%d): %v\nthe schedule:\n%s", seed, seed, err, w.trace())
					}
				}
			})
		}
	})
	if !t.Failed() {
		t.Logf("%d schedules from seed %d: %s", n, first, total)
	}
}

// crashStats is what schedules were made of.
type crashStats struct {
	Calls, Repeats, Stops, Pauses, Mails, Restarts, Compared, Schedules, Points int
}

func (s *crashStats) add(o crashStats) {
	s.Calls += o.Calls
	s.Repeats += o.Repeats
	s.Stops += o.Stops
	s.Pauses += o.Pauses
	s.Mails += o.Mails
	s.Restarts += o.Restarts
	s.Compared += o.Compared
	s.Schedules += o.Schedules
	s.Points += o.Points
}

func (s crashStats) String() string {
	return fmt.Sprintf("%d calls and %d repeats, %d places at which a process could stop, %d stops, %d freezes, %d starts, %d mails taken, %d compared with a history without crashes",
		s.Calls, s.Repeats, s.Points, s.Stops, s.Pauses, s.Restarts, s.Mails, s.Compared)
}

// crashSetup is what all schedules of a test share.
type crashSetup struct {
	cfg       CrashConfig
	engine    fluxly.Config
	calls     func(r *rand.Rand) []CrashCall
	days      int
	providers []CrashProvider
	// transactional names the mails that no unsubscription stops.
	transactional map[string]bool

	look  sync.Once
	alone bool // the store is open in one process at a time
}

func newCrashSetup(cfg CrashConfig) (*crashSetup, error) {
	s := &crashSetup{cfg: cfg, engine: cfg.Engine, calls: cfg.Calls, days: cfg.Days, providers: cfg.Providers, transactional: map[string]bool{}}
	if len(cfg.Engine.Automations) == 0 {
		return nil, errors.New("fluxlytest: CrashConfig.Engine.Automations is empty: there is nothing to stop")
	}
	if cfg.Engine.Store != nil || cfg.Engine.Sender != nil || cfg.Engine.Now != nil {
		return nil, errors.New("fluxlytest: CrashConfig.Engine: Store, Sender and Now are the schedule's own; set CrashConfig.Open for a store")
	}
	if cfg.Days < 0 || cfg.Seeds < 0 || cfg.Processes < 0 {
		return nil, fmt.Errorf("fluxlytest: CrashConfig: Days %d, Seeds %d, Processes %d: none may be negative", cfg.Days, cfg.Seeds, cfg.Processes)
	}
	if s.days == 0 {
		s.days = 14
	}
	if len(s.providers) == 0 {
		s.providers = []CrashProvider{CrashAsked, CrashShowsLate, CrashHold, CrashCountAsSent, CrashSendAgain}
	}
	e := &s.engine
	if e.Mode == "" {
		e.Mode = fluxly.Live
	}
	if e.From == "" {
		e.From = "Acme <hello@acme.test>"
	}
	if e.Emails == nil {
		e.Emails = Emails(EmailNames(e.Automations...)...)
	}
	if e.SendTimeout == 0 {
		e.SendTimeout = time.Minute
	}
	if e.CallTimeout == 0 {
		e.CallTimeout = 30 * time.Second
	}
	e.MaxSends = 1
	for _, name := range EmailNames(e.Automations...) {
		files, err := fs.Glob(e.Emails, name+".*")
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			text, err := fs.ReadFile(e.Emails, file)
			if err != nil {
				return nil, err
			}
			s.transactional[name] = s.transactional[name] || transactionalHeader.Match(text)
		}
	}
	if s.calls == nil {
		s.calls = newCrashCalls(e, s.days).draw
	}
	return s, nil
}

// exclusive opens the store once, to see whether processes may share it.
func (s *crashSetup) exclusive(t testing.TB, dir string) bool {
	t.Helper()
	s.look.Do(func() {
		store := s.cfg.Open(t, dir)
		x, ok := store.(fluxly.ExclusiveStore)
		s.alone = ok && x.Exclusive()
		if err := store.Close(); err != nil {
			t.Errorf("close the store: %v", err)
		}
	})
	return s.alone
}

var transactionalHeader = regexp.MustCompile(`(?mi)^Transactional:\s*true\s*$`)

// dirOf is the directory of a seed's store.
func (s *crashSetup) dirOf(t testing.TB, root string, seed uint64) string {
	t.Helper()
	if s.cfg.Open == nil {
		return ""
	}
	dir := filepath.Join(root, fmt.Sprintf("seed-%d", seed))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Error(err)
	}
	return dir
}

// trace is the schedule as text.
func (w *crashWorld) trace() string {
	var b strings.Builder
	fmt.Fprintf(&b, "  the provider: %s; processes at most: %d; each line begins with what clocks show\n", w.provider.kind, len(w.slots))
	for _, l := range w.lines {
		fmt.Fprintf(&b, "  %s %s\n", l.at.Format("01-02 15:04:05.000000"), fmt.Sprintf(l.format, l.args...))
	}
	return b.String()
}
