package pgengine

import (
	"fmt"
	"slices"
)

// rehearsal is a saga in memory that plan drives, as it drives real ones: what plan begins has ended at once,
// as the script says. So a fault's end is what the engine would make of it, by the same rules.
type rehearsal struct {
	o *outline
	s snapshot
	// undo is how an undo ends; nil: it is left to an operator. What goes forward is done.
	undo func(task) *record

	undone [][]string // in groups, as plan began them
	gone   []bool     // by node: its effect is no more

	key   []byte // what plan wants to know, by node; see plan
	keyed State  // the state that key is for
}

func (o *outline) rehearse(s snapshot) *rehearsal {
	return &rehearsal{o: o, s: s, gone: make([]bool, len(o.g.nodes)), undo: o.undoWell}
}

// undoWell is an undo that succeeds; some only an operator can do.
func (o *outline) undoWell(t task) *record {
	if o.g.manual(t) {
		return nil
	}
	return &record{outcome: "done"}
}

// run goes on until the saga has ended or waits for an operator.
func (r *rehearsal) run() (State, error) {
	for {
		d := r.plan()
		r.s.state = d.state
		for _, x := range d.dissolve {
			r.dissolve(x)
		}
		for _, t := range d.forgo {
			r.apply(t, &record{outcome: "skipped"})
		}
		var undone []string
		for _, t := range d.begin {
			rec := &record{outcome: "done"}
			if t.direction == Undo {
				rec = r.undo(t)
			}
			if rec == nil {
				r.park(t, false)
				continue
			}
			r.apply(t, rec)
			if t.direction == Undo && rec.outcome != "failed" {
				r.gone[t.node] = true
				if rec.outcome == "done" {
					undone = append(undone, r.o.g.nodes[t.node].name)
				}
			}
		}
		if undone != nil {
			r.undone = append(r.undone, undone)
		}
		switch {
		case d.state.Ended() || d.state == Stuck:
			return d.state, nil
		case len(d.begin)+len(d.dissolve)+len(d.forgo) == 0:
			return d.state, fmt.Errorf("a %s saga would stand still: %+v", d.state, r.s)
		}
	}
}

// park leaves t to an operator.
func (r *rehearsal) park(t task, inDoubt bool) {
	r.s.lanes = append(r.s.lanes, laneAt{
		id: int64(t.node), node: t.node, direction: t.direction, generation: t.generation, parked: true, inDoubt: inDoubt,
	})
}

func (r *rehearsal) dissolve(x dissolve) {
	at := slices.IndexFunc(r.s.lanes, func(l laneAt) bool { return l.id == x.lane })
	l := r.s.lanes[at]
	r.s.lanes = slices.Delete(r.s.lanes, at, at+1)
	if x.record {
		r.apply(task{node: l.node, direction: Do, generation: l.generation}, &record{outcome: "failed", inDoubt: true})
	}
}

// answers are what an operator may say of all that waits for him.
func (r *rehearsal) answers() (outcomes []Outcome) {
	for _, outcome := range everyOutcome {
		if !slices.ContainsFunc(r.s.lanes, func(l laneAt) bool { return !r.mayBe(l, outcome) }) {
			outcomes = append(outcomes, outcome)
		}
	}
	return outcomes
}

func (r *rehearsal) mayBe(l laneAt, outcome Outcome) bool {
	return r.o.g.mayBe(task{node: l.node, direction: l.direction}, outcome)
}

// answer lets an operator say outcome of all that waits for him, and goes on.
func (r *rehearsal) answer(outcome Outcome) (State, error) {
	var undone []string
	for _, l := range r.s.lanes {
		said := outcome
		if !r.mayBe(l, said) {
			said = OutcomeDone
		}
		r.apply(task{node: l.node, direction: l.direction, generation: l.generation}, &record{outcome: string(said)})
		if l.direction == Undo && said == OutcomeDone {
			r.gone[l.node] = true
			undone = append(undone, r.o.g.nodes[l.node].name)
		}
	}
	if undone != nil {
		r.undone = append(r.undone, undone)
	}
	r.s.lanes = nil
	return r.run()
}

// stays are the effects that are left: what was done, or may have been, and is not undone.
func (r *rehearsal) stays() (names []string) {
	for _, i := range r.o.order {
		n, k := r.o.g.nodes[i], r.s.steps[i]
		if (k.outcome == done || k.outcome == inDoubt) && !r.gone[i] && n.kind != kindAwait && n.kind != kindSleep {
			names = append(names, n.name)
		}
	}
	return names
}

// fork is a rehearsal that goes on from where r is.
func (r *rehearsal) fork() *rehearsal {
	f := *r
	f.s.steps, f.s.lanes = slices.Clone(r.s.steps), slices.Clone(r.s.lanes)
	f.undone, f.gone, f.keyed = slices.Clone(r.undone), slices.Clone(r.gone), ""
	return &f
}

// plan is the function of that name, which is asked the same again and again: the ends of many faults are
// alike, and a saga may have a thousand steps.
func (r *rehearsal) plan() decision {
	if r.keyed != r.s.state {
		r.keyed, r.key = r.s.state, make([]byte, len(r.s.steps), len(r.s.steps)+64)
		for i := range r.key {
			r.key[i] = r.code(i)
		}
	}
	key := append(r.key, r.s.state...)
	for _, l := range r.s.lanes {
		key = fmt.Appendf(key, " %d %s %t", l.node, l.direction, l.inDoubt) // all of them are parked
	}
	d, ok := r.o.memo[string(key)]
	if !ok {
		d = plan(r.o.g, r.s)
		r.o.memo[string(key)] = d
	}
	return d
}

// code is what plan wants to know of step i. While a saga undoes, that is whether it stands, and whether
// others do for its sake.
func (r *rehearsal) code(i int) byte {
	k := r.s.steps[i]
	skips := k.gaveUp && r.o.g.nodes[i].undoFailure == UndoSkip
	if r.s.state == Compensating && i != r.o.g.pivot && !skips && !stands(r.o.g, r.s.steps, i) {
		return 0xff
	}
	b := byte(k.outcome) << 2
	if k.undone {
		b |= 1
	}
	if k.gaveUp {
		b |= 2
	}
	return b
}

func (r *rehearsal) apply(t task, rec *record) {
	r.s.apply(t, rec)
	if r.keyed == r.s.state {
		r.key[t.node] = r.code(t.node)
	}
}

// reached is a saga whose every step is done but i and what comes after it: i is under way, and failing
// now takes back the most.
func (o *outline) reached(i int) snapshot {
	s := snapshot{state: Running, steps: make([]known, len(o.g.nodes))}
	for j := range o.g.nodes {
		if j != i && !o.g.descendants[i][j] {
			s.steps[j] = known{outcome: done, generation: 1}
		}
	}
	return s
}

// turnedBack is a saga that is undoing, and had done all that can be undone.
func (o *outline) turnedBack() snapshot {
	s := snapshot{state: Compensating, steps: make([]known, len(o.g.nodes))}
	for j := range o.g.nodes {
		if !o.g.never(j) {
			s.steps[j] = known{outcome: done, generation: 1}
		}
	}
	return s
}
