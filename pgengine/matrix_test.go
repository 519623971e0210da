package pgengine_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/pgengine/pgenginetest"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

type (
	matrixed    struct{}
	matrixChild struct{ Fail bool }
	matrixOuter struct{} // takes a completed matrixed back
	matrixGo    struct{}
)

func (matrixed) SagaName() string    { return "matrixed" }
func (matrixChild) SagaName() string { return "matrixed.child" }
func (matrixOuter) SagaName() string { return "matrixed.outer" }
func (matrixGo) SignalName() string  { return "go" }

// matrixTrial has one row of a fault matrix happen.
type matrixTrial struct {
	*pgenginetest.Sandbox
	t     *testing.T
	row   pgengine.Fault
	pivot string
}

// late lets all end that can: what goes wrong goes wrong last.
func (m *matrixTrial) late() {
	for m.Work() { //nolint:revive // it works off what there is
	}
}

func (m *matrixTrial) is(step string, kind pgengine.FaultKind) bool {
	return m.row.Step == step && m.row.Kind == kind
}

// fails: the step is to fail for good; also the pivot, where an undo is to fail and something must lead to it.
func (m *matrixTrial) fails(step string) bool {
	return m.is(step, pgengine.FaultFails) || m.row.Kind == pgengine.FaultUndoFails && step == m.pivot
}

// hook is called before and after each function of a step.
func (m *matrixTrial) hook(p pgengine.Point) error {
	switch {
	case p.After:
	case p.Function == "Undo" && m.is(p.Step, pgengine.FaultUndoFails):
		return pgengine.Terminal(errNo)
	case p.Function != "Do" && p.Function != "Until":
	case m.fails(p.Step):
		m.late()
		return pgengine.Terminal(errNo)
	case m.is(p.Step, pgengine.FaultUnknown):
		m.late()
		return errNo
	}
	return nil
}

type (
	matrixCall = pgengine.Call[matrixed]
	matrixAct  = pgengine.Activity[matrixed, string]
	matrixTx   = pgengine.TxStep[matrixed, string]
)

var twice = pgengine.Retry{MaxAttempts: 2, Initial: time.Millisecond}

func (m *matrixTrial) act(name string, after ...pgengine.Step[matrixed]) matrixAct {
	return matrixAct{Name: name, After: after, Retry: twice, Do: func(context.Context, matrixCall) (string, error) { return name, nil }}
}

func (m *matrixTrial) undoes(a matrixAct) matrixAct {
	a.Undo = func(context.Context, matrixCall, string) error { return nil }
	return a
}

// looksUp gives a step the Lookup that the row speaks of.
func (m *matrixTrial) looksUp(a matrixAct) matrixAct {
	a.Lookup = func(context.Context, matrixCall) (string, bool, error) {
		switch m.row.Case {
		case "Lookup finds it":
			return a.Name, true, nil
		case "Lookup finds nothing":
			return "", false, nil
		}
		return "", false, errNo
	}
	return a
}

func (m *matrixTrial) recovers(a matrixAct) matrixAct {
	a.Recover = func(context.Context, matrixCall, error) (pgengine.Recovery[string], error) {
		if m.row.Case == "Recover finds a way" {
			return pgengine.Recovery[string]{Action: pgengine.RecoverWith, Result: "another way"}, nil
		}
		return pgengine.Recovery[string]{}, nil
	}
	return a
}

func (m *matrixTrial) tx(name string, after ...pgengine.Step[matrixed]) matrixTx {
	return matrixTx{Name: name, After: after, Retry: twice, Do: func(context.Context, pgx.Tx, matrixCall) (string, error) { return name, nil }}
}

func (m *matrixTrial) undoesTx(s matrixTx) matrixTx {
	s.Undo = func(context.Context, pgx.Tx, matrixCall, string) error { return nil }
	return s
}

func (m *matrixTrial) child(name string, after ...pgengine.Step[matrixed]) pgengine.Child[matrixed, matrixChild, string] {
	return pgengine.Child[matrixed, matrixChild, string]{
		Name: name, After: after,
		Input: func(context.Context, matrixCall) (matrixChild, error) { return matrixChild{Fail: m.fails(name)}, nil },
	}
}

