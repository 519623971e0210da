package pgengine_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/internal/pgmeter"
	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// chainOf is a linear saga of TxSteps with u statements each.
func chainOf(n, u int) pgengine.Definition {
	var steps []pgengine.Step[race]
	for i := range n {
		step := pgengine.TxStep[race, int]{
			Name: fmt.Sprintf("step%d", i),
			Do: func(ctx context.Context, tx pgx.Tx, c raceCall) (int, error) {
				for range u {
					if _, err := tx.Exec(ctx, `INSERT INTO effect (saga, step) VALUES ($1, $2)`, c.SagaID, c.Step); err != nil {
						return 0, err
					}
				}
				return i, nil
			},
		}
		if i > 0 {
			step.After = steps[i-1:]
		}
		steps = append(steps, step)
	}
	return pgengine.Saga[race]{Version: 1, Steps: steps}
}

// What a step of a linear saga costs, counted and not timed: the difference between a long and a short
// chain, driven on one connection without a worker around it.
func TestCostOfAStep(t *testing.T) {
	for _, u := range []int{0, 1, 3} {
		t.Run(fmt.Sprintf("%d statements", u), func(t *testing.T) {
			t.Parallel()
			cost := func(steps int) (trips, commits, jobs int64) {
				var m pgmeter.Meter
				pool := sqltest.Config(t, func(c *pgxpool.Config) {
					c.MaxConns = 1
					m.Attach(c.ConnConfig)
					c.PingTimeout = time.Minute
				})
				execute(t, pool, `CREATE TABLE effect (saga uuid NOT NULL, step text NOT NULL)`)
				e, err := pgengine.New(pool, pgengine.Config{Sagas: []pgengine.Definition{chainOf(steps, u)}, Logger: quiet, NoWake: true})
				if err != nil {
					t.Fatal(err)
				}
				register(t, e)
				drive := func() {
					id := start(t, e, race{}, nil).ID
					k := ticket(t, pool, id, "race", "")
					before, committed := m.Trips.Load(), m.Transactions.Load()
					if err := e.Run(t.Context(), k, pgengine.RunOptions{Worker: "w"}); err != nil {
						t.Fatal(err)
					}
					trips, commits = m.Trips.Load()-before, m.Transactions.Load()-committed
					if states := wait(t, e, id); states[pgengine.Completed] != 1 {
						t.Fatalf("%v, want completed in one drive", states)
					}
					jobs = int64(queryInt(t, pool, `SELECT count(*) FROM pgsagaz.river_job WHERE args ->> 'saga_id' = $1`, id))
				}
				drive() // prepares the statements
				drive()
				if n := m.Notifies.Load(); n > 0 {
					t.Errorf("%d pg_notify inside transactions", n)
				}
				return trips, commits, jobs
			}
			const short, long = 5, 15
			trips5, commits5, jobs5 := cost(short)
			trips15, commits15, jobs15 := cost(long)
			perStep := float64(trips15-trips5) / (long - short)
			commits := float64(commits15-commits5) / (long - short)
			t.Logf("a step with %d statements: %.1f round trips, %.1f commits; a chain of %d: %d and %d", u, perStep, commits, short, trips5, commits5)
			if limit := float64(u) + 2; perStep > limit {
				t.Errorf("%.1f round trips a step, want at most %.0f", perStep, limit)
			}
			if commits != 1 {
				t.Errorf("%.1f commits a step, want 1", commits)
			}
			if jobs5 != 1 || jobs15 != 1 {
				t.Errorf("%d and %d River jobs for a chain, want 1", jobs5, jobs15)
			}
		})
	}
}

// What a limit costs a step, counted and not timed: two transactions of one round trip each, however many limits there are.
func TestCostOfALimit(t *testing.T) {
	t.Parallel()
	one, two := pgengine.Limit[guest]{Name: "x", Concurrency: 1}, pgengine.Limit[guest]{Name: "y", Concurrency: 1, Rate: 1000, Key: initial}
	cost := func(limit pgengine.Limit[guest]) (trips int64) {
		var m pgmeter.Meter
		pool := sqltest.Config(t, func(c *pgxpool.Config) {
			c.MaxConns = 1
			m.Attach(c.ConnConfig)
			c.PingTimeout = time.Minute
		})
		e, err := pgengine.New(pool, pgengine.Config{Sagas: []pgengine.Definition{guests(serve(limit, func(context.Context, guestCall) error { return nil }))}, Logger: quiet, NoWake: true})
		if err != nil {
			t.Fatal(err)
		}
		register(t, e)
		for range 2 { // the first prepares the statements
			id := start(t, e, guest{Name: "a"}, nil).ID
			k := ticket(t, pool, id, "guest", "")
			before := m.Trips.Load()
			if err := e.Run(t.Context(), k, pgengine.RunOptions{Worker: "w"}); err != nil {
				t.Fatal(err)
			}
			trips = m.Trips.Load() - before
			if states := wait(t, e, id); states[pgengine.Completed] != 1 {
				t.Fatalf("%v, want completed in one drive", states)
			}
		}
		return trips
	}
	none := cost(pgengine.Limit[guest]{})
	for name, limit := range map[string]pgengine.Limit[guest]{"one": one, "two": pgengine.Limits(one, two)} {
		if trips := cost(limit) - none; trips != 2 {
			t.Errorf("%s: %d round trips more than without a limit, want 2", name, trips)
		}
	}
}
