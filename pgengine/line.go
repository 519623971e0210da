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

// enter lets a lane through to its step, if that has limits, or puts it to rest until it is called. It is asked before
// the call, in a transaction of its own that first takes the saga's lock: whoever turns the saga back meanwhile sees the lane
// held, and waits for it, or sees it rest, and takes it away.
//
// Nothing is written when the place is left. It is held by the lane's token at the step, so that whatever takes these
// away frees it in the same commit: the step's end, a failed attempt, a worker's death.
//
// If the lane is not let through, moved says whether it goes on elsewhere.
func (e *Engine) enter(ctx context.Context, l *lane) (through, moved bool, err error) {
	gs, begun := l.node().gates.of(l.at.direction), time.Now()
	if len(gs) == 0 {
		return true, false, nil
	}
	lines, err := gs.lines(l.call())
	if err != nil {
		moved, err = e.failed(ctx, l, failure{err: err, begun: begun})
		return false, moved, err
	}
	through, err = e.stand(ctx, l, lines, l.name())
	l.placed = through && gs.count()
	return through, false, err
}

// stand asks for a place in each of these lines. step "": for the saga as a whole, whose lane nobody has taken yet.
func (e *Engine) stand(ctx context.Context, l *lane, lines []line, step string) (through bool, err error) {
	names, keys := make([]string, len(lines)), make([]string, len(lines))
	concurrency, spacing := make([]*int, len(lines)), make([]*time.Duration, len(lines))
	for i, o := range lines {
		names[i], keys[i] = o.name, o.key
		if o.concurrency > 0 {
			concurrency[i] = &o.concurrency
		}
		if o.spacing > 0 {
			spacing[i] = &o.spacing
		}
	}
	var wait *float64
	var queues, missing []string
	failpoint.Hit("limit.before")
	err = e.pool.QueryRow(ctx, sql.LimitEnter, l.sagaID, l.patient(false), l.id, l.token, step, string(l.at.direction),
		names, keys, concurrency, spacing).Scan(&wait, &queues, &missing)
	if err != nil {
		return false, answered(err)
	}
	failpoint.Hit("limit.after")
	e.wake(queues...)
	if wait != nil && *wait > 0 {
		l.opts.due(time.Duration(*wait * float64(time.Second)))
	}
	if len(missing) > 0 {
		e.leave(ctx, l.opts, l.sagaID, step, missing...)
	}
	return wait != nil && *wait == 0, nil
}

// admit lets a saga with limits begin, or puts its first lane to rest until it is called.
func (e *Engine) admit(ctx context.Context, l *lane) error {
	if len(l.g.gates) == 0 {
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
	lines, err := l.g.gates.lines(c)
	if err != nil {
		return e.turnAway(ctx, l, err) // nil: past its pivot it goes forward, with a place or without
	}
	through, err := e.stand(ctx, l, lines, "")
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

// called is a lane that may begin in so many seconds, or, if missing says so, a line that must be locked before anybody can be called.
type called struct {
	queue   *string
	seconds *float64
	missing *string
}

// looks is how often a look at lines that another transaction held is repeated. Each repetition waits for its turn at them.
const looks = 8

// leave calls the next in line, after the commit that has freed a place: if this is not done, a sweeper does it. Where it was
// not freed, nobody is called. missing are further lines to look at, which could not be had at once.
func (e *Engine) leave(ctx context.Context, o RunOptions, sagaID, step string, missing ...string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	for range looks {
		rows, err := e.pool.Query(ctx, sql.LimitLeave, sagaID, step, missing)
		if err != nil {
			return
		}
		next, _ := pgx.CollectRows(rows, func(row pgx.CollectableRow) (c called, err error) {
			err = row.Scan(&c.queue, &c.seconds, &c.missing)
			return c, err
		})
		more := len(missing)
		for _, c := range next {
			switch {
			case c.missing != nil:
				missing = append(missing, *c.missing)
			case *c.seconds > 0:
				o.due(time.Duration(*c.seconds * float64(time.Second)))
			default:
				e.wake(*c.queue)
			}
		}
		if len(missing) == more {
			return
		}
	}
}
