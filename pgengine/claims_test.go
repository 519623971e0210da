package pgengine_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/jobs"
	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// TestNoCallWithoutAClaim: when the outside is called, everybody sees whose call it is. A worker that dies there leaves a
// trace by which others know that something may have happened.
func TestNoCallWithoutAClaim(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, cfg jobs.Config) {
		pool := racePool(t, 10)
		var unclaimed atomic.Int32
		claimed := func(ctx context.Context, c raceCall) (string, error) {
			var n int
			err := pool.QueryRow(ctx, `SELECT count(*) FROM pgsagaz.lane WHERE saga_id = $1 AND step = $2 AND worker IS NOT NULL AND token IS NOT NULL`, c.SagaID, c.Step).Scan(&n)
			if n != 1 {
				unclaimed.Add(1)
			}
			return "", err
		}
		first := pgengine.Activity[race, string]{Name: "first", Do: claimed}
		second := pgengine.Activity[race, string]{Name: "second", After: pgengine.Steps(first), Do: claimed}
		left := pgengine.Activity[race, string]{Name: "left", After: pgengine.Steps(second), Do: claimed}
		right := pgengine.Activity[race, string]{Name: "right", After: pgengine.Steps(second), Do: claimed}
		e := engine(t, pool, pgengine.Saga[race]{Version: 1, Steps: pgengine.Steps[race](first, second, left, right)})
		workWith(t, e, cfg)
		if states := wait(t, e, start(t, e, race{}, nil).ID); states[pgengine.Completed] != 1 || unclaimed.Load() > 0 {
			t.Errorf("%v, and %d calls that nobody had claimed", states, unclaimed.Load())
		}
	})
}

// TestAZombieBesideItsSuccessor: a worker that hung comes to its commit while the one that took over from it is at the same step. It
// leaves no trace, and goes no further.
func TestAZombieBesideItsSuccessor(t *testing.T) {
	t.Parallel()
	for name, fuse := range map[string]bool{"a commit a step": false, "fused": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := racePool(t, 20)
			var callers atomic.Int32
			inside, release := [2]chan struct{}{make(chan struct{}), make(chan struct{})}, [2]chan struct{}{make(chan struct{}), make(chan struct{})}
			first := pgengine.Activity[race, string]{Name: "first", Do: func(context.Context, raceCall) (string, error) { return "", nil }} // under a claim
			second := writes("second", func(context.Context, raceCall) error {
				if i := callers.Add(1) - 1; i < 2 {
					close(inside[i])
					<-release[i]
				}
				return nil
			}, first)
			third := writes("third", nil, second)
			fourth := writes("fourth", nil, third)
			definition := pgengine.Saga[race]{Version: 1, Fuse: fuse, Steps: pgengine.Steps[race](first, second, third, fourth)}
			e := engine(t, pool, definition)
			register(t, e)
			id := start(t, e, race{}, nil).ID
			zombie, k := make(chan error, 1), ticket(t, pool, id, "race", "")
			go func() { // with time enough to go on by itself
				zombie <- e.Run(context.WithoutCancel(t.Context()), k, pgengine.RunOptions{Worker: "a zombie", Idle: time.Minute, Budget: time.Hour})
			}()
			<-inside[0]
			other := engine(t, pool, definition)
			workWith(t, other, jobs.Config{})
			<-inside[1]
			close(release[0])
			if err := <-zombie; err != nil {
				t.Errorf("the zombie: %v", err)
			}
			if n := queryInt(t, pool, `SELECT count(*) FROM pgsagaz.step WHERE saga_id = $1 AND step <> 'first'`, id); n != 0 {
				t.Errorf("the zombie has settled %d steps that are another's", n)
			}
			close(release[1])
			if states := wait(t, other, id); states[pgengine.Completed] != 1 {
				t.Errorf("%v, want completed", states)
			}
			audit(t, pool)
		})
	}
}

// TestALastSiblingSeesThatItIs is TestFanInIsNeverMissed for those in a hurry: fewer sagas, and one that nothing will ever
// move is found as soon as it is there.
func TestALastSiblingSeesThatItIs(t *testing.T) {
	t.Parallel()
	const sagas = 60
	pool := racePool(t, 30)
	var b barrier
	together := func(ctx context.Context, c raceCall) error { return b.meet(ctx, c.SagaID, 3) }
	left, middle, right := writes("left", together), writes("middle", together), writes("right", together)
	join := writes("join", nil, left, middle, right)
	e := engine(t, pool, pgengine.Saga[race]{Version: 1, Steps: pgengine.Steps[race](left, middle, right, join)})
	workWith(t, e, jobs.Config{MaxWorkers: 12})
	for i := range sagas {
		start(t, e, race{i}, nil)
	}
	for queryInt(t, pool, `SELECT count(*) FROM pgsagaz.saga WHERE ended_at IS NOT NULL`) < sagas {
		violations, err := sql.Check(t.Context(), pool)
		if err != nil {
			t.Fatal(err)
		}
		if len(violations) > 0 {
			t.Fatal(violations)
		}
		time.Sleep(5 * time.Millisecond)
	}
	if n := queryInt(t, pool, `SELECT count(*) FROM effect WHERE step = 'join'`); n != sagas {
		t.Errorf("%d joins for %d sagas", n, sagas)
	}
	audit(t, pool)
}

// cutter cuts a connection when Postgres has answered to what contains the mark, and keeps the answer to itself.
type cutter struct {
	net.Conn
	mark  []byte
	cuts  *atomic.Int32 // how often it is still to happen
	armed atomic.Bool
}

func (c *cutter) Write(p []byte) (int, error) {
	if bytes.Contains(p, c.mark) && c.cuts.Add(-1) >= 0 {
		c.armed.Store(true)
	}
	return c.Conn.Write(p)
}

func (c *cutter) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.armed.Load() {
		_ = c.Conn.Close()
		return 0, errors.New("the connection was cut")
	}
	return n, err
}

// TestALostAnswerIsAskedFor: the COMMIT that records a result goes through and its answer is lost. The saga goes on from there: the
// call is not made again, and what follows happens once.
func TestALostAnswerIsAskedFor(t *testing.T) {
	t.Parallel()
	cuts := new(atomic.Int32)
	cuts.Store(1)
	pool := sqltest.Config(t, func(c *pgxpool.Config) {
		c.MaxConns = 10
		dial := c.ConnConfig.DialFunc
		c.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := dial(ctx, network, addr)
			return &cutter{Conn: conn, mark: []byte("the answer to this"), cuts: cuts}, err
		}
	})
	execute(t, pool, `CREATE TABLE effect (saga uuid NOT NULL, step text NOT NULL, undo boolean NOT NULL DEFAULT false)`)
	var calls atomic.Int32
	call := pgengine.Activity[race, string]{Name: "call", Do: func(context.Context, raceCall) (string, error) {
		calls.Add(1)
		return "the answer to this", nil
	}}
	after := writes("after", nil, call)
	e := engine(t, pool, pgengine.Saga[race]{Version: 1, Steps: pgengine.Steps[race](call, after)})
	workWith(t, e, jobs.Config{})
	states := wait(t, e, start(t, e, race{}, nil).ID)
	if states[pgengine.Completed] != 1 || calls.Load() != 1 || cuts.Load() >= 1 {
		t.Errorf("%v after %d calls, and %d cuts are left", states, calls.Load(), cuts.Load())
	}
	if n := queryInt(t, pool, `SELECT count(*) FROM effect WHERE step = 'after'`); n != 1 {
		t.Errorf("what follows happened %d times", n)
	}
}
