package pgengine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/failpoint"
)

// Ticket is what a River job says: something may be ready in a saga, at a lane. It is a hint. A ticket
// that comes twice, late, or for nothing does no harm.
type Ticket struct {
	SagaID  string
	Name    string
	Version int
	Lane    int64  // 0: the saga's commands wait
	Step    string // "": the lane has no step yet, the saga is to begin
	Attempt int    // how often the job was handed out; 0 and 1: for the first time
}

// RunOptions are how a worker drives lanes.
type RunOptions struct {
	Worker     string              // the worker's id
	JobPerStep bool                // every step is a River job of its own
	Idle       time.Duration       // how long a step's transaction may send nothing; 0: 5 s
	Budget     time.Duration       // how long a lane goes on before it hands over, steps that share a transaction a fifth of that; 0: 250 ms
	Stopping   <-chan struct{}     // closed: end the step at hand, then hand the lane back
	Due        func(time.Duration) // told when something of the saga falls due; nil: nobody
}

func (o RunOptions) due(in time.Duration) {
	if o.Due != nil {
		o.Due(in)
	}
}

// errLost: somebody else drives the lane now, or it has ended.
var errLost = errors.New("the lane was taken over")

// errTurnedBack: a TxStep came to its commit after its saga had begun to turn back. It is rolled back,
// which undoes it for nothing.
var errTurnedBack = errors.New("the saga has turned back")

