package jobs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/pgsagaz/pgsagaz/internal/metrics"
	"github.com/pgsagaz/pgsagaz/sql"
)

// CollectorConfig tunes a [Collector]. The zero value of each field but Registry is its default.
type CollectorConfig struct {
	Registry prometheus.Registerer
	// Every is how often the figures are read. A process that does not come for three times as long leads no more. 0: 10 s.
	Every  time.Duration
	Logger *slog.Logger // nil: slog.Default()
}

// Collector exports what no process knows of itself: how much is pending, how old it is, what is stuck, how Postgres
// does. Of all collectors of a database one leads, by a lease, and exports; the others export none of it, so that a sum
// over all of them is right. A [Worker] with a Registry runs one; make one with [NewCollector] where there is no worker.
type Collector struct {
	pool    *pgxpool.Pool
	id      string
	every   time.Duration
	log     *slog.Logger
	figures *figures
	leads   bool
}

// NewCollector makes a collector. The database is not touched.
func NewCollector(pool *pgxpool.Pool, cfg CollectorConfig) (*Collector, error) {
	if cfg.Every == 0 {
		cfg.Every = 10 * time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Every < time.Millisecond || cfg.Registry == nil {
		return nil, errors.New("jobs: a collector needs a Registry, and Every not below 1ms")
	}
	var failed error
	f := metrics.Register(cfg.Registry, &failed, newFigures())
	if failed != nil {
		return nil, fmt.Errorf("jobs: collector: %w", failed)
	}
	return &Collector{pool: pool, id: uuid.NewString(), every: cfg.Every, log: cfg.Logger, figures: f}, nil
}

// Run collects until ctx ends. It waits for a database that is down; figures that can't be read are not exported.
func (c *Collector) Run(ctx context.Context) error {
	for {
		if err := c.round(ctx); err != nil && ctx.Err() == nil {
			c.log.WarnContext(ctx, "the figures of the whole system could not be read; the next round tries again", "error", err)
		}
		if !pause(ctx, c.every/2+rand.N(c.every/2)) {
			break
		}
	}
	if c.leads { // whoever comes next need not wait for the lease to end
		c.figures.set(nil, time.Time{})
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_, _ = c.pool.Exec(ctx, sql.MetricsResign, c.id) // and if it fails, it waits
	}
	return nil
}

// round keeps or takes the lead, and reads. The lease is counted from before it was asked for, so that it ends here no later
// than in the database.
func (c *Collector) round(ctx context.Context) error {
	lease := 3 * c.every
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	begun := time.Now()
	var clock float64
	err := c.pool.QueryRow(ctx, sql.MetricsLead, c.id, lease.Seconds()).Scan(&clock)
	if errors.Is(err, pgx.ErrNoRows) {
		if c.leads {
			c.figures.set(nil, time.Time{})
		}
		c.leads = false
		return nil
	}
	if err != nil {
		return err // until the lease ends the last figures stand
	}
	c.leads = true
	middle := begun.Add(time.Since(begun) / 2)
	var all []reading
	err = pgx.BeginTxFunc(ctx, c.pool, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, sql.MetricsLimit); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, sql.MetricsRead)
		if err != nil {
			return err
		}
		all, err = pgx.CollectRows(rows, pgx.RowToStructByPos[reading])
		return err
	})
	if err != nil {
		c.figures.set(nil, time.Time{}) // old figures under a new lease would look fresh
		return err
	}
	all = append(all, reading{Name: "pgsagaz_clock_offset_seconds", Value: clock - float64(middle.UnixNano())/1e9})
	c.figures.set(all, begun.Add(lease))
	return nil
}
