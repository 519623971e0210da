package pgengine

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"
)

// graph is a checked definition. It is never changed once newGraph has returned it.
type graph struct {
	name     string
	version  int
	output   string
	timeout  time.Duration
	strategy Strategy
	fuse     bool
	ranks    int   // the priority of its steps that have none of their own; 0: 1
	gates    gates // of the saga as a whole
	hooks    hooks
	pivot    int            // -1: none
	nodes    []node         // as listed
	index    map[string]int // name -> nodes

	preds, succs [][]int  // direct, ascending
	descendants  [][]bool // descendants[i][j]: j comes after i, directly or not

	decodable func(json.RawMessage) error           // whether an input fits the input type
	subject   func(json.RawMessage) (string, error) // whose data an input is
}

// maxSteps bounds what is read and planned under a saga's lock.
const maxSteps = 1000

// newGraph checks a definition and reports all that is wrong with it, each with saga and step. The
// graph is usable only if nothing is.
func newGraph(name string, version int, nodes []node) (*graph, []error) {
	g := &graph{name: name, version: version, nodes: nodes, index: map[string]int{}, pivot: -1}
	var problems []error
	wrong := func(step, format string, args ...any) {
		problems = append(problems, &DefinitionError{Saga: name, Step: step, Problem: fmt.Sprintf(format, args...)})
	}
	if version < 1 {
		wrong("", "Version must be 1 or more, it is %d", version)
	}
	if len(nodes) == 0 {
		wrong("", "has no steps")
	}
	if len(nodes) > maxSteps {
		wrong("", "has %d steps, at most %d are allowed: make sagas of its parts", len(nodes), maxSteps)
		return g, problems
	}
	for i, n := range nodes {
		if !stepNameRule.MatchString(n.name) {
			wrong(n.name, "the name must match %s", stepNameRule)
		}
		if n.queue != "" && (len(n.queue) > 100 || !queueNameRule.MatchString(n.queue)) {
			wrong(n.name, "the queue %q must match %s and have at most 100 characters", n.queue, queueNameRule)
		}
		if n.queue == ControlQueue {
			wrong(n.name, "the queue %q is the engine's own", n.queue)
		}
		if p := priorityProblem(n.priority); p != "" {
			wrong(n.name, "%s", p)
		}
		if _, twice := g.index[n.name]; twice {
			wrong(n.name, "there are two steps of this name")
			continue
		}
		g.index[n.name] = i
		for _, p := range n.problems {
			wrong(n.name, "%s", p)
		}
		if p := n.retry.check(); p != "" {
			wrong(n.name, "Retry: %s", p)
		}
		if p := n.undoRetry.check(); p != "" {
			wrong(n.name, "UndoRetry: %s", p)
		}
		if n.undoTx == nil && n.undo == nil {
			if !reflect.ValueOf(n.undoRetry).IsZero() {
				wrong(n.name, "has an UndoRetry without an Undo")
			}
			if n.undoFailure != UndoStuck {
				wrong(n.name, "has an OnUndoFailure without an Undo")
			}
		}
		if n.undoFailure != UndoStuck && n.undoFailure != UndoContinue && n.undoFailure != UndoSkip {
			wrong(n.name, "has the unknown OnUndoFailure %q", string(n.undoFailure))
		}
	}

	g.preds, g.succs = make([][]int, len(nodes)), make([][]int, len(nodes))
	for i, n := range nodes {
		for _, before := range n.after.all() {
			j, ok := g.index[before.name]
			switch {
			case !ok:
				wrong(n.name, "comes After %q, which is not among Steps", before.name)
			case !nodes[j].same(before):
				wrong(n.name, "comes After a %q that is not the step of that name among Steps (steps are copied into After: change them before)", before.name)
			case slices.Contains(g.preds[i], j):
				wrong(n.name, "comes After %q twice", before.name)
			default:
				g.preds[i] = append(g.preds[i], j)
				g.succs[j] = append(g.succs[j], i)
			}
		}
		slices.Sort(g.preds[i])
	}
	if cycle := g.cycle(); cycle != nil {
		wrong(cycle[0], "comes after itself: %s", strings.Join(cycle, " -> "))
		return g, problems
	}
	g.descendants = make([][]bool, len(nodes))
	for i := range nodes {
		g.descendants[i] = make([]bool, len(nodes))
		g.mark(i, g.descendants[i])
	}
	g.checkPivot(wrong)
	g.checkSignals(wrong)
	g.nameLimits(wrong)
	return g, problems
}

