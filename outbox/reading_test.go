package outbox_test

import (
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/outbox"
	"github.com/pgsagaz/pgsagaz/outbox/outboxtest"
	"github.com/pgsagaz/pgsagaz/sql"
)

// reader reads the stream as a session does, a statement at a time.
type reader struct {
	world
	prev string // the snapshot that was read up to
}

func (r *reader) next() (got []string) {
	r.Helper()
	all := make([]int16, 256)
	for i := range all {
		all[i] = int16(i)
	}
	if err := pgx.BeginTxFunc(r.Context(), r.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead}, func(tx pgx.Tx) error {
		prev := r.prev
		if err := tx.QueryRow(r.Context(), sql.OutboxSnapshot).Scan(&r.prev, nil, nil); err != nil {
			return err
		}
		rows, err := tx.Query(r.Context(), sql.OutboxRead, all, prev, 100)
		if err != nil {
			return err
		}
		var payload []byte
		_, err = pgx.ForEachRow(rows, []any{nil, nil, nil, nil, nil, nil, nil, &payload, nil, nil, nil, nil, nil, nil}, func() error {
			got = append(got, string(payload))
			return nil
		})
		return err
	}); err != nil {
		r.Fatal(err)
	}
	return got
}

func (r *reader) begin() pgx.Tx {
	r.Helper()
	tx, err := r.pool.Begin(r.Context())
	if err != nil {
		r.Fatal(err)
	}
	return tx
}

