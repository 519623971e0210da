package outbox_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsagaz/pgsagaz/outbox"
	"github.com/pgsagaz/pgsagaz/outbox/outboxtest"
	"github.com/pgsagaz/pgsagaz/sql"
)

func (w world) exec(statement string, args ...any) {
	w.Helper()
	if _, err := w.pool.Exec(w.Context(), statement, args...); err != nil {
		w.Fatalf("%s: %v", statement, err)
	}
}

// TestGoAndSQLAgree: pgsagaz.publish writes what Publish writes.
func TestGoAndSQLAgree(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i, key := range []string{"", "a", "schlüssel ✓", strings.Repeat("x", 3000)} {
		id := uuid.Must(uuid.NewV7())
		w.publish(outbox.Message{ID: id, Topic: "t", Key: key, Payload: []byte{byte(i)}, Headers: map[string]string{"a": "b"}})
		w.exec(`SELECT pgsagaz.publish('t', $1, $2, p_headers => '{"a": "b"}', p_id => $3)`, []byte{byte(i)}, key, id.String())
		rows, err := w.pool.Query(t.Context(), `SELECT format('%s %s %s %s %s %s %s', bucket, key, topic, routing_key, type, payload, headers) FROM pgsagaz.outbox WHERE event_id = $1`, id)
		if err != nil {
			t.Fatal(err)
		}
		both, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil || len(both) != 2 || both[0] != both[1] {
			t.Errorf("key %.10s: %v, %v", key, both, err)
		}
	}
	for statement, want := range map[string]string{
		"SELECT pgsagaz.publish('', 'x')":                                       sql.StateBadArgument,
		"SELECT pgsagaz.publish('t', NULL)":                                     sql.StateBadArgument,
		"SELECT pgsagaz.publish('t', convert_to(repeat('x', 1048577), 'UTF8'))": sql.StateInputTooLong,
		"SELECT pgsagaz.publish('t', 'x', p_headers => '[1]')":                  sql.StateBadArgument,
		"SELECT pgsagaz.publish('t', 'x', p_headers => '{\"a\": 1}')":           sql.StateBadArgument,
	} {
		_, err := w.pool.Exec(t.Context(), statement)
		if got := sql.State(err); got != want {
			t.Errorf("%s: %v, want %s", statement, err, want)
		}
	}
	w.relay(w.broker, outbox.Config{})
	w.arrived(8)
}

