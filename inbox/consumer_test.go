package inbox_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/pgsagaz/pgsagaz/inbox"
	"github.com/pgsagaz/pgsagaz/inbox/memorysub"
	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

var fast = inbox.Backoff{Initial: time.Millisecond, Max: 5 * time.Millisecond}

// run runs a consumer until the test ends, or the returned function is called.
func run(t testing.TB, pool *pgxpool.Pool, source inbox.Source, h inbox.Handler, cfg inbox.Config) (stop func()) {
	t.Helper()
	if cfg.Name == "" {
		cfg.Name = "c"
	}
	if cfg.Logger == nil {
		cfg.Logger = quiet
	}
	if cfg.Backoff.Initial == 0 {
		cfg.Backoff = fast
	}
	c, err := inbox.NewConsumer(pool, source, h, cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !f(); time.Sleep(3 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it never happened: %s", what)
		}
	}
}

func drained(t testing.TB, b *memorysub.Broker) {
	t.Helper()
	eventually(t, "all is acked", func() bool { return b.Waiting("c") == 0 })
}

// counted counts the calls of a handler by event.
type counted struct {
	mu    sync.Mutex
	calls map[string]int
	order []string
}

func (c *counted) handler(f func(ctx context.Context, tx pgx.Tx, m inbox.Message, n int) error) inbox.Handler {
	c.calls = map[string]int{}
	return func(ctx context.Context, tx pgx.Tx, m inbox.Message) error {
		c.mu.Lock()
		c.calls[m.ID]++
		c.order = append(c.order, m.ID)
		n := c.calls[m.ID]
		c.mu.Unlock()
		return f(ctx, tx, m, n)
	}
}

func (c *counted) of(id string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.calls[id]
}

func newBroker() *memorysub.Broker { return memorysub.New(memorysub.Config{}) }

func deadLetters(t testing.TB, pool *pgxpool.Pool) []inbox.DeadLetter {
	t.Helper()
	all, err := inbox.DeadLetters(t.Context(), pool, inbox.DeadFilter{})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestPoisonIsIsolated: one message of fifty fails. The others take effect at once, it is tried alone, its
// attempts are counted, and it is given up with all that it had.
func TestPoisonIsIsolated(t *testing.T) {
	t.Parallel()
	for name, deferred := range map[string]bool{"the handler fails": false, "the commit fails": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := newLedger(t)
			exec(t, pool, `CREATE TABLE parent (id text PRIMARY KEY)`)
			exec(t, pool, `CREATE TABLE child (id text REFERENCES parent DEFERRABLE INITIALLY DEFERRED)`)
			b := newBroker()
			messages := letters(50, 50)
			poison := messages[23]
			poison.Headers = map[string]string{"tenant": "a", "content-type": "application/json"}
			poison.TraceParent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
			poison.Time = time.Now().Add(-time.Minute).Truncate(time.Millisecond)
			messages[23] = poison
			b.Publish(messages...)
			var calls counted
			run(t, pool, b.Source("c"), calls.handler(func(ctx context.Context, tx pgx.Tx, m inbox.Message, _ int) error {
				if err := writes("c")(ctx, tx, m); err != nil || m.ID != poison.ID {
					return err
				}
				if deferred { // nobody knows who it was until the COMMIT
					_, err := tx.Exec(ctx, `INSERT INTO child VALUES ('nobody')`)
					return err
				}
				return errors.New("poison")
			}), inbox.Config{Workers: 1, MaxAttempts: 3})
			drained(t, b)
			for _, m := range messages {
				if want := 1; m.ID != poison.ID && effects(t, pool, "c", m.ID) != want {
					t.Errorf("event %s: %d effects", m.ID, effects(t, pool, "c", m.ID))
				}
			}
			if n := effects(t, pool, "c", poison.ID); n != 0 {
				t.Errorf("the poison has had %d effects", n)
			}
			dead := deadLetters(t, pool)
			if len(dead) != 1 {
				t.Fatalf("%d dead letters", len(dead))
			}
			d := dead[0]
			if d.Reason != "attempts" || d.Attempts != 3 || d.Consumer != "c" || d.Error == "" || d.FirstAt.After(d.DiedAt) {
				t.Errorf("%+v", d)
			}
			is, want := d.Message, poison
			if is.ID != want.ID || is.Source != want.Source || is.Topic != want.Topic || is.Key != want.Key || is.Type != want.Type ||
				string(is.Payload) != string(want.Payload) || fmt.Sprint(is.Headers) != fmt.Sprint(want.Headers) || is.TraceParent != want.TraceParent || !is.Time.Equal(want.Time) {
				t.Errorf("the dead letter is not whole\ngot  %+v\nwant %+v", is, want)
			}
			if n := query[int](t, pool, `SELECT count(*) FROM pgsagaz.inbox_failure`); n != 0 {
				t.Errorf("%d failures are still counted", n)
			}
			// It counts as taken: a redelivery is a duplicate.
			b.Publish(poison)
			before := calls.of(poison.ID)
			drained(t, b)
			if calls.of(poison.ID) != before || len(deadLetters(t, pool)) != 1 {
				t.Errorf("a redelivery of a dead letter was handled")
			}
		})
	}
}

