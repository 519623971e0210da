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
	"github.com/pgsagaz/pgsagaz/sql"
)

// seldom leaves time to ask something between two attempts.
var seldom = pgengine.Retry{Initial: time.Hour, Max: time.Hour}

var ann = pgengine.By{Actor: "Ann", Reason: "she says so"}

// ask has something asked of a saga, by Ann.
func (p play) ask(what func(context.Context, pgx.Tx) error) {
	p.t.Helper()
	p.Tx(func(tx pgx.Tx) error { return what(p.t.Context(), tx) })
}

// refused has something asked that must not be done, and gives the error.
func (p play) refused(what func(context.Context, pgx.Tx) error) error {
	p.t.Helper()
	err := pgx.BeginFunc(p.t.Context(), p.Engine.Pool(), func(tx pgx.Tx) error { return what(p.t.Context(), tx) })
	if err == nil {
		p.t.Error("it is not refused")
		err = errNo
	}
	return err
}

func (p play) pause(id string) {
	p.t.Helper()
	p.ask(func(ctx context.Context, tx pgx.Tx) error { return p.Engine.Pause(ctx, tx, id, ann) })
}

func (p play) resume(id string) {
	p.t.Helper()
	p.ask(func(ctx context.Context, tx pgx.Tx) error { return p.Engine.Resume(ctx, tx, id, ann) })
}

func (p play) abandon(id string) {
	p.t.Helper()
	p.ask(func(ctx context.Context, tx pgx.Tx) error { return p.Engine.Abandon(ctx, tx, id, ann) })
}

func (p play) skip(id, step string) {
	p.t.Helper()
	p.ask(func(ctx context.Context, tx pgx.Tx) error { return p.Engine.Skip(ctx, tx, id, step, ann) })
}

func (p play) retryStep(id, step string) {
	p.t.Helper()
	p.ask(func(ctx context.Context, tx pgx.Tx) error { return p.Engine.RetryStep(ctx, tx, id, step, ann) })
}

func (p play) restart(id string, from ...string) (s pgengine.Started) {
	p.t.Helper()
	p.ask(func(ctx context.Context, tx pgx.Tx) (err error) {
		s, err = p.Engine.Restart(ctx, tx, id, from, ann)
		return err
	})
	return s
}

// audited compares what the audit says of a saga: verb, step and answer of each entry.
func (p play) audited(id string, want ...string) []pgengine.AuditEntry {
	p.t.Helper()
	entries, err := p.Engine.Audit(p.t.Context(), pgengine.AuditFilter{SagaID: id})
	if err != nil {
		p.t.Fatal(err)
	}
	var got []string
	for _, a := range entries {
		got = append(got, strings.Join(strings.Fields(a.Verb+" "+a.Step+" "+a.Answer+" "+a.Why), " "))
		if a.Actor == "" || a.Login == "" || a.At.IsZero() || a.Saga == "" || a.Answer != "waits" && a.AnsweredAt == nil {
			p.t.Errorf("audit %+v", a)
		}
	}
	if fmt.Sprintf("%q", got) != fmt.Sprintf("%q", want) {
		p.t.Errorf("the audit says\n%q, want\n%q", got, want)
	}
	return entries
}

// A paused saga ends what has begun, begins nothing, and goes on from there.
func TestPause(t *testing.T) {
	for _, kind := range []string{"activity", "tx"} {
		t.Run(kind, func(t *testing.T) {
			c := &calls{}
			var p play
			var id string
			a := c.does("a", nil)
			hold := func(pgengine.Call[fault]) error {
				if p.Get(id).PausedAt == nil {
					p.pause(id)
					p.Settle() // another worker obeys it while this step is at work
				}
				return nil
			}
			var b pgengine.Step[fault] = c.does("b", hold, a)
			if kind == "tx" {
				b = c.write("b", hold, a)
			}
			z := c.does("z", nil, b)
			p = newPlay(t, pgengine.Saga[fault]{Steps: steps(a, b, z)}, c)
			id = p.Start(fault{})
			p.Settle()
			p.Advance(time.Hour)
			p.Settle()
			s := p.Get(id)
			if s.State != pgengine.Running || s.PausedAt == nil || len(s.Steps) != 2 {
				t.Fatalf("paused: %+v", s)
			}
			p.has(s, "b", pgengine.Do, "done")
			n := 0
			for range p.Engine.List(t.Context(), pgengine.Filter{States: []pgengine.State{pgengine.Running}, Paused: true}) {
				n++
			}
			if n != 1 {
				t.Errorf("%d paused sagas are listed", n)
			}
			p.pause(id) // once more changes nothing
			p.Settle()
			p.resume(id)
			p.resume(id)
			p.Run()
			called := "a b z"
			if kind == "tx" {
				called = "a b b z" // rolled back at its commit, and done once more
			}
			if s := p.want(id, pgengine.Completed, called); s.PausedAt != nil {
				t.Error("it has ended, and is paused")
			}
			p.audited(id, "pause obeyed", "pause already it is paused already", "resume obeyed", "resume already it is not paused")
		})
	}
}

