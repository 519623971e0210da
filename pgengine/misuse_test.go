package pgengine_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/jobs"
	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// What users get wrong, at the worst moment: after the effect.

type busy struct{}

func (busy) Error() string { return "busy" }

// counted is an Activity that counts what is done to the other side.
type counted struct{ charged, looked, undone atomic.Int32 }

func (n *counted) activity(do func(context.Context, raceCall) error) pgengine.Activity[race, string] {
	return pgengine.Activity[race, string]{
		Name: "charge", Timeout: 300 * time.Millisecond, Retry: pgengine.Retry{MaxAttempts: 2, Initial: time.Millisecond},
		Do: func(ctx context.Context, c raceCall) (string, error) {
			n.charged.Add(1)
			return "payment", do(ctx, c)
		},
		Lookup: func(context.Context, raceCall) (string, bool, error) { n.looked.Add(1); return "payment", true, nil },
		Undo:   func(context.Context, raceCall, string) error { n.undone.Add(1); return nil },
	}
}

// However a call ends that is not its own word that it had no effect, the effect is undone.
func TestWhatIsCutOffAfterItsEffectIsUndone(t *testing.T) {
	t.Parallel()
	missing := pgengine.Activity[race, string]{Name: "missing", Optional: true, Retry: pgengine.NoRetry,
		Do: func(context.Context, raceCall) (string, error) { return "", pgengine.Terminal(errors.New("no")) }}
	picky := func(err error) bool { return errors.As(err, new(busy)) }
	for name, test := range map[string]struct {
		do func(context.Context, raceCall) error
		If func(error) bool
	}{
		"a timeout that Retry.If refuses":    {func(ctx context.Context, _ raceCall) error { <-ctx.Done(); return ctx.Err() }, picky},
		"a panic that Retry.If refuses":      {func(context.Context, raceCall) error { panic("after the effect") }, picky},
		"a Retry.If that panics":             {func(context.Context, raceCall) error { panic("after the effect") }, func(err error) bool { return err.(busy) == busy{} }}, //nolint:errorlint // on purpose
		"the Result of an Optional step":     {func(_ context.Context, c raceCall) error { missing.Result(c); return nil }, nil},
		"the Result of a step not before it": {func(_ context.Context, c raceCall) error { writes("elsewhere", nil).Result(c); return nil }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := racePool(t, 5)
			var n counted
			charge := n.activity(test.do)
			charge.After = pgengine.Steps(missing)
			charge.Retry.If = test.If
			e := engine(t, pool, pgengine.Saga[race]{Version: 1, Steps: pgengine.Steps(missing, charge)})
			workWith(t, e, jobs.Config{})
			if states := wait(t, e, start(t, e, race{}, nil).ID); states[pgengine.Compensated] != 1 {
				t.Errorf("%v, want compensated", states)
			}
			if n.charged.Load() == 0 || n.charged.Load() > 2 || n.looked.Load() != 1 || n.undone.Load() != 1 {
				t.Errorf("charged %d, looked up %d, undone %d times", n.charged.Load(), n.looked.Load(), n.undone.Load())
			}
		})
	}
}

// A Commit sleeps in its transaction for longer than it may, each time: that ends, as a failure.
func TestCommitThatSleepsFails(t *testing.T) {
	t.Parallel()
	pool := racePool(t, 5)
	var n counted
	charge := n.activity(func(context.Context, raceCall) error { return nil })
	charge.Timeout, charge.Retry = 0, pgengine.NoRetry
	charge.Commit = func(ctx context.Context, tx pgx.Tx, c raceCall, _ string) error {
		_, err := tx.Exec(ctx, `INSERT INTO effect (saga, step) VALUES ($1, 'charge')`, c.SagaID)
		time.Sleep(1300 * time.Millisecond)
		return err
	}
	e := engine(t, pool, pgengine.Saga[race]{Version: 1, Steps: pgengine.Steps(charge)})
	workWith(t, e, jobs.Config{Lease: time.Second})
	if states := wait(t, e, start(t, e, race{}, nil).ID); states[pgengine.Compensated] != 1 {
		t.Errorf("%v, want compensated", states)
	}
	if n.undone.Load() != 1 {
		t.Errorf("undone %d times", n.undone.Load())
	}
}

// One of two parallel steps is refused at its COMMIT each time, with an error that says "try again".
func TestRefusedAtAJoinEachTimeFails(t *testing.T) {
	t.Parallel()
	pool := racePool(t, 10)
	execute(t, pool, `CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		IF NEW.step = 'right' THEN RAISE EXCEPTION 'again' USING ERRCODE = '40001'; END IF; RETURN NULL; END $$`)
	execute(t, pool, `CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON effect DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()`)
	var calls atomic.Int32
	left := writes("left", nil)
	right := writes("right", func(context.Context, raceCall) error { calls.Add(1); return nil })
	right.Retry = pgengine.NoRetry
	e := engine(t, pool, pgengine.Saga[race]{Version: 1, Steps: pgengine.Steps[race](left, right)})
	workWith(t, e, jobs.Config{})
	if states := wait(t, e, start(t, e, race{}, nil).ID); states[pgengine.Compensated] != 1 {
		t.Errorf("%v, want compensated", states)
	}
	if n := calls.Load(); n > 20 {
		t.Errorf("%d calls", n)
	}
	audit(t, pool)
}

