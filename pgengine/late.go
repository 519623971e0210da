package pgengine

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/pgsagaz/pgsagaz/sql/failpoint"
)

// late deals with the result of a call whose lane somebody else has taken over meanwhile. If they had the
// same result, or are still at it, there is nothing to do: the key was the same. If the step has been
// given up or undone since, this result may be an effect that came after its undo: it is recorded as a
// new generation, the saga is reopened even if it had ended, and the undo runs again.
func (e *Engine) late(ctx context.Context, l *lane, raw json.RawMessage) error {
	_, err := e.inTx(ctx, l, func(ctx context.Context, tx *stepTx) (bool, error) {
		snap, err := readLocked(ctx, tx, l.g, l.sagaID)
		if err != nil {
			return false, err
		}
		for _, row := range snap.rows {
			if row.step == l.name() && row.token == l.token && row.direction == Do {
				return false, nil // it was our own commit whose answer was lost
			}
		}
		k := snap.steps[l.at.node]
		if given := k.outcome == failed || k.outcome == inDoubt || k.outcome == skipped; given && !l.node().undoable() {
			e.log.ErrorContext(ctx, "a result arrived after its step had been given up, and it has no undo: what it did stands",
				"saga", l.g.name, "saga_id", l.sagaID, "step", l.name(), "bytes", len(raw))
		}
		if k.outcome == open || (k.outcome == done && !k.undone) || snap.state == Completed || !l.node().undoable() || failpoint.Mutant("undo.late-result-ignored") {
			return false, nil
		}
		s := l.settlement(snap.state)
		s.lane, s.laneID = nil, nil
		s.at.generation = k.generation + 1
		s.rec = &record{outcome: "done", result: raw}
		snap.apply(s.at, s.rec)
		if snap.state == Compensated {
			snap.state = Compensating
			s.state = Compensating
		}
		e.log.WarnContext(ctx, "a result arrived after its step had been given up or undone; it is undone again",
			"saga", l.g.name, "saga_id", l.sagaID, "step", l.name(), "generation", s.at.generation)
		return e.decide(ctx, tx, snap, s)
	})
	if errors.Is(err, errLost) {
		return nil
	}
	return err
}