// TestFailureHoldsItsKey: what follows a failing message on its key waits, other keys do not; with MoveOn
// nothing waits.
func TestFailureHoldsItsKey(t *testing.T) {
	t.Parallel()
	for name, moveOn := range map[string]bool{"hold": false, "move on": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := newLedger(t)
			b := newBroker()
			messages := letters(40, 2) // k0 and k1 in turns
			var mended atomic.Bool
			var calls counted
			run(t, pool, b.Source("c"), calls.handler(func(ctx context.Context, tx pgx.Tx, m inbox.Message, _ int) error {
				if m.ID == messages[4].ID && !mended.Load() { // of k0
					return errors.New("not yet")
				}
				return writes("c")(ctx, tx, m)
			}), inbox.Config{MaxAttempts: 1e6, MoveOn: moveOn, Workers: 1})
			b.Publish(messages[:20]...)
			eventually(t, "some attempts", func() bool { return calls.of(messages[4].ID) > 3 })
			b.Publish(messages[20:]...)
			done := func(key string) int {
				return query[int](t, pool, `SELECT count(*) FROM ledger WHERE key = $1`, key)
			}
			eventually(t, "the other key goes on", func() bool { return done("k1") == 20 })
			if moveOn {
				eventually(t, "the same key goes on", func() bool { return done("k0") == 19 })
			} else if n := done("k0"); n != 2 {
				t.Errorf("%d of the key went past the failing one", n-2)
			}
			mended.Store(true)
			drained(t, b)
			order := list[string](t, pool, `SELECT event FROM ledger WHERE key = 'k0' ORDER BY n`)
			var want []string
			for i := 0; i < 40; i += 2 {
				want = append(want, messages[i].ID)
			}
			if !moveOn && !slices.Equal(order, want) {
				t.Errorf("got  %v\nwant %v", order, want)
			}
			if len(order) != 20 {
				t.Errorf("%d of 20", len(order))
			}
			if n := query[int](t, pool, `SELECT count(*) FROM pgsagaz.inbox_failure`); n != 0 {
				t.Errorf("%d failures are still counted", n)
			}
		})
	}
}

