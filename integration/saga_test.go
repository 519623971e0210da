//go:build unix

package integration

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/pgengine"
)

// Order is the input of the saga that all tests run, and says what is to go wrong with it.
//
//	reserve ─ charge ┬ pack  ┬ ship ─ tell
//	                 ├ label ┤
//	                 └ note  ┘
//
// reserve, pack, note and ship work in Postgres; charge, label and tell call the outside. charge has local rows of its own, and
// label a Lookup; charge is undone by repeating it where it is in doubt.
type Order struct {
	ID     string
	Shelf  int               // where reserve takes one from
	Faults map[string]string // by step, or "undo " + step
	Gates  []string          // the steps that pass a gate
	Deaf   bool              // at gates the steps ignore their contexts
}

// The faults there are.
const (
	flaky    = "flaky"    // two attempts fail; those of an Activity after their effect
	panics   = "panics"   // the first attempt panics
	terminal = "terminal" // there is no effect and never will be
	lost     = "lost"     // there is an effect, and never an answer
	slow     = "slow"     // takes its time
)

// SagaName is the saga's name.
func (Order) SagaName() string { return "trial" }

func (o Order) gated(step string) bool { return slices.Contains(o.Gates, step) }

// wants is how the order must end unless somebody cancels it.
func (o Order) wants() pgengine.State {
	for _, f := range o.Faults {
		if f == terminal || f == lost {
			return pgengine.Compensated
		}
	}
	return pgengine.Completed
}

type orderCall = pgengine.Call[Order]

var quickly = pgengine.Retry{MaxAttempts: 3, Initial: 20 * time.Millisecond, Max: 100 * time.Millisecond}

// undoQuickly never gives up.
var undoQuickly = pgengine.Retry{Initial: 20 * time.Millisecond, Max: 100 * time.Millisecond}

// steps that write rows in the transaction that records them, and those that call the outside.
var (
	writing = []string{"reserve", "charge", "pack", "note", "ship", "load", "seal", "stamp", "weigh", "sign"}
	calling = []string{"charge", "label", "tell"}
)

// sagas are the definitions of a process.
func sagas(c *client) []pgengine.Definition {
	reserve := c.writes("reserve")
	charge := c.calls("charge", func(call orderCall) error { return same(reserve.Result(call), call, "reserve") })
	charge.After = pgengine.Steps(reserve)
	charge.Commit = func(ctx context.Context, tx pgx.Tx, call orderCall, _ string) error { return note(ctx, tx, call, "do") }
	charge.UndoCommit = func(ctx context.Context, tx pgx.Tx, call orderCall, _ string) error {
		return note(ctx, tx, call, "undo")
	}

	received := func(call orderCall) error { return same(charge.Result(call), call, "charge") }
	pack := c.writes("pack", received)
	pack.After = pgengine.Steps(charge)
	label := c.calls("label", received)
	label.After = pgengine.Steps(charge)
	label.Lookup = func(ctx context.Context, call orderCall) (string, bool, error) { return c.find(ctx, call.DoKey()) }
	remark := c.writes("note", received)
	remark.After = pgengine.Steps(charge)

	ship := c.writes("ship", received,
		func(call orderCall) error { return same(pack.Result(call), call, "pack") },
		func(call orderCall) error { return same(label.Result(call), call, "label") })
	ship.After = pgengine.Steps(pack, label, remark)
	tell := c.calls("tell", func(call orderCall) error { return same(ship.Result(call), call, "ship") })
	tell.After = pgengine.Steps(ship)
	trial := pgengine.Saga[Order]{Version: 1, Output: tell, Steps: pgengine.Steps(reserve, charge, pack, label, remark, ship, tell)}
	return append(convoys(), trial)
}

// same proves that the result of a step is what that step returned.
func same(result string, call orderCall, step string) error {
	if want := "receipt of " + call.SagaID + "/" + step; result != want {
		return pgengine.Terminal(fmt.Errorf("the result of %s is %q, want %q", step, result, want))
	}
	return nil
}

