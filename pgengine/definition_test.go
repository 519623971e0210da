package pgengine_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/pgengine/pgenginetest"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// jobPerStep runs every test of this package with a job a step: go test ./pgengine -jobperstep.
var jobPerStep = flag.Bool("jobperstep", false, "make every step a River job of its own")

func TestMain(m *testing.M) { os.Exit(sqltest.Main(m)) }

// quiet is for engines whose log is not the point.
var quiet = slog.New(slog.DiscardHandler)

func engine(t testing.TB, pool *pgxpool.Pool, sagas ...pgengine.Definition) *pgengine.Engine {
	t.Helper()
	return engineLogging(t, pool, quiet, sagas...)
}

func engineLogging(t testing.TB, pool *pgxpool.Pool, log *slog.Logger, sagas ...pgengine.Definition) *pgengine.Engine {
	t.Helper()
	e, err := pgengine.New(pool, pgengine.Config{Sagas: sagas, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func register(t testing.TB, e *pgengine.Engine) {
	t.Helper()
	if err := e.Register(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// start starts a saga in a transaction of its own.
func start(t testing.TB, e *pgengine.Engine, in pgengine.Input, o *pgengine.StartOptions) pgengine.Started {
	t.Helper()
	var s pgengine.Started
	err := pgx.BeginFunc(t.Context(), e.Pool(), func(tx pgx.Tx) (err error) {
		s, err = e.Start(t.Context(), tx, in, o)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func query[T any](t testing.TB, pool *pgxpool.Pool, statement string, args ...any) (value T) {
	t.Helper()
	if err := pool.QueryRow(t.Context(), statement, args...).Scan(&value); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
	return value
}

func TestRegisterStoresTheGraph(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	reserve := pgengine.TxStep[part, int]{Name: "reserve", Do: func(context.Context, pgx.Tx, partCall) (int, error) { return 1, nil }}
	charge := step("charge", reserve)
	charge.Queue = "slow"
	charge.Lookup = func(context.Context, partCall) (string, bool, error) { return "", false, nil }
	mail := step("mail", charge, reserve)
	mail.Optional, mail.Undo = true, nil
	register(t, engine(t, pool, pgengine.Saga[part]{Version: 3, Timeout: time.Hour, Output: charge, Steps: pgengine.Steps[part](reserve, charge, mail)}))

	var stored pgengine.Graph
	var timeout time.Duration
	err := pool.QueryRow(t.Context(), "SELECT graph, timeout FROM pgsagaz.definition WHERE name = 'part' AND version = 3").Scan(&stored, &timeout)
	if err != nil {
		t.Fatal(err)
	}
	five := pgengine.Tuning{Attempts: 5, Timeout: time.Minute}
	want := pgengine.Graph{Output: "charge", Strategy: "wait all", Steps: []pgengine.GraphStep{
		{Name: "reserve", Kind: "tx", After: []string{}, Tuning: pgengine.Tuning{Attempts: 5, Timeout: 30 * time.Second}},
		{Name: "charge", Kind: "activity", After: []string{"reserve"}, Queue: "slow", Undo: true, Lookup: true, Tuning: five},
		{Name: "mail", Kind: "activity", After: []string{"reserve", "charge"}, Optional: true, Tuning: five},
	}}
	if !reflect.DeepEqual(stored, want) || timeout != time.Hour {
		t.Errorf("stored is %+v, %v\nwant %+v, 1h", stored, timeout, want)
	}
}

func TestRegisterAgainIsANoOp(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	const written = "SELECT registered_at::text || ' ' || xmin::text FROM pgsagaz.definition"
	register(t, engine(t, pool, saga(step("a"), step("b"))))
	first := query[string](t, pool, written)
	var log bytes.Buffer
	e := engineLogging(t, pool, slog.New(slog.NewTextHandler(&log, nil)), saga(step("a"), step("b")))
	register(t, e)
	register(t, e)
	if again := query[string](t, pool, written); again != first {
		t.Errorf("the row was %s and is %s", first, again)
	}
	if log.Len() > 0 {
		t.Errorf("logged: %s", &log)
	}
}

func TestAChangedGraphReplacesOneThatIsNotInUse(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	old := engine(t, pool, saga(step("a")))
	if s := pgenginetest.Run(t, old, part{}); s.State != pgengine.Completed { // has run, and does not any more
		t.Fatalf("%+v", s)
	}
	var log bytes.Buffer
	changed := step("a")
	changed.Queue = "slow"
	register(t, engineLogging(t, pool, slog.New(slog.NewTextHandler(&log, nil)), saga(changed)))
	if q := query[string](t, pool, "SELECT graph -> 'steps' -> 0 ->> 'queue' FROM pgsagaz.definition"); q != "slow" {
		t.Errorf("the stored queue is %q, want the new one", q)
	}
	for _, want := range []string{"definition changed", "saga=part", "version=1", "step a was"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("logged %q, want %q in it", &log, want)
		}
	}
}

func TestAChangedGraphIsRefusedWhileSagasRunOnIt(t *testing.T) {
	t.Parallel()
	first, second := step("first"), step("second")
	third := step("third", first)
	before := pgengine.Saga[part]{Version: 1, Output: first, Steps: pgengine.Steps[part](first, second, third)}
	for name, test := range map[string]struct {
		change func(*pgengine.Saga[part])
		want   string
	}{
		"new step":  {func(s *pgengine.Saga[part]) { s.Steps = append(s.Steps, step("fourth")) }, "new step fourth"},
		"step gone": {func(s *pgengine.Saga[part]) { s.Steps = s.Steps[:2] }, "step third is gone"},
		"renamed":   {func(s *pgengine.Saga[part]) { s.Steps[1] = step("zweiter") }, "new step zweiter"},
		"after":     {func(s *pgengine.Saga[part]) { s.Steps[2] = step("third", second) }, `step third was {`},
		"order":     {func(s *pgengine.Saga[part]) { s.Steps[0], s.Steps[1] = s.Steps[1], s.Steps[0] }, "the order of the steps"},
		"output":    {func(s *pgengine.Saga[part]) { s.Output = second }, `the output was "first", is "second"`},
		"no undo": {func(s *pgengine.Saga[part]) {
			other := second
			other.Undo = nil
			s.Steps[1] = other
		}, `step second was {`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := sqltest.New(t)
			old := engine(t, pool, before)
			register(t, old)
			start(t, old, part{}, nil)

			changed := before
			changed.Steps = append([]pgengine.Step[part]{}, before.Steps...)
			test.change(&changed)
			err := engine(t, pool, changed).Register(t.Context())
			d, ok := errors.AsType[*pgengine.DefinitionError](err)
			if !ok || d.Saga != "part" {
				t.Fatalf("%v, want a *DefinitionError", err)
			}
			for _, want := range []string{"version 1 has changed", test.want, "1 unfinished saga", "give the changed graph a new Version"} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q, want %q in it", err, want)
				}
			}
			if n := query[int](t, pool, "SELECT jsonb_array_length(graph -> 'steps') FROM pgsagaz.definition"); n != 3 {
				t.Errorf("%d steps are stored, want the old ones", n)
			}
			// The code may change as it likes, and the timeout is only for sagas to come.
			same := before
			same.Timeout = time.Hour
			register(t, engine(t, pool, same))
			if got := query[time.Duration](t, pool, "SELECT timeout FROM pgsagaz.definition"); got != time.Hour {
				t.Errorf("the timeout is %v", got)
			}
		})
	}
}

// TestCheckTellsOfDrift: before its worker is refused, Check says that a graph has changed under sagas that run on it.
func TestCheckTellsOfDrift(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	first := writes("first", nil)
	was := engine(t, pool, pgengine.Saga[race]{Version: 1, Steps: pgengine.Steps[race](first)})
	is := engine(t, pool, pgengine.Saga[race]{Version: 1, Steps: pgengine.Steps[race](first, writes("second", nil, first))})
	drift := func(e *pgengine.Engine) (n int) {
		t.Helper()
		found, err := e.Check(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range found {
			if v.Rule == "definition_drift" && strings.Contains(v.Problem, "new step second") {
				n++
			} else {
				t.Errorf("found %v", v)
			}
		}
		return n
	}
	if drift(is) != 0 {
		t.Error("of a saga that nobody has registered")
	}
	register(t, was)
	if drift(is) != 0 {
		t.Error("of a saga that nobody has started")
	}
	start(t, was, race{}, nil)
	if drift(was) != 0 || drift(is) != 1 {
		t.Error("of a saga that runs on the old graph nothing is told, or too much")
	}
}

func TestARefusalRegistersNothing(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	old := engine(t, pool, saga(step("a")))
	register(t, old)
	start(t, old, part{}, nil)
	if err := engine(t, pool, saga(step("b")), empty[returned](), empty[another]()).Register(t.Context()); err == nil {
		t.Error("a changed graph was registered")
	}
	if names := query[string](t, pool, "SELECT string_agg(name, ' ') FROM pgsagaz.definition"); names != "part" {
		t.Errorf("registered: %s", names)
	}
}

type another struct{}

func (another) SagaName() string { return "another" }

func TestTwoVersionsSideBySide(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	version := func(n int, steps ...pgengine.Step[part]) pgengine.Definition {
		return pgengine.Saga[part]{Version: n, Output: steps[len(steps)-1], Steps: steps}
	}
	a := step("a")
	old := engine(t, pool, version(1, a))
	early := start(t, old, part{}, nil) // of a process that was not deployed anew yet

	both := engine(t, pool, version(1, a), version(2, a, step("b", a)))
	if got := both.Definitions(); !reflect.DeepEqual(got, []string{"part/1", "part/2"}) {
		t.Errorf("definitions %q", got)
	}
	if s := pgenginetest.Run(t, both, part{}); s.Version != 2 || string(s.Output) != `"b"` {
		t.Errorf("the latest: %+v", s)
	}
	chosen := start(t, both, part{}, &pgengine.StartOptions{Version: 1})
	for _, id := range []string{early.ID, chosen.ID} {
		s, err := both.Wait(t.Context(), id)
		if err != nil || s.State != pgengine.Completed || s.Version != 1 || string(s.Output) != `"a"` {
			t.Errorf("the old one: %+v, %v", s, err)
		}
	}
}

// Each step comes after all of the layer before it: there are more ways through them than anybody could go. One whose After holds itself
// comes after itself.
func TestManyAfterMany(t *testing.T) {
	t.Parallel()
	var all, layer []pgengine.Step[part]
	for i := range 60 {
		var next []pgengine.Step[part]
		for j := range 3 {
			s := step(fmt.Sprintf("s%d.%d", i, j))
			s.After = layer
			next = append(next, s)
		}
		all, layer = append(all, next...), next
	}
	if _, err := pgengine.New(nil, pgengine.Config{Sagas: []pgengine.Definition{pgengine.Saga[part]{Version: 1, Steps: all}}}); err != nil {
		t.Error(err)
	}
	after := make([]pgengine.Step[part], 1)
	own := step("own")
	own.After = after
	after[0] = own
	if _, err := pgengine.New(nil, pgengine.Config{Sagas: []pgengine.Definition{pgengine.Saga[part]{Version: 1, Steps: after}}}); err == nil || !strings.Contains(err.Error(), "comes after itself: own -> own") {
		t.Errorf("%v, want that it comes after itself", err)
	}
}
