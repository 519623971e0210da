package outbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"

	"github.com/pgsagaz/pgsagaz/internal/tracing"
	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/failpoint"
)

// Relay publishes what is in the outbox. Make it with [NewRelay]; it does nothing until [Relay.Run]. Any
// number of them share the work.
type Relay struct {
	pool      *pgxpool.Pool
	own       *pgxpool.Pool // of Run: heartbeats must not wait behind the program's own work
	publisher Publisher
	open      *opener // of Run: publisher, behind the codec
	cfg       Config
	log       *slog.Logger
	metrics   *relayMetrics
	tracer    trace.Tracer // nil: nobody makes spans
	health    health

	wakes     chan struct{}                 // something has committed, for the loop; holds one
	stirs     chan struct{}                 // the same, for the housekeeping
	listening atomic.Bool                   // other processes' wakes arrive
	owned     atomic.Pointer[[buckets]bool] // buckets that a running session sees to
	woken     atomic.Int64                  // wakes there were
	published atomic.Int64
	told      atomic.Bool // about wakes that are missing
}

// NewRelay makes a relay that publishes to p, which the caller closes after Run. The database is not touched.
// The relay connects as pool does, with up to four connections of its own: it waits for none of pool's.
//
// If pool was made with [sql.WakeOnCommit], commits on it wake this relay without a detour.
func NewRelay(pool *pgxpool.Pool, p Publisher, cfg Config) (*Relay, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	m, err := newMetrics(cfg.Registry, cfg.Name)
	if err != nil {
		return nil, fmt.Errorf("outbox: %w", err)
	}
	r := &Relay{pool: pool, publisher: p, cfg: cfg, log: cfg.Logger, metrics: m, wakes: make(chan struct{}, 1), stirs: make(chan struct{}, 1)}
	if cfg.TracerProvider != nil {
		r.tracer = tracing.Tracer(cfg.TracerProvider)
	}
	r.owned.Store(new([buckets]bool))
	return r, nil
}

// Name is the relay's name in the database.
func (r *Relay) Name() string { return r.cfg.Name }

// Run publishes until ctx ends, then lets calls end within Grace and gives its buckets away. It waits for a
// database or a broker that is down, at the start and at any time later.
//
// It returns nil after such a stop. Errors: a *[sql.SchemaError] if this build does not fit the schema, and
// what Postgres refuses for good, such as a missing right. Call it once.
func (r *Relay) Run(ctx context.Context) error {
	own := r.pool.Config()
	own.ConnConfig = r.directConfig("pgsagaz outbox")
	own.MaxConns, own.MinConns, own.MinIdleConns = 2, 0, 0
	var err error
	if r.own, err = pgxpool.NewWithConfig(context.WithoutCancel(ctx), own); err != nil {
		return fmt.Errorf("outbox relay %s: %w", r.cfg.Name, err)
	}
	defer r.own.Close()
	r.open = &opener{r.publisher, r.cfg.Codec, r.own}
	group, lasting := errgroup.WithContext(ctx)
	if r.cfg.Optimistic.Enabled {
		remove, _ := sql.OnCommit(r.pool.Config(), r.committed)
		defer remove()
		if !r.cfg.NoListen {
			group.Go(func() error { r.listen(lasting); return nil })
		}
	}
	group.Go(func() error { r.maintain(lasting); return nil })
	group.Go(func() error { return r.serve(lasting) })
	if err := group.Wait(); err != nil {
		return fmt.Errorf("outbox relay %s: %w", r.cfg.Name, err)
	}
	return nil
}

// serve has one session after another, until ctx ends.
func (r *Relay) serve(ctx context.Context) error {
	for failures := 0; ; {
		begun := time.Now()
		err := r.session(ctx)
		if err == nil || ctx.Err() != nil {
			return nil
		}
		if errors.As(err, new(*sql.SchemaError)) || permanent(err) {
			return err
		}
		if time.Since(begun) > 10*time.Second {
			failures = 0
		}
		if failures++; failures == 1 || failures%20 == 0 {
			r.log.WarnContext(ctx, "the outbox's session ended, taking a new one", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(backoff(20*time.Millisecond, time.Second, failures, rand.Float64())):
		}
	}
}

// session works until its connection or its lease is lost, or ctx ends. What it leaves behind is free for others.
func (r *Relay) session(ctx context.Context) error {
	s, err := r.openSession(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	r.log.InfoContext(ctx, "relay joined", "epoch", s.epoch)
	err = newLoop(r, s).run(ctx)
	r.owned.Store(new([buckets]bool))
	r.metrics.gone()
	r.health.beatAt.Store(0)
	if errors.Is(err, errFenced) {
		r.metrics.fenced.Inc()
	}

	// No call is under way any more, so that others may begin at once.
	leave, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	failpoint.Hit("outbox.leave.before")
	defer failpoint.Hit("outbox.leave.after")
	if _, failed := r.own.Exec(leave, sql.OutboxLeave, s.epoch); failed != nil {
		r.log.WarnContext(ctx, "could not sign off; others will find out when the lease ends", "error", failed)
	}
	return err
}

// directConfig is how to reach the server itself.
func (r *Relay) directConfig(name string) *pgx.ConnConfig {
	config := r.cfg.Direct
	if config == nil {
		config = r.pool.Config().ConnConfig
	}
	config = config.Copy()
	config.Tracer = nil
	config.ConnectTimeout = 5 * time.Second
	config.RuntimeParams["application_name"] = name
	return config
}

// permanent: Postgres answered, and the answer will be the same again (a missing right, say).
func permanent(err error) bool {
	code := sql.State(err)
	if code == "" {
		return false
	}
	switch code[:2] {
	case "08", "53", "57", "40", "55", "25", "23", "58", "XX":
		return false
	}
	return code != "3D000" // the database does not exist yet
}