// TestTerminal goes to the dead letters at once, and the key moves on.
func TestTerminal(t *testing.T) {
	t.Parallel()
	pool := newLedger(t)
	b := newBroker()
	messages := letters(20, 1)
	var calls counted
	cause := errors.New("no such customer")
	var told []inbox.DeadLetter
	run(t, pool, b.Source("c"), calls.handler(func(ctx context.Context, tx pgx.Tx, m inbox.Message, _ int) error {
		if m.ID == messages[7].ID {
			return inbox.Terminal(fmt.Errorf("wrapped: %w", cause))
		}
		return writes("c")(ctx, tx, m)
	}), inbox.Config{Workers: 1, OnDead: func(ctx context.Context, tx pgx.Tx, d inbox.DeadLetter) error {
		told = append(told, d)
		switch len(told) {
		case 1:
			return errors.New("the outbox is full")
		case 2:
			panic("oh")
		}
		return writes("dead")(ctx, tx, d.Message)
	}})
	b.Publish(messages...)
	drained(t, b)
	if n := calls.of(messages[7].ID); n != 1 {
		t.Errorf("the handler was called %d times", n)
	}
	dead := deadLetters(t, pool)
	if len(dead) != 1 || dead[0].Reason != "terminal" || dead[0].Error != "wrapped: no such customer" || dead[0].Attempts != 0 {
		t.Errorf("%+v", dead)
	}
	if n := query[int](t, pool, `SELECT count(*) FROM ledger WHERE consumer = 'c'`); n != 19 {
		t.Errorf("%d effects", n)
	}
	if effects(t, pool, "dead", messages[7].ID) != 1 || len(told) != 3 || told[2].ID != dead[0].ID {
		t.Errorf("OnDead was told %+v, and wrote %d rows", told, effects(t, pool, "dead", messages[7].ID))
	}
	if inbox.Terminal(nil) != nil || !errors.Is(inbox.Terminal(cause), cause) {
		t.Error("Terminal hides what it marks")
	}
}

// TestTransientFailuresBurnNoAttempt: deadlocks, serialization failures, lock timeouts and lost connections.
func TestTransientFailuresBurnNoAttempt(t *testing.T) {
	t.Parallel()
	pool := newLedger(t)
	b := newBroker()
	messages := letters(10, 10)
	var calls counted
	run(t, pool, b.Source("c"), calls.handler(func(ctx context.Context, tx pgx.Tx, m inbox.Message, n int) error {
		if m.ID == messages[3].ID && n <= 12 {
			switch n % 4 {
			case 0:
				_, err := tx.Exec(ctx, `DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '40P01'; END $$`)
				return fmt.Errorf("wrapped: %w", err)
			case 1:
				_, err := tx.Exec(ctx, `DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '40001'; END $$`)
				return err
			case 2:
				_, err := tx.Exec(ctx, `DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '55P03'; END $$`)
				return err
			default:
				_, err := tx.Exec(ctx, `SELECT pg_terminate_backend(pg_backend_pid())`)
				return err
			}
		}
		return writes("c")(ctx, tx, m)
	}), inbox.Config{MaxAttempts: 1, Workers: 1})
	b.Publish(messages...)
	drained(t, b)
	if n := query[int](t, pool, `SELECT count(*) FROM ledger`); n != 10 || len(deadLetters(t, pool)) != 0 {
		t.Errorf("%d effects, dead %+v", n, deadLetters(t, pool))
	}
	if n := calls.of(messages[3].ID); n != 13 {
		t.Errorf("%d calls", n)
	}
}

