package pgengine_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/pgsagaz/pgsagaz/jobs"
	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql/sqltest"
)

type (
	approval struct{ By string }
	refusal  struct{ Why string }
	nameless struct{}
	brokenly struct{ C chan int }
)

// keyed is an approval that may be sent twice.
type keyed struct {
	approval
	Key string
}

func (k keyed) SignalKey() string { return k.Key }

func (approval) SignalName() string { return "approval" }
func (refusal) SignalName() string  { return "refusal" }
func (nameless) SignalName() string { return "no name" }
func (brokenly) SignalName() string { return "brokenly" }

// approved awaits an approval, and notes who gave it.
func (c *calls) approved(name string, after ...pgengine.Step[fault]) (pgengine.Await[fault, approval], act[string]) {
	w := pgengine.Await[fault, approval]{Name: name, After: after, Timeout: 24 * time.Hour}
	by := c.only("by-"+name, nil, w)
	by.Do = func(_ context.Context, k faultCall) (string, error) {
		c.add(name + ":" + w.Result(k).By)
		return "", nil
	}
	return w, by
}

func TestAwait(t *testing.T) {
	c := &calls{}
	a := c.does("a", nil)
	w, by := c.approved("w", a)
	p := newPlay(t, pgengine.Saga[fault]{Steps: steps(a, w, by)}, c)

	// The step waits, and the signal comes.
	id := p.Start(fault{})
	p.Settle()
	p.has(p.want(id, pgengine.Running, "a"), "w", pgengine.Do, "awaiting")
	p.signal(id, approval{"Ann"})
	p.signal(id, approval{"Bob"}) // too many: the first counts
	p.Settle()
	s := p.want(id, pgengine.Completed, "a w:Ann")
	if len(s.Signals) != 2 || s.Signals[0].Step != "w" || s.Signals[1].Step != "" {
		t.Errorf("%+v", s.Signals)
	}

	// The signal comes before the saga has begun.
	*c = calls{}
	id = p.Start(fault{})
	p.signal(id, approval{"Early"})
	p.Settle()
	p.want(id, pgengine.Completed, "a w:Early")

	// It never comes.
	*c = calls{}
	id = p.Start(fault{})
	p.Run()
	if s := p.want(id, pgengine.Compensated, "a -a"); s.Cause.Step != "w" || !strings.Contains(s.Cause.Error, "no signal approval came within 24h") {
		t.Errorf("%+v", s.Cause)
	}
	if err := pgx.BeginFunc(t.Context(), p.Engine.Pool(), func(tx pgx.Tx) error {
		return p.Engine.Signal(t.Context(), tx, pgengine.ID(id), approval{"Late"})
	}); !errors.Is(err, pgengine.ErrEnded) {
		t.Errorf("a signal to a saga that has ended: %v", err)
	}
}

func TestAwaitOnTimeout(t *testing.T) {
	for name, test := range map[string]struct {
		instead func(p *play, id string) (approval, error)
		state   pgengine.State
		called  string
	}{
		"another payload": {func(*play, string) (approval, error) { return approval{"nobody"}, nil }, pgengine.Completed, "a late w:nobody"},
		"an error":        {func(*play, string) (approval, error) { return approval{}, pgengine.Terminal(errNo) }, pgengine.Compensated, "a late -a"},
	} {
		t.Run(name, func(t *testing.T) {
			c := &calls{}
			a := c.does("a", nil)
			w, _ := c.approved("w", a)
			var p play
			w.OnTimeout = func(_ context.Context, k faultCall) (approval, error) {
				c.add("late")
				return test.instead(&p, k.SagaID)
			}
			by := c.only("by", nil, w)
			by.Do = func(_ context.Context, k faultCall) (string, error) { c.add("w:" + w.Result(k).By); return "", nil }
			p = newPlay(t, pgengine.Saga[fault]{Steps: steps(a, w, by)}, c)
			id := p.Start(fault{})
			p.Run()
			p.want(id, test.state, test.called)
		})
	}
}

