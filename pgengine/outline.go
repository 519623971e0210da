package pgengine

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// Plan is what a definition amounts to, found out without executing anything: in which order its steps
// run and are undone, what can't be undone, and what becomes of a saga in each fault. See [Outline].
type Plan struct {
	Name     string        `json:"name,omitempty"`
	Version  int           `json:"version,omitempty"`
	Strategy string        `json:"strategy,omitempty"` // what becomes of other branches when it turns back
	Timeout  time.Duration `json:"timeout,omitempty"`  // of the whole saga, in nanoseconds; 0: none
	Pivot    string        `json:"pivot,omitempty"`
	Output   string        `json:"output,omitempty"`

	Order        []string   `json:"order"`         // each step after those it comes after, as listed where that leaves a choice
	Layers       [][]string `json:"layers"`        // a step is one layer below the lowest that it comes after
	CriticalPath []string   `json:"critical_path"` // the longest way through it, counted in steps
	Width        int        `json:"width"`         // how many steps may be under way at once, at most
	Widest       []string   `json:"widest"`        // such steps

	// UndoOrder is how a saga is undone in which everything is done that can still be undone. Steps of
	// one group may be undone at once; a group begins when the one before it has ended.
	UndoOrder   [][]string `json:"undo_order"`
	NeverUndone []StepNote `json:"never_undone"` // and why
	Notes       []StepNote `json:"notes"`        // what its author may not have meant

	// Faults is the fault matrix: for each step, in Order, all that may come of each [FaultKind].
	Faults []Fault `json:"faults"`

	Places []Place `json:"places"` // where its steps run, in the order of the first of each
}

// Place is a queue, and a priority in it: 1, which goes first, to 4.
type Place struct {
	Queue    string   `json:"queue"`
	Priority int      `json:"priority"`
	Steps    []string `json:"steps"`
}

// StepNote is something to be said of a step.
type StepNote struct {
	Step string `json:"step"`
	Note string `json:"note"`
}

// Outline checks a definition and says what it amounts to. Nothing is executed, and no database needed.
// Errors: those of [New].
func Outline(d Definition) (Plan, error) {
	if d == nil {
		return Plan{}, &DefinitionError{Problem: "is nil"}
	}
	g, problems := d.definition()
	if len(problems) > 0 {
		return Plan{}, errors.Join(problems...)
	}
	p, err := g.public().Outline()
	p.Name, p.Version = g.name, g.version
	return p, err
}

// Outline is the function [Outline] for a definition whose code is elsewhere. A graph does not tell what it
// is called: the plan's Name and Version are empty. An error says that no saga has this graph.
func (p Graph) Outline() (Plan, error) {
	g, err := p.skeleton()
	if err != nil {
		return Plan{}, err
	}
	o := outline{p: p, g: g, order: g.order(), memo: map[string]decision{}}
	plan := Plan{
		Strategy: p.Strategy, Timeout: p.Timeout, Output: p.Output,
		Order: o.names(o.order), NeverUndone: o.neverUndone(), Notes: o.notes(),
	}
	if g.pivot >= 0 {
		plan.Pivot = g.nodes[g.pivot].name
	}
	layers, path := g.layers(o.order)
	for _, l := range layers {
		plan.Layers = append(plan.Layers, o.names(l))
	}
	plan.CriticalPath = o.names(path)
	plan.Widest = o.names(antichain(g.descendants))
	plan.Width = len(plan.Widest)
	if plan.UndoOrder, err = o.undoOrder(); err != nil {
		return Plan{}, err
	}
	plan.Places = g.places(o.order)
	plan.Faults, err = o.faults()
	return plan, err
}

// places groups the steps by queue and priority.
func (g *graph) places(order []int) (places []Place) {
	for _, i := range order {
		t := task{node: i}
		at := slices.IndexFunc(places, func(p Place) bool { return p.Queue == g.queue(t) && p.Priority == int(g.priority(t)) })
		if at < 0 {
			at = len(places)
			places = append(places, Place{Queue: g.queue(t), Priority: int(g.priority(t))})
		}
		places[at].Steps = append(places[at].Steps, g.nodes[i].name)
	}
	return places
}

// outline is a plan in the making.
type outline struct {
	p     Graph
	g     *graph
	order []int
	memo  map[string]decision // what plan has said; see rehearsal
}

