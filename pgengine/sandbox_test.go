package pgengine_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/pgengine/pgenginetest"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// play is a saga of steps in a sandbox, with notes of what was called.
type play struct {
	*pgenginetest.Sandbox
	t     *testing.T
	calls *calls
}

func newPlay(t *testing.T, saga pgengine.Saga[fault], c *calls, more ...pgengine.Definition) play {
	t.Helper()
	t.Parallel()
	saga.Version = 1
	return play{Sandbox: pgenginetest.NewSandbox(t, sqltest.New(t), append(more, saga)...), t: t, calls: c}
}

// want compares the state of a saga, and what was called, in order.
func (p play) want(id string, state pgengine.State, called string) pgengine.Status {
	p.t.Helper()
	s := p.Get(id)
	if s.State != state || p.calls.String() != called {
		p.t.Errorf("the saga is %s after %q, want %s after %q\ncause %+v\nsteps %+v\nattempts %+v", s.State, p.calls, state, called, s.Cause, s.Steps, s.Attempts)
	}
	return s
}

// cancel, signal, retry and resolve are asked of a saga in a transaction of their own.
func (p play) cancel(id string) {
	p.t.Helper()
	p.Tx(func(tx pgx.Tx) error {
		return p.Engine.Cancel(p.t.Context(), tx, id, pgengine.By{Actor: "Ann", Reason: "enough"})
	})
}

func (p play) signal(id string, s pgengine.Signal) {
	p.t.Helper()
	p.Tx(func(tx pgx.Tx) error { return p.Engine.Signal(p.t.Context(), tx, pgengine.ID(id), s) })
}

func (p play) retry(id string) {
	p.t.Helper()
	p.Tx(func(tx pgx.Tx) error {
		return p.Engine.Retry(p.t.Context(), tx, id, pgengine.By{Actor: "Ann", Reason: "again"})
	})
}

func (p play) resolve(id, step string, r pgengine.Resolution, reason ...string) {
	p.t.Helper()
	p.Tx(func(tx pgx.Tx) error {
		return p.Engine.Resolve(p.t.Context(), tx, id, step, r, pgengine.By{Actor: "Ann", Reason: strings.Join(reason, "")})
	})
}

// does is an Activity that notes its name, and fails as err says; undoing it notes -name.
func (c *calls) does(name string, err func(faultCall) error, after ...pgengine.Step[fault]) act[string] {
	return act[string]{
		Name: name, After: after, Retry: quick, UndoRetry: quick,
		Do: func(_ context.Context, k faultCall) (string, error) {
			c.add(name)
			if err != nil {
				if e := err(k); e != nil {
					return "", e
				}
			}
			return name + "'s", nil
		},
		Undo: func(_ context.Context, k faultCall, r string) error {
			if k.InDoubt() {
				r = "doubt"
			}
			c.add("-" + name)
			if r != name+"'s" && r != "doubt" {
				return pgengine.Terminal(fmt.Errorf("undo got %q", r))
			}
			return nil
		},
	}
}

// only is a step without an undo.
func (c *calls) only(name string, err func(faultCall) error, after ...pgengine.Step[fault]) act[string] {
	a := c.does(name, err, after...)
	a.Undo, a.UndoRetry = nil, pgengine.Retry{}
	return a
}

// write is a TxStep as does.
func (c *calls) write(name string, err func(faultCall) error, after ...pgengine.Step[fault]) txs[string] {
	a := c.does(name, err, after...)
	return txs[string]{
		Name: name, After: after, Retry: quick, UndoRetry: quick,
		Do:   func(ctx context.Context, _ pgx.Tx, k faultCall) (string, error) { return a.Do(ctx, k) },
		Undo: func(ctx context.Context, _ pgx.Tx, k faultCall, r string) error { return a.Undo(ctx, k, r) },
	}
}

func fails(faultCall) error  { return errNo }
func refuse(faultCall) error { return pgengine.Terminal(errNo) }

// failsTimes fails the first n times.
func failsTimes(n int) func(faultCall) error {
	return func(faultCall) error {
		if n--; n >= 0 {
			return errNo
		}
		return nil
	}
}

func steps(s ...pgengine.Step[fault]) []pgengine.Step[fault] { return s }

func has(s pgengine.Status, step string, d pgengine.Direction, state string) bool {
	for _, r := range s.Steps {
		if r.Step == step && r.Direction == d && r.State == state {
			return true
		}
	}
	return false
}

func (p play) has(s pgengine.Status, step string, d pgengine.Direction, state string) {
	p.t.Helper()
	if !has(s, step, d, state) {
		p.t.Errorf("step %s is not %s %s: %+v", step, d, state, s.Steps)
	}
}

