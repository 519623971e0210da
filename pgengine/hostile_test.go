package pgengine_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgsagaz/pgsagaz/jobs"
	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

// What hostile users, operators and circumstances do to a saga.

// A completed child whose last undo is an operator's own goes from completed to stuck at one stroke.
func TestACompletedChildThatIsUndoneByHand(t *testing.T) {
	c := &calls{}
	k := pgengine.Activity[leg, int]{Name: "a", ManualUndo: true, Do: func(context.Context, legCall) (int, error) { return 1, nil }}
	a := c.does("a", nil)
	trip := child{Name: "trip", After: steps(a), Input: oneLeg(leg{N: 1})}
	p := newPlay(t, pgengine.Saga[fault]{Steps: steps(a, trip, c.only("b", refuse, trip))}, c, pgengine.Saga[leg]{Version: 1, Steps: pgengine.Steps[leg](k)})
	id := p.Start(fault{})
	p.Run()
	s := p.want(id, pgengine.Compensating, "a b")
	if s.Children[0].State != pgengine.Stuck {
		t.Fatalf("%+v", s.Children)
	}
	p.resolve(s.Children[0].ID, "a", pgengine.Resolution{Outcome: pgengine.OutcomeDone})
	p.Run()
	p.want(id, pgengine.Compensated, "a b -a")
}

// spiteful is a signal whose payload panics when it is read.
type spiteful struct{ N int }

func (spiteful) SignalName() string { return "spiteful" }

func (*spiteful) UnmarshalJSON([]byte) error { panic("I won't") }

// Whatever was asked of a saga, the next thing that is asked of it is heard.
func TestNonsenseDoesNotBlockTheCommands(t *testing.T) {
	for name, ask := range map[string]func(p play, id string) error{
		"a signal's key is too long": func(p play, id string) error {
			return pgx.BeginFunc(p.t.Context(), p.Engine.Pool(), func(tx pgx.Tx) error {
				return p.Engine.SignalJSON(p.t.Context(), tx, pgengine.ID(id), "approval", []byte(`{}`), &pgengine.SignalOptions{Key: noise(8000)})
			})
		},
		"a signal that panics": func(p play, id string) error {
			return p.sql(`SELECT pgsagaz.signal($1, 'spiteful', '{"N":1}')`, id)
		},
		"a signal without a payload": func(p play, id string) error { return p.sql(`SELECT pgsagaz.signal($1, 'approval', NULL)`, id) },
		"a command that is a signal": func(p play, id string) error {
			return p.sql(`SELECT pgsagaz.command($1, 'signal', 'approval', '{"payload": {}, "sent_at": "yesterday"}')`, id)
		},
		"a signal of nothing": func(p play, id string) error { return p.sql(`SELECT pgsagaz.command($1, 'signal', 'approval')`, id) },
		"a signal of a list": func(p play, id string) error {
			return p.sql(`SELECT pgsagaz.command($1, 'signal', 'approval', '[1]')`, id)
		},
		"a child that is none": func(p play, id string) error { return p.sql(`SELECT pgsagaz.command($1, 'child', 'completed')`, id) },
		"a child's end is unknown": func(p play, id string) error {
			return p.sql(`SELECT pgsagaz.command($1, 'child', 'dead', json_build_object('step', 'a', 'item', 0, 'saga_id', $1::uuid))`, id)
		},
		"a child's item is a word": func(p play, id string) error {
			return p.sql(`SELECT pgsagaz.command($1, 'child', 'completed', '{"item":"x"}')`, id)
		},
		"a resolution of a list":  func(p play, id string) error { return p.sql(`SELECT pgsagaz.command($1, 'resolve', '', '[1]')`, id) },
		"a resolution of nothing": func(p play, id string) error { return p.sql(`SELECT pgsagaz.command($1, 'resolve', '')`, id) },
		"an unknown command":      func(p play, id string) error { return p.sql(`SELECT pgsagaz.command($1, 'dance', '')`, id) },
		"no reason":               func(p play, id string) error { return p.sql(`SELECT pgsagaz.command($1, 'retry', NULL)`, id) },
	} {
		t.Run(name, func(t *testing.T) {
			c := &calls{}
			a := c.does("a", nil)
			w, by := c.approved("w", a)
			x := pgengine.Await[fault, spiteful]{Name: "x", After: steps(w)}
			p := newPlay(t, pgengine.Saga[fault]{Steps: steps(a, w, by, x)}, c)
			id := p.Start(fault{})
			p.Settle()
			if err := ask(p, id); err != nil {
				t.Logf("refused: %v", err)
			}
			p.cancel(id)
			p.Settle()
			if s := p.Get(id); s.State != pgengine.Compensated {
				t.Errorf("the cancel is not heard: %s", s.State)
			}
		})
	}
}