func (o *outline) names(nodes []int) []string {
	names := make([]string, 0, len(nodes))
	for _, i := range nodes {
		names = append(names, o.g.nodes[i].name)
	}
	return names
}

// order puts each step after those it comes after, and as they are listed where that leaves a choice.
func (g *graph) order() []int {
	order, seen := make([]int, 0, len(g.nodes)), make([]bool, len(g.nodes))
	var visit func(i int)
	visit = func(i int) {
		if seen[i] {
			return
		}
		seen[i] = true
		for _, p := range g.preds[i] {
			visit(p)
		}
		order = append(order, i)
	}
	for i := range g.nodes {
		visit(i)
	}
	return order
}

// layers gives the steps by the longest way to them, and the longest way of all.
func (g *graph) layers(order []int) (layers [][]int, path []int) {
	depth, before := make([]int, len(g.nodes)), make([]int, len(g.nodes))
	last := -1
	for _, i := range order {
		before[i] = -1
		for _, p := range g.preds[i] {
			if depth[p]+1 > depth[i] {
				depth[i], before[i] = depth[p]+1, p
			}
		}
		if last < 0 || depth[i] > depth[last] {
			last = i
		}
	}
	layers = make([][]int, depth[last]+1)
	for i := range g.nodes { // as listed
		layers[depth[i]] = append(layers[depth[i]], i)
	}
	path = make([]int, depth[last]+1)
	for i := last; i >= 0; i = before[i] {
		path[depth[i]] = i
	}
	return layers, path
}

func (o *outline) undoOrder() ([][]string, error) {
	r := o.rehearse(o.turnedBack())
	end, err := r.run()
	for end == Stuck && err == nil { // an operator does what is his
		end, err = r.answer(OutcomeDone)
	}
	return r.undone, err
}

func (o *outline) neverUndone() []StepNote {
	notes := []StepNote{}
	for _, i := range o.order {
		if why := o.whyNeverUndone(i); why != "" {
			notes = append(notes, StepNote{o.g.nodes[i].name, why})
		}
	}
	return notes
}

// whyNeverUndone is empty if i can be undone.
func (o *outline) whyNeverUndone(i int) string {
	n := o.g.nodes[i]
	switch {
	case n.kind == kindAwait || n.kind == kindSleep:
		return "it only waits: there is nothing to undo"
	case i == o.g.pivot:
		return "it is the pivot"
	case o.g.forwardOnly(i):
		return "it comes after the pivot " + o.g.nodes[o.g.pivot].name
	case !n.undoable():
		return "it has no Undo"
	}
	return ""
}

// notes are what the author of a definition may not have meant.
func (o *outline) notes() []StepNote {
	notes, g := []StepNote{}, o.g
	for _, i := range o.order {
		n := g.nodes[i]
		say := func(format string, args ...any) {
			notes = append(notes, StepNote{n.name, fmt.Sprintf(format, args...)})
		}
		switch {
		case len(g.nodes) > 1 && len(g.preds[i])+len(g.succs[i]) == 0:
			say("it comes neither before nor after any other step")
		case len(g.succs[i]) == 0 && !n.optional && o.p.Output != "" && n.name != o.p.Output:
			say("nothing comes after it, and it is not the Output: nothing uses its result")
		}
		if n.isTx() && n.undoable() && o.endsTheSaga(i) {
			say("it is undone only where the saga is another's child: once it is done, the saga is completed")
		}
		if n.kind == kindAwait && n.limit == 0 && o.p.Timeout == 0 {
			say("it waits for the signal %s without end: neither it nor the saga has a Timeout", n.signal)
		}
		for _, j := range o.order {
			if m := g.nodes[j]; i < j && n.signal != "" && n.signal == m.signal && !g.descendants[i][j] && !g.descendants[j][i] {
				say("it and %s may await the signal %s at once: whichever comes to it first takes the first", m.name, n.signal)
			}
		}
	}
	return notes
}

// endsTheSaga: every other step has ended when i begins.
func (o *outline) endsTheSaga(i int) bool {
	for j := range o.g.nodes {
		if j != i && !o.g.descendants[j][i] {
			return false
		}
	}
	return true
}
