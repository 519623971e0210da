package pgengine_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/pgengine"
	"github.com/pgsagaz/pgsagaz/sql"
)

// logTransitions has the database note each change of a saga's state, and of a step's as docs/semantics.md names them:
// what its lane is at, and what has come of it. A lane that goes away without an outcome leaves its step open.
const logTransitions = `
CREATE TABLE went (way text NOT NULL);
CREATE FUNCTION saga_went() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO went VALUES (OLD.state || ' to ' || NEW.state);
	RETURN NULL;
END
$$;
CREATE TRIGGER went AFTER UPDATE ON pgsagaz.saga FOR EACH ROW WHEN (OLD.state <> NEW.state) EXECUTE FUNCTION saga_went();

CREATE TABLE at_step (saga uuid, step text, generation integer, direction text, state text, dropped boolean NOT NULL DEFAULT false,
	PRIMARY KEY (saga, step, generation, direction));
-- An undo begins where the step's own outcome left it, which may be written later in the same transaction: was is null.
CREATE TABLE stepped (saga uuid, step text, generation integer, was text, became text NOT NULL);

CREATE FUNCTION lane_state(l pgsagaz.lane) RETURNS text LANGUAGE sql AS $$
	SELECT CASE WHEN l.direction = 'undo' THEN 'undo ' ELSE '' END ||
	       CASE WHEN l.worker IS NOT NULL THEN 'running' WHEN l.waits = 'signal' THEN 'awaiting' WHEN l.waits = 'sleep' THEN 'sleeping'
	            WHEN l.waits = 'child' THEN 'child' WHEN l.run_at = 'infinity' THEN 'stuck' ELSE 'waiting' END
$$;
CREATE FUNCTION outcome_state(s pgsagaz.step) RETURNS text LANGUAGE sql AS $$
	SELECT CASE WHEN s.direction = 'do' AND s.in_doubt THEN 'in doubt'
	            WHEN s.direction = 'do' OR s.outcome = 'nothing' THEN s.outcome::text
	            ELSE CASE s.outcome WHEN 'done' THEN 'undone' WHEN 'failed' THEN 'given up' ELSE 'undo skipped' END END
$$;
CREATE FUNCTION moved(p_saga uuid, p_step text, p_generation integer, p_direction text, p_state text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	before text := (SELECT state FROM at_step WHERE saga = p_saga AND step = p_step AND generation = p_generation AND direction = p_direction);
BEGIN
	IF before IS DISTINCT FROM p_state THEN
		INSERT INTO stepped VALUES (p_saga, p_step, p_generation, CASE WHEN p_direction = 'do' THEN coalesce(before, 'open') ELSE before END, p_state);
	END IF;
	INSERT INTO at_step VALUES (p_saga, p_step, p_generation, p_direction, p_state)
		ON CONFLICT (saga, step, generation, direction) DO UPDATE SET state = p_state, dropped = false;
END
$$;
CREATE FUNCTION lane_went() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF TG_OP <> 'INSERT' AND OLD.step <> '' AND (TG_OP = 'DELETE' OR (OLD.step, OLD.direction, OLD.generation) <> (NEW.step, NEW.direction, NEW.generation)) THEN
		UPDATE at_step SET dropped = true -- unless its outcome is there, or comes with this transaction
			WHERE saga = OLD.saga_id AND step = OLD.step AND generation = OLD.generation AND direction = OLD.direction::text AND state = lane_state(OLD);
	END IF;
	IF TG_OP <> 'DELETE' AND NEW.step <> '' THEN
		PERFORM moved(NEW.saga_id, NEW.step, NEW.generation, NEW.direction::text, lane_state(NEW));
	END IF;
	RETURN NULL;
END
$$;
CREATE TRIGGER went AFTER INSERT OR UPDATE OR DELETE ON pgsagaz.lane FOR EACH ROW EXECUTE FUNCTION lane_went();
CREATE FUNCTION step_went() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	PERFORM moved(NEW.saga_id, NEW.step, NEW.generation, NEW.direction::text, outcome_state(NEW));
	RETURN NULL;
END
$$;
CREATE TRIGGER went AFTER INSERT ON pgsagaz.step FOR EACH ROW EXECUTE FUNCTION step_went();`

