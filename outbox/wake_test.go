package outbox_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"

	"github.com/pgsagaz/pgsagaz/outbox"
	"github.com/pgsagaz/pgsagaz/outbox/memorypub"
	"github.com/pgsagaz/pgsagaz/outbox/outboxtest"
	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// ages is a poll so slow that only a wake can explain an arrival.
const ages = time.Hour

// TestWakes: each way of committing wakes a relay, in this process or another.
func TestWakes(t *testing.T) {
	t.Parallel()
	url := sqltest.URL(t)
	with, bare := connect(t, url), mustPool(t, url)
	for name, c := range map[string]struct {
		relay   string // the pool of the relay: "" shares that of the writer
		publish func(m outbox.Message) error
	}{
		"in process": {publish: func(m outbox.Message) error {
			return pgx.BeginFunc(t.Context(), with, func(tx pgx.Tx) error { return outbox.Publish(t.Context(), tx, m) })
		}},
		"WakeOnCommit": {relay: "other", publish: func(m outbox.Message) error {
			return pgx.BeginFunc(t.Context(), with, func(tx pgx.Tx) error { return outbox.Publish(t.Context(), tx, m) })
		}},
		"InTx": {relay: "other", publish: func(m outbox.Message) error {
			return sql.InTx(t.Context(), bare, func(tx pgx.Tx) error { return outbox.Publish(t.Context(), tx, m) })
		}},
		"SQL": {relay: "other", publish: func(m outbox.Message) error {
			_, err := bare.Exec(t.Context(), "SELECT pgsagaz.publish($1, $2, $3, p_wake => true)", m.Topic, m.Payload, m.Key)
			return err
		}},
		"in a batch with its COMMIT": {relay: "other", publish: func(m outbox.Message) error {
			conn, err := with.Acquire(t.Context())
			if err != nil {
				return err
			}
			defer conn.Release()
			tx, err := conn.Begin(t.Context())
			if err != nil {
				return err
			}
			if err := outbox.Publish(t.Context(), tx, m); err != nil {
				return err
			}
			b := &pgx.Batch{}
			b.Queue("SELECT 1")
			b.Queue("COMMIT")
			return conn.SendBatch(t.Context(), b).Close()
		}},
	} {
		t.Run(name, func(t *testing.T) {
			w := world{t, bare, memorypub.New(memorypub.Config{})}
			if c.relay == "" {
				w.pool = with
			}
			stop := w.relay(w.broker, outbox.Config{Poll: ages})
			w.until("the relay has joined", func() bool { return len(shares(w)) == 1 })
			for i := range 5 {
				// The first may have come before LISTEN, and is then found by what follows it.
				if err := c.publish(message("k", i)); err != nil {
					t.Fatal(err)
				}
				w.until("it arrives", func() bool { return w.broker.Len() > i })
			}
			stop()
		})
	}
}

