package pgengine

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/codec"
	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/failpoint"
)

// doTx runs a TxStep's Do in the transaction that settles it.
func (e *Engine) doTx(ctx context.Context, l *lane) (bool, error) {
	tx, err := e.newTx(ctx, l)
	if err != nil {
		return false, err
	}
	defer tx.close()
	begun := time.Now()
	raw, err := e.callTx(ctx, l, tx)
	if err != nil {
		if ctx.Err() != nil {
			return false, ctx.Err() // we are being stopped: nobody's failure
		}
		return e.notDone(ctx, l, tx, err, begun)
	}
	failpoint.Hit("do_tx.before")
	rec := &record{outcome: "done", result: raw, took: time.Since(begun)}
	moved, err := e.settle(ctx, tx, l, rec)
	if err != nil { // a deferred constraint of the user's, at COMMIT, or the database's trouble
		return e.notDone(ctx, l, tx, err, begun)
	}
	failpoint.Hit("do_tx.after")
	return moved, nil
}

// callTx calls a TxStep's Do in tx, which must still be open afterwards.
func (e *Engine) callTx(ctx context.Context, l *lane, tx *stepTx) (raw json.RawMessage, err error) {
	err = e.attempt(ctx, l, func(ctx context.Context) error {
		c := l.call()
		c.maxBytes = e.maxPayload
		var err error
		raw, err = l.node().doTx(e.inStep(ctx, l), tx, c)
		return err
	})
	if err == nil {
		err = tx.owned()
	}
	return raw, err
}

// notDone rolls back what a TxStep did, which could not be committed, and says whose doing that is.
func (e *Engine) notDone(ctx context.Context, l *lane, tx *stepTx, err error, begun time.Time) (bool, error) {
	tx.close()
	if errors.Is(err, errTurnedBack) || errors.Is(err, errLost) {
		return false, err
	}
	if err = l.blame(tx, err, time.Since(begun)); transient(err) {
		return false, err
	}
	return e.failed(ctx, l, failure{err: err, begun: begun})
}

// doActivity calls an Activity's Do, outside any transaction, and settles what came of it.
func (e *Engine) doActivity(ctx context.Context, l *lane) (bool, error) {
	begun := time.Now()
	var raw json.RawMessage
	err := e.attempt(ctx, l, func(ctx context.Context) error {
		c := l.call()
		c.maxBytes = e.maxPayload
		var err error
		raw, err = l.node().do(ctx, c)
		return err
	})
	failpoint.Hit("do_activity.called")
	if err != nil {
		if ctx.Err() != nil {
			return false, ctx.Err() // we are being stopped: nobody's failure, and in doubt
		}
		return e.failed(ctx, l, failure{err: err, begun: begun, effect: mayHaveHappened(l.node(), err)})
	}

	rec := &record{outcome: "done", result: raw, took: time.Since(begun)}
	moved, err := e.persist(ctx, l, l.node().commit != nil || l.g.hooks.step != nil, func(ctx context.Context) (bool, error) {
		failpoint.Hit("do_activity.before")
		moved, err := e.settleActivity(ctx, l, rec, l.node().commit)
		if err == nil {
			failpoint.Hit("do_activity.after")
		}
		return moved, err
	})
	switch {
	case errors.Is(err, errLost):
		return false, e.untilAnswered(ctx, func() error { return e.late(ctx, l, raw) })
	case err == nil, transient(err), ctx.Err() != nil:
		return moved, err
	default: // the call went well and its Commit did not
		return e.failed(ctx, l, failure{err: err, begun: begun, effect: true})
	}
}

// undoTx runs a TxStep's Undo in the transaction that settles it.
func (e *Engine) undoTx(ctx context.Context, l *lane) (bool, error) {
	tx, err := e.newTx(ctx, l)
	if err != nil {
		return false, err
	}
	defer tx.close()
	begun := time.Now()
	err = e.attempt(ctx, l, func(ctx context.Context) error {
		return l.node().undoTx(e.inStep(ctx, l), tx, l.call(), l.results[l.node().name])
	})
	if err == nil {
		err = tx.owned()
	}
	if err == nil {
		failpoint.Hit("undo_tx.before")
		var moved bool
		if moved, err = e.settle(ctx, tx, l, &record{outcome: "done", took: time.Since(begun)}); err == nil {
			failpoint.Hit("undo_tx.after")
			return moved, nil
		}
	}
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	if errors.Is(err, errLost) {
		return false, err
	}
	tx.close()
	if errors.As(err, new(*hookError)) { // the undo is not to blame: it is done again, for as long as the hook takes
		return false, err
	}
	if err = l.blame(tx, err, time.Since(begun)); transient(err) {
		return false, err
	}
	return e.failed(ctx, l, failure{err: err, begun: begun})
}