const (
	sagaWays = `SELECT way FROM went`
	stepWays = `
		SELECT coalesce(w.was, outcome_state(s)) || ' to ' || w.became
		FROM stepped w LEFT JOIN pgsagaz.step s ON s.saga_id = w.saga AND s.step = w.step AND s.generation = w.generation AND s.direction = 'do'
		UNION SELECT state || ' to open' FROM at_step WHERE dropped`
)

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
	"completed to stuck": func(s *scene) { // an operator has to undo it
		trip := child{Name: "trip", Input: oneLeg(leg{N: 1})}
		s.on(steps(trip, s.c.does("b", refuse, trip)), pgengine.Saga[leg]{Version: 1, Steps: pgengine.Steps[leg](pgengine.TxStep[leg, int]{
			Name: "a", ManualUndo: true, Do: func(context.Context, pgx.Tx, legCall) (int, error) { return 1, nil },
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
			if went := s.went(sagaWays); !slices.Contains(went, way) {
				t.Errorf("the sagas went from %q, after %s", went, s.c)
			}
		})
	}
}

func (s *scene) went(ways string) []string {
	s.t.Helper()
	rows, err := s.Engine.Pool().Query(s.t.Context(), ways)
	if err != nil {
		s.t.Fatal(err)
	}
	went, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		s.t.Fatal(err)
	}
	return went
}

