package pgengine_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"pgregory.net/rapid"

	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/pgengine/pgenginetest"
	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// Random sagas of everything a saga can be, run by the real engine on a real Postgres with random crashes, cancels
// and orders of events, against a sequential model: whether the saga ends completed or taken back, and what
// has an effect in the end. How long: -rapid.checks.

type (
	model      struct{ Version int }
	modelChild struct{ Fails bool }
	modelGo    struct{ N int }
	modelNever struct{ N int } // nobody sends it
)

func (model) SagaName() string      { return "model" }
func (modelChild) SagaName() string { return "model.child" }
func (modelGo) SignalName() string  { return "go" }

func (modelNever) SignalName() string { return "never" }

type modelCall = pgengine.Call[model]

// modelStep is a step as it was drawn, and how it will go.
type modelStep struct {
	name     string
	kind     string // tx, activity, await, sleep, child, each
	preds    []int
	optional bool
	skipped  bool // its When says no
	when     bool // it has one
	pivot    bool
	fate     string // ok, flaky, lost once, fail, lost; of an await: ok, instead, fail
	lookup   bool
	recover  string // "", with, skip, retry
	undo     string // "": none, ok, flaky, broken, manual
	policy   pgengine.UndoFailure
}

func (s modelStep) String() string {
	return fmt.Sprintf("%s %s after %v optional=%v when=%v skipped=%v pivot=%v fate=%s lookup=%v recover=%s undo=%s policy=%s",
		s.name, s.kind, s.preds, s.optional, s.when, s.skipped, s.pivot, s.fate, s.lookup, s.recover, s.undo, s.policy)
}

// modelSaga is a saga as it was drawn.
type modelSaga struct {
	steps    []modelStep
	before   [][]bool // before[i][j]: i comes before j
	pivot    int
	strategy pgengine.Strategy
	fuse     bool
}

func drawModel(t *rapid.T) modelSaga {
	pick := func(what string, of ...string) string { return rapid.SampledFrom(of).Draw(t, what) }
	flag := func(what string) bool { return rapid.IntRange(0, 3).Draw(t, what) == 3 }
	m := modelSaga{pivot: -1}
	n := rapid.IntRange(1, 12).Draw(t, "steps")
	m.before = make([][]bool, n)
	for i := range n {
		m.before[i] = make([]bool, n)
		s := modelStep{name: fmt.Sprintf("s%d", i), kind: pick("kind", "tx", "activity", "tx", "activity", "await", "sleep", "child", "each")}
		for j := range i {
			if rapid.IntRange(0, 2).Draw(t, "edge") == 0 {
				s.preds = append(s.preds, j)
			}
		}
		m.steps = append(m.steps, s)
	}
	for j := range n { // predecessors come first, so that one pass is enough
		for _, p := range m.steps[j].preds {
			m.before[p][j] = true
			for i := range n {
				m.before[i][j] = m.before[i][j] || m.before[i][p]
			}
		}
	}
	if flag("has a pivot") {
		if p := rapid.IntRange(0, n-1).Draw(t, "pivot"); slices.Contains([]string{"tx", "activity", "child"}, m.steps[p].kind) {
			m.pivot = p
		}
	}
	m.strategy = []pgengine.Strategy{pgengine.WaitAll, pgengine.FailFast, pgengine.FailFastGrace(time.Second)}[rapid.IntRange(0, 2).Draw(t, "strategy")]
	m.fuse = rapid.Bool().Draw(t, "fuse")
	for i := range m.steps {
		m.drawFate(t, i, pick, flag)
	}
	return m
}