func TestWhen(t *testing.T) {
	c := &calls{}
	a := c.does("a", nil)
	b := c.does("b", nil, a)
	b.When = func(k faultCall) bool { return k.Input.Note == "with b" && a.Result(k) == "a's" }
	d := c.does("d", func(k faultCall) error {
		_, ok := b.Maybe(k)
		c.add(fmt.Sprint("b:", ok))
		return nil
	}, b)
	e := c.does("e", func(k faultCall) error {
		if k.Input.Note == "fail" {
			return pgengine.Terminal(errNo)
		}
		return nil
	}, d)
	p := newPlay(t, pgengine.Saga[fault]{Output: e, Steps: steps(a, b, d, e)}, c)
	id := p.Start(fault{Note: "with b"})
	p.Run()
	p.want(id, pgengine.Completed, "a b d b:true e")
	*c = calls{}
	id = p.Start(fault{})
	p.Run()
	s := p.want(id, pgengine.Completed, "a d b:false e")
	p.has(s, "b", pgengine.Do, "skipped")
	*c = calls{}
	id = p.Start(fault{Note: "fail"})
	p.Run()
	p.want(id, pgengine.Compensated, "a d b:false e -d -a") // what was skipped is not undone
}

// A step that is to be skipped is not called by the undo of a saga whose worker died at it: nobody knows whether the When
// had been asked.
func TestUndoOfAStepThatWasToBeSkipped(t *testing.T) {
	t.Parallel()
	c := &calls{}
	a := c.does("a", nil)
	b := c.does("b", nil, a)
	b.When = func(faultCall) bool { return false }
	var p play
	saga := pgengine.Saga[fault]{Version: 1, Steps: steps(a, b)}
	died := false
	p = play{t: t, calls: c, Sandbox: pgenginetest.NewSandbox(t, sqltest.New(t), pgengine.Inject(saga, func(at pgengine.Point) error {
		if at.Step == "b" && !died {
			died = true
			p.Crash()
		}
		return nil
	}))}
	id := p.Start(fault{})
	for !died {
		p.Work()
	}
	p.cancel(id)
	p.Run()
	p.has(p.want(id, pgengine.Compensated, "a -a"), "b", pgengine.Undo, "nothing")
}

func TestWhenThatPanics(t *testing.T) {
	c := &calls{}
	a := c.does("a", nil)
	b := c.does("b", nil, a)
	b.When = func(k faultCall) bool { panic("no idea") }
	p := newPlay(t, pgengine.Saga[fault]{Steps: steps(a, b)}, c)
	id := p.Start(fault{})
	p.Run()
	s := p.want(id, pgengine.Compensated, "a -a")
	if s.Cause.Step != "b" || s.Cause.Error != "panic: no idea" {
		t.Errorf("cause %+v", s.Cause)
	}
}

func TestTheFirstStepMayBeSkipped(t *testing.T) {
	c := &calls{}
	a := c.write("a", nil)
	a.When = func(faultCall) bool { return false }
	p := newPlay(t, pgengine.Saga[fault]{Steps: steps(a, c.write("b", nil, a))}, c)
	id := p.Start(fault{})
	p.Run()
	p.want(id, pgengine.Completed, "b")
}

func TestUndoPolicies(t *testing.T) {
	for name, test := range map[string]struct {
		policy pgengine.UndoFailure
		state  pgengine.State
		called string
	}{
		"stuck":    {pgengine.UndoStuck, pgengine.Stuck, "a b x e f -e -b -b"},
		"continue": {pgengine.UndoContinue, pgengine.Compensated, "a b x e f -e -b -b -x -a"},
		"skip":     {pgengine.UndoSkip, pgengine.Compensated, "a b x e f -e -b -b -x"}, // x stands beside b
	} {
		t.Run(name, func(t *testing.T) {
			c := &calls{}
			a := c.does("a", nil)
			b := c.does("b", nil, a)
			b.OnUndoFailure = test.policy
			b.Undo = func(context.Context, faultCall, string) error { c.add("-b"); return errNo }
			x := c.does("x", nil)
			e := c.does("e", nil, b, x)
			p := newPlay(t, pgengine.Saga[fault]{Steps: steps(a, b, x, e, c.does("f", refuse, e))}, c)
			id := p.Start(fault{})
			p.Run()
			s := p.Get(id)
			if s.State != test.state {
				t.Fatalf("%s, want %s: %+v", s.State, test.state, s.Steps)
			}
			switch test.policy {
			case pgengine.UndoStuck:
				p.has(s, "b", pgengine.Undo, "stuck")
				p.has(s, "x", pgengine.Undo, "done") // what does not wait for b is undone
			case pgengine.UndoContinue:
				p.has(s, "b", pgengine.Undo, "failed")
				p.has(s, "a", pgengine.Undo, "done")
			case pgengine.UndoSkip:
				p.has(s, "b", pgengine.Undo, "failed")
				p.has(s, "a", pgengine.Undo, "skipped")
				p.has(s, "x", pgengine.Undo, "done")
			}
		})
	}
}

