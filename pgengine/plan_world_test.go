package pgengine

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// world is the engine over plan, in memory: lanes that workers take, which settle in any order, fail, lose
// their outcome, wait, die and come back late; a saga that is cancelled, parked and set going again. choose
// decides all of it. What is promised is checked against what really happened and not against what plan
// was told.
type world struct {
	choose chooser
	shape  shape
	g      *graph
	snap   snapshot
	ids    int64

	steps   []truth
	ghosts  []int // steps whose worker was taken for dead during the call, and which may still return
	turned  bool  // it goes back
	stopped bool  // it was cancelled
	trouble int   // how much may still go wrong
	story   []string
}

// chooser returns one of 0 to n-1. 0 is what lets the world end soonest.
type chooser func(n int) int

// shape is a graph as it was drawn, and how its steps would end. The world asks it and not the graph
// that is under test.
type shape struct {
	preds              [][]int
	tx, undo, optional []bool
	fate               []outcome
}

// truth is what really became of a step.
type truth struct {
	begun     bool
	arrived   bool
	outcome   outcome
	effect    bool         // out there, now
	standing  map[int]bool // generations that have to be undone
	undone    map[int]int
	undoBegun map[int]bool
}

func drawShape(choose chooser) shape {
	n := 1 + choose(7)
	s := shape{
		preds: make([][]int, n), tx: make([]bool, n), undo: make([]bool, n), optional: make([]bool, n), fate: make([]outcome, n),
	}
	turn := choose(n) // the order of the list is not always that of the graph
	for k := range n {
		i := (k + turn) % n
		flags := choose(8)
		s.tx[i], s.undo[i] = flags&1 == 0, flags&2 == 0
		s.optional[i] = flags&4 != 0 && choose(2) == 1
		s.fate[i] = []outcome{done, done, done, done, done, done, failed, inDoubt}[choose(8)]
		if s.tx[i] && s.fate[i] == inDoubt {
			s.fate[i] = failed
		}
		mask := choose(1 << k)
		for b := range k {
			if mask>>b&1 == 1 {
				s.preds[i] = append(s.preds[i], (b+turn)%n)
			}
		}
		slices.Sort(s.preds[i])
	}
	return s
}

// before: i ends before j begins.
func (s shape) before(i, j int) bool {
	for _, p := range s.preds[j] {
		if p == i || s.before(i, p) {
			return true
		}
	}
	return false
}

func (s shape) graph() *graph {
	nodes := make([]node, len(s.preds))
	for i := range nodes {
		n := node{kind: kindActivity, name: fmt.Sprintf("s%d", i), optional: s.optional[i]}
		if s.tx[i] {
			n.kind = kindTx
			n.doTx = func(context.Context, pgx.Tx, *call) (json.RawMessage, error) { return nil, nil }
		}
		if s.undo[i] {
			n.undo = func(context.Context, *call, json.RawMessage) error { return nil }
		}
		nodes[i] = n
	}
	for i := range nodes {
		nodes[i].after = predecessorsOf(s.preds[i], func(p int) node { return nodes[p] })
	}
	g, problems := newGraph("world", 1, nodes)
	if len(problems) > 0 {
		panic(problems[0])
	}
	return g
}

// sequential is how the saga ends if one step runs after the other and nobody interferes.
func (s shape) sequential() State {
	for i, f := range s.fate {
		if f != done && !s.optional[i] {
			return Compensated
		}
	}
	return Completed
}

// broken is a promise that was not kept.
type broken struct {
	what  string
	world *world
}

func (b broken) Error() string {
	w := b.world
	var steps []string
	for i := range w.shape.preds {
		steps = append(steps, fmt.Sprintf("s%d after %v tx=%v undo=%v optional=%v fate=%d", i, w.shape.preds[i], w.shape.tx[i], w.shape.undo[i], w.shape.optional[i], w.shape.fate[i]))
	}
	return fmt.Sprintf("%s\n%s\n%s\nstate %s, steps %+v, lanes %+v", b.what,
		strings.Join(steps, "\n"), strings.Join(w.story, "\n"), w.snap.state, w.snap.steps, w.snap.lanes)
}

func (w *world) must(ok bool, format string, args ...any) {
	if !ok {
		panic(broken{fmt.Sprintf(format, args...), w})
	}
}

func (w *world) tell(format string, args ...any) {
	w.story = append(w.story, fmt.Sprintf(format, args...))
}

