package fluxly

import (
	"context"
	"crypto/rand"
	"fmt"
	"io/fs"
	"log/slog"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/getfluxly/fluxly/internal/gather"
	"github.com/getfluxly/fluxly/internal/mimemail"
	"github.com/getfluxly/fluxly/internal/uuid"
)

// Mode says whether an [Engine] sends. There is no default: New refuses a
// Config without one, so that nobody mails customers from a laptop by leaving
// a field out.
type Mode string

// The modes.
const (
	// Live sends to everybody.
	Live Mode = "live"
	// TestOnly sends to the addresses of Config.Allow alone; every other mail
	// is logged as skipped, with the reason "test_mode".
	TestOnly Mode = "test_only"
	// DryRun sends nothing; each mail is logged as skipped, with the reason
	// "dry_run".
	DryRun Mode = "dry_run"
)

// UnknownPolicy is what happens to a mail whose outcome nobody can say: the
// reply was lost, and the sender cannot be asked.
type UnknownPolicy string

// The policies.
const (
	// Hold leaves the mail as unknown and the run where it stands until
	// [Engine.Settle] is called for it; the zero value.
	Hold UnknownPolicy = ""
	// CountAsSent leaves the mail as unknown and lets the run go on.
	CountAsSent UnknownPolicy = "count_as_sent"
	// SendAgain tries again: the person may get the mail twice.
	SendAgain UnknownPolicy = "send_again"
)

// StepFunc is the host's own code as a step. Its result, any value that is
// fit for [Properties] and at most 32 KB as JSON (else the call counts as
// failed), is stored with the run and is seen by later templates as
// .Run.Results. It is called at least once: after a crash during a call it may
// be called again with the same in.Key, which is the key to make it idempotent
// by. An error is tried again with growing delays, up to
// Config.CallAttempts; a panic counts as an error, and so does a call that has
// not returned soon after its ctx ended.
type StepFunc func(ctx context.Context, in StepInput) (any, error)

// StepInput is what the host's own code sees.
type StepInput struct {
	// Key is the same for each try of one step of one run.
	Key     string
	Profile Profile
	Run     Run
	Attempt int
}

// Config is the configuration of an [Engine]. Store, Sender, Mode and From
// are needed; everything else has the default that its comment states.
type Config struct {
	// Store keeps the state. The engine does not close it.
	Store Store
	// Sender hands mails to the provider.
	Sender Sender
	// Mode must be named: Live, TestOnly or DryRun.
	Mode Mode
	// Allow lists the addresses ("ann@acme.test") and domains ("@acme.test")
	// that get mail in the mode TestOnly.
	Allow []string
	// From is the mailbox that mails come from, such as
	// "Acme <hello@acme.test>". A template may name another.
	From string
	// ReplyTo is a mailbox; empty for none.
	ReplyTo string
	// Emails holds the templates; see [LoadEmails] for the files. Embed them by
	// "//go:embed all:DIR", else their layouts are left out.
	// EmailOptions sets how they are read.
	Emails       fs.FS
	EmailOptions EmailOptions
	// CustomUnsubscribe says that the templates carry unsubscribe links of the
	// program's own, as a Postmark stream whose unsubscribe handling is
	// "Custom" wants it: New then does not ask for {{{ pm:unsubscribe }}}.
	// https://postmarkapp.com/support/article/managing-your-own-unsubscribe-process
	CustomUnsubscribe bool
	// Automations are checked by New, all mistakes at once.
	Automations []Automation
	// Segments are conditions with a name.
	Segments []Segment
	// Funcs is the host's own code, called by Do steps.
	Funcs map[string]StepFunc
	// Conditions is the host's own code in conditions, called by Func.
	Conditions map[string]ConditionFunc
	// Unknown says what happens to a mail of unknown outcome when the sender
	// cannot be asked. Default: Hold.
	Unknown UnknownPolicy
	// KeepBodies keeps each mail as it was handed over in the send log; else
	// the log keeps its SHA-256.
	KeepBodies bool
	// MaxSends is how many mails are under way at once. Default: 8.
	MaxSends int
	// SendRate is the most mails that are handed over in any second, by all
	// processes on the store together; about five sixths of it are reached.
	// What must wait is put off in order. Default: 0, no limit.
	SendRate int
	// SendTimeout bounds one hand-over. Default: 1 minute.
	SendTimeout time.Duration
	// RetryFor is how long a mail is tried again, counted from its first
	// temporary failure. Failures of the account do not count: they hold all
	// mail, for as long as they last. Default: 24 hours.
	RetryFor time.Duration
	// CallAttempts is how often a Do step is tried, after 1, 2, 4 minutes and
	// so on up to an hour. Default: 8, over about two hours.
	CallAttempts int
	// CallTimeout bounds one call of a Do step. Default: 30 seconds.
	CallTimeout time.Duration
	// MaxDepth is how many automations may start one another in a chain by
	// the traits they set. Default: 8.
	MaxDepth int
	// Logger gets what an operator wants to see. Default: discarded. No
	// address, property or trait is logged.
	Logger *slog.Logger
	// Now is the clock. Default: time.Now. When it goes back by up to an hour,
	// the engine's time stands still until the clock has caught up; when it
	// goes back further, the engine goes back with it. The engine remembers
	// the latest time for as long as it lives: what an engine before it stored
	// may be in the future of a clock that went back in between, and counts in
	// windows when its time has come.
	Now func() time.Time
}

