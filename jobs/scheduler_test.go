package jobs_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/jobs"
	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// Two workers, over the change to summer time and back. The one that is about to start a slot's saga is killed in the
// midst of it, before its commit, at each change: the other starts it, and no slot is left out or counts twice.
func TestSchedulesOutliveTheirWorkers(t *testing.T) {
	t.Parallel()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	pool := sqltest.New(t)
	scalar := func(dest any, statement string, args ...any) {
		t.Helper()
		if err := pool.QueryRow(ctx, statement, args...).Scan(dest); err != nil {
			t.Fatal(err)
		}
	}
	execute := func(statement string, args ...any) {
		t.Helper()
		if _, err := pool.Exec(ctx, statement, args...); err != nil {
			t.Fatal(err)
		}
	}
	e, err := pgengine.New(pool, pgengine.Config{Logger: slog.New(slog.DiscardHandler), Sagas: []pgengine.Definition{
		pgengine.Saga[nothing]{Version: 1, Steps: pgengine.Steps[nothing](pgengine.TxStep[nothing, int]{
			Name: "step", Do: func(context.Context, pgx.Tx, pgengine.Call[nothing]) (int, error) { return 7, nil },
		})},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pool.Exec(ctx, sql.KitClock, pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatal(err)
	}
	goTo := func(at string) {
		execute(`UPDATE pgsagaz.test_clock SET ahead = $1::timestamptz - clock_timestamp()`, at)
	}
	goTo("2026-03-28T23:59:00Z")
	if err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		return e.Schedule(ctx, tx, nothing{}, pgengine.Schedule{Name: "night", Cron: "30 2 * * *", Zone: "Europe/Berlin", CatchUp: pgengine.CatchUpOnce})
	}); err != nil {
		t.Fatal(err)
	}
	// Whoever has started the sagas of a slot, and not committed, waits here for as long as the test holds the lock.
	execute(`CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock_shared(77); RETURN NEW; END $$`)
	execute(`CREATE TRIGGER hold BEFORE UPDATE ON pgsagaz.schedule FOR EACH ROW EXECUTE FUNCTION hold()`)

	done := make(chan error, 2)
	for range 2 {
		w, err := jobs.NewWorker(e, jobs.Config{Sweep: 20 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		go func() { done <- w.Run(ctx) }()
	}
	key, err := pool.Acquire(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer key.Release()
	started := 0
	for _, at := range []string{"2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z", "2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"} {
		if _, err := key.Exec(ctx, `SELECT pg_advisory_lock(77)`); err != nil {
			t.Fatal(err)
		}
		goTo(at)
		for killed := false; !killed; time.Sleep(time.Millisecond) {
			scalar(&killed, `SELECT coalesce(bool_or(pg_terminate_backend(pid)), false) FROM pg_stat_activity
			                 WHERE datname = current_database() AND wait_event = 'advisory' AND query LIKE '%pgsagaz.schedule%'`)
		}
		if _, err := key.Exec(ctx, `SELECT pg_advisory_unlock(77)`); err != nil {
			t.Fatal(err)
		}
		want := started + 1
		for started < want {
			scalar(&started, `SELECT count(*) FROM pgsagaz.start_key WHERE key LIKE 'schedule night %'`)
		}
		var there bool
		if scalar(&there, `SELECT EXISTS (SELECT FROM pgsagaz.start_key WHERE key = 'schedule night ' || $1)`, at); !there || started != want {
			t.Errorf("slot %s is there: %v; %d sagas, want %d", at, there, started, want)
		}
	}
	// And in the hour that comes twice, nothing.
	goTo("2026-10-27T00:30:00Z")
	time.Sleep(100 * time.Millisecond)
	if scalar(&started, `SELECT count(*) FROM pgsagaz.start_key`); started != 4 {
		t.Errorf("%d sagas, want 4", started)
	}
	for open := 1; open > 0; time.Sleep(time.Millisecond) {
		scalar(&open, `SELECT count(*) FROM pgsagaz.saga WHERE state <> 'completed'`)
	}
	stop()
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}
