package pgengine_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/pgengine"
)

// TestMistakesOfShape: a definition whose promises could not be kept is refused, with saga, step and reason.
func TestMistakesOfShape(t *testing.T) {
	c := &calls{}
	a := c.does("a", nil)
	pay := c.pay(nil, a)
	list := func(s ...pgengine.Step[fault]) pgengine.Definition { return pgengine.Saga[fault]{Version: 1, Steps: s} }
	activity := func(change func(*act[string])) act[string] {
		s := c.only("s", nil)
		change(&s)
		return s
	}
	await := func(change func(*pgengine.Await[fault, approval])) pgengine.Definition {
		w := pgengine.Await[fault, approval]{Name: "w"}
		change(&w)
		return list(w)
	}
	sleep := func(s pgengine.Sleep[fault]) pgengine.Definition { s.Name = "nap"; return list(s) }
	until := func(context.Context, faultCall) (time.Time, error) { return time.Time{}, nil }
	rescue := func(context.Context, faultCall, error) (r pgengine.Recovery[string], err error) { return r, nil }
	legs := func(context.Context, faultCall) ([]leg, error) { return nil, nil }
	for name, test := range map[string]struct {
		saga pgengine.Definition
		want string // "": nothing
	}{
		"a pivot":                       {list(a, pay, c.only("b", nil, pay)), ""},
		"two pivots":                    {list(pay, a, func() act[string] { s := c.pay(nil, pay); s.Name = "again"; return s }()), "fault/again: is a second Pivot"},
		"an optional pivot":             {list(a, func() act[string] { s := c.pay(nil, a); s.Optional = true; return s }()), "fault/pay: is the Pivot and Optional"},
		"a pivot with a When":           {list(a, func() act[string] { s := c.pay(nil, a); s.When = func(faultCall) bool { return true }; return s }()), "fault/pay: is the Pivot and has a When"},
		"a pivot with an Undo":          {list(a, func() act[string] { s := c.does("pay", nil, a); s.Pivot = true; return s }()), `fault/pay: has an Undo at or after the Pivot "pay"`},
		"an Undo after it":              {list(a, pay, c.does("b", nil, pay)), `fault/b: has an Undo at or after the Pivot "pay"`},
		"an undo by hand after it":      {list(a, pay, func() act[string] { s := c.only("b", nil, pay); s.ManualUndo = true; return s }()), `fault/b: has an Undo at or after`},
		"a required step beside it":     {list(a, pay, c.does("b", nil, a)), `fault/b: comes neither before nor after the Pivot "pay"`},
		"an optional one beside it":     {list(a, pay, func() act[string] { s := c.does("b", nil, a); s.Optional = true; return s }()), ""},
		"a Recover before it":           {list(func() act[string] { s := a; s.Recover = rescue; return s }()), "fault/a: has a Recover and does not come after a Pivot"},
		"a Recover after it":            {list(a, pay, func() act[string] { s := c.only("b", nil, pay); s.Recover = rescue; return s }()), ""},
		"an Undo and one by hand":       {list(activity(func(s *act[string]) { s.Undo = a.Undo; s.ManualUndo = true })), "fault/s: has an Undo and a ManualUndo"},
		"an undo policy alone":          {list(activity(func(s *act[string]) { s.OnUndoFailure = pgengine.UndoSkip })), "fault/s: has an OnUndoFailure without an Undo"},
		"an unknown undo policy":        {list(activity(func(s *act[string]) { s.Undo = a.Undo; s.OnUndoFailure = "perhaps" })), `fault/s: has the unknown OnUndoFailure "perhaps"`},
		"a priority of its own":         {list(activity(func(s *act[string]) { s.Priority = 4 })), ""},
		"a priority past the last":      {list(activity(func(s *act[string]) { s.Priority = 5 })), "fault/s: the priority 5 must be between 1, which goes first, and 4"},
		"a saga's negative priority":    {pgengine.Saga[fault]{Version: 1, Priority: -1, Steps: steps(a)}, "fault/: the priority -1 must be between"},
		"a negative grace":              {pgengine.Saga[fault]{Version: 1, OnFailure: pgengine.FailFastGrace(-1), Steps: steps(a)}, "fault/: the grace of its OnFailure is negative"},
		"an output that may be skipped": {pgengine.Saga[fault]{Version: 1, Output: activity(func(s *act[string]) { s.When = func(faultCall) bool { return false } }), Steps: steps(activity(func(s *act[string]) { s.When = func(faultCall) bool { return false } }))}, "fault/s: is the Output, and may have no result"},
		"an await":                      {await(func(*pgengine.Await[fault, approval]) {}), ""},
		"an await of negative time":     {await(func(w *pgengine.Await[fault, approval]) { w.Timeout = -1 }), "fault/w: its Timeout is negative"},
		"OnTimeout alone": {await(func(w *pgengine.Await[fault, approval]) {
			w.OnTimeout = func(context.Context, faultCall) (a approval, err error) { return a, nil }
		}), "fault/w: has an OnTimeout without a Timeout"},
		"a signal without a name":        {list(pgengine.Await[fault, nameless]{Name: "w"}), `fault/w: the signal name "no name"`},
		"one signal, two types":          {list(pgengine.Await[fault, approval]{Name: "w"}, pgengine.Await[fault, sameName]{Name: "v"}), `fault/v: awaits the signal "approval" as`},
		"a sleep":                        {sleep(pgengine.Sleep[fault]{For: 1}), ""},
		"a sleep of no time":             {sleep(pgengine.Sleep[fault]{}), "fault/nap: needs a For above 0 or an Until"},
		"a sleep of two":                 {sleep(pgengine.Sleep[fault]{For: 1, Until: until}), "fault/nap: needs a For above 0 or an Until, and not both"},
		"a child without input":          {list(child{Name: "k"}), "fault/k: has no Input"},
		"an Each without inputs":         {list(each{Name: "k"}), "fault/k: has no Inputs"},
		"an Each of fewer than none":     {list(each{Name: "k", Inputs: legs, Parallel: -1}), "fault/k: its Parallel is negative"},
		"a child of a name that is none": {list(pgengine.Child[fault, badName, int]{Name: "k", Input: func(context.Context, faultCall) (b badName, err error) { return b, nil }}), "fault/k: its child:"},
	} {
		t.Run(name, func(t *testing.T) {
			found := strings.Join(mistakes(t, test.saga), "\n")
			if test.want == "" && found != "" || !strings.Contains(found, test.want) {
				t.Errorf("%q, want %q", found, test.want)
			}
		})
	}
}

