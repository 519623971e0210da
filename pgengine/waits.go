package pgengine

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/failpoint"
)

// doAwait takes the signal that the lane's step waits for, or puts the lane to rest until it comes.
//
// Signals reach a saga through its commands, which are applied under the saga's lock, and this looks for
// one under the same lock. So there are two orders: the signal is there first, and this finds it; or the
// lane rests first, and whoever keeps the signal sees it rest and sets it going.
func (e *Engine) doAwait(ctx context.Context, l *lane) (bool, error) {
	n, begun := l.node(), time.Now()
	var instead json.RawMessage
	if l.waited { // its time is up: what would it go on with?
		err := e.attempt(ctx, l, func(ctx context.Context) (err error) {
			c := l.call()
			c.maxBytes = e.maxPayload
			instead, err = n.onTimeout(ctx, c)
			return err
		})
		if err != nil {
			if ctx.Err() != nil {
				return false, ctx.Err()
			}
			return e.awaited(ctx, l, nil, &failure{err: err, begun: begun})
		}
	}
	return e.awaited(ctx, l, instead, nil)
}

// awaited looks for the signal, which wins over instead and over f.
func (e *Engine) awaited(ctx context.Context, l *lane, instead json.RawMessage, f *failure) (bool, error) {
	n := l.node()
	came := false
	failpoint.Hit("await.before")
	moved, err := e.underLock(ctx, l, func(ctx context.Context, tx *stepTx, snap *locked) (bool, error) {
		var payload json.RawMessage
		err := tx.QueryRow(ctx, sql.SignalTake, l.sagaID, n.signal, n.name).Scan((*[]byte)(&payload))
		came = err == nil
		switch {
		case came:
			if payload, err = e.open(ctx, tx, atSignal(n.signal), payload); err != nil {
				return false, err
			}
		case !errors.Is(err, pgx.ErrNoRows):
			return false, answered(err)
		case f != nil:
			return false, nil
		case l.waited:
			payload = instead
		default:
			return e.rest(ctx, tx, l, snap, rest{what: "signal", limit: n.limit})
		}
		return e.decideStep(ctx, tx, l, snap, &record{outcome: "done", result: payload})
	})
	if err == nil {
		failpoint.Hit("await.after")
	}
	if err == nil && f != nil && !came {
		return e.failed(ctx, l, *f)
	}
	return moved, err
}

// doSleep puts the lane to rest until its time has come.
func (e *Engine) doSleep(ctx context.Context, l *lane) (bool, error) {
	n, r := l.node(), rest{what: "sleep", limit: l.node().limit}
	if l.waits == "" && n.until != nil {
		begun := time.Now()
		err := e.attempt(ctx, l, func(ctx context.Context) (err error) {
			at, err := n.until(ctx, l.call())
			r.at = &at
			return err
		})
		if err != nil {
			if ctx.Err() != nil {
				return false, ctx.Err()
			}
			return e.failed(ctx, l, failure{err: err, begun: begun})
		}
	}
	return e.underLock(ctx, l, func(ctx context.Context, tx *stepTx, snap *locked) (bool, error) {
		if l.waited {
			return e.decideStep(ctx, tx, l, snap, &record{outcome: "done", result: json.RawMessage("{}")})
		}
		return e.rest(ctx, tx, l, snap, r)
	})
}

// rest is what a lane is put to rest for.
type rest struct {
	what    string        // signal, sleep, child
	limit   time.Duration // 0: none
	at      *time.Time    // an end by the calendar, instead of limit
	inDoubt bool          // something was begun outside
}

// rest gives the lane up until what its step waits for has come, and commits. If its saga has turned back
// meanwhile, there is nothing to wait for: the lane ends.
func (e *Engine) rest(ctx context.Context, tx *stepTx, l *lane, snap *locked, r rest) (bool, error) {
	if l.at.direction == Do && snap.state != Running && !l.onward() {
		l.inDoubt = l.inDoubt || r.inDoubt
		return e.decideStep(ctx, tx, l, snap, l.doubtful())
	}
	var seconds *float64
	if r.limit > 0 {
		s := r.limit.Seconds()
		seconds = &s
	}
	err := tx.commit(ctx, func(b *pgx.Batch) {
		b.Queue(sql.LaneWait, l.sagaID, l.id, l.token, r.what, r.at, seconds, l.inDoubt || r.inDoubt)
	})
	if err != nil {
		return false, answered(err)
	}
	switch {
	case r.at != nil:
		l.opts.due(time.Until(*r.at))
	case r.limit > 0:
		l.opts.due(r.limit)
	}
	e.wake(sql.TakeWakes(tx.conn.Conn())...)
	return false, nil
}