// TestPublishIsDurable: whatever the session says, and not beyond the transaction, nor against a stronger setting.
func TestPublishIsDurable(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for setting, want := range map[string]string{"off": "on", "local": "on", "on": "on", "remote_apply": "remote_apply"} {
		for _, scheduled := range []bool{false, true} {
			conn, err := w.pool.Acquire(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			show := func(q pgx.Tx) (s string) {
				if err := q.QueryRow(t.Context(), "SHOW synchronous_commit").Scan(&s); err != nil {
					t.Fatal(err)
				}
				return s
			}
			if _, err := conn.Exec(t.Context(), "SET synchronous_commit = "+setting); err != nil {
				t.Fatal(err)
			}
			m := message("k", 1)
			if scheduled {
				m.NotBefore = time.Now().Add(time.Hour)
			}
			if err := pgx.BeginFunc(t.Context(), conn, func(tx pgx.Tx) error {
				if err := outbox.Publish(t.Context(), tx, m); err != nil {
					return err
				}
				if got := show(tx); got != want {
					t.Errorf("with %s: commits with %s, want %s", setting, got, want)
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			_ = pgx.BeginFunc(t.Context(), conn, func(tx pgx.Tx) error {
				if got := show(tx); got != setting {
					t.Errorf("with %s: the session has %s afterwards", setting, got)
				}
				return nil
			})
			_, _ = conn.Exec(t.Context(), "RESET synchronous_commit")
			conn.Release()
		}
	}
}

// TestNotBefore: a message that is not due waits, takes its place when it is, and its id tells of that time.
func TestNotBefore(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	now := query[time.Time](w, "SELECT pgsagaz.now()")
	later := func(n int, d time.Duration) outbox.Message {
		m := message("k", n)
		m.NotBefore = now.Add(d)
		return m
	}
	w.publish(later(3, 700*time.Millisecond), later(4, time.Hour), later(2, 600*time.Millisecond), message("k", 1))
	w.relay(w.broker, outbox.Config{})
	w.arrived(3)
	events := w.broker.Events("t")
	if got := payloads(events); !slices.Equal(got, []string{"1", "2", "3"}) {
		t.Errorf("%v arrived", got)
	}
	if !events[2].CreatedAt.After(now.Add(700 * time.Millisecond)) {
		t.Errorf("what was due at %v was published at %v", now.Add(700*time.Millisecond), events[2].CreatedAt)
	}
	sec, nsec := events[2].ID.Time().UnixTime()
	if at := time.Unix(sec, nsec); at.Sub(now.Add(700*time.Millisecond)).Abs() > 2*time.Millisecond {
		t.Errorf("its id is of %v", at)
	}
	s, err := outbox.GetStatus(t.Context(), w.pool)
	if err != nil || s.Scheduled != 1 || s.NextDue < 3000 {
		t.Errorf("%d are scheduled, the next in %v s, %v", s.Scheduled, s.NextDue, err)
	}
	w.exec("UPDATE pgsagaz.outbox_scheduled SET due_at = now()")
	w.arrived(4)
}

// TestSerialize: of two writers of a key the second waits for the first's end, whatever the order of the keys in their calls.
func TestSerialize(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	both := func(first, second string) []outbox.Message {
		a, b := message(first, 1), message(second, 2)
		a.Serialize, b.Serialize = true, true
		return []outbox.Message{a, b}
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 20 {
				order := both("a", "b")
				if i%2 == 0 {
					order = both("b", "a")
				}
				if err := pgx.BeginFunc(t.Context(), w.pool, func(tx pgx.Tx) error { return outbox.Publish(t.Context(), tx, order...) }); err != nil {
					t.Errorf("a deadlock: %v", err)
				}
			}
		})
	}
	wg.Wait()
	tx, err := w.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := outbox.Publish(t.Context(), tx, both("a", "c")...); err != nil {
		t.Fatal(err)
	}
	err = pgx.BeginFunc(t.Context(), w.pool, func(other pgx.Tx) error {
		if _, err := other.Exec(t.Context(), "SET LOCAL lock_timeout = '50ms'"); err != nil {
			return err
		}
		return outbox.Publish(t.Context(), other, both("d", "a")...)
	})
	if pg := new(pgconn.PgError); !errors.As(err, &pg) || pg.Code != "55P03" {
		t.Errorf("a second writer of the key does not wait: %v", err)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.publish(both("d", "a")...)
}

// TestTheTableStaysSmall: slots rotate and are emptied while messages flow, with a snapshot held open in another session and
// with a writer that takes its time; and nothing gets lost.
func TestTheTableStaysSmall(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	reader, err := w.pool.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	if err != nil {
		t.Fatal(err)
	}
	var one int
	if err := reader.QueryRow(t.Context(), "SELECT 1").Scan(&one); err != nil {
		t.Fatal(err)
	}
	w.relay(w.broker, outbox.Config{RotateRows: 100})
	n := 0
	w.until("every slot has been used and emptied", func() bool {
		for range 20 {
			var batch []outbox.Message
			for range 20 {
				batch = append(batch, message(fmt.Sprint(n%17), n))
				n++
			}
			w.publish(batch...)
		}
		w.arrived(n)
		time.Sleep(20 * time.Millisecond)
		return query[int64](w, "SELECT truncated_id FROM pgsagaz.outbox_state") > 2500
	})
	if w.broker.Len() != n {
		t.Errorf("%d events arrived, want %d", w.broker.Len(), n)
	}
	if err := reader.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.until("the last are gone too", func() bool {
		n++
		w.publish(message("k", n))
		return query[int](w, "SELECT count(*) FROM pgsagaz.outbox") < 500
	})
}

// TestTruncate walks through what must keep a slot from being emptied.
func TestTruncate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	truncate := func() bool { w.Helper(); return query[bool](w, "SELECT pgsagaz.outbox_truncate(0::smallint, false)") }
	stop := w.relay(w.broker, outbox.Config{RotateRows: 1 << 40, RotateEvery: time.Hour})
	w.publish(message("a", 1), message("b", 1))
	w.arrived(2)
	stop()

	w.publish(message("a", 2))
	if truncate() {
		t.Error("emptied with a message that nobody has published")
	}
	stop = w.relay(w.broker, outbox.Config{RotateRows: 1 << 40, RotateEvery: time.Hour})
	w.arrived(3)
	stop()

	open, err := w.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := outbox.Publish(t.Context(), open, message("a", 3)); err != nil {
		t.Fatal(err)
	}
	if truncate() {
		t.Error("emptied under a writer that has not committed")
	}
	if err := open.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if truncate() {
		t.Error("emptied with the message of a writer that has just committed")
	}
	stop = w.relay(w.broker, outbox.Config{RotateRows: 1 << 40, RotateEvery: time.Hour})
	w.arrived(4)
	stop()

	// A writer whose snapshot is old takes slot 0 for the current one for ever.
	old, err := w.pool.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := old.Exec(t.Context(), "SELECT 1"); err != nil {
		t.Fatal(err)
	}
	w.exec("UPDATE pgsagaz.outbox_state SET slot = 2")
	if !truncate() {
		t.Error("not emptied, although all is published")
	}
	if err := outbox.Publish(t.Context(), old, message("a", 4)); err != nil {
		t.Fatal(err)
	}
	if err := old.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if slot := query[int](w, "SELECT slot FROM pgsagaz.outbox"); slot != 0 {
		t.Errorf("the late message is in slot %d", slot)
	}
	w.relay(w.broker, outbox.Config{RotateRows: 1 << 40, RotateEvery: time.Hour})
	w.arrived(5)
	if err := pgx.BeginTxFunc(t.Context(), w.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead}, func(tx pgx.Tx) error {
		_, err := tx.Exec(t.Context(), "SELECT pgsagaz.outbox_truncate(0::smallint, false)")
		return err
	}); sql.State(err) != sql.StateBadArgument {
		t.Errorf("in one snapshot for all statements: %v", err)
	}
}

// TestASlotThatIsNotEmptyIsNotReused: where nobody publishes, writers stay in the last slot that was free.
func TestASlotThatIsNotEmptyIsNotReused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	rotate := func() bool {
		w.Helper()
		return query[bool](w, "SELECT rotated FROM pgsagaz.outbox_rotate(0, '1 hour', false)")
	}
	for i := range 4 {
		w.publish(message("a", i))
		if rotated := rotate(); rotated != (i < 3) {
			t.Errorf("with messages in %d of 4 slots writers go on to the next: %v", i+1, rotated)
		}
	}
	w.publish(message("a", 4))
	if rotate() {
		t.Error("writers go on to a slot with messages in it")
	}
	if got := query[string](w, "SELECT string_agg(slot::text, ' ' ORDER BY id) FROM pgsagaz.outbox"); got != "0 1 2 3 3" {
		t.Errorf("the messages are in slots %s, want 0 1 2 3 3", got)
	}
	w.relay(w.broker, outbox.Config{RotateRows: 1})
	w.arrived(5)
	if got := ofKey(w.broker.Events("t"), "a"); !slices.Equal(got, []string{"0", "1", "2", "3", "4"}) {
		t.Errorf("%v arrived", got)
	}
	w.until("there is room again", func() bool {
		w.publish(message("b", 1))
		return query[int](w, "SELECT slot FROM pgsagaz.outbox_state") != 3
	})
}

