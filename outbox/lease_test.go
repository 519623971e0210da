package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/outbox"
	"github.com/pgsagaz/pgsagaz/outbox/memorypub"
	"github.com/pgsagaz/pgsagaz/outbox/outboxtest"
	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// shares are how many buckets each relay has, the fewest first; nobody's are not counted.
func shares(w world) (list []int) {
	w.Helper()
	rows, err := w.pool.Query(w.Context(), `SELECT count(*)::int FROM pgsagaz.outbox_bucket b JOIN pgsagaz.outbox_cursor c ON c.id = b.cursor_id
		WHERE c.epoch IS NOT NULL GROUP BY c.epoch ORDER BY 1`)
	if err != nil {
		w.Fatal(err)
	}
	if list, err = pgx.CollectRows(rows, pgx.RowTo[int]); err != nil {
		w.Fatal(err)
	}
	return list
}

// TestRelaysShare: joining, leaving and dying relays leave every bucket with one, and each with its share.
func TestRelaysShare(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := 0
	flow := func() { // through all of it
		for range 10 {
			w.publish(message(fmt.Sprint(n), n))
			n++
		}
		w.arrived(n)
	}
	stop := make([]func(), 3)
	for i, want := range [][]int{{256}, {128, 128}, {85, 85, 86}} {
		stop[i] = w.relay(w.broker, outbox.Config{Lease: time.Second})
		w.until(fmt.Sprintf("relays have %v buckets", want), func() bool { return slices.Equal(shares(w), want) })
		flow()
	}
	stop[1]()
	w.until("two share again", func() bool { return slices.Equal(shares(w), []int{128, 128}) })
	flow()
	w.until("cursors are put together", func() bool {
		flow()
		return query[int](w, "SELECT count(*) FROM pgsagaz.outbox_cursor") == 2
	})
	if w.broker.Len() != n {
		t.Errorf("%d events arrived, want %d: nobody died, so that nothing has to come twice", w.broker.Len(), n)
	}
	stop[0]()
	stop[2]()
	if got := shares(w); len(got) > 0 || query[int](w, "SELECT count(*) FROM pgsagaz.outbox_relay") != 0 {
		t.Errorf("relays that left still have %v", got)
	}
}

// TestARelayJoinsWhileATopicIsDown: what is for other topics goes on, of whatever bucket, and the relay that joined gets its share when nothing
// waits any more.
func TestARelayJoinsWhileATopicIsDown(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var down atomic.Bool
	down.Store(true)
	broker := &outboxtest.Faulty{Publisher: w.broker, Away: func(e outbox.Event) bool { return e.Topic == "down" && down.Load() }}
	n := 0
	flow := func() {
		for range 20 {
			w.publish(message(fmt.Sprint(n), n))
			n++
		}
		w.arrived(n)
	}
	w.relay(broker, outbox.Config{Lease: time.Second})
	m := message("k", 1)
	m.Topic = "down"
	w.publish(m)
	flow()
	w.relay(broker, outbox.Config{Lease: time.Second})
	for begun := time.Now(); time.Since(begun) < 2*time.Second; { // several heartbeats of both
		flow()
	}
	down.Store(false)
	n++
	w.arrived(n)
	w.until("both share", func() bool {
		flow()
		return slices.Equal(shares(w), []int{128, 128})
	})
}

