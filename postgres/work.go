package postgres

import (
	"context"
	"fmt"

	"github.com/getfluxly/fluxly"
)

// Work hands out due work until ctx ends or the store is closed. See
// [fluxly.Store].
func (s *Store) Work(ctx context.Context, _ fluxly.Worker) error {
	if s.closed.Load() {
		return fmt.Errorf("postgres store: %w", fluxly.ErrClosed)
	}
	<-ctx.Done()
	return ctx.Err()
}