// TestTruncateLooksTwice: a message that comes in between the look at a slot and its lock is not lost.
func TestTruncateLooksTwice(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	stop := w.relay(w.broker, outbox.Config{RotateRows: 1 << 40, RotateEvery: time.Hour})
	w.publish(message("a", 1))
	w.arrived(1)
	stop()
	// What is archived is archived in between; it is made to wait there.
	blocker, err := w.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := blocker.Exec(t.Context(), "LOCK TABLE pgsagaz.outbox_archive IN ACCESS EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	emptied := make(chan bool, 1)
	go func() {
		var did bool
		if err := w.pool.QueryRow(t.Context(), "SELECT pgsagaz.outbox_truncate(0::smallint, true)").Scan(&did); err != nil {
			t.Error(err)
		}
		emptied <- did
	}()
	w.until("it waits", func() bool {
		return query[int](w, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%outbox_truncate%'") == 1
	})
	w.publish(message("a", 2))
	if err := blocker.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if <-emptied {
		t.Error("a slot is emptied with a message in it that came during the look")
	}
	if n := query[int](w, "SELECT count(*) FROM pgsagaz.outbox_archive"); n > 0 {
		t.Errorf("%d messages are in the archive, and their slot is not emptied", n)
	}
	w.relay(w.broker, outbox.Config{})
	w.arrived(2)
}

// TestArchiveAndReplay: what was published is kept if so asked, and published again, marked, with its ids.
func TestArchiveAndReplay(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cfg := outbox.Config{Archive: 24 * time.Hour, RotateRows: 1}
	w.relay(w.broker, cfg)
	from := query[time.Time](w, "SELECT pgsagaz.now()")
	w.publish(message("a", 1), outbox.Message{Topic: "other", Key: "a"}, message("a", 2))
	w.until("they are in the archive", func() bool {
		w.publish(outbox.Message{Topic: "filler", Key: "f"})
		return query[int](w, "SELECT count(*) FROM pgsagaz.outbox_archive WHERE topic <> 'filler'") == 3
	})
	to := query[time.Time](w, "SELECT pgsagaz.now()")
	w.publish(message("a", 3)) // after the time
	w.until("it arrives", func() bool { return len(w.broker.Events("t")) == 3 })
	n, err := outbox.Replay(t.Context(), w.pool, outbox.ReplayFilter{From: from, To: to, Topic: "t"}, outbox.By{})
	if err != nil || n != 2 {
		t.Fatalf("%d replayed, %v; want 2", n, err)
	}
	w.until("they arrive again", func() bool { return len(w.broker.Events("t")) == 5 })
	events := w.broker.Events("t")
	if got := payloads(events); !slices.Equal(got, []string{"1", "2", "3", "1", "2"}) {
		t.Errorf("%v arrived", got)
	}
	first, again := events[0], events[3]
	if first.Replayed || !again.Replayed || first.ID != again.ID || !first.CreatedAt.Equal(again.CreatedAt) {
		t.Errorf("replayed: %+v\nbefore: %+v", again, first)
	}
	// What was replayed is not archived, and not replayed, a second time; what is still in the outbox is.
	w.until("the cursor is behind them", func() bool {
		s, err := outbox.GetStatus(t.Context(), w.pool)
		return err == nil && s.Pending == 0
	})
	if n, err := outbox.Replay(t.Context(), w.pool, outbox.ReplayFilter{From: from, Topic: "t"}, outbox.By{}); err != nil || n != 3 {
		t.Errorf("%d replayed, %v; want 3", n, err)
	}
	w.until("they arrive once more", func() bool { return len(w.broker.Events("t")) == 8 })
	if _, err := outbox.Replay(t.Context(), w.pool, outbox.ReplayFilter{From: to, To: from}, outbox.By{}); err == nil {
		t.Error("a replay of no time at all is accepted")
	}

	w.exec("SELECT pgsagaz.outbox_archive_day(current_date - 9)")
	if n := query[int](w, "SELECT pgsagaz.outbox_archive_drop(now() - interval '7 days')"); n != 1 {
		t.Errorf("%d days were dropped, want the one", n)
	}
}

// TestStatus shows what an operator has to know.
func TestStatus(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	broker := &outboxtest.Faulty{Publisher: w.broker}
	broker.Down()
	w.relay(broker, outbox.Config{Name: "relay one", MaxPending: 1000})
	w.publish(message("a", 1), message("a", 2), outbox.Message{Topic: "u", Key: "b"})
	var s outbox.Status
	w.until("the relay has its buckets and a limit is set", func() bool {
		var err error
		if s, err = outbox.GetStatus(t.Context(), w.pool); err != nil {
			t.Fatal(err)
		}
		return len(s.Relays) == 1 && s.Relays[0].Buckets == 256 && s.MaxPending == 1000
	})
	topics := map[string]int64{}
	for _, p := range s.Topics {
		topics[p.Topic] = p.Pending
	}
	pending := int64(0)
	for _, b := range s.Buckets {
		pending += b.Pending
		if b.Relay != "relay one" || b.Epoch != s.Relays[0].Epoch {
			t.Errorf("bucket %d: %+v", b.Bucket, b)
		}
	}
	if s.Pending != 3 || s.AtLeast || pending != 3 || topics["t"] != 2 || topics["u"] != 1 || s.OldestAge <= 0 || len(s.Buckets) != 256 ||
		len(s.Slots) != 4 || !s.Relays[0].Alive || s.Relays[0].Name != "relay one" {
		s.Buckets = nil
		t.Errorf("%d in buckets, %+v", pending, s)
	}
	current := 0
	for _, slot := range s.Slots {
		if slot.Current {
			current++
		}
	}
	if current != 1 || s.Slots[0].Bytes == 0 {
		t.Errorf("slots: %+v", s.Slots)
	}
	reader, err := w.pool.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead}) // keeps the database from cleaning up
	if err != nil {
		t.Fatal(err)
	}
	if _, err := reader.Exec(t.Context(), "SELECT 1"); err != nil {
		t.Fatal(err)
	}
	broker.Up()
	w.arrived(3)
	for i := range 5 {
		w.publish(message("c", i))
	}
	if s, err = outbox.GetStatus(t.Context(), w.pool); err != nil || s.Guards.XminAge < 5 || s.Guards.OldestTransaction <= 0 || s.Guards.NotifyQueue < 0 || s.Guards.Warnings == nil {
		t.Errorf("with a snapshot that is held: %+v, %v", s.Guards, err)
	}
	if err := reader.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.until("nothing is pending", func() bool {
		s, err := outbox.GetStatus(t.Context(), w.pool)
		return err == nil && s.Pending == 0 && s.Relays[0].Published == 8
	})
}
