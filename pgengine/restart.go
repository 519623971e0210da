package pgengine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/sql"
)

// ErrNoRestart: the saga can't be restarted, or not from there. From Restart.
var ErrNoRestart = errors.New("pgsagaz: it can't be restarted so")

// Restart starts a new saga over the input of one that has ended, in the caller's transaction. The steps in from, and what
// comes after them, run anew; of all others the new saga takes over what became of them, and from then on they are its own:
// if it turns back, it undoes them, by the keys that their effects were given ([Call.DoKey]). The two name each
// other ([Status]). What was done at and after from by the old saga, and not undone, stays, and is done again.
//
// It is refused where something to be taken over does not stand: it was undone, or nobody knows. A saga has one
// successor: asked once more for the same, Restart gives the same saga again (Existed).
//
// Errors: [ErrNotFound]; [ErrNoRestart], with the reason.
func (e *Engine) Restart(ctx context.Context, tx pgx.Tx, id string, from []string, by By) (Started, error) {
	fail := func(err error) (Started, error) { return Started{}, fmt.Errorf("restart saga %s: %w", id, err) }
	old, err := e.Get(ctx, id)
	if err != nil {
		return fail(err)
	}
	g, err := e.skeleton(ctx, tx, old.Name, old.Version)
	if err != nil {
		return fail(err)
	}
	if g == nil {
		return fail(fmt.Errorf("%w: no worker has registered %s version %d", ErrUnknownSaga, old.Name, old.Version))
	}
	kept, err := g.takeOver(old, from)
	if err != nil {
		return fail(fmt.Errorf("%w: %w", ErrNoRestart, err))
	}
	successor, err := uuid.NewV7()
	if err != nil {
		return fail(err)
	}
	from = slices.Sorted(slices.Values(from))
	var s Started
	err = tx.QueryRow(ctx, sql.Restart, old.ID, strings.Join(slices.Compact(from), ","), kept, optional(by.Actor), by.Reason, successor.String()).
		Scan(&s.ID, &s.Version, &s.Existed)
	switch sql.State(err) {
	case sql.StateRestarted, sql.StateOtherState:
		err = &namedError{sentinel: ErrNoRestart, err: err}
	default:
		err = named(err)
	}
	if err != nil {
		return fail(err)
	}
	if e.waker != nil && !s.Existed {
		sql.WakeLater(tx.Conn(), defaultQueue)
	}
	return s, nil
}

// takeOver names the steps whose outcomes a successor takes over which begins again at from.
func (g *graph) takeOver(old Status, from []string) ([]string, error) {
	if !old.State.Ended() {
		return nil, fmt.Errorf("it has not ended, it is %s: retry, skip or cancel it", old.State)
	}
	if old.Parent != "" {
		return nil, fmt.Errorf("it is a child of saga %s, which counts on it", old.Parent)
	}
	if len(from) == 0 {
		return nil, errors.New("name the step to begin with")
	}
	anew := make([]bool, len(g.nodes))
	for _, name := range from {
		i, ok := g.index[name]
		if !ok {
			return nil, fmt.Errorf("there is no step %q", name)
		}
		anew[i] = true
		for j, after := range g.descendants[i] {
			anew[j] = anew[j] || after
		}
	}
	did, undid := map[string]StepStatus{}, map[string]StepStatus{}
	for _, s := range old.Steps {
		of := did
		if s.Direction == Undo {
			of = undid
		}
		if s.Generation >= of[s.Step].Generation {
			of[s.Step] = s
		}
	}
	triedToUndo := map[string]bool{} // an attempt that failed may have had its effect
	for _, a := range old.Attempts {
		triedToUndo[a.Step] = triedToUndo[a.Step] || a.Direction == Undo
	}
	kept := []string{}
	for i, n := range g.nodes {
		was, ended := did[n.name]
		if anew[i] || !ended {
			continue
		}
		undo, undone := undid[n.name]
		undone = undone && undo.Generation == was.Generation
		elsewhere := fmt.Sprintf("begin with %s too, or with what comes before it", n.name)
		switch {
		case undone && undo.State != string(OutcomeSkipped) && (undo.State != "failed"):
			return nil, fmt.Errorf("step %s was undone, so that there is nothing to take over: %s", n.name, elsewhere)
		case undone && undo.State == "failed", was.InDoubt, undone && n.outside() && triedToUndo[n.name]:
			return nil, fmt.Errorf("nobody knows whether what step %s did stands: %s", n.name, elsewhere)
		case was.State == "done" && was.Generation > 1 && n.outside():
			return nil, fmt.Errorf("step %s took effect after it had been undone, and its undo by another key would be its first's: %s", n.name, elsewhere)
		case was.State == "done" && n.hasChildren() && !g.never(i):
			return nil, fmt.Errorf("the children of step %s are the old saga's, and could not be taken back: %s", n.name, elsewhere)
		case was.State == "failed" && !n.optional:
			continue // it is tried anew
		}
		kept = append(kept, n.name)
	}
	return kept, nil
}
