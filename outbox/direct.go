package outbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/failpoint"
)

// Direct publishes messages from the goroutine that has committed them, without the way over a relay. It is for topics without an order,
// and for processes that reach the broker themselves.
//
//	PublishAfterCommit   your tx: a row of pgsagaz.outbox_direct a message, leased to you
//	 │ commit
//	send                 yours to call, after the commit
//	 ├ ready             is it committed, and still yours?
//	 ├ Publisher         at once
//	 └ record            the row goes; calls that come together share a statement
//	Relay.maintain       a row whose lease has ended: you died, or the broker failed. It joins the stream
//
// So some relay must run on the database, or what was not published here stays where it is. It does nothing by itself and needs no end.
// What its writer has published is in no archive, and what is leased does not count as pending for Config.MaxPending.
type Direct struct {
	pool      *pgxpool.Pool
	publisher Publisher
	cfg       DirectConfig
	metrics   *relayMetrics

	mu        sync.Mutex
	published []string      // ids that are not on record yet
	recording chan struct{} // holds one: whoever records
}

// DirectConfig tunes a [Direct]. The zero value of each field is its default.
type DirectConfig struct {
	// Lease is for how long a message is its writer's own, from PublishAfterCommit on: what is not published by
	// then, a relay publishes. Transactions should take less than half of it. 0: 10 s.
	Lease time.Duration
	// Timeout bounds the call of the publisher. 0: 500 ms. At most a quarter of Lease.
	Timeout  time.Duration
	Registry prometheus.Registerer // of metrics, the same as a relay's; nil: none
	Logger   *slog.Logger          // nil: slog.Default()
}

