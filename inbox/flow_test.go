package inbox_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/inbox"
)

// TestAckAfterCommit: when a message is acked, everybody sees its effect.
func TestAckAfterCommit(t *testing.T) {
	t.Parallel()
	pool := newLedger(t)
	messages := letters(200, 20)
	source := &stub{deliveries: deliveries(messages)}
	var early atomic.Int64
	source.onAck = func(d inbox.Delivery) {
		var n int
		err := pool.QueryRow(context.Background(), `SELECT count(*) FROM ledger WHERE event = $1`, d.Message.ID).Scan(&n)
		if err != nil || n != 1 {
			early.Add(1)
		}
	}
	run(t, pool, source, writes("c"), inbox.Config{Batch: 7})
	eventually(t, "all are acked", func() bool { return source.acked.Load() >= 200 })
	if early.Load() > 0 {
		t.Errorf("%d were acked without an effect", early.Load())
	}
}

// TestBackPressure: no more is fetched than may be held, by number and by size, however much waits, also while
// messages fail.
func TestBackPressure(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]inbox.Config{
		"number": {MaxInFlight: 40}, "bytes": {MaxBytes: 40 * 10_000, Batch: 5},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := newLedger(t)
			messages := letters(1000, 100)
			for i := range messages {
				messages[i].Payload = make([]byte, 10_000)
			}
			source := &stub{deliveries: deliveries(messages)}
			var most atomic.Int64
			var open atomic.Bool
			cfg.MaxAttempts = 1e6
			run(t, pool, source, func(ctx context.Context, tx pgx.Tx, m inbox.Message) error {
				held := source.fetched.Load() - source.acked.Load()
				for {
					before := most.Load()
					if held <= before || most.CompareAndSwap(before, held) {
						break
					}
				}
				if !open.Load() && m.Key == "k3" {
					return errors.New("closed")
				}
				return writes("c")(ctx, tx, m)
			}, cfg)
			eventually(t, "it stands still", func() bool { // all that is held is of the key that fails
				fetched := source.fetched.Load()
				time.Sleep(100 * time.Millisecond)
				return fetched >= 40 && source.fetched.Load() == fetched || fetched == 1000
			})
			open.Store(true)
			eventually(t, "all are acked", func() bool { return source.acked.Load() == 1000 })
			if n := most.Load(); n > 60 {
				t.Errorf("%d messages were held at once", n)
			}
		})
	}
}

// TestDrain: at the end the running transaction commits, nothing more is begun, and what was not dealt with
// goes back.
func TestDrain(t *testing.T) {
	t.Parallel()
	pool := newLedger(t)
	before := runtime.NumGoroutine()
	messages := letters(100, 1)
	source := &stub{deliveries: deliveries(messages)}
	began, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	stop := run(t, pool, source, func(ctx context.Context, tx pgx.Tx, m inbox.Message) error {
		once.Do(func() { close(began); <-goOn })
		return writes("c")(ctx, tx, m)
	}, inbox.Config{Workers: 2, Batch: 10})
	<-began
	stopped := make(chan struct{})
	go func() { stop(); close(stopped) }()
	time.Sleep(20 * time.Millisecond)
	close(goOn)
	<-stopped
	n := query[int](t, pool, `SELECT count(*) FROM ledger`)
	if n != 1 || source.acked.Load() != 1 || source.acked.Load()+source.released.Load() != source.fetched.Load() {
		t.Errorf("%d effects, %d acked, %d released of %d", n, source.acked.Load(), source.released.Load(), source.fetched.Load())
	}
	if n := query[int](t, pool, `SELECT count(*) FROM pgsagaz.consumer_inbox`); n != 1 {
		t.Errorf("%d claims", n)
	}
	eventually(t, "its goroutines have ended", func() bool { return runtime.NumGoroutine() <= before+2 })
}

// TestGrace: a handler that does not end is cut off, and its message goes back.
func TestGrace(t *testing.T) {
	t.Parallel()
	pool := newLedger(t)
	source := &stub{deliveries: deliveries(letters(3, 1))}
	began := make(chan struct{})
	var once sync.Once
	stop := run(t, pool, source, func(ctx context.Context, tx pgx.Tx, m inbox.Message) error {
		if err := writes("c")(ctx, tx, m); err != nil {
			return err
		}
		once.Do(func() { close(began) })
		<-ctx.Done()
		return ctx.Err()
	}, inbox.Config{Grace: 50 * time.Millisecond})
	<-began
	stop()
	if n := query[int](t, pool, `SELECT count(*) FROM ledger`); n != 0 || source.released.Load() != 3 || source.acked.Load() != 0 {
		t.Errorf("%d effects, %d released, %d acked", n, source.released.Load(), source.acked.Load())
	}
	if n := query[int](t, pool, `SELECT count(*) FROM pgsagaz.inbox_failure`); n != 0 {
		t.Error("being cut off was counted as a failed attempt")
	}
}

