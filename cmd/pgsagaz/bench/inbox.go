package bench

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/inbox"
)

// InboxResults are what the benchmark of the inbox finds.
type InboxResults struct {
	// Duplicate is the detection of one, whole transactions, against the same INSERT ... ON CONFLICT by hand.
	Duplicate Result `json:"duplicate"`
	// Effect is an INSERT with a claim, against the INSERT alone; each in a transaction.
	Effect []Result `json:"effect"`
	// Batches are messages through a Consumer, by the size of its batches.
	Batches BatchFigures `json:"batches"`
	// Big is Effect with an inbox of Rows entries; BigOverEmpty compares the two, each by its floor.
	Rows         int           `json:"rows"`
	Big          []Result      `json:"big"`
	BigOverEmpty []float64     `json:"big_over_empty"`
	Cleanup      CleanupFigure `json:"cleanup"`
}

// BatchFigures are messages a second.
type BatchFigures struct {
	Single float64   `json:"single_per_second"`
	Fifty  float64   `json:"fifty_per_second"`
	Ratio  float64   `json:"ratio"` // the median of the rounds
	Ratios []float64 `json:"ratios"`
}

// CleanupFigure is how long a cleanup took, and what a claim beside it waited at most.
type CleanupFigure struct {
	Rows     int     `json:"rows"`
	Seconds  float64 `json:"seconds"`
	ClaimMax float64 `json:"claim_max_ms"`
}

// InboxOptions are those of [Inbox]. The zero value of each field is its default.
type InboxOptions struct {
	Options
	Rows        int // entries of the big inbox, spread over a year; 0: none, and Big is left out
	CleanupRows int // 0: 1 million
}

const benchConsumer = "pgsagaz.bench"

func benchHandler(ctx context.Context, tx pgx.Tx, m inbox.Message) error {
	_, err := tx.Exec(ctx, insertEffect, m.ID, "inbox")
	return err
}

func benchMessage() inbox.Message {
	return inbox.Message{ID: uuid.Must(uuid.NewV7()).String(), Topic: "bench", Type: "bench"}
}

// Inbox measures the inbox. The database must be migrated, and its inbox never have been used: the benchmark makes
// it a year old. What it writes stays.
func Inbox(ctx context.Context, config *pgxpool.Config, o InboxOptions) (InboxResults, error) {
	o.Options = o.withDefaults()
	o.Steps = 1
	if o.CleanupRows == 0 {
		o.CleanupRows = 1_000_000
	}
	r := InboxResults{Rows: o.Rows}
	pool, g, err := metered(ctx, config, func(*pgxpool.Config) {})
	if err != nil {
		return r, fmt.Errorf("bench: %w", err)
	}
	defer g.pool.Close()
	defer pool.Close()
	if err := prepare(ctx, pool); err != nil {
		return r, fmt.Errorf("bench: %w", err)
	}
	if err := age(ctx, pool); err != nil {
		return r, fmt.Errorf("bench inbox: make it a year old: %w", err)
	}
	if r.Duplicate, err = duplicates(ctx, pool, g, o.Options); err != nil {
		return r, fmt.Errorf("bench inbox, duplicates: %w", err)
	}
	if r.Effect, err = claimAndEffect(ctx, pool, g, o.Options, "effect"); err != nil {
		return r, fmt.Errorf("bench inbox, effects: %w", err)
	}
	if r.Batches, err = batches(ctx, pool, o.Options); err != nil {
		return r, fmt.Errorf("bench inbox, batches: %w", err)
	}
	if o.Rows > 0 {
		o.Progress(fmt.Sprintf("inbox: writing %d entries", o.Rows))
		if err := fill(ctx, pool, o.Rows, 365); err != nil {
			return r, fmt.Errorf("bench inbox, %d entries: %w", o.Rows, err)
		}
		if r.Big, err = claimAndEffect(ctx, pool, g, o.Options, "effect, big inbox"); err != nil {
			return r, fmt.Errorf("bench inbox, big: %w", err)
		}
		for i := range r.Big {
			r.BigOverEmpty = append(r.BigOverEmpty, r.Big[i].Ratio/r.Effect[i].Ratio)
		}
	}
	o.Progress(fmt.Sprintf("inbox: writing %d entries to clean up", o.CleanupRows))
	if r.Cleanup, err = cleanup(ctx, pool, o.CleanupRows); err != nil {
		return r, fmt.Errorf("bench inbox, cleanup: %w", err)
	}
	return r, nil
}

