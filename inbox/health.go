package inbox

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// health is what others may ask about a consumer that runs.
type health struct {
	running atomic.Bool
	source  atomic.Pointer[fault]
}

// fault is a source that can't be fetched from.
type fault struct {
	err   error
	since time.Time
}

// fetched takes in whether the source was there.
func (h *health) fetched(err error) {
	switch before := h.source.Load(); {
	case err == nil:
		h.source.Store(nil)
	case before == nil:
		h.source.Store(&fault{err, time.Now()})
	default:
		h.source.Store(&fault{err, before.since})
	}
}

// Ready says why this consumer should not be counted on, if so: it does not run, as before it has found the database or when it
// stops, or it can't fetch. It asks nobody, and may be called at any time.
func (c *Consumer) Ready() error {
	if !c.health.running.Load() {
		return errors.New("the consumer does not run")
	}
	if f := c.health.source.Load(); f != nil {
		return fmt.Errorf("the consumer could not fetch for %v: %w", time.Since(f.since).Round(time.Millisecond), f.err)
	}
	return nil
}
