package sql

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// The SQLSTATEs that pgsagaz's functions raise.
const (
	StateNoSaga       = "PS001" // there is no such saga
	StateOtherState   = "PS002" // the saga is in a state in which this must not happen
	StateLaneLost     = "PS003" // another worker has taken the lane over
	StateUnknownSaga  = "PS005" // no definition of that name and version
	StateOtherInput   = "PS006" // the start key was used with another input
	StateBadArgument  = "PS007"
	StateInputTooLong = "PS008"
	StateNoSignal     = "PS009" // no step of the saga awaits a signal of that name
	StateTransition   = "PS010" // a saga may not go from the one state to the other
	StateAppendOnly   = "PS011" // what is written there is never changed
	StateRestarted    = "PS012" // the saga was restarted, from another step
	StateOutboxFull   = "PS020" // more messages are pending than the limit allows
	StateNoDeadLetter = "PS021" // there is no such dead letter
	StateTooOld       = "PS030" // the event is older than what the inbox remembers
	StateFuture       = "PS031" // the time of the event lies too far ahead
	StateErased       = "PS040" // the subject's key was destroyed
	StateNoSubject    = "PS041" // there is no such subject
	StateInUse        = "PS042" // sagas of the subject have not ended, or messages wait
)

// State is the SQLSTATE of err, or "" if Postgres did not answer with one.
func State(err error) string {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pg.Code
	}
	return ""
}

// Querier is what a pool, a connection and a transaction have in common.
type Querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}
