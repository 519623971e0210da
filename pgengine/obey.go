package pgengine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/failpoint"
)

// obey applies the commands that wait for a saga, and plans.
func (e *Engine) obey(ctx context.Context, g *graph, sagaID string, o RunOptions) error {
	l := &lane{sagaID: sagaID, g: g, opts: o, at: task{node: 0}} // for inTx's limits
	failpoint.Hit("obey.before")
	_, err := e.inTx(ctx, l, func(ctx context.Context, tx *stepTx) (bool, error) {
		var commands []command
		snap, err := readLocked(ctx, tx, g, sagaID)
		if err != nil {
			return false, err
		}
		rows, err := tx.Query(ctx, sql.CommandTake, sagaID)
		if err != nil {
			return false, answered(err)
		}
		commands, err = pgx.CollectRows(rows, pgx.RowToStructByPos[command])
		if err != nil {
			return false, answered(err)
		}
		s := settlement{sagaID: sagaID, g: g, from: []string{string(snap.state)}, at: task{direction: Do, generation: 1}}
		for _, c := range commands {
			switch {
			case (c.Kind == "cancel" || c.Kind == "deadline") && snap.state == Running:
				s.cause = &Cause{Kind: CauseKind(c.Kind), Reason: c.Reason, At: time.Now().UTC()}
				snap.state, s.state = Failing, Failing
			case c.Kind == "retry":
				if _, err := tx.Exec(ctx, sql.CommandUnpark, sagaID); err != nil {
					return false, answered(err)
				}
				for i := range snap.lanes {
					snap.lanes[i].parked = false
				}
				o.due(0)
			default:
				e.log.InfoContext(ctx, "command came too late", "command", c.Kind, "saga", g.name, "saga_id", sagaID, "state", string(snap.state))
			}
		}
		return e.decide(ctx, tx, snap, s)
	})
	if errors.Is(err, errLost) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("saga %s %s: apply commands: %w", g.name, sagaID, err)
	}
	failpoint.Hit("obey.after")
	return nil
}

// command is a row of the table of that name.
type command struct {
	ID           int64
	Kind, Reason string
}