// priorityProblem says what is wrong with a priority; "": nothing.
func priorityProblem(p int) string {
	if p < 0 || p > 4 {
		return fmt.Sprintf("the priority %d must be between 1, which goes first, and 4; or 0 for the default", p)
	}
	return ""
}

// checkPivot finds the pivot, and refuses shapes in which "from here forward only" could not be kept.
func (g *graph) checkPivot(wrong func(step, format string, args ...any)) {
	for i, n := range g.nodes {
		switch {
		case !n.pivot:
			continue
		case g.pivot >= 0:
			wrong(n.name, "is a second Pivot: past %q the saga goes forward anyway", g.nodes[g.pivot].name)
		default:
			g.pivot = i
		}
		if n.optional {
			wrong(n.name, "is the Pivot and Optional: the saga would go on without having passed it")
		}
		if n.when != nil {
			wrong(n.name, "is the Pivot and has a When: the saga would go on without having passed it")
		}
	}
	for i, n := range g.nodes {
		after := g.pivot >= 0 && (i == g.pivot || g.descendants[g.pivot][i])
		if after && (n.undoTx != nil || n.undo != nil || n.manualUndo) {
			wrong(n.name, "has an Undo at or after the Pivot %q: it would never run", g.nodes[g.pivot].name)
		}
		if n.rescue != nil && !g.forwardOnly(i) {
			wrong(n.name, "has a Recover and does not come after a Pivot: its failure turns the saga back")
		}
		if g.pivot >= 0 && !after && !g.descendants[i][g.pivot] && !n.optional {
			wrong(n.name, "comes neither before nor after the Pivot %q: if it failed after that, it could be neither taken back nor left", g.nodes[g.pivot].name)
		}
	}
}

// forwardOnly says whether i comes after the pivot.
func (g *graph) forwardOnly(i int) bool { return g.pivot >= 0 && g.descendants[g.pivot][i] }

// checkSignals: one name, one type.
func (g *graph) checkSignals(wrong func(step, format string, args ...any)) {
	first := map[string]node{}
	for _, n := range g.nodes {
		if n.signal == "" {
			continue
		}
		if f, ok := first[n.signal]; ok && f.result != n.result {
			wrong(n.name, "awaits the signal %q as %s, and %q awaits it as %s", n.signal, n.result, f.name, f.result)
		}
		first[n.signal] = n
	}
}

func (g *graph) mark(i int, seen []bool) {
	for _, j := range g.succs[i] {
		if !seen[j] {
			seen[j] = true
			g.mark(j, seen)
		}
	}
}

// cycle returns the names along one, or nil. Steps are values, so a cycle cannot be written down with
// variables; two listed steps of one name, or a hand-made Step, can still close one.
func (g *graph) cycle() []string {
	const (
		unseen = iota
		open
		closed
	)
	colour := make([]int, len(g.nodes))
	var path []string
	var visit func(i int) bool
	visit = func(i int) bool {
		colour[i] = open
		path = append(path, g.nodes[i].name)
		for _, j := range g.succs[i] {
			if colour[j] == open {
				path = append(path[slices.Index(path, g.nodes[j].name):], g.nodes[j].name)
				return true
			}
			if colour[j] == unseen && visit(j) {
				return true
			}
		}
		colour[i] = closed
		path = path[:len(path)-1]
		return false
	}
	for i := range g.nodes {
		if colour[i] == unseen && visit(i) {
			return path
		}
	}
	return nil
}

// isAncestor says whether before ends, in every run, before step begins.
func (g *graph) isAncestor(before, step string) bool {
	i, ok1 := g.index[before]
	j, ok2 := g.index[step]
	return ok1 && ok2 && g.descendants[i][j]
}

// kind is that of the saga's River jobs: one a version, so that workers of two versions live side by side.
func (g *graph) kind() string { return jobKind(g.name, g.version) }

func jobKind(name string, version int) string { return fmt.Sprintf("pgsagaz/%s/%d", name, version) }
