package pgengine

import (
	"encoding/json"
	"fmt"
	"reflect"
	"regexp"
	"time"
)

// Input is the immutable input of a saga. SagaName ties the type to one saga, so a process that only
// starts sagas needs this type and no step's code. Inputs are stored as JSON. Use a struct, by value:
//
//	type Order struct{ ID string; Cents int64 }
//	func (Order) SagaName() string { return "order" }
type Input interface{ SagaName() string }

// Saga is a directed acyclic graph of steps over one input. [New] checks it.
//
// One step may be the saga's Pivot. Until it is done, a failure turns the saga back, and all that is done is
// undone. Once it is done the saga only goes forward: what came before is not undone any more, and what
// comes after is retried (by default without end), recovered by its Recover, or left to an operator; without what
// is Optional it goes on. So that
// this holds, every required step comes before the pivot or after it, and nothing at or after it
// has an Undo.
type Saga[I Input] struct {
	// Version is part of the saga's identity: sagas go on with the version they started with. 1 or more.
	Version int
	// Output is the step whose result is the saga's; nil: none.
	Output Step[I]
	// Timeout of the whole saga, from its start; when it has passed, a saga that runs turns back. 0: none.
	Timeout time.Duration
	// OnFailure is what becomes of steps in other branches when it turns back. The default is [WaitAll].
	OnFailure Strategy
	// Fuse lets TxSteps that follow each other share a transaction, up to 16 of them in up to 50 ms, behind a
	// savepoint each: if one fails, those before it are committed all the same. They cost one commit instead of one
	// each. Locks that a step takes are then held until the last has ended; a now() says the same in all of them, and
	// what is deferred to the commit is checked at the end.
	Fuse  bool
	Steps []Step[I]
	// Priority is of all its steps that have none of their own: 1, which goes first, to 4. 0: 1. Of the jobs that wait in one queue
	// a worker takes those with the lowest number first, and of these the oldest. What runs is not interrupted.
	Priority int
	// Limit bounds how many sagas of this name run at once, from their first step to their end, and how often one
	// may begin. Those that start beyond it wait before their first step.
	Limit Limit[I]
	// OnStart is called as the saga begins, which is after its start: by the first worker that comes to it. OnStep is
	// called for each outcome of a step or of an undo, and OnEnd as the saga ends; again, if a parent or a
	// late result reopens it. They cost the saga its shortest ways: see [Hook].
	OnStart, OnStep, OnEnd Hook[I]
}

// Definition is a [Saga] of any input.
type Definition interface{ definition() (*graph, []error) }

// Steps lists steps of one input, for After and for [Saga].
func Steps[I Input](steps ...Step[I]) []Step[I] { return steps }

var (
	sagaNameRule = regexp.MustCompile(`^[a-z][a-z0-9_.-]{0,62}$`)
	stepNameRule = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9_.-]{0,62}$`)
	ownNameRule  = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_./-]{0,99}$`)
	// River's own rule for queue names, so that a mistake shows at New and not at the first job.
	queueNameRule = regexp.MustCompile(`^[a-z0-9]+([_-]?[a-z0-9]+)*$`)
)

func (s Saga[I]) definition() (*graph, []error) {
	var zero I
	name, err := inputName(zero)
	if err != nil {
		return nil, []error{err}
	}
	nodes := make([]node, 0, len(s.Steps))
	for _, step := range s.Steps {
		if step == nil {
			return nil, []error{&DefinitionError{Saga: name, Problem: "Steps holds a nil"}}
		}
		nodes = append(nodes, step.node())
	}
	g, problems := newGraph(name, s.Version, nodes)
	if s.Timeout < 0 {
		problems = append(problems, &DefinitionError{Saga: name, Problem: "Timeout is negative"})
	}
	if s.Output != nil {
		out := s.Output.node()
		listed, ok := g.index[out.name]
		switch {
		case !ok:
			problems = append(problems, &DefinitionError{Saga: name, Step: out.name, Problem: "is the Output but not among Steps"})
		case !g.nodes[listed].same(out):
			problems = append(problems, &DefinitionError{Saga: name, Step: out.name, Problem: "as the Output is not the step of that name among Steps"})
		case out.mayLack():
			problems = append(problems, &DefinitionError{Saga: name, Step: out.name, Problem: "is the Output, and may have no result: it is Optional, or has a When or a Recover"})
		}
		g.output = out.name
	}
	if s.OnFailure.grace < 0 {
		problems = append(problems, &DefinitionError{Saga: name, Problem: "the grace of its OnFailure is negative"})
	}
	if p := priorityProblem(s.Priority); p != "" {
		problems = append(problems, &DefinitionError{Saga: name, Problem: p})
	}
	g.timeout, g.strategy, g.fuse, g.ranks = s.Timeout, s.OnFailure, s.Fuse, s.Priority
	var wrong string
	if g.gates, wrong = s.Limit.gates(); wrong != "" {
		problems = append(problems, &DefinitionError{Saga: name, Problem: wrong})
	}
	if len(g.gates.of(Undo)) > 0 {
		problems = append(problems, &DefinitionError{Saga: name, Problem: "Limit: Undo is for a step's: a saga keeps its place until it has ended"})
	}
	if wrong = g.gates.named(name); wrong != "" {
		problems = append(problems, &DefinitionError{Saga: name, Problem: wrong})
	}
	for _, n := range g.nodes {
		if own := g.gates.blocks(n.gates); own != "" {
			problems = append(problems, &DefinitionError{Saga: name, Step: n.name, Problem: fmt.Sprintf(
				"its Limit %q is its saga's, too: it would wait for places that sagas keep until it is done", own)})
		}
	}
	g.hooks = hooks{start: hookOf(s.OnStart), step: hookOf(s.OnStep), end: hookOf(s.OnEnd)}
	g.decodable = func(raw json.RawMessage) error {
		var in I
		return decode(raw, &in)
	}
	g.subject = subjectIn[I]
	return g, problems
}

// inputName asks an input type for its saga's name and refuses types that would mislead.
func inputName(zero Input) (name string, err error) {
	t := reflect.TypeOf(zero)
	if t == nil || t.Kind() != reflect.Struct {
		return "", &DefinitionError{Saga: fmt.Sprint(t), Problem: "the input must be a struct type with a SagaName method, used by value"}
	}
	defer func() {
		if p := recover(); p != nil {
			err = &DefinitionError{Saga: t.String(), Problem: fmt.Sprintf("SagaName of the zero value panics: %v", p)}
		}
	}()
	name = zero.SagaName()
	if !sagaNameRule.MatchString(name) {
		return "", &DefinitionError{Saga: name, Problem: fmt.Sprintf("the name of %s must match %s", t, sagaNameRule)}
	}
	// type Return struct{ Order } is named "order" by accident: its inputs would run Order's steps.
	for i := range t.NumField() {
		f := t.Field(i)
		if !f.Anonymous {
			continue
		}
		if embedded, ok := reflect.Zero(f.Type).Interface().(Input); ok && f.Type.Kind() == reflect.Struct && embedded.SagaName() == name {
			return "", &DefinitionError{Saga: name, Problem: fmt.Sprintf("%s has its name from the embedded %s: give it a SagaName of its own", t, f.Type)}
		}
	}
	return name, nil
}
