package postgres

import (
	"context"

	"github.com/getfluxly/fluxly"
)

func (s *Store) Update(context.Context, func(fluxly.Tx) error) error { return nil }

func (s *Store) View(context.Context, func(fluxly.Tx) error) error { return nil }