// Whatever comes to a paused saga waits for its resume: attempts that fall due, signals, timeouts, children, a worker's
// death, its beginning.
func TestWhatComesToAPausedSaga(t *testing.T) {
	t.Run("before it has begun", func(t *testing.T) {
		c := &calls{}
		p := newPlay(t, pgengine.Saga[fault]{Steps: steps(c.does("a", nil), c.does("b", nil))}, c)
		id := p.Start(fault{})
		execute(t, p.Engine.Pool(), `UPDATE pgsagaz.saga SET paused_at = pgsagaz.now()`) // as if it were obeyed first
		p.Settle()
		p.Advance(time.Minute)
		p.Settle()
		p.want(id, pgengine.Running, "")
		p.resume(id)
		p.Run()
		if p.Get(id).State != pgengine.Completed {
			t.Errorf("%+v", p.Get(id))
		}
	})
	t.Run("an attempt", func(t *testing.T) {
		c := &calls{}
		a := c.does("a", failsTimes(1))
		a.Retry = seldom
		p := newPlay(t, pgengine.Saga[fault]{Steps: steps(a)}, c)
		id := p.Start(fault{})
		p.Settle()
		p.pause(id)
		p.Settle()
		p.Advance(time.Hour)
		p.Settle()
		p.want(id, pgengine.Running, "a")
		p.resume(id)
		p.Run()
		p.want(id, pgengine.Completed, "a a")
	})
	t.Run("a signal", func(t *testing.T) {
		c := &calls{}
		w, by := c.approved("w")
		p := newPlay(t, pgengine.Saga[fault]{Steps: steps(w, by)}, c)
		id := p.Start(fault{})
		p.Settle()
		p.pause(id)
		p.Settle()
		p.signal(id, approval{"Ann"})
		p.Settle()
		if s := p.Get(id); s.State != pgengine.Running || len(s.Signals) != 1 || s.Signals[0].Step != "" {
			t.Errorf("paused: %+v", s)
		}
		p.resume(id)
		p.Run()
		if s := p.Get(id); s.State != pgengine.Completed || s.Signals[0].Step != "w" {
			t.Errorf("resumed: %+v", s)
		}
	})
	t.Run("a child's end", func(t *testing.T) {
		c := &calls{}
		trip := child{Name: "trip", Input: oneLeg(leg{N: 1})}
		p := newPlay(t, pgengine.Saga[fault]{Steps: steps(trip, c.does("z", nil, trip))}, c, legs(c))
		id := p.Start(fault{})
		for len(p.Get(id).Children) == 0 && p.Work() { //nolint:revive // until the child has started
		}
		p.pause(id)
		p.Settle()
		s := p.Get(id)
		if s.State != pgengine.Running || s.Children[0].State != pgengine.Completed || has(s, "trip", pgengine.Do, "done") {
			t.Errorf("paused: %+v", s)
		}
		p.resume(id)
		p.Run()
		if s := p.Get(id); s.State != pgengine.Completed {
			t.Errorf("resumed: %+v", s)
		}
	})
	t.Run("a cancel", func(t *testing.T) {
		c := &calls{}
		a := c.does("a", nil)
		w, by := c.approved("w", a)
		p := newPlay(t, pgengine.Saga[fault]{Steps: steps(a, w, by)}, c)
		id := p.Start(fault{})
		p.Settle()
		p.pause(id)
		p.cancel(id)
		p.Settle()
		s := p.want(id, pgengine.Compensating, "a")
		if s.PausedAt == nil {
			t.Error("a cancel has resumed it")
		}
		p.resume(id)
		p.Run()
		p.want(id, pgengine.Compensated, "a -a")
	})
	t.Run("its deadline", func(t *testing.T) {
		c := &calls{}
		a := c.does("a", nil)
		w, by := c.approved("w", a)
		p := newPlay(t, pgengine.Saga[fault]{Steps: steps(a, w, by), Timeout: time.Hour}, c)
		id := p.Start(fault{})
		p.Settle()
		p.pause(id)
		p.Settle()
		p.Advance(2 * time.Hour)
		p.Settle()
		if s := p.want(id, pgengine.Compensating, "a"); s.Cause.Kind != pgengine.CauseDeadline {
			t.Errorf("cause %v", s.Cause)
		}
		p.resume(id)
		p.Run()
		p.want(id, pgengine.Compensated, "a -a")
	})
	t.Run("the end of its last step", func(t *testing.T) {
		c := &calls{}
		var p play
		var id string
		a := c.does("a", func(faultCall) error { p.pause(id); p.Settle(); return nil })
		p = newPlay(t, pgengine.Saga[fault]{Steps: steps(a)}, c)
		id = p.Start(fault{})
		p.Settle()
		if s := p.want(id, pgengine.Completed, "a"); s.PausedAt != nil {
			t.Error("it has ended, and is paused")
		}
	})
	t.Run("a failure under way", func(t *testing.T) {
		c := &calls{}
		var p play
		var id string
		a := c.does("a", nil)
		b := c.does("b", func(faultCall) error { p.pause(id); p.Settle(); return pgengine.Terminal(errNo) }, a)
		p = newPlay(t, pgengine.Saga[fault]{Steps: steps(a, b)}, c)
		id = p.Start(fault{})
		p.Settle()
		p.want(id, pgengine.Compensating, "a b")
		p.resume(id)
		p.Run()
		if s := p.Get(id); s.State != pgengine.Compensated {
			t.Errorf("%+v", s)
		}
	})
}