// TestTakeOver: what a dead relay had is published by others when its lease has ended, and what the dead does after that
// counts for nothing.
func TestTakeOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.publish(message("a", 1))
	id := query[int64](w, "SELECT min(id) FROM pgsagaz.outbox")
	// A relay that took everything and died at once.
	var epoch int64
	if err := w.pool.QueryRow(t.Context(), "INSERT INTO pgsagaz.outbox_relay (name, lease) VALUES ('dead', '1 second') RETURNING epoch").Scan(&epoch); err != nil {
		t.Fatal(err)
	}
	if n := query[int](w, "SELECT pgsagaz.outbox_take($1, 256)", epoch); n != 256 {
		t.Fatalf("took %d", n)
	}
	cursor := query[int64](w, "SELECT id FROM pgsagaz.outbox_cursor")
	w.relay(w.broker, outbox.Config{Lease: time.Second})
	w.arrived(1)

	for name, statement := range map[string]string{
		"releases": "SELECT true WHERE pgsagaz.outbox_release($1, $2, '{1,2}', '3:3:', NULL, 0)",
		"merges":   "SELECT true WHERE pgsagaz.outbox_merge($1, $2, $2)",
		"beats":    "SELECT true FROM pgsagaz.outbox_beat($1, 0, 0) WHERE $2::bigint > 0",
	} {
		var ok bool
		if err := w.pool.QueryRow(t.Context(), statement, epoch, cursor).Scan(&ok); !errors.Is(err, pgx.ErrNoRows) {
			t.Errorf("a dead relay %s: %v", name, err)
		}
	}
	if tag, err := w.pool.Exec(t.Context(), sql.OutboxCheckpoint, cursor, epoch, "3:3:", "", 99); err != nil || tag.RowsAffected() != 0 {
		t.Errorf("a dead relay writes a cursor: %v, %v", tag, err)
	}
	if tag, err := w.pool.Exec(t.Context(), sql.OutboxStuckPut, epoch, []int64{id}); err != nil || tag.RowsAffected() != 0 {
		t.Errorf("a dead relay takes a message out of the stream: %v, %v", tag, err)
	}
	if _, err := w.pool.Exec(t.Context(), "SELECT pgsagaz.outbox_take($1, 1)", epoch); err == nil {
		// There was nothing free to take; with something it may not.
		if _, err := w.pool.Exec(t.Context(), "UPDATE pgsagaz.outbox_cursor SET epoch = $1", epoch); err == nil {
			t.Error("a dead relay has buckets again")
		}
	}
}

// TestADeadRelayJudgesNobody: what a relay learns of rejected events after its lease has ended is not recorded, whatever it is.
func TestADeadRelayJudgesNobody(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	broker := &outboxtest.Faulty{Publisher: w.broker, Poison: (&poison{}).reject}
	w.relay(broker, outbox.Config{Retry: outbox.Retry{MaxAttempts: 1000, Initial: time.Hour, Max: time.Hour}})
	w.publish(bad("a"))
	const row = "SELECT coalesce(string_agg(format('%s %s %s %s', attempts, next_at, error, done), ', '), '') FROM pgsagaz.outbox_stuck WHERE attempts = 1"
	w.until("the key is set aside", func() bool { return query[string](w, row) != "" })
	before, id := query[string](w, row), query[int64](w, "SELECT id FROM pgsagaz.outbox_stuck")
	var dead int64
	if err := w.pool.QueryRow(t.Context(), "INSERT INTO pgsagaz.outbox_relay (name, lease) VALUES ('dead', '1 second') RETURNING epoch").Scan(&dead); err != nil {
		t.Fatal(err)
	}
	for what, call := range map[string]func() (pgconn.CommandTag, error){
		"puts off": func() (pgconn.CommandTag, error) {
			return w.pool.Exec(t.Context(), sql.OutboxStuckRetry, dead, id, 7, 1.0, "late")
		},
		"gives up": func() (pgconn.CommandTag, error) {
			return w.pool.Exec(t.Context(), sql.OutboxStuckDead, dead, id, 7, "late", false)
		},
		"is done": func() (pgconn.CommandTag, error) {
			return w.pool.Exec(t.Context(), sql.OutboxStuckDone, dead, []int64{id})
		},
		"sets aside": func() (pgconn.CommandTag, error) {
			return w.pool.Exec(t.Context(), sql.OutboxStuckPut, dead, []int64{id})
		},
	} {
		if tag, err := call(); err != nil || tag.RowsAffected() != 0 {
			t.Errorf("who has no lease %s: %v, %v", what, tag, err)
		}
	}
	if after := query[string](w, row); after != before || query[int](w, "SELECT count(*) FROM pgsagaz.outbox_dead") != 0 {
		t.Errorf("the event is recorded as %s, was %s", after, before)
	}
}

