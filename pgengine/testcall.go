package pgengine

import (
	"encoding/json"
	"fmt"
)

// TestCall is what the engine would know of a call, for a unit test that calls a step's function itself.
// The zero value is a first attempt of Do with no steps before it. Package pgenginetest makes these in
// fewer words.
type TestCall struct {
	SagaID, Step string
	Attempt      int // 0: 1
	Direction    Direction
	Generation   int            // 0: 1
	Results      map[string]any // what the steps before it returned, by their names
	InDoubt      bool
	Cause        Cause
}

// NewTestCall makes the Call that the engine would make: input and results go through JSON, so that the
// function under test sees what it would see in production. It fails if one of them does not marshal, or
// the input does not fit its own type again.
func NewTestCall[I Input](input I, t TestCall) (Call[I], error) {
	c := &call{
		sagaID: t.SagaID, step: t.Step, attempt: max(t.Attempt, 1), direction: t.Direction, generation: max(t.Generation, 1),
		inDoubt: t.InDoubt, cause: t.Cause, results: map[string]json.RawMessage{},
	}
	if c.direction == "" {
		c.direction = Do
	}
	var err error
	if c.input, err = json.Marshal(input); err != nil {
		return Call[I]{}, fmt.Errorf("the input does not marshal: %w", err)
	}
	for step, r := range t.Results {
		if c.results[step], err = json.Marshal(r); err != nil {
			return Call[I]{}, fmt.Errorf("the result of %s does not marshal: %w", step, err)
		}
	}
	return typedCall[I](c)
}
