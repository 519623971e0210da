package pgengine_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/internal/pgmeter"
	"github.com/pgsagaz/pgsagaz/jobs"
	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/pgengine/pgenginetest"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// fusedSaga is txSaga, fused, with five steps: op runs in the third, the others write.
func fusedSaga(op txOp) pgengine.Definition {
	var steps []pgengine.Step[task]
	for i := range 5 {
		step := pgengine.TxStep[task, string]{
			Name: fmt.Sprintf("s%d", i+1), Retry: pgengine.Retry{MaxAttempts: 2, Initial: time.Millisecond},
			Do: func(ctx context.Context, tx pgx.Tx, c taskCall) (string, error) {
				if c.Step == "s3" {
					return c.Step, op(ctx, tx, c)
				}
				return c.Step, note(ctx, tx, c)
			},
			Undo: func(ctx context.Context, tx pgx.Tx, c taskCall, _ string) error {
				_, err := tx.Exec(ctx, "DELETE FROM note WHERE saga = $1 AND step = $2", c.SagaID, c.Step)
				return err
			},
		}
		if i > 0 {
			step.After = steps[i-1:]
		}
		steps = append(steps, step)
	}
	return pgengine.Saga[task]{Version: 1, Fuse: true, Steps: steps}
}

// commits are the statements that have recorded a saga's steps, in their order, each with what it recorded.
func commits(t testing.TB, pool *pgxpool.Pool, id string) string {
	t.Helper()
	return query[string](t, pool, `SELECT string_agg(steps, ', ') FROM (
		SELECT string_agg(step, '+' ORDER BY step) AS steps FROM pgsagaz.step WHERE saga_id = $1 AND direction = 'do' GROUP BY xmin::text::bigint ORDER BY min(ended_at)) c`, id)
}