// TestTransactionIsTheInboxs: what a handler may not do with the transaction it is given, and that nothing is lost
// by it.
func TestTransactionIsTheInboxs(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		do   func(ctx context.Context, tx pgx.Tx) error
		want string // of the dead letter; "": it goes well
	}{
		"Commit":             {func(ctx context.Context, tx pgx.Tx) error { return tx.Commit(ctx) }, inbox.ErrTxOwned.Error()},
		"Rollback":           {func(ctx context.Context, tx pgx.Tx) error { return tx.Rollback(ctx) }, inbox.ErrTxOwned.Error()},
		"ROLLBACK":           {func(ctx context.Context, tx pgx.Tx) error { _, err := tx.Exec(ctx, "ROLLBACK"); return err }, inbox.ErrTxEnded.Error()},
		"a dropped error":    {func(ctx context.Context, tx pgx.Tx) error { _, _ = tx.Exec(ctx, "SELECT 1/0"); return nil }, inbox.ErrTxFailed.Error()},
		"a panic":            {func(context.Context, pgx.Tx) error { panic("oh no") }, "panic: oh no"},
		"a slow handler":     {func(ctx context.Context, _ pgx.Tx) error { <-ctx.Done(); return ctx.Err() }, inbox.ErrTimeout.Error()},
		"a slow statement":   {func(ctx context.Context, tx pgx.Tx) error { _, err := tx.Exec(ctx, "SELECT pg_sleep(60)"); return err }, inbox.ErrTimeout.Error()},
		"an unprintable one": {func(context.Context, pgx.Tx) error { return errors.New("a\x00b\xff") }, "a?b?"},
		"a savepoint": {func(ctx context.Context, tx pgx.Tx) error {
			return errors.Join(pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error { _, err := tx.Exec(ctx, "SELECT 1"); return err }), func() error {
				sp, err := tx.Begin(ctx)
				if err != nil {
					return err
				}
				_, _ = sp.Exec(ctx, "SELECT 1/0")
				return sp.Rollback(ctx)
			}())
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := newLedger(t)
			b := newBroker()
			messages := letters(9, 9)
			bad := messages[4].ID
			run(t, pool, b.Source("c"), func(ctx context.Context, tx pgx.Tx, m inbox.Message) error {
				if err := writes("c")(ctx, tx, m); err != nil || m.ID != bad {
					return err
				}
				return c.do(ctx, tx)
			}, inbox.Config{MaxAttempts: 2, Workers: 1, Timeout: 300 * time.Millisecond})
			b.Publish(messages...)
			drained(t, b)
			dead := deadLetters(t, pool)
			want := 9
			if c.want != "" {
				want = 8
				if len(dead) != 1 || !strings.Contains(dead[0].Error, c.want) {
					t.Errorf("dead letters %+v, want %q", dead, c.want)
				}
			} else if len(dead) != 0 {
				t.Errorf("dead letters %+v", dead)
			}
			if n := query[int](t, pool, `SELECT count(DISTINCT event) FROM ledger`); n != want || query[int](t, pool, `SELECT count(*) FROM ledger`) != want {
				t.Errorf("%d effects, want %d", n, want)
			}
		})
	}
}

// TestHandlerCommits: a COMMIT behind the inbox's back commits the claims of the whole batch. Those whose handlers were not
// called are taken back, so that no message is lost.
func TestHandlerCommits(t *testing.T) {
	t.Parallel()
	pool := newLedger(t)
	b := newBroker()
	messages := letters(9, 9)
	b.Publish(messages...)
	run(t, pool, b.Source("c"), func(ctx context.Context, tx pgx.Tx, m inbox.Message) error {
		if err := writes("c")(ctx, tx, m); err != nil || m.ID != messages[4].ID {
			return err
		}
		_, err := tx.Exec(ctx, "COMMIT")
		return err
	}, inbox.Config{Workers: 1})
	drained(t, b)
	if n := query[int](t, pool, `SELECT count(DISTINCT event) FROM ledger`); n != 9 || query[int](t, pool, `SELECT count(*) FROM ledger`) != 9 {
		t.Errorf("%d events took effect, %d effects", n, query[int](t, pool, `SELECT count(*) FROM ledger`))
	}
}

// TestSpoiltMessages: what no message could be made of, and a message without an id.
func TestSpoiltMessages(t *testing.T) {
	t.Parallel()
	pool := newLedger(t)
	source := &stub{deliveries: []inbox.Delivery{
		{Message: inbox.Message{ID: "topic/3/17", Topic: "t", Payload: []byte{0, 255}}, Err: errors.New("not JSON")},
		{Message: inbox.Message{Topic: "t", Payload: []byte("no id")}},
		{Message: inbox.Message{Topic: "t", Payload: []byte("no id")}}, // delivered again
		{Message: inbox.Message{ID: "a\x00b", Topic: "t\xff", Key: "\x00", Type: "\x00", Headers: map[string]string{"\x00": "\xff"}}},
		{Message: inbox.Message{ID: "good\xff"}},
		{Message: inbox.Message{ID: "good", Topic: "t\xff", Type: "\x00"}},
		{Message: inbox.Message{ID: at(time.Now().AddDate(1, 0, 0))}},
	}}
	run(t, pool, source, writes("c"), inbox.Config{})
	eventually(t, "all are acked", func() bool { return source.acked.Load() == 7 })
	reasons := map[string]int{}
	for _, d := range deadLetters(t, pool) {
		reasons[d.Reason]++
		if d.Reason == "no message" && string(d.Message.Payload) == "\x00\xff" && d.Error != "not JSON" {
			t.Errorf("%+v", d)
		}
	}
	if fmt.Sprint(reasons) != "map[from the future:1 no message:4]" {
		t.Errorf("%v", reasons)
	}
	if n := query[int](t, pool, `SELECT count(*) FROM ledger`); n != 1 {
		t.Errorf("%d effects", n)
	}
}

