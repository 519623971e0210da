package bench

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/jobs"
	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql"
)

const insertEffect = `INSERT INTO pgsagaz_bench.effect (saga, step) VALUES ($1, $2)`

// work is the input of the measured saga.
type work struct {
	Payload string `json:"payload"`
}

// SagaName is a name that no user has.
func (work) SagaName() string { return "pgsagaz.bench" }

// chain is a saga of n TxSteps, one INSERT each. Its version says which it is.
func chain(version, n int, fuse bool) pgengine.Definition {
	var steps []pgengine.Step[work]
	for i := range n {
		step := pgengine.TxStep[work, int]{
			Name: fmt.Sprintf("step%d", i+1),
			Do: func(ctx context.Context, tx pgx.Tx, c pgengine.Call[work]) (int, error) {
				_, err := tx.Exec(ctx, insertEffect, c.SagaID, c.Step)
				return i, err
			},
		}
		if i > 0 {
			step.After = pgengine.Steps(steps[i-1])
		}
		steps = append(steps, step)
	}
	return pgengine.Saga[work]{Version: version, Fuse: fuse, Steps: steps}
}

// calls is a saga of n Activities that do nothing, outside any transaction.
func calls(version, n int) pgengine.Definition {
	var steps []pgengine.Step[work]
	for i := range n {
		step := pgengine.Activity[work, int]{
			Name: fmt.Sprintf("step%d", i+1),
			Do:   func(context.Context, pgengine.Call[work]) (int, error) { return i, nil },
		}
		if i > 0 {
			step.After = pgengine.Steps(steps[i-1])
		}
		steps = append(steps, step)
	}
	return pgengine.Saga[work]{Version: version, Steps: steps}
}

// Saga measures chains of TxSteps, from the start to the end of a saga, in one process, against the
// same INSERTs with one state write each, committed step by step: four round trips and one commit a step. It does so
// with a commit a step, and with steps that share one ([pgengine.Saga.Fuse]); and it measures chains of Activities that do nothing, whose results
// are settled, against that floor.
// The database must be migrated. What it writes stays in the schema pgsagaz_bench, and its sagas.
func Saga(ctx context.Context, config *pgxpool.Config, o Options) (results []Result, err error) {
	o = o.withDefaults()
	if o.Steps < 1 || o.Steps > 1000 {
		return nil, fmt.Errorf("bench: %d steps; it must be 1 to 1000", o.Steps)
	}
	pool, g, err := metered(ctx, config, sql.WakeOnCommit)
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	defer g.pool.Close()
	defer pool.Close()
	if err := prepare(ctx, pool); err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	single, fused, outside := 3*o.Steps, 3*o.Steps+1, 3*o.Steps+2 // versions
	engine, err := pgengine.New(pool, pgengine.Config{Sagas: []pgengine.Definition{chain(single, o.Steps, false), chain(fused, o.Steps, true), calls(outside, o.Steps)}, Logger: o.Logger})
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	worker, err := jobs.NewWorker(engine, jobs.Config{})
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- worker.Run(running) }()
	defer func() {
		stop()
		err = errors.Join(err, <-ended)
	}()

	input := work{Payload: strings.Repeat("x", 100)}
	ours := func(version int) side {
		return func(ctx context.Context) error {
			var started pgengine.Started
			err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) (err error) {
				started, err = engine.Start(ctx, tx, input, &pgengine.StartOptions{Version: version})
				return err
			})
			if err != nil {
				return err
			}
			status, err := engine.Wait(ctx, started.ID)
			if err == nil && status.State != pgengine.Completed {
				err = fmt.Errorf("saga %s is %s: %v", status.ID, status.State, status.Cause)
			}
			return err
		}
	}
	floor := func(ctx context.Context) error { return byHand(ctx, pool, o.Steps) }

	for _, concurrency := range o.Concurrency {
		for _, kind := range []struct {
			name    string
			version int
		}{{"saga", single}, {"saga, fused", fused}, {"saga of activities", outside}} {
			r, err := pair(ctx, o, g, kind.name, concurrency, ours(kind.version), floor)
			if err != nil {
				return results, fmt.Errorf("bench %s, %d in flight: %w", kind.name, concurrency, err)
			}
			results = append(results, r)
		}
	}
	return results, nil
}

// byHand does the steps of one saga with pgx alone: BEGIN, the INSERT, the state write, COMMIT.
func byHand(ctx context.Context, pool *pgxpool.Pool, steps int) error {
	id := uuid.Must(uuid.NewV7()).String()
	for i := range steps {
		name := fmt.Sprintf("step%d", i+1)
		err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, insertEffect, id, name); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, `INSERT INTO pgsagaz_bench.state (saga, step, result) VALUES ($1, $2, $3)`, id, name, "1")
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}