func (p play) sql(query string, args ...any) error {
	_, err := p.Engine.Pool().Exec(p.t.Context(), query, args...)
	return err
}

// noise does not compress.
func noise(n int) string {
	var b strings.Builder
	for x := uint64(88172645463325252); b.Len() < n; {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		b.WriteByte("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-"[x%64])
	}
	return b.String()
}

// past is a step past the pivot, with a Recover.
func past(c *calls, tx bool, recover func(context.Context, pgx.Tx) (pgengine.Recovery[string], error), after ...pgengine.Step[fault]) pgengine.Step[fault] {
	if !tx {
		a := c.only("b", fails, after...)
		a.Recover = func(ctx context.Context, _ faultCall, _ error) (pgengine.Recovery[string], error) {
			return recover(ctx, nil)
		}
		return a
	}
	x := c.write("b", fails, after...)
	x.Undo, x.UndoRetry = nil, pgengine.Retry{}
	x.Recover = func(ctx context.Context, tx pgx.Tx, _ faultCall, _ error) (pgengine.Recovery[string], error) {
		return recover(ctx, tx)
	}
	return x
}

func TestARecoverThatSaysNonsense(t *testing.T) {
	for _, tx := range []bool{false, true} {
		for _, action := range []pgengine.RecoveryAction{pgengine.HandOver, pgengine.RecoverSkip, pgengine.RecoverWith} {
			t.Run(fmt.Sprint(tx, action), func(t *testing.T) {
				c := &calls{}
				pay := c.pay(nil)
				b := past(c, tx, func(context.Context, pgx.Tx) (pgengine.Recovery[string], error) {
					return pgengine.Recovery[string]{Action: action, Reason: "a\x00b\xff" + noise(9000), Result: "\x00\xff"}, nil
				}, pay)
				p := newPlay(t, pgengine.Saga[fault]{Steps: steps(pay, b)}, c)
				id := p.Start(fault{})
				p.Run()
				want := pgengine.Completed
				if action == pgengine.HandOver {
					want = pgengine.Stuck
				}
				p.want(id, want, "pay b b")
			})
		}
	}
}

// What a TxStep's Recover writes, and can't be committed, is for an operator.
func TestARecoverThatCannotCommit(t *testing.T) {
	c := &calls{}
	pay := c.pay(nil)
	b := past(c, true, func(ctx context.Context, tx pgx.Tx) (pgengine.Recovery[string], error) {
		c.add("r")
		_, err := tx.Exec(ctx, `INSERT INTO later VALUES (7)`)
		return pgengine.Recovery[string]{Action: pgengine.RecoverSkip}, err
	}, pay)
	p := newPlay(t, pgengine.Saga[fault]{Steps: steps(pay, b)}, c)
	execute(t, p.Engine.Pool(), `CREATE TABLE one (id integer PRIMARY KEY)`)
	execute(t, p.Engine.Pool(), `CREATE TABLE later (one integer REFERENCES one DEFERRABLE INITIALLY DEFERRED)`)
	id := p.Start(fault{})
	p.Run()
	p.want(id, pgengine.Stuck, "pay b b r")
}