// duplicates measures the detection of a duplicate. The floor does the least: BEGIN, the INSERT, COMMIT.
func duplicates(ctx context.Context, pool *pgxpool.Pool, g *gauge, o Options) (Result, error) {
	m := benchMessage()
	if _, err := inbox.Process(ctx, pool, benchConsumer, m, benchHandler); err != nil {
		return Result{}, err
	}
	ours := func(ctx context.Context) error {
		first, err := inbox.Process(ctx, pool, benchConsumer, m, benchHandler)
		if err == nil && first {
			err = errors.New("a duplicate was taken for the first")
		}
		return err
	}
	floor := func(ctx context.Context) error {
		return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, `INSERT INTO pgsagaz.consumer_inbox (event_id, consumer_name, source_topic, event_type)
				VALUES ($1, $2, '', '') ON CONFLICT DO NOTHING`, m.ID, benchConsumer)
			return err
		})
	}
	return pair(ctx, o, g, "duplicate", 1, ours, floor)
}

func claimAndEffect(ctx context.Context, pool *pgxpool.Pool, g *gauge, o Options, name string) (results []Result, err error) {
	ours := func(ctx context.Context) error {
		first, err := inbox.Process(ctx, pool, benchConsumer, benchMessage(), benchHandler)
		if err == nil && !first {
			err = errors.New("a new message was taken for a duplicate")
		}
		return err
	}
	floor := func(ctx context.Context) error {
		m := benchMessage()
		return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error { return benchHandler(ctx, tx, m) })
	}
	for _, concurrency := range o.Concurrency {
		r, err := pair(ctx, o, g, name, concurrency, ours, floor)
		if err != nil {
			return results, err
		}
		results = append(results, r)
	}
	return results, nil
}

// belt is a source that never ends. It ends the run when its time is over.
type belt struct {
	until time.Time
	stop  context.CancelFunc

	mu    sync.Mutex
	acked int
	last  time.Time
}

func (b *belt) Fetch(ctx context.Context, most int) ([]inbox.Delivery, error) {
	if time.Now().After(b.until) {
		b.stop()
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	ds := make([]inbox.Delivery, most)
	for i := range ds {
		ds[i].Message = benchMessage()
	}
	return ds, nil
}

func (b *belt) Ack(_ context.Context, ds []inbox.Delivery) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.acked += len(ds)
	b.last = time.Now()
	return nil
}

func (b *belt) Release(context.Context, []inbox.Delivery) error { return nil }
func (b *belt) Close() error                                    { return nil }

// consume gives the messages a second of a Consumer.
func consume(ctx context.Context, pool *pgxpool.Pool, batch int, duration time.Duration, log *slog.Logger) (float64, error) {
	running, stop := context.WithCancel(ctx)
	defer stop()
	begun := time.Now()
	b := &belt{until: begun.Add(duration), stop: stop}
	c, err := inbox.NewConsumer(pool, b, benchHandler, inbox.Config{Name: benchConsumer, Batch: batch, MaxInFlight: 8 * max(batch, 50), Retention: -1, Logger: log})
	if err != nil {
		return 0, err
	}
	if err := c.Run(running); err != nil {
		return 0, err
	}
	if b.acked == 0 {
		return 0, errors.New("nothing was consumed")
	}
	return float64(b.acked) / b.last.Sub(begun).Seconds(), nil
}

func batches(ctx context.Context, pool *pgxpool.Pool, o Options) (BatchFigures, error) {
	var f BatchFigures
	var single, fifty []float64
	for round := -1; round < o.Rounds; round++ {
		o.Progress(fmt.Sprintf("inbox, batches: round %d of %d", round+1, o.Rounds))
		duration := o.Duration
		if round < 0 {
			duration = min(duration, time.Second)
		}
		one, err := consume(ctx, pool, 1, duration, o.Logger)
		if err != nil {
			return f, err
		}
		many, err := consume(ctx, pool, 50, duration, o.Logger)
		if err != nil {
			return f, err
		}
		if round >= 0 {
			single, fifty, f.Ratios = append(single, one), append(fifty, many), append(f.Ratios, many/one)
		}
	}
	f.Single, f.Fifty, f.Ratio = median(single), median(fifty), median(f.Ratios)
	return f, nil
}