// note writes that a step took effect. No constraint keeps it from happening twice: the audit counts.
func note(ctx context.Context, tx pgx.Tx, call orderCall, direction string) error {
	_, err := tx.Exec(ctx, `INSERT INTO effect (saga, step, direction) VALUES ($1, $2, $3)`, call.SagaID, call.Step, direction)
	return err
}

// take moves one off the order's shelf, or back. Many orders share a shelf, and its lock.
func take(ctx context.Context, tx pgx.Tx, call orderCall, n int) error {
	if call.Step != "reserve" {
		return nil
	}
	_, err := tx.Exec(ctx, `UPDATE shelf SET items = items - $2 WHERE id = $1`, call.Input.Shelf, n)
	return err
}

// trouble is what an order says is to happen to a step before it takes effect.
func trouble(ctx context.Context, call orderCall, step string) error {
	switch fault := call.Input.Faults[step]; {
	case fault == panics && call.Attempt == 1:
		panic("as the order says")
	case fault == terminal:
		return pgengine.Terminal(errors.New("will never do"))
	case fault == slow:
		select {
		case <-time.After(400 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// aftermath is what happens once it has taken effect.
func aftermath(call orderCall, step string) error {
	switch fault := call.Input.Faults[step]; {
	case fault == flaky && call.Attempt <= 2:
		return errors.New("fails twice")
	case fault == lost:
		return errors.New("no answer")
	}
	return nil
}

func (c *client) writes(name string, checks ...func(orderCall) error) pgengine.TxStep[Order, string] {
	return pgengine.TxStep[Order, string]{
		Name: name, Retry: quickly, UndoRetry: undoQuickly,
		Do: func(ctx context.Context, tx pgx.Tx, call orderCall) (string, error) {
			for _, check := range checks {
				if err := check(call); err != nil {
					return "", err
				}
			}
			err := errors.Join(trouble(ctx, call, name), take(ctx, tx, call, 1), note(ctx, tx, call, "do"))
			if err == nil {
				err = errors.Join(c.pass(ctx, call.Input, name), aftermath(call, name))
			}
			return "receipt of " + call.DoKey(), err
		},
		Undo: func(ctx context.Context, tx pgx.Tx, call orderCall, receipt string) error {
			if err := same(receipt, call, name); err != nil {
				return err
			}
			err := errors.Join(trouble(ctx, call, "undo "+name), take(ctx, tx, call, -1), note(ctx, tx, call, "undo"))
			if err == nil {
				err = errors.Join(c.pass(ctx, call.Input, "undo "+name), aftermath(call, "undo "+name))
			}
			return err
		},
	}
}

func (c *client) calls(name string, checks ...func(orderCall) error) pgengine.Activity[Order, string] {
	return pgengine.Activity[Order, string]{
		Name: name, Retry: quickly, UndoRetry: undoQuickly,
		Do: func(ctx context.Context, call orderCall) (string, error) {
			for _, check := range checks {
				if err := check(call); err != nil {
					return "", err
				}
			}
			if err := trouble(ctx, call, name); err != nil {
				return "", err
			}
			receipt, err := c.do(ctx, call.Key())
			if err == nil {
				err = errors.Join(c.pass(ctx, call.Input, name), aftermath(call, name))
			}
			return receipt, err
		},
		Undo: func(ctx context.Context, call orderCall, receipt string) error {
			if !call.InDoubt() {
				if err := same(receipt, call, name); err != nil {
					return err
				}
			}
			if err := trouble(ctx, call, "undo "+name); err != nil {
				return err
			}
			if err := c.undo(ctx, call.DoKey()); err != nil {
				return err
			}
			return errors.Join(c.pass(ctx, call.Input, "undo "+name), aftermath(call, "undo "+name))
		},
	}
}
