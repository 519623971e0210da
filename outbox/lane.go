package outbox

import (
	"maps"
	"slices"
	"time"

	"github.com/pgsagaz/pgsagaz/sql/failpoint"
)

// lane is what one caller of Publish works through: the events of its buckets, in their order. At most one
// call is under way, so that nothing of a bucket overtakes.
//
// A part of the broker may fail while the rest works: a topic, a partition. The keys that do not get through then go on in a
// lane beside this one, with calls of their own, so that the others need not wait for what fails, or for what hangs. A key returns when
// nothing of it is left there.
type lane struct {
	queue    []*item
	inFlight []*item // of the call under way; nil: none is

	failures int       // calls in a row in which nothing got through
	retryAt  time.Time // after such
	keys     map[string]*keyFault
	idle     time.Time // until then nothing that is queued can go

	topics map[string]*keyFault // aside: of which nothing got through the last time

	aside *lane           // where keys go that do not get through while others do; nil: this is such a lane
	away  map[string]bool // the keys that are there
	of    *lane           // whose lane for those this is; nil: nobody's
}

func newLane() *lane {
	l := &lane{aside: &lane{keys: map[string]*keyFault{}, topics: map[string]*keyFault{}}, keys: map[string]*keyFault{}, away: map[string]bool{}}
	l.aside.of = l
	return l
}

// fails says that something does not get through, be it that nothing does, or what is aside.
func (l *lane) fails() bool {
	return l.failures > 0 || l.of != nil && (l.inFlight != nil || len(l.queue) > 0)
}

// put queues an event, where its key is.
func (l *lane) put(it *item) {
	if len(l.away) > 0 && l.away[faultName(it.event)] {
		l = l.aside
	}
	l.queue = append(l.queue, it)
	l.idle = time.Time{}
}

// faultName is what fails with an event: its key, or its topic if it has none.
func faultName(e Event) string {
	if e.Key == "" {
		return "\x00" + e.Topic // no key has that byte
	}
	return e.Key
}

// keyFault is a key, or a topic, that does not get through while others do.
type keyFault struct {
	failures int
	retryAt  time.Time
	partly   bool // a topic of which something got through elsewhere meanwhile
}

// part puts keys aside whose topic is away, before they are tried: were each new key to find out by itself, a topic that hangs would hold up
// all others. A key stays of which something is queued before. It is for when no call is under way.
func (l *lane) part() {
	down := func(it *item) bool {
		fault := l.aside.topics[it.event.Topic]
		return fault != nil && fault.failures > 1 && !fault.partly
	}
	if len(l.aside.topics) == 0 || !slices.ContainsFunc(l.queue, down) {
		return
	}
	stays := map[string]bool{}
	l.aside.queue = append(l.aside.queue, l.takeOut(func(it *item) bool {
		name := faultName(it.event)
		if !stays[name] && (l.away[name] || down(it)) {
			l.away[name] = true
			return true
		}
		stays[name] = true
		return false
	})...)
	l.aside.idle = time.Time{}
}