func (c Config) withDefaults() Config {
	def := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	defD := func(p *time.Duration, v time.Duration) {
		if *p == 0 {
			*p = v
		}
	}
	def(&c.MaxSends, 8)
	def(&c.CallAttempts, 8)
	def(&c.MaxDepth, 8)
	defD(&c.SendTimeout, time.Minute)
	defD(&c.RetryFor, 24*time.Hour)
	defD(&c.CallTimeout, 30*time.Second)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c
}

// Engine tracks events, decides, and hands mails over. It implements
// [Tracker]. All methods may be called from many goroutines.
type Engine struct {
	cfg      Config
	store    Store
	emails   *emailSet
	owner    string
	clock    *steadyClock
	counters counters

	programs []*program          // the present versions, in the order of Config
	current  map[string]*program // by name
	versions versions
	triggers map[string][]*program // by signal
	segments *segmentSet
	rules    compileContext // of the conditions of all versions
	// shared: other processes may work on the store too.
	shared bool

	writes *gather.Gatherer[write]
	lanes  *lanes

	flights  flights
	troubles troubles

	mu      sync.Mutex
	running bool
	closed  bool
	// heldUntil is when the sender may be tried again after a failure of the
	// account; heldFor is the last such delay, and heldAt when it began.
	heldUntil time.Time
	heldAt    time.Time
	heldFor   time.Duration
}

var _ Tracker = (*Engine)(nil)

