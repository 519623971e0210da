package inbox_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/pgsagaz/pgsagaz/inbox"
	"github.com/pgsagaz/pgsagaz/sql"
)

const day = 24 * time.Hour

func TestCleanup(t *testing.T) {
	t.Parallel()
	pool := newLedger(t)
	exec(t, pool, `SELECT pgsagaz.inbox_make_partitions(now())`)
	days(t, pool, 60)
	now := time.Now()
	old, young := at(now.Add(-40*day)), at(now.Add(-20*day))
	for _, id := range []string{old, young, "old", "young"} {
		if first, err := claims(t, pool, "c", id, nil); err != nil || !first {
			t.Fatal(first, err)
		}
	}
	exec(t, pool, `UPDATE pgsagaz.consumer_inbox SET consumed_at = now() - interval '40 days' WHERE foreign_id = 'old'`)
	exec(t, pool, `INSERT INTO pgsagaz.inbox_failure (consumer_name, event_id, source_topic, event_type, attempts, error, last_at)
		VALUES ('c', gen_random_uuid(), '', '', 1, 'no', now() - interval '40 days'), ('c', gen_random_uuid(), '', '', 1, 'no', now())`)
	r, err := inbox.Cleanup(t.Context(), pool, &inbox.CleanupOptions{Retention: 30 * day})
	if err != nil {
		t.Fatal(err)
	}
	// 60 days of partitions; those that end 30 days ago or earlier have gone.
	if len(r.Dropped) != 30 || r.Foreign != 1 || r.Made != 7 || r.Busy || r.Behind == nil || r.Rate <= 0 ||
		r.Floor.Before(now.Add(-31*day)) || r.Floor.After(now.Add(-30*day)) {
		t.Errorf("%+v", r)
	}
	if got := query[string](t, pool, `SELECT string_agg(coalesce(foreign_id, event_id::text), ' ' ORDER BY foreign_id) FROM pgsagaz.consumer_inbox`); got != "young "+young {
		t.Errorf("what is left is %s", got)
	}
	if n := query[int](t, pool, `SELECT count(*) FROM pgsagaz.inbox_failure`); n != 1 {
		t.Errorf("%d failures", n)
	}
	if _, err := claims(t, pool, "c", old, nil); !errors.Is(err, inbox.ErrTooOld) {
		t.Errorf("a dropped event: %v", err)
	}
	for _, id := range []string{young, "young"} {
		if first, err := claims(t, pool, "c", id, nil); err != nil || first {
			t.Errorf("%s: %v, %v", id, first, err)
		}
	}
	if r, err := inbox.Cleanup(t.Context(), pool, &inbox.CleanupOptions{Retention: 30 * day}); err != nil || len(r.Dropped)+int(r.Foreign)+r.Made != 0 {
		t.Errorf("the second time: %+v, %v", r, err)
	}
	// A longer retention does not bring anything back.
	if r, err := inbox.Cleanup(t.Context(), pool, &inbox.CleanupOptions{Retention: 300 * day}); err != nil || r.Floor.Before(now.Add(-31*day)) {
		t.Errorf("the floor went down: %+v, %v", r, err)
	}
}

// TestForeignIdsAreDeletedInBatches: 12,000 entries of two consumers, the old ones only.
func TestForeignIdsAreDeletedInBatches(t *testing.T) {
	t.Parallel()
	pool := newLedger(t)
	exec(t, pool, `INSERT INTO pgsagaz.consumer_inbox (event_id, consumer_name, source_topic, event_type, consumed_at, foreign_id)
		SELECT pgsagaz.inbox_hash('', i::text), CASE WHEN i % 2 = 0 THEN 'a' ELSE 'b' END, '', '', now() - CASE WHEN i <= 12000 THEN interval '40 days' ELSE interval '1 day' END, i::text
		FROM generate_series(1, 13000) i`)
	exec(t, pool, `CREATE TABLE sizes (n integer)`)
	exec(t, pool, `CREATE FUNCTION size() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO sizes SELECT count(*) FROM gone; RETURN NULL; END $$`)
	exec(t, pool, `CREATE TRIGGER size AFTER DELETE ON pgsagaz.consumer_inbox_foreign REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION size()`)
	r, err := inbox.Cleanup(t.Context(), pool, nil)
	if err != nil || r.Foreign != 12000 || r.Retention != 30*day {
		t.Errorf("%+v, %v", r, err)
	}
	if n := query[int](t, pool, `SELECT max(n) FROM sizes`); n != 5000 {
		t.Errorf("%d at a time", n)
	}
	if n := query[int](t, pool, `SELECT count(*) FROM pgsagaz.consumer_inbox`); n != 1000 {
		t.Errorf("%d are left", n)
	}
}