// live lives a world to its end, or returns which promise it broke.
func live(choose chooser) (w *world, err error) {
	defer func() {
		if p := recover(); p != nil {
			b, ok := p.(broken)
			if !ok {
				panic(p)
			}
			err = b
		}
	}()
	w = &world{choose: choose, shape: drawShape(choose), trouble: 20}
	w.g = w.shape.graph()
	w.steps = make([]truth, len(w.shape.preds))
	for i := range w.steps {
		w.steps[i] = truth{standing: map[int]bool{}, undone: map[int]int{}, undoBegun: map[int]bool{}}
	}
	w.snap = snapshot{state: Running, steps: make([]known, len(w.steps))}
	w.spawn(task{node: -1, direction: Do, generation: 1}, false)
	for tick := 0; ; tick++ {
		w.must(tick < 2000, "it does not end")
		acts := w.enabled()
		if len(acts) == 0 {
			w.atRest()
			if acts = w.disturbances(); len(acts) == 0 || choose(2) == 0 {
				return w, nil
			}
		} else if w.trouble > 0 && choose(8) == 7 {
			w.trouble--
			if d := w.disturbances(); len(d) > 0 {
				acts = d
			}
		}
		acts[choose(len(acts))]()
	}
}

// enabled is what goes on by itself.
func (w *world) enabled() (acts []func()) {
	for _, l := range w.snap.lanes {
		switch {
		case l.parked:
		case !l.held:
			acts = append(acts, func() { w.take(l.id) })
		case l.direction == Do:
			acts = append(acts, func() { w.endDo(l.id) })
		default:
			acts = append(acts, func() { w.endUndo(l.id) })
		}
	}
	return acts
}

// disturbances come from outside.
func (w *world) disturbances() (acts []func()) {
	if !w.stopped {
		acts = append(acts, w.cancel)
	}
	for k := range w.ghosts {
		acts = append(acts, func() { w.late(k) })
	}
	for _, l := range w.snap.lanes {
		if l.parked {
			return append(acts, w.retry)
		}
	}
	return acts
}

func (w *world) lane(id int64) *laneAt {
	for i := range w.snap.lanes {
		if w.snap.lanes[i].id == id {
			return &w.snap.lanes[i]
		}
	}
	panic(fmt.Sprint("no lane ", id))
}

func (w *world) remove(id int64) {
	w.snap.lanes = slices.DeleteFunc(slices.Clone(w.snap.lanes), func(l laneAt) bool { return l.id == id })
}

func (w *world) spawn(t task, held bool) {
	w.ids++
	w.snap.lanes = append(slices.Clone(w.snap.lanes), laneAt{id: w.ids, node: t.node, direction: t.direction, generation: t.generation, held: held})
}

// take is Engine.take and begin: a worker gets a job for a lane.
func (w *world) take(id int64) {
	l := w.lane(id)
	if l.node < 0 {
		if w.snap.state != Running {
			return // the command that turned it back has seen to the lane
		}
		w.remove(id)
		first := w.g.first()
		w.must(reflect.DeepEqual(first, plan(w.g, w.snap).begin), "the first steps are %v, planned are %v", first, plan(w.g, w.snap).begin)
		w.begin(first)
		return
	}
	l.held = true
	w.tell("take %s s%d", l.direction, l.node)
	if l.direction == Do && w.snap.state != Running {
		w.turnBack(id)
	}
}

// endDo is a call that ends, one way or another.
func (w *world) endDo(id int64) {
	l := w.lane(id)
	s, tx := &w.steps[l.node], w.shape.tx[l.node]
	if w.trouble > 0 && w.choose(3) == 2 {
		w.trouble--
		maybe := !tx && w.choose(2) == 1 // what became of the call, which the engine can't know
		s.effect = s.effect || maybe
		switch w.choose(3) {
		case 0: // the worker was stopped, and handed it back
			w.tell("hand back do s%d", l.node)
			l.held, l.inDoubt = false, l.inDoubt || !tx
		case 1: // it died, or was taken for dead
			w.tell("crash do s%d", l.node)
			l.held, l.inDoubt = false, true
			if !tx {
				w.ghosts = append(w.ghosts, l.node)
			}
		case 2: // the attempt failed, and there will be another
			w.tell("failed attempt do s%d", l.node)
			if w.snap.state != Running {
				l.inDoubt = l.inDoubt || !tx
				w.turnBack(id)
				return
			}
			l.held, l.inDoubt = false, l.inDoubt || !tx
		}
		return
	}
	switch w.shape.fate[l.node] {
	case done:
		s.effect = s.effect || !tx
		w.settle(id, &record{outcome: "done"})
	case inDoubt:
		s.effect = s.effect || w.choose(2) == 1
		w.settle(id, &record{outcome: "failed", inDoubt: true})
	default:
		w.settle(id, &record{outcome: "failed", inDoubt: l.inDoubt && !tx})
	}
}