// sagas are version v, which is on trial, and those that it starts or that start it.
func (m *matrixTrial) sagas(v int) (all []pgengine.Definition) {
	version := func(n int, steps ...pgengine.Step[matrixed]) {
		if n == v {
			all = append(all, pgengine.Inject(pgengine.Saga[matrixed]{Version: n, Steps: steps}, m.hook))
		}
	}
	// A pivot of each kind.
	base := m.undoesTx(m.tx("base"))
	pay := m.undoes(m.act("pay", base))
	sign := m.looksUp(m.act("sign", pay))
	sign.Pivot = true
	post := m.recovers(m.act("post", sign))
	mail := m.act("mail", sign)
	mail.Optional = true
	bill := m.tx("bill", sign)
	wait := pgengine.Await[matrixed, matrixGo]{Name: "wait", After: pgengine.Steps[matrixed](bill), Timeout: time.Hour}
	version(1, base, pay, sign, post, mail, bill, wait)
	blind := m.act("sign", pay)
	blind.Pivot = true
	version(2, base, pay, blind)
	commits := m.tx("sign", pay)
	commits.Pivot = true
	version(3, base, pay, commits)
	starts := m.child("sign", pay)
	starts.Pivot = true
	version(4, base, pay, starts, m.child("more", starts))

	// No pivot, and one of everything else.
	lookup := m.looksUp(m.undoes(m.act("lookup", base)))
	hand := m.act("hand", base)
	hand.ManualUndo = true
	maybe := m.undoes(m.act("maybe", base))
	maybe.Optional = true
	await := pgengine.Await[matrixed, matrixGo]{Name: "wait", After: pgengine.Steps(base), Timeout: time.Hour}
	kid := m.child("kid", lookup)
	kids := pgengine.Each[matrixed, matrixChild, string]{
		Name: "kids", After: pgengine.Steps(hand),
		Inputs: func(context.Context, matrixCall) ([]matrixChild, error) {
			return []matrixChild{{}, {Fail: m.fails("kids")}}, nil
		},
	}
	until := pgengine.Sleep[matrixed]{
		Name: "until", After: pgengine.Steps[matrixed](maybe),
		Until: func(context.Context, matrixCall) (time.Time, error) { return time.Now(), nil },
	}
	goesOn := m.undoes(m.act("goes_on", kid))
	goesOn.OnUndoFailure = pgengine.UndoContinue
	skips := m.undoesTx(m.tx("skips", kids, until))
	skips.OnUndoFailure = pgengine.UndoSkip
	none := m.act("none", await)
	version(9, base, lookup, hand, maybe, await, kid, kids, until, goesOn, skips, none, m.undoesTx(m.tx("end", goesOn, skips, none)))

	run := pgengine.Child[matrixOuter, matrixed, string]{
		Name:  "run",
		Input: func(context.Context, pgengine.Call[matrixOuter]) (matrixed, error) { return matrixed{}, nil },
	}
	no := pgengine.TxStep[matrixOuter, string]{
		Name: "no", After: pgengine.Steps[matrixOuter](run),
		Do: func(context.Context, pgx.Tx, pgengine.Call[matrixOuter]) (string, error) {
			return "", pgengine.Terminal(errNo)
		},
	}
	only := pgengine.Activity[matrixChild, string]{
		Name: "only",
		Do: func(_ context.Context, c pgengine.Call[matrixChild]) (string, error) {
			if c.Input.Fail {
				m.late()
				return "", pgengine.Terminal(errNo)
			}
			return "grown up", nil
		},
		Undo: func(context.Context, pgengine.Call[matrixChild], string) error { return nil },
	}
	if m.pivot == "" {
		all = append(all, pgengine.Saga[matrixOuter]{Version: 1, Steps: pgengine.Steps[matrixOuter](run, no)})
	}
	return append(all, pgengine.Saga[matrixChild]{Version: 1, Output: only, Steps: pgengine.Steps(only)})
}

