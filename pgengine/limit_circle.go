package pgengine

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// checkLimits refuses sagas that keep a place while they wait, at a step or for a child, for one that is kept in the same way: as soon
// as there are enough of them, each waits for another, and none gets on. Of limits with a Key, and of sagas whose code is elsewhere,
// nobody knows.
func (e *Engine) checkLimits() (problems []error) {
	for _, g := range e.all() {
		for name := range g.gates.plain() {
			way := e.circle(g, name)
			if way == nil || len(way) == 1 && way[0].child == "" { // a step of its own: definition has said so
				continue
			}
			said := make([]string, len(way))
			for i, w := range way {
				said[i] = w.String()
			}
			problems = append(problems, &DefinitionError{Saga: g.name, Problem: fmt.Sprintf(
				"its Limit %q would wait for itself: %s: give one of them another Limit", name, strings.Join(said, ", and "))})
		}
	}
	return problems
}

// wantedPlace says that a saga keeps a place of one limit while it waits for one of another.
type wantedPlace struct{ saga, keeps, step, child, wants string }

func (w wantedPlace) String() string {
	if w.child == "" {
		return fmt.Sprintf("%s keeps %q while its step %s waits for %q", w.saga, w.keeps, w.step, w.wants)
	}
	return fmt.Sprintf("%s keeps %q while the child %s of its step %s waits for %q", w.saga, w.keeps, w.child, w.step, w.wants)
}

// circle is the shortest way on which a saga of g that keeps a place waits for one of the same limit; nil: there is none.
func (e *Engine) circle(g *graph, name string) []wantedPlace {
	type end struct {
		g   *graph
		way []wantedPlace // to a place that a saga of g keeps
		at  string
	}
	ends, seen := []end{{g: g, at: name}}, map[string]bool{}
	for len(ends) > 0 {
		x := ends[0]
		ends = ends[1:]
		wants := map[string]wantedPlace{}
		e.wants(x.g, wantedPlace{saga: x.g.name, keeps: x.at}, wants, map[*graph]bool{})
		for _, wanted := range slices.Sorted(maps.Keys(wants)) {
			way := append(slices.Clone(x.way), wants[wanted])
			if wanted == name {
				return way
			}
			if seen[wanted] {
				continue
			}
			seen[wanted] = true
			for _, other := range e.all() {
				if other.gates.plain()[wanted] {
					ends = append(ends, end{other, way, wanted})
				}
			}
		}
	}
	return nil
}

// wants collects the limits that a saga of g waits for until it ends, by their names.
func (e *Engine) wants(g *graph, by wantedPlace, all map[string]wantedPlace, seen map[*graph]bool) {
	seen[g] = true
	note := func(gs gates, by wantedPlace) {
		for name := range gs.plain() {
			if _, ok := all[name]; !ok {
				by.wants = name
				all[name] = by
			}
		}
	}
	for _, n := range g.nodes {
		at := by
		if at.child == "" {
			at.step = n.name
		}
		note(n.gates, at)
		for _, version := range slices.Sorted(maps.Keys(e.graphs[n.child])) {
			child := e.graphs[n.child][version]
			at.child = n.child
			if note(child.gates, at); !seen[child] {
				e.wants(child, at, all, seen)
			}
		}
	}
}

// plain are the names of those that count, and whose key is the same for all.
func (gs gates) plain() map[string]bool {
	names := map[string]bool{}
	for _, g := range gs {
		if g.key == nil && g.concurrency > 0 {
			names[g.name] = true
		}
	}
	return names
}
