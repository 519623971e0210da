package pgengine

import (
	"errors"
	"math"
	"math/rand/v2"
	"time"

	"github.com/pgsagaz/pgsagaz/sql/failpoint"
)

// Retry says how often, and how fast, a step is tried. The zero value of each field is its default.
type Retry struct {
	// MaxAttempts counts the first one too. 0: five for Do; without end for Undo, past a pivot, and for
	// an Activity that is one. 1: never again.
	MaxAttempts int
	Initial     time.Duration // before the second attempt; 0: 200 ms
	Max         time.Duration // no wait is longer; 0: 30 s
	Factor      float64       // from one wait to the next; 0: 2
	// If says whether an error may go away. nil: all but [Terminal] ones. An error that it refuses
	// counts as terminal: it says that the step has had no effect.
	If func(error) bool
}

// NoRetry tries once.
var NoRetry = Retry{MaxAttempts: 1}

const doAttempts = 5

// retryable says whether err may be tried again at all.
func (r Retry) retryable(err error) bool {
	if _, terminal := errors.AsType[*TerminalError](err); terminal {
		return false
	}
	if r.If == nil {
		return true
	}
	again := false // a predicate that panics has not said that it may go away
	_ = guarded(func() error { again = r.If(err); return nil })
	return again
}

// limit is how many attempts there are; 0: without end, which is the default if endless.
func (r Retry) limit(endless bool) int {
	if r.MaxAttempts == 0 && !endless {
		return doAttempts
	}
	return r.MaxAttempts
}

// exhausted says whether the attempt that just failed was the last one.
func (r Retry) exhausted(attempt int, endless bool) bool {
	limit := r.limit(endless)
	return limit > 0 && attempt >= limit || failpoint.Mutant("retry.none")
}

// delay is the wait after the given attempt (1, 2, ...): exponential, capped, and then spread evenly over
// its upper half, so that what failed together does not come back together.
func (r Retry) delay(attempt int) time.Duration {
	initial, limit, factor := r.Initial, r.Max, r.Factor
	if initial <= 0 {
		initial = 200 * time.Millisecond
	}
	if limit <= 0 {
		limit = max(30*time.Second, initial)
	}
	if factor < 1 {
		factor = 2
	}
	wait := math.Min(float64(initial)*math.Pow(factor, float64(attempt-1)), float64(limit))
	return time.Duration(wait/2 + rand.Float64()*wait/2)
}

// check reports what makes no sense, in words that follow the field's name.
func (r Retry) check() string {
	switch {
	case r.MaxAttempts < 0:
		return "MaxAttempts is negative"
	case r.Initial < 0 || r.Max < 0:
		return "a wait is negative"
	case r.Factor != 0 && r.Factor < 1, math.IsNaN(r.Factor):
		return "Factor is below 1"
	case r.Max > 0 && r.Initial > r.Max:
		return "Initial is longer than Max"
	}
	return ""
}