// A signal that comes while OnTimeout runs wins over what that says.
func TestASignalWinsOverOnTimeout(t *testing.T) {
	for _, fails := range []bool{false, true} {
		t.Run(fmt.Sprint("fails ", fails), func(t *testing.T) {
			t.Parallel()
			c := &calls{}
			pool := sqltest.New(t)
			inside, gate := make(chan struct{}), make(chan struct{})
			w, _ := c.approved("w")
			w.Timeout = time.Millisecond
			w.OnTimeout = func(context.Context, faultCall) (approval, error) {
				close(inside)
				<-gate
				if fails {
					return approval{}, pgengine.Terminal(errNo)
				}
				return approval{"nobody"}, nil
			}
			by := c.only("by", nil, w)
			by.Do = func(_ context.Context, k faultCall) (string, error) { c.add("w:" + w.Result(k).By); return "", nil }
			e := engine(t, pool, pgengine.Saga[fault]{Version: 1, Steps: steps(w, by)})
			workWith(t, e, jobs.Config{})
			id := start(t, e, fault{}, nil).ID
			<-inside
			if err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
				return e.Signal(t.Context(), tx, pgengine.ID(id), approval{"Ann"})
			}); err != nil {
				t.Fatal(err)
			}
			until(t, func() bool { s, _ := e.Get(t.Context(), id); return len(s.Signals) == 1 })
			close(gate)
			if got := wait(t, e, id); got[pgengine.Completed] != 1 || c.String() != "w:Ann" {
				t.Errorf("%v, %s", got, c)
			}
		})
	}
}

func TestTwoStepsAwaitOneName(t *testing.T) {
	c := &calls{}
	w1, by1 := c.approved("w1")
	w2, by2 := c.approved("w2", by1)
	p := newPlay(t, pgengine.Saga[fault]{Steps: steps(w1, by1, w2, by2)}, c)
	id := p.Start(fault{})
	p.signal(id, keyed{approval{"Ann"}, "1"})
	p.signal(id, keyed{approval{"Ann again"}, "1"}) // the same one, sent twice
	p.Settle()
	p.want(id, pgengine.Running, "w1:Ann")
	p.signal(id, keyed{approval{"Bob"}, "2"})
	p.Settle()
	p.want(id, pgengine.Completed, "w1:Ann w2:Bob")
}

func TestAnAwaitingSagaTurnsBack(t *testing.T) {
	c := &calls{}
	a := c.does("a", nil)
	w, by := c.approved("w", a)
	p := newPlay(t, pgengine.Saga[fault]{Steps: steps(a, w, by)}, c)
	id := p.Start(fault{})
	p.Settle()
	p.cancel(id)
	p.signal(id, approval{"Ann"})
	p.Run()
	p.want(id, pgengine.Compensated, "a -a")
}