// age makes partitions as they would be had the inbox been in use for 400 days.
func age(ctx context.Context, pool *pgxpool.Pool) error {
	_, err := pool.Exec(ctx, `DO $$
		DECLARE
			today timestamptz := date_trunc('day', pgsagaz.now(), 'UTC');
			name  text;
		BEGIN
			IF EXISTS (SELECT FROM pgsagaz.inbox_partition) THEN
				RAISE 'the inbox has been used: give a database of its own';
			END IF;
			FOR n IN REVERSE 400..1 LOOP
				name := 'consumer_inbox_' || to_char((today - n * interval '1 day') AT TIME ZONE 'UTC', 'YYYYMMDD');
				EXECUTE format('CREATE TABLE pgsagaz.%I (LIKE pgsagaz.consumer_inbox INCLUDING DEFAULTS)', name);
				EXECUTE format('ALTER TABLE pgsagaz.consumer_inbox ATTACH PARTITION pgsagaz.%I FOR VALUES FROM (%L) TO (%L)', name,
					pgsagaz.inbox_bound(today - n * interval '1 day'), pgsagaz.inbox_bound(today - (n - 1) * interval '1 day'));
				INSERT INTO pgsagaz.inbox_partition (name, lower, upper, late) VALUES (name,
					pgsagaz.inbox_bound(today - n * interval '1 day'), pgsagaz.inbox_bound(today - (n - 1) * interval '1 day'), false);
			END LOOP;
			UPDATE pgsagaz.inbox_state SET floor = pgsagaz.inbox_bound(today - interval '400 days'), ceiling = pgsagaz.inbox_bound(today);
			PERFORM pgsagaz.inbox_make_partitions(today + interval '7 days');
		END
		$$`)
	return err
}

// fill writes entries, from that many days ago until now.
func fill(ctx context.Context, pool *pgxpool.Pool, rows int, days float64) error {
	const part = 500_000
	for done := 0; done < rows; done += part {
		n := min(part, rows-done)
		_, err := pool.Exec(ctx, `
			INSERT INTO pgsagaz.consumer_inbox (event_id, consumer_name, source_topic, event_type, consumed_at, processing_duration_ms)
			SELECT overlay(gen_random_uuid()::text PLACING left(pgsagaz.inbox_bound(at)::text, 13) || '-7' FROM 1 FOR 15)::uuid, $1, 'bench', 'bench', at, 1
			FROM (SELECT pgsagaz.now() - make_interval(secs => 86400 * $2::float8 * (1 - (i + 0.5) / $3::float8)) AS at FROM generate_series($4::int, $4::int + $5::int - 1) i) x`,
			benchConsumer, days, rows, done, n)
		if err != nil {
			return err
		}
	}
	_, err := pool.Exec(ctx, `ANALYZE pgsagaz.consumer_inbox`)
	return err
}

// cleanup writes entries into the oldest day and has them dropped, while events are claimed.
func cleanup(ctx context.Context, pool *pgxpool.Pool, rows int) (CleanupFigure, error) {
	f := CleanupFigure{Rows: rows}
	_, err := pool.Exec(ctx, `
		INSERT INTO pgsagaz.consumer_inbox (event_id, consumer_name, source_topic, event_type, consumed_at, processing_duration_ms)
		SELECT overlay(gen_random_uuid()::text PLACING left(pgsagaz.inbox_bound(at)::text, 13) || '-7' FROM 1 FOR 15)::uuid, $1, 'bench', 'bench', at, 1
		FROM (SELECT pgsagaz.inbox_time(s.floor) + i * interval '1 day' / ($2::int + 1) AS at FROM pgsagaz.inbox_state s, generate_series(1, $2::int) i) x`, benchConsumer, rows)
	if err != nil {
		return f, err
	}
	running, stop := context.WithCancel(ctx)
	var worst time.Duration
	var failed error
	var wg sync.WaitGroup
	wg.Go(func() {
		for running.Err() == nil {
			begun := time.Now()
			if _, err := inbox.Process(ctx, pool, benchConsumer, benchMessage(), benchHandler); err != nil {
				failed = err
				return
			}
			worst = max(worst, time.Since(begun))
		}
	})
	time.Sleep(100 * time.Millisecond)
	done, err := inbox.Cleanup(ctx, pool, &inbox.CleanupOptions{Retention: (398*24 + 12) * time.Hour})
	stop()
	wg.Wait()
	if err = errors.Join(err, failed); err != nil {
		return f, err
	}
	if len(done.Dropped) == 0 {
		return f, fmt.Errorf("nothing was dropped: %+v", done)
	}
	f.Seconds, f.ClaimMax = done.Seconds, float64(worst.Microseconds())/1000
	return f, nil
}