// An operator may end a saga without undoing: what was done stays, and each undo says so.
func TestAbandon(t *testing.T) {
	t.Run("running", func(t *testing.T) {
		c := &calls{}
		a, b := c.does("a", nil), c.write("b", nil)
		w, by := c.approved("w", a, b)
		p := newPlay(t, pgengine.Saga[fault]{Steps: steps(a, b, w, by)}, c)
		id := p.Start(fault{})
		p.Settle()
		p.abandon(id)
		p.Run()
		s := p.want(id, pgengine.Compensated, "a b")
		p.has(s, "a", pgengine.Undo, "skipped")
		p.has(s, "b", pgengine.Undo, "skipped")
		if s.Cause.Kind != pgengine.CauseCancel || !s.Cause.NoUndo || s.Cause.Reason != ann.Reason || !strings.Contains(s.Cause.String(), "without undoing") {
			t.Errorf("cause %+v", s.Cause)
		}
		p.audited(id, "abandon obeyed")
		if err := p.refused(func(ctx context.Context, tx pgx.Tx) error { return p.Engine.Abandon(ctx, tx, id, ann) }); !errors.Is(err, pgengine.ErrEnded) {
			t.Error(err)
		}
	})
	t.Run("while a step is at work", func(t *testing.T) {
		c := &calls{}
		var p play
		var id string
		a := c.does("a", nil)
		b := c.does("b", func(faultCall) error { p.abandon(id); p.Settle(); return nil }, a)
		p = newPlay(t, pgengine.Saga[fault]{Steps: steps(a, b, c.does("z", nil, b))}, c)
		id = p.Start(fault{})
		p.Run()
		s := p.want(id, pgengine.Compensated, "a b")
		p.has(s, "b", pgengine.Undo, "skipped")
	})
	t.Run("stuck, with an undo that waits and one under way", func(t *testing.T) {
		c := &calls{}
		a := c.does("a", nil)
		bad := c.does("bad", nil, a)
		bad.UndoRetry = once
		bad.Undo = func(context.Context, faultCall, string) error { return errNo }
		slow := c.does("slow", nil, a)
		slow.UndoRetry = seldom
		slow.Undo = func(context.Context, faultCall, string) error { return errNo }
		p := newPlay(t, pgengine.Saga[fault]{Steps: steps(a, bad, slow, c.does("z", refuse, bad, slow))}, c)
		id := p.Start(fault{})
		p.Settle()
		if s := p.Get(id); s.State != pgengine.Compensating || !has(s, "bad", pgengine.Undo, "stuck") || !has(s, "slow", pgengine.Undo, "waiting") {
			t.Fatalf("%+v", s)
		}
		p.abandon(id)
		p.Run()
		s := p.Get(id)
		if s.State != pgengine.Compensated || s.Cause.Kind != pgengine.CauseStep || !s.Cause.NoUndo {
			t.Errorf("%s, %+v", s.State, s.Cause)
		}
		for _, step := range []string{"a", "bad", "slow"} {
			p.has(s, step, pgengine.Undo, "skipped")
		}
	})
	t.Run("an undo that fails while it is asked", func(t *testing.T) {
		c := &calls{}
		var p play
		var id string
		a := c.does("a", nil)
		b := c.does("b", nil, a)
		b.Undo = func(context.Context, faultCall, string) error { p.abandon(id); p.Settle(); return errNo }
		p = newPlay(t, pgengine.Saga[fault]{Steps: steps(a, b, c.does("z", refuse, b))}, c)
		id = p.Start(fault{})
		p.Run()
		s := p.Get(id)
		p.has(s, "a", pgengine.Undo, "skipped")
		p.has(s, "b", pgengine.Undo, "skipped")
		if s.State != pgengine.Compensated {
			t.Errorf("%+v", s)
		}
	})
	t.Run("past the pivot", func(t *testing.T) {
		c := &calls{}
		a := c.does("a", nil)
		a.Pivot, a.Undo, a.UndoRetry = true, nil, pgengine.Retry{}
		w, by := c.approved("w", a)
		p := newPlay(t, pgengine.Saga[fault]{Steps: steps(a, w, by)}, c)
		id := p.Start(fault{})
		p.Settle()
		p.abandon(id)
		p.cancel(id)
		p.Settle()
		if s := p.Get(id); s.State != pgengine.Running {
			t.Errorf("%+v", s)
		}
		p.audited(id, "abandon refused it is past its pivot, and goes forward only: skip or resolve its steps",
			"cancel too late it is past its pivot, and goes forward only")
		p.signal(id, approval{"Ann"})
		p.Run()
	})
}

