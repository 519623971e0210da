package pgengine_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/jobs"
	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/pgengine/pgenginetest"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// hooked is a saga of three steps whose hooks write down what they are told, in a table.
func hooked(refuses func(ev pgengine.Event) error) pgengine.Saga[guest] {
	a := pgengine.TxStep[guest, string]{
		Name: "a", Do: func(_ context.Context, _ pgx.Tx, c guestCall) (string, error) { return "ok " + c.Input.Name, nil },
		Undo: func(context.Context, pgx.Tx, guestCall, string) error { return nil },
	}
	b := pgengine.Activity[guest, int]{
		Name: "b", After: pgengine.Steps(a), Retry: pgengine.Retry{MaxAttempts: 2, Initial: time.Millisecond},
		Do:   func(context.Context, guestCall) (int, error) { return 7, nil },
		Undo: func(context.Context, guestCall, int) error { return nil },
	}
	c := pgengine.TxStep[guest, int]{Name: "c", After: pgengine.Steps(b), Do: func(_ context.Context, _ pgx.Tx, c guestCall) (int, error) {
		if c.Input.Bad {
			return 0, pgengine.Terminal(errors.New("bad luck"))
		}
		return 1, nil
	}}
	saga := guests(a, b, c)
	saga.Fuse = true
	note := func(ctx context.Context, tx pgx.Tx, c guestCall, ev pgengine.Event) error {
		said := ev.State
		if ev.Step != "" {
			said = fmt.Sprintf("%s %s %s", ev.Direction, ev.Step, ev.State)
		}
		if result, ok := a.Maybe(c); ok != (result == "ok "+c.Input.Name) || c.SagaID != ev.SagaID {
			return fmt.Errorf("the hook sees %q", result)
		}
		if _, err := tx.Exec(ctx, `INSERT INTO noted (saga, said) VALUES ($1, $2)`, ev.SagaID, said); err != nil {
			return err
		}
		if refuses != nil {
			return refuses(ev)
		}
		return nil
	}
	saga.OnStart, saga.OnStep, saga.OnEnd = note, note, note
	return saga
}

func hookBox(t *testing.T, saga pgengine.Definition) *pgenginetest.Sandbox {
	t.Helper()
	s := pgenginetest.NewSandbox(t, sqltest.New(t), saga)
	execute(t, s.Engine.Pool(), `CREATE TABLE noted (id bigint GENERATED ALWAYS AS IDENTITY, saga uuid NOT NULL, said text NOT NULL)`)
	return s
}

func noted(t *testing.T, s *pgenginetest.Sandbox, id string) string {
	t.Helper()
	return query[string](t, s.Engine.Pool(), `SELECT coalesce(string_agg(said, ', ' ORDER BY id), '') FROM noted WHERE saga = $1`, id)
}

// Each event has its hook, in its transaction, forward and back.
func TestHooks(t *testing.T) {
	t.Parallel()
	s := hookBox(t, hooked(nil))
	good, bad := s.Start(guest{Name: "x"}), s.Start(guest{Name: "y", Bad: true})
	s.Run()
	if got, want := noted(t, s, good), "running, do a done, do b done, do c done, completed"; got != want {
		t.Errorf("noted %s, want %s", got, want)
	}
	if got, want := noted(t, s, bad), "running, do a done, do b done, do c failed, undo b done, undo a done, compensated"; got != want {
		t.Errorf("noted %s, want %s", got, want)
	}
	cancelled := s.Start(guest{Name: "z"})
	s.Tx(func(tx pgx.Tx) error {
		return s.Engine.Cancel(t.Context(), tx, cancelled, pgengine.By{Reason: "enough"})
	})
	s.Run()
	if got := noted(t, s, cancelled); !strings.HasSuffix(got, "compensated") && !strings.HasSuffix(got, "completed") {
		t.Errorf("noted %s, want its end", got)
	}
}

// What a hook refuses has not happened: a step has failed, a beginning is tried again. What it wrote is gone.
func TestHooksThatRefuse(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ step, state, want string }{
		{"a", "done", "running, do a failed, compensated"},
		{"b", "done", "running, do a done, do b failed, undo b done, undo a done, compensated"},
		{"", "running", "running, do a done, do b done, do c done, completed"},
		{"", "completed", "running, do a done, do b done, do c failed, undo b done, undo a done, compensated"}, // the end goes with its last step
	} {
		t.Run(test.step+" "+test.state, func(t *testing.T) {
			t.Parallel()
			first := true
			s := hookBox(t, hooked(func(ev pgengine.Event) error {
				if ev.Step != test.step || ev.State != test.state || ev.Direction == pgengine.Undo {
					return nil
				}
				if test.step == "" && !first {
					return nil
				}
				first = false
				if test.state == "running" {
					panic("not like this")
				}
				return pgengine.Terminal(errors.New("not now"))
			}))
			id := s.Start(guest{Name: "x"})
			if test.state == "running" { // River is told, and tries again
				k := ticket(t, s.Engine.Pool(), id, "guest", "")
				if err := s.Engine.Run(t.Context(), k, pgengine.RunOptions{Worker: "w"}); err == nil || !strings.Contains(err.Error(), "not like this") {
					t.Errorf("%v, want the hook's panic", err)
				}
			}
			s.Run()
			if got := noted(t, s, id); got != test.want {
				t.Errorf("noted %s, want %s", got, test.want)
			}
		})
	}
}

