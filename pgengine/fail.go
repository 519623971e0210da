package pgengine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgsagaz/pgsagaz/codec"
	"github.com/pgsagaz/pgsagaz/internal/tracing"
	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/failpoint"
)

// failure is an attempt that did not succeed.
type failure struct {
	err    error
	kind   string // "": told from err
	begun  time.Time
	effect bool // an Activity's: it may have happened
	anew   bool // a Recover says so: with all attempts
}

// failed settles an attempt that failed: it is due again later or, when its attempts are used up, the
// step has failed for good.
func (e *Engine) failed(ctx context.Context, l *lane, f failure) (bool, error) {
	n := l.node()
	f.effect = f.effect && n.outside()
	if errors.As(f.err, new(*haltedError)) {
		l.inDoubt, l.lastErr = l.inDoubt || f.effect, describe(f.err)
		return false, errTurnedBack
	}
	if c, ok := errors.AsType[*codec.Error](f.err); ok && !errors.Is(c, codec.ErrReserved) { // no attempt's fault
		l.unreadable, l.inDoubt = c, l.inDoubt || f.effect
		return e.closed(ctx, l)
	}
	policy := n.retry
	if l.at.direction == Undo {
		policy = n.undoRetry
	}
	e.classify(ctx, l, &f)
	e.metrics.failures.WithLabelValues(l.g.name, n.name, f.kind).Inc()
	tracing.Fail(ctx, f.kind)
	if !l.taken { // the attempt is recorded at the lane
		if err := e.untilAnswered(ctx, func() error { return e.begin(ctx, l) }); err != nil {
			return false, err
		}
	}
	attempt := l.attempt + 1
	said := &StepError{Saga: l.g.name, ID: l.sagaID, Step: n.name, Direction: l.at.direction, Attempt: attempt, Err: f.err}
	again := policy.retryable(f.err) && !errors.As(f.err, new(*resultError)) && !policy.exhausted(attempt, l.at.direction == Undo || l.onward())
	e.log.WarnContext(ctx, "step failed", "saga", l.g.name, "saga_id", l.sagaID, "step", n.name, "direction", string(l.at.direction),
		"attempt", attempt, "error", describe(said.Err), "again", again)

	switch {
	case again:
		return e.again(ctx, l, f, policy.delay(attempt))
	case l.at.direction == Undo && n.undoFailure == UndoStuck && !failpoint.Mutant("undo.failure-swallowed"):
		return e.park(ctx, l, f)
	case l.at.direction == Undo:
		return e.gone(ctx, l, f, false)
	case l.onward():
		return e.beyond(ctx, l, f)
	}
	return e.gone(ctx, l, f, n.outside() && (l.inDoubt || f.effect))
}

// classify says what kind of failure it is, if nobody has.
func (e *Engine) classify(ctx context.Context, l *lane, f *failure) {
	if f.kind != "" {
		return
	}
	f.kind = "error"
	if errors.As(f.err, new(*timeoutError)) {
		f.kind = "timeout"
	}
	if p, ok := errors.AsType[*PanicError](f.err); ok {
		f.kind = "panic"
		e.log.ErrorContext(ctx, "step panicked", "saga", l.g.name, "saga_id", l.sagaID, "step", l.name(), "panic", p.Value, "stack", p.Stack)
	}
}

