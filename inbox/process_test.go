package inbox_test

import (
	"context"
	"errors"
	"testing"

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
