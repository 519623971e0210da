package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/codec"
	"github.com/pgsagaz/pgsagaz/outbox"
	"github.com/pgsagaz/pgsagaz/outbox/memorypub"
	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// world is a database, a broker that can be made to fail, and relays between them.
type world struct {
	*testing.T
	pool   *pgxpool.Pool
	broker *memorypub.Broker
}

func newWorld(t *testing.T) world {
	pool := sqltest.Config(t, func(c *pgxpool.Config) { c.MaxConns = 16; sql.WakeOnCommit(c) })
	return world{t, pool, memorypub.New(memorypub.Config{})}
}

var silent = slog.New(slog.DiscardHandler)

// codec is one with a key of its own.
func (w world) codec(cfg codec.Config) *codec.Codec {
	w.Helper()
	text, err := codec.NewKey("k1")
	if err != nil {
		w.Fatal(err)
	}
	if cfg.Keyring, err = codec.ParseKeys(text); err != nil {
		w.Fatal(err)
	}
	c, err := codec.New(cfg)
	if err != nil {
		w.Fatal(err)
	}
	return c
}

// relay runs one until stop is called, at the latest when the test ends. stop waits for its end.
func (w world) relay(p outbox.Publisher, cfg outbox.Config) (stop func()) {
	w.Helper()
	if cfg.Logger == nil {
		cfg.Logger = silent
		if testing.Verbose() {
			cfg.Logger = slog.New(slog.NewTextHandler(w.Output(), nil))
		}
	}
	r, err := outbox.NewRelay(w.pool, p, cfg)
	if err != nil {
		w.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(w.Context()))
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			w.Errorf("relay: %v", err)
		}
	})
	w.Cleanup(stop)
	return stop
}

func (w world) publish(messages ...outbox.Message) {
	w.Helper()
	if err := pgx.BeginFunc(w.Context(), w.pool, func(tx pgx.Tx) error { return outbox.Publish(w.Context(), tx, messages...) }); err != nil {
		w.Fatal(err)
	}
}

// until waits for something that has to come.
func (w world) until(what string, f func() bool) {
	w.Helper()
	for begun := time.Now(); !f(); time.Sleep(2 * time.Millisecond) {
		if time.Since(begun) > time.Minute {
			w.Fatalf("after a minute still not: %s", what)
		}
	}
}

func (w world) arrived(n int) {
	w.Helper()
	w.until(fmt.Sprintf("%d events arrive", n), func() bool { return w.broker.Len() >= n })
}

func message(key string, n int) outbox.Message {
	return outbox.Message{Topic: "t", Key: key, Payload: fmt.Appendf(nil, "%d", n)}
}

func payloads(events []outbox.Event) (list []string) {
	for _, e := range events {
		list = append(list, string(e.Payload))
	}
	return list
}

func query[T any](w world, statement string, args ...any) (value T) {
	w.Helper()
	if err := w.pool.QueryRow(w.Context(), statement, args...).Scan(&value); err != nil {
		w.Fatalf("%s: %v", statement, err)
	}
	return value
}

