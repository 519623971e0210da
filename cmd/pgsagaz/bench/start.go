package bench

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/pgengine"
)

// startedAtOnce is how many sagas a transaction of StartMany starts here.
const startedAtOnce = 1000

// Start measures starts alone: no worker runs. One saga a transaction, against the INSERT of one row; and 1,000 a transaction, with
// [pgengine.Engine.StartMany], against COPY of as many rows. A start has to leave the saga, its lane and River's job. Its figures are of sagas;
// P50 and P99 of transactions. What was started is deleted again.
func Start(ctx context.Context, config *pgxpool.Config, o Options) (results []Result, err error) {
	o = o.withDefaults()
	o.Steps = 1
	pool, g, err := metered(ctx, config, func(*pgxpool.Config) {})
	if err != nil {
		return nil, fmt.Errorf("bench start: %w", err)
	}
	defer g.pool.Close()
	defer pool.Close()
	if err := prepare(ctx, pool); err != nil {
		return nil, fmt.Errorf("bench start: %w", err)
	}
	const version = 1 << 20 // that no worker has
	engine, err := pgengine.New(pool, pgengine.Config{Sagas: []pgengine.Definition{chain(version, 1, false)}, Logger: o.Logger, NoWake: true})
	if err != nil {
		return nil, fmt.Errorf("bench start: %w", err)
	}
	defer func() { err = errors.Join(err, forgetStarted(context.WithoutCancel(ctx), pool, version)) }()

	input := work{Payload: strings.Repeat("x", 100)}
	items := make([]pgengine.StartItem, startedAtOnce)
	for i := range items {
		items[i].Input = input
	}
	one := func(ctx context.Context) error {
		return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			_, err := engine.Start(ctx, tx, input, nil)
			return err
		})
	}
	oneByHand := func(ctx context.Context) error {
		return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, `INSERT INTO pgsagaz_bench.state (saga, step, result) VALUES ($1, '', $2)`, uuid.Must(uuid.NewV7()).String(), input)
			return err
		})
	}
	many := func(ctx context.Context) error {
		return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			_, err := engine.StartMany(ctx, tx, items, nil)
			return err
		})
	}
	manyByHand := func(ctx context.Context) error {
		_, err := pool.CopyFrom(ctx, pgx.Identifier{"pgsagaz_bench", "state"}, []string{"saga", "step", "result"},
			pgx.CopyFromSlice(startedAtOnce, func(int) ([]any, error) { return []any{[16]byte(uuid.Must(uuid.NewV7())), "", input}, nil }))
		return err
	}
	for _, concurrency := range o.Concurrency {
		r, err := pair(ctx, o, g, "start", concurrency, one, oneByHand)
		if err != nil {
			return results, fmt.Errorf("bench start, %d in flight: %w", concurrency, err)
		}
		results = append(results, r)
	}
	r, err := pair(ctx, o, g, fmt.Sprintf("start, %d a transaction", startedAtOnce), 2, many, manyByHand)
	if err != nil {
		return results, fmt.Errorf("bench start, many: %w", err)
	}
	r.Engine.PerSecond, r.Floor.PerSecond = r.Engine.PerSecond*startedAtOnce, r.Floor.PerSecond*startedAtOnce
	r.EngineCost, r.FloorCost = r.EngineCost.each(startedAtOnce), r.FloorCost.each(startedAtOnce)
	return append(results, r), nil
}

// forgetStarted takes away what was started, and will never run.
func forgetStarted(ctx context.Context, pool *pgxpool.Pool, version int) error {
	_, err := pool.Exec(ctx, `
		WITH s AS (DELETE FROM pgsagaz.saga WHERE name = $1 AND version = $2 RETURNING id),
		     l AS (DELETE FROM pgsagaz.lane WHERE saga_id IN (SELECT id FROM s))
		DELETE FROM pgsagaz.river_job WHERE kind = 'pgsagaz/' || $1 || '/' || $2::text`, work{}.SagaName(), version)
	if err != nil {
		return fmt.Errorf("delete what was started: %w", err)
	}
	return nil
}
