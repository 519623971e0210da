package pgengine_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/jobs"
	"github.com/pgsagaz/pgsagaz/pgengine"
)

// leg is the input of the child sagas in this file.
type leg struct {
	N    int
	Fail bool
}

func (leg) SagaName() string { return "leg" }

type legCall = pgengine.Call[leg]

// legs is a child saga that notes leg1, ok1 and, undone, -leg1.
func legs(c *calls) pgengine.Saga[leg] {
	a := pgengine.Activity[leg, int]{
		Name: "a",
		Do: func(_ context.Context, k legCall) (int, error) {
			c.add(fmt.Sprint("leg", k.Input.N))
			return k.Input.N, nil
		},
		Undo: func(_ context.Context, k legCall, n int) error { c.add(fmt.Sprint("-leg", n)); return nil },
	}
	b := pgengine.TxStep[leg, string]{
		Name: "b", After: pgengine.Steps[leg](a),
		Do: func(_ context.Context, _ pgx.Tx, k legCall) (string, error) {
			if k.Input.Fail {
				return "", pgengine.Terminal(errNo)
			}
			c.add(fmt.Sprint("ok", k.Input.N))
			return fmt.Sprint("leg ", a.Result(k)), nil
		},
	}
	return pgengine.Saga[leg]{Version: 1, Output: b, Steps: pgengine.Steps[leg](a, b)}
}

type (
	child = pgengine.Child[fault, leg, string]
	each  = pgengine.Each[fault, leg, string]
)

func oneLeg(in leg) func(context.Context, faultCall) (leg, error) {
	return func(context.Context, faultCall) (leg, error) { return in, nil }
}

func TestChild(t *testing.T) {
	c := &calls{}
	a := c.does("a", nil)
	trip := child{Name: "trip", After: steps(a), Input: oneLeg(leg{N: 1})}
	b := c.only("b", nil, trip)
	b.Do = func(_ context.Context, k faultCall) (string, error) {
		c.add("b:" + trip.Result(k))
		return trip.Result(k), nil
	}
	p := newPlay(t, pgengine.Saga[fault]{Output: b, Steps: steps(a, trip, b)}, c, legs(c))
	id := p.Start(fault{})
	p.Run()
	s := p.want(id, pgengine.Completed, "a leg1 ok1 b:leg 1")
	if len(s.Children) != 1 || s.Children[0].State != pgengine.Completed || string(s.Output) != `"leg 1"` {
		t.Errorf("%+v, %s", s.Children, s.Output)
	}
	if k := p.Get(s.Children[0].ID); k.Key != id+"/trip/0" {
		t.Errorf("the child's key is %q", k.Key)
	}
}

func TestAChildThatFails(t *testing.T) {
	c := &calls{}
	a := c.does("a", nil)
	trip := child{Name: "trip", After: steps(a), Input: oneLeg(leg{N: 1, Fail: true})}
	p := newPlay(t, pgengine.Saga[fault]{Steps: steps(a, trip, c.only("b", nil, trip))}, c, legs(c))
	id := p.Start(fault{})
	p.Run()
	s := p.want(id, pgengine.Compensated, "a leg1 -leg1 -a")
	if s.Cause.Step != "trip" || !strings.Contains(s.Cause.Error, errNo.Error()) || !strings.Contains(s.Cause.Error, s.Children[0].ID) {
		t.Errorf("%+v", s.Cause)
	}

	// Of an optional one nothing is made.
	*c = calls{}
	trip.Optional = true
	p.Engine = engine(t, p.Engine.Pool(), pgengine.Saga[fault]{Version: 2, Steps: steps(a, trip, c.only("b", nil, trip))}, legs(c))
	register(t, p.Engine)
	id = p.Start(fault{})
	p.Run()
	p.want(id, pgengine.Completed, "a leg1 -leg1 b")
}

// The undo of a child is its compensation, also when it was completed.
func TestAChildIsTakenBack(t *testing.T) {
	c := &calls{}
	a := c.does("a", nil)
	trip := child{Name: "trip", After: steps(a), Input: oneLeg(leg{N: 1})}
	p := newPlay(t, pgengine.Saga[fault]{Steps: steps(a, trip, c.only("b", refuse, trip))}, c, legs(c))
	id := p.Start(fault{})
	p.Run()
	s := p.want(id, pgengine.Compensated, "a leg1 ok1 b -leg1 -a")
	if k := p.Get(s.Children[0].ID); k.State != pgengine.Compensated || k.Cause.Kind != pgengine.CauseParent || !strings.Contains(k.Cause.Reason, id) {
		t.Errorf("the child is %s, cause %+v", k.State, k.Cause)
	}
}