// New checks the configuration and makes an engine. All mistakes are reported
// at once in a [*ConfigError], which names automation and step.
//
// New reads from the store which versions of the automations people are in.
// It refuses when people stand at a step that the present version of their
// automation no longer has and Automation.Removed does not say what becomes of
// them, or when their automation is gone.
func New(cfg Config) (*Engine, error) {
	cfg = cfg.withDefaults()
	e := &Engine{
		cfg:     cfg,
		store:   cfg.Store,
		clock:   &steadyClock{read: cfg.Now},
		current: map[string]*program{}, triggers: map[string][]*program{},
	}
	c := &compiler{funcs: cfg.Funcs}
	e.checkParts(c)
	switch cfg.Mode {
	case Live, DryRun:
	case TestOnly:
		if len(cfg.Allow) == 0 {
			c.problem("", "", "Allow", "is empty: in the mode TestOnly it lists the addresses that get mail")
		}
	case "":
		c.problem("", "", "Mode", "must be named: Live sends to everybody, TestOnly to the addresses in Allow, DryRun to nobody")
	default:
		c.problem("", "", "Mode", "unknown mode %q; use Live, TestOnly or DryRun", string(cfg.Mode))
	}
	cfg.checkAllow(c)
	for field, addr := range map[string]string{"From": cfg.From, "ReplyTo": cfg.ReplyTo} {
		if addr == "" {
			if field == "From" {
				c.problem("", "", field, "is missing, such as \"Acme <hello@acme.test>\"")
			}
			continue
		}
		if _, err := mimemail.ParseMailbox(addr); err != nil {
			c.problem("", "", field, "%v", err)
		}
	}
	e.loadEmails(c)
	e.compile(c)
	if len(c.problems) > 0 {
		return nil, &ConfigError{Problems: c.problems}
	}
	var id [8]byte
	if _, err := rand.Read(id[:]); err != nil {
		return nil, fmt.Errorf("fluxly: make a name for this engine: %w", err)
	}
	e.owner = idEncoding.EncodeToString(id[:])
	x, exclusive := cfg.Store.(ExclusiveStore)
	e.shared = !exclusive || !x.Exclusive()
	leaders := 1
	if e.shared {
		leaders = sharedLeaders
	}
	e.writes = gather.New(batchLimit, leaders, func(ctx context.Context, batch []write) []error {
		return e.commit(ctx, batch, sharedWait)
	})
	e.lanes = newLanes(func(ctx context.Context, batch []write) []error { return e.commit(ctx, batch, e.lanes.wait()) })
	if err := e.adopt(c); err != nil {
		return nil, err
	}
	if len(c.problems) > 0 {
		return nil, &ConfigError{Problems: c.problems}
	}
	return e, nil
}

// checkParts checks what the engine is put together from.
func (e *Engine) checkParts(c *compiler) {
	if e.cfg.Store == nil {
		c.problem("", "", "Store", "is missing; use sqlite.Open, or NewMemoryStore in tests")
	} else if isNilPointer(e.cfg.Store) {
		c.problem("", "", "Store", "is a nil %T; look at the error that came with it", e.cfg.Store)
	}
	if e.cfg.Sender == nil {
		c.problem("", "", "Sender", "is missing; use NewPostmarkSMTP")
	} else if isNilPointer(e.cfg.Sender) {
		c.problem("", "", "Sender", "is a nil %T; look at the error that came with it", e.cfg.Sender)
		e.cfg.Sender = nil
	}
	for _, n := range [...]struct {
		field    string
		negative bool
	}{
		{"MaxSends", e.cfg.MaxSends < 0},
		{"SendRate", e.cfg.SendRate < 0},
		{"SendTimeout", e.cfg.SendTimeout < 0},
		{"RetryFor", e.cfg.RetryFor < 0},
		{"CallAttempts", e.cfg.CallAttempts < 0},
		{"CallTimeout", e.cfg.CallTimeout < 0},
		{"MaxDepth", e.cfg.MaxDepth < 0},
	} {
		if n.negative {
			c.problem("", "", n.field, "is negative; leave it out for the default")
		}
	}
	switch e.cfg.Unknown {
	case Hold, CountAsSent, SendAgain:
	default:
		c.problem("", "", "Unknown", "unknown policy %q; use Hold, CountAsSent or SendAgain", clip(string(e.cfg.Unknown), 64))
	}
}

// isNilPointer reports whether an interface holds a nil pointer, as it does
// when the error of a constructor was not looked at.
func isNilPointer(v any) bool {
	r := reflect.ValueOf(v)
	return r.Kind() == reflect.Pointer && r.IsNil()
}

