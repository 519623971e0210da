package pgengine

import "fmt"

var everyOutcome = []Outcome{OutcomeDone, OutcomeFailed, OutcomeSkipped}

// Answers are the outcomes that [Engine.Resolve] takes for a step that waits for an operator. A forward step
// that is done needs a result, too.
func (p Graph) Answers(step string, d Direction) ([]Outcome, error) {
	g, err := p.skeleton()
	if err != nil {
		return nil, err
	}
	i, ok := g.index[step]
	if !ok {
		return nil, fmt.Errorf("pgsagaz: there is no step %q", step)
	}
	var outcomes []Outcome
	for _, o := range everyOutcome {
		if g.mayBe(task{node: i, direction: d}, o) {
			outcomes = append(outcomes, o)
		}
	}
	return outcomes, nil
}

// mayBe says whether an operator may say outcome of t. That it is done he may always say, if he has its result.
func (g *graph) mayBe(t task, outcome Outcome) bool {
	if outcome == OutcomeDone {
		return true
	}
	_, err := g.resolution(t, resolved{Outcome: outcome})
	return err == nil
}
