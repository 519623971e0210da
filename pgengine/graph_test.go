package pgengine_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/pgengine"
)

// part is the input of most sagas in these tests.
type part struct {
	ID    string
	Sizes []int
}

func (part) SagaName() string { return "part" }

type partCall = pgengine.Call[part]

// step is an Activity that does nothing but say its name, after others.
func step(name string, after ...pgengine.Step[part]) pgengine.Activity[part, string] {
	return pgengine.Activity[part, string]{
		Name: name, After: after,
		Do:   func(context.Context, partCall) (string, error) { return name, nil },
		Undo: func(context.Context, partCall, string) error { return nil },
	}
}

func saga(steps ...pgengine.Step[part]) pgengine.Saga[part] {
	return pgengine.Saga[part]{Version: 1, Steps: steps}
}

// mistakes are what New says of definitions, as "saga/step: problem".
func mistakes(t *testing.T, sagas ...pgengine.Definition) []string {
	t.Helper()
	_, err := pgengine.New(nil, pgengine.Config{Sagas: sagas})
	if err == nil {
		return nil
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		t.Fatalf("%T, want the join of all mistakes", err)
	}
	var found []string
	for _, one := range joined.Unwrap() {
		d, ok := errors.AsType[*pgengine.DefinitionError](one)
		if !ok {
			t.Fatalf("%T, want a *DefinitionError: %v", one, one)
		}
		for _, name := range []string{d.Saga, d.Step} {
			if !strings.Contains(d.Error(), name) {
				t.Errorf("%q does not name %q", d, name)
			}
		}
		found = append(found, fmt.Sprintf("%s/%s: %s", d.Saga, d.Step, d.Problem))
	}
	return found
}

// Inputs that mislead.
type (
	badName  struct{}
	promoted struct{ part }
	deep     struct{ promoted }
	pointer  struct{ *part }
	panicky  struct{ m map[string]*part }
	number   int
	returned struct{ part }
	byPtr    struct{}
)

func (badName) SagaName() string   { return "Part 1" }
func (p panicky) SagaName() string { return p.m["x"].ID }
func (number) SagaName() string    { return "number" }
func (returned) SagaName() string  { return "return" }
func (*byPtr) SagaName() string    { return "by_ptr" }

// empty is a saga over any input; its steps are not the point.
func empty[I pgengine.Input]() pgengine.Definition {
	return pgengine.Saga[I]{Version: 1, Steps: pgengine.Steps[I](pgengine.Activity[I, int]{
		Name: "only", Do: func(context.Context, pgengine.Call[I]) (int, error) { return 0, nil },
	})}
}