func (w *world) endUndo(id int64) {
	l := w.lane(id)
	s := &w.steps[l.node]
	if w.trouble > 0 && w.choose(3) == 2 {
		w.trouble--
		l.held = false
		if w.choose(2) == 0 {
			w.tell("failed attempt undo s%d", l.node)
			return
		}
		w.tell("park undo s%d", l.node)
		l.parked = true
		w.decide()
		return
	}
	if w.snap.steps[l.node].outcome == inDoubt && !s.effect {
		w.settle(id, &record{outcome: "nothing"}) // Lookup has not found it
		return
	}
	s.effect = false
	w.settle(id, &record{outcome: "done"})
}

// settle is Engine.settle and planned.
func (w *world) settle(id int64, rec *record) {
	l := *w.lane(id)
	if rec.outcome == "done" && l.direction == Do && w.shape.tx[l.node] && w.snap.state != Running {
		w.turnBack(id) // the transaction is rolled back
		return
	}
	w.tell("%s s%d generation %d: %s", l.direction, l.node, l.generation, rec.outcome)
	w.remove(id)
	was := w.snap.state
	w.record(task{node: l.node, direction: l.direction, generation: l.generation}, rec)
	if next := w.g.next(l.node); next.known && l.direction == Do && rec.outcome == "done" && was == Running {
		d := plan(w.g, w.snap)
		w.must(len(next.tasks) == len(d.begin) && (len(d.begin) == 0 || reflect.DeepEqual(next.tasks, d.begin)) && len(d.dissolve) == 0,
			"after s%d the definition says %v, plan says %v", l.node, next.tasks, d)
		w.must((d.state == Completed) == (len(next.tasks) == 0), "after s%d there follow %v, and the saga is %s", l.node, next.tasks, d.state)
	}
	w.decide()
}

// turnBack is Engine.turnBack.
func (w *world) turnBack(id int64) {
	l := *w.lane(id)
	w.tell("turn back at s%d", l.node)
	w.remove(id)
	if !w.shape.tx[l.node] && l.inDoubt {
		w.record(task{node: l.node, direction: Do, generation: l.generation}, &record{outcome: "failed", inDoubt: true})
	}
	w.decide()
}

// record notes an outcome twice: as the engine does, and as it was.
func (w *world) record(t task, rec *record) {
	w.snap.steps = slices.Clone(w.snap.steps)
	w.snap.apply(t, rec)
	s := &w.steps[t.node]
	if t.direction == Undo {
		s.undone[t.generation]++
		w.must(s.undone[t.generation] == 1, "s%d is undone twice in generation %d", t.node, t.generation)
		delete(s.standing, t.generation)
		return
	}
	s.arrived = true
	switch {
	case rec.outcome == "done":
		s.outcome = done
		s.effect = true
	case rec.inDoubt:
		s.outcome = inDoubt
	default:
		s.outcome = failed
	}
	w.turned = w.turned || s.outcome != done && !w.shape.optional[t.node]
	// A result that came late supersedes what was known before: one undo is for both.
	if s.outcome != failed {
		if !w.busy(t.node) {
			clear(s.standing)
		}
		s.standing[t.generation] = true
	}
}

// busy: somebody has a lane at step i.
func (w *world) busy(i int) bool {
	return slices.ContainsFunc(w.snap.lanes, func(l laneAt) bool { return l.node == i })
}

// decide is Engine.decide.
func (w *world) decide() {
	d := plan(w.g, w.snap)
	for _, x := range d.dissolve {
		l := *w.lane(x.lane)
		w.must(!l.held && !l.parked && l.direction == Do, "lane %+v is dissolved", l)
		w.must(w.turned, "a lane is dissolved, and the saga goes forward")
		w.remove(x.lane)
		if x.record {
			w.record(task{node: l.node, direction: Do, generation: l.generation}, &record{outcome: "failed", inDoubt: true})
		}
	}
	w.must(slices.Contains(follow[w.snap.state], d.state), "%s became %s", w.snap.state, d.state)
	w.must(w.turned == (d.state != Running && d.state != Completed), "turned back: %v, and the saga is %s", w.turned, d.state)
	w.snap.state = d.state
	w.begin(d.begin)

	parked := 0
	for _, l := range w.snap.lanes {
		w.must(l.direction == Undo || w.snap.state == Running || w.snap.state == Failing, "s%d goes forward while the saga is %s", l.node, w.snap.state)
		if l.parked {
			parked++
		}
	}
	w.must((w.snap.state == Stuck) == (parked > 0 && parked == len(w.snap.lanes)), "%d of %d lanes are parked, and the saga is %s", parked, len(w.snap.lanes), w.snap.state)
}

