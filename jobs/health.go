package jobs

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// health is what others may ask about a worker that runs.
type health struct {
	beatAt   atomic.Int64 // when the database last heard that it lives, in Unix nanoseconds; 0: never yet
	stopping atomic.Bool
}

func (h *health) beat() { h.beatAt.Store(time.Now().UnixNano()) }

// errStopping: it takes nothing new.
var errStopping = errors.New("the worker is stopping")

// Ready says why this worker should not be counted on, if so: it does not run yet, it is stopping, or it could not show that it
// lives for as long as its lease, so that others take over what it holds. It asks nobody, and may be called at any time.
func (w *Worker) Ready() error {
	beat := w.health.beatAt.Load()
	switch {
	case w.health.stopping.Load():
		return errStopping
	case beat == 0:
		return errors.New("the worker has not signed on yet")
	}
	if silent := time.Since(time.Unix(0, beat)); silent > w.cfg.Lease {
		return fmt.Errorf("the worker could not show for %v that it lives; its lease is %v", silent.Round(time.Millisecond), w.cfg.Lease)
	}
	return nil
}
