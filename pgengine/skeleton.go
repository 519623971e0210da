package pgengine

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
)

// skeleton is the graph behind p with functions that are there and can't be called: enough for plan, which
// only asks whether a step has them.
func (p Graph) skeleton() (*graph, error) {
	nodes := make([]node, len(p.Steps))
	byName := map[string]int{}
	for i, s := range p.Steps {
		nodes[i] = s.skeleton()
		byName[s.Name] = i
	}
	for i, s := range p.Steps {
		nodes[i].after = predecessorsOf(s.After, func(name string) node {
			if j, ok := byName[name]; ok { // a copy, as After has them
				return nodes[j]
			}
			return node{name: name}
		})
	}
	// A graph does not know its name: that its steps fit together is all that is checked.
	g, problems := newGraph("outlined", 1, nodes)
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	g.output, g.timeout, g.ranks = p.Output, p.Timeout, p.Priority
	return g, nil
}

func (s GraphStep) skeleton() node {
	n := node{
		kind: kind(s.Kind), name: s.Name, queue: s.Queue, priority: s.Tuning.Priority, optional: s.Optional, pivot: s.Pivot,
		undoFailure: s.UndoFailure, manualUndo: s.ManualUndo, signal: s.Signal, child: s.Child,
	}
	switch n.kind {
	case kindTx, kindActivity, kindAwait, kindSleep, kindChild, kindEach:
	default:
		n.wrong("is of the unknown kind " + s.Kind)
	}
	if s.When {
		n.when = func(*call) (bool, error) { panic(notCalled) }
	}
	if s.Recover {
		n.rescue = func(context.Context, pgx.Tx, *call, error) (recovery, error) { panic(notCalled) }
	}
	if s.Lookup {
		n.lookup = func(context.Context, *call) (json.RawMessage, bool, error) { panic(notCalled) }
	}
	if s.Undo && !s.ManualUndo {
		switch n.kind {
		case kindTx:
			n.undoTx = func(context.Context, pgx.Tx, *call, json.RawMessage) error { panic(notCalled) }
		case kindActivity:
			n.undo = func(context.Context, *call, json.RawMessage) error { panic(notCalled) }
		}
	}
	switch n.kind {
	case kindAwait, kindSleep:
		n.limit = s.Tuning.Timeout
		if s.Tuning.OnTimeout {
			n.onTimeout = func(context.Context, *call) (json.RawMessage, error) { panic(notCalled) }
		}
		if n.kind == kindSleep && n.limit == 0 {
			n.until = func(context.Context, *call) (time.Time, error) { panic(notCalled) }
		}
	default:
		n.retry.MaxAttempts, n.undoRetry.MaxAttempts = s.Tuning.Attempts, s.Tuning.UndoAttempts
		n.timeout, n.parallel = s.Tuning.Timeout, s.Tuning.Parallel
	}
	return n
}

const notCalled = "pgengine: a plan is not executed"
