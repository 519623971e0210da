package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/jobs"
	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql"
)

// Wake is how long it takes from the commit of a start to the first step, at rest, between two pools
// that share nothing but Postgres.
type Wake struct {
	How     string  `json:"how"`
	Samples int     `json:"samples"`
	P50     float64 `json:"p50_ms"`
	P99     float64 `json:"p99_ms"`
}

// ping is the input of a saga that only says when it began.
type ping struct {
	N int `json:"n"`
}

// SagaName is a name that no user has.
func (ping) SagaName() string { return "pgsagaz.bench.wake" }

// Wakes measures the way from a start to its first step: woken by WakeOnCommit, by InTx, and not at all,
// where the worker's poll (100 ms) finds it. The database must be migrated, and no other worker have its sagas.
func Wakes(ctx context.Context, config *pgxpool.Config, o Options) ([]Wake, error) {
	o = o.withDefaults()
	samples := max(20, int(o.Duration/(30*time.Millisecond)))
	var began sync.Map // saga id -> time
	definition := pgengine.Saga[ping]{Version: 1, Steps: pgengine.Steps[ping](pgengine.TxStep[ping, int]{
		Name: "first",
		Do: func(_ context.Context, _ pgx.Tx, c pgengine.Call[ping]) (int, error) {
			began.Store(c.SagaID, time.Now())
			return 0, nil
		},
	})}
	theirs, err := pgxpool.NewWithConfig(ctx, config.Copy())
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	engine, err := pgengine.New(theirs, pgengine.Config{Sagas: []pgengine.Definition{definition}, Logger: o.Logger})
	if err != nil {
		return nil, err
	}
	worker, err := jobs.NewWorker(engine, jobs.Config{})
	if err != nil {
		return nil, err
	}
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- worker.Run(running) }()
	defer func() { stop(); <-ended }()
	if err := engine.Register(ctx); err != nil {
		return nil, err
	}

	var results []Wake
	for _, how := range []string{"WakeOnCommit", "InTx", "poll"} {
		o.Progress("wake: " + how)
		mine := config.Copy()
		mine.MaxConns = 2
		if how == "WakeOnCommit" {
			sql.WakeOnCommit(mine)
		}
		ours, err := pgxpool.NewWithConfig(ctx, mine)
		if err != nil {
			return results, err
		}
		// The starter has no code of the saga, as another service would not.
		starter, err := pgengine.New(ours, pgengine.Config{Logger: o.Logger})
		if err != nil {
			return results, err
		}
		var took []float64
		for i := range samples + 5 {
			var s pgengine.Started
			begin := func(tx pgx.Tx) (err error) { s, err = starter.Start(ctx, tx, ping{i}, nil); return err }
			if how == "InTx" {
				err = sql.InTx(ctx, ours, begin)
			} else {
				err = pgx.BeginFunc(ctx, ours, begin)
			}
			committed := time.Now()
			if err == nil {
				_, err = starter.Wait(ctx, s.ID)
			}
			if err != nil {
				ours.Close()
				return results, fmt.Errorf("bench wake, %s: %w", how, err)
			}
			at, ok := began.Load(s.ID)
			if !ok {
				ours.Close()
				return results, errors.New("bench wake: another worker took the saga; stop it first")
			}
			if i >= 5 { // the first ones connect
				took = append(took, max(0, float64(at.(time.Time).Sub(committed).Microseconds())/1000))
			}
			time.Sleep(5 * time.Millisecond)
		}
		ours.Close()
		sorted(took)
		results = append(results, Wake{How: how, Samples: len(took), P50: quantile(took, 0.5), P99: quantile(took, 0.99)})
	}
	return results, nil
}
