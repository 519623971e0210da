package pgengine_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/jobs"
	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// task is the input of the sagas in this file: which of the cases its steps run, and whether as the first
// statement of their transaction, which BEGIN travels with, or as a later one.
type task struct {
	Case  string
	Later bool
}

func (task) SagaName() string { return "task" }

type taskCall = pgengine.Call[task]

// txOp is what a step does with its transaction. It writes by note, as often as the case says.
type txOp func(ctx context.Context, tx pgx.Tx, c taskCall) error

const (
	insertNote = "INSERT INTO note (saga, step) VALUES ($1, $2)"
	// With the values in it, for statements without arguments.
	plainNote = "INSERT INTO note (saga, step) VALUES ('%s', '%s')"
)

func note(ctx context.Context, db sql.Querier, c taskCall) error {
	_, err := db.Exec(ctx, insertNote, c.SagaID, c.Step)
	return err
}

// txSaga runs op in each of three steps: one that takes its lane as it commits, one in the middle and one that
// completes the saga.
func txSaga(ops map[string]txOp, fuse bool) pgengine.Definition {
	step := func(name string, after ...pgengine.Step[task]) pgengine.TxStep[task, string] {
		return pgengine.TxStep[task, string]{
			Name: name, After: after, Retry: pgengine.Retry{MaxAttempts: 2, Initial: time.Millisecond},
			Do: func(ctx context.Context, tx pgx.Tx, c taskCall) (string, error) {
				if c.Input.Later {
					if _, err := tx.Exec(ctx, "SELECT set_config('pgsagaz.test', $1, true)", c.SagaID); err != nil {
						return "", err
					}
				}
				return name, ops[c.Input.Case](ctx, tx, c)
			},
			Undo: func(ctx context.Context, tx pgx.Tx, c taskCall, _ string) error {
				_, err := tx.Exec(ctx, "DELETE FROM note WHERE saga = $1 AND step = $2", c.SagaID, c.Step)
				return err
			},
		}
	}
	one := step("one")
	two := step("two", one)
	three := step("three", two)
	return pgengine.Saga[task]{Version: 1, Output: three, Fuse: fuse, Steps: pgengine.Steps[task](one, two, three)}
}

func notePool(t testing.TB, mutate func(*pgxpool.Config)) *pgxpool.Pool {
	t.Helper()
	pool := sqltest.Config(t, mutate)
	if _, err := pool.Exec(t.Context(), `
		CREATE TABLE note (saga uuid NOT NULL, step text NOT NULL);
		CREATE TABLE owner (id int PRIMARY KEY);
		CREATE TABLE owned (id int REFERENCES owner DEFERRABLE INITIALLY DEFERRED)`); err != nil {
		t.Fatal(err)
	}
	return pool
}

// atWork runs a worker that looks often, and that is soon taken for dead, until the test ends.
func atWork(t testing.TB, e *pgengine.Engine, cfg jobs.Config) {
	t.Helper()
	cfg.Sweep, cfg.Lease = 100*time.Millisecond, time.Second
	workWith(t, e, cfg)
}

// atRest waits for a saga's end, or until it is stuck.
func atRest(t testing.TB, e *pgengine.Engine, id string) pgengine.Status {
	t.Helper()
	return seen(t, e, id, func(s pgengine.Status) bool { return s.State.Ended() || s.State == pgengine.Stuck })
}

// seen polls a saga until it is as it should be.
func seen(t testing.TB, e *pgengine.Engine, id string, is func(pgengine.Status) bool) pgengine.Status {
	t.Helper()
	for begun := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		s, err := e.Get(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		if is(s) {
			return s
		}
		if time.Since(begun) > 30*time.Second {
			t.Fatalf("saga %s does not come there: it is %s, %+v, attempts %+v", id, s.State, s.Steps, s.Attempts)
		}
	}
}

// byHand drives a saga without a worker, as River's jobs would.
func byHand(t testing.TB, e *pgengine.Engine, id string) pgengine.Status {
	t.Helper()
	return seen(t, e, id, func(s pgengine.Status) bool {
		if s.State.Ended() || s.State == pgengine.Stuck {
			return true
		}
		rows, err := e.Pool().Query(t.Context(), "SELECT id, step FROM pgsagaz.lane WHERE saga_id = $1 AND worker IS NULL AND run_at <= pgsagaz.now()", id)
		if err != nil {
			t.Fatal(err)
		}
		type at struct {
			ID   int64
			Step string
		}
		lanes, err := pgx.CollectRows(rows, pgx.RowToStructByPos[at])
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		for _, l := range lanes {
			if err := e.Run(ctx, pgengine.Ticket{SagaID: id, Name: s.Name, Version: s.Version, Lane: l.ID, Step: l.Step}, pgengine.RunOptions{Worker: "hand", Budget: time.Minute}); err != nil {
				t.Errorf("%s: the lane at %q: %v", s.Input, l.Step, err)
			}
		}
		return ctx.Err() != nil
	})
}

