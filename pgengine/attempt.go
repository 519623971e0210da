package pgengine

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/pgsagaz/pgsagaz/sql/failpoint"
)

// timeoutError: an attempt's time was up and it returned an error.
type timeoutError struct {
	after time.Duration
	what  string
	err   error
}

func (t *timeoutError) Error() string {
	return fmt.Sprintf("timed out after %v (%s): %v", t.after.Round(time.Millisecond), t.what, t.err)
}
func (t *timeoutError) Unwrap() error { return t.err }

// haltedError: an attempt was cut off, since its saga turns back.
type haltedError struct{ err error }

func (h *haltedError) Error() string { return fmt.Sprintf("%v: %v", errHalted, h.err) }
func (h *haltedError) Unwrap() error { return h.err }

// attempt calls f with the step's time limit and turns a panic into an error. A function that outlives
// its context is waited for, since nothing in Go can end it and two at once would be worse; if what
// it returns at last is a success, it counts.
func (e *Engine) attempt(ctx context.Context, l *lane, f func(context.Context) error) error {
	limit, what := l.node().timeout, "the step's Timeout"
	if !l.deadline.IsZero() && l.at.direction == Do && !l.onward() && !l.passed() {
		if left := time.Until(l.deadline); limit == 0 || left < limit {
			limit, what = max(left, time.Millisecond), "the saga's deadline"
		}
	}
	begun := time.Now()
	inner := ctx
	if l.at.direction == Do && !l.onward() && l.g.strategy.halts {
		var done func()
		inner, done = l.halt.call(inner)
		defer done()
	}
	if limit > 0 && !failpoint.Mutant("timeout.ignored") {
		var cancel context.CancelFunc
		inner, cancel = context.WithTimeout(inner, limit)
		defer cancel()
	}
	err := guarded(func() error { return f(inner) })
	took := time.Since(begun)
	if err != nil && errors.Is(context.Cause(inner), errHalted) && ctx.Err() == nil {
		if _, terminal := errors.AsType[*TerminalError](err); !terminal {
			return &haltedError{err}
		}
	}
	if limit > 0 && took > limit+time.Second {
		e.log.WarnContext(ctx, "a step ignores its context", "saga", l.g.name, "saga_id", l.sagaID, "step", l.name(),
			"direction", string(l.at.direction), "limit", limit, "took", took, "error", err)
	}
	if err != nil && inner.Err() != nil && ctx.Err() == nil {
		if _, terminal := errors.AsType[*TerminalError](err); !terminal {
			return &timeoutError{after: took, what: what, err: err}
		}
	}
	return err
}

// misuseError is a mistake in the definition that showed in the midst of a call, as a Result that is not
// there. Trying again does not help, and what the call had done until then is not known.
type misuseError struct{ err error }

func (e *misuseError) Error() string { return e.err.Error() }
func (e *misuseError) Unwrap() error { return e.err }

// guarded turns a panic of f into an error. A panic with a Terminal one keeps it.
func guarded(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			if perr, ok := p.(error); ok {
				if terminal, ok := errors.AsType[*TerminalError](perr); ok && terminal != nil {
					err = &misuseError{perr}
					return
				}
			}
			err = &PanicError{Value: p, Stack: string(debug.Stack())}
		}
	}()
	if err = f(); err != nil {
		_ = err.Error() // panics if it is a nil of its type, here rather than where it is logged
	}
	return err
}

// patience is how often in a row Postgres may keep a step from its end (a deadlock, a serialisation
// failure, a lock timeout) before that counts as a failed attempt. A connection that is lost after the time
// that a step's transaction may be silent counts for four: it may have been a crash of Postgres, but a step
// that sleeps in its transaction must not be put down to the database for ever.
const patience = 10

// blame says whose doing it is that a transaction of the step's did not go through: the step's, or the
// database's, and then the error is transient and the lane's patience shrinks.
func (l *lane) blame(tx *stepTx, err error, took time.Duration) error {
	switch {
	case tx.lost(err) && took >= l.opts.Idle:
		l.refused += 4
		err = fmt.Errorf("the connection was lost after %v (a step's transaction that sends nothing for %v is ended): %w",
			took.Round(time.Millisecond), l.opts.Idle, err)
	case tx.lost(err), unfit(err):
	case transient(err):
		l.refused++
	default:
		return err
	}
	l.lastRefusal = describe(err)
	return &unavailableError{err}
}
