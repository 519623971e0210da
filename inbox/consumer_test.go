package inbox_test

import (
	"context"
	"errors"
	"fmt"
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
