package pgengine

import (
	"fmt"
	"slices"
)

// FaultKind is what may go wrong with a step.
type FaultKind string

const (
	// FaultFails: the step fails for good, and has had no effect.
	FaultFails FaultKind = "fails"
	// FaultUnknown: the step fails for good, and nobody knows whether it has had its effect.
	FaultUnknown FaultKind = "unknown"
	// FaultUndoFails: the step was done, the saga turns back, and its undo fails for good.
	FaultUndoFails FaultKind = "undo fails"
)

// Fault is a row of the fault matrix: what comes of a saga in which one thing goes wrong, as late as it can,
// when all is done that does not come after it.
type Fault struct {
	Step string    `json:"step"`
	Kind FaultKind `json:"kind"`
	// Cannot says why this can't happen; the rest is empty then.
	Cannot string `json:"cannot,omitempty"`
	When   string `json:"when,omitempty"` // how it comes about
	Case   string `json:"case,omitempty"` // which of several courses it takes; "": there is one
	Course
	// Asked are the steps at which an operator is asked, if the saga gets stuck. He may have them tried again
	// ([Engine.Retry]), or give one of the Answers ([Engine.Resolve]).
	Asked   []string `json:"asked,omitempty"`
	Answers []Answer `json:"answers,omitempty"`
	// Beside are the steps of other branches that may still be under way, or not have begun, when this
	// turns the saga back. Of those under way the saga's [Strategy] says what becomes.
	Beside []string `json:"beside,omitempty"`
}

// Answer is what comes of a stuck saga if an operator says Outcome of each step at which he is asked. Where
// he is asked again and can't say that, he says done.
type Answer struct {
	Outcome Outcome `json:"outcome"`
	Course
}

// Course is how a saga ends, and what it takes with it.
type Course struct {
	End    State      `json:"end,omitempty"`    // completed, compensated or stuck
	Undone [][]string `json:"undone,omitempty"` // in order; those of one group may be undone at once
	// Stays is what a compensated saga leaves behind: it was done, or may have been, and is not undone.
	Stays []string `json:"stays,omitempty"`
}

// course is one thing that a fault may come to.
type course struct {
	name string
	do   *record // of the step itself; nil: it waits for an operator
	undo *record // of its undo; nil: it waits for an operator
}

// faults is the fault matrix.
func (o *outline) faults() ([]Fault, error) {
	rows := []Fault{}
	for _, i := range o.order {
		for _, kind := range []FaultKind{FaultFails, FaultUnknown, FaultUndoFails} {
			head := Fault{Step: o.g.nodes[i].name, Kind: kind}
			if head.When, head.Cannot = o.cause(i, kind); head.Cannot != "" {
				rows = append(rows, head)
				continue
			}
			for _, c := range o.courses(i, kind) {
				row, err := o.follow(head, i, c)
				if err != nil {
					return nil, fmt.Errorf("step %s %s: %w", head.Step, kind, err)
				}
				rows = append(rows, row)
			}
		}
	}
	return rows, nil
}

var (
	isDone    = &record{outcome: "done"}
	isFailed  = &record{outcome: "failed"}
	isInDoubt = &record{outcome: "failed", inDoubt: true}
	isNothing = &record{outcome: "nothing"}
)

// courses are what a fault of i may come to: what [Engine.Run] makes of it before it asks plan.
func (o *outline) courses(i int, kind FaultKind) []course {
	g, n := o.g, o.g.nodes[i]
	undo := o.undoWell(task{node: i, direction: Undo})
	switch {
	case kind == FaultUndoFails && n.undoFailure == UndoStuck:
		return []course{{do: isDone}}
	case kind == FaultUndoFails:
		return []course{{do: isDone, undo: isFailed}}
	case g.endless(i) && i != g.pivot && n.rescue != nil:
		return []course{{name: "Recover finds a way", do: isDone}, {name: "Recover hands over"}}
	case g.endless(i) && i != g.pivot && !n.optional:
		return []course{{}}
	case kind == FaultFails && n.kind == kindEach: // the other items' sagas are to turn back
		return []course{{do: isInDoubt, undo: undo}}
	case kind == FaultFails:
		return []course{{do: isFailed}}
	case i == g.pivot && n.lookup != nil:
		return []course{{name: "Lookup finds it", do: isDone}, {name: "Lookup finds nothing", do: isFailed}, {name: "Lookup fails"}}
	case i == g.pivot:
		return []course{{}}
	case n.lookup != nil && !n.optional && undo != nil:
		return []course{{name: "Lookup finds it", do: isInDoubt, undo: isDone}, {name: "Lookup finds nothing", do: isInDoubt, undo: isNothing}}
	}
	return []course{{do: isInDoubt, undo: undo}}
}