// One that sleeps in its transaction until Postgres ends it is not asked for ever.
func TestARecoverThatSleepsInItsTransaction(t *testing.T) {
	t.Parallel()
	c := &calls{}
	pay := c.pay(nil)
	b := past(c, true, func(ctx context.Context, tx pgx.Tx) (pgengine.Recovery[string], error) {
		c.add("r")
		if _, err := tx.Exec(ctx, `SELECT 1`); err != nil {
			return pgengine.Recovery[string]{}, err
		}
		time.Sleep(2 * time.Second)
		return pgengine.Recovery[string]{Action: pgengine.RecoverSkip}, nil
	}, pay)
	e := engine(t, sqltest.New(t), pgengine.Saga[fault]{Version: 1, Steps: steps(pay, b)})
	workWith(t, e, jobs.Config{Lease: time.Second})
	id := start(t, e, fault{}, nil).ID
	until(t, func() bool {
		s, _ := e.Get(t.Context(), id)
		return s.State == pgengine.Stuck || strings.Count(c.String(), "r") > 2
	})
	if c.String() != "pay b b r" {
		t.Errorf("%s", c)
	}
}

// The Recover of an Activity holds no connection.
func TestARecoverOfAnActivityHoldsNoConnection(t *testing.T) {
	t.Parallel()
	c := &calls{}
	pay := c.pay(nil)
	pool := sqltest.Config(t, func(cfg *pgxpool.Config) { cfg.MaxConns = 1 })
	b := past(c, false, func(ctx context.Context, _ pgx.Tx) (r pgengine.Recovery[string], err error) {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		_, err = pool.Exec(ctx, `SELECT 1`)
		return pgengine.Recovery[string]{Action: pgengine.RecoverSkip}, err
	}, pay)
	e := engine(t, pool, pgengine.Saga[fault]{Version: 1, Steps: steps(pay, b)})
	register(t, e)
	id := start(t, e, fault{}, nil).ID
	if err := e.Run(t.Context(), ticket(t, pool, id, "fault", ""), pgengine.RunOptions{Worker: "w"}); err != nil {
		t.Fatal(err)
	}
	for step := "b"; ; {
		execute(t, pool, `UPDATE pgsagaz.lane SET run_at = pgsagaz.now()`)
		if s, _ := e.Get(t.Context(), id); s.State != pgengine.Running {
			if s.State != pgengine.Completed {
				t.Errorf("%s: %+v", s.State, s.Attempts)
			}
			return
		}
		if err := e.Run(t.Context(), ticket(t, pool, id, "fault", step), pgengine.RunOptions{Worker: "w"}); err != nil {
			t.Fatal(err)
		}
	}
}

// A Recover that has a step tried again that killed its workers.
func TestRecoverRetriesWhatKilledItsWorkers(t *testing.T) {
	c := &calls{}
	pay := c.pay(nil)
	n := 0
	var p play
	b := c.only("b", nil, pay)
	b.Do = func(context.Context, faultCall) (string, error) {
		c.add("b")
		if n++; n <= 10 {
			p.Crash()
		}
		return "", nil
	}
	b.Recover = func(context.Context, faultCall, error) (pgengine.Recovery[string], error) {
		c.add("r")
		if strings.Count(c.String(), "r") > 3 {
			return pgengine.Recovery[string]{}, nil
		}
		return pgengine.Recovery[string]{Action: pgengine.RecoverRetry}, nil
	}
	p = newPlay(t, pgengine.Saga[fault]{Steps: steps(pay, b)}, c)
	id := p.Start(fault{})
	p.Run()
	p.want(id, pgengine.Completed, "pay"+strings.Repeat(" b", 10)+" r b")
}

