package bench

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/jobs"
	"github.com/pgsagaz/pgsagaz/pgengine"
)

// ArchiveOptions are those of [Archive].
type ArchiveOptions struct {
	Options
	Rows int           // sagas that have ended and wait to be archived; 0: 1,000,000
	Rest time.Duration // between two sagas of one in flight: a server that is busy, and not full. 0: 20 ms
}

// ArchiveResult is what running sagas feel of the archiver, with so many in flight.
type ArchiveResult struct {
	Rows        int     `json:"rows"` // ended sagas, at first
	Steps       int     `json:"steps"`
	Concurrency int     `json:"concurrency"`
	Rounds      int     `json:"rounds"`
	With        Figures `json:"with"` // of the running sagas, while others are archived
	Without     Figures `json:"without"`
	// P99Ratio is the p99 with over that without, the median of the rounds.
	P99Ratio  float64   `json:"p99_ratio"`
	Ratios    []float64 `json:"ratios"`     // of the single rounds
	Archived  int64     `json:"archived"`   // in the rounds with
	PerSecond float64   `json:"per_second"` // of these
	Left      int64     `json:"left"`       // that have yet to be archived; 0: the archiver has been idle at the end
}

// Archive measures sagas that run while many others, which have ended, are archived beside them, against the same without; in turns.
// Conditions are those of [Saga].
func Archive(ctx context.Context, pool *pgxpool.Pool, o ArchiveOptions) (results []ArchiveResult, err error) {
	if len(o.Concurrency) == 0 {
		o.Concurrency = []int{8}
	}
	o.Options = o.Options.withDefaults()
	if o.Rows == 0 {
		o.Rows = 1_000_000
	}
	if o.Rest == 0 {
		o.Rest = 20 * time.Millisecond
	}
	if o.Steps < 1 || o.Steps > 1000 {
		return nil, fmt.Errorf("bench: %d steps; it must be 1 to 1000", o.Steps)
	}
	if err := prepare(ctx, pool); err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	version := 2 * o.Steps
	engine, err := pgengine.New(pool, pgengine.Config{Sagas: []pgengine.Definition{chain(version, o.Steps, false)}, Logger: o.Logger})
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	stop, err := working(ctx, engine, jobs.Config{ArchiveAfter: -1})
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	defer func() { err = errors.Join(err, stop()) }()
	if err := plantEnded(ctx, pool, o, version); err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	input := work{Payload: strings.Repeat("x", 100)}
	run := func(ctx context.Context) error {
		var started pgengine.Started
		err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) (err error) {
			started, err = engine.Start(ctx, tx, input, nil)
			return err
		})
		if err != nil {
			return err
		}
		_, err = engine.Wait(ctx, started.ID)
		return err
	}
	for _, concurrency := range o.Concurrency {
		r, err := archiving(ctx, pool, engine, o, concurrency, run)
		if err != nil {
			return results, fmt.Errorf("bench archive, %d in flight: %w", concurrency, err)
		}
		results = append(results, r)
	}
	return results, nil
}

