package pgengine

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"time"

	"github.com/jackc/pgx/v5"
)

// Step is a [TxStep], an [Activity], an [Await], a [Sleep], a [Child] or an [Each]. Steps are plain values: a
// step is named in After by itself, and a unit test calls its Do.
type Step[I Input] interface {
	node() node
	input() I // ties the step to its input, so that Steps infers it and a foreign step does not compile
}

// TxStep works in Postgres. Its Do runs in the transaction that also records its result and schedules
// what follows: however often it is tried, whoever crashes, one try commits. Keep it short, as it holds
// a connection and its rows' locks, and never call the outside from it: that is what [Activity] is for.
// A transaction that sends nothing for longer than the worker's lease (5 s) is ended by Postgres, so that
// a process that hangs does not keep its locks.
type TxStep[I Input, R any] struct {
	Name  string
	After []Step[I] // it begins when all of these have ended; none: when the saga starts
	Retry Retry
	// UndoRetry is for Undo. When its MaxAttempts are used up, or Undo returns a [Terminal] error, the
	// saga is stuck until somebody acts. The default tries without end.
	UndoRetry Retry
	// OnUndoFailure is what happens instead, if not that.
	OnUndoFailure UndoFailure
	Timeout       time.Duration // of one attempt of Do or Undo; 0: 30 s; below 0: none
	Queue         string        // the workers' queue it runs in; "": the default one
	Priority      int           // in its queue: 1, which goes first, to 4; 0: that of the saga. See [Saga]
	Optional      bool          // its failure is recorded and undoes nothing; use [TxStep.Maybe] for its result
	ManualUndo    bool          // as in [Activity]
	Pivot         bool          // from here forward only; see [Saga]
	Limit         Limit[I]      // how many may run at once, and how often they may begin; see there

	// When says whether the step is done at all. nil: it is. It decides by the input and by what came before,
	// and does nothing; use [TxStep.Maybe] for the result of such a step.
	When func(c Call[I]) bool
	Do   func(ctx context.Context, tx pgx.Tx, c Call[I]) (R, error)
	Undo func(ctx context.Context, tx pgx.Tx, c Call[I], r R) error // nil: there is nothing to undo
	// Recover says what to do when the step has failed for good past the pivot, where nothing is undone. It
	// runs in the transaction that records what it decides. nil: an operator is asked.
	Recover func(ctx context.Context, tx pgx.Tx, c Call[I], cause error) (Recovery[R], error)
}

// Activity talks to the world outside Postgres, and holds no connection meanwhile. Do and Undo are called
// at least once, always with the same key ([Call.Key]): give it to the other side, which must act once a
// key. Commit and UndoCommit run in the transaction that records the outcome, exactly once.
//
// An error of Do other than a [Terminal] one, a timeout and a crash leave its outcome unknown. If the saga
// turns back then, Lookup is asked whether it happened; without Lookup, Do is repeated once more with
// the same key to learn its result. If that fails too, Undo runs with [Call.InDoubt] true and a zero result,
// and must work by [Call.DoKey].
type Activity[I Input, R any] struct {
	Name          string
	After         []Step[I]
	Retry         Retry
	UndoRetry     Retry
	OnUndoFailure UndoFailure
	Timeout       time.Duration // of one attempt of Do, Lookup or Undo; 0: 1 min; below 0: none
	Queue         string
	Priority      int
	Optional      bool
	// Pivot: from here forward only. One whose outcome is unknown is looked up, or repeated with its key until
	// it is known; nothing is undone before that, and a cancel waits for it.
	Pivot bool
	// ManualUndo: an operator undoes it by hand, and confirms that with [Engine.Resolve]. Not with an Undo.
	ManualUndo bool
	Limit      Limit[I] // how many calls may run at once, and how often they may begin; see there

	When   func(c Call[I]) bool // as in [TxStep]
	Do     func(ctx context.Context, c Call[I]) (R, error)
	Commit func(ctx context.Context, tx pgx.Tx, c Call[I], r R) error // local rows and messages that go with the result
	// Lookup asks the other side whether the effect with this key happened. Not found is recorded, and
	// nothing is undone.
	Lookup     func(ctx context.Context, c Call[I]) (r R, found bool, err error)
	Undo       func(ctx context.Context, c Call[I], r R) error
	UndoCommit func(ctx context.Context, tx pgx.Tx, c Call[I], r R) error
	// Recover is as in [TxStep], outside any transaction.
	Recover func(ctx context.Context, c Call[I], cause error) (Recovery[R], error)
}

const (
	defaultTxTimeout       = 30 * time.Second
	defaultActivityTimeout = time.Minute
)

func attemptLimit(set, byDefault time.Duration) time.Duration {
	switch {
	case set == 0:
		return byDefault
	case set < 0:
		return 0
	}
	return set
}

func (TxStep[I, R]) input() (in I)   { return in }
func (Activity[I, R]) input() (in I) { return in }

func (s TxStep[I, R]) node() node {
	n := node{
		kind: kindTx, name: s.Name, retry: s.Retry, undoRetry: s.UndoRetry, undoFailure: s.OnUndoFailure, manualUndo: s.ManualUndo,
		timeout: attemptLimit(s.Timeout, defaultTxTimeout), queue: s.Queue, priority: s.Priority, optional: s.Optional, pivot: s.Pivot,
		result: reflect.TypeFor[R](),
		funcs:  given(s.When, s.Do, s.Undo, s.Recover, s.Retry.If, s.UndoRetry.If),
	}
	n.limited(s.Limit.gates())
	comesAfter(&n, s.After)
	n.when = whenOf(s.When)
	if s.Do == nil {
		n.wrong("has no Do")
	}
	n.doTx = func(ctx context.Context, tx pgx.Tx, c *call) (json.RawMessage, error) {
		typed, err := typedCall[I](c)
		if err != nil {
			return nil, err
		}
		r, err := s.Do(ctx, tx, typed)
		return encodeResult(c, r, err)
	}
	n.checkManual(s.Undo != nil)
	if s.Undo != nil {
		n.undoTx = func(ctx context.Context, tx pgx.Tx, c *call, raw json.RawMessage) error {
			return withResult(c, raw, func(c Call[I], r R) error { return s.Undo(ctx, tx, c, r) })
		}
	}
	if s.Recover != nil {
		n.rescue = func(ctx context.Context, tx pgx.Tx, c *call, cause error) (recovery, error) {
			return recovered(c, func(c Call[I]) (Recovery[R], error) { return s.Recover(ctx, tx, c, cause) })
		}
	}
	return n
}

