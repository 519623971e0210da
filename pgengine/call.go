package pgengine

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/pgsagaz/pgsagaz/sql/failpoint"
)

// Call is what a step's function is told: which saga, which attempt, the input, and, through the steps'
// Result and Maybe, what came before.
type Call[I Input] struct {
	SagaID  string
	Step    string
	Attempt int // 1 for the first
	Input   I   // each call has its own copy

	c *call
}

// Key names the effect of this call, the same for every attempt: the idempotency key to give to the other
// side. Inside Undo it names the undo's own effect; [Call.DoKey] is that of what is undone.
func (c Call[I]) Key() string {
	if c.c == nil || c.c.direction == Do {
		return c.DoKey()
	}
	key := c.DoKey() + "/undo"
	if c.c.generation > 1 {
		key += "/" + strconv.Itoa(c.c.generation)
	}
	return key
}

// DoKey names the effect of this step's Do, inside Do, Lookup and Undo alike. That of a step which was taken over from
// another saga ([Engine.Restart]) keeps the name it was given there.
func (c Call[I]) DoKey() string {
	saga := c.SagaID
	if c.c != nil && c.c.origins[c.Step] != "" {
		saga = c.c.origins[c.Step]
	}
	if failpoint.Mutant("key.per-attempt") {
		saga += "/" + strconv.Itoa(c.Attempt)
	}
	return saga + "/" + c.Step
}

// InDoubt is true in an Undo whose Do may or may not have happened, with no way to learn which: there is
// no result, and the other side must be asked by [Call.DoKey].
func (c Call[I]) InDoubt() bool { return c.c != nil && c.c.inDoubt }

// Cause tells an Undo why its saga turned back. It is the zero value in a Do.
func (c Call[I]) Cause() Cause {
	if c.c == nil {
		return Cause{}
	}
	return c.c.cause
}

// Cause is why a saga turned back.
type Cause struct {
	Kind   CauseKind `json:"kind"`
	Step   string    `json:"step,omitempty"`   // the step that failed
	Error  string    `json:"error,omitempty"`  // and its last error; or why the saga could not begin
	Reason string    `json:"reason,omitempty"` // what a canceller said
	At     time.Time `json:"at,omitzero"`
	NoUndo bool      `json:"no_undo,omitempty"` // an operator has ended it without undoing, or has ended its undoing
}

// CauseKind says what turned a saga back.
type CauseKind string

// The causes there are.
const (
	CauseStep     CauseKind = "step"     // a step failed for good
	CauseCancel   CauseKind = "cancel"   // somebody cancelled it
	CauseDeadline CauseKind = "deadline" // the saga's Timeout passed
	CauseParent   CauseKind = "parent"   // the saga whose child it is turned back
	CauseLimit    CauseKind = "limit"    // the Key of the saga's Limit gave none, so that it could not begin
)

func (c Cause) String() string {
	s := c.because()
	if c.NoUndo {
		s += " (an operator ended it without undoing)"
	}
	return s
}

func (c Cause) because() string {
	switch c.Kind {
	case CauseStep:
		return fmt.Sprintf("step %s failed: %s", c.Step, c.Error)
	case CauseCancel:
		return "cancelled: " + c.Reason
	case CauseDeadline:
		return "the deadline passed"
	case CauseParent:
		return "its parent turned back: " + c.Reason
	case CauseLimit:
		return "it could not begin: " + c.Error
	}
	return ""
}

// call is a Call without its types.
type call struct {
	sagaID, step string
	direction    Direction
	generation   int
	attempt      int
	input        json.RawMessage
	results      map[string]json.RawMessage // of the steps that are done
	g            *graph                     // nil in a unit test
	inDoubt      bool
	cause        Cause
	maxBytes     int
	origins      map[string]string // of steps that were taken over: the saga they are of
}

// Result is what this step returned, in a call of a step that comes after it. It panics in any other
// call, and for a step that may have none (Optional, with a When or a Recover: use Maybe): both are mistakes in
// the definition that the first test shows, not conditions to handle.
func (s TxStep[I, R]) Result(c Call[I]) R {
	return resultOf[R](c.c, s.Name, s.Optional || s.When != nil || s.Recover != nil)
}

// Maybe is like Result, for a step that may have none: false if it failed or was skipped.
func (s TxStep[I, R]) Maybe(c Call[I]) (R, bool) { return maybeResultOf[R](c.c, s.Name) }

// Result is as [TxStep.Result].
func (s Activity[I, R]) Result(c Call[I]) R {
	return resultOf[R](c.c, s.Name, s.Optional || s.When != nil || s.Recover != nil)
}

// Maybe is as [TxStep.Maybe].
func (s Activity[I, R]) Maybe(c Call[I]) (R, bool) { return maybeResultOf[R](c.c, s.Name) }

// Result is the payload of the signal that came, as [TxStep.Result].
func (s Await[I, P]) Result(c Call[I]) P {
	return resultOf[P](c.c, s.Name, s.Optional || s.When != nil)
}

// Maybe is as [TxStep.Maybe].
func (s Await[I, P]) Maybe(c Call[I]) (P, bool) { return maybeResultOf[P](c.c, s.Name) }

// Result is the child's output, as [TxStep.Result].
func (s Child[I, C, R]) Result(c Call[I]) R {
	return resultOf[R](c.c, s.Name, s.Optional || s.When != nil)
}

// Maybe is as [TxStep.Maybe].
func (s Child[I, C, R]) Maybe(c Call[I]) (R, bool) { return maybeResultOf[R](c.c, s.Name) }

// Result is the children's outputs in the order of their items, as [TxStep.Result].
func (s Each[I, C, R]) Result(c Call[I]) []R { return resultOf[[]R](c.c, s.Name, s.When != nil) }

// Maybe is as [TxStep.Maybe].
func (s Each[I, C, R]) Maybe(c Call[I]) ([]R, bool) { return maybeResultOf[[]R](c.c, s.Name) }

func resultOf[R any](c *call, step string, mayLack bool) R {
	if mayLack {
		panic(Terminal(fmt.Errorf("pgsagaz: step %s asks for the Result of %s, which may have none (it is Optional, or has a When or a Recover): use Maybe", caller(c), step)))
	}
	r, ok := maybeResultOf[R](c, step)
	if !ok {
		panic(Terminal(fmt.Errorf("pgsagaz: step %s asks for the result of %s, which has none", caller(c), step)))
	}
	return r
}

func maybeResultOf[R any](c *call, step string) (R, bool) {
	var r R
	if c == nil {
		panic(Terminal(fmt.Errorf("pgsagaz: this Call knows no results; in a unit test make it with pgenginetest.Call and Given(%q, ...)", step)))
	}
	if c.g != nil && c.step != step && !c.g.isAncestor(step, c.step) {
		panic(Terminal(fmt.Errorf("pgsagaz: step %s asks for the result of %s, which does not come before it: add it to After", caller(c), step)))
	}
	raw, ok := c.results[step]
	if !ok {
		return r, false
	}
	if err := decode(raw, &r); err != nil {
		panic(Terminal(fmt.Errorf("pgsagaz: the stored result of %s does not fit %T: %w", step, r, err)))
	}
	return r, true
}

func caller(c *call) string {
	if c == nil {
		return "?"
	}
	return c.step
}