// archiving measures one concurrency. Either side has a second worker that drives no saga; on one of them it archives.
func archiving(ctx context.Context, pool *pgxpool.Pool, engine *pgengine.Engine, o ArchiveOptions, concurrency int, run side) (ArchiveResult, error) {
	r := ArchiveResult{Rows: o.Rows, Steps: o.Steps, Concurrency: concurrency, Rounds: o.Rounds}
	waiting := func() (n int64, err error) {
		err = pool.QueryRow(ctx, `SELECT count(*) FROM pgsagaz.saga WHERE ended_at < pgsagaz.now() - interval '12 hours'`).Scan(&n)
		return n, err
	}
	beside := func(after, duration time.Duration) (Figures, error) {
		stop, err := working(ctx, engine, jobs.Config{Queues: map[string]int{}, ArchiveAfter: after})
		if err != nil {
			return Figures{}, err
		}
		err = pause(ctx, 200*time.Millisecond) // it makes itself known
		var f Figures
		if err == nil {
			f, _, err = measureAt(ctx, duration, concurrency, o.Rest, run)
		}
		return f, errors.Join(err, stop())
	}
	var withs, withouts []Figures
	var seconds float64
	for round := -1; round < o.Rounds; round++ { // the first warms, and is not counted
		duration := o.Duration
		if round < 0 {
			duration = min(duration, time.Second)
		}
		o.Progress(fmt.Sprintf("archiving, %d in flight: round %d of %d", concurrency, round+1, o.Rounds))
		var with, without Figures
		for _, archive := range []bool{round%2 != 0, round%2 == 0} { // either side is the first one in turns
			if !archive {
				var err error
				if without, err = beside(-1, duration); err != nil {
					return r, err
				}
				continue
			}
			before, err := waiting()
			if err != nil {
				return r, err
			}
			begun := time.Now()
			if with, err = beside(time.Millisecond, duration); err != nil {
				return r, err
			}
			took := time.Since(begun)
			if r.Left, err = waiting(); err != nil {
				return r, err
			}
			if round >= 0 {
				r.Archived += before - r.Left
				seconds += took.Seconds()
			}
		}
		if round >= 0 {
			withs, withouts = append(withs, with), append(withouts, without)
			r.Ratios = append(r.Ratios, with.P99/without.P99)
		}
	}
	r.With, r.Without, r.P99Ratio, r.PerSecond = medians(withs), medians(withouts), median(r.Ratios), float64(r.Archived)/seconds
	return r, nil
}

// working runs a worker until the returned function is called.
func working(ctx context.Context, engine *pgengine.Engine, cfg jobs.Config) (stop func() error, err error) {
	worker, err := jobs.NewWorker(engine, cfg)
	if err != nil {
		return nil, err
	}
	running, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- worker.Run(running) }()
	return func() error { cancel(); return <-ended }, nil
}

// plantEnded writes sagas that have ended a day ago, as they are left by a worker.
func plantEnded(ctx context.Context, pool *pgxpool.Pool, o ArchiveOptions, version int) error {
	const page = 20_000
	for from := 0; from < o.Rows; from += page {
		o.Progress(fmt.Sprintf("%d of %d sagas that have ended", from, o.Rows))
		_, err := pool.Exec(ctx, `
			WITH s AS (
			    INSERT INTO pgsagaz.saga (id, name, version, state, input, created_at, ended_at)
			    SELECT (left(pgsagaz.uuid7_at(t.at)::text, 15) || substr(gen_random_uuid()::text, 16))::uuid, 'pgsagaz.bench', $3, 'completed',
			           json_build_object('payload', repeat('x', 100)), t.at, t.at + interval '50 milliseconds'
			    FROM (SELECT pgsagaz.now() - interval '1 day' + n * interval '1 millisecond' AS at FROM generate_series($1::integer, $2::integer) n) t
			    RETURNING id, created_at)
			INSERT INTO pgsagaz.step (saga_id, step, direction, generation, outcome, attempt, token, worker, result, started_at, ended_at)
			SELECT s.id, 'step' || k, 'do', 1, 'done', 1, 1, 'bench', to_json(k - 1), s.created_at, s.created_at + k * interval '5 milliseconds'
			FROM s, generate_series(1, $4::integer) k`, from+1, min(from+page, o.Rows), version, o.Steps)
		if err != nil {
			return err
		}
	}
	// What autovacuum and the checkpoints owe to the planting is paid before the first round: a worker's million comes over hours.
	for _, sql := range []string{`VACUUM (ANALYZE) pgsagaz.saga`, `VACUUM (ANALYZE) pgsagaz.step`, `CHECKPOINT`} {
		o.Progress(sql)
		if _, err := pool.Exec(ctx, sql); err != nil {
			return err
		}
	}
	return nil
}