// Run drives one lane of a saga for as long as there is something for it to do.
//
//	Run
//	├ take             the lane is ours; or gone, held, not due: nothing to do
//	└ advance          until the lane ends, is somebody else's, or has used up its budget
//	   ├ Do, Undo      yours: inside a transaction (TxStep), or outside any (Activity)
//	   ├ lock          the saga's row, late: still running? the lane still ours?
//	   ├ plan          pure: go on with this, schedule those, undo those, wait, or finish
//	   └ settle        outcome, claim of the lane's next step, jobs of what else is ready; COMMIT
//
// A step that is followed by what comes after it alone needs no look at its siblings: lock, settle and
// COMMIT are one round trip. The others lock and read first, plan, and settle.
//
// It returns nil whenever the lane has been dealt with, whatever became of the step. An error means
// that the database could not be brought to an answer before ctx ended, and that the sweeper must see to it.
func (e *Engine) Run(ctx context.Context, t Ticket, o RunOptions) error {
	if o.Idle <= 0 {
		o.Idle = 5 * time.Second
	}
	if o.Budget <= 0 {
		o.Budget = laneTime
	}
	g := e.graphs[t.Name][t.Version]
	if g == nil {
		return fmt.Errorf("saga %s version %d is not known to this worker (saga %s)", t.Name, t.Version, t.SagaID)
	}
	if t.Lane == 0 {
		return e.untilAnswered(ctx, func() error { return e.obey(ctx, g, t.SagaID, o) })
	}
	l := &lane{id: t.Lane, token: newToken(), sagaID: t.SagaID, g: g, opts: o, begun: time.Now(), at: task{node: -1, direction: Do, generation: 1}}
	e.hold(l)
	defer e.letGo(l)
	active := e.metrics.sagas[g].active
	active.Inc()
	defer active.Dec()
	failpoint.Hit("take.before")
	if err := e.untilAnswered(ctx, func() error { return e.take(ctx, l, t) }); err != nil {
		if errors.Is(err, errLost) {
			return nil
		}
		return fmt.Errorf("saga %s %s: take lane %d: %w", t.Name, t.SagaID, t.Lane, err)
	}
	failpoint.Hit("take.after")
	ctx = l.within(ctx)

	for away := 1; ; away++ {
		moved, err := e.advance(ctx, l)
		switch {
		case err == nil && moved && l.stopping():
			return e.handBack(l, false)
		case err == nil && moved:
			away = 0
			continue
		case err == nil:
			return nil
		case errors.Is(err, errLost):
			e.metrics.sagas[g].lost.Inc()
			e.log.DebugContext(ctx, "lane was taken over", "saga", g.name, "saga_id", l.sagaID, "step", l.name())
			return nil
		case ctx.Err() != nil:
			return e.handBack(l, true)
		case !transient(err):
			// Nothing that we know of: it is tried again, and not at once.
			e.log.ErrorContext(ctx, "lane stopped", "saga", g.name, "saga_id", l.sagaID, "step", l.name(), "error", err)
			return errors.Join(fmt.Errorf("saga %s %s: step %s: %w", g.name, l.sagaID, l.name(), err), e.setAside(l, err))
		}
		// The database went away, or said "not now". Whatever was open was rolled back, unless it was a
		// COMMIT whose answer got lost: the lane's row tells.
		e.metrics.unanswered(err)
		switch {
		case !unfit(err):
			away = 0
		case away%30 == 1: // every half a minute
			e.log.WarnContext(ctx, "the server refuses everybody, trying again", "saga", g.name, "saga_id", l.sagaID, "step", l.name(), "error", err)
		}
		pause(ctx, min(time.Duration(max(away, 1))*50*time.Millisecond, time.Second))
		err = e.untilAnswered(ctx, func() error { return e.locate(ctx, l) })
		if errors.Is(err, errLost) && !l.taken {
			err = e.untilAnswered(ctx, func() error { return e.begin(ctx, l) })
		}
		if errors.Is(err, errLost) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// advance performs the step that the lane is at and settles it. moved: the lane goes on, at its next step.
func (e *Engine) advance(ctx context.Context, l *lane) (moved bool, err error) {
	ctx, span := e.stepSpan(ctx, l)
	defer span.End()
	step := l.name()
	moved, err = e.perform(ctx, l)
	if errors.Is(err, errTurnedBack) {
		moved, err = e.persist(ctx, l, false, func(ctx context.Context) (bool, error) { return e.turnBack(ctx, l) })
	}
	if l.placed { // whatever has become of the step is committed
		l.placed = false
		e.leave(ctx, l.opts, l.sagaID, step)
	}
	return moved, err
}

func (e *Engine) perform(ctx context.Context, l *lane) (moved bool, err error) {
	n := l.node()
	if l.unreadable != nil {
		return e.closed(ctx, l)
	}
	if l.at.direction == Do && l.sagaAt != Running && !(l.onward() && l.inDoubt) {
		return false, errTurnedBack
	}
	if l.crashes >= e.maxCrashes {
		return e.failed(ctx, l, failure{kind: "crash", err: Terminal(fmt.Errorf(
			"%d workers died at this step, so it is not tried again: %s", l.crashes, l.lastErr)), begun: time.Now(), effect: l.inDoubt})
	}
	if l.refused >= patience { // here, where it is certain that none of its tries has gone through
		refused := l.refused
		l.refused = 0
		return e.failed(ctx, l, failure{err: fmt.Errorf("the database kept it from its end again and again (%d): %s", refused, l.lastRefusal), begun: time.Now()})
	}
	if l.at.direction == Undo {
		if through, moved, err := e.enter(ctx, l); !through {
			return moved, err
		}
		switch n.kind {
		case kindTx:
			return e.undoTx(ctx, l)
		case kindActivity:
			return e.undoActivity(ctx, l)
		default:
			return e.undoChildren(ctx, l)
		}
	}
	if n.when != nil && l.waits == "" {
		if wanted, err := e.wanted(ctx, l); err != nil || !wanted {
			return e.skip(ctx, l, err)
		}
	}
	if through, moved, err := e.enter(ctx, l); !through {
		return moved, err
	}
	switch n.kind {
	case kindTx:
		if l.fuses() {
			return e.doFused(ctx, l)
		}
		return e.doTx(ctx, l)
	case kindActivity:
		return e.doActivity(ctx, l)
	case kindAwait:
		return e.doAwait(ctx, l)
	case kindSleep:
		return e.doSleep(ctx, l)
	default:
		return e.doChildren(ctx, l)
	}
}

// wanted asks the step's When.
func (e *Engine) wanted(ctx context.Context, l *lane) (wanted bool, err error) {
	err = e.attempt(ctx, l, func(context.Context) (err error) {
		wanted, err = l.node().when(l.call())
		return err
	})
	return wanted, err
}

// skip records that a step is not to happen, or that its When has failed.
func (e *Engine) skip(ctx context.Context, l *lane, err error) (bool, error) {
	if err != nil {
		return e.failed(ctx, l, failure{err: err, begun: time.Now()})
	}
	return e.ended(ctx, l, &record{outcome: "skipped"})
}

// handBack gives the lane to whoever is next, as this worker is being stopped. A call that was begun, and
// cut off, may have had its effect.
func (e *Engine) handBack(l *lane, begun bool) error {
	if !l.taken {
		return fmt.Errorf("saga %s %s: stopped before its first step had ended", l.g.name, l.sagaID) // River tries again
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	if _, err := e.pool.Exec(ctx, sql.LaneHandBack, l.sagaID, l.id, l.token, begun && !l.node().isTx()); err != nil {
		return fmt.Errorf("saga %s %s: hand back lane %d: %w", l.g.name, l.sagaID, l.id, err)
	}
	e.wake(l.queue)
	return nil
}

// aside is how long a lane rests after an error that nothing is known of.
const aside = 5 * time.Second

// setAside gives the lane up for a while, with the error for whoever looks.
func (e *Engine) setAside(l *lane, why error) error {
	if !l.taken {
		return nil // River tries again
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	if _, err := e.pool.Exec(ctx, sql.LaneSetAside, l.sagaID, l.id, l.token, aside.Seconds(), !l.node().isTx(), describe(why)); err != nil {
		return fmt.Errorf("saga %s %s: set lane %d aside: %w", l.g.name, l.sagaID, l.id, err)
	}
	l.opts.due(aside)
	return nil
}

// persist repeats settle until the database has answered. After each failure it first asks where the
// lane stands, since the answer to a COMMIT may have been lost: if the lane has moved, it went through.
//
// mayBlame: the transaction has statements of the user's in it, so that after some patience the fault may be
// theirs.
func (e *Engine) persist(ctx context.Context, l *lane, mayBlame bool, settle func(context.Context) (bool, error)) (bool, error) {
	was := l.at
	for n := 0; ; n++ {
		begun := time.Now()
		moved, err := settle(ctx)
		if !transient(err) || ctx.Err() != nil {
			return moved, err
		}
		e.metrics.unanswered(err)
		e.log.WarnContext(ctx, "a step is done and not yet recorded, trying again", "saga", l.g.name, "saga_id", l.sagaID, "step", l.name(), "error", err)
		pause(ctx, min(time.Duration(n+1)*50*time.Millisecond, time.Second))
		if failpoint.Mutant("commit.lost-answer-not-asked") {
			continue
		}
		if err := e.untilAnswered(ctx, func() error { return e.locate(ctx, l) }); err != nil {
			return false, err
		}
		if l.at != was {
			l.steps++
			return true, nil
		}
		if unfit(err) {
			continue
		}
		// A Commit of the user's that sleeps in its transaction, or is always refused, must not be put down to
		// the database for ever.
		if l.refused++; time.Since(begun) >= l.opts.Idle {
			l.refused += 3
		}
		if mayBlame && l.refused >= patience {
			l.refused = 0
			return false, fmt.Errorf("the database kept what it writes from its end again and again: %s", describe(err))
		}
	}
}

// untilAnswered repeats f while the database is away or busy, until ctx ends.
func (e *Engine) untilAnswered(ctx context.Context, f func() error) error {
	for n := 0; ; n++ {
		err := f()
		if !transient(err) || ctx.Err() != nil {
			return err
		}
		if n == 0 {
			e.log.WarnContext(ctx, "the database does not answer, trying again", "error", err)
		}
		pause(ctx, min(time.Duration(n+1)*50*time.Millisecond, time.Second))
	}
}

// pause waits about d, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d/2 + rand.N(d))
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
