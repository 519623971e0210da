package pgengine_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/pgsagaz/pgsagaz/jobs"
	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// The races of the engine, each with its interleaving forced: what must overlap waits for the other at a
// gate inside the step.

// modes runs a test with lanes and with a job a step.
func modes(t *testing.T, f func(t *testing.T, cfg jobs.Config)) {
	t.Run("lane", func(t *testing.T) { t.Parallel(); f(t, jobs.Config{}) })
	t.Run("job per step", func(t *testing.T) { t.Parallel(); f(t, jobs.Config{JobPerStep: true}) })
}

// racePool is a migrated database with the tables of these tests.
func racePool(t testing.TB, connections int32) *pgxpool.Pool {
	t.Helper()
	pool := sqltest.Config(t, func(c *pgxpool.Config) {
		c.MaxConns = connections
		sql.WakeOnCommit(c)
	})
	execute(t, pool, `CREATE TABLE effect (saga uuid NOT NULL, step text NOT NULL, undo boolean NOT NULL DEFAULT false)`)
	return pool
}

func execute(t testing.TB, pool *pgxpool.Pool, query string, args ...any) {
	t.Helper()
	if _, err := pool.Exec(t.Context(), query, args...); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

func queryInt(t testing.TB, pool *pgxpool.Pool, query string, args ...any) int {
	t.Helper()
	var n int
	if err := pool.QueryRow(t.Context(), query, args...).Scan(&n); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return n
}

// workWith runs a worker until the test ends.
func workWith(t testing.TB, e *pgengine.Engine, cfg jobs.Config) {
	t.Helper()
	cfg.JobPerStep = cfg.JobPerStep || *jobPerStep
	w, err := jobs.NewWorker(e, cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("worker: %v", err)
		}
	})
}

// wait waits for the end of sagas, and counts them by state.
func wait(t testing.TB, e *pgengine.Engine, ids ...string) map[pgengine.State]int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	states := map[pgengine.State]int{}
	for _, id := range ids {
		s, err := e.Wait(ctx, id)
		if err != nil {
			full, _ := e.Get(t.Context(), id)
			t.Fatalf("%v\n%+v", err, full)
		}
		states[s.State]++
	}
	return states
}

// ticket is what a River job for the lane at step would say.
func ticket(t testing.TB, pool *pgxpool.Pool, saga, name, step string) pgengine.Ticket {
	t.Helper()
	k := pgengine.Ticket{SagaID: saga, Name: name, Version: 1, Step: step}
	if err := pool.QueryRow(t.Context(), `SELECT id FROM pgsagaz.lane WHERE saga_id = $1 AND step = $2`, saga, step).Scan(&k.Lane); err != nil {
		t.Fatalf("lane of saga %s at %q: %v", saga, step, err)
	}
	return k
}

// aside drives the saga's first lane as a worker that nobody knows to be alive, and that others will take
// the lane from. What is sent in the end is what Run returns.
func aside(t testing.TB, e *pgengine.Engine, saga string) <-chan error {
	t.Helper()
	k := ticket(t, e.Pool(), saga, "race", "")
	zombie := make(chan error, 1)
	go func() {
		zombie <- e.Run(context.WithoutCancel(t.Context()), k, pgengine.RunOptions{Worker: "a zombie", Idle: time.Minute})
	}()
	return zombie
}

type race struct{ N int }

func (race) SagaName() string { return "race" }

type raceCall = pgengine.Call[race]

// writes is a TxStep that writes its effect, and undoes it, and calls at in between.
func writes(name string, at func(ctx context.Context, c raceCall) error, after ...pgengine.Step[race]) pgengine.TxStep[race, string] {
	return pgengine.TxStep[race, string]{
		Name: name, After: after, Retry: pgengine.Retry{MaxAttempts: 3, Initial: time.Millisecond},
		Do: func(ctx context.Context, tx pgx.Tx, c raceCall) (string, error) {
			if _, err := tx.Exec(ctx, `INSERT INTO effect (saga, step) VALUES ($1, $2)`, c.SagaID, name); err != nil {
				return "", err
			}
			if at != nil {
				return name, at(ctx, c)
			}
			return name, nil
		},
		Undo: func(ctx context.Context, tx pgx.Tx, c raceCall, r string) error {
			_, err := tx.Exec(ctx, `INSERT INTO effect (saga, step, undo) VALUES ($1, $2, true)`, c.SagaID, r)
			return err
		},
	}
}