func (s Activity[I, R]) node() node {
	n := node{
		kind: kindActivity, name: s.Name, retry: s.Retry, undoRetry: s.UndoRetry, undoFailure: s.OnUndoFailure, manualUndo: s.ManualUndo,
		timeout: attemptLimit(s.Timeout, defaultActivityTimeout), queue: s.Queue, priority: s.Priority, optional: s.Optional, pivot: s.Pivot,
		result: reflect.TypeFor[R](),
		funcs:  given(s.When, s.Do, s.Commit, s.Lookup, s.Undo, s.UndoCommit, s.Recover, s.Retry.If, s.UndoRetry.If),
	}
	n.limited(s.Limit.gates())
	comesAfter(&n, s.After)
	n.when = whenOf(s.When)
	if s.Do == nil {
		n.wrong("has no Do")
	}
	n.checkManual(s.Undo != nil)
	if s.Undo == nil && s.UndoCommit != nil {
		n.wrong("has an UndoCommit without an Undo")
	}
	if s.Undo == nil && s.Lookup != nil && !s.Pivot && !s.ManualUndo {
		n.wrong("has a Lookup without an Undo: what is found could not be undone")
	}
	n.do = func(ctx context.Context, c *call) (json.RawMessage, error) {
		typed, err := typedCall[I](c)
		if err != nil {
			return nil, err
		}
		r, err := s.Do(ctx, typed)
		return encodeResult(c, r, err)
	}
	if s.Commit != nil {
		n.commit = func(ctx context.Context, tx pgx.Tx, c *call, raw json.RawMessage) error {
			return withResult(c, raw, func(c Call[I], r R) error { return s.Commit(ctx, tx, c, r) })
		}
	}
	if s.Lookup != nil {
		n.lookup = func(ctx context.Context, c *call) (json.RawMessage, bool, error) {
			typed, err := typedCall[I](c)
			if err != nil {
				return nil, false, err
			}
			r, found, err := s.Lookup(ctx, typed)
			if err != nil || !found {
				return nil, false, err
			}
			raw, err := encodeResult(c, r, nil)
			return raw, true, err
		}
	}
	if s.Undo != nil {
		n.undo = func(ctx context.Context, c *call, raw json.RawMessage) error {
			return withResult(c, raw, func(c Call[I], r R) error { return s.Undo(ctx, c, r) })
		}
	}
	if s.UndoCommit != nil {
		n.undoCommit = func(ctx context.Context, tx pgx.Tx, c *call, raw json.RawMessage) error {
			return withResult(c, raw, func(c Call[I], r R) error { return s.UndoCommit(ctx, tx, c, r) })
		}
	}
	if s.Recover != nil {
		n.rescue = func(ctx context.Context, _ pgx.Tx, c *call, cause error) (recovery, error) {
			return recovered(c, func(c Call[I]) (Recovery[R], error) { return s.Recover(ctx, c, cause) })
		}
	}
	return n
}

// given says which functions are set. Functions can't be compared in Go, so that a copy of a step which
// differs only in what a function does passes for the same; the listed one is what runs.
func given(fs ...any) []bool {
	set := make([]bool, len(fs))
	for i, f := range fs {
		set[i] = !reflect.ValueOf(f).IsNil()
	}
	return set
}

// typedCall gives each call an input of its own, so that no step can change what another sees.
func typedCall[I Input](c *call) (Call[I], error) {
	typed := Call[I]{SagaID: c.sagaID, Step: c.step, Attempt: c.attempt, c: c}
	if err := decode(c.input, &typed.Input); err != nil {
		return typed, Terminal(fmt.Errorf("the stored input does not fit %T: %w", typed.Input, err))
	}
	return typed, nil
}

func encodeResult(c *call, r any, err error) (json.RawMessage, error) {
	if err != nil {
		return nil, err
	}
	raw, err := json.Marshal(r)
	if err != nil {
		return nil, &resultError{fmt.Errorf("result of type %T does not marshal: %w", r, err)}
	}
	if c.maxBytes > 0 && len(raw) > c.maxBytes {
		return nil, &resultError{fmt.Errorf("%w: result of %d bytes, the limit is %d", ErrTooLarge, len(raw), c.maxBytes)}
	}
	return raw, nil
}

func withResult[I Input, R any](c *call, raw json.RawMessage, f func(Call[I], R) error) error {
	typed, err := typedCall[I](c)
	if err != nil {
		return err
	}
	var r R
	if raw != nil {
		if err := decode(raw, &r); err != nil {
			return Terminal(fmt.Errorf("the stored result of %s does not fit %T: %w", c.step, r, err))
		}
	}
	return f(typed, r)
}

// resultError says that Do went well and that what it returned cannot be kept. Trying again would not
// help, but there is an effect: the step is in doubt, not merely failed.
type resultError struct{ err error }

func (e *resultError) Error() string { return e.err.Error() }
func (e *resultError) Unwrap() error { return e.err }
