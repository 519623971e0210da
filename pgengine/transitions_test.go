package pgengine_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql"
)

// logTransitions has the database note each change of a saga's state.
const logTransitions = `
CREATE TABLE went (way text NOT NULL);
CREATE FUNCTION went() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO went VALUES (OLD.state || ' to ' || NEW.state);
	RETURN NULL;
END
$$;
CREATE TRIGGER went AFTER UPDATE ON pgsagaz.saga FOR EACH ROW WHEN (OLD.state <> NEW.state) EXECUTE FUNCTION went();`

// scene is a saga that is made to go one way.
type scene struct {
	play
	c *calls
}

// on sets the scene: nothing has begun.
func (s *scene) on(saga []pgengine.Step[fault], more ...pgengine.Definition) {
	s.t.Helper()
	s.play = newPlay(s.t, pgengine.Saga[fault]{Steps: saga}, s.c, more...)
	if _, err := s.Engine.Pool().Exec(s.t.Context(), logTransitions); err != nil {
		s.t.Fatal(err)
	}
}

func (s *scene) run() (id string) {
	s.t.Helper()
	id = s.Start(fault{})
	s.Run()
	return id
}

// others lets everything else go on, from inside a step.
func (s *scene) others() {
	for s.Work() { //nolint:revive // it works off what there is
	}
}

// then is a step that does something to the saga before it returns.
func (s *scene) then(name string, what func(id string) error, after ...pgengine.Step[fault]) act[string] {
	a := s.c.does(name, nil, after...)
	a.Do = func(_ context.Context, k faultCall) (string, error) {
		s.c.add(name)
		return name + "'s", what(k.SagaID)
	}
	return a
}

// cancels turns the saga back under the step, which then ends as err says.
func (s *scene) cancels(err error) func(string) error {
	return func(id string) error {
		if s.Get(id).State == pgengine.Running {
			s.cancel(id)
			s.others()
		}
		return err
	}
}

// overtaken is a first step whose worker is taken for dead during the call. Others repeat it, in vain, so that the
// saga is compensated; then the call returns after all.
func (s *scene) overtaken(meanwhile func(id string)) act[string] {
	first := true
	return s.then("a", func(id string) error {
		if !first {
			return pgengine.Terminal(errNo)
		}
		first = false
		if _, err := s.Engine.Pool().Exec(s.t.Context(), sql.SweepDead, "another", time.Second); err != nil {
			s.t.Error(err)
		}
		s.others()
		meanwhile(id)
		if state := s.Get(id).State; state != pgengine.Compensated {
			s.t.Errorf("the saga is %s before the late result", state)
		}
		return nil
	})
}

// broken is an undo that fails once and for all, until it is mended.
func broken(a act[string], mended *bool) act[string] {
	undo := a.Undo
	a.Undo = func(ctx context.Context, k faultCall, r string) error {
		if !*mended {
			return pgengine.Terminal(errNo)
		}
		return undo(ctx, k, r)
	}
	return a
}