// An optional step past the pivot that fails for good keeps nobody.
func TestOptionalPastThePivot(t *testing.T) {
	c := &calls{}
	pay := c.pay(nil)
	mail := c.only("mail", fails, pay)
	mail.Optional = true
	w := pgengine.Await[fault, approval]{Name: "w", After: steps(pay), Timeout: time.Hour, Optional: true}
	p := newPlay(t, pgengine.Saga[fault]{Steps: steps(pay, mail, w, c.only("z", nil, mail, w))}, c)
	id := p.Start(fault{})
	p.Run()
	p.want(id, pgengine.Completed, "pay mail mail z")
}

// An optional step beside the pivot has its time, though the deadline has passed: the saga goes forward.
func TestTheDeadlineDoesNotCountPastThePivot(t *testing.T) {
	c := &calls{}
	pay := c.pay(nil)
	nap := pgengine.Sleep[fault]{Name: "nap", After: steps(pay), For: time.Hour}
	w := pgengine.Await[fault, approval]{Name: "w", Timeout: time.Hour, Optional: true}
	w.OnTimeout = func(context.Context, faultCall) (approval, error) { return approval{}, nil }
	mail := c.only("mail", nil, w)
	mail.Optional, mail.Retry = true, once
	mail.Do = func(ctx context.Context, _ faultCall) (string, error) {
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(50 * time.Millisecond):
			c.add("mailed")
			return "", nil
		}
	}
	p := newPlay(t, pgengine.Saga[fault]{Steps: steps(pay, nap, w, mail), Timeout: time.Minute}, c)
	id := p.Start(fault{})
	p.Run()
	p.want(id, pgengine.Completed, "pay mailed")
}

// What Lookup finds, and Commit does not take, is for an operator.
func TestAPivotThatIsFoundAndDoesNotCommit(t *testing.T) {
	c := &calls{}
	pay := c.pay(fails)
	pay.Retry = quick
	pay.Lookup = func(context.Context, faultCall) (string, bool, error) { return "paid", true, nil }
	pay.Commit = func(context.Context, pgx.Tx, faultCall, string) error { return errNo }
	p := newPlay(t, pgengine.Saga[fault]{Steps: steps(pay)}, c)
	id := p.Start(fault{})
	p.Run()
	p.want(id, pgengine.Stuck, "pay pay")
}

func TestASleepUntilTheEndOfTime(t *testing.T) {
	for name, at := range map[string]time.Time{"far": time.Unix(1<<55, 0), "before time": time.Unix(-1<<55, 0), "zero": {}} {
		t.Run(name, func(t *testing.T) {
			c := &calls{}
			a := c.does("a", nil)
			nap := pgengine.Sleep[fault]{Name: "nap", After: steps(a), Until: func(context.Context, faultCall) (time.Time, error) { return at, nil }}
			p := newPlay(t, pgengine.Saga[fault]{Steps: steps(a, nap)}, c)
			id := p.Start(fault{})
			p.Run()
			want, called := pgengine.Completed, "a"
			if name == "far" {
				want, called = pgengine.Compensated, "a -a"
			}
			p.want(id, want, called)
		})
	}
}

// odd is the input of a child, as JSON that Postgres can't hold as jsonb.
type odd struct{ Raw json.RawMessage }

func (odd) SagaName() string { return "odd" }

func TestAnOddInputOfAChild(t *testing.T) {
	for name, raw := range map[string]string{"a number": `1e200000`, "half a character": `"\ud800"`, "a NUL": `"\u0000"`} {
		t.Run(name, func(t *testing.T) {
			c := &calls{}
			a := c.does("a", nil)
			trip := pgengine.Child[fault, odd, string]{Name: "trip", After: steps(a), Input: func(context.Context, faultCall) (odd, error) {
				return odd{json.RawMessage(raw)}, nil
			}}
			k := pgengine.Activity[odd, string]{Name: "k", Do: func(_ context.Context, k pgengine.Call[odd]) (string, error) { return string(k.Input.Raw), nil }}
			p := newPlay(t, pgengine.Saga[fault]{Steps: steps(a, trip)}, c, pgengine.Saga[odd]{Version: 1, Output: k, Steps: pgengine.Steps[odd](k)})
			id := p.Start(fault{})
			p.Run()
			p.want(id, pgengine.Completed, "a")
		})
	}
}