// inTxModes runs each case by hand and on a worker, each step in a transaction of its own and all in one, with the
// operation as the step's first statement and as a later one.
func inTxModes(t *testing.T, ops map[string]txOp, check func(t *testing.T, pool *pgxpool.Pool, in task, s pgengine.Status)) {
	t.Helper()
	for _, mode := range []string{"by hand", "worker", "fused"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			pool := notePool(t, nil)
			e := engine(t, pool, txSaga(ops, mode == "fused"))
			register(t, e)
			drive := byHand
			if mode != "by hand" {
				atWork(t, e, jobs.Config{})
				drive = atRest
			}
			for name := range ops {
				for _, later := range []bool{false, true} {
					in := task{name, later}
					s := drive(t, e, start(t, e, in, nil).ID)
					t.Run(fmt.Sprintf("%s, later %v", name, later), func(t *testing.T) { check(t, pool, in, s) })
				}
			}
		})
	}
}

// TestTxIsPgx: whatever may be done in a transaction of pgx's may be done in that of a step.
func TestTxIsPgx(t *testing.T) {
	t.Parallel()
	ops := map[string]txOp{
		"Exec": func(ctx context.Context, tx pgx.Tx, c taskCall) error { return note(ctx, tx, c) },
		"Exec without arguments": func(ctx context.Context, tx pgx.Tx, c taskCall) error {
			_, err := tx.Exec(ctx, fmt.Sprintf(plainNote, c.SagaID, c.Step))
			return err
		},
		"Exec of several statements": func(ctx context.Context, tx pgx.Tx, c taskCall) error {
			_, err := tx.Exec(ctx, fmt.Sprintf(plainNote+"; "+plainNote+"; DELETE FROM note WHERE ctid = (SELECT min(ctid) FROM note WHERE saga = '%[1]s' AND step = '%[2]s')", c.SagaID, c.Step, c.SagaID, c.Step))
			return err
		},
		"Exec with a mode": func(ctx context.Context, tx pgx.Tx, c taskCall) error {
			_, err := tx.Exec(ctx, insertNote, pgx.QueryExecModeSimpleProtocol, c.SagaID, c.Step)
			return err
		},
		"Exec with named arguments": func(ctx context.Context, tx pgx.Tx, c taskCall) error {
			_, err := tx.Exec(ctx, "INSERT INTO note VALUES (@saga, @step)", pgx.NamedArgs{"saga": c.SagaID, "step": c.Step})
			return err
		},
		"the tag of Exec": func(ctx context.Context, tx pgx.Tx, c taskCall) error {
			tag, err := tx.Exec(ctx, insertNote, c.SagaID, c.Step)
			if err == nil && (!tag.Insert() || tag.RowsAffected() != 1) {
				return pgengine.Terminal(fmt.Errorf("tag %s", tag))
			}
			return err
		},
		"Query": func(ctx context.Context, tx pgx.Tx, c taskCall) error {
			rows, err := tx.Query(ctx, insertNote+" RETURNING step", c.SagaID, c.Step)
			if err != nil {
				return err
			}
			names, err := pgx.CollectRows(rows, pgx.RowTo[string])
			if err == nil && (len(names) != 1 || names[0] != c.Step) {
				return pgengine.Terminal(fmt.Errorf("rows %q", names))
			}
			return err
		},
		"Query without rows": func(ctx context.Context, tx pgx.Tx, c taskCall) error {
			rows, err := tx.Query(ctx, "SELECT step FROM note WHERE saga = $1 AND step = 'none'", c.SagaID)
			if err != nil {
				return err
			}
			if rows.Next() || rows.Err() != nil {
				return pgengine.Terminal(fmt.Errorf("there is a row: %w", rows.Err()))
			}
			return note(ctx, tx, c) // Next has closed the rows
		},
		"Query closed early": func(ctx context.Context, tx pgx.Tx, c taskCall) error {
			rows, err := tx.Query(ctx, "SELECT n FROM generate_series(1, $1::int) n", 10000)
			if err != nil {
				return err
			}
			if !rows.Next() {
				return pgengine.Terminal(errors.New("there is no row"))
			}
			rows.Close()
			rows.Close() // as by a defer
			if err := rows.Err(); err != nil {
				return err
			}
			return note(ctx, tx, c)
		},
		"Query closed at once": func(ctx context.Context, tx pgx.Tx, c taskCall) error {
			rows, err := tx.Query(ctx, insertNote, c.SagaID, c.Step)
			if err != nil {
				return err
			}
			rows.Close()
			return rows.Err()
		},
		"QueryRow": func(ctx context.Context, tx pgx.Tx, c taskCall) error {
			var name string
			err := tx.QueryRow(ctx, insertNote+" RETURNING step", c.SagaID, c.Step).Scan(&name)
			if err == nil && name != c.Step {
				return pgengine.Terminal(fmt.Errorf("row %q", name))
			}
			return err
		},
		"QueryRow without a row": func(ctx context.Context, tx pgx.Tx, c taskCall) error {
			var name string
			if err := tx.QueryRow(ctx, "SELECT step FROM note WHERE saga = $1 AND step = 'none'", c.SagaID).Scan(&name); !errors.Is(err, pgx.ErrNoRows) {
				return pgengine.Terminal(fmt.Errorf("no row: %w", err))
			}
			return note(ctx, tx, c)
		},
		"QueryRow that does not scan": func(ctx context.Context, tx pgx.Tx, c taskCall) error {
			var n int
			if err := tx.QueryRow(ctx, "SELECT $1::text", "no number").Scan(&n); err == nil {
				return pgengine.Terminal(errors.New("a text was scanned into an int"))
			}
			return note(ctx, tx, c)
		},
		"an argument that does not encode": func(ctx context.Context, tx pgx.Tx, c taskCall) error {
			// Nothing was sent, so that the transaction is in order.
			if _, err := tx.Exec(ctx, "SELECT $1::int", struct{ X chan int }{}); err == nil {
				return pgengine.Terminal(errors.New("a channel was encoded"))
			}
			return note(ctx, tx, c)
		},
		"a savepoint": func(ctx context.Context, tx pgx.Tx, c taskCall) error {
			return pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error { return note(ctx, tx, c) })
		},
		"a savepoint rolled back": func(ctx context.Context, tx pgx.Tx, c taskCall) error {
			savepoint, err := tx.Begin(ctx)
			if err != nil {
				return err
			}
			if err := errors.Join(note(ctx, savepoint, c), savepoint.Rollback(ctx)); err != nil {
				return err
			}
			return note(ctx, tx, c)
		},
		"a statement fails in a savepoint": func(ctx context.Context, tx pgx.Tx, c taskCall) error {
			if err := pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error {
				_, err := tx.Exec(ctx, "SELECT 1 / $1::int", 0)
				return err
			}); sql.State(err) != "22012" {
				return pgengine.Terminal(fmt.Errorf("division by zero: %w", err))
			}
			return note(ctx, tx, c)
		},
		"CopyFrom": func(ctx context.Context, tx pgx.Tx, c taskCall) error {
			_, err := tx.CopyFrom(ctx, pgx.Identifier{"note"}, []string{"saga", "step"}, pgx.CopyFromRows([][]any{{c.SagaID, c.Step}}))
			return err
		},
		"SendBatch": func(ctx context.Context, tx pgx.Tx, c taskCall) error {
			b := &pgx.Batch{}
			b.Queue("SELECT 1")
			b.Queue(insertNote, c.SagaID, c.Step)
			return tx.SendBatch(ctx, b).Close()
		},
		"Prepare": func(ctx context.Context, tx pgx.Tx, c taskCall) error {
			if _, err := tx.Prepare(ctx, "insert_note", insertNote); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, "insert_note", c.SagaID, c.Step)
			return err
		},
		"LargeObjects": func(ctx context.Context, tx pgx.Tx, c taskCall) error {
			objects := tx.LargeObjects()
			id, err := objects.Create(ctx, 0)
			if err != nil {
				return err
			}
			object, err := objects.Open(ctx, id, pgx.LargeObjectModeRead|pgx.LargeObjectModeWrite)
			if err != nil {
				return err
			}
			if _, err := io.WriteString(object, c.Step); err != nil {
				return err
			}
			return errors.Join(object.Close(), note(ctx, tx, c))
		},
		"Conn": func(ctx context.Context, tx pgx.Tx, c taskCall) error { return note(ctx, tx.Conn(), c) },
		"Commit and Rollback": func(ctx context.Context, tx pgx.Tx, c taskCall) error {
			if err := tx.Commit(ctx); !errors.Is(err, pgengine.ErrTxOwned) {
				return pgengine.Terminal(fmt.Errorf("commit: %w", err))
			}
			if err := note(ctx, tx, c); err != nil {
				return err
			}
			for _, end := range []func(context.Context) error{tx.Commit, tx.Rollback} {
				if err := end(ctx); !errors.Is(err, pgengine.ErrTxOwned) {
					return pgengine.Terminal(fmt.Errorf("an end: %w", err))
				}
			}
			var n int
			err := tx.QueryRow(ctx, "SELECT count(*) FROM note WHERE saga = $1 AND step = $2", c.SagaID, c.Step).Scan(&n)
			if err == nil && n != 1 {
				return pgengine.Terminal(fmt.Errorf("%d rows after Rollback", n))
			}
			return err
		},
		"nothing at all": func(context.Context, pgx.Tx, taskCall) error { return nil },
	}
	inTxModes(t, ops, func(t *testing.T, pool *pgxpool.Pool, in task, s pgengine.Status) {
		if s.State != pgengine.Completed || string(s.Output) != `"three"` || len(s.Attempts) > 0 {
			t.Errorf("the saga is %s, output %s, cause %v, attempts %+v", s.State, s.Output, s.Cause, s.Attempts)
		}
		want := "one three two"
		if in.Case == "nothing at all" {
			want = ""
		}
		if got := query[string](t, pool, "SELECT coalesce(string_agg(step, ' ' ORDER BY step), '') FROM note WHERE saga = $1", s.ID); got != want {
			t.Errorf("the steps that have written are %q, want %q", got, want)
		}
	})
}