var ways = map[string]func(s *scene){
	"running to completed": func(s *scene) {
		s.on(steps(s.c.does("a", nil)))
		s.run()
	},
	"running to compensated": func(s *scene) { // there is nothing to undo
		s.on(steps(s.c.does("a", refuse)))
		s.run()
	},
	"running to compensating": func(s *scene) {
		a := s.c.does("a", nil)
		s.on(steps(a, s.c.does("b", refuse, a)))
		s.run()
	},
	"compensating to compensated": func(s *scene) {
		a := s.c.does("a", nil)
		s.on(steps(a, s.c.does("b", refuse, a)))
		s.run()
	},
	"running to failing": func(s *scene) { // a has begun when b fails
		s.on(steps(s.then("a", func(string) error { s.others(); return nil }), s.c.does("b", refuse)))
		s.run()
	},
	"failing to compensating": func(s *scene) {
		s.on(steps(s.then("a", func(string) error { s.others(); return nil }), s.c.does("b", refuse)))
		s.run()
	},
	"failing to compensated": func(s *scene) {
		s.on(steps(s.then("a", func(string) error { s.others(); return pgengine.Terminal(errNo) }), s.c.does("b", refuse)))
		s.run()
	},
	"failing to running": func(s *scene) { // a cancel waits for the pivot, which comes through
		pay := s.then("pay", s.cancels(nil))
		pay.Pivot, pay.Undo, pay.UndoRetry = true, nil, pgengine.Retry{}
		s.on(steps(pay, s.c.only("b", nil, pay)))
		s.run()
	},
	"failing to completed": func(s *scene) {
		pay := s.then("pay", s.cancels(nil))
		pay.Pivot, pay.Undo, pay.UndoRetry = true, nil, pgengine.Retry{}
		s.on(steps(pay))
		s.run()
	},
	"failing to stuck": func(s *scene) { // nobody knows whether it came through
		pay := s.then("pay", s.cancels(errNo))
		pay.Pivot, pay.Undo, pay.UndoRetry, pay.Retry = true, nil, pgengine.Retry{}, once
		s.on(steps(pay))
		s.run()
	},
	"running to stuck": func(s *scene) { // past the pivot
		pay := s.c.pay(nil)
		s.on(steps(pay, s.c.only("b", refuse, pay)))
		s.run()
	},
	"compensating to stuck": func(s *scene) {
		a := broken(s.c.does("a", nil), new(bool))
		b := s.c.does("b", nil, a)
		s.on(steps(a, b, s.c.does("c", refuse, b)))
		s.run()
	},
	"stuck to running": func(s *scene) { // what is past the pivot is tried again
		pay := s.c.pay(nil)
		mended := false
		b := s.c.only("b", func(faultCall) error {
			if !mended {
				return refuse(faultCall{})
			}
			return nil
		}, pay)
		s.on(steps(pay, b))
		id := s.run()
		mended = true
		s.retry(id)
		s.Run()
	},
	"stuck to completed": func(s *scene) {
		pay := s.c.pay(nil)
		s.on(steps(pay, s.c.only("b", refuse, pay)))
		id := s.run()
		s.resolve(id, "b", pgengine.Resolution{Outcome: pgengine.OutcomeDone, Result: []byte(`"by hand"`)})
		s.Run()
	},
	"stuck to failing": func(s *scene) { // a pivot in doubt is tried again
		pay := s.c.pay(failsTimes(1))
		pay.Retry = once
		s.on(steps(pay))
		id := s.run()
		s.retry(id)
		s.Run()
	},
	"stuck to compensating": func(s *scene) {
		mended := false
		a := broken(s.c.does("a", nil), &mended)
		s.on(steps(a, s.c.does("b", refuse, a)))
		id := s.run()
		mended = true
		s.retry(id)
		s.Run()
	},
	"stuck to compensated": func(s *scene) {
		a := broken(s.c.does("a", nil), new(bool))
		s.on(steps(a, s.c.does("b", refuse, a)))
		id := s.run()
		s.resolve(id, "a", pgengine.Resolution{Outcome: pgengine.OutcomeDone})
		s.Run()
	},
	"completed to compensating": func(s *scene) { // the parent takes its child back
		trip := child{Name: "trip", Input: oneLeg(leg{N: 1})}
		s.on(steps(trip, s.c.does("b", refuse, trip)), legs(s.c))
		s.run()
	},
	"completed to compensated": func(s *scene) { // it has nothing to undo
		trip := child{Name: "trip", Input: oneLeg(leg{N: 1})}
		s.on(steps(trip, s.c.does("b", refuse, trip)), pgengine.Saga[leg]{Version: 1, Steps: pgengine.Steps[leg](pgengine.TxStep[leg, int]{
			Name: "a", Do: func(context.Context, pgx.Tx, legCall) (int, error) { return 1, nil },
		})})
		s.run()
	},
	"compensated to compensating": func(s *scene) {
		s.on(steps(s.overtaken(func(string) {})))
		s.run()
	},
	"compensated to stuck": func(s *scene) { // and an operator has to undo it once more
		a := s.overtaken(func(id string) {
			s.resolve(id, "a", pgengine.Resolution{Outcome: pgengine.OutcomeDone})
			s.others()
		})
		a.Undo, a.UndoRetry, a.ManualUndo = nil, pgengine.Retry{}, true
		s.on(steps(a))
		s.run()
	},
}

// TestTransitions has a saga go each way there is from one state to another.
func TestTransitions(t *testing.T) {
	for way, happen := range ways {
		t.Run(way, func(t *testing.T) {
			s := &scene{c: &calls{}}
			s.t = t
			happen(s)
			rows, err := s.Engine.Pool().Query(t.Context(), "SELECT way FROM went")
			if err != nil {
				t.Fatal(err)
			}
			went, err := pgx.CollectRows(rows, pgx.RowTo[string])
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(" "+strings.Join(went, ", ")+",", " "+way+",") {
				t.Errorf("the sagas went from %q, after %s", went, s.c)
			}
		})
	}
}
