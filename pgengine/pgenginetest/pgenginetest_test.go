package pgenginetest_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/pgengine/pgenginetest"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

func TestMain(m *testing.M) { os.Exit(sqltest.Main(m)) }

type (
	Trip struct {
		City   string
		Nights []int
		hidden string // not in JSON: no step ever sees it
	}
	Other   struct{}
	Booking struct{ ID string }
	call    = pgengine.Call[Trip]
)

func (Trip) SagaName() string  { return "trip" }
func (Other) SagaName() string { return "other" }

func trip() pgengine.Saga[Trip] {
	flight := pgengine.Activity[Trip, Booking]{
		Name: "flight",
		Do:   func(_ context.Context, c call) (Booking, error) { return Booking{"flight to " + c.Input.City}, nil },
		Undo: func(_ context.Context, c call, b Booking) error {
			return fmt.Errorf("%s: %s: %v, attempt %d, in doubt %v", c.Key(), b.ID, c.Cause(), c.Attempt, c.InDoubt())
		},
		UndoRetry: pgengine.NoRetry,
	}
	car := pgengine.TxStep[Trip, Booking]{
		Name: "car", Optional: true,
		Do: func(context.Context, pgx.Tx, call) (Booking, error) { return Booking{"car"}, nil },
	}
	hotel := pgengine.Activity[Trip, string]{
		Name: "hotel", After: pgengine.Steps[Trip](flight, car), Retry: pgengine.NoRetry,
		Do: func(_ context.Context, c call) (string, error) {
			if c.Input.City == "Atlantis" {
				return "", pgengine.Terminal(errors.New("no such city"))
			}
			_, drives := car.Maybe(c)
			return fmt.Sprintf("hotel after %s, drives %v", flight.Result(c).ID, drives), nil
		},
	}
	return pgengine.Saga[Trip]{Version: 1, Output: hotel, Steps: pgengine.Steps[Trip](flight, car, hotel)}
}

func TestAStepWithoutAnEngine(t *testing.T) {
	hotel := pgenginetest.Step[pgengine.Activity[Trip, string]](t, trip(), "hotel")
	flight := pgenginetest.Given("flight", Booking{"F1"})
	for want, c := range map[string]call{
		"hotel after F1, drives false": pgenginetest.Call(Trip{}, flight),
		"hotel after F1, drives true":  pgenginetest.Call(Trip{}, flight, pgenginetest.Given("car", Booking{"C1"})),
	} {
		if got, err := hotel.Do(t.Context(), c); err != nil || got != want {
			t.Errorf("Do gave %q, %v, want %q", got, err, want)
		}
	}
}

func TestAMissingGivenPanicsWithBothNames(t *testing.T) {
	defer func() {
		if p := fmt.Sprint(recover()); !strings.Contains(p, "hotel") || !strings.Contains(p, "flight") {
			t.Errorf("panic %q, want one that names hotel and flight", p)
		}
	}()
	hotel := pgenginetest.Step[pgengine.Activity[Trip, string]](t, trip(), "hotel")
	_, _ = hotel.Do(t.Context(), pgenginetest.Call(Trip{}, pgenginetest.At("hotel")))
	t.Error("Do without the flight's result came back")
}

func TestCall(t *testing.T) {
	key := pgenginetest.SagaID + "/flight"
	at := pgenginetest.At("flight")
	cause := pgengine.Cause{Kind: pgengine.CauseCancel, Reason: "rain"}
	for name, test := range map[string]struct {
		call    call
		key     string
		attempt int
		inDoubt bool
		cause   pgengine.Cause
	}{
		"default":    {call: pgenginetest.Call(Trip{}), key: pgenginetest.SagaID + "/step", attempt: 1},
		"at":         {call: pgenginetest.Call(Trip{}, at), key: key, attempt: 1},
		"attempt":    {call: pgenginetest.Call(Trip{}, at, pgenginetest.Attempt(3)), key: key, attempt: 3},
		"undo":       {call: pgenginetest.Call(Trip{}, at, pgenginetest.Undo()), key: key + "/undo", attempt: 1},
		"generation": {call: pgenginetest.Call(Trip{}, at, pgenginetest.Generation(2)), key: key + "/undo/2", attempt: 1},
		"in doubt":   {call: pgenginetest.Call(Trip{}, at, pgenginetest.InDoubt()), key: key + "/undo", attempt: 1, inDoubt: true},
		"cause":      {call: pgenginetest.Call(Trip{}, at, pgenginetest.Cause(cause)), key: key + "/undo", attempt: 1, cause: cause},
	} {
		c := test.call
		if c.Key() != test.key || c.DoKey() != strings.Split(test.key, "/undo")[0] || c.Attempt != test.attempt ||
			c.InDoubt() != test.inDoubt || c.Cause() != test.cause || c.SagaID != pgenginetest.SagaID {
			t.Errorf("%s: %+v, key %s, want %+v", name, c, c.Key(), test)
		}
	}
}

func TestTheInputGoesThroughJSON(t *testing.T) {
	given := Trip{City: "Rome", Nights: []int{1}, hidden: "x"}
	c := pgenginetest.Call(given)
	c.Input.Nights[0] = 7
	if given.Nights[0] != 1 {
		t.Error("the call shares its input with the test")
	}
	if c.Input.City != "Rome" || c.Input.hidden != "" {
		t.Errorf("input %+v, want it as JSON keeps it", c.Input)
	}
}