func TestACancelReachesTheChild(t *testing.T) {
	c := &calls{}
	a := c.does("a", nil)
	trip := child{Name: "trip", After: steps(a), Input: oneLeg(leg{N: 1})}
	slow := legs(c)
	nap := pgengine.Sleep[leg]{Name: "nap", After: slow.Steps[:1], For: time.Hour}
	slow.Steps = pgengine.Steps[leg](slow.Steps[0], nap)
	slow.Output = nil
	p := newPlay(t, pgengine.Saga[fault]{Steps: steps(a, trip)}, c, slow)
	id := p.Start(fault{})
	p.Settle()
	p.has(p.want(id, pgengine.Running, "a leg1"), "trip", pgengine.Do, "child")
	p.cancel(id)
	p.Settle()
	p.want(id, pgengine.Compensated, "a leg1 -leg1 -a")
}

// A child whose undo has given up keeps its parent waiting, and an operator's retry of the child sets both going.
func TestAStuckChild(t *testing.T) {
	c := &calls{}
	broken := true
	k := pgengine.Activity[leg, int]{
		Name: "a", UndoRetry: once,
		Do: func(context.Context, legCall) (int, error) { return 1, nil },
		Undo: func(context.Context, legCall, int) error {
			if broken {
				return errNo
			}
			return nil
		},
	}
	a := c.does("a", nil)
	trip := child{Name: "trip", After: steps(a), Input: oneLeg(leg{N: 1})}
	p := newPlay(t, pgengine.Saga[fault]{Steps: steps(a, trip, c.only("b", refuse, trip))}, c, pgengine.Saga[leg]{Version: 1, Steps: pgengine.Steps[leg](k)})
	id := p.Start(fault{})
	p.Run()
	s := p.want(id, pgengine.Compensating, "a b")
	p.has(s, "trip", pgengine.Undo, "child")
	if s.Children[0].State != pgengine.Stuck {
		t.Fatalf("%+v", s.Children)
	}
	broken = false
	p.retry(s.Children[0].ID)
	p.Run()
	p.want(id, pgengine.Compensated, "a b -a")
}

func TestEach(t *testing.T) {
	for name, test := range map[string]struct {
		items    []leg
		parallel int
		after    func(faultCall) error
		state    pgengine.State
		called   string
		output   string
	}{
		"none":           {items: nil, state: pgengine.Completed, output: `[]`},
		"one by one":     {items: []leg{{N: 1}, {N: 2}, {N: 2}}, parallel: 1, state: pgengine.Completed, called: "leg1 ok1 leg2 ok2 leg2 ok2", output: `["leg 1","leg 2","leg 2"]`},
		"taken back":     {items: []leg{{N: 1}, {N: 2}}, parallel: 1, after: refuse, state: pgengine.Compensated, called: "leg1 ok1 leg2 ok2 b -leg1 -leg2"},
		"the last fails": {items: []leg{{N: 1}, {N: 2, Fail: true}}, parallel: 1, state: pgengine.Compensated, called: "leg1 ok1 leg2 -leg2 -leg1"},
		"the first fails, and the others never start": {items: []leg{{N: 1, Fail: true}, {N: 2}}, parallel: 1, state: pgengine.Compensated, called: "leg1 -leg1"},
	} {
		t.Run(name, func(t *testing.T) {
			c := &calls{}
			e := each{Name: "e", Parallel: test.parallel, Inputs: func(context.Context, faultCall) ([]leg, error) { return test.items, nil }}
			s := pgengine.Saga[fault]{Output: e, Steps: steps(e)}
			if test.after != nil {
				s.Steps = steps(e, c.only("b", test.after, e))
			}
			p := newPlay(t, s, c, legs(c))
			id := p.Start(fault{})
			p.Run()
			got := p.want(id, test.state, test.called)
			if string(got.Output) != test.output {
				t.Errorf("output %s, want %s", got.Output, test.output)
			}
		})
	}
}

func TestInputsOfChildrenThatFail(t *testing.T) {
	c := &calls{}
	a := c.does("a", nil)
	for name, test := range map[string]struct {
		inputs func(context.Context, faultCall) ([]leg, error)
		says   string
	}{
		"an error": {func(context.Context, faultCall) ([]leg, error) { return nil, errNo }, errNo.Error()},
		"a panic":  {func(context.Context, faultCall) ([]leg, error) { panic("oh") }, "panic: oh"},
		"too many": {func(context.Context, faultCall) ([]leg, error) { return make([]leg, 10001), nil }, "10001 items, at most 10000"},
	} {
		t.Run(name, func(t *testing.T) {
			e := each{Name: "e", After: steps(a), Inputs: test.inputs}
			c := &calls{}
			p := newPlay(t, pgengine.Saga[fault]{Steps: steps(a, e)}, c, legs(c))
			id := p.Start(fault{})
			p.Run()
			s := p.Get(id)
			if s.State != pgengine.Compensated || s.Cause.Step != "e" || !strings.Contains(s.Cause.Error, test.says) {
				t.Errorf("%s, cause %+v", s.State, s.Cause)
			}
		})
	}
}