// undoActivity undoes an Activity: what happened, or what may have happened once it is known.
func (e *Engine) undoActivity(ctx context.Context, l *lane) (bool, error) {
	begun := time.Now()
	n, rec := l.node(), &record{outcome: "done"}
	c, raw, found := l.call(), l.results[n.name], true
	var err error
	doubt, unwanted := l.doubts[n.name], false
	if doubt && n.when != nil {
		// A worker died at it, perhaps before its When was asked. What that refuses was never called, and is not to be called
		// now to learn its result.
		wanted, refused := e.wanted(ctx, l)
		unwanted = refused == nil && !wanted
	}
	if doubt && !unwanted {
		if raw, found, err = e.resolve(ctx, l); found {
			rec.result = raw
		}
		c.inDoubt = !found
	}
	switch {
	case err != nil:
	case unwanted, !found && n.lookup != nil:
		rec.outcome = "nothing" // a null compensation: there is nothing to undo
	default:
		err = e.attempt(ctx, l, func(ctx context.Context) error { return n.undo(ctx, c, raw) })
	}
	failpoint.Hit("undo_activity.called")
	if err != nil {
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		return e.failed(ctx, l, failure{err: err, begun: begun})
	}
	rec.took = time.Since(begun)
	var commit func(context.Context, pgx.Tx, *call, json.RawMessage) error
	if rec.outcome == "done" {
		commit = n.undoCommit
	}
	moved, err := e.persist(ctx, l, commit != nil, func(ctx context.Context) (bool, error) {
		failpoint.Hit("undo_activity.before")
		moved, err := e.settleUndone(ctx, l, rec, raw, commit)
		if err == nil {
			failpoint.Hit("undo_activity.after")
		}
		return moved, err
	})
	if err == nil || transient(err) || errors.Is(err, errLost) || ctx.Err() != nil || errors.As(err, new(*hookError)) {
		return moved, err
	}
	return e.failed(ctx, l, failure{err: err, begun: begun})
}

// resolve finds out whether an Activity in doubt happened: it asks Lookup or, without one, does it once
// more with its key, whose answer is then that of the first time. Not even that: not found, no error.
func (e *Engine) resolve(ctx context.Context, l *lane) (raw json.RawMessage, found bool, err error) {
	c := l.call()
	c.direction = Do // its keys are those of the call that is in doubt
	if l.node().lookup != nil {
		err = e.attempt(ctx, l, func(ctx context.Context) (err error) {
			raw, found, err = l.node().lookup(ctx, c)
			return err
		})
		return raw, found && err == nil, err
	}
	// In a time limit of its own: if the other side hangs, the undo must have its turn.
	err = e.attempt(ctx, l, func(ctx context.Context) error {
		var err error
		raw, err = l.node().do(ctx, c)
		return err
	})
	if err != nil {
		e.log.InfoContext(ctx, "an activity in doubt could not be repeated; it is undone by its key",
			"saga", l.g.name, "saga_id", l.sagaID, "step", l.name(), "error", describe(err))
		return nil, false, ctx.Err()
	}
	return raw, true, nil
}

// mayHaveHappened: an error of a call that does not say that it had no effect.
func mayHaveHappened(n *node, err error) bool {
	if failpoint.Mutant("undo.doubt-taken-for-failed") {
		return false
	}
	if errors.As(err, new(*resultError)) || errors.As(err, new(*misuseError)) ||
		errors.As(err, new(*timeoutError)) || errors.As(err, new(*PanicError)) {
		return true // whatever Retry.If says of it: it does not know where the call was cut off
	}
	return n.retry.retryable(err)
}

// inStep puts the saga into the context of functions that get a transaction, for the messages they write.
func (e *Engine) inStep(ctx context.Context, l *lane) context.Context {
	return codec.WithKey(sql.WithStep(ctx, l.sagaID, l.node().name), e.codec, l.key)
}