func TestManualUndo(t *testing.T) {
	c := &calls{}
	a := c.does("a", nil)
	b := c.only("b", nil, a)
	b.ManualUndo = true
	p := newPlay(t, pgengine.Saga[fault]{Steps: steps(a, b, c.does("c", refuse, b))}, c)
	id := p.Start(fault{})
	p.Run()
	s := p.want(id, pgengine.Stuck, "a b c")
	p.has(s, "b", pgengine.Undo, "stuck")
	p.retry(id) // that is not an operator's word
	p.Run()
	p.want(id, pgengine.Stuck, "a b c")
	p.resolve(id, "b", pgengine.Resolution{Outcome: pgengine.OutcomeDone}, "sent a letter")
	p.Run()
	s = p.want(id, pgengine.Compensated, "a b c -a")
	for _, r := range s.Steps {
		if r.Step == "b" && r.Direction == pgengine.Undo && r.Note != "sent a letter" {
			t.Errorf("note %q", r.Note)
		}
	}
}

func TestResolveRefuses(t *testing.T) {
	c := &calls{}
	a := c.does("a", nil)
	pay := c.only("pay", fails, a)
	pay.Pivot, pay.Retry = true, quick
	p := newPlay(t, pgengine.Saga[fault]{Steps: steps(a, pay)}, c)
	id := p.Start(fault{})
	p.Run()
	p.want(id, pgengine.Stuck, "a pay pay")
	resolve := func(id, step string, r pgengine.Resolution) error {
		return pgx.BeginFunc(t.Context(), p.Engine.Pool(), func(tx pgx.Tx) error { return p.Engine.Resolve(t.Context(), tx, id, step, r, pgengine.By{}) })
	}
	if err := resolve(id, "a", pgengine.Resolution{Outcome: pgengine.OutcomeDone}); !errors.Is(err, pgengine.ErrNotParked) {
		t.Error(err)
	}
	for _, r := range []pgengine.Resolution{
		{Outcome: pgengine.OutcomeDone},                       // no result
		{Outcome: pgengine.OutcomeDone, Result: []byte(`{"`)}, // not JSON
		{Outcome: pgengine.OutcomeDone, Result: []byte(`{}`)}, // not a string
		{Outcome: pgengine.OutcomeSkipped},                    // a pivot
		{Outcome: "perhaps"},
	} {
		if err := resolve(id, "pay", r); err == nil {
			t.Errorf("%+v is accepted", r)
		}
	}
	if err := resolve("nonsense", "pay", pgengine.Resolution{}); !errors.Is(err, pgengine.ErrNotFound) {
		t.Error(err)
	}
	p.Run()
	p.want(id, pgengine.Stuck, "a pay pay")
	p.resolve(id, "pay", pgengine.Resolution{Outcome: pgengine.OutcomeFailed}, "the bank says no")
	p.Run()
	p.want(id, pgengine.Compensated, "a pay pay -a")
}

func TestSleep(t *testing.T) {
	c := &calls{}
	a := c.does("a", nil)
	nap := pgengine.Sleep[fault]{Name: "nap", After: steps(a), For: 24 * time.Hour}
	until := pgengine.Sleep[fault]{Name: "until", After: steps(nap), Until: func(_ context.Context, k faultCall) (time.Time, error) {
		c.add("until")
		return time.Now().Add(48 * time.Hour), nil
	}}
	past := pgengine.Sleep[fault]{Name: "past", After: steps(until), Until: func(context.Context, faultCall) (time.Time, error) { return time.Unix(0, 0), nil }}
	p := newPlay(t, pgengine.Saga[fault]{Steps: steps(a, nap, until, past, c.does("b", nil, past))}, c)
	id := p.Start(fault{})
	p.Settle()
	s := p.want(id, pgengine.Running, "a")
	p.has(s, "nap", pgengine.Do, "sleeping")
	p.Advance(23 * time.Hour)
	p.Settle()
	p.want(id, pgengine.Running, "a")
	p.Advance(time.Hour)
	p.Settle()
	p.want(id, pgengine.Running, "a until")
	p.Run()
	p.want(id, pgengine.Completed, "a until b")
}

func TestASleepIsCancelled(t *testing.T) {
	c := &calls{}
	a := c.does("a", nil)
	p := newPlay(t, pgengine.Saga[fault]{Steps: steps(a, pgengine.Sleep[fault]{Name: "nap", After: steps(a), For: 24 * time.Hour})}, c)
	id := p.Start(fault{})
	p.Settle()
	p.cancel(id)
	p.Settle()
	p.want(id, pgengine.Compensated, "a -a")
}

// until waits for what somebody else brings about; the test's own time limit ends it.
func until(t testing.TB, is func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !is(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not come about")
		}
	}
}
