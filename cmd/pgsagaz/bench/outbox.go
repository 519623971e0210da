package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/outbox"
	"github.com/pgsagaz/pgsagaz/outbox/memorypub"
	"github.com/pgsagaz/pgsagaz/sql"
)

// Measure is one figure of the outbox.
type Measure struct {
	Name string `json:"name"`
	What string `json:"what"`
	// PerSecond of the outbox and of the floor: events, or transactions. 0: a latency was measured.
	PerSecond float64 `json:"per_second,omitempty"`
	Floor     float64 `json:"floor_per_second,omitempty"`
	// Ratio of the two, the median of the rounds.
	Ratio  float64   `json:"ratio,omitempty"`
	Ratios []float64 `json:"ratios,omitempty"`
	P50    float64   `json:"p50_ms,omitempty"`
	P99    float64   `json:"p99_ms,omitempty"`
	// TableBytes is the largest that the outbox's table was while it was measured, and TableOverTime the largest in each tenth
	// of that time, in the last round.
	TableBytes    int64   `json:"table_bytes,omitempty"`
	TableOverTime []int64 `json:"table_bytes_over_time,omitempty"`
	// Of a core, in percent: this process, and the backends of Postgres that serve it.
	ClientCPU float64 `json:"client_cpu_percent,omitempty"`
	ServerCPU float64 `json:"server_cpu_percent,omitempty"`
	// What one transaction takes; only of those.
	Cost      Cost `json:"cost,omitzero"`
	FloorCost Cost `json:"floor_cost,omitzero"`
}

// OutboxParts are what [Outbox] measures.
var OutboxParts = []string{"drain", "sustained", "transactions", "latency", "idle"}

// Outbox measures the outbox with a broker in memory: those of OutboxParts, nil: all. The database must be
// migrated, and no relay run on it.
func Outbox(ctx context.Context, config *pgxpool.Config, parts []string, o OutboxOptions) ([]Measure, error) {
	o.Options = o.Options.withDefaults()
	if o.Idle == 0 {
		o.Idle = 10 * time.Second
	}
	config = config.Copy()
	config.MaxConns = max(config.MaxConns, 40)
	sql.WakeOnCommit(config)
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	defer pool.Close()
	b := &outboxBench{OutboxOptions: o, config: config, pool: pool}
	if err := b.prepare(ctx); err != nil {
		return nil, err
	}
	var all []Measure
	for i, f := range []func(context.Context) ([]Measure, error){b.drains, b.sustained, b.transactions, b.latencies, b.idle} {
		if len(parts) > 0 && !slices.Contains(parts, OutboxParts[i]) {
			continue
		}
		m, err := f(ctx)
		all = append(all, m...)
		if err != nil {
			return all, fmt.Errorf("bench outbox: %w", err)
		}
	}
	return all, nil
}

// OutboxOptions are those of [Outbox]. The zero value of each field is its default.
type OutboxOptions struct {
	Options
	Idle time.Duration // for how long a relay that has nothing to do is watched; 0: 10 s
}

type outboxBench struct {
	OutboxOptions
	config *pgxpool.Config
	pool   *pgxpool.Pool
}

func (b *outboxBench) prepare(ctx context.Context) error {
	if err := prepare(ctx, b.pool); err != nil {
		return err
	}
	// What one would write by hand, if nobody had to read it again.
	_, err := b.pool.Exec(ctx, `
		CREATE TABLE IF NOT EXISTS pgsagaz_bench.outbox (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, event_id uuid NOT NULL, topic text NOT NULL,
			key text, type text NOT NULL, payload bytea NOT NULL, headers jsonb NOT NULL, created_at timestamptz NOT NULL DEFAULT now())`)
	return err
}

// relay runs one until stop is called.
func (b *outboxBench) relay(ctx context.Context, pool *pgxpool.Pool, p outbox.Publisher) (stop func() error, err error) {
	r, err := outbox.NewRelay(pool, p, outbox.Config{Logger: b.Logger})
	if err != nil {
		return nil, err
	}
	running, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- r.Run(running) }()
	return sync.OnceValue(func() error { cancel(); return <-ended }), nil
}

