package inbox

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// handlerTx is the transaction a handler works in. All of pgx.Tx is the handler's, but for its end.
type handlerTx struct{ pgx.Tx }

// Commit refuses: the handler's writes are committed with the claim.
func (handlerTx) Commit(context.Context) error { return ErrTxOwned }

// Rollback refuses. Return an error instead.
func (handlerTx) Rollback(context.Context) error { return ErrTxOwned }
