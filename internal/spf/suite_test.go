package spf

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/getfluxly/fluxly/internal/spf/spfsuite"
)

// suiteSource lets a tree be walked over the suite's zones.
type suiteSource struct{ z *spfsuite.Zone }

func (s suiteSource) ask(name, typ string) ([]string, Status) {
	v, o := s.z.Ask(name, typ)
	return slices.Clone(v), Status(o)
}

func (s suiteSource) TXT(_ context.Context, name string) ([]string, Status) {
	return s.ask(name, "TXT")
}

func (s suiteSource) MX(_ context.Context, name string) ([]string, Status) { return s.ask(name, "MX") }

func (s suiteSource) Addrs(_ context.Context, name string) (out []netip.Addr, status Status) {
	v4, s4 := s.ask(name, "A")
	v6, s6 := s.ask(name, "AAAA")
	for _, v := range append(v4, v6...) {
		if a, err := netip.ParseAddr(v); err == nil {
			out = append(out, a)
		}
	}
	if len(out) == 0 {
		return nil, max(s4, s6)
	}
	return out, Found
}

// All 203 tests of the suite, those included that go/spf marks as skipped: the
// linter calls a record a permanent error exactly when the suite does. The
// suite's verdicts are on one mail each, so the look-ups that count are those
// on the way of that mail.
func TestSuiteLint(t *testing.T) {
	t.Parallel()
	count := 0
	for _, doc := range spfsuite.Load(t) {
		z := suiteSource{spfsuite.NewZone(t, doc)}
		for name, test := range doc.Tests {
			count++
			sender, helo := test.MailFrom, test.Helo
			_, domain, ok := strings.Cut(sender, "@")
			if !ok {
				domain, sender = helo, "postmaster@"+helo
			}
			ip, _ := netip.ParseAddr(test.Host)
			root := Walk(t.Context(), z, domain, Identity{Addr: ip, Sender: sender, Helo: helo})
			var bad []string
			if root.State == Multiple {
				bad = append(bad, "multiple")
			}
			for _, i := range Lint(root) {
				switch i.Code {
				case "syntax", "target_missing", "target_multiple", "loop", "too_many_voids", "too_many_mx":
					bad = append(bad, i.Code)
				case "too_many_lookups":
					if n, _ := root.Spent(ip); n > MaxLookups {
						bad = append(bad, i.Code)
					}
				}
			}
			want := slices.Contains(test.Result, "permerror")
			if either := want && len(test.Result) > 1; want != (len(bad) > 0) && !either {
				t.Errorf("%s / %s: want %v, lint %v", doc.Description, name, test.Result, bad)
			}
		}
	}
	if count != 203 {
		t.Errorf("the suite has %d tests, want 203", count)
	}
}
