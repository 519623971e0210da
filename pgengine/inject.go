package pgengine

import (
	"context"
	"encoding/json"
	"time"

	"github.com/jackc/pgx/v5"
)

// Point is a call of one of a step's functions, before it or after it. A test interferes there.
type Point struct {
	SagaID, Step string
	Function     string // its field's name: Do, Commit, Lookup, Undo, UndoCommit, When, Recover, Until, OnTimeout, Input
	Attempt      int
	After        bool
}

// Inject is the definition with a hook at every call of its steps' functions, for tests of what the saga does when they
// fail. An error of the hook before a call is what the call fails with, without being made; after a call that
// went well, it takes the result's place.
func Inject(d Definition, hook func(Point) error) Definition { return injected{d, hook} }

type injected struct {
	Definition
	hook func(Point) error
}

func (d injected) definition() (*graph, []error) {
	g, problems := d.Definition.definition()
	if g == nil {
		return g, problems
	}
	for i := range g.nodes {
		d.wrap(&g.nodes[i])
	}
	return g, problems
}

// around calls f between the hooks.
func (d injected) around(c *call, function string, f func() error) error {
	p := Point{SagaID: c.sagaID, Step: c.step, Function: function, Attempt: c.attempt}
	if err := d.hook(p); err != nil {
		return err
	}
	if err := f(); err != nil {
		return err
	}
	p.After = true
	return d.hook(p)
}

func (d injected) wrap(n *node) {
	type raw = json.RawMessage
	// Each kind of function has its own shape; around is what they share.
	returning := func(function string, c *call, f func() (raw, error)) (r raw, err error) {
		err = d.around(c, function, func() (err error) { r, err = f(); return err })
		return r, err
	}
	if f := n.when; f != nil {
		n.when = func(c *call) (yes bool, err error) {
			err = d.around(c, "When", func() (err error) { yes, err = f(c); return err })
			return yes, err
		}
	}
	if f := n.rescue; f != nil {
		n.rescue = func(ctx context.Context, tx pgx.Tx, c *call, cause error) (r recovery, err error) {
			err = d.around(c, "Recover", func() (err error) { r, err = f(ctx, tx, c, cause); return err })
			return r, err
		}
	}
	if f := n.doTx; f != nil {
		n.doTx = func(ctx context.Context, tx pgx.Tx, c *call) (raw, error) {
			return returning("Do", c, func() (raw, error) { return f(ctx, tx, c) })
		}
	}
	if f := n.do; f != nil {
		n.do = func(ctx context.Context, c *call) (raw, error) {
			return returning("Do", c, func() (raw, error) { return f(ctx, c) })
		}
	}
	if f := n.undoTx; f != nil {
		n.undoTx = func(ctx context.Context, tx pgx.Tx, c *call, r raw) error {
			return d.around(c, "Undo", func() error { return f(ctx, tx, c, r) })
		}
	}
	if f := n.undo; f != nil {
		n.undo = func(ctx context.Context, c *call, r raw) error {
			return d.around(c, "Undo", func() error { return f(ctx, c, r) })
		}
	}
	if f := n.lookup; f != nil {
		n.lookup = func(ctx context.Context, c *call) (r raw, found bool, err error) {
			err = d.around(c, "Lookup", func() (err error) { r, found, err = f(ctx, c); return err })
			return r, found, err
		}
	}
	if f := n.commit; f != nil {
		n.commit = func(ctx context.Context, tx pgx.Tx, c *call, r raw) error {
			return d.around(c, "Commit", func() error { return f(ctx, tx, c, r) })
		}
	}
	if f := n.undoCommit; f != nil {
		n.undoCommit = func(ctx context.Context, tx pgx.Tx, c *call, r raw) error {
			return d.around(c, "UndoCommit", func() error { return f(ctx, tx, c, r) })
		}
	}
	if f := n.until; f != nil {
		n.until = func(ctx context.Context, c *call) (at time.Time, err error) {
			err = d.around(c, "Until", func() (err error) { at, err = f(ctx, c); return err })
			return at, err
		}
	}
	if f := n.onTimeout; f != nil {
		n.onTimeout = func(ctx context.Context, c *call) (raw, error) {
			return returning("OnTimeout", c, func() (raw, error) { return f(ctx, c) })
		}
	}
	if f := n.inputs; f != nil {
		n.inputs = func(ctx context.Context, c *call) (in []raw, err error) {
			err = d.around(c, "Input", func() (err error) { in, err = f(ctx, c); return err })
			return in, err
		}
	}
}