// audit says what the effects of a saga must be: each step of a completed one once, and as many undone as
// done of a compensated one.
func audit(t testing.TB, pool *pgxpool.Pool) {
	t.Helper()
	rows, err := pool.Query(t.Context(), `
		SELECT s.id::text, s.state::text, coalesce(e.step, ''), count(*) FILTER (WHERE NOT e.undo), count(*) FILTER (WHERE e.undo)
		FROM pgsagaz.saga s LEFT JOIN effect e ON e.saga = s.id GROUP BY 1, 2, 3`)
	if err != nil {
		t.Fatal(err)
	}
	var id, state, step string
	var done, undone int
	_, err = pgx.ForEachRow(rows, []any{&id, &state, &step, &done, &undone}, func() error {
		switch {
		case step == "":
		case state == "completed" && (done != 1 || undone != 0), state == "compensated" && done != undone, state == "compensated" && done > 1:
			t.Errorf("saga %s is %s: step %s was done %d times and undone %d times", id, state, step, done, undone)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// firstCaller holds up whoever comes first until release; it says that somebody is inside.
func firstCaller(inside, release chan struct{}) func(context.Context, raceCall) error {
	var callers atomic.Int32
	return func(context.Context, raceCall) error {
		if callers.Add(1) == 1 {
			close(inside)
			<-release
		}
		return nil
	}
}

// barrier lets n of a kind through together.
type barrier struct {
	mu      sync.Mutex
	waiting map[string]*gate
	parted  atomic.Int64 // how often somebody waited in vain
}

type gate struct {
	left int
	open chan struct{}
}

func (b *barrier) meet(ctx context.Context, key string, n int) error {
	b.mu.Lock()
	if b.waiting == nil {
		b.waiting = map[string]*gate{}
	}
	g := b.waiting[key]
	if g == nil {
		g = &gate{left: n, open: make(chan struct{})}
		b.waiting[key] = g
	}
	if g.left--; g.left == 0 {
		close(g.open)
	}
	b.mu.Unlock()
	select {
	case <-g.open:
		return nil
	case <-time.After(3 * time.Second): // the others were taken over, or one after the other: no race then
		b.parted.Add(1)
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Three parallel steps of each of 1,000 sagas come to their commits at the same moment, and one of them
// must see that it is the last.
func TestFanInIsNeverMissed(t *testing.T) {
	modes(t, func(t *testing.T, cfg jobs.Config) {
		const sagas = 1000
		pool := racePool(t, 40)
		var b barrier
		together := func(ctx context.Context, c raceCall) error { return b.meet(ctx, c.SagaID, 3) }
		first := writes("first", nil)
		left, middle, right := writes("left", together, first), writes("middle", together, first), writes("right", together, first)
		join := writes("join", nil, left, middle, right)
		e := engine(t, pool, pgengine.Saga[race]{Version: 1, Steps: pgengine.Steps[race](first, left, middle, right, join)})
		cfg.MaxWorkers = 30
		workWith(t, e, cfg)
		// Eight at a time, so that the three of a saga are not queued behind the beginnings of others.
		var all errgroup.Group
		all.SetLimit(8)
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		for i := range sagas {
			id := start(t, e, race{i}, nil).ID
			all.Go(func() error {
				s, err := e.Wait(ctx, id)
				if err == nil && s.State != pgengine.Completed {
					err = fmt.Errorf("saga %s is %s: %v", id, s.State, s.Cause)
				}
				return err
			})
		}
		if err := all.Wait(); err != nil {
			t.Fatal(err)
		}
		if n := b.parted.Load(); n > sagas/20 {
			t.Errorf("at %d of %d joins the three did not come together; the race was not run", n, sagas)
		}
		if n := queryInt(t, pool, `SELECT count(*) FROM effect WHERE step = 'join'`); n != sagas {
			t.Errorf("%d joins for %d sagas", n, sagas)
		}
		audit(t, pool)
	})
}

// A step is at its commit while a cancel is applied: either the step comes first and is undone, or the
// cancel does and the step rolls back. Nothing may be left done.
func TestLateSuccessAgainstCancel(t *testing.T) {
	modes(t, func(t *testing.T, cfg jobs.Config) {
		const sagas = 1000
		pool := racePool(t, 40)
		var e *pgengine.Engine
		cancelled := func(ctx context.Context, c raceCall) error {
			return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
				err := e.Cancel(ctx, tx, c.SagaID, pgengine.By{Reason: "at the same moment"})
				if errors.Is(err, pgengine.ErrEnded) {
					return nil
				}
				return err
			})
		}
		first := writes("first", nil)
		second := writes("second", cancelled, first)
		third := writes("third", nil, second)
		e = engine(t, pool, pgengine.Saga[race]{Version: 1, Steps: pgengine.Steps[race](first, second, third)})
		cfg.MaxWorkers = 15 // each holds a connection while it asks for a second one
		workWith(t, e, cfg)
		var ids []string
		for i := range sagas {
			ids = append(ids, start(t, e, race{i}, nil).ID)
		}
		states := wait(t, e, ids...)
		t.Log(states)
		if states[pgengine.Completed]+states[pgengine.Compensated] != sagas {
			t.Errorf("%v, want %d ended", states, sagas)
		}
		audit(t, pool)
	})
}

// A worker hangs inside a step, its lane is taken over and the saga ends; when the first one comes to its
// commit it must change nothing.
func TestZombieAfterTakeover(t *testing.T) {
	for _, at := range []string{"first", "second"} { // the first step is done before its lane is taken
		t.Run(at, func(t *testing.T) {
			t.Parallel()
			pool := racePool(t, 20)
			inside, release := make(chan struct{}), make(chan struct{})
			hang := firstCaller(inside, release)
			var gates [2]func(context.Context, raceCall) error
			gates[map[string]int{"first": 0, "second": 1}[at]] = hang
			first := writes("first", gates[0])
			second := writes("second", gates[1], first)
			third := writes("third", nil, second)
			e := engine(t, pool, pgengine.Saga[race]{Version: 1, Steps: pgengine.Steps[race](first, second, third)})
			register(t, e)
			id := start(t, e, race{}, nil).ID
			zombie := aside(t, e, id)
			<-inside
			other := engine(t, pool, pgengine.Saga[race]{Version: 1, Steps: pgengine.Steps[race](first, second, third)})
			workWith(t, other, jobs.Config{})
			if states := wait(t, other, id); states[pgengine.Completed] != 1 {
				t.Errorf("%v, want completed", states)
			}
			close(release)
			if err := <-zombie; err != nil {
				t.Errorf("the zombie: %v", err)
			}
			audit(t, pool)
		})
	}
}

// An Activity's answer comes when its step has been given up, found not to have happened, and its saga
// compensated: the effect came after its undo. It is recorded, the saga reopened, and the undo runs again.
func TestLateResultAfterCompensated(t *testing.T) {
	t.Parallel()
	pool := racePool(t, 20)
	inside, release := make(chan struct{}), make(chan struct{})
	var calls atomic.Int32
	var undone []string
	var mu sync.Mutex
	charge := pgengine.Activity[race, string]{
		Name: "charge",
		Do: func(ctx context.Context, c raceCall) (string, error) {
			if calls.Add(1) == 1 {
				close(inside)
				<-release
				return "payment 1", nil
			}
			return "", pgengine.Terminal(errors.New("declined"))
		},
		Lookup: func(context.Context, raceCall) (string, bool, error) { return "", false, nil },
		Undo: func(ctx context.Context, c raceCall, r string) error {
			mu.Lock()
			defer mu.Unlock()
			undone = append(undone, r+" by "+c.Key())
			return nil
		},
	}
	definition := pgengine.Saga[race]{Version: 1, Steps: pgengine.Steps[race](charge)}
	e := engine(t, pool, definition)
	register(t, e)
	id := start(t, e, race{}, nil).ID
	zombie := aside(t, e, id)
	<-inside
	other := engine(t, pool, definition)
	workWith(t, other, jobs.Config{})
	if states := wait(t, other, id); states[pgengine.Compensated] != 1 {
		t.Fatalf("%v, want compensated", states)
	}
	close(release)
	if err := <-zombie; err != nil {
		t.Errorf("the zombie: %v", err)
	}
	if states := wait(t, other, id); states[pgengine.Compensated] != 1 {
		t.Fatalf("%v, want compensated again", states)
	}
	mu.Lock()
	defer mu.Unlock()
	if want := "payment 1 by " + id + "/charge/undo/2"; len(undone) != 1 || undone[0] != want {
		t.Errorf("undone: %q, want one: %q", undone, want)
	}
}

// Two lanes come to one join. One is taken over while it is inside its step, and comes back after the join
// has been done: the join is done once, by whoever has the lane.
func TestTwoLanesReachAJoinOneTakenOver(t *testing.T) {
	t.Parallel()
	pool := racePool(t, 20)
	inside, release := make(chan struct{}), make(chan struct{})
	first := writes("first", nil)
	left := writes("left", firstCaller(inside, release), first)
	right := writes("right", nil, first)
	join := writes("join", nil, left, right)
	definition := pgengine.Saga[race]{Version: 1, Steps: pgengine.Steps[race](first, left, right, join)}
	e := engine(t, pool, definition)
	register(t, e)
	id := start(t, e, race{}, nil).ID
	zombie := aside(t, e, id)
	<-inside // with the lane at left; the one at right waits for a worker
	other := engine(t, pool, definition)
	workWith(t, other, jobs.Config{})
	if states := wait(t, other, id); states[pgengine.Completed] != 1 {
		t.Errorf("%v, want completed", states)
	}
	close(release)
	if err := <-zombie; err != nil {
		t.Errorf("the zombie: %v", err)
	}
	if n := queryInt(t, pool, `SELECT count(*) FROM effect WHERE step = 'join'`); n != 1 {
		t.Errorf("%d joins", n)
	}
	audit(t, pool)
}

// Two hundred short steps of one saga come to their commits all the time; a cancel must get its turn at
// the saga's row among them. (With a shared lock it starves for ten seconds.)
func TestCancelGetsThroughUnderLoad(t *testing.T) {
	modes(t, func(t *testing.T, cfg jobs.Config) {
		pool := racePool(t, 30)
		first := writes("first", nil)
		last := writes("last", func(ctx context.Context, c raceCall) error { // keeps the saga from ending by itself
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(300 * time.Millisecond):
				return errors.New("again")
			}
		}, first)
		last.Retry = pgengine.Retry{MaxAttempts: 1000, Initial: time.Millisecond, Max: time.Millisecond}
		steps := pgengine.Steps[race](first, last)
		for i := range 200 {
			steps = append(steps, writes(fmt.Sprintf("step%d", i), nil, first))
		}
		e := engine(t, pool, pgengine.Saga[race]{Version: 1, Steps: steps})
		cfg.MaxWorkers = 20
		workWith(t, e, cfg)
		id := start(t, e, race{}, nil).ID
		for queryInt(t, pool, `SELECT count(*) FROM pgsagaz.step WHERE saga_id = $1`, id) < 20 {
			time.Sleep(time.Millisecond)
		}
		begun := time.Now()
		err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error { return e.Cancel(t.Context(), tx, id, pgengine.By{Reason: "enough"}) })
		if err != nil {
			t.Fatal(err)
		}
		asked := time.Since(begun)
		for queryInt(t, pool, `SELECT count(*) FROM pgsagaz.saga WHERE id = $1 AND state = 'running'`, id) == 1 {
			if time.Since(begun) > 10*time.Second {
				t.Fatal("the cancel starves")
			}
			time.Sleep(time.Millisecond)
		}
		t.Logf("asked in %v, turned back after %v", asked, time.Since(begun))
		if states := wait(t, e, id); states[pgengine.Compensated] != 1 {
			t.Errorf("%v, want compensated", states)
		}
		audit(t, pool)
	})
}
