package pgengine

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/pgsagaz/pgsagaz/sql"
)

// Cancel asks a saga to turn back, in the caller's transaction: it locks nothing of the saga's, and the
// engine obeys once the transaction has committed. Steps that have begun end first. A saga that has
// begun to turn back by then, or has ended, goes on as it was.
//
// Errors: [ErrNotFound]; [ErrEnded] if it has ended already.
func (e *Engine) Cancel(ctx context.Context, tx pgx.Tx, id, reason string) error {
	return e.command(ctx, tx, id, "cancel", reason)
}

// Retry sets a stuck saga going again, in the caller's transaction: undos that have given up are tried
// anew, with all their attempts.
//
// Errors: [ErrNotFound]; [ErrEnded].
func (e *Engine) Retry(ctx context.Context, tx pgx.Tx, id, reason string) error {
	return e.command(ctx, tx, id, "retry", reason)
}

func (e *Engine) command(ctx context.Context, tx pgx.Tx, id, kind, reason string) error {
	parsed, err := uuid.Parse(id)
	if err != nil {
		return fmt.Errorf("%s saga %q: %w: not an id: %w", kind, id, ErrNotFound, err)
	}
	id = parsed.String()
	var state State
	if err := tx.QueryRow(ctx, sql.Command, id, kind, reason).Scan(&state); err != nil {
		return fmt.Errorf("%s saga %s: %w", kind, id, named(err))
	}
	if state.Ended() {
		return fmt.Errorf("%s saga %s: %w: it is %s", kind, id, ErrEnded, state)
	}
	if e.waker != nil {
		sql.WakeLater(tx.Conn(), ControlQueue)
	}
	return nil
}