func (m *modelSaga) drawFate(t *rapid.T, i int, pick func(string, ...string) string, flag func(string) bool) {
	s := &m.steps[i]
	s.pivot = i == m.pivot
	past := m.pivot >= 0 && m.before[m.pivot][i]
	beside := m.pivot >= 0 && !past && !s.pivot && !m.before[i][m.pivot]
	if beside && (s.kind == "sleep" || s.kind == "each") {
		s.kind = "activity"
	}
	s.optional = beside || !s.pivot && s.kind != "sleep" && s.kind != "each" && flag("optional")
	if !s.pivot && flag("when") {
		s.when, s.skipped = true, rapid.Bool().Draw(t, "skipped")
	}
	switch s.kind {
	case "tx":
		s.fate = pick("fate", "ok", "fail", "ok", "ok", "flaky", "ok")
	case "activity":
		s.fate = pick("fate", "ok", "lost", "ok", "flaky", "ok", "lost once", "fail", "ok")
		s.lookup = rapid.Bool().Draw(t, "lookup")
	case "await":
		s.fate = pick("fate", "ok", "ok", "instead", "fail")
	case "sleep":
		s.fate = "ok"
	default:
		s.fate = pick("fate", "ok", "ok", "ok", "fail")
	}
	if past && (s.kind == "tx" || s.kind == "activity") {
		s.recover = pick("recover", "", "with", "skip", "retry")
	}
	if past || s.pivot || s.kind != "tx" && s.kind != "activity" {
		return
	}
	s.undo = pick("undo", "ok", "broken", "ok", "manual", "flaky", "") // rapid likes what stands in front
	if s.undo != "" && s.undo != "manual" {
		s.policy = []pgengine.UndoFailure{pgengine.UndoSkip, pgengine.UndoStuck, pgengine.UndoContinue}[rapid.IntRange(0, 2).Draw(t, "policy")]
	}
}

// goesWell: the step's own end, if it is not skipped, and if an operator does what he is asked.
func (m modelSaga) goesWell(i int) bool {
	s := m.steps[i]
	past := m.pivot >= 0 && m.before[m.pivot][i]
	return s.fate != "fail" && s.fate != "lost" || past || s.pivot && s.fate == "lost"
}

// end is how the saga ends if one step runs after the other and nobody interferes.
func (m modelSaga) end() pgengine.State {
	for i, s := range m.steps {
		if !s.optional && !s.skipped && !m.goesWell(i) {
			return pgengine.Compensated
		}
	}
	return pgengine.Completed
}

// modelWorld is where the steps have their effects: those of Activities here, those of TxSteps in a table.
type modelWorld struct {
	m       modelSaga
	pool    *pgxpool.Pool
	sandbox *pgenginetest.Sandbox
	id      string

	effect  map[string]bool // of Activities
	called  map[string]int
	mended  map[string]bool // broken undos that an operator has mended
	crashes int
	roll    func(n int) bool // whether one in n comes up
	story   []string
}

var errModel = errors.New("as drawn")

// do is what a step's Do, or an undo, does around its effect.
func (w *modelWorld) do(s modelStep, act func()) error {
	w.called[s.name]++
	n := w.called[s.name]
	switch {
	case s.fate == "fail":
		return pgengine.Terminal(errModel)
	case s.fate == "flaky" && n == 1:
		return errModel
	}
	act()
	if s.fate == "lost" || s.fate == "lost once" && n == 1 {
		return errModel
	}
	return nil
}

func (w *modelWorld) undo(s modelStep, act func()) error {
	name := "undo " + s.name
	w.called[name]++
	switch {
	case s.undo == "broken" && !w.mended[s.name]:
		return pgengine.Terminal(errModel)
	case s.undo == "flaky" && w.called[name] == 1:
		return errModel
	}
	act()
	return nil
}

func (w *modelWorld) crash(pgengine.Point) error {
	if w.crashes > 0 && w.roll(12) {
		w.crashes--
		w.sandbox.Crash()
	}
	return nil
}

const (
	modelWrite = `INSERT INTO model_effect VALUES ($1, $2)`
	modelErase = `DELETE FROM model_effect WHERE saga = $1 AND step = $2`
)

