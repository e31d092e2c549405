package postgres

import (
	"context"

	"github.com/getfluxly/fluxly"
)

// Preload implements [fluxly.Preloader].
func (t *tx) Preload(ctx context.Context, hints []fluxly.Preload) error {
	if err := t.check(ctx, false); err != nil {
		return err
	}
	return nil
}