func TestAChildThatNobodyKnows(t *testing.T) {
	c := &calls{}
	a := c.does("a", nil)
	trip := child{Name: "trip", After: steps(a), Input: oneLeg(leg{N: 1})}
	p := newPlay(t, pgengine.Saga[fault]{Steps: steps(a, trip)}, c)
	id := p.Start(fault{})
	p.Run()
	s := p.want(id, pgengine.Compensated, "a -a")
	if s.Cause.Step != "trip" || !strings.Contains(s.Cause.Error, "unknown saga leg") {
		t.Errorf("%+v", s.Cause)
	}
}

// Past the pivot a child that was compensated is tried anew when an operator says so.
func TestAChildPastThePivot(t *testing.T) {
	c := &calls{}
	broken := true
	k := pgengine.TxStep[leg, int]{Name: "a", Do: func(context.Context, pgx.Tx, legCall) (int, error) {
		if broken {
			return 0, pgengine.Terminal(errNo)
		}
		return 7, nil
	}}
	pay := c.pay(nil)
	trip := pgengine.Child[fault, leg, int]{Name: "trip", After: steps(pay), Input: oneLeg(leg{N: 1})}
	p := newPlay(t, pgengine.Saga[fault]{Output: trip, Steps: steps(pay, trip)}, c, pgengine.Saga[leg]{Version: 1, Output: k, Steps: pgengine.Steps[leg](k)})
	id := p.Start(fault{})
	p.Run()
	p.want(id, pgengine.Stuck, "pay")
	broken = false
	p.retry(id)
	p.Run()
	s := p.want(id, pgengine.Completed, "pay")
	if string(s.Output) != "7" || !strings.HasSuffix(p.Get(s.Children[0].ID).Key, "/trip/0/2") {
		t.Errorf("output %s, children %+v", s.Output, s.Children)
	}
}

func TestAPivotThatIsAChild(t *testing.T) {
	c := &calls{}
	a := c.does("a", nil)
	inner := legs(c)
	fork := inner.Steps[0].(pgengine.Activity[leg, int])
	fork.Undo, fork.Pivot = nil, true
	inner.Steps, inner.Output = pgengine.Steps[leg](fork), fork
	trip := pgengine.Child[fault, leg, int]{Name: "trip", After: steps(a), Pivot: true, Input: oneLeg(leg{N: 1})}
	p := newPlay(t, pgengine.Saga[fault]{Steps: steps(a, trip, c.only("b", nil, trip))}, c, inner)
	id := p.Start(fault{})
	for !has(p.Get(id), "trip", pgengine.Do, "child") {
		p.Work()
	}
	p.cancel(id) // it waits for the child
	p.Run()
	p.want(id, pgengine.Completed, "a leg1 b")

	// A child with a pivot that could have to be taken back is refused.
	trip.Pivot = false
	_, err := pgengine.New(p.Engine.Pool(), pgengine.Config{Sagas: []pgengine.Definition{inner, pgengine.Saga[fault]{Version: 1, Steps: steps(a, trip)}}})
	if d := (&pgengine.DefinitionError{}); !errors.As(err, &d) || d.Step != "trip" || !strings.Contains(d.Problem, "pivot") {
		t.Errorf("%v", err)
	}
}

// Children on real workers, in both modes, half of the parents cancelled in the middle: nobody is left behind.
func TestFamiliesUnderLoad(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, cfg jobs.Config) {
		const families, items = 20, 8
		pool := racePool(t, 20)
		c := &calls{}
		e := each{Name: "e", Parallel: 3, Inputs: func(_ context.Context, k faultCall) ([]leg, error) {
			in := make([]leg, items)
			for i := range in {
				in[i] = leg{N: i, Fail: k.Input.Note == "fail" && i == 5}
			}
			return in, nil
		}}
		x := engine(t, pool, pgengine.Saga[fault]{Version: 1, Output: e, Steps: steps(e, c.only("b", nil, e))}, legs(c))
		workWith(t, x, cfg)
		ids := make([]string, families)
		for i := range ids {
			ids[i] = start(t, x, fault{Note: []string{"", "fail"}[i%2]}, nil).ID
		}
		for i := 0; i < families; i += 4 {
			err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error { return x.Cancel(t.Context(), tx, ids[i], pgengine.By{}) })
			if err != nil && !errors.Is(err, pgengine.ErrEnded) {
				t.Fatal(err)
			}
		}
		got := wait(t, x, ids...)
		if got[pgengine.Completed]+got[pgengine.Compensated] != families || got[pgengine.Compensated] < families/2 {
			t.Errorf("%v", got)
		}
		if n := queryInt(t, pool, `SELECT count(*) FROM pgsagaz.child c JOIN pgsagaz.saga p ON p.id = c.parent_id LEFT JOIN pgsagaz.saga s ON s.id = c.saga_id
			WHERE p.state = 'completed' AND s.state IS DISTINCT FROM 'completed' OR p.state = 'compensated' AND s.state <> 'compensated'`); n > 0 {
			t.Errorf("%d children have not ended as their parents have", n)
		}
	})
}
