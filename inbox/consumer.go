package inbox

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"

	"github.com/pgsagaz/pgsagaz/codec"
	"github.com/pgsagaz/pgsagaz/internal/tracing"
	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/failpoint"
)

// Config of a [Consumer]. The zero value of each field but Name is its default.
type Config struct {
	// Name of the consumer: an event takes effect once a name. Processes that share the work share the name.
	Name string

	// Batch is how many messages at most share a transaction. 1 for handlers that take long. 0: 50.
	Batch int
	// BatchTime is how old a transaction may be for another handler to begin in it. 0: 250 ms.
	BatchTime time.Duration
	// Workers is how many transactions there are at once, each with a connection. A key's messages are
	// always one worker's. 0: 4.
	Workers int
	// MaxInFlight is how many messages are held that have not been dealt with, the failing ones and those
	// that wait behind them included. Then nothing more is fetched. A broker's prefetch should allow as many. 0: 1000.
	MaxInFlight int
	// MaxBytes is how many bytes these may have. One fetch may go beyond it. 0: 64 MiB.
	MaxBytes int

	// Timeout is how long the handler may take for one message, and how long it may leave Postgres without a
	// statement. 0: 30 s.
	Timeout time.Duration
	// MaxAttempts is how often a message may fail before it is given up. 0: 10.
	MaxAttempts int
	// Backoff is how long a message that has failed waits: it doubles from Initial to Max.
	Backoff Backoff
	// MoveOn lets later messages of a key overtake one that has failed and waits for its next attempt. By
	// default they wait behind it, until it goes through or is given up.
	MoveOn bool
	// OnDead is called in the transaction that gives a message up, to publish it to a dead-letter topic, say.
	// If it fails, so does the giving up, which is tried again later. nil: nothing.
	OnDead func(ctx context.Context, tx pgx.Tx, d DeadLetter) error

	// Horizon is for how long the broker may deliver a message again: its own retention, and that of
	// whatever is replayed into it. 0: 7 days.
	Horizon time.Duration
	// Retention is how long entries are kept, by the age of the event. Older events are refused. It may not
	// be shorter than the Horizon; the longest of all consumers counts. Negative: this consumer does not clean up. 0: 30 days.
	Retention time.Duration
	// KeepPayload keeps the payload with each entry.
	KeepPayload bool
	// Codec encodes the payloads that are kept: with entries, and of dead letters. It goes for what the handler publishes as
	// well. nil: they are kept as they are.
	Codec *codec.Codec
	// Subject says whose a message is; see [codec.Codec]. nil and "": nobody's.
	Subject func(Message) string

	// Grace is how long a stopping consumer lets its transactions go on before it cuts them off. 0: 20 s.
	Grace time.Duration
	// Registry gets the metrics. nil: they are kept, and not exported.
	Registry prometheus.Registerer
	// TracerProvider makes a span of each message that is handled, within the trace of whoever sent it. nil: none; the
	// handler's context has the sender's trace context all the same.
	TracerProvider trace.TracerProvider
	// EventTypes is how many types get a label of their own in the metrics; the rest are "other". 0: 100.
	EventTypes int
	Logger     *slog.Logger // nil: slog.Default()
}

// Backoff is how long a message waits between attempts.
type Backoff struct {
	Initial time.Duration // 0: 100 ms
	Max     time.Duration // 0: 30 s
}

func (b Backoff) delay(attempts int) time.Duration {
	d := b.Initial
	for range min(attempts-1, 62) {
		if d *= 2; d >= b.Max || d <= 0 {
			return jitter(b.Max)
		}
	}
	return jitter(min(d, b.Max))
}

