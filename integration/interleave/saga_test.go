package interleave

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql"
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

// outside notes calls that are made outside Postgres, by their sagas: D for a Do, U for an Undo.
type outside struct {
	mu    sync.Mutex
	calls map[string]string
}

func (o *outside) note(saga, what string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.calls == nil {
		o.calls = map[string]string{}
	}
	o.calls[saga] += what
}

func (o *outside) of(saga string) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.calls[saga]
}

// step is one whose effect is outside Postgres. The race begins when the first call of it has been answered.
func (o *outside) step(name string, enter func(), after ...pgengine.Step[order]) pgengine.Activity[order, string] {
	return pgengine.Activity[order, string]{
		Name: name, After: after,
		Do:   func(_ context.Context, c call) (string, error) { o.note(c.SagaID, "D"); enter(); return name, nil },
		Undo: func(_ context.Context, c call, _ string) error { o.note(c.SagaID, "U"); return nil },
	}
}

func cancel(saga string) func(context.Context, pgx.Tx, *pgengine.Engine) error {
	return func(ctx context.Context, tx pgx.Tx, e *pgengine.Engine) error {
		return e.Cancel(ctx, tx, saga, pgengine.By{Reason: "at the same moment"})
	}
}

func order1(steps ...pgengine.Step[order]) []pgengine.Definition {
	return []pgengine.Definition{pgengine.Saga[order]{Version: 1, Steps: steps}}
}

// TestMergesJoin: the last two of a fan-out come to their commits while the saga is cancelled. Whoever is the last goes on with the join, and nobody
// else does; or all is undone.
func TestMergesJoin(t *testing.T) {
	w := newSagas(t, func(enter func()) []pgengine.Definition {
		left, right := works("left", enter), works("right", enter)
		return order1(left, right, works("join", func() {}, left, right))
	})
	w.explore(func() race {
		saga := w.sandbox.Start(order{})
		return race{
			acts:   []act{w.drive(0, saga, "order", "", true), w.drive(1, saga, "order", "right", true), w.obey(2, saga, "order", cancel(saga))},
			always: w.turnsOnce(saga),
			end: func() error {
				_, err := w.rests(saga, pgengine.Completed, pgengine.Compensated)
				return err
			},
		}
	})
}

// turnsOnce: a saga without a pivot that has turned back goes forward no more.
func (w *world) turnsOnce(saga string) func() error {
	turned := false
	return func() error {
		var state pgengine.State
		err := w.pool.QueryRow(w.Context(), `SELECT state::text FROM pgsagaz.saga WHERE id = $1`, saga).Scan(&state)
		forward := state == pgengine.Running || state == pgengine.Completed
		if err == nil && turned && forward {
			err = fmt.Errorf("the saga had turned back, and is %s", state)
		}
		turned = !forward
		return err
	}
}

// TestMergesTakeOver: A hangs in a step and is taken for dead by the sweeper, B. C has a job of the same lane, and does the step once more as soon as it may; then
// A comes to its commit. A lane is one worker's: who has lost it commits nothing more.
func TestMergesTakeOver(t *testing.T) {
	w := newSagas(t, func(enter func()) []pgengine.Definition {
		claimed := pgengine.Activity[order, string]{Name: "claimed", Do: func(context.Context, call) (string, error) { return "", nil }}
		hangs := works("hangs", enter, claimed)
		return order1(claimed, hangs, works("after", func() {}, hangs))
	})
	w.explore(func() race {
		saga := w.sandbox.Start(order{})
		k, err := w.ticket(saga, "order", "")
		if err != nil {
			w.Fatal(err)
		}
		k.Step = "hangs"
		return race{
			acts: []act{
				w.drive(0, saga, "order", "", true),
				w.sweep(1),
				{do: func(ctx context.Context) error { return w.run(ctx, 2, k) }},
			},
			always: w.oneDriver(saga),
			end: func() error {
				_, err := w.rests(saga, pgengine.Completed)
				return err
			},
		}
	})
}

// oneDriver: a lane is taken from A by nobody but the sweeper, and then A settles nothing.
func (w *world) oneDriver(saga string) func() error {
	driver, settled := "A", 1
	return func() error {
		var now string
		var steps int
		err := w.pool.QueryRow(w.Context(), `
			SELECT coalesce((SELECT worker FROM pgsagaz.lane WHERE saga_id = $1), ''),
			       (SELECT count(*) FROM pgsagaz.step WHERE saga_id = $1 AND worker = 'A')`, saga).Scan(&now, &steps)
		switch {
		case err != nil:
		case driver == "A" && now == "C":
			err = errors.New("C has taken a lane that A drives")
		case driver != "A" && steps > settled:
			err = errors.New("A has settled a step of a lane that is not its own")
		}
		driver, settled = now, steps
		return err
	}
}