// TestFuse: what becomes of the steps that share a transaction, whatever one in their midst does to it.
func TestFuse(t *testing.T) {
	t.Parallel()
	first := func(c taskCall, err error) error {
		if c.Attempt == 1 {
			return err
		}
		return nil
	}
	for _, tt := range []struct {
		name    string
		op      txOp
		commits string
		want    pgengine.State
		error   string
	}{
		{"goes well", func(ctx context.Context, tx pgx.Tx, c taskCall) error { return note(ctx, tx, c) }, "s1+s2+s3+s4+s5", pgengine.Completed, ""},
		{"has no statement", func(context.Context, pgx.Tx, taskCall) error { return nil }, "s1+s2+s3+s4+s5", pgengine.Completed, ""},
		{"fails once", func(ctx context.Context, tx pgx.Tx, c taskCall) error {
			return errors.Join(note(ctx, tx, c), first(c, errNo))
		}, "s1+s2, s3+s4+s5", pgengine.Completed, ""},
		{"fails once without a statement", func(_ context.Context, _ pgx.Tx, c taskCall) error {
			return first(c, errNo)
		}, "s1+s2, s3+s4+s5", pgengine.Completed, ""},
		{"has a statement that fails once", func(ctx context.Context, tx pgx.Tx, c taskCall) error {
			if c.Attempt == 1 {
				_, err := tx.Exec(ctx, "SELECT 1 / $1::int", 0)
				return err
			}
			return note(ctx, tx, c)
		}, "s1+s2, s3+s4+s5", pgengine.Completed, ""},
		{"has a statement that does not parse, once", func(ctx context.Context, tx pgx.Tx, c taskCall) error {
			if c.Attempt == 1 {
				_, err := tx.Exec(ctx, "SELECT $1::int FROM nowhere", 0)
				return err
			}
			return note(ctx, tx, c)
		}, "s1, s2, s3+s4+s5", pgengine.Completed, ""}, // its parsing leaves no transaction to save
		{"panics once", func(ctx context.Context, tx pgx.Tx, c taskCall) error {
			if err := note(ctx, tx, c); c.Attempt == 1 {
				panic("at the disco")
			} else {
				return err
			}
		}, "s1+s2, s3+s4+s5", pgengine.Completed, ""},
		{"breaks a deferred constraint once", func(ctx context.Context, tx pgx.Tx, c taskCall) error {
			if c.Attempt == 1 {
				_, err := tx.Exec(ctx, "INSERT INTO owned VALUES ($1)", 7)
				return err
			}
			return note(ctx, tx, c)
		}, "s1, s2, s3+s4+s5", pgengine.Completed, ""}, // one by one, so that s3 is the one to blame
		{"loses its connection once", func(ctx context.Context, tx pgx.Tx, c taskCall) error {
			var lost int
			if err := tx.QueryRow(ctx, "SELECT count(*) FROM lost WHERE saga = $1", c.SagaID).Scan(&lost); err != nil {
				return err
			}
			if lost == 0 {
				other, err := pgx.ConnectConfig(ctx, tx.Conn().Config())
				if err != nil {
					return err
				}
				defer other.Close(ctx)
				if _, err := other.Exec(ctx, "INSERT INTO lost VALUES ($1)", c.SagaID); err != nil {
					return err
				}
				_, err = tx.Exec(ctx, "SELECT pg_terminate_backend(pg_backend_pid()) WHERE $1", true)
				return err
			}
			return note(ctx, tx, c)
		}, "s1, s2, s3, s4, s5", pgengine.Completed, ""},
		{"fails for good", func(context.Context, pgx.Tx, taskCall) error { return pgengine.Terminal(errNo) }, "s1+s2, s3", pgengine.Compensated, errNo.Error()},
		{"commits", func(ctx context.Context, tx pgx.Tx, c taskCall) error {
			_, err := tx.Exec(ctx, "COMMIT")
			return err
		}, "s1+s2, s3", pgengine.Compensated, pgengine.ErrTxEnded.Error()},
		{"rolls back", func(ctx context.Context, tx pgx.Tx, c taskCall) error {
			_, err := tx.Exec(ctx, "ROLLBACK")
			return err
		}, "s1, s2, s3", pgengine.Compensated, pgengine.ErrTxEnded.Error()},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			pool := notePool(t, nil)
			execute(t, pool, `CREATE TABLE lost (saga uuid)`)
			e := engine(t, pool, fusedSaga(tt.op))
			register(t, e)
			s := byHand(t, e, start(t, e, task{Case: tt.name}, nil).ID)
			if s.State != tt.want || tt.error != "" && (s.Cause == nil || s.Cause.Step != "s3" || s.Cause.Error != tt.error) {
				t.Errorf("the saga is %s, cause %+v, attempts %+v", s.State, s.Cause, s.Attempts)
			}
			if got := commits(t, pool, s.ID); got != tt.commits {
				t.Errorf("the commits are %q, want %q; attempts %+v", got, tt.commits, s.Attempts)
			}
			for _, a := range s.Attempts {
				if a.Step != "s3" {
					t.Errorf("an attempt of %s failed: %s", a.Step, a.Error)
				}
			}
			want := strings.Join([]string{"s1 s2 s4 s5", "s1 s2 s3 s4 s5"}, "|")
			if tt.want == pgengine.Compensated {
				want = ""
			}
			if got := query[string](t, pool, "SELECT coalesce(string_agg(step, ' ' ORDER BY step), '') FROM note WHERE saga = $1", s.ID); got != want && !strings.Contains("|"+want+"|", "|"+got+"|") {
				t.Errorf("the steps that have written are %q, want %q", got, want)
			}
		})
	}
}