// live runs a saga of version v with the row's fault until it has ended or is stuck.
func (m *matrixTrial) live(v int) (id string) {
	m.t.Helper()
	if m.pivot == "" && m.row.Kind == pgengine.FaultUndoFails { // everything is done and then undone only where a parent says so
		outer := m.Start(matrixOuter{})
		m.Settle()
		id = m.Get(outer).Children[0].ID
	} else {
		m.Tx(func(tx pgx.Tx) error {
			s, err := m.Engine.Start(m.t.Context(), tx, matrixed{}, &pgengine.StartOptions{Version: v})
			id = s.ID
			return err
		})
	}
	if !m.is("wait", pgengine.FaultFails) && (v == 1 || v == 9) {
		m.Tx(func(tx pgx.Tx) error { return m.Engine.Signal(m.t.Context(), tx, pgengine.ID(id), matrixGo{}) })
	}
	m.Run()
	return id
}

// stuck are the steps at which an operator is asked.
func stuckAt(s pgengine.Status) (at []pgengine.StepStatus) {
	for _, t := range s.Steps {
		if t.State == "stuck" {
			at = append(at, t)
		}
	}
	return at
}

// answers lets an operator say outcome wherever he is asked, or done where he can't.
func (m *matrixTrial) answers(id string, g pgengine.Graph, outcome pgengine.Outcome) {
	m.t.Helper()
	for range len(g.Steps) {
		s := m.Get(id)
		if s.State != pgengine.Stuck {
			return
		}
		for _, t := range stuckAt(s) {
			r := pgengine.Resolution{Outcome: outcome}
			may, err := g.Answers(t.Step, t.Direction)
			if err != nil {
				m.t.Fatal(err)
			}
			if !slices.Contains(may, outcome) {
				r.Outcome = pgengine.OutcomeDone
			}
			if t.Direction == pgengine.Do && r.Outcome == pgengine.OutcomeDone {
				r.Result = json.RawMessage(`"by hand"`)
				if t.Step == "wait" {
					r.Result = json.RawMessage(`{}`)
				}
			}
			m.Tx(func(tx pgx.Tx) error { return m.Engine.Resolve(m.t.Context(), tx, id, t.Step, r, pgengine.By{}) })
		}
		m.Run()
	}
}

// compare holds what happened against what the matrix says.
func (m *matrixTrial) compare(what string, s pgengine.Status, g pgengine.Graph, want pgengine.Course) {
	m.t.Helper()
	var undone, stays []string
	waits := map[string]bool{}
	for _, step := range g.Steps {
		waits[step.Name] = step.Kind == "await" || step.Kind == "sleep"
	}
	for _, t := range s.Steps {
		effect := t.Direction == pgengine.Do && (t.State == "done" || t.InDoubt) && !waits[t.Step]
		if effect && !has(s, t.Step, pgengine.Undo, "done") && !has(s, t.Step, pgengine.Undo, "nothing") {
			stays = append(stays, t.Step)
		}
		if t.Direction == pgengine.Undo && t.State == "done" {
			undone = append(undone, t.Step)
		}
	}
	if s.State != want.End {
		m.t.Errorf("%s: the saga is %s, want %s\n%+v\n%+v", what, s.State, want.End, s.Steps, s.Attempts)
		return
	}
	sorted := func(names []string) []string { names = slices.Clone(names); slices.Sort(names); return names }
	if got := sorted(undone); !slices.Equal(got, sorted(slices.Concat(want.Undone...))) {
		m.t.Errorf("%s: undone are %q, want %q", what, undone, want.Undone)
	}
	if want.End == pgengine.Compensated && !slices.Equal(sorted(stays), sorted(want.Stays)) {
		m.t.Errorf("%s: %q stay, want %q", what, stays, want.Stays)
	}
}