// arrived waits until n events are there.
func arrived(ctx context.Context, broker *memorypub.Broker, n int) error {
	for broker.Len() < n {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
	return nil
}

const drained = 200_000

// drain publishes a backlog, and returns the events a second, from the relay's start on.
func (b *outboxBench) drain(ctx context.Context, held bool) (rate float64, err error) {
	if held {
		reader, err := b.pool.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
		if err != nil {
			return 0, err
		}
		defer func() { _ = reader.Rollback(context.WithoutCancel(ctx)) }()
		if _, err := reader.Exec(ctx, "SELECT count(*) FROM pgsagaz_bench.effect"); err != nil {
			return 0, err
		}
	}
	if _, err := b.pool.Exec(ctx, `
		INSERT INTO pgsagaz.outbox (slot, bucket, event_id, topic, key, routing_key, type, payload, headers)
		SELECT s.slot, pgsagaz.outbox_bucket_of(k, e), e, 'bench.drained', k, 'bench.drained', 'bench.drained', convert_to(repeat('x', 200), 'UTF8'),
		       '{"content-type": "application/json"}'
		FROM pgsagaz.outbox_state s, (SELECT gen_random_uuid() AS e, (g % 5000)::text AS k FROM generate_series(1, $1) g) m`, drained); err != nil {
		return 0, err
	}
	if _, err := b.pool.Exec(ctx, "CHECKPOINT"); err != nil {
		b.Logger.Debug("no checkpoint before the drain", "error", err) // a plain role may not
	}
	broker := memorypub.New(memorypub.Config{})
	begun := time.Now()
	stop, err := b.relay(ctx, b.pool, broker)
	if err != nil {
		return 0, err
	}
	err = arrived(ctx, broker, drained)
	took := time.Since(begun)
	if err2 := stop(); err == nil {
		err = err2
	}
	return drained / took.Seconds(), err
}

func (b *outboxBench) drains(ctx context.Context) ([]Measure, error) {
	var free, held, ratios []float64
	for round := -1; round < b.Rounds; round++ {
		b.Progress(fmt.Sprintf("drain: round %d of %d", round+1, b.Rounds))
		f, err := b.drain(ctx, false)
		if err != nil {
			return nil, err
		}
		h, err := b.drain(ctx, true)
		if err != nil {
			return nil, err
		}
		if round >= 0 {
			free, held, ratios = append(free, f), append(held, h), append(ratios, h/f)
		}
	}
	return []Measure{
		{Name: "drain", What: fmt.Sprintf("a backlog of %d events, from the relay's start on", drained), PerSecond: median(free)},
		{Name: "drain_held", What: "the same while another session holds a snapshot, against without", PerSecond: median(held), Floor: median(free),
			Ratio: median(ratios), Ratios: ratios},
	}, nil
}

// inserts has 8 writers publish, 10 messages a transaction, for a while. Returns how many messages, and how long it took.
func (b *outboxBench) inserts(ctx context.Context, duration time.Duration) (n int, took time.Duration, err error) {
	payload := make([]byte, 200)
	var count atomic.Int64
	begun := time.Now()
	_, _, err = measure(ctx, duration, 8, func(ctx context.Context) error {
		messages := make([]outbox.Message, 10)
		i := count.Add(10)
		for j := range messages {
			messages[j] = outbox.Message{Topic: "bench.inserted", Key: fmt.Sprint((int(i) + j) % 5000), Payload: payload}
		}
		return pgx.BeginFunc(ctx, b.pool, func(tx pgx.Tx) error { return outbox.Publish(ctx, tx, messages...) })
	})
	return int(count.Load()), time.Since(begun), err
}

// alone is for how long the writers insert without a relay, at most: their rate does not change, and all of it must be published after.
const alone = 10 * time.Second

func (b *outboxBench) sustained(ctx context.Context) ([]Measure, error) {
	var insert, together, ratios, tables []float64
	var sizes []int64
	for round := -1; round < b.Rounds; round++ {
		b.Progress(fmt.Sprintf("insert and publish: round %d of %d", round+1, b.Rounds))
		duration := b.Duration
		if round < 0 {
			duration = min(duration, 3*time.Second)
		}
		i, t, s, err := b.sustain(ctx, duration)
		if err != nil {
			return nil, err
		}
		if round >= 0 {
			insert, together, ratios, sizes = append(insert, i), append(together, t), append(ratios, t/i), s
			tables = append(tables, float64(slices.Max(s)))
		}
	}
	return []Measure{{
		Name: "sustained", What: "8 writers and a relay together, until the last event is acknowledged, against the writers alone",
		PerSecond: median(together), Floor: median(insert), Ratio: median(ratios), Ratios: ratios, TableBytes: int64(slices.Max(tables)), TableOverTime: sizes,
	}}, nil
}

// sustain has writers insert, alone and then with a relay beside them. Returns the events a second of both, and the largest size of the table in
// each tenth of the second part.
func (b *outboxBench) sustain(ctx context.Context, duration time.Duration) (insert, together float64, sizes []int64, err error) {
	n, took, err := b.inserts(ctx, min(duration, alone))
	if err != nil {
		return 0, 0, nil, err
	}
	insert = float64(n) / took.Seconds()

	// The relay begins with what is there, and that is not counted.
	broker := memorypub.New(memorypub.Config{Discard: true})
	stop, err := b.relay(ctx, b.pool, broker)
	if err != nil {
		return 0, 0, nil, err
	}
	defer func() {
		if err2 := stop(); err == nil {
			err = err2
		}
	}()
	if err := arrived(ctx, broker, n); err != nil {
		return 0, 0, nil, err
	}
	broker.Clear()
	watching, watched := context.WithCancel(ctx)
	defer watched()
	result := make(chan []int64, 1)
	go func() { result <- b.watch(watching, duration/10) }()
	begun := time.Now()
	if n, _, err = b.inserts(ctx, duration); err == nil {
		err = arrived(ctx, broker, n)
	}
	together = float64(n) / time.Since(begun).Seconds()
	watched()
	return insert, together, <-result, err
}

// watch returns the largest size of the table in each part of the time until ctx ends.
func (b *outboxBench) watch(ctx context.Context, part time.Duration) (sizes []int64) {
	for begun := time.Now(); ; {
		i := int(time.Since(begun) / max(part, time.Millisecond))
		for len(sizes) <= i {
			sizes = append(sizes, 0)
		}
		var size int64
		err := b.pool.QueryRow(ctx, "SELECT sum(pg_total_relation_size(('pgsagaz.outbox_' || g)::regclass))::bigint FROM generate_series(0, 3) g").Scan(&size)
		if err == nil {
			sizes[i] = max(sizes[i], size)
		}
		select {
		case <-ctx.Done():
			return sizes
		case <-time.After(min(200*time.Millisecond, part/2)):
		}
	}
}

// transactions compares one that publishes with one that inserts the same into a plain table.
func (b *outboxBench) transactions(ctx context.Context) ([]Measure, error) {
	payload := make([]byte, 200)
	headers, err := json.Marshal(map[string]string{"content-type": "application/json"})
	if err != nil {
		return nil, err
	}
	effect := func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "INSERT INTO pgsagaz_bench.effect (saga, step) VALUES ($1, 'bench')", uuid.New().String())
		return err
	}
	config := b.config.Copy()
	config.ConnConfig.Tracer = nil
	pool, g, err := metered(ctx, config, sql.WakeOnCommit)
	if err != nil {
		return nil, err
	}
	defer g.pool.Close()
	defer pool.Close()
	r, err := pair(ctx, b.Options, g, "transactions that publish", 32,
		func(ctx context.Context) error {
			return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
				if err := effect(ctx, tx); err != nil {
					return err
				}
				return outbox.Publish(ctx, tx, outbox.Message{Topic: "bench.done", Key: uuid.NewString(), Payload: payload, Headers: map[string]string{"content-type": "application/json"}})
			})
		},
		func(ctx context.Context) error {
			return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
				if err := effect(ctx, tx); err != nil {
					return err
				}
				_, err := tx.Exec(ctx, "INSERT INTO pgsagaz_bench.outbox (event_id, topic, key, type, payload, headers) VALUES ($1, $2, $3, $4, $5, $6)",
					uuid.New().String(), "bench.done", uuid.NewString(), "bench.done", payload, string(headers))
				return err
			})
		})
	if err != nil {
		return nil, err
	}
	if _, err := b.pool.Exec(ctx, "TRUNCATE pgsagaz_bench.outbox, pgsagaz_bench.effect"); err != nil {
		return nil, err
	}
	return []Measure{{Name: "transactions", What: "32 writers of an insert and a message, against an insert and a plain row of the same",
		PerSecond: r.Engine.PerSecond, Floor: r.Floor.PerSecond, Ratio: r.Ratio, Ratios: r.Ratios, Cost: r.EngineCost, FloorCost: r.FloorCost}}, nil
}

