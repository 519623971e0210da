// Package terminal is the word that steps and handlers share for "trying again will not help".
package terminal

// Error says that its cause will not go away by trying again.
type Error struct{ Err error }

func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns the error that was made terminal.
func (e *Error) Unwrap() error { return e.Err }

// Wrap makes err terminal; nil stays nil.
func Wrap(err error) error {
	if err == nil {
		return nil
	}
	return &Error{Err: err}
}
