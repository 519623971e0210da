package jobs_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/jobs"
	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

type (
	urgent struct{}
	bulk   struct{}
)

func (urgent) SagaName() string { return "urgent" }
func (bulk) SagaName() string   { return "bulk" }

// desk notes what is done, in which order.
type desk struct {
	mu   sync.Mutex
	done []string
	then func(tx pgx.Tx, step string) error // what a step does; nil: nothing
}

func (d *desk) order() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.done)
}

// note is a step that is noted.
func note[I pgengine.Input](d *desk, name string, priority int, after ...pgengine.Step[I]) pgengine.TxStep[I, int] {
	return pgengine.TxStep[I, int]{Name: name, Priority: priority, After: after, Do: func(_ context.Context, tx pgx.Tx, _ pgengine.Call[I]) (int, error) {
		d.mu.Lock()
		d.done = append(d.done, name)
		d.mu.Unlock()
		if d.then != nil {
			return 0, d.then(tx, name)
		}
		return 0, nil
	}}
}

// one is a worker that does one thing at a time.
func one(t *testing.T, e *pgengine.Engine) {
	t.Helper()
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	w, err := jobs.NewWorker(e, jobs.Config{Sweep: 20 * time.Millisecond, MaxWorkers: 1})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func register(t *testing.T, pool *pgxpool.Pool, sagas ...pgengine.Definition) *pgengine.Engine {
	t.Helper()
	e, err := pgengine.New(pool, pgengine.Config{Logger: slog.New(slog.DiscardHandler), Sagas: sagas})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Register(t.Context()); err != nil {
		t.Fatal(err)
	}
	return e
}

func start(t *testing.T, e *pgengine.Engine, in pgengine.Input) {
	t.Helper()
	if err := sql.InTx(t.Context(), e.Pool(), func(tx pgx.Tx) error { _, err := e.Start(t.Context(), tx, in, nil); return err }); err != nil {
		t.Fatal(err)
	}
}

// A worker that comes to a backlog takes what has the highest priority first, whichever was there first: by the saga, and by
// the step.
func TestTheHighestPriorityGoesFirst(t *testing.T) {
	t.Parallel()
	d := &desk{}
	last := note[bulk](d, "bulk-last", 4, note[bulk](d, "bulk-first", 0))
	e := register(t, sqltest.New(t),
		pgengine.Saga[urgent]{Version: 1, Priority: 2, Steps: pgengine.Steps[urgent](note[urgent](d, "urgent", 0))},
		pgengine.Saga[bulk]{Version: 1, Priority: 3, Steps: pgengine.Steps[bulk](note[bulk](d, "bulk-first", 0), last)})
	const n = 8
	for range n {
		start(t, e, bulk{})
	}
	for range n {
		start(t, e, urgent{})
	}
	one(t, e)
	want := slices.Concat(slices.Repeat([]string{"urgent"}, n), slices.Repeat([]string{"bulk-first"}, n), slices.Repeat([]string{"bulk-last"}, n))
	eventually(t, "the end of the backlog", func() bool { return len(d.order()) == 3*n })
	if got := d.order(); !slices.Equal(got, want) {
		t.Errorf("it was done in the order %v", got)
	}
}

// What has a low priority gets on, however much of a higher there always is: of what has waited for a minute the oldest is
// let through, and not all of it at once.
func TestNothingStarves(t *testing.T) {
	t.Parallel()
	d := &desk{}
	pool := sqltest.New(t)
	e := register(t, pool,
		pgengine.Saga[urgent]{Version: 1, Steps: pgengine.Steps[urgent](note[urgent](d, "urgent", 0))},
		pgengine.Saga[bulk]{Version: 1, Priority: 4, Steps: pgengine.Steps[bulk](note[bulk](d, "bulk", 0))})
	over := make(chan struct{})
	d.then = func(tx pgx.Tx, step string) error {
		select {
		case <-over:
			return nil
		default:
		}
		if step == "urgent" { // each brings the next: there is always one
			_, err := e.Start(t.Context(), tx, urgent{}, nil)
			return err
		}
		close(over)
		return nil
	}
	start(t, e, bulk{})
	for range 5 {
		start(t, e, urgent{})
	}
	if _, err := pool.Exec(t.Context(), `UPDATE pgsagaz.river_job SET scheduled_at = scheduled_at - interval '2 minutes' WHERE priority = 4`); err != nil {
		t.Fatal(err)
	}
	one(t, e)
	eventually(t, "the bulk", func() bool { return slices.Contains(d.order(), "bulk") })
	eventually(t, "the end", func() bool {
		var left int
		if err := pool.QueryRow(t.Context(), `SELECT count(*) FROM pgsagaz.saga WHERE ended_at IS NULL`).Scan(&left); err != nil {
			t.Fatal(err)
		}
		return left == 0
	})
}

func TestFewAreRaisedAtOnce(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	if _, err := pool.Exec(t.Context(), `
		INSERT INTO pgsagaz.river_job (kind, args, max_attempts, queue, priority, scheduled_at, state)
		SELECT 'k', '{}', 1, q, p, now() - n * interval '25 seconds', 'available'
		FROM unnest('{default,slow,other}'::text[]) q, generate_series(1, 4) p, generate_series(1, 9) n`); err != nil {
		t.Fatal(err)
	}
	if _, err := pool.Exec(t.Context(), sql.SweepWaiting, []string{"default", "slow"}, 4); err != nil {
		t.Fatal(err)
	}
	rows, err := pool.Query(t.Context(), `SELECT queue, priority, count(*), round(extract(epoch FROM now() - max(scheduled_at))) FROM pgsagaz.river_job GROUP BY 1, 2 ORDER BY 1, 2`)
	if err != nil {
		t.Fatal(err)
	}
	type group struct {
		Queue           string
		Priority, Count int
		Youngest        float64
	}
	groups, err := pgx.CollectRows(rows, pgx.RowToStructByPos[group])
	if err != nil {
		t.Fatal(err)
	}
	got := ""
	for _, g := range groups {
		got += fmt.Sprintf("%s %d %d; ", g.Queue, g.Priority, g.Count)
	}
	// Of each nine the oldest four; those of another queue, and those that have waited for less than a minute, never.
	if want := "default 1 21; default 2 5; default 3 5; default 4 5; other 1 9; other 2 9; other 3 9; other 4 9; slow 1 21; slow 2 5; slow 3 5; slow 4 5; "; got != want {
		t.Errorf("%s want %s", got, want)
	}
	for range 3 {
		if _, err := pool.Exec(t.Context(), sql.SweepWaiting, []string{"default", "slow"}, 4); err != nil {
			t.Fatal(err)
		}
	}
	var left int
	if err := pool.QueryRow(t.Context(), `SELECT count(*) FROM pgsagaz.river_job WHERE queue = 'slow' AND priority > 1`).Scan(&left); err != nil || left != 3*2 {
		t.Errorf("%d have not waited for long enough, %v; want 6", left, err)
	}
}