// A cancel that comes before a pivot's child has started is obeyed: what has not begun does not begin.
func TestACancelBeforeThePivotsChild(t *testing.T) {
	c := &calls{}
	a := c.does("a", nil)
	var p play
	var id string
	trip := child{Name: "trip", After: steps(a), Pivot: true, Input: func(context.Context, faultCall) (leg, error) {
		c.add("input")
		p.cancel(id)
		p.Work()
		return leg{N: 1}, nil
	}}
	p = newPlay(t, pgengine.Saga[fault]{Steps: steps(a, trip)}, c, legs(c))
	id = p.Start(fault{})
	p.Run()
	p.want(id, pgengine.Compensated, "a input -a")
}

// A signal that comes after its step was given up, past the pivot, is what it waits for; and a retry waits anew.
func TestASignalSetsWhatWasGivenUpGoing(t *testing.T) {
	c := &calls{}
	pay := c.pay(nil)
	w, by := c.approved("w", pay)
	p := newPlay(t, pgengine.Saga[fault]{Steps: steps(pay, w, by)}, c)
	id := p.Start(fault{})
	p.Run()
	p.want(id, pgengine.Stuck, "pay")
	p.signal(id, approval{"Ann"})
	p.Settle()
	p.want(id, pgengine.Completed, "pay w:Ann")

	*c = calls{}
	id = p.Start(fault{})
	p.Run()
	p.retry(id)
	p.Settle()
	p.has(p.want(id, pgengine.Running, "pay"), "w", pgengine.Do, "awaiting")
	p.Run()
	p.want(id, pgengine.Stuck, "pay")
	p.resolve(id, "w", pgengine.Resolution{Outcome: pgengine.OutcomeDone, Result: []byte(`{"By":"Bob"}`)})
	p.Run()
	p.want(id, pgengine.Completed, "pay w:Bob")
}

// A graph that completed children would be taken back by is not replaced.
func TestAGraphWhoseChildrenMayBeTakenBackStays(t *testing.T) {
	c := &calls{}
	a := c.does("a", nil)
	trip := child{Name: "trip", After: steps(a), Input: oneLeg(leg{N: 1})}
	nap := pgengine.Sleep[fault]{Name: "nap", After: steps(trip), For: time.Hour}
	p := newPlay(t, pgengine.Saga[fault]{Steps: steps(a, trip, nap, c.only("b", refuse, nap))}, c, legs(c))
	id := p.Start(fault{})
	p.Settle()
	p.want(id, pgengine.Running, "a leg1 ok1")
	if v, err := p.Engine.Versions(t.Context(), "leg"); err != nil || len(v) != 1 || v[0].Unfinished != 1 {
		t.Errorf("%+v, %v", v, err)
	}
	other := pgengine.Activity[leg, string]{Name: "other", Do: func(context.Context, legCall) (string, error) { return "", nil }}
	changed := engine(t, p.Engine.Pool(), pgengine.Saga[leg]{Version: 1, Steps: pgengine.Steps[leg](other)})
	if d := (&pgengine.DefinitionError{}); !errors.As(changed.Register(t.Context()), &d) {
		t.Error("leg 1 is replaced, and leg1 would never be undone")
	}
	p.Run()
	p.want(id, pgengine.Compensated, "a leg1 ok1 b -leg1 -a")
	if err := changed.Register(t.Context()); err != nil {
		t.Error(err)
	}
}

// More signals than fit into one transaction come in turns, and all come.
func TestManySignals(t *testing.T) {
	c := &calls{}
	w, by := c.approved("w")
	p := newPlay(t, pgengine.Saga[fault]{Steps: steps(w, by, pgengine.Await[fault, refusal]{Name: "x"})}, c)
	id := p.Start(fault{})
	execute(t, p.Engine.Pool(), `SELECT pgsagaz.signal($1, 'approval', json_build_object('By', n::text)) FROM generate_series(1, 1100) n`, id)
	p.Settle()
	if s := p.Get(id); len(s.Signals) != 1100 {
		t.Errorf("%d signals", len(s.Signals))
	}
	p.cancel(id)
	p.Settle()
	p.want(id, pgengine.Compensated, "w:1")
}