// again gives the lane back, to be due after delay.
func (e *Engine) again(ctx context.Context, l *lane, f failure, delay time.Duration) (bool, error) {
	return e.persist(ctx, l, false, func(ctx context.Context) (bool, error) {
		failpoint.Hit("retry.before")
		_, err := e.pool.Exec(context.WithoutCancel(ctx), sql.RetryLater, l.sagaID, l.patient(f.effect), l.id, l.token, l.opts.Worker,
			f.kind, describe(f.err), f.effect, time.Since(f.begun).Seconds(), delay.Seconds(), f.anew)
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

// patient are the states in which the lane may wait for another attempt, or an operator. effect: what it
// is at may have had one.
func (l *lane) patient(effect bool) []string {
	switch {
	case l.at.direction == Undo:
		return []string{string(Compensating), string(Stuck)}
	case l.onward() && (l.inDoubt || effect): // a pivot in doubt, which a cancel waits for
		return []string{string(Running), string(Failing)}
	}
	return []string{string(Running)}
}

// gone records that a step, or its undo, has failed for good.
func (e *Engine) gone(ctx context.Context, l *lane, f failure, doubt bool) (bool, error) {
	rec := &record{outcome: "failed", inDoubt: doubt, err: describe(f.err), took: time.Since(f.begun)}
	failpoint.Hit("failed.before")
	moved, err := e.ended(ctx, l, rec)
	if err == nil {
		failpoint.Hit("failed.after")
	}
	return moved, err
}

// beyond deals with a failure for good where the saga can't turn back, or must not before it is known
// whether the pivot is done.
func (e *Engine) beyond(ctx context.Context, l *lane, f failure) (bool, error) {
	n := l.node()
	if l.at.node != l.g.pivot {
		switch {
		case n.rescue != nil:
			return e.rescue(ctx, l, f)
		case n.optional:
			return e.gone(ctx, l, f, n.outside() && (l.inDoubt || f.effect))
		}
		return e.park(ctx, l, f)
	}
	_, terminal := errors.AsType[*TerminalError](f.err)
	switch known := terminal && f.kind != "crash" && !f.effect; {
	case known || !l.inDoubt && !f.effect:
		return e.gone(ctx, l, f, false)
	case n.lookup == nil:
		return e.park(ctx, l, f)
	}
	raw, found, err := e.resolve(ctx, l)
	switch {
	case ctx.Err() != nil:
		return false, ctx.Err()
	case err != nil:
		f.err = fmt.Errorf("%w; and Lookup could not tell whether it happened: %w", f.err, err)
		return e.park(ctx, l, f)
	case !found:
		return e.gone(ctx, l, f, false)
	}
	rec := &record{outcome: "done", result: raw, took: time.Since(f.begun)}
	moved, err := e.persist(ctx, l, n.commit != nil, func(ctx context.Context) (bool, error) {
		return e.settleActivity(ctx, l, rec, n.commit)
	})
	if err == nil || errors.Is(err, errLost) || errors.Is(err, errTurnedBack) || transient(err) || ctx.Err() != nil {
		return moved, err
	}
	f.err, f.effect = fmt.Errorf("%w; Lookup found that it happened, and then Commit failed: %w", f.err, err), true
	return e.park(ctx, l, f)
}

// rescue asks the step's Recover, and does what it says. That of a TxStep runs in the transaction that
// records its decision; that of an Activity holds no connection.
func (e *Engine) rescue(ctx context.Context, l *lane, f failure) (bool, error) {
	n, begun := l.node(), time.Now()
	var tx *stepTx
	if n.isTx() {
		var err error
		if tx, err = e.newTx(ctx, l); err != nil {
			return false, err
		}
		defer tx.close()
	}
	var r recovery
	err := e.attempt(ctx, l, func(ctx context.Context) (err error) {
		c := l.call()
		c.maxBytes = e.maxPayload
		r, err = n.rescue(e.inStep(ctx, l), tx, c, f.err)
		return err
	})
	if err == nil && tx != nil {
		err = tx.owned()
	}
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	if err == nil && (r.action == RecoverWith || r.action == RecoverSkip) {
		rec := &record{outcome: "skipped", note: r.reason, took: time.Since(f.begun)}
		if r.action == RecoverWith {
			rec.outcome, rec.result = "done", r.result
		}
		if tx == nil {
			return e.ended(ctx, l, rec)
		}
		var moved bool
		moved, err = e.settleRescue(ctx, tx, l, rec)
		if err == nil || errors.Is(err, errLost) || errors.Is(err, errTurnedBack) {
			return moved, err
		}
	}
	lost := tx != nil && err != nil && tx.lost(err)
	if tx != nil {
		tx.close()
	}
	switch {
	case lost && time.Since(begun) < l.opts.Idle:
		return false, &unavailableError{err}
	case !lost && transient(err): // a deadlock, say: it may go through next time
		f.err = fmt.Errorf("%w; and Recover failed: %w", f.err, err)
		return e.again(ctx, l, f, n.retry.delay(l.attempt+1))
	case err != nil: // or it slept in its transaction for so long that Postgres ended it
		f.err = fmt.Errorf("%w; and Recover failed: %w", f.err, err)
	case r.action == RecoverRetry:
		if r.after <= 0 {
			r.after = n.retry.delay(1)
		}
		f.anew = true
		return e.again(ctx, l, f, r.after)
	case r.reason != "":
		f.err = fmt.Errorf("%w; handed over: %s", f.err, r.reason)
	}
	return e.park(ctx, l, f)
}

// settleRescue commits what a TxStep's Recover has decided, with what it wrote.
func (e *Engine) settleRescue(ctx context.Context, tx *stepTx, l *lane, rec *record) (bool, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleLimit)
	defer cancel()
	return e.planned(ctx, tx, l, rec)
}

// park leaves a lane that has given up where it is, for an operator, and plans without it: once nothing
// else is left to do, the saga is stuck.
func (e *Engine) park(ctx context.Context, l *lane, f failure) (bool, error) {
	return e.persist(ctx, l, false, func(ctx context.Context) (bool, error) {
		return e.inTx(ctx, l, func(ctx context.Context, tx *stepTx) (bool, error) {
			_, err := tx.Exec(ctx, sql.RetryLater, l.sagaID, l.patient(f.effect), l.id, l.token, l.opts.Worker,
				f.kind, describe(f.err), f.effect, time.Since(f.begun).Seconds(), -1.0, false)
			if err != nil {
				return false, answered(err)
			}
			snap, err := readLocked(ctx, tx, l.g, l.sagaID)
			if err != nil {
				return false, err
			}
			e.log.ErrorContext(ctx, "a step has given up: the saga needs an operator", "saga", l.g.name, "saga_id", l.sagaID,
				"step", l.name(), "direction", string(l.at.direction), "error", describe(f.err))
			return e.decide(ctx, tx, snap, settlement{
				sagaID: l.sagaID, g: l.g, at: l.at, from: []string{string(snap.state)}, step: l.name(), parked: f.err,
			})
		})
	})
}
