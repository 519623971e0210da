package pgengine

import "time"

// Graph is a definition as tools see it, without its code.
type Graph struct {
	Output   string        `json:"output,omitempty"` // the step whose result is the saga's
	Steps    []GraphStep   `json:"steps"`
	Strategy string        `json:"strategy,omitempty"`
	Priority int           `json:"priority,omitempty"` // of steps that have none of their own; 0: 1
	Timeout  time.Duration `json:"-"`                  // kept beside the graph; 0: none
}

// GraphStep is a step of a [Graph].
type GraphStep struct {
	Name        string      `json:"name"`
	Kind        string      `json:"kind"` // tx, activity, await, sleep, child or each
	After       []string    `json:"after"`
	Queue       string      `json:"queue,omitempty"`
	Optional    bool        `json:"optional"`
	When        bool        `json:"when,omitempty"` // it may be skipped
	Undo        bool        `json:"undo"`           // whether there is something to undo
	Lookup      bool        `json:"lookup"`         // whether an unknown outcome can be looked up
	Pivot       bool        `json:"pivot,omitempty"`
	Recover     bool        `json:"recover,omitempty"`
	UndoFailure UndoFailure `json:"undo_failure,omitempty"`
	ManualUndo  bool        `json:"manual_undo,omitempty"`
	Signal      string      `json:"signal,omitempty"` // what it awaits
	Child       string      `json:"child,omitempty"`  // the name of the sagas it starts
	Tuning      Tuning      `json:"tuning,omitzero"`
}

// Tuning is what may change under an unchanged version.
type Tuning struct {
	Attempts     int           `json:"attempts,omitempty"`      // of Do; 0: without end
	UndoAttempts int           `json:"undo_attempts,omitempty"` // 0: without end
	Timeout      time.Duration `json:"timeout,omitempty"`       // of an attempt, or of a wait; 0: none
	OnTimeout    bool          `json:"on_timeout,omitempty"`    // a wait that ends goes on with a payload of its own
	Parallel     int           `json:"parallel,omitempty"`      // children at once
	Limit        string        `json:"limit,omitempty"`         // its [Limit], in words
	Priority     int           `json:"priority,omitempty"`      // 0: the saga's
}

func (g *graph) public() Graph {
	p := Graph{Output: g.output, Strategy: g.strategy.String(), Priority: g.ranks, Timeout: g.timeout}
	for i, n := range g.nodes {
		s := GraphStep{
			Name: n.name, Kind: string(n.kind), After: []string{}, Queue: n.queue, Optional: n.optional, When: n.when != nil,
			Undo: n.undoable() && !g.never(i), Lookup: n.lookup != nil, Pivot: n.pivot, Recover: n.rescue != nil,
			UndoFailure: n.undoFailure, ManualUndo: n.manualUndo, Signal: n.signal, Child: n.child,
			Tuning: Tuning{
				Attempts: n.retry.limit(g.endless(i)), UndoAttempts: n.undoRetry.limit(true), Timeout: n.timeout,
				Parallel: n.parallel, Limit: n.gates.String(),
			},
		}
		if n.kind == kindAwait || n.kind == kindSleep {
			s.Tuning = Tuning{Timeout: n.limit, OnTimeout: n.kind == kindAwait && n.funcs[1]}
		}
		s.Tuning.Priority = n.priority
		for _, j := range g.preds[i] {
			s.After = append(s.After, g.nodes[j].name)
		}
		p.Steps = append(p.Steps, s)
	}
	return p
}

// never: i is at or after the pivot, so that nothing of it is undone.
func (g *graph) never(i int) bool { return i == g.pivot || g.forwardOnly(i) }

// endless: unless its Retry says otherwise, i is tried until it is known to be done.
func (g *graph) endless(i int) bool {
	return g.forwardOnly(i) || i == g.pivot && g.nodes[i].outside()
}

// shape is the graph without what may change under an unchanged version.
func (p Graph) shape() Graph {
	q := Graph{Output: p.Output, Steps: append([]GraphStep(nil), p.Steps...)}
	for i := range q.Steps {
		q.Steps[i].Tuning = Tuning{}
	}
	return q
}