// TestALostLeaseIsNoticed: a relay whose beats do not get through stops by itself, and comes back.
func TestALostLeaseIsNoticed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.relay(w.broker, outbox.Config{Lease: 500 * time.Millisecond})
	w.publish(message("a", 1))
	w.arrived(1)
	before := query[int64](w, "SELECT max(epoch) FROM pgsagaz.outbox_relay")
	// Its row is locked for longer than its lease.
	if err := pgx.BeginFunc(t.Context(), w.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(t.Context(), "SELECT FROM pgsagaz.outbox_relay FOR UPDATE"); err != nil {
			return err
		}
		time.Sleep(900 * time.Millisecond)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	w.until("the relay has joined anew", func() bool {
		return query[int64](w, "SELECT coalesce(max(epoch), 0) FROM pgsagaz.outbox_relay") > before
	})
	w.publish(message("a", 2))
	w.arrived(2)
}

// TestABusyPoolStopsNoRelay: the program's own transactions may take every connection of the pool, for longer than the lease.
func TestABusyPoolStopsNoRelay(t *testing.T) {
	t.Parallel()
	url := sqltest.URL(t)
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	config.MaxConns = 1
	busy, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(busy.Close)
	w := world{t, busy, memorypub.New(memorypub.Config{})}
	stop := w.relay(w.broker, outbox.Config{Lease: 500 * time.Millisecond})
	conn, err := busy.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w.pool = mustPool(t, url)
	w.until("the relay has joined", func() bool { return len(shares(w)) == 1 })
	epoch := query[int64](w, "SELECT max(epoch) FROM pgsagaz.outbox_relay")
	time.Sleep(time.Second)
	w.publish(message("a", 1))
	w.arrived(1)
	if now := query[int64](w, "SELECT max(epoch) FROM pgsagaz.outbox_relay"); now != epoch {
		t.Errorf("the relay was taken for dead: its epoch is %d, was %d", now, epoch)
	}
	conn.Release()
	stop()
}

// TestABacklogIsResumed: one that is larger than many pages, and was begun by relays that left in the midst of it, arrives
// once and in order.
func TestABacklogIsResumed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const n = 3000
	for i := range 30 {
		var batch []outbox.Message
		for j := range n / 30 {
			batch = append(batch, message(fmt.Sprint(j%7), i*n/30+j))
		}
		w.publish(batch...)
	}
	slow := &outboxtest.Faulty{Publisher: w.broker, Next: func([]outbox.Event) outboxtest.Fault { return outboxtest.Slow }}
	for w.broker.Len() < n/2 {
		before := w.broker.Len()
		stop := w.relay(slow, outbox.Config{Batch: 10, Window: 40})
		w.arrived(before + 200)
		stop()
	}
	if query[int](w, "SELECT count(*) FROM pgsagaz.outbox_cursor WHERE cur IS NOT NULL") == 0 {
		t.Error("no cursor stands in the midst of a batch: this tests nothing")
	}
	w.relay(slow, outbox.Config{Batch: 10, Window: 40})
	w.relay(w.broker, outbox.Config{})
	w.arrived(n)
	time.Sleep(50 * time.Millisecond)
	if got := w.broker.Len(); got != n {
		t.Errorf("%d events arrived, want %d: every relay left in peace", got, n)
	}
	for key := range 7 {
		last := -1
		for _, p := range ofKey(w.broker.Events("t"), fmt.Sprint(key)) {
			at, _ := strconv.Atoi(p)
			if at <= last {
				t.Fatalf("key %d: %d arrived after %d", key, at, last)
			}
			last = at
		}
	}
}

// exclusive fails the test if two calls have events of one bucket at the same time; keys are their own buckets here.
type exclusive struct {
	outbox.Publisher
	t     *testing.T
	mu    sync.Mutex
	under map[string]bool
	most  atomic.Int64
	now   atomic.Int64
}

func (x *exclusive) Publish(ctx context.Context, events []outbox.Event) []error {
	keys := map[string]bool{}
	for _, e := range events {
		keys[e.Key] = true
	}
	x.mu.Lock()
	for k := range keys {
		if x.under[k] {
			x.t.Errorf("two calls have events of key %s at the same time", k)
		}
		x.under[k] = true
	}
	x.most.Store(max(x.most.Load(), x.now.Add(1)))
	x.mu.Unlock()
	time.Sleep(time.Millisecond)
	errs := x.Publisher.Publish(ctx, events)
	x.mu.Lock()
	defer x.mu.Unlock()
	x.now.Add(-1)
	for k := range keys {
		delete(x.under, k)
	}
	return errs
}