func (r *reader) do(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

func (r *reader) want(got []string, want ...string) {
	r.Helper()
	if !slices.Equal(got, want) {
		r.Errorf("read %q, want %q", got, want)
	}
}

// TestWhatCommitsLateIsRead walks through what a cursor that is a number gets wrong. A draws the lower id and the older transaction,
// and commits last. Neither may B have to wait for A, nor may A be passed over.
func TestWhatCommitsLateIsRead(t *testing.T) {
	t.Parallel()
	r := &reader{world: newWorld(t), prev: "3:3:"}
	a, b := r.begin(), r.begin()
	r.do(outbox.Publish(t.Context(), a, message("a", 1)))
	r.do(outbox.Publish(t.Context(), b, message("b", 2)))
	r.want(r.next())
	r.do(b.Commit(t.Context()))
	r.want(r.next(), "2")
	r.publish(message("c", 3))
	r.want(r.next(), "3")
	r.do(a.Commit(t.Context()))
	r.want(r.next(), "1")
	r.want(r.next())

	// A transaction that rolls back is never read, however it was looked for.
	gone := r.begin()
	r.do(outbox.Publish(t.Context(), gone, message("d", 4)))
	r.want(r.next())
	r.do(gone.Rollback(t.Context()))
	r.want(r.next())
}

// TestOrderIsThatOfTheLock: of two writers of one aggregate the one that has its row first comes first, although the other's
// transaction is older.
func TestOrderIsThatOfTheLock(t *testing.T) {
	t.Parallel()
	r := &reader{world: newWorld(t), prev: "3:3:"}
	r.exec("CREATE TABLE aggregate (n int)")
	r.exec("INSERT INTO aggregate VALUES (0)")
	older, younger := r.begin(), r.begin()
	if _, err := older.Exec(t.Context(), "SELECT pg_current_xact_id()"); err != nil {
		t.Fatal(err)
	}
	for i, tx := range []pgx.Tx{younger, older} {
		if _, err := tx.Exec(t.Context(), "UPDATE aggregate SET n = n + 1"); err != nil {
			t.Fatal(err)
		}
		r.do(outbox.Publish(t.Context(), tx, message("k", i+1)))
		r.do(tx.Commit(t.Context()))
	}
	r.want(r.next(), "1", "2")
}

// TestTheCursorWaitsForTheBroker: what the broker has not taken lies before the cursor, also when the relay has ended in peace.
func TestTheCursorWaitsForTheBroker(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	broker := &outboxtest.Faulty{Publisher: w.broker}
	broker.Down()
	stop := w.relay(broker, outbox.Config{})
	w.publish(message("a", 1), message("b", 2))
	w.until("calls have failed", func() bool { return broker.Calls() > 3 })
	stop()
	if n := query[int](w, `SELECT count(*) FROM pgsagaz.outbox o JOIN pgsagaz.outbox_bucket b ON b.bucket = o.bucket JOIN pgsagaz.outbox_cursor c ON c.id = b.cursor_id
		WHERE pgsagaz.outbox_consumed(o.txid, o.id, c.prev, c.cur, c.last_id)`); n > 0 {
		t.Fatalf("%d messages lie behind the cursor that the broker has not taken", n)
	}
	broker.Up()
	w.relay(broker, outbox.Config{})
	w.arrived(2)
}

// TestAnOutageKeepsTheOrder: what failed goes before what came after it, and is not to blame.
func TestAnOutageKeepsTheOrder(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	calls := 0 // one caller
	broker := &outboxtest.Faulty{Publisher: w.broker, Next: func([]outbox.Event) outboxtest.Fault {
		if calls++; calls <= 2 {
			return outboxtest.FailBefore
		}
		return outboxtest.None
	}}
	var messages []outbox.Message
	var want []string
	for _, n := range []string{"1", "2", "3", "4", "5", "6"} {
		m := message("k", 0)
		m.Payload = []byte(n)
		messages, want = append(messages, m), append(want, n)
	}
	w.publish(messages...)
	w.relay(broker, outbox.Config{Parallel: 1, Batch: 2, Retry: outbox.Retry{MaxAttempts: 1}})
	blamed := func() int {
		return query[int](w, "SELECT (SELECT count(*) FROM pgsagaz.outbox_dead) + (SELECT count(*) FROM pgsagaz.outbox_stuck)")
	}
	w.until("all have arrived", func() bool { return w.broker.Len() >= len(want) || blamed() > 0 })
	if n := blamed(); n > 0 {
		t.Fatalf("%d events are blamed for the outage", n)
	}
	if got := payloads(w.broker.Events("t")); !slices.Equal(got, want) {
		t.Errorf("%v arrived, want %v", got, want)
	}
}

// TestTheDeadAreBuried: whoever beats takes away from a relay whose lease has ended what it had, also if that still lives. What such a
// one writes then counts for nothing, although nobody has taken its buckets yet.
func TestTheDeadAreBuried(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	join := func(name string) int64 {
		return query[int64](w, "INSERT INTO pgsagaz.outbox_relay (name, lease) VALUES ($1, '1 minute') RETURNING epoch", name)
	}
	dead, alive := join("dead"), join("alive")
	if n := query[int](w, "SELECT pgsagaz.outbox_take($1, 256)", dead); n != 256 {
		t.Fatalf("took %d", n)
	}
	cursor := query[int64](w, "SELECT id FROM pgsagaz.outbox_cursor")
	free := func() int { return query[int](w, "SELECT free FROM pgsagaz.outbox_beat($1, 0, 0)", alive) }
	if n := free(); n != 0 {
		t.Errorf("%d buckets of a relay that lives are free", n)
	}
	w.exec("UPDATE pgsagaz.outbox_relay SET beat_at = now() - interval '2 minutes' WHERE epoch = $1", dead)
	if n := free(); n != 256 {
		t.Errorf("%d buckets of a dead relay are free", n)
	}
	if n := query[int](w, "SELECT count(*) FROM pgsagaz.outbox_beat($1, 0, 0)", dead); n != 0 {
		t.Error("a dead relay beats")
	}
	if tag, err := w.pool.Exec(t.Context(), sql.OutboxCheckpoint, cursor, dead, "5:5:", "", 99); err != nil || tag.RowsAffected() != 0 {
		t.Errorf("a dead relay writes a cursor: %v, %v", tag, err)
	}
}

// TestAnotherClusterHasSeenNothing: transaction ids of the cluster that a dump was taken from mean nothing in the one it was restored into,
// which has had fewer.
func TestAnotherClusterHasSeenNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.publish(message("a", 1))
	w.exec("UPDATE pgsagaz.outbox_cursor SET prev = '9000000000:9000000000:'") // there were more
	w.exec("UPDATE pgsagaz.outbox_state SET system_identifier = system_identifier + 1")
	if !query[bool](w, "SELECT pgsagaz.outbox_rebase()") || query[bool](w, "SELECT pgsagaz.outbox_rebase()") {
		t.Error("another cluster is noticed once")
	}
	if n := query[int](w, "SELECT count(*) FROM pgsagaz.outbox o, pgsagaz.outbox_cursor c WHERE pgsagaz.outbox_consumed(o.txid, o.id, c.prev, c.cur, c.last_id)"); n > 0 {
		t.Errorf("%d messages of another cluster count as published", n)
	}
}

// TestWhatIsLeasedIsItsWriters: a relay leaves alone what a writer is about to publish himself, until the lease has ended.
func TestWhatIsLeasedIsItsWriters(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d, err := outbox.NewDirect(w.pool, w.broker, outbox.DirectConfig{Lease: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	if err := pgx.BeginFunc(t.Context(), w.pool, func(tx pgx.Tx) error {
		_, err := d.PublishAfterCommit(t.Context(), tx, message("", 1))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	moved := func() int {
		return query[int](w, "SELECT moved FROM pgsagaz.outbox_direct_tend(100, '1 hour', 1000000)")
	}
	if n := moved(); n != 0 {
		t.Errorf("%d messages were taken from their writer", n)
	}
	w.exec("UPDATE pgsagaz.outbox_direct SET leased_until = now()")
	if n := moved(); n != 1 {
		t.Errorf("%d messages were moved after the lease", n)
	}
}