// follow rehearses a course to its end.
func (o *outline) follow(row Fault, i int, c course) (Fault, error) {
	var r *rehearsal
	if row.Kind == FaultUndoFails {
		r = o.rehearse(o.turnedBack())
	} else {
		r = o.rehearse(o.reached(i))
		if t := (task{node: i, direction: Do, generation: 1}); c.do == nil {
			r.park(t, row.Kind == FaultUnknown)
		} else {
			r.apply(t, c.do)
		}
	}
	r.undo = func(t task) *record {
		if t.node == i {
			return c.undo
		}
		return o.undoWell(t)
	}
	end, err := r.run()
	if err != nil {
		return row, err
	}
	row.Case, row.Course = c.name, r.course(end)
	if end != Completed && row.Kind != FaultUndoFails && c.do != nil {
		row.Beside = o.beside(i)
	}
	if end != Stuck {
		return row, nil
	}
	for _, l := range r.s.lanes {
		row.Asked = append(row.Asked, o.g.nodes[l.node].name)
	}
	for _, outcome := range r.answers() {
		f := r.fork()
		for end = Stuck; end == Stuck && err == nil; {
			end, err = f.answer(outcome)
		}
		if err != nil {
			return row, fmt.Errorf("an operator says %s: %w", outcome, err)
		}
		row.Answers = append(row.Answers, Answer{Outcome: outcome, Course: f.course(end)})
	}
	return row, nil
}

func (r *rehearsal) course(end State) Course {
	c := Course{End: end, Undone: slices.Clone(r.undone)}
	if end == Compensated {
		c.Stays = r.stays()
	}
	return c
}

// beside are the steps in other branches than i.
func (o *outline) beside(i int) (names []string) {
	for _, j := range o.order {
		if j != i && !o.g.descendants[i][j] && !o.g.descendants[j][i] {
			names = append(names, o.g.nodes[j].name)
		}
	}
	return names
}

// cause says how a fault comes about, or why it can't.
func (o *outline) cause(i int, kind FaultKind) (when, cannot string) {
	n := o.g.nodes[i]
	switch kind {
	case FaultUndoFails:
		switch why := o.whyNeverUndone(i); {
		case why != "":
			return "", why
		case n.manualUndo:
			return "", "an operator undoes it, and says how that went"
		case n.hasChildren():
			return "", "its sagas undo themselves; while one of them is stuck, this one waits for it"
		}
		return "its undo: " + attempts(n.undoRetry.limit(true)), ""
	case FaultUnknown:
		switch {
		case n.isTx():
			return "", "Postgres knows: it is done if its transaction has committed"
		case n.hasChildren():
			return "", "its sagas tell of their ends"
		case !n.outside():
			return "", "it has no effect of its own"
		}
		if limit := n.retry.limit(o.g.endless(i)); limit > 0 {
			return fmt.Sprintf("none of %d attempts says whether it happened", limit), ""
		}
		return "workers die at it again and again; anything else is tried again with its key, without end", ""
	}
	switch n.kind {
	case kindTx:
		return attempts(n.retry.limit(o.g.endless(i))), ""
	case kindActivity:
		if o.g.forwardOnly(i) {
			return attempts(n.retry.limit(o.g.endless(i))), ""
		}
		return "a Terminal error: it says that there was no effect", ""
	case kindAwait:
		switch {
		case n.limit > 0 && n.onTimeout != nil:
			return fmt.Sprintf("no signal %s within %v, and its OnTimeout fails", n.signal, n.limit), ""
		case n.limit > 0:
			return fmt.Sprintf("no signal %s within %v", n.signal, n.limit), ""
		case n.when != nil:
			return "its When panics", ""
		}
		return "", "it waits without end"
	case kindSleep:
		switch {
		case n.until != nil:
			return "its Until fails", ""
		case n.when != nil:
			return "its When panics", ""
		}
		return "", "time passes by itself"
	case kindEach:
		return "a saga " + n.child + " of an item is compensated, or can't be started", ""
	}
	return "its saga " + n.child + " is compensated, or can't be started", ""
}

// attempts says when a function that has limit attempts (0: without end) has failed for good.
func attempts(limit int) string {
	switch limit {
	case 0:
		return "a Terminal error; any other is tried again, without end"
	case 1:
		return "its only attempt fails"
	}
	return fmt.Sprintf("%d attempts fail, or one with a Terminal error", limit)
}
