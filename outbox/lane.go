package outbox

import (
	"slices"
	"time"
)

// lane is what one caller of Publish works through: the events of its buckets, in their order. At most one
// call is under way, so that nothing of a bucket overtakes.
type lane struct {
	queue    []*item
	inFlight []*item // of the call under way; nil: none is

	failures int       // calls in a row in which nothing got through
	retryAt  time.Time // after such
	keys     map[string]*keyFault
}

// keyFault is a key that does not get through while others do.
type keyFault struct {
	failures int
	retryAt  time.Time
}

// pick takes the next call's events off the queue: the first ones, but for keys that have to wait. next is
// when it is worth asking again, if nothing can go now; zero: when there is something new.
func (l *lane) pick(now time.Time, most int) (batch []*item, next time.Time) {
	if l.inFlight != nil || len(l.queue) == 0 {
		return nil, time.Time{}
	}
	if now.Before(l.retryAt) {
		return nil, l.retryAt
	}
	bytes := 0
	fits := func(it *item) bool {
		bytes += len(it.event.Payload)
		return len(batch) < most && (bytes <= batchBytes || len(batch) == 0)
	}
	if len(l.keys) == 0 {
		n := 0
		for n < len(l.queue) && fits(l.queue[n]) {
			n++
			batch = l.queue[:n:n]
		}
		l.queue = l.queue[n:]
		l.inFlight = batch
		return batch, time.Time{}
	}
	var rest []*item
	for i, it := range l.queue {
		fault := l.keys[it.event.Key]
		if fault != nil && now.Before(fault.retryAt) {
			if next.IsZero() || fault.retryAt.Before(next) {
				next = fault.retryAt
			}
			rest = append(rest, it)
			continue
		}
		if !fits(it) {
			rest = append(rest, l.queue[i:]...)
			break
		}
		batch = append(batch, it)
	}
	l.queue = rest
	if len(batch) > 0 {
		l.inFlight, next = batch, time.Time{}
	}
	return batch, next
}

// answered ends the call: failed are its events, in order, that have to be sent again, and acked says
// whether any other got through.
func (l *lane) answered(now time.Time, failed []*item, acked bool, jitter float64) {
	again := map[string]*keyFault{}
	for _, it := range failed {
		again[it.event.Key] = l.keys[it.event.Key]
	}
	for _, it := range l.inFlight {
		delete(l.keys, it.event.Key)
	}
	l.inFlight = nil
	if len(failed) > 0 {
		l.queue = append(slices.Clone(failed), l.queue...)
	}
	if len(failed) > 0 && !acked {
		l.failures++
		l.retryAt = now.Add(backoff(brokerFirst, brokerMost, l.failures, jitter))
		return
	}
	l.failures, l.retryAt = 0, time.Time{}
	for key, fault := range again {
		if fault == nil {
			fault = &keyFault{}
		}
		fault.failures++
		fault.retryAt = now.Add(backoff(brokerFirst, brokerMost, fault.failures, jitter))
		if l.keys == nil {
			l.keys = map[string]*keyFault{}
		}
		l.keys[key] = fault
	}
}

// takeOut removes what is queued of a key, in order.
func (l *lane) takeOut(of func(*item) bool) (taken []*item) {
	l.queue = slices.DeleteFunc(slices.Clone(l.queue), func(it *item) bool {
		if of(it) {
			taken = append(taken, it)
			return true
		}
		return false
	})
	return taken
}
