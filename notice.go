package fluxly

import (
	"cmp"
	"context"
	"slices"
)

// Notice takes a provider's notice about a mail, such as one that
// [DecodePostmarkNotice] read from a webhook: it is added to the send log under
// the mail's send key, in order of time, and an address that the provider
// suppressed, or took back, is suppressed here too, on its stream. The same
// notice again changes nothing, so a webhook may be repeated.
//
// A notice that concerns no mail of this engine, such as a suppression by hand
// in Postmark's dashboard, still changes the suppressions.
// https://postmarkapp.com/developer/webhooks/webhooks-overview
func (e *Engine) Notice(ctx context.Context, n PostmarkNotice) error {
	n.Recipient, n.Stream = plainText(n.Recipient), plainText(n.Stream)
	if plainText(n.SendKey) != n.SendKey {
		n.SendKey = "" // none of ours
	}
	return e.update(ctx, Preload{SendKey: n.SendKey}, func(ctx context.Context, tx Tx) error {
		if s, ok := n.Suppression(); ok {
			if s.At.IsZero() {
				s.At = e.now()
			}
			s.At = stored(s.At)
			// A suppression must not be lost for what else stands in it.
			s.Address, s.Stream, s.Reason, s.Origin = plainText(s.Address), plainText(s.Stream), plainText(s.Reason), plainText(s.Origin)
			e.doubt(tx)
			if err := tx.PutSuppression(ctx, &s); err != nil {
				return err
			}
		}
		if n.Reactivated() {
			if err := tx.DeleteSuppression(ctx, n.Recipient, n.Stream); err != nil {
				return err
			}
		}
		if n.SendKey == "" {
			return nil
		}
		m, err := tx.Send(ctx, n.SendKey)
		if err != nil || m == nil {
			return err
		}
		ev := n.ProviderEvent()
		ev.At = stored(ev.At)
		if m.Receipt.ID == "" {
			m.Receipt.ID = n.MessageID
		}
		key := n.Key()
		for i := range m.Events {
			if m.Events[i].Key == key {
				return nil
			}
		}
		ev.Key = key
		m.Events = append(m.Events, ev)
		slices.SortStableFunc(m.Events, func(a, b ProviderEvent) int { return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Key, b.Key)) })
		return tx.PutSend(ctx, m)
	})
}