// A plan says where its steps run, and the graph what was said of them.
func TestPlacesOfAPlan(t *testing.T) {
	t.Parallel()
	c := &calls{}
	a, b, last := c.only("a", nil), c.only("b", nil), c.only("last", nil)
	a.Queue, b.Priority, last.Queue = "slow", 4, "slow"
	p, err := pgengine.Outline(pgengine.Saga[fault]{Version: 1, Priority: 2, Steps: steps(a, b, c.only("c", nil), last)})
	if got, want := fmt.Sprint(p.Places), "[{slow 2 [a last]} {default 4 [b]} {default 2 [c]}]"; err != nil || got != want {
		t.Errorf("%s, %v; want %s", got, err, want)
	}
	e, err := pgengine.New(nil, pgengine.Config{Sagas: []pgengine.Definition{pgengine.Saga[fault]{Version: 1, Priority: 2, Steps: steps(a, b)}}})
	if err != nil {
		t.Fatal(err)
	}
	g, _, err := e.Graph(t.Context(), "fault", 1)
	if err != nil || g.Priority != 2 || g.Steps[0].Tuning.Priority != 0 || g.Steps[1].Tuning.Priority != 4 {
		t.Errorf("%+v, %v", g, err)
	}
}

// sameName is another payload under a name that is taken.
type sameName struct{ N int }

func (sameName) SignalName() string { return "approval" }

// A TxStep may be undone by hand as well.
func TestManualUndoOfATxStep(t *testing.T) {
	c := &calls{}
	x := txs[int]{Name: "x", ManualUndo: true, Do: func(context.Context, pgx.Tx, faultCall) (int, error) { return 1, nil }}
	p := newPlay(t, pgengine.Saga[fault]{Steps: steps(x, c.does("b", refuse, x))}, c)
	id := p.Start(fault{})
	p.Run()
	p.want(id, pgengine.Stuck, "b")
	p.resolve(id, "x", pgengine.Resolution{Outcome: pgengine.OutcomeSkipped}, "it may stay")
	p.Run()
	p.want(id, pgengine.Compensated, "b")
}
