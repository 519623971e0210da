package interleave

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/pgengine"
)

type order struct{}

func (order) SagaName() string { return "order" }

type call = pgengine.Call[order]

// works is a step that works in Postgres alone, and can be undone.
func works(name string, enter func(), after ...pgengine.Step[order]) pgengine.TxStep[order, string] {
	return pgengine.TxStep[order, string]{
		Name: name, After: after,
		Do:   func(context.Context, pgx.Tx, call) (string, error) { enter(); return name, nil },
		Undo: func(context.Context, pgx.Tx, call, string) error { return nil },
	}
}

func cancel(saga string) func(context.Context, pgx.Tx, *pgengine.Engine) error {
	return func(ctx context.Context, tx pgx.Tx, e *pgengine.Engine) error {
		return e.Cancel(ctx, tx, saga, pgengine.By{Reason: "at the same moment"})
	}
}

// TestJoin: the last two of a fan-out come to their commits while the saga is cancelled. Whoever is the last goes on with the join, and nobody
// else; or all is undone.
func TestJoin(t *testing.T) {
	w := newSagas(t, func(enter func()) []pgengine.Definition {
		left, right := works("left", enter), works("right", enter)
		join := works("join", func() {}, left, right)
		return []pgengine.Definition{pgengine.Saga[order]{Version: 1, Steps: pgengine.Steps[order](left, right, join)}}
	})
	w.explore(func() race {
		saga := w.sandbox.Start(order{})
		return race{
			acts: []act{w.drive(0, saga, "order", "", true), w.drive(1, saga, "order", "right", true), w.obey(2, saga, "order", cancel(saga))},
			end: func() error {
				_, err := w.rests(saga, pgengine.Completed, pgengine.Compensated)
				return err
			},
		}
	})
}
