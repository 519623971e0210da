package pgengine

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/codec"
	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/failpoint"
)

// enter lets a lane through to its step, if that has a limit, or puts it to rest until it is called. It is asked before
// the call, in a transaction of its own that first takes the saga's lock: whoever turns the saga back meanwhile sees the lane
// held, and waits for it, or sees it rest, and takes it away.
//
// Nothing is written when the place is left. It is held by the lane's token at the step, so that whatever takes these
// away frees it in the same commit: the step's end, a failed attempt, a worker's death.
//
// If the lane is not let through, moved says whether it goes on elsewhere.
func (e *Engine) enter(ctx context.Context, l *lane) (through, moved bool, err error) {
	g, begun := l.node().gate, time.Now()
	if g == nil || l.at.direction == Undo && !g.undo {
		return true, false, nil
	}
	key, err := g.line(l.call())
	if err != nil {
		moved, err = e.failed(ctx, l, failure{err: err, begun: begun})
		return false, moved, err
	}
	through, err = e.stand(ctx, l, g, key, l.name())
	l.placed = through && g.concurrency > 0
	return through, false, err
}

// stand asks for a place in a line. step "": for the saga as a whole, whose lane nobody has taken yet.
func (e *Engine) stand(ctx context.Context, l *lane, g *gate, key, step string) (through bool, err error) {
	var concurrency *int
	if g.concurrency > 0 {
		concurrency = &g.concurrency
	}
	var spacing *time.Duration
	if g.spacing > 0 {
		spacing = &g.spacing
	}
	var wait *float64
	var queues []string
	failpoint.Hit("limit.before")
	err = e.pool.QueryRow(ctx, sql.LimitEnter, l.sagaID, l.patient(false), l.id, l.token, step, string(l.at.direction),
		g.name, key, concurrency, spacing).Scan(&wait, &queues)
	if err != nil {
		return false, answered(err)
	}
	failpoint.Hit("limit.after")
	e.wake(queues...)
	if wait != nil && *wait > 0 {
		l.opts.due(time.Duration(*wait * float64(time.Second)))
	}
	return wait != nil && *wait == 0, nil
}

// admit lets a saga with a limit begin, or puts its first lane to rest until it is called.
func (e *Engine) admit(ctx context.Context, l *lane) error {
	if l.g.gate == nil {
		return nil
	}
	err := e.peek(ctx, l) // for its input
	switch {
	case err != nil:
		return err
	case l.unreadable == nil:
	case errors.Is(l.unreadable, codec.ErrErased): // it needs no place: it waits for an operator at its first step
		return nil
	default:
		return l.unreadable
	}
	c := l.call()
	c.step, c.results = "", nil
	key, err := l.g.gate.line(c)
	if err != nil {
		return e.turnAway(ctx, l, err) // nil: past its pivot it goes forward, with a place or without
	}
	through, err := e.stand(ctx, l, l.g.gate, key, "")
	l.at.node = -1 // it has yet to begin
	if err == nil && !through {
		err = errLost
	}
	return err
}

// turnAway ends a saga that can't begin, as why will be the same whenever it is asked again. It returns errLost: the lane is gone. A
// saga that goes on for another may have taken over its pivot, and can't be turned back: nil.
func (e *Engine) turnAway(ctx context.Context, l *lane, why error) error {
	passed := false
	_, err := e.inTx(ctx, l, func(ctx context.Context, tx *stepTx) (bool, error) {
		snap, err := readLocked(ctx, tx, l.g, l.sagaID)
		if err != nil {
			return false, err
		}
		if snap.state != Running || !slices.ContainsFunc(snap.lanes, func(other laneAt) bool { return other.id == l.id && other.node < 0 }) {
			return false, errLost // somebody has turned it back, or let it begin
		}
		e.log.ErrorContext(ctx, "a saga has no place in the line of its Limit", "saga", l.g.name, "saga_id", l.sagaID, "error", describe(why))
		if l.g.pivot >= 0 && snap.steps[l.g.pivot].outcome == done {
			passed = true
			return false, nil
		}
		snap.state = Failing
		return e.decide(ctx, tx, snap, settlement{
			sagaID: l.sagaID, g: l.g, from: []string{string(Running)}, at: task{direction: Do, generation: 1}, isChild: snap.isChild,
			state: Failing, cause: &Cause{Kind: CauseLimit, Error: describe(why), At: time.Now().UTC()},
		})
	})
	if err == nil && !passed {
		err = errLost
	}
	return err
}

// leave calls the next in line, after the commit that has freed a place: if this is not done, a sweeper does it. Where it was
// not freed, nobody is called.
func (e *Engine) leave(ctx context.Context, o RunOptions, sagaID, step string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	type called struct {
		Queue   string
		Seconds float64
	}
	rows, err := e.pool.Query(ctx, sql.LimitLeave, sagaID, step)
	if err != nil {
		return
	}
	next, _ := pgx.CollectRows(rows, pgx.RowToStructByPos[called])
	for _, c := range next {
		if c.Seconds > 0 {
			o.due(time.Duration(c.Seconds * float64(time.Second)))
			continue
		}
		e.wake(c.Queue)
	}
}
