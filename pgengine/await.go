package pgengine

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"time"
)

// Signal is something that a saga is told from outside. SignalName ties the type to one name, as
// [Input] does for a saga. Signals are stored as JSON. Use a struct, by value.
type Signal interface{ SignalName() string }

// Await waits for a signal: its payload is the step's result. It holds no worker meanwhile. A signal that
// comes before its step has begun is kept for it; of several, the first counts, and the next is kept for a
// later step that awaits the same name.
type Await[I Input, P Signal] struct {
	Name     string
	After    []Step[I]
	Timeout  time.Duration // of the wait, by the database's clock; 0: none
	Queue    string
	Priority int
	Optional bool
	When     func(c Call[I]) bool
	// OnTimeout gives the payload to go on with when Timeout has passed and no signal has come. nil, or an
	// error: the step has failed. A signal that comes while it runs wins.
	OnTimeout func(ctx context.Context, c Call[I]) (P, error)
}

// Sleep waits for a time. It holds no worker meanwhile, and outlives restarts.
type Sleep[I Input] struct {
	Name     string
	After    []Step[I]
	Queue    string
	Priority int
	When     func(c Call[I]) bool
	// For is how long, by the database's clock, from when the step begins. Until says until when, instead: a
	// time that has passed is no wait.
	For   time.Duration
	Until func(ctx context.Context, c Call[I]) (time.Time, error)
}

func (Await[I, P]) input() (in I) { return in }
func (Sleep[I]) input() (in I)    { return in }

func (s Await[I, P]) node() node {
	n := node{
		kind: kindAwait, name: s.Name, limit: s.Timeout, timeout: defaultActivityTimeout, queue: s.Queue, priority: s.Priority, optional: s.Optional,
		result: reflect.TypeFor[P](), funcs: given(s.When, s.OnTimeout),
		fits: func(raw json.RawMessage) error { return decode(raw, new(P)) },
	}
	comesAfter(&n, s.After)
	n.when = whenOf(s.When)
	var zero P
	name, err := signalName(zero)
	if err != nil {
		n.wrong(err.Error())
	}
	n.signal = name
	if s.Timeout < 0 {
		n.wrong("its Timeout is negative")
	}
	if s.OnTimeout != nil && s.Timeout == 0 {
		n.wrong("has an OnTimeout without a Timeout")
	}
	n.onTimeout = func(ctx context.Context, c *call) (json.RawMessage, error) {
		if s.OnTimeout == nil {
			return nil, Terminal(fmt.Errorf("no signal %s came within %v", name, s.Timeout))
		}
		typed, err := typedCall[I](c)
		if err != nil {
			return nil, err
		}
		p, err := s.OnTimeout(ctx, typed)
		return encodeResult(c, p, err)
	}
	return n
}

// signalName asks a payload type for its signal's name.
func signalName(zero Signal) (name string, err error) {
	t := reflect.TypeOf(zero)
	if t == nil || t.Kind() != reflect.Struct {
		return "", fmt.Errorf("the payload must be a struct type with a SignalName method, used by value; it is %v", t)
	}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("SignalName of the zero %s panics: %v", t, p)
		}
	}()
	if name = zero.SignalName(); !stepNameRule.MatchString(name) {
		return "", fmt.Errorf("the signal name %q of %s must match %s", name, t, stepNameRule)
	}
	return name, nil
}

func (s Sleep[I]) node() node {
	n := node{
		kind: kindSleep, name: s.Name, limit: s.For, timeout: defaultActivityTimeout, queue: s.Queue, priority: s.Priority,
		result: reflect.TypeFor[struct{}](), funcs: given(s.When, s.Until),
	}
	comesAfter(&n, s.After)
	n.when = whenOf(s.When)
	if (s.For > 0) == (s.Until != nil) || s.For < 0 {
		n.wrong("needs a For above 0 or an Until, and not both")
	}
	if s.Until != nil {
		n.until = func(ctx context.Context, c *call) (time.Time, error) {
			typed, err := typedCall[I](c)
			if err != nil {
				return time.Time{}, err
			}
			at, err := s.Until(ctx, typed)
			switch year := at.UTC().Year(); {
			case err != nil:
			case year < 1:
				at = time.Unix(0, 0) // has passed
			case year > 9999:
				err = Terminal(fmt.Errorf("its Until gave a time in the year %d", year))
			}
			return at, err
		}
	}
	return n
}
