package pgengine

import (
	"context"
	"errors"
	"sync"
	"time"
)

// errHalted is why the context of a step ended whose saga turns back under [FailFast].
var errHalted = errors.New("the saga turns back, and does not wait for this step")

// halt is how others in this process stop what a lane is doing.
type halt struct {
	lane     int64
	sagaID   string
	strategy Strategy

	mu     sync.Mutex
	cancel context.CancelCauseFunc // of the forward call that is under way; nil: none
	timer  *time.Timer             // of the grace
	halted bool
}

// call gives the context of a forward call, which ends when the lane is halted. done must be called.
func (h *halt) call(ctx context.Context) (inner context.Context, done func()) {
	inner, cancel := context.WithCancelCause(ctx)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.cancel = cancel
	if h.halted {
		cancel(errHalted)
	}
	return inner, func() {
		h.mu.Lock()
		h.cancel = nil
		h.mu.Unlock()
		cancel(nil)
	}
}

// stop ends the call that is under way in d, and every one that would follow.
func (h *halt) stop(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.halted:
	case d > 0 && h.timer == nil:
		h.timer = time.AfterFunc(d, func() { h.stop(0) })
	case d <= 0:
		h.halted = true
		if h.cancel != nil {
			h.cancel(errHalted)
		}
	}
}

func (h *halt) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.timer != nil {
		h.timer.Stop()
	}
}

func (e *Engine) hold(l *lane) {
	l.halt = &halt{lane: l.id, sagaID: l.sagaID, strategy: l.g.strategy}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.held[l.token] = l.halt
}

func (e *Engine) letGo(l *lane) {
	l.halt.end()
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.held, l.token)
}

// Holds says whether this process drives lane with token. For the worker that looks for strays.
func (e *Engine) Holds(lane, token int64) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	h, ok := e.held[token]
	return ok && h.lane == lane
}

// Halt tells this process that a saga began to turn back, so long ago: what its strategy does not wait for is
// stopped. A worker calls it when it hears of that, and again with every look at what it drives: a
// message that was lost is made good.
func (e *Engine) Halt(sagaID string, since time.Duration) {
	e.mu.Lock()
	var lanes []*halt
	for _, h := range e.held {
		if h.sagaID == sagaID && h.strategy.halts {
			lanes = append(lanes, h)
		}
	}
	e.mu.Unlock()
	for _, h := range lanes {
		h.stop(h.strategy.grace - since)
	}
}

// halted tells everybody, once its commit is through, that a saga turns back which does not wait for
// its steps.
func (e *Engine) halted(s *settlement) {
	if s.state != Failing || !s.g.strategy.halts {
		return
	}
	e.Halt(s.sagaID, 0)
	e.wake("halt:" + s.sagaID) // others than this process; if it is lost, by their next look
}