// loadEmails loads the templates and checks them against the sender.
func (e *Engine) loadEmails(c *compiler) {
	c.emails = func(string) bool { return true }
	if e.cfg.Emails == nil {
		for _, a := range e.cfg.Automations {
			if len(a.emails()) > 0 {
				c.problem("", "", "Emails", "is missing, but automation %q sends %q", a.Name, a.emails()[0])
				return
			}
		}
		c.emails = func(string) bool { return false }
		e.emails = &emailSet{}
		return
	}
	set, problems := loadEmails(e.cfg.Emails, e.cfg.EmailOptions)
	c.problems = append(c.problems, problems...)
	if set == nil {
		return
	}
	e.emails = set
	c.emails = set.has
	for i := range e.cfg.Automations {
		a := &e.cfg.Automations[i]
		if a.Trigger.Kind != TriggerEvent {
			continue
		}
		checked := map[string]bool{}
		for _, name := range a.emails() {
			if checked[name] {
				continue
			}
			checked[name] = true
			for _, p := range set.checkEvent(name, a.Trigger.Name, e.cfg.EmailOptions.Schema) {
				p.Automation = a.Name
				c.problems = append(c.problems, p)
			}
		}
	}
	var stream string
	if s, ok := e.cfg.Sender.(interface{ MessageStream() string }); ok {
		stream = s.MessageStream()
	}
	if !e.cfg.CustomUnsubscribe {
		c.problems = append(c.problems, set.checkSender(e.cfg.Sender, stream)...)
	}
	for _, name := range set.names() {
		st := set.settings(name)
		to := st.Stream
		if to == "" {
			to = stream
		}
		if to == defaultTransactionalStream && !st.Transactional {
			c.problem("", "", "Emails", "%q would go to the transactional stream %q; lifecycle mail belongs in a Broadcast stream: "+
				"give the sender one, or write \"Transactional: true\" into the template", name, to)
		}
	}
}

// defaultTransactionalStream is the id of the stream that Postmark uses when
// none is named: https://postmarkapp.com/support/article/1207-how-to-create-and-send-through-message-streams
const defaultTransactionalStream = "outbound"

// compile checks segments and automations.
func (e *Engine) compile(c *compiler) {
	c.segments = map[string]bool{}
	for _, s := range e.cfg.Segments {
		c.segments[s.Name] = true
	}
	c.rules = compileContext{Funcs: e.cfg.Conditions, HasSegment: func(n string) bool { return c.segments[n] }}
	e.rules = c.rules
	e.segments = c.compileSegments(e.cfg.Segments)
	named := map[string]bool{}
	for _, a := range e.cfg.Automations {
		if named[a.Name] {
			c.problem(a.Name, "", "name", "is given to two automations")
			continue
		}
		named[a.Name] = true
		p := c.compile(a)
		if p == nil {
			continue
		}
		e.programs = append(e.programs, p)
		e.current[a.Name] = p
		e.versions.add(p)
		if s := a.Trigger.signal(); s != "" {
			e.triggers[s] = append(e.triggers[s], p)
		}
	}
}

// Close ends the engine: what would change anything returns [ErrClosed] from
// now on; reading goes on as long as the store is open. Close does not stop
// [Engine.Run], which ends with its context, and leaves the store open. The
// order to shut down in: end Run's context, wait for Run to return, close the
// sender, close the store.
func (e *Engine) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = true
	return nil
}

// newMessageID makes a version 4 UUID (RFC 9562 section 5.4), GetFluxly's form
// of a message id.
func newMessageID() string {
	var b [16]byte
	// crypto/rand.Read never fails since Go 1.24: it ends the program instead.
	_, _ = rand.Read(b[:])
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return uuid.Text(b[:])
}

// checkAllow reports entries of the allow list that could match nobody.
func (c *Config) checkAllow(p *compiler) {
	for _, a := range c.Allow {
		addr := a
		if strings.HasPrefix(a, "@") {
			addr = "x" + a
		}
		if m, err := mimemail.ParseMailbox(addr); err != nil || m.Addr != addr {
			p.problem("", "", "Allow", "%q is neither an address (\"ann@acme.test\") nor a domain (\"@acme.test\")", clip(a, 64))
		}
	}
}

// allowed reports whether the mode lets mail go to an address.
func (c *Config) allowed(addr string) bool {
	for _, a := range c.Allow {
		if strings.HasPrefix(a, "@") && len(addr) > len(a) && strings.EqualFold(addr[len(addr)-len(a):], a) || strings.EqualFold(a, addr) {
			return true
		}
	}
	return false
}
