package pgengine

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
)

// Child runs another saga as a step: it starts in the commit that begins to wait for it, and its end is
// the step's. If it is completed, its output is the step's result; if it was compensated, the step has
// failed. The step's undo is the child's compensation: it turns back, even if it was completed.
//
// C is the child's input, and names it; any process may have its code. R is the type of its output. A
// child that has a pivot can't be taken back past it: it is refused here unless this step is, or comes
// after, the parent's own pivot.
type Child[I Input, C Input, R any] struct {
	Name     string
	After    []Step[I]
	Queue    string
	Priority int
	Optional bool
	Pivot    bool
	When     func(c Call[I]) bool
	Input    func(ctx context.Context, c Call[I]) (C, error)
}

// Each runs one child saga for each of a list of items, at most Parallel at once. The list is recorded
// before the first of them starts. Its result is the list of their outputs, in the order of the items.
// When one of them was compensated the step has failed: no more are started, and those that there
// are turn back. The start key of an item's saga contains the item's index, so that equal items are two.
type Each[I Input, C Input, R any] struct {
	Name     string
	After    []Step[I]
	Queue    string
	Priority int
	When     func(c Call[I]) bool
	Inputs   func(ctx context.Context, c Call[I]) ([]C, error) // at most 10,000
	Parallel int                                               // 0: 10
}

const (
	eachParallel = 10
	maxItems     = 10000
)

func (Child[I, C, R]) input() (in I) { return in }
func (Each[I, C, R]) input() (in I)  { return in }

func (s Child[I, C, R]) node() node {
	n := node{
		kind: kindChild, name: s.Name, timeout: defaultActivityTimeout, queue: s.Queue, priority: s.Priority, optional: s.Optional, pivot: s.Pivot,
		result: reflect.TypeFor[R](), funcs: given(s.When, s.Input), parallel: 1,
	}
	comesAfter(&n, s.After)
	n.when = whenOf(s.When)
	n.childOf(*new(C))
	n.subject = subjectIn[C]
	if s.Input == nil {
		n.wrong("has no Input")
	}
	n.inputs = func(ctx context.Context, c *call) ([]json.RawMessage, error) {
		typed, err := typedCall[I](c)
		if err != nil {
			return nil, err
		}
		in, err := s.Input(ctx, typed)
		raw, err := encodeResult(c, in, err)
		return []json.RawMessage{raw}, err
	}
	n.gather = func(outputs []json.RawMessage) (json.RawMessage, error) { return outputs[0], nil }
	return n
}

func (s Each[I, C, R]) node() node {
	n := node{
		kind: kindEach, name: s.Name, timeout: defaultActivityTimeout, queue: s.Queue, priority: s.Priority,
		result: reflect.TypeFor[[]R](), funcs: given(s.When, s.Inputs), parallel: s.Parallel,
	}
	comesAfter(&n, s.After)
	n.when = whenOf(s.When)
	n.childOf(*new(C))
	n.subject = subjectIn[C]
	if s.Inputs == nil {
		n.wrong("has no Inputs")
	}
	if s.Parallel < 0 {
		n.wrong("its Parallel is negative")
	}
	if s.Parallel == 0 {
		n.parallel = eachParallel
	}
	n.inputs = func(ctx context.Context, c *call) ([]json.RawMessage, error) {
		typed, err := typedCall[I](c)
		if err != nil {
			return nil, err
		}
		items, err := s.Inputs(ctx, typed)
		if err != nil {
			return nil, err
		}
		if len(items) > maxItems {
			return nil, Terminal(fmt.Errorf("its Inputs gave %d items, at most %d are allowed", len(items), maxItems))
		}
		raws := make([]json.RawMessage, len(items))
		for i, in := range items {
			if raws[i], err = encodeResult(c, in, nil); err != nil {
				return nil, fmt.Errorf("item %d: %w", i, err)
			}
		}
		return raws, nil
	}
	n.gather = func(outputs []json.RawMessage) (json.RawMessage, error) {
		if outputs == nil {
			outputs = []json.RawMessage{}
		}
		return json.Marshal(outputs)
	}
	return n
}

// childOf notes whose sagas the step starts.
func (n *node) childOf(zero Input) {
	name, err := inputName(zero)
	if err != nil {
		n.wrong("its child: " + err.Error())
	}
	n.child = name
}