// definition is the saga for the engine.
func (w *modelWorld) definition(version int) pgengine.Definition {
	var all []pgengine.Step[model]
	var list []pgengine.Step[model]
	retry := pgengine.Retry{MaxAttempts: 2, Initial: time.Minute}
	undoRetry := pgengine.Retry{MaxAttempts: 3, Initial: time.Minute}
	for i, s := range w.m.steps {
		after := make([]pgengine.Step[model], 0, len(s.preds))
		for _, p := range s.preds {
			after = append(after, list[p])
		}
		var when func(modelCall) bool
		if s.when {
			when = func(modelCall) bool { return !s.skipped }
		}
		asked := 0
		rescue := func() (r pgengine.Recovery[string], err error) {
			asked++
			switch {
			case s.recover == "with":
				return pgengine.Recovery[string]{Action: pgengine.RecoverWith, Result: s.name}, nil
			case s.recover == "retry" && asked < 3:
				return pgengine.Recovery[string]{Action: pgengine.RecoverRetry}, nil
			}
			return pgengine.Recovery[string]{Action: pgengine.RecoverSkip}, nil
		}
		var step pgengine.Step[model]
		switch s.kind {
		case "tx":
			x := pgengine.TxStep[model, string]{Name: s.name, After: after, When: when, Optional: s.optional, Pivot: s.pivot, Retry: retry}
			x.Do = func(ctx context.Context, tx pgx.Tx, c modelCall) (string, error) {
				var failed error
				err := w.do(s, func() { _, failed = tx.Exec(ctx, modelWrite, c.SagaID, s.name) })
				return s.name, errors.Join(err, failed)
			}
			if x.ManualUndo = s.undo == "manual"; s.undo != "" && !x.ManualUndo {
				x.UndoRetry, x.OnUndoFailure = undoRetry, s.policy
				x.Undo = func(ctx context.Context, tx pgx.Tx, c modelCall, _ string) error {
					var failed error
					err := w.undo(s, func() { _, failed = tx.Exec(ctx, modelErase, c.SagaID, s.name) })
					return errors.Join(err, failed)
				}
			}
			if s.recover != "" {
				x.Recover = func(context.Context, pgx.Tx, modelCall, error) (pgengine.Recovery[string], error) { return rescue() }
			}
			step = x
		case "activity":
			x := pgengine.Activity[model, string]{Name: s.name, After: after, When: when, Optional: s.optional, Pivot: s.pivot, Retry: retry}
			x.Do = func(context.Context, modelCall) (string, error) {
				return s.name, w.do(s, func() { w.effect[s.name] = true })
			}
			if s.undo == "manual" {
				x.ManualUndo = true
			} else if s.undo != "" {
				x.UndoRetry, x.OnUndoFailure = undoRetry, s.policy
				x.Undo = func(context.Context, modelCall, string) error {
					return w.undo(s, func() { w.effect[s.name] = false })
				}
			}
			if s.lookup && (s.undo != "" || s.pivot) {
				x.Lookup = func(context.Context, modelCall) (string, bool, error) { return s.name, w.effect[s.name], nil }
			}
			if s.recover != "" {
				x.Recover = func(context.Context, modelCall, error) (pgengine.Recovery[string], error) { return rescue() }
			}
			step = x
		case "await":
			if s.fate == "ok" {
				step = pgengine.Await[model, modelGo]{Name: s.name, After: after, When: when, Optional: s.optional, Timeout: 1000 * time.Hour}
				break
			}
			x := pgengine.Await[model, modelNever]{Name: s.name, After: after, When: when, Optional: s.optional, Timeout: time.Hour}
			if s.fate == "instead" || s.fate == "fail" && i%2 == 0 {
				x.OnTimeout = func(context.Context, modelCall) (modelNever, error) {
					if s.fate == "fail" {
						return modelNever{}, pgengine.Terminal(errModel)
					}
					return modelNever{}, nil
				}
			}
			step = x
		case "sleep":
			step = pgengine.Sleep[model]{Name: s.name, After: after, When: when, For: time.Hour}
		case "child":
			step = pgengine.Child[model, modelChild, string]{
				Name: s.name, After: after, When: when, Optional: s.optional, Pivot: s.pivot,
				Input: func(context.Context, modelCall) (modelChild, error) { return modelChild{s.fate == "fail"}, nil },
			}
		case "each":
			step = pgengine.Each[model, modelChild, string]{
				Name: s.name, After: after, When: when, Parallel: 1 + i%2,
				Inputs: func(context.Context, modelCall) ([]modelChild, error) {
					return []modelChild{{}, {s.fate == "fail"}, {}}[:i%4], nil
				},
			}
		}
		all, list = append(all, step), append(list, step)
	}
	return pgengine.Inject(pgengine.Saga[model]{Version: version, OnFailure: w.m.strategy, Fuse: w.m.fuse, Steps: all}, w.crash)
}

func (w *modelWorld) child(version int) pgengine.Definition {
	load := pgengine.TxStep[modelChild, string]{
		Name: "load",
		Do: func(ctx context.Context, tx pgx.Tx, c pgengine.Call[modelChild]) (string, error) {
			_, err := tx.Exec(ctx, modelWrite, c.SagaID, "load")
			return "loaded", err
		},
		Undo: func(ctx context.Context, tx pgx.Tx, c pgengine.Call[modelChild], _ string) error {
			_, err := tx.Exec(ctx, modelErase, c.SagaID, "load")
			return err
		},
	}
	check := pgengine.Activity[modelChild, string]{
		Name: "check", After: pgengine.Steps[modelChild](load),
		Do: func(_ context.Context, c pgengine.Call[modelChild]) (string, error) {
			if c.Input.Fails && !w.mended["child"] {
				return "", pgengine.Terminal(errModel)
			}
			return "checked", nil
		},
	}
	return pgengine.Inject(pgengine.Saga[modelChild]{Version: version, Output: check, Steps: pgengine.Steps[modelChild](load, check)}, w.crash)
}

