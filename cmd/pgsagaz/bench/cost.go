package bench

import (
	"context"
	"os"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/internal/pgmeter"
)

// Cost is what one unit of work takes of the machine and of Postgres, over all rounds, whatever goes on beside it included: the
// worker's polls, its heartbeat, Postgres's writers.
type Cost struct {
	RoundTrips   float64 `json:"round_trips"`
	Statements   float64 `json:"statements"` // BEGIN and COMMIT among them
	Transactions float64 `json:"transactions"`
	WALBytes     float64 `json:"wal_bytes"`
	ClientCPU    float64 `json:"client_cpu_ms"`
	ServerCPU    float64 `json:"server_cpu_ms"` // 0: Postgres runs elsewhere, or not on Linux
}

func (c Cost) plus(o Cost, sign float64) Cost {
	return Cost{
		c.RoundTrips + sign*o.RoundTrips, c.Statements + sign*o.Statements, c.Transactions + sign*o.Transactions,
		c.WALBytes + sign*o.WALBytes, c.ClientCPU + sign*o.ClientCPU, c.ServerCPU + sign*o.ServerCPU,
	}
}

// each divides by the units of work.
func (c Cost) each(n float64) Cost {
	return Cost{c.RoundTrips / n, c.Statements / n, c.Transactions / n, c.WALBytes / n, c.ClientCPU / n, c.ServerCPU / n}
}

// gauge reads what has been spent so far.
type gauge struct {
	pool  *pgxpool.Pool // not the one that is measured
	meter *pgmeter.Meter
	// What the processes of Postgres had computed when they were seen last: one that has ended took it along.
	spent map[int]float64
}

// metered gives a pool whose cost can be read. Its connections are those that prepare adds to.
func metered(ctx context.Context, config *pgxpool.Config, prepare func(*pgxpool.Config)) (*pgxpool.Pool, *gauge, error) {
	g := &gauge{meter: &pgmeter.Meter{}, spent: map[int]float64{}}
	own := config.Copy()
	own.MaxConns = 1
	var err error
	if g.pool, err = pgxpool.NewWithConfig(ctx, own); err != nil {
		return nil, nil, err
	}
	config = config.Copy()
	g.meter.Attach(config.ConnConfig)
	prepare(config)
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		g.pool.Close()
		return nil, nil, err
	}
	return pool, g, nil
}

// read may be asked of nil.
func (g *gauge) read(ctx context.Context) (Cost, error) {
	if g == nil {
		return Cost{}, nil
	}
	var wal float64
	var pids []int
	err := g.pool.QueryRow(ctx, `SELECT (pg_current_wal_insert_lsn() - '0/0')::float8, array_agg(pid) FROM pg_stat_activity`).Scan(&wal, &pids)
	if err != nil {
		return Cost{}, err
	}
	for _, pid := range pids {
		g.spent[pid] = max(g.spent[pid], milliseconds(cpu([]int{pid})))
	}
	c := Cost{
		RoundTrips: float64(g.meter.Trips.Load()), Statements: float64(g.meter.Statements.Load()), Transactions: float64(g.meter.Transactions.Load()),
		WALBytes: wal, ClientCPU: milliseconds(cpu([]int{os.Getpid()})),
	}
	for _, ms := range g.spent {
		c.ServerCPU += ms
	}
	return c, nil
}
