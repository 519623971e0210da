package pgengine_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/jobs"
	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// pay is a pivot, an Activity.
func (c *calls) pay(err func(faultCall) error, after ...pgengine.Step[fault]) act[string] {
	a := c.only("pay", err, after...)
	a.Pivot = true
	return a
}

func TestBeforeThePivotAllIsUndone(t *testing.T) {
	c := &calls{}
	a := c.does("a", nil)
	pay := c.pay(refuse, a)
	p := newPlay(t, pgengine.Saga[fault]{Steps: steps(a, pay, c.only("b", nil, pay))}, c)
	id := p.Start(fault{})
	p.Run()
	p.want(id, pgengine.Compensated, "a pay -a")
}

func TestPastThePivotItGoesOnWithoutEnd(t *testing.T) {
	c := &calls{}
	a := c.does("a", nil)
	pay := c.pay(nil, a)
	b := c.only("b", failsTimes(20), pay)
	b.Retry = pgengine.Retry{Initial: time.Hour, Max: 2 * time.Hour}
	p := newPlay(t, pgengine.Saga[fault]{Steps: steps(a, pay, b), Timeout: time.Minute}, c) // the deadline does not count any more
	id := p.Start(fault{})
	p.Settle()
	p.cancel(id) // nor does a cancel
	p.Run()
	p.want(id, pgengine.Completed, "a pay"+strings.Repeat(" b", 21))
}

func TestPastThePivotAnOperatorIsAsked(t *testing.T) {
	c := &calls{}
	a := c.does("a", nil)
	pay := c.pay(nil, a)
	broken := true
	b := c.only("b", func(faultCall) error {
		if broken {
			return refuse(faultCall{})
		}
		return nil
	}, pay)
	side := c.only("side", nil, pay)
	p := newPlay(t, pgengine.Saga[fault]{Output: b, Steps: steps(a, pay, b, side)}, c)
	id := p.Start(fault{})
	p.Run()
	s := p.Get(id)
	if s.State != pgengine.Stuck || s.Cause == nil || !strings.Contains(s.Cause.Error, errNo.Error()) && s.Cause.Step != "" {
		t.Fatalf("%s, cause %+v", s.State, s.Cause)
	}
	p.has(s, "b", pgengine.Do, "stuck")
	p.has(s, "side", pgengine.Do, "done")
	broken = false
	p.retry(id)
	p.Run()
	if s = p.Get(id); s.State != pgengine.Completed || s.Cause != nil {
		t.Errorf("%s, cause %+v", s.State, s.Cause)
	}

	// Or the operator gives the result himself.
	broken = true
	id = p.Start(fault{})
	p.Run()
	p.resolve(id, "b", pgengine.Resolution{Outcome: pgengine.OutcomeDone, Result: []byte(`"by hand"`)}, "called them")
	p.Run()
	if s = p.Get(id); s.State != pgengine.Completed || string(s.Output) != `"by hand"` {
		t.Errorf("%s, output %s", s.State, s.Output)
	}
}

func TestRecover(t *testing.T) {
	for name, test := range map[string]struct {
		decide func(n int) (pgengine.Recovery[string], error)
		state  pgengine.State
		called string
		result string
	}{
		"hand over": {func(int) (r pgengine.Recovery[string], err error) { return r, nil }, pgengine.Stuck, "pay b b r1", ""},
		"error":     {func(int) (r pgengine.Recovery[string], err error) { return r, errNo }, pgengine.Stuck, "pay b b r1", ""},
		"panic":     {func(int) (r pgengine.Recovery[string], err error) { panic("oh") }, pgengine.Stuck, "pay b b r1", ""},
		"nonsense":  {func(int) (pgengine.Recovery[string], error) { return pgengine.Recovery[string]{Action: 9}, nil }, pgengine.Stuck, "pay b b r1", ""},
		"alternative": {func(int) (pgengine.Recovery[string], error) {
			return pgengine.Recovery[string]{Action: pgengine.RecoverWith, Result: "other", Reason: "b is down"}, nil
		}, pgengine.Completed, "pay b b r1 d:other", "other"},
		"skip": {func(int) (pgengine.Recovery[string], error) {
			return pgengine.Recovery[string]{Action: pgengine.RecoverSkip}, nil
		}, pgengine.Completed, "pay b b r1 d:", ""},
		"retry, then skip": {func(n int) (pgengine.Recovery[string], error) {
			if n < 3 {
				return pgengine.Recovery[string]{Action: pgengine.RecoverRetry, After: time.Hour}, nil
			}
			return pgengine.Recovery[string]{Action: pgengine.RecoverSkip}, nil
		}, pgengine.Completed, "pay b b r1 b b r2 b b r3 d:", ""},
	} {
		for _, kind := range []string{"activity", "tx"} {
			t.Run(name+", "+kind, func(t *testing.T) {
				c := &calls{}
				pay := c.pay(nil)
				n := 0
				ask := func(cause error) (pgengine.Recovery[string], error) {
					n++
					c.add("r" + string(rune('0'+n)))
					if !strings.Contains(cause.Error(), errNo.Error()) {
						t.Errorf("Recover is told %v", cause)
					}
					return test.decide(n)
				}
				a := c.only("b", fails, pay)
				a.Recover = func(_ context.Context, _ faultCall, cause error) (pgengine.Recovery[string], error) {
					return ask(cause)
				}
				x := c.write("b", fails, pay)
				x.Undo, x.UndoRetry = nil, pgengine.Retry{}
				x.Recover = func(_ context.Context, _ pgx.Tx, _ faultCall, cause error) (pgengine.Recovery[string], error) {
					return ask(cause)
				}
				var b pgengine.Step[fault] = a
				maybe := a.Maybe
				if kind == "tx" {
					b, maybe = x, x.Maybe
				}
				d := c.only("d", nil, b)
				d.Do = func(_ context.Context, k faultCall) (string, error) {
					r, _ := maybe(k)
					c.add("d:" + r)
					return r, nil
				}
				p := newPlay(t, pgengine.Saga[fault]{Output: d, Steps: steps(pay, b, d)}, c)
				id := p.Start(fault{})
				p.Run()
				s := p.want(id, test.state, test.called)
				if test.state == pgengine.Completed && string(s.Output) != `"`+test.result+`"` {
					t.Errorf("output %s", s.Output)
				}
			})
		}
	}
}

