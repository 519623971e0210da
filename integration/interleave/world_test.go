package interleave

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/pgengine/pgenginetest"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// patience is how long a merge may take that takes some milliseconds: one that has no end is told as such.
const patience = time.Minute

// world is a database, its actors, and who looks after it when they have ended.
type world struct {
	*testing.T
	pool    *pgxpool.Pool // nobody's gate
	x       *explorer
	engines []*pgengine.Engine // of the actors
	sandbox *pgenginetest.Sandbox
}

// newWorld has no sagas.
func newWorld(t *testing.T) *world {
	t.Helper()
	t.Parallel()
	w := &world{T: t, pool: sqltest.Config(t, func(c *pgxpool.Config) {
		c.ConnConfig.RuntimeParams["jit"] = "off" // tables without statistics lead Postgres to compile what runs once
	})}
	var err error
	if w.x, err = newExplorer(t.Context(), w.pool); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.x.close)
	return w
}

// newSagas has engines with sagas: for each actor, and for the sandbox. enter is called by steps where the race begins.
func newSagas(t *testing.T, sagas func(enter func()) []pgengine.Definition) *world {
	t.Helper()
	w := newWorld(t)
	w.sandbox = pgenginetest.NewSandbox(t, w.pool, sagas(func() {})...)
	for _, a := range w.x.actors {
		e, err := pgengine.New(a.pool, pgengine.Config{Sagas: sagas(a.enter), NoWake: true, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		w.engines = append(w.engines, e)
	}
	return w
}

// ticket is what the job of a saga's lane at a step would say.
func (w *world) ticket(saga, name, step string) (pgengine.Ticket, error) {
	k := pgengine.Ticket{SagaID: saga, Name: name, Version: 1, Step: step}
	err := w.pool.QueryRow(w.Context(), `SELECT id FROM pgsagaz.lane WHERE saga_id = $1 AND step = $2`, saga, step).Scan(&k.Lane)
	if err != nil {
		err = fmt.Errorf("the lane of saga %s at %q: %w", saga, step, err)
	}
	return k, err
}

// drive is an act in which a worker drives the lane that a saga has at a step. lead: its race begins where the step says so.
func (w *world) drive(actor int, saga, name, step string, lead bool) act {
	return act{lead: lead, do: func(ctx context.Context) error {
		k, err := w.ticket(saga, name, step)
		if err != nil {
			return err
		}
		return w.run(ctx, actor, k)
	}}
}

// obey is an act in which something is asked of a saga and a worker does it.
func (w *world) obey(actor int, saga, name string, ask func(ctx context.Context, tx pgx.Tx, e *pgengine.Engine) error) act {
	return act{do: func(ctx context.Context) error {
		err := pgx.BeginFunc(ctx, w.x.actors[actor].pool, func(tx pgx.Tx) error { return ask(ctx, tx, w.engines[actor]) })
		if errors.Is(err, pgengine.ErrEnded) {
			return nil
		}
		if err != nil {
			return err
		}
		return w.run(ctx, actor, pgengine.Ticket{SagaID: saga, Name: name, Version: 1})
	}}
}

// run is a worker with a ticket. It goes on for as long as there is something to do.
func (w *world) run(ctx context.Context, actor int, k pgengine.Ticket) error {
	return w.engines[actor].Run(ctx, k, pgengine.RunOptions{Worker: string(letters[actor]), Idle: time.Hour, Budget: time.Hour})
}

// rests drives all sagas to their ends, and says whether this one has come to one of the ends that it may have.
func (w *world) rests(saga string, may ...pgengine.State) (pgengine.Status, error) {
	w.sandbox.Run()
	return w.is(saga, may...)
}

func (w *world) is(saga string, may ...pgengine.State) (pgengine.Status, error) {
	s := w.sandbox.Get(saga)
	for _, state := range may {
		if s.State == state {
			return s, nil
		}
	}
	return s, fmt.Errorf("saga %s is %s, cause %v, steps %+v", saga, s.State, s.Cause, s.Steps)
}

func (w *world) exec(statement string, args ...any) {
	w.Helper()
	if _, err := w.pool.Exec(w.Context(), statement, args...); err != nil {
		w.Fatalf("%s: %v", statement, err)
	}
}