// stub is a source of given deliveries.
type stub struct {
	mu         sync.Mutex
	deliveries []inbox.Delivery
	acked      atomic.Int64
	released   atomic.Int64
	fetched    atomic.Int64
	onAck      func(inbox.Delivery)
}

func (s *stub) Fetch(ctx context.Context, most int) ([]inbox.Delivery, error) {
	s.mu.Lock()
	n := min(most, len(s.deliveries))
	some := s.deliveries[:n]
	s.deliveries = s.deliveries[n:]
	s.mu.Unlock()
	if n == 0 {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	s.fetched.Add(int64(n))
	return some, nil
}

func (s *stub) Ack(_ context.Context, ds []inbox.Delivery) error {
	for _, d := range ds {
		if s.onAck != nil {
			s.onAck(d)
		}
	}
	s.acked.Add(int64(len(ds)))
	return nil
}

func (s *stub) Release(_ context.Context, ds []inbox.Delivery) error {
	s.released.Add(int64(len(ds)))
	return nil
}
func (s *stub) Close() error { return nil }

func deliveries(messages []inbox.Message) []inbox.Delivery {
	ds := make([]inbox.Delivery, len(messages))
	for i, m := range messages {
		ds[i].Message = m
	}
	return ds
}

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
	eventually(t, "all are acked", func() bool { return source.acked.Load() == 200 })
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

func TestRoutes(t *testing.T) {
	t.Parallel()
	pool := newLedger(t)
	b := newBroker()
	m := func(topic, kind string) inbox.Message { return inbox.Message{ID: newID(), Topic: topic, Type: kind} }
	b.Publish(m("orders", "shipped"), m("orders", "lost"), m("orders", "seen"), m("mail", "sent"), m("nowhere", "x"))
	run(t, pool, b.Source("c"), inbox.ByTopic(map[string]inbox.Handler{
		"orders": inbox.ByType(map[string]inbox.Handler{"shipped": writes("shipped"), "seen": inbox.Ignore}, nil),
		"mail":   inbox.ByType(nil, writes("mail")),
	}, nil), inbox.Config{})
	drained(t, b)
	if got := list[string](t, pool, `SELECT consumer FROM ledger ORDER BY 1`); fmt.Sprint(got) != "[mail shipped]" {
		t.Errorf("%v", got)
	}
	dead := deadLetters(t, pool)
	if len(dead) != 2 || dead[0].Reason != "terminal" || !strings.Contains(dead[0].Error+dead[1].Error, `type "lost"`) || !strings.Contains(dead[0].Error+dead[1].Error, `topic "nowhere"`) {
		t.Errorf("%+v", dead)
	}
}

// TestRedrive: a dead letter is handled again as a new attempt, which takes effect once; one that fails
// again comes back; one that is dropped is gone.
func TestRedrive(t *testing.T) {
	t.Parallel()
	pool := newLedger(t)
	b := newBroker()
	messages := letters(6, 2)
	b.Publish(messages...)
	var mended atomic.Bool
	var seen sync.Map
	handler := func(ctx context.Context, tx pgx.Tx, m inbox.Message) error {
		if !mended.Load() {
			return errors.New("broken")
		}
		seen.Store(m.ID, m)
		return writes("c")(ctx, tx, m)
	}
	stop := run(t, pool, b.Source("c"), handler, inbox.Config{MaxAttempts: 2})
	run(t, pool, b.Source("c"), handler, inbox.Config{MaxAttempts: 2}) // they must not do it twice
	drained(t, b)
	dead := deadLetters(t, pool)
	if len(dead) != 6 {
		t.Fatalf("%d dead letters", len(dead))
	}
	one, err := inbox.Dead(t.Context(), pool, dead[2].ID)
	if err != nil || one.Message.ID != dead[2].Message.ID {
		t.Errorf("%+v, %v", one, err)
	}
	if _, err := inbox.Dead(t.Context(), pool, 1e9); !errors.Is(err, inbox.ErrNoDeadLetter) {
		t.Error(err)
	}
	if ids, err := inbox.Drop(t.Context(), pool, dead[5].ID, 1e9); err != nil || !slices.Equal(ids, []int64{dead[5].ID}) {
		t.Errorf("dropped %v, %v", ids, err)
	}

	// It fails again, and is back.
	if ids, err := inbox.Redrive(t.Context(), pool, dead[0].ID); err != nil || len(ids) != 1 {
		t.Fatal(ids, err)
	}
	eventually(t, "it is back", func() bool {
		d, err := inbox.Dead(t.Context(), pool, dead[0].ID)
		return err == nil && !d.Redriving && d.Attempts >= 4 && d.Redrives == 1 // both consumers may have tried
	})
	mended.Store(true)
	var ids []int64
	for _, d := range dead[:5] {
		ids = append(ids, d.ID)
	}
	if got, err := inbox.Redrive(t.Context(), pool, ids...); err != nil || len(got) != 5 {
		t.Fatal(got, err)
	}
	if got, err := inbox.Redrive(t.Context(), pool, ids...); err != nil || len(got) > 0 {
		t.Errorf("they were asked for again: %v, %v", got, err)
	}
	eventually(t, "all are done", func() bool { return len(deadLetters(t, pool)) == 0 })
	if n := query[int](t, pool, `SELECT count(*) FROM ledger`); n != 5 {
		t.Errorf("%d effects", n)
	}
	seen.Range(func(_, v any) bool {
		if m := v.(inbox.Message); m.Attempt == "" || m.EventID() == inbox.EventID(m.Source, m.ID) || m.Topic != "letters" {
			t.Errorf("%+v", m)
		}
		return true
	})
	// The events themselves count as taken.
	b.Publish(messages...)
	drained(t, b)
	stop()
	if n := query[int](t, pool, `SELECT count(*) FROM ledger`); n != 5 {
		t.Errorf("%d effects after a redelivery", n)
	}
}

// TestReplay: a message that is sent again on purpose carries an attempt id, and takes effect once more for it.
func TestReplay(t *testing.T) {
	t.Parallel()
	pool := newLedger(t)
	m := inbox.Message{ID: newID()}
	for _, c := range []struct {
		attempt string
		want    bool
	}{{"", true}, {"", false}, {"november", true}, {"november", false}, {"december", true}} {
		m.Attempt = c.attempt
		if first, err := inbox.Process(t.Context(), pool, "c", m, writes("c")); err != nil || first != c.want {
			t.Errorf("attempt %q: %v, %v", c.attempt, first, err)
		}
	}
}

// TestOlderThanRetention: such a message is refused where one can see it, and not processed again.
func TestOlderThanRetention(t *testing.T) {
	t.Parallel()
	pool := newLedger(t)
	exec(t, pool, `SELECT pgsagaz.inbox_make_partitions(now())`)
	days(t, pool, 60)
	if _, err := inbox.Cleanup(t.Context(), pool, &inbox.CleanupOptions{Retention: 30 * 24 * time.Hour}); err != nil {
		t.Fatal(err)
	}
	b := newBroker()
	old := time.Now().AddDate(0, 0, -45)
	messages := []inbox.Message{{ID: at(old)}, {ID: "evt-1", Time: old}, {ID: newID()}}
	b.Publish(append(messages, messages...)...)
	run(t, pool, b.Source("c"), writes("c"), inbox.Config{})
	drained(t, b)
	dead := deadLetters(t, pool)
	if len(dead) != 2 || dead[0].Reason != "too old" || dead[1].Reason != "too old" {
		t.Fatalf("%+v", dead)
	}
	if got := list[string](t, pool, `SELECT event FROM ledger`); !slices.Equal(got, []string{messages[2].ID}) {
		t.Errorf("effects of %v", got)
	}
	// An operator who knows that it had none can have it processed.
	if _, err := inbox.Redrive(t.Context(), pool, dead[0].ID, dead[1].ID); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is done", func() bool { return len(deadLetters(t, pool)) == 0 })
	if n := query[int](t, pool, `SELECT count(*) FROM ledger`); n != 3 {
		t.Errorf("%d effects", n)
	}
}

// TestMetrics: names and labels, and that a type made of data does not make a time series a message.
func TestMetrics(t *testing.T) {
	t.Parallel()
	pool := newLedger(t)
	registry := prometheus.NewPedanticRegistry()
	b := newBroker()
	messages := letters(30, 30)
	for i := range messages {
		messages[i].Type = fmt.Sprintf("type %d", i)
	}
	b.Publish(messages...)
	b.Publish(messages...)
	handler := func(ctx context.Context, tx pgx.Tx, m inbox.Message) error {
		if m.ID == messages[0].ID {
			return errors.New("no")
		}
		return writes("c")(ctx, tx, m)
	}
	run(t, pool, b.Source("c"), handler, inbox.Config{Registry: registry, EventTypes: 5, MaxAttempts: 3})
	run(t, pool, newBroker().Source("d"), handler, inbox.Config{Name: "d", Registry: registry}) // shares the collectors
	drained(t, b)
	sum := func(name string) (total float64, series int) {
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if f.GetName() == name {
				for _, m := range f.GetMetric() {
					series++
					total += m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount()) + m.GetGauge().GetValue()
				}
			}
		}
		return total, series
	}
	for name, want := range map[string]float64{
		"consumer_inbox_processed_total": 29, "consumer_inbox_duplicates_total": 30, "consumer_inbox_processing_duration_seconds": 29,
		"consumer_inbox_retries_total": 2, "consumer_inbox_dead_total": 1,
	} {
		got, series := sum(name)
		if got != want || series > 6 {
			t.Errorf("%s is %v in %d series, want %v", name, got, series, want)
		}
	}
	for _, name := range []string{"consumer_inbox_lag", "consumer_inbox_in_flight"} {
		if n := testutil.CollectAndCount(registry, name); n != 2 {
			t.Errorf("%s has %d series", name, n)
		}
	}
	problems, err := testutil.GatherAndLint(registry)
	if err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
}

