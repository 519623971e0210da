package pgengine_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/jobs"
	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

type shared struct {
	N int `json:"n"`
}

func (shared) SagaName() string { return "shared" }

// TestActivitiesAreSettledTogether: results that come at the same time share commits, each counts by itself, and what Postgres
// will not have of one, or has already turned back, keeps no other.
func TestActivitiesAreSettledTogether(t *testing.T) {
	t.Parallel()
	const (
		all  = 40
		bad  = 7 // its result is refused
		gone = 9 // it is cancelled while it is at work
	)
	pool := sqltest.New(t)
	if _, err := pool.Exec(t.Context(), `ALTER TABLE pgsagaz.step ADD CONSTRAINT refused CHECK (direction = 'undo' OR result::text <> '"bad"')`); err != nil {
		t.Fatal(err)
	}
	var met sync.WaitGroup
	met.Add(all)
	cancelled := make(chan struct{})
	var came [all]sync.Once
	var mu sync.Mutex
	undone := map[int]int{}
	meet := pgengine.Activity[shared, string]{
		Name: "meet",
		Do: func(_ context.Context, c pgengine.Call[shared]) (string, error) {
			came[c.Input.N].Do(func() {
				met.Done()
				<-cancelled
			})
			return fmt.Sprint("result ", c.Input.N), nil
		},
		Undo: func(_ context.Context, c pgengine.Call[shared], _ string) error {
			mu.Lock()
			defer mu.Unlock()
			undone[c.Input.N]++
			return nil
		},
		Retry: pgengine.Retry{MaxAttempts: 1},
	}
	last := pgengine.Activity[shared, string]{
		Name: "last", After: pgengine.Steps(meet),
		Do: func(_ context.Context, c pgengine.Call[shared]) (string, error) {
			if c.Input.N == bad {
				return "bad", nil
			}
			return meet.Result(c), nil
		},
		Undo:  func(context.Context, pgengine.Call[shared], string) error { return nil },
		Retry: pgengine.Retry{MaxAttempts: 1},
	}
	e := engine(t, pool, pgengine.Saga[shared]{Version: 1, Steps: pgengine.Steps(meet, last)})
	atWork(t, e, jobs.Config{MaxWorkers: all})
	var ids [all]string
	for n := range ids {
		ids[n] = start(t, e, shared{N: n}, nil).ID
	}
	met.Wait()
	if err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error { return e.Cancel(t.Context(), tx, ids[gone], pgengine.By{}) }); err != nil {
		t.Fatal(err)
	}
	seen(t, e, ids[gone], func(s pgengine.Status) bool { return s.State == pgengine.Failing })
	close(cancelled)
	for n, id := range ids {
		s := atRest(t, e, id)
		switch {
		case n == bad || n == gone:
			if s.State != pgengine.Compensated || undone[n] != 1 {
				t.Errorf("saga %d is %s, cause %+v, and was undone %d times", n, s.State, s.Cause, undone[n])
			}
		case s.State != pgengine.Completed || string(s.Steps[1].Result) != fmt.Sprintf(`"result %d"`, n) || len(s.Attempts) > 0:
			t.Errorf("saga %d is %s with %s, cause %+v, attempts %+v", n, s.State, s.Steps[1].Result, s.Cause, s.Attempts)
		}
	}
	commits := query[int](t, pool, `SELECT count(DISTINCT xmin::text) FROM pgsagaz.step WHERE step = 'meet' AND direction = 'do'`)
	if commits >= all && !*jobPerStep {
		t.Errorf("%d results took %d commits", all, commits)
	}
}
