package inbox_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/inbox"
	"github.com/pgsagaz/pgsagaz/sql"
)

// waitsForLock waits until n sessions of this database wait for a lock.
func waitsForLock(t testing.TB, pool *pgxpool.Pool, n int) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(2 * time.Millisecond) {
		got := query[int](t, pool, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`)
		if got >= n {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d sessions wait for a lock, want %d", got, n)
		}
	}
}

// TestConcurrentDuplicate: the second waits until it is known what becomes of the first. Then it skips, or
// does the work itself.
func TestConcurrentDuplicate(t *testing.T) {
	t.Parallel()
	for name, outcome := range map[string]error{"the first commits": nil, "the first fails": errors.New("no")} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := newLedger(t)
			exec(t, pool, `SELECT pgsagaz.inbox_make_partitions(now())`)
			m := inbox.Message{ID: newID()}
			begun, goOn := make(chan struct{}), make(chan struct{})
			type result struct {
				first bool
				err   error
			}
			results := make(chan result, 2)
			go func() {
				first, err := inbox.Process(t.Context(), pool, "c", m, func(ctx context.Context, tx pgx.Tx, m inbox.Message) error {
					close(begun)
					<-goOn
					return errors.Join(writes("c")(ctx, tx, m), outcome)
				})
				results <- result{first, err}
			}()
			<-begun
			second := make(chan result, 1)
			go func() {
				first, err := inbox.Process(t.Context(), pool, "c", m, writes("c"))
				second <- result{first, err}
			}()
			waitsForLock(t, pool, 1)
			select {
			case r := <-second:
				t.Errorf("the second did not wait: %+v", r)
			default:
			}
			// Another consumer does not.
			if first, err := inbox.Process(t.Context(), pool, "d", m, writes("d")); err != nil || !first {
				t.Errorf("another consumer: %v, %v", first, err)
			}
			close(goOn)
			if r := <-results; r.first != (outcome == nil) || !errors.Is(r.err, outcome) {
				t.Errorf("the first: %+v", r)
			}
			if r := <-second; r.first != (outcome != nil) || r.err != nil {
				t.Errorf("the second: %+v", r)
			}
			if n := effects(t, pool, "c", m.ID); n != 1 {
				t.Errorf("%d effects", n)
			}
		})
	}
}

// TestTenAtOnce: ten deliveries of one event at once, some of which fail.
func TestTenAtOnce(t *testing.T) {
	t.Parallel()
	pool := newLedger(t)
	m := inbox.Message{ID: "evt-1"}
	var mu sync.Mutex
	calls, firsts := 0, 0
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			first, err := inbox.Process(t.Context(), pool, "c", m, func(ctx context.Context, tx pgx.Tx, m inbox.Message) error {
				mu.Lock()
				calls++
				fails := calls < 4
				mu.Unlock()
				if fails {
					return errors.New("no")
				}
				return writes("c")(ctx, tx, m)
			})
			mu.Lock()
			defer mu.Unlock()
			if first && err == nil {
				firsts++
			}
		})
	}
	wg.Wait()
	if firsts != 1 || calls != 4 || effects(t, pool, "c", m.ID) != 1 {
		t.Errorf("%d were the first, the handler was called %d times, %d effects", firsts, calls, effects(t, pool, "c", m.ID))
	}
}

// TestLockTimeoutIsNoDuplicate: it is tried again, and in the end an error.
func TestLockTimeoutIsNoDuplicate(t *testing.T) {
	t.Parallel()
	pool := newLedger(t)
	exec(t, pool, `SELECT pgsagaz.inbox_make_partitions(now())`)
	config := pool.Config().Copy()
	config.ConnConfig.RuntimeParams["lock_timeout"] = "20ms"
	impatient, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer impatient.Close()
	m := inbox.Message{ID: newID()}
	holder, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if first, err := inbox.Claim(t.Context(), holder, "c", m.ID, nil); err != nil || !first {
		t.Fatal(first, err)
	}
	if _, err := claims(t, impatient, "c", m.ID, nil); sql.State(err) != "55P03" {
		t.Errorf("a claim that ran out of patience: %v", err)
	}
	done := make(chan error, 1)
	go func() {
		first, err := inbox.Process(t.Context(), impatient, "c", m, writes("c"))
		if err == nil && !first {
			err = errors.New("a lock timeout was taken for a duplicate")
		}
		done <- err
	}()
	time.Sleep(60 * time.Millisecond) // some lock timeouts later
	if err := holder.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if n := effects(t, pool, "c", m.ID); n != 1 {
		t.Errorf("%d effects", n)
	}
}

// TestClaimsGoInOneOrder: a batch that waits for an event holds none that comes after it, whatever its own order. Otherwise whoever has
// that event, and claims one of the others, would wait for the batch in turn.
func TestClaimsGoInOneOrder(t *testing.T) {
	t.Parallel()
	pool := newLedger(t)
	exec(t, pool, `SELECT pgsagaz.inbox_make_partitions(now())`)
	ids := []string{newID(), newID()}
	slices.Sort(ids)
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(t.Context()) }()
	claim := func(id string) {
		t.Helper()
		if first, err := inbox.Claim(t.Context(), tx, "c", id, nil); err != nil || !first {
			t.Errorf("%v, %v", first, err)
		}
	}
	claim(ids[0])
	var outcomes []string
	batch := make(chan error, 1)
	go func() {
		batch <- pool.QueryRow(t.Context(), sql.InboxClaims, "c", []string{ids[1], ids[0]}, make([]*string, 2), []string{"", ""}, []string{"", ""}, nil, nil, nil).Scan(&outcomes)
	}()
	waitsForLock(t, pool, 1)
	claim(ids[1])
	if err := tx.Commit(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-batch; err != nil || !slices.Equal(outcomes, []string{"duplicate", "duplicate"}) {
		t.Errorf("%v, %v", outcomes, err)
	}
}

// TestOppositeOrders: two batches of the same events, one the reverse of the other, whose claims go in one
// order: no deadlock.
func TestOppositeOrders(t *testing.T) {
	t.Parallel()
	pool := newLedger(t)
	exec(t, pool, `SELECT pgsagaz.inbox_make_partitions(now())`)
	for range 30 {
		var ids []string
		for i := range 50 {
			id := newID()
			if i%4 == 0 {
				id = inbox.EventID("", id+"x").String()
			}
			ids = append(ids, id)
		}
		back := slices.Clone(ids)
		slices.Reverse(back)
		none := make([]string, len(ids))
		results := make(chan error, 2)
		firsts := make(chan int, 2)
		for _, order := range [][]string{ids, back} {
			go func() {
				var outcomes []string
				err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
					return tx.QueryRow(t.Context(), sql.InboxClaims, "c", order, make([]*string, len(order)), none, none, nil, nil, nil).Scan(&outcomes)
				})
				n := 0
				for _, o := range outcomes {
					if o == "first" {
						n++
					}
				}
				firsts <- n
				results <- err
			}()
		}
		for range 2 {
			if err := <-results; err != nil {
				t.Errorf("%v", err)
			}
		}
		if n := <-firsts + <-firsts; n != len(ids) {
			t.Errorf("%d firsts of %d events", n, len(ids))
		}
	}
}

// TestRepeatableRead: a duplicate that commits during the transaction is a serialization failure there, and no
// first time.
func TestRepeatableRead(t *testing.T) {
	t.Parallel()
	pool := newLedger(t)
	exec(t, pool, `SELECT pgsagaz.inbox_make_partitions(now())`)
	id := newID()
	tx, err := pool.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(t.Context()) }()
	query[int](t, tx, `SELECT count(*) FROM ledger`) // its snapshot
	if first, err := claims(t, pool, "c", id, nil); err != nil || !first {
		t.Fatal(first, err)
	}
	if first, err := inbox.Claim(t.Context(), tx, "c", id, nil); sql.State(err) != "40001" {
		t.Errorf("%v, %v", first, err)
	}
}

// TestCleanupAgainstClaims walks the race of the floor: a claim that has read the old floor, and a cleanup that
// raises it and removes what the claim would have found.
func TestCleanupAgainstClaims(t *testing.T) {
	t.Parallel()
	month := &inbox.CleanupOptions{Retention: 30 * 24 * time.Hour}
	old := time.Now().AddDate(0, 0, -40)

	t.Run("a claim that has the entry ends before it is dropped", func(t *testing.T) {
		t.Parallel()
		pool := newLedger(t)
		exec(t, pool, `SELECT pgsagaz.inbox_make_partitions(now())`)
		days(t, pool, 60)
		tx, err := pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		id := at(old)
		if first, err := inbox.Claim(t.Context(), tx, "c", id, nil); err != nil || !first {
			t.Fatal(first, err)
		}
		done := make(chan error, 1)
		go func() {
			_, err := inbox.Cleanup(t.Context(), pool, month)
			done <- err
		}()
		waitsForLock(t, pool, 1) // the cleanup waits for the claim, the floor being raised
		// Nobody waits for the cleanup: not another claim, nor one of the same event.
		if first, err := claims(t, pool, "c", newID(), nil); err != nil || !first {
			t.Errorf("a claim beside the cleanup: %v, %v", first, err)
		}
		if _, err := claims(t, pool, "c", id, nil); !errors.Is(err, inbox.ErrTooOld) {
			t.Errorf("a claim below the new floor: %v", err)
		}
		select {
		case err := <-done:
			t.Errorf("the cleanup did not wait: %v", err)
		default:
		}
		if err := tx.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		if _, err := claims(t, pool, "c", id, nil); !errors.Is(err, inbox.ErrTooOld) {
			t.Errorf("after the cleanup: %v", err)
		}
	})

	// Between the floor and the INSERT of one claim the partition, or the entry, vanishes. The claim is stopped
	// there by a lock on the consumer's name that a trigger asks for.
	for name, c := range map[string]struct {
		id      string
		o       *inbox.ClaimOptions
		foreign bool
	}{
		"a UUIDv7":        {id: at(old)},
		"of another make": {id: "evt-1", o: &inbox.ClaimOptions{Time: old}, foreign: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := newLedger(t)
			exec(t, pool, `SELECT pgsagaz.inbox_make_partitions(now())`)
			days(t, pool, 60)
			if first, err := claims(t, pool, "c", c.id, c.o); err != nil || !first {
				t.Fatal(first, err)
			}
			exec(t, pool, `UPDATE pgsagaz.consumer_inbox SET consumed_at = $1`, old)
			// A statement-level trigger runs after the floor was read and before a row is looked for.
			exec(t, pool, `CREATE FUNCTION stop() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock_shared(77); RETURN NULL; END $$`)
			exec(t, pool, `CREATE TRIGGER stop BEFORE INSERT ON pgsagaz.consumer_inbox FOR EACH STATEMENT EXECUTE FUNCTION stop()`)
			gate, err := pool.Acquire(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer gate.Release()
			exec(t, gate, `SELECT pg_advisory_lock(77)`)
			type result struct {
				first bool
				err   error
			}
			got := make(chan result, 1)
			go func() {
				first, err := claims(t, pool, "c", c.id, c.o)
				got <- result{first, err}
			}()
			waitsForLock(t, pool, 1)
			cleaned := make(chan error, 1)
			go func() {
				_, err := inbox.Cleanup(t.Context(), pool, month)
				cleaned <- err
			}()
			if c.foreign {
				// The DELETE needs no lock that the claim has. But the partitions' DETACH comes first, and waits for the
				// claim: so the entry is deleted here as the cleanup would.
				waitsForLock(t, pool, 2)
				exec(t, pool, sql.InboxForeignDelete, "c")
				if n := query[int](t, pool, `SELECT count(*) FROM pgsagaz.consumer_inbox_foreign`); n != 0 {
					t.Fatalf("%d entries left", n)
				}
			} else {
				waitsForLock(t, pool, 2)
			}
			exec(t, gate, `SELECT pg_advisory_unlock(77)`)
			r := <-got
			if r.first {
				t.Error("an event that had taken effect was taken for new")
			}
			if c.foreign && sql.State(r.err) != "40001" {
				t.Errorf("it was not told to try again: %v", r.err)
			}
			if err := <-cleaned; err != nil {
				t.Error(err)
			}
			if first, err := claims(t, pool, "c", c.id, c.o); !errors.Is(err, inbox.ErrTooOld) {
				t.Errorf("the next try: %v, %v", first, err)
			}
		})
	}
}

// days makes the partition of the past into one a day, as if the inbox had been in use for n days.
func days(t testing.TB, pool *pgxpool.Pool, n int) {
	t.Helper()
	exec(t, pool, fmt.Sprintf(`DO $$
		DECLARE
			today timestamptz := date_trunc('day', pgsagaz.now(), 'UTC');
			name  text;
		BEGIN
			DELETE FROM pgsagaz.inbox_partition p WHERE p.name = 'consumer_inbox_20200101';
			DROP TABLE pgsagaz.consumer_inbox_20200101;
			UPDATE pgsagaz.inbox_state SET floor = pgsagaz.inbox_bound(today - interval '%d days');
			FOR n IN REVERSE %d..1 LOOP
				name := 'consumer_inbox_' || to_char((today - n * interval '1 day') AT TIME ZONE 'UTC', 'YYYYMMDD');
				EXECUTE format('CREATE TABLE pgsagaz.%%I PARTITION OF pgsagaz.consumer_inbox FOR VALUES FROM (%%L) TO (%%L)', name,
					pgsagaz.inbox_bound(today - n * interval '1 day'), pgsagaz.inbox_bound(today - (n - 1) * interval '1 day'));
				INSERT INTO pgsagaz.inbox_partition (name, lower, upper, late) VALUES (name,
					pgsagaz.inbox_bound(today - n * interval '1 day'), pgsagaz.inbox_bound(today - (n - 1) * interval '1 day'), false);
			END LOOP;
		END
		$$`, n, n))
}

// cutter is a tracer that cuts the connection around the COMMIT of the inbox.
type cutter struct {
	mu   sync.Mutex
	when string // before or after; "" neither
}

func (c *cutter) arm(when string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.when = when
}

func (c *cutter) take(when string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.when != when {
		return false
	}
	c.when = ""
	return true
}

func (c *cutter) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return ctx
}
func (c *cutter) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func (c *cutter) TraceBatchStart(ctx context.Context, conn *pgx.Conn, data pgx.TraceBatchStartData) context.Context {
	queued := data.Batch.QueuedQueries
	if n := len(queued); n > 0 && queued[n-1].SQL == "COMMIT" && c.take("before") {
		_ = conn.PgConn().Conn().Close()
	}
	return ctx
}

func (c *cutter) TraceBatchQuery(_ context.Context, conn *pgx.Conn, data pgx.TraceBatchQueryData) {
	if data.CommandTag.String() == "COMMIT" && c.take("after") {
		_ = conn.PgConn().Conn().Close()
	}
}
func (c *cutter) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData) {}

// TestCommitIsCutOff: whoever does not know what became of his commit tries again, and finds out by the claim.
func TestCommitIsCutOff(t *testing.T) {
	t.Parallel()
	ledger := newLedger(t)
	c := &cutter{}
	config := ledger.Config().Copy()
	config.ConnConfig.Tracer = c
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	for _, when := range []string{"before", "after"} {
		m := inbox.Message{ID: newID()}
		c.arm(when)
		_, err := inbox.Process(t.Context(), pool, "c", m, writes("c"))
		if err != nil {
			t.Errorf("cut off %s: %v", when, err)
		}
		if n := effects(t, ledger, "c", m.ID); n != 1 {
			t.Errorf("cut off %s: %d effects", when, n)
		}
	}
}
