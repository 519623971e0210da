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
)

// A saga that has ended is restarted: what came before is taken over, with the keys of its effects, and undone by the new
// one.
func TestRestart(t *testing.T) {
	for _, archived := range []bool{false, true} {
		t.Run(fmt.Sprintf("archived %v", archived), func(t *testing.T) {
			c := &calls{}
			fails := false
			var keys []string
			a, side := c.does("a", nil), c.only("side", nil)
			undo := a.Undo
			a.Undo = func(ctx context.Context, k faultCall, r string) error {
				keys = append(keys, k.DoKey(), k.Key())
				return undo(ctx, k, r)
			}
			b := c.write("b", nil, a)
			z := c.does("z", func(faultCall) error {
				if fails {
					return pgengine.Terminal(errNo)
				}
				return nil
			}, b, side)
			p := newPlay(t, pgengine.Saga[fault]{Steps: steps(a, side, b, z), Output: z}, c)
			var id string
			p.Tx(func(tx pgx.Tx) error {
				s, err := p.Engine.Start(t.Context(), tx, fault{Note: "n"}, &pgengine.StartOptions{Key: "k", Tags: []string{"blue"}})
				id = s.ID
				return err
			})
			if err := p.refused(func(ctx context.Context, tx pgx.Tx) error {
				_, err := p.Engine.Restart(ctx, tx, id, []string{"z"}, ann)
				return err
			}); !errors.Is(err, pgengine.ErrNoRestart) || !strings.Contains(err.Error(), "has not ended") {
				t.Error(err)
			}
			p.Run()
			*c = calls{}
			if archived {
				p.Advance(48 * time.Hour)
				if p.archive() != 1 {
					t.Fatal("it is not archived")
				}
			}
			again := p.restart(id, "b")
			if once := p.restart(id, "b"); !once.Existed || once.ID != again.ID || again.Existed {
				t.Errorf("restarted twice: %+v, %+v", again, once)
			}
			if err := p.refused(func(ctx context.Context, tx pgx.Tx) error {
				_, err := p.Engine.Restart(ctx, tx, id, []string{"z"}, ann)
				return err
			}); !errors.Is(err, pgengine.ErrNoRestart) || !strings.Contains(err.Error(), again.ID) {
				t.Error(err)
			}
			p.Run()
			s := p.want(again.ID, pgengine.Completed, "b z")
			if s.RestartOf != id || p.Get(id).RestartedAs != again.ID || len(s.Tags) != 1 || s.Key != "" || string(s.Input) != string(p.Get(id).Input) {
				t.Errorf("the new one %+v\nthe old one %+v", s, p.Get(id))
			}
			for _, step := range s.Steps {
				if taken := step.Step == "a" || step.Step == "side"; taken != (step.Origin == id) {
					t.Errorf("%+v", step)
				}
			}
			p.audited(id, "restart b obeyed")
			p.audited(again.ID, "restart b obeyed")

			// The next one fails, and undoes what it has taken over, by the key of the effect.
			fails = true
			*c = calls{}
			third := p.restart(again.ID, "z")
			p.Run()
			s = p.Get(third.ID)
			if got := c.String(); s.State != pgengine.Compensated || got != "z -b -a" {
				t.Errorf("the third is %s after %q", s.State, got)
			}
			if want := fmt.Sprintf("[%s/a %s/a/undo]", id, id); fmt.Sprint(keys) != want {
				t.Errorf("a is undone by the keys %v, want %s", keys, want)
			}
			err := p.refused(func(ctx context.Context, tx pgx.Tx) error {
				_, err := p.Engine.Restart(ctx, tx, third.ID, []string{"z"}, ann)
				return err
			})
			if !errors.Is(err, pgengine.ErrNoRestart) || !strings.Contains(err.Error(), "was undone, so that there is nothing to take over") {
				t.Error(err)
			}
		})
	}
}

