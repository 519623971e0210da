package inbox_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/inbox"
	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// newLedger is a database with a table of effects.
func newLedger(t testing.TB) *pgxpool.Pool {
	t.Helper()
	pool := sqltest.New(t)
	exec(t, pool, `CREATE TABLE ledger (n bigint GENERATED ALWAYS AS IDENTITY, consumer text NOT NULL, event text NOT NULL, key text NOT NULL DEFAULT '', at timestamptz DEFAULT clock_timestamp())`)
	return pool
}

func exec(t testing.TB, db sql.Querier, query string, args ...any) {
	t.Helper()
	if _, err := db.Exec(t.Context(), query, args...); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

func query[T any](t testing.TB, db sql.Querier, query string, args ...any) (v T) {
	t.Helper()
	if err := db.QueryRow(t.Context(), query, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return v
}

func list[T any](t testing.TB, db sql.Querier, query string, args ...any) []T {
	t.Helper()
	rows, err := db.Query(t.Context(), query, args...)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	v, err := pgx.CollectRows(rows, pgx.RowTo[T])
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return v
}

// writes is a handler that writes the effect of a message.
func writes(consumer string) inbox.Handler {
	return func(ctx context.Context, tx pgx.Tx, m inbox.Message) error {
		_, err := tx.Exec(ctx, `INSERT INTO ledger (consumer, event, key) VALUES ($1, $2, $3)`, consumer, m.ID, m.Key)
		return err
	}
}

func effects(t testing.TB, db sql.Querier, consumer, event string) int {
	t.Helper()
	return query[int](t, db, `SELECT count(*) FROM ledger WHERE consumer = $1 AND event = $2`, consumer, event)
}

func newID() string { return uuid.Must(uuid.NewV7()).String() }

func TestProcess(t *testing.T) {
	t.Parallel()
	pool := newLedger(t)
	m := inbox.Message{ID: newID(), Topic: "orders", Type: "orders.shipped", Payload: []byte("x")}
	for i, want := range []bool{true, false, false} {
		first, err := inbox.Process(t.Context(), pool, "mailer", m, writes("mailer"))
		if err != nil || first != want {
			t.Errorf("call %d: %v, %v", i+1, first, err)
		}
	}
	if n := effects(t, pool, "mailer", m.ID); n != 1 {
		t.Errorf("%d effects", n)
	}
	got := query[string](t, pool, `SELECT consumer_name || ' ' || source_topic || ' ' || event_type || ' ' || (payload IS NULL) || ' ' || (processing_duration_ms >= 0)
		|| ' ' || (consumed_at <= now()) FROM pgsagaz.consumer_inbox WHERE event_id = $1`, m.ID)
	if got != "mailer orders orders.shipped true true true" {
		t.Error(got)
	}
	broken := errors.New("broken")
	m.ID = newID()
	_, err := inbox.Process(t.Context(), pool, "mailer", m, func(ctx context.Context, tx pgx.Tx, m inbox.Message) error {
		return errors.Join(writes("mailer")(ctx, tx, m), broken)
	})
	if !errors.Is(err, broken) || effects(t, pool, "mailer", m.ID) != 0 {
		t.Errorf("%v, %d effects", err, effects(t, pool, "mailer", m.ID))
	}
}

// TestEveryWayToAskPostgres: poolers in transaction mode know no prepared statements.
func TestEveryWayToAskPostgres(t *testing.T) {
	t.Parallel()
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec, pgx.QueryExecModeExec} {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			ledger := newLedger(t)
			config := ledger.Config().Copy()
			config.ConnConfig.DefaultQueryExecMode = mode
			pool, err := pgxpool.NewWithConfig(t.Context(), config)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(pool.Close)
			b := newBroker()
			messages := letters(40, 5)
			messages[7].Time, messages[9].Time = time.Now(), time.Now() // one of each make
			b.Publish(messages...)
			b.Publish(messages...)
			var mended atomic.Bool
			var calls counted
			stop := run(t, pool, b.Source("c"), calls.handler(func(ctx context.Context, tx pgx.Tx, m inbox.Message, n int) error {
				switch {
				case m.ID == messages[3].ID && n < 3:
					return errors.New("no")
				case m.ID == messages[5].ID && !mended.Load():
					return inbox.Terminal(errors.New("no"))
				case m.ID == messages[6].ID:
					time.Sleep(2 * time.Millisecond)
				}
				return writes("c")(ctx, tx, m)
			}), inbox.Config{KeepPayload: true, BatchTime: time.Millisecond})
			drained(t, b)
			dead := deadLetters(t, pool)
			if len(dead) != 1 {
				t.Fatalf("%+v", dead)
			}
			mended.Store(true)
			if _, err := inbox.Redrive(t.Context(), pool, inbox.By{}, dead[0].ID); err != nil {
				t.Fatal(err)
			}
			eventually(t, "it is done", func() bool { return len(deadLetters(t, pool)) == 0 })
			stop()
			if n := query[int](t, ledger, `SELECT count(*) FROM ledger`); n != 40 {
				t.Errorf("%d effects", n)
			}
			if first, err := inbox.Process(t.Context(), pool, "c", messages[0], writes("c")); err != nil || first {
				t.Errorf("%v, %v", first, err)
			}
			if _, err := inbox.Status(t.Context(), pool); err != nil {
				t.Error(err)
			}
			if _, err := inbox.Cleanup(t.Context(), pool, nil); err != nil {
				t.Error(err)
			}
		})
	}
}