// NewDirect makes a Direct that publishes to p, which the caller closes when nothing is sent any more. p may be a relay's too.
func NewDirect(pool *pgxpool.Pool, p Publisher, cfg DirectConfig) (*Direct, error) {
	if cfg.Lease == 0 {
		cfg.Lease = 10 * time.Second
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = min(500*time.Millisecond, cfg.Lease/4)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Timeout < 0 || cfg.Lease/4 < cfg.Timeout {
		return nil, fmt.Errorf("outbox: Timeout is %v and Lease %v: Timeout must not be negative, and at most a quarter of Lease", cfg.Timeout, cfg.Lease)
	}
	m, err := newMetrics(cfg.Registry, "direct") // in place of a relay's name
	if err != nil {
		return nil, fmt.Errorf("outbox: %w", err)
	}
	return &Direct{pool: pool, publisher: p, cfg: cfg, metrics: m, recording: make(chan struct{}, 1)}, nil
}

// ErrNotSent is what send says of messages that it did not try to publish: their transaction is not committed, or was rolled back,
// or their lease has ended. What is committed leaves with a relay.
var ErrNotSent = errors.New("outbox: not published by their writer")

// PublishAfterCommit writes messages in tx, and returns what publishes them: call send when tx has committed. Messages of one key have no
// order among themselves, and none with those of Publish; Serialize and NotBefore are refused.
//
// No event leaves without its commit: send looks first, so that it does no harm after a rollback. An error of send loses nothing: what is
// committed and was not acknowledged leaves with a relay when the lease ends. If the broker took it all the same, it
// arrives twice. A send that is never called, or dies halfway, is such an error.
func (d *Direct) PublishAfterCommit(ctx context.Context, tx pgx.Tx, messages ...Message) (send func(context.Context) error, err error) {
	begun := time.Now() // before the database reads its clock, so that the lease ends here first
	sagaID, step := sql.StepFrom(ctx)
	var r rows
	events := make(map[string]Event, len(messages))
	for i, m := range messages {
		m.tracedBy(ctx)
		headers, err := m.complete()
		if err == nil && (m.Serialize || !m.NotBefore.IsZero()) {
			err = errors.New("outbox: a message that its writer publishes has no order and no time: Serialize and NotBefore are for Publish")
		}
		if _, twice := events[m.ID.String()]; twice && err == nil {
			err = fmt.Errorf("outbox: there are two messages of id %s", m.ID)
		}
		if err != nil {
			return nil, fmt.Errorf("publish message %d of %d (topic %q, key %q) after the commit: %w", i+1, len(messages), m.Topic, m.Key, err)
		}
		events[m.ID.String()] = Event{ID: m.ID, Topic: m.Topic, Key: m.Key, RoutingKey: m.RoutingKey, Type: m.Type, Payload: m.Payload, Headers: m.Headers,
			TraceParent: m.TraceParent, SagaID: sagaID, Step: step}
		if err := m.seal(ctx, tx); err != nil { // what lies in the table; the broker gets it as it was given
			return nil, fmt.Errorf("publish message %d of %d (topic %q, key %q) after the commit: %w", i+1, len(messages), m.Topic, m.Key, err)
		}
		r.add(m, headers)
	}
	if len(messages) == 0 {
		return func(context.Context) error { return nil }, nil
	}
	args := append(r.args(sagaID, step), d.cfg.Lease)
	var b pgx.Batch
	if holdSubject(&b, r.payloads[0]); b.Len() > 0 {
		b.Queue(sql.OutboxDirectInsert, args...).Exec(func(tag pgconn.CommandTag) error { return written(tag, len(messages)) })
		err = tx.SendBatch(ctx, &b).Close()
	} else {
		var tag pgconn.CommandTag
		if tag, err = tx.Exec(ctx, sql.OutboxDirectInsert, args...); err == nil {
			err = written(tag, len(messages))
		}
	}
	if err != nil {
		return nil, failed(err, r.payloads[0])
	}
	return func(ctx context.Context) error { return d.send(ctx, begun, r.ids, events) }, nil
}

// send publishes what is committed. It is done with when there is a quarter of the lease left, which is for the record.
func (d *Direct) send(ctx context.Context, begun time.Time, ids []string, events map[string]Event) error {
	ctx, cancel := context.WithDeadline(ctx, begun.Add(d.cfg.Lease*3/4))
	defer cancel()
	ready, ages, err := d.ready(ctx, ids, events)
	if err != nil {
		return fmt.Errorf("%w; they leave with a relay: %w", ErrNotSent, err)
	}
	var failures []error
	if n := len(ids) - len(ready); n > 0 {
		failures = append(failures, fmt.Errorf("%w: %d of %d messages are not committed, or no longer their writer's", ErrNotSent, n, len(ids)))
	}
	if len(ready) == 0 {
		return errors.Join(failures...)
	}
	failpoint.Hit("outbox.direct.ready")
	asked := time.Now()
	publishing, cancel := context.WithTimeout(ctx, d.cfg.Timeout)
	errs := d.publisher.Publish(publishing, ready)
	late := publishing.Err() != nil
	cancel()
	if len(errs) != len(ready) {
		return fmt.Errorf("outbox: the publisher gave %d answers to %d events, which leave with a relay", len(errs), len(ready))
	}
	took := time.Since(asked)
	d.metrics.called(ready, took)
	var done []string
	for i, err := range errs {
		d.metrics.optimistic(err, late, ages[i]+took)
		if err != nil {
			failures = append(failures, fmt.Errorf("outbox: event %s of topic %s is not acknowledged, and leaves with a relay: %w", ready[i].ID, ready[i].Topic, err))
			continue
		}
		d.metrics.published.WithLabelValues(d.metrics.kind(ready[i].Type)).Inc()
		done = append(done, ready[i].ID.String())
	}
	failpoint.Hit("outbox.direct.published")
	if err := d.record(ctx, done); err != nil { // published it is
		d.cfg.Logger.WarnContext(ctx, "what was published after its commit could not be recorded as such, and is sent once more", "events", len(done), "error", err)
	}
	return errors.Join(failures...)
}

// ready are those of the messages that are committed and still their writer's, and how old they are.
func (d *Direct) ready(ctx context.Context, ids []string, events map[string]Event) (ready []Event, ages []time.Duration, err error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	if failpoint.Mutant("outbox.direct-without-a-look") {
		return slices.Collect(maps.Values(events)), make([]time.Duration, len(events)), nil
	}
	rows, err := d.pool.Query(ctx, sql.OutboxDirectReady, ids)
	if err != nil {
		return nil, nil, err
	}
	var id string
	var at time.Time
	var age float64
	_, err = pgx.ForEachRow(rows, []any{&id, &at, &age}, func() error {
		e := events[id]
		e.CreatedAt = at
		ready, ages = append(ready, e), append(ages, time.Duration(age*float64(time.Second)))
		return nil
	})
	return ready, ages, err
}

// record takes what was published out of the table. Whoever has the turn does it for all that have come meanwhile; when it returns
// without an error, another may have done it for this one.
func (d *Direct) record(ctx context.Context, ids []string) error {
	if len(ids) == 0 {
		return nil
	}
	d.mu.Lock()
	d.published = append(d.published, ids...)
	d.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), d.cfg.Lease/4)
	defer cancel()
	d.recording <- struct{}{} // whoever has it lets go of it within a quarter of the lease
	defer func() { <-d.recording }()
	d.mu.Lock()
	all := d.published
	d.published = nil
	d.mu.Unlock()
	if len(all) == 0 {
		return nil
	}
	_, err := d.pool.Exec(ctx, sql.OutboxDirectDone, all)
	return err
}
