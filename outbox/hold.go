package outbox

import (
	"strconv"
	"time"
)

// hold is a key of which the broker has rejected an event. That event and those behind it leave the stream
// for the table outbox_stuck, from which they are tried again, until none is left.
//
//	rejected ─► waiting ─► (put) ids in the table ─► (due) sending ─► done
//	                            └ verdict on the first: try again later, or dead
type hold struct {
	name   string // the key; an event without one has a hold of its own
	bucket int16

	waiting []*item  // read from the stream, to be put into the table
	ids     []int64  // in the table, in order; the first is the one that was rejected
	sending int      // of those, in a lane
	done    []int64  // published; the table does not know yet
	verdict *verdict // on the first; the table does not know yet

	attempts int // of the first
	nextAt   time.Time
	blocked  bool // until an operator acts
	failures int  // of the broker, in a row
}

// verdict is what is to be recorded of a rejected event.
type verdict struct {
	id       int64
	attempts int
	delay    time.Duration
	err      string
	dead     bool
	event    Event // for the log
}

func holdName(key string, id int64) string {
	if key == "" {
		return "\x00" + strconv.FormatInt(id, 10) // no key has that byte: Postgres refuses it
	}
	return key
}

// judge says what follows from one more rejection.
func (r Retry) judge(it *item, attempts int, err error, jitter float64) *verdict {
	v := &verdict{id: it.event.Sequence, attempts: attempts, err: err.Error(), event: it.event}
	if attempts >= r.MaxAttempts {
		v.dead = true
	} else {
		v.delay = backoff(r.Initial, r.Max, attempts, jitter)
	}
	return v
}

// idle says that the table knows all that this process knows of the hold.
func (h *hold) idle() bool {
	return h.sending == 0 && h.verdict == nil && len(h.done) == 0 && len(h.waiting) == 0
}

// due says that the first of its events can be tried again.
func (h *hold) due(now time.Time) bool {
	return h.sending == 0 && h.verdict == nil && len(h.done) == 0 && len(h.ids) > 0 && !h.blocked && !now.Before(h.nextAt)
}

// batch is how many of its events are to be tried. After a failure the first decides: the bodies of the others would be read for nothing.
func (h *hold) batch() int {
	if h.attempts > 0 || h.failures > 0 {
		return min(len(h.ids), 1)
	}
	return min(len(h.ids), holdBatch)
}

// over says that nothing is left in the table.
func (h *hold) over() bool {
	return h.sending == 0 && h.verdict == nil && len(h.done) == 0 && len(h.ids) == 0
}
