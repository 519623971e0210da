package pgengine

import (
	"context"
	"encoding/json"
	"reflect"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// kind is what a step is, as tools see it too.
type kind string

const (
	kindTx       kind = "tx"
	kindActivity kind = "activity"
	kindAwait    kind = "await"
	kindSleep    kind = "sleep"
	kindChild    kind = "child"
	kindEach     kind = "each"
)

// node is a step without its types: what the engine runs.
type node struct {
	kind             kind
	name             string
	after            predecessors
	retry, undoRetry Retry
	undoFailure      UndoFailure
	manualUndo       bool
	timeout          time.Duration // of one attempt; 0: none
	queue            string
	priority         int // 0: the saga's
	optional, pivot  bool
	result           reflect.Type
	funcs            []bool // which of the user's functions there are
	gates            gates  // its Limit; none: it has none
	problems         []string

	when   func(*call) (bool, error)                                     // nil: always
	rescue func(context.Context, pgx.Tx, *call, error) (recovery, error) // its Recover

	// Of a TxStep:
	doTx   func(context.Context, pgx.Tx, *call) (json.RawMessage, error)
	undoTx func(context.Context, pgx.Tx, *call, json.RawMessage) error
	// Of an Activity:
	do         func(context.Context, *call) (json.RawMessage, error)
	commit     func(context.Context, pgx.Tx, *call, json.RawMessage) error
	lookup     func(context.Context, *call) (json.RawMessage, bool, error)
	undo       func(context.Context, *call, json.RawMessage) error
	undoCommit func(context.Context, pgx.Tx, *call, json.RawMessage) error
	// Of an Await and a Sleep:
	signal    string        // what the Await waits for
	limit     time.Duration // of the wait; 0: none
	until     func(context.Context, *call) (time.Time, error)
	onTimeout func(context.Context, *call) (json.RawMessage, error)
	fits      func(json.RawMessage) error // whether a signal's payload, or an operator's result, fits
	// Of a Child and an Each:
	child    string // the name of the sagas that it starts
	parallel int    // how many at once
	inputs   func(context.Context, *call) ([]json.RawMessage, error)
	subject  func(json.RawMessage) (string, error) // whose data such an input is
	gather   func([]json.RawMessage) (json.RawMessage, error)
}

// outside says whether the step has effects that no transaction of ours takes back: then its outcome can
// be in doubt.
func (n node) outside() bool {
	return n.kind == kindActivity || n.kind == kindChild || n.kind == kindEach
}

func (n node) isTx() bool        { return n.kind == kindTx }
func (n node) hasChildren() bool { return n.kind == kindChild || n.kind == kindEach }

func (n node) undoable() bool {
	return n.undoTx != nil || n.undo != nil || n.manualUndo || n.hasChildren()
}

// mayLack says whether the saga may go on past the step without a result of it.
func (n node) mayLack() bool { return n.optional || n.when != nil || n.rescue != nil }

func (n *node) checkManual(undo bool) {
	if undo && n.manualUndo {
		n.wrong("has an Undo and a ManualUndo: it is either")
	}
}

func (n *node) wrong(problem string) { n.problems = append(n.problems, problem) }

func comesAfter[I Input](n *node, steps []Step[I]) {
	for _, s := range steps {
		if s == nil {
			n.wrong("After holds a nil")
			return
		}
	}
	n.after = predecessorsOf(steps, func(s Step[I]) node { return s.node() })
}

// predecessors are the steps that a step comes after. Each of these has its own, as it is a copy: of a definition in which many come after
// many, all of them together are too many to be made, and so they are made when they are asked for.
type predecessors struct {
	nodes func() []node // nil: none
	list  any           // where the definition lists them: copies of one step have one list
	count int
}

func predecessorsOf[S any](list []S, of func(S) node) predecessors {
	if len(list) == 0 {
		return predecessors{}
	}
	return predecessors{list: &list[0], count: len(list), nodes: func() (nodes []node) {
		for _, s := range list {
			nodes = append(nodes, of(s))
		}
		return nodes
	}}
}

// all makes them.
func (p predecessors) all() []node {
	if p.nodes == nil {
		return nil
	}
	return p.nodes()
}

// same says whether p and o are steps of the same names.
func (p predecessors) same(o predecessors) bool {
	if p.count != o.count || p.list == o.list {
		return p.count == o.count
	}
	names := func(p predecessors) (s []string) {
		for _, n := range p.all() {
			s = append(s, n.name)
		}
		slices.Sort(s)
		return s
	}
	return slices.Equal(names(p), names(o))
}

// whenOf is a step's When without its types. A panic of it is a failure of the step.
func whenOf[I Input](when func(Call[I]) bool) func(*call) (bool, error) {
	if when == nil {
		return nil
	}
	return func(c *call) (bool, error) {
		typed, err := typedCall[I](c)
		if err != nil {
			return false, err
		}
		return when(typed), nil
	}
}

// same says whether n and o are copies of one step.
func (n node) same(o node) bool {
	retry := func(r Retry) Retry { r.If = nil; return r }
	return n.kind == o.kind && n.name == o.name && n.result == o.result && n.timeout == o.timeout && n.queue == o.queue && n.priority == o.priority &&
		n.optional == o.optional && n.pivot == o.pivot && n.undoFailure == o.undoFailure && n.manualUndo == o.manualUndo &&
		n.signal == o.signal && n.child == o.child && n.parallel == o.parallel && n.limit == o.limit &&
		n.gates.same(o.gates) && slices.Equal(n.funcs, o.funcs) && n.after.same(o.after) &&
		reflect.DeepEqual(retry(n.retry), retry(o.retry)) && reflect.DeepEqual(retry(n.undoRetry), retry(o.undoRetry))
}
