package pgengine

import (
	"slices"

	"github.com/pgsagaz/pgsagaz/sql/failpoint"
)

// Direction is forward or back.
type Direction string

// The two directions.
const (
	Do   Direction = "do"
	Undo Direction = "undo"
)

// State is where a saga stands.
type State string

// The states of a saga. It moves only downwards in this list, but for: an operator's act on a stuck saga,
// a pivot that came through after all, a result that arrives after its undo, and a child that is taken back by
// its parent. The database refuses every other way.
const (
	Running      State = "running"      // going forward
	Failing      State = "failing"      // it will turn back; steps that had begun are still ending
	Compensating State = "compensating" // undoing
	Stuck        State = "stuck"        // nothing goes on before an operator acts: an undo has given up, or a step past the pivot
	Completed    State = "completed"    // every step is done
	Compensated  State = "compensated"  // every done step is undone
)

// Ended says that nothing more will happen by itself.
func (s State) Ended() bool { return s == Completed || s == Compensated }

// outcome of a step's Do, as far as it is known.
type outcome int

const (
	open    outcome = iota // it has none yet
	done                   // it happened
	failed                 // it did not happen
	inDoubt                // it failed, and may have happened
	skipped                // it was not to happen
)

// known is what is known of a step: its latest generation.
type known struct {
	outcome    outcome
	generation int  // of outcome; 0 while it is open
	undone     bool // what this generation did has been undone, or proved not to have happened, or given up
	gaveUp     bool // its undo has failed, and the saga goes on regardless
}

// laneAt is somebody's claim.
type laneAt struct {
	id         int64
	node       int // -1: a lane that has no step yet
	direction  Direction
	generation int
	held       bool // a worker drives it; otherwise it waits
	parked     bool // it waits for an operator
	inDoubt    bool // something was begun outside, and nobody knows how it ended
	waits      string
}

// snapshot is a saga as it stands under its lock.
type snapshot struct {
	state State
	steps []known // by node
	lanes []laneAt

	paused bool // nothing is begun
	noUndo bool // an operator has ended it without undoing
}

// decision is what follows from a snapshot.
type decision struct {
	state    State
	begin    []task     // ready and unclaimed, in the order of the definition
	dissolve []dissolve // waiting lanes that the saga has no use for any more
	forgo    []task     // undos that are not to happen, since one that had to come before has given up
}

type task struct {
	node       int
	direction  Direction
	generation int
}

type dissolve struct {
	lane   int64
	record bool // its step is in doubt: record that
}

// plan decides what follows. It is the engine's whole knowledge of what a saga is, and touches nothing:
// no clock, no database.
//
//	running       every step has arrived -> completed; a required one failed -> failing;
//	              past the pivot, nothing left to do but what is parked -> stuck
//	failing       lanes that wait are dissolved; once none is left -> compensating. A pivot in doubt stays
//	              until it is known: done -> running again
//	compensating  what has no standing dependent is undone; all undone -> compensated;
//	              nothing left to do but what is parked -> stuck
//	stuck         one of the three, by what is known
//
// Of a paused saga nothing is begun; what an operator has to do is put before him all the same.
func plan(g *graph, s snapshot) decision {
	d := decision{state: s.state}
	steps := append([]known(nil), s.steps...)
	passed := g.pivot >= 0 && steps[g.pivot].outcome == done && !failpoint.Mutant("pivot.ignored")

	switch {
	case passed && !d.state.Ended():
		d.state = Running
	case d.state == Running && turned(g, steps):
		d.state = Failing
	case d.state == Stuck && pivotLane(g, s.lanes) >= 0:
		d.state = Failing
	case d.state == Stuck:
		d.state = Compensating
	}
	lanes := s.lanes
	if d.state == Failing {
		lanes = dissolveWaiting(g, &d, steps, lanes)
		if len(lanes) == 0 || failpoint.Mutant("undo.while-steps-run") {
			d.state = Compensating
		}
	}
	switch d.state {
	case Running:
		forward(g, &d, steps, lanes)
	case Compensating:
		if s.noUndo {
			lanes = leave(g, &d, steps, lanes)
		}
		backward(g, &d, steps, lanes)
	}
	if !d.state.Ended() && resting(g, d, lanes) {
		d.state = Stuck
	}
	if s.paused {
		d.begin = slices.DeleteFunc(d.begin, func(t task) bool { return !g.manual(t) })
	}
	return d
}

// leave gives up all undos but those that are under way: what stands is left as it is.
func leave(g *graph, d *decision, steps []known, lanes []laneAt) (left []laneAt) {
	for _, l := range lanes {
		if l.held {
			left = append(left, l)
			continue
		}
		d.dissolve = append(d.dissolve, dissolve{lane: l.id})
	}
	for i, claimed := range slices.Backward(claims(g, left)) {
		if !claimed && stands(g, steps, i) {
			d.forgo = append(d.forgo, task{node: i, direction: Undo, generation: steps[i].generation})
			steps[i].undone = true
		}
	}
	return left
}

// resting: all that is left waits for an operator.
func resting(g *graph, d decision, lanes []laneAt) bool {
	for _, l := range lanes {
		if !l.parked {
			return false
		}
	}
	for _, t := range d.begin {
		if !g.manual(t) {
			return false
		}
	}
	return len(lanes)+len(d.begin) > 0
}

// manual says whether t is an operator's to do.
func (g *graph) manual(t task) bool { return t.direction == Undo && g.nodes[t.node].manualUndo }

