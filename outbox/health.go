package outbox

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// health is what others may ask about a relay that runs.
type health struct {
	beatAt   atomic.Int64 // when the database last heard that it lives, in Unix nanoseconds; 0: it has no session
	stopping atomic.Bool
	broker   atomic.Pointer[fault]
}

// fault is a broker that does not take events.
type fault struct {
	err   error
	since time.Time
}

// answered takes in whether the broker was there.
func (h *health) answered(err error) {
	switch before := h.broker.Load(); {
	case err == nil:
		h.broker.Store(nil)
	case before == nil:
		h.broker.Store(&fault{err, time.Now()})
	default:
		h.broker.Store(&fault{err, before.since})
	}
}

// Ready says why this relay should not be counted on, if so: it does not run yet, it is stopping, or it could not show that it
// lives for as long as its lease, so that others publish what was its to publish. It asks nobody, and may be called at any time.
func (r *Relay) Ready() error {
	beat := r.health.beatAt.Load()
	switch {
	case r.health.stopping.Load():
		return errors.New("the relay is stopping")
	case beat == 0:
		return errors.New("the relay has no session")
	}
	if silent := time.Since(time.Unix(0, beat)); silent > r.cfg.Lease {
		return fmt.Errorf("the relay could not show for %v that it lives; its lease is %v", silent.Round(time.Millisecond), r.cfg.Lease)
	}
	return nil
}

// BrokerReady says why the broker does not take this relay's events, if it did not take the latest. Nothing is sent to find
// out: a broker of which nothing has been asked yet is taken to be there.
func (r *Relay) BrokerReady() error {
	if f := r.health.broker.Load(); f != nil {
		return fmt.Errorf("the broker has not taken events for %v: %w", time.Since(f.since).Round(time.Millisecond), f.err)
	}
	return nil
}
