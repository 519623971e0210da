package outbox

import (
	"context"
	"time"
)

// shelve makes room for more reading by forgetting the bodies of events that wait for a part of the broker. It does so
// once for each time that the rest of it is seen to work: in an outage of all of it there is nothing to read on for.
func (l *loop) shelve(now time.Time) {
	if !l.ackedAt.After(l.shelvedAt) {
		return
	}
	for _, x := range l.lanes {
		for _, it := range x.aside.queue {
			if it.hold != nil || it.shelved || l.shelved >= shelf {
				continue
			}
			l.outstanding--
			l.bytes -= len(it.event.Payload)
			l.shelved++
			it.shelved, l.shelvedAt = true, now
			it.strip()
		}
	}
}

// strip leaves of an event what is needed to wait in line.
func (it *item) strip() {
	e := it.event
	it.event = Event{Sequence: e.Sequence, ID: e.ID, Topic: e.Topic, Key: e.Key}
}

// fetching reads the bodies of a batch again, and sends it.
func (l *loop) fetching() op {
	x := l.bare[0]
	l.bare = l.bare[1:]
	batch := x.inFlight
	var ids []int64
	for _, it := range batch {
		if it.shelved {
			ids = append(ids, it.event.Sequence)
		}
	}
	return func(ctx context.Context, s *session) (func(), error) {
		events, err := s.again(ctx, ids)
		return func() {
			for _, it := range batch {
				if it.shelved {
					it.event = events[it.event.Sequence]
				}
			}
			l.call(x, batch)
		}, err
	}
}