// TestOneCallABucket: of a bucket one call is under way at most, and those of different buckets run at once.
func TestOneCallABucket(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	x := &exclusive{Publisher: w.broker, t: t, under: map[string]bool{}}
	for i := range 20 {
		var batch []outbox.Message
		for j := range 100 {
			batch = append(batch, message(fmt.Sprint(j%50), i*100+j))
		}
		w.publish(batch...)
	}
	w.relay(x, outbox.Config{Batch: 20})
	w.relay(x, outbox.Config{Batch: 20})
	w.arrived(2000)
	if x.most.Load() < 2 {
		t.Error("no two calls were ever under way at once")
	}
}

// TestAnotherCluster: where transaction ids start anew, all that is retained is published again, and nothing is lost.
func TestAnotherCluster(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	stop := w.relay(w.broker, outbox.Config{})
	w.publish(message("a", 1), message("a", 2))
	w.arrived(2)
	stop()
	w.publish(message("a", 3))
	// As in a cluster that is new: what cursors say lies in the future, and so does the row.
	if _, err := w.pool.Exec(t.Context(), `UPDATE pgsagaz.outbox_state SET system_identifier = 1`); err != nil {
		t.Fatal(err)
	}
	if _, err := w.pool.Exec(t.Context(), `UPDATE pgsagaz.outbox_cursor SET prev = '9000000000:9000000000:'`); err != nil {
		t.Fatal(err)
	}
	if _, err := w.pool.Exec(t.Context(), `UPDATE pgsagaz.outbox SET txid = (txid::text::bigint + 5000000000)::text::xid8`); err != nil {
		t.Fatal(err)
	}
	w.relay(w.broker, outbox.Config{})
	w.arrived(5)
	if got := ofKey(w.broker.Events("t"), "a"); !slices.Equal(got, []string{"1", "2", "1", "2", "3"}) {
		t.Errorf("%v arrived", got)
	}
	w.publish(message("a", 4))
	w.arrived(6)
}

// TestPostgresCrashes: an immediate stop under a running relay and under writers, some of whose transactions roll back
// and some of which do not wait for the disk. Transaction ids are handed out again afterwards, and a snapshot from before would
// take new messages for old ones.
func TestPostgresCrashes(t *testing.T) {
	t.Parallel()
	server := sqltest.Server(t)
	config, err := pgxpool.ParseConfig(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	if err := sql.Migrate(t.Context(), config.ConnConfig, &sql.MigrateOptions{Logger: silent}); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	w.pool = connect(t, server.URL())
	if _, err := w.pool.Exec(t.Context(), truth); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		w.relay(w.broker, outbox.Config{Lease: time.Second, RotateRows: 300})
	}
	for round := range 4 {
		var writers sync.WaitGroup
		crashing, crash := context.WithCancel(t.Context())
		var committed atomic.Int64
		for i := range 4 {
			writers.Go(func() {
				for crashing.Err() == nil {
					// A writer's commit may have an unknown outcome: truth is written with it, and knows.
					if err := writer(crashing, w.pool, i%2 == 0, &committed, 1<<60); err != nil && crashing.Err() == nil {
						time.Sleep(5 * time.Millisecond)
					}
				}
			})
			writers.Go(func() { // burns transaction ids that leave nothing on the disk
				for crashing.Err() == nil {
					_ = pgx.BeginFunc(crashing, w.pool, func(tx pgx.Tx) error {
						_, _ = tx.Exec(crashing, "SET LOCAL synchronous_commit = off; SELECT pg_current_xact_id()")
						return errors.New("rolled back")
					})
				}
			})
		}
		want := int64(150 * (round + 1))
		w.until("something has been published", func() bool { return committed.Load() > want && w.broker.Len() > 0 })
		if err := server.Crash(); err != nil {
			t.Fatal(err)
		}
		crash()
		writers.Wait()
		if err := server.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.until("the database is back", func() bool { return w.pool.Ping(t.Context()) == nil })
	}
	w.compare()
	if found, err := sql.Check(t.Context(), w.pool); err != nil || len(found) > 0 {
		t.Errorf("%v, %v", found, err)
	}
}