// What waits for its next attempt is tried now; of what is asked of one step the others hear nothing.
func TestRetryOfWhatWaits(t *testing.T) {
	c := &calls{}
	a, b := c.does("a", failsTimes(1)), c.does("b", failsTimes(2))
	a.Retry, b.Retry = seldom, seldom
	w, by := c.approved("w")
	p := newPlay(t, pgengine.Saga[fault]{Steps: steps(a, b, w, by)}, c)
	id := p.Start(fault{})
	p.Settle()
	p.retryStep(id, "a")
	p.Settle()
	s := p.Get(id)
	p.has(s, "a", pgengine.Do, "done")
	p.has(s, "b", pgengine.Do, "waiting")
	p.retry(id)
	p.Settle()
	p.retry(id)
	p.Settle()
	p.has(p.Get(id), "b", pgengine.Do, "done")
	p.retry(id)
	p.Settle()
	for step, said := range map[string]string{"w": "it waits for a signal", "a": "has ended", "none": "no such step"} {
		err := p.refused(func(ctx context.Context, tx pgx.Tx) error { return p.Engine.RetryStep(ctx, tx, id, step, ann) })
		if !errors.Is(err, pgengine.ErrNotParked) || !strings.Contains(err.Error(), said) {
			t.Errorf("retry of %s: %v", step, err)
		}
	}
	p.audited(id, "retry a obeyed", "retry obeyed", "retry obeyed", "retry already nothing of it waits to be tried again")
	p.signal(id, approval{"Ann"})
	p.Run()
}

