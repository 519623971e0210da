package jobs_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/jobs"
	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// Two workers archive what has ended, while they work: nothing is lost, nothing is there twice, and whoever waits
// for a saga hears of its end wherever it lies by then.
func TestWorkersArchive(t *testing.T) {
	t.Parallel()
	const sagas = 200
	pool := sqltest.New(t)
	e, err := pgengine.New(pool, pgengine.Config{Logger: slog.New(slog.DiscardHandler), Sagas: []pgengine.Definition{
		pgengine.Saga[nothing]{Version: 1, Steps: pgengine.Steps[nothing](pgengine.TxStep[nothing, int]{
			Name: "step", Do: func(context.Context, pgx.Tx, pgengine.Call[nothing]) (int, error) { return 7, nil },
		})},
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 2)
	for range 2 {
		w, err := jobs.NewWorker(e, jobs.Config{ArchiveAfter: time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		go func() { done <- w.Run(ctx) }()
	}
	ids := make([]string, sagas)
	for i := range ids {
		if err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			s, err := e.Start(ctx, tx, nothing{}, nil)
			ids[i] = s.ID
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range ids {
		if s, err := e.Wait(ctx, id); err != nil || s.State != pgengine.Completed {
			t.Fatalf("%+v, %v", s, err)
		}
	}
	for live := -1; live != 0; time.Sleep(5 * time.Millisecond) {
		if err := pool.QueryRow(ctx, `SELECT count(*) FROM pgsagaz.saga`).Scan(&live); err != nil {
			t.Fatal(err)
		}
	}
	var archived, results int
	if err := pool.QueryRow(ctx, `SELECT count(*), count(*) FILTER (WHERE steps -> 0 ->> 'result' = '7') FROM pgsagaz.archive`).Scan(&archived, &results); err != nil || archived != sagas || results != sagas {
		t.Errorf("%d archived, %d with their results, %v", archived, results, err)
	}
	stop()
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}
