package pgengine

import (
	"fmt"
	"time"
)

// Strategy is what becomes of steps that are under way in other branches when a saga turns back. Nothing is
// begun, and nothing is undone before each of them has ended, or its worker is known to be dead.
//
// Whatever the strategy: what an Activity comes back with is recorded and undone, what it leaves unknown
// is undone as in doubt, and a TxStep that comes to its commit is rolled back, which undoes it for
// nothing. Steps that wait (for their next attempt, a signal, a time) end at once, and children are
// asked to turn back.
type Strategy struct {
	halts bool
	grace time.Duration
}

var (
	// WaitAll lets them end by themselves. It is the default.
	WaitAll = Strategy{}
	// FailFast cancels their contexts at once, wherever they run.
	FailFast = Strategy{halts: true}
)

// FailFastGrace cancels their contexts when d has passed since the saga turned back, by the database's
// clock.
func FailFastGrace(d time.Duration) Strategy { return Strategy{halts: true, grace: d} }

func (s Strategy) String() string {
	switch {
	case !s.halts:
		return "wait all"
	case s.grace == 0:
		return "fail fast"
	}
	return fmt.Sprintf("fail fast after %v", s.grace)
}

// UndoFailure is what happens to a saga when an undo has failed for good: its UndoRetry is used up, or it
// returned a [Terminal] error.
type UndoFailure string

const (
	// UndoStuck: the saga undoes what does not wait for this undo, and is then stuck until somebody acts.
	UndoStuck UndoFailure = ""
	// UndoContinue: the failure is recorded, and the saga goes on as if the step were undone.
	UndoContinue UndoFailure = "continue"
	// UndoSkip: the failure is recorded, and nothing that this step came after, directly or not, is undone
	// either: it still stands on it. The saga undoes the rest.
	UndoSkip UndoFailure = "skip"
)

// Recovery is what a Recover has decided.
type Recovery[R any] struct {
	Action RecoveryAction
	Result R             // of RecoverWith
	After  time.Duration // of RecoverRetry: when to try again; 0: by the step's Retry
	Reason string        // kept, for whoever reads the saga's history
}

// RecoveryAction is how a saga goes forward from a step that has failed for good.
type RecoveryAction int

const (
	HandOver     RecoveryAction = iota // an operator decides: the saga is stuck
	RecoverRetry                       // try again, with all attempts
	RecoverWith                        // the step counts as done, with Result: an alternative was taken
	RecoverSkip                        // go on without it
)

// recovery is a Recovery without its types.
type recovery struct {
	action RecoveryAction
	result []byte
	after  time.Duration
	reason string
}

func recovered[I Input, R any](c *call, f func(Call[I]) (Recovery[R], error)) (recovery, error) {
	typed, err := typedCall[I](c)
	if err != nil {
		return recovery{}, err
	}
	r, err := f(typed)
	if err != nil {
		return recovery{}, err
	}
	if r.Action < HandOver || r.Action > RecoverSkip {
		return recovery{}, fmt.Errorf("its Recover returned the unknown action %d", r.Action)
	}
	out := recovery{action: r.Action, after: r.After, reason: storable(r.Reason)}
	if r.Action == RecoverWith {
		out.result, err = encodeResult(c, r.Result, nil)
	}
	return out, err
}