func TestMistakes(t *testing.T) {
	a := step("a")
	bare := pgengine.TxStep[part, int]{Name: "bare", Do: func(context.Context, pgx.Tx, partCall) (int, error) { return 0, nil }}
	with := func(change func(*pgengine.Activity[part, string])) pgengine.Definition {
		s := step("s")
		change(&s)
		return saga(s)
	}
	retry := func(r pgengine.Retry) pgengine.Definition {
		return with(func(s *pgengine.Activity[part, string]) { s.Retry = r })
	}
	for _, test := range []struct {
		name string
		saga pgengine.Definition
		want []string // each is a part of one mistake
	}{
		{"none", saga(a, step("b", a)), nil},
		{"no steps", saga(), []string{"part/: has no steps"}},
		{"nil step", saga(a, nil), []string{"part/: Steps holds a nil"}},
		{"nil in After", saga(step("b", nil)), []string{"part/b: After holds a nil"}},
		{"no Do", with(func(s *pgengine.Activity[part, string]) { s.Do = nil }), []string{"part/s: has no Do"}},
		{"no Do of a TxStep", saga(pgengine.TxStep[part, int]{Name: "s"}), []string{"part/s: has no Do"}},
		{"UndoCommit alone", with(func(s *pgengine.Activity[part, string]) {
			s.Undo, s.UndoCommit = nil, func(context.Context, pgx.Tx, partCall, string) error { return nil }
		}), []string{"part/s: has an UndoCommit without an Undo"}},
		{"Lookup alone", with(func(s *pgengine.Activity[part, string]) {
			s.Undo, s.Lookup = nil, func(context.Context, partCall) (string, bool, error) { return "", false, nil }
		}), []string{"part/s: has a Lookup without an Undo"}},
		{"UndoRetry alone", with(func(s *pgengine.Activity[part, string]) { s.Undo, s.UndoRetry = nil, pgengine.NoRetry }),
			[]string{"part/s: has an UndoRetry without an Undo"}},
		{"UndoRetry of a TxStep alone", saga(pgengine.TxStep[part, int]{Name: "s", Do: bare.Do, UndoRetry: pgengine.NoRetry}),
			[]string{"part/s: has an UndoRetry without an Undo"}},

		{"attempts", retry(pgengine.Retry{MaxAttempts: -1}), []string{"part/s: Retry: MaxAttempts is negative"}},
		{"wait", retry(pgengine.Retry{Initial: -time.Second}), []string{"part/s: Retry: a wait is negative"}},
		{"max wait", retry(pgengine.Retry{Max: -time.Second}), []string{"part/s: Retry: a wait is negative"}},
		{"factor", retry(pgengine.Retry{Factor: 0.5}), []string{"part/s: Retry: Factor is below 1"}},
		{"factor that is no number", retry(pgengine.Retry{Factor: math.NaN()}), []string{"part/s: Retry: Factor is below 1"}},
		{"initial above max", retry(pgengine.Retry{Initial: time.Minute, Max: time.Second}), []string{"part/s: Retry: Initial is longer than Max"}},
		{"undo's", with(func(s *pgengine.Activity[part, string]) { s.UndoRetry.MaxAttempts = -1 }), []string{"part/s: UndoRetry: MaxAttempts is negative"}},
		{"no timeout is none", with(func(s *pgengine.Activity[part, string]) { s.Timeout = -1 }), nil},
		{"saga's timeout", pgengine.Saga[part]{Version: 1, Timeout: -1, Steps: saga(a).Steps}, []string{"part/: Timeout is negative"}},

		{"step name", saga(step("a b")), []string{"part/a b: the name must match"}},
		{"no step name", saga(step("")), []string{"part/: the name must match"}},
		{"long step name", saga(step(strings.Repeat("x", 64))), []string{"the name must match"}},
		{"as long as can be", saga(step(strings.Repeat("x", 63))), nil},
		{"queue name", with(func(s *pgengine.Activity[part, string]) { s.Queue = "Slow Ones" }), []string{`part/s: the queue "Slow Ones" must match`}},
		{"two of a name", saga(a, step("b"), step("a")), []string{"part/a: there are two steps of this name"}},

		{"foreign step", saga(a, step("b", step("c"))), []string{`part/b: comes After "c", which is not among Steps`}},
		{"twice after", saga(a, step("b", a, a)), []string{`part/b: comes After "a" twice`}},
		{"version 0", pgengine.Saga[part]{Steps: saga(a).Steps}, []string{"part/: Version must be 1 or more, it is 0"}},
		{"version -1", pgengine.Saga[part]{Version: -1, Steps: saga(a).Steps}, []string{"Version must be 1 or more, it is -1"}},

		{"foreign output", pgengine.Saga[part]{Version: 1, Steps: saga(a).Steps, Output: bare}, []string{"part/bare: is the Output but not among Steps"}},
		{"optional output", func() pgengine.Definition {
			o := step("o")
			o.Optional = true
			return pgengine.Saga[part]{Version: 1, Steps: saga(o).Steps, Output: o}
		}(), []string{"part/o: is the Output, and may have no result: it is Optional"}},
		{"another output", func() pgengine.Definition {
			o := a
			o.Queue = "slow"
			return pgengine.Saga[part]{Version: 1, Steps: saga(a).Steps, Output: o}
		}(), []string{"part/a: as the Output is not the step of that name"}},

		{"bad saga name", empty[badName](), []string{"Part 1/: the name of pgengine_test.badName must match"}},
		{"promoted name", empty[promoted](), []string{"part/: pgengine_test.promoted has its name from the embedded pgengine_test.part"}},
		{"promoted twice", empty[deep](), []string{"pgengine_test.deep has its name from the embedded pgengine_test.promoted"}},
		{"promoted through a pointer", empty[pointer](), []string{"pgengine_test.pointer/: SagaName of the zero value panics"}},
		{"panics", empty[panicky](), []string{"pgengine_test.panicky/: SagaName of the zero value panics"}},
		{"a name of its own", empty[returned](), nil},
		{"pointer input", empty[*part](), []string{"*pgengine_test.part/: the input must be a struct type"}},
		{"method of the pointer", empty[*byPtr](), []string{"*pgengine_test.byPtr/: the input must be a struct type"}},
		{"number", empty[number](), []string{"pgengine_test.number/: the input must be a struct type"}},
		{"interface", empty[pgengine.Input](), []string{"<nil>/: the input must be a struct type"}},
		{"nil", nil, []string{"Sagas[0]/: is nil"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			found := mistakes(t, test.saga)
			if len(found) != len(test.want) {
				t.Fatalf("%q, want %q", found, test.want)
			}
			for i, want := range test.want {
				if !strings.Contains(found[i], want) {
					t.Errorf("%q, want %q in it", found[i], want)
				}
			}
		})
	}
}