func TestACallThatCannotBePanics(t *testing.T) {
	defer func() {
		if p := fmt.Sprint(recover()); !strings.Contains(p, "the result of flight does not marshal") {
			t.Errorf("panic %q", p)
		}
	}()
	pgenginetest.Call(Trip{}, pgenginetest.Given("flight", make(chan int)))
	t.Error("a channel was taken for a result")
}

// recorder stands in for a test that is to fail.
type recorder struct {
	testing.TB
	failure string
}

func (r *recorder) Helper() {}

func (r *recorder) Fatalf(form string, a ...any) {
	r.failure = fmt.Sprintf(form, a...)
	panic(r)
}

// failure is what f ends its test with.
func failure(t *testing.T, f func(testing.TB)) string {
	r := &recorder{TB: t}
	func() {
		defer func() {
			if p := recover(); p != nil && p != r { //nolint:errorlint // a panic's value is no error
				panic(p)
			}
		}()
		f(r)
	}()
	return r.failure
}

func TestStepFails(t *testing.T) {
	for name, test := range map[string]struct {
		find func(testing.TB)
		want []string
	}{
		"unknown": {
			func(t testing.TB) { pgenginetest.Step[pgengine.Activity[Trip, string]](t, trip(), "hostel") },
			[]string{`no step "hostel"`, "flight, car, hotel"},
		},
		"other result": {
			func(t testing.TB) { pgenginetest.Step[pgengine.Activity[Trip, int]](t, trip(), "hotel") },
			[]string{`step "hotel" is a pgengine.Activity`, ",string]", ",int]"},
		},
		"other kind": {
			func(t testing.TB) { pgenginetest.Step[pgengine.Activity[Trip, Booking]](t, trip(), "car") },
			[]string{`step "car" is a pgengine.TxStep`, "not a pgengine.Activity"},
		},
		"other input": {
			func(t testing.TB) { pgenginetest.Step[pgengine.Activity[Other, string]](t, trip(), "hotel") },
			[]string{"the definition is a pgengine.Saga", "Trip]", "Other]"},
		},
	} {
		got := failure(t, test.find)
		for _, want := range test.want {
			if !strings.Contains(got, want) {
				t.Errorf("%s: the test fails with %q, want %q in it", name, got, want)
			}
		}
	}
}

func engine(t *testing.T, sagas ...pgengine.Definition) *pgengine.Engine {
	t.Helper()
	e, err := pgengine.New(sqltest.New(t), pgengine.Config{Sagas: sagas, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestRun(t *testing.T) {
	e := engine(t, trip())
	s := pgenginetest.Run(t, e, Trip{City: "Rome"})
	if s.State != pgengine.Completed || string(s.Output) != `"hotel after flight to Rome, drives true"` || len(s.Steps) != 3 {
		t.Errorf("%+v", s)
	}
	// The flight's Undo gives up.
	s = pgenginetest.Run(t, e, Trip{City: "Atlantis"})
	if s.State != pgengine.Stuck || s.Cause == nil || s.Cause.Step != "hotel" {
		t.Errorf("%+v", s)
	}
}

func TestTestsShareAWorker(t *testing.T) {
	e := engine(t, trip())
	t.Run("group", func(t *testing.T) {
		for i := range 4 {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				for range 3 {
					if s := pgenginetest.Run(t, e, Trip{City: "Rome"}); s.State != pgengine.Completed {
						t.Errorf("%+v", s)
					}
				}
			})
		}
	})
	pgenginetest.Run(t, e, Trip{}) // the group's worker has stopped
}

func TestRunFailsWithTheReason(t *testing.T) {
	e := engine(t, trip())
	if got := failure(t, func(t testing.TB) { pgenginetest.Run(t, e, Other{}) }); !strings.Contains(got, "unknown saga other") {
		t.Errorf("an unknown saga: %q", got)
	}
	if got := failure(t, func(t testing.TB) { pgenginetest.Run(t, engine(t.(*recorder).TB.(*testing.T)), Trip{}) }); !strings.Contains(got, "no sagas") {
		t.Errorf("an engine without sagas: %q", got)
	}
}

func TestTheStoryOfASagaThatDoesNotEnd(t *testing.T) {
	slow := trip()
	slow.Steps[0] = pgengine.Activity[Trip, Booking]{
		Name: "flight",
		Do: func(ctx context.Context, c call) (Booking, error) {
			if c.Attempt == 1 {
				return Booking{}, errors.New("the line is busy")
			}
			<-ctx.Done()
			return Booking{}, ctx.Err()
		},
	}
	e := engine(t, pgengine.Saga[Trip]{Version: 1, Steps: slow.Steps[:2]})
	defer pgenginetest.SetRunTimeout(2 * time.Second)()
	got := failure(t, func(t testing.TB) { pgenginetest.Run(t, e, Trip{City: "Rome"}) })
	for _, want := range []string{
		"has not ended in 2s", "saga trip", "running", `"City":"Rome"`, `do car: done, result {"ID":"car"}`,
		"do flight: running", "attempt 1: error: the line is busy",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the story has no %q:\n%s", want, got)
		}
	}
}