func TestSignalRefuses(t *testing.T) {
	c := &calls{}
	w, by := c.approved("w")
	p := newPlay(t, pgengine.Saga[fault]{Steps: steps(w, by)}, c)
	var id string
	p.Tx(func(tx pgx.Tx) error {
		s, err := p.Engine.Start(t.Context(), tx, fault{}, &pgengine.StartOptions{Key: "T1"})
		id = s.ID
		return err
	})
	for name, test := range map[string]struct {
		to   pgengine.Target
		s    pgengine.Signal
		want error
		says string
	}{
		"a name that no step awaits": {pgengine.ID(id), refusal{"no"}, pgengine.ErrNoSignal, "no step of saga fault version 1 awaits the signal refusal. It awaits: approval"},
		"no such saga":               {pgengine.ID(uuid.NewString()), approval{}, pgengine.ErrNotFound, "no saga"},
		"not an id":                  {pgengine.ID("x"), approval{}, pgengine.ErrNotFound, "not an id"},
		"no such key":                {pgengine.Key[fault]("T2"), approval{}, pgengine.ErrNotFound, `fault with key "T2"`},
		"a name that is none":        {pgengine.ID(id), nameless{}, nil, "must match"},
		"a payload that is none":     {pgengine.ID(id), brokenly{make(chan int)}, nil, "does not marshal"},
		"a payload too large":        {pgengine.ID(id), approval{strings.Repeat("x", 1<<20)}, pgengine.ErrTooLarge, "the limit is 1048576"},
	} {
		err := pgx.BeginFunc(t.Context(), p.Engine.Pool(), func(tx pgx.Tx) error { return p.Engine.Signal(t.Context(), tx, test.to, test.s) })
		if err == nil || test.want != nil && !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	err := pgx.BeginFunc(t.Context(), p.Engine.Pool(), func(tx pgx.Tx) error {
		return p.Engine.SignalJSON(t.Context(), tx, pgengine.ID(id), "approval", json.RawMessage(`{"By"`), nil)
	})
	if err == nil || !strings.Contains(err.Error(), "not JSON") {
		t.Error(err)
	}
	p.Settle()
	p.want(id, pgengine.Running, "")

	// psql's payload is no approval: it is dropped, and the right one still counts.
	p.Tx(func(tx pgx.Tx) error {
		_, err := tx.Exec(t.Context(), `SELECT pgsagaz.signal(pgsagaz.saga_by_key('fault', 'T1'), 'approval', '{"By": 7}')`)
		return err
	})
	p.Tx(func(tx pgx.Tx) error {
		return p.Engine.Signal(t.Context(), tx, pgengine.Key[fault]("T1"), approval{"Ann"})
	})
	p.Settle()
	p.want(id, pgengine.Completed, "w:Ann")
}

func TestASignalThatIsRolledBackWasNeverSent(t *testing.T) {
	c := &calls{}
	w, by := c.approved("w")
	p := newPlay(t, pgengine.Saga[fault]{Steps: steps(w, by)}, c)
	id := p.Start(fault{})
	_ = pgx.BeginFunc(t.Context(), p.Engine.Pool(), func(tx pgx.Tx) error {
		if err := p.Engine.Signal(t.Context(), tx, pgengine.ID(id), approval{"Ann"}); err != nil {
			t.Error(err)
		}
		return errNo
	})
	p.Settle()
	p.want(id, pgengine.Running, "")
}

// Of a signal and a timeout that fall together, one takes effect, and none is lost: 300 sagas, on real
// workers, each with a signal that comes about when its time is up.
func TestSignalAgainstTimeout(t *testing.T) {
	t.Parallel()
	modes(t, func(t *testing.T, cfg jobs.Config) {
		const n = 150
		pool := racePool(t, 20)
		w := pgengine.Await[fault, approval]{Name: "w", Timeout: 30 * time.Millisecond}
		e := engine(t, pool, pgengine.Saga[fault]{Version: 1, Output: w, Steps: steps(w)})
		workWith(t, e, cfg)
		ids := make([]string, n)
		g := errgroup.Group{}
		g.SetLimit(10)
		for i := range ids {
			ids[i] = start(t, e, fault{}, nil).ID
			g.Go(func() error {
				time.Sleep(time.Duration(10+i%60) * time.Millisecond)
				err := pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
					return e.Signal(t.Context(), tx, pgengine.ID(ids[i]), approval{"Ann"})
				})
				if errors.Is(err, pgengine.ErrEnded) {
					err = nil
				}
				return err
			})
		}
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
		got := wait(t, e, ids...)
		taken := queryInt(t, pool, `SELECT count(*) FROM pgsagaz.signal WHERE step = 'w'`)
		if got[pgengine.Completed]+got[pgengine.Compensated] != n || taken != got[pgengine.Completed] {
			t.Errorf("%v, %d signals taken", got, taken)
		}
		t.Logf("%v", got)
	})
}