// fails: an Each of three items fails only if it has the one that does.
func (m modelSaga) normalise() {
	for i, s := range m.steps {
		if s.kind == "each" && i%4 < 2 {
			m.steps[i].fate = "ok"
		}
	}
}

// operate is the operator: he does what a stuck saga asks for.
func (w *modelWorld) operate(status pgengine.Status) error {
	resolve := func(step string, r pgengine.Resolution) error {
		return pgx.BeginFunc(context.Background(), w.pool, func(tx pgx.Tx) error {
			return w.sandbox.Engine.Resolve(context.Background(), tx, w.id, step, r, pgengine.By{})
		})
	}
	again := false
	for _, r := range status.Steps {
		if r.State != "stuck" {
			continue
		}
		s := w.m.steps[slices.IndexFunc(w.m.steps, func(s modelStep) bool { return s.name == r.Step })]
		w.story = append(w.story, fmt.Sprintf("the operator sees %s %s", r.Direction, r.Step))
		switch {
		case r.Direction == pgengine.Undo && s.undo == "manual":
			w.effect[s.name] = false
			if _, err := w.pool.Exec(context.Background(), modelErase, w.id, s.name); err != nil {
				return err
			}
			if err := resolve(s.name, pgengine.Resolution{Outcome: pgengine.OutcomeDone}); err != nil {
				return err
			}
		case s.kind == "child" || s.kind == "each":
			w.mended["child"], again = true, true
		case r.Direction == pgengine.Undo:
			w.mended[s.name], again = true, true
		default:
			if err := resolve(s.name, pgengine.Resolution{Outcome: pgengine.OutcomeDone, Result: []byte(fmt.Sprintf("%q", s.name))}); err != nil {
				// An Await's result is not a string.
				if err := resolve(s.name, pgengine.Resolution{Outcome: pgengine.OutcomeDone, Result: []byte(`{"N":1}`)}); err != nil {
					return err
				}
			}
		}
	}
	if again {
		return pgx.BeginFunc(context.Background(), w.pool, func(tx pgx.Tx) error {
			return w.sandbox.Engine.Retry(context.Background(), tx, w.id, pgengine.By{})
		})
	}
	return nil
}

func TestModel(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	execute(t, pool, `CREATE TABLE model_effect (saga uuid, step text, PRIMARY KEY (saga, step))`)
	version := 0
	ends := map[string]int{}
	rapid.Check(t, func(rt *rapid.T) {
		version++
		w := &modelWorld{m: drawModel(rt), pool: pool, effect: map[string]bool{}, called: map[string]int{}, mended: map[string]bool{}}
		w.m.normalise()
		w.crashes = rapid.IntRange(0, 3).Draw(rt, "crashes")
		w.roll = func(n int) bool { return rapid.IntRange(1, n).Draw(rt, "roll") == n }
		cancelAt := rapid.IntRange(0, 60).Draw(rt, "cancel at") // above 20: never
		w.sandbox = pgenginetest.NewSandbox(t, pool, w.definition(version), w.child(version))
		w.sandbox.JobPerStep = rapid.Bool().Draw(rt, "job per step")
		w.sandbox.Seed = int64(rapid.IntRange(0, 9).Draw(rt, "order"))
		w.id = w.sandbox.Start(model{version})
		cancelled := false
		status := w.live(rt, cancelAt, &cancelled)
		ends[fmt.Sprintf("%s, cancelled %v", status.State, cancelled)]++
		if err := w.judge(rt.Context(), status, cancelled); err != nil {
			rt.Fatalf("%v\n%s\n%s\nended %s, cause %+v\n%+v", err, join(w.m.steps), strings.Join(w.story, "\n"), status.State, status.Cause, status.Steps)
		}
	})
	t.Logf("%v", ends)
}

func join(steps []modelStep) string {
	var lines []string
	for _, s := range steps {
		lines = append(lines, s.String())
	}
	return strings.Join(lines, "\n")
}

