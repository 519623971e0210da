package pgengine_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/jobs"
	"github.com/pgsagaz/pgsagaz/pgengine"
)

// More steps fail at once than the pool has connections: each gives its own back before it asks for
// one to record the failure with.
func TestFailingStepsDoNotWaitForEachOthersConnections(t *testing.T) {
	modes(t, func(t *testing.T, cfg jobs.Config) {
		const sagas = 40
		pool := racePool(t, 3)
		var b barrier
		first := writes("first", nil)
		second := writes("second", func(ctx context.Context, c raceCall) error {
			_ = b.meet(ctx, "all connections", 3)
			return errors.New("no")
		}, first)
		second.Retry = pgengine.NoRetry
		e := engine(t, pool, pgengine.Saga[race]{Version: 1, Steps: pgengine.Steps[race](first, second)})
		workWith(t, e, cfg)
		var ids []string
		for i := range sagas {
			ids = append(ids, start(t, e, race{i}, nil).ID)
		}
		if states := wait(t, e, ids...); states[pgengine.Compensated] != sagas {
			t.Errorf("%v, want %d compensated", states, sagas)
		}
		audit(t, pool)
	})
}

// A worker dies inside a TxStep, and the next attempt fails for good: nothing has happened, and nothing
// must be undone.
func TestTxStepIsNeverInDoubt(t *testing.T) {
	t.Parallel()
	pool := racePool(t, 10)
	inside, release := make(chan struct{}), make(chan struct{})
	hang := firstCaller(inside, release)
	first := writes("first", nil)
	second := pgengine.TxStep[race, string]{
		Name: "second", After: pgengine.Steps(first),
		Do: func(ctx context.Context, tx pgx.Tx, c raceCall) (string, error) {
			if err := hang(ctx, c); err != nil {
				return "", err
			}
			return "", pgengine.Terminal(errors.New("no"))
		},
		Undo: func(context.Context, pgx.Tx, raceCall, string) error {
			t.Error("undone, and it had never been done")
			return nil
		},
	}
	definition := pgengine.Saga[race]{Version: 1, Steps: pgengine.Steps[race](first, second)}
	e := engine(t, pool, definition)
	register(t, e)
	id := start(t, e, race{}, nil).ID
	zombie := aside(t, e, id)
	<-inside
	workWith(t, engine(t, pool, definition), jobs.Config{})
	if states := wait(t, e, id); states[pgengine.Compensated] != 1 {
		t.Errorf("%v, want compensated", states)
	}
	close(release)
	if err := <-zombie; err != nil {
		t.Error(err)
	}
	audit(t, pool)
}

// A step sleeps in its transaction for longer than it may: Postgres ends it, each time. That is a failure
// of the step's, and ends; it must not be taken for the database's absence for ever.
func TestStepThatSleepsInItsTransactionFails(t *testing.T) {
	t.Parallel()
	pool := racePool(t, 10)
	first := writes("first", nil)
	second := writes("second", func(context.Context, raceCall) error {
		time.Sleep(1500 * time.Millisecond)
		return nil
	}, first)
	second.Retry = pgengine.NoRetry
	e := engine(t, pool, pgengine.Saga[race]{Version: 1, Steps: pgengine.Steps[race](first, second)})
	workWith(t, e, jobs.Config{Lease: time.Second})
	id := start(t, e, race{}, nil).ID
	if states := wait(t, e, id); states[pgengine.Compensated] != 1 {
		t.Errorf("%v, want compensated", states)
	}
	s, err := e.Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if s.Cause == nil || s.Cause.Step != "second" || !strings.Contains(s.Cause.Error, "sends nothing for 1s") {
		t.Errorf("the cause is %v; it must say why", s.Cause)
	}
	audit(t, pool)
}