func TestRelayPublishesWhatCommitted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	saga := uuid.Must(uuid.NewV7())
	before := outbox.JSON("orders.shipped", "o-1", map[string]int{"parcel": 7})
	before.Headers["tenant"] = "a"
	before.TraceParent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	ctx := sql.WithStep(t.Context(), saga.String(), "ship")
	if err := pgx.BeginFunc(ctx, w.pool, func(tx pgx.Tx) error { return outbox.Publish(ctx, tx, before) }); err != nil {
		t.Fatal(err)
	}
	w.relay(w.broker, outbox.Config{})
	w.arrived(1)
	e := w.broker.Events("orders.shipped")[0]
	if e.Key != "o-1" || e.Type != "orders.shipped" || e.RoutingKey != "orders.shipped" || string(e.Payload) != `{"parcel":7}` || e.Headers["tenant"] != "a" ||
		e.SagaID != saga.String() || e.Step != "ship" || e.TraceParent != before.TraceParent || e.ID.Version() != 7 || e.Sequence == 0 || time.Since(e.CreatedAt) > time.Hour {
		t.Errorf("%+v", e)
	}

	failed := errors.New("no")
	err := pgx.BeginFunc(t.Context(), w.pool, func(tx pgx.Tx) error {
		return errors.Join(outbox.Publish(t.Context(), tx, message("k", 1)), failed)
	})
	if !errors.Is(err, failed) {
		t.Fatal(err)
	}
	w.publish(message("k", 2), message("k", 3), message("", 4))
	w.arrived(4)
	got := payloads(w.broker.Events("t"))
	slices.Sort(got)
	if !slices.Equal(got, []string{"2", "3", "4"}) {
		t.Errorf("%v arrived, want 2, 3 and 4: 1 was rolled back", got)
	}
}

// mustPool is a pool without WakeOnCommit.
func mustPool(t *testing.T, url string) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// TestRoutingKeyIsKept: what the writer said of the way is what the broker gets.
func TestRoutingKeyIsKept(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.publish(outbox.Message{Topic: "exchange", Key: "partition", RoutingKey: "eu.orders", Type: "order.shipped"},
		outbox.Message{Topic: "exchange", Key: "partition", Type: "order.shipped"}, outbox.Message{Topic: "exchange"})
	w.relay(w.broker, outbox.Config{})
	w.arrived(3)
	var got []string
	for _, e := range w.broker.Events("exchange") {
		got = append(got, e.Key+" "+e.RoutingKey+" "+e.Type)
	}
	slices.Sort(got)
	if want := []string{" exchange exchange", "partition eu.orders order.shipped", "partition order.shipped order.shipped"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestWhatFollowsTheAcknowledgementIsNoFailure: an event that was acknowledged, and whose cursor then could not be written, comes
// twice at most for each time; it is never blamed, and never a dead letter.
func TestWhatFollowsTheAcknowledgementIsNoFailure(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cut := func() {
		if _, err := w.pool.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
			WHERE application_name = 'pgsagaz outbox relay' AND datname = current_database()`); err != nil {
			t.Error(err)
		}
	}
	var calls atomic.Int64
	w.relay(answers{w.broker, func(errs []error) []error {
		if calls.Add(1) <= 5 {
			cut()
		}
		return errs
	}}, outbox.Config{Retry: outbox.Retry{MaxAttempts: 1}})
	w.publish(message("a", 1), message("a", 2))
	w.until("the relay gets to write its cursor", func() bool {
		s, err := outbox.GetStatus(t.Context(), w.pool)
		return err == nil && s.Pending == 0
	})
	if n := w.broker.Len(); n < 2 || n > 12 {
		t.Errorf("2 events arrived %d times in all", n)
	}
	if n := query[int](w, "SELECT (SELECT count(*) FROM pgsagaz.outbox_dead) + (SELECT count(*) FROM pgsagaz.outbox_stuck)"); n > 0 {
		t.Errorf("%d events are blamed", n)
	}
}

// TestAnIdleRelayWritesNothing: no row changes while there is nothing to publish, but for its heartbeat.
func TestAnIdleRelayWritesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.relay(w.broker, outbox.Config{})
	w.publish(message("a", 1))
	w.arrived(1)
	w.until("its cursor is written", func() bool {
		s, err := outbox.GetStatus(t.Context(), w.pool)
		return err == nil && s.Pending == 0
	})
	cursor := func() string {
		return query[string](w, "SELECT string_agg(ctid::text || prev::text, ' ') FROM pgsagaz.outbox_cursor")
	}
	before := cursor()
	time.Sleep(500 * time.Millisecond)
	if after := cursor(); after != before {
		t.Errorf("an idle relay has written its cursor: %s, before %s", after, before)
	}
}