// acks says when each event was acknowledged.
type acks struct {
	outbox.Publisher
	at sync.Map // event id -> time
}

func (a *acks) Publish(ctx context.Context, events []outbox.Event) []error {
	errs := a.Publisher.Publish(ctx, events)
	now := time.Now()
	for i, err := range errs {
		if err == nil {
			a.at.Store(events[i].ID, now)
		}
	}
	return errs
}

// latencies publishes 200 events a second.
func (b *outboxBench) latencies(ctx context.Context) (all []Measure, err error) {
	for _, how := range []struct{ name, what string }{
		{"latency_in_process", "commit to acknowledgement at 200 events/s, writer and relay in one process"},
		{"latency_across_processes", "the same, between two pools that share nothing but Postgres"},
	} {
		b.Progress(how.name)
		pool := b.pool
		if how.name == "latency_across_processes" {
			config := b.config.Copy()
			config.ConnConfig.Tracer = nil
			if pool, err = pgxpool.NewWithConfig(ctx, config); err != nil {
				return all, err
			}
			defer pool.Close()
		}
		p := &acks{Publisher: memorypub.New(memorypub.Config{Discard: true})}
		stop, err := b.relay(ctx, pool, p)
		if err != nil {
			return all, err
		}
		took, err := b.latency(ctx, p, b.publish)
		if err2 := stop(); err == nil {
			err = err2
		}
		if err != nil {
			return all, err
		}
		all = append(all, Measure{Name: how.name, What: how.what, P50: quantile(took, 0.5), P99: quantile(took, 0.99)})
	}
	b.Progress("latency_after_commit")
	p := &acks{Publisher: memorypub.New(memorypub.Config{Discard: true})}
	direct, err := outbox.NewDirect(b.pool, p, outbox.DirectConfig{Logger: b.Logger})
	if err != nil {
		return all, err
	}
	took, err := b.latency(ctx, p, func(ctx context.Context, m outbox.Message) (committed time.Time, err error) {
		var send func(context.Context) error
		err = pgx.BeginFunc(ctx, b.pool, func(tx pgx.Tx) (err error) {
			send, err = direct.PublishAfterCommit(ctx, tx, m)
			return err
		})
		committed = time.Now()
		if err == nil {
			err = send(ctx)
		}
		return committed, err
	})
	if err != nil {
		return all, err
	}
	return append(all, Measure{Name: "latency_after_commit", What: "the same, published by the writer itself (PublishAfterCommit)", P50: quantile(took, 0.5), P99: quantile(took, 0.99)}), nil
}

