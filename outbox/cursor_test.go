package outbox_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/outbox"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// begin opens a transaction that has its id.
func (w world) begin() pgx.Tx {
	w.Helper()
	tx, err := w.pool.Begin(w.Context())
	if err != nil {
		w.Fatal(err)
	}
	if _, err := tx.Exec(w.Context(), "SELECT pg_current_xact_id()"); err != nil {
		w.Fatal(err)
	}
	return tx
}

// TestAWriterOfAnotherDatabaseHoldsNothingUp: transaction ids are the cluster's, and the oldest that is open may be anybody's.
func TestAWriterOfAnotherDatabaseHoldsNothingUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	other := world{t, sqltest.New(t), nil}
	open := other.begin()
	defer func() { _ = open.Rollback(context.WithoutCancel(t.Context())) }()
	w.relay(w.broker, outbox.Config{})
	for i := range 100 {
		w.publish(message("k", i))
	}
	w.arrived(100)
	var held bool
	if err := open.QueryRow(t.Context(), "SELECT pg_snapshot_xmin(pg_current_snapshot()) <= pg_current_xact_id()").Scan(&held); err != nil || !held {
		t.Errorf("the other writer holds nothing back, so that this tests nothing: %v", err)
	}
}

// TestIDsAreNotHoarded: a session that draws ids ahead would turn the order of two writers round.
func TestIDsAreNotHoarded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if n := query[int](w, "SELECT cache_size::int FROM pg_sequences WHERE schemaname = 'pgsagaz' AND sequencename = 'outbox_id_seq'"); n != 1 {
		t.Errorf("a session draws %d ids at once", n)
	}
}

// TestTheHotTableIsInsertOnly: publishing an event changes and deletes no row of the outbox, so that nothing dead piles up while somebody holds a
// snapshot, and its cursor is written ten times a second at most.
func TestTheHotTableIsInsertOnly(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	begun := time.Now()
	stop := w.relay(w.broker, outbox.Config{RotateRows: 1 << 40, RotateEvery: time.Hour})
	const n = 1000
	for i := range n {
		w.publish(message("k", i))
		if i%200 == 199 {
			w.arrived(i + 1)
			time.Sleep(100 * time.Millisecond)
		}
	}
	w.arrived(n)
	stop()
	took := time.Since(begun)
	w.pool.Reset() // sessions tell what they did when they end, at the latest
	w.until("all inserts are counted", func() bool {
		return query[int](w, "SELECT coalesce(sum(n_tup_ins), 0)::int FROM pg_stat_all_tables WHERE schemaname = 'pgsagaz' AND relname ~ '^outbox_[0-3]$'") == n
	})
	if changed := query[int](w, "SELECT sum(n_tup_upd + n_tup_del)::int FROM pg_stat_all_tables WHERE schemaname = 'pgsagaz' AND relname ~ '^outbox_[0-3]$'"); changed > 0 {
		t.Errorf("%d rows of the outbox were changed or deleted", changed)
	}
	written := query[int](w, "SELECT n_tup_upd::int FROM pg_stat_all_tables WHERE schemaname = 'pgsagaz' AND relname = 'outbox_cursor'")
	if most := int(took/(100*time.Millisecond)) + 10; written > most {
		t.Errorf("the cursor was written %d times in %v, want at most %d", written, took, most)
	}
	t.Logf("%d events, the cursor was written %d times in %v", n, written, took)
}

// slowly is a broker that answers when it is told to.
type slowly struct {
	outbox.Publisher
	called chan struct{}
	answer chan struct{}
}

func (s slowly) Publish(ctx context.Context, events []outbox.Event) []error {
	s.called <- struct{}{}
	select {
	case <-s.answer:
	case <-ctx.Done():
	}
	return s.Publisher.Publish(context.WithoutCancel(ctx), events)
}

// TestNoTransactionIsOpenDuringACall: a broker that takes its time holds no snapshot and no lock in the database.
func TestNoTransactionIsOpenDuringACall(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := slowly{w.broker, make(chan struct{}, 1), make(chan struct{})}
	w.publish(message("k", 1))
	w.relay(s, outbox.Config{PublishTimeout: 2 * time.Minute, Optimistic: &outbox.Optimistic{}})
	<-s.called
	answer := sync.OnceFunc(func() { close(s.answer) })
	defer answer()
	w.until("no session of the relay has a transaction", func() bool { // of the read before the call, at most
		return query[int](w, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'pgsagaz outbox%'
			AND (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL OR state LIKE 'idle in transaction%')`) == 0
	})
	if n := query[int](w, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'pgsagaz outbox%'`); n == 0 {
		t.Error("no session of the relay is seen: this tests nothing")
	}
	answer()
	w.arrived(1)
}