// What was left standing can be taken over: a saga is ended without undoing, and goes on as another.
func TestRestartOfWhatWasAbandoned(t *testing.T) {
	c := &calls{}
	broken := true
	a := c.does("a", nil)
	trip := child{Name: "trip", After: steps(a), Input: oneLeg(leg{N: 1})}
	b := c.does("b", func(faultCall) error {
		if broken {
			return errNo
		}
		return nil
	}, a)
	b.Retry = seldom
	p := newPlay(t, pgengine.Saga[fault]{Steps: steps(a, trip, b)}, c, legs(c))
	id := p.Start(fault{})
	p.Settle()
	p.abandon(id)
	p.Settle()
	s := p.Get(id)
	if s.State != pgengine.Compensated {
		t.Fatalf("%+v", s)
	}
	for from, said := range map[string]string{
		"b": "the children of step trip are the old saga's", "trip": "nobody knows whether what step b did stands", "none": "no step \"none\"", "": "name the step",
	} {
		err := p.refused(func(ctx context.Context, tx pgx.Tx) error {
			_, err := p.Engine.Restart(ctx, tx, id, strings.Fields(from), ann)
			return err
		})
		if !errors.Is(err, pgengine.ErrNoRestart) || !strings.Contains(err.Error(), said) {
			t.Errorf("from %q: %v", from, err)
		}
	}
	if err := p.refused(func(ctx context.Context, tx pgx.Tx) error {
		_, err := p.Engine.Restart(ctx, tx, s.Children[0].ID, []string{"a"}, ann)
		return err
	}); !strings.Contains(err.Error(), "a child of saga "+id) {
		t.Error(err)
	}
	broken = false
	again := p.restart(id, "b", "trip")
	p.Run()
	s = p.Get(again.ID)
	if s.State != pgengine.Completed || s.Steps[0].Step != "a" || s.Steps[0].Origin != id {
		t.Errorf("%+v", s)
	}
}

// An undo that was passed over after an attempt of it may have had its effect: what it was for can't be taken over.
func TestRestartOverARefund(t *testing.T) {
	c := &calls{}
	charge := c.does("charge", nil)
	charge.Undo = func(context.Context, faultCall, string) error {
		c.add("refund")
		return errNo // it went through, and its answer got lost
	}
	charge.UndoRetry = seldom
	ship := c.only("ship", refuse, charge)
	p := newPlay(t, pgengine.Saga[fault]{Steps: steps(charge, ship)}, c)
	id := p.Start(fault{})
	p.Settle()
	p.abandon(id)
	p.Settle()
	p.want(id, pgengine.Compensated, "charge ship refund")
	err := p.refused(func(ctx context.Context, tx pgx.Tx) error {
		_, err := p.Engine.Restart(ctx, tx, id, []string{"ship"}, ann)
		return err
	})
	if !errors.Is(err, pgengine.ErrNoRestart) || !strings.Contains(err.Error(), "nobody knows whether what step charge did stands") {
		t.Error(err)
	}
}

// The successor is a saga like any other: it stands in line for its saga's Limit, and its OnStart is called.
func TestARestartedSagaStandsInLine(t *testing.T) {
	t.Parallel()
	saga := hooked(nil)
	saga.Limit = pgengine.Limit[guest]{Concurrency: 1}
	s := hookBox(t, saga)
	bad := s.Start(guest{Name: "x", Bad: true})
	s.Run()
	ahead := s.Start(guest{Name: "y"})
	var again string
	s.Tx(func(tx pgx.Tx) error {
		started, err := s.Engine.Restart(t.Context(), tx, bad, []string{"a"}, ann)
		again = started.ID
		return err
	})
	s.Run()
	if got := noted(t, s, again); !strings.HasPrefix(got, "running, do a done, do b done, do c failed") {
		t.Errorf("noted %s", got)
	}
	if got := query[bool](t, s.Engine.Pool(), `SELECT max(n.id) FILTER (WHERE saga = $1) < min(n.id) FILTER (WHERE saga = $2)
		OR max(n.id) FILTER (WHERE saga = $2) < min(n.id) FILTER (WHERE saga = $1) FROM noted n`, ahead, again); !got {
		t.Error("the two ran at once, and the limit is one")
	}
	if got := noted(t, s, ahead); !strings.HasSuffix(got, "completed") {
		t.Errorf("the other noted %s", got)
	}
}

// Of a successor that is cancelled before it begins, what it took over is undone.
func TestARestartedSagaThatNeverBegins(t *testing.T) {
	c := &calls{}
	a := c.does("a", nil)
	p := newPlay(t, pgengine.Saga[fault]{Steps: steps(a, c.only("b", nil, a))}, c)
	id := p.Start(fault{})
	p.Run()
	*c = calls{}
	again := p.restart(id, "b")
	p.ask(func(ctx context.Context, tx pgx.Tx) error { return p.Engine.Cancel(ctx, tx, again.ID, ann) })
	execute(t, p.Engine.Pool(), `UPDATE pgsagaz.river_job SET scheduled_at = scheduled_at + interval '1 hour', state = 'scheduled'
		WHERE args ->> 'lane' <> '0'`) // the command is obeyed first
	p.Run()
	p.want(again.ID, pgengine.Compensated, "-a")
}