// A saga that is cancelled while its steps share a transaction has done none of them; with a job a step, no two steps
// share one, and the two that were done are undone.
func TestFusedStepsAreRolledBackTogether(t *testing.T) {
	t.Parallel()
	pool := notePool(t, nil)
	var e *pgengine.Engine
	e = engine(t, pool, fusedSaga(func(ctx context.Context, tx pgx.Tx, c taskCall) error {
		if err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error { return e.Cancel(ctx, tx, c.SagaID, pgengine.By{Reason: "changed my mind"}) }); err != nil {
			return err
		}
		for { // until a worker has obeyed
			var state pgengine.State
			if err := pool.QueryRow(ctx, "SELECT state FROM pgsagaz.saga WHERE id = $1", c.SagaID).Scan(&state); err != nil || state != pgengine.Running {
				return err
			}
			time.Sleep(time.Millisecond)
		}
	}))
	register(t, e)
	atWork(t, e, jobs.Config{})
	s := atRest(t, e, start(t, e, task{}, nil).ID)
	want := ""
	if *jobPerStep {
		want = "s1 do done, s2 do done, s2 undo done, s1 undo done"
	}
	var steps []string
	for _, step := range s.Steps {
		steps = append(steps, fmt.Sprintf("%s %s %s", step.Step, step.Direction, step.State))
	}
	if got := strings.Join(steps, ", "); s.State != pgengine.Compensated || s.Cause.Kind != pgengine.CauseCancel || got != want {
		t.Errorf("the saga is %s, cause %+v, steps %q, want %q", s.State, s.Cause, got, want)
	}
	if n := query[int](t, pool, "SELECT count(*) FROM note WHERE saga = $1", s.ID); n > 0 {
		t.Errorf("%d rows are left", n)
	}
}

// A step that kills its workers takes those before it along at first; then it is done alone, and it is the one that
// has failed.
func TestFusedStepThatKills(t *testing.T) {
	t.Parallel()
	pool := notePool(t, nil)
	var p *pgenginetest.Sandbox
	tries := 0
	p = pgenginetest.NewSandbox(t, pool, fusedSaga(func(ctx context.Context, tx pgx.Tx, c taskCall) error {
		tries++
		p.Crash()
		return note(ctx, tx, c)
	}))
	id := p.Start(task{})
	p.Run()
	s := p.Get(id)
	if s.State != pgengine.Compensated || s.Cause.Step != "s3" || !strings.Contains(s.Cause.Error, "workers died at this step") {
		t.Errorf("the saga is %s, cause %+v", s.State, s.Cause)
	}
	if got := commits(t, pool, id); got != "s1, s2, s3" || tries > 13 {
		t.Errorf("the commits are %q, after %d tries", got, tries)
	}
}

// What a fused chain costs: a commit for all of it, and no round trip beside the steps' own statements.
func TestCostOfFusedSteps(t *testing.T) {
	t.Parallel()
	cost := func(n int) (trips, commits int64) {
		var m pgmeter.Meter
		pool := sqltest.Config(t, func(c *pgxpool.Config) {
			c.MaxConns = 1
			m.Attach(c.ConnConfig)
			c.PingTimeout = time.Minute
		})
		execute(t, pool, `CREATE TABLE effect (saga uuid NOT NULL, step text NOT NULL)`)
		chain := chainOf(n, 1).(pgengine.Saga[race])
		chain.Fuse = true
		e, err := pgengine.New(pool, pgengine.Config{Sagas: []pgengine.Definition{chain}, Logger: quiet, NoWake: true})
		if err != nil {
			t.Fatal(err)
		}
		register(t, e)
		for range 2 { // the first prepares the statements
			id := start(t, e, race{}, nil).ID
			k := ticket(t, pool, id, "race", "")
			before, committed := m.Trips.Load(), m.Transactions.Load()
			if err := e.Run(t.Context(), k, pgengine.RunOptions{Worker: "w", Budget: time.Minute}); err != nil {
				t.Fatal(err)
			}
			trips, commits = m.Trips.Load()-before, m.Transactions.Load()-committed
			if states := wait(t, e, id); states[pgengine.Completed] != 1 {
				t.Fatalf("%v, want completed in one drive", states)
			}
		}
		return trips, commits
	}
	trips5, commits5 := cost(5)
	trips15, commits15 := cost(15)
	t.Logf("5 steps: %d round trips, %d commits; 15 steps: %d and %d", trips5, commits5, trips15, commits15)
	if trips15-trips5 != 10 || commits15 != commits5 {
		t.Errorf("10 more steps of one statement cost %d round trips and %d commits, want 10 and 0", trips15-trips5, commits15-commits5)
	}
}
