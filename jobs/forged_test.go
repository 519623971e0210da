package jobs_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/jobs"
	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

type errand struct{ Long bool }

func (errand) SagaName() string { return "errand" }

// TestAForgedNotify: NOTIFY needs no right. Whatever anybody says on the channels that workers hear, however often, costs looks at the database: no call
// is cut off, no queue is paused, no job cancelled.
func TestAForgedNotify(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	begun, ended := make(chan struct{}), make(chan struct{})
	call := pgengine.Activity[errand, string]{
		Name: "call",
		Do: func(ctx context.Context, c pgengine.Call[errand]) (string, error) {
			if !c.Input.Long {
				return "", nil
			}
			close(begun)
			select {
			case <-ended:
				return "", nil
			case <-ctx.Done():
				return "", context.Cause(ctx)
			}
		},
		Retry: pgengine.NoRetry,
	}
	e, err := pgengine.New(pool, pgengine.Config{Sagas: []pgengine.Definition{
		pgengine.Saga[errand]{Version: 1, OnFailure: pgengine.FailFast, Steps: pgengine.Steps[errand](call)},
	}})
	if err != nil {
		t.Fatal(err)
	}
	w, err := jobs.NewWorker(e, jobs.Config{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error)
	go func() { done <- w.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	start := func(in errand) (id string) {
		t.Helper()
		if err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
			s, err := e.Start(t.Context(), tx, in, nil)
			id = s.ID
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return id
	}
	completes := func(id string) {
		t.Helper()
		bounded, cancel := context.WithTimeout(t.Context(), 30*time.Second) // before River looks by itself whether a queue is paused
		defer cancel()
		if s, err := e.Wait(bounded, id); err != nil || s.State != pgengine.Completed {
			t.Errorf("%s, %v", s.State, err)
		}
	}
	long := start(errand{Long: true})
	<-begun
	var job int64
	if err := pool.QueryRow(t.Context(), `SELECT id FROM pgsagaz.river_job WHERE state = 'running' AND kind LIKE 'pgsagaz/%'`).Scan(&job); err != nil {
		t.Fatal(err)
	}
	said := map[string][]string{
		"pgsagaz.halt":             {long, "", "x", strings.Repeat("7", 7000), "'; DROP TABLE pgsagaz.saga; --"},
		"pgsagaz.river_control":    {`{"action":"pause","queue":"*"}`, `{"action":"pause","queue":"default"}`, fmt.Sprintf(`{"action":"cancel","queue":"default","job_id":%d}`, job), "x"},
		"pgsagaz.river_leadership": {`{"action":"request_resign","leader_id":"*"}`, `{"action":"resigned"}`, "x"},
		"pgsagaz.river_insert":     {`{"queue":"default"}`, `{"queue":"none"}`, "x", ""},
	}
	for channel, payloads := range said {
		for _, payload := range payloads {
			if _, err := pool.Exec(t.Context(), `SELECT pg_notify($1, $2) FROM (SELECT $2 || repeat(' ', n % 100) FROM generate_series(1, 100) n) x`, channel, payload); err != nil {
				t.Fatal(err)
			}
		}
	}
	for range 5 {
		completes(start(errand{}))
	}
	close(ended)
	completes(long)
	s, err := e.Get(t.Context(), long)
	if err != nil || len(s.Attempts) > 0 {
		t.Errorf("%+v, %v", s.Attempts, err)
	}
}