// What took effect once more, after it had been undone, is not taken over: its undo would go by the key of the first.
func TestRestartOverALateResult(t *testing.T) {
	c := &calls{}
	charge := c.does("charge", nil)
	ship := c.only("ship", refuse, charge)
	p := newPlay(t, pgengine.Saga[fault]{Steps: steps(charge, ship)}, c)
	id := p.Start(fault{})
	p.Run()
	p.want(id, pgengine.Compensated, "charge ship -charge")
	// As it is left by a result that came late, and an operator who then left the undo out.
	execute(t, p.Engine.Pool(), `
		INSERT INTO pgsagaz.step (saga_id, step, direction, generation, outcome, attempt, result, started_at, ended_at)
		SELECT saga_id, step, d::pgsagaz.direction, 2, o::pgsagaz.outcome, 1, r::json, ended_at + interval '1 second', ended_at + interval '2 seconds'
		FROM pgsagaz.step, (VALUES ('do', 'done', '"late"'), ('undo', 'skipped', NULL)) v(d, o, r) WHERE step = 'charge' AND direction = 'do'`)
	err := p.refused(func(ctx context.Context, tx pgx.Tx) error {
		_, err := p.Engine.Restart(ctx, tx, id, []string{"ship"}, ann)
		return err
	})
	if !errors.Is(err, pgengine.ErrNoRestart) || !strings.Contains(err.Error(), "step charge took effect after it had been undone") {
		t.Error(err)
	}
	if s := p.restart(id, "charge"); s.Existed { // from there nothing is taken over
		t.Errorf("%+v", s)
	}
	p.Run()
}

// A saga that moves into the archive while somebody restarts it is read whole, there or here: what stands is taken over.
func TestRestartBesideTheArchiver(t *testing.T) {
	c := &calls{}
	a := c.does("a", nil)
	p := newPlay(t, pgengine.Saga[fault]{Steps: steps(a, c.only("b", nil, a))}, c)
	id := p.Start(fault{})
	p.Run()
	*c = calls{}
	pool := p.Engine.Pool()
	p.Advance(48 * time.Hour)
	execute(t, pool, `SELECT pgsagaz.archive_partition((ended_at AT TIME ZONE 'UTC')::date) FROM pgsagaz.saga`)
	first, err := pool.Begin(t.Context()) // of two who restart it, the second waits for the first
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Engine.Restart(t.Context(), first, id, []string{"b"}, ann); err != nil {
		t.Fatal(err)
	}
	second := make(chan error, 1)
	var again pgengine.Started
	go func() {
		second <- pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) (err error) {
			again, err = p.Engine.Restart(t.Context(), tx, id, []string{"b"}, ann)
			return err
		})
	}()
	for queryInt(t, pool, `SELECT count(*) FROM pg_locks WHERE NOT granted`) == 0 {
		time.Sleep(time.Millisecond)
	}
	archived := make(chan int, 1)
	go func() { archived <- p.archive() }()
	time.Sleep(50 * time.Millisecond) // it moves the saga, or waits
	if err := first.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-second; err != nil {
		t.Fatal(err)
	}
	<-archived
	p.Run()
	p.want(again.ID, pgengine.Completed, "b")
}

// A saga that has taken over its pivot goes forward: with a Limit whose Key fails, without a place.
func TestARestartPastThePivotNeedsNoPlace(t *testing.T) {
	c := &calls{}
	fails := false
	a := c.only("a", nil)
	a.Pivot = true
	saga := pgengine.Saga[fault]{Steps: steps(a, c.only("b", nil, a)), Limit: pgengine.Limit[fault]{Concurrency: 1, Key: func(faultCall) string {
		if fails {
			panic("not now")
		}
		return "x"
	}}}
	p := newPlay(t, saga, c)
	id := p.Start(fault{})
	p.Run()
	*c = calls{}
	fails = true
	again := p.restart(id, "b")
	p.Run()
	p.want(again.ID, pgengine.Completed, "b")
}
