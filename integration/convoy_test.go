//go:build unix

package integration

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/pgengine"
)

// Convoy is the input of a saga of all that waits: a signal that never comes, children, a sleep. Some of its last steps, and all
// of its children's, may share a transaction, and of its very last not more than two run at once, on one of some bridges each.
//
//	hold (Await) ─ parcels (Each) ─ nap (Sleep) ─ weigh ─ sign ─ depart
type Convoy struct{ Fail bool }

// SagaName is the saga's name.
func (Convoy) SagaName() string { return "convoy" }

// Parcel is the input of a convoy's children.
type Parcel struct{ N int }

// SagaName is the saga's name.
func (Parcel) SagaName() string { return "parcel" }

// Go is the signal that a convoy waits for.
type Go struct{ Late bool }

// SignalName is the signal's name.
func (Go) SignalName() string { return "go" }

const parcels = 3

// convoys are the definitions.
func convoys() []pgengine.Definition {
	hold := pgengine.Await[Convoy, Go]{
		Name: "hold", Timeout: 30 * time.Millisecond,
		OnTimeout: func(context.Context, pgengine.Call[Convoy]) (Go, error) { return Go{Late: true}, nil },
	}
	each := pgengine.Each[Convoy, Parcel, int]{
		Name: "parcels", After: pgengine.Steps[Convoy](hold), Parallel: 2,
		Inputs: func(context.Context, pgengine.Call[Convoy]) ([]Parcel, error) { return make([]Parcel, parcels), nil },
	}
	nap := pgengine.Sleep[Convoy]{Name: "nap", After: pgengine.Steps[Convoy](each), For: 20 * time.Millisecond}
	weigh := writes[Convoy]("weigh", nap)
	sign := writes[Convoy]("sign", weigh)
	depart := pgengine.TxStep[Convoy, int]{
		Name: "depart", After: pgengine.Steps[Convoy](sign),
		Limit: pgengine.Limits(pgengine.Limit[Convoy]{Concurrency: 2}, pgengine.Limit[Convoy]{
			Name: "bridge", Concurrency: 1, Key: func(c pgengine.Call[Convoy]) string { return c.SagaID[len(c.SagaID)-1:] },
		}),
		Do: func(_ context.Context, _ pgx.Tx, c pgengine.Call[Convoy]) (int, error) {
			if c.Input.Fail {
				return 0, pgengine.Terminal(errors.New("the bridge is closed"))
			}
			return len(each.Result(c)), nil
		},
	}
	load := writes[Parcel]("load")
	seal := writes[Parcel]("seal", load)
	stamp := writes[Parcel]("stamp", seal)
	return []pgengine.Definition{
		pgengine.Saga[Convoy]{Version: 1, Output: depart, Fuse: true, Steps: pgengine.Steps[Convoy](hold, each, nap, weigh, sign, depart)},
		pgengine.Saga[Parcel]{Version: 1, Output: load, Fuse: true, Steps: pgengine.Steps[Parcel](load, seal, stamp)},
	}
}

// writes is a step that writes, and whose undo does.
func writes[I pgengine.Input](name string, after ...pgengine.Step[I]) pgengine.TxStep[I, int] {
	return pgengine.TxStep[I, int]{
		Name: name, After: after, UndoRetry: undoQuickly,
		Do: func(ctx context.Context, tx pgx.Tx, c pgengine.Call[I]) (int, error) {
			_, err := tx.Exec(ctx, `INSERT INTO effect (saga, step, direction) VALUES ($1, $2, 'do')`, c.SagaID, c.Step)
			return 1, err
		},
		Undo: func(ctx context.Context, tx pgx.Tx, c pgengine.Call[I], _ int) error {
			_, err := tx.Exec(ctx, `INSERT INTO effect (saga, step, direction) VALUES ($1, $2, 'undo')`, c.SagaID, c.Step)
			return err
		},
	}
}

// auditConvoys: each has ended as it had to, and all of its parcels with it.
func (w *world) auditConvoys() {
	w.t.Helper()
	rows, err := w.pool.Query(w.t.Context(), `
		SELECT format('convoy %s of %s is %s, with %s parcels that ended as it did', p.id, p.input, p.state, count(s.id) FILTER (WHERE s.state = p.state))
		FROM pgsagaz.saga p LEFT JOIN pgsagaz.saga s ON s.parent_id = p.id
		WHERE p.name = 'convoy'
		GROUP BY p.id
		HAVING p.state::text <> CASE WHEN (p.input ->> 'Fail')::boolean THEN 'compensated' ELSE 'completed' END
		    OR count(s.id) FILTER (WHERE s.state = p.state) <> $1 OR count(s.id) <> $1`, parcels)
	if err != nil {
		w.t.Fatal(err)
	}
	wrong, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		w.t.Fatal(err)
	}
	for _, line := range wrong {
		w.t.Error(line)
	}
}