// TestNoNotify: without any wake all arrives, by the poll; what was missed is counted, and said once.
func TestNoNotify(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.pool = sqltest.New(t)
	var log bytes.Buffer
	registry := prometheus.NewRegistry()
	stop := w.relay(w.broker, outbox.Config{NoListen: true, Poll: 5 * time.Millisecond, Registry: registry, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	for i := range 5 {
		w.publish(message("k", i))
		w.arrived(i + 1)
		time.Sleep(150 * time.Millisecond) // until it no longer polls fast
	}
	if n := counter(t, registry, "outbox_wakes_missed_total", ""); n < 1 {
		t.Error("no wake is missed")
	}
	stop()
	if n := strings.Count(log.String(), "sql.WakeOnCommit"); n != 1 {
		t.Errorf("it is said %d times how to wake relays, want once:\n%s", n, &log)
	}
}

// TestOptimisticIsOff: then only the poll publishes.
func TestOptimisticIsOff(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	registry := prometheus.NewRegistry()
	w.relay(w.broker, outbox.Config{Optimistic: &outbox.Optimistic{}, Registry: registry})
	for i := range 3 {
		w.publish(message("k", i))
		w.arrived(i + 1)
	}
	if n := counter(t, registry, "outbox_optimistic_send_attempts_total", ""); n != 0 {
		t.Errorf("%v attempts right after a commit", n)
	}
}

// TestOptimisticFails: on failure or timeout events stay, and leave with the poll; the metrics tell.
func TestOptimisticFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var mu sync.Mutex
	faults := []outboxtest.Fault{outboxtest.None, outboxtest.FailBefore, outboxtest.None, outboxtest.Hang}
	registry := prometheus.NewRegistry()
	broker := &outboxtest.Faulty{Publisher: w.broker, Poison: (&poison{}).reject, Next: func([]outbox.Event) outboxtest.Fault {
		mu.Lock()
		defer mu.Unlock()
		if len(faults) == 0 {
			return outboxtest.None
		}
		f := faults[0]
		faults = faults[1:]
		return f
	}}
	w.relay(broker, outbox.Config{Optimistic: &outbox.Optimistic{Enabled: true, Timeout: 20 * time.Millisecond}, Registry: registry, Retry: quick, Poll: ages})
	w.until("the relay has joined", func() bool { return len(shares(w)) == 1 })
	// It polls fast for 100 ms after it has found something; then only a wake can have it read.
	calm := func() { time.Sleep(200 * time.Millisecond) }
	for i := range 3 {
		calm()
		w.publish(message("k", i))
		w.arrived(i + 1)
	}
	calm()
	w.publish(bad("k"))
	w.until("it is a dead letter", func() bool { return counter(t, registry, "outbox_dead_letter_events_total", "t") == 1 })
	for _, c := range []struct {
		metric, label string
		want          float64
	}{
		{"outbox_optimistic_send_attempts_total", "", 4},
		{"outbox_optimistic_send_success_total", "", 1},
		{"outbox_optimistic_send_failures_total", "broker", 1},
		{"outbox_optimistic_send_failures_total", "timeout", 1},
		{"outbox_optimistic_send_failures_total", "rejected", 1},
		{"outbox_published_events_total", "t", 3},
		{"outbox_failed_events_total", "rejected", 3},
		{"outbox_failed_events_total", "broker", 2},
		{"outbox_retry_attempts_total", "", 2},
	} {
		if got := counter(t, registry, c.metric, c.label); got != c.want {
			t.Errorf("%s{%s} is %v, want %v", c.metric, c.label, got, c.want)
		}
	}
	if n, err := testutil.GatherAndCount(registry, "outbox_optimistic_send_latency_seconds", "outbox_publish_duration_seconds", "outbox_publish_batch_size", "outbox_batch_size",
		"outbox_relay_pending_events", "outbox_processing_events_total", "outbox_lag_seconds", "outbox_stuck_keys", "outbox_buckets",
		"outbox_batch_processed_total", "outbox_buckets_taken_total", "outbox_leases_lost_total"); err != nil || n != 12 {
		t.Errorf("%d of 12 metrics are there, %v", n, err)
	}
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 1 { // one name is the seed's: a gauge that ends in _total
		t.Errorf("%v, %v", problems, err)
	}
}

// counter is the sum of a counter or gauge over the series that have a label of that value; "": over all.
func counter(t *testing.T, registry *prometheus.Registry, name, label string) float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			if label == "" || slices.ContainsFunc(m.GetLabel(), func(p *dto.LabelPair) bool { return p.GetValue() == label }) {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

// TestAForgedNotify costs a read and nothing else.
func TestAForgedNotify(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.relay(w.broker, outbox.Config{})
	w.until("the relay has joined", func() bool { return len(shares(w)) == 1 })
	for _, payload := range []string{"", "x", "-1", "256", "99999999999999999999", "1,2,", "1;DROP TABLE x", strings.Repeat("7,", 3000)} {
		if _, err := w.pool.Exec(t.Context(), "SELECT pg_notify('pgsagaz.outbox', $1)", payload); err != nil {
			t.Fatal(err)
		}
	}
	w.publish(message("k", 1))
	w.arrived(1)
}

// TestListenerReconnects: what commits while nobody listens is found when somebody does again.
func TestListenerReconnects(t *testing.T) {
	t.Parallel()
	url := sqltest.URL(t)
	w := world{t, mustPool(t, url), memorypub.New(memorypub.Config{})}
	writer := connect(t, url)
	w.relay(w.broker, outbox.Config{Poll: ages})
	w.until("it listens", func() bool { return listeners(w) == 1 })
	if _, err := w.pool.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE application_name = 'pgsagaz outbox listen' AND datname = current_database()`); err != nil {
		t.Fatal(err)
	}
	if err := pgx.BeginFunc(t.Context(), writer, func(tx pgx.Tx) error { return outbox.Publish(t.Context(), tx, message("k", 1)) }); err != nil {
		t.Fatal(err)
	}
	w.arrived(1)
}

// deaf is a connection that may die without a word: nothing of what is sent arrives any more, and nothing is heard.
type deaf struct {
	net.Conn
	listens atomic.Bool
	died    *atomic.Bool // all of them that listen
}

func (d *deaf) dead() bool { return d.listens.Load() && d.died.Load() }

func (d *deaf) Write(b []byte) (int, error) {
	if bytes.Contains(b, []byte(sql.OutboxListen)) {
		d.listens.Store(true)
	}
	if d.dead() {
		return len(b), nil
	}
	return d.Conn.Write(b)
}

func (d *deaf) Read(b []byte) (int, error) {
	for {
		n, err := d.Conn.Read(b)
		if err != nil || !d.dead() {
			return n, err
		}
	}
}

// TestASilentListenerIsNoticed: a connection that no wake comes through any more, though nothing ever closed it, is found out and made anew.
func TestASilentListenerIsNoticed(t *testing.T) {
	t.Parallel()
	url := sqltest.URL(t)
	w := world{t, mustPool(t, url), memorypub.New(memorypub.Config{})}
	writer := connect(t, url)
	direct := w.pool.Config().ConnConfig
	var died atomic.Bool
	var dials atomic.Int64
	direct.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		d := &deaf{Conn: conn, died: &died}
		if died.Load() {
			dials.Add(1)
			d.died = new(atomic.Bool) // what is dialled later is well
		}
		return d, err
	}
	w.relay(w.broker, outbox.Config{Poll: ages, Direct: direct})
	w.until("it listens", func() bool { return listeners(w) == 1 })
	publish := func(n int) {
		if err := pgx.BeginFunc(t.Context(), writer, func(tx pgx.Tx) error { return outbox.Publish(t.Context(), tx, message("k", n)) }); err != nil {
			t.Fatal(err)
		}
	}
	publish(1)
	w.arrived(1)
	time.Sleep(200 * time.Millisecond) // until it no longer polls fast
	died.Store(true)
	publish(2)
	w.arrived(2)
	if dials.Load() == 0 {
		t.Error("no connection was made anew: this tests nothing")
	}
}

func listeners(w world) int {
	return query[int](w, `SELECT count(*) FROM pg_stat_activity
		WHERE application_name = 'pgsagaz outbox listen' AND datname = current_database() AND query LIKE 'LISTEN%'`)
}

// TestARolledBackTransactionWakesNobody, and a savepoint that is rolled back does not hinder the rest.
func TestARolledBackTransactionWakesNobody(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	config := w.pool.Config()
	var mu sync.Mutex
	var woken []string
	remove, ok := sql.OnCommit(config, func(queues []string) []string {
		mu.Lock()
		defer mu.Unlock()
		woken = append(woken, queues...)
		return nil
	})
	if !ok {
		t.Fatal("the pool has no WakeOnCommit")
	}
	no := errors.New("no")
	if err := pgx.BeginFunc(t.Context(), w.pool, func(tx pgx.Tx) error {
		return errors.Join(outbox.Publish(t.Context(), tx, message("k", 1)), no)
	}); !errors.Is(err, no) {
		t.Fatal(err)
	}
	if len(woken) > 0 {
		t.Errorf("a rolled back transaction wakes %v", woken)
	}
	if err := pgx.BeginFunc(t.Context(), w.pool, func(tx pgx.Tx) error {
		if err := outbox.Publish(t.Context(), tx, message("k", 2), message("k", 3)); err != nil {
			return err
		}
		_ = pgx.BeginFunc(t.Context(), tx, func(pgx.Tx) error { return no })
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if len(woken) != 1 || !strings.HasPrefix(woken[0], sql.OutboxQueue) {
		t.Errorf("a commit wakes %v, want one bucket", woken)
	}
	remove()
	w.publish(message("k", 4))
	if len(woken) != 1 {
		t.Errorf("who has gone is told of %v", woken)
	}
	if _, ok := sql.OnCommit(sqltest.New(t).Config(), func(q []string) []string { return q }); ok {
		t.Error("a pool without WakeOnCommit claims to tell of commits")
	}
}

// TestNoNotifyInsideATransaction: a writer's commit must not wait for those of all others on the server, which is what
// a NOTIFY in it means.
func TestNoNotifyInsideATransaction(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t) // nobody wakes after its commits
	listener, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Release()
	if _, err := listener.Exec(t.Context(), sql.OutboxListen); err != nil {
		t.Fatal(err)
	}
	w := world{t, pool, memorypub.New(memorypub.Config{})}
	w.publish(message("k", 1))
	for _, statement := range []string{"SELECT pgsagaz.publish('t', 'x', 'k')", "SELECT pg_notify('pgsagaz.outbox', 'the first')"} {
		if _, err := pool.Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	n, err := listener.Conn().WaitForNotification(t.Context())
	if err != nil || n.Payload != "the first" {
		t.Errorf("%+v, %v: a transaction that published has notified", n, err)
	}
}
