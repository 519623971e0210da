package pgengine

import (
	"errors"
	"fmt"
	"strings"

	"github.com/pgsagaz/pgsagaz/internal/terminal"
)

// What calls of an [Engine] return, to be asked with errors.Is.
var (
	// ErrNotFound: there is no saga with this id. From Get, Wait, Cancel and Retry.
	ErrNotFound = errors.New("pgsagaz: no such saga")
	// ErrUnknownSaga: nobody has registered a saga of this name and version. From Start.
	ErrUnknownSaga = errors.New("pgsagaz: unknown saga")
	// ErrOtherInput: the key was used before, with another input. From Start.
	ErrOtherInput = errors.New("pgsagaz: start key used with another input")
	// ErrTooLarge: an input or a result is larger than Config.MaxPayload. From Start, and from a step.
	ErrTooLarge = errors.New("pgsagaz: payload too large")
	// ErrEnded: the saga has ended, so there is nothing left to cancel or retry.
	ErrEnded = errors.New("pgsagaz: saga has ended")
	// ErrNoSignal: no step of the saga awaits a signal of that name. From Signal.
	ErrNoSignal = errors.New("pgsagaz: no step awaits the signal")
	// ErrTxOwned: a step called Commit or Rollback on the transaction it was given. The engine ends it,
	// together with the step's result. Savepoints (tx.Begin) are the step's own.
	ErrTxOwned = errors.New("pgsagaz: the step's transaction is committed by the engine, with the step's result")
	// ErrTxEnded: a step ended its transaction behind the engine's back, with a statement of its own.
	ErrTxEnded = errors.New("pgsagaz: the step ended the transaction it was given")
	// ErrTxFailed: a step returned no error, but a statement of its transaction had failed.
	ErrTxFailed = errors.New("pgsagaz: a statement failed in the step's transaction and its error was dropped")
)

// Terminal says that err will not go away by trying again, and that the step has had no effect: an
// Activity that may have had one must not return it. errors.Is and errors.As see through it.
func Terminal(err error) error { return terminal.Wrap(err) }

// TerminalError is what [Terminal] makes. It is the same in packages pgengine and inbox: what is terminal for a step is
// for a handler.
type TerminalError = terminal.Error

// PanicError is a panic of a step's function, as the error it fails with.
type PanicError struct {
	Value any
	Stack string
}

func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v", e.Value) }

// StepError is how a step's failure is logged and kept: which step of which saga, which attempt, and why.
type StepError struct {
	Saga, ID, Step string
	Direction      Direction
	Attempt        int
	Err            error
}

func (e *StepError) Error() string {
	return fmt.Sprintf("saga %s %s: %s %s, attempt %d: %v", e.Saga, e.ID, e.Direction, e.Step, e.Attempt, e.Err)
}

// Unwrap returns what the step returned.
func (e *StepError) Unwrap() error { return e.Err }

// DefinitionError is one mistake in a definition. [New] joins all it finds.
type DefinitionError struct {
	Saga, Step string // Step is empty for a mistake of the whole saga
	Problem    string
}

func (e *DefinitionError) Error() string {
	if e.Step == "" {
		return fmt.Sprintf("saga %q: %s", e.Saga, e.Problem)
	}
	return fmt.Sprintf("saga %q, step %q: %s", e.Saga, e.Step, e.Problem)
}

// describe makes an error fit to be stored and shown: valid text of bounded length.
func describe(err error) string {
	if s := storable(err.Error()); s != "" {
		return s
	}
	return fmt.Sprintf("%T with an empty message", err)
}

// storable makes a text of the user's fit for Postgres: valid, and of bounded length.
func storable(s string) string {
	const limit = 4096
	s = strings.ReplaceAll(strings.ToValidUTF8(s, "?"), "\x00", "?")
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "") + "…"
	}
	return s
}