// follow lists what may become of a state in one decision.
var follow = map[State][]State{
	Running:      {Running, Completed, Failing, Compensating, Compensated},
	Failing:      {Failing, Compensating, Compensated},
	Compensating: {Compensating, Stuck, Compensated},
	Stuck:        {Stuck, Compensating, Compensated},
}

// begin puts lanes at tasks: one that goes on here and now, the others for whoever comes.
func (w *world) begin(tasks []task) {
	for k, t := range tasks {
		s := &w.steps[t.node]
		w.tell("begin %s s%d generation %d", t.direction, t.node, t.generation)
		w.must(!w.busy(t.node), "s%d is claimed twice", t.node)
		if t.direction == Do {
			w.must(!s.begun, "s%d begins twice", t.node)
			s.begun = true
			w.must(!w.turned, "s%d begins after the saga has turned back", t.node)
			for j := range w.steps {
				w.must(!w.shape.before(j, t.node) || w.steps[j].arrived, "s%d begins before s%d has arrived", t.node, j)
			}
		} else {
			w.must(w.turned, "s%d is undone, and the saga goes forward", t.node)
			w.must(w.shape.undo[t.node] && s.standing[t.generation] && !s.undoBegun[t.generation], "s%d is undone for nothing or twice", t.node)
			s.undoBegun[t.generation] = true
			for j := range w.steps {
				w.must(!w.shape.before(t.node, j) || !w.busy(j) && (!w.shape.undo[j] || len(w.steps[j].standing) == 0),
					"s%d is undone before s%d, which comes after it", t.node, j)
			}
		}
		w.spawn(t, k == 0 && w.choose(4) != 3)
	}
}

// cancel is Engine.obey with a cancel.
func (w *world) cancel() {
	w.tell("cancel")
	w.stopped = true
	if w.snap.state == Running {
		w.turned = true
		w.snap.state = Failing
	}
	if w.snap.state != Completed && w.snap.state != Compensated {
		w.decide()
	}
}

// retry is Engine.obey with a retry.
func (w *world) retry() {
	w.tell("retry")
	w.snap.lanes = slices.Clone(w.snap.lanes)
	for i := range w.snap.lanes {
		w.snap.lanes[i].parked = false
	}
	w.decide()
}

// late is Engine.late: a call returns whose lane was taken over meanwhile. It happened just now.
func (w *world) late(ghost int) {
	i := w.ghosts[ghost]
	w.ghosts = slices.Delete(w.ghosts, ghost, ghost+1)
	w.steps[i].effect = true
	k := w.snap.steps[i]
	w.tell("late s%d, after %+v", i, k)
	if k.outcome == open || (k.outcome == done && !k.undone) || w.snap.state == Completed || !w.shape.undo[i] {
		return
	}
	w.record(task{node: i, direction: Do, generation: k.generation + 1}, &record{outcome: "done"})
	if w.snap.state == Compensated {
		w.snap.state = Compensating
	}
	w.decide()
}

// atRest: nobody has anything to do.
func (w *world) atRest() {
	switch w.snap.state {
	case Completed:
		w.must(!w.turned && len(w.snap.lanes) == 0, "completed with lanes, or on the way back")
		for i, s := range w.steps {
			w.must(s.arrived && (s.outcome == done || w.shape.optional[i]), "completed, and s%d is not done", i)
			w.must((s.outcome == done) == (w.shape.fate[i] == done || s.standing[2]), "completed, and s%d has not ended as it had to", i)
		}
	case Compensated:
		w.must(w.turned && len(w.snap.lanes) == 0, "compensated with lanes, or while going forward")
		for i, s := range w.steps {
			w.must(!w.shape.undo[i] || !s.effect && len(s.standing) == 0, "compensated, and s%d stands", i)
		}
	case Stuck:
		w.must(len(w.snap.lanes) > 0, "stuck at nothing")
		for i, s := range w.steps {
			if !w.shape.undo[i] || len(s.standing) == 0 || w.busy(i) {
				continue
			}
			w.must(slices.ContainsFunc(w.snap.lanes, func(l laneAt) bool { return w.shape.before(i, l.node) }),
				"stuck, and s%d could be undone", i)
		}
	default:
		w.must(false, "it sleeps for ever")
	}
	if !w.stopped && w.snap.state != Stuck {
		want := w.shape.sequential()
		w.must(w.snap.state == want, "the saga ended %s, one step after the other it ends %s", w.snap.state, want)
	}
}