// publish commits a message, and says when.
func (b *outboxBench) publish(ctx context.Context, m outbox.Message) (committed time.Time, err error) {
	err = pgx.BeginFunc(ctx, b.pool, func(tx pgx.Tx) error { return outbox.Publish(ctx, tx, m) })
	return time.Now(), err
}

func (b *outboxBench) latency(ctx context.Context, p *acks, publish func(context.Context, outbox.Message) (committed time.Time, err error)) ([]float64, error) {
	const every = 5 * time.Millisecond
	n := int(b.Duration*time.Duration(b.Rounds)/every) + 200
	committed := make([]time.Time, n)
	ids := make([]uuid.UUID, n)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for i := range n {
		m := outbox.Message{ID: uuid.Must(uuid.NewV7()), Topic: "bench.latency", Key: fmt.Sprint(i % 100), Payload: []byte("{}")}
		ids[i] = m.ID
		var err error
		if committed[i], err = publish(ctx, m); err != nil {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick.C:
		}
	}
	var took []float64
	for i, id := range ids {
		for {
			if at, ok := p.at.Load(id); ok {
				if i >= 200 { // before that the relay joins, and first plans are made
					took = append(took, max(0, float64(at.(time.Time).Sub(committed[i]).Microseconds())/1000))
				}
				break
			}
			select {
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-time.After(time.Millisecond):
			}
		}
	}
	sorted(took)
	return took, nil
}