// TestRetentionIsNotShorterThanTheHorizon: what a broker may deliver again must be known.
func TestRetentionIsNotShorterThanTheHorizon(t *testing.T) {
	t.Parallel()
	pool := newLedger(t)
	exec(t, pool, sql.InboxConsumerPut, "mailer", 14*day, new(20*day))
	exec(t, pool, sql.InboxConsumerPut, "ledger", 7*day, nil)
	for _, retention := range []time.Duration{1, 7 * day, 14*day - 1} {
		_, err := inbox.Cleanup(t.Context(), pool, &inbox.CleanupOptions{Retention: retention})
		if !errors.Is(err, inbox.ErrRetention) || !strings.Contains(err.Error(), "mailer") {
			t.Errorf("%v: %v", retention, err)
		}
	}
	if _, err := inbox.Cleanup(t.Context(), pool, &inbox.CleanupOptions{Retention: -1}); err == nil {
		t.Error("a negative retention")
	}
	for retention, want := range map[time.Duration]time.Duration{0: 20 * day, 14 * day: 14 * day} {
		if r, err := inbox.Cleanup(t.Context(), pool, &inbox.CleanupOptions{Retention: retention}); err != nil || r.Retention != want {
			t.Errorf("%v: %+v, %v", retention, r, err)
		}
	}
	// Whoever has not been seen for longer than its broker keeps anything does not count any more.
	exec(t, pool, `UPDATE pgsagaz.inbox_consumer SET seen_at = now() - interval '15 days' WHERE name = 'mailer'`)
	if r, err := inbox.Cleanup(t.Context(), pool, &inbox.CleanupOptions{Retention: 8 * day}); err != nil || r.Retention != 8*day {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestInterruptedCleanup: a DETACH that was cut off while it waited is finished by the next cleanup, and so is
// a DROP.
func TestInterruptedCleanup(t *testing.T) {
	t.Parallel()
	pool := newLedger(t)
	exec(t, pool, `SELECT pgsagaz.inbox_make_partitions(now())`)
	days(t, pool, 40)
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := inbox.Claim(t.Context(), tx, "c", newID(), nil); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := inbox.Cleanup(ctx, pool, &inbox.CleanupOptions{Retention: 38 * day})
		done <- err
	}()
	waitsForLock(t, pool, 1)
	if r, err := inbox.Cleanup(t.Context(), pool, &inbox.CleanupOptions{Retention: 38 * day}); err != nil || !r.Busy {
		t.Errorf("two cleanups at once: %+v, %v", r, err)
	}
	cancel()
	if err := <-done; err == nil {
		t.Error("the cleanup was not interrupted")
	}
	// The server may notice late that nobody is there any more.
	eventually(t, "the DETACH has ended", func() bool {
		return query[int](t, pool, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%DETACH%' AND state <> 'idle' AND pid <> pg_backend_pid()`) == 0
	})
	if n := query[int](t, pool, `SELECT count(*) FROM pg_inherits WHERE inhdetachpending`); n != 1 {
		t.Fatalf("%d partitions are being detached", n)
	}
	if first, err := claims(t, pool, "c", newID(), nil); err != nil || !first {
		t.Errorf("a claim meanwhile: %v, %v", first, err)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	r, err := inbox.Cleanup(t.Context(), pool, &inbox.CleanupOptions{Retention: 38 * day})
	if err != nil || len(r.Dropped) != 2 {
		t.Errorf("%+v, %v", r, err)
	}
	exec(t, pool, `ALTER TABLE pgsagaz.consumer_inbox DETACH PARTITION pgsagaz.`+query[string](t, pool, `SELECT name FROM pgsagaz.inbox_partition ORDER BY lower LIMIT 1`))
	if r, err = inbox.Cleanup(t.Context(), pool, &inbox.CleanupOptions{Retention: 37 * day}); err != nil || len(r.Dropped) != 1 {
		t.Errorf("detached before, and not dropped: %+v, %v", r, err)
	}
	if n := query[int](t, pool, `SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relname LIKE 'consumer_inbox_2%'`); n != query[int](t, pool, `SELECT count(*) FROM pgsagaz.inbox_partition`) {
		t.Errorf("%d tables", n)
	}
}

// TestConsumersCleanUp: nobody has to remember it.
func TestConsumersCleanUp(t *testing.T) {
	t.Parallel()
	pool := newLedger(t)
	exec(t, pool, `SELECT pgsagaz.inbox_make_partitions(now())`)
	days(t, pool, 60)
	run(t, pool, newBroker().Source("c"), writes("c"), inbox.Config{Retention: 40 * day})
	eventually(t, "what is old has gone", func() bool {
		return query[int](t, pool, `SELECT count(*) FROM pgsagaz.inbox_partition WHERE upper < pgsagaz.inbox_bound(now())`) == 40
	})
	s, err := inbox.Status(t.Context(), pool)
	if err != nil || len(s.Consumers) != 1 || s.Consumers[0].SeenAt == nil || *s.Consumers[0].Retention != 40*day || *s.Consumers[0].Horizon != 7*day ||
		time.Until(s.Ceiling) < 7*day {
		t.Errorf("%+v, %v", s, err)
	}
	never := newLedger(t)
	exec(t, never, `SELECT pgsagaz.inbox_make_partitions(now())`)
	days(t, never, 60)
	run(t, never, newBroker().Source("c"), writes("c"), inbox.Config{Retention: -1})
	eventually(t, "its partitions are made", func() bool {
		return query[int](t, never, `SELECT count(*) FROM pgsagaz.inbox_partition WHERE lower > pgsagaz.inbox_bound(now())`) == 7
	})
	if n := query[int](t, never, `SELECT count(*) FROM pgsagaz.inbox_partition`); n != 68 {
		t.Errorf("%d partitions", n)
	}
}