// TestMergesResult: a call has been answered, and while A records it, the saga is cancelled and its deadline passes. If it turns back, what
// was done is undone, once.
func TestMergesResult(t *testing.T) {
	var o outside
	w := newSagas(t, func(enter func()) []pgengine.Definition {
		answered := o.step("answered", enter)
		return order1(answered, works("after", func() {}, answered))
	})
	w.explore(func() race {
		var saga string
		w.sandbox.Tx(func(tx pgx.Tx) error {
			s, err := w.sandbox.Engine.Start(w.Context(), tx, order{}, &pgengine.StartOptions{Timeout: time.Hour})
			saga = s.ID
			return err
		})
		w.exec(`UPDATE pgsagaz.deadline SET due_at = '-infinity'`)
		return race{
			acts:   []act{w.drive(0, saga, "order", "", true), w.obey(1, saga, "order", cancel(saga)), w.deadline(2, saga)},
			always: w.turnsOnce(saga),
			end: func() error {
				s, err := w.rests(saga, pgengine.Completed, pgengine.Compensated)
				if want := map[bool]string{true: "DU", false: "D"}[s.State == pgengine.Compensated]; err == nil && o.of(saga) != want {
					err = fmt.Errorf("saga %s is %s, and its calls were %s", saga, s.State, o.of(saga))
				}
				return err
			},
		}
	})
}

// TestMergesLateResult: a call has been answered, and while A records it, its worker is taken for dead, the saga is cancelled, and C undoes what
// A may have done. What turns out to be done is undone, after it was done.
func TestMergesLateResult(t *testing.T) {
	var o outside
	w := newSagas(t, func(enter func()) []pgengine.Definition {
		answered := o.step("answered", enter)
		return order1(answered, works("after", func() {}, answered))
	})
	w.explore(func() race {
		saga := w.sandbox.Start(order{})
		return race{
			acts: []act{w.drive(0, saga, "order", "", true), w.sweep(1), {do: func(ctx context.Context) error {
				if err := w.obey(2, saga, "order", cancel(saga)).do(ctx); err != nil {
					return err
				}
				k, err := w.ticket(saga, "order", "answered")
				if errors.Is(err, pgx.ErrNoRows) {
					return nil
				}
				return errors.Join(err, w.run(ctx, 2, k)) // the undo, if the lane is at that
			}}},
			always: w.turnsOnce(saga),
			end: func() error {
				s, err := w.rests(saga, pgengine.Completed, pgengine.Compensated)
				calls := o.of(saga)
				if err == nil && strings.HasSuffix(calls, "U") != (s.State == pgengine.Compensated) {
					err = fmt.Errorf("saga %s is %s, and its calls were %s", saga, s.State, calls)
				}
				return err
			},
		}
	})
}

// sweep is an act in which the sweeper takes back what workers hold of whom nobody knows that they live, as all actors are.
func (w *world) sweep(actor int) act {
	return act{do: func(ctx context.Context) error {
		_, err := w.x.actors[actor].pool.Exec(ctx, sql.SweepDead, string(letters[actor]), time.Second)
		return err
	}}
}

// deadline is an act in which the sweeper finds deadlines that have passed, and a worker does what that asks for.
func (w *world) deadline(actor int, saga string) act {
	return act{do: func(ctx context.Context) error {
		if _, err := w.x.actors[actor].pool.Exec(ctx, sql.SweepDeadlines); err != nil {
			return err
		}
		return w.run(ctx, actor, pgengine.Ticket{SagaID: saga, Name: "order", Version: 1})
	}}
}

type approval struct{}

func (approval) SignalName() string { return "approval" }