// A connection that is lost while a hook runs is the database's absence: the step that it was told of has not failed, and is
// not tried for the last time.
func TestAConnectionLostInAHookIsNotTheSteps(t *testing.T) {
	t.Parallel()
	for _, step := range []string{"a", "b"} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			a := pgengine.TxStep[guest, string]{
				Name: "a", Retry: pgengine.NoRetry, Do: func(context.Context, pgx.Tx, guestCall) (string, error) { return "", nil },
			}
			b := pgengine.Activity[guest, int]{
				Name: "b", After: pgengine.Steps(a), Retry: pgengine.NoRetry, Do: func(context.Context, guestCall) (int, error) { return 7, nil },
			}
			var lost atomic.Int32
			saga := guests(a, b)
			saga.OnStep = func(ctx context.Context, tx pgx.Tx, _ guestCall, ev pgengine.Event) error {
				if ev.Step != step || lost.Add(1) > 1 {
					return nil
				}
				_, err := tx.Exec(ctx, `SELECT pg_terminate_backend(pg_backend_pid())`)
				return fmt.Errorf("can't be told: %v", err) // its own error, that no longer says what was the matter
			}
			e, err := pgengine.New(sqltest.New(t), pgengine.Config{Sagas: []pgengine.Definition{saga}, Logger: quiet})
			if err != nil {
				t.Fatal(err)
			}
			workWith(t, e, jobs.Config{})
			id := start(t, e, guest{Name: "x"}, nil).ID
			wait(t, e, id)
			if s, err := e.Get(t.Context(), id); err != nil || s.State != pgengine.Completed || len(s.Attempts) > 0 || lost.Load() != 2 {
				t.Errorf("%+v, %v; the hook was called %d times", s, err, lost.Load())
			}
		})
	}
}

// The listener hears of what is committed, and a panic of it harms nobody.
func TestListener(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	var mu sync.Mutex
	heard := map[string][]string{}
	listen := func(ev pgengine.Event) {
		mu.Lock()
		defer mu.Unlock()
		heard[ev.SagaID] = append(heard[ev.SagaID], strings.TrimSpace(strings.Join([]string{string(ev.Direction), ev.Step, ev.State}, " ")))
		if ev.Step == "b" {
			panic("deaf")
		}
	}
	saga := hooked(nil)
	saga.OnStart, saga.OnStep, saga.OnEnd = nil, nil, nil
	e, err := pgengine.New(pool, pgengine.Config{Sagas: []pgengine.Definition{saga}, Logger: quiet, Listener: listen})
	if err != nil {
		t.Fatal(err)
	}
	workWith(t, e, jobs.Config{})
	good, bad := start(t, e, guest{Name: "x"}, nil).ID, start(t, e, guest{Name: "y", Bad: true}, nil).ID
	wait(t, e, good, bad)
	for id, want := range map[string]string{
		good: "running, do a done, do b done, do c done, completed",
		bad:  "running, do a done, do b done, do c failed, undo b done, undo a done, compensated",
	} {
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
			mu.Lock()
			got := slices.Clone(heard[id])
			mu.Unlock()
			if strings.Join(got, ", ") == want {
				break
			}
			if time.Now().After(deadline) {
				t.Errorf("heard %v, want %s", got, want)
				break
			}
		}
	}
}

// An undo that a hook refuses is done again, whatever its own retries are: it has not failed.
func TestHookThatRefusesAnUndo(t *testing.T) {
	t.Parallel()
	first, undos := true, 0
	saga := hooked(func(ev pgengine.Event) error {
		if ev.Step == "a" && ev.Direction == pgengine.Undo && first {
			first = false
			return errors.New("not now")
		}
		return nil
	})
	a := pgengine.TxStep[guest, string]{
		Name: "a", Do: func(_ context.Context, _ pgx.Tx, c guestCall) (string, error) { return "ok " + c.Input.Name, nil },
		Undo:      func(context.Context, pgx.Tx, guestCall, string) error { undos++; return nil },
		UndoRetry: pgengine.NoRetry, OnUndoFailure: pgengine.UndoContinue,
	}
	b := pgengine.TxStep[guest, int]{Name: "b", After: pgengine.Steps(a), Do: func(context.Context, pgx.Tx, guestCall) (int, error) {
		return 0, pgengine.Terminal(errors.New("bad luck"))
	}}
	saga.Steps = pgengine.Steps[guest](a, b)
	saga.OnStart, saga.OnEnd = nil, nil
	onStep := saga.OnStep
	saga.OnStep = func(ctx context.Context, tx pgx.Tx, c guestCall, ev pgengine.Event) error {
		if ev.Direction != pgengine.Undo {
			return nil
		}
		return onStep(ctx, tx, c, ev)
	}
	s := hookBox(t, saga)
	id := s.Start(guest{Name: "x"})
	k := ticket(t, s.Engine.Pool(), id, "guest", "")
	if err := s.Engine.Run(t.Context(), k, pgengine.RunOptions{Worker: "w", Budget: time.Minute}); err == nil || !strings.Contains(err.Error(), "not now") {
		t.Errorf("%v, want the hook's error", err) // the lane rests, and the worker says so
	}
	s.Run()
	if status := s.Get(id); status.State != pgengine.Compensated || undos != 2 || !has(status, "a", pgengine.Undo, "done") {
		t.Errorf("the saga is %s after %d undos: %+v", status.State, undos, status.Steps)
	}
	if got := noted(t, s, id); got != "undo a done" {
		t.Errorf("noted %s", got)
	}
}