func (c Config) withDefaults() Config {
	number := func(n *int, byDefault int) {
		if *n == 0 {
			*n = byDefault
		}
	}
	duration := func(d *time.Duration, byDefault time.Duration) {
		if *d == 0 {
			*d = byDefault
		}
	}
	number(&c.Batch, 50)
	number(&c.Workers, 4)
	number(&c.MaxInFlight, 1000)
	number(&c.MaxBytes, 64<<20)
	number(&c.MaxAttempts, 10)
	number(&c.EventTypes, 100)
	duration(&c.BatchTime, 250*time.Millisecond)
	duration(&c.Timeout, 30*time.Second)
	duration(&c.Backoff.Initial, 100*time.Millisecond)
	duration(&c.Backoff.Max, max(30*time.Second, c.Backoff.Initial))
	duration(&c.Horizon, defaultHorizon)
	duration(&c.Retention, max(defaultRetention, c.Horizon))
	duration(&c.Grace, 20*time.Second)
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

func (c Config) check() error {
	switch {
	case c.Name == "" || len(c.Name) > 255 || clean(c.Name) != c.Name:
		return fmt.Errorf("inbox: Config.Name %q is not text of 1 to 255 bytes", c.Name)
	case c.Batch < 0 || c.Batch > 10_000 || c.Workers < 0 || c.MaxInFlight < 0 || c.MaxBytes < 0 || c.MaxAttempts < 0 || c.EventTypes < 0:
		return errors.New("inbox: Config's numbers must not be negative, and Batch not above 10000")
	case c.BatchTime < 0 || c.Timeout < time.Millisecond || c.Backoff.Initial < 0 || c.Backoff.Max < c.Backoff.Initial || c.Grace < 0 || c.Horizon < 0:
		return errors.New("inbox: Config's durations must not be negative, Timeout not below 1 ms, and Backoff.Max not below Backoff.Initial")
	case c.Retention > 0 && c.Retention < c.Horizon:
		return fmt.Errorf("inbox: Config.Retention %v is shorter than the Horizon %v: a redelivery could take effect again", c.Retention, c.Horizon)
	}
	return nil
}

// Consumer hands the messages of a source to a handler, each once. Make it with [NewConsumer]; it does nothing
// until [Consumer.Run].
type Consumer struct {
	cfg     Config
	pool    *pgxpool.Pool
	source  Source
	worker  worker
	log     *slog.Logger
	metrics *consumerMetrics
	health  health
	gate    *gate
	lanes   []*lane

	started   atomic.Bool
	mu        sync.Mutex
	redriving map[int64]bool // rows of inbox_dead that are under way here
}

// ErrRunTwice: a consumer can be run once, as its source is closed then.
var ErrRunTwice = errors.New("inbox: this consumer has been run before")

// NewConsumer makes a consumer. The database and the broker are not touched. The pool needs a connection for each
// worker, and one more.
func NewConsumer(pool *pgxpool.Pool, source Source, handler Handler, cfg Config) (*Consumer, error) {
	cfg = cfg.withDefaults()
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if handler == nil || source == nil {
		return nil, errors.New("inbox: a consumer needs a source and a handler")
	}
	m, err := newMetrics(cfg.Registry, cfg.Name, cfg.EventTypes)
	if err != nil {
		return nil, fmt.Errorf("inbox: metrics: %w", err)
	}
	c := &Consumer{
		cfg: cfg, pool: pool, source: source, metrics: m, redriving: map[int64]bool{},
		log:  tracing.Logger(cfg.Logger).With("consumer", cfg.Name),
		gate: newGate(cfg.MaxInFlight, cfg.MaxBytes, m.inFlight.Set),
	}
	c.worker = worker{
		pool: pool, consumer: cfg.Name, handler: handler, tracer: tracing.Tracer(cfg.TracerProvider), keepPayload: cfg.KeepPayload,
		payloads: payloads{cfg.Codec, cfg.Subject},
		timeout:  cfg.Timeout, batchTime: cfg.BatchTime, idle: limitIdle(pool, cfg.Timeout+time.Second),
	}
	return c, nil
}

// Run consumes until ctx ends, and then drains: no handler is begun any more, the transactions that have begun
// end (Grace), what was not dealt with is given back to the broker, and the source is closed. A consumer can be
// run once. The error is nil, or says why this code must not run on this schema, or [ErrRunTwice].
//
//	source ─► fetch ─► lane (by key) ─► one transaction: claims, handlers, COMMIT ─► ack
//	            ▲        │ one fails: the batch is split, the message alone counts an attempt,
//	            │        │ and waits with its key; in the end: dead letter ─► ack
//	          gate ◄─────┘ bounds what is held
//	upkeep: partitions ahead, retention, redrives, lag
func (c *Consumer) Run(ctx context.Context) error {
	if !c.started.CompareAndSwap(false, true) {
		return ErrRunTwice
	}
	if err := c.ready(ctx); err != nil || ctx.Err() != nil {
		return errors.Join(err, c.source.Close())
	}
	c.health.running.Store(true)
	c.worker.stopping = ctx.Done()
	hard, cutOff := context.WithCancel(context.WithoutCancel(ctx))
	defer cutOff()
	for range c.cfg.Workers {
		c.lanes = append(c.lanes, newLane(c))
	}
	var lanes, g errgroup.Group
	for _, l := range c.lanes {
		lanes.Go(func() error { l.run(ctx, hard); return nil })
	}
	idle := make(chan struct{}) // closed when no lane works any more
	g.Go(func() error { defer close(idle); return lanes.Wait() })
	g.Go(func() error {
		<-ctx.Done()
		c.health.running.Store(false)
		grace := time.NewTimer(c.cfg.Grace)
		defer grace.Stop()
		select {
		case <-idle:
		case <-grace.C:
			cutOff()
		}
		return nil
	})
	g.Go(func() error { c.fetch(ctx); return nil })
	g.Go(func() error { c.upkeep(ctx); return nil })
	g.Go(func() error { c.redrives(ctx); return nil })
	err := g.Wait()

	var back []Delivery
	for _, l := range c.lanes {
		back = append(back, l.leftovers()...)
	}
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if len(back) > 0 {
		failpoint.Hit("inbox.give_back")
		if err := c.source.Release(bounded, back); err != nil {
			c.log.WarnContext(ctx, "could not give messages back; the broker will find out", "messages", len(back), "error", err)
		}
	}
	if err := c.source.Close(); err != nil {
		c.log.WarnContext(ctx, "could not close the source", "error", err)
	}
	return err
}

// ready waits until Postgres answers, says whether this code may run there, and makes the partitions that are
// needed.
func (c *Consumer) ready(ctx context.Context) error {
	for {
		err := sql.CheckVersion(ctx, c.pool)
		if err == nil {
			_, err = c.pool.Exec(ctx, sql.InboxMakePartitions)
		}
		if err == nil || errors.As(err, new(*sql.SchemaError)) {
			return err
		}
		if ctx.Err() != nil {
			return nil
		}
		c.log.WarnContext(ctx, "the database does not answer; trying again", "error", err)
		if pause(ctx, jitter(time.Second)) != nil {
			return nil
		}
	}
}

// fetch feeds the lanes as long as there is room.
func (c *Consumer) fetch(ctx context.Context) {
	failures := 0
	for {
		room := c.gate.wait(ctx)
		if room == 0 {
			return
		}
		deliveries, err := c.source.Fetch(ctx, min(room, 4*c.cfg.Batch))
		for _, d := range deliveries {
			c.accept(d)
		}
		if err == nil {
			failures = 0
			c.health.fetched(nil)
			continue
		}
		if ctx.Err() != nil {
			return
		}
		c.health.fetched(err)
		failures++
		c.log.WarnContext(ctx, "cannot fetch; trying again", "error", err)
		if pause(ctx, Backoff{100 * time.Millisecond, 5 * time.Second}.delay(failures)) != nil {
			return
		}
	}
}

// accept puts a delivery into its lane.
func (c *Consumer) accept(d Delivery) {
	it, err := newItem(d)
	if err != nil {
		// It needs a name to be dead-lettered under, the same with each delivery.
		sum := sha256.Sum256(append([]byte(d.Message.ID+"\x00"), d.Message.Payload...))
		d.Err = errors.Join(d.Err, err)
		d.Message.ID, d.Message.Source, d.Message.Attempt = "sha256:"+hex.EncodeToString(sum[:]), clean(d.Message.Topic), ""
		it, _ = newItem(d)
	}
	if it.delivery.Err != nil {
		it.verdict = &verdict{"no message", it.delivery.Err}
	}
	c.gate.add(it.m.size())
	c.lane(it).put(it)
}

// lane is the one that all messages of the key go to.
func (c *Consumer) lane(it *item) *lane {
	h := fnv.New32a()
	if it.m.Key != "" {
		h.Write([]byte(it.m.Key))
	} else {
		h.Write(it.id[:])
	}
	return c.lanes[h.Sum32()%uint32(len(c.lanes))]
}

// settle ends the items for good: their deliveries are acked, after the commit that dealt with them.
func (c *Consumer) settle(ctx context.Context, items []*item) {
	acks := make([]Delivery, 0, len(items))
	for _, it := range items {
		if it.dead == 0 {
			acks = append(acks, it.delivery)
		}
	}
	if len(acks) > 0 {
		c.ack(ctx, acks)
	}
	for _, it := range items {
		c.forget(it)
	}
}

// ack tries again, as a broker may wait long for an ack that it has not got while the connection stands.
func (c *Consumer) ack(ctx context.Context, acks []Delivery) {
	bounded, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for attempt := 1; ; attempt++ {
		err := c.source.Ack(bounded, acks)
		if err == nil {
			failpoint.Hit("inbox.acked")
			return
		}
		if attempt == 3 || pause(bounded, Backoff{10 * time.Millisecond, time.Second}.delay(attempt)) != nil {
			c.log.WarnContext(ctx, "could not ack; the messages will come again as duplicates", "messages", len(acks), "error", err)
			return
		}
	}
}

// forget makes room for another.
func (c *Consumer) forget(it *item) {
	if it.dead != 0 {
		c.mu.Lock()
		delete(c.redriving, it.dead)
		c.mu.Unlock()
	}
	c.gate.done(it.m.size())
}

// gate counts what is held, so that it stays bounded.
type gate struct {
	mu             sync.Mutex
	count, bytes   int
	most, mostSize int
	freed          chan struct{} // has an element after done, for the one that waits
	report         func(float64)
}

func newGate(most, mostSize int, report func(float64)) *gate {
	return &gate{most: most, mostSize: mostSize, freed: make(chan struct{}, 1), report: report}
}

// wait waits until there is room, and says for how many messages. 0: ctx has ended.
func (g *gate) wait(ctx context.Context) int {
	for ctx.Err() == nil {
		g.mu.Lock()
		room := g.most - g.count
		if g.bytes >= g.mostSize {
			room = 0
		}
		g.mu.Unlock()
		if room > 0 {
			return room
		}
		select {
		case <-ctx.Done():
		case <-g.freed:
		}
	}
	return 0
}

func (g *gate) add(size int) { g.change(1, size) }

func (g *gate) done(size int) {
	g.change(-1, -size)
	select {
	case g.freed <- struct{}{}:
	default:
	}
}

func (g *gate) change(count, size int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.count += count
	g.bytes += size
	g.report(float64(g.count))
}