// TestTheFaultMatrixIsWhatHappens lets every row of the matrix of some sagas happen, and every answer of an
// operator.
func TestTheFaultMatrixIsWhatHappens(t *testing.T) {
	t.Parallel()
	for version, pivot := range map[int]string{1: "sign", 2: "sign", 3: "sign", 4: "sign", 9: ""} {
		t.Run(fmt.Sprint("version ", version), func(t *testing.T) {
			t.Parallel()
			m := &matrixTrial{t: t, pivot: pivot}
			m.Sandbox = pgenginetest.NewSandbox(t, sqltest.New(t), m.sagas(version)...)
			g, _, err := m.Engine.Graph(t.Context(), "matrixed", version)
			if err != nil {
				t.Fatal(err)
			}
			plan, err := m.Engine.Outline(t.Context(), "matrixed", version)
			if err != nil {
				t.Fatal(err)
			}
			happened := 0
			for _, row := range plan.Faults {
				if row.Cannot != "" {
					continue
				}
				m.row = row
				what := fmt.Sprintf("%s %s %s", row.Step, row.Kind, row.Case)
				id := m.live(version)
				s := m.Get(id)
				m.compare(what, s, g, row.Course)
				var asked []string
				for _, at := range stuckAt(s) {
					asked = append(asked, at.Step)
				}
				slices.Sort(asked)
				if want := slices.Sorted(slices.Values(row.Asked)); !slices.Equal(asked, want) {
					t.Errorf("%s: an operator is asked at %q, want %q", what, asked, row.Asked)
				}
				for i, answer := range row.Answers {
					if i > 0 {
						id = m.live(version)
					}
					m.answers(id, g, answer.Outcome)
					m.compare(what+", an operator says "+string(answer.Outcome), m.Get(id), g, answer.Course)
				}
				happened += 1 + len(row.Answers)
				if t.Failed() {
					break
				}
			}
			t.Logf("%d courses", happened)
		})
	}
}

func TestVersionsOfASaga(t *testing.T) {
	t.Parallel()
	pool := sqltest.New(t)
	none := engine(t, pool)
	if list, err := none.Versions(t.Context(), ""); err != nil || len(list) != 0 {
		t.Errorf("%+v, %v", list, err)
	}
	if _, _, err := none.Graph(t.Context(), "part", 0); !errors.Is(err, pgengine.ErrUnknownSaga) {
		t.Errorf("an unknown graph: %v", err)
	}
	if _, err := none.Outline(t.Context(), "part", 2); !errors.Is(err, pgengine.ErrUnknownSaga) {
		t.Errorf("an unknown plan: %v", err)
	}
	a := step("a")
	def := func(n int) pgengine.Definition {
		return pgengine.Saga[part]{Version: n, Timeout: time.Hour, Steps: pgengine.Steps(a)}
	}
	both := engine(t, pool, def(1), def(2))
	if p, n, err := both.Graph(t.Context(), "part", 1); err != nil || n != 1 || len(p.Steps) != 1 || p.Timeout != time.Hour { // its own
		t.Errorf("%+v, %d, %v", p, n, err)
	}
	start(t, both, part{}, &pgengine.StartOptions{Version: 1}) // before anybody has registered it
	list, err := none.Versions(t.Context(), "")
	if err != nil || len(list) != 1 || list[0].Version != 1 || list[0].Unfinished != 1 || list[0].RegisteredAt != nil {
		t.Errorf("%+v, %v", list, err)
	}
	register(t, both)
	start(t, both, part{}, nil)
	list, err = none.Versions(t.Context(), "part")
	if err != nil || len(list) != 2 || list[0].RegisteredAt == nil || list[0].Unfinished != 1 || list[1].Unfinished != 1 || list[1].Workers != 0 {
		t.Errorf("%+v, %v", list, err)
	}
	if list, err = none.Versions(t.Context(), "other"); err != nil || len(list) != 0 {
		t.Errorf("%+v, %v", list, err)
	}
	if p, n, err := none.Graph(t.Context(), "part", 0); err != nil || n != 2 || len(p.Steps) != 1 || p.Timeout != time.Hour {
		t.Errorf("%+v, %d, %v", p, n, err)
	}
	if _, _, err := none.Graph(t.Context(), "part", 1); err != nil {
		t.Error(err)
	}
}