// live drives the saga to its end, sends what it awaits, cancels it in between and operates it where it is stuck.
func (w *modelWorld) live(rt *rapid.T, cancelAt int, cancelled *bool) pgengine.Status {
	tx := func(f func(pgx.Tx) error) {
		if err := pgx.BeginFunc(context.Background(), w.pool, f); err != nil && !errors.Is(err, pgengine.ErrEnded) {
			rt.Fatal(err)
		}
	}
	sent := 0
	for turn := 0; ; turn++ {
		if turn > 400 {
			rt.Fatalf("it does not end\n%s\n%+v", join(w.m.steps), w.sandbox.Get(w.id))
		}
		if turn == cancelAt {
			*cancelled = true
			tx(func(tx pgx.Tx) error { return w.sandbox.Engine.Cancel(context.Background(), tx, w.id, pgengine.By{}) })
		}
		status := w.sandbox.Get(w.id)
		wants := slices.ContainsFunc(status.Steps, func(r pgengine.StepStatus) bool {
			return r.State == "awaiting" && w.m.steps[slices.IndexFunc(w.m.steps, func(s modelStep) bool { return s.name == r.Step })].fate == "ok"
		})
		if wants && len(status.Signals) == sent && (sent == 0 || status.Signals[sent-1].Step != "") { // what was sent is taken
			sent++
			tx(func(tx pgx.Tx) error {
				return w.sandbox.Engine.Signal(context.Background(), tx, pgengine.ID(w.id), modelGo{turn})
			})
		}
		switch {
		case w.sandbox.Work():
		case status.State == pgengine.Stuck:
			if err := w.operate(status); err != nil {
				rt.Fatal(err, "\n", join(w.m.steps))
			}
		case !w.forward():
			return w.sandbox.Get(w.id)
		}
	}
}

// forward puts the clock forward a little; false: nothing waits for it.
func (w *modelWorld) forward() bool {
	var waits bool
	if err := w.pool.QueryRow(context.Background(), `SELECT EXISTS (SELECT FROM pgsagaz.lane WHERE run_at < 'infinity') OR EXISTS (SELECT FROM pgsagaz.command)`).Scan(&waits); err != nil || !waits {
		return false
	}
	w.sandbox.Advance(20 * time.Minute)
	return true
}

// judge holds the end against the model.
func (w *modelWorld) judge(ctx context.Context, status pgengine.Status, cancelled bool) error {
	if want := w.m.end(); status.State != want && !(cancelled && status.State == pgengine.Compensated) {
		return fmt.Errorf("it ended %s, one step after the other it ends %s", status.State, want)
	}
	violations, err := sql.Check(ctx, w.pool)
	if err != nil || len(violations) > 0 {
		return fmt.Errorf("check: %v %v", violations, err)
	}
	for i, s := range w.m.steps {
		var written bool
		if err := w.pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM model_effect WHERE saga = $1 AND step = $2)`, w.id, s.name).Scan(&written); err != nil {
			return err
		}
		stands := written || w.effect[s.name]
		switch {
		case s.kind != "tx" && s.kind != "activity":
		case status.State == pgengine.Completed && !stands && !s.skipped && !s.optional && s.fate != "fail" && s.fate != "lost":
			return fmt.Errorf("completed, and %s has no effect", s.name)
		case status.State == pgengine.Compensated && stands && s.undo != "" && !w.mayStand(i, status):
			return fmt.Errorf("compensated, and %s stands", s.name)
		case s.skipped && stands:
			return fmt.Errorf("%s was to be skipped, and stands", s.name)
		}
	}
	var left int
	err = w.pool.QueryRow(ctx, `SELECT count(*) FROM model_effect e JOIN pgsagaz.saga s ON s.id = e.saga
		WHERE s.parent_id = $1 AND (s.state <> 'completed' OR $2 = 'compensated' AND NOT EXISTS (
			SELECT FROM pgsagaz.step u WHERE u.saga_id = $1 AND u.step = s.parent_step AND u.direction = 'undo' AND u.outcome = 'skipped'))`,
		w.id, string(status.State)).Scan(&left)
	if err == nil && left > 0 {
		err = fmt.Errorf("%d children stand", left)
	}
	return err
}

// mayStand: its undo has given up and was passed over, or spared for the sake of one that had.
func (w *modelWorld) mayStand(i int, status pgengine.Status) bool {
	for _, r := range status.Steps {
		if r.Direction == pgengine.Undo && r.Step == w.m.steps[i].name {
			return r.State == "failed" && w.m.steps[i].policy != pgengine.UndoStuck || r.State == "skipped"
		}
	}
	return false
}