// TestTxFailed: a statement failed in the transaction, and whether the step says so or not it is tried
// again, and nothing of it stays.
func TestTxFailed(t *testing.T) {
	t.Parallel()
	fails := map[string]func(context.Context, pgx.Tx) error{
		"Exec, as it runs": func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "SELECT 1 / $1::int", 0)
			return err
		},
		"Exec, as it is parsed": func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "SELECT $1::int FROM nowhere", 0)
			return err
		},
		"Exec without arguments": func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "SELECT 1 / 0")
			return err
		},
		"Query": func(ctx context.Context, tx pgx.Tx) error {
			rows, err := tx.Query(ctx, "SELECT 1 / (2 - n) FROM generate_series(1, $1::int) n", 3)
			if err != nil {
				return err
			}
			_, err = pgx.CollectRows(rows, pgx.RowTo[int])
			return err
		},
		"Query, as it is parsed": func(ctx context.Context, tx pgx.Tx) error {
			rows, err := tx.Query(ctx, "SELECT $1::int FROM nowhere", 3)
			if err != nil {
				return err // with pgx the rows need not be closed then
			}
			rows.Close()
			return rows.Err()
		},
		"QueryRow": func(ctx context.Context, tx pgx.Tx) error {
			var n int
			return tx.QueryRow(ctx, "SELECT 1 / $1::int", 0).Scan(&n)
		},
		"SendBatch": func(ctx context.Context, tx pgx.Tx) error {
			b := &pgx.Batch{}
			b.Queue("SELECT 1 / $1::int", 0)
			return tx.SendBatch(ctx, b).Close()
		},
		"CopyFrom": func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.CopyFrom(ctx, pgx.Identifier{"owner"}, []string{"id"}, pgx.CopyFromRows([][]any{{1}, {1}}))
			return err
		},
	}
	ops := map[string]txOp{}
	for name, fail := range fails {
		ops[name+", returned"] = func(ctx context.Context, tx pgx.Tx, c taskCall) error {
			if c.Step == "one" || c.Attempt > 1 && c.Step == "two" {
				return note(ctx, tx, c)
			}
			return fail(ctx, tx)
		}
		ops[name+", dropped"] = func(ctx context.Context, tx pgx.Tx, c taskCall) error {
			if c.Step == "one" || c.Attempt > 1 && c.Step == "two" {
				return note(ctx, tx, c)
			}
			if err := fail(ctx, tx); sql.State(err) == "" {
				return pgengine.Terminal(fmt.Errorf("not Postgres's error: %w", err))
			}
			if c.Step == "three" { // what is sent then must fail as well
				if err := note(ctx, tx, c); err == nil {
					return pgengine.Terminal(errors.New("a statement after one that failed succeeded"))
				}
			}
			return nil
		}
	}
	inTxModes(t, ops, func(t *testing.T, pool *pgxpool.Pool, in task, s pgengine.Status) {
		if s.State != pgengine.Compensated || s.Cause == nil || s.Cause.Step != "three" {
			t.Errorf("the saga is %s, cause %+v, steps %+v", s.State, s.Cause, s.Steps)
		}
		attempts := map[string]int{}
		for _, a := range s.Attempts {
			attempts[a.Step]++
			if dropped := strings.HasSuffix(in.Case, "dropped"); dropped != strings.Contains(a.Error, pgengine.ErrTxFailed.Error()) {
				t.Errorf("attempt %d of %s failed with: %s", a.Attempt, a.Step, a.Error)
			}
		}
		if attempts["two"] != 1 || attempts["three"] != 1 {
			t.Errorf("attempts: %+v", s.Attempts)
		}
		if n := query[int](t, pool, "SELECT count(*) FROM note WHERE saga = $1", s.ID); n > 0 {
			t.Errorf("%d rows are left", n)
		}
	})
}

