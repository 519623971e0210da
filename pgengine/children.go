package pgengine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/codec"
	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/failpoint"
)

// family is how the children of a step stand.
type family struct {
	total, unstarted, running, compensated int
	why                                    string // the first that was compensated was
}

func readFamily(ctx context.Context, db sql.Querier, sagaID, step string) (f family, err error) {
	err = db.QueryRow(ctx, sql.ChildCount, sagaID, step).Scan(&f.total, &f.unstarted, &f.running, &f.compensated, &f.why)
	return f, answered(err)
}

// errNoChildren: the step has not said yet what it is to start.
var errNoChildren = errors.New("no children yet")

// doChildren starts the children of a step and waits for their ends. Whatever it does is one transaction
// under the parent's lock; a child tells of its end by a command, which sets the lane going again.
func (e *Engine) doChildren(ctx context.Context, l *lane) (bool, error) {
	moved, err := e.children(ctx, l, nil)
	if !errors.Is(err, errNoChildren) {
		return moved, err
	}
	begun := time.Now()
	var inputs []json.RawMessage
	err = e.attempt(ctx, l, func(ctx context.Context) (err error) {
		c := l.call()
		c.maxBytes = e.maxPayload
		inputs, err = l.node().inputs(ctx, c)
		return err
	})
	if err != nil {
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		return e.failed(ctx, l, failure{err: err, begun: begun})
	}
	moved, err = e.children(ctx, l, append([]json.RawMessage{}, inputs...))
	if sql.State(err) != "" && !transient(err) {
		return e.failed(ctx, l, failure{err: err, begun: begun}) // it can't be started: nothing was
	}
	return moved, err
}

// children takes the next step with a step's children. inputs nil: they are listed already.
func (e *Engine) children(ctx context.Context, l *lane, inputs []json.RawMessage) (bool, error) {
	n := l.node()
	var gone *failure
	failpoint.Hit("children.before")
	moved, err := e.underLock(ctx, l, func(ctx context.Context, tx *stepTx, snap *locked) (bool, error) {
		gone = nil
		f, err := readFamily(ctx, tx, l.sagaID, n.name)
		if err != nil {
			return false, err
		}
		if snap.state != Running && (!l.onward() || f.total == 0) { // nothing is started any more
			l.inDoubt = l.inDoubt && f.total > 0
			return e.decideStep(ctx, tx, l, snap, l.doubtful())
		}
		if f.total == 0 {
			if inputs == nil {
				return false, errNoChildren
			}
			if len(inputs) > 0 {
				texts := make([]string, len(inputs))
				for i, raw := range inputs {
					stored, err := e.sealChild(ctx, tx, l, raw)
					if err != nil {
						return false, fmt.Errorf("item %d: %w", i, err)
					}
					texts[i] = string(stored)
				}
				if _, err := tx.Exec(ctx, sql.ChildAdd, l.sagaID, n.name, n.child, texts); err != nil {
					return false, answered(err)
				}
			}
			f.total, f.unstarted = len(inputs), len(inputs)
		}
		switch {
		case f.compensated > 0 && l.waits == "" && l.onward():
			// An operator, or a Recover, has set the lane going again: those that failed are tried anew.
			if _, err := tx.Exec(ctx, sql.ChildRestart, l.sagaID, n.name); err != nil {
				return false, answered(err)
			}
			f.unstarted += f.compensated
		case f.compensated > 0 && (!n.optional && !l.onward() || f.running == 0):
			gone = &failure{err: Terminal(errors.New(f.why)), begun: time.Now(), effect: f.compensated+f.unstarted < f.total}
			l.inDoubt = false // it is known, but for the others
			return false, nil
		case f.compensated > 0:
			return e.rest(ctx, tx, l, snap, rest{what: "child", inDoubt: true})
		case f.unstarted == 0 && f.running == 0:
			return e.gathered(ctx, tx, l, snap)
		}
		started := 0
		if room := n.parallel - f.running; f.unstarted > 0 && room > 0 {
			if err := tx.QueryRow(ctx, sql.ChildStart, l.sagaID, n.name, room, l.g.never(l.at.node)).Scan(&started); err != nil {
				return false, named(answered(err))
			}
		}
		if started > 0 {
			sql.WakeLater(tx.conn.Conn(), defaultQueue)
		}
		return e.rest(ctx, tx, l, snap, rest{what: "child", inDoubt: true})
	})
	if err == nil {
		failpoint.Hit("children.after")
	}
	if err == nil && gone != nil {
		return e.failed(ctx, l, *gone)
	}
	return moved, err
}

// gathered ends a step whose children are all completed.
func (e *Engine) gathered(ctx context.Context, tx *stepTx, l *lane, snap *locked) (bool, error) {
	rows, err := tx.Query(ctx, sql.ChildResults, l.sagaID, l.name())
	if err != nil {
		return false, answered(err)
	}
	outputs, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (json.RawMessage, error) {
		var raw []byte
		err := row.Scan(&raw)
		if raw == nil {
			raw = []byte("null") // a saga without an Output
		}
		return raw, err
	})
	if err != nil {
		return false, answered(err)
	}
	for i, stored := range outputs {
		if outputs[i], err = e.open(ctx, tx, atResult(l.node().child), stored); err != nil {
			return false, err
		}
	}
	result, err := l.node().gather(outputs)
	if err != nil {
		return false, err
	}
	return e.decideStep(ctx, tx, l, snap, &record{outcome: "done", result: result})
}

// undoChildren asks the children of a step to turn back, and waits until they are compensated.
func (e *Engine) undoChildren(ctx context.Context, l *lane) (bool, error) {
	begun := time.Now()
	return e.underLock(ctx, l, func(ctx context.Context, tx *stepTx, snap *locked) (bool, error) {
		var left int
		reason := fmt.Sprintf("saga %s: %s", l.sagaID, snap.cause)
		if err := tx.QueryRow(ctx, sql.ChildRevert, l.sagaID, l.name(), reason).Scan(&left); err != nil {
			return false, answered(err)
		}
		if left == 0 {
			return e.decideStep(ctx, tx, l, snap, &record{outcome: "done", took: time.Since(begun)})
		}
		sql.WakeLater(tx.conn.Conn(), ControlQueue)
		return e.rest(ctx, tx, l, snap, rest{what: "child", inDoubt: true})
	})
}

// sealChild encodes the input of a child: under the key of the saga that starts it or, if that is nobody's, of the child's own
// subject.
func (e *Engine) sealChild(ctx context.Context, tx *stepTx, l *lane, raw json.RawMessage) (json.RawMessage, error) {
	n, k := l.node(), l.key
	if e.codec != nil && k == (codec.Key{}) && n.subject != nil {
		subject, err := n.subject(raw)
		if err != nil {
			return nil, err
		}
		if k, err = e.codec.KeyOf(ctx, tx, subject); err != nil {
			return nil, unread(err)
		}
	}
	return e.seal(ctx, tx, k, atInput(n.child), raw)
}
