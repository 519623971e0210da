package pgengine

import (
	"errors"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsagaz/pgsagaz/sql"
	"github.com/pgsagaz/pgsagaz/sql/failpoint"
)

// unavailableError: the database went away under a step. It is nobody's failed attempt.
type unavailableError struct{ err error }

func (e *unavailableError) Error() string { return "database unavailable: " + e.err.Error() }
func (e *unavailableError) Unwrap() error { return e.err }

// transient says whether err is the database's state and not the statement's fault, so that the same
// transaction may go through later. A COMMIT that ended so may have gone through.
func transient(err error) bool {
	if err == nil || errors.Is(err, errLost) || errors.Is(err, errTurnedBack) {
		return false
	}
	if errors.As(err, new(*unavailableError)) {
		return true
	}
	if errors.As(err, new(*noAnswerError)) {
		return true
	}
	if code := sql.State(err); code != "" {
		switch code {
		case "40001", "40P01", // serialisation failure, deadlock
			"55P03",                            // lock timeout
			"25P03",                            // idle in transaction for too long: this process was stopped
			"25006",                            // a standby that is about to take over, or was the primary
			"57P01", "57P02", "57P03", "57P05": // shutdown, crash, starting up, session timeout
			return true
		}
		return strings.HasPrefix(code, "08") || strings.HasPrefix(code, "53") // connection; resources
	}
	return false
}

// unfit says whether err is of a server that would refuse anybody, whatever they write: it has no room on its disk or for
// connections, takes no writes, or is on its way. A deadlock, and memory that a query has used up, may be of the step's own making; this is not,
// and however often it comes says nothing about the step.
func unfit(err error) bool {
	if failpoint.Mutant("attempt.full-disk-counted") {
		return false
	}
	switch sql.State(err) {
	case "53100", "53300", "25006", "57P01", "57P02", "57P03":
		return true
	}
	return false
}

// noAnswerError is any failure of the engine's own statements that Postgres did not answer with an error
// of its own: the connection, or our time limit. What became of the statement is unknown.
type noAnswerError struct{ err error }

func (e *noAnswerError) Error() string { return e.err.Error() }
func (e *noAnswerError) Unwrap() error { return e.err }

// answered sorts what one of the engine's own pipelines returned.
func answered(err error) error {
	if err == nil || errors.Is(err, errLost) || errors.Is(err, errTurnedBack) {
		return err
	}
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.SchemaName == "pgsagaz" && pg.ConstraintName == "step_pkey" {
		return &noAnswerError{err} // the outcome is there already: most likely by a COMMIT of ours whose answer was lost
	}
	switch sql.State(err) {
	case sql.StateLaneLost, sql.StateNoSaga:
		return errLost
	case sql.StateOtherState:
		return errTurnedBack
	case "":
		return &noAnswerError{err}
	case "57014": // a statement_timeout of the user's, or an operator's pg_cancel_backend: most likely it waited for the saga's lock
		return &noAnswerError{err}
	}
	return err
}