func TestMisuse(t *testing.T) {
	t.Parallel()
	pool := newLedger(t)
	for name, c := range map[string]struct {
		cfg  inbox.Config
		says string
	}{
		"no name":         {inbox.Config{}, "Name"},
		"long name":       {inbox.Config{Name: strings.Repeat("x", 256)}, "Name"},
		"negative":        {inbox.Config{Name: "c", Batch: -1}, "negative"},
		"short retention": {inbox.Config{Name: "c", Horizon: 10 * 24 * time.Hour, Retention: 24 * time.Hour}, "shorter than the Horizon"},
		"backoff":         {inbox.Config{Name: "c", Backoff: inbox.Backoff{Initial: time.Hour, Max: time.Second}}, "Backoff"},
	} {
		if _, err := inbox.NewConsumer(pool, &stub{}, writes("c"), c.cfg); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	c, err := inbox.NewConsumer(pool, &stub{}, writes("c"), inbox.Config{Name: "c"})
	if err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Run(ended); err != nil {
		t.Error(err)
	}
	if err := c.Run(ended); !errors.Is(err, inbox.ErrRunTwice) {
		t.Errorf("run twice: %v", err)
	}
	unmigrated, err := inbox.NewConsumer(sqltest.Empty(t), &stub{}, writes("c"), inbox.Config{Name: "c", Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	if err := unmigrated.Run(t.Context()); !errors.As(err, new(*sql.SchemaError)) {
		t.Errorf("without a schema: %v", err)
	}
	if _, err := inbox.NewConsumer(pool, nil, writes("c"), inbox.Config{Name: "c"}); err == nil {
		t.Error("no source")
	}
	if _, err := inbox.NewConsumer(pool, &stub{}, nil, inbox.Config{Name: "c"}); err == nil {
		t.Error("no handler")
	}
}
