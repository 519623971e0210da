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
	name    string
	version int
	output  string
	timeout time.Duration
	nodes   []node         // as listed
	index   map[string]int // name -> nodes

	preds, succs [][]int  // direct, ascending
	descendants  [][]bool // descendants[i][j]: j comes after i, directly or not

	decodable func(json.RawMessage) error // whether an input fits the input type
}

// maxSteps bounds what is read and planned under a saga's lock.
const maxSteps = 1000

// newGraph checks a definition and reports all that is wrong with it, each with saga and step. The
// graph is usable only if nothing is.
func newGraph(name string, version int, nodes []node) (*graph, []error) {
	g := &graph{name: name, version: version, nodes: nodes, index: map[string]int{}}
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
		if !n.undoable() && !reflect.ValueOf(n.undoRetry).IsZero() {
			wrong(n.name, "has an UndoRetry without an Undo")
		}
	}

	g.preds, g.succs = make([][]int, len(nodes)), make([][]int, len(nodes))
	for i, n := range nodes {
		for _, before := range n.after {
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
	return g, problems
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

// Graph is a definition as tools see it, without its code.
type Graph struct {
	Output string      `json:"output,omitempty"` // the step whose result is the saga's
	Steps  []GraphStep `json:"steps"`
}

// GraphStep is a step of a [Graph].
type GraphStep struct {
	Name     string   `json:"name"`
	Kind     string   `json:"kind"` // tx or activity
	After    []string `json:"after"`
	Queue    string   `json:"queue,omitempty"`
	Optional bool     `json:"optional"`
	Undo     bool     `json:"undo"`   // whether there is something to undo
	Lookup   bool     `json:"lookup"` // whether an unknown outcome can be looked up
}

func (g *graph) public() Graph {
	p := Graph{Output: g.output}
	for i, n := range g.nodes {
		s := GraphStep{Name: n.name, Kind: "activity", After: []string{}, Queue: n.queue, Optional: n.optional, Undo: n.undoable(), Lookup: n.lookup != nil}
		if n.isTx() {
			s.Kind = "tx"
		}
		for _, j := range g.preds[i] {
			s.After = append(s.After, g.nodes[j].name)
		}
		p.Steps = append(p.Steps, s)
	}
	return p
}