func TestSkip(t *testing.T) {
	t.Run("a step", testSkipOfAStep)
	t.Run("an undo", testSkipOfAnUndo)
	t.Run("a step with children", func(t *testing.T) {
		c := &calls{}
		trip := child{Name: "trip", Input: oneLeg(leg{N: 1}), Optional: true}
		p := newPlay(t, pgengine.Saga[fault]{Steps: steps(trip)}, c, legs(c))
		id := p.Start(fault{})
		for len(p.Get(id).Children) == 0 && p.Work() { //nolint:revive // until the child has started
		}
		err := p.refused(func(ctx context.Context, tx pgx.Tx) error { return p.Engine.Skip(ctx, tx, id, "trip", ann) })
		if !strings.Contains(err.Error(), "its children are under way") {
			t.Error(err)
		}
		p.Run()
	})
}

func testSkipOfAStep(t *testing.T) {
	c := &calls{}
	a := c.does("a", nil)
	must := c.does("must", fails, a)
	may := c.does("may", fails, a)
	may.Optional, may.Undo, may.UndoRetry = true, nil, pgengine.Retry{}
	doubt := c.does("doubt", fails, a)
	doubt.Optional = true
	nap := pgengine.Sleep[fault]{Name: "nap", After: steps(a), For: 1000 * time.Hour}
	for _, s := range []*act[string]{&must, &may, &doubt} {
		s.Retry = seldom
	}
	p := newPlay(t, pgengine.Saga[fault]{Steps: steps(a, must, may, doubt, nap)}, c)
	id := p.Start(fault{})
	p.Settle()
	for step, said := range map[string]string{
		"must": "later steps count on its result", "doubt": "an attempt may have had its effect", "a": "has ended", "none": "no such step",
	} {
		err := p.refused(func(ctx context.Context, tx pgx.Tx) error { return p.Engine.Skip(ctx, tx, id, step, ann) })
		if !strings.Contains(err.Error(), said) {
			t.Errorf("skip %s: %v", step, err)
		}
	}
	p.skip(id, "may")
	p.skip(id, "nap")
	p.skip(id, "may") // as nobody has obeyed yet
	p.Settle()
	s := p.Get(id)
	p.has(s, "may", pgengine.Do, "skipped")
	p.has(s, "nap", pgengine.Do, "skipped")
	p.cancel(id)
	p.Run()
	p.audited(id, "skip may obeyed", "skip nap obeyed", "skip may too late it does not wait", "cancel obeyed")
}

// One that waits, and one that has given up.
func testSkipOfAnUndo(t *testing.T) {
	c := &calls{}
	never := func(context.Context, faultCall, string) error { return errNo }
	x := c.does("x", nil)
	x.Undo, x.UndoRetry = never, once
	y := c.does("y", nil, x)
	y.Undo, y.UndoRetry = never, seldom
	q := newPlay(t, pgengine.Saga[fault]{Steps: steps(x, y, c.does("z", refuse, y))}, c)
	id := q.Start(fault{})
	q.Settle()
	q.has(q.Get(id), "y", pgengine.Undo, "waiting")
	q.skip(id, "y")
	q.Settle()
	q.has(q.Get(id), "x", pgengine.Undo, "stuck")
	q.skip(id, "x")
	q.Run()
	s := q.Get(id)
	q.has(s, "x", pgengine.Undo, "skipped")
	q.has(s, "y", pgengine.Undo, "skipped")
	if s.State != pgengine.Compensated {
		t.Errorf("%+v", s)
	}
}