// TestSlowHandlersDoNotShareATransactionForLong: BatchTime ends it, and the claims of the rest are taken back.
func TestSlowHandlersDoNotShareATransactionForLong(t *testing.T) {
	t.Parallel()
	pool := newLedger(t)
	b := newBroker()
	b.Publish(letters(20, 1)...)
	run(t, pool, b.Source("c"), func(ctx context.Context, tx pgx.Tx, m inbox.Message) error {
		if _, err := tx.Exec(ctx, `SELECT pg_sleep(0.02)`); err != nil {
			return err
		}
		return writes("c")(ctx, tx, m)
	}, inbox.Config{Workers: 1, BatchTime: 50 * time.Millisecond})
	drained(t, b)
	transactions := query[int](t, pool, `SELECT count(DISTINCT xmin::text) FROM ledger`)
	if n := query[int](t, pool, `SELECT count(*) FROM ledger`); n != 20 || transactions < 5 {
		t.Errorf("%d effects in %d transactions", n, transactions)
	}
	if n := query[int](t, pool, `SELECT min(processing_duration_ms) FROM pgsagaz.consumer_inbox`); n < 20 {
		t.Errorf("a handler that slept 20 ms took %d", n)
	}
}

// TestSuspects: a message that was delivered again and again may kill whoever handles it, before an attempt is
// counted. So it is counted first, and given up one day.
func TestSuspects(t *testing.T) {
	t.Parallel()
	pool := newLedger(t)
	m := inbox.Message{ID: newID(), Key: "k"}
	var calls atomic.Int64
	for range 4 {
		source := &stub{deliveries: []inbox.Delivery{{Message: m, Redelivered: 10}}}
		ctx, dies := context.WithCancel(t.Context())
		c, err := inbox.NewConsumer(pool, source, func(context.Context, pgx.Tx, inbox.Message) error {
			calls.Add(1)
			dies()
			return errors.New("died")
		}, inbox.Config{Name: "c", MaxAttempts: 2, Grace: time.Nanosecond, Logger: quiet, Workers: 1})
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error)
		go func() { done <- c.Run(ctx) }()
		eventually(t, "it dies, or gives the message up", func() bool { return source.acked.Load() == 1 || ctx.Err() != nil })
		dies()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	dead := deadLetters(t, pool)
	if len(dead) != 1 || dead[0].Reason != "attempts" || calls.Load() != 2 {
		t.Errorf("%+v after %d calls", dead, calls.Load())
	}
	// One that does not kill goes through, and its count is forgotten.
	good := inbox.Message{ID: newID()}
	run(t, pool, &stub{deliveries: []inbox.Delivery{{Message: good, Redelivered: 100}}}, writes("c"), inbox.Config{})
	eventually(t, "it takes effect", func() bool { return effects(t, pool, "c", good.ID) == 1 })
	if n := query[int](t, pool, `SELECT count(*) FROM pgsagaz.inbox_failure`); n != 0 {
		t.Errorf("%d failures are still counted", n)
	}
}

// TestLater: a message that says not now waits, and burns no attempt.
func TestLater(t *testing.T) {
	t.Parallel()
	pool := newLedger(t)
	b := newBroker()
	messages := letters(10, 2)
	var calls counted
	run(t, pool, b.Source("c"), calls.handler(func(ctx context.Context, tx pgx.Tx, m inbox.Message, n int) error {
		if m.ID == messages[2].ID && n < 6 {
			return fmt.Errorf("wrapped: %w", inbox.Later(2*time.Millisecond, "not now"))
		}
		return writes("c")(ctx, tx, m)
	}), inbox.Config{MaxAttempts: 1, Workers: 1})
	b.Publish(messages...)
	drained(t, b)
	if n := query[int](t, pool, `SELECT count(*) FROM ledger`); n != 10 || len(deadLetters(t, pool)) != 0 || calls.of(messages[2].ID) != 6 {
		t.Errorf("%d effects, %d calls", n, calls.of(messages[2].ID))
	}
}

// TestRate: many come at once, and are let through one after the other.
func TestRate(t *testing.T) {
	t.Parallel()
	pool := newLedger(t)
	b := newBroker()
	b.Publish(letters(12, 12)...)
	const every = 30 * time.Millisecond
	run(t, pool, b.Source("c"), inbox.Rate("mail", every, 2, writes("c")), inbox.Config{MaxAttempts: 1})
	drained(t, b)
	if n := query[int](t, pool, `SELECT count(*) FROM ledger`); n != 12 || len(deadLetters(t, pool)) != 0 {
		t.Errorf("%d effects", n)
	}
	if took := query[time.Duration](t, pool, `SELECT max(at) - min(at) FROM ledger`); took < 9*every {
		t.Errorf("12 went through in %v; of 2 at once and then one every %v the last one comes after %v", took, every, 10*every)
	}
}