// An error of the database that nobody has thought of stops a lane for a while: it does not spin, and leaves no heap of jobs.
func TestAnUnknownErrorDoesNotSpin(t *testing.T) {
	t.Parallel()
	c := &calls{}
	a := c.does("a", nil)
	e := engine(t, sqltest.New(t), pgengine.Saga[fault]{Version: 1, Steps: steps(a, c.does("b", nil, a))})
	execute(t, e.Pool(), `CREATE FUNCTION odd() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'odd' USING ERRCODE = 'XX777'; END $$`)
	execute(t, e.Pool(), `CREATE TRIGGER odd BEFORE INSERT ON pgsagaz.step FOR EACH ROW WHEN (NEW.step = 'b') EXECUTE FUNCTION odd()`)
	workWith(t, e, jobs.Config{})
	id := start(t, e, fault{}, nil).ID
	until(t, func() bool { return strings.Contains(c.String(), "b") })
	time.Sleep(2 * time.Second)
	if n := strings.Count(c.String(), "b"); n > 10 {
		t.Errorf("b was called %d times in 2 s", n)
	}
	execute(t, e.Pool(), `DROP TRIGGER odd ON pgsagaz.step`)
	wait(t, e, id)
	if n := queryInt(t, e.Pool(), `SELECT count(*) FROM pgsagaz.river_job`); n > 20 {
		t.Errorf("%d jobs", n)
	}
}

// Workers that die while a step waits, each after it has come a bit further, do not make it fail.
func TestWorkersThatDieWhileAStepWaits(t *testing.T) {
	c := &calls{}
	w, by := c.approved("w")
	p := newPlay(t, pgengine.Saga[fault]{Steps: steps(w, by)}, c)
	id := p.Start(fault{})
	p.Settle()
	for range 12 { // a worker that has taken the lane, and dies
		execute(t, p.Engine.Pool(), `UPDATE pgsagaz.lane SET worker = 'nobody', token = 1, run_at = pgsagaz.now()`)
		p.Settle()
	}
	p.signal(id, approval{"Ann"})
	p.Settle()
	p.want(id, pgengine.Completed, "w:Ann")
}

// A child whose code is elsewhere, and that could not be taken back, is not started: its parent would wait for ever.
func TestAChildWithAPivotWhoseCodeIsElsewhere(t *testing.T) {
	t.Parallel()
	c := &calls{}
	a := c.does("a", nil)
	trip := child{Name: "trip", After: steps(a), Input: oneLeg(leg{N: 1})}
	inner := pgengine.Activity[leg, string]{Name: "k", Pivot: true, Do: func(context.Context, legCall) (string, error) { c.add("leg"); return "", nil }}
	pool := sqltest.New(t)
	there := engine(t, pool, pgengine.Saga[leg]{Version: 1, Output: inner, Steps: pgengine.Steps[leg](inner)})
	register(t, there)
	workWith(t, there, jobs.Config{})
	here := engine(t, pool, pgengine.Saga[fault]{Version: 1, Steps: steps(a, trip, c.only("b", refuse, trip))})
	workWith(t, here, jobs.Config{})
	id := start(t, here, fault{}, nil).ID
	until(t, func() bool {
		s, _ := here.Get(t.Context(), id)
		return s.State == pgengine.Compensated || len(s.Children) > 0 && s.Children[0].State == pgengine.Completed
	})
	if s, _ := here.Get(t.Context(), id); s.State != pgengine.Compensated || c.String() != "a -a" {
		t.Errorf("%s after %s, cause %+v", s.State, c, s.Cause)
	}
}