// TestAFullDiskIsNobodysAttempt: a server that has no room, or takes no writes, refuses a step more often than a conflict may before it counts, and
// then does not. No attempt is counted, of a step that has only one.
func TestAFullDiskIsNobodysAttempt(t *testing.T) {
	t.Parallel()
	for _, state := range []string{"53100", "25006"} {
		for where, trigger := range map[string]string{
			"in the step":   `CREATE TRIGGER refuse AFTER INSERT ON effect FOR EACH ROW EXECUTE FUNCTION refuse()`,
			"at the commit": `CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON effect DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()`,
		} {
			t.Run(state+" "+where, func(t *testing.T) {
				t.Parallel()
				pool := racePool(t, 10)
				execute(t, pool, `CREATE SEQUENCE refusals`)
				execute(t, pool, `CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
					IF nextval('refusals') < 13 THEN RAISE EXCEPTION 'not now' USING ERRCODE = '`+state+`'; END IF; RETURN NULL; END $$`)
				execute(t, pool, trigger)
				only := writes("only", nil)
				only.Retry = pgengine.NoRetry
				e := engine(t, pool, pgengine.Saga[race]{Version: 1, Steps: pgengine.Steps[race](only)})
				workWith(t, e, jobs.Config{})
				id := start(t, e, race{}, nil).ID
				if states := wait(t, e, id); states[pgengine.Completed] != 1 {
					t.Errorf("%v, want completed", states)
				}
				if n := query[int](t, pool, `SELECT count(*) FROM pgsagaz.attempt`); n > 0 {
					t.Errorf("%d attempts were counted", n)
				}
				audit(t, pool)
			})
		}
	}
}

// A hint comes twice while the lane is being driven: nothing happens twice.
func TestASecondHintTakesNothingAway(t *testing.T) {
	t.Parallel()
	pool := racePool(t, 5)
	inside := make(chan struct{})
	var n counted
	charge := n.activity(func(context.Context, raceCall) error {
		close(inside)
		time.Sleep(2 * time.Second) // several looks of the sweeper
		return nil
	})
	charge.Timeout = 0
	e := engine(t, pool, pgengine.Saga[race]{Version: 1, Steps: pgengine.Steps(charge)})
	workWith(t, e, jobs.Config{})
	id := start(t, e, race{}, nil).ID
	<-inside
	execute(t, pool, `SELECT pgsagaz.hint(s.id, s.name, s.version, l.id, l.step, l.queue) FROM pgsagaz.saga s JOIN pgsagaz.lane l ON l.saga_id = s.id`)
	if states := wait(t, e, id); states[pgengine.Completed] != 1 || n.charged.Load() != 1 {
		t.Errorf("%v after %d calls", states, n.charged.Load())
	}
}

// The first try to show that the worker lives fails: it goes on trying, and then works.
func TestWorkerWhoseFirstSessionFails(t *testing.T) {
	t.Parallel()
	pool := racePool(t, 5)
	e := engine(t, pool, pgengine.Saga[race]{Version: 1, Steps: pgengine.Steps[race](writes("first", nil))})
	direct := pool.Config().ConnConfig.Copy()
	dial := direct.DialFunc
	var n atomic.Int32
	direct.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		if n.Add(1) == 1 {
			return nil, errors.New("refused, once")
		}
		return dial(ctx, network, addr)
	}
	river, err := pgxpool.NewWithConfig(t.Context(), pool.Config())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(river.Close)
	workWith(t, e, jobs.Config{Direct: direct, RiverPool: river})
	if states := wait(t, e, start(t, e, race{}, nil).ID); states[pgengine.Completed] != 1 || n.Load() < 2 {
		t.Errorf("%v after %d dials", states, n.Load())
	}
}

// A pool whose commits a crash of Postgres could take back is refused, and why is said.
func TestWorkerWantsDurableCommits(t *testing.T) {
	t.Parallel()
	pool := sqltest.Config(t, func(c *pgxpool.Config) { c.ConnConfig.RuntimeParams["synchronous_commit"] = "off" })
	e := engine(t, pool, pgengine.Saga[race]{Version: 1, Steps: pgengine.Steps[race](writes("first", nil))})
	w, err := jobs.NewWorker(e, jobs.Config{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := w.Run(ctx); err == nil || !strings.Contains(err.Error(), "synchronous_commit") {
		t.Errorf("%v, want an error that names synchronous_commit", err)
	}
}
