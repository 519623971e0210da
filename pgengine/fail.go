package pgengine

import (
	"context"
	"errors"
	"time"

	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/failpoint"
)

// failure is an attempt that did not succeed.
type failure struct {
	err    error
	kind   string // "": told from err
	begun  time.Time
	effect bool // an Activity's: it may have happened
}

// failed settles an attempt that failed: it is due again later or, when its attempts are used up, the
// step has failed for good.
func (e *Engine) failed(ctx context.Context, l *lane, f failure) (bool, error) {
	n := l.node()
	policy := n.retry
	if l.at.direction == Undo {
		policy = n.undoRetry
	}
	if f.kind == "" {
		f.kind = "error"
		if errors.As(f.err, new(*timeoutError)) {
			f.kind = "timeout"
		}
		if p, ok := errors.AsType[*PanicError](f.err); ok {
			f.kind = "panic"
			e.log.ErrorContext(ctx, "step panicked", "saga", l.g.name, "saga_id", l.sagaID, "step", n.name, "panic", p.Value, "stack", p.Stack)
		}
	}
	if !l.taken { // the attempt is recorded at the lane
		if err := e.untilAnswered(ctx, func() error { return e.begin(ctx, l) }); err != nil {
			return false, err
		}
	}
	attempt := l.attempt + 1
	said := &StepError{Saga: l.g.name, ID: l.sagaID, Step: n.name, Direction: l.at.direction, Attempt: attempt, Err: f.err}
	again := policy.retryable(f.err) && !errors.As(f.err, new(*resultError)) && !policy.exhausted(attempt, l.at.direction)
	delay := policy.delay(attempt)
	e.log.WarnContext(ctx, "step failed", "saga", l.g.name, "saga_id", l.sagaID, "step", n.name, "direction", string(l.at.direction),
		"attempt", attempt, "error", describe(said.Err), "again", again)
	f.effect = f.effect && !n.isTx()

	if again {
		return e.persist(ctx, l, false, func(ctx context.Context) (bool, error) {
			failpoint.Hit("retry.before")
			from := []string{string(Running)}
			if l.at.direction == Undo {
				from = []string{string(Compensating), string(Stuck)}
			}
			_, err := e.pool.Exec(context.WithoutCancel(ctx), sql.RetryLater, l.sagaID, from, l.id, l.token, l.opts.Worker,
				f.kind, describe(f.err), f.effect, time.Since(f.begun).Seconds(), delay.Seconds())
			err = answered(err)
			if errors.Is(err, errTurnedBack) {
				l.inDoubt = l.inDoubt || f.effect
				l.lastErr = describe(f.err)
				return e.turnBack(ctx, l)
			}
			if err == nil {
				failpoint.Hit("retry.after")
				l.opts.due(delay)
			}
			return false, err
		})
	}
	if l.at.direction == Undo {
		return e.persist(ctx, l, false, func(ctx context.Context) (bool, error) { return e.park(ctx, l, f) })
	}
	rec := &record{outcome: "failed", inDoubt: !n.isTx() && (l.inDoubt || f.effect), err: describe(f.err), took: time.Since(f.begun)}
	return e.persist(ctx, l, false, func(ctx context.Context) (bool, error) {
		failpoint.Hit("failed.before")
		moved, err := e.inTx(ctx, l, func(ctx context.Context, tx *stepTx) (bool, error) {
			return e.planned(ctx, tx, l, rec)
		})
		if err == nil {
			failpoint.Hit("failed.after")
		}
		return moved, err
	})
}

// park leaves a lane whose undo has given up where it is, for an operator, and plans without it: once
// nothing else is left to undo, the saga is stuck.
func (e *Engine) park(ctx context.Context, l *lane, f failure) (bool, error) {
	return e.inTx(ctx, l, func(ctx context.Context, tx *stepTx) (bool, error) {
		_, err := tx.Exec(ctx, sql.RetryLater, l.sagaID, []string{string(Compensating), string(Stuck)}, l.id, l.token, l.opts.Worker,
			f.kind, describe(f.err), false, time.Since(f.begun).Seconds(), -1.0)
		if err != nil {
			return false, answered(err)
		}
		snap, err := readLocked(ctx, tx, l.g, l.sagaID)
		if err != nil {
			return false, err
		}
		e.log.ErrorContext(ctx, "an undo has given up: the saga needs an operator", "saga", l.g.name, "saga_id", l.sagaID, "step", l.name(), "error", describe(f.err))
		return e.decide(ctx, tx, snap, settlement{sagaID: l.sagaID, g: l.g, at: l.at, from: []string{string(snap.state)}})
	})
}