// pick takes the next call's events off the queue: the first ones, but for keys that have to wait. next is
// when it is worth asking again, if nothing can go now; zero: when there is something new.
//
// Of a topic of which nothing got through, it takes a few for a probe now and then: their bodies may have to be read again for it, and a topic may
// be away for hours.
func (l *lane) pick(now time.Time, most int) (batch []*item, next time.Time) {
	if l.inFlight != nil || len(l.queue) == 0 {
		return nil, time.Time{}
	}
	if now.Before(l.retryAt) {
		return nil, l.retryAt
	}
	if now.Before(l.idle) {
		return nil, l.idle
	}
	if l.aside != nil {
		l.part()
	}
	bytes := 0
	fits := func(it *item) bool {
		bytes += it.size()
		return len(batch) < most && (bytes <= batchBytes || len(batch) == 0)
	}
	if len(l.keys) == 0 && len(l.topics) == 0 {
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
	waits := func(fault *keyFault) bool {
		if fault == nil || !now.Before(fault.retryAt) {
			return false
		}
		if next.IsZero() || fault.retryAt.Before(next) {
			next = fault.retryAt
		}
		return true
	}
	probes := map[string]int{}  // bytes in the batch, of topics that may be away; below 0: that is enough of them
	passed := map[string]bool{} // keys of which an event stays here for its topic's sake: what follows it, to whatever topic, does too
	for i, it := range l.queue {
		name, topic := faultName(it.event), l.topics[it.event.Topic]
		if topic != nil {
			probe, begun := probes[it.event.Topic]
			if waits(topic) || begun && (probe < 0 || probe+it.size() > probeBytes) {
				probes[it.event.Topic] = -1
				passed[name] = true
				rest = append(rest, it)
				continue
			}
		}
		if passed[name] || waits(l.keys[name]) {
			rest = append(rest, it)
			continue
		}
		if topic != nil {
			probes[it.event.Topic] += it.size()
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
	l.idle = next
	return batch, next
}

// answered ends the call: failed are its events, in order, that have to be sent again, acked says whether any other got
// through, and others whether any of another lane has, of late.
func (l *lane) answered(now time.Time, failed []*item, acked, others bool, jitter float64) {
	again := map[string]*keyFault{}
	for _, it := range failed {
		again[faultName(it.event)] = l.keys[faultName(it.event)]
	}
	for _, it := range l.inFlight {
		delete(l.keys, faultName(it.event))
	}
	l.judge(now, failed, jitter)
	called := len(l.inFlight)
	l.inFlight, l.idle = nil, time.Time{}
	if len(failed) > 0 {
		l.queue = append(slices.Clone(failed), l.queue...)
		if failpoint.Mutant("outbox.retry-at-the-end") {
			l.queue = append(l.queue[len(failed):], failed...)
		}
	}
	if len(failed) > 0 && !acked {
		l.failures++
		l.retryAt = now.Add(backoff(brokerFirst, brokerMost, l.failures, jitter))
	} else {
		l.failures, l.retryAt = 0, now
	}
	aside := l
	if l.aside != nil && (acked || others) {
		aside = l.aside
	}
	for name, fault := range again {
		if fault == nil {
			fault = &keyFault{}
		}
		fault.failures++
		// Later than the lane itself: when all of a call has failed, it is others' turn.
		fault.retryAt = l.retryAt.Add(backoff(brokerFirst, brokerMost, fault.failures, jitter))
		aside.keys[name] = fault
	}
	if aside != l && len(again) > 0 {
		for name := range again {
			l.away[name] = true
		}
		aside.queue = append(aside.queue, l.takeOut(func(it *item) bool { return l.away[faultName(it.event)] })...)
		aside.idle = time.Time{}
	}
	if l.of != nil {
		// The next call is for others: behind many keys of a topic that is away there may be some that came here by mishap.
		failing := l.takeOut(func(it *item) bool { _, ok := again[faultName(it.event)]; return ok })
		l.queue = append(l.queue, failing...)
		if len(failed) < called {
			l.of.back()
		}
	}
}

// judge finds the topics of which nothing got through in a call. A call for what is aside may have been of such keys alone that
// fail, of a topic that works for others: those that are not aside tell.
func (l *lane) judge(now time.Time, failed []*item, jitter float64) {
	left := map[string]int{}
	for _, it := range l.inFlight {
		if it.hold == nil { // those are tried at times of their own
			left[it.event.Topic]++
		}
	}
	for _, it := range failed {
		left[it.event.Topic]--
	}
	for topic, well := range left {
		if l.of == nil {
			if fault := l.aside.topics[topic]; fault != nil {
				fault.partly = well > 0
			}
			continue
		}
		if well > 0 {
			delete(l.topics, topic)
			continue
		}
		fault := l.topics[topic]
		if fault == nil {
			fault = &keyFault{}
			l.topics[topic] = fault
		}
		fault.failures++
		fault.retryAt = now.Add(backoff(brokerFirst, brokerMost, fault.failures, jitter))
	}
}

// back lets keys return of which nothing is left aside.
func (l *lane) back() {
	left := map[string]bool{}
	for _, list := range [][]*item{l.aside.inFlight, l.aside.queue} {
		for _, it := range list {
			left[faultName(it.event)] = true
		}
	}
	maps.DeleteFunc(l.away, func(name string, _ bool) bool { return !left[name] })
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