// TestTxEnded: a step that ends its transaction itself has failed for good, since what it committed
// stands, and it is told so.
func TestTxEnded(t *testing.T) {
	t.Parallel()
	ops := map[string]txOp{
		"COMMIT":   func(ctx context.Context, tx pgx.Tx, _ taskCall) error { _, err := tx.Exec(ctx, "COMMIT"); return err },
		"ROLLBACK": func(ctx context.Context, tx pgx.Tx, _ taskCall) error { _, err := tx.Exec(ctx, "ROLLBACK"); return err },
		"COMMIT of several": func(ctx context.Context, tx pgx.Tx, c taskCall) error {
			_, err := tx.Exec(ctx, fmt.Sprintf(plainNote+"; COMMIT", c.SagaID, "stays"))
			return err
		},
		"COMMIT by Conn": func(ctx context.Context, tx pgx.Tx, _ taskCall) error {
			_, err := tx.Conn().Exec(ctx, "COMMIT")
			return err
		},
		"COMMIT in a batch": func(ctx context.Context, tx pgx.Tx, _ taskCall) error {
			b := &pgx.Batch{}
			b.Queue("COMMIT")
			return tx.SendBatch(ctx, b).Close()
		},
	}
	inTxModes(t, ops, func(t *testing.T, pool *pgxpool.Pool, in task, s pgengine.Status) {
		if s.State != pgengine.Compensated || s.Cause == nil || s.Cause.Step != "one" || s.Cause.Error != pgengine.ErrTxEnded.Error() || len(s.Attempts) > 0 {
			t.Errorf("the saga is %s, cause %+v, attempts %+v", s.State, s.Cause, s.Attempts)
		}
		if n := query[int](t, pool, "SELECT count(*) FROM note WHERE saga = $1 AND step <> 'stays'", s.ID); n > 0 {
			t.Errorf("%d rows are left", n)
		}
	})
}