// more are scenes in which steps go ways that they do not go in ways.
var more = map[string]func(s *scene){
	"an operator skips what waits": func(s *scene) {
		may := s.c.only("may", fails)
		may.Optional, may.Retry = true, seldom
		nap := pgengine.Sleep[fault]{Name: "nap", For: 1000 * time.Hour}
		w, _ := s.c.approved("w")
		w.Optional = true
		s.on(steps(may, nap, w))
		id := s.Start(fault{})
		s.Settle()
		for _, step := range []string{"may", "nap", "w"} {
			s.skip(id, step)
		}
		s.Run()
	},
	"an operator ends it without undoing": func(s *scene) {
		a := s.c.does("a", nil)
		doubt := s.c.does("doubt", fails, a)
		doubt.Retry = seldom
		s.on(steps(a, doubt))
		id := s.Start(fault{})
		s.Settle()
		s.abandon(id)
		s.Run()
	},
	"an operator ends its undoing": func(s *scene) {
		a := s.c.does("a", nil)
		a.UndoRetry, a.Undo = seldom, func(context.Context, faultCall, string) error { return errNo }
		s.on(steps(a, s.c.does("b", refuse, a)))
		id := s.Start(fault{})
		s.Settle()
		s.abandon(id)
		s.Run()
	},
	"an operator ends it while its children turn back": func(s *scene) {
		stuck := legs(s.c)
		first := stuck.Steps[0].(pgengine.Activity[leg, int])
		first.UndoRetry, first.Undo = once, func(context.Context, legCall, int) error { return errNo }
		stuck.Steps, stuck.Output = pgengine.Steps[leg](first), nil
		trip := child{Name: "trip", Input: oneLeg(leg{N: 1})}
		s.on(steps(trip, s.c.does("b", refuse, trip)), stuck)
		id := s.Start(fault{})
		s.Settle()
		s.abandon(id)
		s.Settle()
		s.abandon(s.Get(id).Children[0].ID)
		s.Run()
	},
	"retries": func(s *scene) {
		a := s.c.write("a", nil)
		b := s.c.does("b", failsTimes(1), a)
		s.on(steps(a, b))
		s.run()
	},
	"skips": func(s *scene) {
		a := s.c.does("a", nil)
		a.When = func(faultCall) bool { return false }
		s.on(steps(a, s.c.does("b", nil, a)))
		s.run()
	},
	"waits": func(s *scene) {
		w := pgengine.Await[fault, approval]{Name: "w", Timeout: time.Hour, OnTimeout: func(context.Context, faultCall) (approval, error) { return approval{}, nil }}
		n := pgengine.Sleep[fault]{Name: "n", After: steps(w), For: time.Hour}
		s.on(steps(w, n))
		s.run()
	},
	"waits that are not over when it turns back": func(s *scene) {
		w := pgengine.Await[fault, approval]{Name: "w"}
		n := pgengine.Sleep[fault]{Name: "n", For: 2 * time.Hour}
		trip := child{Name: "trip", Input: oneLeg(leg{N: 1})}
		late := s.c.does("late", fails) // its next attempt is in an hour
		late.Retry = pgengine.Retry{Initial: time.Hour, Max: time.Hour}
		none := s.c.write("none", fails)
		none.Retry = late.Retry
		slow := pgengine.Saga[leg]{Version: 1, Steps: pgengine.Steps[leg](pgengine.Sleep[leg]{Name: "nap", For: time.Hour})}
		s.on(steps(w, n, trip, late, none), slow)
		id := s.Start(fault{})
		s.Settle()
		s.cancel(id)
		s.Run()
	},
	"a transaction that comes too late": func(s *scene) {
		a := s.then("a", s.cancels(nil))
		tx := txs[string]{Name: "a", Retry: quick, Do: func(ctx context.Context, _ pgx.Tx, k faultCall) (string, error) { return a.Do(ctx, k) }}
		root := s.c.does("root", nil)
		tx.After = steps(root)
		s.on(steps(root, tx, s.c.does("b", nil, root)))
		s.run()
	},
	"a call in doubt": func(s *scene) {
		a := s.c.does("a", nil)
		s.on(steps(a, s.c.does("b", fails, a)))
		s.run()
	},
	"a call in doubt that never was": func(s *scene) {
		a := s.c.does("a", fails)
		a.Lookup = func(context.Context, faultCall) (string, bool, error) { return "", false, nil }
		s.on(steps(a))
		s.run()
	},
	"an undo that is tried again": func(s *scene) {
		a := s.c.does("a", nil)
		a.UndoRetry, a.Undo = quick, func(_ context.Context, k faultCall, _ string) error {
			if k.Attempt == 1 {
				return errNo
			}
			return nil
		}
		s.on(steps(a, s.c.does("b", refuse, a)))
		s.run()
	},
	"undos that give up": func(s *scene) {
		a := s.c.does("a", nil)
		skips := broken(s.c.does("b", nil, a), new(bool))
		skips.OnUndoFailure = pgengine.UndoSkip
		s.on(steps(a, skips, s.c.does("c", refuse, skips)))
		s.run()
	},
	"undos in other lanes": func(s *scene) {
		root := s.c.does("root", nil)
		a, b := s.c.does("a", nil, root), s.c.does("b", nil, root)
		unsure := s.c.does("unsure", fails, root)
		hand := s.c.only("hand", fails, root)
		hand.ManualUndo, hand.Optional, unsure.Optional = true, true, true
		s.on(steps(root, a, b, unsure, hand, s.c.does("c", refuse, a, b, unsure, hand)))
		id := s.run()
		s.resolve(id, "hand", pgengine.Resolution{Outcome: pgengine.OutcomeSkipped})
		s.Run()
	},
	"an operator skips and fails": func(s *scene) {
		pay := s.c.pay(fails)
		pay.Retry = once
		s.on(steps(pay))
		id := s.run()
		s.resolve(id, "pay", pgengine.Resolution{Outcome: pgengine.OutcomeFailed})
		s.Run()
	},
	"an operator goes on without it": func(s *scene) {
		pay := s.c.pay(nil)
		b := s.c.only("b", refuse, pay)
		b.Optional = true
		b.Recover = func(context.Context, faultCall, error) (pgengine.Recovery[string], error) {
			return pgengine.Recovery[string]{}, nil
		}
		s.on(steps(pay, b))
		id := s.run()
		s.resolve(id, "b", pgengine.Resolution{Outcome: pgengine.OutcomeSkipped})
		s.Run()
	},
}

// TestStepTransitions has steps go each way that docs/semantics.md knows, and no other.
func TestStepTransitions(t *testing.T) {
	known := map[string]bool{}
	for _, row := range semantics(t).steps {
		known[row.from+" to "+row.to] = true
	}
	var mu sync.Mutex
	seen := map[string]bool{}
	t.Cleanup(func() { // once all scenes are over
		for way := range known {
			if !seen[way] && !t.Failed() {
				t.Errorf("no step went from %s", way)
			}
		}
	})
	for _, scenes := range []map[string]func(*scene){ways, more} {
		for name, happen := range scenes {
			t.Run(name, func(t *testing.T) {
				s := &scene{c: &calls{}}
				s.t = t
				happen(s)
				mu.Lock()
				defer mu.Unlock()
				for _, way := range s.went(stepWays) {
					seen[way] = true
					if !known[way] {
						t.Errorf("a step went from %s, which docs/semantics.md does not know, after %s", way, s.c)
					}
				}
			})
		}
	}
}