// TestMergesSignal: a signal comes while A begins to wait for it, and C finds that the wait has been long enough. The saga goes on with the one or the other, and does not
// wait for what has come.
func TestMergesSignal(t *testing.T) {
	w := newSagas(t, func(func()) []pgengine.Definition {
		wait := pgengine.Await[order, approval]{Name: "wait", Timeout: time.Hour}
		return order1(wait, works("after", func() {}, wait))
	})
	w.explore(func() race {
		saga := w.sandbox.Start(order{})
		k, err := w.ticket(saga, "order", "")
		if err != nil {
			w.Fatal(err)
		}
		k.Step = "wait"
		return race{
			acts: []act{
				w.drive(0, saga, "order", "", false),
				w.obey(1, saga, "order", func(ctx context.Context, tx pgx.Tx, e *pgengine.Engine) error {
					return e.Signal(ctx, tx, pgengine.ID(saga), approval{})
				}),
				{do: func(ctx context.Context) error {
					if _, err := w.x.actors[2].pool.Exec(ctx, sql.KitAdvance, 2*time.Hour.Seconds()); err != nil {
						return err
					}
					return w.run(ctx, 2, k)
				}},
			},
			end: func() error {
				w.sandbox.Settle() // without putting the clock forward
				if s := w.sandbox.Get(saga); !s.State.Ended() {
					return fmt.Errorf("saga %s waits for a signal that has come: %+v %+v", saga, s.Steps, s.Signals)
				}
				_, err := w.rests(saga, pgengine.Completed, pgengine.Compensated)
				return err
			},
		}
	})
}

// TestMergesStart: three begin the saga of one key, and A rolls back. There is one in the end, and who was told that it began it is one.
func TestMergesStart(t *testing.T) {
	w := newSagas(t, func(func()) []pgengine.Definition { return order1(works("only", func() {})) })
	n := 0
	w.explore(func() race {
		n++
		key := fmt.Sprint("key", n)
		started := make([]pgengine.Started, len(letters))
		start := func(actor int, end func(pgx.Tx, context.Context) error) act {
			return act{do: func(ctx context.Context) error {
				tx, err := w.x.actors[actor].pool.Begin(ctx)
				if err != nil {
					return err
				}
				started[actor], err = w.engines[actor].Start(ctx, tx, order{}, &pgengine.StartOptions{Key: key})
				if err != nil {
					_ = tx.Rollback(ctx)
					return err
				}
				return end(tx, ctx)
			}}
		}
		return race{
			acts: []act{start(0, pgx.Tx.Rollback), start(1, pgx.Tx.Commit), start(2, pgx.Tx.Commit)},
			end: func() error {
				var sagas int
				if err := w.pool.QueryRow(w.Context(), `SELECT count(*) FROM pgsagaz.saga WHERE key = $1`, key).Scan(&sagas); err != nil {
					return err
				}
				if b, c := started[1], started[2]; sagas != 1 || b.ID != c.ID || b.Existed == c.Existed {
					return fmt.Errorf("%d sagas of one key; B was told %+v, C %+v", sagas, b, c)
				}
				_, err := w.rests(started[1].ID, pgengine.Completed)
				return err
			},
		}
	})
}

type trip struct{}

func (trip) SagaName() string { return "trip" }

// TestMergesChild: a child saga ends while its parent is cancelled. Both are completed in the end, or both are taken back.
func TestMergesChild(t *testing.T) {
	w := newSagas(t, func(func()) []pgengine.Definition {
		travels := pgengine.Child[order, trip, string]{Name: "travels", Input: func(context.Context, call) (trip, error) { return trip{}, nil }}
		drives := pgengine.TxStep[trip, string]{
			Name: "drives",
			Do:   func(context.Context, pgx.Tx, pgengine.Call[trip]) (string, error) { return "", nil },
			Undo: func(context.Context, pgx.Tx, pgengine.Call[trip], string) error { return nil },
		}
		return append(order1(travels), pgengine.Saga[trip]{Version: 1, Output: drives, Steps: pgengine.Steps[trip](drives)})
	})
	w.explore(func() race {
		saga := w.sandbox.Start(order{})
		k, err := w.ticket(saga, "order", "")
		if err == nil {
			err = w.sandbox.Engine.Run(w.Context(), k, pgengine.RunOptions{Worker: "before"})
		}
		if err != nil {
			w.Fatal(err)
		}
		var child string
		if err := w.pool.QueryRow(w.Context(), `SELECT saga_id::text FROM pgsagaz.child WHERE parent_id = $1`, saga).Scan(&child); err != nil {
			w.Fatal(err)
		}
		return race{
			acts: []act{
				w.drive(0, child, "trip", "", false),
				w.obey(1, saga, "order", cancel(saga)),
				{do: func(ctx context.Context) error { // hears of what the one has asked the other, if it has
					if err := w.run(ctx, 2, pgengine.Ticket{SagaID: child, Name: "trip", Version: 1}); err != nil {
						return err
					}
					return w.run(ctx, 2, pgengine.Ticket{SagaID: saga, Name: "order", Version: 1})
				}},
			},
			end: func() error {
				parent, err := w.rests(saga, pgengine.Completed, pgengine.Compensated)
				if err != nil {
					return err
				}
				_, err = w.is(child, parent.State)
				return err
			},
		}
	})
}