// Two operators at once: the one who is heard first wins, and the audit tells the other.
func TestTwoOperators(t *testing.T) {
	c := &calls{}
	a := c.does("a", nil)
	a.Undo, a.UndoRetry, a.ManualUndo = nil, pgengine.Retry{}, true
	p := newPlay(t, pgengine.Saga[fault]{Steps: steps(a, c.does("z", refuse, a))}, c)
	id := p.Start(fault{})
	p.Settle()
	if s := p.Get(id); s.State != pgengine.Stuck {
		t.Fatalf("%+v", s)
	}
	for _, say := range []pgengine.Outcome{pgengine.OutcomeDone, pgengine.OutcomeSkipped} {
		p.resolve(id, "a", pgengine.Resolution{Outcome: say}, "one of two")
	}
	p.skip(id, "a")
	p.Run()
	s := p.Get(id)
	p.has(s, "a", pgengine.Undo, "done")
	if s.State != pgengine.Compensated || len(s.Audit) != 3 {
		t.Errorf("%+v", s)
	}
	entries := p.audited(id, "resolve a obeyed", "resolve a too late it does not wait", "skip a too late it does not wait")
	if string(entries[0].Details) != `{"outcome": "done"}` || entries[0].Reason != "one of two" {
		t.Errorf("%+v", entries[0])
	}
	for _, change := range []string{
		`UPDATE pgsagaz.audit SET actor = 'Bob'`, `DELETE FROM pgsagaz.audit_answer`, `TRUNCATE pgsagaz.audit CASCADE`,
	} {
		if _, err := p.Engine.Pool().Exec(t.Context(), change); sql.State(err) != sql.StateAppendOnly {
			t.Errorf("%s: %v", change, err)
		}
	}
	// It outlives the saga, and the archive.
	p.Advance(48 * time.Hour)
	if p.archive() != 1 || len(p.Get(id).Audit) != 3 {
		t.Errorf("archived: %+v", p.Get(id))
	}
	query[[]string](t, p.Engine.Pool(), sql.ArchiveRetain, 0.0, nil)
	p.audited(id, "resolve a obeyed", "resolve a too late it does not wait", "skip a too late it does not wait")
	all, err := p.Engine.Audit(t.Context(), pgengine.AuditFilter{Actor: "Ann", Until: time.Now().Add(time.Hour)})
	if err != nil || len(all) != 3 {
		t.Errorf("of Ann: %d entries, %v", len(all), err)
	}
}

// What is asked of a step in SQL is meant for what the asker sees: an undo that begins meanwhile is not skipped.
func TestSkipInSQLIsMeantForOneDirection(t *testing.T) {
	c := &calls{}
	a := c.does("a", nil)
	a.Undo = func(context.Context, faultCall, string) error { c.add("-a"); return errNo }
	a.UndoRetry = seldom
	b := c.does("b", func(faultCall) error { return errNo }, a)
	b.Retry = seldom
	p := newPlay(t, pgengine.Saga[fault]{Steps: steps(a, b)}, c)
	id := p.Start(fault{})
	p.Settle()
	skip := func() {
		p.Tx(func(tx pgx.Tx) error {
			_, err := tx.Exec(t.Context(), `SELECT pgsagaz.skip($1, 'a', 'in SQL', 'Ann')`, id)
			return err
		})
	}
	skip() // nothing of a is under way
	// It is heard only when the undo waits.
	held := query[string](t, p.Engine.Pool(), `WITH c AS (DELETE FROM pgsagaz.command WHERE saga_id = $1 RETURNING *) SELECT to_jsonb(c)::text FROM c`, id)
	p.cancel(id)
	p.Settle()
	execute(t, p.Engine.Pool(), `INSERT INTO pgsagaz.command OVERRIDING SYSTEM VALUE SELECT * FROM jsonb_populate_record(NULL::pgsagaz.command, $1)`, held)
	p.Settle()
	p.audited(id, "skip a too late it does not wait", "cancel obeyed")
	p.want(id, pgengine.Compensating, "a b b -b -a")
	skip() // now it is meant
	p.Settle()
	p.want(id, pgengine.Compensated, "a b b -b -a")
}

// In SQL a result of null is one, and none is none.
func TestSQLResolvesWithANull(t *testing.T) {
	c := &calls{}
	pay := c.pay(nil)
	b := pgengine.Activity[fault, *string]{Name: "b", After: steps(pay), Retry: seldom, Do: func(context.Context, faultCall) (*string, error) {
		return nil, pgengine.Terminal(errNo)
	}}
	p := newPlay(t, pgengine.Saga[fault]{Output: b, Steps: steps(pay, b)}, c)
	id := p.Start(fault{})
	p.Run()
	resolve := func(result string) {
		t.Helper()
		execute(t, p.Engine.Pool(), `SELECT pgsagaz.resolve($1, 'b', 'done', `+result+`, 'by hand', 'ann')`, id)
		p.Run()
	}
	resolve("NULL")
	p.audited(id, "resolve b refused the result of a step that is done is missing")
	resolve("'null'")
	if s := p.Get(id); s.State != pgengine.Completed || string(s.Output) != "null" {
		t.Errorf("%s, output %s", s.State, s.Output)
	}
	p.audited(id, "resolve b refused the result of a step that is done is missing", "resolve b obeyed")
}