// turned: a required step has failed.
func turned(g *graph, steps []known) bool {
	for i, n := range g.nodes {
		if (steps[i].outcome == failed || steps[i].outcome == inDoubt) && !n.optional {
			return true
		}
	}
	return false
}

// forward begins what is ready; if everything has arrived, the saga is completed.
func forward(g *graph, d *decision, steps []known, lanes []laneAt) {
	if slices.ContainsFunc(lanes, func(l laneAt) bool { return l.node < 0 }) {
		return // it has not begun yet: whoever takes that lane begins it
	}
	arrived, claimed := 0, claims(g, lanes)
	for i := range g.nodes {
		if steps[i].outcome != open {
			arrived++
		} else if ready(g, steps, i) && !claimed[i] {
			d.begin = append(d.begin, task{node: i, direction: Do, generation: 1})
		}
	}
	if arrived == len(g.nodes) {
		d.state = Completed
	}
}

// dissolveWaiting takes away the lanes that wait, since the saga turns back, and returns those that are
// left: the held ones, and that of a pivot in doubt, of which it must be known whether it is done.
func dissolveWaiting(g *graph, d *decision, steps []known, lanes []laneAt) (left []laneAt) {
	for _, l := range lanes {
		doubt := l.node >= 0 && l.inDoubt && g.nodes[l.node].outside()
		if l.held || doubt && l.node == g.pivot {
			left = append(left, l)
			continue
		}
		// What works in Postgres alone has had no effect yet. Anything else may have, and is undone as in doubt.
		if doubt {
			steps[l.node] = known{outcome: inDoubt, generation: l.generation}
		}
		d.dissolve = append(d.dissolve, dissolve{lane: l.id, record: doubt})
	}
	return left
}

// backward undoes what nothing stands on any more; if nothing stands at all, the saga is compensated.
func backward(g *graph, d *decision, steps []known, lanes []laneAt) {
	claimed := claims(g, lanes)
	for i, n := range g.nodes {
		if !steps[i].gaveUp || n.undoFailure != UndoSkip {
			continue
		}
		for j := range g.nodes { // what i came after is not taken away from under it
			if g.descendants[j][i] && stands(g, steps, j) && !claimed[j] {
				d.forgo = append(d.forgo, task{node: j, direction: Undo, generation: steps[j].generation})
				steps[j].undone = true
			}
		}
	}
	standing := false
	for i := range g.nodes {
		if !stands(g, steps, i) {
			continue
		}
		standing = true
		if !claimed[i] && free(g, steps, claimed, i) {
			d.begin = append(d.begin, task{node: i, direction: Undo, generation: steps[i].generation})
		}
	}
	if !standing && len(lanes) == 0 {
		d.state = Compensated
	}
}

// pivotLane finds the lane that is on its way through the pivot; -1: there is none.
func pivotLane(g *graph, lanes []laneAt) int {
	for i, l := range lanes {
		if l.node >= 0 && l.node == g.pivot && l.direction == Do {
			return i
		}
	}
	return -1
}

// ready: everything before i has arrived. A failed optional step has arrived too.
func ready(g *graph, steps []known, i int) bool {
	for _, p := range g.preds[i] {
		if steps[p].outcome == open {
			return false
		}
	}
	return true
}

// first are the steps that come after nothing.
func (g *graph) first() []task {
	var tasks []task
	for i := range g.nodes {
		if len(g.preds[i]) == 0 {
			tasks = append(tasks, task{node: i, direction: Do, generation: 1})
		}
	}
	return tasks
}

// claims says of each step whether a lane is at it.
func claims(g *graph, lanes []laneAt) []bool {
	claimed := make([]bool, len(g.nodes))
	for _, l := range lanes {
		if l.node >= 0 {
			claimed[l.node] = true
		}
	}
	return claimed
}

// stands: i has, or may have, an effect that must be undone. A step without Undo leaves nothing behind.
func stands(g *graph, steps []known, i int) bool {
	return g.nodes[i].undoable() && (steps[i].outcome == done || steps[i].outcome == inDoubt) && !steps[i].undone
}

// free: nothing that comes after i, directly or not, stands or is claimed. Asking all descendants, and
// not only the next ones, carries the order across steps that have no Undo.
func free(g *graph, steps []known, claimed []bool, i int) bool {
	if failpoint.Mutant("undo.order-ignored") {
		return true
	}
	for j, after := range g.descendants[i] {
		if failpoint.Mutant("undo.order-direct-only") {
			after = slices.Contains(g.succs[i], j)
		}
		if after && (stands(g, steps, j) || claimed[j]) {
			return false
		}
	}
	return true
}

// next is what follows a step that is done if that depends on nothing but the definition: the steps
// after it all come after it alone, or it is the only end of the graph. Then its commit needs no look at
// the siblings.
type next struct {
	known bool
	tasks []task // to begin; none: the saga is completed
}

func (g *graph) next(i int) next {
	if len(g.succs[i]) == 0 {
		for j := range g.nodes {
			if j != i && !g.descendants[j][i] {
				return next{}
			}
		}
		return next{known: true}
	}
	n := next{known: true}
	for _, j := range g.succs[i] {
		if len(g.preds[j]) != 1 {
			return next{}
		}
		n.tasks = append(n.tasks, task{node: j, direction: Do, generation: 1})
	}
	return n
}