// TestTxIsReadCommitted, whatever the role has for a default: the engine's locks and reads count on it.
func TestTxIsReadCommitted(t *testing.T) {
	t.Parallel()
	for _, later := range []bool{false, true} {
		t.Run(fmt.Sprintf("later %v", later), func(t *testing.T) {
			t.Parallel()
			pool := notePool(t, func(c *pgxpool.Config) {
				c.ConnConfig.RuntimeParams["default_transaction_isolation"] = "serializable"
				c.ConnConfig.RuntimeParams["default_transaction_deferrable"] = "on"
			})
			e := engine(t, pool, txSaga(map[string]txOp{"isolation": func(ctx context.Context, tx pgx.Tx, c taskCall) error {
				var isolation, readOnly string
				if err := tx.QueryRow(ctx, "SELECT current_setting('transaction_isolation'), current_setting('transaction_read_only') WHERE $1", true).Scan(&isolation, &readOnly); err != nil {
					return err
				}
				if isolation != "read committed" || readOnly != "off" {
					return pgengine.Terminal(fmt.Errorf("the transaction is %s, read only %s", isolation, readOnly))
				}
				return note(ctx, tx, c)
			}}, false))
			atWork(t, e, jobs.Config{})
			// A start is its caller's, and serializable: it may be refused beside the worker's own, and is then tried again, as all such are.
			var saga pgengine.Started
			for done := false; !done; {
				err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) (err error) {
					saga, err = e.Start(t.Context(), tx, task{"isolation", later}, nil)
					return err
				})
				if err != nil && sql.State(err) != "40001" {
					t.Fatal(err)
				}
				done = err == nil
			}
			if s := atRest(t, e, saga.ID); s.State != pgengine.Completed || len(s.Attempts) > 0 {
				t.Errorf("the saga is %s, cause %v, attempts %+v", s.State, s.Cause, s.Attempts)
			}
		})
	}
}