// TestACopyThatDiffers changes one field after another of a step between After and Steps. Functions can't be
// compared: only whether there is one.
func TestACopyThatDiffers(t *testing.T) {
	type activity = pgengine.Activity[part, string]
	first := step("first")
	for name, change := range map[string]func(*activity){
		"After":     func(s *activity) { s.After = pgengine.Steps[part](first) },
		"Retry":     func(s *activity) { s.Retry = pgengine.NoRetry },
		"Retry.If":  func(s *activity) { s.Retry.If = func(error) bool { return false } },
		"UndoRetry": func(s *activity) { s.UndoRetry.Max = time.Hour },
		"Timeout":   func(s *activity) { s.Timeout = time.Hour },
		"Queue":     func(s *activity) { s.Queue = "slow" },
		"Optional":  func(s *activity) { s.Optional = true },
		"Commit":    func(s *activity) { s.Commit = func(context.Context, pgx.Tx, partCall, string) error { return nil } },
		"Lookup": func(s *activity) {
			s.Lookup = func(context.Context, partCall) (string, bool, error) { return "", false, nil }
		},
		"Undo": func(s *activity) { s.Undo = nil },
		"UndoCommit": func(s *activity) {
			s.UndoCommit = func(context.Context, pgx.Tx, partCall, string) error { return nil }
		},
	} {
		s := step("s")
		last := step("last", s)
		change(&s)
		found := mistakes(t, saga(first, s, last))
		if len(found) != 1 || !strings.Contains(found[0], `part/last: comes After a "s" that is not the step of that name`) {
			t.Errorf("%s: %q", name, found)
		}
	}
	other := pgengine.Activity[part, int]{Name: "s"}
	if found := mistakes(t, saga(step("s"), step("last", other))); len(found) != 1 || !strings.Contains(found[0], "is not the step of that name") {
		t.Errorf("another result type: %q", found)
	}
}

// TestACycle needs steps that name what was not there yet when they were written: by copies of the same name.
func TestACycle(t *testing.T) {
	do := func(context.Context, partCall) (string, error) { return "", nil }
	bare := func(name string, after ...pgengine.Step[part]) pgengine.Activity[part, string] {
		return pgengine.Activity[part, string]{Name: name, After: after, Do: do}
	}
	a := bare("a", bare("c", bare("b")))
	b := bare("b", bare("a", bare("c")))
	c := bare("c", bare("b", bare("a")))
	found := mistakes(t, saga(bare("start"), a, b, c))
	if len(found) != 1 || !strings.Contains(found[0], "comes after itself: ") {
		t.Fatalf("%q", found)
	}
	_, path, _ := strings.Cut(found[0], "itself: ")
	if names := strings.Split(path, " -> "); len(names) != 4 || names[0] != names[3] {
		t.Errorf("the cycle is %s", path)
	}
	if found := mistakes(t, saga(bare("a", bare("a", bare("a"))))); !slices.Contains(found, "part/a: comes after itself: a -> a") {
		t.Errorf("after itself: %q", found)
	}
}

func TestTwoDefinitionsOfAVersion(t *testing.T) {
	found := mistakes(t, saga(step("a")), saga(step("b")), pgengine.Saga[part]{Version: 2, Steps: saga(step("a")).Steps})
	if len(found) != 1 || found[0] != "part/: version 1 is defined twice" {
		t.Errorf("%q", found)
	}
}

func TestAllMistakesAreReportedAtOnce(t *testing.T) {
	bad := step("b b", step("gone"))
	bad.Do, bad.Queue, bad.Retry.MaxAttempts = nil, "Q", -1
	found := mistakes(t,
		pgengine.Saga[part]{Timeout: -1, Output: step("nowhere"), Steps: saga(step("a"), step("a"), bad).Steps},
		empty[badName](), nil)
	for _, want := range []string{
		"part/: Version must be 1", "part/a: there are two steps", "part/b b: the name", "part/b b: the queue", "part/b b: has no Do",
		"part/b b: Retry: MaxAttempts", `part/b b: comes After "gone"`, "part/: Timeout", "part/nowhere: is the Output", "Part 1/: the name", "Sagas[2]/: is nil",
	} {
		if !slices.ContainsFunc(found, func(s string) bool { return strings.HasPrefix(s, want) }) {
			t.Errorf("%q is not among\n%s", want, strings.Join(found, "\n"))
		}
	}
	if len(found) != 11 {
		t.Errorf("%d mistakes, want 11:\n%s", len(found), strings.Join(found, "\n"))
	}
}

// TestAStepOverAnotherInputDoesNotCompile builds two programs that differ in one input type.
func TestAStepOverAnotherInputDoesNotCompile(t *testing.T) {
	if testing.Short() {
		t.Skip("runs the compiler")
	}
	const program = `package main

import "github.com/pgsagaz/pgsagaz/pgengine"

type (
	Order struct{}
	Trip  struct{}
)

func (Order) SagaName() string { return "order" }
func (Trip) SagaName() string  { return "trip" }

func main() {
	first := pgengine.Activity[INPUT, int]{Name: "first"}
	last := pgengine.Activity[Order, int]{Name: "last", After: pgengine.Steps[Order](first)}
	_ = pgengine.Saga[Order]{Steps: pgengine.Steps[Order](first, last)}
}
`
	build := func(input string) string {
		file := filepath.Join(t.TempDir(), "main.go")
		source := strings.Replace(program, "INPUT", input, 1)
		if err := os.WriteFile(file, []byte(source), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(t.Context(), "go", "vet", file).CombinedOutput()
		if (err == nil) != (len(out) == 0) {
			t.Fatalf("go vet: %v\n%s", err, out)
		}
		return string(out)
	}
	if out := build("Order"); out != "" {
		t.Errorf("one input: %s", out)
	}
	if out := build("Trip"); !strings.Contains(out, "does not implement pgengine.Step[Order]") {
		t.Errorf("two inputs: %q", out)
	}
}
