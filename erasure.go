package fluxly

import (
	"context"
	"strings"

	"github.com/getfluxly/fluxly/internal/mimemail"
)

// scanPage is how many rows are read at once where a whole table is.
const scanPage = 500

// ownAddresses are the addresses of people who are to be erased, in lower
// case: those of today, those that mail went to, and those that they were
// tracked with. One that is suppressed and that somebody else has as well is
// not among them, because to go on writing to it would be worse than to keep
// what the other profile says anyhow.
func ownAddresses(ctx context.Context, tx Tx, people []*Profile) ([]string, error) {
	own := map[string]bool{}
	erased := map[string]bool{}
	for _, p := range people {
		erased[p.ID] = true
		if err := everAddress(ctx, tx, p, own); err != nil {
			return nil, err
		}
	}
	if err := leaveShared(ctx, tx, own, erased); err != nil {
		return nil, err
	}
	out := make([]string, 0, len(own))
	for a := range own {
		out = append(out, a)
	}
	return out, nil
}

// everAddress adds the addresses that one person ever had.
func everAddress(ctx context.Context, tx Tx, p *Profile, own map[string]bool) error {
	add := func(mailbox string) {
		if a := bareAddress(mailbox); a != "" {
			own[a] = true
		}
	}
	add(p.Email())
	sends, err := tx.Sends(ctx, SendQuery{ProfileID: p.ID})
	if err != nil {
		return err
	}
	for _, s := range sends {
		add(s.To)
	}
	q := EventQuery{Limit: scanPage}
	for {
		evs, err := tx.Events(ctx, p.ID, q)
		if err != nil {
			return err
		}
		for _, ev := range evs {
			was := Profile{Traits: ev.Traits}
			add(was.Email())
		}
		if len(evs) < q.Limit {
			return nil
		}
		q.AfterSeq = evs[len(evs)-1].Seq
	}
}

// leaveShared takes out of own what is suppressed and somebody else has too.
// No index leads from an address to profiles, so it reads all of them; but
// only when there is something to lose.
func leaveShared(ctx context.Context, tx Tx, own, erased map[string]bool) error {
	if len(own) == 0 {
		return nil
	}
	all, err := tx.Suppressions(ctx)
	if err != nil {
		return err
	}
	suppressed := map[string]bool{}
	for _, s := range all {
		if a := strings.ToLower(s.Address); own[a] {
			suppressed[a] = true
		}
	}
	after := ""
	for len(suppressed) > 0 {
		page, err := tx.Profiles(ctx, after, scanPage)
		if err != nil {
			return err
		}
		for _, p := range page {
			if a := bareAddress(p.Email()); suppressed[a] && !erased[p.ID] {
				delete(own, a)
				delete(suppressed, a)
			}
		}
		if len(page) < scanPage {
			return nil
		}
		after = page[len(page)-1].ID
	}
	return nil
}

// bareAddress is the address in a mailbox, in lower case, as suppressions
// compare; empty when it is none.
func bareAddress(mailbox string) string {
	if mailbox == "" {
		return ""
	}
	m, err := mimemail.ParseMailbox(mailbox)
	if err != nil {
		return ""
	}
	return strings.ToLower(m.Addr)
}