// A pivot whose outcome is unknown is never undone by guess, and nothing is undone before it is known.
func TestPivotInDoubt(t *testing.T) {
	lost := errors.New("the line went dead")
	for name, test := range map[string]struct {
		lookup func(n int) (string, bool, error)
		do     func(n int) error
		tries  int
		cancel bool
		state  pgengine.State
		called string
	}{
		"repeated until it is known":             {do: func(n int) error { return map[bool]error{true: lost}[n < 9] }, state: pgengine.Completed, called: "a" + strings.Repeat(" pay", 9) + " b"},
		"repeated, and refused":                  {do: func(n int) error { return map[bool]error{true: lost, false: pgengine.Terminal(errNo)}[n < 3] }, state: pgengine.Compensated, called: "a pay pay pay -a"},
		"given up, and nobody to ask":            {do: func(int) error { return lost }, tries: 2, state: pgengine.Stuck, called: "a pay pay"},
		"given up, looked up, found":             {do: func(int) error { return lost }, tries: 2, lookup: func(int) (string, bool, error) { return "paid", true, nil }, state: pgengine.Completed, called: "a pay pay look b"},
		"given up, looked up, not found":         {do: func(int) error { return lost }, tries: 2, lookup: func(int) (string, bool, error) { return "", false, nil }, state: pgengine.Compensated, called: "a pay pay look -a"},
		"given up, looked up, no answer":         {do: func(int) error { return lost }, tries: 2, lookup: func(int) (string, bool, error) { return "", false, lost }, state: pgengine.Stuck, called: "a pay pay look"},
		"cancelled meanwhile, and it came true":  {do: func(n int) error { return map[bool]error{true: lost}[n < 3] }, cancel: true, state: pgengine.Completed, called: "a pay pay pay b"},
		"cancelled meanwhile, and it came false": {do: func(n int) error { return map[bool]error{true: lost, false: pgengine.Terminal(errNo)}[n < 3] }, cancel: true, state: pgengine.Compensated, called: "a pay pay pay -a"},
	} {
		t.Run(name, func(t *testing.T) {
			c := &calls{}
			a := c.does("a", nil)
			pay := c.pay(nil, a)
			pay.Retry = pgengine.Retry{MaxAttempts: test.tries, Initial: time.Hour}
			n := 0
			pay.Do = func(context.Context, faultCall) (string, error) {
				n++
				c.add("pay")
				return "paid", test.do(n)
			}
			if test.lookup != nil {
				pay.Lookup = func(context.Context, faultCall) (string, bool, error) {
					c.add("look")
					return test.lookup(n)
				}
			}
			p := newPlay(t, pgengine.Saga[fault]{Steps: steps(a, pay, c.only("b", nil, pay))}, c)
			id := p.Start(fault{})
			p.Settle()
			if test.cancel {
				p.cancel(id)
				p.Settle()
				p.want(id, pgengine.Failing, "a pay")
			}
			p.Run()
			p.want(id, test.state, test.called)
		})
	}
}

// A cancel that comes while the pivot's call is under way waits for it, on real workers.
func TestCancelWaitsForThePivot(t *testing.T) {
	t.Parallel()
	c := &calls{}
	begun, gate := make(chan struct{}), make(chan struct{})
	a := c.does("a", nil)
	pay := c.pay(nil, a)
	pay.Do = func(ctx context.Context, _ faultCall) (string, error) {
		close(begun)
		<-gate
		return "paid", nil
	}
	b := c.only("b", nil, pay)
	e := engine(t, sqltest.New(t), pgengine.Saga[fault]{Version: 1, OnFailure: pgengine.FailFast, Output: b, Steps: steps(a, pay, b)})
	workWith(t, e, jobs.Config{})
	id := start(t, e, fault{}, nil).ID
	<-begun
	if err := pgx.BeginFunc(t.Context(), e.Pool(), func(tx pgx.Tx) error { return e.Cancel(t.Context(), tx, id, pgengine.By{}) }); err != nil {
		t.Fatal(err)
	}
	until(t, func() bool { s, _ := e.Get(t.Context(), id); return s.State == pgengine.Failing })
	close(gate)
	if got := wait(t, e, id); got[pgengine.Completed] != 1 {
		t.Errorf("%v: %s", got, c)
	}
}
