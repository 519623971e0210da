package inbox

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsagaz/pgsagaz/codec"
	"github.com/pgsagaz/pgsagaz/internal/terminal"
	"github.com/pgsagaz/pgsagaz/sql"
)

// What this package's calls return, to be asked with errors.Is.
var (
	// ErrNoID: a message without an id, or with one that is not text.
	ErrNoID = errors.New("inbox: message without an id")
	// ErrTooOld: the event is older than what the inbox remembers, so nobody can say whether it has taken
	// effect before. It is not processed. A consumer dead-letters it.
	ErrTooOld = errors.New("inbox: event is older than what the inbox remembers")
	// ErrFuture: the time in the event's UUIDv7 lies more than 31 days ahead. A consumer dead-letters it.
	ErrFuture = errors.New("inbox: event is from the future")
	// ErrTxOwned: a handler called Commit or Rollback on the transaction it was given. The inbox ends it,
	// together with the claim. Savepoints (tx.Begin) are the handler's own.
	ErrTxOwned = errors.New("inbox: the handler's transaction is committed by the inbox, with the claim")
	// ErrTxEnded: a handler ended its transaction behind the inbox's back, with a statement of its own.
	ErrTxEnded = errors.New("inbox: the handler ended the transaction it was given")
	// ErrTxFailed: a handler returned no error, but a statement of its transaction had failed.
	ErrTxFailed = errors.New("inbox: a statement failed in the handler's transaction and its error was dropped")
	// ErrTimeout: a handler took longer than Config.Timeout.
	ErrTimeout = errors.New("inbox: the handler took too long")
)

// Terminal says that err will not go away by trying again: the message goes to the dead letters at once.
// errors.Is and errors.As see through it.
func Terminal(err error) error { return terminal.Wrap(err) }

// TerminalError is what [Terminal] makes. It is the same in packages pgengine and inbox: what is terminal for a step is
// for a handler.
type TerminalError = terminal.Error

// Later says that now is not the time for a message: it is handled again after the delay. That is no
// failed attempt.
func Later(delay time.Duration, why string) error { return &LaterError{Delay: delay, Why: why} }

// LaterError is what [Later] makes.
type LaterError struct {
	Delay time.Duration
	Why   string
}

func (e *LaterError) Error() string { return fmt.Sprintf("not before %v from now: %s", e.Delay, e.Why) }

// PanicError is a panic of a handler, as the error it fails with.
type PanicError struct {
	Value any
	Stack string
}

func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v", e.Value) }

// passing says whether an error of Postgres, or of the way to it, tells nothing about the message: the
// same transaction may well go through the next time.
func passing(err error) bool {
	if c, ok := errors.AsType[*codec.Error](err); ok { // a key that is not to be had here and now
		return !c.Final()
	}
	if errors.As(err, new(*pgconn.ConnectError)) || pgconn.SafeToRetry(err) {
		return true
	}
	pg, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return false
	}
	switch pg.Code {
	case "40001", "40P01", "55P03", // serialization, deadlock, lock timeout
		"57P01", "57P02", "57P03", "57P05", // the server goes, or comes
		"25006": // a standby that was the primary
		return true
	case "23514": // the partition has been dropped since the floor was read; it will be read anew
		return pg.SchemaName == "pgsagaz" && pg.TableName == "consumer_inbox" && pg.ConstraintName == ""
	}
	return strings.HasPrefix(pg.Code, "08") || strings.HasPrefix(pg.Code, "53")
}

// conflicting says whether others may get through where this failed: Postgres is there, and would not have the transaction, or
// a key is missing that others do not need.
func conflicting(err error) bool {
	if errors.As(err, new(*codec.Error)) {
		return true
	}
	switch sql.State(err) {
	case "40001", "40P01", "55P03", "23514":
		return true
	}
	return false
}

// describe makes an error fit to be stored and shown: valid text of bounded length.
func describe(err error) string {
	const limit = 4096
	s := clean(err.Error())
	if s == "" {
		s = fmt.Sprintf("%T with an empty message", err)
	}
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "") + "…"
	}
	return s
}

// clean makes text that Postgres takes.
func clean(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "?"), "\x00", "?")
}
