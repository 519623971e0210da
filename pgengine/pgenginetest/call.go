package pgenginetest

import (
	"github.com/pgsagaz/pgsagaz/pgengine"
)

// SagaID is the id of the saga that every [Call] is of.
const SagaID = "00000000-0000-7000-8000-000000000001"

// Option says something of a [Call] that is not the default.
type Option func(*pgengine.TestCall)

// Given is what an earlier step returned: the step's Result and Maybe find it. Steps without a Given have
// no result, as an Optional one that failed.
func Given(step string, result any) Option {
	return func(t *pgengine.TestCall) { t.Results[step] = result }
}

// At names the step that is called, which shows in its keys. The default is "step".
func At(step string) Option { return func(t *pgengine.TestCall) { t.Step = step } }

// Attempt is the number of the attempt. The default is 1.
func Attempt(n int) Option { return func(t *pgengine.TestCall) { t.Attempt = n } }

// Undo makes it the call of an Undo, whose Key is the undo's own.
func Undo() Option { return func(t *pgengine.TestCall) { t.Direction = pgengine.Undo } }

// Generation makes it the call of an Undo of a later generation: above 1, a result arrived after an undo,
// and is undone again, with a key of its own.
func Generation(generation int) Option {
	return func(t *pgengine.TestCall) { t.Direction, t.Generation = pgengine.Undo, generation }
}

// InDoubt makes it the call of an Undo that does not know whether its Do happened.
func InDoubt() Option {
	return func(t *pgengine.TestCall) { t.Direction, t.InDoubt = pgengine.Undo, true }
}

// Cause makes it the call of an Undo, and says why the saga turned back.
func Cause(c pgengine.Cause) Option {
	return func(t *pgengine.TestCall) { t.Direction, t.Cause = pgengine.Undo, c }
}

// Call makes the call that a step's Do, Commit, Lookup, Undo or UndoCommit is given: a first attempt of Do
// unless the options say otherwise. As in production, input and results go through JSON. It panics if
// they can't, as the saga could not run either.
func Call[I pgengine.Input](input I, options ...Option) pgengine.Call[I] {
	t := pgengine.TestCall{SagaID: SagaID, Step: "step", Results: map[string]any{}}
	for _, o := range options {
		o(&t)
	}
	c, err := pgengine.NewTestCall(input, t)
	if err != nil {
		panic("pgenginetest: Call: " + err.Error())
	}
	return c
}
