package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/pgsagaz/pgsagaz/codec"
	"github.com/pgsagaz/pgsagaz/outbox"
	"github.com/pgsagaz/pgsagaz/outbox/outboxtest"
	"github.com/pgsagaz/pgsagaz/sql"
)

func (w world) direct(p outbox.Publisher, cfg outbox.DirectConfig) *outbox.Direct {
	w.Helper()
	if cfg.Logger == nil {
		cfg.Logger = silent
	}
	d, err := outbox.NewDirect(w.pool, p, cfg)
	if err != nil {
		w.Fatal(err)
	}
	return d
}

// committed runs f in a transaction, and returns what sends its messages.
func (w world) committed(d *outbox.Direct, messages ...outbox.Message) (send func(context.Context) error) {
	w.Helper()
	err := pgx.BeginFunc(w.Context(), w.pool, func(tx pgx.Tx) (err error) {
		send, err = d.PublishAfterCommit(w.Context(), tx, messages...)
		return err
	})
	if err != nil {
		w.Fatal(err)
	}
	return send
}

const inDirect = "SELECT count(*) FROM pgsagaz.outbox_direct"

// TestPublishAfterCommit: without any relay the events are with the broker when send returns, whole, once and on record.
func TestPublishAfterCommit(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	registry := prometheus.NewRegistry()
	d := w.direct(w.broker, outbox.DirectConfig{Registry: registry})
	saga := uuid.Must(uuid.NewV7())
	ctx := sql.WithStep(t.Context(), saga.String(), "ship")
	var send func(context.Context) error
	err := pgx.BeginFunc(ctx, w.pool, func(tx pgx.Tx) (err error) {
		m := outbox.JSON("orders.shipped", "o-1", map[string]int{"parcel": 7})
		m.RoutingKey, m.Headers["tenant"] = "eu", "a"
		send, err = d.PublishAfterCommit(ctx, tx, m, message("", 2))
		if err != nil {
			return err
		}
		if err := send(ctx); !errors.Is(err, outbox.ErrNotSent) || w.broker.Len() > 0 {
			t.Errorf("before the commit: %v, and %d events arrived", err, w.broker.Len())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := send(ctx); err != nil {
		t.Fatal(err)
	}
	if n := w.broker.Len(); n != 2 {
		t.Fatalf("%d events arrived, want 2", n)
	}
	e := w.broker.Events("orders.shipped")[0]
	if e.Key != "o-1" || e.Type != "orders.shipped" || e.RoutingKey != "eu" || string(e.Payload) != `{"parcel":7}` || e.Headers["tenant"] != "a" ||
		e.SagaID != saga.String() || e.Step != "ship" || e.ID.Version() != 7 || time.Since(e.CreatedAt).Abs() > time.Hour {
		t.Errorf("%+v", e)
	}
	if n := query[int](w, inDirect); n > 0 {
		t.Errorf("%d events are not on record as published", n)
	}
	if err := send(ctx); !errors.Is(err, outbox.ErrNotSent) || w.broker.Len() != 2 {
		t.Errorf("a second send: %v, and %d events arrived", err, w.broker.Len())
	}
	if err := testutil.GatherAndCompare(registry, strings.NewReader(`
		# HELP outbox_optimistic_send_success_total Those of them that the broker acknowledged at once.
		# TYPE outbox_optimistic_send_success_total counter
		outbox_optimistic_send_success_total 2
	`), "outbox_optimistic_send_success_total"); err != nil {
		t.Error(err)
	}
}

// TestPublishAfterRollback: nothing leaves that is not committed, whatever the caller does.
func TestPublishAfterRollback(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d := w.direct(w.broker, outbox.DirectConfig{})
	var whole, part, kept func(context.Context) error
	failed := errors.New("no")
	if err := pgx.BeginFunc(t.Context(), w.pool, func(tx pgx.Tx) (err error) {
		if whole, err = d.PublishAfterCommit(t.Context(), tx, message("", 1)); err != nil {
			return err
		}
		return failed
	}); !errors.Is(err, failed) {
		t.Fatal(err)
	}
	if err := pgx.BeginFunc(t.Context(), w.pool, func(tx pgx.Tx) (err error) {
		if kept, err = d.PublishAfterCommit(t.Context(), tx, message("", 2)); err != nil {
			return err
		}
		if err := pgx.BeginFunc(t.Context(), tx, func(tx pgx.Tx) (err error) { // a savepoint
			if part, err = d.PublishAfterCommit(t.Context(), tx, message("", 3)); err != nil {
				return err
			}
			return failed
		}); !errors.Is(err, failed) {
			return err
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, send := range []func(context.Context) error{whole, part} {
		if err := send(t.Context()); !errors.Is(err, outbox.ErrNotSent) {
			t.Errorf("after a rollback: %v", err)
		}
	}
	if err := kept(t.Context()); err != nil {
		t.Error(err)
	}
	if got := payloads(w.broker.Events("t")); !slices.Equal(got, []string{"2"}) {
		t.Errorf("%v arrived, want 2 only", got)
	}
}

// TestWhatIsNotPublishedDirectlyIsPublishedByARelay: when the writer dies after his commit, or his broker fails, or he is too late, the event
// leaves when the lease ends, and once.
func TestWhatIsNotPublishedDirectlyIsPublishedByARelay(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.relay(w.broker, outbox.Config{})
	broken := &outboxtest.Faulty{Publisher: w.broker}
	broken.Down()
	d := w.direct(broken, outbox.DirectConfig{Lease: 2 * time.Second})
	w.committed(d, message("", 1)) // and then he died
	if err := w.committed(d, message("k", 2))(t.Context()); !errors.Is(err, outboxtest.ErrFault) {
		t.Errorf("the broker failed, and send says %v", err)
	}
	late := w.committed(d, message("", 3))
	hangs := &outboxtest.Faulty{Publisher: w.broker, Next: func([]outbox.Event) outboxtest.Fault { return outboxtest.Hang }}
	if err := w.committed(w.direct(hangs, outbox.DirectConfig{Lease: 2 * time.Second, Timeout: 10 * time.Millisecond}), message("", 4))(t.Context()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the broker hung, and send says %v", err)
	}
	w.arrived(4)
	if err := late(t.Context()); !errors.Is(err, outbox.ErrNotSent) {
		t.Errorf("after the lease: %v", err)
	}
	got := payloads(w.broker.Events("t"))
	slices.Sort(got)
	if !slices.Equal(got, []string{"1", "2", "3", "4"}) {
		t.Errorf("%v arrived, want 1 to 4, each once", got)
	}
	if n := query[int](w, inDirect); n > 0 {
		t.Errorf("%d events are left over", n)
	}
}

// TestPublishAfterCommitOfMany: writers beside a relay; every event arrives once, and what held them is empty in the end, also while
// somebody holds a snapshot.
func TestPublishAfterCommitOfMany(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	held, err := w.pool.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = held.Rollback(t.Context()) }()
	if _, err := held.Exec(t.Context(), "SELECT count(*) FROM pgsagaz.saga"); err != nil {
		t.Fatal(err)
	}
	w.relay(w.broker, outbox.Config{})
	d := w.direct(w.broker, outbox.DirectConfig{Lease: time.Minute, Timeout: 10 * time.Second})
	const writers, each = 8, 50
	var group sync.WaitGroup
	for i := range writers {
		group.Go(func() {
			for j := range each {
				var send func(context.Context) error
				err := pgx.BeginFunc(t.Context(), w.pool, func(tx pgx.Tx) (err error) {
					send, err = d.PublishAfterCommit(t.Context(), tx, message("", i*each+j))
					return err
				})
				if err == nil {
					err = send(t.Context())
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
	if n := query[int](w, inDirect); n > 0 {
		t.Errorf("%d events are not on record as published", n)
	}
	seen := map[string]bool{}
	for _, e := range w.broker.Events("") {
		if seen[string(e.Payload)] {
			t.Errorf("event %s came twice, and nothing had failed", e.Payload)
		}
		seen[string(e.Payload)] = true
	}
	if len(seen) != writers*each {
		t.Errorf("%d of %d events arrived", len(seen), writers*each)
	}
	w.until("the table takes no space", func() bool { // here each turn ends at once
		if _, err := w.pool.Exec(t.Context(), "SELECT pgsagaz.outbox_direct_tend(100, '0', 1)"); err != nil {
			t.Fatal(err)
		}
		return query[int64](w, "SELECT pg_relation_size('pgsagaz.outbox_direct_0') + pg_relation_size('pgsagaz.outbox_direct_1')") == 0
	})
}

// TestALeasedSlotIsNotEmptied: neither with a row that somebody may still publish, nor with one that is not committed yet.
func TestALeasedSlotIsNotEmptied(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d := w.direct(w.broker, outbox.DirectConfig{Lease: time.Hour})
	open, err := w.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = open.Rollback(t.Context()) }()
	uncommitted, err := d.PublishAfterCommit(t.Context(), open, message("", 1))
	if err != nil {
		t.Fatal(err)
	}
	committed := w.committed(d, message("", 2))
	tend := func() {
		for range 5 {
			if _, err := w.pool.Exec(t.Context(), "SELECT pgsagaz.outbox_direct_tend(100, '0', 1)"); err != nil {
				t.Fatal(err)
			}
		}
	}
	tend()
	if err := committed(t.Context()); err != nil {
		t.Error(err)
	}
	tend()
	if err := open.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	tend()
	if err := uncommitted(t.Context()); err != nil {
		t.Error(err)
	}
	if n := w.broker.Len(); n != 2 {
		t.Errorf("%d events arrived, want 2", n)
	}
}

func TestPublishAfterCommitRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if _, err := outbox.NewDirect(w.pool, w.broker, outbox.DirectConfig{Lease: time.Second, Timeout: time.Second}); err == nil {
		t.Error("a timeout as long as the lease passes")
	}
	d := w.direct(w.broker, outbox.DirectConfig{})
	ordered, later, twice := message("k", 1), message("k", 1), message("k", 1)
	ordered.Serialize, later.NotBefore, twice.ID = true, time.Now().Add(time.Hour), uuid.Must(uuid.NewV7())
	for says, messages := range map[string][]outbox.Message{
		"Serialize": {ordered}, "NotBefore": {later}, "message 2 of 2": {twice, twice}, "without a topic": {{}},
	} {
		err := pgx.BeginFunc(t.Context(), w.pool, func(tx pgx.Tx) error {
			_, err := d.PublishAfterCommit(t.Context(), tx, messages...)
			return err
		})
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want %q", err, says)
		}
	}
	if err := w.committed(d)(t.Context()); err != nil {
		t.Errorf("without messages: %v", err)
	}
	if n := query[int](w, inDirect); n > 0 {
		t.Error(fmt.Sprint(n, " messages were written"))
	}
}

// TestPublishAfterCommitUnderACodec: the payload lies encoded in the table, from where a relay decodes it, and the broker gets it plain
// either way.
func TestPublishAfterCommitUnderACodec(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.codec(codec.Config{})
	d := w.direct(w.broker, outbox.DirectConfig{Lease: time.Second})
	ctx := codec.With(t.Context(), c, "4711")
	sends := make([]func(context.Context) error, 2)
	for i := range sends {
		if err := pgx.BeginFunc(ctx, w.pool, func(tx pgx.Tx) (err error) {
			sends[i], err = d.PublishAfterCommit(ctx, tx, outbox.JSON("orders.shipped", "", "Ann's parcel"))
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	if n := query[int](w, "SELECT count(*) FROM pgsagaz.outbox_direct WHERE position('Ann'::bytea IN payload) > 0 OR pgsagaz.payload_key(payload) IS NULL"); n > 0 {
		t.Errorf("%d payloads can be read in the table", n)
	}
	if err := sends[0](ctx); err != nil { // the other writer is dead
		t.Fatal(err)
	}
	w.relay(w.broker, outbox.Config{Codec: c})
	w.arrived(2)
	for _, e := range w.broker.Events("orders.shipped") {
		if string(e.Payload) != `"Ann's parcel"` {
			t.Errorf("the broker got %q", e.Payload)
		}
	}
}

// TestStatusWhileDirectIsEmptied: a status that is being read while what was not sent moves on, and its table is emptied, counts that
// message once all the same. A TRUNCATE is seen by snapshots that are older than it.
func TestStatusWhileDirectIsEmptied(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.committed(w.direct(w.broker, outbox.DirectConfig{Lease: time.Millisecond, Timeout: time.Microsecond}), message("a", 1))
	w.exec("UPDATE pgsagaz.outbox_state SET direct_slot = 1 - direct_slot") // the turn of the message's part has ended
	blocker := w.begin()
	if _, err := blocker.Exec(t.Context(), "LOCK TABLE pgsagaz.outbox_relay IN ACCESS EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	read := make(chan outbox.Status, 1)
	go func() {
		s, err := outbox.GetStatus(t.Context(), w.pool)
		if err != nil {
			t.Error(err)
		}
		read <- s
	}()
	w.until("the status is being read", func() bool {
		return query[bool](w, "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'pgsagaz.outbox_relay'::regclass AND NOT granted)")
	})
	if n := query[int](w, "SELECT moved FROM pgsagaz.outbox_direct_tend(1000, '1 hour', 1 << 30)"); n != 1 {
		t.Fatalf("%d messages moved on", n)
	}
	if err := blocker.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s := <-read; s.Pending+s.Direct != 1 {
		t.Errorf("%d are pending and %d at their writers, want one of them to be 1", s.Pending, s.Direct)
	}
}
